//! Both ends of a link's handshake, each under one deadline: TLS, and then what was agreed on there, which is a
//! `hello` from each side, or SOCKS5's method and request.

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
    DIAL, GOODBYE, HANDSHAKE, LINGERING_CLOSE, Peer,
    error::LinkError,
    framed::Link,
    generation::TermsGeneration,
    liveness::{HEARTBEAT, UNANSWERED},
};
use crate::{
    net::{
        dial::{self, DialError},
        stream::NetStream,
        tcp,
    },
    profile::{Carries, LinkAddress, ServiceName},
    proto::{
        Refusal,
        link::{
            ALPN, ProtocolViolation,
            frame::{Frame, FrameKind},
            hello::{GrantHello, OfferHello},
            state::LinkRole,
        },
        socks5::{self, SocksCommand, SocksError},
    },
    tls::{error::TlsError, link::LinkIdentity, party::TlsParty},
};

/// Bytes of a refused link that are read off so that its reply is not lost to a reset.
const FAREWELL_BYTES_MAX: u64 = 64 * 1024;
/// A server that is asked to close, and says nothing for so long, is dead.
pub const PARTING_SILENCE: Duration = HEARTBEAT.saturating_add(UNANSWERED);

/// Why a link did not come to stand.
#[derive(Debug, Error)]
pub enum HandshakeError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("TLS: {0}")]
    Tls(TlsError),
    #[error(transparent)]
    Socks(SocksError),
    #[error("its greeting was not complete within {}s", HANDSHAKE.as_secs())]
    Late,
    #[error("socket: {0}")]
    Socket(io::Error),
    #[error("greeting: {0}")]
    Hello(io::Error),
    #[error("the second reply did not come whole")]
    HalfAnnounced,
}

impl HandshakeError {
    /// A `hello` that failed: where the other half has refused our certificate, it says so only now.
    fn of_hello(error: io::Error) -> Self {
        match TlsError::alert(&error, TlsParty::Gateway) {
            Some(told) => Self::Tls(told),
            None => Self::Hello(error),
        }
    }
}

impl From<SocksError> for HandshakeError {
    fn from(error: SocksError) -> Self {
        match &error {
            SocksError::Io(read) => {
                TlsError::alert(read, TlsParty::Gateway).map_or(Self::Socks(error), Self::Tls)
            }
            _ => Self::Socks(error),
        }
    }
}

/// A link that was dialled, as far as TLS.
#[derive(Debug)]
pub struct DialledStream {
    pub stream: NetStream,
    pub peer: Peer,
    /// When all of its greeting has to be over.
    pub by: Instant,
}

/// Makes what an opener says to a server.
pub type GrantFn = Arc<dyn Fn(&Peer, &OfferHello) -> GrantDecision + Send + Sync>;
/// Makes what a server says to an opener.
pub type OfferFn = Arc<dyn Fn(&Peer) -> OfferHello + Send + Sync>;

/// What an opener makes of an offer.
#[derive(Debug)]
pub struct GrantDecision {
    pub grant: GrantHello,
    pub mismatches: Vec<CarriesMismatch>,
}

/// A service that carries one thing at the other half and another at this one, so that it is not granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarriesMismatch {
    pub service: ServiceName,
    pub there: Carries,
    pub here: Carries,
}

impl fmt::Display for CarriesMismatch {
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
pub struct HandshakeTerms {
    pub role: HelloRole,
    pub generation: Arc<TermsGeneration>,
}

/// What it says, and with it which end of its links it is.
#[derive(Clone)]
pub enum HelloRole {
    Opens(GrantFn),
    Serves(OfferFn),
}

impl fmt::Debug for HandshakeTerms {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self.role {
            HelloRole::Opens(_) => "Opens",
            HelloRole::Serves(_) => "Serves",
        })
    }
}

impl HandshakeTerms {
    /// What this half is asked for where a link speaks SOCKS5.
    fn served_over_socks(&self) -> SocksCommand {
        match self.role {
            HelloRole::Opens(_) => SocksCommand::Bind,
            HelloRole::Serves(_) => SocksCommand::Connect,
        }
    }
}

/// A link of our own protocol that stands, and what the two ends have told each other.
#[derive(Debug)]
pub struct EstablishedLink {
    pub link: Box<Link>,
    pub offer: OfferHello,
    pub grant: GrantHello,
    /// What the opener has found; nothing where this end serves.
    pub mismatches: Vec<CarriesMismatch>,
}

/// How a greeting went.
#[derive(Debug)]
pub enum HandshakeOutcome {
    Linked(EstablishedLink),
    SocksRequested(SocksRequest),
    /// The peer proved who it is, asked for nothing and left: it looked whether we are there.
    Seen(Peer),
}

/// A link whose far side has named a service and waits for the reply.
#[derive(Debug)]
pub struct SocksRequest {
    pub stream: NetStream,
    pub peer: Peer,
    pub service: ServiceName,
}

/// The listening side: everything up to the request.
pub async fn accept(
    stream: TcpStream,
    from: SocketAddr,
    identity: &ArcSwap<Option<LinkIdentity>>,
    terms: &HandshakeTerms,
) -> Result<HandshakeOutcome, HandshakeError> {
    let holds = terms.generation.token();
    let identity = identity.load_full();
    let by = Instant::now() + HANDSHAKE;
    let greeting = async {
        tcp::prepare_link(&stream).map_err(HandshakeError::Socket)?;
        let address: Arc<str> = from.ip().to_canonical().to_string().into();
        let (mut stream, name) = match identity.as_ref() {
            Some(identity) => {
                let (stream, name) = identity.accept(stream).await.map_err(HandshakeError::Tls)?;
                (stream, Some(name.into()))
            }
            None => (NetStream::Tcp(stream), None),
        };
        let peer = Peer { name, address };
        if speaks_own_protocol(&stream) {
            return Ok(HandshakeOutcome::Linked(
                exchange_hello(DialledStream { stream, peer, by }, &terms.role, holds).await?,
            ));
        }
        match read_request(&mut stream, terms.served_over_socks()).await {
            Ok(service) => Ok(HandshakeOutcome::SocksRequested(SocksRequest { stream, peer, service })),
            Err(HandshakeError::Socks(SocksError::NothingAsked)) => {
                close_lingering(stream).await;
                Ok(HandshakeOutcome::Seen(peer))
            }
            Err(error) => {
                close_lingering(stream).await;
                Err(error)
            }
        }
    };
    timeout_at(by, greeting).await.unwrap_or(Err(HandshakeError::Late))
}

async fn read_request(stream: &mut NetStream, serves: SocksCommand) -> Result<ServiceName, HandshakeError> {
    socks5::accept_method(stream).await?;
    Ok(socks5::read_request(stream, serves).await?)
}

/// Whether TLS has agreed on the protocol of our own; a plain link never does.
pub fn speaks_own_protocol(stream: &NetStream) -> bool {
    stream.alpn() == Some(ALPN)
}

/// The exchange of `hello`: the server offers, the opener grants. What `holds` was taken from the
/// terms before the certificate was.
pub async fn exchange_hello(
    reached: DialledStream,
    says: &HelloRole,
    holds: CancellationToken,
) -> Result<EstablishedLink, HandshakeError> {
    let DialledStream { stream, peer, by } = reached;
    let greeting = async {
        match says {
            HelloRole::Opens(granting) => {
                let mut link = Box::new(Link::new(stream, peer, LinkRole::Opener));
                let Frame::Offer(offer) = poll_fn(|cx| link.poll_handshake(cx)).await? else {
                    return Err(unexpected(&link));
                };
                let GrantDecision { grant, mismatches: unlike } = granting(link.peer(), &offer);
                link.set_agreement(grant.services.iter().cloned(), holds);
                link.stage(FrameKind::Hello, &grant.body())?;
                poll_fn(|cx| link.poll_flush(cx)).await?;
                Ok(EstablishedLink { link, offer, grant, mismatches: unlike })
            }
            HelloRole::Serves(offering) => {
                let offer = offering(&peer);
                let mut link = Box::new(Link::new(stream, peer, LinkRole::Server));
                link.stage(FrameKind::Hello, &offer.body())?;
                poll_fn(|cx| link.poll_flush(cx)).await?;
                let Frame::Grant(mut grant) = poll_fn(|cx| link.poll_handshake(cx)).await? else {
                    return Err(unexpected(&link));
                };
                let offered: HashSet<_> = offer.services.iter().map(|(service, _)| service).collect();
                grant.services.retain(|service| offered.contains(service));
                link.bound_data(grant.data);
                link.set_agreement([], holds);
                Ok(EstablishedLink { link, offer, grant, mismatches: Vec::new() })
            }
        }
    };
    match timeout_at(by, greeting).await {
        Ok(linked) => linked.map_err(HandshakeError::of_hello),
        Err(_) => Err(HandshakeError::Late),
    }
}

/// The state lets nothing but `hello` through here.
fn unexpected(link: &Link) -> io::Error {
    LinkError::Broken(ProtocolViolation::State(FrameKind::Hello, link.state())).into()
}

/// Ends an opener's link without a session: what is staged is told first, and then it waits for the
/// server to close, which may have yet to read the last session's bytes for a slow backend. A server
/// that lives and does not read says something once a [`HEARTBEAT`].
pub async fn close_gracefully(mut link: Box<Link>) {
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
    let _ = timeout(GOODBYE, parting).await;
}

/// The dialling side, TLS included: the other gateway is there and is who it should be.
pub async fn dial(
    address: &LinkAddress,
    identity: Option<&LinkIdentity>,
) -> Result<DialledStream, HandshakeError> {
    let stream = dial::dial(&address.at, DIAL).await?;
    let by = Instant::now() + HANDSHAKE;
    let greeting = async {
        tcp::prepare_link(&stream).map_err(HandshakeError::Socket)?;
        let (stream, name) = match identity {
            Some(identity) => {
                let connected = identity.connect(stream, address.at.host_without_zone()).await;
                let (stream, name) = connected.map_err(HandshakeError::Tls)?;
                (stream, Some(name.into()))
            }
            None => (NetStream::Tcp(stream), None),
        };
        Ok(DialledStream { stream, peer: Peer { name, address: address.at.to_string().into() }, by })
    };
    timeout_at(by, greeting).await.unwrap_or(Err(HandshakeError::Late))
}

/// SOCKS5's first step on a link that was dialled.
pub async fn offer_method(reached: &mut DialledStream) -> Result<(), HandshakeError> {
    let offered = timeout_at(reached.by, socks5::offer_method(&mut reached.stream)).await;
    Ok(offered.map_err(|_| HandshakeError::Late)??)
}

/// Waits for the second reply to BIND: the client that has come, as the other gateway knows it.
pub async fn read_announcement(stream: &mut NetStream) -> Result<Address, HandshakeError> {
    let first = socks5::await_announcement(stream).await?;
    let announced = timeout(HANDSHAKE, socks5::read_announcement(first, stream)).await;
    Ok(announced.map_err(|_| HandshakeError::HalfAnnounced)??)
}

/// The dialling side of a SOCKS5 link that is to be parked: method, BIND and its first reply.
pub async fn park(reached: &mut DialledStream, service: &ServiceName) -> Result<(), HandshakeError> {
    let DialledStream { stream, by, .. } = reached;
    let greeting = async {
        socks5::offer_method(stream).await?;
        socks5::send_request(stream, SocksCommand::Bind, service).await?;
        socks5::read_reply(stream).await?;
        Ok(())
    };
    timeout_at(*by, greeting).await.unwrap_or(Err(HandshakeError::Late))
}

/// Answers a request with a refusal, and lets the other side hear it.
pub async fn refuse(mut stream: NetStream, refusal: Refusal) {
    let refusal = async {
        if socks5::send_reply(&mut stream, socks5::reply_to(refusal)).await.is_ok() {
            close_lingering(stream).await;
        }
    };
    // Past the deadline the link is dropped, which resets it: the same refusal, less polite.
    let _ = timeout(2 * LINGERING_CLOSE, refusal).await;
}

/// Ends a link cleanly: what was sent is delivered, what still comes in is read off for a moment,
/// since closing with unread bytes would reset the connection and take the reply with it.
pub async fn close_lingering(mut stream: NetStream) {
    stream.let_close_cleanly();
    let farewell = async {
        stream.shutdown().await?;
        let mut rest = (&mut stream).take(FAREWELL_BYTES_MAX);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // Late or failed, it is dropped all the same.
    let _ = timeout(LINGERING_CLOSE, farewell).await;
}
