//! Sessions of clients that keep their connection: between two requests they rest. A service's limit is one
//! of work, so a session that rests gives its place up to a client that asks for something.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Context,
};

use futures_util::task::AtomicWaker;

const AT_WORK: u64 = 0;
const LEFT: u64 = u64::MAX;

/// Grows with each session that comes to rest, so that a smaller one has rested for longer.
static TURN: AtomicU64 = AtomicU64::new(AT_WORK + 1);

/// ```text
/// at work ⇄ at rest
///    └─────────┴──► left
/// ```
#[derive(Debug)]
pub struct Rest {
    /// The turn at which it came to rest, or one of the other two states.
    state: AtomicU64,
    room: Arc<Room>,
}

impl Rest {
    pub fn at_work(room: &Arc<Room>) -> Arc<Self> {
        Arc::new(Self { state: AtomicU64::new(AT_WORK), room: room.clone() })
    }

    fn change(&self, from: u64, to: u64) -> bool {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn rest(&self) {
        self.change(AT_WORK, TURN.fetch_add(1, Ordering::Relaxed));
    }

    /// Goes to work again, unless its place is somebody else's by now.
    pub fn work(&self) -> bool {
        let state = self.state.load(Ordering::Acquire);
        state != LEFT && self.change(state, AT_WORK)
    }

    /// Since which turn it rests, where it does.
    pub fn since(&self) -> Option<u64> {
        let state = self.state.load(Ordering::Acquire);
        (state != AT_WORK && state != LEFT).then_some(state)
    }

    /// Gives its place up, if it has rested since then; its client's connection hears of it.
    pub fn give_way(&self, since: u64) -> bool {
        let gives = self.change(since, LEFT);
        if gives {
            self.room.ask();
        }
        gives
    }

    pub fn has_left(&self) -> bool {
        self.state.load(Ordering::Acquire) == LEFT
    }

    /// Its session is over; whether it still had its place.
    pub fn end(&self) -> bool {
        self.state.swap(LEFT, Ordering::AcqRel) != LEFT
    }
}

/// The work of a session until it is dropped.
#[derive(Debug)]
pub struct Work(Arc<Rest>);

impl Work {
    pub fn of(rest: &Arc<Rest>) -> Self {
        Self(rest.clone())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.rest();
    }
}

/// Where a client's connection hears that sessions of its have given their place up.
#[derive(Debug, Default)]
pub struct Room {
    is_asked: AtomicBool,
    waker: AtomicWaker,
}

impl Room {
    fn ask(&self) {
        self.is_asked.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether some have since the last look.
    pub fn poll(&self, cx: &Context<'_>) -> bool {
        self.waker.register(cx.waker());
        self.is_asked.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_up_at_rest_alone_and_once() {
        let room = Arc::default();
        let [one, other] = [Rest::at_work(&room), Rest::at_work(&room)];
        assert_eq!(one.since(), None);
        drop(Work::of(&one));
        drop(Work::of(&other));
        let (first, second) = (one.since().expect("it rests"), other.since().expect("it rests"));
        assert!(first < second);
        let cx = Context::from_waker(std::task::Waker::noop());
        assert!(other.work() && !other.give_way(second) && !room.poll(&cx));
        assert!(one.give_way(first) && !one.give_way(first) && room.poll(&cx) && !room.poll(&cx));
        assert!(one.has_left() && !one.work() && one.since().is_none());
        // What comes to its end later changes nothing.
        drop(Work::of(&one));
        assert!(one.has_left() && !one.end() && other.end());
    }
}
