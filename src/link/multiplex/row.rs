//! A session on a link, as the link's task keeps it: the local stream, the bytes that this has yet to take, and
//! the bytes that have yet to be sent from it. While nothing moves it holds no buffer.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{
    credit::ReceiveWindow,
    handle::{LocalSide, SessionFate, SessionLeftover, SessionOwner, Undelivered},
    held::HeldBytes,
    ready::SessionWaker,
};
use crate::{
    link::load::{SessionSlot, SessionWeight},
    net::stream::NetStream,
    proto::multiplex::{frame::CutCause, state::LinkEnd},
    telemetry::{registry::SessionCounters, snapshot::SessionPhase},
};

#[derive(Debug)]
pub struct LinkedSession {
    end: LinkEnd,
    pub waker: Arc<SessionWaker>,
    /// Whether it is in the queue of turns.
    pub is_in_line: bool,
    local: Option<Box<LocalSide>>,
    pub outbound: Outbound,
    /// How much of the unsent bytes was sent.
    sent_ahead: usize,
    /// At an opener, until the answer. Boxed, because an open session should hold no memory for it.
    pub unanswered: Option<Box<UnansweredOpen>>,
    /// Its `open` was certainly not sent, so the session may be opened elsewhere.
    is_taken_back: bool,
    /// Bytes received and not taken.
    held: HeldBytes,
    inbound: Inbound,
    is_unflushed: bool,
    owner: Option<SessionOwner>,
    /// `opened` still has to be sent.
    pub owes_opened: bool,
    /// Boxed, because most services have no such limit.
    pub idle: Option<Box<IdleWatch>>,
    /// Whether a check of its socket is scheduled.
    pub is_check_scheduled: bool,
    slot: Option<SessionSlot>,
}

/// An `open` that was not answered yet.
#[derive(Debug)]
pub struct UnansweredOpen {
    /// The number of the batch that contains it.
    pub batch: u64,
    pub answer_by: Instant,
    /// How long the link had been stopped when that was set.
    pub stopped_before: Duration,
    /// Client bytes that were sent, to be sent again elsewhere.
    pub copy: Vec<u8>,
}

impl UnansweredOpen {
    pub fn new(batch: u64, answer_by: Instant, stopped_before: Duration) -> Self {
        Self { batch, answer_by, stopped_before, copy: Vec::new() }
    }
}

/// The direction from the local stream to the link.
#[derive(Debug)]
pub enum Outbound {
    Reading,
    /// The stream has finished, and `end` was sent.
    Ended,
    /// The stream has failed; bytes that were read before are still sent. `may_end` is set if a write failed
    /// after the peer had finished sending, which counts as a clean end.
    Failed {
        error: io::Error,
        may_end: bool,
    },
}

/// The call by which a stream has shown its failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedCall {
    Read,
    Write,
}

/// The direction from the link to the local stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inbound {
    Open,
    /// The stream ends after the held bytes.
    Ending,
    Ended,
}

/// Since when no byte has moved.
#[derive(Debug)]
pub struct IdleWatch {
    pub limit: Duration,
    bytes: u64,
    still_since: Instant,
}

/// What a turn has read.
#[derive(Debug)]
pub enum TurnRead {
    /// This many bytes; there may be more.
    Bytes(usize),
    /// Nothing now; the waker will tell.
    Nothing,
    /// The stream has finished.
    End,
    /// It has failed, and everything it had sent was sent on.
    Failed,
}

impl LinkedSession {
    /// A session that the other gateway opens; its backend is not connected yet.
    pub fn incoming(waker: Arc<SessionWaker>, owner: SessionOwner, slot: Option<SessionSlot>) -> Self {
        Self {
            end: LinkEnd::Server,
            waker,
            is_in_line: false,
            local: None,
            outbound: Outbound::Reading,
            sent_ahead: 0,
            unanswered: None,
            is_taken_back: false,
            held: HeldBytes::default(),
            inbound: Inbound::Open,
            is_unflushed: false,
            owner: Some(owner),
            owes_opened: false,
            idle: None,
            is_check_scheduled: false,
            slot,
        }
    }

    /// A session that this end opens.
    pub fn outgoing(
        waker: Arc<SessionWaker>,
        owner: SessionOwner,
        side: Box<LocalSide>,
        slot: SessionSlot,
        unanswered: UnansweredOpen,
        now: Instant,
    ) -> Self {
        let mut row = Self::incoming(waker, owner, Some(slot));
        row.end = LinkEnd::Opener;
        row.unanswered = Some(Box::new(unanswered));
        row.attach(side, now);
        row
    }

    /// Attaches the local stream.
    pub fn attach(&mut self, side: Box<LocalSide>, now: Instant) {
        let watch = |limit| IdleWatch { limit, bytes: side.counters.bytes(), still_since: now };
        self.idle = side.idle.map(watch).map(Box::new);
        self.owes_opened = self.end == LinkEnd::Server;
        self.local = Some(side);
    }

    /// It is on this link from now on. `slot` is the one that it has there, unless it keeps its own.
    pub fn rebind(&mut self, link: u64, waker: Arc<SessionWaker>, slot: Option<SessionSlot>) {
        self.waker = waker;
        (self.is_in_line, self.is_check_scheduled) = (false, false);
        if slot.is_some() {
            self.slot = slot;
        }
        self.counters().into_iter().for_each(|counters| counters.set_via(link));
    }

    /// Whether it has come to its link because it is heavy.
    pub fn weight(&self) -> SessionWeight {
        self.slot.as_ref().map_or(SessionWeight::Light, SessionSlot::weight)
    }

    pub fn has_failed(&self) -> bool {
        matches!(self.outbound, Outbound::Failed { .. })
    }

    pub fn has_stream(&self) -> bool {
        self.local.is_some()
    }

    pub fn stream(&self) -> Option<&NetStream> {
        self.local.as_ref().map(|side| &side.stream)
    }

    /// Whether written bytes still have to be flushed; a plain socket does that by itself.
    pub fn needs_flush(&self) -> bool {
        self.is_unflushed && !matches!(self.stream(), Some(NetStream::Tcp(_) | NetStream::Unix(_)))
    }

    /// Bytes waiting for the local stream.
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    fn counters(&self) -> Option<&SessionCounters> {
        self.local.as_ref().map(|side| &*side.counters)
    }

    /// Updates the phase: a session relays once the other gateway has accepted it, and drains once one side has
    /// finished.
    pub fn update_phase(&self) {
        let is_opening = match self.end {
            LinkEnd::Opener => self.unanswered.is_some(),
            LinkEnd::Server => self.owes_opened,
        };
        let has_ended = matches!(self.outbound, Outbound::Ended) || self.inbound != Inbound::Open;
        if let Some(counters) = self.counters()
            && !is_opening
        {
            counters.enter(if has_ended { SessionPhase::Draining } else { SessionPhase::Relaying });
        }
    }

    /// Notes that the other gateway has accepted the session.
    pub fn answered(&mut self) {
        self.unanswered = None;
        if let Some(answered) = self.owner.as_mut().and_then(|owner| owner.answered.take()) {
            // If the owner has gone, the session is cut anyway.
            let _ = answered.send(());
        }
        self.update_phase();
    }

    /// Whether its owner has gone, and with which cause.
    pub fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<CutCause> {
        let Some(owner) = &mut self.owner else { return Poll::Pending };
        ready!(owner.outcome.poll_closed(cx));
        Poll::Ready(owner.cut_cause())
    }

    /// Handles bytes from the link; returns how many the stream took at once.
    pub fn receive(&mut self, pieces: &mut [IoSlice<'_>]) -> io::Result<usize> {
        if self.has_failed() {
            // Nobody is left to take them.
            return Ok(0);
        }
        let (mut taken, mut left) = (0, pieces);
        if self.held.is_empty() && self.has_stream() {
            let waker = Waker::from(self.waker.clone());
            taken = self.write(&mut Context::from_waker(&waker), &mut left)?;
        }
        left.iter().for_each(|piece| self.held.push(piece));
        Ok(taken)
    }

    /// Handles the end of the other side.
    pub fn receive_end(&mut self) {
        self.inbound = Inbound::Ending;
        self.update_phase();
    }

    /// Writes as much as the stream takes, and leaves the rest in `pieces`.
    fn write(&mut self, cx: &mut Context<'_>, pieces: &mut &mut [IoSlice<'_>]) -> io::Result<usize> {
        let Some(side) = &mut self.local else { return Ok(0) };
        let mut taken = 0;
        while !pieces.is_empty() {
            match Pin::new(&mut side.stream).poll_write_vectored(cx, pieces) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => {
                    taken += count;
                    IoSlice::advance_slices(pieces, count);
                }
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        if taken > 0 {
            match self.end {
                LinkEnd::Opener => side.counters.add_down(taken),
                LinkEnd::Server => side.counters.add_up(taken),
            }
            self.is_unflushed = true;
        }
        Ok(taken)
    }

    /// Gives the stream the bytes held for it, and its end; returns how many bytes it took.
    pub fn deliver(&mut self, cx: &mut Context<'_>) -> io::Result<usize> {
        if self.local.is_none() || self.has_failed() {
            return Ok(0);
        }
        let mut all = 0;
        while !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            let taken =
                self.write(cx, &mut &mut [IoSlice::new(held.pieces().next().unwrap_or_default())][..]);
            self.held = held;
            let taken = taken?;
            if taken == 0 {
                return Ok(all);
            }
            self.held.consume(taken);
            all += taken;
        }
        self.held = HeldBytes::default();
        let Some(side) = &mut self.local else { return Ok(all) };
        if self.inbound == Inbound::Ending && Pin::new(&mut side.stream).poll_shutdown(cx)?.is_ready() {
            self.inbound = Inbound::Ended;
        }
        if self.is_unflushed && self.inbound == Inbound::Open {
            self.is_unflushed = Pin::new(&mut side.stream).poll_flush(cx)?.is_pending();
        }
        if matches!(self.outbound, Outbound::Ended)
            && let Poll::Ready(error) = side.stream.poll_control(cx)
        {
            return Err(error);
        }
        Ok(all)
    }

    /// Reads what the stream has into `space`, after anything that has to go first.
    pub fn read_turn(&mut self, cx: &mut Context<'_>, space: &mut [u8]) -> TurnRead {
        let Some(side) = &mut self.local else { return TurnRead::Nothing };
        let unsent = &side.unsent[self.sent_ahead..];
        let count = if unsent.is_empty() {
            let mut buf = ReadBuf::new(space);
            match Pin::new(&mut side.stream).poll_read(cx, &mut buf) {
                Poll::Pending => return self.nothing_now(),
                Poll::Ready(Ok(())) if buf.filled().is_empty() => return self.stream_ended(),
                Poll::Ready(Ok(())) => buf.filled().len(),
                Poll::Ready(Err(error)) => {
                    // What TLS deciphered before it failed goes first; the failure shows again later.
                    side.stream.read_rest(&mut buf);
                    let count = buf.filled().len();
                    self.fail(error, FailedCall::Read);
                    if count == 0 {
                        return TurnRead::Failed;
                    }
                    count
                }
            }
        } else {
            let count = unsent.len().min(space.len());
            space[..count].copy_from_slice(&unsent[..count]);
            self.sent_ahead += count;
            if self.sent_ahead == side.unsent.len() {
                side.unsent = Vec::new();
                self.sent_ahead = 0;
            }
            count
        };
        self.sent(&space[..count]);
        TurnRead::Bytes(count)
    }

    fn sent(&mut self, bytes: &[u8]) {
        if let Some(open) = &mut self.unanswered {
            open.copy.extend_from_slice(bytes);
        }
        let Some(counters) = self.counters() else { return };
        match self.end {
            LinkEnd::Opener => counters.add_up(bytes.len()),
            LinkEnd::Server => counters.add_down(bytes.len()),
        }
    }

    /// What to return when there is nothing to read. From a failed stream nothing more comes, unless the
    /// runtime has not yet noticed what a closed socket still holds.
    fn nothing_now(&self) -> TurnRead {
        let is_failed = self.has_failed();
        let is_closed = || self.stream().and_then(NetStream::tcp).is_some_and(crate::net::tcp::is_closed);
        match is_failed && !is_closed() {
            true => TurnRead::Failed,
            false => TurnRead::Nothing,
        }
    }

    fn stream_ended(&self) -> TurnRead {
        match &self.outbound {
            // A socket reports its error once, and then shows an end.
            Outbound::Failed { may_end: false, .. } => TurnRead::Failed,
            Outbound::Failed { may_end: true, .. } | Outbound::Reading | Outbound::Ended => TurnRead::End,
        }
    }

    /// Notes that the stream has failed. The first error counts.
    pub fn fail(&mut self, error: io::Error, call: FailedCall) {
        if !self.has_failed() {
            let has_ended = matches!(self.outbound, Outbound::Ended);
            let may_end = has_ended || call == FailedCall::Write && error.kind() == io::ErrorKind::BrokenPipe;
            self.outbound = Outbound::Failed { error, may_end };
            self.held = HeldBytes::default();
            self.local.iter_mut().for_each(|side| side.stream.stop_pacing());
            // From now on it is checked for another reason.
            self.is_check_scheduled = false;
        }
    }

    /// The cause to report to the other gateway when the stream fails.
    pub fn failure_cause(&self) -> CutCause {
        let Outbound::Failed { error, .. } = &self.outbound else { return CutCause::Other };
        self.local.as_ref().map_or(CutCause::Other, |side| side.party.cause_of(&side.stream, error))
    }

    /// Whether no byte has moved for its service's `idle`, and when to check again.
    pub fn check_idle(&mut self, now: Instant) -> (bool, Option<Instant>) {
        let bytes = self.counters().map_or(0, SessionCounters::bytes);
        let Some(idle) = &mut self.idle else { return (false, None) };
        if idle.bytes != bytes {
            (idle.bytes, idle.still_since) = (bytes, now);
        }
        let is_over = now.saturating_duration_since(idle.still_since) >= idle.limit;
        (is_over, Some(idle.next_check(now)))
    }

    /// Notes that its link was lost while this batch was still completely unsent.
    pub fn note_unsent_batch(&mut self, batch: u64) {
        self.is_taken_back = self.unanswered.as_ref().is_some_and(|open| open.batch >= batch);
    }

    /// Whether nothing but `open` may have been sent, without an answer.
    fn is_unsent(&self) -> bool {
        let nothing = self.unanswered.as_ref().is_some_and(|open| open.copy.is_empty());
        self.is_taken_back || nothing && !matches!(self.outbound, Outbound::Ended)
    }

    /// Ends the session: tells its owner, and hands over what remains.
    pub fn end(mut self, fate: SessionFate, window: Option<ReceiveWindow>) {
        let Some(owner) = self.owner.take() else { return };
        let is_unsent = self.is_unsent();
        let is_lost = matches!(fate, SessionFate::LinkLost(_));
        let fate = if is_lost && is_unsent { SessionFate::Unsent } else { fate };
        let mut resend = self.unanswered.take().map(|open| open.copy).unwrap_or_default();
        if let (Some(side), SessionFate::Refused(_) | SessionFate::Unsent | SessionFate::Unanswered) =
            (&mut self.local, &fate)
        {
            if self.end == LinkEnd::Opener {
                side.counters.take_back_up(resend.len());
            }
            resend.extend_from_slice(&side.unsent[self.sent_ahead..]);
        }
        let undelivered =
            Undelivered { bytes: self.held, has_end: self.inbound == Inbound::Ending, _window: window };
        let stream = self.local.map(|side| side.stream);
        // If the owner has gone, it has cut the session: dropping this resets the stream.
        let leftover = SessionLeftover { fate, stream, undelivered, resend, is_unsent };
        let _ = owner.outcome.send(Box::new(leftover));
    }

    /// The error that its stream failed with.
    pub fn take_failure(&mut self) -> SessionFate {
        match std::mem::replace(&mut self.outbound, Outbound::Ended) {
            Outbound::Failed { error, .. } => SessionFate::StreamFailed(error),
            Outbound::Reading | Outbound::Ended => SessionFate::Clean,
        }
    }
}

impl IdleWatch {
    /// The next check is due after a quarter of the limit, and after 2.5 s at the latest.
    pub fn next_check(&self, now: Instant) -> Instant {
        let pause = (self.limit / 4).min(Duration::from_millis(2500));
        (now + pause).min(self.still_since + self.limit).max(now + Duration::from_millis(1))
    }
}
