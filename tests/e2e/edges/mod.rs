//! What clients speak with the DMZ half, and the internal half with backends, beyond plain TCP.

mod proxy;
mod tls;
mod ws;
