//! What a dialled link runs over until its handshake begins: TCP itself, or a WebSocket, perhaps with an outer
//! TLS that a proxy on the way may end. [`super::endpoint`] turns the accepting end into a WebSocket.

use std::sync::Arc;

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::net::TcpStream;

use crate::{
    http::link_upgrade::{UpgradeError, ask_upgrade},
    net::{
        framed::{FramedEnd, FramedSocket},
        read_ahead::TlsTransport,
        stream::NetStream,
    },
    profile::{LinkAddress, LinkCarrier, OuterTls},
    tls::{edge::EdgeTls, error::TlsError},
};

/// The TLS around the WebSockets of a half's links, ready to use; a reload replaces it.
pub type OuterTlsCell = Arc<ArcSwap<EdgeTls>>;

/// Why a connection could not be made to carry a link.
#[derive(Debug, Error)]
pub enum CarrierError {
    #[error("outer TLS: {0}")]
    Tls(#[from] TlsError),
    #[error("outer TLS: its files cannot be used")]
    Faulty,
    #[error("WebSocket: {0}")]
    WebSocket(#[from] UpgradeError),
}

impl CarrierError {
    /// Whether a balancer says that there is no gateway behind it.
    pub fn has_no_gateway_behind(&self) -> bool {
        matches!(self, Self::WebSocket(error) if error.has_no_gateway_behind())
    }
}

/// Turns a dialled connection into what carries a link to this address.
pub async fn dial_carrier(
    stream: TcpStream,
    address: &LinkAddress,
    outer: &EdgeTls,
) -> Result<TlsTransport, CarrierError> {
    let LinkCarrier::WebSocket(socket) = &address.carrier else { return Ok(TlsTransport::Socket(stream)) };
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
    Ok(TlsTransport::Framed(Box::new(FramedSocket::new(upgraded, FramedEnd::Dialled))))
}
