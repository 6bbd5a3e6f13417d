//! Heavy sessions that leave their link, and light ones that leave the link of the heavy ones, with both ends of ours.

use super::{
    moving::{Ends, Targets, answered, exchange},
    *,
};
use crate::link::liveness::PING_INTERVAL;

/// A stream is compared in parts of this length.
const BLOCK: usize = 100_000;
/// So much of it goes on when what was waited for has come.
const BLOCKS_MORE: usize = 30;
/// The link is busy at one check, the session is heavy at the next, and it moves.
const LEAVES_WITHIN: Duration = PING_INTERVAL.saturating_mul(3);

/// A part of a stream, which begins with its number. It is cheap to make: many streams run at once.
fn block(number: usize, kinds: &[Vec<u8>]) -> Vec<u8> {
    let mut block = kinds[number % kinds.len()].clone();
    block[..8].copy_from_slice(&(number as u64).to_be_bytes());
    block
}

/// Moves bytes one way until `done` holds, and then some more; whether the session came to a clean end with all of them.
async fn streams(session: Session, is_upward: bool, done: impl Fn() -> bool) -> bool {
    let Session { client, backend, mut opener, mut server, .. } = session;
    let (mut from, mut to) = if is_upward { (client, backend) } else { (backend, client) };
    let (began, kinds) = (Instant::now(), (0..7).map(|kind| payload(kind, BLOCK)).collect::<Vec<_>>());
    let writing = async {
        let (mut number, mut last) = (0, usize::MAX);
        while number < last {
            // The session may be cut meanwhile.
            if from.write_all(&block(number, &kinds)).await.is_err() {
                return number + 1;
            }
            number += 1;
            if last == usize::MAX && (done() || began.elapsed() > PATIENCE) {
                last = number + BLOCKS_MORE;
            }
        }
        let _ = from.shutdown().await;
        number
    };
    let reading = async {
        let (mut received, mut chunk, mut number) = (Vec::new(), vec![0; 65_536], 0);
        let is_whole = loop {
            let count = match to.read(&mut chunk).await {
                Ok(0) => break true,
                Ok(count) => count,
                Err(_) => break false,
            };
            received.extend_from_slice(&chunk[..count]);
            while received.len() >= BLOCK {
                let rest = received.split_off(BLOCK);
                assert!(received == block(number, &kinds), "block {number}");
                (received, number) = (rest, number + 1);
            }
        };
        assert!(block(number, &kinds).starts_with(&received), "block {number}");
        let _ = to.shutdown().await;
        (is_whole && received.is_empty(), number)
    };
    let ending = async {
        let how = finish(&mut opener).await;
        match how {
            SessionFate::Clean => _ = finish(&mut server).await,
            // Nobody waits for the other end to notice.
            _ => drop(server),
        }
        how
    };
    let (sent, (is_whole, received), how) = tokio::join!(writing, reading, ending);
    let is_clean = matches!(how, SessionFate::Clean);
    assert!(is_clean || matches!(how, SessionFate::LinkLost(_) | SessionFate::Reset(_)), "{how:?}");
    assert!(!is_clean || is_whole && received == sent, "{received} of {sent}");
    is_clean
}

/// Where both ends of a session have it.
fn is_on(counters: &[Arc<SessionCounters>; 2], link: &(Served, Served)) -> bool {
    counters[0].via() == Some(link.0.handle.id()) && counters[1].via() == Some(link.1.handle.id())
}

fn is_for_bulk(link: &(Served, Served)) -> [bool; 2] {
    [&link.0, &link.1].map(|end| end.load.is_for_bulk())
}

#[tokio::test]
async fn a_stream_beside_another_session_leaves_and_keeps_every_byte() {
    let leaves = async |is_upward| {
        let ends = Ends::default();
        let (mut old, next) = (ends.link().await, ends.link().await);
        let (stream, mut other) = (answered(&old.0, &mut old.1).await, answered(&old.0, &mut old.1).await);
        old.0.leaves.send(Targets::of(&[&next.0])).await.expect("it lives");
        let (began, via) = (Instant::now(), stream.counters.clone());
        let has_left = || is_on(&via, &next) && is_for_bulk(&next) == [true, true];
        assert!(timeout(PATIENCE * 2, streams(stream, is_upward, has_left)).await.expect("in time"));
        assert!(
            is_on(&via, &next) && began.elapsed() < LEAVES_WITHIN + PATIENCE / 10,
            "{:?}",
            began.elapsed()
        );
        exchange(&mut other.client, &mut other.backend, b"stays").await;
        assert_eq!(other.counters.map(|counters| counters.via()), [None, None]);
        exchange(&mut other.backend, &mut other.client, b"as it was").await;
        assert_eq!((is_for_bulk(&next), is_for_bulk(&old)), ([false, false], [false, false]), "it has ended");
        assert_eq!(next.1.load.sessions(), 0);
    };
    tokio::join!(leaves(true), leaves(false));
}

#[tokio::test]
async fn a_stream_that_is_alone_stays_and_so_do_those_among_themselves() {
    let remains = async |count: usize| {
        let ends = Ends::default();
        let (mut old, next) = (ends.link().await, ends.link().await);
        let mut sessions = Vec::new();
        for _ in 0..count {
            sessions.push(answered(&old.0, &mut old.1).await);
        }
        old.0.leaves.send(Targets::of(&[&next.0])).await.expect("it lives");
        let began = Instant::now();
        let (via, is_long) = (sessions[0].counters.clone(), || began.elapsed() > 2 * LEAVES_WITHIN);
        let all = sessions.into_iter().map(|session| streams(session, true, is_long));
        let all = timeout(PATIENCE * 2, futures_util::future::join_all(all)).await.expect("in time");
        assert!(all.iter().all(|is_clean| *is_clean));
        assert_eq!(via.map(|counters| counters.via()), [None, None], "{count}");
    };
    tokio::join!(remains(1), remains(3));
}

#[tokio::test]
async fn from_a_link_for_bulk_those_that_are_not_heavy_leave() {
    let ends = Ends::default();
    let (mut old, mut bulk) = (ends.link().await, ends.link().await);
    let (stream, mut beside) = (answered(&old.0, &mut old.1).await, answered(&old.0, &mut old.1).await);
    let mut light = answered(&bulk.0, &mut bulk.1).await;
    for link in [&old.0, &bulk.0] {
        link.leaves.send(Targets::of(&[&old.0, &bulk.0])).await.expect("it lives");
    }
    let (via, of_light) = (stream.counters.clone(), light.counters.clone());
    let have_left = || is_on(&via, &bulk) && is_on(&of_light, &old);
    let watches = async {
        let done =
            || have_left() && is_for_bulk(&bulk) == [true, true] && is_for_bulk(&old) == [false, false];
        streams(stream, true, done).await
    };
    assert!(timeout(PATIENCE * 2, watches).await.expect("in time") && have_left());
    assert_eq!(beside.counters[0].via(), None);
    for session in [&mut beside, &mut light] {
        exchange(&mut session.client, &mut session.backend, b"as ever").await;
        exchange(&mut session.backend, &mut session.client, b"back").await;
    }
    assert_eq!(is_for_bulk(&bulk), [false, false]);
}

/// At any moment of the move, each end of each link.
#[tokio::test]
async fn a_link_that_is_killed_while_a_stream_leaves_costs_it_at_most_and_no_byte_is_wrong() {
    let round = async |round: usize| {
        let ends = Ends::default();
        let (mut old, next) = (ends.link().await, ends.link().await);
        let (stream, _other) = (answered(&old.0, &mut old.1).await, answered(&old.0, &mut old.1).await);
        old.0.leaves.send(Targets::of(&[&next.0])).await.expect("it lives");
        let killed = CancellationToken::new();
        let kill = async {
            // Its place on the other link is taken when its move begins.
            timeout(PATIENCE, next.0.load.changed()).await.expect("it begins to leave");
            for _ in 0..round / 2 {
                tokio::task::yield_now().await;
            }
            [&old.0, &old.1, &next.0, &next.1][round % 4].cut.cancel();
            killed.cancel();
        };
        let play = streams(stream, !round.is_multiple_of(3), || killed.is_cancelled());
        let played = timeout(PATIENCE * 2, async { tokio::join!(play, kill).0 }).await;
        let is_clean = played.unwrap_or_else(|_| panic!("round {round}: the session hangs"));
        assert_eq!(ends.server.parked.count(), 0, "round {round}");
        is_clean
    };
    let played = futures_util::future::join_all((0..16).map(round)).await;
    let clean = played.iter().filter(|is_clean| **is_clean).count();
    assert!((2..=14).contains(&clean), "{clean} of 16 went on");
}
