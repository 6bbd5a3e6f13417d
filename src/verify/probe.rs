//! Probes: test connections that come in at a client port like a client, and are not counted anywhere.
//!
//! A probe sends a few bytes and expects them back. Each half recognises it (this one by its address, the other
//! one by a flag in `open`), and no byte of it reaches a backend: the backend is connected to, and closed
//! again.

use std::{
    collections::HashMap,
    future::ready,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::oneshot,
    time::timeout,
};

use super::probe_failure::{ProbeCause, ProbeEnd, ProbeFailure};
use crate::{
    accept::{
        ServeSession,
        expected_probes::{ExpectedProbe, ExpectedProbes},
        routes::PortRoutes,
        tcp,
    },
    connect::Connector,
    net::stream::NetStream,
    profile::{AcceptTls, Problem, ServiceName},
    telemetry::{
        end::{EndedBy, SessionEnd},
        link_cause::LinkCause,
        snapshot::SessionPhase,
    },
    tls::edge::TlsClient,
};

/// The deadline of a probe: enough for a client's `wait`, the dial of a backend, and some more.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// SOCKS5 cannot express every refusal: one that it cannot shows as a cut within this time.
const REFUSAL_DELAY_MAX: Duration = Duration::from_millis(500);
/// A cause for which there is no advice.
const OTHER: ProbeCause = ProbeCause::Link(LinkCause::Other);

/// The port where a probe of a service enters.
#[derive(Debug, Clone)]
pub struct ProbeEntry {
    pub service: ServiceName,
    pub at: SocketAddr,
    /// The probe's TLS, if clients use TLS.
    pub tls: Option<TlsClient>,
    /// Why that TLS cannot be used.
    pub fault: Option<Problem>,
    /// The routes of the clients of that port.
    pub routes: Arc<ArcSwap<PortRoutes>>,
    /// What clients use there: the TLS, and the names that the port answers to.
    pub tls_and_sni: (Option<AcceptTls>, Vec<String>),
}

/// How a probe reaches the accept.
#[derive(Clone, Copy)]
pub enum ProbeResult<'a> {
    /// Through the port, like a client.
    Port,
    /// In memory: a locked DMZ half cannot connect to its own port.
    Memory(&'a ServeSession),
}

/// The probes under way, by the address they come from.
#[derive(Debug, Clone, Default)]
pub struct PendingProbes {
    /// What client ports know of them.
    expected: Arc<ExpectedProbes>,
    /// Probes that no session has claimed yet.
    unclaimed: Arc<Mutex<HashMap<SocketAddr, PendingProbe>>>,
}

/// A probe under way.
#[derive(Debug)]
pub struct PendingProbe {
    /// Where it goes, if not to the same place as sessions of its service.
    pub connector: Option<Arc<Connector>>,
    pub ended: oneshot::Sender<ProbeEnd>,
}

impl PendingProbes {
    /// Returns the probe if this client is one.
    pub fn claim(&self, client: SocketAddr) -> Option<PendingProbe> {
        if self.expected.is_empty() {
            return None;
        }
        self.remove(client)
    }

    /// The table by which client ports recognise probes.
    pub fn expected(&self) -> Arc<ExpectedProbes> {
        self.expected.clone()
    }

    /// Sends a probe to a client port of this gateway; returns its round-trip time.
    pub async fn send(
        &self,
        entry: &ProbeEntry,
        connector: Option<Connector>,
        passage: ProbeResult<'_>,
    ) -> Result<Duration, ProbeFailure> {
        let port = local_address_of(entry.at);
        let no_socket = |error| internal_failure(OTHER, format!("no socket for a probe: {error}"));
        let (end, ended) = oneshot::channel();
        let sent = PendingProbe { connector: connector.map(Arc::new), ended: end };
        let expected = ExpectedProbe { service: entry.service.clone(), by_tls: entry.tls.is_some() };
        let is_unmet = |from| self.remove(from).is_some();
        let (from, result) = match passage {
            ProbeResult::Port => {
                let (socket, from) = bind(port).map_err(no_socket)?;
                self.expect(from, expected, sent);
                let opened = socket.connect(port);
                let going = run_probe(opened, port, entry.tls.as_ref(), ended, || is_unmet(from));
                (from, timeout(PROBE_TIMEOUT, going).await)
            }
            ProbeResult::Memory(serve) => {
                let (ours, theirs) = socket_pair().map_err(no_socket)?;
                let from = self.expected.unused_address();
                self.expect(from, expected.clone(), sent);
                let serving =
                    tcp::serve_probe(theirs, from, expected, entry.routes.load_full(), serve.clone());
                let going = run_probe(ready(Ok(ours)), port, entry.tls.as_ref(), ended, || is_unmet(from));
                let both = async { tokio::join!(going, serving).0 };
                (from, timeout(PROBE_TIMEOUT, both).await)
            }
        };
        self.expected.forget(from);
        self.remove(from);
        result.unwrap_or_else(|_| {
            let reason = format!("the probe did not come back within {}s", PROBE_TIMEOUT.as_secs());
            let end = SessionEnd { ended_by: EndedBy::Time, phase: SessionPhase::Relaying, reason };
            Err(ProbeFailure { end, cause: OTHER })
        })
    }

    /// A session claims the probe only after its port has recognised it.
    fn expect(&self, from: SocketAddr, expected: ExpectedProbe, probe: PendingProbe) {
        self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner).insert(from, probe);
        self.expected.expect(from, expected);
    }

    fn remove(&self, client: SocketAddr) -> Option<PendingProbe> {
        self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner).remove(&client)
    }
}

async fn run_probe(
    opened: impl Future<Output = io::Result<TcpStream>>,
    port: SocketAddr,
    tls: Option<&TlsClient>,
    ended: oneshot::Receiver<ProbeEnd>,
    is_unmet: impl Fn() -> bool,
) -> Result<Duration, ProbeFailure> {
    let began = Instant::now();
    let stream = match opened.await {
        Ok(stream) => stream,
        Err(error) if is_unmet() => {
            return Err(internal_failure(ProbeCause::ClientPort, format!("client port {port}: {error}")));
        }
        // Refused so quickly that the reset arrived before this call returned.
        Err(_) => return Err(ended.await.map_or_else(|_| unexplained_failure(), ProbeFailure::from)),
    };
    // It is timed, and its bytes must not wait for an acknowledgement of the handshake.
    let _ = stream.set_nodelay(true);
    let mut stream = match tls {
        None => NetStream::Tcp(stream),
        Some(tls) => tls
            .connect(stream, b"")
            .await
            .map_err(|error| internal_failure(ProbeCause::ClientTls, format!("its clients' TLS: {error}")))?,
    };
    let word = fastrand::u128(..).to_be_bytes();
    let exchange = async {
        let mut received = [0; 16];
        stream.write_all(&word).await?;
        stream.flush().await?;
        stream.read_exact(&mut received).await?;
        let took = began.elapsed();
        stream.shutdown().await?;
        Ok::<_, io::Error>((received, took))
    };
    let exchanged = exchange.await;
    if let Err(error) = &exchanged
        && is_unmet()
    {
        let reason = format!("client port {port}: no route let it in: {error}");
        return Err(internal_failure(ProbeCause::ClientPort, reason));
    }
    let Ok(ended) = ended.await else { return Err(unexplained_failure()) };
    match exchanged {
        Ok(_) if ended.end.ended_by != EndedBy::Nobody => Err(ended.into()),
        Ok((received, took)) if received == word => Ok(took),
        Ok(_) => Err(internal_failure(OTHER, "other bytes came back than were sent; this is a bug".into())),
        Err(_) => Err(ended.into()),
    }
}

/// Whether a granted SOCKS5 link is cut because the inside or its backend refuses.
pub async fn is_refused_after_grant(stream: &mut NetStream) -> bool {
    let mut bytes = [0; 512];
    let received = timeout(REFUSAL_DELAY_MAX, async {
        loop {
            match stream.read(&mut bytes).await {
                // The backend sends first; only its end matters.
                Ok(1..) => {}
                Ok(0) => return false,
                Err(_) => return true,
            }
        }
    });
    received.await.unwrap_or(false)
}

fn unexplained_failure() -> ProbeFailure {
    internal_failure(OTHER, "its session ended without a word; this is a bug".into())
}

fn internal_failure(cause: ProbeCause, reason: String) -> ProbeFailure {
    let end = SessionEnd { ended_by: EndedBy::Internal, phase: SessionPhase::Negotiating, reason };
    ProbeFailure { end, cause }
}

/// Where a port can be reached from this machine.
fn local_address_of(port: SocketAddr) -> SocketAddr {
    let ip = match port.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, port.port())
}

/// Two ends of a connection within this process. A Unix socket pair can be used wherever a TCP socket can. It
/// refuses options that only TCP has, which is allowed to fail anyway.
fn socket_pair() -> io::Result<(TcpStream, TcpStream)> {
    let (one, other) = UnixStream::pair()?;
    let as_stream = |end: UnixStream| {
        end.set_nonblocking(true)?;
        TcpStream::from_std(std::net::TcpStream::from(OwnedFd::from(end)))
    };
    Ok((as_stream(one)?, as_stream(other)?))
}

/// A socket whose address is known before it connects: the same address as the port's, which belongs to this
/// machine.
fn bind(port: SocketAddr) -> io::Result<(TcpSocket, SocketAddr)> {
    let socket = if port.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(port.ip(), 0))?;
    let local = socket.local_addr()?;
    Ok((socket, SocketAddr::new(local.ip().to_canonical(), local.port())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{net::pipe::pipe, tests::happens_after};

    #[tokio::test(start_paused = true)]
    async fn a_link_that_is_not_cut_in_time_was_not_refused() {
        let (ours, _theirs) = pipe();
        let mut stream = NetStream::Pipe(Box::new(ours));
        assert!(!happens_after(REFUSAL_DELAY_MAX, is_refused_after_grant(&mut stream)).await);
    }
}
