//! The clients that log in, by address, and what their wrong logins cost them. Each may send some wrong ones at
//! once and earns back some each second. One that has used them up waits for each login that it sends, among its
//! own and behind nobody else's.

use std::{
    hash::RandomState,
    net::IpAddr,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lru::LruCache;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep},
};

use crate::admission::{source_network::source_network, token_bucket::TokenBucket};

/// How many logins of one client may be checked or wait.
pub const PER_CLIENT_MAX: usize = 8;
/// How many clients are remembered.
const CLIENTS_MAX: NonZeroUsize = NonZeroUsize::new(65_536).expect("it is not zero");

/// How many wrong logins a client may send without waiting, and how many it earns back each second.
#[derive(Debug, Clone, Copy)]
pub struct WrongLogins {
    pub burst: f64,
    pub per_second: f64,
}

#[derive(Debug)]
pub struct LoginClients {
    allowed: WrongLogins,
    /// Its hasher is one that clients cannot foresee.
    clients: Mutex<LruCache<IpAddr, Arc<LoginClient>, RandomState>>,
}

/// One client: an IPv4 address, or an IPv6 network.
#[derive(Debug)]
pub struct LoginClient {
    permits: Arc<Semaphore>,
    /// Held by one of its logins at a time, in order.
    turn: Arc<Semaphore>,
    allowed: WrongLogins,
    earned: Mutex<TokenBucket>,
}

impl LoginClients {
    pub fn new(allowed: WrongLogins) -> Self {
        Self { allowed, clients: Mutex::new(LruCache::with_hasher(CLIENTS_MAX, RandomState::new())) }
    }

    /// The client with this address, which is remembered from now on.
    pub fn remember(&self, address: IpAddr) -> Arc<LoginClient> {
        let new = || Arc::new(LoginClient::new(self.allowed));
        self.lock().get_or_insert(source_network(address), new).clone()
    }

    /// The client with this address, if it is remembered.
    pub fn find(&self, address: IpAddr) -> Option<Arc<LoginClient>> {
        self.lock().get(&source_network(address)).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<IpAddr, Arc<LoginClient>, RandomState>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LoginClient {
    fn new(allowed: WrongLogins) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(PER_CLIENT_MAX)),
            turn: Arc::new(Semaphore::new(1)),
            allowed,
            earned: Mutex::new(TokenBucket::new(allowed.burst, Instant::now().into_std())),
        }
    }

    /// A permit for one of its own logins; `None` if too many of them wait.
    pub fn take_permit(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_owned().ok()
    }

    /// Waits for its earlier logins, and until it may send one more wrong one.
    pub async fn wait_for_turn(&self) -> Option<OwnedSemaphorePermit> {
        let turn = self.turn.clone().acquire_owned().await.ok();
        loop {
            let wait = self.earned().time_until_token(self.allowed.per_second);
            if wait.is_zero() {
                return turn;
            }
            sleep(wait).await;
        }
    }

    /// Whether its next login has to wait.
    pub fn has_to_wait(&self) -> bool {
        !self.earned().time_until_token(self.allowed.per_second).is_zero()
    }

    pub fn count_wrong_login(&self) {
        self.earned().take();
    }

    /// How many wrong logins it may send now.
    fn earned(&self) -> MutexGuard<'_, TokenBucket> {
        let mut earned = self.earned.lock().unwrap_or_else(PoisonError::into_inner);
        earned.refill(Instant::now().into_std(), self.allowed.per_second, self.allowed.burst);
        earned
    }
}
