//! Counts one link as ready, busy, for bulk or leaving in the counters of its peer, for as long as the link lives. Dropping
//! the guard ends that, so no way out of a link's task can forget it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use super::{
    Peer,
    link_table::{LinkEntry, LinkTable},
    load::{LinkFillLevel, LinkLoad},
    round_trip::RoundTrip,
    shares::SharePermit,
};
use crate::{
    net::stream::NetStream,
    proto::multiplex::{PeerViolation, hello::InstanceId, state::LinkEnd},
    telemetry::{
        clock,
        snapshot::{PoolRow, PoolState},
    },
};

/// When a process is gone, all its links fail within this time.
const PROCESS_LOSS_WINDOW: Duration = Duration::from_secs(15);

/// The counters of one peer's links.
#[derive(Debug, Default)]
pub struct LinkCounters {
    /// Number of links by activity.
    links: [AtomicUsize; LinkActivity::ALL.len()],
    /// Sessions opened so far.
    opened: AtomicU64,
    /// Ready links that are no longer needed; idle links check this and close themselves.
    surplus: AtomicUsize,
    /// When the last link ended, in microseconds of the process; 0 if none has.
    last_link_ended_us: AtomicU64,
    /// When the peer's process may have gone, judged by the first link that failed since one was last
    /// established. In microseconds of the process; 0 if none has failed.
    peer_lost_at_us: AtomicU64,
    round_trip: Mutex<RoundTrip>,
    table: LinkTable,
    /// Whether a session was answered since this was last read.
    has_carried: AtomicBool,
    /// How a link has broken the protocol, until it is read.
    broken: Mutex<Option<PeerViolation>>,
    /// The peer has said that it drains, and no link was established since.
    drains: AtomicBool,
    /// At the half that dials: more links are wanted than are allowed.
    at_maximum: AtomicBool,
    /// At the half that dials: one of the links may be left to heavy sessions, because enough others are ready or
    /// another one can be dialled in its place.
    can_spare: AtomicBool,
    /// Notified when a ready link is taken or lost, when one has broken the protocol, or when the peer drains.
    changed: Arc<Notify>,
}

impl LinkCounters {
    /// Counters that notify somebody when a ready link is taken or lost.
    pub fn notifying(changed: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { changed, ..Self::default() })
    }

    /// Number of links with this activity.
    pub fn count(&self, activity: LinkActivity) -> usize {
        self.counter(activity).load(Ordering::Relaxed)
    }

    /// Links that take a session, whether they carry others or not.
    pub fn ready(&self) -> usize {
        self.count(LinkActivity::Ready) + self.count(LinkActivity::NearlyFull)
    }

    /// Links that take no more sessions, or none while others do.
    pub fn carrying(&self) -> usize {
        [LinkActivity::Full, LinkActivity::Bulk, LinkActivity::Leaving].map(|is| self.count(is)).iter().sum()
    }

    /// All links.
    pub fn links(&self) -> usize {
        LinkActivity::ALL.iter().map(|activity| self.count(*activity)).sum()
    }

    /// The gateways that take sessions on these links, each with the age of its oldest one.
    pub fn instances(&self) -> Vec<(InstanceId, Duration)> {
        self.table.instances()
    }

    /// A copy of the row for each of these gateways, with its own links.
    pub fn rows_by_gateway(&self, row: &PoolRow) -> Vec<PoolRow> {
        self.table.rows_by_gateway(row)
    }

    /// How long there has been no link; `None` while there is one, or before the first.
    pub fn empty_for(&self) -> Option<Duration> {
        self.empty_since_us().map(|at| Duration::from_micros(clock::now_us().saturating_sub(at)))
    }

    /// When the last link went, in microseconds of [`clock`]; `None` as for [`Self::empty_for`].
    pub fn empty_since_us(&self) -> Option<u64> {
        Some(self.last_link_ended_us.load(Ordering::Relaxed)).filter(|&at| at > 0 && self.links() == 0)
    }

    /// How long the process of a peer without links may have been gone.
    pub fn gone_for(&self) -> Option<Duration> {
        let empty = self.empty_for()?;
        let peer_lost_at_us = Some(self.peer_lost_at_us.load(Ordering::Relaxed)).filter(|&at| at > 0);
        let away = peer_lost_at_us.map(|at| Duration::from_micros(clock::now_us().saturating_sub(at)));
        Some(away.map_or(empty, |away| away.max(empty)))
    }

    /// Notes that a link has failed, and how long its other end may have been gone unnoticed.
    fn note_failed(&self, unnoticed: Duration) {
        let at = clock::now_us().saturating_sub(unnoticed.as_micros() as u64).max(1);
        // Of several links that fail together, the first one noticed gives the best estimate. One that failed
        // long before, while others were up, gives none.
        let is_news =
            |before: u64| before == 0 || at > before.saturating_add(PROCESS_LOSS_WINDOW.as_micros() as u64);
        let first = |before: u64| is_news(before).then_some(at);
        // Where there is an estimate already, it is kept.
        let _ = self.peer_lost_at_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, first);
    }

    fn counter(&self, is: LinkActivity) -> &AtomicUsize {
        &self.links[is as usize]
    }

    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    pub fn is_at_maximum(&self) -> bool {
        self.at_maximum.load(Ordering::Relaxed)
    }

    pub fn set_at_maximum(&self, at_maximum: bool) {
        self.at_maximum.store(at_maximum, Ordering::Relaxed);
    }

    pub fn can_spare(&self) -> bool {
        self.can_spare.load(Ordering::Relaxed)
    }

    pub fn set_can_spare(&self, can_spare: bool) {
        self.can_spare.store(can_spare, Ordering::Relaxed);
    }

    pub fn set_surplus(&self, links: usize) {
        self.surplus.store(links, Ordering::Relaxed);
    }

    /// Whether the idle link that asks should close.
    pub fn take_surplus(&self) -> bool {
        let one_less = |links: usize| links.checked_sub(1);
        self.surplus.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }

    /// Notes that a session on one of the links was answered.
    pub fn note_carried(&self) {
        // Read first: under load it is already set, and otherwise every link would write here.
        if !self.has_carried.load(Ordering::Relaxed) {
            self.has_carried.store(true, Ordering::Relaxed);
        }
    }

    pub fn take_carried(&self) -> bool {
        self.has_carried.swap(false, Ordering::Relaxed)
    }

    /// Notes that a link has broken the protocol.
    pub fn note_violation(&self, how: PeerViolation) {
        *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(how);
        self.changed.notify_one();
    }

    pub fn take_violation(&self) -> Option<PeerViolation> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Notes that the peer has said on a link that it drains. Its sessions may go on for long.
    pub fn note_drain(&self) {
        self.drains.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    pub fn drains(&self) -> bool {
        self.drains.load(Ordering::Relaxed)
    }

    pub fn take_drain(&self) -> bool {
        self.drains.swap(false, Ordering::Relaxed)
    }

    pub fn note_round_trip(&self, round_trip: Duration) {
        self.round_trip.lock().unwrap_or_else(PoisonError::into_inner).sample(round_trip);
    }

    pub fn round_trip(&self) -> RoundTrip {
        *self.round_trip.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PoolRow {
    /// Adds the links of a peer and what they have measured.
    pub fn with_links(self, counts: &LinkCounters) -> Self {
        let seen = counts.round_trip();
        let ms = |seconds: f64| (seconds * 1e6).round() / 1e3;
        let (is_down, bulk) = (self.state == PoolState::Down, counts.count(LinkActivity::Bulk));
        counts.table.fill_row(Self {
            bulk,
            round_trip_ms: seen.smoothed.map(ms),
            round_trip_spread_ms: seen.smoothed.map(|_| ms(seen.spread)),
            gone_seconds: counts.empty_for().filter(|_| is_down).map(|away| away.as_secs_f64()),
            ..self
        })
    }
}

/// Counts one link in the [`LinkCounters`] of its peer.
#[derive(Debug)]
pub struct LinkGuard {
    counts: Arc<LinkCounters>,
    activity: LinkActivity,
    key: u64,
    entry: Arc<LinkEntry>,
    /// Its permit within the share of its gateway.
    permit: Option<SharePermit>,
}

/// ```text
/// ready ◄─► nearly full ◄─► full ◄─► bulk
///   └──────────┴──────────┴────────┴─► leaving
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkActivity {
    Ready,
    /// It takes sessions, but soon will not.
    NearlyFull,
    /// It takes no more sessions now; over SOCKS5 it has its one session.
    Full,
    /// It carries heavy sessions, and takes others only where no other link does.
    Bulk,
    /// It never will again: it was asked to leave, or is leaving.
    Leaving,
}

impl LinkActivity {
    const ALL: [Self; 5] = [Self::Ready, Self::NearlyFull, Self::Full, Self::Bulk, Self::Leaving];

    pub fn from_byte(byte: u8) -> Self {
        Self::ALL.into_iter().find(|known| *known as u8 == byte).unwrap_or(Self::Leaving)
    }
}

impl LinkGuard {
    pub fn ready(counts: &Arc<LinkCounters>, permit: Option<SharePermit>) -> Self {
        counts.counter(LinkActivity::Ready).fetch_add(1, Ordering::Relaxed);
        counts.peer_lost_at_us.store(0, Ordering::Relaxed);
        counts.drains.store(false, Ordering::Relaxed);
        let (key, entry) = counts.table.add();
        Self { counts: counts.clone(), activity: LinkActivity::Ready, key, entry, permit }
    }

    /// The guard of a link that was dialled for one session.
    pub fn carrying(counts: &Arc<LinkCounters>, permit: Option<SharePermit>) -> Self {
        let mut guard = Self::ready(counts, permit);
        guard.mark_busy();
        guard
    }

    /// Adds what is known from the link's stream, and between whom it is; `end` is ours.
    pub fn describe(self, stream: &NetStream, peer: &Peer, end: LinkEnd) -> Self {
        self.entry.describe(self.key, stream, peer, end);
        self
    }

    pub fn counts(&self) -> &Arc<LinkCounters> {
        &self.counts
    }

    /// Adds that the link carries many sessions at once.
    pub fn describe_shared(
        self,
        (id, stream): (u64, &NetStream),
        load: &Arc<LinkLoad>,
        peer: &Peer,
        end: LinkEnd,
    ) -> Self {
        self.entry.describe_shared(id, load.clone(), peer.instance);
        self.describe(stream, peer, end)
    }

    /// Notes a session on a link that carries only this one.
    pub fn mark_busy(&mut self) {
        if self.activity != LinkActivity::Full {
            self.set_activity(LinkActivity::Full);
            self.note_session();
        }
    }

    /// Notes a session.
    pub fn note_session(&mut self) {
        self.counts.opened.fetch_add(1, Ordering::Relaxed);
        self.entry.note_session();
        self.permit.iter().for_each(SharePermit::note_used);
    }

    /// Notes that it has more room than before, or less.
    pub fn set_fill_level(&mut self, fill_level: LinkFillLevel) {
        if self.activity != LinkActivity::Leaving {
            self.set_activity(match fill_level {
                LinkFillLevel::Much => LinkActivity::Ready,
                LinkFillLevel::NearlyFull => LinkActivity::NearlyFull,
                LinkFillLevel::Bulk => LinkActivity::Bulk,
                LinkFillLevel::Full => LinkActivity::Full,
            });
        }
    }

    /// Notes that it has failed, and how long its other end may have been gone unnoticed.
    pub fn note_failed(&self, unnoticed: Duration) {
        self.counts.note_failed(unnoticed);
    }

    /// Notes that it takes no more sessions.
    pub fn mark_leaving(&mut self) {
        self.set_activity(LinkActivity::Leaving);
    }

    fn set_activity(&mut self, is: LinkActivity) {
        if is == self.activity {
            return;
        }
        let before = std::mem::replace(&mut self.activity, is);
        self.counts.counter(before).fetch_sub(1, Ordering::Relaxed);
        self.counts.counter(is).fetch_add(1, Ordering::Relaxed);
        self.entry.set_activity(is);
        if before == LinkActivity::Ready && is != LinkActivity::Ready {
            self.counts.changed.notify_one();
        }
    }
}

impl Drop for LinkGuard {
    fn drop(&mut self) {
        self.counts.counter(self.activity).fetch_sub(1, Ordering::Relaxed);
        // The last to write is the last to leave.
        self.counts.last_link_ended_us.store(clock::now_us().max(1), Ordering::Relaxed);
        self.counts.table.remove(self.key);
        self.counts.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_counted_once_whatever_it_does() {
        let counts = Arc::new(LinkCounters::default());
        let seen = || (counts.ready(), counts.carrying(), counts.opened());
        let mut one = LinkGuard::ready(&counts, None);
        let other = LinkGuard::carrying(&counts, None);
        assert_eq!(seen(), (1, 1, 1));
        one.mark_busy();
        one.mark_busy();
        assert_eq!(seen(), (0, 2, 2));
        drop(other);
        for (fill_level, ready, spare) in [
            (LinkFillLevel::NearlyFull, 1, 0),
            (LinkFillLevel::Much, 1, 1),
            (LinkFillLevel::Full, 0, 0),
            (LinkFillLevel::Bulk, 0, 0),
        ] {
            one.set_fill_level(fill_level);
            assert_eq!((counts.ready(), counts.count(LinkActivity::Ready)), (ready, spare), "{fill_level:?}");
        }
        one.mark_leaving();
        one.set_fill_level(LinkFillLevel::Much);
        assert_eq!((seen(), counts.links()), ((0, 1, 2), 1));
        drop(one);
        assert_eq!((seen(), counts.links()), ((0, 0, 2), 0));
    }

    #[test]
    fn only_as_many_go_as_are_too_many() {
        let counts = LinkCounters::default();
        counts.set_surplus(2);
        assert_eq!(
            [counts.take_surplus(), counts.take_surplus(), counts.take_surplus()],
            [true, true, false]
        );
    }
}
