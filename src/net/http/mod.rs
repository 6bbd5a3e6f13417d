//! HTTP/1.1 at the edges: what is pure of it, and how one connection is kept going.
//!
//! hyper reads and writes both sides of every exchange, so nothing that it would not send itself goes on.
//! [`request`] and [`response`] clean heads, [`names`] knows what the inside calls a backend,
//! [`forwarded`] who a client is behind proxies, [`fields`] what a
//! field is and which are not for the next one, [`answer`] is what we say ourselves, [`payload`] what follows a
//! head and [`framing`] how its length is told, [`line`] a connection that requests go to, [`unheard`] what
//! lets its answers be read to the end, [`flaw`] why one could not be, [`interim`] passes on what a backend says
//! before its answer, [`guarded`] with [`strict`] and [`pulse`] watch a client, [`serving`]
//! keeps all connections of one client going in one task, [`socket`] grants a
//! WebSocket.

pub mod answer;
pub mod fields;
pub mod flaw;
pub mod forwarded;
pub mod framing;
pub mod guarded;
pub mod interim;
pub mod line;
pub mod names;
pub mod payload;
pub mod pulse;
pub mod request;
pub mod response;
pub mod serving;
pub mod socket;
pub mod strict;
pub mod unheard;

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

/// Whose heads are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// A client or a backend.
    Outside,
    /// The other half.
    Peer,
}

impl From {
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
