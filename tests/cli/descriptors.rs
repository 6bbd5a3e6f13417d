//! What happens when descriptors run out.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    DIRECT, connect,
    process::{Gateway, SOON, TestFolder, until},
    run,
    setup::{dmz_half, internal_half},
};

const LIMIT: usize = 48;
const CLIENTS: usize = 120;
/// How long the work of the starved gateway is measured.
const MEASURED: Duration = Duration::from_secs(2);

#[test]
fn out_of_descriptors_accepting_pauses_and_goes_on() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", DIRECT);
    let limit = format!("--nofile={LIMIT}");
    let gateway = folder.start_as("one", &["prlimit", &limit], &["--no-ui", "--profile", "one.yaml"]);
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

/// Descriptors of a gateway that serves nobody: what `status` shows, without what asking for it takes.
fn at_rest(folder: &TestFolder, profile: &str) -> u64 {
    let gateway = folder.start(profile);
    let used = gateway.status()["descriptors"]["used"].as_u64().expect("a number");
    used - 1
}

/// The pair of `spare` descriptors more on the DMZ half than it needs at rest.
fn starved<'a>(folder: &'a TestFolder, dmz: &str, spare: u64) -> (Gateway<'a>, String) {
    folder.write("dmz.yaml", dmz);
    let limit = format!("--nofile={}", at_rest(folder, "dmz") + spare);
    let gateway = folder.start_as("dmz", &["prlimit", &limit], &["--no-ui", "--profile", "dmz.yaml"]);
    let link = format!("127.0.0.1:{}", gateway.link_port());
    (gateway, link)
}

/// A certificate for another internal gateway, of the same authority.
fn certify(folder: &TestFolder, name: &str) {
    let rename = |from: &str, to: &str| {
        for kind in ["pem", "key"] {
            let path = |name: &str| folder.path(&format!("pki/{name}.{kind}"));
            fs::rename(path(from), path(to)).expect("it is renamed");
        }
    };
    rename("internal", "kept");
    let made = run(folder, &["certs", "--out", "pki", "--internal", name]);
    assert_eq!(made.code, Some(0), "{}", made.err);
    rename("internal", name);
    rename("kept", "internal");
}

/// Connects, sends, checks the echo, and closes.
fn run_client(port: SocketAddr) {
    let mut client = connect(port);
    client.write_all(b"x").expect("it is sent");
    client.read_exact(&mut [0]).expect("it is served");
}

#[test]
fn with_few_descriptors_clients_links_and_the_admin_socket_each_have_their_share() {
    check_shares(12, str::to_owned);
}

/// Where each session has a link of its own, and links and clients come and go together.
#[test]
fn with_few_descriptors_plain_links_and_clients_each_have_their_share() {
    check_shares(16, plain);
}

/// Two hundred clients, twenty at once.
fn run_many_clients(dmz: &Gateway<'_>, port: SocketAddr) {
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| (0..10).for_each(|_| run_client(port)));
        }
        for _ in 0..10 {
            assert_eq!(dmz.status()["phase"], "running", "it answers all the while");
        }
    });
}

/// Links without TLS, each of which carries one session.
fn plain(half: &str) -> String {
    let tls = regex::Regex::new(r", tls: \{[^}]*\}").expect("a pattern");
    tls.replace(half, "").replace("socks+tls", "socks")
}

#[test]
fn a_limit_that_falls_while_plain_links_are_up_is_divided_again() {
    let folder = TestFolder::with_certificates();
    folder.write("dmz.yaml", &plain(&dmz_half("127.0.0.1:0", &["echo"])));
    let dmz = folder.start_as("dmz", &["prlimit", "--nofile=1024"], &["--no-ui", "--profile", "dmz.yaml"]);
    let link = format!("127.0.0.1:{}", dmz.link_port());
    folder.write("internal.yaml", &plain(&internal_half(&link, &[("echo", "echo://")])));
    let _internal = folder.start("internal");
    dmz.wait_healthy();
    leave(&dmz, Some(12));
    until("it is taken up", SOON, || dmz.log().contains("open files from now on, 1024 before").then_some(()));
    run_many_clients(&dmz, dmz.accept("echo"));
    let status = dmz.wait("nobody is left", SOON, |status| status["totals"]["sessions_open"] == 0);
    assert_eq!((&status["totals"]["sessions"], &status["totals"]["refused"]), (&200.into(), &0.into()));
    leave(&dmz, None);
    until("it is taken up", SOON, || dmz.log().contains("up to 1024 open files from now on").then_some(()));
}

#[test]
fn with_few_descriptors_clients_wait_for_a_plain_link_that_is_dialled_for_them() {
    let folder = TestFolder::with_certificates();
    let half = |name: &str, verb: &str, at: &str, service: &str| {
        let link = format!("{{ {verb}: 'socks://{at}', insecure: true }}");
        folder.write(
            &format!("{name}.yaml"),
            &format!("mode: forward\n{name}:\n  link: {link}\n  services: {{ echo: {service} }}\n"),
        );
    };
    half("internal", "listen", "127.0.0.1:0", "{ connect: 'echo://' }");
    let internal = folder.start("internal");
    let at = format!("127.0.0.1:{}", internal.link_port());
    half("dmz", "connect", &at, "{ accept: 'tcp://127.0.0.1:0' }");
    let limit = format!("--nofile={}", at_rest(&folder, "dmz") + 16);
    let dmz = folder.start_as("dmz", &["prlimit", &limit], &["--no-ui", "--profile", "dmz.yaml"]);
    dmz.wait_healthy();
    run_many_clients(&dmz, dmz.accept("echo"));
    let status = dmz.wait("nobody is left", SOON, |status| status["totals"]["sessions_open"] == 0);
    assert_eq!((&status["totals"]["sessions"], &status["totals"]["refused"]), (&200.into(), &0.into()));
}

fn check_shares(spare: u64, written: impl Fn(&str) -> String) {
    let folder = TestFolder::with_certificates();
    let (dmz, link) = starved(&folder, &written(&dmz_half("127.0.0.1:0", &["echo"])), spare);
    folder.write("internal.yaml", &written(&internal_half(&link, &[("echo", "echo://")])));
    let _internal = folder.start("internal");
    dmz.wait_healthy();
    let port = dmz.accept("echo");
    run_many_clients(&dmz, port);
    let ready = |status: &Value| status["pools"][0]["ready"].as_u64() >= Some(1);
    let status = dmz.wait("links are ready again, and nobody is left", SOON, |status| {
        ready(status) && status["totals"]["sessions_open"] == 0
    });
    assert_eq!((&status["totals"]["sessions"], &status["totals"]["refused"]), (&200.into(), &0.into()));
    run_client(port);
    let log = dmz.log();
    let reported: Vec<_> = log.lines().filter(|line| line.contains("open files")).collect();
    assert!(reported.iter().any(|line| line.contains("WARN") && line.contains("1000")), "{reported:?}");
    assert!(!log.contains("Too many open files"), "{log}");
}

#[test]
fn a_peer_that_dials_without_end_takes_no_descriptors_of_others() {
    let folder = TestFolder::with_certificates();
    certify(&folder, "greedy");
    let dmz =
        dmz_half("127.0.0.1:0", &["echo", "one"]).replace("peers: [internal]", "peers: [internal, greedy]");
    let (dmz, link) = starved(&folder, &dmz, 80);
    let greedy = internal_half(&link, &[("one", "echo://")])
        .replace("pki/internal", "pki/greedy")
        .replace("prepared: 2", "prepared: 400, maximum: 500");
    folder.write("greedy.yaml", &greedy);
    let _greedy = folder.start("greedy");
    let port = dmz.accept("one");
    dmz.wait("its links come", SOON, |status| {
        status["pools"].as_array().is_some_and(|pools| {
            pools.iter().any(|pool| pool["peer"] == "greedy" && pool["ready"].as_u64() >= Some(8))
        })
    });
    folder.write("internal.yaml", &internal_half(&link, &[("echo", "echo://")]));
    let internal = folder.start("internal");
    internal.wait_healthy();
    let other = dmz.accept("echo");
    (0..20).for_each(|_| run_client(other));
    run_client(port);
    let status = dmz.status();
    let of_greedy = status["pools"].as_array().expect("rows").iter().find(|pool| pool["peer"] == "greedy");
    let ready = of_greedy.and_then(|pool| pool["ready"].as_u64()).expect("its row");
    assert!((8..=40).contains(&ready), "{ready} links of one peer where 80 descriptors are left for all");
}

/// Sets the limit of a gateway that runs so that `spare` descriptors are left; none: as many as it likes.
fn leave(gateway: &Gateway<'_>, spare: Option<usize>) {
    let pid = gateway.child.id();
    let limit = spare.map_or(1024, |spare| {
        let held = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors");
        let held: Vec<u64> = held.filter_map(|one| one.ok()?.file_name().to_str()?.parse().ok()).collect();
        // Each has a number below the limit, and the kernel takes the lowest that is free.
        (0..).filter(|number| !held.contains(number)).nth(spare).expect("one is free")
    });
    let set = Command::new("prlimit").arg(format!("--pid={pid}")).arg(format!("--nofile={limit}:")).status();
    assert!(set.expect("prlimit runs").success());
}

#[test]
fn a_limit_that_falls_under_a_running_gateway_is_reported_and_it_recovers_by_itself() {
    let folder = TestFolder::with_certificates();
    let backend = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let to = backend.local_addr().expect("it is bound");
    thread::spawn(move || {
        while let Ok((mut stream, _)) = backend.accept() {
            thread::spawn(move || {
                let mut received = [0];
                while stream.read_exact(&mut received).is_ok() && stream.write_all(&received).is_ok() {}
            });
        }
    });
    let profile = format!(
        "mode: direct\ndmz:\n  services: {{ shop: {{ accept: ['tcp://127.0.0.1:0'], connect: 'tcp://{to}' }} }}\n"
    );
    folder.write("one.yaml", &profile);
    let gateway =
        folder.start_as("one", &["prlimit", "--nofile=1024"], &["--no-ui", "--profile", "one.yaml"]);
    let port = gateway.accept("shop");
    run_client(port);
    gateway.wait("nobody is left", SOON, |status| status["totals"]["sessions_open"] == 0);

    // The client takes the last one, and none is left to dial its backend.
    leave(&gateway, Some(1));
    let mut refused = connect(port);
    refused.set_read_timeout(Some(SOON)).expect("a timeout");
    let received = refused.read(&mut [0]);
    assert!(!matches!(received, Ok(1..)), "{received:?}");
    until("what is missing is named", SOON, || {
        gateway.log().contains("this process has no descriptor left").then_some(())
    });
    drop(refused);

    // None is left for a client either: it waits before the door.
    leave(&gateway, Some(0));
    let mut waits = connect(port);
    until("accepting pauses", SOON, || gateway.log().contains("accepting pauses").then_some(()));
    leave(&gateway, None);
    waits.set_read_timeout(Some(SOON)).expect("a timeout");
    waits.write_all(b"x").expect("it is sent");
    waits.read_exact(&mut [0]).expect("it is served");
    run_client(port);
    let ended = gateway.status()["ended"].to_string();
    assert!(ended.contains("no descriptor left"), "{ended}");
}

/// Processor time of a process, in hundredths of a second (proc(5)).
fn cpu_ticks(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    let fields: Vec<&str> = text.rsplit(')').next().expect("fields").split_whitespace().collect();
    let field = |at: usize| fields[at].parse::<u64>().expect("a number");
    field(11) + field(12)
}
