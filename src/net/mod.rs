//! Sockets and TLS; no policy.
//!
//! In reading order: [`listen`] and [`dial`] open sockets, at the addresses that [`resolver`] looks up, and [`tcp`]
//! sets their options; [`tls`] protects links, [`client_hello`] and [`edge_tls`] are TLS with clients and backends,
//! [`probe_tls`] is TLS of probes, [`authorities`] decides whose certificates are believed and [`chain`]
//! says why one is not, [`proxy`] reads who a client is; [`stream`] is the one type that sessions see,
//! [`read_ahead`] reads more than TLS asks for, [`backoff`] spaces failed dials, [`exhausted`] tells which
//! resource has run out, [`certificate_files`] notices changed files. `socket_options` makes the system calls that
//! no crate offers.

pub mod authorities;
pub mod backoff;
pub mod certificate_files;
pub mod chain;
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
