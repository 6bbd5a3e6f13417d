//! A client's stream that carries no more bytes a second than its service allows. What exceeds that is not
//! read, or not accepted, so that its sender waits. Nothing is stored here.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use super::stream::NetStream;
use crate::admission::pace::{PaceBooking, PaceDirection, ServicePace, SessionPace};

#[derive(Debug)]
pub struct PacedStream {
    stream: NetStream,
    up: PacedDirection,
    down: PacedDirection,
    is_free: bool,
}

#[derive(Debug)]
struct PacedDirection {
    pace: SessionPace,
    /// Bytes that are booked and may go when the timer has run out.
    booked: Option<usize>,
    /// Created when it is first needed.
    timer: Option<Pin<Box<Sleep>>>,
}

impl PacedStream {
    pub fn new(stream: NetStream, pace: &Arc<ServicePace>) -> Self {
        let direction = |direction| PacedDirection {
            pace: SessionPace::new(pace.clone(), direction),
            booked: None,
            timer: None,
        };
        Self {
            stream,
            up: direction(PaceDirection::Up),
            down: direction(PaceDirection::Down),
            is_free: false,
        }
    }

    pub fn inner(&self) -> &NetStream {
        &self.stream
    }

    pub fn inner_mut(&mut self) -> &mut NetStream {
        &mut self.stream
    }

    /// Lets the remaining bytes go as fast as they can.
    pub fn stop_pacing(&mut self) {
        self.is_free = true;
    }
}

impl PacedDirection {
    /// How many of `wanted` bytes may go.
    fn poll_booking(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<usize> {
        if self.booked.is_none() {
            let PaceBooking { bytes, wait } = self.pace.reserve(wanted);
            if wait.is_zero() {
                return Poll::Ready(bytes);
            }
            self.booked = Some(bytes);
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(Instant::now() + wait),
                None => self.timer = Some(Box::pin(sleep(wait))),
            }
        }
        if let Some(timer) = &mut self.timer {
            ready!(timer.as_mut().poll(cx));
        }
        let booked = self.booked.take().unwrap_or_default();
        // There may be less room than when it was booked.
        let may_go = booked.min(wanted);
        self.pace.give_back(booked - may_go);
        Poll::Ready(may_go)
    }
}

impl Drop for PacedDirection {
    fn drop(&mut self) {
        self.pace.give_back(self.booked.take().unwrap_or_default());
    }
}

impl AsyncRead for PacedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_free || buf.remaining() == 0 {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let granted = ready!(this.up.poll_booking(cx, buf.remaining()));
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(granted));
        let polled = Pin::new(&mut this.stream).poll_read(cx, &mut part);
        let count = part.filled().len();
        buf.advance(count);
        this.up.pace.give_back(granted - count);
        polled
    }
}

impl AsyncWrite for PacedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_free || bytes.is_empty() {
            return Pin::new(&mut this.stream).poll_write(cx, bytes);
        }
        let granted = ready!(this.down.poll_booking(cx, bytes.len()));
        let polled = Pin::new(&mut this.stream).poll_write(cx, &bytes[..granted]);
        let count = if let Poll::Ready(Ok(count)) = &polled { *count } else { 0 };
        this.down.pace.give_back(granted.saturating_sub(count));
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
