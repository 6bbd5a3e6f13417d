//! Whether a link's other end is alive: asked by ping, answered by pong. These tests take their time.

use std::time::{Duration, Instant};

use tokio::{io::AsyncReadExt, time::interval};

use super::halves::{BackgroundSend, GatewayEchoSession, OpenerHalf, ServerHalf};
use crate::support::{
    frames::{
        self, CREDIT, DATA, DATA_MAX, END, OPEN, OPENED, PING, PONG, REFUSED, RESET, RawLink, WINDOW, frame,
    },
    peers::{Backend, expect_bytes, expect_reset_within, send},
};

#[tokio::test]
async fn a_peer_that_does_not_answer_pings_is_dropped() {
    tokio::join!(
        check_ready_serving(),
        check_ready_opening(),
        check_session_serving(),
        check_session_opening()
    );
}

#[tokio::test]
async fn a_silent_peer_that_answers_pings_lives_on() {
    tokio::join!(
        check_ready_answers(),
        check_session_answers(),
        check_slow_backend(),
        check_slow_reader(),
        check_late_bytes(),
        check_slow_answer()
    );
}

#[tokio::test]
async fn what_is_begun_and_not_ended_is_given_up() {
    tokio::join!(check_begun_frame(), check_half_frame(), check_begun_handshake(), check_unanswered());
}

/// What is dead is dropped within this.
const DEAD_WITHIN: Duration = Duration::from_secs(14);
const LIVES: Duration = Duration::from_secs(16);
const ECHO: &str = "echo: { connect: 'echo://' }";

/// Receives pings, and nothing else, until the end; answers none.
async fn check_is_dropped(link: &mut RawLink) {
    let (_, frames) = link.over_within(DEAD_WITHIN).await;
    assert!(!frames.is_empty() && frames.iter().all(|(kind, _)| *kind == PING), "{frames:?}");
}

async fn check_ready_serving() {
    let inside = ServerHalf::new(ECHO).await;
    let mut link = inside.link().await;
    check_is_dropped(&mut link).await;
    let row = inside.until_pool("lost", |row| row.failures > 0).await;
    assert!(row.last_error.is_none_or(|error| error.contains("does not answer")));
}

async fn check_ready_opening() {
    let outside = OpenerHalf::new().await;
    let mut link = outside.ready("alpha", 1).await;
    check_is_dropped(&mut link).await;
    outside.until_ready("alpha", 0).await;
}

async fn check_session_serving() {
    let backend = Backend::new().await;
    let inside = ServerHalf::new(&format!("orders: {{ connect: '{}' }}", backend.address())).await;
    let mut link = inside.link().await;
    link.send_frame(OPEN, &frames::open("s-1", None, "orders")).await;
    let mut served = backend.accept().await;
    link.expect_frame(OPENED, &[]).await;
    let since = Instant::now();
    expect_reset_within(DEAD_WITHIN, &mut served).await;
    assert!(since.elapsed() > Duration::from_secs(6), "{:?}", since.elapsed());
    inside.gateway.until_ended("PR").await;
}

async fn check_session_opening() {
    let outside = OpenerHalf::new().await;
    let mut link = outside.ready("alpha", 1).await;
    let mut client = outside.client().await;
    link.expect_kind(OPEN).await;
    link.send(&[frame(OPENED, &[]), frame(DATA, b"x")].concat()).await;
    expect_bytes(&mut client, b"x").await;
    expect_reset_within(DEAD_WITHIN, &mut client).await;
    outside.gateway.until_ended("PR").await;
}

/// Answers pings for a while, at least three of them.
async fn answers(link: &mut RawLink) {
    let until = Instant::now() + LIVES;
    let mut count = 0;
    while Instant::now() < until {
        let (kind, token) = link.next().await.expect("it lives");
        assert_eq!(kind, PING);
        link.send_frame(PONG, &token).await;
        count += 1;
    }
    assert!((3..=6).contains(&count), "{count} pings");
}

async fn check_ready_answers() {
    let inside = ServerHalf::new(ECHO).await;
    let outside = OpenerHalf::new().await;
    let mut served = inside.link().await;
    let mut opened = outside.ready("alpha", 1).await;
    tokio::join!(answers(&mut served), answers(&mut opened));
    GatewayEchoSession::on(served).await;
    let mut client = outside.client().await;
    send(&mut client, b"words").await;
    opened.expect_kind(OPEN).await;
    opened.expect_frame(DATA, b"words").await;
    let snapshot = outside.gateway.now().await;
    assert!(snapshot.pools[0].round_trip_ms.is_some(), "{:?}", snapshot.pools);
}

async fn check_session_answers() {
    let backend = Backend::new().await;
    let inside = ServerHalf::new(&format!("orders: {{ connect: '{}' }}", backend.address())).await;
    let mut served = inside.link().await;
    served.send_frame(OPEN, &frames::open("s-1", None, "orders")).await;
    let mut behind = backend.accept().await;
    served.expect_frame(OPENED, &[]).await;
    let outside = OpenerHalf::new().await;
    let mut opened = outside.ready("alpha", 1).await;
    let mut client = outside.client().await;
    opened.expect_kind(OPEN).await;
    opened.send_frame(OPENED, &[]).await;
    tokio::join!(answers(&mut served), answers(&mut opened));
    served.send_frame(DATA, b"still").await;
    expect_bytes(&mut behind, b"still").await;
    send(&mut client, b"still").await;
    opened.expect_frame(DATA, b"still").await;
}

/// More than fits on the way.
const MUCH: usize = 24 * 1024 * 1024;

/// A backend that reads nothing for a while: the link is not judged, and nothing is lost.
async fn check_slow_backend() {
    let backend = Backend::new().await;
    let inside = ServerHalf::new(&format!("orders: {{ connect: '{}' }}", backend.address())).await;
    let mut link = inside.link().await;
    link.send_frame(OPEN, &frames::open("s-1", None, "orders")).await;
    let mut served = backend.accept().await;
    link.expect_frame(OPENED, &[]).await;
    // As much as there is credit for, which comes back while its kernel takes bytes.
    let (mut credit, mut sent) = (WINDOW, 0);
    let until = Instant::now() + LIVES;
    while Instant::now() < until {
        let count = credit.min(DATA_MAX);
        if count > 0 {
            link.send_frame(DATA, &vec![7; count]).await;
            (credit, sent) = (credit - count, sent + count);
            continue;
        }
        match link.next().await.expect("it lives") {
            (PING, token) => link.send_frame(PONG, &token).await,
            (CREDIT, more) => credit += u32::from_be_bytes(more.try_into().unwrap()) as usize,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(credit, 0, "it fits on the way");
    let mut bytes = vec![0; sent];
    tokio::time::timeout(DEAD_WITHIN, served.read_exact(&mut bytes))
        .await
        .expect("all of it in time")
        .unwrap();
    assert!(bytes.iter().all(|byte| *byte == 7));
    link.expect_pong(b"and now?").await;
}

/// A peer that reads nothing for a while, and so answers nothing: it is slow and not dead.
async fn check_slow_reader() {
    let outside = OpenerHalf::new().await;
    let mut link = outside.ready("alpha", 1).await;
    let (mut reader, writer) = outside.client().await.into_split();
    link.expect_kind(OPEN).await;
    let much = frame(CREDIT, &frames::credit(MUCH as u32));
    link.send(&[frame(OPENED, &[]), much, frame(DATA, b"x")].concat()).await;
    expect_bytes(&mut reader, b"x").await;
    let saying = BackgroundSend::start(writer, vec![7; MUCH]);
    tokio::time::sleep(LIVES).await;
    assert!(!saying.is_done(), "it fits on the way");
    let mut received = 0;
    while received < MUCH {
        received += link.expect_kind(DATA).await.len();
    }
    let _writer = saying.done().await;
    link.expect_pong(b"and now?").await;
}

/// The client bytes of a refused session arrive slowly in one frame, which is not a stall.
async fn check_late_bytes() {
    let inside = ServerHalf::new(ECHO).await;
    let mut link = inside.link().await;
    link.send_frame(OPEN, &frames::open("s-1", None, "unknown")).await;
    link.expect_frame(REFUSED, &[1]).await;
    link.send(&frames::header(DATA, 10)).await;
    let mut seconds = interval(Duration::from_secs(1));
    for _ in 0..10 {
        seconds.tick().await;
        link.send(b"x").await;
    }
    link.send_frame(END, &[]).await;
    GatewayEchoSession::on(link).await;
}

/// A server that is asked whether it lives, and then for a session: it has the time that an answer
/// may take, for it may be waiting for its backend.
async fn check_slow_answer() {
    let outside = OpenerHalf::new().await;
    let mut link = outside.ready("alpha", 1).await;
    assert_eq!(link.next().await.expect("it lives").0, PING);
    let mut client = outside.client().await;
    assert_eq!(link.next().await.expect("it lives").0, OPEN);
    tokio::time::sleep(Duration::from_millis(4500)).await;
    link.send(&[frame(OPENED, &[]), frame(DATA, b"at last")].concat()).await;
    expect_bytes(&mut client, b"at last").await;
}

/// A ping's bytes, one a second; how long until the link was over.
async fn dribbles(mut link: RawLink) {
    let since = Instant::now();
    let mut seconds = interval(Duration::from_secs(1));
    for byte in frame(PING, b"12345678") {
        seconds.tick().await;
        if link.try_send(&[byte]).await.is_err() {
            break;
        }
    }
    link.over_within(Duration::from_secs(1)).await;
    let took = since.elapsed();
    assert!(took > Duration::from_millis(5500) && took < DEAD_WITHIN, "{took:?}");
}

async fn check_begun_frame() {
    let inside = ServerHalf::with(", prepared: 2, maximum: 8", ECHO).await;
    let mut good = GatewayEchoSession::on(inside.link().await).await;
    let outside = OpenerHalf::new().await;
    let (served, opened) = (inside.link().await, outside.ready("alpha", 1).await);
    let mut looks = interval(Duration::from_millis(200));
    let serves = async {
        loop {
            looks.tick().await;
            good.serves().await;
        }
    };
    tokio::select! {
        ((), ()) = async { tokio::join!(dribbles(served), dribbles(opened)) } => {}
        () = serves => {}
    }
    outside.until_ready("alpha", 0).await;
}

/// Half a frame, and nothing more: its link lives no longer than one that answers nothing.
async fn check_half_frame() {
    let (inside, outside) = (ServerHalf::new(ECHO).await, OpenerHalf::new().await);
    let halves = |mut link: RawLink| async move {
        let since = Instant::now();
        link.send(&frame(PONG, b"12345678")[..6]).await;
        link.over_within(DEAD_WITHIN).await;
        assert!(since.elapsed() > Duration::from_millis(5500), "{:?}", since.elapsed());
    };
    tokio::join!(halves(inside.link().await), halves(outside.ready("alpha", 1).await));
    let seen = outside.gateway.until_pool("lost", |row| row.failures > 0).await;
    assert!(seen.last_error.unwrap().contains("begun and not ended"));
}

async fn check_begun_handshake() {
    let outside = OpenerHalf::new().await;
    let mut silent = outside.handshaken_link("alpha").await;
    let mut half = outside.handshaken_link("beta").await;
    half.send(&frame(frames::HELLO, &frames::offer(1, 8, &["orders"]))[..9]).await;
    let ends = |link: RawLink| async move {
        let mut link = link;
        let (_, frames) = link.over().await;
        assert_eq!(frames, []);
    };
    silent.send(&[]).await;
    tokio::join!(ends(silent), ends(half));
    outside.gateway.until_notice("its handshake was not complete within 5s").await;
}

/// It answers pings, and never `open`: its client gets an answer in the promised time, whenever the
/// check runs.
async fn check_unanswered() {
    let outside = OpenerHalf::new().await;
    let mut link = outside.ready("alpha", 1).await;
    let mut client = outside.client().await;
    link.expect_kind(OPEN).await;
    let since = Instant::now();
    link.expect_frame(RESET, &frames::reset(3)).await;
    expect_reset_within(DEAD_WITHIN, &mut client).await;
    let took = since.elapsed();
    assert!(took > Duration::from_millis(4500) && took < Duration::from_millis(6500), "{took:?}");
    outside.gateway.until_ended("TC").await;
}
