//! The engine's handle across a local socket: [`server`] offers it, [`client`] asks it, `wire` is
//! what they say, [`place`] where the socket is.

pub mod client;
pub mod place;
pub mod server;
mod wire;
