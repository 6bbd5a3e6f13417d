//! The responses that the gateway makes itself: a status, and one line that reveals no more than the session's id. The
//! session's id leads an operator to the cause in the log, which a client does not get to see.

use std::{borrow::Cow, time::Duration};

use hyper::{
    Response, StatusCode,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};

use super::body::MessageBody;
use crate::{
    net::pipe::{FailureOrigin, PipeFailure},
    proto::Refusal,
};

/// The header that tells the DMZ half, and nobody else, why the internal half could not answer.
const FAILURE: HeaderName = HeaderName::from_static("x-portcullis-failure");

/// The answer to a head that was not complete in time, which hyper has not read.
pub const LATE_HEAD: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Type: text/plain\r\n\
    Content-Length: 22\r\n\r\nthe request came late\n";

/// The methods that are supported.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// The answer to a question about the server as a whole (`OPTIONS *`; RFC 9110, section 9.3.7).
pub fn options_response() -> Response<MessageBody> {
    let mut response = Response::new(MessageBody::empty());
    response.headers_mut().insert(header::ALLOW, METHODS);
    response
}

/// The response to a request for something that does not exist here.
pub fn no_such_service() -> ErrorResponse {
    ErrorResponse::new(StatusCode::NOT_FOUND, "there is no such service")
}

/// The response to a request that is not forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorResponse {
    pub status: StatusCode,
    pub reason: Cow<'static, str>,
    /// Whose failure it is, if the session ends with it.
    pub party: Option<FailureOrigin>,
    /// When the request may be repeated, if known.
    pub retry_after: Option<Duration>,
    /// What an unknown client has to show.
    pub challenge: Option<Box<HeaderValue>>,
    after: AfterResponse,
}

/// The fate of the client's connection after the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AfterResponse {
    /// A client error closes it, since a broken client would only go on; a missing page does not.
    ByStatus,
    /// It stays open: the request was in order, and the next one may come from another client.
    Stays,
}

pub const BACKEND_LATE: &str = "the backend did not answer in time";

pub fn bad_request(reason: &'static str) -> ErrorResponse {
    ErrorResponse::new(StatusCode::BAD_REQUEST, reason)
}

impl ErrorResponse {
    pub fn new(status: StatusCode, reason: impl Into<Cow<'static, str>>) -> Self {
        let after = AfterResponse::ByStatus;
        Self { status, reason: reason.into(), party: None, retry_after: None, challenge: None, after }
    }

    /// For a request whose backend was not reached.
    pub fn unreached_backend(refusal: Refusal) -> Self {
        match refusal {
            Refusal::BackendLate => Self::gateway_timeout(BACKEND_LATE),
            Refusal::ServiceDown => Self::new(StatusCode::SERVICE_UNAVAILABLE, "none of the backends is up"),
            Refusal::BackendRefused
            | Refusal::BackendUnreachable
            | Refusal::UnknownService
            | Refusal::NotAllowed
            | Refusal::Full
            | Refusal::Draining
            | Refusal::Unavailable
            | Refusal::OtherLink => Self::bad_gateway("the backend cannot be reached"),
        }
    }

    /// For a client that sent a proper request but may not have what it asked for, or not before some time.
    pub fn refused_client(status: StatusCode, reason: &'static str, retry_after: Option<Duration>) -> Self {
        Self { retry_after, after: AfterResponse::Stays, ..Self::new(status, reason) }
    }

    /// The backend has failed.
    pub fn bad_gateway(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { party: Some(FailureOrigin::Backend), ..Self::new(StatusCode::BAD_GATEWAY, reason) }
    }

    /// The backend has failed too, as noticed by a timeout of ours.
    pub fn gateway_timeout(reason: &'static str) -> Self {
        Self { party: Some(FailureOrigin::Timeout), ..Self::new(StatusCode::GATEWAY_TIMEOUT, reason) }
    }

    /// What the session ends with.
    pub fn failure(&self) -> Option<PipeFailure> {
        self.party.map(|party| PipeFailure { party, reason: self.reason.clone().into_owned() })
    }

    /// The answer for the other half. After it, this half ends the session if that has failed.
    pub fn into_peer_response(self, session: &str) -> Response<MessageBody> {
        let failure = self.failure();
        let mut response = self.into_response(Some(session));
        if let Some(failure) = failure {
            write_failure(&failure, response.headers_mut());
        }
        response
    }

    /// The answer, with the id of its session, if there is one.
    pub fn into_response(self, session: Option<&str>) -> Response<MessageBody> {
        let session = session.map(|id| format!("session {id}\n")).unwrap_or_default();
        let mut response = Response::new(MessageBody::text(format!("{}\n{session}", self.reason)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        match self.status {
            StatusCode::UPGRADE_REQUIRED => {
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(header::ALLOW, METHODS);
            }
            _ => {}
        }
        if let Some(challenge) = self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, *challenge);
        }
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, whole_seconds(wait).into());
        }
        let is_over = match self.after {
            AfterResponse::ByStatus => self.status.is_client_error() && self.status != StatusCode::NOT_FOUND,
            AfterResponse::Stays => false,
        };
        if is_over || self.status == StatusCode::NOT_IMPLEMENTED {
            headers.append(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Rounds up to whole seconds.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

fn write_failure(failure: &PipeFailure, headers: &mut HeaderMap) {
    let word = match failure.party {
        FailureOrigin::Backend => BACKEND,
        FailureOrigin::Timeout => TIME,
    };
    // A reason must be one line of visible characters; otherwise it is left out.
    if let Ok(value) = HeaderValue::from_str(&format!("{word} {}", failure.reason)) {
        headers.insert(FAILURE, value);
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

const BACKEND: &str = "backend";
const TIME: &str = "time";

/// Takes the other half's report of a failure out of the head, since it is not meant for others.
pub fn take_failure(headers: &mut HeaderMap) -> Option<PipeFailure> {
    let value = headers.remove(FAILURE)?;
    let (word, reason) = std::str::from_utf8(value.as_bytes()).ok()?.split_once(' ')?;
    let party = match word {
        BACKEND => FailureOrigin::Backend,
        TIME => FailureOrigin::Timeout,
        _ => return None,
    };
    Some(PipeFailure { party, reason: reason.chars().take(REASON_MAX).collect() })
}

/// The other half may be another program.
const REASON_MAX: usize = 200;
