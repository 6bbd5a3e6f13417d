//! Look-ups with a resolver that the test holds back: who waits, who shares an answer, and who does not start a
//! thread.

use std::sync::{
    atomic::{AtomicUsize, Ordering},
    mpsc,
};

use futures_util::future::join_all;
use tokio::time::timeout;

use super::*;
use crate::tests::happens_after;

/// Nothing that is waited for here takes longer, even on a busy machine.
const PATIENT: Duration = Duration::from_secs(20);

fn at(host: &str) -> HostPort {
    HostPort { host: host.into(), port: 7 }
}

/// Names that are never fresh.
fn names(resolve: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> NameResolver {
    NameResolver { fresh: Duration::ZERO, ..NameResolver::new(resolve) }
}

fn one(last: u8) -> Vec<SocketAddr> {
    vec![SocketAddr::from(([192, 0, 2, last], 0))]
}

async fn ask(names: &NameResolver, host: &str) -> Result<Vec<SocketAddr>, ResolveError> {
    timeout(PATIENT, names.resolve(&at(host))).await.expect("an answer")
}

/// A resolver that blocks until the other end is dropped.
fn held() -> (mpsc::Sender<()>, impl Fn() + Send + Sync) {
    let (hold, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    (hold, move || drop(held.lock().map(|held| held.recv())))
}

#[tokio::test]
async fn a_name_is_looked_up_once_for_all_who_ask_meanwhile() {
    let ((hold, wait), count) = (held(), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    let names = names(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        wait();
        Ok(one(1))
    });
    let asking = join_all((0..100).map(|_| ask(&names, "db")));
    let answering = async { drop(hold) };
    let (answers, ()) = tokio::join!(asking, answering);
    assert!(answers.into_iter().all(|answer| answer.is_ok_and(|found| found[0].port() == 7)));
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_last_answer_is_used_while_a_new_one_fails_or_hangs() {
    let ((hold, wait), count) = (held(), AtomicUsize::new(0));
    let names = names(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Ok(one(1)),
        1 => Err(io::Error::other("the server is mad")),
        2 => Ok(Vec::new()),
        3 => {
            wait();
            Ok(one(2))
        }
        _ => Ok(one(3)),
    });
    for what in ["first", "failed", "empty", "hangs", "still hangs"] {
        let found = ask(&names, "db").await.expect(what);
        assert_eq!(found[0].ip().to_string(), "192.0.2.1", "{what}");
    }
    drop(hold);
    // The answer that hung has arrived, and later ones are requested.
    let later =
        async { while ask(&names, "db").await.expect("an answer")[0].ip().to_string() == "192.0.2.1" {} };
    timeout(PATIENT, later).await.expect("a new answer");
}

#[tokio::test]
async fn a_new_answer_that_hangs_is_waited_for_a_moment() {
    let ((_hold, wait), count) = (held(), AtomicUsize::new(0));
    let names = names(move |_| {
        if count.fetch_add(1, Ordering::SeqCst) > 0 {
            wait();
        }
        Ok(one(1))
    });
    ask(&names, "db").await.expect("the first answer");
    tokio::time::pause();
    let found = happens_after(STALE_ANSWER_DELAY, names.resolve(&at("db"))).await.expect("the last answer");
    assert_eq!(found[0].ip().to_string(), "192.0.2.1");
}

#[tokio::test]
async fn a_silent_zone_does_not_block_others() {
    let (_hold, wait) = held();
    let running = Arc::new(AtomicUsize::new(0));
    let counted = running.clone();
    let names = names(move |host| {
        if host.ends_with("late.test") {
            counted.fetch_add(1, Ordering::SeqCst);
            wait();
        }
        Ok(one(1))
    });
    let slow: Vec<_> = (0..1000).map(|number| at(&format!("n{number}.late.test"))).collect();
    let mut stalled = Box::pin(join_all(slow.iter().map(|at| names.resolve(at))));
    let others = async {
        for host in ["db", "www.example.com", "localhost", "192.0.2.1", "fe80::1%1"] {
            ask(&names, host).await.expect(host);
        }
    };
    tokio::select! {
        biased;
        _ = &mut stalled => panic!("nobody has answered"),
        () = others => {}
    }
    assert!(running.load(Ordering::SeqCst) <= OF_ZONE_MAX);
    assert!(names.lock().running <= OF_ZONE_MAX);
}

#[tokio::test]
async fn an_abandoned_lookup_never_starts() {
    let ((hold, wait), count) = (held(), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    let names = names(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        wait();
        Ok(one(1))
    });
    let slow: Vec<_> = (0..200).map(|number| at(&format!("n{number}.late.test"))).collect();
    let asking = join_all(slow.iter().map(|at| names.resolve(at)));
    assert!(timeout(Duration::from_millis(1), asking).await.is_err(), "nobody has answered");
    drop(hold);
    ask(&names, "last.late.test").await.expect("there is room again");
    assert!(count.load(Ordering::SeqCst) <= OF_ZONE_MAX + 1);
}

#[test]
fn names_that_were_late_have_a_part_of_the_threads() {
    let mut table = NameTable::default();
    let mut add = |host: String, was_late| {
        let (answer, receiver) = watch::channel(None);
        let under_way = Some(RunningLookup { asked_at: Instant::now(), answer });
        let name =
            NameEntry { asked_at: Instant::now(), last: None, is_reported: false, was_late, under_way };
        table.names.insert(host.clone(), name);
        table.queue.push_back(host);
        receiver
    };
    let slow = (0..300).map(|number| (format!("www.late{number}.test"), true));
    let prompt = (0..300).map(|number| (format!("www.prompt{number}.test"), false));
    let _asking: Vec<_> = slow.chain(prompt).map(|(host, was_late)| add(host, was_late)).collect();
    let begun: Vec<_> = std::iter::from_fn(|| table.start_next_queued()).collect();
    assert_eq!(begun.len(), THREADS_MAX);
    assert_eq!(begun.iter().filter(|host| host.contains("late")).count(), LATE_MAX);
    for host in &begun {
        table.finish(host, Ok(one(1)), Duration::ZERO);
    }
    assert_eq!((table.running, table.slow, table.of_zones.len()), (0, 0, 0));
}

#[test]
fn zones_are_identified_by_their_last_labels() {
    for (host, expected) in [
        ("a.b.example.com", "example.com"),
        ("example.com.", "example.com"),
        ("db", "db"),
        ("www.test", "www.test"),
    ] {
        assert_eq!(zone(host), expected);
    }
}

#[test]
fn an_interface_is_known_by_name_and_by_number() {
    assert_eq!(interface_index("lo").expect("every machine has it"), 1);
    assert_eq!(interface_index("7").expect("a number"), 7);
    assert!(interface_index("no-such-one").expect_err("there is none").to_string().contains("no-such-one"));
}
