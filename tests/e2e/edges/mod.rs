//! What clients speak with the DMZ half, and the internal half with backends, beyond plain TCP.

mod flood;
mod http;
mod proxy;
mod tls;
mod verified;
mod ws;
