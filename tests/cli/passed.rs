//! Sockets that a service manager opens and passes in: named in the profile, of any kind, and there while a gateway
//! is started again.

use std::{
    fs::File,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{fd::OwnedFd, unix::net::UnixListener},
    process::{Command, Stdio},
    thread,
};

use rustix::process::Signal;

use crate::{
    connect,
    monitor::fetch,
    output_of,
    ports::free_ports,
    process::{Gateway, SOON, TestFolder, until},
    setup::{free_port, internal_half},
    upgrade::Clients,
};

const WEB: &str =
    "mode: direct\ndmz:\n  services:\n    echo: { accept: ['tcp://fd@web'], connect: 'echo://' }\n";

/// The program with these sockets from number 3 on, as a service manager starts it.
fn passing(folder: &TestFolder, names: &str, sockets: Vec<OwnedFd>, args: &[&str]) -> Command {
    let count = sockets.len();
    // A shell, as the program's number has to be in its environment.
    let moved = ["", "exec 3<&0 </dev/null;", "exec 3<&0 4<&1 </dev/null >/dev/null;"][count];
    let script =
        format!("{moved} LISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES={names} exec \"$0\" \"$@\"");
    let mut command = folder.wrapped(&["sh", "-c", &script], args);
    let mut sockets = sockets.into_iter();
    command.stdin(sockets.next().map_or_else(Stdio::null, Stdio::from));
    command.stdout(sockets.next().map_or_else(Stdio::null, Stdio::from)).stderr(Stdio::piped());
    command
}

/// Starts it, and waits until it answers.
fn start<'a>(folder: &'a TestFolder, name: &str, names: &str, sockets: Vec<OwnedFd>) -> Gateway<'a> {
    let profile = format!("{name}.yaml");
    let mut command = passing(folder, names, sockets, &["--no-ui", "--profile", &profile]);
    let log = File::options().create(true).append(true).open(folder.path(&format!("{name}.log")));
    command.stderr(log.expect("a log file"));
    folder.start_command(name, command)
}

/// How a start ends that is refused.
#[track_caller]
fn refused(folder: &TestFolder, names: &str, sockets: Vec<OwnedFd>, profile: &str, reported: &str) {
    folder.write("refused.yaml", profile);
    let args = ["--no-ui", "--profile", "refused.yaml", "--admin", "none"];
    let output = output_of(passing(folder, names, sockets, &args).output().expect("it ends"));
    assert_eq!(output.code, Some(1), "{}", output.err);
    assert!(output.err.contains(reported), "{}", output.err);
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a free port")
}

fn again(socket: &TcpListener) -> OwnedFd {
    socket.try_clone().expect("a descriptor").into()
}

fn echo(mut client: TcpStream) {
    client.write_all(b"hello").expect("it is sent");
    client.read_exact(&mut [0; 5]).expect("it comes back");
}

#[test]
fn a_restart_refuses_no_connection_on_a_socket_that_was_passed_in() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", WEB);
    let web = listener();
    let at = web.local_addr().expect("its address");
    let gateway = start(&folder, "one", "web", vec![again(&web)]);
    let status = gateway.status();
    assert_eq!(status["services"][0]["accept"][0], format!("tcp://{at}"));
    echo(connect(at));
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.ended().code(), Some(0));
    // Whoever comes now waits for the next one.
    let waiting: Vec<_> = (0..20).map(|_| thread::spawn(move || echo(connect(at)))).collect();
    let _gateway = start(&folder, "one", "web", vec![again(&web)]);
    waiting.into_iter().for_each(|client| client.join().expect("each is served"));
    echo(connect(at));
}

/// One socket for several services, distinguished by their paths, with TLS on it.
#[test]
fn services_of_requests_share_a_passed_socket() {
    let folder = TestFolder::with_certificates();
    let accept = |path: &str| {
        format!(
            "{{ accept: [{{ address: 'https://fd@web/{path}', tls: {{ certificate: pki/dmz.pem, key: pki/dmz.key }} \
             }}], connect: 'http://{}' }}",
            answering(path.to_owned())
        )
    };
    folder.write(
        "one.yaml",
        &format!("mode: direct\ndmz:\n  services:\n    one: {}\n    other: {}\n", accept("a"), accept("b")),
    );
    let web = listener();
    let port = web.local_addr().expect("its address").port();
    let gateway = start(&folder, "one", "web", vec![again(&web)]);
    assert_eq!(gateway.status()["services"][0]["accept"][0], format!("https://127.0.0.1:{port}/a"));
    let ca = folder.path("pki/ca.pem").display().to_string();
    let to = format!("dmz:{port}:127.0.0.1");
    for path in ["a", "b"] {
        let line = ["--cacert", &ca, "--resolve", &to];
        assert_eq!(fetch(&line, &format!("https://dmz:{port}/{path}")), (200, path.to_owned()));
    }
}

/// A backend that answers each request with this.
fn answering(body: String) -> SocketAddr {
    let listener = listener();
    let at = listener.local_addr().expect("its address");
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let head =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    at
}

#[test]
fn a_reload_that_closes_a_passed_port_and_opens_it_again_leaves_it_to_its_owner() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", WEB);
    let web = listener();
    let at = web.local_addr().expect("its address");
    let gateway = start(&folder, "one", "web", vec![again(&web)]);
    echo(connect(at));
    folder.write("one.yaml", &WEB.replace("tcp://fd@web", "tcp://127.0.0.1:0"));
    let socket = folder.path("run/one.sock").display().to_string();
    let reload = || crate::run(&folder, &["reload", "--admin", &socket]);
    assert_eq!(reload().code, Some(0));
    let waits = thread::spawn(move || echo(connect(at)));
    folder.write("one.yaml", WEB);
    assert_eq!(reload().code, Some(0));
    waits.join().expect("it is served");
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.ended().code(), Some(0));
    drop(TcpStream::connect(at).expect("it listens as long as its owner wants"));
}

#[test]
fn links_come_in_by_a_passed_socket_and_one_that_is_not_named_is_closed() {
    let folder = TestFolder::with_certificates();
    let (links, other) = (listener(), listener());
    let (at, unnamed) = (links.local_addr().expect("an address"), other.local_addr().expect("an address"));
    folder.write(
        "dmz.yaml",
        "mode: reverse\ndmz:\n  link: { listen: 'socks+tls://fd@links', prepared: 2, tls: { certificate: pki/dmz.pem, \
         key: pki/dmz.key, ca: pki/ca.pem, peers: [internal] } }\n  services: { echo: { accept: \
         ['tcp://127.0.0.1:0'] } }\n",
    );
    let sockets = vec![again(&links), other.into()];
    let dmz = start(&folder, "dmz", "links:stray", sockets);
    folder.write("internal.yaml", &internal_half(&at.to_string(), &[("echo", "echo://")]));
    let internal = folder.start("internal");
    internal.wait_healthy();
    echo(connect(dmz.accept("echo")));
    // Nobody else holds it.
    until("it refuses", SOON, || TcpStream::connect(unnamed).is_err().then_some(()));
}

/// Holds the sockets that it was passed, and starts a gateway with them as often as one has ended; none outlives it.
const HOLDER: &str = "while :; do \
     sh -c 'LISTEN_PID=$$ exec setpriv --pdeathsig KILL \"$0\" \"$@\"' \"$0\" \"$@\"; done";

/// A DMZ half whose ports are opened by systemd's own program, which starts it when the first connection comes.
fn activated<'a>(folder: &'a TestFolder, sockets: &[(&str, u16)]) -> Gateway<'a> {
    let names: Vec<_> = sockets.iter().map(|(name, _)| *name).collect();
    let names = format!("--fdname={}", names.join(":"));
    let ports: Vec<_> = sockets.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
    let mut line = vec!["systemd-socket-activate", &names];
    ports.iter().for_each(|port| line.extend(["--listen", port]));
    for variable in ["XDG_RUNTIME_DIR", "STATE_DIRECTORY"] {
        line.extend(["--setenv", variable]);
    }
    let command =
        folder.wrapped(&[&line[..], &["sh", "-c", HOLDER]].concat(), &["--no-ui", "--profile", "dmz.yaml"]);
    let log = File::create(folder.path("dmz.log")).expect("a log file");
    folder.start_logging("dmz", command, log.into())
}

fn is_missing(test: &str) -> bool {
    let is_there = Command::new("systemd-socket-activate").arg("--version").output().is_ok();
    if !is_there {
        println!("skipped: {test} needs systemd-socket-activate");
    }
    !is_there
}

#[test]
fn the_first_client_starts_a_gateway_under_systemd_socket_activate() {
    if is_missing("the_first_client_starts_a_gateway_under_systemd_socket_activate") {
        return;
    }
    let folder = TestFolder::with_certificates();
    folder.write("dmz.yaml", WEB);
    let port = free_port();
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    // It comes as soon as somebody listens, and waits until it is served.
    let client = thread::spawn(move || echo(until("it listens", SOON, || TcpStream::connect(at).ok())));
    let gateway = activated(&folder, &[("web", port)]);
    client.join().expect("it is served");
    assert_eq!(gateway.status()["services"][0]["accept"][0], format!("tcp://{at}"));
}

#[test]
fn restarts_under_systemd_socket_activate_refuse_no_client_and_no_link() {
    if is_missing("restarts_under_systemd_socket_activate_refuse_no_client_and_no_link") {
        return;
    }
    let folder = TestFolder::with_certificates();
    let [web, links] = free_ports();
    folder.write(
        "dmz.yaml",
        "mode: reverse\ndmz:\n  link: { listen: 'socks+tls://fd@links', prepared: 2, wait: 20s, tls: { certificate: \
         pki/dmz.pem, key: pki/dmz.key, ca: pki/ca.pem, peers: [internal] } }\n  services: { echo: { accept: \
         ['tcp://fd@web'] } }\n",
    );
    folder.write("internal.yaml", &internal_half(&format!("127.0.0.1:{links}"), &[("echo", "echo://")]));
    // The first link starts it.
    let internal = folder.start("internal");
    let dmz = activated(&folder, &[("web", web), ("links", links)]);
    internal.wait_healthy();
    let status = dmz.status();
    assert_eq!(status["listening"][0], format!("socks+tls://127.0.0.1:{links}"));
    let mut instance = status["instance"].clone();
    // Until the port was there its dials were refused, and none is from here on.
    let before = internal.log().len();
    let clients = Clients::start(&[SocketAddr::from(([127, 0, 0, 1], web))]);
    for _ in 0..3 {
        clients.some_more();
        let stopped = crate::run(&folder, &["stop", "--admin", "run/dmz.sock"]);
        assert_eq!(stopped.code, Some(0), "{}", stopped.err);
        let next = dmz.wait("the next one runs", SOON, |status| {
            status["instance"].is_string() && status["instance"] != instance
        });
        instance = next["instance"].clone();
    }
    clients.some_more();
    clients.end();
    let log = internal.log();
    assert!(!log[before..].contains("refused"), "{log}");
}

#[test]
fn an_unusable_listen_address_refuses_the_start() {
    let folder = TestFolder::with_certificates();
    let udp: OwnedFd = UdpSocket::bind("127.0.0.1:0").expect("a free port").into();
    refused(&folder, "web", vec![udp], WEB, "fd@web: what was passed in is a socket for datagrams");
    let local: OwnedFd = UnixListener::bind(folder.path("local")).expect("a socket").into();
    refused(&folder, "web", vec![local], WEB, "fd@web: what was passed in is a local socket");
    let listener = listener();
    let connection: OwnedFd =
        TcpStream::connect(listener.local_addr().expect("an address")).expect("it connects").into();
    refused(&folder, "web", vec![connection], WEB, "fd@web: what was passed in is a connection");
    refused(&folder, "other", vec![again(&listener)], WEB, "fd@web: no socket of that name was passed in");
    refused(&folder, "", vec![again(&listener)], WEB, "those that were: `unknown`");
    refused(&folder, "web", Vec::new(), WEB, "those that were: none");
    let inside = internal_half("127.0.0.1:9", &[("echo", "echo://")]);
    refused(
        &folder,
        "web",
        vec![again(&listener)],
        &inside,
        "`web` was passed in, and the internal half takes no sockets",
    );
    // Said to be there, and closed already.
    folder.write("one.yaml", WEB);
    let script = "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web exec \"$0\" \"$@\" 3<&-";
    let args = ["--no-ui", "--profile", "one.yaml", "--admin", "none"];
    let closed = output_of(folder.wrapped(&["sh", "-c", script], &args).output().expect("it ends"));
    assert_eq!(closed.code, Some(1));
    assert!(closed.err.contains("fd@web: the socket that was passed in is closed already"), "{}", closed.err);
}
