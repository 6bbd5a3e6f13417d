//! What is known of a client beside its address: who it has proven to be, and how many requests it has sent.

use std::{net::SocketAddr, sync::Arc};

use portcullis::telemetry::snapshot::Snapshot;
use rustls::{ClientConfig, HandshakeKind, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{
    frames::{self, HELLO, OPEN, OPENED, OURS, RawLink},
    gateway::{PATIENCE, TestFolder},
    mode_pair::{DMZ_TLS, MODES, Plan},
    peers::{Backend, dial, send},
    tls::client,
};

const ACCEPT: &str = "{ address: 'tls://127.0.0.1:0', tls: { certificate: pki/www.pem, key: pki/www.key, \
                      ca: pki/ca.pem, alpn: [h2] } }";

fn folder() -> TestFolder {
    TestFolder::with(&["dmz", "internal", "www", "partner"])
}

async fn tls_client(config: &Arc<ClientConfig>, at: SocketAddr) -> TlsStream<TcpStream> {
    let name = ServerName::try_from("www").unwrap();
    timeout(PATIENCE, TlsConnector::from(config.clone()).connect(name, dial(at).await))
        .await
        .unwrap()
        .unwrap()
}

async fn echoes(client: &mut TlsStream<TcpStream>) {
    client.write_all(b"word").await.unwrap();
    client.flush().await.unwrap();
    let mut received = [0; 4];
    timeout(PATIENCE, client.read_exact(&mut received)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_clients_certificate_identifies_it_on_both_halves() {
    for (mode, names) in MODES.into_iter().flat_map(|mode| [(mode, ""), (mode, ", names: [other, partner]")])
    {
        let accept = ACCEPT.replace(", alpn", &format!("{names}, alpn"));
        let pair = Plan { accept: &accept, ..Plan::new(mode, "echo://") }.start_in(folder()).await;
        let at = pair.dmz.client_port("orders").await;
        let config = Arc::new(client(&pair.folder, "partner"));
        let mut first = tls_client(&config, at).await;
        echoes(&mut first).await;
        let is_named =
            |seen: &Snapshot| seen.sessions.iter().any(|row| row.user.as_deref() == Some("partner"));
        for gateway in [&pair.dmz, pair.inner()] {
            gateway.until("its name", is_named).await;
        }
        drop(first);
        pair.dmz.until("it has ended", |seen| !seen.ended.is_empty()).await;
        assert_eq!(pair.dmz.now().await.ended[0].user.as_deref(), Some("partner"), "{mode:?}");
        // It shows its certificate each time.
        let mut again = tls_client(&config, at).await;
        echoes(&mut again).await;
        assert_eq!(again.get_ref().1.handshake_kind(), Some(HandshakeKind::Full), "{mode:?}");
    }
}

#[tokio::test]
async fn what_is_known_of_a_client_travels_in_open() {
    let folder = folder();
    let text = format!(
        "mode: reverse\ndmz:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', tls: {DMZ_TLS}, prepared: 1 }}\n  \
         services: {{ orders: {{ accept: {ACCEPT} }} }}\n"
    );
    let gateway = folder.start("dmz", &text);
    let mut link = RawLink::dial(&folder, "internal", gateway.link_port().await, "dmz", &[OURS]).await;
    link.send_frame(HELLO, &frames::offer(1, 8, &["orders"])).await;
    link.expect_granted(&["orders"]).await;
    let at = gateway.client_port("orders").await;
    let mut config = client(&folder, "partner");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let client = tls_client(&Arc::new(config), at).await;
    let open = frames::fields(&link.expect_kind(OPEN).await);
    link.send_frame(OPENED, &[]).await;
    let address = |at: SocketAddr| [&[127, 0, 0, 1][..], &at.port().to_be_bytes()].concat();
    for field in [
        (4, address(client.get_ref().0.local_addr().unwrap())),
        (5, address(at)),
        (6, b"\x0bcertificatepartner".to_vec()),
        (7, b"h2".to_vec()),
    ] {
        assert!(open.contains(&field), "{field:?}: {open:?}");
    }
}

#[tokio::test]
async fn a_session_counts_its_requests() {
    for mode in MODES {
        let backend = Backend::new().await;
        let connect = backend.address().replace("tcp", "http");
        let pair = Plan { accept: "http://127.0.0.1:0", ..Plan::new(mode, &connect) }.start().await;
        let mut client = pair.client().await;
        let serving = async {
            let mut server = backend.accept().await;
            for _ in 0..3 {
                super::http::head(&mut server).await;
                send(&mut server, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
            server
        };
        let asking = async {
            for _ in 0..3 {
                send(&mut client, b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
                let mut received = Vec::new();
                while !received.ends_with(b"\r\n\r\nok") {
                    received.push(client.read_u8().await.unwrap());
                }
            }
        };
        let (_server, ()) = timeout(PATIENCE, async { tokio::join!(serving, asking) }).await.unwrap();
        for gateway in [&pair.dmz, pair.inner()] {
            let three = |seen: &Snapshot| seen.sessions.len() == 1 && seen.sessions[0].requests == 3;
            gateway.until("three requests", three).await;
        }
    }
}
