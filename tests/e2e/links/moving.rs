//! A whole gateway moves the sessions of a link that is retired to another link of the same peer, which the test plays.

use super::halves::OpenerHalf;
use crate::support::{
    frames::{DATA, DRAIN, END, LinkOver, MOVE, OPEN, OPENED, PING, PONG, RESUME, RETIRE, RawLink, frame_of},
    peers::{expect_bytes, expect_end, send},
};

/// A session on a link of `alpha`, answered, with six bytes in each direction.
async fn session(outside: &OpenerHalf, link: &mut RawLink) -> tokio::net::TcpStream {
    let mut client = outside.client().await;
    send(&mut client, b"before").await;
    link.expect_kind(OPEN).await;
    assert_eq!(link.expect_data(6).await, b"before");
    link.send_frame(OPENED, &[]).await;
    link.send_frame(DATA, b"answer").await;
    expect_bytes(&mut client, b"answer").await;
    client
}

fn body(count: u64, credit: u32, ticket: u8) -> Vec<u8> {
    [&count.to_be_bytes()[..], &credit.to_be_bytes(), &[ticket; 16]].concat()
}

#[tokio::test]
async fn sessions_of_a_retired_link_go_on_over_another_one_of_its_peer() {
    let outside = OpenerHalf::new().await;
    let mut old = outside.ready("alpha", 1).await;
    let mut client = session(&outside, &mut old).await;
    let number = old.session;
    old.send_frame(RETIRE, &[]).await;
    old.expect_frame(RETIRE, &[]).await;
    // There is none; of another peer it does not count.
    let mut other = outside.ready("beta", 1).await;
    send(&mut client, b"stays").await;
    old.expect_frame_of(number, DATA, b"stays").await;
    let mut next = outside.ready("alpha", 1).await;
    old.expect_frame_of(number, MOVE, &body(11, 0, 0)).await;
    send(&mut client, b"moved").await;
    old.expect_pong(b"nothing?").await;
    old.send_raw(&frame_of(number, DATA, b"last")).await;
    old.send_raw(&frame_of(number, MOVE, &body(10, 65_536, 7))).await;
    expect_bytes(&mut client, b"last").await;
    next.expect_frame_of(number, RESUME, &body(10, 65_536, 7)).await;
    next.expect_frame_of(number, DATA, b"moved").await;
    assert_eq!(old.over().await, (LinkOver::Cleanly, vec![]));
    drop(old);
    next.send_raw(&frame_of(number, DATA, b"goes on")).await;
    expect_bytes(&mut client, b"goes on").await;
    other.expect_pong(b"nothing?").await;
    outside
        .gateway
        .until("it goes by the link that is left", |snapshot| {
            let links = snapshot.pools.iter().filter(|row| row.peer.as_deref() == Some("alpha"));
            let links: Vec<_> = links.flat_map(|row| &row.links).map(|link| Some(link.id)).collect();
            links.len() == 1 && snapshot.sessions.iter().all(|session| links.contains(&session.via))
        })
        .await;
    next.send_raw(&frame_of(number, END, &[])).await;
    expect_end(&mut client).await;
}

#[tokio::test]
async fn a_gateway_that_drains_keeps_its_sessions_where_they_are() {
    let outside = OpenerHalf::new().await;
    let mut old = outside.ready("alpha", 1).await;
    let mut client = session(&outside, &mut old).await;
    let _next = outside.ready("alpha", 2).await;
    old.send_frame(DRAIN, &[]).await;
    old.expect_frame(RETIRE, &[]).await;
    send(&mut client, b"stays").await;
    old.expect_frame(DATA, b"stays").await;
    // Two checks later, too.
    for _ in 0..2 {
        while old.next().await.expect("it lives").0 != PING {}
        old.send_frame(PONG, &[0; 8]).await;
    }
    send(&mut client, b"stays").await;
    old.expect_frame(DATA, b"stays").await;
}
