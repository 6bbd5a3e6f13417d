//! Reads the PROXY protocol header that a proxy in front of us sends. The bytes are parsed in `proto::proxy`; here is
//! only how many of them are read, and no more. Headers for backends are sent in `connect::direct`; proxies that links are
//! dialled through are in `via`.

use std::{io, net::SocketAddr};

use thiserror::Error;
use tokio::{io::AsyncReadExt, net::TcpStream};

use crate::proto::proxy::{self, ProxyHeader, ProxyHeaderError};

/// Why a header could not be read.
#[derive(Debug, Error)]
pub enum ProxyReadError {
    #[error("it left before its PROXY header was complete")]
    Left,
    #[error(transparent)]
    Malformed(#[from] ProxyHeaderError),
    #[error(transparent)]
    Io(io::Error),
}

/// Reads a header; returns it with the bytes that were read after it.
pub async fn read(stream: &mut TcpStream) -> Result<(ProxyHeader, Vec<u8>), ProxyReadError> {
    let mut sent = Vec::new();
    loop {
        match stream.read_buf(&mut sent).await {
            Ok(0) => return Err(ProxyReadError::Left),
            Ok(_) => {}
            Err(error) => return Err(ProxyReadError::Io(error)),
        }
        if let Some(mut header) = proxy::parse(&sent)? {
            let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
            header.client = header.client.map(canonical);
            header.destination = header.destination.map(canonical);
            let rest = sent.split_off(header.length);
            return Ok((header, rest));
        }
    }
}
