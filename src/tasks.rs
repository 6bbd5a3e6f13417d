//! The one way to start a task, to do work that keeps a thread for long, and to start a thread, so that each has a name
//! and an owner. Others are refused by a lint (`.clippy.toml`).
//!
//! A panic in a task is a bug: it is logged with the task's name and costs that task only.

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use futures_util::FutureExt;
use thiserror::Error;
use tokio_util::task::TaskTracker;

/// The tasks of one owner. Clones share the same set.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    running: Arc<TaskNames>,
}

/// The names of tasks that have not ended, and how many have each.
#[derive(Debug, Default)]
struct TaskNames(Mutex<BTreeMap<&'static str, usize>>);

/// A task that has not ended.
struct RunningTask {
    names: Arc<TaskNames>,
    name: &'static str,
}

impl TaskNames {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_running(self: &Arc<Self>, name: &'static str) -> RunningTask {
        *self.lock().entry(name).or_default() += 1;
        RunningTask { names: self.clone(), name }
    }
}

impl Drop for RunningTask {
    fn drop(&mut self) {
        let mut names = self.names.lock();
        if let Some(count) = names.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                names.remove(self.name);
            }
        }
    }
}

impl Tasks {
    /// Starts a task, which ends by itself or by the token it was given.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        self.start(name, catch_panic(name, future));
    }

    /// Runs something that is probably finished after its first poll, which happens at once: a flood of
    /// those costs no tasks.
    pub fn run_or_spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let mut future = Box::pin(catch_panic(name, future));
        if (&mut future).now_or_never().is_none() {
            self.start(name, future);
        }
    }

    #[expect(clippy::disallowed_methods, reason = "this is the helper that the ban points to")]
    fn start(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let running = self.running.note_running(name);
        self.tracker.spawn(future.map(|()| drop(running)));
    }

    /// Tasks that have not ended.
    pub fn count(&self) -> usize {
        self.tracker.len()
    }

    /// The names of those, for the log; empty if all have ended.
    pub fn describe_running(&self) -> String {
        let running = self.running.lock();
        let named = running.iter().map(|(name, count)| match count {
            1 => (*name).to_owned(),
            count => format!("{name} ({count})"),
        });
        named.collect::<Vec<_>>().join(", ")
    }

    /// Waits until every task has ended.
    pub async fn all_ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Why work on another thread has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BlockedWork {
    /// It was waited for this long. Its thread goes on with it, and nobody takes the result.
    #[error("it was not done within {}s", .0.as_secs())]
    Late(Duration),
    #[error("its thread panicked; this is a bug, see the log, please report it")]
    Panicked,
}

/// Does work that may keep a thread for long on one of the runtime's threads for that. It is begun even if the caller
/// leaves, and waited for no longer than `within`.
#[expect(clippy::disallowed_methods, reason = "this is the helper that the ban points to")]
pub async fn run_blocking<T: Send + 'static>(
    name: &'static str,
    within: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, BlockedWork> {
    let working = tokio::task::spawn_blocking(move || std::panic::catch_unwind(AssertUnwindSafe(work)));
    match tokio::time::timeout(within, working).await {
        Ok(Ok(Ok(done))) => Ok(done),
        Ok(Ok(Err(_)) | Err(_)) => {
            report_panic(name);
            Err(BlockedWork::Panicked)
        }
        Err(_) => Err(BlockedWork::Late(within)),
    }
}

/// Starts a thread beside the runtime. Nobody waits for its end: it ends with its work, and at the latest with the
/// process.
pub fn spawn_thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    start_thread(thread::Builder::new().name(name.into()), run)
}

/// Starts a thread, as [`spawn_thread`] does, with this much memory for its stack.
pub fn spawn_small_thread(
    name: &str,
    stack_bytes: usize,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    start_thread(thread::Builder::new().name(name.into()).stack_size(stack_bytes), run)
}

fn start_thread(builder: thread::Builder, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    builder.spawn(run).map(drop)
}

/// Not an async function, whose state would hold the future twice.
fn catch_panic(name: &'static str, future: impl Future<Output = ()>) -> impl Future<Output = ()> {
    AssertUnwindSafe(future).catch_unwind().map(move |ended| {
        if ended.is_err() {
            report_panic(name);
        }
    })
}

fn report_panic(name: &'static str) {
    tracing::error!(event = "task_panicked", task = name, "a task panicked; this is a bug, please report it");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tasks_that_have_not_ended_are_named() {
        let tasks = Tasks::default();
        let (release, held) = tokio::sync::watch::channel(false);
        for name in ["session", "link", "session"] {
            let mut held = held.clone();
            // A sender that is gone has released them as well.
            tasks.spawn(name, async move { drop(held.wait_for(|is_over| *is_over).await) });
        }
        tasks.run_or_spawn("answer", async {});
        assert_eq!((tasks.describe_running(), tasks.count()), ("link, session (2)".into(), 3));
        release.send_replace(true);
        tasks.all_ended().await;
        assert_eq!(tasks.describe_running(), "");
    }

    #[tokio::test]
    async fn a_task_that_panics_is_over() {
        let tasks = Tasks::default();
        tasks.spawn("bug", async { panic!("a task that fails") });
        tasks.all_ended().await;
        assert_eq!(tasks.describe_running(), "");
    }

    #[tokio::test]
    async fn work_on_another_thread_is_waited_for_within_its_time() {
        let within = Duration::from_millis(50);
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held_work = run_blocking("held", within, move || held.recv().is_ok()).await;
        assert_eq!(held_work, Err(BlockedWork::Late(within)));
        assert!(release.send(()).is_ok(), "its thread goes on");
        let minute = Duration::from_secs(60);
        assert_eq!(
            run_blocking("bug", minute, || panic!("work that fails")).await,
            Err::<(), _>(BlockedWork::Panicked)
        );
        assert_eq!(run_blocking("sum", minute, || 7).await, Ok(7));
    }
}
