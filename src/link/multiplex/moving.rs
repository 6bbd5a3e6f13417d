//! Sessions that leave a link for another one of the same peer. The opener begins; each end's `move` says that no more
//! bytes of it come here, so that nothing overtakes anything.
//!
//! ```text
//! opener ── move ──► server   on the old link: all that the opener has sent is there
//!        ◄── move ──          the same of the server, which parks the session and gives a ticket for it
//!        ── resume ─►         on the new link, with the ticket: it goes on
//! ```
//!
//! A link that is retired loses all its sessions so, and [`super::heavy`] says who leaves one that goes on.
//!
//! Meanwhile the session stands still for about one round trip. Credit begins again, so that each link's budget covers
//! what waits on it; where the new link's budget allows it, a window that had grown is given back with the next frame.
//! A server whose backend has much to take waits a moment until it has. If it does not, or if too many
//! sessions are parked, the server answers `opened` instead: then the session stays here, and the opener asks again with
//! a later check.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use foldhash::HashMap;
use tokio::{sync::mpsc, time::Instant};

use super::{
    closing::Closing,
    credit::WINDOW_BYTES,
    handle::{LinkCommand, LinkHandle, LinkLoss, SessionFate, resume_by},
    parked::ParkedState,
    row::LinkedSession,
    table::{TableEntry, is_after},
    task::{MultiplexedLink, OwnerEvent},
};
use crate::{
    link::load::{SessionSlot, SessionWeight},
    proto::multiplex::{
        PeerViolation,
        frame::{CutCause, FrameType, HEAVY_SESSION, LinkFrame, MoveTicket},
        state::{LinkEnd, SessionStage},
    },
};

/// How many moves of one link are begun at once; each that is answered makes room for another.
const MOVES_AT_ONCE: usize = 32;
/// How long a server waits at least for a backend to take what has come, before it keeps the session. Its opener sends
/// nothing meanwhile, and the backend may be waiting for just that.
const DRAIN_WAIT_MIN: Duration = Duration::from_secs(1);

/// Finds links for the sessions that leave one.
pub trait MoveTargets: fmt::Debug + Send + Sync {
    /// A slot on another link of the same process, if there is one now.
    fn next_target(&self) -> Option<MoveTarget>;
    /// A place for a heavy session of the link `from`, on one for bulk.
    fn heavy_target(&self, from: u64) -> Option<MoveTarget>;
}

/// Why sessions leave a link.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum MoveReason {
    /// They move much, and others on it do not.
    #[default]
    Heavy,
    /// It is for bulk, and they are not heavy.
    Light,
    /// It is retired.
    Retired,
}

/// A link that a session can move to, and its slot there.
#[derive(Debug)]
pub struct MoveTarget {
    pub handle: LinkHandle,
    pub slot: SessionSlot,
}

/// What a link keeps of its sessions that move.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// At an opener.
    targets: Option<Arc<dyn MoveTargets>>,
    reason: MoveReason,
    /// Sessions to look at before the next check.
    candidates: Vec<u32>,
    /// Heavy sessions whose `move` is not answered, with their places on links for bulk.
    begun: HashMap<u32, MoveTarget>,
    /// How many more may be begun before an answer, or the next check.
    may_begin: usize,
    /// At a server: sessions whose `move` waits for their backends.
    unanswered: HashMap<u32, UnansweredMove>,
    /// The certificate of the other end is revoked, so no session may come here.
    pub is_revoked: bool,
}

/// A `move` of an opener's that a server has yet to answer.
#[derive(Debug)]
struct UnansweredMove {
    since: Instant,
    weight: SessionWeight,
}

/// A session of the opener's between two links.
#[derive(Debug)]
pub(super) struct MovedSession {
    number: u32,
    ticket: MoveTicket,
    entry: Box<TableEntry<LinkedSession>>,
    /// Its slot on the new link. It keeps that on the old one until then, so neither link ends meanwhile.
    slot: Option<SessionSlot>,
    /// The link that it has left, which takes it back if the other one cannot have it.
    back: Option<mpsc::WeakSender<LinkCommand>>,
}

impl Moves {
    /// Forgets a session that is over, or has left.
    pub fn forget(&mut self, number: u32) {
        self.unanswered.remove(&number);
        self.begun.remove(&number);
    }
}

impl MovedSession {
    /// Without another link: only the old one can go on with it.
    fn without_target(mut self: Box<Self>) -> Box<Self> {
        (self.slot, self.back) = (None, None);
        self
    }

    /// The link that was to have it cannot.
    fn go_back(self: Box<Self>) {
        let back = self.back.as_ref().and_then(mpsc::WeakSender::upgrade);
        let moved = self.without_target();
        let left = match back {
            Some(commands) => resume_by(&commands, moved).err(),
            None => Some(moved),
        };
        if let Some(moved) = left {
            let TableEntry { channel, row } = *moved.entry;
            row.end(SessionFate::LinkLost(LinkLoss::Cut), Some(channel.receive));
        }
    }
}

impl MultiplexedLink {
    /// At an opener: its heavy sessions go on over these other links, as far as there are any.
    pub fn move_heavy_sessions_to(&mut self, targets: Arc<dyn MoveTargets>) {
        self.moves.targets = Some(targets);
    }

    /// At an opener: all its sessions go on over other links from now on, as far as there are any. It looks for them
    /// again with each check.
    pub fn move_sessions(&mut self) {
        self.moves.reason = MoveReason::Retired;
        // A link that has ended has no sessions.
        let _ = self.check_moves();
    }

    /// Begins moves that could not be begun before, and keeps sessions here whose backends take nothing.
    pub(super) fn check_moves(&mut self) -> Result<(), LinkLoss> {
        let is_late = |_: &u32, it: &mut UnansweredMove| it.since.elapsed() >= DRAIN_WAIT_MIN;
        for (number, _) in self.moves.unanswered.extract_if(is_late).collect::<Vec<_>>() {
            self.send(LinkFrame::Opened, number)?;
        }
        if self.moves.targets.is_none() {
            return Ok(());
        }
        (self.moves.candidates, self.moves.reason) = match self.moves.reason {
            MoveReason::Retired => (self.table.numbers(), MoveReason::Retired),
            MoveReason::Heavy | MoveReason::Light if self.closing == Closing::Running => {
                self.judge_sessions()
            }
            reason @ (MoveReason::Heavy | MoveReason::Light) => (Vec::new(), reason),
        };
        self.moves.may_begin = MOVES_AT_ONCE;
        self.begin_moves()
    }

    fn begin_moves(&mut self) -> Result<(), LinkLoss> {
        let Some(targets) = self.moves.targets.clone() else { return Ok(()) };
        // Slots are taken when sessions come; no more of them leave than there are slots now. Those of heavy ones are
        // kept, so that their link stays one for bulk.
        let mut slots = Vec::new();
        while self.moves.may_begin > 0
            && let Some(number) = self.moves.candidates.pop()
        {
            if !self.may_move(number) {
                continue;
            }
            let (target, ticket) = match self.moves.reason {
                MoveReason::Heavy => (targets.heavy_target(self.id), HEAVY_SESSION),
                MoveReason::Light | MoveReason::Retired => (targets.next_target(), MoveTicket::default()),
            };
            let Some(target) = target else {
                self.moves.candidates.clear();
                break;
            };
            let Some(entry) = self.table.entry(number) else { continue };
            let sent = entry.channel.send.sent();
            self.send(LinkFrame::Move { sent, credit: 0, ticket }, number)?;
            match self.moves.reason {
                MoveReason::Heavy => _ = self.moves.begun.insert(number, target),
                MoveReason::Light | MoveReason::Retired => slots.push(target.slot),
            }
            self.moves.may_begin -= 1;
        }
        Ok(())
    }

    /// Whether a session of the opener's is one that can be moved now. One that is so old that its number may be mistaken for
    /// that of a new session stays.
    fn may_move(&mut self, number: u32) -> bool {
        let newest = self.numbers.load(Ordering::Relaxed);
        let Some(entry) = self.table.entry(number) else { return false };
        let moving = entry.channel.stage().after(self.end, FrameType::Move);
        moving.and_then(SessionStage::resumed).is_some()
            && !entry.row.has_failed()
            && (number == newest || is_after(newest, number))
    }

    /// The other end has sent all that it sends of a session here.
    pub(super) fn receive_move(
        &mut self,
        number: u32,
        sent: u64,
        goes_on_with: (u32, MoveTicket),
    ) -> Result<(), LinkLoss> {
        let before = self.table.entry(number).map(|entry| entry.channel.stage());
        let Some(entry) = self.table.receive(number, FrameType::Move)? else { return Ok(()) };
        if before == Some(SessionStage::Closed) {
            return Ok(());
        }
        if entry.channel.receive.received() != sent {
            return Err(PeerViolation::MovedBytes(number).into());
        }
        match (self.end, before.and_then(SessionStage::resumed)) {
            (LinkEnd::Server, _) => {
                let is_heavy = goes_on_with.1 == HEAVY_SESSION;
                let weight = if is_heavy { SessionWeight::Heavy } else { SessionWeight::Light };
                self.moves.unanswered.insert(number, UnansweredMove { since: Instant::now(), weight });
                self.answer_move(number)
            }
            (LinkEnd::Opener, Some(stage)) => self.note_answer(number, stage, goes_on_with),
            (LinkEnd::Opener, None) => Ok(()),
        }
    }

    /// At a server: parks a session whose opener has moved it, once its backend has taken most of what came before.
    pub(super) fn answer_move(&mut self, number: u32) -> Result<(), LinkLoss> {
        let Some(entry) = self.table.entry(number) else { return Ok(()) };
        let held = entry.row.held_bytes();
        let Some(stage) = entry.channel.stage().resumed() else { return Ok(()) };
        if entry.row.has_failed() {
            // It is reset in its turn.
            self.moves.forget(number);
            return Ok(());
        }
        if held > WINDOW_BYTES {
            return Ok(());
        }
        let Some(UnansweredMove { weight, .. }) = self.moves.unanswered.remove(&number) else {
            return Ok(());
        };
        let Some(ticket) = self.parked.ticket(&self.peer) else {
            return self.send(LinkFrame::Opened, number);
        };
        let channel = &mut entry.channel;
        channel.receive.restart(held);
        let (sent, credit) = (channel.send.sent(), channel.receive.open() as u32);
        self.send(LinkFrame::Move { sent, credit, ticket }, number)?;
        if let Some(entry) = self.move_out(number, stage) {
            self.parked.park(ticket, (number, weight), (self.peer.clone(), self.id), entry);
        }
        Ok(())
    }

    /// At an opener: the server keeps a session on this link.
    pub(super) fn keep_session(&mut self, number: u32) -> Result<(), LinkLoss> {
        self.line_up(number);
        if self.moves.begun.remove(&number).is_some() {
            self.heavy.note_kept(number);
        }
        self.moves.may_begin = MOVES_AT_ONCE.min(self.moves.may_begin + 1);
        self.begin_moves()
    }

    /// At an opener: all of a session is here, and the server waits for it on another link.
    fn note_answer(
        &mut self,
        number: u32,
        stage: SessionStage,
        (credit, ticket): (u32, MoveTicket),
    ) -> Result<(), LinkLoss> {
        self.moves.may_begin = MOVES_AT_ONCE.min(self.moves.may_begin + 1);
        let begun = self.moves.begun.remove(&number);
        let Some(mut entry) = self.move_out(number, stage) else { return Ok(()) };
        entry.channel.send.restart(credit);
        entry.channel.receive.restart(entry.row.held_bytes());
        let target = begun.or_else(|| self.moves.targets.as_ref().and_then(|targets| targets.next_target()));
        let (handle, slot) = target.map(|target| (target.handle, target.slot)).unzip();
        let moved =
            Box::new(MovedSession { number, ticket, entry, slot, back: Some(self.commands_sender.clone()) });
        let left = match handle {
            Some(handle) => handle.resume(moved).err(),
            None => Some(moved),
        };
        if let Some(moved) = left {
            self.resume(moved.without_target())?;
        }
        self.begin_moves()
    }

    /// Goes on with a session that has left another link, or this one.
    pub(super) fn resume(&mut self, mut moved: Box<MovedSession>) -> Result<(), LinkLoss> {
        let is_open = matches!(self.closing, Closing::Running | Closing::Leaving);
        if !is_open
            || self.moves.is_revoked
            || self.outgoing.is_full()
            || !moved.entry.channel.receive.change_budget(self.table.budget())
        {
            moved.go_back();
            return Ok(());
        }
        let MovedSession { number, ticket, mut entry, slot, back } = *moved;
        let window = &mut entry.channel.receive;
        window.regrow();
        let (received, credit) = (window.received(), window.open() as u32);
        self.outgoing.push(self.stage.permit_resume((number, ticket), received, credit)?);
        self.move_in(number, entry, slot)?;
        if let Some(commands) = back.as_ref().and_then(mpsc::WeakSender::upgrade) {
            // A task with a full queue is awake.
            let _ = commands.try_send(LinkCommand::SessionLeft);
        }
        Ok(())
    }

    /// At a server: the opener goes on here with a session that is parked.
    pub(super) fn receive_resume(
        &mut self,
        (number, ticket): (u32, MoveTicket),
        received: u64,
        credit: u32,
    ) -> Result<(), LinkLoss> {
        let found = self.parked.take(ticket, number);
        let (mut parked, weight) = found.ok_or(PeerViolation::NotMoving(number))?;
        if self.moves.is_revoked {
            parked.end(CutCause::Policy, SessionFate::Reset(CutCause::Policy));
        }
        let mut entry = match parked {
            ParkedState::Waits(entry) => entry,
            ParkedState::Over(cause) => {
                self.outgoing.push(self.table.reset_moved(number, cause)?);
                return Ok(());
            }
        };
        if entry.channel.send.sent() != received {
            return Err(PeerViolation::MovedBytes(number).into());
        }
        let slot = self.load.take_for_move(weight);
        let slot = slot.ok_or(PeerViolation::TooMany("sessions moved to one link"))?;
        let channel = &mut entry.channel;
        channel.send.restart(credit);
        // It was parked without any growth, so there is nothing to charge.
        let _ = channel.receive.change_budget(self.table.budget());
        let has_ended = channel.stage().has_ended(LinkEnd::Opener);
        let more = if has_ended { 0 } else { channel.receive.regrow() };
        self.move_in(number, entry, Some(slot))?;
        if more > 0 { self.send(LinkFrame::Credit(more), number) } else { Ok(()) }
    }

    /// At a server: the opener has reset a session while its `move` was answered.
    pub(super) fn reset_parked(&self, number: u32, cause: CutCause) {
        if self.end == LinkEnd::Server {
            self.parked.reset(number, self.id, cause);
        }
    }

    fn move_out(&mut self, number: u32, stage: SessionStage) -> Option<Box<TableEntry<LinkedSession>>> {
        self.moves.forget(number);
        // It may come back, and would have them twice.
        self.timers.forget(number);
        self.queue.remove(number);
        self.quiet_since = Instant::now();
        self.table.move_out(number, stage)
    }

    fn move_in(
        &mut self,
        number: u32,
        mut entry: Box<TableEntry<LinkedSession>>,
        slot: Option<SessionSlot>,
    ) -> Result<(), LinkLoss> {
        entry.row.rebind(self.id, self.ready.waker(number), slot);
        self.watch_idle(&entry.row, number, Instant::now());
        self.table.move_in(number, entry)?;
        // Its stream has yet to learn whom to wake.
        self.list(number);
        self.events.push_back(OwnerEvent::Resumed);
        Ok(())
    }
}
