//! The first line: which gateway this is, how it is, and how current the screen is. It is the one line that stays at
//! every size, so it says the worst first.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use crate::{
    gateway::handle::AdminAccess,
    profile::{Half, Mode},
    telemetry::{
        health::Health,
        snapshot::{GatewayPhase, GatewayReach, GatewayRow, Snapshot},
    },
    tui::{
        app::{App, Freshness},
        format,
        health::{PeerCounts, count_peers},
        progress,
        source::Attachment,
        style::ScreenStyle,
        view::table,
    },
};

/// A part of the line; if it is too narrow, parts with the highest rank are dropped first.
struct HeaderPart {
    rank: u8,
    text: String,
    style: Style,
}

pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let (screen_style, snapshot) = (&app.style, app.snapshot());
    let mut left = parts_left(app, snapshot);
    let mut right: Vec<_> = descriptors(screen_style, snapshot).into_iter().collect();
    right.extend(place_and_time(app, snapshot));
    if let Attachment::Attached(AdminAccess::ReadOnly, _) | Attachment::Fleet(AdminAccess::ReadOnly) =
        app.attachment()
    {
        right.push(HeaderPart { rank: 1, text: "READ-ONLY".into(), style: screen_style.theme.warn });
    }
    right.extend(snapshot.recording.as_ref().map(|recording| HeaderPart {
        rank: 3,
        text: if recording.trouble.is_some() { "REC FAILS".into() } else { "REC".into() },
        style: if recording.trouble.is_some() {
            screen_style.theme.bad
        } else {
            screen_style.theme.attention
        },
    }));
    right.push(freshness(app));
    let gap = screen_style.symbols.separator;
    while total(&left) + total(&right) + 2 > usize::from(area.width) {
        let Some(worst) = left.iter().chain(&right).map(|part| part.rank).max().filter(|&rank| rank > 0)
        else {
            break;
        };
        left.retain(|part| part.rank < worst);
        right.retain(|part| part.rank < worst);
    }
    let inner = Rect { x: area.x.saturating_add(1), width: area.width.saturating_sub(2), ..area };
    draw_parts(screen_style, &left, gap, inner, buffer);
    let width =
        u16::try_from(total(&right).saturating_sub(SEPARATOR_CELLS)).unwrap_or(u16::MAX).min(inner.width);
    let rect = Rect { x: inner.x + inner.width - width, width, ..inner };
    draw_parts(screen_style, &right, gap, rect, buffer);
}

fn parts_left(app: &App, snapshot: &Snapshot) -> Vec<HeaderPart> {
    let (screen_style, theme) = (&app.style, app.style.theme);
    let member = chosen_member(app, snapshot);
    let profile = screen_style.text(&snapshot.profile, PROFILE_CHARS);
    let (profile, halves, uptime_seconds) = match member {
        None => (with_mode(&profile, snapshot.mode), &*snapshot.halves, Some(snapshot.uptime_seconds)),
        Some(GatewayRow { heard: Some(facts), .. }) => {
            (with_mode(&profile, facts.mode), &*facts.halves, Some(facts.uptime_seconds))
        }
        Some(GatewayRow { heard: None, .. }) => (profile, &[][..], None),
    };
    let halves: Vec<_> = halves.iter().map(|&half| half_label(half)).collect();
    let mut parts = vec![
        HeaderPart { rank: 8, text: "portcullis".into(), style: theme.accent },
        HeaderPart { rank: 2, text: profile, style: theme.title },
        HeaderPart { rank: 7, text: halves.join("+"), style: theme.plain },
        health_part(app, snapshot),
    ];
    // One that is lost is not running as far as anybody knows; that it had stopped is known.
    if app.lost_reason().is_none() || snapshot.phase == GatewayPhase::Stopped {
        let absence = member.and_then(|row| absence(screen_style, row));
        parts.push(absence.unwrap_or_else(|| phase(screen_style, snapshot.phase)));
    }
    parts.retain(|part| !part.text.is_empty());
    if snapshot.confined.values().any(Option::is_some) {
        parts.push(HeaderPart { rank: 7, text: "locked".into(), style: theme.good });
    }
    if snapshot.mode != Mode::Direct && !app.is_fleet() {
        let PeerCounts { linked, known, gone_seconds } = count_peers(snapshot);
        let style = if linked < known { theme.warn } else { theme.plain };
        parts.push(HeaderPart { rank: 5, text: format!("peers {linked}/{known}"), style });
        let away = gone_seconds.filter(|_| linked < known);
        parts.extend(away.map(|seconds| HeaderPart {
            rank: 7,
            text: format!("gone {}", format::whole_span(seconds)),
            style,
        }));
    }
    parts.extend(uptime_seconds.map(|seconds| HeaderPart {
        rank: 6,
        text: format!("up {}", format::age(seconds)),
        style: theme.plain,
    }));
    if app.is_outdated() {
        // These values are from before the gateway was lost, so they are faded; its name and the
        // word for its state are not.
        parts.iter_mut().filter(|part| part.rank > 2).for_each(|part| part.style = theme.faint);
    }
    parts
}

fn with_mode(profile: &str, mode: Mode) -> String {
    format!("{profile} [{}]", mode_word(mode))
}

/// The only gateway of a fleet that is shown.
fn chosen_member<'a>(app: &App, snapshot: &'a Snapshot) -> Option<&'a GatewayRow> {
    let name = app.scope()?;
    snapshot.gateways.iter().find(|row| row.name == *name)
}

/// What stands for the phase of a gateway whose snapshots do not arrive.
fn absence(screen_style: &ScreenStyle, row: &GatewayRow) -> Option<HeaderPart> {
    let theme = screen_style.theme;
    let (text, style) = match row.reach {
        GatewayReach::Reached => return None,
        GatewayReach::Calling => ("calling", theme.plain),
        GatewayReach::Stopped => ("STOPPED", theme.plain),
        GatewayReach::Silent => ("SILENT", theme.warn),
        GatewayReach::Unreachable => ("UNREACHABLE", theme.bad),
    };
    Some(HeaderPart { rank: 1, text: text.into(), style })
}

/// Nothing is known about a gateway that is away, or says nothing.
fn health_part(app: &App, snapshot: &Snapshot) -> HeaderPart {
    let screen_style = &app.style;
    if app.lost_reason().is_some() {
        return HeaderPart {
            rank: 0,
            text: format!("{} LOST", screen_style.symbols.health),
            style: screen_style.theme.bad,
        };
    }
    let (word, style) = match app.is_outdated() {
        true => ("SILENT", screen_style.theme.warn),
        false => (health_word(snapshot), health_style(screen_style, snapshot)),
    };
    HeaderPart { rank: 0, text: format!("{} {word}", screen_style.symbols.health), style }
}

pub fn health_word(snapshot: &Snapshot) -> &'static str {
    snapshot.health.map_or("UNKNOWN", Health::label)
}

pub fn health_style(screen_style: &ScreenStyle, snapshot: &Snapshot) -> Style {
    match snapshot.health {
        Some(Health::Healthy) => screen_style.theme.good,
        Some(Health::Degraded) => screen_style.theme.warn,
        Some(Health::Full | Health::Down) => screen_style.theme.bad,
        None => screen_style.theme.faint,
    }
}

fn phase(screen_style: &ScreenStyle, phase: GatewayPhase) -> HeaderPart {
    let theme = screen_style.theme;
    let (rank, text, style) = match phase {
        GatewayPhase::Starting => (3, "STARTING", theme.warn),
        GatewayPhase::Running => (7, "running", theme.plain),
        GatewayPhase::Draining => (1, "DRAINING", theme.attention),
        GatewayPhase::Stopped => (1, "STOPPED", theme.bad),
    };
    HeaderPart { rank, text: text.into(), style }
}

/// Where and when the snapshot was made, since several screens may be side by side.
fn place_and_time(app: &App, snapshot: &Snapshot) -> impl Iterator<Item = HeaderPart> {
    let theme = app.style.theme;
    let style = if app.is_outdated() { theme.faint } else { theme.plain };
    let host = snapshot.host.split('.').next().filter(|host| !host.is_empty());
    let host = host.map(|host| HeaderPart { rank: 4, text: app.style.text(host, HOST_CHARS), style });
    // A replay shows its time anyway.
    let is_replay = matches!(app.attachment(), Attachment::Replay(_));
    let clock = snapshot.time.get(11..19).filter(|_| !is_replay);
    let clock =
        clock.map(|clock| HeaderPart { rank: 3, text: format!("{}Z", app.style.text(clock, 8)), style });
    host.into_iter().chain(clock)
}

/// The descriptors of this process; a fleet has none of its own.
fn descriptors(screen_style: &ScreenStyle, snapshot: &Snapshot) -> Option<HeaderPart> {
    let text = format!("fd {}/{}", snapshot.descriptors.used, snapshot.descriptors.limit);
    let part = HeaderPart { rank: 9, text, style: screen_style.theme.faint };
    snapshot.gateways.is_empty().then_some(part)
}

fn freshness(app: &App) -> HeaderPart {
    let theme = app.style.theme;
    let (text, style) = match app.freshness() {
        Freshness::Live => ("LIVE".into(), theme.plain),
        Freshness::Frozen { seconds, changes } => {
            (format!("FROZEN {} (+{changes} changes)", format::age(seconds)), theme.attention)
        }
        Freshness::Replay(progress) => (progress::describe_progress(&progress), theme.attention),
        Freshness::Lost { seconds } => (format!("LOST {}", format::span(seconds as f64)), theme.attention),
        Freshness::Stale { seconds } => (format!("STALE {}", format::span(seconds as f64)), theme.attention),
    };
    HeaderPart { rank: 1, text, style }
}

pub fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Direct => "DIRECT",
        Mode::Forward => "FORWARD",
        Mode::Reverse => "REVERSE",
    }
}

pub fn half_label(half: Half) -> &'static str {
    match half {
        Half::Dmz => "dmz",
        Half::Internal => "internal",
    }
}

fn total(parts: &[HeaderPart]) -> usize {
    parts.iter().map(|part| usize::from(table::width(&part.text)) + SEPARATOR_CELLS).sum()
}

fn draw_parts(screen_style: &ScreenStyle, parts: &[HeaderPart], gap: &str, area: Rect, buffer: &mut Buffer) {
    let mut rest = area;
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            rest = advance(gap, screen_style.theme.faint, rest, buffer);
        }
        rest = advance(&part.text, part.style, rest, buffer);
    }
}

/// Writes the text, and moves past it and one more cell.
fn advance(text: &str, style: Style, area: Rect, buffer: &mut Buffer) -> Rect {
    table::write(text, style, area, buffer);
    let step = table::width(text).saturating_add(1).min(area.width);
    Rect { x: area.x + step, width: area.width - step, ..area }
}

/// A name may have 255 bytes; here it only has to be recognised.
const HOST_CHARS: usize = 16;
const PROFILE_CHARS: usize = 24;
const SEPARATOR_CELLS: usize = 3;
