//! The half that opens: what an internal half that is not ours receives from it.

use portcullis::{
    gateway::handle::Command,
    telemetry::snapshot::{PoolRow, PoolState, SessionPhase},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::halves::{BackgroundSend, OpenerHalf};
use crate::support::{
    frames::{
        self, COPY_MAX, DATA, DATA_MAX, DRAIN, END, HELLO, HTTP, LinkOver, OPEN, OPENED, RESET, RETIRE, frame,
    },
    gateway::PATIENCE,
    peers::{cut, dial, expect_bytes, expect_end, expect_reset, send},
};

/// What `open` names: the session's id and its client.
fn open_fields(body: &[u8]) -> (String, std::net::SocketAddr) {
    let fields = frames::fields(body);
    let of = |tag: u8| fields.iter().find(|(of, _)| *of == tag).map(|(_, value)| value.clone()).unwrap();
    assert_eq!(of(1), b"orders");
    let [a, b, c, d, high, low] = of(4)[..] else { panic!("{body:?}") };
    let client = (std::net::Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low]));
    (String::from_utf8(of(2)).unwrap(), client.into())
}

#[tokio::test]
async fn it_grants_what_it_knows_and_allows_and_no_more() {
    let more = ", web: { accept: ['tcp://127.0.0.1:0'] }, \
                hidden: { accept: ['tcp://127.0.0.1:0'], peers: [beta] }";
    let outside = OpenerHalf::with(more).await;
    let mut alpha = outside.handshaken_link("alpha").await;
    alpha.send_frame(HELLO, &frames::offer(1, 8, &["web", "hidden", "unknown", "orders"])).await;
    alpha.expect_granted(&["web", "orders"]).await;
    let mut beta = outside.handshaken_link("beta").await;
    beta.send_frame(HELLO, &frames::offer(1, 8, &["hidden"])).await;
    beta.expect_granted(&["hidden"]).await;
}

#[tokio::test]
async fn a_peer_with_a_useless_offer_is_refused_with_the_reason() {
    let outside = OpenerHalf::new().await;
    for offered in [&[][..], &["unknown"]] {
        let mut alpha = outside.handshaken_link("alpha").await;
        alpha.send_frame(HELLO, &frames::offer(1, 8, offered)).await;
        alpha.expect_granted(&[]).await;
        assert_eq!(alpha.over().await, (LinkOver::Cleanly, vec![(RETIRE, vec![])]));
    }
    outside.gateway.until_notice("link from alpha refused: it offers no service").await;
}

#[tokio::test]
async fn open_names_the_session_and_the_client() {
    let outside = OpenerHalf::new().await;
    let mut alpha = outside.ready("alpha", 1).await;
    let client = outside.client().await;
    let (id, shown) = open_fields(&alpha.expect_kind(OPEN).await);
    assert_eq!(shown, client.local_addr().unwrap());
    let snapshot = outside.gateway.now().await;
    assert_eq!(snapshot.sessions[0].id, id);
}

#[tokio::test]
async fn a_client_that_waits_for_the_servers_first_bytes_gets_its_session() {
    let outside = OpenerHalf::new().await;
    let mut alpha = outside.ready("alpha", 1).await;
    let mut client = outside.client().await;
    alpha.expect_kind(OPEN).await;
    alpha.send(&[frame(OPENED, &[]), frame(DATA, b"220 welcome")].concat()).await;
    expect_bytes(&mut client, b"220 welcome").await;
}

#[tokio::test]
async fn a_clients_first_bytes_come_with_open() {
    let outside = OpenerHalf::new().await;
    let mut client = outside.client().await;
    send(&mut client, b"GET / HTTP/1.0").await;
    outside.gateway.until("it waits", |snapshot| snapshot.pools.iter().any(|row| row.waiting == 1)).await;
    let mut alpha = outside.handshaken_link("alpha").await;
    alpha.send_frame(HELLO, &frames::offer(1, 8, &["orders"])).await;
    alpha.expect_kind(HELLO).await;
    let mut received = [0; 4096];
    let count = tokio::time::timeout(PATIENCE, alpha.stream.read(&mut received)).await.unwrap().unwrap();
    let session = u32::from_be_bytes(*received[4..].first_chunk().unwrap());
    let expected = frames::frame_of(session, DATA, b"GET / HTTP/1.0");
    assert_eq!(received[0], OPEN);
    assert!(received[..count].ends_with(&expected), "{:?}", &received[..count]);
}

#[tokio::test]
async fn one_link_carries_client_after_client() {
    let outside = OpenerHalf::new().await;
    let mut alpha = outside.ready("alpha", 1).await;
    for at in 0..30 {
        let mut client = outside.client().await;
        send(&mut client, b"ask").await;
        alpha.expect_kind(OPEN).await;
        alpha.expect_frame(DATA, b"ask").await;
        alpha.send(&[frame(OPENED, &[]), frame(DATA, b"answer"), frame(END, &[])].concat()).await;
        expect_bytes(&mut client, b"answer").await;
        expect_end(&mut client).await;
        if at % 2 == 0 {
            send(&mut client, b"more").await;
            alpha.expect_frame(DATA, b"more").await;
        }
        client.shutdown().await.unwrap();
        alpha.expect_frame(END, &[]).await;
        outside.until_ready("alpha", 1).await;
    }
    let totals =
        outside.gateway.until("none open", |snapshot| snapshot.totals.sessions_open == 0).await.totals;
    assert_eq!((totals.sessions, totals.refused), (30, 0));
}

#[tokio::test]
async fn a_clients_half_close_before_the_answer_is_passed_on() {
    let outside = OpenerHalf::new().await;
    let mut alpha = outside.ready("alpha", 1).await;
    let mut client = outside.client().await;
    send(&mut client, b"all of it").await;
    client.shutdown().await.unwrap();
    alpha.expect_kind(OPEN).await;
    alpha.expect_frame(DATA, b"all of it").await;
    alpha.expect_frame(END, &[]).await;
    alpha.send(&[frame(OPENED, &[]), frame(DATA, b"thanks"), frame(END, &[])].concat()).await;
    expect_bytes(&mut client, b"thanks").await;
    expect_end(&mut client).await;
    outside.gateway.until_ended("--").await;
    outside.until_ready("alpha", 1).await;
}

#[tokio::test]
async fn before_the_answer_no_more_bytes_are_sent_than_are_kept() {
    let outside = OpenerHalf::new().await;
    let mut alpha = outside.ready("alpha", 1).await;
    let (mut reader, writer) = outside.client().await.into_split();
    let expected: Vec<u8> = (0..200 * 1024_usize).map(|at| (at % 251) as u8).collect();
    let saying = BackgroundSend::start(writer, expected.clone());
    alpha.expect_kind(OPEN).await;
    let mut received = alpha.expect_data(COPY_MAX).await;
    // It says no more than that, and still answers.
    alpha.expect_pong(b"anything").await;
    alpha.expect_pong(b"at all ?").await;
    alpha.send_frame(OPENED, &[]).await;
    while received.len() < expected.len() {
        let more = alpha.expect_kind(DATA).await;
        assert!(more.len() <= DATA_MAX);
        received.extend(more);
    }
    assert!(received == expected, "in order, and each once");
    drop(saying.done().await);
    alpha.expect_frame(END, &[]).await;
    alpha.send_frame(END, &[]).await;
    expect_end(&mut reader).await;
}

#[tokio::test]
async fn a_cut_client_is_reset_with_its_cause() {
    let outside = OpenerHalf::new().await;
    let mut alpha = outside.ready("alpha", 1).await;
    let mut client = outside.client().await;
    alpha.expect_kind(OPEN).await;
    alpha.send(&[frame(OPENED, &[]), frame(DATA, b"x")].concat()).await;
    expect_bytes(&mut client, b"x").await;
    cut(client);
    alpha.expect_frame(RESET, &frames::reset(1)).await;
    outside.gateway.until_ended("CR").await;
    alpha.expect_pong(b"as ever.").await;
}

#[tokio::test]
async fn a_reset_names_who_cut_the_session() {
    let outside = OpenerHalf::new().await;
    let mut alpha = outside.ready("alpha", 1).await;
    for (cause, end) in [(1, "CR"), (2, "BR"), (3, "TR"), (4, "OR"), (5, "PR")] {
        let mut client = outside.client().await;
        alpha.expect_kind(OPEN).await;
        alpha.send(&[frame(OPENED, &[]), frame(DATA, b"x")].concat()).await;
        expect_bytes(&mut client, b"x").await;
        outside
            .gateway
            .until("it relays", |snapshot| {
                snapshot.sessions.iter().any(|row| row.phase == SessionPhase::Relaying)
            })
            .await;
        alpha.send_frame(RESET, &frames::reset(cause)).await;
        expect_reset(&mut client).await;
        outside.gateway.until_ended(end).await;
        alpha.expect_pong(b"as ever.").await;
    }
}

#[tokio::test]
async fn a_ready_link_whose_peer_asks_is_closed_in_good_order() {
    let outside = OpenerHalf::new().await;
    for asks in [DRAIN, RETIRE] {
        let mut alpha = outside.ready("alpha", 1).await;
        alpha.send_frame(asks, &[]).await;
        assert_eq!(alpha.over().await, (LinkOver::Cleanly, vec![(RETIRE, vec![])]));
        outside.until_ready("alpha", 0).await;
    }
    let client = outside.client().await;
    outside.gateway.until("it waits", |snapshot| snapshot.pools.iter().any(|row| row.waiting == 1)).await;
    let mut alpha = outside.established_link("alpha").await;
    assert_eq!(open_fields(&alpha.expect_kind(OPEN).await).1, client.local_addr().unwrap());
}

#[tokio::test]
async fn a_carrying_link_whose_peer_asks_is_closed_after_its_last_session() {
    let outside = OpenerHalf::new().await;
    for asks in [DRAIN, RETIRE] {
        let mut alpha = outside.ready("alpha", 1).await;
        let mut clients = [outside.client().await, outside.client().await];
        let mut numbers = Vec::new();
        for _ in 0..clients.len() {
            alpha.expect_kind(OPEN).await;
            numbers.push(alpha.session);
            alpha.send_frame(OPENED, &[]).await;
        }
        alpha.send_frame(asks, &[]).await;
        // It opens no more here, and says so.
        alpha.expect_frame(RETIRE, &[]).await;
        outside.until_ready("alpha", 0).await;
        for client in &mut clients {
            send(client, b"fine").await;
            alpha.expect_frame(DATA, b"fine").await;
            let number = alpha.last_session;
            client.shutdown().await.unwrap();
            alpha.expect_frame_of(number, END, &[]).await;
            let last = [(DATA, &b"still here"[..]), (END, &[])];
            let last = last.map(|(kind, body)| frames::frame_of(number, kind, body));
            alpha.send(&last.concat()).await;
            expect_bytes(client, b"still here").await;
            expect_end(client).await;
        }
        assert_eq!(alpha.over().await, (LinkOver::Cleanly, vec![]));
    }
}

#[tokio::test]
async fn an_operators_cut_is_reset_with_its_cause() {
    let outside = OpenerHalf::new().await;
    let mut alpha = outside.ready("alpha", 1).await;
    let mut client = outside.client().await;
    let (id, _) = open_fields(&alpha.expect_kind(OPEN).await);
    alpha.send(&[frame(OPENED, &[]), frame(DATA, b"x")].concat()).await;
    expect_bytes(&mut client, b"x").await;
    outside.gateway.done(Command::Kill { session: id }).await;
    alpha.expect_frame(RESET, &frames::reset(4)).await;
    expect_reset(&mut client).await;
    outside.gateway.until_ended("OR").await;
}

#[tokio::test]
async fn a_gateway_that_stops_closes_its_ready_links_in_good_order() {
    let outside = OpenerHalf::new().await;
    let mut alpha = outside.ready("alpha", 1).await;
    let stops = outside.gateway.stop();
    let (_, over) = tokio::join!(stops, alpha.over());
    // No more links are wanted, which `retire` would not say.
    assert_eq!(over, (LinkOver::Cleanly, vec![(DRAIN, vec![])]));
}

#[tokio::test]
async fn a_link_whose_peer_asks_with_its_last_frame_is_closed_in_good_order() {
    let outside = OpenerHalf::new().await;
    for asks in [DRAIN, RETIRE] {
        let mut alpha = outside.ready("alpha", 1).await;
        let mut client = outside.client().await;
        client.shutdown().await.unwrap();
        alpha.expect_kind(OPEN).await;
        alpha.expect_frame(END, &[]).await;
        alpha
            .send(&[frame(OPENED, &[]), frame(DATA, b"x"), frame(END, &[]), frame(asks, &[])].concat())
            .await;
        expect_bytes(&mut client, b"x").await;
        expect_end(&mut client).await;
        assert_eq!(alpha.over().await, (LinkOver::Cleanly, vec![(RETIRE, vec![])]));
        // Both have ended it: how this end closes it does not matter.
        drop(alpha);
        let row = outside.gateway.until_pool("none ready", |row| row.ready == 0 && row.carrying == 0).await;
        let reported = row.last_error.unwrap_or_default();
        assert!(row.failures == 0 && reported.ends_with("left in good order"), "{} {reported}", row.failures);
    }
}

#[tokio::test]
async fn a_hello_of_the_largest_size_is_understood() {
    let outside = OpenerHalf::new().await;
    let mut alpha = outside.handshaken_link("alpha").await;
    let long: Vec<_> = (0..1023).map(|number| format!("{number:0255}")).collect();
    let services: Vec<_> = long.iter().map(String::as_str).chain(["orders"]).collect();
    alpha.send_frame(HELLO, &frames::offer(1, 8, &services)).await;
    alpha.expect_granted(&["orders"]).await;
    outside.until_ready("alpha", 1).await;
}

#[tokio::test]
async fn a_peer_that_means_to_keep_no_link_is_down_without_one() {
    let outside = OpenerHalf::new().await;
    let mut link = outside.handshaken_link("alpha").await;
    link.send_frame(HELLO, &frames::offer(0, 8, &["orders"])).await;
    link.expect_kind(HELLO).await;
    outside.until_ready("alpha", 1).await;
    link.cut();
    let of_peer = |row: &&PoolRow| row.peer.as_deref() == Some("alpha");
    let snapshot = outside
        .gateway
        .until("it is gone", |seen| seen.pools.iter().filter(of_peer).all(|row| row.ready == 0))
        .await;
    let row = snapshot.pools.iter().find(of_peer).expect("it is remembered");
    assert_eq!((row.state, row.target), (PoolState::Down, 1));
}

/// It leaves in good order, and the inside, which stands still, does not end its side.
#[tokio::test]
async fn an_http_client_that_leaves_a_stopped_internal_half_is_no_bug() {
    let outside = OpenerHalf::with(", web: { accept: ['http://127.0.0.1:0'], carries: http }").await;
    let mut link = outside.handshaken_link("alpha").await;
    link.send_frame(HELLO, &frames::offer_of(1, 8, &[("web", HTTP)])).await;
    link.expect_kind(HELLO).await;
    outside.until_ready("alpha", 1).await;
    let mut client = dial(outside.gateway.client_port("web").await).await;
    send(&mut client, b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    link.expect_kind(OPEN).await;
    link.expect_kind(DATA).await;
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    link.send(&[frame(OPENED, &[]), frame(DATA, answer)].concat()).await;
    let mut received = Vec::new();
    while !received.ends_with(b"ok") {
        assert!(client.read_buf(&mut received).await.unwrap() > 0, "{received:?}");
    }
    drop(client);
    link.expect_frame(END, &[]).await;
    let ended = outside.gateway.until("it has ended", |seen| !seen.ended.is_empty()).await;
    assert_eq!(ended.ended[0].end, "TD", "{:?}", ended.ended);
}
