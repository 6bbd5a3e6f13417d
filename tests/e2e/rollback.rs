//! What goes wrong in the middle of a switch: the gateway serves the way it did before.

use std::fs;

use portcullis::{gateway::handle::Command, telemetry::snapshot::Snapshot};
use tokio::net::TcpListener;

use crate::{
    support::{
        gateway::Gateway,
        peers::{dial, expect_reset},
    },
    switch::{Load, Pair, check_echo, ready, until_closed},
};

fn to(pair: &Pair, mode: &str, half: &str) -> Command {
    Command::Switch { profile: pair.half(mode, half).to_str().unwrap().into() }
}

/// Two halves in forward mode, and a session over them.
async fn forward(pair: &Pair) -> (Gateway, Gateway) {
    let internal = pair.folder.start_file(&pair.half("forward", "internal"));
    let dmz = pair.folder.start_file(&pair.half("forward", "dmz"));
    ready(&dmz).await;
    (dmz, internal)
}

async fn serves_as_before(pair: &Pair) {
    let mut client = dial(pair.clients.at()).await;
    check_echo(&mut client, "as before").await;
}

#[tokio::test]
async fn the_internal_half_is_killed_while_the_dmz_half_switches() {
    let pair = Pair::new();
    let (dmz, internal) = forward(&pair).await;
    let mut cut = dial(pair.clients.at()).await;
    check_echo(&mut cut, "open").await;
    let reverse = to(&pair, "reverse", "dmz");
    let refused = tokio::join!(dmz.refusal_of(reverse), async {
        dmz.until("it listens on the new way", |snapshot| !snapshot.listening.is_empty()).await;
        internal.kill();
        expect_reset(&mut cut).await;
    });
    assert!(
        refused.0.contains("rolled back: not ready within 10s: no internal gateway has dialled in"),
        "{}",
        refused.0
    );
    until_closed(pair.dmz_link.at()).await;
    let _internal = pair.folder.start_file(&pair.half("forward", "internal"));
    ready(&dmz).await;
    serves_as_before(&pair).await;
    assert_eq!(dmz.now().await.profile, "forward-dmz");
}

#[tokio::test]
async fn the_dmz_half_is_killed_while_the_internal_half_switches() {
    let pair = Pair::new();
    let (dmz, internal) = forward(&pair).await;
    let reverse = to(&pair, "reverse", "internal");
    let refused = tokio::join!(internal.refusal_of(reverse), async {
        let dials = |snapshot: &Snapshot| snapshot.notices.iter().any(|line| line.text.contains("begun"));
        internal.until("it has begun", dials).await;
        dmz.kill();
    });
    assert!(refused.0.contains("connection refused; nothing was changed"), "{}", refused.0);
    let dmz = pair.folder.start_file(&pair.half("forward", "dmz"));
    ready(&dmz).await;
    serves_as_before(&pair).await;
    assert_eq!(internal.now().await.listening, [format!("socks+tls://{}", pair.internal_link.at())]);
}

#[tokio::test]
async fn a_rejected_dialler_does_not_count_as_a_peer() {
    let pair = Pair::new();
    let (dmz, internal) = forward(&pair).await;
    let load = Load::start(pair.clients.at());
    // A client without a valid certificate dials in.
    let text = fs::read_to_string(pair.half("reverse", "internal")).unwrap();
    let text = text.replace("internal.pem", "dmz.pem");
    let stranger = pair.folder.profile("stranger", &text.replace("internal.key", "dmz.key"));
    let stranger = pair.folder.start_file(&stranger);
    let refused = dmz.refusal_of(to(&pair, "reverse", "dmz")).await;
    assert!(refused.contains("rolled back"), "{refused}");
    dmz.until_notice("its certificate is for dmz, none of which is among this link's peers").await;
    stranger.kill();
    load.serves(10).await;
    load.end().await;
    drop(internal);
}

#[tokio::test]
async fn a_link_port_that_is_taken_changes_nothing() {
    let pair = Pair::new();
    let gateway = pair.folder.start_file(&pair.both("forward"));
    ready(&gateway).await;
    let _holder = TcpListener::bind(pair.dmz_link.at()).await.unwrap();
    let load = Load::start(pair.clients.at());
    let reverse = Command::Switch { profile: pair.both("reverse").to_str().unwrap().into() };
    let refused = gateway.refusal_of(reverse).await;
    let why = format!("{}: the port is taken by this gateway", pair.dmz_link.at());
    assert!(refused.starts_with(&why), "{refused}");
    load.serves(10).await;
    load.end().await;
    let snapshot = gateway.now().await;
    assert_eq!((snapshot.profile.as_str(), snapshot.totals.refused), ("forward", 0));
}

#[tokio::test]
async fn certificates_that_cannot_be_read_change_nothing() {
    let pair = Pair::new();
    let gateway = pair.folder.start_file(&pair.both("forward"));
    ready(&gateway).await;
    let mut open = dial(pair.clients.at()).await;
    check_echo(&mut open, "open").await;
    let load = Load::start(pair.clients.at());
    fs::copy(pair.folder.pki("internal.key"), pair.folder.pki("kept.key")).unwrap();
    for broken in [&b"nothing"[..], b""] {
        fs::write(pair.folder.pki("internal.key"), broken).unwrap();
        let reverse = Command::Switch { profile: pair.both("reverse").to_str().unwrap().into() };
        for command in [reverse, Command::Reload] {
            let refused = gateway.refusal_of(command).await;
            assert!(refused.contains("internal.link.tls.key: it holds no private key"), "{refused}");
            load.serves(10).await;
            check_echo(&mut open, "still").await;
        }
    }
    fs::remove_file(pair.folder.pki("internal.key")).unwrap();
    let refused = gateway.refusal_of(Command::Reload).await;
    assert!(refused.contains("internal.key: No such file"), "{refused}");
    fs::rename(pair.folder.pki("kept.key"), pair.folder.pki("internal.key")).unwrap();
    gateway.done(Command::Reload).await;
    load.serves(10).await;
    load.end().await;
    let snapshot = gateway.now().await;
    assert_eq!((snapshot.profile.as_str(), snapshot.totals.refused), ("forward", 0));
}

#[tokio::test]
async fn until_the_pool_is_full_sessions_go_the_old_way() {
    let pair = Pair::new();
    let (dmz, internal) = forward(&pair).await;
    let (dmz_to, internal_to) = (to(&pair, "reverse", "dmz"), to(&pair, "reverse", "internal"));
    // The outer half first: it waits, and clients are served the old way meanwhile.
    let load = Load::start(pair.clients.at());
    let switched = tokio::join!(dmz.done(dmz_to), async {
        dmz.until("it listens on the new way", |snapshot| !snapshot.listening.is_empty()).await;
        load.serves(20).await;
        assert_eq!(dmz.now().await.mode, portcullis::profile::Mode::Forward);
        internal.done(internal_to).await
    });
    assert!(switched.0.contains("mode reverse") && switched.1.contains("mode reverse"), "{switched:?}");
    // The forward port is closed at once, whatever still runs over it.
    until_closed(pair.internal_link.at()).await;
    load.serves(20).await;
    load.end().await;
    let ended = dmz.now().await;
    let bad: Vec<_> = ended.ended.iter().filter(|row| row.end != "--").collect();
    assert!(bad.is_empty() && ended.totals.refused == 0, "{bad:#?}");
}
