//! The screen: a pure function of [`App`].
//!
//! ```text
//! full, from 120x36             compact, from 80x24        list, from 60x15
//! ┌───────────────────────┐     ┌──────────────────┐       ┌─────────────┐
//! │ header                │     │ header           │       │ header      │
//! │ screens               │     │ screens          │       │ alert       │
//! │ alert                 │     │ alert            │       │             │
//! │                       │     │                  │       │ one list    │
//! │ the screen            │     │ the screen       │       │             │
//! │                       │     │                  │       │ status      │
//! │ footer                │     │ footer           │       │ footer      │
//! └───────────────────────┘     └──────────────────┘       └─────────────┘
//! ```
//!
//! On smaller screens, header and alert stay, with what fits of the list and the footer; below 24x3 there is
//! one line. The overview shows the links, or in direct mode the services, then the sessions, the traffic and
//! the last events. The other screens show one list in full. Help and questions cover the panels; on a single
//! line they replace it.
//!
//! The files here use each other: they share lines and cells.

mod alert;
mod bars;
mod clients;
mod confirmation;
mod detail;
mod doctor;
mod events;
mod failures;
mod footer;
mod gateways;
mod header;
mod help;
mod history;
mod hit_test;
mod legend;
mod one_line;
mod panel;
mod past_rows;
mod path;
mod pool;
mod profiles;
mod services;
mod sessions;
mod table;
mod tabs;
mod traffic;
mod typing;
mod wires;

pub use hit_test::{HitTarget, hit_test};

use ratatui::{
    Frame,
    buffer::Buffer,
    layout::{Constraint, Layout, Rect},
    widgets::{Clear, Widget},
};

use crate::{
    profile::Mode,
    tui::{
        app::{App, Overlay},
        screen::Screen,
    },
};

/// How much room the screen has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LayoutSize {
    Full,
    Compact,
    List,
    Small,
    Line,
}

/// Draws the whole screen; every size works, even an empty one.
pub fn draw(frame: &mut Frame, app: &App) {
    let area = frame.area();
    let buffer = frame.buffer_mut();
    match size(area) {
        LayoutSize::Full => draw_full(app, area, buffer),
        LayoutSize::Compact => draw_compact(app, area, buffer),
        LayoutSize::List => draw_list(app, area, buffer),
        LayoutSize::Small => return draw_small(app, area, buffer),
        LayoutSize::Line => return one_line::draw(app, table::line(area, 0), buffer),
    }
    note_time(app, area, buffer);
    fade_outdated(app, body(area), buffer);
    draw_over(app, area, buffer);
}

/// While the cursor of the history is in the past, the tables still show now: only a recording has them for every
/// time. Their frame says so.
fn note_time(app: &App, area: Rect, buffer: &mut Buffer) {
    let has_frame = match size(area) {
        LayoutSize::Full => true,
        // The last lines of the compact overview are events.
        LayoutSize::Compact => app.screen() != Screen::Overview || app.detail().is_some(),
        LayoutSize::List | LayoutSize::Small | LayoutSize::Line => false,
    };
    let Some(at) = app.history_cursor().filter(|_| has_frame && !app.is_replay()) else { return };
    if app.screen() != Screen::History {
        let body = body(area);
        let line = table::line(body, body.height.saturating_sub(1));
        let index = Rect { x: line.x + 2, width: line.width.saturating_sub(4), ..line };
        let note = format!(" this is now; the cursor of H is at {} ", history::time(at));
        table::write(&note, app.style.theme.attention, index, buffer);
    }
}

/// What covers the panels.
fn draw_over(app: &App, area: Rect, buffer: &mut Buffer) {
    match app.overlay() {
        Overlay::Nothing => {
            let above = Rect { height: area.height.saturating_sub(1), ..area };
            footer::draw_long_answer(app, above, buffer);
        }
        Overlay::Typing(line) => {
            let above = Rect { height: area.height.saturating_sub(1), ..area };
            typing::draw_suggestions(app, line, above, buffer);
        }
        Overlay::Help { page, scroll } => help::draw(app, *page, *scroll, area, buffer),
        Overlay::AskQuit | Overlay::Ask { .. } => confirmation::draw(app, area, buffer),
    }
}

fn size(area: Rect) -> LayoutSize {
    let fits = |width, height| area.width >= width && area.height >= height;
    if fits(120, 36) {
        LayoutSize::Full
    } else if fits(80, 24) {
        LayoutSize::Compact
    } else if fits(60, 15) {
        LayoutSize::List
    } else if fits(24, 3) {
        LayoutSize::Small
    } else {
        LayoutSize::Line
    }
}

/// Fades an outdated screen: header and alert must not be beside one that looks healthy.
fn fade_outdated(app: &App, area: Rect, buffer: &mut Buffer) {
    if app.is_outdated() {
        panel::fade(&app.style, area, buffer);
    }
}

/// The area between the top and the bottom lines.
fn body(area: Rect) -> Rect {
    match size(area) {
        LayoutSize::Full | LayoutSize::Compact => edges(area)[3],
        LayoutSize::List => list_edges(area)[2].union(list_edges(area)[3]),
        LayoutSize::Small => small_edges(area)[2],
        LayoutSize::Line => Rect::ZERO,
    }
}

fn draw_full(app: &App, area: Rect, buffer: &mut Buffer) {
    let body = draw_edges(app, area, buffer);
    if app.detail().is_some() || app.screen() != Screen::Overview {
        return draw_screen(app, body, buffer);
    }
    let [links_area, sessions, bottom] = full_overview(app, area, body);
    let [traffic, events] =
        Layout::horizontal([Constraint::Percentage(38), Constraint::Min(0)]).areas(bottom);
    draw_links(app, links_area, buffer);
    sessions::draw_panel(app, sessions, buffer);
    traffic::draw_panel(app, traffic, buffer);
    events::draw_panel(app, events, buffer);
}

fn draw_compact(app: &App, area: Rect, buffer: &mut Buffer) {
    let body = draw_edges(app, area, buffer);
    if app.detail().is_some() || app.screen() != Screen::Overview {
        return draw_screen(app, body, buffer);
    }
    let [links_area, traffic, sessions, events] = compact_overview(app, area, body);
    draw_links(app, links_area, buffer);
    traffic::draw_line(app, traffic, buffer);
    sessions::draw_panel(app, sessions, buffer);
    events::draw_lines(app, events, buffer);
}

/// Draws the top and bottom lines of every screen; returns the area between them.
fn draw_edges(app: &App, area: Rect, buffer: &mut Buffer) -> Rect {
    let [header, tabs, alert, body, footer] = edges(area);
    header::draw(app, header, buffer);
    tabs::draw(app, tabs, buffer);
    alert::draw(app, alert, buffer);
    footer::draw(app, footer, buffer);
    body
}

fn draw_screen(app: &App, area: Rect, buffer: &mut Buffer) {
    match app.screen() {
        _ if app.detail().is_some() => detail::draw_panel(app, area, buffer),
        Screen::Overview | Screen::Sessions => sessions::draw_panel(app, area, buffer),
        Screen::Pool if app.snapshot().mode != Mode::Direct => pool::draw_screen(app, area, buffer),
        Screen::Pool | Screen::Services => services::draw_screen(app, area, buffer),
        Screen::Events => events::draw_screen(app, area, buffer),
        Screen::Profiles => profiles::draw_panel(app, area, buffer),
        Screen::Failures => failures::draw_screen(app, area, buffer),
        Screen::Gateways => gateways::draw_screen(app, area, buffer),
        Screen::Path => path::draw_screen(app, area, buffer),
        Screen::Doctor => doctor::draw_screen(app, area, buffer),
        Screen::History => history::draw_screen(app, area, buffer),
    }
}

fn draw_list(app: &App, area: Rect, buffer: &mut Buffer) {
    let [header, alert, list, status, footer] = list_edges(area);
    header::draw(app, header, buffer);
    alert::draw(app, alert, buffer);
    draw_rows(app, list, buffer);
    one_line::draw_status(app, status, buffer);
    footer::draw(app, footer, buffer);
}

/// The list of the screen without a frame.
fn draw_rows(app: &App, list: Rect, buffer: &mut Buffer) {
    let within = panel::margin(list);
    match app.screen() {
        _ if app.detail().is_some() => detail::draw_list(app, within, buffer),
        Screen::Overview => {
            let [gateways, sessions] = small_overview(app, list);
            gateways::draw_short(app, panel::margin(gateways), buffer);
            sessions::draw_list(app, sessions, buffer);
        }
        Screen::Sessions => sessions::draw_list(app, list, buffer),
        Screen::Pool if app.snapshot().mode != Mode::Direct => pool::draw_list(app, within, buffer),
        Screen::Pool | Screen::Services => services::draw_list(app, within, buffer),
        Screen::Events => events::draw_list(app, within, buffer),
        Screen::Profiles => profiles::draw_list(app, within, buffer),
        Screen::Failures => failures::draw_list(app, within, buffer),
        Screen::Gateways => gateways::draw_list(app, within, buffer),
        Screen::Path => path::draw_list(app, within, buffer),
        Screen::Doctor => doctor::draw_list(app, within, buffer),
        Screen::History => history::draw_list(app, within, buffer),
    }
}

/// A question without room takes the last line, as an answer does.
fn draw_small(app: &App, area: Rect, buffer: &mut Buffer) {
    let [header, alert, list, footer] = small_edges(area);
    header::draw(app, header, buffer);
    alert::draw(app, alert, buffer);
    draw_rows(app, list, buffer);
    fade_outdated(app, list, buffer);
    footer::draw(app, footer, buffer);
    let last = table::line(area, area.height.saturating_sub(1));
    let is_question = matches!(app.overlay(), Overlay::AskQuit | Overlay::Ask { .. } | Overlay::Help { .. });
    let has_room = match app.overlay() {
        Overlay::Help { .. } => area.height >= SMALL_HELP,
        Overlay::Nothing | Overlay::Typing(_) | Overlay::AskQuit | Overlay::Ask { .. } => {
            confirmation::has_room(app, area)
        }
    };
    match (is_question, app.status_message()) {
        (true, _) if has_room => draw_over(app, area, buffer),
        (false, None) if !matches!(app.overlay(), Overlay::Typing(_)) => {}
        _ => {
            Clear.render(last, buffer);
            one_line::draw(app, last, buffer);
            if !is_question {
                draw_over(app, area, buffer);
            }
        }
    }
}

/// Header, alert, what fits of the list, and the footer if three lines of the list remain.
fn small_edges(area: Rect) -> [Rect; 4] {
    let one = Constraint::Length(1);
    let footer = Constraint::Length(u16::from(area.height >= 6));
    Layout::vertical([one, one, Constraint::Min(0), footer]).areas(area)
}

/// Header, screens, alert, the screen, footer.
fn edges(area: Rect) -> [Rect; 5] {
    let one = Constraint::Length(1);
    Layout::vertical([one, one, one, Constraint::Min(6), Constraint::Length(2)]).areas(area)
}

/// Header, alert, the list, status, footer.
fn list_edges(area: Rect) -> [Rect; 5] {
    let one = Constraint::Length(1);
    Layout::vertical([one, one, Constraint::Min(3), one, one]).areas(area)
}

/// The way to the backends, sessions, traffic and events.
fn full_overview(app: &App, area: Rect, body: Rect) -> [Rect; 3] {
    let direction = links_height(app, area.height / 3);
    // The sessions come first: what they can spare makes the curves higher, and of what is left both have half.
    let spare = body.height.saturating_sub(direction).saturating_sub(SESSION_LINES_MIN);
    let high = spare.min(traffic::FRAMED_HIGH) + spare.saturating_sub(traffic::FRAMED_HIGH) / 2;
    let traffic = traffic::framed_lines(high);
    Layout::vertical([Constraint::Length(direction), Constraint::Min(6), Constraint::Length(traffic)])
        .areas(body)
}

/// The way to the backends, traffic, sessions, events.
fn compact_overview(app: &App, area: Rect, body: Rect) -> [Rect; 4] {
    let direction = Constraint::Length(links_height(app, area.height / 4));
    Layout::vertical([direction, Constraint::Length(1), Constraint::Min(6), Constraint::Length(2)])
        .areas(body)
}

/// If there are no panels: the worst gateways of a fleet, and the sessions.
fn small_overview(app: &App, list: Rect) -> [Rect; 2] {
    let is_shown = app.is_fleet() && app.detail().is_none() && list.height >= SMALL_OVERVIEW;
    let gateways = if is_shown { app.snapshot().gateways.len().min(SMALL_GATEWAYS) } else { 0 };
    let gateways = u16::try_from(gateways).unwrap_or(0);
    Layout::vertical([Constraint::Length(gateways), Constraint::Min(0)]).areas(list)
}

/// The panel of the way to the backends: links of a pair, services if there are no links, the gateways of a
/// fleet.
fn draw_links(app: &App, area: Rect, buffer: &mut Buffer) {
    match app.snapshot().mode {
        _ if app.is_fleet() => gateways::draw(app, area, buffer),
        Mode::Direct => services::draw(app, area, buffer),
        Mode::Forward | Mode::Reverse => pool::draw(app, area, buffer),
    }
}

/// Its rows, heads and frame, but never so much that the sessions lose their room.
fn links_height(app: &App, height_max: u16) -> u16 {
    let snapshot = app.snapshot();
    let rows = match snapshot.mode {
        _ if app.is_fleet() => snapshot.gateways.len(),
        Mode::Direct => snapshot.services.len(),
        Mode::Forward | Mode::Reverse => snapshot.pools.len(),
    };
    let rows = u16::try_from(rows).unwrap_or(u16::MAX).max(1);
    rows.saturating_add(panel::FRAME_AND_HEADS).min(height_max.max(panel::FRAME_AND_HEADS + 1))
}

/// Including frame and heads.
const SESSION_LINES_MIN: u16 = 12;
/// With fewer lines, a small overview has room only for sessions; and how many lines the gateways get.
const SMALL_OVERVIEW: u16 = 6;
const SMALL_GATEWAYS: usize = 3;
/// With fewer lines, the help has no room for its text.
const SMALL_HELP: u16 = 6;
