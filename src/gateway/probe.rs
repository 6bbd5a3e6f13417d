//! Probes: checks of the way that come in by a client port, as clients do, and count nowhere.
//!
//! A probe sends a few bytes and wants them back. Each half knows it for what it is (this one by its
//! address, the other by its mark in `open`) and none of it reaches a backend: that one is connected,
//! and closed again.

use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadBuf},
    net::TcpSocket,
    sync::oneshot,
    time::timeout,
};

use super::ports::Entry;
use crate::{
    accept::tcp::{Expected, ProbeDoor},
    connect::Connector,
    link::leg::Leg,
    net::{edges::Caller, stream::Stream},
    profile::ServiceName,
    telemetry::{
        end::{End, Who},
        snapshot::SessionPhase,
    },
};

/// A probe has come back by then, or has failed: a client's `wait`, the dial of a backend, and more.
const WITHIN: Duration = Duration::from_secs(10);
/// A refusal that SOCKS5 has no word for shows as a cut within this time.
const CUT_WITHIN: Duration = Duration::from_millis(500);
const WORDLESS: &str = "its session ended without a word; this is a bug";

/// The probes under way, by the address that they come from.
#[derive(Debug, Clone, Default)]
pub struct Probes(Arc<Awaited>);

#[derive(Debug, Default)]
struct Awaited {
    /// Looked at for each client; the lock only while it is not 0.
    count: AtomicUsize,
    by_address: Mutex<HashMap<SocketAddr, Sent>>,
}

/// A probe under way.
#[derive(Debug)]
pub struct Sent {
    service: ServiceName,
    by_tls: bool,
    /// Where it goes, if not where sessions of its service do.
    pub way: Option<Arc<Connector>>,
    pub ended: oneshot::Sender<End>,
}

impl Probes {
    /// Whether this client is a probe.
    pub fn meet(&self, client: SocketAddr) -> Option<Sent> {
        match self.0.count.load(Ordering::SeqCst) {
            0 => None,
            _ => self.take(client),
        }
    }

    /// How a client port knows a probe.
    pub fn door(&self) -> ProbeDoor {
        let probes = self.clone();
        Arc::new(move |client| match probes.0.count.load(Ordering::SeqCst) {
            0 => None,
            _ => {
                let sent = |sent: &Sent| Expected { service: sent.service.clone(), by_tls: sent.by_tls };
                probes.lock().get(&client).map(sent)
            }
        })
    }

    /// Sends a probe to a client port of this gateway; how long it took there and back.
    pub async fn send(&self, entry: &Entry, way: Option<Connector>) -> Result<Duration, End> {
        let port = reachable(entry.at);
        let (socket, from) =
            bind(port).map_err(|error| of_ours(format!("no socket for a probe: {error}")))?;
        let (end, ended) = oneshot::channel();
        let by_tls = entry.tls.is_some();
        let sent = Sent { service: entry.service.clone(), by_tls, way: way.map(Arc::new), ended: end };
        self.lock().insert(from, sent);
        self.0.count.fetch_add(1, Ordering::SeqCst);
        let is_unmet = || self.take(from).is_some();
        let going = there_and_back(socket, port, entry.tls.as_ref(), ended, is_unmet);
        let result = timeout(WITHIN, going).await;
        self.0.count.fetch_sub(1, Ordering::SeqCst);
        self.take(from);
        result.unwrap_or_else(|_| {
            let reason = format!("the probe did not come back within {}s", WITHIN.as_secs());
            Err(End { who: Who::Time, phase: SessionPhase::Relaying, reason })
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Sent>> {
        self.0.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, client: SocketAddr) -> Option<Sent> {
        self.lock().remove(&client)
    }
}

async fn there_and_back(
    socket: TcpSocket,
    port: SocketAddr,
    tls: Option<&Caller>,
    ended: oneshot::Receiver<End>,
    is_unmet: impl Fn() -> bool,
) -> Result<Duration, End> {
    let began = Instant::now();
    let stream = match socket.connect(port).await {
        Ok(stream) => stream,
        Err(error) if is_unmet() => return Err(of_ours(format!("client port {port}: {error}"))),
        // Refused so soon that the reset has come before this call returned.
        Err(_) => return Err(ended.await.unwrap_or_else(|_| of_ours(WORDLESS.into()))),
    };
    // It is timed, and its word must not wait for an acknowledgement of the handshake.
    let _ = stream.set_nodelay(true);
    let mut stream = match tls {
        None => Stream::Tcp(stream),
        Some(tls) => tls.call(stream).await.map_err(|error| of_ours(format!("its clients' TLS: {error}")))?,
    };
    let word = fastrand::u128(..).to_be_bytes();
    let exchange = async {
        let mut heard = [0; 16];
        stream.write_all(&word).await?;
        stream.flush().await?;
        stream.read_exact(&mut heard).await?;
        let took = began.elapsed();
        stream.shutdown().await?;
        Ok::<_, io::Error>((heard, took))
    };
    let exchanged = exchange.await;
    if let Err(error) = &exchanged
        && is_unmet()
    {
        return Err(of_ours(format!("client port {port}: it was let in by no door: {error}")));
    }
    let end = match ended.await {
        Ok(end) => end,
        Err(_) => return Err(of_ours(WORDLESS.into())),
    };
    match exchanged {
        Ok(_) if end.who != Who::Nobody => Err(end),
        Ok((heard, took)) if heard == word => Ok(took),
        Ok(_) => Err(of_ours("other bytes came back than were sent; this is a bug".into())),
        Err(_) => Err(end),
    }
}

/// Whether a SOCKS5 link that was taken is cut, since the inside or its backend refuses.
pub async fn is_refused_late(leg: &mut Leg) -> bool {
    let mut bytes = [0; 512];
    let heard = timeout(CUT_WITHIN, async {
        loop {
            let mut read = ReadBuf::new(&mut bytes);
            match poll_fn(|cx| leg.poll_read(cx, &mut read)).await {
                // A backend that speaks first; only its end is of interest.
                Ok(()) if !read.filled().is_empty() => {}
                Ok(()) => return false,
                Err(_) => return true,
            }
        }
    });
    heard.await.unwrap_or(false)
}

fn of_ours(reason: String) -> End {
    End { who: Who::Internal, phase: SessionPhase::Negotiating, reason }
}

/// Where a port is reached from this machine.
fn reachable(port: SocketAddr) -> SocketAddr {
    let ip = match port.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, port.port())
}

/// A socket whose address is known before it connects: the port's own, which is this machine's.
fn bind(port: SocketAddr) -> io::Result<(TcpSocket, SocketAddr)> {
    let socket = if port.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(port.ip(), 0))?;
    let local = socket.local_addr()?;
    Ok((socket, SocketAddr::new(local.ip().to_canonical(), local.port())))
}
