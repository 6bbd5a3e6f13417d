//! A ready link of the half that opens sessions: watched while it waits, given away once.
//!
//! The watch and whoever takes the link share it under a short lock that is never held across an await, so
//! taking it needs no answer from another task. A parked SOCKS5 link has nothing to say: if it ends, or any
//! byte comes, it is no longer ready.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, ReadBuf};

use super::{error::IdleLinkError, multiplex::handle::LinkLoss};
use crate::net::stream::NetStream;

/// Holds one ready link until it is taken or lost.
#[derive(Debug, Clone, Default)]
pub struct IdleLink(Arc<IdleLinkCell>);

#[derive(Debug, Default)]
struct IdleLinkCell {
    side: Mutex<Option<NetStream>>,
    watch: AtomicWaker,
}

/// Why a link is no longer ready.
#[derive(Debug)]
pub enum RemovedReason {
    Taken,
    Lost(IdleLinkError),
    /// Over SOCKS5, which has no other goodbye: the peer has closed it in good order.
    Closed,
}

impl IdleLink {
    pub fn new(stream: NetStream) -> Self {
        Self(Arc::new(IdleLinkCell { side: Mutex::new(Some(stream)), watch: AtomicWaker::new() }))
    }

    /// Takes the link if it is still there.
    pub fn claim(&self) -> Option<NetStream> {
        let link = self.lock().take();
        self.0.watch.wake();
        link
    }

    /// Waits until the link is taken or lost. A lost link has been dropped when this returns.
    pub async fn watch(&self) -> RemovedReason {
        let revocation = self.lock().as_ref().map(NetStream::revocation).unwrap_or_default();
        let removed = poll_fn(|cx| {
            self.0.watch.register(cx.waker());
            self.poll_watch(cx)
        });
        tokio::select! {
            removed = removed => removed,
            () = revocation.given() => match self.lock().take() {
                Some(_) => RemovedReason::Lost(IdleLinkError::Revoked),
                None => RemovedReason::Taken,
            },
        }
    }

    fn poll_watch(&self, cx: &mut Context<'_>) -> Poll<RemovedReason> {
        let mut held = self.lock();
        let Some(link) = held.as_mut() else { return Poll::Ready(RemovedReason::Taken) };
        let ended = poll_loss(link, cx);
        if ended.is_ready() {
            *held = None;
        }
        ended
    }

    fn lock(&self) -> MutexGuard<'_, Option<NetStream>> {
        self.0.side.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks that a link is still ready just before it is given to a client, because its watch may not have run
/// yet.
pub fn check_alive(mut stream: NetStream) -> Result<NetStream, RemovedReason> {
    match poll_loss(&mut stream, &mut Context::from_waker(Waker::noop())) {
        Poll::Pending => Ok(stream),
        Poll::Ready(why) => Err(why),
    }
}

fn poll_loss(stream: &mut NetStream, cx: &mut Context<'_>) -> Poll<RemovedReason> {
    let mut byte = [0; 1];
    let mut buf = ReadBuf::new(&mut byte);
    Poll::Ready(match Pin::new(&mut *stream).poll_read(cx, &mut buf) {
        // A parked link has nobody to wait for, so the peer reads and answers pings.
        Poll::Pending if stream.is_silent() => RemovedReason::Lost(IdleLinkError::Link(LinkLoss::Silent)),
        Poll::Pending => return Poll::Pending,
        Poll::Ready(Err(error)) => RemovedReason::Lost(error.into()),
        Poll::Ready(Ok(())) if buf.filled().is_empty() => RemovedReason::Closed,
        Poll::Ready(Ok(())) => RemovedReason::Lost(IdleLinkError::EarlyBytes),
    })
}
