//! Many clients that are rejected.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use socket2::SockRef;

use crate::{
    connect, connect_from,
    process::{Gateway, SOON, TestFolder, until},
    setup::{dmz_half, free_port, internal_half},
};

const PROFILE: &str = "mode: direct\ndmz:\n  services:\n    echo: { accept: { address: 'tcp://127.0.0.1:0', \
                       proxy: { from: ['127.0.0.0/8'] } }, connect: 'echo://' }\n";
const CLIENTS: usize = 400;

#[test]
fn a_flood_of_strangers_is_a_few_lines_in_the_log() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", PROFILE);
    let gateway = folder.start_as("one", &[], &["--no-ui", "--profile", "one.yaml"]);
    let port = gateway.accept("echo");
    for _ in 0..CLIENTS {
        let mut client = connect(port);
        // It may be reset before all is taken, and is then.
        let _ = client.write_all(b"GET / HTTP/1.1\r\n\r\n");
        let _ = client.read(&mut [0]);
    }
    until("the rest is counted", SOON, || {
        gateway.log().contains("more clients were rejected within").then_some(())
    });
    let log = gateway.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("rejected")).collect();
    assert!(lines.len() < CLIENTS / 4, "{} lines", lines.len());
    assert!(lines[0].contains("its byte 0 is 0x47; let the proxy send one"), "{}", lines[0]);
}

/// A client that is reset as soon as it is there.
fn comes_and_is_cut(port: SocketAddr) {
    let client = connect(port);
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("it is set");
}

/// Sessions in the log: those with their own line, and those only counted.
fn logged_sessions(log: &str) -> (usize, usize) {
    let lines = log.lines().filter(|line| line.contains("session ended"));
    let more = log.lines().filter(|line| line.contains("more sessions ended"));
    let count = |line: &str| {
        let number = line.split("more=").nth(1)?.split_whitespace().next()?;
        number.parse::<usize>().ok()
    };
    (lines.count(), more.filter_map(count).sum())
}

#[test]
fn clients_that_come_and_are_cut_are_a_few_lines_a_second() {
    const CUT: usize = 3000;
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", crate::DIRECT);
    let gateway = folder.start_as("one", &[], &["--no-ui", "--profile", "one.yaml"]);
    let port = gateway.accept("echo");
    let began = Instant::now();
    (0..CUT).for_each(|_| comes_and_is_cut(port));
    gateway.wait("all have ended", SOON, |status| {
        status["totals"]["sessions_open"] == 0
            && status["totals"]["sessions"]
                .as_u64()
                .zip(status["totals"]["refused"].as_u64())
                .map(|(a, b)| a + b)
                == Some(CUT as u64)
    });
    let all_logged = || {
        let (lines, more) = logged_sessions(&gateway.log());
        (lines + more == CUT).then_some(lines)
    };
    let lines = until("each is reported or counted", SOON, all_logged);
    // A few of each kind of end.
    let seconds = began.elapsed().as_secs() as usize + 1;
    assert!(lines <= 60 * seconds, "{lines} lines in {seconds} s");
}

/// A client that has begun and goes on after `flood` has come.
fn check_unharmed(limit: usize, flood: impl Fn(&Gateway<'_>, SocketAddr) -> Vec<TcpStream>) {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", PROFILE);
    let limit = format!("--nofile={limit}");
    let gateway = folder.start_as("one", &["prlimit", &limit], &["--no-ui", "--profile", "one.yaml"]);
    let port = gateway.accept("echo");
    let mut honest = connect(port);
    honest.write_all(b"PROXY UNK").expect("it is sent");
    let _flood = flood(&gateway, port);
    honest.write_all(b"NOWN\r\nstill here").expect("it is sent");
    let mut received = [0; 10];
    honest.read_exact(&mut received).expect("it is served");
    assert_eq!(&received, b"still here");
}

#[test]
fn a_flood_from_one_address_turns_no_other_away() {
    check_unharmed(200, |_, port| {
        let mut flood: Vec<_> = (0..300).map(|_| connect_from([127, 0, 0, 2], port)).collect();
        // The first have given way, well before their deadline.
        let first = flood[0].read(&mut [0]);
        assert!(matches!(first, Ok(0) | Err(_)), "{first:?}");
        flood
    });
}

#[test]
fn how_many_may_begin_at_once_follows_the_limit_of_open_files() {
    const FLOOD: usize = 600;
    check_unharmed(8192, |gateway, port| {
        let from = |at: usize| [127, 0, 1 + (at / 250) as u8, 1 + (at % 250) as u8];
        let flood = (0..FLOOD).map(|at| connect_from(from(at), port)).collect();
        gateway.wait("all of them have begun", SOON, |status| {
            status["descriptors"]["used"].as_u64() > Some(FLOOD as u64)
        });
        flood
    });
}

/// Connections of the one address, those of them at once, and new ones that it may have.
const FLOOD: usize = 20_000;
const FLOODERS: usize = 8;
const AT_ONCE: usize = 50;
const BURST: usize = 40;
const RATE: usize = 20;
/// Clients that are measured before the flood, and at least during it.
const MEASURED: usize = 300;
/// How much memory a gateway may take for a flood.
const GROWN_MAX: usize = 64 << 20;

const LIMITED: &str = "mode: direct\ndmz:\n  services:\n    echo: { accept: 'tcp://127.0.0.1:0', connect: 'echo://', \
                       per_client: { sessions: 50, rate: 20/s, burst: 40 } }\n";

/// What a client sends, and how the answer begins.
#[derive(Clone, Copy)]
struct Exchange {
    request: &'static [u8],
    answer: &'static [u8],
}

const ECHO: Exchange = Exchange { request: b"x", answer: b"x" };

impl Exchange {
    /// Whether the client is answered so.
    fn is_served(self, client: &mut TcpStream) -> bool {
        // It may be reset before, and is then.
        let _ = client.write_all(self.request);
        let mut answer = vec![0; self.answer.len()];
        client.read_exact(&mut answer).is_ok() && answer == self.answer
    }
}

/// Connections of 127.0.0.2, many at once; how many were served.
fn floods(port: SocketAddr, exchange: Exchange) -> usize {
    let mut served = 0;
    for _ in 0..FLOOD / FLOODERS / AT_ONCE {
        let mut clients: Vec<_> = (0..AT_ONCE).map(|_| connect_from([127, 0, 0, 2], port)).collect();
        for client in &mut clients {
            // So that no port is kept for it when it is over.
            SockRef::from(&*client).set_linger(Some(Duration::ZERO)).expect("it is set");
            served += usize::from(exchange.is_served(client));
        }
    }
    served
}

/// How long clients of many other addresses take to be served, each once; all of them are.
fn set_up(port: SocketAddr, exchange: Exchange, first: usize, count: usize) -> Vec<Duration> {
    let one = |at: usize| {
        let began = Instant::now();
        let mut client = connect_from([127, 1, (at / 250) as u8, 1 + (at % 250) as u8], port);
        assert!(exchange.is_served(&mut client), "it is served, whatever another one does");
        let took = began.elapsed();
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("it is set");
        took
    };
    (first..first + count).map(one).collect()
}

/// What became of a flood, and of the clients beside it.
struct Flooded {
    served: usize,
    under_flood: Vec<Duration>,
    /// How long operators waited for their answers.
    asked: Vec<Duration>,
    took: Duration,
}

/// The most memory that a gateway has held, or what it holds now.
fn memory(gateway: &Gateway<'_>, which: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.child.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(which)).expect("it is reported");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
}

/// Clients of other addresses come while one address floods, and an operator asks how it is. The gateway holds
/// little more for all that.
fn flood_beside(gateway: &Gateway<'_>, port: SocketAddr, flood: Exchange, others: Exchange) -> Flooded {
    let (began, before) = (Instant::now(), memory(gateway, "VmRSS:"));
    let (served, under_flood, asked) = thread::scope(|scope| {
        let flood: Vec<_> = (0..FLOODERS).map(|_| scope.spawn(|| floods(port, flood))).collect();
        let is_over = || flood.iter().all(thread::ScopedJoinHandle::is_finished);
        let (mut took, mut asked) = (Vec::new(), Vec::new());
        while took.len() < MEASURED || !is_over() {
            took.extend(set_up(port, others, (MEASURED + took.len()) % 50_000, 10));
            if took.len() % 50 == 0 {
                let began = Instant::now();
                gateway.status();
                asked.push(began.elapsed());
            }
        }
        (flood.into_iter().map(|thread| thread.join().expect("it floods")).sum(), took, asked)
    });
    let most = memory(gateway, "VmHWM:");
    assert!(most < before + GROWN_MAX, "from {before} to {most} bytes");
    Flooded { served, under_flood, asked, took: began.elapsed() }
}

/// A row of the table: clients, and two percentiles of their set-up.
fn row(when: &str, mut took: Vec<Duration>) {
    took.sort();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    println!("| {when} | {} | {:.2} | {:.2} |", took.len(), at(50), at(99));
}

#[test]
fn twenty_thousand_connections_of_one_address_turn_no_other_away() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", LIMITED);
    let gateway =
        folder.start_as("one", &["prlimit", "--nofile=4096"], &["--no-ui", "--profile", "one.yaml"]);
    let port = gateway.accept("echo");
    let quiet = set_up(port, ECHO, 0, MEASURED);
    let Flooded { served, under_flood, asked, took } = flood_beside(&gateway, port, ECHO, ECHO);
    let seconds = took.as_secs() as usize + 1;
    let others = quiet.len() + under_flood.len();
    println!("| set-up of others | clients | p50 ms | p99 ms |\n|---|---|---|---|");
    row("quiet", quiet);
    row(&format!("{FLOOD} connections of one address in {seconds} s, {served} served"), under_flood);
    row("`status`, its process included", asked);
    assert!(served <= BURST + RATE * seconds, "{served} of one address in {seconds} s");
    gateway.wait("each was served or refused", SOON, |status| {
        let totals = &status["totals"];
        totals["sessions_open"] == 0
            && totals["sessions"].as_u64() >= Some((others + served) as u64)
            && totals["sessions"].as_u64().zip(totals["refused"].as_u64()).map(|(a, b)| a + b)
                == Some((others + FLOOD) as u64)
    });
}

/// A request for the path of links, without a gateway behind it.
const UPGRADE: Exchange = Exchange {
    request: b"GET /link HTTP/1.1\r\nHost: any\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
               Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    answer: b"HTTP/1.1 101",
};
const PAGE: Exchange = Exchange { request: b"GET / HTTP/1.1\r\nHost: any\r\n\r\n", answer: b"HTTP/1.1 200" };

/// A server with one page.
fn pages() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("its address");
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.expect("a connection");
            thread::spawn(move || {
                let mut head = [0; 4096];
                // The gateway keeps it for the next request, and closes it when it likes.
                while client.read(&mut head).is_ok_and(|count| count > 0) {
                    let _ = client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                }
            });
        }
    });
    at
}

/// The services of the port go on, and so do the links that come by it.
#[test]
fn twenty_thousand_upgrades_of_one_address_turn_nobody_else_away() {
    let (folder, pages) = (TestFolder::with_certificates(), pages());
    let at = format!("127.0.0.1:{}", free_port());
    let web = |profile: String| profile.replace("socks+tls://LINK", &format!("socks+ws://{at}/link"));
    let dmz = web(dmz_half("LINK", &["web"])).replace("tcp://127.0.0.1:0", &format!("http://{at}"));
    folder.write("dmz.yaml", &dmz);
    folder.write("internal.yaml", &web(internal_half("LINK", &[("web", &format!("http://{pages}"))])));
    let dmz = folder.start_as("dmz", &["prlimit", "--nofile=4096"], &["--no-ui", "--profile", "dmz.yaml"]);
    let internal = folder.start("internal");
    let before = internal.wait_healthy();
    dmz.wait_healthy();
    let port = dmz.accept("web");
    let quiet = set_up(port, PAGE, 0, MEASURED);
    let Flooded { served, under_flood, asked, took } = flood_beside(&dmz, port, UPGRADE, PAGE);
    println!("| set-up of others | clients | p50 ms | p99 ms |\n|---|---|---|---|");
    row("quiet", quiet);
    let rate = FLOOD as f64 / took.as_secs_f64();
    row(
        &format!("{FLOOD} upgrades of one address, {rate:.0} a second, {served} answered by 101"),
        under_flood,
    );
    row("`status`, its process included", asked);
    assert!(served > 0, "none was an upgrade");
    let after = internal.wait_healthy();
    assert_eq!(after["pools"][0]["failures"], before["pools"][0]["failures"], "{after:#}");
}
