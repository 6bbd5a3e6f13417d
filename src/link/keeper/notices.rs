//! What a keeper tells its operator of the links it keeps.

use super::{Keeper, Linked};
use crate::{
    link::course::Failure,
    profile::{Role, ServiceName},
    telemetry::rate_limited::LogKind,
};

impl Keeper {
    pub(super) fn tell_proven(&self, service: Option<&ServiceName>, failures: u32) {
        if failures > 0 {
            let line = format!("{} stands, after {failures} failures in a row", self.link_to(service));
            self.shared.notices.info_limited(LogKind::LinkChanged, line);
        }
    }

    /// One line when it begins; the row and its count show that it goes on.
    pub(super) fn tell_failed(
        &self,
        service: Option<&ServiceName>,
        error: &str,
        failure: Failure,
        is_first: bool,
    ) {
        let line = format!("{}: {error}", self.link_to(service));
        match (is_first, failure) {
            (true, Failure::Way | Failure::Protocol | Failure::Link) => {
                self.shared.notices.warn_limited(LogKind::LinkChanged, line);
            }
            // That is what its operator has asked for.
            (true, Failure::Drains) => self.shared.notices.info_limited(LogKind::LinkChanged, line),
            (false, _) => tracing::debug!("{line}"),
        }
    }

    /// Names the services that links are not used for, when that changes.
    pub(super) fn tell_refused(&self, linked: &Linked) {
        let unlike: Vec<_> = linked.unlike.iter().map(ToString::to_string).collect();
        let is_unlike = |service: &ServiceName| linked.unlike.iter().any(|unlike| unlike.service == *service);
        let is_refused =
            |service: &&ServiceName| !linked.grant.services.contains(*service) && !is_unlike(service);
        let offered = linked.offer.services.iter().map(|(service, _)| service);
        let names: Vec<_> = offered.filter(is_refused).map(ToString::to_string).collect();
        let mut books = self.lock();
        books.unlike = unlike.first().cloned();
        let mut refused = unlike;
        if !names.is_empty() {
            let why = match self.shared.role {
                Role::Dmz => "unknown here, or not allowed",
                Role::Internal => "unknown there, not allowed, or not carried in the same way",
            };
            refused.push(format!("not used for {}: {why}", names.join(", ")));
        }
        if books.refused == refused {
            return;
        }
        books.refused = refused.clone();
        drop(books);
        for line in refused {
            let line = format!("link to {}: {line}", self.gateway);
            self.shared.notices.warn_limited(LogKind::LinkChanged, line);
        }
    }

    fn link_to(&self, service: Option<&ServiceName>) -> String {
        let of = service.map(|service| format!("{service}: ")).unwrap_or_default();
        format!("{of}link to {}", self.gateway)
    }
}

/// Why a link can not be used for anything.
pub(super) fn why_unused(linked: &Linked) -> String {
    if !linked.unlike.is_empty() {
        return linked.unlike.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    }
    let offered: Vec<_> = linked.offer.services.iter().map(|(service, _)| service.to_string()).collect();
    match offered.is_empty() {
        true => format!("{} is not among the `peers` of any service", linked.link.peer().label()),
        false => format!(
            "it knows none of {}, or it is not allowed for this gateway, or carries something else there",
            offered.join(", ")
        ),
    }
}
