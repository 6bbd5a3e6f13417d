//! Who gets what share: turns, patience and links go by a peer's certificate, not by where it dials from.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use tokio::{
    io::AsyncReadExt,
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};

use super::halves::OpenerHalf;
use crate::support::{
    frames::{self, DATA, END, HELLO, OPEN, OPENED, OURS, RawLink},
    gateway::{Gateway, PATIENCE, TestFolder},
    peers::{expect_bytes, send},
};

/// Longer than a gateway waits for the answer to `open`.
const ANSWERED: Duration = Duration::from_secs(20);

/// A link of `name` that is dialled from `127.0.0.HOST` and offers `orders`.
async fn link_from(outside: &OpenerHalf, name: &str, host: u8) -> RawLink {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, host], 0))).unwrap();
    let stream = socket.connect(outside.gateway.link_port().await).await.unwrap();
    let connector = RawLink::tls_connector(&outside.folder, name, &[OURS]);
    let mut link = RawLink::handshake(connector, "dmz", stream).await;
    link.send_frame(HELLO, &frames::offer(1, 64, &["orders"])).await;
    link.expect_kind(HELLO).await;
    link
}

/// Answers one `open`, echoes what is said first, and keeps the link.
async fn serve(mut link: RawLink) -> RawLink {
    loop {
        match link.next_other_than_ping().await {
            (OPEN, _) => link.send_frame(OPENED, &[]).await,
            (DATA, bytes) => {
                link.send_frame(DATA, &bytes).await;
                return link;
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn echoes(mut client: TcpStream) -> TcpStream {
    send(&mut client, b"ping").await;
    expect_bytes(&mut client, b"ping").await;
    client
}

#[tokio::test]
async fn a_peer_that_dials_from_many_addresses_gets_no_more_turns() {
    let outside = OpenerHalf::new().await;
    let mut links = JoinSet::new();
    for host in 1..=8 {
        links.spawn(serve(link_from(&outside, "alpha", host).await));
        links.spawn(serve(link_from(&outside, "beta", 1).await));
    }
    outside.until_ready("alpha", 8).await;
    outside.until_ready("beta", 8).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(echoes(outside.client().await).await);
    }
    let mut of_peers: HashMap<String, usize> = HashMap::new();
    for row in &outside.gateway.now().await.sessions {
        *of_peers.entry(row.peer.clone().unwrap()).or_default() += 1;
    }
    assert_eq!(of_peers, HashMap::from([("alpha".into(), 4), ("beta".into(), 4)]));
}

#[tokio::test]
async fn a_peer_that_answers_no_open_costs_silent_clients_time_and_is_used_last() {
    let outside = OpenerHalf::new().await;
    let mut mute = Vec::new();
    let mut links = JoinSet::new();
    for _ in 0..6 {
        mute.push(link_from(&outside, "alpha", 1).await);
    }
    for _ in 0..10 {
        links.spawn(serve(link_from(&outside, "beta", 1).await));
    }
    outside.until_ready("alpha", 6).await;
    outside.until_ready("beta", 10).await;
    // Every second one is opened at the mute peer, where nothing but `open` has gone.
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(outside.client().await);
    }
    let opened_at = |peer: &'static str| {
        move |snapshot: &portcullis::telemetry::snapshot::Snapshot| {
            snapshot.sessions.iter().filter(|row| row.peer.as_deref() == Some(peer)).count()
        }
    };
    let at_beta = opened_at("beta");
    outside
        .gateway
        .until_within(ANSWERED, "all of them are at the peer that answers", |snapshot| {
            snapshot.sessions.len() == 6 && at_beta(snapshot) == 6
        })
        .await;
    for client in clients {
        echoes(client).await;
    }
    outside.gateway.until_notice("alpha has left several sessions in a row unanswered").await;
    // It has left three in a row unanswered: the next ones do not even try it.
    for _ in 0..4 {
        let began = tokio::time::Instant::now();
        echoes(outside.client().await).await;
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    }
}

/// An internal half in forward mode that two DMZ gateways may dial.
fn inside(folder: &TestFolder) -> Gateway {
    let tls = "{ certificate: pki/internal.pem, key: pki/internal.key, ca: pki/ca.pem, peers: [dmz, dmz2] }";
    let text = format!(
        "mode: forward\ninternal:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', maximum: 8, tls: {tls} }}\n  \
         services: {{ echo: {{ connect: 'echo://' }} }}\n"
    );
    folder.start("internal", &text)
}

/// A link of a DMZ gateway `name` with an open session; `None` where there is no room for it.
async fn session(folder: &TestFolder, name: &str, at: SocketAddr) -> Option<RawLink> {
    let mut link = RawLink::dial(folder, name, at, "internal", &[OURS]).await;
    let (kind, offer) = link.next_other_than_ping().await;
    assert_eq!(kind, HELLO);
    link.send_frame(HELLO, &frames::grant_of(64, &offer)).await;
    link.try_send(&frames::frame(OPEN, &frames::open("s-1", None, "echo"))).await.ok()?;
    let received = timeout(PATIENCE, link.next()).await.expect("an answer in time");
    matches!(received, Ok((OPENED, _))).then_some(link)
}

#[tokio::test]
async fn a_gateway_that_opens_every_link_leaves_the_other_its_share() {
    let folder = TestFolder::with(&["dmz", "dmz2", "internal"]);
    let gateway = inside(&folder);
    let at = gateway.link_port().await;
    let honest = session(&folder, "dmz2", at).await.expect("there is room");
    let mut taken = Vec::new();
    for _ in 0..12 {
        taken.extend(session(&folder, "dmz", at).await);
    }
    assert_eq!(taken.len(), 4, "half of `maximum` while the other one has sessions");
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(session(&folder, "dmz2", at).await.expect("its share is its own"));
    }
    assert!(session(&folder, "dmz2", at).await.is_none(), "all are taken");
    drop((honest, others));
}

#[tokio::test]
async fn unknown_services_are_logged_at_a_bounded_rate() {
    let folder = TestFolder::with(&["dmz", "dmz2", "internal"]);
    let gateway = inside(&folder);
    let at = gateway.link_port().await;
    let began = tokio::time::Instant::now();
    for peer in 0..8 {
        let mut link = RawLink::dial(&folder, "dmz", at, "internal", &[OURS]).await;
        let offer = link.expect_kind(HELLO).await;
        link.send_frame(HELLO, &frames::grant_of(64, &offer)).await;
        for number in 0..30 {
            // Another name each time: equal lines are merged.
            let open = frames::open("s-1", None, &format!("unknown-{peer}-{number}"));
            link.send_frame(OPEN, &open).await;
            link.expect_kind(frames::REFUSED).await;
        }
        link.send_frame(END, &[]).await;
        let _ = link.stream.read(&mut [0]).await;
    }
    gateway.until_notice("unknown service").await;
    let seconds = began.elapsed().as_secs() as usize + 1;
    let snapshot = gateway.now().await;
    let is_line = |text: &str| text.contains("unknown service `unknown-");
    let lines = snapshot.notices.iter().filter(|line| is_line(&line.text)).count();
    assert!((10..=10 * seconds).contains(&lines), "{lines} lines in {seconds} s for 240 opens");
}
