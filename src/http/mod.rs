//! HTTP/1.1 at the edges: the parts without I/O, and how one connection is driven.
//!
//! hyper reads and writes both sides of every exchange, so nothing is forwarded that hyper would not send
//! itself. In reading order:
//!
//! - [`request`] and [`response`] clean heads; [`fields`] knows hop-by-hop fields, [`own_names`] the backend's
//!   internal names, [`forwarded`] the client behind proxies.
//! - [`body`] carries bodies and [`framing`] announces their length; [`interim`] forwards 1xx responses.
//! - [`error_response`] is what the gateway answers itself, `unreadable_head` what it puts in place of hyper's answers; [`parse_error`] explains a broken response.
//! - [`checked_stream`], with [`request_checker`] and [`keep_alive`], watches a client's connection;
//!   [`upstream`] is one that requests are sent to; [`half_open`] lets a response be read to its end.
//! - [`driver`] keeps all connections of one client going in one task; [`websocket`] grants upgrades, [`link_upgrade`]
//!   those of links.

pub mod body;
pub mod checked_stream;
pub mod driver;
pub mod error_response;
pub mod fields;
pub mod flushed;
pub mod forwarded;
pub mod framing;
pub mod half_open;
pub mod interim;
pub mod keep_alive;
pub mod link_upgrade;
pub mod own_names;
pub mod parse_error;
pub mod request;
pub mod request_checker;
pub mod response;
mod unreadable_head;
pub mod upstream;
pub mod websocket;

use std::time::Duration;

/// The longest head of a client's request, and of a backend's answer.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Fields of a client's request.
pub const REQUEST_FIELDS_MAX: usize = 100;
/// Fields of a backend's answer.
pub const ANSWER_FIELDS_MAX: usize = 200;
/// What each half adds has room between the two, beside the most that came in.
const ROOM_BYTES: usize = 4 * 1024;
const ROOM_FIELDS: usize = 16;

/// Who sends the heads that are read.
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
            Self::Peer => HEAD_BYTES_MAX + ROOM_BYTES,
        }
    }

    fn fields_max(self, most: usize) -> usize {
        match self {
            Self::Outside => most,
            Self::Peer => most + ROOM_FIELDS,
        }
    }
}
/// Bytes of a body read at once.
pub const READ_BYTES_MAX: usize = 64 * 1024;
/// A connection that is closed behind an answer is read for so long, so that no reset overtakes the answer:
/// a request may be on its way to it (RFC 9112, section 9.6).
pub const LINGER: Duration = Duration::from_secs(30);
/// The same where nothing more has come for so long.
pub const LINGER_QUIET: Duration = Duration::from_secs(2);
