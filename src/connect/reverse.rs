//! Takes a ready link and opens a session on it. If that link dies first, another one is tried, at
//! most [`OPENS_MAX`] of them; the pool decides which.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use thiserror::Error;
use tokio::time::timeout;

use super::{ConnectFailure, ConnectRequest, ConnectedUpstream, RefusedAt};
use crate::{
    link::{
        HANDSHAKE_TIMEOUT,
        link_guard::LinkGuard,
        pool::{AcquiredLink, AcquiredSide, Pool, ServiceClosed, TakeError},
        session_side::{SessionOpening, Upstream},
    },
    net::{stream::NetStream, tcp},
    proto::{
        Refusal,
        multiplex::{hello::OfferState, open::OpenRequest},
        socks5::{self, SocksError},
    },
    telemetry::{end::EndedBy, link_cause::LinkCause, registry::SessionCounters, snapshot::SessionPhase},
};

/// How many links may die before they are opened until a session gives up.
const OPENS_MAX: usize = 8;

/// Takes a link. The choice is final once the second reply, or `open` with bytes of the client, is written;
/// until then another link can be tried.
pub async fn connect(
    pool: &Pool,
    connect_request: &mut ConnectRequest<'_>,
) -> Result<ConnectedUpstream, ConnectFailure> {
    let mut last = None;
    for _ in 0..OPENS_MAX {
        connect_request.counters.enter(SessionPhase::Waiting);
        let taken = match pool.take(connect_request.service, &connect_request.refused_by).await {
            Ok(taken) => taken,
            Err(error) => {
                // A probe tests the path at any hour.
                let continues =
                    || pool.take_outside_hours(connect_request.service, &connect_request.refused_by);
                let of_probe = connect_request.probe.then(continues).flatten();
                of_probe.ok_or_else(|| connect_failure(&error, connect_request.counters))?
            }
        };
        connect_request.counters.enter(SessionPhase::Connecting);
        match open_session(taken, connect_request).await {
            Ok(connected) => return Ok(connected),
            Err(error) => last = Some(error),
        }
    }
    let reason = last.as_ref().map(ToString::to_string).unwrap_or_default();
    let at = RefusedAt::Link(LinkCause::Other);
    Err(ConnectFailure { ended_by: EndedBy::Peer, refusal: Refusal::Unavailable, at, reason })
}

/// Why a link that was taken did not accept the session.
#[derive(Debug, Error)]
#[error("link to {peer}: {why}")]
pub struct OpenError {
    peer: Arc<str>,
    why: SessionOpenError,
}

#[derive(Debug, Error)]
enum SessionOpenError {
    #[error(transparent)]
    Announcement(SocksError),
    #[error("it takes no bytes")]
    Timeout,
}

/// Opens a session on a link that was taken. If that fails, no byte of the client was sent.
pub async fn open_session(
    taken: AcquiredLink,
    connect_request: &mut ConnectRequest<'_>,
) -> Result<ConnectedUpstream, OpenError> {
    let AcquiredLink { side, peer } = taken;
    let failed = |why| OpenError { peer: peer.label(), why };
    match side {
        AcquiredSide::Parked(stream, guard) => {
            if let Some(stream) = stream.tcp() {
                // This fails only on a socket that is already gone, as the next lines find out.
                let _ = tcp::prepare_busy_link(stream);
            }
            let side = announce_session(stream, guard, connect_request).await.map_err(failed)?;
            // SOCKS5 cannot refuse, and bytes cannot be sent again: a copy is no longer useful.
            Ok(ConnectedUpstream { side, peer: Some(peer), first: connect_request.take_unsent() })
        }
        AcquiredSide::Slot(slot) => {
            let mut request =
                OpenRequest::new(connect_request.service.clone(), connect_request.id.to_owned());
            (request.client, request.is_probe) = (connect_request.client, connect_request.probe);
            request.origin = (*connect_request.origin).clone();
            let side = Upstream::Shared(Box::new(SessionOpening { slot, request }));
            Ok(ConnectedUpstream { side, peer: Some(peer), first: connect_request.take_unsent() })
        }
    }
}

async fn announce_session(
    mut stream: NetStream,
    mut guard: LinkGuard,
    connect_request: &ConnectRequest<'_>,
) -> Result<Upstream, SessionOpenError> {
    let client = connect_request.client.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
    guard.mark_busy();
    match timeout(HANDSHAKE_TIMEOUT, socks5::send_announcement(&mut stream, client)).await {
        Ok(Ok(())) => Ok(Upstream::Socks(stream, guard)),
        Ok(Err(error)) => Err(SessionOpenError::Announcement(error)),
        Err(_) => Err(SessionOpenError::Timeout),
    }
}

/// No link was taken. A service that all peers have closed is refused as they would refuse it.
fn connect_failure(error: &TakeError, counters: &SessionCounters) -> ConnectFailure {
    let (ended_by, refusal) = match error {
        TakeError::Full(_) | TakeError::Displaced(_) | TakeError::AtMaximum(_) => {
            (EndedBy::Limit, Refusal::Unavailable)
        }
        TakeError::Late(_) => (EndedBy::Time, Refusal::Unavailable),
        TakeError::CarriesMismatch(_) => (EndedBy::Policy, Refusal::Unavailable),
        TakeError::Closed => (EndedBy::Operator, Refusal::Unavailable),
        TakeError::ServiceClosed(closed) => {
            let is_rule = closed.state == OfferState::Closed;
            counters.enter(if is_rule { SessionPhase::Authorising } else { SessionPhase::Connecting });
            match closed.state {
                OfferState::Down => (EndedBy::Backend, Refusal::ServiceDown),
                OfferState::Closed => (EndedBy::Policy, Refusal::NotAllowed),
                OfferState::Draining => (EndedBy::Operator, Refusal::Draining),
                OfferState::Open | OfferState::Locked => (EndedBy::Peer, Refusal::Unavailable),
            }
        }
    };
    let at = match error {
        TakeError::ServiceClosed(ServiceClosed {
            state: OfferState::Down | OfferState::Draining, ..
        }) => RefusedAt::Peer,
        TakeError::AtMaximum(_) => RefusedAt::Link(LinkCause::AtMaximum),
        TakeError::Full(_)
        | TakeError::Displaced(_)
        | TakeError::Late(_)
        | TakeError::CarriesMismatch(_)
        | TakeError::ServiceClosed(_)
        | TakeError::Closed => RefusedAt::Link(LinkCause::Other),
    };
    ConnectFailure { ended_by, refusal, at, reason: error.to_string() }
}
