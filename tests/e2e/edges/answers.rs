//! Backend names in responses: they are rewritten in references that clients follow; elsewhere they pass
//! unchanged and are reported once.

use portcullis::telemetry::snapshot::Snapshot;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::http::{OK, address, port};
use crate::support::{
    gateway::{PATIENCE, TestFolder},
    mode_pair::{MODES, ModePair, Plan},
    peers::{Backend, Reserved, dial, send},
};

/// A head, byte for byte, with a sign of Latin-1 for each.
async fn head(stream: &mut TcpStream) -> String {
    let mut received = Vec::new();
    while !received.ends_with(b"\r\n\r\n") {
        received.push(timeout(PATIENCE, stream.read_u8()).await.expect("a head in time").unwrap());
    }
    received.into_iter().map(char::from).collect()
}

fn latin(text: &str) -> Vec<u8> {
    text.chars().map(|sign| u8::try_from(u32::from(sign)).unwrap()).collect()
}

/// The head that a client receives for an answer with these fields.
async fn response_head(pair: &ModePair, backend: &Backend, fields: &str) -> String {
    let mut client = dial(port(pair).await).await;
    send(&mut client, b"GET /shop/ HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n").await;
    let mut server = backend.accept().await;
    head(&mut server).await;
    send(&mut server, &latin(&format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{fields}\r\n"))).await;
    head(&mut client).await
}

fn reported_fields(snapshot: &Snapshot, field: &str) -> Vec<String> {
    let lines = snapshot.notices.iter().map(|notice| notice.text.clone());
    lines.filter(|line| line.contains(&format!("`{field}`"))).collect()
}

#[tokio::test]
async fn backend_names_are_rewritten_in_references_and_reported_elsewhere() {
    for mode in MODES {
        let backend = Backend::new().await;
        let to = address(&backend);
        let pair = Plan { accept: "http://127.0.0.1:0/shop", ..Plan::new(mode, &to) }.start().await;
        let at = backend.listener.local_addr().unwrap();
        for (sent, rewritten) in [
            (format!("location: http://{at}/gr\u{fc}\u{df}e"), "location: /gr\u{fc}\u{df}e"),
            (format!("location: http://u:p@{at}/a"), "location: /a"),
            ("location: https://127.0.0.1/a?b#c".to_owned(), "location: /a?b#c"),
            (format!("content-location: HTTP://{at}"), "content-location: /"),
            ("set-cookie: n=\u{fc}; Domain=127.0.0.1; Secure".to_owned(), "set-cookie: n=\u{fc}; Secure"),
            (format!("refresh: 5; url='http://{at}/\u{fc}'"), "refresh: 5; url='/\u{fc}'"),
            (
                format!("link: <//{at}/2>; title=\"<\u{fc}>, \\\"\", <http://{at}/3>; rel=next"),
                "link: </2>; title=\"<\u{fc}>, \\\"\", </3>; rel=next",
            ),
            (
                format!(
                    "content-security-policy: default-src 'self' http://{at}; script-src {at} https://cdn.example"
                ),
                "content-security-policy: default-src 'self' http://shop.example; script-src shop.example https://cdn.example",
            ),
            (
                format!(
                    "content-security-policy-report-only: img-src ws://{at}/live; report-uri http://{at}/r"
                ),
                "content-security-policy-report-only: img-src ws://shop.example/live; report-uri http://shop.example/r",
            ),
        ] {
            let received = response_head(&pair, &backend, &format!("{sent}\r\n")).await;
            assert!(received.contains(&format!("\r\n{rewritten}\r\n")), "{mode:?} {sent}: {received}");
        }
        // Never a query, a fragment, a realm, nor any field that is not followed.
        let query = format!("location: /login?next=http://{at}/#http://{at}/\r\n");
        let words = [
            "www-authenticate: Basic realm=\"127.0.0.1\"\r\n".to_owned(),
            "server: 127.0.0.1\r\n".to_owned(),
            format!("x-by: \u{fc} {at}\r\n"),
            "via: 1.1 127.0.0.1 (squid)\r\n".to_owned(),
        ];
        for _ in 0..3 {
            let received = response_head(&pair, &backend, &format!("{query}{}", words.concat())).await;
            for field in words.iter().chain([&query]) {
                assert!(received.contains(&format!("\r\n{field}")), "{mode:?} {field}: {received}");
            }
        }
        let snapshot = pair.inner().now().await;
        for field in ["www-authenticate", "server", "x-by", "via"] {
            let reported = reported_fields(&snapshot, field);
            assert_eq!(reported.len(), 1, "{mode:?} {field}: {reported:?}");
            assert!(reported[0].contains("`orders`") && !reported[0].contains("x)"), "{reported:?}");
        }
        assert_eq!(reported_fields(&snapshot, "location"), [""; 0]);
    }
}

#[tokio::test]
async fn other_names_of_the_backend_are_rewritten_like_its_address() {
    let (folder, reserved, backend) = (TestFolder::new(), Reserved::new(), Backend::new().await);
    let (at, to) = (reserved.at(), address(&backend));
    let text = format!(
        "mode: direct\ndmz:\n  services: {{ web: {{ accept: 'http://{at}' }} }}\ninternal:\n  services: \
         {{ web: {{ connect: '{to}/app', own_names: [App.internal, 'cache.internal'] }} }}\n"
    );
    let gateway = folder.start("direct", &text);
    drop(reserved);
    let fields = "Location: https://app.internal:8443/app/a?app.internal\r\n\
                  Set-Cookie: a=b; domain=.APP.internal.; Path=/app\r\nServer: cache.internal\r\n";
    let mut client = dial(at).await;
    send(&mut client, b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    let mut server = backend.accept().await;
    assert!(head(&mut server).await.starts_with("GET /app/ HTTP/1.1\r\n"));
    send(&mut server, OK.replace("Content", &format!("{fields}Content")).as_bytes()).await;
    let received = head(&mut client).await;
    for field in
        ["location: /a?app.internal\r\n", "set-cookie: a=b; Path=/\r\n", "server: cache.internal\r\n"]
    {
        assert!(received.contains(field), "{field}: {received}");
    }
    gateway.until("it is reported", |snapshot| reported_fields(snapshot, "server").len() == 1).await;
    client.shutdown().await.unwrap();
}
