//! The keys of the screen below it, and of what can be asked or typed there; a column or three.

use ratatui::{buffer::Buffer, layout::Rect};

use crate::tui::{
    app::App,
    keys::{self, Binding, Context},
    view::{panel, table},
};

pub fn draw(app: &App, scroll: usize, area: Rect, buffer: &mut Buffer) {
    let lines: Vec<_> = sections(app)
        .into_iter()
        .flat_map(|(context, title)| {
            let offered = keys::of(context).filter(|binding| app.standing().offers(binding.action));
            std::iter::once(Line::Title(title)).chain(offered.map(Line::Key))
        })
        .collect();
    let columns = usize::from((area.width.saturating_sub(4) / (COLUMN_CELLS + GAP_CELLS)).clamp(1, 3));
    let height = lines.len().div_ceil(columns);
    let room = usize::from(area.height.saturating_sub(2));
    let first = scroll.min(height.saturating_sub(room));
    let title = if height > room { "Help, j and k move it" } else { "Help" };
    let width = u16::try_from(columns).unwrap_or(1) * (COLUMN_CELLS + GAP_CELLS);
    let tall = u16::try_from(height).unwrap_or(u16::MAX);
    let inside = panel::over(&app.look, title, width, tall, area, buffer);
    for (column, lines) in (0_u16..).zip(lines.chunks(height)) {
        let left = (column * (COLUMN_CELLS + GAP_CELLS)).min(inside.width);
        let place = Rect { x: inside.x + left, width: (inside.width - left).min(COLUMN_CELLS), ..inside };
        for (at, line) in panel::lines(place).zip(lines.iter().skip(first)) {
            draw_line(app, line, at, buffer);
        }
    }
}

enum Line {
    Title(&'static str),
    Key(&'static Binding),
}

fn sections(app: &App) -> [(Context, &'static str); 5] {
    let (below, title) = match app.context_below() {
        Context::Detail(screen) => (Context::Detail(screen), "In this detail"),
        below => (below, "On this screen"),
    };
    [
        (below, title),
        (Context::Typing, "While typing"),
        (Context::Ask, "Asked before harm"),
        (Context::AskQuit, "Asked to quit"),
        (Context::Help, "In this help"),
    ]
}

fn draw_line(app: &App, line: &Line, at: Rect, buffer: &mut Buffer) {
    let theme = app.look.theme;
    match line {
        Line::Title(title) => table::write(title, theme.title, at, buffer),
        Line::Key(binding) => {
            let names: Vec<_> = binding.keys.iter().map(|key| key.name(&app.look.symbols)).collect();
            // What has no key has a word.
            let names = if names.is_empty() { format!(":{}", binding.word) } else { names.join(" ") };
            table::write(
                &table::cut(&app.look, &names, KEY_CELLS),
                theme.accent,
                Rect { width: at.width.min(KEY_CELLS), ..at },
                buffer,
            );
            let indent = (KEY_CELLS + 1).min(at.width);
            let label = Rect { x: at.x + indent, width: at.width - indent, ..at };
            table::write(binding.label, theme.plain, label, buffer);
        }
    }
}

const KEY_CELLS: u16 = 8;
const GAP_CELLS: u16 = 1;
/// Two of them fit the smallest screen that has panels.
const COLUMN_CELLS: u16 = 27;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_fits_its_column() {
        for binding in keys::BINDINGS {
            let room = COLUMN_CELLS - KEY_CELLS - 1;
            assert!(table::width(binding.label) <= room, "{}", binding.label);
        }
    }
}
