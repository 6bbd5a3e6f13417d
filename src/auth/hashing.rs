//! Schedules the computation of password hashes. A hash is slow by design, so a flood of logins could occupy
//! all processors. Therefore few are computed at once, on threads beside the runtime's. Each client has one
//! computed at a time, and clients take turns. A client that has sent many wrong passwords waits longer for
//! each.

use std::{net::IpAddr, num::NonZeroUsize, sync::Arc, thread, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::login_clients::{LoginClient, LoginClients, WrongLogins};
use crate::tasks::{self, BlockedWork};

/// How many of all clients may be computed or wait for a processor. A client has one of these permits at most, and
/// none while it waits for its own logins or for its wrong passwords.
const IN_ALL_MAX: usize = 256;
/// How many are computed at once, and never on more than half of the processors.
const AT_ONCE_MAX: usize = 4;
const WRONG_PASSWORDS: WrongLogins = WrongLogins { burst: 32.0, per_second: 1.0 };
/// The longest wait of a login for its turn, and then for its hash.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct HashingQueue {
    at_once: Arc<Semaphore>,
    in_all: Arc<Semaphore>,
    clients: LoginClients,
}

/// Why a login is not checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashingRefusal {
    /// Too many others of its client wait.
    OfClient,
    /// Too many of all clients wait, its turn did not come, or its hash took too long.
    OfAll,
}

impl Default for HashingQueue {
    fn default() -> Self {
        let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self::new((processors / 2).clamp(1, AT_ONCE_MAX))
    }
}

impl HashingQueue {
    pub(super) fn new(at_once: usize) -> Self {
        Self {
            at_once: Arc::new(Semaphore::new(at_once)),
            in_all: Arc::new(Semaphore::new(IN_ALL_MAX)),
            clients: LoginClients::new(WRONG_PASSWORDS),
        }
    }

    /// Checks a login as soon as it is the client's turn.
    pub async fn run(
        &self,
        client: IpAddr,
        is_right: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<bool, HashingRefusal> {
        let client = self.clients.remember(client);
        let permit = client.take_permit().ok_or(HashingRefusal::OfClient)?;
        let turn = timeout(QUEUE_TIMEOUT, self.wait_for_turn(&client))
            .await
            .map_err(|_| HashingRefusal::OfAll)??;
        // The computation cannot be stopped, so its permits are held until it ends, even if its client has
        // left. A wrong password is counted before the client's next login can look.
        let computing = tasks::run_blocking("password hash", QUEUE_TIMEOUT, move || {
            let is_right = is_right();
            if !is_right {
                client.count_wrong_login();
            }
            drop((permit, turn));
            is_right
        });
        match computing.await {
            Ok(is_right) => Ok(is_right),
            Err(BlockedWork::Panicked) => Ok(false),
            Err(BlockedWork::Late(_)) => Err(HashingRefusal::OfAll),
        }
    }

    /// Waits first among the client's own logins, then among the clients, in the order of arrival.
    async fn wait_for_turn(
        &self,
        client: &LoginClient,
    ) -> Result<[Option<OwnedSemaphorePermit>; 3], HashingRefusal> {
        let own = client.wait_for_turn().await;
        let in_all = self.in_all.clone().try_acquire_owned().map_err(|_| HashingRefusal::OfAll)?;
        Ok([own, Some(in_all), self.at_once.clone().acquire_owned().await.ok()])
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        sync::{Mutex, mpsc},
    };

    use futures_util::future::join_all;

    use super::*;
    use crate::{auth::login_clients::PER_CLIENT_MAX, tests::happens_after};

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    #[tokio::test]
    async fn clients_take_turns_and_a_flood_costs_its_sender() {
        let queue = HashingQueue::new(1);
        let (open, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let order = Arc::new(Mutex::new(Vec::new()));
        // The first one waits until all have asked, so that there is a queue.
        let from = |client: u8| {
            let (gate, order) = (gate.clone(), order.clone());
            queue.run(address(client), move || {
                if order.lock().expect("no panic").is_empty() {
                    gate.lock().expect("no panic").recv().expect("it is sent");
                }
                order.lock().expect("no panic").push(client);
                true
            })
        };
        let flood = join_all((0..PER_CLIENT_MAX + 3).map(|_| from(1)));
        let asking = async { open.send(()).expect("somebody waits") };
        let (flood, other, ()) = tokio::join!(flood, from(2), asking);
        assert_eq!(other, Ok(true));
        let refused = flood.iter().filter(|answer| **answer == Err(HashingRefusal::OfClient)).count();
        assert_eq!((refused, flood.len()), (3, PER_CLIENT_MAX + 3));
        let order = order.lock().expect("no panic");
        assert_eq!((&order[..2], order.len()), (&[1, 2][..], PER_CLIENT_MAX + 1), "{order:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn many_wrong_passwords_delay_only_their_client() {
        let queue = HashingQueue::new(1);
        for _ in 0..WRONG_PASSWORDS.burst as usize {
            assert_eq!(queue.run(address(1), || false).await, Ok(false));
        }
        let took = |client: u8| {
            let queue = &queue;
            async move {
                let began = tokio::time::Instant::now();
                assert_eq!(queue.run(address(client), || true).await, Ok(true));
                began.elapsed()
            }
        };
        let (waited, other) = (took(1).await, took(2).await);
        assert!(waited > Duration::from_millis(300) && waited <= Duration::from_secs(1), "{waited:?}");
        assert!(other < waited / 10, "{other:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_password_counts_for_the_login_behind_it() {
        let queue = HashingQueue::new(1);
        for _ in 1..WRONG_PASSWORDS.burst as usize {
            assert_eq!(queue.run(address(1), || false).await, Ok(false));
        }
        let began = tokio::time::Instant::now();
        let last = queue.run(address(1), || false);
        let next = async { (queue.run(address(1), || true).await, began.elapsed()) };
        let (last, (next, waited)) = tokio::join!(last, next);
        assert_eq!((last, next), (Ok(false), Ok(true)));
        assert!(waited > Duration::from_millis(300), "{waited:?}");
    }

    /// Their waits would take every permit there is if they counted.
    #[tokio::test(start_paused = true)]
    async fn wrong_passwords_of_many_clients_leave_others_their_places() {
        let queue = HashingQueue::new(1);
        let senders = 1..=(IN_ALL_MAX / PER_CLIENT_MAX + 8) as u8;
        for sender in senders.clone() {
            for _ in 0..WRONG_PASSWORDS.burst as usize {
                assert_eq!(queue.run(address(sender), || false).await, Ok(false));
            }
        }
        let waiting = senders.flat_map(|sender| [sender; PER_CLIENT_MAX]);
        let flood = join_all(waiting.map(|sender| queue.run(address(sender), || false)));
        let began = tokio::time::Instant::now();
        let other = async {
            // Each of the others has come before.
            tokio::task::yield_now().await;
            (queue.run(address(250), || true).await, began.elapsed())
        };
        let (flood, (other, waited)) = tokio::join!(flood, other);
        assert_eq!(other, Ok(true));
        assert!(waited < Duration::from_millis(300), "{waited:?}");
        assert!(flood.iter().all(|answer| *answer == Ok(false)), "{flood:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_waits_no_longer_for_its_turn() {
        let queue = HashingQueue::new(1);
        let computing = queue.at_once.clone().try_acquire_owned().expect("nobody else asks");
        let waited = happens_after(QUEUE_TIMEOUT, queue.run(address(1), || true)).await;
        assert_eq!(waited, Err(HashingRefusal::OfAll));
        drop(computing);
        assert_eq!(queue.run(address(1), || true).await, Ok(true));
    }
}
