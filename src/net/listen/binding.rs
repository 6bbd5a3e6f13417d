//! How the addresses of a port become sockets, and why they do not. All addresses of a port are bound or none is,
//! except those that this machine does not have yet.

use std::{io, net::SocketAddr, sync::Arc};

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::net::TcpListener;

use crate::{
    confine::refused_call,
    net::{
        passed::{self, PassedError},
        resolve_error::ResolveError,
        sockets::{self, PortHolder},
    },
    profile::HostPort,
};

/// How many clients the kernel holds for us between two accepts.
pub const BACKLOG: i32 = 4096;
/// How often to look for one free port that suits all addresses of a name.
const FREE_PORT_TRIES: usize = 16;

#[derive(Debug, Error)]
pub enum BindError {
    #[error("{at}: the name does not resolve: {source}")]
    Resolve { at: HostPort, source: ResolveError },
    #[error(
        "{at}: this machine has no such address; correct it, or add `bind: wait` to wait until it exists"
    )]
    Absent { at: HostPort },
    #[error("{at}: the port is taken by another program{}; stop that program or use another port", .by.as_ref().map(|by| format!(" ({by})")).unwrap_or_default())]
    Taken { at: HostPort, by: Option<PortHolder> },
    #[error(
        "{at}: the port is taken by this gateway, which listens there at another address; use another port, or start it again"
    )]
    TakenHere { at: HostPort },
    #[error("{at}: this user may not bind it; a port below 1024 needs CAP_NET_BIND_SERVICE")]
    Forbidden { at: HostPort },
    #[error("{at}: {source}")]
    Passed { at: HostPort, source: PassedError },
    #[error("{at}: {source}")]
    Other { at: HostPort, source: io::Error },
}

/// A listening socket with its address, which is kept because every snapshot needs it.
#[derive(Debug)]
pub(super) struct BoundSocket {
    pub socket: TcpListener,
    pub at: SocketAddr,
    pub origin: SocketOrigin,
}

/// The owner of a socket, which keeps the port when this process does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SocketOrigin {
    Own,
    /// Passed in by a service manager, which keeps it open.
    Passed,
}

pub(super) type PrepareSocket = fn(&Socket) -> io::Result<()>;

/// The result of binding some addresses.
pub(super) struct BindOutcome {
    pub sockets: Vec<Arc<BoundSocket>>,
    pub absent: Vec<(SocketAddr, io::Error)>,
}

impl BindOutcome {
    /// Binds all addresses that this machine has, on one port; or none.
    pub fn at(at: &HostPort, addresses: Vec<SocketAddr>, prepare: PrepareSocket) -> Result<Self, BindError> {
        let mut tries = if at.port == 0 { FREE_PORT_TRIES } else { 1 };
        loop {
            tries -= 1;
            let mut bound = Self::each(&addresses, at.port, prepare);
            let Some(failed) = bound.absent.iter().position(|(_, error)| !is_absence(error)) else {
                return Ok(bound);
            };
            let (address, source) = bound.absent.swap_remove(failed);
            // A port that is free at the first address may be taken at the second.
            if tries > 0 && source.kind() == io::ErrorKind::AddrInUse {
                continue;
            }
            let at = described_address(at, address);
            return Err(match source.kind() {
                io::ErrorKind::AddrInUse => match sockets::port_holder(address.port()) {
                    Some(holder) if holder.is_this_process() => BindError::TakenHere { at },
                    by => BindError::Taken { at, by },
                },
                io::ErrorKind::PermissionDenied => BindError::Forbidden { at },
                _ => BindError::Other { at, source },
            });
        }
    }

    /// Binds each address that can be bound; with port 0, all on the port that the first one gets.
    pub fn each(addresses: &[SocketAddr], mut port: u16, prepare: PrepareSocket) -> Self {
        let mut bound = Self { sockets: Vec::new(), absent: Vec::new() };
        for address in addresses {
            let address = with_port(*address, port);
            // A hosts file may contain it twice.
            if bound.sockets.iter().any(|open| open.at == address) {
                continue;
            }
            match open_socket(address, prepare) {
                Ok(open) => {
                    port = open.at.port();
                    bound.sockets.push(Arc::new(open));
                }
                Err(error) => bound.absent.push((address, error)),
            }
        }
        bound.absent.iter_mut().for_each(|(address, _)| address.set_port(port));
        bound
    }
}

fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

fn open_socket(address: SocketAddr, prepare: PrepareSocket) -> io::Result<BoundSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // Otherwise the system's `net.ipv6.bindv6only` would decide whether IPv4 is included.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    prepare(&socket)?;
    socket.bind(&address.into()).map_err(|error| refused_call::explain("bind", error))?;
    socket.listen(BACKLOG).map_err(|error| refused_call::explain("listen", error))?;
    let socket = TcpListener::from_std(socket.into())?;
    Ok(BoundSocket { at: socket.local_addr()?, socket, origin: SocketOrigin::Own })
}

/// The sockets that were passed in with that name: already bound and listening.
pub(super) fn open_passed(
    at: &HostPort,
    name: &str,
    prepare: PrepareSocket,
) -> Result<Vec<Arc<BoundSocket>>, BindError> {
    let passed = passed::listeners(name).map_err(|source| BindError::Passed { at: at.clone(), source })?;
    let open = |socket: std::net::TcpListener| {
        let socket = Socket::from(socket);
        prepare(&socket)?;
        let socket = TcpListener::from_std(socket.into())?;
        Ok(Arc::new(BoundSocket { at: socket.local_addr()?, socket, origin: SocketOrigin::Passed }))
    };
    let opened: io::Result<Vec<_>> = passed.into_iter().map(open).collect();
    opened.map_err(|source| BindError::Other { at: at.clone(), source })
}

/// An address for operators: one that is written in the profile appears as it is there.
pub(super) fn described_address(at: &HostPort, address: SocketAddr) -> HostPort {
    match at.is_address() {
        true => HostPort { host: at.host.clone(), port: address.port() },
        false => HostPort { host: address.ip().to_string(), port: address.port() },
    }
}

/// Whether this machine lacks the address, or the whole family.
pub(super) fn is_absence(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::ENODEV))
}
