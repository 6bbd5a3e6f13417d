//! A raw CONNECT client at the internal half, in forward mode.

use std::time::Duration;

use portcullis::{
    gateway::handle::Command,
    telemetry::snapshot::{Notice, SessionPhase},
};
use socket2::{Domain, Socket, Type};
use tokio::io::AsyncWriteExt;

use crate::support::{
    gateway::{Gateway, TestFolder},
    mode_pair::INTERNAL_TLS,
    peers::{Backend, Reserved, dial, expect_bytes, expect_end, expect_reset, expect_reset_within, send},
    socks::{
        ASSOCIATE, BIND, CONNECT, SOCKS_METHOD, SOCKS_OFFER, ask, expect_reply, link, reply, request,
        request_with_port,
    },
    tls,
};

/// A little more than the deadline of a handshake.
const HANDSHAKE_ENDS: Duration = Duration::from_secs(7);

fn internal(backend: &str) -> Gateway {
    internal_with(backend, "")
}

fn internal_with(backend: &str, link: &str) -> Gateway {
    let text = format!(
        "mode: forward\ninternal:\n  link: {{ listen: 'socks://127.0.0.1:0'{link} }}\n  \
         services: {{ orders: {{ connect: '{backend}' }} }}\n"
    );
    TestFolder::new().start("internal", &text)
}

#[tokio::test]
async fn connect_is_granted_with_an_empty_address_and_carries() {
    let gateway = internal("echo://");
    let mut stream = dial(gateway.link_port().await).await;
    send(&mut stream, &SOCKS_OFFER).await;
    expect_bytes(&mut stream, &[5, 0]).await;
    send(&mut stream, &[5, 1, 0, 3, 6, b'o', b'r', b'd', b'e', b'r', b's', 0, 0]).await;
    expect_bytes(&mut stream, &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await;
    send(&mut stream, b"hello").await;
    expect_bytes(&mut stream, b"hello").await;
    let snapshot = gateway.now().await;
    let row = &snapshot.sessions[0];
    assert_eq!((row.client.as_str(), row.peer.as_deref()), ("unknown", Some("127.0.0.1")));
    assert_eq!(row.phase, SessionPhase::Relaying);
    stream.shutdown().await.unwrap();
    expect_end(&mut stream).await;
    gateway.until_ended("--").await;
}

#[tokio::test]
async fn connect_over_mutual_tls_is_the_same() {
    let folder = TestFolder::new();
    let text = format!(
        "mode: forward\ninternal:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', tls: {INTERNAL_TLS} }}\n  \
         services: {{ orders: {{ connect: 'echo://' }} }}\n"
    );
    let gateway = folder.start("internal", &text);
    let mut stream = tls::link(tls::client(&folder, "dmz"), gateway.link_port().await, "internal").await;
    assert_eq!(ask(&mut stream, CONNECT, b"orders").await, 0);
    send(&mut stream, b"hello").await;
    expect_bytes(&mut stream, b"hello").await;
    stream.shutdown().await.unwrap();
    expect_end(&mut stream).await;
    gateway.until_ended("--").await;
}

#[tokio::test]
async fn the_port_of_a_request_means_nothing() {
    let gateway = internal("echo://");
    let mut stream = dial(gateway.link_port().await).await;
    send(&mut stream, &SOCKS_OFFER).await;
    expect_bytes(&mut stream, &SOCKS_METHOD).await;
    send(&mut stream, &request_with_port(CONNECT, b"orders", 65535)).await;
    assert_eq!(expect_reply(&mut stream).await, 0);
}

#[tokio::test]
async fn one_byte_at_a_time_and_everything_at_once_are_the_same() {
    let gateway = internal("echo://");
    let all = [&SOCKS_OFFER[..], &request(CONNECT, b"orders"), b"early"].concat();
    for size in [1, 2, 5, all.len()] {
        let mut stream = dial(gateway.link_port().await).await;
        stream.set_nodelay(true).unwrap();
        for part in all.chunks(size) {
            send(&mut stream, part).await;
            tokio::task::yield_now().await;
        }
        expect_bytes(&mut stream, &[&SOCKS_METHOD[..], &reply(0), b"early"].concat()).await;
    }
}

#[tokio::test]
async fn what_is_not_served_is_answered_by_its_code_and_ends_that_link() {
    let gateway = internal("echo://");
    let name = |bytes: &[u8]| request(CONNECT, bytes);
    let cases = [
        (name(b"others"), 2, "asked for an unknown service `others`"),
        (name(b""), 2, "a service of 0 bytes"),
        (name(&[b'a'; 255]), 2, "asked for an unknown service `aaaa"),
        (name(&[0xff, 0xfe, 0x80]), 2, "a service of 3 bytes"),
        (name(b"or/ders"), 2, "a service of 7 bytes"),
        (request(BIND, b"orders"), 7, "asked for BIND"),
        (request(ASSOCIATE, b"orders"), 7, "asked for UDP ASSOCIATE"),
        (request(9, b"orders"), 7, "asked for an unknown command"),
        (vec![5, 1, 0, 1, 127, 0, 0, 1, 0, 80], 8, "named an address"),
        ([&[5, 1, 0, 4][..], &[0; 18]].concat(), 8, "named an address"),
        (vec![5, 1, 0, 2, 1, 2, 3], 8, "named an address"),
    ];
    for (request, code, reported) in cases {
        let mut stream = dial(gateway.link_port().await).await;
        send(&mut stream, &SOCKS_OFFER).await;
        expect_bytes(&mut stream, &SOCKS_METHOD).await;
        send(&mut stream, &request).await;
        assert_eq!(expect_reply(&mut stream).await, code, "{request:?}");
        expect_end(&mut stream).await;
        gateway.until_notice(reported).await;
    }
    // However an address or a host is spelt, it is the name of no service.
    for spelling in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "169.254.169.254",
        "localhost",
        "localhost.",
        "orders.",
        "::1",
        "[::1]",
        "::ffff:127.0.0.1",
        "127.0.0.1:80",
    ] {
        let (mut stream, code) = link(gateway.link_port().await, CONNECT, spelling.as_bytes()).await;
        assert_eq!(code, 2, "{spelling}");
        expect_end(&mut stream).await;
    }
    let (mut good, code) = link(gateway.link_port().await, CONNECT, b"orders").await;
    assert_eq!(code, 0);
    send(&mut good, b"still").await;
    expect_bytes(&mut good, b"still").await;
}

#[tokio::test]
async fn only_an_offer_with_method_0_is_taken() {
    let gateway = internal("echo://");
    let at = gateway.link_port().await;
    for (offer, answer) in [
        (&[5, 1, 2][..], [5, 0xff]),
        (&[5, 0], [5, 0xff]),
        (&[5, 3, 2, 1, 0], [5, 0]),
        (&[5, 2, 0, 0], [5, 0]),
    ] {
        let mut stream = dial(at).await;
        send(&mut stream, offer).await;
        expect_bytes(&mut stream, &answer).await;
        if answer == [5, 0xff] {
            expect_end(&mut stream).await;
        }
    }
    gateway.until_notice("does not offer the method `no authentication`").await;
}

#[tokio::test]
async fn other_protocols_are_named_and_ended() {
    let gateway = internal("echo://");
    let cases = [
        (&b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00"[..], "SOCKS4 is not supported"),
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP?"),
        (b"\x16\x03\x01\x00\x05hello", "TLS; this link is plain"),
    ];
    for (bytes, reported) in cases {
        let mut stream = dial(gateway.link_port().await).await;
        let from = stream.local_addr().unwrap();
        send(&mut stream, bytes).await;
        expect_end(&mut stream).await;
        let line = gateway.until_notice(reported).await;
        assert!(line.starts_with(&format!("link from {from}: ")), "{line}");
    }
}

#[tokio::test]
async fn a_stalled_handshake_ends_at_its_deadline_at_every_byte() {
    let gateway = internal("echo://");
    let at = gateway.link_port().await;
    let whole = [&SOCKS_OFFER[..], &request(CONNECT, b"orders")].concat();
    let silent = [0, 1, 2, 3, 4, 8, 12, whole.len() - 1].map(|length| {
        let sent = whole[..length].to_vec();
        async move {
            let mut stream = dial(at).await;
            send(&mut stream, &sent).await;
            let received = expect_reset_within(HANDSHAKE_ENDS, &mut stream).await;
            assert_eq!(received, if sent.len() < 3 { &[][..] } else { &SOCKS_METHOD });
        }
    });
    let others = async {
        // Nobody waits behind the silent ones.
        let (mut good, code) = link(at, CONNECT, b"orders").await;
        assert_eq!(code, 0);
        send(&mut good, b"quick").await;
        expect_bytes(&mut good, b"quick").await;
    };
    tokio::join!(futures_util::future::join_all(silent), others);
    let late = |line: &&Notice| line.text.ends_with("its handshake was not complete within 5s");
    gateway.until("a line for each", |snapshot| snapshot.notices.iter().filter(late).count() == 8).await;
}

#[tokio::test]
async fn a_backend_out_of_reach_has_a_code_for_each_reason() {
    let nobody = Reserved::new();
    // A backlog that is full: requests for a connection are dropped, as by a silent host.
    let silent = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    silent.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    silent.listen(0).unwrap();
    let silent_at = silent.local_addr().unwrap().as_socket().unwrap();
    let _fills = dial(silent_at).await;
    let check = |backend: String, code: u8, reason: &'static str| async move {
        let gateway = internal(&backend);
        let (mut stream, answered) = link(gateway.link_port().await, CONNECT, b"orders").await;
        assert_eq!(answered, code, "{backend}");
        expect_end(&mut stream).await;
        let row = gateway.until_ended("BC").await;
        assert!(row.reason.contains(reason), "{row:?}");
    };
    tokio::join!(
        check(format!("tcp://{}", nobody.at()), 5, "connection refused"),
        check("tcp://255.255.255.255:9".into(), 4, "unreachable"),
        check(format!("tcp://{silent_at}"), 6, "no answer within 4s"),
    );
}

#[tokio::test]
async fn limits_and_draining_are_answered_1() {
    let gateway = internal_with("echo://", ", maximum: 1, prepared: 1");
    let at = gateway.link_port().await;
    let (first, code) = link(at, CONNECT, b"orders").await;
    assert_eq!(code, 0);
    let (mut second, code) = link(at, CONNECT, b"orders").await;
    assert_eq!(code, 1);
    expect_end(&mut second).await;
    gateway.until_notice("`maximum` links are in use").await;
    drop(first);
    gateway.until("no session", |snapshot| snapshot.totals.sessions_open == 0).await;
    gateway.done(Command::Drain { service: Some("orders".into()) }).await;
    let (_, code) = link(at, CONNECT, b"orders").await;
    assert_eq!(code, 1);
    assert_eq!(gateway.until_ended("OA").await.reason, "the service is draining");
    gateway.done(Command::Reload).await;
    let (_, code) = link(at, CONNECT, b"orders").await;
    assert_eq!(code, 0);
}

#[tokio::test]
async fn early_bytes_wait_for_the_backend() {
    let backend = Backend::new().await;
    let gateway = internal(&backend.address());
    let mut stream = dial(gateway.link_port().await).await;
    send(&mut stream, &[&SOCKS_OFFER[..], &request(CONNECT, b"orders"), b"first words"].concat()).await;
    stream.shutdown().await.unwrap();
    let mut server = backend.accept().await;
    expect_bytes(&mut server, b"first words").await;
    expect_end(&mut server).await;
    drop(server);
    expect_bytes(&mut stream, &[&SOCKS_METHOD[..], &reply(0)].concat()).await;
    expect_end(&mut stream).await;
}

#[tokio::test]
async fn a_link_cut_while_its_backend_is_dialled_ends_that_session() {
    let backend = Backend::new().await;
    let gateway = internal(&backend.address());
    let (stream, code) = link(gateway.link_port().await, CONNECT, b"orders").await;
    assert_eq!(code, 0);
    let mut server = backend.accept().await;
    crate::support::peers::cut(stream);
    expect_reset(&mut server).await;
    // The backend was connected: whether the relay sees the cut at its first turn or later is the same.
    gateway.until_ended("CR").await;
}
