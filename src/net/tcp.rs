//! The options of every TCP socket of a session or a link, and how a dead connection is recognised.
//!
//! Linger 0 is set from the first moment, so that a socket which is dropped, or whose process is killed, ends
//! in a reset and never looks like a clean end; [`let_close_cleanly`] takes it back.

use std::{
    io,
    mem::MaybeUninit,
    net::IpAddr,
    os::fd::AsFd,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::{
    io::Interest,
    net::{TcpSocket, TcpStream},
    time::{Instant, sleep},
};

use super::socket_options;

/// After this silence the kernel asks a peer gateway whether it is there: after 3 s, and then four probes 2 s
/// apart. If the connection stands still for 5 s, one of them is still answered; if it is dead, that is noticed
/// in 11 s.
const LINK_KEEPALIVE: KeepaliveSettings = KeepaliveSettings { idle: 3, interval: 2, probes: 4 };
/// How the kernel asks clients and backends, whose networks may be slow or sleeping.
const EDGE_KEEPALIVE: KeepaliveSettings = KeepaliveSettings { idle: 30, interval: 10, probes: 3 };
/// If nothing is acknowledged for this long, a ready link is dead. This is only for ready links: on a link in
/// use it would also end a living peer that does not read.
const READY_LINK_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// Retransmits and window probes of a link come at least this often. So silence is meaningful, and a connection
/// that works again is used before the other end is taken for dead.
const LINK_RTO_MAX_MS: u32 = 1_000;
/// If a SOCKS5 link in use has data on its way and no acknowledgement for this long, the path or the peer is
/// gone.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(7);
/// How many unanswered probes there must be before silence counts.
const KEEPALIVE_PROBES_MIN: u8 = 2;

/// The longest time between two checks of what is acknowledged.
const ACKNOWLEDGED_CHECK_MAX: Duration = Duration::from_millis(50);
/// A value of `tcpi_state` (include/net/tcp_states.h).
const TCP_CLOSE: u8 = 7;

struct KeepaliveSettings {
    idle: u64,
    interval: u64,
    probes: u32,
}

/// Options for the sockets that a client port accepts. They are set on the listening socket and inherited
/// (tcp(7)), which saves six system calls per session.
pub fn prepare_clients(listener: &Socket) -> io::Result<()> {
    listener.set_tcp_nodelay(true)?;
    listener.set_linger(Some(Duration::ZERO))?;
    listener.set_tcp_keepalive(&EDGE_KEEPALIVE.options())
}

/// A new socket to dial with. A dial may be given up at the very moment at which the other end accepts it, so linger 0
/// is set before it connects.
pub fn new_dialling_socket(to: IpAddr) -> io::Result<TcpSocket> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
    Ok(socket)
}

/// Asks a silent backend from time to time whether it is there; for sessions that last.
pub fn keep_edge_alive(stream: &TcpStream) {
    // This fails only on a socket that is already gone, as the session will find out.
    let _ = SockRef::from(stream).set_tcp_keepalive(&EDGE_KEEPALIVE.options());
}

/// Options of a link's socket during its handshake and while it is ready.
pub fn prepare_link(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_keepalive(&LINK_KEEPALIVE.options())?;
    SockRef::from(stream).set_tcp_user_timeout(Some(READY_LINK_USER_TIMEOUT))?;
    // An older kernel doubles its pauses up to two minutes. A dead connection with a closed window is then
    // noticed later, but the link is kept anyway.
    let _ = socket_options::set_rto_max(stream.as_fd(), LINK_RTO_MAX_MS);
    Ok(())
}

/// Prepares a ready link for use: from now on pings or [`SocksLinkWatch`] judge it, not TCP_USER_TIMEOUT, which
/// would end a living peer whose window is closed.
pub fn prepare_busy_link(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_tcp_user_timeout(None)
}

/// Removes linger 0: what is still in the send buffer is delivered, followed by a clean end.
pub fn let_close_cleanly(stream: &TcpStream) {
    // This fails only on a socket that is already gone, which then needs no clean end.
    let _ = SockRef::from(stream).set_linger(None);
}

/// Whether something waits to be read, even an end or an error. The kernel is asked, since the runtime may not
/// have noticed yet what has just arrived.
pub fn has_unread(stream: &impl AsFd) -> bool {
    let peeked = SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]);
    !peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Whether bytes wait to be read. They go before an error, which a socket tells only once: if there are none, it may
/// have reported it here.
pub fn has_unread_bytes(stream: &impl AsFd) -> bool {
    SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]).is_ok_and(|count| count > 0)
}

/// Ready when the unsent bytes are below TCP_NOTSENT_LOWAT. A write would be accepted earlier: the kernel
/// checks this only when it begins a buffer, and a buffer holds 64 KiB.
pub fn poll_wants_more(stream: &TcpStream, cx: &mut Context<'_>) -> Poll<()> {
    loop {
        if ready!(stream.poll_write_ready(cx)).is_err() {
            return Poll::Ready(());
        }
        let asked = || if wants_more(stream) { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) };
        if stream.try_io(Interest::WRITABLE, asked).is_ok() {
            return Poll::Ready(());
        }
    }
}

fn wants_more(stream: &TcpStream) -> bool {
    let mut wanted = [PollFd::new(stream, PollFlags::OUT)];
    // The next write reports what has failed.
    poll(&mut wanted, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).map_or(true, |ready| ready > 0)
}

/// Waits until the other end's kernel has acknowledged everything that was sent, including the end. Gives up on
/// one that acknowledges nothing for `stalled`.
pub async fn await_acknowledged(stream: &TcpStream, stalled: Duration) {
    // The kernel has no event for this.
    let (mut left, mut pause, mut give_up) = (outstanding(stream), Duration::from_millis(1), None);
    while left != (0, 0) {
        let give_up_at = *give_up.get_or_insert_with(|| Instant::now() + stalled);
        sleep(pause).await;
        pause = (2 * pause).min(ACKNOWLEDGED_CHECK_MAX);
        match std::mem::replace(&mut left, outstanding(stream)) {
            before if before != left => give_up = None,
            _ if Instant::now() >= give_up_at => return,
            _ => {}
        }
    }
}

/// Segments that were sent and not acknowledged, and bytes that were not sent.
fn outstanding(stream: &TcpStream) -> (u32, u32) {
    let info = socket_options::tcp_info(stream.as_fd());
    info.map_or((0, 0), |info| (info.tcpi_unacked, info.tcpi_notsent_bytes))
}

/// The number of segments sent, and of those sent again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SegmentCounts {
    pub sent: u32,
    pub resent: u32,
}

pub fn count_segments(stream: &TcpStream) -> Option<SegmentCounts> {
    let info = socket_options::tcp_info(stream.as_fd()).ok()?;
    Some(SegmentCounts { sent: info.tcpi_segs_out, resent: info.tcpi_total_retrans })
}

/// Whether its connection is over, by a reset or because the kernel has given up.
pub fn is_closed(stream: &TcpStream) -> bool {
    socket_options::tcp_info(stream.as_fd()).is_ok_and(|info| info.tcpi_state == TCP_CLOSE)
}

/// How long the other end's kernel has acknowledged nothing of what is on its way to it; `None` if nothing is
/// on its way.
///
/// A peer that acknowledges and does not read answers every window probe, so its count of unanswered probes
/// stays at 0 or 1: it is slow, not dead.
pub fn unacknowledged_for(stream: &TcpStream) -> Option<Duration> {
    let info = socket_options::tcp_info(stream.as_fd()).ok()?;
    if info.tcpi_unacked == 0 && info.tcpi_notsent_bytes == 0 {
        return None;
    }
    let unanswered = info.tcpi_retransmits.max(info.tcpi_probes);
    Some(match unanswered >= KEEPALIVE_PROBES_MIN {
        true => Duration::from_millis(info.tcpi_last_ack_recv.into()),
        false => Duration::ZERO,
    })
}

/// Whether the other end of a SOCKS5 link in use is there, as far as its kernel shows. It is measured from when
/// data was first seen on its way, since before that there was nothing to acknowledge.
#[derive(Debug, Default)]
pub struct SocksLinkWatch {
    since: Option<Instant>,
}

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledgement {
    All,
    /// Data is on its way.
    NotYet,
    /// Data is on its way, and nothing has been acknowledged for [`ACK_TIMEOUT`].
    Never,
}

impl SocksLinkWatch {
    pub fn check(&mut self, stream: &TcpStream) -> Acknowledgement {
        self.note(unacknowledged_for(stream), Instant::now())
    }

    /// Judges the link by the kernel's figures.
    pub fn note(&mut self, unacknowledged: Option<Duration>, now: Instant) -> Acknowledgement {
        let Some(silent) = unacknowledged else {
            self.since = None;
            return Acknowledgement::All;
        };
        let since = *self.since.get_or_insert(now);
        match silent.min(now - since) >= ACK_TIMEOUT {
            true => Acknowledgement::Never,
            false => Acknowledgement::NotYet,
        }
    }
}

impl KeepaliveSettings {
    fn options(&self) -> TcpKeepalive {
        TcpKeepalive::new()
            .with_time(Duration::from_secs(self.idle))
            .with_interval(Duration::from_secs(self.interval))
            .with_retries(self.probes)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;

    const LOW_WATER: u32 = 4096;

    #[tokio::test]
    async fn the_kernel_asks_for_more_when_little_waits_and_takes_more_before() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("it listens");
        let (sender, accepted) = tokio::join!(TcpStream::connect(at), listener.accept());
        let (sender, (mut reader, _)) = (sender.expect("it listens"), accepted.expect("one comes"));
        SockRef::from(&sender).set_tcp_notsent_lowat(LOW_WATER).expect("Linux has it");
        // Until the reader's window is full.
        while poll_fn(|cx| Poll::Ready(poll_wants_more(&sender, cx))).await.is_ready() {
            let written = sender.try_write(&[0; LOW_WATER as usize]).expect("it asked for more");
            assert!(written > 0);
        }
        let (_, unsent) = outstanding(&sender);
        assert!((LOW_WATER / 2..=2 * LOW_WATER).contains(&unsent), "{unsent}");
        SockRef::from(&sender).send(&[0; 1024]).expect("what fits the last buffer is taken");
        let reading = async { while reader.read(&mut [0; 65_536]).await.is_ok_and(|count| count > 0) {} };
        tokio::select! {
            () = poll_fn(|cx| poll_wants_more(&sender, cx)) => {}
            () = reading => panic!("nobody has ended it"),
        }
        assert!(outstanding(&sender).1 < LOW_WATER / 2);
    }

    /// The kernel's clock is not paused. One that carries is judged otherwise, and stays.
    #[tokio::test]
    async fn a_ready_link_whose_other_end_takes_nothing_is_ended_in_time() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("it is bound");
        let (mut streams, mut silent) = (Vec::new(), Vec::new());
        for prepare in [prepare_link, prepare_busy_link] {
            let (ours, theirs) = tokio::join!(TcpStream::connect(at), listener.accept());
            let ours = ours.expect("it connects");
            prepare_link(&ours).and_then(|()| prepare(&ours)).expect("it is open");
            // Until both kernels hold as much as they take, and for a moment longer.
            let fills = async {
                loop {
                    ours.writable().await.expect("it lives");
                    // It may be full again.
                    let _ = ours.try_write(&[0; 65_536]);
                }
            };
            let filled: Result<(), _> = tokio::time::timeout(Duration::from_millis(500), fills).await;
            filled.expect_err("nobody reads it");
            streams.push(ours);
            silent.push(theirs);
        }
        let began = Instant::now();
        let ended = streams[0].ready(tokio::io::Interest::ERROR);
        tokio::time::timeout(2 * READY_LINK_USER_TIMEOUT, ended)
            .await
            .expect("it ends")
            .expect("it is watched");
        let took = began.elapsed() + Duration::from_secs(2);
        assert!(took >= READY_LINK_USER_TIMEOUT && took < READY_LINK_USER_TIMEOUT * 3 / 2, "{took:?}");
        assert!(!is_closed(&streams[1]));
    }

    #[test]
    fn silence_begins_with_what_is_on_its_way_and_not_before() {
        let (mut delivery, began) = (SocksLinkWatch::default(), Instant::now());
        let at = |seconds: u64| began + Duration::from_secs(seconds);
        let idle_for = |seconds: u64| Some(Duration::from_secs(seconds));
        // An hour with nothing to acknowledge, and then a connection that stands still for a moment.
        assert_eq!(delivery.note(None, at(0)), Acknowledgement::All);
        assert_eq!(delivery.note(idle_for(3600), at(3600)), Acknowledgement::NotYet);
        assert_eq!(delivery.note(idle_for(3606), at(3606)), Acknowledgement::NotYet);
        assert_eq!(delivery.note(None, at(3606)), Acknowledgement::All);
        assert_eq!(delivery.note(idle_for(3610), at(3610)), Acknowledgement::NotYet);
        assert_eq!(delivery.note(idle_for(3617), at(3617)), Acknowledgement::Never);
    }

    #[test]
    fn who_acknowledges_now_and_then_is_slow_and_not_gone() {
        let (mut delivery, began) = (SocksLinkWatch::default(), Instant::now());
        for second in 0..1000 {
            let silent = Duration::from_secs(second % 7);
            let seen = delivery.note(Some(silent), began + Duration::from_secs(second));
            assert_eq!(seen, Acknowledgement::NotYet, "second {second}");
        }
    }
}
