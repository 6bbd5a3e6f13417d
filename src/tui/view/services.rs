//! The services: where clients come in, where they go, and what they move.

use ratatui::{
    buffer::Buffer,
    layout::{Constraint, Layout, Rect},
};

use crate::{
    telemetry::snapshot::{ServicePhase, ServiceRow, TrafficSample},
    tui::{
        app::App,
        format, lists,
        screen::Screen,
        view::{
            panel,
            pool::{half_word, number},
            table::{self, Cell, Column, Side, column},
            traffic,
        },
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Phase,
    Half,
    Service,
    Accept,
    Backend,
    Open,
    Sessions,
    Refused,
    RateUp,
    RateDown,
    Up,
    Down,
}

const COLUMNS: [Column<Kind>; 12] = [
    column(Kind::Phase, "STATE", (8, 8, 1), Side::Left, 1),
    column(Kind::Half, "HALF", (4, 4, 1), Side::Left, 6),
    column(Kind::Service, "SERVICE", (8, 20, 1), Side::Left, 0),
    column(Kind::Accept, "ACCEPT", (14, 40, 1), Side::Left, 4),
    column(Kind::Backend, "BACKEND", (14, 40, 1), Side::Left, 3),
    column(Kind::Open, "OPEN", (5, 5, 1), Side::Right, 2),
    column(Kind::Sessions, "TOTAL", (5, 5, 1), Side::Right, 5),
    column(Kind::Refused, "REFUSED", (7, 7, 1), Side::Right, 2),
    column(Kind::RateUp, "UP/S", (6, 6, 1), Side::Right, 3),
    column(Kind::RateDown, "DOWN/S", (6, 6, 1), Side::Right, 3),
    column(Kind::Up, "UP", (5, 6, 1), Side::Right, 5),
    column(Kind::Down, "DOWN", (5, 6, 1), Side::Right, 5),
];

pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let inside = panel::margin(panel::frame(&app.look, "Services", "", area, buffer));
    list(app, None, inside, buffer);
}

/// A whole screen of them, and the bytes of the one under the cursor.
pub fn draw_screen(app: &App, area: Rect, buffer: &mut Buffer) {
    let chart = CHART.min(area.height.saturating_sub(panel::FRAME_AND_HEADS + 2));
    let [rows, below] = Layout::vertical([Constraint::Min(0), Constraint::Length(chart)]).areas(area);
    let inside = panel::frame(&app.look, "Services", "bytes a second now, and in all", rows, buffer);
    draw_list(app, panel::margin(inside), buffer);
    let shown = lists::services(app.snapshot());
    let line = app.selected_line().filter(|_| app.screen() == Screen::Services);
    match line.and_then(|line| shown.get(line)) {
        Some(row) => traffic::draw_service(app, row, below, buffer),
        None => traffic::draw_panel(app, below, buffer),
    }
}

pub fn draw_list(app: &App, area: Rect, buffer: &mut Buffer) {
    list(app, app.selected_line(), area, buffer);
}

fn list(app: &App, selected: Option<usize>, area: Rect, buffer: &mut Buffer) {
    let snapshot = app.snapshot();
    if snapshot.services.is_empty() {
        return panel::empty(&app.look, "no services", area, buffer);
    }
    let has_halves = snapshot.roles.len() > 1;
    let columns: Vec<_> =
        COLUMNS.into_iter().filter(|column| has_halves || column.kind != Kind::Half).collect();
    let rows = lists::services(snapshot);
    let cell = |row: &&ServiceRow, kind| cell(app, row, kind);
    table::draw_list(&app.look, &columns, &rows, selected, area, buffer, cell);
}

fn cell(app: &App, row: &ServiceRow, kind: Kind) -> Cell {
    let (look, theme) = (&app.look, app.look.theme);
    match kind {
        Kind::Phase => match row.phase {
            ServicePhase::Open => Cell::new("open", theme.good),
            ServicePhase::Draining => Cell::new("DRAINING", theme.warn),
        },
        Kind::Service => Cell::new(look.text(&row.name, TEXT_CHARS), theme.accent),
        Kind::Half => Cell::new(half_word(row.role), theme.plain),
        Kind::RateUp => rate(app, row, |sample| sample.up),
        Kind::RateDown => rate(app, row, |sample| sample.down),
        Kind::Accept => Cell::new(look.text(&row.accept.join(" "), TEXT_CHARS), theme.plain),
        Kind::Backend => Cell::new(look.text(row.connect.as_deref().unwrap_or("-"), TEXT_CHARS), theme.plain),
        Kind::Open => number(look, row.totals.sessions_open),
        Kind::Sessions => number(look, row.totals.sessions),
        Kind::Refused if row.totals.refused > 0 => Cell::new(format::amount(row.totals.refused), theme.warn),
        Kind::Refused => number(look, 0),
        Kind::Up => number(look, row.totals.bytes_up),
        Kind::Down => number(look, row.totals.bytes_down),
    }
}

/// `-` while nothing is known yet: the screen has watched for less than a second.
fn rate(app: &App, row: &ServiceRow, of: fn(&TrafficSample) -> u64) -> Cell {
    match app.history().of(row.role, &row.name).last() {
        Some((_, sample)) => number(&app.look, of(sample)),
        None => Cell::new("-", app.look.theme.faint),
    }
}

/// Frame, two ways of two lines, the totals.
const CHART: u16 = 7;
const TEXT_CHARS: usize = 120;
