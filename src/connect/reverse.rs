//! Take a ready link and open it.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::time::timeout;

use super::{ConnectFailure, Connected, Order};
use crate::{
    link::{
        GREET, Refusal,
        pool::{Pool, TakeError},
    },
    net::tcp,
    proto::socks5,
    telemetry::{end::Who, snapshot::SessionPhase},
};

/// Links that may die under the second reply before a session gives up.
const OPENS_MAX: usize = 8;

/// A take is final once the second reply is written; until then another link is tried, since no
/// byte of the client's has been sent.
pub async fn connect(pool: &Pool, order: &Order<'_>) -> Result<Connected, ConnectFailure> {
    let client = order.client.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
    let mut last = String::new();
    for _ in 0..OPENS_MAX {
        order.meter.enter(SessionPhase::Waiting);
        let mut taken = pool.take().await.map_err(|error| failure(&error))?;
        order.meter.enter(SessionPhase::Connecting);
        if let Some(stream) = taken.stream.tcp() {
            // Fails only on a socket that is already gone, as the next line finds out.
            let _ = tcp::link_carries(stream);
        }
        match timeout(GREET, socks5::announce(&mut taken.stream, client)).await {
            Ok(Ok(())) => {
                return Ok(Connected {
                    stream: taken.stream,
                    peer: Some(taken.peer),
                    carrying: Some(taken.carrying),
                });
            }
            Ok(Err(error)) => last = format!("link to {}: {error}", taken.peer.label()),
            Err(_) => last = format!("link to {}: it takes no bytes", taken.peer.label()),
        }
    }
    Err(ConnectFailure { who: Who::Peer, refusal: Refusal::Unavailable, reason: last })
}

fn failure(error: &TakeError) -> ConnectFailure {
    let who = match error {
        TakeError::Full(_) => Who::Limit,
        TakeError::Late(_) => Who::Time,
        TakeError::Closed => Who::Operator,
    };
    ConnectFailure { who, refusal: Refusal::Unavailable, reason: error.to_string() }
}
