//! The services of a gateway without links: where clients come in and which backend they reach.

use ratatui::{buffer::Buffer, layout::Rect};

use crate::{
    telemetry::snapshot::{ServicePhase, ServiceRow},
    tui::{
        app::App,
        format,
        view::{
            links::number,
            panel,
            table::{self, Cell, Column, Side, line},
        },
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Phase,
    Service,
    Accept,
    Backend,
    Open,
    Sessions,
    Refused,
    Up,
    Down,
}

/// `widths`: least, most, share of the spare room.
const fn column(
    kind: Kind,
    title: &'static str,
    widths: (u16, u16, u16),
    side: Side,
    rank: u8,
) -> Column<Kind> {
    let (width_min, width_max, share) = widths;
    Column { kind, title, width_min, width_max, share, side, rank }
}

const COLUMNS: [Column<Kind>; 9] = [
    column(Kind::Phase, "STATE", (8, 8, 1), Side::Left, 1),
    column(Kind::Service, "SERVICE", (8, 20, 1), Side::Left, 0),
    column(Kind::Accept, "ACCEPT", (14, 40, 1), Side::Left, 4),
    column(Kind::Backend, "BACKEND", (14, 40, 1), Side::Left, 3),
    column(Kind::Open, "OPEN", (5, 5, 1), Side::Right, 2),
    column(Kind::Sessions, "TOTAL", (5, 5, 1), Side::Right, 5),
    column(Kind::Refused, "REFUSED", (7, 7, 1), Side::Right, 2),
    column(Kind::Up, "UP", (5, 6, 1), Side::Right, 5),
    column(Kind::Down, "DOWN", (5, 6, 1), Side::Right, 5),
];

pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let (look, snapshot) = (&app.look, app.snapshot());
    let inside = panel::frame(look, "Services", "", area, buffer);
    let inside = panel::margin(inside);
    if snapshot.services.is_empty() {
        return panel::empty(look, "no services", inside, buffer);
    }
    let columns = table::fit(&COLUMNS, inside.width);
    table::draw_heads(look, &columns, line(inside, 0), buffer);
    let mut rows: Vec<&ServiceRow> = snapshot.services.iter().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.totals.refused));
    let list = panel::below_heads(inside);
    let (drawn, rest) = rows.split_at(panel::rows_drawn(rows.len(), list));
    for (at, row) in panel::lines(list).zip(drawn) {
        table::draw_row(look, &columns, at, buffer, |kind| cell(app, row, kind));
    }
    panel::rest(look, rest.len(), "", list, buffer);
}

fn cell(app: &App, row: &ServiceRow, kind: Kind) -> Cell {
    let (look, theme) = (&app.look, app.look.theme);
    match kind {
        Kind::Phase => match row.phase {
            ServicePhase::Open => Cell::new("open", theme.good),
            ServicePhase::Draining => Cell::new("DRAINING", theme.warn),
        },
        Kind::Service => Cell::new(look.text(&row.name, TEXT_CHARS), theme.accent),
        Kind::Accept => Cell::new(look.text(&row.accept.join(" "), TEXT_CHARS), theme.plain),
        Kind::Backend => Cell::new(look.text(row.connect.as_deref().unwrap_or("-"), TEXT_CHARS), theme.plain),
        Kind::Open => number(look, row.totals.sessions_open),
        Kind::Sessions => number(look, row.totals.sessions),
        Kind::Refused if row.totals.refused > 0 => Cell::new(format::amount(row.totals.refused), theme.warn),
        Kind::Refused => number(look, 0),
        Kind::Up => number(look, row.totals.bytes_up),
        Kind::Down => number(look, row.totals.bytes_down),
    }
}

const TEXT_CHARS: usize = 120;
