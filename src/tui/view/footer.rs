//! The last line, or two if there is room: the gateway's answer, or else the keys that work here. An answer
//! that does not fit there is shown in a box above.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    widgets::{Clear, Widget},
};

use crate::{
    telemetry::{checklist::VerifyReport, snapshot::ProfileRow},
    tui::{
        app::{App, Overlay, StatusMessage},
        format, keys,
        view::{panel, profiles, table, typing},
    },
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
    let (text, style) = match message {
        StatusMessage::Waiting(text) => (format!("waiting: {text}"), theme.plain),
        StatusMessage::Done(text) => (format!("done: {text}"), theme.good),
        StatusMessage::Refused(text) => (format!("refused: {text}"), theme.bad),
        StatusMessage::Checked(of, report) => {
            let style = if report.passed { theme.good } else { theme.bad };
            (format!("{}: {}", checklist_title(of.as_deref(), report), report.line()), style)
        }
    };
    (app.style.text(&app.addresses().text(&text), ANSWER_CHARS), style)
}

/// `Checklist of edge-1 failed`
fn checklist_title(of: Option<&str>, report: &VerifyReport) -> String {
    let of = of.map_or(String::new(), |name| format!(" of {name}"));
    format!("Checklist{of} {}", if report.passed { "passed" } else { "failed" })
}

/// An answer that does not fit into its line is shown in full above it until the next key; that of a checklist
/// with a line for each step, that of a refused reload with the lines of the profile that are wrong.
pub fn draw_long_answer(app: &App, area: Rect, buffer: &mut Buffer) {
    let Some(message) = app.status_message() else { return };
    let (text, style) = answer(app, message);
    let is_long = table::width(&text) > area.width.saturating_sub(2) || app.refused_profile().is_some();
    let title = match message {
        StatusMessage::Waiting(_) => return,
        _ if !is_long => return,
        StatusMessage::Done(_) => "Done".to_owned(),
        StatusMessage::Refused(_) => "Refused".to_owned(),
        StatusMessage::Checked(of, report) => checklist_title(of.as_deref(), report),
    };
    let space = area.width.saturating_sub(4);
    let wrapped = |line: &str, style| {
        let text = app.style.text(&app.addresses().text(line), ANSWER_CHARS);
        table::wrap(&text, space).into_iter().map(move |line| (line, style)).collect::<Vec<_>>()
    };
    let lines: Vec<_> = match (app.refused_profile(), message) {
        (Some(row), _) => problem_lines(app, row, space),
        (None, StatusMessage::Checked(_, report)) => {
            report.lines().iter().flat_map(|line| wrapped(line, style)).collect()
        }
        (None, _) => wrapped(&text, style),
    };
    draw_box(app, &title, lines, area, buffer);
}

fn problem_lines(app: &App, row: &ProfileRow, space: u16) -> Vec<(String, Style)> {
    let (screen_style, theme) = (&app.style, app.style.theme);
    let lines = profiles::problem_lines(row).into_iter();
    let drawn = lines.flat_map(|line| match line.starts_with(' ') {
        true => {
            vec![(table::cut(screen_style, &screen_style.text(&line, ANSWER_CHARS), space), theme.plain)]
        }
        false => table::wrap(&screen_style.text(&app.addresses().text(&line), ANSWER_CHARS), space)
            .into_iter()
            .map(|line| (line, theme.warn))
            .collect(),
    });
    drawn.collect()
}

/// As high as its lines, at the foot of the area; what has no room there is counted.
fn draw_box(app: &App, title: &str, mut lines: Vec<(String, Style)>, area: Rect, buffer: &mut Buffer) {
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_add(2);
    let height = height.min(area.height.saturating_sub(2));
    if height < 3 {
        return;
    }
    let rect = Rect { y: area.y + area.height - height, height, ..area };
    let left_out = lines.len().saturating_sub(usize::from(height - 2));
    if left_out > 0 {
        lines.truncate(usize::from(height - 3));
        let more = format::count(left_out as u64 + 1, "more line");
        lines.push((format!("+{more}; a larger terminal shows them"), app.style.theme.faint));
    }
    Clear.render(rect, buffer);
    let title = app.style.text(title, TITLE_CHARS);
    let inside = panel::margin(panel::draw_frame(&app.style, &title, "any key goes on", rect, buffer));
    for (at, (line, style)) in panel::lines(inside).zip(lines) {
        table::write(&line, style, at, buffer);
    }
}

/// Hints that do not fit are dropped from the front: help and quit come last.
fn draw_keys(app: &App, area: Rect, buffer: &mut Buffer) {
    let hints: Vec<_> = keys::bindings_in(app.context())
        .filter(|binding| app.is_available(binding.action))
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
/// As long as the joint answers of a large fleet.
const ANSWER_CHARS: usize = 4000;
const TITLE_CHARS: usize = 80;
