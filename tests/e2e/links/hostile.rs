//! Every frame in every state, by a peer that follows no rule: what may not come costs that link, with every
//! session on it, what may come costs nothing, and a session on another link never notices.

use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::halves::{GatewayEchoSession, OpenerHalf, ServerHalf};
use crate::support::{
    frames::{
        self, CREDIT, DATA, DATA_MAX, DRAIN, END, HELLO, MOVE, OPEN, OPENED, PING, PONG, REFUSED, RESET,
        RESUME, RETIRE, RawLink, SERVICES, WINDOW, frame, frame_of,
    },
    peers::{Backend, expect_end, expect_reset, send},
};

const KINDS: [u8; 15] = [
    HELLO, SERVICES, OPEN, OPENED, REFUSED, DATA, END, RESET, CREDIT, PING, PONG, DRAIN, RETIRE, MOVE, RESUME,
];
/// What may come whenever a link is up.
const ALWAYS: [u8; 4] = [PING, PONG, DRAIN, RETIRE];
/// What an end that has closed a session passes over.
const LATE: [u8; 7] = [OPENED, REFUSED, DATA, END, RESET, CREDIT, MOVE];

/// A well-formed frame of each kind, of `session` where it is of one; `hello` is the one of the end that speaks.
fn any(session: u32, kind: u8, hello: &[u8]) -> Vec<u8> {
    let body = match kind {
        HELLO => hello.to_vec(),
        SERVICES => frames::services(&["orders"]),
        OPEN => frames::open("s-9", None, "echo"),
        REFUSED => vec![1],
        DATA => b"stray".to_vec(),
        RESET => frames::reset(2),
        CREDIT => frames::credit(1000),
        PING | PONG => b"12345678".to_vec(),
        // Of no bytes, with a ticket that is none.
        MOVE | RESUME => vec![0; 28],
        _ => Vec::new(),
    };
    let is_of_session = LATE.contains(&kind) || matches!(kind, OPEN | RESUME);
    frame_of(if is_of_session { session } else { 0 }, kind, &body)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    AwaitingOffer,
    AwaitingGrant,
    /// No session of that number was opened.
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
    (State::AwaitingGrant, &[HELLO]),
    (State::Ready, &[OPEN]),
    (State::Refused, &LATE),
    (State::Carrying, &[DATA, END, RESET, CREDIT, MOVE]),
    (State::OpenerEnded, &[RESET, CREDIT, MOVE]),
    (State::ServerEnded, &[DATA, END, RESET, CREDIT, MOVE]),
];

/// A link with a session on it, and one more in a state.
struct OpenedLink {
    link: RawLink,
    /// The backend's side of the first, or its client.
    beside: Option<TcpStream>,
    /// The connection of the second, where it has one.
    tested: Option<TcpStream>,
    number: u32,
}

/// Brings a session of a new link to a state.
async fn server_in(inside: &ServerHalf, backend: &Backend, state: State) -> OpenedLink {
    if state == State::AwaitingGrant {
        let mut link = inside.port.accept().await;
        link.expect_kind(HELLO).await;
        return OpenedLink { link, beside: None, tested: None, number: 1 };
    }
    let mut link = inside.link().await;
    link.send_frame(OPEN, &frames::open("s-0", None, "orders")).await;
    let beside = Some(backend.accept().await);
    link.expect_frame(OPENED, &[]).await;
    let number = link.session + 1;
    if state == State::Ready {
        return OpenedLink { link, beside, tested: None, number };
    }
    let service = if state == State::Refused { "unknown" } else { "orders" };
    link.send_frame(OPEN, &frames::open("s-1", None, service)).await;
    if state == State::Refused {
        link.expect_frame(REFUSED, &[1]).await;
        return OpenedLink { link, beside, tested: None, number };
    }
    let mut tested = backend.accept().await;
    link.expect_frame(OPENED, &[]).await;
    if state == State::OpenerEnded {
        link.send_frame(END, &[]).await;
        expect_end(&mut tested).await;
    }
    if state == State::ServerEnded {
        tested.shutdown().await.unwrap();
        link.expect_frame(END, &[]).await;
    }
    OpenedLink { link, beside, tested: Some(tested), number }
}

#[tokio::test]
async fn the_half_that_serves_takes_each_frame_only_where_it_belongs() {
    let backend = Backend::new().await;
    let services = format!("orders: {{ connect: '{}' }}, echo: {{ connect: 'echo://' }}", backend.address());
    let inside = ServerHalf::new(&services).await;
    let mut good = GatewayEchoSession::on(inside.link().await).await;
    for (state, allowed) in OPENER {
        for kind in KINDS {
            let OpenedLink { mut link, beside, tested, number } = server_in(&inside, &backend, state).await;
            let is_allowed =
                allowed.contains(&kind) || (state != State::AwaitingGrant && ALWAYS.contains(&kind));
            link.send_raw(&any(number, kind, &frames::grant(8, &["orders"]))).await;
            if is_allowed {
                if kind == MOVE && state != State::Refused {
                    // It would wait for its ticket to come back.
                    let answer = link.expect_kind(MOVE).await;
                    link.send_raw(&frame_of(number, RESUME, &answer)).await;
                }
                until_pong(&mut link, &format!("{kind} in {state:?}")).await;
                if let (RESET, Some(mut tested)) = (kind, tested)
                    && state != State::OpenerEnded
                {
                    expect_reset(&mut tested).await;
                }
                if let Some(mut beside) = beside {
                    send(&mut beside, b"as ever").await;
                    while link.next_other_than_ping().await != (DATA, b"as ever".into()) {}
                    assert_eq!(link.last_session, 1);
                }
                link.cut();
            } else {
                link.over().await;
                if let Some(mut beside) = beside {
                    expect_reset(&mut beside).await;
                }
                drop(tested);
            }
            // The session on the other link is the only one that is left.
            inside.gateway.until("cut", |snapshot| snapshot.totals.sessions_open == 1).await;
            good.serves().await;
        }
    }
    good.ends().await.expect_pong(b"as ever.").await;
}

/// It answers a ping, whatever else it says before.
async fn until_pong(link: &mut RawLink, what: &str) {
    link.try_send(&frame(PING, b"unlikely")).await.unwrap_or_else(|error| panic!("{what}: {error}"));
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
    (State::AwaitingOffer, &[HELLO]),
    (State::Ready, &[]),
    (State::Opening, &[OPENED, REFUSED, RESET]),
    (State::OpeningEnded, &[OPENED, REFUSED, RESET]),
    (State::Refused, &LATE),
    (State::Carrying, &[DATA, END, RESET, CREDIT]),
    (State::OpenerEnded, &[DATA, END, RESET, CREDIT]),
    (State::ServerEnded, &[RESET, CREDIT]),
];

/// Brings a session of a new link to a state; beside it there is one that the client has.
async fn opener_in(outside: &OpenerHalf, state: State) -> OpenedLink {
    if state == State::AwaitingOffer {
        let link = outside.handshaken_link("alpha").await;
        return OpenedLink { link, beside: None, tested: None, number: 1 };
    }
    let mut link = outside.ready("alpha", 1).await;
    let mut beside = outside.client().await;
    link.expect_kind(OPEN).await;
    link.send(&[frame(OPENED, &[]), frame(DATA, b"x")].concat()).await;
    crate::support::peers::expect_bytes(&mut beside, b"x").await;
    let beside = Some(beside);
    if state == State::Ready {
        // Numbers are those of all links of this process.
        let number = link.session + 1_000_000;
        return OpenedLink { link, beside, tested: None, number };
    }
    let mut client = outside.client().await;
    send(&mut client, b"words").await;
    link.expect_kind(OPEN).await;
    let number = link.session;
    link.expect_frame(DATA, b"words").await;
    match state {
        State::AwaitingOffer | State::AwaitingGrant | State::Ready | State::Opening => {}
        State::OpeningEnded => {
            client.shutdown().await.unwrap();
            link.expect_frame(END, &[]).await;
        }
        State::Refused => {
            // Its backend was late: nobody else is asked, or waited for.
            link.send_frame(REFUSED, &[4]).await;
            expect_reset(&mut client).await;
            return OpenedLink { link, beside, tested: None, number };
        }
        State::Carrying => link.send_frame(OPENED, &[]).await,
        State::OpenerEnded => {
            link.send_frame(OPENED, &[]).await;
            client.shutdown().await.unwrap();
            link.expect_frame(END, &[]).await;
        }
        State::ServerEnded => {
            link.send(&[frame(OPENED, &[]), frame(END, &[])].concat()).await;
            expect_end(&mut client).await;
        }
    }
    OpenedLink { link, beside, tested: Some(client), number }
}

#[tokio::test]
async fn the_half_that_opens_takes_each_frame_only_where_it_belongs() {
    let (outside, mut good) = OpenerHalf::beside_another().await;
    for (state, allowed) in SERVER {
        for kind in KINDS {
            let OpenedLink { mut link, beside, tested, number } = opener_in(&outside, state).await;
            let is_allowed = allowed.contains(&kind)
                || (state != State::AwaitingOffer && (ALWAYS.contains(&kind) || kind == SERVICES));
            let offer = frames::offer(1, 8, &["orders"]);
            link.send_raw(&any(number, kind, &offer)).await;
            if is_allowed {
                until_pong(&mut link, &format!("{kind} in {state:?}")).await;
                if let Some(mut beside) = beside {
                    send(&mut beside, b"as ever").await;
                    while link.next_other_than_ping().await != (DATA, b"as ever".into()) {}
                }
                link.cut();
            } else {
                link.over().await;
                for client in beside.into_iter().chain(tested.filter(|_| state != State::ServerEnded)) {
                    expect_reset(&mut { client }).await;
                }
            }
            outside.until_ready("alpha", 0).await;
            good.serves().await;
        }
    }
}

/// Invalid bytes and forbidden frames, each sent on an established link.
fn lies() -> Vec<Vec<u8>> {
    let mut lies = Vec::new();
    for kind in (0..=0).chain(16..=18).chain([0x16, 0x7f, 0x80, 0xff]) {
        for length in [0, 8, 0xff_ffff] {
            lies.push(frames::header(kind, length).to_vec());
            lies.push(frames::header_of(1, kind, length).to_vec());
        }
    }
    // Of each kind: a length below its least, and above its most.
    for (kind, lengths) in [
        (HELLO, [0x04_1401].as_slice()),
        (SERVICES, &[0x04_1401]),
        (OPEN, &[10 * 1024 + 1, 0x02_0000]),
        (OPENED, &[1]),
        (REFUSED, &[0, 2]),
        (DATA, &[0, DATA_MAX + 1]),
        (END, &[1]),
        (RESET, &[0, 2]),
        (CREDIT, &[0, 3, 5]),
        (PING, &[0, 7, 9]),
        (PONG, &[0, 7, 9]),
        (DRAIN, &[1]),
        (RETIRE, &[1]),
        (MOVE, &[0, 27, 29]),
        (RESUME, &[0, 27, 29]),
    ] {
        let session = u32::from(LATE.contains(&kind) || matches!(kind, OPEN | RESUME));
        for length in lengths.iter().chain(&[0xff_ffff]) {
            lies.push(frames::header_of(session, kind, *length).to_vec());
        }
        // A session where there is none, or none where there is one.
        let length = [0, 1, 4, 8, 16, 28].into_iter().find(|length| match kind {
            OPENED | END | DRAIN | RETIRE => *length == 0,
            REFUSED | RESET | DATA => *length == 1,
            CREDIT => *length == 4,
            PING | PONG => *length == 8,
            MOVE | RESUME => *length == 28,
            _ => *length == 16,
        });
        lies.push(frames::header_of(1 - session, kind, length.unwrap()).to_vec());
    }
    lies
}

#[tokio::test]
async fn an_invalid_length_or_type_closes_a_servers_link_at_once() {
    let inside = ServerHalf::with(", prepared: 2, maximum: 8", "echo: { connect: 'echo://' }").await;
    let mut good = GatewayEchoSession::on(inside.link().await).await;
    for lie in lies() {
        let mut link = inside.link().await;
        link.send_raw(&lie).await;
        let (_, frames) = link.over().await;
        assert_eq!(frames, [], "{lie:?}");
        good.serves().await;
    }
}

#[tokio::test]
async fn an_invalid_length_or_type_closes_a_carrying_link_at_once() {
    let backend = Backend::new().await;
    let services = format!("orders: {{ connect: '{}' }}, echo: {{ connect: 'echo://' }}", backend.address());
    let inside = ServerHalf::with(", prepared: 2, maximum: 8", &services).await;
    let mut good = GatewayEchoSession::on(inside.link().await).await;
    for lie in lies() {
        let mut link = inside.link().await;
        link.send_frame(OPEN, &frames::open("s-1", None, "orders")).await;
        let mut served = backend.accept().await;
        link.expect_frame(OPENED, &[]).await;
        link.send_raw(&lie).await;
        expect_reset(&mut served).await;
        link.over().await;
        good.serves().await;
    }
}

#[tokio::test]
async fn an_invalid_length_or_type_closes_an_openers_link_at_once() {
    let (outside, mut good) = OpenerHalf::beside_another().await;
    for lie in lies() {
        let mut link = outside.ready("alpha", 1).await;
        link.send_raw(&lie).await;
        let (_, frames) = link.over().await;
        assert_eq!(frames, [], "{lie:?}");
        good.serves().await;
        outside.until_ready("alpha", 0).await;
    }
}

/// A body with a field more.
fn with(body: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    frames::field(&mut body, tag, value);
    body
}

#[tokio::test]
async fn a_body_that_means_nothing_costs_the_link() {
    let inside = ServerHalf::new("echo: { connect: 'echo://' }").await;
    let mut good = GatewayEchoSession::on(inside.link().await).await;
    let whole = frames::open("s-1", None, "echo");
    let bodies = [
        Vec::new(),
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
        with(&whole, 1, b"echo"),
        with(&whole, 3, &[]).into_iter().chain([3, 0, 0]).collect(),
        with(&whole, 4, b"12345"),
        with(&whole, 5, b""),
        with(&whole, 6, b"\x09short"),
        with(&whole, 7, &[1; 256]),
        with(&whole, 8, &[1; 4097]),
        vec![0; 200],
    ];
    for body in bodies {
        let mut link = inside.link().await;
        link.send_frame(OPEN, &body).await;
        let (_, frames) = link.over().await;
        assert_eq!(frames, [], "{body:?}");
        good.serves().await;
    }
    for (kind, body) in [(RESET, vec![0]), (RESET, vec![7]), (CREDIT, frames::credit(0))] {
        let mut link = inside.link().await;
        link.send_frame(OPEN, &whole).await;
        link.expect_frame(OPENED, &[]).await;
        link.send_frame(kind, &body).await;
        link.over().await;
    }
    good.serves().await;
}

#[tokio::test]
async fn a_field_that_is_not_known_is_passed_over() {
    let inside = ServerHalf::new("echo: { connect: 'echo://' }").await;
    let mut link = inside.link().await;
    link.send_frame(OPEN, &with(&frames::open("s-1", None, "echo"), 99, b"of a later version")).await;
    link.expect_frame(OPENED, &[]).await;
    let (outside, _good) = OpenerHalf::beside_another().await;
    let mut link = outside.handshaken_link("alpha").await;
    link.send_frame(HELLO, &with(&frames::offer(1, 8, &["orders"]), 99, b"of a later version")).await;
    link.expect_granted(&["orders"]).await;
}

#[tokio::test]
async fn a_number_that_was_used_costs_the_link() {
    let inside = ServerHalf::new("echo: { connect: 'echo://' }").await;
    let mut good = GatewayEchoSession::on(inside.link().await).await;
    let opens = |number| frame_of(number, OPEN, &frames::open("s-1", None, "echo"));
    for again in [100_u32, 99, 1, 100 + (1 << 31)] {
        for ends_first in [true, false] {
            let mut link = inside.link().await;
            link.send(&opens(100)).await;
            link.expect_frame(OPENED, &[]).await;
            if ends_first {
                link.send_frame(END, &[]).await;
                link.expect_frame(END, &[]).await;
            }
            link.send(&opens(again)).await;
            link.over().await;
            good.serves().await;
        }
    }
    inside.gateway.until_notice("was opened twice, or out of order").await;
}

#[tokio::test]
async fn credit_that_no_number_holds_and_bytes_beyond_credit_cost_the_link() {
    let inside = ServerHalf::new("echo: { connect: 'echo://' }").await;
    let mut good = GatewayEchoSession::on(inside.link().await).await;
    let overflow = frame(CREDIT, &frames::credit(u32::MAX));
    for sent in [overflow, frame(DATA, &[7; DATA_MAX / 2]).repeat(64 * WINDOW / DATA_MAX)] {
        let mut link = inside.link().await;
        link.gives_credit = false;
        link.send_frame(OPEN, &frames::open("s-1", None, "echo")).await;
        link.expect_frame(OPENED, &[]).await;
        // It may cut the link while we still speak.
        let _ = link.try_send(&sent).await;
        link.over().await;
        good.serves().await;
    }
    let (outside, mut good) = OpenerHalf::beside_another().await;
    for sent in [frame(CREDIT, &frames::credit(u32::MAX)), frame(DATA, &[7; DATA_MAX]).repeat(512)] {
        let mut link = outside.ready("alpha", 1).await;
        let mut client = outside.client().await;
        link.expect_kind(OPEN).await;
        link.send(&[frame(OPENED, &[]), frame(DATA, b"x")].concat()).await;
        crate::support::peers::expect_bytes(&mut client, b"x").await;
        let _ = link.try_send(&sent).await;
        link.over().await;
        outside.until_ready("alpha", 0).await;
        good.serves().await;
        outside.gateway.until_ended("PR").await;
    }
}

#[tokio::test]
async fn a_hello_that_means_nothing_brings_no_link_to_stand() {
    let (outside, mut good) = OpenerHalf::beside_another().await;
    let whole = frames::offer(1, 8, &["orders"]);
    let bodies = |whole: &[u8]| {
        [
            Vec::new(),
            // Another version; no version; no instance; one that is too short.
            [&[1, 0, 2, 0, 3], &whole[5..]].concat(),
            whole[5..].to_vec(),
            [&whole[..15], &whole[34..]].concat(),
            [&whole[..15], &[3, 0, 1, 7], &whole[34..]].concat(),
            with(whole, 1, &[0, 2]),
            with(whole, 5, &[0, 9]),
            [whole, b"x"].concat(),
            whole[..whole.len() - 1].to_vec(),
        ]
    };
    let of_a_server =
        [with(&whole, 7, &[2, 0, b'a']), with(&whole, 7, &[0, 9, b'a']), with(&whole, 7, b"\0\0\xff")];
    for body in bodies(&whole).into_iter().chain(of_a_server) {
        let mut link = outside.handshaken_link("alpha").await;
        link.send_frame(HELLO, &body).await;
        let (_, frames) = link.over().await;
        assert_eq!(frames, [], "{body:?}");
        good.serves().await;
    }
    let inside = ServerHalf::new("echo: { connect: 'echo://' }").await;
    let whole = frames::grant(8, &["echo"]);
    for body in bodies(&whole).into_iter().chain([with(&whole, 8, b"\xff")]) {
        let mut link = inside.port.accept().await;
        link.expect_kind(HELLO).await;
        link.send_frame(HELLO, &body).await;
        let (_, frames) = link.over().await;
        assert_eq!(frames, [], "{body:?}");
    }
    GatewayEchoSession::on(inside.link().await).await;
}
