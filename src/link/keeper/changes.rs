//! What a keeper is told while it runs.

use super::{KeeperState, KeeperTarget, LinkKeeper};
use crate::profile::ServiceName;

impl LinkKeeper {
    /// Wants something else from now on, of the same gateway.
    pub fn update(&self, wanted: KeeperTarget) {
        let mut books = self.lock();
        books.wanted = wanted;
        books.dial_states.values_mut().for_each(|lane| lane.shorten_pause(wanted.retry));
        drop(books);
        self.notify_changed();
    }

    /// What it is used for has changed.
    pub fn notify_changed(&self) {
        let parks = self.uses.parked_services();
        let mut books = self.lock();
        let is_locked = self.is_locked(&books);
        let is_kept = |service: &ServiceName| !is_locked && parks.contains(service);
        books.dial_states.retain(|service, lane| {
            let kept = service.as_ref().is_none_or(is_kept);
            if !kept {
                lane.retired.cancel();
            }
            kept
        });
        drop(books);
        self.changed.notify_one();
    }

    /// Whether it may not be dialled: by its name, once that is known, or by its address.
    pub(super) fn is_locked(&self, books: &KeeperState) -> bool {
        let lockdown = &self.shared.lockdown;
        lockdown.locks_links(books.peer.as_deref()) || lockdown.locks_links(Some(&self.name))
    }
}
