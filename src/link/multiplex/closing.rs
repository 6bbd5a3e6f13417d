//! How a link ends: asked to leave, closed by the other end, or lost. Only a lost link ends its sessions; in the other
//! cases they have ended before.

use std::{
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll, ready},
};

use tokio::io::AsyncWrite;

use super::{
    handle::{LinkLoss, SessionFate},
    task::{MultiplexedLink, OwnerEvent},
};
use crate::proto::multiplex::{
    frame::{CutCause, FrameType},
    state::LinkEnd,
};

/// ```text
/// running ─► leaving ─► ending ─► ended
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closing {
    Running,
    /// It ends when its last session has ended.
    Leaving,
    /// Our direction has ended; waiting for the other end.
    Ending,
    Ended,
}

impl MultiplexedLink {
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Result<bool, LinkLoss> {
        let is_due = self.closing == Closing::Leaving && self.end == LinkEnd::Opener;
        // A session between two links has a slot on either, and may come here, or come back.
        let may_get_sessions = self.load.sessions() > 0;
        if !is_due || !self.table.is_empty() || may_get_sessions || self.outgoing.holds() {
            return Ok(false);
        }
        self.stream.let_close_cleanly();
        match Pin::new(&mut self.stream).poll_shutdown(cx) {
            Poll::Ready(Ok(())) => self.closing = Closing::Ending,
            Poll::Ready(Err(error)) => return Err(error.into()),
            Poll::Pending => return Ok(false),
        }
        Ok(true)
    }

    /// Handles the end of the other direction.
    pub(super) fn note_end(&mut self, cx: &mut Context<'_>) -> LinkLoss {
        // The last frame of the last session may have come with it.
        if !self.outgoing.is_blocked() {
            self.finish_sent();
        }
        if !self.table.is_empty() || self.decoder.is_within_frame() {
            return LinkLoss::Cut;
        }
        self.stream.let_close_cleanly();
        if !self.is_ending() {
            // Answers in kind; if that is not possible now, the link ends without it.
            let _ = Pin::new(&mut self.stream).poll_shutdown(cx);
        }
        LinkLoss::Closed
    }

    /// Cuts every session because the other end's certificate was revoked. The other end gets a reset for each
    /// session, and the notice that the link is closing. Whoever drives the link drops it once that has had a
    /// moment to be sent.
    pub fn revoke(&mut self) {
        let sent = self.table.numbers().into_iter().try_for_each(|number| self.cut(number, CutCause::Policy));
        self.moves.is_revoked = true;
        self.parked.revoke(self.id);
        // If nothing can be sent any more, the link has ended.
        let _ = sent.and_then(|()| self.leave(FrameType::Retire));
    }

    /// Ends the link and every session on it.
    pub(super) fn lose(&mut self, loss: &LinkLoss) {
        self.closing = Closing::Ended;
        self.leaves.store(true, Ordering::Release);
        self.commands.close();
        let unsent = self.outgoing.unsent_batch(&self.stream);
        for number in self.table.numbers() {
            if let (Some(batch), Some(entry)) = (unsent, self.table.entry(number)) {
                entry.row.note_unsent_batch(batch);
            }
            self.finish(number, SessionFate::LinkLost(loss.clone()));
        }
        self.lost = Some(loss.clone());
    }

    /// Gives back the sessions that were asked for when it was lost, so that they are opened elsewhere; then
    /// tells its owner.
    pub(super) fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<OwnerEvent> {
        while let Some(command) = ready!(self.commands.poll_recv(cx)) {
            // Nothing can be said any more, so nothing can fail.
            let _ = self.obey(command);
        }
        self.lost.take().map_or(Poll::Pending, |loss| Poll::Ready(OwnerEvent::Ended(loss)))
    }

    /// Whether our direction has ended, so nothing can be requested any more.
    pub(super) fn is_ending(&self) -> bool {
        self.closing == Closing::Ending
    }
}
