//! The pool of ready links: filled, shared out, bounded, and refilled.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use portcullis::{
    profile::Mode,
    telemetry::{
        health::{AlertKind, Health},
        snapshot::{EndedRow, PoolRow, PoolState, Snapshot},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::support::{
    gateway::{Gateway, PATIENCE, TestFolder},
    mode_pair::{ModePair, Plan},
    peers::{Backend, Reserved, cut, dial, dial_refused, expect_bytes, expect_reset, read_all, seed, send},
    socks::{BIND, link, reply_at},
};

pub fn tls(name: &str, peers: &str) -> String {
    format!("{{ certificate: pki/{name}.pem, key: pki/{name}.key, ca: pki/ca.pem, peers: [{peers}] }}")
}

/// A DMZ half named `name`, for the internal halves `alpha` and `beta`.
pub fn dmz(folder: &TestFolder, name: &str, port: u16, service: &str) -> Gateway {
    let text = format!(
        "mode: reverse\ndmz:\n  link: {{ listen: 'socks+tls://127.0.0.1:{port}', tls: {}, prepared: 2 }}\n  \
         services: {{ orders: {{ accept: ['tcp://127.0.0.1:0']{service} }} }}\n",
        tls(name, "alpha, beta")
    );
    folder.start(name, &text)
}

/// An internal half named `name`, dialling each of `at`.
pub fn internal(folder: &TestFolder, name: &str, at: &[SocketAddr], service: &str) -> Gateway {
    let connect: Vec<_> = at.iter().map(|at| format!("'socks+tls://{at}'")).collect();
    let text = format!(
        "mode: reverse\ninternal:\n  link: {{ connect: [{}], tls: {}, prepared: 2, \
         retry: {{ first: 10ms, maximum: 50ms }} }}\n  services: {{ orders: {{ connect: 'echo://'{service} }} }}\n",
        connect.join(", "),
        tls(name, "dmz, dmz2")
    );
    folder.start(name, &text)
}

pub fn four() -> TestFolder {
    TestFolder::with(&["dmz", "dmz2", "alpha", "beta"])
}

/// Ready links by peer.
pub async fn until_ready(gateway: &Gateway, expected: &[(&str, usize)]) {
    let expected: HashMap<_, _> = expected.iter().copied().collect();
    gateway
        .until(&format!("ready links {expected:?}"), |snapshot| {
            let ready = snapshot.pools.iter().filter(|row| row.ready > 0);
            let of_peers: HashMap<_, _> =
                ready.map(|row| (row.peer.as_deref().unwrap_or("?"), row.ready)).collect();
            of_peers == expected
        })
        .await;
}

pub async fn echoes(gateway: &Gateway) -> TcpStream {
    let mut client = dial(gateway.client_port("orders").await).await;
    send(&mut client, b"ping").await;
    expect_bytes(&mut client, b"ping").await;
    client
}

#[tokio::test]
async fn peers_take_turns() {
    let folder = four();
    let dmz = dmz(&folder, "dmz", 0, "");
    let at = [dmz.link_port().await];
    let _halves = (internal(&folder, "alpha", &at, ""), internal(&folder, "beta", &at, ""));
    let mut clients = Vec::new();
    for _ in 0..6 {
        until_ready(&dmz, &[("alpha", 2), ("beta", 2)]).await;
        clients.push(echoes(&dmz).await);
    }
    let snapshot = dmz.now().await;
    let peers: Vec<_> = snapshot.sessions.iter().map(|row| row.peer.as_deref().unwrap()).collect();
    assert!(peers.windows(2).all(|pair| pair[0] != pair[1]), "{peers:?}");
}

#[tokio::test]
async fn the_newest_link_of_a_peer_goes_first() {
    let text = "mode: reverse\ndmz:\n  link: { listen: 'socks://127.0.0.1:0' }\n  \
                services: { orders: { accept: ['tcp://127.0.0.1:0'] } }\n";
    let gateway = TestFolder::new().start("dmz", text);
    let mut parked = Vec::new();
    for count in 1..=3 {
        parked.push(link(gateway.link_port().await, BIND, b"orders").await.0);
        gateway.until_pool("one more ready", |row| row.ready == count).await;
    }
    for mut newest in parked.into_iter().rev() {
        let client = dial(gateway.client_port("orders").await).await;
        expect_bytes(&mut newest, &reply_at(client.local_addr().unwrap())).await;
    }
}

#[tokio::test]
async fn waiting_clients_are_bounded_in_number_and_in_time() {
    let text = "mode: reverse\ndmz:\n  link: { listen: 'socks://127.0.0.1:0', wait: 300ms, waiters: 2 }\n  \
                services: { orders: { accept: ['tcp://127.0.0.1:0'] } }\n";
    let gateway = TestFolder::new().start("dmz", text);
    let port = gateway.client_port("orders").await;
    let waiting = [dial(port).await, dial(port).await];
    gateway.until_pool("two wait", |row| row.waiting == 2 && row.state == PoolState::Starved).await;
    dial_refused(port).await;
    assert_eq!(gateway.until_ended("LW").await.reason, "2 clients wait for a link already");
    for mut client in waiting {
        crate::support::peers::expect_reset(&mut client).await;
    }
    assert_eq!(gateway.until_ended("TW").await.reason, "no link came within 0.3s");
    let row = gateway.until_pool("nobody waits", |row| row.waiting == 0).await;
    assert_eq!((row.misses, row.state), (3, PoolState::Down));
    let totals = gateway.now().await.totals;
    assert_eq!((totals.refused, totals.sessions), (3, 0));
}

#[tokio::test]
async fn clients_that_wait_are_counted_for_the_gateway_and_not_for_each_service() {
    let text = "mode: reverse\ndmz:\n  link: { listen: 'socks://127.0.0.1:0', wait: 60s, waiters: 3 }\n  \
                services: { orders: { accept: ['tcp://127.0.0.1:0'] }, mail: { accept: ['tcp://127.0.0.1:0'] } }\n";
    let gateway = TestFolder::new().start("dmz", text);
    let (orders, mail) = (gateway.client_port("orders").await, gateway.client_port("mail").await);
    let waits = |snapshot: &Snapshot| snapshot.pools.iter().map(|row| row.waiting).sum::<usize>();
    let first = [dial(orders).await, dial(orders).await, dial(orders).await];
    gateway.until("three wait", |snapshot| waits(snapshot) == 3).await;
    // A service of which fewer wait gets room, from the one of which most do.
    let second = dial(mail).await;
    let reason = &gateway.until_ended("LW").await.reason;
    assert_eq!(
        reason,
        "2 other clients of this service wait for a link, and a client of another service needed the room"
    );
    gateway.until("three wait", |snapshot| waits(snapshot) == 3).await;
    dial_refused(mail).await;
    dial_refused(orders).await;
    let is_full = |row: &EndedRow| row.reason == "3 clients wait for a link already";
    gateway.until("it is full", |seen| seen.ended.iter().filter(|row| is_full(row)).count() == 2).await;
    drop((first, second));
}

#[tokio::test]
async fn a_client_that_gives_up_leaves_the_queue() {
    let text = "mode: reverse\ndmz:\n  link: { listen: 'socks://127.0.0.1:0', wait: 60s }\n  \
                services: { orders: { accept: ['tcp://127.0.0.1:0'] } }\n";
    let gateway = TestFolder::new().start("dmz", text);
    let port = gateway.client_port("orders").await;
    let (is_cut, mut stays) = (dial(port).await, dial(port).await);
    // The queue is first come, first served: the one that stays has to be in it before the next.
    gateway.until_pool("two wait", |row| row.waiting == 2).await;
    let mut talks_and_is_cut = dial(port).await;
    send(&mut talks_and_is_cut, b"words").await;
    gateway.until_pool("three wait", |row| row.waiting == 3).await;
    cut(talks_and_is_cut);
    cut(is_cut);
    gateway
        .until("both left", |snapshot| snapshot.ended.iter().filter(|row| row.end == "CW").count() == 2)
        .await;
    let (mut parked, _) = link(gateway.link_port().await, BIND, b"orders").await;
    expect_bytes(&mut parked, &reply_at(stays.local_addr().unwrap())).await;
    send(&mut parked, b"yours").await;
    expect_bytes(&mut stays, b"yours").await;
}

/// As `nc -N` without input does; whether a link is ready is not its affair.
#[tokio::test]
async fn a_client_that_has_only_finished_sending_is_carried_when_a_link_comes() {
    // In forward mode over SOCKS5 a session dials its own link, and waits for none.
    for (mode, is_plain) in [(Mode::Forward, false), (Mode::Reverse, false), (Mode::Reverse, true)] {
        let (port, backend, folder) = (Reserved::new(), Backend::new().await, TestFolder::new());
        let at = backend.address();
        let plan = Plan {
            is_plain,
            dmz_link: ", wait: 60s",
            internal_link: ", retry: { first: 10ms, maximum: 50ms }",
            ..Plan::new(mode, &at)
        };
        let scheme = if is_plain { "socks" } else { "socks+tls" };
        let link = |key: &str| format!("{key}: '{scheme}://{}'", port.at());
        let [of_dmz, of_internal] = match mode {
            Mode::Forward => ["connect", "listen"],
            Mode::Direct | Mode::Reverse => ["listen", "connect"],
        };
        let dmz = folder.start("dmz", &plan.dmz(&link(of_dmz)));
        let at = dmz.client_port("orders").await;
        let (mut silent, mut talks) = (dial(at).await, dial(at).await);
        send(&mut talks, b"?").await;
        for client in [&mut silent, &mut talks] {
            client.shutdown().await.unwrap();
        }
        dmz.until("both wait", |seen| seen.totals.sessions_waiting == 2).await;
        let internal = folder.start("internal", &plan.internal(&link(of_internal)));
        let mut sent = Vec::new();
        for _ in 0..2 {
            let mut server = backend.accept().await;
            sent.push(read_all(&mut server).await);
            send(&mut server, b"!").await;
        }
        sent.sort();
        assert_eq!(sent, [&b""[..], b"?"], "{mode:?}, plain: {is_plain}");
        for client in [&mut silent, &mut talks] {
            assert_eq!(read_all(client).await, b"!");
        }
        for gateway in [&dmz, &internal] {
            let clean = |seen: &Snapshot| seen.ended.iter().filter(|row| row.end == "--").count() == 2;
            gateway.until("both end cleanly", clean).await;
        }
    }
}

#[tokio::test]
async fn a_gateway_that_is_lost_and_comes_back_gets_all_its_links_again() {
    let (folder, port) = (four(), Reserved::new());
    let alpha = internal(&folder, "alpha", &[port.at()], "");
    for _ in 0..3 {
        let dmz = dmz(&folder, "dmz", port.at().port(), "");
        until_ready(&dmz, &[("alpha", 2)]).await;
        alpha.until_pool("healthy", |row| row.state == PoolState::Healthy).await;
        let client = echoes(&dmz).await;
        dmz.kill();
        crate::support::peers::expect_reset(&mut { client }).await;
        alpha.until_pool("down", |row| row.ready == 0 && row.carrying == 0).await;
    }
}

#[tokio::test]
async fn one_of_two_on_each_side_is_enough() {
    let (folder, ports) = (four(), [Reserved::new(), Reserved::new()]);
    let at = [ports[0].at(), ports[1].at()];
    let (first, second) = (dmz(&folder, "dmz", at[0].port(), ""), dmz(&folder, "dmz2", at[1].port(), ""));
    let (alpha, beta) = (internal(&folder, "alpha", &at, ""), internal(&folder, "beta", &at, ""));
    for dmz in [&first, &second] {
        until_ready(dmz, &[("alpha", 2), ("beta", 2)]).await;
        echoes(dmz).await;
    }
    alpha.kill();
    for dmz in [&first, &second] {
        // A take is final once its reply is written: a client may still meet a link that is dying.
        dmz.until("alpha's links are lost", |snapshot| {
            let of_alpha = |row: &&PoolRow| row.peer.as_deref() == Some("alpha");
            snapshot.pools.iter().filter(of_alpha).all(|row| row.ready == 0)
        })
        .await;
        for _ in 0..4 {
            echoes(dmz).await;
        }
    }
    first.kill();
    beta.until("one gateway down", |snapshot| {
        snapshot.pools.iter().map(|row| row.state).collect::<Vec<_>>()
            == [PoolState::Down, PoolState::Healthy]
            || snapshot.pools.iter().map(|row| row.state).collect::<Vec<_>>()
                == [PoolState::Healthy, PoolState::Down]
    })
    .await;
    for _ in 0..4 {
        echoes(&second).await;
    }
}

#[tokio::test]
async fn a_peer_that_comes_back_gets_its_share_again() {
    let folder = four();
    let dmz = dmz(&folder, "dmz", 0, "");
    let at = [dmz.link_port().await];
    let (_alpha, beta) = (internal(&folder, "alpha", &at, ""), internal(&folder, "beta", &at, ""));
    until_ready(&dmz, &[("alpha", 2), ("beta", 2)]).await;
    beta.kill();
    until_ready(&dmz, &[("alpha", 2)]).await;
    for _ in 0..6 {
        echoes(&dmz).await;
    }
    let _beta = internal(&folder, "beta", &at, "");
    let ready = |snapshot: &portcullis::telemetry::snapshot::Snapshot, name: &str| {
        snapshot.pools.iter().any(|row| row.peer.as_deref() == Some(name) && row.ready >= 2)
    };
    let mut clients = Vec::new();
    for _ in 0..8 {
        dmz.until("links of both", |seen| ready(seen, "alpha") && ready(seen, "beta")).await;
        clients.push(echoes(&dmz).await);
    }
    let seen = dmz.now().await;
    let of_beta = seen.sessions.iter().filter(|row| row.peer.as_deref() == Some("beta")).count();
    assert_eq!((seen.sessions.len(), of_beta), (8, 4), "{:?}", seen.sessions);
}

/// A DMZ half that dials these, with services `orders` and `mail`.
async fn dials(folder: &TestFolder, to: &[&Gateway]) -> Gateway {
    let mut connect = Vec::new();
    for gateway in to {
        connect.push(format!("'socks+tls://{}'", gateway.link_port().await));
    }
    let text = format!(
        "mode: forward\ndmz:\n  link: {{ connect: [{}], tls: {}, prepared: 2, wait: 60s }}\n  services:\n    \
         orders: {{ accept: ['tcp://127.0.0.1:0'] }}\n    mail: {{ accept: ['tcp://127.0.0.1:0'] }}\n",
        connect.join(", "),
        tls("dmz", "alpha, beta")
    );
    folder.start("dmz", &text)
}

/// An internal half named `name` that is dialled, with one service.
/// With links that carry one session each.
fn dialled(folder: &TestFolder, name: &str, service: &str, maximum: usize) -> Gateway {
    let text = format!(
        "mode: forward\ninternal:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', tls: {}, maximum: {maximum}, \
         sessions_per_link: 1 }}\n  \
         services: {{ {service}: {{ connect: 'echo://' }} }}\n",
        tls(name, "dmz")
    );
    folder.start(name, &text)
}

#[tokio::test]
async fn clients_wait_in_the_row_that_may_serve_them_in_forward_mode_too() {
    let folder = four();
    let (alpha, beta) = (dialled(&folder, "alpha", "orders", 4), dialled(&folder, "beta", "mail", 2));
    let dmz = dials(&folder, &[&alpha, &beta]).await;
    until_ready(&dmz, &[("alpha", 2), ("beta", 2)]).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(dial(dmz.client_port("mail").await).await);
    }
    let waits = |row: &PoolRow| (row.peer.clone().unwrap_or_default(), row.waiting, row.state);
    let expected = [("alpha".into(), 0, PoolState::Healthy), ("beta".into(), 1, PoolState::Starved)];
    let seen = dmz
        .until("one waits for beta", |seen| seen.pools.iter().map(waits).collect::<Vec<_>>() == expected)
        .await;
    assert_eq!(seen.pools[1].waited_for, ["mail"]);
    assert_eq!(
        (&*seen.pools[0].serves, &*seen.pools[1].serves),
        (&["orders".into()][..], &["mail".into()][..])
    );
}

#[tokio::test]
async fn a_service_that_no_dialled_gateway_offers_has_a_row_and_its_clients_wait_there() {
    let folder = four();
    let alpha = dialled(&folder, "alpha", "orders", 4);
    let dmz = dials(&folder, &[&alpha]).await;
    until_ready(&dmz, &[("alpha", 2)]).await;
    let _client = dial(dmz.client_port("mail").await).await;
    let seen = dmz.until("it waits", |seen| seen.pools.iter().any(|row| row.waiting == 1)).await;
    let row = seen.pools.iter().find(|row| row.service == "mail").unwrap();
    assert_eq!((&row.peer, row.waiting, row.state), (&None, 1, PoolState::Starved));
    assert_eq!(
        row.last_error.as_deref(),
        Some(
            "no internal gateway that is linked offers this service, or its `peers` names none of those that do"
        )
    );
    assert_eq!((seen.pools[0].waiting, seen.pools[0].state), (0, PoolState::Healthy));
}

#[tokio::test]
async fn a_services_peers_decide_on_both_sides() {
    let folder = four();
    let only_beta = dmz(&folder, "dmz", 0, ", peers: [beta]");
    let at = [only_beta.link_port().await];
    let (alpha, _beta) = (internal(&folder, "alpha", &at, ""), internal(&folder, "beta", &at, ""));
    until_ready(&only_beta, &[("beta", 2)]).await;
    let row = alpha.until_pool("down", |row| row.state == PoolState::Down).await;
    assert!(row.last_error.as_deref().unwrap().contains("not allowed by `peers`"), "{row:?}");
    only_beta.until_notice("link from alpha refused: it offers no service that is known here").await;
    let only_dmz2 = internal(&folder, "alpha", &at, ", peers: [dmz2]");
    let row = only_dmz2.until_pool("down", |row| row.state == PoolState::Down).await;
    assert_eq!(row.last_error.as_deref(), Some("dmz is not among the `peers` of any service"));
    for _ in 0..3 {
        echoes(&only_beta).await;
    }
}

#[tokio::test]
async fn peers_that_a_reload_takes_away_lose_their_ready_links() {
    let folder = four();
    let dmz = dmz(&folder, "dmz", 0, "");
    let at = [dmz.link_port().await];
    let _halves = (internal(&folder, "alpha", &at, ""), internal(&folder, "beta", &at, ""));
    until_ready(&dmz, &[("alpha", 2), ("beta", 2)]).await;
    let file = folder.profile("dmz", "");
    let text = format!(
        "mode: reverse\ndmz:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', tls: {}, prepared: 2 }}\n  \
         services: {{ orders: {{ accept: ['tcp://127.0.0.1:0'], peers: [beta] }} }}\n",
        tls("dmz", "alpha, beta")
    );
    std::fs::write(file, text).unwrap();
    dmz.done(portcullis::gateway::handle::Command::Reload).await;
    until_ready(&dmz, &[("beta", 2)]).await;
}

#[tokio::test]
async fn two_hundred_failures_leave_no_debt() {
    let (folder, port) = (four(), Reserved::new());
    let text = format!(
        "mode: reverse\ninternal:\n  link: {{ connect: 'socks+tls://{}', tls: {}, prepared: 6, \
         retry: {{ first: 1ms, maximum: 1ms }} }}\n  services: {{ orders: {{ connect: 'echo://' }} }}\n",
        port.at(),
        tls("alpha", "dmz")
    );
    let alpha = folder.start("alpha", &text);
    alpha.until_pool("200 failures", |row| row.failures >= 200 && row.state == PoolState::Down).await;
    let dmz = dmz(&folder, "dmz", port.at().port(), "");
    until_ready(&dmz, &[("alpha", 6)]).await;
    let row = alpha.until_pool("full", |row| row.state == PoolState::Healthy).await;
    assert_eq!((row.ready, row.dialling, row.last_error), (6, 0, None));
}

#[tokio::test]
async fn maximum_bounds_ready_and_carrying_links_together_and_is_a_limit_for_clients() {
    for mode in [Mode::Forward, Mode::Reverse] {
        let plan = Plan {
            internal_link: ", prepared: 3, maximum: 4, sessions_per_link: 1",
            dmz_link: ", prepared: 3, wait: 300ms",
            ..Plan::new(mode, "echo://")
        };
        check_maximum(plan.start().await, mode).await;
    }
}

async fn check_maximum(pair: ModePair, mode: Mode) {
    let dialler = if mode == Mode::Forward { &pair.dmz } else { pair.inner() };
    let mut clients = vec![echoes(&pair.dmz).await];
    for (carrying, ready) in [(1, 3), (2, 2), (3, 1), (4, 0)] {
        pair.dmz.until_pool("bounded", |row| (row.carrying, row.ready) == (carrying, ready)).await;
        dialler
            .until_pool("bounded", |row| (row.carrying, row.ready, row.dialling) == (carrying, ready, 0))
            .await;
        if ready > 0 {
            clients.push(echoes(&pair.dmz).await);
        }
    }
    let row = dialler.until_pool("told", |row| row.last_error.is_some()).await;
    assert_eq!(row.last_error.as_deref(), Some("`maximum` links are in use"));
    // In forward mode, the internal half does not know how many links the DMZ half wants.
    let both = if mode == Mode::Forward { vec![&pair.dmz] } else { vec![&pair.dmz, pair.inner()] };
    for gateway in &both {
        let row = gateway.until_pool("full", |row| row.at_maximum).await;
        assert_eq!(row.state, PoolState::Filling, "all carry, and nobody waits");
        gateway.until("its health says so", |snapshot| snapshot.health == Some(Health::Full)).await;
    }
    let mut late = dial(pair.dmz.client_port("orders").await).await;
    expect_reset(&mut late).await;
    let ended = pair.dmz.until_ended("LW").await;
    assert_eq!(ended.reason, "no link came within 0.3s: `maximum` links are in use");
    let is_one_cause = |snapshot: &Snapshot| {
        !snapshot.alerts.is_empty() && snapshot.alerts.iter().all(|alert| alert.kind == AlertKind::Full)
    };
    pair.dmz.until("nothing else is an alert", is_one_cause).await;
    drop(clients);
    pair.ready().await;
    for gateway in both {
        gateway.until_pool("not full", |row| !row.at_maximum && row.last_error.is_none()).await;
        // A limit that has refused somebody is shown for ten seconds more.
        let is_well = |snapshot: &Snapshot| snapshot.health == Some(Health::Healthy);
        gateway.until_within(Duration::from_secs(20), "it is well", is_well).await;
    }
}

/// Parks again and again, and at random cuts the link while it is ready.
async fn unsteady_parker(at: SocketAddr, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    loop {
        let (mut parked, code) = link(at, BIND, b"orders").await;
        assert_eq!(code, 0);
        let patience = Duration::from_micros(random.u64(0..8000));
        let mut second = [0; 10];
        match timeout(patience, parked.read_exact(&mut second)).await {
            Ok(Ok(_)) => send(&mut parked, b"carried").await,
            Ok(Err(_)) => {}
            Err(_) => cut(parked),
        }
    }
}

#[tokio::test]
async fn a_client_is_carried_or_refused_in_time_while_links_die_at_random() {
    let seed = seed();
    let text = "mode: reverse\ndmz:\n  link: { listen: 'socks://127.0.0.1:0', wait: 1s }\n  \
                services: { orders: { accept: ['tcp://127.0.0.1:0'] } }\n";
    let gateway = TestFolder::new().start("dmz", text);
    let (links, port) = (gateway.link_port().await, gateway.client_port("orders").await);
    let mut parkers = JoinSet::new();
    for at in 0..6 {
        parkers.spawn(unsteady_parker(links, seed.wrapping_add(at)));
    }
    let mut clients = JoinSet::new();
    for _ in 0..300 {
        clients.spawn(async move {
            let mut client = dial(port).await;
            let mut received = Vec::new();
            let end = timeout(PATIENCE, client.read_to_end(&mut received)).await.expect("never left hanging");
            match received.as_slice() {
                b"carried" => true,
                b"" => end.is_err().then_some(false).expect("an empty clean end"),
                other => panic!("{other:?}"),
            }
        });
        if clients.len() >= 8 {
            clients.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(carried) = clients.join_next().await {
        carried.unwrap();
    }
    let snapshot = gateway.until("all ended", |snapshot| snapshot.totals.open_and_waiting() == 0).await;
    assert_eq!(snapshot.totals.sessions + snapshot.totals.refused, 300);
    assert_eq!(snapshot.pools[0].waiting, 0);
}
