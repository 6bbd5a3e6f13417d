//! Switches back and forth under load: every session is carried whole, and nothing grows.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    connect,
    process::{Gateway, SOON, TestFolder},
    run,
    verify::Ports,
};

/// Switches of a run; `PORTCULLIS_SWITCHES=1000` for the long one.
const SWITCHES: usize = 40;
/// Growth that does not count: what the allocator and the kernel keep for themselves.
const MEMORY_KIB: u64 = 16 * 1024;

/// Sessions that must be carried byte for byte: short ones one after another, and long ones that
/// never stop talking.
struct Load {
    threads: Vec<JoinHandle<()>>,
    enough: Arc<AtomicBool>,
    carried: Arc<AtomicUsize>,
}

impl Load {
    fn start(at: SocketAddr) -> Self {
        let (enough, carried) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let begin = |session: fn(SocketAddr, &AtomicBool, &AtomicUsize)| {
            let (enough, carried) = (enough.clone(), carried.clone());
            thread::spawn(move || session(at, &enough, &carried))
        };
        let threads =
            [run_short_sessions as fn(_, &_, &_), run_short_sessions, run_short_sessions, long, long]
                .map(begin)
                .into();
        Self { threads, enough, carried }
    }

    fn carries(&self, more: usize) {
        let from = self.carried.load(Ordering::Relaxed);
        crate::until("new sessions are carried", SOON, || {
            (self.carried.load(Ordering::Relaxed) >= from + more).then_some(())
        });
    }

    fn end(self) {
        self.enough.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("every byte came back in order"));
    }
}

/// One session after another, each of its own length, ended by both sides.
fn run_short_sessions(at: SocketAddr, enough: &AtomicBool, carried: &AtomicUsize) {
    while !enough.load(Ordering::Relaxed) {
        let mut client = connect(at);
        let sent: Vec<u8> = (0..fastrand::usize(1..40_000)).map(|_| fastrand::u8(..)).collect();
        client.write_all(&sent).expect("it is sent");
        client.shutdown(Shutdown::Write).expect("it is half closed");
        let mut received = Vec::new();
        client.read_to_end(&mut received).expect("a clean end");
        assert!(received == sent, "{} bytes came back of {}", received.len(), sent.len());
        carried.fetch_add(1, Ordering::Relaxed);
    }
}

/// One session from the first switch to the last; each word is another one.
fn long(at: SocketAddr, enough: &AtomicBool, _: &AtomicUsize) {
    let mut client = connect(at);
    let mut number = 0u64;
    while !enough.load(Ordering::Relaxed) {
        let words: Vec<u8> = (number..number + 100).flat_map(u64::to_be_bytes).collect();
        client.write_all(&words).expect("it is sent");
        let mut received = vec![0; words.len()];
        client.read_exact(&mut received).expect("it comes back");
        assert_eq!(received, words);
        number += 100;
        thread::sleep(Duration::from_millis(1));
    }
    client.shutdown(Shutdown::Write).expect("it is half closed");
    assert_eq!(client.read(&mut [0]).expect("a clean end"), 0);
}

fn resident_kib(gateway: &Gateway<'_>) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", gateway.child.id())).expect("it runs");
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn switches_under_load_cut_nothing_and_leave_nothing() {
    let switches = std::env::var("PORTCULLIS_SWITCHES")
        .map_or(SWITCHES, |number| number.parse().expect("PORTCULLIS_SWITCHES is a number"));
    let (folder, ports) = (TestFolder::with_certificates(), Ports::new());
    // A short drain: it bounds a stop, never a session of a service that stays.
    let text = ports.pair("echo://").replace("mode: forward", "mode: forward\ndrain: 100ms");
    folder.write("forward.yaml", &text);
    folder.write("reverse.yaml", &text.replace("mode: forward", "mode: reverse"));
    let gateway = folder.start("forward");
    gateway.wait_healthy();
    let switch = |to: &str| {
        let output = run(&folder, &["switch", &format!("{to}.yaml"), "--admin", "run/forward.sock"]);
        assert_eq!(output.code, Some(0), "{}\n{}", output.err, gateway.log());
    };
    let back_and_forth = |load: &Load, count: usize| {
        for number in 0..count {
            switch(if number % 2 == 0 { "reverse" } else { "forward" });
            load.carries(5);
        }
    };
    // What the first switches leave behind is there once: caches, threads, buffers.
    let load = Load::start(gateway.accept("web"));
    back_and_forth(&load, 4);
    load.end();
    let quiet = |status: &serde_json::Value| {
        status["totals"]["sessions_open"] == 0
            && status["pools"].as_array().is_some_and(|pools| {
                pools.iter().all(|pool| pool["state"] == "healthy" && pool["ready"].as_u64() <= Some(3))
            })
    };
    let before = gateway.wait("it is quiet", Duration::from_secs(90), quiet)["descriptors"]["used"].clone();
    let memory_before = resident_kib(&gateway);

    let load = Load::start(gateway.accept("web"));
    back_and_forth(&load, switches);
    load.end();
    let status = gateway.status();
    let cut: Vec<_> =
        status["ended"].as_array().expect("a list").iter().filter(|row| row["end"] != "--").collect();
    assert!(cut.is_empty(), "{cut:#?}");
    assert_eq!(status["totals"]["refused"], 0, "{status:#}");
    gateway.wait("descriptors are as before", Duration::from_secs(90), |status| {
        quiet(status) && status["descriptors"]["used"].as_u64() <= before.as_u64().map(|used| used + 2)
    });
    crate::until("memory is as before", SOON, || {
        let now = resident_kib(&gateway);
        println!("{switches} switches: {memory_before} KiB before, {now} KiB after");
        (now <= memory_before + MEMORY_KIB).then_some(())
    });
}
