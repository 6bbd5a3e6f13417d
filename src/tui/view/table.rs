//! Columns that fit: which of them a width has room for, and one row drawn into them.
//!
//! Only visible rows are ever built. A narrow screen loses whole columns, least important
//! first, instead of parts of numbers.

use std::ops::Range;

use ratatui::{buffer::Buffer, layout::Rect, style::Style, text::Span};

use crate::tui::{look::Look, view::panel};

/// A column that may be shown. `K` says which one it is.
#[derive(Debug, Clone, Copy)]
pub struct Column<K> {
    pub kind: K,
    pub title: &'static str,
    pub width_min: u16,
    pub width_max: u16,
    /// Cells it takes of the spare room at each turn, compared with the others.
    pub share: u16,
    pub side: Side,
    /// Columns of the highest rank leave first, all of one rank together.
    pub rank: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Left,
    Right,
}

/// `widths`: least, most, share of the spare room.
pub const fn column<K: Copy>(
    kind: K,
    title: &'static str,
    widths: (u16, u16, u16),
    side: Side,
    rank: u8,
) -> Column<K> {
    let (width_min, width_max, share) = widths;
    Column { kind, title, width_min, width_max, share, side, rank }
}

/// A column with its place in the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed<K> {
    pub kind: K,
    pub title: &'static str,
    pub side: Side,
    pub left: u16,
    pub width: u16,
}

/// What stands in one column of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    pub text: String,
    pub style: Style,
}

impl Cell {
    pub fn new(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }
}

/// The columns that `width` has room for, spread over all of it.
pub fn fit<K: Copy>(columns: &[Column<K>], width: u16) -> Vec<Placed<K>> {
    let mut kept: Vec<_> = columns.to_vec();
    while needed(&kept) > usize::from(width) {
        let worst = kept.iter().map(|column| column.rank).max().unwrap_or(0);
        kept.retain(|column| column.rank < worst);
    }
    let mut spare = usize::from(width) - needed(&kept);
    let mut widths: Vec<u16> = kept.iter().map(|column| column.width_min).collect();
    // In turns, so that no column takes all.
    while spare > 0 {
        let before = spare;
        for (width, column) in widths.iter_mut().zip(&kept) {
            let wanted = column.share.min(column.width_max - *width);
            let given = wanted.min(u16::try_from(spare).unwrap_or(u16::MAX));
            *width += given;
            spare -= usize::from(given);
        }
        if spare == before {
            break;
        }
    }
    place(&kept, &widths)
}

fn needed<K>(columns: &[Column<K>]) -> usize {
    let gaps = columns.len().saturating_sub(1);
    columns.iter().map(|column| usize::from(column.width_min)).sum::<usize>() + gaps
}

fn place<K: Copy>(columns: &[Column<K>], widths: &[u16]) -> Vec<Placed<K>> {
    let mut left = 0;
    let mut placed = Vec::with_capacity(columns.len());
    for (column, &width) in columns.iter().zip(widths) {
        placed.push(Placed { kind: column.kind, title: column.title, side: column.side, left, width });
        left += width + 1;
    }
    placed
}

/// Heads and rows; those that do not fit are counted on the last line. The row under the cursor is
/// always in sight, reversed, with a sign left of it.
pub fn draw_list<K: Copy, R>(
    look: &Look,
    columns: &[Column<K>],
    rows: &[R],
    selected: Option<usize>,
    area: Rect,
    buffer: &mut Buffer,
    cell: impl Fn(&R, K) -> Cell,
) {
    let placed = fit(columns, area.width);
    draw_heads(look, &placed, line(area, 0), buffer);
    let list = panel::below_heads(area);
    let drawn = panel::rows_drawn(rows.len(), list);
    let window = window(selected, rows.len(), drawn);
    for (at, number) in panel::lines(list).zip(window) {
        draw_row(look, &placed, at, buffer, |kind| cell(&rows[number], kind));
        if selected == Some(number) {
            buffer.set_style(at.intersection(buffer.area), look.theme.selected);
            let mark = Rect { x: at.x.saturating_sub(1), width: 1, ..at };
            write(look.symbols.selected, look.theme.selected, mark, buffer);
        }
    }
    panel::rest(look, rows.len() - drawn, "", list, buffer);
}

/// The lines in sight: the selected one in their middle, where the list allows it.
pub fn window(selected: Option<usize>, count: usize, lines: usize) -> Range<usize> {
    let first = selected.unwrap_or(0).saturating_sub(lines / 2).min(count.saturating_sub(lines));
    first..first.saturating_add(lines).min(count)
}

/// The heads of the columns, on the first line of `area`.
pub fn draw_heads<K: Copy>(look: &Look, columns: &[Placed<K>], area: Rect, buffer: &mut Buffer) {
    for column in columns {
        draw_cell(look, column, &Cell::new(column.title, look.theme.title), area, buffer);
    }
}

/// One row, on the first line of `area`.
pub fn draw_row<K: Copy>(
    look: &Look,
    columns: &[Placed<K>],
    area: Rect,
    buffer: &mut Buffer,
    cell: impl Fn(K) -> Cell,
) {
    for column in columns {
        draw_cell(look, column, &cell(column.kind), area, buffer);
    }
}

fn draw_cell<K>(look: &Look, column: &Placed<K>, cell: &Cell, area: Rect, buffer: &mut Buffer) {
    let room = Rect { x: area.x.saturating_add(column.left), width: column.width, height: 1, ..area };
    let room = room.intersection(area);
    let text = cut(look, &cell.text, room.width);
    let indent = match column.side {
        Side::Left => 0,
        Side::Right => room.width.saturating_sub(width(&text)),
    };
    write(&text, cell.style, Rect { x: room.x + indent, width: room.width - indent, ..room }, buffer);
}

/// Writes one line of text and nothing outside `area`, also where `area` lies off the screen.
pub fn write(text: &str, style: Style, area: Rect, buffer: &mut Buffer) {
    let area = area.intersection(buffer.area);
    if !area.is_empty() {
        buffer.set_stringn(area.x, area.y, text, usize::from(area.width), style);
    }
}

/// Cells that `text` takes on the screen.
pub fn width(text: &str) -> u16 {
    u16::try_from(Span::raw(text).width()).unwrap_or(u16::MAX)
}

/// `text` in at most `cells` cells; a cut ends in an ellipsis.
pub fn cut(look: &Look, text: &str, cells: u16) -> String {
    if width(text) <= cells {
        return text.into();
    }
    let mut out = String::new();
    let mut used = 0;
    let mut utf8 = [0; 4];
    for letter in text.chars() {
        let next = width(letter.encode_utf8(&mut utf8));
        if used + next + 1 > cells {
            break;
        }
        used += next;
        out.push(letter);
    }
    if cells > 0 {
        out.push(look.symbols.ellipsis);
    }
    out
}

/// `text` in lines of at most `room` cells, parted between words where that can be.
pub fn wrap(text: &str, room: u16) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = text;
    loop {
        let (line, behind) = rest.split_at(cut_at(rest, room));
        lines.push(line.to_owned());
        rest = behind.trim_start();
        if rest.is_empty() {
            return lines;
        }
    }
}

/// Behind the last word that fits, or in the middle of one that fits nowhere.
fn cut_at(text: &str, room: u16) -> usize {
    let mut cells = 0;
    let mut space = None;
    for (at, letter) in text.char_indices() {
        cells += usize::from(width(letter.encode_utf8(&mut [0; 4])));
        if cells > usize::from(room) {
            return space.unwrap_or(at).max(text.chars().next().map_or(0, char::len_utf8));
        }
        if letter == ' ' && at > 0 {
            space = Some(at);
        }
    }
    text.len()
}

/// Line `n` of `area`; empty when there is no such line.
pub fn line(area: Rect, n: u16) -> Rect {
    let height = u16::from(n < area.height);
    Rect { y: area.y.saturating_add(n), height, ..area }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column<u8>; 3] = [
        Column { kind: 0, title: "A", width_min: 4, width_max: 4, share: 1, side: Side::Left, rank: 0 },
        Column { kind: 1, title: "B", width_min: 5, width_max: 9, share: 1, side: Side::Left, rank: 2 },
        Column { kind: 2, title: "C", width_min: 6, width_max: 7, share: 1, side: Side::Right, rank: 1 },
    ];

    #[test]
    fn the_least_important_column_leaves_first_and_spare_room_is_shared() {
        type Fitted = &'static [(u8, u16, u16)];
        let cases: [(u16, Fitted); 6] = [
            (40, &[(0, 0, 4), (1, 5, 9), (2, 15, 7)]),
            (19, &[(0, 0, 4), (1, 5, 6), (2, 12, 7)]),
            (17, &[(0, 0, 4), (1, 5, 5), (2, 11, 6)]),
            (16, &[(0, 0, 4), (2, 5, 7)]),
            (10, &[(0, 0, 4)]),
            (3, &[]),
        ];
        for (width, expected) in cases {
            let placed: Vec<_> = fit(&COLUMNS, width).iter().map(|c| (c.kind, c.left, c.width)).collect();
            assert_eq!(placed, expected, "width {width}");
        }
    }

    #[test]
    fn the_selected_line_is_always_in_sight() {
        let cases = [
            ((None, 3, 10), 0..3),
            ((None, 100, 10), 0..10),
            ((Some(3), 100, 10), 0..10),
            ((Some(50), 100, 10), 45..55),
            ((Some(99), 100, 10), 90..100),
            ((Some(99), 100, 0), 99..99),
            ((None, 0, 10), 0..0),
        ];
        for ((selected, count, lines), expected) in cases {
            assert_eq!(window(selected, count, lines), expected, "{selected:?} of {count} in {lines}");
        }
    }

    #[test]
    fn a_cut_never_exceeds_its_room() {
        for (text, cells, expected) in [
            ("orders", 6, "orders"),
            ("orders", 5, "orde…"),
            ("日本語", 5, "日本…"),
            ("ab", 1, "…"),
            ("ab", 0, ""),
        ] {
            assert_eq!(cut(&Look::FULL, text, cells), expected);
        }
    }
}
