//! Clients and backends: plain sockets, and what a test sends and receives on them.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};

use super::gateway::PATIENCE;

/// A backend that a test plays.
pub struct Backend {
    pub listener: TcpListener,
}

impl Backend {
    pub async fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub fn address(&self) -> String {
        format!("tcp://{}", self.listener.local_addr().unwrap())
    }

    pub async fn accept(&self) -> TcpStream {
        timeout(PATIENCE, self.listener.accept()).await.expect("a connection of the gateway's").unwrap().0
    }
}

/// A port of this test alone: bound, not listening, so that nobody else gets it, a connection to
/// it is refused, and a gateway that sets SO_REUSEADDR may listen on it.
pub struct Reserved {
    socket: Socket,
}

impl Reserved {
    pub fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        Self { socket }
    }

    pub fn at(&self) -> SocketAddr {
        self.socket.local_addr().unwrap().as_socket().unwrap()
    }
}

pub async fn dial(at: SocketAddr) -> TcpStream {
    timeout(PATIENCE, TcpStream::connect(at)).await.expect("connected in time").unwrap()
}

/// A client from an address of its own.
pub async fn dial_from(from: &str, at: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse::<IpAddr>().unwrap(), 0)).unwrap();
    timeout(PATIENCE, socket.connect(at)).await.expect("connected in time").unwrap()
}

/// A client that is refused: by a reset, which may come before its connect call returns.
pub async fn dial_refused(at: SocketAddr) {
    match timeout(PATIENCE, TcpStream::connect(at)).await.expect("an answer in time") {
        Ok(mut stream) => assert_eq!(expect_reset(&mut stream).await, b""),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
}

pub async fn send(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    let sent = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    timeout(PATIENCE, sent).await.expect("the bytes are taken in time").unwrap();
}

/// Reads exactly `expected`.
pub async fn expect_bytes(stream: &mut (impl AsyncRead + Unpin), expected: &[u8]) {
    let mut received = vec![0; expected.len()];
    timeout(PATIENCE, stream.read_exact(&mut received)).await.expect("bytes come in time").unwrap();
    assert_eq!(received, expected);
}

/// Reads to the clean end.
pub async fn read_all(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut received = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut received)).await.expect("an end in time").unwrap();
    received
}

/// The other side ends its direction cleanly, with nothing before.
pub async fn expect_end(stream: &mut (impl AsyncRead + Unpin)) {
    assert_eq!(read_all(stream).await, b"");
}

/// Reads to the end, which must be a reset; what came before it.
pub async fn expect_reset(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    expect_reset_within(PATIENCE, stream).await
}

pub async fn expect_reset_within(patience: Duration, stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut received = Vec::new();
    match timeout(patience, stream.read_to_end(&mut received)).await.expect("a reset in time") {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => received,
        other => panic!("no reset but {other:?}, after {} bytes", received.len()),
    }
}

/// Ends a connection by a reset.
pub fn cut(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// The seed of a random run: `SEED` in the environment, or a new one; printed.
pub fn seed() -> u64 {
    let seed = std::env::var("SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("SEED={seed}");
    seed
}
