//! One gateway, and the raw peers at its links.

use std::{io, net::SocketAddr};

use portcullis::telemetry::snapshot::PoolRow;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::{AbortHandle, JoinSet},
    time::timeout,
};

use crate::support::{
    frames::{self, DATA, END, HELLO, OPEN, OPENED, OURS, Port, RESET, RawLink},
    gateway::{Gateway, PATIENCE, TestFolder},
    mode_pair::INTERNAL_TLS,
    peers::{dial, expect_bytes, send},
};

const DMZ_TLS: &str = "{ certificate: pki/dmz.pem, key: pki/dmz.key, ca: pki/ca.pem, peers: [alpha, beta] }";

/// The half that serves, in reverse mode; the test plays the DMZ half that it dials.
pub struct ServerHalf {
    pub port: Port,
    pub gateway: Gateway,
}

impl ServerHalf {
    /// With these services, as in a profile.
    pub async fn new(services: &str) -> Self {
        // Links that are kept: one to play with, and one that shows that others notice nothing.
        Self::with(", prepared: 2, maximum: 8", services).await
    }

    pub async fn with(link: &str, services: &str) -> Self {
        let folder = TestFolder::new();
        let port = Port::new(&folder, "dmz", &[OURS]).await;
        let gateway = folder.start("internal", &profile(&port.address(), link, services));
        Self { port, gateway }
    }

    /// The next link that the gateway dials, after the handshake.
    pub async fn link(&self) -> RawLink {
        let mut link = self.port.accept().await;
        let (kind, offer) = link.next_other_than_ping().await;
        assert_eq!(kind, HELLO);
        // All that it offers.
        link.send_frame(HELLO, &frames::grant_of(8, &offer)).await;
        link
    }

    /// The only pool row.
    pub async fn until_pool(&self, what: &str, seen: impl Fn(&PoolRow) -> bool) -> PoolRow {
        self.gateway.until_pool(what, seen).await
    }
}

/// The profile of a half that serves.
pub fn profile(connect: &str, link: &str, services: &str) -> String {
    format!(
        "mode: reverse\ndrain: 5s\ninternal:\n  link: {{ connect: '{connect}', tls: {INTERNAL_TLS}, \
         retry: {{ first: 10ms, maximum: 50ms }}{link} }}\n  services: {{ {services} }}\n"
    )
}

/// The half that opens, in reverse mode; the test plays the internal halves `alpha` and `beta`.
pub struct OpenerHalf {
    pub folder: TestFolder,
    pub gateway: Gateway,
    pub clients: SocketAddr,
}

impl OpenerHalf {
    /// With a service `orders`.
    pub async fn new() -> Self {
        Self::with("").await
    }

    /// With a session on a link of another peer, which offers nothing else, so that no client of `orders` goes there.
    pub async fn beside_another() -> (Self, RawEchoSession) {
        let outside = Self::with(", good: { accept: ['tcp://127.0.0.1:0'] }").await;
        let echoing = RawEchoSession::through(&outside).await;
        (outside, echoing)
    }

    /// With more services, as in a profile.
    pub async fn with(services: &str) -> Self {
        let folder = TestFolder::with(&["dmz", "alpha", "beta"]);
        let text = format!(
            "mode: reverse\ndmz:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', tls: {DMZ_TLS}, \
             prepared: 1, wait: 5s }}\n  \
             services: {{ orders: {{ accept: ['tcp://127.0.0.1:0'] }}{services} }}\n"
        );
        let gateway = folder.start("dmz", &text);
        let clients = gateway.client_port("orders").await;
        Self { folder, gateway, clients }
    }

    /// A link after TLS, before `hello`.
    pub async fn handshaken_link(&self, name: &str) -> RawLink {
        let at = self.gateway.link_port().await;
        RawLink::dial(&self.folder, name, at, "dmz", &[OURS]).await
    }

    /// A link of this peer's that offers `orders`, and what it was granted.
    pub async fn established_link(&self, name: &str) -> RawLink {
        let mut link = self.handshaken_link(name).await;
        link.send_frame(HELLO, &frames::offer(1, 8, &["orders"])).await;
        link.expect_granted(&["orders"]).await;
        link
    }

    /// An established link, once the pool shows this many as ready.
    pub async fn ready(&self, name: &str, ready: usize) -> RawLink {
        let link = self.established_link(name).await;
        self.until_ready(name, ready).await;
        link
    }

    pub async fn until_ready(&self, name: &str, ready: usize) {
        let of_peer = |row: &&PoolRow| row.peer.as_deref() == Some(name);
        self.gateway
            .until(&format!("{ready} ready links of {name}"), |snapshot| {
                snapshot.pools.iter().filter(of_peer).map(|row| row.ready).sum::<usize>() == ready
            })
            .await;
    }

    pub async fn client(&self) -> TcpStream {
        dial(self.clients).await
    }
}

/// A session over a raw peer's link that echoes: opened, and alive each time it is asked.
pub struct RawEchoSession {
    client: TcpStream,
    link: RawLink,
}

impl RawEchoSession {
    /// Of the half that opens.
    async fn through(outside: &OpenerHalf) -> Self {
        let mut link = outside.handshaken_link("beta").await;
        link.send_frame(HELLO, &frames::offer(1, 8, &["good"])).await;
        link.expect_granted(&["good"]).await;
        let client = dial(outside.gateway.client_port("good").await).await;
        link.expect_kind(OPEN).await;
        link.send_frame(OPENED, &[]).await;
        let mut echoing = Self { client, link };
        echoing.serves().await;
        echoing
    }

    pub fn link(&mut self) -> &mut RawLink {
        &mut self.link
    }

    pub async fn serves(&mut self) {
        send(&mut self.client, b"are you there").await;
        let received = self.link.expect_data(13).await;
        self.link.send_frame(DATA, &received).await;
        expect_bytes(&mut self.client, b"are you there").await;
    }
}

/// A session with a gateway's own echo.
pub struct GatewayEchoSession(RawLink);

impl GatewayEchoSession {
    /// Opened as `echo` on this link.
    pub async fn on(link: RawLink) -> Self {
        Self::on_service(link, "echo").await
    }

    pub async fn on_service(mut link: RawLink, service: &str) -> Self {
        link.send_frame(OPEN, &frames::open("good-1", None, service)).await;
        link.expect_frame(OPENED, &[]).await;
        let mut echoed = Self(link);
        echoed.serves().await;
        echoed
    }

    pub fn link(&mut self) -> &mut RawLink {
        &mut self.0
    }

    pub async fn serves(&mut self) {
        self.0.send_frame(DATA, b"are you there").await;
        assert_eq!(self.0.expect_data(13).await, b"are you there");
    }

    /// It is cut by an operator of the other end.
    pub async fn expect_cut(mut self) {
        self.0.expect_frame(RESET, &frames::reset(4)).await;
    }

    /// Both directions end, and the link is free.
    pub async fn ends(mut self) -> RawLink {
        self.0.send_frame(END, &[]).await;
        self.0.expect_frame(END, &[]).await;
        self.0
    }
}

/// Bytes that are being said while the test does something else.
pub struct BackgroundSend<W> {
    task: JoinSet<io::Result<W>>,
    handle: AbortHandle,
}

impl<W: AsyncWrite + Unpin + Send + 'static> BackgroundSend<W> {
    pub fn start(mut to: W, bytes: Vec<u8>) -> Self {
        let mut task = JoinSet::new();
        let handle = task.spawn(async move {
            to.write_all(&bytes).await?;
            to.flush().await.map(|()| to)
        });
        Self { task, handle }
    }

    pub fn is_done(&self) -> bool {
        self.handle.is_finished()
    }

    /// All of it is said.
    pub async fn done(mut self) -> W {
        let sent = timeout(PATIENCE, self.task.join_next()).await.expect("the bytes are taken in time");
        sent.unwrap().unwrap().unwrap()
    }
}
