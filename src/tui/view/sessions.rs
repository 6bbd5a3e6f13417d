//! The sessions: open ones, waiting first, then the busiest; below them those that just ended.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use crate::{
    profile::Role,
    telemetry::snapshot::{EndedRow, SessionPhase, SessionRow, Snapshot},
    tui::{
        app::App,
        filter::{Row, phase_word},
        format, lists, order,
        view::{
            panel,
            pool::{half_word, number},
            table::{self, Cell, Column, Sheet, Side, column},
        },
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Mark,
    Id,
    Half,
    Age,
    Client,
    Service,
    Peer,
    Backend,
    RateUp,
    RateDown,
    Up,
    Down,
    Phase,
}

pub const COLUMNS: [Column<Kind>; 13] = [
    column(Kind::Mark, "", (2, 2, 0), Side::Left, 0),
    column(Kind::Id, "ID", (6, 12, 0), Side::Left, 5),
    column(Kind::Half, "HALF", (4, 4, 0), Side::Left, 4),
    column(Kind::Age, "AGE", (6, 6, 0), Side::Right, 3),
    column(Kind::Client, "CLIENT", (21, 47, 0), Side::Left, 0),
    column(Kind::Service, "SERVICE", (7, 24, 0), Side::Left, 2),
    column(Kind::Peer, "PEER", (8, 21, 0), Side::Left, 7),
    column(Kind::Backend, "BACKEND", (12, 21, 0), Side::Left, 7),
    column(Kind::RateUp, "UP/S", (5, 6, 0), Side::Right, 2),
    column(Kind::RateDown, "DOWN/S", (6, 7, 0), Side::Right, 2),
    column(Kind::Up, "UP", (5, 6, 0), Side::Right, 6),
    column(Kind::Down, "DOWN", (5, 6, 0), Side::Right, 6),
    column(Kind::Phase, "PHASE", (12, 160, 1), Side::Left, 1),
];

/// With frame, title and sums.
pub fn draw_panel(app: &App, area: Rect, buffer: &mut Buffer) {
    panel::frame(&app.look, "Sessions", &facts(app), area, buffer);
    draw_list(app, list_area(area), buffer);
}

/// The first two cells of a row are its mark.
pub fn list_area(framed: Rect) -> Rect {
    let inside = panel::inside(framed);
    Rect { width: inside.width.saturating_sub(1), ..inside }
}

/// Heads and rows alone.
pub fn draw_list(app: &App, area: Rect, buffer: &mut Buffer) {
    let (look, order) = (&app.look, app.order());
    if order.is_empty() {
        let text =
            if order.filter.is_empty() { " no session is open" } else { " no session passes the filter" };
        return panel::empty(look, text, area, buffer);
    }
    let below = Rect { x: area.x.saturating_add(2), width: area.width.saturating_sub(2), ..area };
    panel::told(look, told_of_selected(app), below, buffer);
    let (area, lines) = in_sight(app, area);
    let sheet = sheet(app, area, &lines);
    sheet.draw_heads(look, area, buffer);
    let selected = app.selected_line();
    for (place, (at, line)) in panel::lines(panel::below_heads(area)).zip(lines).enumerate() {
        sheet.draw_row(look, place, at, buffer);
        if selected == Some(line) {
            buffer.set_style(at.intersection(buffer.area), look.theme.selected);
        }
    }
}

/// What of `area` the list has, with its heads, and the lines that are drawn there.
pub fn in_sight(app: &App, area: Rect) -> (Rect, Vec<usize>) {
    let order = app.order();
    let below = Rect { width: area.width.saturating_sub(2), ..area };
    let (left, ..) = panel::split_told(&app.look, told_of_selected(app), below);
    let area = Rect { height: left.height, ..area };
    let (open, ended) = (order.open_len(), order.len() - order.open_len());
    let (open_lines, ended_lines) = share(open, ended, usize::from(panel::below_heads(area).height));
    let selected = app.selected_line();
    let of_open = table::window(selected.filter(|&line| line < open), open, open_lines);
    let of_ended = selected.and_then(|line| line.checked_sub(open));
    let of_ended = table::window(of_ended, ended, ended_lines);
    (area, of_open.chain(of_ended.start + open..of_ended.end + open).collect())
}

/// The column of the order whose head is so far from the left.
pub fn head_at(app: &App, area: Rect, cells: u16) -> Option<order::Column> {
    let (area, lines) = in_sight(app, area);
    sheet(app, area, &lines).kind_at(cells).and_then(sorted_by)
}

fn sheet(app: &App, area: Rect, lines: &[usize]) -> Sheet<Kind> {
    let (order, snapshot, selected) = (app.order(), app.snapshot(), app.selected_line());
    let row = |&line: &usize| Some((line, order.row(snapshot, line)?));
    let rows: Vec<_> = lines.iter().filter_map(row).collect();
    Sheet::with_heads(
        &columns(snapshot),
        &rows,
        area.width,
        |(line, row), kind| cell(app, *row, selected == Some(*line), kind),
        |column| head(app, column),
    )
}

fn told_of_selected(app: &App) -> Option<(String, Style)> {
    app.selected_session(app.snapshot()).map(|row| told(app, row))
}

fn cell(app: &App, row: Row<'_>, is_selected: bool, kind: Kind) -> Cell {
    match (kind, row) {
        (Kind::Mark, row) if is_selected => {
            let ended = if matches!(row, Row::Ended(_)) { app.look.symbols.ended } else { "" };
            Cell::new(format!("{}{ended}", app.look.symbols.selected), app.look.theme.plain)
        }
        (_, Row::Open(row)) => open_cell(app, row, kind),
        (_, Row::Ended(row)) => ended_cell(app, row, kind),
    }
}

/// The row under the cursor, with what its columns have no room for.
fn told(app: &App, row: Row<'_>) -> (String, Style) {
    let addresses = app.addresses();
    let moved = |up: u64, down: u64| format!("{} up, {} down in all", format::bytes(up), format::bytes(down));
    let over = |peer: &Option<String>| peer.as_ref().map(|peer| format!(" over {}", addresses.text(peer)));
    let text = match row {
        Row::Open(row) => {
            let waited = row.waited_ms.map(|ms| format!(", waited {}", format::wait(ms)));
            let connected = row.connected_ms.map(|ms| format!(", connected in {}", format::wait(ms)));
            format!(
                "{} {} to {}{}: {}{}{}",
                row.id,
                addresses.client(&row.client),
                row.service,
                over(&row.peer).unwrap_or_default(),
                moved(row.bytes_up, row.bytes_down),
                waited.unwrap_or_default(),
                connected.unwrap_or_default()
            )
        }
        Row::Ended(row) => format!(
            "{} {} to {}{}: {} {}; {}",
            row.id,
            addresses.client(&row.client),
            row.service,
            over(&row.peer).unwrap_or_default(),
            row.end,
            addresses.text(&row.reason),
            moved(row.bytes_up, row.bytes_down)
        ),
    };
    (text, app.look.theme.plain)
}

/// The head of the column that the list goes by has an arrow: up for the least on top.
fn head(app: &App, column: &Column<Kind>) -> String {
    let (order, symbols) = (app.order(), &app.look.symbols);
    if sorted_by(column.kind) != Some(order.column) {
        return column.title.into();
    }
    let rises = order.column.begins_with_least() != order.is_flipped;
    format!("{}{}", column.title, if rises { symbols.rising } else { symbols.falling })
}

fn sorted_by(kind: Kind) -> Option<order::Column> {
    Some(match kind {
        Kind::Age => order::Column::Age,
        Kind::Client => order::Column::Client,
        Kind::Service => order::Column::Service,
        Kind::RateUp => order::Column::RateUp,
        Kind::RateDown => order::Column::RateDown,
        Kind::Up => order::Column::Up,
        Kind::Down => order::Column::Down,
        Kind::Phase => order::Column::Trouble,
        Kind::Mark | Kind::Id | Kind::Half | Kind::Peer | Kind::Backend => return None,
    })
}

fn columns(snapshot: &Snapshot) -> Vec<Column<Kind>> {
    let has_halves = snapshot.roles.len() > 1;
    let has_peers = snapshot.sessions.iter().any(|row| row.peer.is_some())
        || snapshot.ended.iter().any(|row| row.peer.is_some());
    let shown = |kind| match kind {
        Kind::Half => has_halves,
        Kind::Peer => has_peers && !has_halves,
        // In a pair the peer is the pair itself.
        Kind::Backend => has_halves,
        Kind::Mark | Kind::Id | Kind::Age | Kind::Client | Kind::Service | Kind::Phase => true,
        Kind::RateUp | Kind::RateDown | Kind::Up | Kind::Down => true,
    };
    COLUMNS.into_iter().filter(|column| shown(column.kind)).collect()
}

fn facts(app: &App) -> String {
    let snapshot = app.snapshot();
    let totals = &snapshot.totals;
    let waiting = totals.sessions_waiting;
    let (open, all, refused) = (totals.sessions_open, totals.sessions, totals.refused);
    let mut facts = match listed(app) {
        Some(listed) => format!("{listed} pass the filter, {waiting} waiting"),
        None => format!("{open} open of {all}, {waiting} waiting, {refused} refused"),
    };
    if snapshot.sessions_left_out > 0 {
        facts.push_str(&format!(", {} not listed", snapshot.sessions_left_out));
    }
    format!("{facts}, {}, in bytes", app.order().words())
}

/// `12 of 66`, while a filter holds rows back.
pub fn listed(app: &App) -> Option<String> {
    let order = app.order();
    let open = order.listable_len();
    (!order.filter.is_empty()).then(|| format!("{} of {open}", order.open_len()))
}

/// Lines for the open and for the ended: those that just ended keep a quarter of a full list.
fn share(open: usize, ended: usize, lines: usize) -> (usize, usize) {
    let ended = ended.min((lines / 4).max(lines.saturating_sub(open)));
    (lines - ended, ended)
}

fn open_cell(app: &App, row: &SessionRow, kind: Kind) -> Cell {
    let (look, theme) = (&app.look, app.look.theme);
    match kind {
        Kind::Mark => Cell::new("", theme.plain),
        Kind::Id => Cell::new(look.text(&row.id, TEXT_CHARS), theme.plain),
        Kind::Half if app.order().inner(app.snapshot(), row).is_some() => Cell::new("both", theme.plain),
        Kind::Half => half(app, row.role),
        Kind::Age => Cell::new(format::age(row.age_seconds), theme.plain),
        Kind::Client => Cell::new(look.text(&app.addresses().client(&row.client), TEXT_CHARS), theme.plain),
        Kind::Service => Cell::new(look.text(&row.service, TEXT_CHARS), theme.accent),
        Kind::Peer => peer(app, row.peer.as_deref()),
        Kind::Backend => peer(app, lists::backend(app.snapshot(), &row.service)),
        Kind::RateUp => number(look, row.rate_up),
        Kind::RateDown => number(look, row.rate_down),
        Kind::Up => number(look, row.bytes_up),
        Kind::Down => number(look, row.bytes_down),
        Kind::Phase => match app.order().inner(app.snapshot(), row) {
            // The outer half's, then the inner one's.
            Some(inner) if inner.phase != row.phase => {
                let outer = phase(app, row);
                Cell { text: format!("{}/{}", outer.text, phase_word(inner.phase)), ..outer }
            }
            Some(_) | None => phase(app, row),
        },
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
        Kind::Mark => format!(" {}", look.symbols.ended),
        Kind::Id => look.text(&row.id, TEXT_CHARS),
        Kind::Half => half_word(row.role).into(),
        Kind::Age => format::age(row.seconds),
        Kind::Client => look.text(&app.addresses().client(&row.client), TEXT_CHARS),
        Kind::Service => look.text(&row.service, TEXT_CHARS),
        Kind::Peer => peer(app, row.peer.as_deref()).text,
        Kind::Backend => peer(app, lists::backend(app.snapshot(), &row.service)).text,
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

/// A pause in a conversation is not idleness yet.
const IDLE_SECONDS: f64 = 10.0;
const TEXT_CHARS: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

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
