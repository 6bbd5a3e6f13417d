//! At an opener: sessions that move so much that those beside them would wait for them. They leave for a link for bulk,
//! and others leave that link.
//!
//! Heavy is who moves many bytes between two checks, not who fills its turns: turns are short while many share them.
//! Sessions are looked at only while their link moves much at all, so a quiet link has nothing to do here.

use foldhash::{HashMap, HashSet};
use tokio::time::Instant;

use super::{moving::MoveReason, table::SessionTable, task::MultiplexedLink};
use crate::link::{load::SessionWeight, multiplex::row::LinkedSession};

/// A session is heavy when it moves this much from one check to the next, while its link did so before already.
pub const HEAVY_BYTES_A_SECOND: u64 = 512 * 1024;

/// What a link's sessions have moved.
#[derive(Debug)]
pub(super) struct HeavyWatch {
    /// By the link in all, since the last check.
    link_bytes: u64,
    checked_at: Instant,
    /// By each session, up to the last check; empty if the link was quiet before it.
    before: HashMap<u32, u64>,
    /// Sessions that their server has kept. They are not asked for again while the link is busy.
    kept: HashSet<u32>,
}

impl HeavyWatch {
    pub fn new(now: Instant) -> Self {
        Self { link_bytes: 0, checked_at: now, before: HashMap::default(), kept: HashSet::default() }
    }

    pub fn note_moved(&mut self, bytes: usize) {
        self.link_bytes += bytes as u64;
    }

    pub fn note_kept(&mut self, number: u32) {
        self.kept.insert(number);
    }

    /// The sessions that are heavy now.
    fn judge(&mut self, sessions: &SessionTable<LinkedSession>, now: Instant) -> HashSet<u32> {
        let seconds = now.saturating_duration_since(self.checked_at).as_secs_f64();
        let much = (HEAVY_BYTES_A_SECOND as f64 * seconds) as u64;
        let (link_bytes, before) = (std::mem::take(&mut self.link_bytes), std::mem::take(&mut self.before));
        self.checked_at = now;
        if link_bytes < much {
            self.kept = HashSet::default();
            return HashSet::default();
        }
        self.before = sessions.iter().map(|(number, entry)| (number, entry.channel.moved())).collect();
        let is_heavy =
            |number: &u32, moved: &u64| before.get(number).is_some_and(|before| moved - before >= much);
        self.before
            .iter()
            .filter(|(number, moved)| is_heavy(number, moved))
            .map(|(number, _)| *number)
            .collect()
    }
}

impl MultiplexedLink {
    /// Which sessions should leave now, and why.
    pub(super) fn judge_sessions(&mut self) -> (Vec<u32>, MoveReason) {
        let heavy = self.heavy.judge(&self.table, Instant::now());
        let came_for_bulk = |row: &LinkedSession| row.weight() == SessionWeight::Heavy;
        let of_others = self.table.iter().filter(|(_, entry)| !came_for_bulk(&entry.row));
        let (busy, light): (Vec<_>, Vec<_>) =
            of_others.map(|(number, _)| number).partition(|number| heavy.contains(number));
        self.load.note_busy(busy.len());
        // Only once it is there: the server learns of it by that.
        let is_for_bulk = self.table.len() > busy.len() + light.len();
        if is_for_bulk {
            return (light, MoveReason::Light);
        }
        // Where all are heavy, nobody waits for them who is not. One that is alone stays, too.
        let leave = |number: &u32| !light.is_empty() && !self.heavy.kept.contains(number);
        (busy.into_iter().filter(leave).collect(), MoveReason::Heavy)
    }
}
