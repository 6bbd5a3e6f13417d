//! Both ends of a link's greeting, each under one deadline: TLS, and then what the two agreed on
//! there: a `hello` from each side, or SOCKS5's method and request.

use std::{collections::HashSet, fmt, future::poll_fn, io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use socks5_proto::Address;
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    DIAL, FAREWELL, GREET, LEAVE, Peer,
    epoch::Epoch,
    framed::Link,
    liveness::{HEARTBEAT, UNANSWERED},
    trouble::Trouble,
};
use crate::{
    net::{
        dial::{self, DialError},
        stream::Stream,
        tcp,
        tls::Identity,
    },
    profile::{Carries, LinkAddress, ServiceName},
    proto::{
        Refusal,
        link::{
            ALPN, Violation,
            frame::{Frame, Kind},
            hello::{Grant, Offer},
            state::End,
        },
        socks5::{self, Asks, SocksError},
    },
};

/// Bytes of a refused link that are read off so that its reply is not lost to a reset.
const FAREWELL_BYTES_MAX: u64 = 64 * 1024;
/// A server that is asked to close, and says nothing for so long, is dead.
pub const PARTING_SILENCE: Duration = HEARTBEAT.saturating_add(UNANSWERED);

/// Why a link did not come to stand.
#[derive(Debug, Error)]
pub enum LinkError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("TLS: {0}")]
    Tls(String),
    #[error(transparent)]
    Socks(#[from] SocksError),
    #[error("its greeting was not complete within {}s", GREET.as_secs())]
    Late,
    #[error("socket: {0}")]
    Socket(io::Error),
    #[error("greeting: {0}")]
    Hello(io::Error),
    #[error("the second reply did not come whole")]
    HalfAnnounced,
}

/// A link that was dialled, as far as TLS.
#[derive(Debug)]
pub struct Reached {
    pub stream: Stream,
    pub peer: Peer,
    /// When all of its greeting has to be over.
    pub by: Instant,
}

/// Makes what an opener says to a server.
pub type Granting = Arc<dyn Fn(&Peer, &Offer) -> Granted + Send + Sync>;
/// Makes what a server says to an opener.
pub type Offering = Arc<dyn Fn(&Peer) -> Offer + Send + Sync>;

/// What an opener makes of an offer.
#[derive(Debug)]
pub struct Granted {
    pub grant: Grant,
    pub unlike: Vec<Unlike>,
}

/// A service that carries one thing at the other half and another at this one, so that it is not granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlike {
    pub service: ServiceName,
    pub there: Carries,
    pub here: Carries,
}

impl fmt::Display for Unlike {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, there, here } = self;
        write!(
            out,
            "`{service}` carries {there} there and {here} here: write the same `carries` on both halves"
        )
    }
}

/// What this half says in its `hello`, and how long that holds.
#[derive(Clone)]
pub struct Terms {
    pub says: Says,
    pub epoch: Arc<Epoch>,
}

/// What it says, and with it which end of its links it is.
#[derive(Clone)]
pub enum Says {
    Opens(Granting),
    Serves(Offering),
}

impl fmt::Debug for Terms {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self.says {
            Says::Opens(_) => "Opens",
            Says::Serves(_) => "Serves",
        })
    }
}

impl Terms {
    /// What this half is asked for where a link speaks SOCKS5.
    fn served_over_socks(&self) -> Asks {
        match self.says {
            Says::Opens(_) => Asks::Bind,
            Says::Serves(_) => Asks::Connect,
        }
    }
}

/// A link of our own protocol that stands, and what the two ends have told each other.
#[derive(Debug)]
pub struct Linked {
    pub link: Box<Link>,
    pub offer: Offer,
    pub grant: Grant,
    /// What the opener has found; nothing where this end serves.
    pub unlike: Vec<Unlike>,
}

/// How a greeting went.
#[derive(Debug)]
pub enum Greeted {
    Linked(Linked),
    Asked(Asked),
    /// The peer proved who it is, asked for nothing and left: it looked whether we are there.
    Seen(Peer),
}

/// A link whose far side has named a service and waits for the reply.
#[derive(Debug)]
pub struct Asked {
    pub stream: Stream,
    pub peer: Peer,
    pub service: ServiceName,
}

/// The listening side: everything up to the request.
pub async fn accept(
    stream: TcpStream,
    from: SocketAddr,
    identity: &ArcSwap<Option<Identity>>,
    terms: &Terms,
) -> Result<Greeted, LinkError> {
    let holds = terms.epoch.holds();
    let identity = identity.load_full();
    let by = Instant::now() + GREET;
    let greeting = async {
        tcp::prepare_link(&stream).map_err(LinkError::Socket)?;
        let address: Arc<str> = from.ip().to_canonical().to_string().into();
        let (mut stream, name) = match identity.as_ref() {
            Some(identity) => {
                let (stream, name) = identity.accept(stream).await.map_err(LinkError::Tls)?;
                (stream, Some(name.into()))
            }
            None => (Stream::Tcp(stream), None),
        };
        let peer = Peer { name, address };
        if speaks_our_own(&stream) {
            return Ok(Greeted::Linked(hello(Reached { stream, peer, by }, &terms.says, holds).await?));
        }
        match requested(&mut stream, terms.served_over_socks()).await {
            Ok(service) => Ok(Greeted::Asked(Asked { stream, peer, service })),
            Err(LinkError::Socks(SocksError::NothingAsked)) => {
                bid_farewell(stream).await;
                Ok(Greeted::Seen(peer))
            }
            Err(error) => {
                bid_farewell(stream).await;
                Err(error)
            }
        }
    };
    timeout_at(by, greeting).await.unwrap_or(Err(LinkError::Late))
}

async fn requested(stream: &mut Stream, serves: Asks) -> Result<ServiceName, LinkError> {
    socks5::take_method(stream).await?;
    Ok(socks5::take_ask(stream, serves).await?)
}

/// Whether TLS has agreed on the protocol of our own; a plain link never does.
pub fn speaks_our_own(stream: &Stream) -> bool {
    stream.alpn() == Some(ALPN)
}

/// The exchange of `hello`: the server offers, the opener grants. What `holds` was taken from the
/// terms before the certificate was.
pub async fn hello(reached: Reached, says: &Says, holds: CancellationToken) -> Result<Linked, LinkError> {
    let Reached { stream, peer, by } = reached;
    let greeting = async {
        match says {
            Says::Opens(granting) => {
                let mut link = Box::new(Link::new(stream, peer, End::Opener));
                let Frame::Offer(offer) = poll_fn(|cx| link.poll_greeting(cx)).await? else {
                    return Err(unexpected(&link));
                };
                let Granted { grant, unlike } = granting(link.peer(), &offer);
                link.agreed(grant.services.iter().cloned(), holds);
                link.stage(Kind::Hello, &grant.body())?;
                poll_fn(|cx| link.poll_flush(cx)).await?;
                Ok(Linked { link, offer, grant, unlike })
            }
            Says::Serves(offering) => {
                let offer = offering(&peer);
                let mut link = Box::new(Link::new(stream, peer, End::Server));
                link.stage(Kind::Hello, &offer.body())?;
                poll_fn(|cx| link.poll_flush(cx)).await?;
                let Frame::Grant(mut grant) = poll_fn(|cx| link.poll_greeting(cx)).await? else {
                    return Err(unexpected(&link));
                };
                let offered: HashSet<_> = offer.services.iter().map(|(service, _)| service).collect();
                grant.services.retain(|service| offered.contains(service));
                link.bound_data(grant.data);
                link.agreed([], holds);
                Ok(Linked { link, offer, grant, unlike: Vec::new() })
            }
        }
    };
    match timeout_at(by, greeting).await {
        Ok(linked) => linked.map_err(LinkError::Hello),
        Err(_) => Err(LinkError::Late),
    }
}

/// The state lets nothing but `hello` through here.
fn unexpected(link: &Link) -> io::Error {
    Trouble::Broken(Violation::State(Kind::Hello, link.state())).into()
}

/// Ends an opener's link without a session: what is staged is told first, and then it waits for the
/// server to close, which may have yet to read the last session's bytes for a slow backend. A server
/// that lives and does not read says something once a [`HEARTBEAT`].
pub async fn part(mut link: Box<Link>) {
    let parting = async {
        poll_fn(|cx| link.poll_flush(cx)).await?;
        let (mut stream, _seat) = link.into_parts();
        stream.let_close_cleanly();
        stream.shutdown().await?;
        let mut heard = [0; 256];
        // What it says means nothing any more; that it says something does.
        while let Ok(Ok(1..)) = timeout(PARTING_SILENCE, stream.read(&mut heard)).await {}
        Ok::<_, io::Error>(())
    };
    // Late or failed, it is dropped all the same.
    let _ = timeout(LEAVE, parting).await;
}

/// The dialling side, TLS included: the other gateway is there and is who it should be.
pub async fn dial(address: &LinkAddress, identity: Option<&Identity>) -> Result<Reached, LinkError> {
    let stream = dial::dial(&address.at, DIAL).await?;
    let by = Instant::now() + GREET;
    let greeting = async {
        tcp::prepare_link(&stream).map_err(LinkError::Socket)?;
        let (stream, name) = match identity {
            Some(identity) => {
                let connected = identity.connect(stream, address.at.host_without_zone()).await;
                let (stream, name) = connected.map_err(LinkError::Tls)?;
                (stream, Some(name.into()))
            }
            None => (Stream::Tcp(stream), None),
        };
        Ok(Reached { stream, peer: Peer { name, address: address.at.to_string().into() }, by })
    };
    timeout_at(by, greeting).await.unwrap_or(Err(LinkError::Late))
}

/// SOCKS5's first step on a link that was dialled.
pub async fn offer_method(reached: &mut Reached) -> Result<(), LinkError> {
    let offered = timeout_at(reached.by, socks5::offer_method(&mut reached.stream)).await;
    Ok(offered.map_err(|_| LinkError::Late)??)
}

/// Waits for the second reply to BIND: the client that has come, as the other gateway knows it.
pub async fn announced(stream: &mut Stream) -> Result<Address, LinkError> {
    let first = socks5::await_announcement(stream).await?;
    let announced = timeout(GREET, socks5::take_announcement(first, stream)).await;
    Ok(announced.map_err(|_| LinkError::HalfAnnounced)??)
}

/// The dialling side of a SOCKS5 link that is to be parked: method, BIND and its first reply.
pub async fn park(reached: &mut Reached, service: &ServiceName) -> Result<(), LinkError> {
    let Reached { stream, by, .. } = reached;
    let greeting = async {
        socks5::offer_method(stream).await?;
        socks5::ask(stream, Asks::Bind, service).await?;
        socks5::take_answer(stream).await?;
        Ok(())
    };
    timeout_at(*by, greeting).await.unwrap_or(Err(LinkError::Late))
}

/// Answers a request with a refusal, and lets the other side hear it.
pub async fn refuse(mut stream: Stream, refusal: Refusal) {
    let refusal = async {
        if socks5::answer(&mut stream, socks5::reply_to(refusal)).await.is_ok() {
            bid_farewell(stream).await;
        }
    };
    // Past the deadline the link is dropped, which resets it: the same refusal, less polite.
    let _ = timeout(2 * FAREWELL, refusal).await;
}

/// Ends a link cleanly: what was sent is delivered, what still comes in is read off for a moment,
/// since closing with unread bytes would reset the connection and take the reply with it.
pub async fn bid_farewell(mut stream: Stream) {
    stream.let_close_cleanly();
    let farewell = async {
        stream.shutdown().await?;
        let mut rest = (&mut stream).take(FAREWELL_BYTES_MAX);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // Late or failed, it is dropped all the same.
    let _ = timeout(FAREWELL, farewell).await;
}
