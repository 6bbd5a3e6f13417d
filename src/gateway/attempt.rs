//! One attempt of a session with one upstream: what its downstream side gets from it, and how that ends.

use std::{sync::Arc, time::Duration};

use super::{
    link_session::{self, Toward},
    relay::{self, LinkSides, RelayOutcome, WhichSide},
    session::unboxed,
    session_end::{cut_cause, pipe_failure, report_end, report_fate, unanswered_reason},
    session_permits::SessionPermits,
};
use crate::{
    connect::{ConnectFailure, ConnectRequest, ConnectedUpstream, Connector, RefusedAt, SessionRefusal},
    link::{
        HANDSHAKE, Peer,
        link_guard::LinkGuard,
        multiplex::handle::{LinkGone, LocalSide, SessionFate, SessionHandle, SessionRemains, Undelivered},
        peer_record::{PEER_REST, PeerRecord},
        session_side::{Downstream, LinkSlot, SessionOpening, Upstream},
    },
    net::{echo::EchoStream, stream::NetStream},
    proto::{Refusal, multiplex::frame::CutCause},
    telemetry::{
        end::{EndedBy, SessionEnd},
        log::LogEvent,
        registry::{SessionCounters, SessionStopper, StopReason},
    },
    verify::probe,
};

/// How a session ended and, if it was never connected, why.
pub(super) type EndWithRefusal = (SessionEnd, Option<SessionRefusal>);

const LATE: &str =
    "the link was cut: the inside refused it, or its backend did; the internal gateway's log says which";

/// The downstream side of a session, and what it is still waiting for.
pub(super) struct DownstreamSide {
    pub side: Downstream,
    pub idle: Option<Duration>,
    /// It has already waited for a peer that did not answer, and will not wait for a second one.
    pub has_waited: bool,
    pub counters: Arc<SessionCounters>,
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
}

impl DownstreamSide {
    pub async fn run_attempt(
        &mut self,
        connected: Box<ConnectedUpstream>,
        order: &mut ConnectRequest<'_>,
        stopper: &SessionStopper,
    ) -> AttemptOutcome {
        let ConnectedUpstream { side: upstream, peer, first: unsent } = unboxed(connected);
        let counters = order.counters;
        let (upstream, link_guard) = match upstream {
            Upstream::Shared(opening) => {
                return self.carry_on_link(opening, peer, unsent, order, stopper).await;
            }
            Upstream::Backend(stream) => (stream, None),
            Upstream::Socks(stream, guard) => (stream, Some(guard)),
        };
        AttemptOutcome::Ended(match &self.side {
            Downstream::Opened(_) => self.attach_to_link(upstream, unsent, counters, stopper).await,
            Downstream::Client(_) | Downstream::Socks(_) | Downstream::Gone => {
                let relaying = self.relay_to(upstream, link_guard, unsent, counters, stopper);
                Box::pin(relaying).await
            }
        })
    }

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
            () = stopper.stopped() => {
                self.side = Downstream::Gone;
                return stopper.end(counters.phase());
            }
            () = revocation.given() => {
                self.side = Downstream::Gone;
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
            self.side = Downstream::Gone;
        }
        failed.unwrap_or_else(|| report_end(relayed, links, counters.phase(), self.idle))
    }

    /// Opens the session on a link and gives the link the client's stream, until either of them ends.
    async fn carry_on_link(
        &mut self,
        opening: Box<SessionOpening>,
        peer: Option<Peer>,
        unsent: Vec<u8>,
        order: &mut ConnectRequest<'_>,
        stopper: &SessionStopper,
    ) -> AttemptOutcome {
        let record = opening.slot.record.clone();
        // Boxed, like what follows its end: an open session should hold no memory for how it begins and ends.
        let mut handle = match Box::pin(self.open_on_link(opening, unsent, order)).await {
            Ok(handle) => handle,
            Err(outcome) => return outcome,
        };
        let remains = tokio::select! {
            remains = handle.outcome() => remains,
            () = stopper.stopped() => {
                let end = stopper.end(order.counters.phase());
                handle.cut(cut_cause(end.who));
                return AttemptOutcome::Ended(end);
            }
        };
        Box::pin(self.conclude(remains, peer, &record, order, stopper)).await
    }

    async fn open_on_link(
        &mut self,
        opening: Box<SessionOpening>,
        unsent: Vec<u8>,
        order: &mut ConnectRequest<'_>,
    ) -> Result<SessionHandle, AttemptOutcome> {
        let SessionOpening { slot: LinkSlot { handle: link, place, .. }, request } = *opening;
        let Downstream::Client(stream) = std::mem::replace(&mut self.side, Downstream::Gone) else {
            let end = internal_end(order.counters, "a session without a client");
            return Err(AttemptOutcome::Ended(end));
        };
        order.counters.set_via(link.id());
        let local = LocalSide {
            stream,
            unsent,
            counters: self.counters.clone(),
            idle: self.idle,
            cause_of: link_session::cause_of_client,
        };
        link.open(request, Box::new(local), place).await.map_err(|LinkGone(local)| {
            self.side = Downstream::Client(local.stream);
            order.unsent = local.unsent;
            AttemptOutcome::Again
        })
    }

    /// The result of a session that this half has opened on a link.
    async fn conclude(
        &mut self,
        remains: Box<SessionRemains>,
        peer: Option<Peer>,
        record: &PeerRecord,
        order: &mut ConnectRequest<'_>,
        stopper: &SessionStopper,
    ) -> AttemptOutcome {
        let SessionRemains { how, mut stream, rest, again, is_unsent } = *remains;
        match how {
            SessionFate::Unsent | SessionFate::Refused(Refusal::OtherLink) => {
                self.take_back(&mut stream);
                order.unsent = again;
                return AttemptOutcome::Again;
            }
            SessionFate::Refused(why) => {
                self.take_back(&mut stream);
                order.unsent = again;
                return AttemptOutcome::Refused(refused_by_peer(why, peer, order));
            }
            SessionFate::Unanswered => {
                if record.note_unanswered() {
                    order.notices.warn(LogEvent::PeerRests.line(peer_rests(peer.as_ref())));
                }
                if is_unsent && !std::mem::replace(&mut self.has_waited, true) {
                    self.take_back(&mut stream);
                    order.unsent = again;
                    order.refused_by.extend(peer);
                    return AttemptOutcome::Refused(ConnectFailure {
                        who: EndedBy::Time,
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
        let local = LocalEnd { stream, toward: Toward::Client, idle: self.idle };
        AttemptOutcome::Ended(local.finish(how, &rest, order.counters, stopper).await)
    }

    /// The client's stream is back from a link.
    fn take_back(&mut self, stream: &mut Option<NetStream>) {
        if let Some(stream) = stream.take() {
            self.side = Downstream::Client(stream);
        }
    }

    /// Gives a link the stream of the backend for which a session was opened.
    async fn attach_to_link(
        &mut self,
        stream: NetStream,
        unsent: Vec<u8>,
        counters: &SessionCounters,
        stopper: &SessionStopper,
    ) -> SessionEnd {
        let Downstream::Opened(session) = std::mem::replace(&mut self.side, Downstream::Gone) else {
            return internal_end(counters, "a session that no link has brought");
        };
        counters.set_via(session.link());
        let local = Box::new(LocalSide {
            stream,
            unsent,
            counters: self.counters.clone(),
            idle: self.idle,
            cause_of: link_session::cause_of_backend,
        });
        // Boxed for the same reason.
        let mut handle = Box::pin(session.attach(local)).await;
        let remains = tokio::select! {
            remains = handle.outcome() => remains,
            () = stopper.stopped() => {
                let end = stopper.end(counters.phase());
                handle.cut(cut_cause(end.who));
                return end;
            }
        };
        Box::pin(self.conclude_attached(remains, counters, stopper)).await
    }

    /// The result of a session that the other half has opened on a link.
    async fn conclude_attached(
        &mut self,
        remains: Box<SessionRemains>,
        counters: &SessionCounters,
        stopper: &SessionStopper,
    ) -> SessionEnd {
        let SessionRemains { how, stream, rest, .. } = *remains;
        let local = LocalEnd { stream, toward: Toward::Backend, idle: self.idle };
        local.finish(how, &rest, counters, stopper).await
    }

    /// Answers a probe at the last half that recognises it as one. Its backend was connected; from here on an
    /// echo answers, so that no byte of the probe reaches the backend.
    pub async fn answer_probe(
        mut self,
        connector: &Connector,
        connected: Box<ConnectedUpstream>,
        order: &mut ConnectRequest<'_>,
        stopper: &SessionStopper,
    ) -> EndWithRefusal {
        // Its guard is held to the end.
        let (mut reached, _guard) = match connected.side {
            Upstream::Backend(stream) => (stream, None),
            Upstream::Socks(stream, guard) => (stream, Some(guard)),
            Upstream::Shared(_) => return (internal_end(order.counters, "a probe without a backend"), None),
        };
        reached.let_close_cleanly();
        let echo = Upstream::Backend(NetStream::Echo(EchoStream::default()));
        let echo = ConnectedUpstream { side: echo, peer: None, first: Vec::new() };
        match self.run_attempt(Box::new(echo), order, stopper).await {
            AttemptOutcome::Ended(end)
                if end.who == EndedBy::Nobody && connector.may_refuse_after_grant() =>
            {
                match probe::is_refused_after_grant(&mut reached).await {
                    true => {
                        let phase = order.counters.phase();
                        // Most often the backend is the cause.
                        let refused =
                            SessionRefusal { refusal: Refusal::BackendUnreachable, at: RefusedAt::Peer };
                        (SessionEnd { who: EndedBy::Peer, phase, reason: LATE.into() }, Some(refused))
                    }
                    false => (end, None),
                }
            }
            AttemptOutcome::Ended(end) => (end, None),
            AttemptOutcome::Refused(failure) => self.refuse(failure, order.counters).await,
            AttemptOutcome::Again => {
                let end = internal_end(order.counters, "an echo was lost");
                (self.cut_downstream(end).await, None)
            }
        }
    }

    pub async fn refuse(self, failure: ConnectFailure, counters: &SessionCounters) -> EndWithRefusal {
        refuse_session(self.side, failure, counters).await
    }

    /// Cuts the downstream side; the upstream side is not connected, or has been cut already.
    pub async fn cut_downstream(&mut self, end: SessionEnd) -> SessionEnd {
        std::mem::replace(&mut self.side, Downstream::Gone).cut(cut_cause(end.who));
        end
    }
}

/// The local stream of a session that is over on its link.
struct LocalEnd {
    /// None where it was never attached, or the link's task has ended in between.
    stream: Option<NetStream>,
    toward: Toward,
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
        let Some(mut stream) = self.stream else {
            let reason = "the link was lost".into();
            return SessionEnd { who: EndedBy::Peer, phase: counters.phase(), reason };
        };
        let failed = pipe_failure(&stream);
        let how = match how {
            SessionFate::Clean => {
                let delivered = tokio::select! {
                    delivered = link_session::deliver(&mut stream, rest, self.toward, counters, None) => delivered,
                    () = stopper.stopped() => {
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
        let local = match self.toward {
            Toward::Client => WhichSide::Downstream,
            Toward::Backend => WhichSide::Upstream,
        };
        failed.unwrap_or_else(|| report_fate(how, local, counters.phase(), self.idle))
    }
}

fn peer_rests(peer: Option<&Peer>) -> String {
    let label = peer.map_or_else(|| "a peer".into(), Peer::label);
    let seconds = PEER_REST.as_secs();
    format!("{label} has left several sessions in a row unanswered, and comes last for {seconds} s")
}

/// A peer has refused a session; no byte reached a backend.
fn refused_by_peer(why: Refusal, peer: Option<Peer>, order: &mut ConnectRequest<'_>) -> ConnectFailure {
    let label = peer.as_ref().map_or_else(|| "the peer".into(), Peer::label);
    order.refused_by.extend(peer);
    let who = match why {
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
    ConnectFailure { who, refusal: why, at: RefusedAt::Peer, reason }
}

async fn grant_session(downstream: &mut Downstream, counters: &SessionCounters) -> Result<(), SessionEnd> {
    let end = |reason| SessionEnd { who: EndedBy::Peer, phase: counters.phase(), reason };
    match tokio::time::timeout(HANDSHAKE, Box::pin(downstream.grant())).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(end(format!("the link was lost before the answer: {error}"))),
        Err(_) => Err(end("the link takes no bytes".into())),
    }
}

fn internal_end(counters: &SessionCounters, what: &str) -> SessionEnd {
    let reason = format!("{what}; this is a bug");
    SessionEnd { who: EndedBy::Internal, phase: counters.phase(), reason }
}

pub(super) async fn refuse_session(
    downstream: Downstream,
    failure: ConnectFailure,
    counters: &SessionCounters,
) -> EndWithRefusal {
    let phase = counters.phase();
    Box::pin(downstream.refuse(failure.refusal)).await;
    let ConnectFailure { who, refusal, at, reason } = failure;
    (SessionEnd { who, phase, reason }, Some(SessionRefusal { refusal, at }))
}
