//! The built-in backend `echo://`: a bounded buffer that sends back what it receives.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes held before the sender has to wait.
const HELD_MAX: usize = 64 * 1024;

/// Both ends in one value: whatever is written can be read. Used by one task, as a relay does.
#[derive(Debug, Default)]
pub struct EchoStream {
    held: VecDeque<u8>,
    ended: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl AsyncRead for EchoStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.held.is_empty() && !self.ended {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let (head, _) = self.held.as_slices();
        let count = head.len().min(buf.remaining());
        buf.put_slice(&head[..count]);
        self.held.drain(..count);
        if self.held.is_empty() {
            // An idle session holds no buffer.
            self.held = VecDeque::new();
        }
        wake(&mut self.writer);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for EchoStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let space = HELD_MAX - self.held.len();
        if space == 0 {
            self.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = space.min(buf.len());
        self.held.extend(&buf[..count]);
        wake(&mut self.reader);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended = true;
        wake(&mut self.reader);
        Poll::Ready(Ok(()))
    }
}

fn wake(waiting: &mut Option<Waker>) {
    if let Some(waker) = waiting.take() {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_is_written_is_read_and_then_the_end() {
        let mut echo = EchoStream::default();
        echo.write_all(b"hello").await.expect("there is room");
        echo.shutdown().await.expect("it can always end");
        let mut received = Vec::new();
        echo.read_to_end(&mut received).await.expect("it never fails");
        assert_eq!(received, b"hello");
    }

    #[tokio::test]
    async fn a_full_buffer_stops_the_writer_until_it_is_read() {
        let mut echo = EchoStream::default();
        let taken = echo.write(&vec![1; 2 * HELD_MAX]).await.expect("it takes what fits");
        assert_eq!(taken, HELD_MAX);
        assert!(echo.write(b"x").now_or_never().is_none());
        let mut one = [0];
        echo.read_exact(&mut one).await.expect("a byte is there");
        assert_eq!(echo.write(b"xy").await.expect("room for one"), 1);
    }
}
