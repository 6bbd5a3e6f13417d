//! SOCKS5 (RFC 1928) as a link speaks it, over any byte stream.
//!
//! `socks5-proto` is the codec. What it lacks is here: a service's name is checked before it is used, an
//! unknown command or address type gets its reply, and nothing is read past a message (the codec reads byte by
//! byte, so what follows belongs to the session). The caller sets deadlines.

use std::{io, net::SocketAddr};

use socks5_proto::{
    Address, Command, Error, ProtocolError, Reply, Request, Response,
    handshake::{self, Method},
};
use thiserror::Error as ThisError;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use self::reply::describe_reply;
use crate::profile::ServiceName;

pub mod reply;

/// The name offered by ALPN (RFC 7301), which is also shown to operators. It is for a peer whose TLS fails
/// a handshake without a common name.
pub const PROTOCOL_NAME: &str = "socks/5";

/// The command of a link: CONNECT from the side that dials forward, BIND from the side that parks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocksCommand {
    Connect,
    Bind,
}

/// Why a link's SOCKS5 handshake failed.
#[derive(Debug, ThisError)]
pub enum SocksError {
    #[error("it closed before the method was chosen")]
    Closed,
    #[error("it chose the method and closed")]
    NoRequest,
    #[error("{0}")]
    Io(io::Error),
    #[error("it does not speak SOCKS5: its first byte is {0:#04x}{hint}", hint = protocol_hint(*.0))]
    Version(u8),
    #[error("it does not offer the method `no authentication`")]
    Method,
    #[error("it asked for {0}, which this side does not serve")]
    Command(&'static str),
    #[error("it named an address, not a service; only names of services are served")]
    NotAName,
    #[error("it named a service of {0} bytes, which is not a valid name")]
    BadName(usize),
    #[error("it answered {}", describe_reply(*.0))]
    Refused(Reply),
    #[error("it broke the protocol: {0}")]
    Protocol(String),
}

impl SocksError {
    /// The error of the stream, if it is one.
    pub fn io(&self) -> Option<&io::Error> {
        if let Self::Io(error) = self { Some(error) } else { None }
    }

    /// The reply of the other side, if it has refused.
    pub fn reply(&self) -> Option<Reply> {
        if let Self::Refused(reply) = self { Some(*reply) } else { None }
    }
}

fn protocol_hint(first: u8) -> &'static str {
    match first {
        0x04 => " (SOCKS4 is not supported)",
        0x16 => " (TLS; this link is plain)",
        b'A'..=b'Z' => " (HTTP?)",
        _ => "",
    }
}

impl From<io::Error> for SocksError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

impl From<Error> for SocksError {
    fn from(error: Error) -> Self {
        match error {
            Error::Io(error) => error.into(),
            Error::Protocol(ProtocolError::ProtocolVersion { version }) => Self::Version(version),
            Error::Protocol(other) => Self::Protocol(other.to_string()),
        }
    }
}

/// For the side that dialled: offers method 0 and expects it.
pub async fn offer_method(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<(), SocksError> {
    handshake::Request::new(vec![Method::NONE]).write_to(stream).await?;
    stream.flush().await?;
    let response = handshake::Response::read_from(stream).await?;
    if response.method == Method::NONE { Ok(()) } else { Err(SocksError::Method) }
}

/// For the side that listens: accepts any offer that contains method 0.
pub async fn accept_method(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<(), SocksError> {
    let offered = handshake::Request::read_from(stream).await?.methods;
    let taken = offered.contains(&Method::NONE);
    let method = if taken { Method::NONE } else { Method::UNACCEPTABLE };
    handshake::Response::new(method).write_to(stream).await?;
    stream.flush().await?;
    if taken { Ok(()) } else { Err(SocksError::Method) }
}

/// Requests a service by name; the port of a request means nothing and is 0.
pub async fn send_request(
    stream: &mut (impl AsyncWrite + Unpin),
    requested: SocksCommand,
    service: &ServiceName,
) -> Result<(), SocksError> {
    let command = match requested {
        SocksCommand::Connect => Command::Connect,
        SocksCommand::Bind => Command::Bind,
    };
    let address = Address::DomainAddress(service.as_str().as_bytes().to_vec(), 0);
    Request::new(command, address).write_to(stream).await?;
    Ok(stream.flush().await?)
}

/// Reads a request. If it does not ask for a service by the command `serves`, the reply that says so has been
/// sent when this returns.
pub async fn read_request(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    serves: SocksCommand,
) -> Result<ServiceName, SocksError> {
    let mut first = [0];
    if stream.read(&mut first).await? == 0 {
        return Err(SocksError::NoRequest);
    }
    let (reply, error) = match Request::read_from(&mut first.as_slice().chain(&mut *stream)).await {
        Ok(request) => match check_request(request, serves) {
            Ok(service) => return Ok(service),
            Err(refusal) => refusal,
        },
        Err(Error::Protocol(ProtocolError::InvalidCommand { .. })) => {
            (Reply::CommandNotSupported, SocksError::Command("an unknown command"))
        }
        Err(Error::Protocol(ProtocolError::InvalidAddressTypeInRequest { .. })) => {
            (Reply::AddressTypeNotSupported, SocksError::NotAName)
        }
        Err(error) => return Err(error.into()),
    };
    send_reply(stream, reply).await?;
    Err(error)
}

fn check_request(request: Request, serves: SocksCommand) -> Result<ServiceName, (Reply, SocksError)> {
    let not_served = |command| (Reply::CommandNotSupported, SocksError::Command(command));
    match (request.command, serves) {
        (Command::Connect, SocksCommand::Connect) | (Command::Bind, SocksCommand::Bind) => {}
        (Command::Connect, SocksCommand::Bind) => return Err(not_served("CONNECT")),
        (Command::Bind, SocksCommand::Connect) => return Err(not_served("BIND")),
        (Command::Associate, _) => return Err(not_served("UDP ASSOCIATE")),
    }
    let Address::DomainAddress(name, _) = request.address else {
        return Err((Reply::AddressTypeNotSupported, SocksError::NotAName));
    };
    std::str::from_utf8(&name)
        .ok()
        .and_then(ServiceName::parse)
        .ok_or((Reply::ConnectionNotAllowed, SocksError::BadName(name.len())))
}

/// Sends a reply with the address 0.0.0.0:0.
pub async fn send_reply(stream: &mut (impl AsyncWrite + Unpin), reply: Reply) -> Result<(), SocksError> {
    Response::new(reply, Address::unspecified()).write_to(stream).await?;
    Ok(stream.flush().await?)
}

/// Sends the second reply to BIND: a client has come, from this address.
pub async fn send_announcement(
    stream: &mut (impl AsyncWrite + Unpin),
    client: SocketAddr,
) -> Result<(), SocksError> {
    Response::new(Reply::Succeeded, Address::SocketAddress(client)).write_to(stream).await?;
    Ok(stream.flush().await?)
}

/// Waits without a limit for the second reply to BIND to begin; returns its first byte.
pub async fn await_announcement(stream: &mut (impl AsyncRead + Unpin)) -> Result<u8, SocksError> {
    Ok(stream.read_u8().await?)
}

/// Reads the rest of the second reply to BIND: the client's address.
pub async fn read_announcement(
    first: u8,
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Address, SocksError> {
    read_reply(&mut [first].as_slice().chain(stream)).await
}

/// Reads a successful reply; in the second reply to BIND, its address is the client's.
pub async fn read_reply(stream: &mut (impl AsyncRead + Unpin)) -> Result<Address, SocksError> {
    let response = Response::read_from(stream).await?;
    match response.reply {
        Reply::Succeeded => Ok(response.address),
        refused => Err(SocksError::Refused(refused)),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    use futures_util::FutureExt;
    use proptest::prelude::*;
    use tokio::io::ReadBuf;

    use super::*;

    /// Bytes in pieces of given sizes, then the end; keeps what is written.
    struct Pieces {
        bytes: Vec<u8>,
        read: usize,
        sizes: Vec<usize>,
        written: Vec<u8>,
    }

    impl Pieces {
        fn new(bytes: &[u8], sizes: &[usize]) -> Self {
            Self { bytes: bytes.into(), read: 0, sizes: sizes.into(), written: Vec::new() }
        }

        fn left(&self) -> &[u8] {
            &self.bytes[self.read..]
        }
    }

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let size = self.sizes.pop().unwrap_or(usize::MAX).min(buf.remaining()).min(self.left().len());
            buf.put_slice(&self.left()[..size]);
            self.read += size;
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Pieces {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.written.extend_from_slice(buf);
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// For futures that never wait, as over [`Pieces`].
    fn now<T>(future: impl Future<Output = T>) -> T {
        future.now_or_never().expect("it never waits")
    }

    fn request(command: u8, name: &[u8]) -> Vec<u8> {
        [&[5, command, 0, 3, name.len() as u8], name, &[0, 80]].concat()
    }

    #[test]
    fn a_message_ends_where_it_ends() {
        for size in 1..=20 {
            let mut stream = Pieces::new(&[&request(1, b"orders")[..], b"rest"].concat(), &[size; 64]);
            let name = now(read_request(&mut stream, SocksCommand::Connect)).expect("a good request");
            assert_eq!((name.as_str(), stream.left(), stream.written.len()), ("orders", &b"rest"[..], 0));
        }
    }

    #[test]
    fn what_we_write_is_the_standards_bytes() {
        let mut stream = Pieces::new(&[5, 0], &[]);
        now(offer_method(&mut stream)).expect("method 0 is taken");
        let name = ServiceName::parse("ab").expect("a valid name");
        now(send_request(&mut stream, SocksCommand::Bind, &name)).expect("it is written");
        now(send_reply(&mut stream, Reply::TtlExpired)).expect("it is written");
        now(send_announcement(&mut stream, "192.0.2.7:258".parse().expect("an address")))
            .expect("it is written");
        let expected = [
            &[5, 1, 0][..],
            &[5, 2, 0, 3, 2, b'a', b'b', 0, 0],
            &[5, 6, 0, 1, 0, 0, 0, 0, 0, 0],
            &[5, 0, 0, 1, 192, 0, 2, 7, 1, 2],
        ];
        assert_eq!(stream.written, expected.concat());
    }

    #[test]
    fn every_truncated_request_is_reported_as_closed() {
        let whole = request(2, b"orders");
        for length in 1..whole.len() {
            let mut stream = Pieces::new(&whole[..length], &[]);
            let error = now(read_request(&mut stream, SocksCommand::Bind)).expect_err("half a request");
            assert!(matches!(error, SocksError::Closed), "{length}: {error:?}");
        }
        let nothing = now(read_request(&mut Pieces::new(&[], &[]), SocksCommand::Bind));
        assert!(matches!(nothing, Err(SocksError::NoRequest)), "{nothing:?}");
    }

    fn any_request() -> impl Strategy<Value = Vec<u8>> {
        let name = proptest::collection::vec(any::<u8>(), 0..=255);
        let good = (0..5_u8, name).prop_map(|(command, name)| request(command, &name));
        prop_oneof![good, proptest::collection::vec(any::<u8>(), 0..300)]
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_understood_alike_and_never_read_past_the_message(
            bytes in any_request(),
            sizes in proptest::collection::vec(1..9_usize, 0..400),
        ) {
            let mut whole = Pieces::new(&bytes, &[]);
            let mut split = Pieces::new(&bytes, &sizes);
            let (one, other) =
                (now(read_request(&mut whole, SocksCommand::Connect)), now(read_request(&mut split, SocksCommand::Connect)));
            prop_assert_eq!(format!("{one:?}"), format!("{other:?}"));
            prop_assert_eq!((whole.left(), &whole.written), (split.left(), &split.written));
            if let Ok(name) = one {
                prop_assert_eq!(split.read, 7 + name.as_str().len());
            }
            prop_assert!(split.read <= 4 + 1 + 255 + 2);
        }
    }
}
