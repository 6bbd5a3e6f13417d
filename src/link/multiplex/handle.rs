//! Handles on a link and on a session, for the rest of the gateway. They can only make requests.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::{credit::ReceiveWindow, held::HeldBytes, local_party::LocalParty, moving::MovedSession};
use crate::{
    link::{liveness::SILENCE_MAX, load::SessionSlot},
    net::stream::NetStream,
    proto::{
        Refusal,
        multiplex::{
            PeerViolation,
            frame::{CutCause, FrameType},
            open::OpenRequest,
        },
    },
    telemetry::{registry::SessionCounters, snapshot::SessionPhase},
};

/// How many requests may wait for a link's task. Beyond that, callers wait.
pub const COMMANDS_MAX: usize = 256;

/// A request to a link's task.
#[derive(Debug)]
pub(super) enum LinkCommand {
    Open(Box<OpenCommand>),
    Attach(Box<AttachCommand>),
    Refuse(u32, Refusal),
    /// Go on with a session that has left another link.
    Resume(Box<MovedSession>),
    /// Another link goes on with a session of this one, which may have been the last.
    SessionLeft,
    /// Take no more sessions: `drain` or `retire`.
    Leave(FrameType),
}

#[derive(Debug)]
pub(super) struct OpenCommand {
    pub request: OpenRequest,
    pub side: Box<LocalSide>,
    pub slot: SessionSlot,
    pub owner: SessionOwner,
}

/// The stream of a backend, for a session that the other gateway has opened.
#[derive(Debug)]
pub(super) struct AttachCommand {
    pub number: u32,
    pub side: Box<LocalSide>,
    /// Where the stream goes if the session is over already: it is given what had come by then.
    pub if_over: oneshot::Sender<Box<LocalSide>>,
}

/// A client's or backend's stream, as it is handed to a link's task.
#[derive(Debug)]
pub struct LocalSide {
    pub stream: NetStream,
    /// Bytes that go to the other gateway before anything that is read.
    pub unsent: Vec<u8>,
    pub counters: Arc<SessionCounters>,
    /// The session ends after this long without a byte in either direction.
    pub idle: Option<Duration>,
    /// Whose stream it is.
    pub party: LocalParty,
}

/// What remains of a session after it has ended on its link.
#[derive(Debug)]
pub struct SessionLeftover {
    pub fate: SessionFate,
    /// The local stream; `None` if it was never attached.
    pub stream: Option<NetStream>,
    /// Bytes that the stream has yet to take.
    pub undelivered: Undelivered,
    /// The bytes to send again, if no backend has seen the session.
    pub resend: Vec<u8>,
    /// Nothing but `open` was sent, so it may be opened elsewhere.
    pub is_unsent: bool,
}

impl SessionLeftover {
    /// Whether bytes have come that a backend is to get in spite of how the session has ended.
    fn is_owed_delivery(&self) -> bool {
        let is_trusted = !matches!(self.fate, SessionFate::Reset(CutCause::Policy));
        is_trusted && !self.undelivered.bytes.is_empty()
    }

    /// For a link whose task has ended without reporting anything.
    fn of_lost_link() -> Self {
        Self {
            fate: SessionFate::LinkLost(LinkLoss::Cut),
            stream: None,
            undelivered: Undelivered::default(),
            resend: Vec::new(),
            is_unsent: false,
        }
    }
}

/// How a session ended on its link.
#[derive(Debug)]
pub enum SessionFate {
    /// Both directions have ended.
    Clean,
    /// The local stream failed, and a reset was sent to the other gateway.
    StreamFailed(io::Error),
    /// Refused; no byte reached a backend.
    Refused(Refusal),
    /// The link ended before anything of the session was sent.
    Unsent,
    Reset(CutCause),
    LinkLost(LinkLoss),
    /// No byte either way for the service's `idle`.
    Idle,
    /// The other gateway has not said whether it accepts the session.
    Unanswered,
}

/// Received bytes that the stream has not taken, with their share of the link's budget.
#[derive(Debug, Default)]
pub struct Undelivered {
    pub bytes: HeldBytes,
    /// The other end has finished, so the stream ends after these bytes.
    pub has_end: bool,
    pub(super) _window: Option<ReceiveWindow>,
}

/// Why a link has ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LinkLoss {
    #[error("the peer closed it")]
    Closed,
    #[error("it was cut")]
    Cut,
    #[error("it does not answer any more")]
    Silent,
    #[error("it broke the protocol: {0}")]
    Broken(#[from] PeerViolation),
    #[error(transparent)]
    Socket(SocketError),
    /// The kernel has heard nothing from it for too long.
    #[error(transparent)]
    Unreachable(SocketError),
}

impl From<io::Error> for LinkLoss {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{HostUnreachable, NetworkDown, NetworkUnreachable, TimedOut};
        match error.kind() {
            TimedOut | HostUnreachable | NetworkUnreachable | NetworkDown => Self::Unreachable(error.into()),
            _ => Self::Socket(error.into()),
        }
    }
}

impl LinkLoss {
    /// How long its other end may have been gone by now. Anything but silence is noticed at once.
    pub fn detection_delay(&self) -> Duration {
        match self {
            Self::Closed | Self::Cut | Self::Broken(_) | Self::Socket(_) => Duration::ZERO,
            Self::Silent | Self::Unreachable(_) => SILENCE_MAX,
        }
    }
}

/// A socket error that can be cloned, for everybody who asks.
#[derive(Debug, Clone, Error)]
#[error(transparent)]
pub struct SocketError(Arc<io::Error>);

impl PartialEq for SocketError {
    fn eq(&self, other: &Self) -> bool {
        (self.0.kind(), self.0.raw_os_error()) == (other.0.kind(), other.0.raw_os_error())
    }
}

impl Eq for SocketError {}

impl From<io::Error> for SocketError {
    fn from(error: io::Error) -> Self {
        Self(Arc::new(error))
    }
}

/// The answer to `open`.
#[derive(Debug)]
pub enum OpenAnswer {
    /// The other gateway has taken the session.
    Taken,
    Over(Box<SessionLeftover>),
}

/// The owner of a session, as seen by the link's task. It gets the outcome of the session once; when it
/// is dropped, the session is cut.
#[derive(Debug)]
pub(super) struct SessionOwner {
    /// Tells an opener that the other gateway has taken the session.
    pub answered: Option<oneshot::Sender<()>>,
    pub outcome: oneshot::Sender<Box<SessionLeftover>>,
    pub cause: Arc<AtomicU8>,
}

/// The owner's handle on a session. Dropping it cuts the session.
#[derive(Debug)]
pub struct SessionHandle {
    /// For a session that was opened here, until it is answered.
    answered: Option<oneshot::Receiver<()>>,
    outcome: oneshot::Receiver<Box<SessionLeftover>>,
    cause: Arc<AtomicU8>,
    /// Tells the link of an incoming session that somebody still works on it.
    _served: Option<Arc<()>>,
}

/// The permits of a session under the limits of its service and its peer. They are made where sessions are let in,
/// which no link knows about.
pub trait HeldPermits: Send {}

/// Permits of a session that nothing limits, for tests of links alone.
#[cfg(test)]
impl HeldPermits for () {}

/// A session that a link carries, with the permits that it holds. Dropping it cuts the session.
#[derive(Debug)]
pub struct PermittedSession<P> {
    pub(super) handle: SessionHandle,
    _permits: P,
}

impl<P: HeldPermits> PermittedSession<P> {
    /// Waits until the session has ended on its link.
    ///
    /// Not an async function: an open session waits here, and each layer would take memory.
    pub fn outcome(&mut self) -> impl Future<Output = Box<SessionLeftover>> {
        self.handle.outcome()
    }

    /// Sets the cause to report if it is dropped before it has ended.
    pub fn set_cause(&self, cause: CutCause) {
        self.handle.set_cause(cause);
    }
}

/// A session that the other gateway has opened. It is either refused, or given its permits and the stream of its
/// backend:
///
/// ```
/// use portcullis::{gateway::session_permits::SessionPermits, link::multiplex::handle::*};
///
/// async fn carry(session: IncomingSession, backend: Box<LocalSide>, permits: SessionPermits) {
///     session.attach(backend, permits).await;
/// }
/// ```
///
/// Without permits nothing carries it:
///
/// ```compile_fail,E0061
/// use portcullis::link::multiplex::handle::*;
///
/// async fn carry(session: IncomingSession, backend: Box<LocalSide>) {
///     session.attach(backend).await;
/// }
/// ```
///
/// ```compile_fail,E0277
/// use portcullis::link::multiplex::handle::*;
///
/// async fn carry(session: IncomingSession, backend: Box<LocalSide>) {
///     session.attach(backend, ()).await;
/// }
/// ```
///
/// And they are held as long as the session lives; nobody takes them out of it:
///
/// ```compile_fail,E0616
/// use portcullis::{gateway::session_permits::SessionPermits, link::multiplex::handle::*};
///
/// fn release(session: PermittedSession<SessionPermits>) -> SessionPermits {
///     session._permits
/// }
/// ```
#[derive(Debug)]
pub struct IncomingSession {
    link: u64,
    number: u32,
    commands: mpsc::Sender<LinkCommand>,
    handle: SessionHandle,
}

/// A link that sessions may be opened on.
#[derive(Debug, Clone)]
pub struct LinkHandle {
    id: u64,
    commands: mpsc::Sender<LinkCommand>,
    /// Set when it takes no more sessions.
    leaves: Arc<AtomicBool>,
}

/// A link's task has ended; the stream that was to be opened is returned.
#[derive(Debug)]
pub struct LinkClosed(pub Box<LocalSide>);

/// Hands a link's task a session that has left another link.
pub(super) fn resume_by(
    commands: &mpsc::Sender<LinkCommand>,
    moved: Box<MovedSession>,
) -> Result<(), Box<MovedSession>> {
    use mpsc::error::TrySendError::{Closed, Full};
    match commands.try_send(LinkCommand::Resume(moved)) {
        Ok(()) => Ok(()),
        Err(Full(LinkCommand::Resume(moved)) | Closed(LinkCommand::Resume(moved))) => Err(moved),
        Err(_) => unreachable!("what comes back is what was sent"),
    }
}

pub(super) fn session_owner() -> (SessionOwner, SessionHandle) {
    let (sender, outcome) = oneshot::channel();
    let cause = Arc::new(AtomicU8::new(CutCause::Other as u8));
    let owner = SessionOwner { answered: None, outcome: sender, cause: cause.clone() };
    (owner, SessionHandle { answered: None, outcome, cause, _served: None })
}

impl SessionOwner {
    /// Why the owner has cut its session.
    pub fn cut_cause(&self) -> CutCause {
        let cause = self.cause.load(Ordering::Acquire);
        CutCause::ALL.into_iter().find(|known| *known as u8 == cause).unwrap_or(CutCause::Other)
    }
}

impl SessionHandle {
    /// The session holds these permits from now on.
    pub fn with_permits<P: HeldPermits>(self, permits: P) -> PermittedSession<P> {
        PermittedSession { handle: self, _permits: permits }
    }

    pub(super) fn holding(self, served: Arc<()>) -> Self {
        Self { _served: Some(served), ..self }
    }

    /// Waits until the other gateway has taken a session that was opened here, or the session has ended.
    pub async fn answered(&mut self) -> OpenAnswer {
        if let Some(answered) = &mut self.answered {
            let is_taken = answered.await.is_ok();
            self.answered = None;
            if !is_taken {
                return OpenAnswer::Over(self.outcome().await);
            }
        }
        OpenAnswer::Taken
    }

    /// Waits until the session has ended on its link.
    pub async fn outcome(&mut self) -> Box<SessionLeftover> {
        (&mut self.outcome).await.unwrap_or_else(|_| Box::new(SessionLeftover::of_lost_link()))
    }

    /// Waits for the outcome, and leaves it here for whoever asks next.
    async fn leave_outcome(&mut self, change: impl FnOnce(&mut SessionLeftover)) {
        let mut leftover = self.outcome().await;
        change(&mut leftover);
        let (sender, outcome) = oneshot::channel();
        // It is received here.
        let _ = sender.send(leftover);
        self.outcome = outcome;
    }

    /// Ends the session with a reset; its stream is cut too.
    pub fn cut(self, cause: CutCause) {
        self.set_cause(cause);
    }

    /// Sets the cause to report if the handle is dropped before the session has ended.
    pub fn set_cause(&self, cause: CutCause) {
        self.cause.store(cause as u8, Ordering::Release);
    }
}

impl IncomingSession {
    pub(super) fn new(
        (link, number): (u64, u32),
        commands: mpsc::Sender<LinkCommand>,
        handle: SessionHandle,
    ) -> Self {
        Self { link, number, commands, handle }
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// The link that it came over, by its number in this process.
    pub fn link(&self) -> u64 {
        self.link
    }

    /// Attaches the backend's stream; the session is carried from now on. If the session is over already, the stream
    /// is part of its outcome, with what it has yet to take.
    pub async fn attach<P: HeldPermits>(mut self, side: Box<LocalSide>, permits: P) -> PermittedSession<P> {
        let (if_over, returned) = oneshot::channel();
        let command = LinkCommand::Attach(Box::new(AttachCommand { number: self.number, side, if_over }));
        let returned = match self.commands.send(command).await {
            Ok(()) => returned.await.ok(),
            Err(mpsc::error::SendError(LinkCommand::Attach(command))) => Some(command.side),
            Err(_) => unreachable!("what comes back is what was sent"),
        };
        if let Some(side) = returned {
            side.counters.enter(SessionPhase::Relaying);
            self.handle.leave_outcome(|leftover| leftover.stream = Some(side.stream)).await;
        }
        self.handle.with_permits(permits)
    }

    /// Waits, before anything is attached, until the other gateway or the link has given the session up. One that
    /// holds bytes of its client is not given up: they are delivered first, as they would be without a link.
    pub async fn given_up(&mut self) {
        let mut has_bytes = false;
        self.handle.leave_outcome(|leftover| has_bytes = leftover.is_owed_delivery()).await;
        if has_bytes {
            std::future::pending().await
        }
    }

    pub async fn refuse(self, refusal: Refusal) {
        // As above; nobody is left to read it.
        let _ = self.commands.send(LinkCommand::Refuse(self.number, refusal)).await;
    }

    /// Ends it before it was carried.
    pub fn cut(self, cause: CutCause) {
        self.handle.cut(cause);
    }
}

impl LinkHandle {
    pub(super) fn new(id: u64, commands: mpsc::Sender<LinkCommand>, leaves: Arc<AtomicBool>) -> Self {
        Self { id, commands, leaves }
    }

    /// The link's number in this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Opens a session, which takes a slot on the link; it is under way when this returns, and not answered yet.
    pub async fn open(
        &self,
        request: OpenRequest,
        side: Box<LocalSide>,
        slot: SessionSlot,
    ) -> Result<SessionHandle, LinkClosed> {
        let (mut owner, mut handle) = session_owner();
        let (sender, answered) = oneshot::channel();
        (owner.answered, handle.answered) = (Some(sender), Some(answered));
        let command = LinkCommand::Open(Box::new(OpenCommand { request, side, slot, owner }));
        match self.commands.send(command).await {
            Ok(()) => Ok(handle),
            Err(mpsc::error::SendError(LinkCommand::Open(command))) => Err(LinkClosed(command.side)),
            Err(_) => unreachable!("what comes back is what was sent"),
        }
    }

    /// Hands it a session that has left another link. It comes back if the link has ended, or is busy.
    pub(super) fn resume(&self, moved: Box<MovedSession>) -> Result<(), Box<MovedSession>> {
        resume_by(&self.commands, moved)
    }

    /// Asks that no more sessions be opened on it; it ends after the last one has ended.
    pub async fn leave(&self, kind: FrameType) {
        // A link that has already ended needs no request.
        let _ = self.commands.send(LinkCommand::Leave(kind)).await;
    }

    /// Whether sessions can be opened on it. This is set before anybody who was rejected there looks for
    /// another link.
    pub fn takes_sessions(&self) -> bool {
        !self.commands.is_closed() && !self.leaves.load(Ordering::Acquire)
    }
}
