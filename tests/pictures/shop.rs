//! Makes the recording: the DMZ half of a small shop at work, and the moment its pool runs dry.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::process::{Gateway, TestFolder};

/// A name, and how many bytes come back for each that is sent, in tenths.
pub const SERVICES: [(&str, usize); 3] = [("orders", 40), ("chat", 10), ("files", 1)];
/// A service, a client's address, and its bytes a second: 0 for one that waits.
pub const CLIENTS: [(&str, &str, usize); 9] = [
    ("orders", "127.20.7.7", 310_000),
    ("orders", "127.51.100.24", 120_000),
    ("orders", "127.51.100.9", 4_000),
    ("chat", "127.20.113.90", 900),
    ("chat", "127.0.2.15", 300),
    ("chat", "127.0.2.77", 0),
    ("files", "127.20.113.40", 2_400_000),
    ("files", "127.51.100.31", 640_000),
    ("files", "127.0.2.44", 0),
];
/// The chart of the traffic is full by then.
const BUSY: Duration = Duration::from_secs(125);
/// What is kept, at the end.
const KEPT_PICTURES: usize = 16;

/// Writes the end of a recording of two minutes to `file`.
pub fn record(file: &Path) {
    let folder = TestFolder::with_certificates();
    folder.write("edge.yaml", &outer());
    let args = ["--no-ui", "--profile", "edge.yaml", "--record", "all.jsonl"];
    let edge = folder.start_as("edge", &[], &args);
    folder.write("inside.yaml", &inner(&edge));
    let inside = folder.start_as("inside", &[], &["--no-ui", "--profile", "inside.yaml"]);
    edge.wait_healthy();
    let over = Arc::new(AtomicBool::new(false));
    let mut clients: Vec<_> = CLIENTS
        .into_iter()
        .map(|(service, from, rate)| {
            let (to, over) = (accept(&edge, service), over.clone());
            thread::spawn(move || work(from, to, rate, &over))
        })
        .collect();
    thread::sleep(BUSY);
    // One that is done, one whose backend refuses.
    visit("127.0.2.31", accept(&edge, "orders"));
    visit("127.0.2.99", accept(&edge, "mail"));
    thread::sleep(Duration::from_secs(4));
    // The internal gateway hangs: clients use up what is ready, and wait.
    let pid = Pid::from_raw(inside.child.id() as i32).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    clients.extend((0..12).map(|client| {
        let to = accept(&edge, "chat");
        thread::spawn(move || visit(&format!("127.88.4.{client}"), to))
    }));
    thread::sleep(Duration::from_secs(8));
    over.store(true, Ordering::Relaxed);
    drop((edge, inside));
    clients.into_iter().for_each(|client| client.join().unwrap());
    keep_end(&folder.path("all.jsonl"), file, KEPT_PICTURES);
}

fn outer() -> String {
    let names = SERVICES.map(|(name, _)| name).into_iter().chain(["mail"]);
    let services: String =
        names.map(|name| format!("    {name}: {{ accept: [\"tcp://127.0.0.1:0\"] }}\n")).collect();
    format!(
        "name: shop\nmode: reverse\ndmz:\n  link:\n    listen: socks+tls://127.0.0.1:0\n    tls: {{ \
         certificate: pki/dmz.pem, key: pki/dmz.key, ca: pki/ca.pem, peers: [internal] }}\n  services:\n{services}"
    )
}

fn inner(edge: &Gateway<'_>) -> String {
    let status = edge.status();
    let link = status["listening"][0].as_str().unwrap();
    let mut services = format!("    mail: {{ connect: \"tcp://{}\" }}\n", nobody());
    for (name, tenths) in SERVICES {
        services += &format!("    {name}: {{ connect: \"tcp://{}\" }}\n", backend(tenths));
    }
    format!(
        "name: inside\nmode: reverse\ninternal:\n  link:\n    connect: {link}\n    tls: {{ certificate: \
         pki/internal.pem, key: pki/internal.key, ca: pki/ca.pem, peers: [dmz] }}\n  services:\n{services}"
    )
}

fn accept(edge: &Gateway<'_>, service: &str) -> SocketAddr {
    let status = edge.status();
    let rows = status["services"].as_array().unwrap();
    let row: &Value = rows.iter().find(|row| row["name"] == service).unwrap();
    row["accept"][0].as_str().unwrap().rsplit('/').next().unwrap().parse().unwrap()
}

/// An address where nobody listens any more.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A backend that answers this many tenths of what it receives; it ends with the test.
pub fn backend(tenths: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || answer(stream.unwrap(), tenths));
        }
    });
    address
}

fn answer(mut stream: TcpStream, tenths: usize) {
    let mut chunk = vec![0; 64 * 1024];
    let bytes = vec![7; 64 * 1024 * tenths.div_ceil(10)];
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        if stream.write_all(&bytes[..(count * tenths / 10).max(1)]).is_err() {
            return;
        }
    }
}

fn connect(from: &str, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let from: SocketAddr = format!("{from}:0").parse().unwrap();
    socket.bind(&from.into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Sends at a rate that swells and sinks, until all is over or its gateway has gone.
pub fn work(from: &str, to: SocketAddr, rate: usize, over: &AtomicBool) {
    const STEP: Duration = Duration::from_millis(100);
    let mut stream = connect(from, to);
    let reader = stream.try_clone().unwrap();
    thread::spawn(move || std::io::copy(&mut { reader }, &mut std::io::sink()));
    let began = Instant::now();
    let swing = 9.0 + rate as f64 % 7.0;
    while !over.load(Ordering::Relaxed) {
        let swell = 1.0 + 0.6 * (began.elapsed().as_secs_f64() / swing).sin();
        let bytes = vec![7; (rate as f64 * STEP.as_secs_f64() * swell) as usize];
        if stream.write_all(&bytes).is_err() {
            return;
        }
        thread::sleep(STEP);
    }
}

/// A short session; how it ends is the gateway's to tell.
fn visit(from: &str, to: SocketAddr) {
    let mut stream = connect(from, to);
    // Answered, refused or cut: the recording shows which.
    let _ = stream.write_all(&[7; 3000]);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

/// The header, and the last pictures.
pub fn keep_end(all: &Path, file: &Path, pictures: usize) {
    let text = fs::read_to_string(all).unwrap();
    let lines: Vec<_> = text.split_inclusive('\n').filter(|line| line.ends_with('\n')).collect();
    let from = lines.len().saturating_sub(pictures).max(1);
    fs::write(file, lines[..1].concat() + &lines[from..].concat()).unwrap();
}
