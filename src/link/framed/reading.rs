//! What a link hears: bytes of its session, and frames.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    task::coop,
    time::Instant,
};

use super::{super::trouble::Trouble, BEGUN, COPY_MAX, Event, Link, OUT_MAX, Step};
use crate::proto::link::{
    Violation,
    decoder::Want,
    frame::{Frame, Kind, Reset},
    state::State,
};

/// Read at once of what nobody wants.
const IGNORED_BYTES: usize = 4 * 1024;

impl Link {
    /// Reads bytes of the session; none and `Ok` at its end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let progress = ready!(coop::poll_proceed(cx));
        if self.machine.state().has_ended(self.machine.end().other()) {
            return Poll::Ready(Ok(()));
        }
        loop {
            let was_opening = self.state().is_opening();
            let step = ready!(self.poll_step(cx, Some(buf)))?;
            progress.made_progress();
            match step {
                Step::Data | Step::Frame(Frame::End) => return Poll::Ready(Ok(())),
                Step::Frame(Frame::Refused(why)) => return Poll::Ready(Err(Trouble::Refused(why).into())),
                Step::Frame(Frame::Reset(reset)) => return Poll::Ready(Err(self.reset(reset, was_opening))),
                Step::Frame(_) => {}
                Step::Closed => return Poll::Ready(Err(Trouble::Cut.into())),
            }
        }
    }

    /// Reads what a link says that brings no bytes now: its other end has ended its direction.
    pub fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            let was_opening = self.state().is_opening();
            match ready!(self.poll_step(cx, None)) {
                Ok(Step::Frame(Frame::Reset(reset))) => return Poll::Ready(self.reset(reset, was_opening)),
                Ok(Step::Data | Step::Frame(_)) => {}
                Ok(Step::Closed) => return Poll::Ready(Trouble::Cut.into()),
                Err(error) => return Poll::Ready(error),
            }
        }
    }

    /// Reads a session's bytes and forgets them.
    pub fn poll_ignored(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let mut scratch = [0; IGNORED_BYTES];
        loop {
            let mut buf = ReadBuf::new(&mut scratch);
            match ready!(self.poll_read(cx, &mut buf)) {
                Ok(()) if buf.filled().is_empty() => return self.poll_control(cx),
                Ok(()) => {}
                Err(error) => return Poll::Ready(error),
            }
        }
    }

    /// Reads what a link without a session says.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Event>> {
        loop {
            match ready!(self.poll_step(cx, None))? {
                Step::Frame(Frame::Open(open)) => {
                    self.late_bytes = 0;
                    if let Some(seat) = &mut self.seat {
                        seat.carry();
                    }
                    return Poll::Ready(Ok(Event::Open(open)));
                }
                Step::Frame(Frame::Drain) => return Poll::Ready(Ok(Event::Leaving(Kind::Drain))),
                Step::Frame(Frame::Retire) => return Poll::Ready(Ok(Event::Leaving(Kind::Retire))),
                // Cut for a session that we have seen end: nothing is lost but the link.
                Step::Frame(Frame::Reset(_)) | Step::Closed => return Poll::Ready(Ok(Event::Closed)),
                Step::Data | Step::Frame(_) => {}
            }
        }
    }

    /// The next frame of the greeting.
    pub fn poll_greeting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Frame>> {
        match ready!(self.poll_step(cx, None))? {
            Step::Frame(frame) => Poll::Ready(Ok(frame)),
            Step::Data | Step::Closed => Poll::Ready(Err(Trouble::Cut.into())),
        }
    }

    fn reset(&self, reset: Reset, was_opening: bool) -> io::Error {
        match reset.session == self.machine.session() {
            true => Trouble::Reset(reset.cause).into(),
            false if was_opening => Trouble::Unseen.into(),
            false => self.broken(Violation::Body(Kind::Reset, "a session that does not run")),
        }
    }

    /// Bytes of the session, or one frame.
    fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        mut buf: Option<&mut ReadBuf<'_>>,
    ) -> Poll<io::Result<Step>> {
        // A failure shows with the next write of others, and here behind what there is to read.
        if self.owes_pong && self.poll_flush(cx).is_ready() {
            self.owes_pong = false;
        }
        loop {
            match self.decoder.want() {
                Want::Data(left) if self.state() == State::Refused => ready!(self.poll_late(cx, left))?,
                Want::Data(left) => {
                    let Some(buf) = buf.as_mut() else {
                        let stray = Violation::State(Kind::Data, self.state());
                        return Poll::Ready(Err(self.broken(stray)));
                    };
                    let mut part = ReadBuf::new(buf.initialize_unfilled_to(left.min(buf.remaining())));
                    ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
                    let count = part.filled().len();
                    if count == 0 {
                        return Poll::Ready(Err(Trouble::Cut.into()));
                    }
                    buf.advance(count);
                    self.liveness.heard();
                    self.decoder.passed(count);
                    return Poll::Ready(Ok(Step::Data));
                }
                Want::Bytes(wanted) => {
                    let mut bytes = [0; 256];
                    let mut part = ReadBuf::new(&mut bytes[..wanted.min(256)]);
                    ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
                    let bytes = part.filled();
                    if bytes.is_empty() {
                        return Poll::Ready(match self.decoder.is_within() {
                            true => Err(Trouble::Cut.into()),
                            false => Ok(Step::Closed),
                        });
                    }
                    self.liveness.heard();
                    let fed = self.decoder.feed(bytes, &mut self.machine);
                    let frame = fed.map_err(|how| self.broken(how))?;
                    if let Some(frame) = frame
                        && frame != Frame::Data
                    {
                        self.whole_by = None;
                        self.note(&frame, cx)?;
                        return Poll::Ready(Ok(Step::Frame(frame)));
                    }
                    // Late bytes of a refused session are bounded by their number.
                    if self.whole_by.is_none() && self.state() == State::Ready && self.decoder.is_within() {
                        self.whole_by = Some(Instant::now() + BEGUN);
                    }
                }
            }
        }
    }

    /// Throws away what the opener had sent before it heard that it was refused.
    fn poll_late(&mut self, cx: &mut Context<'_>, left: usize) -> Poll<io::Result<()>> {
        let mut bytes = [0; 1024];
        let mut part = ReadBuf::new(&mut bytes[..left.min(1024)]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        let count = part.filled().len();
        if count == 0 {
            return Poll::Ready(Err(Trouble::Cut.into()));
        }
        self.late_bytes += count;
        if self.late_bytes > COPY_MAX {
            return Poll::Ready(Err(self.broken(Violation::Flood("bytes for a refused session"))));
        }
        self.liveness.heard();
        self.decoder.passed(count);
        Poll::Ready(Ok(()))
    }

    /// What a frame means for the link itself.
    fn note(&mut self, frame: &Frame, cx: &mut Context<'_>) -> io::Result<()> {
        match frame {
            Frame::Ping(token) => {
                if !self.liveness.pinged(Instant::now()) {
                    return Err(self.broken(Violation::Flood("pings")));
                }
                // An end that does not take what it is sent judges nobody, and needs no answer.
                if self.stream.holds() || self.out.len() > OUT_MAX {
                    return Ok(());
                }
                self.stage(Kind::Pong, token)?;
                self.owes_pong = self.poll_flush(cx).is_pending();
            }
            Frame::Pong(token) => {
                self.settling = self.settling.filter(|asked| asked != token);
                if let (Some(took), Some(seat)) = (self.liveness.answered(*token, Instant::now()), &self.seat)
                {
                    seat.counts().measured(took);
                }
            }
            Frame::Opened | Frame::Refused(_) | Frame::Reset(_) => {
                if *frame == Frame::Opened {
                    self.copy = Vec::new();
                    self.carried();
                }
                if !matches!(frame, Frame::Reset(_)) {
                    self.conduct.iter().for_each(|conduct| conduct.answered());
                }
                if let Some(waiting) = self.blocked.take() {
                    waiting.wake();
                }
            }
            Frame::Drain => self.leaving = Some(Kind::Drain),
            Frame::Retire => self.leaving = Some(Kind::Retire),
            Frame::Offer(_) | Frame::Grant(_) | Frame::Open(_) | Frame::Data | Frame::End => {}
        }
        Ok(())
    }
}
