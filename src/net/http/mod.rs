//! HTTP/1.1 at the edges: what is pure of it, and how one connection is kept going.
//!
//! hyper reads and writes both sides of every exchange, so nothing that it would not send itself goes on.
//! [`request`] and [`response`] clean heads, [`names`] knows what the inside calls a backend, [`forwarded`] who a client is behind proxies, [`fields`] what a
//! field is and which are not for the next
//! one, [`answer`] is what we say ourselves, [`payload`] what follows a head, [`line`] a connection that
//! requests go to, [`guarded`] with [`strict`] and [`pulse`] watch a client, [`serving`] keeps all connections of one client going in one task, [`socket`] grants a
//! WebSocket.

pub mod answer;
pub mod fields;
pub mod forwarded;
pub mod guarded;
pub mod line;
pub mod names;
pub mod payload;
pub mod pulse;
pub mod request;
pub mod response;
pub mod serving;
pub mod socket;
pub mod strict;

use std::time::Duration;

/// The longest head of a request or a response.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Fields of one head.
pub const FIELDS_MAX: usize = 100;
/// Bytes of a body read at once.
pub const READ_BYTES_MAX: usize = 64 * 1024;
/// A body that brings nothing for so long has stopped, and a response whose head has not come so long
/// after its request is late.
pub const PATIENCE: Duration = Duration::from_secs(60);
