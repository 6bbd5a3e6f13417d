//! What a link sends: frames for itself first, then its sessions in turns, one batch at a time.
//!
//! Nothing is read from a session's stream until the kernel has taken the previous batch. So only a little
//! waits in the kernel, and sessions take turns in user space.

use std::{
    cell::RefCell,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use socket2::SockRef;
use tokio::{io::AsyncWrite, time::Instant};

use super::{
    handle::{LinkLoss, SessionFate},
    row::{Outbound, TurnRead},
    task::{MultiplexedLink, OwnerEvent},
    turns::{BATCH_BYTES_FIRST, BATCH_BYTES_MAX, BatchLimit, KERNEL_BUFFER_BYTES, Turn},
};
use crate::{
    net::{stream::NetStream, tcp},
    proto::multiplex::{
        PeerViolation,
        frame::{DATA_BYTES_MAX, HEADER_BYTES, LinkFrame},
        permitted::{PermittedFrame, TurnFrame},
    },
};

/// Limit of frames waiting while the peer reads nothing; a peer that reads its answers never comes near it.
const CONTROL_BYTES_MAX: usize = 64 * 1024;
const CONTROL_BYTES_KEPT: usize = 1024;

thread_local! {
    /// The worker thread's buffer, borrowed within one poll and never across polls.
    static BATCH: RefCell<Batch> = const { RefCell::new(Batch { bytes: Vec::new(), filled: 0 }) };
}

/// What is handed to the kernel at once. Its memory is cleared when it grows, not for each batch.
struct Batch {
    bytes: Vec<u8>,
    filled: usize,
}

/// What is on its way out.
#[derive(Debug)]
pub struct Outgoing {
    /// Frames that go before any session's turn.
    control: Vec<u8>,
    /// The rest of the last batch, which the stream did not take.
    unwritten: Vec<u8>,
    is_unflushed: bool,
    /// The last batch was full, and small: the kernel would take more than it is to hold.
    awaits_room: bool,
    /// Since when the last batch has had to wait.
    blocked_since: Option<Instant>,
    batch_bytes: usize,
    /// Number of batches sent so far, and when the link was last checked.
    batches: u64,
    batches_then: u64,
    /// Bytes that the kernel had taken below TLS before the last batch.
    written_before: Option<u64>,
    limit: BatchLimit,
    /// The last value of TCP_NOTSENT_LOWAT.
    low_water: usize,
    /// Sessions that end once what is on its way has been sent.
    finished: Vec<u32>,
}

impl Batch {
    fn push(&mut self, bytes: &[u8]) {
        self.space(bytes.len()).copy_from_slice(bytes);
        self.filled += bytes.len();
    }

    /// Room for the next `bytes` bytes.
    fn space(&mut self, bytes: usize) -> &mut [u8] {
        let end = self.filled + bytes;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[self.filled..end]
    }

    fn clear(&mut self) {
        self.filled = 0;
        // Many opens at once can make it long; no link needs that for long.
        self.bytes.truncate(2 * BATCH_BYTES_MAX);
        self.bytes.shrink_to(2 * BATCH_BYTES_MAX);
    }
}

impl Outgoing {
    pub fn new(stream: &NetStream) -> Self {
        let mut outgoing = Self {
            control: Vec::new(),
            unwritten: Vec::new(),
            is_unflushed: false,
            awaits_room: false,
            blocked_since: None,
            batch_bytes: 0,
            batches: 0,
            batches_then: 0,
            written_before: None,
            limit: BatchLimit::default(),
            low_water: 0,
            finished: Vec::new(),
        };
        outgoing.follow_limit(stream);
        outgoing
    }

    /// Puts a frame in line.
    pub fn push(&mut self, frame: PermittedFrame) {
        frame.push(&mut self.control);
    }

    /// Whether anything still has to be sent.
    pub fn holds(&self) -> bool {
        self.is_blocked() || !self.control.is_empty() || !self.finished.is_empty()
    }

    /// Whether the kernel has not taken the last batch yet.
    pub fn is_blocked(&self) -> bool {
        self.is_unflushed || self.awaits_room || !self.unwritten.is_empty()
    }

    /// Whether so much is waiting that optional answers are left out.
    pub fn is_full(&self) -> bool {
        self.is_blocked() && self.control.len() > CONTROL_BYTES_MAX / 4
    }

    pub fn is_beyond_bound(&self) -> bool {
        self.is_blocked() && self.control.len() > CONTROL_BYTES_MAX
    }

    /// The number of the batch that will contain what is queued now.
    pub fn next_batch(&self) -> u64 {
        self.batches + 1 + u64::from(self.is_blocked())
    }

    /// The number of the current batch, if certainly none of its bytes have been sent.
    pub fn unsent_batch(&self, stream: &NetStream) -> Option<u64> {
        let has_begun = match stream {
            NetStream::Tcp(_) => self.unwritten.len() < self.batch_bytes,
            NetStream::Tls(tls) => {
                let written = tls.get_ref().0.written();
                written.is_none() || written != self.written_before
            }
            NetStream::Unix(_)
            | NetStream::Ws(_)
            | NetStream::Framed(_)
            | NetStream::Pipe(_)
            | NetStream::Echo(_)
            | NetStream::Paced(_) => true,
        };
        (!has_begun).then_some(self.batches + 1)
    }

    /// Ends a session as soon as its last frame has been sent.
    pub fn finish_when_sent(&mut self, number: u32) {
        self.finished.push(number);
    }

    /// Lets the kernel hold as many unsent bytes as are handed to it at once.
    fn follow_limit(&mut self, stream: &NetStream) {
        let limit = self.limit.bytes();
        let is_near = limit < 2 * self.low_water && 2 * limit > self.low_water;
        if !is_near && let Some(socket) = stream.tcp() {
            self.low_water = limit;
            // A kernel without this option lets more bytes wait, and works just as well otherwise.
            let _ = SockRef::from(socket).set_tcp_notsent_lowat(limit as u32);
        }
    }

    fn poll_flush(&mut self, stream: &mut NetStream, cx: &mut Context<'_>) -> Result<bool, LinkLoss> {
        while !self.unwritten.is_empty() {
            match Pin::new(&mut *stream).poll_write(cx, &self.unwritten) {
                Poll::Ready(Ok(0)) => return Err(LinkLoss::Cut),
                Poll::Ready(Ok(count)) => drop(self.unwritten.drain(..count)),
                Poll::Ready(Err(error)) => return Err(error.into()),
                Poll::Pending => return Ok(self.blocked()),
            }
        }
        if self.is_unflushed {
            match Pin::new(&mut *stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.is_unflushed = false,
                Poll::Ready(Err(error)) => return Err(error.into()),
                Poll::Pending => return Ok(self.blocked()),
            }
        }
        if self.awaits_room
            && let Some(socket) = stream.tcp()
            && tcp::poll_wants_more(socket, cx).is_pending()
        {
            return Ok(self.blocked());
        }
        self.awaits_room = false;
        let waited = self.blocked_since.take().map_or(Duration::ZERO, |since| since.elapsed());
        self.limit.went_out(self.batch_bytes, waited);
        self.follow_limit(stream);
        self.batch_bytes = 0;
        self.batches += 1;
        Ok(true)
    }

    /// Frees the memory of unwritten bytes if nothing was sent since the last call: a quiet link holds no buffer.
    pub fn release_if_quiet(&mut self) {
        if !self.is_blocked() && std::mem::replace(&mut self.batches_then, self.batches) == self.batches {
            self.unwritten = Vec::new();
        }
    }

    fn blocked(&mut self) -> bool {
        self.blocked_since.get_or_insert_with(Instant::now);
        false
    }

    fn poll_write(
        &mut self,
        stream: &mut NetStream,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Result<(), LinkLoss> {
        if let NetStream::Tls(tls) = stream {
            self.written_before = tls.get_ref().0.written();
        }
        let taken = match Pin::new(&mut *stream).poll_write(cx, bytes) {
            Poll::Ready(Ok(count)) => count,
            Poll::Ready(Err(error)) => return Err(error.into()),
            Poll::Pending => 0,
        };
        // Its memory is kept while the link is busy: a slow peer leaves something of each batch.
        self.unwritten.extend_from_slice(&bytes[taken..]);
        self.is_unflushed = true;
        self.batch_bytes = bytes.len();
        self.awaits_room = self.limit.is_filled_by(bytes.len()) && self.limit.bytes() < KERNEL_BUFFER_BYTES;
        Ok(())
    }
}

impl MultiplexedLink {
    /// Sends as much as the kernel takes; returns whether anything was done.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<bool, LinkLoss> {
        if self.is_ending() {
            return Ok(false);
        }
        let mut progress = false;
        if self.outgoing.is_blocked() {
            if !self.outgoing.poll_flush(&mut self.stream, cx)? {
                return self.check_control().map(|()| false);
            }
            progress = true;
        }
        if self.outgoing.control.is_empty() && self.queue.is_empty() {
            return Ok(self.finish_sent() || progress);
        }
        let is_sent = BATCH.with_borrow_mut(|batch| {
            batch.clear();
            self.fill(batch)?;
            if batch.filled == 0 {
                return Ok(false);
            }
            self.outgoing.poll_write(&mut self.stream, cx, &batch.bytes[..batch.filled])?;
            self.heavy.note_moved(batch.filled);
            Ok::<_, LinkLoss>(true)
        })?;
        if is_sent && !self.outgoing.poll_flush(&mut self.stream, cx)? {
            return Ok(true);
        }
        Ok(self.finish_sent() || progress || is_sent)
    }

    /// Ends the sessions whose last frames have been sent.
    pub(super) fn finish_sent(&mut self) -> bool {
        let finished = std::mem::take(&mut self.outgoing.finished);
        for number in &finished {
            self.finish(*number, SessionFate::Clean);
        }
        !finished.is_empty()
    }

    fn fill(&mut self, batch: &mut Batch) -> Result<(), LinkLoss> {
        self.drain_control(batch);
        let limit = self.outgoing.limit.bytes();
        self.queue.begin_batch(batch.filled);
        while let Some(turn) = self.queue.next_turn(limit) {
            self.take_turn(turn, batch)?;
        }
        // Frames that turns have added for their sessions go after the bytes.
        self.drain_control(batch);
        Ok(())
    }

    fn drain_control(&mut self, batch: &mut Batch) {
        let control = &mut self.outgoing.control;
        batch.push(control);
        control.clear();
        // The memory is kept for the next frames. Many at once need more, but not for long.
        control.shrink_to(CONTROL_BYTES_KEPT);
    }

    fn take_turn(&mut self, turn: Turn, batch: &mut Batch) -> Result<(), LinkLoss> {
        let number = turn.session;
        let began = batch.filled;
        let Some(entry) = self.table.entry(number) else {
            self.queue.end_turn(turn, 0, false);
            return Ok(());
        };
        let most = turn.bytes.saturating_sub(2 * HEADER_BYTES);
        let is_held_back = entry.channel.stage().is_held_back(self.end);
        let most = if is_held_back { 0 } else { most.min(entry.channel.send.left()).min(DATA_BYTES_MAX) };
        let read = if most == 0 { TurnRead::Nothing } else { self.read_turn(number, batch, most) };
        let mut has_more = false;
        match read {
            TurnRead::Nothing => {}
            TurnRead::Bytes(count) => {
                self.push_data(number, count, batch)?;
                has_more =
                    count < most || self.table.entry(number).is_some_and(|it| it.channel.send.left() > 0);
            }
            TurnRead::End => self.push_end(number, batch)?,
            TurnRead::Failed => self.reset_failed(number)?,
        }
        if let Some(entry) = self.table.entry(number) {
            entry.row.is_in_line = has_more;
        }
        self.queue.end_turn(turn, batch.filled - began, has_more);
        if !has_more {
            self.watch_unread(number);
        }
        Ok(())
    }

    /// Reads into the batch after room for two headers: that of `opened`, if it has to be sent, and the data's
    /// own.
    fn read_turn(&mut self, number: u32, batch: &mut Batch, most: usize) -> TurnRead {
        let Some(entry) = self.table.entry(number) else { return TurnRead::Nothing };
        let row = &mut entry.row;
        let head = if row.owes_opened { 2 * HEADER_BYTES } else { HEADER_BYTES };
        let space = &mut batch.space(head + most)[head..];
        let waker = Waker::from(row.waker.clone());
        row.read_turn(&mut Context::from_waker(&waker), space)
    }

    fn push_data(&mut self, number: u32, count: usize, batch: &mut Batch) -> Result<(), PeerViolation> {
        self.push_opened(number, batch)?;
        let head = self.table.send_turn(number, TurnFrame::Data(count))?;
        batch.push(&head.bytes());
        batch.filled += count;
        if let Some(entry) = self.table.entry(number) {
            entry.channel.send.spend(count);
        }
        Ok(())
    }

    fn push_opened(&mut self, number: u32, batch: &mut Batch) -> Result<(), PeerViolation> {
        let Some(entry) = self.table.entry(number) else { return Ok(()) };
        if !std::mem::take(&mut entry.row.owes_opened) {
            return Ok(());
        }
        entry.row.answered();
        let head = self.table.send_turn(number, TurnFrame::Opened)?;
        self.events.push_back(OwnerEvent::Answered);
        batch.push(&head.bytes());
        Ok(())
    }

    /// Passes on that the stream has finished and, if it has failed since, that too.
    fn push_end(&mut self, number: u32, batch: &mut Batch) -> Result<(), LinkLoss> {
        self.push_opened(number, batch)?;
        let end = self.end;
        let Some(entry) = self.table.entry(number) else { return Ok(()) };
        if !entry.channel.stage().has_ended(end) {
            let head = self.table.send_turn(number, TurnFrame::End)?;
            batch.push(&head.bytes());
            if self.is_closed(number) {
                self.outgoing.finish_when_sent(number);
            }
        }
        let is_closed = self.is_closed(number);
        let Some(entry) = self.table.entry(number) else { return Ok(()) };
        match entry.row.outbound {
            Outbound::Failed { .. } if !is_closed => self.reset_failed(number),
            Outbound::Failed { .. } => Ok(()),
            Outbound::Reading | Outbound::Ended => {
                entry.row.outbound = Outbound::Ended;
                entry.row.update_phase();
                entry.row.waker.list();
                Ok(())
            }
        }
    }

    /// Gives credit for bytes that a session's stream has taken.
    pub(super) fn give_credit(&mut self, number: u32, taken: usize) -> Result<(), LinkLoss> {
        let other = self.end.other();
        let Some(entry) = self.table.entry(number) else { return Ok(()) };
        let due = entry.channel.receive.take(taken, entry.row.held_bytes(), Instant::now);
        let has_ended = entry.channel.stage().has_ended(other);
        let all_taken = entry.channel.taken(entry.row.held_bytes());
        if entry.row.owes_opened && (due.is_some() || all_taken >= BATCH_BYTES_FIRST as u64) {
            self.send_opened(number)?;
        }
        due.filter(|_| !has_ended).map_or(Ok(()), |credit| self.send(LinkFrame::Credit(credit), number))
    }
}
