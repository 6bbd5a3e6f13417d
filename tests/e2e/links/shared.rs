//! Many sessions on few links do not block each other.

use std::collections::HashMap;

use portcullis::{profile::Mode, telemetry::snapshot::Snapshot};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::halves::{BackgroundSend, GatewayEchoSession, OpenerHalf};
use crate::support::{
    frames::{self, BYTES, DATA, END, HELLO, OPEN, OPENED, OURS, Port, RawLink, frame, frame_of},
    gateway::TestFolder,
    mode_pair::{DMZ_TLS, INTERNAL_TLS, Plan},
    peers::{Backend, Reserved, dial, expect_bytes, expect_end, send},
};

/// A link of `alpha` that carries this many sessions at once.
async fn link_for(outside: &OpenerHalf, sessions: u16) -> RawLink {
    let mut link = outside.handshaken_link("alpha").await;
    link.send_frame(HELLO, &frames::offer_with(sessions, 1, 8, &[("orders", BYTES)])).await;
    link.expect_granted(&["orders"]).await;
    link
}

/// Says OPENED to the next session on this link; its number.
async fn takes_one(link: &mut RawLink) -> u32 {
    link.expect_kind(OPEN).await;
    link.send_frame(OPENED, &[]).await;
    link.session
}

#[tokio::test]
async fn one_link_carries_five_hundred_sessions_and_no_more_than_its_server_takes() {
    const SESSIONS: usize = 500;
    let outside = OpenerHalf::new().await;
    let mut link = link_for(&outside, SESSIONS as u16).await;
    outside.until_ready("alpha", 1).await;
    let mut clients = Vec::new();
    for _ in 0..SESSIONS {
        clients.push(outside.client().await);
    }
    for _ in 0..SESSIONS {
        takes_one(&mut link).await;
    }
    let mut next = outside.client().await;
    outside.gateway.until("one waits", |seen| seen.pools.iter().any(|row| row.waiting == 1)).await;
    link.expect_pong(b"no more?").await;
    // Each receives its own bytes, whichever number it has.
    for (at, client) in clients.iter_mut().enumerate() {
        send(client, &(at as u32).to_be_bytes()).await;
    }
    let mut numbers = HashMap::new();
    for _ in 0..SESSIONS {
        let words = link.expect_kind(DATA).await;
        let number = link.last_session;
        assert_eq!(numbers.insert(number, words.clone()), None);
        link.send(&frame_of(number, DATA, &words)).await;
    }
    for (at, client) in clients.iter_mut().enumerate() {
        expect_bytes(client, &(at as u32).to_be_bytes()).await;
    }
    // One goes, and the one that waits has its place.
    clients[0].shutdown().await.unwrap();
    link.expect_kind(END).await;
    let number = link.last_session;
    assert_eq!(numbers[&number], 0_u32.to_be_bytes());
    link.send(&frame_of(number, END, &[])).await;
    expect_end(&mut clients[0]).await;
    takes_one(&mut link).await;
    link.send_frame(DATA, b"welcome").await;
    expect_bytes(&mut next, b"welcome").await;
}

#[tokio::test]
async fn five_hundred_clients_at_once_share_the_links_that_stand_and_wait_for_no_other() {
    const LINKS: usize = 8;
    let outside = OpenerHalf::new().await;
    let mut links = Vec::new();
    for ready in 1..=LINKS {
        links.push(link_for(&outside, 256).await);
        outside.until_ready("alpha", ready).await;
    }
    let mut clients = Vec::new();
    for _ in 0..500 {
        clients.push(outside.client().await);
    }
    let mut taken = 0;
    for link in &mut links {
        // Each has as much to do as any other.
        for _ in 0..500 / LINKS {
            takes_one(link).await;
            taken += 1;
        }
    }
    assert_eq!(taken, 496, "four have one more");
    let seen = outside.gateway.until("all are open", |seen| seen.totals.sessions_open == 496).await;
    assert!(seen.pools.iter().all(|row| row.waiting == 0), "{:?}", seen.pools);
}

/// A client, and its backend's side, over real gateways with one link.
async fn through(pair: &crate::support::mode_pair::ModePair, backend: &Backend) -> (TcpStream, TcpStream) {
    let mut client = dial(pair.dmz.client_port("orders").await).await;
    send(&mut client, b"question").await;
    let mut served = backend.accept().await;
    expect_bytes(&mut served, b"question").await;
    (client, served)
}

/// Whole dialogues, one after another, of several clients on the only link.
async fn check_others_finish(pair: &crate::support::mode_pair::ModePair, backend: &Backend) {
    for _ in 0..10 {
        let (mut client, mut served) = through(pair, backend).await;
        let answer = vec![5; 300_000];
        let saying = BackgroundSend::start(served, answer.clone());
        expect_bytes(&mut client, &answer).await;
        served = saying.done().await;
        client.shutdown().await.unwrap();
        expect_end(&mut served).await;
        drop(served);
        expect_end(&mut client).await;
    }
}

/// More than all sockets and windows on the way take.
const MUCH: usize = 64 * 1024 * 1024;

#[tokio::test]
async fn a_backend_that_never_reads_holds_up_its_own_client_alone() {
    let backend = Backend::new().await;
    SockRef::from(&backend.listener).set_recv_buffer_size(16 * 1024).unwrap();
    let address = backend.address();
    let plan = Plan { internal_link: ", prepared: 1", ..Plan::new(Mode::Reverse, &address) };
    let pair = plan.start().await;
    let (client, mut served) = through(&pair, &backend).await;
    let saying = BackgroundSend::start(client, vec![7; MUCH]);
    check_others_finish(&pair, &backend).await;
    assert!(!saying.is_done(), "it fits on the way");
    assert_eq!(pair.dmz.now().await.pools[0].ready, 1, "on the only link");
    let mut received = vec![0; MUCH];
    served.read_exact(&mut received).await.unwrap();
    assert!(received.iter().all(|byte| *byte == 7));
    drop(saying.done().await);
    expect_end(&mut served).await;
}

#[tokio::test]
async fn a_client_that_never_reads_holds_up_its_own_backend_alone() {
    let backend = Backend::new().await;
    let address = backend.address();
    let plan = Plan { internal_link: ", prepared: 1", ..Plan::new(Mode::Reverse, &address) };
    let pair = plan.start().await;
    let (mut client, served) = through(&pair, &backend).await;
    let saying = BackgroundSend::start(served, vec![7; MUCH]);
    check_others_finish(&pair, &backend).await;
    assert!(!saying.is_done(), "it fits on the way");
    let mut received = vec![0; MUCH];
    client.read_exact(&mut received).await.unwrap();
    assert!(received.iter().all(|byte| *byte == 7));
    drop(saying.done().await);
    expect_end(&mut client).await;
}

/// The bytes of sessions that are over are still on their way to a slow backend: others go on.
#[tokio::test]
async fn what_a_session_leaves_to_a_slow_backend_holds_up_no_other() {
    const TAIL: usize = 6 * 1024 * 1024;
    let backend = Backend::new().await;
    SockRef::from(&backend.listener).set_recv_buffer_size(16 * 1024).unwrap();
    let address = backend.address();
    let plan = Plan { internal_link: ", prepared: 1", ..Plan::new(Mode::Reverse, &address) };
    let pair = plan.start().await;
    let (mut slow, mut behind) = through(&pair, &backend).await;
    behind.shutdown().await.unwrap();
    expect_end(&mut slow).await;
    let saying = BackgroundSend::start(slow, vec![7; TAIL]);
    check_others_finish(&pair, &backend).await;
    let mut received = Vec::new();
    let reading = async {
        behind.read_to_end(&mut received).await.unwrap();
    };
    let saying = async { drop(saying.done().await) };
    tokio::join!(reading, saying);
    assert!(received.len() == TAIL && received.iter().all(|byte| *byte == 7), "{} bytes", received.len());
}

/// A sender at full speed in each direction, and others beside it.
#[tokio::test]
async fn sessions_at_full_speed_leave_their_turn_to_others() {
    let backend = Backend::new().await;
    let address = backend.address();
    let plan = Plan { internal_link: ", prepared: 1", ..Plan::new(Mode::Reverse, &address) };
    let pair = plan.start().await;
    let (client, served) = through(&pair, &backend).await;
    let (up_reads, up) = client.into_split();
    let (down_reads, down) = served.into_split();
    let saying = [BackgroundSend::start(up, vec![7; MUCH]), BackgroundSend::start(down, vec![8; MUCH])];
    let drain = |mut from: tokio::net::tcp::OwnedReadHalf, byte: u8| async move {
        let mut received = vec![0; MUCH];
        from.read_exact(&mut received).await.unwrap();
        assert!(received.iter().all(|received| *received == byte));
        from
    };
    let all = async { tokio::join!(drain(up_reads, 8), drain(down_reads, 7)) };
    let (_ends, ()) = tokio::join!(all, check_others_finish(&pair, &backend));
    for saying in saying {
        drop(saying.done().await);
    }
}

#[tokio::test]
async fn a_link_that_takes_no_more_sessions_carries_those_that_it_has() {
    let outside = OpenerHalf::new().await;
    let mut old = link_for(&outside, 256).await;
    outside.until_ready("alpha", 1).await;
    let mut clients = [outside.client().await, outside.client().await];
    let numbers = [takes_one(&mut old).await, takes_one(&mut old).await];
    old.send_frame(frames::RETIRE, &[]).await;
    old.expect_frame(frames::RETIRE, &[]).await;
    let mut new = link_for(&outside, 256).await;
    outside.until_ready("alpha", 1).await;
    let mut late = outside.client().await;
    takes_one(&mut new).await;
    new.send(&[frame(DATA, b"new"), frame(END, &[])].concat()).await;
    expect_bytes(&mut late, b"new").await;
    for number in numbers {
        old.send(&[frame_of(number, DATA, b"old"), frame_of(number, END, &[])].concat()).await;
    }
    for client in &mut clients {
        expect_bytes(client, b"old").await;
        expect_end(client).await;
    }
}

/// A pair in one process, whose internal half another DMZ gateway has as well.
#[tokio::test]
async fn sessions_of_another_dmz_gateway_are_in_the_totals_of_a_pair() {
    let folder = TestFolder::with(&["dmz", "internal", "other"]);
    let (other, own) = (Port::new(&folder, "other", &[OURS]).await, Reserved::new());
    let (own, tls) = (format!("socks+tls://{}", own.at()), INTERNAL_TLS.replace("[dmz]", "[dmz, other]"));
    let text = format!(
        "mode: reverse\ndmz:\n  link: {{ listen: '{own}', tls: {DMZ_TLS} }}\n  \
         services: {{ orders: {{ accept: ['tcp://127.0.0.1:0'] }} }}\n\
         internal:\n  link: {{ connect: ['{own}', '{}'], prepared: 1, tls: {tls} }}\n  \
         services: {{ orders: {{ connect: 'echo://' }} }}\n",
        other.address()
    );
    let gateway = folder.start("pair", &text);
    let mut link = other.accept().await;
    let (_, offer) = link.next_other_than_ping().await;
    link.send_frame(HELLO, &frames::grant_of(8, &offer)).await;
    let elsewhere = GatewayEchoSession::on_service(link, "orders").await;
    let counts = |seen: &Snapshot| (seen.totals.sessions_open, seen.totals.sessions, seen.totals.bytes_up);
    gateway.until("the other's alone", |seen| counts(seen) == (1, 1, 13)).await;
    let mut client = dial(gateway.client_port("orders").await).await;
    send(&mut client, b"here").await;
    expect_bytes(&mut client, b"here").await;
    gateway.until("both, each once", |seen| counts(seen) == (2, 2, 17)).await;
    drop(elsewhere.ends().await);
    drop(client);
    gateway.until("both are over", |seen| counts(seen) == (0, 2, 17)).await;
}
