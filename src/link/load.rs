//! How busy a link is: the sessions on it, compared with how many it carries at once. A link is nearly
//! full when it is three quarters full: from then on it does not count as ready, so another one is dialled.
//! Neither does one that a heavy session has come to: from then on it is a link for bulk, as long as that session is
//! there.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::sync::Notify;

use crate::net::tcp::SegmentCounts;

/// From this many eighths in use, a link counts as missing, so that another one is dialled before clients have
/// to wait.
const NEARLY_FULL_EIGHTHS: usize = 6;
/// As how many sessions one counts that moves much, when a link for a new session is chosen.
const HEAVY_SESSION_PARTS: usize = 16;

/// The session count of one link.
#[derive(Debug)]
pub struct LinkLoad {
    sessions: AtomicUsize,
    /// Sessions that have come to it because they are heavy.
    moved_heavy: AtomicUsize,
    /// At an opener: other sessions on it that move much.
    busy: AtomicUsize,
    max: usize,
    /// Its last ping is not answered, and nothing else has come since.
    is_silent: AtomicBool,
    /// TCP segments that its connection had sent when the link was last checked.
    segments: Mutex<SegmentCounts>,
    /// Notified when one of the thresholds is crossed, in either direction.
    changed: Notify,
}

/// How much room a link has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkFillLevel {
    Much,
    /// It takes sessions, but soon will not.
    NearlyFull,
    /// It carries heavy sessions, and takes new ones only where no other link does.
    Bulk,
    Full,
}

/// Whether a session comes to a link because it moves much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionWeight {
    Light,
    Heavy,
}

/// A session's slot on a link; given back when it is dropped. None is opened without one:
///
/// ```
/// use portcullis::{link::{load::SessionSlot, multiplex::handle::*}, proto::multiplex::open::OpenRequest};
///
/// async fn open(link: &LinkHandle, request: OpenRequest, client: Box<LocalSide>, slot: SessionSlot) {
///     link.open(request, client, slot).await;
/// }
/// ```
///
/// ```compile_fail,E0061
/// use portcullis::{link::multiplex::handle::*, proto::multiplex::open::OpenRequest};
///
/// async fn open(link: &LinkHandle, request: OpenRequest, client: Box<LocalSide>) {
///     link.open(request, client).await;
/// }
/// ```
#[derive(Debug)]
pub struct SessionSlot {
    load: Arc<LinkLoad>,
    weight: SessionWeight,
}

impl LinkLoad {
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            sessions: AtomicUsize::new(0),
            moved_heavy: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            max,
            is_silent: AtomicBool::new(false),
            segments: Mutex::default(),
            changed: Notify::new(),
        })
    }

    pub fn max(&self) -> usize {
        self.max
    }

    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    pub fn note_segments(&self, segments: SegmentCounts) {
        *self.segments.lock().unwrap_or_else(PoisonError::into_inner) = segments;
    }

    pub fn segments(&self) -> SegmentCounts {
        *self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sessions that have come to it because they are heavy.
    pub fn moved_heavy(&self) -> usize {
        self.moved_heavy.load(Ordering::Relaxed)
    }

    /// Whether it is a link for bulk.
    pub fn is_for_bulk(&self) -> bool {
        self.moved_heavy() > 0
    }

    /// Notes how many sessions on it move much, besides those that have come for that.
    pub fn note_busy(&self, sessions: usize) {
        self.busy.store(sessions, Ordering::Relaxed);
    }

    /// How much it has to do, for the choice of a link for a new session. Links for bulk come last.
    pub fn to_do(&self) -> (bool, usize) {
        (self.is_for_bulk(), self.sessions() + HEAVY_SESSION_PARTS * self.busy.load(Ordering::Relaxed))
    }

    /// Notes that a ping is sent because nothing has come for a while.
    pub fn note_ping(&self) {
        self.is_silent.store(true, Ordering::Relaxed);
    }

    /// Notes that something has come.
    pub fn note_received(&self) {
        // Read first: it is seldom set, and others read what is beside it.
        if self.is_silent.load(Ordering::Relaxed) {
            self.is_silent.store(false, Ordering::Relaxed);
        }
    }

    /// Whether nothing has come since its last ping, so that its other end may be dead.
    pub fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::Relaxed)
    }

    pub fn fill_level(&self) -> LinkFillLevel {
        let by_sessions = self.fill_level_with(self.sessions());
        if by_sessions != LinkFillLevel::Full && self.is_for_bulk() {
            LinkFillLevel::Bulk
        } else {
            by_sessions
        }
    }

    pub fn has_room(&self) -> bool {
        self.sessions() < self.max
    }

    /// Whether sessions may move to it, which leave the rest to new ones.
    pub fn has_much_room(&self) -> bool {
        self.fill_level_with(self.sessions()) == LinkFillLevel::Much
    }

    pub fn take(self: &Arc<Self>) -> Option<SessionSlot> {
        self.take_within(self.max, SessionWeight::Light)
    }

    /// A place for a heavy session of an opener's; the link is one for bulk from now on.
    pub fn take_heavy(self: &Arc<Self>) -> Option<SessionSlot> {
        self.take_within(self.max, SessionWeight::Heavy)
    }

    /// A slot for a session that comes from another link, where there are not twice as many as the link carries. What
    /// its opener has ended here already may not be noted yet.
    pub fn take_for_move(self: &Arc<Self>, weight: SessionWeight) -> Option<SessionSlot> {
        self.take_within(2 * self.max, weight)
    }

    fn take_within(self: &Arc<Self>, max: usize, weight: SessionWeight) -> Option<SessionSlot> {
        let one_more = |sessions: usize| (sessions < max).then_some(sessions + 1);
        let taken = self.sessions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        let before = taken.ok()?;
        self.note_change(before, before + 1);
        if weight == SessionWeight::Heavy && self.moved_heavy.fetch_add(1, Ordering::Relaxed) == 0 {
            self.changed.notify_one();
        }
        Some(SessionSlot { load: self.clone(), weight })
    }

    /// Waits until the link has more or less room than before.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn fill_level_with(&self, sessions: usize) -> LinkFillLevel {
        match sessions {
            _ if sessions >= self.max => LinkFillLevel::Full,
            _ if sessions * 8 >= self.max * NEARLY_FULL_EIGHTHS => LinkFillLevel::NearlyFull,
            _ => LinkFillLevel::Much,
        }
    }

    fn note_change(&self, before: usize, now: usize) {
        if self.fill_level_with(before) != self.fill_level_with(now) {
            self.changed.notify_one();
        }
    }
}

impl SessionSlot {
    pub fn weight(&self) -> SessionWeight {
        self.weight
    }
}

impl Drop for SessionSlot {
    fn drop(&mut self) {
        let before = self.load.sessions.fetch_sub(1, Ordering::Relaxed);
        self.load.note_change(before, before - 1);
        let is_heavy = self.weight == SessionWeight::Heavy;
        if is_heavy && self.load.moved_heavy.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.load.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_released_and_each_threshold_notifies() {
        let load = LinkLoad::new(8);
        let mut slots: Vec<_> = (0..8).map_while(|_| load.take()).collect();
        assert_eq!((slots.len(), load.fill_level(), load.take().is_none()), (8, LinkFillLevel::Full, true));
        let mut rooms = Vec::new();
        while slots.pop().is_some() {
            rooms.push(load.fill_level());
        }
        let expected = [LinkFillLevel::NearlyFull; 2].into_iter().chain([LinkFillLevel::Much; 6]);
        assert!(rooms.iter().copied().eq(expected), "{rooms:?}");
        assert_eq!(load.sessions(), 0);
    }

    #[test]
    fn a_link_for_one_session_has_room_for_it() {
        let load = LinkLoad::new(1);
        assert_eq!(load.fill_level(), LinkFillLevel::Much);
        let _slot = load.take();
        assert_eq!(load.fill_level(), LinkFillLevel::Full);
    }

    #[tokio::test]
    async fn a_link_is_for_bulk_while_a_session_is_there_that_came_for_that() {
        let load = LinkLoad::new(8);
        let light = load.take();
        let heavy = load.take_heavy();
        load.changed().await;
        assert_eq!((load.fill_level(), load.has_room()), (LinkFillLevel::Bulk, true));
        let others: Vec<_> = (0..6).map_while(|_| load.take()).collect();
        assert_eq!((others.len(), load.fill_level(), load.has_much_room()), (6, LinkFillLevel::Full, false));
        drop(others);
        let more = load.take_for_move(SessionWeight::Heavy);
        assert!(load.to_do() > LinkLoad::new(8).to_do());
        drop((heavy, light));
        assert!(load.is_for_bulk(), "another one is there");
        load.changed().await;
        drop(more);
        load.changed().await;
        assert_eq!((load.fill_level(), load.sessions()), (LinkFillLevel::Much, 0));
    }

    #[test]
    fn a_new_session_goes_where_few_are_and_none_is_busy() {
        let links: Vec<_> = (0..4).map(|_| LinkLoad::new(256)).collect();
        let _places: Vec<_> = (0..10).map_while(|_| links[0].take()).collect();
        let _busy = links[1].take();
        links[1].note_busy(1);
        let _bulk = links[2].take_heavy();
        let _others: Vec<_> = (0..11).map_while(|_| links[3].take()).collect();
        let mut order = [0, 1, 2, 3];
        order.sort_by_key(|at| links[*at as usize].to_do());
        assert_eq!(order, [0, 3, 1, 2]);
    }
}
