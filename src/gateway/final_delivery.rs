//! The last part of a session after one of its sides has failed.
//!
//! Whatever the failed side sent is still delivered to the other side, at that side's own speed. That is the
//! bytes this gateway has read, and those the kernel still holds for a socket that was reset (Linux keeps them
//! until they are read). The other side may be reset only after it has acknowledged everything, because with
//! linger 0 a reset discards what the kernel has not sent yet. What the other side sends in the meantime is
//! dropped.
//!
//! How the sides are reset, and which end code the session gets, is decided by the session.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use tokio::{
    io::AsyncWrite,
    task::coop,
    time::{Instant, sleep},
};

use super::relay::{DirectionState, RelayDirection, WhichSide};
use crate::{
    net::{stream::NetStream, tcp, timeout::STALLED_MAX},
    telemetry::registry::SessionCounters,
};

/// Delivers what the `failed` side had sent to the other side; returns the error that explains the failure
/// best.
pub async fn deliver_remaining(
    failed: WhichSide,
    direction: &mut RelayDirection,
    (from, to): (&mut NetStream, &mut NetStream),
    error: io::Error,
    counters: &SessionCounters,
) -> io::Error {
    // A socket reports its error once, and then shows an end. That end is real only if a write failed because a
    // peer that had finished sending was gone, which is EPIPE and not ECONNRESET (tcp(7)).
    from.stop_pacing();
    let may_end = direction.has_ended() || error.kind() == io::ErrorKind::BrokenPipe;
    let mut rest = FinalDelivery { direction, from, to, error, may_end };
    let moved = |bytes| match failed {
        WhichSide::Downstream => counters.add_up(bytes),
        WhichSide::Upstream => counters.add_down(bytes),
    };
    let mut stalled = pin!(sleep(STALLED_MAX));
    let is_delivered = poll_fn(|cx| {
        let before = counters.bytes();
        let polled = rest.poll(cx, &moved);
        if counters.bytes() != before {
            stalled.as_mut().reset(Instant::now() + STALLED_MAX);
        }
        if polled.is_pending() { stalled.as_mut().poll(cx).map(|()| false) } else { polled }
    })
    .await;
    let FinalDelivery { to, error, .. } = rest;
    if is_delivered && let Some(socket) = to.tcp() {
        tcp::await_acknowledged(socket, STALLED_MAX).await;
    }
    error
}

struct FinalDelivery<'a> {
    direction: &'a mut RelayDirection,
    from: &'a mut NetStream,
    to: &'a mut NetStream,
    error: io::Error,
    may_end: bool,
}

impl FinalDelivery<'_> {
    /// Whether everything was delivered, as far as this gateway can tell.
    fn poll(&mut self, cx: &mut Context<'_>, moved: &impl Fn(usize)) -> Poll<bool> {
        loop {
            if ready!(self.direction.poll_kept(cx, self.to, moved)).is_err() {
                return Poll::Ready(false);
            }
            match self.direction.state {
                DirectionState::Reading => ready!(self.poll_more(cx, moved)),
                DirectionState::Ending => match ready!(Pin::new(&mut *self.to).poll_shutdown(cx)) {
                    Ok(()) => self.direction.state = DirectionState::Ended,
                    Err(_) => return Poll::Ready(false),
                },
                DirectionState::Ended | DirectionState::Lost => {
                    return Poll::Ready(ready!(Pin::new(&mut *self.to).poll_flush(cx)).is_ok());
                }
            }
        }
    }

    /// Keeps reading after a write has failed, or after the socket has reported its error.
    fn poll_more(&mut self, cx: &mut Context<'_>, moved: &impl Fn(usize)) -> Poll<()> {
        match self.direction.poll_chunk(cx, self.from, self.to, moved) {
            Ok(Poll::Ready(())) => {}
            // The runtime may not have noticed yet what a closed socket still holds, or it lets other tasks run
            // first.
            Ok(Poll::Pending) if !coop::has_budget_remaining() || self.is_closed() => return Poll::Pending,
            Ok(Poll::Pending) => self.direction.state = DirectionState::Lost,
            // The first error explains the failure best.
            Err((WhichSide::Downstream, _)) => {}
            Err((WhichSide::Upstream, _)) => self.direction.state = DirectionState::Lost,
        }
        if self.direction.state == DirectionState::Ending && !self.may_end {
            self.direction.state = DirectionState::Lost;
        }
        Poll::Ready(())
    }

    /// Whether reading from it is bound to end by itself.
    fn is_closed(&self) -> bool {
        self.from.tcp().is_some_and(tcp::is_closed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::tests::happens_after;

    /// The gateway's end of a connection, and the other one.
    async fn connected() -> (NetStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("it is bound");
        let (outer, inner) = tokio::join!(TcpStream::connect(at), listener.accept());
        (NetStream::Tcp(inner.expect("it connects").0), outer.expect("it connects"))
    }

    fn cut(stream: TcpStream) {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("it is open");
        drop(stream);
    }

    /// Waits until its socket has been reset, without reading it.
    async fn until_closed(side: &NetStream) {
        while !side.tcp().is_some_and(tcp::is_closed) {
            tokio::task::yield_now().await;
        }
    }

    fn kept(bytes: &[u8]) -> RelayDirection {
        RelayDirection::starting_with(bytes.to_vec())
    }

    #[tokio::test]
    async fn what_the_kernel_holds_of_a_socket_that_was_reset_is_delivered() {
        let ((mut upstream, mut backend), (mut downstream, mut client)) =
            (connected().await, connected().await);
        backend.write_all(&[7; 60_000]).await.expect("it is taken");
        tcp::await_acknowledged(&backend, STALLED_MAX).await;
        cut(backend);
        until_closed(&upstream).await;
        let reported = upstream.tcp().and_then(|socket| socket.take_error().expect("it is open"));
        let (mut direction, counters) = (kept(b"kept"), SessionCounters::default());
        let error = reported.expect("it tells it");
        let delivering = async {
            let error = deliver_remaining(
                WhichSide::Upstream,
                &mut direction,
                (&mut upstream, &mut downstream),
                error,
                &counters,
            )
            .await;
            drop(downstream);
            error
        };
        let mut received = Vec::new();
        let (error, _) = tokio::join!(delivering, client.read_to_end(&mut received));
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(received == [&b"kept"[..], &[7; 60_000]].concat(), "{} bytes", received.len());
        assert_eq!(counters.bytes(), 60_004);
        // The socket has reported its error, and now shows an end that is not real.
        assert_eq!(direction.state, DirectionState::Lost);
    }

    #[tokio::test]
    async fn an_end_before_the_reset_is_passed_on_as_one() {
        let ((mut upstream, mut backend), (mut downstream, mut client)) =
            (connected().await, connected().await);
        backend.write_all(b"last").await.expect("it is taken");
        drop(backend);
        let mut error = None;
        while error.is_none() {
            error = poll_fn(|cx| Pin::new(&mut upstream).poll_write(cx, b"?")).await.err();
            tokio::task::yield_now().await;
        }
        let error = error.expect("nobody reads it");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        let (mut direction, counters) = (RelayDirection::default(), SessionCounters::default());
        deliver_remaining(
            WhichSide::Upstream,
            &mut direction,
            (&mut upstream, &mut downstream),
            error,
            &counters,
        )
        .await;
        assert_eq!(direction.state, DirectionState::Ended);
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.expect("a clean end");
        assert_eq!(received, b"last");
    }

    #[tokio::test(start_paused = true)]
    async fn final_delivery_does_not_wait_for_a_live_silent_sender() {
        let ((mut upstream, _backend), (mut downstream, mut client)) = (connected().await, connected().await);
        let (mut direction, counters, began) = (kept(b"kept"), SessionCounters::default(), Instant::now());
        let error = io::ErrorKind::TimedOut.into();
        deliver_remaining(
            WhichSide::Upstream,
            &mut direction,
            (&mut upstream, &mut downstream),
            error,
            &counters,
        )
        .await;
        let mut received = [0; 4];
        client.read_exact(&mut received).await.expect("bytes");
        assert_eq!((received, direction.state), (*b"kept", DirectionState::Lost));
        assert!(began.elapsed() <= STALLED_MAX, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_takes_nothing_is_not_waited_for_longer() {
        let ((mut upstream, backend), (mut downstream, _client)) = (connected().await, connected().await);
        cut(backend);
        until_closed(&upstream).await;
        let full = async {
            while poll_fn(|cx| Poll::Ready(Pin::new(&mut downstream).poll_write(cx, &[7; 65_536]).is_ready()))
                .await
            {
                tokio::task::yield_now().await;
            }
        };
        full.await;
        let (mut direction, counters) = (kept(&[7; 1 << 20]), SessionCounters::default());
        let error = io::ErrorKind::ConnectionReset.into();
        let streams = (&mut upstream, &mut downstream);
        let delivering = deliver_remaining(WhichSide::Upstream, &mut direction, streams, error, &counters);
        happens_after(STALLED_MAX, delivering).await;
    }
}
