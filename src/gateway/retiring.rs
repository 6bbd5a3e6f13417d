//! What a switch leaves behind for a moment: sessions may still come by ready links of the old mode, and those of
//! removed services get their time.

use std::{sync::Arc, time::Instant};

use super::{
    Engine,
    halves::{DmzSide, InternalSide},
    service::{Service, ServiceTable},
};
use crate::telemetry::{format, log::LogEvent};

/// The parts that stay for a while after a switch.
#[derive(Default)]
pub struct RetiringParts {
    pub(super) dmz: Vec<(DmzSide, Instant)>,
    pub(super) internal: Vec<(InternalSide, Instant)>,
    pub(super) services: Vec<(Arc<Service>, Instant)>,
}

impl Engine {
    /// Retires the old parts whose time is up.
    pub(super) fn retire_old_parts(&mut self) {
        let now = Instant::now();
        let leaving = std::mem::take(&mut self.retiring);
        if leaving.internal.iter().any(|(_, at)| *at <= now) {
            self.shared.sessions.leaving.store(ServiceTable::new().into());
        }
        for (side, at) in leaving.dmz {
            match at <= now {
                true => side.retire(),
                false => self.retiring.dmz.push((side, at)),
            }
        }
        for (side, at) in leaving.internal {
            match at <= now {
                true => side.retire(),
                false => self.retiring.internal.push((side, at)),
            }
        }
        for (service, at) in leaving.services {
            match service.open_sessions() {
                0 => {}
                _ if at > now => self.retiring.services.push((service, at)),
                open => {
                    let cut = format::count(open as u64, "session");
                    let line = format!("{}: {cut} cut, the profile has no such service", service.name);
                    self.shared.notices.warn(LogEvent::SessionsCut.line(line));
                    service.cut.cancel();
                }
            }
        }
    }
}

impl RetiringParts {
    /// Retires everything at once, at a stop.
    pub fn retire(&mut self) {
        self.dmz.drain(..).for_each(|(side, _)| side.retire());
        self.internal.drain(..).for_each(|(side, _)| side.retire());
    }

    pub fn is_empty(&self) -> bool {
        self.dmz.is_empty() && self.internal.is_empty() && self.services.is_empty()
    }
}
