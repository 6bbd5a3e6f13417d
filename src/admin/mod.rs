//! The engine's handle across a local socket: [`server`] offers it, [`client`] asks it once,
//! [`attach`] keeps one, `protocol` is what they say, [`socket_path`] where the socket is. A gateway of another
//! host is a [`target`] that a program leads to (`carrier`), with [`stdio`] at its far end.

pub mod attach;
pub mod carrier;
pub mod client;
pub mod protocol;
pub mod server;
pub mod socket_path;
pub mod stdio;
pub mod target;
