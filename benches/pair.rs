//! `cargo bench`: a pair of gateways against a direct connection, in one run, as a printed table.
//!
//! Both halves are processes of their own, joined by reverse links over mutual TLS; client and
//! backend are processes too, everything on loopback. Each figure is taken in turn with
//! the direct one, several times, and the median is printed: only ratios mean something on a
//! machine that does other work too. `PORTCULLIS_BENCH_ROUNDS` sets the repetitions.
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on stops")]

mod gateways;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use gateways::{Pair, PairPlan, USUAL};

/// Argument that makes this program the backend.
const AS_BACKEND: &str = "--as-backend";
const SETUPS: usize = 400;
const CONCURRENT: usize = 64;
const CONCURRENT_SETUPS: usize = 3200;
const BULK_BYTES: u64 = 512 << 20;
const ROUND_TRIPS: usize = 4000;
const IDLE_SESSIONS: usize = 1000;
/// Sessions whose links alone are busy, and for how long they are watched.
const WATCHED_SESSIONS: usize = 3000;
const WATCHED_FOR: Duration = Duration::from_secs(20);
const BURST: usize = 5000;
const OPEN_SESSIONS: [usize; 3] = [10, 1000, 9000];
const SERVICES_MAX: usize = 64;

fn main() {
    if std::env::args().any(|argument| argument == AS_BACKEND) {
        return run_backend();
    }
    // 9,000 clients are more than a usual soft limit allows.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let all = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, all).unwrap();
    let rounds =
        std::env::var("PORTCULLIS_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let process = start_backend();
    let backend = process.address;
    let pair = start(backend);
    println!(
        "portcullis {}: reverse links over mutual TLS, against a direct connection",
        env!("CARGO_PKG_VERSION")
    );
    println!("{rounds} rounds, medians; {} cores\n", thread::available_parallelism().unwrap());
    println!("| figure | direct | through both gateways | ratio |");
    println!("|---|---|---|---|");
    let targets = [backend, pair.address()];
    let row = |name: &str, unit: &str, measure: &mut dyn FnMut(SocketAddr) -> f64| {
        let [direct, through] = in_turn(rounds, targets, measure);
        println!("| {name} | {direct:.1} {unit} | {through:.1} {unit} | {:.2} |", through / direct);
    };
    row("session set-up, one at a time", "us", &mut |to| set_up(to, SETUPS) * 1e6);
    row("session set-up, 64 at once", "sessions/s", &mut set_up_at_once);
    row("64-byte round trip", "us", &mut |to| round_trip(to) * 1e6);
    for streams in [1, 16] {
        for (name, operation) in [("up", b'U'), ("down", b'D')] {
            let mut cpu = Vec::new();
            let label = format!("bulk {name}, {streams} stream{}", if streams == 1 { "" } else { "s" });
            row(&label, "MiB/s", &mut |to| {
                let before = pair.cpu_seconds();
                let rate = bulk(to, operation, streams);
                if to == pair.address() {
                    cpu.push((pair.cpu_seconds() - before) / (BULK_BYTES as f64 / (1u64 << 30) as f64));
                }
                rate
            });
            println!("| CPU of both gateways, {label} | | {:.2} s/GiB | |", median(&mut cpu));
        }
    }
    let fresh = start(backend);
    set_up(fresh.address(), 200);
    println!("| memory of an idle session, both gateways | | {:.1} KiB | |", idle_memory(&fresh));
    let fresh = start(backend);
    set_up(fresh.address(), 200);
    let [none, many] = idle_cpu(&fresh);
    println!("| CPU of both gateways, no session | | {none:.2} % of a core | |");
    println!("| CPU of both gateways, {WATCHED_SESSIONS} idle sessions | | {many:.2} % of a core | |");
    let fresh = start(backend);
    set_up(fresh.address(), 200);
    println!(
        "| memory over the start, a minute after {BURST} sessions | | {:.1} MiB | |",
        kept_memory(&fresh)
    );
    print_growth(backend, rounds);
    // TLS from gateway to gateway is in both.
    let framed = PairPlan { listen: "socks+ws://127.0.0.1:0/link", ..USUAL };
    print_beside(backend, rounds, [("bare links", USUAL), ("links inside WebSockets", framed)]);
    let unlocked = PairPlan { confine: "off", ..USUAL };
    print_beside(backend, rounds, [("`confine: off`", unlocked), ("`confine: on`", USUAL)]);
}

/// What one kind of pair costs beside another.
fn print_beside(backend: SocketAddr, rounds: usize, kinds: [(&str, PairPlan); 2]) {
    let names = kinds.map(|(name, _)| name);
    let [first, second] = kinds.map(|(_, plan)| Pair::start_with(backend, plan));
    let targets = [first.address(), second.address()];
    println!("\n| figure | {} | {} | ratio |", names[0], names[1]);
    println!("|---|---|---|---|");
    let row = |name: &str, unit: &str, measure: &mut dyn FnMut(SocketAddr) -> f64| {
        let [first, second] = in_turn(rounds, targets, measure);
        println!("| {name} | {first:.2} {unit} | {second:.2} {unit} | {:.2} |", second / first);
    };
    row("session set-up, one at a time", "us", &mut |to| set_up(to, SETUPS) * 1e6);
    for (name, operation) in [("up", b'U'), ("down", b'D')] {
        row(&format!("CPU of both gateways, bulk {name}, 1 stream"), "s/GiB", &mut |to| {
            let pair = if to == first.address() { &first } else { &second };
            let before = pair.cpu_seconds();
            bulk(to, operation, 1);
            (pair.cpu_seconds() - before) / (BULK_BYTES as f64 / (1u64 << 30) as f64)
        });
    }
}

/// What a session costs while others are open, and beside other services.
fn print_growth(backend: SocketAddr, rounds: usize) {
    let few = start(backend);
    let many = Pair::start_with(backend, PairPlan { services: SERVICES_MAX, ..USUAL });
    let mut seen: Vec<Vec<f64>> = vec![Vec::new(); OPEN_SESSIONS.len() + 1];
    let mut open = Vec::new();
    let of_64 = |seen: &mut Vec<f64>| seen.extend((0..rounds).map(|_| cpu_of_sessions(&many)));
    of_64(&mut seen[OPEN_SESSIONS.len()]);
    for (at, count) in OPEN_SESSIONS.into_iter().enumerate() {
        while open.len() < count {
            open.push(open_session(few.idle()));
        }
        thread::sleep(Duration::from_secs(2));
        seen[at].extend((0..rounds).map(|_| cpu_of_sessions(&few)));
    }
    let names = OPEN_SESSIONS.map(|count| format!("{count} others open"));
    let names = names.into_iter().chain([format!("none open, {SERVICES_MAX} services")]);
    let first = median(&mut seen[0].clone());
    for (name, mut cpu) in names.zip(seen) {
        let cpu = median(&mut cpu);
        println!(
            "| CPU of both gateways for 10,000 sessions, {name} | | {cpu:.2} s | {:.2} of the first |",
            cpu / first
        );
    }
}

/// CPU seconds of both gateways for 10,000 sessions, 64 at once.
fn cpu_of_sessions(pair: &Pair) -> f64 {
    let before = pair.cpu_seconds();
    for _ in 0..3 {
        set_up_at_once(pair.address());
    }
    (pair.cpu_seconds() - before) * 10_000.0 / (3 * CONCURRENT_SETUPS) as f64
}

/// MiB that the gateways hold a minute after a burst, over what they held before.
fn kept_memory(pair: &Pair) -> f64 {
    let before = pair.resident_kib();
    let sessions: Vec<_> = (0..BURST).map(|_| open_session(pair.idle())).collect();
    drop(sessions);
    thread::sleep(Duration::from_secs(60));
    (pair.resident_kib() - before) / 1024.0
}

fn open_session(to: SocketAddr) -> TcpStream {
    let mut stream = connect(to);
    stream.write_all(b"E").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    stream
}

/// Measures each target once a round, so that a slow minute hits both.
fn in_turn(rounds: usize, targets: [SocketAddr; 2], measure: &mut dyn FnMut(SocketAddr) -> f64) -> [f64; 2] {
    let mut seen = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        for step in 0..2 {
            let which = (round + step) % 2;
            seen[which].push(measure(targets[which]));
        }
    }
    seen.map(|mut values| median(&mut values))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Seconds until the first byte has come back, on a new connection each time.
fn set_up(to: SocketAddr, count: usize) -> f64 {
    let mut took: Vec<f64> = (0..count).map(|_| one_set_up(to)).collect();
    median(&mut took)
}

fn one_set_up(to: SocketAddr) -> f64 {
    let began = Instant::now();
    let mut stream = connect(to);
    stream.write_all(b"Ex").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    let took = began.elapsed().as_secs_f64();
    stream.shutdown(Shutdown::Write).unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    took
}

/// Sessions a second with 64 under way.
fn set_up_at_once(to: SocketAddr) -> f64 {
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..CONCURRENT {
            scope.spawn(|| {
                (0..CONCURRENT_SETUPS / CONCURRENT).for_each(|_| {
                    one_set_up(to);
                })
            });
        }
    });
    CONCURRENT_SETUPS as f64 / began.elapsed().as_secs_f64()
}

fn round_trip(to: SocketAddr) -> f64 {
    let mut stream = connect(to);
    stream.write_all(b"E").unwrap();
    let mut message = [b'm'; 64];
    let mut took: Vec<f64> = (0..ROUND_TRIPS)
        .map(|_| {
            let began = Instant::now();
            stream.write_all(&message).unwrap();
            stream.read_exact(&mut message).unwrap();
            began.elapsed().as_secs_f64()
        })
        .collect();
    median(&mut took)
}

/// MiB a second, all streams together.
fn bulk(to: SocketAddr, operation: u8, streams: u64) -> f64 {
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..streams {
            scope.spawn(|| one_bulk(to, operation, BULK_BYTES / streams));
        }
    });
    (BULK_BYTES >> 20) as f64 / began.elapsed().as_secs_f64()
}

fn one_bulk(to: SocketAddr, operation: u8, bytes: u64) {
    let mut stream = connect(to);
    stream.write_all(&[operation]).unwrap();
    stream.write_all(&bytes.to_be_bytes()).unwrap();
    let mut chunk = vec![0; 256 * 1024];
    let mut left = bytes;
    match operation {
        b'U' => {
            while left > 0 {
                let part = left.min(chunk.len() as u64);
                stream.write_all(&chunk[..part as usize]).unwrap();
                left -= part;
            }
            stream.read_exact(&mut [0]).unwrap();
        }
        _ => {
            while left > 0 {
                let count = stream.read(&mut chunk).unwrap();
                assert!(count > 0, "the stream ended {left} bytes early");
                left -= count as u64;
            }
        }
    }
}

/// KiB of resident memory a session, once each has carried a byte.
fn idle_memory(pair: &Pair) -> f64 {
    let before = pair.resident_kib();
    let sessions: Vec<_> = (0..IDLE_SESSIONS)
        .map(|_| {
            let mut stream = connect(pair.address());
            stream.write_all(b"Ex").unwrap();
            stream.read_exact(&mut [0]).unwrap();
            stream
        })
        .collect();
    thread::sleep(Duration::from_secs(1));
    (pair.resident_kib() - before) / sessions.len() as f64
}

/// Percent of a core that both gateways take while nothing moves: with no session, and with many.
fn idle_cpu(pair: &Pair) -> [f64; 2] {
    let watched = || {
        // What has just ended, or begun, is over by then.
        thread::sleep(Duration::from_secs(5));
        let before = pair.cpu_seconds();
        thread::sleep(WATCHED_FOR);
        (pair.cpu_seconds() - before) / WATCHED_FOR.as_secs_f64() * 100.0
    };
    let none = watched();
    let _sessions: Vec<_> = (0..WATCHED_SESSIONS).map(|_| open_session(pair.idle())).collect();
    [none, watched()]
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// The backend is a process of its own too: threads that share one would wake each other faster.
fn start_backend() -> Backend {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .arg(AS_BACKEND)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    Backend { address: line.trim().parse().unwrap(), process }
}

struct Backend {
    address: SocketAddr,
    process: Child,
}

impl Drop for Backend {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `E`: echo. `U` and a length: read that many bytes, then send one. `D` and a length: send that
/// many.
fn run_backend() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap());
    for stream in listener.incoming().flatten() {
        thread::Builder::new().stack_size(512 * 1024).spawn(move || serve(stream)).unwrap();
    }
}

fn serve(mut stream: TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut operation = [0];
    stream.read_exact(&mut operation).ok()?;
    if operation == *b"E" {
        let mut chunk = [0; 4096];
        loop {
            let count = stream.read(&mut chunk).ok().filter(|count| *count > 0)?;
            stream.write_all(&chunk[..count]).ok()?;
        }
    }
    let mut length = [0; 8];
    stream.read_exact(&mut length).ok()?;
    let mut left = u64::from_be_bytes(length);
    let mut chunk = vec![0; 256 * 1024];
    while left > 0 {
        let part = left.min(chunk.len() as u64) as usize;
        left -= match operation {
            [b'U'] => stream.read(&mut chunk).ok().filter(|count| *count > 0)?,
            _ => stream.write(&chunk[..part]).ok()?,
        } as u64;
    }
    if operation == *b"U" { stream.write_all(b".").ok() } else { Some(()) }
}

impl Pair {
    fn address(&self) -> SocketAddr {
        self.accepts[0]
    }

    /// Of a service that answers by itself.
    fn idle(&self) -> SocketAddr {
        self.accepts[1]
    }
}

fn start(backend: SocketAddr) -> Pair {
    Pair::start_with(backend, USUAL)
}
