//! What a link says: bytes of its session as frames, its end, and pings.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::io::AsyncWrite;

use super::{
    super::{
        pace::{Beat, Reading},
        trouble::Trouble,
    },
    BEAT_LEAST, COPY_MAX, Link, OUT_MAX,
};
use crate::{
    net::tcp,
    proto::link::{
        Violation,
        frame::{HEADER, Header, Kind},
        state::{End, State},
    },
};

impl Link {
    /// Sends bytes of the session as one frame.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.out.len() > OUT_MAX || self.stream.holds() {
            ready!(self.poll_flush(cx))?;
        }
        let keeps_copy = self.machine.end() == End::Opener && self.state().is_opening();
        let room = if keeps_copy { COPY_MAX - self.copy.len() } else { usize::MAX };
        if room == 0 {
            self.blocked = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let bytes = &bytes[..bytes.len().min(self.data_max).min(room)];
        self.machine.may_send(Kind::Data).map_err(Trouble::Broken)?;
        let header = Header { kind: Kind::Data, length: bytes.len() }.bytes();
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
    pub fn holds(&self) -> bool {
        !self.out.is_empty() || self.stream.holds()
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out = self.out.split_off(written);
        }
        if self.unflushed || self.stream.holds() {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Ends this end's direction.
    pub fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.state().has_ended(self.machine.end()) {
            self.stage(Kind::End, &[])?;
        }
        self.poll_flush(cx)
    }

    /// One look at whether the other end is alive; a ping goes where one is due.
    pub fn beat(&mut self, reading: Reading, cx: &mut Context<'_>) -> io::Result<()> {
        // Late bytes of a refused session are bounded by their number.
        let within = self.state() == State::Ready && self.decoder.is_within();
        if within && std::mem::replace(&mut self.was_within, within) {
            return Err(Trouble::Broken(Violation::Slow).into());
        }
        self.was_within = within;
        if self.holds() {
            if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
                return Err(error);
            }
            self.pace.excused();
            return match self.stream.tcp().is_some_and(tcp::is_silent) {
                true => Err(Trouble::Silent.into()),
                false => Ok(()),
            };
        }
        if self.state().is_opening() {
            // The other end may be waiting for its backend; the answer has a deadline of its own.
            self.pace.excused();
            return Ok(());
        }
        let now = Instant::now();
        if now < self.next_beat {
            return Ok(());
        }
        self.next_beat = now + BEAT_LEAST;
        match self.pace.beat(reading) {
            Beat::Fine => {}
            Beat::Dead => return Err(Trouble::Silent.into()),
            Beat::Ping(token) => {
                self.stage(Kind::Ping, &token)?;
                if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}
