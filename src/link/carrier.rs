//! What carries a link to where its handshake begins: TCP itself, or a WebSocket, perhaps with TLS around it that
//! somebody on the way may end.

use std::sync::Arc;

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::net::TcpStream;

use crate::{
    http::link_upgrade::{UpgradeError, answer_upgrade, ask_upgrade},
    net::{
        framed::{FramedEnd, FramedSocket},
        read_ahead::BelowTls,
        stream::NetStream,
    },
    profile::{EdgeScheme, LinkAddress, LinkCarrier, OuterTls},
    tls::{
        client_hello::{ClientHello, HelloReadError},
        edge::{EdgeTls, TlsServer},
        error::TlsError,
    },
};

/// The TLS around the WebSockets of a half's links, opened; a reload replaces it.
pub type OuterTlsCell = Arc<ArcSwap<EdgeTls>>;

/// Why a connection did not come to carry a link.
#[derive(Debug, Error)]
pub enum CarrierError {
    #[error("outer TLS: {0}")]
    Tls(#[from] TlsError),
    #[error("outer TLS: {0}")]
    Hello(#[from] HelloReadError),
    #[error("outer TLS: its files can not be used")]
    Faulty,
    #[error("WebSocket: {0}")]
    WebSocket(#[from] UpgradeError),
}

/// A connection that should carry a link.
#[derive(Debug)]
pub enum IncomingLink {
    Bare(TcpStream),
    /// It begins with a request for a WebSocket at this path.
    Asking(TcpStream, Arc<str>),
    /// The same within TLS.
    AskingInTls(TcpStream, Arc<str>, TlsServer),
    /// It has become a WebSocket already.
    Framed(Box<FramedSocket>),
}

impl IncomingLink {
    /// A connection to a port that is for links alone.
    pub fn new(stream: TcpStream, carrier: &LinkCarrier, outer: &EdgeTls) -> Result<Self, CarrierError> {
        let LinkCarrier::WebSocket(socket) = carrier else { return Ok(Self::Bare(stream)) };
        let path = Arc::from(socket.path.as_str());
        match &socket.outer {
            OuterTls::None => Ok(Self::Asking(stream, path)),
            OuterTls::Shown(tls) => {
                let server = outer.accept_server(tls, EdgeScheme::Wss).ok_or(CarrierError::Faulty)?;
                Ok(Self::AskingInTls(stream, path, server))
            }
            OuterTls::OfPort | OuterTls::Checked(_) | OuterTls::CheckedByTarget(_) => {
                Err(CarrierError::Faulty)
            }
        }
    }

    /// What its handshake goes over.
    pub async fn open(self) -> Result<BelowTls, CarrierError> {
        let (stream, path) = match self {
            Self::Bare(stream) => return Ok(BelowTls::Socket(stream)),
            Self::Framed(framed) => return Ok(BelowTls::Framed(framed)),
            Self::Asking(stream, path) => (NetStream::Tcp(stream), path),
            Self::AskingInTls(mut stream, path, server) => {
                let hello = ClientHello::read(&mut stream, Vec::new()).await?;
                (server.accept(hello, stream).await?.0, path)
            }
        };
        let upgraded = answer_upgrade(stream, path).await?;
        Ok(BelowTls::Framed(Box::new(FramedSocket::new(upgraded, FramedEnd::Accepted))))
    }
}

/// Makes a connection that was dialled what carries a link to this address.
pub async fn dial_carrier(
    stream: TcpStream,
    address: &LinkAddress,
    outer: &EdgeTls,
) -> Result<BelowTls, CarrierError> {
    let LinkCarrier::WebSocket(socket) = &address.carrier else { return Ok(BelowTls::Socket(stream)) };
    let stream = match &socket.outer {
        OuterTls::None => NetStream::Tcp(stream),
        OuterTls::Checked(tls) => {
            let client = outer.connect_client(tls).ok_or(CarrierError::Faulty)?;
            client.connect(stream, &[]).await?
        }
        OuterTls::CheckedByTarget(tls) => {
            let client = outer.connect_client(tls).and_then(|client| client.named(address.host_name()));
            client.ok_or(CarrierError::Faulty)?.connect(stream, &[]).await?
        }
        OuterTls::OfPort | OuterTls::Shown(_) => return Err(CarrierError::Faulty),
    };
    let upgraded = ask_upgrade(stream, &address.authority(), &socket.path).await?;
    Ok(BelowTls::Framed(Box::new(FramedSocket::new(upgraded, FramedEnd::Dialled))))
}
