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
//! In reading order: [`carrier`] is what a link goes over, [`handshake`] establishes it, [`listener`] greets those that
//! come in, on a port of their own or by a [`endpoint`], [`keeper`] the task that keeps links dialled, [`dial_state`] how
//! that goes, [`dialled_gateways`] for whom there is a keeper, [`failure`] why links fail. [`pool::Pool`] holds the
//! ready links of the half that opens sessions, each in an [`idle_link::IdleLink`], grouped by peer in
//! [`peer_links::PeerLinks`];
//! [`peer_record`] decides whose turn it is. [`server`] waits for sessions on the other half. [`shares`] bounds
//! links, [`link_guard`] counts them, `link_table` lists them, [`round_trip`] is how far away they end, [`load`] counts
//! the sessions of each, [`offered_services`] and [`grants`] are what the two ends make of it, [`link_services`] knows
//! what each serves now, [`liveness`] notices dead ones, and
//! [`generation`] tells whether the terms of a link still hold.

pub mod agreement;
pub mod carrier;
pub mod dial_state;
pub mod dialled_gateways;
pub mod endpoint;
pub mod failure;
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

use crate::proto::{certificate::is_same_name, multiplex::hello::InstanceId};

/// Deadline of a TCP connection to the other gateway.
pub const DIAL: Duration = Duration::from_secs(3);
/// Deadline for TLS, method and request together; also for a second reply, from its first byte to its last.
pub const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a refused or retired link gets to read why.
pub const LINGERING_CLOSE: Duration = Duration::from_secs(1);

/// A link that was asked to leave, or has said that it leaves, is closed within this time even while its other
/// end is alive. The last session's bytes may still be on their way to a slow receiver.
pub const GOODBYE: Duration = Duration::from_secs(600);

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

    /// Whether it may be the same gateway after a restart: another process of its name, at its address.
    pub fn may_succeed(&self, other: &Self) -> bool {
        self.instance != other.instance && self.name == other.name && self.address == other.address
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
