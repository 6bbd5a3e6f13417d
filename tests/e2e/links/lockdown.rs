//! The inside locks itself, whoever dials and whatever the links speak.

use portcullis::{
    gateway::handle::{Command, CommandAnswer, LockdownTarget},
    profile::Mode,
    telemetry::snapshot::{PoolState, ServicePhase, Snapshot},
};

use super::halves::Inside;
use crate::support::{
    frames::{self, LOCKED, OPEN, OPEN_STATE, OPENED, REFUSED, SERVICES},
    gateway::Gateway,
    peers::{dial_refused, hear, hear_reset, say},
    ways::{Plan, WAYS},
};

/// Without a state folder it holds until the process ends, and that is told.
async fn told(gateway: &Gateway, command: Command) {
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
    for (mode, is_plain) in WAYS {
        let way = Plan { is_plain, ..Plan::new(mode, "echo://") }.start().await;
        let Some(inside) = &way.internal else {
            let locked = way.dmz.handle.ask(Command::Lockdown(LockdownTarget::default())).await;
            assert!(
                matches!(&locked, CommandAnswer::Refused(why) if why.contains("no internal half")),
                "{locked:?}"
            );
            continue;
        };
        let service = Some("orders".to_owned());
        for target in [LockdownTarget { peer: None, service }, LockdownTarget::default()] {
            let mut client = way.client().await;
            say(&mut client, b"open").await;
            hear(&mut client, b"open").await;
            told(inside, Command::Lockdown(target.clone())).await;
            hear_reset(&mut client).await;
            inside.until_ended("OR").await;
            match (&target.service, is_plain) {
                // Over SOCKS5 nobody hears of it, and clients wait for a link or are refused.
                (Some(_), true) => {}
                (Some(_), false) => {
                    dial_refused(way.dmz.client_port("orders").await).await;
                }
                (None, _) => {
                    let seen = inside.until("no link", |seen| links(seen) == 0).await;
                    if mode == Mode::Reverse {
                        for row in &seen.pools {
                            let why = row.last_error.as_deref().unwrap_or_default();
                            assert!(row.state == PoolState::Down && why.contains("locked"), "{row:?}");
                        }
                    }
                    way.dmz.until("no link", |seen| links(seen) == 0).await;
                }
            }
            told(inside, Command::Unlock(target)).await;
            let seen = inside.now().await;
            assert_eq!(seen.lockdown, []);
            // Dialled again by whoever dials.
            way.dmz.until("open again", |seen| seen.services[0].phase == ServicePhase::Open).await;
            let mut client = way.client().await;
            say(&mut client, b"again").await;
            hear(&mut client, b"again").await;
        }
    }
}

/// Whatever it has been told.
#[tokio::test]
async fn a_gateway_that_opens_what_is_locked_is_refused_and_its_link_goes_on() {
    let services = "orders: { connect: 'echo://' }, other: { connect: 'echo://' }";
    let inside = Inside::with(", prepared: 1", services).await;
    let mut link = inside.link().await;
    let service = Some("orders".to_owned());
    told(&inside.gateway, Command::Lockdown(LockdownTarget { peer: None, service })).await;
    let reported = link.hear_kind(SERVICES).await;
    assert_eq!(reported, frames::services_in(&[("orders", LOCKED), ("other", OPEN_STATE)]));
    link.say_frame(OPEN, &frames::open("locked", None, "orders")).await;
    link.hear_kind(REFUSED).await;
    let row = inside.gateway.until_ended("OA").await;
    assert!(row.reason.contains("it is locked"), "{row:?}");
    link.say_frame(OPEN, &frames::open("other", None, "other")).await;
    link.hear(OPENED, &[]).await;
}
