//! The gateways of a fleet: whether each is reached, how it is, and what it carries; the worst on top. The overview
//! draws those that fit, and counts the others.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use crate::{
    telemetry::{
        health::Health,
        snapshot::{
            EndedRow, GatewayFacts, GatewayPhase, GatewayReach, GatewayRow, ROWS_KEPT_SECONDS, SessionRow,
            Snapshot,
        },
    },
    tui::{
        app::App,
        filter::phase_word,
        format,
        session_join::bytes_agree,
        view::{
            alert,
            detail::{DetailLine, fact, last_byte},
            header::{half_label, mode_word},
            panel,
            pool::number,
            table::{self, CellAlign, TableCell, TableColumn, TableSheet, column},
        },
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayColumn {
    State,
    Name,
    Halves,
    Mode,
    Ready,
    Links,
    Sessions,
    Waiting,
    RateUp,
    RateDown,
    Since,
    Version,
    Profile,
    Target,
    Why,
}

pub const COLUMNS: [TableColumn<GatewayColumn>; 15] = [
    column(GatewayColumn::State, "STATE", (9, 11, 1), CellAlign::Left, 0),
    column(GatewayColumn::Name, "GATEWAY", (8, 24, 1), CellAlign::Left, 0).shrinking(),
    column(GatewayColumn::Halves, "HALF", (4, 12, 1), CellAlign::Left, 4).shrinking(),
    column(GatewayColumn::Mode, "MODE", (7, 7, 1), CellAlign::Left, 5),
    column(GatewayColumn::Ready, "READY", (5, 5, 0), CellAlign::Left, 6),
    column(GatewayColumn::Links, "LINKS", (5, 9, 0), CellAlign::Right, 2),
    column(GatewayColumn::Sessions, "SESS", (5, 8, 0), CellAlign::Right, 1),
    column(GatewayColumn::Waiting, "WAIT", (4, 5, 0), CellAlign::Right, 4),
    column(GatewayColumn::RateUp, "UP/S", (5, 6, 0), CellAlign::Right, 3),
    column(GatewayColumn::RateDown, "DOWN/S", (6, 6, 0), CellAlign::Right, 3),
    column(GatewayColumn::Since, "SINCE", (6, 7, 0), CellAlign::Right, 4),
    column(GatewayColumn::Version, "VERSION", (7, 12, 1), CellAlign::Left, 8),
    column(GatewayColumn::Profile, "PROFILE", (8, 16, 1), CellAlign::Left, 7).shrinking(),
    column(GatewayColumn::Target, "TARGET", (12, 40, 1), CellAlign::Left, 9).shrinking(),
    column(GatewayColumn::Why, "WORST", (16, 160, 9), CellAlign::Left, 2).shrinking(),
];

/// On the overview: those that fit, and how many of the others are well.
pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let screen_style = &app.style;
    let inside =
        panel::margin(panel::draw_frame(screen_style, "Gateways", &facts(app.snapshot()), area, buffer));
    draw_worst(app, panel::below_heads(inside), buffer).draw_heads(screen_style, inside, buffer);
}

/// Draws the gateways without frame and heads, where there is no room for them.
pub fn draw_short(app: &App, area: Rect, buffer: &mut Buffer) {
    draw_worst(app, area, buffer);
}

fn draw_worst(app: &App, list: Rect, buffer: &mut Buffer) -> TableSheet<GatewayColumn> {
    let screen_style = &app.style;
    let rows: Vec<_> = app.snapshot().gateways.iter().collect();
    let (drawn, rest) = rows.split_at(panel::rows_drawn(rows.len(), list));
    let sheet = TableSheet::new(&COLUMNS, drawn, list.width, |row, kind| cell(app, row, kind));
    for (row, at) in panel::lines(list).take(drawn.len()).enumerate() {
        sheet.draw_row(screen_style, row, at, buffer);
    }
    let well = rest.iter().filter(|row| is_well(row)).count();
    panel::draw_hidden_count(
        screen_style,
        rest.len(),
        &format!(", {well} of them well; 8 shows all"),
        list,
        buffer,
    );
    sheet
}

/// A whole screen of them.
pub fn draw_screen(app: &App, area: Rect, buffer: &mut Buffer) {
    let inside = panel::draw_frame(&app.style, "Gateways", &facts(app.snapshot()), area, buffer);
    draw_list(app, panel::margin(inside), buffer);
}

pub fn draw_list(app: &App, area: Rect, buffer: &mut Buffer) {
    let snapshot = app.snapshot();
    if snapshot.gateways.is_empty() {
        return panel::draw_empty(&app.style, "one gateway is shown, and no fleet", area, buffer);
    }
    let area = panel::draw_selected_text(&app.style, selected_text(app), area, buffer);
    let rows: Vec<_> = snapshot.gateways.iter().collect();
    let cell = |row: &&GatewayRow, kind| cell(app, row, kind);
    table::draw_list(&app.style, &COLUMNS, &rows, app.selected_line(), area, buffer, cell);
}

/// Why the selected gateway, or else the worst, is not well.
pub fn selected_text(app: &App) -> Option<(String, Style)> {
    let snapshot = app.snapshot();
    let row = app.selected_gateway_row(snapshot).or_else(|| snapshot.gateways.first())?;
    let state = state(app, row);
    let since_seconds = match row.reach {
        GatewayReach::Reached => None,
        GatewayReach::Silent => row.heard_seconds.or(Some(row.since_seconds)),
        GatewayReach::Calling | GatewayReach::Stopped | GatewayReach::Unreachable => Some(row.since_seconds),
    };
    // The column with the time is the first to go on a narrow screen.
    let reach = since_seconds.map(|seconds| format!(", {} for {}", state.text, format::whole_span(seconds)));
    let detail = match (detail_text(row), &reach) {
        (Some(detail), _) => format!(": {detail}"),
        (None, Some(_)) => String::new(),
        (None, None) => return None,
    };
    let text = format!("{} at {}{}{detail}", row.name, row.target, reach.unwrap_or_default());
    Some((app.addresses().text(&text), state.style))
}

fn facts(snapshot: &Snapshot) -> String {
    let reached = snapshot.gateways.iter().filter(|row| row.reach == GatewayReach::Reached).count();
    let well = snapshot.gateways.iter().filter(|row| is_well(row)).count();
    let stopped = snapshot.gateways.iter().filter(|row| row.reach == GatewayReach::Stopped).count();
    let stopped = if stopped > 0 { format!(", {stopped} stopped") } else { String::new() };
    format!("{reached} of {} reached, {well} healthy{stopped}", snapshot.gateways.len())
}

fn is_well(row: &GatewayRow) -> bool {
    let health = row.heard.as_ref().and_then(|facts| facts.health);
    row.reach == GatewayReach::Reached && health == Some(Health::Healthy)
}

/// Why it is not reached, or else the worst of its alerts, or that it drains.
fn detail_text(row: &GatewayRow) -> Option<&str> {
    if row.reach == GatewayReach::Stopped {
        return Some("it was stopped; it is called until it runs again");
    }
    let facts = row.heard.as_ref();
    let is_draining = row.reach == GatewayReach::Reached
        && facts.is_some_and(|facts| facts.phase == GatewayPhase::Draining);
    row.why
        .as_deref()
        .or_else(|| facts?.worst.as_deref())
        .or(is_draining.then_some("it drains: no new sessions"))
}

/// The word says whether it is reached and, if it is, how it is.
pub fn state(app: &App, row: &GatewayRow) -> TableCell {
    let theme = app.style.theme;
    match row.reach {
        GatewayReach::Unreachable => TableCell::new("UNREACHABLE", theme.bad),
        GatewayReach::Silent => TableCell::new("SILENT", theme.warn),
        GatewayReach::Stopped => TableCell::new("STOPPED", theme.faint),
        GatewayReach::Calling => TableCell::new("calling", theme.faint),
        GatewayReach::Reached => {
            let health = row.heard.as_ref().and_then(|facts| facts.health);
            let style = match health {
                Some(Health::Healthy) => theme.good,
                Some(Health::Degraded) => theme.warn,
                Some(Health::Full | Health::Down) => theme.bad,
                None => theme.faint,
            };
            TableCell::new(health.map_or("UNKNOWN", Health::label), style)
        }
    }
}

fn cell(app: &App, row: &GatewayRow, kind: GatewayColumn) -> TableCell {
    let (screen_style, theme) = (&app.style, app.style.theme);
    // Its last state may be outdated.
    let style = if row.reach == GatewayReach::Reached { theme.plain } else { theme.faint };
    let text = |text: &str| TableCell::new(screen_style.text(&app.addresses().text(text), TEXT_CHARS), style);
    let of_facts = |of: &dyn Fn(&GatewayFacts) -> TableCell| {
        row.heard.as_ref().map_or_else(|| TableCell::new("-", theme.faint), of)
    };
    // What it carried is not known for longer than its rows are kept.
    let is_away = matches!(row.reach, GatewayReach::Unreachable | GatewayReach::Stopped);
    let is_gone = is_away && row.since_seconds > ROWS_KEPT_SECONDS;
    let of_numbers = |of: &dyn Fn(&GatewayFacts) -> TableCell| {
        row.heard.as_ref().filter(|_| !is_gone).map_or_else(|| TableCell::new("-", theme.faint), of)
    };
    let count =
        |of: u64| TableCell { style: if of == 0 { theme.faint } else { style }, ..number(screen_style, of) };
    match kind {
        GatewayColumn::State => state(app, row),
        GatewayColumn::Name => TableCell::new(screen_style.text(&row.name, TEXT_CHARS), theme.accent),
        GatewayColumn::Halves => of_facts(&|facts| text(&halves(facts))),
        GatewayColumn::Mode => of_facts(&|facts| text(mode_word(facts.mode))),
        // Clients should not be sent to a gateway whose state is unknown.
        GatewayColumn::Ready if row.reach != GatewayReach::Reached => TableCell::new("-", theme.faint),
        GatewayColumn::Ready => of_facts(&|facts| text(ready_word(facts.ready))),
        GatewayColumn::Links => of_numbers(&|facts| {
            let [ready, wanted] =
                [facts.links_ready, facts.links_wanted].map(|links| format::amount(links as u64));
            TableCell::new(format!("{ready}/{wanted}"), style)
        }),
        GatewayColumn::Sessions => of_numbers(&|facts| count(facts.sessions_open)),
        GatewayColumn::Waiting => of_numbers(&|facts| count(facts.sessions_waiting)),
        GatewayColumn::RateUp => of_numbers(&|facts| count(facts.rate_up)),
        GatewayColumn::RateDown => of_numbers(&|facts| count(facts.rate_down)),
        GatewayColumn::Since => {
            let silent = row.heard_seconds.filter(|_| row.reach == GatewayReach::Silent);
            TableCell::new(format::age(silent.unwrap_or(row.since_seconds)), style)
        }
        GatewayColumn::Version => of_facts(&|facts| text(&facts.version)),
        GatewayColumn::Profile => of_facts(&|facts| text(&facts.profile)),
        GatewayColumn::Target => text(&row.target),
        GatewayColumn::Why => text(detail_text(row).unwrap_or("")),
    }
}

/// `dmz`, or `dmz+internal` for a pair.
pub fn halves(facts: &GatewayFacts) -> String {
    facts.halves.iter().map(|&half| half_label(half)).collect::<Vec<_>>().join("+")
}

pub fn ready_word(ready: Option<bool>) -> &'static str {
    match ready {
        Some(true) => "yes",
        Some(false) => "no",
        None => "-",
    }
}

/// Everything known about one gateway.
pub fn lines(app: &App, shown: &Snapshot, row: &GatewayRow) -> Vec<DetailLine> {
    let fact = |about, text| fact(app, about, text);
    let reach = state(app, row);
    let mut lines = vec![
        fact("gateway", row.name.to_string()),
        fact("target", app.addresses().text(&row.target)),
        DetailLine {
            style: reach.style,
            ..fact("state", format!("{}, for {}", reach.text, format::age(row.since_seconds)))
        },
    ];
    lines.extend(row.why.as_ref().map(|why| fact("why", app.addresses().text(why))));
    lines.extend(row.heard_seconds.map(|seconds| fact("heard", format!("{} ago", format::span(seconds)))));
    if let Some(facts) = &row.heard {
        lines.extend([
            fact("host", facts.host.clone()),
            fact("version", facts.version.clone()),
            fact("profile", format!("{} [{}] {}", facts.profile, mode_word(facts.mode), halves(facts))),
            fact("ready", ready_word(facts.ready).into()),
            fact("up", format::age(facts.uptime_seconds)),
            fact("links", format!("{} ready of {} wanted", facts.links_ready, facts.links_wanted)),
            fact("sessions", format!("{} open, {} waiting", facts.sessions_open, facts.sessions_waiting)),
            fact(
                "moves",
                format!("{} up, {} down", format::rate(facts.rate_up), format::rate(facts.rate_down)),
            ),
        ]);
    }
    let own = shown.alerts.iter().filter(|alert| alert.gateway.as_ref() == Some(&row.name));
    lines.extend(own.map(|own| DetailLine {
        style: alert::style(&app.style, own.kind.severity()),
        ..fact("trouble", app.addresses().text(&own.text))
    }));
    lines
}

/// What the other half of a session reports, in the details of that session.
pub fn inner_lines(app: &App, row: &SessionRow, inner: &SessionRow) -> Vec<DetailLine> {
    let sent = format!("{}, last byte {}", phase_word(inner.phase), last_byte(inner));
    let Some(gateway) = &inner.gateway else { return vec![fact(app, "inside", sent)] };
    let mut lines = vec![fact(app, "inside", format!("{gateway}: {sent}"))];
    lines.extend(inner.via.map(|link| fact(app, "by its link", format!("{link} as {gateway} counts"))));
    let backend = inner.connected_ms.map(|ms| format!("its backend was connected in {}", format::wait(ms)));
    lines.extend(backend.map(|text| fact(app, "", text)));
    if !bytes_agree(row, inner, |row| row.bytes_up) || !bytes_agree(row, inner, |row| row.bytes_down) {
        lines.push(difference(app, [row.bytes_up, row.bytes_down], [inner.bytes_up, inner.bytes_down]));
    }
    lines
}

/// The lines about the inner part of a session that has ended on both gateways.
pub fn inner_ended_lines(app: &App, row: &EndedRow, inner: &EndedRow) -> Vec<DetailLine> {
    let sent = format!("{} {}", inner.end, app.addresses().text(&inner.reason));
    let Some(gateway) = &inner.gateway else { return vec![fact(app, "other half", sent)] };
    let mut lines = vec![fact(app, "inside", format!("{gateway}: {sent}"))];
    let (outside, inside) = ([row.bytes_up, row.bytes_down], [inner.bytes_up, inner.bytes_down]);
    lines.extend((outside != inside).then(|| difference(app, outside, inside)));
    lines
}

/// Bytes up and down that the two halves count differently.
fn difference(app: &App, outside: [u64; 2], inside: [u64; 2]) -> DetailLine {
    let counted = |[up, down]: [u64; 2]| format!("{} up, {} down", format::bytes(up), format::bytes(down));
    let text = format!("outside {}; inside {}", counted(outside), counted(inside));
    DetailLine { style: app.style.theme.warn, ..fact(app, "differs", text) }
}

const TEXT_CHARS: usize = 160;
