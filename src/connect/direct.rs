//! Dials the backend, and runs TLS with it if the profile says so. It is one attempt at one backend; which backend
//! comes next, and when, is `backend_group`.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout_at},
};

use super::{
    ConnectFailure, ConnectRequest, ConnectedUpstream, backend_group::BackendGroup,
    idle_connections::IdleConnections, web,
};
use crate::{
    link::session_side::Upstream,
    net::{
        dial::{
            self, DialError, DialRules,
            unix::{UnixDialError, dial_unix},
        },
        exhausted::ExhaustedResource,
        own_ports::ServicePorts,
        stream::NetStream,
    },
    profile::{Backend, ProxyVersion, ServerAddress},
    proto::{Refusal, multiplex::open::ClientOrigin, proxy},
    telemetry::end::EndedBy,
    tls::edge::{EdgeTls, TlsClient},
};

/// Deadline for the backend to accept the connection. With the time for the link it stays below the 5 s after
/// which a client must have an answer.
pub const BACKEND_CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// A backend, and the TLS to use with it, if any.
#[derive(Debug)]
pub struct BackendTarget {
    backend: Backend,
    tls: Option<TlsClient>,
    /// Connections for requests that wait for the next one.
    idle: IdleConnections,
}

impl BackendTarget {
    /// `edges` are those of the profile that names the backend.
    pub fn new(backend: &Backend, edges: &EdgeTls) -> Self {
        let tls = backend.remote().and_then(|remote| remote.tls.as_deref());
        Self {
            backend: backend.clone(),
            tls: tls.and_then(|tls| edges.connect_client(tls)),
            idle: IdleConnections::default(),
        }
    }

    /// This backend at one address of its name.
    pub fn at_address(&self, ip: IpAddr) -> Self {
        let (backend, tls) = (self.backend.at_address(ip), self.tls.clone());
        Self { backend, tls, idle: IdleConnections::default() }
    }

    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    pub(super) fn idle(&self) -> &IdleConnections {
        &self.idle
    }

    pub fn is_same_as(&self, other: &Self) -> bool {
        let same_caller = match (&self.tls, &other.tls) {
            (Some(one), Some(other)) => one.is_same_as(other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        same_caller && self.backend == other.backend
    }
}

/// Connects the upstream side of a session. If requests go to the backend, it receives what the other half has
/// made of the client's.
pub async fn connect(
    group: &Arc<BackendGroup>,
    connect_request: &mut ConnectRequest<'_>,
) -> Result<ConnectedUpstream, ConnectFailure> {
    // A probe belongs to no client: it is a connection of our own.
    let client = connect_request.client.filter(|_| !connect_request.probe);
    let candidates = group.find_candidates(connect_request.client.map(|client| client.ip())).await;
    let sends_request = candidates.first().is_some_and(|first| first.http().is_some());
    let stream = match sends_request && !connect_request.probe {
        true => web::connect_backend(group, candidates, connect_request).await?,
        // A probe requests nothing.
        false => {
            let (member, stream) = group.connect_first(candidates, client, &connect_request.origin).await?;
            connect_request.backend =
                (!connect_request.probe).then(|| member.begin_use(connect_request.counters));
            stream
        }
    };
    Ok(ConnectedUpstream { side: Upstream::Backend(stream), peer: None, first: Vec::new() })
}

/// Whether a backend answers, including TLS; nothing else is sent to it.
pub async fn check_backend(target: &BackendTarget, own_ports: &ServicePorts) -> Result<(), ConnectFailure> {
    reach_backend(target, None, &ClientOrigin::default(), own_ports).await?.let_close_cleanly();
    Ok(())
}

/// Connects to the backend itself. If that is one of these ports, the session would come back to where it began.
pub async fn reach_backend(
    target: &BackendTarget,
    client: Option<SocketAddr>,
    origin: &ClientOrigin,
    own_ports: &ServicePorts,
) -> Result<NetStream, ConnectFailure> {
    let Some(remote) = target.backend.remote() else { return Ok(NetStream::Echo(Box::default())) };
    let at = match &remote.at {
        ServerAddress::Network(at) => &remote.at_address(at),
        ServerAddress::Unix(file) => return dial_socket(file, remote.proxy, client, origin).await,
    };
    let began = Instant::now();
    if remote.tls.is_some() && target.tls.is_none() {
        let reason = format!("backend {at}: its `tls` cannot be used");
        return Err(ConnectFailure::here(EndedBy::Backend, Refusal::BackendUnreachable, reason));
    }
    let rules = DialRules { source: remote.source, own_ports: Some(own_ports) };
    let dialled = dial::dial_from(rules, at, BACKEND_CONNECT_TIMEOUT).await;
    let mut stream = dialled.map_err(|error| connect_failure(&error))?;
    let unreachable = |refusal, error: String| {
        ConnectFailure::here(EndedBy::Backend, refusal, format!("backend {at}: {error}"))
    };
    let prepared = stream.set_nodelay(true);
    prepared.map_err(|error| unreachable(Refusal::BackendUnreachable, error.to_string()))?;
    if let Some(version) = remote.proxy {
        let reported = match stream.peer_addr() {
            Ok(backend) => send_proxy_header(&mut stream, version, client, origin, backend).await,
            Err(error) => Err(error),
        };
        reported.map_err(|error| unreachable(Refusal::BackendUnreachable, error.to_string()))?;
    }
    let Some(caller) = &target.tls else { return Ok(NetStream::Tcp(stream)) };
    match timeout_at(began + BACKEND_CONNECT_TIMEOUT, caller.connect(stream, &origin.alpn)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(unreachable(Refusal::BackendUnreachable, format!("TLS: {error}"))),
        Err(_) => {
            let within = format!("TLS: no answer within {}s", BACKEND_CONNECT_TIMEOUT.as_secs());
            Err(unreachable(Refusal::BackendLate, within))
        }
    }
}

/// A backend at a Unix socket of this machine.
async fn dial_socket(
    file: &Path,
    proxy: Option<ProxyVersion>,
    client: Option<SocketAddr>,
    origin: &ClientOrigin,
) -> Result<NetStream, ConnectFailure> {
    let mut stream = dial_unix(file, BACKEND_CONNECT_TIMEOUT).await.map_err(|error| {
        let (ended_by, refusal) = match &error {
            UnixDialError::Missing(_) | UnixDialError::Refused(_) => {
                (EndedBy::Backend, Refusal::BackendRefused)
            }
            UnixDialError::NotSocket(_) | UnixDialError::OtherKind(_) | UnixDialError::Forbidden(_) => {
                (EndedBy::Backend, Refusal::BackendUnreachable)
            }
            UnixDialError::Full { .. } => (EndedBy::Backend, Refusal::BackendLate),
            UnixDialError::Local { source, .. } => match ExhaustedResource::of(source) {
                Some(_) => (EndedBy::Limit, Refusal::Unavailable),
                None => (EndedBy::Backend, Refusal::BackendUnreachable),
            },
        };
        ConnectFailure::here(ended_by, refusal, format!("backend {error}"))
    })?;
    if let Some(version) = proxy {
        // It has no address of its own that a client could have connected to.
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        send_proxy_header(&mut stream, version, client, origin, nowhere).await.map_err(|error| {
            let reason = format!("backend unix://{}: {error}", file.display());
            ConnectFailure::here(EndedBy::Backend, Refusal::BackendUnreachable, reason)
        })?;
    }
    Ok(NetStream::Unix(stream))
}

/// Tells the backend who the client is. A new socket takes that at once, or is gone.
async fn send_proxy_header(
    stream: &mut (impl AsyncWrite + Unpin),
    version: ProxyVersion,
    client: Option<SocketAddr>,
    origin: &ClientOrigin,
    backend: SocketAddr,
) -> io::Result<()> {
    let destination = origin.destination.unwrap_or(backend);
    stream
        .write_all(&proxy::write_header(
            version,
            client,
            destination,
            &proxy::fields_of(origin.user.as_ref(), &origin.proxy_tlvs),
        ))
        .await
}

fn connect_failure(error: &DialError) -> ConnectFailure {
    let (ended_by, refusal) = match error {
        DialError::Refused { .. } => (EndedBy::Backend, Refusal::BackendRefused),
        DialError::Timeout { .. } => (EndedBy::Backend, Refusal::BackendLate),
        DialError::Resolve { .. } | DialError::Unroutable { .. } | DialError::Unreachable { .. } => {
            (EndedBy::Backend, Refusal::BackendUnreachable)
        }
        DialError::Local { .. } if error.exhausted().is_some() => (EndedBy::Limit, Refusal::Unavailable),
        DialError::Local { .. } | DialError::Rule { .. } => (EndedBy::Backend, Refusal::BackendUnreachable),
    };
    ConnectFailure::here(ended_by, refusal, format!("backend {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::HostPort;

    #[test]
    fn a_limit_of_this_host_is_no_fault_of_the_backend_and_no_bug() {
        let failed = |number| {
            let (at, source) =
                (HostPort { host: "db".into(), port: 1 }, io::Error::from_raw_os_error(number));
            connect_failure(&DialError::Local { at, source, tried: dial::TriedAddresses::default() })
        };
        for number in [libc::EADDRNOTAVAIL, libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            let failure = failed(number);
            assert_eq!(
                (failure.ended_by, failure.refusal),
                (EndedBy::Limit, Refusal::Unavailable),
                "{}",
                failure.reason
            );
        }
        let failure = failed(libc::EAFNOSUPPORT);
        assert_eq!((failure.ended_by, failure.refusal), (EndedBy::Backend, Refusal::BackendUnreachable));
    }
}
