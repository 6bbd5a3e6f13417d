//! Everything known about one row, a line for each fact. Tables leave columns out on a narrow screen; here
//! lines are wrapped and nothing is left out.

mod pools;

use ratatui::{
    buffer::Buffer,
    layout::{Constraint, Layout, Rect},
    style::Style,
};

use crate::{
    profile::Mode,
    telemetry::{
        end,
        failures::FailureRow,
        snapshot::{BackendRow, BackendRowState, EndedRow, PoolRow, ServiceRow, SessionRow, Snapshot},
    },
    tui::{
        app::App,
        clients::{self, SessionGrouping},
        filter::{ListedSession, phase_word},
        format,
        health::{PeerCounts, count_peers_of},
        lists,
        screen::Screen,
        view::{
            alert, doctor, gateways,
            header::{half_label, mode_word},
            panel,
            pool::half_word,
            profiles, sessions, table, traffic,
        },
    },
};

/// A line: a label, and what is known.
pub(super) struct DetailLine {
    pub about: &'static str,
    pub text: String,
    pub style: Style,
}

pub fn draw_panel(app: &App, area: Rect, buffer: &mut Buffer) {
    let chart = app.selected_service_row(app.snapshot()).filter(|_| area.height >= 2 * traffic::FRAMED);
    let height = chart.map_or(0, |_| traffic::lines_below_list(area.height));
    let [area, below] = Layout::vertical([Constraint::Min(0), Constraint::Length(height)]).areas(area);
    if let Some(row) = chart {
        traffic::draw_service(app, row, below, buffer);
    }
    let inside = panel::draw_frame(&app.style, title(app), "Esc goes back", area, buffer);
    draw_list(app, panel::margin(inside), buffer);
}

pub fn draw_list(app: &App, area: Rect, buffer: &mut Buffer) {
    let screen_style = &app.style;
    let lines = wrapped(app, &facts(app), area.width);
    let scroll = app.detail().map_or(0, |detail| detail.scroll);
    let first = scroll.min(lines.len().saturating_sub(usize::from(area.height)));
    for (at, fact) in panel::lines(area).zip(&lines[first..]) {
        table::write(fact.about, screen_style.theme.faint, at, buffer);
        let indent = ABOUT_CELLS.min(at.width);
        let rest = Rect { x: at.x + indent, width: at.width - indent, ..at };
        table::write(&fact.text, fact.style, rest, buffer);
    }
    if first + usize::from(area.height) < lines.len() && area.height > 0 {
        let text = format!("+{} lines", lines.len() - first - usize::from(area.height));
        let indent = area.width.saturating_sub(table::width(&text));
        let last = table::line(area, area.height - 1);
        table::write(
            &text,
            screen_style.theme.attention,
            Rect { x: last.x + indent, width: last.width - indent, ..last },
            buffer,
        );
    }
}

fn title(app: &App) -> &'static str {
    match app.screen() {
        Screen::Overview | Screen::Sessions => match app.grouping() {
            SessionGrouping::None => "Session",
            SessionGrouping::ByClient => "Client",
        },
        Screen::Pool => "Pool",
        Screen::Services => "Service",
        Screen::Events => "Event",
        Screen::Profiles => "Profile",
        Screen::Failures => "Failure",
        Screen::Gateways => "Gateway",
        Screen::Path => "Path",
        Screen::Doctor => "Finding",
        Screen::History => "History",
    }
}

/// Long facts continue on the next line, so that no part of a reason is lost.
fn wrapped(app: &App, facts: &[DetailLine], width: u16) -> Vec<DetailLine> {
    let space = width.saturating_sub(ABOUT_CELLS).max(8);
    let mut lines = Vec::new();
    for fact in facts {
        let text = app.style.text(&fact.text, TEXT_CHARS);
        for (number, text) in table::wrap(&text, space).into_iter().enumerate() {
            let about = if number == 0 { fact.about } else { "" };
            lines.push(DetailLine { about, text, style: fact.style });
        }
    }
    lines
}

fn facts(app: &App) -> Vec<DetailLine> {
    let shown = app.snapshot();
    let facts = match app.screen() {
        Screen::Overview | Screen::Sessions if app.grouping() == SessionGrouping::ByClient => {
            client_lines(app, shown)
        }
        Screen::Overview | Screen::Sessions => app.selected_session(shown).map(|row| match row {
            ListedSession::Open(row) => session_lines(app, shown, row),
            ListedSession::Ended(row) => ended_lines(app, shown, row),
        }),
        Screen::Pool => app
            .selected_pool(shown)
            .map(|row| pools::pool_lines(app, row))
            .or_else(|| app.selected_service_row(shown).map(|row| service_lines(app, row))),
        Screen::Services => app.selected_service_row(shown).map(|row| service_lines(app, row)),
        Screen::Events => event_lines(app),
        Screen::Profiles => profile_lines(app),
        Screen::Failures => app.selected_failure(shown).map(|row| failure_lines(app, row)),
        Screen::Gateways => app.selected_gateway_row(shown).map(|row| gateways::lines(app, shown, row)),
        Screen::Path => None,
        Screen::History => None,
        Screen::Doctor => app.selected_finding().map(|finding| doctor::detail_lines(app, &finding)),
    };
    let removed = || vec![fact(app, "", "it is gone, and not remembered any more".into())];
    facts.unwrap_or_else(removed)
}

pub(super) fn fact(app: &App, about: &'static str, text: String) -> DetailLine {
    DetailLine { about, text, style: app.style.theme.plain }
}

/// In a fleet, the gateway of the row.
pub(super) fn gateway_line(app: &App, gateway: Option<&str>) -> Option<DetailLine> {
    gateway.map(|name| fact(app, "gateway", name.to_owned()))
}

fn session_lines(app: &App, shown: &Snapshot, row: &SessionRow) -> Vec<DetailLine> {
    let fact = |about, text| fact(app, about, text);
    let addresses = app.addresses();
    let inner = app.session_order().inner(shown, row);
    let backend = sessions::backend(app, row);
    let mut facts = vec![
        fact("session", format!("{} in the {} half", row.id, half_word(row.half))),
        fact("state", format!("{}, last byte {}", phase_word(row.phase), last_byte(row))),
        fact("client", addresses.client(&row.client)),
        fact("service", row.service.clone()),
        fact("backend", backend.map_or("the internal gateway knows".into(), |to| addresses.text(to))),
    ];
    facts.extend(gateway_line(app, row.gateway.as_deref()));
    facts.extend(inner.into_iter().flat_map(|inner| gateways::inner_lines(app, row, inner)));
    facts.extend(peer_lines(app, shown, row));
    facts.extend(row.via.map(|link| fact("via", format!("link {link}"))));
    facts.extend(row.waited_ms.map(|ms| fact("waited", format!("{} for a link", format::wait(ms)))));
    facts.extend(row.connected_ms.map(|ms| fact("connected", format!("in {}", format::wait(ms)))));
    facts.extend([
        fact("age", format::age(row.age_seconds)),
        fact("up", moved(row.bytes_up, row.rate_up)),
        fact("down", moved(row.bytes_down, row.rate_down)),
    ]);
    facts
}

pub(super) fn last_byte(row: &SessionRow) -> String {
    row.last_byte_seconds.map_or("-".into(), |seconds| format!("{} ago", format::span(seconds)))
}

pub(super) fn moved(bytes: u64, rate: u64) -> String {
    format!("{} in all, {} now", format::bytes(bytes), format::rate(rate))
}

fn ended_lines(app: &App, shown: &Snapshot, row: &EndedRow) -> Vec<DetailLine> {
    let fact = |about, text| fact(app, about, text);
    let addresses = app.addresses();
    let code = end::explain_code(&row.end).unwrap_or_default();
    let inner = app.session_order().inner_ended(shown, row);
    let mut facts = vec![
        fact("session", format!("{} in the {} half", row.id, half_word(row.half))),
        fact("state", format!("ended {} ago", format::span(row.ago_seconds))),
        DetailLine {
            style: sessions::end_style(app, &row.end),
            ..fact("end", format!("{} {code}", row.end))
        },
        fact("reason", addresses.text(&row.reason)),
        fact("client", addresses.client(&row.client)),
        fact("service", row.service.clone()),
        fact("peer", addresses.text(row.peer.as_deref().unwrap_or("-"))),
        fact("lasted", format::span(row.seconds)),
        fact("up", format::bytes(row.bytes_up)),
        fact("down", format::bytes(row.bytes_down)),
    ];
    facts.extend(gateway_line(app, row.gateway.as_deref()));
    facts.extend(inner.into_iter().flat_map(|inner| gateways::inner_ended_lines(app, row, inner)));
    facts
}

/// A client's open sessions, one per line.
fn client_lines(app: &App, shown: &Snapshot) -> Option<Vec<DetailLine>> {
    let fact = |about, text| fact(app, about, text);
    let row = app.lists().clients.find(app.selected_client()?)?;
    let services: Vec<_> = row.services.iter().map(String::as_str).collect();
    let of_session = |row: &SessionRow| {
        let rates = [row.rate_up, row.rate_down].map(format::amount);
        let (age, phase) = (format::age(row.age_seconds), phase_word(row.phase));
        let [up, down] = rates;
        format!("{age:>6} {up:>6} {down:>6} {:<9} {} {phase}", row.id, row.service)
    };
    let mut facts = vec![
        fact("client", app.addresses().client(&row.client)),
        fact("sessions", format!("{} that pass the filter, {} of them waiting", row.sessions, row.waiting)),
        fact("services", services.join(", ")),
        fact("up", moved(row.bytes_up, row.rate_up)),
        fact("down", moved(row.bytes_down, row.rate_down)),
        DetailLine {
            style: app.style.theme.title,
            ..fact("open", "   AGE   UP/S DOWN/S ID        SERVICE, PHASE".into())
        },
    ];
    let sessions = clients::sessions_of(app.session_order(), shown, &row.client);
    facts.extend(sessions.take(CLIENT_SESSIONS_MAX).map(|row| fact("", of_session(row))));
    let rest = row.sessions.saturating_sub(CLIENT_SESSIONS_MAX as u64);
    facts.extend((rest > 0).then(|| fact("", format!("and {rest} more"))));
    Some(facts)
}

fn failure_lines(app: &App, row: &FailureRow) -> Vec<DetailLine> {
    let fact = |about, text| fact(app, about, text);
    let addresses = app.addresses();
    let code = end::explain_code(&row.end).unwrap_or_default();
    let mut facts: Vec<_> = gateway_line(app, row.gateway.as_deref()).into_iter().collect();
    facts.extend([
        fact("service", format!("{} in the {} half", row.service, half_word(row.half))),
        DetailLine {
            style: sessions::end_style(app, &row.end),
            ..fact("end", format!("{} {code}", row.end))
        },
        fact("reason", addresses.text(&row.reason)),
        fact("sessions", format!("{} have failed so since the gateway began", row.count)),
        fact("first", row.first.clone()),
        fact("last", format!("{}, {} ago", row.last, format::span(row.ago_seconds))),
        fact("example", format!("the last was session {}", row.session)),
        fact("client", addresses.client(&row.client)),
        fact("peer", addresses.text(row.peer.as_deref().unwrap_or("-"))),
    ]);
    facts
}

/// The gateway that carries a session on, and what is known about the links to it.
fn peer_lines(app: &App, shown: &Snapshot, row: &SessionRow) -> Vec<DetailLine> {
    let Some(peer) = row.peer.as_deref() else {
        let none = || fact(app, "peer", "none yet".into());
        return (shown.mode != Mode::Direct).then(none).into_iter().collect();
    };
    let is_its = |pool: &&PoolRow| pool.gateway == row.gateway && pool.peer.as_deref() == Some(peer);
    let pool = shown.pools.iter().find(is_its);
    let address =
        pool.and_then(|pool| pool.address.clone()).map(|at| format!(" at {at}")).unwrap_or_default();
    let protocol = pool
        .and_then(|pool| pool.protocol.clone())
        .map(|name| format!(", speaks {name}"))
        .unwrap_or_default();
    let mut facts = vec![fact(app, "peer", app.addresses().text(&format!("{peer}{address}{protocol}")))];
    facts.extend(pool.and_then(|pool| certificate(app, pool)));
    facts
}

/// How long the peer's certificate is still valid; if it ends soon, as a problem.
fn certificate(app: &App, pool: &PoolRow) -> Option<DetailLine> {
    let days = pool.certificate_days?;
    let name = pool.peer.as_deref().unwrap_or("-");
    let text = match days {
        ..0 => format!("of {name}: it has expired"),
        0 => format!("of {name}: expires today"),
        _ => format!("of {name}: good for {days} more days"),
    };
    let style = if days < CERTIFICATE_SOON_DAYS { app.style.theme.warn } else { app.style.theme.plain };
    Some(DetailLine { style, ..fact(app, "certificate", app.addresses().text(&text)) })
}

/// How many of the gateways that may serve a service are there; those that are missing, by name.
fn peers(app: &App, row: &ServiceRow) -> Option<DetailLine> {
    let serving = |pool: &&PoolRow| pool.half == row.half && pool.may_serve(&row.name);
    let pools = || app.snapshot().pools.iter().filter(serving);
    let PeerCounts { linked, known, .. } = count_peers_of(pools());
    let removed = pools().filter_map(|pool| {
        let name = pool.peer.as_deref().or(pool.address.as_deref())?;
        Some(format!("{name} gone for {}", format::whole_span(pool.gone_seconds?)))
    });
    let mut text = format!("{linked} of {known} linked");
    removed.for_each(|removed| text.push_str(&format!("; {removed}")));
    (known > 0).then(|| fact(app, "peers", app.addresses().text(&text)))
}

fn backend_line(app: &App, row: &BackendRow) -> DetailLine {
    let theme = app.style.theme;
    let style = match row.state {
        BackendRowState::Up => theme.good,
        BackendRowState::Standby => theme.plain,
        BackendRowState::Down | BackendRowState::Resting => theme.warn,
    };
    let is_down = matches!(row.state, BackendRowState::Down | BackendRowState::Resting);
    let error = row.last_error.as_ref().filter(|_| is_down);
    let error = error.map_or_else(String::new, |error| format!(": {error}"));
    let of_name = row.name.as_ref().map(|name| format!(" of {name}")).unwrap_or_default();
    let text = format!(
        "{}{of_name} {}, {} open, {} in all, {} failed{error}",
        row.address,
        row.state.label(),
        row.sessions_open,
        row.sessions,
        row.failures
    );
    DetailLine { style, ..fact(app, "backend", app.addresses().text(&text)) }
}

fn service_lines(app: &App, row: &ServiceRow) -> Vec<DetailLine> {
    let fact = |about, text| fact(app, about, text);
    let addresses = app.addresses();
    let samples = traffic::of_service(app, row);
    let now = samples.last().map(|(_, sample)| *sample).unwrap_or_default();
    let peak = |rate: fn(&crate::telemetry::snapshot::TrafficSample) -> u64| {
        samples.iter().map(|(_, sample)| rate(sample)).max().unwrap_or(0)
    };
    let totals = &row.totals;
    let peers = peers(app, row);
    let direction = |bytes, now, peak| {
        if samples.is_empty() {
            return format!("{} in all, not watched long enough for a rate", format::bytes(bytes));
        }
        format!(
            "{} now, at most {} in the {}, {} in all",
            format::rate(now),
            format::rate(peak),
            app.window().words(),
            format::bytes(bytes)
        )
    };
    let mut facts: Vec<_> = gateway_line(app, row.gateway.as_deref()).into_iter().collect();
    facts.extend([
        fact("service", format!("{} in the {} half", row.name, half_word(row.half))),
        match &row.lack {
            Some(lack) => DetailLine {
                style: alert::style(&app.style, lack.kind.severity()),
                ..fact("state", addresses.text(&format!("{}: {}", lack.kind.label(), lack.why)))
            },
            None => fact("state", format!("{:?}", row.phase).to_lowercase()),
        },
        fact(
            "clients at",
            match row.accept.as_slice() {
                [] => "the other half's ports".into(),
                accept => addresses.text(&accept.join(" ")),
            },
        ),
        fact("goes to", addresses.text(row.connect.as_deref().unwrap_or("a link to the other half"))),
    ]);
    let is_shown = |backend: &&BackendRow| row.backends.len() > 1 || backend.name.is_some();
    facts.extend(row.backends.iter().filter(is_shown).map(|row| backend_line(app, row)));
    facts.extend(peers);
    facts.extend([
        fact(
            "sessions",
            format!(
                "{} open, {} waiting, {} in all, {} refused",
                totals.sessions_open, totals.sessions_waiting, totals.sessions, totals.refused
            ),
        ),
        fact("up", direction(totals.bytes_up, now.up, peak(|sample| sample.up))),
        fact("down", direction(totals.bytes_down, now.down, peak(|sample| sample.down))),
    ]);
    facts
}

fn event_lines(app: &App) -> Option<Vec<DetailLine>> {
    let key = &app.detail()?.key;
    let notice = lists::notices(app.snapshot()).find(|notice| lists::notice_key(notice) == *key)?;
    let mut facts: Vec<_> = gateway_line(app, notice.gateway.as_deref()).into_iter().collect();
    facts.extend([
        fact(app, "time", notice.time.clone()),
        fact(app, "level", format!("{:?}", notice.level).to_lowercase()),
        fact(app, "text", app.addresses().text(&notice.text)),
    ]);
    Some(facts)
}

fn profile_lines(app: &App) -> Option<Vec<DetailLine>> {
    let key = &app.detail()?.key;
    let row = app.profiles().iter().find(|row| row.name == *key)?;
    let halves: Vec<_> = row.halves.iter().map(|&half| half_label(half)).collect();
    let mut facts = vec![
        fact(app, "profile", format!("{}{}", row.name, if row.is_current { ", runs now" } else { "" })),
        fact(app, "file", row.file.clone().unwrap_or("built in".into())),
        fact(app, "mode", row.mode.map_or("unknown, it does not read", mode_word).to_lowercase()),
        fact(app, "halves", halves.join(", ")),
        fact(app, "services", row.services.join(", ")),
        fact(app, "problems", row.problems.len().to_string()),
    ];
    facts.extend(profiles::problem_lines(row).into_iter().map(|line| {
        let is_text = !line.starts_with(' ');
        DetailLine {
            style: if is_text { app.style.theme.warn } else { app.style.theme.plain },
            ..fact(app, "", line)
        }
    }));
    Some(facts)
}

/// The time that a replacement may take.
const CERTIFICATE_SOON_DAYS: i64 = 30;
const ABOUT_CELLS: u16 = 12;
/// How many sessions of a client are listed; more can be found with the filter.
const CLIENT_SESSIONS_MAX: usize = 400;
const TEXT_CHARS: usize = 600;
