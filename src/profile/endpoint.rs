//! Addresses as the profile writes them: `SCHEME://HOST:PORT`, parsed once.
//!
//! Each use has its own type, so that an accept address cannot be dialled and a backend's
//! cannot be listened on. Names are resolved at each dial, not here.

use std::fmt;

/// A host (a name, an IPv4 address, or an IPv6 address without its brackets) and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(out, "[{}]:{}", self.host, self.port),
            false => write!(out, "{}:{}", self.host, self.port),
        }
    }
}

/// Where clients are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AcceptAddress {
    pub at: HostPort,
}

impl fmt::Display for AcceptAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "tcp://{}", self.at)
    }
}

/// What a session finally reaches.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum BackendAddress {
    Tcp(HostPort),
    /// Answers what it is sent.
    Echo,
}

impl fmt::Display for BackendAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(at) => write!(out, "tcp://{at}"),
            Self::Echo => out.write_str("echo://"),
        }
    }
}

/// One end of a link between the gateways, to listen on or to dial.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkAddress {
    /// `socks+tls` if set, else `socks`.
    pub tls: bool,
    pub at: HostPort,
}

impl fmt::Display for LinkAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}://{}", if self.tls { "socks+tls" } else { "socks" }, self.at)
    }
}
