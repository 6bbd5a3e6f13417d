//! A link that speaks `portcullis/1` and carries one session after another.
//!
//! It keeps the state, turns a session's bytes into frames and back, and answers pings by the way.
//! Bytes are not copied: a frame's header is written in front of the relay's buffer, and a body is
//! read straight into it. What may come when is `proto::link::state`'s to say; whatever else comes
//! ends the link, and the session on it, and nothing else.

use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    task::coop,
};
use tokio_util::sync::CancellationToken;

use super::{
    Peer,
    pace::{Beat, Pace, Reading},
    seat::Seat,
    trouble::Trouble,
};
use crate::{
    net::{stream::Stream, tcp},
    proto::link::{
        Violation,
        decoder::{Decoder, Want},
        frame::{self, Cause, DATA_MAX, Frame, HEADER, Header, Kind, Reset},
        open::Open,
        state::{End, Machine, State},
    },
};

/// Client bytes that may be on their way before a session is answered; kept, so that they can be
/// sent again over another link when it is refused.
pub const COPY_MAX: usize = 64 * 1024;
/// A link is replaced at this age, give or take a tenth, so that all do not go at once.
const AGE: Duration = Duration::from_secs(3600);
/// And after so many sessions.
const SESSIONS_MAX: u32 = 100_000;
/// Looks may come more often than that; only so far apart do they tell silence.
const BEAT_LEAST: Duration = Duration::from_millis(1900);
/// Frames of our own that may wait for the socket.
const OUT_MAX: usize = 1024;
/// Sessions refused in a row as unknown or not allowed: more is not a mistake.
const STRAY_OPENS_MAX: u8 = 32;

/// Where a link goes when its session has ended.
pub trait Home: fmt::Debug + Send + Sync {
    fn returned(self: Arc<Self>, link: Box<Link>);
}

/// What a link without a session says.
#[derive(Debug)]
pub enum Event {
    Open(Open),
    /// No more sessions, please.
    Leaving(Kind),
    /// It closed in good order.
    Closed,
}

#[derive(Debug)]
pub struct Link {
    stream: Stream,
    peer: Peer,
    machine: Machine,
    decoder: Decoder,
    /// Frames, or the rest of one, that have yet to be written.
    out: Vec<u8>,
    unflushed: bool,
    /// Client bytes sent before the answer.
    copy: Vec<u8>,
    /// The writer that waits for the answer.
    blocked: Option<Waker>,
    /// The largest body of `data` that the other end takes.
    data_max: usize,
    seat: Option<Seat>,
    home: Option<Weak<dyn Home>>,
    /// The same while it carries: its home outlives its session.
    away: Option<Arc<dyn Home>>,
    /// Whether bytes of a session that is not answered may have gone out.
    has_tried: bool,
    next_beat: Instant,
    retired: CancellationToken,
    pace: Pace,
    leaving: Option<Kind>,
    has_told_leave: bool,
    was_within: bool,
    late_bytes: usize,
    stray_opens: u8,
    dies_at: Instant,
}

enum Step {
    /// Bytes of the session were read.
    Data,
    Frame(Frame),
    Closed,
}

impl Link {
    pub fn new(mut stream: Stream, peer: Peer, end: End) -> Self {
        stream.take_whole_writes();
        if let Some(socket) = stream.tcp() {
            // Pings tell whether it is alive. Fails only on a socket that is already gone.
            let _ = tcp::link_carries(socket);
        }
        Self {
            stream,
            peer,
            machine: Machine::new(end),
            decoder: Decoder::default(),
            out: Vec::new(),
            unflushed: false,
            copy: Vec::new(),
            blocked: None,
            data_max: DATA_MAX,
            seat: None,
            home: None,
            away: None,
            has_tried: false,
            next_beat: Instant::now(),
            retired: CancellationToken::new(),
            pace: Pace::default(),
            leaving: None,
            has_told_leave: false,
            was_within: false,
            late_bytes: 0,
            stray_opens: 0,
            dies_at: Instant::now() + AGE.mul_f64(0.9 + 0.2 * fastrand::f64()),
        }
    }

    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    pub fn state(&self) -> State {
        self.machine.state()
    }

    pub fn tcp(&self) -> Option<&TcpStream> {
        self.stream.tcp()
    }

    /// The session's number on this link, as `reset` names it.
    pub fn session(&self) -> u32 {
        self.machine.session()
    }

    pub fn bound_data(&mut self, bytes: usize) {
        self.data_max = bytes.min(DATA_MAX);
    }

    /// Counts it from now on as its peer's, until it is dropped.
    pub fn sit(&mut self, seat: Seat) {
        self.seat = Some(seat);
    }

    pub fn seat(&self) -> Option<&Seat> {
        self.seat.as_ref()
    }

    /// Where it goes after each session, and what tells that it should be replaced.
    pub fn live_at(&mut self, home: Weak<dyn Home>, retired: CancellationToken) {
        self.home = Some(home);
        self.retired = retired;
    }

    /// Cancelled when it should be replaced.
    pub fn retired(&self) -> &CancellationToken {
        &self.retired
    }

    /// Sends it home, free as it is.
    pub fn go_home(mut self: Box<Self>) {
        self.copy = Vec::new();
        if let Some(seat) = &mut self.seat {
            seat.rest();
        }
        let home = self.away.take().or_else(|| self.home.as_ref().and_then(Weak::upgrade));
        if let Some(home) = home {
            home.returned(self);
        }
    }

    /// Whether the other end has asked for no more sessions.
    pub fn leaving(&self) -> Option<Kind> {
        self.leaving
    }

    /// Whether it has carried enough, or long enough.
    pub fn is_worn(&self) -> bool {
        self.retired.is_cancelled()
            || self.machine.session() >= SESSIONS_MAX
            || Instant::now() >= self.dies_at
    }

    /// The stream alone, to bid it farewell, and its seat, which it keeps until then.
    pub fn into_parts(self) -> (Stream, Option<Seat>) {
        (self.stream, self.seat)
    }

    /// Puts a frame in line, to be written with what comes next or by [`Link::poll_flush`].
    pub fn stage(&mut self, kind: Kind, body: &[u8]) -> io::Result<()> {
        self.machine.send(kind).map_err(Trouble::Broken)?;
        frame::push(&mut self.out, kind, body);
        if kind == Kind::Opened {
            self.stray_opens = 0;
        }
        self.unflushed = true;
        Ok(())
    }

    /// Asks for no more sessions, once.
    pub fn stage_leave(&mut self, kind: Kind) -> io::Result<()> {
        if let Some(seat) = &mut self.seat {
            seat.leave();
        }
        match std::mem::replace(&mut self.has_told_leave, true) {
            true => Ok(()),
            false => self.stage(kind, &[]),
        }
    }

    /// Opens a session; `again` is what its client has sent already, on a link that refused it.
    pub fn open(&mut self, open: &Open, again: Vec<u8>) -> io::Result<()> {
        self.stage(Kind::Open, &open.body())?;
        if let Some(seat) = &mut self.seat {
            seat.carry();
        }
        for piece in again.chunks(self.data_max) {
            self.stage(Kind::Data, piece)?;
        }
        self.has_tried = !again.is_empty();
        self.copy = again;
        self.away = self.home.as_ref().and_then(Weak::upgrade);
        Ok(())
    }

    /// Whether a session that is not answered has sent more than `open`.
    pub fn has_sent(&self) -> bool {
        self.has_tried || self.state() == State::OpeningEnded
    }

    /// The client's bytes that a refused session has sent.
    pub fn take_copy(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.copy)
    }

    /// Counts a session that was refused as unknown or not allowed; too many end the link.
    pub fn strayed(&mut self) -> io::Result<()> {
        self.stray_opens += 1;
        match self.stray_opens > STRAY_OPENS_MAX {
            true => Err(Trouble::Broken(Violation::Flood("opens of services it may not use")).into()),
            false => Ok(()),
        }
    }

    /// Cuts the session: tells the other end why, if that can be said at once, and ends the link.
    pub fn cut(mut self, cause: Cause) {
        if self.state().is_free() || self.state() == State::Closed {
            return;
        }
        let reset = Reset { session: self.machine.session(), cause };
        let told = self.stage(Kind::Reset, &reset.body()).is_ok()
            && matches!(self.poll_flush(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())));
        if told {
            // Else dropped with linger 0 armed: the other end hears a reset all the same.
            self.stream.let_close_cleanly();
        }
    }

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
            true => Trouble::Reset(reset.cause),
            false if was_opening => Trouble::Unseen,
            false => Trouble::Broken(Violation::Body(Kind::Reset, "a session that does not run")),
        }
        .into()
    }

    /// Bytes of the session, or one frame.
    fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        mut buf: Option<&mut ReadBuf<'_>>,
    ) -> Poll<io::Result<Step>> {
        loop {
            match self.decoder.want() {
                Want::Data(left) if self.state() == State::Refused => ready!(self.poll_late(cx, left))?,
                Want::Data(left) => {
                    let Some(buf) = buf.as_mut() else {
                        let stray = Violation::State(Kind::Data, self.state());
                        return Poll::Ready(Err(Trouble::Broken(stray).into()));
                    };
                    let mut part = ReadBuf::new(buf.initialize_unfilled_to(left.min(buf.remaining())));
                    ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
                    let count = part.filled().len();
                    if count == 0 {
                        return Poll::Ready(Err(Trouble::Cut.into()));
                    }
                    buf.advance(count);
                    self.pace.heard();
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
                    self.pace.heard();
                    let frame = self.decoder.feed(bytes, &mut self.machine).map_err(Trouble::Broken)?;
                    if let Some(frame) = frame
                        && frame != Frame::Data
                    {
                        self.note(&frame, cx)?;
                        return Poll::Ready(Ok(Step::Frame(frame)));
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
            return Poll::Ready(Err(Trouble::Broken(Violation::Flood("bytes for a refused session")).into()));
        }
        self.pace.heard();
        self.decoder.passed(count);
        Poll::Ready(Ok(()))
    }

    /// What a frame means for the link itself.
    fn note(&mut self, frame: &Frame, cx: &mut Context<'_>) -> io::Result<()> {
        match frame {
            Frame::Ping(token) => {
                if !self.pace.pinged() {
                    return Err(Trouble::Broken(Violation::Flood("pings")).into());
                }
                // An end that does not take what it is sent judges nobody, and needs no answer.
                if self.stream.holds() || self.out.len() > OUT_MAX {
                    return Ok(());
                }
                self.stage(Kind::Pong, token)?;
                if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
                    return Err(error);
                }
            }
            Frame::Pong(token) => {
                if let (Some(took), Some(seat)) = (self.pace.answered(*token), &self.seat) {
                    seat.counts().measured(took);
                }
            }
            Frame::Opened | Frame::Refused(_) | Frame::Reset(_) => {
                if *frame == Frame::Opened {
                    self.copy = Vec::new();
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
        let within = self.state().is_free() && self.decoder.is_within();
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
