//! How a session is opened, in reading order: it is let in, and one link or backend after another is tried until one
//! carries it. Once bytes of its client may have reached a backend, no other one is tried.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::Interest,
    time::{Instant, sleep, timeout},
};

use super::{
    attempt::{
        AdmittedRequest, AdmittedSession, AttemptOutcome, CarriedSession, EndWithRefusal, ReachedBackend,
        refuse_session,
    },
    service::{Service, ServiceSettings},
    session::{SessionContext, unboxed},
    session_end::CLIENT_LEFT,
    session_permits::admit_session,
};
use crate::{
    accept::SessionRequest,
    connect::{ConnectFailure, ConnectRequest, ConnectedUpstream, Connector, RefusedAt},
    link::{
        HANDSHAKE_TIMEOUT,
        peer_record::PEER_REST_PERIOD,
        session_side::{Downstream, Upstream},
    },
    profile::Half,
    proto::Refusal,
    telemetry::{
        end::{EndedBy, SessionEnd},
        registry::{SessionCounters, SessionGuard, SessionStopper},
        snapshot::SessionPhase,
    },
};

/// During a switch, a connect that failed is tried again so often, and for so long: the other half may be about to follow.
const SWITCH_RETRY_DELAY: Duration = Duration::from_millis(50);
const SWITCH_RETRY_MAX: Duration = Duration::from_secs(1);

/// How many links and peers one session tries.
const TRIES_MAX: usize = 8;
/// How many idle sessions are closed for one that another gateway has no room for.
const IDLE_CLOSES_MAX: usize = 3;

/// The destination of a session: that of its service or, for a probe, the one under test.
pub(super) struct SessionDestination<'a> {
    pub connector: Option<Arc<Connector>>,
    pub service: &'a Arc<Service>,
}

impl SessionDestination<'_> {
    fn connector(&self) -> Arc<Connector> {
        self.connector.clone().unwrap_or_else(|| self.service.connector.load_full())
    }
}

/// A session that was not let in.
struct RefusedSession {
    downstream: Downstream,
    failure: ConnectFailure,
}

/// Lets a session in, if it may be served.
fn admit<'a>(
    service: &'a Arc<Service>,
    settings: &'a ServiceSettings,
    mut request: Box<SessionRequest>,
    record: &'a SessionGuard,
    sessions: &'a SessionContext,
) -> Result<AdmittedSession<'a>, Box<RefusedSession>> {
    let counters = record.counters();
    counters.enter(SessionPhase::Authorising);
    let admitted = admit_session(&mut request, service, settings, sessions, counters);
    let request = unboxed(request);
    let permits = match admitted {
        Ok(permits) => permits,
        Err(failure) => {
            return Err(Box::new(RefusedSession { downstream: request.downstream, failure }));
        }
    };
    let connect_request = ConnectRequest {
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
        tried: None,
    };
    let admitted = AdmittedRequest { connect_request, idle: settings.idle, has_waited: false, permits };
    let downstream = pace_client(request.downstream, request.half, service);
    Ok(AdmittedSession { downstream, admitted: Box::new(admitted) })
}

/// The result of opening a session.
pub(super) enum SessionStart {
    Carried(CarriedSession),
    /// It was refused or cut, or has been relayed to its end.
    Over(EndWithRefusal),
}

/// Tries one link or backend after another, until one carries the session or none is left.
pub(super) async fn open(
    destination: &SessionDestination<'_>,
    request: Box<SessionRequest>,
    record: &SessionGuard,
    sessions: &SessionContext,
) -> SessionStart {
    let (counters, stopper, settings) =
        (record.counters(), record.stopper(), destination.service.settings.load_full());
    let mut session = match admit(destination.service, &settings, request, record, sessions) {
        Ok(session) => session,
        Err(refused) => {
            let RefusedSession { downstream, failure } = *refused;
            return SessionStart::Over(Box::pin(refuse_session(downstream, failure, counters)).await);
        }
    };
    let mut idle_closed = 0;
    for _ in 0..TRIES_MAX {
        let connecting =
            Box::pin(connect_while_client_waits(destination, &mut session, stopper, &sessions.switching));
        let connected = match connecting.await {
            Err(end) => return SessionStart::Over((session.cut(end), None)),
            Ok(Ok(connected)) => connected,
            Ok(Err(failure)) => {
                return SessionStart::Over(Box::pin(session.refuse(failure, counters)).await);
            }
        };
        if let Some(peer) = &connected.peer {
            record.set_peer(peer.into());
        }
        let connected = match for_probe(connected, &session) {
            Ok(reached) => {
                let connector = destination.connector();
                return SessionStart::Over(Box::pin(session.answer_probe(&connector, reached, record)).await);
            }
            Err(connected) => connected,
        };
        match session.run_attempt(connected, stopper).await {
            AttemptOutcome::Carried(carried) => return SessionStart::Carried(carried),
            AttemptOutcome::Ended(end) => return SessionStart::Over((end, None)),
            AttemptOutcome::Refused(refused, failure) => {
                session = refused;
                // After waiting for one backend, no other is waited for.
                let goes_on = failure.refusal != Refusal::BackendLate
                    && destination.connector().has_other(&session.admitted.connect_request);
                let has_room = goes_on || {
                    let read_ahead = session.admitted.connect_request.unsent.len();
                    let making = close_idle_session(
                        &failure,
                        destination.service,
                        &mut session.admitted.connect_request,
                        &mut idle_closed,
                    );
                    tokio::select! {
                        biased;
                        () = stopper.until_stopped() => false,
                        () = wait_until_client_left(&mut session.downstream, read_ahead, counters) => false,
                        made = making => made,
                    }
                };
                if !has_room {
                    return SessionStart::Over(Box::pin(session.refuse(failure, counters)).await);
                }
            }
            AttemptOutcome::Again(lost) => session = lost,
        }
    }
    let reason = format!("{TRIES_MAX} links or gateways were tried");
    let failure = ConnectFailure::here(EndedBy::Peer, Refusal::Unavailable, reason);
    SessionStart::Over(Box::pin(session.refuse(failure, counters)).await)
}

/// The backend that a probe has reached, and what it answers. Over a link of our own it goes on like a session.
fn for_probe(
    connected: Box<ConnectedUpstream>,
    session: &AdmittedSession<'_>,
) -> Result<ReachedBackend, Box<ConnectedUpstream>> {
    if !session.admitted.connect_request.probe {
        return Err(connected);
    }
    let ConnectedUpstream { side, peer, first } = unboxed(connected);
    match side {
        Upstream::Backend(stream) => Ok(ReachedBackend { stream, _guard: None }),
        Upstream::Socks(stream, guard) => Ok(ReachedBackend { stream, _guard: Some(guard) }),
        side @ Upstream::Shared(_) => Err(Box::new(ConnectedUpstream { side, peer, first })),
    }
}

/// Where another gateway is full: closes the session that has been idle for longest, which counts there like one at
/// work, and waits until it has ended. Another client may take that room first, so this is done for a session a few
/// times, before the limit there is taken to be another one.
async fn close_idle_session(
    failure: &ConnectFailure,
    service: &Service,
    connect_request: &mut ConnectRequest<'_>,
    idle_closed: &mut usize,
) -> bool {
    if connect_request.probe || failure.refusal != Refusal::Full || failure.at != RefusedAt::Peer {
        return false;
    }
    if *idle_closed == IDLE_CLOSES_MAX {
        service.note_no_room(PEER_REST_PERIOD);
        return false;
    }
    *idle_closed += 1;
    let Some(closed) = service.close_longest_idle_session() else { return false };
    connect_request.refused_by.clear();
    // If it takes longer than that, the next attempt is refused in the same words.
    let _ = timeout(HANDSHAKE_TIMEOUT, closed.until_ended()).await;
    true
}

/// Connects, unless the session is stopped or its client leaves first. In that case, returns how it ended.
async fn connect_while_client_waits(
    destination: &SessionDestination<'_>,
    session: &mut AdmittedSession<'_>,
    stopper: &SessionStopper,
    switching: &AtomicBool,
) -> Result<Result<Box<ConnectedUpstream>, ConnectFailure>, SessionEnd> {
    let AdmittedSession { downstream, admitted } = session;
    let connect_request = &mut admitted.connect_request;
    let (counters, service, is_probe) =
        (connect_request.counters, destination.service, connect_request.probe);
    let read_ahead = connect_request.unsent.len();
    tokio::select! {
        biased;
        () = stopper.until_stopped() => Err(stopper.end(counters.phase())),
        connected = connect_upstream(destination, connect_request, switching) => {
            if let Some(wait) = counters.waited() {
                service.waits.add(wait);
                if !is_probe {
                    service.wait_times.add(wait);
                }
            }
            Ok(connected.map(Box::new))
        }
        () = wait_until_client_left(downstream, read_ahead, counters) => {
            Err(SessionEnd { ended_by: EndedBy::Client, phase: counters.phase(), reason: CLIENT_LEFT.into() })
        }
    }
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
    connect_request: &mut ConnectRequest<'_>,
    switching: &AtomicBool,
) -> Result<ConnectedUpstream, ConnectFailure> {
    let mut failing_since = None;
    loop {
        let connector = destination.connector();
        let result = connector.connect(connect_request).await;
        let is_of_path =
            |failure: &ConnectFailure| matches!(failure.ended_by, EndedBy::Peer | EndedBy::Operator);
        // Read first, because a switch replaces the connector before it ends.
        let is_switching = switching.load(Ordering::SeqCst);
        match result {
            Err(_) if !Arc::ptr_eq(&connector, &destination.connector()) => {}
            Err(failure) if is_of_path(&failure) && is_switching => {
                if failing_since.get_or_insert_with(Instant::now).elapsed() >= SWITCH_RETRY_MAX {
                    return Err(failure);
                }
                sleep(SWITCH_RETRY_DELAY).await;
            }
            result => return result,
        }
    }
}

/// How often to check on a client that has failed, and whose bytes are yet to be delivered.
const CLIENT_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Returns when the client has left before its session was connected, because its connection has failed. One
/// that has only finished sending waits like any other. What one has sent before it failed is still delivered, within
/// the deadlines of a connect; but no link is waited for in its place. `read_ahead` bytes of it were read already.
async fn wait_until_client_left(downstream: &mut Downstream, read_ahead: usize, counters: &SessionCounters) {
    if let Downstream::Opened(session) = downstream {
        session.given_up().await;
        return;
    }
    let Some(stream) = downstream.stream() else { return std::future::pending().await };
    if let Some(pipe) = stream.pipe() {
        pipe.other_end_gone().await;
        return;
    }
    let Some(socket) = stream.tcp() else { return std::future::pending().await };
    // An error here means that the runtime is ending.
    let _ = socket.ready(Interest::ERROR).await;
    let is_owed = || read_ahead > 0 || stream.may_hold_bytes();
    while counters.phase() != SessionPhase::Waiting && is_owed() {
        sleep(CLIENT_CHECK_INTERVAL).await;
    }
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
    async fn a_mode_that_fails_a_session_under_a_switch_is_given_up_in_time() {
        let (wait, retire) = (SWITCH_RETRY_MAX * 9, SWITCH_RETRY_MAX * 99);
        let limits = PoolLimits { prepared: 1, wait, waiters: 1, retire, links_per_peer: None };
        let pool = Pool::new(limits, Arc::default(), Tasks::default());
        pool.close();
        let name = ServiceName::parse("orders").expect("a name");
        let closed = Connector::Reverse(pool);
        let service = Service::new(name, ServiceSettings::default(), closed, CancellationToken::new());
        let (destination, session) =
            (SessionDestination { connector: None, service: &service }, TestSession::of("orders"));
        let (mut connect_request, switching) = (session.connect_request(), AtomicBool::new(true));
        let connecting = connect_upstream(&destination, &mut connect_request, &switching);
        let connected = happens_after(SWITCH_RETRY_MAX, connecting).await;
        assert_eq!(connected.expect_err("it is closed").ended_by, EndedBy::Operator);
    }
}
