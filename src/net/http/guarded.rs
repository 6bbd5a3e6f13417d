//! A client's connection as its requests are read from it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{pulse::Pulse, strict::Strict};
use crate::net::rewound::Rewound;

/// A client's connection: what it says is looked at before it is read, and that it says something is noted.
pub struct Guarded {
    stream: Rewound,
    pulse: Arc<Pulse>,
    strict: Strict,
}

impl Guarded {
    pub fn new(stream: Rewound, pulse: Arc<Pulse>) -> Self {
        Self { stream, pulse, strict: Strict::default() }
    }

    /// With what was read of it already and not used.
    pub fn after(mut self, read: &[u8]) -> Self {
        self.stream.said = [read, &self.stream.said].concat().into();
        self
    }

    pub fn into_inner(self) -> Rewound {
        self.stream
    }
}

impl AsyncRead for Guarded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.strict.look(&mut buf.filled_mut()[before..]);
            this.pulse.heard();
        }
        read
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
