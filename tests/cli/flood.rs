//! Many that are turned away.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use socket2::{Domain, SockRef, Socket, Type};

use crate::{
    connect,
    process::{Gateway, Place, SOON, until},
};

const PROFILE: &str = "mode: direct\ndmz:\n  services:\n    echo: { accept: { address: 'tcp://127.0.0.1:0', \
                       proxy: { from: ['127.0.0.0/8'] } }, connect: 'echo://' }\n";
const CLIENTS: usize = 400;

#[test]
fn a_flood_of_strangers_is_a_few_lines_in_the_log() {
    let place = Place::with_certificates();
    place.write("one.yaml", PROFILE);
    let gateway = place.start_as("one", &[], &["--no-ui", "--profile", "one.yaml"]);
    let port = gateway.accept("echo");
    for _ in 0..CLIENTS {
        let mut client = connect(port);
        // It may be reset before all is taken, and is then.
        let _ = client.write_all(b"GET / HTTP/1.1\r\n\r\n");
        let _ = client.read(&mut [0]);
    }
    until("the rest is counted", SOON, || {
        gateway.log().contains("more clients were turned away within").then_some(())
    });
    let log = gateway.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("turned away")).collect();
    assert!(lines.len() < CLIENTS / 4, "{} lines", lines.len());
    assert!(lines[0].contains("its byte 0 is 0x47; let the proxy send one"), "{}", lines[0]);
}

/// A client that is reset as soon as it is there.
fn comes_and_is_cut(port: SocketAddr) {
    let client = connect(port);
    SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).expect("it is set");
}

/// Sessions that the log tells of: those with a line each, and those that were counted.
fn told(log: &str) -> (usize, usize) {
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
    let place = Place::with_certificates();
    place.write("one.yaml", crate::DIRECT);
    let gateway = place.start_as("one", &[], &["--no-ui", "--profile", "one.yaml"]);
    let port = gateway.accept("echo");
    let began = std::time::Instant::now();
    (0..CUT).for_each(|_| comes_and_is_cut(port));
    gateway.wait("all have ended", SOON, |status| {
        status["totals"]["sessions_open"] == 0
            && status["totals"]["sessions"]
                .as_u64()
                .zip(status["totals"]["refused"].as_u64())
                .map(|(a, b)| a + b)
                == Some(CUT as u64)
    });
    let all_told = || {
        let (lines, more) = told(&gateway.log());
        (lines + more == CUT).then_some(lines)
    };
    let lines = until("each is told or counted", SOON, all_told);
    // A few of each kind of end.
    let seconds = began.elapsed().as_secs() as usize + 1;
    assert!(lines <= 60 * seconds, "{lines} lines in {seconds} s");
}

/// A client's socket that comes from there.
fn connect_from(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((from, 0)).into()).expect("an address of loopback");
    socket.connect(&to.into()).expect("the port is open");
    socket.set_read_timeout(Some(SOON)).expect("a timeout is set");
    socket.into()
}

/// A client that has begun and goes on after `flood` has come.
fn check_unharmed(limit: usize, flood: impl Fn(&Gateway<'_>, SocketAddr) -> Vec<TcpStream>) {
    let place = Place::with_certificates();
    place.write("one.yaml", PROFILE);
    let limit = format!("--nofile={limit}");
    let gateway = place.start_as("one", &["prlimit", &limit], &["--no-ui", "--profile", "one.yaml"]);
    let port = gateway.accept("echo");
    let mut honest = connect(port);
    honest.write_all(b"PROXY UNK").expect("it is sent");
    let _flood = flood(&gateway, port);
    honest.write_all(b"NOWN\r\nstill here").expect("it is sent");
    let mut heard = [0; 10];
    honest.read_exact(&mut heard).expect("it is served");
    assert_eq!(&heard, b"still here");
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
