//! Every key of the table, over the panels.

use ratatui::{buffer::Buffer, layout::Rect};

use crate::tui::{
    app::App,
    keys::{self, Binding, Context},
    view::{panel, table},
};

pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let lines: Vec<_> = sections()
        .into_iter()
        .flat_map(|(context, title)| {
            let offered = keys::of(context).filter(|binding| app.standing().offers(binding.action));
            std::iter::once(Line::Title(title)).chain(offered.map(Line::Key))
        })
        .collect();
    let height = lines.len().div_ceil(2);
    let lines_tall = u16::try_from(height).unwrap_or(u16::MAX);
    let inside = panel::over(&app.look, "Help", COLUMN_CELLS * 2 + 2, lines_tall, area, buffer);
    for (column, lines) in (0_u16..).zip(lines.chunks(height)) {
        let left = (column * (COLUMN_CELLS + 2)).min(inside.width);
        let place = Rect { x: inside.x + left, width: (inside.width - left).min(COLUMN_CELLS), ..inside };
        for (at, line) in panel::lines(place).zip(lines) {
            draw_line(app, line, at, buffer);
        }
    }
}

enum Line {
    Title(&'static str),
    Key(&'static Binding),
}

fn sections() -> [(Context, &'static str); 4] {
    [
        (Context::Panels, "On the panels"),
        (Context::Help, "In this help"),
        (Context::AskQuit, "Asked to quit"),
        (Context::AskClose, "Asked to close a session"),
    ]
}

fn draw_line(app: &App, line: &Line, at: Rect, buffer: &mut Buffer) {
    let theme = app.look.theme;
    match line {
        Line::Title(title) => table::write(title, theme.title, at, buffer),
        Line::Key(binding) => {
            let names: Vec<_> = binding.keys.iter().map(|key| key.name(&app.look.symbols)).collect();
            table::write(
                &names.join(" "),
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
            assert!(sections().iter().any(|(context, _)| *context == binding.context), "{binding:?}");
        }
    }
}
