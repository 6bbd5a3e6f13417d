//! The session that a SOCKS5 client asks for over a link of its own.

use super::SessionRequest;
use crate::{
    admission::clients::ClientAdmission,
    link::{handshake::SocksRequest, link_guard::LinkGuard, session_side::Downstream},
    net::tcp,
    profile::Half,
};

pub(super) fn session_request(requested: SocksRequest, link_guard: LinkGuard) -> SessionRequest {
    if let Some(stream) = requested.stream.tcp() {
        // This fails only on a socket that is already gone, as the session will find out.
        let _ = tcp::prepare_busy_link(stream);
    }
    SessionRequest {
        half: Half::Internal,
        downstream: Downstream::requested(requested.stream, link_guard),
        service: requested.service,
        id: None,
        client: None,
        origin: Box::default(),
        peer: Some(requested.peer),
        prefix: Vec::new(),
        probe: false,
        outcome_sender: None,
        idle_state: None,
        admission: ClientAdmission::default(),
        expires: None,
        arrival: None,
    }
}
