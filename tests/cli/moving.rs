//! Sessions that go on over other links of two processes, while those that they began on are replaced.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use serde_json::Value;

use crate::{
    process::{Gateway, SOON, TestFolder},
    setup::Pair,
};

/// Bytes of a stream: as many as this are on their way before they are read again.
const BLOCK: usize = 200_000;

/// The links of the pools, and those that the open sessions of one half go by.
fn links(status: &Value) -> (Vec<u64>, Vec<u64>) {
    let pools = status["pools"].as_array().expect("pools");
    let up = pools.iter().filter_map(|pool| pool["links"].as_array()).flatten();
    let sessions = status["sessions"].as_array().expect("sessions");
    (
        up.filter_map(|link| link["id"].as_u64()).collect(),
        sessions.iter().filter_map(|session| session["via"].as_u64()).collect(),
    )
}

/// None of the links before is there, and all sessions go by those of now.
fn wait_moved(gateway: &Gateway<'_>, before: &[u64], sessions: usize) {
    gateway.wait("all sessions go by new links", SOON, |status| {
        let (up, via) = links(status);
        via.len() == sessions
            && via.iter().all(|link| up.contains(link))
            && up.iter().all(|link| !before.contains(link))
    });
}

/// Asks the streams to stop when a test is over or has failed.
pub struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What is sent in a round.
fn block(seed: u64) -> Vec<u8> {
    (0..BLOCK as u64).map(|at| ((at * 31 + seed) ^ (at >> 9)) as u8).collect()
}

pub fn echoes(client: &mut TcpStream, bytes: &[u8]) {
    client.write_all(bytes).expect("the session goes on");
    let mut received = vec![0; bytes.len()];
    client.read_exact(&mut received).expect("the session goes on");
    assert!(received == bytes);
}

/// Sends and receives at the same time until it is asked to stop, and then to the end; how many rounds it was.
pub fn streams(client: TcpStream, stops: &AtomicBool) -> u64 {
    let (mut reading, mut writing) = (client.try_clone().expect("a descriptor"), client);
    thread::scope(|scope| {
        let written = scope.spawn(move || {
            let mut rounds = 0;
            while !stops.load(Ordering::Relaxed) {
                writing.write_all(&block(rounds)).expect("the session goes on");
                rounds += 1;
            }
            writing.shutdown(Shutdown::Write).expect("the session goes on");
            rounds
        });
        let mut received = vec![0; BLOCK];
        let mut rounds = 0;
        while reading.read_exact(&mut received).is_ok() {
            assert!(received == block(rounds), "round {rounds}");
            rounds += 1;
        }
        let written = written.join().expect("all is taken");
        assert_eq!(rounds, written, "every byte comes back, and then the end");
        rounds
    })
}

#[test]
fn sessions_go_on_over_new_links_when_certificates_are_renewed() {
    let folder = TestFolder::with_certificates();
    let pair = Pair::reverse(&folder, &[("echo", "echo://")]);
    let connect = || TcpStream::connect(pair.dmz.accept("echo")).expect("the port is open");
    let stops = AtomicBool::new(false);
    thread::scope(|scope| {
        // Whatever fails below, the streams end.
        let _stop = StopOnDrop(&stops);
        let streaming: Vec<_> = (0..2).map(|_| scope.spawn(|| streams(connect(), &stops))).collect();
        let mut quiet = connect();
        echoes(&mut quiet, b"before");
        for half in ["dmz", "internal"] {
            let before = [&pair.dmz, &pair.internal].map(|gateway| {
                let seen = gateway.wait("three sessions", SOON, |status| links(status).1.len() == 3);
                links(&seen).0
            });
            for file in ["pem", "key"] {
                fs::remove_file(folder.path(&format!("pki/{half}.{file}"))).expect("it was there");
            }
            let made = folder.command(&["certs", "--out", "pki"]).output().expect("the program runs");
            assert!(made.status.success(), "{made:?}");
            for (gateway, before) in [&pair.dmz, &pair.internal].into_iter().zip(&before) {
                wait_moved(gateway, before, 3);
            }
            echoes(&mut quiet, half.as_bytes());
        }
        stops.store(true, Ordering::Relaxed);
        for stream in streaming {
            assert!(stream.join().expect("no byte is wrong") > 0);
        }
    });
    for gateway in [&pair.dmz, &pair.internal] {
        let failures = |pool: &Value| pool["failures"].as_u64();
        let pools = gateway.status()["pools"].clone();
        assert!(pools.as_array().expect("pools").iter().all(|pool| failures(pool) == Some(0)), "{pools:#}");
    }
}
