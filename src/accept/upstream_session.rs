//! A session that the requests of a client connection are sent over.

use std::{sync::Arc, time::Duration};

use hyper::StatusCode;
use tokio::{sync::oneshot, time::timeout};

use super::{SessionOutcome, idle::IdleState, request_auth::RequestClient, teardown::error_response_for};
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
pub async fn failure_response(channel: UpstreamSession, lost: &ResponseFailure) -> RequestFailure {
    let (mut end, backend) = (None, channel.idle_state.backend());
    // The connection was cut, and learns that when it is next polled.
    if matches!(lost, ResponseFailure::BodyStalled | ResponseFailure::TimedOut) {
        channel.failure_sender.report_timeout();
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
            drop(channel.connection);
            match timeout(OUTCOME_GRACE_PERIOD, channel.outcome).await {
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
    RequestFailure { response, session: Some(channel.id), end, backend }
}

/// The failure of a session whose answer cannot be passed on.
pub fn unreadable(channel: UpstreamSession) -> RequestFailure {
    let response = ErrorResponse::new(StatusCode::BAD_GATEWAY, "the service's answer is no HTTP/1.1");
    let backend = channel.idle_state.backend();
    RequestFailure { response, session: Some(channel.id), end: Some("BR".into()), backend }
}

/// An id for a new session.
pub fn session_id() -> String {
    format!("{:012x}", fastrand::u64(..) >> 16)
}
