//! One attempt of a session with one upstream: what its downstream side gets from it, and how that ends. Whether
//! another upstream is tried afterwards is decided in [`super::opening`].

use std::time::Duration;

use super::{
    link_session::{self, CountedDirection},
    relay::{self, LinkSides, RelayOutcome, WhichSide},
    session::unboxed,
    session_end::{cut_cause, pipe_failure, report_end, report_fate, report_unattached, unanswered_reason},
    session_permits::SessionPermits,
};
use crate::{
    connect::{
        ConnectFailure, ConnectRequest, ConnectedUpstream, Connector, RefusedAt, SessionRefusal,
        backend_group::BackendUse,
    },
    link::{
        HANDSHAKE_TIMEOUT, Peer,
        link_guard::LinkGuard,
        multiplex::handle::{
            LinkClosed, LocalSide, OpenAnswer, SessionFate, SessionHandle, SessionLeftover, Undelivered,
        },
        peer_record::{PEER_COOLDOWN_PERIOD, PeerRecord},
        session_side::{Downstream, LinkSlot, SessionOpening, Upstream},
    },
    net::stream::NetStream,
    proto::{Refusal, multiplex::frame::CutCause},
    telemetry::{
        end::{EndedBy, SessionEnd},
        log::LogEvent,
        registry::{SessionCounters, SessionGuard, SessionStopper, StopReason},
    },
    verify::probe,
};

/// How a session ended and, if it was never connected, why.
pub(super) type EndWithRefusal = (SessionEnd, Option<SessionRefusal>);

const LATE: &str =
    "the link was cut: the inside refused it, or its backend did; the internal gateway's log says which";

/// A session that was let in, with its request to the connector.
pub(super) struct AdmittedSession<'a> {
    pub downstream: DownstreamSide,
    pub connect_request: ConnectRequest<'a>,
}

/// The downstream side of a session, and what it is still waiting for.
pub(super) struct DownstreamSide {
    pub side: Downstream,
    pub idle: Option<Duration>,
    /// It has waited once for a silent peer; the next silent peer fails it at once.
    pub has_waited: bool,
    /// Its permits under the limits, held until it ends.
    pub permits: SessionPermits,
}

/// The result of one attempt with one upstream.
pub(super) enum AttemptOutcome {
    Ended(SessionEnd),
    /// It refused. No byte reached a backend, and the client's bytes are back in the request.
    Refused(ConnectFailure),
    /// It was lost before it was opened; nothing was sent.
    Again,
    /// A link carries it from here on, and it is not tried elsewhere.
    Carried(SessionHandle),
}

/// A session that a link carries. Beside its row there, this is all that is held of it while it is idle.
pub(super) struct CarriedSession {
    handle: SessionHandle,
    /// Where the bytes go that come from the link.
    toward: CountedDirection,
    idle: Option<Duration>,
    _permits: SessionPermits,
    _backend: Option<BackendUse>,
}

impl AdmittedSession<'_> {
    pub async fn run_attempt(
        &mut self,
        connected: Box<ConnectedUpstream>,
        stopper: &SessionStopper,
    ) -> AttemptOutcome {
        let ConnectedUpstream { side: upstream, peer, first: unsent } = unboxed(connected);
        let (upstream, link_guard) = match upstream {
            Upstream::Shared(opening) => {
                self.connect_request.tried = peer;
                return self.carry_on_link(opening, unsent, stopper).await;
            }
            Upstream::Backend(stream) => (stream, None),
            Upstream::Socks(stream, guard) => (stream, Some(guard)),
        };
        let relaying =
            self.downstream.relay_to(upstream, link_guard, unsent, self.connect_request.counters, stopper);
        AttemptOutcome::Ended(Box::pin(relaying).await)
    }

    /// Opens the session on a link and gives the link the client's stream, until the other gateway has taken it.
    async fn carry_on_link(
        &mut self,
        opening: Box<SessionOpening>,
        unsent: Vec<u8>,
        stopper: &SessionStopper,
    ) -> AttemptOutcome {
        let record = opening.slot.record.clone();
        let mut handle = match self.open_on_link(opening, unsent).await {
            Ok(handle) => handle,
            Err(outcome) => return outcome,
        };
        let remains = tokio::select! {
            answer = handle.answered() => match answer {
                OpenAnswer::Taken => return AttemptOutcome::Carried(handle),
                OpenAnswer::Over(remains) => remains,
            },
            () = stopper.until_stopped() => {
                let end = stopper.end(self.connect_request.counters.phase());
                handle.cut(cut_cause(end.ended_by));
                return AttemptOutcome::Ended(end);
            }
        };
        Box::pin(self.conclude(remains, &record, stopper)).await
    }

    async fn open_on_link(
        &mut self,
        opening: Box<SessionOpening>,
        unsent: Vec<u8>,
    ) -> Result<SessionHandle, AttemptOutcome> {
        let (downstream, connect_request) = (&mut self.downstream, &mut self.connect_request);
        let SessionOpening { slot: LinkSlot { handle: link, slot, .. }, request } = *opening;
        let Downstream::Client(stream) = std::mem::replace(&mut downstream.side, Downstream::Taken) else {
            let end = internal_end(connect_request.counters, "a session without a client");
            return Err(AttemptOutcome::Ended(end));
        };
        connect_request.counters.set_via(link.id());
        let local = LocalSide {
            stream,
            unsent,
            counters: connect_request.counters.clone(),
            idle: downstream.idle,
            cause_of: link_session::cause_of_client,
        };
        link.open(request, Box::new(local), slot).await.map_err(|LinkClosed(local)| {
            downstream.side = Downstream::Client(local.stream);
            connect_request.unsent = local.unsent;
            AttemptOutcome::Again
        })
    }

    /// The result of a session that the other gateway has not taken.
    async fn conclude(
        &mut self,
        remains: Box<SessionLeftover>,
        record: &PeerRecord,
        stopper: &SessionStopper,
    ) -> AttemptOutcome {
        let (downstream, connect_request) = (&mut self.downstream, &mut self.connect_request);
        let SessionLeftover { how, mut stream, rest, again, is_unsent } = *remains;
        let peer = connect_request.tried.take();
        match how {
            SessionFate::Unsent | SessionFate::Refused(Refusal::OtherLink) => {
                downstream.take_back(&mut stream);
                connect_request.unsent = again;
                return AttemptOutcome::Again;
            }
            SessionFate::Refused(why) => {
                downstream.take_back(&mut stream);
                connect_request.unsent = again;
                return AttemptOutcome::Refused(refused_by_peer(why, peer, connect_request));
            }
            SessionFate::Unanswered => {
                if record.note_unanswered() {
                    connect_request.notices.warn(LogEvent::PeerRests.line(peer_rests(peer.as_ref())));
                }
                if is_unsent && !std::mem::replace(&mut downstream.has_waited, true) {
                    downstream.take_back(&mut stream);
                    connect_request.unsent = again;
                    connect_request.refused_by.extend(peer);
                    return AttemptOutcome::Refused(ConnectFailure {
                        ended_by: EndedBy::Time,
                        refusal: Refusal::Unavailable,
                        at: RefusedAt::Peer,
                        reason: unanswered_reason(),
                    });
                }
            }
            SessionFate::Clean
            | SessionFate::StreamFailed(_)
            | SessionFate::Reset(_)
            | SessionFate::LinkLost(_)
            | SessionFate::Idle => {}
        }
        let local = LocalEnd { stream, toward: CountedDirection::Client, idle: downstream.idle };
        AttemptOutcome::Ended(local.finish(how, &rest, connect_request.counters, stopper).await)
    }

    /// The other gateway has taken it, over the link that the handle is of.
    pub fn into_carried(self: Box<Self>, handle: SessionHandle) -> CarriedSession {
        let Self { downstream: DownstreamSide { idle, permits, .. }, connect_request } = unboxed(self);
        CarriedSession {
            handle,
            toward: CountedDirection::Client,
            idle,
            _permits: permits,
            _backend: connect_request.backend,
        }
    }

    /// Gives the link that a session was opened on the stream of its backend.
    pub async fn attach_to_link(
        self: Box<Self>,
        connected: Box<ConnectedUpstream>,
    ) -> Result<CarriedSession, SessionEnd> {
        let (Self { downstream, connect_request }, ConnectedUpstream { side, first: unsent, .. }) =
            (unboxed(self), unboxed(connected));
        let DownstreamSide { side: session, idle, permits, .. } = downstream;
        let (Downstream::Opened(session), Upstream::Backend(stream)) = (session, side) else {
            return Err(internal_end(connect_request.counters, "a session that no link has brought"));
        };
        connect_request.counters.set_via(session.link());
        let local = Box::new(LocalSide {
            stream,
            unsent,
            counters: connect_request.counters.clone(),
            idle,
            cause_of: link_session::cause_of_backend,
        });
        let handle = session.attach(local).await;
        let toward = CountedDirection::Backend;
        Ok(CarriedSession { handle, toward, idle, _permits: permits, _backend: connect_request.backend })
    }

    /// Answers a probe at the last half that recognises it as one. Its backend was connected; from here on an
    /// echo answers, so that no byte of the probe reaches the backend.
    pub async fn answer_probe(
        mut self: Box<Self>,
        connector: &Connector,
        connected: Box<ConnectedUpstream>,
        record: &SessionGuard,
    ) -> EndWithRefusal {
        let counters = record.counters();
        // Its guard is held to the end.
        let (mut reached, _guard) = match connected.side {
            Upstream::Backend(stream) => (stream, None),
            Upstream::Socks(stream, guard) => (stream, Some(guard)),
            Upstream::Shared(_) => return (internal_end(counters, "a probe without a backend"), None),
        };
        reached.let_close_cleanly();
        let echo = Upstream::Backend(NetStream::Echo(Box::default()));
        let echo = Box::new(ConnectedUpstream { side: echo, peer: None, first: Vec::new() });
        if let Downstream::Opened(_) = self.downstream.side {
            return match self.attach_to_link(echo).await {
                Ok(mut carried) => (carried.run(record).await, None),
                Err(end) => (end, None),
            };
        }
        match self.run_attempt(echo, record.stopper()).await {
            AttemptOutcome::Ended(end)
                if end.ended_by == EndedBy::Nobody && connector.may_refuse_after_grant() =>
            {
                match probe::is_refused_after_grant(&mut reached).await {
                    true => {
                        let phase = counters.phase();
                        // Most often the backend is the cause.
                        let refused =
                            SessionRefusal { refusal: Refusal::BackendUnreachable, at: RefusedAt::Peer };
                        (SessionEnd { ended_by: EndedBy::Peer, phase, reason: LATE.into() }, Some(refused))
                    }
                    false => (end, None),
                }
            }
            AttemptOutcome::Ended(end) => (end, None),
            AttemptOutcome::Refused(failure) => self.downstream.refuse(failure, counters).await,
            AttemptOutcome::Again | AttemptOutcome::Carried(_) => {
                let end = internal_end(counters, "an echo was lost");
                (self.downstream.cut(end), None)
            }
        }
    }
}

impl DownstreamSide {
    /// Relays between two streams; the guard is of a SOCKS5 link that it goes to.
    async fn relay_to(
        &mut self,
        mut upstream: NetStream,
        link_guard: Option<LinkGuard>,
        unsent: Vec<u8>,
        counters: &SessionCounters,
        stopper: &SessionStopper,
    ) -> SessionEnd {
        let links = LinkSides { downstream: self.side.is_socks_link(), upstream: link_guard.is_some() };
        if let Err(end) = grant_session(&mut self.side, counters).await {
            return end;
        }
        let Some(downstream) = self.side.stream_mut() else {
            return internal_end(counters, "a session without a client");
        };
        // The signal of the SOCKS5 link it uses, if any.
        let revocation = upstream.revocation();
        let relayed = tokio::select! {
            relayed = relay::relay(
                &self.permits, downstream, &mut upstream, unsent, links, counters, self.idle,
            ) => relayed,
            () = stopper.until_stopped() => {
                self.side = Downstream::Taken;
                return stopper.end(counters.phase());
            }
            () = revocation.given() => {
                self.side = Downstream::Taken;
                stopper.stop(StopReason::Revoked);
                return stopper.end(counters.phase());
            }
        };
        let is_clean = matches!(relayed, RelayOutcome::Clean);
        if is_clean {
            downstream.let_close_cleanly();
            upstream.let_close_cleanly();
        }
        let failed = pipe_failure(downstream).or_else(|| pipe_failure(&upstream));
        drop(upstream);
        if !is_clean {
            // Dropped with linger 0 set.
            self.side = Downstream::Taken;
        }
        failed.unwrap_or_else(|| report_end(relayed, links, counters.phase(), self.idle))
    }

    /// The client's stream is back from a link.
    fn take_back(&mut self, stream: &mut Option<NetStream>) {
        if let Some(stream) = stream.take() {
            self.side = Downstream::Client(stream);
        }
    }

    pub async fn refuse(self, failure: ConnectFailure, counters: &SessionCounters) -> EndWithRefusal {
        refuse_session(self.side, failure, counters).await
    }

    /// Cuts the downstream side; the upstream side is not connected, or has been cut already.
    pub fn cut(&mut self, end: SessionEnd) -> SessionEnd {
        std::mem::replace(&mut self.side, Downstream::Taken).cut(cut_cause(end.ended_by));
        end
    }
}

impl CarriedSession {
    /// Waits until the session has ended on its link, or is stopped.
    pub async fn run(&mut self, record: &SessionGuard) -> SessionEnd {
        let remains = tokio::select! {
            remains = self.handle.outcome() => Some(remains),
            () = record.stopper().until_stopped() => None,
        };
        // Only from here on: an open session should hold no memory for them.
        let (counters, stopper) = (record.counters(), record.stopper());
        let Some(remains) = remains else {
            let end = stopper.end(counters.phase());
            self.handle.set_cause(cut_cause(end.ended_by));
            return end;
        };
        let SessionLeftover { how, stream, rest, .. } = unboxed(remains);
        let local = LocalEnd { stream, toward: self.toward, idle: self.idle };
        // Boxed, because an open session should hold no memory for how it ends.
        Box::pin(local.finish(how, &rest, counters, stopper)).await
    }
}

/// The local stream of a session that is over on its link.
struct LocalEnd {
    /// None where it was never attached, or the link's task has ended in between.
    stream: Option<NetStream>,
    toward: CountedDirection,
    idle: Option<Duration>,
}

impl LocalEnd {
    /// Delivers what the stream has yet to take, and names the end. A stream that has not ended well is dropped with
    /// linger 0 armed.
    async fn finish(
        self,
        how: SessionFate,
        rest: &Undelivered,
        counters: &SessionCounters,
        stopper: &SessionStopper,
    ) -> SessionEnd {
        let local = match self.toward {
            CountedDirection::Client => WhichSide::Downstream,
            CountedDirection::Backend => WhichSide::Upstream,
        };
        let Some(mut stream) = self.stream else {
            return report_unattached(how, local, counters.phase(), self.idle);
        };
        let failed = pipe_failure(&stream);
        let how = match how {
            SessionFate::Clean => {
                let delivered = tokio::select! {
                    delivered = link_session::deliver(&mut stream, rest, self.toward, counters, None) => delivered,
                    () = stopper.until_stopped() => {
                        return stopper.end(counters.phase());
                    }
                };
                delivered.map_or_else(SessionFate::StreamFailed, |()| SessionFate::Clean)
            }
            how @ (SessionFate::StreamFailed(_) | SessionFate::Idle | SessionFate::Unanswered) => how,
            // Nothing more is delivered from a client or gateway that is no longer trusted.
            how @ SessionFate::Reset(CutCause::Policy) => how,
            how @ (SessionFate::Reset(_)
            | SessionFate::Refused(_)
            | SessionFate::Unsent
            | SessionFate::LinkLost(_)) => {
                link_session::deliver_before_cut(&mut stream, rest, self.toward, counters).await;
                how
            }
        };
        if matches!(how, SessionFate::Clean) {
            stream.let_close_cleanly();
            return failed.unwrap_or_else(SessionEnd::clean);
        }
        let failed = failed.or_else(|| pipe_failure(&stream));
        failed.unwrap_or_else(|| report_fate(how, local, counters.phase(), self.idle))
    }
}

fn peer_rests(peer: Option<&Peer>) -> String {
    let label = peer.map_or_else(|| "a peer".into(), Peer::label);
    let seconds = PEER_COOLDOWN_PERIOD.as_secs();
    format!("{label} has left several sessions in a row unanswered, and comes last for {seconds} s")
}

/// A peer has refused a session; no byte reached a backend.
fn refused_by_peer(
    why: Refusal,
    peer: Option<Peer>,
    connect_request: &mut ConnectRequest<'_>,
) -> ConnectFailure {
    let label = peer.as_ref().map_or_else(|| "the peer".into(), Peer::label);
    connect_request.refused_by.extend(peer);
    let ended_by = match why {
        Refusal::UnknownService | Refusal::NotAllowed => EndedBy::Policy,
        Refusal::BackendRefused
        | Refusal::BackendLate
        | Refusal::BackendUnreachable
        | Refusal::ServiceDown => EndedBy::Backend,
        // A limit of the other gateway is not one of ours.
        Refusal::Full | Refusal::Unavailable | Refusal::OtherLink => EndedBy::Peer,
        Refusal::Draining => EndedBy::Operator,
    };
    let reason = format!("{label}: {}", why.words());
    ConnectFailure { ended_by, refusal: why, at: RefusedAt::Peer, reason }
}

async fn grant_session(downstream: &mut Downstream, counters: &SessionCounters) -> Result<(), SessionEnd> {
    let end = |reason| SessionEnd { ended_by: EndedBy::Peer, phase: counters.phase(), reason };
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, Box::pin(downstream.grant())).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(end(format!("the link was lost before the answer: {error}"))),
        Err(_) => Err(end("the link takes no bytes".into())),
    }
}

fn internal_end(counters: &SessionCounters, what: &str) -> SessionEnd {
    let reason = format!("{what}; this is a bug");
    SessionEnd { ended_by: EndedBy::Internal, phase: counters.phase(), reason }
}

pub(super) async fn refuse_session(
    downstream: Downstream,
    failure: ConnectFailure,
    counters: &SessionCounters,
) -> EndWithRefusal {
    let phase = counters.phase();
    Box::pin(downstream.refuse(failure.refusal)).await;
    let ConnectFailure { ended_by, refusal, at, reason } = failure;
    (SessionEnd { ended_by, phase, reason }, Some(SessionRefusal { refusal, at }))
}
