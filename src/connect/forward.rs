//! Takes a link that this half keeps dialled, or dials one for the session.
//!
//! A gateway that speaks our own protocol has links ready in the pool; one that speaks SOCKS5 is dialled for each
//! session. Gateways take turns; when one refuses, the next is tried. A SOCKS5 gateway is also dialled from time
//! to time, so that the state shown is true before a client depends on it.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use socks5_proto::Reply;
use tokio::{sync::mpsc, time::timeout};

use super::{ConnectFailure, ConnectRequest, ConnectedUpstream, RefusedAt, reverse};
use crate::{
    link::{
        Peer,
        dial_state::{AT_MAXIMUM, DialFailure},
        dialled_gateways::{DialledGateways, GatewayDialler},
        generation::TermsGeneration,
        grants::ServiceGrants,
        handshake::{self, DialledStream, HandshakeTerms, HelloEnd},
        keeper::{KeeperContext, KeeperEvent, KeeperTarget, LinkKeeper, SocksLink},
        link_guard::LinkGuard,
        pool::{Pool, ServiceClosed},
        session_side::Upstream,
        shares::GatewayShares,
    },
    net::tcp,
    profile::{LinkAddress, ServiceName},
    proto::{
        Refusal,
        multiplex::state::LinkEnd,
        socks5::{self, SocksCommand, SocksError},
    },
    tasks::Tasks,
    telemetry::{
        end::EndedBy,
        link_cause::LinkCause,
        snapshot::{PoolRow, SessionPhase},
    },
};

/// Deadline for a SOCKS5 gateway to answer a request: its backend's deadline, and a second for the link.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// Deadline for all gateways together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How many ready links may die before they are opened until a session gives up.
const OPENS_MAX: usize = 8;

/// Why there is no link for a session yet.
const NO_DESCRIPTOR: &str = "the descriptors that are for links are in use; raise the limit of open files (`LimitNOFILE`, `ulimit -n`)";

/// The internal gateways that this half dials.
pub struct ForwardDialler {
    pool: Arc<Pool>,
    gateways: Arc<DialledGateways<ForwardGateway>>,
    /// Shares of the links that are dialled.
    links: Arc<GatewayShares>,
    turn: AtomicUsize,
}

/// The links to one internal gateway.
struct ForwardGateway {
    keeper: Arc<LinkKeeper>,
    /// Of its own links only: they may be replaced while the others go on.
    generation: Arc<TermsGeneration>,
}

/// State shared by the diallers of one half.
struct ForwardLinks {
    pool: Arc<Pool>,
    grants: Arc<ServiceGrants>,
}

impl GatewayDialler for ForwardGateway {
    type Shared = ForwardLinks;

    fn start(
        gateway: LinkAddress,
        wanted: KeeperTarget,
        keepers: &KeeperContext,
        shared: &ForwardLinks,
    ) -> Self {
        let generation = Arc::<TermsGeneration>::default();
        let end = HelloEnd::Opens(shared.grants.clone());
        let terms = HandshakeTerms { end, generation: generation.clone() };
        let (keeper, events) = LinkKeeper::start(gateway, wanted, keepers.clone(), terms);
        let taking = take_links(events, keeper.clone(), shared.pool.clone(), keepers.tasks.clone());
        keepers.tasks.spawn("dialled links", taking);
        Self { keeper, generation }
    }

    fn keeper(&self) -> &Arc<LinkKeeper> {
        &self.keeper
    }

    /// The gateway learns another number from new links.
    fn want(&self, wanted: KeeperTarget) {
        let is_another = wanted.prepared != self.keeper.wanted().prepared;
        self.keeper.update(wanted);
        if is_another {
            self.generation.advance();
        }
    }

    fn retire(&self) {
        self.keeper.retire();
        self.generation.advance();
    }
}

impl std::fmt::Debug for ForwardDialler {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ForwardDialler").field("pool", &self.pool).finish_non_exhaustive()
    }
}

/// Puts the links that a keeper has dialled into the pool.
async fn take_links(
    mut events: mpsc::Receiver<KeeperEvent>,
    keeper: Arc<LinkKeeper>,
    pool: Arc<Pool>,
    tasks: Tasks,
) {
    while let Some(event) = events.recv().await {
        let keeper = keeper.clone();
        match event {
            KeeperEvent::Linked(linked) => {
                // The keeper has already reported the mismatches.
                let _ = pool.note_mismatches(linked.link.peer(), &linked.mismatches);
                let Some(kept) = pool.take_in_dialled(linked, &keeper.counts(None)) else { continue };
                tasks.spawn("shared link", async move { keeper.note_lost(None, kept.await) });
            }
            KeeperEvent::NothingGranted(peer, mismatches) => {
                // The keeper has already reported these too.
                let _ = pool.note_mismatches(&peer, &mismatches);
            }
            KeeperEvent::SocksDialled(link) => tasks.spawn("dialled link", check_socks_gateway(keeper, link)),
        }
    }
}

/// The method shows that a gateway is there and is who it should be.
async fn check_socks_gateway(keeper: Arc<LinkKeeper>, dialled: SocksLink) {
    let SocksLink { mut reached, permit, under_way, .. } = dialled;
    match handshake::offer_method(&mut reached).await {
        Ok(()) => {
            keeper.note_reached(&reached.peer.label());
            drop((permit, under_way));
            handshake::close_lingering(reached.stream).await;
        }
        Err(error) => keeper.note_failed(None, &error.into(), DialFailure::Path),
    }
}

impl ForwardDialler {
    /// Starts keeping links to each gateway.
    pub fn start(
        addresses: &[LinkAddress],
        wanted: KeeperTarget,
        pool: Arc<Pool>,
        grants: Arc<ServiceGrants>,
        keepers: KeeperContext,
    ) -> Arc<Self> {
        let links = keepers.links.clone();
        let gateways = DialledGateways::new(keepers, ForwardLinks { pool: pool.clone(), grants });
        gateways.dial(addresses, wanted);
        Arc::new(Self { pool, gateways, links, turn: AtomicUsize::new(0) })
    }

    pub fn update(&self, wanted: KeeperTarget) {
        self.gateways.update(wanted);
    }

    pub fn stop_dialling(&self) {
        self.gateways.stop_dialling();
    }

    /// Replaces the links, because the terms they were opened under have changed.
    pub fn retire_links(&self) {
        self.gateways.for_each(|gateway| gateway.generation.advance());
    }

    /// Closes ready links; sessions go on.
    pub fn retire(&self) {
        self.gateways.retire();
        self.pool.close();
    }

    /// How many links in all each gateway accepts, as far as is known.
    pub fn links_max(&self) -> usize {
        self.gateways.list().iter().map(|of| of.keeper.links_max()).min().unwrap_or(usize::MAX)
    }

    pub fn all_serve(&self) -> bool {
        self.gateways.all_serve()
    }

    pub fn any_serves(&self) -> bool {
        self.gateways.any_serves(None)
    }

    /// A row for each gateway, and one for each of `services` that none offers.
    pub fn rows<'a>(&self, services: impl Iterator<Item = &'a ServiceName>) -> Vec<PoolRow> {
        self.pool.rows_of_dialled(services, self.gateways.rows())
    }

    /// The state of a service that no gateway takes sessions for. A SOCKS5 gateway cannot tell it.
    pub fn service_closed(&self, service: &ServiceName) -> Option<ServiceClosed> {
        let closed = self.pool.service_closed(service)?;
        (!self.any_uses_socks()).then_some(closed)
    }

    /// Whether there is another gateway that has not refused the session.
    pub fn has_other(&self, connect_request: &ConnectRequest<'_>) -> bool {
        self.pool.has_other_peer_for(connect_request.service, &connect_request.refused_by)
            || self.any_uses_socks()
    }

    fn any_uses_socks(&self) -> bool {
        self.gateways.list().iter().any(|gateway| gateway.keeper.uses_socks())
    }

    pub async fn connect(
        &self,
        connect_request: &mut ConnectRequest<'_>,
    ) -> Result<ConnectedUpstream, ConnectFailure> {
        let mut shortage = None;
        let tried = timeout(CONNECT_TIMEOUT, self.try_until_room(connect_request, &mut shortage)).await;
        tried.unwrap_or_else(|_| {
            let timed_out = || {
                let reason = format!("no internal gateway answered within {}s", CONNECT_TIMEOUT.as_secs());
                let at = RefusedAt::Link(LinkCause::NoInternalGateway);
                ConnectFailure { ended_by: EndedBy::Time, refusal: Refusal::Unavailable, at, reason }
            };
            Err(shortage.unwrap_or_else(timed_out))
        })
    }

    /// Past the share of descriptors for links, a session waits until another one's link is gone.
    async fn try_until_room(
        &self,
        connect_request: &mut ConnectRequest<'_>,
        shortage: &mut Option<ConnectFailure>,
    ) -> Result<ConnectedUpstream, ConnectFailure> {
        loop {
            let mut freed = pin!(self.links.freed());
            // What is freed during the try counts.
            freed.as_mut().enable();
            match self.try_gateways(connect_request).await {
                Err(failure) if lacks_descriptor(&failure) => *shortage = Some(failure),
                tried => return tried,
            }
            freed.await;
            *shortage = None;
        }
    }

    async fn try_gateways(
        &self,
        connect_request: &mut ConnectRequest<'_>,
    ) -> Result<ConnectedUpstream, ConnectFailure> {
        for _ in 0..OPENS_MAX {
            let Some(taken) = self.pool.take_ready(connect_request.service, &connect_request.refused_by)
            else {
                break;
            };
            connect_request.counters.enter(SessionPhase::Connecting);
            if let Ok(connected) = reverse::open_session(taken, connect_request).await {
                return Ok(connected);
            }
        }
        let mut last = None;
        for keeper in self.socks_keepers_in_order() {
            connect_request.counters.enter(SessionPhase::Connecting);
            match dial(&keeper, connect_request).await {
                Ok(connected) => return Ok(connected),
                // The gateway has answered for its backend; another gateway would give another answer.
                Err(failure) if failure.ended_by == EndedBy::Backend => return Err(failure),
                // One that is full may have room in a moment, whatever the others say.
                Err(failure) => last = last.filter(lacks_descriptor).or(Some(failure)),
            }
        }
        let all_speak_socks = || self.gateways.list().iter().all(|gateway| gateway.keeper.uses_socks());
        match last {
            Some(failure) if all_speak_socks() => Err(failure),
            _ => reverse::connect(&self.pool, connect_request).await,
        }
    }

    /// The gateways that speak SOCKS5. Those that answer take turns; the others come behind them.
    fn socks_keepers_in_order(&self) -> Vec<Arc<LinkKeeper>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let gateways = self.gateways.list();
        let keepers = gateways.iter().map(|gateway| gateway.keeper.clone());
        let (mut socks, mut down): (Vec<_>, Vec<_>) =
            keepers.filter(|keeper| keeper.uses_socks()).partition(|keeper| !keeper.is_down());
        for equals in [&mut socks, &mut down] {
            let by = turn % equals.len().max(1);
            equals.rotate_left(by);
        }
        socks.append(&mut down);
        socks
    }
}

fn lacks_descriptor(failure: &ConnectFailure) -> bool {
    failure.at == RefusedAt::Link(LinkCause::NoDescriptor)
}

/// Dials a SOCKS5 link for one session.
async fn dial(
    keeper: &LinkKeeper,
    connect_request: &mut ConnectRequest<'_>,
) -> Result<ConnectedUpstream, ConnectFailure> {
    let Some(permit) = keeper.take_permit() else {
        let cause = keeper.bound_cause();
        let words = if cause == LinkCause::NoDescriptor { NO_DESCRIPTOR } else { AT_MAXIMUM };
        let reason = format!("link to {}: {words}", keeper.gateway());
        let at = RefusedAt::Link(cause);
        return Err(ConnectFailure { ended_by: EndedBy::Limit, refusal: Refusal::Full, at, reason });
    };
    let dialled = async {
        let mut reached = keeper.dial().await?;
        handshake::offer_method(&mut reached).await?;
        Ok(reached)
    };
    let DialledStream { mut stream, peer, .. } =
        dialled.await.map_err(|error: handshake::HandshakeError| {
            let failure = ConnectFailure {
                ended_by: if error.is_exhausted() { EndedBy::Limit } else { EndedBy::Peer },
                refusal: Refusal::Unavailable,
                at: RefusedAt::Link((&error).into()),
                reason: format!("link to {}: {error}", keeper.gateway()),
            };
            keeper.note_failed(None, &error.into(), DialFailure::Path);
            failure
        })?;
    keeper.note_reached(&peer.label());
    if !peer.is_among(connect_request.peers) {
        handshake::close_lingering(stream).await;
        let reason = format!("{} is not among the service's `peers`", peer.label());
        return Err(ConnectFailure::here(EndedBy::Policy, Refusal::NotAllowed, reason));
    }
    let link_guard =
        LinkGuard::carrying(&keeper.counts(None), Some(permit)).describe(&stream, &peer, LinkEnd::Opener);
    let answered = timeout(REPLY_TIMEOUT, async {
        socks5::send_request(&mut stream, SocksCommand::Connect, connect_request.service).await?;
        socks5::read_reply(&mut stream).await
    });
    match answered.await {
        Ok(Ok(_)) => {
            if let Some(stream) = stream.tcp() {
                // This fails only on a socket that is already gone, as the session will find out.
                let _ = tcp::prepare_busy_link(stream);
            }
            let first = connect_request.take_unsent();
            Ok(ConnectedUpstream { side: Upstream::Socks(stream, link_guard), peer: Some(peer), first })
        }
        Ok(Err(error)) => Err(refused_by_reply(&peer, &error)),
        Err(_) => Err(ConnectFailure {
            ended_by: EndedBy::Time,
            refusal: Refusal::Unavailable,
            at: RefusedAt::Peer,
            reason: format!("{} did not answer within {}s", peer.label(), REPLY_TIMEOUT.as_secs()),
        }),
    }
}

/// A refused request; the reply code says who refused.
fn refused_by_reply(peer: &Peer, error: &SocksError) -> ConnectFailure {
    let backend = |refusal| (EndedBy::Backend, refusal);
    let (ended_by, refusal) = match error.reply() {
        Some(Reply::ConnectionNotAllowed) => (EndedBy::Policy, Refusal::NotAllowed),
        Some(Reply::HostUnreachable | Reply::NetworkUnreachable) => backend(Refusal::BackendUnreachable),
        Some(Reply::ConnectionRefused) => backend(Refusal::BackendRefused),
        Some(Reply::TtlExpired) => backend(Refusal::BackendLate),
        Some(_) | None => (EndedBy::Peer, Refusal::Unavailable),
    };
    ConnectFailure { ended_by, refusal, at: RefusedAt::Peer, reason: format!("{}: {error}", peer.label()) }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::join_all};
    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{
        connect::{TestSession, direct::BACKEND_CONNECT_TIMEOUT},
        net::dns::DnsResolver,
        profile::{GatewaysOfName, Half, HostPort, LinkCarrier, PoolLimits, RetryPolicy},
        tasks::Tasks,
        tests::happens_after,
    };

    const HOUR: Duration = Duration::from_secs(3600);

    /// A gateway that speaks SOCKS5, and answers no request.
    async fn serve_silently(listener: &TcpListener) {
        let mut links = Vec::<TcpStream>::new();
        loop {
            let (mut link, _) = listener.accept().await.expect("it comes");
            link.write_all(&[5, 0]).await.expect("it is taken");
            links.push(link);
        }
    }

    fn dialler(listeners: &[TcpListener]) -> Arc<ForwardDialler> {
        let address = |listener: &TcpListener| {
            let at = listener.local_addr().expect("it is bound");
            let at = HostPort { host: at.ip().to_string(), port: at.port() };
            let (carrier, gateways) = (LinkCarrier::Tcp, GatewaysOfName::default());
            LinkAddress { at, tls: false, carrier, via: None, gateways, source: None }
        };
        let addresses: Vec<_> = listeners.iter().map(address).collect();
        let limits = PoolLimits { prepared: 1, wait: HOUR, waiters: 1, retire: HOUR, links_per_peer: None };
        let pool = Pool::new(limits, Arc::default(), Tasks::default());
        let keepers = KeeperContext {
            half: Half::Dmz,
            identity: Arc::default(),
            outer: Arc::default(),
            links: Arc::default(),
            tasks: Tasks::default(),
            notices: Arc::default(),
            lockdown: Default::default(),
            dns: DnsResolver::default(),
        };
        keepers.links.resize(8);
        let retry = RetryPolicy { first: HOUR, maximum: HOUR };
        let wanted = KeeperTarget { prepared: 1, retry };
        // It speaks SOCKS5, and is granted nothing.
        let grants = ServiceGrants::new(Arc::default());
        let dialler = ForwardDialler::start(&addresses, wanted, pool, grants, keepers);
        // From now on only sessions dial.
        dialler.stop_dialling();
        dialler
    }

    /// How a session fails at its deadline if this many gateways are silent.
    async fn fails_after(deadline: Duration, gateways: usize) -> ConnectFailure {
        let listeners = join_all((0..gateways).map(|_| TcpListener::bind("127.0.0.1:0"))).await;
        let listeners: Vec<_> = listeners.into_iter().map(|bound| bound.expect("a free port")).collect();
        let (dialler, session) = (dialler(&listeners), TestSession::of("orders"));
        let mut connect_request = session.connect_request();
        let connected = tokio::select! {
            connected = happens_after(deadline, dialler.connect(&mut connect_request)) => connected,
            _ = join_all(listeners.iter().map(serve_silently)) => unreachable!("they serve forever"),
        };
        let failure = connected.expect_err("nobody answers");
        assert_eq!(failure.ended_by, EndedBy::Time, "{}", failure.reason);
        failure
    }

    #[tokio::test(start_paused = true)]
    async fn past_the_descriptors_for_links_a_session_waits_for_one_and_learns_what_was_short() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (dialler, session) = (dialler(std::slice::from_ref(&listener)), TestSession::of("orders"));
        let mut held: Vec<_> = std::iter::from_fn(|| dialler.links.take(&"others".into())).collect();
        assert_eq!(held.len(), 8);
        let mut connect_request = session.connect_request();
        let failed = happens_after(CONNECT_TIMEOUT, dialler.connect(&mut connect_request)).await;
        let failure = failed.expect_err("none is free");
        assert_eq!(
            (failure.ended_by, failure.at),
            (EndedBy::Limit, RefusedAt::Link(LinkCause::NoDescriptor))
        );
        assert!(failure.reason.contains("LimitNOFILE"), "{}", failure.reason);

        let mut connecting = pin!(dialler.connect(&mut connect_request));
        assert!(connecting.as_mut().now_or_never().is_none(), "it waits");
        held.pop();
        let answered = tokio::select! {
            answered = happens_after(REPLY_TIMEOUT, connecting) => answered,
            () = serve_silently(&listener) => unreachable!("it serves forever"),
        };
        assert_eq!(answered.expect_err("no reply comes").at, RefusedAt::Peer, "it was dialled");
    }

    #[tokio::test(start_paused = true)]
    async fn a_socks_gateway_that_does_not_answer_is_given_up_in_time() {
        assert!(REPLY_TIMEOUT > BACKEND_CONNECT_TIMEOUT, "it may wait for its backend first");
        let failure = fails_after(REPLY_TIMEOUT, 1).await;
        assert_eq!(failure.at, RefusedAt::Peer);
    }

    #[tokio::test(start_paused = true)]
    async fn all_gateways_together_have_no_longer_than_so_long() {
        let failure = fails_after(CONNECT_TIMEOUT, 4).await;
        assert_eq!(failure.at, RefusedAt::Link(LinkCause::NoInternalGateway));
    }
}
