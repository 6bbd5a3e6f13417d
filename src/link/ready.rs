//! A ready link of the listening side: watched while it waits, given away once.
//!
//! The watch and whoever takes the link share the stream under a short lock that is never held
//! across an await, so taking it needs no answer from another task. A ready link has nothing to
//! say: its end, or any byte, ends it.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::sync::CancellationToken;

use crate::net::stream::Stream;

/// A place that holds one ready link until it is taken or lost.
#[derive(Debug, Clone)]
pub struct Slot {
    stream: Arc<Mutex<Option<Stream>>>,
    taken: CancellationToken,
}

/// Why a ready link is no longer ready.
#[derive(Debug, PartialEq, Eq)]
pub enum Gone {
    Taken,
    Lost(String),
}

impl Slot {
    pub fn new(stream: Stream) -> Self {
        Self { stream: Arc::new(Mutex::new(Some(stream))), taken: CancellationToken::new() }
    }

    /// Takes the link, if it is still there.
    pub fn claim(&self) -> Option<Stream> {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.taken.cancel();
        stream
    }

    /// Whether the link has been taken or lost.
    pub fn is_empty(&self) -> bool {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Waits until the link is taken or lost; a lost one has been dropped when this returns.
    pub async fn watch(&self) -> Gone {
        let watched = self.taken.run_until_cancelled(poll_fn(|cx| self.poll_watch(cx))).await;
        watched.unwrap_or(Gone::Taken)
    }

    fn poll_watch(&self, cx: &mut Context<'_>) -> Poll<Gone> {
        let mut slot = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stream) = slot.as_mut() else { return Poll::Ready(Gone::Taken) };
        let Poll::Ready(why) = poll_loss(stream, cx) else { return Poll::Pending };
        *slot = None;
        Poll::Ready(Gone::Lost(why))
    }
}

/// Why a ready link is lost, if that shows already; asked of a link that is about to be given to
/// a client, whose watch may not have run yet.
pub fn loss(stream: &mut Stream) -> Option<String> {
    match poll_loss(stream, &mut Context::from_waker(Waker::noop())) {
        Poll::Ready(why) => Some(why),
        Poll::Pending => None,
    }
}

fn poll_loss(stream: &mut Stream, cx: &mut Context<'_>) -> Poll<String> {
    let mut byte = [0; 1];
    let mut buf = ReadBuf::new(&mut byte);
    Poll::Ready(match Pin::new(stream).poll_read(cx, &mut buf) {
        Poll::Pending => return Poll::Pending,
        Poll::Ready(Err(error)) => error.to_string(),
        Poll::Ready(Ok(())) if buf.filled().is_empty() => "the peer closed it".into(),
        Poll::Ready(Ok(())) => "the peer sent bytes before a client had come".into(),
    })
}
