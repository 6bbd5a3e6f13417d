//! A session that moves much among others that talk: it goes on over a link for bulk, if there may be one.

use std::{
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    moving::{StopOnDrop, echoes, streams},
    process::{Gateway, SOON, TestFolder},
    setup::{Pair, dmz_half, internal_half},
};

const TALKERS: usize = 50;
/// By then a session that is to leave has left: its link is checked every 2.5 s, and it moves with the third check.
const LONG: Duration = Duration::from_secs(9);

/// The session that has moved the most.
fn heaviest(status: &Value) -> Option<&Value> {
    let moved = |session: &&Value| {
        ["bytes_up", "bytes_down"].iter().filter_map(|bytes| session[bytes].as_u64()).sum::<u64>()
    };
    status["sessions"].as_array()?.iter().max_by_key(moved)
}

/// The links of the pools that are in this state.
fn links_in<'a>(status: &'a Value, state: &str) -> Vec<&'a Value> {
    let pools = status["pools"].as_array().expect("pools");
    let links = pools.iter().filter_map(|pool| pool["links"].as_array()).flatten();
    links.filter(|link| link["state"] == state).collect()
}

/// Whether the heaviest session has a link to itself, and as many others are ready as are wanted.
fn has_left(status: &Value) -> bool {
    let (bulk, pool) = (links_in(status, "bulk"), &status["pools"][0]);
    bulk.len() == 1
        && bulk[0]["sessions_open"] == 1
        && heaviest(status).is_some_and(|session| session["via"] == bulk[0]["id"])
        && (&pool["bulk"], &pool["carrying"]) == (&1.into(), &1.into())
        && (&pool["ready"], &pool["state"]) == (&pool["target"], &"healthy".into())
        && pool["sessions"] == TALKERS + 1
}

/// Sends a little to and fro on each of them in turn, until it is asked to stop.
fn talk(mut clients: Vec<TcpStream>, stops: &AtomicBool) {
    while !stops.load(Ordering::Relaxed) {
        clients.iter_mut().for_each(|client| echoes(client, b"a little to and fro"));
    }
}

/// Runs a stream and these talkers over a pair while `watched` does.
fn beside(pair: &Pair<'_>, talkers: usize, watched: impl FnOnce()) {
    let connect = || TcpStream::connect(pair.dmz.accept("echo")).expect("the port is open");
    let stops = AtomicBool::new(false);
    thread::scope(|scope| {
        // Whatever fails below, they end.
        let _stop = StopOnDrop(&stops);
        let talkers: Vec<_> = (0..talkers).map(|_| connect()).collect();
        let talking = scope.spawn(|| talk(talkers, &stops));
        let streaming = scope.spawn(|| streams(connect(), &stops));
        watched();
        stops.store(true, Ordering::Relaxed);
        talking.join().expect("no byte is wrong");
        assert!(streaming.join().expect("no byte is wrong") > 0);
    });
}

/// Once the stream is as old as this, it is where it was.
fn wait_unmoved(gateway: &Gateway<'_>, sessions: usize) {
    let begun = gateway.wait("all have begun", SOON, |status| {
        status["sessions"].as_array().is_some_and(|all| all.len() == sessions)
            && heaviest(status).is_some_and(|session| session["bytes_up"].as_u64() > Some(4_000_000))
    });
    let via = heaviest(&begun).map(|session| (session["id"].clone(), session["via"].clone()));
    let later = gateway.wait("time passes", LONG + SOON, |status| {
        heaviest(status).is_some_and(|session| session["age_seconds"].as_f64() > Some(LONG.as_secs_f64()))
    });
    assert_eq!(heaviest(&later).map(|session| (session["id"].clone(), session["via"].clone())), via);
    assert!(links_in(&later, "bulk").is_empty(), "{:#}", later["pools"]);
}

#[test]
fn a_stream_among_sessions_that_talk_gets_a_link_to_itself() {
    let folder = TestFolder::with_certificates();
    let pair = Pair::reverse(&folder, &[("echo", "echo://")]);
    beside(&pair, TALKERS, || {
        for gateway in [&pair.dmz, &pair.internal] {
            gateway.wait("the stream has left", LONG + SOON, has_left);
        }
    });
    for gateway in [&pair.dmz, &pair.internal] {
        let done = gateway.wait("it has ended", SOON, |status| links_in(status, "bulk").is_empty());
        assert_eq!(done["pools"][0]["failures"], 0, "{:#}", done["pools"]);
    }
}

#[test]
fn a_stream_that_is_alone_stays_on_its_link() {
    let folder = TestFolder::with_certificates();
    let pair = Pair::reverse(&folder, &[("echo", "echo://")]);
    beside(&pair, 0, || wait_unmoved(&pair.dmz, 1));
}

#[test]
fn a_stream_stays_where_no_link_can_be_spared() {
    let folder = TestFolder::with_certificates();
    let services = [("echo", "echo://")];
    let pair = Pair::of(&folder, &dmz_half("127.0.0.1:0", &["echo"]), |link| {
        internal_half(link, &services).replace("prepared: 2", "prepared: 2, maximum: 2")
    });
    beside(&pair, TALKERS, || wait_unmoved(&pair.dmz, TALKERS + 1));
}
