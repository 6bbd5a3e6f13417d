//! Sessions that open, move bytes and end in the registry, and what its rows and totals say of them.

use std::collections::HashSet;

use super::*;
use crate::telemetry::snapshot::SessionPhase;

fn registry() -> Arc<SessionRegistry> {
    Arc::new(SessionRegistry::new(Arc::new(NoticeLog::default())))
}

fn open(registry: &Arc<SessionRegistry>) -> SessionGuard {
    let orders = ServiceName::parse("orders").expect("a name");
    let client = "192.0.2.7:50000".parse().ok();
    registry.open((Half::Dmz, orders), None, None, client, SessionKind::Client, SessionStopper::default())
}

#[test]
fn an_abandoned_session_is_no_bug_and_a_panic_is() {
    let registry = registry();
    let session = open(&registry);
    session.counters().enter(SessionPhase::Draining);
    drop(session);
    let panicking = open(&registry);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _session = panicking;
        panic!("a bug");
    }));
    assert!(panicked.is_err());
    let codes: Vec<_> = registry.ended().into_iter().map(|row| row.end).collect();
    assert_eq!(codes, ["IN", "TD"]);
}

/// A gateway may hold thousands of idle ones.
#[test]
fn an_open_session_takes_little_memory() {
    let bytes = [size_of::<OpenSession>(), size_of::<SessionCounters>()];
    assert!(bytes[0] <= 200 && bytes[1] <= 168, "{bytes:?}");
}

#[test]
fn healthy_ends_push_no_failure_out() {
    let registry = registry();
    let failed = open(&registry);
    let id = failed.id().to_owned();
    let end =
        SessionEnd { ended_by: EndedBy::Peer, phase: SessionPhase::Relaying, reason: "it is gone".into() };
    failed.finish(end);
    (0..3 * ended::KEPT_MAX).for_each(|_| open(&registry).finish(SessionEnd::clean()));
    let ended = registry.ended();
    assert_eq!(ended.last().map(|row| (&*row.id, &*row.end)), Some((&*id, "PR")));
    assert_eq!(ended.len(), ended::KEPT_MAX + 1, "and both kinds are bounded");
    assert!(ended.is_sorted_by_key(|row| row.ago_seconds), "newest first");
}

#[test]
fn a_client_that_sends_in_bursts_has_a_steady_rate() {
    let registry = registry();
    let session = open(&registry);
    session.counters().enter(SessionPhase::Relaying);
    let start = Instant::now();
    let mut rates = Vec::new();
    for quarter in 0..20_u64 {
        // 400 bytes a second, 80 of them every 200 ms.
        let sent = quarter * 250 / 200 * 80;
        let more = sent - session.counters().bytes();
        session.counters().add_up(more as usize);
        registry.tick_at(start + Duration::from_millis(quarter * 250));
        rates.extend(registry.rows().0.first().map(|row| row.rate_up));
    }
    assert!(rates[4..].iter().all(|&rate| rate == 400), "{rates:?}");
    registry.tick_at(start + Duration::from_secs(60));
    registry.tick_at(start + Duration::from_secs(61));
    assert_eq!(registry.rows().0[0].rate_up, 0, "nothing of what was a minute ago");
}

/// A client that waits moves nothing, and is what an operator looks for.
#[test]
fn of_too_many_sessions_those_that_wait_are_listed_first_and_then_the_busiest() {
    let registry = registry();
    let opened: Vec<_> = (0..ROWS_MAX + 10).map(|_| open(&registry)).collect();
    let start = Instant::now();
    registry.tick_at(start);
    for (index, session) in opened.iter().enumerate() {
        session.counters().enter(if index < 10 { SessionPhase::Waiting } else { SessionPhase::Relaying });
        session.counters().add_up(if index < 25 { 0 } else { 1000 });
    }
    registry.tick_at(start + Duration::from_secs(1));
    let (rows, left_out) = registry.rows();
    assert_eq!((rows.len(), left_out), (ROWS_MAX, 10));
    let listed: HashSet<_> = rows.iter().map(|row| row.id.as_str()).collect();
    let is_listed = |session: &SessionGuard| listed.contains(session.id());
    assert!(opened[..10].iter().all(is_listed), "those that wait");
    assert!(opened[25..].iter().all(is_listed), "those that move bytes");
    let mut idle: Vec<_> = opened[10..25].iter().map(SessionGuard::id).collect();
    idle.sort_unstable();
    let kept: Vec<_> = idle.iter().map(|id| listed.contains(id)).collect();
    assert_eq!(kept, [[true; 5].as_slice(), &[false; 10]].concat(), "the first by their ids");
}

fn orders(registry: &Arc<SessionRegistry>) -> TrafficTotals {
    registry.totals().into_values().next().expect("one service")
}

#[test]
fn a_client_that_waits_is_not_open_and_what_it_sent_may_come_back() {
    let registry = registry();
    let session = open(&registry);
    session.counters().enter(SessionPhase::Connecting);
    session.counters().add_up(500);
    let waits = TrafficTotals { sessions_waiting: 1, ..TrafficTotals::default() };
    assert_eq!(orders(&registry), waits);
    assert_eq!(registry.rows().0[0].last_byte_seconds, None);
    session.counters().take_back_up(500);
    session.counters().add_up(300);
    session.counters().enter(SessionPhase::Relaying);
    let carried = TrafficTotals { sessions_open: 1, sessions: 1, bytes_up: 300, ..TrafficTotals::default() };
    assert_eq!(orders(&registry), carried);
    assert!(registry.rows().0[0].last_byte_seconds.is_some());
    session.finish(SessionEnd::clean());
    assert_eq!(orders(&registry), TrafficTotals { sessions_open: 0, ..carried });
    let refused = open(&registry);
    refused.counters().add_up(500);
    refused.finish(SessionEnd {
        ended_by: EndedBy::Backend,
        phase: SessionPhase::Connecting,
        reason: "refused".into(),
    });
    assert_eq!(orders(&registry), TrafficTotals { sessions_open: 0, refused: 1, ..carried });
    assert_eq!(registry.ended()[0].bytes_up, 0);
}

#[test]
fn a_backend_fails_until_a_session_reaches_it() {
    let registry = registry();
    let refused = |phase| {
        let session = open(&registry);
        session.counters().enter(phase);
        session.finish(SessionEnd { ended_by: EndedBy::Backend, phase, reason: "refused".into() });
    };
    let seen =
        || registry.backend_failures().into_values().map(|of| (of.sessions, of.error)).collect::<Vec<_>>();
    (0..3).for_each(|_| refused(SessionPhase::Connecting));
    assert_eq!(seen(), [(3, "refused".to_owned())]);
    let carried = open(&registry);
    assert_eq!(seen().len(), 1, "it has not come so far");
    carried.counters().enter(SessionPhase::Relaying);
    assert_eq!(seen(), [], "an open one is enough");
    carried.finish(SessionEnd::clean());
    assert_eq!(seen(), []);
}

#[test]
fn clients_that_wait_are_counted_beside_those_that_are_carried() {
    let registry = registry();
    let waiting = || registry.ends().values().map(|ends| ends.waiting).sum::<u64>();
    let (one, other) = (open(&registry), open(&registry));
    one.counters().enter(SessionPhase::Relaying);
    other.counters().enter(SessionPhase::Waiting);
    assert_eq!(waiting(), 1);
    other.counters().enter(SessionPhase::Connecting);
    assert_eq!(waiting(), 0, "it has a link");
    other.counters().enter(SessionPhase::Relaying);
    assert_eq!(waiting(), 0);
    let third = open(&registry);
    third.counters().enter(SessionPhase::Waiting);
    assert_eq!(waiting(), 1);
    drop(third);
    assert_eq!(waiting(), 0);
}

#[test]
fn a_phase_is_timed_from_its_first_moment() {
    let counters = SessionCounters::default();
    assert_eq!(counters.waited(), None, "a session that needs no link");
    counters.enter(SessionPhase::Waiting);
    assert!(counters.waited().is_some(), "while it waits");
    std::thread::sleep(Duration::from_millis(3));
    counters.enter(SessionPhase::Connecting);
    counters.enter(SessionPhase::Relaying);
    let before = (counters.waited(), counters.between(SessionPhase::Connecting, SessionPhase::Relaying));
    assert!(before.0.is_some_and(|wait| wait >= Duration::from_millis(3)));
    std::thread::sleep(Duration::from_millis(3));
    // As the relay does at every turn.
    counters.enter(SessionPhase::Relaying);
    let after = (counters.waited(), counters.between(SessionPhase::Connecting, SessionPhase::Relaying));
    assert_eq!(before, after);
}

#[test]
fn totals_are_what_sessions_add_up_to_whatever_they_do_at_once() {
    let registry = registry();
    let names = ["orders", "chat", "mail"].map(|name| ServiceName::parse(name).expect("a name"));
    // Totals of one thread, as it counts them itself.
    let trial = |seed: u64| {
        let (mut random, mut counted) = (fastrand::Rng::with_seed(seed), HashMap::new());
        for _ in 0..2000 {
            let service = random.choice(&names).expect("there are some").clone();
            let kind = if random.u8(..) < 32 { SessionKind::Probe } else { SessionKind::Client };
            let key = (Half::Dmz, service.clone());
            let session = registry.open(key.clone(), None, None, None, kind, SessionStopper::default());
            let counters = session.counters().clone();
            let (is_carried, up, down) = (random.bool(), random.u64(1..9000), random.u64(1..9000));
            counters.enter(SessionPhase::Connecting);
            counters.add_up(up as usize);
            if is_carried {
                // The link's task and the relay both report it, and bytes arrive meanwhile.
                std::thread::scope(|scope| {
                    scope.spawn(|| counters.enter(SessionPhase::Relaying));
                    scope.spawn(|| counters.enter(SessionPhase::Draining));
                    counters.add_up(up as usize);
                });
                counters.add_down(down as usize);
            }
            let ended_by = *random.choice(&[EndedBy::Client, EndedBy::Backend]).expect("there are some");
            match random.u8(..4) {
                // Nobody waits for it any more.
                0 => drop(session),
                _ => {
                    session.finish(SessionEnd { ended_by, phase: counters.phase(), reason: "it ends".into() })
                }
            }
            counters.add_up(1);
            if kind.is_client() {
                counted.entry(key).or_insert_with(Vec::new).push((is_carried, up, down));
            }
        }
        counted
    };
    let all: Vec<_> = std::thread::scope(|scope| {
        let trials: Vec<_> = (0..4).map(|seed| scope.spawn(move || trial(seed))).collect();
        let reading = scope.spawn(|| {
            while registry.lock().next < 8000 {
                for totals in registry.totals().into_values() {
                    // A session that is reported twice at once is counted twice for a moment.
                    assert!(totals.sessions_open <= 8 && totals.sessions_waiting <= 4, "{totals:?}");
                }
            }
        });
        reading.join().expect("they hold together");
        trials.into_iter().map(|trial| trial.join().expect("it ends")).collect()
    });
    let totals = registry.totals();
    assert_eq!(totals.len(), names.len());
    for (key, seen) in totals {
        let of = || all.iter().filter_map(|counted| counted.get(&key)).flatten();
        let carried = || of().filter(|(is_carried, ..)| *is_carried);
        assert_eq!((seen.sessions_open, seen.sessions_waiting), (0, 0), "{key:?}");
        assert_eq!(seen.sessions + seen.refused, of().count() as u64, "{key:?}");
        let ends: u64 = registry.ends()[&key].ended.iter().map(|(_, count)| count).sum();
        assert_eq!(ends, seen.sessions + seen.refused, "{key:?}");
        assert!(seen.sessions >= carried().count() as u64, "{key:?}");
        assert_eq!(seen.bytes_up, carried().map(|(_, up, _)| 2 * up).sum::<u64>(), "{key:?}");
        assert_eq!(seen.bytes_down, carried().map(|(.., down)| down).sum::<u64>(), "{key:?}");
    }
    assert_eq!(registry.open_count(), 0);
}

#[test]
fn what_failed_at_a_backend_counts_from_the_last_time_that_it_was_reached() {
    let registry = registry();
    let refused = || {
        let session = open(&registry);
        session.counters().enter(SessionPhase::Connecting);
        session.finish(SessionEnd {
            ended_by: EndedBy::Backend,
            phase: SessionPhase::Connecting,
            reason: "refused".into(),
        });
    };
    let seen = || registry.backend_failures().into_values().map(|of| of.sessions).collect::<Vec<_>>();
    let early = open(&registry);
    early.counters().enter(SessionPhase::Relaying);
    (0..2).for_each(|_| refused());
    assert_eq!(seen(), [2]);
    early.finish(SessionEnd::clean());
    assert_eq!(seen(), [2], "a session that came there before they failed tells nothing of it");
    let again = open(&registry);
    again.counters().enter(SessionPhase::Relaying);
    refused();
    assert_eq!(seen(), [1]);
}
