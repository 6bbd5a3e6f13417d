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
    probe::{self, Probes},
    relay::{self, ANSWER, Links, Relayed, Side},
    service::{Service, Services},
};
use crate::{
    accept::{Negotiated, Reply, Told, rest::Rest},
    connect::{ConnectFailure, Connected, Connector, Order},
    link::{GREET, Peer, leg::Leg, trouble::Trouble},
    net::{
        echo::Echo,
        exhausted::Exhausted,
        late::Late,
        pipe::{Failing, Failure},
        stream::Stream,
        ws::NoText,
    },
    proto::{Refusal, link::frame::Cause},
    telemetry::{
        end::{End, Who},
        notices::Notices,
        rate_limited::LogKind,
        registry::{Kind, Meter, Record, Registry},
        snapshot::{ServicePhase, SessionPhase},
    },
};

/// Pause before a way that failed under a switch is tried again, and how long that goes on: the
/// other half is ahead of us by a moment, or the failure stands.
const SWITCH_LOOK: Duration = Duration::from_millis(50);
const SWITCH_PATIENCE: Duration = Duration::from_secs(1);

const LATE: &str =
    "the link was cut: the inside refused it, or its backend did; the internal gateway's log says which";

/// Links and peers that one session tries.
const TRIES_MAX: usize = 8;

/// What sessions share.
#[derive(Debug, Clone)]
pub struct Sessions {
    pub services: Arc<ArcSwap<Services>>,
    /// Those of an internal half that has just gone: a session may be on its way there.
    pub leaving: Arc<ArcSwap<Services>>,
    /// Whether a switch is under way: a way that fails may be about to be replaced.
    pub switching: Arc<AtomicBool>,
    pub registry: Arc<Registry>,
    pub notices: Arc<Notices>,
    pub probes: Probes,
}

impl Sessions {
    /// Serves one session to its end. What is asked is boxed: it is of no use once the session runs.
    pub async fn serve(self, mut asked: Box<Negotiated>) {
        // A probe comes in as a client does; only its address tells.
        let sent = asked.client.filter(|_| asked.peer.is_none()).and_then(|from| self.probes.meet(from));
        asked.probe |= sent.is_some();
        let client = asked.client.map_or_else(|| "unknown".into(), |client| client.to_string());
        let key = (asked.role, asked.service.clone());
        let service = self.services.load().get(&key).or(self.leaving.load().get(&key)).cloned();
        let Some(service) = service else {
            // A name from outside gets no place in the books.
            let peer = asked.peer.as_ref().map_or(client.into(), |peer| peer.label());
            self.notices.warn_limited(
                LogKind::UnknownService,
                format!("{peer} asked for an unknown service `{}`", asked.service),
            );
            return Box::pin(asked.reply.refuse(asked.leg, Refusal::UnknownService)).await;
        };
        let kill = service.cut.child_token();
        let kind = if asked.probe { Kind::Probe } else { Kind::Client };
        let books = (asked.role, service.name.clone());
        let record = self.registry.open(books, asked.id.clone(), client, kind, kill.clone());
        if let Some(peer) = &asked.peer {
            record.carried_by(&peer.label());
        }
        let way = Way { of: sent.as_ref().and_then(|sent| sent.way.clone()), service: &service };
        let teller = asked.teller.take();
        let (end, refusal) = run(&way, asked, &record, &kill, &self).await;
        if let Some(teller) = teller {
            // Who does not wait any more need not know.
            let _ = teller.send(Told { end: end.clone(), refusal });
        }
        if let Some(sent) = sent {
            // A prober that has given up needs no answer.
            let _ = sent.ended.send(end.clone());
        }
        record.finish(end);
    }
}

/// Where a session goes: where its service does, or, for a probe, another way that is tried.
struct Way<'a> {
    of: Option<Arc<Connector>>,
    service: &'a Arc<Service>,
}

impl Way<'_> {
    fn connector(&self) -> Arc<Connector> {
        self.of.clone().unwrap_or_else(|| self.service.connector.load_full())
    }
}

/// How a session ended, and why it was not connected, if that is how.
type Ended = (End, Option<Refusal>);

async fn run(
    way: &Way<'_>,
    asked: Box<Negotiated>,
    record: &Record,
    kill: &CancellationToken,
    sessions: &Sessions,
) -> Ended {
    let Negotiated { leg, client, peer, reply, said, seat: _seat, probe, rest, .. } = *asked;
    let (meter, service) = (record.meter(), way.service);
    meter.enter(SessionPhase::Authorising);
    let settings = service.settings.load_full();
    if let Some(why) = service.why_down() {
        meter.enter(SessionPhase::Connecting);
        let reason = format!("the service is down: {why}");
        return refused(reply, leg, failure(Who::Backend, Refusal::BackendUnreachable, reason), meter).await;
    }
    let admitted = admit(service, peer.as_ref(), settings.peers.as_deref(), rest);
    let _admission = match admitted {
        Ok(admission) => admission,
        Err(failure) => return refused(reply, leg, failure, meter).await,
    };
    let mut order = Order {
        service: &service.name,
        peers: settings.peers.as_deref(),
        id: record.id(),
        client,
        probe,
        meter,
        not: Vec::new(),
        again: Vec::new(),
        unsent: said,
        log: record.log(),
        leave: &service.leave,
        notices: &sessions.notices,
        told: &service.told,
    };
    let mut session =
        Session { near: leg, near_peer: peer, reply: Some(reply), idle: settings.idle, has_waited: false };
    for _ in 0..TRIES_MAX {
        let connected = tokio::select! {
            biased;
            () = kill.cancelled() => Err((Who::Operator, "ended by the operator")),
            connected = connect(way, &mut order, &sessions.switching) => {
                if let Some(wait) = meter.waited() {
                    service.waits.add(wait);
                }
                Ok(connected)
            }
            () = gone(&session.near, meter) => Err((Who::Client, "the client left")),
        };
        let connected = match connected {
            Err((who, reason)) => return (session.cut(meter, who, reason.into()).await, None),
            Ok(Ok(connected)) => connected,
            Ok(Err(failure)) => return session.refused(failure, meter).await,
        };
        if let Some(peer) = &connected.peer {
            record.carried_by(&peer.label());
        }
        if probe && !connected.leg.is_framed() {
            return (Box::pin(session.stand_in(way, connected, &mut order, kill)).await, None);
        }
        match session.carry(Box::new(connected), &mut order, kill).await {
            Carried::Ended(end) => return (end, None),
            // A backend that was waited for is not waited for again elsewhere.
            Carried::Refused(failure)
                if failure.refusal == Refusal::BackendLate || !way.connector().has_other(&order) =>
            {
                return session.refused(failure, meter).await;
            }
            Carried::Refused(_) | Carried::Again => {}
        }
    }
    let reason = format!("{TRIES_MAX} links or gateways were tried");
    session.refused(failure(Who::Peer, Refusal::Unavailable, reason), meter).await
}

/// Whether a session may be served at all, with its place within the service's limit.
fn admit(
    service: &Arc<Service>,
    peer: Option<&Peer>,
    peers: Option<&[String]>,
    rest: Option<Arc<Rest>>,
) -> Result<super::service::Admission, ConnectFailure> {
    if let Some(peer) = peer.filter(|peer| !peer.is_among(peers)) {
        let reason = format!("{} is not among the service's `peers`", peer.label());
        return Err(failure(Who::Policy, Refusal::NotAllowed, reason));
    }
    if service.phase() == ServicePhase::Draining {
        return Err(failure(Who::Operator, Refusal::Draining, "the service is draining".into()));
    }
    service.admit(rest).map_err(|limit| {
        let reason = format!("`sessions` is {limit}, and so many are open");
        failure(Who::Limit, Refusal::Full, reason)
    })
}

/// The near side of a session, and what it still waits for.
struct Session {
    near: Leg,
    near_peer: Option<Peer>,
    reply: Option<Reply>,
    idle: Option<Duration>,
    /// For the answer of a peer that gave none; it waits for no second one.
    has_waited: bool,
}

/// What came of one far side.
enum Carried {
    Ended(End),
    /// It refused; no byte reached a backend, and what the client has sent is in the order again.
    Refused(ConnectFailure),
    /// It was lost before it was opened; nothing was sent.
    Again,
}

impl Session {
    async fn carry(
        &mut self,
        connected: Box<Connected>,
        order: &mut Order<'_>,
        kill: &CancellationToken,
    ) -> Carried {
        let Connected { leg: mut far, peer: far_peer, seat: _seat, first: mut unsent } = *connected;
        let meter = order.meter;
        if let Some(reply) = self.reply.take()
            && let Err(end) = grant(reply, &mut self.near, meter).await
        {
            return Carried::Ended(end);
        }
        let links = Links { near: self.near_peer.is_some(), far: far_peer.is_some() };
        let relayed = tokio::select! {
            relayed = relay::relay(&mut self.near, &mut far, &mut unsent, links, meter, self.idle) => relayed,
            () = kill.cancelled() => {
                let end = End { who: Who::Operator, phase: meter.phase(), reason: "cut by the operator".into() };
                self.cut_both(far, Cause::Operator).await;
                return Carried::Ended(end);
            }
        };
        if let Relayed::Failed(Side::Far, error) = &relayed
            && let Some(again) = again(error, &mut far, far_peer.clone(), order)
        {
            order.unsent = unsent;
            return again;
        }
        if matches!(relayed, Relayed::Unanswered)
            && let Leg::Link(link) = &far
        {
            link.left_unanswered();
            if !link.has_sent() && !std::mem::replace(&mut self.has_waited, true) {
                Box::pin(far.cut(Cause::Time)).await;
                order.unsent = unsent;
                order.not.extend(far_peer);
                return Carried::Refused(failure(Who::Time, Refusal::Unavailable, unanswered()));
            }
        }
        let failed = failure_within(&self.near).or_else(|| failure_within(&far));
        if matches!(relayed, Relayed::Clean) {
            self.near.let_close_cleanly();
            far.let_close_cleanly();
            return Carried::Ended(failed.unwrap_or_else(End::clean));
        }
        let is_framed = self.near.is_framed();
        let end = failed.unwrap_or_else(|| ended(relayed, links, is_framed, meter.phase(), self.idle));
        self.cut_both(far, cause(end.who)).await;
        Carried::Ended(end)
    }

    /// A probe goes no further than it can be told for what it is, so that no byte of it reaches a
    /// backend: that one was connected, and from here on an echo answers.
    async fn stand_in(
        mut self,
        way: &Way<'_>,
        connected: Connected,
        order: &mut Order<'_>,
        kill: &CancellationToken,
    ) -> End {
        let Connected { leg: mut reached, seat, .. } = connected;
        reached.let_close_cleanly();
        let echo = Leg::Stream(Stream::Echo(Echo::default()));
        let echo = Connected { leg: echo, peer: None, seat, first: Vec::new() };
        match Box::pin(self.carry(Box::new(echo), order, kill)).await {
            Carried::Ended(end) if end.who == Who::Nobody && way.connector().answers_late() => {
                match probe::is_refused_late(&mut reached).await {
                    true => End { who: Who::Peer, phase: order.meter.phase(), reason: LATE.into() },
                    false => end,
                }
            }
            Carried::Ended(end) => end,
            Carried::Refused(failure) => self.refused(failure, order.meter).await.0,
            Carried::Again => {
                self.cut(order.meter, Who::Internal, "an echo was lost; this is a bug".into()).await
            }
        }
    }

    async fn refused(self, failure: ConnectFailure, meter: &Meter) -> Ended {
        let reply = self.reply.unwrap_or(Reply::Silent);
        refused(reply, self.near, failure, meter).await
    }

    async fn cut_both(&mut self, far: Leg, cause: Cause) {
        let near = std::mem::replace(&mut self.near, Leg::Gone);
        Box::pin(async { tokio::join!(near.cut(cause), far.cut(cause)) }).await;
    }

    /// Cuts the near side; the far one is not connected or has been cut.
    async fn cut(&mut self, meter: &Meter, who: Who, reason: String) -> End {
        Box::pin(std::mem::replace(&mut self.near, Leg::Gone).cut(cause(who))).await;
        End { who, phase: meter.phase(), reason }
    }
}

/// What has failed in what is spoken at the other end of a pipe; its bytes may have ended well.
fn failure_within(leg: &Leg) -> Option<End> {
    let Leg::Stream(Stream::Pipe(pipe)) = leg else { return None };
    let Failure { of, reason } = pipe.failure()?;
    let who = match of {
        Failing::Backend => Who::Backend,
        Failing::Time => Who::Time,
    };
    Some(End { who, phase: SessionPhase::Relaying, reason })
}

/// Whether another link or peer may be tried: this one has refused, or has died with nothing sent.
fn again(error: &io::Error, far: &mut Leg, peer: Option<Peer>, order: &mut Order<'_>) -> Option<Carried> {
    let Leg::Link(link) = far else { return None };
    let trouble = Trouble::of(error);
    let is_unsent = link.state().is_opening() && !link.has_sent();
    match trouble {
        Some(Trouble::Refused(_) | Trouble::Unseen) => {}
        _ if is_unsent => return Some(Carried::Again),
        _ => return None,
    }
    order.again = link.take_copy();
    order.meter.take_back_up(order.again.len());
    let label = link.peer().label();
    far.release_if_free(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    let Some(Trouble::Refused(why)) = trouble else { return Some(Carried::Again) };
    order.not.extend(peer);
    let who = match why {
        Refusal::UnknownService | Refusal::NotAllowed => Who::Policy,
        Refusal::BackendRefused | Refusal::BackendLate | Refusal::BackendUnreachable => Who::Backend,
        Refusal::Full => Who::Limit,
        Refusal::Draining => Who::Operator,
        Refusal::Unavailable => Who::Peer,
    };
    Some(Carried::Refused(failure(who, *why, format!("{label}: {}", why.words()))))
}

fn cause(who: Who) -> Cause {
    match who {
        Who::Client => Cause::Client,
        Who::Backend => Cause::Backend,
        Who::Time => Cause::Time,
        Who::Operator => Cause::Operator,
        Who::Nobody | Who::Peer | Who::Limit | Who::Policy | Who::Internal => Cause::Other,
    }
}

/// Connects; again where a switch has changed the way meanwhile, or is about to, since nothing was
/// sent yet: the other half may have closed the old way a moment before this one takes the new.
async fn connect(
    way: &Way<'_>,
    order: &mut Order<'_>,
    switching: &AtomicBool,
) -> Result<Connected, ConnectFailure> {
    let mut failing_since = None;
    loop {
        let connector = way.connector();
        // Boxed, as are refusals: an open session holds no memory for what it will not do again.
        let result = Box::pin(connector.connect(order)).await;
        let of_the_way = |failure: &ConnectFailure| matches!(failure.who, Who::Peer | Who::Operator);
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
async fn gone(near: &Leg, meter: &Meter) {
    let Leg::Stream(stream) = near else { return std::future::pending().await };
    if let Stream::Pipe(pipe) = stream {
        // Whoever asks, and has ended its sending, is answered; but it may have left, and keeps no place
        // among those that wait for a link.
        while timeout(GONE_LOOK, pipe.left()).await.is_err() {
            if pipe.has_client_ended() && meter.phase() == SessionPhase::Waiting {
                return;
            }
        }
        return;
    }
    let Some(stream) = stream.tcp() else { return std::future::pending().await };
    // An error of this wait is one of the runtime, which ends.
    let _ = stream.ready(Interest::ERROR).await;
}

async fn grant(reply: Reply, near: &mut Leg, meter: &Meter) -> Result<(), End> {
    let end = |reason| End { who: Who::Peer, phase: meter.phase(), reason };
    match tokio::time::timeout(GREET, Box::pin(reply.grant(near))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(end(format!("the link was lost before the answer: {error}"))),
        Err(_) => Err(end("the link takes no bytes".into())),
    }
}

fn failure(who: Who, refusal: Refusal, reason: String) -> ConnectFailure {
    ConnectFailure { who, refusal, reason }
}

async fn refused(reply: Reply, near: Leg, failure: ConnectFailure, meter: &Meter) -> Ended {
    let phase = meter.phase();
    Box::pin(reply.refuse(near, failure.refusal)).await;
    (End { who: failure.who, phase, reason: failure.reason }, Some(failure.refusal))
}

fn ended(
    relayed: Relayed,
    links: Links,
    is_framed: bool,
    phase: SessionPhase,
    idle: Option<Duration>,
) -> End {
    let (who, reason) = match relayed {
        Relayed::Clean => return End::clean(),
        Relayed::Idle => {
            let limit = idle.unwrap_or_default();
            (Who::Time, format!("no byte either way for {}", humantime::format_duration(limit)))
        }
        Relayed::Unanswered => (Who::Time, unanswered()),
        Relayed::Failed(side, error) => match (side, Trouble::of(&error)) {
            (_, Some(Trouble::Reset(cause))) => (who_of(*cause), error.to_string()),
            (_, Some(_)) => (Who::Peer, format!("the link failed: {error}")),
            (_, None) if Exhausted::of(&error).is_some() => (Who::Limit, Exhausted::words(&error)),
            (Side::Near, None) if Late::is_cause_of(&error) => (Who::Time, error.to_string()),
            (Side::Near, None) if NoText::is_cause_of(&error) => (Who::Backend, error.to_string()),
            (Side::Near, None) if !links.near => (Who::Client, format!("the client failed: {error}")),
            // The DMZ half passes a client's cut on as a reset of a SOCKS5 link.
            (Side::Near, None) if is_cut(&error) && !is_framed => {
                (Who::Client, format!("the client or its link was cut: {error}"))
            }
            (Side::Far, None) if !links.far => (Who::Backend, format!("the backend failed: {error}")),
            (Side::Far, None) if is_cut(&error) => {
                (Who::Peer, format!("the inside or the link was cut: {error}"))
            }
            (Side::Near | Side::Far, None) => (Who::Peer, format!("the link failed: {error}")),
        },
    };
    End { who, phase, reason }
}

fn unanswered() -> String {
    format!("the other gateway did not answer within {}s", ANSWER.as_secs())
}

/// Who has cut a session, as the other gateway tells it.
fn who_of(cause: Cause) -> Who {
    match cause {
        Cause::Client => Who::Client,
        Cause::Backend => Who::Backend,
        Cause::Time => Who::Time,
        Cause::Operator => Who::Operator,
        Cause::Other => Who::Peer,
    }
}

fn is_cut(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), ConnectionReset | UnexpectedEof | BrokenPipe)
}
