//! Failures since the gateway started, grouped by cause: current ones first, then the largest.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use crate::{
    telemetry::failures::FailureRow,
    tui::{
        app::App,
        format, lists,
        view::{
            panel,
            pool::half_word,
            sessions,
            table::{self, CellAlign, TableCell, TableColumn, column},
        },
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureColumn {
    Count,
    End,
    Gateway,
    Half,
    Service,
    Last,
    First,
    Client,
    Reason,
}

pub const COLUMNS: [TableColumn<FailureColumn>; 9] = [
    column(FailureColumn::Count, "COUNT", (5, 6, 0), CellAlign::Right, 0),
    column(FailureColumn::End, "END", (3, 3, 0), CellAlign::Left, 0),
    column(FailureColumn::Gateway, "GATEWAY", (8, 16, 0), CellAlign::Left, 1),
    column(FailureColumn::Half, "HALF", (4, 4, 0), CellAlign::Left, 4),
    column(FailureColumn::Service, "SERVICE", (7, 24, 0), CellAlign::Left, 1),
    column(FailureColumn::Last, "LAST", (6, 6, 0), CellAlign::Right, 2),
    column(FailureColumn::First, "FIRST", (11, 11, 0), CellAlign::Left, 5),
    column(FailureColumn::Client, "LAST CLIENT", (21, 47, 0), CellAlign::Left, 6),
    column(FailureColumn::Reason, "REASON", (32, 200, 1), CellAlign::Left, 0),
];

pub fn draw_screen(app: &App, area: Rect, buffer: &mut Buffer) {
    let inside = panel::draw_frame(&app.style, "Failures", &facts(app), area, buffer);
    draw_list(app, panel::margin(inside), buffer);
}

pub fn draw_list(app: &App, area: Rect, buffer: &mut Buffer) {
    let snapshot = app.snapshot();
    if snapshot.failures.is_empty() {
        return panel::draw_empty(&app.style, "no session has failed", area, buffer);
    }
    let area = panel::draw_selected_text(&app.style, selected_text(app), area, buffer);
    let has_halves = snapshot.halves.len() > 1;
    let is_shown = |column: &TableColumn<FailureColumn>| match column.kind {
        FailureColumn::Gateway => app.is_fleet(),
        FailureColumn::Half => has_halves,
        FailureColumn::Count
        | FailureColumn::End
        | FailureColumn::Service
        | FailureColumn::Last
        | FailureColumn::First
        | FailureColumn::Client
        | FailureColumn::Reason => true,
    };
    let mut columns: Vec<_> = COLUMNS.into_iter().filter(is_shown).collect();
    if area.width < NARROW {
        // The end of a reason is shown below the list, if there is room.
        columns.iter_mut().for_each(|column| column.width_min = column.width_min.min(NARROW_CELLS_MIN));
    }
    let rows = lists::failures(snapshot);
    let cell = |row: &&FailureRow, kind| cell(app, row, kind);
    table::draw_list(&app.style, &columns, &rows, app.selected_line(), area, buffer, cell);
}

/// The full text of the selected group.
pub fn selected_text(app: &App) -> Option<(String, Style)> {
    let row = app.selected_failure(app.snapshot())?;
    let text = format!(
        "{} {}; last {} ago: session {} of {}",
        row.end,
        app.addresses().text(&row.reason),
        format::span(row.ago_seconds),
        row.session,
        app.addresses().client(&row.client)
    );
    Some((text, app.style.theme.plain))
}

fn facts(app: &App) -> String {
    let snapshot = app.snapshot();
    let count: u64 = snapshot.failures.iter().fold(0, |sum, row| sum.saturating_add(row.count));
    let causes = format::count(snapshot.failures.len() as u64, "cause");
    let mut facts = format!("{}, of {causes}, since the start", format::count(count, "session"));
    if snapshot.failures_left_out > 0 {
        facts.push_str(&format!(", {} more not listed", snapshot.failures_left_out));
    }
    facts
}

fn cell(app: &App, row: &FailureRow, kind: FailureColumn) -> TableCell {
    let (screen_style, theme) = (&app.style, app.style.theme);
    match kind {
        FailureColumn::Count => TableCell::new(format::amount(row.count), theme.plain),
        FailureColumn::End => {
            TableCell::new(screen_style.text(&row.end, TEXT_CHARS), sessions::end_style(app, &row.end))
        }
        FailureColumn::Gateway => {
            TableCell::new(screen_style.text(row.gateway.as_deref().unwrap_or("-"), TEXT_CHARS), theme.accent)
        }
        FailureColumn::Half => TableCell::new(half_word(row.half), theme.plain),
        FailureColumn::Service => TableCell::new(screen_style.text(&row.service, TEXT_CHARS), theme.accent),
        FailureColumn::Last => TableCell::new(format::age(row.ago_seconds), theme.plain),
        FailureColumn::First => {
            TableCell::new(screen_style.text(&day_and_time(&row.first), TEXT_CHARS), theme.faint)
        }
        FailureColumn::Client => {
            TableCell::new(screen_style.text(&app.addresses().client(&row.client), TEXT_CHARS), theme.plain)
        }
        FailureColumn::Reason => {
            TableCell::new(screen_style.text(&app.addresses().text(&row.reason), TEXT_CHARS), theme.plain)
        }
    }
}

/// `01-31 14:02` of an RFC 3339 time: a failure may be days old, but hardly a year.
fn day_and_time(time: &str) -> String {
    time.get(5..16).unwrap_or(time).replacen('T', " ", 1)
}

/// Below this width, not even count, end and reason have enough room.
const NARROW: u16 = 44;
const NARROW_CELLS_MIN: u16 = 7;
const TEXT_CHARS: usize = 200;
