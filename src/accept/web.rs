//! Clients that begin with a request: one front for the whole life of a client's connection.
//!
//! Each request means a service of the port by its host and path. One for a WebSocket whose frames are
//! taken off here makes the connection a session. One that is carried as HTTP is cleaned and sent on over a
//! session of that service, which stays open for the next ones of the same client; so no two clients
//! share one. What is turned away is told why, and the connection stays.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::Incoming,
    ext::on_informational,
    header::{self, HeaderMap, HeaderValue},
    service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use tokio::{sync::oneshot, time::timeout};

use super::{
    Negotiated, Serve, Told,
    closing::{both, let_go, of_end},
    door::{Entered, Speaks, WebDoor, asked_for},
    rest::{Rest, Room, Work},
    tcp::{Stay, negotiated},
};
use crate::{
    link::listener::Greeting,
    net::{
        http::{
            From,
            answer::{self, Objection, bad},
            fields::{self, Of, Protocols},
            forwarded, framing,
            guarded::Guarded,
            interim::{Interim, Interims, Passed},
            line::{Line, Lost},
            payload::{Fares, Payload, is_last},
            pulse::{Exchange, Phase, Pulse, Watch},
            request::{self, Asked, By},
            serving::{self, Leave, Sides},
            socket,
        },
        pipe::{Deadline, PipeEnd, pipe},
        rewound::Rewound,
        stream::Stream,
        ws::{Limits, WebSocket},
    },
    profile::{ServiceName, Web, defaults},
};

/// Sessions of one connection; the one that was idle longest gives way.
const CHANNELS_MAX: usize = 8;
/// A client that has been told something last gets so long to hear it, and a session to end.
const FAREWELL: Duration = Duration::from_secs(1);

/// A client whose connection is open.
pub struct Came {
    pub client: SocketAddr,
    pub stream: Stream,
    pub said: Vec<u8>,
    pub doors: Arc<Vec<WebDoor>>,
    pub is_tls: bool,
}

/// What all requests of one connection share.
struct Front {
    client: SocketAddr,
    by: By,
    doors: Arc<Vec<WebDoor>>,
    serve: Serve,
    stay: Stay,
    sides: Sides,
    pulse: Arc<Pulse>,
    interims: Interims,
    /// Idle ones, the last used one last.
    channels: Mutex<Vec<Channel>>,
    became: Mutex<Option<Became>>,
    /// Where hyper leaves the connection when it ends, if a request has asked for an upgrade.
    here: Mutex<Option<OnUpgrade>>,
    /// Where it is asked to let sessions go that rest.
    room: Arc<Room>,
    /// The client has left in the middle of an exchange, which is a cut.
    is_cut: Arc<AtomicBool>,
    /// How long the connection stays without a request: what the service says that was asked last.
    keep_alive: Mutex<Duration>,
    /// Until a service has let it in.
    greeting: Mutex<Option<Greeting>>,
}

/// A session that requests go over.
struct Channel {
    service: ServiceName,
    /// Whose requests these are: a proxy may send those of many.
    client: SocketAddr,
    id: String,
    line: Line,
    deadline: Deadline,
    told: oneshot::Receiver<Told>,
    rest: Arc<Rest>,
}

/// What of a request its answer is read by.
struct Sent {
    method: Method,
    wanted: Option<HeaderValue>,
    fares: Option<Arc<Fares>>,
}

const UNENCODED: &str = "its target has signs that have to be percent-encoded, such as %22 %23 %3C %3E";
const NONE: &str = "the service's answer is no HTTP/1.1";

/// What a request has made of the connection.
enum Became {
    /// A WebSocket, whose frames are taken off here.
    Socket(Box<WebDoor>, SocketAddr),
    /// Something that is passed on as it is, with the other end of its channel.
    Passed(OnUpgrade),
}

/// Serves a client until it leaves; the session that its connection has become, if it has.
pub async fn serve(came: Came, serve: Serve, stay: Stay, greeting: Greeting) -> Option<Negotiated> {
    let Came { client, stream, said, doors, is_tls } = came;
    let front = Arc::new(Front {
        client,
        by: By::new(client.ip(), is_tls),
        doors,
        serve,
        stay,
        sides: Sides::default(),
        pulse: Arc::default(),
        interims: Interims::default(),
        channels: Mutex::default(),
        became: Mutex::default(),
        here: Mutex::default(),
        room: Arc::default(),
        is_cut: Arc::default(),
        keep_alive: Mutex::new(defaults::KEEP_ALIVE),
        greeting: Mutex::new(Some(greeting)),
    });
    front.run(stream, said).await;
    // Each session hears an end.
    locked(&front.channels).clear();
    let became = locked(&front.became).take();
    match became {
        None => {
            // Who is late is cut.
            let _ = timeout(FAREWELL, front.sides.ended()).await;
            None
        }
        Some(Became::Passed(there)) => {
            let here = locked(&front.here).take();
            let handed = Box::pin(async move {
                if let Err(error) = hand_over(here, there).await {
                    tracing::debug!(%client, "an upgraded connection was lost: {error}");
                }
            });
            front.sides.add(handed);
            let sides = front.sides.clone();
            drop(front);
            sides.ended().await;
            None
        }
        Some(Became::Socket(door, client)) => {
            let door = *door;
            let _ = timeout(FAREWELL, front.sides.ended()).await;
            let left = locked(&front.here).take();
            let entered = here(left).await.map(|here| {
                let Web { message_limit, inactivity, frames, .. } = door.web;
                let limits = Limits { message: message_limit, inactivity, frames };
                let socket = Stream::Ws(Box::new(WebSocket::new(here.into_inner(), limits)));
                negotiated(Entered { client, service: door.service, stream: socket, said: Vec::new() })
            });
            if let Err(error) = &entered {
                tracing::debug!(%client, "a WebSocket was lost: {error}");
            }
            entered.ok()
        }
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The connection after hyper.
async fn here(left: Option<OnUpgrade>) -> Result<Guarded, Error> {
    let left = left.ok_or("it has asked for no upgrade")?.await?;
    let parts = left.downcast::<TokioIo<Interim<Guarded>>>().map_err(|_| "its connection was lost")?;
    Ok(parts.io.into_inner().into_inner().after(&parts.read_buf))
}

async fn hand_over(left: Option<OnUpgrade>, there: OnUpgrade) -> Result<(), Error> {
    let (here, (there, read)) = (here(left).await?, Line::left::<PipeEnd>(there).await?);
    let Rewound { said, stream } = here.into_inner();
    Ok(there.hand_over(stream, said, read).await?)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Front {
    /// Serves requests until one has made the connection something else, or it ends.
    async fn run(self: &Arc<Self>, stream: Stream, said: Vec<u8>) {
        let guarded = Guarded::new(Rewound { said: said.into(), stream }, self.pulse.clone());
        let guarded = Interim::new(guarded, self.interims.clone());
        let service = {
            let front = self.clone();
            service_fn(move |request| {
                let front = front.clone();
                async move { Ok::<_, Infallible>(front.answer(request).await) }
            })
        };
        let mut served = Box::pin(
            serving::reader(From::Outside).serve_connection(TokioIo::new(guarded), service).with_upgrades(),
        );
        let (mut watch, mut late) = (Watch::begin(), None);
        let evicted = locked(&self.greeting).as_ref().map(|greeting| greeting.evicted.clone());
        let mut evicted = evicted.map(|evicted| Box::pin(evicted.cancelled_owned()));
        let mut leaving = Leave::of(self.stay.leave.clone());
        let ended = serving::serve(served.as_mut(), &self.sides, |mut served, cx| {
            if leaving.poll(cx) {
                served.as_mut().graceful_shutdown();
            }
            let is_evicted = evicted.as_mut().is_some_and(|evicted| evicted.as_mut().poll(cx).is_ready());
            if is_evicted && locked(&self.greeting).is_some() {
                late = Some(Phase::Head);
                return Poll::Ready(Ok(()));
            }
            if self.room.poll(cx) && self.let_rest_go() {
                served.as_mut().graceful_shutdown();
                cx.waker().wake_by_ref();
            }
            match watch.poll(self.pulse.phase(), *locked(&self.keep_alive), cx) {
                Poll::Ready(phase) => {
                    late = Some(phase);
                    Poll::Ready(Ok(()))
                }
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        let is_busy = self.pulse.phase() == Phase::Exchange;
        self.is_cut.store(is_busy, Ordering::Relaxed);
        let left = match Pin::into_inner(served).into_parts() {
            Some(parts) => Some(parts.io.into_inner().into_inner()),
            // Nothing has become of an upgrade that was asked for.
            None if locked(&self.became).is_none() => {
                let left = locked(&self.here).take();
                here(left).await.ok()
            }
            None => None,
        };
        let is_cut = ended.as_ref().is_err_and(|error| !error.is_parse());
        match (&ended, late) {
            (Err(error), _) => self.stay.log.reject_client(self.client, &error.to_string()),
            (Ok(()), Some(Phase::Head)) => {
                self.stay.log.reject_client(self.client, "its request was not complete in time");
            }
            (Ok(()), Some(Phase::Idle | Phase::Exchange) | None) => {}
        }
        if let Some(left) = left
            && !is_cut
        {
            let last = if late == Some(Phase::Head) { answer::LATE_HEAD } else { b"" };
            let_go(left.into_inner().stream, last).await;
        }
    }

    /// Lets the sessions go that have given their place up; whether nothing is under way on the connection, which
    /// goes with them then.
    fn let_rest_go(&self) -> bool {
        locked(&self.channels).retain(|channel| !channel.rest.has_left());
        self.pulse.phase() == Phase::Idle
    }

    async fn answer(self: Arc<Self>, mut request: Request<Incoming>) -> Response<Payload> {
        let exchange = self.pulse.begin();
        let version = request.version();
        if request.headers().contains_key(header::UPGRADE) || request.method() == Method::CONNECT {
            *locked(&self.here) = Some(hyper::upgrade::on(&mut request));
        }
        let mut response = match self.served(request, &exchange).await {
            Ok(response) => response,
            Err((objection, session)) => {
                let why = format!("{}: {}", objection.status, objection.told);
                self.stay.log.reject_client(self.client, &why);
                objection.answer(session.as_deref())
            }
        };
        self.interims.sent().await;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return response;
        }
        self.pulse.stay();
        if self.stay.is_over() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        framing::as_of(version, &mut response);
        response
    }

    async fn served(
        &self,
        request: Request<Incoming>,
        exchange: &Exchange,
    ) -> Result<Response<Payload>, (Objection, Option<String>)> {
        if self.pulse.is_refused() {
            return Err((bad(UNENCODED), None));
        }
        let host = request::check(&request).map_err(|objection| (objection, None))?;
        if request.uri().path() == "*" {
            return Ok(answer::options());
        }
        let door = self.door(&request, &host).map_err(|objection| (objection, None))?;
        *locked(&self.keep_alive) = door.web.keep_alive;
        if door.speaks == Speaks::Frames {
            let response = socket::grant(&request, door.web.protocols.as_deref())
                .map_err(|objection| (objection, None))?;
            let (client, _) = self.client_of(door, request.headers());
            *locked(&self.became) = Some(Became::Socket(Box::new(door.clone()), client));
            locked(&self.greeting).take();
            return Ok(response);
        }
        let (mut parts, body) = request.into_parts();
        let payload = Payload::up(body, Of::Client, Some(door.web.body));
        let wanted = request::upgrade(&parts.headers, parts.version);
        let has_body = payload.fares().is_some();
        let wanted = match (door.speaks, wanted) {
            (Speaks::Frames | Speaks::Requests, wanted) => wanted.filter(|_| !has_body),
            (Speaks::Sockets, wanted) if !request::is_socket(wanted.as_ref()) => {
                let told = "only WebSockets are served here";
                return Err((Objection::new(StatusCode::UPGRADE_REQUIRED, told), None));
            }
            (Speaks::Sockets, _) if has_body => return Err((bad("a WebSocket begins without a body"), None)),
            (Speaks::Sockets, _) => Some(HeaderValue::from_static("websocket")),
        };
        let (client, by) = self.client_of(door, &parts.headers);
        let passed = Passed::by(&parts);
        request::clean(&mut parts, wanted.clone(), &by, &door.path, &door.web.hosts);
        framing::of_request(&mut parts.headers, &payload);
        let asked = Sent { method: parts.method.clone(), wanted, fares: payload.fares() };
        let mut request = Request::from_parts(parts, payload);
        if let Some(passed) = passed {
            let interims = self.interims.clone();
            on_informational(&mut request, move |head| {
                let mut headers = head.headers().clone();
                fields::clean(&mut headers, Of::Response);
                if passed.takes(head.status()) {
                    interims.say(head.status(), &headers);
                }
            });
        }
        let (channel, response) = self.ask(door, client, request).await?;
        self.taken(channel, response, asked, exchange)
    }

    /// Who has sent a request: the client of the connection, or the one that it tells, where it is a trusted proxy.
    fn client_of(&self, door: &WebDoor, headers: &HeaderMap) -> (SocketAddr, By) {
        let (peer, by) = (self.client.ip(), self.by.clone());
        let networks = door.web.forwarded.as_deref().unwrap_or_default();
        let is_trusted = |address| networks.iter().any(|network| network.contains(address));
        if !is_trusted(peer) {
            return (self.client, by);
        }
        let through = forwarded::read(headers, peer, is_trusted);
        let client = if through.client == peer { self.client } else { SocketAddr::new(through.client, 0) };
        (client, by.through(&through, headers))
    }

    /// What a backend has answered, for the client.
    fn taken(
        &self,
        channel: Channel,
        mut response: Response<Incoming>,
        sent: Sent,
        exchange: &Exchange,
    ) -> Result<Response<Payload>, (Objection, Option<String>)> {
        let there = hyper::upgrade::on(&mut response);
        let (mut head, body) = response.into_parts();
        head.version = Version::HTTP_11;
        if let Some(failure) = answer::take_failure(&mut head.headers) {
            channel.deadline.failed(failure);
        }
        let is_coded = framing::of_response(&mut head, &sent.method, &body).is_err();
        let (protocols, is_last) = (Protocols::of(&head), is_last(&head.headers, sent.fares.as_deref()));
        fields::clean(&mut head.headers, Of::Response);
        protocols.tell(&mut head.headers);
        if is_last {
            head.headers.append(header::CONNECTION, HeaderValue::from_static("close"));
        }
        match (head.status, sent.wanted) {
            (StatusCode::SWITCHING_PROTOCOLS, Some(_)) => {
                *locked(&self.became) = Some(Became::Passed(there));
                Ok(Response::from_parts(head, Payload::empty()))
            }
            (_, _) if is_coded => Err((Objection::new(StatusCode::BAD_GATEWAY, NONE), Some(channel.id))),
            (StatusCode::SWITCHING_PROTOCOLS, None) => {
                Err((Objection::new(StatusCode::BAD_GATEWAY, NONE), Some(channel.id)))
            }
            (_, _) => {
                let work = Work::of(&channel.rest);
                locked(&self.channels).push(channel);
                Ok(Response::from_parts(head, Payload::down(body).holding(Box::new((exchange.held(), work)))))
            }
        }
    }

    /// The door that a request means.
    fn door(&self, request: &Request<Incoming>, host: &str) -> Result<&WebDoor, Objection> {
        let origin = request::origin(request.headers())?;
        let asked = Asked { host, path: request.uri().path(), origin };
        let door = asked_for(&self.doors, &asked)
            .ok_or(Objection::new(StatusCode::NOT_FOUND, "there is no such service"))?;
        let is_socket = door.speaks != Speaks::Requests || request.headers().contains_key(header::UPGRADE);
        let allowed = &door.web.origins;
        let is_allowed =
            |origin: &[u8]| allowed.iter().any(|own| own.as_bytes().eq_ignore_ascii_case(origin));
        if is_socket && !allowed.is_empty() && !asked.origin.is_some_and(is_allowed) {
            return Err(Objection::new(StatusCode::FORBIDDEN, "this page may not open a WebSocket here"));
        }
        Ok(door)
    }

    /// Sends a request; over a new session where there is none, or it has ended since the last one.
    async fn ask(
        &self,
        door: &WebDoor,
        client: SocketAddr,
        mut request: Request<Payload>,
    ) -> Result<(Channel, Response<Incoming>), (Objection, Option<String>)> {
        let open = {
            let mut channels = locked(&self.channels);
            let at = channels
                .iter()
                .position(|channel| channel.service == door.service && channel.client == client);
            at.map(|at| channels.remove(at)).filter(|channel| channel.line.is_open() && channel.rest.work())
        };
        if let Some(mut channel) = open {
            match channel.line.ask(request).await {
                Ok(response) => return Ok((channel, response)),
                Err(Lost::Unsent(unsent)) => request = *unsent,
                Err(lost) => return Err(failed(channel, &lost).await),
            }
        }
        let mut channel = self.open(&door.service, client).await.map_err(|objection| (objection, None))?;
        match channel.line.ask(request).await {
            Ok(response) => Ok((channel, response)),
            Err(lost) => Err(failed(channel, &lost).await),
        }
    }

    /// Begins a session.
    async fn open(&self, service: &ServiceName, client: SocketAddr) -> Result<Channel, Objection> {
        let (ours, theirs) = pipe();
        let deadline = ours.deadline();
        let (teller, told) = oneshot::channel();
        let id = format!("{:012x}", fastrand::u64(..) >> 16);
        let entered = Entered {
            client,
            service: service.clone(),
            stream: Stream::Pipe(theirs.of_client(self.pulse.ended())),
            said: Vec::new(),
        };
        let rest = Rest::at_work(&self.room);
        let asked = Negotiated {
            id: Some(id.clone()),
            teller: Some(teller),
            rest: Some(rest.clone()),
            ..negotiated(entered)
        };
        let unserved = |_| Objection::new(StatusCode::SERVICE_UNAVAILABLE, "the service can not be reached");
        let (line, going) = Line::over(ours, From::Peer, None).await.map_err(unserved)?;
        let mut channels = locked(&self.channels);
        if channels.len() >= CHANNELS_MAX {
            channels.remove(0);
        }
        drop(channels);
        locked(&self.greeting).take();
        self.sides.add(both(going, (self.serve)(asked), self.is_cut.clone()));
        Ok(Channel { service: service.clone(), client, id, line, deadline, told, rest })
    }
}

/// Why a request has no response: its session says so, where it has ended.
async fn failed(channel: Channel, lost: &Lost) -> (Objection, Option<String>) {
    // The line was cut, and hears so when it is next polled.
    if matches!(lost, Lost::Stopped | Lost::Late) {
        channel.deadline.is_over();
    }
    let objection = match lost {
        Lost::Stopped => Objection::new(StatusCode::REQUEST_TIMEOUT, "the body of the request has stopped"),
        Lost::Late => Objection::new(StatusCode::GATEWAY_TIMEOUT, "the service did not answer in time"),
        Lost::Short => bad("the body of the request was cut"),
        Lost::Broken(_) | Lost::Unsent(_) => {
            drop(channel.line);
            match timeout(FAREWELL, channel.told).await {
                Ok(Ok(told)) => of_end(&told),
                Ok(Err(_)) | Err(_) => {
                    Objection::new(StatusCode::BAD_GATEWAY, "the service ended before it had answered")
                }
            }
        }
    };
    (objection, Some(channel.id))
}
