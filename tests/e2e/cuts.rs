//! What was received before a failure is delivered, and then the failure is passed on as a reset.

use std::sync::Arc;

use futures_util::{SinkExt, StreamExt, future::join_all};
use portcullis::profile::Mode;
use rustls::{ClientConfig, ServerConfig, pki_types::ServerName, version::TLS12};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{interval, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, server};
use tokio_tungstenite::{client_async, tungstenite::Message};

use crate::support::{
    gateway::{PATIENCE, TestFolder},
    mode_pair::{ModePair, PATHS, Plan},
    peers::{Backend, cut, dial, expect_bytes, expect_end, expect_reset, send},
    tls::{chain, key, roots},
};

/// One may be lost where another is not: what matters is which of two packets is read first.
const TIMES: usize = 12;
const ASKED: &[u8] = b"a question and more of it";

async fn started(mode: Mode, is_plain: bool, backend: &str) -> ModePair {
    Plan { is_plain, ..Plan::new(mode, backend) }.start().await
}

/// Waits until the socket holds `count` bytes that nobody has read.
async fn holds(stream: &TcpStream, count: usize) {
    let mut seen = vec![0; count];
    let holding = async {
        let mut looks = interval(std::time::Duration::from_millis(1));
        while stream.peek(&mut seen).await.unwrap() < count {
            looks.tick().await;
        }
    };
    timeout(PATIENCE, holding).await.expect("bytes come in time");
}

#[tokio::test]
async fn an_answer_arrives_whose_backend_closes_with_input_unread() {
    for (mode, is_plain) in PATHS {
        let backend = Backend::new().await;
        let pair = started(mode, is_plain, &backend.address()).await;
        for number in 0..TIMES {
            let mut client = pair.client().await;
            send(&mut client, ASKED).await;
            let mut server = backend.accept().await;
            holds(&server, ASKED.len()).await;
            send(&mut server, b"the answer").await;
            // The kernel makes a reset of it, since not all was read.
            drop(server);
            let received = expect_reset(&mut client).await;
            assert_eq!(received, b"the answer", "{number} in {mode:?}, plain: {is_plain}");
        }
        let ended = |row: &portcullis::telemetry::snapshot::EndedRow| row.end == "BR";
        pair.inner()
            .until("each is reported", |seen| seen.ended.iter().all(ended) && !seen.ended.is_empty())
            .await;
    }
}

#[tokio::test]
async fn an_answer_arrives_at_a_client_that_is_still_sending() {
    for (mode, is_plain) in PATHS {
        let backend = Backend::new().await;
        let pair = started(mode, is_plain, &backend.address()).await;
        for number in 0..TIMES {
            let client = pair.client().await;
            let (mut reader, mut writer) = client.into_split();
            // Until it fails, as it must.
            let sending = async { while writer.write_all(&[7; 10_000]).await.is_ok() {} };
            let answering = async {
                let mut server = backend.accept().await;
                holds(&server, ASKED.len()).await;
                send(&mut server, &[3; 30_000]).await;
                drop(server);
            };
            let reading = async {
                let mut received = Vec::new();
                let _ = reader.read_to_end(&mut received).await;
                received
            };
            let all = async { tokio::join!(sending, answering, reading) };
            let ((), (), received) = timeout(PATIENCE, all).await.expect("all ends in time");
            assert!(
                received == [3; 30_000],
                "{} bytes, {number} in {mode:?}, plain: {is_plain}",
                received.len()
            );
        }
    }
}

#[tokio::test]
async fn a_backend_that_has_ended_cleanly_did_so_for_a_client_that_sends_on() {
    for (mode, is_plain) in PATHS {
        let backend = Backend::new().await;
        let pair = started(mode, is_plain, &backend.address()).await;
        for number in 0..TIMES {
            let client = pair.client().await;
            let (mut reader, mut writer) = client.into_split();
            writer.write_all(b"?").await.unwrap();
            let mut server = backend.accept().await;
            expect_bytes(&mut server, b"?").await;
            send(&mut server, &[3; 30_000]).await;
            drop(server);
            let sending = async { while writer.write_all(&[7; 1000]).await.is_ok() {} };
            let mut received = Vec::new();
            let reading = reader.read_to_end(&mut received);
            let all = async { tokio::join!(sending, reading) };
            let ((), end) = timeout(PATIENCE, all).await.expect("all ends in time");
            assert_eq!(end.ok(), Some(30_000), "{number} in {mode:?}, plain: {is_plain}");
        }
    }
}

#[tokio::test]
async fn bytes_of_a_client_arrive_before_its_reset() {
    for (mode, is_plain) in PATHS {
        let backend = Backend::new().await;
        let pair = started(mode, is_plain, &backend.address()).await;
        for number in 0..TIMES {
            let mut client = pair.client().await;
            // What its own kernel keeps back is lost with its reset.
            client.set_nodelay(true).unwrap();
            send(&mut client, b"first").await;
            let mut server = backend.accept().await;
            expect_bytes(&mut server, b"first").await;
            send(&mut client, &[5; 3000]).await;
            cut(client);
            let received = expect_reset(&mut server).await;
            assert!(
                received == [5; 3000],
                "{} bytes, {number} in {mode:?}, plain: {is_plain}",
                received.len()
            );
        }
    }
}

/// A client that does not wait for anything: what it sent is there, though it has gone before its backend was reached.
#[tokio::test]
async fn bytes_of_a_client_that_is_cut_at_once_arrive_before_its_reset() {
    const CUT_AT_ONCE: usize = 60;
    for (mode, is_plain) in PATHS {
        let backend = Backend::new().await;
        let pair = started(mode, is_plain, &backend.address()).await;
        for number in 0..CUT_AT_ONCE {
            let mut client = pair.client().await;
            client.set_nodelay(true).unwrap();
            send(&mut client, &[5; 3000]).await;
            cut(client);
            let mut server = backend.accept().await;
            let received = expect_reset(&mut server).await;
            assert!(
                received == [5; 3000],
                "{} bytes, {number} in {mode:?}, plain: {is_plain}",
                received.len()
            );
        }
    }
}

fn www() -> TestFolder {
    TestFolder::with(&["dmz", "internal", "www"])
}

#[tokio::test]
async fn an_answer_in_tls_arrives_without_close_notify() {
    for (mode, is_plain) in PATHS {
        let (backend, folder) = (Backend::new().await, www());
        let connect = format!(
            "{{ address: 'tls://{}', tls: {{ ca: pki/ca.pem, name: www }} }}",
            backend.listener.local_addr().unwrap()
        );
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain(&folder, "www.pem"), key(&folder, "www.key"))
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let pair = Plan { is_plain, ..Plan::new(mode, &connect) }.start_in(folder).await;
        for number in 0..TIMES {
            let mut client = pair.client().await;
            send(&mut client, b"?").await;
            let mut server: server::TlsStream<_> = acceptor.accept(backend.accept().await).await.unwrap();
            expect_bytes(&mut server, b"?").await;
            send(&mut server, b"the answer").await;
            drop(server.into_inner());
            let received = expect_reset(&mut client).await;
            assert_eq!(received, b"the answer", "{number} in {mode:?}, plain: {is_plain}");
        }
    }
}

#[tokio::test]
async fn a_request_in_tls_arrives_without_close_notify() {
    const ACCEPT: &str =
        "{ address: 'tls://127.0.0.1:0', tls: { certificate: pki/www.pem, key: pki/www.key } }";
    for (mode, is_plain) in PATHS {
        let backend = Backend::new().await;
        let at = backend.address();
        let pair = Plan { is_plain, accept: ACCEPT, ..Plan::new(mode, &at) }.start_in(www()).await;
        let config = ClientConfig::builder_with_protocol_versions(&[&TLS12])
            .with_root_certificates(roots(&pair.folder))
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        for number in 0..TIMES {
            let name = ServerName::try_from("www").unwrap();
            let mut client = connector.connect(name, pair.client().await).await.unwrap();
            send(&mut client, b"first").await;
            let mut server = backend.accept().await;
            expect_bytes(&mut server, b"first").await;
            send(&mut client, b"the request").await;
            drop(client.into_inner());
            let received = expect_reset(&mut server).await;
            assert_eq!(received, b"the request", "{number} in {mode:?}, plain: {is_plain}");
        }
    }
}

#[tokio::test]
async fn a_message_arrives_before_the_reset_of_the_other_side() {
    for (mode, is_plain) in PATHS {
        let backend = Backend::new().await;
        let (at, accept) = (backend.address(), "ws://127.0.0.1:0/live");
        let pair = Plan { is_plain, accept, ..Plan::new(mode, &at) }.start().await;
        let accept = pair.dmz.now().await.services[0].accept[0].clone();
        let at = accept.split_once("//").unwrap().1.split('/').next().unwrap().parse().unwrap();
        for number in 0..TIMES {
            let (mut socket, _) = client_async("ws://host/live", dial(at).await).await.unwrap();
            socket.send(Message::binary(ASKED)).await.unwrap();
            let mut server = backend.accept().await;
            holds(&server, ASKED.len()).await;
            send(&mut server, b"the answer").await;
            drop(server);
            let received = timeout(PATIENCE, socket.next()).await.expect("a message in time").unwrap();
            let which = format!("{number} in {mode:?}, plain: {is_plain}");
            assert_eq!(received.expect(&which), Message::binary(&b"the answer"[..]), "{which}");
            assert!(timeout(PATIENCE, socket.next()).await.expect("an end in time").unwrap().is_err());

            let client = dial(at).await;
            // What its own kernel keeps back is lost with its reset.
            client.set_nodelay(true).unwrap();
            let (mut socket, _) = client_async("ws://host/live", client).await.unwrap();
            socket.send(Message::binary(&b"first"[..])).await.unwrap();
            let mut server = backend.accept().await;
            expect_bytes(&mut server, b"first").await;
            socket.send(Message::binary(ASKED)).await.unwrap();
            cut(socket.into_inner());
            assert_eq!(expect_reset(&mut server).await, ASKED, "{which}");
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_behind_its_end_ends_its_session() {
    let leaves = async |(mode, is_plain)| {
        let backend = Backend::new().await;
        let pair = started(mode, is_plain, &backend.address()).await;
        let mut client = pair.client().await;
        send(&mut client, b"?").await;
        client.shutdown().await.unwrap();
        let mut server = backend.accept().await;
        expect_bytes(&mut server, b"?").await;
        expect_end(&mut server).await;
        cut(client);
        assert_eq!(pair.dmz.until_ended("CD").await.bytes_up, 1, "{mode:?}, plain: {is_plain}");
        pair.inner().until("none is left", |seen| seen.totals.sessions_open == 0).await;
        // It has heard the end already: its next word is what shows it.
        until_refused(&mut server).await;
    };
    join_all(PATHS.map(leaves)).await;
}

#[tokio::test]
async fn a_backend_that_leaves_behind_its_end_ends_its_session() {
    let leaves = async |(mode, is_plain)| {
        let backend = Backend::new().await;
        let pair = started(mode, is_plain, &backend.address()).await;
        let mut client = pair.client().await;
        send(&mut client, b"?").await;
        let mut server = backend.accept().await;
        expect_bytes(&mut server, b"?").await;
        server.shutdown().await.unwrap();
        expect_end(&mut client).await;
        cut(server);
        assert_eq!(pair.inner().until_ended("BD").await.bytes_up, 1, "{mode:?}, plain: {is_plain}");
        pair.dmz.until("none is left", |seen| seen.totals.sessions_open == 0).await;
        until_refused(&mut client).await;
    };
    join_all(PATHS.map(leaves)).await;
}

/// Says something until it cannot.
async fn until_refused(stream: &mut TcpStream) {
    let refused = async {
        while stream.write_all(b"!").await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, refused).await.expect("it is reported in time");
}
