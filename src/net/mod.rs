//! Sockets; no policy.
//!
//! In reading order: [`listen`] and [`dial`] open sockets, at the addresses that [`resolver`] looks up, and
//! [`tcp`] sets their options. [`dns`] queries name servers itself, and [`proxy`] reads who a client is.
//! [`stream`] is the one type that sessions see, [`paced`] limits its speed, and [`read_ahead`] reads more than
//! TLS asks for. [`framed`] is a link inside a WebSocket, and [`expiring`] a client's that is passed on.
//! [`certificate_watch`] signals revoked certificates, [`backoff`] spaces failed dials, and [`exhausted`] tells
//! which resource has run out. [`sockets`] is what this process holds open, and [`inherited`] what of that it did
//! not open. `socket_options` makes the system calls that no crate offers.
//!
//! The files here use each other: a `NetStream` is one of the kinds of streams, and some of these contain a
//! `NetStream`.

pub mod backoff;
pub mod certificate_watch;
pub mod dial;
pub mod dns;
pub mod echo;
pub mod exhausted;
pub mod expiring;
pub mod framed;
pub mod inherited;
pub mod listen;
pub mod own_ports;
pub mod paced;
pub mod passed;
pub mod pipe;
pub mod prefixed;
pub mod proxy;
pub mod read_ahead;
pub mod resolve_error;
pub mod resolved_names;
pub mod resolver;
mod socket_options;
pub mod sockets;
pub mod stream;
pub mod tcp;
pub mod timeout;
pub mod via;
pub mod woken;
pub mod ws;
