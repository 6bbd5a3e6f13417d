//! Dial an internal gateway for each session, as a SOCKS5 client.
//!
//! Gateways take turns; one that could not be reached comes last. A look-in task for each greets
//! it from time to time, so that the state shown is true before a client depends on it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use socks5_proto::Reply;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{ConnectFailure, Connected, Order, direct::BACKEND_CONNECT};
use crate::{
    link::{
        Peer, Refusal,
        greet::{self, LinkError},
        pool::Carrying,
    },
    net::{backoff::Backoff, stream::Stream, tcp, tls::Identity},
    profile::{LinkAddress, Retry, Role},
    proto::socks5::{self, Asks, SocksError},
    tasks::Tasks,
    telemetry::{
        end::Who,
        notices::Notices,
        snapshot::{PoolRow, PoolState},
    },
};

/// An internal gateway answers a request in this time: its backend's deadline, and the way.
const ANSWER: Duration = BACKEND_CONNECT.saturating_add(Duration::from_secs(1));
/// All gateways together.
const CONNECT_TOTAL: Duration = Duration::from_secs(15);
/// A gateway that answers is looked in on this often.
const LOOK_IN: Duration = Duration::from_secs(5);
/// One that does not is tried like a lost link.
const RETRY: Retry = Retry { first: Duration::from_millis(500), maximum: Duration::from_secs(2) };
/// The same while a switch waits for it.
const RETRY_HURRIED: Retry = Retry { first: Duration::from_millis(250), maximum: Duration::from_millis(500) };

/// The internal gateways that this half dials.
#[derive(Debug)]
pub struct Dialler {
    gateways: Vec<Gateway>,
    identity: Arc<ArcSwap<Option<Identity>>>,
    notices: Arc<Notices>,
    turn: AtomicUsize,
    hurried: AtomicBool,
}

#[derive(Debug)]
struct Gateway {
    address: LinkAddress,
    dialling: Arc<AtomicUsize>,
    carrying: Arc<AtomicUsize>,
    seen: Mutex<Seen>,
}

/// What the last dial of a gateway showed.
#[derive(Debug, Default)]
struct Seen {
    reached: Option<Instant>,
    peer: Option<Arc<str>>,
    last_error: Option<String>,
    failures: u64,
}

impl Dialler {
    /// Starts to look in on each gateway, until `stop`.
    pub fn start(
        addresses: &[LinkAddress],
        identity: Arc<ArcSwap<Option<Identity>>>,
        tasks: &Tasks,
        notices: Arc<Notices>,
        stop: &CancellationToken,
    ) -> Arc<Self> {
        let gateway = |address: &LinkAddress| Gateway {
            address: address.clone(),
            dialling: Arc::default(),
            carrying: Arc::default(),
            seen: Mutex::default(),
        };
        let dialler = Arc::new(Self {
            gateways: addresses.iter().map(gateway).collect(),
            identity,
            notices,
            turn: AtomicUsize::new(0),
            hurried: AtomicBool::new(true),
        });
        for at in 0..dialler.gateways.len() {
            let (dialler, stop) = (dialler.clone(), stop.clone());
            tasks.spawn("look-in", async move {
                stop.run_until_cancelled(dialler.look_in(at)).await;
            });
        }
        dialler
    }

    /// A switch has ended: gateways that do not answer are tried at the usual pace.
    pub fn calm(&self) {
        self.hurried.store(false, Ordering::Relaxed);
    }

    pub fn all_reached(&self) -> bool {
        self.gateways.iter().all(Gateway::is_reached)
    }

    pub fn any_reached(&self) -> bool {
        self.gateways.iter().any(Gateway::is_reached)
    }

    pub fn rows(&self) -> Vec<PoolRow> {
        self.gateways.iter().map(Gateway::row).collect()
    }

    pub async fn connect(&self, order: &Order<'_>) -> Result<Connected, ConnectFailure> {
        let tried = timeout(CONNECT_TOTAL, self.try_gateways(order)).await;
        tried.unwrap_or_else(|_| {
            let reason = format!("no internal gateway answered within {}s", CONNECT_TOTAL.as_secs());
            Err(ConnectFailure { who: Who::Time, refusal: Refusal::Unavailable, reason })
        })
    }

    async fn try_gateways(&self, order: &Order<'_>) -> Result<Connected, ConnectFailure> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = self.gateways.len();
        let mut turns: Vec<&Gateway> = (0..count).map(|step| &self.gateways[(turn + step) % count]).collect();
        turns.sort_by_key(|gateway| gateway.seen().last_error.is_some());
        let mut last = None;
        for gateway in turns {
            match self.open(gateway, order).await {
                Ok(connected) => return Ok(connected),
                // The gateway has spoken for its backend; another one's would be another answer.
                Err(failure) if failure.who == Who::Backend => return Err(failure),
                Err(failure) => last = Some(failure),
            }
        }
        Err(last.expect("a profile names at least one gateway, and each was tried"))
    }

    async fn open(&self, gateway: &Gateway, order: &Order<'_>) -> Result<Connected, ConnectFailure> {
        let (mut stream, peer) = self.dial(gateway).await.map_err(|error| ConnectFailure {
            who: Who::Peer,
            refusal: Refusal::Unavailable,
            reason: format!("link to {}: {error}", gateway.address),
        })?;
        if !peer.is_among(order.peers) {
            greet::bid_farewell(stream).await;
            let reason = format!("{} is not among the service's `peers`", peer.label());
            return Err(ConnectFailure { who: Who::Policy, refusal: Refusal::NotAllowed, reason });
        }
        let carrying = Carrying::one(&gateway.carrying);
        let answered = timeout(ANSWER, async {
            socks5::ask(&mut stream, Asks::Connect, order.service).await?;
            socks5::take_answer(&mut stream).await
        });
        match answered.await {
            Ok(Ok(_)) => {
                if let Some(stream) = stream.tcp() {
                    // Fails only on a socket that is already gone, as the session will find out.
                    let _ = tcp::link_carries(stream);
                }
                Ok(Connected { stream, peer: Some(peer), carrying: Some(carrying) })
            }
            Ok(Err(error)) => Err(refused(&peer, &error)),
            Err(_) => Err(ConnectFailure {
                who: Who::Time,
                refusal: Refusal::Unavailable,
                reason: format!("{} did not answer within {}s", peer.label(), ANSWER.as_secs()),
            }),
        }
    }

    /// Up to the method; what came of it is kept for the picture.
    async fn dial(&self, gateway: &Gateway) -> Result<(Stream, Peer), LinkError> {
        let identity = self.identity.load_full();
        let counted = Carrying::one(&gateway.dialling);
        let dialled = greet::dial(&gateway.address, identity.as_ref().as_ref()).await;
        drop(counted);
        let mut seen = gateway.seen();
        match &dialled {
            Ok((_, peer)) => {
                if seen.last_error.take().is_some() {
                    self.notices.info(format!("link to {}: reached again", gateway.address));
                }
                seen.reached = Some(Instant::now());
                seen.peer = Some(peer.label());
            }
            Err(error) => {
                if seen.last_error.is_none() {
                    self.notices.warn(format!("link to {}: {error}", gateway.address));
                }
                seen.failures += 1;
                seen.last_error = Some(error.to_string());
            }
        }
        dialled
    }

    /// Greets a gateway whenever no session has done so lately.
    async fn look_in(&self, at: usize) {
        let gateway = &self.gateways[at];
        let mut backoff = Backoff::default();
        loop {
            let pause = match self.dial(gateway).await {
                Ok((stream, _)) => {
                    greet::bid_farewell(stream).await;
                    backoff.reset();
                    LOOK_IN
                }
                Err(_) if self.hurried.load(Ordering::Relaxed) => {
                    backoff.fail(RETRY_HURRIED, fastrand::f64())
                }
                Err(_) => backoff.fail(RETRY, fastrand::f64()),
            };
            tokio::time::sleep(pause).await;
            while let Some(age) = gateway.reached_ago()
                && age < LOOK_IN
            {
                tokio::time::sleep(LOOK_IN - age).await;
            }
        }
    }
}

impl Gateway {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the last dial reached it.
    fn is_reached(&self) -> bool {
        let seen = self.seen();
        seen.reached.is_some() && seen.last_error.is_none()
    }

    /// How long ago it was reached, while the last dial did.
    fn reached_ago(&self) -> Option<Duration> {
        let seen = self.seen();
        seen.reached.filter(|_| seen.last_error.is_none()).map(|at| at.elapsed())
    }

    fn row(&self) -> PoolRow {
        let seen = self.seen();
        let state = match (&seen.last_error, seen.reached) {
            (Some(_), _) => PoolState::Down,
            (None, Some(_)) => PoolState::Healthy,
            (None, None) => PoolState::Filling,
        };
        PoolRow {
            role: Role::Dmz,
            service: "*".into(),
            peer: seen.peer.as_ref().map(ToString::to_string),
            address: Some(self.address.to_string()),
            state,
            ready: 0,
            carrying: self.carrying.load(Ordering::Relaxed),
            dialling: self.dialling.load(Ordering::Relaxed),
            target: 0,
            waiting: 0,
            misses: 0,
            failures: seen.failures,
            last_error: seen.last_error.clone(),
            retry_seconds: None,
        }
    }
}

/// A refused request: whose doing it is, by the reply code.
fn refused(peer: &Peer, error: &SocksError) -> ConnectFailure {
    let (who, refusal) = match error {
        SocksError::Refused(Reply::ConnectionNotAllowed) => (Who::Policy, Refusal::NotAllowed),
        SocksError::Refused(Reply::HostUnreachable | Reply::NetworkUnreachable) => {
            (Who::Backend, Refusal::BackendUnreachable)
        }
        SocksError::Refused(Reply::ConnectionRefused) => (Who::Backend, Refusal::BackendRefused),
        SocksError::Refused(Reply::TtlExpired) => (Who::Backend, Refusal::BackendLate),
        _ => (Who::Peer, Refusal::Unavailable),
    };
    ConnectFailure { who, refusal, reason: format!("{}: {error}", peer.label()) }
}
