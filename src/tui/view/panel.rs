//! The frame around a panel, and the text for a list with no rows or too many. What is in a panel is drawn by the file
//! of its screen.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Clear, Widget},
};

use crate::tui::{style::ScreenStyle, view::table};

/// Lines of a framed list that are not rows.
pub const FRAME_AND_HEADS: u16 = 3;

const DESCRIPTION_LINES_MAX: usize = 3;
/// Smaller lists need their lines for rows.
const DESCRIPTION_HEIGHT_MIN: u16 = 6;
const DESCRIPTION_CHARS: usize = 600;

/// Draws the frame with its title and, at the right, a few facts; returns the area inside.
pub fn draw_frame(
    screen_style: &ScreenStyle,
    title: &str,
    facts: &str,
    area: Rect,
    buffer: &mut Buffer,
) -> Rect {
    let theme = screen_style.theme;
    let mut block = Block::bordered()
        .border_set(screen_style.symbols.border)
        .border_style(theme.faint)
        .title(Line::from(Span::styled(format!(" {title} "), on_border(theme.title))));
    let space = area.width.saturating_sub(table::width(title).saturating_add(8));
    let facts = fitting(facts, space);
    if !facts.is_empty() {
        block = block
            .title(Line::from(Span::styled(format!(" {facts} "), on_border(theme.plain))).right_aligned());
    }
    let inside = block.inner(area);
    block.render(area, buffer);
    inside
}

/// As many whole facts as fit, from the first.
fn fitting(facts: &str, space: u16) -> &str {
    let mut facts = facts;
    while table::width(facts) > space {
        facts = facts.rfind(", ").map_or("", |at| &facts[..at]);
    }
    facts
}

/// Titles are on the border and would otherwise inherit its faint style.
fn on_border(style: Style) -> Style {
    style.remove_modifier(Modifier::DIM)
}

/// A frame over the middle of the screen, as large as its text and no larger than the screen.
pub fn draw_centered(
    screen_style: &ScreenStyle,
    title: &str,
    width: u16,
    lines: u16,
    area: Rect,
    buffer: &mut Buffer,
) -> Rect {
    let (width, height) = (width.saturating_add(4).min(area.width), lines.saturating_add(2).min(area.height));
    let rect =
        Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    Clear.render(rect, buffer);
    let inside = draw_frame(screen_style, title, "", rect, buffer);
    margin(inside)
}

/// The text for a list that has nothing to show.
pub fn draw_empty(screen_style: &ScreenStyle, text: &str, area: Rect, buffer: &mut Buffer) {
    table::write(text, screen_style.theme.faint, table::line(area, 0), buffer);
}

/// Writes the text about one row below its list, in a third of the lines at most; returns the area left for the
/// list.
pub fn draw_selected_text(
    screen_style: &ScreenStyle,
    text: Option<(String, Style)>,
    area: Rect,
    buffer: &mut Buffer,
) -> Rect {
    let style = text.as_ref().map_or(screen_style.theme.plain, |(_, style)| *style);
    let (left, below, lines) = split_selected_text(screen_style, text, area);
    for (at, line) in self::lines(below).zip(&lines) {
        table::write(line, style, at, buffer);
    }
    left
}

/// The area of the list, the one below, and the lines there.
pub fn split_selected_text(
    screen_style: &ScreenStyle,
    text: Option<(String, Style)>,
    area: Rect,
) -> (Rect, Rect, Vec<String>) {
    let Some((text, _)) = text.filter(|_| area.width > 0) else {
        return (area, Rect { height: 0, ..area }, Vec::new());
    };
    let mut lines = table::wrap(&screen_style.text(&text, DESCRIPTION_CHARS), area.width);
    let space = if area.height < DESCRIPTION_HEIGHT_MIN {
        0
    } else {
        usize::from(area.height / 3).min(DESCRIPTION_LINES_MAX)
    };
    if lines.len() > space && space > 0 {
        let rest = lines.split_off(space - 1).join(" ");
        lines.push(table::cut(screen_style, &rest, area.width));
    }
    lines.truncate(space);
    let height = u16::try_from(lines.len()).unwrap_or(0);
    let left = Rect { height: area.height - height, ..area };
    (left, Rect { y: left.y + left.height, height, ..area }, lines)
}

/// Inside a frame.
pub fn inside(area: Rect) -> Rect {
    Block::bordered().inner(area)
}

/// Inside a frame, one free cell at each side.
pub fn margin(inside: Rect) -> Rect {
    Rect { x: inside.x.saturating_add(1), width: inside.width.saturating_sub(2), ..inside }
}

/// If there is only one line, it is for a row, not for the heads.
pub fn below_heads(inside: Rect) -> Rect {
    if inside.height < 2 {
        return inside;
    }
    Rect { y: inside.y.saturating_add(1), height: inside.height.saturating_sub(1), ..inside }
}

/// The lines of an area, from the top.
pub fn lines(area: Rect) -> impl Iterator<Item = Rect> {
    (0..area.height).map(move |n| table::line(area, n))
}

/// How many of the rows are drawn: if they do not all fit, the last line counts the rest.
pub fn rows_drawn(rows: usize, list: Rect) -> usize {
    let space = usize::from(list.height);
    match space {
        // With so few lines, none is given up.
        0..=2 => rows.min(space),
        _ if rows > space => space - 1,
        _ => rows,
    }
}

/// Marks the selected row: one style for all of it, whatever its cells have.
pub fn select(screen_style: &ScreenStyle, row: Rect, buffer: &mut Buffer) {
    buffer.set_style(row.intersection(buffer.area), Style::reset().patch(screen_style.theme.selected));
}

/// Fades what is outdated: no colour and nothing bold, but the selected row stays visible.
pub fn fade(screen_style: &ScreenStyle, area: Rect, buffer: &mut Buffer) {
    for at in area.intersection(buffer.area).positions() {
        let kept = buffer[at].modifier.intersection(Modifier::REVERSED);
        buffer[at].set_style(Style::reset().patch(screen_style.theme.faint).add_modifier(kept));
    }
}

/// The last line of a list whose rows did not all fit, so that nothing is hidden without a sign.
pub fn draw_hidden_count(
    screen_style: &ScreenStyle,
    hidden: usize,
    detail: &str,
    list: Rect,
    buffer: &mut Buffer,
) {
    if hidden > 0 && list.height > 2 {
        let last = table::line(list, list.height.saturating_sub(1));
        table::write(&format!("+{hidden} more{detail}"), screen_style.theme.faint, last, buffer);
    }
}
