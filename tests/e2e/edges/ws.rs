//! WebSockets of clients, carried as bytes: frames are taken off and put on by the DMZ half.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use portcullis::profile::Mode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest, http::HeaderValue, protocol::CloseFrame},
};

use crate::support::{
    gateway::{PATIENCE, TestFolder},
    mode_pair::{DMZ_TLS, INTERNAL_TLS, MODES, ModePair, Plan, mode_word},
    peers::{Backend, Reserved, cut, dial, expect_bytes, expect_end, expect_reset, read_all, send},
    tls::roots,
};

const WS: &str = "{ address: 'ws://127.0.0.1:0/live', message_limit: 64KiB }";

async fn start(mode: Mode, accept: &str, backend: &str) -> ModePair {
    Plan { accept, ..Plan::new(mode, backend) }.start().await
}

async fn port(pair: &ModePair) -> SocketAddr {
    let accept = pair.dmz.now().await.services[0].accept[0].clone();
    accept.split_once("//").unwrap().1.split('/').next().unwrap().parse().unwrap()
}

async fn open(
    at: SocketAddr,
    url: &str,
    headers: &[(&'static str, &str)],
) -> Result<WebSocketStream<TcpStream>, Error> {
    let mut request = url.into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, HeaderValue::from_str(value).unwrap());
    }
    let opening = client_async(request, dial(at).await);
    timeout(PATIENCE, opening).await.expect("an answer in time").map(|(socket, _)| socket)
}

async fn next(socket: &mut WebSocketStream<TcpStream>) -> Message {
    timeout(PATIENCE, socket.next()).await.expect("a message in time").unwrap().unwrap()
}

#[tokio::test]
async fn messages_go_up_as_bytes_and_bytes_come_down_as_messages() {
    for mode in MODES {
        let backend = Backend::new().await;
        let pair = start(mode, WS, &backend.address()).await;
        let at = port(&pair).await;
        let offer = [("sec-websocket-protocol", "mqtt, other")];
        let mut request = "ws://host/live/a?b=c".into_client_request().unwrap();
        request.headers_mut().insert(offer[0].0, HeaderValue::from_static(offer[0].1));
        let (mut socket, response) = client_async(request, dial(at).await).await.unwrap();
        assert_eq!(response.headers()["sec-websocket-protocol"], "mqtt");
        socket.send(Message::binary(&b"bin"[..])).await.unwrap();
        socket.send(Message::text("text")).await.unwrap();
        socket.send(Message::binary(&b""[..])).await.unwrap();
        socket.send(Message::Ping(b"there?".as_slice().into())).await.unwrap();
        let mut server = backend.accept().await;
        expect_bytes(&mut server, b"bintext").await;
        assert_eq!(next(&mut socket).await, Message::Pong(b"there?".as_slice().into()));
        send(&mut server, b"down").await;
        assert_eq!(next(&mut socket).await, Message::binary(&b"down"[..]));
        // The backend ends first: a close frame, which the client answers.
        server.shutdown().await.unwrap();
        let Message::Close(Some(CloseFrame { code, .. })) = next(&mut socket).await else { panic!() };
        assert_eq!(u16::from(code), 1000);
        let _ = socket.flush().await;
        expect_end(&mut server).await;
        pair.dmz.until_ended("--").await;

        // The client ends first: the backend reads a clean end.
        let mut socket = open(at, "ws://host/live", &[]).await.unwrap();
        socket.send(Message::binary(&b"last"[..])).await.unwrap();
        socket.close(None).await.unwrap();
        let mut server = backend.accept().await;
        assert_eq!(read_all(&mut server).await, b"last");
        drop(server);
        let clean = |snapshot: &portcullis::telemetry::snapshot::Snapshot| {
            snapshot.ended.len() == 2 && snapshot.ended.iter().all(|row| row.end == "--")
        };
        pair.dmz.until("both ended cleanly", clean).await;
    }
}

/// What frames without masks hold: each one's first byte, and its body.
fn frames(mut wire: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    while let [first, second, rest @ ..] = wire {
        let (length, rest) = match second {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            127 => (u64::from_be_bytes(*rest.first_chunk().unwrap()) as usize, &rest[8..]),
            length => (usize::from(*length), rest),
        };
        all.push((*first, rest[..length].to_vec()));
        wire = &rest[length..];
    }
    all
}

#[tokio::test]
async fn a_client_that_closes_still_gets_the_backends_bytes() {
    let answer: Vec<u8> = (0..400_000_u32).map(|at| (at ^ (at >> 9)) as u8).collect();
    for mode in MODES {
        let backend = Backend::new().await;
        let pair = start(mode, WS, &backend.address()).await;
        let at = port(&pair).await;
        for close in [&b"\x0f\xa1bye"[..], b""] {
            let mut client = raw(at).await;
            let closing = frame(0x88, &[0x80 | close.len() as u8], close);
            // What comes behind it is ignored, and does not turn the end into a reset.
            send(&mut client, &[frame(0x82, &[0x83], b"ask"), closing, vec![7; 10_000]].concat()).await;
            let mut server = backend.accept().await;
            assert_eq!(read_all(&mut server).await, b"ask");
            let answering = async {
                send(&mut server, &answer).await;
                server.shutdown().await.unwrap();
            };
            let (received, ()) = tokio::join!(read_all(&mut client), answering);
            let mut received = frames(&received);
            // The code comes back, without the words.
            assert_eq!(received.pop(), Some((0x88, close[..close.len().min(2)].to_vec())), "{mode:?}");
            assert!(received.iter().all(|(first, body)| *first == 0x82 && body.len() <= 64 * 1024));
            let received: Vec<u8> = received.into_iter().flat_map(|(_, body)| body).collect();
            assert!(received == answer, "{mode:?}: {} bytes", received.len());
        }
        let clean = |snapshot: &portcullis::telemetry::snapshot::Snapshot| {
            snapshot.ended.len() == 2 && snapshot.ended.iter().all(|row| row.end == "--")
        };
        pair.dmz.until("both ended cleanly", clean).await;
    }
}

#[tokio::test]
async fn a_client_that_closes_does_not_wait_for_ever_for_the_backend() {
    let backend = Backend::new().await;
    let pair = start(Mode::Reverse, WS, &backend.address()).await;
    let at = port(&pair).await;
    let mut client = raw(at).await;
    let mut server = backend.accept().await;
    send(&mut client, &frame(0x88, &[0x82], &[3, 0xe8])).await;
    expect_end(&mut server).await;
    assert_eq!(read_all(&mut client).await, [0x88, 2, 0x03, 0xe9]);
    be_cut(&server).await;
    let row = pair.dmz.until_ended("TD").await;
    assert!(row.reason.contains("the client closed; for 5s"), "{}", row.reason);

    // One that is cut meanwhile is a cut at once.
    let mut client = raw(at).await;
    let mut server = backend.accept().await;
    send(&mut server, b"a").await;
    expect_bytes(&mut client, b"\x82\x01a").await;
    send(&mut client, &frame(0x88, &[0x80], b"")).await;
    expect_end(&mut server).await;
    cut(client);
    be_cut(&server).await;
    pair.dmz.until_ended("CD").await;
}

/// The other side, which has ended its direction, resets the connection.
async fn be_cut(stream: &TcpStream) {
    timeout(PATIENCE, stream.ready(Interest::ERROR)).await.expect("a reset in time").unwrap();
    assert!(stream.take_error().unwrap().is_some());
}

#[tokio::test]
async fn a_cut_is_passed_on_as_a_reset() {
    let backend = Backend::new().await;
    let pair = start(Mode::Reverse, WS, &backend.address()).await;
    let at = port(&pair).await;
    let mut socket = open(at, "ws://host/live", &[]).await.unwrap();
    socket.send(Message::binary(&b"a"[..])).await.unwrap();
    let mut server = backend.accept().await;
    expect_bytes(&mut server, b"a").await;
    // An end without a close frame is one.
    drop(socket);
    expect_reset(&mut server).await;
    let mut socket = open(at, "ws://host/live", &[]).await.unwrap();
    socket.send(Message::binary(&b"a"[..])).await.unwrap();
    let mut server = backend.accept().await;
    expect_bytes(&mut server, b"a").await;
    cut(server);
    let end = timeout(PATIENCE, socket.next()).await.expect("an end in time");
    assert!(matches!(end, Some(Err(_)) | None), "{end:?}");
}

#[tokio::test]
async fn a_stream_longer_than_the_message_limit_goes_both_ways() {
    let pair = start(Mode::Reverse, WS, "echo://").await;
    let mut socket = open(port(&pair).await, "ws://host/live", &[]).await.unwrap();
    let piece = vec![7; 60_000];
    let mut received = 0;
    for _ in 0..50 {
        socket.send(Message::binary(piece.clone())).await.unwrap();
        while received < piece.len() {
            received += next(&mut socket).await.into_data().len();
        }
        received -= piece.len();
    }
    assert_eq!(received, 0);
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_backend() {
    let backend = Backend::new().await;
    let pair = start(Mode::Reverse, WS, &backend.address()).await;
    let mut socket = open(port(&pair).await, "ws://host/live", &[]).await.unwrap();
    let mut server = backend.accept().await;
    let (chunk, mut sent) = (vec![7; 64 * 1024], 0);
    while let Ok(written) = timeout(std::time::Duration::from_millis(400), server.write(&chunk)).await {
        sent += written.unwrap();
        assert!(sent < 256 << 20, "nothing stops the sender");
    }
    let mut received = 0;
    while received < sent {
        received += next(&mut socket).await.into_data().len();
    }
    assert_eq!(received, sent);
}

/// An upgrade by hand.
async fn raw(at: SocketAddr) -> TcpStream {
    let mut stream = dial(at).await;
    let head = b"GET /live HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    send(&mut stream, head).await;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(timeout(PATIENCE, stream.read_u8()).await.expect("an answer in time").unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    stream
}

/// A masked frame, its key all zero.
fn frame(first: u8, length: &[u8], payload: &[u8]) -> Vec<u8> {
    [&[first], length, &[0; 4], payload].concat()
}

#[tokio::test]
async fn a_websocket_violation_is_answered_and_affects_no_other_client() {
    let backend = Backend::new().await;
    let pair = start(Mode::Reverse, WS, &backend.address()).await;
    let at = port(&pair).await;
    let mut good = open(at, "ws://host/live", &[]).await.unwrap();
    let mut good_server = backend.accept().await;
    let large = [&frame(2, &[255, 0, 0, 0, 0, 0, 2, 0, 0], b"")[..], &[0; 100]].concat();
    let pieces: Vec<u8> =
        [frame(2, &[254, 200, 0], &[7; 51_200]), frame(0, &[254, 200, 0], &[7; 51_200])].concat();
    for (what, bytes, code) in [
        ("unmasked", b"\x82\x01a".to_vec(), 1002_u16),
        ("a reserved bit", frame(0xc2, &[0x81], b"a"), 1002),
        ("an unknown kind", frame(0x83, &[0x81], b"a"), 1002),
        ("a control frame too long", frame(0x89, &[254, 0, 126], &[7; 126]), 1002),
        ("a fragmented control frame", frame(0x09, &[0x81], b"a"), 1002),
        ("a piece of nothing", frame(0x80, &[0x81], b"a"), 1002),
        ("broken UTF-8", frame(0x81, &[0x82], b"\xc3\x28"), 1007),
        ("a frame too large", large, 1009),
        ("a message too large, in pieces", pieces, 1009),
        ("a close of one byte", frame(0x88, &[0x81], b"a"), 1002),
    ] {
        let mut client = raw(at).await;
        let mut server = backend.accept().await;
        send(&mut client, &bytes).await;
        let reported = read_all(&mut client).await;
        assert_eq!(reported, [&[0x88, 2][..], &code.to_be_bytes()].concat(), "{what}");
        drop(client);
        expect_reset(&mut server).await;
    }
    good.send(Message::binary(&b"good"[..])).await.unwrap();
    expect_bytes(&mut good_server, b"good").await;
}

/// Three services on one port, distinguished by their paths and names, each with its backend.
async fn start_three(mode: Mode, at: SocketAddr, backends: &[Backend; 3]) -> ModePair {
    let connects = backends.each_ref().map(|backend| format!("connect: '{}'", backend.address()));
    let accepts = [
        format!("accept: 'ws://{at}'"),
        format!("accept: 'ws://{at}/a/b', origins: 'https://ok.example'"),
        format!("accept: 'ws://{at}', hosts: ['*.example']"),
    ];
    let both: Vec<_> = accepts.iter().zip(&connects).map(|(to, from)| format!("{to}, {from}")).collect();
    let services = |of: &[String]| {
        let rows = ["root", "deep", "named"].iter().zip(of);
        let rows = rows.map(|(name, keys)| format!("    {name}: {{ {keys} }}\n"));
        format!("  services:\n{}", rows.collect::<String>())
    };
    let (folder, plan) = (TestFolder::new(), Plan::new(mode, "echo://"));
    let half = |half: &str, link: &str, tls: &str, of: &[String]| {
        let mode = mode_word(mode);
        format!("mode: {mode}\n{half}:\n  link: {{ {link}, tls: {tls} }}\n{}", services(of))
    };
    let listen = format!("listen: '{}'", plan.link("127.0.0.1:0"));
    let connect = |at: SocketAddr| format!("connect: '{}'", plan.link(&at.to_string()));
    let (dmz, internal) = match mode {
        Mode::Direct => (folder.start("direct", &format!("mode: direct\ndmz:\n{}", services(&both))), None),
        Mode::Forward => {
            let internal = folder.start("internal", &half("internal", &listen, INTERNAL_TLS, &connects));
            let link = connect(internal.link_port().await);
            (folder.start("dmz", &half("dmz", &link, DMZ_TLS, &accepts)), Some(internal))
        }
        Mode::Reverse => {
            let dmz = folder.start("dmz", &half("dmz", &listen, DMZ_TLS, &accepts));
            let link = connect(dmz.link_port().await);
            (dmz, Some(folder.start("internal", &half("internal", &link, INTERNAL_TLS, &connects))))
        }
    };
    let pair = ModePair { folder, dmz, internal };
    pair.ready().await;
    pair
}

#[tokio::test]
async fn requests_are_read_strictly_and_choose_the_service() {
    for mode in MODES {
        check_strictness(mode).await;
    }
}

async fn check_strictness(mode: Mode) {
    let reserved = Reserved::new();
    let at = reserved.at();
    let backends = [Backend::new().await, Backend::new().await, Backend::new().await];
    let _pair = start_three(mode, at, &backends).await;
    drop(reserved);
    let ok = [("origin", "https://OK.example")];
    for (url, headers, index) in [
        ("ws://any/", &[][..], 0),
        ("ws://any/a/bc", &[], 0),
        ("ws://any/a/b", &ok, 1),
        ("ws://any/a/b/c?x", &ok, 1),
        ("ws://x.Example:99/a/b", &[], 2),
    ] {
        let _socket = open(at, url, headers).await.unwrap();
        timeout(PATIENCE, backends[index].accept()).await.unwrap_or_else(|_| panic!("{mode:?}, {url}"));
    }
    for headers in [&[][..], &[("origin", "https://bad.example")]] {
        let refused = open(at, "ws://any/a/b", headers).await.unwrap_err();
        assert!(matches!(&refused, Error::Http(response) if response.status() == 403), "{refused:?}");
    }
    let good = "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    for (what, head, status) in [
        ("no upgrade", "GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), "426"),
        ("two hosts", good.replace("Host: h", "Host: h\r\nHost: i"), "400"),
        ("no host", good.replace("Host: h\r\n", ""), "400"),
        ("another method", good.replace("GET", "POST"), "400"),
        ("another version", good.replace("13", "8"), "426"),
        ("a short key", good.replace("AAAA", ""), "400"),
        ("a body", good.replace("Host", "Content-Length: 5\r\nHost"), "400"),
        (
            "both lengths",
            good.replace("Host", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\nHost"),
            "400",
        ),
        ("a space before the colon", good.replace("Host:", "Host :"), "400"),
        ("a folded line", good.replace("Upgrade: websocket", "Upgrade:\r\n websocket"), "400"),
        ("an older HTTP", good.replace("HTTP/1.1", "HTTP/1.0"), "400"),
        ("a huge head", good.replace("Host", &format!("X: {}\r\nHost", "x".repeat(70_000))), "431"),
    ] {
        let mut client = dial(at).await;
        // It may be answered before all is taken.
        let _ = client.write_all(head.as_bytes()).await;
        let mut reported = Vec::new();
        let _ = timeout(PATIENCE, client.read_to_end(&mut reported)).await.expect("an end in time");
        let reported = String::from_utf8_lossy(&reported).into_owned();
        // A head that is not read to its end may be answered by a reset alone.
        let is_cut = reported.is_empty() && what == "a huge head";
        assert!(reported.split(' ').nth(1) == Some(status) || is_cut, "{mode:?}, {what}: {reported}");
    }
}

#[tokio::test]
async fn a_client_that_is_lost_is_noticed_and_one_that_answers_is_not() {
    let accept = "{ address: 'ws://127.0.0.1:0/live', inactivity: 600ms }";
    let backend = Backend::new().await;
    let pair = start(Mode::Reverse, accept, &backend.address()).await;
    let at = port(&pair).await;
    let mut silent = raw(at).await;
    let mut its_server = backend.accept().await;
    let mut alive = open(at, "ws://host/live", &[]).await.unwrap();
    let mut server = backend.accept().await;
    let answering = async {
        for _ in 0..4 {
            assert!(matches!(next(&mut alive).await, Message::Ping(_)));
        }
        alive.send(Message::binary(&b"here"[..])).await.unwrap();
        expect_bytes(&mut server, b"here").await;
    };
    let silence = async {
        assert_eq!(expect_reset(&mut silent).await, [0x89, 0], "it is asked before");
        expect_reset(&mut its_server).await;
        pair.dmz.until_ended("CR").await
    };
    let (row, ()) = tokio::join!(silence, answering);
    assert!(row.reason.contains("nothing was heard for 600ms"), "{}", row.reason);
}

#[tokio::test]
async fn a_client_that_does_not_answer_a_close_is_dropped() {
    let backend = Backend::new().await;
    let pair = start(Mode::Direct, WS, &backend.address()).await;
    let mut client = raw(port(&pair).await).await;
    let mut server = backend.accept().await;
    server.shutdown().await.unwrap();
    assert_eq!(expect_reset(&mut client).await, [0x88, 2, 0x03, 0xe8]);
    expect_reset(&mut server).await;
    let row = pair.dmz.until_ended("CD").await;
    assert!(row.reason.contains("nothing was heard for 5s"), "{}", row.reason);
}

#[tokio::test]
async fn wss_is_ws_within_tls() {
    let folder = TestFolder::with(&["dmz", "internal", "www"]);
    let accept = "{ address: 'wss://127.0.0.1:0', tls: { certificate: pki/www.pem, key: pki/www.key } }";
    let pair = Plan { accept, ..Plan::new(Mode::Reverse, "echo://") }.start_in(folder).await;
    let config =
        rustls::ClientConfig::builder().with_root_certificates(roots(&pair.folder)).with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("www").unwrap();
    let stream = TlsConnector::from(std::sync::Arc::new(config)).connect(name, dial(port(&pair).await).await);
    let (mut socket, _) = client_async("wss://www/", stream.await.unwrap()).await.unwrap();
    socket.send(Message::binary(&b"within"[..])).await.unwrap();
    let received = timeout(PATIENCE, socket.next()).await.expect("in time").unwrap().unwrap();
    assert_eq!(received, Message::binary(&b"within"[..]));
    socket.close(None).await.unwrap();
    // TLS ends cleanly too: a cut of it would be an error here.
    while let Some(output) = timeout(PATIENCE, socket.next()).await.expect("an end in time") {
        output.unwrap();
    }
    pair.dmz.until_ended("--").await;
}

#[tokio::test]
async fn what_is_text_comes_down_as_text_and_nothing_else_does() {
    let accept = "{ address: 'ws://127.0.0.1:0/live', frames: text }";
    for mode in MODES {
        let backend = Backend::new().await;
        let pair = start(mode, accept, &backend.address()).await;
        let at = port(&pair).await;
        let mut socket = open(at, "ws://host/live", &[]).await.unwrap();
        let mut server = backend.accept().await;
        send(&mut server, "gr\u{fc}n".as_bytes()).await;
        assert_eq!(next(&mut socket).await, Message::text("gr\u{fc}n"));
        // A letter that comes in pieces is one of one message.
        let (first, rest) = "\u{1f30d}!".as_bytes().split_at(3);
        send(&mut server, first).await;
        pair.dmz.until("it has come", |snapshot| snapshot.totals.bytes_down == 8).await;
        send(&mut server, rest).await;
        assert_eq!(next(&mut socket).await, Message::text("\u{1f30d}!"));
        server.shutdown().await.unwrap();
        let Message::Close(Some(CloseFrame { code, .. })) = next(&mut socket).await else { panic!() };
        assert_eq!(u16::from(code), 1000);
        let _ = socket.flush().await;
        pair.dmz.until_ended("--").await;
        // What is not text, and a text that ends within a character.
        for (bytes, ends) in [(&b"\xc3\x28"[..], false), (b"\xc3", true)] {
            let mut client = raw(at).await;
            let mut server = backend.accept().await;
            send(&mut server, bytes).await;
            if ends {
                server.shutdown().await.unwrap();
            }
            let reported = read_all(&mut client).await;
            assert!(reported.ends_with(&[0x88, 2, 0x03, 0xf3]), "{reported:?}");
            drop(client);
        }
        let of_backend = |snapshot: &portcullis::telemetry::snapshot::Snapshot| {
            let rows = snapshot.ended.iter().filter(|row| row.end.starts_with('B'));
            rows.filter(|row| row.reason.contains("not UTF-8")).count() == 2
        };
        pair.dmz.until("both are the backend's", of_backend).await;
    }
}

#[tokio::test]
async fn a_subprotocol_is_one_of_those_that_the_backend_speaks() {
    let accept = "{ address: 'ws://127.0.0.1:0/live', protocols: [amqp, x-kaazing-own, mqtt] }";
    let backend = Backend::new().await;
    let pair = start(Mode::Reverse, accept, &backend.address()).await;
    let at = port(&pair).await;
    for (offered, chosen) in [
        ("mqtt, amqp", Some("mqtt")),
        ("other, amqp", Some("amqp")),
        ("x-kaazing-handshake, x-kaazing-own", Some("x-kaazing-own")),
        ("AMQP", None),
        ("other", None),
        ("", None),
    ] {
        let mut request = "ws://host/live".into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(offered));
        match (client_async(request, dial(at).await).await, chosen) {
            (Ok((_, response)), Some(chosen)) => {
                assert_eq!(response.headers()["sec-websocket-protocol"], chosen);
            }
            (Err(Error::Http(response)), None) => assert_eq!(response.status(), 400, "{offered}"),
            (other, _) => panic!("{offered}: {other:?}"),
        }
    }
}
