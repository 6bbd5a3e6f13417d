//! What an internal half has locked, as seen by its sessions, its links and those that dial them.
//!
//! All share one list, so that a lock applies to everything at the same moment, and before anything is cut.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Peer, is_same_name};
use crate::{profile::ServiceName, telemetry::snapshot::LockdownRow};

/// The locks that are in force.
#[derive(Debug, Clone)]
pub struct Lockdown(Arc<watch::Sender<Vec<LockdownRow>>>);

impl Default for Lockdown {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Lockdown {
    pub fn new(rows: Vec<LockdownRow>) -> Self {
        Self(Arc::new(watch::Sender::new(rows)))
    }

    pub fn rows(&self) -> Vec<LockdownRow> {
        self.0.borrow().clone()
    }

    pub fn set_rows(&self, rows: Vec<LockdownRow>) {
        self.0.send_replace(rows);
    }

    /// Whether a service is locked for everybody.
    pub fn locks_service(&self, service: &ServiceName) -> bool {
        self.0.borrow().iter().any(|row| row.peer.is_none() && is_of_service(row, service))
    }

    /// Whether a session of a gateway is forbidden. The gateway is given by its label.
    pub fn locks_session(&self, peer: Option<&str>, service: &ServiceName) -> bool {
        self.0.borrow().iter().any(|row| is_of_peer(row, peer) && is_of_service(row, service))
    }

    /// Whether links to a gateway are forbidden.
    pub fn locks_links(&self, peer: Option<&str>) -> bool {
        self.0.borrow().iter().any(|row| locks_links(row, peer))
    }

    /// Returns when links to a gateway are forbidden.
    pub async fn locked(&self, peer: &Peer) {
        let label = peer.label();
        let mut rows = self.0.subscribe();
        // An error would mean that nobody can lock any more, but `self` still could.
        let _ = rows.wait_for(|rows| rows.iter().any(|row| locks_links(row, Some(&label)))).await;
    }
}

fn locks_links(row: &LockdownRow, peer: Option<&str>) -> bool {
    row.service.is_none() && is_of_peer(row, peer)
}

fn is_of_service(row: &LockdownRow, service: &ServiceName) -> bool {
    row.service.as_deref().is_none_or(|locked| locked == service.as_str())
}

fn is_of_peer(row: &LockdownRow, peer: Option<&str>) -> bool {
    row.peer.as_deref().is_none_or(|locked| peer.is_some_and(|peer| is_same_name(locked, peer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_holds_for_what_it_names() {
        let orders = ServiceName::parse("orders").expect("a name");
        let other = ServiceName::parse("other").expect("a name");
        let lock = |peer: Option<&str>, service: Option<&str>| {
            Lockdown::new(vec![LockdownRow {
                peer: peer.map(Into::into),
                service: service.map(Into::into),
                since: String::new(),
            }])
        };
        let seen = |lock: Lockdown| {
            [
                lock.locks_service(&orders),
                lock.locks_service(&other),
                lock.locks_session(Some("dmz"), &orders),
                lock.locks_session(Some("dmz"), &other),
                lock.locks_session(Some("dmz-b"), &orders),
                lock.locks_links(Some("dmz")),
                lock.locks_links(Some("dmz-b")),
                lock.locks_links(None),
            ]
        };
        assert_eq!(seen(Lockdown::default()), [false; 8]);
        assert_eq!(seen(lock(None, None)), [true; 8]);
        let of_service = [true, false, true, false, true, false, false, false];
        assert_eq!(seen(lock(None, Some("orders"))), of_service);
        let of_peer = [false, false, true, true, false, true, false, false];
        assert_eq!(seen(lock(Some("dmz"), None)), of_peer);
        let of_both = [false, false, true, false, false, false, false, false];
        assert_eq!(seen(lock(Some("dmz"), Some("orders"))), of_both);
    }
}
