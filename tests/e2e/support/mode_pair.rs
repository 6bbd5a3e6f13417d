//! Runs a pair in each of the three modes, with one gateway per half.

use portcullis::{profile::Mode, telemetry::snapshot::PoolState};
use tokio::net::TcpStream;

use super::{
    gateway::{Gateway, TestFolder},
    peers::dial,
};

pub const MODES: [Mode; 3] = [Mode::Direct, Mode::Forward, Mode::Reverse];

/// Every path that a session can take: direct, over our own links, and over plain SOCKS5 links.
pub const PATHS: [(Mode, bool); 5] = [
    (Mode::Direct, false),
    (Mode::Forward, false),
    (Mode::Reverse, false),
    (Mode::Forward, true),
    (Mode::Reverse, true),
];

pub const DMZ_TLS: &str = "{ certificate: pki/dmz.pem, key: pki/dmz.key, ca: pki/ca.pem, peers: [internal] }";
pub const INTERNAL_TLS: &str =
    "{ certificate: pki/internal.pem, key: pki/internal.key, ca: pki/ca.pem, peers: [dmz] }";

/// A service `orders` in one of the modes; the fields are more keys for its profiles.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    pub mode: Mode,
    /// An address, or a map with one.
    pub backend: &'a str,
    pub accept: &'a str,
    pub dmz_link: &'a str,
    pub dmz_service: &'a str,
    pub internal_link: &'a str,
    pub drain: &'a str,
    /// Whether the link has no TLS; then it speaks SOCKS5.
    pub is_plain: bool,
    /// What links are carried by.
    pub carrier: Carrier,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    Tcp,
    Ws,
    Wss,
}

/// What the listener and the dialler of a `socks+wss` link have, whose halves these are.
fn outer_tls(listener: &str, half: &str) -> String {
    match listener == half {
        true => format!(", outer: {{ certificate: pki/{half}.pem, key: pki/{half}.key }}"),
        false => format!(", outer: {{ ca: pki/ca.pem, name: {listener} }}"),
    }
}

impl<'a> Plan<'a> {
    pub fn new(mode: Mode, backend: &'a str) -> Self {
        let accept = "tcp://127.0.0.1:0";
        let (dmz_link, dmz_service, internal_link) = ("", "", "");
        Self {
            mode,
            backend,
            accept,
            dmz_link,
            dmz_service,
            internal_link,
            drain: "1s",
            is_plain: false,
            carrier: Carrier::Tcp,
        }
    }

    pub fn direct(&self) -> String {
        let Self { dmz_service, drain, .. } = self;
        let (accept, backend) = (written(self.accept), written(self.backend));
        format!(
            "mode: direct\ndrain: {drain}\ndmz:\n  services: \
             {{ orders: {{ accept: [{accept}], connect: {backend}{dmz_service} }} }}\n"
        )
    }

    /// The DMZ half; `link` is `listen: …` or `connect: …`.
    pub fn dmz(&self, link: &str) -> String {
        let Self { dmz_link, dmz_service, drain, .. } = self;
        let (mode, accept) = (mode_word(self.mode), written(self.accept));
        let tls = self.tls(DMZ_TLS, "dmz");
        format!(
            "mode: {mode}\ndrain: {drain}\ndmz:\n  link: {{ {link}{tls}{dmz_link} }}\n  \
             services: {{ orders: {{ accept: [{accept}]{dmz_service} }} }}\n"
        )
    }

    pub fn internal(&self, link: &str) -> String {
        let Self { internal_link, drain, .. } = self;
        let (mode, backend) = (mode_word(self.mode), written(self.backend));
        let tls = self.tls(INTERNAL_TLS, "internal");
        format!(
            "mode: {mode}\ndrain: {drain}\ninternal:\n  link: {{ {link}{tls}{internal_link} }}\n  \
             services: {{ orders: {{ connect: {backend} }} }}\n"
        )
    }

    fn tls(&self, of_half: &str, half: &str) -> String {
        let listener = if self.mode == Mode::Forward { "internal" } else { "dmz" };
        let outer = if self.carrier == Carrier::Wss { outer_tls(listener, half) } else { String::new() };
        if self.is_plain { outer } else { format!(", tls: {of_half}{outer}") }
    }

    /// The address of a link there.
    pub fn link(&self, at: &str) -> String {
        match (self.carrier, self.is_plain) {
            (Carrier::Tcp, true) => format!("socks://{at}"),
            (Carrier::Tcp, false) => format!("socks+tls://{at}"),
            (Carrier::Ws, _) => format!("socks+ws://{at}/link"),
            (Carrier::Wss, _) => format!("socks+wss://{at}/link"),
        }
    }

    /// Starts what the mode needs, and waits until the way is ready.
    pub async fn start(&self) -> ModePair {
        self.start_in(TestFolder::new()).await
    }

    /// Starts the pair with the certificates of a folder, which has those of both halves.
    pub async fn start_in(&self, folder: TestFolder) -> ModePair {
        let listen = &format!("listen: '{}'", self.link("127.0.0.1:0"));
        let connect = |at: std::net::SocketAddr| format!("connect: '{}'", self.link(&at.to_string()));
        let (dmz, internal) = match self.mode {
            Mode::Direct => (folder.start("direct", &self.direct()), None),
            Mode::Forward => {
                let internal = folder.start("internal", &self.internal(listen));
                let connect = connect(internal.link_port().await);
                (folder.start("dmz", &self.dmz(&connect)), Some(internal))
            }
            Mode::Reverse => {
                let dmz = folder.start("dmz", &self.dmz(listen));
                let connect = connect(dmz.link_port().await);
                let internal = folder.start("internal", &self.internal(&connect));
                (dmz, Some(internal))
            }
        };
        let pair = ModePair { folder, dmz, internal };
        pair.ready().await;
        pair
    }
}

/// A running set-up, ready for clients.
pub struct ModePair {
    pub folder: TestFolder,
    pub dmz: Gateway,
    pub internal: Option<Gateway>,
}

impl ModePair {
    pub async fn client(&self) -> TcpStream {
        dial(self.dmz.client_port("orders").await).await
    }

    /// The half that reaches the backend.
    pub fn inner(&self) -> &Gateway {
        self.internal.as_ref().unwrap_or(&self.dmz)
    }

    pub async fn ready(&self) {
        for gateway in [Some(&self.dmz), self.internal.as_ref()].into_iter().flatten() {
            let healthy = |row: &portcullis::telemetry::snapshot::PoolRow| row.state == PoolState::Healthy;
            gateway.until("every pool healthy", |snapshot| snapshot.pools.iter().all(healthy)).await;
        }
    }
}

/// A plain address in quotes; a map or a list as it is.
fn written(address: &str) -> String {
    if address.starts_with(['{', '[']) { address.into() } else { format!("'{address}'") }
}

pub fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Direct => "direct",
        Mode::Forward => "forward",
        Mode::Reverse => "reverse",
    }
}
