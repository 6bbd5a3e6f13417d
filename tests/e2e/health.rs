//! What clients get, in a word, and the alerts behind it: the same in the snapshot and among the events.

use std::time::Duration;

use portcullis::{
    gateway::handle::{Command, CommandAnswer, GatewayHandle},
    profile::Mode,
    telemetry::{
        checklist::CheckStep,
        health::{Alert, AlertKind, Health},
        snapshot::{NoticeLevel, PoolRow, Snapshot},
    },
    tui::health::{PeerCounts, count_peers},
};
use tokio::{net::TcpStream, task::JoinSet};

use crate::{
    pool::{dmz, echoes, four, internal, tls, until_ready},
    support::{
        gateway::{Gateway, TestFolder},
        mode_pair::Plan,
        peers::{dial, dial_refused},
    },
};

fn alert(snapshot: &Snapshot, kind: AlertKind) -> Option<&Alert> {
    snapshot.alerts.iter().find(|alert| alert.kind == kind)
}

fn texts(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.alerts.iter().map(|alert| &*alert.text).collect()
}

/// Events that begin so, with their levels.
fn notices_starting_with(snapshot: &Snapshot, begin: &str) -> Vec<(NoticeLevel, String)> {
    let lines = snapshot.notices.iter().filter(|notice| notice.text.starts_with(begin));
    lines.map(|notice| (notice.level, notice.text.clone())).collect()
}

/// Waits until the gateway is healthy and that was logged. A slow start on a busy machine is an event too, and
/// later events are compared with it.
async fn until_healthy(gateway: &Gateway) -> std::sync::Arc<Snapshot> {
    let is_reported = |seen: &Snapshot| {
        notices_starting_with(seen, "health: ")
            .last()
            .is_none_or(|(_, line)| line.starts_with("health: HEALTHY"))
    };
    let is_well =
        |seen: &Snapshot| seen.health == Some(Health::Healthy) && seen.alerts.is_empty() && is_reported(seen);
    gateway.until_within(Duration::from_secs(30), "all is well", is_well).await
}

/// Clients until one of them is carried over each gateway.
async fn clients_over_both(dmz: &Gateway) -> Vec<TcpStream> {
    let mut clients = Vec::new();
    for _ in 0..2 {
        until_ready(dmz, &[("alpha", 2), ("beta", 2)]).await;
        clients.push(echoes(dmz).await);
    }
    clients
}

#[tokio::test]
async fn a_gateway_that_is_killed_is_missed_until_it_is_back_or_dismissed() {
    let folder = four();
    let dmz = dmz(&folder, "dmz", 0, "");
    let at = [dmz.link_port().await];
    let (_alpha, beta) = (internal(&folder, "alpha", &at, ""), internal(&folder, "beta", &at, ""));
    let _clients = clients_over_both(&dmz).await;
    beta.kill();
    let seen = dmz.until("it is missed", |seen| alert(seen, AlertKind::PeerLost).is_some()).await;
    let lost = alert(&seen, AlertKind::PeerLost).unwrap();
    assert_eq!((&*lost.object, seen.health), ("beta", Some(Health::Degraded)));
    assert!(lost.text.starts_with("beta at 127.0.0.1: lost, 1 session cut"), "{lost:?}");
    assert!(matches!(count_peers(&seen), PeerCounts { linked: 1, known: 2, gone_seconds: Some(_) }));
    dmz.until_notice("health: DEGRADED").await;
    let beta = internal(&folder, "beta", &at, "");
    dmz.until_notice("beta at 127.0.0.1: back after").await;
    dmz.until_notice("health: HEALTHY, was DEGRADED").await;
    let levels: Vec<_> =
        notices_starting_with(&*dmz.now().await, "beta at 127.0.0.1: ").iter().map(|line| line.0).collect();
    assert_eq!(levels, [NoticeLevel::Warn, NoticeLevel::Info], "one event each");
    until_ready(&dmz, &[("alpha", 2), ("beta", 2)]).await;
    beta.kill();
    dmz.until("it is missed", |seen| alert(seen, AlertKind::PeerLost).is_some()).await;
    dmz.done(Command::Dismiss { peer: "beta".into() }).await;
    assert_eq!(count_peers(&*until_healthy(&dmz).await).known, 1);
    dmz.refusal_of(Command::Dismiss { peer: "alpha".into() }).await;
}

#[tokio::test]
async fn verify_names_missing_and_healthy_peers_with_advice() {
    let folder = four();
    let dmz = dmz(&folder, "dmz", 0, "");
    let at = [dmz.link_port().await];
    let (_alpha, beta) = (internal(&folder, "alpha", &at, ""), internal(&folder, "beta", &at, ""));
    until_ready(&dmz, &[("alpha", 2), ("beta", 2)]).await;
    beta.kill();
    dmz.until("it is missed", |seen| alert(seen, AlertKind::PeerLost).is_some()).await;
    let answer = dmz.handle.send_and_wait(Command::Verify { steps: vec![CheckStep::Reverse] }).await;
    let CommandAnswer::Verified(report) = answer else { panic!("{answer:?}") };
    let (seen, advice) = (&report.steps[0].seen, report.steps[0].advice.as_deref().unwrap_or_default());
    let (missing, well) = seen.split_once("; well: ").expect("both are reported");
    assert!(missing.contains("0 of 2 links ready, beta at 127.0.0.1"), "{seen}");
    assert!(well.starts_with("2 of 2 links ready, alpha at 127.0.0.1"), "{seen}");
    assert!(advice.starts_with("start that gateway again"), "{advice}");
}

#[tokio::test]
async fn the_only_gateway_killed_is_down_with_the_true_cause() {
    let folder = four();
    let dmz = dmz(&folder, "dmz", 0, "");
    let beta = internal(&folder, "beta", &[dmz.link_port().await], "");
    until_ready(&dmz, &[("beta", 2)]).await;
    until_healthy(&dmz).await;
    beta.kill();
    let is_down = |seen: &Snapshot| seen.health == Some(Health::Down) && seen.alerts.len() == 1;
    let seen = dmz.until("it is down", is_down).await;
    assert_eq!(seen.services[0].health, Some(Health::Down));
    assert!(texts(&seen)[0].starts_with("beta at 127.0.0.1: lost; no link for orders"), "{:?}", texts(&seen));
    let _client = dial(dmz.client_port("orders").await).await;
    let waits = |seen: &Snapshot| texts(seen).iter().any(|text| text.contains("; 1 client waits"));
    let seen = dmz.until("its client waits", waits).await;
    assert_eq!((seen.health, seen.alerts.len()), (Some(Health::Down), 1), "{:?}", seen.alerts);
}

#[tokio::test]
async fn a_gateway_that_says_goodbye_raises_no_alert() {
    let folder = four();
    let dmz = dmz(&folder, "dmz", 0, "");
    let at = [dmz.link_port().await];
    let (alpha, beta) = (internal(&folder, "alpha", &at, ""), internal(&folder, "beta", &at, ""));
    until_ready(&dmz, &[("alpha", 2), ("beta", 2)]).await;
    beta.stop().await;
    dmz.until("it has left", |seen| seen.pools.len() == 1).await;
    assert_eq!(count_peers(&*until_healthy(&dmz).await).known, 1);
    alpha.stop().await;
    let seen = dmz.until("nobody is left", |seen| seen.health == Some(Health::Down)).await;
    let expected = "no link for orders: no internal gateway has a link; \
                    those that had one left in good order";
    assert_eq!(texts(&seen), [expected]);
    assert_eq!(notices_starting_with(&seen, "beta at"), []);
}

fn row<'a>(snapshot: &'a Snapshot, peer: &str) -> Option<&'a PoolRow> {
    snapshot.pools.iter().find(|row| row.peer.as_deref() == Some(peer))
}

/// It takes no more sessions, and carries the last one.
fn leaves(snapshot: &Snapshot, peer: &str) -> bool {
    row(snapshot, peer).is_some_and(|row| row.left && row.ready == 0 && row.carrying > 0)
}

#[tokio::test]
async fn a_gateway_that_leaves_is_none_for_the_next_client_though_it_still_carries_the_last() {
    let folder = four();
    let dmz = dmz(&folder, "dmz", 0, "");
    let at = [dmz.link_port().await];
    let (alpha, beta) = (internal(&folder, "alpha", &at, ""), internal(&folder, "beta", &at, ""));
    let clients = clients_over_both(&dmz).await;
    until_healthy(&dmz).await;
    let (alpha_stops, beta_stops) = (alpha.handle.clone(), beta.handle.clone());
    let mut stops = JoinSet::new();
    stops.spawn(async move { beta_stops.send_and_wait(Command::Stop).await });
    let seen = dmz.until("it leaves", |seen| leaves(seen, "beta")).await;
    assert_eq!((seen.health, texts(&seen).len()), (Some(Health::Healthy), 0), "{:?}", seen.alerts);
    assert_eq!((count_peers(&seen).linked, count_peers(&seen).known), (1, 2));
    assert!(seen.readiness.as_ref().is_some_and(|readiness| readiness.ready), "{:?}", seen.readiness);
    stops.spawn(async move { alpha_stops.send_and_wait(Command::Stop).await });
    let seen = dmz.until("both leave", |seen| leaves(seen, "beta") && leaves(seen, "alpha")).await;
    let lack = seen.services[0].lack.as_ref().map(|lack| &*lack.why);
    assert_eq!(
        (seen.health, lack),
        (Some(Health::Down), Some("no link: it drains, and takes no new sessions"))
    );
    assert!(seen.readiness.as_ref().is_some_and(|readiness| !readiness.ready), "{:?}", seen.readiness);
    drop(clients);
    let answers = stops.join_all().await;
    assert!(answers.iter().all(|answer| matches!(answer, CommandAnswer::Done(_))));
}

#[tokio::test]
async fn one_of_two_dialled_gateways_that_stops_with_sessions_open_is_no_warning() {
    let folder = four();
    let [one, other] = [dmz(&folder, "dmz", 0, ""), dmz(&folder, "dmz2", 0, "")];
    let at = [one.link_port().await, other.link_port().await];
    let alpha = internal(&folder, "alpha", &at, "");
    check_quiet_stop(&one, &alpha, (one.handle.clone(), "dmz")).await;

    let inside = |name: &str| {
        let text = format!(
            "mode: forward\ninternal:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', tls: {} }}\n  \
             services: {{ orders: {{ connect: 'echo://' }} }}\n",
            tls(name, "dmz")
        );
        folder.start(name, &text)
    };
    let [one, other] = [inside("alpha"), inside("beta")];
    let text = format!(
        "mode: forward\ndmz:\n  link: {{ connect: ['socks+tls://{}', 'socks+tls://{}'], tls: {}, prepared: 2 }}\n  \
         services: {{ orders: {{ accept: ['tcp://127.0.0.1:0'] }} }}\n",
        one.link_port().await,
        other.link_port().await,
        tls("dmz", "alpha, beta")
    );
    let outside = folder.start("outside", &text);
    check_quiet_stop(&outside, &outside, (one.handle.clone(), "alpha")).await;
}

/// Clients come by one half; another dials two gateways, of which this one stops.
async fn check_quiet_stop(clients: &Gateway, dials: &Gateway, (stops, name): (GatewayHandle, &str)) {
    let is_ready = |seen: &Snapshot| seen.pools.iter().filter(|row| row.ready == 2).count() == 2;
    dials.until("links to both are ready", is_ready).await;
    let open = [echoes(clients).await, echoes(clients).await, echoes(clients).await];
    let warned = |seen: &Snapshot| {
        let lines = seen.notices.iter().filter(|line| line.level == NoticeLevel::Warn);
        lines.map(|line| line.text.clone()).collect::<Vec<_>>()
    };
    let before = warned(&*until_healthy(dials).await);
    let mut stopping = JoinSet::new();
    stopping.spawn(async move { stops.send_and_wait(Command::Stop).await });
    // It is dialled again and again, and refuses.
    let is_refused =
        |seen: &Snapshot| leaves(seen, name) && row(seen, name).is_some_and(|row| row.failures > 2);
    let seen = dials.until("it leaves", is_refused).await;
    assert_eq!((seen.health, texts(&seen).len()), (Some(Health::Healthy), 0), "{:?}", seen.alerts);
    drop(open);
    let answers = stopping.join_all().await;
    assert!(answers.iter().all(|answer| matches!(answer, CommandAnswer::Done(_))));
    let seen = dials.until("it has left", |seen| row(seen, name).is_some_and(|row| row.carrying == 0)).await;
    assert_eq!((seen.health, texts(&seen).len()), (Some(Health::Healthy), 0), "{:?}", seen.alerts);
    assert_eq!(warned(&seen), before);
}

#[tokio::test]
async fn a_dialled_gateway_that_is_killed_is_reported_on_this_half_too() {
    let folder = four();
    let dmz = dmz(&folder, "dmz", 0, "");
    let beta = internal(&folder, "beta", &[dmz.link_port().await], "");
    until_healthy(&beta).await;
    dmz.kill();
    let seen = beta.until("it is missed", |seen| alert(seen, AlertKind::PeerLost).is_some()).await;
    let lost = alert(&seen, AlertKind::PeerLost).unwrap();
    assert!(lost.object == "dmz" && lost.text.contains(": lost; no link for orders"), "{lost:?}");
    // A machine that is busy for seconds sees one link go long before the other.
    beta.until_notice("health: DOWN").await;
    assert_eq!(notices_starting_with(&*beta.now().await, "dmz at socks+tls://").len(), 1);
}

#[tokio::test]
async fn a_limit_that_refuses_is_full_and_the_first_refused_is_a_warning() {
    let plan = Plan { dmz_service: ", sessions: 1", ..Plan::new(Mode::Direct, "echo://") };
    let pair = plan.start().await;
    let open = echoes(&pair.dmz).await;
    for _ in 0..3 {
        dial_refused(pair.dmz.client_port("orders").await).await;
    }
    let seen = pair.dmz.until("three refused", |seen| seen.totals.refused == 3).await;
    assert_eq!((seen.health, seen.services[0].health), (Some(Health::Full), Some(Health::Full)));
    let full = alert(&seen, AlertKind::Full).unwrap();
    let expected = "orders: full, 3 clients refused: the limit of 1 open session (`sessions`) is reached";
    assert_eq!((&*full.object, &*full.text), ("orders", expected));
    let line = "orders: LA the limit of 1 open session (`sessions`) is reached".to_owned();
    assert_eq!(
        notices_starting_with(&seen, "orders: LA"),
        [(NoticeLevel::Warn, line)],
        "one, and then counts"
    );
    drop(open);
    until_healthy(&pair.dmz).await;
}

#[tokio::test]
async fn a_drained_service_names_its_operator() {
    let service = |name| format!("    {name}: {{ accept: ['tcp://127.0.0.1:0'], connect: 'echo://' }}\n");
    let text = format!("mode: direct\ndmz:\n  services:\n{}{}", service("orders"), service("mail"));
    let gateway = TestFolder::new().start("dmz", &text);
    until_healthy(&gateway).await;
    gateway.handle.for_actor("ada").send_and_wait(Command::Drain { service: Some("mail".into()) }).await;
    let seen = gateway.now().await;
    let drained = alert(&seen, AlertKind::Drained).unwrap();
    assert_eq!((&*drained.object, seen.health), ("mail", Some(Health::Degraded)));
    assert!(drained.text.ends_with("by ada") && drained.text.contains(&drained.since), "{drained:?}");
    gateway.handle.for_actor("ada").send_and_wait(Command::Drain { service: None }).await;
    assert_eq!(gateway.now().await.health, Some(Health::Down));
    gateway.done(Command::Reload).await;
    until_healthy(&gateway).await;
}

#[tokio::test]
async fn an_accepts_certificate_that_ends_soon_is_reported() {
    let folder = TestFolder::new();
    crate::tls::make_ending(&folder, "www", time::Duration::days(3));
    let only_ours = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(folder.pki("www.key"), only_ours).unwrap();
    let text = "mode: direct\ndmz:\n  services:\n    orders:\n      accept: [{ address: 'tls://127.0.0.1:0', \
                tls: { certificate: pki/www.pem, key: pki/www.key } }]\n      connect: 'echo://'\n";
    let gateway = folder.start("dmz", text);
    let seen = gateway.until("it is reported", |seen| alert(seen, AlertKind::Certificate).is_some()).await;
    let soon = alert(&seen, AlertKind::Certificate).unwrap();
    // By whole days, of which the first may have begun.
    let days = seen.certificates[0].days;
    assert!((2..=3).contains(&days) && seen.health == Some(Health::Degraded), "{seen:?}");
    let text = format!("expires in {days} days");
    assert!(soon.object.ends_with("www.pem") && soon.text.ends_with(&text), "{soon:?}");
}
