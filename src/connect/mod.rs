//! Where sessions go: straight to a backend ([`direct`]), over a link that this half dials ([`forward`]),
//! or over one that the other half keeps ready ([`reverse`]).

pub mod direct;
pub mod forward;
pub mod reverse;

use std::{net::SocketAddr, sync::Arc};

use crate::{
    link::{Peer, leg::Leg, pool::Pool, seat::Seat},
    profile::{BackendAddress, ServiceName},
    proto::Refusal,
    telemetry::{end::Who, registry::Meter, snapshot::SessionPhase},
};

/// One kind of connect side.
#[derive(Debug)]
pub enum Connector {
    Direct(BackendAddress),
    Forward(Arc<forward::Dialler>),
    Reverse(Arc<Pool>),
}

/// What a connector is asked for.
#[derive(Debug)]
pub struct Order<'a> {
    pub service: &'a ServiceName,
    /// The peers that may offer the service; `None`: all.
    pub peers: Option<&'a [String]>,
    /// The session's id, the same on both gateways.
    pub id: &'a str,
    pub client: Option<SocketAddr>,
    pub probe: bool,
    pub meter: &'a Meter,
    /// Peers that have refused the session.
    pub not: Vec<Peer>,
    /// What its client has sent to them.
    pub again: Vec<u8>,
    /// What its client has said that was never sent.
    pub unsent: Vec<u8>,
}

impl Order<'_> {
    /// What its client has said so far, for a far side that can not be told again.
    fn take_unsent(&mut self) -> Vec<u8> {
        [std::mem::take(&mut self.again), std::mem::take(&mut self.unsent)].concat()
    }
}

/// The far side of a session, connected, or opened and not answered yet.
#[derive(Debug)]
pub struct Connected {
    pub leg: Leg,
    pub peer: Option<Peer>,
    /// Of a SOCKS5 link, held for as long as the session lives.
    pub seat: Option<Seat>,
    /// Bytes of the client's that have to go before all others.
    pub first: Vec<u8>,
}

/// Nothing was connected, and no byte of the client's was sent anywhere.
#[derive(Debug)]
pub struct ConnectFailure {
    pub who: Who,
    pub refusal: Refusal,
    pub reason: String,
}

impl Connector {
    /// Whether sessions go the very same way.
    pub fn is_same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Direct(one), Self::Direct(other)) => one == other,
            (Self::Forward(one), Self::Forward(other)) => Arc::ptr_eq(one, other),
            (Self::Reverse(one), Self::Reverse(other)) => Arc::ptr_eq(one, other),
            (Self::Direct(_) | Self::Forward(_) | Self::Reverse(_), _) => false,
        }
    }

    /// Whether a far side that speaks SOCKS5 is taken before it can refuse: BIND has no such reply.
    pub fn answers_late(&self) -> bool {
        matches!(self, Self::Reverse(_))
    }

    /// Whether there is somebody left to ask who has not refused the session.
    pub fn has_other(&self, order: &Order<'_>) -> bool {
        match self {
            Self::Direct(_) => false,
            Self::Forward(dialler) => dialler.has_other(order),
            Self::Reverse(pool) => pool.has_peer_for(order.service, &order.not),
        }
    }

    pub async fn connect(&self, order: &mut Order<'_>) -> Result<Connected, ConnectFailure> {
        match self {
            Self::Direct(backend) => {
                order.meter.enter(SessionPhase::Connecting);
                let connected = direct::connect(backend).await?;
                Ok(Connected { first: order.take_unsent(), ..connected })
            }
            Self::Forward(dialler) => dialler.connect(order).await,
            Self::Reverse(pool) => reverse::connect(pool, order).await,
        }
    }
}
