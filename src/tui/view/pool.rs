//! The links between the two gateways: one row for each service and peer, worst first. Empty columns are left out.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use crate::{
    profile::{Half, Mode},
    telemetry::{
        health::{Severity, severity},
        snapshot::{PoolRow, PoolState, Snapshot},
    },
    tui::{
        app::App,
        format,
        health::links_ready,
        keys::Action,
        lists,
        style::ScreenStyle,
        view::{
            alert, panel,
            table::{self, CellAlign, TableCell, TableColumn, TableSheet, column},
        },
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolColumn {
    Gateway,
    State,
    Half,
    Service,
    Peer,
    Address,
    Name,
    Bar,
    Ready,
    Carrying,
    Sessions,
    Dialling,
    Waiting,
    Misses,
    Wait50,
    Wait99,
    FailuresMinute,
    Failures,
    Protocol,
    RoundTrip,
    LastError,
}

pub const COLUMNS: [TableColumn<PoolColumn>; 21] = [
    column(PoolColumn::Gateway, "GATEWAY", (8, 24, 1), CellAlign::Left, 0).shrinking(),
    column(PoolColumn::State, "STATE", (7, 7, 1), CellAlign::Left, 0),
    column(PoolColumn::Half, "HALF", (4, 4, 1), CellAlign::Left, 2),
    column(PoolColumn::Service, "SERVICE", (10, 24, 1), CellAlign::Left, 0).shrinking(),
    column(PoolColumn::Peer, "PEER", (21, 40, 1), CellAlign::Left, 2).shrinking(),
    column(PoolColumn::Address, "ADDRESS", (21, 40, 1), CellAlign::Left, 9).shrinking(),
    column(PoolColumn::Name, "NAME", (12, 40, 1), CellAlign::Left, 5).shrinking(),
    column(PoolColumn::Bar, "POOL", (10, 10, 1), CellAlign::Left, 8).shrinking(),
    column(PoolColumn::Ready, "READY", (5, 9, 0), CellAlign::Right, 1),
    column(PoolColumn::Carrying, "CARRY", (5, 5, 1), CellAlign::Right, 4),
    column(PoolColumn::Sessions, "SESS", (5, 8, 0), CellAlign::Right, 3),
    column(PoolColumn::Dialling, "DIAL", (5, 8, 0), CellAlign::Right, 4),
    column(PoolColumn::Waiting, "WAIT", (4, 5, 0), CellAlign::Right, 3),
    column(PoolColumn::Misses, "MISS", (4, 5, 0), CellAlign::Right, 6),
    column(PoolColumn::Wait50, "WAIT50", (6, 6, 1), CellAlign::Right, 8),
    column(PoolColumn::Wait99, "WAIT99", (6, 6, 1), CellAlign::Right, 7),
    column(PoolColumn::FailuresMinute, "FAIL/M", (6, 6, 1), CellAlign::Right, 6),
    column(PoolColumn::Failures, "FAIL", (4, 5, 1), CellAlign::Right, 9),
    column(PoolColumn::Protocol, "SPEAKS", (12, 12, 1), CellAlign::Left, 10),
    column(PoolColumn::RoundTrip, "RTT MS", (6, 14, 0), CellAlign::Right, 5),
    column(PoolColumn::LastError, "LAST ERROR", (19, 120, 9), CellAlign::Left, 3).shrinking(),
];

pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let (screen_style, snapshot) = (&app.style, app.snapshot());
    let inside = panel::draw_frame(screen_style, title(snapshot), &facts(snapshot), area, buffer);
    let inside = panel::margin(inside);
    if snapshot.pools.is_empty() {
        return panel::draw_empty(screen_style, "no links yet", inside, buffer);
    }
    let rows = lists::pools(snapshot);
    let list = panel::below_heads(inside);
    let (drawn, rest) = rows.split_at(panel::rows_drawn(rows.len(), list));
    // The bar is easier to read at a glance than the numbers behind it.
    let mut columns = columns(snapshot);
    if let Some(bar) = columns.iter_mut().find(|column| column.kind == PoolColumn::Bar) {
        bar.rank = 2;
    }
    let sheet = TableSheet::new(&columns, drawn, inside.width, |row, kind| cell(app, row, kind));
    sheet.draw_heads(screen_style, inside, buffer);
    for (row, at) in panel::lines(list).take(drawn.len()).enumerate() {
        sheet.draw_row(screen_style, row, at, buffer);
    }
    let well = rest.iter().filter(|row| severity(row) == Severity::Fine).count();
    let more = format!(", {well} of them fine; 2 shows all");
    panel::draw_hidden_count(screen_style, rest.len(), &more, list, buffer);
}

/// A whole screen of them, and the full last error of the selected one.
pub fn draw_screen(app: &App, area: Rect, buffer: &mut Buffer) {
    let (screen_style, signs) = (&app.style, &app.style.symbols);
    let inside = panel::draw_frame(screen_style, title(app.snapshot()), &facts(app.snapshot()), area, buffer);
    let inside = panel::margin(inside);
    draw_list(app, list_area(area), buffer);
    let resize = if app.is_available(Action::Resize) { "   n resizes the pool" } else { "" };
    let text =
        format!("{} ready  {} dialling  {} missing{resize}", signs.ready, signs.dialling, signs.missing);
    let last = table::line(inside, inside.height.saturating_sub(1));
    table::write(&table::cut(screen_style, &text, last.width), screen_style.theme.faint, last, buffer);
}

/// Above the legend.
pub fn list_area(area: Rect) -> Rect {
    let inside = panel::margin(panel::inside(area));
    Rect { height: inside.height.saturating_sub(1), ..inside }
}

pub fn draw_list(app: &App, area: Rect, buffer: &mut Buffer) {
    let snapshot = app.snapshot();
    if snapshot.pools.is_empty() {
        return panel::draw_empty(&app.style, "no links yet", area, buffer);
    }
    let area = panel::draw_selected_text(&app.style, selected_text(app), area, buffer);
    let cell = |row: &&PoolRow, kind| cell(app, row, kind);
    let rows = lists::pools(snapshot);
    table::draw_list(&app.style, &columns(snapshot), &rows, app.selected_line(), area, buffer, cell);
}

/// The last error of the selected row, or else of the worst one that has one.
pub fn selected_text(app: &App) -> Option<(String, Style)> {
    let theme = app.style.theme;
    let selected = app.selected_pool(app.snapshot());
    let worst = || lists::pools(app.snapshot()).into_iter().find(|row| row.last_error.is_some());
    let Some(row) = selected.or_else(worst) else {
        return Some(("no error at the moment".into(), theme.faint));
    };
    let of = row.peer.as_deref().or(row.address.as_deref()).unwrap_or("-");
    let service = if row.service == "*" { "any service" } else { &row.service };
    let (text, style) = match &row.last_error {
        Some(error) => (format!("last error of {of}, {service}: {error}"), theme.plain),
        None => (format!("no error of {of}, {service}"), theme.faint),
    };
    Some((app.addresses().text(&text), style))
}

fn columns(snapshot: &Snapshot) -> Vec<TableColumn<PoolColumn>> {
    COLUMNS.into_iter().filter(|column| is_shown(column.kind, snapshot)).collect()
}

fn title(snapshot: &Snapshot) -> &'static str {
    match snapshot.mode {
        Mode::Forward if snapshot.halves.contains(&Half::Dmz) => "Links dialled",
        Mode::Forward => "Links accepted",
        Mode::Direct | Mode::Reverse => "Reverse pool",
    }
}

/// Links that are made for one session each have no pool to fill.
fn is_shown(kind: PoolColumn, snapshot: &Snapshot) -> bool {
    match kind {
        PoolColumn::Gateway => !snapshot.gateways.is_empty(),
        PoolColumn::Half => snapshot.halves.len() > 1,
        PoolColumn::Bar | PoolColumn::Ready | PoolColumn::Waiting | PoolColumn::Misses => is_pooled(snapshot),
        PoolColumn::Wait50 | PoolColumn::Wait99 => snapshot.pools.iter().any(|row| row.wait_p99_ms.is_some()),
        PoolColumn::Protocol => snapshot.pools.iter().any(|row| row.protocol.is_some()),
        PoolColumn::RoundTrip => snapshot.pools.iter().any(|row| row.round_trip_ms.is_some()),
        PoolColumn::Address => snapshot.pools.iter().any(|row| row.peer.is_some() && row.address.is_some()),
        PoolColumn::Name => snapshot.pools.iter().any(|row| row.name.is_some()),
        PoolColumn::State
        | PoolColumn::Service
        | PoolColumn::Peer
        | PoolColumn::Carrying
        | PoolColumn::Sessions
        | PoolColumn::Dialling => true,
        PoolColumn::FailuresMinute | PoolColumn::Failures | PoolColumn::LastError => true,
    }
}

/// In forward mode links are kept ready too, unless the peer speaks SOCKS5.
fn is_pooled(snapshot: &Snapshot) -> bool {
    snapshot.mode != Mode::Forward || snapshot.pools.iter().any(|row| row.target > 0)
}

fn facts(snapshot: &Snapshot) -> String {
    let sessions = format::amount_of(total(snapshot, |row| row.sessions), "session");
    if !is_pooled(snapshot) {
        return sessions;
    }
    format!("{}, {sessions}, {} waiting", ready(snapshot), sum(snapshot, |row| row.waiting))
}

/// Ready links of all pools, and how many are wanted.
pub fn ready(snapshot: &Snapshot) -> String {
    let (ready, target) = links_ready(snapshot);
    format!("{}/{} ready", format::amount(ready as u64), format::amount(target as u64))
}

/// For one half only: a pair's snapshot has both ends of a link.
fn sum(snapshot: &Snapshot, count: fn(&PoolRow) -> usize) -> String {
    format::amount(total(snapshot, count))
}

fn total(snapshot: &Snapshot, count: fn(&PoolRow) -> usize) -> u64 {
    let counted = snapshot.halves.first().copied().unwrap_or(Half::Dmz);
    let rows = snapshot.pools.iter().filter(|row| row.half == counted);
    rows.fold(0, |sum: u64, row| sum.saturating_add(count(row) as u64))
}

fn cell(app: &App, row: &PoolRow, kind: PoolColumn) -> TableCell {
    let shown = row_cell(app, row, kind);
    if app.is_answering(row.gateway.as_ref()) {
        return shown;
    }
    if kind == PoolColumn::State {
        return TableCell::new("unknown", app.style.theme.faint);
    }
    TableCell { style: app.style.theme.faint, ..shown }
}

fn row_cell(app: &App, row: &PoolRow, kind: PoolColumn) -> TableCell {
    let (screen_style, theme) = (&app.style, app.style.theme);
    match kind {
        PoolColumn::Gateway => {
            TableCell::new(screen_style.text(row.gateway.as_deref().unwrap_or("-"), TEXT_CHARS), theme.accent)
        }
        PoolColumn::State => TableCell::new(state_word(row), state_style(screen_style, row)),
        PoolColumn::Half => TableCell::new(half_word(row.half), theme.plain),
        PoolColumn::Service if !row.waited_for.is_empty() => {
            TableCell::new(screen_style.text(&row.waited_for.join(" "), TEXT_CHARS), theme.accent)
        }
        PoolColumn::Service if row.service == "*" => TableCell::new("any", theme.accent),
        PoolColumn::Service => TableCell::new(screen_style.text(&row.service, TEXT_CHARS), theme.accent),
        // The protocol is shown elsewhere; host and port must be readable here.
        PoolColumn::Peer => {
            let address = row.address.as_deref().map(|at| at.split_once("://").map_or(at, |(_, host)| host));
            known(app, row.peer.as_deref().or(address))
        }
        PoolColumn::Address => known(app, row.peer.as_ref().and(row.address.as_deref())),
        PoolColumn::Name => known(app, row.name.as_deref()),
        PoolColumn::Bar => TableCell::new(bar(screen_style, row, BAR_CELLS), state_style(screen_style, row)),
        PoolColumn::Ready => TableCell::new(
            format!("{}/{}", format::amount(row.ready as u64), format::amount(row.target as u64)),
            theme.plain,
        ),
        PoolColumn::Carrying => number(screen_style, row.carrying as u64),
        PoolColumn::Sessions => number(screen_style, row.sessions as u64),
        PoolColumn::Dialling => dialling_cell(screen_style, row),
        PoolColumn::Protocol => TableCell::new(row.protocol.clone().unwrap_or_default(), theme.plain),
        PoolColumn::RoundTrip => TableCell::new(round_trip(screen_style, row), theme.plain),
        PoolColumn::Waiting => number(screen_style, row.waiting as u64),
        PoolColumn::Misses => number(screen_style, row.misses),
        PoolColumn::Wait50 => wait(screen_style, row.wait_p50_ms),
        PoolColumn::Wait99 => wait(screen_style, row.wait_p99_ms),
        PoolColumn::FailuresMinute => number(screen_style, row.failures_minute),
        PoolColumn::Failures => number(screen_style, row.failures),
        PoolColumn::LastError => {
            let style = if row.last_error.is_some() { state_style(screen_style, row) } else { theme.faint };
            TableCell { style, ..known(app, row.last_error.as_deref()) }
        }
    }
}

/// A wait of the last minute; `-` if there were none.
fn wait(screen_style: &ScreenStyle, ms: Option<f64>) -> TableCell {
    ms.map_or_else(
        || TableCell::new("-", screen_style.theme.faint),
        |ms| TableCell::new(format::wait(ms), screen_style.theme.plain),
    )
}

/// Milliseconds, and the variation.
fn round_trip(screen_style: &ScreenStyle, row: &PoolRow) -> String {
    match (row.round_trip_ms, row.round_trip_spread_ms) {
        (Some(time), Some(spread)) => format!("{time:.1} {}{spread:.1}", screen_style.symbols.spread),
        (time, _) => time.map_or_else(String::new, |time| format!("{time:.1}")),
    }
}

/// A name, address or reason from outside; `-` if unknown.
fn known(app: &App, text: Option<&str>) -> TableCell {
    let text = app.addresses().text(text.unwrap_or("-"));
    TableCell::new(app.style.text(&text, TEXT_CHARS), app.style.theme.plain)
}

/// Dials under way, or how long the next one is delayed.
fn dialling_cell(screen_style: &ScreenStyle, row: &PoolRow) -> TableCell {
    match row.retry_seconds {
        Some(seconds) if row.dialling == 0 => {
            TableCell::new(format!("in {}", format::whole_span(seconds)), screen_style.theme.plain)
        }
        Some(_) | None => number(screen_style, row.dialling as u64),
    }
}

/// Zeros are faint, so that other numbers stand out.
pub fn number(screen_style: &ScreenStyle, count: u64) -> TableCell {
    let style = if count == 0 { screen_style.theme.faint } else { screen_style.theme.plain };
    TableCell::new(format::amount(count), style)
}

pub fn state_word(row: &PoolRow) -> &'static str {
    match row.shown_state() {
        _ if row.standby => "standby",
        _ if row.left && row.ready == 0 && row.carrying > 0 => "leaving",
        PoolState::Healthy => "healthy",
        PoolState::Filling if row.at_maximum => "full",
        PoolState::Filling => "filling",
        PoolState::Starved => "STARVED",
        PoolState::Down => "DOWN",
    }
}

fn state_style(screen_style: &ScreenStyle, row: &PoolRow) -> Style {
    match severity(row) {
        _ if row.standby => screen_style.theme.faint,
        Severity::Fine => screen_style.theme.good,
        worse @ (Severity::Short | Severity::Starved | Severity::Lost) => alert::style(screen_style, worse),
    }
}

pub fn half_word(half: Half) -> &'static str {
    match half {
        Half::Dmz => "dmz",
        Half::Internal => "int",
    }
}

/// One cell per link if they fit, otherwise in proportion: full only if all are ready, empty only if none is.
fn bar(screen_style: &ScreenStyle, row: &PoolRow, cells: usize) -> String {
    let whole = row.target.max(row.ready.saturating_add(row.dialling));
    let scaled = |count: usize| match (count, whole <= cells) {
        (0, _) => 0,
        (_, true) => count,
        (_, false) => (count as u128 * cells as u128 / whole as u128).max(1) as usize,
    };
    let ready = scaled(row.ready).min(cells);
    let dialling = scaled(row.dialling).min(cells - ready);
    let missing = whole.min(cells) - ready - dialling;
    let signs = [
        (screen_style.symbols.ready, ready),
        (screen_style.symbols.dialling, dialling),
        (screen_style.symbols.missing, missing),
    ];
    signs.iter().flat_map(|&(sign, count)| std::iter::repeat_n(sign, count)).collect()
}

const BAR_CELLS: usize = 10;
/// No cell is wider, so longer text from outside is not even copied.
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
                state: PoolState::Filling,
                ready,
                dialling,
                target,
                ..PoolRow::new(Half::Dmz, String::new())
            };
            assert_eq!(bar(&ScreenStyle::FULL, &row, 10), expected, "{ready}+{dialling} of {target}");
        }
    }
}
