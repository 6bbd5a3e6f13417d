//! What every TCP socket of a session or a link is told, and how a dead one is recognised.
//!
//! Linger 0 is armed from the first moment, so that a socket which is dropped, or whose process
//! is killed, ends in a reset and never looks like a clean end; [`let_close_cleanly`] takes it back.

use std::{io, os::fd::AsFd, time::Duration};

use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

use super::sys;

/// Silence after which the kernel asks a peer gateway whether it is there: 4 s and two questions
/// 2 s apart notice a black hole in 8 s, within the promised 10.
const LINK_KEEPALIVE: Keepalive = Keepalive { idle: 4, interval: 2, questions: 2 };
/// The same for clients and backends, which may sit behind slow or sleeping networks.
const EDGE_KEEPALIVE: Keepalive = Keepalive { idle: 30, interval: 10, questions: 3 };
/// Unacknowledged for so long, a ready link is dead. Only for ready links: on a carrying one it
/// would also end a living peer that does not read.
const READY_USER_TIMEOUT: Duration = Duration::from_secs(8);
/// Retransmits and window probes of a link come at least this often, so that silence tells.
const LINK_RTO_MAX_MS: u32 = 2_500;
/// No acknowledgement for so long, with questions unanswered: the path or the peer is gone.
const SILENT_MS_MAX: u32 = 6_500;
/// Unanswered questions before silence counts.
const QUESTIONS_MIN: u8 = 2;

/// Between two looks at what is acknowledged.
const ACKNOWLEDGED_LOOK_MAX: Duration = Duration::from_millis(50);
/// Of `tcpi_state` (include/net/tcp_states.h).
const TCP_CLOSE: u8 = 7;

struct Keepalive {
    idle: u64,
    interval: u64,
    questions: u32,
}

/// Options of the sockets that a client port accepts, set on the listening one: accepted sockets
/// inherit them (tcp(7)), which saves six system calls a session.
pub fn prepare_clients(listener: &Socket) -> io::Result<()> {
    listener.set_tcp_nodelay(true)?;
    listener.set_linger(Some(Duration::ZERO))?;
    listener.set_tcp_keepalive(&EDGE_KEEPALIVE.options())
}

/// Options of a backend's socket, but for [`keep_edge_alive`].
pub fn prepare_backend(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

/// Asks a silent backend from time to time whether it is there; for a session that lasts.
pub fn keep_edge_alive(stream: &TcpStream) {
    // Fails only on a socket that is already gone, as the session will find out.
    let _ = SockRef::from(stream).set_tcp_keepalive(&EDGE_KEEPALIVE.options());
}

/// Options of a link's socket while it is greeted and ready.
pub fn prepare_link(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_keepalive(&LINK_KEEPALIVE.options())?;
    SockRef::from(stream).set_tcp_user_timeout(Some(READY_USER_TIMEOUT))?;
    // An older kernel doubles its pauses up to two minutes; a black hole behind a shut window is
    // then noticed later, which is no reason to do without the link.
    let _ = sys::set_rto_max(stream.as_fd(), LINK_RTO_MAX_MS);
    Ok(())
}

/// A ready link begins to carry: from now on [`is_silent`] judges it, not TCP_USER_TIMEOUT, which
/// would end a living peer whose window is shut.
pub fn link_carries(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_tcp_user_timeout(None)
}

/// Takes linger 0 back: what is still in the send buffer is delivered, then a clean end.
pub fn let_close_cleanly(stream: &TcpStream) {
    // Fails only on a socket that is already gone, which then needs no clean end.
    let _ = SockRef::from(stream).set_linger(None);
}

/// Waits until the other end's kernel has acknowledged all that was sent, the end included; not for one
/// that acknowledges nothing for `stalled`.
pub async fn acknowledged(stream: &TcpStream, stalled: Duration) {
    // The kernel has no event for it.
    let (mut left, mut pause, mut give_up) = (outstanding(stream), Duration::from_millis(1), None);
    while left != (0, 0) {
        let give_up_at = *give_up.get_or_insert_with(|| Instant::now() + stalled);
        sleep(pause).await;
        pause = (2 * pause).min(ACKNOWLEDGED_LOOK_MAX);
        match std::mem::replace(&mut left, outstanding(stream)) {
            before if before != left => give_up = None,
            _ if Instant::now() >= give_up_at => return,
            _ => {}
        }
    }
}

/// Segments that are sent and not acknowledged, and bytes that are not sent.
fn outstanding(stream: &TcpStream) -> (u32, u32) {
    let info = sys::tcp_info(stream.as_fd());
    info.map_or((0, 0), |info| (info.tcpi_unacked, info.tcpi_notsent_bytes))
}

/// Whether its connection is over, by a reset or by the kernel's having given it up.
pub fn is_closed(stream: &TcpStream) -> bool {
    sys::tcp_info(stream.as_fd()).is_ok_and(|info| info.tcpi_state == TCP_CLOSE)
}

/// Whether a carrying link's other end has left questions unanswered for too long.
///
/// A peer that acknowledges and does not read answers every window probe, so its count of
/// unanswered questions stays at 0 or 1: it is slow, not dead.
pub fn is_silent(stream: &TcpStream) -> bool {
    let Ok(info) = sys::tcp_info(stream.as_fd()) else { return false };
    let unanswered = info.tcpi_retransmits.max(info.tcpi_probes);
    unanswered >= QUESTIONS_MIN && info.tcpi_last_ack_recv >= SILENT_MS_MAX
}

/// Whether something was sent, or waits to be sent, that the other end has not acknowledged.
pub fn awaits_acknowledgement(stream: &TcpStream) -> bool {
    sys::tcp_info(stream.as_fd()).is_ok_and(|info| info.tcpi_unacked > 0 || info.tcpi_notsent_bytes > 0)
}

impl Keepalive {
    fn options(&self) -> TcpKeepalive {
        TcpKeepalive::new()
            .with_time(Duration::from_secs(self.idle))
            .with_interval(Duration::from_secs(self.interval))
            .with_retries(self.questions)
    }
}
