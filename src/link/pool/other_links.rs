//! Where the sessions of a link go on that is retired, and those that are too heavy for theirs: the other links of the
//! same process that take sessions.

use std::sync::{Arc, Weak};

use super::{super::Peer, Pool};
use crate::link::{
    multiplex::moving::{MoveTarget, MoveTargets},
    peer_links::PeerLinks,
};

/// The links of a peer that take sessions, whenever it is asked.
#[derive(Debug)]
struct OtherLinks {
    pool: Weak<Pool>,
    peer: Peer,
}

impl MoveTargets for OtherLinks {
    fn next_target(&self) -> Option<MoveTarget> {
        let pool = self.pool.upgrade()?;
        let contents = pool.lock();
        contents.links_of_process(&self.peer).find_map(PeerLinks::move_target)
    }

    fn heavy_target(&self, from: u64) -> Option<MoveTarget> {
        let pool = self.pool.upgrade()?;
        let contents = pool.lock();
        let may_have_more = || pool.shares.is_open_to(&self.peer.label());
        let target = |links: &PeerLinks| links.heavy_target(from, may_have_more);
        contents.links_of_process(&self.peer).find_map(target)
    }
}

impl Pool {
    /// For the sessions of a link of this peer.
    pub(super) fn other_links(self: &Arc<Self>, peer: &Peer) -> Arc<dyn MoveTargets> {
        Arc::new(OtherLinks { pool: Arc::downgrade(self), peer: peer.clone() })
    }
}
