//! TLS of links, clients and backends.
//!
//! In reading order: [`link`] protects links, [`client_hello`] and [`edge`] are TLS with clients and backends, and
//! [`probe`] is that of probes. [`authorities`] decides whose certificates are believed, [`peer_verifier`] who may be
//! a peer, and [`chain`] says why somebody is neither. [`certificate_files`] notices changed files, [`expiry`] knows
//! when certificates end.

pub mod authorities;
pub mod certificate_files;
pub mod chain;
pub mod client_hello;
pub mod edge;
pub mod expiry;
pub mod link;
pub mod peer_verifier;
pub mod probe;
