//! When a relay looks at its session's sockets, and when the session has been idle for too long.
//!
//! A session on a shared link has no socket of its own to check: `link::multiplex::row` watches its `idle`
//! (`IdleWatch`), and the link's pings tell whether the peer is alive.

use std::time::Duration;

use tokio::time::Instant;

/// How often a session's sockets are checked while data is in flight.
pub(super) const SOCKET_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// The longest pause between two checks when there is nothing to check for.
const QUIET_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// When to check a session's sockets. While nothing moves and nothing is on the way, there is nothing to see
/// that the kernel's keep-alive does not report, so an idle session sleeps.
pub(super) struct SocketWatch {
    idle: Option<Duration>,
    bytes: u64,
    /// Since when no byte has moved.
    still_since: Instant,
    activity: SocketActivity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SocketActivity {
    /// Something moves, or is on the way.
    Busy,
    /// Nothing moves, and the session's `idle` limit applies.
    Quiet,
    Asleep,
}

/// Whether bytes of a session are on the way: kept back here, or sent and not acknowledged yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InFlight {
    Nothing,
    Bytes,
}

impl SocketWatch {
    pub(super) fn new(bytes: u64, idle: Option<Duration>) -> Self {
        Self { idle, bytes, still_since: Instant::now(), activity: SocketActivity::Busy }
    }

    /// When the next check is due.
    pub(super) fn next_check(&self, now: Instant) -> Instant {
        let pause = match self.activity {
            SocketActivity::Busy => SOCKET_CHECK_INTERVAL,
            SocketActivity::Quiet | SocketActivity::Asleep => QUIET_CHECK_INTERVAL,
        };
        let at = match self.idle {
            Some(idle) => (now + pause.min(idle / 4)).min(self.still_since + idle),
            None => now + pause,
        };
        at.max(now + Duration::from_millis(1))
    }

    /// Whether a sleeping watch has a reason to wake up.
    pub(super) fn has_reason_to_wake(&mut self, bytes: u64, in_flight: InFlight) -> bool {
        let wakes =
            self.activity != SocketActivity::Busy && (in_flight == InFlight::Bytes || bytes != self.bytes);
        if wakes {
            self.activity = SocketActivity::Busy;
        }
        wakes
    }

    /// Whether bytes have moved since the last check.
    pub(super) fn has_moved(&self, bytes: u64) -> bool {
        self.bytes != bytes
    }

    pub(super) fn is_awake(&self) -> bool {
        self.activity != SocketActivity::Asleep
    }

    /// Records the result of a check; true when nothing has moved for the service's `idle`.
    pub(super) fn check(&mut self, bytes: u64, in_flight: InFlight) -> bool {
        let moved = self.has_moved(bytes);
        if moved {
            self.bytes = bytes;
            self.still_since = Instant::now();
        }
        let at_rest = if self.idle.is_some() { SocketActivity::Quiet } else { SocketActivity::Asleep };
        let is_busy = moved || in_flight == InFlight::Bytes;
        self.activity = if is_busy { SocketActivity::Busy } else { at_rest };
        self.idle.is_some_and(|idle| self.still_since.elapsed() >= idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_watch_sleeps_while_nothing_is_on_the_way() {
        let mut watch = SocketWatch::new(0, None);
        assert!(!watch.check(5, InFlight::Nothing) && watch.is_awake(), "bytes have moved");
        assert!(!watch.check(5, InFlight::Bytes) && watch.is_awake(), "some are not acknowledged");
        assert!(!watch.check(5, InFlight::Nothing) && !watch.is_awake(), "nothing is on the way");
        assert!(
            !watch.has_reason_to_wake(5, InFlight::Nothing)
                && watch.has_reason_to_wake(6, InFlight::Nothing)
                && watch.is_awake()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn movement_restarts_the_idle_time() {
        let mut watch = SocketWatch::new(0, Some(Duration::from_secs(3)));
        let mut ended = Vec::new();
        for bytes in [0, 0, 5, 5, 5, 5] {
            tokio::time::advance(Duration::from_secs(1)).await;
            ended.push(watch.check(bytes, InFlight::Nothing));
        }
        assert_eq!(ended, [false, false, false, false, false, true]);
    }
}
