//! A link's life: greeted, ready, carrying, and ready again or closed.
//!
//! ```text
//! dialling side:  dial ─► greet ─► ready ─► (second reply) ─► carrying ─► closed
//! listening side: accept ─► greet ─► ready ─► (taken) ─► carrying ─► closed
//! ```
//!
//! Two kinds of link: one that speaks SOCKS5 is a plain stream that carries one session and ends
//! with it; a [`framed::Link`] speaks `portcullis/1` and carries one after another. A session sees
//! either as a [`leg::Leg`].
//!
//! In reading order: [`greet`] brings a link to stand, [`listener`] is the port that links come in
//! by, [`keeper`] the task that keeps links dialled, [`course`] how that goes, [`ready::Slot`] holds a ready one until it is
//! given away, [`pool::Pool`] has the slots of the half that opens, a [`lane::Lane`] for each peer ([`conduct`]: whose turn it is), [`serving`] waits for sessions
//! on the half that serves. [`shares`] bounds links, [`seat`] counts them, `roll` tells of each, [`liveness`] knows whether one is alive, [`demand`]
//! how many should be ready, [`epoch`] how long what was agreed holds.

mod allowance;
pub mod conduct;
pub mod course;
pub mod demand;
pub mod epoch;
pub mod framed;
pub mod goodbye;
pub mod greet;
pub mod keeper;
pub mod lane;
pub mod leg;
pub mod listener;
pub mod liveness;
pub mod pool;
pub mod ready;
mod roll;
pub mod seat;
pub mod serving;
pub mod shares;
pub mod trouble;

use std::{sync::Arc, time::Duration};

use crate::net::verify::is_same_name;

/// A TCP connection to the other gateway comes about in this time or not at all.
pub const DIAL: Duration = Duration::from_secs(3);
/// TLS, method and request together; also the time from a second reply's first byte to its last.
pub const GREET: Duration = Duration::from_secs(5);
/// A refused or retired link gets this long to hear why.
pub const FAREWELL: Duration = Duration::from_secs(1);

/// A link that was asked to go, or has said that it goes, is closed in this time while its other end
/// lives: the last session's bytes may be on their way to somebody slow.
pub const LEAVE: Duration = Duration::from_secs(600);

/// The other gateway, as it proved itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    /// The name in its certificate; `None` on a plain link, where nothing is proven.
    pub name: Option<Arc<str>>,
    /// Its IP, or the address that was dialled.
    pub address: Arc<str>,
}

impl Peer {
    /// Whether it is the same gateway, wherever it dials from: by its certificate's name, or by its
    /// address where nothing is proven.
    pub fn is_same_gateway(&self, other: &Self) -> bool {
        match (&self.name, &other.name) {
            (Some(one), Some(other)) => one == other,
            (None, None) => self.address == other.address,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// What an operator reads as the peer.
    pub fn label(&self) -> Arc<str> {
        self.name.clone().unwrap_or_else(|| self.address.clone())
    }

    /// Whether a service's list of peers lets this one in; an unproven name is on no list.
    pub fn is_among(&self, peers: Option<&[String]>) -> bool {
        let Some(peers) = peers else { return true };
        self.name.as_ref().is_some_and(|name| peers.iter().any(|peer| is_same_name(peer, name)))
    }
}
