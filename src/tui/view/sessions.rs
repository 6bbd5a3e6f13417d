//! The sessions: open ones, waiting first, then the busiest; below them those that just ended, failures first.
//! [`order`] decides which ones, so that rows do not jump around.

mod selected;

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use crate::{
    profile::Half,
    telemetry::{
        end::EndSeverity,
        snapshot::{EndedRow, SessionPhase, SessionRow, Snapshot},
    },
    tui::{
        app::App,
        clients::SessionGrouping,
        filter::{ListedSession, phase_word},
        format, lists, order, session_join,
        view::{
            clients, panel,
            pool::{half_word, number},
            table::{self, CellAlign, TableCell, TableColumn, TableSheet, column},
        },
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionColumn {
    Mark,
    Id,
    Half,
    Age,
    Client,
    Service,
    Peer,
    /// In a fleet: the gateway that the client came to, and the one that carries the session on.
    Gateway,
    Link,
    Inside,
    Waits,
    Backend,
    RateUp,
    RateDown,
    Up,
    Down,
    Phase,
}

pub const COLUMNS: [TableColumn<SessionColumn>; 17] = [
    column(SessionColumn::Mark, "", (2, 2, 0), CellAlign::Left, 0),
    column(SessionColumn::Id, "ID", (6, 12, 0), CellAlign::Left, 5),
    column(SessionColumn::Half, "HALF", (4, 4, 0), CellAlign::Left, 4),
    column(SessionColumn::Age, "AGE", (6, 6, 0), CellAlign::Right, 3),
    column(SessionColumn::Client, "CLIENT", (21, 47, 0), CellAlign::Left, 0),
    column(SessionColumn::Service, "SERVICE", (7, 24, 0), CellAlign::Left, 2),
    column(SessionColumn::Peer, "PEER", (8, 21, 0), CellAlign::Left, 7),
    column(SessionColumn::Gateway, "GATEWAY", (8, 16, 0), CellAlign::Left, 1).shrinking(),
    column(SessionColumn::Link, "LINK", (4, 6, 0), CellAlign::Right, 8),
    column(SessionColumn::Inside, "INSIDE", (8, 16, 0), CellAlign::Left, 3).shrinking(),
    column(SessionColumn::Waits, "WAITS", (9, 13, 0), CellAlign::Left, 8).shrinking(),
    column(SessionColumn::Backend, "BACKEND", (12, 21, 0), CellAlign::Left, 7),
    column(SessionColumn::RateUp, "UP/S", (5, 6, 0), CellAlign::Right, 2),
    column(SessionColumn::RateDown, "DOWN/S", (6, 7, 0), CellAlign::Right, 2),
    column(SessionColumn::Up, "UP", (5, 6, 0), CellAlign::Right, 6),
    column(SessionColumn::Down, "DOWN", (5, 6, 0), CellAlign::Right, 6),
    column(SessionColumn::Phase, "PHASE", (12, 160, 1), CellAlign::Left, 1),
];

/// With frame, title and sums.
pub fn draw_panel(app: &App, area: Rect, buffer: &mut Buffer) {
    match app.grouping() {
        SessionGrouping::None => panel::draw_frame(&app.style, "Sessions", &facts(app), area, buffer),
        SessionGrouping::ByClient => {
            panel::draw_frame(&app.style, "Clients", &clients::facts(app), area, buffer)
        }
    };
    draw_list(app, list_area(area), buffer);
}

/// The first two cells of a row are its mark.
pub fn list_area(framed: Rect) -> Rect {
    let inside = panel::inside(framed);
    Rect { width: inside.width.saturating_sub(1), ..inside }
}

/// Only heads and rows.
pub fn draw_list(app: &App, area: Rect, buffer: &mut Buffer) {
    let (screen_style, order) = (&app.style, app.session_order());
    if app.grouping() == SessionGrouping::ByClient {
        return clients::draw_list(app, area, buffer);
    }
    if order.is_empty() {
        return draw_none(app, area, buffer);
    }
    let below = Rect { x: area.x.saturating_add(2), width: area.width.saturating_sub(2), ..area };
    panel::draw_selected_text(screen_style, selected_text(app), below, buffer);
    let (area, lines) = visible_lines(app, area);
    let sheet = sheet(app, area, &lines);
    sheet.draw_heads(screen_style, area, buffer);
    let (selected, drawn) = (app.selected_line(), lines.len());
    for (index, (at, line)) in panel::lines(panel::below_heads(area)).zip(lines).enumerate() {
        sheet.draw_row(screen_style, index, at, buffer);
        if selected == Some(line) {
            panel::select(screen_style, at, buffer);
        }
    }
    let below = Rect { x: below.x, width: below.width, ..panel::below_heads(area) };
    panel::draw_hidden_count(screen_style, order.len() - drawn, "", below, buffer);
}

/// The text for a list that has nothing to show.
pub fn draw_none(app: &App, area: Rect, buffer: &mut Buffer) {
    let has_filter = !app.session_order().filter.is_empty();
    let text = if has_filter { " no session passes the filter" } else { " no session is open" };
    panel::draw_empty(&app.style, text, area, buffer);
}

/// The part of `area` that the list uses, with its heads, and the lines drawn there.
pub fn visible_lines(app: &App, area: Rect) -> (Rect, Vec<usize>) {
    if app.grouping() == SessionGrouping::ByClient {
        return clients::visible_lines(app, area);
    }
    let order = app.session_order();
    let below = Rect { width: area.width.saturating_sub(2), ..area };
    let (left, ..) = panel::split_selected_text(&app.style, selected_text(app), below);
    let area = Rect { height: left.height, ..area };
    let (open, failed) = (order.open_len(), order.failed_len());
    let counts = [open, failed, order.len() - open - failed];
    let shares = share(counts, panel::rows_drawn(order.len(), panel::below_heads(area)));
    let (selected, mut first) = (app.selected_line(), 0);
    let mut lines = Vec::new();
    for (count, share) in counts.into_iter().zip(shares) {
        let at = selected.and_then(|line| line.checked_sub(first)).filter(|&line| line < count);
        lines.extend(table::window(at, count, share).map(|line| line + first));
        first += count;
    }
    (area, lines)
}

/// The sort column whose head is this far from the left.
pub fn head_at(app: &App, area: Rect, cells: u16) -> Option<order::SortColumn> {
    if app.grouping() == SessionGrouping::ByClient {
        return clients::head_at(app, area, cells);
    }
    let (area, lines) = visible_lines(app, area);
    sheet(app, area, &lines).kind_at(cells).and_then(sorted_by)
}

fn sheet(app: &App, area: Rect, lines: &[usize]) -> TableSheet<SessionColumn> {
    let (order, snapshot, selected) = (app.session_order(), app.snapshot(), app.selected_line());
    let row = |&line: &usize| Some((line, order.row(snapshot, line)?));
    let rows: Vec<_> = lines.iter().filter_map(row).collect();
    TableSheet::with_heads(
        &columns(snapshot),
        &rows,
        area.width,
        |(line, row), kind| cell(app, *row, selected == Some(*line), kind),
        |column| sorted_head(app, column.title, sorted_by(column.kind)),
    )
}

fn selected_text(app: &App) -> Option<(String, Style)> {
    app.selected_session(app.snapshot()).map(|row| selected::describe(app, row))
}

fn cell(app: &App, row: ListedSession<'_>, is_selected: bool, kind: SessionColumn) -> TableCell {
    let shown = row_cell(app, row, is_selected, kind);
    let open = match row {
        ListedSession::Open(open) if kind != SessionColumn::Mark => open,
        // A session that has ended does not change any more.
        ListedSession::Open(_) | ListedSession::Ended(_) => return shown,
    };
    let is_inner = matches!(kind, SessionColumn::Inside | SessionColumn::Backend);
    let inner = is_inner.then(|| app.session_order().inner(app.snapshot(), open)).flatten();
    let gateway = inner.map_or(row.gateway(), |inner| inner.gateway.as_ref());
    if app.is_answering(gateway) {
        return shown;
    }
    if kind == SessionColumn::Phase {
        return TableCell::new("unknown", app.style.theme.faint);
    }
    if matches!(kind, SessionColumn::RateUp | SessionColumn::RateDown) {
        return TableCell::new("-", app.style.theme.faint);
    }
    TableCell { style: app.style.theme.faint, ..shown }
}

fn row_cell(app: &App, row: ListedSession<'_>, is_selected: bool, kind: SessionColumn) -> TableCell {
    match (kind, row) {
        (SessionColumn::Mark, row) if is_selected => {
            let ended = if let ListedSession::Ended(row) = row { ended_mark(app, row) } else { "" };
            TableCell::new(format!("{}{ended}", app.style.symbols.selected), app.style.theme.plain)
        }
        (_, ListedSession::Open(row)) => open_cell(app, row, kind),
        (_, ListedSession::Ended(row)) => ended_cell(app, row, kind),
    }
}

/// The head of the sort column has an arrow: up if the smallest is on top.
pub fn sorted_head(app: &App, title: &str, column: Option<order::SortColumn>) -> String {
    let (order, symbols) = (app.session_order(), &app.style.symbols);
    if column != Some(order.column) {
        return title.into();
    }
    let rises = order.column.begins_with_least() != order.is_flipped;
    format!("{title}{}", if rises { symbols.rising } else { symbols.falling })
}

fn sorted_by(kind: SessionColumn) -> Option<order::SortColumn> {
    Some(match kind {
        SessionColumn::Age => order::SortColumn::Age,
        SessionColumn::Client => order::SortColumn::Client,
        SessionColumn::Service => order::SortColumn::Service,
        SessionColumn::RateUp => order::SortColumn::RateUp,
        SessionColumn::RateDown => order::SortColumn::RateDown,
        SessionColumn::Up => order::SortColumn::Up,
        SessionColumn::Down => order::SortColumn::Down,
        SessionColumn::Phase => order::SortColumn::Waiting,
        SessionColumn::Mark
        | SessionColumn::Id
        | SessionColumn::Half
        | SessionColumn::Peer
        | SessionColumn::Gateway
        | SessionColumn::Link
        | SessionColumn::Inside
        | SessionColumn::Waits
        | SessionColumn::Backend => return None,
    })
}

fn columns(snapshot: &Snapshot) -> Vec<TableColumn<SessionColumn>> {
    let has_halves = snapshot.halves.len() > 1;
    let is_fleet = !snapshot.gateways.is_empty();
    let has_peers = snapshot.sessions.iter().any(|row| row.peer.is_some())
        || snapshot.ended.iter().any(|row| row.peer.is_some());
    let shown = |kind| match kind {
        SessionColumn::Half => has_halves && !is_fleet,
        SessionColumn::Peer => has_peers && !has_halves && !is_fleet,
        SessionColumn::Gateway => is_fleet,
        SessionColumn::Link | SessionColumn::Inside | SessionColumn::Waits => is_fleet && has_peers,
        // In a pair, the peer is the pair itself.
        SessionColumn::Backend => has_halves,
        SessionColumn::Mark
        | SessionColumn::Id
        | SessionColumn::Age
        | SessionColumn::Client
        | SessionColumn::Service
        | SessionColumn::Phase => true,
        SessionColumn::RateUp | SessionColumn::RateDown | SessionColumn::Up | SessionColumn::Down => true,
    };
    COLUMNS.into_iter().filter(|column| shown(column.kind)).collect()
}

fn facts(app: &App) -> String {
    let snapshot = app.snapshot();
    let totals = &snapshot.totals;
    let waiting = totals.sessions_waiting;
    let (open, all, refused) = (totals.sessions_open, totals.sessions, totals.refused);
    let mut facts = match listed(app) {
        Some(listed) => format!("{listed} pass the filter, {waiting} waiting"),
        None => format!("{open} open of {all}, {waiting} waiting, {refused} refused"),
    };
    if snapshot.sessions_left_out > 0 {
        facts.push_str(&format!(", {} not listed", snapshot.sessions_left_out));
    }
    format!("{facts}, {}, in bytes", app.session_order().words())
}

/// `12 of 66` while a filter hides rows.
pub fn listed(app: &App) -> Option<String> {
    let order = app.session_order();
    let open = order.listable_len();
    (!order.filter.is_empty()).then(|| format!("{} of {open}", order.open_len()))
}

/// Lines for open, failed and other ended sessions: in a full list the failed ones get a quarter, and the
/// others an eighth, or all that is free.
fn share([open, failed, healthy]: [usize; 3], lines: usize) -> [usize; 3] {
    let healthy_least = healthy.min(if failed == 0 { lines / 4 } else { lines / 8 });
    let failed = failed.min((lines / 4).max(lines.saturating_sub(open + healthy_least)));
    let healthy = healthy.min(healthy_least.max(lines.saturating_sub(open + failed)));
    [lines - failed - healthy, failed, healthy]
}

fn open_cell(app: &App, row: &SessionRow, kind: SessionColumn) -> TableCell {
    let (screen_style, theme) = (&app.style, app.style.theme);
    match kind {
        SessionColumn::Mark => TableCell::new("", theme.plain),
        SessionColumn::Id => TableCell::new(screen_style.text(&row.id, TEXT_CHARS), theme.plain),
        SessionColumn::Half if app.session_order().inner(app.snapshot(), row).is_some() => {
            TableCell::new("both", theme.plain)
        }
        SessionColumn::Half => half(app, row.half),
        SessionColumn::Age => TableCell::new(format::age(row.age_seconds), theme.plain),
        SessionColumn::Client => {
            TableCell::new(screen_style.text(&app.addresses().client(&row.client), TEXT_CHARS), theme.plain)
        }
        SessionColumn::Service => TableCell::new(screen_style.text(&row.service, TEXT_CHARS), theme.accent),
        SessionColumn::Peer => peer(app, row.peer.as_deref()),
        SessionColumn::Gateway => gateway(app, row),
        SessionColumn::Link => {
            TableCell::new(row.via.map_or("-".into(), |link| link.to_string()), theme.plain)
        }
        SessionColumn::Inside => inside(app, row),
        SessionColumn::Waits => waits(app, row),
        SessionColumn::Backend => peer(app, backend(app, row)),
        SessionColumn::RateUp => number(screen_style, row.rate_up),
        SessionColumn::RateDown => number(screen_style, row.rate_down),
        SessionColumn::Up => moved(app, row, |row| row.bytes_up),
        SessionColumn::Down => moved(app, row, |row| row.bytes_down),
        SessionColumn::Phase => match app.session_order().inner(app.snapshot(), row) {
            // The outer half's phase, then the inner one's.
            Some(inner) if inner.phase != row.phase => {
                let outer = phase(app, row);
                TableCell { text: format!("{}/{}", outer.text, phase_word(inner.phase)), ..outer }
            }
            Some(_) | None => phase(app, row),
        },
    }
}

fn phase(app: &App, row: &SessionRow) -> TableCell {
    let theme = app.style.theme;
    match row.phase {
        SessionPhase::Negotiating => TableCell::new("negotiating", theme.plain),
        SessionPhase::Authorising => TableCell::new("authorising", theme.plain),
        SessionPhase::Waiting => {
            TableCell::new(format!("WAITING {}", format::span(row.age_seconds)), theme.warn)
        }
        SessionPhase::Connecting => TableCell::new("connecting", theme.plain),
        SessionPhase::Relaying if row.idle_seconds >= IDLE_SECONDS => {
            TableCell::new(format!("idle {}", format::span(row.idle_seconds)), theme.faint)
        }
        SessionPhase::Relaying => TableCell::new("relaying", theme.good),
        SessionPhase::Draining => TableCell::new("draining", theme.plain),
    }
}

/// How serious an end is, as the colour of its letters.
pub fn end_style(app: &App, code: &str) -> Style {
    let theme = app.style.theme;
    match EndSeverity::of_code(code) {
        EndSeverity::Failure => theme.bad,
        EndSeverity::Refusal => theme.warn,
        EndSeverity::Intended => theme.plain,
        EndSeverity::Healthy => theme.faint,
    }
}

/// Colour is never the only sign: failures are marked like problems.
fn ended_mark(app: &App, row: &EndedRow) -> &'static str {
    let is_failure = EndSeverity::of_code(&row.end).is_failure();
    if is_failure { app.style.symbols.alert } else { app.style.symbols.ended }
}

/// Rates are unknown by now; the end is shown in place of the phase.
fn ended_cell(app: &App, row: &EndedRow, kind: SessionColumn) -> TableCell {
    let screen_style = &app.style;
    let is_failure = EndSeverity::of_code(&row.end).is_failure();
    let rest = if is_failure { screen_style.theme.plain } else { screen_style.theme.faint };
    let is_end = matches!(kind, SessionColumn::Mark | SessionColumn::Phase);
    let style = if is_end { end_style(app, &row.end) } else { rest };
    let text = match kind {
        SessionColumn::Mark => format!(" {}", ended_mark(app, row)),
        SessionColumn::Id => screen_style.text(&row.id, TEXT_CHARS),
        SessionColumn::Half => half_word(row.half).into(),
        SessionColumn::Age => format::age(row.seconds),
        SessionColumn::Client => screen_style.text(&app.addresses().client(&row.client), TEXT_CHARS),
        SessionColumn::Service => screen_style.text(&row.service, TEXT_CHARS),
        SessionColumn::Peer => peer(app, row.peer.as_deref()).text,
        SessionColumn::Gateway => peer(app, row.gateway.as_deref()).text,
        SessionColumn::Link | SessionColumn::Waits => "-".into(),
        SessionColumn::Inside => {
            let inner = app.session_order().inner_ended(app.snapshot(), row);
            peer(app, inner.and_then(|inner| inner.gateway.as_deref()).or(row.peer.as_deref())).text
        }
        SessionColumn::Backend => {
            let inner = app.session_order().inner_ended(app.snapshot(), row);
            let dialled = inner.and_then(|inner| inner.backend.as_deref()).or(row.backend.as_deref());
            peer(app, dialled.or_else(|| lists::backend(app.whole_snapshot(), &row.service, None))).text
        }
        SessionColumn::RateUp | SessionColumn::RateDown => "-".into(),
        SessionColumn::Up => ended_moved(app, row, |row| row.bytes_up),
        SessionColumn::Down => ended_moved(app, row, |row| row.bytes_down),
        SessionColumn::Phase => {
            screen_style.text(&format!("{} {}", row.end, app.addresses().text(&row.reason)), TEXT_CHARS)
        }
    };
    TableCell::new(text, style)
}

/// The gateway of the row; for an inner part whose outer part is not in the fleet, the inner gateway.
fn gateway(app: &App, row: &SessionRow) -> TableCell {
    let outer = row.gateway.as_deref().filter(|_| row.half == Half::Dmz);
    peer(app, outer.or(row.peer.as_deref()))
}

/// The gateway that carries it on: its name in the fleet, or else the one in its certificate.
fn inside(app: &App, row: &SessionRow) -> TableCell {
    match (row.half, app.session_order().inner(app.snapshot(), row)) {
        (Half::Internal, _) => peer(app, row.gateway.as_deref()),
        (Half::Dmz, Some(inner)) => peer(app, inner.gateway.as_deref()),
        (Half::Dmz, None) => peer(app, row.peer.as_deref()),
    }
}

/// How long it waited for a link, and how long the backend took inside.
fn waits(app: &App, row: &SessionRow) -> TableCell {
    let inner = app.session_order().inner(app.snapshot(), row);
    let backend = inner.map_or(row.connected_ms, |inner| inner.connected_ms);
    let ms = |ms: Option<f64>| ms.map_or("-".into(), format::wait);
    TableCell::new(format!("{}+{}", ms(row.waited_ms), ms(backend)), app.style.theme.plain)
}

/// What it reaches: the backend itself if a half on the screen has dialled it, otherwise those of its service.
pub(super) fn backend<'a>(app: &'a App, row: &'a SessionRow) -> Option<&'a str> {
    let inner = app.session_order().inner(app.snapshot(), row);
    let dialled = inner.and_then(|inner| inner.backend.as_deref()).or(row.backend.as_deref());
    let inside = inner.and_then(|inner| inner.gateway.as_ref());
    let own = row.gateway.as_ref().filter(|_| row.half == Half::Internal);
    dialled.or_else(|| lists::backend(app.whole_snapshot(), &row.service, inside.or(own)))
}

/// Bytes that the two halves count differently are marked: nothing may be lost between them.
fn moved(app: &App, row: &SessionRow, bytes: fn(&SessionRow) -> u64) -> TableCell {
    match app.session_order().inner(app.snapshot(), row) {
        // If one of them no longer answers, its last number says nothing about a difference.
        Some(inner)
            if !app.is_answering(row.gateway.as_ref()) || !app.is_answering(inner.gateway.as_ref()) =>
        {
            number(&app.style, bytes(row))
        }
        Some(inner) if !session_join::bytes_agree(row, inner, bytes) => {
            let text = format!("{}{}", format::amount(bytes(row)), app.style.symbols.differs);
            TableCell::new(text, app.style.theme.warn)
        }
        Some(_) | None => number(&app.style, bytes(row)),
    }
}

fn ended_moved(app: &App, row: &EndedRow, bytes: fn(&EndedRow) -> u64) -> String {
    let inner = app.session_order().inner_ended(app.snapshot(), row);
    let differs = inner.is_some_and(|inner| bytes(row) != bytes(inner));
    format!("{}{}", format::amount(bytes(row)), if differs { app.style.symbols.differs } else { "" })
}

fn half(app: &App, half: Half) -> TableCell {
    TableCell::new(half_word(half), app.style.theme.plain)
}

fn peer(app: &App, peer: Option<&str>) -> TableCell {
    let peer = app.addresses().text(peer.unwrap_or("-"));
    TableCell::new(app.style.text(&peer, TEXT_CHARS), app.style.theme.plain)
}

/// A pause in a conversation is not idleness yet.
const IDLE_SECONDS: f64 = 10.0;
const TEXT_CHARS: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_sessions_get_the_free_lines_or_a_quarter() {
        for ((counts, lines), expected) in [
            (([5, 0, 3], 12), [9, 0, 3]),
            (([100, 0, 9], 12), [9, 0, 3]),
            (([0, 0, 20], 12), [0, 0, 12]),
            (([100, 0, 1], 12), [11, 0, 1]),
            (([100, 0, 9], 2), [2, 0, 0]),
            (([100, 9, 9], 16), [10, 4, 2]),
            (([100, 9, 0], 12), [9, 3, 0]),
            (([2, 30, 30], 16), [2, 12, 2]),
            (([2, 3, 30], 16), [2, 3, 11]),
            (([0, 30, 0], 12), [0, 12, 0]),
        ] {
            assert_eq!(share(counts, lines), expected, "{counts:?} in {lines}");
        }
    }
}
