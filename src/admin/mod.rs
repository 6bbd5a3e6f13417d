//! The engine's handle across a local socket: [`server`] offers it, [`client`] asks it once,
//! [`attach`] keeps one, `wire` is what they say, [`place`] where the socket is.

pub mod attach;
pub mod client;
pub mod place;
pub mod server;
mod wire;
