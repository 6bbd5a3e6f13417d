//! The last of a session one side of which has failed.
//!
//! What that side had sent goes to the other one first, as fast as that takes it: what this gateway has read,
//! and what the kernel holds of a socket that was reset, which Linux keeps until it is read. Only when all
//! of it has been acknowledged may the other side be reset: with linger 0 a reset throws away what the
//! kernel has not sent yet. What the other side still says reaches nobody any more.
//!
//! How the sides are reset, and what the session's end is called, is the session's business.

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    task::coop,
    time::{Instant, sleep},
};

use super::relay::{Direction, Side, Step};
use crate::{
    link::{leg::Leg, trouble::Trouble},
    net::tcp,
    telemetry::registry::Meter,
};

/// A receiver that takes nothing for so long gets no more. There is no limit to the whole, since a
/// side that has failed sends nothing new.
const STALLED_MAX: Duration = Duration::from_secs(5);

/// Delivers what the `failed` side had sent to the other one; the error that tells best why it failed.
pub async fn deliver(
    failed: Side,
    direction: &mut Direction,
    (from, to): (&mut Leg, &mut Leg),
    error: io::Error,
    meter: &Meter,
) -> io::Error {
    // A socket tells its error once, and then shows an end. That was one only where a peer that has
    // finished sending is what the write has failed at, which is EPIPE and not ECONNRESET (tcp(7)).
    let may_end = direction.has_ended() || error.kind() == io::ErrorKind::BrokenPipe;
    let mut rest = Rest { direction, from, to, error, may_end };
    let moved = |bytes| match failed {
        Side::Near => meter.add_up(bytes),
        Side::Far => meter.add_down(bytes),
    };
    let mut stalled = pin!(sleep(STALLED_MAX));
    let is_delivered = poll_fn(|cx| {
        let before = meter.bytes();
        let polled = rest.poll(cx, &moved);
        if meter.bytes() != before {
            stalled.as_mut().reset(Instant::now() + STALLED_MAX);
        }
        if polled.is_pending() { stalled.as_mut().poll(cx).map(|()| false) } else { polled }
    })
    .await;
    let Rest { to, error, .. } = rest;
    if is_delivered && let Some(socket) = to.tcp() {
        tcp::acknowledged(socket, STALLED_MAX).await;
    }
    error
}

struct Rest<'a> {
    direction: &'a mut Direction,
    from: &'a mut Leg,
    to: &'a mut Leg,
    error: io::Error,
    may_end: bool,
}

impl Rest<'_> {
    /// Whether all was delivered, as far as this gateway can tell.
    fn poll(&mut self, cx: &mut Context<'_>, moved: &impl Fn(usize)) -> Poll<bool> {
        // A link that is not heard takes no more either: its answers are owed and its own wait.
        if self.to.poll_ignored(cx).is_ready() {
            return Poll::Ready(false);
        }
        loop {
            if ready!(self.direction.poll_kept(cx, self.to, moved)).is_err() {
                return Poll::Ready(false);
            }
            match self.direction.step {
                Step::Reading => ready!(self.poll_more(cx, moved)),
                Step::Ending => match ready!(self.to.poll_shutdown(cx)) {
                    Ok(()) => self.direction.step = Step::Ended,
                    Err(_) => return Poll::Ready(false),
                },
                Step::Ended | Step::Lost => {
                    return Poll::Ready(ready!(self.to.poll_flush(cx)).is_ok());
                }
            }
        }
    }

    /// Reads on where a write has failed, or the socket has told its error.
    fn poll_more(&mut self, cx: &mut Context<'_>, moved: &impl Fn(usize)) -> Poll<()> {
        match self.direction.poll_chunk(cx, self.from, self.to, moved) {
            Ok(Poll::Ready(())) => {}
            // It may be that the runtime has yet to hear what a closed socket holds, or lets others go first.
            Ok(Poll::Pending) if !coop::has_budget_remaining() || self.is_closed() => return Poll::Pending,
            Ok(Poll::Pending) => self.direction.step = Step::Lost,
            Err((Side::Near, error)) => {
                // What a link says last names the cause; that it can not be written to does not.
                if Trouble::of(&error).is_some_and(Trouble::is_told) {
                    self.error = error;
                }
            }
            Err((Side::Far, _)) => self.direction.step = Step::Lost,
        }
        if self.direction.step == Step::Ending && !self.may_end {
            self.direction.step = Step::Lost;
        }
        Poll::Ready(())
    }

    /// Whether reading it comes to an end by itself.
    fn is_closed(&self) -> bool {
        self.from.tcp().is_some_and(tcp::is_closed)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::net::stream::Stream;

    /// The gateway's end of a connection, and the other one.
    async fn connected() -> (Leg, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("it is bound");
        let (outer, inner) = tokio::join!(TcpStream::connect(at), listener.accept());
        (Leg::Stream(Stream::Tcp(inner.expect("it connects").0)), outer.expect("it connects"))
    }

    fn cut(stream: TcpStream) {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("it is open");
        drop(stream);
    }

    /// Its socket has been reset, which is not seen yet.
    async fn until_closed(leg: &Leg) {
        while !leg.tcp().is_some_and(tcp::is_closed) {
            tokio::task::yield_now().await;
        }
    }

    fn kept(bytes: &[u8]) -> Direction {
        Direction::behind(bytes.to_vec(), false)
    }

    #[tokio::test]
    async fn what_the_kernel_holds_of_a_socket_that_was_reset_is_delivered() {
        let ((mut far, mut backend), (mut near, mut client)) = (connected().await, connected().await);
        backend.write_all(&[7; 60_000]).await.expect("it is taken");
        tcp::acknowledged(&backend, STALLED_MAX).await;
        cut(backend);
        until_closed(&far).await;
        let told = far.tcp().and_then(|socket| socket.take_error().expect("it is open"));
        let (mut direction, meter) = (kept(b"kept"), Meter::default());
        let error = told.expect("it tells it");
        let delivering = async {
            let error = deliver(Side::Far, &mut direction, (&mut far, &mut near), error, &meter).await;
            drop(near);
            error
        };
        let mut heard = Vec::new();
        let (error, _) = tokio::join!(delivering, client.read_to_end(&mut heard));
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(heard == [&b"kept"[..], &[7; 60_000]].concat(), "{} bytes", heard.len());
        assert_eq!(meter.bytes(), 60_004);
        // The socket has told its error, and shows an end now, which is none.
        assert_eq!(direction.step, Step::Lost);
    }

    #[tokio::test]
    async fn an_end_before_the_reset_is_passed_on_as_one() {
        let ((mut far, mut backend), (mut near, mut client)) = (connected().await, connected().await);
        backend.write_all(b"last").await.expect("it is taken");
        drop(backend);
        let mut error = None;
        while error.is_none() {
            error = poll_fn(|cx| far.poll_write(cx, b"?")).await.err();
            tokio::task::yield_now().await;
        }
        let error = error.expect("nobody reads it");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        let (mut direction, meter) = (Direction::default(), Meter::default());
        deliver(Side::Far, &mut direction, (&mut far, &mut near), error, &meter).await;
        assert_eq!(direction.step, Step::Ended);
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.expect("a clean end");
        assert_eq!(heard, b"last");
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_that_lives_and_says_nothing_is_not_waited_for() {
        let ((mut far, _backend), (mut near, mut client)) = (connected().await, connected().await);
        let (mut direction, meter, began) = (kept(b"kept"), Meter::default(), Instant::now());
        let error = Trouble::Silent.into();
        deliver(Side::Far, &mut direction, (&mut far, &mut near), error, &meter).await;
        let mut heard = [0; 4];
        client.read_exact(&mut heard).await.expect("bytes");
        assert_eq!((heard, direction.step), (*b"kept", Step::Lost));
        assert!(began.elapsed() <= STALLED_MAX, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_takes_nothing_is_not_waited_for_longer() {
        let ((mut far, backend), (mut near, _client)) = (connected().await, connected().await);
        cut(backend);
        until_closed(&far).await;
        let full = async {
            while poll_fn(|cx| Poll::Ready(near.poll_write(cx, &[7; 65_536]).is_ready())).await {
                tokio::task::yield_now().await;
            }
        };
        full.await;
        let (mut direction, meter, began) = (kept(&[7; 1 << 20]), Meter::default(), Instant::now());
        let error = io::ErrorKind::ConnectionReset.into();
        deliver(Side::Far, &mut direction, (&mut far, &mut near), error, &meter).await;
        let took = began.elapsed();
        assert!(took >= STALLED_MAX && took < 3 * STALLED_MAX, "{took:?}");
    }
}
