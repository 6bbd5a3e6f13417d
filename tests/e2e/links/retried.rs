//! A session that one peer refuses or loses is opened at another: the client does not notice, and
//! no byte reaches two backends.

use portcullis::telemetry::snapshot::Snapshot;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::halves::{BackgroundSend, OpenerHalf};
use crate::support::{
    frames::{self, COPY_MAX, DATA, END, OPEN, OPENED, REFUSED, RESET, RawLink, SOCKS, frame, frame_of},
    peers::{expect_bytes, expect_end, expect_reset, send},
    socks::{BIND, ask, reply_at},
};

/// Two peers with a ready link each; the first one's turn is the first.
async fn two() -> (OpenerHalf, RawLink, RawLink) {
    let outside = OpenerHalf::new().await;
    let alpha = outside.ready("alpha", 1).await;
    let beta = outside.ready("beta", 1).await;
    (outside, alpha, beta)
}

/// A client that has said `words`, which have come to the first peer.
async fn opened_at(outside: &OpenerHalf, alpha: &mut RawLink, words: &[u8]) -> (TcpStream, Vec<u8>) {
    let mut client = outside.client().await;
    if !words.is_empty() {
        send(&mut client, words).await;
    }
    let open = alpha.expect_kind(OPEN).await;
    if !words.is_empty() {
        alpha.expect_frame(DATA, words).await;
    }
    (client, open)
}

/// A session that has come to a peer ends well, and nothing but `more` is heard in it.
async fn check_goes_on(client: &mut TcpStream, link: &mut RawLink, more: &[u8]) {
    link.send(&[frame(OPENED, &[]), frame(DATA, b"hello")].concat()).await;
    expect_bytes(client, b"hello").await;
    send(client, more).await;
    link.expect_frame(DATA, more).await;
    client.shutdown().await.unwrap();
    link.expect_frame(END, &[]).await;
    link.send_frame(END, &[]).await;
    expect_end(client).await;
}

#[tokio::test]
async fn a_refused_session_goes_to_another_peer_with_the_bytes_of_its_client() {
    for reason in [1, 2, 3, 5, 6, 7, 8] {
        let (outside, mut alpha, mut beta) = two().await;
        let (mut client, open) = opened_at(&outside, &mut alpha, b"only once").await;
        alpha.send_frame(REFUSED, &[reason]).await;
        beta.expect_frame(OPEN, &open).await;
        beta.expect_frame(DATA, b"only once").await;
        check_goes_on(&mut client, &mut beta, b"and then").await;
        alpha.expect_pong(b"nothing?").await;
        assert_eq!(outside.gateway.until_ended("--").await.peer.as_deref(), Some("beta"), "{reason}");
    }
}

#[tokio::test]
async fn resent_client_bytes_are_counted_once() {
    let (outside, mut alpha, mut beta) = two().await;
    let (mut client, _) = opened_at(&outside, &mut alpha, b"only once").await;
    alpha.send_frame(REFUSED, &[6]).await;
    beta.expect_kind(OPEN).await;
    beta.expect_frame(DATA, b"only once").await;
    check_goes_on(&mut client, &mut beta, b"and then").await;
    let row = outside.gateway.until_ended("--").await;
    assert_eq!((row.bytes_up, row.bytes_down), (17, 5));
}

#[tokio::test]
async fn what_every_peer_has_refused_is_not_counted() {
    let (outside, mut alpha, mut beta) = two().await;
    let (mut client, _) = opened_at(&outside, &mut alpha, b"only once").await;
    alpha.send_frame(REFUSED, &[6]).await;
    beta.expect_kind(OPEN).await;
    beta.expect_frame(DATA, b"only once").await;
    beta.send_frame(REFUSED, &[7]).await;
    expect_reset(&mut client).await;
    let row = outside.gateway.until_ended("OC").await;
    assert_eq!((row.bytes_up, row.bytes_down), (0, 0));
}

#[tokio::test]
async fn a_refused_session_goes_to_a_socks_peer_with_the_bytes_of_its_client() {
    let outside = OpenerHalf::new().await;
    let mut alpha = outside.ready("alpha", 1).await;
    let at = outside.gateway.link_port().await;
    let mut beta = RawLink::dial(&outside.folder, "beta", at, "dmz", &[SOCKS]).await;
    assert_eq!(ask(&mut beta.stream, BIND, b"orders").await, 0);
    outside.until_ready("beta", 1).await;
    let (mut client, _) = opened_at(&outside, &mut alpha, b"only once").await;
    alpha.send_frame(REFUSED, &[6]).await;
    expect_bytes(&mut beta.stream, &reply_at(client.local_addr().unwrap())).await;
    expect_bytes(&mut beta.stream, b"only once").await;
    send(&mut client, b", and then").await;
    expect_bytes(&mut beta.stream, b", and then").await;
    send(&mut beta.stream, b"fine").await;
    expect_bytes(&mut client, b"fine").await;
}

#[tokio::test]
async fn a_refused_session_of_a_silent_client_goes_to_another_peer() {
    let (outside, mut alpha, mut beta) = two().await;
    let (mut client, open) = opened_at(&outside, &mut alpha, b"").await;
    alpha.send_frame(REFUSED, &[7]).await;
    beta.expect_frame(OPEN, &open).await;
    check_goes_on(&mut client, &mut beta, b"words").await;
}

#[tokio::test]
async fn a_refused_session_takes_its_clients_half_close_along() {
    let (outside, mut alpha, mut beta) = two().await;
    let (mut client, open) = opened_at(&outside, &mut alpha, b"all of it").await;
    client.shutdown().await.unwrap();
    alpha.expect_frame(END, &[]).await;
    alpha.send_frame(REFUSED, &[6]).await;
    beta.expect_frame(OPEN, &open).await;
    beta.expect_frame(DATA, b"all of it").await;
    beta.expect_frame(END, &[]).await;
    beta.send(&[frame(OPENED, &[]), frame(DATA, b"thanks"), frame(END, &[])].concat()).await;
    expect_bytes(&mut client, b"thanks").await;
    expect_end(&mut client).await;
    alpha.expect_pong(b"nothing?").await;
}

#[tokio::test]
async fn what_waits_behind_the_copy_is_not_lost_when_a_peer_refuses() {
    let (outside, mut alpha, mut beta) = two().await;
    let bytes: Vec<u8> = (0..200 * 1024_usize).map(|at| (at % 251) as u8).collect();
    let (mut reader, writer) = outside.client().await.into_split();
    let saying = BackgroundSend::start(writer, bytes.clone());
    alpha.expect_kind(OPEN).await;
    alpha.expect_data(COPY_MAX).await;
    alpha.expect_pong(b"no more?").await;
    alpha.send_frame(REFUSED, &[6]).await;
    beta.expect_kind(OPEN).await;
    beta.send_frame(OPENED, &[]).await;
    let mut received = Vec::new();
    while received.len() < bytes.len() {
        let more = beta.next_other_than_ping().await;
        assert_eq!(more.0, DATA, "after {} bytes", received.len());
        received.extend(more.1);
        let whole = received == bytes[..received.len()];
        assert!(whole, "the first {} bytes are not those that the client said", received.len());
    }
    drop(saying.done().await);
    beta.expect_frame(END, &[]).await;
    beta.send_frame(END, &[]).await;
    expect_end(&mut reader).await;
}

#[tokio::test]
async fn the_first_peer_is_asked_again_by_the_next_client() {
    let (outside, mut alpha, mut beta) = two().await;
    let (mut client, _) = opened_at(&outside, &mut alpha, b"one").await;
    alpha.send_frame(REFUSED, &[6]).await;
    beta.expect_kind(OPEN).await;
    beta.expect_frame(DATA, b"one").await;
    outside.until_ready("alpha", 1).await;
    let (mut next, _) = opened_at(&outside, &mut alpha, b"two").await;
    check_goes_on(&mut next, &mut alpha, b"more of two").await;
    check_goes_on(&mut client, &mut beta, b"more of one").await;
}

#[tokio::test]
async fn a_refusal_by_all_peers_names_who_refused() {
    let outside = OpenerHalf::new().await;
    let mut alpha = outside.ready("alpha", 1).await;
    let reasons = [(1, "XC"), (2, "XC"), (3, "BC"), (4, "BC"), (5, "BC"), (6, "PC"), (7, "OC"), (8, "PC")];
    for (count, (reason, end)) in reasons.into_iter().enumerate() {
        let (mut client, _) = opened_at(&outside, &mut alpha, b"words").await;
        alpha.send_frame(REFUSED, &[reason]).await;
        expect_reset(&mut client).await;
        let snapshot = outside.gateway.until("ended", |snapshot| snapshot.ended.len() == count + 1).await;
        assert_eq!(snapshot.ended[0].end, end, "{:?}", snapshot.ended[0]);
        outside.until_ready("alpha", 1).await;
    }
}

#[tokio::test]
async fn a_backend_that_was_waited_for_is_not_waited_for_again() {
    let (outside, mut alpha, mut beta) = two().await;
    let (mut client, _) = opened_at(&outside, &mut alpha, b"words").await;
    alpha.send_frame(REFUSED, &[4]).await;
    expect_reset(&mut client).await;
    outside.gateway.until_ended("BC").await;
    beta.expect_pong(b"nothing?").await;
}

#[tokio::test]
async fn a_session_without_sent_bytes_is_retried_after_a_lost_link() {
    let (outside, mut alpha, mut beta) = two().await;
    let (mut client, open) = opened_at(&outside, &mut alpha, b"").await;
    alpha.cut();
    beta.expect_frame(OPEN, &open).await;
    check_goes_on(&mut client, &mut beta, b"words").await;
    outside.gateway.until_ended("--").await;
}

#[tokio::test]
async fn a_link_that_dies_unanswered_takes_a_client_that_has_spoken_along() {
    let (outside, mut alpha, mut beta) = two().await;
    let (mut client, _) = opened_at(&outside, &mut alpha, b"only once").await;
    alpha.cut();
    expect_reset(&mut client).await;
    outside.gateway.until_ended("PC").await;
    beta.expect_pong(b"nothing?").await;
}

#[tokio::test]
async fn a_link_that_dies_after_the_answer_takes_its_client_along() {
    let (outside, mut alpha, mut beta) = two().await;
    let (mut client, _) = opened_at(&outside, &mut alpha, b"").await;
    alpha.send(&[frame(OPENED, &[]), frame(DATA, b"half a me")].concat()).await;
    expect_bytes(&mut client, b"half a me").await;
    alpha.cut();
    expect_reset(&mut client).await;
    outside.gateway.until_ended("PR").await;
    beta.expect_pong(b"nothing?").await;
}

#[tokio::test]
async fn a_link_that_ends_cleanly_before_its_session_has_ended_is_a_cut() {
    let (outside, mut alpha, mut beta) = two().await;
    let (mut client, _) = opened_at(&outside, &mut alpha, b"only once").await;
    alpha.send(&[frame(OPENED, &[]), frame(DATA, b"half a me")].concat()).await;
    expect_bytes(&mut client, b"half a me").await;
    alpha.stream.shutdown().await.unwrap();
    expect_reset(&mut client).await;
    outside.gateway.until_ended("PR").await;
    beta.expect_pong(b"nothing?").await;
}

#[tokio::test]
async fn a_late_reset_for_the_session_before_hurts_no_new_one() {
    for words in [&b""[..], b"only once"] {
        let outside = OpenerHalf::new().await;
        let mut alpha = outside.ready("alpha", 1).await;
        let (mut first, _) = opened_at(&outside, &mut alpha, b"").await;
        let before = alpha.session;
        check_goes_on(&mut first, &mut alpha, b"whole").await;
        let (mut client, _) = opened_at(&outside, &mut alpha, words).await;
        alpha.send(&frame_of(before, RESET, &frames::reset(2))).await;
        check_goes_on(&mut client, &mut alpha, b"and then").await;
        alpha.expect_pong(b"as ever.").await;
    }
}

#[tokio::test]
async fn a_reset_before_the_answer_cuts_its_client_and_retries_nothing() {
    let (outside, mut alpha, mut beta) = two().await;
    let (mut client, _) = opened_at(&outside, &mut alpha, b"only once").await;
    alpha.send_frame(RESET, &frames::reset(2)).await;
    expect_reset(&mut client).await;
    outside.gateway.until_ended("BC").await;
    beta.expect_pong(b"nothing?").await;
    alpha.expect_pong(b"as ever.").await;
}

#[tokio::test]
async fn a_lost_link_takes_each_of_its_sessions_along_that_was_answered_and_opens_the_rest_elsewhere() {
    let (outside, mut alpha, mut beta) = two().await;
    let (mut answered, mut silent) = (Vec::new(), Vec::new());
    // Turns are taken: every other one comes to the first.
    for _ in 0..3 {
        let (mut client, _) = opened_at(&outside, &mut alpha, b"").await;
        alpha.send(&[frame(OPENED, &[]), frame(DATA, b"half a me")].concat()).await;
        expect_bytes(&mut client, b"half a me").await;
        answered.push(client);
        let (mut client, _) = opened_at(&outside, &mut beta, b"").await;
        check_goes_on(&mut client, &mut beta, b"words").await;
    }
    for _ in 0..3 {
        silent.push(opened_at(&outside, &mut alpha, b"").await);
        let (mut client, _) = opened_at(&outside, &mut beta, b"").await;
        check_goes_on(&mut client, &mut beta, b"words").await;
    }
    alpha.cut();
    for client in &mut answered {
        expect_reset(client).await;
    }
    let mut opens: Vec<_> = silent.iter().map(|(_, open)| open.clone()).collect();
    for _ in 0..3 {
        let open = beta.expect_kind(OPEN).await;
        let at = opens.iter().position(|known| *known == open).expect("it is one of those");
        opens.remove(at);
        beta.send_frame(OPENED, &[]).await;
    }
    // And new ones go there at once.
    let (mut client, _) = opened_at(&outside, &mut beta, b"").await;
    check_goes_on(&mut client, &mut beta, b"words").await;
    let lost = |seen: &Snapshot| seen.ended.iter().filter(|row| row.end == "PR").count() == 3;
    outside.gateway.until("three are lost", lost).await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_is_reset_at_the_peer() {
    let (outside, mut alpha, _beta) = two().await;
    let (client, _) = opened_at(&outside, &mut alpha, b"only once").await;
    crate::support::peers::cut(client);
    alpha.expect_frame(RESET, &frames::reset(1)).await;
    outside.gateway.until_ended("CC").await;
    alpha.expect_pong(b"as ever.").await;
}
