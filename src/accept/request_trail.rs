//! What is recorded about a request while it is served, for the access log. A request has several ways out, so what is
//! left to record is written when its response is dropped.

use std::{net::SocketAddr, sync::Arc};

use hyper::{
    Method, Request, Response, StatusCode, Version,
    header::{self, HeaderName},
};

use super::{idle_permit::IdleState, upstream_session::RequestFailure};
use crate::{
    http::body::{BodyTally, MessageBody},
    profile::ServiceName,
    proto::multiplex::open::{ClientOrigin, ProvenUser},
    telemetry::log::{AccessLog, AccessRecord},
};

/// What is recorded about one request. Without an access log it remembers only the service.
pub struct RequestTrail {
    pub service: Option<ServiceName>,
    record: Option<AccessRecord>,
    asks_head: bool,
    request_body: Option<Arc<BodyTally>>,
    /// The session that carries it.
    session: Option<Arc<IdleState>>,
    /// The response reports that the session failed; the end of the session has the cause.
    has_session_failed: bool,
}

impl RequestTrail {
    pub fn begin<B>(
        log: &AccessLog,
        client: SocketAddr,
        origin: &ClientOrigin,
        request: &Request<B>,
    ) -> Self {
        let version = if request.version() == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" };
        let mut record = log.begin(client, request.method().as_str(), request.uri().path(), version);
        if let Some(record) = &mut record {
            let text = |name: HeaderName| {
                let value = request.headers().get(name)?;
                Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
            };
            record.fields.user = origin.user.as_ref().map(|user| user.name.clone());
            (record.referer, record.agent) = (text(header::REFERER), text(header::USER_AGENT));
        }
        let asks_head = request.method() == Method::HEAD;
        Self {
            service: None,
            record,
            asks_head,
            request_body: None,
            session: None,
            has_session_failed: false,
        }
    }

    /// Records its service, and on whose behalf it comes.
    pub fn note_service(&mut self, service: &ServiceName, client: SocketAddr) {
        self.service = Some(service.clone());
        if let Some(record) = &mut self.record {
            record.set_client(client);
            record.fields.service = Some(service.to_string());
        }
    }

    /// Records who has sent it, if the request itself says so.
    pub fn note_user(&mut self, user: Option<&ProvenUser>) {
        if let Some(record) = &mut self.record {
            record.fields.user = user.map(|user| user.name.clone());
        }
    }

    pub fn note_session(&mut self, id: &str, session: Option<&Arc<IdleState>>) {
        self.session = session.cloned();
        if let Some(record) = &mut self.record {
            record.fields.session = Some(id.to_owned());
            record.fields.backend = session.and_then(|session| session.backend());
        }
    }

    /// Records that the other half has answered in the backend's place.
    pub fn note_session_failed(&mut self) {
        self.has_session_failed = true;
    }

    pub fn note_failure(&mut self, failure: &RequestFailure) {
        if let Some(record) = &mut self.record {
            let local = || local_end(failure.response.status).to_owned();
            record.fields.end = Some(failure.end.clone().unwrap_or_else(local));
            if failure.session.is_some() {
                record.fields.session = failure.session.clone();
                record.fields.backend = failure.backend.clone();
            }
        }
    }

    /// Counts the bytes of the request's body.
    pub fn count_request(&mut self, body: MessageBody) -> MessageBody {
        if self.record.is_none() {
            return body;
        }
        let tally = Arc::<BodyTally>::default();
        self.request_body = Some(tally.clone());
        body.with_tally(tally)
    }

    /// Wraps the answer that is about to be sent. The line is written once the answer was sent in full, or its
    /// connection has failed. A connection that was upgraded has its line written when its session ends; if
    /// there is no session yet, the record is returned.
    pub fn answer(self, response: Response<MessageBody>) -> (Response<MessageBody>, Option<AccessRecord>) {
        let Some(mut record) = self.record else { return (response, None) };
        let status = response.status();
        record.note_answer(status.as_u16());
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return match self.session {
                Some(session) => {
                    session.finish_with_session(record);
                    (response, None)
                }
                None => (response, Some(record)),
            };
        }
        let has_no_body =
            self.asks_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let tally = Arc::<BodyTally>::default();
        let sent = SentResponse {
            record: Some(record),
            has_no_body,
            request_body: self.request_body,
            body: tally.clone(),
            session: self.session,
            has_session_failed: self.has_session_failed,
        };
        (response.map(|body| body.with_tally(tally).with_guard(Box::new(sent))), None)
    }
}

/// The letters for an answer of our own, if no session has ended for it.
fn local_end(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND | StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => "XA",
        StatusCode::REQUEST_TIMEOUT => "TN",
        StatusCode::GATEWAY_TIMEOUT => "TR",
        StatusCode::TOO_MANY_REQUESTS => "LA",
        _ if status.is_client_error() => "CN",
        _ => "BC",
    }
}

/// A response that is being sent; dropped together with its body.
struct SentResponse {
    record: Option<AccessRecord>,
    has_no_body: bool,
    request_body: Option<Arc<BodyTally>>,
    body: Arc<BodyTally>,
    session: Option<Arc<IdleState>>,
    has_session_failed: bool,
}

impl Drop for SentResponse {
    fn drop(&mut self) {
        let Some(mut record) = self.record.take() else { return };
        record.fields.bytes_in = self.request_body.as_ref().map_or(0, |body| body.bytes());
        record.fields.bytes_out = self.body.bytes();
        if record.fields.end.is_some() {
            return;
        }
        match (&self.session, self.has_no_body || self.body.is_whole()) {
            (Some(session), true) if self.has_session_failed => session.finish_with_session(record),
            // The session knows why.
            (Some(session), false) if self.body.has_failed() => session.finish_with_session(record),
            (_, false) => record.fields.end = Some("CR".into()),
            (_, true) => record.fields.end = Some("--".into()),
        }
    }
}
