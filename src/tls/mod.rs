//! TLS of links, clients and backends.
//!
//! In reading order: [`link`] protects links, [`client_hello`] and [`edge`] are TLS with clients and backends, and
//! [`probe`] is that of probes. [`authorities`] decides whose certificates are believed, [`peer_verifier`] who may be
//! a peer, and [`chain`] says why somebody is neither. [`error`] is why a handshake failed. `pem` reads the files,
//! [`certificate_files`] notices changed ones, [`expiry`] knows when certificates end.

pub mod authorities;
pub mod certificate_files;
pub mod chain;
pub mod client_hello;
mod describe;
pub mod edge;
pub mod error;
pub mod expiry;
mod handshake;
pub mod link;
pub mod party;
pub mod peer_verifier;
mod pem;
pub mod probe;
