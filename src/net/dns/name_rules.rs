//! Which of a name's addresses are used, when one is given up, and when the name is looked up again. There are
//! no sockets and no clock here: answers and times are passed in.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    time::Duration,
};

use tokio::time::Instant;

use super::HostAddresses;

/// How many addresses, or targets, of one name are used.
pub const TARGETS_MAX: usize = 64;
/// How many targets are known, including those about to be given up: it limits a server that always returns different ones.
const KNOWN_MAX: usize = 2 * TARGETS_MAX;
/// An address that is missing from this many answers in a row is given up,
const MISSING_ANSWERS: u32 = 3;
/// but not before this time has passed since the first of them.
const TARGET_RETENTION_PERIOD: Duration = Duration::from_secs(30);
/// A name is looked up again when its time to live is over, within these limits.
const REFRESH_INTERVAL_MIN: Duration = Duration::from_secs(1);
const REFRESH_INTERVAL_MAX: Duration = Duration::from_secs(60);
/// After a look-up without an address: from the minimum, twice as long each time.
const FAILURE_BACKOFF_MAX: Duration = Duration::from_secs(8);

/// The result of looking up a name that is followed.
pub trait LookupAnswer {
    type Target: Ord + Clone + fmt::Display;
    /// The word for its targets in messages.
    const ONE: &str;
    const ALL: &str;

    fn choose(&self) -> ChosenTargets<Self::Target>;

    /// Whether it would have contained the target if that were still valid.
    fn covers(&self, target: &Self::Target) -> bool;

    fn ttl(&self) -> Duration;
}

/// The part of an answer that is used.
#[derive(Debug, PartialEq, Eq)]
pub struct ChosenTargets<T> {
    pub used: BTreeSet<T>,
    /// Targets that cannot be connected to.
    pub unusable: Vec<String>,
    /// How many there are beyond the first [`TARGETS_MAX`].
    pub beyond: usize,
}

impl LookupAnswer for HostAddresses {
    type Target = IpAddr;
    const ONE: &str = "address";
    const ALL: &str = "addresses";

    /// IPv4 before IPv6, each in numerical order.
    fn choose(&self) -> ChosenTargets<IpAddr> {
        let all: BTreeSet<_> = self.all().map(|address| address.to_canonical()).collect();
        let (unusable, mut used): (BTreeSet<_>, BTreeSet<_>) =
            all.into_iter().partition(|address| address.is_unspecified() || address.is_multicast());
        let beyond = used.len().saturating_sub(TARGETS_MAX);
        if let Some(first) = used.iter().nth(TARGETS_MAX).copied() {
            used.split_off(&first);
        }
        ChosenTargets { used, unusable: unusable.iter().map(ToString::to_string).collect(), beyond }
    }

    fn covers(&self, address: &IpAddr) -> bool {
        match address {
            IpAddr::V4(_) => self.v4.is_some(),
            IpAddr::V6(_) => self.v6.is_some(),
        }
    }

    fn ttl(&self) -> Duration {
        self.ttl
    }
}

/// The targets of a name, with those that were missing from its last answers.
#[derive(Debug)]
pub struct FollowedTargets<T>(BTreeMap<T, Option<Absence>>);

impl<T> Default for FollowedTargets<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// How many answers in a row a target was missing from, and since when.
#[derive(Debug, Clone, Copy)]
struct Absence {
    answers: u32,
    since: Instant,
}

/// The change that an answer has made.
#[derive(Debug, PartialEq, Eq)]
pub struct TargetChange<T> {
    pub added: Vec<T>,
    pub retired: Vec<T>,
}

impl<T> Default for TargetChange<T> {
    fn default() -> Self {
        Self { added: Vec::new(), retired: Vec::new() }
    }
}

impl<T: fmt::Display> fmt::Display for TargetChange<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |targets: &[T]| targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let changes = [("new: ", list(&self.added)), ("given up: ", list(&self.retired))];
        let changes = changes.iter().filter(|(_, list)| !list.is_empty());
        let words: Vec<_> = changes.map(|(word, list)| format!("{word}{list}")).collect();
        out.write_str(&words.join("; "))
    }
}

impl<T> TargetChange<T> {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.retired.is_empty()
    }
}

impl<T: Ord + Clone> FollowedTargets<T> {
    /// Starts with the targets of the last answer.
    pub fn of(targets: Vec<T>) -> Self {
        Self(targets.into_iter().map(|target| (target, None)).collect())
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.keys()
    }

    /// Applies an answer; `covers` says whether it would have contained a target.
    pub fn note_answer(
        &mut self,
        answered: &BTreeSet<T>,
        covers: impl Fn(&T) -> bool,
        now: Instant,
    ) -> TargetChange<T> {
        let mut retired = Vec::new();
        self.0.retain(|target, absence| {
            if answered.contains(target) {
                *absence = None;
            } else if covers(target) {
                let missing = absence.get_or_insert(Absence { answers: 0, since: now });
                missing.answers += 1;
                let is_over =
                    missing.answers >= MISSING_ANSWERS && now - missing.since >= TARGET_RETENTION_PERIOD;
                if is_over {
                    retired.push(target.clone());
                }
                return !is_over;
            }
            true
        });
        let space = KNOWN_MAX.saturating_sub(self.0.len());
        let new = answered.iter().filter(|target| !self.0.contains_key(*target));
        let added: Vec<_> = new.take(space).cloned().collect();
        self.0.extend(added.iter().map(|target| (target.clone(), None)));
        TargetChange { added, retired }
    }
}

/// When to look a name up again whose answer is valid for `ttl`; `random` is from 0 to 1.
pub fn next_look_up(ttl: Duration, random: f64) -> Duration {
    let ttl = ttl.clamp(REFRESH_INTERVAL_MIN, REFRESH_INTERVAL_MAX);
    let spread = (ttl / 10).mul_f64(random);
    // A little after the answer expires, so that a caching server has dropped it too.
    match ttl == REFRESH_INTERVAL_MAX {
        true => ttl - spread,
        false => (ttl + spread.min(REFRESH_INTERVAL_MIN)).min(REFRESH_INTERVAL_MAX),
    }
}

/// When to look a name up again after this many failures in a row, including the last one.
pub fn pause_after_failure(failures: u32, random: f64) -> Duration {
    let longest = REFRESH_INTERVAL_MIN.saturating_mul(1 << failures.clamp(1, 8)).min(FAILURE_BACKOFF_MAX);
    REFRESH_INTERVAL_MIN + (longest - REFRESH_INTERVAL_MIN).mul_f64(random)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(text: &str) -> BTreeSet<IpAddr> {
        text.split_whitespace().map(|ip| ip.parse().expect("an address")).collect()
    }

    fn answer(text: &str) -> HostAddresses {
        super::super::split_by_family(
            text.split_whitespace().map(|ip| ip.parse().expect("one")),
            Duration::ZERO,
        )
    }

    #[test]
    fn an_unreachable_address_is_dropped_and_the_others_stay() {
        let all = "2001:db8::1 0.0.0.0 10.0.0.2 224.0.0.1 :: 10.0.0.1 ff02::1 ::ffff:10.0.0.1 ::ffff:0.0.0.0";
        let chosen = answer(all).choose();
        let used: Vec<_> = chosen.used.iter().map(ToString::to_string).collect();
        assert_eq!(used, ["10.0.0.1", "10.0.0.2", "2001:db8::1"], "in order");
        assert_eq!(chosen.unusable, ["0.0.0.0", "224.0.0.1", "::", "ff02::1"]);
    }

    #[test]
    fn the_first_addresses_by_number_are_used_and_the_rest_is_counted() {
        let many: Vec<_> = (0..200).rev().map(|last| format!("10.0.0.{last}")).collect();
        let chosen = answer(&format!("2001:db8::1 {}", many.join(" "))).choose();
        assert_eq!((chosen.used.len(), chosen.beyond), (64, 137));
        assert_eq!(chosen.used.last().map(ToString::to_string).as_deref(), Some("10.0.0.63"));
    }

    /// Seconds, the answer at that time, what is new and what is given up.
    fn run_steps(steps: &[(u64, &str, &str, &str)]) {
        let (mut known, began) = (FollowedTargets::default(), Instant::now());
        for (second, answered, added, retired) in steps {
            let now = began + Duration::from_secs(*second);
            let change = known.note_answer(&ips(answered), |_| true, now);
            let sets = [change.added, change.retired].map(|of| of.into_iter().collect::<BTreeSet<_>>());
            assert_eq!(sets, [ips(added), ips(retired)], "at {second}s");
        }
    }

    #[test]
    fn what_is_missing_from_three_answers_and_for_half_a_minute_is_given_up() {
        run_steps(&[
            (0, "10.0.0.1 10.0.0.2", "10.0.0.1 10.0.0.2", ""),
            (10, "10.0.0.1", "", ""),
            (20, "10.0.0.1", "", ""),
            (39, "10.0.0.1", "", ""),
            (40, "10.0.0.1", "", "10.0.0.2"),
            (41, "10.0.0.2", "10.0.0.2", ""),
        ]);
        // Time alone is not enough, and one answer that has it starts the count again.
        run_steps(&[
            (0, "10.0.0.1 10.0.0.2", "10.0.0.1 10.0.0.2", ""),
            (60, "10.0.0.1", "", ""),
            (120, "10.0.0.1", "", ""),
            (121, "10.0.0.1 10.0.0.2", "", ""),
            (180, "10.0.0.1", "", ""),
            (240, "10.0.0.1", "", ""),
            (300, "10.0.0.1", "", "10.0.0.2"),
        ]);
    }

    #[test]
    fn an_answer_without_a_family_keeps_its_addresses() {
        let (mut known, began) = (FollowedTargets::default(), Instant::now());
        known.note_answer(&ips("10.0.0.1 2001:db8::1"), |_| true, began);
        for minute in 1..9 {
            let now = began + Duration::from_secs(60 * minute);
            let change = known.note_answer(&ips("10.0.0.1"), IpAddr::is_ipv4, now);
            assert!(change.is_empty(), "{change:?}");
        }
    }

    #[test]
    fn a_server_that_always_answers_others_is_followed_only_so_far() {
        let (mut known, began) = (FollowedTargets::default(), Instant::now());
        for second in 0..600_u64 {
            let first = u32::try_from(second * 64).expect("small") + 0x0a00_0000;
            let answered: BTreeSet<IpAddr> =
                (first..first + 64).map(|bits| std::net::Ipv4Addr::from_bits(bits).into()).collect();
            known.note_answer(&answered, |_| true, began + Duration::from_secs(second));
            assert!(known.iter().count() <= KNOWN_MAX, "at {second}s");
        }
    }

    #[test]
    fn the_next_look_up_comes_at_the_time_to_live_and_within_bounds() {
        let seconds = |ttl, random| next_look_up(Duration::from_secs(ttl), random).as_secs_f64();
        for (ttl, least, most) in [(0, 1.0, 1.1), (5, 5.0, 5.5), (30, 30.0, 31.0), (86_400, 54.0, 60.0)] {
            let [one, other] = [seconds(ttl, 0.0), seconds(ttl, 1.0)];
            assert_eq!([one.min(other), one.max(other)], [least, most], "{ttl}s");
        }
        assert!((59..86_400).all(|ttl| (1.0..=60.0).contains(&seconds(ttl, 1.0))));
        let pause = |failures, random| pause_after_failure(failures, random).as_secs_f64();
        assert_eq!([pause(1, 0.0), pause(1, 1.0), pause(2, 1.0), pause(99, 1.0)], [1.0, 2.0, 4.0, 8.0]);
    }
}
