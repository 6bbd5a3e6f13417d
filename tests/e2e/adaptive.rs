//! How many links are kept, and what they tell of themselves.

use std::time::Duration;

use portcullis::{
    gateway::handle::{Command, CommandAnswer},
    profile::Mode,
    telemetry::snapshot::{LinkState, PoolRow, PoolState, Snapshot},
};
use tokio::task::JoinSet;

use crate::support::{
    gateway::TestFolder,
    mode_pair::Plan,
    peers::{dial, expect_bytes, expect_end, send},
};

/// Fewer than two links carry by so much that no third one is wanted.
const BURST: usize = 360;

fn links(snapshot: &Snapshot) -> usize {
    snapshot.pools.iter().map(|row| row.ready + row.carrying).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_is_carried_by_the_links_that_stand() {
    for mode in [Mode::Forward, Mode::Reverse] {
        let pair = Plan {
            dmz_link: ", prepared: 2, wait: 20s",
            internal_link: if mode == Mode::Reverse { ", prepared: 2" } else { "" },
            ..Plan::new(mode, "echo://")
        }
        .start()
        .await;
        pair.ready().await;
        let port = pair.dmz.client_port("orders").await;
        let mut clients = JoinSet::new();
        for _ in 0..BURST {
            clients.spawn(async move {
                let mut client = dial(port).await;
                send(&mut client, b"all at once").await;
                // Its turn may come as late as `wait` allows.
                let mut received = [0; 11];
                let answer = tokio::io::AsyncReadExt::read_exact(&mut client, &mut received);
                tokio::time::timeout(Duration::from_secs(30), answer).await.expect("in time").unwrap();
                assert_eq!(&received, b"all at once");
                client
            });
        }
        let clients = clients.join_all().await;
        let seen = pair.dmz.now().await;
        assert_eq!((clients.len(), seen.totals.refused, seen.pools[0].misses), (BURST, 0, 0), "{mode:?}");
        for gateway in [&pair.dmz, pair.inner()] {
            let seen = gateway.now().await;
            assert_eq!((links(&seen), seen.pools[0].failures), (2, 0), "{mode:?}: {:?}", seen.pools);
        }
        for mut client in clients {
            tokio::io::AsyncWriteExt::shutdown(&mut client).await.unwrap();
            expect_end(&mut client).await;
        }
    }
}

#[tokio::test]
async fn one_link_carries_session_after_session_in_both_close_orders() {
    for mode in [Mode::Forward, Mode::Reverse] {
        let backend = crate::support::peers::Backend::new().await;
        let pair = Plan {
            dmz_link: ", prepared: 1",
            internal_link: ", prepared: 1, maximum: 1",
            ..Plan::new(mode, &backend.address())
        }
        .start()
        .await;
        for round in 0..40_u8 {
            let mut client = pair.client().await;
            send(&mut client, &[round, 1]).await;
            let mut server = backend.accept().await;
            expect_bytes(&mut server, &[round, 1]).await;
            send(&mut server, &[round, 2]).await;
            expect_bytes(&mut client, &[round, 2]).await;
            let (mut first, mut last) = if round % 2 == 0 { (client, server) } else { (server, client) };
            tokio::io::AsyncWriteExt::shutdown(&mut first).await.unwrap();
            expect_end(&mut last).await;
            send(&mut last, b"the other direction goes on").await;
            expect_bytes(&mut first, b"the other direction goes on").await;
            drop(last);
            expect_end(&mut first).await;
        }
        let ended =
            |snapshot: &Snapshot| snapshot.totals.sessions == 40 && snapshot.totals.sessions_open == 0;
        for gateway in [&pair.dmz, pair.inner()] {
            let seen = gateway.until("all ended", ended).await;
            assert!(seen.ended.iter().all(|row| row.end == "--"), "{:?}", seen.ended);
            assert_eq!(seen.pools.len(), 1);
            let row = &seen.pools[0];
            assert_eq!((row.protocol.as_deref(), row.failures), (Some("portcullis/2"), 0), "{row:?}");
        }
        let ids = |rows: &Snapshot| rows.ended.iter().map(|row| row.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&*pair.dmz.now().await), ids(&*pair.inner().now().await), "the same ids on both");
    }
}

#[tokio::test]
async fn the_half_that_dials_resizes_the_pool_and_a_reload_undoes_it() {
    for mode in [Mode::Forward, Mode::Reverse] {
        let plan = Plan {
            dmz_link: ", prepared: 6",
            internal_link: if mode == Mode::Reverse { ", prepared: 6" } else { "" },
            ..Plan::new(mode, "echo://")
        };
        let pair = plan.start().await;
        pair.ready().await;
        let (dials, listens) = match mode {
            Mode::Forward => (&pair.dmz, pair.inner()),
            Mode::Direct | Mode::Reverse => (pair.inner(), &pair.dmz),
        };
        let refused = listens.refusal_of(Command::Resize { prepared: 3 }).await;
        assert!(refused.contains("the half that dials decides"), "{refused}");
        for (prepared, command) in
            [(3, Command::Resize { prepared: 3 }), (9, Command::Resize { prepared: 9 }), (6, Command::Reload)]
        {
            dials.done(command).await;
            for gateway in [dials, listens] {
                let is_so = |pool: &PoolRow| {
                    (pool.target, pool.ready, pool.state) == (prepared, prepared, PoolState::Healthy)
                };
                gateway.until_pool(&format!("{mode:?}: {prepared} links"), is_so).await;
            }
        }
    }
}

#[tokio::test]
async fn a_pool_is_not_resized_to_nothing_or_beyond_the_maximum() {
    for mode in [Mode::Forward, Mode::Reverse] {
        let pair = Plan { internal_link: ", maximum: 12", ..Plan::new(mode, "echo://") }.start().await;
        let dials = if mode == Mode::Forward { &pair.dmz } else { pair.inner() };
        let refused = dials.refusal_of(Command::Resize { prepared: 13 }).await;
        assert!(refused.contains("the internal half's `maximum`, 12"), "{mode:?}: {refused}");
        let refused = dials.refusal_of(Command::Resize { prepared: 0 }).await;
        assert!(refused.contains("would serve nobody"), "{mode:?}: {refused}");
        let row = dials.now().await.pools[0].clone();
        assert_eq!((row.target, row.ready), (8, 8), "{mode:?}: nothing has changed");
        dials.done(Command::Resize { prepared: 12 }).await;
        dials.until_pool("all that there may be", |row| (row.target, row.ready) == (12, 12)).await;
    }
}

#[tokio::test]
async fn a_pool_reports_its_links_and_its_clients_waits() {
    let pair = Plan::new(Mode::Reverse, "echo://").start().await;
    pair.ready().await;
    let mut client = pair.client().await;
    send(&mut client, b"hello").await;
    expect_bytes(&mut client, b"hello").await;
    let pool = pair.dmz.until_pool("a link with a session", |pool| pool.wait_p99_ms.is_some()).await;
    assert_eq!((pool.ready, pool.carrying, pool.links.len()), (8, 0, 8), "{pool:?}");
    assert!(pool.links.iter().all(|link| link.state == LinkState::Ready), "it takes more");
    let used: Vec<_> = pool.links.iter().filter(|link| link.sessions > 0).collect();
    assert_eq!((used.len(), used[0].sessions, used[0].tls.as_deref()), (1, 1, Some("TLS 1.3")));
    assert!(used[0].group.as_deref().is_some_and(|group| group.contains("25519")), "{used:?}");
    assert!(pool.certificate_days.is_some_and(|days| days > 0), "{pool:?}");
    assert!(pool.wait_p50_ms <= pool.wait_p99_ms, "{pool:?}");
    let seen = pair.dmz.now().await;
    assert!(seen.sessions[0].waited_ms.is_some() && seen.sessions[0].connected_ms.is_some(), "{seen:?}");
}

#[tokio::test]
async fn profiles_are_reported_with_the_lines_of_their_problems() {
    let folder = TestFolder::new();
    let direct = Plan::new(Mode::Direct, "echo://").direct();
    folder.profile("broken", "mode: direct\ndmz:\n  services:\n    web: { accpet: [] }\n");
    let gateway = folder.start("good", &direct);
    let CommandAnswer::Profiles(profiles) = gateway.handle.send_and_wait(Command::Profiles).await else {
        panic!("no profiles")
    };
    let of = |name: &str| profiles.iter().find(|row| row.name == name).unwrap();
    assert!(of("good").is_current && of("good").problems.is_empty(), "{profiles:?}");
    let problem = of("broken").problems.iter().find(|problem| problem.text.contains("accpet")).unwrap();
    assert!(problem.excerpt.iter().any(|line| line.contains("4 |     web: { accpet: [] }")), "{problem:?}");
    assert!(problem.excerpt.last().unwrap().ends_with('^'), "{problem:?}");
}
