//! Resolve a name and connect, under one deadline.

use std::{io, net::SocketAddr, time::Duration};

use thiserror::Error;
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

use crate::profile::HostPort;

/// Why a dial failed; each variant maps to one answer on the wire.
#[derive(Debug, Error)]
pub enum DialError {
    #[error("{at}: the name does not resolve: {source}")]
    Resolve { at: HostPort, source: io::Error },
    #[error("{at}: connection refused")]
    Refused { at: HostPort },
    #[error("{at}: no answer within {}s", within.as_secs_f32())]
    Timeout { at: HostPort, within: Duration },
    #[error("{at}: unreachable: {source}")]
    Unreachable { at: HostPort, source: io::Error },
    #[error("{at}: {source}")]
    Local { at: HostPort, source: io::Error },
}

/// Connects to the first address of `at` that answers.
pub async fn dial(at: &HostPort, within: Duration) -> Result<TcpStream, DialError> {
    match timeout(within, connect(at)).await {
        Ok(result) => result,
        Err(_) => Err(DialError::Timeout { at: at.clone(), within }),
    }
}

async fn connect(at: &HostPort) -> Result<TcpStream, DialError> {
    let resolve = |source| DialError::Resolve { at: at.clone(), source };
    let addresses: Vec<SocketAddr> =
        lookup_host((at.host.as_str(), at.port)).await.map_err(resolve)?.collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(classify(at, last))
}

fn classify(at: &HostPort, source: io::Error) -> DialError {
    let at = at.clone();
    match source.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => DialError::Refused { at },
        io::ErrorKind::TimedOut
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown
        | io::ErrorKind::PermissionDenied => DialError::Unreachable { at, source },
        io::ErrorKind::NotFound => DialError::Resolve { at, source },
        _ => DialError::Local { at, source },
    }
}
