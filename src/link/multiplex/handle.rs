//! What the rest of the gateway holds of a link and of a session on it; all it can do is ask.

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

use super::{credit::ReceiveWindow, held::HeldBytes};
use crate::{
    link::{liveness::SILENCE_MAX, load::SessionPlace},
    net::stream::NetStream,
    proto::{
        Refusal,
        multiplex::{
            PeerViolation,
            frame::{CutCause, FrameType},
            open::OpenRequest,
        },
    },
    telemetry::registry::SessionCounters,
};

/// Requests that may wait for a link's task; who asks more waits.
pub const COMMANDS_MAX: usize = 256;

/// What a link's task is asked for.
#[derive(Debug)]
pub(super) enum LinkCommand {
    Open(Box<OpenCommand>),
    Attach(u32, Box<LocalSide>),
    Refuse(u32, Refusal),
    /// No more sessions: `drain` or `retire`.
    Leave(FrameType),
}

#[derive(Debug)]
pub(super) struct OpenCommand {
    pub request: OpenRequest,
    pub side: Box<LocalSide>,
    pub place: SessionPlace,
    pub owner: SessionOwner,
}

/// A client's or backend's stream, as it is handed to a link's task.
#[derive(Debug)]
pub struct LocalSide {
    pub stream: NetStream,
    /// What goes to the other gateway before anything that is read.
    pub unsent: Vec<u8>,
    pub counters: Arc<SessionCounters>,
    /// No byte either way for so long ends the session.
    pub idle: Option<Duration>,
    /// What a failure of the stream is to the other gateway.
    pub cause_of: fn(&NetStream, &io::Error) -> CutCause,
}

/// What a session leaves when it is over on its link.
#[derive(Debug)]
pub struct SessionRemains {
    pub how: SessionFate,
    /// The local stream; none where it was never attached.
    pub stream: Option<NetStream>,
    /// What that stream has yet to take.
    pub rest: Undelivered,
    /// Of one that no backend has seen: what has to be sent again.
    pub again: Vec<u8>,
    /// Nothing of it was sent but `open`: it may be opened elsewhere.
    pub is_unsent: bool,
}

impl SessionRemains {
    /// The link's task has ended and told nothing.
    fn of_lost_link() -> Self {
        Self {
            how: SessionFate::LinkLost(LinkLoss::Cut),
            stream: None,
            rest: Undelivered::default(),
            again: Vec::new(),
            is_unsent: false,
        }
    }
}

/// How a session ended on its link.
#[derive(Debug)]
pub enum SessionFate {
    /// Both directions have ended.
    Clean,
    /// The local stream failed, and the other gateway was told.
    StreamFailed(io::Error),
    /// Refused; no byte reached a backend.
    Refused(Refusal),
    /// The link ended before anything of the session was sent.
    Unsent,
    Reset(CutCause),
    LinkLost(LinkLoss),
    /// No byte either way for the service's `idle`.
    Idle,
    /// The other gateway has not said whether it takes the session.
    Unanswered,
}

/// Bytes that were received and not taken, with their place in the link's budget.
#[derive(Debug, Default)]
pub struct Undelivered {
    pub bytes: HeldBytes,
    /// The other end has finished: behind the bytes the stream is to end.
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
    /// The kernel has heard nothing of it for too long.
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
    /// For how long its other end may have been gone by now: what ends a link otherwise than by silence comes at
    /// once.
    pub fn unnoticed(&self) -> Duration {
        match self {
            Self::Closed | Self::Cut | Self::Broken(_) | Self::Socket(_) => Duration::ZERO,
            Self::Silent | Self::Unreachable(_) => SILENCE_MAX,
        }
    }
}

/// An error of a socket, which all who ask for it get.
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

/// A session's owner, as the link's task sees it: told once how it ended; gone, it cuts the session.
#[derive(Debug)]
pub(super) struct SessionOwner {
    pub outcome: oneshot::Sender<Box<SessionRemains>>,
    pub cause: Arc<AtomicU8>,
}

/// The owner's end of a session on a link. Dropped, it cuts the session.
#[derive(Debug)]
pub struct SessionHandle {
    outcome: oneshot::Receiver<Box<SessionRemains>>,
    cause: Arc<AtomicU8>,
    /// Shows the link of an incoming session that somebody is at work for it.
    _served: Option<Arc<()>>,
}

/// A session that the other gateway has opened. It is refused, or gets the stream of its backend.
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
    /// It takes no more sessions.
    leaves: Arc<AtomicBool>,
}

/// A link's task has ended; what was asked for comes back.
#[derive(Debug)]
pub struct LinkGone(pub Box<LocalSide>);

pub(super) fn session_owner() -> (SessionOwner, SessionHandle) {
    let (tell, outcome) = oneshot::channel();
    let cause = Arc::new(AtomicU8::new(CutCause::Other as u8));
    (SessionOwner { outcome: tell, cause: cause.clone() }, SessionHandle { outcome, cause, _served: None })
}

impl SessionOwner {
    /// Why the owner has cut its session.
    pub fn cut_cause(&self) -> CutCause {
        let cause = self.cause.load(Ordering::Acquire);
        CutCause::ALL.into_iter().find(|known| *known as u8 == cause).unwrap_or(CutCause::Other)
    }
}

impl SessionHandle {
    pub(super) fn holding(self, served: Arc<()>) -> Self {
        Self { _served: Some(served), ..self }
    }

    /// Waits until the session is over on its link.
    pub async fn outcome(&mut self) -> Box<SessionRemains> {
        (&mut self.outcome).await.unwrap_or_else(|_| Box::new(SessionRemains::of_lost_link()))
    }

    /// Ends the session with a reset; its stream is cut too.
    pub fn cut(self, cause: CutCause) {
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

    /// The link that it has come over, by its number in this process.
    pub fn link(&self) -> u64 {
        self.link
    }

    /// It is carried from now on.
    pub async fn attach(self, side: Box<LocalSide>) -> SessionHandle {
        // Where the link has ended, the outcome says so.
        let _ = self.commands.send(LinkCommand::Attach(self.number, side)).await;
        self.handle
    }

    /// Waits until it is over before it is attached: the other gateway, or the link, has given it up.
    pub async fn given_up(&mut self) -> SessionFate {
        self.handle.outcome().await.how
    }

    pub async fn refuse(self, refusal: Refusal) {
        // The same; nobody is left to hear it.
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

    /// Opens a session, which takes a place on the link; it is under way when this returns, and not answered yet.
    pub async fn open(
        &self,
        request: OpenRequest,
        side: Box<LocalSide>,
        place: SessionPlace,
    ) -> Result<SessionHandle, LinkGone> {
        let (owner, handle) = session_owner();
        let command = LinkCommand::Open(Box::new(OpenCommand { request, side, place, owner }));
        match self.commands.send(command).await {
            Ok(()) => Ok(handle),
            Err(mpsc::error::SendError(LinkCommand::Open(command))) => Err(LinkGone(command.side)),
            Err(_) => unreachable!("what comes back is what was sent"),
        }
    }

    /// No more sessions are opened on it; it ends when the last has ended.
    pub async fn leave(&self, kind: FrameType) {
        // A link that has ended has left.
        let _ = self.commands.send(LinkCommand::Leave(kind)).await;
    }

    /// Whether sessions can be opened on it. Told before whoever was turned away there looks for another.
    pub fn takes_sessions(&self) -> bool {
        !self.commands.is_closed() && !self.leaves.load(Ordering::Acquire)
    }
}
