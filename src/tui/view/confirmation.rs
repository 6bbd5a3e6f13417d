//! Questions: what would happen, and the keys that answer. None of them is Enter.

use ratatui::{buffer::Buffer, layout::Rect};

use crate::tui::{
    app::{App, Overlay},
    keys,
    view::{panel, table},
};

pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let (screen_style, theme) = (&app.style, app.style.theme);
    let text_lines = question_lines(app, area);
    let bindings: Vec<_> = keys::bindings_in(app.context()).collect();
    let lines = u16::try_from(bindings.len() + text_lines.len() + 1).unwrap_or(u16::MAX);
    let width = text_lines.iter().map(|line| table::width(line)).max().unwrap_or(0).max(WIDTH_MIN);
    let inside = panel::draw_centered(screen_style, "Question", width, lines, area, buffer);
    for (at, line) in panel::lines(inside).zip(&text_lines) {
        table::write(line, theme.title, at, buffer);
    }
    for (at, binding) in panel::lines(inside).skip(text_lines.len() + 1).zip(bindings) {
        let name = binding.keys.first().map(|key| key.name(&screen_style.symbols)).unwrap_or_default();
        table::write(&name, theme.accent, at, buffer);
        let indent = KEY_CELLS.min(at.width);
        let label = Rect { x: at.x + indent, width: at.width - indent, ..at };
        table::write(binding.label, theme.plain, label, buffer);
    }
}

/// The lines that it needs inside its frame.
pub fn lines(app: &App, area: Rect) -> usize {
    question_lines(app, area).len() + 1 + keys::bindings_in(app.context()).count()
}

fn question_lines(app: &App, area: Rect) -> Vec<String> {
    let screen_style = &app.style;
    let space = area.width.saturating_sub(4).clamp(1, WIDTH_MAX);
    let mut text_lines = table::wrap(&text(app), space);
    if let Overlay::Ask(question) = app.overlay() {
        let plan = question.plan();
        text_lines.extend(
            plan.iter().map(|line| table::cut(screen_style, &screen_style.text(line, TEXT_CHARS), space)),
        );
    }
    text_lines
}

/// The question itself; empty if there is none.
pub fn text(app: &App) -> String {
    match app.overlay() {
        Overlay::Nothing | Overlay::Help { .. } | Overlay::Typing(_) => String::new(),
        Overlay::AskQuit => match app.latest().totals.clients() {
            0 => "Quit, and stop the gateway? No session is open.".into(),
            1 => "Quit? 1 session is open in this gateway.".into(),
            open => format!("Quit? {open} sessions are open in this gateway."),
        },
        Overlay::Ask(question) => {
            let of = match app.addressees() {
                [] => String::new(),
                names => format!("{}: ", names.iter().map(|name| &**name).collect::<Vec<_>>().join(", ")),
            };
            app.style.text(&format!("{of}{}", question.text(app.addresses())), TEXT_CHARS)
        }
    }
}

const KEY_CELLS: u16 = 5;
const WIDTH_MIN: u16 = 40;
const WIDTH_MAX: u16 = 76;
/// It may contain a typed filter.
const TEXT_CHARS: usize = 400;
