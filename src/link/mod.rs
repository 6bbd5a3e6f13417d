//! A link's life: greeted, ready, carrying, closed.
//!
//! ```text
//! dialling side:  dial ─► greet ─► ready ─► (second reply) ─► carrying ─► closed
//! listening side: accept ─► greet ─► ready ─► (taken) ─► carrying ─► closed
//! ```
//!
//! A link in each state is a type of its own: [`greet`] yields a greeted stream, [`ready::Slot`]
//! holds one that waits and gives it away once, [`pool::Pool`] keeps the slots of a service.
//! [`listener`] is the port that links come in by. A link carries one session and ends with it.

pub mod greet;
pub mod listener;
pub mod pool;
pub mod ready;

use std::{sync::Arc, time::Duration};

use socks5_proto::Reply;

/// A TCP connection to the other gateway comes about in this time or not at all.
pub const DIAL: Duration = Duration::from_secs(3);
/// TLS, method and request together; also the time from a second reply's first byte to its last.
pub const GREET: Duration = Duration::from_secs(5);
/// A refused or retired link gets this long to hear why.
pub const FAREWELL: Duration = Duration::from_secs(1);

/// The other gateway, as it proved itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    /// The name in its certificate; `None` on a plain link, where nothing is proven.
    pub name: Option<Arc<str>>,
    /// Its IP, or the address that was dialled.
    pub address: Arc<str>,
}

impl Peer {
    /// What an operator reads as the peer.
    pub fn label(&self) -> Arc<str> {
        self.name.clone().unwrap_or_else(|| self.address.clone())
    }

    /// Whether a service's list of peers lets this one in; an unproven name is on no list.
    pub fn is_among(&self, peers: Option<&[String]>) -> bool {
        let Some(peers) = peers else { return true };
        self.name.as_ref().is_some_and(|name| peers.iter().any(|peer| **peer == **name))
    }
}

/// Why a session is refused to the gateway that asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The service is unknown, or this peer may not use it. Both sound the same to the peer.
    NotAllowed,
    BackendUnreachable,
    BackendRefused,
    BackendLate,
    /// A limit, draining, or a fault of ours.
    Unavailable,
}

impl Refusal {
    /// The reply code of contract and RFC 1928, section 6.
    pub fn reply(self) -> Reply {
        match self {
            Self::NotAllowed => Reply::ConnectionNotAllowed,
            Self::BackendUnreachable => Reply::HostUnreachable,
            Self::BackendRefused => Reply::ConnectionRefused,
            Self::BackendLate => Reply::TtlExpired,
            Self::Unavailable => Reply::GeneralFailure,
        }
    }
}
