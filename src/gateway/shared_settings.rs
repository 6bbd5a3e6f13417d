//! Settings that all parts read as they are opened: the name servers, and how many descriptors each use may have. They
//! change before the parts of a new profile are opened, and go back if those are closed again. What only one part has
//! comes with that part, in `switch`.

use std::sync::Arc;

use super::{Engine, descriptors::OneSessionLinks, halves::InternalSide};
use crate::{
    profile::Profile,
    telemetry::{log::LogEvent, snapshot::PoolRow},
};

impl Engine {
    /// Applies those of a profile whose parts are about to be opened.
    pub(super) fn apply_shared_settings(&self, profile: &Profile) {
        let shares = self.budget.divide(profile, self.one_session_links);
        self.shared.shares.store(Arc::new(shares));
        self.shared.dns.use_servers(profile.resolver.as_slice().into());
        // Sessions may come through the new parts before they are in force.
        let backends = &self.shared.sessions.backends;
        backends.resize(backends.max().max(shares.backends));
    }

    /// Applies those of the running profile again, when the parts of another one were closed or did not open.
    pub(super) fn restore_shared_settings(&self) {
        let shares = self.budget.divide(&self.profile, self.one_session_links);
        self.shared.shares.store(Arc::new(shares));
        self.shared.dns.use_servers(self.profile.resolver.as_slice().into());
        if self.profile.internal.is_some() {
            self.shared.sessions.backends.resize(shares.backends);
        }
    }

    /// Divides the descriptors, and writes a notice if there are too few.
    pub(super) fn share_descriptors(&self, profile: &Profile) {
        let shares = self.shared.shares.load();
        self.shared.clients.resize(shares.clients);
        self.shared.handshakes.resize(shares.client_handshakes);
        // Links of a half that is retired may have opened sessions a moment ago, which are still served.
        if let Some(half) = &profile.internal {
            self.shared.sessions.backends.divide(shares.backends, InternalSide::count_names(half));
        }
        if let Some(line) = self.budget.describe_shortage(profile, self.one_session_links) {
            self.shared.notices.warn(LogEvent::DescriptorsShort.line(line));
        }
    }

    /// Divides them again when links have shown whether they carry one session each or many.
    pub(super) fn follow_links(&mut self, pools: &[PoolRow]) {
        let seen = OneSessionLinks::seen_in(pools);
        if seen == self.one_session_links || self.pending_switch().is_some() {
            return;
        }
        self.one_session_links = seen;
        self.divide_again();
    }

    /// Divides them again when the limit was changed from outside. A switch has its own shares, and comes first.
    pub(super) fn follow_descriptor_limit(&mut self) {
        if self.pending_switch().is_some() {
            return;
        }
        let Some(before) = self.budget.follow_limit() else { return };
        let limit = self.budget.limit();
        let line = LogEvent::DescriptorLimitChanged
            .line(format!("up to {limit} open files from now on, {before} before"));
        match limit < before {
            true => self.shared.notices.warn(line),
            false => self.shared.notices.info(line),
        }
        self.count_descriptors_now();
        self.divide_again();
    }

    fn divide_again(&self) {
        let shares = self.budget.divide(&self.profile, self.one_session_links);
        self.shared.shares.store(Arc::new(shares));
        self.share_descriptors(&self.profile);
        self.dmz.iter().for_each(|half| half.limit_links(&shares));
        self.internal.iter().for_each(|half| half.limit_links(&shares));
    }
}
