//! Logins that were right a moment ago. A client sends its password with every request, and no gateway could
//! compute a hash that is slow by design for each of them. A token is checked again each time, but one that was
//! right does not wait behind wrong ones.

use std::{
    fmt,
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::{hmac, rand::SystemRandom};
use lru::LruCache;

use super::basic::BasicLogin;

/// How long logins are remembered, and how many.
const CACHE_TTL: Duration = Duration::from_secs(60);
const REMEMBERED_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("it is not zero");

/// No password and no token is stored. What is stored is useless without a key that was made for this table.
pub struct RememberedLogins {
    key: Option<hmac::Key>,
    known: Mutex<LruCache<LoginKey, Instant>>,
}

/// The key that stands for a login; `None` if the system provides no random key, so that nothing is remembered.
pub type LoginKey = Option<[u8; 32]>;

impl fmt::Debug for RememberedLogins {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("RememberedLogins")
    }
}

impl Default for RememberedLogins {
    fn default() -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok();
        Self { key, known: Mutex::new(LruCache::new(REMEMBERED_MAX)) }
    }
}

impl RememberedLogins {
    pub fn key_of(&self, login: &BasicLogin) -> LoginKey {
        let mut keyed = hmac::Context::with_key(self.key.as_ref()?);
        keyed.update(login.user.as_bytes());
        // No name contains one.
        keyed.update(&[0]);
        keyed.update(&login.password);
        keyed.sign().as_ref().try_into().ok()
    }

    pub fn key_of_token(&self, token: &[u8]) -> LoginKey {
        hmac::sign(self.key.as_ref()?, token).as_ref().try_into().ok()
    }

    pub fn knows(&self, key: &LoginKey) -> bool {
        key.is_some() && self.lock().get(key).is_some_and(|since| since.elapsed() < CACHE_TTL)
    }

    pub fn remember(&self, key: LoginKey) {
        if key.is_some() {
            self.lock().put(key, Instant::now());
        }
    }

    pub fn forget(&self, key: &LoginKey) {
        self.lock().pop(key);
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<LoginKey, Instant>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
