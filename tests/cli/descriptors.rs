//! What happens when descriptors run out.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use crate::{
    DIRECT, connect,
    process::{Place, SOON, until},
};

const LIMIT: usize = 48;
const CLIENTS: usize = 120;
/// How long the work of the starved gateway is measured.
const MEASURED: Duration = Duration::from_secs(2);

#[test]
fn out_of_descriptors_accepting_pauses_and_goes_on() {
    let place = Place::with_certificates();
    place.write("one.yaml", DIRECT);
    let limit = format!("--nofile={LIMIT}");
    let gateway = place.start_as("one", &["prlimit", &limit], &["--no-ui", "--profile", "one.yaml"]);
    assert_eq!(gateway.status()["descriptors"]["limit"], LIMIT);
    let port = gateway.accept("echo");
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| connect(port)).collect();
    until("the limit is reached", SOON, || gateway.log().contains("accepting pauses").then_some(()));

    let (before, start) = (cpu_ticks(gateway.child.id()), Instant::now());
    while start.elapsed() < MEASURED {
        thread::sleep(MEASURED.saturating_sub(start.elapsed()));
    }
    let ticks = cpu_ticks(gateway.child.id()) - before;
    // A tick is a hundredth of a second: a spinning thread would use 200.
    assert!(ticks < 50, "{ticks} ticks of work in {MEASURED:?} without descriptors");
    let lines = gateway.log().matches("accepting pauses").count();
    assert!(lines < 20, "{lines} lines about it");

    // Each of the later ones is served as soon as the earlier ones have gone.
    for mut client in clients.drain(..) {
        client.write_all(b"x").expect("it is sent");
        client.read_exact(&mut [0]).expect("it is served");
    }
    let status = gateway.wait("all are done", SOON, |status| status["totals"]["sessions_open"] == 0);
    assert_eq!((&status["totals"]["sessions"], &status["totals"]["refused"]), (&CLIENTS.into(), &0.into()));
}

/// Processor time of a process, in hundredths of a second (proc(5)).
fn cpu_ticks(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    let fields: Vec<&str> = text.rsplit(')').next().expect("fields").split_whitespace().collect();
    let field = |at: usize| fields[at].parse::<u64>().expect("a number");
    field(11) + field(12)
}
