//! Bytes ↔ meaning; no sockets, no clock, no policy.

pub mod socks5;
