//! The certificates that were shown on open connections: when one of them is revoked, its connection is
//! notified.
//!
//! There is one table for the links of each half and one for the clients of each `ca`; they survive reloads.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustls::pki_types::CertificateDer;

use super::revocation::{CertificateId, RevocationLists};
use crate::net::{certificate_watch::CertificateWatch, stream::NetStream};

/// When there are this many entries, those of ended connections are removed.
const SWEEP_MIN: usize = 64;

#[derive(Debug, Default)]
pub struct ShownCertificates(Mutex<ShownState>);

#[derive(Debug, Default)]
struct ShownState {
    lists: Vec<Arc<RevocationLists>>,
    shown: Vec<(Weak<CertificateWatch>, ShownChain)>,
    sweep_at: usize,
}

/// What the other side of a connection has shown.
#[derive(Debug, Clone)]
pub struct ShownChain {
    pub chain: Vec<CertificateDer<'static>>,
    /// The group of the key exchange that it has agreed on.
    pub key_exchange: String,
    ids: Vec<CertificateId>,
}

/// Why the other side of an open connection would not be accepted again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShownRefusal {
    /// Its connections are cut.
    Revoked,
    /// Its connections go on.
    Untrusted(String),
}

impl ShownCertificates {
    /// Watches the certificates of a connection from its handshake on. The lists may have changed since.
    pub fn watch(&self, stream: &mut NetStream) {
        let chain = stream.peer_chain().to_vec();
        let ids: Vec<_> = chain.iter().filter_map(CertificateId::of).collect();
        if ids.is_empty() {
            return;
        }
        let key_exchange = stream.tls_details().map(|details| details.group).unwrap_or_default();
        let watch = Arc::new(CertificateWatch::default());
        let mut state = self.lock();
        if state.lists.iter().any(|lists| lists.revoke_any(&ids)) {
            watch.note_revoked();
        }
        if state.shown.len() >= state.sweep_at.max(SWEEP_MIN) {
            state.shown.retain(|(watch, _)| watch.strong_count() > 0);
            state.sweep_at = 2 * state.shown.len();
        }
        state.shown.push((Arc::downgrade(&watch), ShownChain { chain, key_exchange, ids }));
        drop(state);
        stream.hold_watch(watch);
    }

    /// Applies these lists from now on. Tells the connections of revoked certificates; returns how many there
    /// are.
    pub fn enforce(&self, lists: Vec<Arc<RevocationLists>>) -> usize {
        let mut state = self.lock();
        let mut revoked = Vec::new();
        state.shown.retain(|(watch, shown)| match watch.upgrade() {
            Some(watch) if lists.iter().any(|lists| lists.revoke_any(&shown.ids)) => {
                revoked.push(watch);
                false
            }
            Some(_) => true,
            None => false,
        });
        state.lists = lists;
        drop(state);
        // Each call wakes a task, so this is not done under the lock.
        revoked.iter().for_each(|watch| watch.note_revoked());
        revoked.len()
    }

    /// What was shown on each connection that is open.
    pub fn of_open_connections(&self) -> Vec<ShownChain> {
        let state = self.lock();
        let open = state.shown.iter().filter(|(watch, _)| watch.strong_count() > 0);
        open.map(|(_, shown)| shown.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, ShownState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
