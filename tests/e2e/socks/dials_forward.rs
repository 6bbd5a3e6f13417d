//! The DMZ half in forward mode, at a raw SOCKS5 server.

use portcullis::telemetry::snapshot::PoolState;
use tokio::io::AsyncWriteExt;

use crate::support::{
    gateway::{Gateway, TestFolder},
    peers::{dial, expect_bytes, expect_end, expect_reset, send},
    socks::{CONNECT, SOCKS_METHOD, SOCKS_OFFER, Server, reply},
};

async fn dmz(server: &Server) -> Gateway {
    let text = format!(
        "mode: forward\ndmz:\n  link: {{ connect: '{}' }}\n  \
         services: {{ orders: {{ accept: ['tcp://127.0.0.1:0'] }} }}\n",
        server.address()
    );
    TestFolder::new().start("dmz", &text)
}

#[tokio::test]
async fn a_granted_request_carries() {
    let server = Server::new().await;
    let gateway = dmz(&server).await;
    // The bound address of a reply means nothing to us, whatever its type.
    let with_name = [&[5, 0, 0, 3, 3][..], b"abc", &[0, 80]].concat();
    let with_ipv6 = [&[5, 0, 0, 4][..], &[1; 18]].concat();
    for granted in [reply(0).to_vec(), with_name, with_ipv6] {
        let mut client = dial(gateway.client_port("orders").await).await;
        let mut link = server.accept_request(CONNECT, b"orders").await;
        send(&mut link, &[&granted[..], b"banner"].concat()).await;
        expect_bytes(&mut client, b"banner").await;
        send(&mut client, b"query").await;
        expect_bytes(&mut link, b"query").await;
        client.shutdown().await.unwrap();
        expect_end(&mut link).await;
        link.shutdown().await.unwrap();
        expect_end(&mut client).await;
    }
    gateway
        .until("three ended", |snapshot| snapshot.ended.iter().filter(|row| row.end == "--").count() == 3)
        .await;
}

#[tokio::test]
async fn each_refusal_is_a_reset_and_names_who_refused() {
    let server = Server::new().await;
    let gateway = dmz(&server).await;
    let cases = [
        (reply(1).to_vec(), "PC", "1, a limit or draining"),
        (reply(2).to_vec(), "XC", "2, the service is unknown there or not allowed for this gateway"),
        (reply(3).to_vec(), "BC", "3, network unreachable"),
        (reply(4).to_vec(), "BC", "4, backend unreachable"),
        (reply(5).to_vec(), "BC", "5, backend refused the connection"),
        (reply(6).to_vec(), "BC", "6, backend did not answer in time"),
        (reply(7).to_vec(), "PC", "7, it does not serve this command"),
        (reply(8).to_vec(), "PC", "8, it does not serve names"),
        (reply(77).to_vec(), "PC", "broke the protocol"),
        (b"HTTP/1.1 400".to_vec(), "PC", "does not speak SOCKS5: its first byte is 0x48"),
        (vec![5, 0, 0, 9], "PC", "broke the protocol"),
        (vec![], "PC", "closed before the method was chosen"),
    ];
    for (answer, end, reason) in cases {
        let mut client = dial(gateway.client_port("orders").await).await;
        send(&mut client, b"words that must go nowhere").await;
        let mut link = server.accept_request(CONNECT, b"orders").await;
        send(&mut link, &answer).await;
        link.shutdown().await.unwrap();
        assert_eq!(expect_reset(&mut client).await, b"", "{answer:?}");
        let address = client.local_addr().unwrap().to_string();
        let of = |row: &&portcullis::telemetry::snapshot::EndedRow| row.client == address;
        let snapshot = gateway.until("it ended", |snapshot| snapshot.ended.iter().any(|row| of(&row))).await;
        let row = snapshot.ended.iter().find(of).unwrap();
        assert_eq!(row.end, end, "{row:?}");
        assert!(row.reason.contains(reason), "{row:?}");
        assert_eq!((row.bytes_up, row.bytes_down), (0, 0));
    }
    let totals = gateway.now().await.totals;
    assert_eq!((totals.refused, totals.sessions, totals.sessions_open), (12, 0, 0));
}

#[tokio::test]
async fn a_server_without_our_method_is_down_until_it_has_it() {
    let server = Server::new().await;
    let gateway = dmz(&server).await;
    let mut link = server.accept().await;
    expect_bytes(&mut link, &SOCKS_OFFER).await;
    send(&mut link, &[5, 0xff]).await;
    let row = gateway.until_pool("down", |row| row.state == PoolState::Down).await;
    assert_eq!(row.last_error.as_deref(), Some("it does not offer the method `no authentication`"));
    let mut link = server.accept().await;
    expect_bytes(&mut link, &SOCKS_OFFER).await;
    send(&mut link, &SOCKS_METHOD).await;
    let row = gateway.until_pool("healthy", |row| row.state == PoolState::Healthy).await;
    assert_eq!((row.last_error, row.failures, row.service.as_str()), (None, 1, "*"));
    gateway.until_notice("is up, after 1 failure in a row").await;
}

#[tokio::test]
async fn a_server_that_never_answers_costs_its_client_the_deadline() {
    let server = Server::new().await;
    let gateway = dmz(&server).await;
    let mut client = dial(gateway.client_port("orders").await).await;
    let _silent = server.accept_request(CONNECT, b"orders").await;
    expect_reset(&mut client).await;
    let row = gateway.until_ended("TC").await;
    assert_eq!(
        row.reason,
        "127.0.0.1:0 did not answer within 5s".replace("127.0.0.1:0", &server.address()[8..])
    );
}
