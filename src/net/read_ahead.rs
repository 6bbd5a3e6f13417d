//! The stream below TLS, a socket or a link's WebSocket, which reads ahead of its user while a lot of data is
//! coming in.
//!
//! TLS asks for 4 KiB at a time, whatever the size of a record. When such a read comes back full, the next
//! one is large, and the reads after it are served from that buffer. When it does not, the socket is empty
//! and no buffer is held.

use std::{
    io::{self, IoSlice},
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    certificate_watch::{CertificateWatch, RevocationSignal},
    framed::FramedSocket,
    stream::NetStream,
};

/// How many bytes are read at once.
const AHEAD: usize = 64 * 1024;

#[derive(Debug)]
pub struct ReadAhead {
    below: TlsTransport,
    /// Holds no memory while little comes in.
    held: Vec<u8>,
    /// The part of it that was read and not passed on.
    left: Range<usize>,
    /// Whether the last read has left something in the socket.
    has_more: bool,
    /// Bytes that what is below has taken.
    written: u64,
    /// The watch of the certificate that was shown over it.
    watch: Option<Arc<CertificateWatch>>,
}

/// The stream that TLS runs over.
#[derive(Debug)]
pub enum TlsTransport {
    Socket(TcpStream),
    Framed(Box<FramedSocket>),
}

impl From<TcpStream> for TlsTransport {
    fn from(socket: TcpStream) -> Self {
        Self::Socket(socket)
    }
}

impl TlsTransport {
    /// Turns it into a stream for use without TLS.
    pub fn into_plain(self) -> NetStream {
        match self {
            Self::Socket(socket) => NetStream::Tcp(socket),
            Self::Framed(framed) => NetStream::Framed(framed),
        }
    }

    /// The socket below, where there is one.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Socket(socket) => Some(socket),
            Self::Framed(framed) => framed.tcp(),
        }
    }

    /// Reads; returns whether that may have left something behind.
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        let space = buf.remaining();
        match self {
            Self::Socket(socket) => {
                ready!(Pin::new(socket).poll_read(cx, buf))?;
                Poll::Ready(Ok(space > 0 && buf.remaining() == 0))
            }
            Self::Framed(framed) => {
                ready!(Pin::new(&mut **framed).poll_read(cx, buf))?;
                Poll::Ready(Ok(framed.was_full()))
            }
        }
    }
}

impl ReadAhead {
    pub fn new(below: TlsTransport) -> Self {
        Self { below, held: Vec::new(), left: 0..0, has_more: false, written: 0, watch: None }
    }

    pub fn of_socket(socket: TcpStream) -> Self {
        Self::new(TlsTransport::Socket(socket))
    }

    /// A socket with a prefix that was already read and is returned first.
    pub fn with_prefix(read: Vec<u8>, socket: TcpStream) -> Self {
        Self { left: 0..read.len(), held: read, ..Self::of_socket(socket) }
    }

    /// The socket below, where there is one.
    pub fn tcp(&self) -> Option<&TcpStream> {
        self.below.tcp()
    }

    /// Bytes that the kernel has taken; not known of a WebSocket, which may hold some back.
    pub fn written(&self) -> Option<u64> {
        match &self.below {
            TlsTransport::Socket(_) => Some(self.written),
            TlsTransport::Framed(_) => None,
        }
    }

    fn count(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = written {
            self.written += count as u64;
        }
        written
    }

    /// The WebSocket below, if there is one.
    pub fn framed(&mut self) -> Option<&mut FramedSocket> {
        match &mut self.below {
            TlsTransport::Socket(_) => None,
            TlsTransport::Framed(framed) => Some(framed),
        }
    }

    /// Keeps the watch of the certificate that was shown.
    pub fn hold_watch(&mut self, watch: Arc<CertificateWatch>) {
        self.watch = Some(watch);
    }

    pub fn revocation(&self) -> RevocationSignal {
        self.watch.as_ref().map(CertificateWatch::signal).unwrap_or_default()
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.held.resize(AHEAD, 0);
        let mut buf = ReadBuf::new(&mut self.held);
        let read = self.below.poll_read(cx, &mut buf);
        self.left = 0..buf.filled().len();
        self.has_more = matches!(read, Poll::Ready(Ok(true)));
        read.map_ok(drop)
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.left.is_empty() && !this.has_more {
            this.has_more = ready!(this.below.poll_read(cx, buf))?;
            return Poll::Ready(Ok(()));
        }
        let filled = match this.left.is_empty() {
            true => this.poll_fill(cx),
            false => Poll::Ready(Ok(())),
        };
        let count = buf.remaining().min(this.left.len());
        buf.put_slice(&this.held[this.left.start..this.left.start + count]);
        this.left.start += count;
        if this.left.is_empty() && !this.has_more {
            this.held = Vec::new();
        }
        filled
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = match &mut this.below {
            TlsTransport::Socket(socket) => Pin::new(socket).poll_write(cx, buf),
            TlsTransport::Framed(framed) => Pin::new(&mut **framed).poll_write(cx, buf),
        };
        this.count(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = match &mut this.below {
            TlsTransport::Socket(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            TlsTransport::Framed(framed) => Pin::new(&mut **framed).poll_write_vectored(cx, bufs),
        };
        this.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().below {
            TlsTransport::Socket(socket) => Pin::new(socket).poll_flush(cx),
            TlsTransport::Framed(framed) => Pin::new(&mut **framed).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().below {
            TlsTransport::Socket(socket) => Pin::new(socket).poll_shutdown(cx),
            TlsTransport::Framed(framed) => Pin::new(&mut **framed).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn much_comes_in_order_and_nothing_is_held_afterwards() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("it is bound");
        let sent: Vec<u8> = (0..3_000_001_u32).map(|at| (at ^ (at >> 9)) as u8).collect();
        let (mut dialled, accepted) =
            tokio::try_join!(TcpStream::connect(at), listener.accept()).expect("it connects");
        let mut offset = ReadAhead::of_socket(accepted.0);
        let writing = async {
            tokio::io::AsyncWriteExt::write_all(&mut dialled, &sent).await.expect("it is taken");
        };
        let reading = async {
            let (mut received, mut piece, mut held) = (Vec::new(), [0; 4096], 0);
            while received.len() < sent.len() {
                let count = offset.read(&mut piece).await.expect("bytes");
                received.extend_from_slice(&piece[..count]);
                held = held.max(offset.left.len());
            }
            (received, held)
        };
        let ((), (received, held)) = tokio::join!(writing, reading);
        assert!(received == sent && held > 4096, "{} bytes, {held} ahead", received.len());
        drop(dialled);
        assert_eq!(offset.read(&mut [0; 4096]).await.expect("its end"), 0);
        assert_eq!(offset.held.capacity(), 0);
    }
}
