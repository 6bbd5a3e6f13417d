//! The terms agreed in a handshake are valid until certificates, services or peers change, even
//! during the handshake. The server's offer may change on established links.

use portcullis::{
    gateway::handle::Command,
    telemetry::snapshot::{PoolRow, Snapshot},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::halves::{OpenerHalf, ServerHalf, profile};
use crate::support::{
    frames::{
        self, HELLO, LinkOver, OPEN, OPENED, OURS, Port, REFUSED, RETIRE, RawLink, SERVICES, SOCKS, frame,
    },
    gateway::{Gateway, PATIENCE, TestFolder},
    mode_pair::{DMZ_TLS, INTERNAL_TLS},
    peers::{dial, expect_bytes, expect_end, send},
    socks::{BIND, SOCKS_METHOD, SOCKS_OFFER, reply, request},
};

const ECHO: &str = "echo: { connect: 'echo://' }";
const BOTH: &str = "echo: { connect: 'echo://' }, web: { connect: 'echo://' }";

/// Reloads the profile without what `text` names.
async fn reload_without(folder: &TestFolder, gateway: &Gateway, name: &str, text: &str) {
    let file = folder.path(&format!("{name}.yaml"));
    let before = std::fs::read_to_string(&file).unwrap();
    assert!(before.contains(text), "{before}");
    folder.profile(name, &before.replace(text, ""));
    gateway.done(Command::Reload).await;
}

/// Reloads the profile with another authority and other certificates of these names.
async fn reload_with_fresh(folder: &TestFolder, gateway: &Gateway, names: &[&str]) {
    let fresh = TestFolder::with(names);
    let of_names = names.iter().flat_map(|name| [format!("{name}.pem"), format!("{name}.key")]);
    for file in of_names.chain(["ca.pem".into()]) {
        std::fs::copy(fresh.pki(&file), folder.pki(&file)).unwrap();
    }
    gateway.done(Command::Reload).await;
}

const WEB: &str = ", web: { accept: ['tcp://127.0.0.1:0'] }";

#[tokio::test]
async fn an_opener_drops_a_link_whose_handshake_crossed_a_reload() {
    let outside = OpenerHalf::with(WEB).await;
    let mut link = outside.handshaken_link("alpha").await;
    reload_without(&outside.folder, &outside.gateway, "dmz", WEB).await;
    link.send_frame(HELLO, &frames::offer(1, 8, &["orders", "web"])).await;
    link.expect_granted(&["orders"]).await;
    assert_eq!(link.over().await, (LinkOver::Cleanly, vec![(RETIRE, vec![])]));
    outside.ready("alpha", 1).await;
}

#[tokio::test]
async fn a_link_whose_handshake_crossed_a_certificate_change_is_dropped() {
    let outside = OpenerHalf::new().await;
    let mut link = outside.handshaken_link("alpha").await;
    reload_with_fresh(&outside.folder, &outside.gateway, &["dmz", "alpha"]).await;
    link.send_frame(HELLO, &frames::offer(1, 8, &["orders"])).await;
    link.expect_kind(HELLO).await;
    assert_eq!(link.over().await, (LinkOver::Cleanly, vec![(RETIRE, vec![])]));
    outside.ready("alpha", 1).await;
}

#[tokio::test]
async fn a_link_that_shakes_hands_under_a_change_of_certificates_is_not_kept_by_the_half_that_opens() {
    let outside = OpenerHalf::new().await;
    let (folder, at) = (&outside.folder, outside.gateway.link_port().await);
    let (before, stream) = (RawLink::tls_connector(folder, "alpha", &[OURS]), dial(at).await);
    // Which has come after it, and so its handshake is waited for.
    let _other = outside.ready("beta", 1).await;
    reload_with_fresh(folder, &outside.gateway, &["dmz"]).await;
    let mut link = RawLink::handshake(before, "dmz", stream).await;
    link.send_frame(HELLO, &frames::offer(1, 8, &["orders"])).await;
    link.expect_kind(HELLO).await;
    assert_eq!(link.over().await, (LinkOver::Cleanly, vec![(RETIRE, vec![])]));
}

#[tokio::test]
async fn a_link_that_shakes_hands_under_a_change_of_certificates_is_not_kept_by_the_half_that_serves() {
    let (folder, port, gateway) = with_both().await;
    let stream = port.dialled().await;
    reload_with_fresh(&folder, &gateway, &["internal"]).await;
    let mut link = port.handshake(stream).await.unwrap();
    link.expect_kind(HELLO).await;
    link.send_frame(HELLO, &frames::grant(8, &["echo", "web"])).await;
    link.expect_frame(RETIRE, &[]).await;
}

#[tokio::test]
async fn a_link_that_is_dialled_under_a_reload_is_not_kept_by_the_half_that_opens() {
    let folder = TestFolder::new();
    let port = Port::new(&folder, "internal", &[OURS]).await;
    let text = format!(
        "mode: forward\ndmz:\n  link: {{ connect: '{}', tls: {DMZ_TLS}, prepared: 1 }}\n  \
         services: {{ orders: {{ accept: ['tcp://127.0.0.1:0'] }}{WEB} }}\n",
        port.address()
    );
    let gateway = folder.start("dmz", &text);
    let mut link = port.accept().await;
    reload_without(&folder, &gateway, "dmz", WEB).await;
    link.send_frame(HELLO, &frames::offer(0, 4, &["orders", "web"])).await;
    link.expect_granted(&["orders"]).await;
    assert_eq!(link.over().await, (LinkOver::Cleanly, vec![(RETIRE, vec![])]));
    let mut next = port.accept().await;
    next.send_frame(HELLO, &frames::offer(0, 4, &["orders"])).await;
    next.expect_kind(HELLO).await;
    gateway.until_pool("one ready", |row| row.ready == 1).await;
}

/// A half that serves `echo` and `web`, at a gateway that the test plays.
async fn with_both() -> (TestFolder, Port, Gateway) {
    let folder = TestFolder::new();
    let port = Port::new(&folder, "dmz", &[OURS]).await;
    let gateway = folder.start("internal", &profile(&port.address(), ", prepared: 1, maximum: 8", BOTH));
    (folder, port, gateway)
}

/// It gets the new offer, and continues; what was offered before is not available over it.
async fn check_learns_of_it(mut link: RawLink) {
    link.expect_frame(SERVICES, &frames::services(&["echo"])).await;
    link.send_frame(OPEN, &frames::open("s-1", None, "web")).await;
    link.expect_frame(REFUSED, &[1]).await;
    link.send_frame(OPEN, &frames::open("s-2", None, "echo")).await;
    link.expect_frame(OPENED, &[]).await;
}

#[tokio::test]
async fn a_link_in_its_handshake_during_a_reload_gets_the_new_offer() {
    let (folder, port, gateway) = with_both().await;
    let mut link = port.accept().await;
    link.expect_offer(1, 8, &["echo", "web"]).await;
    reload_without(&folder, &gateway, "internal", ", web: { connect: 'echo://' }").await;
    link.send_frame(HELLO, &frames::grant(8, &["echo", "web"])).await;
    check_learns_of_it(link).await;
}

#[tokio::test]
async fn an_established_link_gets_the_new_offer_after_a_reload() {
    let (folder, port, gateway) = with_both().await;
    let mut link = port.accept().await;
    link.expect_offer(1, 8, &["echo", "web"]).await;
    link.send_frame(HELLO, &frames::grant(8, &["echo", "web"])).await;
    gateway.until_pool("one ready", |row| row.ready == 1).await;
    reload_without(&folder, &gateway, "internal", ", web: { connect: 'echo://' }").await;
    check_learns_of_it(link).await;
}

#[tokio::test]
async fn a_link_accepted_during_a_reload_gets_the_new_offer() {
    let folder = TestFolder::new();
    let text = format!(
        "mode: forward\ninternal:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', tls: {INTERNAL_TLS} }}\n  \
         services: {{ {BOTH} }}\n"
    );
    let gateway = folder.start("internal", &text);
    let mut link = RawLink::dial(&folder, "dmz", gateway.link_port().await, "internal", &[OURS]).await;
    link.expect_kind(HELLO).await;
    reload_without(&folder, &gateway, "internal", ", web: { connect: 'echo://' }").await;
    link.send_frame(HELLO, &frames::grant(8, &["echo", "web"])).await;
    check_learns_of_it(link).await;
}

/// Parks for the service that BIND names, `echo` or `web`; none where the link ends without a word.
async fn parked(link: &mut RawLink) -> Option<&'static str> {
    if link.stream.read(&mut [0; SOCKS_OFFER.len()]).await.unwrap_or(0) == 0 {
        return None;
    }
    send(&mut link.stream, &SOCKS_METHOD).await;
    let mut head = [0; 5];
    link.stream.read_exact(&mut head).await.unwrap();
    let service = if head[4] == 4 { "echo" } else { "web" };
    expect_bytes(&mut link.stream, &request(BIND, service.as_bytes())[5..]).await;
    send(&mut link.stream, &reply(0)).await;
    Some(service)
}

#[tokio::test]
async fn a_socks_link_under_way_for_a_service_that_goes_is_not_parked() {
    for drains in [true, false] {
        let folder = TestFolder::new();
        let port = Port::new(&folder, "dmz", &[SOCKS]).await;
        let gateway = folder.start("internal", &profile(&port.address(), ", prepared: 1", BOTH));
        let (mut echo, mut web) = (Vec::new(), None);
        while echo.is_empty() || web.is_none() {
            let mut link = port.accept().await;
            match parked(&mut link).await.expect("both are offered") {
                "echo" => echo.push(link),
                _ => web = Some(link),
            }
        }
        let of_web = |row: &&PoolRow| row.service == "web";
        gateway.until("web ready", |seen| seen.pools.iter().any(|row| of_web(&row) && row.ready == 1)).await;
        web.unwrap().cut();
        // Its TLS waits for us.
        let dials = |seen: &Snapshot| seen.pools.iter().any(|row| of_web(&row) && row.dialling == 1);
        gateway.until("web dialled again", dials).await;
        match drains {
            true => drop(gateway.done(Command::Drain { service: Some("web".into()) }).await),
            false => reload_without(&folder, &gateway, "internal", ", web: { connect: 'echo://' }").await,
        }
        // Dropped, which may come before the end of its handshake is read.
        while let Ok(mut link) = port.try_accept().await {
            match parked(&mut link).await {
                None => break,
                // The first of all looked what is spoken here.
                Some("echo") => echo.push(link),
                Some(_) => panic!("it asks for what has gone"),
            }
        }
        let seen = gateway.now().await;
        assert!(seen.pools.iter().all(|row| row.service == "echo"), "{:?}", seen.pools);
    }
}

#[tokio::test]
async fn a_peer_that_offers_different_services_over_its_links_gets_each_over_its_own() {
    let outside = OpenerHalf::with(WEB).await;
    let mut links = Vec::new();
    for service in ["orders", "web"] {
        let mut link = outside.handshaken_link("alpha").await;
        link.send_frame(HELLO, &frames::offer(1, 8, &[service])).await;
        link.expect_granted(&[service]).await;
        links.push((service, link));
    }
    outside.until_ready("alpha", 2).await;
    // The newest is ready for `web`; and then the other way round.
    for _ in 0..2 {
        for (service, link) in &mut links {
            let mut client = dial(outside.gateway.client_port(service).await).await;
            let open = link.expect_kind(OPEN).await;
            assert!(frames::fields(&open).contains(&(1, service.as_bytes().to_vec())), "{service}: {open:?}");
            link.send(&[frame(OPENED, &[]), frame(frames::END, &[])].concat()).await;
            expect_end(&mut client).await;
            client.shutdown().await.unwrap();
            link.expect_frame(frames::END, &[]).await;
        }
        outside.until_ready("alpha", 2).await;
        links.reverse();
    }
}

#[tokio::test]
async fn a_service_that_none_of_a_peers_links_is_ready_for_waits() {
    let outside = OpenerHalf::with(WEB).await;
    let mut orders = outside.ready("alpha", 1).await;
    let client = dial(outside.gateway.client_port("web").await).await;
    outside.gateway.until("it waits", |seen| seen.pools.iter().any(|row| row.waiting == 1)).await;
    orders.expect_pong(b"nothing?").await;
    let mut web = outside.handshaken_link("alpha").await;
    web.send_frame(HELLO, &frames::offer(1, 8, &["web"])).await;
    web.expect_kind(HELLO).await;
    web.expect_kind(OPEN).await;
    drop(client);
}

#[tokio::test]
async fn a_reload_that_changes_nothing_keeps_the_links() {
    let inside = ServerHalf::new(ECHO).await;
    let mut link = inside.link().await;
    inside.until_pool("one ready", |row| row.ready == 1).await;
    inside.gateway.done(Command::Reload).await;
    link.expect_pong(b"nothing?").await;
}

/// As it would with a stolen certificate: it takes no notice of RETIRE.
#[tokio::test]
async fn a_gateway_that_is_taken_out_of_peers_opens_no_more_however_long_it_stays() {
    let (folder, port, gateway) = with_both().await;
    let mut link = port.accept().await;
    link.expect_offer(1, 8, &["echo", "web"]).await;
    link.send_frame(HELLO, &frames::grant(8, &["echo", "web"])).await;
    gateway.until_pool("one ready", |row| row.ready == 1).await;
    let file = folder.path("internal.yaml");
    let before = std::fs::read_to_string(&file).unwrap();
    folder.profile("internal", &before.replace("peers: [dmz]", "peers: [other]"));
    gateway.done(Command::Reload).await;
    link.expect_frame(RETIRE, &[]).await;
    let refused = async {
        for number in 0.. {
            link.send_frame(OPEN, &frames::open(&format!("s-{number}"), None, "echo")).await;
            match link.next_other_than_ping().await {
                // It may have crossed the request to leave.
                (OPENED, _) => link.send_frame(frames::RESET, &frames::reset(1)).await,
                (REFUSED, why) => return why,
                other => panic!("{other:?}"),
            }
        }
        unreachable!("it opens until it is refused")
    };
    let why = tokio::time::timeout(PATIENCE, refused).await.expect("it is refused in time");
    assert_eq!(why, [9], "it is sent to another link, and gets none");
    let seen = gateway.now().await;
    assert!(seen.pools.iter().all(|row| row.ready == 0), "{:?}", seen.pools);
}
