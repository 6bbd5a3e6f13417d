//! Drives all connections of one client in one task: the one on which its requests arrive, and those on which
//! they are sent. What one has just written is read by the next in the same turn.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use hyper::server::conn::http1;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{HeadSource, READ_BYTES_MAX, REQUEST_FIELDS_MAX};

/// The future that drives a connection until it ends.
pub type ConnectionDriver = BoxFuture<'static, ()>;

/// The connections that requests are sent to.
#[derive(Clone, Default)]
pub struct ConnectionDrivers(Arc<Mutex<DriverList>>);

#[derive(Default)]
struct DriverList {
    drivers: Vec<(DriverKey, ConnectionDriver)>,
    next: u64,
}

/// Identifies a connection, so that it can be taken out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriverKey(u64);

impl ConnectionDrivers {
    pub fn add(&self, driver: ConnectionDriver) -> DriverKey {
        let mut list = self.lock();
        let key = DriverKey(list.next);
        list.next += 1;
        list.drivers.push((key, driver));
        key
    }

    /// Takes a connection out, so that somebody else can drive it; `None` if it has ended.
    pub fn take(&self, key: DriverKey) -> Option<ConnectionDriver> {
        let mut list = self.lock();
        let at = list.drivers.iter().position(|(other, _)| *other == key)?;
        Some(list.drivers.swap_remove(at).1)
    }

    /// Polls all of them; ready when there are none left.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut list = self.lock();
        list.drivers.retain_mut(|(_, driver)| driver.as_mut().poll(cx).is_pending());
        if list.drivers.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn lock(&self) -> MutexGuard<'_, DriverList> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the last of them has ended.
    pub async fn all_ended(&self) {
        poll_fn(|cx| self.poll(cx)).await;
    }
}

/// How requests are read; the caller sets the deadlines.
pub fn server_builder(from: HeadSource) -> http1::Builder {
    let mut reader = http1::Builder::new();
    reader
        .header_read_timeout(None)
        .max_buf_size(READ_BYTES_MAX)
        .max_header_size(from.head_bytes_max())
        .max_headers(from.fields_max(REQUEST_FIELDS_MAX));
    reader
}

/// Signals once that no more requests are wanted.
pub struct CloseSignal(Option<Pin<Box<WaitForCancellationFutureOwned>>>);

impl CloseSignal {
    pub fn new(token: CancellationToken) -> Self {
        Self(Some(Box::pin(token.cancelled_owned())))
    }

    /// Whether that is so now; the connection must then be polled again.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let is_now = self.0.as_mut().is_some_and(|leave| leave.as_mut().poll(cx).is_ready());
        if is_now {
            self.0 = None;
            cx.waker().wake_by_ref();
        }
        is_now
    }
}

/// Serves a client's connection to its end; `look` runs before each turn, and may end it.
pub async fn serve<C: Future>(
    mut served: Pin<&mut C>,
    sides: &ConnectionDrivers,
    mut look: impl FnMut(Pin<&mut C>, &mut Context<'_>) -> Poll<C::Output>,
) -> C::Output {
    poll_fn(|cx| {
        let _ = sides.poll(cx);
        if let Poll::Ready(ended) = served.as_mut().poll(cx) {
            return Poll::Ready(ended);
        }
        let _ = sides.poll(cx);
        look(served.as_mut(), cx)
    })
    .await
}
