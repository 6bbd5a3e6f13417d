//! SOCKS5 links that a peer parks: one session each, which some client will take.

use std::sync::Arc;

use super::Pool;
use crate::{
    link::{Peer, link_guard::LinkGuard, peer_links::ServedServices, shares::SharePermit},
    net::stream::NetStream,
    profile::ServiceName,
    proto::multiplex::state::LinkEnd,
};

impl Pool {
    /// A share for one more SOCKS5 link of a peer, if it may have one.
    pub fn share_for(&self, peer: &Peer) -> Option<SharePermit> {
        let contents = self.lock();
        let is_open = !contents.closed && contents.has_entry_for(peer);
        is_open.then(|| self.shares.take(&peer.label())).flatten()
    }

    /// Adds a SOCKS5 link that its peer has parked; returns it if the pool does not accept it any more.
    pub fn park(
        self: &Arc<Self>,
        (peer, share): (Peer, SharePermit),
        service: ServiceName,
        stream: NetStream,
    ) -> Result<(), NetStream> {
        let mut contents = self.lock();
        if contents.closed {
            return Err(stream);
        }
        let serves = ServedServices::One(service);
        let target = contents.limits.prepared;
        let Some(group) = contents.peer_links(&peer, serves, target) else { return Err(stream) };
        let link_guard = LinkGuard::ready(&contents.peers[group].counts, Some(share)).describe(
            &stream,
            &peer,
            LinkEnd::Opener,
        );
        self.put_link(contents, group, stream, link_guard);
        Ok(())
    }
}
