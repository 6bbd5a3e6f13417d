//! At a server: sessions that have left one link of a peer and not come to another one yet.
//!
//! All links of this process share them. A session is known by its number and by a secret ticket, which only the
//! opener that moved it has. It waits for [`PARKED_TIMEOUT`] at most, and its owner may cut it meanwhile. One that is
//! over is remembered for as long again: its opener may be about to go on with it, which is not its mistake.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use foldhash::HashMap;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    handle::{LinkLoss, SessionFate},
    row::LinkedSession,
    table::TableEntry,
};
use crate::{
    link::{Peer, load::SessionWeight},
    proto::multiplex::frame::{CutCause, MoveTicket},
    tasks::Tasks,
};

/// How long a session waits for its opener to go on with it. Any link that could still bring that has shown by then
/// whether it is alive.
pub const PARKED_TIMEOUT: Duration = Duration::from_secs(30);
/// How many sessions of one gateway may wait. Beyond that they stay where they are until others have gone on.
pub const PARKED_MAX: usize = 1024;

/// The waiting sessions of all peers.
#[derive(Debug, Default)]
pub struct ParkedSessions {
    sessions: Mutex<HashMap<MoveTicket, ParkedSession>>,
    tasks: Tasks,
}

#[derive(Debug)]
struct ParkedSession {
    number: u32,
    /// Why its opener moves it.
    weight: SessionWeight,
    peer: Peer,
    /// The link that it has left, by its number in this process.
    from: u64,
    state: ParkedState,
    /// Ends its watch.
    watch: DropGuard,
}

#[derive(Debug)]
pub(super) enum ParkedState {
    Waits(Box<TableEntry<LinkedSession>>),
    /// It has ended meanwhile.
    Over(CutCause),
}

impl ParkedState {
    /// Takes out a session that waits, which is over.
    fn take(&mut self, cause: CutCause) -> Option<Box<TableEntry<LinkedSession>>> {
        match std::mem::replace(self, Self::Over(cause)) {
            Self::Waits(entry) => Some(entry),
            Self::Over(before) => {
                *self = Self::Over(before);
                None
            }
        }
    }

    /// Ends a session that waits, outside of any lock.
    pub fn end(&mut self, cause: CutCause, fate: SessionFate) {
        end(self.take(cause), fate);
    }
}

impl ParkedSessions {
    /// A ticket for one more session of a gateway; none if too many of it wait.
    pub(super) fn ticket(&self, peer: &Peer) -> Option<MoveTicket> {
        let is_its = |other: &Peer| other.is_same_gateway(peer) && other.instance == peer.instance;
        let waiting = self.lock().values().filter(|parked| is_its(&parked.peer)).count();
        let mut ticket = MoveTicket::default();
        let is_made = waiting < PARKED_MAX && aws_lc_rs::rand::fill(&mut ticket).is_ok();
        is_made.then_some(ticket)
    }

    /// Lets a session wait that has left the link `from`.
    pub(super) fn park(
        self: &Arc<Self>,
        ticket: MoveTicket,
        (number, weight): (u32, SessionWeight),
        (peer, from): (Peer, u64),
        entry: Box<TableEntry<LinkedSession>>,
    ) {
        let gone_on = CancellationToken::new();
        let (state, watch) = (ParkedState::Waits(entry), gone_on.clone().drop_guard());
        self.lock().insert(ticket, ParkedSession { number, weight, peer, from, state, watch });
        let all = self.clone();
        self.tasks.spawn("parked session", async move {
            // Nothing is left to do for one that goes on.
            gone_on.run_until_cancelled(all.watch(ticket)).await;
        });
    }

    async fn watch(&self, ticket: MoveTicket) {
        let is_cut = timeout(PARKED_TIMEOUT, poll_fn(|cx| self.poll_cut(ticket, cx))).await;
        let (cause, fate) = match is_cut {
            Ok(cause) => (cause, SessionFate::Reset(cause)),
            Err(_) => (CutCause::Other, SessionFate::LinkLost(LinkLoss::Cut)),
        };
        let ended = self.lock().get_mut(&ticket).and_then(|parked| parked.state.take(cause));
        end(ended, fate);
        sleep(PARKED_TIMEOUT).await;
        self.lock().remove(&ticket);
    }

    /// Takes out a session that goes on.
    pub(super) fn take(&self, ticket: MoveTicket, number: u32) -> Option<(ParkedState, SessionWeight)> {
        let mut sessions = self.lock();
        sessions.get(&ticket).filter(|parked| parked.number == number)?;
        let ParkedSession { state, weight, watch, .. } = sessions.remove(&ticket)?;
        drop(watch);
        Some((state, weight))
    }

    /// Ends a session that its opener has reset on the link which it has left.
    pub(super) fn reset(&self, number: u32, from: u64, cause: CutCause) {
        let parked = {
            let mut sessions = self.lock();
            let mut of_link = sessions.iter().filter(|(_, parked)| parked.from == from);
            let ticket = of_link.find(|(_, parked)| parked.number == number).map(|(ticket, _)| *ticket);
            ticket.and_then(|ticket| sessions.remove(&ticket))
        };
        if let Some(mut parked) = parked {
            parked.state.end(cause, SessionFate::Reset(cause));
        }
    }

    /// Ends those that have left a link whose peer's certificate is revoked.
    pub(super) fn revoke(&self, from: u64) {
        let ended: Vec<_> = {
            let mut sessions = self.lock();
            let of_link = sessions.values_mut().filter(|parked| parked.from == from);
            of_link.map(|parked| parked.state.take(CutCause::Policy)).collect()
        };
        ended.into_iter().for_each(|entry| end(entry, SessionFate::Reset(CutCause::Policy)));
    }

    /// How many wait, of all peers.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        let sessions = self.lock();
        sessions.values().filter(|parked| matches!(parked.state, ParkedState::Waits(_))).count()
    }

    /// Whether a session's owner has gone.
    fn poll_cut(&self, ticket: MoveTicket, cx: &mut Context<'_>) -> Poll<CutCause> {
        match self.lock().get_mut(&ticket).map(|parked| &mut parked.state) {
            Some(ParkedState::Waits(entry)) => entry.row.poll_cut(cx),
            Some(ParkedState::Over(cause)) => Poll::Ready(*cause),
            None => Poll::Pending,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MoveTicket, ParkedSession>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn end(entry: Option<Box<TableEntry<LinkedSession>>>, fate: SessionFate) {
    if let Some(entry) = entry {
        let TableEntry { channel, row } = *entry;
        row.end(fate, Some(channel.receive));
    }
}
