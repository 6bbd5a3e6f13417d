//! Sockets and TLS; no policy.
//!
//! In reading order: [`listen`] and [`dial`] open sockets, at what [`resolver`] looks up, [`tcp`] gives them their options,
//! [`tls`] the protection of a link, [`client_hello`] and [`edge_tls`] TLS with clients and backends, [`probe_tls`] that of
//! probes, [`proxy`] who a client is,
//! [`exhausted`] what this host has run out of,
//! [`read_ahead`] reads more than TLS asks for, [`stream`] is the one type that sessions see, [`backoff`]
//! spaces failed dials, [`certificate_files`] sees that certificates have changed. `socket_options` asks the kernel what no crate offers.

pub mod backoff;
pub mod certificate_files;
pub mod client_hello;
pub mod dial;
pub mod echo;
pub mod edge_tls;
pub mod exhausted;
pub mod expiry;
pub mod http;
pub mod listen;
pub mod peer_verifier;
pub mod pipe;
pub mod prefixed;
pub mod probe_tls;
pub mod proxy;
pub mod quota;
pub mod read_ahead;
pub mod resolver;
mod socket_options;
pub mod sockets;
pub mod stream;
pub mod tcp;
pub mod timeout;
pub mod tls;
pub mod ws;
