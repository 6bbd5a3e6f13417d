//! How many links are kept: as many as are needed, and not more when it is quiet.

use std::time::Duration;

use portcullis::{profile::Mode, telemetry::snapshot::Snapshot};
use tokio::task::JoinSet;

use crate::support::{
    peers::{dial, hear, hear_end, say},
    ways::Plan,
};

const BURST: usize = 500;

fn links(snapshot: &Snapshot) -> usize {
    snapshot.pools.iter().map(|row| row.ready + row.carrying).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_is_carried_and_its_links_are_let_go_when_it_is_quiet() {
    for mode in [Mode::Forward, Mode::Reverse] {
        let way = Plan {
            dmz_link: ", prepared: 2, wait: 20s",
            internal_link: ", prepared: 2, maximum: 600",
            ..Plan::new(mode, "echo://")
        }
        .start()
        .await;
        let port = way.dmz.client_port("orders").await;
        let mut clients = JoinSet::new();
        for _ in 0..BURST {
            clients.spawn(async move {
                let mut client = dial(port).await;
                say(&mut client, b"all at once").await;
                hear(&mut client, b"all at once").await;
                client
            });
        }
        let clients = clients.join_all().await;
        let seen = way.dmz.now().await;
        assert_eq!((clients.len(), seen.totals.refused, seen.pools[0].misses), (BURST, 0, 0), "{mode:?}");
        assert!((BURST..=600).contains(&links(&seen)), "{mode:?}: {} links", links(&seen));
        for mut client in clients {
            tokio::io::AsyncWriteExt::shutdown(&mut client).await.unwrap();
            hear_end(&mut client).await;
        }
        let few = |snapshot: &Snapshot| links(snapshot) <= 4;
        let quiet = Duration::from_secs(60);
        for gateway in [&way.dmz, way.inner()] {
            let seen = gateway.until_within(quiet, "few links", few).await;
            assert!(seen.pools.iter().all(|row| row.ready >= 2 && row.failures == 0), "{:?}", seen.pools);
        }
    }
}

#[tokio::test]
async fn one_link_carries_session_after_session_in_both_close_orders() {
    for mode in [Mode::Forward, Mode::Reverse] {
        let backend = crate::support::peers::Backend::new().await;
        let way = Plan {
            dmz_link: ", prepared: 1",
            internal_link: ", prepared: 1, maximum: 1",
            ..Plan::new(mode, &backend.address())
        }
        .start()
        .await;
        for round in 0..40_u8 {
            let mut client = way.client().await;
            say(&mut client, &[round, 1]).await;
            let mut server = backend.accept().await;
            hear(&mut server, &[round, 1]).await;
            say(&mut server, &[round, 2]).await;
            hear(&mut client, &[round, 2]).await;
            let (mut first, mut last) = if round % 2 == 0 { (client, server) } else { (server, client) };
            tokio::io::AsyncWriteExt::shutdown(&mut first).await.unwrap();
            hear_end(&mut last).await;
            say(&mut last, b"the other direction goes on").await;
            hear(&mut first, b"the other direction goes on").await;
            drop(last);
            hear_end(&mut first).await;
        }
        let ended =
            |snapshot: &Snapshot| snapshot.totals.sessions == 40 && snapshot.totals.sessions_open == 0;
        for gateway in [&way.dmz, way.inner()] {
            let seen = gateway.until("all ended", ended).await;
            assert!(seen.ended.iter().all(|row| row.end == "--"), "{:?}", seen.ended);
            assert_eq!(seen.pools.len(), 1);
            let row = &seen.pools[0];
            assert_eq!((row.wire.as_deref(), row.failures), (Some("portcullis/1"), 0), "{row:?}");
        }
        let ids = |rows: &Snapshot| rows.ended.iter().map(|row| row.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&*way.dmz.now().await), ids(&*way.inner().now().await), "the same ids on both");
    }
}
