//! Makes the snapshot: a few times a second, and whenever somebody asks.

use std::{collections::VecDeque, time::Instant};

use super::{Engine, ports};
use crate::{
    connect::Connector,
    profile::{Role, ServiceName},
    telemetry::{
        log,
        snapshot::{Descriptors, ServiceRow, Snapshot, Totals, TrafficSample},
    },
};

/// Samples of traffic kept: two minutes, one a second.
const TRAFFIC_SAMPLES: usize = 120;

/// Bytes a second, worked out from the totals.
#[derive(Debug)]
pub struct Traffic {
    samples: VecDeque<TrafficSample>,
    last: TrafficSample,
    at: Instant,
}

impl Default for Traffic {
    fn default() -> Self {
        Self { samples: VecDeque::new(), last: TrafficSample::default(), at: Instant::now() }
    }
}

impl Traffic {
    /// Takes a sample when a second has passed; false before that.
    pub fn sample(&mut self, totals: &Totals) -> bool {
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

impl Engine {
    /// The whole picture; rows of sessions only where somebody will read them.
    pub(super) fn snapshot(&self, with_rows: bool) -> Snapshot {
        let registry = &self.common.sessions.registry;
        let (sessions, sessions_left_out) =
            if with_rows { registry.rows() } else { (Vec::new(), registry.open_count()) };
        let mut pools = self.dmz.as_ref().map(|side| side.rows()).unwrap_or_default();
        pools.extend(self.internal.as_ref().map(|side| side.rows()).unwrap_or_default());
        let switching = self.switching.as_ref();
        let listening = [
            self.dmz.as_ref().and_then(|side| side.listening()),
            self.internal.as_ref().and_then(|side| side.listening()),
        ];
        Snapshot {
            version: env!("CARGO_PKG_VERSION").into(),
            profile: self.profile.name.clone(),
            mode: self.profile.mode,
            roles: self.roles(),
            phase: self.phase,
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            listening: listening
                .into_iter()
                .flatten()
                .chain(switching.into_iter().flat_map(|s| s.listening()))
                .collect(),
            totals: self.totals(),
            services: self.service_rows(),
            pools,
            sessions,
            sessions_left_out,
            ended: if with_rows { registry.ended() } else { Vec::new() },
            notices: self.common.notices.all(),
            log_lines_lost: log::lines_lost(),
            traffic: self.traffic.samples.iter().copied().collect(),
            descriptors: if with_rows { descriptors() } else { Descriptors::default() },
            switching: switching.map(|switching| switching.row()),
            walk: self.checks.walk_row(),
            forward_checks: self.checks.forward_rows(),
        }
    }

    /// A pair's sessions are counted once, where clients come in.
    pub(super) fn totals(&self) -> Totals {
        let role = self.first_role();
        let of_services = self.common.sessions.registry.totals();
        let of_role = of_services.iter().filter(|((of, _), _)| *of == role);
        of_role.fold(Totals::default(), |sum, (_, service)| Totals {
            sessions_open: sum.sessions_open + service.sessions_open,
            sessions: sum.sessions + service.sessions,
            refused: sum.refused + service.refused,
            bytes_up: sum.bytes_up + service.bytes_up,
            bytes_down: sum.bytes_down + service.bytes_down,
        })
    }

    /// The half whose sessions are counted.
    pub(super) fn first_role(&self) -> Role {
        self.roles().first().copied().unwrap_or(Role::Dmz)
    }

    fn roles(&self) -> Vec<Role> {
        let dmz = self.profile.dmz.is_some().then_some(Role::Dmz);
        let internal = self.profile.internal.is_some().then_some(Role::Internal);
        dmz.into_iter().chain(internal).collect()
    }

    fn service_rows(&self) -> Vec<ServiceRow> {
        let totals = self.common.sessions.registry.totals();
        let services = self.common.sessions.services.load();
        let mut rows: Vec<_> = services
            .iter()
            .map(|((role, name), service)| ServiceRow {
                role: *role,
                name: name.to_string(),
                accept: self.accepts(*role, name),
                connect: match &**service.connector.load() {
                    Connector::Direct(backend) => Some(backend.to_string()),
                    Connector::Forward(_) | Connector::Reverse(_) => None,
                },
                phase: service.phase(),
                totals: totals.get(&(*role, name.clone())).copied().unwrap_or_default(),
            })
            .collect();
        rows.sort_by(|a, b| (a.role, &a.name).cmp(&(b.role, &b.name)));
        rows
    }

    fn accepts(&self, role: Role, name: &ServiceName) -> Vec<String> {
        match role {
            Role::Dmz => ports::of_service(&self.ports, name),
            Role::Internal => Vec::new(),
        }
    }
}

/// Open files against the soft limit.
pub fn descriptors() -> Descriptors {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let used = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    Descriptors { used, limit: limit.unwrap_or(u64::MAX) }
}
