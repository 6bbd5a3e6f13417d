//! HAProxy before two gateways: it takes one out that is not ready, and back in, with no client refused.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    Server,
    clients::Clients,
    ended, has,
    ports::free_ports,
    printed,
    process::{Gateway, SOON, TestFolder, until},
    setup::{Pair, dmz_half, free_port, internal_half},
};

const NAMES: [&str; 2] = ["alpha", "beta"];

/// HAProxy: before two gateways, and as the backend of each, which answers with its name.
struct Balancer {
    front: u16,
    /// The backends of the two.
    backends: [u16; 2],
    accepts: [u16; 2],
    health: [u16; 2],
    stats: String,
}

impl Balancer {
    fn new(folder: &TestFolder) -> Self {
        let [front, first, second, alpha, beta, one, two] = free_ports();
        let stats = folder.path("haproxy.sock").display().to_string();
        Self { front, backends: [first, second], accepts: [alpha, beta], health: [one, two], stats }
    }

    /// Starts it; `front` is how it treats clients.
    fn start(&self, folder: &TestFolder, front: &str) -> Server {
        let Self { stats, front: port, .. } = self;
        let mut config = format!(
            "global\n  stats socket {stats} mode 600 level admin\n\
             defaults\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n  timeout check 5s\n"
        );
        for (name, port) in NAMES.iter().zip(self.backends) {
            config += &format!(
                "frontend {name}\n  mode http\n  bind 127.0.0.1:{port}\n  http-request return status 200 \
                 content-type text/plain string {name}\n"
            );
        }
        config += &format!("listen front\n  bind 127.0.0.1:{port}\n  option httpchk GET /readyz\n{front}");
        for ((name, accept), check) in NAMES.iter().zip(self.accepts).zip(self.health) {
            config +=
                &format!("  server {name} 127.0.0.1:{accept} check port {check} inter 100ms fall 1 rise 1\n");
        }
        folder.write("haproxy.cfg", &config);
        let mut command = Command::new("/usr/sbin/haproxy");
        let file = folder.path("haproxy.cfg").display().to_string();
        Server::start(command.args(["-db", "-f", &file]), *port)
    }

    /// As HAProxy sees it: `UP` or `DOWN`.
    fn is_up(&self, name: &str) -> bool {
        let all = printed(&["sh", "-c", &format!("echo show stat | socat - UNIX-CONNECT:{}", self.stats)]);
        let row = all.lines().find(|row| row.starts_with(&format!("front,{name},"))).expect("its row");
        row.split(',').nth(17) == Some("UP")
    }

    #[track_caller]
    fn until_in(&self, name: &str) {
        until("it is in", SOON, || self.is_up(name).then_some(()));
    }

    #[track_caller]
    fn until_out(&self, name: &str) {
        until("it is out", SOON, || (!self.is_up(name)).then_some(()));
    }

    /// Four at a time, each a connection and a request of its own.
    fn start_clients(&self) -> Vec<Clients> {
        let at = SocketAddr::from(([127, 0, 0, 1], self.front));
        (0..4).map(|_| Clients::start(move || ask_name(at))).collect()
    }

    /// A gateway in direct mode.
    fn direct(&self, at: usize) -> String {
        format!(
            "mode: direct\nhealth: 127.0.0.1:{}\ndrain_delay: 3s\ndmz:\n  services:\n    \
             web: {{ accept: [\"tcp://127.0.0.1:{}\"], connect: \"tcp://127.0.0.1:{}\" }}\n",
            self.health[at], self.accepts[at], self.backends[at]
        )
    }
}

/// Whether a client is answered by either.
fn ask_name(at: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: front\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match NAMES.iter().any(|name| answer.starts_with("HTTP/1.1 200") && answer.ends_with(name)) {
        true => Ok(()),
        false => Err(std::io::Error::other(format!("answered {answer:?}"))),
    }
}

fn has_all(test: &str) -> bool {
    has(test, &["haproxy", "curl", "socat"])
}

#[test]
fn haproxy_takes_an_unready_gateway_out_and_back_in() {
    if !has_all("haproxy_takes_an_unready_gateway_out_and_back_in") {
        return;
    }
    let folder = TestFolder::with_certificates();
    let balancer = Balancer::new(&folder);
    let gateways: Vec<Gateway<'_>> = (0..2)
        .map(|at| {
            folder.write(&format!("{}.yaml", NAMES[at]), &balancer.direct(at));
            folder.start(NAMES[at])
        })
        .collect();
    let _haproxy = balancer.start(&folder, "  mode tcp\n");
    let ask =
        || printed(&["curl", "-sSf", "--max-time", "10", &format!("http://127.0.0.1:{}/", balancer.front)]);
    let command = |gateway: &str, word: &str| {
        let socket = folder.path(&format!("run/{gateway}.sock")).display().to_string();
        let sent = ended(&mut folder.command(&[word, "--admin", &socket]));
        assert!(sent.status.success(), "{sent:?}");
    };
    NAMES.iter().for_each(|name| balancer.until_in(name));
    let both: std::collections::BTreeSet<_> = (0..8).map(|_| ask()).collect();
    assert_eq!(both.len(), 2, "{both:?}");
    // One service that drains is out, and so the gateway has none; what it carries goes on.
    command("alpha", "drain");
    balancer.until_out("alpha");
    for _ in 0..8 {
        assert_eq!(ask(), "beta");
    }
    command("alpha", "reload");
    balancer.until_in("alpha");
    let both: std::collections::BTreeSet<_> = (0..8).map(|_| ask()).collect();
    assert_eq!(both.len(), 2, "{both:?}");
    drop(gateways);
}

/// With `drain_delay` clients are served until HAProxy has seen that the gateway stops.
#[test]
fn haproxy_loses_no_client_of_a_gateway_that_stops_and_comes_back() {
    if !has_all("haproxy_loses_no_client_of_a_gateway_that_stops_and_comes_back") {
        return;
    }
    let folder = TestFolder::with_certificates();
    let balancer = Balancer::new(&folder);
    (0..2).for_each(|at| folder.write(&format!("{}.yaml", NAMES[at]), &balancer.direct(at)));
    let mut gateways = NAMES.map(|name| Some(folder.start(name)));
    let _haproxy = balancer.start(&folder, "  mode tcp\n");
    NAMES.iter().for_each(|name| balancer.until_in(name));
    let clients = balancer.start_clients();
    for (at, name) in NAMES.iter().enumerate() {
        clients.iter().for_each(Clients::some_more);
        let mut gateway = gateways[at].take().expect("it runs");
        if at == 0 {
            let pid = Pid::from_raw(gateway.child.id() as i32).expect("a process has an id");
            kill_process(pid, Signal::TERM).expect("the signal is sent");
        } else {
            let socket = folder.path(&format!("run/{name}.sock")).display().to_string();
            let sent = ended(&mut folder.command(&["stop", "--admin", &socket]));
            assert!(sent.status.success(), "{sent:?}");
        }
        balancer.until_out(name);
        let status = until("it ends", SOON, || gateway.child.try_wait().expect("ours"));
        assert_eq!(status.code(), Some(0));
        clients.iter().for_each(Clients::some_more);
        gateways[at] = Some(folder.start(name));
        balancer.until_in(name);
    }
    clients.iter().for_each(Clients::some_more);
    clients.into_iter().for_each(Clients::end);
}

/// A DMZ gateway that has lost its links closes its port, and HAProxy asks the other one for whoever was not answered.
#[test]
fn haproxy_loses_no_request_of_a_gateway_whose_inside_is_killed() {
    if !has_all("haproxy_loses_no_request_of_a_gateway_whose_inside_is_killed") {
        return;
    }
    let folder = TestFolder::with_certificates();
    let balancer = Balancer::new(&folder);
    let mut pairs: Vec<_> = (0..2).map(|at| start_pair(&folder, &balancer, at)).collect();
    let front = "  mode http\n  retries 3\n  option redispatch 1\n  retry-on conn-failure empty-response\n";
    let _haproxy = balancer.start(&folder, front);
    NAMES.iter().for_each(|name| balancer.until_in(name));
    let clients = balancer.start_clients();
    for signal in [Signal::KILL, Signal::TERM] {
        clients.iter().for_each(Clients::some_more);
        let mut inside = pairs[0].1.take().expect("it runs");
        let pid = Pid::from_raw(inside.child.id() as i32).expect("a process has an id");
        kill_process(pid, signal).expect("the signal is sent");
        balancer.until_out("alpha");
        until("it ends", SOON, || inside.child.try_wait().expect("ours"));
        until("its port is closed", SOON, || {
            TcpStream::connect(("127.0.0.1", balancer.accepts[0])).is_err().then_some(())
        });
        clients.iter().for_each(Clients::some_more);
        pairs[0].1 = Some(folder.start("inside-alpha"));
        balancer.until_in("alpha");
    }
    clients.iter().for_each(Clients::some_more);
    clients.into_iter().for_each(Clients::end);
}

/// Both halves of a gateway's pair.
fn start_pair<'a>(
    folder: &'a TestFolder,
    balancer: &Balancer,
    at: usize,
) -> (Gateway<'a>, Option<Gateway<'a>>) {
    let (name, inside) = (NAMES[at], format!("inside-{}", NAMES[at]));
    let dmz = dmz_half("127.0.0.1:0", &["web"])
        .replace("tcp://127.0.0.1:0", &format!("tcp://127.0.0.1:{}", balancer.accepts[at]))
        .replace("dmz:\n", "dmz:\n  unready: refuse\n");
    folder.write(&format!("{name}.yaml"), &format!("health: 127.0.0.1:{}\n{dmz}", balancer.health[at]));
    let dmz = folder.start(name);
    let backend = format!("tcp://127.0.0.1:{}", balancer.backends[at]);
    let link = format!("127.0.0.1:{}", dmz.link_port());
    folder.write(&format!("{inside}.yaml"), &internal_half(&link, &[("web", &backend)]));
    let internal = folder.start(&inside);
    dmz.wait_healthy();
    (dmz, Some(internal))
}

/// How a backend fails behind its answer.
#[derive(Debug, Clone, Copy)]
enum Failing {
    /// It closes with input unread, of which its kernel makes a reset.
    InputUnread,
    /// It resets right behind its answer.
    Reset,
    /// It resets within its answer.
    Within,
}

const ANSWER_BYTES: usize = 30_000;
const TIMES: usize = 20;

fn start_failing(failing: Failing) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            // A word of what was said; the rest stays unread.
            let mut word = [0; 4];
            let _ = stream.read_exact(&mut word);
            let answer = if matches!(failing, Failing::Within) { ANSWER_BYTES / 2 } else { ANSWER_BYTES };
            let _ = stream.write_all(&vec![b'z'; answer]);
            if !matches!(failing, Failing::InputUnread) {
                let socket = socket2::SockRef::from(&stream);
                socket.set_linger(Some(Duration::ZERO)).expect("an option");
            }
        }
    });
    port
}

/// What a client gets of this many answers, in bytes.
fn answered(at: SocketAddr) -> usize {
    let received = (0..TIMES).map(|_| {
        let mut client = TcpStream::connect(at).expect("the port is open");
        client.set_read_timeout(Some(SOON)).expect("a timeout is set");
        client.write_all(&[b'a'; 2000]).expect("it is sent");
        let mut bytes = Vec::new();
        // It ends in a reset, behind what came.
        let _ = client.read_to_end(&mut bytes);
        bytes.len()
    });
    received.sum()
}

/// A client gets of the answer of a backend that fails at least what it gets through HAProxy, in each mode.
#[test]
fn no_more_is_lost_of_an_answer_than_by_haproxy() {
    if !has("no_more_is_lost_of_an_answer_than_by_haproxy", &["haproxy"]) {
        return;
    }
    let folder = TestFolder::with_certificates();
    let all = [Failing::InputUnread, Failing::Reset, Failing::Within];
    let backends = all.map(start_failing);
    let fronts = all.map(|_| free_port());
    let mut config = String::from(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n",
    );
    for (front, backend) in fronts.iter().zip(backends) {
        config += &format!("listen at-{front}\n  bind 127.0.0.1:{front}\n  server one 127.0.0.1:{backend}\n");
    }
    folder.write("haproxy.cfg", &config);
    let mut command = Command::new("/usr/sbin/haproxy");
    let file = folder.path("haproxy.cfg").display().to_string();
    let _haproxy = Server::start(command.args(["-db", "-f", &file]), fronts[0]);
    let names = ["unread", "reset", "within"];
    let addresses = backends.map(|port| format!("tcp://127.0.0.1:{port}"));
    let services: Vec<_> = names.into_iter().zip(addresses.iter().map(String::as_str)).collect();
    let direct: String = services
        .iter()
        .map(|(name, to)| format!("    {name}: {{ accept: [\"tcp://127.0.0.1:0\"], connect: \"{to}\" }}\n"))
        .collect();
    folder.write("direct.yaml", &format!("mode: direct\ndmz:\n  services:\n{direct}"));
    let direct = folder.start("direct");
    let pair = Pair::reverse(&folder, &services);
    for ((failing, name), front) in all.into_iter().zip(names).zip(fronts) {
        let theirs = answered(([127, 0, 0, 1], front).into());
        for (mode, gateway) in [("direct", &direct), ("reverse", &pair.dmz)] {
            let ours = answered(gateway.accept(name));
            assert!(ours >= theirs, "{failing:?}, {mode}: {ours} bytes, {theirs} by HAProxy");
        }
    }
}
