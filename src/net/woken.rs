//! A future that is driven together with others: whoever drives it asks it often, and it runs only when it was woken.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::{future::BoxFuture, task::AtomicWaker};

/// Wakes a task for one of the futures that it drives.
#[derive(Debug)]
pub struct PartWaker {
    is_woken: AtomicBool,
    task: Arc<AtomicWaker>,
}

impl PartWaker {
    /// For a future that has yet to run for the first time.
    pub fn new(task: Arc<AtomicWaker>) -> Arc<Self> {
        Arc::new(Self { is_woken: AtomicBool::new(true), task })
    }

    pub fn is_woken(&self) -> bool {
        self.is_woken.load(Ordering::Acquire)
    }

    /// Whether it was woken since the last time.
    pub fn take_woken(&self) -> bool {
        self.is_woken.swap(false, Ordering::AcqRel)
    }

    /// Lets the future run with the next turn of its task, which somebody else wakes.
    pub fn note_woken(&self) {
        self.is_woken.store(true, Ordering::Release);
    }
}

impl Wake for PartWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.note_woken();
        self.task.wake();
    }
}

/// Such a future, with its waker.
pub struct WokenFuture {
    future: BoxFuture<'static, ()>,
    pub waker: Arc<PartWaker>,
}

impl WokenFuture {
    pub fn new(future: BoxFuture<'static, ()>, task: Arc<AtomicWaker>) -> Self {
        Self { future, waker: PartWaker::new(task) }
    }

    /// Runs it if it was woken, within a task that is woken when it next can run.
    pub fn poll_in(&mut self, cx: &Context<'_>) -> Poll<()> {
        self.waker.task.register(cx.waker());
        self.poll()
    }

    /// Runs it if it was woken.
    pub fn poll(&mut self) -> Poll<()> {
        if !self.waker.take_woken() {
            return Poll::Pending;
        }
        let waker = Waker::from(self.waker.clone());
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }

    pub fn into_inner(self) -> BoxFuture<'static, ()> {
        self.future
    }
}
