//! Sockets and TLS; no policy.
//!
//! In reading order: [`listen`] and [`dial`] open sockets, at what [`names`] looks up, [`tcp`] gives them their options,
//! [`tls`] the protection of a link, [`hello`] and [`edges`] TLS with clients and backends, [`pinned`] that of
//! probes, [`proxy`] who a client is,
//! [`exhausted`] what this host has run out of,
//! [`ahead`] reads more than TLS asks for, [`stream`] is the one type that sessions see, [`backoff`]
//! spaces failed dials, [`files`] sees that certificates have changed. `sys` asks the kernel what no crate offers.

pub mod ahead;
pub mod backoff;
pub mod dial;
pub mod echo;
pub mod edges;
pub mod exhausted;
pub mod expiry;
pub mod files;
pub mod hello;
pub mod http;
pub mod late;
pub mod listen;
pub mod names;
pub mod pinned;
pub mod pipe;
pub mod proxy;
pub mod quota;
pub mod rewound;
pub mod sockets;
pub mod stream;
mod sys;
pub mod tcp;
pub mod tls;
pub mod verify;
pub mod ws;
