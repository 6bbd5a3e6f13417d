//! Tells whether everything that hyper has buffered was written. A body that fails ends its connection at once,
//! together with what hyper has not written yet. So its failure waits until the bytes before it are on their
//! way.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

/// Shared by a connection, which is flushed, and the body that waits for that.
#[derive(Debug, Clone, Default)]
pub struct FlushTracker(Arc<Mutex<FlushState>>);

#[derive(Debug, Default)]
struct FlushState {
    waiter: Option<Waker>,
    is_done: bool,
    /// Bytes written so far, by which a receiver that takes nothing is recognised.
    written: u64,
}

impl FlushTracker {
    /// Waits for the next flush from now on; the waiter's own task performs it.
    pub fn expect(&self) {
        self.lock().is_done = false;
    }

    /// Ready once everything has been written since [`Self::expect`].
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

    fn lock(&self) -> MutexGuard<'_, FlushState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
