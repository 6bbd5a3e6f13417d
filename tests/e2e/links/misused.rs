//! Frames that may come, too many of them: bounded, and no other link notices.

use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::halves::{Echoed, Echoing, Inside, Outside};
use crate::support::{
    frames::{self, DATA, END, OPEN, OPENED, PING, PONG, REFUSED, RETIRE, Wire, frame},
    peers::hear_end,
};

const ECHO: &str = "echo: { connect: 'echo://' }";
const FLOOD: usize = 300_000;
/// Frames that are written at once.
const BATCH: usize = 3_000;
const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn opens_of_unknown_services_are_refused_until_they_can_be_no_mistake() {
    let inside = Inside::new(ECHO).await;
    let mut good = Echoed::on(inside.link().await).await;
    let mut link = inside.link().await;
    let opens = frame(OPEN, &frames::open("s-1", None, "unknown"));
    link.say(&opens.repeat(100)).await;
    let (_, frames) = link.over().await;
    assert!((1..100).contains(&frames.len()), "{}", frames.len());
    assert!(frames.iter().all(|frame| *frame == (REFUSED, vec![1])), "{frames:?}");
    good.serves().await;
    Echoed::on(inside.link().await).await;
}

#[tokio::test]
async fn a_session_that_is_served_forgives_the_mistakes_before_it() {
    let inside = Inside::new(ECHO).await;
    let mut link = inside.link().await;
    let opens = frame(OPEN, &frames::open("s-1", None, "unknown"));
    for _ in 0..4 {
        link.say(&opens.repeat(20)).await;
        for _ in 0..20 {
            link.hear(REFUSED, &[1]).await;
        }
        link = Echoed::on(link).await.ends().await;
    }
}

#[tokio::test]
async fn bytes_for_a_refused_session_are_bounded() {
    let inside = Inside::new(ECHO).await;
    let mut good = Echoed::on(inside.link().await).await;
    let mut link = inside.link().await;
    link.say_frame(OPEN, &frames::open("s-1", None, "unknown")).await;
    link.hear(REFUSED, &[1]).await;
    for _ in 0..4 {
        link.say_frame(DATA, &[1; 16 * 1024]).await;
    }
    link.pongs(b"allowed.").await;
    link.say_frame(DATA, &[1]).await;
    link.over().await;
    good.serves().await;
}

async fn check_ping_flood(link: &mut Wire) {
    let pings = frame(PING, b"12345678").repeat(1_000);
    // It may cut the link while we still speak.
    let _ = link.try_say(&pings).await;
    let (_, frames) = link.over().await;
    assert!(frames.len() < 200, "{}", frames.len());
    assert!(frames.iter().all(|frame| *frame == (PONG, b"12345678".to_vec())), "{frames:?}");
}

#[tokio::test]
async fn a_flood_of_pings_costs_the_link() {
    let inside = Inside::new(ECHO).await;
    let mut good = Echoed::on(inside.link().await).await;
    check_ping_flood(&mut inside.link().await).await;
    good.serves().await;
    let outside = Outside::new().await;
    let mut good = Echoing::through(&outside).await;
    let mut link = outside.ready("alpha", 1).await;
    check_ping_flood(&mut link).await;
    outside.until_ready("alpha", 0).await;
    good.serves().await;
}

#[tokio::test]
async fn frames_that_mean_nothing_much_cost_nothing_much() {
    let inside = Inside::new(ECHO).await;
    let mut good = Echoed::on(inside.link().await).await;
    let outside = Outside::new().await;
    let mut other = Echoing::through(&outside).await;
    let (mut served, mut opened) = (inside.link().await, outside.ready("alpha", 1).await);
    for batch in 0..FLOOD / BATCH {
        served.say(&[frame(PONG, b"12345678"), frame(RETIRE, &[])].concat().repeat(BATCH)).await;
        opened.say(&frame(PONG, b"12345678").repeat(BATCH)).await;
        if batch % 10 == 0 {
            good.serves().await;
            other.serves().await;
        }
    }
    served.pongs(b"alive ?!").await;
    opened.pongs(b"alive ?!").await;
}

#[tokio::test]
async fn tiny_frames_to_the_half_that_serves_arrive_each_once() {
    let inside = Inside::new(ECHO).await;
    let mut good = Echoed::on(inside.link().await).await;
    let mut link = inside.link().await;
    link.say_frame(OPEN, &frames::open("s-1", None, "echo")).await;
    link.hear(OPENED, &[]).await;
    for batch in 0..FLOOD / BATCH {
        link.say(&frame(DATA, &[batch as u8]).repeat(BATCH)).await;
        assert!(link.hear_data(BATCH).await.iter().all(|byte| *byte == batch as u8));
        if batch % 10 == 0 {
            good.serves().await;
        }
    }
    link.say_frame(END, &[]).await;
    link.hear(END, &[]).await;
    good.serves().await;
}

#[tokio::test]
async fn tiny_frames_to_the_half_that_opens_arrive_each_once() {
    let outside = Outside::new().await;
    let mut good = Echoing::through(&outside).await;
    let mut link = outside.ready("alpha", 1).await;
    let mut client = outside.client().await;
    link.hear_kind(OPEN).await;
    link.say_frame(OPENED, &[]).await;
    let mut heard = vec![0; BATCH];
    for batch in 0..FLOOD / BATCH {
        link.say(&frame(DATA, &[batch as u8]).repeat(BATCH)).await;
        tokio::time::timeout(LONG, client.read_exact(&mut heard)).await.unwrap().unwrap();
        assert!(heard.iter().all(|byte| *byte == batch as u8));
        if batch % 10 == 0 {
            good.serves().await;
        }
    }
    link.say_frame(END, &[]).await;
    hear_end(&mut client).await;
    good.serves().await;
}

#[tokio::test]
async fn tiny_frames_for_a_receiver_that_does_not_read_stop_their_sender_and_nobody_else() {
    let outside = Outside::new().await;
    let mut good = Echoing::through(&outside).await;
    let mut link = outside.ready("alpha", 1).await;
    let client = outside.client().await;
    link.hear_kind(OPEN).await;
    link.say_frame(OPENED, &[]).await;
    let tiny = frame(DATA, b"x").repeat(BATCH);
    let flood = async {
        loop {
            tokio::io::AsyncWriteExt::write_all(&mut link.stream, &tiny).await.unwrap();
        }
    };
    let _: Result<(), _> = tokio::time::timeout(Duration::from_secs(2), flood).await;
    for _ in 0..10 {
        good.serves().await;
    }
    let row = outside.gateway.now().await;
    assert_eq!(row.totals.sessions_open, 2);
    drop(client);
}
