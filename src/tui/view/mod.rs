//! The screen: a pure function of [`App`].
//!
//! ```text
//! full, from 120x36             compact, from 80x24        list, from 60x15
//! ┌───────────────────────┐     ┌──────────────────┐       ┌─────────────┐
//! │ header                │     │ header           │       │ header      │
//! │ alert                 │     │ alert            │       │ alert       │
//! │ links, or services    │     │ links, services  │       │             │
//! │                       │     │ traffic, a line  │       │ sessions    │
//! │ sessions              │     │ sessions         │       │             │
//! │                       │     │                  │       │ status      │
//! │ traffic   │ notices   │     │ notices, 2 lines │       │ footer      │
//! │ footer                │     │ footer           │       └─────────────┘
//! └───────────────────────┘     └──────────────────┘       below: one line
//! ```
//!
//! Help and questions lie over the panels; on one line they take its place.

mod alert;
mod footer;
mod header;
mod help;
mod links;
mod notices;
mod one_line;
mod panel;
mod question;
mod services;
mod sessions;
mod table;
mod traffic;

use ratatui::{
    Frame,
    buffer::Buffer,
    layout::{Constraint, Layout, Rect},
};

use crate::{
    profile::Mode,
    tui::app::{App, Open},
};

/// How much of the screen there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    Full,
    Compact,
    List,
    Line,
}

/// Draws the whole screen; every size is fine, also none.
pub fn draw(frame: &mut Frame, app: &App) {
    let area = frame.area();
    let buffer = frame.buffer_mut();
    match size(area) {
        Size::Full => draw_full(app, area, buffer),
        Size::Compact => draw_compact(app, area, buffer),
        Size::List => draw_list(app, area, buffer),
        Size::Line => return one_line::draw(app, table::line(area, 0), buffer),
    }
    match app.open() {
        Open::Nothing => {}
        Open::Help => help::draw(app, area, buffer),
        Open::AskQuit | Open::AskClose(_) => question::draw(app, area, buffer),
    }
}

fn size(area: Rect) -> Size {
    let fits = |width, height| area.width >= width && area.height >= height;
    if fits(120, 36) {
        Size::Full
    } else if fits(80, 24) {
        Size::Compact
    } else if fits(60, 15) {
        Size::List
    } else {
        Size::Line
    }
}

fn draw_full(app: &App, area: Rect, buffer: &mut Buffer) {
    let way = Constraint::Length(way_height(app, area.height / 3));
    let [header, alert, way_area, sessions, bottom, footer] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        way,
        Constraint::Min(6),
        Constraint::Length(7),
        Constraint::Length(1),
    ])
    .areas(area);
    let [traffic, notices] =
        Layout::horizontal([Constraint::Percentage(38), Constraint::Min(0)]).areas(bottom);
    header::draw(app, header, buffer);
    alert::draw(app, alert, buffer);
    draw_way(app, way_area, buffer);
    sessions::draw_panel(app, sessions, buffer);
    traffic::draw_panel(app, traffic, buffer);
    notices::draw_panel(app, notices, buffer);
    footer::draw(app, footer, buffer);
}

fn draw_compact(app: &App, area: Rect, buffer: &mut Buffer) {
    let way = Constraint::Length(way_height(app, area.height / 4));
    let [header, alert, way_area, traffic, sessions, notices, footer] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        way,
        Constraint::Length(1),
        Constraint::Min(6),
        Constraint::Length(2),
        Constraint::Length(1),
    ])
    .areas(area);
    header::draw(app, header, buffer);
    alert::draw(app, alert, buffer);
    draw_way(app, way_area, buffer);
    traffic::draw_line(app, traffic, buffer);
    sessions::draw_panel(app, sessions, buffer);
    notices::draw_lines(app, notices, buffer);
    footer::draw(app, footer, buffer);
}

fn draw_list(app: &App, area: Rect, buffer: &mut Buffer) {
    let [header, alert, sessions, status, footer] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(3),
        Constraint::Length(1),
        Constraint::Length(1),
    ])
    .areas(area);
    header::draw(app, header, buffer);
    alert::draw(app, alert, buffer);
    sessions::draw_list(app, sessions, buffer);
    one_line::draw_status(app, status, buffer);
    footer::draw(app, footer, buffer);
}

/// The panel of the way to the backends: links of a pair, services where there are no links.
fn draw_way(app: &App, area: Rect, buffer: &mut Buffer) {
    match app.snapshot().mode {
        Mode::Direct => services::draw(app, area, buffer),
        Mode::Forward | Mode::Reverse => links::draw(app, area, buffer),
    }
}

/// Its rows, heads and frame, but never so much that the sessions lose their place.
fn way_height(app: &App, height_max: u16) -> u16 {
    let snapshot = app.snapshot();
    let rows = match snapshot.mode {
        Mode::Direct => snapshot.services.len(),
        Mode::Forward | Mode::Reverse => snapshot.pools.len(),
    };
    let rows = u16::try_from(rows).unwrap_or(u16::MAX).max(1);
    rows.saturating_add(panel::FRAME_AND_HEADS).min(height_max.max(panel::FRAME_AND_HEADS + 1))
}
