//! `portcullis/2` by hand, byte by byte, without the gateway's codec; and TLS peers that speak it.
//!
//! A frame that [`frame`] makes of a session has no number: the link that says it puts in that of the session
//! which was opened last there, by whichever end. [`frame_of`] names one.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use rustls::{ServerConfig, pki_types::ServerName, server::WebPkiClientVerifier};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::{
    gateway::{PATIENCE, TestFolder},
    peers::{cut, dial},
    tls,
};

pub const HELLO: u8 = 1;
pub const SERVICES: u8 = 2;
pub const OPEN: u8 = 3;
pub const OPENED: u8 = 4;
pub const REFUSED: u8 = 5;
pub const DATA: u8 = 6;
pub const END: u8 = 7;
pub const RESET: u8 = 8;
pub const CREDIT: u8 = 9;
pub const PING: u8 = 10;
pub const PONG: u8 = 11;
pub const DRAIN: u8 = 12;
pub const RETIRE: u8 = 13;
pub const MOVE: u8 = 14;
pub const RESUME: u8 = 15;

pub const OURS: &str = "portcullis/2";
pub const SOCKS: &str = "socks/5";

/// The most that a body of `data` may have.
pub const DATA_MAX: usize = 65_536;
/// The most of a client's bytes that may come before an answer.
pub const COPY_MAX: usize = 65_536;

/// What each session may send before it is given more.
pub const WINDOW: usize = 65_536;

fn is_about_session(kind: u8) -> bool {
    matches!(kind, OPEN..=CREDIT | MOVE | RESUME)
}

pub fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    header(kind, body.len()).into_iter().chain(body.iter().copied()).collect()
}

/// A frame of this session.
pub fn frame_of(session: u32, kind: u8, body: &[u8]) -> Vec<u8> {
    header_of(session, kind, body.len()).into_iter().chain(body.iter().copied()).collect()
}

/// A header alone, which may lie.
pub fn header(kind: u8, length: usize) -> [u8; 8] {
    header_of(0, kind, length)
}

/// The header of a frame of this session.
pub fn header_of(session: u32, kind: u8, length: usize) -> [u8; 8] {
    let [a, b, c, d] = session.to_be_bytes();
    [kind, (length >> 16) as u8, (length >> 8) as u8, length as u8, a, b, c, d]
}

/// A whole header's type, length and session.
fn parsed(header: [u8; 8]) -> (u8, usize, u32) {
    let [kind, a, b, c, session @ ..] = header;
    let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
    (kind, length, u32::from_be_bytes(session))
}

pub fn field(body: &mut Vec<u8>, tag: u8, value: &[u8]) {
    body.push(tag);
    body.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
    body.extend_from_slice(value);
}

/// The fields of a body: tag and value.
pub fn fields(mut body: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    while let [tag, high, low, rest @ ..] = body {
        let (value, behind) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        all.push((*tag, value.to_vec()));
        body = behind;
    }
    all
}

fn about() -> Vec<u8> {
    let mut body = Vec::new();
    field(&mut body, 1, &[0, 2]);
    field(&mut body, 2, b"by hand");
    field(&mut body, 3, &[7; 16]);
    body
}

/// What a service carries, in a server's `hello`.
pub const BYTES: u8 = 0;
pub const HTTP: u8 = 1;

/// The body of a server's `hello`; its services carry bytes.
pub fn offer(target: u16, maximum: u16, services: &[&str]) -> Vec<u8> {
    let services: Vec<_> = services.iter().map(|service| (*service, BYTES)).collect();
    offer_of(target, maximum, &services)
}

/// An offer of services that carry what stands beside them.
pub fn offer_of(target: u16, maximum: u16, services: &[(&str, u8)]) -> Vec<u8> {
    offer_with(256, target, maximum, services)
}

/// An offer with this many sessions at once on a link.
pub fn offer_with(sessions: u16, target: u16, maximum: u16, services: &[(&str, u8)]) -> Vec<u8> {
    let mut body = about();
    field(&mut body, 4, &target.to_be_bytes());
    field(&mut body, 5, &maximum.to_be_bytes());
    field(&mut body, 6, &sessions.to_be_bytes());
    for (service, carries) in services {
        field(&mut body, 7, &[&[*carries, 0], service.as_bytes()].concat());
    }
    body
}

/// The body of an opener's `hello`.
pub fn grant(links: u16, services: &[&str]) -> Vec<u8> {
    let mut body = about();
    field(&mut body, 5, &links.to_be_bytes());
    services.iter().for_each(|service| field(&mut body, 8, service.as_bytes()));
    body
}

/// A grant of all services that an offer names.
pub fn grant_of(links: u16, offer: &[u8]) -> Vec<u8> {
    let mut body = grant(links, &[]);
    let offered = fields(offer).into_iter().filter(|(tag, _)| *tag == 7);
    offered.for_each(|(_, value)| field(&mut body, 8, &value[2..]));
    body
}

fn address(at: SocketAddr) -> Vec<u8> {
    let port = at.port().to_be_bytes();
    match at {
        SocketAddr::V4(at) => [&at.ip().octets()[..], &port].concat(),
        SocketAddr::V6(at) => [&at.ip().octets()[..], &port].concat(),
    }
}

/// The body of `open`.
pub fn open(id: &str, client: Option<SocketAddr>, service: &str) -> Vec<u8> {
    let mut body = Vec::new();
    field(&mut body, 1, service.as_bytes());
    field(&mut body, 2, id.as_bytes());
    client.into_iter().for_each(|at| field(&mut body, 4, &address(at)));
    body
}

/// The state of a service, in a server's offer.
pub const OPEN_STATE: u8 = 0;
pub const DOWN: u8 = 1;
pub const CLOSED: u8 = 2;
pub const LOCKED: u8 = 3;
pub const DRAINING: u8 = 4;

/// The body of `services`; they carry bytes and are open.
pub fn services(names: &[&str]) -> Vec<u8> {
    let states: Vec<_> = names.iter().map(|name| (*name, OPEN_STATE)).collect();
    services_in(&states)
}

/// The services, each in the state that stands beside it.
pub fn services_in(states: &[(&str, u8)]) -> Vec<u8> {
    let mut body = Vec::new();
    states
        .iter()
        .for_each(|(name, state)| field(&mut body, 7, &[&[BYTES, *state], name.as_bytes()].concat()));
    body
}

/// The body of `credit`.
pub fn credit(bytes: u32) -> Vec<u8> {
    bytes.to_be_bytes().into()
}

/// The body of `reset`.
pub fn reset(cause: u8) -> Vec<u8> {
    vec![cause]
}

fn protocols(alpn: &[&str]) -> Vec<Vec<u8>> {
    alpn.iter().map(|name| name.as_bytes().to_vec()).collect()
}

/// How a link is over.
#[derive(Debug, PartialEq, Eq)]
pub enum LinkOver {
    /// By TLS's own end.
    Cleanly,
    Cut,
}

/// One end of a link, played by a test.
pub struct RawLink {
    pub stream: TlsStream<TcpStream>,
    /// Whether as much may come again of a session as has come.
    pub gives_credit: bool,
    /// The session that was opened last on it.
    pub session: u32,
    /// That of the frame that was heard last.
    pub last_session: u32,
    /// Sessions that were answered.
    answered: HashSet<u32>,
    /// What came of one before its answer.
    owed: HashMap<u32, usize>,
}

impl RawLink {
    /// Dials a gateway that shows a certificate for `server`, as `name`.
    pub async fn dial(folder: &TestFolder, name: &str, at: SocketAddr, server: &str, alpn: &[&str]) -> Self {
        Self::handshake(Self::tls_connector(folder, name, alpn), server, dial(at).await).await
    }

    /// With its certificates of now.
    pub fn tls_connector(folder: &TestFolder, name: &str, alpn: &[&str]) -> TlsConnector {
        let mut config = tls::client(folder, name);
        config.alpn_protocols = protocols(alpn);
        TlsConnector::from(Arc::new(config))
    }

    pub async fn handshake(connector: TlsConnector, server: &str, stream: TcpStream) -> Self {
        let server = ServerName::try_from(server.to_owned()).unwrap();
        let shaken = connector.connect(server, stream);
        let stream = timeout(PATIENCE, shaken).await.expect("a handshake in time").unwrap();
        Self::new(stream.into())
    }

    fn new(stream: TlsStream<TcpStream>) -> Self {
        let (answered, owed) = (HashSet::new(), HashMap::new());
        Self { stream, gives_credit: true, session: 0, last_session: 0, answered, owed }
    }

    /// What ALPN has agreed on.
    pub fn agreed(&self) -> Option<&str> {
        self.stream.get_ref().1.alpn_protocol().map(|name| std::str::from_utf8(name).unwrap())
    }

    /// These bytes in one write.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).await.unwrap();
    }

    /// Sends bytes as they are: no number is put in.
    pub async fn send_raw(&mut self, bytes: &[u8]) {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        timeout(PATIENCE, sent).await.expect("the bytes are taken in time").unwrap();
    }

    /// Like [`RawLink::send`], for a link that the gateway may already have cut.
    pub async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let mut bytes = self.numbered(bytes);
        if self.gives_credit {
            let due: Vec<_> = self.owed.extract_if(|number, _| self.answered.contains(number)).collect();
            for (number, owed) in due {
                bytes.extend(frame_of(number, CREDIT, &(owed as u32).to_be_bytes()));
            }
        }
        let sent = async {
            self.stream.write_all(&bytes).await?;
            self.stream.flush().await
        };
        timeout(PATIENCE, sent).await.expect("the bytes are taken in time")
    }

    /// These frames with the numbers of their sessions, where they have none.
    pub fn numbered(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let mut left = &mut bytes[..];
        while let Some((header, rest)) = left.split_first_chunk_mut::<8>() {
            let (kind, length, mut session) = parsed(*header);
            if session == 0 && is_about_session(kind) {
                session = self.session + u32::from(kind == OPEN);
                *header = header_of(session, kind, length);
            }
            match kind {
                OPEN => self.session = session,
                OPENED => _ = self.answered.insert(session),
                _ => {}
            }
            left = rest.get_mut(length..).unwrap_or_default();
        }
        bytes
    }

    pub async fn send_frame(&mut self, kind: u8, body: &[u8]) {
        self.send(&frame(kind, body)).await;
    }

    /// The next frame, or how the link is over.
    pub async fn next(&mut self) -> Result<(u8, Vec<u8>), LinkOver> {
        self.next_within(PATIENCE).await
    }

    pub async fn next_within(&mut self, patience: Duration) -> Result<(u8, Vec<u8>), LinkOver> {
        let reading = async {
            let mut header = [0; 8];
            match self.stream.read(&mut header[..1]).await {
                Ok(0) => return Err(LinkOver::Cleanly),
                Ok(_) => {}
                Err(_) => return Err(LinkOver::Cut),
            }
            self.stream.read_exact(&mut header[1..]).await.map_err(|_| LinkOver::Cut)?;
            let (kind, length, session) = parsed(header);
            assert!(length <= 4 * DATA_MAX, "{header:?}");
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body).await.map_err(|_| LinkOver::Cut)?;
            self.last_session = session;
            match kind {
                OPEN => self.session = session,
                OPENED => _ = self.answered.insert(session),
                DATA if self.gives_credit && self.answered.contains(&session) => {
                    let credit = frame_of(session, CREDIT, &(length as u32).to_be_bytes());
                    // It may have gone meanwhile.
                    let _ = self.stream.write_all(&credit).await;
                    let _ = self.stream.flush().await;
                }
                DATA => *self.owed.entry(session).or_default() += length,
                _ => {}
            }
            Ok((kind, body))
        };
        timeout(patience, reading).await.expect("a frame, or the end, in time")
    }

    /// The next frame other than a ping; pings are answered.
    pub async fn next_other_than_ping(&mut self) -> (u8, Vec<u8>) {
        let hearing = async {
            loop {
                match self.next().await.expect("a frame and not the end") {
                    (PING, token) => self.send_frame(PONG, &token).await,
                    (CREDIT, _) => {}
                    frame => return frame,
                }
            }
        };
        timeout(PATIENCE, hearing).await.expect("more than pings, in time")
    }

    /// The next frame is this one.
    pub async fn expect_frame(&mut self, kind: u8, body: &[u8]) {
        let (received, bytes) = self.next_other_than_ping().await;
        assert!(
            received == kind && bytes == body,
            "type {received}, {} bytes {:?}, and not {kind}, {} bytes {body:?}",
            bytes.len(),
            String::from_utf8_lossy(&bytes[..bytes.len().min(64)]),
            body.len()
        );
    }

    /// The next frame is this one, of this session.
    pub async fn expect_frame_of(&mut self, session: u32, kind: u8, body: &[u8]) {
        self.expect_frame(kind, body).await;
        assert_eq!(self.last_session, session, "type {kind}");
    }

    /// The next frame is of this type; its body.
    pub async fn expect_kind(&mut self, kind: u8) -> Vec<u8> {
        let (received, body) = self.next_other_than_ping().await;
        assert_eq!(received, kind, "{body:?}");
        body
    }

    /// The next frame is a server's `hello` that offers this, by whatever software; the links that it keeps,
    /// those that it takes, and its services, which carry bytes.
    pub async fn expect_offer(&mut self, target: u16, maximum: u16, services: &[&str]) {
        let carried: Vec<_> = services.iter().map(|service| (*service, BYTES)).collect();
        self.expect_offer_of(target, maximum, &carried).await;
    }

    /// Expects an offer of services that carry what stands beside them.
    pub async fn expect_offer_of(&mut self, target: u16, maximum: u16, services: &[(&str, u8)]) {
        let received = fields(&self.expect_kind(HELLO).await);
        let instance = received.iter().find(|(tag, _)| *tag == 3).expect("an instance");
        assert_eq!(instance.1.len(), 16);
        let own = |(tag, _): &&(u8, Vec<u8>)| !matches!(tag, 2 | 3);
        let received: Vec<_> = received.iter().filter(own).collect();
        let expected = fields(&offer_of(target, maximum, services));
        assert_eq!(received, expected.iter().filter(own).collect::<Vec<_>>());
    }

    /// The next frame is an opener's `hello` that grants these services, and links as descriptors allow.
    pub async fn expect_granted(&mut self, services: &[&str]) {
        let granted = self.expect_kind(HELLO).await;
        let granted = fields(&granted);
        let links = granted.iter().find(|(tag, _)| *tag == 5).expect("links");
        assert_ne!(links.1, [0, 0], "{granted:?}");
        let names = granted.iter().filter(|(tag, _)| *tag == 8).map(|(_, name)| name.as_slice());
        assert_eq!(
            names.collect::<Vec<_>>(),
            services.iter().map(|name| name.as_bytes()).collect::<Vec<_>>()
        );
    }

    /// Reads exactly `count` bytes of `data` frames.
    pub async fn expect_data(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            bytes.extend(self.expect_kind(DATA).await);
        }
        assert_eq!(bytes.len(), count);
        bytes
    }

    /// It answers a ping, and says nothing before.
    pub async fn expect_pong(&mut self, token: &[u8; 8]) {
        self.send_frame(PING, token).await;
        self.expect_frame(PONG, token).await;
    }

    /// Waits for the end; what came before it.
    pub async fn over(&mut self) -> (LinkOver, Vec<(u8, Vec<u8>)>) {
        self.over_within(PATIENCE).await
    }

    pub async fn over_within(&mut self, patience: Duration) -> (LinkOver, Vec<(u8, Vec<u8>)>) {
        let waiting = async {
            let mut frames = Vec::new();
            loop {
                match self.next_within(patience).await {
                    Ok(frame) => frames.push(frame),
                    Err(over) => return (over, frames),
                }
            }
        };
        timeout(patience, waiting).await.expect("the end in time")
    }

    /// Ends by a reset of TCP.
    pub fn cut(self) {
        match self.stream {
            TlsStream::Client(stream) => cut(stream.into_inner().0),
            TlsStream::Server(stream) => cut(stream.into_inner().0),
        }
    }
}

/// A link port that a test plays, with the certificate `NAME.pem`.
pub struct Port {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Port {
    pub async fn new(folder: &TestFolder, name: &str, alpn: &[&str]) -> Self {
        let verifier = WebPkiClientVerifier::builder(Arc::new(tls::roots(folder))).build().unwrap();
        let chain = tls::chain(folder, &format!("{name}.pem"));
        let mut config = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, tls::key(folder, &format!("{name}.key")))
            .unwrap();
        config.alpn_protocols = protocols(alpn);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { listener, acceptor: TlsAcceptor::from(Arc::new(config)) }
    }

    pub fn address(&self) -> String {
        format!("socks+tls://{}", self.listener.local_addr().unwrap())
    }

    /// The next link whose handshake succeeds: some may have given up in the queue.
    pub async fn accept(&self) -> RawLink {
        loop {
            if let Ok(link) = self.try_accept().await {
                return link;
            }
        }
    }

    /// The next link; an error where its dialler gives up in its handshake.
    pub async fn try_accept(&self) -> std::io::Result<RawLink> {
        let accepting = async {
            let stream = self.dialled().await;
            self.handshake(stream).await
        };
        timeout(PATIENCE, accepting).await.expect("a link in time")
    }

    /// The next connection, whose handshake waits for [`Port::handshake`].
    pub async fn dialled(&self) -> TcpStream {
        timeout(PATIENCE, self.listener.accept()).await.expect("a link in time").unwrap().0
    }

    pub async fn handshake(&self, stream: TcpStream) -> std::io::Result<RawLink> {
        Ok(RawLink::new(self.acceptor.accept(stream).await?.into()))
    }
}
