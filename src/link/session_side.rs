//! One side of a session as its relay sees it: a client's or backend's stream, a SOCKS5 link, or a
//! link that will carry other sessions after this one.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};

use super::{error::LinkError, framed::Link, liveness::ReadState};
use crate::{net::stream::NetStream, proto::link::frame::ResetCause};

#[derive(Debug)]
pub enum SessionSide {
    Stream(NetStream),
    Link(Box<Link>),
    /// A link that has gone home; its part of the session was over.
    Gone,
}

impl SessionSide {
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Stream(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Link(link) => link.poll_read(cx, buf),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }

    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Stream(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Link(link) => link.poll_write(cx, bytes),
            Self::Gone => Poll::Ready(Err(LinkError::Cut.into())),
        }
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Stream(stream) => Pin::new(stream).poll_flush(cx),
            Self::Link(link) => link.poll_flush(cx),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }

    /// Tells that no more bytes go this way.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Stream(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Link(link) => link.poll_end(cx),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }

    /// Whether dropping it is a clean end of what was written, without being told so first.
    pub fn ends_when_closed(&self) -> bool {
        matches!(self, Self::Stream(NetStream::Tcp(_)))
    }

    /// What was deciphered before a read failed, which the failure has hidden.
    pub fn read_rest(&mut self, buf: &mut ReadBuf<'_>) {
        if let Self::Stream(stream) = self {
            stream.read_rest(buf);
        }
    }

    /// Reads a link whose session has nobody left to hear it, so that it is answered, and hears the
    /// answers that it waits for; only trouble is told. Nobody minds that others are not read.
    pub fn poll_ignored(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self {
            Self::Link(link) if !link.state().is_free() => link.poll_ignored(cx),
            Self::Link(_) | Self::Stream(_) | Self::Gone => Poll::Pending,
        }
    }

    /// Whether a link or a WebSocket says something while it has no bytes to bring; only trouble is
    /// told.
    pub fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self {
            Self::Link(link) if !link.state().is_free() => link.poll_control(cx),
            Self::Stream(NetStream::Ws(socket)) => socket.poll_control(cx),
            Self::Link(_) | Self::Stream(_) | Self::Gone => Poll::Pending,
        }
    }

    /// When [`SessionSide::check_alive`] is to look next; `None` where it has nothing to look at.
    pub fn next_check(&self) -> Option<Instant> {
        match self {
            Self::Link(link) => Some(link.next_check()),
            Self::Stream(_) | Self::Gone => None,
        }
    }

    /// A look at whether the other end of a link of our own is alive.
    pub fn check_alive(&mut self, reading: ReadState, cx: &mut Context<'_>) -> io::Result<()> {
        match self {
            Self::Link(link) => link.check_alive(reading, cx),
            Self::Stream(_) | Self::Gone => Ok(()),
        }
    }

    /// The socket below, where there is one.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Stream(stream) => stream.tcp(),
            Self::Link(link) => link.tcp(),
            Self::Gone => None,
        }
    }

    /// Whether something is staged here that has yet to be sent.
    pub fn holds_output(&self) -> bool {
        matches!(self, Self::Link(link) if link.holds_output())
    }

    /// Whether it is a link that carries sessions one after another.
    pub fn is_framed(&self) -> bool {
        matches!(self, Self::Link(_))
    }

    /// Whether the session has not been answered yet.
    pub fn is_opening(&self) -> bool {
        matches!(self, Self::Link(link) if link.state().is_opening())
    }

    /// Whether the other end has taken the session. A stream has, since it stands.
    pub fn was_opened(&self) -> bool {
        !matches!(self, Self::Link(link) if !link.was_opened())
    }

    /// Sends a link home whose part of the session is over, all of it written.
    pub fn return_to_pool_if_free(&mut self, cx: &mut Context<'_>) {
        if let Self::Link(link) = self
            && link.state().is_free()
            && link.holds_output()
        {
            // A failure shows with the next read.
            let _ = link.poll_flush(cx);
        }
        if matches!(self, Self::Link(link) if link.state().is_free() && !link.holds_output())
            && let Self::Link(link) = std::mem::replace(self, Self::Gone)
        {
            link.return_to_owner();
        }
    }

    /// Both directions have ended cleanly: what is dropped now is a clean end, not a reset.
    pub fn let_close_cleanly(&self) {
        if let Self::Stream(stream) = self {
            stream.let_close_cleanly();
        }
    }

    /// The session is cut: the socket is reset; a link is told why first.
    pub async fn cut(self, cause: ResetCause) {
        match self {
            Self::Link(link) => link.cut(cause).await,
            // Dropped with linger 0 armed.
            Self::Stream(_) | Self::Gone => {}
        }
    }
}
