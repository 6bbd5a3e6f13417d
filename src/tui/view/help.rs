//! Three pages over the screen: the keys for it and for what can be typed or answered there, its columns, and
//! how sessions end.

use ratatui::{buffer::Buffer, layout::Rect};

use crate::{
    telemetry::end,
    tui::{
        app::{App, HelpPage},
        keys::{self, KeyContext},
        view::{legend, panel, table},
    },
};

/// A title, or a name with its meaning.
enum HelpLine {
    Title(&'static str),
    Entry(String, String),
}

pub fn draw(app: &App, page: HelpPage, scroll: usize, area: Rect, buffer: &mut Buffer) {
    let (name, lines) = match page {
        HelpPage::Keys => ("1 of 3: keys", keys_page(app)),
        HelpPage::Columns => ("2 of 3: columns", columns_page(app)),
        HelpPage::Ends => ("3 of 3: ends of sessions", ends_page()),
    };
    let columns: u16 = if area.width >= COLUMN_CELLS * 2 && page == HelpPage::Keys { 2 } else { 1 };
    let width = (COLUMN_CELLS * columns).min(area.width.saturating_sub(4));
    let (cells, names) = (width / columns, widest_name(&lines));
    let lines = wrapped(lines, names, cells);
    let height = lines.len().div_ceil(usize::from(columns));
    let space = usize::from(area.height.saturating_sub(2));
    let first = scroll.min(height.saturating_sub(space));
    let title = format!("Help {name}; Tab next page{}", if height > space { ", j k move it" } else { "" });
    let tall = u16::try_from(height).unwrap_or(u16::MAX);
    let inside = panel::draw_centered(&app.style, &title, width, tall, area, buffer);
    for (column, lines) in (0..columns).zip(lines.chunks(height.max(1))) {
        let left = (column * cells).min(inside.width);
        let rect = Rect { x: inside.x + left, width: (inside.width - left).min(cells), ..inside };
        for (at, line) in panel::lines(rect).zip(lines.iter().skip(first)) {
            draw_line(app, line, names, at, buffer);
        }
    }
}

fn widest_name(lines: &[HelpLine]) -> u16 {
    let names = lines.iter().map(|line| match line {
        HelpLine::Title(_) => 0,
        HelpLine::Entry(name, _) => table::width(name),
    });
    names.max().unwrap_or(0)
}

/// Long texts continue on the next line.
fn wrapped(lines: Vec<HelpLine>, names: u16, cells: u16) -> Vec<HelpLine> {
    let space = cells.saturating_sub(names + GAP_CELLS).max(8);
    let mut out = Vec::new();
    for line in lines {
        match line {
            HelpLine::Title(_) => out.push(line),
            HelpLine::Entry(mut name, text) => {
                for text in table::wrap(&text, space) {
                    out.push(HelpLine::Entry(std::mem::take(&mut name), text));
                }
            }
        }
    }
    out
}

fn keys_page(app: &App) -> Vec<HelpLine> {
    let (below, title) = match app.context_below() {
        KeyContext::Detail(screen) => (KeyContext::Detail(screen), "In this detail"),
        below @ (KeyContext::Screen(_)
        | KeyContext::Help
        | KeyContext::Typing
        | KeyContext::AskQuit
        | KeyContext::Ask) => (below, "On this screen"),
    };
    let sections = [
        (below, title),
        (KeyContext::Typing, "While typing"),
        (KeyContext::Ask, "Asked before harm"),
        (KeyContext::AskQuit, "Asked to quit"),
        (KeyContext::Help, "In this help"),
    ];
    let lines = sections.into_iter().flat_map(|(context, title)| {
        let offered = keys::bindings_in(context).filter(|binding| app.is_action_known(binding.action));
        let mut offered: Vec<_> = offered.collect();
        offered.sort_by_key(|binding| binding.help_rank());
        let entries = offered.into_iter().map(|binding| {
            let names: Vec<_> = binding.keys.iter().map(|key| key.name(&app.style.symbols)).collect();
            // An action without a key has a word.
            let names = if names.is_empty() { format!(":{}", binding.command) } else { names.join(" ") };
            HelpLine::Entry(names, binding.label.into())
        });
        std::iter::once(HelpLine::Title(title)).chain(entries)
    });
    lines.collect()
}

fn columns_page(app: &App) -> Vec<HelpLine> {
    let lines = legend::column_meanings(app).into_iter().flat_map(|(title, columns)| {
        let entry = |(name, text): &(&str, &str)| HelpLine::Entry((*name).into(), (*text).into());
        let is_here = |(_, text): &&(&str, &str)| app.is_fleet() || !text.starts_with(legend::OF_A_FLEET);
        std::iter::once(HelpLine::Title(title)).chain(columns.iter().filter(is_here).map(entry))
    });
    lines.collect()
}

fn ends_page() -> Vec<HelpLine> {
    let entry = |(letter, text): (char, &str)| HelpLine::Entry(letter.into(), text.into());
    let whole = HelpLine::Entry("--".into(), "both sides finished, nothing was cut".into());
    std::iter::once(HelpLine::Title("The whole"))
        .chain([whole, HelpLine::Entry("TW".into(), end::explain_code("TW").unwrap_or_default())])
        .chain(std::iter::once(HelpLine::Title("The first letter: who")))
        .chain(end::WHO.into_iter().map(entry))
        .chain(std::iter::once(HelpLine::Title("The second letter: when")))
        .chain(end::WHEN.into_iter().map(entry))
        .collect()
}

fn draw_line(app: &App, line: &HelpLine, names: u16, at: Rect, buffer: &mut Buffer) {
    let theme = app.style.theme;
    match line {
        HelpLine::Title(title) => table::write(title, theme.title, at, buffer),
        HelpLine::Entry(name, text) => {
            table::write(name, theme.accent, at, buffer);
            let indent = (names + GAP_CELLS).min(at.width);
            let rest = Rect { x: at.x + indent, width: at.width - indent, ..at };
            table::write(text, theme.plain, rest, buffer);
        }
    }
}

const GAP_CELLS: u16 = 2;
/// Two of them fit the largest layout, and one the smallest that has panels.
const COLUMN_CELLS: u16 = 56;
