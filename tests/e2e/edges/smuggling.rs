//! Requests that two readers could take for different ones: each is refused, or passed on so that there is one
//! way to read it.

use portcullis::profile::Mode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::http::{LAST, OK, address, head, port, send_request};
use crate::support::{
    mode_pair::{MODES, Plan},
    peers::{Backend, dial, read_all, send},
};

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";

/// A request with these lines behind `Host`, and this body.
fn post(lines: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: h\r\n{lines}\r\n{body}")
}

#[tokio::test]
async fn ambiguous_requests_reach_no_backend() {
    let chunked = "Transfer-Encoding: chunked\r\n";
    let refused = [
        ("CL.TE", post(&format!("Content-Length: 4\r\n{chunked}"), "0\r\n\r\n"), "400"),
        ("TE.CL", post(&format!("{chunked}Content-Length: 4\r\n"), "0\r\n\r\n"), "400"),
        ("TE.TE", post(&format!("{chunked}Transfer-Encoding: x\r\n"), "0\r\n\r\n"), "400"),
        ("an odd TE first", post(&format!("Transfer-Encoding: x\r\n{chunked}"), "0\r\n\r\n"), "400"),
        ("a list of codings", post("Transfer-Encoding: identity, chunked\r\n", "0\r\n\r\n"), "400"),
        ("chunked within", post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"), "400"),
        ("an empty member", post("Transfer-Encoding: , chunked\r\n", "0\r\n\r\n"), "400"),
        ("a quoted coding", post("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"), "400"),
        ("a vertical tab", post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"), "400"),
        ("a folded TE", post("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"), "400"),
        ("a space before the colon", post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"), "400"),
        ("a tab before the colon", post("Content-Length\t: 5\r\n", "12345"), "400"),
        ("a space before the name", post(" Transfer-Encoding: chunked\r\n", "0\r\n\r\n"), "400"),
        ("two lengths", post("Content-Length: 5\r\nContent-Length: 6\r\n", "12345"), "400"),
        ("the same length twice", post("Content-Length: 5\r\nContent-Length: 5\r\n", "12345"), "400"),
        ("a list of lengths", post("Content-Length: 5, 5\r\n", "12345"), "400"),
        ("a signed length", post("Content-Length: +5\r\n", "12345"), "400"),
        ("a negative length", post("Content-Length: -1\r\n", ""), "400"),
        ("a length in hex", post("Content-Length: 0x5\r\n", "12345"), "400"),
        ("a length with a space", post("Content-Length: 5 5\r\n", "12345"), "400"),
        ("an endless length", post("Content-Length: 18446744073709551621\r\n", "12345"), "400"),
        ("an empty length", post("Content-Length:\r\n", "12345"), "400"),
        ("a NUL in the value", post("X: a\0b\r\n", ""), "400"),
        ("a CR in the value", post("X: a\rContent-Length: 5\r\n", ""), "400"),
        ("a bare LF in the head", post("X: a\nContent-Length: 5\r\n", ""), "400"),
        ("a bare LF at the end", "POST / HTTP/1.1\r\nHost: h\r\n\n".into(), "400"),
        ("a bare CR at the end", "POST / HTTP/1.1\r\nHost: h\r\n\rX".into(), "400"),
        ("no colon", post("Content-Length 5\r\n", ""), "400"),
        ("no name", post(": 5\r\n", ""), "400"),
        ("a name with a quote", post("Content\"-Length: 5\r\n", ""), "400"),
        ("a name of no ASCII", post("Content-L\u{e4}ngth: 5\r\n", ""), "400"),
        ("two hosts", post("Host: i\r\n", ""), "400"),
        ("the same host twice", post("host: h\r\n", ""), "400"),
        ("hosts in a list", "GET / HTTP/1.1\r\nHost: h, i\r\n\r\n".into(), "400"),
        ("a host with a path", "GET / HTTP/1.1\r\nHost: h/i\r\n\r\n".into(), "400"),
        ("a host with a user", "GET / HTTP/1.1\r\nHost: i@h\r\n\r\n".into(), "400"),
        ("another target", "GET http://i/ HTTP/1.1\r\nHost: h\r\n\r\n".into(), "400"),
        ("another port", "GET http://h:81/ HTTP/1.1\r\nHost: h\r\n\r\n".into(), "400"),
        (
            "chunks of old",
            "POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            "400",
        ),
        ("a version to come", "GET / HTTP/1.2\r\nHost: h\r\n\r\n".into(), "400"),
        ("HTTP/0.9", "GET /\r\n\r\n".into(), "400"),
        ("spaces in the first line", "GET  / HTTP/1.1\r\nHost: h\r\n\r\n".into(), "400"),
        ("a tab in the first line", "GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n".into(), "400"),
        ("a target with a space", "GET /a b HTTP/1.1\r\nHost: h\r\n\r\n".into(), "400"),
        ("a bare LF in the first line", "GET / HTTP/1.1\nHost: h\r\n\r\n".into(), "400"),
    ];
    for mode in MODES {
        let backend = Backend::new().await;
        let to = address(&backend);
        let pair = Plan { accept: "http://127.0.0.1:0", ..Plan::new(mode, &to) }.start().await;
        let at = port(&pair).await;
        for (what, request, status) in &refused {
            let reported = send_request(at, &format!("{request}{SMUGGLED}")).await;
            let is_refused = reported.split(' ').nth(1) == Some(*status);
            assert!(is_refused && reported.matches("HTTP/1.").count() == 1, "{mode:?} {what}: {reported}");
        }
        // Nothing of all that has reached the backend: what comes first is the one that is good.
        let mut client = dial(at).await;
        send(&mut client, LAST.as_bytes()).await;
        let mut server = backend.accept().await;
        assert_eq!(head(&mut server).await[0], "GET / HTTP/1.1");
        send(&mut server, OK.as_bytes()).await;
        assert!(read_all(&mut client).await.ends_with(b"ok"));
        assert_eq!(pair.inner().now().await.totals.sessions, 1, "{mode:?}");
    }
}

/// What follows a chunk that two readers could read differently is not a request, even where its head was good and
/// has been passed on.
#[tokio::test]
async fn nothing_after_an_ambiguous_chunk_reaches_a_backend() {
    let chunked = "Transfer-Encoding: chunked\r\n";
    let both = SMUGGLED.replace("\r\n\r\n", &format!("\r\nContent-Length: 6\r\n{chunked}\r\n0\r\n\r\nG"));
    for mode in MODES {
        let backend = Backend::new().await;
        let to = address(&backend);
        let pair = Plan { accept: "http://127.0.0.1:0", ..Plan::new(mode, &to) }.start().await;
        let at = port(&pair).await;
        for body in ["3;\n\r\nabc\r\n0\r\n\r\n", "0;a=b\n\r\n\r\n", "3\r\nabc\r\n0\r\nSum: 1\n\r\n\r\n"] {
            for next in [SMUGGLED, &both, "GET /smuggled HTTP/1.1\nHost: h\n\n"] {
                let sent = format!("{}{next}", post(chunked, body));
                let reported = send_request(at, &sent).await;
                let is_refused = reported.starts_with("HTTP/1.1 400 ");
                assert!(
                    is_refused && reported.matches("HTTP/1.").count() == 1,
                    "{mode:?} {sent:?}: {reported}"
                );
            }
        }
        let mut client = dial(at).await;
        send(&mut client, LAST.as_bytes()).await;
        loop {
            let mut server = backend.accept().await;
            let mut received = Vec::new();
            while !received.ends_with(b"\r\n\r\n")
                && server.read_buf(&mut received).await.is_ok_and(|count| count > 0)
            {}
            let received = String::from_utf8(received).unwrap();
            assert!(!received.contains("smuggled"), "{mode:?}: {received}");
            if received.starts_with("GET / ") {
                send(&mut server, OK.as_bytes()).await;
                break;
            }
        }
        assert!(read_all(&mut client).await.ends_with(b"ok"));
    }
}

#[tokio::test]
async fn what_is_passed_on_has_one_length() {
    for mode in MODES {
        check_lengths(mode).await;
    }
}

async fn check_lengths(mode: Mode) {
    let backend = Backend::new().await;
    let to = address(&backend);
    let pair = Plan { accept: "http://127.0.0.1:0", ..Plan::new(mode, &to) }.start().await;
    let at = port(&pair).await;
    for (what, lines, body, length) in [
        ("a length", "Content-Length: 5\r\n", "12345", "content-length: 5"),
        ("spaces around it", "Content-Length: \t 5 \t\r\n", "12345", "content-length: 5"),
        ("zeros before it, which mean nothing", "Content-Length: 005\r\n", "12345", "content-length: 5"),
        ("chunks", "Transfer-Encoding: CHUNKED\r\n", "5\r\n12345\r\n0\r\n\r\n", "transfer-encoding: chunked"),
        (
            "an extension",
            "Transfer-Encoding: chunked\r\n",
            "5;a=b\r\n12345\r\n0\r\n\r\n",
            "transfer-encoding: chunked",
        ),
        (
            "a length that Connection names",
            "Content-Length: 5\r\nConnection: content-length\r\n",
            "12345",
            "content-length: 5",
        ),
        (
            "chunks that Connection names",
            "Transfer-Encoding: chunked\r\nConnection: transfer-encoding\r\n",
            "5\r\n12345\r\n0\r\n\r\n",
            "transfer-encoding: chunked",
        ),
        ("another spelling", "Content_Length: 7\r\nContent-Length: 5\r\n", "12345", "content-length: 5"),
    ] {
        let mut client = dial(at).await;
        send(&mut client, post(lines, body).as_bytes()).await;
        let mut server = backend.accept().await;
        let received = head(&mut server).await;
        let is_length =
            |line: &&String| line.starts_with("content-length") || line.starts_with("transfer-encoding");
        let lengths: Vec<_> = received.iter().filter(is_length).collect();
        assert_eq!(lengths, [length], "{mode:?}, {what}: {received:?}");
        send(&mut server, OK.as_bytes()).await;
        assert_eq!(head(&mut client).await[0], "HTTP/1.1 200 OK", "{mode:?}, {what}");
        client.shutdown().await.unwrap();
    }
}
