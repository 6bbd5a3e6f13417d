//! Limits how many descriptors one use may hold at once, so that every other use keeps its own share.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// A limit on descriptors that may change while some are held.
#[derive(Debug, Default)]
pub struct DescriptorQuota {
    state: Mutex<QuotaState>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct QuotaState {
    max: usize,
    held: usize,
}

/// The permit for one descriptor, held for as long as it is open.
pub struct QuotaPermit(Arc<DescriptorQuota>);

impl fmt::Debug for QuotaPermit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("QuotaPermit")
    }
}

impl DescriptorQuota {
    pub fn new(max: usize) -> Arc<Self> {
        let quota = Self::default();
        quota.resize(max);
        Arc::new(quota)
    }

    /// Permits that are held stay valid, even if they exceed the new limit.
    pub fn resize(&self, max: usize) {
        self.lock().max = max;
        self.freed.notify_waiters();
    }

    pub fn max(&self) -> usize {
        self.lock().max
    }

    /// Whether whoever comes now has to wait.
    pub fn is_full(&self) -> bool {
        let state = self.lock();
        state.held >= state.max
    }

    pub fn try_take(self: &Arc<Self>) -> Option<QuotaPermit> {
        let mut state = self.lock();
        let is_free = state.held < state.max;
        state.held += usize::from(is_free);
        is_free.then(|| QuotaPermit(self.clone()))
    }

    /// Waits for a permit.
    pub async fn take(self: &Arc<Self>) -> QuotaPermit {
        loop {
            let freed = self.freed.notified();
            if let Some(permit) = self.try_take() {
                return permit;
            }
            freed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, QuotaState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for QuotaPermit {
    fn drop(&mut self) {
        self.0.lock().held -= 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_place_is_waited_for_and_a_smaller_quota_takes_none_away() {
        let quota = DescriptorQuota::new(2);
        let (one, other) = (quota.take().await, quota.take().await);
        assert!(quota.try_take().is_none());
        let waiting = quota.take();
        tokio::pin!(waiting);
        assert!(timeout(Duration::from_secs(1), &mut waiting).await.is_err(), "all are taken");
        drop(one);
        let third = timeout(Duration::from_secs(1), waiting).await.expect("one is free");
        quota.resize(1);
        drop(other);
        assert!(quota.try_take().is_none(), "one is held, and no more may be");
        drop(third);
        assert!(quota.try_take().is_some());
    }
}
