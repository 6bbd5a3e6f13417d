//! What the machine's kernel allows: backlogs, local ports and memory.

use super::{
    DoctorFinding,
    FindingSeverity::{Must, Should},
    MachineFacts,
};
use crate::{
    net::listen::BACKLOG,
    profile::Half,
    telemetry::{
        format,
        snapshot::{ServiceRow, Snapshot},
    },
};

/// Half-open connections; fewer are soon used up if there are no SYN cookies.
const HANDSHAKES_MIN: u64 = 1024;

pub fn find_limits_of_kernel(snapshot: &Snapshot, machine: &MachineFacts) -> Vec<DoctorFinding> {
    let mut found = Vec::new();
    if listens(snapshot) {
        found.extend(find_accept_backlog(machine));
        found.extend(find_handshake_backlog(machine));
    }
    found.extend(snapshot.services.iter().filter_map(|service| find_local_ports(service, machine)));
    found.extend(find_memory(machine));
    found
}

fn listens(snapshot: &Snapshot) -> bool {
    !snapshot.listening.is_empty() || snapshot.services.iter().any(|service| !service.accept.is_empty())
}

fn find_accept_backlog(machine: &MachineFacts) -> Option<DoctorFinding> {
    let allowed = machine.accept_backlog.filter(|&allowed| allowed < BACKLOG as u64)?;
    let overflows = machine.accept_overflows.unwrap_or_default();
    let figure = format!(
        "net.core.somaxconn is {allowed}, {BACKLOG} are asked for; {overflows} connections dropped on this machine since it started"
    );
    let reason = "clients that come at once wait there to be accepted; past it they are dropped, and try again after a second";
    let advice = format!(
        "sysctl -w net.core.somaxconn={BACKLOG}, in /etc/sysctl.d as well, and start the gateway again"
    );
    Some(DoctorFinding::new("accept-backlog", Should, figure, reason, advice))
}

fn find_handshake_backlog(machine: &MachineFacts) -> Option<DoctorFinding> {
    let allowed = machine.handshake_backlog.filter(|&allowed| allowed < HANDSHAKES_MIN)?;
    // With them, the kernel holds no state for half-open connections.
    if machine.syn_cookies != Some(false) {
        return None;
    }
    let figure = format!("net.ipv4.tcp_max_syn_backlog is {allowed}, and net.ipv4.tcp_syncookies is 0");
    let reason = "that many half-open connections keep all other clients out";
    let advice = format!(
        "sysctl -w net.ipv4.tcp_syncookies=1, or net.ipv4.tcp_max_syn_backlog={HANDSHAKES_MIN} and more"
    );
    Some(DoctorFinding::new("handshake-backlog", Should, figure, reason, advice))
}

/// Each session to one address of a backend uses a local port.
fn find_local_ports(service: &ServiceRow, machine: &MachineFacts) -> Option<DoctorFinding> {
    let ports = machine.local_ports?;
    let connect = service.connect.as_ref().filter(|connect| takes_ports(connect))?;
    let backends = service.backends.len().max(1) as u64;
    let ports = ports.saturating_mul(backends);
    let (open, limit) = (service.totals.sessions_open, service.limit? as u64);
    let severity = match () {
        () if open.saturating_mul(10) >= ports.saturating_mul(9) => Must,
        // For the internal half, the profile has no limit.
        () if limit > ports && service.half == Half::Dmz => Should,
        () => return None,
    };
    let figure = format!(
        "{open} sessions open of {limit}, {ports} local ports (net.ipv4.ip_local_port_range) to {connect}"
    );
    let reason = "each session to an address takes a local port, and one that was used rests for a minute";
    let advice = "sysctl -w net.ipv4.ip_local_port_range='1024 65535', or name further backends in `connect`, or lower `sessions`";
    Some(DoctorFinding::new("local-ports", severity, figure, reason, advice).about(service.name.clone()))
}

/// Unix sockets and the built-in backend use none.
fn takes_ports(connect: &str) -> bool {
    !["echo:", "unix:", "http+unix:"].iter().any(|scheme| connect.starts_with(scheme))
}

fn find_memory(machine: &MachineFacts) -> Option<DoctorFinding> {
    let (whole, free) = (machine.memory_bytes?, machine.free_memory_bytes?);
    let severity = match () {
        () if free < whole / 50 => Must,
        () if free < whole / 10 => Should,
        () => return None,
    };
    let figure = format!("{} of {} of memory can be had", format::bytes(free), format::bytes(whole));
    let reason = "each session holds buffers; where memory ends, the kernel ends a process";
    let advice = "find what uses it, give the machine more, or lower `sessions`";
    Some(DoctorFinding::new("memory", severity, figure, reason, advice))
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{found_on, healthy, spacious},
        *,
    };
    use crate::telemetry::snapshot::TrafficTotals;

    fn listening() -> Snapshot {
        Snapshot { listening: vec!["socks+tls://0.0.0.0:1443".into()], ..healthy() }
    }

    #[test]
    fn a_short_accept_backlog_is_reported_where_somebody_listens() {
        let short = MachineFacts { accept_backlog: Some(128), ..spacious() };
        assert_eq!(found_on(&listening(), &short, "accept-backlog"), [Should]);
        assert_eq!(found_on(&healthy(), &short, "accept-backlog"), [], "it dials alone");
        assert_eq!(found_on(&listening(), &spacious(), "accept-backlog"), []);
    }

    #[test]
    fn a_short_backlog_of_handshakes_is_reported_where_nothing_stands_in_for_it() {
        let short = MachineFacts { handshake_backlog: Some(128), ..spacious() };
        let bare = MachineFacts { syn_cookies: Some(false), ..short.clone() };
        assert_eq!(found_on(&listening(), &bare, "handshake-backlog"), [Should]);
        assert_eq!(found_on(&listening(), &short, "handshake-backlog"), []);
    }

    #[test]
    fn local_ports_are_held_against_sessions_to_one_backend() {
        let of = |connect: &str, sessions_open, limit| {
            let mut snapshot = healthy();
            let row = &mut snapshot.services[0];
            (row.connect, row.limit) = (Some(connect.into()), Some(limit));
            row.totals = TrafficTotals { sessions_open, ..TrafficTotals::default() };
            snapshot
        };
        let narrow = MachineFacts { local_ports: Some(1000), ..spacious() };
        let backend = "tcp://10.1.0.7:80";
        assert_eq!(found_on(&of(backend, 900, 1001), &narrow, "local-ports"), [Must]);
        assert_eq!(found_on(&of(backend, 10, 1001), &narrow, "local-ports"), [Should]);
        let mut inner = of(backend, 10, 262_144);
        inner.services[0].half = Half::Internal;
        assert_eq!(found_on(&inner, &narrow, "local-ports"), [], "nobody has asked for this many");
        assert_eq!(found_on(&of(backend, 10, 1000), &narrow, "local-ports"), []);
        assert_eq!(found_on(&of("unix:///run/app.sock", 10, 1001), &narrow, "local-ports"), []);
        assert_eq!(found_on(&healthy(), &narrow, "local-ports"), [], "another half dials");
    }

    #[test]
    fn memory_that_runs_out_is_reported() {
        let free = |bytes| MachineFacts { free_memory_bytes: Some(bytes), ..spacious() };
        assert_eq!(found_on(&healthy(), &free(100 << 20), "memory"), [Must]);
        assert_eq!(found_on(&healthy(), &free(500 << 20), "memory"), [Should]);
        assert_eq!(found_on(&healthy(), &free(1 << 30), "memory"), []);
    }
}
