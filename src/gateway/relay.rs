//! Copies a session's bytes both ways, unchanged and in order.
//!
//! Both directions live in one task. A chunk is read into a buffer of the worker thread's own and
//! written on at once; only what the other side does not take is kept, and while it is, nothing
//! more is read from its sender. So an idle session holds no buffer, and a slow reader slows its
//! sender. A half-close is passed on. No lock, clock read, allocation or log line for each chunk.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{io::ReadBuf, time::Instant};

use super::failing::deliver;
use crate::{
    link::{
        leg::Leg,
        liveness::{HEARTBEAT, Reading},
    },
    net::tcp::{self, Delivered, Delivery},
    proto::link::frame::{DATA_MAX, HEADER},
    telemetry::{registry::Meter, snapshot::SessionPhase},
};

/// Bytes moved at once: with a frame's header they fill eight TLS records to the last byte.
const CHUNK_BYTES: usize = DATA_MAX - HEADER;
/// How often a session's sockets are looked at while something is on the way.
const LOOK: Duration = Duration::from_secs(2);
/// The longest that `opened` waits for the first bytes from the backend, and how many from the
/// client end the wait: it keeps a copy of them until then.
const GRANT_WITHIN: Duration = Duration::from_millis(5);
const GRANT_BYTES: u64 = 16 * 1024;
/// A look that comes so late shows that this process did not run.
const STALLED: Duration = Duration::from_secs(1);
/// The longest between two looks, where there is nothing that one would see.
const REST: Duration = Duration::from_secs(30);
/// The other gateway answers `open` in this time: its backend's deadline, and the way.
pub const ANSWER: Duration = Duration::from_secs(5);

thread_local! {
    /// The worker's buffer; borrowed within one poll and never across one.
    static CHUNK: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK_BYTES].into_boxed_slice());
}

/// The side of a session that something is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Where the session came from.
    Near,
    /// Where it goes.
    Far,
}

/// How a relay ended.
#[derive(Debug)]
pub enum Relayed {
    /// Both directions have ended cleanly, and both ends were told.
    Clean,
    /// One side failed, and what it had sent has been delivered; the other has to be told by a reset.
    Failed(Side, io::Error),
    /// No byte either way for the service's `idle`.
    Idle,
    /// The other gateway has not said whether it takes the session.
    Unanswered,
}

/// A session relays once the other gateway has taken it, and drains once one side has finished.
fn enter_phase(meter: &Meter, far: &Leg, steps: [Step; 2]) {
    if far.is_opening() {
        return;
    }
    meter.enter(match steps.contains(&Step::Ended) {
        true => SessionPhase::Draining,
        false => SessionPhase::Relaying,
    });
}

/// Which sides of a session are links; those are watched for silence, by [`Delivery`] or by pings.
#[derive(Debug, Clone, Copy)]
pub struct Links {
    pub near: bool,
    pub far: bool,
}

/// Relays until both directions have ended, a side fails, or nothing moves for `idle`. `first` goes
/// up before anything else. A link whose part is over goes home at once, though what it brought may
/// have yet to reach a slow receiver.
pub async fn relay(
    near: &mut Leg,
    far: &mut Leg,
    first: &mut Vec<u8>,
    links: Links,
    meter: &Meter,
    idle: Option<Duration>,
) -> Relayed {
    let mut up = Direction::behind(std::mem::take(first), far.holds());
    let mut down = Direction::default();
    // `opened` goes out with the first bytes from the backend, if they come soon.
    let mut granting = near.holds();
    let mut watch = Watch::new(meter.bytes(), idle, near.is_framed() || far.is_framed());
    let mut answer = AnswerBy::new(Instant::now());
    let mut deliveries = [Delivery::default(), Delivery::default()];
    let first_look = match granting {
        true => Instant::now() + GRANT_WITHIN,
        false => next_look(&watch, [near, far], &answer),
    };
    let look = tokio::time::sleep_until(first_look);
    let mut is_new = true;
    tokio::pin!(look);
    let relayed = poll_fn(|cx| {
        if granting && meter.bytes() >= GRANT_BYTES {
            granting = false;
            down.unflushed = true;
        }
        // What a link says goes first: it may name the reason of a failure that a write would meet.
        let link_first = [far.is_framed(), !far.is_framed()];
        for is_down in link_first {
            let moved = match is_down {
                true => {
                    down.is_last = up.step == Step::Ended;
                    down.poll(cx, far, near, |bytes| meter.add_down(bytes)).map_err(turned)
                }
                false => {
                    up.is_last = down.step == Step::Ended;
                    up.poll(cx, near, far, |bytes| meter.add_up(bytes))
                }
            };
            if let Poll::Ready(Err((side, error))) = moved {
                return Poll::Ready(Relayed::Failed(side, error));
            }
        }
        for (side, leg, has_ended) in
            [(Side::Near, &mut *near, up.has_ended()), (Side::Far, &mut *far, down.has_ended())]
        {
            if has_ended && let Poll::Ready(error) = leg.poll_control(cx) {
                return Poll::Ready(Relayed::Failed(side, error));
            }
            leg.release_if_free(cx);
        }
        match (up.step, down.step) {
            // A link that still holds something of ours goes home first: dropped, it would be reset.
            (Step::Ended, Step::Ended) if near.is_framed() || far.is_framed() => {}
            (Step::Ended, Step::Ended) => {
                meter.enter(SessionPhase::Draining);
                return Poll::Ready(Relayed::Clean);
            }
            _ => enter_phase(meter, far, [up.step, down.step]),
        }
        // A side that is not read any more shows by no event that it has gone.
        let held = up.holds() || down.holds() || up.has_ended() || down.has_ended();
        if watch.wakes(meter.bytes(), held) {
            look.as_mut().reset(next_look(&watch, [near, far], &answer));
        }
        while watch.awake && look.as_mut().poll(cx).is_ready() {
            if std::mem::take(&mut granting) {
                look.as_mut().reset(next_look(&watch, [near, far], &answer));
                down.unflushed = true;
                if let Poll::Ready(Err((_, error))) = down.poll_flush(cx, near) {
                    return Poll::Ready(Relayed::Failed(Side::Near, error));
                }
                continue;
            }
            if std::mem::take(&mut is_new) && !links.far {
                far.tcp().into_iter().for_each(tcp::keep_edge_alive);
            }
            if far.is_opening() && answer.is_over(Instant::now()) {
                return Poll::Ready(Relayed::Unanswered);
            }
            let sides = [
                (Side::Near, &mut *near, links.near, up.reading()),
                (Side::Far, &mut *far, links.far, down.reading()),
            ];
            let mut owed = held;
            for ((side, leg, is_link, reading), delivery) in sides.into_iter().zip(&mut deliveries) {
                let looked = match leg.is_framed() {
                    true => leg.check_alive(reading, cx).map(|()| Delivered::All),
                    false => trouble(leg, is_link.then_some(delivery)),
                };
                match looked {
                    Ok(delivered) => owed |= delivered != Delivered::All,
                    Err(error) => return Poll::Ready(Relayed::Failed(side, error)),
                }
            }
            if watch.look(meter.bytes(), owed) {
                return Poll::Ready(Relayed::Idle);
            }
            look.as_mut().reset(next_look(&watch, [near, far], &answer));
        }
        Poll::Pending
    })
    .await;
    let relayed = match relayed {
        Relayed::Failed(side, error) => {
            // It may be that all of the session came at once, its failure with it. What was refused, or
            // was never answered, has brought nothing.
            if meter.down() > 0 || down.holds() {
                enter_phase(meter, far, [up.step, down.step]);
            }
            let (direction, legs) = match side {
                Side::Near => (&mut up, (near, far)),
                Side::Far => (&mut down, (far, near)),
            };
            // Boxed: an open session holds no memory for how it may fail.
            Relayed::Failed(side, Box::pin(deliver(side, direction, legs, error, meter)).await)
        }
        ended => ended,
    };
    *first = up.kept.split_off(up.taken);
    relayed
}

/// The way down is the way up seen from the other side.
fn turned((side, error): Failure) -> Failure {
    (side.other(), error)
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Near => Self::Far,
            Self::Far => Self::Near,
        }
    }
}

/// What a side's socket knows that reading it would not show now: an error, while we wait to write
/// to the other side and do not read; a silent SOCKS5 link, long before the kernel gives up on it.
fn trouble(leg: &Leg, link: Option<&mut Delivery>) -> io::Result<Delivered> {
    let Some(socket) = leg.tcp() else { return Ok(Delivered::All) };
    if let Ok(Some(error)) = socket.take_error() {
        return Err(error);
    }
    match link.map_or(Delivered::All, |delivery| delivery.look(socket)) {
        Delivered::Never => Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer any more")),
        delivered => Ok(delivered),
    }
}

/// When the other gateway has to have answered `open`.
struct AnswerBy {
    at: Instant,
    is_last: bool,
}

impl AnswerBy {
    fn new(now: Instant) -> Self {
        Self { at: now + ANSWER, is_last: false }
    }

    /// Whether it is too late. Where this process was stopped meanwhile, the answer may have come and
    /// not been read yet: it gets a moment more, once.
    fn is_over(&mut self, now: Instant) -> bool {
        if now >= self.at + STALLED && !std::mem::replace(&mut self.is_last, true) {
            self.at = now + STALLED;
        }
        now >= self.at
    }
}

/// When a session's sockets are looked at next: each thing that has its time, at its time.
fn next_look(watch: &Watch, legs: [&Leg; 2], answer: &AnswerBy) -> Instant {
    let answer_by = legs[1].is_opening().then_some(answer.at);
    let times = legs.map(Leg::due).into_iter().chain([answer_by]).flatten();
    times.fold(watch.next(Instant::now()), Instant::min)
}

/// When to look at a session's sockets. While nothing moves and nothing is on the way there is
/// nothing to see that the kernel's keep-alive does not report, so an idle session sleeps, unless
/// it has a link that wants to be asked whether it is alive.
struct Watch {
    idle: Option<Duration>,
    has_beat: bool,
    bytes: u64,
    /// Since when no byte has moved.
    still_since: Instant,
    busy: bool,
    awake: bool,
}

impl Watch {
    fn new(bytes: u64, idle: Option<Duration>, has_beat: bool) -> Self {
        Self { idle, has_beat, bytes, still_since: Instant::now(), busy: true, awake: true }
    }

    /// When the next look is due, but for what links of our own and an answer want.
    fn next(&self, now: Instant) -> Instant {
        let busy = if self.has_beat { HEARTBEAT } else { LOOK };
        let pause = if self.busy { busy } else { REST };
        let at = match self.idle {
            Some(idle) => (now + pause.min(idle / 4)).min(self.still_since + idle),
            None => now + pause,
        };
        at.max(now + Duration::from_millis(1))
    }

    /// Whether a sleeping watch has reason to wake.
    fn wakes(&mut self, bytes: u64, held: bool) -> bool {
        let wakes = !(self.busy && self.awake) && (held || bytes != self.bytes);
        self.busy |= wakes;
        self.awake |= wakes;
        wakes
    }

    /// Notes what a look has seen; true when nothing has moved for the service's `idle`.
    fn look(&mut self, bytes: u64, owed: bool) -> bool {
        let moved = self.bytes != bytes;
        if moved {
            self.bytes = bytes;
            self.still_since = Instant::now();
        }
        self.busy = moved || owed;
        self.awake = self.busy || self.has_beat || self.idle.is_some();
        self.idle.is_some_and(|idle| self.still_since.elapsed() >= idle)
    }
}

/// ```text
/// reading ─► ending ─► ended
///        └─► lost
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Step {
    #[default]
    Reading,
    /// The sender has finished; the receiver has yet to be told.
    Ending,
    Ended,
    /// The sender has failed: nothing more can be read.
    Lost,
}

/// One direction of a session.
#[derive(Debug, Default)]
pub(super) struct Direction {
    pub(super) step: Step,
    /// What the receiver has not taken yet, and how much of it it has.
    kept: Vec<u8>,
    taken: usize,
    unflushed: bool,
    /// Whether the other direction has ended.
    is_last: bool,
}

pub(super) type Failure = (Side, io::Error);

impl Direction {
    /// One that begins with these bytes, behind what its receiver may hold already.
    pub(super) fn behind(kept: Vec<u8>, unflushed: bool) -> Self {
        Self { kept, unflushed, ..Self::default() }
    }

    /// Whether bytes wait here for their receiver.
    fn holds(&self) -> bool {
        !self.kept.is_empty() || self.unflushed
    }

    /// Whether its sender has finished.
    pub(super) fn has_ended(&self) -> bool {
        self.step != Step::Reading
    }

    /// Whether it takes what its sender sends.
    fn reading(&self) -> Reading {
        if self.kept.is_empty() { Reading::Yes } else { Reading::Stopped }
    }

    /// Moves what can be moved. `Near` in a failure is the sender, `Far` the receiver.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Leg,
        to: &mut Leg,
        moved: impl Fn(usize),
    ) -> Poll<Result<(), Failure>> {
        loop {
            ready!(self.poll_kept(cx, to, &moved))?;
            match self.step {
                Step::Ended | Step::Lost => return Poll::Ready(Ok(())),
                // Closing it tells the same, once both have ended.
                Step::Ending if self.is_last && to.ends_when_closed() => self.step = Step::Ended,
                Step::Ending => {
                    ready!(to.poll_shutdown(cx)).map_err(|error| (Side::Far, error))?;
                    self.step = Step::Ended;
                }
                Step::Reading => {
                    if self.poll_chunk(cx, from, to, &moved)?.is_pending() {
                        return self.poll_flush(cx, to);
                    }
                }
            }
        }
    }

    /// Writes what was kept, and lets the memory go.
    pub(super) fn poll_kept(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Leg,
        moved: &impl Fn(usize),
    ) -> Poll<Result<(), Failure>> {
        while self.taken < self.kept.len() {
            let written = to.poll_write(cx, &self.kept[self.taken..]);
            let count = ready!(written).map_err(|error| (Side::Far, error))?;
            self.taken += count;
            self.unflushed = true;
            moved(count);
        }
        if !self.kept.is_empty() {
            self.kept = Vec::new();
            self.taken = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads one chunk and writes it on; `Pending` while there is nothing to read.
    pub(super) fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Leg,
        to: &mut Leg,
        moved: &impl Fn(usize),
    ) -> Result<Poll<()>, Failure> {
        CHUNK.with_borrow_mut(|chunk| {
            let mut buf = ReadBuf::new(chunk);
            let filled = match fill(cx, from, &mut buf) {
                Fill::Nothing => return Ok(Poll::Pending),
                Fill::Failed(error) => {
                    self.kept = buf.filled().to_vec();
                    self.step = Step::Lost;
                    return Err((Side::Near, error));
                }
                Fill::Some => buf.filled(),
                Fill::End => {
                    self.step = Step::Ending;
                    buf.filled()
                }
            };
            let (mut taken, mut failed) = (0, None);
            while taken < filled.len() {
                match to.poll_write(cx, &filled[taken..]) {
                    Poll::Ready(Ok(count)) => taken += count,
                    stopped => {
                        // After a failure another link may be tried, with these bytes first.
                        self.kept = filled[taken..].to_vec();
                        failed = if let Poll::Ready(Err(error)) = stopped { Some(error) } else { None };
                        break;
                    }
                }
            }
            if taken > 0 {
                moved(taken);
                self.unflushed = true;
            }
            failed.map_or(Ok(Poll::Ready(())), |error| Err((Side::Far, error)))
        })
    }

    /// Nothing more to read now: what TLS holds back goes out.
    fn poll_flush(&mut self, cx: &mut Context<'_>, to: &mut Leg) -> Poll<Result<(), Failure>> {
        if self.unflushed {
            ready!(to.poll_flush(cx)).map_err(|error| (Side::Far, error))?;
            self.unflushed = false;
        }
        Poll::Pending
    }
}

enum Fill {
    /// Not a byte, for now.
    Nothing,
    Some,
    /// The sender has finished, perhaps after some bytes.
    End,
    Failed(io::Error),
}

/// Reads until the buffer is full or there is no more for now: TLS yields a record at a time, and
/// several are written on in one call.
fn fill(cx: &mut Context<'_>, from: &mut Leg, buf: &mut ReadBuf<'_>) -> Fill {
    loop {
        let before = buf.filled().len();
        match from.poll_read(cx, buf) {
            Poll::Pending if before == 0 => return Fill::Nothing,
            Poll::Pending => return Fill::Some,
            Poll::Ready(Err(error)) => {
                from.read_rest(buf);
                return Fill::Failed(error);
            }
            Poll::Ready(Ok(())) if buf.filled().len() == before => return Fill::End,
            Poll::Ready(Ok(())) if buf.remaining() == 0 => return Fill::Some,
            Poll::Ready(Ok(())) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{
        link::{Peer, framed::Link},
        net::{echo::Echo, stream::Stream},
        profile::ServiceName,
        proto::link::{
            frame::{self, Kind},
            hello::{Grant, Offer},
            open::Open,
            state::End,
        },
    };

    const EDGES: Links = Links { near: false, far: false };

    async fn pipe() -> (Leg, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("it is bound");
        let (outer, inner) = tokio::join!(TcpStream::connect(at), listener.accept());
        (Leg::Stream(Stream::Tcp(inner.expect("it connects").0)), outer.expect("it connects"))
    }

    /// Relays between two pipes while `talk` plays both ends.
    async fn relayed(talk: impl AsyncFnOnce(&mut TcpStream, &mut TcpStream)) -> (Relayed, Meter) {
        let ((mut near, mut client), (mut far, mut backend)) = (pipe().await, pipe().await);
        let meter = Meter::default();
        let relaying = async {
            let end = relay(&mut near, &mut far, &mut Vec::new(), EDGES, &meter, None).await;
            near.let_close_cleanly();
            far.let_close_cleanly();
            drop((near, far));
            end
        };
        let (end, ()) = tokio::join!(relaying, talk(&mut client, &mut backend));
        (end, meter)
    }

    async fn all(stream: &mut TcpStream) -> Vec<u8> {
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.expect("a clean end");
        heard
    }

    #[tokio::test]
    async fn either_side_may_finish_first() {
        for client_first in [true, false] {
            let (end, meter) = relayed(async |client, backend| {
                let (first, last) = if client_first { (client, backend) } else { (backend, client) };
                first.write_all(b"one").await.expect("it is taken");
                first.shutdown().await.expect("it ends");
                assert_eq!(all(last).await, b"one");
                last.write_all(b"other").await.expect("it is taken");
                last.shutdown().await.expect("it ends");
                assert_eq!(all(first).await, b"other");
            })
            .await;
            assert!(matches!(end, Relayed::Clean), "{end:?}");
            assert_eq!((meter.bytes(), meter.phase()), (8, SessionPhase::Draining));
        }
    }

    #[tokio::test]
    async fn what_a_slow_reader_leaves_is_kept_in_order() {
        let sent: Vec<u8> = (0..12_000_000_u32).map(|at| (at ^ (at >> 11)) as u8).collect();
        let (end, meter) = relayed(async |client, backend| {
            let writing = async {
                client.write_all(&sent).await.expect("it is taken");
                client.shutdown().await.expect("it ends");
            };
            let reading = async {
                let mut heard = Vec::new();
                // Small reads, so that the receive window shuts again and again.
                while backend.take(3_000).read_to_end(&mut heard).await.expect("bytes") > 0 {}
                backend.shutdown().await.expect("it ends");
                heard
            };
            let ((), heard) = tokio::join!(writing, reading);
            assert!(heard == sent, "{} bytes", heard.len());
        })
        .await;
        assert!(matches!(end, Relayed::Clean), "{end:?}");
        assert_eq!(meter.bytes(), sent.len() as u64);
    }

    #[tokio::test(start_paused = true)]
    async fn an_hour_of_silence_ends_at_the_idle_limit() {
        let ((mut near, _client), mut far) = (pipe().await, Leg::Stream(Stream::Echo(Echo::default())));
        let (meter, idle) = (Meter::default(), Duration::from_secs(3600));
        let began = tokio::time::Instant::now();
        let end = relay(&mut near, &mut far, &mut Vec::new(), EDGES, &meter, Some(idle)).await;
        assert!(matches!(end, Relayed::Idle), "{end:?}");
        let took = began.elapsed();
        assert!(took >= idle && took <= idle + 2 * LOOK, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_sleeps_while_nothing_is_on_the_way() {
        let mut watch = Watch::new(0, None, false);
        assert!(!watch.look(5, false) && watch.awake, "bytes have moved");
        assert!(!watch.look(5, true) && watch.awake, "some are not acknowledged");
        assert!(!watch.look(5, false) && !watch.awake, "nothing is on the way");
        assert!(!watch.wakes(5, false) && watch.wakes(6, false) && watch.awake);
    }

    #[tokio::test(start_paused = true)]
    async fn movement_starts_the_idle_time_anew() {
        let mut watch = Watch::new(0, Some(Duration::from_secs(3)), false);
        let mut ended = Vec::new();
        for bytes in [0, 0, 5, 5, 5, 5] {
            tokio::time::advance(Duration::from_secs(1)).await;
            ended.push(watch.look(bytes, false));
        }
        assert_eq!(ended, [false, false, false, false, false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_may_be_silent_behind_its_end_and_not_leave() {
        let ((mut near, mut client), (mut far, mut backend)) = (pipe().await, pipe().await);
        let (meter, hour, mut first) = (Meter::default(), Duration::from_secs(3600), Vec::new());
        let relaying = relay(&mut near, &mut far, &mut first, EDGES, &meter, None);
        let talking = async {
            client.shutdown().await.expect("it ends");
            assert_eq!(all(&mut backend).await, b"");
            tokio::time::sleep(hour).await;
            backend.write_all(b"late").await.expect("the session is open");
            client.read_exact(&mut [0; 4]).await.expect("bytes");
            tokio::time::sleep(hour).await;
            socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("it is open");
            drop(client);
            Instant::now()
        };
        let (relayed, left) = tokio::join!(relaying, talking);
        assert!(matches!(relayed, Relayed::Failed(Side::Near, _)), "{relayed:?}");
        assert!(left.elapsed() <= 5 * LOOK, "{:?}", left.elapsed());
    }

    /// An opener's link to a server that the test plays, with a session under way that has no answer,
    /// and a second handle of its socket.
    async fn opening(before: usize) -> (Leg, TcpStream, std::net::TcpStream) {
        let (Leg::Stream(stream), mut server) = pipe().await else { unreachable!() };
        let handle = socket2::SockRef::from(stream.tcp().expect("it is one")).try_clone().expect("a handle");
        let peer = Peer { name: None, address: "peer".into() };
        let mut link = Box::new(Link::new(stream, peer, End::Opener));
        let offer = Offer { services: Vec::new(), target: 1, maximum: 1 };
        let mut said = Vec::new();
        frame::push(&mut said, Kind::Hello, &offer.body());
        server.write_all(&said).await.expect("it is taken");
        poll_fn(|cx| link.poll_greeting(cx)).await.expect("a hello");
        let grant = Grant { services: Vec::new(), links: 1, data: DATA_MAX };
        link.stage(Kind::Hello, &grant.body()).expect("it is due");
        for _ in 0..before {
            link.stage(Kind::Ping, b"question").expect("it may be asked");
        }
        let service = ServiceName::parse("orders").expect("a name");
        let open = Open { service, id: "s-1".into(), client: None, probe: false };
        link.open(&open, Vec::new()).expect("it is ready");
        (Leg::Link(link), server, handle.into())
    }

    #[tokio::test]
    async fn what_a_link_that_fails_has_not_been_given_comes_back_for_the_next() {
        // Staged frames go out before a client's bytes, and their failure is not the bytes'.
        let ((mut near, mut client), (mut far, _server, socket)) = (pipe().await, opening(100).await);
        socket.shutdown(std::net::Shutdown::Write).expect("it is open");
        client.write_all(b" once").await.expect("it is taken");
        client.shutdown().await.expect("it ends");
        let (mut first, meter) = (b"only".to_vec(), Meter::default());
        let links = Links { near: false, far: true };
        for _ in 0..2 {
            let relayed = relay(&mut near, &mut far, &mut first, links, &meter, None).await;
            assert!(matches!(relayed, Relayed::Failed(Side::Far, _)), "{relayed:?}");
            let Leg::Link(link) = &far else { panic!("it is not free") };
            assert!(!link.has_sent(), "another link may be tried");
            let (next, _, socket) = opening(100).await;
            socket.shutdown(std::net::Shutdown::Write).expect("it is open");
            far = next;
        }
        let ((next, mut backend), meter_before) = (pipe().await, meter.bytes());
        far = next;
        assert_eq!(meter_before, 0, "nothing has moved");
        let relaying = async {
            let end = relay(&mut near, &mut far, &mut first, EDGES, &meter, None).await;
            drop((near, far));
            end
        };
        let hearing = async {
            let heard = all(&mut backend).await;
            drop(backend);
            heard
        };
        let (end, heard) = tokio::join!(relaying, hearing);
        assert!(matches!(end, Relayed::Clean), "{end:?}");
        assert_eq!(heard, b"only once");
    }

    #[tokio::test]
    async fn a_session_whose_answer_and_failure_come_at_once_was_carried() {
        let ((mut near, mut client), (mut far, mut server, _socket)) = (pipe().await, opening(0).await);
        let (mut first, meter) = (Vec::new(), Meter::default());
        let mut said = Vec::new();
        frame::push(&mut said, Kind::Opened, &[]);
        frame::push(&mut said, Kind::Data, b"answer");
        frame::push(&mut said, Kind::Reset, &[0, 0, 0, 0, 2]);
        server.write_all(&said).await.expect("it is taken");
        let links = Links { near: false, far: true };
        let relayed = relay(&mut near, &mut far, &mut first, links, &meter, None).await;
        assert!(matches!(relayed, Relayed::Failed(Side::Far, _)), "{relayed:?}");
        assert_eq!((meter.phase(), meter.bytes()), (SessionPhase::Relaying, 6));
        client.read_exact(&mut [0; 6]).await.expect("the answer");
    }

    #[tokio::test]
    async fn bytes_that_a_failing_link_was_read_into_come_back_too() {
        let ((mut near, mut client), (mut far, _server, socket)) = (pipe().await, opening(100).await);
        socket.shutdown(std::net::Shutdown::Write).expect("it is open");
        client.write_all(b"only once").await.expect("it is taken");
        let (mut first, meter) = (Vec::new(), Meter::default());
        let links = Links { near: false, far: true };
        let relayed = relay(&mut near, &mut far, &mut first, links, &meter, None).await;
        assert!(matches!(relayed, Relayed::Failed(Side::Far, _)), "{relayed:?}");
        assert_eq!((first.as_slice(), meter.bytes()), (&b"only once"[..], 0));
    }

    #[tokio::test]
    async fn a_session_is_over_when_its_link_has_said_its_last_word() {
        let ((mut near, mut client), (mut far, mut server, socket)) = (pipe().await, opening(0).await);
        let meter = Meter::default();
        let links = Links { near: false, far: true };
        let mut first = Vec::new();
        let relaying = relay(&mut near, &mut far, &mut first, links, &meter, None);
        let talking = async {
            client.shutdown().await.expect("it ends");
            // `hello`, `open` and `end` are here.
            let mut heard = vec![0; 4096];
            let mut count = 0;
            while !heard[..count].ends_with(&[6, 0, 0, 0]) {
                count += server.read(&mut heard[count..]).await.expect("bytes");
            }
            let mut filling = 0;
            // What its kernel had sent on makes room again, for a moment.
            for _ in 0..5 {
                for piece in [4096, 1] {
                    while let Ok(more) = io::Write::write(&mut &socket, &[0; 4096][..piece]) {
                        filling += more;
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // A question that can not be answered now, and then the end.
            let mut said = Vec::new();
            frame::push(&mut said, Kind::Opened, &[]);
            frame::push(&mut said, Kind::Ping, b"question");
            frame::push(&mut said, Kind::End, &[]);
            server.write_all(&said).await.expect("it is taken");
            // It is heard before there is room.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let mut rest = vec![0; filling + 12];
            server.read_exact(&mut rest).await.expect("all of it, and no reset");
            assert_eq!(rest.split_off(filling), [&[9, 0, 0, 8][..], b"question"].concat());
        };
        let both = async { tokio::join!(relaying, talking) };
        let (end, ()) = tokio::time::timeout(LOOK, both).await.expect("no look is needed for it");
        assert!(matches!(end, Relayed::Clean), "{end:?}");
        assert!(matches!(far, Leg::Gone), "it went home");
    }
}
