//! Both ends of a link's greeting: TLS, method, request, each step under one deadline.

use std::{net::SocketAddr, sync::Arc};

use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{DIAL, FAREWELL, GREET, Peer, Refusal};
use crate::{
    net::{
        dial::{self, DialError},
        stream::Stream,
        tcp,
        tls::Identity,
    },
    profile::{LinkAddress, ServiceName},
    proto::socks5::{self, Asks, SocksError},
};

/// Bytes of a refused link that are read off so that its reply is not lost to a reset.
const FAREWELL_BYTES_MAX: u64 = 64 * 1024;

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
    Socket(std::io::Error),
}

/// How a greeting went.
#[derive(Debug)]
pub enum Greeted {
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
    identity: Option<&Identity>,
    serves: Asks,
) -> Result<Greeted, LinkError> {
    let greeting = async {
        tcp::prepare_link(&stream).map_err(LinkError::Socket)?;
        let address: Arc<str> = from.ip().to_canonical().to_string().into();
        let (mut stream, name) = match identity {
            Some(identity) => {
                let (stream, name) = identity.accept(stream).await.map_err(LinkError::Tls)?;
                (stream, Some(name.into()))
            }
            None => (Stream::Tcp(stream), None),
        };
        let peer = Peer { name, address };
        match requested(&mut stream, serves).await {
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
    timeout(GREET, greeting).await.unwrap_or(Err(LinkError::Late))
}

async fn requested(stream: &mut Stream, serves: Asks) -> Result<ServiceName, LinkError> {
    socks5::take_method(stream).await?;
    Ok(socks5::take_ask(stream, serves).await?)
}

/// The dialling side, up to the method: the other gateway is there and is who it should be.
pub async fn dial(address: &LinkAddress, identity: Option<&Identity>) -> Result<(Stream, Peer), LinkError> {
    let stream = dial::dial(&address.at, DIAL).await?;
    let greeting = async {
        tcp::prepare_link(&stream).map_err(LinkError::Socket)?;
        let (mut stream, name) = match identity {
            Some(identity) => {
                let connected = identity.connect(stream, &address.at.host).await;
                let (stream, name) = connected.map_err(LinkError::Tls)?;
                (stream, Some(name.into()))
            }
            None => (Stream::Tcp(stream), None),
        };
        socks5::offer_method(&mut stream).await?;
        Ok((stream, Peer { name, address: address.at.to_string().into() }))
    };
    timeout(GREET, greeting).await.unwrap_or(Err(LinkError::Late))
}

/// The dialling side of a link that is to be parked: BIND and its first reply.
pub async fn park(stream: &mut Stream, service: &ServiceName) -> Result<(), LinkError> {
    let greeting = async {
        socks5::ask(stream, Asks::Bind, service).await?;
        socks5::take_answer(stream).await?;
        Ok(())
    };
    timeout(GREET, greeting).await.unwrap_or(Err(LinkError::Late))
}

/// Answers a request with a refusal, and lets the other side hear it.
pub async fn refuse(mut stream: Stream, refusal: Refusal) {
    let refusal = async {
        if socks5::answer(&mut stream, refusal.reply()).await.is_ok() {
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
