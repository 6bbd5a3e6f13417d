//! Bind, and the accept loop.
//!
//! The loop does nothing but accept: no handshake, no look-up. When descriptors run out it
//! pauses instead of spinning and says so once a second.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::tcp;
use crate::profile::HostPort;

/// Clients that the kernel holds for us between two accepts.
const BACKLOG: i32 = 4096;
/// Pause when a resource has run out; some will be free by then.
const RESOURCE_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Error)]
pub enum BindError {
    #[error("{at}: the name does not resolve: {source}")]
    Resolve { at: HostPort, source: io::Error },
    #[error("{at}: the port is taken by another program")]
    Taken { at: HostPort },
    #[error("{at}: this user may not bind it; a port below 1024 needs CAP_NET_BIND_SERVICE")]
    Forbidden { at: HostPort },
    #[error("{at}: {source}")]
    Other { at: HostPort, source: io::Error },
}

/// Binds a port for clients; port 0 takes a free port.
pub fn bind_for_clients(at: &HostPort) -> Result<TcpListener, BindError> {
    bind_with(at, tcp::prepare_clients)
}

/// Binds a port for links; port 0 takes a free port.
pub fn bind(at: &HostPort) -> Result<TcpListener, BindError> {
    bind_with(at, |_| Ok(()))
}

fn bind_with(at: &HostPort, prepare: impl Fn(&Socket) -> io::Result<()>) -> Result<TcpListener, BindError> {
    let resolve = |source| BindError::Resolve { at: at.clone(), source };
    let address = (at.host.as_str(), at.port)
        .to_socket_addrs()
        .and_then(|mut found| found.next().ok_or_else(|| io::ErrorKind::NotFound.into()))
        .map_err(resolve)?;
    open(address, prepare).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::Taken { at: at.clone() },
        io::ErrorKind::PermissionDenied => BindError::Forbidden { at: at.clone() },
        _ => BindError::Other { at: at.clone(), source },
    })
}

fn open(address: SocketAddr, prepare: impl Fn(&Socket) -> io::Result<()>) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    prepare(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts until `stop`; the listening socket is closed when this returns.
pub async fn accept_loop(
    listener: TcpListener,
    stop: CancellationToken,
    mut accepted: impl FnMut(TcpStream, SocketAddr),
    mut trouble: impl FnMut(&io::Error),
) {
    let mut told: Option<Instant> = None;
    while let Some(result) = stop.run_until_cancelled(listener.accept()).await {
        match result {
            Ok((stream, address)) => accepted(stream, address),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if told.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
                    told = Some(Instant::now());
                    trouble(&error);
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(RESOURCE_PAUSE) => {}
                }
            }
        }
    }
}

/// The client went away between its SYN and our accept (accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
