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
    framed::{Event, Link},
    leg::Leg,
    liveness::Reading,
};
use crate::{net::stream::Stream, proto::link::frame::Kind};

/// A place that holds one ready link until it is taken or lost.
#[derive(Debug, Clone, Default)]
pub struct Slot(Arc<Held>);

#[derive(Debug, Default)]
struct Held {
    leg: Mutex<Option<Leg>>,
    watch: AtomicWaker,
}

/// Why a link is no longer ready.
#[derive(Debug)]
pub enum Gone {
    Taken,
    Lost(String),
    /// Over SOCKS5, which has no other goodbye: its peer has closed it in good order.
    Closed,
    /// It is to be closed in good order: its peer asks, it is worn, or there are too many.
    Leaves(Box<Link>),
}

impl Slot {
    pub fn new(leg: Leg) -> Self {
        Self(Arc::new(Held { leg: Mutex::new(Some(leg)), watch: AtomicWaker::new() }))
    }

    /// Takes the link, if it is still there.
    pub fn claim(&self) -> Option<Leg> {
        let leg = self.lock().take();
        self.0.watch.wake();
        leg
    }

    /// Whether the link has been taken or lost.
    pub fn is_empty(&self) -> bool {
        self.lock().is_none()
    }

    /// Waits until the link is taken or lost; a lost one has been dropped when this returns.
    pub async fn watch(&self) -> Gone {
        let first = self.lock().as_ref().and_then(next_look);
        // A parked SOCKS5 link is not looked at: it wakes nobody until it ends.
        let mut look = pin!(sleep_until(first.unwrap_or_else(Instant::now)));
        poll_fn(|cx| {
            self.0.watch.register(cx.waker());
            self.poll_watch(look.as_mut(), cx)
        })
        .await
    }

    fn poll_watch(&self, mut look: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<Gone> {
        let mut held = self.lock();
        let Some(leg) = held.as_mut() else { return Poll::Ready(Gone::Taken) };
        if let Poll::Ready(why) = poll_loss(leg, cx) {
            return Poll::Ready(gone(why, held.take()));
        }
        while let Some(Leg::Link(link)) = held.as_mut()
            && look.as_mut().poll(cx).is_ready()
        {
            if let Err(error) = link.check_alive(Reading::Yes, cx) {
                *held = None;
                return Poll::Ready(Gone::Lost(error.to_string()));
            }
            let is_too_many = link.seat().is_some_and(|seat| seat.counts().may_go());
            if is_too_many || link.is_worn() {
                let Some(Leg::Link(link)) = held.take() else { continue };
                return Poll::Ready(Gone::Leaves(link));
            }
            look.as_mut().reset(link.due().min(link.dies_at()));
        }
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, Option<Leg>> {
        self.0.leg.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a link is still ready; asked of one that is about to be given to a client, whose watch
/// may not have run yet.
pub fn still(mut leg: Leg) -> Result<Leg, Gone> {
    match poll_loss(&mut leg, &mut Context::from_waker(Waker::noop())) {
        Poll::Pending => Ok(leg),
        Poll::Ready(why) => Err(gone(why, Some(leg))),
    }
}

fn next_look(leg: &Leg) -> Option<Instant> {
    match leg {
        Leg::Link(link) => Some(link.due().min(link.dies_at())),
        Leg::Stream(_) | Leg::Gone => None,
    }
}

fn gone(ended: Ended, leg: Option<Leg>) -> Gone {
    match (ended, leg) {
        (Ended::Asked, Some(Leg::Link(link))) => Gone::Leaves(link),
        (Ended::Asked | Ended::Closed, _) => Gone::Closed,
        (Ended::Failed(why), _) => Gone::Lost(why),
    }
}

/// How a link has stopped to be ready.
enum Ended {
    /// It is asked to be let go.
    Asked,
    Closed,
    Failed(String),
}

/// Waits until the far side has read all of the last session: while a slow backend holds that up,
/// the bytes of another would wait behind it.
pub async fn settle(mut link: Box<Link>) -> Result<Box<Link>, Gone> {
    let mut look = pin!(tokio::time::sleep(Duration::ZERO));
    let why = poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = poll_link(&mut link, cx) {
                return Poll::Ready(Some(ended));
            }
            if !link.is_settling() {
                return Poll::Ready(None);
            }
            if look.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            // Asked again each time: an answer may have been left out.
            let asked = link.check_alive(Reading::Yes, cx).and_then(|()| link.ask_to_settle());
            look.as_mut().reset(link.due());
            let asked = asked.and_then(|()| match link.poll_flush(cx) {
                Poll::Ready(Err(error)) => Err(error),
                _ => Ok(()),
            });
            if let Err(error) = asked {
                return Poll::Ready(Some(Ended::Failed(error.to_string())));
            }
        }
    });
    match why.await {
        None => Ok(link),
        Some(why) => Err(gone(why, Some(Leg::Link(link)))),
    }
}

fn poll_loss(leg: &mut Leg, cx: &mut Context<'_>) -> Poll<Ended> {
    match leg {
        Leg::Stream(stream) => poll_stream(stream, cx),
        Leg::Link(link) => poll_link(link, cx),
        Leg::Gone => Poll::Ready(Ended::Failed("it has gone".into())),
    }
}

fn poll_link(link: &mut Link, cx: &mut Context<'_>) -> Poll<Ended> {
    if link.leaving().is_some() {
        return Poll::Ready(Ended::Asked);
    }
    // The opener's end never hears `open`.
    link.poll_event(cx).map(|event| match event {
        Ok(Event::Leaving(Kind::Drain | Kind::Retire)) => Ended::Asked,
        Ok(Event::Closed | Event::Open(_) | Event::Leaving(_)) => Ended::Failed(CLOSED.into()),
        Err(error) => Ended::Failed(error.to_string()),
    })
}

fn poll_stream(stream: &mut Stream, cx: &mut Context<'_>) -> Poll<Ended> {
    let mut byte = [0; 1];
    let mut buf = ReadBuf::new(&mut byte);
    Poll::Ready(match Pin::new(stream).poll_read(cx, &mut buf) {
        Poll::Pending => return Poll::Pending,
        Poll::Ready(Err(error)) => Ended::Failed(error.to_string()),
        Poll::Ready(Ok(())) if buf.filled().is_empty() => Ended::Closed,
        Poll::Ready(Ok(())) => Ended::Failed("the peer sent bytes before a client had come".into()),
    })
}

/// What is told of a link that ended without a word.
pub const CLOSED: &str = "the peer closed it";
