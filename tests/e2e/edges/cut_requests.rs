//! Requests whose client stops in the middle, or expects 100: the backend gets a complete request, or a visible
//! cut.

use portcullis::profile::Mode;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::http::{head, port, start};
use crate::support::{
    mode_pair::MODES,
    peers::{Backend, cut, dial, expect_bytes, expect_reset, send},
};

#[derive(Debug, Clone, Copy)]
enum Leaves {
    ByReset,
    ByEnd,
}

async fn leave(mut client: TcpStream, how: Leaves) -> Option<TcpStream> {
    match how {
        Leaves::ByReset => {
            cut(client);
            None
        }
        Leaves::ByEnd => {
            client.shutdown().await.unwrap();
            Some(client)
        }
    }
}

#[tokio::test]
async fn a_request_that_is_cut_within_its_body_is_no_whole_one_at_the_backend() {
    for mode in MODES {
        let backend = Backend::new().await;
        let pair = start(mode, &backend).await;
        let at = port(&pair).await;
        for (lines, body) in [
            ("Content-Length: 9\r\n", &b"abc"[..]),
            ("Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n"),
            ("Transfer-Encoding: chunked\r\n", b"9\r\nabc"),
            ("Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n0\r\n"),
        ] {
            for how in [Leaves::ByReset, Leaves::ByEnd] {
                let mut client = dial(at).await;
                send(&mut client, format!("POST / HTTP/1.1\r\nHost: h\r\n{lines}\r\n").as_bytes()).await;
                send(&mut client, body).await;
                let mut server = backend.accept().await;
                assert_eq!(head(&mut server).await[0], "POST / HTTP/1.1", "{mode:?}, {lines}, {how:?}");
                let _left = leave(client, how).await;
                let received = expect_reset(&mut server).await;
                let is_whole =
                    received.len() >= 9 && lines.starts_with("Content") || received.ends_with(b"0\r\n\r\n");
                assert!(!is_whole, "{mode:?}, {lines}, {how:?}: {received:?}");
            }
        }
    }
}

/// Behind it the backend's connection ends.
const LAST_OK: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
const ASKS: &str = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";

/// A client that waits for 100, before a backend that takes its time.
async fn check_waits(mode: Mode) {
    let backend = Backend::new().await;
    let pair = start(mode, &backend).await;
    let at = port(&pair).await;
    let mut client = dial(at).await;
    send(&mut client, ASKS.as_bytes()).await;
    // The gateway answers for a backend that has not said a word yet.
    expect_bytes(&mut client, b"HTTP/1.1 100 Continue\r\n\r\n").await;
    send(&mut client, b"body").await;
    let mut server = backend.accept().await;
    let received = head(&mut server).await;
    assert!(!received.iter().any(|line| line.starts_with("expect")), "{mode:?}: {received:?}");
    expect_bytes(&mut server, b"body").await;
    send(&mut server, LAST_OK.as_bytes()).await;
    assert_eq!(head(&mut client).await[0], "HTTP/1.1 200 OK", "{mode:?}");
    expect_bytes(&mut client, b"ok").await;
    drop(server);
    // One that refuses before it has the body is still read.
    let mut client = dial(at).await;
    send(&mut client, ASKS.as_bytes()).await;
    let mut server = backend.accept().await;
    head(&mut server).await;
    let refusal = "HTTP/1.1 413 No\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno";
    send(&mut server, refusal.as_bytes()).await;
    expect_bytes(&mut client, b"HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(head(&mut client).await[0], "HTTP/1.1 413 No", "{mode:?}");
    expect_bytes(&mut client, b"no").await;
}

#[tokio::test]
async fn a_client_that_expects_100_gets_it_or_the_refusal() {
    for mode in MODES {
        check_waits(mode).await;
    }
}

/// An upgrade request with a body is read to its end like any other.
async fn check_upgrade(mode: Mode) {
    let backend = Backend::new().await;
    let pair = start(mode, &backend).await;
    let mut client = dial(port(&pair).await).await;
    let asks = "POST / HTTP/1.1\r\nHost: h\r\nUpgrade: own/1\r\nConnection: Upgrade\r\nContent-Length: 4\r\n\r\nbody";
    send(&mut client, asks.as_bytes()).await;
    let mut server = backend.accept().await;
    let received = head(&mut server).await;
    assert!(!received.iter().any(|line| line.starts_with("upgrade")), "{mode:?}: {received:?}");
    expect_bytes(&mut server, b"body").await;
    send(&mut server, LAST_OK.as_bytes()).await;
    assert_eq!(head(&mut client).await[0], "HTTP/1.1 200 OK", "{mode:?}");
    expect_bytes(&mut client, b"ok").await;
    // Nor does its connection become anything else.
    send(&mut client, "GET /next HTTP/1.1\r\nHost: h\r\n\r\n".as_bytes()).await;
    let mut server = backend.accept().await;
    assert_eq!(head(&mut server).await[0], "GET /next HTTP/1.1", "{mode:?}");
}

#[tokio::test]
async fn an_upgrade_with_a_body_is_a_request_like_any() {
    for mode in MODES {
        check_upgrade(mode).await;
    }
}
