//! The sessions by client: who has how many, and what they move.

use ratatui::{buffer::Buffer, layout::Rect};

use crate::tui::{
    app::App,
    clients::ClientSessions,
    format, order,
    view::{
        panel,
        pool::number,
        sessions,
        table::{self, CellAlign, TableCell, TableColumn, TableSheet, column},
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientColumn {
    Client,
    Sessions,
    Waiting,
    Oldest,
    RateUp,
    RateDown,
    Up,
    Down,
    Services,
}

pub const COLUMNS: [TableColumn<ClientColumn>; 9] = [
    column(ClientColumn::Client, "CLIENT", (15, 45, 0), CellAlign::Left, 0),
    column(ClientColumn::Sessions, "SESSIONS", (8, 8, 0), CellAlign::Right, 0),
    column(ClientColumn::Waiting, "WAITING", (8, 8, 0), CellAlign::Right, 1),
    column(ClientColumn::Oldest, "OLDEST", (7, 7, 0), CellAlign::Right, 3),
    column(ClientColumn::RateUp, "UP/S", (5, 6, 0), CellAlign::Right, 1),
    column(ClientColumn::RateDown, "DOWN/S", (7, 7, 0), CellAlign::Right, 1),
    column(ClientColumn::Up, "UP", (5, 6, 0), CellAlign::Right, 4),
    column(ClientColumn::Down, "DOWN", (5, 6, 0), CellAlign::Right, 4),
    column(ClientColumn::Services, "SERVICES", (8, 120, 1), CellAlign::Left, 2),
];

/// `12 clients, 66 sessions`.
pub fn facts(app: &App) -> String {
    let clients = app.lists().clients.rows();
    let sessions = app.session_order().open_len();
    let passing = if app.session_order().filter.is_empty() { "" } else { ", of those that pass the filter" };
    let [clients, sessions] =
        [format::count(clients.len() as u64, "client"), format::count(sessions as u64, "session")];
    format!("{clients}, {sessions}{passing}, {}, in bytes", app.session_order().words())
}

pub fn draw_list(app: &App, area: Rect, buffer: &mut Buffer) {
    let screen_style = &app.style;
    let rows = app.lists().clients.rows();
    if rows.is_empty() {
        return sessions::draw_none(app, area, buffer);
    }
    let (area, lines) = visible_lines(app, area);
    let sheet = sheet(app, area, &lines);
    sheet.draw_heads(screen_style, area, buffer);
    let (selected, drawn) = (app.selected_line(), lines.len());
    for (index, (at, line)) in panel::lines(panel::below_heads(area)).zip(lines).enumerate() {
        sheet.draw_row(screen_style, index, at, buffer);
        if selected == Some(line) {
            panel::select(screen_style, at, buffer);
            let mark = Rect { x: at.x.saturating_sub(1), width: 1, ..at };
            table::write(screen_style.symbols.selected, screen_style.theme.selected, mark, buffer);
        }
    }
    panel::draw_hidden_count(screen_style, rows.len() - drawn, "", panel::below_heads(area), buffer);
}

/// The part of the session area that the list uses, with its heads, and the lines drawn there.
pub fn visible_lines(app: &App, area: Rect) -> (Rect, Vec<usize>) {
    let area = Rect { x: area.x.saturating_add(1), width: area.width.saturating_sub(1), ..area };
    let count = app.lists().clients.rows().len();
    (area, table::visible_range(app.selected_line(), count, panel::below_heads(area)).collect())
}

/// The sort column whose head is this far from the left of the session area.
pub fn head_at(app: &App, area: Rect, cells: u16) -> Option<order::SortColumn> {
    let (area, lines) = visible_lines(app, area);
    sheet(app, area, &lines).kind_at(cells.saturating_sub(1)).and_then(sorted_by)
}

fn sheet(app: &App, area: Rect, lines: &[usize]) -> TableSheet<ClientColumn> {
    let all = app.lists().clients.rows();
    let rows: Vec<_> = lines.iter().filter_map(|&line| all.get(line)).collect();
    TableSheet::with_heads(
        &COLUMNS,
        &rows,
        area.width,
        |row, kind| cell(app, row, kind),
        |column| sessions::sorted_head(app, column.title, sorted_by(column.kind)),
    )
}

fn sorted_by(kind: ClientColumn) -> Option<order::SortColumn> {
    Some(match kind {
        ClientColumn::Client => order::SortColumn::Client,
        ClientColumn::Waiting => order::SortColumn::Waiting,
        ClientColumn::Oldest => order::SortColumn::Age,
        ClientColumn::RateUp => order::SortColumn::RateUp,
        ClientColumn::RateDown => order::SortColumn::RateDown,
        ClientColumn::Up => order::SortColumn::Up,
        ClientColumn::Down => order::SortColumn::Down,
        ClientColumn::Services => order::SortColumn::Service,
        ClientColumn::Sessions => return None,
    })
}

fn cell(app: &App, row: &ClientSessions, kind: ClientColumn) -> TableCell {
    let (screen_style, theme) = (&app.style, app.style.theme);
    match kind {
        ClientColumn::Client => {
            TableCell::new(screen_style.text(&app.addresses().client(&row.client), TEXT_CHARS), theme.plain)
        }
        ClientColumn::Sessions => number(screen_style, row.sessions),
        ClientColumn::Waiting if row.waiting > 0 => TableCell::new(format::amount(row.waiting), theme.warn),
        ClientColumn::Waiting => number(screen_style, 0),
        ClientColumn::Oldest => TableCell::new(format::age(row.oldest_seconds), theme.plain),
        ClientColumn::RateUp => number(screen_style, row.rate_up),
        ClientColumn::RateDown => number(screen_style, row.rate_down),
        ClientColumn::Up => number(screen_style, row.bytes_up),
        ClientColumn::Down => number(screen_style, row.bytes_down),
        ClientColumn::Services => {
            let services: Vec<_> = row.services.iter().map(String::as_str).collect();
            TableCell::new(screen_style.text(&services.join(" "), TEXT_CHARS), theme.accent)
        }
    }
}

const TEXT_CHARS: usize = 120;
