//! Requests of clients, carried as HTTP: cleaned by the DMZ half, read again by the internal half.

use std::net::SocketAddr;

use portcullis::profile::Mode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{
    gateway::PATIENCE,
    peers::{Backend, dial, hear, hear_all, hear_end, say},
    ways::{MODES, Plan, Way},
};

const HTTP: &str = "http://127.0.0.1:0";

fn address(backend: &Backend) -> String {
    backend.address().replace("tcp://", "http://")
}

async fn start(mode: Mode, backend: &Backend) -> Way {
    Plan { accept: HTTP, dmz_service: ", carries: http", ..Plan::new(mode, &address(backend)) }.start().await
}

async fn port(way: &Way) -> SocketAddr {
    let accept = way.dmz.now().await.services[0].accept[0].clone();
    accept.split_once("//").unwrap().1.split('/').next().unwrap().parse().unwrap()
}

/// Reads to the end of a head; in lower case, sorted, without `date`.
async fn head(stream: &mut TcpStream) -> Vec<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, stream.read_u8()).await.expect("a head in time").unwrap());
    }
    let text = String::from_utf8(head).unwrap();
    let mut lines: Vec<_> = text.trim_end().split("\r\n").map(str::to_owned).collect();
    lines.retain(|line| !line.to_ascii_lowercase().starts_with("date:"));
    lines[1..].sort();
    lines
}

#[tokio::test]
async fn one_connection_carries_request_after_request() {
    for mode in MODES {
        let backend = Backend::new().await;
        let way = start(mode, &backend).await;
        let mut client = dial(port(&way).await).await;
        let from = client.local_addr().unwrap().ip();
        say(&mut client, b"GET /a?b HTTP/1.1\r\nHost: shop.example\r\nX-Own: 1\r\n\r\n").await;
        let mut server = backend.accept().await;
        let expected = [
            "GET /a?b HTTP/1.1".to_owned(),
            "host: shop.example".into(),
            format!("x-forwarded-for: {from}"),
            "x-forwarded-host: shop.example".into(),
            "x-forwarded-proto: http".into(),
            "x-own: 1".into(),
        ];
        assert_eq!(head(&mut server).await, expected);
        say(&mut server, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-B: 2\r\n\r\nfirst").await;
        assert_eq!(head(&mut client).await, ["HTTP/1.1 200 OK", "content-length: 5", "x-b: 2"]);
        hear(&mut client, b"first").await;
        say(&mut client, b"POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody").await;
        assert_eq!(head(&mut server).await[..3], ["POST /b HTTP/1.1", "content-length: 4", "host: h"]);
        hear(&mut server, b"body").await;
        say(&mut server, b"HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(head(&mut client).await, ["HTTP/1.1 204 No Content"]);
        // The client leaves; so does its connection at the backend, cleanly.
        client.shutdown().await.unwrap();
        hear_end(&mut server).await;
        assert_eq!(hear_all(&mut client).await, b"");
        way.dmz.until_ended("--").await;
        assert_eq!(way.inner().now().await.totals.sessions, 1);
    }
}
