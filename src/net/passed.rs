//! Sockets that this process was started with: a service manager opens ports, and passes them in by name
//! (sd_listen_fds(3)). They outlive the process, so that a restart refuses no connection.
//!
//! Closing such a port closes it for this process only: whoever passed it still holds it.

use std::{
    env,
    net::SocketAddr,
    os::fd::{OwnedFd, RawFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::{Errno, fcntl_dupfd_cloexec},
    net::{AddressFamily, SocketType, sockopt},
};
use thiserror::Error;

use super::socket_options::take_over;

/// The number of the first descriptor; the others follow.
const FIRST: RawFd = 3;
/// A service manager passes no more than this; a number beyond it is a mistake.
const PASSED_MAX: RawFd = 1024;
/// The name of a socket without a name, as in systemd.
const UNNAMED: &str = "unknown";

static PASSED: Mutex<Vec<PassedSocket>> = Mutex::new(Vec::new());

/// A socket that was passed in.
#[derive(Debug)]
struct PassedSocket {
    name: String,
    socket: Result<OwnedFd, PassedError>,
}

/// Why a passed socket cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PassedError {
    #[error("no socket of that name was passed in; those that were: {0}")]
    Missing(String),
    #[error("the socket that was passed in is closed already")]
    Closed,
    #[error("what was passed in is {0}, and no listening TCP socket")]
    OtherKind(&'static str),
    #[error("the socket that was passed in: {0}")]
    Failed(#[from] Errno),
}

/// Takes over the sockets that this process was started with. Must be called before anything is opened.
pub fn take_over_all() {
    let variable = |name: &str| env::var(name).ok();
    let is_meant = variable("LISTEN_PID").is_some_and(|pid| pid.parse() == Ok(std::process::id()));
    let count = variable("LISTEN_FDS").and_then(|count| count.parse().ok()).unwrap_or(0);
    if is_meant {
        let names = variable("LISTEN_FDNAMES").unwrap_or_default();
        *lock() = take_over_from(FIRST, RawFd::clamp(count, 0, PASSED_MAX), &names);
    }
}

fn take_over_from(first: RawFd, count: RawFd, names: &str) -> Vec<PassedSocket> {
    let mut names = names.split(':').map(|name| if name.is_empty() { UNNAMED } else { name });
    let socket = |number| {
        let name = names.next().unwrap_or(UNNAMED).to_owned();
        let socket = take_over(number).map_err(|_| PassedError::Closed);
        PassedSocket { name, socket: socket.and_then(|socket| check_listener(&socket).map(|()| socket)) }
    };
    (first..first.saturating_add(count)).map(socket).collect()
}

fn check_listener(socket: &OwnedFd) -> Result<(), PassedError> {
    let kind = sockopt::socket_type(socket).map_err(|_| PassedError::OtherKind("a file"))?;
    if kind != SocketType::STREAM {
        return Err(PassedError::OtherKind("a socket for datagrams"));
    }
    match sockopt::socket_domain(socket) {
        Ok(AddressFamily::INET | AddressFamily::INET6) => {}
        _ => return Err(PassedError::OtherKind("a local socket")),
    }
    match sockopt::socket_acceptconn(socket) {
        Ok(true) => Ok(()),
        _ => Err(PassedError::OtherKind("a connection")),
    }
}

/// The listening sockets with that name, duplicated for whoever opens the port, so they can be requested again.
pub fn listeners(name: &str) -> Result<Vec<std::net::TcpListener>, PassedError> {
    let passed = lock();
    let of_name: Vec<_> = passed.iter().filter(|socket| socket.name == name).collect();
    if of_name.is_empty() {
        return Err(PassedError::Missing(name_all(&passed)));
    }
    of_name
        .into_iter()
        .map(|socket| duplicate_listener(socket.socket.as_ref().map_err(Clone::clone)?))
        .collect()
}

fn duplicate_listener(socket: &OwnedFd) -> Result<std::net::TcpListener, PassedError> {
    fcntl_setfl(socket, fcntl_getfl(socket)? | OFlags::NONBLOCK)?;
    Ok(fcntl_dupfd_cloexec(socket, FIRST)?.into())
}

/// Closes those that are not wanted, and returns their names.
pub fn close_others(is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut passed = lock();
    let closed = passed.extract_if(.., |socket| !is_wanted(&socket.name));
    closed.map(|socket| socket.name).collect()
}

/// The names of all of them, including those that cannot be used.
pub fn names() -> Vec<String> {
    lock().iter().map(|socket| socket.name.clone()).collect()
}

/// Where the sockets with that name listen.
pub fn addresses(name: &str) -> Vec<SocketAddr> {
    let listeners = listeners(name).unwrap_or_default();
    listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
}

fn name_all(passed: &[PassedSocket]) -> String {
    match passed {
        [] => "none".into(),
        _ => passed.iter().map(|socket| format!("`{}`", socket.name)).collect::<Vec<_>>().join(", "),
    }
}

fn lock() -> MutexGuard<'static, Vec<PassedSocket>> {
    PASSED.lock().unwrap_or_else(PoisonError::into_inner)
}
