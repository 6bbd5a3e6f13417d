//! The running parts of each half: what listens, dials and keeps links on one way.
//!
//! A way is prepared (its ports bound), started, asked whether it is ready, and later retired.
//! `switch` decides when; a way knows nothing of the one before or after it.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use super::session::Sessions;
use crate::{
    accept::{
        Serve, forward,
        reverse::{Keeper, Shared, Wanted},
    },
    connect::{Connector, forward::Dialler},
    link::{
        Refusal,
        greet::{self, Asked, Greeted},
        listener::{self, Greeter},
        pool::Pool,
    },
    net::{
        listen::{self, BindError},
        tls::Identity,
    },
    profile::{BackendAddress, DmzHalf, DmzWay, InternalHalf, InternalWay, LinkAddress, Retry, Role, ServiceName},
    proto::socks5::{self, Asks},
    tasks::Tasks,
    telemetry::{
        notices::Notices,
        snapshot::{PoolRow, ServicePhase},
    },
};

/// Redials at least this often while a switch is under way.
const RETRY_HURRIED: Retry = Retry {
    first: std::time::Duration::from_millis(250),
    maximum: std::time::Duration::from_millis(500),
};

/// What ways share with the rest of the engine.
#[derive(Clone)]
pub struct Common {
    pub sessions: Sessions,
    pub serve: Serve,
    pub tasks: Tasks,
    pub notices: Arc<Notices>,
    /// The identities of the two halves' links; a reload swaps them.
    pub identities: Arc<Identities>,
}

/// A half without TLS, or that does not run, has none.
#[derive(Debug, Default)]
pub struct Identities {
    pub dmz: Arc<ArcSwap<Option<Identity>>>,
    pub internal: Arc<ArcSwap<Option<Identity>>>,
}

/// A bound link port.
#[derive(Debug)]
struct Port {
    address: LinkAddress,
    /// With the real port.
    bound: String,
    listener: Option<TcpListener>,
    stop: CancellationToken,
}

impl Port {
    fn bind(address: &LinkAddress) -> Result<Self, BindError> {
        let listener = listen::bind(&address.at)?;
        let mut real = address.clone();
        if let Ok(local) = listener.local_addr() {
            real.at.port = local.port();
        }
        Ok(Self {
            address: address.clone(),
            bound: real.to_string(),
            listener: Some(listener),
            stop: CancellationToken::new(),
        })
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Where the DMZ half takes its sessions.
pub enum DmzSide {
    Direct(HashMap<ServiceName, BackendAddress>),
    Forward { connect: Vec<LinkAddress>, dialler: Option<Arc<Dialler>>, stop: CancellationToken },
    Reverse { port: Port, pools: Arc<ArcSwap<HashMap<ServiceName, Arc<Pool>>>> },
}

impl DmzSide {
    /// Opens what the way needs; nothing runs yet.
    pub fn prepare(half: &DmzHalf) -> Result<Self, BindError> {
        Ok(match &half.way {
            DmzWay::Direct(backends) => {
                Self::Direct(backends.iter().map(|(name, to)| (name.clone(), to.clone())).collect())
            }
            DmzWay::Forward { connect, .. } => {
                Self::Forward { connect: connect.clone(), dialler: None, stop: CancellationToken::new() }
            }
            DmzWay::Reverse { listen, .. } => {
                Self::Reverse { port: Port::bind(listen)?, pools: Arc::default() }
            }
        })
    }

    /// Whether this way can go on under another profile.
    pub fn serves(&self, half: &DmzHalf) -> bool {
        match (self, &half.way) {
            (Self::Direct(_), DmzWay::Direct(_)) => true,
            (Self::Forward { connect, .. }, DmzWay::Forward { connect: wanted, .. }) => connect == wanted,
            (Self::Reverse { port, .. }, DmzWay::Reverse { listen, .. }) => port.address == *listen,
            _ => false,
        }
    }

    pub fn start(&mut self, half: &DmzHalf, common: &Common) {
        self.update(half, common);
        match self {
            Self::Direct(_) => {}
            Self::Forward { connect, dialler, stop } => {
                let identity = common.identities.dmz.clone();
                *dialler =
                    Some(Dialler::start(connect, identity, &common.tasks, common.notices.clone(), stop));
            }
            Self::Reverse { port, pools } => {
                let Some(listener) = port.listener.take() else { return };
                let greeter = greeter(common.identities.dmz.clone(), Asks::Bind, common);
                let offers = Offers { pools: pools.clone(), common: common.clone() };
                let greeted = move |greeted| offers.clone().take(greeted);
                common.tasks.spawn("link port", listener::run(listener, greeter, port.stop.clone(), greeted));
            }
        }
    }

    /// Takes over what another profile says of the same way.
    pub fn update(&mut self, half: &DmzHalf, common: &Common) {
        match (self, &half.way) {
            (Self::Direct(backends), DmzWay::Direct(wanted)) => {
                *backends = wanted.iter().map(|(name, to)| (name.clone(), to.clone())).collect();
            }
            (Self::Reverse { pools, .. }, DmzWay::Reverse { pool: limits, .. }) => {
                let old = pools.load_full();
                let of = |name: &ServiceName| match old.get(name) {
                    Some(pool) => {
                        pool.set_limits(*limits);
                        pool.clone()
                    }
                    None => Pool::new(name.clone(), *limits, common.tasks.clone()),
                };
                let new = half.services.iter().map(|service| (service.name.clone(), of(&service.name))).collect();
                pools.store(Arc::new(new));
                let now = pools.load();
                old.iter().filter(|(name, _)| !now.contains_key(*name)).for_each(|(_, pool)| pool.close());
            }
            _ => {}
        }
    }

    /// Where sessions of a service go on this way.
    pub fn connector(&self, service: &ServiceName) -> Option<Connector> {
        match self {
            Self::Direct(backends) => Some(Connector::Direct(backends.get(service)?.clone())),
            Self::Forward { dialler, .. } => Some(Connector::Forward(dialler.clone()?)),
            Self::Reverse { pools, .. } => Some(Connector::Reverse(pools.load().get(service)?.clone())),
        }
    }

    /// What is still missing before new sessions can go this way.
    pub fn missing(&self) -> Option<String> {
        match self {
            Self::Direct(_) => None,
            Self::Forward { dialler, .. } => dialler.as_ref().filter(|dialler| !dialler.all_reached()).map(|dialler| why_down(&dialler.rows())),
            Self::Reverse { port, pools } => {
                let came = pools.load().values().any(|pool| pool.was_offered());
                (!came).then(|| format!("no internal gateway has dialled in at {}", port.bound))
            }
        }
    }

    /// Whether it can carry sessions of every service, though not all of it is ready.
    pub fn suffices(&self) -> bool {
        match self {
            Self::Forward { dialler, .. } => dialler.as_ref().is_some_and(|dialler| dialler.any_reached()),
            Self::Direct(_) | Self::Reverse { .. } => self.missing().is_none(),
        }
    }

    pub fn calm(&self) {
        if let Self::Forward { dialler: Some(dialler), .. } = self {
            dialler.calm();
        }
    }

    pub fn rows(&self) -> Vec<PoolRow> {
        match self {
            Self::Direct(_) => Vec::new(),
            Self::Forward { dialler, .. } => dialler.as_ref().map(|dialler| dialler.rows()).unwrap_or_default(),
            Self::Reverse { pools, .. } => {
                let pools = pools.load();
                let mut sorted: Vec<_> = pools.iter().collect();
                sorted.sort_by_key(|(name, _)| (*name).clone());
                sorted.into_iter().flat_map(|(_, pool)| pool.rows()).collect()
            }
        }
    }

    pub fn listening(&self) -> Option<String> {
        match self {
            Self::Reverse { port, .. } => Some(port.bound.clone()),
            Self::Direct(_) | Self::Forward { .. } => None,
        }
    }

    /// No new links; those that are ready can still be taken.
    pub fn close_port(&self) {
        match self {
            Self::Direct(_) => {}
            Self::Forward { stop, .. } => stop.cancel(),
            Self::Reverse { port, .. } => port.stop.cancel(),
        }
    }

    /// Ready links go; sessions stay.
    pub fn retire(&self) {
        self.close_port();
        if let Self::Reverse { pools, .. } = self {
            pools.load().values().for_each(|pool| pool.close());
        }
    }
}

/// Takes in the links that internal gateways park.
#[derive(Clone)]
struct Offers {
    pools: Arc<ArcSwap<HashMap<ServiceName, Arc<Pool>>>>,
    common: Common,
}

impl Offers {
    async fn take(self, greeted: Greeted) {
        let Greeted::Asked(Asked { mut stream, peer, service }) = greeted else { return };
        let pool = self.pools.load().get(&service).cloned();
        let known = self.common.sessions.services.load().get(&(Role::Dmz, service.clone())).cloned();
        let refusal = match (&pool, &known) {
            (Some(_), Some(known)) if !peer.is_among(known.settings.load().peers.as_deref()) => {
                Some((Refusal::NotAllowed, "it is not among the service's `peers`"))
            }
            (Some(_), Some(known)) if known.phase() == ServicePhase::Draining => {
                Some((Refusal::Unavailable, "the service is draining"))
            }
            (Some(_), _) => None,
            (None, _) => Some((Refusal::NotAllowed, "no such service here")),
        };
        if let Some((refusal, why)) = refusal {
            let who = peer.label();
            self.common.notices.warn(format!("link from {who} for `{service}` refused: {why}"));
            return greet::refuse(stream, refusal).await;
        }
        let granted = tokio::time::timeout(
            crate::link::GREET,
            socks5::answer(&mut stream, socks5_proto::Reply::Succeeded),
        );
        if let (Ok(Ok(())), Some(pool)) = (granted.await, pool)
            && let Err(unwanted) = pool.offer(peer, stream)
        {
            greet::bid_farewell(unwanted).await;
        }
    }
}

/// Where the internal half gets its sessions from.
pub enum InternalSide {
    Forward { port: Port, visitors: Arc<forward::Visitors>, links: Arc<Semaphore>, maximum: usize },
    Reverse { keepers: HashMap<(ServiceName, LinkAddress), Arc<Keeper>>, links: Arc<Semaphore>, maximum: usize },
}

impl InternalSide {
    /// Opens what the way needs; nothing runs yet.
    pub fn prepare(half: &InternalHalf) -> Result<Self, BindError> {
        let (links, maximum) = (Arc::new(Semaphore::new(half.maximum)), half.maximum);
        Ok(match &half.way {
            InternalWay::Forward { listen, .. } => {
                Self::Forward { port: Port::bind(listen)?, visitors: Arc::default(), links, maximum }
            }
            InternalWay::Reverse { .. } => Self::Reverse { keepers: HashMap::new(), links, maximum },
        })
    }

    /// Whether this way can go on under another profile.
    pub fn serves(&self, half: &InternalHalf) -> bool {
        match (self, &half.way) {
            (Self::Forward { port, maximum, .. }, InternalWay::Forward { listen, .. }) => {
                port.address == *listen && *maximum == half.maximum
            }
            (Self::Reverse { maximum, .. }, InternalWay::Reverse { .. }) => *maximum == half.maximum,
            _ => false,
        }
    }

    pub fn start(&mut self, half: &InternalHalf, common: &Common) {
        match self {
            Self::Forward { port, visitors, links, .. } => {
                let Some(listener) = port.listener.take() else { return };
                let greeter = greeter(common.identities.internal.clone(), Asks::Connect, common);
                let run = forward::run(
                    listener,
                    greeter,
                    visitors.clone(),
                    links.clone(),
                    common.serve.clone(),
                    port.stop.clone(),
                );
                common.tasks.spawn("link port", run);
            }
            Self::Reverse { .. } => self.keep(half, common, Some(RETRY_HURRIED)),
        }
    }

    /// Takes over what another profile says of the same way.
    pub fn update(&mut self, half: &InternalHalf, common: &Common) {
        self.keep(half, common, None);
    }

    fn keep(&mut self, half: &InternalHalf, common: &Common, hurried: Option<Retry>) {
        let Self::Reverse { keepers, links, .. } = self else { return };
        let InternalWay::Reverse { connect, prepared, retry, .. } = &half.way else { return };
        let shared = Shared {
            identity: common.identities.internal.clone(),
            links: links.clone(),
            serve: common.serve.clone(),
            tasks: common.tasks.clone(),
            notices: common.notices.clone(),
        };
        let mut kept = HashMap::new();
        for service in &half.services {
            for gateway in connect {
                let wanted = Wanted {
                    service: service.name.clone(),
                    gateway: gateway.clone(),
                    prepared: *prepared,
                    retry: hurried.unwrap_or(*retry),
                    peers: service.peers.clone(),
                };
                let key = (service.name.clone(), gateway.clone());
                let keeper = match keepers.remove(&key) {
                    Some(keeper) => {
                        keeper.update(wanted);
                        keeper
                    }
                    None => Keeper::start(wanted, shared.clone()),
                };
                kept.insert(key, keeper);
            }
        }
        // What is left belongs to services or gateways that the profile lacks.
        std::mem::replace(keepers, kept).values().for_each(|keeper| keeper.retire());
    }

    /// Stops parking links of a service that drains, or of all.
    pub fn drain(&mut self, service: Option<&ServiceName>) {
        if let Self::Reverse { keepers, .. } = self {
            keepers.retain(|(name, _), keeper| {
                let drained = service.is_none_or(|service| service == name);
                if drained {
                    keeper.retire();
                }
                !drained
            });
        }
    }

    /// What is still missing before new sessions can go this way.
    pub fn missing(&self) -> Option<String> {
        match self {
            Self::Forward { port, visitors, .. } => {
                (!visitors.any()).then(|| format!("no DMZ gateway has dialled in at {}", port.bound))
            }
            Self::Reverse { keepers, .. } => {
                let all = keepers.values().all(|keeper| keeper.is_healthy());
                (!all).then(|| why_down(&self.rows()))
            }
        }
    }

    /// Whether it can carry sessions of every service, though not all of it is ready.
    pub fn suffices(&self) -> bool {
        match self {
            Self::Forward { .. } => self.missing().is_none(),
            Self::Reverse { keepers, .. } => keepers.keys().all(|(service, _)| {
                keepers.iter().any(|((name, _), keeper)| name == service && keeper.is_healthy())
            }),
        }
    }

    pub fn rows(&self) -> Vec<PoolRow> {
        match self {
            Self::Forward { visitors, .. } => visitors.rows(),
            Self::Reverse { keepers, .. } => {
                let mut sorted: Vec<_> = keepers.iter().collect();
                sorted.sort_by_key(|(key, _)| (*key).clone());
                sorted.into_iter().map(|(_, keeper)| keeper.row()).collect()
            }
        }
    }

    pub fn listening(&self) -> Option<String> {
        match self {
            Self::Forward { port, .. } => Some(port.bound.clone()),
            Self::Reverse { .. } => None,
        }
    }

    /// No new links; those that are ready can still be opened.
    pub fn close_port(&self) {
        match self {
            Self::Forward { port, .. } => port.stop.cancel(),
            Self::Reverse { keepers, .. } => keepers.values().for_each(|keeper| keeper.stop_dialling()),
        }
    }

    /// Ready links go; sessions stay.
    pub fn retire(&self) {
        self.close_port();
        if let Self::Reverse { keepers, .. } = self {
            keepers.values().for_each(|keeper| keeper.retire());
        }
    }
}

fn greeter(identity: Arc<ArcSwap<Option<Identity>>>, serves: Asks, common: &Common) -> Greeter {
    Greeter { identity, serves, tasks: common.tasks.clone(), notices: common.notices.clone() }
}

/// The first row that is not healthy, in words.
fn why_down(rows: &[PoolRow]) -> String {
    use crate::telemetry::snapshot::PoolState;
    let Some(row) = rows.iter().find(|row| row.state != PoolState::Healthy) else {
        return "not ready yet".into();
    };
    let address = row.address.as_deref().unwrap_or("the other gateway");
    let why = row.last_error.as_deref().unwrap_or("no answer yet");
    format!("link to {address}: {why}")
}
