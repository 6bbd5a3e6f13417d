//! WebSocket handshakes: every spelling that RFC 9110 and RFC 6455 allow is accepted, and every
//! ambiguous one is refused.

use std::{convert::Infallible, net::SocketAddr};

use hyper::{Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::rt::TokioIo;
use portcullis::{profile::Mode, tasks::Tasks};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;

use crate::support::{
    mode_pair::{MODES, ModePair, Plan},
    peers::{Backend, dial, read_all, send},
};

/// The key of RFC 6455, section 1.3, and what it is answered by.
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const ACCEPT: &str = "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
const GOOD: &str = "GET /live HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A request, and its status where its frames are taken off, and where it is passed on.
type Case = (&'static str, String, u16, u16);

fn cases() -> Vec<Case> {
    let with = |old: &str, new: &str| {
        assert!(GOOD.contains(old), "{old}");
        GOOD.replace(old, new)
    };
    let connection = |value: &str| with("Connection: Upgrade", value);
    let upgrade = |value: &str| with("Upgrade: websocket", value);
    let version = |value: &str| with("Sec-WebSocket-Version: 13\r\n", value);
    let key = |value: &str| with(KEY, value);
    let more = |fields: &str| with("Host: h\r\n", &format!("Host: h\r\n{fields}\r\n"));
    vec![
        ("as it is written everywhere", GOOD.into(), 101, 101),
        ("two lines", connection("Connection: keep-alive\r\nConnection: Upgrade"), 101, 101),
        ("a list", connection("Connection: keep-alive, Upgrade"), 101, 101),
        ("empty members", connection("Connection: ,, Upgrade ,"), 101, 101),
        ("another case", connection("CONNECTION: upGRADE"), 101, 101),
        ("tabs", connection("Connection:\tkeep-alive\t,\tUpgrade\t"), 101, 101),
        ("no spaces", connection("Connection:keep-alive,Upgrade"), 101, 101),
        ("another case of the name", upgrade("Upgrade: WebSocket"), 101, 101),
        ("a second choice", upgrade("Upgrade: websocket, foo"), 101, 101),
        ("a first choice", upgrade("Upgrade: foo/2, websocket"), 101, 101),
        ("two upgrades", upgrade("Upgrade: foo\r\nUpgrade: websocket"), 101, 101),
        ("an empty choice", upgrade("Upgrade: , websocket ,"), 101, 101),
        ("another HTTP first", upgrade("Upgrade: h2c, websocket"), 101, 101),
        ("no body, reported", more("Content-Length: 0"), 101, 101),
        ("fields in another case", GOOD.replace("Sec-WebSocket-", "sEC-wEBsOCKET-"), 101, 101),
        ("bytes of no ASCII beside it", more("X-Name: gr\u{fc}\u{df}e"), 101, 101),
        ("absolute form", with("GET /live", "GET http://h/live"), 101, 101),
        ("a final dot", with("Host: h", "Host: h."), 101, 101),
        ("a port", with("Host: h", "Host: h:8080"), 101, 101),
        ("lines before it", format!("\r\n\r\n{GOOD}"), 101, 101),
        ("an extension", more("Sec-WebSocket-Extensions: permessage-deflate"), 101, 101),
        ("a subprotocol behind nothing", more("Sec-WebSocket-Protocol: , a"), 101, 101),
        ("no subprotocol", more("Sec-WebSocket-Protocol: ,"), 101, 101),
        ("another version", version("Sec-WebSocket-Version: 8\r\n"), 426, 426),
        ("an older draft's version", version("Sec-WebSocket-Draft: 76\r\n"), 426, 426),
        ("no version", version(""), 426, 426),
        ("no key", key(""), 400, 400),
        ("a short key", key("Sec-WebSocket-Key: AAAA\r\n"), 400, 400),
        ("an invalid key", key("Sec-WebSocket-Key: ????????????????????????\r\n"), 400, 400),
        ("two keys", key(&KEY.repeat(2)), 400, 101),
        ("two versions", version("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 8\r\n"), 400, 101),
        ("another method", with("GET", "POST"), 400, 400),
        ("no upgrade", with("Upgrade: websocket\r\n", ""), 426, 426),
        ("no connection", with("Connection: Upgrade\r\n", ""), 426, 426),
        ("another upgrade", upgrade("Upgrade: websockets"), 426, 426),
        ("an older HTTP", with("HTTP/1.1", "HTTP/1.0"), 400, 426),
        ("a body", format!("{}12345", more("Content-Length: 5")), 400, 400),
        ("a body in chunks", format!("{}0\r\n\r\n", more("Transfer-Encoding: chunked")), 400, 400),
        ("a folded line", upgrade("Upgrade:\r\n websocket"), 400, 400),
        ("a space before a colon", connection("Connection : Upgrade"), 400, 400),
        ("a bare LF", with("Host: h\r\n", "Host: h\n"), 400, 400),
        ("two hosts", with("Host: h", "Host: h\r\nHost: h"), 400, 400),
        ("no host", with("Host: h\r\n", ""), 400, 400),
    ]
}

/// A server of WebSockets that is not our code, as strict as the rules.
async fn judge(request: Request<Incoming>) -> Result<Response<String>, Infallible> {
    let refused = |status| {
        let mut response = Response::new(String::new());
        *response.status_mut() = status;
        Ok(response)
    };
    let headers = request.headers();
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return refused(StatusCode::UPGRADE_REQUIRED);
    }
    let granted = create_response_with_body(&request, String::new);
    granted.map_or_else(|_| refused(StatusCode::BAD_REQUEST), Ok)
}

/// Serves for as long as the test lasts.
fn serve(backend: Backend) {
    let tasks = Tasks::default();
    let each = tasks.clone();
    tasks.spawn("backend", async move {
        loop {
            let Ok((stream, _)) = backend.listener.accept().await else { return };
            let serving = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(judge))
                .with_upgrades();
            each.spawn("backend's connection", async move { drop(serving.await) });
        }
    });
}

async fn port(pair: &ModePair) -> SocketAddr {
    let accept = pair.dmz.now().await.services[0].accept[0].clone();
    accept.split_once("//").unwrap().1.split('/').next().unwrap().parse().unwrap()
}

/// What is said to a request by one who ends its direction behind it.
async fn send_request(at: SocketAddr, request: &str) -> String {
    let mut client = dial(at).await;
    // Latin-1, so that a byte above 0x7F stands for each such sign.
    let bytes: Vec<u8> = request.chars().map(|sign| u8::try_from(u32::from(sign)).unwrap()).collect();
    // It may be answered before all is taken.
    let _ = client.write_all(&bytes).await;
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        let read = tokio::io::AsyncReadExt::read(&mut client, &mut byte);
        match tokio::time::timeout(crate::support::gateway::PATIENCE, read).await.expect("in time") {
            Ok(1) => response.push(byte[0]),
            Ok(_) | Err(_) => break,
        }
    }
    String::from_utf8(response).unwrap().to_ascii_lowercase()
}

async fn start(mode: Mode, passes: bool) -> ModePair {
    let backend = Backend::new().await;
    let address = backend.address().replace("tcp://", if passes { "ws://" } else { "tcp://" });
    serve(backend);
    let plan = Plan { accept: "ws://127.0.0.1:0/live", ..Plan::new(mode, &address) };
    let plan = Plan { dmz_service: if passes { ", carries: http" } else { "" }, ..plan };
    plan.start().await
}

#[tokio::test]
async fn what_a_client_may_write_is_a_websocket_however_it_writes_it() {
    for mode in MODES {
        for passes in [false, true] {
            let pair = start(mode, passes).await;
            let at = port(&pair).await;
            for (what, request, taken_off, passed_on) in cases() {
                let expected = if passes { passed_on } else { taken_off };
                let response = send_request(at, &request).await;
                let status = response.split(' ').nth(1).unwrap_or_default();
                assert_eq!(status, expected.to_string(), "{mode:?}, passed on: {passes}, {what}: {response}");
                match expected {
                    101 => {
                        assert!(response.contains(&ACCEPT.to_ascii_lowercase()), "{what}: {response}");
                        assert!(response.contains("\r\nupgrade: websocket\r\n"), "{what}: {response}");
                        assert!(response.contains("\r\nconnection: upgrade\r\n"), "{what}: {response}");
                    }
                    426 if !passes => {
                        assert!(response.contains("\r\nsec-websocket-version: 13\r\n"), "{response}")
                    }
                    _ => {}
                }
            }
        }
    }
}

#[tokio::test]
async fn the_subprotocol_is_one_that_the_backend_may_speak() {
    let offers = |lines: &[&str]| {
        let lines: String = lines.iter().map(|line| format!("Sec-WebSocket-Protocol: {line}\r\n")).collect();
        GOOD.replace("Host", &format!("{lines}Host"))
    };
    for mode in MODES {
        let pair = start(mode, false).await;
        let at = port(&pair).await;
        for (lines, chosen) in [
            (&["x-kaazing-handshake, amqp"][..], Ok("amqp")),
            (&["X-Kaazing-Http-Bridge,, x-kaazing-handshake", "mqtt, amqp"], Ok("mqtt")),
            (&["a", "b"], Ok("a")),
            (&[", ,", "b"], Ok("b")),
            (&["\u{fc}, b"], Ok("b")),
            (&["x-kaazing-other"], Err("400")),
            (&["a b"], Err("400")),
        ] {
            let response = send_request(at, &offers(lines)).await;
            match chosen {
                Ok(chosen) => {
                    let line = format!("\r\nsec-websocket-protocol: {chosen}\r\n");
                    assert!(
                        response.starts_with("http/1.1 101 ") && response.contains(&line),
                        "{lines:?}: {response}"
                    );
                }
                Err(status) => assert_eq!(response.split(' ').nth(1), Some(status), "{lines:?}: {response}"),
            }
        }
        for none in [GOOD.to_owned(), offers(&[""]), offers(&[","])] {
            let response = send_request(at, &none).await;
            assert!(response.starts_with("http/1.1 101 "), "{response}");
            assert!(!response.contains("sec-websocket-protocol"), "{response}");
        }
    }
}

#[tokio::test]
async fn other_upgrades_are_lists_too() {
    for mode in MODES {
        check_other_upgrade(mode).await;
    }
}

async fn check_other_upgrade(mode: Mode) {
    let backend = Backend::new().await;
    let address = backend.address().replace("tcp://", "http://");
    let plan = Plan { accept: "http://127.0.0.1:0", ..Plan::new(mode, &address) };
    let pair = plan.start().await;
    let mut client = dial(port(&pair).await).await;
    let requested = "GET /live HTTP/1.1\r\nHost: h\r\nUpgrade: h2c, , own/1\r\nUpgrade: other\r\n\
                 Connection: keep-alive\r\nConnection: , Upgrade\r\n\r\n";
    send(&mut client, requested.as_bytes()).await;
    let mut server = backend.accept().await;
    let mut received = Vec::new();
    while !received.ends_with(b"\r\n\r\n") {
        received.push(tokio::io::AsyncReadExt::read_u8(&mut server).await.unwrap());
    }
    let received = String::from_utf8(received).unwrap();
    assert!(received.contains("\r\nupgrade: own/1, other\r\n"), "{mode:?}: {received}");
    send(&mut server, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: own/1\r\nConnection: Upgrade\r\n\r\nhi")
        .await;
    server.shutdown().await.unwrap();
    // What follows is looked at no more: it is the other protocol's.
    send(&mut client, b"\n\n").await;
    let response = String::from_utf8(read_all(&mut client).await).unwrap();
    assert!(
        response.starts_with("HTTP/1.1 101 ") && response.ends_with("\r\n\r\nhi"),
        "{mode:?}: {response}"
    );
}
