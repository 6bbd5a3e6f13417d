//! The second line: the screens by number, and how the sessions are listed.

use ratatui::{buffer::Buffer, layout::Rect};

use crate::tui::{app::App, screen::Screen, view::table};

pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let (look, theme) = (&app.style, app.style.theme);
    let mut rest = Rect { x: area.x.saturating_add(1), width: area.width.saturating_sub(2), ..area };
    for (screen, text) in names(app, area.width) {
        let style = if screen == app.screen() { theme.selected } else { theme.plain };
        table::write(&text, style, rest, buffer);
        let step = table::width(&text).min(rest.width);
        rest = Rect { x: rest.x + step, width: rest.width - step, ..rest };
    }
    let order = app.order();
    if app.screen().lists_sessions() {
        let mut text = listed(app);
        if table::width(&text) > rest.width {
            // The frame of the sessions tells their order too; of a filter it tells only how many pass.
            text = filter(app).unwrap_or_default();
        }
        if table::width(&text) > rest.width {
            // As it is typed.
            text = format!("/{}", filter_text(app));
        }
        let text = table::cut(look, &text, rest.width);
        let indent = rest.width.saturating_sub(table::width(&text));
        let place = Rect { x: rest.x + indent, width: rest.width - indent, ..rest };
        let style = if order.filter.is_empty() { theme.plain } else { theme.attention };
        table::write(&text, style, place, buffer);
    }
}

/// The screen whose name is so far from the left, on a line of so many cells.
pub fn at(app: &App, width: u16, cells: u16) -> Option<Screen> {
    let mut behind = 1;
    names(app, width)
        .find(|(_, text)| {
            let begins = behind;
            behind += table::width(text);
            (begins..behind).contains(&cells)
        })
        .map(|(screen, _)| screen)
}

/// Reversed alone would not be seen where a terminal has no reverse.
fn names(app: &App, width: u16) -> impl Iterator<Item = (Screen, String)> {
    let shown = app.screen();
    app.screens().map(move |screen| {
        let number = screen.index() + 1;
        // What is said of the list behind them needs room as well.
        let is_whole = width >= WHOLE_NAMES || screen == shown;
        let name = if is_whole { screen.name() } else { screen.short_name() };
        let text = format!("{number} {name}");
        (screen, if screen == shown { format!("[{text}]") } else { format!(" {text} ") })
    })
}

/// `busiest first`, `filter web, oldest first`.
pub fn listed(app: &App) -> String {
    let words = app.order().words();
    filter(app).map_or(words.into(), |filter| format!("{filter}, {words}"))
}

fn filter(app: &App) -> Option<String> {
    let filter = &app.order().filter;
    (!filter.is_empty()).then(|| format!("filter {}", filter_text(app)))
}

fn filter_text(app: &App) -> String {
    app.style.text(&app.order().filter.text, FILTER_CHARS)
}

const FILTER_CHARS: usize = 60;
/// Cells of a line that has room for the whole names of the screens and the order of the list.
const WHOLE_NAMES: u16 = 110;
