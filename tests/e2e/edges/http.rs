//! Requests of clients, carried as HTTP: cleaned by the DMZ half, read again by the internal half.

use std::{net::SocketAddr, time::Duration};

use portcullis::{profile::Mode, telemetry::snapshot::PoolState};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{
    gateway::{PATIENCE, TestFolder},
    mode_pair::{MODES, ModePair, Plan},
    peers::{Backend, Reserved, cut, dial, expect_bytes, expect_end, expect_reset, read_all, send},
    tls::{chain, key, roots},
};

const HTTP: &str = "http://127.0.0.1:0";

pub(super) fn address(backend: &Backend) -> String {
    backend.address().replace("tcp://", "http://")
}

pub(super) fn plan<'a>(mode: Mode, backend: &'a str) -> Plan<'a> {
    Plan { accept: HTTP, ..Plan::new(mode, backend) }
}

pub(super) async fn start(mode: Mode, backend: &Backend) -> ModePair {
    plan(mode, &address(backend)).start().await
}

pub(super) async fn port(pair: &ModePair) -> SocketAddr {
    let accept = pair.dmz.now().await.services[0].accept[0].clone();
    accept.split_once("//").unwrap().1.split('/').next().unwrap().parse().unwrap()
}

async fn line(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(timeout(PATIENCE, stream.read_u8()).await.expect("a line in time").unwrap());
    }
    String::from_utf8(line).unwrap().trim_end().to_owned()
}

/// Reads to the end of a head: its first line, then its fields, sorted and without `date`.
pub(super) async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Vec<String> {
    let mut lines = vec![line(stream).await];
    loop {
        match line(stream).await {
            last if last.is_empty() => break,
            field => lines.push(field),
        }
    }
    lines.retain(|line| !line.starts_with("date:"));
    lines[1..].sort();
    lines
}

/// Reads a body in chunks to its end, and the trailers.
async fn chunks(stream: &mut TcpStream) -> (String, Vec<String>) {
    let mut body = Vec::new();
    loop {
        let size = usize::from_str_radix(&line(stream).await, 16).unwrap();
        if size == 0 {
            break;
        }
        let from = body.len();
        body.resize(from + size, 0);
        timeout(PATIENCE, stream.read_exact(&mut body[from..])).await.expect("a chunk in time").unwrap();
        assert_eq!(line(stream).await, "");
    }
    let mut trailers = Vec::new();
    loop {
        match line(stream).await {
            last if last.is_empty() => return (String::from_utf8(body).unwrap(), trailers),
            trailer => trailers.push(trailer),
        }
    }
}

/// What one request is answered by a port, to the end of its connection.
pub(super) async fn send_request(at: SocketAddr, request: &str) -> String {
    let mut client = dial(at).await;
    // It may be answered before all is taken.
    let _ = client.write_all(request.as_bytes()).await;
    String::from_utf8(read_all(&mut client).await).unwrap()
}

/// The answer on a connection that stays: the head, and a body of a known length.
pub(crate) async fn answered(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &str,
) -> (Vec<String>, String) {
    send(client, request.as_bytes()).await;
    let head = head(client).await;
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    timeout(PATIENCE, client.read_exact(&mut body)).await.expect("a body in time").unwrap();
    (head, String::from_utf8(body).unwrap())
}

pub(super) async fn answer(backend: &Backend, response: &str) -> TcpStream {
    let mut server = backend.accept().await;
    head(&mut server).await;
    send(&mut server, response.as_bytes()).await;
    server
}

pub(crate) const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
pub(super) const LAST: &str = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
pub(super) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn one_connection_carries_request_after_request() {
    for mode in MODES {
        let backend = Backend::new().await;
        let pair = start(mode, &backend).await;
        let mut client = dial(port(&pair).await).await;
        let from = client.local_addr().unwrap().ip();
        send(&mut client, b"GET /a?b HTTP/1.1\r\nHost: shop.example\r\nX-Own: 1\r\n\r\n").await;
        let mut server = backend.accept().await;
        let expected = [
            "GET /a?b HTTP/1.1".to_owned(),
            "host: shop.example".into(),
            format!("x-forwarded-for: {from}"),
            "x-forwarded-host: shop.example".into(),
            "x-forwarded-proto: http".into(),
            "x-own: 1".into(),
        ];
        let mut received = head(&mut server).await;
        // The session's id, which is another each time.
        let id = received.pop().unwrap();
        assert_eq!(id.strip_prefix("x-request-id: ").map(str::len), Some(12), "{id}");
        assert_eq!(received, expected);
        send(&mut server, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-B: 2\r\n\r\nfirst").await;
        assert_eq!(head(&mut client).await, ["HTTP/1.1 200 OK", "content-length: 5", "x-b: 2"]);
        expect_bytes(&mut client, b"first").await;
        send(&mut client, b"POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody").await;
        assert_eq!(head(&mut server).await[..3], ["POST /b HTTP/1.1", "content-length: 4", "host: h"]);
        expect_bytes(&mut server, b"body").await;
        send(&mut server, b"HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(head(&mut client).await, ["HTTP/1.1 204 No Content"]);
        // The client leaves; its connection at the backend is the next one's.
        client.shutdown().await.unwrap();
        assert_eq!(read_all(&mut client).await, b"");
        pair.dmz.until_ended("--").await;
        assert_eq!(pair.inner().now().await.totals.sessions, 1);
        let next = async { send_request(port(&pair).await, LAST).await };
        let serve = async {
            assert_eq!(head(&mut server).await[0], "GET / HTTP/1.1");
            send(&mut server, OK.as_bytes()).await;
        };
        assert!(tokio::join!(next, serve).0.starts_with("HTTP/1.1 200 OK\r\n"));
    }
}

#[tokio::test]
async fn bodies_in_chunks_and_their_trailers_go_both_ways() {
    let backend = Backend::new().await;
    let pair = start(Mode::Reverse, &backend).await;
    let mut client = dial(port(&pair).await).await;
    let request = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nConnection: TE\r\n\
                   Trailer: X-Sum\r\n\r\n5\r\nfirst\r\n";
    send(&mut client, request.as_bytes()).await;
    let mut server = backend.accept().await;
    let received = head(&mut server).await;
    for field in ["transfer-encoding: chunked", "te: trailers", "trailer: X-Sum"] {
        assert!(received.contains(&field.to_owned()), "{field}: {received:?}");
    }
    // A chunk goes on before the next has come.
    expect_bytes(&mut server, b"5\r\nfirst\r\n").await;
    send(&mut client, b"7\r\n second\r\n0\r\nX-Sum: 7\r\nX-Forwarded-For: me\r\n\r\n").await;
    assert_eq!(chunks(&mut server).await, (" second".to_owned(), vec!["x-sum: 7".to_owned()]));
    let response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\none\r\n";
    send(&mut server, response.as_bytes()).await;
    let received = head(&mut client).await;
    assert_eq!(received, ["HTTP/1.1 200 OK", "trailer: X-Sum", "transfer-encoding: chunked"]);
    expect_bytes(&mut client, b"3\r\none\r\n").await;
    send(&mut server, b"3\r\ntwo\r\n0\r\nX-Sum: 8\r\n\r\n").await;
    assert_eq!(chunks(&mut client).await, ("two".to_owned(), vec!["x-sum: 8".to_owned()]));
    // The connection goes on.
    send(&mut client, GET.as_bytes()).await;
    head(&mut server).await;
    send(&mut server, OK.as_bytes()).await;
    assert_eq!(head(&mut client).await[0], "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn a_client_that_waits_before_its_body_gets_100() {
    let backend = Backend::new().await;
    let pair = start(Mode::Reverse, &backend).await;
    let mut client = dial(port(&pair).await).await;
    send(&mut client, b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        .await;
    expect_bytes(&mut client, b"HTTP/1.1 100 Continue\r\n\r\n").await;
    send(&mut client, b"body").await;
    let mut server = backend.accept().await;
    assert!(!head(&mut server).await.iter().any(|line| line.starts_with("expect")));
    expect_bytes(&mut server, b"body").await;
    send(&mut server, OK.as_bytes()).await;
    assert_eq!(head(&mut client).await[0], "HTTP/1.1 200 OK");
}

const UPGRADE: &str = "GET /live HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                         Sec-WebSocket-Accept: x\r\n\r\n";

/// A connection that has become something else, with what the backend said in the same breath.
async fn upgraded(pair: &ModePair, backend: &Backend) -> (TcpStream, TcpStream) {
    let mut client = dial(port(pair).await).await;
    send(&mut client, UPGRADE.as_bytes()).await;
    let mut server = backend.accept().await;
    let received = head(&mut server).await;
    for field in ["upgrade: websocket", "connection: upgrade", "sec-websocket-version: 13"] {
        assert!(received.contains(&field.to_owned()), "{field}: {received:?}");
    }
    send(&mut server, format!("{SWITCHING}first\n").as_bytes()).await;
    let received = head(&mut client).await;
    let expected = [
        "HTTP/1.1 101 Switching Protocols",
        "connection: upgrade",
        "sec-websocket-accept: x",
        "upgrade: websocket",
    ];
    assert_eq!(received, expected);
    expect_bytes(&mut client, b"first\n").await;
    (client, server)
}

#[tokio::test]
async fn an_upgraded_connection_is_passed_on_as_it_is() {
    for mode in MODES {
        let backend = Backend::new().await;
        let address = backend.address().replace("tcp://", "ws://");
        let accept = "ws://127.0.0.1:0/live";
        let pair = Plan { accept, dmz_service: ", carries: http", ..Plan::new(mode, &address) }.start().await;
        let (mut client, mut server) = upgraded(&pair, &backend).await;
        let mut piece: Vec<u8> = (0..200_000_u32).map(|at| (at ^ (at >> 7)) as u8).collect();
        for _ in 0..3 {
            let (up, down) = tokio::join!(client.write_all(&piece), expect_bytes(&mut server, &piece));
            let _: ((), ()) = (up.unwrap(), down);
            piece.reverse();
            let (down, up) = tokio::join!(server.write_all(&piece), expect_bytes(&mut client, &piece));
            let _: ((), ()) = (down.unwrap(), up);
        }
        // Each side ends for itself.
        client.shutdown().await.unwrap();
        expect_end(&mut server).await;
        send(&mut server, b"last").await;
        server.shutdown().await.unwrap();
        assert_eq!(read_all(&mut client).await, b"last");
        pair.dmz.until_ended("--").await;
        // A cut is one for the other side.
        let (client, mut server) = upgraded(&pair, &backend).await;
        cut(client);
        expect_reset(&mut server).await;
        let (mut client, server) = upgraded(&pair, &backend).await;
        cut(server);
        expect_reset(&mut client).await;
        // What wants no WebSocket has no business there, and another path has none either.
        let at = port(&pair).await;
        let plain = send_request(at, &LAST.replace("GET /", "GET /live")).await;
        assert!(plain.starts_with("HTTP/1.1 426 "), "{plain}");
        assert!(send_request(at, LAST).await.starts_with("HTTP/1.1 404 "));
    }
}

#[tokio::test]
async fn an_upgrade_that_is_refused_is_an_answer_like_any() {
    let backend = Backend::new().await;
    let pair = start(Mode::Reverse, &backend).await;
    let mut client = dial(port(&pair).await).await;
    // What comes behind it is the next request, once it is refused.
    send(&mut client, format!("{}{GET}", UPGRADE.replace("websocket", "own/1")).as_bytes()).await;
    let refusal = "HTTP/1.1 426 Upgrade Required\r\nUpgrade: own/2, other\r\nConnection: Upgrade\r\n\
                   Content-Length: 2\r\n\r\nno";
    let mut server = answer(&backend, refusal).await;
    let reported = [
        "HTTP/1.1 426 Upgrade Required",
        "connection: upgrade",
        "content-length: 2",
        "upgrade: own/2, other",
    ];
    assert_eq!(head(&mut client).await, reported);
    expect_bytes(&mut client, b"no").await;
    // Both connections stay.
    for _ in 0..2 {
        assert_eq!(head(&mut server).await[0], "GET / HTTP/1.1");
        send(&mut server, OK.as_bytes()).await;
        assert_eq!(head(&mut client).await, ["HTTP/1.1 200 OK", "content-length: 2"]);
        expect_bytes(&mut client, b"ok").await;
        send(&mut client, GET.as_bytes()).await;
    }
    assert_eq!(pair.dmz.now().await.totals.sessions, 1);
    // Another HTTP is not passed on: the request is one like any.
    let ask = async {
        send_request(
            port(&pair).await,
            &LAST.replace("Connection", "Upgrade: h2c\r\nConnection: Upgrade\r\nConnection"),
        )
        .await
    };
    let serve = async {
        let mut server = backend.accept().await;
        let received = head(&mut server).await;
        assert!(
            !received.iter().any(|line| line.starts_with("upgrade") || line.starts_with("connection")),
            "{received:?}"
        );
        send(&mut server, OK.as_bytes()).await;
    };
    let (reported, ()) = tokio::join!(ask, serve);
    assert!(reported.starts_with("HTTP/1.1 200 "), "{reported}");
    // A page of another origin opens no WebSocket, and asks for pages as it likes.
    let accept = "{ address: 'http://127.0.0.1:0', origins: 'https://ok.example' }";
    let pair = Plan { accept, ..plan(Mode::Direct, &address(&backend)) }.start().await;
    let other = UPGRADE.replace("Host", "Origin: https://bad.example\r\nHost");
    assert!(send_request(port(&pair).await, &other).await.starts_with("HTTP/1.1 403 "));
    let other = LAST.replace("Host", "Origin: https://bad.example\r\nHost");
    let ask = async { send_request(port(&pair).await, &other).await };
    let (reported, _server) = tokio::join!(ask, answer(&backend, OK));
    assert!(reported.starts_with("HTTP/1.1 200 "), "{reported}");
}

#[tokio::test]
async fn a_connection_upgrades_to_the_protocol_the_backend_chose() {
    for mode in MODES {
        let backend = Backend::new().await;
        let pair = start(mode, &backend).await;
        let mut client = dial(port(&pair).await).await;
        // What a client says at once is for the new protocol.
        send(&mut client, format!("{UPGRADE}early\n").as_bytes()).await;
        let mut server =
            answer(&backend, "HTTP/1.1 101 Oh\r\nUpgrade: foo/2\r\nConnection: Upgrade\r\n\r\n").await;
        expect_bytes(&mut server, b"early\n").await;
        assert_eq!(head(&mut client).await, ["HTTP/1.1 101 Oh", "connection: upgrade", "upgrade: foo/2"]);
        send(&mut server, b"late\n").await;
        expect_bytes(&mut client, b"late\n").await;
    }
}

#[tokio::test]
async fn signs_that_a_target_may_not_have_are_named() {
    let backend = Backend::new().await;
    let pair = start(Mode::Direct, &backend).await;
    let at = port(&pair).await;
    for target in ["/a?b=\"c\"", "/a?<b>", "/<a>", "/a#b", "/a?b#c"] {
        let reported = send_request(at, &GET.replace("/ ", &format!("{target} "))).await;
        assert!(
            reported.starts_with("HTTP/1.1 400 ") && reported.contains("percent-encoded"),
            "{target}: {reported}"
        );
    }
    // Those before it are served.
    let mut client = dial(at).await;
    send(&mut client, format!("{GET}{}", GET.replace("/ ", "/?\" ")).as_bytes()).await;
    let mut server = answer(&backend, OK).await;
    assert_eq!(head_line(&mut client).await, "HTTP/1.1 200 OK");
    expect_bytes(&mut client, b"ok").await;
    assert_eq!(head_line(&mut client).await, "HTTP/1.1 400 Bad Request");
    // What is allowed reaches the backend as it is.
    let mut client = dial(at).await;
    send(&mut client, GET.replace("/ ", "/{a}?b={c|d}^[e]'\\` ").as_bytes()).await;
    assert_eq!(head(&mut server).await[0], "GET /{a}?b={c|d}^[e]'\\` HTTP/1.1");
}

/// These reach no service; hyper answers them itself.
#[tokio::test]
async fn an_unreadable_head_gets_an_error_response() {
    let backend = Backend::new().await;
    let pair = start(Mode::Direct, &backend).await;
    let at = port(&pair).await;
    let long = GET.replace("\r\n\r\n", &format!("\r\nX: {}\r\n\r\n", "x".repeat(100_000)));
    let malformed = "\r\ncontent-length: 37\r\n\r\nthe head of the request is malformed\n";
    let large = "\r\ncontent-length: 37\r\n\r\nthe head of the request is too large\n";
    for (head, status, words) in [
        (GET.replace("Host:", "Host :"), "400 Bad Request", malformed),
        (GET.replace("HTTP/1.1", "HTTP/7.1"), "400 Bad Request", malformed),
        (GET.replace("GET", "G=T"), "400 Bad Request", malformed),
        (long, "431 Request Header Fields Too Large", large),
    ] {
        let reported = send_request(at, &head).await;
        assert!(
            reported.starts_with(&format!("HTTP/1.1 {status}\r\n")) && reported.ends_with(words),
            "{reported}"
        );
    }
    // Behind an answer, and not in its place: a backend's own empty one stays empty.
    let mut client = dial(at).await;
    send(&mut client, GET.as_bytes()).await;
    let empty = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    let _server = answer(&backend, empty).await;
    let reported = head(&mut client).await;
    assert!(reported.contains(&"content-length: 0".to_owned()), "{reported:?}");
    send(&mut client, GET.replace("Host:", "Host :").as_bytes()).await;
    let reported = read_all(&mut client).await;
    assert!(reported.ends_with(malformed.as_bytes()), "{}", String::from_utf8_lossy(&reported));
}

#[tokio::test]
async fn services_share_a_port_and_a_connection_by_path() {
    let (folder, reserved) = (TestFolder::new(), Reserved::new());
    let at = reserved.at();
    let backends = [Backend::new().await, Backend::new().await];
    let [shop, docs] = backends.each_ref().map(address);
    let text = format!(
        "mode: direct\ndmz:\n  services:\n    shop: {{ accept: 'http://{at}/shop', connect: '{shop}/app' }}\n    \
         docs: {{ accept: 'http://{at}', hosts: 'docs.example', connect: '{docs}' }}\n"
    );
    let gateway = folder.start("direct", &text);
    drop(reserved);
    let mut client = dial(at).await;
    let mut servers = Vec::new();
    for turn in 0..2 {
        for (index, asks, host, sees) in
            [(0, "/shop/a?b", "any", "/app/a?b"), (1, "/x", "Docs.Example:8", "/x")]
        {
            send(&mut client, format!("GET {asks} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await;
            if turn == 0 {
                servers.push(backends[index].accept().await);
            }
            let server = &mut servers[index];
            let received = head(server).await;
            assert_eq!(received[0], format!("GET {sees} HTTP/1.1"));
            let prefix = received.iter().find(|line| line.starts_with("x-forwarded-prefix"));
            assert_eq!(prefix.map(String::as_str), (index == 0).then_some("x-forwarded-prefix: /shop"));
            let response = format!(
                "HTTP/1.1 302 Found\r\nLocation: {}/app/next\r\nX-By: {}\r\nContent-Length: 0\r\n\r\n",
                address(&backends[index]),
                backends[index].listener.local_addr().unwrap()
            );
            send(server, response.as_bytes()).await;
            let folder = ["location: /shop/next", "location: /app/next"][index];
            let received = head(&mut client).await;
            assert_eq!(received[..3], ["HTTP/1.1 302 Found", "content-length: 0", folder]);
        }
        // What is not there costs the connection nothing.
        let (head, body) = answered(&mut client, GET).await;
        assert_eq!(head[0], "HTTP/1.1 404 Not Found");
        assert_eq!(body, "there is no such service\n");
    }
    assert_eq!(gateway.now().await.totals.sessions, 2);
}

#[tokio::test]
async fn a_connection_has_few_sessions_though_it_asks_for_many_services() {
    const SERVICES: usize = 11;
    let (folder, reserved) = (TestFolder::new(), Reserved::new());
    let at = reserved.at();
    let backend = Backend::new().await;
    let to = address(&backend);
    let service = |n: usize| format!("    s{n}: {{ accept: 'http://{at}/s{n}', connect: '{to}' }}\n");
    let services: String = (0..SERVICES).map(service).collect();
    let gateway = folder.start("direct", &format!("mode: direct\ndmz:\n  services:\n{services}"));
    drop(reserved);
    let mut client = dial(at).await;
    let mut servers = Vec::new();
    for n in 0..SERVICES {
        send(&mut client, format!("GET /s{n} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()).await;
        servers.push(answer(&backend, OK).await);
        assert_eq!(head_line(&mut client).await, "HTTP/1.1 200 OK");
        expect_bytes(&mut client, b"ok").await;
    }
    // Those that were used longest ago have given way, cleanly.
    let kept = gateway.until("eight are kept", |snapshot| snapshot.totals.sessions_open == 8).await;
    assert_eq!(kept.totals.sessions, SERVICES as u64);
    // The last one is still used, the first has a new session; what it reached its backend over is still there.
    send(&mut client, b"GET /s10 HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let last = servers.last_mut().expect("one for each");
    assert_eq!(head(last).await[0], "GET /s10 HTTP/1.1");
    send(last, OK.as_bytes()).await;
    head_line(&mut client).await;
    expect_bytes(&mut client, b"ok").await;
    send(&mut client, b"GET /s0 HTTP/1.1\r\nHost: h\r\n\r\n").await;
    head(&mut servers[0]).await;
    send(&mut servers[0], OK.as_bytes()).await;
    assert_eq!(head_line(&mut client).await, "HTTP/1.1 200 OK");
    assert_eq!(gateway.now().await.totals.sessions, SERVICES as u64 + 1);
}

#[tokio::test]
async fn a_kept_alive_connection_is_closed_after_a_switch() {
    let (folder, reserved) = (TestFolder::new(), Reserved::new());
    let at = reserved.at();
    let [old, new] = [Backend::new().await, Backend::new().await];
    let text = |to: &Backend| {
        let to = address(to);
        format!("mode: direct\ndmz:\n  services: {{ web: {{ accept: 'http://{at}', connect: '{to}' }} }}\n")
    };
    let gateway = folder.start("direct", &text(&old));
    drop(reserved);
    let mut kept = dial(at).await;
    send(&mut kept, GET.as_bytes()).await;
    let mut server = answer(&old, OK).await;
    assert_eq!(head(&mut kept).await, ["HTTP/1.1 200 OK", "content-length: 2"]);
    expect_bytes(&mut kept, b"ok").await;
    let changed = folder.profile("direct", &text(&new));
    gateway.switch(&changed).await;
    // Its session goes on as it was, for this one request.
    send(&mut kept, GET.as_bytes()).await;
    head(&mut server).await;
    send(&mut server, OK.as_bytes()).await;
    assert_eq!(head(&mut kept).await, ["HTTP/1.1 200 OK", "connection: close", "content-length: 2"]);
    assert_eq!(read_all(&mut kept).await, b"ok");
    let mut next = dial(at).await;
    send(&mut next, GET.as_bytes()).await;
    let _server = answer(&new, OK).await;
    assert_eq!(head_line(&mut next).await, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn links_of_socks_carry_requests_too() {
    for (mode, listens) in [("forward", false), ("reverse", true)] {
        let (folder, reserved, backend) = (TestFolder::new(), Reserved::new(), Backend::new().await);
        let link = format!("'socks://{}'", reserved.at());
        let to = address(&backend);
        let [dmz_link, internal_link] = if listens { ["listen", "connect"] } else { ["connect", "listen"] }
            .map(|key| format!("{key}: {link}"));
        let dmz = format!(
            "mode: {mode}\ndmz:\n  link: {{ {dmz_link}, prepared: 1 }}\n  \
             services: {{ web: {{ accept: 'http://127.0.0.1:0', carries: http }} }}\n"
        );
        let internal = format!(
            "mode: {mode}\ninternal:\n  link: {{ {internal_link}, prepared: 1 }}\n  \
             services: {{ web: {{ connect: '{to}' }} }}\n"
        );
        drop(reserved);
        let (internal, dmz) = match listens {
            true => {
                let dmz = folder.start("dmz", &dmz);
                (folder.start("internal", &internal), dmz)
            }
            false => (folder.start("internal", &internal), folder.start("dmz", &dmz)),
        };
        dmz.until_pool("healthy", |row| row.state == PoolState::Healthy).await;
        let at = dmz.client_port("web").await;
        let mut client = dial(at).await;
        let mut servers = Vec::new();
        for turn in 0..2 {
            send(&mut client, GET.as_bytes()).await;
            if turn == 0 {
                servers.push(backend.accept().await);
            }
            head(&mut servers[0]).await;
            send(&mut servers[0], OK.as_bytes()).await;
            assert_eq!(head_line(&mut client).await, "HTTP/1.1 200 OK", "{mode}");
            expect_bytes(&mut client, b"ok").await;
        }
        assert_eq!(internal.now().await.totals.sessions, 1, "{mode}");
    }
}

#[tokio::test]
async fn a_body_whose_chunks_are_none_is_refused_whatever_the_method() {
    for mode in MODES {
        let backend = Backend::new().await;
        let pair = start(mode, &backend).await;
        let at = port(&pair).await;
        for method in ["GET", "HEAD", "POST", "DELETE"] {
            for body in ["xyz\r\n", "-3\r\nabc\r\n0\r\n\r\n", "3\r\nabcd\r\n0\r\n\r\n"] {
                let request =
                    format!("{method} / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
                let reported = send_request(at, &request).await;
                assert!(reported.starts_with("HTTP/1.1 400 "), "{mode:?}, {method}, {body:?}: {reported}");
            }
        }
    }
}

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

/// Requests that are refused, and the status that says so.
fn ambiguous_requests() -> Vec<(&'static str, String, &'static str)> {
    vec![
        (
            "both lengths",
            format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n{CHUNKED}\r\n0\r\n\r\n{SMUGGLED}"),
            "400",
        ),
        (
            "both lengths, turned",
            format!("POST / HTTP/1.1\r\nHost: h\r\n{CHUNKED}Content-Length: 4\r\n\r\n0\r\n\r\n{SMUGGLED}"),
            "400",
        ),
        (
            "two lengths",
            format!(
                "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Length: 40\r\n\r\n{SMUGGLED}"
            ),
            "400",
        ),
        (
            "a signed length",
            format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +0\r\n\r\n{SMUGGLED}"),
            "400",
        ),
        (
            "a strange coding",
            format!("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n{SMUGGLED}"),
            "400",
        ),
        ("chunks of old", format!("POST / HTTP/1.0\r\nHost: h\r\n{CHUNKED}\r\n0\r\n\r\n{SMUGGLED}"), "400"),
        ("a bare LF", format!("GET / HTTP/1.1\nHost: h\r\n\r\n{SMUGGLED}"), "400"),
        ("a bare LF at the end", format!("GET / HTTP/1.1\r\nHost: h\r\n\n{SMUGGLED}"), "400"),
        ("a folded line", "GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n".into(), "400"),
        ("a space before the colon", "GET / HTTP/1.1\r\nHost : h\r\n\r\n".into(), "400"),
        ("a name with a space", "GET / HTTP/1.1\r\nHost: h\r\nX Y: a\r\n\r\n".into(), "400"),
        ("a CR within", "GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n".into(), "400"),
        ("two hosts", "GET / HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n".into(), "400"),
        ("no host", "GET / HTTP/1.1\r\n\r\n".into(), "400"),
        ("another host", "GET http://i/ HTTP/1.1\r\nHost: h\r\n\r\n".into(), "400"),
        ("a path that climbs", "GET /a/..%2f HTTP/1.1\r\nHost: h\r\n\r\n".into(), "400"),
        ("no HTTP", "hello there\r\n\r\n".into(), "400"),
        ("TRACE", "TRACE / HTTP/1.1\r\nHost: h\r\n\r\n".into(), "405"),
        ("CONNECT", "CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n".into(), "501"),
        ("a huge head", format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(50_000)), "431"),
        ("an endless head", format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "x".repeat(200_000)), "431"),
        ("many fields", format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(200)), "431"),
        ("a long target", format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(66_000)), "4"),
    ]
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_reaches_no_backend() {
    for mode in MODES {
        check_ambiguous(mode).await;
    }
}

async fn check_ambiguous(mode: Mode) {
    let backend = Backend::new().await;
    let pair = start(mode, &backend).await;
    let at = port(&pair).await;
    for (what, request, status) in ambiguous_requests() {
        let reported = send_request(at, &request).await;
        assert!(reported.starts_with(&format!("HTTP/1.1 {status}")), "{mode:?}, {what}: {reported}");
        assert!(reported.matches("HTTP/1.1 ").count() == 1, "{mode:?}, {what}: {reported}");
    }
    // What reaches the backend first is a request that is good.
    send(&mut dial(at).await, GET.as_bytes()).await;
    assert_eq!(head(&mut backend.accept().await).await[0], "GET / HTTP/1.1");
}

#[tokio::test]
async fn what_stands_within_a_body_is_no_request() {
    for mode in MODES {
        check_within_body(mode).await;
    }
}

async fn check_within_body(mode: Mode) {
    let backend = Backend::new().await;
    let pair = start(mode, &backend).await;
    let at = port(&pair).await;
    // A body that is damaged on the way is cut, and its contents are not taken for a request.
    let mut client = dial(at).await;
    send(&mut client, format!("POST / HTTP/1.1\r\nHost: h\r\n{CHUNKED}\r\n3\r\nabc\r\n").as_bytes()).await;
    let mut server = backend.accept().await;
    head(&mut server).await;
    expect_bytes(&mut server, b"3\r\nabc\r\n").await;
    send(&mut client, format!("5\n{SMUGGLED}").as_bytes()).await;
    assert_eq!(expect_reset(&mut server).await, b"");
    // A body of a given length is a body, whatever stands in it.
    let body = format!(
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{SMUGGLED}",
        SMUGGLED.len()
    );
    let ask = async { send_request(at, &body).await };
    let serve = async {
        let mut server = backend.accept().await;
        assert_eq!(head(&mut server).await[0], "POST / HTTP/1.1");
        expect_bytes(&mut server, SMUGGLED.as_bytes()).await;
        send(&mut server, OK.as_bytes()).await;
        server
    };
    let (reported, mut server) = tokio::join!(ask, serve);
    assert!(reported.starts_with("HTTP/1.1 200 "), "{reported}");
    // Two requests at once are answered one after the other.
    let mut client = dial(at).await;
    send(&mut client, format!("{GET}{LAST}").as_bytes()).await;
    assert_eq!(head(&mut server).await[0], "GET / HTTP/1.1");
    send(&mut server, OK.as_bytes()).await;
    assert_eq!(head(&mut client).await[0], "HTTP/1.1 200 OK");
    expect_bytes(&mut client, b"ok").await;
    head(&mut server).await;
    send(&mut server, &OK.as_bytes()[..OK.len() - 2]).await;
    send(&mut server, b"OK").await;
    assert!(read_all(&mut client).await.ends_with(b"\r\n\r\nOK"));
}

#[tokio::test]
async fn an_incomplete_request_gets_an_error_response() {
    let backend = Backend::new().await;
    let pair = start(Mode::Direct, &backend).await;
    let at = port(&pair).await;
    let received = async |sent: &[u8]| {
        let mut slow = dial(at).await;
        send(&mut slow, sent).await;
        let mut received = Vec::new();
        let patience = Duration::from_secs(14);
        timeout(patience, slow.read_to_end(&mut received)).await.expect("an end in time").unwrap();
        String::from_utf8(received).unwrap()
    };
    let (begun, silent) = tokio::join!(received(&GET.as_bytes()[..10]), received(b""));
    assert!(begun.starts_with("HTTP/1.1 408 ") && silent.starts_with("HTTP/1.1 408 "), "{begun} {silent}");
}

fn session(reported: &str) -> &str {
    reported.trim_end().rsplit_once("session ").unwrap().1
}

#[tokio::test]
async fn an_error_response_carries_the_session_id() {
    let gone = Reserved::new();
    let refused = format!("http://{}", gone.at());
    for mode in MODES {
        let pair = plan(mode, &refused).start().await;
        let mut client = dial(port(&pair).await).await;
        // The connection stays, and each try is one.
        for _ in 0..2 {
            let (head, body) = answered(&mut client, GET).await;
            assert_eq!(head[0], "HTTP/1.1 502 Bad Gateway", "{mode:?}");
            assert!(!body.contains("127.0.0.1"), "{body}");
            let row = pair.dmz.until_ended("BC").await;
            assert!(pair.dmz.now().await.ended.iter().any(|row| row.id == session(&body)), "{row:?} {body}");
        }
    }
    // Nobody serves it.
    let folder = TestFolder::new();
    let alone = Plan { dmz_link: ", wait: 100ms", ..plan(Mode::Reverse, &refused) };
    let dmz = folder.start("dmz", &alone.dmz("listen: 'socks+tls://127.0.0.1:0'"));
    let at = dmz.now().await.services[0].accept[0].strip_prefix("http://").unwrap().parse().unwrap();
    let (head, body) = answered(&mut dial(at).await, GET).await;
    assert_eq!(head[0], "HTTP/1.1 503 Service Unavailable");
    assert!(head.contains(&"retry-after: 5".to_owned()), "{head:?}");
    assert_eq!(dmz.until_ended("TW").await.id, session(&body));
    // It is full.
    let backend = Backend::new().await;
    let backend_address = address(&backend);
    let full = Plan { dmz_service: ", sessions: 1", ..plan(Mode::Reverse, &backend_address) };
    let pair = full.start().await;
    let mut first = dial(port(&pair).await).await;
    send(&mut first, GET.as_bytes()).await;
    let _server = answer(&backend, &OK[..OK.len() - 1]).await;
    assert_eq!(head_line(&mut first).await, "HTTP/1.1 200 OK");
    let mut second = dial(port(&pair).await).await;
    let (head, body) = answered(&mut second, GET).await;
    assert_eq!(head[0], "HTTP/1.1 503 Service Unavailable");
    assert_eq!(pair.dmz.until_ended("LA").await.id, session(&body));
    // It does not answer.
    let folder = TestFolder::with(&["dmz", "internal", "backend"]);
    let late = backend.address().replace("tcp://", "https://");
    let late = format!("{{ address: '{late}', tls: {{ ca: pki/ca.pem, name: backend }} }}");
    let pair = plan(Mode::Reverse, &late).start_in(folder).await;
    let (head, body) = answered(&mut dial(port(&pair).await).await, GET).await;
    assert_eq!(head[0], "HTTP/1.1 504 Gateway Timeout");
    assert_eq!(pair.inner().until_ended("BC").await.id, session(&body));
}

pub(super) async fn head_line(stream: &mut TcpStream) -> String {
    head(stream).await.remove(0)
}

#[tokio::test]
async fn a_backend_that_dies_is_never_a_clean_end() {
    let backend = Backend::new().await;
    let pair = start(Mode::Reverse, &backend).await;
    let at = port(&pair).await;
    // Before its head: an answer, and a new connection for the next request of the same session.
    let mut client = dial(at).await;
    send(&mut client, GET.as_bytes()).await;
    let mut server = backend.accept().await;
    head(&mut server).await;
    drop(server);
    assert_eq!(head_line(&mut client).await, "HTTP/1.1 502 Bad Gateway");
    for (head, is_cut) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf", true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", true),
        // One that ends with its connection can be cut alone.
        ("HTTP/1.1 200 OK\r\n\r\nhalf", true),
    ] {
        let mut client = dial(at).await;
        send(&mut client, GET.as_bytes()).await;
        let server = answer(&backend, head).await;
        head_line(&mut client).await;
        let mut half = [0; 4];
        timeout(PATIENCE, client.read_exact(&mut half)).await.expect("half in time").unwrap();
        if is_cut {
            cut(server)
        } else {
            drop(server)
        }
        let rest = expect_reset(&mut client).await;
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{head}: {rest:?}");
    }
    let ask = async { send_request(at, LAST).await };
    let serve = async { drop(answer(&backend, "HTTP/1.1 200 OK\r\n\r\nto its end").await) };
    let (reported, ()) = tokio::join!(ask, serve);
    assert!(reported.ends_with("to its end\r\n0\r\n\r\n"), "{reported}");
}

#[tokio::test]
async fn a_backend_that_closes_between_requests_is_dialled_again() {
    let backend = Backend::new().await;
    let pair = start(Mode::Reverse, &backend).await;
    let mut client = dial(port(&pair).await).await;
    for _ in 0..3 {
        send(&mut client, GET.as_bytes()).await;
        let mut server = answer(&backend, &OK.replace("Content", "Connection: close\r\nContent")).await;
        assert_eq!(head(&mut client).await, ["HTTP/1.1 200 OK", "content-length: 2"]);
        expect_bytes(&mut client, b"ok").await;
        server.shutdown().await.unwrap();
        expect_end(&mut server).await;
    }
    assert_eq!(pair.dmz.now().await.totals.sessions, 1);
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_exchange_with_it() {
    let backend = Backend::new().await;
    let pair = start(Mode::Reverse, &backend).await;
    for request in [GET.into(), GET.replace("Host", "Content-Length: 9\r\nHost"), UPGRADE.to_owned()] {
        let mut client = dial(port(&pair).await).await;
        send(&mut client, request.as_bytes()).await;
        let mut server = backend.accept().await;
        head(&mut server).await;
        cut(client);
        expect_reset(&mut server).await;
    }
    pair.dmz.until("nothing is left", |snapshot| snapshot.totals.sessions_open == 0).await;
    pair.inner().until("nothing is left inside", |snapshot| snapshot.totals.sessions_open == 0).await;
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_for_a_link_keeps_no_place() {
    let folder = TestFolder::new();
    let nowhere = "http://127.0.0.1:1";
    let alone = Plan { dmz_link: ", wait: 60s", ..plan(Mode::Reverse, nowhere) };
    let dmz = folder.start("dmz", &alone.dmz("listen: 'socks+tls://127.0.0.1:0'"));
    let at = dmz.now().await.services[0].accept[0].strip_prefix("http://").unwrap().parse().unwrap();
    let mut client = dial(at).await;
    send(&mut client, GET.as_bytes()).await;
    dmz.until("it waits", |snapshot| snapshot.totals.sessions_waiting == 1).await;
    cut(client);
    assert_eq!(dmz.until_ended("CW").await.reason, "the client left");
}

/// As `nc -N` does with a request: whether a link is ready is not its affair.
#[tokio::test]
async fn a_client_that_has_finished_sending_is_answered_when_a_link_comes() {
    let (port, backend, folder) = (Reserved::new(), Backend::new().await, TestFolder::new());
    let to = address(&backend);
    let plan = Plan {
        dmz_link: ", wait: 60s",
        internal_link: ", retry: { first: 10ms, maximum: 50ms }",
        ..plan(Mode::Reverse, &to)
    };
    let link = |key: &str| format!("{key}: 'socks+tls://{}'", port.at());
    let dmz = folder.start("dmz", &plan.dmz(&link("listen")));
    let at = dmz.now().await.services[0].accept[0].strip_prefix("http://").unwrap().parse().unwrap();
    let mut client = dial(at).await;
    send(&mut client, GET.as_bytes()).await;
    client.shutdown().await.unwrap();
    dmz.until("it waits", |snapshot| snapshot.totals.sessions_waiting == 1).await;
    // Longer than it takes to notice that it has finished.
    let leaves = timeout(Duration::from_millis(400), client.read_u8()).await;
    assert!(leaves.is_err(), "it waits like any other: {leaves:?}");
    let _internal = folder.start("internal", &plan.internal(&link("connect")));
    let mut server = backend.accept().await;
    head(&mut server).await;
    send(&mut server, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(head(&mut client).await, ["HTTP/1.1 200 OK", "content-length: 2"]);
    assert_eq!(read_all(&mut client).await, b"ok");
}

#[tokio::test]
async fn a_stop_waits_for_exchanges_and_for_no_idle_connection() {
    for stops_inner in [false, true] {
        let backend = Backend::new().await;
        let backend_address = address(&backend);
        let mut pair = Plan { drain: "30s", ..plan(Mode::Reverse, &backend_address) }.start().await;
        let at = port(&pair).await;
        let (mut idle, mut busy) = (dial(at).await, dial(at).await);
        send(&mut idle, GET.as_bytes()).await;
        let mut idle_server = backend.accept().await;
        head(&mut idle_server).await;
        send(&mut busy, GET.as_bytes()).await;
        let mut server = backend.accept().await;
        head(&mut server).await;
        send(&mut idle_server, OK.as_bytes()).await;
        head(&mut idle).await;
        expect_bytes(&mut idle, b"ok").await;
        let stopped = if stops_inner { pair.internal.take().unwrap() } else { pair.dmz };
        let stopping = stopped.stop();
        let finish = async {
            if !stops_inner {
                expect_end(&mut idle).await;
            }
            send(&mut server, OK.as_bytes()).await;
            assert_eq!(head_line(&mut busy).await, "HTTP/1.1 200 OK");
            expect_bytes(&mut busy, b"ok").await;
        };
        let (outcome, ()) = tokio::join!(stopping, finish);
        if stops_inner {
            // Nothing is left at the backend.
            expect_end(&mut idle_server).await;
            expect_end(&mut server).await;
        }
        assert_eq!(outcome, portcullis::gateway::GatewayOutcome::Clean, "{stops_inner}");
    }
}

#[tokio::test]
async fn an_older_client_is_served() {
    let backend = Backend::new().await;
    let pair = start(Mode::Reverse, &backend).await;
    let ask = async { send_request(port(&pair).await, "GET / HTTP/1.0\r\n\r\n").await };
    let serve = async {
        let mut server = backend.accept().await;
        let received = head(&mut server).await;
        let host = format!("host: {}", backend.listener.local_addr().unwrap());
        assert!(received[0] == "GET / HTTP/1.1" && received.contains(&host), "{received:?}");
        send(&mut server, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").await;
    };
    let (reported, ()) = tokio::join!(ask, serve);
    assert!(reported.starts_with("HTTP/1.0 200 OK\r\n") && reported.ends_with("\r\n\r\nok"), "{reported}");
    // A client that would keep its connection learns that the end of the connection is the end of
    // the body.
    const STAYS: &str = "GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n";
    let mut client = dial(port(&pair).await).await;
    send(&mut client, STAYS.as_bytes()).await;
    let mut server = answer(&backend, OK).await;
    assert_eq!(head(&mut client).await, ["HTTP/1.0 200 OK", "connection: keep-alive", "content-length: 2"]);
    expect_bytes(&mut client, b"ok").await;
    send(&mut client, STAYS.as_bytes()).await;
    head(&mut server).await;
    send(&mut server, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").await;
    assert_eq!(head(&mut client).await, ["HTTP/1.0 200 OK", "connection: close"]);
    assert_eq!(read_all(&mut client).await, b"ok");
}

#[tokio::test]
async fn https_is_spoken_at_both_edges() {
    let folder = TestFolder::with(&["dmz", "internal", "www"]);
    let tls = "tls: { certificate: pki/www.pem, key: pki/www.key }";
    let accept = format!("{{ address: 'https://127.0.0.1:0', {tls} }}");
    let backend = Backend::new().await;
    let https = backend.address().replace("tcp://", "https://");
    let https = format!("{{ address: '{https}', tls: {{ ca: pki/ca.pem, name: www }} }}");
    let pair = Plan { accept: &accept, ..Plan::new(Mode::Reverse, &https) }.start_in(folder).await;
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain(&pair.folder, "www.pem"), key(&pair.folder, "www.key"))
        .unwrap();
    let serve = async {
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
        let mut server = acceptor.accept(backend.accept().await).await.unwrap();
        let mut received = Vec::new();
        while !received.ends_with(b"\r\n\r\n") {
            received.push(timeout(PATIENCE, server.read_u8()).await.expect("a head in time").unwrap());
        }
        send(&mut server, OK.as_bytes()).await;
        let _ = server.shutdown().await;
        String::from_utf8(received).unwrap()
    };
    let config =
        rustls::ClientConfig::builder().with_root_certificates(roots(&pair.folder)).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let name = rustls::pki_types::ServerName::try_from("www").unwrap();
    let mut client = connector.connect(name, dial(port(&pair).await).await).await.unwrap();
    send(&mut client, LAST.as_bytes()).await;
    let (reported, received) = tokio::join!(read_all(&mut client), serve);
    assert!(received.contains("x-forwarded-proto: https\r\n"), "{received}");
    assert!(reported.ends_with(b"\r\n\r\nok"), "{}", String::from_utf8_lossy(&reported));
    pair.dmz.until_ended("--").await;
}
