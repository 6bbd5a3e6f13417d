//! The state of dialling for the links of one kind: dials under way, failures, and the next attempt. It decides
//! whether and when to dial; [`super::keeper`] dials.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{
    goodbye::GoodbyeState,
    keeper::{KeeperTarget, STABLE_PERIOD},
    link_guard::{LinkActivity, LinkCounters},
};
use crate::{
    admission::token_bucket::TokenBucket,
    net::backoff::Backoff,
    profile::RetryPolicy,
    telemetry::{
        link_cause::{LinkCause, LinkFault},
        snapshot::{PoolRow, PoolState},
    },
};

/// Why no more links are dialled or accepted.
pub const AT_MAXIMUM: &str = "`maximum` links are in use";
/// How many dials may be under way at once.
const DIALS_MAX: usize = 32;
/// After a failure, and until a link has lived or carried a session: how many dials may begin at once, and how
/// many more in the time of the longest pause, which is twice the mean pause.
const UNPROVEN_AT_ONCE: f64 = 8.0;
const UNPROVEN_A_PAUSE: f64 = 4.0;
/// A gateway that speaks our own protocol keeps its links. So at most this many dials, plus twice the number of
/// prepared links, may begin at once, and this many more each second. Over SOCKS5 each session needs a dial.
const OWN_AT_ONCE: f64 = 64.0;
const OWN_A_SECOND: f64 = 64.0;

pub struct DialState {
    pub counts: Arc<LinkCounters>,
    pub dialling: usize,
    /// Cancelled when these links are no longer wanted.
    pub retired: CancellationToken,
    pub last_fault: Option<LinkFault>,
    /// What the gateway had said by the time its links ended.
    pub goodbye: GoodbyeState,
    /// When a SOCKS5 gateway without links that are kept is next checked.
    pub next_check: Option<Instant>,
    /// Until when no dial begins after a failure.
    paused_until: Option<Instant>,
    failures: u64,
    backoff: Backoff,
    /// Since when links have been up without a failure in between.
    good_since: Option<Instant>,
    dials: TokenBucket,
    /// The gateway has broken the protocol, and no link has lived since.
    is_distrusted: bool,
    /// A refusal that is not reported yet, and since when. A gateway that stops closes its port before all of its
    /// links have said so.
    held_back: Option<(LinkFault, Instant)>,
}

/// Whether a failure is the first one since dialling last worked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureRun {
    Begins,
    GoesOn,
}

/// The kind of a failure, which decides about the next dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialFailure {
    /// A dial, or a link that did not live: another dial would fail in the same way.
    Path,
    /// A link that broke the protocol, even if it carried a session before.
    Protocol,
    /// A link that had lived: another dial is due at once.
    Link,
    /// The other gateway has said that it accepts no links now.
    Drains,
}

/// Whether a link carries one session or many, which sets the rate of dials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkReuse {
    /// It carries session after session.
    Long,
    /// It carries one session.
    OneSession,
}

impl DialState {
    pub fn new(counts: Arc<LinkCounters>, retired: CancellationToken) -> Self {
        Self {
            counts,
            dialling: 0,
            retired,
            last_fault: None,
            goodbye: GoodbyeState::default(),
            next_check: None,
            paused_until: None,
            failures: 0,
            backoff: Backoff::default(),
            good_since: None,
            dials: TokenBucket::new(OWN_AT_ONCE, Instant::now()),
            is_distrusted: false,
            held_back: None,
        }
    }

    /// Whether the last dial succeeded.
    pub fn is_healthy(&self) -> bool {
        self.good_since.is_some() && self.last_fault.is_none()
    }

    /// Whether enough links are ready, or sessions are coming already: under load links may never be seen
    /// ready.
    pub fn has_enough(&self, prepared: usize) -> bool {
        self.counts.opened() > 0 || self.counts.ready() >= prepared
    }

    /// Applies a new maximum to the pause under way, which may be longer than that.
    pub fn shorten_pause(&mut self, retry: RetryPolicy) {
        self.paused_until = self.paused_until.map(|at| at.min(Instant::now() + retry.maximum));
    }

    /// How long no dial may begin.
    pub fn pause(&self, now: Instant) -> Option<Duration> {
        let until = self.paused_until.max(self.next_check)?;
        Some(until.saturating_duration_since(now)).filter(|pause| !pause.is_zero())
    }

    /// How many dials are missing until `wanted` links are ready with room to spare.
    pub fn missing_dials(&self, wanted: usize) -> usize {
        let at_once = match self.backoff.failures() > 0 && self.counts.ready() == 0 {
            true => 1,
            false => DIALS_MAX,
        };
        let missing = wanted.saturating_sub(self.counts.count(LinkActivity::Ready) + self.dialling);
        missing.min(at_once.saturating_sub(self.dialling))
    }

    /// Whether one of the missing dials may begin now. This keeps a gateway that accepts links and closes each
    /// one from being dialled without end.
    pub fn may_dial(&mut self, wanted: KeeperTarget, reuse: LinkReuse, now: Instant) -> bool {
        match (self.backoff.failures(), reuse) {
            (0, LinkReuse::OneSession) => return true,
            (0, LinkReuse::Long) => {
                self.dials.refill(now, OWN_A_SECOND, OWN_AT_ONCE + 2.0 * wanted.prepared as f64)
            }
            (_, LinkReuse::OneSession | LinkReuse::Long) => {
                let pause = wanted.retry.maximum.as_secs_f64().max(0.001);
                self.dials.refill(now, UNPROVEN_A_PAUSE / pause, UNPROVEN_AT_ONCE);
            }
        }
        self.dials.take()
    }

    /// Notes that a link is up. Whether dialling works shows only when the link has lived or carried a session.
    pub fn note_established(&mut self, now: Instant) {
        self.good_since.get_or_insert(now);
        self.goodbye.note_established();
    }

    /// Whether a link is up, and some link has been up for a while.
    pub fn has_lived(&self, now: Instant) -> bool {
        self.good_since
            .is_some_and(|at| now.saturating_duration_since(at) >= STABLE_PERIOD && self.counts.links() > 0)
    }

    /// Whether a link has lived or carried a session since the last failure. Returns the number of failures in
    /// a row before it.
    pub fn check_proven(&mut self, now: Instant) -> Option<u32> {
        let has_lived = self.has_lived(now);
        // What older links carry proves nothing about the next dial: not while the gateway drains, and not when a
        // dial has failed since the last link was made.
        let has_carried = self.counts.take_carried()
            && !self.is_distrusted
            && !self.goodbye.drains()
            && self.good_since.is_some();
        (has_carried || has_lived).then(|| self.note_proven()).filter(|failures| *failures > 0)
    }

    /// Notes that dialling works again. Returns the number of failures in a row before that.
    pub fn note_proven(&mut self) -> u32 {
        let failures = self.backoff.failures();
        self.backoff.reset();
        self.is_distrusted = false;
        self.paused_until = None;
        self.last_fault = None;
        self.held_back = None;
        failures
    }

    /// Notes a failure.
    pub fn note_failure(
        &mut self,
        fault: LinkFault,
        failure: DialFailure,
        retry: RetryPolicy,
        now: Instant,
    ) -> FailureRun {
        self.failures += 1;
        self.is_distrusted |= failure == DialFailure::Protocol;
        if failure != DialFailure::Link {
            self.good_since = None;
            // Dials that were under way together fail together, and count as one.
            if self.paused_until.is_none_or(|at| at <= now) {
                self.paused_until = Some(now + self.backoff.fail(retry, fastrand::f64()));
            }
        }
        if self.last_fault.replace(fault).is_none() { FailureRun::Begins } else { FailureRun::GoesOn }
    }

    /// Whether a first failure is to be reported later, or not at all: the dial was refused while links are up.
    pub fn hold_back(&mut self, fault: &LinkFault, failure: DialFailure, now: Instant) -> bool {
        let may_stop = failure == DialFailure::Path
            && fault.cause == LinkCause::ConnectionRefused
            && self.counts.links() > 0;
        if may_stop {
            self.held_back = Some((fault.clone(), now));
        }
        may_stop
    }

    /// The failure that was held back, once this time has passed.
    pub fn take_held_back(&mut self, wait: Duration, now: Instant) -> Option<LinkFault> {
        let is_due = |(_, since): &mut (LinkFault, Instant)| now.saturating_duration_since(*since) >= wait;
        self.held_back.take_if(is_due).map(|(fault, _)| fault)
    }

    /// Notes that the gateway drains, which explains a failure that was held back.
    pub fn note_drain(&mut self, fault: LinkFault, retry: RetryPolicy, now: Instant) -> FailureRun {
        self.goodbye.note_drain();
        let was_held_back = self.held_back.take().is_some();
        let run = self.note_failure(fault, DialFailure::Drains, retry, now);
        if was_held_back { FailureRun::Begins } else { run }
    }

    /// Adds what is known here to a snapshot row.
    pub fn fill_row(&self, row: PoolRow) -> PoolRow {
        let (ready, carrying) = (self.counts.ready(), self.counts.carrying());
        let state = match &self.last_fault {
            Some(_) if ready == 0 && carrying == 0 => PoolState::Down,
            _ if ready >= row.target && self.good_since.is_some() => PoolState::Healthy,
            _ => PoolState::Filling,
        };
        let at_maximum = self.counts.is_at_maximum() && ready < row.target;
        let pause = self.paused_until.map(|at| at.saturating_duration_since(Instant::now()));
        let pause = pause.filter(|pause| !pause.is_zero());
        // A link that is up may still prove bad; until then the last fault is no longer shown.
        let is_shown = self.good_since.is_none() || (ready == 0 && carrying == 0);
        let last_fault = self.last_fault.clone().filter(|_| is_shown);
        let of_limit = || at_maximum.then(|| LinkFault::new(LinkCause::AtMaximum, AT_MAXIMUM));
        PoolRow {
            state,
            ready,
            carrying,
            dialling: self.dialling,
            failures: self.failures,
            left: self.goodbye.was_received(),
            at_maximum,
            retry_seconds: pause.map(|pause| pause.as_secs_f64()),
            ..row
        }
        .with_fault(last_fault.or_else(of_limit))
        .with_links(&self.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::link_guard::LinkGuard;

    const RETRY: RetryPolicy =
        RetryPolicy { first: Duration::from_millis(500), maximum: Duration::from_secs(2) };

    fn fault(words: &str) -> LinkFault {
        LinkFault::new(LinkCause::Other, words)
    }

    fn dial_state() -> DialState {
        DialState::new(Arc::default(), CancellationToken::new())
    }

    #[test]
    fn a_pause_ends_when_a_link_has_lived_and_not_when_it_stands() {
        let (mut dial_state, now) = (dial_state(), Instant::now());
        let run = dial_state.note_failure(fault("refused"), DialFailure::Path, RETRY, now);
        assert_eq!(run, FailureRun::Begins);
        let paused_until = dial_state.paused_until;
        let _guard = LinkGuard::ready(&dial_state.counts, None);
        dial_state.note_established(now);
        assert_eq!(dial_state.check_proven(now), None);
        assert_eq!(
            (dial_state.paused_until, &dial_state.last_fault),
            (paused_until, &Some(fault("refused")))
        );
        let run = dial_state.note_failure(fault("lost"), DialFailure::Link, RETRY, now);
        assert_eq!(run, FailureRun::GoesOn);
        assert_eq!(dial_state.check_proven(now + STABLE_PERIOD), Some(1));
        assert_eq!((dial_state.paused_until, dial_state.last_fault), (None, None));
    }

    #[test]
    fn an_answered_session_proves_a_link_until_the_protocol_is_broken() {
        let (mut dial_state, now) = (dial_state(), Instant::now());
        dial_state.note_failure(fault("refused"), DialFailure::Path, RETRY, now);
        dial_state.counts.note_carried();
        assert_eq!(dial_state.check_proven(now), None, "a link that was there before the dial failed");
        dial_state.note_established(now);
        dial_state.counts.note_carried();
        assert_eq!((dial_state.check_proven(now), dial_state.check_proven(now)), (Some(1), None));
        dial_state.note_failure(fault("a violation"), DialFailure::Protocol, RETRY, now);
        dial_state.counts.note_carried();
        assert_eq!(dial_state.check_proven(now), None);
        let _guard = LinkGuard::ready(&dial_state.counts, None);
        dial_state.note_established(now);
        assert_eq!(dial_state.check_proven(now + STABLE_PERIOD), Some(1));
    }

    #[test]
    fn a_refusal_beside_links_that_are_up_waits_for_a_goodbye_that_explains_it() {
        let refused = LinkFault::new(LinkCause::ConnectionRefused, "connection refused");
        let (mut dial_state, began) = (dial_state(), Instant::now());
        let fails = |dial_state: &mut DialState, failure| {
            dial_state.note_failure(refused.clone(), failure, RETRY, began) == FailureRun::Begins
                && !dial_state.hold_back(&refused, failure, began)
        };
        assert!(fails(&mut dial_state, DialFailure::Path), "no link is up that could explain it");
        dial_state.note_proven();
        let _guard = LinkGuard::ready(&dial_state.counts, None);
        assert!(!fails(&mut dial_state, DialFailure::Path), "it is held back");
        assert_eq!(dial_state.take_held_back(STABLE_PERIOD, began + STABLE_PERIOD / 2), None);
        assert_eq!(
            dial_state.take_held_back(STABLE_PERIOD, began + STABLE_PERIOD),
            Some(refused.clone()),
            "nobody explains it"
        );
        assert_eq!(
            dial_state.take_held_back(STABLE_PERIOD, began + STABLE_PERIOD),
            None,
            "it is reported once"
        );
        dial_state.note_proven();
        assert!(!fails(&mut dial_state, DialFailure::Path));
        let run = dial_state.note_drain(fault("it drains"), RETRY, began);
        assert_eq!(run, FailureRun::Begins, "that is news");
        assert_eq!(dial_state.take_held_back(STABLE_PERIOD, began + STABLE_PERIOD), None, "it is explained");
        assert!(!fails(&mut dial_state, DialFailure::Path), "what follows is not reported");
        dial_state.counts.note_carried();
        assert_eq!(
            dial_state.check_proven(began + STABLE_PERIOD),
            None,
            "what it still carries proves no dial"
        );
    }

    #[test]
    fn dials_are_bounded_by_the_time_that_passes() {
        let (mut dial_state, began) = (dial_state(), Instant::now());
        let wanted = KeeperTarget { prepared: 8, retry: RETRY };
        let dials = |dial_state: &mut DialState, reuse, seconds: u64| {
            let now = began + Duration::from_secs(seconds);
            (0..10_000).take_while(|_| dial_state.may_dial(wanted, reuse, now)).count()
        };
        assert_eq!(dials(&mut dial_state, LinkReuse::OneSession, 0), 10_000, "each session needs one");
        assert!((64..=80).contains(&dials(&mut dial_state, LinkReuse::Long, 0)));
        assert_eq!(dials(&mut dial_state, LinkReuse::Long, 1), 64);
        dial_state.note_failure(fault("refused"), DialFailure::Path, RETRY, began);
        for reuse in [LinkReuse::Long, LinkReuse::OneSession] {
            assert_eq!(dials(&mut dial_state, reuse, 100), if reuse == LinkReuse::Long { 8 } else { 0 });
        }
        assert_eq!(dials(&mut dial_state, LinkReuse::OneSession, 102), 4);
    }
}
