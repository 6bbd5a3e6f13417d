//! Services with hours: who comes outside of them is refused, whoever dials and whatever the links speak.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use portcullis::{
    gateway::handle::{Command, CommandAnswer},
    profile::Mode,
    telemetry::{
        checklist::{CheckStep, StepResult},
        clock::WallClock,
        health::{AlertKind, Health},
        snapshot::{ServicePhase, Snapshot},
    },
};

use super::halves::{ServerHalf, profile};
use crate::support::{
    frames::{self, OPEN, OPENED, OURS, Port, REFUSED, SERVICES, field},
    gateway::{Gateway, TestFolder},
    mode_pair::{PATHS, Plan},
    peers::{dial_refused, expect_bytes, send},
};

/// A Monday, 00:00 UTC.
const MONDAY: u64 = 1_795_392_000;
const HOUR: u64 = 3600;

/// A clock that the test sets.
#[derive(Clone)]
struct SetClock(Arc<AtomicU64>);

impl SetClock {
    fn at(hour: u64) -> Self {
        Self(Arc::new(AtomicU64::new(MONDAY + hour * HOUR)))
    }

    fn set(&self, hour: u64) {
        self.0.store(MONDAY + hour * HOUR, Ordering::Relaxed);
    }

    fn wall(&self) -> WallClock {
        let seconds = self.0.clone();
        WallClock::new(move || SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.load(Ordering::Relaxed)))
    }
}

const WORKING_HOURS: &str = "{ address: 'echo://' }, hours: ['Mon-Fri 07:00-19:00'], timezone: UTC";

async fn until_phase(gateway: &Gateway, wanted: ServicePhase) {
    gateway.until(&format!("{wanted:?}"), |seen| seen.services[0].phase == wanted).await;
}

async fn verify(gateway: &Gateway, step: CheckStep) {
    let answer = gateway.handle.send_and_wait(Command::Verify { steps: vec![step] }).await;
    let CommandAnswer::Verified(report) = answer else { panic!("{answer:?}") };
    assert!(report.steps.iter().all(|step| step.result == StepResult::Pass), "{:?}", report.steps);
}

#[tokio::test]
async fn outside_of_its_hours_a_service_is_refused_and_open_sessions_go_on() {
    for (mode, is_plain) in PATHS {
        let clock = SetClock::at(12);
        let folder = TestFolder::new().with_clock(clock.wall());
        let plan = Plan { is_plain, dmz_link: ", wait: 300ms", ..Plan::new(mode, WORKING_HOURS) };
        let plan = if mode == Mode::Direct { Plan { dmz_link: "", ..plan } } else { plan };
        let pair = plan.start_in(folder).await;
        let mut open = pair.client().await;
        send(&mut open, b"open").await;
        expect_bytes(&mut open, b"open").await;
        clock.set(20);
        until_phase(pair.inner(), ServicePhase::Closed).await;
        pair.inner().until_notice("closed: outside of its hours, Mon-Fri 07:00-19:00 (UTC)").await;
        // SOCKS5 has no word for it, and nothing is parked.
        let known = [ServicePhase::Closed, ServicePhase::Open][usize::from(is_plain)];
        until_phase(&pair.dmz, known).await;
        dial_refused(pair.dmz.client_port("orders").await).await;
        let end = match (mode, is_plain) {
            (_, false) => "XA",
            (Mode::Forward, true) => "XC",
            (_, true) => "TW",
        };
        let row = pair.dmz.until_ended(end).await;
        assert!(is_plain || row.reason.contains("outside of its hours"), "{row:?}");
        if (mode, is_plain) == (Mode::Forward, true) {
            pair.inner().until_ended("XA").await;
        }
        let seen = pair.inner().now().await;
        assert_eq!(seen.services[0].health, Some(Health::Down));
        assert_eq!(seen.alerts.iter().filter(|alert| alert.kind == AlertKind::Closed).count(), 1);
        send(&mut open, b"still here").await;
        expect_bytes(&mut open, b"still here").await;
        // The clock is set back.
        clock.set(8);
        until_phase(&pair.dmz, ServicePhase::Open).await;
        let is_over = |seen: &Snapshot| {
            let row = &seen.services[0];
            row.phase == ServicePhase::Open && row.health.is_some_and(|health| health != Health::Down)
        };
        pair.inner().until("it is over", is_over).await;
        pair.ready().await;
        let mut client = pair.client().await;
        send(&mut client, b"again").await;
        expect_bytes(&mut client, b"again").await;
    }
}

#[tokio::test]
async fn probes_of_the_checklist_skip_the_hours() {
    for mode in [Mode::Forward, Mode::Reverse] {
        let clock = SetClock::at(20);
        let pair = Plan::new(mode, WORKING_HOURS).start_in(TestFolder::new().with_clock(clock.wall())).await;
        until_phase(&pair.dmz, ServicePhase::Closed).await;
        dial_refused(pair.dmz.client_port("orders").await).await;
        let step = if mode == Mode::Forward { CheckStep::Forward } else { CheckStep::Reverse };
        verify(&pair.dmz, step).await;
        verify(pair.inner(), CheckStep::Basic).await;
    }
}

/// Whatever was announced to it, and whoever its clients are said to be.
#[tokio::test]
async fn a_gateway_that_opens_sessions_outside_of_the_hours_is_refused() {
    let clock = SetClock::at(12);
    let folder = TestFolder::new().with_clock(clock.wall());
    let port = Port::new(&folder, "dmz", &[OURS]).await;
    let services = "orders: { connect: 'echo://', hours: 'Mon-Fri 07:00-19:00', timezone: UTC }";
    let gateway = folder.start("internal", &profile(&port.address(), ", prepared: 1", services));
    let inside = ServerHalf { port, gateway };
    let mut link = inside.link().await;
    clock.set(20);
    let reported = link.expect_kind(SERVICES).await;
    assert_eq!(reported, frames::services_in(&[("orders", frames::CLOSED)]));
    link.send_frame(OPEN, &frames::open("late", None, "orders")).await;
    let refused = link.expect_kind(REFUSED).await;
    let row = inside.gateway.until_ended("XA").await;
    assert_eq!(row.reason, "it is outside of its hours", "{refused:?}");
    // A probe reaches no backend, so it may.
    let mut probe = frames::open("probe", None, "orders");
    field(&mut probe, 3, &[]);
    link.send_frame(OPEN, &probe).await;
    link.expect_frame(OPENED, &[]).await;
    // Each change between open and closed is reported.
    clock.set(9);
    let reported = link.expect_kind(SERVICES).await;
    assert_eq!(reported, frames::services_in(&[("orders", frames::OPEN_STATE)]));
}

#[tokio::test]
async fn hours_that_a_reload_changes_are_in_the_plan_and_hold_at_once() {
    let clock = SetClock::at(12);
    let plan = Plan::new(Mode::Reverse, WORKING_HOURS);
    let pair = plan.start_in(TestFolder::new().with_clock(clock.wall())).await;
    let mut open = pair.client().await;
    send(&mut open, b"open").await;
    expect_bytes(&mut open, b"open").await;
    let night = "{ address: 'echo://' }, hours: '22:00-06:00', timezone: UTC";
    let connect = format!("connect: 'socks+tls://{}'", pair.dmz.link_port().await);
    let file = pair.folder.profile("internal", &Plan { backend: night, ..plan }.internal(&connect));
    let requested = Command::Plan { profile: file.to_str().unwrap().into() };
    let CommandAnswer::Planned(planned) = pair.inner().handle.send_and_wait(requested).await else {
        panic!("no plan")
    };
    let planned = planned.to_string();
    assert!(planned.contains("orders: hours 22:00-06:00 (UTC), was Mon-Fri 07:00-19:00 (UTC)"), "{planned}");
    pair.inner().done(Command::Reload).await;
    until_phase(&pair.dmz, ServicePhase::Closed).await;
    dial_refused(pair.dmz.client_port("orders").await).await;
    send(&mut open, b"still here").await;
    expect_bytes(&mut open, b"still here").await;
    clock.set(23);
    until_phase(&pair.dmz, ServicePhase::Open).await;
    drop(open);
    let mut late = pair.client().await;
    send(&mut late, b"night").await;
    expect_bytes(&mut late, b"night").await;
    clock.set(30);
    until_phase(&pair.dmz, ServicePhase::Closed).await;
    send(&mut late, b"morning").await;
    expect_bytes(&mut late, b"morning").await;
}
