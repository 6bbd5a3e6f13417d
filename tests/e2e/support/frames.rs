//! `portcullis/1` by hand, byte by byte, without the gateway's codec; and TLS peers that speak it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::{ServerConfig, pki_types::ServerName, server::WebPkiClientVerifier};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::{
    gateway::{PATIENCE, Place},
    peers::{cut, dial},
    tls,
};

pub const HELLO: u8 = 1;
pub const OPEN: u8 = 2;
pub const OPENED: u8 = 3;
pub const REFUSED: u8 = 4;
pub const DATA: u8 = 5;
pub const END: u8 = 6;
pub const RESET: u8 = 7;
pub const PING: u8 = 8;
pub const PONG: u8 = 9;
pub const DRAIN: u8 = 10;
pub const RETIRE: u8 = 11;

pub const OURS: &str = "portcullis/1";
pub const SOCKS: &str = "socks/5";

/// The most that a body of `data` may have.
pub const DATA_MAX: usize = 131_072;
/// The most of a client's bytes that may come before an answer.
pub const COPY_MAX: usize = 65_536;

pub fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    header(kind, body.len()).into_iter().chain(body.iter().copied()).collect()
}

/// A header alone, which may lie.
pub fn header(kind: u8, length: usize) -> [u8; 4] {
    [kind, (length >> 16) as u8, (length >> 8) as u8, length as u8]
}

fn names(services: &[&str]) -> Vec<u8> {
    let mut bytes = u16::try_from(services.len()).unwrap().to_be_bytes().to_vec();
    for service in services {
        bytes.push(u8::try_from(service.len()).unwrap());
        bytes.extend_from_slice(service.as_bytes());
    }
    bytes
}

/// What a service carries, in a server's `hello`.
pub const BYTES: u8 = 0;
pub const HTTP: u8 = 1;

/// The body of a server's `hello`; its services carry bytes.
pub fn offer(target: u16, maximum: u16, services: &[&str]) -> Vec<u8> {
    let services: Vec<_> = services.iter().map(|service| (*service, BYTES)).collect();
    offer_of(target, maximum, &services)
}

/// The same of services that carry what stands beside them.
pub fn offer_of(target: u16, maximum: u16, services: &[(&str, u8)]) -> Vec<u8> {
    let mut body = [&[1], &target.to_be_bytes()[..], &maximum.to_be_bytes()].concat();
    body.extend_from_slice(&u16::try_from(services.len()).unwrap().to_be_bytes());
    for (service, carries) in services {
        body.extend_from_slice(&[*carries, u8::try_from(service.len()).unwrap()]);
        body.extend_from_slice(service.as_bytes());
    }
    body
}

/// The body of an opener's `hello`.
pub fn grant(links: u16, data: u32, services: &[&str]) -> Vec<u8> {
    [&[1], &links.to_be_bytes()[..], &data.to_be_bytes(), &names(services)].concat()
}

/// The same, of all that an offer names.
pub fn grant_of(links: u16, data: u32, offer: &[u8]) -> Vec<u8> {
    let mut grant = [&[1], &links.to_be_bytes()[..], &data.to_be_bytes(), &offer[5..7]].concat();
    let mut rest = &offer[7..];
    while let [_, length, behind @ ..] = rest {
        let (name, others) = behind.split_at(usize::from(*length));
        grant.push(*length);
        grant.extend_from_slice(name);
        rest = others;
    }
    grant
}

/// The body of `open`.
pub fn open(id: &str, client: Option<SocketAddr>, service: &str) -> Vec<u8> {
    let mut body = vec![0, u8::try_from(id.len()).unwrap()];
    body.extend_from_slice(id.as_bytes());
    match client {
        None => body.push(0),
        Some(SocketAddr::V4(at)) => {
            body.push(4);
            body.extend_from_slice(&at.ip().octets());
            body.extend_from_slice(&at.port().to_be_bytes());
        }
        Some(SocketAddr::V6(at)) => {
            body.push(6);
            body.extend_from_slice(&at.ip().octets());
            body.extend_from_slice(&at.port().to_be_bytes());
        }
    }
    body.push(u8::try_from(service.len()).unwrap());
    body.extend_from_slice(service.as_bytes());
    body
}

/// The body of `reset`.
pub fn reset(session: u32, cause: u8) -> Vec<u8> {
    [&session.to_be_bytes()[..], &[cause]].concat()
}

fn protocols(alpn: &[&str]) -> Vec<Vec<u8>> {
    alpn.iter().map(|name| name.as_bytes().to_vec()).collect()
}

/// How a link is over.
#[derive(Debug, PartialEq, Eq)]
pub enum Over {
    /// By TLS's own end.
    Cleanly,
    Cut,
}

/// One end of a link, played by a test.
pub struct Wire {
    pub stream: TlsStream<TcpStream>,
}

impl Wire {
    /// Dials a gateway that shows a certificate for `server`, as `name`.
    pub async fn dial(place: &Place, name: &str, at: SocketAddr, server: &str, alpn: &[&str]) -> Self {
        Self::shake(Self::ready_to_shake(place, name, alpn), server, dial(at).await).await
    }

    /// With its certificates of now.
    pub fn ready_to_shake(place: &Place, name: &str, alpn: &[&str]) -> TlsConnector {
        let mut config = tls::client(place, name);
        config.alpn_protocols = protocols(alpn);
        TlsConnector::from(Arc::new(config))
    }

    pub async fn shake(connector: TlsConnector, server: &str, stream: TcpStream) -> Self {
        let server = ServerName::try_from(server.to_owned()).unwrap();
        let shaken = connector.connect(server, stream);
        let stream = timeout(PATIENCE, shaken).await.expect("a handshake in time").unwrap();
        Self { stream: stream.into() }
    }

    /// What ALPN has agreed on.
    pub fn agreed(&self) -> Option<&str> {
        self.stream.get_ref().1.alpn_protocol().map(|name| std::str::from_utf8(name).unwrap())
    }

    /// These bytes in one write.
    pub async fn say(&mut self, bytes: &[u8]) {
        self.try_say(bytes).await.unwrap();
    }

    /// The same, to a gateway that may have cut the link already.
    pub async fn try_say(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let said = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        timeout(PATIENCE, said).await.expect("the bytes are taken in time")
    }

    pub async fn say_frame(&mut self, kind: u8, body: &[u8]) {
        self.say(&frame(kind, body)).await;
    }

    /// The next frame, or how the link is over.
    pub async fn next(&mut self) -> Result<(u8, Vec<u8>), Over> {
        self.next_within(PATIENCE).await
    }

    pub async fn next_within(&mut self, patience: Duration) -> Result<(u8, Vec<u8>), Over> {
        let reading = async {
            let mut header = [0; 4];
            match self.stream.read(&mut header[..1]).await {
                Ok(0) => return Err(Over::Cleanly),
                Ok(_) => {}
                Err(_) => return Err(Over::Cut),
            }
            self.stream.read_exact(&mut header[1..]).await.map_err(|_| Over::Cut)?;
            let [kind, a, b, c] = header;
            let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            assert!(length <= DATA_MAX, "{header:?}");
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body).await.map_err(|_| Over::Cut)?;
            Ok((kind, body))
        };
        timeout(patience, reading).await.expect("a frame, or the end, in time")
    }

    /// The next frame that is no ping; pings are answered.
    pub async fn hear_any(&mut self) -> (u8, Vec<u8>) {
        let hearing = async {
            loop {
                match self.next().await.expect("a frame and not the end") {
                    (PING, token) => self.say_frame(PONG, &token).await,
                    frame => return frame,
                }
            }
        };
        timeout(PATIENCE, hearing).await.expect("more than pings, in time")
    }

    /// The next frame is this one.
    pub async fn hear(&mut self, kind: u8, body: &[u8]) {
        let (heard, bytes) = self.hear_any().await;
        assert!(
            heard == kind && bytes == body,
            "type {heard}, {} bytes {:?}, and not {kind}, {} bytes {body:?}",
            bytes.len(),
            String::from_utf8_lossy(&bytes[..bytes.len().min(64)]),
            body.len()
        );
    }

    /// The next frame is of this type; its body.
    pub async fn hear_kind(&mut self, kind: u8) -> Vec<u8> {
        let (heard, body) = self.hear_any().await;
        assert_eq!(heard, kind, "{body:?}");
        body
    }

    /// The next frame is an opener's `hello` that grants these services, and links as descriptors allow.
    pub async fn hear_granted(&mut self, services: &[&str]) {
        let granted = self.hear_kind(HELLO).await;
        let links = u16::from_be_bytes([granted[1], granted[2]]);
        assert!(links > 0, "{granted:?}");
        assert_eq!(granted, grant(links, DATA_MAX as u32, services));
    }

    /// So many bytes in `data`, in however many frames, and not one more in the last.
    pub async fn hear_data(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            bytes.extend(self.hear_kind(DATA).await);
        }
        assert_eq!(bytes.len(), count);
        bytes
    }

    /// It answers a ping, and says nothing before.
    pub async fn pongs(&mut self, token: &[u8; 8]) {
        self.say_frame(PING, token).await;
        self.hear(PONG, token).await;
    }

    /// Waits for the end; what came before it.
    pub async fn over(&mut self) -> (Over, Vec<(u8, Vec<u8>)>) {
        self.over_within(PATIENCE).await
    }

    pub async fn over_within(&mut self, patience: Duration) -> (Over, Vec<(u8, Vec<u8>)>) {
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
    pub async fn new(place: &Place, name: &str, alpn: &[&str]) -> Self {
        let verifier = WebPkiClientVerifier::builder(Arc::new(tls::roots(place))).build().unwrap();
        let chain = tls::chain(place, &format!("{name}.pem"));
        let mut config = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, tls::key(place, &format!("{name}.key")))
            .unwrap();
        config.alpn_protocols = protocols(alpn);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { listener, acceptor: TlsAcceptor::from(Arc::new(config)) }
    }

    pub fn address(&self) -> String {
        format!("socks+tls://{}", self.listener.local_addr().unwrap())
    }

    /// The next link whose handshake succeeds: some may have given up in the queue.
    pub async fn accept(&self) -> Wire {
        loop {
            if let Ok(link) = self.try_accept().await {
                return link;
            }
        }
    }

    /// The next link; an error where its dialler gives up in its handshake.
    pub async fn try_accept(&self) -> std::io::Result<Wire> {
        let accepting = async {
            let stream = self.dialled().await;
            self.shake(stream).await
        };
        timeout(PATIENCE, accepting).await.expect("a link in time")
    }

    /// The next connection, whose handshake waits for [`Port::shake`].
    pub async fn dialled(&self) -> TcpStream {
        timeout(PATIENCE, self.listener.accept()).await.expect("a link in time").unwrap().0
    }

    pub async fn shake(&self, stream: TcpStream) -> std::io::Result<Wire> {
        Ok(Wire { stream: self.acceptor.accept(stream).await?.into() })
    }
}
