//! The last line, or two if there is room: the gateway's answer, or else the keys that work here.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    widgets::{Clear, Widget},
};

use crate::tui::{
    app::{App, Overlay, StatusMessage},
    keys,
    view::{panel, profiles, table, typing},
};

pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let all = Rect { x: area.x.saturating_add(1), width: area.width.saturating_sub(2), ..area };
    let inner = table::line(all, all.height.saturating_sub(1));
    match (app.overlay(), app.status_message()) {
        (Overlay::Typing(line), _) => typing::draw(app, line, inner, buffer),
        (_, Some(message)) => {
            let (text, style) = answer(app, message);
            table::write(&table::cut(&app.style, &text, inner.width), style, inner, buffer);
        }
        (_, None) => draw_keys(app, all, buffer),
    }
}

/// The answer with a word before it: colour alone would not show a refusal.
pub fn answer(app: &App, message: &StatusMessage) -> (String, Style) {
    let theme = app.style.theme;
    let (word, text, style) = match message {
        StatusMessage::Waiting(text) => ("waiting: ", text, theme.plain),
        StatusMessage::Done(text) => ("done: ", text, theme.good),
        StatusMessage::Refused(text) => ("refused: ", text, theme.bad),
    };
    let text = app.style.text(&app.addresses().text(text), ANSWER_CHARS);
    (format!("{word}{text}"), style)
}

/// A refusal that does not fit into its line is shown in full above it until the next key; a refused reload
/// also with the lines of the profile that are wrong.
pub fn draw_refusal(app: &App, area: Rect, buffer: &mut Buffer) {
    let (screen_style, theme) = (&app.style, app.style.theme);
    let Some(message @ StatusMessage::Refused(_)) = app.status_message() else { return };
    let (text, style) = answer(app, message);
    let space = area.width.saturating_sub(4);
    let lines: Vec<_> = match app.refused_profile() {
        Some(row) => profiles::problem_lines(row)
            .into_iter()
            .flat_map(|line| match line.starts_with(' ') {
                true => vec![(
                    table::cut(screen_style, &screen_style.text(&line, ANSWER_CHARS), space),
                    theme.plain,
                )],
                false => table::wrap(&screen_style.text(&app.addresses().text(&line), ANSWER_CHARS), space)
                    .into_iter()
                    .map(|line| (line, theme.warn))
                    .collect(),
            })
            .collect(),
        None if table::width(&text) <= area.width.saturating_sub(2) => return,
        None => table::wrap(&text, space).into_iter().map(|line| (line, style)).collect(),
    };
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_add(2);
    let height = height.min(area.height.saturating_sub(2));
    if height < 3 {
        return;
    }
    let place = Rect { y: area.y + area.height - height, height, ..area };
    Clear.render(place, buffer);
    let inside = panel::margin(panel::draw_frame(screen_style, "Refused", "any key goes on", place, buffer));
    for (at, (line, style)) in panel::lines(inside).zip(lines) {
        table::write(&line, style, at, buffer);
    }
}

/// Hints that do not fit are dropped from the front: help and quit come last.
fn draw_keys(app: &App, area: Rect, buffer: &mut Buffer) {
    let hints: Vec<_> = keys::bindings_in(app.context())
        .filter(|binding| app.offers(binding.action))
        .filter_map(|binding| Some((binding.keys.first()?.name(&app.style.symbols), binding.hint?)))
        .collect();
    let cells = |hint: &(String, &str)| table::width(&hint.0) + table::width(hint.1) + GAP_CELLS;
    let mut rest = hints.as_slice();
    for line in (0..area.height).rev() {
        let mut space = area.width.saturating_add(2);
        let fitting = rest.iter().rev().take_while(|hint| {
            let fits = cells(hint) <= space;
            space = space.saturating_sub(cells(hint));
            fits
        });
        let (before, shown) = rest.split_at(rest.len() - fitting.count());
        draw_hints(app, shown, table::line(area, line), buffer);
        rest = before;
    }
}

fn draw_hints(app: &App, hints: &[(String, &str)], area: Rect, buffer: &mut Buffer) {
    let mut rest = area;
    for (key, hint) in hints {
        table::write(key, app.style.theme.accent, rest, buffer);
        rest = area_after(rest, table::width(key) + 1);
        table::write(hint, app.style.theme.plain, rest, buffer);
        rest = area_after(rest, table::width(hint) + GAP_CELLS - 1);
    }
}

fn area_after(area: Rect, cells: u16) -> Rect {
    let step = cells.min(area.width);
    Rect { x: area.x + step, width: area.width - step, ..area }
}

/// One cell between key and word, two between hints.
const GAP_CELLS: u16 = 3;
const ANSWER_CHARS: usize = 300;
