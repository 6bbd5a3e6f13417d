//! Names that are dialled at each of their addresses: Knot answers for them, and its records change while sessions
//! run (RFC 2136). The halves are processes of their own; the internal one is locked where it dials.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    Server, has,
    process::{Gateway, SOON, TestFolder, until},
    setup::{dmz_half, free_port, internal_half},
};

const PROGRAMS: [&str; 2] = ["knotd", "knsupdate"];
/// What is missing is given up after half a minute, at the answer that comes then.
const GIVEN_UP: Duration = Duration::from_secs(60);

/// A name server with the zone `gate.test`, which anybody on this machine may change.
struct DnsServer {
    server: Option<Server>,
    config: PathBuf,
    port: u16,
}

impl DnsServer {
    fn new(folder: &TestFolder) -> Self {
        let (port, subfolder) = (free_port(), folder.path("knot").display().to_string());
        fs::create_dir(&subfolder).expect("a folder");
        folder.write(
            "knot/gate.test.zone",
            "$ORIGIN gate.test.\n@ 60 SOA ns admin 1 60 60 600 1\n@ 60 NS ns\nns 60 A 127.0.0.1\n\
             alias 60 CNAME gate\na 60 CNAME b\nb 60 CNAME c\nc 60 CNAME many\n",
        );
        folder.write(
            "knot.conf",
            &format!(
                "server:\n    rundir: {subfolder}\n    listen: 127.0.0.1@{port}\ndatabase:\n    storage: {subfolder}\n\
                 acl:\n  - id: tests\n    address: 127.0.0.1\n    action: update\n\
                 zone:\n  - domain: gate.test\n    file: {subfolder}/gate.test.zone\n    acl: tests\n"
            ),
        );
        let mut knot = Self { server: None, config: folder.path("knot.conf"), port };
        knot.start();
        knot
    }

    fn start(&mut self) {
        self.server = Some(Server::start(Command::new("knotd").arg("-c").arg(&self.config), self.port));
    }

    fn stop(&mut self) {
        self.server = None;
    }

    /// It receives, and answers nothing, until it continues.
    fn signal(&self, signal: Signal) {
        let server = self.server.as_ref().expect("it runs");
        kill_process(Pid::from_child(&server.0), signal).expect("the signal is sent");
    }

    /// Changes the zone at once.
    #[track_caller]
    fn update(&self, lines: &[&str]) {
        let mut command = Command::new("knsupdate");
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the client starts");
        let lines: String = lines.iter().map(|line| format!("update {line}\n")).collect();
        let text = format!("server 127.0.0.1 {}\nzone gate.test.\n{lines}send\n", self.port);
        child.stdin.take().expect("its input").write_all(text.as_bytes()).expect("it is taken");
        let output = child.wait_with_output().expect("the client runs");
        assert!(output.status.success(), "{lines}: {output:?}");
    }

    fn resolver(&self) -> String {
        format!("resolver: [\"127.0.0.1:{}\"]\n", self.port)
    }
}

fn is_healthy_at(status: &Value, address: &str) -> bool {
    let pools = status["pools"].as_array();
    let is_it =
        |pool: &Value| pool["address"] == *format!("socks+tls://{address}") && pool["state"] == "healthy";
    pools.is_some_and(|pools| pools.iter().any(is_it))
}

fn addresses(status: &Value) -> Vec<&str> {
    let rows = status["pools"].as_array().into_iter().flatten();
    rows.filter_map(|row| row["address"].as_str()).collect()
}

#[track_caller]
fn echoes(client: &mut TcpStream) {
    client.write_all(b"hello").expect("it is sent");
    let mut received = [0; 5];
    client.read_exact(&mut received).expect("it comes back");
    assert_eq!(&received, b"hello");
}

#[track_caller]
fn client(at: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(at).expect("it listens");
    client.set_read_timeout(Some(SOON)).expect("a deadline");
    client
}

#[track_caller]
fn until_logged(gateway: &Gateway<'_>, within: Duration, text: &str) {
    until(text, within, || gateway.log().contains(text).then_some(()));
}

fn dialling_each(profile: &str, knot: &DnsServer, to: &str, name: &str) -> String {
    let connect = format!("connect: \"socks+tls://{to}\"");
    assert!(profile.contains(&connect), "{profile}");
    let each = format!("connect: {{ address: \"socks+tls://{name}\", each: true }}");
    knot.resolver() + &profile.replace(&connect, &each)
}

#[test]
fn dmz_gateways_come_and_go_with_their_records_and_sessions_stay() {
    if !has("dmz_gateways_come_and_go_with_their_records_and_sessions_stay", &PROGRAMS) {
        return;
    }
    let (folder, port) = (TestFolder::with_certificates(), free_port());
    let mut knot = DnsServer::new(&folder);
    let (first, second) = (format!("127.0.0.2:{port}"), format!("127.0.0.3:{port}"));
    folder.write("first.yaml", &dmz_half(&first, &["app"]));
    folder.write("second.yaml", &dmz_half(&second, &["app"]));
    let (dmz, other) = (folder.start("first"), folder.start("second"));
    let internal = internal_half("TO", &[("app", "echo://")]);
    folder.write("internal.yaml", &dialling_each(&internal, &knot, "TO", &format!("alias.gate.test:{port}")));
    let internal = folder.start("internal");
    // Nobody is there yet, which is reported.
    until_logged(
        &internal,
        SOON,
        "name alias.gate.test: there is no such name; the last known addresses stay in use",
    );
    let status = internal.status();
    assert_eq!(addresses(&status), [format!("socks+tls://alias.gate.test:{port}")]);
    assert_eq!(status["pools"][0]["state"], "down");

    knot.update(&["add gate.gate.test. 1 A 127.0.0.2"]);
    let status = internal.wait("links to the first", SOON, |status| is_healthy_at(status, &first));
    assert_eq!(addresses(&status), [format!("socks+tls://{first}")]);
    assert_eq!(status["pools"][0]["name"], "alias.gate.test");
    dmz.wait_healthy();
    let mut session = client(dmz.accept("app"));
    echoes(&mut session);

    knot.update(&["add gate.gate.test. 1 A 127.0.0.3"]);
    let added = Instant::now();
    internal.wait("links to the second", SOON, |status| is_healthy_at(status, &second));
    // Three seconds after the old answer's time to live of one.
    assert!(added.elapsed() < Duration::from_secs(4), "{:?}", added.elapsed());
    other.wait_healthy();
    echoes(&mut client(other.accept("app")));

    let removed = Instant::now();
    knot.update(&["del gate.gate.test. A 127.0.0.2"]);
    until_logged(&internal, GIVEN_UP, "name alias.gate.test: given up: 127.0.0.2");
    assert!(removed.elapsed() >= Duration::from_secs(30), "{:?}", removed.elapsed());
    assert_eq!(addresses(&internal.status()), [format!("socks+tls://{second}")]);
    dmz.wait("no link is ready there", SOON, |status| status["pools"][0]["ready"] == 0);
    echoes(&mut session);

    knot.stop();
    until("it is reported", SOON, || {
        let reported =
            "127.0.0.1:{port}: Connection refused (os error 111); the last known addresses stay in use";
        internal.log().contains(&reported.replace("{port}", &knot.port.to_string())).then_some(())
    });
    echoes(&mut client(other.accept("app")));
    knot.start();
    until("it resolves again", SOON, || {
        (internal.log().matches("it resolves again").count() == 2).then_some(())
    });
    assert!(is_healthy_at(&internal.status(), &second));
    echoes(&mut session);
}

/// The error of the row of this address, if it is down.
fn error_at(status: &Value, address: &str) -> Option<String> {
    let mut rows = status["pools"].as_array().into_iter().flatten();
    let row = rows.find(|row| row["address"] == *format!("socks+tls://{address}") && row["state"] == "down");
    row.and_then(|row| row["last_error"].as_str()).map(str::to_owned)
}

/// Who stands at an address of a false record is dialled as any other, and has to prove itself.
#[test]
fn a_server_that_lies_brings_nobody_in_whose_certificate_is_another() {
    if !has("a_server_that_lies_brings_nobody_in_whose_certificate_is_another", &PROGRAMS) {
        return;
    }
    let (folder, port) = (TestFolder::with_certificates(), free_port());
    let knot = DnsServer::new(&folder);
    let [honest, liar, page] = [2, 4, 5].map(|last| format!("127.0.0.{last}:{port}"));
    folder.write("honest.yaml", &dmz_half(&honest, &["app"]));
    let dmz = folder.start("honest");
    // Another CA, under the same names.
    let elsewhere = TestFolder::with_certificates();
    elsewhere.write("liar.yaml", &dmz_half(&liar, &["app"]));
    let false_one = elsewhere.start("liar");
    named_server(page.parse().expect("an address"), "HTTP/1.1 400 Bad Request\r\n\r\n");
    let internal = internal_half("TO", &[("app", "echo://")]);
    folder.write("internal.yaml", &dialling_each(&internal, &knot, "TO", &format!("gate.gate.test:{port}")));
    knot.update(&["add gate.gate.test. 1 A 127.0.0.2"]);
    let internal = folder.start("internal");
    internal.wait("links to the honest one", SOON, |status| is_healthy_at(status, &honest));
    dmz.wait_healthy();
    let mut session = client(dmz.accept("app"));
    echoes(&mut session);

    knot.update(&["add gate.gate.test. 1 A 127.0.0.4", "add gate.gate.test. 1 A 127.0.0.5"]);
    let status = internal.wait("both are dialled", SOON, |status| {
        error_at(status, &liar).is_some() && error_at(status, &page).is_some()
    });
    for (address, cause) in [(&liar, "other_ca"), (&page, "no_tls")] {
        let error = error_at(&status, address).expect("it is down");
        let rows = status["pools"].as_array().expect("rows");
        let row = rows.iter().find(|row| row["address"] == *format!("socks+tls://{address}"));
        assert_eq!(row.expect("its row")["last_cause"], cause, "{error}");
    }
    let rows = false_one.status();
    let links = rows["pools"].as_array().into_iter().flatten().filter(|row| row["ready"] != 0);
    assert_eq!(links.count(), 0, "{rows:#}");
    echoes(&mut session);
    for _ in 0..4 {
        echoes(&mut client(dmz.accept("app")));
    }
    assert!(is_healthy_at(&internal.status(), &honest));
}

/// A chain of aliases to two hundred addresses that may not be kept for a second; a record for a day; and a server that
/// is slow meanwhile.
#[test]
fn long_answers_and_long_lives_and_a_slow_server_are_borne() {
    if !has("long_answers_and_long_lives_and_a_slow_server_are_borne", &PROGRAMS) {
        return;
    }
    let (folder, port) = (TestFolder::with_certificates(), free_port());
    let knot = DnsServer::new(&folder);
    let [first, old, new] = [2, 3, 4].map(|last| format!("127.0.0.{last}:{port}"));
    folder.write("first.yaml", &dmz_half(&first, &["app"]));
    folder.write("second.yaml", &dmz_half(&new, &["app"]));
    let (dmz, second) = (folder.start("first"), folder.start("second"));
    knot.update(&["add many.gate.test. 0 A 127.0.0.2", "add day.gate.test. 86400 A 127.0.0.3"]);
    let each = |name: &str| format!("{{ address: \"socks+tls://{name}.gate.test:{port}\", each: true }}");
    let internal = internal_half("TO", &[("app", "echo://")]);
    let internal = internal.replace("\"socks+tls://TO\"", &format!("[{}, {}]", each("a"), each("day")));
    folder.write("internal.yaml", &(knot.resolver() + &internal));
    let internal = folder.start("internal");
    internal.wait("links to the first", SOON, |status| {
        is_healthy_at(status, &first) && error_at(status, &old).is_some()
    });
    dmz.wait_healthy();
    let mut session = client(dmz.accept("app"));
    echoes(&mut session);

    let changed = Instant::now();
    knot.update(&["del day.gate.test. A", "add day.gate.test. 86400 A 127.0.0.4"]);
    let many: Vec<_> = (1..=200).map(|last| format!("add many.gate.test. 0 A 127.0.1.{last}")).collect();
    knot.update(&many.iter().map(String::as_str).collect::<Vec<_>>());
    until_logged(&internal, SOON, "name a.gate.test: it has 201 addresses; the first 64 are dialled");
    let status = internal.wait("a row for each", SOON, |status| addresses(status).len() == 65);
    assert!(is_healthy_at(&status, &first), "{status:#}");

    knot.signal(Signal::STOP);
    until_logged(&internal, SOON, &format!("name server 127.0.0.1:{}: no answer within 2s", knot.port));
    echoes(&mut session);
    echoes(&mut client(dmz.accept("app")));
    assert!(is_healthy_at(&internal.status(), &first));
    knot.signal(Signal::CONT);
    until_logged(&internal, SOON, "name a.gate.test: it resolves again");

    // However long it may be kept, it is asked for again after a minute.
    internal.wait("links to the second", 2 * GIVEN_UP, |status| is_healthy_at(status, &new));
    assert!(changed.elapsed() < GIVEN_UP + Duration::from_secs(15), "{:?}", changed.elapsed());
    second.wait_healthy();
    echoes(&mut client(second.accept("app")));
    echoes(&mut session);
}

#[test]
fn internal_gateways_come_and_go_with_their_records_and_sessions_stay() {
    if !has("internal_gateways_come_and_go_with_their_records_and_sessions_stay", &PROGRAMS) {
        return;
    }
    let (folder, port) = (TestFolder::with_certificates(), free_port());
    let knot = DnsServer::new(&folder);
    let (first, second) = (format!("127.0.0.2:{port}"), format!("[::1]:{port}"));
    let forward = |profile: String| profile.replace("mode: reverse", "mode: forward");
    let listening = |at: &str| {
        let listen = format!("listen: \"socks+tls://{at}\"");
        let profile = forward(internal_half("TO", &[("app", "echo://")]));
        profile.replace("connect: \"socks+tls://TO\"", &listen)
    };
    folder.write("first.yaml", &listening(&first));
    folder.write("second.yaml", &listening(&second));
    let (_internal, _other) = (folder.start("first"), folder.start("second"));
    knot.update(&["add gate.gate.test. 1 A 127.0.0.2"]);
    let dmz = forward(dmz_half("TO", &["app"])).replace("listen: \"socks", "connect: \"socks");
    folder.write("dmz.yaml", &dialling_each(&dmz, &knot, "TO", &format!("gate.gate.test:{port}")));
    let dmz = folder.start("dmz");
    dmz.wait("links to the first", SOON, |status| is_healthy_at(status, &first));
    let mut session = client(dmz.accept("app"));
    echoes(&mut session);

    knot.update(&["add gate.gate.test. 1 AAAA ::1", "del gate.gate.test. A 127.0.0.2"]);
    dmz.wait("links to the second", SOON, |status| is_healthy_at(status, &second));
    until_logged(&dmz, GIVEN_UP, "name gate.gate.test: given up: 127.0.0.2");
    let status = dmz.wait("the first has no row", SOON, |status| addresses(status).len() == 1);
    assert_eq!(addresses(&status), [format!("socks+tls://{second}")]);
    echoes(&mut session);
    // New ones go to the one that is left, and nowhere else.
    for _ in 0..8 {
        echoes(&mut client(dmz.accept("app")));
    }
}

fn has_ready(status: &Value, address: &str, is_meant: impl Fn(u64) -> bool) -> bool {
    let mut rows = status["pools"].as_array().into_iter().flatten();
    let row = rows.find(|row| row["address"] == *format!("socks+tls://{address}"));
    row.and_then(|row| row["ready"].as_u64()).is_some_and(is_meant)
}

#[test]
fn gateways_of_srv_records_follow_them_and_sessions_stay() {
    if !has("gateways_of_srv_records_follow_them_and_sessions_stay", &PROGRAMS) {
        return;
    }
    let (folder, ports) = (TestFolder::with_certificates(), [free_port(), free_port()]);
    let mut knot = DnsServer::new(&folder);
    for (name, port) in ["first", "second"].iter().zip(ports) {
        folder.write(&format!("{name}.yaml"), &dmz_half(&format!("127.0.0.1:{port}"), &["app"]));
    }
    let (first, second) = (folder.start("first"), folder.start("second"));
    let [to_first, to_second] =
        [format!("one.gate.test:{}", ports[0]), format!("two.gate.test:{}", ports[1])];
    let internal = internal_half("TO", &[("app", "echo://")]);
    let srv = "srv+socks+tls://_portcullis._tcp.gate.test";
    let internal = internal.replace("socks+tls://TO", srv);
    folder.write("internal.yaml", &(knot.resolver() + &internal));
    let internal = folder.start("internal");
    until_logged(&internal, SOON, "name _portcullis._tcp.gate.test: there is no such name");

    let record = |priority: u16, weight: u16, port: u16, target: &str| {
        format!("_portcullis._tcp.gate.test. 1 SRV {priority} {weight} {port} {target}.gate.test.")
    };
    let add = |record: String| format!("add {record}");
    let old = record(10, 0, ports[0], "one");
    knot.update(&[
        "add one.gate.test. 1 A 127.0.0.1",
        "add two.gate.test. 1 CNAME one.gate.test.",
        &add(old.clone()),
    ]);
    let status = internal.wait("links to the first", SOON, |status| is_healthy_at(status, &to_first));
    assert_eq!(status["pools"][0]["name"], "_portcullis._tcp.gate.test");
    first.wait_healthy();
    let mut session = client(first.accept("app"));
    echoes(&mut session);

    // A second one that stands by, which is then the one to be used.
    knot.update(&[&add(record(20, 0, ports[1], "two"))]);
    let added = Instant::now();
    internal.wait("a spare", SOON, |status| addresses(status).len() == 2);
    assert!(added.elapsed() < Duration::from_secs(4), "{:?}", added.elapsed());
    let status = internal.status();
    assert!(has_ready(&status, &to_second, |ready| ready == 0) && is_healthy_at(&status, &to_first));
    knot.update(&[&format!("del {old}"), &add(record(30, 0, ports[0], "one"))]);
    internal.wait("links to the second alone", SOON, |status| {
        is_healthy_at(status, &to_second) && has_ready(status, &to_first, |ready| ready == 0)
    });
    second.wait_healthy();
    echoes(&mut session);
    let mut other = client(second.accept("app"));
    echoes(&mut other);

    // It goes away, comes back, and is taken out of the records.
    drop(second);
    internal.wait("the first stands in", SOON, |status| is_healthy_at(status, &to_first));
    echoes(&mut client(first.accept("app")));
    let second = folder.start("second");
    internal.wait("the second is back", SOON, |status| {
        is_healthy_at(status, &to_second) && has_ready(status, &to_first, |ready| ready == 0)
    });
    echoes(&mut session);
    let mut other = client(second.accept("app"));
    echoes(&mut other);
    knot.stop();
    until_logged(&internal, SOON, &format!("127.0.0.1:{}: Connection refused", knot.port));
    assert!(is_healthy_at(&internal.status(), &to_second));
    knot.start();
    let removed = Instant::now();
    knot.update(&[&format!("del {}", record(20, 0, ports[1], "two"))]);
    until_logged(&internal, GIVEN_UP, &format!("name _portcullis._tcp.gate.test: given up: {to_second}"));
    assert!(removed.elapsed() >= Duration::from_secs(30), "{:?}", removed.elapsed());
    internal.wait("the first alone", SOON, |status| {
        addresses(status) == [format!("socks+tls://{to_first}")] && is_healthy_at(status, &to_first)
    });
    echoes(&mut session);
    echoes(&mut other);
}

/// Answers each connection with its own name, and then echoes.
fn named_server(at: SocketAddr, name: &'static str) {
    let listener = TcpListener::bind(at).expect("its port is free");
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.expect("a connection");
            thread::spawn(move || {
                client.write_all(name.as_bytes()).expect("it is sent");
                let mut received = client.try_clone().expect("the same socket");
                // The client has gone, one way or the other.
                let _ = std::io::copy(&mut received, &mut client);
            });
        }
    });
}

/// A session, and the name of who has answered it.
#[track_caller]
fn named_session(at: SocketAddr) -> (TcpStream, String) {
    let mut client = client(at);
    let mut name = [0; 5];
    client.read_exact(&mut name).expect("its name");
    (client, String::from_utf8_lossy(&name).into_owned())
}

#[test]
fn backends_come_and_go_with_their_records_and_sessions_stay() {
    if !has("backends_come_and_go_with_their_records_and_sessions_stay", &PROGRAMS) {
        return;
    }
    let (folder, port, link) = (TestFolder::with_certificates(), free_port(), free_port());
    let knot = DnsServer::new(&folder);
    for (last, name) in [(2, "first"), (3, "other")] {
        named_server(([127, 0, 0, last], port).into(), name);
    }
    knot.update(&["add gate.gate.test. 1 A 127.0.0.2"]);
    folder.write("dmz.yaml", &dmz_half(&format!("127.0.0.1:{link}"), &["app"]));
    let dmz = folder.start("dmz");
    let internal = internal_half(&format!("127.0.0.1:{link}"), &[("app", "BACKEND")]);
    let each = format!("{{ address: \"tcp://alias.gate.test:{port}\", each: true }}");
    let internal = internal.replace("\"BACKEND\"", &each);
    assert!(internal.contains(&each), "{internal}");
    folder.write("internal.yaml", &(knot.resolver() + &internal));
    let internal = folder.start("internal");
    dmz.wait_healthy();
    let backends = |status: &Value| -> Vec<String> {
        let rows = status["services"][0]["backends"].as_array().into_iter().flatten();
        rows.map(|row| format!("{} {}", row["address"], row["name"])).collect()
    };
    let row = |last: u8| format!("\"tcp://127.0.0.{last}:{port}\" \"alias.gate.test\"");
    internal.wait("the first", SOON, |status| backends(status) == [row(2)]);
    let at = dmz.accept("app");
    let (mut session, name) = named_session(at);
    assert_eq!(name, "first");
    echoes(&mut session);

    knot.update(&["add gate.gate.test. 1 A 127.0.0.3"]);
    let added = Instant::now();
    internal.wait("both", SOON, |status| backends(status) == [row(2), row(3)]);
    assert!(added.elapsed() < Duration::from_secs(4), "{:?}", added.elapsed());
    let mut names = [named_session(at).1, named_session(at).1];
    names.sort_unstable();
    assert_eq!(names, ["first", "other"]);

    let removed = Instant::now();
    knot.update(&["del gate.gate.test. A 127.0.0.2"]);
    // The row of the other stays until its session has ended.
    internal.wait("the other first", GIVEN_UP, |status| backends(status) == [row(3), row(2)]);
    assert!(removed.elapsed() >= Duration::from_secs(30), "{:?}", removed.elapsed());
    for _ in 0..4 {
        assert_eq!(named_session(at).1, "other");
    }
    echoes(&mut session);
    drop(session);
    internal.wait("the other alone", SOON, |status| backends(status) == [row(3)]);
}
