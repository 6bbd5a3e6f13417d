//! Binds ports, and runs the accept loop.
//!
//! A name is bound at every address it has, and IPv6 never includes IPv4: `[::]` and `0.0.0.0` are two
//! addresses, whatever the system's setting. The loop only accepts: it does no handshake and no look-up. When
//! descriptors run out, it pauses instead of spinning, and reports that once a second.

use std::{
    future::{pending, poll_fn},
    io,
    net::{Shutdown, SocketAddr},
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::Poll,
    time::Duration,
};

use socket2::SockRef;
use thiserror::Error;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{resolve_error::ResolveError, resolver::NameResolver, tcp};
use crate::{
    admission::quota::{DescriptorQuota, QuotaPermit},
    profile::{BindPolicy, HostPort},
};

mod binding;

pub use binding::{BACKLOG, BindError};
use binding::{
    BindOutcome, BoundSocket, PrepareSocket, SocketOrigin, described_address, is_absence, open_passed,
};

/// The pause when a resource has run out; some will be free afterwards.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);
/// How often an address that does not exist yet is tried again; its name is looked up within the same time.
const BIND_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// An event that a listener reports besides connections.
#[derive(Debug)]
pub enum ListenEvent<'a> {
    /// It cannot accept at the moment.
    Pauses(AcceptPause<'a>),
    /// It does not listen there yet, and keeps trying.
    Waits { at: &'a HostPort, why: String },
    /// It listens at an address that it had waited for.
    Listens(SocketAddr),
}

/// Why a port does not accept for a moment.
#[derive(Debug, Clone, Copy, Error)]
pub enum AcceptPause<'a> {
    #[error("{0}")]
    Failed(&'a io::Error),
    #[error("all {max} permits are taken")]
    QuotaFull { max: usize },
}

/// A port that listens, or waits until it can.
#[derive(Debug)]
pub struct Listener {
    at: HostPort,
    prepare: PrepareSocket,
    sockets: Mutex<Vec<Arc<BoundSocket>>>,
    /// The addresses it waits for.
    missing: Mutex<MissingAddresses>,
    stop: CancellationToken,
}

#[derive(Debug)]
enum MissingAddresses {
    Nothing,
    /// Its name has no address yet, or its zone no interface.
    Name(ResolveError),
    /// Never empty.
    Addresses(Vec<(SocketAddr, io::Error)>),
}

/// Closes a port when it is dropped, whoever accepts on it.
#[derive(Debug)]
pub struct ListenerGuard(ListenerAddresses);

impl ListenerGuard {
    /// When this returns, no more connections are accepted. The accept loop closes the sockets.
    pub fn close(&self) {
        let Some(listener) = self.0.0.upgrade() else { return };
        listener.stop.cancel();
        for open in listener.lock_sockets().iter().filter(|open| open.origin == SocketOrigin::Own) {
            // This can fail only on a socket that does not listen.
            let _ = SockRef::from(&open.socket).shutdown(Shutdown::Both);
        }
    }
}

impl Deref for ListenerGuard {
    type Target = ListenerAddresses;

    fn deref(&self) -> &ListenerAddresses {
        &self.0
    }
}

/// Tells where a port listens.
#[derive(Debug, Clone)]
pub struct ListenerAddresses(Weak<Listener>);

impl ListenerAddresses {
    /// Where it listens; empty once it is closed.
    pub fn listens_at(&self) -> Vec<SocketAddr> {
        let open = self.0.upgrade().filter(|listener| !listener.stop.is_cancelled());
        open.map(|listener| listener.local_addrs()).unwrap_or_default()
    }

    /// The address it still waits for, and why.
    pub fn awaited(&self) -> Option<String> {
        let (at, why) = self.0.upgrade().filter(|listener| !listener.stop.is_cancelled())?.awaited()?;
        Some(format!("{at}: {why}"))
    }

    /// Where it listens, for operators: an address that is written in the profile appears as it is there.
    pub fn describe(&self) -> Vec<HostPort> {
        let Some(at) = self.0.upgrade().map(|listener| listener.at.clone()) else { return Vec::new() };
        self.listens_at().into_iter().map(|local| described_address(&at, local)).collect()
    }
}

impl Drop for ListenerGuard {
    fn drop(&mut self) {
        self.close();
    }
}

/// Binds a port for clients at these addresses; port 0 takes a free port.
pub fn bind_for_clients(
    at: &HostPort,
    found: Result<Vec<SocketAddr>, ResolveError>,
    bind: BindPolicy,
) -> Result<Arc<Listener>, BindError> {
    Listener::bind(at, found, bind, tcp::prepare_clients)
}

/// Binds a port for links at these addresses; port 0 takes a free port.
pub fn bind(
    at: &HostPort,
    found: Result<Vec<SocketAddr>, ResolveError>,
    bind: BindPolicy,
) -> Result<Arc<Listener>, BindError> {
    Listener::bind(at, found, bind, |_| Ok(()))
}

impl Listener {
    fn bind(
        at: &HostPort,
        found: Result<Vec<SocketAddr>, ResolveError>,
        bind: BindPolicy,
        prepare: PrepareSocket,
    ) -> Result<Arc<Self>, BindError> {
        let (sockets, missing) = match (found, bind) {
            (_, _) if let Some(name) = at.passed_name() => {
                let sockets = open_passed(at, name, prepare)?;
                (sockets, MissingAddresses::Nothing)
            }
            (Ok(addresses), _) => {
                let BindOutcome { sockets, absent } = BindOutcome::at(at, addresses, prepare)?;
                // A name may have addresses of a family that this machine does not have.
                let missing = match (sockets.is_empty(), absent.is_empty(), bind) {
                    (_, true, _) | (false, false, BindPolicy::Now) => MissingAddresses::Nothing,
                    (true, false, BindPolicy::Now) => return Err(BindError::Absent { at: at.clone() }),
                    (_, false, BindPolicy::Wait) => MissingAddresses::Addresses(absent),
                };
                (sockets, missing)
            }
            (Err(error), BindPolicy::Wait) => (Vec::new(), MissingAddresses::Name(error)),
            (Err(_), BindPolicy::Now) if at.is_address() => return Err(BindError::Absent { at: at.clone() }),
            (Err(source), BindPolicy::Now) => return Err(BindError::Resolve { at: at.clone(), source }),
        };
        Ok(Arc::new(Self {
            at: at.clone(),
            prepare,
            sockets: Mutex::new(sockets),
            missing: Mutex::new(missing),
            stop: CancellationToken::new(),
        }))
    }

    /// Where it listens.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.lock_sockets().iter().map(|open| open.at).collect()
    }

    pub fn closer(self: &Arc<Self>) -> ListenerGuard {
        ListenerGuard(ListenerAddresses(Arc::downgrade(self)))
    }

    /// Accepts until it is closed.
    pub async fn accept(
        &self,
        mut accepted: impl FnMut(TcpStream, SocketAddr),
        on_event: impl FnMut(ListenEvent<'_>),
    ) {
        let accepted = |stream, address, _: QuotaPermit| accepted(stream, address);
        let unbounded = DescriptorQuota::new(usize::MAX);
        self.accept_within(|| unbounded.clone(), accepted, on_event).await;
    }

    /// Accepts until it is closed, as many as the quota allows at the time; beyond that it pauses.
    pub async fn accept_within(
        &self,
        quota: impl Fn() -> Arc<DescriptorQuota>,
        mut accepted: impl FnMut(TcpStream, SocketAddr, QuotaPermit),
        mut on_event: impl FnMut(ListenEvent<'_>),
    ) {
        let mut paused: Option<Instant> = None;
        let mut pauses = |why: AcceptPause<'_>, on_event: &mut dyn FnMut(ListenEvent<'_>)| {
            if paused.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
                paused = Some(Instant::now());
                on_event(ListenEvent::Pauses(why));
            }
        };
        let mut last = String::new();
        let mut again = self.report_missing(&mut last, &mut on_event);
        let mut sockets = self.lock_sockets().clone();
        while !self.stop.is_cancelled() {
            let arrived = tokio::select! {
                () = self.stop.cancelled() => return,
                arrived = accept_any(&sockets) => arrived,
                () = sleep_until(again) => {
                    self.retry_bind(NameResolver::system(), &mut on_event).await;
                    again = self.report_missing(&mut last, &mut on_event);
                    sockets = self.lock_sockets().clone();
                    continue;
                }
            };
            match arrived {
                Ok((stream, address)) => {
                    let quota = quota();
                    let mut permit = quota.try_take();
                    if permit.is_none() {
                        pauses(AcceptPause::QuotaFull { max: quota.max() }, &mut on_event);
                        permit = self.stop.run_until_cancelled(quota.take()).await;
                    }
                    let Some(permit) = permit else { return };
                    accepted(stream, address, permit);
                }
                Err(error) if is_of_one_connection(&error) || self.stop.is_cancelled() => {}
                Err(error) => {
                    pauses(AcceptPause::Failed(&error), &mut on_event);
                    // A stop ends the pause early.
                    let _ = self.stop.run_until_cancelled(sleep(ACCEPT_RETRY_DELAY)).await;
                }
            }
        }
    }

    /// Reports what it waits for, if that has changed. Returns when to try again.
    fn report_missing(
        &self,
        last: &mut String,
        on_event: &mut impl FnMut(ListenEvent<'_>),
    ) -> Option<Instant> {
        let (at, why) = self.awaited()?;
        if *last != why {
            on_event(ListenEvent::Waits { at: &at, why: why.clone() });
            *last = why;
        }
        Some(Instant::now() + BIND_RETRY_INTERVAL)
    }

    /// What it waits for, and why that is not possible yet.
    fn awaited(&self) -> Option<(HostPort, String)> {
        match &*self.lock_missing() {
            MissingAddresses::Nothing => None,
            MissingAddresses::Name(error) if self.at.is_address() => {
                Some((self.at.clone(), error.to_string()))
            }
            MissingAddresses::Name(error) => {
                Some((self.at.clone(), format!("the name does not resolve: {error}")))
            }
            MissingAddresses::Addresses(absent) => {
                let (address, error) = absent.first()?;
                Some((described_address(&self.at, *address), bind_reason(error)))
            }
        }
    }

    /// Binds what it waits for, as far as that exists now.
    async fn retry_bind(&self, names: &NameResolver, on_event: &mut impl FnMut(ListenEvent<'_>)) {
        let missing = std::mem::replace(&mut *self.lock_missing(), MissingAddresses::Nothing);
        let addresses = match missing {
            MissingAddresses::Nothing => return,
            MissingAddresses::Addresses(absent) => absent.into_iter().map(|(address, _)| address).collect(),
            MissingAddresses::Name(before) => {
                let looked_up = timeout(BIND_RETRY_INTERVAL, names.resolve(&self.at));
                match self.stop.run_until_cancelled(looked_up).await {
                    Some(Ok(Ok(addresses))) => addresses,
                    Some(Ok(Err(error))) => return *self.lock_missing() = MissingAddresses::Name(error),
                    Some(Err(_)) | None => return *self.lock_missing() = MissingAddresses::Name(before),
                }
            }
        };
        let port = self.local_addrs().first().map_or(self.at.port, SocketAddr::port);
        let BindOutcome { sockets, absent } = BindOutcome::each(&addresses, port, self.prepare);
        let mut listening = self.lock_sockets();
        // Whoever closes the listener has seen only the earlier sockets.
        if self.stop.is_cancelled() {
            return;
        }
        for open in sockets {
            on_event(ListenEvent::Listens(open.at));
            listening.push(open);
        }
        if !absent.is_empty() {
            *self.lock_missing() = MissingAddresses::Addresses(absent);
        }
    }

    fn lock_sockets(&self) -> MutexGuard<'_, Vec<Arc<BoundSocket>>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_missing(&self) -> MutexGuard<'_, MissingAddresses> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next connection on any of the sockets; each takes its turn at being asked first.
async fn accept_any(sockets: &[Arc<BoundSocket>]) -> io::Result<(TcpStream, SocketAddr)> {
    if let [open] = sockets {
        return open.socket.accept().await;
    }
    let first = fastrand::usize(..sockets.len().max(1));
    let (before, after) = sockets.split_at(first.min(sockets.len()));
    poll_fn(|cx| {
        for open in after.iter().chain(before) {
            if let Poll::Ready(arrived) = open.socket.poll_accept(cx) {
                return Poll::Ready(arrived);
            }
        }
        Poll::Pending
    })
    .await
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => pending().await,
    }
}

fn bind_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the port is taken by another program".into(),
        _ if is_absence(error) => "this machine has no such address".into(),
        _ => error.to_string(),
    }
}

/// The client left between its SYN and our accept (accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests;
