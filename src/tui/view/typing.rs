//! The line that is typed, in the place of the footer.

use ratatui::{buffer::Buffer, layout::Rect};

use crate::tui::{app::App, command_line::Line, keys, view::table};

pub fn draw(app: &App, line: &Line, area: Rect, buffer: &mut Buffer) {
    let (look, theme) = (&app.look, app.look.theme);
    // Its end is what is being typed: a long line loses its beginning.
    let room = usize::from(area.width).saturating_sub(3).max(1);
    let skipped = line.text().chars().count().saturating_sub(room);
    let text: String = line.text().chars().skip(skipped).collect();
    let text = format!("{}{}_", line.sign(), look.text(&text, room));
    table::write(&text, theme.title, area, buffer);
    let indent = table::width(&text).saturating_add(2).min(area.width);
    let rest = Rect { x: area.x + indent, width: area.width - indent, ..area };
    let (told, style) = match &line.wrong {
        Some(wrong) => (look.text(wrong, TOLD_CHARS), theme.warn),
        None => (hints(app), theme.faint),
    };
    table::write(&table::cut(look, &told, rest.width), style, rest, buffer);
}

fn hints(app: &App) -> String {
    let hints = keys::of(app.context()).filter_map(|binding| {
        Some(format!("{} {}", binding.keys.first()?.name(&app.look.symbols), binding.hint?))
    });
    hints.collect::<Vec<_>>().join("  ")
}

const TOLD_CHARS: usize = 300;
