//! The engine's handle through a local socket: [`server`] offers it, [`client`] uses it once, and [`attach`]
//! keeps one. `protocol` is their language, and [`socket_path`] says where the socket is. A gateway on another
//! host is a [`target`] that a program leads to (`program`), with [`stdio`] at its remote end.

pub mod attach;
pub mod client;
pub mod program;
pub mod protocol;
pub mod server;
pub mod socket_path;
pub mod stdio;
pub mod target;
