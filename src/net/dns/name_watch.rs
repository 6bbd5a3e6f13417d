//! Follows one name by looking it up again and again: which addresses, or targets of its SRV records, are new, and
//! which are gone. When that is due, and how long a missing target is kept, is `name_rules`; nobody is dialled here.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    DnsError, DnsResolver, HostAddresses, NameServers,
    name_rules::{
        FollowedTargets, LookupAnswer, TARGETS_MAX, TargetChange, next_look_up, pause_after_failure,
    },
    service_rules::ServiceRecords,
};
use crate::text;

/// How many unusable targets are named in a message.
const UNUSABLE_LISTED_MAX: usize = 4;

/// Looks a name up once.
type LookUp<A> = Arc<dyn Fn() -> BoxFuture<'static, Result<A, DnsError>> + Send + Sync>;

pub struct NameWatch<A: LookupAnswer> {
    look_up: LookUp<A>,
    servers: watch::Receiver<NameServers>,
    known: FollowedTargets<A::Target>,
    /// Look-ups without a target, in a row.
    failures: u32,
    unusable: Vec<String>,
    beyond: usize,
    next: Instant,
}

/// The result of a look-up.
#[derive(Debug)]
pub struct NameUpdate<A: LookupAnswer> {
    pub change: TargetChange<A::Target>,
    /// What is worth reporting.
    pub lines: Vec<NameReport>,
    /// The answer that applies from now on; `None` if the previous one still does.
    pub answer: Option<A>,
}

#[derive(Debug)]
pub enum NameReport {
    /// The first look-up without an address, and why it failed.
    Unanswered(Arc<DnsError>),
    /// The first look-up with an address after those.
    AnsweredAgain { failures: u32 },
    /// Targets that cannot be connected to.
    Unusable(Vec<String>),
    /// The name has this many addresses (or targets, as the second says), and only some are used.
    TooMany(usize, &'static str),
}

impl<A: LookupAnswer> NameUpdate<A> {
    /// Why there was no answer, if this is the first failure.
    pub fn unanswered(&self) -> Option<&Arc<DnsError>> {
        self.lines.iter().find_map(|line| match line {
            NameReport::Unanswered(why) => Some(why),
            NameReport::AnsweredAgain { .. } | NameReport::Unusable(_) | NameReport::TooMany(..) => None,
        })
    }
}

impl NameWatch<HostAddresses> {
    pub fn of_addresses(dns: &DnsResolver, host: Arc<str>) -> Self {
        let (servers, dns) = (dns.servers(), dns.clone());
        let look_up = move || {
            let (dns, host) = (dns.clone(), host.clone());
            Box::pin(async move { dns.addresses(&host).await }) as BoxFuture<'static, _>
        };
        Self::with(Arc::new(look_up), servers)
    }
}

impl NameWatch<ServiceRecords> {
    pub fn of_services(dns: &DnsResolver, host: Arc<str>) -> Self {
        let (servers, dns) = (dns.servers(), dns.clone());
        let look_up = move || {
            let (dns, host) = (dns.clone(), host.clone());
            Box::pin(async move { dns.services(&host).await }) as BoxFuture<'static, _>
        };
        Self::with(Arc::new(look_up), servers)
    }
}

impl<A: LookupAnswer> NameWatch<A> {
    fn with(look_up: LookUp<A>, servers: watch::Receiver<NameServers>) -> Self {
        Self {
            look_up,
            servers,
            known: FollowedTargets::default(),
            failures: 0,
            unusable: Vec::new(),
            beyond: 0,
            next: Instant::now(),
        }
    }

    /// Continues with the targets that were used before.
    pub fn knowing(mut self, targets: Vec<A::Target>) -> Self {
        self.known = FollowedTargets::of(targets);
        self
    }

    /// The targets that are used now.
    pub fn targets(&self) -> impl Iterator<Item = &A::Target> {
        self.known.iter()
    }

    /// Looks the name up when it is time; returns what that has found.
    pub async fn next_update(&mut self) -> NameUpdate<A> {
        tokio::select! {
            () = sleep_until(self.next) => {}
            Ok(()) = self.servers.changed() => {}
        }
        let answered = (self.look_up)().await;
        self.note(answered)
    }

    fn note(&mut self, answered: Result<A, DnsError>) -> NameUpdate<A> {
        let now = Instant::now();
        let mut lines = Vec::new();
        let answer = match answered {
            Ok(answer) => answer,
            Err(error) => return self.note_failure(error, lines),
        };
        let chosen = answer.choose();
        if self.unusable != chosen.unusable {
            self.unusable.clone_from(&chosen.unusable);
            if !chosen.unusable.is_empty() {
                lines.push(NameReport::Unusable(chosen.unusable));
            }
        }
        if chosen.used.is_empty() {
            return self.note_failure(DnsError::NothingUsable(A::ONE), lines);
        }
        if self.beyond == 0 && chosen.beyond > 0 {
            lines.push(NameReport::TooMany(TARGETS_MAX + chosen.beyond, A::ALL));
        }
        self.beyond = chosen.beyond;
        if self.failures > 0 {
            lines.push(NameReport::AnsweredAgain { failures: std::mem::take(&mut self.failures) });
        }
        let change = self.known.note_answer(&chosen.used, |target| answer.covers(target), now);
        self.next = now + next_look_up(answer.ttl(), fastrand::f64());
        NameUpdate { change, lines, answer: Some(answer) }
    }

    /// The known targets stay in use.
    fn note_failure(&mut self, why: DnsError, mut lines: Vec<NameReport>) -> NameUpdate<A> {
        self.failures = self.failures.saturating_add(1);
        self.next = Instant::now() + pause_after_failure(self.failures, fastrand::f64());
        if self.failures == 1 {
            lines.push(NameReport::Unanswered(Arc::new(why)));
        }
        NameUpdate { change: TargetChange::default(), lines, answer: None }
    }
}

impl std::fmt::Display for NameReport {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unanswered(why) => write!(out, "{why}; the last known addresses stay in use"),
            Self::AnsweredAgain { failures } => {
                write!(
                    out,
                    "it resolves again, after {} in a row",
                    text::count(u64::from(*failures), "failure")
                )
            }
            Self::Unusable(targets) => {
                let named = &targets[..targets.len().min(UNUSABLE_LISTED_MAX)];
                write!(out, "not dialled, because they are not usable addresses: {}", named.join(", "))?;
                match targets.len() - named.len() {
                    0 => Ok(()),
                    more => write!(out, " and {more} more"),
                }
            }
            Self::TooMany(all, what) => {
                write!(out, "it has {all} {what}; the first {TARGETS_MAX} are dialled")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::Mutex, time::Duration};

    use super::*;
    use crate::net::dns::split_by_family;

    type Answers = Arc<Mutex<Box<dyn FnMut() -> Result<HostAddresses, DnsError> + Send>>>;

    /// A name whose look-ups get the answers of `answer`.
    fn watch_of(
        answer: impl FnMut() -> Result<HostAddresses, DnsError> + Send + 'static,
    ) -> NameWatch<HostAddresses> {
        let answers: Answers = Arc::new(Mutex::new(Box::new(answer)));
        let look_up = move || {
            let answered = (answers.lock().expect("nobody panics with it"))();
            Box::pin(std::future::ready(answered)) as BoxFuture<'static, _>
        };
        NameWatch::with(Arc::new(look_up), watch::Sender::default().subscribe())
    }

    fn hosts(text: &str, ttl: u64) -> Result<HostAddresses, DnsError> {
        let addresses = text.split_whitespace().map(|ip| ip.parse().expect("an address"));
        Ok(split_by_family(addresses, Duration::from_secs(ttl)))
    }

    fn used(watch: &NameWatch<HostAddresses>) -> String {
        watch.targets().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_looked_up_at_its_time_to_live_and_what_is_gone_is_given_up_late() {
        let began = Instant::now();
        let mut watch = watch_of(move || match began.elapsed().as_secs() {
            0..9 => hosts("10.0.0.1 10.0.0.2", 10),
            _ => hosts("10.0.0.2 10.0.0.3", 10),
        });
        watch.next_update().await;
        assert_eq!(began.elapsed(), Duration::ZERO, "at once");
        let renumbered = watch.next_update().await;
        assert_eq!(renumbered.change.added.len(), 1);
        assert!((10.0..11.0).contains(&began.elapsed().as_secs_f64()), "{:?}", began.elapsed());
        assert_eq!(used(&watch), "10.0.0.1 10.0.0.2 10.0.0.3");
        let first_missing = Instant::now();
        let retired = loop {
            let event = watch.next_update().await;
            if !event.change.retired.is_empty() {
                break event.change.retired;
            }
        };
        assert_eq!(retired, ["10.0.0.1".parse::<IpAddr>().expect("one")]);
        assert!(
            (30.0..41.0).contains(&first_missing.elapsed().as_secs_f64()),
            "{:?}",
            first_missing.elapsed()
        );
        assert_eq!(used(&watch), "10.0.0.2 10.0.0.3");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_without_an_address_changes_nothing_and_is_reported_once() {
        let began = Instant::now();
        let mut watch = watch_of(move || match began.elapsed().as_secs() {
            0 => hosts("10.0.0.1", 1),
            1..300 => Err(DnsError::NoName),
            300..600 => hosts("0.0.0.0", 1),
            600..900 => Err(DnsError::Late),
            _ => hosts("10.0.0.2", 1),
        });
        let mut reported = Vec::new();
        while began.elapsed() < Duration::from_secs(920) {
            let event = watch.next_update().await;
            assert!(event.change.retired.is_empty());
            assert!(used(&watch).starts_with("10.0.0.1"), "{}", used(&watch));
            reported.extend(event.lines);
        }
        let lines: Vec<_> = reported.iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!(lines[0], "there is no such name; the last known addresses stay in use");
        assert_eq!(lines[1], "not dialled, because they are not usable addresses: 0.0.0.0");
        assert!(lines[2].starts_with("it resolves again, after "), "{lines:?}");
        assert_eq!(used(&watch), "10.0.0.1 10.0.0.2");
    }

    #[tokio::test(start_paused = true)]
    async fn however_long_an_answer_holds_the_name_is_looked_up_each_minute_and_at_most_each_second() {
        for (ttl, least, most) in [(0, 900, 1001), (86_400, 16, 20)] {
            let (began, checks) = (Instant::now(), Arc::new(Mutex::new(0)));
            let counted = checks.clone();
            let mut watch = watch_of(move || {
                *counted.lock().expect("nobody panics with it") += 1;
                hosts("10.0.0.1", ttl)
            });
            while began.elapsed() < Duration::from_secs(1000) {
                watch.next_update().await;
            }
            let checks = *checks.lock().expect("nobody panics with it");
            assert!((least..=most).contains(&checks), "{checks} of {ttl}s");
        }
    }
}
