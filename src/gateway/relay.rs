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

use super::final_delivery::deliver_remaining;
use crate::{
    link::{
        liveness::{HEARTBEAT, ReadState},
        session_side::SessionSide,
    },
    net::tcp::{self, DeliveryState, DeliveryWatch},
    proto::link::frame::{DATA_MAX, HEADER},
    telemetry::{registry::SessionCounters, snapshot::SessionPhase},
};

/// Bytes moved at once: with a frame's header they fill eight TLS records to the last byte.
const CHUNK_BYTES: usize = DATA_MAX - HEADER;
/// How often a session's sockets are checked while data is in flight.
const LOOK: Duration = Duration::from_secs(2);
/// The longest that `opened` waits for the first bytes from the backend, and how many from the
/// client end the wait: it keeps a copy of them until then.
const GRANT_WITHIN: Duration = Duration::from_millis(5);
const GRANT_BYTES: u64 = 16 * 1024;
/// The longest pause between two checks when there is nothing to check for.
const REST: Duration = Duration::from_secs(30);
/// The deadline for the answer to `open`: the other half's backend deadline, plus the link's latency.
pub const ANSWER: Duration = Duration::from_secs(5);

thread_local! {
    /// The worker's buffer; borrowed within one poll and never across one.
    static CHUNK: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK_BYTES].into_boxed_slice());
}

/// Which side of a session a result is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhichSide {
    /// The side the session came from.
    Downstream,
    /// The side it goes to.
    Upstream,
}

/// How a relay ended.
#[derive(Debug)]
pub enum RelayOutcome {
    /// Both directions have ended cleanly, and both ends know.
    Clean,
    /// One side failed, and what it had sent has been delivered; the other has to be told by a reset.
    Failed(WhichSide, io::Error),
    /// No byte either way for the service's `idle`.
    Idle,
    /// The other gateway has not said whether it takes the session.
    Unanswered,
}

/// A session relays once the other gateway has taken it, and drains once one side has finished. What was
/// refused, or was never answered, has brought nothing.
fn enter_phase(counters: &SessionCounters, upstream: &SessionSide, steps: [DirectionState; 2]) {
    if !upstream.was_opened() {
        return;
    }
    counters.enter(match steps.contains(&DirectionState::Ended) {
        true => SessionPhase::Draining,
        false => SessionPhase::Relaying,
    });
}

/// Which sides of a session are links. Links are watched for silence, by [`DeliveryWatch`] or by pings.
#[derive(Debug, Clone, Copy)]
pub struct LinkSides {
    pub downstream: bool,
    pub upstream: bool,
}

/// Relays until both directions have ended, a side fails, or nothing moves for `idle`. `first` goes
/// up before anything else. A link whose part is over goes home at once, though what it brought may
/// have yet to reach a slow receiver.
pub async fn relay(
    downstream: &mut SessionSide,
    upstream: &mut SessionSide,
    first: &mut Vec<u8>,
    links: LinkSides,
    counters: &SessionCounters,
    idle: Option<Duration>,
) -> RelayOutcome {
    let mut up = RelayDirection::starting_with(std::mem::take(first), upstream.holds_output());
    let mut down = RelayDirection::default();
    // `opened` goes out with the first bytes from the backend, if they come soon.
    let mut granting = downstream.holds_output();
    let mut watch = SocketWatch::new(counters.bytes(), idle, downstream.is_framed() || upstream.is_framed());
    let mut answer_by = Instant::now() + ANSWER;
    let mut deliveries = [DeliveryWatch::default(), DeliveryWatch::default()];
    let first_look = match granting {
        true => Instant::now() + GRANT_WITHIN,
        false => next_check(&watch, [downstream, upstream], answer_by),
    };
    let look = tokio::time::sleep_until(first_look);
    let mut is_new = true;
    tokio::pin!(look);
    let relayed = poll_fn(|cx| {
        if granting && counters.bytes() >= GRANT_BYTES {
            granting = false;
            down.unflushed = true;
        }
        // What a link says goes first: it may name the reason of a failure that a write would meet.
        let link_first = [upstream.is_framed(), !upstream.is_framed()];
        for is_down in link_first {
            let moved = match is_down {
                true => {
                    down.is_last = up.state == DirectionState::Ended;
                    down.poll(cx, upstream, downstream, |bytes| counters.add_down(bytes))
                        .map_err(mirror_failure)
                }
                false => {
                    up.is_last = down.state == DirectionState::Ended;
                    up.poll(cx, downstream, upstream, |bytes| counters.add_up(bytes))
                }
            };
            if let Poll::Ready(Err((side, error))) = moved {
                return Poll::Ready(RelayOutcome::Failed(side, error));
            }
        }
        for (which, side, has_ended) in [
            (WhichSide::Downstream, &mut *downstream, up.has_ended()),
            (WhichSide::Upstream, &mut *upstream, down.has_ended()),
        ] {
            if has_ended && let Poll::Ready(error) = side.poll_control(cx) {
                return Poll::Ready(RelayOutcome::Failed(which, error));
            }
            side.return_to_pool_if_free(cx);
        }
        match (up.state, down.state) {
            // A link that still holds something of ours goes home first: dropped, it would be reset.
            (DirectionState::Ended, DirectionState::Ended)
                if downstream.is_framed() || upstream.is_framed() => {}
            (DirectionState::Ended, DirectionState::Ended) => {
                counters.enter(SessionPhase::Draining);
                return Poll::Ready(RelayOutcome::Clean);
            }
            _ => enter_phase(counters, upstream, [up.state, down.state]),
        }
        // A side that is not read any more shows by no event that it has gone.
        let held = up.holds_bytes() || down.holds_bytes() || up.has_ended() || down.has_ended();
        if watch.has_reason_to_wake(counters.bytes(), held) {
            look.as_mut().reset(next_check(&watch, [downstream, upstream], answer_by));
        }
        while watch.awake && look.as_mut().poll(cx).is_ready() {
            // While this process did not run, the other gateway's answer could not be read.
            answer_by += look.deadline().elapsed();
            if std::mem::take(&mut granting) {
                look.as_mut().reset(next_check(&watch, [downstream, upstream], answer_by));
                down.unflushed = true;
                if let Poll::Ready(Err((_, error))) = down.poll_flush(cx, downstream) {
                    return Poll::Ready(RelayOutcome::Failed(WhichSide::Downstream, error));
                }
                continue;
            }
            if std::mem::take(&mut is_new) && !links.upstream {
                upstream.tcp().into_iter().for_each(tcp::keep_edge_alive);
            }
            if upstream.is_opening() && Instant::now() >= answer_by {
                return Poll::Ready(RelayOutcome::Unanswered);
            }
            let sides = [
                (WhichSide::Downstream, &mut *downstream, links.downstream, up.read_state()),
                (WhichSide::Upstream, &mut *upstream, links.upstream, down.read_state()),
            ];
            let mut owed = held;
            for ((which, side, is_link, reading), delivery) in sides.into_iter().zip(&mut deliveries) {
                let looked = match side.is_framed() {
                    true => side.check_alive(reading, cx).map(|()| DeliveryState::All),
                    false => check_socket(side, is_link.then_some(delivery)),
                };
                match looked {
                    Ok(delivered) => owed |= delivered != DeliveryState::All,
                    Err(error) => return Poll::Ready(RelayOutcome::Failed(which, error)),
                }
            }
            if watch.check(counters.bytes(), owed) {
                return Poll::Ready(RelayOutcome::Idle);
            }
            look.as_mut().reset(next_check(&watch, [downstream, upstream], answer_by));
        }
        Poll::Pending
    })
    .await;
    let relayed = match relayed {
        RelayOutcome::Failed(side, error) => {
            // It may be that all of the session came at once, its failure with it.
            enter_phase(counters, upstream, [up.state, down.state]);
            let (direction, sides) = match side {
                WhichSide::Downstream => (&mut up, (&mut *downstream, &mut *upstream)),
                WhichSide::Upstream => (&mut down, (&mut *upstream, &mut *downstream)),
            };
            // Boxed: an open session holds no memory for how it may fail.
            let error = Box::pin(deliver_remaining(side, direction, sides, error, counters)).await;
            // Or that the answer was still to be read when a write failed.
            if upstream.was_opened() && counters.phase() < SessionPhase::Relaying {
                counters.enter(SessionPhase::Relaying);
            }
            RelayOutcome::Failed(side, error)
        }
        ended => ended,
    };
    *first = up.kept.split_off(up.taken);
    relayed
}

/// Swaps the sides of a failure, for the direction that runs the other way.
fn mirror_failure((side, error): SideFailure) -> SideFailure {
    (side.opposite(), error)
}

impl WhichSide {
    fn opposite(self) -> Self {
        match self {
            Self::Downstream => Self::Upstream,
            Self::Upstream => Self::Downstream,
        }
    }
}

/// What a side's socket knows that reading it would not show now: an error, while we wait to write
/// to the other side and do not read; a silent SOCKS5 link, long before the kernel gives up on it.
fn check_socket(side: &SessionSide, link: Option<&mut DeliveryWatch>) -> io::Result<DeliveryState> {
    let Some(socket) = side.tcp() else { return Ok(DeliveryState::All) };
    if let Ok(Some(error)) = socket.take_error() {
        return Err(error);
    }
    match link.map_or(DeliveryState::All, |delivery| delivery.check(socket)) {
        DeliveryState::Never => Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer any more")),
        delivered => Ok(delivered),
    }
}

/// When a session's sockets are checked next: at the earliest of all their deadlines.
fn next_check(watch: &SocketWatch, sides: [&SessionSide; 2], answer_by: Instant) -> Instant {
    let answer_by = sides[1].is_opening().then_some(answer_by);
    let times = sides.map(SessionSide::next_check).into_iter().chain([answer_by]).flatten();
    times.fold(watch.next_check(Instant::now()), Instant::min)
}

/// When to look at a session's sockets. While nothing moves and nothing is on the way there is
/// nothing to see that the kernel's keep-alive does not report, so an idle session sleeps, unless
/// it has a link that wants to be asked whether it is alive.
struct SocketWatch {
    idle: Option<Duration>,
    has_beat: bool,
    bytes: u64,
    /// Since when no byte has moved.
    still_since: Instant,
    busy: bool,
    awake: bool,
}

impl SocketWatch {
    fn new(bytes: u64, idle: Option<Duration>, has_beat: bool) -> Self {
        Self { idle, has_beat, bytes, still_since: Instant::now(), busy: true, awake: true }
    }

    /// When the next check is due, without the deadlines of framed links and of an answer.
    fn next_check(&self, now: Instant) -> Instant {
        let busy = if self.has_beat { HEARTBEAT } else { LOOK };
        let pause = if self.busy { busy } else { REST };
        let at = match self.idle {
            Some(idle) => (now + pause.min(idle / 4)).min(self.still_since + idle),
            None => now + pause,
        };
        at.max(now + Duration::from_millis(1))
    }

    /// Whether a sleeping watch has a reason to wake up.
    fn has_reason_to_wake(&mut self, bytes: u64, held: bool) -> bool {
        let wakes = !(self.busy && self.awake) && (held || bytes != self.bytes);
        self.busy |= wakes;
        self.awake |= wakes;
        wakes
    }

    /// Records the result of a check; true when nothing has moved for the service's `idle`.
    fn check(&mut self, bytes: u64, owed: bool) -> bool {
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
pub(super) enum DirectionState {
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
pub(super) struct RelayDirection {
    pub(super) state: DirectionState,
    /// Bytes that the receiver has not taken completely, and how many of them it has.
    kept: Vec<u8>,
    taken: usize,
    unflushed: bool,
    /// Whether the other direction has ended.
    is_last: bool,
}

pub(super) type SideFailure = (WhichSide, io::Error);

impl RelayDirection {
    /// A direction that begins with these bytes, after what its receiver may already hold.
    pub(super) fn starting_with(kept: Vec<u8>, unflushed: bool) -> Self {
        Self { kept, unflushed, ..Self::default() }
    }

    /// Whether bytes wait here for their receiver.
    fn holds_bytes(&self) -> bool {
        !self.kept.is_empty() || self.unflushed
    }

    /// Whether its sender has finished.
    pub(super) fn has_ended(&self) -> bool {
        self.state != DirectionState::Reading
    }

    /// Whether it takes what its sender sends.
    fn read_state(&self) -> ReadState {
        if self.kept.is_empty() { ReadState::Yes } else { ReadState::Stopped }
    }

    /// Moves what can be moved. In a failure, `Downstream` is the sender and `Upstream` the receiver.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut SessionSide,
        to: &mut SessionSide,
        moved: impl Fn(usize),
    ) -> Poll<Result<(), SideFailure>> {
        loop {
            ready!(self.poll_kept(cx, to, &moved))?;
            match self.state {
                DirectionState::Ended | DirectionState::Lost => return Poll::Ready(Ok(())),
                // Closing it tells the same, once both have ended.
                DirectionState::Ending if self.is_last && to.ends_when_closed() => {
                    self.state = DirectionState::Ended
                }
                DirectionState::Ending => {
                    ready!(to.poll_shutdown(cx)).map_err(|error| (WhichSide::Upstream, error))?;
                    self.state = DirectionState::Ended;
                }
                DirectionState::Reading => {
                    if self.poll_chunk(cx, from, to, &moved)?.is_pending() {
                        return self.poll_flush(cx, to);
                    }
                }
            }
        }
    }

    /// Writes the kept bytes, and frees their memory.
    pub(super) fn poll_kept(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut SessionSide,
        moved: &impl Fn(usize),
    ) -> Poll<Result<(), SideFailure>> {
        while self.taken < self.kept.len() {
            let written = to.poll_write(cx, &self.kept[self.taken..]);
            let count = ready!(written).map_err(|error| (WhichSide::Upstream, error))?;
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
        from: &mut SessionSide,
        to: &mut SessionSide,
        moved: &impl Fn(usize),
    ) -> Result<Poll<()>, SideFailure> {
        CHUNK.with_borrow_mut(|chunk| {
            let mut buf = ReadBuf::new(chunk);
            let filled = match fill_buffer(cx, from, &mut buf) {
                FillResult::Nothing => return Ok(Poll::Pending),
                FillResult::Failed(error) => {
                    self.kept = buf.filled().to_vec();
                    self.state = DirectionState::Lost;
                    return Err((WhichSide::Downstream, error));
                }
                FillResult::Some => buf.filled(),
                FillResult::End => {
                    self.state = DirectionState::Ending;
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
            failed.map_or(Ok(Poll::Ready(())), |error| Err((WhichSide::Upstream, error)))
        })
    }

    /// Nothing more to read for now: flushes what TLS holds back.
    fn poll_flush(&mut self, cx: &mut Context<'_>, to: &mut SessionSide) -> Poll<Result<(), SideFailure>> {
        if self.unflushed {
            ready!(to.poll_flush(cx)).map_err(|error| (WhichSide::Upstream, error))?;
            self.unflushed = false;
        }
        Poll::Pending
    }
}

enum FillResult {
    /// No byte is available for now.
    Nothing,
    Some,
    /// The sender has finished, perhaps after some bytes.
    End,
    Failed(io::Error),
}

/// Reads until the buffer is full or there is no more for now: TLS yields a record at a time, and
/// several are written on in one call.
fn fill_buffer(cx: &mut Context<'_>, from: &mut SessionSide, buf: &mut ReadBuf<'_>) -> FillResult {
    loop {
        let before = buf.filled().len();
        match from.poll_read(cx, buf) {
            Poll::Pending if before == 0 => return FillResult::Nothing,
            Poll::Pending => return FillResult::Some,
            Poll::Ready(Err(error)) => {
                from.read_rest(buf);
                return FillResult::Failed(error);
            }
            Poll::Ready(Ok(())) if buf.filled().len() == before => return FillResult::End,
            Poll::Ready(Ok(())) if buf.remaining() == 0 => return FillResult::Some,
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
        net::{echo::EchoStream, stream::NetStream},
        profile::ServiceName,
        proto::link::{
            frame::{self, FrameKind},
            hello::{GrantHello, OfferHello},
            open::OpenFrame,
            state::LinkRole,
        },
    };

    const EDGES: LinkSides = LinkSides { downstream: false, upstream: false };

    async fn pipe() -> (SessionSide, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("it is bound");
        let (outer, inner) = tokio::join!(TcpStream::connect(at), listener.accept());
        (SessionSide::Stream(NetStream::Tcp(inner.expect("it connects").0)), outer.expect("it connects"))
    }

    /// Relays between two pipes while `talk` plays both ends.
    async fn relayed(
        talk: impl AsyncFnOnce(&mut TcpStream, &mut TcpStream),
    ) -> (RelayOutcome, SessionCounters) {
        let ((mut downstream, mut client), (mut upstream, mut backend)) = (pipe().await, pipe().await);
        let counters = SessionCounters::default();
        let relaying = async {
            let end = relay(&mut downstream, &mut upstream, &mut Vec::new(), EDGES, &counters, None).await;
            downstream.let_close_cleanly();
            upstream.let_close_cleanly();
            drop((downstream, upstream));
            end
        };
        let (end, ()) = tokio::join!(relaying, talk(&mut client, &mut backend));
        (end, counters)
    }

    async fn all(stream: &mut TcpStream) -> Vec<u8> {
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.expect("a clean end");
        heard
    }

    #[tokio::test]
    async fn either_side_may_finish_first() {
        for client_first in [true, false] {
            let (end, counters) = relayed(async |client, backend| {
                let (first, last) = if client_first { (client, backend) } else { (backend, client) };
                first.write_all(b"one").await.expect("it is taken");
                first.shutdown().await.expect("it ends");
                assert_eq!(all(last).await, b"one");
                last.write_all(b"other").await.expect("it is taken");
                last.shutdown().await.expect("it ends");
                assert_eq!(all(first).await, b"other");
            })
            .await;
            assert!(matches!(end, RelayOutcome::Clean), "{end:?}");
            assert_eq!((counters.bytes(), counters.phase()), (8, SessionPhase::Draining));
        }
    }

    #[tokio::test]
    async fn what_a_slow_reader_leaves_is_kept_in_order() {
        let sent: Vec<u8> = (0..12_000_000_u32).map(|at| (at ^ (at >> 11)) as u8).collect();
        let (end, counters) = relayed(async |client, backend| {
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
        assert!(matches!(end, RelayOutcome::Clean), "{end:?}");
        assert_eq!(counters.bytes(), sent.len() as u64);
    }

    #[tokio::test(start_paused = true)]
    async fn an_hour_of_silence_ends_at_the_idle_limit() {
        let ((mut downstream, _client), mut upstream) =
            (pipe().await, SessionSide::Stream(NetStream::Echo(EchoStream::default())));
        let (counters, idle) = (SessionCounters::default(), Duration::from_secs(3600));
        let began = tokio::time::Instant::now();
        let end = relay(&mut downstream, &mut upstream, &mut Vec::new(), EDGES, &counters, Some(idle)).await;
        assert!(matches!(end, RelayOutcome::Idle), "{end:?}");
        let took = began.elapsed();
        assert!(took >= idle && took <= idle + 2 * LOOK, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_sleeps_while_nothing_is_on_the_way() {
        let mut watch = SocketWatch::new(0, None, false);
        assert!(!watch.check(5, false) && watch.awake, "bytes have moved");
        assert!(!watch.check(5, true) && watch.awake, "some are not acknowledged");
        assert!(!watch.check(5, false) && !watch.awake, "nothing is on the way");
        assert!(!watch.has_reason_to_wake(5, false) && watch.has_reason_to_wake(6, false) && watch.awake);
    }

    #[tokio::test(start_paused = true)]
    async fn movement_starts_the_idle_time_anew() {
        let mut watch = SocketWatch::new(0, Some(Duration::from_secs(3)), false);
        let mut ended = Vec::new();
        for bytes in [0, 0, 5, 5, 5, 5] {
            tokio::time::advance(Duration::from_secs(1)).await;
            ended.push(watch.check(bytes, false));
        }
        assert_eq!(ended, [false, false, false, false, false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_may_be_silent_behind_its_end_and_not_leave() {
        let ((mut downstream, mut client), (mut upstream, mut backend)) = (pipe().await, pipe().await);
        let (counters, hour, mut first) = (SessionCounters::default(), Duration::from_secs(3600), Vec::new());
        let relaying = relay(&mut downstream, &mut upstream, &mut first, EDGES, &counters, None);
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
        assert!(matches!(relayed, RelayOutcome::Failed(WhichSide::Downstream, _)), "{relayed:?}");
        assert!(left.elapsed() <= 5 * LOOK, "{:?}", left.elapsed());
    }

    /// An opener's link to a server that the test plays, with a session under way that has no answer,
    /// and a second handle of its socket.
    async fn opening(before: usize) -> (SessionSide, TcpStream, std::net::TcpStream) {
        let (SessionSide::Stream(stream), mut server) = pipe().await else { unreachable!() };
        let handle = socket2::SockRef::from(stream.tcp().expect("it is one")).try_clone().expect("a handle");
        let peer = Peer { name: None, address: "peer".into() };
        let mut link = Box::new(Link::new(stream, peer, LinkRole::Opener));
        let offer = OfferHello { services: Vec::new(), target: 1, maximum: 1 };
        let mut said = Vec::new();
        frame::push(&mut said, FrameKind::Hello, &offer.body());
        server.write_all(&said).await.expect("it is taken");
        poll_fn(|cx| link.poll_handshake(cx)).await.expect("a hello");
        let grant = GrantHello { services: Vec::new(), links: 1, data: DATA_MAX };
        link.stage(FrameKind::Hello, &grant.body()).expect("it is due");
        for _ in 0..before {
            link.stage(FrameKind::Ping, b"question").expect("it may be asked");
        }
        let service = ServiceName::parse("orders").expect("a name");
        let open = OpenFrame { service, id: "s-1".into(), client: None, probe: false };
        link.open(&open, Vec::new()).expect("it is ready");
        (SessionSide::Link(link), server, handle.into())
    }

    #[tokio::test]
    async fn a_stop_of_this_process_is_not_counted_against_an_answer() {
        let ((mut downstream, mut client), (mut upstream, mut server, _socket)) =
            (pipe().await, opening(0).await);
        tokio::time::pause();
        let (mut first, counters) = (Vec::new(), SessionCounters::default());
        let links = LinkSides { downstream: false, upstream: true };
        let relayed = relay(&mut downstream, &mut upstream, &mut first, links, &counters, None);
        let others = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            tokio::time::advance(Duration::from_millis(4_850)).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            let mut said = Vec::new();
            frame::push(&mut said, FrameKind::Opened, &[]);
            frame::push(&mut said, FrameKind::Data, b"answer");
            server.write_all(&said).await.expect("it is taken");
            let mut heard = [0; 6];
            client.read_exact(&mut heard).await.expect("the answer");
            heard
        };
        tokio::select! {
            relayed = relayed => panic!("it has ended: {relayed:?}"),
            heard = others => assert_eq!(&heard, b"answer"),
        }
    }

    #[tokio::test]
    async fn what_a_link_that_fails_has_not_been_given_comes_back_for_the_next() {
        // Staged frames go out before a client's bytes, and their failure is not the bytes'.
        let ((mut downstream, mut client), (mut upstream, _server, socket)) =
            (pipe().await, opening(100).await);
        socket.shutdown(std::net::Shutdown::Write).expect("it is open");
        client.write_all(b" once").await.expect("it is taken");
        client.shutdown().await.expect("it ends");
        let (mut first, counters) = (b"only".to_vec(), SessionCounters::default());
        let links = LinkSides { downstream: false, upstream: true };
        for _ in 0..2 {
            let relayed = relay(&mut downstream, &mut upstream, &mut first, links, &counters, None).await;
            assert!(matches!(relayed, RelayOutcome::Failed(WhichSide::Upstream, _)), "{relayed:?}");
            let SessionSide::Link(link) = &upstream else { panic!("it is not free") };
            assert!(!link.has_sent(), "another link may be tried");
            let (next, _, socket) = opening(100).await;
            socket.shutdown(std::net::Shutdown::Write).expect("it is open");
            upstream = next;
        }
        let ((next, mut backend), meter_before) = (pipe().await, counters.bytes());
        upstream = next;
        assert_eq!(meter_before, 0, "nothing has moved");
        let relaying = async {
            let end = relay(&mut downstream, &mut upstream, &mut first, EDGES, &counters, None).await;
            drop((downstream, upstream));
            end
        };
        let hearing = async {
            let heard = all(&mut backend).await;
            drop(backend);
            heard
        };
        let (end, heard) = tokio::join!(relaying, hearing);
        assert!(matches!(end, RelayOutcome::Clean), "{end:?}");
        assert_eq!(heard, b"only once");
    }

    #[tokio::test]
    async fn a_session_whose_answer_and_failure_come_at_once_was_carried() {
        use SessionPhase::{Negotiating, Relaying};
        // Whatever it brought; one that was never answered was not carried.
        for (opened, answer, expected) in
            [(true, &b"answer"[..], Relaying), (true, b"", Relaying), (false, b"", Negotiating)]
        {
            let ((mut downstream, mut client), (mut upstream, mut server, _socket)) =
                (pipe().await, opening(0).await);
            let (mut first, counters) = (Vec::new(), SessionCounters::default());
            let mut said = Vec::new();
            if opened {
                frame::push(&mut said, FrameKind::Opened, &[]);
            }
            if !answer.is_empty() {
                frame::push(&mut said, FrameKind::Data, answer);
            }
            frame::push(&mut said, FrameKind::Reset, &[0, 0, 0, 0, 2]);
            server.write_all(&said).await.expect("it is taken");
            let links = LinkSides { downstream: false, upstream: true };
            let relayed = relay(&mut downstream, &mut upstream, &mut first, links, &counters, None).await;
            assert!(matches!(relayed, RelayOutcome::Failed(WhichSide::Upstream, _)), "{relayed:?}");
            assert_eq!((counters.phase(), counters.bytes()), (expected, answer.len() as u64), "{said:?}");
            client.read_exact(&mut vec![0; answer.len()]).await.expect("the answer");
        }
    }

    #[tokio::test]
    async fn a_session_whose_client_is_cut_before_its_first_turn_relays() {
        let ((mut downstream, client), (mut upstream, _backend)) = (pipe().await, pipe().await);
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("it is open");
        drop(client);
        while !downstream.tcp().is_some_and(tcp::is_closed) {
            tokio::task::yield_now().await;
        }
        let counters = SessionCounters::default();
        let relayed = relay(&mut downstream, &mut upstream, &mut Vec::new(), EDGES, &counters, None).await;
        assert!(matches!(relayed, RelayOutcome::Failed(WhichSide::Downstream, _)), "{relayed:?}");
        assert_eq!(counters.phase(), SessionPhase::Relaying);
    }

    #[tokio::test]
    async fn bytes_that_a_failing_link_was_read_into_come_back_too() {
        let ((mut downstream, mut client), (mut upstream, _server, socket)) =
            (pipe().await, opening(100).await);
        socket.shutdown(std::net::Shutdown::Write).expect("it is open");
        client.write_all(b"only once").await.expect("it is taken");
        let (mut first, counters) = (Vec::new(), SessionCounters::default());
        let links = LinkSides { downstream: false, upstream: true };
        let relayed = relay(&mut downstream, &mut upstream, &mut first, links, &counters, None).await;
        assert!(matches!(relayed, RelayOutcome::Failed(WhichSide::Upstream, _)), "{relayed:?}");
        assert_eq!((first.as_slice(), counters.bytes()), (&b"only once"[..], 0));
    }

    #[tokio::test]
    async fn a_session_is_over_when_its_link_has_said_its_last_word() {
        let ((mut downstream, mut client), (mut upstream, mut server, socket)) =
            (pipe().await, opening(0).await);
        let counters = SessionCounters::default();
        let links = LinkSides { downstream: false, upstream: true };
        let mut first = Vec::new();
        let relaying = relay(&mut downstream, &mut upstream, &mut first, links, &counters, None);
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
            frame::push(&mut said, FrameKind::Opened, &[]);
            frame::push(&mut said, FrameKind::Ping, b"question");
            frame::push(&mut said, FrameKind::End, &[]);
            server.write_all(&said).await.expect("it is taken");
            // It is heard before there is room.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let mut rest = vec![0; filling + 12];
            server.read_exact(&mut rest).await.expect("all of it, and no reset");
            assert_eq!(rest.split_off(filling), [&[9, 0, 0, 8][..], b"question"].concat());
        };
        let both = async { tokio::join!(relaying, talking) };
        let (end, ()) = tokio::time::timeout(LOOK, both).await.expect("no look is needed for it");
        assert!(matches!(end, RelayOutcome::Clean), "{end:?}");
        assert!(matches!(upstream, SessionSide::Gone), "it went home");
    }
}
