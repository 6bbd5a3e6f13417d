//! Shared test support: gateways, raw peers, certificates and waiting.

pub mod dns;
pub mod frames;
pub mod gateway;
pub mod lists;
pub mod mode_pair;
pub mod peers;
pub mod program;
pub mod socks;
pub mod tls;
pub mod tokens;
