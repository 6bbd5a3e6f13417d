//! Client ports that are closed while none of their services is ready (`unready: refuse`), and opened again
//! unchanged. Balancers, and clients that try a list of addresses, see that at once.

use super::{
    Engine,
    halves::SharedContext,
    ports::{ClientPort, ClosedPort, note_own_ports},
};
use crate::{
    net::listen,
    profile::{BindPolicy, HostPort, UnreadyPolicy},
    telemetry::{health::readiness::is_service_ready, log::LogEvent, snapshot::Snapshot},
};

impl Engine {
    /// Closes and opens ports as their services become ready or not. While a gateway stops, the stop alone
    /// handles its ports.
    pub(super) fn follow_readiness(&mut self, snapshot: &Snapshot) {
        if self.is_stopping() {
            return;
        }
        let mut is_reopened = false;
        for ((at, _), port) in &mut self.ports {
            let is_ready = port.services().any(|service| is_service_ready(snapshot, service.as_str()));
            let is_wanted = is_ready || port.unready == UnreadyPolicy::Accept;
            match (is_wanted, port.closed.take()) {
                (false, None) => close_port(port, at, &self.shared),
                (true, Some(closed)) => {
                    reopen(port, closed, at, &self.shared);
                    is_reopened = true;
                }
                (_, as_it_is) => port.closed = as_it_is,
            }
        }
        if is_reopened {
            note_own_ports(&self.ports, &self.shared);
        }
    }
}

fn close_port(port: &mut ClientPort, at: &HostPort, common: &SharedContext) {
    let listens_at = port.closer.listens_at();
    // It may still wait for its address.
    if listens_at.is_empty() {
        return;
    }
    port.closer.close();
    let line = format!("client port {}: closed while no service on it is ready", real(at, &listens_at));
    common.notices.warn(LogEvent::PortClosed.line(line));
    port.closed = Some(ClosedPort { at: listens_at, is_taken: false });
}

fn reopen(port: &mut ClientPort, mut closed: ClosedPort, at: &HostPort, common: &SharedContext) {
    let at = real(at, &closed.at);
    match listen::bind_for_clients(&at, Ok(closed.at.clone()), BindPolicy::Now) {
        Ok(listener) => {
            port.closer = listener.closer();
            port.start(listener, common);
            common.notices.info(LogEvent::PortOpened.line(format!("client port {at}: open again")));
        }
        Err(error) => {
            // Tried at every turn, but reported once.
            if !std::mem::replace(&mut closed.is_taken, true) {
                common
                    .notices
                    .warn(LogEvent::PortWaits.line(format!("client port {error}; retrying every second")));
            }
            port.closed = Some(closed);
        }
    }
}

/// The profile's address with the actual port number.
fn real(at: &HostPort, listened: &[std::net::SocketAddr]) -> HostPort {
    HostPort { host: at.host.clone(), port: listened.first().map_or(at.port, std::net::SocketAddr::port) }
}
