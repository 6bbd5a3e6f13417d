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
    accept::SessionReply,
    connect::{ConnectFailure, ConnectRequest, ConnectedUpstream, Connector, RefusedAt, SessionRefusal},
    link::{
        HANDSHAKE, Peer,
        multiplex::handle::{LinkGone, LocalSide, SessionFate, SessionHandle, SessionRemains, Undelivered},
        peer_record::{PEER_REST, PeerRecord},
        session_side::{LinkSlot, SessionSide},
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
    pub side: SessionSide,
    pub peer: Option<Peer>,
    pub reply: Option<SessionReply>,
    pub idle: Option<Duration>,
    /// It has already waited for a peer that did not answer, and does not wait for a second one.
    pub has_waited: bool,
    pub counters: Arc<SessionCounters>,
    /// Its places under the limits, held until it ends.
    pub permits: SessionPermits,
}

/// The result of one attempt with one upstream.
pub(super) enum AttemptOutcome {
    Ended(SessionEnd),
    /// It refused. No byte reached a backend, and what the client sent is back in the request.
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
        let ConnectedUpstream { side: upstream, peer: far_peer, link_guard: _link_guard, first: unsent } =
            unboxed(connected);
        let counters = order.counters;
        match (upstream, &self.side) {
            (SessionSide::Shared(slot), _) => {
                self.carry_on_link(slot, far_peer, unsent, order, stopper).await
            }
            (SessionSide::Stream(upstream), SessionSide::Incoming(_)) => {
                self.reply = None;
                AttemptOutcome::Ended(self.attach_to_link(upstream, unsent, counters, stopper).await)
            }
            (SessionSide::Stream(upstream), _) => {
                let links = LinkSides { downstream: self.peer.is_some(), upstream: far_peer.is_some() };
                AttemptOutcome::Ended(
                    Box::pin(self.relay_to(upstream, unsent, links, counters, stopper)).await,
                )
            }
            (SessionSide::Incoming(_) | SessionSide::Gone, _) => {
                AttemptOutcome::Ended(internal_end(counters, "a session to nowhere"))
            }
        }
    }

    /// Relays between two streams.
    async fn relay_to(
        &mut self,
        mut upstream: NetStream,
        unsent: Vec<u8>,
        links: LinkSides,
        counters: &SessionCounters,
        stopper: &SessionStopper,
    ) -> SessionEnd {
        if let Some(reply) = self.reply.take()
            && let Err(end) = grant_session(reply, &mut self.side, counters).await
        {
            return end;
        }
        let SessionSide::Stream(downstream) = &mut self.side else {
            return internal_end(counters, "a session without a client");
        };
        // Of a SOCKS5 link that it goes to.
        let revocation = upstream.revocation();
        let relayed = tokio::select! {
            relayed = relay::relay(
                &self.permits, downstream, &mut upstream, unsent, links, counters, self.idle,
            ) => relayed,
            () = stopper.stopped() => {
                self.side = SessionSide::Gone;
                return stopper.end(counters.phase());
            }
            () = revocation.given() => {
                self.side = SessionSide::Gone;
                stopper.stop(StopReason::Revoked);
                return stopper.end(counters.phase());
            }
        };
        let is_clean = matches!(relayed, RelayOutcome::Clean);
        if is_clean {
            downstream.let_close_cleanly();
            upstream.let_close_cleanly();
        }
        let failed = pipe_failure(&self.side).or_else(|| pipe_failure(&SessionSide::Stream(upstream)));
        if !is_clean {
            // Dropped with linger 0 armed.
            self.side = SessionSide::Gone;
        }
        failed.unwrap_or_else(|| report_end(relayed, links, counters.phase(), self.idle))
    }

    /// Opens the session on a link and gives the link the client's stream, until one of the two is over.
    async fn carry_on_link(
        &mut self,
        slot: Box<LinkSlot>,
        peer: Option<Peer>,
        unsent: Vec<u8>,
        order: &mut ConnectRequest<'_>,
        stopper: &SessionStopper,
    ) -> AttemptOutcome {
        let record = slot.record.clone();
        // Boxed, as is what follows its end: an open session holds no memory for how it begins and ends.
        let mut handle = match Box::pin(self.open_on_link(slot, unsent, order)).await {
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
        slot: Box<LinkSlot>,
        unsent: Vec<u8>,
        order: &mut ConnectRequest<'_>,
    ) -> Result<SessionHandle, AttemptOutcome> {
        let LinkSlot { handle: link, place, request, .. } = *slot;
        let (Some(request), SessionSide::Stream(stream)) =
            (request, std::mem::replace(&mut self.side, SessionSide::Gone))
        else {
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
            place: Some(place),
        };
        link.open(request, Box::new(local)).await.map_err(|LinkGone(local)| {
            self.side = SessionSide::Stream(local.stream);
            order.unsent = local.unsent;
            AttemptOutcome::Again
        })
    }

    /// What came of a session that this half has opened on a link.
    async fn conclude(
        &mut self,
        remains: Box<SessionRemains>,
        peer: Option<Peer>,
        record: &PeerRecord,
        order: &mut ConnectRequest<'_>,
        stopper: &SessionStopper,
    ) -> AttemptOutcome {
        let SessionRemains { how, stream, rest, again, is_unsent } = *remains;
        if let Some(stream) = stream {
            self.side = SessionSide::Stream(stream);
        }
        match how {
            SessionFate::Unsent | SessionFate::Refused(Refusal::OtherLink) => {
                order.unsent = again;
                return AttemptOutcome::Again;
            }
            SessionFate::Refused(why) => {
                order.unsent = again;
                return AttemptOutcome::Refused(refused_by_peer(why, peer, order));
            }
            SessionFate::Unanswered => {
                if record.note_unanswered() {
                    order.notices.warn(LogEvent::PeerRests.line(peer_rests(peer.as_ref())));
                }
                if is_unsent && !std::mem::replace(&mut self.has_waited, true) {
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
            _ => {}
        }
        let ended = self.finish_on_link(how, &rest, Toward::Client, order.counters, stopper).await;
        AttemptOutcome::Ended(ended)
    }

    /// Gives a link the stream of the backend that a session was opened for.
    async fn attach_to_link(
        &mut self,
        stream: NetStream,
        unsent: Vec<u8>,
        counters: &SessionCounters,
        stopper: &SessionStopper,
    ) -> SessionEnd {
        let SessionSide::Incoming(session) = std::mem::replace(&mut self.side, SessionSide::Gone) else {
            return internal_end(counters, "a session that no link has brought");
        };
        counters.set_via(session.link());
        let local = Box::new(LocalSide {
            stream,
            unsent,
            counters: self.counters.clone(),
            idle: self.idle,
            cause_of: link_session::cause_of_backend,
            place: None,
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

    /// What came of a session that the other half has opened on a link.
    async fn conclude_attached(
        &mut self,
        remains: Box<SessionRemains>,
        counters: &SessionCounters,
        stopper: &SessionStopper,
    ) -> SessionEnd {
        let SessionRemains { how, stream, rest, .. } = *remains;
        if let Some(stream) = stream {
            self.side = SessionSide::Stream(stream);
        }
        self.finish_on_link(how, &rest, Toward::Backend, counters, stopper).await
    }

    /// Delivers what the local stream has yet to take, and names the end.
    async fn finish_on_link(
        &mut self,
        how: SessionFate,
        rest: &Undelivered,
        toward: Toward,
        counters: &SessionCounters,
        stopper: &SessionStopper,
    ) -> SessionEnd {
        let failed = pipe_failure(&self.side);
        let SessionSide::Stream(stream) = &mut self.side else {
            // Its backend was never attached, or the link's task has ended in between.
            let reason = "the link was lost".into();
            return SessionEnd { who: EndedBy::Peer, phase: counters.phase(), reason };
        };
        let how = match how {
            SessionFate::Clean => {
                let delivered = tokio::select! {
                    delivered = link_session::deliver(stream, rest, toward, counters, None) => delivered,
                    () = stopper.stopped() => {
                        return stopper.end(counters.phase());
                    }
                };
                delivered.map_or_else(SessionFate::StreamFailed, |()| SessionFate::Clean)
            }
            how @ (SessionFate::StreamFailed(_) | SessionFate::Idle | SessionFate::Unanswered) => how,
            // Who is not believed any more is not heard to the end.
            how @ SessionFate::Reset(CutCause::Policy) => how,
            how => {
                link_session::deliver_before_cut(stream, rest, toward, counters).await;
                how
            }
        };
        if matches!(how, SessionFate::Clean) {
            stream.let_close_cleanly();
            return failed.unwrap_or_else(SessionEnd::clean);
        }
        let failed = failed.or_else(|| pipe_failure(&self.side));
        // Dropped with linger 0 armed.
        self.side = SessionSide::Gone;
        let local = match toward {
            Toward::Client => WhichSide::Downstream,
            Toward::Backend => WhichSide::Upstream,
        };
        failed.unwrap_or_else(|| report_fate(how, local, counters.phase(), self.idle))
    }

    /// A probe goes no further than it can be told for what it is, so that no byte of it reaches a
    /// backend: that one was connected, and from here on an echo answers.
    pub async fn answer_probe(
        mut self,
        connector: &Connector,
        connected: Box<ConnectedUpstream>,
        order: &mut ConnectRequest<'_>,
        stopper: &SessionStopper,
    ) -> EndWithRefusal {
        let ConnectedUpstream { side: reached, link_guard, .. } = *connected;
        let SessionSide::Stream(mut reached) = reached else {
            return (internal_end(order.counters, "a probe without a backend"), None);
        };
        reached.let_close_cleanly();
        let echo = SessionSide::Stream(NetStream::Echo(EchoStream::default()));
        let echo = ConnectedUpstream { side: echo, peer: None, link_guard, first: Vec::new() };
        match self.run_attempt(Box::new(echo), order, stopper).await {
            AttemptOutcome::Ended(end)
                if end.who == EndedBy::Nobody && connector.may_refuse_after_grant() =>
            {
                match probe::is_refused_after_grant(&mut reached).await {
                    true => {
                        let phase = order.counters.phase();
                        // Most often it is the backend.
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
        let reply = self.reply.unwrap_or(SessionReply::Silent);
        refuse_session(reply, self.side, failure, counters).await
    }

    /// Cuts the downstream side; the upstream side is not connected, or has been cut already.
    pub async fn cut_downstream(&mut self, end: SessionEnd) -> SessionEnd {
        std::mem::replace(&mut self.side, SessionSide::Gone).cut(cut_cause(end.who));
        end
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
        // A limit of the other gateway's is none of ours.
        Refusal::Full | Refusal::Unavailable | Refusal::OtherLink => EndedBy::Peer,
        Refusal::Draining => EndedBy::Operator,
    };
    let reason = format!("{label}: {}", why.words());
    ConnectFailure { who, refusal: why, at: RefusedAt::Peer, reason }
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

fn internal_end(counters: &SessionCounters, what: &str) -> SessionEnd {
    let reason = format!("{what}; this is a bug");
    SessionEnd { who: EndedBy::Internal, phase: counters.phase(), reason }
}

pub(super) async fn refuse_session(
    reply: SessionReply,
    downstream: SessionSide,
    failure: ConnectFailure,
    counters: &SessionCounters,
) -> EndWithRefusal {
    let phase = counters.phase();
    Box::pin(reply.refuse(downstream, failure.refusal)).await;
    let ConnectFailure { who, refusal, at, reason } = failure;
    (SessionEnd { who, phase, reason }, Some(SessionRefusal { refusal, at }))
}
