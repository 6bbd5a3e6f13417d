//! HAProxy before two gateways: it takes one out that is not ready, and back in, with no client refused.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    thread,
    time::Duration,
};

use crate::{
    Server, ended, has, printed,
    process::{Gateway, Place, SOON, until},
    setup::{Pair, free_port},
};

#[test]
fn haproxy_takes_an_unready_gateway_out_and_back_in() {
    if !has("haproxy_takes_an_unready_gateway_out_and_back_in", &["haproxy", "curl", "socat"]) {
        return;
    }
    let place = Place::with_certificates();
    let at = |name: &str| place.path(name).display().to_string();
    let (front, backends) = (free_port(), [free_port(), free_port()]);
    let names = ["alpha", "beta"];
    let stats = at("haproxy.sock");
    let mut config = format!(
        "global\n  stats socket {stats} mode 600 level admin\n\
         defaults\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n"
    );
    for (name, port) in names.iter().zip(backends) {
        config += &format!(
            "frontend {name}\n  mode http\n  bind 127.0.0.1:{port}\n  http-request return status 200 \
             content-type text/plain string {name}\n"
        );
    }
    config += &format!("listen front\n  mode tcp\n  bind 127.0.0.1:{front}\n  option httpchk GET /readyz\n");
    let gateways: Vec<Gateway<'_>> = names
        .iter()
        .zip(backends)
        .map(|(name, port)| {
            let text = format!(
                "mode: direct\nhealth: 127.0.0.1:0\ndmz:\n  services:\n    \
                 echo: {{ accept: [\"tcp://127.0.0.1:0\"], connect: \"tcp://127.0.0.1:{port}\" }}\n"
            );
            place.write(&format!("{name}.yaml"), &text);
            place.start(name)
        })
        .collect();
    for (name, gateway) in names.iter().zip(&gateways) {
        let status = gateway.status();
        let check = status["monitored_at"][0].as_str().and_then(|at| at.rsplit(':').next()).expect("a port");
        let accept = gateway.accept("echo");
        config += &format!("  server {name} {accept} check port {check} inter 100ms fall 1 rise 1\n");
    }
    place.write("haproxy.cfg", &config);
    let mut command = Command::new("/usr/sbin/haproxy");
    let _haproxy = Server::start(command.args(["-db", "-f", &at("haproxy.cfg")]), front);
    // As HAProxy sees them: `UP` or `DOWN`.
    let is_up = |name: &str| {
        let all = printed(&["sh", "-c", &format!("echo show stat | socat - UNIX-CONNECT:{stats}")]);
        let row =
            all.lines().find(|row| row.starts_with(&format!("front,{name},"))).expect("its row").to_owned();
        row.split(',').nth(17) == Some("UP")
    };
    let ask = || printed(&["curl", "-sSf", "--max-time", "10", &format!("http://127.0.0.1:{front}/")]);
    let command = |gateway: &str, word: &str| {
        let socket = at(&format!("run/{gateway}.sock"));
        let said = ended(&mut place.command(&[word, "--admin", &socket]));
        assert!(said.status.success(), "{said:?}");
    };
    until("both are in", SOON, || (is_up("alpha") && is_up("beta")).then_some(()));
    let both: std::collections::BTreeSet<_> = (0..8).map(|_| ask()).collect();
    assert_eq!(both.len(), 2, "{both:?}");
    // One service that drains is out, and so the gateway has none; what it carries goes on.
    command("alpha", "drain");
    until("it is out", SOON, || (!is_up("alpha")).then_some(()));
    for _ in 0..8 {
        assert_eq!(ask(), "beta");
    }
    command("alpha", "reload");
    until("it is back in", SOON, || is_up("alpha").then_some(()));
    let both: std::collections::BTreeSet<_> = (0..8).map(|_| ask()).collect();
    assert_eq!(both.len(), 2, "{both:?}");
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

/// What a client gets of so many answers, in bytes.
fn answered(at: SocketAddr) -> usize {
    let heard = (0..TIMES).map(|_| {
        let mut client = TcpStream::connect(at).expect("the port is open");
        client.set_read_timeout(Some(SOON)).expect("a timeout is set");
        client.write_all(&[b'a'; 2000]).expect("it is sent");
        let mut bytes = Vec::new();
        // It ends in a reset, behind what came.
        let _ = client.read_to_end(&mut bytes);
        bytes.len()
    });
    heard.sum()
}

/// A client gets of the answer of a backend that fails at least what it gets through HAProxy, in each mode.
#[test]
fn no_more_is_lost_of_an_answer_than_by_haproxy() {
    if !has("no_more_is_lost_of_an_answer_than_by_haproxy", &["haproxy"]) {
        return;
    }
    let place = Place::with_certificates();
    let all = [Failing::InputUnread, Failing::Reset, Failing::Within];
    let backends = all.map(start_failing);
    let fronts = all.map(|_| free_port());
    let mut config = String::from(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n",
    );
    for (front, backend) in fronts.iter().zip(backends) {
        config += &format!("listen at-{front}\n  bind 127.0.0.1:{front}\n  server one 127.0.0.1:{backend}\n");
    }
    place.write("haproxy.cfg", &config);
    let mut command = Command::new("/usr/sbin/haproxy");
    let file = place.path("haproxy.cfg").display().to_string();
    let _haproxy = Server::start(command.args(["-db", "-f", &file]), fronts[0]);
    let names = ["unread", "reset", "within"];
    let addresses = backends.map(|port| format!("tcp://127.0.0.1:{port}"));
    let services: Vec<_> = names.into_iter().zip(addresses.iter().map(String::as_str)).collect();
    let direct: String = services
        .iter()
        .map(|(name, to)| format!("    {name}: {{ accept: [\"tcp://127.0.0.1:0\"], connect: \"{to}\" }}\n"))
        .collect();
    place.write("direct.yaml", &format!("mode: direct\ndmz:\n  services:\n{direct}"));
    let direct = place.start("direct");
    let pair = Pair::reverse(&place, &services);
    for ((failing, name), front) in all.into_iter().zip(names).zip(fronts) {
        let theirs = answered(([127, 0, 0, 1], front).into());
        for (mode, gateway) in [("direct", &direct), ("reverse", &pair.dmz)] {
            let ours = answered(gateway.accept(name));
            assert!(ours >= theirs, "{failing:?}, {mode}: {ours} bytes, {theirs} by HAProxy");
        }
    }
}
