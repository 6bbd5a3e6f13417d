//! Two hosts as network namespaces joined by a wire: what a firewall, a black hole and a silent
//! backend do. Needs root, `ip`, `nft`, `ss` and `python3`; says so where one is missing.

#[path = "netns/addresses.rs"]
mod addresses;
#[path = "netns/cluster.rs"]
mod cluster;
#[path = "netns/flood.rs"]
mod flood;
#[path = "netns/names.rs"]
mod names;
mod process;
#[path = "netns/wire_stalls.rs"]
mod wire_stalls;

use std::{
    num::NonZero,
    path::Path,
    process::{Command, Output},
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use process::{Gateway, TestFolder};

/// A black hole is noticed within 12 s; the rest is for a slow machine.
const NOTICED: Duration = Duration::from_secs(14);

/// Whether the test can run; says what it needs where it cannot.
fn can_run(test: &str) -> bool {
    let folders = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let there = |program: &&str| folders.split(':').any(|folder| Path::new(folder).join(program).is_file());
    let mut missing: Vec<&str> =
        ["ip", "nft", "ss", "python3"].into_iter().filter(|program| !there(program)).collect();
    if !rustix::process::geteuid().is_root() {
        missing.push("root");
    }
    if !missing.is_empty() {
        println!("skipped: {test} needs {}", missing.join(", "));
    }
    missing.is_empty()
}

/// Two namespaces, 192.0.2.1 outside and 192.0.2.2 inside; gone when dropped.
struct Wire {
    outside: String,
    inside: String,
    _turn: Turn,
}

/// Most tests here measure times: no more run at once than there are processors, whatever the number of threads.
struct Turn;

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

impl Turn {
    fn take() -> Self {
        // Two for a test that has two wires.
        let most = std::thread::available_parallelism().map_or(2, NonZero::get).max(2);
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let running = ENDED.wait_while(running, |running| *running >= most);
        *running.unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

impl Wire {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let turn = Turn::take();
        let tag = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let wire = Self { outside: format!("ptc-o{tag}"), inside: format!("ptc-i{tag}"), _turn: turn };
        let (outside, inside) = (wire.outside.as_str(), wire.inside.as_str());
        ip(&["netns", "add", outside]);
        ip(&["netns", "add", inside]);
        ip(&[
            "link", "add", "wire0", "netns", outside, "type", "veth", "peer", "name", "wire1", "netns",
            inside,
        ]);
        for (host, device, address) in [(outside, "wire0", "192.0.2.1/24"), (inside, "wire1", "192.0.2.2/24")]
        {
            ip(&["-n", host, "addr", "add", address, "dev", device]);
            ip(&["-n", host, "link", "set", device, "up"]);
            ip(&["-n", host, "link", "set", "lo", "up"]);
        }
        wire
    }

    /// The rules of the inner host from now on.
    fn rules(&self, rules: &str) {
        run(&self.inside, &["nft", &format!("flush ruleset\n{rules}\n")]);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for host in [&self.outside, &self.inside] {
            // Its devices go with it; what fails here was never made.
            let _ = Command::new("ip").args(["netns", "del", host]).status();
        }
    }
}

#[track_caller]
fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().expect("`ip` runs");
    assert!(output.status.success(), "ip {args:?}: {output:?}");
}

/// Runs a program on a host to its end.
#[track_caller]
fn run(host: &str, line: &[&str]) -> String {
    let output: Output =
        Command::new("ip").args(["netns", "exec", host]).args(line).output().expect("`ip` runs");
    assert!(output.status.success(), "{line:?} on {host}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

const TLS: [&str; 2] = [
    "tls: { certificate: pki/dmz.pem, key: pki/dmz.key, ca: pki/ca.pem, peers: [internal] }",
    "tls: { certificate: pki/internal.pem, key: pki/internal.key, ca: pki/ca.pem, peers: [dmz] }",
];

/// Both halves, each on its host, serving `orders` at 192.0.2.1:8000.
fn start<'a>(folder: &'a TestFolder, wire: &Wire, mode: &str, backend: &str) -> [Gateway<'a>; 2] {
    start_linked(folder, wire, mode, backend, ["socks+tls", TLS[0], TLS[1]])
}

/// Starts a pair with this scheme of links, and what each half says of TLS.
fn start_linked<'a>(
    folder: &'a TestFolder,
    wire: &Wire,
    mode: &str,
    backend: &str,
    [scheme, dmz_tls, internal_tls]: [&str; 3],
) -> [Gateway<'a>; 2] {
    folder.write(
        "dmz.yaml",
        &format!(
            "mode: {mode}\ndmz:\n  link: {{ listen: \"{scheme}://192.0.2.1:1443\", \
             connect: \"{scheme}://192.0.2.2:1444\", prepared: 4, {dmz_tls} }}\n  \
             services: {{ orders: {{ accept: [\"tcp://192.0.2.1:8000\"] }} }}\n"
        ),
    );
    folder.write(
        "internal.yaml",
        &format!(
            "mode: {mode}\ninternal:\n  link: {{ connect: \"{scheme}://192.0.2.1:1443\", \
             listen: \"{scheme}://192.0.2.2:1444\", prepared: 4, {internal_tls} }}\n  \
             services: {{ orders: {{ connect: \"{backend}\" }} }}\n"
        ),
    );
    let on = |host: &str, name: &str| {
        folder.start_as(
            name,
            &["ip", "netns", "exec", host],
            &["--no-ui", "--profile", &format!("{name}.yaml")],
        )
    };
    let pair = [on(&wire.outside, "dmz"), on(&wire.inside, "internal")];
    pair.iter().for_each(|half| drop(half.wait_healthy()));
    pair
}

/// A client on the outer host, in Python: `s` is connected to the service.
fn client(wire: &Wire, script: &str) -> String {
    client_at(wire, 8000, script)
}

/// A client at another port.
fn client_at(wire: &Wire, port: u16, script: &str) -> String {
    let script = format!(
        "import socket, time\ns = socket.create_connection(('192.0.2.1', {port}))\ns.settimeout(60)\nbegan = time.time()\n{script}"
    );
    run(&wire.outside, &["python3", "-c", &script])
}

const HELLO: &str =
    "s.sendall(b'hello'); s.shutdown(1); print(s.recv(100).decode() + '.' + s.recv(100).decode())";

/// The shipped profiles, on one host of their own, where their ports are free.
#[test]
fn every_shipped_profile_runs_as_it_is() {
    if !can_run("every_shipped_profile_runs_as_it_is") {
        return;
    }
    let (wire, folder) = (Wire::new(), TestFolder::with_certificates());
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
    for file in portcullis::profile::list(&shipped) {
        let name = file.file_name().expect("a file");
        std::fs::copy(&file, folder.path(name.to_str().expect("text"))).expect("a copy");
    }
    let start = |name: &str| {
        folder.start_as(
            name,
            &["ip", "netns", "exec", &wire.outside],
            &["--no-ui", "--profile", &format!("{name}.yaml")],
        )
    };
    let web = "import http.server, sys\nclass Page(http.server.BaseHTTPRequestHandler):\n    \
               def do_GET(self): self.send_response(200); self.end_headers(); self.wfile.write(b'page')\n\
               http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Page).serve_forever()";
    let serve = |port: &str| {
        let line = ["netns", "exec", &wire.outside, "python3", "-c", web, port];
        Server(
            Command::new("ip").args(line).stderr(std::process::Stdio::null()).spawn().expect("a web server"),
        )
    };
    let fetch = |port: u16| {
        let script = format!(
            "import urllib.request, time\nfor _ in range(100):\n    try:\n        \
             print(urllib.request.urlopen('http://127.0.0.1:{port}/', timeout=10).read().decode()); break\n    \
             except OSError: time.sleep(0.1)"
        );
        assert_eq!(run(&wire.outside, &["python3", "-c", &script]).trim(), "page", "port {port}");
    };
    let _one_machine = serve("7180");
    for name in ["direct", "forward", "reverse"] {
        let pair = start(name);
        pair.wait_healthy();
        fetch(7100);
    }
    let _two_hosts = serve("7280");
    {
        let halves = [start("dmz"), start("internal")];
        halves.iter().for_each(|half| drop(half.wait_healthy()));
        fetch(7200);
    }
    let _cluster = serve("7380");
    let [dmz, _internal] = [start("cluster-dmz"), start("cluster-internal")];
    dmz.wait_healthy();
    fetch(7300);
}

/// A program that ends with the test.
struct Server(std::process::Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One packet in ten that comes to the inner host on its links is lost.
#[test]
fn doctor_finds_what_is_lost_on_a_link() {
    if !can_run("doctor_finds_what_is_lost_on_a_link") {
        return;
    }
    let (wire, folder) = (Wire::new(), TestFolder::with_certificates());
    let [_dmz, _internal] = start(&folder, &wire, "reverse", "echo://");
    wire.rules(
        "table inet gate {\nchain in { type filter hook input priority 0;\n\
         tcp sport 1443 numgen random mod 10 == 0 drop\n}\n}",
    );
    let doctor = || {
        let reported = folder.command(&["doctor", "--admin", "run/dmz.sock"]).output().expect("it runs");
        String::from_utf8(reported.stdout).expect("text")
    };
    let talks = "b = b'x' * 60000\nfor _ in range(20):\n    s.sendall(b)\n    n = 0\n    while n < 60000: n += len(s.recv(60000))";
    let began = Instant::now();
    while !doctor().contains("link-loss") {
        assert!(began.elapsed() < Duration::from_secs(120), "{}", doctor());
        client(&wire, talks);
    }
}

#[test]
fn the_inner_host_refuses_all_and_still_serves() {
    if !can_run("the_inner_host_refuses_all_and_still_serves") {
        return;
    }
    let (wire, folder) = (Wire::new(), TestFolder::with_certificates());
    wire.rules(
        "table inet gate {\nchain in { type filter hook input priority 0; policy drop;\n\
         ct state established,related accept\niif lo accept\ntcp flags syn counter comment \"asked\"\n}\n}",
    );
    let [_dmz, internal] = start(&folder, &wire, "reverse", "echo://");
    assert_eq!(client(&wire, HELLO).trim(), "hello.");
    assert_eq!(run(&wire.inside, &["ss", "-Hlntu"]), "", "the inner half listens");
    assert_eq!(internal.status()["listening"].as_array().map(Vec::len), Some(0));
    let counted = run(&wire.inside, &["nft", "list", "ruleset"]);
    assert!(counted.contains("counter packets 0 bytes 0"), "somebody dialled in: {counted}");
}

#[test]
fn forward_mode_needs_one_port_and_no_other() {
    if !can_run("forward_mode_needs_one_port_and_no_other") {
        return;
    }
    let (wire, folder) = (Wire::new(), TestFolder::with_certificates());
    wire.rules(
        "table inet gate {\nchain in { type filter hook input priority 0; policy drop;\n\
         ct state established,related accept\niif lo accept\ntcp dport 1444 accept\n}\n}",
    );
    let _pair = start(&folder, &wire, "forward", "echo://");
    assert_eq!(client(&wire, HELLO).trim(), "hello.");
    let listening = run(&wire.inside, &["ss", "-Hlntu"]);
    assert_eq!(listening.lines().count(), 1, "{listening}");
    assert!(listening.contains("192.0.2.2:1444"), "{listening}");
}

const BLACK_HOLE: &str = "table inet gate {\n\
    chain in { type filter hook input priority 0; iif wire1 drop; }\n\
    chain out { type filter hook output priority 0; oif wire1 drop; }\n}";

fn check_black_hole(mode: &str, link: [&str; 3]) {
    let (wire, folder) = (Wire::new(), TestFolder::with_certificates());
    let pair = start_linked(&folder, &wire, mode, "echo://", link);
    std::thread::scope(|scope| {
        // Something is on its way: nobody asks a peer of a SOCKS5 link whether it is alive.
        let waits_for_the_end = "s.sendall(b'x'); s.recv(1)\ntry:\n    while True: s.sendall(b'x' * 100); time.sleep(0.2)\n\
                                 except (ConnectionResetError, BrokenPipeError):\n    print('reset')";
        let carried = scope.spawn(|| client(&wire, waits_for_the_end));
        pair[1].wait("it carries", NOTICED, |status| status["totals"]["sessions_open"] == 1);
        wire.rules(BLACK_HOLE);
        let began = Instant::now();
        for half in &pair {
            half.wait("no link is ready any more", NOTICED, |status| {
                let none = |pool: &serde_json::Value| pool["ready"] == 0 && pool["carrying"] == 0;
                status["pools"].as_array().is_some_and(|pools| pools.iter().all(none))
                    && status["totals"]["sessions_open"] == 0
            });
        }
        assert_eq!(carried.join().expect("the client ends").trim(), "reset", "{mode}, {}", link[0]);
        assert!(began.elapsed() < NOTICED, "{mode}, {}: {:?}", link[0], began.elapsed());
    });
    wire.rules("");
    pair.iter().for_each(|half| drop(half.wait_healthy()));
    assert_eq!(client(&wire, HELLO).trim(), "hello.", "{mode}, {}", link[0]);
}

/// Each mode, over links of our own and over plain ones.
fn in_every_mode(check: fn(&str, [&str; 3])) {
    std::thread::scope(|scope| {
        for mode in ["reverse", "forward"] {
            for link in [["socks+tls", TLS[0], TLS[1]], ["socks", "insecure: true", "insecure: true"]] {
                scope.spawn(move || check(mode, link));
            }
        }
    });
}

#[test]
fn a_black_hole_is_noticed_on_ready_and_carrying_links_and_healed() {
    if can_run("a_black_hole_is_noticed_on_ready_and_carrying_links_and_healed") {
        in_every_mode(check_black_hole);
    }
}

/// Sessions that send at their own pace for this many seconds; prints those that were lost.
const TALKS: &str = "import socket, threading, time\nlost, over = [], time.time() + 18\n\
    def talk(every):\n    try:\n        s = socket.create_connection(('192.0.2.1', 8000)); s.settimeout(20)\n        \
    while time.time() < over:\n            s.sendall(b'x' * 64); heard = 0\n            \
    while heard < 64:\n                heard += len(s.recv(64 - heard)) or 1 / 0\n            time.sleep(every)\n    \
    except Exception as error: lost.append((every, repr(error)))\n\
    talks = [threading.Thread(target=talk, args=(every / 10,)) for every in range(1, 31)]\n\
    [talk.start() for talk in talks]; [talk.join() for talk in talks]; print('lost', lost)";

fn check_wire_stalls(mode: &str, link: [&str; 3]) {
    let (wire, folder) = (Wire::new(), TestFolder::with_certificates());
    let pair = start_linked(&folder, &wire, mode, "echo://", link);
    std::thread::scope(|scope| {
        let talks = scope.spawn(|| run(&wire.outside, &["python3", "-c", TALKS]));
        pair[0].wait("they talk", NOTICED, |status| status["totals"]["sessions_open"] == 30);
        for stall in [1000, 3000, 4800] {
            wire.rules(BLACK_HOLE);
            std::thread::sleep(Duration::from_millis(stall));
            wire.rules("");
            std::thread::sleep(Duration::from_secs(2));
        }
        let talked = talks.join().expect("they end");
        assert_eq!(talked.trim(), "lost []", "{mode}, {}\n{}", link[0], pair[0].log());
    });
    for half in &pair {
        assert!(!half.log().contains("does not answer any more"), "{mode}, {}: {}", link[0], half.log());
    }
}

#[test]
fn a_network_pause_costs_no_session() {
    if can_run("a_network_pause_costs_no_session") {
        in_every_mode(check_wire_stalls);
    }
}

#[test]
fn a_reader_that_does_not_read_is_slow_and_not_dead() {
    if !can_run("a_reader_that_does_not_read_is_slow_and_not_dead") {
        return;
    }
    let (wire, folder) = (Wire::new(), TestFolder::with_certificates());
    let _pair = start(&folder, &wire, "reverse", "echo://");
    let script = "s.settimeout(1); sent = 0\ntry:\n    while True: sent += s.send(b'z' * 65536)\n\
                  except TimeoutError: pass\ntime.sleep(20); s.settimeout(10)\n\
                  got = 0\nwhile got < sent: got += len(s.recv(1 << 20))\nprint('all back')";
    assert_eq!(client(&wire, script).trim(), "all back");
}

#[test]
fn an_unanswering_backend_is_reported_within_five_seconds() {
    if !can_run("an_unanswering_backend_is_reported_within_five_seconds") {
        return;
    }
    let (wire, folder) = (Wire::new(), TestFolder::with_certificates());
    wire.rules(
        "table inet gate {\nchain in { type filter hook input priority 0; iif lo tcp dport 9 drop; }\n}",
    );
    let [_dmz, internal] = start(&folder, &wire, "reverse", "tcp://127.0.0.1:9");
    let script = "try:\n    print('clean', s.recv(1))\nexcept ConnectionResetError:\n    print('reset', time.time() - began)";
    let seen = client(&wire, script);
    let seconds: f64 = seen.trim().strip_prefix("reset ").unwrap_or("nan").parse().expect("a reset");
    assert!((3.0..5.0).contains(&seconds), "{seconds}");
    let ended = &internal.status()["ended"][0];
    assert_eq!(ended["end"], "BC");
    assert!(ended["reason"].as_str().is_some_and(|reason| reason.contains("no answer")), "{ended}");
}

/// The report of `verify --json` on a host.
fn verify(folder: &TestFolder, host: &str, profile: &str) -> serde_json::Value {
    let mut command =
        folder.wrapped(&["ip", "netns", "exec", host], &["verify", "--json", "--profile", profile]);
    let output = command.output().expect("the program runs");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn verify_names_a_firewall_and_a_pool_that_never_fills() {
    if !can_run("verify_names_a_firewall_and_a_pool_that_never_fills") {
        return;
    }
    let (wire, folder) = (Wire::new(), TestFolder::with_certificates());
    let [dmz_tls, internal_tls] = TLS;
    folder.write(
        "pair.yaml",
        &format!(
            "mode: forward\ndmz:\n  link: {{ listen: \"socks+tls://192.0.2.2:1443\", connect: \"socks+tls://192.0.2.2:1444\", \
             prepared: 8, {dmz_tls} }}\n  services: {{ orders: {{ accept: [\"tcp://192.0.2.2:8000\"] }} }}\n\
             internal:\n  link: {{ connect: \"socks+tls://192.0.2.2:1443\", listen: \"socks+tls://192.0.2.2:1444\", \
             prepared: 8, {internal_tls} }}\n  services: {{ orders: {{ connect: \"echo://\" }} }}\n"
        ),
    );
    let chain = |rule: &str| {
        wire.rules(&format!(
            "table inet gate {{\n set bounded {{ type inet_service; flags dynamic; size 8; }}\n \
             chain in {{ type filter hook input priority 0; {rule}; }}\n}}"
        ));
    };
    let step = |report: &serde_json::Value, number: usize| {
        let step = &report["steps"][number];
        [&step["result"], &step["seen"], &step["advice"]]
            .map(|value| value.as_str().unwrap_or_default().to_owned())
    };
    chain("tcp dport 1444 drop");
    let report = verify(&folder, &wire.inside, "pair.yaml");
    let [result, seen, advice] = step(&report, 2);
    assert_eq!(result, "fail", "{report:#}");
    assert!(seen.contains("192.0.2.2:1444: no answer within 3s"), "{seen}");
    assert!(advice.contains("firewall"), "{advice}");
    assert_eq!(step(&report, 3)[0], "pass", "the other port is open: {report:#}");

    chain("tcp dport 1443 tcp flags syn add @bounded { tcp dport ct count over 3 } reject with tcp reset");
    let report = verify(&folder, &wire.inside, "pair.yaml");
    assert_eq!(step(&report, 2)[0], "pass", "{report:#}");
    let [result, seen, advice] = step(&report, 3);
    assert_eq!(result, "fail", "{report:#}");
    assert!(seen.contains("only 3 of 8 links ready, internal at 192.0.2.2"), "{seen}");
    assert!(advice.contains("bounds the links") && advice.contains("`prepared`"), "{advice}");
}
