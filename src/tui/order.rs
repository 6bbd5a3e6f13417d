//! Which sessions are listed and in which order, so that rows do not jump around. Rows are sorted only from time to
//! time; between two sorts they keep their order, and new ones come last.

use std::{cmp::Ordering, collections::HashMap, ops::Range};

use crate::{
    telemetry::{
        end::EndSeverity,
        snapshot::{EndedRow, SessionPhase, SessionRow, Snapshot},
    },
    tui::{
        filter::{ListedSession, SessionFilter},
        session_join::SessionJoin,
    },
};

/// The column that the list is sorted by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SortColumn {
    /// Those that wait first, then the busiest.
    #[default]
    Waiting,
    Busiest,
    Age,
    Client,
    Service,
    RateUp,
    RateDown,
    Up,
    Down,
}

impl SortColumn {
    pub const ALL: [Self; 9] = [
        Self::Waiting,
        Self::Busiest,
        Self::Age,
        Self::Client,
        Self::Service,
        Self::RateUp,
        Self::RateDown,
        Self::Up,
        Self::Down,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Busiest => "busiest",
            Self::Age => "age",
            Self::Client => "client",
            Self::Service => "service",
            Self::RateUp => "up/s",
            Self::RateDown => "down/s",
            Self::Up => "up",
            Self::Down => "down",
        }
    }

    /// What is on top, in words.
    fn words(self, is_flipped: bool) -> &'static str {
        let (first, flipped) = match self {
            Self::Waiting => ("waiting first", "waiting last"),
            Self::Busiest => ("busiest first", "quietest first"),
            Self::Age => ("oldest first", "newest first"),
            Self::Client => ("clients from A", "clients from Z"),
            Self::Service => ("services from A", "services from Z"),
            Self::RateUp => ("most up/s first", "least up/s first"),
            Self::RateDown => ("most down/s first", "least down/s first"),
            Self::Up => ("most up first", "least up first"),
            Self::Down => ("most down first", "least down first"),
        };
        if is_flipped { flipped } else { first }
    }

    /// Whether the smallest value of its column is on top, before the order is reversed.
    pub fn begins_with_least(self) -> bool {
        matches!(self, Self::Client | Self::Service)
    }

    pub fn next(self) -> Self {
        let at = Self::ALL.iter().position(|&column| column == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }

    /// "Less" means higher up, in the natural order of the column: names from A, numbers from the largest. The
    /// id breaks ties, so that idle sessions never change places.
    fn compare(self, a: &SessionRow, b: &SessionRow) -> Ordering {
        let rate = |row: &SessionRow| row.rate_up.saturating_add(row.rate_down);
        match self {
            Self::Waiting => waits(b).cmp(&waits(a)).then_with(|| Self::Busiest.compare(a, b)),
            Self::Busiest => rate(b).cmp(&rate(a)).then_with(|| b.age_seconds.total_cmp(&a.age_seconds)),
            Self::Age => b.age_seconds.total_cmp(&a.age_seconds),
            Self::Client => a.client.cmp(&b.client),
            Self::Service => a.service.cmp(&b.service),
            Self::RateUp => b.rate_up.cmp(&a.rate_up),
            Self::RateDown => b.rate_down.cmp(&a.rate_down),
            Self::Up => b.bytes_up.cmp(&a.bytes_up),
            Self::Down => b.bytes_down.cmp(&a.bytes_down),
        }
        .then_with(|| a.id.cmp(&b.id))
        .then_with(|| a.half.cmp(&b.half))
    }
}

/// The listed rows of one snapshot: the open ones in order, below them those that just ended, failures first.
#[derive(Debug, Default)]
pub struct SessionOrder {
    pub column: SortColumn,
    pub is_flipped: bool,
    pub filter: SessionFilter,
    /// Indexes into [`Snapshot::sessions`], in the order shown.
    open: Vec<usize>,
    /// Indexes into [`Snapshot::ended`]: failures first, each group newest first.
    ended: Vec<usize>,
    /// How many of them are failures.
    failed: usize,
    /// All open rows, whatever the filter says.
    listable: usize,
    /// In a pair or a fleet: the index of the inner half's part of a session, by the index of its outer part.
    inner: HashMap<usize, usize>,
    /// The inner row of each session that has ended.
    inner_ended: HashMap<usize, usize>,
    /// The line of each session when the rows were last sorted.
    lines: HashMap<String, usize>,
    sorted_at_seconds: Option<f64>,
}

impl SessionOrder {
    /// Between two sorts, rows keep their order and new ones come last. Only a client that begins to wait moves
    /// to its proper place at once.
    pub fn arrange(&mut self, snapshot: &Snapshot) {
        let rows = &snapshot.sessions;
        let join = SessionJoin::of(snapshot);
        self.listable = 0;
        self.open.clear();
        let outer = |row| join.outer_open(ListedSession::Open(row));
        let outer: Vec<_> = rows.iter().map(outer).collect();
        self.inner = outer.iter().enumerate().filter_map(|(index, outer)| Some(((*outer)?, index))).collect();
        for (index, row) in rows.iter().enumerate() {
            // A second row that claims the same outer part is listed separately.
            if outer[index].is_some_and(|outer| self.inner.get(&outer) == Some(&index)) {
                continue;
            }
            self.listable += 1;
            let inner = self.inner.get(&index).map(|&inner| ListedSession::Open(&rows[inner]));
            if self.filter.matches_parts(snapshot, ListedSession::Open(row), inner) {
                self.open.push(index);
            }
        }
        let ended = snapshot.ended.iter().enumerate();
        let inner = ended
            .clone()
            .filter_map(|(index, row)| Some((join.outer_ended(ListedSession::Ended(row))?, index)));
        self.inner_ended = inner.collect();
        let is_shown = |index: usize, row: &EndedRow| {
            let row = ListedSession::Ended(row);
            let is_inner = match join.outer_ended(row) {
                Some(outer) => self.inner_ended.get(&outer) == Some(&index),
                None => join.is_inner(row),
            };
            let inner =
                self.inner_ended.get(&index).map(|&inner| ListedSession::Ended(&snapshot.ended[inner]));
            is_listed_still(&snapshot.ended[index])
                && !is_inner
                && self.filter.matches_parts(snapshot, row, inner)
        };
        self.ended = ended.filter(|(index, row)| is_shown(*index, row)).map(|(index, _)| index).collect();
        // Failures stay together, above the healthy ends, because they have lines of their own.
        self.ended.sort_by_key(|&index| !EndSeverity::of_code(&snapshot.ended[index].end).is_failure());
        let is_failure = |&&index: &&usize| EndSeverity::of_code(&snapshot.ended[index].end).is_failure();
        self.failed = self.ended.iter().take_while(is_failure).count();
        let now = snapshot.uptime_seconds;
        let due = |at: f64| !(0.0..SORT_SECONDS).contains(&(now - at));
        if !self.sorted_at_seconds.is_none_or(due) {
            let (lines, column, is_flipped) = (&self.lines, self.column, self.is_flipped);
            // Cached: each line is looked up once, and not in each comparison.
            self.open.sort_by_cached_key(|&index| {
                let stands_below = column == SortColumn::Waiting && waits(&rows[index]) == is_flipped;
                (stands_below, lines.get(&rows[index].id).copied().unwrap_or(usize::MAX))
            });
            return;
        }
        let (column, is_flipped) = (self.column, self.is_flipped);
        self.open.sort_by(|&a, &b| {
            let order = column.compare(&rows[a], &rows[b]);
            if is_flipped { order.reverse() } else { order }
        });
        self.lines = self.open.iter().enumerate().map(|(line, &at)| (rows[at].id.clone(), line)).collect();
        self.sorted_at_seconds = Some(now);
    }

    /// Sorts at the next [`SessionOrder::arrange`], however soon, because the operator asked for it.
    pub fn sort_soon(&mut self) {
        self.sorted_at_seconds = None;
    }

    /// When the open rows were last sorted, by the gateway's uptime.
    pub fn sorted_at_seconds(&self) -> Option<f64> {
        self.sorted_at_seconds
    }

    /// The open sessions that are listed, in order.
    pub fn open_rows<'a>(&self, snapshot: &'a Snapshot) -> impl Iterator<Item = &'a SessionRow> {
        self.open.iter().filter_map(|&index| snapshot.sessions.get(index))
    }

    pub fn words(&self) -> &'static str {
        self.column.words(self.is_flipped)
    }

    /// Listed rows, open and ended.
    pub fn len(&self) -> usize {
        self.open.len() + self.ended.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of open rows in the list; they come first.
    pub fn open_len(&self) -> usize {
        self.open.len()
    }

    /// Number of failed rows in the list; they come right below the open ones.
    pub fn failed_len(&self) -> usize {
        self.failed
    }

    /// Number of open rows, whatever the filter says.
    pub fn listable_len(&self) -> usize {
        self.listable
    }

    /// The inner half's part of a session whose outer part is listed; the row must be from this snapshot.
    pub fn inner<'a>(&self, snapshot: &'a Snapshot, row: &SessionRow) -> Option<&'a SessionRow> {
        let &index = self.inner.get(&index_of(&snapshot.sessions, row)?)?;
        snapshot.sessions.get(index).filter(|inner| inner.id == row.id)
    }

    /// The inner row of a session that has ended.
    pub fn inner_ended<'a>(&self, snapshot: &'a Snapshot, row: &EndedRow) -> Option<&'a EndedRow> {
        let &index = self.inner_ended.get(&index_of(&snapshot.ended, row)?)?;
        snapshot.ended.get(index).filter(|inner| inner.id == row.id)
    }

    /// The rows on some lines; lines that do not exist are skipped.
    pub fn rows<'a>(&self, snapshot: &'a Snapshot, lines: Range<usize>) -> Vec<ListedSession<'a>> {
        let end = lines.end.min(self.len());
        (lines.start.min(end)..end).filter_map(|line| self.row(snapshot, line)).collect()
    }

    pub fn row<'a>(&self, snapshot: &'a Snapshot, line: usize) -> Option<ListedSession<'a>> {
        match self.open.get(line) {
            Some(&index) => snapshot.sessions.get(index).map(ListedSession::Open),
            None => {
                let &index = self.ended.get(line.checked_sub(self.open.len())?)?;
                snapshot.ended.get(index).map(ListedSession::Ended)
            }
        }
    }

    /// The line of a row.
    pub fn line_of(&self, snapshot: &Snapshot, is_it: impl Fn(ListedSession<'_>) -> bool) -> Option<usize> {
        (0..self.len()).find(|&line| self.row(snapshot, line).is_some_and(&is_it))
    }
}

/// The index of a row, found by its address in memory: ids are not unique, and a search for each cell takes too
/// long.
fn index_of<R>(rows: &[R], row: &R) -> Option<usize> {
    let bytes = std::ptr::from_ref(row).addr().checked_sub(rows.as_ptr().addr())?;
    let index = bytes.checked_div(size_of::<R>())?;
    rows.get(index).filter(|found| std::ptr::eq(*found, row)).map(|_| index)
}

fn waits(row: &SessionRow) -> bool {
    row.phase == SessionPhase::Waiting
}

fn is_listed_still(row: &EndedRow) -> bool {
    let is_failure = EndSeverity::of_code(&row.end).is_failure();
    row.ago_seconds < if is_failure { FAILED_KEPT_SECONDS } else { KEPT_SECONDS }
}

/// Often enough to be current, and seldom enough to be readable.
const SORT_SECONDS: f64 = 2.0;
/// Long enough to read why a session ended, short enough to leave room for open ones.
const KEPT_SECONDS: f64 = 6.0;
/// Long enough to be noticed by somebody who is looking elsewhere.
const FAILED_KEPT_SECONDS: f64 = 60.0;
