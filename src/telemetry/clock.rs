//! A coarse clock for the byte path, with one relaxed load instead of a clock read for each chunk; and the wall
//! clock, which the hours of services use.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime},
};

/// The wall clock, which may be set while we run.
#[derive(Clone)]
pub struct WallClock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Default for WallClock {
    fn default() -> Self {
        Self::new(SystemTime::now)
    }
}

impl WallClock {
    pub fn new(read: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    pub fn now(&self) -> SystemTime {
        (self.0)()
    }
}

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);
static COARSE_MS: AtomicU64 = AtomicU64::new(1);

/// Milliseconds since the process began, as of the last [`tick`]; never 0.
pub fn coarse_ms() -> u64 {
    COARSE_MS.load(Ordering::Relaxed)
}

/// Microseconds since the process began: a real clock read, for what happens a few times a session.
pub fn now_us() -> u64 {
    STARTED.elapsed().as_micros() as u64
}

/// Advances the coarse clock; the engine calls this a few times a second.
pub fn tick() {
    COARSE_MS.store(STARTED.elapsed().as_millis() as u64 + 1, Ordering::Relaxed);
}
