//! Builds the snapshot, a few times a second and whenever somebody asks for it. Rows of sessions are made only
//! while somebody watches, since there may be many.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{Engine, descriptors, offers, ports, service::Service};
use crate::{
    confine::{self, LockedHalf, UnixSockets},
    connect::Connector,
    link::agreement,
    monitor::MonitorPort,
    profile::{ExpiredListPolicy, Half, ServiceName},
    telemetry::{
        health::{self, CertificateRow, RevocationListRow},
        log, recording,
        registry::ServiceEnds,
        snapshot::{
            ConfinedRow, DescriptorUsage, MonitorCounts, PoolRow, ServicePhase, ServiceRow, Snapshot,
            TrafficSample, TrafficTotals,
        },
    },
    tls::{expiry::CertificateExpiry, revocation::ListExpiry},
};

/// Whether a snapshot has the rows of sessions, which only those who look at it need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionRows {
    Listed,
    LeftOut,
}

/// Samples of traffic kept: two minutes, one a second.
const TRAFFIC_SAMPLES: usize = 120;

/// Bytes per second, calculated from the totals.
#[derive(Debug)]
pub struct TrafficHistory {
    samples: VecDeque<TrafficSample>,
    last: TrafficSample,
    at: Instant,
}

impl Default for TrafficHistory {
    fn default() -> Self {
        Self { samples: VecDeque::new(), last: TrafficSample::default(), at: Instant::now() }
    }
}

impl TrafficHistory {
    pub fn newest(&self) -> TrafficSample {
        self.samples.back().copied().unwrap_or_default()
    }

    /// Takes a sample when a second has passed; false before that.
    pub fn sample(&mut self, totals: &TrafficTotals) -> bool {
        let seconds = self.at.elapsed().as_secs_f64();
        if seconds < 1.0 {
            return false;
        }
        let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds) as u64;
        let sample = TrafficSample {
            up: rate(totals.bytes_up, self.last.up),
            down: rate(totals.bytes_down, self.last.down),
        };
        self.samples.push_back(sample);
        if self.samples.len() > TRAFFIC_SAMPLES {
            self.samples.pop_front();
        }
        self.last = TrafficSample { up: totals.bytes_up, down: totals.bytes_down };
        self.at = Instant::now();
        true
    }
}

type TotalsByService = HashMap<(Half, ServiceName), TrafficTotals>;

const DAY_SECONDS: i64 = 86_400;
const DESCRIPTORS_EVERY: u64 = 5;

impl Engine {
    /// Pool rows with the figures of the last minute, and with what losing a peer has cost.
    pub(super) fn pool_rows(&self) -> Vec<PoolRow> {
        let mut pools = self.dmz.as_ref().map(|side| side.rows()).unwrap_or_default();
        pools.extend(self.internal.as_ref().map(|side| side.rows()).unwrap_or_default());
        self.recent.fill_rows(&mut pools, &self.shared.sessions.services.load());
        for pool in &mut pools {
            if let (Some(peer), Some(away)) = (&pool.peer, pool.gone_seconds) {
                pool.cut = self.shared.sessions.registry.cut_with(pool.half, peer, away);
            }
        }
        pools
    }

    /// The whole snapshot, with its health verdict.
    pub(super) fn snapshot(&self, sessions: SessionRows) -> Snapshot {
        let mut snapshot = self.judged_snapshot(sessions);
        self.alert_tracker.set_times(&mut snapshot);
        snapshot
    }

    /// The snapshot with its alerts, which do not consider earlier snapshots.
    pub(super) fn judged_snapshot(&self, sessions: SessionRows) -> Snapshot {
        let now = SystemTime::now();
        let mut snapshot = self.snapshot_rows(sessions, now);
        health::judge_snapshot(&mut snapshot, now);
        snapshot.readiness = Some(self.readiness(&snapshot));
        snapshot
    }

    /// Builds session rows only if somebody will read them.
    fn snapshot_rows(&self, sessions: SessionRows, now: SystemTime) -> Snapshot {
        let registry = &self.shared.sessions.registry;
        let with_rows = sessions == SessionRows::Listed;
        let (sessions, sessions_left_out) =
            if with_rows { registry.rows() } else { (Vec::new(), registry.open_count()) };
        let (failures, failures_left_out) = if with_rows { registry.failures() } else { Default::default() };
        let (switching, log_losses) = (self.pending_switch(), log::loss_rows());
        // Read once, so that the services add up to the totals.
        let of_services = registry.totals();
        let of_dmz = self.dmz.as_ref().map(|side| side.listening()).unwrap_or_default();
        let of_internal = self.internal.as_ref().map(|side| side.listening()).unwrap_or_default();
        Snapshot {
            version: env!("CARGO_PKG_VERSION").into(),
            time: log::format_utc(now),
            host: self.host.clone(),
            profile: self.profile.name.clone(),
            mode: self.profile.mode,
            halves: self.halves(),
            confined: self.confined_rows(),
            phase: self.phase(),
            health: None,
            alerts: Vec::new(),
            readiness: None,
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            instance: agreement::about().instance.to_string(),
            gateways: Vec::new(),
            findings: Vec::new(),
            listening: of_dmz
                .into_iter()
                .chain(of_internal)
                .chain(switching.into_iter().flat_map(|s| s.listening()))
                .collect(),
            reloads: self.reloads.now(),
            monitored_at: self.health.as_ref().map(MonitorPort::listening).unwrap_or_default(),
            totals: self.totals_of(&of_services),
            services: self.service_rows(&of_services),
            pools: self.pool_rows(),
            sessions,
            sessions_left_out,
            ended: if with_rows { registry.ended() } else { Vec::new() },
            failures,
            failures_left_out,
            notices: self.shared.notices.all(),
            log_lines_lost: log::lines_lost(),
            log_trouble: (!log_losses.is_empty())
                .then(|| log_losses.iter().map(|row| row.cause.as_str()).collect::<Vec<_>>().join("; ")),
            log_losses,
            traffic: self.traffic.samples.iter().copied().collect(),
            descriptors: if with_rows { descriptors::usage_now() } else { self.descriptors },
            certificates: self.certificate_rows(now),
            revocation_lists: self.revocation_list_rows(now),
            file_faults: self.certificate_reload.faults.clone(),
            lockdown: self.shared.sessions.lockdown.rows(),
            switching: switching.map(|switching| switching.row()),
            walk: self.verify_progress.row(),
            forward_checks: self.verify_progress.forward_rows(),
            cut_in_seconds: self.time_until_cut().map(|left| left.as_secs_f64()),
            recording: recording::state(),
        }
    }

    pub(super) fn totals(&self) -> TrafficTotals {
        self.totals_of(&self.shared.sessions.registry.totals())
    }

    /// A pair's sessions are counted once: where clients come in or, where they have come in elsewhere, inside.
    fn totals_of(&self, of_services: &TotalsByService) -> TrafficTotals {
        let half = self.first_half();
        let of_half = of_services.iter().filter(|((of, _), _)| *of == half);
        let elsewhere = match half {
            Half::Dmz => self.shared.sessions.registry.totals_elsewhere(),
            Half::Internal => TrafficTotals::default(),
        };
        of_half.fold(elsewhere, |sum, (_, service)| sum.with(service))
    }

    /// The half whose sessions are counted.
    pub(super) fn first_half(&self) -> Half {
        self.halves().first().copied().unwrap_or(Half::Dmz)
    }

    /// What the kernel refuses each half.
    fn confined_rows(&self) -> BTreeMap<Half, Option<ConfinedRow>> {
        let landlock = self.lock.landlock();
        let row = |locked: LockedHalf| ConfinedRow {
            seccomp: true,
            landlock,
            refuses: confine::refused_calls(locked.half).into_iter().map(str::to_owned).collect(),
            unix: (locked.unix == UnixSockets::ForBackends).then(|| "any".into()),
        };
        // Where the kernel takes no filter, Landlock is put on without one.
        let of_folders =
            || landlock.map(|_| ConfinedRow { seccomp: false, landlock, refuses: Vec::new(), unix: None });
        let of = |half| {
            let locked = self.lock.locked().filter(|locked| locked.half == half);
            (half, locked.map(row).or_else(of_folders))
        };
        self.halves().into_iter().map(of).collect()
    }

    fn halves(&self) -> Vec<Half> {
        let dmz = self.profile.dmz.is_some().then_some(Half::Dmz);
        let internal = self.profile.internal.is_some().then_some(Half::Internal);
        dmz.into_iter().chain(internal).collect()
    }

    fn service_rows(&self, totals: &TotalsByService) -> Vec<ServiceRow> {
        let failing = self.shared.sessions.registry.backend_failures();
        let mut ends = self.shared.sessions.registry.ends();
        let services = self.shared.sessions.services.load();
        let mut rows: Vec<_> = services
            .iter()
            .map(|((half, name), service)| {
                let (phase, reason) = self.service_phase(*half, name, service);
                ServiceRow {
                    gateway: None,
                    half: *half,
                    name: name.to_string(),
                    accept: self.accepts(*half, name),
                    connect: match &**service.connector.load() {
                        Connector::Direct(group) => Some(group.addresses()),
                        Connector::Forward(_) | Connector::Reverse(_) => None,
                    },
                    backends: match &**service.connector.load() {
                        Connector::Direct(group) => group.rows(),
                        Connector::Forward(_) | Connector::Reverse(_) => Vec::new(),
                    },
                    phase,
                    reason,
                    totals: totals.get(&(*half, name.clone())).copied().unwrap_or_default(),
                    failed_in_a_row: failing
                        .get(&(*half, name.clone()))
                        .map_or(0, |failing| failing.sessions),
                    backend_error: failing.get(&(*half, name.clone())).map(|failing| failing.error.clone()),
                    limit: Some(service.settings.load().sessions),
                    refusals: self.shared.sessions.registry.refusals(*half, name),
                    drained: service.drain_request(),
                    health: None,
                    lack: None,
                    counts: self.counts(*half, name, service, &mut ends),
                }
            })
            .collect();
        rows.sort_unstable_by(|a, b| (a.half, &a.name).cmp(&(b.half, &b.name)));
        rows
    }

    /// What clients of a service experience, and the reason if something is wrong.
    fn service_phase(
        &self,
        half: Half,
        name: &ServiceName,
        service: &Service,
    ) -> (ServicePhase, Option<String>) {
        let phase = offers::shown_phase(service);
        let reason = self.faults.reason(half, name).or_else(|| offers::down_reason(service));
        match ports::awaited_ports(&self.ports, name).filter(|_| half == Half::Dmz) {
            Some(awaited) if awaited.are_all && phase == ServicePhase::Open => {
                (ServicePhase::Down, Some(awaited.reason))
            }
            Some(awaited) => (phase, reason.or(Some(awaited.reason))),
            None => (phase, reason),
        }
    }

    fn counts(
        &self,
        half: Half,
        name: &ServiceName,
        service: &Service,
        ends: &mut HashMap<(Half, ServiceName), ServiceEnds>,
    ) -> MonitorCounts {
        let ServiceEnds { ended, waiting } = ends.remove(&(half, name.clone())).unwrap_or_default();
        MonitorCounts {
            ends: ended,
            waiting,
            waits: service.wait_times.now(),
            connects: service.connect_times.now(),
            requests: self.shared.requests.of(name),
        }
    }

    fn revocation_list_rows(&self, now: SystemTime) -> Vec<RevocationListRow> {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        let row = |list: &ListExpiry| RevocationListRow {
            object: list.object.to_string(),
            ends: log::format_utc(
                UNIX_EPOCH + Duration::from_secs(u64::try_from(list.next_update).unwrap_or(0)),
            ),
            has_expired: list.next_update <= now,
            refuses: list.policy == ExpiredListPolicy::Refuse,
        };
        self.revocation_lists.iter().map(row).collect()
    }

    fn certificate_rows(&self, now: SystemTime) -> Vec<CertificateRow> {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        let row = |expiry: &CertificateExpiry| {
            let ends = UNIX_EPOCH + Duration::from_secs(u64::try_from(expiry.not_after).unwrap_or(0));
            CertificateRow {
                half: expiry.half,
                used: expiry.used.label().into(),
                object: expiry.object.clone(),
                ends: log::format_utc(ends),
                days: (expiry.not_after - now).div_euclid(DAY_SECONDS),
            }
        };
        self.certificates.iter().map(row).collect()
    }

    /// Counts every few seconds, since counting many takes a while.
    pub(super) fn count_descriptors(&mut self) {
        let is_due = self.started.elapsed().as_secs().is_multiple_of(DESCRIPTORS_EVERY);
        if is_due || self.descriptors == DescriptorUsage::default() {
            self.count_descriptors_now();
        }
    }

    pub(super) fn count_descriptors_now(&mut self) {
        self.descriptors = descriptors::usage_now();
    }

    fn accepts(&self, half: Half, name: &ServiceName) -> Vec<String> {
        match half {
            Half::Dmz => ports::addresses_of_service(&self.ports, name),
            Half::Internal => Vec::new(),
        }
    }
}

/// The name of this host; empty if it has none.
pub fn host_name() -> String {
    // Not read from /proc/sys, which a hardened unit hides.
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
