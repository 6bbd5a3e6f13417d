//! TLS of links, clients and backends.
//!
//! In reading order: [`link`] protects links. [`client_hello`] and [`edge`] are TLS with clients and backends,
//! and [`probe_tls`] is that of probes. [`authorities`] decides whose certificates are trusted, [`peer_verifier`]
//! who may be a peer, and [`chain`] explains why somebody is neither. [`error`] says why a handshake failed.
//! `pem` reads the files, and [`revocation`] reads lists of revoked certificates, for which
//! [`shown_certificates`] checks open connections. [`certificate_files`] notices changed files, and [`expiry`]
//! knows when certificates end.
//!
//! The files here use each other: a probe uses the configurations of `edge`, which makes its client.

pub mod authorities;
pub mod certificate_files;
pub mod chain;
pub mod client_hello;
mod describe;
pub mod edge;
mod edge_verifiers;
pub mod error;
pub mod expiry;
mod handshake;
pub mod link;
pub mod party;
pub mod peer_verifier;
mod pem;
pub mod probe_tls;
pub mod revocation;
pub mod shown_certificates;
