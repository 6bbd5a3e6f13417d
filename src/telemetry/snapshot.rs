//! Plain data about a whole gateway at one moment.
//!
//! It has numbers, strings and enums only, no instant and no handle. So a test can build one by hand, and the
//! admin socket can send one unchanged. `status --json` prints exactly this. Fields are added, never renamed,
//! and each new one has a default, so that older recordings can still be read. [`VERSION`] increases when a
//! reader of the previous version would misread it.

mod backends;
mod brief;
mod confined;
mod findings;
mod fleet;
mod links;
mod lockdown;
mod notices;
mod profiles;
mod sessions;

use std::{collections::BTreeMap, sync::Arc};

pub use findings::{DoctorFinding, FindingSeverity};
pub use fleet::{GatewayFacts, GatewayReach, GatewayRow, ROWS_KEPT_SECONDS};
pub use links::{LinkRow, LinkState};
pub use lockdown::LockdownRow;
pub use notices::{Notice, NoticeLevel};
pub use profiles::{CheckRow, ProblemRow, ProfileRow, SwitchRow, VerifyRow};

pub use backends::{BackendRow, BackendRowState};
pub use confined::ConfinedRow;
use serde::{Deserialize, Serialize};
pub use sessions::{EndedRow, SessionPhase, SessionRow};

use super::{
    duration_histogram::DurationCounts,
    failures::FailureRow,
    link_cause::LinkCause,
    requests::RequestCounts,
    verdict::{
        Alert, CertificateRow, DrainRequest, FileFaultRow, Health, LogLossRow, Readiness, RefusalRow,
        RevocationListRow, ServiceProblem,
    },
};
use crate::profile::{Half, Mode};

/// Version of the format of [`Snapshot`], sent in the admin socket's hello.
pub const VERSION: u32 = 1;

/// A snapshot consists of plain data that can be compared, sent and read again:
///
/// ```
/// use portcullis::telemetry::snapshot::Snapshot;
///
/// #[derive(PartialEq, serde::Serialize, serde::Deserialize)]
/// struct SnapshotWithMore {
///     snapshot: Snapshot,
///     started: String,
/// }
/// ```
///
/// So nothing fits in that is alive:
///
/// ```compile_fail,E0277
/// use portcullis::{gateway::handle::GatewayHandle, telemetry::snapshot::Snapshot};
///
/// #[derive(PartialEq, serde::Serialize, serde::Deserialize)]
/// struct SnapshotWithMore {
///     snapshot: Snapshot,
///     gateway: GatewayHandle,
/// }
/// ```
///
/// ```compile_fail,E0277
/// use portcullis::telemetry::snapshot::Snapshot;
///
/// #[derive(PartialEq, serde::Serialize, serde::Deserialize)]
/// struct SnapshotWithMore {
///     snapshot: Snapshot,
///     started: std::time::Instant,
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub version: String,
    /// When it was made: UTC, RFC 3339.
    #[serde(default)]
    pub time: String,
    /// The name of the host it was made on.
    #[serde(default)]
    pub host: String,
    pub profile: String,
    pub mode: Mode,
    #[serde(rename = "roles")]
    pub halves: Vec<Half>,
    /// What the kernel refuses each of them; `None` if it is not locked.
    #[serde(default)]
    pub confined: BTreeMap<Half, Option<ConfinedRow>>,
    pub phase: GatewayPhase,
    /// What clients get; `None` in snapshots that are older than this field.
    #[serde(default)]
    pub health: Option<Health>,
    /// Everything that is wrong, worst first.
    #[serde(default)]
    pub alerts: Vec<Alert>,
    /// Whether clients should be sent here; `None` in older snapshots.
    #[serde(default)]
    pub readiness: Option<Readiness>,
    pub uptime_seconds: f64,
    /// Which process this is; its peers' pools call it `instance`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// The gateways of a fleet, worst first. The rows of all are then in one snapshot, each with its gateway's
    /// name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<GatewayRow>,
    /// What limits the gateways of a fleet, the most urgent first; for a single gateway, `doctor` finds it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<DoctorFinding>,
    /// The link listeners, with their real ports.
    pub listening: Vec<String>,
    /// Where monitors connect, with the real port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub monitored_at: Vec<String>,
    #[serde(default)]
    pub reloads: ReloadCounts,
    pub totals: TrafficTotals,
    pub services: Vec<ServiceRow>,
    pub pools: Vec<PoolRow>,
    pub sessions: Vec<SessionRow>,
    /// Open sessions that are missing from `sessions`, because there are too many for one snapshot.
    pub sessions_left_out: usize,
    /// The last sessions that ended, newest first. Recordings and attached screens get only those of the last
    /// seconds.
    pub ended: Vec<EndedRow>,
    /// All failures since the gateway started, grouped by cause; the group that grew last comes first.
    #[serde(default)]
    pub failures: Vec<FailureRow>,
    /// Failed sessions that are no longer in any group.
    #[serde(default)]
    pub failures_left_out: u64,
    /// The last notices, oldest first.
    pub notices: Vec<Notice>,
    /// Log lines that were not written.
    pub log_lines_lost: u64,
    /// Why the last of them were lost; shown for a minute.
    #[serde(default)]
    pub log_trouble: Option<String>,
    /// The lines lost for each sink where they should have been written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_losses: Vec<LogLossRow>,
    /// Bytes a second over the last two minutes, one sample a second, oldest first.
    pub traffic: Vec<TrafficSample>,
    pub descriptors: DescriptorUsage,
    /// Those that this gateway shows, or uses to judge others.
    #[serde(default)]
    pub certificates: Vec<CertificateRow>,
    /// The lists of revoked certificates that it uses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revocation_lists: Vec<RevocationListRow>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub file_faults: Vec<FileFaultRow>,
    /// What the inside has locked.
    #[serde(default)]
    pub lockdown: Vec<LockdownRow>,
    /// The switch under way.
    pub switching: Option<SwitchRow>,
    /// The last run of the checklist, or the one under way.
    pub walk: Option<VerifyRow>,
    /// The last forward check of each profile since this gateway started.
    #[serde(default)]
    pub forward_checks: Vec<CheckRow>,
    /// While it stops: seconds until everything still open is cut.
    #[serde(default)]
    pub cut_in_seconds: Option<f64>,
    /// The recording that this process makes.
    #[serde(default)]
    pub recording: Option<RecordingRow>,
}

/// A recording under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingRow {
    pub file: String,
    /// Snapshots that could not be written.
    pub left_out: u64,
    /// Why nothing is being written.
    pub trouble: Option<String>,
}

/// starting → running → draining → stopped; `drain` leads to draining, `reload` back to running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GatewayPhase {
    Starting,
    Running,
    Draining,
    Stopped,
}

/// `up` is from client to backend. In a pair that runs in one process, these are the DMZ half's. Services that
/// a switch has removed are included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficTotals {
    /// Sessions that are carried now.
    pub sessions_open: u64,
    /// Accepted and not carried yet: clients that wait for a link, or for the backend.
    #[serde(default)]
    pub sessions_waiting: u64,
    /// Sessions carried so far, including open ones, and those whose client left before.
    pub sessions: u64,
    pub refused: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
}

impl TrafficTotals {
    /// Clients with a session, or that wait for one: those that a stop would cut.
    pub fn open_and_waiting(&self) -> u64 {
        self.sessions_open.saturating_add(self.sessions_waiting)
    }

    pub fn with(self, other: &Self) -> Self {
        Self {
            sessions_open: self.sessions_open.saturating_add(other.sessions_open),
            sessions_waiting: self.sessions_waiting.saturating_add(other.sessions_waiting),
            sessions: self.sessions.saturating_add(other.sessions),
            refused: self.refused.saturating_add(other.refused),
            bytes_up: self.bytes_up.saturating_add(other.bytes_up),
            bytes_down: self.bytes_down.saturating_add(other.bytes_down),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceRow {
    /// Its gateway in a fleet; `None` in a snapshot of a single gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Arc<str>>,
    #[serde(rename = "role")]
    pub half: Half,
    pub name: String,
    pub accept: Vec<String>,
    pub connect: Option<String>,
    pub phase: ServicePhase,
    /// What is wrong with its certificates, if anything.
    #[serde(default)]
    pub reason: Option<String>,
    #[serde(flatten)]
    pub totals: TrafficTotals,
    /// Sessions in a row that failed at the backend since one last reached it.
    #[serde(default)]
    pub failed_in_a_row: u64,
    /// Why the last of those failed.
    #[serde(default)]
    pub backend_error: Option<String>,
    /// Where its sessions go, on the half that dials.
    #[serde(default)]
    pub backends: Vec<BackendRow>,
    /// The limit of concurrent sessions; more are refused.
    #[serde(default)]
    pub limit: Option<usize>,
    /// Clients that were refused recently, by reason.
    #[serde(default)]
    pub refusals: Vec<RefusalRow>,
    /// Who has drained it.
    #[serde(default)]
    pub drained: Option<DrainRequest>,
    /// What its clients get.
    #[serde(default)]
    pub health: Option<Health>,
    /// The worst of what they lack.
    #[serde(default)]
    pub lack: Option<ServiceProblem>,
    /// Only for monitors, and only in this process.
    #[serde(skip)]
    pub counts: MonitorCounts,
}

/// Numbers of a service for monitors that are not in its row, since the gateway started.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MonitorCounts {
    /// By the two letters.
    pub ends: Vec<(String, u64)>,
    /// Clients that wait for a link.
    pub waiting: u64,
    pub waits: DurationCounts,
    pub connects: DurationCounts,
    pub requests: RequestCounts,
}

/// Reloads and switches that were requested.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadCounts {
    pub done: u64,
    pub refused: u64,
    pub was_last_refused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServicePhase {
    Open,
    Draining,
    /// It can serve nobody; its `reason` says why.
    Down,
    /// The inside has locked it.
    Locked,
    /// It is outside its hours.
    Closed,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolRow {
    /// Its gateway in a fleet; `None` in a snapshot of a single gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Arc<str>>,
    #[serde(rename = "role")]
    pub half: Half,
    /// The service its links are ready for; `*` for any service of the peer.
    pub service: String,
    /// The name in the peer's certificate, or its address if the link is plain.
    pub peer: Option<String>,
    /// The dialled address, or the peer's IP without port.
    pub address: Option<String>,
    /// The name that this address or SRV target belongs to, if each of them is dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A target that is not dialled while one with a lower priority number has a link.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub standby: bool,
    pub state: PoolState,
    /// Links that take a session, whether they carry others or not.
    pub ready: usize,
    /// Links that take no more; together with the ready ones, all links that are up.
    pub carrying: usize,
    /// Of those that take no more, the ones that are left to heavy sessions.
    #[serde(default)]
    pub bulk: usize,
    pub dialling: usize,
    pub target: usize,
    /// Clients that wait for a link now; counted in the first row that could serve them, 0 in the others.
    pub waiting: usize,
    /// Clients refused because no link came in time; counted in the same row as those that wait.
    pub misses: u64,
    /// Dials, handshakes and ready links that failed.
    pub failures: u64,
    pub last_error: Option<String>,
    /// The cause of that error, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_cause: Option<LinkCause>,
    /// The state to show: a worse one at once, a better one after it has lasted a second.
    #[serde(default)]
    pub held: Option<PoolState>,
    /// There are as many links as `maximum` allows, and fewer are ready than wanted.
    #[serde(default)]
    pub at_maximum: bool,
    /// Seconds since its last link ended, while it is down.
    #[serde(default)]
    pub gone_seconds: Option<f64>,
    /// The peer has said that it drains, or its last link ended in good order. It takes no new session.
    #[serde(default)]
    pub left: bool,
    /// Sessions that were cut with its last links.
    #[serde(default)]
    pub cut: u64,
    /// Seconds until the next dial, if one is delayed after a failure.
    pub retry_seconds: Option<f64>,
    /// What its links speak: `portcullis/2` or `socks/5`; unknown until the first link is up. Gateways of 0.1.0
    /// and their recordings call it `wire`.
    #[serde(default, alias = "wire")]
    pub protocol: Option<String>,
    /// Sessions on its links.
    #[serde(default)]
    pub sessions: usize,
    /// Which process its peer is; two gateways with one name differ in it.
    #[serde(default)]
    pub instance: Option<String>,
    /// The key exchange of its newest link.
    #[serde(default)]
    pub key_exchange: Option<String>,
    /// The links' round-trip time and its variation, if they speak `portcullis/2`.
    pub round_trip_ms: Option<f64>,
    pub round_trip_spread_ms: Option<f64>,
    /// Failures of the same kind in the last minute.
    #[serde(default)]
    pub failures_minute: u64,
    /// How long half of the clients of the last minute waited for a link at most, and how long 99 of a hundred
    /// did. In the same row as waiting clients; `None` if there were none, or clients never wait.
    #[serde(default)]
    pub wait_p50_ms: Option<f64>,
    #[serde(default)]
    pub wait_p99_ms: Option<f64>,
    /// The services granted on the links of a `*` row, by name; empty if not known.
    #[serde(default)]
    pub serves: Vec<String>,
    /// The services whose clients wait for one of its links, or did a moment ago, by name.
    #[serde(default)]
    pub waited_for: Vec<String>,
    /// Days until the first of its peer's certificates expires.
    #[serde(default)]
    pub certificate_days: Option<i64>,
    /// Its links, oldest first; only the first of them if there are many.
    #[serde(default)]
    pub links: Vec<LinkRow>,
}

/// Ordered from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolState {
    /// As many links are ready as wanted.
    Healthy,
    /// There are links, but fewer than wanted, or sessions on them stay unanswered.
    Filling,
    /// A client waits.
    Starved,
    /// No link; `last_error` says why.
    Down,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficSample {
    pub up: u64,
    pub down: u64,
}

/// Open files of this process, and the limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescriptorUsage {
    pub used: u64,
    pub limit: u64,
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    #[test]
    fn a_brief_snapshot_has_the_latest_ended_sessions() {
        let ended = |id: &str, ago_seconds| EndedRow {
            gateway: None,
            id: id.into(),
            half: Half::Dmz,
            service: "orders".into(),
            client: "192.0.2.7:50000".into(),
            peer: None,
            end: "--".into(),
            reason: "both sides finished".into(),
            seconds: 1.0,
            ago_seconds,
            bytes_up: 0,
            bytes_down: 0,
            user: None,
            requests: 0,
            backend: None,
        };
        let ids = |snapshot: &Snapshot| snapshot.ended.iter().map(|row| row.id.clone()).collect::<Vec<_>>();
        let mut snapshot = Snapshot::new("edge", Mode::Reverse);
        let failed = |id, ago_seconds| EndedRow { end: "BC".into(), ..ended(id, ago_seconds) };
        snapshot.ended =
            vec![ended("e", 0.5), ended("d", 9.0), ended("c", 50.0), failed("b", 60.0), failed("a", 300.0)];
        let brief = snapshot.brief().into_owned();
        assert_eq!(ids(&brief), ["e", "d", "b"], "failures are shown for longer");
        assert!(matches!(brief.brief(), Cow::Borrowed(_)), "nothing is copied for nothing");
    }
}
