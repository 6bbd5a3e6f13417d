//! The second line: the screens by number, and how the sessions are listed.

use ratatui::{buffer::Buffer, layout::Rect};

use crate::tui::{app::App, screen::Screen, view::table};

pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let (screen_style, theme) = (&app.style, app.style.theme);
    let mut rest = Rect { x: area.x.saturating_add(1), width: area.width.saturating_sub(2), ..area };
    for (screen, text) in names(app, area.width) {
        let style = if screen == app.screen() { theme.selected } else { theme.plain };
        table::write(&text, style, rest, buffer);
        let step = table::width(&text).min(rest.width);
        rest = Rect { x: rest.x + step, width: rest.width - step, ..rest };
    }
    let order = app.session_order();
    if app.screen().lists_sessions() {
        let mut text = listed(app);
        if table::width(&text) > rest.width {
            // The frame of the sessions shows their order too, but only counts what passes a filter.
            text = filter(app).unwrap_or_default();
        }
        if table::width(&text) > rest.width {
            // As it is typed.
            text = format!("/{}", filter_text(app));
        }
        let text = table::cut(screen_style, &text, rest.width);
        let indent = rest.width.saturating_sub(table::width(&text));
        let rect = Rect { x: rest.x + indent, width: rest.width - indent, ..rest };
        let style = if order.filter.is_empty() { theme.plain } else { theme.attention };
        table::write(&text, style, rect, buffer);
    }
}

/// The screen whose name is at this position, on a line of this width.
pub fn at(app: &App, width: u16, cells: u16) -> Option<Screen> {
    let mut remainder = 1;
    names(app, width)
        .find(|(_, text)| {
            let begins = remainder;
            remainder += table::width(text);
            (begins..remainder).contains(&cells)
        })
        .map(|(screen, _)| screen)
}

/// How the screens' names are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TabNames {
    Whole,
    Short,
    /// Only the number, except for the current screen.
    Numbers,
}

/// As much as fits beside the description of the list.
fn names(app: &App, width: u16) -> impl Iterator<Item = (Screen, String)> {
    let filter_cells = match app.session_order().filter.is_empty() {
        true => 0,
        // A space and a slash come before it.
        false => table::width(&filter_text(app)) + 2,
    };
    let sent = match app.screen().lists_sessions() {
        true => [table::width(&listed(app)), filter_cells.min(FILTER_CELLS_MIN), 0],
        false => [0; 3],
    };
    let kinds = [TabNames::Whole, TabNames::Short, TabNames::Numbers];
    let fits = |&(kind, sent): &(TabNames, u16)| {
        let cells =
            names_of(app, kind).fold(0, |sum: u16, (_, text)| sum.saturating_add(table::width(&text)));
        cells.saturating_add(sent).saturating_add(2) <= width
    };
    let kind = kinds.into_iter().zip(sent).find(fits).map_or(TabNames::Numbers, |(kind, _)| kind);
    names_of(app, kind)
}

/// Reverse alone would be invisible on terminals that do not have it.
fn names_of(app: &App, kind: TabNames) -> impl Iterator<Item = (Screen, String)> {
    let shown = app.screen();
    app.screens().map(move |screen| {
        let key = screen.key();
        let text = match kind {
            TabNames::Short if screen == shown => format!(" [{key} {}]", screen.name()),
            TabNames::Whole | TabNames::Numbers if screen == shown => format!("[{key} {}]", screen.name()),
            TabNames::Whole => format!(" {key} {} ", screen.name()),
            TabNames::Short => format!(" {key} {}", screen.short_name()),
            TabNames::Numbers => format!(" {key} "),
        };
        (screen, text)
    })
}

/// `busiest first`, `filter web, oldest first`.
pub fn listed(app: &App) -> String {
    let words = app.session_order().words();
    filter(app).map_or(words.into(), |filter| format!("{filter}, {words}"))
}

fn filter(app: &App) -> Option<String> {
    let filter = &app.session_order().filter;
    (!filter.is_empty()).then(|| format!("filter {}", filter_text(app)))
}

fn filter_text(app: &App) -> String {
    app.style.text(&app.session_order().filter.text, FILTER_CHARS)
}

const FILTER_CHARS: usize = 60;
/// At least this much of a filter is readable beside the names.
const FILTER_CELLS_MIN: u16 = 18;
