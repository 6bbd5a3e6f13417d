//! The notices that a keeper writes for operators about its links. The first failure is a warning and the others are
//! not, since the row shows that they go on.

use super::{LinkKeeper, sharers::SharersChange};
use crate::{
    link::{
        agreement::SOFTWARE,
        dial_state::{DialFailure, FailureRun},
        error::LinkError,
        handshake::{DialledStream, EstablishedLink},
    },
    profile::{Half, ServiceName},
    proto::{multiplex::PROTOCOL_NAME, socks5},
    telemetry::{format, link_cause::LinkFault, log::LogEvent, rate_limited::LogKind},
};

impl LinkKeeper {
    pub(super) fn report_proven(&self, service: Option<&ServiceName>, failures: u32) {
        if failures > 0 {
            let failures = format::count(failures.into(), "failure");
            let line = format!("{} is up, after {failures} in a row", self.link_to(service));
            self.context.notices.info_limited(LogKind::LinkChanged, line);
        }
    }

    /// Writes one line when failures begin; the row and its count show that they go on.
    pub(super) fn report_failed(
        &self,
        service: Option<&ServiceName>,
        fault: &LinkFault,
        failure: DialFailure,
        run: FailureRun,
    ) {
        let line = format!("{}: {}", self.link_to(service), fault.words);
        if run == FailureRun::GoesOn {
            tracing::debug!(event = %LogEvent::LinkFailedAgain, "{line}");
            return;
        }
        match failure {
            DialFailure::Path | DialFailure::Protocol | DialFailure::Link => {
                self.context.notices.warn_limited(LogKind::LinkChanged, line);
            }
            // The gateway's own operator has requested that.
            DialFailure::Drains => self.context.notices.info_limited(LogKind::LinkChanged, line),
        }
    }

    /// Names the services that the links are not used for, whenever that changes.
    pub(super) fn report_refused(&self, linked: &EstablishedLink) {
        let mismatch: Vec<_> = linked.mismatches.iter().map(ToString::to_string).collect();
        let is_mismatched =
            |service: &ServiceName| linked.mismatches.iter().any(|mismatch| mismatch.service == *service);
        let is_refused =
            |service: &&ServiceName| !linked.grant.granted.contains(*service) && !is_mismatched(service);
        let offered = linked.offer.services.iter().map(|of| &of.name);
        let names: Vec<_> = offered.filter(is_refused).map(ToString::to_string).collect();
        let mut state = self.lock();
        state.mismatch = mismatch.first().cloned();
        let mut refused = mismatch;
        if !names.is_empty() {
            let why = match self.context.half {
                Half::Dmz => "unknown here, or not allowed",
                Half::Internal => "unknown there, not allowed, or not carried in the same way",
            };
            refused.push(format!("not used for {}: {why}", names.join(", ")));
        }
        if state.refused == refused {
            return;
        }
        state.refused = refused.clone();
        drop(state);
        for line in refused {
            let line = format!("link to {}: {line}", self.gateway);
            self.context.notices.warn_limited(LogKind::LinkChanged, line);
        }
    }

    /// Reports a gateway that offers `socks/5` by name but none of our own versions. TLS does not tell the
    /// dialling half what else it speaks.
    pub(super) fn report_other_version(&self, reached: &DialledStream) {
        if reached.stream.alpn() == Some(socks5::PROTOCOL_NAME.as_bytes()) {
            let (gateway, peer) = (&self.gateway, reached.peer.label());
            let line = format!(
                "link to {gateway}: {peer} does not speak {PROTOCOL_NAME}, as {SOFTWARE} does here: links there speak \
                 SOCKS5, one session each; run one version on both halves"
            );
            self.context.notices.warn(LogEvent::LinkProtocol.line(line));
        }
    }

    pub(super) fn report_sharers(&self, changes: &[SharersChange]) {
        let notices = &self.context.notices;
        for change in changes {
            let link = self.link_to(None);
            match change {
                SharersChange::More(count) => {
                    let line = format!("{link}: {count} gateways answer there, each with a row of its own");
                    notices.info(LogEvent::LinkShared.line(line));
                }
                SharersChange::Gone { instance, left } => {
                    let missing =
                        format!("one of the gateways there has no link any more (instance {instance})");
                    let line = format!("{link}: {missing}; {left} left");
                    notices.warn(LogEvent::LinkSharerGone.line(line));
                }
            }
        }
    }

    fn link_to(&self, service: Option<&ServiceName>) -> String {
        let of = service.map(|service| format!("{service}: ")).unwrap_or_default();
        format!("{of}link to {}", self.gateway)
    }
}

/// Why a link cannot be used for anything.
pub(super) fn unused_reason(linked: &EstablishedLink) -> LinkError {
    if !linked.mismatches.is_empty() {
        return LinkError::Mismatches(linked.mismatches.clone());
    }
    let offered: Vec<_> = linked.offer.services.iter().map(|of| of.name.to_string()).collect();
    match offered.is_empty() {
        true => LinkError::NothingAllowed(linked.link.peer().label()),
        false => LinkError::NothingGranted(offered),
    }
}
