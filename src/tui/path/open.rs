//! Actions on a part of the path: selecting a connected part, and opening its rows.

use std::sync::Arc;

use super::{DrawnPath, PartRows, PathPart, PathStage, SideStep};
use crate::{
    telemetry::snapshot::Snapshot,
    tui::{
        app::{App, UpdateResult},
        lists,
        screen::Screen,
    },
};

impl App {
    /// Selects a part that the selected one is connected to; if none is selected, the first.
    pub(in crate::tui) fn select_part_beside(&mut self, step: SideStep) {
        let path = DrawnPath::of(self.snapshot());
        let beside = match self.selected_line() {
            Some(at) => path.beside(at, step).unwrap_or(at),
            None => 0,
        };
        self.move_selection(|_, _| beside);
    }

    /// Opens the rows of the selected part; if none is selected, selects the worst.
    pub(in crate::tui) fn open_part(&mut self) -> UpdateResult {
        let shown = self.shown_snapshot();
        let path = DrawnPath::of(&shown);
        let Some(part) = self.selected_line().and_then(|line| path.parts.get(line)) else {
            let worst = path.worst().and_then(|worst| path.parts.iter().position(|part| part == worst));
            self.move_selection(|_, _| worst.unwrap_or(0));
            return UpdateResult::Redraw;
        };
        match &part.rows {
            PartRows::Sessions => self.show(Screen::Sessions),
            PartRows::Own => self.show(Screen::Overview),
            PartRows::Services(_) => {
                let key = service_of(&shown, part).unwrap_or_default();
                self.show_row(Screen::Services, &shown, &key)
            }
            PartRows::Gateway(name) => self.show_row(Screen::Gateways, &shown, name),
            PartRows::Pools { worst, .. } => self.show_row(Screen::Pool, &shown, worst),
            PartRows::Nowhere => {
                self.refuse("nothing more is known of it here");
                UpdateResult::Redraw
            }
        }
    }

    fn show_row(&mut self, screen: Screen, shown: &Snapshot, key: &str) -> UpdateResult {
        let reaction = self.show(screen);
        self.lists.select_key(screen, shown, key);
        reaction
    }

    /// The gateway of the selected part, in a fleet.
    pub(in crate::tui) fn selected_part_gateway(&self, shown: &Snapshot) -> Option<Arc<str>> {
        let path = DrawnPath::of(shown);
        match &path.parts.get(self.selected_line()?)?.rows {
            PartRows::Gateway(name) => Some(Arc::clone(name)),
            PartRows::Pools { sessions, .. } => sessions.gateway.clone(),
            PartRows::Sessions | PartRows::Services(_) | PartRows::Own | PartRows::Nowhere => None,
        }
    }
}

/// The service row that is worst, or that knows its backends.
fn service_of(shown: &Snapshot, part: &PathPart) -> Option<String> {
    let PartRows::Services(name) = &part.rows else { return None };
    let rows = lists::services(shown);
    let mut of_name = rows.iter().filter(|row| row.name == *name);
    let dials = of_name.clone().find(|row| row.connect.is_some() && part.stage == PathStage::Backends);
    dials.or_else(|| of_name.next()).map(|row| lists::service_key(row))
}
