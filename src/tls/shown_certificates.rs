//! The certificates that were shown on open connections: when one of them is revoked, its connection is
//! notified.
//!
//! There is one table for the links of each half and one for the clients of each `ca`; they survive reloads.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::revocation::{CertificateId, RevocationLists};
use crate::net::{certificate_watch::CertificateWatch, stream::NetStream};

/// When there are this many entries, those of ended connections are removed.
const SWEEP_MIN: usize = 64;

#[derive(Debug, Default)]
pub struct ShownCertificates(Mutex<ShownState>);

#[derive(Debug, Default)]
struct ShownState {
    lists: Vec<Arc<RevocationLists>>,
    shown: Vec<(Weak<CertificateWatch>, Vec<CertificateId>)>,
    sweep_at: usize,
}

impl ShownCertificates {
    /// Watches the certificates of a connection from its handshake on. The lists may have changed since.
    pub fn watch(&self, stream: &mut NetStream) {
        let ids: Vec<_> = stream.peer_chain().iter().filter_map(CertificateId::of).collect();
        if ids.is_empty() {
            return;
        }
        let watch = Arc::new(CertificateWatch::default());
        let mut state = self.lock();
        if state.lists.iter().any(|lists| lists.revoke_any(&ids)) {
            watch.note_revoked();
        }
        if state.shown.len() >= state.sweep_at.max(SWEEP_MIN) {
            state.shown.retain(|(watch, _)| watch.strong_count() > 0);
            state.sweep_at = 2 * state.shown.len();
        }
        state.shown.push((Arc::downgrade(&watch), ids));
        drop(state);
        stream.hold_watch(watch);
    }

    /// Applies these lists from now on. Tells the connections of revoked certificates; returns how many there
    /// are.
    pub fn enforce(&self, lists: Vec<Arc<RevocationLists>>) -> usize {
        let mut state = self.lock();
        let mut revoked = Vec::new();
        state.shown.retain(|(watch, ids)| match watch.upgrade() {
            Some(watch) if lists.iter().any(|lists| lists.revoke_any(ids)) => {
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

    fn lock(&self) -> MutexGuard<'_, ShownState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
