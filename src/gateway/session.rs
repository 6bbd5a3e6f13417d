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
use tokio::{io::Interest, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    relay::{self, Links, Relayed, Side},
    service::{Service, Services},
};
use crate::{
    accept::{Negotiated, Reply},
    connect::{ConnectFailure, Connected, Order},
    link::{GREET, Refusal},
    net::stream::Stream,
    telemetry::{
        end::{End, Who},
        notices::Notices,
        registry::{Meter, Record, Registry},
        snapshot::{ServicePhase, SessionPhase},
    },
};

/// How often a client whose bytes are waiting is looked at while its session is connected.
const GONE_LOOK: Duration = Duration::from_millis(100);

/// Pause before a way that failed under a switch is tried again, and how long that goes on: the
/// other half is ahead of us by a moment, or the failure stands.
const SWITCH_LOOK: Duration = Duration::from_millis(50);
const SWITCH_PATIENCE: Duration = Duration::from_secs(1);

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
}

impl Sessions {
    /// Serves one session to its end.
    pub async fn serve(self, asked: Negotiated) {
        let client = asked.client.map_or_else(|| "unknown".into(), |client| client.to_string());
        let key = (asked.role, asked.service.clone());
        let service = self.services.load().get(&key).or(self.leaving.load().get(&key)).cloned();
        let Some(service) = service else {
            // A name from outside gets no place in the books.
            let peer = asked.peer.as_ref().map_or(client.into(), |peer| peer.label());
            self.notices.warn(format!("{peer} asked for an unknown service `{}`", asked.service));
            return asked.reply.refuse(asked.stream, Refusal::NotAllowed).await;
        };
        let kill = service.cut.child_token();
        let record = self.registry.open(asked.role, service.name.clone(), client, kill.clone());
        if let Some(peer) = &asked.peer {
            record.carried_by(&peer.label());
        }
        let end = run(&service, asked, &record, &kill, &self.switching).await;
        record.finish(end);
    }
}

async fn run(
    service: &Arc<Service>,
    asked: Negotiated,
    record: &Record,
    kill: &CancellationToken,
    switching: &AtomicBool,
) -> End {
    let Negotiated { mut stream, client, peer, reply, link: _link, .. } = asked;
    let meter = record.meter();
    meter.enter(SessionPhase::Authorising);
    let settings = service.settings.load_full();
    if let Some(peer) = peer.as_ref().filter(|peer| !peer.is_among(settings.peers.as_deref())) {
        let reason = format!("{} is not among the service's `peers`", peer.label());
        return refused(reply, stream, failure(Who::Policy, Refusal::NotAllowed, reason), meter).await;
    }
    if service.phase() == ServicePhase::Draining {
        let draining = failure(Who::Operator, Refusal::Unavailable, "the service is draining".into());
        return refused(reply, stream, draining, meter).await;
    }
    let _admission = match service.admit() {
        Ok(admission) => admission,
        Err(limit) => {
            let reason = format!("`sessions` is {limit}, and so many are open");
            return refused(reply, stream, failure(Who::Limit, Refusal::Unavailable, reason), meter).await;
        }
    };
    let order = Order { service: &service.name, peers: settings.peers.as_deref(), client, meter };
    let connected = tokio::select! {
        biased;
        () = kill.cancelled() => return End { who: Who::Operator, phase: meter.phase(), reason: "ended by the operator".into() },
        connected = connect(service, &order, switching) => connected,
        () = gone(&stream, meter) => return End { who: Who::Client, phase: meter.phase(), reason: "the client left".into() },
    };
    let Connected { stream: mut far, peer: far_peer, carrying: _carrying } = match connected {
        Ok(connected) => connected,
        Err(failure) => return refused(reply, stream, failure, meter).await,
    };
    if let Some(peer) = &far_peer {
        record.carried_by(&peer.label());
    }
    if let Err(end) = grant(reply, &mut stream, meter).await {
        return end;
    }
    meter.enter(SessionPhase::Relaying);
    let links = Links { near: peer.is_some(), far: far_peer.is_some() };
    let relayed = tokio::select! {
        relayed = relay::relay(&mut stream, &mut far, links, meter, settings.idle) => relayed,
        () = kill.cancelled() => {
            return End { who: Who::Operator, phase: meter.phase(), reason: "cut by the operator".into() };
        }
    };
    if matches!(relayed, Relayed::Clean) {
        stream.let_close_cleanly();
        far.let_close_cleanly();
    }
    ended(relayed, links, meter.phase(), settings.idle)
}

/// Connects; again where a switch has changed the way meanwhile, or is about to, since nothing was
/// sent yet: the other half may have closed the old way a moment before this one takes the new.
async fn connect(
    service: &Service,
    order: &Order<'_>,
    switching: &AtomicBool,
) -> Result<Connected, ConnectFailure> {
    let mut failing_since = None;
    loop {
        let connector = service.connector.load_full();
        let result = connector.connect(order).await;
        let of_the_way = |failure: &ConnectFailure| matches!(failure.who, Who::Peer | Who::Operator);
        // Read first: a switch replaces the way before it ends.
        let is_switching = switching.load(Ordering::SeqCst);
        match result {
            Err(_) if !Arc::ptr_eq(&connector, &service.connector.load()) => {}
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

/// Returns when the client has left before its session was connected: its connection is over, or
/// it closed without a byte while it waited for a link.
async fn gone(stream: &Stream, meter: &Meter) {
    let Some(stream) = stream.tcp() else { return std::future::pending().await };
    loop {
        if stream.ready(Interest::READABLE | Interest::ERROR).await.is_err()
            || matches!(stream.take_error(), Ok(Some(_)))
        {
            return;
        }
        let closed = matches!(stream.try_io(Interest::READABLE, || peek(stream)), Ok(0));
        if closed && meter.phase() == SessionPhase::Waiting {
            return;
        }
        tokio::time::sleep(GONE_LOOK).await;
    }
}

fn peek(stream: &tokio::net::TcpStream) -> io::Result<usize> {
    let mut byte = [std::mem::MaybeUninit::uninit()];
    socket2::SockRef::from(stream).peek(&mut byte)
}

async fn grant(reply: Reply, stream: &mut Stream, meter: &Meter) -> Result<(), End> {
    let end = |reason| End { who: Who::Peer, phase: meter.phase(), reason };
    match tokio::time::timeout(GREET, reply.grant(stream)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(end(format!("the link was lost before the answer: {error}"))),
        Err(_) => Err(end("the link takes no bytes".into())),
    }
}

fn failure(who: Who, refusal: Refusal, reason: String) -> ConnectFailure {
    ConnectFailure { who, refusal, reason }
}

async fn refused(reply: Reply, stream: Stream, failure: ConnectFailure, meter: &Meter) -> End {
    let phase = meter.phase();
    reply.refuse(stream, failure.refusal).await;
    End { who: failure.who, phase, reason: failure.reason }
}

fn ended(relayed: Relayed, links: Links, phase: SessionPhase, idle: Option<Duration>) -> End {
    let (who, reason) = match relayed {
        Relayed::Clean => return End::clean(),
        Relayed::Idle => {
            let limit = idle.unwrap_or_default();
            (Who::Time, format!("no byte either way for {}", humantime::format_duration(limit)))
        }
        Relayed::Failed(Side::Near, error) => match links.near {
            false => (Who::Client, format!("the client failed: {error}")),
            // The DMZ half passes a client's cut on as a reset of the link.
            true if is_cut(&error) => (Who::Client, format!("the client or its link was cut: {error}")),
            true => (Who::Peer, format!("the link failed: {error}")),
        },
        Relayed::Failed(Side::Far, error) => match links.far {
            false => (Who::Backend, format!("the backend failed: {error}")),
            true if is_cut(&error) => (Who::Peer, format!("the inside or the link was cut: {error}")),
            true => (Who::Peer, format!("the link failed: {error}")),
        },
    };
    End { who, phase, reason }
}

fn is_cut(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), ConnectionReset | UnexpectedEof | BrokenPipe)
}
