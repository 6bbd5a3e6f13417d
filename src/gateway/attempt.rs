//! One attempt of a session with one upstream: what its downstream side gets from it, and how that ends. Whether
//! another upstream is tried afterwards is decided in [`super::opening`].

use std::time::Duration;

use super::{
    link_session::{self, DeliveryLimit},
    relay::{self, RelayOutcome, WhichSide},
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
        multiplex::{
            handle::{
                IncomingSession, LinkClosed, LocalSide, OpenAnswer, PermittedSession, SessionFate,
                SessionHandle, SessionLeftover, Undelivered,
            },
            local_party::LocalParty,
        },
        peer_record::{PEER_REST_PERIOD, PeerRecord},
        session_side::{Downstream, LinkSlot, SessionOpening, SocksDownstream, Upstream},
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

const CUT_BEFORE_REPLY: &str =
    "the link was cut: the inside refused it, or its backend did; the internal gateway's log says which";

/// A session that was let in, and is not carried yet.
pub(super) struct AdmittedSession<'a> {
    pub downstream: Downstream,
    pub admitted: Box<AdmittedRequest<'a>>,
}

/// What a session that was let in asks for, and what it holds.
pub(super) struct AdmittedRequest<'a> {
    pub connect_request: ConnectRequest<'a>,
    pub idle: Option<Duration>,
    /// It has waited once for a silent peer; the next silent peer fails it at once.
    pub has_waited: bool,
    /// Its permits under the limits, held until it ends.
    pub permits: SessionPermits,
}

/// The result of one attempt with one upstream.
pub(super) enum AttemptOutcome<'a> {
    Ended(SessionEnd),
    /// It refused. No byte reached a backend, and the client's bytes are back in the request.
    Refused(AdmittedSession<'a>, ConnectFailure),
    /// It was lost before it was opened; nothing was sent.
    Again(AdmittedSession<'a>),
    /// A link carries it from here on, and it is not tried elsewhere.
    Carried(CarriedSession),
}

/// A session that was joined with its backend.
enum JoinedSession {
    Ended(SessionEnd),
    Carried(CarriedSession),
}

/// The stream of a backend that was connected, with the guard of the SOCKS5 link that leads there.
pub(super) struct ReachedBackend {
    pub stream: NetStream,
    pub _guard: Option<LinkGuard>,
}

/// A session that a link carries. Beside its row there, this is all that is held of it while it is idle.
pub(super) struct CarriedSession {
    session: PermittedSession<SessionPermits>,
    /// Whose stream is here; the bytes that come from the link go there.
    local: LocalParty,
    idle: Option<Duration>,
    _backend: Option<BackendUse>,
}

impl<'a> AdmittedSession<'a> {
    /// Joins the session with an upstream, and relays it to its end or gives it to a link.
    pub async fn run_attempt(
        self,
        connected: Box<ConnectedUpstream>,
        stopper: &SessionStopper,
    ) -> AttemptOutcome<'a> {
        let Self { downstream, mut admitted } = self;
        let ConnectedUpstream { side: upstream, peer, first: unsent } = unboxed(connected);
        match (downstream, upstream) {
            (downstream, Upstream::Backend(stream)) => {
                match (Self { downstream, admitted }).join_backend(stream, unsent, stopper).await {
                    JoinedSession::Ended(end) => AttemptOutcome::Ended(end),
                    JoinedSession::Carried(carried) => AttemptOutcome::Carried(carried),
                }
            }
            (Downstream::Client(client), Upstream::Shared(opening)) => {
                admitted.connect_request.tried = peer;
                admitted.carry_on_link(client, opening, unsent, stopper).await
            }
            (Downstream::Client(mut client), Upstream::Socks(stream, _guard)) => {
                let link = Some(WhichSide::Upstream);
                let relaying = admitted.relay(&mut client, stream, unsent, link, stopper);
                AttemptOutcome::Ended(Box::pin(relaying).await)
            }
            (
                downstream @ (Downstream::Socks(_) | Downstream::Opened(_)),
                Upstream::Socks(..) | Upstream::Shared(_),
            ) => {
                let reason = "it came over a link, and goes over no other link".into();
                let failure = ConnectFailure::here(EndedBy::Policy, Refusal::NotAllowed, reason);
                AttemptOutcome::Refused(Self { downstream, admitted }, failure)
            }
        }
    }

    /// Relays to a backend, or gives its stream to the link that the session was opened on.
    async fn join_backend(
        self,
        backend: NetStream,
        unsent: Vec<u8>,
        stopper: &SessionStopper,
    ) -> JoinedSession {
        let Self { downstream, admitted } = self;
        JoinedSession::Ended(match downstream {
            Downstream::Opened(session) => {
                return JoinedSession::Carried(admitted.attach_to_link(*session, backend, unsent).await);
            }
            Downstream::Client(mut client) => {
                Box::pin(admitted.relay(&mut client, backend, unsent, None, stopper)).await
            }
            Downstream::Socks(mut link) => {
                if let Err(end) = grant_session(&mut link, admitted.connect_request.counters).await {
                    return JoinedSession::Ended(end);
                }
                let of_link = Some(WhichSide::Downstream);
                Box::pin(admitted.relay(link.stream_mut(), backend, unsent, of_link, stopper)).await
            }
        })
    }

    /// Answers a probe at the last half that recognises it as one. Its backend was connected; from here on an
    /// echo answers, so that no byte of the probe reaches the backend.
    pub async fn answer_probe(
        self,
        connector: &Connector,
        mut reached: ReachedBackend,
        record: &SessionGuard,
    ) -> EndWithRefusal {
        reached.stream.let_close_cleanly();
        let (counters, echo) = (record.counters(), NetStream::Echo(Box::default()));
        let end = match self.join_backend(echo, Vec::new(), record.stopper()).await {
            JoinedSession::Ended(end) => end,
            JoinedSession::Carried(mut carried) => return (carried.run(record).await, None),
        };
        let is_granted = end.ended_by == EndedBy::Nobody && connector.may_refuse_after_grant();
        if !is_granted || !probe::is_refused_after_grant(&mut reached.stream).await {
            return (end, None);
        }
        // Most often the backend is the cause.
        let refused = SessionRefusal { refusal: Refusal::BackendUnreachable, at: RefusedAt::Peer };
        let end =
            SessionEnd { ended_by: EndedBy::Peer, phase: counters.phase(), reason: CUT_BEFORE_REPLY.into() };
        (end, Some(refused))
    }

    pub async fn refuse(self, failure: ConnectFailure, counters: &SessionCounters) -> EndWithRefusal {
        refuse_session(self.downstream, failure, counters).await
    }

    /// Cuts the downstream side; the upstream side is not connected, or has been cut already.
    pub fn cut(self, end: SessionEnd) -> SessionEnd {
        self.downstream.cut(cut_cause(end.ended_by));
        end
    }
}

impl<'a> AdmittedRequest<'a> {
    /// The session again, with its client's stream.
    fn with_client(self: Box<Self>, client: NetStream) -> AdmittedSession<'a> {
        AdmittedSession { downstream: Downstream::Client(client), admitted: self }
    }

    /// Opens the session on a link and gives the link the client's stream, until the other gateway has taken it.
    async fn carry_on_link(
        mut self: Box<Self>,
        client: NetStream,
        opening: Box<SessionOpening>,
        unsent: Vec<u8>,
        stopper: &SessionStopper,
    ) -> AttemptOutcome<'a> {
        let SessionOpening { slot: LinkSlot { handle: link, slot, record }, request } = unboxed(opening);
        let connect_request = &mut self.connect_request;
        connect_request.counters.set_via(link.id());
        let local = LocalSide {
            stream: client,
            unsent,
            counters: connect_request.counters.clone(),
            idle: self.idle,
            party: LocalParty::Client,
        };
        let mut handle = match link.open(request, Box::new(local), slot).await {
            Ok(handle) => handle,
            Err(LinkClosed(local)) => {
                connect_request.unsent = local.unsent;
                return AttemptOutcome::Again(self.with_client(local.stream));
            }
        };
        drop(link);
        let leftover = tokio::select! {
            answer = handle.answered() => match answer {
                OpenAnswer::Taken => return AttemptOutcome::Carried(self.into_carried(handle)),
                OpenAnswer::Over(leftover) => leftover,
            },
            () = stopper.until_stopped() => {
                let end = stopper.end(self.connect_request.counters.phase());
                handle.cut(cut_cause(end.ended_by));
                return AttemptOutcome::Ended(end);
            }
        };
        Box::pin(self.conclude(leftover, &record, stopper)).await
    }

    /// The result of a session that the other gateway has not taken. It is tried elsewhere only with its client's
    /// stream, which a link whose task has ended does not give back.
    async fn conclude(
        mut self: Box<Self>,
        leftover: Box<SessionLeftover>,
        record: &PeerRecord,
        stopper: &SessionStopper,
    ) -> AttemptOutcome<'a> {
        let SessionLeftover { fate, stream, undelivered, resend, is_unsent } = *leftover;
        let peer = self.connect_request.tried.take();
        if matches!(fate, SessionFate::Unanswered) && record.note_unanswered() {
            self.connect_request.notices.warn(LogEvent::PeerRests.line(peer_rests(peer.as_ref())));
        }
        let (fate, stream) = match (fate, stream) {
            (SessionFate::Unsent | SessionFate::Refused(Refusal::OtherLink), Some(client)) => {
                self.connect_request.unsent = resend;
                return AttemptOutcome::Again(self.with_client(client));
            }
            (SessionFate::Refused(why), Some(client)) => {
                self.connect_request.unsent = resend;
                let failure = refused_by_peer(why, peer, &mut self.connect_request);
                return AttemptOutcome::Refused(self.with_client(client), failure);
            }
            (SessionFate::Unanswered, Some(client)) if is_unsent && !self.has_waited => {
                self.has_waited = true;
                self.connect_request.unsent = resend;
                self.connect_request.refused_by.extend(peer);
                let failure = ConnectFailure {
                    ended_by: EndedBy::Time,
                    refusal: Refusal::Unavailable,
                    at: RefusedAt::Peer,
                    reason: unanswered_reason(),
                };
                return AttemptOutcome::Refused(self.with_client(client), failure);
            }
            (
                fate @ (SessionFate::Clean
                | SessionFate::StreamFailed(_)
                | SessionFate::Refused(_)
                | SessionFate::Unsent
                | SessionFate::Reset(_)
                | SessionFate::LinkLost(_)
                | SessionFate::Idle
                | SessionFate::Unanswered),
                stream,
            ) => (fate, stream),
        };
        let local = LocalEnd { stream, party: LocalParty::Client, idle: self.idle };
        AttemptOutcome::Ended(local.finish(fate, &undelivered, self.connect_request.counters, stopper).await)
    }

    /// The other gateway has taken it, over the link that the handle is of.
    fn into_carried(self: Box<Self>, handle: SessionHandle) -> CarriedSession {
        let Self { connect_request, idle, permits, .. } = unboxed(self);
        CarriedSession {
            session: handle.with_permits(permits),
            local: LocalParty::Client,
            idle,
            _backend: connect_request.backend,
        }
    }

    /// Gives the link that a session was opened on the stream of its backend.
    async fn attach_to_link(
        self: Box<Self>,
        session: IncomingSession,
        backend: NetStream,
        unsent: Vec<u8>,
    ) -> CarriedSession {
        let Self { connect_request, idle, permits, .. } = unboxed(self);
        connect_request.counters.set_via(session.link());
        let party = LocalParty::Backend;
        let counters = connect_request.counters.clone();
        let local = Box::new(LocalSide { stream: backend, unsent, counters, idle, party });
        let session = session.attach(local, permits).await;
        CarriedSession { session, local: party, idle, _backend: connect_request.backend }
    }

    /// Relays between two streams, one of which may be a SOCKS5 link.
    async fn relay(
        self: Box<Self>,
        downstream: &mut NetStream,
        mut upstream: NetStream,
        unsent: Vec<u8>,
        socks_link: Option<WhichSide>,
        stopper: &SessionStopper,
    ) -> SessionEnd {
        let counters = self.connect_request.counters;
        // The signal of the SOCKS5 link it uses, if any.
        let revocation = upstream.revocation();
        let relayed = tokio::select! {
            relayed = relay::relay(
                &self.permits, downstream, &mut upstream, unsent, socks_link, counters, self.idle,
            ) => relayed,
            () = stopper.until_stopped() => return stopper.end(counters.phase()),
            () = revocation.given() => {
                stopper.stop(StopReason::Revoked);
                return stopper.end(counters.phase());
            }
        };
        // Otherwise both are dropped with linger 0 set.
        if matches!(relayed, RelayOutcome::Clean) {
            downstream.let_close_cleanly();
            upstream.let_close_cleanly();
        }
        let failed = pipe_failure(downstream).or_else(|| pipe_failure(&upstream));
        failed.unwrap_or_else(|| report_end(relayed, socks_link, counters.phase(), self.idle))
    }
}

impl CarriedSession {
    /// Waits until the session has ended on its link, or is stopped.
    pub async fn run(&mut self, record: &SessionGuard) -> SessionEnd {
        let leftover = tokio::select! {
            leftover = self.session.outcome() => Some(leftover),
            () = record.stopper().until_stopped() => None,
        };
        // Only from here on: an open session should hold no memory for them.
        let (counters, stopper) = (record.counters(), record.stopper());
        let Some(leftover) = leftover else {
            let end = stopper.end(counters.phase());
            self.session.set_cause(cut_cause(end.ended_by));
            return end;
        };
        let SessionLeftover { fate, stream, undelivered, .. } = unboxed(leftover);
        let local = LocalEnd { stream, party: self.local, idle: self.idle };
        // Boxed, because an open session should hold no memory for how it ends.
        Box::pin(local.finish(fate, &undelivered, counters, stopper)).await
    }
}

/// The local stream of a session that is over on its link.
struct LocalEnd {
    /// None where it was never attached, or the link's task has ended in between.
    stream: Option<NetStream>,
    party: LocalParty,
    idle: Option<Duration>,
}

impl LocalEnd {
    /// Delivers what the stream has yet to take, and names the end. A stream that has not ended well is dropped with
    /// linger 0 armed.
    async fn finish(
        self,
        fate: SessionFate,
        undelivered: &Undelivered,
        counters: &SessionCounters,
        stopper: &SessionStopper,
    ) -> SessionEnd {
        let local = match self.party {
            LocalParty::Client => WhichSide::Downstream,
            LocalParty::Backend => WhichSide::Upstream,
        };
        let Some(mut stream) = self.stream else {
            return report_unattached(fate, local, counters.phase(), self.idle);
        };
        let failed = pipe_failure(&stream);
        let fate = match fate {
            SessionFate::Clean => {
                let delivered = tokio::select! {
                    // A receiver that is slow is not dead; the kernel ends one that is, and a stop or a kill does.
                    delivered = link_session::deliver(
                        &mut stream, undelivered, self.party, counters, DeliveryLimit::None,
                    ) => delivered,
                    () = stopper.until_stopped() => {
                        return stopper.end(counters.phase());
                    }
                };
                delivered.map_or_else(SessionFate::StreamFailed, |()| SessionFate::Clean)
            }
            fate @ (SessionFate::StreamFailed(_) | SessionFate::Idle | SessionFate::Unanswered) => fate,
            // Nothing more is delivered from a client or gateway that is no longer trusted.
            fate @ SessionFate::Reset(CutCause::Policy) => fate,
            fate @ (SessionFate::Reset(_)
            | SessionFate::Refused(_)
            | SessionFate::Unsent
            | SessionFate::LinkLost(_)) => {
                link_session::deliver_before_cut(&mut stream, undelivered, self.party, counters).await;
                fate
            }
        };
        if matches!(fate, SessionFate::Clean) {
            stream.let_close_cleanly();
            return failed.unwrap_or_else(SessionEnd::clean);
        }
        let failed = failed.or_else(|| pipe_failure(&stream));
        failed.unwrap_or_else(|| report_fate(fate, local, counters.phase(), self.idle))
    }
}

fn peer_rests(peer: Option<&Peer>) -> String {
    let label = peer.map_or_else(|| "a peer".into(), Peer::label);
    let process = peer.map_or_else(String::new, |peer| format!(": {}", peer.described()));
    let seconds = PEER_REST_PERIOD.as_secs();
    format!("{label} has left several sessions in a row unanswered, and comes last for {seconds} s{process}")
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

/// Answers CONNECT, if that was asked for.
async fn grant_session(link: &mut SocksDownstream, counters: &SessionCounters) -> Result<(), SessionEnd> {
    let end = |reason| SessionEnd { ended_by: EndedBy::Peer, phase: counters.phase(), reason };
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, Box::pin(link.grant())).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(end(format!("the link was lost before the answer: {error}"))),
        Err(_) => Err(end("the link takes no bytes".into())),
    }
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
