//! HTTP/1.1 at the edges: the parts without I/O, and how one connection is driven.
//!
//! hyper reads and writes both sides of every exchange, so nothing is forwarded that hyper would not send
//! itself. In reading order:
//!
//! - [`request`] and [`response`] clean heads; [`fields`] knows hop-by-hop fields, [`own_names`] the backend's
//!   internal names, [`forwarded_chain`] the client behind proxies.
//! - [`request_path`] compares the path of a request with those of services.
//! - [`body`] carries bodies and [`framing`] announces their length; [`interim`] forwards 1xx responses.
//! - [`error_response`] makes the gateway's own answers, `unreadable_head` replaces those of hyper, and
//!   [`parse_error`] explains a broken response.
//! - [`checked_stream`], with [`strict_framing`] and [`keep_alive`], watches a client's connection.
//!   [`upstream`] is a connection on which requests are sent; [`early_response`] lets a response be read to its end.
//! - [`driver`] runs all connections of one client in one task. [`websocket`] grants upgrades, [`link_upgrade`]
//!   those of links.

pub mod body;
pub mod checked_stream;
pub mod driver;
pub mod early_response;
pub mod error_response;
pub mod fields;
pub mod flushed;
pub mod forwarded_chain;
pub mod framing;
pub mod interim;
pub mod keep_alive;
pub mod link_upgrade;
pub mod own_names;
pub mod parse_error;
pub mod request;
pub mod request_path;
pub mod response;
pub mod strict_framing;
mod unreadable_head;
pub mod upstream;
pub mod websocket;

use std::time::Duration;

/// The longest head of a client's request, and of a backend's answer.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// The most fields of a client's request.
pub const REQUEST_FIELDS_MAX: usize = 100;
/// The most fields of a backend's answer.
pub const ANSWER_FIELDS_MAX: usize = 200;
/// Extra room between the halves for what each half adds.
const PEER_EXTRA_BYTES: usize = 4 * 1024;
const PEER_EXTRA_FIELDS: usize = 16;

/// The sender of the heads that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadSource {
    /// A client or a backend.
    Outside,
    /// The other half.
    Peer,
}

impl HeadSource {
    fn head_bytes_max(self) -> usize {
        match self {
            Self::Outside => HEAD_BYTES_MAX,
            Self::Peer => HEAD_BYTES_MAX + PEER_EXTRA_BYTES,
        }
    }

    fn fields_max(self, most: usize) -> usize {
        match self {
            Self::Outside => most,
            Self::Peer => most + PEER_EXTRA_FIELDS,
        }
    }
}
/// The most bytes of a body that are read at once.
pub const READ_BYTES_MAX: usize = 64 * 1024;
/// After an answer, a connection is read for this long before it is closed, so that no reset overtakes the
/// answer: more of the request may be on its way (RFC 9112, section 9.6).
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long such a client is read if nothing more arrives.
pub const LINGER_IDLE_TIMEOUT: Duration = Duration::from_secs(2);
