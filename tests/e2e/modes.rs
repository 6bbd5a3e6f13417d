//! Clients and backends cannot tell the three modes apart.

use portcullis::{
    gateway::{GatewayOutcome, handle::Command},
    profile::Mode,
    telemetry::snapshot::{GatewayPhase, PoolState},
};

use crate::support::{
    gateway::TestFolder,
    mode_pair::{MODES, ModePair, Plan},
    peers::{
        Backend, Reserved, cut, dial, dial_refused, expect_bytes, expect_end, expect_reset, read_all, send,
    },
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// A set-up with one open session that has carried a byte each way.
async fn open(mode: Mode) -> (ModePair, TcpStream, TcpStream) {
    open_with(Plan::new(mode, "")).await
}

async fn open_with(plan: Plan<'_>) -> (ModePair, TcpStream, TcpStream) {
    let backend = Backend::new().await;
    let pair = Plan { backend: &backend.address(), ..plan }.start().await;
    let mut client = pair.client().await;
    let mut server = backend.accept().await;
    send(&mut client, b"?").await;
    expect_bytes(&mut server, b"?").await;
    send(&mut server, b"!").await;
    expect_bytes(&mut client, b"!").await;
    (pair, client, server)
}

#[tokio::test]
async fn each_mode_carries_bytes_and_ends_cleanly() {
    for mode in MODES {
        let (pair, mut client, mut server) = open(mode).await;
        send(&mut client, b"up and ").await;
        client.shutdown().await.unwrap();
        assert_eq!(read_all(&mut server).await, b"up and ");
        send(&mut server, b"down").await;
        server.shutdown().await.unwrap();
        assert_eq!(read_all(&mut client).await, b"down");
        let row = pair.dmz.until_ended("--").await;
        assert_eq!((row.bytes_up, row.bytes_down), (8, 5), "{mode:?}");
        assert_eq!(row.client, client.local_addr().unwrap().to_string());
        pair.inner().until_ended("--").await;
    }
}

#[tokio::test]
async fn data_flows_up_after_the_backend_has_finished() {
    for mode in MODES {
        let (pair, mut client, mut server) = open(mode).await;
        server.shutdown().await.unwrap();
        expect_end(&mut client).await;
        for part in ["one", "two", "three"] {
            send(&mut client, part.as_bytes()).await;
            expect_bytes(&mut server, part.as_bytes()).await;
        }
        client.shutdown().await.unwrap();
        expect_end(&mut server).await;
        pair.dmz.until_ended("--").await;
    }
}

#[tokio::test]
async fn a_client_that_is_cut_is_a_reset_at_the_backend() {
    for mode in MODES {
        let (pair, client, mut server) = open(mode).await;
        cut(client);
        expect_reset(&mut server).await;
        assert_eq!(pair.dmz.until_ended("CR").await.service, "orders", "{mode:?}");
        // Inside, the cut came as a reset of the link.
        pair.inner().until_ended("CR").await;
    }
}

#[tokio::test]
async fn a_backend_that_is_cut_is_a_reset_at_the_client() {
    for mode in MODES {
        let (pair, mut client, server) = open(mode).await;
        cut(server);
        expect_reset(&mut client).await;
        pair.inner().until_ended("BR").await;
        pair.dmz.until_ended("BR").await;
    }
}

#[tokio::test]
async fn a_cut_after_a_half_close_is_a_reset() {
    for mode in MODES {
        let (_pair, mut client, mut server) = open(mode).await;
        client.shutdown().await.unwrap();
        expect_end(&mut server).await;
        cut(server);
        expect_reset(&mut client).await;
        let (pair, mut client, mut server) = open(mode).await;
        server.shutdown().await.unwrap();
        expect_end(&mut client).await;
        cut(client);
        expect_reset(&mut server).await;
        pair.dmz.until_ended("CD").await;
    }
}

#[tokio::test]
async fn a_killed_gateway_is_a_reset_at_both_ends() {
    for mode in MODES {
        let (pair, mut client, mut server) = open(mode).await;
        pair.dmz.kill();
        expect_reset(&mut client).await;
        expect_reset(&mut server).await;
    }
    for mode in [Mode::Forward, Mode::Reverse] {
        let (pair, mut client, mut server) = open(mode).await;
        pair.internal.unwrap().kill();
        expect_reset(&mut server).await;
        expect_reset(&mut client).await;
        pair.dmz.until_ended("PR").await;
    }
}

#[tokio::test]
async fn a_stop_lets_sessions_end_and_takes_no_new_ones() {
    for mode in MODES {
        let (pair, mut client, mut server) = open_with(Plan { drain: "30s", ..Plan::new(mode, "") }).await;
        let port = pair.dmz.client_port("orders").await;
        let handle = pair.dmz.handle.clone();
        let stopping = tokio::join!(handle.send_and_wait(Command::Stop), async {
            pair.dmz.until("draining", |snapshot| snapshot.phase == GatewayPhase::Draining).await;
            assert_eq!(
                TcpStream::connect(port).await.unwrap_err().kind(),
                std::io::ErrorKind::ConnectionRefused
            );
            send(&mut client, b"more").await;
            expect_bytes(&mut server, b"more").await;
            client.shutdown().await.unwrap();
            expect_end(&mut server).await;
            server.shutdown().await.unwrap();
            expect_end(&mut client).await;
        });
        let line = format!("{:?}", stopping.0);
        assert!(line.contains("every session ended by itself"), "{mode:?}: {line}");
    }
}

#[tokio::test]
async fn a_stop_cuts_what_outlives_the_drain() {
    for mode in MODES {
        let (pair, mut client, mut server) = open_with(Plan { drain: "50ms", ..Plan::new(mode, "") }).await;
        assert_eq!(pair.dmz.stop().await, GatewayOutcome::Cut(1), "{mode:?}");
        expect_reset(&mut client).await;
        expect_reset(&mut server).await;
    }
}

#[tokio::test]
async fn a_backend_that_refuses_is_a_reset_at_the_client() {
    for mode in MODES {
        let nobody = Reserved::new();
        let pair = Plan::new(mode, &format!("tcp://{}", nobody.at())).start().await;
        dial_refused(pair.dmz.client_port("orders").await).await;
        let row = pair.inner().until_ended("BC").await;
        assert_eq!(row.reason, format!("backend {}: connection refused", nobody.at()), "{mode:?}");
    }
}

#[tokio::test]
async fn the_halves_start_in_either_order() {
    let retry = ", retry: { first: 10ms, maximum: 50ms }";
    for (mode, dmz_key, internal_key) in
        [(Mode::Reverse, "listen", "connect"), (Mode::Forward, "connect", "listen")]
    {
        let (port, folder) = (Reserved::new(), TestFolder::new());
        let plan = Plan { internal_link: retry, ..Plan::new(mode, "echo://") };
        let link = |key: &str| format!("{key}: 'socks+tls://{}'", port.at());
        // The half that dials comes first, and finds nobody.
        let start_dmz = || folder.start("dmz", &plan.dmz(&link(dmz_key)));
        let start_internal = || folder.start("internal", &plan.internal(&link(internal_key)));
        let (dmz, internal) = match mode {
            Mode::Forward => {
                let dmz = start_dmz();
                dmz.until_pool("down", |row| row.state == PoolState::Down).await;
                (dmz, start_internal())
            }
            _ => {
                let internal = start_internal();
                internal.until_pool("down", |row| row.state == PoolState::Down).await;
                (start_dmz(), internal)
            }
        };
        let pair = ModePair { folder, dmz, internal: Some(internal) };
        pair.ready().await;
        let mut client = dial(pair.dmz.client_port("orders").await).await;
        send(&mut client, b"there").await;
        expect_bytes(&mut client, b"there").await;
    }
}
