//! SOCKS5 by hand (RFC 1928), byte by byte, without the gateway's codec.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{
    gateway::PATIENCE,
    peers::{dial, expect_bytes, send},
};

pub const CONNECT: u8 = 1;
pub const BIND: u8 = 2;
pub const ASSOCIATE: u8 = 3;

/// Offers `no authentication`.
pub const SOCKS_OFFER: [u8; 3] = [5, 1, 0];
pub const SOCKS_METHOD: [u8; 2] = [5, 0];

/// A request with the address type `name`.
pub fn request(command: u8, name: &[u8]) -> Vec<u8> {
    request_with_port(command, name, 0)
}

pub fn request_with_port(command: u8, name: &[u8], port: u16) -> Vec<u8> {
    let mut bytes = vec![5, command, 0, 3, u8::try_from(name.len()).unwrap()];
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes
}

/// A reply with the address 0.0.0.0:0.
pub fn reply(code: u8) -> [u8; 10] {
    [5, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

/// A reply with an IPv4 address.
pub fn reply_at(address: SocketAddr) -> [u8; 10] {
    let SocketAddr::V4(address) = address else { panic!("IPv4 only") };
    let ([a, b, c, d], [high, low]) = (address.ip().octets(), address.port().to_be_bytes());
    [5, 0, 0, 1, a, b, c, d, high, low]
}

/// Chooses the method on `stream` and sends a request; the reply's code.
pub async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), command: u8, name: &[u8]) -> u8 {
    send(stream, &SOCKS_OFFER).await;
    expect_bytes(stream, &SOCKS_METHOD).await;
    send(stream, &request(command, name)).await;
    expect_reply(stream).await
}

/// Any reply whose address is 0.0.0.0:0; its code.
pub async fn expect_reply(stream: &mut (impl AsyncRead + Unpin)) -> u8 {
    let mut received = [0; 10];
    timeout(PATIENCE, stream.read_exact(&mut received)).await.expect("a reply in time").unwrap();
    assert_eq!(received, reply(received[1]));
    received[1]
}

/// A plain link after its method and request; the reply's code.
pub async fn link(at: SocketAddr, command: u8, name: &[u8]) -> (TcpStream, u8) {
    let mut stream = dial(at).await;
    let code = ask(&mut stream, command, name).await;
    (stream, code)
}

/// A SOCKS5 server that a test plays.
pub struct Server {
    pub listener: TcpListener,
}

impl Server {
    pub async fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub fn address(&self) -> String {
        format!("socks://{}", self.listener.local_addr().unwrap())
    }

    pub async fn accept(&self) -> TcpStream {
        timeout(PATIENCE, self.listener.accept()).await.expect("a link in time").unwrap().0
    }

    /// The next link that asks for something; those that only negotiate the method and leave are
    /// dropped.
    pub async fn accept_request(&self, command: u8, name: &[u8]) -> TcpStream {
        let expected = request(command, name);
        loop {
            let mut stream = self.accept().await;
            expect_bytes(&mut stream, &SOCKS_OFFER).await;
            send(&mut stream, &SOCKS_METHOD).await;
            let mut received = vec![0; expected.len()];
            match timeout(PATIENCE, stream.read_exact(&mut received)).await.expect("a request in time") {
                Ok(_) => {
                    assert_eq!(received, expected);
                    return stream;
                }
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof),
            }
        }
    }
}
