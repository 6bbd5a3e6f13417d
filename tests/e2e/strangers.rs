//! Strangers at the port of links: whoever sends again what a gateway has sent, and whoever begins without end.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use portcullis::profile::Mode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Mutex,
    task::JoinSet,
    time::timeout,
};

use crate::support::{
    gateway::{PATIENCE, TestFolder},
    mode_pair::{INTERNAL_TLS, Plan},
    peers::{dial, expect_bytes, send},
    socks::{CONNECT, ask},
    tls,
};

/// Passes one connection on, and keeps what its client sends.
async fn record(to: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<u8>>>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, sent) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let kept = sent.clone();
    let mut passing = JoinSet::new();
    passing.spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(to).await.unwrap();
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (client.split(), server.split());
        let up = async {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
                kept.lock().await.extend_from_slice(&buffer[..read]);
                to_server.write_all(&buffer[..read]).await.unwrap();
            }
        };
        tokio::select! {
            () = up => {}
            _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
        }
    });
    (at, sent, passing)
}

/// The answers of TLS 1.3 are random, and there is no early data: what was for one handshake fits into no other.
#[tokio::test]
async fn what_a_gateway_has_sent_opens_no_link_when_it_is_sent_again() {
    let folder = TestFolder::new();
    let text = format!(
        "mode: forward\ninternal:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', tls: {INTERNAL_TLS} }}\n  \
         services: {{ orders: {{ connect: 'echo://' }} }}\n"
    );
    let gateway = folder.start("internal", &text);
    let to = gateway.link_port().await;
    let (at, sent, _passing) = record(to).await;
    let mut stream = tls::link(tls::client(&folder, "dmz"), at, "internal").await;
    assert_eq!(ask(&mut stream, CONNECT, b"orders").await, 0);
    send(&mut stream, b"good").await;
    expect_bytes(&mut stream, b"good").await;
    drop(stream);
    let sent = sent.lock().await.clone();
    for length in [sent.len(), sent.len() / 2] {
        let mut again = dial(to).await;
        let from = again.local_addr().unwrap();
        // It may be ended before all of it is sent.
        let _ = again.write_all(&sent[..length]).await;
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, again.read_to_end(&mut answer)).await.expect("it ends in time");
        gateway.until_notice(&format!("link from {from}: ")).await;
    }
    assert_eq!(gateway.now().await.totals.sessions, 1, "that of the gateway itself");
}

/// More than may begin at once, by far; each is silent after half of its hello, or before it.
#[tokio::test]
async fn handshakes_without_end_leave_room_for_a_peer() {
    const STRANGERS: usize = 2000;
    let folder = TestFolder::new();
    let plan = Plan::new(Mode::Reverse, "echo://");
    let dmz = folder.start("dmz", &plan.dmz("listen: 'socks+tls://127.0.0.1:0'"));
    let at = dmz.link_port().await;
    let mut held = Vec::new();
    for number in 0..STRANGERS {
        // One that was rejected already is a stranger like the others.
        let Ok(mut stranger) = TcpStream::connect(at).await else { continue };
        if number % 2 == 0 {
            let _ = stranger.write_all(&[0x16, 3, 1, 2, 0, 1, 0]).await;
        }
        held.push(stranger);
    }
    let began = Instant::now();
    let internal = folder.start("internal", &plan.internal(&format!("connect: 'socks+tls://{at}'")));
    internal.until("its links are up", |seen| seen.pools.iter().all(|row| row.ready >= row.target)).await;
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    let mut client = dial(dmz.client_port("orders").await).await;
    send(&mut client, b"served").await;
    expect_bytes(&mut client, b"served").await;
    drop(held);
}
