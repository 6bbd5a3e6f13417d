//! The rows of services and links under the cursor of the history: what their tables showed then.

use ratatui::{buffer::Buffer, layout::Rect};

use super::{history, panel, table};
use crate::{
    telemetry::history_rows::{MinuteRow, RowSubject},
    tui::{app::App, format},
};

const TITLES: [&str; 6] = ["UP", "DOWN", "SESSIONS", "LINKS", "WAIT", "REFUSED"];
const TEXT_CHARS: usize = 200;

/// Rows, or why there are none.
pub type RowsThen<'a> = Result<&'a [MinuteRow], &'a str>;

/// How many lines they take: at least one, which then says why there are none.
pub fn count(rows: RowsThen<'_>) -> usize {
    rows.map_or(1, <[MinuteRow]>::len).max(1)
}

pub fn draw(app: &App, rows: RowsThen<'_>, area: Rect, buffer: &mut Buffer) {
    let theme = app.style.theme;
    let Some(space) = usize::from(area.height).checked_sub(2) else { return };
    let titles = TITLES.map(|title| (title.to_owned(), theme.title));
    history::draw_cells(app, ("SERVICE, PEER", theme.title), titles, table::line(area, 1), buffer);
    let rows = match rows {
        Ok([]) => return note(app, "nothing is kept of services and links then", area, buffer),
        Ok(rows) => rows,
        Err(why) => return note(app, why, area, buffer),
    };
    let has_both_halves = rows.iter().any(|row| row.half != rows[0].half);
    let is_cut = rows.len() > space;
    let shown = if is_cut { space.saturating_sub(1) } else { rows.len() };
    for (row, at) in rows.iter().take(shown).zip(panel::lines(area).skip(2)) {
        let half = if has_both_halves { format!(" ({:?})", row.half).to_lowercase() } else { String::new() };
        let name = app.style.text(&app.addresses().text(&row.name), TEXT_CHARS);
        let is_short = row.subject == RowSubject::Peer && row.links < row.links_wanted;
        let style = if is_short { theme.warn } else { theme.plain };
        let cells = cells(row).map(|text| (text, style));
        history::draw_cells(app, (&format!("{name}{half}"), theme.accent), cells, at, buffer);
    }
    if is_cut {
        let last = table::line(area, area.height.saturating_sub(1));
        table::write(&format!("+{} more", rows.len() - shown), theme.faint, last, buffer);
    }
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
