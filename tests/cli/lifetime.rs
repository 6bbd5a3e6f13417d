//! From start to end: what a start opens, what signals do, how the process ends.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    DIRECT, connect, is_reset, output_of,
    process::{Gateway, SOON, TestFolder, until},
    run,
    setup::{dmz_half, free_port, internal_half},
};

fn echo(stream: &mut TcpStream) {
    stream.write_all(b"hello").expect("it is sent");
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).expect("it comes back");
    assert_eq!(&answer, b"hello");
}

fn started<'a>(folder: &'a TestFolder, drain: &str) -> (Gateway<'a>, TcpStream) {
    folder.write("one.yaml", &format!("{DIRECT}drain: {drain}\n"));
    let gateway = folder.start("one");
    let mut client = connect(gateway.accept("echo"));
    echo(&mut client);
    (gateway, client)
}

#[test]
fn a_terminating_signal_drains_and_a_clean_end_is_zero() {
    for signal in [Signal::TERM, Signal::INT] {
        let folder = TestFolder::with_certificates();
        let (gateway, mut client) = started(&folder, "60s");
        let port = gateway.accept("echo");
        gateway.signal(signal);
        gateway.wait("it drains", SOON, |status| status["phase"] == "draining");
        until("the port closes", SOON, || TcpStream::connect(port).is_err().then_some(()));
        echo(&mut client);
        client.shutdown(Shutdown::Write).expect("half closed");
        assert_eq!(client.read(&mut [0]).expect("a clean end"), 0);
        assert_eq!(gateway.ended().code(), Some(0));
        assert!(!folder.path("run/one.sock").exists(), "the socket is left behind");
    }
}

#[test]
fn the_drain_deadline_cuts_with_a_reset_and_three() {
    let folder = TestFolder::with_certificates();
    let (gateway, mut client) = started(&folder, "300ms");
    gateway.signal(Signal::TERM);
    assert!(is_reset(&client.read(&mut [0])));
    assert_eq!(gateway.ended().code(), Some(3));
}

#[test]
fn a_second_signal_cuts_at_once() {
    let folder = TestFolder::with_certificates();
    let (gateway, mut client) = started(&folder, "60s");
    gateway.signal(Signal::TERM);
    gateway.wait("it drains", SOON, |status| status["phase"] == "draining");
    let start = Instant::now();
    gateway.signal(Signal::TERM);
    assert!(is_reset(&client.read(&mut [0])));
    assert_eq!(gateway.ended().code(), Some(3));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn an_invalid_level_is_reported_and_the_usual_one_is_used() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", &format!("log: gate.json\n{DIRECT}"));
    let gateway =
        folder.start_as("one", &["env", "PORTCULLIS_LOG=debgu"], &["--no-ui", "--profile", "one.yaml"]);
    until("it is reported", SOON, || {
        gateway
            .log()
            .contains("WARN PORTCULLIS_LOG: `debgu` is not a log level; write error, warn")
            .then_some(())
    });
    until("and in the file", SOON, || {
        let lines = fs::read_to_string(folder.path("gate.json")).unwrap_or_default();
        lines.contains("\"event\":\"level_refused\"").then_some(())
    });
    until("the usual level is used", SOON, || {
        gateway.log().contains(" INFO profile `one` is in force").then_some(())
    });
    assert!(!gateway.log().contains(" DEBUG "), "{}", gateway.log());
}

#[test]
fn stop_returns_when_the_gateway_has_ended() {
    let folder = TestFolder::with_certificates();
    let (gateway, client) = started(&folder, "60s");
    let mut stop = folder.command(&["stop", "--admin", "run/one.sock"]);
    let mut stop = stop.stdout(Stdio::piped()).spawn().expect("it runs");
    gateway.wait("it drains", SOON, |status| status["phase"] == "draining");
    assert!(stop.try_wait().expect("ours").is_none(), "it returned while a session was open");
    drop(client);
    let stopped = output_of(stop.wait_with_output().expect("it ends"));
    assert_eq!(stopped.code, Some(0), "{}", stopped.out);
    assert!(stopped.out.contains("stopped"), "{}", stopped.out);
    assert_eq!(gateway.ended().code(), Some(0));
    let gone = run(&folder, &["stop", "--admin", "run/one.sock"]);
    assert_eq!(gone.code, Some(1), "{}", gone.out);
}

#[test]
fn a_hangup_reloads_when_headless() {
    let folder = TestFolder::with_certificates();
    let (gateway, mut client) = started(&folder, "60s");
    folder.write(
        "one.yaml",
        &format!("{DIRECT}    more: {{ accept: [\"tcp://127.0.0.1:0\"], connect: \"echo://\" }}\n"),
    );
    gateway.signal(Signal::HUP);
    let status = gateway.wait("the new service is there", SOON, |status| {
        status["services"].as_array().is_some_and(|services| services.len() == 2)
    });
    assert_eq!(status["phase"], "running");
    echo(&mut client);
    echo(&mut connect(gateway.accept("more")));
    // A profile that has become wrong changes nothing.
    folder.write("one.yaml", "mode: sideways\n");
    gateway.signal(Signal::HUP);
    until("the log names the problem", SOON, || gateway.log().contains("sideways").then_some(()));
    echo(&mut connect(gateway.accept("more")));
    echo(&mut client);
}

#[test]
fn a_hangup_during_a_reload_is_one_more_reload() {
    let folder = TestFolder::with_certificates();
    let (gateway, mut client) = started(&folder, "60s");
    let more = |number: u32| {
        let profile = format!(
            "{DIRECT}    more{number}: {{ accept: [\"tcp://127.0.0.1:0\"], connect: \"echo://\" }}\n"
        );
        // Whole at any time.
        folder.write("new.yaml", &profile);
        fs::rename(folder.path("new.yaml"), folder.path("one.yaml")).expect("a file");
        gateway.signal(Signal::HUP);
    };
    // Most of them come while one of the others is read or in the making.
    (0..200).for_each(more);
    let status = gateway.wait("the last profile is in force", SOON, |status| {
        let mut services = status["services"].as_array().into_iter().flatten();
        services.any(|service| service["name"] == "more199")
    });
    assert_eq!(status["reloads"]["refused"], 0, "{}", status["reloads"]);
    echo(&mut client);
}

#[test]
fn a_taken_port_is_a_failed_start_that_opens_nothing() {
    let folder = TestFolder::with_certificates();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken_port = taken.local_addr().expect("an address").port();
    let free = free_port();
    // The free one comes first and is bound before the taken one is found.
    folder.write(
        "one.yaml",
        &format!(
            "mode: direct\ndmz:\n  services:\n    a: {{ accept: [\"tcp://127.0.0.1:{free}\"], connect: \"echo://\" }}\n    \
             b: {{ accept: [\"tcp://127.0.0.1:{taken_port}\"], connect: \"echo://\" }}\n"
        ),
    );
    let start = run(&folder, &["--no-ui", "--profile", "one.yaml"]);
    assert_eq!(start.code, Some(1), "{}", start.err);
    assert!(start.err.contains(&taken_port.to_string()) && start.err.contains("taken"), "{}", start.err);
    assert!(TcpStream::connect(("127.0.0.1", free)).is_err());
    let left = std::fs::read_dir(folder.path("run/portcullis")).map(Iterator::count).unwrap_or(0);
    assert_eq!(left, 0, "an admin socket is left behind");
}

#[test]
fn without_a_terminal_it_logs_that_it_runs_headless() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", DIRECT);
    let gateway = folder.start_as("one", &[], &["--profile", "one.yaml"]);
    until("it says so", SOON, || gateway.log().contains("running headless").then_some(()));
    assert!(gateway.log().contains("open files"), "the descriptor limit is shown: {}", gateway.log());
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.ended().code(), Some(0));
}

#[test]
fn every_line_of_a_json_log_is_json() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", DIRECT);
    let args = ["--profile", "one.yaml", "--log-format", "json"];
    let gateway = folder.start_as("one", &[], &args);
    echo(&mut connect(gateway.accept("echo")));
    folder.write("one.yaml", "mode: \"side\\nways\"\n");
    gateway.signal(Signal::HUP);
    until("the log names the problem", SOON, || gateway.log().contains("ways").then_some(()));
    gateway.signal(Signal::TERM);
    let log = folder.path("one.log");
    assert_eq!(gateway.ended().code(), Some(0));
    let text = std::fs::read_to_string(log).expect("a log");
    assert!(text.lines().count() >= 4, "{text}");
    for line in text.lines() {
        let parsed: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        for field in ["timestamp", "level", "message"] {
            assert!(parsed[field].is_string(), "no `{field}`: {line}");
        }
    }
}

#[test]
fn the_demo_echoes() {
    // Its port is fixed, so it gets a network of its own.
    let alone = Command::new("unshare").args(["-rn", "true"]).output();
    if !alone.is_ok_and(|output| output.status.success()) {
        println!("skipped: the_demo_echoes needs unshare -rn");
        return;
    }
    let folder = TestFolder::with_certificates();
    let program = env!("CARGO_BIN_EXE_portcullis");
    let script = format!(
        "ip link set lo up && {{ {program} --no-ui & }} && \
         for try in $(seq 200); do if exec 3<>/dev/tcp/127.0.0.1/7000; then break; fi 2>/dev/null; sleep 0.05; done; \
         echo to the demo and back >&3 && head -n 1 <&3 && {program} status --json --admin run/portcullis/demo.sock && exec 3<&- && kill %1; wait"
    );
    let mut command = folder.wrapped(&["unshare", "-rn", "bash", "-c", &script], &[]);
    let output = output_of(command.output().expect("it runs"));
    let (first, status) = output.out.split_once('\n').unwrap_or_default();
    assert_eq!(first, "to the demo and back", "{}", output.err);
    let status: serde_json::Value = serde_json::from_str(status).expect("status is JSON");
    assert_eq!(status["profile"], "demo");
    assert_eq!(status["roles"], serde_json::json!(["dmz", "internal"]));
    assert_eq!(status["listening"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_demo_with_a_taken_port_uses_a_free_one_and_reports_it() {
    let folder = TestFolder::with_certificates();
    // Held here, or by whoever was first.
    let _held = std::net::TcpListener::bind(("127.0.0.1", 7000));
    let demo = folder.start_as("demo", &[], &["--no-ui", "--no-samples"]);
    let at = demo.accept("echo");
    assert_ne!(at.port(), 7000);
    let mut client = connect(at);
    client.write_all(b"still here").expect("it is sent");
    let mut answer = [0; 10];
    client.read_exact(&mut answer).expect("it comes back");
    assert_eq!(&answer, b"still here");
    let moved = format!("a port of the demo is taken; it uses {} instead of 7000", at.port());
    assert!(demo.log().contains(&moved), "{}", demo.log());
}

#[test]
fn a_log_at_debug_shows_links_and_no_noise_of_libraries() {
    let folder = TestFolder::with_certificates();
    folder.write("dmz.yaml", &dmz_half("127.0.0.1:0", &["echo"]));
    let debug: &[&str] = &["env", "PORTCULLIS_LOG=debug"];
    let dmz = folder.start_as("dmz", debug, &["--no-ui", "--profile", "dmz.yaml"]);
    let link = format!("127.0.0.1:{}", dmz.link_port());
    folder.write("internal.yaml", &internal_half(&link, &[("echo", "echo://")]));
    let internal = folder.start_as("internal", debug, &["--no-ui", "--profile", "internal.yaml"]);
    dmz.wait_healthy();
    internal.wait_healthy();
    for gateway in [&dmz, &internal] {
        assert!(gateway.log().contains("a link is up"), "{}", gateway.log());
        assert!(!gateway.log().contains("ClientHello"), "{}", gateway.log());
    }
    drop(internal);
    until("the links are gone", SOON, || dmz.log().contains("a link is gone").then_some(()));
}

#[test]
fn a_recording_that_another_gateway_writes_is_refused() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", DIRECT);
    let args = ["--no-ui", "--profile", "one.yaml", "--record", "kept.jsonl"];
    let _gateway = folder.start_as("one", &[], &args);
    let second = run(&folder, &[&args[..], &["--admin", "none"]].concat());
    let expected = "recording kept.jsonl: another process records to it; choose another name";
    assert!(second.code == Some(1) && second.err.contains(expected), "{}", second.err);
}
