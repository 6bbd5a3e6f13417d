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
    /// Starts a task, which ends by itself or by the token it was given.
    #[expect(clippy::disallowed_methods, reason = "this is the helper that the ban points to")]
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(catch_panic(name, future));
    }

    /// Runs something that is probably finished after its first poll, which happens at once: a flood of
    /// those costs no tasks.
    #[expect(clippy::disallowed_methods, reason = "as above")]
    pub fn run_or_spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let mut future = Box::pin(catch_panic(name, future));
        if (&mut future).now_or_never().is_none() {
            self.tracker.spawn(future);
        }
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

/// Not an async function, whose state would hold the future twice.
fn catch_panic(name: &'static str, future: impl Future<Output = ()>) -> impl Future<Output = ()> {
    AssertUnwindSafe(future).catch_unwind().map(move |ended| {
        if ended.is_err() {
            tracing::error!(
                event = "task_panicked",
                task = name,
                "a task panicked; this is a bug, please report it"
            );
        }
    })
}
