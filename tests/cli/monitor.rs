//! The port for monitors, asked by curl and by those who mean no good, and `status --ready`.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    connect, connect_from,
    process::{Gateway, SOON, TestFolder, until},
    run,
    setup::{Pair, dmz_half, free_port, internal_half},
};

/// The status and the body that curl gets.
#[track_caller]
pub fn fetch(more: &[&str], url: &str) -> (u16, String) {
    let line = [&["-sS", "--max-time", "10", "-w", "\n%{http_code}"], more, &[url]].concat();
    let output = Command::new("curl").args(line).output().expect("curl runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let (body, status) = text.rsplit_once('\n').unwrap_or_else(|| panic!("{:?}", output.stderr));
    (status.parse().expect("a status"), body.to_owned())
}

pub fn port(gateway: &Gateway<'_>) -> SocketAddr {
    let status = gateway.status();
    let at = status["monitored_at"][0].as_str().expect("an address");
    at.strip_prefix("http://").expect("its scheme").parse().expect("host and port")
}

const DIRECT: &str = "mode: direct\nhealth: 127.0.0.1:0\ndmz:\n  services:\n    \
                      echo: { accept: [\"tcp://127.0.0.1:0\"], connect: \"echo://\" }\n";

#[test]
fn a_dmz_half_is_ready_with_its_first_link_and_reports_what_is_missing() {
    let folder = TestFolder::with_certificates();
    folder.write("dmz.yaml", &format!("health: 127.0.0.1:0\n{}", dmz_half("127.0.0.1:0", &["echo"])));
    let dmz = folder.start("dmz");
    let (at, socket) = (port(&dmz), folder.path("run/dmz.sock").display().to_string());
    let url = |path: &str| format!("http://{at}{path}");
    assert_eq!(fetch(&[], &url("/livez")), (200, "alive\n".into()));
    let (status, body) = fetch(&[], &url("/readyz"));
    assert!(status == 503 && body.starts_with("not ready\necho: no link"), "{status} {body}");
    assert_eq!(fetch(&[], &url("/readyz/echo")).0, 503);
    let output = run(&folder, &["status", "--ready", "--json", "--admin", &socket]);
    assert_eq!(output.code, Some(1));
    let reported: serde_json::Value = serde_json::from_str(&output.out).expect("JSON");
    assert_eq!(reported["ready"], false);
    assert!(reported["reasons"][0].as_str().is_some_and(|why| why.starts_with("echo: ")), "{reported}");

    let link = format!("127.0.0.1:{}", dmz.link_port());
    folder.write("internal.yaml", &internal_half(&link, &[("echo", "echo://")]));
    let internal = folder.start("internal");
    until("it is ready", SOON, || (fetch(&[], &url("/readyz?strict")).0 == 200).then_some(()));
    assert_eq!(fetch(&[], &url("/readyz")), (200, "ready\n".into()));
    assert_eq!(fetch(&[], &url("/readyz/echo")), (200, "ready\n".into()));
    assert_eq!(fetch(&[], &url("/readyz/nobody")).0, 404);
    assert_eq!(fetch(&["--head"], &url("/readyz")).0, 200);
    assert_eq!(fetch(&["--http1.0"], &url("/readyz")).0, 200);
    assert_eq!(fetch(&["--data", "x"], &url("/readyz")).0, 405);
    assert_eq!(fetch(&[], &url("/")).0, 404);
    for half in ["dmz", "internal"] {
        let socket = folder.path(&format!("run/{half}.sock")).display().to_string();
        let output = run(&folder, &["status", "--ready", "--strict", "--admin", &socket]);
        assert_eq!((output.code, output.out.as_str()), (Some(0), "ready\n"), "{half}: {}", output.err);
    }
    // The word follows a loss, and the gateway that drains is not ready though it still carries.
    drop(internal);
    until("it is not ready", SOON, || (fetch(&[], &url("/readyz")).0 == 503).then_some(()));
}

#[test]
fn one_service_of_two_makes_a_gateway_ready_and_the_other_is_named() {
    let folder = TestFolder::with_certificates();
    folder.write(
        "one.yaml",
        &format!("{DIRECT}    other: {{ accept: [\"tcp://127.0.0.1:0\"], connect: \"echo://\" }}\n"),
    );
    let gateway = folder.start("one");
    let (at, socket) = (port(&gateway), folder.path("run/one.sock").display().to_string());
    let url = |path: &str| format!("http://{at}{path}");
    assert_eq!(fetch(&[], &url("/readyz?strict")), (200, "ready\n".into()));
    assert_eq!(run(&folder, &["drain", "echo", "--admin", &socket]).code, Some(0));
    let (status, strictly) = until("it is reported", SOON, || {
        let answer = fetch(&[], &url("/readyz?strict"));
        (answer.0 != 200).then_some(answer)
    });
    assert!(status == 503 && strictly.starts_with("not ready\necho: drained since "), "{status} {strictly}");
    assert_eq!(fetch(&[], &url("/readyz")), (200, strictly.replace("not ready", "ready")));
    assert_eq!(fetch(&[], &url("/readyz/echo")), (503, strictly.clone()));
    assert_eq!(fetch(&[], &url("/readyz/other")), (200, "ready\n".into()));
    let output = run(&folder, &["status", "--ready", "--admin", &socket]);
    assert_eq!((output.code, output.out), (Some(0), strictly.replace("not ready", "ready")));
    let output = run(&folder, &["status", "--ready", "--strict", "--admin", &socket]);
    assert_eq!((output.code, output.out), (Some(1), strictly));
}

#[test]
fn a_strict_request_names_the_gateway_without_a_link() {
    let folder = TestFolder::with_certificates();
    let named = |half: String| half.replace("peers: [internal]", "peers: [internal, internal-2]");
    let dmz = |link: &str| format!("health: 127.0.0.1:0\n{}", named(dmz_half(link, &["echo"])));
    let pair = Pair::of(&folder, &dmz("127.0.0.1:0"), |link| internal_half(link, &[("echo", "echo://")]));
    let url = |path: &str| format!("http://{}{path}", port(&pair.dmz));
    until("it is ready", SOON, || (fetch(&[], &url("/readyz")).0 == 200).then_some(()));
    assert_eq!(fetch(&[], &url("/readyz")), (200, "ready\n".into()));
    let strictly = (503, "not ready\nno link from internal-2\n".into());
    assert_eq!(fetch(&[], &url("/readyz?strict")), strictly);
}

#[test]
fn who_drains_is_not_ready() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", DIRECT);
    let gateway = folder.start("one");
    let (at, socket) = (port(&gateway), folder.path("run/one.sock").display().to_string());
    assert_eq!(fetch(&[], &format!("http://{at}/readyz")).0, 200);
    assert_eq!(run(&folder, &["drain", "--admin", &socket]).code, Some(0));
    let refused = until("it is reported", SOON, || {
        let answer = fetch(&[], &format!("http://{at}/readyz"));
        (answer.0 == 503).then_some(answer.1)
    });
    assert_eq!(refused, "not ready\nthe gateway is draining\n");
    assert_eq!(fetch(&[], &format!("http://{at}/livez")).0, 200);
}

#[test]
fn the_port_follows_the_profile() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", &DIRECT.replace("health: 127.0.0.1:0\n", ""));
    let gateway = folder.start("one");
    let (first, second, socket) =
        (free_port(), free_port(), folder.path("run/one.sock").display().to_string());
    let reload = |health: &str| {
        folder.write("one.yaml", &DIRECT.replace("health: 127.0.0.1:0\n", health));
        let output = run(&folder, &["reload", "--admin", &socket]);
        assert_eq!(output.code, Some(0), "{}", output.err);
    };
    let answers = |port: u16| TcpStream::connect(("127.0.0.1", port)).is_ok();
    assert!(gateway.status().get("monitored_at").is_none());
    reload(&format!("health: 127.0.0.1:{first}\n"));
    assert_eq!(fetch(&[], &format!("http://127.0.0.1:{first}/readyz")).0, 200);
    reload(&format!("health: {{ address: \"0.0.0.0:{second}\", insecure: true }}\n"));
    assert_eq!((fetch(&[], &format!("http://127.0.0.1:{second}/readyz")).0, answers(first)), (200, false));
    reload("");
    assert!(!answers(second));
    // A port that is taken refuses the whole profile, and what runs goes on.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = taken.local_addr().expect("its address");
    folder.write("one.yaml", &DIRECT.replace("127.0.0.1:0\ndmz", &format!("{at}\ndmz")));
    let output = run(&folder, &["reload", "--admin", &socket]);
    assert_eq!(output.code, Some(1));
    assert!(output.err.contains("the port is taken"), "{}", output.err);
}

#[test]
fn a_half_that_runs_as_internal_opens_no_port() {
    let folder = TestFolder::with_certificates();
    let (link, health) = (free_port(), free_port());
    let both = dmz_half(&format!("127.0.0.1:{link}"), &["echo"])
        + internal_half(&format!("127.0.0.1:{link}"), &[("echo", "echo://")])
            .strip_prefix("mode: reverse\n")
            .expect("its mode");
    folder.write("pair.yaml", &format!("health: 127.0.0.1:{health}\n{both}"));
    let internal =
        folder.start_as("inside", &[], &["--no-ui", "--profile", "pair.yaml", "--role", "internal"]);
    assert!(TcpStream::connect(("127.0.0.1", health)).is_err());
    assert!(internal.log().contains("this half opens no port for monitors"), "{}", internal.log());
    let _dmz = folder.start_as("outside", &[], &["--no-ui", "--profile", "pair.yaml", "--role", "dmz"]);
    until("it is ready", SOON, || {
        (fetch(&[], &format!("http://127.0.0.1:{health}/readyz?strict")).0 == 200).then_some(())
    });
}

#[test]
fn a_flood_of_one_address_takes_no_place_from_another() {
    /// More than there are places, so that all older ones of the flood are gone.
    const MORE: usize = 64;
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", DIRECT);
    let gateway = folder.start("one");
    let at = port(&gateway);
    let (is_over, flooded) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut last = VecDeque::new();
            while !is_over.load(Ordering::Relaxed) {
                last.push_back(connect_from([127, 0, 0, 2], at));
                // Those before have been accepted, and most have given way, when an old one is closed.
                if last.len() > MORE
                    && let Some(mut oldest) = last.pop_front()
                {
                    let _ = oldest.read_to_end(&mut Vec::new());
                    flooded.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let answers = (0..20).map(|_| {
            let mut balancer = connect(at);
            let before = flooded.load(Ordering::Relaxed);
            until("the flood goes on", SOON, || {
                (flooded.load(Ordering::Relaxed) > before + 2 * MORE).then_some(())
            });
            let mut answer = String::new();
            let asked = balancer.write_all(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n");
            asked.and_then(|()| balancer.read_to_string(&mut answer)).map(|_| answer)
        });
        let answers: Vec<_> = answers.collect();
        is_over.store(true, Ordering::Relaxed);
        for answer in answers {
            assert!(answer.as_ref().is_ok_and(|answer| answer.ends_with("\r\n\r\nready\n")), "{answer:?}");
        }
    });
}

#[test]
fn hostile_monitor_clients_do_not_affect_others() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", DIRECT);
    let gateway = folder.start("one");
    let at = port(&gateway);
    let mut client = connect(gateway.accept("echo"));
    // Many that say nothing, that say half of a request, and garbage.
    let mut silent = Vec::new();
    for number in 0..200 {
        let mut stream = connect(at);
        let output =
            [&b""[..], b"GET /readyz HTTP/1.1\r\nHost", b"\x16\x03\x01\x02\x00\x01", b"\r\n\r\n"][number % 4];
        // An evicted client notices it here.
        let _ = stream.write_all(output);
        silent.push(stream);
    }
    assert_eq!(fetch(&[], &format!("http://{at}/readyz")), (200, "ready\n".into()));
    client.write_all(b"hello").expect("it is sent");
    client.read_exact(&mut [0; 5]).expect("it comes back");
    let used = gateway.status()["descriptors"]["used"].as_u64().expect("a count");
    assert!(used < 120, "{used} descriptors");
    // A head without end is cut at its bound.
    let mut endless = connect(at);
    let began = Instant::now();
    let line = [b'a'; 1024];
    let mut sent = endless.write_all(b"GET /readyz HTTP/1.1\r\n");
    while sent.is_ok() && began.elapsed() < SOON {
        sent = endless.write_all(&line);
    }
    assert!(sent.is_err(), "it reads forever");
    // Silent clients are closed at their deadline.
    let mut last = silent.pop().expect("one of them");
    drop(silent);
    last.set_read_timeout(Some(Duration::from_secs(15))).expect("a timeout");
    let mut received = Vec::new();
    let ended = last.read_to_end(&mut received);
    let timed_out = ended.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(!timed_out, "it stays open");
}
