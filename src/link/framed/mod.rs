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

use super::{Peer, conduct::Conduct, liveness::Liveness, seat::Seat, trouble::Trouble};
use crate::{
    net::{stream::Stream, tcp},
    profile::ServiceName,
    proto::link::{
        Violation,
        decoder::Decoder,
        frame::{self, Cause, DATA_MAX, Frame, Kind, Reset, TOKEN},
        open::Open,
        state::{End, Machine, State},
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
pub trait Home: fmt::Debug + Send + Sync {
    fn returned(self: Arc<Self>, link: Box<Link>);
}

/// What a link without a session says.
#[derive(Debug)]
pub enum Event {
    Open(Open),
    /// No more sessions, please.
    Leaving(Kind),
    /// It closed in good order.
    Closed,
}

#[derive(Debug)]
pub struct Link {
    stream: Stream,
    peer: Peer,
    machine: Machine,
    decoder: Decoder,
    /// Frames, or the rest of one, that have yet to be written.
    out: Vec<u8>,
    unflushed: bool,
    /// Client bytes sent before the answer.
    copy: Vec<u8>,
    /// The writer that waits for the answer.
    blocked: Option<Waker>,
    /// The largest body of `data` that the other end takes.
    data_max: usize,
    seat: Option<Seat>,
    /// Of its peer, on an opener's end.
    conduct: Option<Arc<Conduct>>,
    home: Option<Weak<dyn Home>>,
    /// The same while it carries: its home outlives its session.
    away: Option<Arc<dyn Home>>,
    /// Whether bytes of a session that is not answered may have gone out.
    has_tried: bool,
    /// Cancelled when what was agreed in its greeting does not hold any more.
    retired: CancellationToken,
    /// What its far side may be asked for; empty on a server's end.
    serves: Arc<HashSet<ServiceName>>,
    liveness: Liveness,
    /// When a frame that has begun on an idle link has to be whole.
    whole_by: Option<Instant>,
    /// A `pong` that the socket did not take at once.
    owes_pong: bool,
    /// Bytes of the session that this end has sent.
    sent: usize,
    /// Waits for this answer, which shows that the last session has been read to its end.
    settling: Option<[u8; TOKEN]>,
    leaving: Option<Kind>,
    has_told_leave: bool,
    late_bytes: usize,
    stray_opens: u8,
    dies_at: Instant,
}

enum Step {
    /// Bytes of the session were read.
    Data,
    Frame(Frame),
    Closed,
}

impl Link {
    pub fn new(mut stream: Stream, peer: Peer, end: End) -> Self {
        stream.take_whole_writes();
        if let Some(socket) = stream.tcp() {
            // Pings tell whether it is alive. Fails only on a socket that is already gone.
            let _ = tcp::link_carries(socket);
        }
        Self {
            stream,
            peer,
            machine: Machine::new(end),
            decoder: Decoder::default(),
            out: Vec::new(),
            unflushed: false,
            copy: Vec::new(),
            blocked: None,
            data_max: DATA_MAX,
            seat: None,
            conduct: None,
            home: None,
            away: None,
            has_tried: false,
            retired: CancellationToken::new(),
            serves: Arc::default(),
            liveness: Liveness::new(Instant::now()),
            whole_by: None,
            owes_pong: false,
            sent: 0,
            settling: None,
            leaving: None,
            has_told_leave: false,
            late_bytes: 0,
            stray_opens: 0,
            dies_at: Instant::now() + AGE.mul_f64(0.9 + 0.2 * fastrand::f64()),
        }
    }

    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    pub fn state(&self) -> State {
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
    pub fn sit(&mut self, seat: Seat) {
        self.seat = Some(seat.of(&self.stream));
    }

    pub fn seat(&self) -> Option<&Seat> {
        self.seat.as_ref()
    }

    /// Where it is noted whether its peer answers.
    pub fn judged_by(&mut self, conduct: Arc<Conduct>) {
        self.conduct = Some(conduct);
    }

    /// Its session was not answered in time.
    pub fn left_unanswered(&self) {
        self.conduct.iter().for_each(|conduct| conduct.left_unanswered());
    }

    /// Where it goes after each session.
    pub fn live_at(&mut self, home: Weak<dyn Home>) {
        self.home = Some(home);
    }

    /// What was agreed in its greeting, and what tells that it does not hold any more.
    pub fn agreed(&mut self, serves: impl IntoIterator<Item = ServiceName>, retired: CancellationToken) {
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
    pub fn go_home(mut self: Box<Self>) {
        self.copy = Vec::new();
        if self.machine.end() == End::Opener && self.sent > TAIL_MAX && self.state() == State::Ready {
            self.settling = Some(self.liveness.token());
        } else if let Some(seat) = &mut self.seat {
            seat.rest();
        }
        let home = self.away.take().or_else(|| self.home.as_ref().and_then(Weak::upgrade));
        if let Some(home) = home {
            home.returned(self);
        }
    }

    /// Whether its last session's bytes may still wait for a slow backend, and what follows behind them.
    pub fn is_settling(&self) -> bool {
        self.settling.is_some()
    }

    /// Asks whether the last session has been read to its end.
    pub fn ask_to_settle(&mut self) -> io::Result<()> {
        match self.settling {
            Some(token) => self.stage(Kind::Ping, &token),
            None => Ok(()),
        }
    }

    /// The last session has been read to its end.
    pub fn settled(&mut self) {
        if let Some(seat) = &mut self.seat {
            seat.rest();
        }
    }

    /// Whether the other end has asked for no more sessions.
    pub fn leaving(&self) -> Option<Kind> {
        self.leaving
    }

    /// Whether it has carried enough, or long enough.
    pub fn is_worn(&self) -> bool {
        self.retired.is_cancelled()
            || self.machine.session() >= SESSIONS_MAX
            || Instant::now() >= self.dies_at
    }

    /// When it is worn for its age.
    pub fn dies_at(&self) -> Instant {
        self.dies_at
    }

    /// The stream alone, to bid it farewell, and its seat, which it keeps until then.
    pub fn into_parts(self) -> (Stream, Option<Seat>) {
        (self.stream, self.seat)
    }

    /// Puts a frame in line, to be written with what comes next or by [`Link::poll_flush`].
    pub fn stage(&mut self, kind: Kind, body: &[u8]) -> io::Result<()> {
        self.machine.send(kind).map_err(Trouble::Broken)?;
        frame::push(&mut self.out, kind, body);
        if kind == Kind::Opened {
            self.stray_opens = 0;
            self.carried();
        }
        self.unflushed = true;
        Ok(())
    }

    /// Asks for no more sessions, once.
    pub fn stage_leave(&mut self, kind: Kind) -> io::Result<()> {
        if let Some(seat) = &mut self.seat {
            seat.leave();
        }
        match std::mem::replace(&mut self.has_told_leave, true) {
            true => Ok(()),
            false => self.stage(kind, &[]),
        }
    }

    /// Opens a session; `again` is what its client has sent already, on a link that refused it.
    pub fn open(&mut self, open: &Open, again: Vec<u8>) -> io::Result<()> {
        self.stage(Kind::Open, &open.body())?;
        if let Some(seat) = &mut self.seat {
            seat.carry();
        }
        for piece in again.chunks(self.data_max) {
            self.stage(Kind::Data, piece)?;
        }
        self.has_tried = !again.is_empty();
        self.sent = again.len();
        self.copy = again;
        self.away = self.home.as_ref().and_then(Weak::upgrade);
        Ok(())
    }

    /// Whether a session that is not answered has sent more than `open`.
    pub fn has_sent(&self) -> bool {
        self.has_tried || self.state() == State::OpeningEnded
    }

    /// The client's bytes that a refused session has sent.
    pub fn take_copy(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.copy)
    }

    /// Counts a session that was refused as unknown or not allowed; too many end the link.
    pub fn strayed(&mut self) -> io::Result<()> {
        self.stray_opens += 1;
        match self.stray_opens > STRAY_OPENS_MAX {
            true => Err(self.broken(Violation::Flood("opens of services it may not use"))),
            false => Ok(()),
        }
    }

    /// A session was answered: whoever keeps such links has seen that the way is good.
    fn carried(&self) {
        if let Some(seat) = &self.seat {
            seat.counts().carried();
        }
    }

    /// Its other end has broken the protocol: whoever dials it hears of that, wherever it is noticed.
    fn broken(&self, how: Violation) -> io::Error {
        let trouble = Trouble::Broken(how);
        if let Some(seat) = &self.seat {
            seat.counts().broken(trouble.to_string());
        }
        trouble.into()
    }

    /// Cuts the session: tells the other end why, if that can be said at once, and ends the link.
    pub async fn cut(mut self, cause: Cause) {
        if self.state().is_free() || self.state() == State::Closed {
            return;
        }
        let reset = Reset { session: self.machine.session(), cause };
        let told = self.stage(Kind::Reset, &reset.body()).is_ok()
            && matches!(self.poll_flush(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())));
        if told {
            // Closed while bytes are unread here, a socket is reset, and what it has to send is lost.
            if let Some(socket) = self.stream.tcp() {
                tcp::acknowledged(socket, TOLD).await;
            }
            // Else dropped with linger 0 armed: the other end hears a reset all the same.
            self.stream.let_close_cleanly();
        }
    }
}
