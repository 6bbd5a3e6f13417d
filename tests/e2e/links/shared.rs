//! Many sessions on few links: none of them stands in the way of another.

use std::collections::HashMap;

use portcullis::{profile::Mode, telemetry::snapshot::Snapshot};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::halves::{Echoed, Outside, Saying};
use crate::support::{
    frames::{self, BYTES, DATA, END, HELLO, OPEN, OPENED, OURS, Port, Wire, frame, frame_of},
    gateway::Place,
    peers::{Backend, Reserved, dial, hear, hear_end, say},
    ways::{DMZ_TLS, INTERNAL_TLS, Plan},
};

/// A link of `alpha` that carries so many sessions at once.
async fn link_for(outside: &Outside, sessions: u16) -> Wire {
    let mut link = outside.shaken("alpha").await;
    link.say_frame(HELLO, &frames::offer_with(sessions, 1, 8, &[("orders", BYTES)])).await;
    link.hear_granted(&["orders"]).await;
    link
}

/// Says OPENED to the next session on this link; its number.
async fn takes_one(link: &mut Wire) -> u32 {
    link.hear_kind(OPEN).await;
    link.say_frame(OPENED, &[]).await;
    link.session
}

#[tokio::test]
async fn one_link_carries_five_hundred_sessions_and_no_more_than_its_server_takes() {
    const SESSIONS: usize = 500;
    let outside = Outside::new().await;
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
    link.pongs(b"no more?").await;
    // Each hears its own words, whichever number it has.
    for (at, client) in clients.iter_mut().enumerate() {
        say(client, &(at as u32).to_be_bytes()).await;
    }
    let mut numbers = HashMap::new();
    for _ in 0..SESSIONS {
        let words = link.hear_kind(DATA).await;
        let number = link.heard_of;
        assert_eq!(numbers.insert(number, words.clone()), None);
        link.say(&frame_of(number, DATA, &words)).await;
    }
    for (at, client) in clients.iter_mut().enumerate() {
        hear(client, &(at as u32).to_be_bytes()).await;
    }
    // One goes, and the one that waits has its place.
    clients[0].shutdown().await.unwrap();
    link.hear_kind(END).await;
    let number = link.heard_of;
    assert_eq!(numbers[&number], 0_u32.to_be_bytes());
    link.say(&frame_of(number, END, &[])).await;
    hear_end(&mut clients[0]).await;
    takes_one(&mut link).await;
    link.say_frame(DATA, b"welcome").await;
    hear(&mut next, b"welcome").await;
}

#[tokio::test]
async fn five_hundred_clients_at_once_share_the_links_that_stand_and_wait_for_no_other() {
    const LINKS: usize = 8;
    let outside = Outside::new().await;
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
async fn through(way: &crate::support::ways::Way, backend: &Backend) -> (TcpStream, TcpStream) {
    let mut client = dial(way.dmz.client_port("orders").await).await;
    say(&mut client, b"question").await;
    let mut served = backend.accept().await;
    hear(&mut served, b"question").await;
    (client, served)
}

/// Whole dialogues, one after another, of several clients on the only link.
async fn check_others_finish(way: &crate::support::ways::Way, backend: &Backend) {
    for _ in 0..10 {
        let (mut client, mut served) = through(way, backend).await;
        let answer = vec![5; 300_000];
        let saying = Saying::start(served, answer.clone());
        hear(&mut client, &answer).await;
        served = saying.done().await;
        client.shutdown().await.unwrap();
        hear_end(&mut served).await;
        drop(served);
        hear_end(&mut client).await;
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
    let way = plan.start().await;
    let (client, mut served) = through(&way, &backend).await;
    let saying = Saying::start(client, vec![7; MUCH]);
    check_others_finish(&way, &backend).await;
    assert!(!saying.is_done(), "it fits on the way");
    assert_eq!(way.dmz.now().await.pools[0].ready, 1, "on the only link");
    let mut received = vec![0; MUCH];
    served.read_exact(&mut received).await.unwrap();
    assert!(received.iter().all(|byte| *byte == 7));
    drop(saying.done().await);
    hear_end(&mut served).await;
}

#[tokio::test]
async fn a_client_that_never_reads_holds_up_its_own_backend_alone() {
    let backend = Backend::new().await;
    let address = backend.address();
    let plan = Plan { internal_link: ", prepared: 1", ..Plan::new(Mode::Reverse, &address) };
    let way = plan.start().await;
    let (mut client, served) = through(&way, &backend).await;
    let saying = Saying::start(served, vec![7; MUCH]);
    check_others_finish(&way, &backend).await;
    assert!(!saying.is_done(), "it fits on the way");
    let mut received = vec![0; MUCH];
    client.read_exact(&mut received).await.unwrap();
    assert!(received.iter().all(|byte| *byte == 7));
    drop(saying.done().await);
    hear_end(&mut client).await;
}

/// The bytes of sessions that are over are still on their way to a slow backend: others go on.
#[tokio::test]
async fn what_a_session_leaves_to_a_slow_backend_holds_up_no_other() {
    const TAIL: usize = 6 * 1024 * 1024;
    let backend = Backend::new().await;
    SockRef::from(&backend.listener).set_recv_buffer_size(16 * 1024).unwrap();
    let address = backend.address();
    let plan = Plan { internal_link: ", prepared: 1", ..Plan::new(Mode::Reverse, &address) };
    let way = plan.start().await;
    let (mut slow, mut behind) = through(&way, &backend).await;
    behind.shutdown().await.unwrap();
    hear_end(&mut slow).await;
    let saying = Saying::start(slow, vec![7; TAIL]);
    check_others_finish(&way, &backend).await;
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
    let way = plan.start().await;
    let (client, served) = through(&way, &backend).await;
    let (up_reads, up) = client.into_split();
    let (down_reads, down) = served.into_split();
    let saying = [Saying::start(up, vec![7; MUCH]), Saying::start(down, vec![8; MUCH])];
    let drain = |mut from: tokio::net::tcp::OwnedReadHalf, byte: u8| async move {
        let mut received = vec![0; MUCH];
        from.read_exact(&mut received).await.unwrap();
        assert!(received.iter().all(|received| *received == byte));
        from
    };
    let all = async { tokio::join!(drain(up_reads, 8), drain(down_reads, 7)) };
    let (_ends, ()) = tokio::join!(all, check_others_finish(&way, &backend));
    for saying in saying {
        drop(saying.done().await);
    }
}

#[tokio::test]
async fn a_link_that_takes_no_more_sessions_carries_those_that_it_has() {
    let outside = Outside::new().await;
    let mut old = link_for(&outside, 256).await;
    outside.until_ready("alpha", 1).await;
    let mut clients = [outside.client().await, outside.client().await];
    let numbers = [takes_one(&mut old).await, takes_one(&mut old).await];
    old.say_frame(frames::RETIRE, &[]).await;
    old.hear(frames::RETIRE, &[]).await;
    let mut new = link_for(&outside, 256).await;
    outside.until_ready("alpha", 1).await;
    let mut late = outside.client().await;
    takes_one(&mut new).await;
    new.say(&[frame(DATA, b"new"), frame(END, &[])].concat()).await;
    hear(&mut late, b"new").await;
    for number in numbers {
        old.say(&[frame_of(number, DATA, b"old"), frame_of(number, END, &[])].concat()).await;
    }
    for client in &mut clients {
        hear(client, b"old").await;
        hear_end(client).await;
    }
}

/// A pair in one process, whose internal half another DMZ gateway has as well.
#[tokio::test]
async fn sessions_of_another_dmz_gateway_are_in_the_totals_of_a_pair() {
    let place = Place::with(&["dmz", "internal", "other"]);
    let (other, own) = (Port::new(&place, "other", &[OURS]).await, Reserved::new());
    let (own, tls) = (format!("socks+tls://{}", own.at()), INTERNAL_TLS.replace("[dmz]", "[dmz, other]"));
    let text = format!(
        "mode: reverse\ndmz:\n  link: {{ listen: '{own}', tls: {DMZ_TLS} }}\n  \
         services: {{ orders: {{ accept: ['tcp://127.0.0.1:0'] }} }}\n\
         internal:\n  link: {{ connect: ['{own}', '{}'], prepared: 1, tls: {tls} }}\n  \
         services: {{ orders: {{ connect: 'echo://' }} }}\n",
        other.address()
    );
    let gateway = place.start("pair", &text);
    let mut link = other.accept().await;
    let (_, offer) = link.hear_any().await;
    link.say_frame(HELLO, &frames::grant_of(8, &offer)).await;
    let elsewhere = Echoed::on_service(link, "orders").await;
    let counts = |seen: &Snapshot| (seen.totals.sessions_open, seen.totals.sessions, seen.totals.bytes_up);
    gateway.until("the other's alone", |seen| counts(seen) == (1, 1, 13)).await;
    let mut client = dial(gateway.client_port("orders").await).await;
    say(&mut client, b"here").await;
    hear(&mut client, b"here").await;
    gateway.until("both, each once", |seen| counts(seen) == (2, 2, 17)).await;
    drop(elsewhere.ends().await);
    drop(client);
    gateway.until("both are over", |seen| counts(seen) == (0, 2, 17)).await;
}
