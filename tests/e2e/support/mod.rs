//! What the tests stand on: gateways of their own, raw peers, certificates, and patience.

pub mod dns;
pub mod frames;
pub mod gateway;
pub mod lists;
pub mod peers;
pub mod program;
pub mod socks;
pub mod tls;
pub mod tokens;
pub mod ways;
