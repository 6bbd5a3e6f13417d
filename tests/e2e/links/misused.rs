//! Frames that may come, too many of them: bounded, and no other link notices.

use std::{collections::BTreeSet, time::Duration};

use portcullis::{
    gateway::handle::{Command, CommandAnswer},
    telemetry::metrics::MetricsFormat,
};
use tokio::io::AsyncReadExt;

use super::halves::{GatewayEchoSession, OpenerHalf, ServerHalf};
use crate::support::{
    frames::{
        self, CREDIT, DATA, END, OPEN, OPENED, PING, PONG, REFUSED, RESET, RETIRE, RawLink, SERVICES, WINDOW,
        frame,
    },
    peers::{Backend, expect_bytes, expect_end, send},
};

const ECHO: &str = "echo: { connect: 'echo://' }";
const FLOOD: usize = 300_000;
/// Frames that are written at once.
const BATCH: usize = 3_000;
const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn opens_of_unknown_services_are_refused_until_they_can_be_no_mistake() {
    let inside = ServerHalf::new(ECHO).await;
    let mut good = GatewayEchoSession::on(inside.link().await).await;
    let mut link = inside.link().await;
    let opens = frame(OPEN, &frames::open("s-1", None, "unknown"));
    link.send(&opens.repeat(31)).await;
    for _ in 0..31 {
        link.expect_frame(REFUSED, &[1]).await;
    }
    link.send(&opens).await;
    let (_, frames) = link.over().await;
    assert!(frames.iter().all(|frame| *frame == (REFUSED, vec![1])), "{frames:?}");
    inside.gateway.until_notice("too many sessions for services that were not offered").await;
    good.serves().await;
    GatewayEchoSession::on(inside.link().await).await;
}

#[tokio::test]
async fn a_session_that_is_served_forgives_the_mistakes_before_it() {
    let inside = ServerHalf::new(ECHO).await;
    let mut link = inside.link().await;
    let opens = frame(OPEN, &frames::open("s-1", None, "unknown"));
    for _ in 0..4 {
        link.send(&opens.repeat(20)).await;
        for _ in 0..20 {
            link.expect_frame(REFUSED, &[1]).await;
        }
        link = GatewayEchoSession::on(link).await.ends().await;
    }
}

#[tokio::test]
async fn bytes_for_a_refused_session_are_bounded() {
    let inside = ServerHalf::new(ECHO).await;
    let mut good = GatewayEchoSession::on(inside.link().await).await;
    let mut link = inside.link().await;
    link.send_frame(OPEN, &frames::open("s-1", None, "unknown")).await;
    link.expect_frame(REFUSED, &[1]).await;
    for _ in 0..4 {
        link.send_frame(DATA, &[1; WINDOW / 4]).await;
    }
    link.expect_pong(b"allowed.").await;
    link.send_frame(DATA, &[1]).await;
    link.over().await;
    good.serves().await;
}

async fn check_ping_flood(link: &mut RawLink) {
    let pings = frame(PING, b"12345678").repeat(1_000);
    // It may cut the link while we still speak.
    let _ = link.try_send(&pings).await;
    let (_, frames) = link.over().await;
    assert!(frames.len() < 200, "{}", frames.len());
    assert!(frames.iter().all(|frame| *frame == (PONG, b"12345678".to_vec())), "{frames:?}");
}

#[tokio::test]
async fn a_flood_of_pings_costs_the_link() {
    let inside = ServerHalf::new(ECHO).await;
    let mut good = GatewayEchoSession::on(inside.link().await).await;
    check_ping_flood(&mut inside.link().await).await;
    good.serves().await;
    let (outside, mut good) = OpenerHalf::beside_another().await;
    let mut link = outside.ready("alpha", 1).await;
    check_ping_flood(&mut link).await;
    outside.until_ready("alpha", 0).await;
    good.serves().await;
}

#[tokio::test]
async fn a_flood_of_offers_costs_the_link() {
    let (outside, mut good) = OpenerHalf::beside_another().await;
    let mut link = outside.ready("alpha", 1).await;
    link.send(&frame(SERVICES, &frames::services(&["orders"])).repeat(10)).await;
    link.expect_pong(b"allowed.").await;
    let _ = link.try_send(&frame(SERVICES, &frames::services(&["orders"])).repeat(1_000)).await;
    link.over().await;
    outside.until_ready("alpha", 0).await;
    good.serves().await;
    outside.gateway.until_notice("too many offers").await;
}

/// Opens and resets, as fast as a peer can send them.
#[tokio::test]
async fn opens_with_immediate_resets_delay_nobody_and_leak_nothing() {
    const SESSIONS: usize = 10_000;
    let backend = Backend::new().await;
    let services = format!("orders: {{ connect: '{}' }}, {ECHO}", backend.address());
    let inside = ServerHalf::new(&services).await;
    let mut good = GatewayEchoSession::on(inside.link().await).await;
    let mut link = inside.link().await;
    // One that is on the same link, and stays.
    link.send_frame(OPEN, &frames::open("stays", None, "echo")).await;
    link.expect_frame(OPENED, &[]).await;
    let stays = link.session;
    for service in ["echo", "orders"] {
        let pair =
            [frame(OPEN, &frames::open("s-1", None, service)), frame(RESET, &frames::reset(1))].concat();
        for batch in 0..SESSIONS / 100 {
            link.send(&pair.repeat(100)).await;
            if batch % 10 == 0 {
                good.serves().await;
            }
            // Those that were taken at once come to nothing; the rest may be refused.
            link.send(&frames::frame_of(stays, DATA, b"as ever")).await;
            let until_received = async {
                loop {
                    match (link.next_other_than_ping().await, link.last_session) {
                        ((DATA, body), number) if number == stays => return assert_eq!(body, b"as ever"),
                        ((OPENED, _), _) => {}
                        ((REFUSED, why), _) => assert_eq!(why, [6], "it is full"),
                        (other, number) => panic!("{other:?} of {number}"),
                    }
                }
            };
            tokio::time::timeout(LONG, until_received).await.expect("its turn comes");
        }
    }
    inside.gateway.until("two are left", |snapshot| snapshot.totals.sessions_open == 2).await;
    link.expect_pong(b"as ever.").await;
}

/// The bound is that of sessions that are served, not of those that their opener still wants.
#[tokio::test]
async fn more_sessions_at_once_than_a_link_carries_are_refused() {
    let inside = ServerHalf::new(ECHO).await;
    let mut link = inside.link().await;
    let opens = frame(OPEN, &frames::open("s-1", None, "echo"));
    link.send(&opens.repeat(300)).await;
    let (mut opened, mut refused) = (0, 0);
    for _ in 0..300 {
        match link.next_other_than_ping().await {
            (OPENED, _) => opened += 1,
            (REFUSED, why) => {
                assert_eq!(why, [6]);
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((opened, refused), (256, 44));
    link.send_frame(DATA, b"late for one that was refused").await;
    link.expect_pong(b"it lives").await;
}

#[tokio::test]
async fn credit_for_nothing_and_late_frames_without_end_cost_the_link() {
    let inside = ServerHalf::new(ECHO).await;
    let mut good = GatewayEchoSession::on(inside.link().await).await;
    for sent in [frame(CREDIT, &frames::credit(1)), frame(END, &[]), frame(RESET, &frames::reset(1))] {
        let mut link = GatewayEchoSession::on(inside.link().await).await.ends().await;
        link.send(&sent.repeat(3)).await;
        link.expect_pong(b"allowed.").await;
        let _ = link.try_send(&sent.repeat(1_000)).await;
        link.over().await;
        good.serves().await;
    }
}

#[tokio::test]
async fn frames_that_mean_nothing_much_cost_nothing_much() {
    let inside = ServerHalf::new(ECHO).await;
    let mut good = GatewayEchoSession::on(inside.link().await).await;
    let (outside, mut other) = OpenerHalf::beside_another().await;
    let (mut served, mut opened) = (inside.link().await, outside.ready("alpha", 1).await);
    for batch in 0..FLOOD / BATCH {
        served.send(&[frame(PONG, b"12345678"), frame(RETIRE, &[])].concat().repeat(BATCH)).await;
        opened.send(&frame(PONG, b"12345678").repeat(BATCH)).await;
        if batch % 10 == 0 {
            good.serves().await;
            other.serves().await;
        }
    }
    served.expect_pong(b"alive ?!").await;
    opened.expect_pong(b"alive ?!").await;
}

#[tokio::test]
async fn tiny_frames_to_the_half_that_serves_arrive_each_once() {
    let inside = ServerHalf::new(ECHO).await;
    let mut good = GatewayEchoSession::on(inside.link().await).await;
    let mut link = inside.link().await;
    link.send_frame(OPEN, &frames::open("s-1", None, "echo")).await;
    link.expect_frame(OPENED, &[]).await;
    for batch in 0..FLOOD / BATCH {
        link.send(&frame(DATA, &[batch as u8]).repeat(BATCH)).await;
        assert!(link.expect_data(BATCH).await.iter().all(|byte| *byte == batch as u8));
        if batch % 10 == 0 {
            good.serves().await;
        }
    }
    link.send_frame(END, &[]).await;
    link.expect_frame(END, &[]).await;
    good.serves().await;
}

#[tokio::test]
async fn tiny_frames_to_the_half_that_opens_arrive_each_once() {
    let (outside, mut good) = OpenerHalf::beside_another().await;
    let mut link = outside.ready("alpha", 1).await;
    let mut client = outside.client().await;
    link.expect_kind(OPEN).await;
    link.send_frame(OPENED, &[]).await;
    let mut received = vec![0; BATCH];
    for batch in 0..FLOOD / BATCH {
        link.send(&frame(DATA, &[batch as u8]).repeat(BATCH)).await;
        tokio::time::timeout(LONG, client.read_exact(&mut received)).await.unwrap().unwrap();
        assert!(received.iter().all(|byte| *byte == batch as u8));
        if batch % 10 == 0 {
            good.serves().await;
        }
    }
    link.send_frame(END, &[]).await;
    expect_end(&mut client).await;
    good.serves().await;
}

#[tokio::test]
async fn tiny_frames_to_a_stopped_reader_stop_only_their_sender() {
    let outside = OpenerHalf::new().await;
    let mut link = outside.ready("alpha", 1).await;
    let (mut stuck, mut good) = (outside.client().await, outside.client().await);
    let mut numbers = Vec::new();
    for _ in 0..2 {
        link.expect_kind(OPEN).await;
        numbers.push(link.session);
        link.send_frame(OPENED, &[]).await;
    }
    let [slow, other] = numbers[..] else { unreachable!() };
    // Whichever client is which.
    send(&mut good, b"I am").await;
    link.expect_frame(DATA, b"I am").await;
    let (other, slow) = if link.last_session == other { (other, slow) } else { (slow, other) };
    let tiny = frames::frame_of(slow, DATA, b"x");
    let (mut credit, mut sent) = (WINDOW, 0);
    // Until its receiver takes no more: credit comes back for what the kernel holds, and then no more.
    loop {
        let small = credit.min(BATCH);
        for large in vec![b'x'; credit - small].chunks(WINDOW / 2) {
            link.send(&frames::frame_of(slow, DATA, large)).await;
        }
        link.send(&tiny.repeat(small)).await;
        sent += credit;
        credit = 0;
        // What is heard before the answer to a ping is all that there is for now.
        link.send_frame(PING, b"any more").await;
        loop {
            match link.next().await.expect("it lives") {
                (PONG, _) => break,
                (PING, token) => link.send_frame(PONG, &token).await,
                (CREDIT, more) if link.last_session == slow => {
                    credit += u32::from_be_bytes(more.try_into().unwrap()) as usize;
                }
                (CREDIT, _) => {}
                other => panic!("{other:?}"),
            }
        }
        if credit == 0 {
            break;
        }
        assert!(sent < 64 * 1024 * 1024, "a receiver that does not read takes it all");
    }
    for _ in 0..100 {
        send(&mut good, b"are you there").await;
        assert_eq!(link.expect_data(13).await, b"are you there");
        link.send(&frames::frame_of(other, DATA, b"yes")).await;
        expect_bytes(&mut good, b"yes").await;
    }
    let mut received = vec![0; sent];
    tokio::time::timeout(LONG, stuck.read_exact(&mut received)).await.unwrap().unwrap();
    assert!(received.iter().all(|byte| *byte == b'x'));
    link.expect_pong(b"as ever.").await;
}

/// However many there are, and between sessions that are served, so that none of them costs the link.
#[tokio::test]
async fn names_of_services_that_a_gateway_makes_up_become_no_series() {
    let inside = ServerHalf::new(ECHO).await;
    let mut link = GatewayEchoSession::on(inside.link().await).await.ends().await;
    let series = async || {
        let answer = inside
            .gateway
            .handle
            .send_and_wait(Command::Metrics { format: MetricsFormat::OpenMetrics })
            .await;
        let CommandAnswer::Metrics(text) = answer else { panic!("{answer:?}") };
        let names = text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(' ').next());
        names.map(|name| name.unwrap_or_default().to_owned()).collect::<BTreeSet<_>>()
    };
    // The first refusal may begin a series of its own kind.
    link.send_frame(OPEN, &frames::open("first", None, "n0")).await;
    link.expect_frame(REFUSED, &[1]).await;
    let before = series().await;
    for round in 0..100 {
        let opens = (0..20).map(|at| frame(OPEN, &frames::open("s-1", None, &format!("n{round}-{at}"))));
        link.send(&opens.collect::<Vec<_>>().concat()).await;
        for _ in 0..20 {
            link.expect_frame(REFUSED, &[1]).await;
        }
        link = GatewayEchoSession::on(link).await.ends().await;
    }
    let after = series().await;
    assert_eq!(after.difference(&before).collect::<Vec<_>>(), Vec::<&String>::new());
    assert!(!format!("{after:?}").contains("n99-"), "{after:?}");
    let seen = inside.gateway.now().await;
    assert_eq!(seen.services.len(), 1, "{:?}", seen.services);
    assert!(seen.ended.len() <= 512 && seen.failures.len() <= 64 && seen.notices.len() <= 200);
}
