//! The probes that are on their way to a client port, by the address that each comes from.
//!
//! A client port asks for every client, so it looks at a count first, and at the table only while a probe is under
//! way. Who sends a probe, and what becomes of it, is not here.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::profile::ServiceName;

/// A probe that is on its way.
#[derive(Debug, Clone)]
pub struct ExpectedProbe {
    pub service: ServiceName,
    /// Whether it begins with a handshake.
    pub by_tls: bool,
}

/// The probes under way. Those do not use the PROXY protocol: their address is that of their connection.
#[derive(Debug, Default)]
pub struct ExpectedProbes {
    /// Read for each client; the lock is taken only while this is not 0.
    count: AtomicUsize,
    by_address: Mutex<HashMap<SocketAddr, ExpectedProbe>>,
}

impl ExpectedProbes {
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    /// The probe that comes from an address, if any.
    pub fn lookup(&self, from: SocketAddr) -> Option<ExpectedProbe> {
        if self.is_empty() {
            return None;
        }
        self.lock().get(&from).cloned()
    }

    pub fn expect(&self, from: SocketAddr, probe: ExpectedProbe) {
        let mut expected = self.lock();
        expected.insert(from, probe);
        self.count.store(expected.len(), Ordering::SeqCst);
    }

    /// Expects a probe from this address no longer.
    pub fn forget(&self, from: SocketAddr) {
        let mut expected = self.lock();
        expected.remove(&from);
        self.count.store(expected.len(), Ordering::SeqCst);
    }

    /// An address that no client and no other probe uses.
    pub fn unused_address(&self) -> SocketAddr {
        let expected = self.lock();
        let all = (0..=u16::MAX).map(|port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
        // Probes run one after another, so there is always one free.
        all.into_iter().find(|at| !expected.contains_key(at)).unwrap_or((Ipv4Addr::UNSPECIFIED, 0).into())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, ExpectedProbe>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
