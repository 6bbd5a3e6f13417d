//! After a session that sent much, a link waits until its server has read it all: behind a slow
//! backend, the bytes of the next session would wait as well.

use std::time::Duration;

use portcullis::{profile::Mode, telemetry::snapshot::Snapshot};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::halves::Outside;
use crate::support::{
    frames::{DATA, DRAIN, END, OPEN, OPENED, Over, PING, PONG, RETIRE, Wire, frame},
    peers::{Backend, dial, hear, hear_end, say},
    ways::Plan,
};

/// More than a server's backend socket takes at once, whatever its backend does.
const MUCH: usize = 64 * 1024;

/// A session that sends so much over `link` and ends, its server first.
async fn carried(outside: &Outside, link: &mut Wire, bytes: usize) {
    let mut client = outside.client().await;
    link.hear_kind(OPEN).await;
    link.say(&[frame(OPENED, &[]), frame(END, &[])].concat()).await;
    hear_end(&mut client).await;
    say(&mut client, &vec![7; bytes]).await;
    link.hear_data(bytes).await;
    client.shutdown().await.unwrap();
    link.hear(END, &[]).await;
}

/// The same, and what its opener asks then.
async fn settling(outside: &Outside) -> (Wire, Vec<u8>) {
    let mut link = outside.ready("alpha", 1).await;
    carried(outside, &mut link, MUCH).await;
    let (kind, token) = link.next().await.expect("it lives");
    assert_eq!(kind, PING);
    outside.gateway.until_pool("it settles", |row| row.ready == 0 && row.carrying == 1).await;
    (link, token)
}

/// No session is to be had for this client.
async fn waiting(outside: &Outside) -> TcpStream {
    let client = outside.client().await;
    let snapshot = outside.gateway.until("a client waits", |seen| seen.pools[0].waiting == 1).await;
    assert_eq!((snapshot.pools[0].ready, snapshot.pools[0].carrying), (0, 1), "{:?}", snapshot.pools);
    client
}

#[tokio::test]
async fn a_link_is_ready_again_when_its_server_has_read_the_last_session() {
    let outside = Outside::new().await;
    let (mut link, token) = settling(&outside).await;
    let mut client = waiting(&outside).await;
    // Not what was asked.
    link.say_frame(PONG, b"whatever").await;
    let snapshot = outside.gateway.now().await;
    assert_eq!((snapshot.pools[0].ready, snapshot.pools[0].waiting), (0, 1), "{:?}", snapshot.pools);
    link.say_frame(PONG, &token).await;
    assert_eq!(link.next().await.expect("it lives").0, OPEN);
    link.say(&[frame(OPENED, &[]), frame(DATA, b"hello")].concat()).await;
    hear(&mut client, b"hello").await;
}

#[tokio::test]
async fn meanwhile_the_next_session_goes_over_another_link() {
    let outside = Outside::new().await;
    let (mut link, token) = settling(&outside).await;
    let mut client = waiting(&outside).await;
    let mut other = outside.greeted("beta").await;
    other.hear_kind(OPEN).await;
    other.say(&[frame(OPENED, &[]), frame(DATA, b"hello")].concat()).await;
    hear(&mut client, b"hello").await;
    link.say_frame(PONG, &token).await;
    outside.until_ready("alpha", 1).await;
    link.pongs(b"nothing?").await;
}

#[tokio::test]
async fn a_session_that_sent_little_asks_for_nothing() {
    let outside = Outside::new().await;
    let mut link = outside.ready("alpha", 1).await;
    for _ in 0..3 {
        carried(&outside, &mut link, 16 * 1024).await;
        outside.until_ready("alpha", 1).await;
        link.say_frame(PING, b"question").await;
        assert_eq!(link.next().await, Ok((PONG, b"question".to_vec())));
    }
}

#[tokio::test]
async fn a_settling_link_that_its_server_wants_closed_is_closed() {
    for asks in [RETIRE, DRAIN] {
        let outside = Outside::new().await;
        let (mut link, _) = settling(&outside).await;
        link.say_frame(asks, &[]).await;
        assert_eq!(link.over().await, (Over::Cleanly, vec![(RETIRE, vec![])]));
        outside.gateway.until_pool("gone", |row| row.ready == 0 && row.carrying == 0).await;
    }
}

#[tokio::test]
async fn a_settling_link_that_is_lost_leaves_the_books() {
    for is_clean in [true, false] {
        let outside = Outside::new().await;
        let (mut link, _) = settling(&outside).await;
        let mut client = waiting(&outside).await;
        if is_clean {
            link.stream.shutdown().await.unwrap();
            link.over().await;
        } else {
            link.cut();
        }
        outside.gateway.until("gone", |seen| seen.pools.iter().all(|row| row.carrying == 0)).await;
        let mut next = outside.greeted("alpha").await;
        next.hear_kind(OPEN).await;
        next.say(&[frame(OPENED, &[]), frame(DATA, b"hello")].concat()).await;
        hear(&mut client, b"hello").await;
    }
}

#[tokio::test]
async fn a_settling_link_that_falls_silent_is_dropped() {
    let outside = Outside::new().await;
    let (mut link, _) = settling(&outside).await;
    let (_, frames) = link.over_within(Duration::from_secs(14)).await;
    assert!(frames.iter().all(|(kind, _)| *kind == PING), "{frames:?}");
    outside.gateway.until_pool("gone", |row| row.ready == 0 && row.carrying == 0).await;
}

/// With real gateways on both ends, and a backend that reads nothing of its first client's.
#[tokio::test]
async fn a_slow_backend_holds_up_its_own_client_alone() {
    // More than its server's socket to the backend takes, and less than that and the link's own together.
    const TAIL: usize = 6 * 1024 * 1024;
    let backend = Backend::new().await;
    // What does not fit there waits in the link.
    SockRef::from(&backend.listener).set_recv_buffer_size(16 * 1024).unwrap();
    let address = backend.address();
    let plan = Plan { internal_link: ", prepared: 1", ..Plan::new(Mode::Reverse, &address) };
    let way = plan.start().await;
    let mut slow = way.client().await;
    let mut behind = backend.accept().await;
    behind.shutdown().await.unwrap();
    hear_end(&mut slow).await;
    say(&mut slow, &vec![7; TAIL]).await;
    slow.shutdown().await.unwrap();
    // The session is over, and its link still waits to be read.
    let settles = |seen: &Snapshot| seen.totals.sessions_open == 0 && seen.pools[0].carrying == 1;
    way.dmz.until("it settles", settles).await;
    let port = way.dmz.client_port("orders").await;
    for _ in 0..4 {
        let mut client = dial(port).await;
        say(&mut client, b"question").await;
        let mut served = backend.accept().await;
        hear(&mut served, b"question").await;
        say(&mut served, b"answer").await;
        hear(&mut client, b"answer").await;
    }
    way.dmz.until("it settles still", settles).await;
    let mut heard = Vec::new();
    behind.read_to_end(&mut heard).await.unwrap();
    assert!(heard.len() == TAIL && heard.iter().all(|byte| *byte == 7), "{} bytes", heard.len());
    way.dmz.until("it is ready again", |seen| seen.pools[0].carrying == 0).await;
}
