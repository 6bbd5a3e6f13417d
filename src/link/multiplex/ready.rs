//! Which sessions of a link have something to do: their sockets' wakers put their numbers on one list and
//! wake the link's task, which has all of them.
//!
//! A waker may be called on any thread, so the list has a lock. The task takes the whole list once a round; a waker
//! takes the lock for as long as a push takes, and once for all that wakes its session until it is served.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// Each session is on it at most once, so their number is its bound.
#[derive(Debug, Default)]
pub struct ReadyList {
    numbers: Mutex<VecDeque<u32>>,
    task: AtomicWaker,
}

/// The end of the list that the task has.
#[derive(Debug, Default)]
pub struct ReadyQueue {
    list: Arc<ReadyList>,
    /// What was listed when the last round began, and was not served yet.
    due: VecDeque<u32>,
}

/// What wakes one session.
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
    /// The task that is woken from now on.
    pub fn register(&self, task: &Waker) {
        self.list.task.register(task);
    }

    pub fn waker(&self, number: u32) -> Arc<SessionWaker> {
        SessionWaker::new(number, self.list.clone())
    }

    /// Takes what is listed now, unless some is left of the round before.
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

    /// Puts the session on the list without waking the task, which does it itself.
    pub fn list(&self) -> bool {
        let is_new = !self.is_listed.swap(true, Ordering::AcqRel);
        if is_new {
            self.list.lock().push_back(self.number);
        }
        is_new
    }

    /// It has been taken from the list: what happens from now on lists it again.
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
