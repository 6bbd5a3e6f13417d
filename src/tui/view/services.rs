//! The services: where clients come in, where they go, and what they move.

use ratatui::{
    buffer::Buffer,
    layout::{Constraint, Layout, Rect},
    style::Style,
};

use crate::{
    telemetry::snapshot::{ServicePhase, ServiceRow, Snapshot, TrafficSample},
    tui::{
        app::App,
        format, lists,
        screen::Screen,
        view::{
            alert, panel,
            pool::{half_word, number},
            table::{self, Cell, Column, Side, column},
            traffic,
        },
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Phase,
    Half,
    Service,
    Accept,
    Backend,
    /// One of the two, where no row has both.
    Address,
    Open,
    Waiting,
    Sessions,
    Refused,
    RateUp,
    RateDown,
    Up,
    Down,
    Lack,
}

pub const COLUMNS: [Column<Kind>; 15] = [
    column(Kind::Phase, "STATE", (9, 9, 1), Side::Left, 0).shrinking(),
    column(Kind::Half, "HALF", (4, 4, 1), Side::Left, 2),
    column(Kind::Service, "SERVICE", (12, 24, 1), Side::Left, 0).shrinking(),
    column(Kind::Accept, "ACCEPT", (21, 60, 1), Side::Left, 3).shrinking(),
    column(Kind::Backend, "BACKEND", (21, 60, 1), Side::Left, 3).shrinking(),
    column(Kind::Address, "ACCEPT OR BACKEND", (21, 60, 1), Side::Left, 3).shrinking(),
    column(Kind::Open, "OPEN", (5, 5, 1), Side::Right, 2),
    column(Kind::Waiting, "WAIT", (4, 5, 1), Side::Right, 5),
    column(Kind::Sessions, "TOTAL", (5, 5, 1), Side::Right, 6),
    column(Kind::Refused, "REFUSED", (7, 7, 1), Side::Right, 4),
    column(Kind::RateUp, "UP/S", (6, 6, 1), Side::Right, 5),
    column(Kind::RateDown, "DOWN/S", (6, 6, 1), Side::Right, 5),
    column(Kind::Up, "UP", (5, 6, 1), Side::Right, 7),
    column(Kind::Down, "DOWN", (5, 6, 1), Side::Right, 7),
    column(Kind::Lack, "WHY", (16, 160, 9), Side::Left, 2).shrinking(),
];

pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let inside = panel::margin(panel::frame(&app.look, "Services", "", area, buffer));
    list(app, None, inside, buffer);
}

/// A whole screen of them, and the bytes of the one under the cursor.
pub fn draw_screen(app: &App, area: Rect, buffer: &mut Buffer) {
    let [rows, below] = areas(area);
    let inside = panel::frame(&app.look, "Services", "bytes a second now, and in all", rows, buffer);
    draw_list(app, panel::margin(inside), buffer);
    let shown = lists::services(app.snapshot());
    let line = app.selected_line().filter(|_| app.screen() == Screen::Services);
    match line.and_then(|line| shown.get(line)) {
        Some(row) => traffic::draw_service(app, row, below, buffer),
        None => traffic::draw_panel(app, below, buffer),
    }
}

/// The frame of the list, and the chart below it.
pub fn areas(area: Rect) -> [Rect; 2] {
    let chart = traffic::FRAMED.min(area.height.saturating_sub(panel::FRAME_AND_HEADS + 2));
    Layout::vertical([Constraint::Min(0), Constraint::Length(chart)]).areas(area)
}

pub fn draw_list(app: &App, area: Rect, buffer: &mut Buffer) {
    let area = panel::told(&app.look, told(app), area, buffer);
    list(app, app.selected_line(), area, buffer);
}

/// What the service under the cursor lacks, or else the worst of all.
pub fn told(app: &App) -> Option<(String, Style)> {
    let snapshot = app.snapshot();
    let worst = || lists::services(snapshot).into_iter().next();
    let row = app.selected_service_row(snapshot).or_else(worst)?;
    let lack = row.lack.as_ref()?;
    let text = format!("{} in the {} half: {}", row.name, half_word(row.role), lack.why);
    Some((app.addresses().text(&text), alert::style(&app.look, lack.kind.severity())))
}

fn list(app: &App, selected: Option<usize>, area: Rect, buffer: &mut Buffer) {
    let snapshot = app.snapshot();
    if snapshot.services.is_empty() {
        return panel::empty(&app.look, "no services", area, buffer);
    }
    let rows = lists::services(snapshot);
    let cell = |row: &&ServiceRow, kind| cell(app, row, kind);
    table::draw_list(&app.look, &columns(snapshot), &rows, selected, area, buffer, cell);
}

fn columns(snapshot: &Snapshot) -> Vec<Column<Kind>> {
    let rows = &snapshot.services;
    let accepts = rows.iter().any(|row| !row.accept.is_empty());
    let connects = rows.iter().any(|row| row.connect.is_some());
    let has_either = rows.iter().all(|row| row.accept.is_empty() || row.connect.is_none());
    let has_waiting = rows.iter().any(|row| row.totals.sessions_waiting > 0);
    let has_lacks = rows.iter().any(|row| row.lack.is_some());
    let is_shown = |kind| match kind {
        Kind::Half => snapshot.roles.len() > 1,
        Kind::Address => accepts && connects && has_either,
        Kind::Accept => accepts && !(connects && has_either),
        Kind::Backend => connects && !(accepts && has_either),
        Kind::Lack => has_lacks,
        Kind::Waiting => has_waiting,
        Kind::Phase | Kind::Service | Kind::Open | Kind::Sessions | Kind::Refused => true,
        Kind::RateUp | Kind::RateDown | Kind::Up | Kind::Down => true,
    };
    COLUMNS.into_iter().filter(|column| is_shown(column.kind)).collect()
}

fn cell(app: &App, row: &ServiceRow, kind: Kind) -> Cell {
    let (look, theme) = (&app.look, app.look.theme);
    let accept = || app.addresses().text(&row.accept.join(" "));
    let backend = || app.addresses().text(row.connect.as_deref().unwrap_or("-"));
    match kind {
        Kind::Phase => match (row.phase, &row.lack) {
            (ServicePhase::Draining, _) => Cell::new("DRAINING", theme.warn),
            (ServicePhase::Open | ServicePhase::Down, Some(lack)) => {
                let style = alert::style(look, lack.kind.severity());
                Cell::new(format!("{} {}", look.symbols.alert, lack.kind.word()), style)
            }
            (ServicePhase::Open, None) => Cell::new("open", theme.good),
            (ServicePhase::Down, None) => Cell::new("down", theme.warn),
        },
        Kind::Service => Cell::new(look.text(&row.name, TEXT_CHARS), theme.accent),
        Kind::Half => Cell::new(half_word(row.role), theme.plain),
        Kind::RateUp => rate(app, row, |sample| sample.up),
        Kind::RateDown => rate(app, row, |sample| sample.down),
        Kind::Address if row.accept.is_empty() => Cell::new(look.text(&backend(), TEXT_CHARS), theme.plain),
        Kind::Accept | Kind::Address => Cell::new(look.text(&accept(), TEXT_CHARS), theme.plain),
        Kind::Backend => Cell::new(look.text(&backend(), TEXT_CHARS), theme.plain),
        Kind::Open => number(look, row.totals.sessions_open),
        Kind::Waiting if row.totals.sessions_waiting > 0 => {
            Cell::new(format::amount(row.totals.sessions_waiting), theme.warn)
        }
        Kind::Waiting => number(look, 0),
        Kind::Sessions => number(look, row.totals.sessions),
        Kind::Refused if row.totals.refused > 0 => Cell::new(format::amount(row.totals.refused), theme.warn),
        Kind::Refused => number(look, 0),
        Kind::Up => number(look, row.totals.bytes_up),
        Kind::Down => number(look, row.totals.bytes_down),
        Kind::Lack => {
            let why = row.lack.as_ref().map(|lack| app.addresses().text(&lack.why));
            Cell::new(look.text(why.as_deref().unwrap_or(""), TEXT_CHARS), theme.plain)
        }
    }
}

/// `-` while nothing is known yet: the screen has watched for less than a second.
fn rate(app: &App, row: &ServiceRow, of: fn(&TrafficSample) -> u64) -> Cell {
    match app.history().of(row.role, &row.name).last() {
        Some((_, sample)) => number(&app.look, of(sample)),
        None => Cell::new("-", app.look.theme.faint),
    }
}

const TEXT_CHARS: usize = 120;
