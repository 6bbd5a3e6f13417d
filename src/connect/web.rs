//! A backend that requests are sent to.
//!
//! The session's upstream side is a pipe. At its other end, the requests of one client are parsed as strictly
//! as if nobody had checked them before, and sent over an idle connection to the backend or a new one. If the
//! backend closes a used connection just as a request is sent, a request that may be repeated is sent again
//! over a new one. After an upgrade, the pipe becomes the backend's connection itself.

use std::{
    convert::Infallible,
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
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
use tokio::{io::AsyncWriteExt, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    ConnectFailure, ConnectRequest,
    backend_choice::BackendChoice,
    backend_connection::{BackendConnection, ConnectionSharing, proves_client},
    backend_group::BackendGroup,
    backend_member::BackendMember,
    idle_connections::{ConnectionUser, WantedConnection},
};
use crate::{
    http::{
        HeadSource, LINGER_TIMEOUT,
        body::{MessageBody, ends_connection},
        driver::{self, CloseSignal, ConnectionDrivers, DriverKey},
        error_response::{self, BACKEND_LATE, ErrorResponse, bad_request},
        fields::{HeadOrigin, UpgradeProtocols},
        flushed::FlushTracker,
        framing,
        interim::{InterimResponses, InterimStream},
        own_names::OwnNames,
        parse_error::ResponseParseError,
        request::{self, RequestedTarget},
        response::{NameMapping, PublicAddress},
        upstream::{ResponseFailure, UpstreamConnection},
    },
    net::{
        pipe::{FailureOrigin, PipeEnd, PipeFailure, PipeFailureSender, pipe},
        stream::NetStream,
        tcp,
    },
    profile::{HttpRemote, ServiceName},
    proto::{Refusal, multiplex::open::ClientOrigin},
    telemetry::{
        end::EndedBy,
        log::LogEvent,
        notices::{NoticeLog, ReportOnce},
        rate_limited::{LogKind, RateLimitedLog},
    },
};

/// Requests of one session.
struct BackendRequests {
    choice: BackendChoice,
    id: String,
    service: ServiceName,
    notices: Arc<NoticeLog>,
    reported: Arc<ReportOnce>,
    client: Option<SocketAddr>,
    origin: Box<ClientOrigin>,
    requests: Arc<AtomicU64>,
    drivers: ConnectionDrivers,
    log: Arc<RateLimitedLog>,
    user: ConnectionUser,
    /// The connection of its last request until it may be shared; taken out while a request is under way.
    connection: Mutex<Option<HeldConnection>>,
    /// Where hyper leaves the pipe when it ends, if a request has asked for an upgrade.
    downstream_upgrade: Mutex<Option<OnUpgrade>>,
    /// The backend's connection, if it has become something else.
    upstream_upgrade: Mutex<Option<OnUpgrade>>,
    /// Tells the session what has failed.
    failure_sender: PipeFailureSender,
    interims: InterimResponses,
    flushes: FlushTracker,
}

/// A connection that the session drives.
struct HeldConnection {
    member: Arc<BackendMember>,
    connection: BackendConnection,
    driver: DriverKey,
}

/// Connects the session's upstream side. The backend is dialled, unless a waiting connection of another session
/// can be used.
pub async fn connect_backend(
    group: &Arc<BackendGroup>,
    candidates: Vec<Arc<BackendMember>>,
    connect_request: &ConnectRequest<'_>,
) -> Result<NetStream, ConnectFailure> {
    static NEXT_USER: AtomicU64 = AtomicU64::new(0);
    let (downstream, upstream) = pipe();
    let requests = BackendRequests {
        choice: BackendChoice::new(group, connect_request.counters),
        id: connect_request.id.to_owned(),
        service: connect_request.service.clone(),
        notices: connect_request.notices.clone(),
        reported: connect_request.reported.clone(),
        client: connect_request.client,
        origin: connect_request.origin.without_alpn(),
        requests: connect_request.counters.count_requests(),
        drivers: ConnectionDrivers::default(),
        log: connect_request.log.clone(),
        user: ConnectionUser(NEXT_USER.fetch_add(1, Ordering::Relaxed)),
        connection: Mutex::default(),
        downstream_upgrade: Mutex::default(),
        upstream_upgrade: Mutex::default(),
        failure_sender: upstream.failure_sender(),
        interims: InterimResponses::default(),
        flushes: FlushTracker::default(),
    };
    let first = candidates.first().cloned();
    let waits = |cx: &mut Context<'_>| first.as_ref().is_some_and(|first| first.target.idle().has_any(cx));
    match (poll_fn(|cx| Poll::Ready(waits(cx))).await, &first) {
        (true, Some(first)) => requests.choice.take(first),
        _ => {
            let reached = requests.dial(candidates).await?;
            *requests.lock_connection() = Some(reached);
        }
    }
    let serving = Box::pin(serve(requests, upstream, connect_request.leave.clone()));
    Ok(NetStream::Pipe(Box::new(downstream.driven_by(serving))))
}

/// Serves the requests of one session until it ends.
async fn serve(requests: BackendRequests, pipe: PipeEnd, leave: CancellationToken) {
    let requests = Arc::new(requests);
    let sides = requests.drivers.clone();
    let service = {
        let requests = requests.clone();
        service_fn(move |request| {
            let requests = requests.clone();
            async move { Ok::<_, Infallible>(requests.answer_request(request).await) }
        })
    };
    let pipe = TokioIo::new(InterimStream::new(pipe, requests.interims.clone(), requests.flushes.clone()));
    let mut served =
        Box::pin(driver::server_builder(HeadSource::Peer).serve_connection(pipe, service).with_upgrades());
    let mut leaving = CloseSignal::new(leave);
    let ended = driver::serve(served.as_mut(), &sides, |served, cx| {
        requests.share_idle_connection();
        if leaving.poll(cx) {
            served.graceful_shutdown();
        }
        Poll::Pending
    })
    .await;
    let left = Pin::into_inner(served).into_parts();
    requests.share_idle_connection();
    // Of a connection that nobody else may use, the backend sees an end.
    *requests.lock_connection() = None;
    match ended {
        Ok(()) => {
            if let Some(parts) = left {
                drain_pipe(parts.io.into_inner().into_inner()).await;
            }
        }
        Err(error) => {
            tracing::debug!(event = %LogEvent::RequestsEnded, id = requests.id, "the requests of a session have ended: {error}");
            if error.is_user() {
                let reason = format!("the backend's answer was cut within its body: {}", error_cause(&error));
                requests.failure_sender.report_failure(PipeFailure { party: FailureOrigin::Backend, reason });
            }
        }
    }
    if let Err(error) = requests.hand_over_upgrade().await {
        tracing::debug!(event = %LogEvent::UpgradeLost, id = requests.id, "an upgraded connection was lost: {error}");
    }
    sides.all_ended().await;
}

/// The innermost cause of an error, in its own words.
fn error_cause(error: &hyper::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Reads and discards what is still coming of a request after an early answer. Ending at once would look like a
/// failure to the other end of the pipe, and could overtake the answer.
async fn drain_pipe(pipe: PipeEnd) {
    // Whoever does not stop by then is cut.
    let _ = timeout(LINGER_TIMEOUT, pipe.drain()).await;
}

type BackendServiceError = Box<dyn std::error::Error + Send + Sync>;

impl BackendRequests {
    /// Hands over the backend's connection after an upgrade, and ends the pipe if there was none.
    async fn hand_over_upgrade(&self) -> Result<(), BackendServiceError> {
        let Some(here) = self.downstream_upgrade.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        let there = self.upstream_upgrade.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Ok(here) = here.await else { return Ok(()) };
        let lost = "its connection was lost";
        let here = here.downcast::<TokioIo<InterimStream<PipeEnd>>>().map_err(|_| lost)?;
        let mut pipe = here.io.into_inner().into_inner();
        let Some(there) = there else {
            pipe.shutdown().await?;
            drain_pipe(pipe).await;
            return Ok(());
        };
        let (there, received) = UpstreamConnection::into_upgraded::<NetStream>(there).await?;
        Ok(pipe.hand_over(there, received, here.read_buf).await?)
    }

    fn lock_connection(&self) -> std::sync::MutexGuard<'_, Option<HeldConnection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves the connection of a finished exchange to whoever needs one next.
    fn share_idle_connection(&self) {
        let may_be_shared = |held: &mut HeldConnection| {
            held.connection.sharing == ConnectionSharing::Shared && held.connection.upstream.is_idle()
        };
        let Some(held) = self.lock_connection().take_if(may_be_shared) else { return };
        if let Some(driver) = self.drivers.take(held.driver) {
            held.member.target.idle().put(held.connection, driver, self.user);
        }
    }

    async fn answer_request(&self, request: Request<Incoming>) -> Response<MessageBody> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let passed = self.pass_request(request).await;
        self.interims.flushed().await;
        match passed {
            Ok(response) => response,
            Err(failure) => {
                if self.log.admits(LogKind::RequestFailed) {
                    tracing::info!(
                        event = %LogEvent::RequestFailed, id = self.id,
                        "request not answered by the backend: {}: {}",
                        failure.status,
                        failure.reason
                    );
                }
                if let Some(failure) = failure.failure() {
                    self.failure_sender.report_failure(failure);
                }
                failure.into_peer_response(&self.id)
            }
        }
    }

    async fn pass_request(
        &self,
        mut request: Request<Incoming>,
    ) -> Result<Response<MessageBody>, ErrorResponse> {
        if request.headers().contains_key(header::UPGRADE) || request.method() == Method::CONNECT {
            *self.downstream_upgrade.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(hyper::upgrade::on(&mut request));
        }
        request::check_request(&request)?;
        let (mut parts, body) = request.into_parts();
        let (body, method) = (MessageBody::request(body, HeadOrigin::Peer, None), parts.method.clone());
        let wanted =
            request::requested_upgrade(&parts.headers, parts.version).filter(|_| body.progress().is_none());
        if self.choice.takes_sockets_alone() && !request::is_websocket(wanted.as_ref()) {
            return Err(ErrorResponse::new(StatusCode::UPGRADE_REQUIRED, "only WebSockets are served here"));
        }
        let public = Arc::new(public_address(&parts.headers));
        request::clean_peer_request(&mut parts, wanted.clone());
        framing::frame_request(&mut parts.headers, &body);
        let progress = body.progress();
        let is_bound = wanted.is_some() || proves_client(&parts.headers, &header::AUTHORIZATION);
        let (mut reached, mut response) =
            self.send_request(Request::from_parts(parts, body), &public).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            if wanted.is_none() {
                return Err(ErrorResponse::bad_gateway("the backend switches to another protocol unasked"));
            }
            let there = hyper::upgrade::on(&mut response);
            *self.upstream_upgrade.lock().unwrap_or_else(PoisonError::into_inner) = Some(there);
            let (mut head, _) = response.into_parts();
            let protocols = UpgradeProtocols::from_response(&head);
            reached
                .connection
                .mapping
                .clean_response(&mut head.headers, &public, |field| self.report_own_name(field));
            protocols.write_to(&mut head.headers);
            return Ok(Response::from_parts(head, MessageBody::empty()));
        }
        let (mut head, body) = response.into_parts();
        let is_bound = is_bound || proves_client(&head.headers, &header::WWW_AUTHENTICATE);
        let has_proxy = reached.member.http().is_some_and(|http| http.remote.proxy.is_some());
        reached.connection.note_answer(is_bound || has_proxy);
        // That of the backend's connection may be older.
        head.version = Version::HTTP_11;
        // A backend must not use our own field for failures.
        error_response::take_failure(&mut head.headers);
        framing::frame_response(&mut head, &method, &body).map_err(|framing::UnsupportedCoding| {
            ErrorResponse::bad_gateway(ResponseParseError::Coded.to_string())
        })?;
        let (protocols, is_last) =
            (UpgradeProtocols::from_response(&head), ends_connection(&head.headers, progress.as_deref()));
        reached
            .connection
            .mapping
            .clean_response(&mut head.headers, &public, |field| self.report_own_name(field));
        protocols.write_to(&mut head.headers);
        if is_last {
            head.headers.append(header::CONNECTION, HeaderValue::from_static("close"));
        }
        *self.lock_connection() = Some(reached);
        Ok(Response::from_parts(head, MessageBody::response(body, self.flushes.clone())))
    }

    /// Sends a request over an open connection, or else over a new one.
    async fn send_request(
        &self,
        request: Request<MessageBody>,
        public: &Arc<PublicAddress>,
    ) -> Result<(HeldConnection, Response<Incoming>), ErrorResponse> {
        let (parts, body) = request.into_parts();
        let requested = RequestedTarget::of(&parts);
        let mut request = Request::from_parts(parts, body);
        let repeated = repeatable_head(&request);
        // A request that may not be repeated never uses a connection that somebody else has used last.
        let wanted = match repeated {
            Some(_) => WantedConnection::Any,
            None => WantedConnection::UsedBy(self.user),
        };
        if let Some(mut reached) = self.take_open(wanted).await {
            let was_used = reached.connection.sharing != ConnectionSharing::Fresh;
            self.prepare_request(&mut request, &requested, &reached, public);
            request = match (reached.connection.upstream.send(request).await, repeated) {
                (Ok(response), _) => return Ok((reached, response)),
                (Err(ResponseFailure::Unsent(unsent)), _) => *unsent,
                // The backend closed the connection just as the request came.
                (Err(ResponseFailure::Unanswered), Some(head)) if was_used => {
                    tracing::debug!(event = %LogEvent::RequestResent, id = self.id, "a request is sent again over a new connection");
                    Request::from_parts(head, MessageBody::empty())
                }
                (Err(lost), _) => return Err(error_response(&lost)),
            };
        }
        let mut reached = self.dial(self.choice.candidates(self.client.map(|client| client.ip()))).await.map_err(|failure| {
            if self.log.admits(LogKind::RequestFailed) {
                tracing::info!(event = %LogEvent::BackendUnreachable, id = self.id, "backend: {}", failure.reason);
            }
            ErrorResponse::unreached_backend(failure.refusal)
        })?;
        self.prepare_request(&mut request, &requested, &reached, public);
        match reached.connection.upstream.send(request).await {
            Ok(response) => Ok((reached, response)),
            Err(lost) => Err(error_response(&lost)),
        }
    }

    /// Turns it into a request for this backend.
    fn prepare_request(
        &self,
        request: &mut Request<MessageBody>,
        requested: &RequestedTarget,
        reached: &HeldConnection,
        public: &Arc<PublicAddress>,
    ) {
        let HeldConnection { member, connection, .. } = reached;
        let path = member.http().map_or("/", |http| &http.path);
        let backend = member.target.backend();
        if backend.remote().is_some_and(|remote| remote.at.unix().is_some()) {
            // A backend at a Unix socket has no host of its own; the profile gives it a name.
            request.headers_mut().remove(header::HOST);
        }
        requested.write_to(request, path, &backend.authority());
        self.forward_interims(request, &connection.mapping, public);
    }

    /// The session's own connection, or one that waits for a request.
    async fn take_open(&self, wanted: WantedConnection) -> Option<HeldConnection> {
        let own = self.lock_connection().take().filter(|held| held.connection.upstream.is_open());
        if own.is_some() {
            return own;
        }
        let member = self.choice.member().filter(|member| member.is_usable())?;
        let idle = poll_fn(|cx| Poll::Ready(member.target.idle().take(wanted, cx))).await?;
        Some(HeldConnection { member, connection: idle.connection, driver: self.drivers.add(idle.driver) })
    }

    /// Reports that a field shows clients one of the backend's own names.
    fn report_own_name(&self, field: &HeaderName) {
        if self.reported.is_first(field.as_str()) {
            let line = "names the backend, and goes to clients as it is";
            self.notices.warn(
                LogEvent::OwnNamePassed
                    .line(format!("service `{}`: the field `{field}` of its answers {line}", self.service)),
            );
        }
    }

    /// Interim responses of the backend are passed on at once.
    fn forward_interims(
        &self,
        request: &mut Request<MessageBody>,
        names: &Arc<NameMapping>,
        public: &Arc<PublicAddress>,
    ) {
        let (interims, names, public) = (self.interims.clone(), names.clone(), public.clone());
        on_informational(request, move |head| {
            let mut headers = head.headers().clone();
            names.clean_response(&mut headers, &public, |_| {});
            interims.push(head.status(), &headers);
        });
    }

    /// Connects to the first candidate that answers; the session then stays with it.
    async fn dial(&self, candidates: Vec<Arc<BackendMember>>) -> Result<HeldConnection, ConnectFailure> {
        let (member, stream) = self.choice.group.connect_first(candidates, self.client, &self.origin).await?;
        let failed = |error: &dyn std::fmt::Display| {
            let reason = format!("backend {}: {error}", member.target.backend());
            ConnectFailure::here(EndedBy::Backend, Refusal::BackendUnreachable, reason)
        };
        let Some(HttpRemote { remote, path, own_names, answer, .. }) = member.http() else {
            return Err(failed(&"it takes no requests"));
        };
        let reached = stream.tcp().and_then(|socket| {
            tcp::keep_edge_alive(socket);
            socket.peer_addr().ok()
        });
        let own = match remote.at.network() {
            Some(at) => OwnNames::new(at.host_without_zone(), at.port, reached, own_names),
            // It knows itself by the name that requests carry.
            None => OwnNames::new(&member.target.backend().authority(), 80, None, own_names),
        };
        let mapping = NameMapping::new(own, path);
        let handshake = UpstreamConnection::handshake(stream, HeadSource::Outside, Some(*answer));
        let (line, going) = handshake.await.map_err(|error| failed(&error))?;
        self.choice.take(&member);
        let connection = BackendConnection::new(line, mapping);
        Ok(HeldConnection { member: member.clone(), connection, driver: self.drivers.add(going) })
    }
}

/// The head to send again for a repeatable request (RFC 9110, section 9.2.2): its method allows it, and no body
/// is already on its way.
fn repeatable_head(request: &Request<MessageBody>) -> Option<hyper::http::request::Parts> {
    if !request.method().is_idempotent() || request.body().progress().is_some() {
        return None;
    }
    let mut again = Request::new(());
    (*again.method_mut(), *again.uri_mut()) = (request.method().clone(), request.uri().clone());
    (*again.version_mut(), *again.headers_mut()) = (request.version(), request.headers().clone());
    Some(again.into_parts().0)
}

fn public_address(headers: &HeaderMap) -> PublicAddress {
    let bytes = |name| headers.get(name).map(|value| value.as_bytes().to_vec());
    PublicAddress {
        prefix: bytes(request::FORWARDED_PREFIX).unwrap_or_else(|| b"/".into()),
        host: bytes(header::HOST).unwrap_or_default(),
    }
}

fn error_response(lost: &ResponseFailure) -> ErrorResponse {
    match lost {
        ResponseFailure::BodyStalled => {
            ErrorResponse::new(StatusCode::REQUEST_TIMEOUT, "the body of the request has stopped")
        }
        ResponseFailure::TimedOut => ErrorResponse::gateway_timeout(BACKEND_LATE),
        ResponseFailure::BodyCut => bad_request("the body of the request was cut"),
        ResponseFailure::Unanswered | ResponseFailure::Unsent(_) => {
            ErrorResponse::bad_gateway(ResponseParseError::Nothing.to_string())
        }
        ResponseFailure::Invalid(flaw) => ErrorResponse::bad_gateway(flaw.to_string()),
    }
}
