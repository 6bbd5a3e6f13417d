//! A link that speaks `portcullis/1` and carries one session after another.
//!
//! It keeps the state, turns a session's bytes into frames and back, and answers pings by the way.
//! Bytes are not copied: a frame's header is written in front of the relay's buffer, and a body is
//! read straight into it. What may come when is `proto::link::state`'s to say; whatever else comes
//! ends the link, and the session on it, and nothing else.

use std::{
    collections::HashSet,
    fmt, io,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{net::TcpStream, time::Instant};
use tokio_util::sync::CancellationToken;

mod reading;
mod writing;

use super::{Peer, error::LinkError, link_guard::LinkGuard, liveness::LinkLiveness, peer_record::PeerRecord};
use crate::{
    net::{stream::NetStream, tcp},
    profile::ServiceName,
    proto::link::{
        ProtocolViolation,
        decoder::FrameDecoder,
        frame::{self, DATA_MAX, Frame, FrameKind, ResetCause, ResetFrame, TOKEN},
        open::OpenFrame,
        state::{LinkProtocolState, LinkRole, StateMachine},
    },
};

/// Client bytes that may be on their way before a session is answered; kept, so that they can be
/// sent again over another link when it is refused.
pub const COPY_MAX: usize = 64 * 1024;
/// A link is replaced at this age, give or take a tenth, so that all do not go at once.
const AGE: Duration = Duration::from_secs(3600);
/// And after so many sessions.
const SESSIONS_MAX: u32 = 100_000;
/// Bytes of a session that its server's backend socket takes at once, however slow the backend is.
const TAIL_MAX: usize = 16 * 1024;
/// The other end's kernel acknowledges why a session is cut in this time, or is not waited for.
const TOLD: Duration = Duration::from_secs(1);
/// A frame that has begun on an idle link is whole in this time.
pub const BEGUN: Duration = Duration::from_secs(6);
/// Frames of our own that may wait for the socket.
const OUT_MAX: usize = 1024;
/// Sessions refused in a row as unknown or not allowed: more is not a mistake.
const STRAY_OPENS_MAX: u8 = 32;

/// Where a link goes when its session has ended.
pub trait LinkOwner: fmt::Debug + Send + Sync {
    fn take_back(self: Arc<Self>, link: Box<Link>);
}

/// What a link without a session says.
#[derive(Debug)]
pub enum LinkEvent {
    Open(OpenFrame),
    /// No more sessions, please.
    Leaving(FrameKind),
    /// It closed in good order.
    Closed,
}

#[derive(Debug)]
pub struct Link {
    stream: NetStream,
    peer: Peer,
    machine: StateMachine,
    decoder: FrameDecoder,
    /// Frames, or the rest of one, that have yet to be written.
    out: Vec<u8>,
    unflushed: bool,
    /// Client bytes sent before the answer.
    copy: Vec<u8>,
    /// The writer that waits for the answer.
    blocked: Option<Waker>,
    /// The largest body of `data` that the other end takes.
    data_max: usize,
    guard: Option<LinkGuard>,
    /// Of its peer, on an opener's end.
    peer_record: Option<Arc<PeerRecord>>,
    owner: Option<Weak<dyn LinkOwner>>,
    /// The same while it carries: its home outlives its session.
    owner_while_busy: Option<Arc<dyn LinkOwner>>,
    /// Whether bytes of a session that is not answered may have gone out.
    has_tried: bool,
    /// Whether the session that runs, or ran last, was answered by `opened`.
    was_opened: bool,
    /// Cancelled when what was agreed in its greeting does not hold any more.
    retired: CancellationToken,
    /// What its far side may be asked for; empty on a server's end.
    serves: Arc<HashSet<ServiceName>>,
    liveness: LinkLiveness,
    /// When a frame that has begun on an idle link has to be whole.
    whole_by: Option<Instant>,
    /// A `pong` that the socket did not take at once.
    owes_pong: bool,
    /// Bytes of the session that this end has sent.
    sent: usize,
    /// Waits for this answer, which shows that the last session has been read to its end.
    drain_token: Option<[u8; TOKEN]>,
    leaving: Option<FrameKind>,
    has_told_leave: bool,
    late_bytes: usize,
    stray_opens: u8,
    expires_at: Instant,
}

enum ReadStep {
    /// Bytes of the session were read.
    Data,
    Frame(Frame),
    Closed,
}

impl Link {
    pub fn new(mut stream: NetStream, peer: Peer, end: LinkRole) -> Self {
        stream.take_whole_writes();
        if let Some(socket) = stream.tcp() {
            // Pings tell whether it is alive. Fails only on a socket that is already gone.
            let _ = tcp::prepare_busy_link(socket);
        }
        Self {
            stream,
            peer,
            machine: StateMachine::new(end),
            decoder: FrameDecoder::default(),
            out: Vec::new(),
            unflushed: false,
            copy: Vec::new(),
            blocked: None,
            data_max: DATA_MAX,
            guard: None,
            peer_record: None,
            owner: None,
            owner_while_busy: None,
            has_tried: false,
            was_opened: false,
            retired: CancellationToken::new(),
            serves: Arc::default(),
            liveness: LinkLiveness::new(Instant::now()),
            whole_by: None,
            owes_pong: false,
            sent: 0,
            drain_token: None,
            leaving: None,
            has_told_leave: false,
            late_bytes: 0,
            stray_opens: 0,
            expires_at: Instant::now() + AGE.mul_f64(0.9 + 0.2 * fastrand::f64()),
        }
    }

    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    pub fn state(&self) -> LinkProtocolState {
        self.machine.state()
    }

    pub fn tcp(&self) -> Option<&TcpStream> {
        self.stream.tcp()
    }

    /// The session's number on this link, as `reset` names it.
    pub fn session(&self) -> u32 {
        self.machine.session()
    }

    pub fn bound_data(&mut self, bytes: usize) {
        self.data_max = bytes.min(DATA_MAX);
    }

    /// Counts it from now on as its peer's, until it is dropped.
    pub fn set_guard(&mut self, seat: LinkGuard) {
        self.guard = Some(seat.describe(&self.stream));
    }

    pub fn guard(&self) -> Option<&LinkGuard> {
        self.guard.as_ref()
    }

    /// Where it is noted whether its peer answers.
    pub fn set_peer_record(&mut self, conduct: Arc<PeerRecord>) {
        self.peer_record = Some(conduct);
    }

    /// Its session was not answered in time.
    pub fn note_unanswered(&self) {
        self.peer_record.iter().for_each(|conduct| conduct.note_unanswered());
    }

    /// Where it goes after each session.
    pub fn set_owner(&mut self, home: Weak<dyn LinkOwner>) {
        self.owner = Some(home);
    }

    /// What was agreed in its greeting, and what tells that it does not hold any more.
    pub fn set_agreement(
        &mut self,
        serves: impl IntoIterator<Item = ServiceName>,
        retired: CancellationToken,
    ) {
        self.serves = Arc::new(serves.into_iter().collect());
        self.retired = retired;
    }

    /// What its far side may be asked for.
    pub fn serves(&self) -> &Arc<HashSet<ServiceName>> {
        &self.serves
    }

    /// Cancelled when it should be replaced.
    pub fn retired(&self) -> &CancellationToken {
        &self.retired
    }

    /// Sends it home, free as it is.
    pub fn return_to_owner(mut self: Box<Self>) {
        self.copy = Vec::new();
        if self.machine.end() == LinkRole::Opener
            && self.sent > TAIL_MAX
            && self.state() == LinkProtocolState::Ready
        {
            self.drain_token = Some(self.liveness.token());
        } else if let Some(seat) = &mut self.guard {
            seat.mark_ready();
        }
        let home = self.owner_while_busy.take().or_else(|| self.owner.as_ref().and_then(Weak::upgrade));
        if let Some(home) = home {
            home.take_back(self);
        }
    }

    /// Whether its last session's bytes may still wait for a slow backend, and what follows behind them.
    pub fn is_draining_last_session(&self) -> bool {
        self.drain_token.is_some()
    }

    /// Asks whether the last session has been read to its end.
    pub fn ask_whether_drained(&mut self) -> io::Result<()> {
        match self.drain_token {
            Some(token) => self.stage(FrameKind::Ping, &token),
            None => Ok(()),
        }
    }

    /// The last session has been read to its end.
    pub fn note_drained(&mut self) {
        if let Some(seat) = &mut self.guard {
            seat.mark_ready();
        }
    }

    /// Whether the other end has asked for no more sessions.
    pub fn leaving(&self) -> Option<FrameKind> {
        self.leaving
    }

    /// Whether the other end has taken the session that runs, or ran last.
    pub fn was_opened(&self) -> bool {
        self.was_opened
    }

    /// Whether this end has asked the other for no more sessions.
    pub fn has_asked_to_leave(&self) -> bool {
        self.has_told_leave
    }

    /// Whether it has carried enough, or long enough.
    pub fn is_worn(&self) -> bool {
        self.retired.is_cancelled()
            || self.machine.session() >= SESSIONS_MAX
            || Instant::now() >= self.expires_at
    }

    /// When it is worn for its age.
    pub fn expires_at(&self) -> Instant {
        self.expires_at
    }

    /// The stream alone, to bid it farewell, and its seat, which it keeps until then.
    pub fn into_parts(self) -> (NetStream, Option<LinkGuard>) {
        (self.stream, self.guard)
    }

    /// Puts a frame in line, to be written with what comes next or by [`Link::poll_flush`].
    pub fn stage(&mut self, kind: FrameKind, body: &[u8]) -> io::Result<()> {
        self.machine.send(kind).map_err(LinkError::Broken)?;
        frame::push(&mut self.out, kind, body);
        if kind == FrameKind::Opened {
            self.stray_opens = 0;
            self.note_carried();
        }
        self.unflushed = true;
        Ok(())
    }

    /// Asks for no more sessions, once.
    pub fn stage_leave(&mut self, kind: FrameKind) -> io::Result<()> {
        if let Some(seat) = &mut self.guard {
            seat.mark_leaving();
        }
        match std::mem::replace(&mut self.has_told_leave, true) {
            true => Ok(()),
            false => self.stage(kind, &[]),
        }
    }

    /// Opens a session; `again` is what its client has sent already, on a link that refused it.
    pub fn open(&mut self, open: &OpenFrame, again: Vec<u8>) -> io::Result<()> {
        self.stage(FrameKind::Open, &open.body())?;
        if let Some(seat) = &mut self.guard {
            seat.mark_busy();
        }
        for piece in again.chunks(self.data_max) {
            self.stage(FrameKind::Data, piece)?;
        }
        self.has_tried = !again.is_empty();
        self.was_opened = false;
        self.sent = again.len();
        self.copy = again;
        self.owner_while_busy = self.owner.as_ref().and_then(Weak::upgrade);
        Ok(())
    }

    /// Whether a session that is not answered has sent more than `open`.
    pub fn has_sent(&self) -> bool {
        self.has_tried || self.state() == LinkProtocolState::OpeningEnded
    }

    /// The client's bytes that a refused session has sent.
    pub fn take_copy(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.copy)
    }

    /// Counts a session that was refused as unknown or not allowed; too many end the link.
    pub fn count_stray_open(&mut self) -> io::Result<()> {
        self.stray_opens += 1;
        match self.stray_opens > STRAY_OPENS_MAX {
            true => Err(self.violation_error(ProtocolViolation::Flood("opens of services it may not use"))),
            false => Ok(()),
        }
    }

    /// A session was answered: whoever keeps such links has seen that the way is good.
    fn note_carried(&self) {
        if let Some(seat) = &self.guard {
            seat.counts().note_carried();
        }
    }

    /// Its other end has broken the protocol: whoever dials it hears of that, wherever it is noticed.
    fn violation_error(&self, how: ProtocolViolation) -> io::Error {
        let trouble = LinkError::Broken(how);
        if let Some(seat) = &self.guard {
            seat.counts().note_violation(trouble.to_string());
        }
        trouble.into()
    }

    /// Cuts the session: tells the other end why, if that can be said at once, and ends the link.
    pub async fn cut(self, cause: ResetCause) {
        if self.state().is_free() || self.state() == LinkProtocolState::Closed {
            return;
        }
        let reset = ResetFrame { session: self.machine.session(), cause };
        self.tell_reset(reset).await;
    }

    /// Ends a link whose session was never looked at: the reset names the one before, and the opener takes
    /// another link for it.
    pub async fn cut_unseen(self) {
        let reset = ResetFrame { session: self.machine.session().wrapping_sub(1), cause: ResetCause::Other };
        self.tell_reset(reset).await;
    }

    async fn tell_reset(mut self, reset: ResetFrame) {
        let told = self.stage(FrameKind::Reset, &reset.body()).is_ok()
            && matches!(self.poll_flush(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())));
        if told {
            // Closed while bytes are unread here, a socket is reset, and what it has to send is lost.
            if let Some(socket) = self.stream.tcp() {
                tcp::await_acknowledged(socket, TOLD).await;
            }
            // Else dropped with linger 0 armed: the other end hears a reset all the same.
            self.stream.let_close_cleanly();
        }
    }
}
