//! Where sessions come from: a TCP port for clients ([`tcp`]), a link that the DMZ gateway
//! dialled ([`forward`]), or a link that was kept ready there ([`reverse`]).
//!
//! Each kind ends in a [`Negotiated`], handed to the function it was given; what becomes of it is
//! the gateway's business.

pub mod forward;
pub mod reverse;
pub mod tcp;

use std::{net::SocketAddr, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    link::{Peer, Refusal, greet, pool::Carrying},
    net::stream::Stream,
    profile::{Role, ServiceName},
    proto::socks5,
};

/// A session that wants to be served.
#[derive(Debug)]
pub struct Negotiated {
    pub role: Role,
    pub stream: Stream,
    pub service: ServiceName,
    /// The client's address where it is known; SOCKS5 CONNECT can not carry it.
    pub client: Option<SocketAddr>,
    /// The gateway it came through, if any.
    pub peer: Option<Peer>,
    pub reply: Reply,
    /// Held for as long as the session lives, where it came over a link.
    pub link: Option<LinkHold>,
}

/// A carrying link's place in the books of the side that dialled or took it.
#[derive(Debug)]
pub struct LinkHold {
    pub carrying: Carrying,
    pub permit: OwnedSemaphorePermit,
}

/// The answer that a session's asker waits for; given once.
#[derive(Debug)]
#[must_use]
pub enum Reply {
    /// Nothing to say: a refusal is a reset.
    Silent,
    /// The reply to CONNECT.
    Socks,
}

impl Reply {
    /// From here on the stream carries the session's bytes.
    pub async fn grant(self, stream: &mut Stream) -> Result<(), socks5::SocksError> {
        match self {
            Self::Silent => Ok(()),
            Self::Socks => socks5::answer(stream, socks5_proto::Reply::Succeeded).await,
        }
    }

    pub async fn refuse(self, stream: Stream, refusal: Refusal) {
        match self {
            // Dropped with linger 0 armed, the socket is reset.
            Self::Silent => drop(stream),
            Self::Socks => greet::refuse(stream, refusal).await,
        }
    }
}

/// Serves one session from here to its end.
pub type Serve = Arc<dyn Fn(Negotiated) -> BoxFuture<'static, ()> + Send + Sync>;
