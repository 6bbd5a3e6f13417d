//! Links inside WebSockets, alone on a port: what bare links do they do as well, and peers that are not ours find them
//! to be WebSockets.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use portcullis::{
    gateway::{GatewayOutcome, handle::Command},
    profile::Mode,
    telemetry::snapshot::{PoolState, Snapshot},
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async, client_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use crate::support::{
    gateway::{Gateway, PATIENCE, TestFolder},
    mode_pair::{Carrier, MODES, ModePair, Plan},
    peers::{Backend, Reserved, dial, expect_bytes, expect_end, expect_reset, read_all, send},
};

/// Both modes, with TLS from gateway to gateway and without, plain outside and in TLS.
fn plans(backend: &str) -> Vec<Plan<'_>> {
    let modes = MODES.into_iter().filter(|mode| *mode != Mode::Direct);
    let all = modes.flat_map(|mode| [(mode, false), (mode, true)]);
    all.flat_map(|(mode, is_plain)| {
        [Carrier::Ws, Carrier::Wss].map(|carrier| Plan { is_plain, carrier, ..Plan::new(mode, backend) })
    })
    .collect()
}

fn shown(plan: &Plan<'_>) -> String {
    format!("{:?} {:?} {}", plan.mode, plan.carrier, plan.is_plain)
}

#[tokio::test]
async fn sessions_go_both_ways_and_end_as_they_end() {
    let backend = Backend::new().await;
    let address = backend.address();
    let much: Vec<u8> = (0..400_000_u32).map(|at| (at ^ (at >> 7)) as u8).collect();
    for plan in plans(&address) {
        println!("{}", shown(&plan));
        let pair = plan.start().await;
        let (mut client, mut server) = (pair.client().await, None);
        send(&mut client, b"ping").await;
        let server = server.insert(backend.accept().await);
        expect_bytes(server, b"ping").await;
        tokio::join!(send(server, &much), expect_bytes(&mut client, &much));
        tokio::join!(send(&mut client, &much), expect_bytes(server, &much));
        client.shutdown().await.unwrap();
        expect_end(server).await;
        // The other direction goes on.
        send(server, b"after the end").await;
        server.shutdown().await.unwrap();
        assert_eq!(read_all(&mut client).await, b"after the end");
        let (mut client, server) = (pair.client().await, async { backend.accept().await });
        send(&mut client, b"x").await;
        let mut server = server.await;
        expect_bytes(&mut server, b"x").await;
        crate::support::peers::cut(server);
        assert_eq!(expect_reset(&mut client).await, b"");
    }
}

#[tokio::test]
async fn many_sessions_drain_and_reload_as_over_bare_links() {
    for plan in plans("echo://").into_iter().filter(|plan| !plan.is_plain) {
        println!("{}", shown(&plan));
        let pair = plan.start().await;
        let mut clients = Vec::new();
        for number in 0..40_u8 {
            let mut client = pair.client().await;
            send(&mut client, &[number; 100]).await;
            clients.push(client);
        }
        for (number, client) in clients.iter_mut().enumerate() {
            expect_bytes(client, &[number as u8; 100]).await;
        }
        pair.dmz.done(Command::Reload).await;
        pair.inner().done(Command::Reload).await;
        for client in &mut clients {
            send(client, b"still").await;
            expect_bytes(client, b"still").await;
        }
        drop(clients);
        pair.dmz.until("all have ended", |now| now.sessions.is_empty()).await;
        let ModePair { dmz, internal, .. } = pair;
        let outcome = dmz.stop().await;
        assert!(matches!(outcome, GatewayOutcome::Clean), "{outcome:?}");
        internal.unwrap().stop().await;
    }
}

fn is_healthy(now: &Snapshot) -> bool {
    now.pools.iter().all(|row| row.state == PoolState::Healthy)
}

#[tokio::test]
async fn a_switch_from_mode_to_mode_costs_no_session() {
    let folder = TestFolder::new();
    let (clients, links) = (Reserved::new(), [Reserved::new(), Reserved::new()]);
    let accept = format!("tcp://{}", clients.at());
    let forward = Plan { carrier: Carrier::Ws, accept: &accept, ..Plan::new(Mode::Forward, "echo://") };
    let reverse = Plan { mode: Mode::Reverse, ..forward };
    let ports = [links[0].at().to_string(), links[1].at().to_string()];
    let links = format!("listen: '{}', connect: '{}'", forward.link(&ports[0]), forward.link(&ports[1]));
    let other = format!("listen: '{}', connect: '{}'", forward.link(&ports[1]), forward.link(&ports[0]));
    let internal = folder.start("internal", &forward.internal(&other));
    let dmz = folder.start("dmz", &forward.dmz(&links));
    dmz.until("links are up", is_healthy).await;
    let mut client = dial(dmz.client_port("orders").await).await;
    send(&mut client, b"before").await;
    expect_bytes(&mut client, b"before").await;
    let inner = folder.profile("internal-reverse", &reverse.internal(&other));
    let outer = folder.profile("dmz-reverse", &reverse.dmz(&links));
    let (one, two) = tokio::join!(dmz.switch(&outer), internal.switch(&inner));
    assert!(one.contains("mode reverse") && two.contains("mode reverse"), "{one}; {two}");
    send(&mut client, b"after").await;
    expect_bytes(&mut client, b"after").await;
    let mut client = dial(dmz.client_port("orders").await).await;
    send(&mut client, b"anew").await;
    expect_bytes(&mut client, b"anew").await;
}

async fn until_healthy(gateway: &Gateway) {
    gateway.until("links are up", is_healthy).await;
}

/// The bytes of binary messages, however they are cut.
struct ForeignEnd {
    socket: WebSocketStream<TcpStream>,
    received: Vec<u8>,
}

impl ForeignEnd {
    fn new(socket: WebSocketStream<TcpStream>) -> Self {
        Self { socket, received: Vec::new() }
    }

    /// Each byte in a message of its own, with pings between.
    async fn send(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.socket.send(Message::Ping(vec![*byte; 3].into())).await.unwrap();
            self.socket.send(Message::Binary(vec![*byte].into())).await.unwrap();
        }
    }

    /// Until this many bytes have arrived; every ping is answered meanwhile.
    async fn expect_bytes(&mut self, expected: &[u8]) {
        while self.received.len() < expected.len() {
            match self.next().await {
                Message::Binary(bytes) => self.received.extend_from_slice(&bytes),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
        let rest = self.received.split_off(expected.len());
        assert_eq!(std::mem::replace(&mut self.received, rest), expected);
    }

    async fn next(&mut self) -> Message {
        timeout(PATIENCE, self.socket.next()).await.expect("a message in time").unwrap().unwrap()
    }
}

async fn foreign_dials(at: std::net::SocketAddr, path: &str) -> ForeignEnd {
    let (socket, _) = client_async(format!("ws://{at}{path}"), dial(at).await).await.unwrap();
    ForeignEnd::new(socket)
}

/// BIND for `orders`, with what was offered before.
const BIND: &[u8] = b"\x05\x02\x00\x03\x06orders\x00\x00";
const GRANTED: &[u8] = b"\x05\x00\x00\x01\0\0\0\0\0\0";

#[tokio::test]
async fn a_foreign_client_is_a_peer() {
    let folder = TestFolder::new();
    let plan = Plan { is_plain: true, carrier: Carrier::Ws, ..Plan::new(Mode::Reverse, "echo://") };
    let dmz = folder.start("dmz", &plan.dmz("listen: 'socks+ws://127.0.0.1:0/link'"));
    let mut link = foreign_dials(dmz.link_port().await, "/link").await;
    link.send(b"\x05\x01\x00").await;
    link.expect_bytes(b"\x05\x00").await;
    link.send(BIND).await;
    link.expect_bytes(GRANTED).await;
    dmz.until("a link is ready", |now| now.pools.iter().any(|row| row.ready == 1)).await;
    let mut client = dial(dmz.client_port("orders").await).await;
    send(&mut client, b"hello").await;
    let port = client.local_addr().unwrap().port().to_be_bytes();
    link.expect_bytes(&[b"\x05\x00\x00\x01\x7f\0\0\x01", &port[..]].concat()).await;
    link.expect_bytes(b"hello").await;
    link.send(b"from a stranger's library").await;
    expect_bytes(&mut client, b"from a stranger's library").await;
    // Its close frame ends its direction, and is answered when the other has ended.
    link.socket.close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() })).await.unwrap();
    expect_end(&mut client).await;
    send(&mut client, b"more").await;
    client.shutdown().await.unwrap();
    link.expect_bytes(b"more").await;
    loop {
        match link.next().await {
            Message::Close(Some(frame)) => break assert_eq!(frame.code, CloseCode::Normal),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
    dmz.until_ended("--").await;
}

#[tokio::test]
async fn a_foreign_server_is_a_peer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let folder = TestFolder::new();
    let plan = Plan { is_plain: true, carrier: Carrier::Ws, ..Plan::new(Mode::Reverse, "echo://") };
    let link = format!("connect: 'socks+ws://{at}/a/link', prepared: 1");
    let internal = folder.start("internal", &plan.internal(&link));
    let (stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let mut requested = None;
    #[expect(clippy::result_large_err, reason = "the library asks for it")]
    let look = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        requested = Some((request.uri().to_string(), request.headers()["host"].to_str().unwrap().to_owned()));
        Ok(response)
    };
    let mut link = ForeignEnd::new(accept_hdr_async(stream, look).await.unwrap());
    assert_eq!(requested, Some(("/a/link".into(), at.to_string())));
    link.expect_bytes(b"\x05\x01\x00").await;
    link.send(b"\x05\x00").await;
    link.expect_bytes(BIND).await;
    link.send(GRANTED).await;
    until_healthy(&internal).await;
    link.send(b"\x05\x00\x00\x01\x7f\0\0\x01\x12\x34").await;
    link.send(b"echoed").await;
    link.expect_bytes(b"echoed").await;
    link.socket.close(None).await.unwrap();
    internal.until_ended("--").await;
}

#[tokio::test]
async fn a_request_that_is_no_upgrade_is_not_there() {
    let folder = TestFolder::new();
    let plan = Plan { carrier: Carrier::Ws, ..Plan::new(Mode::Reverse, "echo://") };
    let dmz = folder.start("dmz", &plan.dmz("listen: 'socks+ws://127.0.0.1:0/link'"));
    let mut client = dial(dmz.link_port().await).await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (path, fields) in [("/link", ""), ("/", ""), ("/link/below", upgrade), ("/LINK", upgrade)] {
        send(&mut client, format!("GET {path} HTTP/1.1\r\nHost: any\r\n{fields}\r\n").as_bytes()).await;
        expect_bytes(&mut client, b"HTTP/1.1 404 Not Found\r\n").await;
        let body = b"\r\n\r\nthere is no such service\n";
        let mut head = Vec::new();
        while !head.ends_with(body) {
            let mut byte = [0];
            timeout(PATIENCE, tokio::io::AsyncReadExt::read_exact(&mut client, &mut byte))
                .await
                .unwrap()
                .unwrap();
            head.push(byte[0]);
        }
    }
    send(&mut client, format!("GET /link HTTP/1.1\r\nHost: any\r\n{upgrade}\r\n").as_bytes()).await;
    expect_bytes(&mut client, b"HTTP/1.1 101 Switching Protocols\r\n").await;
}

#[tokio::test]
async fn a_link_refused_by_an_intermediary_reports_the_reason() {
    let folder = TestFolder::new();
    let plan = Plan { carrier: Carrier::Ws, ..Plan::new(Mode::Reverse, "echo://") };
    let dmz = folder.start("dmz", &plan.dmz("listen: 'socks+ws://127.0.0.1:0/link'"));
    let at = dmz.link_port().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bad = listener.local_addr().unwrap();
    let _answering = portcullis::tasks::Tasks::default();
    for (address, words) in [
        (format!("socks+ws://{at}/other"), "WebSocket: it answers 404 Not Found"),
        (format!("socks+wss://{at}/link"), "outer TLS: "),
        (format!("socks+ws://{bad}/link"), "WebSocket: it does not speak HTTP"),
    ] {
        let outer = if address.contains("wss") { ", outer: { ca: pki/ca.pem }" } else { "" };
        let link = format!("connect: '{address}', prepared: 1{outer}");
        let internal = folder.start("internal", &plan.internal(&link));
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            send(&mut stream, b"SSH-2.0-x\r\n").await;
            std::future::pending::<()>().await;
        };
        let reported = internal
            .until_pool(words, |row| row.last_error.as_ref().is_some_and(|error| error.contains(words)));
        tokio::select! {
            _ = reported => {}
            () = answering => {}
        }
    }
}

/// What the peer of a link that has just become a WebSocket does wrong, and what is reported about
/// it.
#[tokio::test]
async fn bad_frames_close_their_link_and_are_reported() {
    let folder = TestFolder::new();
    let plan = Plan { carrier: Carrier::Ws, ..Plan::new(Mode::Reverse, "echo://") };
    let dmz = folder.start("dmz", &plan.dmz("listen: 'socks+ws://127.0.0.1:0/link'"));
    let at = dmz.link_port().await;
    for (wire, words) in [
        (&b"\x82\x01a"[..], "WebSocket: an unmasked frame"),
        (b"\x81\x81\0\0\0\0a", "WebSocket: a text message, where all are binary"),
        (b"GET / HTTP/1.1\r\n\r\n", "WebSocket: a frame with a reserved bit"),
        (b"\x82\x85\0\0\0\0hello", "TLS: "),
        (b"\x82\xff\0\0\0\0\0\x01\0\0\0\0\0\0\x16\x03", "its handshake was not complete within 5s"),
    ] {
        let mut link = foreign_dials(at, "/link").await;
        link.socket.get_mut().write_all(wire).await.unwrap();
        let reported = dmz.until_notice(words).await;
        assert!(reported.contains("link from 127.0.0.1"), "{reported}");
    }
    // Others are linked all the while.
    let internal = folder.start("internal", &plan.internal(&format!("connect: 'socks+ws://{at}/link'")));
    until_healthy(&internal).await;
}

#[tokio::test]
async fn upgrades_without_end_leave_room_for_a_peer() {
    let folder = TestFolder::new();
    let plan = Plan { carrier: Carrier::Ws, ..Plan::new(Mode::Reverse, "echo://") };
    let dmz = folder.start("dmz", &plan.dmz("listen: 'socks+ws://127.0.0.1:0/link'"));
    let at = dmz.link_port().await;
    let mut held = Vec::new();
    for _ in 0..400 {
        held.push(foreign_dials(at, "/link").await);
    }
    let internal = folder.start("internal", &plan.internal(&format!("connect: 'socks+ws://{at}/link'")));
    until_healthy(&internal).await;
    let mut client = dial(dmz.client_port("orders").await).await;
    send(&mut client, b"served").await;
    expect_bytes(&mut client, b"served").await;
    drop(held);
}

#[tokio::test]
async fn a_parked_link_is_pinged_and_lost_if_it_never_answers() {
    let folder = TestFolder::new();
    let plan = Plan { is_plain: true, carrier: Carrier::Ws, ..Plan::new(Mode::Reverse, "echo://") };
    let dmz = folder.start("dmz", &plan.dmz("listen: 'socks+ws://127.0.0.1:0/link'"));
    let parked = async || {
        let mut link = foreign_dials(dmz.link_port().await, "/link").await;
        link.send(b"\x05\x01\x00").await;
        link.expect_bytes(b"\x05\x00").await;
        link.send(BIND).await;
        link.expect_bytes(GRANTED).await;
        link
    };
    let (_silent, mut answering) = (parked().await, parked().await);
    dmz.until_pool("both are ready", |row| row.ready == 2).await;
    // The library answers a ping when it reads again.
    let answers = async {
        loop {
            let message = answering.next_within(Duration::from_secs(15)).await;
            assert!(matches!(message, Message::Ping(_) | Message::Pong(_)), "{message:?}");
        }
    };
    let is_lost = |now: &Snapshot| now.pools.iter().any(|row| row.failures == 1);
    let seen = tokio::select! {
        seen = dmz.until_within(Duration::from_secs(60), "one is lost", is_lost) => seen,
        () = answers => panic!("it never ends"),
    };
    assert_eq!(seen.pools[0].ready, 1, "{:?}", seen.pools);
}

impl ForeignEnd {
    async fn next_within(&mut self, patience: Duration) -> Message {
        timeout(patience, self.socket.next()).await.expect("a message in time").unwrap().unwrap()
    }
}
