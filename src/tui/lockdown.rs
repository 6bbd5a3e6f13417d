//! The question before the inside is locked: it names what will be cut.

use std::sync::Arc;

use crate::{
    gateway::handle::LockdownTarget,
    profile::Half,
    telemetry::snapshot::{PoolRow, ServiceRow, SessionRow, Snapshot},
    tui::{
        app::{App, Overlay},
        confirmation::Confirmation,
        fleet::is_of,
    },
};

/// As on the command line: `[--peer NAME] [SERVICE]`.
pub(super) fn parse_target(text: Option<&str>) -> Result<LockdownTarget, String> {
    let mut target = LockdownTarget::default();
    let mut words = text.unwrap_or_default().split_whitespace();
    while let Some(word) = words.next() {
        let target = match word {
            "--peer" => {
                let name = words.next().ok_or("write the gateway's name behind `--peer`")?;
                (&mut target.peer, name)
            }
            service if !service.starts_with('-') => (&mut target.service, service),
            other => return Err(format!("`{other}` means nothing here; write `[--peer NAME] [SERVICE]`")),
        };
        if target.0.replace(target.1.to_owned()).is_some() {
            return Err(format!("`{}` is one too many", target.1));
        }
    }
    Ok(target)
}

impl App {
    pub(super) fn ask_lockdown(&mut self, target: LockdownTarget) {
        let shown = self.shown_snapshot();
        let chosen = self.selected_gateway(&shown);
        let is_there = |row: &ServiceRow, service: &str| {
            row.half == Half::Internal && row.name == service && is_of(chosen.as_ref(), &row.gateway)
        };
        if let Some(service) = &target.service
            && !shown.services.iter().any(|row| is_there(row, service))
        {
            return self.refuse(format!("no service `{service}` of an internal half"));
        }
        let (sessions_open, links) = count_cut(&shown, &target, chosen.as_ref());
        self.overlay = Overlay::question(Confirmation::Lockdown { target, sessions_open, links });
    }

    pub(super) fn ask_unlock(&mut self, target: LockdownTarget) {
        // Each gateway of a fleet knows its own locks.
        if !self.is_fleet() && self.shown_snapshot().lockdown.is_empty() {
            return self.refuse("nothing is locked");
        }
        self.overlay = Overlay::question(Confirmation::Unlock { target });
    }
}

/// The sessions that a lock cuts, and the links that it closes; in a fleet, those of one gateway.
fn count_cut(shown: &Snapshot, target: &LockdownTarget, gateway: Option<&Arc<str>>) -> (u64, u64) {
    let is_of_peer = |peer: &Option<String>| target.peer.is_none() || *peer == target.peer;
    let is_cut = |row: &&SessionRow| {
        let is_of_service = target.service.as_ref().is_none_or(|service| row.service == *service);
        row.half == Half::Internal && is_of_service && is_of_peer(&row.peer) && is_of(gateway, &row.gateway)
    };
    let is_closed = |row: &&PoolRow| {
        row.half == Half::Internal
            && target.service.is_none()
            && is_of_peer(&row.peer)
            && is_of(gateway, &row.gateway)
    };
    let closed = shown.pools.iter().filter(is_closed);
    let links = closed.fold(0, |sum: usize, row| sum.saturating_add(row.ready).saturating_add(row.carrying));
    (shown.sessions.iter().filter(is_cut).count() as u64, links as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_typed_as_on_the_command_line() {
        let target = |peer: Option<&str>, service: Option<&str>| LockdownTarget {
            peer: peer.map(Into::into),
            service: service.map(Into::into),
        };
        assert_eq!(parse_target(None), Ok(target(None, None)));
        assert_eq!(parse_target(Some("orders")), Ok(target(None, Some("orders"))));
        assert_eq!(parse_target(Some("--peer dmz")), Ok(target(Some("dmz"), None)));
        assert_eq!(parse_target(Some("orders --peer dmz")), Ok(target(Some("dmz"), Some("orders"))));
        for wrong in ["--peer", "--all", "one two", "--peer a --peer b"] {
            assert!(parse_target(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
