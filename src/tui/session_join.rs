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
    telemetry::snapshot::{SessionRow, Snapshot},
    tui::filter::ListedSession,
};

/// The outer parts of sessions, and who is linked with whom, of one picture.
#[derive(Debug, Default)]
pub struct SessionJoin<'a> {
    open: OuterParts<'a>,
    ended: OuterParts<'a>,
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
    /// As that gateway names it.
    peer: Option<&'a str>,
    /// Where its row stands in the picture.
    place: usize,
}

/// Outer parts by their ids. Several gateways may use the same, by chance or to hide a session of another.
#[derive(Debug, Default)]
struct OuterParts<'a> {
    /// Each with the one of the same id before it.
    parts: Vec<(SessionPart<'a>, Option<usize>)>,
    last: HashMap<&'a str, usize>,
}

impl<'a> OuterParts<'a> {
    fn of(rows: impl Iterator<Item = ListedSession<'a>>) -> Self {
        let mut outer = Self::default();
        for (place, row) in rows.enumerate().filter(|(_, row)| row.role() == Half::Dmz) {
            let before = outer.last.insert(row.id(), outer.parts.len());
            outer.parts.push((part(row, place), before));
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
        let has_both = snapshot.roles.contains(&Half::Dmz) && snapshot.roles.contains(&Half::Internal);
        let mut join = Self::default();
        if !has_both {
            return join;
        }
        join.open = OuterParts::of(snapshot.sessions.iter().map(ListedSession::Open));
        join.ended = OuterParts::of(snapshot.ended.iter().map(ListedSession::Ended));
        for row in &snapshot.gateways {
            if let Some(facts) = row.heard.as_ref().filter(|facts| !facts.instance.is_empty()) {
                join.instances.insert(&row.name, &facts.instance);
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
        // One half may end a moment before the other.
        let has_ended = matches!(row, ListedSession::Ended(_));
        (has_ended && self.outer_ended(row).is_some()) || self.outer_open(row).is_some()
    }

    /// Where the open outer part stands whose inner part this is.
    pub fn outer_open(&self, row: ListedSession<'a>) -> Option<usize> {
        self.outer(&self.open, row)
    }

    /// The same of those that have ended.
    pub fn outer_ended(&self, row: ListedSession<'a>) -> Option<usize> {
        self.outer(&self.ended, row)
    }

    fn outer(&self, parts: &OuterParts<'a>, row: ListedSession<'a>) -> Option<usize> {
        if row.role() != Half::Internal {
            return None;
        }
        let inner = part(row, 0);
        // A pair in one process has one name for both.
        let is_outer = |outer: &&SessionPart<'a>| {
            outer.gateway == inner.gateway
                || (self.may_be_at(outer, Half::Dmz, inner.gateway)
                    && self.may_be_at(&inner, Half::Internal, outer.gateway))
        };
        parts.with_id(row.id()).find(is_outer).map(|outer| outer.place)
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

fn part(row: ListedSession<'_>, place: usize) -> SessionPart<'_> {
    SessionPart { gateway: row.gateway(), peer: row.peer(), place }
}

/// Whether both halves have carried the same one way, as far as that can be said: while bytes move, and for a moment
/// after, two pictures of different moments differ.
pub fn bytes_agree(outer: &SessionRow, inner: &SessionRow, bytes: fn(&SessionRow) -> u64) -> bool {
    let is_still = outer.idle_seconds >= STILL_SECONDS && inner.idle_seconds >= STILL_SECONDS;
    !is_still || bytes(outer) == bytes(inner)
}

/// Pictures of two gateways are a second apart, and one that is late a few.
const STILL_SECONDS: f64 = 5.0;
