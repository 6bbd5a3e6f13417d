//! Drives all connections of one client in one task: the one on which its requests arrive, and those on which
//! they are sent. What one has just written is read by the next in the same turn.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use futures_util::{future::BoxFuture, task::AtomicWaker};
use hyper::server::conn::http1;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{HeadSource, READ_BYTES_MAX, REQUEST_FIELDS_MAX};
use crate::net::woken::{PartWaker, WokenFuture};

/// The future that drives a connection until it ends.
pub type ConnectionDriver = BoxFuture<'static, ()>;

/// The connections that requests are sent to.
#[derive(Clone, Default)]
pub struct ConnectionDrivers(Arc<Mutex<DriverList>>);

#[derive(Default)]
struct DriverList {
    drivers: Vec<(DriverKey, WokenFuture)>,
    next: u64,
    /// The task that drives them.
    task: Arc<AtomicWaker>,
}

/// Identifies a connection, so that it can be taken out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriverKey(u64);

impl DriverList {
    /// Polls those that were woken; ready when there are none left.
    fn poll_woken(&mut self) -> Poll<()> {
        self.drivers.retain_mut(|(_, driver)| driver.poll().is_pending());
        if self.drivers.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl ConnectionDrivers {
    pub fn add(&self, driver: ConnectionDriver) -> DriverKey {
        let mut list = self.lock();
        let key = DriverKey(list.next);
        list.next += 1;
        let driver = WokenFuture::new(driver, list.task.clone());
        list.drivers.push((key, driver));
        key
    }

    /// Takes a connection out, so that somebody else can drive it; `None` if it has ended.
    pub fn take(&self, key: DriverKey) -> Option<ConnectionDriver> {
        let mut list = self.lock();
        let at = list.drivers.iter().position(|(listed, _)| *listed == key)?;
        Some(list.drivers.swap_remove(at).1.into_inner())
    }

    /// Polls those that were woken; ready when there are none left.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut list = self.lock();
        list.task.register(cx.waker());
        list.poll_woken()
    }

    fn lock(&self) -> MutexGuard<'_, DriverList> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the last of them has ended. Something has changed for all of them before that, so each is polled.
    pub async fn all_ended(&self) {
        self.lock().drivers.iter().for_each(|(_, driver)| driver.waker.note_woken());
        poll_fn(|cx| self.poll(cx)).await;
    }
}

/// How many fields hyper reads by default. With a limit that is set, it fills memory for all of them with each head.
const HYPER_FIELDS_MAX: usize = 100;

/// How requests are read; the caller sets the deadlines.
pub fn server_builder(from: HeadSource) -> http1::Builder {
    let mut reader = http1::Builder::new();
    reader.header_read_timeout(None).max_buf_size(READ_BYTES_MAX).max_header_size(from.head_bytes_max());
    if from.fields_max(REQUEST_FIELDS_MAX) != HYPER_FIELDS_MAX {
        reader.max_headers(from.fields_max(REQUEST_FIELDS_MAX));
    }
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

/// How often each side runs in one turn: a request goes from one to the other, and so does its answer.
const ROUNDS: usize = 2;

/// Serves a client's connection to its end; `look` runs at the end of each turn, and may end it.
///
/// Within a turn nobody wakes the task. What one side wakes there is the other side, which runs in the same turn.
pub async fn serve<C: Future>(
    mut served: Pin<&mut C>,
    sides: &ConnectionDrivers,
    mut look: impl FnMut(Pin<&mut C>, &mut Context<'_>) -> Poll<C::Output>,
) -> C::Output {
    let task = sides.lock().task.clone();
    let own = PartWaker::new(task.clone());
    let waker = Waker::from(own.clone());
    poll_fn(|cx| {
        let own_cx = &mut Context::from_waker(&waker);
        drop(task.take());
        for _ in 0..ROUNDS {
            let _ = sides.lock().poll_woken();
            if own.take_woken()
                && let Poll::Ready(ended) = served.as_mut().poll(own_cx)
            {
                return Poll::Ready(ended);
            }
        }
        let looked = look(served.as_mut(), own_cx);
        task.register(cx.waker());
        if own.is_woken() || sides.lock().drivers.iter().any(|(_, driver)| driver.waker.is_woken()) {
            cx.waker().wake_by_ref();
        }
        looked
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    /// A request and its answer cost one turn each, and no turn that finds nothing to do.
    #[tokio::test]
    async fn what_one_side_wakes_runs_in_the_same_turn() {
        let (sides, [request, answer]) =
            (ConnectionDrivers::default(), [(); 2].map(|()| Arc::new(Notify::new())));
        let (requested, answering) = (request.clone(), answer.clone());
        sides.add(Box::pin(async move {
            requested.notified().await;
            answering.notify_one();
        }));
        let served = std::pin::pin!(async {
            request.notify_one();
            answer.notified().await;
        });
        let task = PartWaker::new(Arc::default());
        task.take_woken();
        let waker = Waker::from(task.clone());
        let mut serving = std::pin::pin!(serve(served, &sides, |_, _| Poll::Pending));
        assert!(serving.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
        assert!(!task.is_woken());
    }

    #[tokio::test]
    async fn only_a_connection_that_was_woken_is_polled() {
        let sides = ConnectionDrivers::default();
        let ends = [(); 2].map(|()| Arc::new(Notify::new()));
        let polled = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        for (end, polled) in ends.iter().zip(&polled) {
            let (end, polled) = (end.clone(), polled.clone());
            let mut ended = Box::pin(async move { end.notified().await });
            sides.add(Box::pin(poll_fn(move |cx| {
                polled.fetch_add(1, Ordering::Relaxed);
                ended.as_mut().poll(cx)
            })));
        }
        let counts = || [0, 1].map(|at: usize| polled[at].load(Ordering::Relaxed));
        for _ in 0..3 {
            assert!(poll_fn(|cx| Poll::Ready(sides.poll(cx))).await.is_pending());
        }
        assert_eq!(counts(), [1, 1], "each once, to begin");
        ends[0].notify_one();
        assert!(poll_fn(|cx| Poll::Ready(sides.poll(cx))).await.is_pending());
        assert_eq!(counts(), [2, 1]);
        ends[1].notify_one();
        sides.all_ended().await;
        assert_eq!(counts(), [2, 2]);
    }
}
