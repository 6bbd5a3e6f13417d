//! Which rows tell of the same session: its two halves call it by the same id, and in a fleet their gateways are
//! the two ends of a link.
//!
//! Nothing is believed of an id alone: a gateway could name any. Each half says in its pools which process its
//! peer is, and both have to say it of each other where they know it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    profile::Half,
    telemetry::snapshot::{EndedRow, SessionRow, Snapshot},
    tui::filter::ListedSession,
};

/// The outer parts of sessions, and who is linked with whom, of one picture.
#[derive(Debug, Default)]
pub struct SessionJoin<'a> {
    /// By the id; the gateway, and the peer as that gateway names it.
    open: HashMap<&'a str, SessionPart<'a>>,
    ended: HashMap<&'a str, SessionPart<'a>>,
    /// The process of each gateway of a fleet.
    instances: HashMap<&'a str, &'a str>,
    /// The processes that a half of a gateway calls by a name.
    peers: HashMap<NamedPeer<'a>, HashSet<&'a str>>,
}

/// A gateway, one half of it, and a name that this half knows a peer by.
type NamedPeer<'a> = (Option<&'a Arc<str>>, Half, &'a str);

#[derive(Debug, Clone, Copy)]
struct SessionPart<'a> {
    gateway: Option<&'a Arc<str>>,
    peer: Option<&'a str>,
}

impl<'a> SessionJoin<'a> {
    pub fn of(snapshot: &'a Snapshot) -> Self {
        let has_both = snapshot.roles.contains(&Half::Dmz) && snapshot.roles.contains(&Half::Internal);
        let mut join = Self::default();
        if !has_both {
            return join;
        }
        let outer = |row: &ListedSession<'a>| row.role() == Half::Dmz;
        let open = snapshot.sessions.iter().map(ListedSession::Open).filter(outer);
        join.open.extend(open.map(|row| (row.id(), part(row))));
        let ended = snapshot.ended.iter().map(ListedSession::Ended).filter(outer);
        join.ended.extend(ended.map(|row| (row.id(), part(row))));
        for row in &snapshot.gateways {
            if let Some(heard) = row.heard.as_ref().filter(|heard| !heard.instance.is_empty()) {
                join.instances.insert(&row.name, &heard.instance);
            }
        }
        for pool in &snapshot.pools {
            if let (Some(peer), Some(instance)) = (&pool.peer, &pool.instance) {
                let of_peer = join.peers.entry((pool.gateway.as_ref(), pool.role, peer)).or_default();
                of_peer.insert(instance);
            }
        }
        join
    }

    /// Whether this is the inner part of a session whose outer part is in the picture: it is told with it.
    pub fn is_inner(&self, row: ListedSession<'a>) -> bool {
        if row.role() != Half::Internal {
            return false;
        }
        let outer = match row {
            ListedSession::Open(row) => self.open.get(row.id.as_str()),
            // One half may end a moment before the other.
            ListedSession::Ended(row) => {
                self.ended.get(row.id.as_str()).or_else(|| self.open.get(row.id.as_str()))
            }
        };
        let (Some(outer), inner) = (outer, part(row)) else { return false };
        // A pair in one process has one name for both.
        outer.gateway == inner.gateway
            || (self.may_be_at(outer, Half::Dmz, inner.gateway)
                && self.may_be_at(&inner, Half::Internal, outer.gateway))
    }

    /// Whether the peer of this part can be that gateway, as far as is known.
    fn may_be_at(&self, part: &SessionPart<'a>, half: Half, other: Option<&Arc<str>>) -> bool {
        let Some(peer) = part.peer else { return true };
        let known = self.peers.get(&(part.gateway, half, peer));
        let instance = other.and_then(|name| self.instances.get(&**name));
        match (known, instance) {
            (Some(known), Some(instance)) => known.contains(instance),
            _ => true,
        }
    }
}

fn part(row: ListedSession<'_>) -> SessionPart<'_> {
    match row {
        ListedSession::Open(row) => SessionPart { gateway: row.gateway.as_ref(), peer: row.peer.as_deref() },
        ListedSession::Ended(row) => SessionPart { gateway: row.gateway.as_ref(), peer: row.peer.as_deref() },
    }
}

/// Whether both halves have carried the same, as far as that can be said: while bytes move, and for a moment
/// after, two pictures of different moments differ.
pub fn bytes_agree(outer: &SessionRow, inner: &SessionRow) -> bool {
    let is_still = outer.idle_seconds >= STILL_SECONDS && inner.idle_seconds >= STILL_SECONDS;
    !is_still || (outer.bytes_up, outer.bytes_down) == (inner.bytes_up, inner.bytes_down)
}

/// The same of a session that has ended on both.
pub fn ended_bytes_agree(outer: &EndedRow, inner: &EndedRow) -> bool {
    (outer.bytes_up, outer.bytes_down) == (inner.bytes_up, inner.bytes_down)
}

/// Pictures of two gateways are a second apart, and one that is late a few.
const STILL_SECONDS: f64 = 5.0;
