//! A cluster on hosts of their own behind HAProxy, which asks each DMZ gateway whether it is ready: an internal host that
//! vanishes without a word, and then the other one.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;

use crate::{
    NOTICED, Server, Turn, can_run, ip,
    process::{Gateway, SOON, TestFolder, until},
    run,
};

const DMZ: [&str; 3] = ["d1", "d2", "d3"];
const INTERNAL: [&str; 2] = ["i1", "i2"];
const HOSTS: [(&str, &str); 5] = [
    ("d1", "192.0.2.11"),
    ("d2", "192.0.2.12"),
    ("d3", "192.0.2.13"),
    ("i1", "192.0.2.21"),
    ("i2", "192.0.2.22"),
];
const SESSIONS: usize = 12;

/// A host for each gateway, and one for the balancer and the clients, 192.0.2.1, whose bridge joins them; gone when
/// dropped.
struct Hosts(String, Turn);

impl Hosts {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let turn = Turn::take();
        let tag = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let hosts = Self(tag, turn);
        let front = hosts.of("front");
        ip(&["netns", "add", &front]);
        ip(&["-n", &front, "link", "add", "bridge", "type", "bridge"]);
        ip(&["-n", &front, "addr", "add", "192.0.2.1/24", "dev", "bridge"]);
        ip(&["-n", &front, "link", "set", "bridge", "up"]);
        ip(&["-n", &front, "link", "set", "lo", "up"]);
        for (name, address) in HOSTS {
            let host = hosts.of(name);
            ip(&["netns", "add", &host]);
            ip(&["-n", &front, "link", "add", name, "type", "veth", "peer", "name", "wire", "netns", &host]);
            ip(&["-n", &front, "link", "set", name, "master", "bridge"]);
            ip(&["-n", &host, "addr", "add", &format!("{address}/24"), "dev", "wire"]);
            ip(&["-n", &host, "link", "set", "lo", "up"]);
            ip(&["-n", &host, "link", "set", "wire", "up"]);
            hosts.plug(name, "up");
        }
        hosts
    }

    fn of(&self, name: &str) -> String {
        format!("ptc-{name}-{}", self.0)
    }

    /// Pulls the cable of a host, or puts it in again.
    fn plug(&self, name: &str, state: &str) {
        ip(&["-n", &self.of("front"), "link", "set", name, state]);
    }

    fn start<'a>(&self, folder: &'a TestFolder, name: &str) -> Gateway<'a> {
        let profile = format!("{name}.yaml");
        folder.start_as(name, &["ip", "netns", "exec", &self.of(name)], &["--no-ui", "--profile", &profile])
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in HOSTS.iter().map(|(name, _)| *name).chain(["front"]) {
            // What fails here was never made.
            let _ = Command::new("ip").args(["netns", "del", &self.of(name)]).status();
        }
    }
}

fn write_profiles(folder: &TestFolder) {
    let arguments = ["certs", "--out", "cluster", "--dmz", "d1,d2,d3", "--internal", "i1,i2"];
    let certificates = folder.command(&arguments).output().expect("it runs");
    assert!(certificates.status.success(), "{certificates:?}");
    let tls = |name: &str, peers: &str| {
        format!(
            "tls: {{ certificate: cluster/{name}.pem, key: cluster/{name}.key, ca: cluster/ca.pem, peers: [{peers}] }}"
        )
    };
    let (outer, inner) = HOSTS.split_at(3);
    for (name, at) in outer {
        let tls = tls(name, "i1, i2");
        folder.write(
            &format!("{name}.yaml"),
            &format!(
                "mode: reverse\nhealth: {{ address: '{at}:9464', insecure: true }}\ndmz:\n  link: {{ listen: \
                 'socks+tls://{at}:1443', prepared: 2, {tls} }}\n  services: {{ echo: {{ accept: 'tcp://{at}:8007' }} }}\n"
            ),
        );
    }
    let links: Vec<_> = outer.iter().map(|(_, at)| format!("'socks+tls://{at}:1443'")).collect();
    for (name, _) in inner {
        let (tls, links) = (tls(name, "d1, d2, d3"), links.join(", "));
        folder.write(
            &format!("{name}.yaml"),
            &format!(
                "mode: reverse\ninternal:\n  link: {{ connect: [{links}], prepared: 2, {tls} }}\n  services: {{ echo: {{ \
                 connect: 'echo://' }} }}\n"
            ),
        );
    }
}

fn start_haproxy(folder: &TestFolder, hosts: &Hosts) -> Server {
    let servers: String =
        HOSTS[..3].iter().map(|(name, at)| format!("  server {name} {at}:8007\n")).collect();
    folder.write(
        "haproxy.cfg",
        &format!(
            "defaults\n  mode tcp\n  timeout connect 2s\n  timeout client 1h\n  timeout server 1h\n  retries 3\n  \
             option redispatch 1\n  option httpchk GET /readyz\n  default-server check port 9464 inter 1s fall 1 rise 1\n\
             listen echo\n  bind 192.0.2.1:8007\n{servers}"
        ),
    );
    let file = folder.path("haproxy.cfg").display().to_string();
    let line = ["netns", "exec", &hosts.of("front"), "haproxy", "-db", "-f", &file];
    Server(Command::new("ip").args(line).stderr(Stdio::null()).spawn().expect("HAProxy"))
}

/// Clients of the balancer: some whose sessions stay, and from `go` on one after the other. Each line that it is sent is
/// answered by what has become of them; at the end of its input also by how many of the long sessions are lost.
const CLIENTS: &str = "
import json, socket, sys, threading, time
def session():
    s = socket.create_connection(('192.0.2.1', 8007), 20); s.settimeout(20); return s
def echo(s):
    s.sendall(b'there?'); heard = b''
    while heard != b'there?':
        part = s.recv(16)
        if not part: raise EOFError
        heard += part
over, served, failed = threading.Event(), [0], []
def go():
    while not over.is_set():
        try:
            with session() as s: echo(s)
            served[0] += 1
        except Exception as error: failed.append(repr(error))
        time.sleep(0.02)
def reported(**more): print(json.dumps({'served': served[0], 'failed': len(failed), **more}), flush=True)
stay = []
while len(stay) < int(sys.argv[1]):
    try: s = session(); echo(s); stay.append(s)
    except Exception: time.sleep(0.1)
reported()
sys.stdin.readline(); thread = threading.Thread(target=go); thread.start(); reported()
for line in sys.stdin: reported()
over.set(); thread.join(); lost = 0
for s in stay:
    try: echo(s)
    except Exception: lost += 1
reported(lost=lost)
";

struct Clients {
    child: Child,
    asks: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Clients {
    fn start(hosts: &Hosts) -> Self {
        let sessions = SESSIONS.to_string();
        let line = ["netns", "exec", &hosts.of("front"), "python3", "-c", CLIENTS, &sessions];
        let mut command = Command::new("ip");
        let mut child =
            command.args(line).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3");
        let (asks, answers) = (child.stdin.take(), child.stdout.take().expect("it is piped"));
        let mut clients = Self { child, asks, answers: BufReader::new(answers) };
        clients.answer();
        clients
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("a line");
        serde_json::from_str(&line).expect("JSON")
    }

    /// What has become of those that come one after the other: served, and failed.
    fn counts(&mut self) -> [u64; 2] {
        writeln!(self.asks.as_ref().expect("it is open")).expect("it reads");
        let answer = self.answer();
        ["served", "failed"].map(|key| answer[key].as_u64().expect("a number"))
    }

    /// Once one has been served, some more are, and none fails meanwhile.
    #[track_caller]
    fn are_served(&mut self) {
        for more in [1, 30] {
            let [served, failed] = self.counts();
            until("more clients are served", SOON, || (self.counts()[0] >= served + more).then_some(()));
            assert!(more == 1 || self.counts()[1] == failed, "some were not");
        }
    }

    fn lost(mut self) -> u64 {
        self.asks = None;
        let lost = self.answer()["lost"].as_u64().expect("a number");
        self.child.wait().expect("it ends");
        lost
    }
}

fn count_rows(status: &Value, state: &str) -> usize {
    let rows = status["pools"].as_array().into_iter().flatten();
    rows.filter(|row| row["state"] == state && row["peer"].is_string()).count()
}

/// Each of these gateways has this many peers.
#[track_caller]
fn wait_linked(gateways: &[Gateway<'_>], healthy: usize) {
    for gateway in gateways {
        gateway.wait("its peers", NOTICED + SOON, |status| count_rows(status, "healthy") == healthy);
    }
}

#[test]
fn an_internal_host_that_vanishes_costs_what_it_carried_behind_a_balancer() {
    const NAME: &str = "an_internal_host_that_vanishes_costs_what_it_carried_behind_a_balancer";
    if !can_run(NAME) {
        return;
    }
    if !std::path::Path::new("/usr/sbin/haproxy").is_file() {
        return println!("skipped: {NAME} needs haproxy");
    }
    let (hosts, folder) = (Hosts::new(), TestFolder::with_certificates());
    write_profiles(&folder);
    let dmz = DMZ.map(|name| hosts.start(&folder, name));
    let internal = INTERNAL.map(|name| hosts.start(&folder, name));
    wait_linked(&dmz, 2);
    wait_linked(&internal, 3);
    let _balancer = start_haproxy(&folder, &hosts);
    let mut clients = Clients::start(&hosts);
    let carried = internal[0].status()["totals"]["sessions_open"].as_u64().expect("a number");
    assert_eq!(carried, SESSIONS as u64 / 2, "they are spread evenly");
    clients.counts();
    clients.are_served();

    // No reset and no goodbye: what was on its way there is lost, and noticed by the silence.
    hosts.plug("i1", "down");
    wait_linked(&dmz, 1);
    clients.are_served();
    // Those of the other internal host go on.
    let left = internal[1].status()["totals"]["sessions_open"].as_u64().expect("a number");
    assert!(left >= SESSIONS as u64 - carried, "{left}");
    for gateway in &dmz {
        let ready = |status: &Value| status["health"] == "degraded";
        gateway.wait("it tells that one is missing", SOON, ready);
    }

    // Without any, the DMZ gateways are not ready, and the balancer turns clients away at once.
    hosts.plug("i2", "down");
    wait_linked(&dmz, 0);
    let script = "import socket, time\nfor _ in range(100):\n    s = socket.create_connection(('192.0.2.1', 8007)); \
                  s.settimeout(1)\n    try:\n        s.recv(1); print('closed'); break\n    \
                  except ConnectionResetError: print('closed'); break\n    except TimeoutError: time.sleep(0.1)";
    assert_eq!(run(&hosts.of("front"), &["python3", "-c", script]).trim(), "closed");

    for name in INTERNAL {
        hosts.plug(name, "up");
    }
    wait_linked(&dmz, 2);
    wait_linked(&internal, 3);
    let before = clients.counts()[0];
    until("clients are served again", SOON, || (clients.counts()[0] > before).then_some(()));
    clients.are_served();
    assert_eq!(clients.lost(), SESSIONS as u64, "each was at a host that vanished");
}
