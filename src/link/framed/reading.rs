//! The reading half of a framed link: bytes of its session, and frames.

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

use super::{super::error::LinkError, BEGUN, COPY_MAX, Link, LinkEvent, OUT_MAX, ReadStep};
use crate::proto::link::{
    ProtocolViolation,
    decoder::DecoderNeed,
    frame::{Frame, FrameKind, ResetFrame},
    state::LinkProtocolState,
};

/// Read at once of what nobody wants.
const IGNORED_BYTES: usize = 4 * 1024;

impl Link {
    /// Reads bytes of the session; none and `Ok` at its end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let progress = ready!(coop::poll_proceed(cx));
        if self.machine.state().has_ended(self.machine.end().opposite()) {
            return Poll::Ready(Ok(()));
        }
        loop {
            let was_opening = self.state().is_opening();
            let step = ready!(self.poll_step(cx, Some(buf)))?;
            progress.made_progress();
            match step {
                ReadStep::Data | ReadStep::Frame(Frame::End) => return Poll::Ready(Ok(())),
                ReadStep::Frame(Frame::Refused(why)) => {
                    return Poll::Ready(Err(LinkError::Refused(why).into()));
                }
                ReadStep::Frame(Frame::Reset(reset)) => {
                    return Poll::Ready(Err(self.reset_error(reset, was_opening)));
                }
                ReadStep::Frame(_) => {}
                ReadStep::Closed => return Poll::Ready(Err(LinkError::Cut.into())),
            }
        }
    }

    /// Reads what a link says that brings no bytes now: its other end has ended its direction.
    pub fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            let was_opening = self.state().is_opening();
            match ready!(self.poll_step(cx, None)) {
                Ok(ReadStep::Frame(Frame::Reset(reset))) => {
                    return Poll::Ready(self.reset_error(reset, was_opening));
                }
                Ok(ReadStep::Data | ReadStep::Frame(_)) => {}
                Ok(ReadStep::Closed) => return Poll::Ready(LinkError::Cut.into()),
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
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<LinkEvent>> {
        loop {
            match ready!(self.poll_step(cx, None))? {
                ReadStep::Frame(Frame::Open(open)) => {
                    self.late_bytes = 0;
                    if let Some(seat) = &mut self.guard {
                        seat.mark_busy();
                    }
                    return Poll::Ready(Ok(LinkEvent::Open(open)));
                }
                ReadStep::Frame(Frame::Drain) => {
                    return Poll::Ready(Ok(LinkEvent::Leaving(FrameKind::Drain)));
                }
                ReadStep::Frame(Frame::Retire) => {
                    return Poll::Ready(Ok(LinkEvent::Leaving(FrameKind::Retire)));
                }
                // Cut for a session that we have seen end: nothing is lost but the link.
                ReadStep::Frame(Frame::Reset(_)) | ReadStep::Closed => {
                    return Poll::Ready(Ok(LinkEvent::Closed));
                }
                ReadStep::Data | ReadStep::Frame(_) => {}
            }
        }
    }

    /// The next frame of the greeting.
    pub fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Frame>> {
        match ready!(self.poll_step(cx, None))? {
            ReadStep::Frame(frame) => Poll::Ready(Ok(frame)),
            ReadStep::Data | ReadStep::Closed => Poll::Ready(Err(LinkError::Cut.into())),
        }
    }

    fn reset_error(&self, reset: ResetFrame, was_opening: bool) -> io::Error {
        match reset.session == self.machine.session() {
            true => LinkError::Reset(reset.cause).into(),
            false if was_opening => LinkError::Unseen.into(),
            false => {
                self.violation_error(ProtocolViolation::Body(FrameKind::Reset, "a session that does not run"))
            }
        }
    }

    /// Bytes of the session, or one frame.
    fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        mut buf: Option<&mut ReadBuf<'_>>,
    ) -> Poll<io::Result<ReadStep>> {
        // A failure shows with the next write of others, and here behind what there is to read.
        if self.owes_pong && self.poll_flush(cx).is_ready() {
            self.owes_pong = false;
        }
        loop {
            match self.decoder.want() {
                DecoderNeed::Data(left) if self.state() == LinkProtocolState::Refused => {
                    ready!(self.poll_late(cx, left))?
                }
                DecoderNeed::Data(left) => {
                    let Some(buf) = buf.as_mut() else {
                        let stray = ProtocolViolation::State(FrameKind::Data, self.state());
                        return Poll::Ready(Err(self.violation_error(stray)));
                    };
                    let mut part = ReadBuf::new(buf.initialize_unfilled_to(left.min(buf.remaining())));
                    ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
                    let count = part.filled().len();
                    if count == 0 {
                        return Poll::Ready(Err(LinkError::Cut.into()));
                    }
                    buf.advance(count);
                    self.liveness.note_heard();
                    self.decoder.note_passed(count);
                    return Poll::Ready(Ok(ReadStep::Data));
                }
                DecoderNeed::Bytes(wanted) => {
                    let mut bytes = [0; 256];
                    let mut part = ReadBuf::new(&mut bytes[..wanted.min(256)]);
                    ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
                    let bytes = part.filled();
                    if bytes.is_empty() {
                        return Poll::Ready(match self.decoder.is_within() {
                            true => Err(LinkError::Cut.into()),
                            false => Ok(ReadStep::Closed),
                        });
                    }
                    self.liveness.note_heard();
                    let fed = self.decoder.feed(bytes, &mut self.machine);
                    let frame = fed.map_err(|how| self.violation_error(how))?;
                    if let Some(frame) = frame
                        && frame != Frame::Data
                    {
                        self.whole_by = None;
                        self.note_frame(&frame, cx)?;
                        return Poll::Ready(Ok(ReadStep::Frame(frame)));
                    }
                    // Late bytes of a refused session are bounded by their number.
                    if self.whole_by.is_none()
                        && self.state() == LinkProtocolState::Ready
                        && self.decoder.is_within()
                    {
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
            return Poll::Ready(Err(LinkError::Cut.into()));
        }
        self.late_bytes += count;
        if self.late_bytes > COPY_MAX {
            return Poll::Ready(Err(
                self.violation_error(ProtocolViolation::Flood("bytes for a refused session"))
            ));
        }
        self.liveness.note_heard();
        self.decoder.note_passed(count);
        Poll::Ready(Ok(()))
    }

    /// What a frame means for the link itself.
    fn note_frame(&mut self, frame: &Frame, cx: &mut Context<'_>) -> io::Result<()> {
        match frame {
            Frame::Ping(token) => {
                if !self.liveness.note_ping(Instant::now()) {
                    return Err(self.violation_error(ProtocolViolation::Flood("pings")));
                }
                // An end that does not take what it is sent judges nobody, and needs no answer.
                if self.stream.holds_output() || self.out.len() > OUT_MAX {
                    return Ok(());
                }
                self.stage(FrameKind::Pong, token)?;
                self.owes_pong = self.poll_flush(cx).is_pending();
            }
            Frame::Pong(token) => {
                self.drain_token = self.drain_token.filter(|asked| asked != token);
                if let (Some(took), Some(seat)) =
                    (self.liveness.note_pong(*token, Instant::now()), &self.guard)
                {
                    seat.counts().note_round_trip(took);
                }
            }
            Frame::Opened | Frame::Refused(_) | Frame::Reset(_) => {
                if *frame == Frame::Opened {
                    self.copy = Vec::new();
                    self.was_opened = true;
                    self.note_carried();
                }
                if !matches!(frame, Frame::Reset(_)) {
                    self.peer_record.iter().for_each(|conduct| conduct.note_answered());
                }
                if let Some(waiting) = self.blocked.take() {
                    waiting.wake();
                }
            }
            Frame::Drain => self.leaving = Some(FrameKind::Drain),
            Frame::Retire => self.leaving = Some(FrameKind::Retire),
            Frame::Offer(_) | Frame::Grant(_) | Frame::Open(_) | Frame::Data | Frame::End => {}
        }
        Ok(())
    }
}
