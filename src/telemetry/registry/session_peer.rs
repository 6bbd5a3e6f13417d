//! The other gateway of a session, and the names that tell its sessions from those of others.

use std::{
    collections::HashSet,
    fmt::Write,
    hash::{BuildHasher, RandomState},
    num::NonZeroU64,
    sync::Arc,
};

use super::OpenSession;
use crate::profile::Half;

/// The gateway that a session came through or goes to. Several may have one name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionPeer {
    pub name: Arc<str>,
    pub address: Arc<str>,
    /// The beginning of its instance, if it has one.
    pub instance: Option<[u8; 4]>,
}

impl SessionPeer {
    /// `internal (0a1b2c3d)`, or with its address where it has no instance.
    pub fn process_name(&self) -> String {
        let Some(instance) = self.instance else { return self.with(&self.address) };
        let mut short = String::with_capacity(2 * instance.len());
        for byte in instance {
            // Writing to a string does not fail.
            let _ = write!(short, "{byte:02x}");
        }
        self.with(&short)
    }

    /// Whether an operator means it by this name: its own, or that with its instance or its address.
    pub fn is_called(&self, name: &str) -> bool {
        *name == *self.name || name == self.process_name() || name == self.with(&self.address)
    }

    fn with(&self, process: &str) -> String {
        format!("{} ({process})", self.name)
    }
}

impl OpenSession {
    /// Its id with its peer's name, which is unique unless several gateways have that name.
    pub(super) fn full_name(&self) -> String {
        match self.peer() {
            Some(peer) => format!("{peer}/{}", self.id),
            None => self.id.to_string(),
        }
    }

    /// Its id with the process of its peer, which is unique.
    pub(super) fn process_name(&self) -> String {
        match &self.parties().peer {
            Some(peer) => format!("{}/{}", peer.process_name(), self.id),
            None => self.id.to_string(),
        }
    }

    /// Whether an operator means it by `PEER/ID`.
    pub(super) fn is_called(&self, named: &str) -> bool {
        let peer = named.strip_suffix(&*self.id).and_then(|peer| peer.strip_suffix('/'));
        peer.is_some_and(|name| self.parties().peer.as_ref().is_some_and(|peer| peer.is_called(name)))
    }
}

/// The ids that other gateways have given to open sessions, each with its gateway. Only their hashes are kept: where two
/// are equal by chance, one session gets another id, and nothing else happens.
#[derive(Debug, Default)]
pub struct ForeignIds {
    hasher: RandomState,
    open: HashSet<NonZeroU64>,
}

impl ForeignIds {
    /// The id of a new session, and the number that gives it back if another gateway has given it.
    pub fn name_session(
        &mut self,
        half: Half,
        peer: Option<&SessionPeer>,
        id: Option<String>,
        own: impl FnOnce() -> String,
    ) -> (String, Option<NonZeroU64>) {
        match (id, peer) {
            (Some(id), Some(peer)) => {
                let (id, taken) = self.take(half, peer, id);
                (id, Some(taken))
            }
            (Some(id), None) => (id, None),
            (None, _) => (own(), None),
        }
    }

    /// What a gateway calls its session, with an addition if that gateway has an open one of that id.
    fn take(&mut self, half: Half, peer: &SessionPeer, id: String) -> (String, NonZeroU64) {
        let process = (half, peer.process_name());
        let mut own = id.clone();
        loop {
            let hash = NonZeroU64::MIN | self.hasher.hash_one((&process, &own));
            if self.open.insert(hash) {
                return (own, hash);
            }
            own = format!("{id}~{:08x}", fastrand::u32(..));
        }
    }

    pub fn give_back(&mut self, hash: NonZeroU64) {
        self.open.remove(&hash);
    }
}
