//! The last notices, newest first.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use crate::{
    telemetry::snapshot::{Notice, NoticeLevel},
    tui::{
        app::App,
        lists,
        style::ScreenStyle,
        view::{panel, table},
    },
};

pub fn draw_panel(app: &App, area: Rect, buffer: &mut Buffer) {
    let inside = panel::draw_frame(&app.style, "Events", &facts(app), area, buffer);
    draw(app, panel::margin(inside), buffer);
}

/// A whole screen of notices, with a cursor.
pub fn draw_screen(app: &App, area: Rect, buffer: &mut Buffer) {
    let inside = panel::draw_frame(&app.style, "Events", &facts(app), area, buffer);
    draw_list(app, panel::margin(inside), buffer);
}

pub fn draw_list(app: &App, area: Rect, buffer: &mut Buffer) {
    let count = app.snapshot().notices.len();
    if count == 0 {
        return panel::draw_empty(&app.style, "nothing has happened yet", area, buffer);
    }
    let area = panel::draw_selected_text(&app.style, selected_text(app, area), area, buffer);
    let window = table::visible_range(app.selected_line(), count, area);
    let drawn = window.len();
    let rows = lists::notices(app.snapshot()).enumerate().skip(window.start).take(window.len());
    for (at, (number, notice)) in panel::lines(area).zip(rows) {
        draw_notice(app, notice, at, buffer);
        if app.selected_line() == Some(number) {
            panel::select(&app.style, at, buffer);
            let mark = Rect { x: at.x.saturating_sub(1), width: 1, ..at };
            table::write(app.style.symbols.selected, app.style.theme.selected, mark, buffer);
        }
    }
    panel::draw_hidden_count(&app.style, count - drawn, "", area, buffer);
}

/// The text of the selected event, if its line is too short for it.
pub fn selected_text(app: &App, area: Rect) -> Option<(String, Style)> {
    let notice = app.selected_line().and_then(|line| lists::notices(app.snapshot()).nth(line))?;
    let text = named_text(app, notice);
    let is_cut = table::width(&text) > area.width.saturating_sub(HEAD_CELLS);
    is_cut.then_some((text, app.style.theme.plain))
}

fn facts(app: &App) -> String {
    let lost = app.snapshot().log_lines_lost;
    if lost > 0 { format!("{lost} log lines lost, times in UTC") } else { "times in UTC".into() }
}

/// Without a frame.
pub fn draw_lines(app: &App, area: Rect, buffer: &mut Buffer) {
    draw(app, panel::margin(area), buffer);
}

fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let (screen_style, notices) = (&app.style, &app.snapshot().notices);
    if notices.is_empty() {
        return panel::draw_empty(screen_style, "nothing has happened yet", area, buffer);
    }
    let mut rest = area;
    for notice in notices.iter().rev() {
        let lines = draw_whole(app, notice, rest, buffer);
        rest = Rect { y: rest.y + lines, height: rest.height - lines, ..rest };
    }
}

/// With the end of its text on a second line, if needed; returns how many lines it took.
fn draw_whole(app: &App, notice: &Notice, area: Rect, buffer: &mut Buffer) -> u16 {
    let text = app.style.text(&named_text(app, notice), TEXT_CHARS);
    let space = area.width.saturating_sub(HEAD_CELLS);
    let lines = table::wrap(&text, space);
    if lines.len() < 2 || area.height < 2 || space == 0 {
        draw_notice(app, notice, table::line(area, 0), buffer);
        return area.height.min(1);
    }
    draw_line(app, notice, &lines[0], table::line(area, 0), buffer);
    let below = table::line(area, 1);
    let below = Rect { x: below.x + HEAD_CELLS, width: space, ..below };
    table::write(&table::cut(&app.style, &lines[1..].join(" "), space), app.style.theme.plain, below, buffer);
    2
}

/// In a fleet, its gateway's name is the beginning of its text.
fn named_text(app: &App, notice: &Notice) -> String {
    let text = app.addresses().text(&notice.text);
    match &notice.gateway {
        Some(name) => format!("{name}: {text}"),
        None => text,
    }
}

fn draw_notice(app: &App, notice: &Notice, at: Rect, buffer: &mut Buffer) {
    let text = app.style.text(&named_text(app, notice), TEXT_CHARS);
    draw_line(app, notice, &text, at, buffer);
}

fn draw_line(app: &App, notice: &Notice, text: &str, at: Rect, buffer: &mut Buffer) {
    let screen_style = &app.style;
    let (word, style) = level(screen_style, notice.level);
    let parts = [
        (format!("{:<8} ", clock(screen_style, &notice.time)), screen_style.theme.faint),
        (format!("{word:<5} "), style),
        (text.to_owned(), screen_style.theme.plain),
    ];
    let mut rest = at;
    for (text, style) in parts {
        table::write(&table::cut(screen_style, &text, rest.width), style, rest, buffer);
        let step = table::width(&text).min(rest.width);
        rest = Rect { x: rest.x + step, width: rest.width - step, ..rest };
    }
}

fn level(screen_style: &ScreenStyle, level: NoticeLevel) -> (&'static str, Style) {
    match level {
        NoticeLevel::Info => ("INFO", screen_style.theme.plain),
        NoticeLevel::Warn => ("WARN", screen_style.theme.warn),
        NoticeLevel::Error => ("ERROR", screen_style.theme.bad),
    }
}

/// Hours to seconds of an RFC 3339 time; the panel covers the last minutes.
fn clock(screen_style: &ScreenStyle, time: &str) -> String {
    screen_style.text(time.get(11..19).unwrap_or(time), 8)
}

/// Time and level.
const HEAD_CELLS: u16 = 15;
const TEXT_CHARS: usize = 300;
