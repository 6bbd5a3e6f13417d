//! Takes links for probes, which test the path at any hour.

use super::{AcquiredLink, AcquiredSide, Pool};
use crate::{link::Peer, profile::ServiceName, proto::multiplex::hello::OfferState};

impl Pool {
    /// A slot on a link of a peer that has closed the service because of its hours.
    pub fn take_outside_hours(&self, service: &ServiceName, not: &[Peer]) -> Option<AcquiredLink> {
        let contents = self.lock();
        let mut peers = contents.peers.iter().filter(|links| !links.peer.is_process_among(not));
        peers.find_map(|links| {
            let side = AcquiredSide::Slot(links.take_slot(service, OfferState::Closed)?);
            Some(AcquiredLink { side, peer: links.peer.clone() })
        })
    }
}
