//! The second line: the six screens by number, and how the sessions are listed.

use ratatui::{buffer::Buffer, layout::Rect};

use crate::tui::{app::App, screen::Screen, view::table};

pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let (look, theme) = (&app.look, app.look.theme);
    let mut rest = Rect { x: area.x.saturating_add(1), width: area.width.saturating_sub(2), ..area };
    for (number, screen) in (1..).zip(Screen::ALL) {
        let text = format!("{number} {}", screen.name());
        let style = if screen == app.screen() { theme.selected } else { theme.plain };
        // Reversed alone would not be seen where a terminal has no reverse.
        let text = if screen == app.screen() { format!("[{text}]") } else { format!(" {text} ") };
        table::write(&text, style, rest, buffer);
        let step = table::width(&text).min(rest.width);
        rest = Rect { x: rest.x + step, width: rest.width - step, ..rest };
    }
    if app.screen().lists_sessions() {
        let text = table::cut(look, &listed(app), rest.width);
        let indent = rest.width.saturating_sub(table::width(&text));
        let place = Rect { x: rest.x + indent, width: rest.width - indent, ..rest };
        let style = if app.order().filter.is_empty() { theme.plain } else { theme.attention };
        table::write(&text, style, place, buffer);
    }
}

/// `sort busiest`, `filter web, sort age turned`.
pub fn listed(app: &App) -> String {
    let order = app.order();
    let turned = if order.is_flipped { " turned" } else { "" };
    let filter = match order.filter.is_empty() {
        true => String::new(),
        false => format!("filter {}, ", app.look.text(&order.filter.text, FILTER_CHARS)),
    };
    format!("{filter}sort {}{turned}", order.column.name())
}

const FILTER_CHARS: usize = 60;
