//! Clients on a TCP port.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{
    Negotiated, Reply, Serve,
    door::{self, Doors, Entered, Front, Inside},
    web,
};
use crate::{
    link::{
        leg::Leg,
        listener::{EVICTED, Greeting, Greetings},
    },
    net::{
        listen::{Listener, Told},
        quota::{Place, Quota},
        stream::Stream,
    },
    profile::{Role, ServiceName},
    tasks::Tasks,
    telemetry::{notices::Notices, rate_limited::RateLimitedLog},
};

/// The probe of our own that comes from there, if one does: it does not speak the PROXY protocol.
pub type ProbeDoor = Arc<dyn Fn(SocketAddr) -> Option<Expected> + Send + Sync>;

/// A probe that is on its way.
#[derive(Debug)]
pub struct Expected {
    pub service: ServiceName,
    /// Whether it begins with a handshake.
    pub by_tls: bool,
}

/// What the ports for clients share.
#[derive(Clone)]
pub struct Shared {
    pub serve: Serve,
    pub tasks: Tasks,
    pub notices: Arc<Notices>,
    pub probes: ProbeDoor,
    /// Clients at once, of all ports.
    pub quota: Arc<Quota>,
    /// And of these, those that have yet to say what they want.
    pub greetings: Arc<Greetings>,
}

/// Accepts clients until the port is closed; who serves them may change while it runs.
pub async fn run(listener: Arc<Listener>, front: Arc<ArcSwap<Front>>, shared: Shared) {
    let Shared { serve, tasks, notices, probes, quota, greetings } = shared;
    let leave = CancellationToken::new();
    let _closed = leave.clone().drop_guard();
    let accepted = |stream, client: SocketAddr, place: Place| {
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        if let Some(probe) = probes(client) {
            let probing = enter(stream, client, probe, front.load_full(), serve.clone());
            return tasks.spawn("probe", holding(place, probing));
        }
        match &**front.load() {
            Front { proxy: None, doors: Doors::One(service) } => {
                let (service, stream) = (service.clone(), Stream::Tcp(stream));
                let entered = Entered { client, service, stream, said: Vec::new() };
                tasks.spawn("session", holding(place, serve(negotiated(entered))));
            }
            Front { proxy: Some(_), .. } | Front { doors: Doors::Named(_) | Doors::Web(_), .. } => {
                let stay = Stay {
                    leave: leave.clone(),
                    of: front.load_full(),
                    now: front.clone(),
                    log: notices.limited().clone(),
                };
                let greeting = Greeting::begin(greetings.clone(), client.ip());
                tasks.spawn("session", holding(place, greet(stream, client, serve.clone(), stay, greeting)));
            }
        }
    };
    let tell = |told: Told<'_>| match told {
        Told::Pauses(error) => {
            notices
                .error(format!("client port: accept: {error}; accepting pauses until descriptors are free"));
        }
        Told::Waits { at, why } => {
            notices.warn(format!("client port {at}: {why}; it is tried again every second"));
        }
        Told::Listens(at) => notices.info(format!("client port {at} listens now")),
    };
    listener.accept_within(&quota, accepted, tell).await;
}

/// Serves a client within its place.
async fn holding(place: Place, serving: impl Future<Output = ()>) {
    serving.await;
    drop(place);
}

/// Serves a probe; one that does not come so far hears of it by its TLS.
async fn enter(stream: TcpStream, client: SocketAddr, probe: Expected, front: Arc<Front>, serve: Serve) {
    let Expected { service, by_tls } = probe;
    let entered = match by_tls {
        false => Ok(Entered { client, service, stream: Stream::Tcp(stream), said: Vec::new() }),
        true => Box::pin(door::enter_probe(stream, client, service, &front)).await,
    };
    match entered {
        Ok(entered) => serve(negotiated(entered)).await,
        Err(why) => tracing::debug!(%client, "probe turned away: {why}"),
    }
}

/// Serves a client that has come through one of the doors.
async fn greet(stream: TcpStream, client: SocketAddr, serve: Serve, stay: Stay, greeting: Greeting) {
    // Boxed: an open session holds no memory for how it came.
    let entered = door::enter(stream, client, &stay.of);
    let entered = Box::pin(greeting.evicted.run_until_cancelled(entered)).await;
    let entered = entered.unwrap_or_else(|| Err(EVICTED.into()));
    let session = match entered {
        Ok(Inside::Session(entered)) => {
            drop((stay, greeting));
            Some(negotiated(entered))
        }
        Ok(Inside::Web(came)) => Box::pin(web::serve(came, serve.clone(), stay, greeting)).await,
        Err(why) => {
            stay.log.reject_client(client, &why);
            None
        }
    };
    if let Some(session) = session {
        serve(session).await;
    }
}

/// For how long a client that asks again and again is served by the doors that it came by.
pub struct Stay {
    /// The port has been closed.
    pub leave: CancellationToken,
    now: Arc<ArcSwap<Front>>,
    of: Arc<Front>,
    pub log: Arc<RateLimitedLog>,
}

impl Stay {
    /// Whether the port is closed, or leads to others now.
    pub fn is_over(&self) -> bool {
        self.leave.is_cancelled() || !Arc::ptr_eq(&self.now.load(), &self.of)
    }
}

pub(super) fn negotiated(entered: Entered) -> Negotiated {
    let Entered { client, service, stream, said } = entered;
    Negotiated {
        role: Role::Dmz,
        leg: Leg::Stream(stream),
        service,
        id: None,
        client: Some(client),
        peer: None,
        reply: Reply::Silent,
        said,
        seat: None,
        probe: false,
        teller: None,
        rest: None,
    }
}
