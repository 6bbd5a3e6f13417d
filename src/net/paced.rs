//! A client's stream that carries no more bytes a second than its service allows. What exceeds that is not
//! read, or not accepted, so that its sender waits. Nothing is stored here.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::stream::NetStream;
use crate::admission::pace::{PaceBooking, PaceDirection, ServicePace, SessionPace};

/// How often a stream that waits looks whether its limits have changed.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

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
    booked: Option<BookedBytes>,
    /// Created when it is first needed.
    timer: Option<Pin<Box<Sleep>>>,
}

/// Bytes that may go at a certain time, if the limits are still those.
#[derive(Debug, Clone, Copy)]
struct BookedBytes {
    bytes: usize,
    at: Instant,
    limits: (u64, u64),
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
        loop {
            let Some(booked) = self.booked else {
                let PaceBooking { bytes, wait } = self.pace.reserve(wanted);
                if wait.is_zero() {
                    return Poll::Ready(bytes);
                }
                let booked = BookedBytes { bytes, at: Instant::now() + wait, limits: self.pace.limits() };
                self.booked = Some(booked);
                self.set_timer(booked.at);
                continue;
            };
            if let Some(timer) = &mut self.timer {
                ready!(timer.as_mut().poll(cx));
            }
            if booked.limits != self.pace.limits() {
                self.booked = None;
            } else if Instant::now() < booked.at {
                self.set_timer(booked.at);
            } else {
                self.booked = None;
                // There may be less room than when it was booked.
                let may_go = booked.bytes.min(wanted);
                self.pace.give_back(booked.bytes - may_go);
                return Poll::Ready(may_go);
            }
        }
    }

    /// Waits until then, and no longer than until the limits are looked at again.
    fn set_timer(&mut self, at: Instant) {
        let at = at.min(Instant::now() + RECHECK_INTERVAL);
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(at),
            None => self.timer = Some(Box::pin(sleep_until(at))),
        }
    }
}

impl Drop for PacedDirection {
    fn drop(&mut self) {
        self.pace.give_back(self.booked.take().map_or(0, |booked| booked.bytes));
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
