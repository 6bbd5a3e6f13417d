//! The sessions of a link by their numbers, and what a peer may still send for those that have ended.
//!
//! A number that was never opened, or is opened twice, breaks the protocol. Frames for a session that this end
//! has closed are late and mean nothing. Each such session leaves an allowance for them, so that nobody can go
//! on sending forever what nobody reads. There are no sockets and no clock here.

use std::sync::Arc;

use foldhash::HashMap;

use super::credit::{BeyondWindow, CreditOverflow, ReceiveWindow, SendCredit, WINDOW_BYTES, WindowBudget};
use crate::proto::multiplex::{
    PeerViolation,
    frame::{CutCause, FrameType, LinkFrame},
    permitted::{PermittedFrame, PermittedHead, TurnFrame},
    state::{LinkEnd, SessionStage},
};

/// Frames besides `data` that may still be on their way when a session is closed.
const LATE_FRAMES: u64 = 16;

/// What the protocol knows about one session.
#[derive(Debug)]
pub struct SessionChannel {
    stage: SessionStage,
    pub send: SendCredit,
    pub receive: ReceiveWindow,
}

impl SessionChannel {
    pub fn stage(&self) -> SessionStage {
        self.stage
    }

    /// Bytes of it that have gone or come.
    pub fn moved(&self) -> u64 {
        self.send.sent() + self.receive.received()
    }

    /// Bytes of it that have come, and that its socket has taken or will not take, while `waiting` wait for it.
    pub fn taken(&self, waiting: usize) -> u64 {
        self.receive.received() - waiting as u64
    }
}

#[derive(Debug)]
pub struct TableEntry<R> {
    pub channel: SessionChannel,
    pub row: R,
}

/// The sessions of one link; `R` is what an end keeps for each.
#[derive(Debug)]
pub struct SessionTable<R> {
    end: LinkEnd,
    /// Boxed, because a map has up to twice the room that it needs, and a row is large.
    sessions: HashMap<u32, Box<TableEntry<R>>>,
    /// The last number opened; 0 if none was.
    last: u32,
    late_bytes: u64,
    late_frames: u64,
    budget: Arc<WindowBudget>,
}

impl<R> SessionTable<R> {
    pub fn new(end: LinkEnd, budget: Arc<WindowBudget>) -> Self {
        Self { end, sessions: HashMap::default(), last: 0, late_bytes: 0, late_frames: 0, budget }
    }

    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    pub fn entry(&mut self, number: u32) -> Option<&mut TableEntry<R>> {
        self.sessions.get_mut(&number).map(Box::as_mut)
    }

    /// Opens a session, at whichever end.
    pub fn open(&mut self, number: u32, row: R) -> Result<(), PeerViolation> {
        if number == 0 || self.last != 0 && !is_after(number, self.last) {
            return Err(PeerViolation::NumberUsedAgain(number));
        }
        self.last = number;
        let channel = SessionChannel {
            stage: SessionStage::Opening,
            send: SendCredit::default(),
            receive: ReceiveWindow::new(self.budget.clone()),
        };
        self.sessions.insert(number, Box::new(TableEntry { channel, row }));
        Ok(())
    }

    /// Checks a frame of a session, other than `data`, that the other end has sent. Returns `None` if it is
    /// late.
    pub fn receive(
        &mut self,
        number: u32,
        kind: FrameType,
    ) -> Result<Option<&mut TableEntry<R>>, PeerViolation> {
        let other = self.end.other();
        // Checked first: the borrow that is returned would cover the whole table.
        if !self.sessions.contains_key(&number) {
            self.receive_late(number)?;
            let left = self.late_frames.checked_sub(1);
            self.late_frames = left.ok_or(PeerViolation::TooMany("frames for sessions that have ended"))?;
            return Ok(None);
        }
        self.entry(number).map(|entry| step(entry, other, number, kind)).transpose()
    }

    /// Judges `data` of a session, which must be within its credit.
    pub fn receive_data(
        &mut self,
        number: u32,
        bytes: usize,
    ) -> Result<Option<&mut TableEntry<R>>, PeerViolation> {
        let other = self.end.other();
        if !self.sessions.contains_key(&number) {
            self.receive_late(number)?;
            let left = self.late_bytes.checked_sub(bytes as u64);
            self.late_bytes = left.ok_or(PeerViolation::TooMany("bytes for sessions that have ended"))?;
            return Ok(None);
        }
        let input = |entry| {
            let entry = step(entry, other, number, FrameType::Data)?;
            let received = entry.channel.receive.receive(bytes);
            received.map_err(|BeyondWindow| PeerViolation::BeyondCredit(number, bytes))?;
            Ok(entry)
        };
        self.entry(number).map(input).transpose()
    }

    /// Adds credit from the other end; returns whether there was none before.
    pub fn receive_credit(&mut self, number: u32, bytes: u32) -> Result<bool, PeerViolation> {
        let Some(entry) = self.receive(number, FrameType::Credit)? else { return Ok(false) };
        let given = entry.channel.send.give(bytes);
        given.map_err(|CreditOverflow| PeerViolation::CreditOverflow(number))
    }

    /// This end sends a frame of a session. An error is a bug of ours, and nothing was sent.
    pub fn send(&mut self, number: u32, frame: LinkFrame) -> Result<PermittedFrame, PeerViolation> {
        let entry = self.sessions.get_mut(&number).ok_or(PeerViolation::NeverOpened(number))?;
        entry.channel.stage.permit(self.end, frame, number)
    }

    /// This end sends a frame in a session's turn. An error is a bug of ours, as with [`send`](Self::send).
    pub fn send_turn(&mut self, number: u32, frame: TurnFrame) -> Result<PermittedHead, PeerViolation> {
        let entry = self.sessions.get_mut(&number).ok_or(PeerViolation::NeverOpened(number))?;
        entry.channel.stage.permit_turn(self.end, frame, number)
    }

    /// Removes a session that this end is finished with.
    pub fn close(&mut self, number: u32) -> Option<TableEntry<R>> {
        let entry = self.sessions.remove(&number)?;
        self.late_frames += LATE_FRAMES;
        if !entry.channel.stage.has_ended(self.end.other()) || entry.channel.stage == SessionStage::Closed {
            self.late_bytes += entry.channel.receive.open() as u64;
        }
        Some(*entry)
    }

    /// Takes out a session whose last frame has gone over this link, to go on as `stage` elsewhere. No byte of it
    /// comes late.
    pub fn move_out(&mut self, number: u32, stage: SessionStage) -> Option<Box<TableEntry<R>>> {
        let mut entry = self.sessions.remove(&number)?;
        self.late_frames += LATE_FRAMES;
        entry.channel.stage = stage;
        Some(entry)
    }

    /// Takes in a session that has left another link, or this one.
    pub fn move_in(&mut self, number: u32, entry: Box<TableEntry<R>>) -> Result<(), PeerViolation> {
        if self.sessions.contains_key(&number) {
            return Err(PeerViolation::NumberUsedAgain(number));
        }
        self.note_number(number);
        self.sessions.insert(number, entry);
        Ok(())
    }

    /// Resets a session that comes from another link and has ended here meanwhile. What its other end sends before it
    /// knows is late.
    pub fn reset_moved(&mut self, number: u32, cause: CutCause) -> Result<PermittedFrame, PeerViolation> {
        if self.sessions.contains_key(&number) {
            return Err(PeerViolation::NumberUsedAgain(number));
        }
        self.note_number(number);
        self.late_frames += LATE_FRAMES;
        self.late_bytes += WINDOW_BYTES as u64;
        let mut stage = SessionStage::Carrying;
        stage.permit(self.end, LinkFrame::Reset(cause), number)
    }

    /// Later frames of a session that has come must not look like those of one that was never opened.
    fn note_number(&mut self, number: u32) {
        if self.last == 0 || is_after(number, self.last) {
            self.last = number;
        }
    }

    /// Within which the windows of its sessions grow.
    pub fn budget(&self) -> &Arc<WindowBudget> {
        &self.budget
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &TableEntry<R>)> {
        self.sessions.iter().map(|(number, entry)| (*number, &**entry))
    }

    pub fn numbers(&self) -> Vec<u32> {
        self.sessions.keys().copied().collect()
    }

    fn receive_late(&self, number: u32) -> Result<(), PeerViolation> {
        match self.last == 0 || is_after(number, self.last) {
            true => Err(PeerViolation::NeverOpened(number)),
            false => Ok(()),
        }
    }
}

fn step<R>(
    entry: &mut TableEntry<R>,
    from: LinkEnd,
    number: u32,
    kind: FrameType,
) -> Result<&mut TableEntry<R>, PeerViolation> {
    let stage = entry.channel.stage;
    let next = stage.after(from, kind);
    entry.channel.stage = next.ok_or(PeerViolation::SessionState(kind, number, stage))?;
    Ok(entry)
}

/// Numbers wrap around, and are compared as RFC 1982 defines.
pub fn is_after(number: u32, other: u32) -> bool {
    (1..1 << 31).contains(&number.wrapping_sub(other))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::link::multiplex::{credit::LINK_BUDGET_BYTES, handle::LocalSide, row::LinkedSession};

    fn table(end: LinkEnd) -> SessionTable<()> {
        SessionTable::new(end, WindowBudget::new(LINK_BUDGET_BYTES))
    }

    /// Thousands of sessions may be idle on a gateway's links. What is longer than 192 bytes takes 224 of the allocator's.
    #[test]
    fn a_session_on_a_link_takes_little_memory() {
        let bytes = [size_of::<TableEntry<LinkedSession>>(), size_of::<LocalSide>()];
        assert!(bytes[0] <= 224 && bytes[1] <= 104, "{bytes:?}");
    }

    #[test]
    fn a_number_rises_and_is_never_used_again() {
        let mut table = table(LinkEnd::Server);
        assert_eq!(table.open(0, ()), Err(PeerViolation::NumberUsedAgain(0)));
        table.open(u32::MAX, ()).expect("any number may be the first");
        assert_eq!(table.open(u32::MAX, ()), Err(PeerViolation::NumberUsedAgain(u32::MAX)));
        table.open(5, ()).expect("numbers wrap, and some are of other links");
        assert_eq!(table.open(4, ()), Err(PeerViolation::NumberUsedAgain(4)));
        table.close(5);
        assert_eq!(table.open(5, ()), Err(PeerViolation::NumberUsedAgain(5)));
    }

    #[test]
    fn an_unknown_session_is_distinguished_from_an_ended_one() {
        let mut table = table(LinkEnd::Server);
        assert_eq!(table.receive(1, FrameType::End).err(), Some(PeerViolation::NeverOpened(1)));
        table.open(7, ()).expect("it is the first");
        assert_eq!(table.receive_data(8, 1).err(), Some(PeerViolation::NeverOpened(8)));
        table.close(7);
        assert!(matches!(table.receive(7, FrameType::End), Ok(None)), "it comes late");
    }

    #[test]
    fn a_session_that_moves_leaves_no_late_bytes_and_keeps_numbers_rising() {
        let (mut old, mut new) = (table(LinkEnd::Server), table(LinkEnd::Server));
        old.open(5, ()).expect("it is the first");
        let _ = old.send(5, LinkFrame::Opened).expect("it is asked for");
        assert!(old.receive(5, FrameType::Move).is_ok_and(|entry| entry.is_some()));
        let answer = LinkFrame::Move { sent: 0, credit: 0, ticket: Default::default() };
        let _ = old.send(5, answer).expect("it is the answer");
        let entry = old.move_out(5, SessionStage::Carrying).expect("it is there");
        assert!(matches!(old.receive(5, FrameType::Reset), Ok(None)), "it comes late");
        assert!(matches!(old.receive_data(5, 1), Err(PeerViolation::TooMany(_))));
        new.open(3, ()).expect("it is the first");
        new.move_in(5, entry).expect("its number is free");
        assert!(new.receive_data(5, 1).is_ok_and(|entry| entry.is_some()), "it goes on");
        assert_eq!(new.reset_moved(5, CutCause::Other).err(), Some(PeerViolation::NumberUsedAgain(5)));
        assert_eq!(new.open(4, ()), Err(PeerViolation::NumberUsedAgain(4)));
        new.close(5);
        assert!(matches!(new.receive(5, FrameType::Reset), Ok(None)), "it comes late");
        assert!(new.reset_moved(9, CutCause::Other).is_ok());
        assert!(matches!(new.receive_data(9, WINDOW_BYTES), Ok(None)), "it does not know yet");
    }

    #[test]
    fn what_comes_late_has_its_bound() {
        let mut table = table(LinkEnd::Server);
        table.open(1, ()).expect("it is the first");
        table.close(1);
        assert!(matches!(table.receive_data(1, WINDOW_BYTES), Ok(None)));
        assert!(matches!(table.receive_data(1, 1), Err(PeerViolation::TooMany(_))));
        for _ in 0..LATE_FRAMES {
            assert!(matches!(table.receive(1, FrameType::Reset), Ok(None)));
        }
        assert!(matches!(table.receive(1, FrameType::Reset), Err(PeerViolation::TooMany(_))));
    }

    #[test]
    fn data_beyond_credit_and_credit_that_overflows_break_the_protocol() {
        let mut table = table(LinkEnd::Server);
        table.open(1, ()).expect("it is the first");
        assert!(table.receive_data(1, WINDOW_BYTES).is_ok());
        assert_eq!(table.receive_data(1, 1).err(), Some(PeerViolation::BeyondCredit(1, 1)));
        let _ = table.send(1, LinkFrame::Opened).expect("it is asked for");
        assert_eq!(table.receive_credit(1, u32::MAX), Err(PeerViolation::CreditOverflow(1)));
    }

    #[test]
    fn opens_and_resets_without_end_leave_nothing_behind() {
        let mut table = table(LinkEnd::Server);
        for number in 1..100_000 {
            table.open(number, ()).expect("it rises");
            table.receive(number, FrameType::Reset).expect("it may be reset");
            table.close(number);
        }
        assert!(table.is_empty());
        assert!(table.sessions.capacity() < 16, "{}", table.sessions.capacity());
    }

    proptest! {
        /// Whatever a peer sends, in any order: the result is a violation or a correct account.
        #[test]
        fn any_frames_keep_the_account(
            frames in proptest::collection::vec((1_u32..6, 0_usize..8, 1_usize..40_000), 1..300),
        ) {
            let mut table = table(LinkEnd::Server);
            for (number, what, bytes) in frames {
                let input = match what {
                    0 => table.open(number, ()).map(|()| false),
                    1 | 2 => table.receive_data(number, bytes).map(|_| false),
                    3 => table.receive_credit(number, bytes as u32),
                    4 => table.receive(number, FrameType::End).map(|_| false),
                    5 => table.receive(number, FrameType::Reset).map(|entry| entry.is_some()).inspect(|is_live| {
                        if *is_live { table.close(number); }
                    }),
                    6 => { table.close(number); Ok(false) }
                    _ => { let _ = table.send(number, LinkFrame::Opened); Ok(false) }
                };
                for entry in table.sessions.values() {
                    prop_assert!(entry.channel.receive.open() <= WINDOW_BYTES);
                }
                if input.is_err() { break; }
            }
        }
    }
}
