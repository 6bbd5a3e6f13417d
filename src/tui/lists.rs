//! The list of each screen, and its cursor, which follows its row and not its line. The snapshot changes four times a
//! second, so a cursor remembers the key of its row.

use std::{cmp::Reverse, sync::Arc};

use crate::{
    doctor::{self, DoctorFinding, MachineFacts},
    profile::{Half, Mode},
    telemetry::{
        failures::FailureRow,
        health::severity,
        snapshot::{Notice, PoolRow, ProfileRow, ServiceRow, Snapshot},
    },
    text,
    tui::{
        clients::{ClientList, SessionGrouping},
        filter::ListedSession,
        order::SessionOrder,
        path::{DrawnPath, PathPart},
        screen::Screen,
    },
};

/// State of the lists apart from the snapshot.
#[derive(Debug, Default)]
pub struct ListState {
    pub order: SessionOrder,
    pub grouping: SessionGrouping,
    /// The sessions by client, while grouping is on.
    pub clients: ClientList,
    /// As last reported by the gateway.
    pub profiles: Vec<ProfileRow>,
    /// Facts about the gateway's machine, if that is this one.
    pub machine: Option<MachineFacts>,
    /// What was found in the last hour's history of each gateway.
    pub recent: Vec<DoctorFinding>,
    /// Overview and sessions have the same list and share one cursor.
    cursors: [Option<ListCursor>; Screen::ALL.len()],
}

/// The selected row: its key, and the line it is on now.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ListCursor {
    key: String,
    line: usize,
}

impl ListState {
    pub fn selected_line(&self, screen: Screen) -> Option<usize> {
        self.cursor(screen).map(|cursor| cursor.line)
    }

    /// The key of the selected row.
    pub fn selected_key(&self, screen: Screen) -> Option<&str> {
        self.cursor(screen).map(|cursor| cursor.key.as_str())
    }

    fn cursor(&self, screen: Screen) -> Option<&ListCursor> {
        self.cursors[screen_index(screen)].as_ref()
    }

    /// Moves the cursor from its line, if it has one, to another; the second number is the last line.
    pub fn move_to(
        &mut self,
        screen: Screen,
        snapshot: &Snapshot,
        line: impl Fn(Option<usize>, usize) -> usize,
    ) {
        let Some(last) = self.len(screen, snapshot).checked_sub(1) else {
            self.cursors[screen_index(screen)] = None;
            return;
        };
        let line = line(self.selected_line(screen), last).min(last);
        self.cursors[screen_index(screen)] =
            self.key(screen, snapshot, line).map(|key| ListCursor { key, line });
    }

    pub fn select_none(&mut self, screen: Screen) {
        self.cursors[screen_index(screen)] = None;
    }

    /// Sorts again. Each cursor follows its row and disappears with it: nobody chose the neighbour, and an
    /// action would hit it.
    pub fn arrange(&mut self, snapshot: &Snapshot) {
        self.order.arrange(snapshot);
        if self.grouping == SessionGrouping::ByClient {
            self.clients.arrange(snapshot, &self.order);
        }
        for screen in Screen::ALL.into_iter().filter(|&screen| screen != Screen::Overview) {
            let Some(cursor) = self.cursor(screen).cloned() else { continue };
            let line = self.line_of(screen, snapshot, &cursor.key);
            self.cursors[screen_index(screen)] = line.map(|line| ListCursor { line, ..cursor });
        }
    }

    /// What limits the gateway, the most urgent first; in a fleet, each gateway's snapshot was examined
    /// separately.
    pub fn findings(&self, snapshot: &Snapshot) -> Vec<DoctorFinding> {
        let mut findings = match (snapshot.gateways.is_empty(), &self.machine) {
            (false, _) => snapshot.findings.clone(),
            (true, Some(machine)) => doctor::find_limits(snapshot, machine),
            (true, None) => doctor::find_limits(snapshot, &MachineFacts::default()),
        };
        findings.extend(self.recent.iter().cloned());
        findings.sort_by_key(|finding| Reverse(finding.severity));
        findings
    }

    /// Selects the row with this key, if it is listed.
    pub fn select_key(&mut self, screen: Screen, snapshot: &Snapshot, key: &str) {
        let line = self.line_of(screen, snapshot, key);
        self.cursors[screen_index(screen)] = line.map(|line| ListCursor { key: key.to_owned(), line });
    }

    fn len(&self, screen: Screen, snapshot: &Snapshot) -> usize {
        match screen {
            Screen::Overview | Screen::Sessions => match self.grouping {
                SessionGrouping::None => self.order.len(),
                SessionGrouping::ByClient => self.clients.rows().len(),
            },
            Screen::Pool if snapshot.mode == Mode::Direct => snapshot.services.len(),
            Screen::Pool => snapshot.pools.len(),
            Screen::Services => snapshot.services.len(),
            Screen::Events => snapshot.notices.len(),
            Screen::Profiles => self.profiles.len(),
            Screen::Failures => snapshot.failures.len(),
            Screen::Gateways => snapshot.gateways.len(),
            Screen::Path => DrawnPath::of(snapshot).parts.len(),
            Screen::Doctor => self.findings(snapshot).len(),
            // Charts have no rows.
            Screen::History => 0,
        }
    }

    fn key(&self, screen: Screen, snapshot: &Snapshot, line: usize) -> Option<String> {
        match screen {
            Screen::Overview | Screen::Sessions if self.grouping == SessionGrouping::ByClient => {
                self.clients.rows().get(line).map(|row| row.client.clone())
            }
            Screen::Overview | Screen::Sessions => self.order.row(snapshot, line).map(session_key),
            Screen::Pool if snapshot.mode == Mode::Direct => {
                services(snapshot).get(line).map(|row| service_key(row))
            }
            Screen::Pool => pools(snapshot).get(line).map(|row| pool_key(row)),
            Screen::Services => services(snapshot).get(line).map(|row| service_key(row)),
            Screen::Events => notices(snapshot).nth(line).map(notice_key),
            Screen::Profiles => self.profiles.get(line).map(|row| row.name.clone()),
            Screen::Failures => failures(snapshot).get(line).map(|row| failure_key(row)),
            Screen::Gateways => snapshot.gateways.get(line).map(|row| row.name.to_string()),
            Screen::Path => DrawnPath::of(snapshot).parts.get(line).map(PathPart::path_key),
            Screen::Doctor => self.findings(snapshot).get(line).map(finding_key),
            Screen::History => None,
        }
    }

    fn line_of(&self, screen: Screen, snapshot: &Snapshot, key: &str) -> Option<usize> {
        if screen.lists_sessions() && self.grouping == SessionGrouping::ByClient {
            return self.clients.rows().iter().position(|row| row.client == key);
        }
        if screen.lists_sessions() {
            return self.order.line_of(snapshot, |row| is_session(row, key));
        }
        match screen {
            Screen::Pool if snapshot.mode != Mode::Direct => {
                pools(snapshot).iter().position(|row| pool_key(row) == key)
            }
            Screen::Pool | Screen::Services => {
                services(snapshot).iter().position(|row| service_key(row) == key)
            }
            Screen::Events => notices(snapshot).position(|notice| notice_key(notice) == key),
            Screen::Failures => failures(snapshot).iter().position(|row| failure_key(row) == key),
            Screen::Gateways => snapshot.gateways.iter().position(|row| &*row.name == key),
            Screen::Path => DrawnPath::of(snapshot).parts.iter().position(|part| part.path_key() == key),
            Screen::Overview | Screen::Sessions | Screen::Profiles | Screen::Doctor | Screen::History => {
                let mut lines = 0..self.len(screen, snapshot);
                lines.find(|&line| self.key(screen, snapshot, line).as_deref() == Some(key))
            }
        }
    }
}

fn screen_index(screen: Screen) -> usize {
    if screen.lists_sessions() { Screen::Sessions.index() } else { screen.index() }
}

/// Worst first.
pub fn pools(snapshot: &Snapshot) -> Vec<&PoolRow> {
    let mut rows: Vec<_> = snapshot.pools.iter().collect();
    rows.sort_by_key(|row| Reverse(severity(row)));
    rows
}

/// Worst first, then those that refused most.
pub fn services(snapshot: &Snapshot) -> Vec<&ServiceRow> {
    let mut rows: Vec<_> = snapshot.services.iter().collect();
    let severity = |row: &ServiceRow| row.lack.as_ref().map(|lack| lack.kind.severity());
    rows.sort_by_cached_key(|row| Reverse((severity(row), row.totals.refused)));
    rows
}

/// Newest first.
pub fn notices(snapshot: &Snapshot) -> impl Iterator<Item = &Notice> {
    snapshot.notices.iter().rev()
}

/// Failures that grew in the last minute first, then those with most sessions.
pub fn failures(snapshot: &Snapshot) -> Vec<&FailureRow> {
    let mut rows: Vec<_> = snapshot.failures.iter().collect();
    rows.sort_by_key(|row| (row.ago_seconds >= FAILS_NOW_SECONDS, Reverse(row.count)));
    rows
}

/// A cause seen within this time is still current.
const FAILS_NOW_SECONDS: f64 = 60.0;

/// What the sessions of a service reach, if a gateway on the screen has the half that knows. In a fleet it is
/// the gateway that carries the session on, if known.
pub fn backend<'a>(snapshot: &'a Snapshot, service: &str, inside: Option<&Arc<str>>) -> Option<&'a str> {
    let is_there = |row: &&ServiceRow| inside.is_none() || row.gateway.as_ref() == inside;
    let mut rows = snapshot.services.iter().filter(|row| row.name == service).filter(is_there);
    rows.find_map(|row| row.connect.as_deref())
}

/// Both halves use the same id for a session, and gateways of a fleet or peers of an internal half may use the
/// same one too.
pub fn session_key(row: ListedSession<'_>) -> String {
    let parts = session_parts(row).into_iter().flatten().chain([row.id()]);
    parts.collect::<Vec<_>>().join(" ")
}

/// Whether a row has this key. No key is built for the comparison, since there may be thousands of rows.
pub fn is_session(row: ListedSession<'_>, key: &str) -> bool {
    let mut rest = Some(key);
    for part in session_parts(row).into_iter().flatten() {
        rest = rest.and_then(|rest| rest.strip_prefix(part)?.strip_prefix(' '));
    }
    rest == Some(row.id())
}

fn session_parts(row: ListedSession<'_>) -> [Option<&str>; 3] {
    let gateway = row.gateway().map(|name| &**name);
    match row.half() {
        Half::Dmz => [gateway, Some("dmz"), None],
        Half::Internal => [gateway, Some("internal"), Some(row.peer().unwrap_or("-"))],
    }
}

pub fn pool_key(row: &PoolRow) -> String {
    let (peer, address) = (row.peer.as_deref().unwrap_or("-"), row.address.as_deref().unwrap_or("-"));
    let instance = row.instance.as_deref().unwrap_or("-");
    format!("{}{:?} {} {peer} {address} {instance}", of(&row.gateway), row.half, row.service)
}

pub fn service_key(row: &ServiceRow) -> String {
    format!("{}{:?} {}", of(&row.gateway), row.half, row.name)
}

pub fn notice_key(notice: &Notice) -> String {
    format!("{}{} {}", of(&notice.gateway), notice.time, notice.text)
}

/// A group is identified by its first failure, since the numbers in its reason change.
pub fn failure_key(row: &FailureRow) -> String {
    let cause = text::cause(&row.reason);
    format!("{}{:?} {} {} {} {cause}", of(&row.gateway), row.half, row.service, row.end, row.first)
}

/// Without its figure, which changes from one snapshot to the next.
pub fn finding_key(finding: &DoctorFinding) -> String {
    format!("{}{} {}", of(&finding.gateway), finding.id, finding.object.as_deref().unwrap_or("-"))
}

/// The name of its gateway, in a fleet.
fn of(gateway: &Option<Arc<str>>) -> String {
    gateway.as_ref().map_or_else(String::new, |name| format!("{name} "))
}
