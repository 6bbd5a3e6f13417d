//! What a link speaks: agreed inside TLS, whoever dials, and SOCKS5 wherever nothing is.

use portcullis::telemetry::snapshot::PoolState;

use super::halves::{OpenerHalf, profile};
use crate::support::{
    frames::{self, HELLO, OURS, Port, RawLink, SOCKS, frame},
    gateway::{Gateway, TestFolder},
    mode_pair::DMZ_TLS,
    peers::{dial, expect_bytes, read_all, send},
    socks::{BIND, SOCKS_METHOD, SOCKS_OFFER, Server, ask, reply, request},
};

const ECHO: &str = "orders: { connect: 'echo://' }";

async fn until_protocol(gateway: &Gateway, wire: &str) {
    let is_agreed = |snapshot: &portcullis::telemetry::snapshot::Snapshot| {
        snapshot
            .pools
            .iter()
            .any(|row| row.protocol.as_deref() == Some(wire) && row.state == PoolState::Healthy)
    };
    gateway.until(&format!("a row that speaks {wire}"), is_agreed).await;
}

#[tokio::test]
async fn a_dialling_peer_gets_a_protocol_it_offers() {
    let outside = OpenerHalf::new().await;
    let at = outside.gateway.link_port().await;
    for (name, alpn, agreed) in [("alpha", vec![SOCKS], Some(SOCKS)), ("beta", vec![], None)] {
        let mut link = RawLink::dial(&outside.folder, name, at, "dmz", &alpn).await;
        assert_eq!(link.agreed(), agreed);
        assert_eq!(ask(&mut link.stream, BIND, b"orders").await, 0);
        outside.until_ready(name, 1).await;
        until_protocol(&outside.gateway, SOCKS).await;
    }
}

#[tokio::test]
async fn a_dialling_peer_that_offers_both_gets_our_own_whatever_it_names_first() {
    for alpn in [vec![OURS], vec![OURS, SOCKS], vec![SOCKS, OURS]] {
        let outside = OpenerHalf::new().await;
        let at = outside.gateway.link_port().await;
        let mut link = RawLink::dial(&outside.folder, "alpha", at, "dmz", &alpn).await;
        assert_eq!(link.agreed(), Some(OURS));
        link.send_frame(HELLO, &frames::offer(1, 8, &["orders"])).await;
        link.expect_kind(HELLO).await;
        outside.until_ready("alpha", 1).await;
        until_protocol(&outside.gateway, OURS).await;
    }
}

#[tokio::test]
async fn each_peer_row_shows_its_protocol() {
    let outside = OpenerHalf::new().await;
    let _alpha = outside.ready("alpha", 1).await;
    let at = outside.gateway.link_port().await;
    let mut beta = RawLink::dial(&outside.folder, "beta", at, "dmz", &[]).await;
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
async fn take_bind(link: &mut RawLink) {
    expect_bytes(&mut link.stream, &SOCKS_OFFER).await;
    send(&mut link.stream, &SOCKS_METHOD).await;
    expect_bytes(&mut link.stream, &request(BIND, b"orders")).await;
    send(&mut link.stream, &reply(0)).await;
}

#[tokio::test]
async fn the_server_falls_back_to_socks() {
    for (alpn, agreed) in [(vec![], None), (vec![SOCKS], Some(SOCKS))] {
        let folder = TestFolder::new();
        let port = Port::new(&folder, "dmz", &alpn).await;
        let gateway = folder.start("internal", &profile(&port.address(), ", prepared: 1", ECHO));
        let mut link = port.accept().await;
        assert_eq!(link.agreed(), agreed);
        // The first may be one that looks what is spoken here; it parks as well.
        take_bind(&mut link).await;
        until_protocol(&gateway, SOCKS).await;
        assert_eq!(gateway.now().await.pools[0].service, "orders");
    }
}

#[tokio::test]
async fn the_server_uses_our_protocol_where_agreed() {
    for alpn in [vec![OURS], vec![OURS, SOCKS]] {
        let folder = TestFolder::new();
        let port = Port::new(&folder, "dmz", &alpn).await;
        let gateway = folder.start("internal", &profile(&port.address(), ", prepared: 1, maximum: 8", ECHO));
        let mut link = port.accept().await;
        assert_eq!(link.agreed(), Some(OURS));
        link.expect_offer(1, 8, &["orders"]).await;
        link.send_frame(HELLO, &frames::grant(8, &["orders"])).await;
        until_protocol(&gateway, OURS).await;
        assert_eq!(gateway.now().await.pools[0].service, "*");
    }
}

#[tokio::test]
async fn the_opener_falls_back_to_socks() {
    for (alpn, agreed) in [(vec![], None), (vec![SOCKS], Some(SOCKS))] {
        let folder = TestFolder::new();
        let port = Port::new(&folder, "internal", &alpn).await;
        let gateway = folder.start("dmz", &forward(&port.address(), DMZ_TLS));
        let mut link = port.accept().await;
        assert_eq!(link.agreed(), agreed);
        expect_bytes(&mut link.stream, &SOCKS_OFFER).await;
        send(&mut link.stream, &SOCKS_METHOD).await;
        until_protocol(&gateway, SOCKS).await;
    }
}

#[tokio::test]
async fn the_half_that_opens_waits_for_the_offer_of_a_gateway_that_it_dials() {
    let folder = TestFolder::new();
    let port = Port::new(&folder, "internal", &[OURS]).await;
    let gateway = folder.start("dmz", &forward(&port.address(), DMZ_TLS));
    let mut link = port.accept().await;
    assert_eq!(link.agreed(), Some(OURS));
    link.send_frame(HELLO, &frames::offer(0, 1, &["orders", "unknown"])).await;
    link.expect_granted(&["orders"]).await;
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
    let outside = OpenerHalf::new().await;
    let mut config = crate::support::tls::client(&outside.folder, "alpha");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = rustls::pki_types::ServerName::try_from("dmz").unwrap();
    let stream = dial(outside.gateway.link_port().await).await;
    let shaken =
        tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream).await.map(|_| ());
    assert!(shaken.unwrap_err().to_string().contains("NoApplicationProtocol"));
}

#[tokio::test]
async fn a_plain_link_uses_socks_only() {
    let server = Server::new().await;
    let text = format!(
        "mode: reverse\ninternal:\n  link: {{ connect: '{}', prepared: 1 }}\n  services: {{ {ECHO} }}\n",
        server.address()
    );
    let gateway = TestFolder::new().start("internal", &text);
    let mut parked = server.accept_request(BIND, b"orders").await;
    send(&mut parked, &reply(0)).await;
    until_protocol(&gateway, SOCKS).await;
}

#[tokio::test]
async fn a_plain_port_does_not_understand_our_own() {
    let text = "mode: reverse\ndmz:\n  link: { listen: 'socks://127.0.0.1:0' }\n  \
                services: { orders: { accept: ['tcp://127.0.0.1:0'] } }\n";
    let gateway = TestFolder::new().start("dmz", text);
    let mut link = dial(gateway.link_port().await).await;
    send(&mut link, &frame(HELLO, &frames::offer(1, 8, &["orders"]))).await;
    let received = read_all(&mut link).await;
    assert!(received.first().is_none_or(|first| *first != HELLO), "{received:?}");
    assert!(gateway.now().await.pools.iter().all(|row| row.ready == 0));
}
