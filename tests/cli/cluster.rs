//! A cluster of unequal halves: three DMZ gateways and two internal ones. Sessions are spread evenly, any one gateway
//! may be killed, and clients lose no more than what that one was carrying.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    connect,
    ports::free_ports,
    process::{Gateway, SOON, TestFolder, until},
    run,
    setup::{dmz_half, internal_half},
    upgrade::ask,
};

const DMZ: [&str; 3] = ["d1", "d2", "d3"];
const INTERNAL: [&str; 2] = ["i1", "i2"];
/// Open at each DMZ gateway.
const SESSIONS: usize = 20;

/// What the balancer does: clients one after the other, in turn at each DMZ gateway, and at the next if nobody listens.
struct Clients {
    served: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: thread::JoinHandle<Vec<String>>,
}

impl Clients {
    fn start(addresses: [SocketAddr; 3]) -> Self {
        let (served, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, over) = (served.clone(), is_over.clone());
        let thread = thread::spawn(move || {
            let mut failures = Vec::new();
            for turn in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let order = (0..3).map(|next| addresses[(turn + next) % 3]);
                match ask_in_order(order) {
                    Ok(()) => drop(count.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => failures.push(error),
                }
            }
            failures
        });
        Self { served, is_over, thread }
    }

    /// Waits until each DMZ gateway has had its turn several times.
    #[track_caller]
    fn some_more(&self) {
        let before = self.served.load(Ordering::Relaxed);
        until("more clients are served", SOON, || {
            (self.served.load(Ordering::Relaxed) >= before + 30).then_some(())
        });
    }

    /// The clients that were not served.
    fn end(self) -> Vec<String> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic")
    }
}

fn ask_in_order(addresses: impl Iterator<Item = SocketAddr>) -> Result<(), String> {
    let mut refused = String::new();
    for address in addresses {
        match ask(address) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                refused += &format!("{address}: {error}; ");
            }
            Err(error) => return Err(format!("{address}: {error}")),
        }
    }
    Err(refused)
}

/// A session that stays open, and the gateway that it came in by.
struct LongSession {
    stream: TcpStream,
    dmz: usize,
}

impl LongSession {
    fn open(dmz: usize, at: SocketAddr) -> Self {
        let mut session = Self { stream: connect(at), dmz };
        assert!(session.answers(), "d{}", dmz + 1);
        session
    }

    fn answers(&mut self) -> bool {
        let mut answer = [0; 12];
        let answered =
            self.stream.write_all(b"still there?").and_then(|()| self.stream.read_exact(&mut answer));
        assert!(!answered.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "it hangs");
        answered.is_ok() && answer == *b"still there?"
    }
}

/// The peers of the rows with links, each with its sessions.
fn shares(status: &Value) -> Vec<(String, u64)> {
    let rows = status["pools"].as_array().into_iter().flatten();
    let rows = rows.filter(|row| row["state"] == "healthy");
    let share = |row: &Value| Some((row["peer"].as_str()?.to_owned(), row["sessions"].as_u64()?));
    let mut shares: Vec<_> = rows.filter_map(share).collect();
    shares.sort_unstable();
    shares
}

fn sessions(status: &Value) -> u64 {
    shares(status).iter().map(|(_, sessions)| sessions).sum()
}

#[track_caller]
fn wait_linked(gateway: &Gateway, peers: &[&str]) {
    gateway.wait("links to each peer", SOON, |status| {
        let shares = shares(status);
        shares.iter().map(|(peer, _)| peer.as_str()).eq(peers.iter().copied())
    });
}

struct Cluster<'a> {
    folder: &'a TestFolder,
    accepts: [SocketAddr; 3],
    /// The DMZ gateways, and then the internal ones.
    gateways: Vec<Gateway<'a>>,
}

const NAMES: [&str; 5] = ["d1", "d2", "d3", "i1", "i2"];

impl<'a> Cluster<'a> {
    fn start(folder: &'a TestFolder, mode: &str) -> Self {
        let arguments = ["certs", "--out", "cluster", "--dmz", "d1,d2,d3", "--internal", "i1,i2"];
        assert_eq!(run(folder, &arguments).code, Some(0));
        let [a, b, c, links @ ..] = free_ports::<6>();
        let accepts = [a, b, c];
        // The gateways of one half listen, those of the other one dial each of them.
        let at = |port: u16| format!("\"socks+tls://127.0.0.1:{port}\"");
        let link_of = |half: &[&str], at_half: usize| match (mode, half.len()) {
            ("reverse", 3) | ("forward", 2) => format!("listen: {}", at(links[at_half])),
            _ => format!(
                "connect: [{}]",
                links[..5 - half.len()].iter().map(|port| at(*port)).collect::<Vec<_>>().join(", ")
            ),
        };
        for (number, (name, accept)) in DMZ.iter().zip(accepts).enumerate() {
            let text = dmz_half("LINK", &["echo"]).replace("mode: reverse", &format!("mode: {mode}"));
            let text = text.replace("listen: \"socks+tls://LINK\"", &link_of(&DMZ, number));
            let text = text.replace("tcp://127.0.0.1:0", &format!("tcp://127.0.0.1:{accept}"));
            folder.write(&format!("{name}.yaml"), &named(&text, "dmz", name, "internal", "i1, i2"));
        }
        for (number, name) in INTERNAL.iter().enumerate() {
            let text = internal_half("LINK", &[("echo", "echo://")])
                .replace("mode: reverse", &format!("mode: {mode}"));
            let text = text.replace("connect: \"socks+tls://LINK\"", &link_of(&INTERNAL, number));
            folder.write(&format!("{name}.yaml"), &named(&text, "internal", name, "dmz", "d1, d2, d3"));
        }
        let gateways = NAMES.iter().map(|name| folder.start(name)).collect();
        let accepts = accepts.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let cluster = Self { folder, accepts, gateways };
        cluster.wait_whole();
        cluster
    }

    #[track_caller]
    fn wait_whole(&self) {
        self.gateways[..3].iter().for_each(|dmz| wait_linked(dmz, &INTERNAL));
        self.gateways[3..].iter().for_each(|internal| wait_linked(internal, &DMZ));
    }

    /// Kills one under clients, and starts it again. Its own sessions end, and no others.
    fn survives(&mut self, victim: usize, sessions_open: &mut Vec<LongSession>) {
        let name = NAMES[victim];
        let carried = sessions(&self.gateways[victim].status()) as usize;
        assert!(carried > 0, "{name}");
        let clients = Clients::start(self.accepts);
        clients.some_more();
        self.gateways[victim].signal(Signal::KILL);
        clients.some_more();
        let other = if victim < 3 { 3 } else { 0 };
        self.is_missed(name, other);
        clients.some_more();
        let failures = clients.end();
        // They come one after the other, so the dead one was carrying one of them at most.
        assert!(failures.len() <= 1, "{name}: {failures:?}");
        let (alive, lost): (Vec<_>, Vec<_>) = std::mem::take(sessions_open)
            .into_iter()
            .map(|mut session| (session.answers(), session))
            .partition(|(answers, _)| *answers);
        assert_eq!(lost.len(), carried, "{name}");
        if victim < 3 {
            assert!(lost.iter().all(|(_, session)| session.dmz == victim), "{name}");
        }
        self.gateways[victim] = self.folder.start(name);
        self.wait_whole();
        sessions_open.extend(alive.into_iter().map(|(_, session)| session));
        sessions_open.extend(
            lost.iter().map(|(_, session)| LongSession::open(session.dmz, self.accepts[session.dmz])),
        );
    }

    /// Whoever has lost it serves still, and says who is missing.
    fn is_missed(&self, victim: &str, other: usize) {
        let name = NAMES[other];
        let socket = format!("run/{name}.sock");
        self.gateways[other].wait("its row is down", SOON, |status| {
            let mut rows = status["pools"].as_array().into_iter().flatten();
            rows.any(|row| row["peer"] == victim && row["state"] == "down")
        });
        let ready = run(self.folder, &["status", "--ready", "--admin", &socket]);
        assert_eq!(ready.code, Some(0), "{victim}: {}", ready.out);
        // Whether it is ready is judged a moment after its rows are known.
        until("it is strictly not ready", SOON, || {
            let strict = run(self.folder, &["status", "--ready", "--strict", "--admin", &socket]);
            (strict.code == Some(1) && strict.out.contains("no link ")).then_some(())
        });
    }
}

/// A profile of the halves' common certificates, with those of one gateway in their place.
fn named(text: &str, half: &str, name: &str, peer: &str, peers: &str) -> String {
    let text = text.replace(&format!("pki/{half}."), &format!("cluster/{name}."));
    let text = text.replace("pki/ca.pem", "cluster/ca.pem");
    text.replace(&format!("peers: [{peer}]"), &format!("peers: [{peers}]"))
}

#[test]
fn sessions_are_spread_evenly_and_any_one_gateway_is_killed_at_no_cost_to_the_others() {
    check_each_is_killed("reverse");
}

#[test]
fn any_one_gateway_is_killed_at_no_cost_to_the_others_where_the_dmz_gateways_dial() {
    check_each_is_killed("forward");
}

fn check_each_is_killed(mode: &str) {
    let folder = TestFolder::with_certificates();
    let mut cluster = Cluster::start(&folder, mode);
    let mut open: Vec<_> =
        (0..3 * SESSIONS).map(|turn| LongSession::open(turn % 3, cluster.accepts[turn % 3])).collect();
    let share = SESSIONS as u64 / 2;
    for (gateway, name) in cluster.gateways.iter().zip(NAMES) {
        let peers: &[&str] = if DMZ.contains(&name) { &INTERNAL } else { &DMZ };
        let even: Vec<_> = peers.iter().map(|peer| ((*peer).to_owned(), share)).collect();
        gateway.wait("even shares", SOON, |status| shares(status) == even);
    }
    for victim in 0..5 {
        cluster.survives(victim, &mut open);
    }
}

#[test]
fn verify_names_each_peer_and_the_one_that_is_missing() {
    let folder = TestFolder::with_certificates();
    let cluster = Cluster::start(&folder, "reverse");
    let seen = |at: usize| {
        let (profile, socket) = (format!("{}.yaml", NAMES[at]), format!("run/{}.sock", NAMES[at]));
        let verified = run(&folder, &["verify", "--json", "--profile", &profile, "--admin", &socket]);
        let report: Value =
            serde_json::from_str(&verified.out).unwrap_or_else(|error| panic!("{error}: {}", verified.err));
        let mut steps = report["steps"].as_array().expect("steps").iter();
        let step = steps.find(|step| step["step"] == "reverse").expect("the step of the mode");
        let text = |key: &str| step[key].as_str().unwrap_or_default().to_owned();
        [text("result"), text("seen")]
    };
    for (at, peers) in [(0, &INTERNAL[..]), (3, &DMZ[..])] {
        let [result, verified] = seen(at);
        assert!(result == "pass" && peers.iter().all(|peer| verified.contains(peer)), "{verified}");
    }
    for (victim, at) in [(1, 3), (4, 0)] {
        cluster.gateways[victim].signal(Signal::KILL);
        let name = NAMES[victim];
        cluster.gateways[at].wait("its row is down", SOON, |status| {
            let mut rows = status["pools"].as_array().into_iter().flatten();
            rows.any(|row| row["peer"] == name && row["state"] == "down")
        });
        let [result, verified] = seen(at);
        let (missing, well) = verified.split_once("; well: ").unwrap_or_else(|| panic!("{verified}"));
        assert!(result == "fail" && missing.contains(name) && !well.contains(name), "{verified}");
    }
}
