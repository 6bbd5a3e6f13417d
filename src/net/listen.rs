//! Bind, and the accept loop.
//!
//! The loop does nothing but accept: no handshake, no look-up. When descriptors run out it
//! pauses instead of spinning and says so once a second.

use std::{
    io,
    net::{Shutdown, SocketAddr, ToSocketAddrs},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{sockets, tcp};
use crate::profile::HostPort;

/// Clients that the kernel holds for us between two accepts.
const BACKLOG: i32 = 4096;
/// Pause when a resource has run out; some will be free by then.
const RESOURCE_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Error)]
pub enum BindError {
    #[error("{at}: the name does not resolve: {source}")]
    Resolve { at: HostPort, source: io::Error },
    #[error("{at}: the port is taken by another program{}", .by.as_ref().map(|by| format!(" ({by})")).unwrap_or_default())]
    Taken { at: HostPort, by: Option<String> },
    #[error("{at}: this user may not bind it; a port below 1024 needs CAP_NET_BIND_SERVICE")]
    Forbidden { at: HostPort },
    #[error("{at}: {source}")]
    Other { at: HostPort, source: io::Error },
}

/// A port that listens.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    stop: CancellationToken,
}

/// Closes a port when it is dropped, whoever accepts there.
#[derive(Debug)]
pub struct Closer(Weak<Listener>);

impl Closer {
    /// When this returns nobody connects there any more; the socket goes with the loop that accepts.
    pub fn close(&self) {
        if let Some(listener) = self.0.upgrade() {
            listener.stop.cancel();
            // It can fail only on a socket that does not listen.
            let _ = SockRef::from(&listener.socket).shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        self.close();
    }
}

/// Binds a port for clients; port 0 takes a free port.
pub fn bind_for_clients(at: &HostPort) -> Result<Arc<Listener>, BindError> {
    bind_with(at, tcp::prepare_clients)
}

/// Binds a port for links; port 0 takes a free port.
pub fn bind(at: &HostPort) -> Result<Arc<Listener>, BindError> {
    bind_with(at, |_| Ok(()))
}

fn bind_with(at: &HostPort, prepare: impl Fn(&Socket) -> io::Result<()>) -> Result<Arc<Listener>, BindError> {
    let resolve = |source| BindError::Resolve { at: at.clone(), source };
    let address = (at.host.as_str(), at.port)
        .to_socket_addrs()
        .and_then(|mut found| found.next().ok_or_else(|| io::ErrorKind::NotFound.into()))
        .map_err(resolve)?;
    let socket = open(address, prepare).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::Taken { at: at.clone(), by: sockets::holder(address.port()) },
        io::ErrorKind::PermissionDenied => BindError::Forbidden { at: at.clone() },
        _ => BindError::Other { at: at.clone(), source },
    })?;
    Ok(Arc::new(Listener { socket, stop: CancellationToken::new() }))
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

impl Listener {
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub fn closer(self: &Arc<Self>) -> Closer {
        Closer(Arc::downgrade(self))
    }

    /// Accepts until it is closed.
    pub async fn accept(
        &self,
        mut accepted: impl FnMut(TcpStream, SocketAddr),
        mut trouble: impl FnMut(&io::Error),
    ) {
        let stop = &self.stop;
        let mut told: Option<Instant> = None;
        while let Some(result) = stop.run_until_cancelled(self.socket.accept()).await {
            match result {
                Ok((stream, address)) => accepted(stream, address),
                Err(error) if is_of_one_connection(&error) || stop.is_cancelled() => {}
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
}

/// The client went away between its SYN and our accept (accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_port_refuses_at_once_though_nobody_has_run_since() {
        let listener = bind(&HostPort { host: "127.0.0.1".into(), port: 0 }).expect("a free port");
        let (at, closer) = (listener.local_addr().expect("it is bound"), listener.closer());
        let dial = || std::net::TcpStream::connect(at);
        dial().expect("it listens");
        closer.close();
        assert_eq!(dial().expect_err("it is closed").kind(), io::ErrorKind::ConnectionRefused);
        let unused = |_, _| ();
        listener.accept(unused, |error| panic!("a closed port is no trouble: {error}")).await;
    }
}
