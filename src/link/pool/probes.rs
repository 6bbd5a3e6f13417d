//! Takes links for probes, which test the path at any hour.

use super::{Pool, TakenLink, TakenSide};
use crate::{link::Peer, profile::ServiceName, proto::multiplex::hello::OfferState};

impl Pool {
    /// A place on a link of a peer that has closed the service because of its hours.
    pub fn take_outside_hours(&self, service: &ServiceName, not: &[Peer]) -> Option<TakenLink> {
        let contents = self.lock();
        let mut peers = contents.peers.iter().filter(|links| !not.contains(&links.peer));
        peers.find_map(|links| {
            let side = TakenSide::Slot(links.take_slot(service, OfferState::Closed)?);
            Some(TakenLink { side, peer: links.peer.clone() })
        })
    }
}
