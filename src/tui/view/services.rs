//! The services: where clients come in, where they go, and what they carry. Where the terminal is narrow, the columns
//! of the highest rank go first.

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
            table::{self, CellAlign, TableCell, TableColumn, column},
            traffic,
        },
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceColumn {
    Gateway,
    Phase,
    Half,
    Service,
    Accept,
    Backend,
    /// One of the two, if no row has both.
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

pub const COLUMNS: [TableColumn<ServiceColumn>; 16] = [
    column(ServiceColumn::Gateway, "GATEWAY", (8, 24, 1), CellAlign::Left, 0).shrinking(),
    column(ServiceColumn::Phase, "STATE", (9, 9, 1), CellAlign::Left, 0).shrinking(),
    column(ServiceColumn::Half, "HALF", (4, 4, 1), CellAlign::Left, 2),
    column(ServiceColumn::Service, "SERVICE", (12, 24, 1), CellAlign::Left, 0).shrinking(),
    column(ServiceColumn::Accept, "ACCEPT", (21, 60, 1), CellAlign::Left, 3).shrinking(),
    column(ServiceColumn::Backend, "BACKEND", (21, 60, 1), CellAlign::Left, 3).shrinking(),
    column(ServiceColumn::Address, "ACCEPT OR BACKEND", (21, 60, 1), CellAlign::Left, 3).shrinking(),
    column(ServiceColumn::Open, "OPEN", (5, 5, 1), CellAlign::Right, 2),
    column(ServiceColumn::Waiting, "WAIT", (4, 5, 1), CellAlign::Right, 5),
    column(ServiceColumn::Sessions, "TOTAL", (5, 5, 1), CellAlign::Right, 6),
    column(ServiceColumn::Refused, "REFUSED", (7, 7, 1), CellAlign::Right, 4),
    column(ServiceColumn::RateUp, "UP/S", (6, 6, 1), CellAlign::Right, 5),
    column(ServiceColumn::RateDown, "DOWN/S", (6, 6, 1), CellAlign::Right, 5),
    column(ServiceColumn::Up, "UP", (5, 6, 1), CellAlign::Right, 7),
    column(ServiceColumn::Down, "DOWN", (5, 6, 1), CellAlign::Right, 7),
    column(ServiceColumn::Lack, "WHY", (16, 160, 9), CellAlign::Left, 2).shrinking(),
];

pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let inside = panel::margin(panel::draw_frame(&app.style, "Services", "", area, buffer));
    list(app, None, inside, buffer);
}

/// A whole screen of them, and the traffic of the selected one.
pub fn draw_screen(app: &App, area: Rect, buffer: &mut Buffer) {
    let [rows, below] = areas(area);
    let inside = panel::draw_frame(&app.style, "Services", "bytes a second now, and in all", rows, buffer);
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
    let chart =
        traffic::lines_below_list(area.height).min(area.height.saturating_sub(panel::FRAME_AND_HEADS + 2));
    Layout::vertical([Constraint::Min(0), Constraint::Length(chart)]).areas(area)
}

pub fn draw_list(app: &App, area: Rect, buffer: &mut Buffer) {
    let area = panel::draw_selected_text(&app.style, selected_text(app), area, buffer);
    list(app, app.selected_line(), area, buffer);
}

/// What the selected service lacks, or else the worst of all.
pub fn selected_text(app: &App) -> Option<(String, Style)> {
    let snapshot = app.snapshot();
    let worst = || lists::services(snapshot).into_iter().next();
    let row = app.selected_service_row(snapshot).or_else(worst)?;
    let lack = row.lack.as_ref()?;
    let text = format!("{} in the {} half: {}", row.name, half_word(row.half), lack.why);
    Some((app.addresses().text(&text), alert::style(&app.style, lack.kind.severity())))
}

fn list(app: &App, selected: Option<usize>, area: Rect, buffer: &mut Buffer) {
    let snapshot = app.snapshot();
    if snapshot.services.is_empty() {
        return panel::draw_empty(&app.style, "no services", area, buffer);
    }
    let rows = lists::services(snapshot);
    let cell = |row: &&ServiceRow, kind| cell(app, row, kind);
    table::draw_list(&app.style, &columns(snapshot), &rows, selected, area, buffer, cell);
}

fn columns(snapshot: &Snapshot) -> Vec<TableColumn<ServiceColumn>> {
    let rows = &snapshot.services;
    let accepts = rows.iter().any(|row| !row.accept.is_empty());
    let connects = rows.iter().any(|row| row.connect.is_some());
    let has_either = rows.iter().all(|row| row.accept.is_empty() || row.connect.is_none());
    let has_waiting = rows.iter().any(|row| row.totals.sessions_waiting > 0);
    let has_lacks = rows.iter().any(|row| row.lack.is_some());
    let is_shown = |kind| match kind {
        ServiceColumn::Gateway => !snapshot.gateways.is_empty(),
        ServiceColumn::Half => snapshot.halves.len() > 1,
        ServiceColumn::Address => accepts && connects && has_either,
        ServiceColumn::Accept => accepts && !(connects && has_either),
        ServiceColumn::Backend => connects && !(accepts && has_either),
        ServiceColumn::Lack => has_lacks,
        ServiceColumn::Waiting => has_waiting,
        ServiceColumn::Phase
        | ServiceColumn::Service
        | ServiceColumn::Open
        | ServiceColumn::Sessions
        | ServiceColumn::Refused => true,
        ServiceColumn::RateUp | ServiceColumn::RateDown | ServiceColumn::Up | ServiceColumn::Down => true,
    };
    COLUMNS.into_iter().filter(|column| is_shown(column.kind)).collect()
}

fn cell(app: &App, row: &ServiceRow, kind: ServiceColumn) -> TableCell {
    let shown = row_cell(app, row, kind);
    if app.is_answering(row.gateway.as_ref()) {
        return shown;
    }
    // Its gateway's last state may be outdated.
    if kind == ServiceColumn::Phase {
        return TableCell::new("unknown", app.style.theme.faint);
    }
    if matches!(kind, ServiceColumn::RateUp | ServiceColumn::RateDown) {
        return TableCell::new("-", app.style.theme.faint);
    }
    TableCell { style: app.style.theme.faint, ..shown }
}

fn row_cell(app: &App, row: &ServiceRow, kind: ServiceColumn) -> TableCell {
    let (screen_style, theme) = (&app.style, app.style.theme);
    let accept = || app.addresses().text(&row.accept.join(" "));
    let backend = || app.addresses().text(row.connect.as_deref().unwrap_or("-"));
    match kind {
        ServiceColumn::Phase => match (row.phase, &row.lack) {
            (ServicePhase::Draining, _) => TableCell::new("DRAINING", theme.warn),
            (
                ServicePhase::Open | ServicePhase::Down | ServicePhase::Locked | ServicePhase::Closed,
                Some(lack),
            ) => {
                let style = alert::style(screen_style, lack.kind.severity());
                TableCell::new(format!("{} {}", screen_style.symbols.alert, lack.kind.label()), style)
            }
            (ServicePhase::Open, None) => TableCell::new("open", theme.good),
            (ServicePhase::Locked, None) => TableCell::new("LOCKED", theme.warn),
            (ServicePhase::Closed, None) => TableCell::new("closed", theme.warn),
            (ServicePhase::Down, None) => TableCell::new("down", theme.warn),
        },
        ServiceColumn::Service => TableCell::new(screen_style.text(&row.name, TEXT_CHARS), theme.accent),
        ServiceColumn::Gateway => {
            TableCell::new(screen_style.text(row.gateway.as_deref().unwrap_or("-"), TEXT_CHARS), theme.accent)
        }
        ServiceColumn::Half => TableCell::new(half_word(row.half), theme.plain),
        ServiceColumn::RateUp => rate(app, row, |sample| sample.up),
        ServiceColumn::RateDown => rate(app, row, |sample| sample.down),
        ServiceColumn::Address if row.accept.is_empty() => {
            TableCell::new(screen_style.text(&backend(), TEXT_CHARS), theme.plain)
        }
        ServiceColumn::Accept | ServiceColumn::Address => {
            TableCell::new(screen_style.text(&accept(), TEXT_CHARS), theme.plain)
        }
        ServiceColumn::Backend => TableCell::new(screen_style.text(&backend(), TEXT_CHARS), theme.plain),
        ServiceColumn::Open => number(screen_style, row.totals.sessions_open),
        ServiceColumn::Waiting if row.totals.sessions_waiting > 0 => {
            TableCell::new(format::amount(row.totals.sessions_waiting), theme.warn)
        }
        ServiceColumn::Waiting => number(screen_style, 0),
        ServiceColumn::Sessions => number(screen_style, row.totals.sessions),
        ServiceColumn::Refused if row.totals.refused > 0 => {
            TableCell::new(format::amount(row.totals.refused), theme.warn)
        }
        ServiceColumn::Refused => number(screen_style, 0),
        ServiceColumn::Up => number(screen_style, row.totals.bytes_up),
        ServiceColumn::Down => number(screen_style, row.totals.bytes_down),
        ServiceColumn::Lack => {
            let why = row.lack.as_ref().map(|lack| app.addresses().text(&lack.why));
            TableCell::new(screen_style.text(why.as_deref().unwrap_or(""), TEXT_CHARS), theme.plain)
        }
    }
}

/// `-` while nothing is known yet: the screen has watched for less than a second.
fn rate(app: &App, row: &ServiceRow, of: fn(&TrafficSample) -> u64) -> TableCell {
    match app.history().of(row).last() {
        Some((_, sample)) => number(&app.style, of(sample)),
        None => TableCell::new("-", app.style.theme.faint),
    }
}

const TEXT_CHARS: usize = 120;
