//! A session that the requests of a client connection are sent over, and those of a connection that are idle.
//! The requests of a connection come one after another, so one session is busy at most; the others wait here for the
//! next request of their client to their service.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hyper::StatusCode;
use tokio::{sync::oneshot, time::timeout};

use super::{
    SessionOutcome, idle_permit::IdleState, request_auth::RequestClient, teardown::error_response_for,
};
use crate::{
    http::{
        error_response::{ErrorResponse, bad_request},
        upstream::{ResponseFailure, UpstreamConnection},
    },
    net::pipe::PipeFailureSender,
    profile::ServiceName,
};

/// How long a client may take to read an error response, and a session to end.
pub const OUTCOME_GRACE_PERIOD: Duration = Duration::from_secs(1);

/// A session that requests are sent over.
pub struct UpstreamSession {
    pub service: ServiceName,
    /// The client whose requests these are; one proxy may send requests of many.
    pub client: RequestClient,
    pub id: String,
    pub connection: UpstreamConnection,
    pub failure_sender: PipeFailureSender,
    pub outcome: oneshot::Receiver<SessionOutcome>,
    pub idle_state: Arc<IdleState>,
}

/// The most sessions of one connection; past that the one that was idle longest is closed.
const SESSIONS_MAX: usize = 8;

/// The idle sessions of one client connection; the one used last comes last.
#[derive(Default)]
pub struct IdleSessions(Mutex<Vec<UpstreamSession>>);

impl IdleSessions {
    /// The session of a service for this client, busy from now on, if it is still open.
    pub fn take(&self, service: &ServiceName, client: &RequestClient) -> Option<UpstreamSession> {
        let mut sessions = self.lock();
        let is_it = |session: &UpstreamSession| session.service == *service && session.client == *client;
        let at = sessions.iter().position(is_it)?;
        let session = sessions.remove(at);
        (session.connection.is_open() && session.idle_state.try_mark_busy()).then_some(session)
    }

    pub fn put(&self, session: UpstreamSession) {
        self.lock().push(session);
    }

    /// Closes the oldest session if there are as many as a connection may have.
    pub fn make_room(&self) {
        let mut sessions = self.lock();
        if sessions.len() >= SESSIONS_MAX {
            sessions.remove(0);
        }
    }

    /// Closes the sessions that have given up their permits.
    pub fn close_reclaimed(&self) {
        self.lock().retain(|session| !session.idle_state.is_reclaimed());
    }

    pub fn close_all(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<UpstreamSession>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request for which there was no answer from a backend.
pub struct RequestFailure {
    /// The response for the client.
    pub response: ErrorResponse,
    pub session: Option<String>,
    /// How its session has ended, if known.
    pub end: Option<String>,
    /// The backend that it was sent to, if this half knows it.
    pub backend: Option<Arc<str>>,
}

impl From<ErrorResponse> for RequestFailure {
    fn from(response: ErrorResponse) -> Self {
        Self { response, session: None, end: None, backend: None }
    }
}

/// Makes the response for a request that got none from its session. If the session has ended, it knows why.
pub async fn failure_response(session: UpstreamSession, lost: &ResponseFailure) -> RequestFailure {
    let (mut end, backend) = (None, session.idle_state.backend());
    // The connection was cut, and learns that when it is next polled.
    if matches!(lost, ResponseFailure::BodyStalled | ResponseFailure::TimedOut) {
        session.failure_sender.report_timeout();
    }
    let response = match lost {
        ResponseFailure::BodyStalled => {
            ErrorResponse::new(StatusCode::REQUEST_TIMEOUT, "the body of the request has stopped")
        }
        ResponseFailure::TimedOut => {
            ErrorResponse::new(StatusCode::GATEWAY_TIMEOUT, "the service did not answer in time")
        }
        ResponseFailure::BodyCut => bad_request("the body of the request was cut"),
        ResponseFailure::Unanswered | ResponseFailure::Invalid(_) | ResponseFailure::Unsent(_) => {
            drop(session.connection);
            match timeout(OUTCOME_GRACE_PERIOD, session.outcome).await {
                Ok(Ok(outcome)) => {
                    end = Some(outcome.end.code());
                    error_response_for(&outcome)
                }
                Ok(Err(_)) | Err(_) => {
                    ErrorResponse::new(StatusCode::BAD_GATEWAY, "the service ended before it had answered")
                }
            }
        }
    };
    RequestFailure { response, session: Some(session.id), end, backend }
}

/// The failure of a session whose answer cannot be passed on.
pub fn unreadable(session: UpstreamSession) -> RequestFailure {
    let response = ErrorResponse::new(StatusCode::BAD_GATEWAY, "the service's answer is not HTTP/1.1");
    let backend = session.idle_state.backend();
    RequestFailure { response, session: Some(session.id), end: Some("BR".into()), backend }
}

/// An id for a new session.
pub fn session_id() -> String {
    format!("{:012x}", fastrand::u64(..) >> 16)
}
