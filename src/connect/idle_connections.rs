//! Connections to one HTTP backend that carry no request at the moment, kept for the next request of any
//! client.
//!
//! No task drives them meanwhile. Each is checked before it is used, down to its socket. One that the backend
//! has closed is not used. Neither is one on which the backend has sent something without a request, since the
//! next client would take that for its answer. A sweep closes connections that have ended or waited too long.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Waker},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::backend_connection::BackendConnection;
use crate::{http::driver::ConnectionDriver, tasks::Tasks};

/// How many are kept; past that the one that has waited longest is closed.
const IDLE_MAX: usize = 128;
/// A connection for which no request has come is closed after this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time between two checks of waiting connections.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The session that used a connection last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionUser(pub u64);

/// A connection with the future that drives it.
pub struct IdleConnection {
    pub connection: BackendConnection,
    pub driver: ConnectionDriver,
    user: ConnectionUser,
    since: Instant,
}

/// The connection that may be used for the next request.
#[derive(Debug, Clone, Copy)]
pub enum WantedConnection {
    /// Any: for a request that may be repeated.
    Any,
    /// Only one that its own session has used last: for other requests.
    UsedBy(ConnectionUser),
}

/// The waiting connections; the one used last comes last.
#[derive(Default)]
pub struct IdleConnections {
    waiting: Arc<Mutex<WaitingConnections>>,
    tasks: Tasks,
}

#[derive(Default)]
struct WaitingConnections {
    list: VecDeque<IdleConnection>,
    is_swept: bool,
}

impl IdleConnections {
    /// Keeps a connection for the next request.
    pub fn put(&self, connection: BackendConnection, driver: ConnectionDriver, user: ConnectionUser) {
        self.keep(IdleConnection { connection, driver, user, since: Instant::now() });
    }

    fn keep(&self, idle: IdleConnection) {
        let mut waiting = lock(&self.waiting);
        waiting.list.push_back(idle);
        let surplus = (waiting.list.len() > IDLE_MAX).then(|| waiting.list.pop_front()).flatten();
        let begins = !std::mem::replace(&mut waiting.is_swept, true);
        drop(waiting);
        if let Some(surplus) = surplus {
            surplus.close();
        }
        if begins {
            // It ends when none is left, or at the first sweep after their owner has gone.
            self.tasks.spawn("idle connections", sweep(Arc::downgrade(&self.waiting)));
        }
    }

    /// The most recently used one that can still be used.
    pub fn take(&self, wanted: WantedConnection, cx: &mut Context<'_>) -> Option<IdleConnection> {
        loop {
            let mut idle = self.remove(wanted)?;
            if idle.is_usable(cx) {
                return Some(idle);
            }
        }
    }

    /// Whether a request that comes now would find one; useless ones are dropped.
    pub fn has_any(&self, cx: &mut Context<'_>) -> bool {
        let Some(idle) = self.take(WantedConnection::Any, cx) else { return false };
        self.keep(idle);
        true
    }

    fn remove(&self, wanted: WantedConnection) -> Option<IdleConnection> {
        let list = &mut lock(&self.waiting).list;
        match wanted {
            WantedConnection::Any => list.pop_back(),
            WantedConnection::UsedBy(user) => {
                let at = list.iter().rposition(|idle| idle.user == user)?;
                list.remove(at)
            }
        }
    }
}

impl Drop for IdleConnections {
    fn drop(&mut self) {
        std::mem::take(&mut lock(&self.waiting).list).into_iter().for_each(IdleConnection::close);
    }
}

impl fmt::Debug for IdleConnections {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("IdleConnections").field("waiting", &lock(&self.waiting).list.len()).finish()
    }
}

impl IdleConnection {
    fn is_usable(&mut self, cx: &mut Context<'_>) -> bool {
        self.connection.upstream.poll_unused(&mut self.driver, cx)
    }

    /// Ends it cleanly, within TLS as well, so that the backend sees an end.
    fn close(self) {
        let Self { connection, mut driver, .. } = self;
        drop(connection);
        let _ = driver.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }
}

/// Closes connections that have ended or waited too long, until none is left.
async fn sweep(waiting: Weak<Mutex<WaitingConnections>>) {
    loop {
        sleep(SWEEP_INTERVAL).await;
        let Some(waiting) = waiting.upgrade() else { return };
        let (expired, is_empty) = {
            let mut waiting = lock(&waiting);
            let now = Instant::now();
            let is_late = |idle: &IdleConnection| idle.since + IDLE_TIMEOUT <= now;
            let (expired, kept): (Vec<_>, Vec<_>) = waiting.list.drain(..).partition(is_late);
            waiting.list = kept.into();
            // Whoever uses one polls it again, with a waker of its own.
            let mut cx = Context::from_waker(Waker::noop());
            waiting.list.retain_mut(|idle| idle.is_usable(&mut cx));
            waiting.is_swept = !waiting.list.is_empty();
            (expired, !waiting.is_swept)
        };
        expired.into_iter().for_each(IdleConnection::close);
        if is_empty {
            return;
        }
    }
}

fn lock(waiting: &Mutex<WaitingConnections>) -> MutexGuard<'_, WaitingConnections> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::{
        http::{HeadSource, own_names::OwnNames, response::NameMapping, upstream::UpstreamConnection},
        net::pipe::{PipeEnd, pipe},
    };

    async fn put_one(idle: &IdleConnections, user: u64) -> PipeEnd {
        let (ours, theirs) = pipe();
        let (upstream, driver) =
            UpstreamConnection::handshake(ours, HeadSource::Outside, None).await.expect("a fresh pipe");
        let mapping = NameMapping::new(OwnNames::new("h", 80, None, &[]), "/");
        let mut driver = driver;
        let mut cx = Context::from_waker(Waker::noop());
        assert!(driver.as_mut().poll(&mut cx).is_pending());
        idle.put(BackendConnection::new(upstream, mapping), driver, ConnectionUser(user));
        theirs
    }

    async fn take(idle: &IdleConnections, wanted: WantedConnection) -> Option<u64> {
        poll_fn(|cx| std::task::Poll::Ready(idle.take(wanted, cx))).await.map(|idle| idle.user.0)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_idle_for_too_long_is_closed_cleanly() {
        let idle = IdleConnections::default();
        let (mut old, began) = (put_one(&idle, 0).await, Instant::now());
        sleep(IDLE_TIMEOUT / 2).await;
        let mut young = put_one(&idle, 1).await;
        assert_eq!(old.read(&mut [0]).await.expect("a clean end"), 0);
        assert!(began.elapsed() >= IDLE_TIMEOUT && began.elapsed() <= IDLE_TIMEOUT + 2 * SWEEP_INTERVAL);
        assert_eq!(take(&idle, WantedConnection::Any).await, Some(1));
        assert_eq!(take(&idle, WantedConnection::Any).await, None);
        young.read(&mut [0]).await.expect_err("whoever took it has dropped it");
        // The sweep begins again with the next one.
        let mut next = put_one(&idle, 2).await;
        assert_eq!(next.read(&mut [0]).await.expect("a clean end"), 0);
        let mut last = put_one(&idle, 3).await;
        drop(idle);
        assert_eq!(last.read(&mut [0]).await.expect("a clean end"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_used_one_comes_first_and_no_more_are_kept_than_may_be() {
        let idle = IdleConnections::default();
        let mut ends = Vec::new();
        for user in 0..=IDLE_MAX as u64 {
            ends.push(put_one(&idle, user).await);
        }
        assert_eq!(ends[0].read(&mut [0]).await.expect("a clean end"), 0);
        assert_eq!(take(&idle, WantedConnection::Any).await, Some(IDLE_MAX as u64));
        assert_eq!(take(&idle, WantedConnection::UsedBy(ConnectionUser(7))).await, Some(7));
        assert_eq!(take(&idle, WantedConnection::UsedBy(ConnectionUser(7))).await, None);
        // Connections that the other end has closed, or on which it has sent something, are skipped.
        drop(ends.remove(IDLE_MAX - 1));
        tokio::io::AsyncWriteExt::write_all(&mut ends[IDLE_MAX - 2], b"x").await.expect("it is taken");
        assert_eq!(take(&idle, WantedConnection::Any).await, Some(IDLE_MAX as u64 - 3));
    }
}
