//! Take a link that this half keeps dialled, or dial one for the session.
//!
//! A gateway that speaks our own protocol has links ready in the pool; one that speaks SOCKS5 is
//! dialled for each session. Gateways take turns; one that refuses is followed by the next. A
//! SOCKS5 one is also greeted from time to time, so that the state shown is true before a client
//! depends on it.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use socks5_proto::Reply;
use tokio::time::timeout;

use super::{ConnectFailure, Connected, Order, direct::BACKEND_CONNECT, reverse};
use crate::{
    link::{
        Peer,
        course::{AT_MAXIMUM, Failure},
        greet::{self, Granting, Linked, Reached, Says, Terms},
        keeper::{Dialled, Keeper, Shared, Uses, Wanted},
        leg::Leg,
        pool::Pool,
        seat::Seat,
    },
    net::tcp,
    profile::{LinkAddress, ServiceName},
    proto::{
        Refusal,
        socks5::{self, Asks, SocksError},
    },
    telemetry::{
        end::Who,
        snapshot::{PoolRow, SessionPhase},
    },
};

/// A SOCKS5 gateway answers a request in this time: its backend's deadline, and the way.
const ANSWER: Duration = BACKEND_CONNECT.saturating_add(Duration::from_secs(1));
/// All gateways together.
const CONNECT_TOTAL: Duration = Duration::from_secs(15);
/// Ready links that may die before they are opened, until a session gives up.
const OPENS_MAX: usize = 8;

/// The internal gateways that this half dials.
pub struct Dialler {
    pool: Arc<Pool>,
    keepers: Vec<Arc<Keeper>>,
    turn: AtomicUsize,
}

impl std::fmt::Debug for Dialler {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Dialler").field("pool", &self.pool).finish_non_exhaustive()
    }
}

struct Use {
    pool: Arc<Pool>,
    granting: Granting,
    keeper: Weak<Keeper>,
}

impl Uses for Use {
    fn terms(&self) -> Terms {
        Terms { says: Says::Opens(self.granting.clone()), epoch: self.pool.epoch().clone() }
    }

    fn heard(&self, linked: &Linked) {
        self.pool.heard(linked);
    }

    fn linked(&self, keeper: &Keeper, linked: Linked) {
        let keeper_of = self.keeper.clone();
        let lost = Arc::new(move |stood, loss| {
            if let Some(keeper) = keeper_of.upgrade() {
                keeper.lost(None, stood, loss);
            }
        });
        self.pool.dialled(linked, &keeper.counts(None), lost);
    }

    fn parks(&self) -> Vec<ServiceName> {
        Vec::new()
    }

    /// Looks in: the method shows that it is there and is who it should be.
    fn socks(&self, keeper: Arc<Keeper>, dialled: Dialled) -> BoxFuture<'static, ()> {
        async move {
            let Dialled { mut reached, place, under_way, .. } = dialled;
            match greet::offer_method(&mut reached).await {
                Ok(()) => {
                    keeper.reached(&reached.peer.label());
                    drop((place, under_way));
                    greet::bid_farewell(reached.stream).await;
                }
                Err(error) => keeper.failed(None, error.to_string(), Failure::Way),
            }
        }
        .boxed()
    }
}

impl Dialler {
    /// Starts to keep links to each gateway.
    pub fn start(
        addresses: &[LinkAddress],
        wanted: Wanted,
        pool: Arc<Pool>,
        granting: &Granting,
        shared: &Shared,
    ) -> Arc<Self> {
        let keeper = |address: &LinkAddress| {
            let (pool, granting) = (pool.clone(), granting.clone());
            let uses = |keeper| Arc::new(Use { pool, granting, keeper }) as Arc<dyn Uses>;
            Keeper::start(address.clone(), wanted, shared.clone(), uses)
        };
        let keepers = addresses.iter().map(keeper).collect();
        Arc::new(Self { pool, keepers, turn: AtomicUsize::new(0) })
    }

    pub fn update(&self, wanted: Wanted) {
        self.keepers.iter().for_each(|keeper| keeper.update(wanted));
    }

    pub fn stop_dialling(&self) {
        self.keepers.iter().for_each(|keeper| keeper.stop_dialling());
    }

    /// Ready links go; sessions stay.
    pub fn retire(&self) {
        self.keepers.iter().for_each(|keeper| keeper.retire());
        self.pool.close();
    }

    /// Links in all that each gateway takes, as far as is known.
    pub fn links_max(&self) -> usize {
        self.keepers.iter().map(|keeper| keeper.links_max()).min().unwrap_or(usize::MAX)
    }

    pub fn all_serve(&self) -> bool {
        self.keepers.iter().all(|keeper| keeper.can_serve(None))
    }

    pub fn any_serves(&self) -> bool {
        self.keepers.iter().any(|keeper| keeper.can_serve(None))
    }

    /// A row for each gateway, and one for each of `services` that none offers.
    pub fn rows<'a>(&self, services: impl Iterator<Item = &'a ServiceName>) -> Vec<PoolRow> {
        self.pool.rows_of_dialled(services, self.keepers.iter().flat_map(|keeper| keeper.rows()).collect())
    }

    /// Whether there is a gateway left that has not refused the session.
    pub fn has_other(&self, order: &Order<'_>) -> bool {
        self.pool.has_peer_for(order.service, &order.not)
            || self.keepers.iter().any(|keeper| keeper.speaks_socks())
    }

    pub async fn connect(&self, order: &mut Order<'_>) -> Result<Connected, ConnectFailure> {
        let tried = timeout(CONNECT_TOTAL, self.try_gateways(order)).await;
        tried.unwrap_or_else(|_| {
            let reason = format!("no internal gateway answered within {}s", CONNECT_TOTAL.as_secs());
            Err(ConnectFailure { who: Who::Time, refusal: Refusal::Unavailable, reason })
        })
    }

    async fn try_gateways(&self, order: &mut Order<'_>) -> Result<Connected, ConnectFailure> {
        for _ in 0..OPENS_MAX {
            let Some(taken) = self.pool.take_ready(order.service, &order.not) else { break };
            order.meter.enter(SessionPhase::Connecting);
            if let Ok(connected) = reverse::open(taken, order).await {
                return Ok(connected);
            }
        }
        let mut last = None;
        for keeper in self.in_turn() {
            order.meter.enter(SessionPhase::Connecting);
            match dial(keeper, order).await {
                Ok(connected) => return Ok(connected),
                // The gateway has spoken for its backend; another one's would be another answer.
                Err(failure) if failure.who == Who::Backend => return Err(failure),
                Err(failure) => last = Some(failure),
            }
        }
        let speaks_socks = |keeper: &Arc<Keeper>| keeper.speaks_socks();
        match last {
            Some(failure) if self.keepers.iter().all(speaks_socks) => Err(failure),
            _ => reverse::connect(&self.pool, order).await,
        }
    }

    /// The gateways that speak SOCKS5, those that do not answer last.
    fn in_turn(&self) -> Vec<&Arc<Keeper>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = self.keepers.len();
        let turns = (0..count).map(|step| &self.keepers[(turn + step) % count]);
        let mut socks: Vec<_> = turns.filter(|keeper| keeper.speaks_socks()).collect();
        socks.sort_by_key(|keeper| keeper.is_down());
        socks
    }
}

/// A SOCKS5 link for one session.
async fn dial(keeper: &Keeper, order: &mut Order<'_>) -> Result<Connected, ConnectFailure> {
    let Some(place) = keeper.place() else {
        let reason = format!("link to {}: {AT_MAXIMUM}", keeper.gateway());
        return Err(ConnectFailure { who: Who::Limit, refusal: Refusal::Full, reason });
    };
    let identity = keeper.identity();
    let dialled = async {
        let mut reached = greet::dial(keeper.gateway(), identity.as_ref().as_ref()).await?;
        greet::offer_method(&mut reached).await?;
        Ok(reached)
    };
    let Reached { mut stream, peer, .. } = dialled.await.map_err(|error: greet::LinkError| {
        keeper.failed(None, error.to_string(), Failure::Way);
        let is_ours = matches!(&error, greet::LinkError::Dial(error) if error.exhausted().is_some());
        ConnectFailure {
            who: if is_ours { Who::Limit } else { Who::Peer },
            refusal: Refusal::Unavailable,
            reason: format!("link to {}: {error}", keeper.gateway()),
        }
    })?;
    keeper.reached(&peer.label());
    if !peer.is_among(order.peers) {
        greet::bid_farewell(stream).await;
        let reason = format!("{} is not among the service's `peers`", peer.label());
        return Err(ConnectFailure { who: Who::Policy, refusal: Refusal::NotAllowed, reason });
    }
    let seat = Seat::carrying(&keeper.counts(None), Some(place)).of(&stream);
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
            let first = order.take_unsent();
            Ok(Connected { leg: Leg::Stream(stream), peer: Some(peer), seat: Some(seat), first })
        }
        Ok(Err(error)) => Err(refused(&peer, &error)),
        Err(_) => Err(ConnectFailure {
            who: Who::Time,
            refusal: Refusal::Unavailable,
            reason: format!("{} did not answer within {}s", peer.label(), ANSWER.as_secs()),
        }),
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
