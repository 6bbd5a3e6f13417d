//! Services that a peer carries differently than this half does (bytes or HTTP), and which it is therefore not
//! asked for.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::{
    link::{Peer, grants::CarriesMismatch},
    profile::ServiceName,
};

/// Services times peers in the books at once; each is a service of this half's.
const MAX: usize = 1024;
/// Told by a peer without links, it holds for so long.
const REMEMBERED: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct CarriesMismatches(HashMap<(ServiceName, Peer), SeenMismatch>);

#[derive(Debug)]
struct SeenMismatch {
    mismatch: CarriesMismatch,
    at: Instant,
}

impl CarriesMismatches {
    /// A peer has said all that it offers; what it says for the first time comes back.
    pub fn note_mismatches(&mut self, peer: &Peer, mismatch: &[CarriesMismatch]) -> Vec<CarriesMismatch> {
        let is_told = |service: &ServiceName| mismatch.iter().any(|mismatch| mismatch.service == *service);
        self.0.retain(|(service, of), _| of != peer || is_told(service));
        let mut event = Vec::new();
        for mismatch in mismatch {
            let key = (mismatch.service.clone(), peer.clone());
            if self.0.len() >= MAX && !self.0.contains_key(&key) {
                continue;
            }
            let received = SeenMismatch { mismatch: mismatch.clone(), at: Instant::now() };
            if self.0.insert(key, received).is_none_or(|before| before.mismatch != *mismatch) {
                event.push(mismatch.clone());
            }
        }
        event
    }

    /// What was agreed does not hold any more.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Peers that have not come back are forgotten.
    pub fn forget(&mut self, has_links: impl Fn(&Peer) -> bool) {
        self.0.retain(|(_, peer), received| received.at.elapsed() < REMEMBERED || has_links(peer));
    }

    /// Why a service can not be had from a peer that offers it.
    pub fn of_service(&self, service: &ServiceName) -> Option<&CarriesMismatch> {
        let of = self.0.iter().filter(|((of, _), _)| of == service);
        of.min_by_key(|((_, peer), _)| peer.label()).map(|(_, received)| &received.mismatch)
    }

    /// What can not be had from a peer, by the first of its services.
    pub fn of_peer(&self, peer: &Peer) -> Option<&CarriesMismatch> {
        let of = self.0.iter().filter(|((_, of), _)| of == peer);
        of.min_by_key(|((service, _), _)| service).map(|(_, received)| &received.mismatch)
    }
}
