//! How the length of a body is announced (RFC 9112, section 6): in exactly one way, which describes the body as
//! it is forwarded, whatever the original head said. hyper relies on the head. If the head is wrong, hyper
//! would cut the body or send none.

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

/// For a request. With methods that seldom have a body, hyper sends one only if the head says so.
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

/// For an answer. If there are two lengths, the chunks are right (section 6.3).
pub fn frame_response(
    head: &mut response::Parts,
    method: &Method,
    body: &Incoming,
) -> Result<(), UnsupportedCoding> {
    let has_codings = head.headers.contains_key(header::TRANSFER_ENCODING);
    if has_no_body(method, head.status) {
        // The length that the body would have, if it could have one.
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

/// Adapts an answer to the client's version: HTTP/1.0 has no chunks, so the end of the connection ends the
/// body, and `Connection` has to say so.
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
        // For HTTP/1.1, hyper would add that the connection stays open.
        *response.version_mut() = Version::HTTP_10;
    }
}

/// Whether chunked is the only coding of a body, written in the one way that all parsers read alike.
fn is_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let only = codings.next().filter(|_| codings.next().is_none());
    only.is_some_and(|only| only.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

/// The single length that a head gives, in however many fields.
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
