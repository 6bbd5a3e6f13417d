//! The engine's handle across a local socket: [`server`] offers it, [`client`] asks it once,
//! [`attach`] keeps one, `protocol` is what they say, [`socket_path`] where the socket is.

pub mod attach;
pub mod client;
pub mod protocol;
pub mod server;
pub mod socket_path;
