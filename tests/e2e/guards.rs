//! Who gets in, and how much one client gets.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use portcullis::{
    gateway::handle::{Command, CommandAnswer},
    profile::Mode,
    telemetry::{
        checklist::{CheckStep, StepResult},
        health::{Alert, AlertKind},
        snapshot::Snapshot,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};

use crate::{
    edges::http::{GET, answered},
    support::{
        gateway::{PATIENCE, TestFolder},
        mode_pair::{MODES, ModePair, Plan},
        peers::{Backend, cut, dial, dial_from, expect_bytes, expect_reset, send},
    },
};

/// A policy refusal raises no alert, and one client at its own limit does not make the service
/// full.
fn assert_no_alert(shown: &Snapshot) {
    let is_of_refusals = |alert: &&Alert| matches!(alert.kind, AlertKind::Full | AlertKind::Refused);
    assert_eq!(shown.alerts.iter().find(is_of_refusals), None);
}

/// It is reset before a byte of it is read.
async fn refused_from(from: &str, at: SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse::<IpAddr>().unwrap(), 0)).unwrap();
    if let Ok(mut client) = timeout(PATIENCE, socket.connect(at)).await.expect("an answer in time") {
        assert_eq!(expect_reset(&mut client).await, b"");
    }
}

async fn served_from(from: &str, at: SocketAddr) -> TcpStream {
    let mut client = dial_from(from, at).await;
    send(&mut client, b"there?").await;
    expect_bytes(&mut client, b"there?").await;
    client
}

async fn port(pair: &ModePair) -> SocketAddr {
    let accept = pair.dmz.now().await.services[0].accept[0].clone();
    accept.split_once("//").unwrap().1.split('/').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn clients_that_are_not_allowed_are_refused_before_a_byte_is_read() {
    let rules = ", clients: { allow: [127.0.0.0/24], deny: [127.0.0.2, 127.1.0.0/16] }";
    for mode in MODES {
        let pair = Plan { dmz_service: rules, ..Plan::new(mode, "echo://") }.start().await;
        let at = pair.dmz.client_port("orders").await;
        let _served = served_from("127.0.0.3", at).await;
        for (from, reason) in [
            ("127.0.0.2", "`clients` denies 127.0.0.2/32"),
            ("127.1.0.9", "`clients` denies 127.1.0.0/16"),
            ("127.2.0.9", "`clients` does not allow this address"),
        ] {
            refused_from(from, at).await;
            let reported = |shown: &Snapshot| {
                shown.ended.iter().any(|row| row.client.starts_with(from) && row.end == "XA")
            };
            let shown = pair.dmz.until("it is reported", reported).await;
            let row = shown.ended.iter().find(|row| row.client.starts_with(from)).unwrap();
            assert_eq!((&*row.end, &*row.reason), ("XA", reason), "{mode:?}");
        }
        let shown = pair.dmz.now().await;
        assert_eq!((shown.totals.sessions, shown.totals.refused), (1, 3));
        assert_eq!(shown.services[0].refusals[0].code, "XA");
        assert_no_alert(&shown);
    }
}

#[tokio::test]
async fn probes_of_the_checklist_are_no_clients() {
    let rules = ", clients: { deny: [0.0.0.0/0] }, per_client: { sessions: 1, rate: 1/h }";
    let pair = Plan { dmz_service: rules, ..Plan::new(Mode::Reverse, "echo://") }.start().await;
    refused_from("127.0.0.1", pair.dmz.client_port("orders").await).await;
    for _ in 0..3 {
        let answer = pair.dmz.handle.send_and_wait(Command::Verify { steps: vec![CheckStep::Reverse] }).await;
        let CommandAnswer::Verified(report) = answer else { panic!("{answer:?}") };
        assert!(report.steps.iter().all(|step| step.result == StepResult::Pass), "{:?}", report.steps);
    }
}

#[tokio::test]
async fn behind_a_proxy_the_client_that_it_names_counts() {
    let accept = "{ address: 'tcp://127.0.0.1:0', proxy: { from: ['127.0.0.0/8'] } }";
    let rules = ", clients: { deny: [192.0.2.7] }, per_client: { sessions: 1 }";
    let pair = Plan { accept, dmz_service: rules, ..Plan::new(Mode::Reverse, "echo://") }.start().await;
    let header = |client: &str| format!("PROXY TCP4 {client} 198.51.100.1 50000 443\r\nthere?");
    let mut denied = pair.client().await;
    send(&mut denied, header("192.0.2.7").as_bytes()).await;
    assert_eq!(expect_reset(&mut denied).await, b"");
    assert_eq!(pair.dmz.until_ended("XA").await.client, "192.0.2.7:50000");
    let mut first = pair.client().await;
    send(&mut first, header("192.0.2.8").as_bytes()).await;
    expect_bytes(&mut first, b"there?").await;
    let mut second = pair.client().await;
    send(&mut second, header("192.0.2.8").as_bytes()).await;
    assert_eq!(expect_reset(&mut second).await, b"");
    assert_eq!(pair.dmz.until_ended("LA").await.reason, "`per_client` allows 1 session at once");
    let mut other = pair.client().await;
    send(&mut other, header("192.0.2.9").as_bytes()).await;
    expect_bytes(&mut other, b"there?").await;
}

#[tokio::test]
async fn a_client_of_tls_is_refused_after_its_hello_and_before_tls() {
    let folder = TestFolder::new();
    let accept = "{ address: 'tls://127.0.0.1:0', tls: { certificate: pki/dmz.pem, key: pki/dmz.key } }";
    let rules = ", clients: { deny: [127.0.0.2] }";
    let plan = Plan { accept, dmz_service: rules, ..Plan::new(Mode::Direct, "echo://") };
    let pair = plan.start_in(folder.clone()).await;
    let at = pair.dmz.client_port("orders").await;
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(
        rustls::ClientConfig::builder()
            .with_root_certificates(crate::support::tls::roots(&folder))
            .with_no_client_auth(),
    ));
    let name = || rustls::pki_types::ServerName::try_from("dmz").unwrap();
    let mut good = connector.connect(name(), dial_from("127.0.0.1", at).await).await.unwrap();
    send(&mut good, b"there?").await;
    expect_bytes(&mut good, b"there?").await;
    let denied = connector.connect(name(), dial_from("127.0.0.2", at).await).await.unwrap_err();
    assert_eq!(denied.kind(), std::io::ErrorKind::ConnectionReset, "{denied}");
    let row = pair.dmz.until_ended("XA").await;
    assert_eq!((&*row.service, &*row.reason), ("orders", "`clients` denies 127.0.0.2/32"));
}

const WEB: &str = "{ address: 'http://127.0.0.1:0', forwarded: { from: [127.0.0.0/8] } }";

#[tokio::test]
async fn requests_are_answered_403_and_the_connection_stays() {
    let rules = ", clients: { deny: [192.0.2.7] }";
    for mode in MODES {
        let backend = Backend::new().await;
        let to = backend.address().replace("tcp:", "http:");
        let pair = Plan { accept: WEB, dmz_service: rules, ..Plan::new(mode, &to) }.start().await;
        let mut client = dial(port(&pair).await).await;
        let of = |named: &str| GET.replace("Host", &format!("X-Forwarded-For: {named}\r\nHost"));
        for _ in 0..2 {
            let (head, body) = answered(&mut client, &of("192.0.2.7")).await;
            assert_eq!(head[0], "HTTP/1.1 403 Forbidden", "{mode:?}");
            assert!(!head.iter().any(|line| line == "connection: close"), "{head:?}");
            assert!(body.starts_with("this service is not for you\nsession "), "{body}");
        }
        let serving = async {
            let mut server = backend.accept().await;
            let mut seen = [0; 5];
            server.read_exact(&mut seen).await.unwrap();
            send(&mut server, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            server
        };
        let request = of("192.0.2.8");
        let (_server, (head, body)) = tokio::join!(serving, answered(&mut client, &request));
        assert_eq!((&*head[0], &*body), ("HTTP/1.1 200 OK", "ok"), "the same connection, another client");
        let shown = pair.dmz.until("two refused", |shown| shown.totals.refused == 2).await;
        let row = shown.ended.iter().find(|row| row.end == "XA").unwrap();
        assert_eq!((&*row.client, &*row.reason), ("192.0.2.7:0", "`clients` denies 192.0.2.7/32"));
    }
}

#[tokio::test]
async fn requests_that_need_one_session_too_many_are_answered_429() {
    let rules = ", per_client: { rate: 2/m }";
    let backend = Backend::new().await;
    let to = backend.address().replace("tcp:", "http:");
    let pair = Plan { accept: WEB, dmz_service: rules, ..Plan::new(Mode::Reverse, &to) }.start().await;
    let at = port(&pair).await;
    let serving = async {
        let mut served = JoinSet::new();
        loop {
            let mut server = backend.accept().await;
            served.spawn(async move {
                let mut seen = [0; 4096];
                while server.read(&mut seen).await.is_ok_and(|count| count > 0) {
                    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                }
            });
        }
    };
    let asking = async {
        // One at once, whatever is asked over it.
        let mut first = dial(at).await;
        for _ in 0..5 {
            assert_eq!(answered(&mut first, GET).await.0[0], "HTTP/1.1 200 OK");
        }
        let mut second = dial(at).await;
        for _ in 0..2 {
            let (head, _) = answered(&mut second, GET).await;
            assert_eq!(head[0], "HTTP/1.1 429 Too Many Requests");
            let wait = head.iter().find_map(|line| line.strip_prefix("retry-after: ")).unwrap();
            assert!((25..=30).contains(&wait.parse::<u32>().unwrap()), "{wait}");
            assert!(!head.iter().any(|line| line == "connection: close"), "{head:?}");
        }
        let other = GET.replace("Host", "X-Forwarded-For: 192.0.2.9\r\nHost");
        assert_eq!(answered(&mut second, &other).await.0[0], "HTTP/1.1 200 OK", "another client");
    };
    tokio::select! {
        () = asking => {}
        () = serving => {}
    }
    let row = pair.dmz.until_ended("LA").await;
    assert_eq!(row.reason, "`per_client` allows 2/m new sessions");
}

#[tokio::test]
async fn a_web_socket_that_is_not_let_in_is_answered_and_never_upgraded() {
    let accept = "{ address: 'ws://127.0.0.1:0/live' }";
    let rules = ", clients: { deny: [127.0.0.2] }, per_client: { sessions: 1 }";
    let pair = Plan { accept, dmz_service: rules, ..Plan::new(Mode::Reverse, "echo://") }.start().await;
    let at = port(&pair).await;
    let upgrade = "GET /live HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let mut denied = dial_from("127.0.0.2", at).await;
    assert_eq!(answered(&mut denied, upgrade).await.0[0], "HTTP/1.1 403 Forbidden");
    let mut first = dial(at).await;
    assert_eq!(answered(&mut first, upgrade).await.0[0], "HTTP/1.1 101 Switching Protocols");
    pair.dmz.until("it is open", |shown| shown.totals.sessions_open == 1).await;
    let mut second = dial(at).await;
    assert_eq!(answered(&mut second, upgrade).await.0[0], "HTTP/1.1 429 Too Many Requests");
    cut(first);
    pair.dmz.until("it is over", |shown| shown.totals.sessions_open == 0).await;
    assert_eq!(answered(&mut second, upgrade).await.0[0], "HTTP/1.1 101 Switching Protocols");
}

#[tokio::test]
async fn one_client_has_its_sessions_and_others_have_theirs() {
    let rules = ", per_client: { sessions: 2 }";
    for mode in MODES {
        let pair = Plan { dmz_service: rules, ..Plan::new(mode, "echo://") }.start().await;
        let at = pair.dmz.client_port("orders").await;
        let first = served_from("127.0.0.2", at).await;
        let _second = served_from("127.0.0.2", at).await;
        refused_from("127.0.0.2", at).await;
        let row = pair.dmz.until_ended("LA").await;
        assert_eq!(row.reason, "`per_client` allows 2 sessions at once", "{mode:?}");
        let shown = pair.dmz.now().await;
        assert_eq!(shown.totals.refused, 1);
        assert_no_alert(&shown);
        let _other = served_from("127.0.0.3", at).await;
        cut(first);
        pair.dmz.until("one less", |shown| shown.totals.sessions_open == 2).await;
        let _third = served_from("127.0.0.2", at).await;
    }
}

#[tokio::test]
async fn limits_of_the_half_count_over_all_services_that_have_none_of_their_own() {
    let text = "mode: direct\ndmz:\n  per_client: { sessions: 1 }\n  clients: { deny: [127.0.0.9] }\n  services:\n\
        \x20   one: { accept: ['tcp://127.0.0.1:0'], connect: 'echo://' }\n\
        \x20   two: { accept: ['tcp://127.0.0.1:0'], connect: 'echo://' }\n\
        \x20   own: { accept: ['tcp://127.0.0.1:0'], connect: 'echo://', per_client: { sessions: 1 }, \
        clients: { deny: [127.0.0.8] } }\n";
    let gateway = TestFolder::new().start("direct", text);
    let (one, two, own) = (
        gateway.client_port("one").await,
        gateway.client_port("two").await,
        gateway.client_port("own").await,
    );
    let _first = served_from("127.0.0.2", one).await;
    refused_from("127.0.0.2", one).await;
    refused_from("127.0.0.2", two).await;
    let _second = served_from("127.0.0.2", own).await;
    refused_from("127.0.0.2", own).await;
    refused_from("127.0.0.9", one).await;
    refused_from("127.0.0.8", own).await;
    let _whole = served_from("127.0.0.9", own).await;
}

/// Bytes that arrive in this time, and the most within a tenth of a second.
async fn received(stream: &mut (impl AsyncReadExt + Unpin), lasting: Duration) -> (usize, usize) {
    let (start, mut chunk, mut came) = (Instant::now(), vec![0; 64 * 1024], Vec::new());
    while let Some(left) = lasting.checked_sub(start.elapsed()) {
        let Ok(read) = timeout(left, stream.read(&mut chunk)).await else { break };
        came.push((start.elapsed(), read.unwrap()));
    }
    let within = |at: Duration| {
        let window = came.iter().filter(|(one, _)| *one >= at && *one < at + Duration::from_millis(100));
        window.map(|(_, bytes)| bytes).sum::<usize>()
    };
    let most = came.iter().map(|(at, _)| within(*at)).max().unwrap_or(0);
    (came.iter().map(|(_, bytes)| bytes).sum(), most)
}

async fn keep_sending(stream: &mut (impl AsyncWriteExt + Unpin)) {
    while stream.write_all(&[7; 64 * 1024]).await.is_ok() {}
}

#[tokio::test]
async fn bytes_go_as_fast_as_the_service_allows_each_way() {
    const RATE: usize = 1_000_000;
    const LASTING: Duration = Duration::from_secs(3);
    for mode in MODES {
        let backend = Backend::new().await;
        let to = backend.address();
        let pair = Plan { dmz_service: ", rate: 1MB/s", ..Plan::new(mode, &to) }.start().await;
        let mut client = pair.client().await;
        let mut server = backend.accept().await;
        let (mut client_reader, mut client_writer) = client.split();
        let (mut server_reader, mut server_writer) = server.split();
        let (mut up, mut down) = ((0, 0), (0, 0));
        tokio::select! {
            () = keep_sending(&mut client_writer) => {}
            () = keep_sending(&mut server_writer) => {}
            () = async {
                (up, down) = tokio::join!(
                    received(&mut server_reader, LASTING),
                    received(&mut client_reader, LASTING)
                );
            } => {}
        }
        for (pair, (bytes, most)) in [("up", up), ("down", down)] {
            let share = bytes as f64 / (RATE * 3) as f64;
            assert!((0.9..1.06).contains(&share), "{mode:?} {pair}: {share}");
            // What lies in a tenth of a second, what may be saved up, and what this test may be late by.
            assert!(most <= RATE / 10 * 4, "{mode:?} {pair}: {most} in a tenth of a second");
        }
    }
}

#[tokio::test]
async fn a_session_ends_when_it_has_lived_as_long_as_it_may() {
    for mode in MODES {
        let plan = Plan { dmz_service: ", session_limit: 500ms", ..Plan::new(mode, "echo://") };
        let pair = plan.start().await;
        let mut client = pair.client().await;
        let start = Instant::now();
        send(&mut client, b"there?").await;
        expect_bytes(&mut client, b"there?").await;
        expect_reset(&mut client).await;
        assert!(start.elapsed() > Duration::from_millis(300), "{mode:?}");
        let row = pair.dmz.until_ended("TR").await;
        assert_eq!(row.reason, "the session reached `session_limit` (500ms)", "{mode:?}");
        pair.inner().until_ended("TR").await;
    }
}

/// How long clients of an address take, one after the other, from their connection to their first byte.
async fn set_ups(from: &str, at: SocketAddr, count: usize) -> Vec<Duration> {
    let mut took = Vec::new();
    for _ in 0..count {
        let start = Instant::now();
        let client = served_from(from, at).await;
        took.push(start.elapsed());
        cut(client);
    }
    took.sort();
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_from_one_address_is_refused_and_others_are_served_meanwhile() {
    let flood: usize = std::env::var("FLOOD").map_or(2000, |count| count.parse().unwrap());
    let rules = ", sessions: 10, per_client: { sessions: 4, rate: 1000/s, burst: 1000 }";
    let pair = Plan { dmz_service: rules, ..Plan::new(Mode::Reverse, "echo://") }.start().await;
    let at = pair.dmz.client_port("orders").await;
    let quiet = set_ups("127.0.0.3", at, 100).await;
    let _held = [
        served_from("127.0.0.2", at).await,
        served_from("127.0.0.2", at).await,
        served_from("127.0.0.2", at).await,
        served_from("127.0.0.2", at).await,
    ];
    let flooding = async move {
        for _ in 0..flood {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
            // Refused so fast that its connection may fail at once.
            let _ = socket.connect(at).await;
        }
    };
    let mut flooder = JoinSet::new();
    flooder.spawn(flooding);
    let (_, busy) = tokio::join!(flooder.join_next(), set_ups("127.0.0.3", at, 100));
    let refused = |shown: &Snapshot| shown.totals.refused == flood as u64;
    let shown = pair.dmz.until("each of the flood is refused, and nobody else", refused).await;
    assert_eq!(shown.services[0].refusals[0].code, "LA");
    println!("p99 {:?} quiet, {:?} beside {flood} connections", quiet[98], busy[98]);
    assert!(busy[98] < Duration::from_secs(1).max(2 * quiet[98]), "{busy:?}");
}
