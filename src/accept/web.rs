//! Clients that begin with an HTTP request: one [`ClientConnection`] for the whole life of the connection.
//!
//! Each request names a service of the port by its host and path. A WebSocket whose frames are decoded here
//! turns the connection into a session. A request for a service that carries HTTP is cleaned and sent over a
//! session of that service. The session stays open for further requests of the same client; two clients never
//! share one. A request that is refused gets an answer that says why, and the connection stays open.

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
    header::{self, HeaderValue},
    service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use tokio::{sync::oneshot, time::timeout};

use super::{
    ServeSession, SessionRequest,
    idle_permit::{BusyGuard, IdleReclaim, IdleState},
    refused_client::refuse_client,
    request_auth::{RequestClient, identify_client},
    request_routing::{client_of, find_route, wanted_upgrade},
    request_trail::RequestTrail,
    routes::{AdmittedClient, HttpRoute, WebClient, WebKind},
    tcp::{RouteLifetime, session_request},
    teardown::{close_connection, drive_until_closed},
    upgrade::{UpgradedSocket, UpgradedTo, accept_link, downgrade_client, hand_over, web_socket_session},
    upstream_session::{
        IdleSessions, OUTCOME_GRACE_PERIOD, RequestFailure, UpstreamSession, failure_response, session_id,
        unreadable,
    },
};
use crate::{
    admission::{
        arrivals::ClientArrival,
        clients::{ClientAdmission, ClientPermit},
        handshakes::HandshakePermit,
    },
    auth::{self, AuthHead},
    http::{
        HeadSource,
        body::{BodyProgress, MessageBody, ends_connection},
        checked_stream::CheckedStream,
        driver::{self, CloseSignal, ConnectionDrivers},
        error_response::{self, ErrorResponse, bad_request},
        fields::{self, HeadOrigin, UpgradeProtocols},
        flushed::FlushTracker,
        framing,
        interim::{InterimPolicy, InterimResponses, InterimStream},
        keep_alive::{ConnectionPhase, ExchangeGuard, KeepAliveTracker, PhaseTimer},
        link_upgrade,
        request::{self, ForwardedHeaders, RequestName},
        upstream::{ResponseFailure, UpstreamConnection},
        websocket,
    },
    net::{certificate_watch::RevocationSignal, pipe::pipe, prefixed::PrefixedStream, stream::NetStream},
    profile::{ServiceName, defaults},
    proto::multiplex::open::ClientOrigin,
};

/// A client connection, shared by all of its requests.
struct ClientConnection {
    client: SocketAddr,
    origin: Box<ClientOrigin>,
    forwarded: ForwardedHeaders,
    routes: Arc<Vec<HttpRoute>>,
    serve: ServeSession,
    lifetime: RouteLifetime,
    drivers: ConnectionDrivers,
    tracker: Arc<KeepAliveTracker>,
    interims: InterimResponses,
    flushes: FlushTracker,
    idle_sessions: IdleSessions,
    upgraded: Mutex<Option<UpgradedTo>>,
    /// Where hyper leaves the connection when it ends, if a request has asked for an upgrade.
    downstream_upgrade: Mutex<Option<OnUpgrade>>,
    /// Signals that idle sessions have been reclaimed.
    reclaim: Arc<IdleReclaim>,
    /// Set when the client has left in the middle of an exchange, which is a cut.
    is_cut: Arc<AtomicBool>,
    /// How long the connection stays open without a request, according to the service that was used last.
    keep_alive: Mutex<Duration>,
    /// Held until a service has let it in.
    handshake_permit: Mutex<Option<HandshakePermit>>,
    /// Held until its first request has a session, or an answer without one.
    arrival: Mutex<Option<ClientArrival>>,
    /// Signals that the client's certificate is revoked.
    revocation: RevocationSignal,
}

/// The parts of a request that are needed to handle its response.
struct SentRequest {
    method: Method,
    wanted: Option<HeaderValue>,
    body_progress: Option<Arc<BodyProgress>>,
}

const UNENCODED: &str = "its target has signs that have to be percent-encoded, such as %22 %23 %3C %3E";

/// Serves a client until it leaves. Returns the session that its connection has become, if any.
pub async fn serve(
    client_stream: WebClient,
    serve: ServeSession,
    lifetime: RouteLifetime,
    (handshake, arrival): (HandshakePermit, ClientArrival),
) -> Option<SessionRequest> {
    let WebClient { client, stream, prefix, routes, is_tls, origin } = client_stream;
    let connection = Arc::new(ClientConnection {
        client,
        origin,
        forwarded: ForwardedHeaders::new(client.ip(), is_tls),
        routes,
        serve,
        lifetime,
        drivers: ConnectionDrivers::default(),
        tracker: Arc::default(),
        interims: InterimResponses::default(),
        flushes: FlushTracker::default(),
        idle_sessions: IdleSessions::default(),
        upgraded: Mutex::default(),
        downstream_upgrade: Mutex::default(),
        reclaim: Arc::default(),
        is_cut: Arc::default(),
        keep_alive: Mutex::new(defaults::KEEP_ALIVE),
        handshake_permit: Mutex::new(Some(handshake)),
        arrival: Mutex::new(Some(arrival)),
        revocation: stream.revocation(),
    });
    connection.serve_requests(stream, prefix).await;
    // Each session sees an end.
    connection.idle_sessions.close_all();
    let upgraded = lock(&connection.upgraded).take();
    // A connection that takes too long is cut; what is passed on uses a session that stays.
    if !matches!(upgraded, Some(UpgradedTo::Passed(..))) {
        let _ = timeout(OUTCOME_GRACE_PERIOD, connection.drivers.all_ended()).await;
    }
    let io = lock(&connection.downstream_upgrade).take();
    match upgraded {
        None => None,
        Some(UpgradedTo::Passed(there, closed_at)) => {
            connection.drivers.add(Box::pin(hand_over(io, (there, closed_at), client)));
            let drivers = connection.drivers.clone();
            drop(connection);
            drivers.all_ended().await;
            None
        }
        Some(UpgradedTo::Link(endpoint)) => {
            // From here on it counts among the links' handshakes.
            lock(&connection.handshake_permit).take();
            accept_link(&endpoint, io, client).await;
            None
        }
        Some(UpgradedTo::Socket(socket)) => {
            web_socket_session(*socket, io, &connection.origin, &connection.reclaim).await
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ClientConnection {
    /// Serves requests until one has turned the connection into something else, or it ends.
    async fn serve_requests(self: &Arc<Self>, stream: NetStream, prefix: Vec<u8>) {
        let checked =
            CheckedStream::new(PrefixedStream { prefix: prefix.into(), stream }, self.tracker.clone());
        let checked = InterimStream::new(checked, self.interims.clone(), self.flushes.clone());
        let service = {
            let connection = self.clone();
            service_fn(move |request| {
                let connection = connection.clone();
                async move { Ok::<_, Infallible>(connection.answer_request(request).await) }
            })
        };
        let mut served = Box::pin(
            driver::server_builder(HeadSource::Outside)
                .serve_connection(TokioIo::new(checked), service)
                .with_upgrades(),
        );
        let (mut watch, mut timed_out) = (PhaseTimer::begin(), None);
        let evicted = lock(&self.handshake_permit).as_ref().map(|handshake| handshake.evicted.clone());
        let mut evicted = evicted.map(|evicted| Box::pin(evicted.cancelled_owned()));
        let given_up = lock(&self.arrival).as_ref().map(ClientArrival::ended).unwrap_or_default();
        let (mut leaving, mut given_up) =
            (CloseSignal::new(self.lifetime.leave.clone()), CloseSignal::new(given_up));
        let mut revoked = Box::pin(self.revocation.given());
        let ended = driver::serve(served.as_mut(), &self.drivers, |mut served, cx| {
            if revoked.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            // A client that has just connected still gets its first answer, which then ends the connection.
            let is_over = leaving.poll(cx) && lock(&self.arrival).is_none();
            if given_up.poll(cx) || is_over {
                served.as_mut().graceful_shutdown();
            }
            let is_evicted = evicted.as_mut().is_some_and(|evicted| evicted.as_mut().poll(cx).is_ready());
            if is_evicted && lock(&self.handshake_permit).is_some() {
                timed_out = Some(ConnectionPhase::Head);
                return Poll::Ready(Ok(()));
            }
            if self.reclaim.poll(cx) {
                self.idle_sessions.close_reclaimed();
                // With nothing under way, the connection ends with them.
                if self.tracker.phase() == ConnectionPhase::Idle {
                    served.as_mut().graceful_shutdown();
                    cx.waker().wake_by_ref();
                }
            }
            match watch.poll(&self.tracker, *lock(&self.keep_alive), cx) {
                Poll::Ready(phase) => {
                    timed_out = Some(phase);
                    Poll::Ready(Ok(()))
                }
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        let is_busy = self.tracker.phase() == ConnectionPhase::Exchange;
        self.is_cut.store(is_busy, Ordering::Relaxed);
        let io = match Pin::into_inner(served).into_parts() {
            Some(parts) => Some(parts.io.into_inner().into_inner()),
            // A requested upgrade did not happen.
            None if lock(&self.upgraded).is_none() => {
                let io = lock(&self.downstream_upgrade).take();
                downgrade_client(io).await.ok()
            }
            None => None,
        };
        let io = io.filter(|_| !self.revocation.is_given());
        close_connection(io, ended, timed_out, (self.client, &self.lifetime.log)).await;
    }

    async fn answer_request(self: Arc<Self>, mut request: Request<Incoming>) -> Response<MessageBody> {
        let exchange = self.tracker.begin_exchange();
        let version = request.version();
        if request.headers().contains_key(header::UPGRADE) || request.method() == Method::CONNECT {
            *lock(&self.downstream_upgrade) = Some(hyper::upgrade::on(&mut request));
        }
        let mut trail = RequestTrail::begin(&self.lifetime.access, self.client, &self.origin, &request);
        let response = match self.forward_request(request, &exchange, &mut trail).await {
            Ok(response) => response,
            Err(failure) => {
                trail.note_failure(&failure);
                let RequestFailure { response: refusal, session, .. } = failure;
                let why = format!("{}: {}", refusal.status, refusal.reason);
                self.lifetime.log.reject_client(self.client, &why);
                refusal.into_response(session.as_deref())
            }
        };
        if let Some(service) = &trail.service {
            self.lifetime.requests.add(service, response.status().as_u16());
        }
        self.interims.flushed().await;
        lock(&self.arrival).take();
        let (mut response, unwritten) = trail.answer(response);
        if let Some(UpgradedTo::Socket(socket)) = &mut *lock(&self.upgraded) {
            socket.record = unwritten;
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return response;
        }
        self.tracker.note_not_upgraded();
        if self.lifetime.is_over() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        framing::adapt_to_version(version, &mut response);
        response
    }

    async fn forward_request(
        &self,
        request: Request<Incoming>,
        exchange: &ExchangeGuard,
        trail: &mut RequestTrail,
    ) -> Result<Response<MessageBody>, RequestFailure> {
        if self.tracker.is_refused() {
            return Err(bad_request(UNENCODED).into());
        }
        let host = request::check_request(&request)?;
        if request.uri().path() == "*" {
            return Ok(error_response::options_response());
        }
        if let Some(endpoint) = self.lifetime.endpoints.find(request.uri().path()) {
            let response = link_upgrade::grant_upgrade(&request)?;
            *lock(&self.upgraded) = Some(UpgradedTo::Link(Box::new(endpoint)));
            return Ok(response);
        }
        let route = find_route(&self.routes, &request, &host)?;
        let (address, by) = client_of(self.client, self.forwarded.clone(), route, request.headers());
        let mut client = RequestClient::of_connection(address, self.origin.user.clone());
        trail.note_service(&route.service, address);
        *lock(&self.keep_alive) = route.web.keep_alive;
        if let Err(refused) = self.lifetime.gates.check(&route.service, address.ip()) {
            return Err(refuse_client(&self.serve, &route.service, &client, refused).await);
        }
        let head = AuthHead { method: request.method(), uri: request.uri(), headers: request.headers() };
        let identified = identify_client(&mut client, route, head, &self.lifetime, &self.serve).await;
        trail.note_user(client.user.as_ref());
        identified?;
        if route.web_kind == WebKind::Frames {
            let response = websocket::grant_upgrade(&request, route.web.protocols.as_deref())?;
            return self.begin_web_socket(route, client, response, trail).await;
        }
        let (mut parts, body) = request.into_parts();
        if let Some(requested) = &route.web.auth {
            auth::remove_credential(requested, &mut parts);
        }
        let body = MessageBody::request(body, HeadOrigin::Client, Some(route.web.body));
        let body = trail.count_request(body);
        let wanted = wanted_upgrade(route, &parts, body.progress().is_some())?;
        client.is_web_socket = client.expires.is_some() && request::is_websocket(wanted.as_ref());
        let passed = InterimPolicy::for_request(&parts);
        let by = by.with_user(client.user.as_ref().map(|user| &*user.name));
        request::clean_request(&mut parts, wanted.clone(), &by, &route.path, &route.web.hosts);
        framing::frame_request(&mut parts.headers, &body);
        let requested = SentRequest { method: parts.method.clone(), wanted, body_progress: body.progress() };
        let mut request = Request::from_parts(parts, body);
        if let Some(passed) = passed {
            self.interims.pass_those_of(&mut request, passed);
        }
        let (session, response) = self.send_request(route, client, request).await?;
        trail.note_session(&session.id, Some(&session.idle_state));
        self.clean_response(session, response, requested, exchange, trail)
    }

    /// Turns the connection into a session that carries the payload of its frames.
    async fn begin_web_socket(
        &self,
        route: &HttpRoute,
        client: RequestClient,
        response: Response<MessageBody>,
        trail: &mut RequestTrail,
    ) -> Result<Response<MessageBody>, RequestFailure> {
        let permit = self.enter(&route.service, &client).await?;
        let id = session_id();
        trail.note_session(&id, None);
        let arrival = lock(&self.arrival).take();
        let socket = UpgradedSocket { route: route.clone(), client, id, permit, record: None, arrival };
        *lock(&self.upgraded) = Some(UpgradedTo::Socket(Box::new(socket)));
        lock(&self.handshake_permit).take();
        Ok(response)
    }

    /// Prepares a backend's answer for the client.
    fn clean_response(
        &self,
        session: UpstreamSession,
        mut response: Response<Incoming>,
        sent: SentRequest,
        exchange: &ExchangeGuard,
        trail: &mut RequestTrail,
    ) -> Result<Response<MessageBody>, RequestFailure> {
        let there = hyper::upgrade::on(&mut response);
        let (mut head, body) = response.into_parts();
        head.version = Version::HTTP_11;
        if let Some(failure) = error_response::take_failure(&mut head.headers) {
            trail.note_session_failed();
            session.failure_sender.report_failure(failure);
        }
        let is_coded = framing::frame_response(&mut head, &sent.method, &body).is_err();
        let (protocols, is_last) = (
            UpgradeProtocols::from_response(&head),
            ends_connection(&head.headers, sent.body_progress.as_deref()),
        );
        fields::clean_headers(&mut head.headers, HeadOrigin::Response);
        protocols.write_to(&mut head.headers);
        if is_last {
            head.headers.append(header::CONNECTION, HeaderValue::from_static("close"));
        }
        match (head.status, sent.wanted) {
            (StatusCode::SWITCHING_PROTOCOLS, Some(_)) => {
                *lock(&self.upgraded) = Some(UpgradedTo::Passed(there, session.client.closes(&head.headers)));
                Ok(Response::from_parts(head, MessageBody::empty()))
            }
            (_, _) if is_coded => Err(unreadable(session)),
            (StatusCode::SWITCHING_PROTOCOLS, None) => Err(unreadable(session)),
            (_, _) => {
                let work = BusyGuard::new(&session.idle_state);
                self.idle_sessions.put(session);
                let body = MessageBody::response(body, self.flushes.clone());
                Ok(Response::from_parts(head, body.with_guard(Box::new((exchange.into_body_guard(), work)))))
            }
        }
    }

    /// Sends a request, over a new session if there is none or the last one has ended.
    async fn send_request(
        &self,
        route: &HttpRoute,
        client: RequestClient,
        mut request: Request<MessageBody>,
    ) -> Result<(UpstreamSession, Response<Incoming>), RequestFailure> {
        let name = RequestName::of(request.headers());
        if let Some(mut session) = self.idle_sessions.take(&route.service, &client) {
            request::set_request_id(request.headers_mut(), name, &session.id);
            match session.connection.send(request).await {
                Ok(response) => return Ok((session, response)),
                Err(ResponseFailure::Unsent(unsent)) => request = *unsent,
                Err(lost) => return Err(failure_response(session, &lost).await),
            }
        }
        let mut session = self.open_session(&route.service, client).await?;
        request::set_request_id(request.headers_mut(), name, &session.id);
        match session.connection.send(request).await {
            Ok(response) => Ok((session, response)),
            Err(lost) => Err(failure_response(session, &lost).await),
        }
    }

    /// Checks whether a client may have one more session.
    async fn enter(
        &self,
        service: &ServiceName,
        client: &RequestClient,
    ) -> Result<ClientPermit, RequestFailure> {
        match self.lifetime.gates.enter(service, client.address.ip()) {
            Ok(permit) => Ok(permit),
            Err(refused) => Err(refuse_client(&self.serve, service, client, refused).await),
        }
    }

    /// Begins a session.
    async fn open_session(
        &self,
        service: &ServiceName,
        client: RequestClient,
    ) -> Result<UpstreamSession, RequestFailure> {
        let admission = ClientAdmission::Admitted(self.enter(service, &client).await?);
        let (ours, theirs) = pipe();
        let failure_sender = ours.failure_sender();
        let (outcome_sender, outcome) = oneshot::channel();
        let id = session_id();
        let entered = AdmittedClient {
            client: client.address,
            service: service.clone(),
            stream: NetStream::Pipe(Box::new(theirs.with_revocation(self.revocation.clone()))),
            prefix: Vec::new(),
            origin: client.origin(&self.origin),
            admission,
        };
        let idle_state = IdleState::new_busy(&self.reclaim);
        let requested = SessionRequest {
            id: Some(id.clone()),
            outcome_sender: Some(outcome_sender),
            idle_state: Some(idle_state.clone()),
            expires: client.cut_at(),
            arrival: lock(&self.arrival).take(),
            ..session_request(entered)
        };
        let unserved =
            |_| ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, "the service cannot be reached");
        let (connection, going) =
            UpstreamConnection::handshake(ours.gathered(), HeadSource::Peer, None).await.map_err(unserved)?;
        lock(&self.handshake_permit).take();
        self.drivers.add(drive_until_closed(going, (self.serve)(requested), self.is_cut.clone()));
        self.idle_sessions.make_room();
        Ok(UpstreamSession {
            service: service.clone(),
            client,
            id,
            connection,
            failure_sender,
            outcome,
            idle_state,
        })
    }
}
