//! What clients speak with the DMZ half, and the internal half with backends, beyond plain TCP.

mod alpn;
mod answers;
mod backends;
mod cut_answers;
mod cut_requests;
mod down;
mod each_backend;
mod exchanges;
mod handshakes;
pub mod http;
mod logins;
mod loops;
mod message_framing;
mod proven_users;
mod proxy;
mod reuse;
mod routing;
mod smuggling;
mod tls;
mod tokens;
mod under_load;
mod unix;
mod users;
mod verified;
mod ws;
