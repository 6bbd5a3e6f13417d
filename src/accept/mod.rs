//! Where sessions come from: a TCP port for clients ([`tcp`]), their requests ([`web`]), links that the DMZ gateway dials
//! ([`forward`]), or links that are kept ready there ([`reverse`]).
//!
//! Each kind ends in a [`Negotiated`], handed to the function it was given; what becomes of it is
//! the gateway's business.

mod closing;
pub mod door;
pub mod forward;
pub mod rest;
pub mod reverse;
pub mod tcp;
pub mod web;

use std::{io, net::SocketAddr, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use self::rest::Rest;
use crate::{
    link::{Peer, framed::Link, greet, leg::Leg, seat::Seat},
    profile::{Role, ServiceName},
    proto::{
        Refusal,
        link::{
            frame::{Kind, refusal_byte},
            open::Open,
        },
        socks5,
    },
    telemetry::end::End,
};

/// A session that wants to be served.
#[derive(Debug)]
pub struct Negotiated {
    pub role: Role,
    pub leg: Leg,
    pub service: ServiceName,
    /// The id that the other gateway has given it.
    pub id: Option<String>,
    /// The client's address where it is known; SOCKS5 CONNECT can not carry it.
    pub client: Option<SocketAddr>,
    /// The gateway it came through, if any.
    pub peer: Option<Peer>,
    pub reply: Reply,
    /// What the client has said already.
    pub said: Vec<u8>,
    /// The place of a SOCKS5 link, held for as long as the session lives.
    pub seat: Option<Seat>,
    /// No client but a check of the way.
    pub probe: bool,
    /// Who is told how it ended, where somebody waits for that.
    pub teller: Option<oneshot::Sender<Told>>,
    /// Whether it rests, where it may do so.
    pub rest: Option<Arc<Rest>>,
}

/// How a session ended.
#[derive(Debug)]
pub struct Told {
    pub end: End,
    /// Why it was never connected.
    pub refusal: Option<Refusal>,
}

impl Negotiated {
    /// A session that was opened on a link of our own.
    pub fn opened(link: Box<Link>, open: Open) -> Self {
        Self {
            role: Role::Internal,
            peer: Some(link.peer().clone()),
            leg: Leg::Link(link),
            service: open.service,
            id: Some(open.id),
            client: open.client,
            reply: Reply::Framed,
            said: Vec::new(),
            seat: None,
            probe: open.probe,
            teller: None,
            rest: None,
        }
    }
}

/// The answer that a session's asker waits for; given once.
#[derive(Debug)]
#[must_use]
pub enum Reply {
    /// Nothing to say: a refusal is a reset.
    Silent,
    /// The reply to CONNECT.
    Socks,
    /// `opened` or `refused`.
    Framed,
}

impl Reply {
    /// From here on the leg carries the session's bytes. `opened` goes out with the first of them,
    /// or when the relay has none to send.
    pub async fn grant(self, leg: &mut Leg) -> io::Result<()> {
        match (self, leg) {
            (Self::Socks, Leg::Stream(stream)) => {
                socks5::answer(stream, socks5_proto::Reply::Succeeded).await.map_err(io::Error::other)
            }
            (Self::Framed, Leg::Link(link)) => link.stage(Kind::Opened, &[]),
            (Self::Silent | Self::Socks | Self::Framed, _) => Ok(()),
        }
    }

    pub async fn refuse(self, leg: Leg, refusal: Refusal) {
        match (self, leg) {
            (Self::Socks, Leg::Stream(stream)) => greet::refuse(stream, refusal).await,
            (Self::Framed, Leg::Link(link)) => refuse_framed(link, refusal).await,
            // Dropped with linger 0 armed, the socket is reset.
            (Self::Silent | Self::Socks | Self::Framed, leg) => drop(leg),
        }
    }
}

/// Tells a refusal; the link goes back to wait for the next session.
async fn refuse_framed(mut link: Box<Link>, refusal: Refusal) {
    let strays = matches!(refusal, Refusal::UnknownService | Refusal::NotAllowed);
    let told = async {
        if strays {
            link.strayed()?;
        }
        link.stage(Kind::Refused, &[refusal_byte(refusal)])?;
        std::future::poll_fn(|cx| link.poll_flush(cx)).await
    };
    if matches!(tokio::time::timeout(crate::link::GREET, told).await, Ok(Ok(()))) {
        link.go_home();
    }
}

/// Serves one session from here to its end.
pub type Serve = Arc<dyn Fn(Negotiated) -> BoxFuture<'static, ()> + Send + Sync>;
