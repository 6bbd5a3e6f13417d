//! Both ends of a link's handshake, each under one deadline: first TLS, then the protocol that TLS agreed on.
//! That is a `hello` from each side, or SOCKS5's method and request.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

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
    DIAL_TIMEOUT, HANDSHAKE_TIMEOUT, LINGERING_CLOSE_TIMEOUT, Peer,
    agreement::{self, AgreedLink, Agreement},
    carrier::{CarrierError, dial_carrier},
    generation::TermsGeneration,
    grants::{CarriesMismatch, ServiceGrants},
    link_services::LinkServices,
    multiplex::handle::LinkLoss,
    offered_services::OfferedServices,
    target_addresses::{self, TargetAddresses},
};
use crate::{
    net::{dial::DialError, read_ahead::TlsTransport, stream::NetStream, tcp, via::ViaError},
    profile::{HostPort, LinkAddress, ServiceName, ViaProxy},
    proto::{
        Refusal,
        multiplex::{
            self, PROTOCOL_NAME, PeerViolation,
            decoder::{DecodedPiece, FrameReader},
            frame::{HEADER_BYTES, LinkFrame},
            hello::{OpenerHello, ServerHello},
            state::{LinkEnd, LinkStage},
        },
        socks5::{self, SocksCommand, SocksError},
    },
    tls::{edge::EdgeTls, error::TlsError, link::LinkIdentity, party::TlsParty},
};

/// How many bytes of a refused link are read and dropped, so that a reset does not overtake the reply.
const CLOSE_BYTES_MAX: u64 = 64 * 1024;
/// How much of a `hello` is read at once: an announced length alone costs no memory.
const HELLO_READ_BYTES: usize = 16 * 1024;

/// Only the dialling end announces how many links it keeps; the accepting end sends 0.
const LISTENER_LINKS_KEPT: usize = 0;

/// Why a link could not be opened.
#[derive(Debug, Error)]
pub enum HandshakeError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Via(#[from] ViaError),
    #[error("through proxy {0}: {1}")]
    Through(Arc<ViaProxy>, Box<HandshakeError>),
    #[error("{0}")]
    Carrier(CarrierError),
    #[error("TLS: {0}")]
    Tls(TlsError),
    #[error(transparent)]
    Socks(SocksError),
    #[error("its handshake was not complete within {}s", HANDSHAKE_TIMEOUT.as_secs())]
    Late,
    #[error("socket: {0}")]
    Socket(io::Error),
    #[error("handshake: {0}")]
    Hello(io::Error),
    #[error("the second reply did not come whole")]
    HalfAnnounced,
    #[error("the certificate of the other gateway was revoked")]
    Revoked,
}

impl HandshakeOutcome {
    pub fn peer(&self) -> &Peer {
        match self {
            Self::Linked(linked) => linked.link.peer(),
            Self::SocksRequested(requested) => &requested.peer,
            Self::Seen(peer) => peer,
        }
    }
}

impl HandshakeError {
    /// Whether this process or host has run out of something.
    pub fn is_exhausted(&self) -> bool {
        match self {
            Self::Dial(error) => error.exhausted().is_some(),
            Self::Via(error) => error.exhausted().is_some(),
            Self::Through(..)
            | Self::Carrier(_)
            | Self::Tls(_)
            | Self::Socks(_)
            | Self::Late
            | Self::Socket(_)
            | Self::Hello(_)
            | Self::HalfAnnounced
            | Self::Revoked => false,
        }
    }

    /// The error for a failed `hello`: if the other half has refused our certificate, it says so only at this
    /// point.
    fn of_hello(error: io::Error) -> Self {
        match TlsError::alert(&error, TlsParty::Gateway) {
            Some(reported) => Self::Tls(reported),
            None => Self::Hello(error),
        }
    }
}

impl From<SocksError> for HandshakeError {
    fn from(error: SocksError) -> Self {
        let alert = error.io().and_then(|read| TlsError::alert(read, TlsParty::Gateway));
        alert.map_or(Self::Socks(error), Self::Tls)
    }
}

/// A dialled link, up to and including TLS.
#[derive(Debug)]
pub struct DialledStream {
    pub stream: NetStream,
    pub peer: Peer,
    /// The deadline of the whole handshake.
    pub by: Instant,
}

/// The contents of this half's `hello`, and the generation they belong to.
#[derive(Debug, Clone)]
pub struct HandshakeTerms {
    pub end: HelloEnd,
    pub generation: Arc<TermsGeneration>,
}

/// The contents of this end's `hello`; they determine which end of the link it is.
#[derive(Debug, Clone)]
pub enum HelloEnd {
    Opens(Arc<ServiceGrants>),
    Serves(Arc<ArcSwap<OfferedServices>>),
}

impl HelloEnd {
    /// The SOCKS5 command that this half serves, for links that speak SOCKS5.
    fn served_over_socks(&self) -> SocksCommand {
        match self {
            Self::Opens(_) => SocksCommand::Bind,
            Self::Serves(_) => SocksCommand::Connect,
        }
    }

    /// The services that a half which dials parks SOCKS5 links for; none where each session dials its own.
    pub fn parked_services(&self) -> Vec<ServiceName> {
        match self {
            Self::Opens(_) => Vec::new(),
            Self::Serves(offered) => offered.load().parked_services(),
        }
    }
}

/// An established link of our own protocol, with what the two ends have agreed.
#[derive(Debug)]
pub struct EstablishedLink {
    pub link: Box<AgreedLink>,
    pub offer: ServerHello,
    pub grant: OpenerHello,
    /// The mismatches that the opener has found; empty at the serving end.
    pub mismatches: Vec<CarriesMismatch>,
}

/// The result of a handshake.
#[derive(Debug)]
pub enum HandshakeOutcome {
    Linked(EstablishedLink),
    SocksRequested(SocksRequest),
    /// The peer proved who it is, requested nothing and left: it only checked whether we are there.
    Seen(Peer),
}

/// An accepted connection, up to and including its request.
#[derive(Debug)]
pub struct AcceptedLink {
    pub outcome: HandshakeOutcome,
    /// The versions of our own protocol that it offered, if none of them is known here.
    pub versions: Vec<String>,
}

/// A link whose peer has named a service and waits for the reply.
#[derive(Debug)]
pub struct SocksRequest {
    pub stream: NetStream,
    pub peer: Peer,
    pub service: ServiceName,
}

/// The listening side, up to and including the request.
pub async fn accept(
    below: TlsTransport,
    from: SocketAddr,
    identity: &ArcSwap<Option<LinkIdentity>>,
    terms: &HandshakeTerms,
) -> Result<AcceptedLink, HandshakeError> {
    let terms_token = terms.generation.token();
    let identity = identity.load_full();
    let by = Instant::now() + HANDSHAKE_TIMEOUT;
    let handshake = async {
        below.tcp().map_or(Ok(()), tcp::prepare_link).map_err(HandshakeError::Socket)?;
        let address: Arc<str> = from.ip().to_canonical().to_string().into();
        let (mut stream, name, offered) = match identity.as_ref() {
            Some(identity) => {
                let accepted = identity.accept(below).await.map_err(HandshakeError::Tls)?;
                (accepted.stream, Some(accepted.peer.into()), accepted.offered)
            }
            None => (below.into_plain(), None, Vec::new()),
        };
        let peer = Peer { name, address, instance: None };
        if uses_own_protocol(&stream) {
            let reached = DialledStream { stream, peer, by };
            let linked = exchange_hello(reached, &terms.end, LISTENER_LINKS_KEPT, terms_token).await?;
            return Ok(AcceptedLink { outcome: HandshakeOutcome::Linked(linked), versions: Vec::new() });
        }
        let outcome = match read_request(&mut stream, terms.end.served_over_socks()).await {
            Ok(service) => HandshakeOutcome::SocksRequested(SocksRequest { stream, peer, service }),
            Err(HandshakeError::Socks(SocksError::NoRequest)) => {
                close_lingering(stream).await;
                HandshakeOutcome::Seen(peer)
            }
            Err(error) => {
                close_lingering(stream).await;
                return Err(error);
            }
        };
        let versions = offered.into_iter().filter(|name| multiplex::is_version(name)).collect();
        Ok(AcceptedLink { outcome, versions })
    };
    timeout_at(by, handshake).await.unwrap_or(Err(HandshakeError::Late))
}

async fn read_request(stream: &mut NetStream, serves: SocksCommand) -> Result<ServiceName, HandshakeError> {
    socks5::accept_method(stream).await?;
    Ok(socks5::read_request(stream, serves).await?)
}

/// Whether TLS has agreed on our own protocol. A plain link never does.
pub fn uses_own_protocol(stream: &NetStream) -> bool {
    stream.alpn() == Some(PROTOCOL_NAME.as_bytes())
}

/// The exchange of `hello`: the server offers, the opener grants. The dialling end announces how
/// many links it keeps. `terms_token` must be taken before the certificate is read, so that a change of the terms in
/// between replaces the link.
pub async fn exchange_hello(
    reached: DialledStream,
    hello_end: &HelloEnd,
    links_kept: usize,
    terms_token: CancellationToken,
) -> Result<EstablishedLink, HandshakeError> {
    let DialledStream { stream, peer, by } = reached;
    let handshake = async {
        match hello_end {
            HelloEnd::Opens(grants) => grant_services(stream, peer, grants, links_kept, terms_token).await,
            HelloEnd::Serves(offered) => {
                let offered = offered.load_full();
                offer_services(stream, peer, &offered, links_kept, terms_token).await
            }
        }
    };
    match timeout_at(by, handshake).await {
        Ok(linked) => linked.map_err(HandshakeError::of_hello),
        Err(_) => Err(HandshakeError::Late),
    }
}

async fn grant_services(
    mut stream: NetStream,
    mut peer: Peer,
    grants: &Arc<ServiceGrants>,
    links_kept: usize,
    terms_token: CancellationToken,
) -> io::Result<EstablishedLink> {
    let LinkFrame::ServerHello(offer) = read_hello(&mut stream, LinkEnd::Server).await? else {
        return Err(unexpected_frame());
    };
    peer.instance = Some(offer.about.instance);
    let (granted, mismatches) = grants.judge(&peer, &offer.services);
    let links_max = grants.links_allowed(&peer);
    let links_kept = u16::try_from(links_kept).unwrap_or(u16::MAX);
    let grant = OpenerHello { about: agreement::about(), links_kept, links_max, granted };
    let hello = LinkFrame::OpenerHello(grant.clone());
    send_hello(&mut stream, (LinkStage::AwaitingGrant, LinkEnd::Opener), hello).await?;
    let agreed = Agreement {
        end: LinkEnd::Opener,
        sessions_max: offer.sessions_per_link.into(),
        serves: LinkServices::of_opener(&offer.services, grants.clone(), peer.clone()),
        retire: grants.retire(),
        retired: terms_token,
    };
    Ok(EstablishedLink { link: AgreedLink::new(stream, peer, agreed), offer, grant, mismatches })
}

async fn offer_services(
    mut stream: NetStream,
    mut peer: Peer,
    offered: &OfferedServices,
    links_kept: usize,
    terms_token: CancellationToken,
) -> io::Result<EstablishedLink> {
    let offer = offered.hello_for(&peer, links_kept);
    let hello = LinkFrame::ServerHello(offer.clone());
    send_hello(&mut stream, (LinkStage::AwaitingOffer, LinkEnd::Server), hello).await?;
    let LinkFrame::OpenerHello(mut grant) = read_hello(&mut stream, LinkEnd::Opener).await? else {
        return Err(unexpected_frame());
    };
    peer.instance = Some(grant.about.instance);
    let names: HashSet<_> = offer.services.iter().map(|of| &of.name).collect();
    grant.granted.retain(|service| names.contains(service));
    let agreed = Agreement {
        end: LinkEnd::Server,
        sessions_max: offer.sessions_per_link.into(),
        serves: LinkServices::of_server(&offer.services, &grant.granted),
        retire: offered.retire,
        retired: terms_token,
    };
    let link = AgreedLink::new(stream, peer, agreed);
    Ok(EstablishedLink { link, offer, grant, mismatches: Vec::new() })
}

async fn send_hello(
    stream: &mut NetStream,
    (mut stage, from): (LinkStage, LinkEnd),
    hello: LinkFrame,
) -> io::Result<()> {
    let mut out = Vec::new();
    stage.permit(from, hello).map_err(broken_link)?.push(&mut out);
    stream.write_all(&out).await?;
    stream.flush().await
}

/// Reads exactly one frame, not a byte more.
async fn read_hello(stream: &mut NetStream, from: LinkEnd) -> io::Result<LinkFrame> {
    let mut reader = FrameReader::new(from);
    let mut bytes = vec![0; HEADER_BYTES];
    stream.read_exact(&mut bytes).await?;
    loop {
        let mut input = bytes.as_slice();
        let received = reader.decode(&mut input).map_err(broken_link)?;
        match received {
            Some(DecodedPiece::Frame { frame, .. }) => return Ok(frame),
            Some(DecodedPiece::Data { .. }) => return Err(unexpected_frame()),
            None => {
                bytes = vec![0; reader.missing().clamp(1, HELLO_READ_BYTES)];
                stream.read_exact(&mut bytes).await?;
            }
        }
    }
}

fn broken_link(how: PeerViolation) -> io::Error {
    io::Error::other(LinkLoss::Broken(how))
}

/// The error for a frame other than `hello`.
fn unexpected_frame() -> io::Error {
    io::Error::other("another frame than `hello`")
}

/// Why no gateway answers at this address.
pub async fn why_unanswered(address: &LinkAddress, outer: &EdgeTls) -> Option<HandshakeError> {
    match target_addresses::connect(address, None).await {
        Ok(stream) => find_balancer_refusal(stream, address, outer).await,
        Err(error) => Some(error),
    }
}

/// Why none answers at these addresses of a target.
pub async fn why_unanswered_at(
    address: &LinkAddress,
    target: (&HostPort, &[IpAddr]),
    outer: &EdgeTls,
) -> Option<HandshakeError> {
    match target_addresses::connect_known(address, target, DIAL_TIMEOUT).await {
        Ok(stream) => find_balancer_refusal(stream, address, outer).await,
        Err(error) => Some(error),
    }
}

/// Why a connection that was accepted leads to no gateway: a balancer that says it has nobody behind it does not count
/// as one.
async fn find_balancer_refusal(
    stream: TcpStream,
    address: &LinkAddress,
    outer: &EdgeTls,
) -> Option<HandshakeError> {
    match timeout(HANDSHAKE_TIMEOUT, dial_carrier(stream, address, outer)).await {
        Ok(Err(error)) if error.has_no_gateway_behind() => Some(HandshakeError::Carrier(error)),
        Ok(_) | Err(_) => None,
    }
}

/// The dialling side, including TLS: checks that the other gateway is there and is who it should be. `target`
/// holds its addresses if it is a target of SRV records.
pub async fn dial(
    address: &LinkAddress,
    target: Option<&TargetAddresses>,
    identity: Option<&LinkIdentity>,
    outer: &EdgeTls,
) -> Result<DialledStream, HandshakeError> {
    let stream = target_addresses::connect(address, target).await?;
    let by = Instant::now() + HANDSHAKE_TIMEOUT;
    let handshake = async {
        tcp::prepare_link(&stream).map_err(HandshakeError::Socket)?;
        let below = dial_carrier(stream, address, outer).await.map_err(HandshakeError::Carrier)?;
        let (stream, name) = match identity {
            Some(identity) => {
                let connected = identity.connect(below, address.host_name()).await;
                let (stream, name) = connected.map_err(HandshakeError::Tls)?;
                (stream, Some(name.into()))
            }
            None => (below.into_plain(), None),
        };
        Ok(DialledStream {
            stream,
            peer: Peer { name, address: address.at.to_string().into(), instance: None },
            by,
        })
    };
    let dialled = timeout_at(by, handshake).await.unwrap_or(Err(HandshakeError::Late));
    match &address.via {
        None => dialled,
        // The error may come from the proxy.
        Some(proxy) => dialled.map_err(|error| HandshakeError::Through(proxy.clone(), Box::new(error))),
    }
}

/// Performs SOCKS5's first step, the method, on a dialled link.
pub async fn offer_method(reached: &mut DialledStream) -> Result<(), HandshakeError> {
    let offered = timeout_at(reached.by, socks5::offer_method(&mut reached.stream)).await;
    Ok(offered.map_err(|_| HandshakeError::Late)??)
}

/// Waits for the second reply to BIND, which names the client that has come, as the other gateway knows it.
pub async fn read_announcement(stream: &mut NetStream) -> Result<Address, HandshakeError> {
    let first = socks5::await_announcement(stream).await?;
    let announced = timeout(HANDSHAKE_TIMEOUT, socks5::read_announcement(first, stream)).await;
    Ok(announced.map_err(|_| HandshakeError::HalfAnnounced)??)
}

/// Parks a dialled SOCKS5 link: method, BIND and its first reply.
pub async fn park(reached: &mut DialledStream, service: &ServiceName) -> Result<(), HandshakeError> {
    let DialledStream { stream, by, .. } = reached;
    let handshake = async {
        socks5::offer_method(stream).await?;
        socks5::send_request(stream, SocksCommand::Bind, service).await?;
        socks5::read_reply(stream).await?;
        Ok(())
    };
    timeout_at(*by, handshake).await.unwrap_or(Err(HandshakeError::Late))
}

/// Answers a request with a refusal, and gives the other side time to read it.
pub async fn refuse(mut stream: NetStream, refusal: Refusal) {
    let refusal = async {
        if socks5::send_reply(&mut stream, socks5::reply::reply_to(refusal)).await.is_ok() {
            close_lingering(stream).await;
        }
    };
    // Past the deadline the link is dropped, which resets it: that also refuses it, but gives no reason.
    let _ = timeout(2 * LINGERING_CLOSE_TIMEOUT, refusal).await;
}

/// Closes a link cleanly: what was sent is delivered, and what still comes in is read for a moment. Closing
/// with unread bytes would reset the connection and could lose the reply.
pub async fn close_lingering(mut stream: NetStream) {
    stream.let_close_cleanly();
    let close_bytes = async {
        stream.shutdown().await?;
        let mut rest = (&mut stream).take(CLOSE_BYTES_MAX);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // If this fails or takes too long, the link is still dropped.
    let _ = timeout(LINGERING_CLOSE_TIMEOUT, close_bytes).await;
}
