//! What was agreed in a greeting holds until certificates, services or peers change, however far
//! the greeting had come by then. What the half that serves offers may change on links that stand.

use portcullis::{
    gateway::handle::Command,
    telemetry::snapshot::{PoolRow, Snapshot},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::halves::{Inside, Outside, profile};
use crate::support::{
    frames::{self, HELLO, OPEN, OPENED, OURS, Over, Port, REFUSED, RETIRE, SERVICES, SOCKS, Wire, frame},
    gateway::{Gateway, Place},
    peers::{dial, hear, hear_end, say},
    socks::{BIND, GREETED, GREETING, reply, request},
    ways::{DMZ_TLS, INTERNAL_TLS},
};

const ECHO: &str = "echo: { connect: 'echo://' }";
const BOTH: &str = "echo: { connect: 'echo://' }, web: { connect: 'echo://' }";

/// The same profile without what `text` names, which is in force then.
async fn reload_without(place: &Place, gateway: &Gateway, name: &str, text: &str) {
    let file = place.path(&format!("{name}.yaml"));
    let before = std::fs::read_to_string(&file).unwrap();
    assert!(before.contains(text), "{before}");
    place.profile(name, &before.replace(text, ""));
    gateway.done(Command::Reload).await;
}

/// The same profile with another authority and other certificates of these names.
async fn reload_with_fresh(place: &Place, gateway: &Gateway, names: &[&str]) {
    let fresh = Place::with(names);
    let of_names = names.iter().flat_map(|name| [format!("{name}.pem"), format!("{name}.key")]);
    for file in of_names.chain(["ca.pem".into()]) {
        std::fs::copy(fresh.pki(&file), place.pki(&file)).unwrap();
    }
    gateway.done(Command::Reload).await;
}

const WEB: &str = ", web: { accept: ['tcp://127.0.0.1:0'] }";

#[tokio::test]
async fn a_link_that_is_greeted_under_a_reload_is_not_kept_by_the_half_that_opens() {
    let outside = Outside::with(WEB).await;
    let mut link = outside.shaken("alpha").await;
    reload_without(&outside.place, &outside.gateway, "dmz", WEB).await;
    link.say_frame(HELLO, &frames::offer(1, 8, &["orders", "web"])).await;
    link.hear_granted(&["orders"]).await;
    assert_eq!(link.over().await, (Over::Cleanly, vec![(RETIRE, vec![])]));
    outside.ready("alpha", 1).await;
}

#[tokio::test]
async fn a_link_that_is_greeted_under_a_change_of_certificates_is_not_kept() {
    let outside = Outside::new().await;
    let mut link = outside.shaken("alpha").await;
    reload_with_fresh(&outside.place, &outside.gateway, &["dmz", "alpha"]).await;
    link.say_frame(HELLO, &frames::offer(1, 8, &["orders"])).await;
    link.hear_kind(HELLO).await;
    assert_eq!(link.over().await, (Over::Cleanly, vec![(RETIRE, vec![])]));
    outside.ready("alpha", 1).await;
}

#[tokio::test]
async fn a_link_that_shakes_hands_under_a_change_of_certificates_is_not_kept_by_the_half_that_opens() {
    let outside = Outside::new().await;
    let (place, at) = (&outside.place, outside.gateway.link_port().await);
    let (before, stream) = (Wire::ready_to_shake(place, "alpha", &[OURS]), dial(at).await);
    // Which has come after it, and so its handshake is waited for.
    let _other = outside.ready("beta", 1).await;
    reload_with_fresh(place, &outside.gateway, &["dmz"]).await;
    let mut link = Wire::shake(before, "dmz", stream).await;
    link.say_frame(HELLO, &frames::offer(1, 8, &["orders"])).await;
    link.hear_kind(HELLO).await;
    assert_eq!(link.over().await, (Over::Cleanly, vec![(RETIRE, vec![])]));
}

#[tokio::test]
async fn a_link_that_shakes_hands_under_a_change_of_certificates_is_not_kept_by_the_half_that_serves() {
    let (place, port, gateway) = with_both().await;
    let stream = port.dialled().await;
    reload_with_fresh(&place, &gateway, &["internal"]).await;
    let mut link = port.shake(stream).await.unwrap();
    link.hear_kind(HELLO).await;
    link.say_frame(HELLO, &frames::grant(8, &["echo", "web"])).await;
    link.hear(RETIRE, &[]).await;
}

#[tokio::test]
async fn a_link_that_is_dialled_under_a_reload_is_not_kept_by_the_half_that_opens() {
    let place = Place::new();
    let port = Port::new(&place, "internal", &[OURS]).await;
    let text = format!(
        "mode: forward\ndmz:\n  link: {{ connect: '{}', tls: {DMZ_TLS}, prepared: 1 }}\n  \
         services: {{ orders: {{ accept: ['tcp://127.0.0.1:0'] }}{WEB} }}\n",
        port.address()
    );
    let gateway = place.start("dmz", &text);
    let mut link = port.accept().await;
    reload_without(&place, &gateway, "dmz", WEB).await;
    link.say_frame(HELLO, &frames::offer(0, 4, &["orders", "web"])).await;
    link.hear_granted(&["orders"]).await;
    assert_eq!(link.over().await, (Over::Cleanly, vec![(RETIRE, vec![])]));
    let mut next = port.accept().await;
    next.say_frame(HELLO, &frames::offer(0, 4, &["orders"])).await;
    next.hear_kind(HELLO).await;
    gateway.until_pool("one ready", |row| row.ready == 1).await;
}

/// A half that serves `echo` and `web`, at a gateway that the test plays.
async fn with_both() -> (Place, Port, Gateway) {
    let place = Place::new();
    let port = Port::new(&place, "dmz", &[OURS]).await;
    let gateway = place.start("internal", &profile(&port.address(), ", prepared: 1, maximum: 8", BOTH));
    (place, port, gateway)
}

/// It hears what is offered now, and goes on; what was offered before is not to be had over it.
async fn check_hears_of_it(mut link: Wire) {
    link.hear(SERVICES, &frames::services(&["echo"])).await;
    link.say_frame(OPEN, &frames::open("s-1", None, "web")).await;
    link.hear(REFUSED, &[1]).await;
    link.say_frame(OPEN, &frames::open("s-2", None, "echo")).await;
    link.hear(OPENED, &[]).await;
}

#[tokio::test]
async fn a_link_that_is_greeted_under_a_reload_hears_what_is_served_now() {
    let (place, port, gateway) = with_both().await;
    let mut link = port.accept().await;
    link.hear_offer(1, 8, &["echo", "web"]).await;
    reload_without(&place, &gateway, "internal", ", web: { connect: 'echo://' }").await;
    link.say_frame(HELLO, &frames::grant(8, &["echo", "web"])).await;
    check_hears_of_it(link).await;
}

#[tokio::test]
async fn a_link_that_stands_under_a_reload_hears_what_is_served_now() {
    let (place, port, gateway) = with_both().await;
    let mut link = port.accept().await;
    link.hear_offer(1, 8, &["echo", "web"]).await;
    link.say_frame(HELLO, &frames::grant(8, &["echo", "web"])).await;
    gateway.until_pool("one ready", |row| row.ready == 1).await;
    reload_without(&place, &gateway, "internal", ", web: { connect: 'echo://' }").await;
    check_hears_of_it(link).await;
}

#[tokio::test]
async fn a_link_that_comes_in_under_a_reload_hears_what_is_served_now() {
    let place = Place::new();
    let text = format!(
        "mode: forward\ninternal:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', tls: {INTERNAL_TLS} }}\n  \
         services: {{ {BOTH} }}\n"
    );
    let gateway = place.start("internal", &text);
    let mut link = Wire::dial(&place, "dmz", gateway.link_port().await, "internal", &[OURS]).await;
    link.hear_kind(HELLO).await;
    reload_without(&place, &gateway, "internal", ", web: { connect: 'echo://' }").await;
    link.say_frame(HELLO, &frames::grant(8, &["echo", "web"])).await;
    check_hears_of_it(link).await;
}

/// Parks for the service that BIND names, `echo` or `web`; none where the link ends without a word.
async fn parked(link: &mut Wire) -> Option<&'static str> {
    if link.stream.read(&mut [0; GREETING.len()]).await.unwrap_or(0) == 0 {
        return None;
    }
    say(&mut link.stream, &GREETED).await;
    let mut head = [0; 5];
    link.stream.read_exact(&mut head).await.unwrap();
    let service = if head[4] == 4 { "echo" } else { "web" };
    hear(&mut link.stream, &request(BIND, service.as_bytes())[5..]).await;
    say(&mut link.stream, &reply(0)).await;
    Some(service)
}

#[tokio::test]
async fn a_socks_link_under_way_for_a_service_that_goes_is_not_parked() {
    for drains in [true, false] {
        let place = Place::new();
        let port = Port::new(&place, "dmz", &[SOCKS]).await;
        let gateway = place.start("internal", &profile(&port.address(), ", prepared: 1", BOTH));
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
        gateway.until("web dialled anew", dials).await;
        match drains {
            true => drop(gateway.done(Command::Drain { service: Some("web".into()) }).await),
            false => reload_without(&place, &gateway, "internal", ", web: { connect: 'echo://' }").await,
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
    let outside = Outside::with(WEB).await;
    let mut links = Vec::new();
    for service in ["orders", "web"] {
        let mut link = outside.shaken("alpha").await;
        link.say_frame(HELLO, &frames::offer(1, 8, &[service])).await;
        link.hear_granted(&[service]).await;
        links.push((service, link));
    }
    outside.until_ready("alpha", 2).await;
    // The newest is ready for `web`; and then the other way round.
    for _ in 0..2 {
        for (service, link) in &mut links {
            let mut client = dial(outside.gateway.client_port(service).await).await;
            let open = link.hear_kind(OPEN).await;
            assert!(frames::fields(&open).contains(&(1, service.as_bytes().to_vec())), "{service}: {open:?}");
            link.say(&[frame(OPENED, &[]), frame(frames::END, &[])].concat()).await;
            hear_end(&mut client).await;
            client.shutdown().await.unwrap();
            link.hear(frames::END, &[]).await;
        }
        outside.until_ready("alpha", 2).await;
        links.reverse();
    }
}

#[tokio::test]
async fn a_service_that_none_of_a_peers_links_is_ready_for_waits() {
    let outside = Outside::with(WEB).await;
    let mut orders = outside.ready("alpha", 1).await;
    let client = dial(outside.gateway.client_port("web").await).await;
    outside.gateway.until("it waits", |seen| seen.pools.iter().any(|row| row.waiting == 1)).await;
    orders.pongs(b"nothing?").await;
    let mut web = outside.shaken("alpha").await;
    web.say_frame(HELLO, &frames::offer(1, 8, &["web"])).await;
    web.hear_kind(HELLO).await;
    web.hear_kind(OPEN).await;
    drop(client);
}

#[tokio::test]
async fn a_reload_that_changes_nothing_keeps_the_links() {
    let inside = Inside::new(ECHO).await;
    let mut link = inside.link().await;
    inside.until_pool("one ready", |row| row.ready == 1).await;
    inside.gateway.done(Command::Reload).await;
    link.pongs(b"nothing?").await;
}
