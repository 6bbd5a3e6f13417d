//! The links between the two gateways: one row for each service and peer, worst first.

use ratatui::{buffer::Buffer, layout::Rect};

use crate::{
    profile::{Mode, Role},
    telemetry::snapshot::{PoolRow, PoolState, Snapshot},
    tui::{
        app::App,
        format,
        health::{Severity, severity},
        look::Look,
        view::{
            alert, panel,
            table::{self, Cell, Column, Side, line},
        },
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    State,
    Half,
    Service,
    Peer,
    Bar,
    Ready,
    Carrying,
    Dialling,
    Waiting,
    Misses,
    Failures,
    Retry,
    LastError,
}

const fn column(kind: Kind, title: &'static str, widths: (u16, u16), side: Side, rank: u8) -> Column<Kind> {
    Column { kind, title, width_min: widths.0, width_max: widths.1, side, rank }
}

const COLUMNS: [Column<Kind>; 13] = [
    column(Kind::State, "STATE", (7, 7), Side::Left, 0),
    column(Kind::Half, "HALF", (4, 4), Side::Left, 6),
    column(Kind::Service, "SERVICE", (8, 14), Side::Left, 0),
    column(Kind::Peer, "PEER", (10, 26), Side::Left, 3),
    column(Kind::Bar, "POOL", (10, 10), Side::Left, 5),
    column(Kind::Ready, "READY/TGT", (9, 9), Side::Right, 1),
    column(Kind::Carrying, "CARRY", (5, 5), Side::Right, 2),
    column(Kind::Dialling, "DIAL", (5, 5), Side::Right, 7),
    column(Kind::Waiting, "WAIT", (5, 5), Side::Right, 2),
    column(Kind::Misses, "MISS", (5, 5), Side::Right, 4),
    column(Kind::Failures, "FAIL", (5, 5), Side::Right, 4),
    column(Kind::Retry, "RETRY", (6, 6), Side::Right, 8),
    column(Kind::LastError, "LAST ERROR", (10, 80), Side::Left, 9),
];

pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let (look, snapshot) = (&app.look, app.snapshot());
    let inside = panel::frame(look, title(snapshot), &facts(snapshot), area, buffer);
    let inside = panel::margin(inside);
    if snapshot.pools.is_empty() {
        return panel::empty(look, "no links yet", inside, buffer);
    }
    let shown: Vec<_> = COLUMNS.into_iter().filter(|column| is_shown(column.kind, snapshot)).collect();
    let columns = table::fit(&shown, inside.width);
    table::draw_heads(look, &columns, line(inside, 0), buffer);
    let mut rows: Vec<&PoolRow> = snapshot.pools.iter().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(severity(row)));
    let list = panel::below_heads(inside);
    let (drawn, rest) = rows.split_at(panel::rows_drawn(rows.len(), list));
    for (at, row) in panel::lines(list).zip(drawn) {
        table::draw_row(look, &columns, at, buffer, |kind| cell(app, row, kind));
    }
    let well = rest.iter().filter(|row| severity(row) == Severity::Fine).count();
    panel::rest(look, rest.len(), &format!(", {well} of them fine"), list, buffer);
}

fn title(snapshot: &Snapshot) -> &'static str {
    match snapshot.mode {
        Mode::Forward if snapshot.roles.contains(&Role::Dmz) => "Links dialled",
        Mode::Forward => "Links accepted",
        Mode::Direct | Mode::Reverse => "Reverse pool",
    }
}

/// Links made for one session each have no pool to fill.
fn is_shown(kind: Kind, snapshot: &Snapshot) -> bool {
    match kind {
        Kind::Half => snapshot.roles.len() > 1,
        Kind::Bar | Kind::Ready | Kind::Waiting | Kind::Misses => snapshot.mode != Mode::Forward,
        Kind::State | Kind::Service | Kind::Peer | Kind::Carrying | Kind::Dialling => true,
        Kind::Failures | Kind::Retry | Kind::LastError => true,
    }
}

/// Sums over one half: both ends of a link stand in a pair's snapshot.
pub fn facts(snapshot: &Snapshot) -> String {
    let counted = snapshot.roles.first().copied().unwrap_or(Role::Dmz);
    let sum = |count: fn(&PoolRow) -> usize| {
        let rows = snapshot.pools.iter().filter(|row| row.role == counted);
        format::amount(rows.fold(0, |sum: u64, row| sum.saturating_add(count(row) as u64)))
    };
    let carrying = sum(|row| row.carrying);
    if snapshot.mode == Mode::Forward {
        return format!("{carrying} carrying");
    }
    let (ready, target, waiting) = (sum(|row| row.ready), sum(|row| row.target), sum(|row| row.waiting));
    format!("{ready}/{target} ready, {carrying} carrying, {waiting} waiting")
}

fn cell(app: &App, row: &PoolRow, kind: Kind) -> Cell {
    let (look, theme) = (&app.look, app.look.theme);
    match kind {
        Kind::State => Cell::new(state_word(row.state), state_style(look, row)),
        Kind::Half => Cell::new(half_word(row.role), theme.plain),
        Kind::Service if row.service == "*" => Cell::new("any", theme.accent),
        Kind::Service => Cell::new(look.text(&row.service, TEXT_CHARS), theme.accent),
        Kind::Peer => Cell::new(peer(app, row), theme.plain),
        Kind::Bar => Cell::new(bar(look, row, BAR_CELLS), state_style(look, row)),
        Kind::Ready => Cell::new(
            format!("{}/{}", format::amount(row.ready as u64), format::amount(row.target as u64)),
            theme.plain,
        ),
        Kind::Carrying => number(look, row.carrying as u64),
        Kind::Dialling => number(look, row.dialling as u64),
        Kind::Waiting => number(look, row.waiting as u64),
        Kind::Misses => number(look, row.misses),
        Kind::Failures => number(look, row.failures),
        Kind::Retry => Cell::new(row.retry_seconds.map_or("-".into(), format::span), theme.plain),
        Kind::LastError => {
            let error = app.addresses().text(row.last_error.as_deref().unwrap_or("-"));
            Cell::new(look.text(&error, TEXT_CHARS), state_style(look, row))
        }
    }
}

/// The name, and the address behind it where both are known.
fn peer(app: &App, row: &PoolRow) -> String {
    let address = row.address.as_deref().map(|address| app.addresses().text(address));
    let text = match (&row.peer, address) {
        (Some(peer), Some(address)) if *peer != address => {
            format!("{} {address}", app.addresses().text(peer))
        }
        (Some(peer), _) => app.addresses().text(peer),
        (None, Some(address)) => address,
        (None, None) => "no peer yet".into(),
    };
    app.look.text(&text, TEXT_CHARS)
}

/// Zeros step back, so that the eye finds what is not zero.
pub fn number(look: &Look, count: u64) -> Cell {
    let style = if count == 0 { look.theme.faint } else { look.theme.plain };
    Cell::new(format::amount(count), style)
}

fn state_word(state: PoolState) -> &'static str {
    match state {
        PoolState::Healthy => "healthy",
        PoolState::Filling => "filling",
        PoolState::Starved => "STARVED",
        PoolState::Down => "DOWN",
    }
}

fn state_style(look: &Look, row: &PoolRow) -> ratatui::style::Style {
    match severity(row) {
        Severity::Fine => look.theme.good,
        worse => alert::style(look, worse),
    }
}

pub fn half_word(role: Role) -> &'static str {
    match role {
        Role::Dmz => "dmz",
        Role::Internal => "int",
    }
}

/// One cell a link where they fit, else in proportion: full only when ready, empty only when none is.
fn bar(look: &Look, row: &PoolRow, cells: usize) -> String {
    let whole = row.target.max(row.ready.saturating_add(row.dialling));
    let scaled = |count: usize| match (count, whole <= cells) {
        (0, _) => 0,
        (_, true) => count,
        (_, false) => (count as u128 * cells as u128 / whole as u128).max(1) as usize,
    };
    let ready = scaled(row.ready).min(cells);
    let dialling = scaled(row.dialling).min(cells - ready);
    let missing = whole.min(cells) - ready - dialling;
    let signs =
        [(look.symbols.ready, ready), (look.symbols.dialling, dialling), (look.symbols.missing, missing)];
    signs.iter().flat_map(|&(sign, count)| std::iter::repeat_n(sign, count)).collect()
}

const BAR_CELLS: usize = 10;
/// No cell is wider; longer text from outside is not even copied.
const TEXT_CHARS: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_full_only_when_all_are_ready() {
        let cases = [
            ((0, 0, 0), ""),
            ((4, 0, 4), "████"),
            ((1, 2, 4), "█▒▒·"),
            ((0, 0, 3), "···"),
            ((99, 0, 100), "█████████·"),
            ((1, 0, 100), "█·········"),
            ((100, 0, 100), "██████████"),
            ((12, 0, 8), "██████████"),
            ((usize::MAX / 2, 1, 8), "█████████▒"),
        ];
        for ((ready, dialling, target), expected) in cases {
            let row = PoolRow {
                role: Role::Dmz,
                service: String::new(),
                peer: None,
                address: None,
                state: PoolState::Filling,
                ready,
                carrying: 0,
                dialling,
                target,
                waiting: 0,
                misses: 0,
                failures: 0,
                last_error: None,
                retry_seconds: None,
            };
            assert_eq!(bar(&Look::FULL, &row, 10), expected, "{ready}+{dialling} of {target}");
        }
    }
}
