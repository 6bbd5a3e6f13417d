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
    frames::{self, DATA, END, HELLO, OPEN, OPENED, OURS, Port, RESET, Wire},
    gateway::{Gateway, PATIENCE, Place},
    peers::{dial, hear, say},
    ways::INTERNAL_TLS,
};

const DMZ_TLS: &str = "{ certificate: pki/dmz.pem, key: pki/dmz.key, ca: pki/ca.pem, peers: [alpha, beta] }";

/// The half that serves, in reverse mode; the test plays the DMZ half that it dials.
pub struct Inside {
    pub port: Port,
    pub gateway: Gateway,
}

impl Inside {
    /// With these services, as in a profile.
    pub async fn new(services: &str) -> Self {
        // Links that are kept: one to play with, and one that shows that others notice nothing.
        Self::with(", prepared: 2, maximum: 8", services).await
    }

    pub async fn with(link: &str, services: &str) -> Self {
        let place = Place::new();
        let port = Port::new(&place, "dmz", &[OURS]).await;
        let gateway = place.start("internal", &profile(&port.address(), link, services));
        Self { port, gateway }
    }

    /// The next link that the gateway dials, greeted.
    pub async fn link(&self) -> Wire {
        let mut link = self.port.accept().await;
        let (kind, offer) = link.hear_any().await;
        assert_eq!(kind, HELLO);
        // All that it offers.
        link.say_frame(HELLO, &frames::grant_of(8, &offer)).await;
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
pub struct Outside {
    pub place: Place,
    pub gateway: Gateway,
    pub clients: SocketAddr,
}

impl Outside {
    /// With a service `orders`.
    pub async fn new() -> Self {
        Self::with("").await
    }

    /// With a session on a link of another peer, which offers nothing else, so that no client of `orders` goes there.
    pub async fn beside_another() -> (Self, Echoing) {
        let outside = Self::with(", good: { accept: ['tcp://127.0.0.1:0'] }").await;
        let echoing = Echoing::through(&outside).await;
        (outside, echoing)
    }

    /// With more services, as in a profile.
    pub async fn with(services: &str) -> Self {
        let place = Place::with(&["dmz", "alpha", "beta"]);
        let text = format!(
            "mode: reverse\ndmz:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', tls: {DMZ_TLS}, \
             prepared: 1, wait: 5s }}\n  \
             services: {{ orders: {{ accept: ['tcp://127.0.0.1:0'] }}{services} }}\n"
        );
        let gateway = place.start("dmz", &text);
        let clients = gateway.client_port("orders").await;
        Self { place, gateway, clients }
    }

    /// A link that has not said a word.
    pub async fn shaken(&self, name: &str) -> Wire {
        let at = self.gateway.link_port().await;
        Wire::dial(&self.place, name, at, "dmz", &[OURS]).await
    }

    /// A link of this peer's that offers `orders`, and what it was granted.
    pub async fn greeted(&self, name: &str) -> Wire {
        let mut link = self.shaken(name).await;
        link.say_frame(HELLO, &frames::offer(1, 8, &["orders"])).await;
        link.hear_granted(&["orders"]).await;
        link
    }

    /// The same, seen in the pool: so many are ready there.
    pub async fn ready(&self, name: &str, ready: usize) -> Wire {
        let link = self.greeted(name).await;
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
pub struct Echoing {
    client: TcpStream,
    link: Wire,
}

impl Echoing {
    /// Of the half that opens.
    async fn through(outside: &Outside) -> Self {
        let mut link = outside.shaken("beta").await;
        link.say_frame(HELLO, &frames::offer(1, 8, &["good"])).await;
        link.hear_granted(&["good"]).await;
        let client = dial(outside.gateway.client_port("good").await).await;
        link.hear_kind(OPEN).await;
        link.say_frame(OPENED, &[]).await;
        let mut echoing = Self { client, link };
        echoing.serves().await;
        echoing
    }

    pub fn link(&mut self) -> &mut Wire {
        &mut self.link
    }

    pub async fn serves(&mut self) {
        say(&mut self.client, b"are you there").await;
        let received = self.link.hear_data(13).await;
        self.link.say_frame(DATA, &received).await;
        hear(&mut self.client, b"are you there").await;
    }
}

/// A session with a gateway's own echo.
pub struct Echoed(Wire);

impl Echoed {
    /// Opened as `echo` on this link.
    pub async fn on(link: Wire) -> Self {
        Self::on_service(link, "echo").await
    }

    pub async fn on_service(mut link: Wire, service: &str) -> Self {
        link.say_frame(OPEN, &frames::open("good-1", None, service)).await;
        link.hear(OPENED, &[]).await;
        let mut echoed = Self(link);
        echoed.serves().await;
        echoed
    }

    pub fn link(&mut self) -> &mut Wire {
        &mut self.0
    }

    pub async fn serves(&mut self) {
        self.0.say_frame(DATA, b"are you there").await;
        assert_eq!(self.0.hear_data(13).await, b"are you there");
    }

    /// It is cut by an operator of the other end.
    pub async fn hears_the_cut(mut self) {
        self.0.hear(RESET, &frames::reset(4)).await;
    }

    /// Both directions end, and the link is free.
    pub async fn ends(mut self) -> Wire {
        self.0.say_frame(END, &[]).await;
        self.0.hear(END, &[]).await;
        self.0
    }
}

/// Bytes that are being said while the test does something else.
pub struct Saying<W> {
    task: JoinSet<io::Result<W>>,
    handle: AbortHandle,
}

impl<W: AsyncWrite + Unpin + Send + 'static> Saying<W> {
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
