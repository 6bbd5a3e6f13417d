//! Copies a session's bytes both ways, unchanged and in order.
//!
//! Both directions run in one task. A chunk is read into a buffer of the worker thread and written on at once.
//! Only what the other side does not take is kept, and until it is taken, nothing more is read from its sender.
//! So a slow reader slows its sender. The memory of what was kept is used again while the session is busy, and freed
//! when nothing has moved for a few seconds: an idle session holds no buffer. A half-close is passed on. A chunk costs
//! no lock, clock read, allocation or log line.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use super::{
    final_delivery::deliver_remaining,
    idle_watch::{InFlight, SocketWatch},
    session_permits::SessionPermits,
};
use crate::{
    net::{
        stream::NetStream,
        tcp::{self, ACK_TIMEOUT, Acknowledgement, SocksLinkWatch},
    },
    telemetry::{registry::SessionCounters, snapshot::SessionPhase},
};

/// Bytes moved at once: eight TLS records.
const CHUNK_BYTES: usize = 128 * 1024;
thread_local! {
    /// The worker thread's buffer, borrowed within one poll and never across polls.
    static CHUNK: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK_BYTES].into_boxed_slice());
}

/// The side of a session that a result is about.
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
    /// One side failed, and what it had sent has been delivered. The other side must be reset.
    Failed(WhichSide, io::Error),
    /// No byte either way for the service's `idle`.
    Idle,
}

/// Relays until both directions have ended, a side fails, or nothing moves for `idle`. `first` is sent upstream
/// before anything else. `socks_link` is the side that is a SOCKS5 link, if one is: [`SocksLinkWatch`] watches it for
/// silence. Taking the permits proves that the session holds them.
pub async fn relay(
    _permits: &SessionPermits,
    downstream: &mut NetStream,
    upstream: &mut NetStream,
    first: Vec<u8>,
    socks_link: Option<WhichSide>,
    counters: &SessionCounters,
    idle: Option<Duration>,
) -> RelayOutcome {
    let mut relay = Relay {
        downstream,
        upstream,
        socks_link,
        counters,
        up: RelayDirection::starting_with(first),
        down: RelayDirection::default(),
        watch: SocketWatch::new(counters.bytes(), idle),
        deliveries: Default::default(),
        was_checked: false,
    };
    let next_check = tokio::time::sleep_until(relay.watch.next_check(Instant::now()));
    tokio::pin!(next_check);
    match poll_fn(|cx| relay.poll(cx, next_check.as_mut())).await {
        Ok(ended) => ended,
        Err((side, error)) => {
            // The whole session may have arrived at once, including its failure.
            relay.enter_phase();
            let Relay { downstream, upstream, up, down, .. } = &mut relay;
            let (direction, sides) = match side {
                WhichSide::Downstream => (up, (&mut **downstream, &mut **upstream)),
                WhichSide::Upstream => (down, (&mut **upstream, &mut **downstream)),
            };
            // Boxed, so that an open session holds no memory for how it may fail.
            let error = Box::pin(deliver_remaining(side, direction, sides, error, counters)).await;
            RelayOutcome::Failed(side, error)
        }
    }
}

/// A relay between two polls.
struct Relay<'a> {
    downstream: &'a mut NetStream,
    upstream: &'a mut NetStream,
    socks_link: Option<WhichSide>,
    counters: &'a SessionCounters,
    up: RelayDirection,
    down: RelayDirection,
    watch: SocketWatch,
    /// For the downstream side and the upstream side.
    deliveries: [SocksLinkWatch; 2],
    /// Whether the sockets were checked at least once.
    was_checked: bool,
}

impl Relay<'_> {
    /// Moves what can be moved, and then decides the session's state by what is left.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        next_check: Pin<&mut Sleep>,
    ) -> Poll<Result<RelayOutcome, SideFailure>> {
        self.poll_directions(cx)?;
        self.poll_control(cx)?;
        if (self.up.state, self.down.state) == (DirectionState::Ended, DirectionState::Ended) {
            self.counters.enter(SessionPhase::Draining);
            return Poll::Ready(Ok(RelayOutcome::Clean));
        }
        self.enter_phase();
        self.poll_watch(cx, next_check)
    }

    fn poll_directions(&mut self, cx: &mut Context<'_>) -> Result<(), SideFailure> {
        let Self { downstream, upstream, counters, up, down, .. } = self;
        up.is_last = down.state == DirectionState::Ended;
        if let Poll::Ready(moved) = up.poll(cx, downstream, upstream, |bytes| counters.add_up(bytes)) {
            moved?;
        }
        down.is_last = up.state == DirectionState::Ended;
        match down.poll(cx, upstream, downstream, |bytes| counters.add_down(bytes)) {
            Poll::Ready(moved) => moved.map_err(mirror_failure),
            Poll::Pending => Ok(()),
        }
    }

    /// Notices a side's failure while nothing is being read from it.
    fn poll_control(&mut self, cx: &mut Context<'_>) -> Result<(), SideFailure> {
        let Self { downstream, upstream, up, down, .. } = self;
        for (which, side, direction) in
            [(WhichSide::Downstream, downstream, up), (WhichSide::Upstream, upstream, down)]
        {
            let is_unread = direction.has_ended() || direction.holds_bytes();
            if is_unread && let Poll::Ready(error) = side.poll_control(cx) {
                return Err((which, error));
            }
        }
        Ok(())
    }

    /// A session relays once it is connected, and drains once one side has finished.
    fn enter_phase(&self) {
        self.counters.enter(match [self.up.state, self.down.state].contains(&DirectionState::Ended) {
            true => SessionPhase::Draining,
            false => SessionPhase::Relaying,
        });
    }

    /// Checks the sockets whenever that is due.
    fn poll_watch(
        &mut self,
        cx: &mut Context<'_>,
        mut next_check: Pin<&mut Sleep>,
    ) -> Poll<Result<RelayOutcome, SideFailure>> {
        // A side that is no longer read gives no event when it is gone.
        let is_held =
            [&self.up, &self.down].iter().any(|direction| direction.holds_bytes() || direction.has_ended());
        let held = if is_held { InFlight::Bytes } else { InFlight::Nothing };
        if self.watch.has_reason_to_wake(self.counters.bytes(), held) {
            next_check.as_mut().reset(self.watch.next_check(Instant::now()));
        }
        while self.watch.is_awake() && next_check.as_mut().poll(cx).is_ready() {
            let in_flight = if self.check_sockets()? { InFlight::Bytes } else { held };
            let bytes = self.counters.bytes();
            if !self.watch.has_moved(bytes) {
                self.up.release();
                self.down.release();
            }
            if self.watch.check(bytes, in_flight) {
                return Poll::Ready(Ok(RelayOutcome::Idle));
            }
            next_check.as_mut().reset(self.watch.next_check(Instant::now()));
        }
        Poll::Pending
    }

    /// Whether a side has not yet acknowledged everything it was sent.
    fn check_sockets(&mut self) -> Result<bool, SideFailure> {
        if !std::mem::replace(&mut self.was_checked, true) && self.socks_link != Some(WhichSide::Upstream) {
            self.upstream.tcp().into_iter().for_each(tcp::keep_edge_alive);
        }
        let sides = [(WhichSide::Downstream, &*self.downstream), (WhichSide::Upstream, &*self.upstream)];
        let mut is_owed = false;
        for ((which, side), delivery) in sides.into_iter().zip(&mut self.deliveries) {
            let delivery = (self.socks_link == Some(which)).then_some(delivery);
            let delivered = check_socket(side, delivery);
            is_owed |= delivered.map_err(|error| (which, error))? != Acknowledgement::All;
        }
        Ok(is_owed)
    }
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

/// A SOCKS5 link whose peer has stopped acknowledging. It is a failure of the link, not a timeout of a session.
#[derive(Debug, Error)]
#[error("the peer acknowledged nothing for {}s", ACK_TIMEOUT.as_secs())]
struct SilentSocksLink;

/// Checks what a side's socket knows that reading it would not show now: an error, while we wait to write to
/// the other side and do not read; or a silent SOCKS5 link, long before the kernel gives up on it.
fn check_socket(side: &NetStream, link: Option<&mut SocksLinkWatch>) -> io::Result<Acknowledgement> {
    let Some(socket) = side.tcp() else { return Ok(Acknowledgement::All) };
    if let Ok(Some(error)) = socket.take_error() {
        return Err(error);
    }
    match link.map_or(Acknowledgement::All, |delivery| delivery.check(socket)) {
        // Like the kernel's own error, which would come much later.
        Acknowledgement::Never => Err(io::Error::new(io::ErrorKind::TimedOut, SilentSocksLink)),
        delivered @ (Acknowledgement::All | Acknowledgement::NotYet) => Ok(delivered),
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
    /// The sender has finished; the end was not passed to the receiver yet.
    Ending,
    Ended,
    /// The sender has failed: nothing more can be read.
    Lost,
}

/// A direction of a session.
#[derive(Debug, Default)]
pub(super) struct RelayDirection {
    pub(super) state: DirectionState,
    /// Bytes that the receiver has not completely taken, and how many of them it has.
    kept: Vec<u8>,
    taken: usize,
    unflushed: bool,
    /// Whether the other direction has ended.
    is_last: bool,
}

pub(super) type SideFailure = (WhichSide, io::Error);

impl RelayDirection {
    /// A direction that begins with these bytes.
    pub(super) fn starting_with(kept: Vec<u8>) -> Self {
        Self { kept, ..Self::default() }
    }

    /// Whether bytes wait here for their receiver.
    fn holds_bytes(&self) -> bool {
        !self.kept.is_empty() || self.unflushed
    }

    /// Whether its sender has finished.
    pub(super) fn has_ended(&self) -> bool {
        self.state != DirectionState::Reading
    }

    /// Moves what can be moved. In a failure, `Downstream` is the sender and `Upstream` the receiver.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut NetStream,
        to: &mut NetStream,
        moved: impl Fn(usize),
    ) -> Poll<Result<(), SideFailure>> {
        loop {
            ready!(self.poll_kept(cx, to, &moved))?;
            match self.state {
                DirectionState::Ended | DirectionState::Lost => return Poll::Ready(Ok(())),
                // Closing both sides says the same, once both have ended.
                DirectionState::Ending
                    if self.is_last && matches!(to, NetStream::Tcp(_) | NetStream::Unix(_)) =>
                {
                    self.state = DirectionState::Ended
                }
                DirectionState::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))
                        .map_err(|error| (WhichSide::Upstream, error))?;
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

    /// Keeps what the receiver has not taken. The memory of earlier bytes is used again.
    fn keep(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
    }

    /// Frees the memory for kept bytes, if there are none.
    fn release(&mut self) {
        if self.kept.is_empty() {
            self.kept = Vec::new();
        }
    }

    /// Writes the kept bytes.
    pub(super) fn poll_kept(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut NetStream,
        moved: &impl Fn(usize),
    ) -> Poll<Result<(), SideFailure>> {
        while self.taken < self.kept.len() {
            let written = Pin::new(&mut *to).poll_write(cx, &self.kept[self.taken..]);
            let count = ready!(written).map_err(|error| (WhichSide::Upstream, error))?;
            self.taken += count;
            self.unflushed = true;
            moved(count);
        }
        if !self.kept.is_empty() {
            self.kept.clear();
            self.taken = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads one chunk and writes it on; `Pending` while there is nothing to read.
    pub(super) fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut NetStream,
        to: &mut NetStream,
        moved: &impl Fn(usize),
    ) -> Result<Poll<()>, SideFailure> {
        CHUNK.with_borrow_mut(|chunk| {
            let mut buf = ReadBuf::new(chunk);
            let filled = match fill_buffer(cx, from, &mut buf) {
                FillResult::Nothing => return Ok(Poll::Pending),
                FillResult::Failed(error) => {
                    self.keep(buf.filled());
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
                match Pin::new(&mut *to).poll_write(cx, &filled[taken..]) {
                    Poll::Ready(Ok(count)) => taken += count,
                    stopped => {
                        self.keep(&filled[taken..]);
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

    /// Nothing more to read for now: flushes what TLS is holding back.
    fn poll_flush(&mut self, cx: &mut Context<'_>, to: &mut NetStream) -> Poll<Result<(), SideFailure>> {
        if self.unflushed {
            ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(|error| (WhichSide::Upstream, error))?;
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

/// Reads until the buffer is full or nothing more is available: TLS yields one record at a time, and several
/// are written on in one call.
fn fill_buffer(cx: &mut Context<'_>, from: &mut NetStream, buf: &mut ReadBuf<'_>) -> FillResult {
    loop {
        let before = buf.filled().len();
        match Pin::new(&mut *from).poll_read(cx, buf) {
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
    use crate::{gateway::idle_watch::SOCKET_CHECK_INTERVAL, tests::allocations};

    /// What the runtime's timers and a vector that grows ask for, whatever the number of chunks.
    const ALLOCATIONS_MAX: usize = 16;

    async fn pipe() -> (NetStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("it is bound");
        let (outer, inner) = tokio::join!(TcpStream::connect(at), listener.accept());
        (NetStream::Tcp(inner.expect("it connects").0), outer.expect("it connects"))
    }

    /// Relays between two pipes while `talk` plays both ends.
    async fn relayed(
        talk: impl AsyncFnOnce(&mut TcpStream, &mut TcpStream),
    ) -> (RelayOutcome, SessionCounters) {
        let ((mut downstream, mut client), (mut upstream, mut backend)) = (pipe().await, pipe().await);
        let (counters, permits) = (SessionCounters::default(), SessionPermits::of_test());
        let relaying = async {
            let end =
                relay(&permits, &mut downstream, &mut upstream, Vec::new(), None, &counters, None).await;
            downstream.let_close_cleanly();
            upstream.let_close_cleanly();
            drop((downstream, upstream));
            end
        };
        let (end, ()) = tokio::join!(relaying, talk(&mut client, &mut backend));
        (end, counters)
    }

    async fn all(stream: &mut TcpStream) -> Vec<u8> {
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.expect("a clean end");
        received
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
                let mut received = Vec::new();
                // Small reads, so that the receive window closes again and again.
                while backend.take(3_000).read_to_end(&mut received).await.expect("bytes") > 0 {}
                backend.shutdown().await.expect("it ends");
                received
            };
            let ((), received) = tokio::join!(writing, reading);
            assert!(received == sent, "{} bytes", received.len());
        })
        .await;
        assert!(matches!(end, RelayOutcome::Clean), "{end:?}");
        assert_eq!(counters.bytes(), sent.len() as u64);
    }

    /// Each chunk of a thousand is more than a slow reader takes at once, so something is kept of most of them.
    #[tokio::test]
    async fn a_chunk_asks_for_no_memory_however_slow_its_receiver_is() {
        const CHUNKS: usize = 1000;
        for read_bytes in [CHUNK_BYTES, 7_000] {
            let (end, counters) = relayed(async |client, backend| {
                let (sent, mut received) = (vec![7; CHUNK_BYTES], vec![0; read_bytes]);
                let mut asked = [0; 2];
                for (bytes, asked) in [16 * CHUNK_BYTES, CHUNKS * CHUNK_BYTES].into_iter().zip(&mut asked) {
                    let before = allocations::so_far();
                    let writing = async {
                        for _ in 0..bytes / CHUNK_BYTES {
                            client.write_all(&sent).await.expect("it is taken");
                        }
                    };
                    let reading = async {
                        let mut left = bytes;
                        while left > 0 {
                            let most = read_bytes.min(left);
                            left -= backend.read(&mut received[..most]).await.expect("bytes");
                            tokio::task::yield_now().await;
                        }
                    };
                    tokio::join!(writing, reading);
                    *asked = allocations::so_far() - before;
                }
                assert!(asked[1] <= ALLOCATIONS_MAX, "{asked:?} for reads of {read_bytes} bytes");
                client.shutdown().await.expect("it ends");
                backend.shutdown().await.expect("it ends");
            })
            .await;
            assert!(matches!(end, RelayOutcome::Clean), "{end:?}");
            assert_eq!(counters.bytes(), ((CHUNKS + 16) * CHUNK_BYTES) as u64);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_hour_of_silence_ends_at_the_idle_limit() {
        let ((mut downstream, _client), mut upstream) = (pipe().await, NetStream::Echo(Box::default()));
        let (counters, idle) = (SessionCounters::default(), Duration::from_secs(3600));
        let permits = SessionPermits::of_test();
        let began = tokio::time::Instant::now();
        let end =
            relay(&permits, &mut downstream, &mut upstream, Vec::new(), None, &counters, Some(idle)).await;
        assert!(matches!(end, RelayOutcome::Idle), "{end:?}");
        let took = began.elapsed();
        assert!(took >= idle && took <= idle + 2 * SOCKET_CHECK_INTERVAL, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_may_be_silent_behind_its_end_and_not_leave() {
        let ((mut downstream, mut client), (mut upstream, mut backend)) = (pipe().await, pipe().await);
        let (counters, hour) = (SessionCounters::default(), Duration::from_secs(3600));
        let permits = SessionPermits::of_test();
        let relaying = relay(&permits, &mut downstream, &mut upstream, Vec::new(), None, &counters, None);
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
        assert!(left.elapsed() <= 5 * SOCKET_CHECK_INTERVAL, "{:?}", left.elapsed());
    }

    #[tokio::test]
    async fn a_session_whose_client_is_cut_before_its_first_turn_relays() {
        let ((mut downstream, client), (mut upstream, _backend)) = (pipe().await, pipe().await);
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("it is open");
        drop(client);
        while !downstream.tcp().is_some_and(tcp::is_closed) {
            tokio::task::yield_now().await;
        }
        let (counters, permits) = (SessionCounters::default(), SessionPermits::of_test());
        let relayed =
            relay(&permits, &mut downstream, &mut upstream, Vec::new(), None, &counters, None).await;
        assert!(matches!(relayed, RelayOutcome::Failed(WhichSide::Downstream, _)), "{relayed:?}");
        assert_eq!(counters.phase(), SessionPhase::Relaying);
    }
}
