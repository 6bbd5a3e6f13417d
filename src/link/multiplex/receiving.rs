//! What a link receives: frames for itself, and for each of its sessions. Each frame is checked against the state
//! tables before it is used. Nothing here waits for a session: what its stream does not take stays in its row.

use std::{
    cell::RefCell,
    io::IoSlice,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    time::Instant,
};

use super::{
    handle::{LinkLoss, SessionFate},
    row::FailedCall,
    task::{MultiplexedLink, OwnerEvent},
    turns::BATCH_BYTES_MAX,
};
use crate::proto::{
    Refusal,
    multiplex::{
        PeerViolation,
        decoder::DecodedPiece,
        frame::{FrameType, LinkFrame},
        state::{LinkEnd, SessionStage},
    },
};

/// Bytes read before it is time to write: the largest encrypted batch of the other end, so that a read ends at
/// a TLS record.
const READ_BYTES: usize = BATCH_BYTES_MAX + 16 * 1024;
/// How many consecutive pieces of one session are written in one call; at least as many as one read can
/// contain.
const PIECES_MAX: usize = 8;

/// How many offers a server may send at once, and how many more each second.
pub(super) const OFFERS_AT_ONCE: f64 = 64.0;
const OFFERS_A_SECOND: f64 = 4.0;

thread_local! {
    /// The worker thread's buffer, borrowed within one poll and never across polls.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// Consecutive data frames of one session, collected for one vectored write.
struct DataRun<'a> {
    session: u32,
    pieces: [IoSlice<'a>; PIECES_MAX],
    count: usize,
}

impl Default for DataRun<'_> {
    fn default() -> Self {
        Self { session: 0, pieces: [IoSlice::new(&[]); PIECES_MAX], count: 0 }
    }
}

impl<'a> DataRun<'a> {
    fn takes(&self, session: u32) -> bool {
        self.count == 0 || self.session == session && self.count < PIECES_MAX
    }

    fn push(&mut self, session: u32, bytes: &'a [u8]) {
        self.session = session;
        self.pieces[self.count] = IoSlice::new(bytes);
        self.count += 1;
    }
}

impl MultiplexedLink {
    /// Reads what has arrived; returns whether there was anything.
    pub(super) fn poll_receive(&mut self, cx: &mut Context<'_>) -> Result<bool, LinkLoss> {
        let (mut all, mut is_empty) = (0, false);
        while all < READ_BYTES && !is_empty {
            all += BUFFER.with_borrow_mut(|buffer| {
                let mut buf = ReadBuf::new(buffer);
                match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
                    Poll::Pending => is_empty = true,
                    Poll::Ready(Ok(())) if buf.filled().is_empty() => return Err(self.note_end(cx)),
                    Poll::Ready(Ok(())) => self.receive(buf.filled())?,
                    // Both ends have said that the link is over, so the way the other end closes it does not
                    // matter.
                    Poll::Ready(Err(_)) if self.is_ending() => return Err(LinkLoss::Closed),
                    Poll::Ready(Err(error)) => return Err(error.into()),
                }
                Ok(buf.filled().len())
            })?;
        }
        Ok(all > 0)
    }

    fn receive(&mut self, mut bytes: &[u8]) -> Result<(), LinkLoss> {
        self.liveness.note_received();
        self.load.note_received();
        self.heavy.note_moved(bytes.len());
        let (mut run, mut pieces) = (DataRun::default(), 0);
        loop {
            let received = self.decoder.decode(&mut bytes);
            let goes_on =
                matches!(received, Ok(Some(DecodedPiece::Data { session, .. })) if run.takes(session));
            if !goes_on {
                self.receive_data(std::mem::take(&mut run))?;
            }
            let Some(received) = received? else { break };
            pieces += 1;
            match received {
                // Of a session that is over, bytes may still come.
                DecodedPiece::Data { session, bytes } => {
                    if self.table.receive_data(session, bytes.len())?.is_some() {
                        run.push(session, bytes);
                    }
                }
                DecodedPiece::Frame { session, frame } => self.receive_frame(session, frame)?,
            }
        }
        self.frame_deadline.note_read(pieces, self.decoder.is_within_frame(), Instant::now);
        Ok(())
    }

    fn receive_data(&mut self, mut run: DataRun<'_>) -> Result<(), LinkLoss> {
        let (number, pieces) = (run.session, &mut run.pieces[..run.count]);
        if pieces.is_empty() {
            return Ok(());
        }
        let Some(entry) = self.table.entry(number) else { return Ok(()) };
        let row = &mut entry.row;
        match row.receive(pieces) {
            Ok(0) => {}
            Ok(taken) => {
                if row.needs_flush() {
                    row.waker.list();
                }
                self.give_credit(number, taken)?;
            }
            Err(error) => {
                row.fail(error, FailedCall::Write);
                row.waker.list();
            }
        }
        Ok(())
    }

    fn receive_frame(&mut self, number: u32, frame: LinkFrame) -> Result<(), LinkLoss> {
        let kind = frame.kind();
        let stage = self.stage.after(self.end.other(), kind);
        self.stage = stage.ok_or(PeerViolation::LinkState(kind, self.stage))?;
        match frame {
            LinkFrame::Open(request) => self.opened(number, request),
            LinkFrame::Credit(bytes) => {
                if self.table.receive_credit(number, bytes)? {
                    self.line_up(number);
                }
                Ok(())
            }
            LinkFrame::Opened | LinkFrame::Refused(_) | LinkFrame::End | LinkFrame::Reset(_) => {
                self.receive_session_frame(number, &frame)
            }
            LinkFrame::Move { sent, credit, ticket } => self.receive_move(number, sent, (credit, ticket)),
            LinkFrame::Resume { received, credit, ticket } => {
                self.receive_resume((number, ticket), received, credit)
            }
            LinkFrame::Ping(token) => self.receive_ping(token),
            LinkFrame::Pong(token) => {
                if let Some(took) = self.liveness.note_pong(token, Instant::now()) {
                    self.events.push_back(OwnerEvent::RoundTrip(took));
                }
                Ok(())
            }
            LinkFrame::Drain | LinkFrame::Retire => {
                if self.end == LinkEnd::Opener {
                    self.leave(FrameType::Retire)?;
                }
                self.events.push_back(OwnerEvent::Leaving(kind));
                Ok(())
            }
            LinkFrame::Services(services) => {
                self.offers.refill(Instant::now().into_std(), OFFERS_A_SECOND, OFFERS_AT_ONCE);
                if !self.offers.take() {
                    return Err(PeerViolation::TooMany("offers").into());
                }
                self.events.push_back(OwnerEvent::Services(services));
                Ok(())
            }
            // The state table allows neither here.
            LinkFrame::ServerHello(_) | LinkFrame::OpenerHello(_) => Ok(()),
        }
    }

    fn receive_session_frame(&mut self, number: u32, frame: &LinkFrame) -> Result<(), LinkLoss> {
        let Some(entry) = self.table.receive(number, frame.kind())? else {
            if let LinkFrame::Reset(cause) = frame {
                self.reset_parked(number, *cause);
            }
            return Ok(());
        };
        let (stage, row) = (entry.channel.stage(), &mut entry.row);
        match frame {
            // It has been opened before, and was about to move.
            LinkFrame::Opened if row.unanswered.is_none() => return self.keep_session(number),
            LinkFrame::Opened => {
                if let Some(open) = &row.unanswered {
                    self.timers.remove_answer(open.answer_by, number);
                }
                row.answered();
                self.events.push_back(OwnerEvent::Answered);
            }
            LinkFrame::Refused(refusal) => {
                if let Some(open) = &row.unanswered {
                    self.timers.remove_answer(open.answer_by, number);
                }
                self.finish(number, SessionFate::Refused(*refusal));
                // A session that the peer did not look at says nothing about the peer.
                if *refusal != Refusal::OtherLink {
                    self.events.push_back(OwnerEvent::Refused);
                }
            }
            LinkFrame::Reset(cause) => self.finish(number, SessionFate::Reset(*cause)),
            LinkFrame::End => {
                row.receive_end();
                row.waker.list();
                if stage == SessionStage::Closed {
                    self.outgoing.finish_when_sent(number);
                }
            }
            // These are for the link, or are handled before.
            LinkFrame::ServerHello(_)
            | LinkFrame::OpenerHello(_)
            | LinkFrame::Services(_)
            | LinkFrame::Open(_)
            | LinkFrame::Credit(_)
            | LinkFrame::Move { .. }
            | LinkFrame::Resume { .. }
            | LinkFrame::Ping(_)
            | LinkFrame::Pong(_)
            | LinkFrame::Drain
            | LinkFrame::Retire => {}
        }
        Ok(())
    }

    fn receive_ping(&mut self, token: [u8; 8]) -> Result<(), LinkLoss> {
        if !self.liveness.note_ping(Instant::now()) {
            return Err(PeerViolation::TooMany("pings").into());
        }
        // A peer that does not read what it is sent gets no answers, so that nothing is queued for
        // it.
        if !self.outgoing.is_full() && !self.is_ending() {
            self.send(LinkFrame::Pong(token), 0)?;
        }
        Ok(())
    }

    /// Fails if a peer has sent too many frames that need an answer, and reads none of the answers.
    pub(super) fn check_control(&self) -> Result<(), LinkLoss> {
        match self.outgoing.is_beyond_bound() {
            true => Err(PeerViolation::TooMany("frames whose answers are not read").into()),
            false => Ok(()),
        }
    }
}
