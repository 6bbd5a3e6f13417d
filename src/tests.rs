//! Helpers shared by tests of several modules: whether something happens at its deadline, and how often memory is asked
//! for.

pub mod allocations;

use std::{future::Future, pin::pin, time::Duration};

use futures_util::poll;
use tokio::time::{Instant, advance};

/// How far a paused clock may be off.
pub const LITTLE: Duration = Duration::from_millis(20);

/// Checks that it happens then, and not before. The clock is paused and advances by itself.
pub async fn happens_after<T>(value: Duration, event: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let arrived = event.await;
    let took = began.elapsed();
    assert!(took + LITTLE >= value && took <= value + LITTLE, "after {took:?}, not {value:?}");
    arrived
}

/// Checks when an event happens while a thread is at work, which stops a paused clock.
pub async fn happens_after_beside_a_thread<T>(value: Duration, event: impl Future<Output = T>) -> T {
    let mut event = pin!(event);
    assert!(poll!(event.as_mut()).is_pending(), "at once");
    advance(value - LITTLE).await;
    assert!(poll!(event.as_mut()).is_pending(), "before {value:?}");
    advance(2 * LITTLE).await;
    event.await
}
