//! What a link does when a time is up: it checks whether its other end is alive, and looks after sessions that
//! have timers of their own. A quiet session without `idle` has none.

use std::{collections::BTreeSet, task::Context, time::Duration};

use tokio::time::Instant;

use super::{
    handle::{LinkLoss, SessionFate},
    row::FailedCall,
    task::MultiplexedLink,
};
use crate::{
    link::liveness::{LivenessVerdict, WriteState},
    net::{stream::NetStream, tcp, timeout::STALLED_MAX},
    proto::multiplex::{
        PeerViolation,
        frame::{CutCause, LinkFrame},
    },
};

/// Deadline of the answer to `open`: the backend's deadline, plus the way there and back.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long `opened` may wait for the first bytes from the backend.
pub const OPENED_DELAY_MAX: Duration = Duration::from_millis(5);
/// How often to check a socket that is not being read.
pub const SOCKET_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// After a pause of this process, data that arrived during the pause must be read within this time.
const PAUSE_GRACE_PERIOD: Duration = Duration::from_secs(1);

/// The reason for checking a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerKind {
    Answer,
    Opened,
    Idle,
    Check,
    /// Nothing more can be read. Holds the bytes that had been sent when that began.
    Stall(u64),
}

/// The timers of a link's sessions. Those that no longer apply are skipped.
#[derive(Debug, Default)]
pub struct Timers(BTreeSet<(Instant, u32, TimerKind)>);

impl Timers {
    pub fn add(&mut self, at: Instant, number: u32, kind: TimerKind) {
        self.0.insert((at, number, kind));
    }

    /// Removes the timer of an answer that has come: thousands a second would have to be skipped otherwise.
    pub fn remove_answer(&mut self, at: Instant, number: u32) {
        self.0.remove(&(at, number, TimerKind::Answer));
    }

    /// Removes all timers of a session that leaves.
    pub fn forget(&mut self, number: u32) {
        self.0.retain(|(_, of, _)| *of != number);
    }

    fn first(&self) -> Option<&(Instant, u32, TimerKind)> {
        self.0.first()
    }

    fn pop_due(&mut self, now: Instant) -> Option<(Instant, u32, TimerKind)> {
        let is_due = self.first().is_some_and(|(at, _, _)| *at <= now);
        if is_due { self.0.pop_first() } else { None }
    }
}

impl MultiplexedLink {
    /// When the next timer fires. Timers for an `opened` that was already sent are removed first, since each
    /// would cause a needless wake-up.
    pub(super) fn due(&mut self) -> Instant {
        while let Some(&(_, number, TimerKind::Opened)) = self.timers.first()
            && self.table.entry(number).is_none_or(|entry| !entry.row.owes_opened)
        {
            self.timers.0.pop_first();
        }
        let first = self.timers.first().map(|(at, _, _)| *at);
        [self.frame_deadline.late_at(), first]
            .into_iter()
            .flatten()
            .fold(self.liveness.next_check(), Instant::min)
    }

    pub(super) fn time_is_up(&mut self, now: Instant, cx: &mut Context<'_>) -> Result<(), LinkLoss> {
        if now >= self.liveness.next_check() {
            self.check_alive(now)?;
            self.check_moves()?;
        }
        self.frame_deadline.look(now);
        if self.frame_deadline.is_late(now) {
            // What has arrived by now counts: perhaps this process was not running.
            self.poll_receive(cx)?;
            if self.frame_deadline.is_late(now) {
                return Err(PeerViolation::TooSlow.into());
            }
        }
        while let Some((at, number, kind)) = self.timers.pop_due(now) {
            self.handle_session_timer(number, kind, now, at)?;
        }
        Ok(())
    }

    fn check_alive(&mut self, now: Instant) -> Result<(), LinkLoss> {
        self.outgoing.release_if_quiet();
        let delay = now.saturating_duration_since(self.liveness.next_check());
        let writing = if self.outgoing.is_blocked() { WriteState::Blocked } else { WriteState::Yes };
        let socket = self.stream.tcp();
        socket.and_then(tcp::count_segments).into_iter().for_each(|counts| self.load.note_segments(counts));
        let unacknowledged = || socket.and_then(tcp::unacknowledged_for);
        match self.liveness.check(now, delay, writing, unacknowledged) {
            LivenessVerdict::Alive => Ok(()),
            LivenessVerdict::Dead => Err(LinkLoss::Silent),
            // It was asked to close, and anything it sends shows that it is alive.
            LivenessVerdict::Ping(_) if self.is_ending() => Ok(()),
            LivenessVerdict::Ping(token) => {
                self.load.note_ping();
                self.send(LinkFrame::Ping(token), 0)
            }
        }
    }

    fn handle_session_timer(
        &mut self,
        number: u32,
        kind: TimerKind,
        now: Instant,
        due: Instant,
    ) -> Result<(), LinkLoss> {
        let Some(entry) = self.table.entry(number) else { return Ok(()) };
        let (row, stage) = (&mut entry.row, entry.channel.stage());
        match kind {
            TimerKind::Answer if !stage.is_opening() => Ok(()),
            TimerKind::Answer => {
                if let Some(open) = &mut row.unanswered
                    && self.stopped_for > open.stopped_before
                {
                    // While this process was not running, the other gateway's answer could not be read.
                    let stopped =
                        self.stopped_for - std::mem::replace(&mut open.stopped_before, self.stopped_for);
                    open.answer_by = (due + stopped).max(now + PAUSE_GRACE_PERIOD.min(stopped));
                    self.timers.add(open.answer_by, number, TimerKind::Answer);
                    return Ok(());
                }
                self.send(LinkFrame::Reset(CutCause::Time), number)?;
                self.finish(number, SessionFate::Unanswered);
                Ok(())
            }
            TimerKind::Opened => self.send_opened(number),
            TimerKind::Idle => match row.check_idle(now) {
                (true, _) => {
                    self.send(LinkFrame::Reset(CutCause::Time), number)?;
                    self.finish(number, SessionFate::Idle);
                    Ok(())
                }
                (false, Some(at)) => {
                    self.timers.add(at, number, TimerKind::Idle);
                    Ok(())
                }
                (false, None) => Ok(()),
            },
            TimerKind::Check => {
                row.is_check_scheduled = false;
                let socket = row.stream().and_then(NetStream::tcp);
                if let Some(Err(error) | Ok(Some(error))) = socket.map(tokio::net::TcpStream::take_error) {
                    row.fail(error, FailedCall::Read);
                }
                // It is checked again as long as nothing else happens.
                self.line_up(number);
                Ok(())
            }
            TimerKind::Stall(before) => self.check_stall(number, before, now),
        }
    }

    /// Checks a failed stream. It sends nothing new; if what it had sent does not get out either, the session
    /// ends.
    fn check_stall(&mut self, number: u32, before: u64, now: Instant) -> Result<(), LinkLoss> {
        let Some(entry) = self.table.entry(number) else { return Ok(()) };
        if !entry.row.has_failed() {
            return Ok(());
        }
        let sent = entry.channel.send.sent();
        if sent == before {
            return self.reset_failed(number);
        }
        self.timers.add(now + STALLED_MAX, number, TimerKind::Stall(sent));
        Ok(())
    }

    /// Watches a session whose stream has failed.
    pub(super) fn watch_stall(&mut self, number: u32, sent: u64) {
        self.timers.add(Instant::now() + STALLED_MAX, number, TimerKind::Stall(sent));
    }

    /// Sends `opened`, if that is due.
    pub(super) fn send_opened(&mut self, number: u32) -> Result<(), LinkLoss> {
        let owes = |row: &mut super::row::LinkedSession| std::mem::take(&mut row.owes_opened);
        if self.table.entry(number).is_some_and(|entry| owes(&mut entry.row)) {
            self.send(LinkFrame::Opened, number)?;
            if let Some(entry) = self.table.entry(number) {
                entry.row.answered();
            }
            self.events.push_back(super::task::OwnerEvent::Answered);
        }
        Ok(())
    }

    /// Handles a stream that has failed after everything it had sent was sent on.
    pub(super) fn reset_failed(&mut self, number: u32) -> Result<(), LinkLoss> {
        if self.is_closed(number) {
            // Both directions have ended; the session ends once that has been sent.
            return Ok(());
        }
        let Some(entry) = self.table.entry(number) else { return Ok(()) };
        let cause = entry.row.failure_cause();
        let fate = entry.row.take_failure();
        self.send(LinkFrame::Reset(cause), number)?;
        self.finish(number, fate);
        Ok(())
    }
}
