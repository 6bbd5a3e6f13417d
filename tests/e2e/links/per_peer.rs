//! What one DMZ gateway may have of a service inside, and what one internal gateway may have of links outside: by the
//! name in its certificate, however many of that name there are.

use portcullis::{
    profile::Mode,
    telemetry::snapshot::{EndedRow, Snapshot},
};
use tokio::net::TcpStream;

use super::halves::profile;
use crate::support::{
    frames::{self, END, HELLO, OPEN, OPENED, OURS, Port, REFUSED, RawLink, frame_of},
    gateway::{Gateway, TestFolder},
    mode_pair::{PATHS, Plan},
    peers::{dial_refused, expect_bytes, send},
};

/// An internal half between two DMZ gateways, which the test plays.
struct Between {
    gateway: Gateway,
    ports: [Port; 2],
}

impl Between {
    async fn new(limits: &str) -> Self {
        let folder = TestFolder::with(&["dmz", "dmz2", "internal"]);
        let ports = [Port::new(&folder, "dmz", &[OURS]).await, Port::new(&folder, "dmz2", &[OURS]).await];
        let services = format!("orders: {{ connect: 'echo://'{limits} }}");
        let text = profile(&ports[0].address(), ", prepared: 2", &services);
        let both = format!("connect: ['{}', '{}']", ports[0].address(), ports[1].address());
        let text = text
            .replace(&format!("connect: '{}'", ports[0].address()), &both)
            .replace("peers: [dmz]", "peers: [dmz, dmz2]");
        Self { gateway: folder.start("internal", &text), ports }
    }

    /// The next link to the first or second of them.
    async fn link(&self, at: usize) -> RawLink {
        let mut link = self.ports[at].accept().await;
        let offer = link.expect_kind(HELLO).await;
        link.send_frame(HELLO, &frames::grant_of(8, &offer)).await;
        link
    }

    async fn until_ended(&self, seen: impl Fn(&EndedRow) -> bool) {
        let is_there = |now: &Snapshot| now.ended.iter().any(&seen);
        self.gateway.until("it has ended so", is_there).await;
    }
}

/// Whether one more session is opened on a link.
async fn opens(link: &mut RawLink, id: &str) -> bool {
    link.send_frame(OPEN, &frames::open(id, None, "orders")).await;
    match link.next_other_than_ping().await {
        (OPENED, _) => true,
        (REFUSED, why) => {
            assert_eq!(why, [6], "it is full");
            false
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_session_limit_per_gateway_covers_all_its_links() {
    let between = Between::new(", sessions: 4, per_peer: { sessions: 2 }").await;
    let (mut one, mut other) = (between.link(0).await, between.link(0).await);
    assert!(opens(&mut one, "a-1").await && opens(&mut other, "a-2").await);
    let first = one.session;
    assert!(!opens(&mut one, "a-3").await && !opens(&mut other, "a-4").await);
    let is_limit =
        |row: &EndedRow| row.end == "LA" && row.reason == "`per_peer` allows dmz 2 sessions at once";
    between.until_ended(|row| row.id == "a-3" && is_limit(row)).await;
    let mut second = between.link(1).await;
    assert!(opens(&mut second, "b-1").await && opens(&mut second, "b-2").await);
    assert!(!opens(&mut second, "b-3").await, "it has two as well");
    // Its place is free with its session's end.
    one.send(&frame_of(first, END, &[])).await;
    one.expect_kind(END).await;
    between.until_ended(|row| row.id == "a-1" && row.end == "--").await;
    assert!(opens(&mut other, "a-5").await);
}

#[tokio::test]
async fn sessions_inside_are_those_of_all_gateways_together() {
    let between = Between::new(", sessions: 3").await;
    let (mut one, mut other) = (between.link(0).await, between.link(1).await);
    assert!(opens(&mut one, "a-1").await && opens(&mut one, "a-2").await && opens(&mut other, "b-1").await);
    assert!(!opens(&mut one, "a-3").await && !opens(&mut other, "b-2").await);
    let is_limit = |row: &EndedRow| row.end == "LA" && row.reason.contains("3 open sessions (`sessions`)");
    between.until_ended(|row| row.id == "b-2" && is_limit(row)).await;
    let seen = between.gateway.now().await;
    assert_eq!(seen.services[0].limit, Some(3));
}

#[tokio::test]
async fn new_sessions_of_a_gateway_are_bounded_over_time() {
    let between = Between::new(", per_peer: { rate: 1/h, burst: 3 }").await;
    let (mut one, mut other) = (between.link(0).await, between.link(1).await);
    for at in 0..3 {
        assert!(opens(&mut one, &format!("a-{at}")).await, "{at}");
    }
    assert!(!opens(&mut one, "a-late").await && opens(&mut other, "b-1").await);
    between
        .until_ended(|row| row.id == "a-late" && row.reason == "`per_peer` allows dmz 1/h new sessions")
        .await;
}

/// Limited inside, and refused where clients come in.
#[tokio::test]
async fn a_forbidden_session_is_reported_on_both_halves() {
    let backend = "{ address: 'echo://' }, per_peer: { sessions: 1 }";
    for (mode, is_plain) in PATHS.into_iter().filter(|(mode, _)| *mode != Mode::Direct) {
        let pair = Plan { is_plain, ..Plan::new(mode, backend) }.start().await;
        let mut held = pair.client().await;
        echoes(&mut held).await;
        // A parked SOCKS5 link is taken before it can refuse.
        dial_refused(pair.dmz.client_port("orders").await).await;
        pair.inner().until_ended("LA").await;
        if (mode, is_plain) != (Mode::Reverse, true) {
            let row = pair.dmz.until_ended("PC").await;
            assert!(row.peer.is_some() || row.reason.contains("internal") || is_plain, "{row:?}");
        }
        echoes(&mut held).await;
        drop(held);
        pair.inner().until("it is over", |seen| seen.totals.sessions_open == 0).await;
        echoes(&mut pair.client().await).await;
    }
}

async fn echoes(client: &mut TcpStream) {
    send(client, b"echo").await;
    expect_bytes(client, b"echo").await;
}

/// The links of a peer at a DMZ half, which says in its `hello` how many it takes.
#[tokio::test]
async fn an_internal_gateways_link_limit_covers_all_its_addresses() {
    let folder = TestFolder::with(&["dmz", "alpha", "beta"]);
    let tls = "{ certificate: pki/dmz.pem, key: pki/dmz.key, ca: pki/ca.pem, peers: [alpha, beta] }";
    let text = |links: usize| {
        format!(
            "mode: reverse\ndmz:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', per_peer: {{ links: {links} }}, \
             tls: {tls} }}\n  services: {{ orders: {{ accept: ['tcp://127.0.0.1:0'] }} }}\n"
        )
    };
    let gateway = folder.start("dmz", &text(2));
    let at = gateway.link_port().await;
    let dial = async |name: &str| {
        let mut link = RawLink::dial(&folder, name, at, "dmz", &[OURS]).await;
        link.send_frame(HELLO, &frames::offer(64, 64, &["orders"])).await;
        let hello = frames::fields(&link.expect_kind(HELLO).await);
        let links = hello.into_iter().find(|(tag, _)| *tag == 5).expect("links");
        (link, links.1)
    };
    let stand = |seen: &Snapshot, name: &str| {
        let of_peer = seen.pools.iter().filter(|row| row.peer.as_deref() == Some(name));
        of_peer.map(|row| row.ready + row.carrying).sum::<usize>()
    };
    let mut held = Vec::new();
    for _ in 0..2 {
        let (link, reported) = dial("alpha").await;
        assert_eq!(reported, [0, 2]);
        held.push(link);
    }
    gateway.until("two of alpha", |seen| stand(seen, "alpha") == 2).await;
    let (mut third, _) = dial("alpha").await;
    third.expect_frame(frames::RETIRE, &[]).await;
    gateway.until_notice("link from alpha refused: it has as many links as it may").await;
    held.push(dial("beta").await.0);
    gateway.until("one of beta", |seen| (stand(seen, "alpha"), stand(seen, "beta")) == (2, 1)).await;
    // A reload changes it, and cuts nothing.
    folder.profile("dmz", &text(3));
    gateway.done(portcullis::gateway::handle::Command::Reload).await;
    held.push(dial("alpha").await.0);
    gateway.until("three of alpha", |seen| stand(seen, "alpha") == 3).await;
}
