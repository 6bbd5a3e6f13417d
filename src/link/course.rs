//! How dialling goes for the links of one kind: what is under way, failures, and the next try.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{keeper::LIVED, seat::Counts};
use crate::{
    net::backoff::Backoff,
    profile::Retry,
    telemetry::snapshot::{PoolRow, PoolState},
};

/// Why no more links are dialled, or taken.
pub const AT_MAXIMUM: &str = "`maximum` links are in use";
/// Dials under way at once.
const DIALS_MAX: usize = 32;

pub struct Course {
    pub counts: Arc<Counts>,
    pub dialling: usize,
    /// Cancelled when such links are not wanted any more.
    pub retired: CancellationToken,
    pub last_error: Option<String>,
    /// More links are wanted than may be.
    pub at_maximum: bool,
    pub next_dial: Option<Instant>,
    failures: u64,
    backoff: Backoff,
    /// Since when links have stood without a failure in between.
    good_since: Option<Instant>,
}

impl Course {
    pub fn new(counts: Arc<Counts>, retired: CancellationToken) -> Self {
        Self {
            counts,
            dialling: 0,
            retired,
            last_error: None,
            at_maximum: false,
            next_dial: None,
            failures: 0,
            backoff: Backoff::default(),
            good_since: None,
        }
    }

    /// Whether the last dial stood.
    pub fn is_good(&self) -> bool {
        self.good_since.is_some() && self.last_error.is_none()
    }

    /// Enough links are ready, or sessions come already: under load they may never be seen ready.
    pub fn has_enough(&self, prepared: usize) -> bool {
        self.counts.opened() > 0 || self.counts.ready() >= prepared
    }

    /// A new bound on pauses may be shorter than the one under way.
    pub fn shorten_pause(&mut self, retry: Retry) {
        self.next_dial = self.next_dial.map(|at| at.min(Instant::now() + retry.maximum));
    }

    /// How long no dial is due.
    pub fn pause(&mut self, now: Instant) -> Option<Duration> {
        match self.next_dial {
            Some(at) if at > now => return Some(at - now),
            _ => self.next_dial = None,
        }
        if self.good_since.is_some_and(|at| at.elapsed() >= LIVED) {
            self.backoff.reset();
        }
        None
    }

    /// How many dials to start now, of those that would make `wanted` links ready.
    pub fn missing(&self, wanted: usize) -> usize {
        let at_once = match self.backoff.failures() > 0 && self.counts.ready() == 0 {
            true => 1,
            false => DIALS_MAX,
        };
        let missing = wanted.saturating_sub(self.counts.ready() + self.dialling);
        missing.min(at_once.saturating_sub(self.dialling))
    }

    /// A link stands; after how many failures in a row.
    pub fn stands(&mut self) -> u32 {
        let failures = if self.good_since.is_none() { self.backoff.failures() } else { 0 };
        self.good_since.get_or_insert_with(Instant::now);
        self.next_dial = None;
        self.last_error = None;
        failures
    }

    pub fn carries(&mut self) {
        self.backoff.reset();
    }

    /// A dial or a ready link has failed; whether it is the first of its kind.
    pub fn failed(&mut self, error: &str, way_is_good: bool, retry: Retry) -> bool {
        self.failures += 1;
        let now = Instant::now();
        // Dials that were under way together fail together, and count as one.
        if !way_is_good && self.next_dial.is_none_or(|at| at <= now) {
            self.next_dial = Some(now + self.backoff.fail(retry, fastrand::f64()));
            self.good_since = None;
        }
        self.last_error.replace(error.to_owned()).is_none()
    }

    /// Adds to a row what is known here.
    pub fn show(&self, row: PoolRow) -> PoolRow {
        let (ready, carrying) = (self.counts.ready(), self.counts.carrying());
        let state = match &self.last_error {
            Some(_) if ready == 0 && carrying == 0 => PoolState::Down,
            _ if ready >= row.target && self.good_since.is_some() => PoolState::Healthy,
            _ => PoolState::Filling,
        };
        let at_maximum = self.at_maximum && ready < row.target;
        let pause = self.next_dial.map(|at| at.saturating_duration_since(Instant::now()));
        let pause = pause.filter(|pause| !pause.is_zero() && self.last_error.is_some());
        PoolRow {
            state,
            ready,
            carrying,
            dialling: self.dialling,
            failures: self.failures,
            at_maximum,
            last_error: self.last_error.clone().or_else(|| at_maximum.then(|| AT_MAXIMUM.into())),
            retry_seconds: pause.map(|pause| pause.as_secs_f64()),
            ..row
        }
        .with_links(&self.counts)
    }
}
