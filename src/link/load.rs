//! How busy a link is: the sessions on it, compared with how many it carries at once. A link is nearly
//! full when it is three quarters full: from then on it does not count as ready, so another one is dialled.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;

use crate::net::tcp::SegmentCounts;

/// From this many eighths in use, a link counts as missing, so that another one is dialled before clients have
/// to wait.
const BRIMMING_EIGHTHS: usize = 6;

/// The session count of one link.
#[derive(Debug)]
pub struct LinkLoad {
    sessions: AtomicUsize,
    max: usize,
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
    Full,
}

/// A session's place on a link; given back when it is dropped. None is opened without one:
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
pub struct SessionSlot(Arc<LinkLoad>);

impl LinkLoad {
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            sessions: AtomicUsize::new(0),
            max,
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

    pub fn fill_level(&self) -> LinkFillLevel {
        self.fill_level_with(self.sessions())
    }

    pub fn has_room(&self) -> bool {
        self.fill_level() != LinkFillLevel::Full
    }

    pub fn take(self: &Arc<Self>) -> Option<SessionSlot> {
        self.take_within(self.max)
    }

    /// A place for a session that comes from another link, where there are not twice as many as the link carries. What
    /// its opener has ended here already may not be noted yet.
    pub fn take_for_move(self: &Arc<Self>) -> Option<SessionSlot> {
        self.take_within(2 * self.max)
    }

    fn take_within(self: &Arc<Self>, max: usize) -> Option<SessionSlot> {
        let one_more = |sessions: usize| (sessions < max).then_some(sessions + 1);
        let taken = self.sessions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        let before = taken.ok()?;
        self.note_change(before, before + 1);
        Some(SessionSlot(self.clone()))
    }

    /// Waits until the link has more or less room than before.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn fill_level_with(&self, sessions: usize) -> LinkFillLevel {
        match sessions {
            _ if sessions >= self.max => LinkFillLevel::Full,
            _ if sessions * 8 >= self.max * BRIMMING_EIGHTHS => LinkFillLevel::NearlyFull,
            _ => LinkFillLevel::Much,
        }
    }

    fn note_change(&self, before: usize, now: usize) {
        if self.fill_level_with(before) != self.fill_level_with(now) {
            self.changed.notify_one();
        }
    }
}

impl Drop for SessionSlot {
    fn drop(&mut self) {
        let before = self.0.sessions.fetch_sub(1, Ordering::Relaxed);
        self.0.note_change(before, before - 1);
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
}
