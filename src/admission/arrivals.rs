//! Clients that a port has accepted and that have no session yet.
//!
//! A stop waits for them: a client that was accepted before the port closed is served. So a port that a service
//! manager holds during a restart refuses nobody.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// After its port has closed, a client that sends nothing is waited for this long.
const SILENT_CLIENT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub struct ClientArrivals {
    count: AtomicUsize,
    ended: CancellationToken,
}

/// A client, until it has a session or is gone; or a port, which may accept a client at any moment.
#[derive(Debug)]
pub struct ClientArrival(Arc<ClientArrivals>);

impl ClientArrivals {
    pub fn begin(self: &Arc<Self>) -> ClientArrival {
        self.count.fetch_add(1, Ordering::SeqCst);
        ClientArrival(self.clone())
    }

    /// Whether clients still have to be waited for, if the ports closed at that time.
    pub fn are_awaited(&self, closed: Instant) -> bool {
        self.count.load(Ordering::SeqCst) > 0 && closed.elapsed() < SILENT_CLIENT_TIMEOUT
    }

    /// From now on a stop does not wait for them.
    pub fn end(&self) {
        self.ended.cancel();
    }
}

impl ClientArrival {
    /// Cancelled when nobody waits for it any more.
    pub fn ended(&self) -> CancellationToken {
        self.0.ended.clone()
    }
}

impl Drop for ClientArrival {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{LITTLE, happens_after};

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_waited_for_up_to_the_limit() {
        let arrivals = Arc::<ClientArrivals>::default();
        let (closed, _silent) = (Instant::now(), arrivals.begin());
        let given_up = async {
            while arrivals.are_awaited(closed) {
                tokio::time::sleep(LITTLE / 2).await;
            }
        };
        happens_after(SILENT_CLIENT_TIMEOUT, given_up).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_does_not_wait_once_every_client_has_a_session() {
        let arrivals = Arc::<ClientArrivals>::default();
        let (closed, port, client) = (Instant::now(), arrivals.begin(), arrivals.begin());
        drop(port);
        assert!(arrivals.are_awaited(closed));
        drop(client);
        assert!(!arrivals.are_awaited(closed));
    }
}
