//! `doctor` on gateways that lack nothing, and each of its findings on real gateways that it limits.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use socket2::{Domain, SockRef, Socket, Type};

use crate::{
    DIRECT, certs, connect, kept_hour, output_of,
    process::{SOON, TestFolder},
    run,
    setup::{Pair, dmz_half, free_port, internal_half},
};

/// Links may be away for a second before they count as lost.
const GONE: Duration = Duration::from_secs(1);

#[test]
fn doctor_exits_1_when_the_peer_is_gone_and_0_while_it_is_there() {
    let folder = TestFolder::with_certificates();
    let Pair { dmz, internal } = Pair::reverse(&folder, &[("echo", "echo://")]);
    for half in ["dmz", "internal"] {
        let output = run(&folder, &["doctor", "--json", "--admin", &format!("run/{half}.sock")]);
        assert_eq!(output.code, Some(0), "{half}: {}{}", output.out, output.err);
        let findings: Vec<Value> = serde_json::from_str(&output.out).expect("a list");
        assert!(findings.iter().all(|finding| finding["severity"] == "should"), "{}", output.out);
    }

    drop(internal);
    dmz.wait("the peer is gone", SOON, |status| {
        status["pools"][0]["gone_seconds"].as_f64().is_some_and(|gone| gone > GONE.as_secs_f64())
    });
    let output = run(&folder, &["doctor", "--json", "--admin", "run/dmz.sock"]);
    assert_eq!(output.code, Some(1), "{}{}", output.out, output.err);
    let findings: Vec<Value> = serde_json::from_str(&output.out).expect("a list");
    let first = findings.first().expect("the most urgent");
    assert_eq!((&first["id"], &first["severity"]), (&"links-missing".into(), &"must".into()));
    assert_eq!(first["figure"], "0 of 2 links up");
    for field in ["reason", "advice"] {
        assert!(first[field].as_str().is_some_and(|text| !text.is_empty()), "{first}");
    }
    let output = run(&folder, &["doctor", "--admin", "run/dmz.sock"]);
    assert_eq!(output.code, Some(1), "{}", output.err);
    assert!(
        output.out.starts_with("must    links-missing  any service, from internal at 127.0.0.1:"),
        "{}",
        output.out
    );

    drop(dmz);
    let nobody = run(&folder, &["doctor", "--admin", "run/dmz.sock"]);
    assert_eq!(nobody.code, Some(1), "{}", nobody.out);
    assert!(nobody.out.is_empty() && !nobody.err.is_empty(), "{}", nobody.out);
}

#[test]
fn a_planned_stop_of_the_only_peer_is_found_and_so_is_a_peer_that_never_came() {
    let folder = TestFolder::with_certificates();
    let Pair { dmz, internal } = Pair::reverse(&folder, &[("echo", "echo://")]);
    let stopped = run(&folder, &["stop", "--admin", "run/dmz.sock"]);
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    drop(dmz);
    until_found(&folder, "internal", ("links-missing", "must", "0 of 2 links up"));
    drop(internal);

    let waits = internal_half("127.0.0.1:9", &[("echo", "echo://")])
        .replace("mode: reverse", "mode: forward")
        .replace("link: {", "link: { listen: \"socks+tls://127.0.0.1:0\",");
    folder.write("internal.yaml", &waits);
    let _internal = folder.start("internal");
    until_found(&folder, "internal", ("links-missing", "must", "no link"));
}

/// A finding: its id, how bad it is, and part of its object and figure.
type Finding<'a> = (&'a str, &'a str, &'a str);

/// Waits until this is found of the gateway.
#[track_caller]
fn until_found(folder: &TestFolder, gateway: &str, reported: Finding<'_>) {
    until_found_by(folder, &[], gateway, reported);
}

/// Waits until a `doctor` that another program starts finds this.
#[track_caller]
fn until_found_by(folder: &TestFolder, wrapper: &[&str], gateway: &str, (id, severity, figure): Finding<'_>) {
    let admin = format!("run/{gateway}.sock");
    let mut last = Value::Null;
    let start = Instant::now();
    while start.elapsed() < SOON {
        let requested = folder.wrapped(wrapper, &["doctor", "--json", "--admin", &admin]).output();
        let reported = output_of(requested.expect("the program runs"));
        last = serde_json::from_str(&reported.out).unwrap_or_else(|_| panic!("{}", reported.err));
        let is_it = |found: &Value| {
            let about = format!("{} {}", found["object"], found["figure"]);
            found["id"] == id && found["severity"] == severity && about.contains(figure)
        };
        if last.as_array().is_some_and(|found| found.iter().any(is_it)) {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("{id}, {severity}, {figure} is not found: {last:#}");
}

/// Its links are all up, none is missing and none is full: the alert is the only one that says why.
#[test]
fn a_gateway_whose_only_peer_drains_with_sessions_on_all_links_serves_nobody() {
    let folder = TestFolder::with_certificates();
    let pair = Pair::reverse(&folder, &[("echo", "echo://")]);
    let mut clients = [(); 2].map(|()| connect(pair.dmz.accept("echo")));
    for client in &mut clients {
        client.write_all(b"x").expect("it is sent");
        client.read_exact(&mut [0]).expect("it is served");
    }
    pair.dmz.wait("each link carries one", SOON, |status| {
        let links = status["pools"][0]["links"].as_array().cloned().unwrap_or_default();
        links.iter().filter(|link| link["sessions_open"] == 1).count() == 2
    });
    let drained = run(&folder, &["drain", "--admin", "run/internal.sock"]);
    assert_eq!(drained.code, Some(0), "{}", drained.err);
    until_found(&folder, "dmz", ("serves-nobody", "must", "no client is served"));
    let reloaded = run(&folder, &["reload", "--admin", "run/internal.sock"]);
    assert_eq!(reloaded.code, Some(0), "{}", reloaded.err);
    pair.dmz.wait("it serves again", SOON, |status| status["health"] != "down");
}

/// One service was drained and nobody offers the other one, while all links are well. `serves-nobody` is for an outage
/// that no other finding explains: here one does.
#[test]
fn a_gateway_that_serves_nobody_has_a_finding_that_says_why() {
    let folder = TestFolder::with_certificates();
    let forward = |profile: String, link: &str| {
        let link = format!("link: {{ {link},");
        profile.replace("mode: reverse", "mode: forward").replace("link: {", &link)
    };
    let inner = internal_half("127.0.0.1:9", &[("echo", "echo://")]);
    folder.write("internal.yaml", &forward(inner, "listen: 'socks+tls://127.0.0.1:0'"));
    let internal = folder.start("internal");
    let connect = format!("connect: 'socks+tls://127.0.0.1:{}'", internal.link_port());
    folder.write("dmz.yaml", &forward(dmz_half("127.0.0.1:0", &["echo", "unoffered"]), &connect));
    let dmz = folder.start("dmz");
    // There is a row for what nobody offers as well.
    dmz.wait("its links are up", SOON, |status| status["pools"][0]["state"] == "healthy");
    let drained = run(&folder, &["drain", "echo", "--admin", "run/dmz.sock"]);
    assert_eq!(drained.code, Some(0), "{}", drained.err);
    dmz.wait("it serves nobody", SOON, |status| {
        (&status["health"], &status["pools"][0]["state"]) == (&"down".into(), &"healthy".into())
    });
    until_found(&folder, "dmz", ("links-missing", "must", "0 of 2 links up"));
    let reloaded = run(&folder, &["reload", "--admin", "run/dmz.sock"]);
    assert_eq!(reloaded.code, Some(0), "{}", reloaded.err);
    dmz.wait("it serves again", SOON, |status| status["health"] != "down");
}

#[test]
fn a_lock_that_is_off_and_descriptors_that_are_few_are_found() {
    let folder = TestFolder::with_certificates();
    folder.write("dmz.yaml", &format!("confine: off\n{}", dmz_half("127.0.0.1:0", &["echo"])));
    let limited = ["prlimit", "--nofile=128:128"];
    let _dmz = folder.start_as("dmz", &limited, &["--no-ui", "--profile", "dmz.yaml"]);
    until_found(&folder, "dmz", ("lock-off", "should", "no lock is on"));
    until_found(&folder, "dmz", ("descriptors", "should", "128 descriptors"));
}

#[test]
fn what_the_inside_has_locked_is_found_on_both_halves() {
    let folder = TestFolder::with_certificates();
    let _pair = Pair::reverse(&folder, &[("echo", "echo://"), ("other", "echo://")]);
    let locked = run(&folder, &["lockdown", "echo", "--admin", "run/internal.sock"]);
    assert_eq!(locked.code, Some(0), "{}", locked.err);
    until_found(&folder, "internal", ("locked", "must", "locked since"));
    until_found(&folder, "dmz", ("service-down", "must", "echo"));
}

#[test]
fn certificates_that_end_are_found_on_both_halves() {
    let folder = TestFolder::with_certificates();
    certs::ending(&folder, "dmz", 10);
    let _pair = Pair::reverse(&folder, &[("echo", "echo://")]);
    for half in ["dmz", "internal"] {
        until_found(&folder, half, ("certificate-ends", "must", "dmz"));
    }
}

#[test]
fn a_service_that_is_full_is_found() {
    let folder = TestFolder::with_certificates();
    let dmz = dmz_half("127.0.0.1:0", &["echo"]).replace("accept:", "sessions: 1, accept:");
    let pair = Pair::of(&folder, &dmz, |link| internal_half(link, &[("echo", "echo://")]));
    let mut client = connect(pair.dmz.accept("echo"));
    client.write_all(b"x").expect("it is sent");
    client.read_exact(&mut [0]).expect("it is served");
    until_found(&folder, "dmz", ("sessions-full", "must", "1 of 1 sessions open"));
}

#[test]
fn backends_that_do_not_answer_are_found() {
    let folder = TestFolder::with_certificates();
    let (failing, checked) =
        (format!("tcp://127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let names = ["failing", "checked"];
    let pair = Pair::of(&folder, &dmz_half("127.0.0.1:0", &names), |link| {
        let profile = internal_half(link, &[("failing", &failing)]);
        format!("{profile}    checked: {{ connect: \"tcp://{checked}\", check: {{ every: 500ms }} }}\n")
    });
    until_found(&folder, "internal", ("backend-down", "must", &checked));
    // The DMZ half has no backends: it learns that the service is down.
    until_found(&folder, "dmz", ("service-down", "must", "checked"));
    for _ in 0..5 {
        // It is cut, whatever the error says.
        let _ = connect(pair.dmz.accept("failing")).read(&mut [0]);
    }
    until_found(&folder, "internal", ("backend-failing", "must", "sessions failed at the backend"));
}

/// Its accept backlog is full when they come; the kernel knocks again after a second.
#[test]
fn a_backend_that_is_slow_to_connect_is_found() {
    let folder = TestFolder::with_certificates();
    let backend = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    backend.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
    backend.listen(0).expect("it listens");
    let at = backend.local_addr().ok().and_then(|at| at.as_socket()).expect("its address");
    let _fills_it = TcpStream::connect(at).expect("one has room");
    let pair = Pair::reverse(&folder, &[("slow", &format!("tcp://{at}"))]);
    let _clients = [(); 3].map(|()| connect(pair.dmz.accept("slow")));
    pair.internal.wait("all of them connect", SOON, |status| {
        let sessions = status["sessions"].as_array();
        sessions.is_some_and(|all| all.iter().filter(|row| row["phase"] == "connecting").count() == 3)
    });
    backend.listen(128).expect("it has room now");
    until_found(&folder, "internal", ("backend-slow", "should", "half of 3 open sessions"));
}

/// Each half sees that the other one comes and goes, whichever of them dials.
#[test]
fn peers_that_flap_are_found() {
    for (mode, stays, falls) in [
        ("reverse", "dmz", "internal"),
        ("reverse", "internal", "dmz"),
        ("forward", "dmz", "internal"),
        ("forward", "internal", "dmz"),
    ] {
        let folder = TestFolder::with_certificates();
        let link = format!("127.0.0.1:{}", free_port());
        let (dmz, internal) = (dmz_half(&link, &["echo"]), internal_half(&link, &[("echo", "echo://")]));
        let in_mode = |profile: String, dials: &str, listens: &str| match mode {
            "forward" => profile.replace("reverse", "forward").replace(dials, listens),
            _ => profile,
        };
        folder.write("dmz.yaml", &in_mode(dmz, "listen:", "connect:"));
        folder.write("internal.yaml", &in_mode(internal, "link: { connect:", "link: { listen:"));
        let watcher = folder.start(stays);
        let stand = |links: u64| move |status: &Value| status["pools"][0]["ready"] == links;
        for _ in 0..2 {
            let falling = folder.start(falls);
            watcher.wait("links are up", SOON, stand(2));
            drop(falling);
            watcher.wait("none is left", SOON, stand(0));
        }
        let _is_back = folder.start(falls);
        until_found(&folder, stays, ("peer-flaps", "must", "links failed within a minute"));
    }
}

#[test]
fn links_that_are_full_are_found() {
    let folder = TestFolder::with_certificates();
    let pair = Pair::of(&folder, &dmz_half("127.0.0.1:0", &["echo"]), |link| {
        let profile = internal_half(link, &[("echo", "echo://")]);
        profile.replace("prepared: 2,", "prepared: 1, maximum: 1, sessions_per_link: 1,")
    });
    let mut client = connect(pair.dmz.accept("echo"));
    client.write_all(b"x").expect("it is sent");
    client.read_exact(&mut [0]).expect("it is served");
    let _waits = connect(pair.dmz.accept("echo"));
    until_found(&folder, "dmz", ("links-full", "must", "0 of 1 links ready, 1 client waiting"));
}

#[test]
fn clients_that_wait_for_nothing_are_found() {
    let folder = TestFolder::with_certificates();
    for (wait, id, severity) in [("500ms", "wait-in-vain", "must"), ("60s", "wait-outlasts", "should")] {
        let dmz = dmz_half("127.0.0.1:0", &["echo"])
            .replace("prepared: 2,", &format!("prepared: 2, wait: {wait},"));
        let Pair { dmz, internal } =
            Pair::of(&folder, &dmz, |link| internal_half(link, &[("echo", "echo://")]));
        drop(internal);
        dmz.wait("no link is left", SOON, |status| status["pools"][0]["gone_seconds"].is_number());
        let port = dmz.accept("echo");
        let clients: Vec<_> = (0..4).map(|_| connect(port)).collect();
        if id == "wait-outlasts" {
            dmz.wait("they wait", SOON, |status| status["totals"]["sessions_waiting"] == 4);
            // Each is gone with a reset: the end of what it says would not be a goodbye.
            clients.iter().for_each(|client| {
                SockRef::from(client).set_linger(Some(Duration::ZERO)).expect("it is set");
            });
            drop(clients);
        }
        until_found(&folder, "dmz", (id, severity, "4 clients"));
    }
}

/// The client comes before the first link does.
#[test]
fn long_waits_are_found() {
    let folder = TestFolder::with_certificates();
    let profile = dmz_half("127.0.0.1:0", &["echo"]).replace("prepared: 2,", "prepared: 2, wait: 60s,");
    folder.write("dmz.yaml", &profile);
    let dmz = folder.start("dmz");
    let mut client = connect(dmz.accept("echo"));
    client.write_all(b"x").expect("it is sent");
    dmz.wait("it has waited for long", SOON, |status| {
        status["sessions"][0]["age_seconds"].as_f64().is_some_and(|age| age > 1.1)
    });
    folder.write(
        "internal.yaml",
        &internal_half(&format!("127.0.0.1:{}", dmz.link_port()), &[("echo", "echo://")]),
    );
    let _internal = folder.start("internal");
    client.read_exact(&mut [0]).expect("it is served");
    until_found(&folder, "dmz", ("waits-long", "must", "half waited"));
}

/// What the gateway before this one has kept of its last hour counts as well.
#[test]
fn what_was_wrong_within_the_last_hour_is_found() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", DIRECT);
    kept_hour::write(&folder, "one");
    let _gateway = folder.start("one");
    until_found(&folder, "one", ("links-were-away", "should", "in 3 minutes of the last hour"));
    until_found(&folder, "one", ("waits-were-long", "should", "up to 2.9s for a link in 2 minutes"));
}

/// As in a container of its own: there the kernel has other limits, and the gateway's socket is the same.
#[test]
fn what_the_kernel_allows_where_doctor_runs_is_found() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", &DIRECT.replace("echo://", "tcp://127.0.0.1:9"));
    let _gateway = folder.start("one");
    let lower = "cd /proc/sys/net && echo 128 > core/somaxconn && echo 128 > ipv4/tcp_max_syn_backlog && \
                 echo 0 > ipv4/tcp_syncookies && echo 40000 40099 > ipv4/ip_local_port_range && cd - > /dev/null \
                 && exec \"$@\"";
    let elsewhere = ["unshare", "--net", "sh", "-c", lower, "sh"];
    for (id, figure) in [
        ("accept-backlog", "somaxconn is 128"),
        ("handshake-backlog", "tcp_max_syn_backlog is 128"),
        ("local-ports", "100 local ports"),
    ] {
        until_found_by(&folder, &elsewhere, "one", (id, "should", figure));
    }
}

/// As in a container of its own, whose `/proc/meminfo` tells of that container.
#[test]
fn memory_that_runs_out_is_found() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", DIRECT);
    folder.write("meminfo", "MemTotal:  1048576 kB\nMemAvailable:  10240 kB\n");
    let _gateway = folder.start("one");
    let elsewhere =
        ["unshare", "--mount", "sh", "-c", "mount --bind meminfo /proc/meminfo && exec \"$@\"", "sh"];
    until_found_by(&folder, &elsewhere, "one", ("memory", "must", "of memory can be had"));
}

/// A proxy between `doctor` and a gateway that changes the year in each snapshot.
const OTHER_YEAR: &str = "import os, subprocess, sys\n\
    link = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)\n\
    while len(head := link.stdout.read(4)) == 4:\n    \
        body = link.stdout.read(int.from_bytes(head, 'big'))\n    \
        os.write(1, head + body.replace(b'\"time\":\"20', b'\"time\":\"21'))\n";

#[test]
fn doctor_compares_two_clocks_and_reports_an_unreachable_gateway() {
    let folder = TestFolder::with_certificates();
    let _pair = Pair::reverse(&folder, &[("echo", "echo://")]);
    folder.write("year.py", OTHER_YEAR);
    let ask = |args: &[&str]| run(&folder, &[&["doctor", "--json"], args].concat());
    let findings = |reported: &str| -> Vec<Value> { serde_json::from_str(reported).expect("a list") };
    let (edge, inside) = ("edge=run/dmz.sock", "inside=run/internal.sock");

    let well = ask(&[edge, inside]);
    assert_eq!(well.code, Some(0), "{}{}", well.out, well.err);
    let named = ["edge", "inside"].map(Value::from);
    assert!(findings(&well.out).iter().all(|finding| named.contains(&finding["gateway"])), "{}", well.out);

    let program = env!("CARGO_BIN_EXE_portcullis");
    let far = format!("edge=exec:python3 year.py {program} admin --stdio --admin run/dmz.sock");
    let skewed = ask(&[&far, inside]);
    assert_eq!(skewed.code, Some(1), "{}{}", skewed.out, skewed.err);
    let first = &findings(&skewed.out)[0];
    assert_eq!((&first["id"], &first["gateway"]), (&"clock-skew".into(), &"edge".into()), "{}", skewed.out);
    let text = run(&folder, &["doctor", &far, inside]).out;
    assert!(text.starts_with("must    clock-skew  edge: its clock is ") && text.contains("ahead of inside"));

    let away = ask(&["away=run/none.sock", inside]);
    assert_eq!(away.code, Some(1), "{}", away.out);
    assert!(away.err.contains("away: run/none.sock: no gateway answers there"), "{}", away.err);
    assert!(findings(&away.out).iter().all(|finding| finding["gateway"] == "inside"), "{}", away.out);
    let wrong = run(&folder, &["doctor", "x=ssh:-oProxyCommand=id"]);
    assert_eq!((wrong.code, wrong.out.as_str()), (Some(2), ""), "{}", wrong.err);
}
