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
    profile::{
        BackendAddress, DmzHalf, DmzWay, InternalHalf, InternalWay, LinkAddress, Retry, Role, ServiceName,
    },
    proto::socks5::{self, Asks},
    tasks::Tasks,
    telemetry::{
        notices::Notices,
        snapshot::{PoolRow, ServicePhase},
    },
};

/// Redials at least this often while a switch is under way.
const RETRY_HURRIED: Retry =
    Retry { first: std::time::Duration::from_millis(250), maximum: std::time::Duration::from_millis(500) };

/// What ways share with the rest of the engine.
#[derive(Clone)]
pub struct Common {
    pub sessions: Sessions,
    pub serve: Serve,
    pub tasks: Tasks,
    pub notices: Arc<Notices>,
}

/// What a way shows and accepts on its links, `None` without TLS; a reload swaps it.
type IdentityCell = Arc<ArcSwap<Option<Identity>>>;

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
pub struct DmzSide {
    identity: IdentityCell,
    parts: DmzParts,
}

enum DmzParts {
    Direct(HashMap<ServiceName, BackendAddress>),
    Forward { connect: Vec<LinkAddress>, dialler: Option<Arc<Dialler>>, stop: CancellationToken },
    Reverse { port: Port, pools: Arc<ArcSwap<HashMap<ServiceName, Arc<Pool>>>> },
}

impl DmzSide {
    /// Opens what the way needs; nothing runs yet.
    pub fn prepare(half: &DmzHalf, identity: Option<Identity>) -> Result<Self, BindError> {
        let parts = match &half.way {
            DmzWay::Direct(_) => DmzParts::Direct(HashMap::new()),
            DmzWay::Forward { connect, .. } => {
                DmzParts::Forward { connect: connect.clone(), dialler: None, stop: CancellationToken::new() }
            }
            DmzWay::Reverse { listen, .. } => {
                DmzParts::Reverse { port: Port::bind(listen)?, pools: Arc::default() }
            }
        };
        Ok(Self { identity: Arc::new(ArcSwap::from_pointee(identity)), parts })
    }

    /// Whether this way can go on under another profile.
    pub fn serves(&self, half: &DmzHalf) -> bool {
        match (&self.parts, &half.way) {
            (DmzParts::Direct(_), DmzWay::Direct(_)) => true,
            (DmzParts::Forward { connect, .. }, DmzWay::Forward { connect: wanted, .. }) => connect == wanted,
            (DmzParts::Reverse { port, .. }, DmzWay::Reverse { listen, .. }) => port.address == *listen,
            _ => false,
        }
    }

    pub fn start(&mut self, half: &DmzHalf, common: &Common) {
        self.take_over(half, common);
        match &mut self.parts {
            DmzParts::Direct(_) => {}
            DmzParts::Forward { connect, dialler, stop } => {
                let identity = self.identity.clone();
                *dialler =
                    Some(Dialler::start(connect, identity, &common.tasks, common.notices.clone(), stop));
            }
            DmzParts::Reverse { port, pools } => {
                let Some(listener) = port.listener.take() else { return };
                let greeter = greeter(self.identity.clone(), Asks::Bind, common);
                let offers = Offers { pools: pools.clone(), common: common.clone() };
                let greeted = move |greeted| offers.clone().take(greeted);
                common.tasks.spawn("link port", listener::run(listener, greeter, port.stop.clone(), greeted));
            }
        }
    }

    /// Goes on under another profile that has the same way.
    pub fn update(&mut self, half: &DmzHalf, identity: Option<Identity>, common: &Common) {
        self.identity.store(Arc::new(identity));
        self.take_over(half, common);
    }

    fn take_over(&mut self, half: &DmzHalf, common: &Common) {
        match (&mut self.parts, &half.way) {
            (DmzParts::Direct(backends), DmzWay::Direct(wanted)) => {
                *backends = wanted.iter().map(|(name, to)| (name.clone(), to.clone())).collect();
            }
            (DmzParts::Reverse { pools, .. }, DmzWay::Reverse { pool: limits, tls, .. }) => {
                let old = pools.load_full();
                let of = |name: &ServiceName| match old.get(name) {
                    Some(pool) => {
                        pool.set_limits(*limits);
                        pool.clone()
                    }
                    None => Pool::new(name.clone(), *limits, common.tasks.clone()),
                };
                let new =
                    half.services.iter().map(|service| (service.name.clone(), of(&service.name))).collect();
                pools.store(Arc::new(new));
                let now = pools.load();
                let of_link = tls.as_ref().map(|tls| tls.peers.as_slice());
                for (service, pool) in half.services.iter().filter_map(|of| Some((of, now.get(&of.name)?))) {
                    let of_service = service.peers.as_deref();
                    pool.keep_only(|peer| peer.is_among(of_link) && peer.is_among(of_service));
                }
                old.iter().filter(|(name, _)| !now.contains_key(*name)).for_each(|(_, pool)| pool.close());
            }
            _ => {}
        }
    }

    /// Where sessions of a service go on this way.
    pub fn connector(&self, service: &ServiceName) -> Option<Connector> {
        match &self.parts {
            DmzParts::Direct(backends) => Some(Connector::Direct(backends.get(service)?.clone())),
            DmzParts::Forward { dialler, .. } => Some(Connector::Forward(dialler.clone()?)),
            DmzParts::Reverse { pools, .. } => Some(Connector::Reverse(pools.load().get(service)?.clone())),
        }
    }

    /// What is still missing before new sessions can go this way.
    pub fn missing(&self) -> Option<String> {
        match &self.parts {
            DmzParts::Direct(_) => None,
            DmzParts::Forward { dialler, .. } => dialler
                .as_ref()
                .filter(|dialler| !dialler.all_reached())
                .map(|dialler| why_down(&dialler.rows())),
            DmzParts::Reverse { port, pools } => {
                let came = pools.load().values().any(|pool| pool.was_offered());
                (!came).then(|| format!("no internal gateway has dialled in at {}", port.bound))
            }
        }
    }

    /// Whether it can carry sessions of every service, though not all of it is ready.
    pub fn suffices(&self) -> bool {
        match &self.parts {
            DmzParts::Forward { dialler, .. } => {
                dialler.as_ref().is_some_and(|dialler| dialler.any_reached())
            }
            DmzParts::Direct(_) | DmzParts::Reverse { .. } => self.missing().is_none(),
        }
    }

    pub fn calm(&self) {
        if let DmzParts::Forward { dialler: Some(dialler), .. } = &self.parts {
            dialler.calm();
        }
    }

    pub fn rows(&self) -> Vec<PoolRow> {
        match &self.parts {
            DmzParts::Direct(_) => Vec::new(),
            DmzParts::Forward { dialler, .. } => {
                dialler.as_ref().map(|dialler| dialler.rows()).unwrap_or_default()
            }
            DmzParts::Reverse { pools, .. } => {
                let pools = pools.load();
                let mut sorted: Vec<_> = pools.iter().collect();
                sorted.sort_by_key(|(name, _)| (*name).clone());
                sorted.into_iter().flat_map(|(_, pool)| pool.rows()).collect()
            }
        }
    }

    pub fn listening(&self) -> Option<String> {
        match &self.parts {
            DmzParts::Reverse { port, .. } => Some(port.bound.clone()),
            DmzParts::Direct(_) | DmzParts::Forward { .. } => None,
        }
    }

    /// No new links; those that are ready can still be taken.
    pub fn close_port(&self) {
        match &self.parts {
            DmzParts::Direct(_) => {}
            DmzParts::Forward { stop, .. } => stop.cancel(),
            DmzParts::Reverse { port, .. } => port.stop.cancel(),
        }
    }

    /// Ready links go; sessions stay.
    pub fn retire(&self) {
        self.close_port();
        if let DmzParts::Reverse { pools, .. } = &self.parts {
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
pub struct InternalSide {
    identity: IdentityCell,
    links: Arc<Semaphore>,
    maximum: usize,
    parts: InternalParts,
}

enum InternalParts {
    Forward { port: Port, visitors: Arc<forward::Visitors> },
    Reverse { keepers: HashMap<(ServiceName, LinkAddress), Arc<Keeper>> },
}

impl InternalSide {
    /// Opens what the way needs; nothing runs yet.
    pub fn prepare(half: &InternalHalf, identity: Option<Identity>) -> Result<Self, BindError> {
        let parts = match &half.way {
            InternalWay::Forward { listen, .. } => {
                InternalParts::Forward { port: Port::bind(listen)?, visitors: Arc::default() }
            }
            InternalWay::Reverse { .. } => InternalParts::Reverse { keepers: HashMap::new() },
        };
        Ok(Self {
            identity: Arc::new(ArcSwap::from_pointee(identity)),
            links: Arc::new(Semaphore::new(half.maximum)),
            maximum: half.maximum,
            parts,
        })
    }

    /// Whether this way can go on under another profile.
    pub fn serves(&self, half: &InternalHalf) -> bool {
        // The bound on links is made with the way; another one is another way.
        let same_way = match (&self.parts, &half.way) {
            (InternalParts::Forward { port, .. }, InternalWay::Forward { listen, .. }) => {
                port.address == *listen
            }
            (InternalParts::Reverse { .. }, InternalWay::Reverse { .. }) => true,
            _ => false,
        };
        same_way && self.maximum == half.maximum
    }

    pub fn start(&mut self, half: &InternalHalf, common: &Common) {
        match &mut self.parts {
            InternalParts::Forward { port, visitors } => {
                let Some(listener) = port.listener.take() else { return };
                let greeter = greeter(self.identity.clone(), Asks::Connect, common);
                let run = forward::run(
                    listener,
                    greeter,
                    visitors.clone(),
                    self.links.clone(),
                    common.serve.clone(),
                    port.stop.clone(),
                );
                common.tasks.spawn("link port", run);
            }
            InternalParts::Reverse { .. } => self.keep(half, common, Some(RETRY_HURRIED)),
        }
    }

    /// Goes on under another profile that has the same way.
    pub fn update(&mut self, half: &InternalHalf, identity: Option<Identity>, common: &Common) {
        self.identity.store(Arc::new(identity));
        self.keep(half, common, None);
    }

    fn keep(&mut self, half: &InternalHalf, common: &Common, hurried: Option<Retry>) {
        let InternalParts::Reverse { keepers } = &mut self.parts else { return };
        let InternalWay::Reverse { connect, prepared, retry, .. } = &half.way else { return };
        let shared = Shared {
            identity: self.identity.clone(),
            links: self.links.clone(),
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
        if let InternalParts::Reverse { keepers } = &mut self.parts {
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
        match &self.parts {
            InternalParts::Forward { port, visitors, .. } => {
                (!visitors.any()).then(|| format!("no DMZ gateway has dialled in at {}", port.bound))
            }
            InternalParts::Reverse { keepers, .. } => {
                let all = keepers.values().all(|keeper| keeper.can_serve());
                (!all).then(|| why_down(&self.rows()))
            }
        }
    }

    /// Whether it can carry sessions of every service, though not all of it is ready.
    pub fn suffices(&self) -> bool {
        match &self.parts {
            InternalParts::Forward { .. } => self.missing().is_none(),
            InternalParts::Reverse { keepers, .. } => keepers.keys().all(|(service, _)| {
                keepers.iter().any(|((name, _), keeper)| name == service && keeper.can_serve())
            }),
        }
    }

    pub fn rows(&self) -> Vec<PoolRow> {
        match &self.parts {
            InternalParts::Forward { visitors, .. } => visitors.rows(),
            InternalParts::Reverse { keepers, .. } => {
                let mut sorted: Vec<_> = keepers.iter().collect();
                sorted.sort_by_key(|(key, _)| (*key).clone());
                sorted.into_iter().map(|(_, keeper)| keeper.row()).collect()
            }
        }
    }

    pub fn listening(&self) -> Option<String> {
        match &self.parts {
            InternalParts::Forward { port, .. } => Some(port.bound.clone()),
            InternalParts::Reverse { .. } => None,
        }
    }

    /// No new links; those that are ready can still be opened.
    pub fn close_port(&self) {
        match &self.parts {
            InternalParts::Forward { port, .. } => port.stop.cancel(),
            InternalParts::Reverse { keepers, .. } => {
                keepers.values().for_each(|keeper| keeper.stop_dialling())
            }
        }
    }

    /// Ready links go; sessions stay.
    pub fn retire(&self) {
        self.close_port();
        if let InternalParts::Reverse { keepers, .. } = &self.parts {
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
