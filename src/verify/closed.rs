//! The step `closed`: the internal half has no listening socket, the kernel refuses it one if it is locked, and the
//! port of forward mode is not open either. It asks the kernel and not the profile: a socket that somebody else has
//! opened is found as well.

use std::time::Duration;

use tokio::net::TcpStream;

use super::steps::{VerifyRun, join, stopped_finding, unanswered_finding};
use crate::{
    confine::attempts::{self, EscapeOutcome},
    net::{
        dial::{self, DialError},
        sockets::{self, PortHolder, SocketAddress},
    },
    profile::{ConfinePolicy, HostPort, InternalMode, LinkAddress, Mode, Profile},
    source::{ChosenProfile, ProfileSource},
    telemetry::{
        checklist::{StepFailure, StepFinding},
        snapshot::Snapshot,
    },
    text,
};

/// A closed port of this machine refuses at once; one that does not answer is not open either.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

impl VerifyRun {
    /// The internal half has no listening socket; in a pair, only the DMZ half's are there.
    pub(super) async fn check_closed(&self) -> StepFinding {
        if self.profile.internal.is_none() {
            return StepFinding::skip("the internal half is closed or not; verify it on its own host");
        }
        if self.profile.mode != Mode::Reverse {
            let word = self.profile.mode.label();
            return StepFinding::skip(format!(
                "in mode {word} the internal half listens; that is what reversing ends"
            ));
        }
        let Some(snapshot) = self.fresh_snapshot().await else { return stopped_finding() };
        let held = match sockets::process_sockets() {
            Ok(held) => held,
            Err(error) => {
                return StepFinding::fail(
                    format!("the kernel does not say: {error}"),
                    "mount /proc, or raise the limit of open files",
                );
            }
        };
        let mut expected = dmz_ports(&snapshot);
        expected.extend(self.entries.iter().map(|entry| entry.at.port()));
        let is_strange = |open: &&sockets::ListeningSocket| match &open.at {
            SocketAddress::Inet(at) => open.kind != "tcp" || !expected.contains(&at.port()),
            SocketAddress::Path(path) => self.admin.as_ref() != Some(path),
            SocketAddress::Other(_) => true,
        };
        let (strange, rest): (Vec<_>, Vec<_>) = held.open.iter().partition(is_strange);
        if !strange.is_empty() {
            return StepFinding::fail(
                format!("the internal half listens: {}", join(strange.iter().map(ToString::to_string))),
                "start it without inherited sockets; find who hands them on with `ss -lpn`",
            );
        }
        let probed = match self.try_forward_port().await {
            Ok(probed) => probed,
            Err(failed) => return failed,
        };
        let rest = match rest.is_empty() {
            true => "none listens".into(),
            false => format!(
                "those that listen do not lead inside: {}",
                join(rest.iter().map(|open| self.describe_owner(open)))
            ),
        };
        let refused = match self.try_the_lock() {
            Ok(refused) => refused,
            Err(failed) => return failed,
        };
        StepFinding::pass(format!(
            "each of the {} sockets of process {} was asked (/proc/self/fd, SO_ACCEPTCONN, getsockname; TCP, MPTCP, UDP, IPv6, Unix, raw): {rest}; {probed}; {refused}",
            held.looked_at,
            std::process::id()
        ))
    }

    /// Tries from within what the kernel should refuse, if the half is locked.
    fn try_the_lock(&self) -> Result<String, StepFinding> {
        let why = match (self.locked, &self.profile) {
            (Some(locked), _) => {
                let tried = attempts::try_all(locked);
                let through: Vec<_> = tried.iter().filter(|attempt| attempt.is_let_through()).collect();
                if let [first, ..] = through[..] {
                    let seen = format!(
                        "{} of {} ways were let through by the lock: {} ({})",
                        through.len(),
                        tried.len(),
                        first.method,
                        first.outcome
                    );
                    return Err(StepFinding::fail(seen, "run `portcullis selftest confine` on this host"));
                }
                let refused = tried.iter().filter(|attempt| attempt.outcome == EscapeOutcome::Refused);
                return Ok(format!(
                    "locked: {} of {} ways to be reached or to get out were tried from within and refused",
                    refused.count(),
                    tried.len()
                ));
            }
            (None, Profile { confine: ConfinePolicy::Off, .. }) => "`confine` is off",
            (None, Profile { dmz: Some(_), .. }) => "both halves run in one process",
            (None, _) => "no filter of system calls was put on at the start; its log says why",
        };
        Ok(format!("not locked: {why}"))
    }

    fn describe_owner(&self, open: &sockets::ListeningSocket) -> String {
        match &open.at {
            SocketAddress::Path(path) => format!("the admin socket {}", text::clean_path(path)),
            at @ (SocketAddress::Inet(_) | SocketAddress::Other(_)) => {
                format!("{} {at} of the DMZ half in this process", open.kind)
            }
        }
    }

    /// Tries the port that forward mode uses.
    async fn try_forward_port(&self) -> Result<String, StepFinding> {
        let (source, chosen) = (self.source.clone(), self.chosen.clone());
        let listen =
            self.files.run(move || forward_port(&source, &chosen)).await.map_err(unanswered_finding)?;
        let Some(listen) = listen else {
            return Ok("the profile names no port for forward mode".into());
        };
        let mut at = listen.at.clone();
        if at.is_any() {
            at.host = if at.host.contains(':') { "::1".into() } else { "127.0.0.1".into() };
        }
        match try_connect(&at).await {
            Err(error) => Ok(format!("the port of forward mode is closed: {error}")),
            Ok(_) => {
                let holder = sockets::port_holder(at.port);
                let by = holder.as_ref().map(|holder| format!(" ({holder})")).unwrap_or_default();
                let found = StepFinding::fail(
                    format!("the port of forward mode, {at}, is open{by}"),
                    "stop the program that listens there; if it is a gateway, switch it to reverse",
                );
                Err(match holder {
                    Some(_) => found.of(StepFailure::PortHolderSeen),
                    None => found,
                })
            }
        }
    }
}

async fn try_connect(at: &HostPort) -> Result<TcpStream, DialError> {
    dial::dial(at, CONNECT_TIMEOUT).await
}

/// Where the internal half would listen in forward mode.
fn forward_port(source: &ProfileSource, chosen: &ChosenProfile) -> Option<LinkAddress> {
    match source.load_to_serve(chosen, Some(Mode::Forward)).ok()?.profile.internal?.mode {
        InternalMode::Forward { listen, .. } => Some(listen),
        InternalMode::Reverse { .. } => None,
    }
}

/// The program that listens at that port, if this process may see it.
pub fn forward_port_holder(source: &ProfileSource, chosen: &ChosenProfile) -> Option<PortHolder> {
    sockets::port_holder(forward_port(source, chosen)?.at.port)
}

fn dmz_ports(snapshot: &Snapshot) -> Vec<u16> {
    let accepts = snapshot.services.iter().flat_map(|service| &service.accept);
    let port = |address: &String| address.rsplit_once(':')?.1.parse().ok();
    accepts.chain(&snapshot.listening).filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use socket2::{Domain, Socket, Type};

    use super::*;
    use crate::tests::happens_after;

    /// A port whose queue is full: requests for a connection are dropped, as by a firewall.
    #[tokio::test(start_paused = true)]
    async fn a_silent_port_is_given_up_at_its_deadline() {
        let silent = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        silent.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
        silent.listen(0).expect("it listens");
        let at = silent.local_addr().expect("it is bound").as_socket().expect("an address");
        let _fills = TcpStream::connect(at).await.expect("it connects");
        let at = HostPort { host: at.ip().to_string(), port: at.port() };
        let probed = happens_after(CONNECT_TIMEOUT, try_connect(&at)).await;
        assert!(probed.is_err_and(|error| error.to_string().contains("no answer within 1s")));
    }
}
