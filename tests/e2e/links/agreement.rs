//! What a link speaks: agreed inside TLS, whoever dials, and SOCKS5 wherever nothing is.

use portcullis::telemetry::snapshot::PoolState;

use super::halves::{Outside, profile};
use crate::support::{
    frames::{self, HELLO, OURS, Port, SOCKS, Wire, frame},
    gateway::{Gateway, Place},
    peers::{dial, hear, hear_all, say},
    socks::{BIND, GREETED, GREETING, Server, ask, reply, request},
    ways::DMZ_TLS,
};

const ECHO: &str = "orders: { connect: 'echo://' }";

async fn until_speaks(gateway: &Gateway, wire: &str) {
    let speaks = |snapshot: &portcullis::telemetry::snapshot::Snapshot| {
        snapshot
            .pools
            .iter()
            .any(|row| row.protocol.as_deref() == Some(wire) && row.state == PoolState::Healthy)
    };
    gateway.until(&format!("a row that speaks {wire}"), speaks).await;
}

#[tokio::test]
async fn a_dialling_peer_gets_what_it_speaks() {
    let outside = Outside::new().await;
    let at = outside.gateway.link_port().await;
    for (name, alpn, agreed) in [("alpha", vec![SOCKS], Some(SOCKS)), ("beta", vec![], None)] {
        let mut link = Wire::dial(&outside.place, name, at, "dmz", &alpn).await;
        assert_eq!(link.agreed(), agreed);
        assert_eq!(ask(&mut link.stream, BIND, b"orders").await, 0);
        outside.until_ready(name, 1).await;
        until_speaks(&outside.gateway, SOCKS).await;
    }
}

#[tokio::test]
async fn a_dialling_peer_that_speaks_both_gets_our_own_whatever_it_names_first() {
    for alpn in [vec![OURS], vec![OURS, SOCKS], vec![SOCKS, OURS]] {
        let outside = Outside::new().await;
        let at = outside.gateway.link_port().await;
        let mut link = Wire::dial(&outside.place, "alpha", at, "dmz", &alpn).await;
        assert_eq!(link.agreed(), Some(OURS));
        link.say_frame(HELLO, &frames::offer(1, 8, &["orders"])).await;
        link.hear_kind(HELLO).await;
        outside.until_ready("alpha", 1).await;
        until_speaks(&outside.gateway, OURS).await;
    }
}

#[tokio::test]
async fn the_rows_of_two_peers_say_what_each_speaks() {
    let outside = Outside::new().await;
    let _alpha = outside.ready("alpha", 1).await;
    let at = outside.gateway.link_port().await;
    let mut beta = Wire::dial(&outside.place, "beta", at, "dmz", &[]).await;
    assert_eq!(ask(&mut beta.stream, BIND, b"orders").await, 0);
    outside.until_ready("beta", 1).await;
    let snapshot = outside.gateway.now().await;
    let mut rows: Vec<_> = snapshot
        .pools
        .iter()
        .map(|row| (row.peer.as_deref().unwrap(), row.service.as_str(), row.protocol.as_deref().unwrap()))
        .collect();
    rows.sort_unstable();
    assert_eq!(rows, [("alpha", "*", OURS), ("beta", "orders", SOCKS)]);
}

/// Parks as the half that serves does with SOCKS5.
async fn take_bind(link: &mut Wire) {
    hear(&mut link.stream, &GREETING).await;
    say(&mut link.stream, &GREETED).await;
    hear(&mut link.stream, &request(BIND, b"orders")).await;
    say(&mut link.stream, &reply(0)).await;
}

#[tokio::test]
async fn the_half_that_serves_speaks_socks_where_its_gateway_agrees_on_nothing_else() {
    for (alpn, agreed) in [(vec![], None), (vec![SOCKS], Some(SOCKS))] {
        let place = Place::new();
        let port = Port::new(&place, "dmz", &alpn).await;
        let gateway = place.start("internal", &profile(&port.address(), ", prepared: 1", ECHO));
        let mut link = port.accept().await;
        assert_eq!(link.agreed(), agreed);
        // The first may be one that looks what is spoken here; it parks as well.
        take_bind(&mut link).await;
        until_speaks(&gateway, SOCKS).await;
        assert_eq!(gateway.now().await.pools[0].service, "orders");
    }
}

#[tokio::test]
async fn the_half_that_serves_speaks_our_own_where_it_is_agreed() {
    for alpn in [vec![OURS], vec![OURS, SOCKS]] {
        let place = Place::new();
        let port = Port::new(&place, "dmz", &alpn).await;
        let gateway = place.start("internal", &profile(&port.address(), ", prepared: 1, maximum: 8", ECHO));
        let mut link = port.accept().await;
        assert_eq!(link.agreed(), Some(OURS));
        link.hear_offer(1, 8, &["orders"]).await;
        link.say_frame(HELLO, &frames::grant(8, &["orders"])).await;
        until_speaks(&gateway, OURS).await;
        assert_eq!(gateway.now().await.pools[0].service, "*");
    }
}

#[tokio::test]
async fn the_half_that_opens_speaks_socks_where_its_gateway_agrees_on_nothing_else() {
    for (alpn, agreed) in [(vec![], None), (vec![SOCKS], Some(SOCKS))] {
        let place = Place::new();
        let port = Port::new(&place, "internal", &alpn).await;
        let gateway = place.start("dmz", &forward(&port.address(), DMZ_TLS));
        let mut link = port.accept().await;
        assert_eq!(link.agreed(), agreed);
        hear(&mut link.stream, &GREETING).await;
        say(&mut link.stream, &GREETED).await;
        until_speaks(&gateway, SOCKS).await;
    }
}

#[tokio::test]
async fn the_half_that_opens_waits_for_the_offer_of_a_gateway_that_it_dials() {
    let place = Place::new();
    let port = Port::new(&place, "internal", &[OURS]).await;
    let gateway = place.start("dmz", &forward(&port.address(), DMZ_TLS));
    let mut link = port.accept().await;
    assert_eq!(link.agreed(), Some(OURS));
    link.say_frame(HELLO, &frames::offer(0, 1, &["orders", "unknown"])).await;
    link.hear_granted(&["orders"]).await;
    gateway.until_pool("ours, ready", |row| row.protocol.as_deref() == Some(OURS) && row.ready == 1).await;
}

fn forward(connect: &str, tls: &str) -> String {
    format!(
        "mode: forward\ndmz:\n  link: {{ connect: '{connect}', tls: {tls}, prepared: 1 }}\n  \
         services: {{ orders: {{ accept: ['tcp://127.0.0.1:0'] }} }}\n"
    )
}

#[tokio::test]
async fn a_peer_that_agrees_on_neither_is_no_peer() {
    let outside = Outside::new().await;
    let mut config = crate::support::tls::client(&outside.place, "alpha");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = rustls::pki_types::ServerName::try_from("dmz").unwrap();
    let stream = dial(outside.gateway.link_port().await).await;
    let shaken =
        tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream).await.map(|_| ());
    assert!(shaken.unwrap_err().to_string().contains("NoApplicationProtocol"));
}

#[tokio::test]
async fn a_plain_link_speaks_socks_only() {
    let server = Server::new().await;
    let text = format!(
        "mode: reverse\ninternal:\n  link: {{ connect: '{}', prepared: 1 }}\n  services: {{ {ECHO} }}\n",
        server.address()
    );
    let gateway = Place::new().start("internal", &text);
    let mut parked = server.asked(BIND, b"orders").await;
    say(&mut parked, &reply(0)).await;
    until_speaks(&gateway, SOCKS).await;
}

#[tokio::test]
async fn a_plain_port_does_not_understand_our_own() {
    let text = "mode: reverse\ndmz:\n  link: { listen: 'socks://127.0.0.1:0' }\n  \
                services: { orders: { accept: ['tcp://127.0.0.1:0'] } }\n";
    let gateway = Place::new().start("dmz", text);
    let mut link = dial(gateway.link_port().await).await;
    say(&mut link, &frame(HELLO, &frames::offer(1, 8, &["orders"]))).await;
    let received = hear_all(&mut link).await;
    assert!(received.first().is_none_or(|first| *first != HELLO), "{received:?}");
    assert!(gateway.now().await.pools.iter().all(|row| row.ready == 0));
}
