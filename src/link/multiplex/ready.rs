//! Which sessions of a link have something to do: their sockets' wakers put their numbers on one list and
//! wake the link's task, which has all of them.

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

/// What wakes one session.
#[derive(Debug)]
pub struct SessionWaker {
    number: u32,
    is_listed: AtomicBool,
    list: Arc<ReadyList>,
}

impl ReadyList {
    /// The task that is woken from now on.
    pub fn register(&self, task: &Waker) {
        self.task.register(task);
    }

    pub fn pop(&self) -> Option<u32> {
        self.lock().pop_front()
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<u32>> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
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
        let list = Arc::new(ReadyList::default());
        let (one, other) = (SessionWaker::new(1, list.clone()), SessionWaker::new(2, list.clone()));
        for _ in 0..3 {
            one.wake_by_ref();
            other.wake_by_ref();
        }
        assert_eq!((list.pop(), list.pop(), list.pop()), (Some(1), Some(2), None));
        one.wake_by_ref();
        assert!(list.is_empty(), "it has not been served yet");
        one.unlist();
        one.wake_by_ref();
        assert_eq!(list.pop(), Some(1));
    }
}
