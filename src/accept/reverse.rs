//! Sessions over links that this half dialled and parked at a DMZ gateway.
//!
//! One [`Keeper`] for each service and gateway keeps `prepared` links ready by reconciliation: on
//! every event and on a timer it compares what is ready and under way with what is wanted, and
//! dials what is missing, several at once. A failed dial shrinks nothing, since nothing is owed.
//! After a failure it pauses, and dials one link until one stands.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use socks5_proto::Address;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{LinkHold, Negotiated, Reply, Serve};
use crate::{
    link::{GREET, Peer, greet, pool::Carrying},
    net::{backoff::Backoff, stream::Stream, tcp, tls::Identity},
    profile::{LinkAddress, Retry, Role, ServiceName},
    proto::socks5::{self, SocksError},
    tasks::Tasks,
    telemetry::{
        notices::Notices,
        snapshot::{PoolRow, PoolState},
    },
};

/// Dials of one keeper under way at once.
const DIALS_MAX: usize = 16;
/// A keeper looks again at least this often, whatever events it has seen.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A link that was ready for so long shows that the way is good: a loss starts no pause.
const LIVED: Duration = Duration::from_secs(1);

/// What a keeper keeps, and for whom.
#[derive(Clone)]
pub struct Wanted {
    pub service: ServiceName,
    pub gateway: LinkAddress,
    pub prepared: usize,
    pub retry: Retry,
    /// Which gateways may use the service; `None`: all of the link's peers.
    pub peers: Option<Vec<String>>,
}

/// What the keepers of one half share.
#[derive(Clone)]
pub struct Shared {
    pub identity: Arc<ArcSwap<Option<Identity>>>,
    /// Links in all, ready or carrying.
    pub links: Arc<Semaphore>,
    pub serve: Serve,
    pub tasks: Tasks,
    pub notices: Arc<Notices>,
}

/// Keeps links of one service ready at one DMZ gateway until it is retired.
pub struct Keeper {
    shared: Shared,
    books: Mutex<Books>,
    changed: Notify,
    carrying: Arc<AtomicUsize>,
    retired: CancellationToken,
    stop_dialling: CancellationToken,
}

struct Books {
    wanted: Wanted,
    ready: usize,
    dialling: usize,
    /// Whether a client has ever come over one of its links.
    opened: bool,
    failures: u64,
    backoff: Backoff,
    next_dial: Option<Instant>,
    /// Since when links have stood without a failure in between.
    good_since: Option<Instant>,
    last_error: Option<String>,
    peer: Option<Arc<str>>,
}

impl Keeper {
    /// Starts to keep links ready.
    pub fn start(wanted: Wanted, shared: Shared) -> Arc<Self> {
        let books = Books {
            wanted,
            ready: 0,
            dialling: 0,
            opened: false,
            failures: 0,
            backoff: Backoff::default(),
            next_dial: None,
            good_since: None,
            last_error: None,
            peer: None,
        };
        let keeper = Arc::new(Self {
            shared,
            books: Mutex::new(books),
            changed: Notify::new(),
            carrying: Arc::default(),
            retired: CancellationToken::new(),
            stop_dialling: CancellationToken::new(),
        });
        keeper.shared.tasks.spawn("keeper", keeper.clone().run());
        keeper
    }

    /// Wants something else from now on; for the same service and gateway.
    pub fn update(&self, wanted: Wanted) {
        let mut books = self.lock();
        books.wanted = wanted;
        // A new pause may be shorter than the one under way.
        books.next_dial = books.next_dial.map(|at| at.min(Instant::now() + books.wanted.retry.maximum));
        drop(books);
        self.changed.notify_one();
    }

    /// Dials no more; links that are ready stay until [`Keeper::retire`].
    pub fn stop_dialling(&self) {
        self.stop_dialling.cancel();
    }

    /// Closes the ready links and ends. Sessions go on.
    pub fn retire(&self) {
        self.stop_dialling.cancel();
        self.retired.cancel();
    }

    /// Whether new sessions can come this way: the pool is full, or they come already, and under
    /// load a pool may never be seen full.
    pub fn can_serve(&self) -> bool {
        let books = self.lock();
        books.opened || books.ready >= books.wanted.prepared
    }

    pub fn row(&self) -> PoolRow {
        let books = self.lock();
        let carrying = self.carrying.load(Ordering::Relaxed);
        let state = match books.ready {
            ready if ready >= books.wanted.prepared => PoolState::Healthy,
            0 if carrying == 0 && books.last_error.is_some() => PoolState::Down,
            _ => PoolState::Filling,
        };
        let pause = books.next_dial.map(|at| at.saturating_duration_since(Instant::now()));
        PoolRow {
            role: Role::Internal,
            service: books.wanted.service.to_string(),
            peer: books.peer.as_ref().map(ToString::to_string),
            address: Some(books.wanted.gateway.to_string()),
            state,
            ready: books.ready,
            carrying,
            dialling: books.dialling,
            target: books.wanted.prepared,
            waiting: 0,
            misses: 0,
            failures: books.failures,
            last_error: books.last_error.clone(),
            retry_seconds: pause.filter(|pause| !pause.is_zero()).map(|pause| pause.as_secs_f64()),
        }
    }

    async fn run(self: Arc<Self>) {
        loop {
            let pause = self.reconcile();
            tokio::select! {
                () = self.stop_dialling.cancelled() => return,
                () = self.changed.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Starts the dials that are missing; how long until there is reason to look again.
    fn reconcile(self: &Arc<Self>) -> Duration {
        let mut books = self.lock();
        let now = Instant::now();
        if let Some(at) = books.next_dial {
            if at > now {
                return (at - now).min(LOOK_AGAIN);
            }
            books.next_dial = None;
        }
        if books.good_since.is_some_and(|at| at.elapsed() >= LIVED) {
            books.backoff.reset();
        }
        let at_once = if books.backoff.failures() > 0 && books.ready == 0 { 1 } else { DIALS_MAX };
        let missing = books.wanted.prepared.saturating_sub(books.ready + books.dialling);
        for _ in 0..missing.min(at_once.saturating_sub(books.dialling)) {
            let Ok(permit) = self.shared.links.clone().try_acquire_owned() else {
                books.last_error = Some("`maximum` links are in use".into());
                break;
            };
            books.dialling += 1;
            self.shared.tasks.spawn("dialled link", self.clone().link(permit));
        }
        LOOK_AGAIN
    }

    /// One link from its dial to its end.
    async fn link(self: Arc<Self>, permit: OwnedSemaphorePermit) {
        let Some(dialled) = self.retired.run_until_cancelled(self.dial()).await else { return };
        let (mut stream, peer) = match dialled {
            Ok(link) => link,
            Err(error) => return self.failed(Step::Dialling, error, false),
        };
        let since = Instant::now();
        self.stands(&peer);
        let announced = tokio::select! {
            biased;
            first = socks5::await_announcement(&mut stream) => first,
            // Dropped, which resets it: the other side may have taken it a moment ago, and a clean
            // end would be its client's.
            () = self.retired.cancelled() => return,
        };
        let announced = match announced {
            Ok(first) => timeout(GREET, socks5::take_announcement(first, &mut stream)).await,
            Err(error) => Ok(Err(error)),
        };
        match announced {
            Ok(Ok(client)) => self.opened(stream, peer, client, permit).await,
            Ok(Err(SocksError::Closed)) => {
                self.failed(Step::Ready, "the peer closed a ready link".into(), since.elapsed() >= LIVED);
            }
            Ok(Err(error)) => {
                self.failed(Step::Ready, format!("ready link lost: {error}"), since.elapsed() >= LIVED);
            }
            Err(_) => self.failed(Step::Ready, "the second reply did not come whole".into(), false),
        }
    }

    async fn dial(&self) -> Result<(Stream, Peer), String> {
        let wanted = self.lock().wanted.clone();
        let identity = self.shared.identity.load_full();
        let dialled = greet::dial(&wanted.gateway, identity.as_ref().as_ref()).await;
        let (mut stream, peer) = dialled.map_err(|error| error.to_string())?;
        if !peer.is_among(wanted.peers.as_deref()) {
            return Err(format!("{} is not among the service's `peers`", peer.label()));
        }
        greet::park(&mut stream, &wanted.service).await.map_err(|error| error.to_string())?;
        Ok((stream, peer))
    }

    async fn opened(&self, stream: Stream, peer: Peer, client: Address, permit: OwnedSemaphorePermit) {
        let carrying = Carrying::one(&self.carrying);
        let service = {
            let mut books = self.lock();
            books.ready -= 1;
            books.opened = true;
            books.backoff.reset();
            books.wanted.service.clone()
        };
        // Refilled now, not when the session ends.
        self.changed.notify_one();
        if let Some(stream) = stream.tcp() {
            // Fails only on a socket that is already gone, as the session will find out.
            let _ = tcp::link_carries(stream);
        }
        let serve = self.shared.serve.clone();
        serve(Negotiated {
            role: Role::Internal,
            stream,
            service,
            client: address(client),
            peer: Some(peer),
            reply: Reply::Silent,
            link: Some(LinkHold { carrying, permit }),
        })
        .await;
    }

    fn stands(&self, peer: &Peer) {
        let mut books = self.lock();
        books.dialling -= 1;
        books.ready += 1;
        books.peer = Some(peer.label());
        let failures = if books.good_since.is_none() { books.backoff.failures() } else { 0 };
        books.good_since.get_or_insert_with(Instant::now);
        books.next_dial = None;
        books.last_error = None;
        let (service, gateway) = (books.wanted.service.clone(), books.wanted.gateway.clone());
        drop(books);
        if failures > 0 {
            let line = format!("{service}: link to {gateway} stands, after {failures} failures in a row");
            self.shared.notices.info(line);
        }
        self.changed.notify_one();
    }

    fn failed(&self, step: Step, error: String, way_is_good: bool) {
        let mut books = self.lock();
        match step {
            Step::Dialling => books.dialling -= 1,
            Step::Ready => books.ready -= 1,
        }
        books.failures += 1;
        let now = Instant::now();
        let first = books.last_error.is_none();
        // Dials that were under way together fail together, and count as one.
        if !way_is_good && books.next_dial.is_none_or(|at| at <= now) {
            let retry = books.wanted.retry;
            let pause = books.backoff.fail(retry, fastrand::f64());
            books.next_dial = Some(now + pause);
            books.good_since = None;
        }
        books.last_error = Some(error.clone());
        let line = format!("{}: link to {}: {error}", books.wanted.service, books.wanted.gateway);
        drop(books);
        // One line when it begins; the row and its count show that it goes on.
        if first {
            self.shared.notices.warn(line);
        } else {
            tracing::debug!("{line}");
        }
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a link was when it failed.
enum Step {
    Dialling,
    Ready,
}

/// The client's address in a second reply; another gateway's software may name it otherwise.
fn address(client: Address) -> Option<SocketAddr> {
    match client {
        Address::SocketAddress(address) => Some(SocketAddr::new(address.ip().to_canonical(), address.port())),
        Address::DomainAddress(..) => None,
    }
}
