//! A raw BIND client that parks at the DMZ half, in reverse mode.

use std::net::SocketAddr;

use portcullis::telemetry::snapshot::PoolState;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{
    gateway::{Gateway, TestFolder},
    peers::{cut, dial, expect_bytes, expect_end, expect_reset, send},
    socks::{ASSOCIATE, BIND, CONNECT, SOCKS_METHOD, SOCKS_OFFER, link, reply, reply_at, request},
};

fn dmz(accept: &str) -> Gateway {
    let text = format!(
        "mode: reverse\ndmz:\n  link: {{ listen: 'socks://127.0.0.1:0', prepared: 1, wait: 2s }}\n  \
         services: {{ orders: {{ accept: ['tcp://{accept}'] }} }}\n"
    );
    TestFolder::new().start("dmz", &text)
}

async fn park(gateway: &Gateway) -> TcpStream {
    let (stream, code) = link(gateway.link_port().await, BIND, b"orders").await;
    assert_eq!(code, 0);
    stream
}

#[tokio::test]
async fn the_second_reply_names_the_client_and_bytes_follow() {
    let gateway = dmz("127.0.0.1:0");
    let mut parked = park(&gateway).await;
    gateway.until_pool("one ready", |row| row.ready == 1 && row.state == PoolState::Healthy).await;
    let mut client = dial(gateway.client_port("orders").await).await;
    send(&mut client, b"early").await;
    expect_bytes(&mut parked, &reply_at(client.local_addr().unwrap())).await;
    expect_bytes(&mut parked, b"early").await;
    send(&mut parked, b"answer").await;
    expect_bytes(&mut client, b"answer").await;
    let row = gateway.until_pool("carrying", |row| row.carrying == 1 && row.ready == 0).await;
    assert_eq!((row.peer.as_deref(), row.address.as_deref()), (Some("127.0.0.1"), Some("127.0.0.1")));
    client.shutdown().await.unwrap();
    expect_end(&mut parked).await;
    parked.shutdown().await.unwrap();
    expect_end(&mut client).await;
    gateway.until_ended("--").await;
    gateway.until_pool("no link", |row| row.carrying == 0 && row.ready == 0).await;
}

#[tokio::test]
async fn an_ipv6_client_is_named_by_its_ipv6_address() {
    let gateway = dmz("[::1]:0");
    let mut parked = park(&gateway).await;
    let client = dial(gateway.client_port("orders").await).await;
    let SocketAddr::V6(at) = client.local_addr().unwrap() else { panic!("an IPv6 client") };
    let expected = [&[5, 0, 0, 4][..], &at.ip().octets(), &at.port().to_be_bytes()].concat();
    expect_bytes(&mut parked, &expected).await;
}

#[tokio::test]
async fn bytes_before_the_second_reply_end_that_link_only() {
    let gateway = dmz("127.0.0.1:0");
    let (mut hasty, mut quiet) = (park(&gateway).await, park(&gateway).await);
    gateway.until_pool("two ready", |row| row.ready == 2).await;
    send(&mut hasty, b"x").await;
    expect_reset(&mut hasty).await;
    let row = gateway.until_pool("one ready", |row| row.ready == 1).await;
    assert_eq!(
        row.last_error.as_deref(),
        Some("ready link lost: the peer sent bytes before a client had come")
    );
    let mut client = dial(gateway.client_port("orders").await).await;
    expect_bytes(&mut quiet, &reply_at(client.local_addr().unwrap())).await;
    send(&mut quiet, b"mine").await;
    expect_bytes(&mut client, b"mine").await;
}

#[tokio::test]
async fn bytes_that_come_with_the_request_never_reach_a_client_that_waits() {
    let gateway = dmz("127.0.0.1:0");
    let mut client = dial(gateway.client_port("orders").await).await;
    gateway.until_pool("a waiting client", |row| row.waiting == 1).await;
    let mut hasty = dial(gateway.link_port().await).await;
    send(&mut hasty, &[&SOCKS_OFFER[..], &request(BIND, b"orders"), b"too early"].concat()).await;
    let received = expect_reset(&mut hasty).await;
    assert_eq!(received, [&SOCKS_METHOD[..], &reply(0)].concat());
    let mut quiet = park(&gateway).await;
    expect_bytes(&mut quiet, &reply_at(client.local_addr().unwrap())).await;
    send(&mut quiet, b"in time").await;
    expect_bytes(&mut client, b"in time").await;
}

#[tokio::test]
async fn only_bind_of_a_known_name_is_served() {
    let gateway = dmz("127.0.0.1:0");
    let at = gateway.link_port().await;
    for (command, name, expected, reported) in [
        (CONNECT, "orders", 7, "asked for CONNECT"),
        (ASSOCIATE, "orders", 7, "asked for UDP ASSOCIATE"),
        (BIND, "others", 2, "link from 127.0.0.1 for `others` refused: no such service here"),
        (BIND, "", 2, "a service of 0 bytes"),
    ] {
        let (mut stream, code) = link(at, command, name.as_bytes()).await;
        assert_eq!(code, expected, "{command} {name}");
        expect_end(&mut stream).await;
        gateway.until_notice(reported).await;
    }
    let row = gateway.until_pool("down", |row| row.state == PoolState::Down).await;
    assert_eq!((row.peer, row.ready, row.failures), (None, 0, 0));
}

#[tokio::test]
async fn a_parked_link_that_closes_is_gone_at_once() {
    let gateway = dmz("127.0.0.1:0");
    let parked = park(&gateway).await;
    gateway.until_pool("ready", |row| row.ready == 1).await;
    drop(parked);
    let row = gateway.until_pool("down", |row| row.state == PoolState::Down).await;
    assert_eq!((row.peer, row.ready), (None, 0), "SOCKS5 has no other goodbye");
    let expected = "no internal gateway has a link; those that had one left in good order";
    assert_eq!(row.last_error.as_deref(), Some(expected));
}

#[tokio::test]
async fn a_parked_link_that_is_cut_is_lost_and_its_peer_is_missed() {
    let gateway = dmz("127.0.0.1:0");
    let parked = park(&gateway).await;
    gateway.until_pool("ready", |row| row.ready == 1).await;
    cut(parked);
    let row = gateway.until_pool("down", |row| row.state == PoolState::Down).await;
    assert_eq!((row.peer.as_deref(), row.ready, row.failures), (Some("127.0.0.1"), 0, 1));
    assert!(row.last_error.is_some_and(|error| error.starts_with("ready link lost: ")));
}

#[tokio::test]
async fn a_far_side_that_fails_after_the_second_reply_is_a_reset_at_the_client() {
    let gateway = dmz("127.0.0.1:0");
    let mut parked = park(&gateway).await;
    let mut client = dial(gateway.client_port("orders").await).await;
    expect_bytes(&mut parked, &reply_at(client.local_addr().unwrap())).await;
    crate::support::peers::cut(parked);
    expect_reset(&mut client).await;
    gateway.until_ended("PR").await;
}
