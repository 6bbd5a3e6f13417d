//! The writing half of a framed link: bytes of its session as frames, its end, and pings.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{io::AsyncWrite, time::Instant};

use super::{
    super::{
        error::LinkError,
        liveness::{LivenessVerdict, ReadState, WriteState},
    },
    COPY_MAX, Link, OUT_MAX,
};
use crate::{
    net::tcp,
    proto::link::{
        ProtocolViolation,
        frame::{FrameHeader, FrameKind, HEADER},
        state::LinkRole,
    },
};

impl Link {
    /// Sends bytes of the session as one frame.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.out.len() > OUT_MAX || self.stream.holds_output() {
            ready!(self.poll_flush(cx))?;
        }
        let keeps_copy = self.machine.end() == LinkRole::Opener && self.state().is_opening();
        let room = if keeps_copy { COPY_MAX - self.copy.len() } else { usize::MAX };
        if room == 0 {
            self.blocked = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let bytes = &bytes[..bytes.len().min(self.data_max).min(room)];
        self.machine.may_send(FrameKind::Data).map_err(LinkError::Broken)?;
        let header = FrameHeader { kind: FrameKind::Data, length: bytes.len() }.bytes();
        self.has_tried |= keeps_copy;
        let parts = [IoSlice::new(&self.out), IoSlice::new(&header), IoSlice::new(bytes)];
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &parts))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let whole = self.out.len() + HEADER + bytes.len();
        self.out = match written == whole {
            true => Vec::new(),
            // A plain stream takes a part; a begun frame has to be finished before anything else.
            false => [&self.out, &header[..], bytes].concat().split_off(written),
        };
        if keeps_copy {
            self.copy.extend_from_slice(bytes);
        }
        self.unflushed = true;
        self.sent = self.sent.saturating_add(bytes.len());
        Poll::Ready(Ok(bytes.len()))
    }

    /// Whether frames of ours wait for the socket.
    pub fn holds_output(&self) -> bool {
        !self.out.is_empty() || self.stream.holds_output()
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out = self.out.split_off(written);
        }
        if self.unflushed || self.stream.holds_output() {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Ends this end's direction.
    pub fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.state().has_ended(self.machine.end()) {
            self.stage(FrameKind::End, &[])?;
        }
        self.poll_flush(cx)
    }

    /// When [`Link::check_alive`] is to look next.
    pub fn next_check(&self) -> Instant {
        self.whole_by.map_or(self.liveness.next_check(), |whole_by| whole_by.min(self.liveness.next_check()))
    }

    /// Whether the other end is alive; a ping goes where one is due.
    pub fn check_alive(&mut self, reading: ReadState, cx: &mut Context<'_>) -> io::Result<()> {
        if self.holds_output()
            && let Poll::Ready(Err(error)) = self.poll_flush(cx)
        {
            return Err(error);
        }
        let now = Instant::now();
        let late = now.saturating_duration_since(self.next_check());
        if let Some(whole_by) = &mut self.whole_by {
            // Nobody listened meanwhile.
            *whole_by += late;
            if now >= *whole_by {
                return Err(self.violation_error(ProtocolViolation::Slow));
            }
        }
        if now < self.liveness.next_check() {
            return Ok(());
        }
        if self.state().is_opening() {
            // The other end may be waiting for its backend; the answer has a deadline of its own.
            self.liveness.excuse(now);
            return Ok(());
        }
        let writing = if self.holds_output() { WriteState::Blocked } else { WriteState::Yes };
        let socket = self.stream.tcp();
        let unacknowledged = || socket.and_then(tcp::unacknowledged_for);
        match self.liveness.check(now, late, (reading, writing), unacknowledged) {
            LivenessVerdict::Alive => Ok(()),
            LivenessVerdict::Dead => Err(LinkError::Silent.into()),
            LivenessVerdict::Ping(token) => {
                self.stage(FrameKind::Ping, &token)?;
                match self.poll_flush(cx) {
                    Poll::Ready(Err(error)) => Err(error),
                    Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
                }
            }
        }
    }
}
