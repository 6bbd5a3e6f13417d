//! Which sessions of a link have something to do: their sockets' wakers put the session numbers on one list and
//! wake the link's task, which owns all of the sessions.
//!
//! A waker may be called on any thread, so the list has a lock. The task takes the whole list once a round. A
//! waker holds the lock only for a push, and takes it once, however often its session is woken before it is
//! served.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// Each session is on it at most once, so it is bounded by their number.
#[derive(Debug, Default)]
pub struct ReadyList {
    numbers: Mutex<VecDeque<u32>>,
    task: AtomicWaker,
}

/// The task's end of the list.
#[derive(Debug, Default)]
pub struct ReadyQueue {
    list: Arc<ReadyList>,
    /// Sessions that were listed when the last round began and are not served yet.
    due: VecDeque<u32>,
}

/// The waker of one session.
#[derive(Debug)]
pub struct SessionWaker {
    number: u32,
    is_listed: AtomicBool,
    list: Arc<ReadyList>,
}

impl ReadyList {
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<u32>> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadyQueue {
    /// Sets the task to wake from now on.
    pub fn register(&self, task: &Waker) {
        self.list.task.register(task);
    }

    pub fn waker(&self, number: u32) -> Arc<SessionWaker> {
        SessionWaker::new(number, self.list.clone())
    }

    /// Takes what is listed now, unless something is left from the round before.
    pub fn begin_round(&mut self) {
        if self.due.is_empty() {
            std::mem::swap(&mut *self.list.lock(), &mut self.due);
        }
    }

    pub fn pop(&mut self) -> Option<u32> {
        self.due.pop_front()
    }
}

impl SessionWaker {
    pub fn new(number: u32, list: Arc<ReadyList>) -> Arc<Self> {
        Arc::new(Self { number, is_listed: AtomicBool::new(false), list })
    }

    /// Puts the session on the list without waking the task, for the task's own use.
    pub fn list(&self) -> bool {
        let is_new = !self.is_listed.swap(true, Ordering::AcqRel);
        if is_new {
            self.list.lock().push_back(self.number);
        }
        is_new
    }

    /// Notes that the session was taken from the list, so the next event lists it again.
    pub fn unlist(&self) {
        self.is_listed.store(false, Ordering::Release);
    }
}

impl Wake for SessionWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.list() {
            self.list.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_listed_once_until_it_is_taken() {
        let mut queue = ReadyQueue::default();
        let (one, other) = (queue.waker(1), queue.waker(2));
        for _ in 0..3 {
            one.wake_by_ref();
            other.wake_by_ref();
        }
        let mut round = || {
            queue.begin_round();
            std::iter::from_fn(|| queue.pop()).collect::<Vec<_>>()
        };
        assert_eq!(round(), [1, 2]);
        one.wake_by_ref();
        assert!(round().is_empty(), "it has not been served yet");
        one.unlist();
        one.wake_by_ref();
        assert_eq!(round(), [1]);
    }
}
