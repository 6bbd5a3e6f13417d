//! What is under the mouse, calculated from the same areas that are drawn.

use ratatui::layout::{Position, Rect};

use crate::{
    profile::Mode,
    tui::{
        app::App,
        order::SortColumn,
        screen::Screen,
        view::{
            LayoutSize, compact_overview, doctor, edges, events, failures, full_overview, gateways,
            list_edges, panel, path, pool, profiles, services, sessions, size, small_edges, small_overview,
            table, tabs,
        },
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HitTarget {
    Screen(Screen),
    /// A line of the list.
    Row(usize),
    /// The head of a column that the list can be sorted by.
    Head(SortColumn),
    Nothing,
}

/// For a screen of this size.
pub fn hit_test(app: &App, area: Rect, (x, y): (u16, u16)) -> HitTarget {
    let at = Position { x, y };
    let (tabs, list) = match size(area) {
        LayoutSize::Full | LayoutSize::Compact => {
            let [_, tabs, _, body, _] = edges(area);
            (tabs, framed(app, area, body))
        }
        LayoutSize::List | LayoutSize::Small => {
            let list =
                if size(area) == LayoutSize::List { list_edges(area)[2] } else { small_edges(area)[2] };
            let list = match app.screen() {
                Screen::Overview => small_overview(app, list)[1],
                Screen::Sessions => list,
                Screen::Pool | Screen::Services | Screen::Events | Screen::Profiles => panel::margin(list),
                Screen::Failures | Screen::Gateways | Screen::Path => panel::margin(list),
                Screen::Doctor | Screen::History => panel::margin(list),
            };
            (Rect::ZERO, list)
        }
        LayoutSize::Line => return HitTarget::Nothing,
    };
    if tabs.contains(at) {
        return tabs::at(app, tabs.width, x - tabs.x).map_or(HitTarget::Nothing, HitTarget::Screen);
    }
    if app.detail().is_some() {
        return HitTarget::Nothing;
    }
    let by_place = match app.screen() {
        Screen::Path => Some(path::part_at(app, list, at)),
        Screen::Doctor => Some(doctor::finding_at(app, list, at)),
        Screen::Overview | Screen::Pool | Screen::Sessions | Screen::Services | Screen::Events => None,
        Screen::Profiles | Screen::Failures | Screen::Gateways | Screen::History => None,
    };
    if let Some(index) = by_place {
        return index.map_or(HitTarget::Nothing, HitTarget::Row);
    }
    let (rows, lines) = rows(app, list);
    if app.screen().lists_sessions() && rows.y > list.y && table::line(list, 0).contains(at) {
        return sessions::head_at(app, list, x - list.x).map_or(HitTarget::Nothing, HitTarget::Head);
    }
    // The mark of the selected row is to the left of the list.
    let wide = Rect { x: rows.x.saturating_sub(1), width: rows.width + 2, ..rows };
    let line = wide.contains(at).then(|| lines.get(usize::from(y - rows.y)).copied()).flatten();
    line.map_or(HitTarget::Nothing, HitTarget::Row)
}

/// The area of the list inside its frame.
fn framed(app: &App, area: Rect, body: Rect) -> Rect {
    match app.screen() {
        Screen::Overview => {
            let is_full = size(area) == LayoutSize::Full;
            let framed = match is_full {
                true => full_overview(app, area, body)[1],
                false => compact_overview(app, area, body)[2],
            };
            sessions::list_area(framed)
        }
        Screen::Sessions => sessions::list_area(body),
        Screen::Pool if app.snapshot().mode != Mode::Direct => pool::list_area(body),
        Screen::Pool | Screen::Services => panel::margin(panel::inside(services::areas(body)[0])),
        Screen::Events
        | Screen::Failures
        | Screen::Gateways
        | Screen::Path
        | Screen::Doctor
        | Screen::History => panel::margin(panel::inside(body)),
        Screen::Profiles => panel::margin(panel::inside(profiles::areas(app, body)[0])),
    }
}

/// Where its rows are drawn, and which lines of the list they are.
fn rows(app: &App, area: Rect) -> (Rect, Vec<usize>) {
    let snapshot = app.snapshot();
    let (reported, count) = match app.screen() {
        Screen::Overview | Screen::Sessions => {
            let (area, lines) = sessions::visible_lines(app, area);
            return (panel::below_heads(area), lines);
        }
        Screen::Pool if snapshot.mode != Mode::Direct => (pool::selected_text(app), snapshot.pools.len()),
        Screen::Pool | Screen::Services => (services::selected_text(app), snapshot.services.len()),
        Screen::Events => {
            let (left, ..) = panel::split_selected_text(&app.style, events::selected_text(app, area), area);
            return (left, table::visible_range(app.selected_line(), snapshot.notices.len(), left).collect());
        }
        Screen::Profiles => (None, app.profiles().len()),
        Screen::Failures => (failures::selected_text(app), snapshot.failures.len()),
        Screen::Gateways => (gateways::selected_text(app), snapshot.gateways.len()),
        // Their rows are not lines.
        Screen::Path | Screen::Doctor | Screen::History => (None, 0),
    };
    let (left, ..) = panel::split_selected_text(&app.style, reported, area);
    let list = panel::below_heads(left);
    (list, table::visible_range(app.selected_line(), count, list).collect())
}
