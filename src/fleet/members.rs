//! The gateways of a fleet, each called by tasks of its own, and the combined snapshot of them all. One that cannot
//! be reached keeps its row.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    merge::{FleetMerge, MemberSnapshot},
    target::FleetTarget,
};
use crate::{
    admin::attach::{self, SnapshotPace},
    gateway::handle::{self, AdminAccess, FleetHandles, GatewayContact, GatewayHandle},
    tasks::Tasks,
    telemetry::snapshot::Snapshot,
};

/// How often each gateway is asked for a snapshot, and the combined one is made: rates and ages change by the
/// second.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(1);
/// Reading more rows than this each second would take more processor time than a screen may use.
const ROWS_A_SECOND: usize = 25_000;
const LARGE_SNAPSHOT_INTERVAL: Duration = Duration::from_secs(2);

/// The last state of one gateway.
#[derive(Debug)]
struct Member {
    target: FleetTarget,
    state: Mutex<MemberState>,
}

#[derive(Debug)]
struct MemberState {
    contact: GatewayContact,
    contact_since: Instant,
    snapshot: Option<(Arc<Snapshot>, Instant)>,
}

impl Member {
    fn update(&self, change: impl FnOnce(&mut MemberState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn snapshot(&self, now: Instant) -> MemberSnapshot {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = |at: Instant| now.saturating_duration_since(at).as_secs_f64();
        MemberSnapshot {
            name: Arc::clone(&self.target.name),
            target: self.target.at.to_string(),
            contact: state.contact.clone(),
            contact_seconds: seconds(state.contact_since),
            latest: state.snapshot.as_ref().map(|(snapshot, at)| (Arc::clone(snapshot), seconds(*at))),
        }
    }
}

/// Attaches to all of them, whether they can be reached or not. The first handle has the combined snapshots,
/// until nobody holds it or a watch of it; the others are for commands.
pub fn attach(
    targets: Vec<FleetTarget>,
    access: AdminAccess,
    tasks: &Tasks,
) -> (GatewayHandle, FleetHandles) {
    let began = Instant::now();
    let (changed, over) = (Arc::new(Notify::new()), CancellationToken::new());
    let mut handles = FleetHandles::new();
    let mut members = Vec::with_capacity(targets.len());
    let pace = SnapshotPace::new(SNAPSHOT_INTERVAL);
    for target in targets {
        let (handle, contact) = attach::attach_when_there(&target.at, access, &pace, tasks);
        handles.insert(Arc::clone(&target.name), handle.clone());
        let state = MemberState { contact: GatewayContact::Calling, contact_since: began, snapshot: None };
        let member = Arc::new(Member { target, state: Mutex::new(state) });
        let follows = follow_member(Arc::clone(&member), handle, contact, Arc::clone(&changed));
        let over = over.clone();
        tasks.spawn("fleet member", async move {
            over.run_until_cancelled(follows).await;
        });
        members.push(member);
    }
    let mut merge = FleetMerge::default();
    let first = merge.next(members.iter().map(|member| member.snapshot(began)).collect(), 0.0);
    let (merged, feed) = handle::channel(Arc::new(first), "fleet screen");
    tasks.spawn("fleet", async move {
        tokio::select! {
            () = publish(&members, merge, began, (&changed, &pace), &feed.snapshots) => {}
            () = feed.snapshots.closed() => {}
        }
        // The snapshots of each end when nobody holds a watch of them.
        over.cancel();
    });
    (merged, handles)
}

/// Follows one gateway until its snapshots end with the screen.
async fn follow_member(
    member: Arc<Member>,
    handle: GatewayHandle,
    mut contact: watch::Receiver<GatewayContact>,
    changed: Arc<Notify>,
) {
    let mut snapshots = handle.watch();
    drop(handle);
    loop {
        tokio::select! {
            biased;
            reported = contact.changed() => {
                if reported.is_err() {
                    return;
                }
                let now = contact.borrow_and_update().clone();
                // What it said last comes with the loss, so that it is known whether it was stopped.
                let last = snapshots.next().now_or_never().flatten();
                member.update(|state| {
                    state.snapshot = last.map(|last| (last, Instant::now())).or(state.snapshot.take());
                    // A gateway that is called again and again has been away since the first call.
                    if std::mem::discriminant(&state.contact) != std::mem::discriminant(&now) {
                        state.contact_since = Instant::now();
                    }
                    state.contact = now;
                });
            }
            snapshot = snapshots.next() => {
                let Some(snapshot) = snapshot else { return };
                member.update(|state| state.snapshot = Some((snapshot, Instant::now())));
            }
        }
        changed.notify_one();
    }
}

/// Makes a combined snapshot whenever something has arrived, but at most one a second. It runs forever; the
/// caller drops it when nobody looks any more.
async fn publish(
    members: &[Arc<Member>],
    mut merge: FleetMerge,
    began: Instant,
    (changed, pace): (&Notify, &SnapshotPace),
    snapshots: &watch::Sender<Arc<Snapshot>>,
) {
    let mut merged_at = began;
    let mut is_calling = true;
    loop {
        // Ages advance even if nothing arrives.
        let _ = timeout_at(merged_at + pace.every(), changed.notified()).await;
        if !is_calling {
            // It includes what arrives meanwhile. While the first gateways are being called, each is shown as
            // it answers.
            sleep_until(merged_at + pace.every()).await;
        } else {
            sleep_until(merged_at + FIRST_SNAPSHOTS_INTERVAL).await;
        }
        merged_at = Instant::now();
        let of_members: Vec<_> = members.iter().map(|member| member.snapshot(merged_at)).collect();
        is_calling = of_members.iter().any(|snapshot| snapshot.contact == GatewayContact::Calling);
        let uptime_seconds = merged_at.saturating_duration_since(began).as_secs_f64();
        let merged = merge.next(of_members, uptime_seconds);
        pace.set(pace_of(merged.sessions.len()));
        snapshots.send_replace(Arc::new(merged));
    }
}

fn pace_of(rows: usize) -> Duration {
    if rows > ROWS_A_SECOND { LARGE_SNAPSHOT_INTERVAL } else { SNAPSHOT_INTERVAL }
}

const FIRST_SNAPSHOTS_INTERVAL: Duration = Duration::from_millis(250);

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::{
        admin::server::AdminSocket,
        fleet::target,
        gateway::handle::{Command, CommandAnswer, HandleFeed},
        profile::{Half, Mode},
        telemetry::snapshot::{GatewayPhase, GatewayReach, GatewayRow, ServiceRow},
    };

    struct Gateway {
        socket: AdminSocket,
        feed: HandleFeed,
    }

    fn gateway(path: &std::path::Path) -> Gateway {
        let services = vec![ServiceRow::new(Half::Dmz, "orders")];
        let snapshot = Snapshot { services, halves: vec![Half::Dmz], ..Snapshot::new("shop", Mode::Reverse) };
        let (socket, listener) = AdminSocket::bind(path).unwrap();
        let (handle, feed) = handle::channel(Arc::new(snapshot), "test");
        socket.serve(listener, handle);
        Gateway { socket, feed }
    }

    impl Gateway {
        fn publish(&self) {
            self.feed.snapshots.send_modify(|_| {});
        }
    }

    fn row<'a>(snapshot: &'a Snapshot, name: &str) -> &'a GatewayRow {
        snapshot.gateways.iter().find(|row| &*row.name == name).unwrap()
    }

    const HELLO: &str = r#"{"portcullis":"0.1.0","snapshot":1}"#;

    /// Its snapshot arrives, then nothing for longer than a gateway may be silent, and then one more.
    #[tokio::test]
    async fn a_gateway_that_stalls_is_silent_and_then_is_there_again() {
        let folder = tempfile::tempdir().unwrap();
        let framed = |text: &[u8]| [&u32::try_from(text.len()).unwrap().to_be_bytes(), text].concat();
        let snapshot = CommandAnswer::Status(Arc::new(Snapshot::new("shop", Mode::Reverse)));
        let snapshot = framed(&serde_json::to_vec(&snapshot).unwrap());
        std::fs::write(folder.path().join("hello"), framed(HELLO.as_bytes())).unwrap();
        std::fs::write(folder.path().join("picture"), snapshot).unwrap();
        let at = folder.path().display();
        let words =
            [format!("slow=exec:sh -c 'cd {at}; cat hello picture; sleep 7; cat picture; exec sleep 1000'")];
        let targets = target::parse_all(&words, AdminAccess::Full).unwrap();
        let (merged, _handles) = attach(targets, AdminAccess::Full, &Tasks::default());
        let mut snapshots = merged.watch();
        for reach in [GatewayReach::Reached, GatewayReach::Silent, GatewayReach::Reached] {
            while row(&snapshots.next().await.unwrap(), "slow").reach != reach {}
        }
        let reported: Vec<_> = merged.latest().notices.iter().map(|notice| notice.text.clone()).collect();
        assert!(
            reported[0].starts_with("is silent") && reported[1].starts_with("is reached again"),
            "{reported:?}"
        );
        assert_eq!(reported.len(), 2, "{reported:?}");
    }

    #[test]
    fn a_crowded_fleet_is_read_less_often() {
        assert_eq!(pace_of(20_000), SNAPSHOT_INTERVAL);
        assert_eq!(pace_of(40_000), LARGE_SNAPSHOT_INTERVAL);
    }

    /// In real time, since programs run in it: everything waits for a snapshot, and no wait is longer than the
    /// suite allows.
    #[tokio::test]
    async fn one_that_is_sick_costs_its_own_row_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("well.sock");
        let mut well = gateway(&path);
        // A hello with this many bytes, as a gateway sends it.
        let script = |name: &str, hello: &str, then: &str| {
            let file = folder.path().join(name);
            let text = format!("printf '\\000\\000\\000\\{:03o}%s' '{hello}'; {then}\n", hello.len());
            std::fs::write(&file, text).unwrap();
            format!("{name}=exec:sh {}", file.display())
        };
        let words = [
            format!("well={}", path.display()),
            format!("absent={}", folder.path().join("none.sock").display()),
            "hangs=exec:sleep 1000".into(),
            "dies=exec:sh -c 'echo \"ops@edge: Permission denied (publickey,password).\" >&2; exit 255'"
                .into(),
            script("other", r#"{"portcullis":"9.9.9","snapshot":99}"#, "sleep 1000"),
            "rubbish=exec:echo command not found".into(),
            "missing=exec:/no/such/program".into(),
            script("broken", HELLO, "sleep 0.2; exit 3"),
            script("babbles", HELLO, "printf '\\000\\000\\000\\004nope'; sleep 1000"),
            script("endless", HELLO, "printf '\\377\\377\\377\\377'; cat /dev/zero"),
            script("trickles", HELLO, "printf '\\000\\001\\000\\000'; while sleep 0.1; do printf x; done"),
        ];
        let targets = target::parse_all(&words, AdminAccess::Full).unwrap();
        let tasks = Tasks::default();
        let (merged, handles) = attach(targets, AdminAccess::Full, &tasks);
        let mut snapshots = merged.watch();
        let snapshot = loop {
            well.publish();
            let snapshot = snapshots.next().await.unwrap();
            let is_reported = |name| row(&snapshot, name).reach == GatewayReach::Unreachable;
            let missing = ["absent", "dies", "other", "rubbish", "missing", "broken", "babbles", "endless"];
            if missing.into_iter().all(is_reported) && row(&snapshot, "well").reach == GatewayReach::Reached {
                break snapshot;
            }
        };
        for (name, why) in [
            ("absent", "no gateway answers there"),
            ("dies", "Permission denied (publickey,password)"),
            ("other", "the gateway is version 9.9.9"),
            ("rubbish", "command not found"),
            ("missing", "No such file"),
            ("broken", "exit status: 3"),
            ("babbles", "not a Portcullis admin socket"),
            ("endless", "a message is longer than"),
        ] {
            let reported = row(&snapshot, name).why.as_deref().unwrap_or_default();
            assert!(reported.contains(why), "{name}: {reported}");
        }
        for name in ["hangs", "trickles"] {
            assert_eq!(row(&snapshot, name).reach, GatewayReach::Calling, "{name}");
        }
        assert_eq!(snapshot.services.len(), 1);
        let reported = handles["hangs"].clone();
        assert!(matches!(handles["absent"].send_and_wait(Command::Reload).await, CommandAnswer::Refused(_)));
        let requests = async { handles["well"].send_and_wait(Command::Reload).await };
        let answers = async {
            let requested = well.feed.commands.recv().await.unwrap();
            requested.answer.send(CommandAnswer::Done("read again".into())).unwrap();
        };
        let (answer, ()) = tokio::join!(requests, answers);
        assert!(matches!(answer, CommandAnswer::Done(_)), "{answer:?}");
        drop((reported, handles, merged, snapshots));
        tasks.all_ended().await;
    }

    /// Each of them sends one snapshot, with a number that its field cannot hold.
    #[tokio::test]
    async fn a_number_out_of_range_costs_the_row_of_its_gateway_alone() {
        let folder = tempfile::tempdir().unwrap();
        let framed = |text: &[u8]| [&u32::try_from(text.len()).unwrap().to_be_bytes(), text].concat();
        let snapshot = CommandAnswer::Status(Arc::new(Snapshot::new("shop", Mode::Reverse)));
        let snapshot = serde_json::to_string(&snapshot).unwrap();
        std::fs::write(folder.path().join("hello"), framed(HELLO.as_bytes())).unwrap();
        let at = folder.path().display();
        let wrong = [
            ("infinite", "\"uptime_seconds\":0.0", "\"uptime_seconds\":1e400"),
            ("negative", "\"sessions_open\":0", "\"sessions_open\":-1"),
            ("beyond", "\"sessions_open\":0", "\"sessions_open\":18446744073709551616"),
        ];
        let mut words = Vec::new();
        for (name, number, other) in [[("right", "", "")].as_slice(), &wrong].concat() {
            assert!(snapshot.contains(number), "{name}");
            let sent = if number.is_empty() { snapshot.clone() } else { snapshot.replace(number, other) };
            std::fs::write(folder.path().join(name), framed(sent.as_bytes())).unwrap();
            words.push(format!("{name}=exec:sh -c 'cd {at}; cat hello {name}; exec sleep 1000'"));
        }
        let targets = target::parse_all(&words, AdminAccess::Full).unwrap();
        let (merged, _handles) = attach(targets, AdminAccess::Full, &Tasks::default());
        let mut snapshots = merged.watch();
        loop {
            let merged = snapshots.next().await.unwrap();
            let is_refused = |(name, ..): &(&str, &str, &str)| row(&merged, name).why.is_some();
            if !wrong.iter().all(is_refused) || row(&merged, "right").heard.is_none() {
                continue;
            }
            for (name, ..) in wrong {
                let why = row(&merged, name).why.as_deref().unwrap_or_default();
                assert!(why.contains("not a Portcullis admin socket"), "{name}: {why}");
                assert_eq!(row(&merged, name).heard, None);
            }
            break;
        }
    }

    /// The gateway's last word comes with its end, however often it is read.
    #[tokio::test]
    async fn a_gateway_that_says_that_it_has_stopped_is_not_unreachable() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.sock");
        let edge = gateway(&path);
        let targets = target::parse_all(&[format!("edge={}", path.display())], AdminAccess::Full).unwrap();
        let (merged, _handles) = attach(targets, AdminAccess::Full, &Tasks::default());
        let mut snapshots = merged.watch();
        loop {
            edge.publish();
            if row(&snapshots.next().await.unwrap(), "edge").reach == GatewayReach::Reached {
                break;
            }
        }
        edge.feed.snapshots.send_modify(|last| Arc::make_mut(last).phase = GatewayPhase::Stopped);
        drop(edge.feed);
        edge.socket.close().await;
        loop {
            let merged = snapshots.next().await.unwrap();
            let row = row(&merged, "edge");
            assert_ne!(row.reach, GatewayReach::Unreachable);
            if row.reach == GatewayReach::Stopped {
                break;
            }
        }
    }

    #[tokio::test]
    async fn a_gateway_that_comes_back_is_there_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.sock");
        let words = [format!("edge={}", path.display()), "hangs=exec:sleep 1000".to_owned()];
        let targets = target::parse_all(&words, AdminAccess::Full).unwrap();
        let (merged, _handles) = attach(targets, AdminAccess::Full, &Tasks::default());
        let mut snapshots = merged.watch();
        for _ in 0..2 {
            while row(&snapshots.next().await.unwrap(), "edge").reach != GatewayReach::Unreachable {}
            let edge = gateway(&path);
            loop {
                edge.publish();
                if row(&snapshots.next().await.unwrap(), "edge").reach == GatewayReach::Reached {
                    break;
                }
            }
            drop(edge.feed);
            edge.socket.close().await;
        }
    }
}
