//! What the kernel of this machine allows, from `/proc`.

use std::fs;

/// The values that could be read; if `/proc` does not have one, nothing is said about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MachineFacts {
    /// `net.core.somaxconn`: how many connections may wait at one port to be accepted.
    pub accept_backlog: Option<u64>,
    /// Connections that were dropped since the machine started because too many were waiting.
    pub accept_overflows: Option<u64>,
    /// `net.ipv4.tcp_max_syn_backlog`: half-open connections.
    pub handshake_backlog: Option<u64>,
    pub syn_cookies: Option<bool>,
    /// The number of ports in `net.ipv4.ip_local_port_range`.
    pub local_ports: Option<u64>,
    pub memory_bytes: Option<u64>,
    /// What the kernel considers available without swapping.
    pub free_memory_bytes: Option<u64>,
}

impl MachineFacts {
    pub fn read() -> Self {
        let read = |path: &str| fs::read_to_string(path).ok();
        let number = |path: &str| read(path)?.trim().parse::<u64>().ok();
        let memory = read("/proc/meminfo").unwrap_or_default();
        Self {
            accept_backlog: number("/proc/sys/net/core/somaxconn"),
            accept_overflows: read("/proc/net/netstat")
                .and_then(|text| netstat_field(&text, "ListenOverflows")),
            handshake_backlog: number("/proc/sys/net/ipv4/tcp_max_syn_backlog"),
            syn_cookies: number("/proc/sys/net/ipv4/tcp_syncookies").map(|value| value > 0),
            local_ports: read("/proc/sys/net/ipv4/ip_local_port_range").and_then(|text| count_ports(&text)),
            memory_bytes: memory_field(&memory, "MemTotal"),
            free_memory_bytes: memory_field(&memory, "MemAvailable"),
        }
    }
}

/// Each group has two lines: one with the names, one with the numbers.
fn netstat_field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, numbers) = (lines.next()?.split_whitespace(), lines.next()?.split_whitespace());
    names.zip(numbers).find(|(found, _)| *found == name)?.1.parse().ok()
}

fn count_ports(range: &str) -> Option<u64> {
    let mut ends = range.split_whitespace().map(str::parse::<u64>);
    let (low, high) = (ends.next()?.ok()?, ends.next()?.ok()?);
    high.checked_sub(low)?.checked_add(1)
}

/// `MemTotal:       16316412 kB`
fn memory_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_proc_are_read() {
        let netstat =
            "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 0 17 18\nIpExt: A\nIpExt: 1\n";
        assert_eq!(netstat_field(netstat, "ListenOverflows"), Some(17));
        assert_eq!(netstat_field(netstat, "Nothing"), None);
        assert_eq!(netstat_field("TcpExt: A", "A"), None);
        assert_eq!(count_ports("32768\t60999\n"), Some(28_232));
        assert_eq!(count_ports("60999 32768"), None);
        let memory = "MemTotal:  2048 kB\nMemAvailable:  1024 kB\n";
        assert_eq!(memory_field(memory, "MemAvailable"), Some(1 << 20));
        assert_eq!(memory_field(memory, "Mem"), None);
    }

    #[test]
    fn the_facts_of_this_machine_are_read() {
        let machine = MachineFacts::read();
        assert!(machine.memory_bytes > machine.free_memory_bytes, "{machine:?}");
        assert!(machine.local_ports.is_some_and(|ports| ports > 0), "{machine:?}");
    }
}
