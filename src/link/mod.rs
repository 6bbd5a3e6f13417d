//! A link's life, from its handshake to its end.
//!
//! ```text
//! our own:  dial or accept ─► handshake ─► ready ◄─► full ─► leaving ─► closed
//! SOCKS5:   dial or accept ─► handshake ─► ready ─► (taken, or second reply) ─► carrying ─► closed
//! ```
//!
//! There are two kinds of link. One that speaks SOCKS5 is a plain stream that carries one session and ends with
//! it; a [`agreement::AgreedLink`] speaks `portcullis/2` and carries many at once, as [`multiplex`] does it. A
//! session sees either as one of its two sides ([`session_side`]).
//!
//! In reading order:
//!
//! - **Establish.** [`carrier`] is what a link runs over, [`handshake`] establishes it, and [`listener`] accepts
//!   incoming links, on their own port or through an [`endpoint`].
//! - **Keep.** [`keeper`] keeps links to one gateway dialled, [`dial_state`] says when to dial,
//!   [`dialled_gateways`] which gateways have a keeper, and [`error`] why links fail.
//! - **Wait.** [`pool::Pool`] holds the ready links of the half that opens sessions, each in an
//!   [`idle_link::IdleLink`], grouped by peer in [`peer_links::PeerLinks`]; [`peer_record`] decides whose turn it is.
//! - **Serve.** [`server`] waits for sessions on the other half. [`offered_services`] is what it offers, [`grants`]
//!   what the opener accepts of that, and [`link_services`] what each link serves now.
//! - **End.** [`liveness`] notices dead links, [`generation`] those whose terms have changed. [`goodbye`] remembers
//!   whether a peer left on purpose, and [`succession`] whether it was restarted.
//! - **Count.** [`shares`] bounds links, [`link_guard`] counts them, `link_table` lists them, [`load`] counts the
//!   sessions of each, and [`round_trip`] is how far away they end.
//!
//! The files here use each other: a handshake makes links, and what keeps, serves and offers them shares their
//! types.

pub mod agreement;
pub mod carrier;
pub mod dial_state;
pub mod dialled_gateways;
pub mod endpoint;
pub mod error;
mod gateway_entry;
pub mod generation;
pub mod goodbye;
pub mod grants;
pub mod handshake;
pub mod idle_link;
pub mod keeper;
pub mod link_guard;
pub mod link_services;
mod link_table;
pub mod listener;
pub mod liveness;
pub mod load;
pub mod lockdown;
pub mod multiplex;
pub mod name_notices;
pub mod offered_services;
pub mod peer_links;
pub mod peer_record;
pub mod pool;
pub mod round_trip;
pub mod server;
pub mod session_side;
pub mod shares;
pub mod succession;
mod target_addresses;
mod target_rules;

use std::{sync::Arc, time::Duration};

use crate::{
    proto::{certificate::is_same_name, multiplex::hello::InstanceId},
    telemetry::registry::SessionPeer,
};

/// Deadline of a TCP connection to the other gateway.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// Deadline for TLS, method and request together; also for a second reply, from its first byte to its last.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a refused or retired link gets to read why.
pub const LINGERING_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A link that was asked to leave, or has said that it leaves, is closed within this time even while its other
/// end is alive. The last session's bytes may still be on their way to a slow receiver.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(600);

/// The other gateway, as it has identified itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    /// The name in its certificate; `None` on a plain link, where nothing is proven.
    pub name: Option<Arc<str>>,
    /// Its IP, or the address that was dialled.
    pub address: Arc<str>,
    /// Which process of that name it is, once it has said so.
    pub instance: Option<InstanceId>,
}

impl From<&Peer> for SessionPeer {
    fn from(peer: &Peer) -> Self {
        let instance = peer.instance.and_then(|instance| instance.0.first_chunk().copied());
        Self { name: peer.label(), address: peer.address.clone(), instance }
    }
}

impl Peer {
    /// Whether it is the same gateway, wherever it dials from: by its certificate's name, or by its address if
    /// nothing is proven.
    pub fn is_same_gateway(&self, other: &Self) -> bool {
        match (&self.name, &other.name) {
            (Some(one), Some(other)) => one == other,
            (None, None) => self.address == other.address,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// Whether it is the same process, wherever it dials from or is dialled.
    pub fn is_same_process(&self, other: &Self) -> bool {
        self.is_same_gateway(other) && self.instance == other.instance && self.instance.is_some()
    }

    /// Whether it is one of these, or another row of a process among them.
    pub fn is_process_among(&self, peers: &[Self]) -> bool {
        peers.iter().any(|peer| self == peer || self.is_same_process(peer))
    }

    /// Whether it may be the same gateway after a restart: another process of its name, at its address.
    pub fn may_succeed(&self, other: &Self) -> bool {
        self.instance != other.instance && self.name == other.name && self.address == other.address
    }

    /// Which process of its name it is: `internal (0a1b2c3d) at 192.0.2.1`.
    pub fn described(&self) -> String {
        let instance = self.instance.map_or_else(String::new, |instance| format!(" ({})", instance.short()));
        format!("{}{instance} at {}", self.label(), self.address)
    }

    /// The name that operators see for the peer.
    pub fn label(&self) -> Arc<str> {
        self.name.clone().unwrap_or_else(|| self.address.clone())
    }

    /// Whether a service's list of peers allows this one. A name without proof is on no list.
    pub fn is_among(&self, peers: Option<&[String]>) -> bool {
        let Some(peers) = peers else { return true };
        self.name.as_ref().is_some_and(|name| peers.iter().any(|peer| is_same_name(peer, name)))
    }
}
