//! The inside locks itself, whoever dials and whatever the links speak.

use portcullis::{
    gateway::handle::{Command, CommandAnswer, LockdownTarget},
    profile::Mode,
    telemetry::snapshot::{PoolState, ServicePhase, Snapshot},
};

use super::halves::ServerHalf;
use crate::support::{
    frames::{self, HELLO, LOCKED, OPEN, OPEN_STATE, OPENED, OURS, REFUSED, RawLink, SERVICES, frame},
    gateway::{Gateway, PATIENCE, TestFolder},
    mode_pair::{INTERNAL_TLS, PATHS, Plan},
    peers::{dial_refused, expect_bytes, expect_reset, send},
};

/// Without a state folder it holds until the process ends, which is reported.
async fn run_and_expect_notice(gateway: &Gateway, command: Command) {
    match gateway.handle.send_and_wait(command.clone()).await {
        CommandAnswer::NotSaved(text) => assert!(text.contains("until this process ends"), "{text}"),
        other => panic!("{command:?}: {other:?}"),
    }
}

fn links(seen: &Snapshot) -> usize {
    seen.pools.iter().map(|row| row.ready + row.carrying).sum()
}

#[tokio::test]
async fn what_is_locked_inside_is_cut_and_refused_and_comes_back() {
    for (mode, is_plain) in PATHS {
        let pair = Plan { is_plain, ..Plan::new(mode, "echo://") }.start().await;
        let Some(inside) = &pair.internal else {
            let locked = pair.dmz.handle.send_and_wait(Command::Lockdown(LockdownTarget::default())).await;
            assert!(
                matches!(&locked, CommandAnswer::Refused(why) if why.contains("only an internal half can lock")),
                "{locked:?}"
            );
            continue;
        };
        let service = Some("orders".to_owned());
        for target in [LockdownTarget { peer: None, service }, LockdownTarget::default()] {
            let mut client = pair.client().await;
            send(&mut client, b"open").await;
            expect_bytes(&mut client, b"open").await;
            run_and_expect_notice(inside, Command::Lockdown(target.clone())).await;
            expect_reset(&mut client).await;
            inside.until_ended("OR").await;
            match (&target.service, is_plain) {
                // Over SOCKS5 the peer does not learn of it, and clients wait for a link or are
                // refused.
                (Some(_), true) => {}
                (Some(_), false) => {
                    dial_refused(pair.dmz.client_port("orders").await).await;
                }
                (None, _) => {
                    let seen = inside.until("no link", |seen| links(seen) == 0).await;
                    if mode == Mode::Reverse {
                        for row in &seen.pools {
                            let why = row.last_error.as_deref().unwrap_or_default();
                            assert!(row.state == PoolState::Down && why.contains("locked"), "{row:?}");
                        }
                    }
                    pair.dmz.until("no link", |seen| links(seen) == 0).await;
                }
            }
            run_and_expect_notice(inside, Command::Unlock(target)).await;
            let seen = inside.now().await;
            assert_eq!(seen.lockdown, []);
            // Dialled again by whoever dials.
            pair.dmz.until("open again", |seen| seen.services[0].phase == ServicePhase::Open).await;
            let mut client = pair.client().await;
            send(&mut client, b"again").await;
            expect_bytes(&mut client, b"again").await;
        }
    }
}

/// Whatever was announced to it.
#[tokio::test]
async fn a_gateway_that_opens_what_is_locked_is_refused_and_its_link_goes_on() {
    let services = "orders: { connect: 'echo://' }, other: { connect: 'echo://' }";
    let inside = ServerHalf::with(", prepared: 1", services).await;
    let mut link = inside.link().await;
    let service = Some("orders".to_owned());
    run_and_expect_notice(&inside.gateway, Command::Lockdown(LockdownTarget { peer: None, service })).await;
    let reported = link.expect_kind(SERVICES).await;
    assert_eq!(reported, frames::services_in(&[("orders", LOCKED), ("other", OPEN_STATE)]));
    link.send_frame(OPEN, &frames::open("locked", None, "orders")).await;
    link.expect_kind(REFUSED).await;
    let row = inside.gateway.until_ended("OA").await;
    assert!(row.reason.contains("it is locked"), "{row:?}");
    link.send_frame(OPEN, &frames::open("other", None, "other")).await;
    link.expect_frame(OPENED, &[]).await;
}

/// A captured DMZ half: it answers pings and opens one session after another, whatever it is asked, until the link
/// has ended.
async fn open_until_over(mut link: RawLink) {
    let opening = async {
        for number in 0.. {
            let open = frame(OPEN, &frames::open(&format!("s-{number}"), None, "orders"));
            if link.try_send(&open).await.is_err() {
                return;
            }
            loop {
                match link.next().await {
                    Ok((frames::PING, token)) => {
                        if link.try_send(&frame(frames::PONG, &token)).await.is_err() {
                            return;
                        }
                    }
                    Ok((REFUSED | OPENED, _)) => break,
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, opening).await.expect("the link ends, whatever its other end does");
}

#[tokio::test]
async fn a_captured_gateway_that_is_locked_loses_its_links_whatever_it_does() {
    for peer in [None, Some("dmz".to_owned())] {
        let inside = ServerHalf::with(", prepared: 2", "orders: { connect: 'echo://' }").await;
        let (one, other) = (inside.link().await, inside.link().await);
        inside.until_pool("two ready", |row| row.ready == 2).await;
        let target = LockdownTarget { peer, service: None };
        run_and_expect_notice(&inside.gateway, Command::Lockdown(target)).await;
        tokio::join!(open_until_over(one), open_until_over(other));
        let seen = inside.gateway.until("no link", |seen| links(seen) == 0).await;
        assert_eq!(seen.sessions, [], "nothing is carried");
    }
}

#[tokio::test]
async fn a_locked_gateway_that_dials_in_is_rejected_at_once() {
    let folder = TestFolder::new();
    let text = format!(
        "mode: forward\ninternal:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', tls: {INTERNAL_TLS} }}\n  \
         services: {{ orders: {{ connect: 'echo://' }} }}\n"
    );
    let inside = folder.start("internal", &text);
    let peer = Some("dmz".to_owned());
    run_and_expect_notice(&inside, Command::Lockdown(LockdownTarget { peer, service: None })).await;
    let mut link = RawLink::dial(&folder, "dmz", inside.link_port().await, "internal", &[OURS]).await;
    let offer = link.expect_kind(HELLO).await;
    link.send_frame(HELLO, &frames::grant_of(8, &offer)).await;
    open_until_over(link).await;
    let is_reported =
        |seen: &Snapshot| seen.notices.iter().any(|it| it.text.contains("link from dmz: it is locked"));
    inside.until("it is reported", is_reported).await;
    let seen = inside.now().await;
    assert_eq!(links(&seen), 0, "{:?}", seen.pools);
}
