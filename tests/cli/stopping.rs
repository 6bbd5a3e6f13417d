//! A stop that clients do not notice: not ready first, and then closed; and what the journal gets.

use std::{
    fs::File,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::MetadataExt,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    DIRECT, connect,
    monitor::{fetch, port},
    ports::free_ports,
    process::{Gateway, SOON, TestFolder, until},
    run,
    setup::free_port,
};

#[test]
fn a_gateway_that_stops_is_unready_before_its_ports_close() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", &format!("drain_delay: 2s\nhealth: 127.0.0.1:0\n{DIRECT}"));
    let gateway = folder.start("one");
    let (health, accept) = (port(&gateway), gateway.accept("echo"));
    let url = format!("http://{health}/readyz");
    assert_eq!(fetch(&[], &url).0, 200);
    let began = Instant::now();
    gateway.signal(Signal::TERM);
    until("it is not ready", SOON, || (fetch(&[], &url).0 == 503).then_some(()));
    // Clients that have not noticed yet are still served.
    let mut late = connect(accept);
    late.write_all(b"hello").expect("it is sent");
    late.read_exact(&mut [0; 5]).expect("it comes back");
    drop(late);
    until("its port closes", SOON, || TcpStream::connect(accept).is_err().then_some(()));
    let delay = began.elapsed();
    assert!(delay >= Duration::from_secs(2), "it closes after {delay:?}");
    assert_eq!(gateway.ended().code(), Some(0));
}

#[test]
fn a_second_signal_waits_for_no_delay() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", &format!("drain_delay: 10m\n{DIRECT}"));
    let gateway = folder.start("one");
    let mut client = connect(gateway.accept("echo"));
    client.write_all(b"hello").expect("it is sent");
    client.read_exact(&mut [0; 5]).expect("it comes back");
    gateway.signal(Signal::TERM);
    gateway.wait("it drains", SOON, |status| status["phase"] == "draining");
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.ended().code(), Some(3), "the session was cut");
}

/// Answers each request with its head.
fn head_server() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || answer_heads(stream));
        }
    });
    port
}

fn answer_heads(mut stream: TcpStream) {
    let (mut head, mut bytes) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = stream.read(&mut bytes) {
        head.extend_from_slice(&bytes[..length]);
        if head.ends_with(b"\r\n\r\n") {
            let line = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", head.len());
            if stream.write_all(&[line.as_bytes(), &head].concat()).is_err() {
                return;
            }
            head.clear();
        }
    }
}

#[test]
fn requests_have_a_name_and_are_sent_elsewhere_while_it_drains() {
    let folder = TestFolder::with_certificates();
    let (backend, front) = (head_server(), free_port());
    folder.write(
        "web.yaml",
        &format!(
            "mode: direct\ndrain_delay: 10m\ndmz:\n  services:\n    web: {{ accept: [\"http://127.0.0.1:{front}\"], \
             connect: \"http://127.0.0.1:{backend}\" }}\n"
        ),
    );
    let gateway = folder.start("web");
    let url = format!("http://127.0.0.1:{front}/");
    let id = |head: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix("x-request-id: "));
        line.map(str::to_owned)
    };
    let (status, head) = fetch(&[], &url);
    let given = id(&head).expect("an id of ours");
    assert!(status == 200 && given.len() == 12, "{head}");
    let log = until("the session ends", SOON, || Some(gateway.log()).filter(|log| log.contains(&given)));
    assert!(log.contains("session ended"), "{log}");
    assert_eq!(id(&fetch(&["-H", "X-Request-Id: of-mine"], &url).1), Some("of-mine".into()));
    assert!(!fetch(&["-i"], &url).1.to_lowercase().contains("\r\nconnection: close"));
    gateway.signal(Signal::TERM);
    gateway.wait("it drains", SOON, |status| status["phase"] == "draining");
    let (status, reported) = fetch(&["-i"], &url);
    assert!(status == 200 && reported.to_lowercase().contains("\r\nconnection: close"), "{reported}");
}

#[test]
fn a_kept_connection_ends_after_the_command_drain() {
    let folder = TestFolder::with_certificates();
    let backend = head_server();
    folder.write(
        "web.yaml",
        &format!(
            "mode: direct\ndmz:\n  services:\n    web: {{ accept: [\"http://127.0.0.1:0/\"], \
             connect: \"http://127.0.0.1:{backend}\" }}\n"
        ),
    );
    let gateway = folder.start("web");
    let accept = gateway.status()["services"][0]["accept"][0].as_str().expect("an address").to_owned();
    let accept = accept.strip_prefix("http://").expect("its scheme").trim_end_matches('/');
    let socket = folder.path("run/web.sock").display().to_string();
    let mut kept = connect(accept.parse().expect("an address"));
    kept.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("it is sent");
    let mut reported = Vec::new();
    // The body is the head that the backend got.
    while reported.windows(4).filter(|end| end == b"\r\n\r\n").nth(1).is_none() {
        let mut byte = [0];
        kept.read_exact(&mut byte).expect("it is answered");
        reported.push(byte[0]);
    }
    assert!(!String::from_utf8_lossy(&reported).to_lowercase().contains("\r\nconnection: close"));
    assert_eq!(run(&folder, &["drain", "--admin", &socket]).code, Some(0));
    kept.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("it is sent");
    let mut reported = String::new();
    kept.read_to_string(&mut reported).expect("it ends cleanly");
    assert!(reported.to_lowercase().contains("\r\nconnection: close\r\n"), "{reported}");
}

/// Two ports whose clients have to say something before they have a session.
fn asking_first(folder: &TestFolder, [bytes, pages]: [u16; 2]) -> Gateway<'_> {
    let backend = head_server();
    folder.write(
        "both.yaml",
        &format!(
            "mode: direct\ndmz:\n  services:\n    echo: {{ accept: [{{ address: \"tcp://127.0.0.1:{bytes}\", proxy: \
             {{ from: [127.0.0.0/8] }} }}], connect: \"echo://\" }}\n    web: {{ accept: [\"http://127.0.0.1:{pages}\"], \
             connect: \"http://127.0.0.1:{backend}\" }}\n"
        ),
    );
    folder.start("both")
}

/// A client at each of them that has said nothing, and is let in: others who came later have been served.
fn let_in([bytes, pages]: [u16; 2]) -> [TcpStream; 2] {
    let silent = [bytes, pages].map(|port| connect(([127, 0, 0, 1], port).into()));
    ask_for_bytes(connect(([127, 0, 0, 1], bytes).into()));
    assert_eq!(fetch(&[], &format!("http://127.0.0.1:{pages}/")).0, 200);
    silent
}

fn ask_for_bytes(mut client: TcpStream) {
    client.write_all(b"PROXY TCP4 192.0.2.7 127.0.0.1 4000 80\r\nhello").expect("it is sent");
    client.read_exact(&mut [0; 5]).expect("it comes back");
}

fn until_closed(ports: [u16; 2]) {
    for port in ports {
        until("its port closes", SOON, || TcpStream::connect(("127.0.0.1", port)).is_err().then_some(()));
    }
}

#[test]
fn a_client_accepted_before_a_stop_is_served() {
    let (folder, ports) = (TestFolder::with_certificates(), free_ports());
    let gateway = asking_first(&folder, ports);
    let [bytes, mut pages] = let_in(ports);
    gateway.signal(Signal::TERM);
    until_closed(ports);
    ask_for_bytes(bytes);
    pages.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it is sent");
    let mut reported = String::new();
    pages.read_to_string(&mut reported).expect("it ends cleanly");
    assert!(
        reported.starts_with("HTTP/1.1 200 ") && reported.contains("connection: close\r\n"),
        "{reported}"
    );
    assert_eq!(gateway.ended().code(), Some(0));
}

#[test]
fn a_silent_client_delays_a_stop_only_to_the_limit() {
    let (folder, ports) = (TestFolder::with_certificates(), free_ports());
    let gateway = asking_first(&folder, ports);
    let [_bytes, mut pages] = let_in(ports);
    gateway.signal(Signal::TERM);
    assert_eq!(pages.read(&mut [0]).expect("a clean end"), 0);
    assert_eq!(gateway.ended().code(), Some(0));
}

#[test]
fn the_journal_gets_priorities_and_no_time() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", DIRECT);
    let log = File::create(folder.path("one.log")).expect("a log").metadata().expect("its number");
    let journal = format!("JOURNAL_STREAM={}:{}", log.dev(), log.ino());
    let wrapper = ["env", &journal, "NOTIFY_SOCKET=/nowhere"];
    let gateway = folder.start_as("one", &wrapper, &["--no-ui", "--profile", "one.yaml"]);
    let lines = until("it has said something", SOON, || {
        Some(gateway.log()).filter(|log| log.contains("is in force")).filter(|log| log.contains("nowhere"))
    });
    for line in lines.lines() {
        assert!(line.starts_with("<6>") || line.starts_with("<4>"), "{line}");
        assert!(!line.contains("INFO") && !line.contains("WARN") && !line.contains("Z "), "{line}");
    }
    assert!(lines.contains("<4>NOTIFY_SOCKET") && lines.contains("<6>profile `one` is in force"), "{lines}");
    // Only a stream of that name counts.
    let plain = folder.start_as("two", &["env", "JOURNAL_STREAM=1:1"], &["--no-ui", "--profile", "one.yaml"]);
    let sent = until("it has said something", Duration::from_secs(20), || {
        Some(plain.log()).filter(|log| log.contains("is in force"))
    });
    assert!(sent.contains(" INFO ") && !sent.contains("<6>"), "{sent}");
}

#[test]
fn a_client_of_an_older_tls_is_rejected_where_the_profile_says_so() {
    let folder = TestFolder::with_certificates();
    let accept = |name: &str, more: &str| {
        format!(
            "    {name}: {{ accept: [{{ address: \"tls://127.0.0.1:0\", tls: {{ certificate: pki/dmz.pem, \
             key: pki/dmz.key{more} }} }}], connect: \"echo://\" }}\n"
        )
    };
    let services = accept("old", "") + &accept("new", ", min_version: \"1.3\"");
    folder.write("tls.yaml", &format!("mode: direct\ndmz:\n  services:\n{services}"));
    let gateway = folder.start("tls");
    let accepts_version = |service: &str, version: &str| {
        let at = gateway.accept(service).to_string();
        let mut command = std::process::Command::new("openssl");
        command.args(["s_client", "-connect", &at, version]).stdin(std::process::Stdio::null());
        let sent = command.output().expect("openssl runs");
        String::from_utf8_lossy(&sent.stdout).contains("Server certificate")
    };
    assert!(accepts_version("old", "-tls1_2") && accepts_version("old", "-tls1_3"));
    assert!(!accepts_version("new", "-tls1_2") && accepts_version("new", "-tls1_3"));
}
