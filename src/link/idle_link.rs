//! A SOCKS5 link that waits in a pool for its session: watched meanwhile, given away once. A ready link of `portcullis/2`
//! waits in `peer_links`.
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

/// How a link's time as an idle one ended.
#[derive(Debug)]
pub enum IdleLinkEnd {
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
    pub async fn watch(&self) -> IdleLinkEnd {
        let revocation = self.lock().as_ref().map(NetStream::revocation).unwrap_or_default();
        let ended = poll_fn(|cx| {
            self.0.watch.register(cx.waker());
            self.poll_watch(cx)
        });
        tokio::select! {
            ended = ended => ended,
            () = revocation.given() => match self.lock().take() {
                Some(_) => IdleLinkEnd::Lost(IdleLinkError::Revoked),
                None => IdleLinkEnd::Taken,
            },
        }
    }

    fn poll_watch(&self, cx: &mut Context<'_>) -> Poll<IdleLinkEnd> {
        let mut held = self.lock();
        let Some(link) = held.as_mut() else { return Poll::Ready(IdleLinkEnd::Taken) };
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
pub fn check_alive(mut stream: NetStream) -> Result<NetStream, IdleLinkEnd> {
    match poll_loss(&mut stream, &mut Context::from_waker(Waker::noop())) {
        Poll::Pending => Ok(stream),
        Poll::Ready(end) => Err(end),
    }
}

fn poll_loss(stream: &mut NetStream, cx: &mut Context<'_>) -> Poll<IdleLinkEnd> {
    let mut byte = [0; 1];
    let mut buf = ReadBuf::new(&mut byte);
    Poll::Ready(match Pin::new(&mut *stream).poll_read(cx, &mut buf) {
        // A parked link has nobody to wait for, so the peer reads and answers pings.
        Poll::Pending if stream.is_silent() => IdleLinkEnd::Lost(IdleLinkError::Link(LinkLoss::Silent)),
        Poll::Pending => return Poll::Pending,
        Poll::Ready(Err(error)) => IdleLinkEnd::Lost(error.into()),
        Poll::Ready(Ok(())) if buf.filled().is_empty() => IdleLinkEnd::Closed,
        Poll::Ready(Ok(())) => IdleLinkEnd::Lost(IdleLinkError::EarlyBytes),
    })
}
