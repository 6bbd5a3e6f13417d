//! Columns that fit: which of them a width has room for, and how one row is drawn in them.
//!
//! Only visible rows are ever built. A narrow screen drops whole columns, the least important first, instead of
//! parts of numbers.

use std::ops::Range;

use ratatui::{buffer::Buffer, layout::Rect, style::Style, text::Span};

use crate::tui::{style::ScreenStyle, view::panel};

/// A column that may be shown; `K` identifies it.
#[derive(Debug, Clone, Copy)]
pub struct TableColumn<K> {
    pub kind: K,
    pub title: &'static str,
    pub width_min: u16,
    pub width_max: u16,
    /// The number of cells it takes at each turn of spare room.
    pub share: u16,
    pub side: CellAlign,
    /// Columns with the highest rank are dropped first, all of one rank together.
    pub rank: u8,
    /// Whether it is narrower than `width_min` while its text is.
    pub shrinks: bool,
}

/// Text is on the left and may be cut; numbers are on the right and are never cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CellAlign {
    Left,
    Right,
}

/// `widths`: minimum, maximum, share of the spare room.
pub const fn column<K: Copy>(
    kind: K,
    title: &'static str,
    widths: (u16, u16, u16),
    side: CellAlign,
    rank: u8,
) -> TableColumn<K> {
    let (width_min, width_max, share) = widths;
    TableColumn { kind, title, width_min, width_max, share, side, rank, shrinks: false }
}

impl<K: Copy> TableColumn<K> {
    pub const fn shrinking(self) -> Self {
        Self { shrinks: true, ..self }
    }
}

/// A column with its position in the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedColumn<K> {
    pub kind: K,
    pub head: String,
    pub side: CellAlign,
    pub left: u16,
    pub width: u16,
    /// The index of its cell in every row.
    cell: usize,
}

/// The content of one column in one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableCell {
    pub text: String,
    pub style: Style,
}

impl TableCell {
    pub fn new(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }
}

/// The visible rows, fitted to a width: columns that would be cut get room first.
pub struct TableSheet<K> {
    columns: Vec<PlacedColumn<K>>,
    rows: Vec<Vec<TableCell>>,
}

impl<K: Copy> TableSheet<K> {
    pub fn new<R>(
        columns: &[TableColumn<K>],
        rows: &[R],
        width: u16,
        cell: impl Fn(&R, K) -> TableCell,
    ) -> Self {
        Self::with_heads(columns, rows, width, cell, |column| column.title.into())
    }

    pub fn with_heads<R>(
        columns: &[TableColumn<K>],
        rows: &[R],
        width: u16,
        cell: impl Fn(&R, K) -> TableCell,
        head: impl Fn(&TableColumn<K>) -> String,
    ) -> Self {
        let cells = |row| columns.iter().map(|column| cell(row, column.kind)).collect();
        let rows: Vec<Vec<TableCell>> = rows.iter().map(cells).collect();
        let heads = columns.iter().map(head);
        let wanted = heads.enumerate().map(|(at, head)| {
            let longest = rows.iter().map(|cells| self::width(&cells[at].text)).max().unwrap_or(0);
            let cells = longest.max(self::width(&head));
            ColumnNeed { column: columns[at], head, cells, cell: at }
        });
        Self { columns: fit_columns(wanted.collect(), width), rows }
    }

    /// The column this far from the left.
    pub fn kind_at(&self, cells: u16) -> Option<K> {
        let is_there =
            |column: &&PlacedColumn<K>| (column.left..=column.left + column.width).contains(&cells);
        self.columns.iter().rev().find(is_there).map(|column| column.kind)
    }

    /// The heads of the columns, on the first line of `area`, unless that is the only one.
    pub fn draw_heads(&self, screen_style: &ScreenStyle, area: Rect, buffer: &mut Buffer) {
        if area.height < 2 {
            return;
        }
        let area = line(area, 0);
        for column in &self.columns {
            draw_cell(
                screen_style,
                column,
                &TableCell::new(column.head.as_str(), screen_style.theme.title),
                area,
                buffer,
            );
        }
    }

    /// One row, on the first line of `area`.
    pub fn draw_row(&self, screen_style: &ScreenStyle, row: usize, area: Rect, buffer: &mut Buffer) {
        for column in &self.columns {
            draw_cell(screen_style, column, &self.rows[row][column.cell], area, buffer);
        }
    }
}

/// A column, and the cells that its head and its rows need.
struct ColumnNeed<K> {
    column: TableColumn<K>,
    head: String,
    cells: u16,
    cell: usize,
}

impl<K> ColumnNeed<K> {
    fn need(&self) -> u16 {
        self.cells.min(self.column.width_max)
    }

    fn least(&self) -> u16 {
        match self.column.side {
            CellAlign::Right => self.need().max(self.column.width_min),
            CellAlign::Left if self.column.shrinks => self.need().min(self.column.width_min),
            CellAlign::Left => self.column.width_min.max(width(&self.head)),
        }
    }
}

/// The columns that fit into `width`, spread over all of it.
fn fit_columns<K: Copy>(mut kept: Vec<ColumnNeed<K>>, width: u16) -> Vec<PlacedColumn<K>> {
    while width_needed(&kept) > usize::from(width) {
        let worst = kept.iter().map(|wanted| wanted.column.rank).max().unwrap_or(0);
        kept.retain(|wanted| wanted.column.rank < worst);
    }
    let mut spare = u16::try_from(usize::from(width) - width_needed(&kept)).unwrap_or(u16::MAX);
    let mut widths: Vec<u16> = kept.iter().map(ColumnNeed::least).collect();
    // First those that lack least, so that as few as possible are cut.
    let missing = |index: usize, widths: &[u16]| kept[index].need().saturating_sub(widths[index]);
    let mut indexes: Vec<_> = (0..kept.len()).collect();
    indexes.sort_by_key(|&index| missing(index, &widths));
    for index in indexes {
        let given = missing(index, &widths).min(spare);
        widths[index] += given;
        spare -= given;
    }
    // In turns, so that no column takes all.
    while spare > 0 {
        let before = spare;
        for (width, wanted) in widths.iter_mut().zip(&kept) {
            let given = wanted.column.share.min(wanted.column.width_max.saturating_sub(*width)).min(spare);
            *width += given;
            spare -= given;
        }
        if spare == before {
            break;
        }
    }
    place_columns(kept, &widths)
}

fn width_needed<K>(columns: &[ColumnNeed<K>]) -> usize {
    let gaps = columns.len().saturating_sub(1);
    columns.iter().map(|wanted| usize::from(wanted.least())).sum::<usize>() + gaps
}

fn place_columns<K: Copy>(columns: Vec<ColumnNeed<K>>, widths: &[u16]) -> Vec<PlacedColumn<K>> {
    let mut left = 0;
    let mut placed = Vec::with_capacity(columns.len());
    for (ColumnNeed { column, head, cell, .. }, &width) in columns.into_iter().zip(widths) {
        placed.push(PlacedColumn { kind: column.kind, head, side: column.side, left, width, cell });
        left += width + 1;
    }
    placed
}

/// Heads and rows; rows that do not fit are counted on the last line. The selected row is always visible,
/// reversed, with a mark to the left of it.
pub fn draw_list<K: Copy, R>(
    screen_style: &ScreenStyle,
    columns: &[TableColumn<K>],
    rows: &[R],
    selected: Option<usize>,
    area: Rect,
    buffer: &mut Buffer,
    cell: impl Fn(&R, K) -> TableCell,
) {
    let list = panel::below_heads(area);
    let window = visible_range(selected, rows.len(), list);
    let drawn = window.len();
    let sheet = TableSheet::new(columns, &rows[window.clone()], area.width, cell);
    sheet.draw_heads(screen_style, area, buffer);
    for (row, (at, number)) in panel::lines(list).zip(window).enumerate() {
        sheet.draw_row(screen_style, row, at, buffer);
        if selected == Some(number) {
            panel::select(screen_style, at, buffer);
            let mark = Rect { x: at.x.saturating_sub(1), width: 1, ..at };
            write(screen_style.symbols.selected, screen_style.theme.selected, mark, buffer);
        }
    }
    panel::draw_hidden_count(screen_style, rows.len() - drawn, "", list, buffer);
}

/// The visible lines of a list, where one may be used to count the others.
pub fn visible_range(selected: Option<usize>, count: usize, list: Rect) -> Range<usize> {
    window(selected, count, panel::rows_drawn(count, list))
}

/// The visible lines, with the selected one in the middle if the list allows it.
pub fn window(selected: Option<usize>, count: usize, lines: usize) -> Range<usize> {
    let first = selected.unwrap_or(0).saturating_sub(lines / 2).min(count.saturating_sub(lines));
    first..first.saturating_add(lines).min(count)
}

fn draw_cell<K>(
    screen_style: &ScreenStyle,
    column: &PlacedColumn<K>,
    cell: &TableCell,
    area: Rect,
    buffer: &mut Buffer,
) {
    let available = Rect { x: area.x.saturating_add(column.left), width: column.width, height: 1, ..area };
    let available = available.intersection(area);
    let text = cut_address(screen_style, &cell.text, available.width);
    let indent = match column.side {
        CellAlign::Left => 0,
        CellAlign::Right => available.width.saturating_sub(width(&text)),
    };
    write(
        &text,
        cell.style,
        Rect { x: available.x + indent, width: available.width - indent, ..available },
        buffer,
    );
}

/// Writes one line of text and nothing outside `area`, even if `area` is off the screen.
pub fn write(text: &str, style: Style, area: Rect, buffer: &mut Buffer) {
    let area = area.intersection(buffer.area);
    if !area.is_empty() {
        buffer.set_stringn(area.x, area.y, text, usize::from(area.width), style);
    }
}

/// The number of cells that `text` takes on the screen.
pub fn width(text: &str) -> u16 {
    u16::try_from(Span::raw(text).width()).unwrap_or(u16::MAX)
}

/// `text` in at most `cells` cells; if it is cut, it ends in an ellipsis.
pub fn cut(screen_style: &ScreenStyle, text: &str, cells: u16) -> String {
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
        out.push(screen_style.symbols.ellipsis);
    }
    out
}

/// Cuts an address, but its port stays: without it, two addresses of one host look alike.
pub fn cut_address(screen_style: &ScreenStyle, text: &str, cells: u16) -> String {
    let port = text.rfind(':').map_or("", |at| &text[at..]);
    let is_port = (2..=6).contains(&port.len()) && port[1..].bytes().all(|byte| byte.is_ascii_digit());
    let available = cells.saturating_sub(width(port));
    if width(text) <= cells || !is_port || available < HOST_CELLS_MIN {
        return cut(screen_style, text, cells);
    }
    cut(screen_style, &text[..text.len() - port.len()], available) + port
}

/// `text` in lines of at most `available` cells, broken between words if possible.
pub fn wrap(text: &str, available: u16) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = text;
    loop {
        let (line, remainder) = rest.split_at(cut_at(rest, available));
        lines.push(line.to_owned());
        rest = remainder.trim_start();
        if rest.is_empty() {
            return lines;
        }
    }
}

/// After the last word that fits, or inside a word that fits nowhere.
fn cut_at(text: &str, available: u16) -> usize {
    let mut cells = 0;
    let mut space = None;
    for (at, letter) in text.char_indices() {
        cells += usize::from(width(letter.encode_utf8(&mut [0; 4])));
        if cells > usize::from(available) {
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

/// Fewer characters of a host say nothing.
const HOST_CELLS_MIN: u16 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [TableColumn<u8>; 3] = [
        column(0, "A", (4, 4, 1), CellAlign::Left, 0),
        column(1, "B", (5, 9, 1), CellAlign::Left, 2),
        column(2, "C", (6, 7, 1), CellAlign::Right, 1),
    ];

    fn fitted(columns: &[TableColumn<u8>], texts: &[&str], width: u16) -> Vec<(u8, u16, u16)> {
        let cell = |texts: &&[&str], kind: u8| TableCell::new(texts[usize::from(kind)], Style::new());
        let sheet = TableSheet::new(columns, &[texts], width, cell);
        sheet.columns.iter().map(|placed| (placed.kind, placed.left, placed.width)).collect()
    }

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
            assert_eq!(fitted(&COLUMNS, &["", "", ""], width), expected, "width {width}");
        }
    }

    #[test]
    fn room_goes_to_the_columns_that_would_be_cut() {
        let columns = [
            column(0, "A", (4, 20, 1), CellAlign::Left, 0).shrinking(),
            column(1, "B", (4, 30, 1), CellAlign::Left, 0),
            column(2, "C", (2, 8, 0), CellAlign::Right, 0),
        ];
        let texts = |a, b, c| ["x".repeat(a), "x".repeat(b), "9".repeat(c)];
        for ((a, b, c), width, expected) in [
            // All of A, which lacks little; B gets the rest; the number is complete.
            ((6, 40, 5), 30, [6, 17, 5]),
            // A shrinks below its minimum, since it is short.
            ((2, 40, 1), 12, [2, 6, 2]),
            ((40, 2, 8), 18, [4, 4, 8]),
        ] {
            let texts = texts(a, b, c);
            let texts = texts.each_ref().map(String::as_str);
            let widths: Vec<_> = fitted(&columns, &texts, width).iter().map(|placed| placed.2).collect();
            assert_eq!(widths, expected, "{a} {b} {c} in {width}");
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
            assert_eq!(cut(&ScreenStyle::FULL, text, cells), expected);
        }
    }

    #[test]
    fn a_port_is_not_cut_off() {
        for (text, cells, expected) in [
            ("10.1.4.9:41443", 14, "10.1.4.9:41443"),
            ("10.1.4.9:41443", 12, "10.1.…:41443"),
            ("10.1.4.9:41443", 9, "10.1.4.9…"),
            ("14:01 and more text", 8, "14:01 a…"),
            ("日本語:80", 7, "日…:80"),
        ] {
            assert_eq!(cut_address(&ScreenStyle::FULL, text, cells), expected);
        }
    }
}
