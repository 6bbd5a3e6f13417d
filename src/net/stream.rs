//! The one stream type that sessions see: TCP, a Unix socket, TLS, a WebSocket of a client or of a link, a pipe, or the
//! built-in echo. It is an enum, so that callers can ask what it is: its socket, its certificate, its TLS.

use std::{
    io::{self, IoSlice, Read},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::{CommonState, ProtocolVersion, pki_types::CertificateDer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsStream;

use super::{
    certificate_watch::{CertificateWatch, RevocationSignal},
    echo::EchoStream,
    framed::FramedSocket,
    paced::PacedStream,
    pipe::PipeEnd,
    read_ahead::ReadAhead,
    tcp,
    ws::WebSocket,
};
use crate::{admission::pace::ServicePace, proto::certificate::expiry_seconds};

#[derive(Debug)]
pub enum NetStream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Boxed: a TLS state is over a kilobyte, and most values of this enum are moved around.
    Tls(Box<TlsStream<ReadAhead>>),
    /// Boxed for the same reason.
    Ws(Box<WebSocket>),
    /// A link inside a WebSocket, without TLS from gateway to gateway.
    Framed(Box<FramedSocket>),
    /// A pipe; HTTP is spoken at its other end. Boxed like the echo, because both are larger than a socket.
    Pipe(Box<PipeEnd>),
    Echo(Box<EchoStream>),
    /// Any of them, for a client whose service limits the speed of its bytes.
    Paced(Box<PacedStream>),
}

/// How a stream is secured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsDetails {
    pub version: String,
    /// The group of the key exchange.
    pub group: String,
    /// When the peer's certificate ends, in seconds since 1970.
    pub expires: Option<i64>,
}

impl NetStream {
    /// The TCP socket below, if there is one.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tls(stream) => stream.get_ref().0.tcp(),
            Self::Ws(stream) => stream.tcp(),
            Self::Framed(stream) => stream.tcp(),
            Self::Pipe(pipe) => pipe.stream()?.tcp(),
            Self::Paced(paced) => paced.inner().tcp(),
            Self::Unix(_) | Self::Echo(_) => None,
        }
    }

    /// The pipe, if HTTP is spoken at the other end.
    pub fn pipe(&self) -> Option<&PipeEnd> {
        match self {
            Self::Pipe(pipe) => Some(&**pipe),
            Self::Paced(paced) => paced.inner().pipe(),
            Self::Tcp(_) | Self::Unix(_) | Self::Tls(_) | Self::Ws(_) | Self::Framed(_) | Self::Echo(_) => {
                None
            }
        }
    }

    /// Limits the stream to the speed that its service allows.
    pub fn paced(self, pace: &Arc<ServicePace>) -> Self {
        match pace.is_bounded() {
            true => Self::Paced(Box::new(PacedStream::new(self, pace))),
            false => self,
        }
    }

    /// The stream has failed, so the rest of it is read without a limit.
    pub fn stop_pacing(&mut self) {
        if let Self::Paced(paced) = self {
            paced.stop_pacing();
        }
    }

    /// The certificate that the other side has shown over TLS, if any.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        match self {
            Self::Tls(stream) => stream.get_ref().1.peer_certificates()?.first(),
            Self::Paced(paced) => paced.inner().peer_certificate(),
            Self::Tcp(_) | Self::Unix(_) | Self::Ws(_) | Self::Framed(_) | Self::Pipe(_) | Self::Echo(_) => {
                None
            }
        }
    }

    /// The whole chain that it has shown.
    pub fn peer_chain(&self) -> &[CertificateDer<'static>] {
        match self {
            Self::Tls(stream) => stream.get_ref().1.peer_certificates().unwrap_or_default(),
            Self::Paced(paced) => paced.inner().peer_chain(),
            Self::Tcp(_) | Self::Unix(_) | Self::Ws(_) | Self::Framed(_) | Self::Pipe(_) | Self::Echo(_) => {
                &[]
            }
        }
    }

    /// Holds the watch of the other side's certificate for as long as the stream is open.
    pub fn hold_watch(&mut self, watch: Arc<CertificateWatch>) {
        if let Self::Tls(stream) = self {
            match &mut **stream {
                TlsStream::Client(stream) => stream.get_mut().0.hold_watch(watch),
                TlsStream::Server(stream) => stream.get_mut().0.hold_watch(watch),
            }
        }
    }

    /// Signals when the other side's certificate is revoked.
    pub fn revocation(&self) -> RevocationSignal {
        match self {
            Self::Tls(stream) => stream.get_ref().0.revocation(),
            Self::Ws(stream) => stream.revocation(),
            Self::Pipe(pipe) => pipe.revocation(),
            Self::Paced(paced) => paced.inner().revocation(),
            Self::Tcp(_) | Self::Unix(_) | Self::Framed(_) | Self::Echo(_) => RevocationSignal::default(),
        }
    }

    /// The version of TLS that is spoken, as openssl calls it.
    pub fn tls_version(&self) -> Option<&'static str> {
        match self {
            Self::Tls(stream) => match stream.get_ref().1.protocol_version()? {
                ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
                ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
                _ => None,
            },
            Self::Paced(paced) => paced.inner().tls_version(),
            Self::Tcp(_) | Self::Unix(_) | Self::Ws(_) | Self::Framed(_) | Self::Pipe(_) | Self::Echo(_) => {
                None
            }
        }
    }

    /// The protocol agreed on by ALPN (RFC 7301), if any.
    pub fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol(),
            Self::Paced(paced) => paced.inner().alpn(),
            Self::Tcp(_) | Self::Unix(_) | Self::Ws(_) | Self::Framed(_) | Self::Pipe(_) | Self::Echo(_) => {
                None
            }
        }
    }

    /// How the stream is secured and how long its peer's certificate is valid; `None` without TLS.
    pub fn tls_details(&self) -> Option<TlsDetails> {
        let stream = match self {
            Self::Tls(stream) => stream,
            Self::Paced(paced) => return paced.inner().tls_details(),
            Self::Tcp(_) | Self::Unix(_) | Self::Ws(_) | Self::Framed(_) | Self::Pipe(_) | Self::Echo(_) => {
                return None;
            }
        };
        let connection = stream.get_ref().1;
        let version = connection.protocol_version().map(|version| format!("{version:?}"));
        let group = connection.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name()));
        let leaf = connection.peer_certificates().and_then(<[_]>::first);
        Some(TlsDetails {
            version: version.unwrap_or_default().replace("TLSv1_", "TLS 1."),
            group: group.unwrap_or_default(),
            expires: leaf.and_then(expiry_seconds),
        })
    }

    /// From now on TLS accepts writes of any size; the writer limits them itself.
    pub fn take_whole_writes(&mut self) {
        if let Self::Tls(stream) = self {
            match &mut **stream {
                TlsStream::Client(stream) => stream.get_mut().1.set_buffer_limit(None),
                TlsStream::Server(stream) => stream.get_mut().1.set_buffer_limit(None),
            }
        }
        if let Some(framed) = self.framed() {
            framed.take_whole_writes();
        }
    }

    /// Stops the pings of the WebSocket around it, because what it carries has its own.
    pub fn stop_framed_pings(&mut self) {
        if let Some(framed) = self.framed() {
            framed.stop_pings();
        }
    }

    /// Whether the WebSocket around it has left its pings unanswered for long.
    pub fn is_silent(&mut self) -> bool {
        self.framed().is_some_and(|framed| framed.is_silent())
    }

    /// The WebSocket that carries a link, if there is one.
    fn framed(&mut self) -> Option<&mut FramedSocket> {
        match self {
            Self::Framed(framed) => Some(framed),
            Self::Tls(stream) => tls_parts(stream).0.framed(),
            Self::Paced(paced) => paced.inner_mut().framed(),
            Self::Tcp(_) | Self::Unix(_) | Self::Ws(_) | Self::Pipe(_) | Self::Echo(_) => None,
        }
    }

    /// Reads what TLS deciphered before a read failed: a damaged record or an alert hides what came before it.
    pub fn read_rest(&mut self, buf: &mut ReadBuf<'_>) {
        let stream = match self {
            Self::Tls(stream) => stream,
            Self::Paced(paced) => return paced.inner_mut().read_rest(buf),
            Self::Tcp(_) | Self::Unix(_) | Self::Ws(_) | Self::Framed(_) | Self::Pipe(_) | Self::Echo(_) => {
                return;
            }
        };
        let mut reader = match &mut **stream {
            TlsStream::Client(stream) => stream.get_mut().1.reader(),
            TlsStream::Server(stream) => stream.get_mut().1.reader(),
        };
        while let Ok(count @ 1..) = reader.read(buf.initialize_unfilled()) {
            buf.advance(count);
        }
    }

    /// Lets a WebSocket continue its work while it is not read; returns only errors.
    pub fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self {
            Self::Ws(socket) => socket.poll_control(cx),
            Self::Paced(paced) => paced.inner_mut().poll_control(cx),
            Self::Framed(_) | Self::Tls(_) => {
                self.framed().into_iter().for_each(|framed| framed.poll_idle(cx));
                Poll::Pending
            }
            Self::Tcp(_) | Self::Unix(_) | Self::Pipe(_) | Self::Echo(_) => Poll::Pending,
        }
    }

    /// Whether something unread waits in its socket, even if only an end.
    pub fn has_unread(&self) -> bool {
        match self {
            Self::Pipe(pipe) => pipe.has_unread(),
            Self::Paced(paced) => paced.inner().has_unread(),
            Self::Tcp(_) | Self::Tls(_) | Self::Ws(_) | Self::Framed(_) => {
                self.tcp().is_some_and(tcp::has_unread)
            }
            Self::Unix(stream) => tcp::has_unread(stream),
            Self::Echo(_) => false,
        }
    }

    /// Whether bytes may wait to be read. Where a layer above the socket may hold some, that is assumed.
    pub fn may_hold_bytes(&self) -> bool {
        match self {
            Self::Tcp(stream) => tcp::has_unread_bytes(stream),
            Self::Unix(stream) => tcp::has_unread_bytes(stream),
            Self::Paced(paced) => paced.inner().may_hold_bytes(),
            Self::Tls(_) | Self::Ws(_) | Self::Framed(_) | Self::Pipe(_) => true,
            Self::Echo(_) => false,
        }
    }

    /// Both directions have ended cleanly, so dropping the stream now is a clean end, not a reset.
    pub fn let_close_cleanly(&self) {
        if let Some(stream) = self.tcp() {
            tcp::let_close_cleanly(stream);
        }
    }
}

/// The stream below TLS, and the TLS state.
fn tls_parts(stream: &mut TlsStream<ReadAhead>) -> (&mut ReadAhead, &mut CommonState) {
    match stream {
        TlsStream::Client(stream) => {
            let (below, state) = stream.get_mut();
            (below, state)
        }
        TlsStream::Server(stream) => {
            let (below, state) = stream.get_mut();
            (below, state)
        }
    }
}

/// When both ends of TLS have finished, the WebSocket below is read to its end as well.
fn poll_framed_end(stream: &mut TlsStream<ReadAhead>, cx: &mut Context<'_>) -> Poll<()> {
    let has_closed = match stream {
        TlsStream::Client(stream) => {
            stream.get_mut().1.process_new_packets().map(|state| state.peer_has_closed())
        }
        TlsStream::Server(stream) => {
            stream.get_mut().1.process_new_packets().map(|state| state.peer_has_closed())
        }
    };
    match (has_closed, tls_parts(stream).0.framed()) {
        (Ok(true), Some(framed)) => framed.poll_closed(cx),
        (_, _) => Poll::Ready(()),
    }
}

/// The library explains a cut in a long text with a URL; a plain phrase is enough.
fn plain_words(error: io::Error) -> io::Error {
    match error.kind() {
        kind @ io::ErrorKind::UnexpectedEof => io::Error::new(kind, "its TLS ended without close_notify"),
        _ => error,
    }
}

impl AsyncRead for NetStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf).map_err(plain_words),
            Self::Ws(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Framed(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Pipe(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Echo(echo) => Pin::new(echo).poll_read(cx, buf),
            Self::Paced(paced) => Pin::new(&mut **paced).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for NetStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Ws(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Framed(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Pipe(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Echo(echo) => Pin::new(echo).poll_write(cx, buf),
            Self::Paced(paced) => Pin::new(&mut **paced).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Ws(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Framed(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Pipe(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Echo(echo) => Pin::new(echo).poll_write_vectored(cx, bufs),
            Self::Paced(paced) => Pin::new(&mut **paced).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) | Self::Tls(_) | Self::Framed(_) | Self::Pipe(_) => true,
            Self::Ws(_) | Self::Echo(_) | Self::Paced(_) => false,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Ws(stream) => Pin::new(stream).poll_flush(cx),
            Self::Framed(stream) => Pin::new(stream).poll_flush(cx),
            Self::Pipe(stream) => Pin::new(stream).poll_flush(cx),
            Self::Echo(echo) => Pin::new(echo).poll_flush(cx),
            Self::Paced(paced) => Pin::new(&mut **paced).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => {
                ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
                poll_framed_end(stream, cx).map(Ok)
            }
            Self::Ws(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Framed(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Pipe(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Echo(echo) => Pin::new(echo).poll_shutdown(cx),
            Self::Paced(paced) => Pin::new(&mut **paced).poll_shutdown(cx),
        }
    }
}
