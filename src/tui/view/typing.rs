//! The input line, in place of the footer, and above it what may come next.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    widgets::{Clear, Widget},
};

use crate::tui::{
    app::App,
    command_line::InputLine,
    keys,
    suggest::Suggestion,
    view::{panel, table},
};

pub fn draw(app: &App, line: &InputLine, area: Rect, buffer: &mut Buffer) {
    let (screen_style, theme) = (&app.style, app.style.theme);
    // The end is what is being typed, so a long line loses its beginning.
    let space = usize::from(area.width).saturating_sub(3).max(1);
    let skipped = line.text().chars().count().saturating_sub(space);
    let text: String = line.text().chars().skip(skipped).collect();
    let text = format!("{}{}_", line.sign(), screen_style.text(&text, space));
    table::write(&text, theme.title, area, buffer);
    let indent = table::width(&text).saturating_add(2).min(area.width);
    let rest = Rect { x: area.x + indent, width: area.width - indent, ..area };
    let (reported, style) = match &line.wrong {
        Some(wrong) => (screen_style.text(wrong, MESSAGE_CHARS), theme.warn),
        None => (hints(app), theme.faint),
    };
    table::write(&table::cut(screen_style, &reported, rest.width), style, rest, buffer);
}

/// Over the lowest lines of `area`: suggestions that fit; the rest is counted.
pub fn draw_suggestions(app: &App, line: &InputLine, area: Rect, buffer: &mut Buffer) {
    let (screen_style, theme) = (&app.style, app.style.theme);
    let suggestions = app.suggestions();
    let count = u16::try_from(suggestions.len()).unwrap_or(u16::MAX);
    let columns = (area.width / COLUMN_CELLS_MIN).max(1);
    let height = count.div_ceil(columns).saturating_add(2).min(SUGGESTED_LINES_MAX).min(area.height / 2);
    if suggestions.is_empty() || height < 3 {
        return;
    }
    let rect = Rect { y: area.y + area.height - height, height, ..area };
    Clear.render(rect, buffer);
    let all = usize::from(columns * (height - 2));
    // If they do not all fit, the last line counts the rest.
    let (lines, drawn) = match suggestions.len() <= all {
        true => (height - 2, suggestions.len()),
        false => (height - 3, usize::from(columns * (height - 3))),
    };
    let first = line.scroll.min(suggestions.len() - drawn);
    let title = if line.is_filter() { "Filter" } else { "Commands" };
    let facts = if drawn < suggestions.len() { "Tab completes, PgDn shows more" } else { "Tab completes" };
    let inside = panel::margin(panel::draw_frame(screen_style, title, facts, rect, buffer));
    let width = inside.width / columns;
    for (column, shown) in
        (0..columns).zip(suggestions[first..first + drawn].chunks(usize::from(lines.max(1))))
    {
        let rect =
            Rect { x: inside.x + column * width, width: width.saturating_sub(1), height: lines, ..inside };
        draw_column(app, shown, rect, buffer);
    }
    let (above, below) = (first, suggestions.len() - first - drawn);
    if above + below > 0 {
        let text = format!("{above} above, {below} more below");
        table::write(&text, theme.faint, table::line(inside, inside.height - 1), buffer);
    }
}

fn draw_column(app: &App, shown: &[Suggestion], area: Rect, buffer: &mut Buffer) {
    let (screen_style, theme) = (&app.style, app.style.theme);
    let widest = shown.iter().map(|suggestion| table::width(&suggestion.shown)).max().unwrap_or(0);
    let indent = widest.min(area.width);
    for (at, suggestion) in panel::lines(area).zip(shown) {
        let text = table::cut(screen_style, &screen_style.text(&suggestion.shown, MESSAGE_CHARS), indent);
        table::write(&text, theme.accent, at, buffer);
        let step = (indent + 2).min(at.width);
        let rest = Rect { x: at.x + step, width: at.width - step, ..at };
        let help = table::cut(screen_style, &screen_style.text(&suggestion.help, MESSAGE_CHARS), rest.width);
        table::write(&help, theme.plain, rest, buffer);
    }
}

fn hints(app: &App) -> String {
    let hints = keys::bindings_in(app.context()).filter_map(|binding| {
        Some(format!("{} {}", binding.keys.first()?.name(&app.style.symbols), binding.hint?))
    });
    hints.collect::<Vec<_>>().join("  ")
}

const MESSAGE_CHARS: usize = 300;
/// A word and its explanation.
const COLUMN_CELLS_MIN: u16 = 38;
/// Including the frame.
const SUGGESTED_LINES_MAX: u16 = 12;
