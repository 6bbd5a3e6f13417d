//! Where sessions go: straight to a backend ([`direct`]), over a link dialled for the session
//! ([`forward`]), or over a link that the other half keeps ready ([`reverse`]).

pub mod direct;
pub mod forward;
pub mod reverse;

use std::{net::SocketAddr, sync::Arc};

use crate::{
    link::{
        Peer, Refusal,
        pool::{Carrying, Pool},
    },
    net::stream::Stream,
    profile::{BackendAddress, ServiceName},
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
    pub client: Option<SocketAddr>,
    pub meter: &'a Meter,
}

/// The far side of a session, connected.
#[derive(Debug)]
pub struct Connected {
    pub stream: Stream,
    pub peer: Option<Peer>,
    /// Held for as long as the session lives.
    pub carrying: Option<Carrying>,
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

    pub async fn connect(&self, order: &Order<'_>) -> Result<Connected, ConnectFailure> {
        match self {
            Self::Direct(backend) => {
                order.meter.enter(SessionPhase::Connecting);
                direct::connect(backend).await
            }
            Self::Forward(dialler) => {
                order.meter.enter(SessionPhase::Connecting);
                dialler.connect(order).await
            }
            Self::Reverse(pool) => reverse::connect(pool, order).await,
        }
    }
}
