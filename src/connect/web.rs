//! A backend that requests go to.
//!
//! The session's far side is a pipe. At its other end the requests of one client are read, as strictly as
//! if nobody had looked at them yet, and sent on over a connection of their own, which is dialled again
//! when the backend has closed it between two of them. A request that was sent is not sent again. When
//! one has become something else, the pipe becomes the backend's connection itself.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
};

use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::Incoming,
    ext::on_informational,
    header::{self, HeaderMap, HeaderName, HeaderValue},
    service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    ConnectFailure, Order,
    direct::{self, Target},
};
use crate::{
    net::{
        http::{
            From, LINGER, READ_BYTES_MAX,
            answer::{self, Objection, bad},
            fields::{Of, Protocols},
            flaw::Flaw,
            framing,
            interim::{Interim, Interims},
            line::{Line, Lost},
            names::OwnNames,
            payload::{Payload, is_last},
            request,
            response::{Names, Public},
            serving::{self, Leave, Sides},
        },
        pipe::{Deadline, Failing, Failure, PipeEnd, pipe},
        stream::Stream,
        tcp,
    },
    profile::{HttpRemote, Remote, ServiceName},
    proto::Refusal,
    telemetry::{
        end::Who,
        notices::{Notices, Once},
        rate_limited::{LogKind, RateLimitedLog},
    },
};

/// Requests of one session.
struct Requests {
    target: Arc<Target>,
    remote: HttpRemote,
    id: String,
    service: ServiceName,
    notices: Arc<Notices>,
    told: Arc<Once>,
    client: Option<SocketAddr>,
    sides: Sides,
    log: Arc<RateLimitedLog>,
    /// Taken while a request is on its way.
    line: Mutex<Option<Reached>>,
    /// Where hyper leaves the pipe when it ends, if a request has asked for an upgrade.
    here: Mutex<Option<OnUpgrade>>,
    /// The backend's connection, where it has become something else.
    there: Mutex<Option<OnUpgrade>>,
    /// Tells the session what has failed.
    teller: Deadline,
    interims: Interims,
}

/// The backend's connection.
struct Reached {
    line: Line,
    names: Arc<Names>,
}

/// The session's far side, with the backend connected.
pub async fn begin(
    target: &Arc<Target>,
    remote: &HttpRemote,
    first: Stream,
    order: &Order<'_>,
) -> Result<Stream, ConnectFailure> {
    let (near, far) = pipe();
    let requests = Requests {
        target: target.clone(),
        remote: remote.clone(),
        id: order.id.to_owned(),
        service: order.service.clone(),
        notices: order.notices.clone(),
        told: order.told.clone(),
        client: order.client,
        sides: Sides::default(),
        log: order.log.clone(),
        line: Mutex::default(),
        here: Mutex::default(),
        there: Mutex::default(),
        teller: far.deadline(),
        interims: Interims::default(),
    };
    let reached = requests.over(first).await?;
    *requests.line() = Some(reached);
    Ok(Stream::Pipe(near.driven_by(Box::pin(serve(requests, far, order.leave.clone())))))
}

/// Serves the requests of one session until it ends.
async fn serve(requests: Requests, pipe: PipeEnd, leave: CancellationToken) {
    let requests = Arc::new(requests);
    let sides = requests.sides.clone();
    let service = {
        let requests = requests.clone();
        service_fn(move |request| {
            let requests = requests.clone();
            async move { Ok::<_, Infallible>(requests.answer(request).await) }
        })
    };
    let pipe = TokioIo::new(Interim::new(pipe, requests.interims.clone()));
    let mut served = Box::pin(serving::reader(From::Peer).serve_connection(pipe, service).with_upgrades());
    let mut leaving = Leave::of(leave);
    let ended = serving::serve(served.as_mut(), &sides, |served, cx| {
        if leaving.poll(cx) {
            served.graceful_shutdown();
        }
        Poll::Pending
    })
    .await;
    let left = Pin::into_inner(served).into_parts();
    // The backend hears an end.
    *requests.line() = None;
    match ended {
        Ok(()) => {
            if let Some(parts) = left {
                read_out(parts.io.into_inner().into_inner()).await;
            }
        }
        Err(error) => {
            tracing::debug!(id = requests.id, "the requests of a session have ended: {error}");
            if error.is_user() {
                let reason = format!("the backend's answer was cut within its body: {}", cause(&error));
                requests.teller.failed(Failure { of: Failing::Backend, reason });
            }
        }
    }
    if let Err(error) = requests.left().await {
        tracing::debug!(id = requests.id, "an upgraded connection was lost: {error}");
    }
    sides.ended().await;
}

/// What an error comes of, in its own words.
fn cause(error: &hyper::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Reads and forgets what of a request is still on its way behind an early answer: ended at once, the pipe
/// would be a failure to its other end, which could overtake the answer.
async fn read_out(mut pipe: PipeEnd) {
    let mut scratch = vec![0; READ_BYTES_MAX];
    let reading = async { while matches!(pipe.read(&mut scratch).await, Ok(1..)) {} };
    // Whoever does not stop by then is cut.
    let _ = timeout(LINGER, reading).await;
}

type Error = Box<dyn std::error::Error + Send + Sync>;

impl Requests {
    /// Hands the backend's connection over where an upgrade has come of it, and ends the pipe where none has.
    async fn left(&self) -> Result<(), Error> {
        let Some(here) = self.here.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        let there = self.there.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Ok(here) = here.await else { return Ok(()) };
        let lost = "its connection was lost";
        let here = here.downcast::<TokioIo<Interim<PipeEnd>>>().map_err(|_| lost)?;
        let mut pipe = here.io.into_inner().into_inner();
        let Some(there) = there else {
            pipe.shutdown().await?;
            read_out(pipe).await;
            return Ok(());
        };
        let (there, heard) = Line::left::<Stream>(there).await?;
        Ok(pipe.hand_over(there, heard, here.read_buf).await?)
    }

    fn line(&self) -> std::sync::MutexGuard<'_, Option<Reached>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Payload> {
        let passed = self.passed(request).await;
        self.interims.sent().await;
        match passed {
            Ok(response) => response,
            Err(objection) => {
                if self.log.admits(LogKind::RequestFailed) {
                    tracing::info!(
                        id = self.id,
                        "request not answered by the backend: {}: {}",
                        objection.status,
                        objection.told
                    );
                }
                if let Some(failure) = objection.failure() {
                    self.teller.failed(failure);
                }
                objection.answer_peer(&self.id)
            }
        }
    }

    async fn passed(&self, mut request: Request<Incoming>) -> Result<Response<Payload>, Objection> {
        if request.headers().contains_key(header::UPGRADE) || request.method() == Method::CONNECT {
            *self.here.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(hyper::upgrade::on(&mut request));
        }
        request::check(&request)?;
        let (mut parts, body) = request.into_parts();
        let (payload, method) = (Payload::up(body, Of::Peer, None), parts.method.clone());
        let wanted = request::upgrade(&parts.headers, parts.version).filter(|_| payload.fares().is_none());
        if self.remote.socket && !request::is_socket(wanted.as_ref()) {
            return Err(Objection::new(StatusCode::UPGRADE_REQUIRED, "only WebSockets are served here"));
        }
        let public = Arc::new(public(&parts.headers));
        let HttpRemote { remote, path, .. } = &self.remote;
        request::clean_again(&mut parts, wanted.clone(), path, &authority(remote));
        framing::of_request(&mut parts.headers, &payload);
        let fares = payload.fares();
        let (reached, mut response) = self.ask(Request::from_parts(parts, payload), &public).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            if wanted.is_none() {
                return Err(Objection::of_backend("the backend switches to another protocol unasked"));
            }
            let there = hyper::upgrade::on(&mut response);
            *self.there.lock().unwrap_or_else(PoisonError::into_inner) = Some(there);
            let (mut head, _) = response.into_parts();
            let protocols = Protocols::of(&head);
            reached.names.clean(&mut head.headers, &public, |field| self.tell(field));
            protocols.tell(&mut head.headers);
            return Ok(Response::from_parts(head, Payload::empty()));
        }
        let (mut head, body) = response.into_parts();
        // Of the backend's connection, which may be older.
        head.version = Version::HTTP_11;
        // No backend speaks in our name.
        answer::take_failure(&mut head.headers);
        framing::of_response(&mut head, &method, &body)
            .map_err(|framing::Coded| Objection::of_backend(Flaw::Coded.to_string()))?;
        let (protocols, is_last) = (Protocols::of(&head), is_last(&head.headers, fares.as_deref()));
        reached.names.clean(&mut head.headers, &public, |field| self.tell(field));
        protocols.tell(&mut head.headers);
        if is_last {
            head.headers.append(header::CONNECTION, HeaderValue::from_static("close"));
        }
        *self.line() = Some(reached);
        Ok(Response::from_parts(head, Payload::down(body)))
    }

    /// Sends a request; over a new connection where the backend has closed the one that was open.
    async fn ask(
        &self,
        mut request: Request<Payload>,
        public: &Arc<Public>,
    ) -> Result<(Reached, Response<Incoming>), Objection> {
        let open = self.line().take().filter(|reached| reached.line.is_open());
        if let Some(mut reached) = open {
            self.pass_interims(&mut request, &reached.names, public);
            match reached.line.ask(request).await {
                Ok(response) => return Ok((reached, response)),
                Err(Lost::Unsent(unsent)) => request = *unsent,
                Err(lost) => return Err(told(&lost)),
            }
        }
        let mut reached = self.dial().await.map_err(|failure| {
            if self.log.admits(LogKind::RequestFailed) {
                tracing::info!(id = self.id, "backend: {}", failure.reason);
            }
            match failure.refusal {
                Refusal::BackendLate => Objection::late(LATE),
                _ => Objection::of_backend("the backend can not be reached"),
            }
        })?;
        self.pass_interims(&mut request, &reached.names, public);
        match reached.line.ask(request).await {
            Ok(response) => Ok((reached, response)),
            Err(lost) => Err(told(&lost)),
        }
    }

    /// Tells that a field shows clients one of the backend's own names.
    fn tell(&self, field: &HeaderName) {
        if self.told.is_first(field.as_str()) {
            let line = "names the back-end, and goes to clients as it is";
            self.notices
                .warn(format!("service `{}`: the field `{field}` of its answers {line}", self.service));
        }
    }

    /// What the backend says before its answer goes on at once.
    fn pass_interims(&self, request: &mut Request<Payload>, names: &Arc<Names>, public: &Arc<Public>) {
        let (interims, names, public) = (self.interims.clone(), names.clone(), public.clone());
        on_informational(request, move |head| {
            let mut headers = head.headers().clone();
            names.clean(&mut headers, &public, |_| {});
            interims.say(head.status(), &headers);
        });
    }

    async fn dial(&self) -> Result<Reached, ConnectFailure> {
        self.over(direct::reach(&self.target, self.client).await?).await
    }

    async fn over(&self, stream: Stream) -> Result<Reached, ConnectFailure> {
        let reached = stream.tcp().and_then(|socket| {
            tcp::keep_edge_alive(socket);
            socket.peer_addr().ok()
        });
        let HttpRemote { remote, path, own_names, answer, .. } = &self.remote;
        let own = OwnNames::new(remote.at.host_without_zone(), remote.at.port, reached, own_names);
        let names = Arc::new(Names::new(own, path));
        let (line, going) =
            Line::over(stream, From::Outside, Some(*answer)).await.map_err(|error| ConnectFailure {
                who: Who::Backend,
                refusal: Refusal::BackendUnreachable,
                reason: format!("backend {}: {error}", remote.at),
            })?;
        self.sides.add(going);
        Ok(Reached { line, names })
    }
}

fn public(headers: &HeaderMap) -> Public {
    let bytes = |name| headers.get(name).map(|value| value.as_bytes().to_vec());
    Public {
        prefix: bytes(request::FORWARDED_PREFIX).unwrap_or_else(|| b"/".into()),
        host: bytes(header::HOST).unwrap_or_default(),
    }
}

/// The backend as requests name it that name no other.
fn authority(remote: &Remote) -> String {
    let default_port = if remote.tls.is_some() { 443 } else { 80 };
    let at = remote.at.to_string();
    if remote.at.port != default_port {
        return at;
    }
    at.rsplit_once(':').map_or(at.clone(), |(host, _)| host.to_owned())
}

const LATE: &str = "the backend did not answer in time";

fn told(lost: &Lost) -> Objection {
    match lost {
        Lost::Stopped => Objection::new(StatusCode::REQUEST_TIMEOUT, "the body of the request has stopped"),
        Lost::Late => Objection::late(LATE),
        Lost::Short => bad("the body of the request was cut"),
        Lost::Unsent(_) => Objection::of_backend(Flaw::Nothing.to_string()),
        Lost::Broken(flaw) => Objection::of_backend(flaw.to_string()),
    }
}
