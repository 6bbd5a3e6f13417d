//! Builds the snapshot, a few times a second and whenever somebody asks for it.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    Engine, descriptors, offers, ports,
    service::{Service, ServiceTable},
};
use crate::{
    confine::{self, LockedHalf, UnixSockets},
    connect::Connector,
    link::standing,
    monitor::MonitorPort,
    profile::{ExpiredListPolicy, Half, ServiceName},
    telemetry::{
        health::{self, CertificateRow, RevocationListRow},
        histogram::{LastMinute, WaitCounts},
        log, recording,
        registry::ServiceEnds,
        snapshot::{
            ConfinedRow, DescriptorUsage, MonitorCounts, PoolRow, PoolState, ServicePhase, ServiceRow,
            Snapshot, TrafficSample, TrafficTotals,
        },
    },
    tls::{expiry::CertificateExpiry, revocation::ListExpiry},
};

/// Samples of traffic kept: two minutes, one a second.
const TRAFFIC_SAMPLES: usize = 120;

/// Bytes per second, worked out from the totals.
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

/// What pictures before this one tell: failures of each pool row and waits of each service in the last
/// minute, and the states that are held.
#[derive(Debug, Default)]
pub struct RecentHistory {
    held: HashMap<PoolKey, HeldPoolState>,
    /// For each pool, the failure counts of the last minute, one per second.
    failures: HashMap<PoolKey, VecDeque<u64>>,
    waits: HashMap<(Half, ServiceName), LastMinute>,
}

/// The state shown for a pool, and when it was last as bad as that, in seconds since the gateway started.
#[derive(Debug, Clone, Copy)]
struct HeldPoolState {
    state: PoolState,
    at: f64,
}

type TotalsByService = HashMap<(Half, ServiceName), TrafficTotals>;

/// Half, service, peer, address.
type PoolKey = (Half, String, Option<String>, Option<String>);

fn pool_key(row: &PoolRow) -> PoolKey {
    (row.role, row.service.clone(), row.peer.clone(), row.address.clone())
}

impl RecentHistory {
    /// Must be called once a second.
    pub(super) fn sample(&mut self, pools: &[PoolRow], services: &ServiceTable, now: f64) {
        let keys: HashSet<_> = pools.iter().map(pool_key).collect();
        self.failures.retain(|key, _| keys.contains(key));
        for row in pools {
            // A row that is new has failed within the minute, as far as it has.
            let counts = self.failures.entry(pool_key(row)).or_insert_with(|| VecDeque::from([0]));
            counts.push_back(row.failures);
            if counts.len() > MINUTE_SECONDS {
                counts.pop_front();
            }
        }
        self.waits.retain(|key, _| services.contains_key(key));
        for (key, service) in services {
            self.waits.entry(key.clone()).or_default().sample(&service.waits, now);
        }
    }

    /// To be called with each picture: a pool around its target would change its word several times a
    /// second. A worse state is true at once, a better one when it has lasted.
    pub(super) fn hold_states(&mut self, pools: &[PoolRow], now: f64) {
        let held = pools.iter().map(|row| {
            let before = self.held.get(&pool_key(row)).copied();
            let goes_on = before.filter(|held| row.state < held.state && now - held.at < HOLD_SECONDS);
            (pool_key(row), goes_on.unwrap_or(HeldPoolState { state: row.state, at: now }))
        });
        self.held = held.collect();
    }

    fn fill_rows(&self, rows: &mut [PoolRow], services: &ServiceTable) {
        let mut told = HashSet::new();
        let is_first = |service: &(Half, ServiceName), row: &PoolRow, told: &mut HashSet<_>| {
            service.0 == row.role && row.may_serve(service.1.as_str()) && told.insert(service.clone())
        };
        for row in rows {
            let before = self.failures.get(&pool_key(row)).and_then(|counts| counts.front());
            row.held =
                Some(self.held.get(&pool_key(row)).map_or(row.state, |held| held.state.max(row.state)));
            row.failures_minute = row.failures.saturating_sub(before.copied().unwrap_or(0));
            let of_row = |(key, service): (&(Half, ServiceName), &Arc<Service>)| {
                let minute = self.waits.get(key).filter(|_| is_first(key, row, &mut told))?;
                Some(minute.counts(&service.waits))
            };
            let seen =
                services.iter().filter_map(of_row).fold(WaitCounts::default(), |sum, seen| sum.with(&seen));
            let ms = |part| seen.percentile(part).map(|wait| wait.as_micros() as f64 / 1e3);
            (row.wait_p50_ms, row.wait_p99_ms) = (ms(50.0), ms(99.0));
        }
    }
}

const DAY_SECONDS: i64 = 86_400;
const DESCRIPTORS_EVERY: u64 = 5;
/// A better state is shown when it has lasted so long.
const HOLD_SECONDS: f64 = 1.0;
/// Samples in a minute, one a second.
const MINUTE_SECONDS: usize = 60;

impl Engine {
    /// Pool rows with what the last minute tells, and what the loss of a peer has cost.
    pub(super) fn pool_rows(&self) -> Vec<PoolRow> {
        let mut pools = self.dmz.as_ref().map(|side| side.rows()).unwrap_or_default();
        pools.extend(self.internal.as_ref().map(|side| side.rows()).unwrap_or_default());
        self.recent.fill_rows(&mut pools, &self.shared.sessions.services.load());
        for pool in &mut pools {
            if let (Some(peer), Some(gone)) = (&pool.peer, pool.gone_seconds) {
                pool.cut = self.shared.sessions.registry.cut_with(pool.role, peer, gone);
            }
        }
        pools
    }

    /// The whole snapshot, with its health verdict.
    pub(super) fn snapshot(&self, with_rows: bool) -> Snapshot {
        let mut snapshot = self.judged_snapshot(with_rows);
        self.alert_tracker.set_times(&mut snapshot);
        snapshot
    }

    /// The same, with alerts that do not consider earlier snapshots.
    pub(super) fn judged_snapshot(&self, with_rows: bool) -> Snapshot {
        let now = SystemTime::now();
        let mut snapshot = self.snapshot_rows(with_rows, now);
        health::judge_snapshot(&mut snapshot, now);
        snapshot.readiness = Some(self.readiness(&snapshot));
        snapshot
    }

    /// Builds session rows only if somebody will read them.
    fn snapshot_rows(&self, with_rows: bool, now: SystemTime) -> Snapshot {
        let registry = &self.shared.sessions.registry;
        let (sessions, sessions_left_out) =
            if with_rows { registry.rows() } else { (Vec::new(), registry.open_count()) };
        let (failures, failures_left_out) = if with_rows { registry.failures() } else { Default::default() };
        let switching = self.pending_switch();
        // Read once: the sums of the services are the totals.
        let of_services = registry.totals();
        let of_dmz = self.dmz.as_ref().map(|side| side.listening()).unwrap_or_default();
        let of_internal = self.internal.as_ref().map(|side| side.listening()).unwrap_or_default();
        Snapshot {
            version: env!("CARGO_PKG_VERSION").into(),
            time: log::format_utc(now),
            host: self.host.clone(),
            profile: self.profile.name.clone(),
            mode: self.profile.mode,
            roles: self.roles(),
            confined: self.confined_rows(),
            phase: self.phase(),
            health: None,
            alerts: Vec::new(),
            readiness: None,
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            instance: standing::about().instance.to_string(),
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
            log_trouble: log::loss_reason(),
            traffic: self.traffic.samples.iter().copied().collect(),
            descriptors: if with_rows { descriptors::usage_now() } else { self.descriptors },
            certificates: self.certificate_rows(now),
            revocation_lists: self.revocation_list_rows(now),
            lockdown: self.shared.sessions.lockdown.rows(),
            switching: switching.map(|switching| switching.row()),
            walk: self.verify_progress.walk_row(),
            forward_checks: self.verify_progress.forward_rows(),
            cut_in_seconds: self.time_until_cut().map(|left| left.as_secs_f64()),
            recording: recording::state(),
        }
    }

    pub(super) fn totals(&self) -> TrafficTotals {
        self.totals_of(&self.shared.sessions.registry.totals())
    }

    /// A pair's sessions are counted once, where clients come in.
    fn totals_of(&self, of_services: &TotalsByService) -> TrafficTotals {
        let role = self.first_role();
        let of_role = of_services.iter().filter(|((of, _), _)| *of == role);
        of_role.fold(TrafficTotals::default(), |sum, (_, service)| sum.with(service))
    }

    /// The half whose sessions are counted.
    pub(super) fn first_role(&self) -> Half {
        self.roles().first().copied().unwrap_or(Half::Dmz)
    }

    /// What the kernel refuses each half.
    fn confined_rows(&self) -> BTreeMap<Half, Option<ConfinedRow>> {
        let row = |locked: LockedHalf| ConfinedRow {
            seccomp: true,
            landlock: self.lock.landlock(),
            refuses: confine::refused_calls(locked.half).into_iter().map(str::to_owned).collect(),
            unix: (locked.unix == UnixSockets::ForBackends).then(|| "any".into()),
        };
        let of = |half| (half, self.lock.locked().filter(|locked| locked.half == half).map(row));
        self.roles().into_iter().map(of).collect()
    }

    fn roles(&self) -> Vec<Half> {
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
            .map(|((role, name), service)| {
                let (phase, reason) = self.service_phase(*role, name, service);
                ServiceRow {
                    gateway: None,
                    role: *role,
                    name: name.to_string(),
                    accept: self.accepts(*role, name),
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
                    totals: totals.get(&(*role, name.clone())).copied().unwrap_or_default(),
                    failed_in_a_row: failing
                        .get(&(*role, name.clone()))
                        .map_or(0, |failing| failing.sessions),
                    backend_error: failing.get(&(*role, name.clone())).map(|failing| failing.error.clone()),
                    limit: Some(service.settings.load().sessions),
                    refusals: self.shared.sessions.registry.refusals(*role, name),
                    drained: service.drain_request(),
                    health: None,
                    lack: None,
                    counts: self.counts(*role, name, service, &mut ends),
                }
            })
            .collect();
        rows.sort_unstable_by(|a, b| (a.role, &a.name).cmp(&(b.role, &b.name)));
        rows
    }

    /// What clients of a service meet, and why, where it is not all well.
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
            ends: log::format_utc(UNIX_EPOCH + Duration::from_secs(u64::try_from(list.ends).unwrap_or(0))),
            has_expired: list.ends <= now,
            refuses: list.policy == ExpiredListPolicy::Refuse,
        };
        self.revocation_lists.iter().map(row).collect()
    }

    fn certificate_rows(&self, now: SystemTime) -> Vec<CertificateRow> {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        let row = |expiry: &CertificateExpiry| {
            let ends = UNIX_EPOCH + Duration::from_secs(u64::try_from(expiry.ends).unwrap_or(0));
            CertificateRow {
                role: expiry.role,
                used: expiry.used.word().into(),
                object: expiry.object.clone(),
                ends: log::format_utc(ends),
                days: (expiry.ends - now).div_euclid(DAY_SECONDS),
            }
        };
        self.certificates.iter().map(row).collect()
    }

    /// Every few seconds: where there are many, counting them takes a while.
    pub(super) fn count_descriptors(&mut self) {
        let is_due = self.started.elapsed().as_secs().is_multiple_of(DESCRIPTORS_EVERY);
        if is_due || self.descriptors == DescriptorUsage::default() {
            self.descriptors = descriptors::usage_now();
        }
    }

    fn accepts(&self, role: Half, name: &ServiceName) -> Vec<String> {
        match role {
            Half::Dmz => ports::addresses_of_service(&self.ports, name),
            Half::Internal => Vec::new(),
        }
    }
}

/// The name of this host; empty where it has none.
pub fn host_name() -> String {
    // Not /proc/sys, which a hardened unit hides.
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_better_state_is_shown_when_it_has_lasted_and_a_worse_one_at_once() {
        use PoolState::{Down, Filling, Healthy, Starved};
        let mut minute = RecentHistory::default();
        let mut shown = |now: f64, state| {
            let mut rows = vec![PoolRow { state, ..PoolRow::new(Half::Dmz, "orders".into()) }];
            minute.fill_rows(&mut rows, &ServiceTable::new());
            minute.hold_states(&rows, now);
            (rows[0].held, rows[0].state)
        };
        let told = [
            (0.0, Filling, Filling),
            (0.25, Healthy, Filling),
            (0.5, Filling, Filling),
            (1.25, Healthy, Filling),
            (1.5, Healthy, Filling),
            (1.75, Healthy, Healthy),
            (2.0, Starved, Starved),
            (2.25, Filling, Starved),
            (2.5, Starved, Starved),
            (3.5, Filling, Starved),
            (3.75, Filling, Filling),
            (4.0, Down, Down),
        ];
        for (now, state, expected) in told {
            assert_eq!(shown(now, state), (Some(expected), state), "at {now}");
        }
    }
}
