//! A WebSocket's client and its backend, one of which does not read: the other is slowed, and the
//! gateways hold no more than they did.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    connect,
    process::{Gateway, SOON, TestFolder},
    setup::{Pair, dmz_half, internal_half},
};

/// A sender that gets nothing out for so long is stopped.
const STOPPED: Duration = Duration::from_secs(1);
/// What the kernel holds between four processes is a fraction of this.
const SENT_MAX: usize = 256 << 20;
const GROWN_MAX: usize = 4 << 20;
/// A masked frame's head, its key all zero, and its body.
const HEAD: [u8; 8] = [0x82, 0xfe, 0xff, 0xff, 0, 0, 0, 0];
const BODY: usize = 0xffff;

/// A session over a reverse pair, its accept with some more: the pair, the client's end behind its upgrade, the backend's.
fn session<'a>(folder: &'a TestFolder, more: &str) -> (Pair<'a>, TcpStream, TcpStream) {
    let backend = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let to = format!("tcp://{}", backend.local_addr().expect("it is bound"));
    let dmz = dmz_half("127.0.0.1:0", &[])
        + &format!("    live: {{ accept: {{ address: 'ws://127.0.0.1:0'{more} }} }}\n");
    let pair = Pair::of(folder, &dmz, |link| internal_half(link, &[("live", &to)]));
    let mut client = connect(pair.dmz.accept("live"));
    let head = b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    client.write_all(head).expect("it is sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).expect("an answer");
        answer.extend(byte);
    }
    let (server, _) = backend.accept().expect("the gateway connects");
    server.set_read_timeout(Some(SOON)).expect("a timeout is set");
    (pair, client, server)
}

/// Writes `unit` over and over until nothing more is taken: how many bytes were.
fn press(stream: &mut TcpStream, unit: &[u8]) -> usize {
    stream.set_write_timeout(Some(STOPPED)).expect("a timeout is set");
    let mut sent = 0;
    loop {
        match stream.write(&unit[sent % unit.len()..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
        assert!(sent < SENT_MAX, "nothing stops the sender");
    }
    stream.set_write_timeout(None).expect("it is taken back");
    sent
}

/// Memory of a gateway's process.
fn resident(gateway: &Gateway<'_>) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.child.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it is reported");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
}

fn check_memory(pair: &Pair<'_>, before: [usize; 2], sent: usize) {
    let now = [resident(&pair.dmz), resident(&pair.internal)];
    for (now, before) in now.into_iter().zip(before) {
        assert!(now < before + GROWN_MAX, "from {before} to {now} bytes, for {sent} that were sent");
    }
    println!("{sent} bytes stopped the sender; memory went from {before:?} to {now:?}");
}

#[test]
fn a_backend_that_does_not_read_slows_the_client() {
    let folder = TestFolder::with_certificates();
    // One that waits for its backend is not silent.
    let (pair, mut client, mut server) = session(&folder, ", inactivity: 500ms");
    let before = [resident(&pair.dmz), resident(&pair.internal)];
    let unit = [&HEAD[..], &[7; BODY]].concat();
    let sent = press(&mut client, &unit);
    check_memory(&pair, before, sent);
    let hearing = thread::spawn(move || {
        let mut received = Vec::new();
        server.read_to_end(&mut received).expect("its end");
        received
    });
    let rest = &unit[sent % unit.len()..];
    client.write_all(rest).expect("it goes on");
    client.write_all(&[0x88, 0x80, 0, 0, 0, 0]).expect("it goes on");
    let received = hearing.join().expect("no panic");
    assert_eq!(received.len(), (sent + rest.len()) / unit.len() * BODY);
    assert!(received.iter().all(|byte| *byte == 7));
    let mut last = Vec::new();
    client.read_to_end(&mut last).expect("a clean end");
    assert_eq!(last, [0x88, 0]);
}

#[test]
fn a_client_that_does_not_read_slows_the_backend() {
    let folder = TestFolder::with_certificates();
    let (pair, mut client, mut server) = session(&folder, "");
    let before = [resident(&pair.dmz), resident(&pair.internal)];
    let sent = press(&mut server, &[7; BODY]);
    check_memory(&pair, before, sent);
    server.shutdown(Shutdown::Write).expect("it is open");
    let mut received = 0;
    loop {
        let mut head = [0; 2];
        client.read_exact(&mut head).expect("a frame");
        if head[0] == 0x88 {
            break;
        }
        let mut long = [0; 8];
        let width = match head[1] {
            126 => 2,
            127 => 8,
            short => {
                long[7] = short;
                0
            }
        };
        client.read_exact(&mut long[8 - width..]).expect("a length");
        let mut body = vec![0; u64::from_be_bytes(long) as usize];
        client.read_exact(&mut body).expect("a body");
        assert!(body.iter().all(|byte| *byte == 7));
        received += body.len();
    }
    assert_eq!(received, sent);
}

/// Its backend reads all that comes, so nothing but the rate holds it back.
#[test]
fn a_rate_keeps_its_sender_waiting_and_nothing_in_memory() {
    const RECEIVED: usize = 400_000;
    let folder = TestFolder::with_certificates();
    let backend = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let to = format!("tcp://{}", backend.local_addr().expect("it is bound"));
    let dmz = dmz_half("127.0.0.1:0", &["live"]);
    let dmz = dmz.replace("\"tcp://127.0.0.1:0\"]", "\"tcp://127.0.0.1:0\"], rate: 100KB/s");
    let pair = Pair::of(&folder, &dmz, |link| internal_half(link, &[("live", &to)]));
    let mut client = connect(pair.dmz.accept("live"));
    let (mut server, _) = backend.accept().expect("the gateway connects");
    server.set_read_timeout(Some(SOON)).expect("a timeout is set");
    let before = [resident(&pair.dmz), resident(&pair.internal)];
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    // Until the gateways are gone.
    let sending = thread::spawn(move || {
        while let Ok(count) = client.write(&[7; BODY]) {
            counted.fetch_add(count, Ordering::Relaxed);
        }
    });
    server.read_exact(&mut vec![0; RECEIVED]).expect("as much as the rate allows");
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent < SENT_MAX, "nothing stops the sender: {sent}");
    check_memory(&pair, before, sent);
    drop(pair);
    sending.join().expect("no panic");
}
