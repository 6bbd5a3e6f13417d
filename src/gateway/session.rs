//! One session, from its accept side to its end, in reading order.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    attempt::{AttemptOutcome, DownstreamSide, EndWithRefusal, refuse_session},
    service::{Service, ServiceTable},
    session_permits::admit_session,
};
use crate::{
    accept::{SessionOutcome, SessionRequest},
    admission::clients::ClientGates,
    auth::ClientLogins,
    connect::{ConnectFailure, ConnectRequest, ConnectedUpstream, Connector},
    link::{
        Peer, agreement,
        lockdown::Lockdown,
        session_side::{Downstream, Upstream},
        shares::GatewayShares,
    },
    profile::Half,
    proto::Refusal,
    telemetry::{
        end::{EndedBy, SessionEnd},
        notices::NoticeLog,
        rate_limited::LogKind,
        registry::{SessionCounters, SessionGuard, SessionKind, SessionRegistry, SessionStopper, StopReason},
        snapshot::SessionPhase,
    },
    verify::{
        probe::{self, PendingProbes},
        probe_failure::ProbeEnd,
    },
};
use arc_swap::ArcSwap;
use tokio::{
    io::Interest,
    time::{Instant, timeout},
};

/// During a switch, a connect that failed is tried again after this pause, for at most this long. Either the
/// other half is just ahead of us, or the failure is real.
const SWITCH_LOOK: Duration = Duration::from_millis(50);
const SWITCH_PATIENCE: Duration = Duration::from_secs(1);

/// How many links and peers one session tries.
const TRIES_MAX: usize = 8;

/// What sessions share.
#[derive(Debug, Clone)]
pub struct SessionContext {
    pub services: Arc<ArcSwap<ServiceTable>>,
    /// The services of an internal half that has just been retired: sessions may still arrive for them.
    pub leaving: Arc<ArcSwap<ServiceTable>>,
    /// Whether a switch is under way: a path that fails may be about to be replaced.
    pub switching: Arc<AtomicBool>,
    pub registry: Arc<SessionRegistry>,
    pub notices: Arc<NoticeLog>,
    pub probes: PendingProbes,
    /// Which clients of each service may come in.
    pub gates: Arc<ClientGates>,
    /// Who the clients of requests are.
    pub logins: Arc<ClientLogins>,
    /// Connections of the internal half to backends, shared out among the DMZ gateways.
    pub backends: Arc<GatewayShares>,
    /// What the inside has locked.
    pub lockdown: Lockdown,
}

impl SessionContext {
    /// Serves one session to its end.
    pub async fn serve(self, mut request: Box<SessionRequest>) {
        // A probe comes in like a client; only its address identifies it.
        let sent = request.client.filter(|_| request.peer.is_none()).and_then(|from| self.probes.claim(from));
        request.probe |= sent.is_some();
        let client = request.client.map_or_else(|| "unknown".into(), |client| client.to_string());
        let key = (request.half, request.service.clone());
        let service = self.services.load().get(&key).cloned();
        let service = service.or_else(|| self.leaving.load().get(&key).cloned());
        let Some(service) = service else {
            // A name from outside must not become a key of our tables.
            let peer = request.peer.as_ref().map_or(client.into(), |peer| peer.label());
            self.notices.warn_limited(
                LogKind::UnknownService,
                format!("{peer} asked for an unknown service `{}`", request.service),
            );
            return Box::pin(request.downstream.refuse(Refusal::UnknownService)).await;
        };
        let stopper = SessionStopper::within(&service.cut);
        let kind = session_kind(&request);
        let key = (request.half, service.name.clone());
        let record = self.registry.open(key, request.id.clone(), client, kind, stopper.clone());
        if let Some(peer) = &request.peer {
            record.set_peer(&peer.label());
        }
        if let Some(user) = &request.origin.user {
            record.set_user(&user.name);
        }
        if kind.is_client() {
            record.counters().time_connects(service.connect_times.clone());
        }
        let destination = SessionDestination {
            of: sent.as_ref().and_then(|sent| sent.connector.clone()),
            service: &service,
        };
        drop(request.arrival.take());
        let (outcome_sender, idle_state) = (request.outcome_sender.take(), request.idle_state.clone());
        if let Some(idle_state) = &idle_state {
            idle_state.note_session(record.counters());
        }
        let (end, refused) = run_within_limit(&destination, request, &record, &stopper, &self).await;
        if let Some(outcome_sender) = outcome_sender {
            // Nobody may be waiting for it any more.
            let refusal = refused.map(|refused| refused.refusal);
            let _ = outcome_sender.send(SessionOutcome { end: end.clone(), refusal });
        }
        if let Some(sent) = sent {
            // A prober that has given up needs no answer.
            let _ = sent.ended.send(ProbeEnd { end: end.clone(), refused });
        }
        if let Some(idle_state) = idle_state {
            idle_state.note_end(&end.code());
        }
        record.finish(end);
    }
}

fn session_kind(request: &SessionRequest) -> SessionKind {
    // The DMZ half of this process has told its instance, or has a link without TLS.
    let is_elsewhere = |peer: &Peer| match (peer.instance, &peer.name) {
        (Some(instance), _) => instance != agreement::instance(),
        (None, name) => name.is_some(),
    };
    match request.half {
        _ if request.probe => SessionKind::Probe,
        Half::Internal if request.peer.as_ref().is_some_and(is_elsewhere) => SessionKind::ClientElsewhere,
        Half::Dmz | Half::Internal => SessionKind::Client,
    }
}

/// Where a session goes: to its service's destination or, for a probe, to the one under test.
struct SessionDestination<'a> {
    of: Option<Arc<Connector>>,
    service: &'a Arc<Service>,
}

impl SessionDestination<'_> {
    fn connector(&self) -> Arc<Connector> {
        self.of.clone().unwrap_or_else(|| self.service.connector.load_full())
    }
}

/// Runs it within the time that its service allows a session, and only while the client's certificate or token
/// is valid.
async fn run_within_limit(
    destination: &SessionDestination<'_>,
    request: Box<SessionRequest>,
    record: &SessionGuard,
    stopper: &SessionStopper,
    sessions: &SessionContext,
) -> EndWithRefusal {
    let limit = match request.probe {
        false => destination.service.settings.load().session_limit,
        // Another gateway may claim to send a probe, and never end it.
        true => request.peer.as_ref().map(|_| probe::WITHIN),
    };
    let stop_reason = if request.probe { StopReason::ProbeLate } else { StopReason::SessionLimit };
    let limit = limit.map(|limit| (Instant::now() + limit, stop_reason(limit)));
    let expiry = request.expires.map(|at| (at, StopReason::TokenExpired));
    let end = limit.into_iter().chain(expiry).min_by_key(|(at, _)| *at);
    let revocation = request.downstream.revocation();
    let running = run(destination, request, record, stopper, sessions);
    if end.is_none() && !revocation.can_come() {
        return running.await;
    }
    // Boxed, so that a session without a limit holds no memory for one.
    Box::pin(async move {
        let mut running = pin!(running);
        let is_over = async {
            match end {
                Some((at, why)) => {
                    tokio::time::sleep_until(at).await;
                    why
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = revocation.given() => {
                stopper.stop(StopReason::Revoked);
                // Its client's connection is cut at the same moment, but that is not the cause.
                let (_, refusal) = running.await;
                (stopper.end(record.counters().phase()), refusal)
            }
            ended = &mut running => ended,
            why = is_over => {
                stopper.stop(why);
                running.await
            }
        }
    })
    .await
}

async fn run(
    destination: &SessionDestination<'_>,
    mut request: Box<SessionRequest>,
    record: &SessionGuard,
    stopper: &SessionStopper,
    sessions: &SessionContext,
) -> EndWithRefusal {
    let (counters, service) = (record.counters(), destination.service);
    counters.enter(SessionPhase::Authorising);
    let settings = service.settings.load_full();
    let admitted = admit_session(&mut request, service, &settings, sessions, counters);
    let request = unboxed(request);
    let permits = match admitted {
        Ok(permits) => permits,
        Err(failure) => {
            return Box::pin(refuse_session(request.downstream, failure, counters)).await;
        }
    };
    let order = ConnectRequest {
        service: &service.name,
        peers: settings.peers.as_deref(),
        id: record.id(),
        client: request.client,
        origin: request.origin,
        probe: request.probe,
        counters,
        refused_by: Vec::new(),
        resend: Vec::new(),
        unsent: request.prefix,
        log: record.log(),
        leave: &service.leave,
        notices: &sessions.notices,
        reported: &service.reported,
        backend: None,
    };
    let session = DownstreamSide {
        side: pace_client(request.downstream, request.half, service),
        idle: settings.idle,
        has_waited: false,
        counters: counters.clone(),
        permits,
    };
    try_upstreams(destination, session, order, record, stopper, &sessions.switching).await
}

/// Tries one link or backend after another, until one carries the session or none is left.
async fn try_upstreams(
    destination: &SessionDestination<'_>,
    mut session: DownstreamSide,
    mut order: ConnectRequest<'_>,
    record: &SessionGuard,
    stopper: &SessionStopper,
    switching: &AtomicBool,
) -> EndWithRefusal {
    let counters = record.counters();
    for _ in 0..TRIES_MAX {
        // Boxed, like refusals: an open session should hold no memory for what it will not do again.
        let connecting =
            Box::pin(connect_unless_gone(destination, &mut session, &mut order, stopper, switching));
        let connected = match connecting.await {
            Err(end) => return (session.cut_downstream(end).await, None),
            Ok(Ok(connected)) => connected,
            Ok(Err(failure)) => return Box::pin(session.refuse(failure, counters)).await,
        };
        if let Some(peer) = &connected.peer {
            record.set_peer(&peer.label());
        }
        if order.probe
            && let Upstream::Backend(_) | Upstream::Socks(..) = connected.side
        {
            let connector = destination.connector();
            let answer = session.answer_probe(&connector, connected, &mut order, stopper);
            return Box::pin(answer).await;
        }
        match session.run_attempt(connected, &mut order, stopper).await {
            AttemptOutcome::Ended(end) => return (end, None),
            // After waiting for one backend, no other is waited for.
            AttemptOutcome::Refused(failure)
                if failure.refusal == Refusal::BackendLate || !destination.connector().has_other(&order) =>
            {
                return Box::pin(session.refuse(failure, counters)).await;
            }
            AttemptOutcome::Refused(_) | AttemptOutcome::Again => {}
        }
    }
    let reason = format!("{TRIES_MAX} links or gateways were tried");
    let failure = ConnectFailure::here(EndedBy::Peer, Refusal::Unavailable, reason);
    Box::pin(session.refuse(failure, counters)).await
}

/// Connects, unless the session is stopped or its client leaves first. In that case, returns how it ended.
async fn connect_unless_gone(
    destination: &SessionDestination<'_>,
    session: &mut DownstreamSide,
    order: &mut ConnectRequest<'_>,
    stopper: &SessionStopper,
    switching: &AtomicBool,
) -> Result<Result<Box<ConnectedUpstream>, ConnectFailure>, SessionEnd> {
    let (counters, service, is_probe) = (order.counters, destination.service, order.probe);
    tokio::select! {
        biased;
        () = stopper.stopped() => Err(stopper.end(counters.phase())),
        connected = connect_upstream(destination, order, switching) => {
            if let Some(wait) = counters.waited() {
                service.waits.add(wait);
                if !is_probe {
                    service.wait_times.add(wait);
                }
            }
            Ok(connected.map(Box::new))
        }
        () = wait_until_gone(&mut session.side, counters) => {
            Err(SessionEnd { who: EndedBy::Client, phase: counters.phase(), reason: "the client left".into() })
        }
    }
}

/// Takes a value out of its box, freeing the box here; `*` would keep it until the end of the function.
#[expect(clippy::boxed_local, reason = "that the box goes is the point")]
pub(super) fn unboxed<T>(value: Box<T>) -> T {
    *value
}

/// Limits the speed of a client's bytes as its service says.
fn pace_client(side: Downstream, half: Half, service: &Service) -> Downstream {
    match (side, half) {
        (Downstream::Client(stream), Half::Dmz) => Downstream::Client(stream.paced(&service.pace)),
        (side, _) => side,
    }
}

/// Connects. If a switch has replaced the connector meanwhile, or is about to, tries again, since nothing was
/// sent yet. The other half may have closed the old path a moment before this one takes the new.
async fn connect_upstream(
    destination: &SessionDestination<'_>,
    order: &mut ConnectRequest<'_>,
    switching: &AtomicBool,
) -> Result<ConnectedUpstream, ConnectFailure> {
    let mut failing_since = None;
    loop {
        let connector = destination.connector();
        let result = connector.connect(order).await;
        let of_the_way = |failure: &ConnectFailure| matches!(failure.who, EndedBy::Peer | EndedBy::Operator);
        // Read first, because a switch replaces the connector before it ends.
        let is_switching = switching.load(Ordering::SeqCst);
        match result {
            Err(_) if !Arc::ptr_eq(&connector, &destination.connector()) => {}
            Err(failure) if of_the_way(&failure) && is_switching => {
                if failing_since.get_or_insert_with(Instant::now).elapsed() >= SWITCH_PATIENCE {
                    return Err(failure);
                }
                tokio::time::sleep(SWITCH_LOOK).await;
            }
            result => return result,
        }
    }
}

/// How often to check on a waiting client that has finished sending.
const GONE_LOOK: Duration = Duration::from_millis(100);

/// Returns when the client has left before its session was connected, because its connection has failed. One
/// that has only finished sending waits like any other.
async fn wait_until_gone(downstream: &mut Downstream, counters: &SessionCounters) {
    if let Downstream::Opened(session) = downstream {
        session.given_up().await;
        return;
    }
    let Some(stream) = downstream.stream_mut() else { return std::future::pending().await };
    if let Some(pipe) = stream.pipe() {
        // A client that has sent its request and finished sending is answered. But it may have left, and should
        // then not keep a place among those that wait for a link.
        while timeout(GONE_LOOK, pipe.other_end_gone()).await.is_err() {
            if pipe.has_client_ended() && counters.phase() == SessionPhase::Waiting {
                return;
            }
        }
        return;
    }
    let Some(stream) = stream.tcp() else { return std::future::pending().await };
    // An error here means that the runtime is ending.
    let _ = stream.ready(Interest::ERROR).await;
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        connect::TestSession,
        gateway::service::ServiceSettings,
        link::pool::Pool,
        profile::{PoolLimits, ServiceName},
        tasks::Tasks,
        tests::happens_after,
    };

    #[tokio::test(start_paused = true)]
    async fn a_way_that_stays_closed_under_a_switch_is_given_up_in_time() {
        let (wait, retire) = (SWITCH_PATIENCE * 9, SWITCH_PATIENCE * 99);
        let limits = PoolLimits { prepared: 1, wait, waiters: 1, retire, links_per_peer: None };
        let pool = Pool::new(limits, 1, Arc::default(), Tasks::default());
        pool.close();
        let name = ServiceName::parse("orders").expect("a name");
        let closed = Connector::Reverse(pool);
        let service = Service::new(name, ServiceSettings::default(), closed, CancellationToken::new());
        let (destination, session) =
            (SessionDestination { of: None, service: &service }, TestSession::of("orders"));
        let (mut order, switching) = (session.order(), AtomicBool::new(true));
        let connected =
            happens_after(SWITCH_PATIENCE, connect_upstream(&destination, &mut order, &switching)).await;
        assert_eq!(connected.expect_err("it is closed").who, EndedBy::Operator);
    }
}
