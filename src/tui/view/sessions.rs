//! The sessions: open ones, waiting first, then the busiest; below them those that just ended.

use std::ops::Range;

use ratatui::{buffer::Buffer, layout::Rect};

use crate::{
    profile::Role,
    telemetry::snapshot::{EndedRow, SessionPhase, SessionRow, Snapshot},
    tui::{
        app::App,
        format,
        view::{
            links::{half_word, number},
            panel,
            table::{self, Cell, Column, Placed, Side, line},
        },
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Mark,
    Id,
    Half,
    Age,
    Client,
    Service,
    Peer,
    RateUp,
    RateDown,
    Up,
    Down,
    Phase,
}

/// `widths`: least, most, share of the spare room.
const fn column(
    kind: Kind,
    title: &'static str,
    widths: (u16, u16, u16),
    side: Side,
    rank: u8,
) -> Column<Kind> {
    let (width_min, width_max, share) = widths;
    Column { kind, title, width_min, width_max, share, side, rank }
}

const COLUMNS: [Column<Kind>; 12] = [
    column(Kind::Mark, "", (1, 1, 1), Side::Left, 0),
    column(Kind::Id, "ID", (6, 12, 1), Side::Left, 5),
    column(Kind::Half, "HALF", (4, 4, 1), Side::Left, 7),
    column(Kind::Age, "AGE", (6, 6, 1), Side::Right, 3),
    column(Kind::Client, "CLIENT", (21, 40, 1), Side::Left, 1),
    column(Kind::Service, "SERVICE", (7, 14, 1), Side::Left, 2),
    column(Kind::Peer, "PEER", (8, 14, 1), Side::Left, 8),
    column(Kind::RateUp, "UP/S", (5, 6, 1), Side::Right, 2),
    column(Kind::RateDown, "DOWN/S", (6, 6, 1), Side::Right, 2),
    column(Kind::Up, "UP", (5, 6, 1), Side::Right, 6),
    column(Kind::Down, "DOWN", (5, 6, 1), Side::Right, 6),
    column(Kind::Phase, "PHASE", (8, 60, 4), Side::Left, 1),
];

/// With frame, title and sums.
pub fn draw_panel(app: &App, area: Rect, buffer: &mut Buffer) {
    let inside = panel::frame(&app.look, "Sessions", &facts(app.snapshot()), area, buffer);
    draw_list(app, Rect { width: inside.width.saturating_sub(1), ..inside }, buffer);
}

/// Heads and rows alone.
pub fn draw_list(app: &App, area: Rect, buffer: &mut Buffer) {
    let (look, snapshot) = (&app.look, app.snapshot());
    let ended = recently_ended(snapshot);
    if app.order().is_empty() && ended.is_empty() {
        return panel::empty(look, " no session is open", area, buffer);
    }
    let columns = columns(snapshot, area.width);
    table::draw_heads(look, &columns, line(area, 0), buffer);
    let list = panel::below_heads(area);
    let (open_lines, ended_lines) = share(app.order().len(), ended.len(), usize::from(list.height));
    let window = window(app.selected_line(), app.order().len(), open_lines);
    let mut at = panel::lines(list);
    let rows = app.order().rows(snapshot, window.clone());
    for (number, row) in window.zip(rows) {
        let Some(at) = at.next() else { return };
        let is_selected = app.selected_line() == Some(number);
        draw_open(app, &columns, row, is_selected, at, buffer);
    }
    for (row, at) in ended.iter().take(ended_lines).zip(at) {
        table::draw_row(look, &columns, at, buffer, |kind| ended_cell(app, row, kind));
    }
}

fn draw_open(
    app: &App,
    columns: &[Placed<Kind>],
    row: &SessionRow,
    is_selected: bool,
    at: Rect,
    buffer: &mut Buffer,
) {
    let mark = if is_selected { app.look.symbols.selected } else { "" };
    table::draw_row(&app.look, columns, at, buffer, |kind| match kind {
        Kind::Mark => Cell::new(mark, app.look.theme.plain),
        _ => open_cell(app, row, kind),
    });
    if is_selected {
        buffer.set_style(at, app.look.theme.selected);
    }
}

fn columns(snapshot: &Snapshot, width: u16) -> Vec<Placed<Kind>> {
    let has_halves = snapshot.roles.len() > 1;
    let has_peers = snapshot.sessions.iter().any(|row| row.peer.is_some())
        || snapshot.ended.iter().any(|row| row.peer.is_some());
    let shown = |kind| match kind {
        Kind::Half => has_halves,
        Kind::Peer => has_peers,
        Kind::Mark | Kind::Id | Kind::Age | Kind::Client | Kind::Service | Kind::Phase => true,
        Kind::RateUp | Kind::RateDown | Kind::Up | Kind::Down => true,
    };
    let shown: Vec<_> = COLUMNS.into_iter().filter(|column| shown(column.kind)).collect();
    table::fit(&shown, width)
}

fn facts(snapshot: &Snapshot) -> String {
    let waiting = snapshot.sessions.iter().filter(|row| row.phase == SessionPhase::Waiting).count();
    let totals = &snapshot.totals;
    let (open, all, refused) = (totals.sessions_open, totals.sessions, totals.refused);
    let mut facts = format!("{open} open of {all}, {waiting} waiting, {refused} refused");
    if snapshot.sessions_left_out > 0 {
        facts.push_str(&format!(", {} not listed", snapshot.sessions_left_out));
    }
    facts.push_str(", in bytes");
    facts
}

fn recently_ended(snapshot: &Snapshot) -> Vec<&EndedRow> {
    snapshot.ended.iter().filter(|row| row.ago_seconds < KEPT_SECONDS).collect()
}

/// Lines for the open and for the ended: those that just ended keep a quarter of a full list.
fn share(open: usize, ended: usize, lines: usize) -> (usize, usize) {
    let ended = ended.min((lines / 4).max(lines.saturating_sub(open)));
    (lines - ended, ended)
}

/// The lines in sight: the selected one in their middle, where the list allows it.
fn window(selected: Option<usize>, count: usize, lines: usize) -> Range<usize> {
    let first = selected.unwrap_or(0).saturating_sub(lines / 2).min(count.saturating_sub(lines));
    first..first.saturating_add(lines).min(count)
}

fn open_cell(app: &App, row: &SessionRow, kind: Kind) -> Cell {
    let (look, theme) = (&app.look, app.look.theme);
    match kind {
        Kind::Mark => Cell::new("", theme.plain),
        Kind::Id => Cell::new(look.text(&row.id, TEXT_CHARS), theme.plain),
        Kind::Half => half(app, row.role),
        Kind::Age => Cell::new(format::age(row.age_seconds), theme.plain),
        Kind::Client => Cell::new(look.text(&app.addresses().client(&row.client), TEXT_CHARS), theme.plain),
        Kind::Service => Cell::new(look.text(&row.service, TEXT_CHARS), theme.accent),
        Kind::Peer => peer(app, row.peer.as_deref()),
        Kind::RateUp => number(look, row.rate_up),
        Kind::RateDown => number(look, row.rate_down),
        Kind::Up => number(look, row.bytes_up),
        Kind::Down => number(look, row.bytes_down),
        Kind::Phase => phase(app, row),
    }
}

fn phase(app: &App, row: &SessionRow) -> Cell {
    let theme = app.look.theme;
    match row.phase {
        SessionPhase::Negotiating => Cell::new("negotiating", theme.plain),
        SessionPhase::Authorising => Cell::new("authorising", theme.plain),
        SessionPhase::Waiting => Cell::new(format!("WAITING {}", format::span(row.age_seconds)), theme.warn),
        SessionPhase::Connecting => Cell::new("connecting", theme.plain),
        SessionPhase::Relaying if row.idle_seconds >= IDLE_SECONDS => {
            Cell::new(format!("idle {}", format::span(row.idle_seconds)), theme.faint)
        }
        SessionPhase::Relaying => Cell::new("relaying", theme.good),
        SessionPhase::Draining => Cell::new("draining", theme.plain),
    }
}

/// Rates are unknown by now; the end stands where the phase stood.
fn ended_cell(app: &App, row: &EndedRow, kind: Kind) -> Cell {
    let (look, faint) = (&app.look, app.look.theme.faint);
    let text = match kind {
        Kind::Mark => look.symbols.ended.into(),
        Kind::Id => look.text(&row.id, TEXT_CHARS),
        Kind::Half => half_word(row.role).into(),
        Kind::Age => format::age(row.seconds),
        Kind::Client => look.text(&app.addresses().client(&row.client), TEXT_CHARS),
        Kind::Service => look.text(&row.service, TEXT_CHARS),
        Kind::Peer => peer(app, row.peer.as_deref()).text,
        Kind::RateUp | Kind::RateDown => "-".into(),
        Kind::Up => format::amount(row.bytes_up),
        Kind::Down => format::amount(row.bytes_down),
        Kind::Phase => look.text(&format!("{} {}", row.end, app.addresses().text(&row.reason)), TEXT_CHARS),
    };
    Cell::new(text, faint)
}

fn half(app: &App, role: Role) -> Cell {
    Cell::new(half_word(role), app.look.theme.plain)
}

fn peer(app: &App, peer: Option<&str>) -> Cell {
    let peer = app.addresses().text(peer.unwrap_or("-"));
    Cell::new(app.look.text(&peer, TEXT_CHARS), app.look.theme.plain)
}

/// Long enough to read why a session ended, short enough not to crowd out the living.
const KEPT_SECONDS: f64 = 6.0;
/// A pause in a conversation is not idleness yet.
const IDLE_SECONDS: f64 = 10.0;
const TEXT_CHARS: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_selected_line_is_always_in_sight() {
        let cases = [
            ((None, 3, 10), 0..3),
            ((None, 100, 10), 0..10),
            ((Some(3), 100, 10), 0..10),
            ((Some(50), 100, 10), 45..55),
            ((Some(99), 100, 10), 90..100),
            ((Some(99), 100, 0), 99..99),
            ((None, 0, 10), 0..0),
        ];
        for ((selected, count, lines), expected) in cases {
            assert_eq!(window(selected, count, lines), expected, "{selected:?} of {count} in {lines}");
        }
    }

    #[test]
    fn ended_sessions_get_the_free_lines_or_a_quarter() {
        for ((open, ended, lines), expected) in [
            ((5, 3, 12), (9, 3)),
            ((100, 9, 12), (9, 3)),
            ((0, 20, 12), (0, 12)),
            ((100, 1, 12), (11, 1)),
            ((100, 9, 2), (2, 0)),
        ] {
            assert_eq!(share(open, ended, lines), expected);
        }
    }
}
