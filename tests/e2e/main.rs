//! Real gateways in this process, over real sockets, with peers that speak raw bytes.
//!
//! Every port is a free one, every wait is for something seen and has a deadline.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod adaptive;
mod cuts;
mod edges;
mod files;
mod guards;
mod health;
mod history;
mod links;
mod lost_access;
mod lost_grants;
mod modes;
mod pool;
mod renewal;
mod revoked;
mod rollback;
mod rotations;
mod sessions;
mod silence;
mod socks;
mod strangers;
mod support;
mod switch;
mod tls;
mod versions;
