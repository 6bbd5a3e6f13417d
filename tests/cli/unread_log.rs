//! A log that nobody reads: standard error is a pipe whose reader stands still. Lines are lost and counted,
//! and nothing else waits for them.

use std::{
    io::{BufRead, BufReader, PipeReader, Read, Write, pipe},
    sync::mpsc,
    thread,
    time::Instant,
};

use rustix::process::Signal;

use crate::{
    DIRECT, connect,
    process::{Gateway, SOON, TestFolder, until},
};

/// A library has several lines for each connection, and no limit of ours.
const FILTER: &str = "mio=trace";
const CLIENTS_AT_ONCE: usize = 4;

fn start(folder: &TestFolder) -> (Gateway<'_>, PipeReader) {
    folder.write("one.yaml", DIRECT);
    folder.write("one.log", "standard error is a pipe");
    let (reader, writer) = pipe().expect("a pipe");
    let mut command = folder.command(&["--no-ui", "--profile", "one.yaml"]);
    command.env("PORTCULLIS_LOG", FILTER);
    (folder.start_logging("one", command, writer.into()), reader)
}

/// Sessions, one after the other, until lines are lost.
fn flood(gateway: &Gateway<'_>) -> u64 {
    let at = gateway.accept("echo");
    let serve = || {
        for _ in 0..100 {
            let mut client = connect(at);
            client.write_all(b"x").expect("it is sent");
            client.read_exact(&mut [0]).expect("it is served");
        }
    };
    until("lines are lost", 3 * SOON, || {
        thread::scope(|scope| (0..CLIENTS_AT_ONCE).for_each(|_| drop(scope.spawn(serve))));
        lost(gateway).filter(|&lines| lines > 0)
    })
}

fn lost(gateway: &Gateway<'_>) -> Option<u64> {
    gateway.status()["log_lines_lost"].as_u64()
}

/// The count that a line tells.
fn lost_line_count(line: &str) -> Option<u64> {
    let (before, cause) = line.split_once(" log lines lost: ")?;
    assert_eq!(cause.trim_end(), "standard error is read too slowly");
    before.rsplit(' ').next()?.parse().ok()
}

#[test]
fn an_unread_log_loses_lines_and_delays_nothing() {
    let folder = TestFolder::with_certificates();
    let (gateway, reader) = start(&folder);
    let before = flood(&gateway);
    let status = gateway.status();
    assert_eq!(status["log_trouble"], "standard error is read too slowly");
    let began = Instant::now();
    let mut client = connect(gateway.accept("echo"));
    client.write_all(b"still").expect("it is sent");
    client.read_exact(&mut [0; 5]).expect("it is served");
    assert!(began.elapsed() < SOON / 4, "a client waits for the log");
    // Its reader continues: it learns how much it has missed, and then what happens now.
    let mut lines = BufReader::new(reader).lines().map(|line| line.expect("the pipe is read"));
    let count = lines.find_map(|line| lost_line_count(&line)).expect("the count is reported");
    assert!(count >= before, "{count} of {before} are reported");
    let (sender, received) = mpsc::channel();
    thread::spawn(move || lines.try_for_each(|line| sender.send(line)));
    let mut late_clients = Vec::new();
    until("the log goes on", SOON, || {
        let mut late = connect(gateway.accept("echo"));
        let at = late.local_addr().expect("an address").to_string();
        late.write_all(b"x").expect("it is sent");
        late_clients.push(at);
        let is_late = |line: String| late_clients.iter().any(|at| line.contains(at));
        received.try_iter().any(is_late).then_some(())
    });
}

#[test]
fn a_gateway_that_ends_reports_its_lost_lines() {
    let folder = TestFolder::with_certificates();
    let (gateway, mut reader) = start(&folder);
    flood(&gateway);
    let lost = lost(&gateway).expect("a count");
    gateway.signal(Signal::TERM);
    let mut log = String::new();
    reader.read_to_string(&mut log).expect("the pipe is read");
    let counts: Vec<_> = log.lines().filter_map(lost_line_count).collect();
    assert!(counts.last().is_some_and(|&count| count >= lost), "{counts:?} of {lost}");
    assert_eq!(gateway.ended().code(), Some(0));
}

#[test]
fn a_gateway_whose_log_nobody_reads_ends_in_time() {
    let folder = TestFolder::with_certificates();
    let (gateway, _reader) = start(&folder);
    flood(&gateway);
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.ended().code(), Some(0));
}
