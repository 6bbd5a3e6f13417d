//! The second line: the worst trouble, and how many there are.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use crate::{
    profile::Mode,
    telemetry::snapshot::GatewayPhase,
    tui::{
        app::App,
        health::{Severity, troubles},
        look::Look,
        progress,
        source::Standing,
        view::table,
    },
};

pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let inner = Rect { x: area.x.saturating_add(1), width: area.width.saturating_sub(2), ..area };
    let (text, style) = line(app, inner.width);
    table::write(&table::cut(&app.look, &text, inner.width), style, inner, buffer);
}

/// Without trouble, where peers find this gateway.
fn line(app: &App, width: u16) -> (String, Style) {
    let (look, snapshot) = (&app.look, app.snapshot());
    if let Some(why) = app.lost() {
        let text = format!("{} gateway lost, calling it again: {why}", look.symbols.alert);
        return (look.text(&text, TEXT_CHARS), look.theme.bad);
    }
    if let Standing::Replay(progress) = app.standing()
        && let Some(gap) = progress::gap(progress)
    {
        return (format!("{} {gap}", look.symbols.alert), look.theme.warn);
    }
    let troubles = troubles(snapshot);
    let at = app.alert() % troubles.len().max(1);
    if let Some(worst) = troubles.get(at) {
        let of = match troubles.len() {
            1 => String::new(),
            count if width < WORDS_CELLS_MIN => format!("{}/{count} ", at + 1),
            count => format!("{} of {count}, ! next: ", at + 1),
        };
        let text = app.addresses().text(&worst.text);
        let text = format!("{} {of}{}", look.symbols.alert, look.text(&text, TEXT_CHARS));
        return (text, style(look, worst.severity));
    }
    let state = match snapshot.phase {
        GatewayPhase::Starting => "starting",
        GatewayPhase::Running if snapshot.mode == Mode::Direct => "no links: sessions go to their backends",
        GatewayPhase::Running => "links are well",
        GatewayPhase::Draining => "draining: no new sessions, those open go on",
        GatewayPhase::Stopped => "stopped",
    };
    let text = match snapshot.listening.as_slice() {
        [] => state.to_owned(),
        listening => format!("{state}; links come in at {}", listening.join(", ")),
    };
    let text = app.addresses().text(&text);
    (look.text(&text, TEXT_CHARS), look.theme.faint)
}

pub fn style(look: &Look, severity: Severity) -> Style {
    match severity {
        Severity::Fine => look.theme.plain,
        Severity::Short | Severity::Starved => look.theme.warn,
        Severity::Lost => look.theme.bad,
    }
}

/// Less has no room for words about the number.
const WORDS_CELLS_MIN: u16 = 57;
const TEXT_CHARS: usize = 300;
