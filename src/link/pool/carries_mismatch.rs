//! Services that carry something else at a peer than at this half (bytes or HTTP), so that this half does not
//! open sessions for them there.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::{
    link::{Peer, grants::CarriesMismatch},
    profile::ServiceName,
};

/// The maximum number of pairs of service and peer; each service is one of this half's.
const MISMATCHES_MAX: usize = 1024;
/// How long a mismatch is remembered after its peer has lost all links.
const RETENTION_PERIOD: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct CarriesMismatches(HashMap<(ServiceName, Peer), SeenMismatch>);

#[derive(Debug)]
struct SeenMismatch {
    mismatch: CarriesMismatch,
    at: Instant,
}

impl CarriesMismatches {
    /// Notes everything that a peer offers differently. Returns those that were not reported yet.
    pub fn note_mismatches(&mut self, peer: &Peer, mismatch: &[CarriesMismatch]) -> Vec<CarriesMismatch> {
        let still_mismatched =
            |service: &ServiceName| mismatch.iter().any(|mismatch| mismatch.service == *service);
        self.0.retain(|(service, of), _| of != peer || still_mismatched(service));
        let mut unreported = Vec::new();
        for mismatch in mismatch {
            let key = (mismatch.service.clone(), peer.clone());
            if self.0.len() >= MISMATCHES_MAX && !self.0.contains_key(&key) {
                continue;
            }
            let seen = SeenMismatch { mismatch: mismatch.clone(), at: Instant::now() };
            if self.0.insert(key, seen).is_none_or(|before| before.mismatch != *mismatch) {
                unreported.push(mismatch.clone());
            }
        }
        unreported
    }

    /// Forgets everything, because the terms have changed.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Forgets peers that have not come back.
    pub fn forget(&mut self, has_links: impl Fn(&Peer) -> bool) {
        self.0.retain(|(_, peer), seen| seen.at.elapsed() < RETENTION_PERIOD || has_links(peer));
    }

    /// Why a service cannot be used at a peer that offers it.
    pub fn of_service(&self, service: &ServiceName) -> Option<&CarriesMismatch> {
        let of = self.0.iter().filter(|((of, _), _)| of == service);
        of.min_by_key(|((_, peer), _)| peer.label()).map(|(_, seen)| &seen.mismatch)
    }

    /// What cannot be used at a peer: the first of its services.
    pub fn of_peer(&self, peer: &Peer) -> Option<&CarriesMismatch> {
        let of = self.0.iter().filter(|((_, of), _)| of == peer);
        of.min_by_key(|((service, _), _)| service).map(|(_, seen)| &seen.mismatch)
    }
}
