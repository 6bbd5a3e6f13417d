//! Every frame in every state, by a peer that follows no rule: what may not come costs that link,
//! what may come costs nothing, and a session on another link never notices.

use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::halves::{Echoed, Echoing, Inside, Outside};
use crate::support::{
    frames::{self, DATA, DRAIN, END, HELLO, OPEN, OPENED, PING, PONG, REFUSED, RESET, RETIRE, Wire, frame},
    peers::{Backend, hear_reset, say},
};

const KINDS: [u8; 11] = [HELLO, OPEN, OPENED, REFUSED, DATA, END, RESET, PING, PONG, DRAIN, RETIRE];
/// What may come whenever a link stands.
const ALWAYS: [u8; 4] = [PING, PONG, DRAIN, RETIRE];

/// A well-formed frame of each kind; `hello` is the one of the end that speaks.
fn any(kind: u8, hello: &[u8]) -> Vec<u8> {
    let body = match kind {
        HELLO => hello.to_vec(),
        OPEN => frames::open("s-9", None, "echo"),
        REFUSED => vec![1],
        DATA => b"stray".to_vec(),
        RESET => frames::reset(1, 2),
        PING | PONG => b"12345678".to_vec(),
        _ => Vec::new(),
    };
    frame(kind, &body)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Greeting,
    Greeted,
    Ready,
    Opening,
    OpeningEnded,
    Refused,
    Carrying,
    OpenerEnded,
    ServerEnded,
}

/// What the opener may send in each state that a peer can bring the serving half to.
const OPENER: [(State, &[u8]); 6] = [
    (State::Greeted, &[HELLO]),
    (State::Ready, &[OPEN, RESET]),
    (State::Refused, &[OPEN, DATA, END, RESET]),
    (State::Carrying, &[DATA, END, RESET]),
    (State::OpenerEnded, &[RESET]),
    (State::ServerEnded, &[DATA, END, RESET]),
];

/// Brings a new link to a state; the backend's side of its session where there is one.
async fn server_in(inside: &Inside, backend: &Backend, state: State) -> (Wire, Option<TcpStream>) {
    if state == State::Greeted {
        let mut link = inside.port.accept().await;
        link.hear_kind(HELLO).await;
        return (link, None);
    }
    let mut link = inside.link().await;
    let service = if state == State::Refused { "unknown" } else { "orders" };
    if state != State::Ready {
        link.say_frame(OPEN, &frames::open("s-1", None, service)).await;
    }
    if matches!(state, State::Ready | State::Refused) {
        if state == State::Refused {
            link.hear(REFUSED, &[1]).await;
        }
        return (link, None);
    }
    let mut served = backend.accept().await;
    link.hear(OPENED, &[]).await;
    if state == State::OpenerEnded {
        link.say_frame(END, &[]).await;
        crate::support::peers::hear_end(&mut served).await;
    }
    if state == State::ServerEnded {
        served.shutdown().await.unwrap();
        link.hear(END, &[]).await;
    }
    (link, Some(served))
}

#[tokio::test]
async fn the_half_that_serves_takes_each_frame_only_where_it_belongs() {
    let backend = Backend::new().await;
    let services = format!("orders: {{ connect: '{}' }}, echo: {{ connect: 'echo://' }}", backend.address());
    let inside = Inside::with(", prepared: 1, maximum: 8", &services).await;
    let mut good = Echoed::on(inside.link().await).await;
    for (state, allowed) in OPENER {
        for kind in KINDS {
            let (mut link, served) = server_in(&inside, &backend, state).await;
            let said = any(kind, &frames::grant(8, 4096, &["orders"]));
            let is_allowed = allowed.contains(&kind) || (state != State::Greeted && ALWAYS.contains(&kind));
            link.say(&said).await;
            if is_allowed && kind != RESET {
                until_pong(&mut link, &format!("{kind} in {state:?}")).await;
                link.cut();
            } else {
                link.over().await;
                drop(served);
                // The session on the other link is the only one that is left.
                inside.gateway.until("cut", |snapshot| snapshot.totals.sessions_open == 1).await;
            }
            good.serves().await;
        }
    }
    good.ends().await.pongs(b"as ever.").await;
    inside.until_pool("one carries no more", |row| row.carrying == 0).await;
}

/// It answers a ping, whatever else it says before.
async fn until_pong(link: &mut Wire, what: &str) {
    link.try_say(&frame(PING, b"unlikely")).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    loop {
        match link.next().await {
            Ok((PONG, token)) if token == b"unlikely" => return,
            Ok(_) => {}
            Err(over) => panic!("{what}: the link is over: {over:?}"),
        }
    }
}

/// What the server may send in each state that a peer can bring the opening half to.
const SERVER: [(State, &[u8]); 8] = [
    (State::Greeting, &[HELLO]),
    (State::Ready, &[RESET]),
    (State::Opening, &[OPENED, REFUSED, RESET]),
    (State::OpeningEnded, &[OPENED, REFUSED, RESET]),
    (State::Refused, &[RESET]),
    (State::Carrying, &[DATA, END, RESET]),
    (State::OpenerEnded, &[DATA, END, RESET]),
    (State::ServerEnded, &[RESET]),
];

/// Brings a new link to a state; the client of its session where there is one.
async fn opener_in(outside: &Outside, state: State) -> (Wire, Option<TcpStream>) {
    if state == State::Greeting {
        return (outside.shaken("alpha").await, None);
    }
    let mut link = outside.ready("alpha", 1).await;
    if state == State::Ready {
        return (link, None);
    }
    let mut client = outside.client().await;
    say(&mut client, b"words").await;
    link.hear_kind(OPEN).await;
    link.hear(DATA, b"words").await;
    match state {
        State::Greeting | State::Greeted | State::Ready | State::Opening => {}
        State::OpeningEnded => {
            client.shutdown().await.unwrap();
            link.hear(END, &[]).await;
        }
        State::Refused => {
            // Its backend was late: nobody else is asked, or waited for.
            link.say_frame(REFUSED, &[4]).await;
            hear_reset(&mut client).await;
            outside.until_ready("alpha", 1).await;
            return (link, None);
        }
        State::Carrying => link.say_frame(OPENED, &[]).await,
        State::OpenerEnded => {
            link.say_frame(OPENED, &[]).await;
            client.shutdown().await.unwrap();
            link.hear(END, &[]).await;
        }
        State::ServerEnded => {
            link.say(&[frame(OPENED, &[]), frame(END, &[])].concat()).await;
            crate::support::peers::hear_end(&mut client).await;
        }
    }
    (link, Some(client))
}

#[tokio::test]
async fn the_half_that_opens_takes_each_frame_only_where_it_belongs() {
    let outside = Outside::new().await;
    let mut good = Echoing::through(&outside).await;
    for (state, allowed) in SERVER {
        for kind in KINDS {
            let (mut link, client) = opener_in(&outside, state).await;
            let is_free = matches!(state, State::Ready | State::Refused);
            let is_allowed = allowed.contains(&kind) || (state != State::Greeting && ALWAYS.contains(&kind));
            link.say(&any(kind, &frames::offer(1, 8, &["orders"]))).await;
            let leaves = is_free && matches!(kind, DRAIN | RETIRE);
            if is_allowed && kind != RESET && !leaves {
                until_pong(&mut link, &format!("{kind} in {state:?}")).await;
                link.cut();
            } else {
                link.over().await;
                if let Some(mut client) = client
                    && state != State::ServerEnded
                {
                    hear_reset(&mut client).await;
                }
            }
            outside.until_ready("alpha", 0).await;
            good.serves().await;
        }
    }
}

/// Bytes that are no frame, or none that may be; each for a ready link.
fn lies() -> Vec<Vec<u8>> {
    let mut lies = Vec::new();
    for kind in (0..=0).chain(12..=16).chain([0x16, 0x7f, 0x80, 0xff]) {
        for length in [0, 8, 0xff_ffff] {
            lies.push(frames::header(kind, length).to_vec());
        }
    }
    // Of each kind: a length below its least, and above its most.
    for (kind, lengths) in [
        (HELLO, [0, 6, 0x04_0c01].as_slice()),
        (OPEN, &[0, 5, 512, 0x02_0000]),
        (OPENED, &[1]),
        (REFUSED, &[0, 2]),
        (DATA, &[0, 131_073]),
        (END, &[1]),
        (RESET, &[0, 4, 6]),
        (PING, &[0, 7, 9]),
        (PONG, &[0, 7, 9]),
        (DRAIN, &[1]),
        (RETIRE, &[1]),
    ] {
        for length in lengths.iter().chain(&[0xff_ffff]) {
            lies.push(frames::header(kind, *length).to_vec());
        }
    }
    lies
}

#[tokio::test]
async fn a_length_or_type_that_can_not_be_costs_a_serving_halfs_link_at_once() {
    let inside = Inside::with(", prepared: 1, maximum: 8", "echo: { connect: 'echo://' }").await;
    let mut good = Echoed::on(inside.link().await).await;
    for lie in lies() {
        let mut link = inside.link().await;
        link.say(&lie).await;
        let (_, frames) = link.over().await;
        assert_eq!(frames, [], "{lie:?}");
        good.serves().await;
    }
}

#[tokio::test]
async fn a_length_or_type_that_can_not_be_costs_a_carrying_link_at_once() {
    let backend = Backend::new().await;
    let services = format!("orders: {{ connect: '{}' }}, echo: {{ connect: 'echo://' }}", backend.address());
    let inside = Inside::with(", prepared: 1, maximum: 8", &services).await;
    let mut good = Echoed::on(inside.link().await).await;
    for lie in lies() {
        let mut link = inside.link().await;
        link.say_frame(OPEN, &frames::open("s-1", None, "orders")).await;
        let mut served = backend.accept().await;
        link.hear(OPENED, &[]).await;
        link.say(&lie).await;
        hear_reset(&mut served).await;
        link.over().await;
        good.serves().await;
    }
}

#[tokio::test]
async fn a_length_or_type_that_can_not_be_costs_an_opening_halfs_link_at_once() {
    let outside = Outside::new().await;
    let mut good = Echoing::through(&outside).await;
    for lie in lies() {
        let mut link = outside.ready("alpha", 1).await;
        link.say(&lie).await;
        let (_, frames) = link.over().await;
        assert_eq!(frames, [], "{lie:?}");
        good.serves().await;
        outside.until_ready("alpha", 0).await;
    }
}

#[tokio::test]
async fn a_body_that_means_nothing_costs_the_link() {
    let inside = Inside::with(", prepared: 1, maximum: 8", "echo: { connect: 'echo://' }").await;
    let mut good = Echoed::on(inside.link().await).await;
    let whole = frames::open("s-1", None, "echo");
    let mut bodies = vec![
        [&[2], &whole[1..]].concat(),
        [&[0xff], &whole[1..]].concat(),
        [&whole[..], b"x"].concat(),
        whole[..whole.len() - 1].to_vec(),
        frames::open("", None, "echo"),
        frames::open("a\nb", None, "echo"),
        frames::open(&"a".repeat(33), None, "echo"),
        frames::open("a", None, ""),
        frames::open("a", None, "E cho"),
        frames::open("a", None, "\u{e9}cho"),
        b"\0\x01a\x05\x04echo".to_vec(),
        b"\0\x01a\x04\x01\x02\x03\x04".to_vec(),
        b"\0\xffabcdef".to_vec(),
    ];
    bodies.push(vec![0; 200]);
    for body in bodies {
        let mut link = inside.link().await;
        link.say_frame(OPEN, &body).await;
        let (_, frames) = link.over().await;
        assert_eq!(frames, [], "{body:?}");
        good.serves().await;
    }
    for body in [frames::reset(1, 0), frames::reset(1, 6)] {
        let mut link = inside.link().await;
        link.say_frame(RESET, &body).await;
        link.over().await;
    }
    good.serves().await;
}

#[tokio::test]
async fn a_hello_that_means_nothing_brings_no_link_to_stand() {
    let outside = Outside::new().await;
    let mut good = Echoing::through(&outside).await;
    let whole = frames::offer(1, 8, &["orders"]);
    for body in [
        [&[0], &whole[1..]].concat(),
        [&[2], &whole[1..]].concat(),
        [&whole[..], b"x"].concat(),
        whole[..whole.len() - 1].to_vec(),
        [&whole[..5], &[0xff, 0xff]].concat(),
        [&whole[..5], &[0, 1, 0]].concat(),
        [&whole[..5], &[0, 1, 2, 0xff, 0xfe]].concat(),
    ] {
        let mut link = outside.shaken("alpha").await;
        link.say_frame(HELLO, &body).await;
        let (_, frames) = link.over().await;
        assert_eq!(frames, [], "{body:?}");
        good.serves().await;
    }
    let inside = Inside::new("echo: { connect: 'echo://' }").await;
    let whole = frames::grant(8, 4096, &["echo"]);
    for body in [
        [&[2], &whole[1..]].concat(),
        frames::grant(8, 0, &["echo"]),
        [&whole[..], b"x"].concat(),
        whole[..whole.len() - 1].to_vec(),
    ] {
        let mut link = inside.port.accept().await;
        link.hear_kind(HELLO).await;
        link.say_frame(HELLO, &body).await;
        let (_, frames) = link.over().await;
        assert_eq!(frames, [], "{body:?}");
    }
    Echoed::on(inside.link().await).await;
}
