//! Three pages over the screen: the keys that work on it and in what can be asked or typed there, its
//! columns, and how sessions end.

use ratatui::{buffer::Buffer, layout::Rect};

use crate::{
    telemetry::end,
    tui::{
        app::{App, Page},
        keys::{self, Context},
        view::{legend, panel, table},
    },
};

/// A title, or a name with what it means.
enum Line {
    Title(&'static str),
    Entry(String, String),
}

pub fn draw(app: &App, page: Page, scroll: usize, area: Rect, buffer: &mut Buffer) {
    let (name, lines) = match page {
        Page::Keys => ("1 of 3: keys", keys_page(app)),
        Page::Columns => ("2 of 3: columns", columns_page(app)),
        Page::Ends => ("3 of 3: ends of sessions", ends_page()),
    };
    let columns: u16 = if area.width >= COLUMN_CELLS * 2 && page == Page::Keys { 2 } else { 1 };
    let width = (COLUMN_CELLS * columns).min(area.width.saturating_sub(4));
    let (cells, names) = (width / columns, widest_name(&lines));
    let lines = wrapped(lines, names, cells);
    let height = lines.len().div_ceil(usize::from(columns));
    let room = usize::from(area.height.saturating_sub(2));
    let first = scroll.min(height.saturating_sub(room));
    let title = format!("Help {name}; Tab next page{}", if height > room { ", j k move it" } else { "" });
    let tall = u16::try_from(height).unwrap_or(u16::MAX);
    let inside = panel::over(&app.look, &title, width, tall, area, buffer);
    for (column, lines) in (0..columns).zip(lines.chunks(height.max(1))) {
        let left = (column * cells).min(inside.width);
        let place = Rect { x: inside.x + left, width: (inside.width - left).min(cells), ..inside };
        for (at, line) in panel::lines(place).zip(lines.iter().skip(first)) {
            draw_line(app, line, names, at, buffer);
        }
    }
}

fn widest_name(lines: &[Line]) -> u16 {
    let names = lines.iter().map(|line| match line {
        Line::Title(_) => 0,
        Line::Entry(name, _) => table::width(name),
    });
    names.max().unwrap_or(0)
}

/// What is too long goes on below.
fn wrapped(lines: Vec<Line>, names: u16, cells: u16) -> Vec<Line> {
    let room = cells.saturating_sub(names + GAP_CELLS).max(8);
    let mut out = Vec::new();
    for line in lines {
        match line {
            Line::Title(_) => out.push(line),
            Line::Entry(mut name, text) => {
                for text in table::wrap(&text, room) {
                    out.push(Line::Entry(std::mem::take(&mut name), text));
                }
            }
        }
    }
    out
}

fn keys_page(app: &App) -> Vec<Line> {
    let (below, title) = match app.context_below() {
        Context::Detail(screen) => (Context::Detail(screen), "In this detail"),
        below => (below, "On this screen"),
    };
    let sections = [
        (below, title),
        (Context::Typing, "While typing"),
        (Context::Ask, "Asked before harm"),
        (Context::AskQuit, "Asked to quit"),
        (Context::Help, "In this help"),
    ];
    let lines = sections.into_iter().flat_map(|(context, title)| {
        let offered = keys::of(context).filter(|binding| app.standing().offers(binding.action));
        let mut offered: Vec<_> = offered.collect();
        offered.sort_by_key(|binding| binding.help_rank());
        let entries = offered.into_iter().map(|binding| {
            let names: Vec<_> = binding.keys.iter().map(|key| key.name(&app.look.symbols)).collect();
            // What has no key has a word.
            let names = if names.is_empty() { format!(":{}", binding.word) } else { names.join(" ") };
            Line::Entry(names, binding.label.into())
        });
        std::iter::once(Line::Title(title)).chain(entries)
    });
    lines.collect()
}

fn columns_page(app: &App) -> Vec<Line> {
    let lines = legend::of(app).into_iter().flat_map(|(title, columns)| {
        let entry = |(name, text): &(&str, &str)| Line::Entry((*name).into(), (*text).into());
        std::iter::once(Line::Title(title)).chain(columns.iter().map(entry))
    });
    lines.collect()
}

fn ends_page() -> Vec<Line> {
    let entry = |(letter, text): (char, &str)| Line::Entry(letter.into(), text.into());
    let whole = Line::Entry("--".into(), "both sides finished, nothing was cut".into());
    std::iter::once(Line::Title("The whole"))
        .chain([whole, Line::Entry("TW".into(), end::explained("TW").unwrap_or_default())])
        .chain(std::iter::once(Line::Title("The first letter: who")))
        .chain(end::WHO.into_iter().map(entry))
        .chain(std::iter::once(Line::Title("The second letter: when")))
        .chain(end::WHEN.into_iter().map(entry))
        .collect()
}

fn draw_line(app: &App, line: &Line, names: u16, at: Rect, buffer: &mut Buffer) {
    let theme = app.look.theme;
    match line {
        Line::Title(title) => table::write(title, theme.title, at, buffer),
        Line::Entry(name, text) => {
            table::write(name, theme.accent, at, buffer);
            let indent = (names + GAP_CELLS).min(at.width);
            let rest = Rect { x: at.x + indent, width: at.width - indent, ..at };
            table::write(text, theme.plain, rest, buffer);
        }
    }
}

const GAP_CELLS: u16 = 2;
/// Two of them fit the largest layout, one the smallest that has panels.
const COLUMN_CELLS: u16 = 56;
