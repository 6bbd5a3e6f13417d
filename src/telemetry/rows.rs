//! Empty snapshot rows to be filled in, and what several fields of a row mean together. They are plain data: who fills
//! them in is the owner of each part.

use super::{
    link_cause::{LinkCause, LinkFault},
    snapshot::{
        DescriptorUsage, GatewayPhase, MonitorCounts, PoolRow, PoolState, ReloadCounts, ServicePhase,
        ServiceRow, Snapshot, TrafficTotals,
    },
};
use crate::profile::{Half, Mode};

const LEAVES_UNANSWERED: &str =
    "it has left the last sessions unanswered, and comes last until it answers one";

impl Snapshot {
    /// For a gateway about which nothing is known yet.
    pub fn new(profile: &str, mode: Mode) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            time: String::new(),
            host: String::new(),
            profile: profile.into(),
            mode,
            halves: Vec::new(),
            confined: Default::default(),
            phase: GatewayPhase::Starting,
            health: None,
            alerts: Vec::new(),
            readiness: None,
            uptime_seconds: 0.0,
            instance: String::new(),
            gateways: Vec::new(),
            findings: Vec::new(),
            listening: Vec::new(),
            monitored_at: Vec::new(),
            reloads: ReloadCounts::default(),
            totals: TrafficTotals::default(),
            services: Vec::new(),
            pools: Vec::new(),
            sessions: Vec::new(),
            sessions_left_out: 0,
            ended: Vec::new(),
            failures: Vec::new(),
            failures_left_out: 0,
            notices: Vec::new(),
            log_lines_lost: 0,
            log_trouble: None,
            log_losses: Vec::new(),
            traffic: Vec::new(),
            descriptors: DescriptorUsage::default(),
            certificates: Vec::new(),
            revocation_lists: Vec::new(),
            file_faults: Vec::new(),
            lockdown: Vec::new(),
            switching: None,
            walk: None,
            forward_checks: Vec::new(),
            cut_in_seconds: None,
            recording: None,
        }
    }
}

impl ServiceRow {
    /// For a service about which nothing is known yet.
    pub fn new(half: Half, name: &str) -> Self {
        Self {
            gateway: None,
            half,
            name: name.into(),
            accept: Vec::new(),
            connect: None,
            phase: ServicePhase::Open,
            reason: None,
            totals: TrafficTotals::default(),
            failed_in_a_row: 0,
            backends: Vec::new(),
            backend_error: None,
            limit: None,
            refusals: Vec::new(),
            drained: None,
            health: None,
            lack: None,
            counts: MonitorCounts::default(),
        }
    }
}

impl PoolRow {
    /// A row about which nothing is known yet.
    pub fn new(half: Half, service: String) -> Self {
        Self {
            gateway: None,
            half,
            service,
            peer: None,
            address: None,
            name: None,
            standby: false,
            state: PoolState::Down,
            ready: 0,
            carrying: 0,
            bulk: 0,
            dialling: 0,
            target: 0,
            waiting: 0,
            misses: 0,
            failures: 0,
            last_error: None,
            last_cause: None,
            held: None,
            at_maximum: false,
            gone_seconds: None,
            left: false,
            cut: 0,
            retry_seconds: None,
            protocol: None,
            sessions: 0,
            instance: None,
            key_exchange: None,
            round_trip_ms: None,
            round_trip_spread_ms: None,
            failures_minute: 0,
            wait_p50_ms: None,
            wait_p99_ms: None,
            serves: Vec::new(),
            waited_for: Vec::new(),
            certificate_days: None,
            links: Vec::new(),
        }
    }

    /// Adds the fault of its links, if known.
    pub fn with_fault(self, fault: Option<LinkFault>) -> Self {
        let Some(LinkFault { cause, words }) = fault else { return self };
        Self { last_error: Some(words), last_cause: Some(cause), ..self }
    }

    /// Tells of a process that is up and leaves sessions unanswered, whatever else was wrong before.
    pub fn with_silence(self, leaves_unanswered: bool) -> Self {
        if !leaves_unanswered || self.state == PoolState::Down {
            return self;
        }
        let fault = LinkFault::new(LinkCause::SessionsUnanswered, LEAVES_UNANSWERED);
        let state = self.state.max(PoolState::Filling);
        Self { state, ..self }.with_fault(Some(fault))
    }

    /// Whether it leaves sessions unanswered, and is tried last.
    pub fn leaves_unanswered(&self) -> bool {
        self.state != PoolState::Down && self.last_cause == Some(LinkCause::SessionsUnanswered)
    }

    /// Whether it has no link, and had one before.
    pub fn is_gone(&self) -> bool {
        self.gone_seconds.is_some()
    }

    /// The state that a screen shows.
    pub fn shown_state(&self) -> PoolState {
        self.held.unwrap_or(self.state)
    }

    /// Whether its links may carry sessions of a service, as far as is known.
    pub fn may_serve(&self, service: &str) -> bool {
        let is_granted = || self.serves.is_empty() || self.serves.iter().any(|one| one == service);
        !self.standby && (self.service == service || self.service == "*" && is_granted())
    }
}
