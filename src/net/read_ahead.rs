//! A socket that reads ahead of its user while a lot of data is coming in.
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

use super::certificate_watch::{CertificateWatch, RevocationSignal};

/// Bytes asked for at once.
const AHEAD: usize = 64 * 1024;

#[derive(Debug)]
pub struct ReadAhead {
    socket: TcpStream,
    /// No memory while little comes in.
    held: Vec<u8>,
    /// What of it was read and not given on.
    left: Range<usize>,
    /// Whether the last read has left something in the socket.
    has_more: bool,
    /// Of the certificate that was shown over it.
    watch: Option<Arc<CertificateWatch>>,
}

impl ReadAhead {
    pub fn new(socket: TcpStream) -> Self {
        Self { socket, held: Vec::new(), left: 0..0, has_more: false, watch: None }
    }

    /// A socket with a prefix that was read already and is returned first.
    pub fn with_prefix(read: Vec<u8>, socket: TcpStream) -> Self {
        Self { left: 0..read.len(), held: read, ..Self::new(socket) }
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Keeps the watch over the certificate that was shown.
    pub fn hold_watch(&mut self, watch: Arc<CertificateWatch>) {
        self.watch = Some(watch);
    }

    pub fn revocation(&self) -> RevocationSignal {
        self.watch.as_ref().map(CertificateWatch::signal).unwrap_or_default()
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.held.resize(AHEAD, 0);
        let mut buf = ReadBuf::new(&mut self.held);
        let read = Pin::new(&mut self.socket).poll_read(cx, &mut buf);
        self.left = 0..buf.filled().len();
        self.has_more = self.left.end == AHEAD;
        read
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.left.is_empty() && !this.has_more {
            let room = buf.remaining();
            ready!(Pin::new(&mut this.socket).poll_read(cx, buf))?;
            this.has_more = room > 0 && buf.remaining() == 0;
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
        Pin::new(&mut self.get_mut().socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
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
        let mut ahead = ReadAhead::new(accepted.0);
        let writing = async {
            tokio::io::AsyncWriteExt::write_all(&mut dialled, &sent).await.expect("it is taken");
        };
        let reading = async {
            let (mut heard, mut piece, mut held) = (Vec::new(), [0; 4096], 0);
            while heard.len() < sent.len() {
                let count = ahead.read(&mut piece).await.expect("bytes");
                heard.extend_from_slice(&piece[..count]);
                held = held.max(ahead.left.len());
            }
            (heard, held)
        };
        let ((), (heard, held)) = tokio::join!(writing, reading);
        assert!(heard == sent && held > 4096, "{} bytes, {held} ahead", heard.len());
        drop(dialled);
        assert_eq!(ahead.read(&mut [0; 4096]).await.expect("its end"), 0);
        assert_eq!(ahead.held.capacity(), 0);
    }
}
