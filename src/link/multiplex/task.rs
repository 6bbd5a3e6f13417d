//! The task of one link: its socket, its sessions, and the events for its owner.
//!
//! The owner asks for the next event over and over, and all work happens within that one future. It never waits
//! for a session: what a session's stream does not take waits in its row.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, Sleep, sleep_until},
};

use super::{
    closing::Closing,
    credit::{LINK_BUDGET_BYTES, WindowBudget},
    frame_deadline::FrameDeadline,
    handle::{
        AttachCommand, COMMANDS_MAX, IncomingSession, LinkCommand, LinkHandle, LinkLoss, OpenCommand,
        SessionFate,
    },
    heavy::HeavyWatch,
    moving::Moves,
    parked::ParkedSessions,
    ready::ReadyQueue,
    receiving::OFFERS_AT_ONCE,
    row::{LinkedSession, UnansweredOpen},
    sending::Outgoing,
    table::SessionTable,
    timing::{TimerKind, Timers},
    turns::TurnQueue,
};
use crate::{
    admission::token_bucket::TokenBucket,
    link::{Peer, liveness::LinkLiveness, load::LinkLoad},
    net::{stream::NetStream, tcp},
    proto::{
        Refusal,
        multiplex::{
            PeerViolation,
            decoder::FrameReader,
            frame::{FrameType, LinkFrame},
            hello::ServiceOffer,
            open::OpenRequest,
            state::{LinkEnd, LinkStage},
        },
    },
};

/// How many rounds of work are done before other tasks get their turn.
const ROUNDS_MAX: usize = 16;
/// A check that is this late shows that the process was not running.
const PROCESS_PAUSE_MIN: Duration = Duration::from_millis(100);

/// What a link reports to its owner.
#[derive(Debug)]
pub enum OwnerEvent {
    Opened(Box<OpenRequest>, IncomingSession),
    /// The server offers something else from now on.
    Services(Vec<ServiceOffer>),
    /// The other end asks for no more sessions, or opens no more.
    Leaving(FrameType),
    /// A session was answered, so the peer works.
    Answered,
    /// One was refused, which is an answer too.
    Refused,
    /// A session has come from another link.
    Resumed,
    /// A round trip was measured.
    RoundTrip(Duration),
    /// All of its sessions know that; no event follows.
    Ended(LinkLoss),
}

/// The parts of a link after both ends have said `hello`.
#[derive(Debug)]
pub struct LinkParts {
    /// Its number in this process.
    pub id: u64,
    pub stream: NetStream,
    pub peer: Peer,
    pub end: LinkEnd,
    /// Counts its sessions; a server refuses those for which there is no slot.
    pub load: Arc<LinkLoad>,
    /// At an opener: the numbers of its sessions with this peer.
    pub numbers: Arc<AtomicU32>,
    /// At a server: sessions that have left another link, and not come to this one yet.
    pub parked: Arc<ParkedSessions>,
}

#[derive(Debug)]
pub struct MultiplexedLink {
    pub(super) id: u64,
    pub(super) stream: NetStream,
    pub end: LinkEnd,
    pub(super) stage: LinkStage,
    pub(super) peer: Peer,
    pub(super) decoder: FrameReader,
    pub(super) table: SessionTable<LinkedSession>,
    pub(super) queue: TurnQueue,
    pub(super) outgoing: Outgoing,
    pub(super) ready: ReadyQueue,
    pub(super) commands: mpsc::Receiver<LinkCommand>,
    /// For its sessions; its owner keeps one of its own.
    pub(super) commands_sender: mpsc::WeakSender<LinkCommand>,
    pub(super) numbers: Arc<AtomicU32>,
    pub(super) moves: Moves,
    pub(super) heavy: HeavyWatch,
    pub(super) parked: Arc<ParkedSessions>,
    pub(super) load: Arc<LinkLoad>,
    pub(super) liveness: LinkLiveness,
    /// How many offers a server may still send.
    pub(super) offers: TokenBucket,
    /// Every incoming session holds one until whoever serves it has finished.
    served: Arc<()>,
    pub(super) frame_deadline: FrameDeadline,
    pub(super) timers: Timers,
    /// By how much checks were late in all, because this process was not running.
    pub(super) stopped_for: Duration,
    sleep: Pin<Box<Sleep>>,
    pub(super) events: VecDeque<OwnerEvent>,
    pub(super) closing: Closing,
    /// Why it was lost, until that is reported to its owner.
    pub(super) lost: Option<LinkLoss>,
    /// When the last session that it carried ended, not one that was only asked for; or when it began.
    pub(super) quiet_since: Instant,
    /// Shared with its handles.
    pub(super) leaves: Arc<AtomicBool>,
}

impl MultiplexedLink {
    pub fn new(parts: LinkParts) -> (Self, LinkHandle) {
        let LinkParts { id, mut stream, peer, end, load, numbers, parked } = parts;
        stream.take_whole_writes();
        stream.stop_framed_pings();
        if let Some(socket) = stream.tcp() {
            // Pings tell whether it is alive. This fails only on a socket that is already gone.
            let _ = tcp::prepare_busy_link(socket);
        }
        let (commands_sender, commands) = mpsc::channel(COMMANDS_MAX);
        let now = Instant::now();
        let outgoing = Outgoing::new(&stream);
        let leaves = Arc::new(AtomicBool::new(false));
        let link = Self {
            id,
            stream,
            end,
            stage: LinkStage::Running,
            peer,
            decoder: FrameReader::new(end.other()),
            table: SessionTable::new(end, WindowBudget::new(LINK_BUDGET_BYTES)),
            queue: TurnQueue::default(),
            outgoing,
            ready: ReadyQueue::default(),
            commands,
            commands_sender: commands_sender.downgrade(),
            numbers,
            moves: Moves::default(),
            heavy: HeavyWatch::new(now),
            parked,
            load,
            liveness: LinkLiveness::new(now),
            offers: TokenBucket::new(OFFERS_AT_ONCE, now.into_std()),
            served: Arc::default(),
            frame_deadline: FrameDeadline::new(now),
            timers: Timers::default(),
            stopped_for: Duration::ZERO,
            sleep: Box::pin(sleep_until(now)),
            events: VecDeque::new(),
            closing: Closing::Running,
            lost: None,
            quiet_since: now,
            leaves: leaves.clone(),
        };
        (link, LinkHandle::new(id, commands_sender, leaves))
    }

    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    pub fn stream(&self) -> &NetStream {
        &self.stream
    }

    /// Whether it carries no session.
    pub fn is_idle(&self) -> bool {
        self.table.is_empty()
    }

    /// Since when it has carried no session.
    pub fn quiet_since(&self) -> Option<Instant> {
        self.table.is_empty().then_some(self.quiet_since)
    }

    /// Tells the other end that no more sessions are wanted, or opened, here. The link ends after the last one
    /// has ended.
    pub fn ask_to_leave(&mut self, kind: FrameType) {
        // This fails only if the link has ended, or has sent it already.
        let _ = self.leave(kind);
    }

    /// Tells the other end what is offered from now on.
    pub fn offer(&mut self, services: Vec<ServiceOffer>) {
        if self.closing != Closing::Ended {
            // As above.
            let _ = self.send(LinkFrame::Services(services), 0);
        }
    }

    /// Refuses a session at once, for whoever drives the link.
    pub fn refuse_incoming(&mut self, session: IncomingSession, refusal: Refusal) {
        // As above.
        let _ = self.refuse(session.number(), refusal);
    }

    /// The next event. This future may be dropped and created again without losing anything.
    pub async fn next_event(&mut self) -> OwnerEvent {
        // This has a limit of its own; the runtime's would count each session's socket.
        tokio::task::unconstrained(poll_fn(|cx| self.poll_event(cx))).await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<OwnerEvent> {
        self.ready.register(cx.waker());
        for _ in 0..ROUNDS_MAX {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(event);
            }
            if self.closing == Closing::Ended {
                return self.poll_lost(cx);
            }
            match self.poll_round(cx).and_then(|progress| Ok(progress || self.poll_time(cx)?)) {
                Ok(false) if self.events.is_empty() => return Poll::Pending,
                Ok(_) => {}
                Err(loss) => self.lose(&loss),
            }
        }
        // Its timers run, however busy it is.
        if let Err(loss) = self.poll_time(cx) {
            self.lose(&loss);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Does what can be done now; returns whether there was anything.
    fn poll_round(&mut self, cx: &mut Context<'_>) -> Result<bool, LinkLoss> {
        let mut progress = self.poll_commands(cx)?;
        progress |= self.serve_ready()?;
        progress |= self.poll_receive(cx)?;
        progress |= self.poll_send(cx)?;
        progress |= self.poll_close(cx)?;
        Ok(progress)
    }

    fn poll_commands(&mut self, cx: &mut Context<'_>) -> Result<bool, LinkLoss> {
        let mut progress = false;
        for _ in 0..COMMANDS_MAX {
            match self.commands.poll_recv(cx) {
                Poll::Ready(Some(command)) => self.obey(command)?,
                // Nobody can open sessions any more.
                Poll::Ready(None) if self.closing == Closing::Running => self.leave(FrameType::Retire)?,
                Poll::Ready(None) | Poll::Pending => break,
            }
            progress = true;
        }
        Ok(progress)
    }

    pub(super) fn obey(&mut self, command: LinkCommand) -> Result<(), LinkLoss> {
        match command {
            LinkCommand::Open(open) => self.open(*open),
            LinkCommand::Attach(attach) => {
                self.attach(*attach);
                Ok(())
            }
            LinkCommand::Refuse(number, refusal) => self.refuse(number, refusal),
            LinkCommand::Resume(moved) => self.resume(moved),
            LinkCommand::SessionLeft => Ok(()),
            LinkCommand::Leave(kind) => self.leave(kind),
        }
    }

    fn open(&mut self, open: OpenCommand) -> Result<(), LinkLoss> {
        let OpenCommand { request, side, slot, owner } = open;
        let now = Instant::now();
        // Number 0 belongs to the link itself.
        let number = loop {
            match self.numbers.fetch_add(1, Ordering::Relaxed).wrapping_add(1) {
                0 => {}
                number => break number,
            }
        };
        let waker = self.ready.waker(number);
        let answer_by = now + super::timing::OPEN_TIMEOUT;
        let unanswered = UnansweredOpen::new(self.outgoing.next_batch(), answer_by, self.stopped_for);
        let row = LinkedSession::outgoing(waker, owner, side, slot, unanswered, now);
        if self.stage != LinkStage::Running || self.closing != Closing::Running {
            row.end(SessionFate::Unsent, None);
            return Ok(());
        }
        self.timers.add(answer_by, number, TimerKind::Answer);
        self.watch_idle(&row, number, now);
        self.table.open(number, row)?;
        self.outgoing.push(self.stage.permit_open(number, request)?);
        self.list(number);
        Ok(())
    }

    fn attach(&mut self, attach: AttachCommand) {
        let AttachCommand { number, side, if_over } = attach;
        let now = Instant::now();
        let Some(entry) = self.table.entry(number) else {
            // If nobody waits for the stream any more, dropping it cuts the backend.
            let _ = if_over.send(side);
            return;
        };
        entry.row.attach(side, now);
        if let Some(idle) = &entry.row.idle {
            self.timers.add(idle.next_check(now), number, TimerKind::Idle);
        }
        self.timers.add(now + super::timing::OPENED_DELAY_MAX, number, TimerKind::Opened);
        self.list(number);
    }

    pub(super) fn watch_idle(&mut self, row: &LinkedSession, number: u32, now: Instant) {
        if let Some(idle) = &row.idle {
            self.timers.add(idle.next_check(now), number, TimerKind::Idle);
        }
    }

    fn refuse(&mut self, number: u32, refusal: Refusal) -> Result<(), LinkLoss> {
        if self.table.entry(number).is_some() {
            self.send(LinkFrame::Refused(refusal), number)?;
            self.finish(number, SessionFate::Refused(refusal));
        }
        Ok(())
    }

    /// Ends the link because of what its peer has done, for whoever drives the link.
    pub fn break_off(&mut self, violation: PeerViolation) {
        if self.closing != Closing::Ended {
            self.lose(&violation.into());
        }
    }

    /// Tells the other end that no more sessions are wanted, or opened, here.
    pub(super) fn leave(&mut self, kind: FrameType) -> Result<(), LinkLoss> {
        if self.closing != Closing::Running {
            return Ok(());
        }
        self.closing = Closing::Leaving;
        self.leaves.store(true, Ordering::Release);
        let frame = if kind == FrameType::Drain { LinkFrame::Drain } else { LinkFrame::Retire };
        self.send(frame, 0)
    }

    /// Queues a frame.
    pub(super) fn send(&mut self, frame: LinkFrame, number: u32) -> Result<(), LinkLoss> {
        self.outgoing.push(match number {
            0 => self.stage.permit(self.end, frame)?,
            number => self.table.send(number, frame)?,
        });
        Ok(())
    }

    /// Handles a session that the other end has opened.
    pub(super) fn opened(&mut self, number: u32, request: Box<OpenRequest>) -> Result<(), LinkLoss> {
        let (owner, handle) = super::handle::session_owner();
        let waker = self.ready.waker(number);
        let slot = self.load.take();
        let has_slot = slot.is_some();
        self.table.open(number, LinkedSession::incoming(waker, owner, slot))?;
        match self.commands_sender.upgrade().filter(|_| has_slot && self.has_session_capacity()) {
            Some(commands) => {
                let handle = handle.holding(self.served.clone());
                let session = IncomingSession::new((self.id, number), commands, handle);
                self.events.push_back(OwnerEvent::Opened(request, session));
                self.list(number);
                Ok(())
            }
            None => self.refuse(number, Refusal::Full),
        }
    }

    /// Whether one more session may be served. A session that has ended on the wire counts until whoever serves
    /// it has finished, and there may be as many of these as open ones. Otherwise endless opens and resets, or
    /// sessions with much left for slow backends, could keep any number of them at work.
    fn has_session_capacity(&self) -> bool {
        Arc::strong_count(&self.served) - 1 < 2 * self.load.max()
    }

    fn poll_time(&mut self, cx: &mut Context<'_>) -> Result<bool, LinkLoss> {
        let due = self.due();
        let wake_at = self.frame_deadline.next_look().map_or(due, |look| look.min(due));
        if wake_at < self.sleep.deadline() {
            self.sleep.as_mut().reset(wake_at);
        }
        // Move the timer later only after it has fired: setting it earlier costs a wake-up of the runtime.
        while std::future::Future::poll(self.sleep.as_mut(), cx).is_ready() && Instant::now() < wake_at {
            self.sleep.as_mut().reset(wake_at);
        }
        if !self.sleep.is_elapsed() {
            return Ok(false);
        }
        let now = Instant::now();
        // Every check is a little late. If that were counted, whatever waits for an answer would wait forever.
        let delay = now.saturating_duration_since(due);
        if delay >= PROCESS_PAUSE_MIN {
            self.stopped_for += delay;
        }
        self.time_is_up(now, cx)?;
        Ok(true)
    }
}
