//! Whether all that hyper has buffered was written. A body that fails ends its connection at once, with what hyper
//! has yet to write; so its failure waits until what came before it is on its way.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

/// Shared by a connection, which is flushed, and the body that waits for it.
#[derive(Debug, Clone, Default)]
pub struct Flushes(Arc<Mutex<Flushing>>);

#[derive(Debug, Default)]
struct Flushing {
    waiter: Option<Waker>,
    is_done: bool,
    /// Bytes so far, by which a receiver that takes nothing is told.
    written: u64,
}

impl Flushes {
    /// Waits from now on for a flush that has not been yet; it is the waiter's task that makes it.
    pub fn expect(&self) {
        self.lock().is_done = false;
    }

    /// Ready once all has been written since [`Self::expect`].
    pub fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        let mut flushing = self.lock();
        if flushing.is_done {
            return Poll::Ready(());
        }
        flushing.waiter = Some(cx.waker().clone());
        Poll::Pending
    }

    pub fn written(&self) -> u64 {
        self.lock().written
    }

    pub(super) fn wrote(&self, count: usize) {
        self.lock().written += count as u64;
    }

    pub(super) fn done(&self) {
        let mut flushing = self.lock();
        if let Some(waiter) = flushing.waiter.take() {
            flushing.is_done = true;
            waiter.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Flushing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
