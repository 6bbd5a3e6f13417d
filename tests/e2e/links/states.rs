//! What an internal half offers may change at any time, as `services` tells it: a DMZ half refuses at once what no
//! internal half takes, and takes up what is new, over the links that are up.

use portcullis::{
    gateway::handle::Command,
    profile::Mode,
    telemetry::{
        health::Health,
        snapshot::{EndedRow, ServicePhase, ServiceRow, Snapshot},
    },
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::halves::OpenerHalf;
use crate::support::{
    frames::{
        self, CLOSED, DOWN, DRAINING, HELLO, LOCKED, OPEN, OPEN_STATE, OPENED, RawLink, SERVICES, frame,
    },
    gateway::{Gateway, TestFolder},
    mode_pair::{DMZ_TLS, INTERNAL_TLS, Plan, mode_word},
    peers::{Reserved, dial, dial_refused, expect_bytes, expect_reset, read_all, send},
};

async fn until_phase(gateway: &Gateway, wanted: ServicePhase) {
    let is_so =
        |snapshot: &Snapshot| snapshot.services.iter().any(|row| row.name == "orders" && row.phase == wanted);
    gateway.until(&format!("orders {wanted:?}"), is_so).await;
}

async fn until_open(gateway: &Gateway, service: &str) {
    let is_open = |row: &ServiceRow| row.name == service && row.phase == ServicePhase::Open;
    gateway.until("it is open", |seen| seen.services.iter().any(is_open)).await;
}

async fn announce_state(link: &mut RawLink, state: u8) {
    link.send_frame(SERVICES, &frames::services_in(&[("orders", state)])).await;
}

/// How it ends says that it has not waited.
async fn refused_at_once(outside: &OpenerHalf) -> EndedRow {
    let before = outside.gateway.now().await.totals.refused;
    dial_refused(outside.clients).await;
    let seen = outside.gateway.until("it is refused", |seen| seen.totals.refused > before).await;
    seen.ended.iter().min_by(|one, other| one.ago_seconds.total_cmp(&other.ago_seconds)).unwrap().clone()
}

/// A client whose session comes over this link.
async fn served(outside: &OpenerHalf, link: &mut RawLink) -> TcpStream {
    let client = outside.client().await;
    link.expect_kind(OPEN).await;
    link.send_frame(OPENED, &[]).await;
    client
}

#[tokio::test]
async fn a_service_that_takes_no_sessions_inside_is_refused_at_once() {
    let outside = OpenerHalf::new().await;
    let mut link = outside.ready("alpha", 1).await;
    let states = [
        (DOWN, "BC", "no backend is up"),
        (CLOSED, "XA", "it is outside of its hours"),
        (LOCKED, "PC", "it is locked"),
        (DRAINING, "OC", "it drains"),
    ];
    for (state, end, why) in states {
        announce_state(&mut link, state).await;
        let phase = match state {
            CLOSED => ServicePhase::Closed,
            DRAINING => ServicePhase::Draining,
            _ => ServicePhase::Down,
        };
        until_phase(&outside.gateway, phase).await;
        let is_known = |row: &ServiceRow| row.reason.as_ref().is_some_and(|reason| reason.contains(why));
        outside.gateway.until(why, |seen| seen.services.iter().any(is_known)).await;
        let row = refused_at_once(&outside).await;
        assert_eq!(row.end, end, "{row:?}");
        assert!(row.reason.contains("alpha") && row.reason.contains(why), "{row:?}");
        outside.gateway.until_notice(&format!("service `orders` takes no sessions: alpha: {why}")).await;
    }
    announce_state(&mut link, OPEN_STATE).await;
    until_phase(&outside.gateway, ServicePhase::Open).await;
    served(&outside, &mut link).await;
    outside.gateway.until_notice("takes sessions again").await;
}

#[tokio::test]
async fn clients_that_wait_are_refused_when_the_service_closes() {
    let outside = OpenerHalf::new().await;
    let mut link = outside.handshaken_link("alpha").await;
    link.send_frame(HELLO, &frames::offer_with(1, 1, 1, &[("orders", frames::BYTES)])).await;
    link.expect_granted(&["orders"]).await;
    outside.until_ready("alpha", 1).await;
    let mut first = outside.client().await;
    link.expect_kind(OPEN).await;
    link.send_frame(OPENED, &[]).await;
    let mut waits = outside.client().await;
    outside.gateway.until("it waits", |seen| seen.pools.iter().any(|row| row.waiting == 1)).await;
    announce_state(&mut link, DOWN).await;
    expect_reset(&mut waits).await;
    outside.gateway.until_ended("BC").await;
    // The open session is not affected.
    send(&mut first, b"still here").await;
    assert_eq!(link.expect_data(10).await, b"still here");
}

#[tokio::test]
async fn sessions_go_where_the_service_is_open() {
    let outside = OpenerHalf::new().await;
    let (mut alpha, mut beta) = (outside.ready("alpha", 1).await, outside.ready("beta", 1).await);
    announce_state(&mut alpha, DOWN).await;
    alpha.expect_pong(b"it heard").await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(served(&outside, &mut beta).await);
    }
    until_phase(&outside.gateway, ServicePhase::Open).await;
    announce_state(&mut alpha, OPEN_STATE).await;
    announce_state(&mut beta, CLOSED).await;
    beta.expect_pong(b"it heard").await;
    clients.push(served(&outside, &mut alpha).await);
}

/// Names that this half does not know, or that it allows another peer alone.
#[tokio::test]
async fn an_offer_adds_what_is_known_and_allowed_and_nothing_else() {
    let web =
        ", web: { accept: ['tcp://127.0.0.1:0'] }, private: { accept: ['tcp://127.0.0.1:0'], peers: [beta] }";
    let outside = OpenerHalf::with(web).await;
    let mut link = outside.ready("alpha", 1).await;
    link.send_frame(SERVICES, &frames::services(&["web", "private", "strange"])).await;
    let serves = |seen: &Snapshot, wanted: &[&str]| seen.pools.iter().any(|row| row.serves == wanted);
    outside.gateway.until("web alone", |seen| serves(seen, &["web"])).await;
    let _client = dial(outside.gateway.client_port("web").await).await;
    let open = link.expect_kind(OPEN).await;
    assert!(frames::fields(&open).contains(&(1, b"web".to_vec())), "{open:?}");
    link.send_frame(OPENED, &[]).await;
    for service in ["orders", "private"] {
        let _waits = dial(outside.gateway.client_port(service).await).await;
        let waits = |seen: &Snapshot| seen.pools.iter().map(|row| row.waiting).sum::<usize>() == 1;
        outside.gateway.until(service, waits).await;
        link.expect_pong(b"nothing?").await;
    }
    let _waits = outside.client().await;
    // Whoever waits is served when it is offered again.
    link.send_frame(SERVICES, &frames::services(&["web", "orders"])).await;
    let open = link.expect_kind(OPEN).await;
    assert!(frames::fields(&open).contains(&(1, b"orders".to_vec())), "{open:?}");
}

#[tokio::test]
async fn an_http_client_gets_503_at_once_while_the_service_is_down() {
    for mode in [Mode::Forward, Mode::Reverse] {
        let reserved = Reserved::new();
        let backend = format!(
            "{{ address: 'http://{}' }}, check: {{ every: 50ms, timeout: 500ms, falls: 1, rises: 1 }}",
            reserved.at()
        );
        // A map is written as it stands, and more keys may follow it.
        let plan = Plan { accept: "http://127.0.0.1:0", ..Plan::new(mode, &backend) };
        let pair = plan.start().await;
        until_phase(&pair.dmz, ServicePhase::Down).await;
        let reported = response_of(&mut pair.client().await).await;
        assert!(reported.starts_with("HTTP/1.1 503 "), "{mode:?}: {reported}");
        let row = pair.dmz.until_ended("BC").await;
        assert!(row.reason.contains("no backend is up"), "{row:?}");
        assert_eq!(pair.inner().now().await.totals.sessions, 0, "nothing was asked inside");
    }
}

async fn response_of(client: &mut TcpStream) -> String {
    send(client, b"GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n").await;
    String::from_utf8(read_all(client).await).unwrap()
}

/// The links of a DMZ half, by their numbers.
fn link_ids(snapshot: &Snapshot) -> Vec<u64> {
    let mut ids: Vec<_> =
        snapshot.pools.iter().flat_map(|row| row.links.iter().map(|link| link.id)).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn a_reload_inside_adds_and_removes_services_over_the_links_that_stand() {
    for mode in [Mode::Forward, Mode::Reverse] {
        let folder = TestFolder::new();
        let profile = |half: &str, link: &str, tls: &str, services: &str| {
            let mode = mode_word(mode);
            format!("mode: {mode}\n{half}:\n  link: {{ {link}, tls: {tls} }}\n  services: {services}\n")
        };
        let accepts = "{ orders: { accept: ['tcp://127.0.0.1:0'] }, web: { accept: ['tcp://127.0.0.1:0'] } }";
        let (one, both) = (
            "{ orders: { connect: 'echo://' } }",
            "{ orders: { connect: 'echo://' }, web: { connect: 'echo://' } }",
        );
        let listen = "listen: 'socks+tls://127.0.0.1:0'";
        let (dmz, internal, link) = match mode {
            Mode::Forward => {
                let internal = folder.start("internal", &profile("internal", listen, INTERNAL_TLS, one));
                let link = format!("prepared: 2, connect: 'socks+tls://{}'", internal.link_port().await);
                (folder.start("dmz", &profile("dmz", &link, DMZ_TLS, accepts)), internal, listen.to_owned())
            }
            _ => {
                let dmz = folder.start("dmz", &profile("dmz", listen, DMZ_TLS, accepts));
                let link = format!("prepared: 2, connect: 'socks+tls://{}'", dmz.link_port().await);
                let internal = folder.start("internal", &profile("internal", &link, INTERNAL_TLS, one));
                (dmz, internal, link)
            }
        };
        let seen = dmz.until("two links", |seen| link_ids(seen).len() == 2).await;
        let links = link_ids(&seen);
        let mut session = dial(dmz.client_port("orders").await).await;
        echoes(&mut session).await;
        let reload = async |services: &str| {
            folder.profile("internal", &profile("internal", &link, INTERNAL_TLS, services));
            internal.done(Command::Reload).await;
        };
        reload(both).await;
        let is_served = |seen: &Snapshot, wanted: &[&str]| seen.pools.iter().any(|row| row.serves == wanted);
        dmz.until("web is served", |seen| is_served(seen, &["orders", "web"])).await;
        echoes(&mut dial(dmz.client_port("web").await).await).await;
        internal.done(Command::Drain { service: Some("web".into()) }).await;
        let is_drained = |row: &ServiceRow| {
            row.name == "web" && row.phase == ServicePhase::Draining && row.health == Some(Health::Down)
        };
        let drains = dmz.until("web drains inside", |seen| seen.services.iter().any(is_drained)).await;
        assert!(
            drains
                .alerts
                .iter()
                .any(|alert| alert.text.starts_with("web: ") && alert.text.ends_with("it drains"))
        );
        echoes(&mut session).await;
        internal.done(Command::Reload).await;
        until_open(&dmz, "web").await;
        echoes(&mut dial(dmz.client_port("web").await).await).await;
        reload(one).await;
        dmz.until("web is gone", |seen| is_served(seen, &["orders"])).await;
        echoes(&mut session).await;
        assert_eq!(link_ids(&*dmz.now().await), links, "{mode:?}");
    }
}

async fn echoes(client: &mut TcpStream) {
    client.write_all(b"echo").await.unwrap();
    expect_bytes(client, b"echo").await;
}

/// A peer that says another thing all the time, as often as it may, holds nobody up and is not reported each time.
#[tokio::test]
async fn a_service_that_comes_and_goes_all_the_time_costs_no_more_than_its_link() {
    let (outside, mut good) = OpenerHalf::beside_another().await;
    let mut link = outside.ready("alpha", 1).await;
    let pair =
        [DOWN, OPEN_STATE].map(|state| frame(SERVICES, &frames::services_in(&[("orders", state)]))).concat();
    let _ = link.try_send(&pair.repeat(1_000)).await;
    link.over().await;
    outside.until_ready("alpha", 0).await;
    good.serves().await;
    outside.gateway.until_notice("too many offers").await;
}
