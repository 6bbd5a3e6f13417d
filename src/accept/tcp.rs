//! Clients on a TCP port.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Negotiated, Reply, Serve};
use crate::{
    link::leg::Leg,
    net::{listen, stream::Stream},
    profile::{Role, ServiceName},
    tasks::Tasks,
    telemetry::notices::Notices,
};

/// Accepts clients until `stop`; the port's service may change while it runs.
pub async fn run(
    listener: TcpListener,
    service: Arc<ArcSwap<ServiceName>>,
    serve: Serve,
    tasks: Tasks,
    notices: Arc<Notices>,
    stop: CancellationToken,
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
    listen::accept_loop(listener, stop, accepted, trouble).await;
}
