//! Which rows are the same session: its two halves use the same id for it, and in a fleet their gateways are
//! the two ends of a link.
//!
//! An id alone proves nothing, since a gateway could send any. Each half says in its pools which process its
//! peer is, and both must say it of each other if they know it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    profile::Half,
    telemetry::snapshot::{SessionRow, Snapshot},
    tui::filter::ListedSession,
};

/// The outer parts of sessions, and who is linked with whom, in one snapshot.
#[derive(Debug, Default)]
pub struct SessionJoin<'a> {
    open: OuterSessionIndex<'a>,
    ended: OuterSessionIndex<'a>,
    /// The process of each gateway of a fleet.
    instances: HashMap<&'a str, &'a str>,
    /// The processes that a half of a gateway knows by a name.
    peers: HashMap<NamedPeer<'a>, HashSet<&'a str>>,
}

/// A gateway, one of its halves, and a name that this half has for a peer.
type NamedPeer<'a> = (Option<&'a Arc<str>>, Half, &'a str);

#[derive(Debug, Clone, Copy)]
struct SessionPart<'a> {
    gateway: Option<&'a Arc<str>>,
    /// The gateway's own name for it.
    peer: Option<&'a str>,
    /// The index of its row in the snapshot.
    index: usize,
}

/// Outer parts by their ids. Several gateways may use the same id, by chance or to hide another's session.
#[derive(Debug, Default)]
struct OuterSessionIndex<'a> {
    /// Each with the previous part of the same id.
    parts: Vec<(SessionPart<'a>, Option<usize>)>,
    last: HashMap<&'a str, usize>,
}

impl<'a> OuterSessionIndex<'a> {
    fn of(rows: impl Iterator<Item = ListedSession<'a>>) -> Self {
        let mut outer = Self::default();
        for (index, row) in rows.enumerate().filter(|(_, row)| row.half() == Half::Dmz) {
            let before = outer.last.insert(row.id(), outer.parts.len());
            outer.parts.push((part(row, index), before));
        }
        outer
    }

    fn with_id(&self, id: &str) -> impl Iterator<Item = &SessionPart<'a>> {
        let first = self.last.get(id).and_then(|&at| self.parts.get(at));
        let all = std::iter::successors(first, |(_, before)| before.and_then(|at| self.parts.get(at)));
        all.map(|(part, _)| part)
    }
}

impl<'a> SessionJoin<'a> {
    pub fn of(snapshot: &'a Snapshot) -> Self {
        let has_both = snapshot.halves.contains(&Half::Dmz) && snapshot.halves.contains(&Half::Internal);
        let mut join = Self::default();
        if !has_both {
            return join;
        }
        join.open = OuterSessionIndex::of(snapshot.sessions.iter().map(ListedSession::Open));
        join.ended = OuterSessionIndex::of(snapshot.ended.iter().map(ListedSession::Ended));
        for row in &snapshot.gateways {
            if let Some(facts) = row.heard.as_ref().filter(|facts| !facts.instance.is_empty()) {
                join.instances.insert(&row.name, &facts.instance);
            }
        }
        for pool in &snapshot.pools {
            if let (Some(peer), Some(instance)) = (&pool.peer, &pool.instance) {
                let of_peer = join.peers.entry((pool.gateway.as_ref(), pool.half, peer)).or_default();
                of_peer.insert(instance);
            }
        }
        join
    }

    /// Whether this is the inner part of a session whose outer part is in the snapshot and shown with it.
    pub fn is_inner(&self, row: ListedSession<'a>) -> bool {
        // One half may end a moment before the other.
        let has_ended = matches!(row, ListedSession::Ended(_));
        (has_ended && self.outer_ended(row).is_some()) || self.outer_open(row).is_some()
    }

    /// The index of the open outer part that belongs to this inner part.
    pub fn outer_open(&self, row: ListedSession<'a>) -> Option<usize> {
        self.outer(&self.open, row)
    }

    /// The outer row of a session that has ended.
    pub fn outer_ended(&self, row: ListedSession<'a>) -> Option<usize> {
        self.outer(&self.ended, row)
    }

    fn outer(&self, parts: &OuterSessionIndex<'a>, row: ListedSession<'a>) -> Option<usize> {
        if row.half() != Half::Internal {
            return None;
        }
        let inner = part(row, 0);
        // A pair in one process has the same name for both.
        let is_outer = |outer: &&SessionPart<'a>| {
            outer.gateway == inner.gateway
                || (self.may_be_at(outer, Half::Dmz, inner.gateway)
                    && self.may_be_at(&inner, Half::Internal, outer.gateway))
        };
        parts.with_id(row.id()).find(is_outer).map(|outer| outer.index)
    }

    /// Whether the peer of this part may be that gateway, as far as is known.
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

fn part(row: ListedSession<'_>, index: usize) -> SessionPart<'_> {
    SessionPart { gateway: row.gateway(), peer: row.peer(), index }
}

/// Whether both halves have carried the same number of bytes in one direction, as far as that can be known.
/// While bytes move, and for a moment afterwards, snapshots from different moments differ.
pub fn bytes_agree(outer: &SessionRow, inner: &SessionRow, bytes: fn(&SessionRow) -> u64) -> bool {
    let is_idle = outer.idle_seconds >= STILL_LISTED_SECONDS && inner.idle_seconds >= STILL_LISTED_SECONDS;
    !is_idle || bytes(outer) == bytes(inner)
}

/// Snapshots of two gateways may be a second apart, or a few if one is late.
const STILL_LISTED_SECONDS: f64 = 5.0;
