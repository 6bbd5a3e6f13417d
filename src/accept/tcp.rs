//! Clients on a TCP port.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;

use super::{Negotiated, Reply, Serve};
use crate::{
    link::leg::Leg,
    net::{listen::Listener, stream::Stream},
    profile::{Role, ServiceName},
    tasks::Tasks,
    telemetry::notices::Notices,
};

/// Accepts clients until the port is closed; the port's service may change while it runs.
pub async fn run(
    listener: Arc<Listener>,
    service: Arc<ArcSwap<ServiceName>>,
    serve: Serve,
    tasks: Tasks,
    notices: Arc<Notices>,
) {
    let accepted = |stream, client: SocketAddr| {
        tasks.spawn(
            "session",
            serve(Negotiated {
                role: Role::Dmz,
                leg: Leg::Stream(Stream::Tcp(stream)),
                service: ServiceName::clone(&service.load()),
                id: None,
                client: Some(SocketAddr::new(client.ip().to_canonical(), client.port())),
                peer: None,
                reply: Reply::Silent,
                seat: None,
                probe: false,
            }),
        );
    };
    let trouble = |error: &std::io::Error| {
        let service = service.load();
        notices.error(format!("{service}: accept: {error}; accepting pauses until descriptors are free"));
    };
    listener.accept(accepted, trouble).await;
}
