//! The second line: the worst problem, and how many there are.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use crate::{
    profile::Mode,
    telemetry::{
        health::{Alert, Severity},
        snapshot::{GatewayPhase, Snapshot},
    },
    tui::{
        alerts::{self, AlertGroup},
        app::App,
        format, progress,
        source::Attachment,
        style::ScreenStyle,
        view::table,
    },
};

pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let inner = Rect { x: area.x.saturating_add(1), width: area.width.saturating_sub(2), ..area };
    let (text, style) = line(app, inner.width);
    table::write(&table::cut(&app.style, &text, inner.width), style, inner, buffer);
}

/// Without problems: where peers find this gateway.
fn line(app: &App, width: u16) -> (String, Style) {
    let (screen_style, snapshot) = (&app.style, app.snapshot());
    if let Some(why) = app.lost_reason() {
        let text = format!("{} gateway lost, calling it again: {why}", screen_style.symbols.alert);
        return (screen_style.text(&text, TEXT_CHARS), screen_style.theme.bad);
    }
    if let Attachment::Replay(progress) = app.attachment()
        && let Some(gap) = progress::describe_gap(progress)
    {
        return (format!("{} {gap}", screen_style.symbols.alert), screen_style.theme.warn);
    }
    let alerts = alerts::group_alerts(snapshot);
    let at = app.alert() % alerts.len().max(1);
    if let Some(&AlertGroup { alert: worst, count: alike }) = alerts.get(at) {
        let age = age(snapshot, worst);
        let of = match (alerts.len(), age) {
            (1, None) => String::new(),
            (1, Some(age)) => format!("{age}: "),
            (count, None) if width < LABEL_CELLS_MIN => format!("{}/{count} ", at + 1),
            (count, Some(age)) if width < LABEL_CELLS_MIN => format!("{}/{count} {age}: ", at + 1),
            (count, None) => format!("{} of {count}, ! next: ", at + 1),
            (count, Some(age)) => format!("{} of {count}, ! next, {age}: ", at + 1),
        };
        let text = app.addresses().text(&worst.text);
        let alike = if alike > 1 { format!("{alike} alike, ") } else { String::new() };
        let text =
            format!("{} {of}{alike}{}", screen_style.symbols.alert, screen_style.text(&text, TEXT_CHARS));
        return (text, style(screen_style, worst.kind.severity()));
    }
    let state = match snapshot.phase {
        GatewayPhase::Starting => "starting",
        GatewayPhase::Running if snapshot.mode == Mode::Direct => "no links: sessions go to their backends",
        GatewayPhase::Running => "links are well",
        GatewayPhase::Draining => "draining: no new sessions, open sessions continue",
        GatewayPhase::Stopped => "stopped",
    };
    let text = match snapshot.listening.as_slice() {
        [] => state.to_owned(),
        listening => format!("{state}; links come in at {}", listening.join(", ")),
    };
    let text = app.addresses().text(&text);
    (screen_style.text(&text, TEXT_CHARS), screen_style.theme.faint)
}

/// How long it has lasted; nothing for a new one.
fn age(snapshot: &Snapshot, alert: &Alert) -> Option<String> {
    let now = humantime::parse_rfc3339(&snapshot.time).ok()?;
    let since = humantime::parse_rfc3339(&alert.since).ok()?;
    let seconds = now.duration_since(since).ok()?.as_secs_f64();
    (seconds >= 1.0).then(|| format::whole_span(seconds))
}

pub fn style(screen_style: &ScreenStyle, severity: Severity) -> Style {
    match severity {
        Severity::Fine => screen_style.theme.plain,
        Severity::Short | Severity::Starved => screen_style.theme.warn,
        Severity::Lost => screen_style.theme.bad,
    }
}

/// A narrower line has no room for words about the number.
const LABEL_CELLS_MIN: u16 = 57;
const TEXT_CHARS: usize = 300;
