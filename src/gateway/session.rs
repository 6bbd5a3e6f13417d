//! One session, from its accept side to its end, in reading order.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    io::Interest,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    probe::{self, PendingProbes},
    relay::{self, LinkSides, RelayOutcome, WhichSide},
    service::{Service, ServiceTable},
    session_end::{pipe_failure, report_end, reset_cause, unanswered_reason},
};
use crate::{
    accept::{SessionOutcome, SessionReply, SessionRequest, idle::IdleState},
    connect::{ConnectFailure, ConnectRequest, ConnectedUpstream, Connector},
    link::{HANDSHAKE, Peer, error::LinkError, session_side::SessionSide},
    net::{echo::EchoStream, stream::NetStream},
    proto::{Refusal, link::frame::ResetCause},
    telemetry::{
        end::{EndedBy, SessionEnd},
        notices::NoticeLog,
        rate_limited::LogKind,
        registry::{SessionCounters, SessionGuard, SessionKind, SessionRegistry},
        snapshot::{ServicePhase, SessionPhase},
    },
};

/// Pause before a way that failed under a switch is tried again, and how long that goes on: the
/// other half is ahead of us by a moment, or the failure stands.
const SWITCH_LOOK: Duration = Duration::from_millis(50);
const SWITCH_PATIENCE: Duration = Duration::from_secs(1);

const LATE: &str =
    "the link was cut: the inside refused it, or its backend did; the internal gateway's log says which";

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
}

impl SessionContext {
    /// Serves one session to its end. The request is boxed, because its memory is not needed once the
    /// session runs.
    pub async fn serve(self, mut asked: Box<SessionRequest>) {
        // A probe comes in as a client does; only its address tells.
        let sent = asked.client.filter(|_| asked.peer.is_none()).and_then(|from| self.probes.claim(from));
        asked.probe |= sent.is_some();
        let client = asked.client.map_or_else(|| "unknown".into(), |client| client.to_string());
        let key = (asked.half, asked.service.clone());
        let service = self.services.load().get(&key).or(self.leaving.load().get(&key)).cloned();
        let Some(service) = service else {
            // A name from outside gets no place in the books.
            let peer = asked.peer.as_ref().map_or(client.into(), |peer| peer.label());
            self.notices.warn_limited(
                LogKind::UnknownService,
                format!("{peer} asked for an unknown service `{}`", asked.service),
            );
            return Box::pin(asked.reply.refuse(asked.downstream, Refusal::UnknownService)).await;
        };
        let kill = service.cut.child_token();
        let kind = if asked.probe { SessionKind::Probe } else { SessionKind::Client };
        let books = (asked.half, service.name.clone());
        let record = self.registry.open(books, asked.id.clone(), client, kind, kill.clone());
        if let Some(peer) = &asked.peer {
            record.set_peer(&peer.label());
        }
        if kind == SessionKind::Client {
            record.counters().time_connects(service.connect_times.clone());
        }
        let way = SessionDestination {
            of: sent.as_ref().and_then(|sent| sent.connector.clone()),
            service: &service,
        };
        let teller = asked.outcome_sender.take();
        let (end, refusal) = run(&way, asked, &record, &kill, &self).await;
        if let Some(teller) = teller {
            // Who does not wait any more need not know.
            let _ = teller.send(SessionOutcome { end: end.clone(), refusal });
        }
        if let Some(sent) = sent {
            // A prober that has given up needs no answer.
            let _ = sent.ended.send(end.clone());
        }
        record.finish(end);
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

/// How a session ended and, if it was never connected, why.
type EndWithRefusal = (SessionEnd, Option<Refusal>);

async fn run(
    way: &SessionDestination<'_>,
    asked: Box<SessionRequest>,
    record: &SessionGuard,
    kill: &CancellationToken,
    sessions: &SessionContext,
) -> EndWithRefusal {
    let SessionRequest {
        downstream: side,
        client,
        peer,
        reply,
        prefix: said,
        link_guard: _seat,
        probe,
        idle_state: rest,
        ..
    } = *asked;
    let (counters, service) = (record.counters(), way.service);
    counters.enter(SessionPhase::Authorising);
    let settings = service.settings.load_full();
    if let Some(why) = service.down_reason() {
        counters.enter(SessionPhase::Connecting);
        let reason = format!("the service is down: {why}");
        return refuse_session(
            reply,
            side,
            connect_failure(EndedBy::Backend, Refusal::BackendUnreachable, reason),
            counters,
        )
        .await;
    }
    let admitted = admit(service, peer.as_ref(), settings.peers.as_deref(), rest);
    let _admission = match admitted {
        Ok(admission) => admission,
        Err(failure) => return refuse_session(reply, side, failure, counters).await,
    };
    let mut order = ConnectRequest {
        service: &service.name,
        peers: settings.peers.as_deref(),
        id: record.id(),
        client,
        probe,
        counters,
        refused_by: Vec::new(),
        resend: Vec::new(),
        unsent: said,
        log: record.log(),
        leave: &service.leave,
        notices: &sessions.notices,
        reported: &service.reported,
    };
    let mut session =
        DownstreamSide { side, peer, reply: Some(reply), idle: settings.idle, has_waited: false };
    for _ in 0..TRIES_MAX {
        let connected = tokio::select! {
            biased;
            () = kill.cancelled() => Err((EndedBy::Operator, "ended by the operator")),
            connected = connect_upstream(way, &mut order, &sessions.switching) => {
                if let Some(wait) = counters.waited() {
                    service.waits.add(wait);
                    if !probe {
                        service.wait_times.add(wait);
                    }
                }
                Ok(connected)
            }
            () = wait_until_gone(&session.side, counters) => Err((EndedBy::Client, "the client left")),
        };
        let connected = match connected {
            Err((who, reason)) => return (session.cut_downstream(counters, who, reason.into()).await, None),
            Ok(Ok(connected)) => connected,
            Ok(Err(failure)) => return session.refuse(failure, counters).await,
        };
        if let Some(peer) = &connected.peer {
            record.set_peer(&peer.label());
        }
        if probe && !connected.side.is_framed() {
            return (Box::pin(session.answer_probe(way, connected, &mut order, kill)).await, None);
        }
        match session.run_attempt(Box::new(connected), &mut order, kill).await {
            AttemptOutcome::Ended(end) => return (end, None),
            // A backend that was waited for is not waited for again elsewhere.
            AttemptOutcome::Refused(failure)
                if failure.refusal == Refusal::BackendLate || !way.connector().has_other(&order) =>
            {
                return session.refuse(failure, counters).await;
            }
            AttemptOutcome::Refused(_) | AttemptOutcome::Again => {}
        }
    }
    let reason = format!("{TRIES_MAX} links or gateways were tried");
    session.refuse(connect_failure(EndedBy::Peer, Refusal::Unavailable, reason), counters).await
}

/// Decides whether a session may be served, and takes a permit of the service's limit.
fn admit(
    service: &Arc<Service>,
    peer: Option<&Peer>,
    peers: Option<&[String]>,
    rest: Option<Arc<IdleState>>,
) -> Result<super::service::SessionPermit, ConnectFailure> {
    if let Some(peer) = peer.filter(|peer| !peer.is_among(peers)) {
        let reason = format!("{} is not among the service's `peers`", peer.label());
        return Err(connect_failure(EndedBy::Policy, Refusal::NotAllowed, reason));
    }
    if service.phase() == ServicePhase::Draining {
        return Err(connect_failure(EndedBy::Operator, Refusal::Draining, "the service is draining".into()));
    }
    service.admit(rest).map_err(|limit| {
        let reason = format!("`sessions` is {limit}, and so many are open");
        connect_failure(EndedBy::Limit, Refusal::Full, reason)
    })
}

/// The downstream side of a session, and what it is still waiting for.
struct DownstreamSide {
    side: SessionSide,
    peer: Option<Peer>,
    reply: Option<SessionReply>,
    idle: Option<Duration>,
    /// It has already waited for a peer that did not answer, and does not wait for a second one.
    has_waited: bool,
}

/// The result of one attempt with one upstream.
enum AttemptOutcome {
    Ended(SessionEnd),
    /// It refused. No byte reached a backend, and what the client sent is back in the request.
    Refused(ConnectFailure),
    /// It was lost before it was opened; nothing was sent.
    Again,
}

impl DownstreamSide {
    async fn run_attempt(
        &mut self,
        connected: Box<ConnectedUpstream>,
        order: &mut ConnectRequest<'_>,
        kill: &CancellationToken,
    ) -> AttemptOutcome {
        let ConnectedUpstream { side: mut upstream, peer: far_peer, link_guard: _seat, first: mut unsent } =
            *connected;
        let counters = order.counters;
        if let Some(reply) = self.reply.take()
            && let Err(end) = grant_session(reply, &mut self.side, counters).await
        {
            return AttemptOutcome::Ended(end);
        }
        let links = LinkSides { downstream: self.peer.is_some(), upstream: far_peer.is_some() };
        let relayed = tokio::select! {
            relayed = relay::relay(&mut self.side, &mut upstream, &mut unsent, links, counters, self.idle) => relayed,
            () = kill.cancelled() => {
                let end = SessionEnd { who: EndedBy::Operator, phase: counters.phase(), reason: "cut by the operator".into() };
                self.cut_both(upstream, ResetCause::Operator).await;
                return AttemptOutcome::Ended(end);
            }
        };
        if let RelayOutcome::Failed(WhichSide::Upstream, error) = &relayed
            && let Some(again) = may_retry(error, &mut upstream, far_peer.clone(), order)
        {
            order.unsent = unsent;
            return again;
        }
        if matches!(relayed, RelayOutcome::Unanswered)
            && let SessionSide::Link(link) = &upstream
        {
            link.note_unanswered();
            if !link.has_sent() && !std::mem::replace(&mut self.has_waited, true) {
                Box::pin(upstream.cut(ResetCause::Time)).await;
                order.unsent = unsent;
                order.refused_by.extend(far_peer);
                return AttemptOutcome::Refused(connect_failure(
                    EndedBy::Time,
                    Refusal::Unavailable,
                    unanswered_reason(),
                ));
            }
        }
        let failed = pipe_failure(&self.side).or_else(|| pipe_failure(&upstream));
        if matches!(relayed, RelayOutcome::Clean) {
            self.side.let_close_cleanly();
            upstream.let_close_cleanly();
            return AttemptOutcome::Ended(failed.unwrap_or_else(SessionEnd::clean));
        }
        let is_framed = self.side.is_framed();
        let end =
            failed.unwrap_or_else(|| report_end(relayed, links, is_framed, counters.phase(), self.idle));
        self.cut_both(upstream, reset_cause(end.who)).await;
        AttemptOutcome::Ended(end)
    }

    /// A probe goes no further than it can be told for what it is, so that no byte of it reaches a
    /// backend: that one was connected, and from here on an echo answers.
    async fn answer_probe(
        mut self,
        way: &SessionDestination<'_>,
        connected: ConnectedUpstream,
        order: &mut ConnectRequest<'_>,
        kill: &CancellationToken,
    ) -> SessionEnd {
        let ConnectedUpstream { side: mut reached, link_guard, .. } = connected;
        reached.let_close_cleanly();
        let echo = SessionSide::Stream(NetStream::Echo(EchoStream::default()));
        let echo = ConnectedUpstream { side: echo, peer: None, link_guard, first: Vec::new() };
        match Box::pin(self.run_attempt(Box::new(echo), order, kill)).await {
            AttemptOutcome::Ended(end)
                if end.who == EndedBy::Nobody && way.connector().may_refuse_after_grant() =>
            {
                match probe::is_refused_after_grant(&mut reached).await {
                    true => {
                        SessionEnd { who: EndedBy::Peer, phase: order.counters.phase(), reason: LATE.into() }
                    }
                    false => end,
                }
            }
            AttemptOutcome::Ended(end) => end,
            AttemptOutcome::Refused(failure) => self.refuse(failure, order.counters).await.0,
            AttemptOutcome::Again => {
                self.cut_downstream(
                    order.counters,
                    EndedBy::Internal,
                    "an echo was lost; this is a bug".into(),
                )
                .await
            }
        }
    }

    async fn refuse(self, failure: ConnectFailure, counters: &SessionCounters) -> EndWithRefusal {
        let reply = self.reply.unwrap_or(SessionReply::Silent);
        refuse_session(reply, self.side, failure, counters).await
    }

    async fn cut_both(&mut self, upstream: SessionSide, cause: ResetCause) {
        let downstream = std::mem::replace(&mut self.side, SessionSide::Gone);
        Box::pin(async { tokio::join!(downstream.cut(cause), upstream.cut(cause)) }).await;
    }

    /// Cuts the downstream side; the upstream side is not connected, or has been cut already.
    async fn cut_downstream(
        &mut self,
        counters: &SessionCounters,
        who: EndedBy,
        reason: String,
    ) -> SessionEnd {
        Box::pin(std::mem::replace(&mut self.side, SessionSide::Gone).cut(reset_cause(who))).await;
        SessionEnd { who, phase: counters.phase(), reason }
    }
}

/// Whether another link or peer may be tried: this one has refused, or has died with nothing sent.
fn may_retry(
    error: &io::Error,
    upstream: &mut SessionSide,
    peer: Option<Peer>,
    order: &mut ConnectRequest<'_>,
) -> Option<AttemptOutcome> {
    let SessionSide::Link(link) = upstream else { return None };
    let trouble = LinkError::of(error);
    let is_unsent = link.state().is_opening() && !link.has_sent();
    match trouble {
        Some(LinkError::Refused(_) | LinkError::Unseen) => {}
        _ if is_unsent => return Some(AttemptOutcome::Again),
        _ => return None,
    }
    order.resend = link.take_copy();
    order.counters.take_back_up(order.resend.len());
    let label = link.peer().label();
    upstream.return_to_pool_if_free(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    let Some(LinkError::Refused(why)) = trouble else { return Some(AttemptOutcome::Again) };
    order.refused_by.extend(peer);
    let who = match why {
        Refusal::UnknownService | Refusal::NotAllowed => EndedBy::Policy,
        Refusal::BackendRefused | Refusal::BackendLate | Refusal::BackendUnreachable => EndedBy::Backend,
        Refusal::Full => EndedBy::Limit,
        Refusal::Draining => EndedBy::Operator,
        Refusal::Unavailable => EndedBy::Peer,
    };
    Some(AttemptOutcome::Refused(connect_failure(who, *why, format!("{label}: {}", why.words()))))
}

/// Connects; again where a switch has changed the way meanwhile, or is about to, since nothing was
/// sent yet: the other half may have closed the old way a moment before this one takes the new.
async fn connect_upstream(
    way: &SessionDestination<'_>,
    order: &mut ConnectRequest<'_>,
    switching: &AtomicBool,
) -> Result<ConnectedUpstream, ConnectFailure> {
    let mut failing_since = None;
    loop {
        let connector = way.connector();
        // Boxed, as are refusals: an open session holds no memory for what it will not do again.
        let result = Box::pin(connector.connect(order)).await;
        let of_the_way = |failure: &ConnectFailure| matches!(failure.who, EndedBy::Peer | EndedBy::Operator);
        // Read first: a switch replaces the way before it ends.
        let is_switching = switching.load(Ordering::SeqCst);
        match result {
            Err(_) if !Arc::ptr_eq(&connector, &way.connector()) => {}
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

/// How often a client that waits and has ended its sending is looked at.
const GONE_LOOK: Duration = Duration::from_millis(100);

/// Returns when the client has left before its session was connected: its connection has failed. One
/// that has only finished sending waits like any other.
async fn wait_until_gone(downstream: &SessionSide, counters: &SessionCounters) {
    let SessionSide::Stream(stream) = downstream else { return std::future::pending().await };
    if let NetStream::Pipe(pipe) = stream {
        // Whoever asks, and has ended its sending, is answered; but it may have left, and keeps no place
        // among those that wait for a link.
        while timeout(GONE_LOOK, pipe.other_end_gone()).await.is_err() {
            if pipe.has_client_ended() && counters.phase() == SessionPhase::Waiting {
                return;
            }
        }
        return;
    }
    let Some(stream) = stream.tcp() else { return std::future::pending().await };
    // An error of this wait is one of the runtime, which ends.
    let _ = stream.ready(Interest::ERROR).await;
}

async fn grant_session(
    reply: SessionReply,
    downstream: &mut SessionSide,
    counters: &SessionCounters,
) -> Result<(), SessionEnd> {
    let end = |reason| SessionEnd { who: EndedBy::Peer, phase: counters.phase(), reason };
    match tokio::time::timeout(HANDSHAKE, Box::pin(reply.grant(downstream))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(end(format!("the link was lost before the answer: {error}"))),
        Err(_) => Err(end("the link takes no bytes".into())),
    }
}

fn connect_failure(who: EndedBy, refusal: Refusal, reason: String) -> ConnectFailure {
    ConnectFailure { who, refusal, reason }
}

async fn refuse_session(
    reply: SessionReply,
    downstream: SessionSide,
    failure: ConnectFailure,
    counters: &SessionCounters,
) -> EndWithRefusal {
    let phase = counters.phase();
    Box::pin(reply.refuse(downstream, failure.refusal)).await;
    (SessionEnd { who: failure.who, phase, reason: failure.reason }, Some(failure.refusal))
}
