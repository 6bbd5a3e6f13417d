//! The one way to start a task, so that every task has a name, an owner and an end.
//!
//! A panic in a task is a bug: it is logged with the task's name and costs that task only.

use std::{future::Future, panic::AssertUnwindSafe};

use futures_util::FutureExt;
use tokio_util::task::TaskTracker;

/// The tasks of one owner. Clones share the same set.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
}

impl Tasks {
    /// Starts a task; it ends by itself or by the token it was given.
    #[expect(clippy::disallowed_methods, reason = "this is the helper that the ban points to")]
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(async move {
            if AssertUnwindSafe(future).catch_unwind().await.is_err() {
                tracing::error!(
                    event = "task_panicked",
                    task = name,
                    "a task panicked; this is a bug, please report it"
                );
            }
        });
    }

    /// Tasks that have not ended.
    pub fn count(&self) -> usize {
        self.tracker.len()
    }

    /// Waits until every task has ended.
    pub async fn all_ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}
