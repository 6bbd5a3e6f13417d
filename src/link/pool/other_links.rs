//! Where the sessions of a link that is retired go on: the other links of the same process that take sessions.

use std::sync::{Arc, Weak};

use super::{super::Peer, Pool};
use crate::link::multiplex::moving::{MoveTarget, MoveTargets};

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
        contents.peers[contents.peer_links_of(&self.peer)?].move_target()
    }
}

impl Pool {
    /// For the sessions of a link of this peer that takes no more.
    pub(super) fn other_links(self: &Arc<Self>, peer: &Peer) -> Arc<dyn MoveTargets> {
        Arc::new(OtherLinks { pool: Arc::downgrade(self), peer: peer.clone() })
    }
}
