//! Take a ready link and open it.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::time::timeout;

use super::{ConnectFailure, Connected, Order};
use crate::{
    link::{
        GREET,
        leg::Leg,
        pool::{Pool, TakeError, Taken},
        seat::Seat,
    },
    net::{stream::Stream, tcp},
    proto::{Refusal, link::open::Open, socks5},
    telemetry::{end::Who, snapshot::SessionPhase},
};

/// Links that may die before they are opened, until a session gives up.
const OPENS_MAX: usize = 8;

/// A take is final once the second reply, or `open` with bytes of the client's, is written; until
/// then another link is tried.
pub async fn connect(pool: &Pool, order: &mut Order<'_>) -> Result<Connected, ConnectFailure> {
    let mut last = String::new();
    for _ in 0..OPENS_MAX {
        order.meter.enter(SessionPhase::Waiting);
        let taken = pool.take(order.service, &order.not).await.map_err(|error| failure(&error))?;
        order.meter.enter(SessionPhase::Connecting);
        match open(taken, order).await {
            Ok(connected) => return Ok(connected),
            Err(why) => last = why,
        }
    }
    Err(ConnectFailure { who: Who::Peer, refusal: Refusal::Unavailable, reason: last })
}

/// Opens a link that was taken. Where that fails, no byte of the client's was sent.
pub async fn open(taken: Taken, order: &mut Order<'_>) -> Result<Connected, String> {
    let Taken { leg, peer, seat } = taken;
    let failed = |error: &dyn std::fmt::Display| format!("link to {}: {error}", peer.label());
    match leg {
        Leg::Stream(stream) => {
            if let Some(stream) = stream.tcp() {
                // Fails only on a socket that is already gone, as the next lines find out.
                let _ = tcp::link_carries(stream);
            }
            let (stream, seat) = announce(stream, seat, order).await.map_err(|error| failed(&error))?;
            // SOCKS5 can not refuse and can not be told again: a copy is of no use any more.
            Ok(Connected { leg: Leg::Stream(stream), peer: Some(peer), seat, first: order.take_unsent() })
        }
        Leg::Link(mut link) => {
            let open = Open {
                service: order.service.clone(),
                id: order.id.to_owned(),
                client: order.client,
                probe: order.probe,
            };
            link.open(&open, order.again.clone()).map_err(|error| failed(&error))?;
            order.meter.add_up(order.again.len());
            order.again.clear();
            let first = std::mem::take(&mut order.unsent);
            Ok(Connected { leg: Leg::Link(link), peer: Some(peer), seat: None, first })
        }
        Leg::Gone => Err(failed(&"it has gone")),
    }
}

async fn announce(
    mut stream: Stream,
    mut seat: Option<Seat>,
    order: &Order<'_>,
) -> Result<(Stream, Option<Seat>), String> {
    let client = order.client.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
    if let Some(seat) = &mut seat {
        seat.carry();
    }
    match timeout(GREET, socks5::announce(&mut stream, client)).await {
        Ok(Ok(())) => Ok((stream, seat)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it takes no bytes".into()),
    }
}

pub(super) fn failure(error: &TakeError) -> ConnectFailure {
    let who = match error {
        TakeError::Full(_) => Who::Limit,
        TakeError::Late(_) => Who::Time,
        TakeError::Unlike(_) => Who::Policy,
        TakeError::Closed => Who::Operator,
    };
    ConnectFailure { who, refusal: Refusal::Unavailable, reason: error.to_string() }
}
