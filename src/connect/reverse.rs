//! Takes a ready link and opens a session on it.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::time::timeout;

use super::{ConnectFailure, ConnectRequest, ConnectedUpstream};
use crate::{
    link::{
        HANDSHAKE,
        link_guard::LinkGuard,
        pool::{Pool, TakeError, TakenLink},
        session_side::SessionSide,
    },
    net::{stream::NetStream, tcp},
    proto::{
        Refusal,
        multiplex::{hello::OfferState, open::OpenRequest},
        socks5,
    },
    telemetry::{end::EndedBy, registry::SessionCounters, snapshot::SessionPhase},
};

/// Links that may die before they are opened, until a session gives up.
const OPENS_MAX: usize = 8;

/// A take is final once the second reply, or `open` with bytes of the client's, is written; until
/// then another link is tried.
pub async fn connect(
    pool: &Pool,
    order: &mut ConnectRequest<'_>,
) -> Result<ConnectedUpstream, ConnectFailure> {
    let mut last = String::new();
    for _ in 0..OPENS_MAX {
        order.counters.enter(SessionPhase::Waiting);
        let taken = match pool.take(order.service, &order.refused_by).await {
            Ok(taken) => taken,
            Err(error) => {
                // What is checked is the way, whatever the hour.
                let goes_on = || pool.take_outside_hours(order.service, &order.refused_by);
                let of_probe = order.probe.then(goes_on).flatten();
                of_probe.ok_or_else(|| connect_failure(&error, order.counters))?
            }
        };
        order.counters.enter(SessionPhase::Connecting);
        match open_session(taken, order).await {
            Ok(connected) => return Ok(connected),
            Err(why) => last = why,
        }
    }
    Err(ConnectFailure { who: EndedBy::Peer, refusal: Refusal::Unavailable, reason: last })
}

/// Opens a link that was taken. Where that fails, no byte of the client's was sent.
pub async fn open_session(
    taken: TakenLink,
    order: &mut ConnectRequest<'_>,
) -> Result<ConnectedUpstream, String> {
    let TakenLink { side, peer, guard: link_guard } = taken;
    let failed = |error: &dyn std::fmt::Display| format!("link to {}: {error}", peer.label());
    match side {
        SessionSide::Stream(stream) => {
            if let Some(stream) = stream.tcp() {
                // Fails only on a socket that is already gone, as the next lines find out.
                let _ = tcp::prepare_busy_link(stream);
            }
            let (stream, link_guard) =
                announce_session(stream, link_guard, order).await.map_err(|error| failed(&error))?;
            // SOCKS5 can not refuse and can not be told again: a copy is of no use any more.
            Ok(ConnectedUpstream {
                side: SessionSide::Stream(stream),
                peer: Some(peer),
                link_guard,
                first: order.take_unsent(),
            })
        }
        SessionSide::Shared(mut slot) => {
            let mut request = OpenRequest::new(order.service.clone(), order.id.to_owned());
            (request.client, request.is_probe) = (order.client, order.probe);
            request.origin = (*order.origin).clone();
            slot.request = Some(request);
            let first = order.take_unsent();
            Ok(ConnectedUpstream {
                side: SessionSide::Shared(slot),
                peer: Some(peer),
                link_guard: None,
                first,
            })
        }
        SessionSide::Incoming(_) | SessionSide::Gone => Err(failed(&"it has gone")),
    }
}

async fn announce_session(
    mut stream: NetStream,
    mut link_guard: Option<LinkGuard>,
    order: &ConnectRequest<'_>,
) -> Result<(NetStream, Option<LinkGuard>), String> {
    let client = order.client.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
    if let Some(link_guard) = &mut link_guard {
        link_guard.mark_busy();
    }
    match timeout(HANDSHAKE, socks5::send_announcement(&mut stream, client)).await {
        Ok(Ok(())) => Ok((stream, link_guard)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it takes no bytes".into()),
    }
}

/// Nothing was taken; a service that all peers have closed is refused as they would refuse it.
fn connect_failure(error: &TakeError, counters: &SessionCounters) -> ConnectFailure {
    let (who, refusal) = match error {
        TakeError::Full(_) | TakeError::ShareFull(_) => (EndedBy::Limit, Refusal::Unavailable),
        TakeError::Late(_) => (EndedBy::Time, Refusal::Unavailable),
        TakeError::Unlike(_) => (EndedBy::Policy, Refusal::Unavailable),
        TakeError::Closed => (EndedBy::Operator, Refusal::Unavailable),
        TakeError::ServiceClosed(closed) => {
            let is_rule = closed.state == OfferState::Closed;
            counters.enter(if is_rule { SessionPhase::Authorising } else { SessionPhase::Connecting });
            match closed.state {
                OfferState::Down => (EndedBy::Backend, Refusal::ServiceDown),
                OfferState::Closed => (EndedBy::Policy, Refusal::NotAllowed),
                OfferState::Open | OfferState::Locked => (EndedBy::Peer, Refusal::Unavailable),
            }
        }
    };
    ConnectFailure { who, refusal, reason: error.to_string() }
}
