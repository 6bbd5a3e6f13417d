//! Protocols that TLS agrees on (RFC 7301): what clients may have, and what of it the backend is offered.

use std::{net::SocketAddr, sync::Arc};

use portcullis::profile::Mode;
use rustls::{ClientConfig, ServerConfig, pki_types::ServerName, server::Acceptor};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, client::TlsStream};

use crate::support::{
    gateway::{PATIENCE, TestFolder},
    mode_pair::{MODES, ModePair, Plan},
    peers::Backend,
    tls::{chain, key, roots},
};

const ACCEPT: &str = "{ address: 'tls://127.0.0.1:0', \
                      tls: { certificate: pki/www.pem, key: pki/www.key, alpn: [h2, http/1.1] } }";

fn folder() -> TestFolder {
    TestFolder::with(&["dmz", "internal", "www", "shop"])
}

async fn start(mode: Mode, backend: &Backend, alpn: &str) -> ModePair {
    let backend = format!(
        "{{ address: '{}', tls: {{ ca: pki/ca.pem, name: shop{alpn} }} }}",
        backend.address().replace("tcp:", "tls:")
    );
    Plan { accept: ACCEPT, ..Plan::new(mode, &backend) }.start_in(folder()).await
}

fn names(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

async fn client(
    folder: &TestFolder,
    at: SocketAddr,
    offered: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut config = ClientConfig::builder().with_root_certificates(roots(folder)).with_no_client_auth();
    config.alpn_protocols = names(offered);
    let stream = TcpStream::connect(at).await?;
    let name = ServerName::try_from("www").unwrap();
    timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, stream)).await.unwrap()
}

/// Takes one session as a backend that knows these protocols and echoes 4 bytes; what it was offered.
async fn serve(folder: &TestFolder, backend: &Backend, known: &[&str]) -> Vec<Vec<u8>> {
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain(folder, "shop.pem"), key(folder, "shop.key"))
        .unwrap();
    config.alpn_protocols = names(known);
    let begun = LazyConfigAcceptor::new(Acceptor::default(), backend.accept().await).await.unwrap();
    let offered = begun.client_hello().alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
    if let Ok(mut stream) = begun.into_stream(Arc::new(config)).await {
        let mut word = [0; 4];
        if stream.read_exact(&mut word).await.is_ok() {
            stream.write_all(&word).await.unwrap();
            stream.flush().await.unwrap();
        }
    }
    offered
}

/// A client that offers these, and is served; what it agreed on, and what the backend was offered.
async fn exchange(
    pair: &ModePair,
    backend: &Backend,
    offered: &[&str],
    known: &[&str],
) -> (Vec<u8>, Vec<Vec<u8>>) {
    let at = pair.dmz.client_port("orders").await;
    let asking = async {
        let mut client = client(&pair.folder, at, offered).await.unwrap();
        client.write_all(b"word").await.unwrap();
        client.flush().await.unwrap();
        let mut received = [0; 4];
        client.read_exact(&mut received).await.unwrap();
        client.get_ref().1.alpn_protocol().unwrap_or_default().to_vec()
    };
    timeout(PATIENCE, async { tokio::join!(asking, serve(&pair.folder, backend, known)) }).await.unwrap()
}

#[tokio::test]
async fn the_backend_is_offered_what_the_client_has_agreed_on() {
    for mode in MODES {
        let backend = Backend::new().await;
        let pair = start(mode, &backend, "").await;
        for (offered, agreed, reported) in [
            // The accept's own order counts.
            (&["http/1.1", "other", "h2"][..], &b"h2"[..], &["h2"][..]),
            (&["http/1.1"], b"http/1.1", &["http/1.1"]),
            (&[], b"", &[]),
        ] {
            let seen = exchange(&pair, &backend, offered, &["http/1.1", "h2"]).await;
            assert_eq!(seen, (agreed.to_vec(), names(reported)), "{mode:?}, {offered:?}");
        }
        assert!(
            client(&pair.folder, pair.dmz.client_port("orders").await, &["other"]).await.is_err(),
            "{mode:?}"
        );
    }
}

#[tokio::test]
async fn a_backend_with_protocols_of_its_own_is_offered_these() {
    for mode in MODES {
        let backend = Backend::new().await;
        let pair = start(mode, &backend, ", alpn: [grpc-exp, h2]").await;
        for offered in [&["http/1.1"][..], &[]] {
            let (_, reported) = exchange(&pair, &backend, offered, &["h2"]).await;
            assert_eq!(reported, names(&["grpc-exp", "h2"]), "{mode:?}");
        }
    }
}

#[tokio::test]
async fn a_backend_that_agrees_on_something_else_or_nothing_ends_the_session() {
    for (mode, alpn) in [(Mode::Direct, ""), (Mode::Reverse, ""), (Mode::Forward, ", alpn: h2")] {
        let backend = Backend::new().await;
        let pair = start(mode, &backend, alpn).await;
        let at = pair.dmz.client_port("orders").await;
        for known in [&[][..], &["http/1.1"]] {
            let asking = async {
                let mut client = client(&pair.folder, at, &["h2"]).await.unwrap();
                let _ = client.read(&mut [0]).await;
            };
            let served = async { tokio::join!(asking, serve(&pair.folder, &backend, known)) };
            timeout(PATIENCE, served).await.unwrap();
        }
        let refused = |now: &portcullis::telemetry::snapshot::Snapshot| now.ended.len() == 2;
        let seen = pair.inner().until("both have ended", refused).await;
        for row in &seen.ended {
            assert!(row.end == "BC" && row.reason.contains("ALPN"), "{mode:?}: {row:?}");
        }
    }
}
