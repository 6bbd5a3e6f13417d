//! In which order sessions are shown, so that rows do not jump under the eye.

use std::{cmp::Ordering, collections::HashMap, ops::Range};

use crate::telemetry::snapshot::{SessionPhase, SessionRow, Snapshot};

/// The rows of one snapshot in the order of the screen: waiting first, then the busiest.
#[derive(Debug, Default)]
pub struct Order {
    /// Places of [`Snapshot::sessions`], as they are shown.
    places: Vec<usize>,
    /// The line each session had when the rows were sorted last.
    lines: HashMap<String, usize>,
    sorted_at_seconds: Option<f64>,
}

impl Order {
    /// Between two sorts rows keep their order and new ones come last.
    pub fn arrange(&mut self, snapshot: &Snapshot) {
        let rows = &snapshot.sessions;
        self.places = (0..rows.len()).collect();
        let now = snapshot.uptime_seconds;
        let due = |at: f64| !(0.0..SORT_SECONDS).contains(&(now - at));
        if !self.sorted_at_seconds.is_none_or(due) {
            let lines = &self.lines;
            self.places.sort_by_key(|&place| lines.get(&rows[place].id).copied().unwrap_or(usize::MAX));
            return;
        }
        self.places.sort_by(|&a, &b| by_weight(&rows[a], &rows[b]));
        self.lines = self.places.iter().enumerate().map(|(line, &at)| (rows[at].id.clone(), line)).collect();
        self.sorted_at_seconds = Some(now);
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The rows of some lines; lines that do not exist are left out.
    pub fn rows<'a>(&self, snapshot: &'a Snapshot, lines: Range<usize>) -> Vec<&'a SessionRow> {
        let end = lines.end.min(self.places.len());
        let places = self.places.get(lines.start.min(end)..end).unwrap_or_default();
        places.iter().filter_map(|&place| snapshot.sessions.get(place)).collect()
    }

    /// The line on which a session stands.
    pub fn line_of(&self, snapshot: &Snapshot, id: &str) -> Option<usize> {
        self.places.iter().position(|&place| snapshot.sessions.get(place).is_some_and(|row| row.id == id))
    }
}

/// Less is higher up. The id breaks ties, so that idle sessions never change places.
fn by_weight(a: &SessionRow, b: &SessionRow) -> Ordering {
    let waits = |row: &SessionRow| row.phase == SessionPhase::Waiting;
    let rate = |row: &SessionRow| row.rate_up.saturating_add(row.rate_down);
    (waits(b).cmp(&waits(a)))
        .then_with(|| rate(b).cmp(&rate(a)))
        .then_with(|| b.age_seconds.total_cmp(&a.age_seconds))
        .then_with(|| a.id.cmp(&b.id))
}

/// Often enough to be true, seldom enough to be read.
const SORT_SECONDS: f64 = 2.0;
