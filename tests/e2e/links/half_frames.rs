//! A link inside a WebSocket whose way stops in the middle of a frame, while every socket stays open.

use std::{future::pending, net::SocketAddr, sync::Arc, time::Duration};

use portcullis::{profile::Mode, tasks::Tasks, telemetry::snapshot::PoolState};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
    time::timeout,
};

use crate::support::{
    gateway::TestFolder,
    mode_pair::{Carrier, ModePair, Plan},
    peers::{expect_bytes, send},
};

/// A masked frame's header, and a byte more.
const HALF: usize = 7;
/// A link that is silent is noticed within 12 s.
const NOTICED: Duration = Duration::from_secs(30);

/// Passes links on; the first one that came stops on request.
struct Way {
    at: SocketAddr,
    stops: watch::Sender<bool>,
    _tasks: Tasks,
}

impl Way {
    async fn to(listener: SocketAddr) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, tasks, stops) = (port.local_addr().unwrap(), Tasks::default(), watch::Sender::new(false));
        let (never, first, passing) = (Arc::new(watch::Sender::new(false)), stops.clone(), tasks.clone());
        tasks.spawn("way", async move {
            let mut is_first = true;
            while let Ok((dialled, _)) = port.accept().await {
                let stops = if std::mem::take(&mut is_first) { first.subscribe() } else { never.subscribe() };
                let never = never.clone();
                passing.spawn("passed", async move {
                    let further = TcpStream::connect(listener).await.unwrap();
                    let ((read, write), (further_read, further_write)) =
                        (dialled.into_split(), further.into_split());
                    tokio::join!(
                        pass(read, further_write, stops),
                        pass(further_read, write, never.subscribe())
                    );
                });
            }
        });
        Self { at, stops, _tasks: tasks }
    }
}

async fn pass(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, stops: watch::Receiver<bool>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let stopped = *stops.borrow();
        let count = if stopped { count.min(HALF) } else { count };
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        if stopped {
            pending::<()>().await;
        }
    }
}

#[tokio::test]
async fn a_link_that_stops_in_a_frame_costs_its_own_sessions_alone() {
    let folder = TestFolder::new();
    let plan =
        Plan { carrier: Carrier::Ws, internal_link: ", prepared: 2", ..Plan::new(Mode::Reverse, "echo://") };
    let dmz = folder.start("dmz", &plan.dmz(&format!("listen: '{}'", plan.link("127.0.0.1:0"))));
    let way = Way::to(dmz.link_port().await).await;
    let internal =
        folder.start("internal", &plan.internal(&format!("connect: '{}'", plan.link(&way.at.to_string()))));
    let pair = ModePair { folder, dmz, internal: Some(internal) };
    pair.inner().until_pool("both links", |row| row.ready == 2).await;
    // Each goes to the least busy link.
    let mut clients = [pair.client().await, pair.client().await];
    for client in &mut clients {
        send(client, b"there?").await;
        expect_bytes(client, b"there?").await;
    }
    way.stops.send_replace(true);
    // Written to both, and it comes back to one of them.
    let mut answers = async |at: usize| {
        let client = &mut clients[at];
        client.write_all(b"!").await.unwrap();
        timeout(NOTICED, client.read_u8()).await.expect("an answer or an end in time").ok()
    };
    let answers = [answers(0).await, answers(1).await];
    assert_eq!(answers.iter().flatten().count(), 1, "{answers:?}");
    for half in [&pair.dmz, pair.inner()] {
        half.until_ended("PR").await;
    }
    pair.inner()
        .until_pool("both links again", |row| row.ready == 2 && row.state == PoolState::Healthy)
        .await;
    let kept = usize::from(answers[1].is_some());
    send(&mut clients[kept], b"there?").await;
    expect_bytes(&mut clients[kept], b"there?").await;
}
