//! The gateway in one line: for screens too small for a list, and as the list's status line.

use ratatui::{buffer::Buffer, layout::Rect};

use crate::{
    profile::Mode,
    tui::{
        app::{App, Freshness, Overlay},
        format, keys, progress,
        view::{confirmation, footer, header, panel, pool, sessions, table, tabs, typing},
    },
};

/// As much as fits: a question, an answer, or the health.
pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let (text, style) = match (app.overlay(), app.status_message()) {
        (Overlay::AskQuit | Overlay::Ask { .. } | Overlay::Help { .. }, _) => {
            (keys_and_question(app, area.width), app.style.theme.attention)
        }
        (Overlay::Typing(line), _) => return typing::draw(app, line, area, buffer),
        (Overlay::Nothing, Some(message)) => footer::answer(app, message),
        (Overlay::Nothing, None) if app.is_outdated() => (status_with_health(app), app.style.theme.faint),
        (Overlay::Nothing, None) => {
            (status_with_health(app), header::health_style(&app.style, app.snapshot()))
        }
    };
    table::write(&table::cut(&app.style, &text, area.width), style, area, buffer);
}

pub fn draw_status(app: &App, area: Rect, buffer: &mut Buffer) {
    let inside = panel::margin(area);
    let mut text = app.screen().name().to_lowercase();
    match sessions::listed(app) {
        Some(listed) if app.screen().lists_sessions() => {
            text.push_str(&format!(", {listed} pass, {}", tabs::listed(app)));
        }
        _ => text.push_str(&format!(": {}", status(app))),
    }
    if app.snapshot().mode == Mode::Reverse {
        text.push_str(&format!(", {}", pool::ready(app.snapshot())));
    }
    table::write(&table::cut(&app.style, &text, inside.width), app.style.theme.plain, inside, buffer);
}

/// Keys first, because they must not be cut off. What does not fit beside them is shown a line at a time.
fn keys_and_question(app: &App, width: u16) -> String {
    let keys = keys::bindings_in(app.context()).filter_map(|binding| {
        let key = binding.keys.first()?.name(&app.style.symbols);
        Some(format!("{key} {}", binding.hint?))
    });
    let keys = keys.collect::<Vec<_>>().join(", ");
    let space = width.saturating_sub(table::width(&keys) + 1);
    let text = confirmation::text(app);
    let lines = confirmation::all_lines(app, space.saturating_sub(PLACE_CELLS));
    let is_whole = table::width(&text) <= space && lines.len() < 2;
    if is_whole || space < PLACE_CELLS * 2 {
        return format!("{keys} {text}").trim_end().into();
    }
    let index = confirmation::scroll(app).min(lines.len().saturating_sub(1));
    let line = lines.get(index).map_or("", String::as_str);
    format!("{keys} {}/{} {line}", index + 1, lines.len())
}

fn status(app: &App) -> String {
    let snapshot = app.snapshot();
    let sample = snapshot.traffic.last();
    let (up, down) = match sample {
        Some(sample) => (format::rate(sample.up), format::rate(sample.down)),
        None => ("-".into(), "-".into()),
    };
    format!("{} open, up {up}, down {down}", snapshot.totals.sessions_open)
}

/// The health, after anything that makes it less than current.
fn status_with_health(app: &App) -> String {
    let text = format!("{} {}", header::health_word(app.snapshot()), status(app));
    match app.freshness() {
        Freshness::Live => text,
        Freshness::Frozen { seconds, .. } => format!("FROZEN {} {text}", format::age(seconds)),
        Freshness::Replay(progress) => format!("{} {text}", progress::describe_progress(&progress)),
        Freshness::Lost { seconds } => format!("LOST {} {}", format::span(seconds as f64), status(app)),
        Freshness::Stale { seconds } => format!("STALE {} {text}", format::span(seconds as f64)),
    }
}

/// The number of a line of a question, and of how many: `12/24`, and a space.
const PLACE_CELLS: u16 = 6;
