//! The inside locks itself, whoever dials and whatever the links speak.

use portcullis::{
    gateway::handle::{Command, CommandAnswer, LockdownTarget},
    profile::Mode,
    telemetry::snapshot::{PoolState, ServicePhase, Snapshot},
};

use super::halves::ServerHalf;
use crate::support::{
    frames::{self, LOCKED, OPEN, OPEN_STATE, OPENED, REFUSED, SERVICES},
    gateway::Gateway,
    mode_pair::{PATHS, Plan},
    peers::{dial_refused, expect_bytes, expect_reset, send},
};

/// Without a state folder it holds until the process ends, which is reported.
async fn run_and_expect_notice(gateway: &Gateway, command: Command) {
    match gateway.handle.ask(command.clone()).await {
        CommandAnswer::Unkept(text) => assert!(text.contains("until this process ends"), "{text}"),
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
            let locked = pair.dmz.handle.ask(Command::Lockdown(LockdownTarget::default())).await;
            assert!(
                matches!(&locked, CommandAnswer::Refused(why) if why.contains("no internal half")),
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
