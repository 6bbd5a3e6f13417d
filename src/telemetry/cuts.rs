//! Counts the sessions that were cut when a peer lost its links, so that the alert can say what the loss cost. Cuts
//! within a few seconds of each other have one cause, and are counted together.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::profile::Half;

/// The last burst of cuts of each peer.
#[derive(Debug, Default)]
pub struct CutCounters(HashMap<(Half, Arc<str>), CutBurst>);

#[derive(Debug, Clone, Copy)]
struct CutBurst {
    sessions: u64,
    last: Instant,
}

impl CutCounters {
    pub fn add(&mut self, half: Half, peer: Arc<str>, now: Instant) {
        if self.0.len() >= PEERS_MAX {
            self.0.retain(|_, burst| now.saturating_duration_since(burst.last) <= RETENTION_PERIOD);
        }
        if self.0.len() >= PEERS_MAX && !self.0.contains_key(&(half, peer.clone())) {
            return;
        }
        let burst = self.0.entry((half, peer)).or_insert(CutBurst { sessions: 0, last: now });
        if now.saturating_duration_since(burst.last) > SAME_CAUSE_WINDOW {
            burst.sessions = 0;
        }
        (burst.sessions, burst.last) = (burst.sessions + 1, now);
    }

    /// Sessions cut with a peer's last link, which ended this many seconds ago.
    pub fn cut_with(&self, half: Half, peer: &str, gone_seconds: f64) -> u64 {
        let burst = self.0.get(&(half, Arc::from(peer)));
        let is_of_it = |burst: &&CutBurst| {
            burst.last.elapsed().as_secs_f64() <= gone_seconds + SAME_CAUSE_WINDOW.as_secs_f64()
        };
        burst.filter(is_of_it).map_or(0, |burst| burst.sessions)
    }
}

/// How many peers are remembered.
const PEERS_MAX: usize = 256;
const RETENTION_PERIOD: Duration = Duration::from_secs(3600);
/// Cuts that are further apart have different causes; a dead link is noticed within this time.
const SAME_CAUSE_WINDOW: Duration = Duration::from_secs(15);
