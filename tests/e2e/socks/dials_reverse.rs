//! The internal half in reverse mode, parked at a raw BIND server.

use std::{net::SocketAddr, time::Duration};

use portcullis::gateway::GatewayOutcome;
use portcullis::telemetry::snapshot::PoolState;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{
    gateway::{Gateway, TestFolder},
    peers::{Backend, expect_bytes, expect_end, expect_reset, expect_reset_within, send},
    socks::{BIND, SOCKS_METHOD, SOCKS_OFFER, Server, reply, reply_at},
};

fn internal(server: &Server, backend: &str) -> Gateway {
    let text = format!(
        "mode: reverse\ninternal:\n  link: {{ connect: '{}', prepared: 1, \
         retry: {{ first: 10ms, maximum: 40ms }} }}\n  services: {{ orders: {{ connect: '{backend}' }} }}\n",
        server.address()
    );
    TestFolder::new().start("internal", &text)
}

async fn parked(server: &Server) -> TcpStream {
    let mut link = server.accept_request(BIND, b"orders").await;
    send(&mut link, &reply(0)).await;
    link
}

#[tokio::test]
async fn the_second_reply_opens_a_session_for_the_client_it_names() {
    let (server, backend) = (Server::new().await, Backend::new().await);
    let gateway = internal(&server, &backend.address());
    let mut link = parked(&server).await;
    gateway.until_pool("ready", |row| row.ready == 1 && row.state == PoolState::Healthy).await;
    let client: SocketAddr = "192.0.2.7:50000".parse().unwrap();
    send(&mut link, &[&reply_at(client)[..], b"hello"].concat()).await;
    let mut behind = backend.accept().await;
    expect_bytes(&mut behind, b"hello").await;
    send(&mut behind, b"answer").await;
    expect_bytes(&mut link, b"answer").await;
    let snapshot = gateway.now().await;
    assert_eq!(snapshot.sessions[0].client, "192.0.2.7:50000");
    assert_eq!(snapshot.sessions[0].peer.as_deref(), Some(&server.address()[8..]));
    // The next link is dialled when this one is opened, not when it ends.
    let _next = parked(&server).await;
    gateway.until_pool("refilled", |row| row.ready == 1 && row.carrying == 1).await;
    link.shutdown().await.unwrap();
    expect_end(&mut behind).await;
    behind.shutdown().await.unwrap();
    expect_end(&mut link).await;
    assert_eq!(gateway.until_ended("--").await.client, "192.0.2.7:50000");
}

#[tokio::test]
async fn the_second_reply_comes_in_any_form_and_any_pieces() {
    let (server, backend) = (Server::new().await, Backend::new().await);
    let gateway = internal(&server, &backend.address());
    let ipv6 = [&[5, 0, 0, 4][..], &[0x20, 1, 0xd, 0xb8], &[0; 11], &[9, 0x1f, 0x90]].concat();
    let mapped = [&[5, 0, 0, 4][..], &[0; 10], &[0xff, 0xff, 192, 0, 2, 1, 0, 7]].concat();
    let name = [&[5, 0, 0, 3, 4][..], b"host", &[0, 80]].concat();
    for (second, client) in [(ipv6, "[2001:db8::9]:8080"), (mapped, "192.0.2.1:7"), (name, "unknown")] {
        let mut link = parked(&server).await;
        link.set_nodelay(true).unwrap();
        for byte in second {
            send(&mut link, &[byte]).await;
            tokio::task::yield_now().await;
        }
        send(&mut link, b"x").await;
        let mut behind = backend.accept().await;
        expect_bytes(&mut behind, b"x").await;
        assert_eq!(gateway.now().await.sessions[0].client, client);
        crate::support::peers::cut(link);
        expect_reset(&mut behind).await;
        gateway.until("it ended", |snapshot| snapshot.sessions.is_empty()).await;
    }
}

#[tokio::test]
async fn a_backend_out_of_reach_after_the_second_reply_is_a_reset() {
    let (server, nobody) = (Server::new().await, crate::support::peers::Reserved::new());
    let gateway = internal(&server, &format!("tcp://{}", nobody.at()));
    let mut link = parked(&server).await;
    send(&mut link, &reply_at("192.0.2.7:50000".parse().unwrap())).await;
    expect_reset(&mut link).await;
    gateway.until_ended("BC").await;
}

#[tokio::test]
async fn a_server_that_misbehaves_is_down_and_then_found_again() {
    let cases = [
        (reply(2).to_vec(), "it answered 2, the service is unknown there or not allowed for this gateway"),
        (reply(1).to_vec(), "it answered 1, a limit or draining"),
        (b"nonsense!!".to_vec(), "it does not speak SOCKS5: its first byte is 0x6e"),
        (vec![5, 0, 0], "it closed before the method was chosen"),
        (vec![], "it closed before the method was chosen"),
    ];
    for (answer, error) in cases {
        let server = Server::new().await;
        let gateway = internal(&server, "echo://");
        for _ in 0..3 {
            let mut link = server.accept_request(BIND, b"orders").await;
            send(&mut link, &answer).await;
            link.shutdown().await.unwrap();
        }
        let row = gateway.until_pool("down", |row| row.failures >= 3).await;
        assert_eq!((row.state, row.last_error.as_deref()), (PoolState::Down, Some(error)));
        let _link = parked(&server).await;
        let row = gateway.until_pool("healthy", |row| row.state == PoolState::Healthy).await;
        assert_eq!((row.failures, row.last_error, row.retry_seconds), (3, None, None));
        gateway.until_notice("is up, after 3 failures in a row").await;
    }
}

#[tokio::test]
async fn a_ready_link_that_is_lost_is_replaced() {
    let server = Server::new().await;
    let gateway = internal(&server, "echo://");
    for lost in 1..=3 {
        let link = parked(&server).await;
        gateway.until_pool("ready", |row| row.ready == 1).await;
        match lost {
            2 => crate::support::peers::cut(link),
            _ => drop(link),
        }
        gateway.until_pool("noticed", |row| row.failures == lost).await;
    }
    let _link = parked(&server).await;
    gateway.until_pool("ready again", |row| row.state == PoolState::Healthy).await;
}

#[tokio::test]
async fn silence_ends_within_the_deadline_wherever_it_begins() {
    let patience = Duration::from_secs(7);
    let never_answered = async {
        let server = Server::new().await;
        let gateway = internal(&server, "echo://");
        let mut link = server.accept().await;
        assert_eq!(expect_reset_within(patience, &mut link).await, SOCKS_OFFER);
        gateway.until_notice("its handshake was not complete within 5s").await;
    };
    let answered_never = async {
        let server = Server::new().await;
        let gateway = internal(&server, "echo://");
        let mut link = server.accept().await;
        send(&mut link, &SOCKS_METHOD).await;
        expect_reset_within(patience, &mut link).await;
        gateway.until_notice("its handshake was not complete within 5s").await;
    };
    let announced_half = async {
        let server = Server::new().await;
        let gateway = internal(&server, "echo://");
        let mut link = parked(&server).await;
        send(&mut link, &reply(0)[..7]).await;
        expect_reset_within(patience, &mut link).await;
        gateway.until_notice("the second reply did not come whole").await;
    };
    tokio::join!(never_answered, answered_never, announced_half);
}

#[tokio::test]
async fn a_second_reply_that_refuses_costs_that_link_only() {
    let server = Server::new().await;
    let gateway = internal(&server, "echo://");
    let mut link = parked(&server).await;
    send(&mut link, &reply(1)).await;
    expect_reset(&mut link).await;
    let mut link = parked(&server).await;
    send(&mut link, &[&reply(0)[..], b"echo me"].concat()).await;
    expect_bytes(&mut link, b"echo me").await;
    assert_eq!(gateway.now().await.sessions[0].client, "0.0.0.0:0");
}

#[tokio::test]
async fn a_ready_link_is_retired_by_a_reset() {
    // A DMZ gateway may take it at that very moment: a clean end would be its client's.
    let server = Server::new().await;
    let gateway = internal(&server, "echo://");
    let mut link = parked(&server).await;
    gateway.until_pool("ready", |row| row.ready == 1).await;
    let (outcome, received) = tokio::join!(gateway.stop(), expect_reset(&mut link));
    assert_eq!((outcome, received.len()), (GatewayOutcome::Clean, 0));
}
