//! Frames that may come, too many of them: bounded, and no other link notices.

use std::{collections::BTreeSet, time::Duration};

use portcullis::{
    gateway::handle::{Command, CommandAnswer},
    telemetry::metrics::MetricsFormat,
};
use tokio::io::AsyncReadExt;

use super::halves::{Echoed, Inside, Outside};
use crate::support::{
    frames::{
        self, CREDIT, DATA, END, OPEN, OPENED, PING, PONG, REFUSED, RESET, RETIRE, SERVICES, WINDOW, Wire,
        frame,
    },
    peers::{Backend, hear, hear_end, say},
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
    link.say(&opens.repeat(31)).await;
    for _ in 0..31 {
        link.hear(REFUSED, &[1]).await;
    }
    link.say(&opens).await;
    let (_, frames) = link.over().await;
    assert!(frames.iter().all(|frame| *frame == (REFUSED, vec![1])), "{frames:?}");
    inside.gateway.until_told("too many sessions for services that were not offered").await;
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
        link.say_frame(DATA, &[1; WINDOW / 4]).await;
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
    let (outside, mut good) = Outside::beside_another().await;
    let mut link = outside.ready("alpha", 1).await;
    check_ping_flood(&mut link).await;
    outside.until_ready("alpha", 0).await;
    good.serves().await;
}

#[tokio::test]
async fn a_flood_of_offers_costs_the_link() {
    let (outside, mut good) = Outside::beside_another().await;
    let mut link = outside.ready("alpha", 1).await;
    link.say(&frame(SERVICES, &frames::services(&["orders"])).repeat(10)).await;
    link.pongs(b"allowed.").await;
    let _ = link.try_say(&frame(SERVICES, &frames::services(&["orders"])).repeat(1_000)).await;
    link.over().await;
    outside.until_ready("alpha", 0).await;
    good.serves().await;
    outside.gateway.until_told("too many offers").await;
}

/// Opens and resets, as fast as a peer can say them.
#[tokio::test]
async fn sessions_that_are_opened_and_reset_at_once_hold_nobody_up_and_leave_nothing_behind() {
    const SESSIONS: usize = 10_000;
    let backend = Backend::new().await;
    let services = format!("orders: {{ connect: '{}' }}, {ECHO}", backend.address());
    let inside = Inside::new(&services).await;
    let mut good = Echoed::on(inside.link().await).await;
    let mut link = inside.link().await;
    // One that is on the same link, and stays.
    link.say_frame(OPEN, &frames::open("stays", None, "echo")).await;
    link.hear(OPENED, &[]).await;
    let stays = link.session;
    for service in ["echo", "orders"] {
        let pair =
            [frame(OPEN, &frames::open("s-1", None, service)), frame(RESET, &frames::reset(1))].concat();
        for batch in 0..SESSIONS / 100 {
            link.say(&pair.repeat(100)).await;
            if batch % 10 == 0 {
                good.serves().await;
            }
            // Those that were taken at once come to nothing; the rest may be refused.
            link.say(&frames::frame_of(stays, DATA, b"as ever")).await;
            let until_heard = async {
                loop {
                    match (link.hear_any().await, link.heard_of) {
                        ((DATA, body), number) if number == stays => return assert_eq!(body, b"as ever"),
                        ((OPENED, _), _) => {}
                        ((REFUSED, why), _) => assert_eq!(why, [6], "it is full"),
                        (other, number) => panic!("{other:?} of {number}"),
                    }
                }
            };
            tokio::time::timeout(LONG, until_heard).await.expect("its turn comes");
        }
    }
    inside.gateway.until("two are left", |snapshot| snapshot.totals.sessions_open == 2).await;
    link.pongs(b"as ever.").await;
}

/// The bound is that of sessions that are served, not of those that their opener still wants.
#[tokio::test]
async fn more_sessions_at_once_than_a_link_carries_are_refused() {
    let inside = Inside::new(ECHO).await;
    let mut link = inside.link().await;
    let opens = frame(OPEN, &frames::open("s-1", None, "echo"));
    link.say(&opens.repeat(300)).await;
    let (mut opened, mut refused) = (0, 0);
    for _ in 0..300 {
        match link.hear_any().await {
            (OPENED, _) => opened += 1,
            (REFUSED, why) => {
                assert_eq!(why, [6]);
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((opened, refused), (256, 44));
    link.say_frame(DATA, b"late for one that was refused").await;
    link.pongs(b"it lives").await;
}

#[tokio::test]
async fn credit_for_nothing_and_late_frames_without_end_cost_the_link() {
    let inside = Inside::new(ECHO).await;
    let mut good = Echoed::on(inside.link().await).await;
    for sent in [frame(CREDIT, &frames::credit(1)), frame(END, &[]), frame(RESET, &frames::reset(1))] {
        let mut link = Echoed::on(inside.link().await).await.ends().await;
        link.say(&sent.repeat(3)).await;
        link.pongs(b"allowed.").await;
        let _ = link.try_say(&sent.repeat(1_000)).await;
        link.over().await;
        good.serves().await;
    }
}

#[tokio::test]
async fn frames_that_mean_nothing_much_cost_nothing_much() {
    let inside = Inside::new(ECHO).await;
    let mut good = Echoed::on(inside.link().await).await;
    let (outside, mut other) = Outside::beside_another().await;
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
    let (outside, mut good) = Outside::beside_another().await;
    let mut link = outside.ready("alpha", 1).await;
    let mut client = outside.client().await;
    link.hear_kind(OPEN).await;
    link.say_frame(OPENED, &[]).await;
    let mut received = vec![0; BATCH];
    for batch in 0..FLOOD / BATCH {
        link.say(&frame(DATA, &[batch as u8]).repeat(BATCH)).await;
        tokio::time::timeout(LONG, client.read_exact(&mut received)).await.unwrap().unwrap();
        assert!(received.iter().all(|byte| *byte == batch as u8));
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
    let mut link = outside.ready("alpha", 1).await;
    let (mut stuck, mut good) = (outside.client().await, outside.client().await);
    let mut numbers = Vec::new();
    for _ in 0..2 {
        link.hear_kind(OPEN).await;
        numbers.push(link.session);
        link.say_frame(OPENED, &[]).await;
    }
    let [slow, other] = numbers[..] else { unreachable!() };
    // Whichever client is which.
    say(&mut good, b"I am").await;
    link.hear(DATA, b"I am").await;
    let (other, slow) = if link.heard_of == other { (other, slow) } else { (slow, other) };
    let tiny = frames::frame_of(slow, DATA, b"x");
    let (mut credit, mut sent) = (WINDOW, 0);
    // Until its receiver takes no more: credit comes back for what the kernel holds, and then no more.
    loop {
        let small = credit.min(BATCH);
        for large in vec![b'x'; credit - small].chunks(WINDOW / 2) {
            link.say(&frames::frame_of(slow, DATA, large)).await;
        }
        link.say(&tiny.repeat(small)).await;
        sent += credit;
        credit = 0;
        // What is heard before the answer to a ping is all that there is for now.
        link.say_frame(PING, b"any more").await;
        loop {
            match link.next().await.expect("it lives") {
                (PONG, _) => break,
                (PING, token) => link.say_frame(PONG, &token).await,
                (CREDIT, more) if link.heard_of == slow => {
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
        say(&mut good, b"are you there").await;
        assert_eq!(link.hear_data(13).await, b"are you there");
        link.say(&frames::frame_of(other, DATA, b"yes")).await;
        hear(&mut good, b"yes").await;
    }
    let mut received = vec![0; sent];
    tokio::time::timeout(LONG, stuck.read_exact(&mut received)).await.unwrap().unwrap();
    assert!(received.iter().all(|byte| *byte == b'x'));
    link.pongs(b"as ever.").await;
}

/// However many there are, and between sessions that are served, so that none of them costs the link.
#[tokio::test]
async fn names_of_services_that_a_gateway_makes_up_become_no_series() {
    let inside = Inside::new(ECHO).await;
    let mut link = Echoed::on(inside.link().await).await.ends().await;
    let series = async || {
        let answer = inside.gateway.handle.ask(Command::Metrics { format: MetricsFormat::OpenMetrics }).await;
        let CommandAnswer::Metrics(text) = answer else { panic!("{answer:?}") };
        let names = text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(' ').next());
        names.map(|name| name.unwrap_or_default().to_owned()).collect::<BTreeSet<_>>()
    };
    // The first refusal may begin a series of its own kind.
    link.say_frame(OPEN, &frames::open("first", None, "n0")).await;
    link.hear(REFUSED, &[1]).await;
    let before = series().await;
    for round in 0..100 {
        let opens = (0..20).map(|at| frame(OPEN, &frames::open("s-1", None, &format!("n{round}-{at}"))));
        link.say(&opens.collect::<Vec<_>>().concat()).await;
        for _ in 0..20 {
            link.hear(REFUSED, &[1]).await;
        }
        link = Echoed::on(link).await.ends().await;
    }
    let after = series().await;
    assert_eq!(after.difference(&before).collect::<Vec<_>>(), Vec::<&String>::new());
    assert!(!format!("{after:?}").contains("n99-"), "{after:?}");
    let seen = inside.gateway.now().await;
    assert_eq!(seen.services.len(), 1, "{:?}", seen.services);
    assert!(seen.ended.len() <= 512 && seen.failures.len() <= 64 && seen.notices.len() <= 200);
}
