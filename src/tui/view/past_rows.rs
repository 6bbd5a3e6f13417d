//! The rows of services and links under the cursor of the history: what their tables showed then.

use ratatui::{buffer::Buffer, layout::Rect};

use super::{history, panel, table};
use crate::{
    telemetry::history_rows::{MinuteRow, RowSubject},
    tui::{app::App, format},
};

const TITLES: [&str; 6] = ["UP", "DOWN", "SESSIONS", "LINKS", "WAIT", "REFUSED"];
const TEXT_CHARS: usize = 200;
/// A rate with its unit, and a blank behind it.
const CELLS_MIN: u16 = 11;

/// Rows, or why there are none.
pub type RowsThen<'a> = Result<&'a [MinuteRow], &'a str>;

/// How many lines they take: at least one, which then says why there are none.
pub fn count(rows: RowsThen<'_>) -> usize {
    rows.map_or(1, <[MinuteRow]>::len).max(1)
}

pub fn draw(app: &App, rows: RowsThen<'_>, area: Rect, buffer: &mut Buffer) {
    let theme = app.style.theme;
    let Some(space) = usize::from(area.height).checked_sub(2) else { return };
    let names = names(app, rows.unwrap_or_default());
    let label = label_cells(&names, area);
    let titles = TITLES.map(|title| (title.to_owned(), theme.title));
    history::draw_cells(app, ("SERVICE, PEER", theme.title, label), titles, table::line(area, 1), buffer);
    let rows = match rows {
        Ok([]) => return note(app, "nothing is kept of services and links then", area, buffer),
        Ok(rows) => rows,
        Err(why) => return note(app, why, area, buffer),
    };
    let is_cut = rows.len() > space;
    let shown = if is_cut { space.saturating_sub(1) } else { rows.len() };
    for ((row, name), at) in rows.iter().zip(&names).take(shown).zip(panel::lines(area).skip(2)) {
        let is_short = row.subject == RowSubject::Peer && row.links < row.links_wanted;
        let style = if is_short { theme.warn } else { theme.plain };
        let cells = cells(row).map(|text| (text, style));
        history::draw_cells(app, (name, theme.accent, label), cells, at, buffer);
    }
    if is_cut {
        let last = table::line(area, area.height.saturating_sub(1));
        table::write(&format!("+{} more", rows.len() - shown), theme.faint, last, buffer);
    }
}

/// The names of rows, each with its half where there are rows of both.
fn names(app: &App, rows: &[MinuteRow]) -> Vec<String> {
    let has_both_halves = rows.iter().any(|row| row.half != rows[0].half);
    let half = |row: &MinuteRow| match has_both_halves {
        true => format!(" ({:?})", row.half).to_lowercase(),
        false => String::new(),
    };
    rows.iter().map(|row| app.style.text(&app.addresses().text(&row.name), TEXT_CHARS) + &half(row)).collect()
}

/// Wide enough for the longest name, as far as the other cells leave space.
fn label_cells(names: &[String], area: Rect) -> u16 {
    let longest = names.iter().map(|name| table::width(name)).max().unwrap_or_default();
    let space = area.width.saturating_sub(CELLS_MIN * TITLES.len() as u16);
    longest.saturating_add(1).min(space).max(history::LABEL_CELLS.min(area.width / 3))
}

fn note(app: &App, text: &str, area: Rect, buffer: &mut Buffer) {
    let text = app.style.text(&app.addresses().text(text), TEXT_CHARS);
    table::write(
        &table::cut(&app.style, &text, area.width),
        app.style.theme.faint,
        table::line(area, 2),
        buffer,
    );
}

fn cells(row: &MinuteRow) -> [String; 6] {
    let none = || "-".to_owned();
    let open = format!("{} open", format::amount(row.open));
    let waiting = format::amount(row.waiting);
    match row.subject {
        RowSubject::Service => {
            [format::rate(row.up), format::rate(row.down), open, none(), waiting, format::amount(row.refused)]
        }
        RowSubject::Peer => {
            let links = format!("{}/{}", format::amount(row.links), format::amount(row.links_wanted));
            [none(), none(), open, links, waiting, none()]
        }
    }
}
