//! What we answer ourselves: a status, and a line that names no more than the session.

use hyper::{
    Response, StatusCode,
    header::{self, HeaderValue},
};

use super::payload::Payload;

/// The answer to a head that was not complete in time, which hyper has not read.
pub const LATE_HEAD: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Type: text/plain\r\n\
    Content-Length: 22\r\n\r\nthe request came late\n";

/// The methods that are served.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// The answer to one who asks about the port as a whole (`OPTIONS *`; RFC 9110, section 9.3.7).
pub fn options() -> Response<Payload> {
    let mut response = Response::new(Payload::empty());
    response.headers_mut().insert(header::ALLOW, METHODS);
    response
}

/// Why a request goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Objection {
    pub status: StatusCode,
    pub told: &'static str,
}

pub fn bad(told: &'static str) -> Objection {
    Objection { status: StatusCode::BAD_REQUEST, told }
}

impl Objection {
    pub fn new(status: StatusCode, told: &'static str) -> Self {
        Self { status, told }
    }

    /// The answer, with the id of the session that it is about, if there is one.
    pub fn answer(self, session: Option<&str>) -> Response<Payload> {
        let session = session.map(|id| format!("session {id}\n")).unwrap_or_default();
        let mut response = Response::new(Payload::text(format!("{}\n{session}", self.told)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        match self.status {
            StatusCode::UPGRADE_REQUIRED => {
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
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
        // Who asks for what can not be has nothing more to ask; a page that is not there is another matter.
        let is_over = self.status.is_client_error() && self.status != StatusCode::NOT_FOUND;
        if is_over || self.status == StatusCode::NOT_IMPLEMENTED {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
