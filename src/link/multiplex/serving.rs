//! What a link does for its sessions' streams: it gives them the bytes that are held for them, queues those that have
//! something to send, and ends them.

use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

use super::{
    handle::{LinkLoss, SessionFate},
    row::{FailedCall, Outbound},
    task::MultiplexedLink,
    timing::TimerKind,
};
use crate::proto::multiplex::{
    frame::{CutCause, LinkFrame},
    state::{LinkEnd, SessionStage},
};

/// How many sessions are served in one round.
const SERVED_MAX: usize = 1024;

impl MultiplexedLink {
    /// Lists a session as having something to do.
    pub(super) fn list(&mut self, number: u32) {
        if let Some(entry) = self.table.entry(number) {
            entry.row.waker.list();
        }
    }

    pub(super) fn serve_ready(&mut self) -> Result<bool, LinkLoss> {
        let mut progress = false;
        self.ready.begin_round();
        for _ in 0..SERVED_MAX {
            let Some(number) = self.ready.pop() else { break };
            progress = true;
            self.serve(number)?;
        }
        Ok(progress)
    }

    /// Gives a session's stream the bytes held for it, and queues the session if it may send.
    fn serve(&mut self, number: u32) -> Result<(), LinkLoss> {
        let Some(entry) = self.table.entry(number) else { return Ok(()) };
        let row = &mut entry.row;
        let is_moving = entry.channel.stage().resumed().is_some();
        row.waker.unlist();
        let waker = Waker::from(row.waker.clone());
        let cx = &mut Context::from_waker(&waker);
        if let Poll::Ready(cause) = row.poll_cut(cx) {
            return self.cut(number, cause);
        }
        match row.deliver(cx) {
            Ok(0) => {}
            Ok(taken) => self.give_credit(number, taken)?,
            Err(error) => row.fail(error, FailedCall::Write),
        }
        self.line_up(number);
        // Its backend may have taken what a move waits for.
        if is_moving && self.end == LinkEnd::Server { self.answer_move(number) } else { Ok(()) }
    }

    /// Puts a session in the queue of turns, if it has something to send.
    pub(super) fn line_up(&mut self, number: u32) {
        let Some(entry) = self.table.entry(number) else { return };
        let row = &mut entry.row;
        let is_held_back = entry.channel.stage().is_held_back(self.end);
        let wants = match row.outbound {
            Outbound::Reading => row.has_stream() && entry.channel.send.left() > 0,
            Outbound::Ended => false,
            Outbound::Failed { .. } => true,
        };
        if wants && !is_held_back && !row.is_in_line {
            row.is_in_line = true;
            self.queue.push(number);
        }
        self.watch_unread(number);
    }

    /// From time to time checks a stream that is not being read, since nothing else shows that it has gone, and
    /// a failed one whose last bytes may never get out.
    pub(super) fn watch_unread(&mut self, number: u32) {
        let Some(entry) = self.table.entry(number) else { return };
        let is_held_back = entry.channel.stage().is_held_back(self.end);
        let (is_failed, sent) = (entry.row.has_failed(), entry.channel.send.sent());
        let (row, has_credit) = (&mut entry.row, entry.channel.send.left() > 0);
        let is_read = matches!(row.outbound, Outbound::Reading) && has_credit && !is_held_back;
        if row.has_stream() && !is_read && !std::mem::replace(&mut row.is_check_scheduled, true) {
            match is_failed {
                true => self.watch_stall(number, sent),
                false => self.timers.add(
                    Instant::now() + super::timing::SOCKET_CHECK_INTERVAL,
                    number,
                    TimerKind::Check,
                ),
            }
        }
    }

    /// Cuts a session: tells the other end why, and resets its stream.
    pub(super) fn cut(&mut self, number: u32, cause: CutCause) -> Result<(), LinkLoss> {
        if !self.is_closed(number) {
            self.send(LinkFrame::Reset(cause), number)?;
        }
        self.finish(number, SessionFate::Reset(cause));
        Ok(())
    }

    /// Removes a session, and tells its owner.
    pub(super) fn finish(&mut self, number: u32, fate: SessionFate) {
        self.moves.forget(number);
        if let Some(entry) = self.table.close(number) {
            let channel = entry.channel;
            self.quiet_since = if entry.row.has_stream() { Instant::now() } else { self.quiet_since };
            entry.row.end(fate, Some(channel.receive));
        }
    }

    /// Whether a session has ended in both directions.
    pub(super) fn is_closed(&mut self, number: u32) -> bool {
        self.table.entry(number).is_some_and(|entry| entry.channel.stage() == SessionStage::Closed)
    }
}
