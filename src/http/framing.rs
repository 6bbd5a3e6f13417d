//! How the length of a body is announced (RFC 9112, section 6): in exactly one way, which describes the body
//! as it is forwarded, whatever the original head said. hyper believes the head; where the head is wrong,
//! hyper would cut the body or send none.

use hyper::{
    Method, Response, StatusCode, Version,
    body::{Body, Incoming},
    header::{self, HeaderMap, HeaderValue},
    http::response,
};

use super::{body::MessageBody, fields};

/// A response whose body has a transfer coding that the gateway cannot decode.
#[derive(Debug, PartialEq, Eq)]
pub struct UnsupportedCoding;

/// A request's. With a method that seldom has a body, hyper sends one only where the head says so.
pub fn frame_request(headers: &mut HeaderMap, body: &MessageBody) {
    headers.remove(header::TRANSFER_ENCODING);
    if body.is_end_stream() {
        return;
    }
    match body.size_hint().exact() {
        Some(length) => drop(headers.insert(header::CONTENT_LENGTH, length.into())),
        None => {
            headers.remove(header::CONTENT_LENGTH);
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
}

/// An answer's. Of two lengths the chunks are the true one (section 6.3).
pub fn frame_response(
    head: &mut response::Parts,
    method: &Method,
    body: &Incoming,
) -> Result<(), UnsupportedCoding> {
    let has_codings = head.headers.contains_key(header::TRANSFER_ENCODING);
    if has_no_body(method, head.status) {
        // The length that it would have, where it could have any.
        let could = matches!(*method, Method::HEAD) || head.status == StatusCode::NOT_MODIFIED;
        match content_length(&head.headers).filter(|_| could && !has_codings) {
            Some(length) => drop(head.headers.insert(header::CONTENT_LENGTH, length.into())),
            None => drop(head.headers.remove(header::CONTENT_LENGTH)),
        }
    } else {
        if has_codings && !is_chunked(&head.headers) {
            return Err(UnsupportedCoding);
        }
        match body.size_hint().exact() {
            Some(length) => drop(head.headers.insert(header::CONTENT_LENGTH, length.into())),
            None => drop(head.headers.remove(header::CONTENT_LENGTH)),
        }
    }
    head.headers.remove(header::TRANSFER_ENCODING);
    Ok(())
}

/// An answer as a client of this version can read it: one of HTTP/1.0 knows no chunks, so that the end of a
/// connection ends its body, and `Connection` has to say so.
pub fn adapt_to_version(version: Version, response: &mut Response<MessageBody>) {
    if version != Version::HTTP_10 {
        return;
    }
    let body = response.body();
    let has_length = body.is_end_stream() || body.size_hint().exact().is_some();
    if !has_length {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if fields::wants_close(response.headers()) {
        // To one of 1.1 hyper would add that it stays open.
        *response.version_mut() = Version::HTTP_10;
    }
}

/// Whether chunks are all that a body is coded in, said in the one way that nobody reads otherwise.
fn is_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let only = codings.next().filter(|_| codings.next().is_none());
    only.is_some_and(|only| only.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

/// The one length that a head tells, in however many fields.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    let mut lengths = fields::list_members(headers, header::CONTENT_LENGTH)
        .map(|text| str::from_utf8(text).ok()?.parse().ok());
    let first = lengths.next()??;
    lengths.all(|other| other == Some(first)).then_some(first)
}

/// Whether an answer has no body, whatever its head says.
fn has_no_body(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}
