//! `cargo bench --bench flood`: how long other clients take to be served while one address comes with 20,000
//! connections, as a printed table.
//!
//! Both halves are processes of their own, everything is on loopback. The others come from many addresses, one after
//! the other, each until its first byte has come back. They are measured quiet, beside connections that come, say a
//! byte and are gone, with `per_client` and without, and beside 20,000 sessions of one address that stay open.
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on stops")]

mod gateways;

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use gateways::{Pair, PairPlan, USUAL};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

const CONNECTIONS: usize = 20_000;
/// How many of them come at once.
const FLOODERS: usize = 8;
/// Others that are measured, at least.
const OTHERS: usize = 1000;
/// Descriptors of a process that holds them all, the gateway as well as this one.
const DESCRIPTORS: u64 = 2 * CONNECTIONS as u64 + 1000;
const FLOODER: [u8; 4] = [127, 0, 0, 2];
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);

const UNLIMITED: PairPlan = PairPlan { limits: ", sessions: 60000", ..USUAL };
const LIMITED: PairPlan =
    PairPlan { limits: ", sessions: 60000, per_client: { sessions: 100, rate: 20/s, burst: 40 }", ..USUAL };

fn main() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    println!("portcullis {}: {} cores", env!("CARGO_PKG_VERSION"), thread::available_parallelism().unwrap());
    println!("\n| set-up of other clients | clients | p50 | p99 | CPU of both gateways | more memory |");
    println!("|---|---|---|---|---|---|");
    for (limits, plan) in [("without `per_client`", UNLIMITED), ("with `per_client`", LIMITED)] {
        // Nothing goes to the backend: all is about a service that answers by itself.
        let pair = Pair::start_with(SocketAddr::from(([127, 0, 0, 1], 9)), plan);
        row(&format!("quiet, {limits}"), &pair, || others(pair.accepts[1], || false));
        row(&format!("{CONNECTIONS} come and go, {limits}"), &pair, || {
            thread::scope(|scope| {
                let flood: Vec<_> =
                    (0..FLOODERS).map(|_| scope.spawn(|| comes_and_goes(pair.accepts[1]))).collect();
                others(pair.accepts[1], || !flood.iter().all(thread::ScopedJoinHandle::is_finished))
            })
        });
    }
    if limit.maximum.is_some_and(|most| most < DESCRIPTORS) {
        return println!(
            "\n{CONNECTIONS} that stay: not measured, since it takes {DESCRIPTORS} descriptors (`ulimit -Hn`)"
        );
    }
    let pair = Pair::start_with(SocketAddr::from(([127, 0, 0, 1], 9)), UNLIMITED);
    let mut held = Vec::with_capacity(CONNECTIONS);
    row(&format!("while {CONNECTIONS} come that stay"), &pair, || {
        thread::scope(|scope| {
            let coming = scope.spawn(|| {
                (0..CONNECTIONS).filter_map(|_| echoed(FLOODER, pair.accepts[1]).ok()).collect::<Vec<_>>()
            });
            let took = others(pair.accepts[1], || !coming.is_finished());
            held = coming.join().unwrap();
            took
        })
    });
    row(&format!("beside {} that stay", held.len()), &pair, || others(pair.accepts[1], || false));
}

/// Prints what the gateways needed for it as well.
fn row(what: &str, pair: &Pair, measure: impl FnOnce() -> Vec<Duration>) {
    let (cpu, memory) = (pair.cpu_seconds(), pair.resident_kib());
    let mut took = measure();
    took.sort();
    let ms = |percent: usize| took[(took.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    println!(
        "| {what} | {} | {:.2} ms | {:.2} ms | {:.1} s | {:.1} MiB |",
        took.len(),
        ms(50),
        ms(99),
        pair.cpu_seconds() - cpu,
        (pair.resident_kib() - memory) / 1024.0
    );
}

/// Clients of other addresses, at least as many as are measured, and as long as `more` says.
fn others(to: SocketAddr, more: impl Fn() -> bool) -> Vec<Duration> {
    let mut took = Vec::with_capacity(OTHERS);
    while took.len() < OTHERS || more() {
        let at = took.len();
        let began = Instant::now();
        drop(echoed([127, 1, (at / 250 % 250) as u8, 1 + (at % 250) as u8], to).unwrap());
        took.push(began.elapsed());
    }
    took
}

/// Its part of the flood, each until it is answered or refused.
fn comes_and_goes(to: SocketAddr) {
    for _ in 0..CONNECTIONS / FLOODERS {
        // Most are refused with `per_client`, which is what it is for.
        drop(echoed(FLOODER, to));
    }
}

/// A client that has got its byte back; it will end by a reset, so that no port is kept for it.
fn echoed(from: [u8; 4], to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_read_timeout(Some(ANSWERED_WITHIN))?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect(&to.into())?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])?;
    Ok(stream)
}
