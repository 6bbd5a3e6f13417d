//! `verify`: the checklist with halves of its own, with gateways that run, and with each fault.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
};

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::{
    CommandOutput,
    commands::issued,
    connect,
    process::{Gateway, SOON, TestFolder},
    run,
};

pub const DMZ_TLS: &str = "{ certificate: pki/dmz.pem, key: pki/dmz.key, ca: pki/ca.pem, peers: [internal] }";
pub const INTERNAL_TLS: &str =
    "{ certificate: pki/internal.pem, key: pki/internal.key, ca: pki/ca.pem, peers: [dmz] }";

/// A port of this test alone: bound, not listening, so that nobody else gets it, a connection to it
/// is refused, and a gateway may listen on it, since both set SO_REUSEADDR.
fn reserved() -> (Socket, u16) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("an option");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    let at = socket.local_addr().expect("its address").as_socket().expect("an inet address");
    (socket, at.port())
}

/// A pair on ports of its own.
pub struct Ports {
    clients: u16,
    dmz_link: u16,
    internal_link: u16,
    _reserved: [Socket; 3],
}

impl Ports {
    pub fn new() -> Self {
        let [(one, clients), (two, dmz_link), (three, internal_link)] = [reserved(), reserved(), reserved()];
        Self { clients, dmz_link, internal_link, _reserved: [one, two, three] }
    }

    pub fn dmz(&self, tls: &str) -> String {
        format!(
            "dmz:\n  link: {{ listen: 'socks+tls://127.0.0.1:{}', connect: 'socks+tls://127.0.0.1:{}', tls: {tls}, prepared: 2 }}\n  \
             services: {{ web: {{ accept: ['tcp://127.0.0.1:{}'] }} }}\n",
            self.dmz_link, self.internal_link, self.clients
        )
    }

    pub fn internal(&self, tls: &str, backend: &str) -> String {
        format!(
            "internal:\n  link: {{ connect: 'socks+tls://127.0.0.1:{}', listen: 'socks+tls://127.0.0.1:{}', tls: {tls}, prepared: 2 }}\n  \
             services: {{ web: {{ connect: '{backend}' }} }}\n",
            self.dmz_link, self.internal_link
        )
    }

    pub fn pair(&self, backend: &str) -> String {
        format!("mode: forward\n{}{}", self.dmz(DMZ_TLS), self.internal(INTERNAL_TLS, backend))
    }
}

/// The report of `verify --json`.
#[track_caller]
fn report(sent: &CommandOutput) -> Value {
    let report: Value =
        serde_json::from_str(&sent.out).unwrap_or_else(|error| panic!("{error}\n{}", sent.err));
    assert_eq!(sent.code, Some(if report["passed"] == true { 0 } else { 1 }), "{report:#}");
    report
}

pub fn verify(folder: &TestFolder, profile: &str) -> Value {
    report(&run(folder, &["verify", "--json", "--profile", profile]))
}

/// `profile pass, basic fail, ...`
pub fn results(report: &Value) -> String {
    let steps = report["steps"].as_array().expect("a list of steps");
    let word = |step: &Value| {
        assert!(step["milliseconds"].is_u64() && step["seen"].is_string(), "{step}");
        assert_eq!(step["advice"].is_string(), step["result"] == "fail", "{step}");
        format!("{} {}", step["step"].as_str().expect("a name"), step["result"].as_str().expect("a result"))
    };
    steps.iter().map(word).collect::<Vec<_>>().join(", ")
}

pub fn step<'a>(report: &'a Value, name: &str) -> (&'a str, &'a str) {
    let steps = report["steps"].as_array().expect("a list of steps");
    let step = steps.iter().find(|step| step["step"] == name).expect("each step is reported");
    (step["seen"].as_str().expect("text"), step["advice"].as_str().unwrap_or_default())
}

#[test]
fn a_good_pair_passes_every_step_and_leaves_nothing_behind() {
    let (folder, ports) = (TestFolder::with_certificates(), Ports::new());
    let backend = TcpListener::bind("127.0.0.1:0").expect("a backend");
    let address = format!("tcp://{}", backend.local_addr().expect("its address"));
    folder.write("pair.yaml", &ports.pair(&address));
    let report = verify(&folder, "pair.yaml");
    assert_eq!(
        results(&report),
        "profile pass, basic pass, forward pass, reverse pass, closed pass",
        "{report:#}"
    );
    for (name, words) in [
        ("profile", &["certificate for `dmz`", "certificate for `internal`", "days left"][..]),
        ("basic", &["`web` 127.0.0.1:", "answered in", " ms"]),
        ("forward", &["web in ", " ms", "2 of 2 links ready, internal at", "portcullis/2"]),
        ("reverse", &["web in ", " ms", "2 of 2 links ready, internal at 127.0.0.1"]),
        ("closed", &["sockets of process", "SO_ACCEPTCONN", "port of forward mode is closed"]),
    ] {
        let (seen, _) = step(&report, name);
        for word in words {
            assert!(seen.contains(word), "`{word}` is not in {name}: {seen}");
        }
    }
    // What the backend saw of it: connections without a byte, each ended cleanly.
    backend.set_nonblocking(true).expect("it does not wait");
    let mut seen = 0;
    while let Ok((mut stream, _)) = backend.accept() {
        let mut received = Vec::new();
        stream.set_nonblocking(false).expect("it waits");
        stream.set_read_timeout(Some(SOON)).expect("a timeout is set");
        stream.read_to_end(&mut received).expect("a clean end");
        assert_eq!(received, b"");
        seen += 1;
    }
    assert_eq!(seen, 3, "`basic` and two probes");
    for port in [ports.clients, ports.dmz_link, ports.internal_link] {
        TcpListener::bind(("127.0.0.1", port)).expect("the port is free again");
    }
    let left: Vec<_> =
        std::fs::read_dir(folder.path("run/portcullis")).expect("a folder").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Starts the gateway of `NAME.yaml` with its socket where a gateway without `--admin` has it.
fn start_unnamed<'a>(folder: &'a TestFolder, name: &str) -> Gateway<'a> {
    // Where a gateway without `--admin` has its socket.
    std::fs::create_dir(folder.path("portcullis")).expect("a folder for the log");
    std::fs::create_dir(folder.path("run/portcullis")).expect("a folder");
    std::fs::set_permissions(folder.path("run/portcullis"), PermissionsExt::from_mode(0o700))
        .expect("a mode");
    let profile = format!("{name}.yaml");
    let gateway = folder.start_as(&format!("portcullis/{name}"), &[], &["--no-ui", "--profile", &profile]);
    gateway.wait_healthy();
    gateway
}

#[test]
fn a_gateway_in_forward_mode_tries_reverse_beside_it_and_stays_as_it_was() {
    let (folder, ports) = (TestFolder::with_certificates(), Ports::new());
    folder.write("pair.yaml", &ports.pair("echo://"));
    let gateway = start_unnamed(&folder, "pair");
    let before = gateway.status();
    let report = verify(&folder, "pair.yaml");
    assert_eq!(
        results(&report),
        "profile pass, basic pass, forward pass, reverse pass, closed skip",
        "{report:#}"
    );
    assert!(step(&report, "reverse").0.contains("web in "), "{report:#}");
    assert!(step(&report, "closed").0.contains("in mode forward the internal half listens"), "{report:#}");
    let after = gateway.wait_healthy();
    for same in ["mode", "listening", "totals", "ended"] {
        assert_eq!(after[same], before[same], "{same}");
    }
    TcpListener::bind(("127.0.0.1", ports.dmz_link)).expect("the port of reverse mode is closed again");
    let check = &after["forward_checks"][0];
    assert_eq!((&check["profile"], &check["passed"]), (&"pair".into(), &true.into()), "{after:#}");
    assert_eq!(after["walk"]["steps"].as_array().map(Vec::len), Some(5), "{after:#}");
    let log = gateway.log();
    let warnings: Vec<_> = log.lines().filter(|line| line.contains(" WARN ")).collect();
    assert!(warnings.is_empty(), "a check warns of nothing: {warnings:?}");
}

/// The port for monitors, the logs, the audit and the locks are those of the gateway that serves.
#[test]
fn halves_of_its_own_open_no_health_port_and_write_no_file() {
    let (folder, ports) = (TestFolder::with_certificates(), Ports::new());
    // Whoever opened it would find it taken.
    let health = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let keys = format!(
        "health: {}\nlog: gate.json\naccess_log: access.json\naudit: audit.jsonl\n",
        health.local_addr().expect("its address")
    );
    folder.write("pair.yaml", &format!("{keys}{}", ports.pair("echo://")));
    let manager = UnixDatagram::bind(folder.path("notify")).expect("a socket");
    manager.set_nonblocking(true).expect("it does not wait");
    let reported =
        ["NOTIFY_SOCKET", "LISTEN_FDNAMES"].map(|name| format!("{name}={}", folder.path("notify").display()));
    let wrapper = ["env", &reported[0], &reported[1], "WATCHDOG_USEC=100000", "LISTEN_FDS=1", "LISTEN_PID=1"];
    let line = ["verify", "--json", "--profile", "pair.yaml"];
    let sent = crate::output_of(folder.wrapped(&wrapper, &line).output().expect("it runs"));
    assert_eq!(
        results(&report(&sent)),
        "profile pass, basic pass, forward pass, reverse pass, closed pass",
        "{}",
        sent.out
    );
    for file in ["gate.json", "access.json", "audit.jsonl", "state"] {
        assert!(!folder.path(file).exists(), "{file}");
    }
    // Nor does one of them speak for this command to the service manager.
    let error = manager.recv(&mut [0; 64]).expect_err("nothing was reported");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_running_gateway_verifies_itself_and_counts_no_probe() {
    let (folder, ports) = (TestFolder::with_certificates(), Ports::new());
    folder.write("pair.yaml", &ports.pair("echo://").replace("mode: forward", "mode: reverse"));
    let gateway = start_unnamed(&folder, "pair");
    let report = verify(&folder, "pair.yaml");
    assert_eq!(
        results(&report),
        "profile pass, basic pass, forward skip, reverse pass, closed pass",
        "{report:#}"
    );
    assert!(step(&report, "forward").0.contains("opens no port, not even for a check"), "{report:#}");
    let mut client = connect(gateway.accept("web"));
    client.write_all(b"hello").expect("it is sent");
    client.read_exact(&mut [0; 5]).expect("it comes back");
    let status = gateway.status();
    assert_eq!((&status["totals"]["sessions"], &status["totals"]["bytes_up"]), (&1.into(), &5.into()));
    assert_eq!(status["ended"], serde_json::json!([]), "a probe is not a session");
    // The log is written by a thread of its own.
    let written = || Some(gateway.log()).filter(|log| log.contains("operator kind=\"verify\""));
    let log = crate::until("the walk is written down", SOON, written);
    assert_eq!(log.matches("probe ended").count(), 2, "one on each half\n{log}");
    let reported = "verify, asked by admin socket ";
    assert!(log.contains("operator kind=\"verify\" by=\"admin socket "), "{log}");
    assert!(status["notices"].to_string().contains(reported), "{status:#}");
}

#[test]
fn a_gateway_that_is_named_and_has_never_come_is_missed() {
    let (folder, ports) = (TestFolder::with_certificates(), Ports::new());
    let pair = ports.pair("echo://").replace("mode: forward", "mode: reverse");
    folder.write("pair.yaml", &pair.replace("peers: [internal]", "peers: [internal, spare]"));
    let _gateway = start_unnamed(&folder, "pair");
    let report = verify(&folder, "pair.yaml");
    let (seen, _) = step(&report, "reverse");
    assert!(seen.contains("internal") && seen.contains("no link from spare"), "{report:#}");
}

#[test]
fn a_backend_that_is_the_own_port_of_a_running_gateway_fails_and_opens_no_session() {
    let (folder, ports) = (TestFolder::with_certificates(), Ports::new());
    // By a name, which the profile's check takes for another host.
    folder.write(
        "loop.yaml",
        &format!(
            "mode: direct\ndmz: {{ services: {{ web: {{ accept: 'tcp://127.0.0.1:{at}', connect: 'tcp://localhost:{at}' }} }} }}\n",
            at = ports.clients
        ),
    );
    let gateway = start_unnamed(&folder, "loop");
    let report = verify(&folder, "loop.yaml");
    assert!(results(&report).starts_with("profile pass, basic fail, "), "{report:#}");
    assert!(
        step(&report, "basic").0.contains("it leads back to the clients of its own service"),
        "{report:#}"
    );
    let totals = &gateway.status()["totals"];
    assert_eq!((&totals["sessions"], &totals["refused"]), (&0.into(), &0.into()), "no client: {totals:#}");
}

#[test]
fn a_backend_that_is_down_is_named() {
    let (folder, ports) = (TestFolder::with_certificates(), Ports::new());
    let (_socket, port) = reserved();
    let nobody = format!("127.0.0.1:{port}");
    folder.write("pair.yaml", &ports.pair(&format!("tcp://{nobody}")));
    let report = verify(&folder, "pair.yaml");
    assert_eq!(
        results(&report),
        "profile pass, basic fail, forward fail, reverse fail, closed pass",
        "{report:#}"
    );
    assert!(step(&report, "basic").0.contains(&nobody), "{report:#}");
    for name in ["forward", "reverse"] {
        assert!(step(&report, name).0.contains("the backend refused the connection"), "{report:#}");
        assert!(step(&report, name).1.starts_with("start the backend of `web`"), "{report:#}");
    }
}

#[test]
fn a_wrong_name_in_peers_is_named_whichever_half_has_it() {
    let folder = TestFolder::with_certificates();
    for wrong in ["dmz", "internal"] {
        let ports = Ports::new();
        let (dmz_tls, internal_tls) = match wrong {
            "dmz" => (DMZ_TLS.replace("[internal]", "[somebody]"), INTERNAL_TLS.to_owned()),
            _ => (DMZ_TLS.to_owned(), INTERNAL_TLS.replace("[dmz]", "[somebody]")),
        };
        let text =
            format!("mode: reverse\n{}{}", ports.dmz(&dmz_tls), ports.internal(&internal_tls, "echo://"));
        folder.write("pair.yaml", &text);
        let report = verify(&folder, "pair.yaml");
        assert_eq!(
            results(&report),
            "profile pass, basic pass, forward fail, reverse fail, closed pass",
            "{report:#}"
        );
        for name in ["forward", "reverse"] {
            let (seen, advice) = step(&report, name);
            assert!(
                seen.contains("none of which is among this link's peers [\"somebody\"]"),
                "{wrong}: {seen}"
            );
            assert!(advice.contains("`peers`"), "{wrong}: {advice}");
        }
    }
}

#[test]
fn a_single_half_verifies_its_part_and_explains_its_skips() {
    let (folder, ports) = (TestFolder::with_certificates(), Ports::new());
    folder.write("outside.yaml", &format!("mode: reverse\n{}", ports.dmz(DMZ_TLS)));
    folder.write("inside.yaml", &format!("mode: reverse\n{}", ports.internal(INTERNAL_TLS, "echo://")));
    let outside = verify(&folder, "outside.yaml");
    assert_eq!(
        results(&outside),
        "profile pass, basic skip, forward skip, reverse fail, closed skip",
        "{outside:#}"
    );
    assert!(step(&outside, "forward").0.contains("connection refused"), "{outside:#}");
    assert!(step(&outside, "reverse").0.contains("no internal gateway has dialled in"), "{outside:#}");
    let dmz = folder.start("outside");
    let inside = verify(&folder, "inside.yaml");
    assert_eq!(
        results(&inside),
        "profile pass, basic pass, forward skip, reverse pass, closed pass",
        "{inside:#}"
    );
    assert!(
        step(&inside, "reverse").0.contains("links are parked: 2 of 2 links ready, dmz at"),
        "{inside:#}"
    );
    drop(dmz);
}

#[test]
fn an_internal_half_that_listens_is_caught() {
    let (folder, ports) = (TestFolder::with_certificates(), Ports::new());
    folder.write("pair.yaml", &ports.pair("echo://"));
    // Whoever starts it hands on a socket that listens.
    let script = "import os, socket, sys\ns = socket.create_server(('127.0.0.1', 0))\nos.set_inheritable(s.fileno(), True)\nos.execv(sys.argv[1], sys.argv[1:])";
    let mut command =
        folder.wrapped(&["python3", "-c", script], &["verify", "--json", "--profile", "pair.yaml"]);
    let report = report(&crate::output_of(command.output().expect("python3 runs")));
    assert_eq!(
        results(&report),
        "profile pass, basic pass, forward pass, reverse pass, closed fail",
        "{report:#}"
    );
    let (seen, advice) = step(&report, "closed");
    assert!(seen.starts_with("the internal half listens: tcp 127.0.0.1:"), "{seen}");
    assert!(advice.contains("inherited sockets"), "{advice}");
}

#[test]
fn a_port_that_another_program_holds_is_named_with_it() {
    let (folder, ports) = (TestFolder::with_certificates(), Ports::new());
    folder.write("pair.yaml", &ports.pair("echo://"));
    let _holder = TcpListener::bind(("127.0.0.1", ports.internal_link)).expect("the port is free");
    let report = verify(&folder, "pair.yaml");
    assert_eq!(
        results(&report),
        "profile pass, basic pass, forward fail, reverse pass, closed fail",
        "{report:#}"
    );
    let me = format!("process {}", std::process::id());
    for name in ["forward", "closed"] {
        let (seen, _) = step(&report, name);
        assert!(seen.contains(&ports.internal_link.to_string()) && seen.contains(&me), "{name}: {seen}");
    }
}

#[test]
fn a_profile_that_does_not_read_fails_the_first_step() {
    let folder = TestFolder::with_certificates();
    folder.write("bad.yaml", "mode: sideways\n");
    let report = verify(&folder, "bad.yaml");
    assert_eq!(
        results(&report),
        "profile fail, basic skip, forward skip, reverse skip, closed skip",
        "{report:#}"
    );
    assert!(step(&report, "profile").0.contains("bad.yaml:1:7: mode:"), "{report:#}");
}

#[test]
fn a_certificate_out_of_date_and_a_clock_that_is_wrong_are_distinguished() {
    let (folder, ports) = (TestFolder::with_certificates(), Ports::new());
    folder.write("pair.yaml", &ports.pair("echo://"));
    for (days, words, what_to_do) in [
        ((-10, -1), "its certificate expired on ", "make a new one"),
        ((300, 600), "its certificate is not valid yet, from ", "set the clock of this host right"),
    ] {
        let (certificate, key) = issued(&folder, "internal", days.0, days.1);
        folder.write("pki/internal.pem", &certificate);
        folder.write("pki/internal.key", &key);
        let report = verify(&folder, "pair.yaml");
        assert_eq!(
            results(&report),
            "profile fail, basic skip, forward skip, reverse skip, closed skip",
            "{report:#}"
        );
        let (seen, advice) = step(&report, "profile");
        assert!(seen.contains("internal.link.tls.certificate") && seen.contains(words), "{seen}");
        assert!(seen.contains("the clock of this host says 20"), "{seen}");
        assert!(advice.contains(what_to_do), "{advice}");
    }
}

/// A probe goes through the TLS of a door, and past proxies and requests.
#[test]
fn probes_pass_ports_with_tls_websockets_or_the_proxy_protocol() {
    let folder = TestFolder::with_certificates();
    for options in [
        "{ address: 'tls://127.0.0.1:PORT', tls: { certificate: pki/dmz.pem, key: pki/dmz.key } }",
        "{ address: 'tcp://127.0.0.1:PORT', proxy: { from: ['192.0.2.0/24'] } }",
        "'ws://127.0.0.1:PORT/orders'",
    ] {
        let ports = Ports::new();
        let plain = format!("'tcp://127.0.0.1:{}'", ports.clients);
        let accept = options.replace("PORT", &ports.clients.to_string());
        folder.write("pair.yaml", &ports.pair("echo://").replace(&plain, &accept));
        let report = verify(&folder, "pair.yaml");
        assert_eq!(
            results(&report),
            "profile pass, basic pass, forward pass, reverse pass, closed pass",
            "{report:#}"
        );
    }
}
