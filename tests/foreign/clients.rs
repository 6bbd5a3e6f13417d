//! Clients that come one after the other, all the while that a test does something to gateways.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use crate::process::{SOON, until};

/// Each of them is what `ask` does, and counts as served when that went well.
pub struct Clients {
    served: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: thread::JoinHandle<Vec<String>>,
}

impl Clients {
    pub fn start(mut ask: impl FnMut() -> io::Result<()> + Send + 'static) -> Self {
        let (served, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, over) = (served.clone(), is_over.clone());
        let thread = thread::spawn(move || {
            let mut failures = Vec::new();
            while !over.load(Ordering::Relaxed) {
                match ask() {
                    Ok(()) => drop(count.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => failures.push(error.to_string()),
                }
                // Often, and the machine has other things to do too.
                thread::sleep(Duration::from_millis(5));
            }
            failures
        });
        Self { served, is_over, thread }
    }

    /// Waits until more have been served, so that a step has had clients.
    #[track_caller]
    pub fn some_more(&self) {
        let before = self.served.load(Ordering::Relaxed);
        until("more clients are served", 2 * SOON, || {
            (self.served.load(Ordering::Relaxed) >= before + 20).then_some(())
        });
    }

    /// None of them has failed.
    #[track_caller]
    pub fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        let failures = self.thread.join().expect("no panic");
        assert!(failures.is_empty(), "{} clients failed: {:?}", failures.len(), failures.first());
    }
}
