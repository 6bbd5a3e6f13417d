//! mitmproxy as a proxy that ends the outer TLS of links inside WebSockets and reads what is in them, which is the TLS that the
//! gateways speak with each other. What links do, they do through it: in both modes.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use serde_json::Value;

use crate::{
    Server, ended,
    link_balancers::{Session, admin_command, check_all, done, is_healthy, oldest_link},
    ports::free_ports,
    process::{Gateway, SOON, TestFolder, until},
};

const SESSIONS: usize = 40;
const ROUNDS: usize = 10;

/// The configuration of the proxy: where the gateway of that name is, and to write down what it reads of each
/// message of a WebSocket: the host and path, the first two bytes of what each side sends, and bytes of a
/// session if they stand there as they are.
const ADDON: &str = r#"
import pathlib

SEEN = pathlib.Path(__file__).parent / "seen"


def note(line):
    with SEEN.open("a") as seen:
        seen.write(line + "\n")


def server_connect(data):
    host, port = data.server.address
    note(f"asked for {host}:{port}")
    data.server.address = ("127.0.0.1", port)


def websocket_message(flow):
    message = flow.websocket.messages[-1]
    if sum(message.from_client == other.from_client for other in flow.websocket.messages) == 1:
        side = "client" if message.from_client else "server"
        note(f"{flow.request.pretty_host}{flow.request.path} {side} {message.content[:2].hex()}")
    if b"n" * 100 in message.content:
        note("bytes of a session")
"#;

/// The proxy, and the ports beside its own.
struct Inspected {
    _proxy: Server,
    proxy: u16,
    link: u16,
}

impl Inspected {
    /// `trusted` is the CA that the proxy knows of the gateway's outer certificate.
    fn start(program: &Path, folder: &TestFolder, trusted: &str) -> Self {
        let made = ended(&mut folder.command(&["certs", "--out", "front", "--dmz", "gate.test"]));
        assert!(made.status.success(), "{made:?}");
        let [proxy, link] = free_ports();
        fs::create_dir(folder.path("proxy")).expect("a folder");
        folder.write("proxy/addon.py", ADDON);
        let mut command = Command::new(program);
        let at = |name: &str| folder.path(name).display().to_string();
        let set =
            [format!("confdir={}", at("proxy")), format!("ssl_verify_upstream_trusted_ca={}", at(trusted))];
        command.args(["--mode", &format!("regular@127.0.0.1:{proxy}"), "-s", &at("proxy/addon.py")]);
        command.args(set.iter().flat_map(|option| ["--set", option])).current_dir(folder.path("proxy"));
        let inspected = Self { _proxy: Server::start(&mut command, proxy), proxy, link };
        let ca = folder.path("proxy/mitmproxy-ca-cert.pem");
        until("it has a CA of its own", SOON, || ca.is_file().then_some(()));
        inspected
    }

    /// Where the half that dials sends what the other takes; `outer` is what it knows of the proxy.
    fn dialling(&self, outer: &str) -> String {
        let Self { proxy, link, .. } = self;
        format!(
            "    connect: 'socks+wss://gate.test:{link}/link'\n    via: 'http://127.0.0.1:{proxy}'\n{outer}"
        )
    }

    fn listening(&self) -> String {
        format!(
            "    listen: 'socks+wss://127.0.0.1:{}/link'\n    \
             outer: {{ certificate: front/dmz.pem, key: front/dmz.key }}\n",
            self.link
        )
    }
}

const KNOWN: &str = "    outer: { ca: proxy/mitmproxy-ca-cert.pem, name: gate.test }\n";

fn dmz_half(mode: &str, link: &str) -> String {
    format!(
        "name: outside\nconfine: off\nmode: {mode}\ndmz:\n  link:\n{link}    prepared: 2\n    \
         tls: {{ certificate: pki/dmz.pem, key: pki/dmz.key, ca: pki/ca.pem, peers: [internal] }}\n  services:\n    \
         echo: {{ accept: 'tcp://127.0.0.1:0' }}\n    count: {{ accept: 'tcp://127.0.0.1:0' }}\n"
    )
}

fn internal_half(mode: &str, link: &str, count: SocketAddr) -> String {
    format!(
        "name: inside\nconfine: off\nmode: {mode}\ninternal:\n  link:\n{link}    prepared: 2\n    \
         tls: {{ certificate: pki/internal.pem, key: pki/internal.key, ca: pki/ca.pem, peers: [dmz] }}\n  services:\n    \
         echo: {{ connect: 'echo://' }}\n    count: {{ connect: 'tcp://{count}' }}\n"
    )
}

#[test]
fn links_that_are_dialled_from_inside_go_through_mitmproxy() {
    check_links("links_that_are_dialled_from_inside_go_through_mitmproxy", "reverse");
}

#[test]
fn links_that_are_dialled_from_outside_go_through_mitmproxy() {
    check_links("links_that_are_dialled_from_outside_go_through_mitmproxy", "forward");
}

#[test]
fn an_unknown_ca_of_mitmproxy_is_reported() {
    let Some(program) = mitmdump("an_unknown_ca_of_mitmproxy_is_reported") else { return };
    let folder = TestFolder::with_certificates();
    let inspected = Inspected::start(&program, &folder, "front/ca.pem");
    let count = serve_counts();
    let profile = |outer| internal_half("reverse", &inspected.dialling(outer), count);
    folder.write("outside.yaml", &dmz_half("reverse", &inspected.listening()));
    let _outside = folder.start("outside");
    let other =
        ["outer TLS: its certificate comes from another CA than the `ca` of `outer`", "`CN=mitmproxy,"];
    folder.write("inside.yaml", &profile(""));
    // By the system's authorities.
    drop(start_and_notice(&folder, &other));
    folder.write("inside.yaml", &profile("    outer: { ca: front/ca.pem, name: gate.test }\n"));
    let inside = start_and_notice(&folder, &other);
    // The proxy was not asked for the path of links.
    assert!(!seen(&folder).contains("/link"), "{}", seen(&folder));
    let sent = admin_command(&folder, "inside", &["verify", "--profile", "inside.yaml"]);
    let sent = String::from_utf8_lossy(&sent.stdout).into_owned();
    assert!(
        sent.contains("take up the CA of the proxy or balancer on the way in the link's `outer`"),
        "{sent}"
    );
    folder.write("inside.yaml", &profile(KNOWN));
    done(&folder, "inside", &["reload"]);
    inside.wait_healthy();
}

#[test]
fn where_mitmproxy_does_not_know_the_ca_of_the_dmz_half_it_is_the_one_to_ask() {
    let test = "where_mitmproxy_does_not_know_the_ca_of_the_dmz_half_it_is_the_one_to_ask";
    let Some(program) = mitmdump(test) else { return };
    let folder = TestFolder::with_certificates();
    let inspected = Inspected::start(&program, &folder, "pki/ca.pem");
    folder.write("outside.yaml", &dmz_half("reverse", &inspected.listening()));
    folder.write("inside.yaml", &internal_half("reverse", &inspected.dialling(KNOWN), serve_counts()));
    let _outside = folder.start("outside");
    start_and_notice(
        &folder,
        &["it answers 502 Bad Gateway: a proxy on the way cannot reach the other gateway"],
    );
}

/// Starts the internal half, whose links fail by these words.
fn start_and_notice<'a>(folder: &'a TestFolder, words: &[&str]) -> Gateway<'a> {
    let inside = folder.start("inside");
    let status = inside.wait("it is reported", SOON, |status| {
        let reported = status["pools"][0]["last_error"].as_str().unwrap_or_default();
        words.iter().all(|words| reported.contains(words))
    });
    assert_eq!(status["pools"][0]["ready"], 0, "{status:#}");
    inside
}

fn mitmdump(test: &str) -> Option<PathBuf> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/mitmproxy/bin/mitmdump");
    if !program.is_file() {
        println!("skipped: {test} needs mitmproxy in target/mitmproxy");
    }
    program.is_file().then_some(program)
}

fn seen(folder: &TestFolder) -> String {
    fs::read_to_string(folder.path("proxy/seen")).expect("it is there")
}

/// Reads what a client says to its end, and answers then with how much it was.
fn serve_counts() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut sent = Vec::new();
                if stream.read_to_end(&mut sent).is_ok() {
                    // Whoever asked may have gone.
                    let _ = stream.write_all(sent.len().to_string().as_bytes());
                }
            });
        }
    });
    at
}

fn check_links(test: &str, mode: &str) {
    let Some(program) = mitmdump(test) else { return };
    let folder = TestFolder::with_certificates();
    let inspected = Inspected::start(&program, &folder, "front/ca.pem");
    let (mut outside, mut inside) = (inspected.listening(), inspected.dialling(KNOWN));
    if mode == "forward" {
        std::mem::swap(&mut outside, &mut inside);
    }
    folder.write("outside.yaml", &dmz_half(mode, &outside));
    folder.write("inside.yaml", &internal_half(mode, &inside, serve_counts()));
    let (outside, inside) = (folder.start("outside"), folder.start("inside"));
    for (gateway, peer) in [(&inside, "dmz"), (&outside, "internal")] {
        let status = gateway.wait_healthy();
        // The inner certificate shows who is at the other end.
        assert_eq!(status["pools"][0]["peer"], peer, "{status:#}");
    }
    let at = outside.accept("echo");
    let mut sessions: Vec<_> = (0..SESSIONS).map(|_| Session::open(at)).collect();
    check_at_once(&mut sessions);
    check_half_close(outside.accept("count"));
    check_verified(&folder, "inside");
    check_replaced(&folder, &inside, &outside);
    check_all(&mut sessions, b'r');
    check_seen(&folder, inspected.link);
    check_drain(&folder, &outside, sessions);
}

/// All of them are busy both ways together.
fn check_at_once(sessions: &mut [Session]) {
    thread::scope(|scope| {
        for session in sessions {
            scope.spawn(|| (0..ROUNDS).for_each(|_| session.check(b'n')));
        }
    });
}

fn check_half_close(at: SocketAddr) {
    let mut client = TcpStream::connect(at).expect("the port is open");
    client.set_read_timeout(Some(SOON)).expect("a timeout is set");
    client.write_all(&[b'n'; 300_000]).expect("it is sent");
    client.shutdown(Shutdown::Write).expect("the other way stays open");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("it is answered, and ends");
    assert_eq!(answer, "300000");
}

fn check_verified(folder: &TestFolder, gateway: &str) {
    let sent = admin_command(folder, gateway, &["verify", "--json", "--profile", &format!("{gateway}.yaml")]);
    let report: Value = serde_json::from_slice(&sent.stdout).expect("a report");
    assert!(report["passed"] == true && sent.status.success(), "{report:#}");
}

/// Links of other terms take the place of those that stand, which end when their sessions do.
fn check_replaced(folder: &TestFolder, inside: &Gateway<'_>, outside: &Gateway<'_>) {
    let text = fs::read_to_string(folder.path("inside.yaml")).expect("it is there");
    folder.write("inside.yaml", &text.replace("prepared: 2\n", "prepared: 2\n    sessions_per_link: 100\n"));
    let before = oldest_link(&inside.status());
    done(folder, "inside", &["reload"]);
    inside.wait("its links were replaced", SOON, |status| oldest_link(status) < before && is_healthy(status));
    outside.wait_healthy();
}

/// The proxy has read all links, and has found TLS.
fn check_seen(folder: &TestFolder, link: u16) {
    let seen = seen(folder);
    assert!(seen.contains(&format!("asked for gate.test:{link}\n")), "{seen}");
    let read: Vec<_> = seen.lines().filter(|line| line.contains("/link ")).collect();
    for side in ["client", "server"] {
        assert!(read.iter().filter(|line| line.contains(side)).count() >= 2, "{seen}");
    }
    assert!(read.iter().all(|line| line.ends_with(" 1603")), "{seen}");
    assert!(!seen.contains("bytes of a session"), "{seen}");
}

fn check_drain(folder: &TestFolder, outside: &Gateway<'_>, mut sessions: Vec<Session>) {
    let at = outside.accept("echo");
    done(folder, "outside", &["drain", "echo"]);
    let refused = || {
        let mut client = TcpStream::connect(at).ok()?;
        client.set_read_timeout(Some(SOON)).ok()?;
        client.read(&mut [0]).is_err().then_some(())
    };
    until("nobody new comes in", SOON, refused);
    check_all(&mut sessions, b'd');
    // The last bytes of all come before the gateway ends.
    thread::scope(|scope| {
        let stopping = scope.spawn(|| done(folder, "outside", &["stop"]));
        outside.wait("it drains", SOON, |status| status["phase"] == "draining" || status.is_null());
        check_all(&mut sessions, b'l');
        sessions.clear();
        stopping.join().expect("it has stopped");
    });
}
