//! A ready link of the half that opens: watched while it waits, given away once.
//!
//! The watch and whoever takes the link share it under a short lock that is never held across an
//! await, so taking it needs no answer from another task. A parked SOCKS5 link has nothing to say:
//! its end, or any byte, ends it. A link of our own answers pings, and may ask to be let go.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::{
    io::{AsyncRead, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::{
    framed::{Link, LinkEvent},
    liveness::ReadState,
    session_side::SessionSide,
};
use crate::{net::stream::NetStream, proto::link::frame::FrameKind};

/// A place that holds one ready link until it is taken or lost.
#[derive(Debug, Clone, Default)]
pub struct IdleLink(Arc<IdleLinkCell>);

#[derive(Debug, Default)]
struct IdleLinkCell {
    side: Mutex<Option<SessionSide>>,
    watch: AtomicWaker,
}

/// Why a link is no longer ready.
#[derive(Debug)]
pub enum RemovedReason {
    Taken,
    Lost(String),
    /// Over SOCKS5, which has no other goodbye: its peer has closed it in good order.
    Closed,
    /// It is to be closed in good order: its peer asks, it is worn, or there are too many.
    Leaves(Box<Link>),
}

impl IdleLink {
    pub fn new(leg: SessionSide) -> Self {
        Self(Arc::new(IdleLinkCell { side: Mutex::new(Some(leg)), watch: AtomicWaker::new() }))
    }

    /// Takes the link, if it is still there.
    pub fn claim(&self) -> Option<SessionSide> {
        let leg = self.lock().take();
        self.0.watch.wake();
        leg
    }

    /// Whether the link has been taken or lost.
    pub fn is_empty(&self) -> bool {
        self.lock().is_none()
    }

    /// Waits until the link is taken or lost; a lost one has been dropped when this returns.
    pub async fn watch(&self) -> RemovedReason {
        let first = self.lock().as_ref().and_then(next_check);
        // A parked SOCKS5 link is not looked at: it wakes nobody until it ends.
        let mut look = pin!(sleep_until(first.unwrap_or_else(Instant::now)));
        poll_fn(|cx| {
            self.0.watch.register(cx.waker());
            self.poll_watch(look.as_mut(), cx)
        })
        .await
    }

    fn poll_watch(&self, mut look: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<RemovedReason> {
        let mut held = self.lock();
        let Some(leg) = held.as_mut() else { return Poll::Ready(RemovedReason::Taken) };
        if let Poll::Ready(why) = poll_loss(leg, cx) {
            return Poll::Ready(removed_reason(why, held.take()));
        }
        while let Some(SessionSide::Link(link)) = held.as_mut()
            && look.as_mut().poll(cx).is_ready()
        {
            if let Err(error) = link.check_alive(ReadState::Yes, cx) {
                *held = None;
                return Poll::Ready(RemovedReason::Lost(error.to_string()));
            }
            let is_too_many = link.guard().is_some_and(|seat| seat.counts().take_surplus());
            if is_too_many || link.is_worn() {
                let Some(SessionSide::Link(link)) = held.take() else { continue };
                return Poll::Ready(RemovedReason::Leaves(link));
            }
            look.as_mut().reset(link.next_check().min(link.expires_at()));
        }
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, Option<SessionSide>> {
        self.0.side.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a link is still ready; asked of one that is about to be given to a client, whose watch
/// may not have run yet.
pub fn check_alive(mut leg: SessionSide) -> Result<SessionSide, RemovedReason> {
    match poll_loss(&mut leg, &mut Context::from_waker(Waker::noop())) {
        Poll::Pending => Ok(leg),
        Poll::Ready(why) => Err(removed_reason(why, Some(leg))),
    }
}

fn next_check(leg: &SessionSide) -> Option<Instant> {
    match leg {
        SessionSide::Link(link) => Some(link.next_check().min(link.expires_at())),
        SessionSide::Stream(_) | SessionSide::Gone => None,
    }
}

fn removed_reason(ended: IdleLinkEnd, leg: Option<SessionSide>) -> RemovedReason {
    match (ended, leg) {
        (IdleLinkEnd::Asked, Some(SessionSide::Link(link))) => RemovedReason::Leaves(link),
        (IdleLinkEnd::Asked | IdleLinkEnd::Closed, _) => RemovedReason::Closed,
        (IdleLinkEnd::Failed(why), _) => RemovedReason::Lost(why),
    }
}

/// How a link has stopped to be ready.
enum IdleLinkEnd {
    /// It is asked to be let go.
    Asked,
    Closed,
    Failed(String),
}

/// Waits until the far side has read all of the last session: while a slow backend holds that up,
/// the bytes of another would wait behind it.
pub async fn await_drained(mut link: Box<Link>) -> Result<Box<Link>, RemovedReason> {
    let mut look = pin!(tokio::time::sleep(Duration::ZERO));
    let why = poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = poll_link(&mut link, cx) {
                return Poll::Ready(Some(ended));
            }
            if !link.is_draining_last_session() {
                return Poll::Ready(None);
            }
            if look.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            // Asked again each time: an answer may have been left out.
            let asked = link.check_alive(ReadState::Yes, cx).and_then(|()| link.ask_whether_drained());
            look.as_mut().reset(link.next_check());
            let asked = asked.and_then(|()| match link.poll_flush(cx) {
                Poll::Ready(Err(error)) => Err(error),
                _ => Ok(()),
            });
            if let Err(error) = asked {
                return Poll::Ready(Some(IdleLinkEnd::Failed(error.to_string())));
            }
        }
    });
    match why.await {
        None => Ok(link),
        Some(why) => Err(removed_reason(why, Some(SessionSide::Link(link)))),
    }
}

fn poll_loss(leg: &mut SessionSide, cx: &mut Context<'_>) -> Poll<IdleLinkEnd> {
    match leg {
        SessionSide::Stream(stream) => poll_stream(stream, cx),
        SessionSide::Link(link) => poll_link(link, cx),
        SessionSide::Gone => Poll::Ready(IdleLinkEnd::Failed("it has gone".into())),
    }
}

fn poll_link(link: &mut Link, cx: &mut Context<'_>) -> Poll<IdleLinkEnd> {
    if link.leaving().is_some() {
        return Poll::Ready(IdleLinkEnd::Asked);
    }
    // The opener's end never hears `open`.
    link.poll_event(cx).map(|event| match event {
        Ok(LinkEvent::Leaving(FrameKind::Drain | FrameKind::Retire)) => IdleLinkEnd::Asked,
        Ok(LinkEvent::Closed | LinkEvent::Open(_) | LinkEvent::Leaving(_)) => {
            IdleLinkEnd::Failed(CLOSED.into())
        }
        Err(error) => IdleLinkEnd::Failed(error.to_string()),
    })
}

fn poll_stream(stream: &mut NetStream, cx: &mut Context<'_>) -> Poll<IdleLinkEnd> {
    let mut byte = [0; 1];
    let mut buf = ReadBuf::new(&mut byte);
    Poll::Ready(match Pin::new(stream).poll_read(cx, &mut buf) {
        Poll::Pending => return Poll::Pending,
        Poll::Ready(Err(error)) => IdleLinkEnd::Failed(error.to_string()),
        Poll::Ready(Ok(())) if buf.filled().is_empty() => IdleLinkEnd::Closed,
        Poll::Ready(Ok(())) => IdleLinkEnd::Failed("the peer sent bytes before a client had come".into()),
    })
}

/// What is told of a link that ended without a word.
pub const CLOSED: &str = "the peer closed it";
