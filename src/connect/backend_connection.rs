//! A connection to an HTTP backend, and for whose requests it may be used.

use std::sync::Arc;

use hyper::header::{HeaderMap, HeaderName};

use crate::http::{response::NameMapping, upstream::UpstreamConnection};

/// A connection to the backend.
pub struct BackendConnection {
    pub upstream: UpstreamConnection,
    pub mapping: Arc<NameMapping>,
    pub sharing: ConnectionSharing,
}

/// ```text
/// fresh ──► shared
///    └────────┴──► bound
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionSharing {
    /// Nothing has been answered on it.
    Fresh,
    /// It has answered, and may be used for anybody's requests.
    Shared,
    /// It is tied to its client, and is used for no other.
    Bound,
}

impl BackendConnection {
    pub fn new(upstream: UpstreamConnection, mapping: NameMapping) -> Self {
        Self { upstream, mapping: Arc::new(mapping), sharing: ConnectionSharing::Fresh }
    }

    /// Notes an answer. A connection that is once `bound` stays so.
    pub fn note_answer(&mut self, is_bound: bool) {
        self.sharing = match self.sharing {
            ConnectionSharing::Fresh | ConnectionSharing::Shared if !is_bound => ConnectionSharing::Shared,
            ConnectionSharing::Fresh | ConnectionSharing::Shared | ConnectionSharing::Bound => {
                ConnectionSharing::Bound
            }
        };
    }
}

/// Whether the field carries credentials of a scheme that proves the client for the whole connection: NTLM, or
/// Negotiate (RFC 4559, section 6).
pub fn proves_client(headers: &HeaderMap, field: &HeaderName) -> bool {
    let is_scheme =
        |word: &[u8]| [&b"ntlm"[..], b"negotiate"].iter().any(|scheme| word.eq_ignore_ascii_case(scheme));
    let mut values = headers.get_all(field).iter();
    values.any(|value| value.as_bytes().split(|byte| b" \t,".contains(byte)).any(is_scheme))
}
