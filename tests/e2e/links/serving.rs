//! The half that serves: what a DMZ half that is not ours sends and receives.

use std::{collections::BTreeMap, net::SocketAddr};

use portcullis::{gateway::handle::Command, telemetry::snapshot::Snapshot};

use super::halves::{BackgroundSend, GatewayEchoSession, ServerHalf};
use crate::support::{
    frames::{
        self, BYTES, CREDIT, DATA, DATA_MAX, DRAIN, END, HELLO, HTTP, LinkOver, OPEN, OPENED, OURS, Port,
        REFUSED, RESET, RETIRE, RawLink, SERVICES, WINDOW, frame, frame_of,
    },
    gateway::TestFolder,
    peers::{Backend, Reserved, expect_bytes, expect_end, expect_reset, send},
};

const ECHO: &str = "echo: { connect: 'echo://' }";

fn opens(id: &str, service: &str) -> Vec<u8> {
    frame(OPEN, &frames::open(id, None, service))
}

/// `open`, and all that its client says.
fn whole(id: &str, service: &str, sent: &[u8]) -> Vec<u8> {
    [opens(id, service), frame(DATA, sent), frame(END, &[])].concat()
}

/// With a service `orders` whose backend the test plays, and `echo`.
async fn with_backend() -> (ServerHalf, Backend) {
    let backend = Backend::new().await;
    let services = format!("orders: {{ connect: '{}' }}, {ECHO}", backend.address());
    (ServerHalf::new(&services).await, backend)
}

#[tokio::test]
async fn its_hello_follows_the_profile() {
    let folder = TestFolder::with(&["dmz", "dmz2", "internal"]);
    let port = Port::new(&folder, "dmz", &[OURS]).await;
    let text = format!(
        "mode: reverse\ninternal:\n  link: {{ connect: '{}', prepared: 3, maximum: 300, tls: {{ \
         certificate: pki/internal.pem, key: pki/internal.key, ca: pki/ca.pem, peers: [dmz, dmz2] }} }}\n  \
         services: {{ orders: {{ connect: 'echo://' }}, web: {{ connect: 'http://127.0.0.1:9', peers: [dmz] }}, \
         hidden: {{ connect: 'echo://', peers: [dmz2] }} }}\n",
        port.address()
    );
    let _gateway = folder.start("internal", &text);
    let mut link = port.accept().await;
    link.expect_offer_of(3, 300, &[("orders", BYTES), ("web", HTTP)]).await;
}

#[tokio::test]
async fn bytes_that_come_with_open_reach_the_backend_before_any_answer_is_read() {
    let (inside, backend) = with_backend().await;
    let mut link = inside.link().await;
    link.send(&[opens("s-1", "orders"), frame(DATA, b"first words")].concat()).await;
    let mut served = backend.accept().await;
    expect_bytes(&mut served, b"first words").await;
    link.expect_frame(OPENED, &[]).await;
}

#[tokio::test]
async fn a_session_opens_carries_and_ends_by_either_side_first() {
    let (inside, backend) = with_backend().await;
    let mut link = inside.link().await;
    for backend_first in [true, false, true] {
        link.send(&opens("s-1", "orders")).await;
        let mut served = backend.accept().await;
        link.expect_frame(OPENED, &[]).await;
        send(&mut served, b"welcome").await;
        link.expect_frame(DATA, b"welcome").await;
        link.send_frame(DATA, b"question").await;
        expect_bytes(&mut served, b"question").await;
        if backend_first {
            tokio::io::AsyncWriteExt::shutdown(&mut served).await.unwrap();
            link.expect_frame(END, &[]).await;
            link.send(&[frame(DATA, b"afterwards"), frame(END, &[])].concat()).await;
            expect_bytes(&mut served, b"afterwards").await;
            expect_end(&mut served).await;
        } else {
            link.send_frame(END, &[]).await;
            expect_end(&mut served).await;
            send(&mut served, b"afterwards").await;
            link.expect_frame(DATA, b"afterwards").await;
            drop(served);
            link.expect_frame(END, &[]).await;
        }
    }
    let ends = inside.gateway.until("three ended", |snapshot| snapshot.ended.len() == 3).await;
    assert!(ends.ended.iter().all(|row| row.end == "--"), "{:?}", ends.ended);
}

/// Everything received until this many sessions have ended: the frames of each, with its bytes
/// joined.
async fn receive_until_ended(link: &mut RawLink, count: usize) -> BTreeMap<u32, Vec<(u8, Vec<u8>)>> {
    let mut received = BTreeMap::<u32, Vec<(u8, Vec<u8>)>>::new();
    let mut over = 0;
    while over < count {
        let (kind, body) = link.next_other_than_ping().await;
        over += usize::from(matches!(kind, END | REFUSED | RESET));
        let frames = received.entry(link.last_session).or_default();
        match frames.last_mut() {
            Some((DATA, bytes)) if kind == DATA => bytes.extend(body),
            _ => frames.push((kind, body)),
        }
    }
    received
}

/// What comes of a session that echoes these words.
fn echoed(words: &str) -> Vec<(u8, Vec<u8>)> {
    vec![(OPENED, vec![]), (DATA, words.into()), (END, vec![])]
}

#[tokio::test]
async fn one_link_carries_many_sessions_of_one_write_each_for_itself() {
    let inside = ServerHalf::new(ECHO).await;
    let mut link = inside.link().await;
    let sent: Vec<u8> =
        (0..50).flat_map(|at| whole(&format!("s-{at}"), "echo", format!("words {at}").as_bytes())).collect();
    link.send(&sent).await;
    let received = receive_until_ended(&mut link, 50).await;
    let expected = (0..50).map(|at| (at + 1, echoed(&format!("words {at}"))));
    assert_eq!(received, expected.collect());
    let has_ended_all =
        |snapshot: &Snapshot| snapshot.totals.sessions == 50 && snapshot.totals.sessions_open == 0;
    let snapshot = inside.gateway.until("all ended", has_ended_all).await;
    assert_eq!(snapshot.totals.refused, 0);
    inside.until_pool("ready again", |row| row.ready >= 1 && row.carrying == 0).await;
}

#[tokio::test]
async fn the_next_open_may_come_with_the_end_that_the_backend_has_waited_for() {
    let (inside, backend) = with_backend().await;
    let mut link = inside.link().await;
    link.send(&opens("s-1", "orders")).await;
    for next in 2..5 {
        let mut served = backend.accept().await;
        link.expect_frame(OPENED, &[]).await;
        tokio::io::AsyncWriteExt::shutdown(&mut served).await.unwrap();
        link.expect_frame(END, &[]).await;
        link.send(&[frame(END, &[]), opens(&format!("s-{next}"), "orders")].concat()).await;
        expect_end(&mut served).await;
    }
}

#[tokio::test]
async fn frames_that_come_byte_by_byte_are_the_same() {
    let inside = ServerHalf::new(ECHO).await;
    let mut link = inside.link().await;
    for byte in link.numbered(&whole("s-1", "echo", b"abc")) {
        link.send(&[byte]).await;
    }
    link.expect_frame(OPENED, &[]).await;
    link.expect_data(3).await;
    link.expect_frame(END, &[]).await;
}

#[tokio::test]
async fn no_body_is_larger_than_a_turn_however_much_credit_there_is() {
    const MUCH: usize = 2 * 1024 * 1024;
    let (inside, backend) = with_backend().await;
    let mut link = inside.link().await;
    link.send(&opens("s-1", "orders")).await;
    let served = backend.accept().await;
    link.expect_frame(OPENED, &[]).await;
    link.send_frame(CREDIT, &frames::credit(MUCH as u32)).await;
    let saying = BackgroundSend::start(served, vec![7; MUCH]);
    let mut received = 0;
    while received < MUCH {
        let body = link.expect_kind(DATA).await;
        assert!((1..=DATA_MAX).contains(&body.len()), "{}", body.len());
        received += body.len();
    }
    drop(saying.done().await);
    link.expect_frame(END, &[]).await;
}

#[tokio::test]
async fn a_peer_that_gives_no_credit_stops_its_own_session_and_no_other() {
    let (inside, backend) = with_backend().await;
    let mut link = inside.link().await;
    link.gives_credit = false;
    link.send(&opens("s-1", "orders")).await;
    let served = backend.accept().await;
    link.expect_frame(OPENED, &[]).await;
    let stopped = link.session;
    let _saying = BackgroundSend::start(served, vec![7; 4 * WINDOW]);
    link.expect_data(WINDOW).await;
    // Others of the same link go on.
    for at in 2..10 {
        link.send(&whole(&format!("s-{at}"), "echo", b"words")).await;
        assert_eq!(receive_until_ended(&mut link, 1).await, [(stopped + at - 1, echoed("words"))].into());
    }
    // It gets them one by one, if that is all that it takes.
    for _ in 0..100 {
        link.send(&frame_of(stopped, CREDIT, &frames::credit(1))).await;
        link.expect_frame_of(stopped, DATA, &[7]).await;
    }
    link.expect_pong(b"no more?").await;
}

/// Refused with this reason; what its client had sent comes late, and the link lives on.
async fn check_refused(link: &mut RawLink, service: &str, reason: u8) {
    link.send(&[opens("s-1", service), frame(DATA, &[1; 40_000])].concat()).await;
    link.expect_frame(REFUSED, &[reason]).await;
    link.send(&[frame(DATA, b"late"), frame(END, &[])].concat()).await;
    link.expect_pong(b"after it").await;
}

#[tokio::test]
async fn a_refusal_has_its_reason_and_keeps_the_link() {
    let closed = Reserved::new();
    let services = format!("closed: {{ connect: 'tcp://{}' }}, {ECHO}", closed.at());
    let inside = ServerHalf::new(&services).await;
    let mut link = inside.link().await;
    check_refused(&mut link, "unknown", 1).await;
    check_refused(&mut link, "closed", 3).await;
    let mut link = GatewayEchoSession::on(link).await.ends().await;
    check_refused(&mut link, "closed", 3).await;
    inside.gateway.done(Command::Drain { service: Some("closed".into()) }).await;
    link.expect_kind(SERVICES).await;
    check_refused(&mut link, "closed", 7).await;
    GatewayEchoSession::on(link).await;
}

#[tokio::test]
async fn a_service_that_this_peer_may_not_use_is_refused() {
    let folder = TestFolder::with(&["dmz", "dmz2", "internal"]);
    let port = Port::new(&folder, "dmz", &[OURS]).await;
    let text = format!(
        "mode: reverse\ninternal:\n  link: {{ connect: '{}', prepared: 1, tls: {{ \
         certificate: pki/internal.pem, key: pki/internal.key, ca: pki/ca.pem, peers: [dmz, dmz2] }} }}\n  \
         services: {{ {ECHO}, hidden: {{ connect: 'echo://', peers: [dmz2] }} }}\n",
        port.address()
    );
    let gateway = folder.start("internal", &text);
    let mut link = port.accept().await;
    link.expect_kind(HELLO).await;
    link.send_frame(HELLO, &frames::grant(8, &["echo", "hidden"])).await;
    check_refused(&mut link, "hidden", 2).await;
    assert_eq!(gateway.until_ended("XA").await.reason, "dmz is not among the service's `peers`");
}

#[tokio::test]
async fn a_gateway_that_drains_asks_for_its_links_to_be_closed_and_opens_no_more() {
    let inside = ServerHalf::with(", prepared: 2, maximum: 8", ECHO).await;
    let (busy, mut idle) = (inside.link().await, inside.link().await);
    let mut busy = GatewayEchoSession::on(busy).await;
    inside.until_pool("both stand", |row| row.ready == 2).await;
    inside.gateway.done(Command::Drain { service: None }).await;
    idle.expect_frame(DRAIN, &[]).await;
    // It was on its way.
    idle.send(&opens("s-1", "echo")).await;
    idle.expect_frame(REFUSED, &[7]).await;
    busy.link().expect_frame(DRAIN, &[]).await;
    busy.serves().await;
    busy.ends().await;
}

#[tokio::test]
async fn a_reset_cuts_its_session_and_no_other_of_the_link() {
    let (inside, backend) = with_backend().await;
    let mut link = inside.link().await;
    for (cause, end) in [(1, "CR"), (2, "BR"), (3, "TR"), (4, "OR"), (5, "PR")] {
        // One that stays, opened before it.
        link.send(&opens("s-0", "echo")).await;
        link.expect_frame(OPENED, &[]).await;
        let stays = link.session;
        link.send(&[opens("s-1", "orders"), frame(DATA, b"half a me")].concat()).await;
        let mut served = backend.accept().await;
        expect_bytes(&mut served, b"half a me").await;
        link.expect_frame(OPENED, &[]).await;
        inside.gateway.until("both carry", |snapshot| snapshot.totals.sessions_open == 2).await;
        link.send_frame(RESET, &frames::reset(cause)).await;
        expect_reset(&mut served).await;
        inside.gateway.until_ended(end).await;
        let of = |kind, body: &[u8]| frame_of(stays, kind, body);
        link.send(&[of(DATA, b"as ever"), of(END, &[])].concat()).await;
        link.expect_frame_of(stays, DATA, b"as ever").await;
        link.expect_frame_of(stays, END, &[]).await;
        inside.gateway.until("both are over", |snapshot| snapshot.totals.sessions_open == 0).await;
    }
}

#[tokio::test]
async fn a_reset_for_a_session_that_never_was_costs_the_link_and_one_that_comes_late_nothing() {
    let (inside, backend) = with_backend().await;
    let mut link = GatewayEchoSession::on(inside.link().await).await.ends().await;
    link.send_frame(RESET, &frames::reset(1)).await;
    link.expect_pong(b"it lives").await;
    link.send(&opens("s-1", "orders")).await;
    let mut served = backend.accept().await;
    link.expect_frame(OPENED, &[]).await;
    link.send(&frame_of(link.session + 1, RESET, &frames::reset(1))).await;
    expect_reset(&mut served).await;
    link.over().await;
    inside.gateway.until_ended("PR").await;
    inside.gateway.until_notice("never opened").await;
}

#[tokio::test]
async fn a_link_that_is_cut_cuts_its_backend() {
    let (inside, backend) = with_backend().await;
    let mut link = inside.link().await;
    link.send(&opens("s-1", "orders")).await;
    let mut served = backend.accept().await;
    link.expect_frame(OPENED, &[]).await;
    link.cut();
    expect_reset(&mut served).await;
    inside.gateway.until_ended("PR").await;
}

#[tokio::test]
async fn a_cut_backend_is_reset_with_its_cause() {
    let (inside, backend) = with_backend().await;
    let mut link = inside.link().await;
    GatewayEchoSession::on(link).await.ends().await;
    link = inside.link().await;
    link.send(&opens("s-1", "orders")).await;
    let served = backend.accept().await;
    link.expect_frame(OPENED, &[]).await;
    crate::support::peers::cut(served);
    link.expect_frame(RESET, &frames::reset(2)).await;
    inside.gateway.until_ended("BR").await;
    link.expect_pong(b"it lives").await;
}

#[tokio::test]
async fn a_reset_names_its_session_among_those_of_the_link() {
    let (inside, backend) = with_backend().await;
    let mut link = inside.link().await;
    let mut served = Vec::new();
    for at in 1..4 {
        link.send(&opens(&format!("s-{at}"), "orders")).await;
        served.push(backend.accept().await);
        link.expect_frame(OPENED, &[]).await;
    }
    crate::support::peers::cut(served.remove(1));
    link.expect_frame_of(link.session - 1, RESET, &frames::reset(2)).await;
    let first = link.session - 2;
    for (at, served) in served.iter_mut().enumerate() {
        send(served, b"still here").await;
        link.expect_frame_of(first + 2 * at as u32, DATA, b"still here").await;
    }
}

#[tokio::test]
async fn the_session_shows_the_id_and_the_client_that_open_names() {
    let inside = ServerHalf::new(ECHO).await;
    let mut link = inside.link().await;
    let clients: [Option<SocketAddr>; 3] =
        [Some("192.0.2.7:258".parse().unwrap()), Some("[2001:db8::7]:50000".parse().unwrap()), None];
    for (client, shown) in clients.into_iter().zip(["192.0.2.7:258", "[2001:db8::7]:50000", "unknown"]) {
        link.send_frame(OPEN, &frames::open("a1b2-7f", client, "echo")).await;
        link.expect_frame(OPENED, &[]).await;
        let snapshot = inside.gateway.now().await;
        let [row] = snapshot.sessions.as_slice() else { panic!("{:?}", snapshot.sessions) };
        assert_eq!(
            (row.id.as_str(), row.client.as_str(), row.peer.as_deref()),
            ("a1b2-7f", shown, Some("dmz"))
        );
        link.send_frame(END, &[]).await;
        link.expect_frame(END, &[]).await;
        inside.gateway.until("ended", |snapshot| snapshot.sessions.is_empty()).await;
    }
    let snapshot = inside.gateway.now().await;
    assert!(snapshot.ended.iter().all(|row| row.id == "a1b2-7f"), "{:?}", snapshot.ended);
}

#[tokio::test]
async fn a_link_closed_by_its_opener_is_redialled() {
    let inside = ServerHalf::new(ECHO).await;
    for asks in [RETIRE, DRAIN] {
        let mut link = GatewayEchoSession::on(inside.link().await).await.ends().await;
        link.send_frame(asks, &[]).await;
        tokio::io::AsyncWriteExt::shutdown(&mut link.stream).await.unwrap();
        assert_eq!(link.over().await, (LinkOver::Cleanly, vec![]));
    }
    GatewayEchoSession::on(inside.link().await).await;
}

#[tokio::test]
async fn a_link_that_ends_cleanly_before_its_session_has_ended_is_a_cut() {
    let (inside, backend) = with_backend().await;
    let mut link = inside.link().await;
    link.send(&[opens("s-1", "orders"), frame(DATA, b"half a me")].concat()).await;
    let mut served = backend.accept().await;
    expect_bytes(&mut served, b"half a me").await;
    link.expect_frame(OPENED, &[]).await;
    tokio::io::AsyncWriteExt::shutdown(&mut link.stream).await.unwrap();
    expect_reset(&mut served).await;
    inside.gateway.until_ended("PR").await;
}

#[tokio::test]
async fn refused_sessions_and_served_ones_may_come_in_one_write() {
    let closed = Reserved::new();
    let inside = ServerHalf::new(&format!("closed: {{ connect: 'tcp://{}' }}, {ECHO}", closed.at())).await;
    let mut link = inside.link().await;
    let both = [whole("s-1", "closed", &[7; 3000]), whole("s-2", "echo", b"words")].concat();
    link.send(&both.repeat(20)).await;
    let expected = (1..=40).map(|number| match number % 2 {
        1 => (number, vec![(REFUSED, vec![3])]),
        _ => (number, echoed("words")),
    });
    assert_eq!(receive_until_ended(&mut link, 40).await, expected.collect());
}

#[tokio::test]
async fn two_sessions_of_one_id_are_two() {
    let inside = ServerHalf::with(", prepared: 2, maximum: 8", ECHO).await;
    let (one, other) = (inside.link().await, inside.link().await);
    // Both are `good-1`.
    let (one, mut other) = (GatewayEchoSession::on(one).await, GatewayEchoSession::on(other).await);
    inside.gateway.until("two rows", |snapshot| snapshot.sessions.len() == 2).await;
    one.ends().await;
    inside.gateway.until("one row", |snapshot| snapshot.sessions.len() == 1).await;
    other.serves().await;
}

#[tokio::test]
async fn an_operators_cut_is_reset_with_its_cause() {
    let (inside, backend) = with_backend().await;
    let mut link = inside.link().await;
    link.send(&opens("s-1", "orders")).await;
    let mut served = backend.accept().await;
    link.expect_frame(OPENED, &[]).await;
    inside.gateway.done(Command::Kill { session: "s-1".into() }).await;
    link.expect_frame(RESET, &frames::reset(4)).await;
    expect_reset(&mut served).await;
    inside.gateway.until_ended("OR").await;
}

#[tokio::test]
async fn a_gateway_that_once_took_no_links_is_dialled_again() {
    let inside = ServerHalf::new(ECHO).await;
    let mut link = inside.port.accept().await;
    link.expect_kind(HELLO).await;
    link.send_frame(HELLO, &frames::grant(0, &["echo"])).await;
    GatewayEchoSession::on(link).await.ends().await.cut();
    GatewayEchoSession::on(inside.link().await).await;
}

#[tokio::test]
async fn what_was_never_offered_is_not_granted() {
    let inside = ServerHalf::new(ECHO).await;
    let mut link = inside.port.accept().await;
    link.expect_kind(HELLO).await;
    let names: Vec<_> = (0..1000).map(|number| format!("ghost-{number}")).chain(["echo".into()]).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    link.send_frame(HELLO, &frames::grant(8, &names)).await;
    let row = inside.until_pool("it is up", |row| row.ready == 1).await;
    assert_eq!(row.serves, ["echo"]);
    // And one that grants nothing else grants nothing.
    let other = ServerHalf::new(ECHO).await;
    let mut link = other.port.accept().await;
    link.expect_kind(HELLO).await;
    link.send_frame(HELLO, &frames::grant(8, &["ghost"])).await;
    other.until_pool("it is useless", |row| row.failures > 0 && row.ready == 0).await;
}

#[tokio::test]
async fn an_id_that_two_peers_use_is_cut_by_its_peers_name() {
    let folder = TestFolder::with(&["internal", "dmz", "other"]);
    let ports = [Port::new(&folder, "dmz", &[OURS]).await, Port::new(&folder, "other", &[OURS]).await];
    let text = format!(
        "mode: reverse\ninternal:\n  link: {{ connect: ['{}', '{}'], prepared: 1, tls: {{ certificate: pki/internal.pem, \
         key: pki/internal.key, ca: pki/ca.pem, peers: [dmz, other] }} }}\n  services: {{ echo: {{ connect: 'echo://' }} }}\n",
        ports[0].address(),
        ports[1].address()
    );
    let gateway = folder.start("internal", &text);
    let mut links = Vec::new();
    for port in &ports {
        let mut link = port.accept().await;
        link.expect_kind(HELLO).await;
        link.send_frame(HELLO, &frames::grant(8, &["echo"])).await;
        // Each calls its session `good-1`.
        links.push(GatewayEchoSession::on(link).await);
    }
    let [mut of_dmz, of_other] =
        <[GatewayEchoSession; 2]>::try_from(links).unwrap_or_else(|_| unreachable!());
    let refused = gateway.refusal_of(Command::Kill { session: "good-1".into() }).await;
    assert_eq!(refused, "2 sessions are called good-1: dmz/good-1, other/good-1");
    gateway.done(Command::Kill { session: "other/good-1".into() }).await;
    of_other.expect_cut().await;
    of_dmz.serves().await;
    let refused = gateway.refusal_of(Command::Kill { session: "other/good-1".into() }).await;
    assert_eq!(refused, "no open session other/good-1");
    gateway.done(Command::Kill { session: "good-1".into() }).await;
    of_dmz.expect_cut().await;
}
