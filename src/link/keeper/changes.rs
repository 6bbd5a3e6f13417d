//! Changes that reach a keeper while it runs. They take effect at the keeper's next turn, which each of them brings
//! about at once.

use super::{KeeperState, KeeperTarget, LinkKeeper};
use crate::profile::ServiceName;

impl LinkKeeper {
    /// Applies a new target for the same gateway.
    pub fn update(&self, wanted: KeeperTarget) {
        let mut state = self.lock();
        state.wanted = wanted;
        state.dial_states.values_mut().for_each(|dial_state| dial_state.shorten_pause(wanted.retry));
        drop(state);
        self.notify_changed();
    }

    /// Tells the keeper that the use of its links has changed.
    pub fn notify_changed(&self) {
        let parks = self.parked_services();
        let mut state = self.lock();
        let is_locked = self.is_locked(&state);
        let is_kept = |service: &ServiceName| !is_locked && parks.contains(service);
        state.dial_states.retain(|service, dial_state| {
            let kept = service.as_ref().is_none_or(is_kept);
            if !kept {
                dial_state.retired.cancel();
            }
            kept
        });
        drop(state);
        self.changed.notify_one();
    }

    /// Whether dialling is forbidden by a lock: by the gateway's name once it is known, or by its address.
    pub(super) fn is_locked(&self, state: &KeeperState) -> bool {
        let lockdown = &self.context.lockdown;
        lockdown.locks_links(state.peer.as_deref()) || lockdown.locks_links(Some(&self.name))
    }
}
