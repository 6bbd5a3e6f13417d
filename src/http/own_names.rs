//! The names by which the internal network knows a backend, and how they are found in a URL reference.

use std::net::SocketAddr;

use super::request::host_name;

/// The names of a backend that mean nothing outside.
#[derive(Debug)]
pub struct OwnNames {
    /// The host of its address, and the numeric form of that.
    hosts: Vec<String>,
    /// The port of its address.
    port: u16,
    /// What else it calls itself, at any port.
    others: Vec<String>,
}

impl OwnNames {
    /// `others` must be spelled as by [`host_name`].
    pub fn new(host: &str, port: u16, reached: Option<SocketAddr>, others: &[String]) -> Self {
        let mut hosts = vec![host_name(host)];
        hosts.extend(reached.map(|reached| reached.ip().to_canonical().to_string()));
        hosts.dedup();
        Self { hosts, port, others: others.to_vec() }
    }

    /// Whether an authority is the backend's, whatever user it names.
    pub fn contains_authority(&self, authority: &[u8]) -> bool {
        let host_port = authority.rsplit(|byte| *byte == b'@').next().unwrap_or(authority);
        let Ok(host_port) = std::str::from_utf8(host_port) else { return false };
        let (host, port) = match host_port.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port),
            _ => (host_port, ""),
        };
        let host = host_name(host);
        let is_port = matches!(port, "" | "*") || port.parse() == Ok(self.port);
        self.others.contains(&host) || (is_port && self.hosts.contains(&host))
    }

    pub fn contains_host(&self, host: &[u8]) -> bool {
        let host = std::str::from_utf8(host).map(host_name);
        host.is_ok_and(|host| self.hosts.contains(&host) || self.others.contains(&host))
    }

    /// Whether a value contains one of the names as a separate word. A name that could be any word counts only
    /// where a host is expected.
    pub fn are_in(&self, value: &[u8]) -> bool {
        self.hosts.iter().chain(&self.others).any(|host| {
            let is_word = !host.contains(['.', ':']);
            let starts = value.windows(host.len()).enumerate();
            let mut found = starts.filter(|(_, window)| window.eq_ignore_ascii_case(host.as_bytes()));
            found.any(|(at, _)| {
                let (before, after) = (&value[..at], &value[at + host.len()..]);
                let continues = |byte: Option<&u8>| {
                    byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
                };
                let is_whole = !continues(before.last()) && !continues(after.first());
                let is_host = before.ends_with(b"//")
                    || before.ends_with(b"@")
                    || matches!(after, [b':', digit, ..] if digit.is_ascii_digit());
                is_whole && (!is_word || is_host)
            })
        })
    }
}

/// Splits a reference with an authority: what is before it, the authority, what follows it.
pub fn split_reference(reference: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let begins = |scheme: &&[u8]| {
        reference.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme))
    };
    let schemes = [&b"http://"[..], b"https://", b"//", b"ws://", b"wss://"];
    let (scheme, rest) = reference.split_at(schemes.into_iter().find(begins)?.len());
    let end = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    Some((scheme, authority, target))
}
