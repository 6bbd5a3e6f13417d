//! The steps of the checklist, as a running gateway performs them on itself: what its half can prove in its
//! mode.
//!
//! `verify` merges the results of two halves, and starts halves of its own where none are running.

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use thiserror::Error;
use tokio::{sync::watch, time::Instant};

use super::{
    advice,
    probe::{PendingProbes, ProbeEntry, ProbeResult},
    progress::VerifyProgress,
};
use crate::{
    accept::ServeSession,
    confine::LockedHalf,
    connect::{
        Connector,
        direct::{self, BackendTarget},
    },
    disk::{FileWork, FileWorkError, PipePolicy},
    link::handshake,
    net::{
        dns::{DnsError, DnsResolver, name_rules::LookupAnswer},
        listen::BindError,
        own_ports::OwnPorts,
    },
    profile::{
        Backend, BackendSet, DmzMode, GatewaysOfName, Half, HostPort, LinkAddress, ListedBackend, Mode,
        Problem, Profile, RemoteServer, ServiceName,
    },
    source::{self, ChosenProfile, LoadedProfile, ProfileSource},
    telemetry::{
        checklist::{CheckStep, StepFailure, StepFinding, VerifyReport},
        link_cause::{LinkCause, LinkFault},
        log,
        snapshot::{PoolRow, PoolState, Snapshot},
    },
    text,
    tls::edge::EdgeTls,
};

/// The mode under test must be ready within this time, or its step fails.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// The parts of the other mode, opened beside the running ones for one run; dropping them closes them.
pub trait TrialParts: Send + Sync {
    /// The pools of one half.
    fn rows(&self, half: Half) -> Vec<PoolRow>;
    /// Where a session of the service would go.
    fn connector(&self, service: &ServiceName) -> Option<Connector>;
}

/// Why the other mode cannot be tried.
#[derive(Debug, Error)]
pub enum TrialError {
    #[error(transparent)]
    Files(FileWorkError),
    #[error(transparent)]
    Bind(BindError),
    #[error("the gateway is stopping")]
    Stopping,
}

impl From<&TrialError> for LinkCause {
    fn from(error: &TrialError) -> Self {
        match error {
            TrialError::Bind(error) => error.into(),
            TrialError::Files(_) | TrialError::Stopping => Self::Other,
        }
    }
}

/// Everything that a run of the checklist needs from its gateway.
pub struct VerifyRun {
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub source: ProfileSource,
    pub chosen: ChosenProfile,
    pub profile: Profile,
    /// The half that the kernel has locked, if any.
    pub locked: Option<LockedHalf>,
    /// Serves connections that are handed over in memory.
    pub serve: ServeSession,
    pub probes: PendingProbes,
    /// Where probes of each service enter.
    pub entries: Vec<ProbeEntry>,
    pub admin: Option<PathBuf>,
    /// Where its clients come in.
    pub own_ports: OwnPorts,
    pub checks: VerifyProgress,
    /// Reads its files.
    pub files: FileWork,
    pub trial: Option<Result<Box<dyn TrialParts>, TrialError>>,
}

impl VerifyRun {
    /// Runs these steps in order, and times each.
    pub async fn run(self, steps: &[CheckStep]) -> VerifyReport {
        let mut step_report = Vec::new();
        for step in steps {
            self.checks.start_step(*step);
            let began = Instant::now();
            let found = match step {
                CheckStep::Profile => self.check_profile().await,
                CheckStep::Basic => self.check_basic().await,
                CheckStep::Forward => self.check_mode(Mode::Forward).await,
                CheckStep::Reverse => self.check_mode(Mode::Reverse).await,
                CheckStep::Closed => self.check_closed().await,
            };
            let found = found.at(*step, began.elapsed());
            self.checks.finish_step(&found);
            step_report.push(found);
        }
        VerifyReport::new(step_report)
    }

    async fn check_profile(&self) -> StepFinding {
        let (source, chosen, mode) = (self.source.clone(), self.chosen.clone(), self.profile.mode);
        self.files.run(move || check_profile(&source, &chosen, mode)).await.unwrap_or_else(unanswered_finding)
    }

    async fn check_basic(&self) -> StepFinding {
        let of = self.profile.clone();
        match self.files.run(move || source::load_edges(&of, PipePolicy::Refused)).await {
            Ok(edges) => check_basic(&self.profile, edges, &self.own_ports).await,
            Err(error) => unanswered_finding(error),
        }
    }

    /// Checks one mode: it is ready, and a probe of each service gets through.
    async fn check_mode(&self, mode: Mode) -> StepFinding {
        let half = match (&self.profile.dmz, mode) {
            (Some(_), _) => Half::Dmz,
            (None, Mode::Reverse) => Half::Internal,
            (None, _) => return StepFinding::skip("the DMZ half sends the probe; verify it on that host"),
        };
        let trial = match &self.trial {
            _ if self.profile.mode == mode => None,
            Some(Ok(trial)) => Some(&**trial),
            Some(Err(error)) => {
                return StepFinding::fail(error.to_string(), advice::advise_on_link(error.into()));
            }
            None => return StepFinding::skip(self.skip_reason(mode)),
        };
        if let (Some(_), Some(why)) = (trial, self.unanswered_reason(mode).await) {
            return StepFinding::skip(why);
        }
        let links = match wait_until_ready(&self.snapshots, half, mode, trial).await {
            Ok(links) => links,
            Err(failed) => return failed,
        };
        match half {
            Half::Dmz => self.probe_all(&links, trial).await,
            Half::Internal => StepFinding::pass(format!("links are parked: {links}")),
        }
    }

    /// Why this gateway cannot check a mode that it does not run.
    fn skip_reason(&self, mode: Mode) -> String {
        match self.profile.mode {
            Mode::Reverse if self.locked.is_some() => {
                "this gateway is locked (`confine`) and does not leave reverse mode, not even for a check".into()
            }
            Mode::Reverse if self.profile.internal.is_some() => {
                "in reverse mode the internal half opens no port, not even for a check".into()
            }
            Mode::Direct => {
                "this gateway runs in mode direct, where there is no link; stop it, and `verify` runs halves of its own".into()
            }
            running @ (Mode::Forward | Mode::Reverse) => {
                let [running, wanted] = [running, mode].map(Mode::label);
                format!("this gateway runs in mode {running}, and its profile cannot go in mode {wanted}")
            }
        }
    }

    /// A DMZ half alone can try forward mode only if somebody answers.
    async fn unanswered_reason(&self, mode: Mode) -> Option<String> {
        let (source, chosen) = (self.source.clone(), self.chosen.clone());
        let loaded = self.files.run(move || source.load(&chosen, Some(mode))).await.ok()?.ok()?;
        unanswered_alone(&loaded).await
    }

    /// A snapshot that was taken after this call.
    pub(super) async fn fresh_snapshot(&self) -> Option<Arc<Snapshot>> {
        next_snapshot(&self.snapshots).await
    }

    async fn probe_all(&self, links: &str, trial: Option<&dyn TrialParts>) -> StepFinding {
        let mut came_back = Vec::new();
        for entry in &self.entries {
            let ProbeEntry { service, at, .. } = entry;
            if let Some(Problem { what, advice, .. }) = &entry.fault {
                return StepFinding::fail(format!("`{service}` is down at {at}: {what}"), advice.clone());
            }
            let connector = trial.and_then(|trial| trial.connector(service));
            match self.probes.send(entry, connector, self.probe_passage()).await {
                Ok(took) => {
                    let within = entry.tls.as_ref().map(|_| format!(" within the TLS of {at}"));
                    came_back.push(format!("{service} in {}{}", format_ms(took), within.unwrap_or_default()));
                }
                Err(failure) => {
                    let seen = format!("probe of `{service}` through {at}: {}", failure.end);
                    let advice = advice::advise_on_probe(service.as_str(), failure.cause);
                    return StepFinding::fail(seen, advice);
                }
            }
        }
        StepFinding::pass(format!("probes came back: {}; over {links}", came_back.join(", ")))
    }

    fn probe_passage(&self) -> ProbeResult<'_> {
        match self.locked.map(|locked| locked.half) {
            Some(Half::Dmz) => ProbeResult::Memory(&self.serve),
            Some(Half::Internal) | None => ProbeResult::Port,
        }
    }
}

/// However the run ends, whatever was opened for it is closed, and then another run may begin.
impl Drop for VerifyRun {
    fn drop(&mut self) {
        drop(self.trial.take());
        self.checks.end();
    }
}

pub(super) fn unanswered_finding(error: FileWorkError) -> StepFinding {
    StepFinding::fail(error.to_string(), "look at the disk, or at the file server, that the profile is on")
}

pub(super) fn stopped_finding() -> StepFinding {
    StepFinding::fail("the gateway has stopped", "start it again")
}

/// Whether a DMZ half without its other half is in forward mode, and nobody answers it.
pub async fn unanswered_alone(loaded: &LoadedProfile) -> Option<String> {
    let LoadedProfile { profile, edges, .. } = loaded;
    let (Some(half), None) = (&profile.dmz, &profile.internal) else { return None };
    let DmzMode::Forward { connect, .. } = &half.mode else { return None };
    let dns = DnsResolver::default();
    dns.use_servers(profile.resolver.as_slice().into());
    let last = first_answer(connect.iter().map(|address| unanswered(address, &dns, edges))).await?;
    Some(format!("no internal gateway answers in forward mode: {last}"))
}

/// Why nobody answers at an address, or at any address that its name stands for.
async fn unanswered(address: &LinkAddress, dns: &DnsResolver, outer: &EdgeTls) -> Option<String> {
    let at = &address.at;
    let targets = match address.gateways {
        GatewaysOfName::Any | GatewaysOfName::One(_) | GatewaysOfName::Target(_) => {
            return handshake::why_unanswered(address, outer).await.map(|error| error.to_string());
        }
        GatewaysOfName::Each => vec![at.clone()],
        GatewaysOfName::Service => match dns.services(&at.host).await {
            Ok(records) => records.choose().used.into_iter().collect(),
            Err(error) => return Some(format!("{address}: {error}")),
        },
    };
    let dial = async |target: HostPort| {
        let addresses = match dns.addresses(&target.host).await {
            Ok(found) => found.choose().used.into_iter().collect::<Vec<_>>(),
            Err(error) => return Some(format!("{target}: {error}")),
        };
        let error = handshake::why_unanswered_at(address, (&target, &addresses), outer).await;
        error.map(|error| error.to_string())
    };
    match targets.is_empty() {
        true => Some(format!("{address}: it has no target that can be dialled")),
        false => first_answer(targets.into_iter().map(dial)).await,
    }
}

/// Dials all at once, so the wait is that of one, however many there are. If none answers, returns the last
/// error.
async fn first_answer(dials: impl Iterator<Item = impl Future<Output = Option<String>>>) -> Option<String> {
    let mut dials: FuturesUnordered<_> = dials.collect();
    let mut last = Some(String::new());
    while let Some(dialled) = dials.next().await {
        last = Some(dialled?);
    }
    last
}

/// The profile can be read and its certificates are valid; says what they are for, and for how long.
pub fn check_profile(source: &ProfileSource, chosen: &ChosenProfile, mode: Mode) -> StepFinding {
    let LoadedProfile { profile, dmz, internal, .. } = match source.load(chosen, Some(mode)) {
        Ok(loaded) => loaded,
        Err(problems) => return unreadable_profile(&problems),
    };
    let half =
        |name: &str, identity: &crate::tls::link::LinkIdentity| format!("{name}: {}", identity.describe());
    let shown: Vec<_> =
        [dmz.map(|identity| half("dmz", &identity)), internal.map(|identity| half("internal", &identity))]
            .into_iter()
            .flatten()
            .collect();
    let file =
        profile.file.as_ref().map_or_else(|| "the built-in profile".into(), |file| text::clean_path(file));
    match shown.is_empty() {
        true => StepFinding::pass(format!("{file} reads; its links use no certificates")),
        false => StepFinding::pass(format!("{file} reads; {}", shown.join("; "))),
    }
}

/// The first problem, and how many more there are.
pub fn unreadable_profile(problems: &[Problem]) -> StepFinding {
    let Some(first) = problems.first() else { return StepFinding::skip("no problem is known") };
    let location = &first.location;
    let more = match problems.len() {
        1 => String::new(),
        count => format!(" (and {} more, see `check`)", count - 1),
    };
    let seen = format!(
        "{}:{}:{}: {}: {}{more}",
        location.file, location.line, location.column, location.key, first.what
    );
    StepFinding::fail(seen, first.advice.clone())
}

/// The backends that an entry stands for.
async fn addresses_of(listed: &ListedBackend, dns: &DnsResolver) -> Result<Vec<Backend>, DnsError> {
    let host = listed.backend.host_name().filter(|_| listed.is_each);
    let Some(host) = host else { return Ok(vec![listed.backend.clone()]) };
    let used = dns.addresses(host).await?.choose().used;
    Ok(used.into_iter().map(|ip| listed.backend.at_address(ip)).collect())
}

/// Each backend accepts a connection from the half that reaches it, and is none of the service's own ports.
pub async fn check_basic(profile: &Profile, edges: EdgeTls, own_ports: &OwnPorts) -> StepFinding {
    let backends: Vec<(ServiceName, BackendSet)> = match (&profile.dmz, &profile.internal) {
        (_, Some(half)) => {
            half.services.iter().map(|service| (service.name.clone(), service.connect.clone())).collect()
        }
        (Some(half), None) => match &half.mode {
            DmzMode::Direct(backends) => {
                backends.iter().map(|(name, to)| (name.clone(), to.clone())).collect()
            }
            DmzMode::Forward { .. } | DmzMode::Reverse { .. } => {
                return StepFinding::skip(
                    "the internal half reaches the backends; verify it on its own host",
                );
            }
        },
        (None, None) => Vec::new(),
    };
    let key = if profile.internal.is_some() { "internal" } else { "dmz" };
    if !edges.problems().is_empty() {
        return unreadable_profile(edges.problems());
    }
    let dns = DnsResolver::default();
    dns.use_servers(profile.resolver.as_slice().into());
    let all = backends.iter().flat_map(|(service, set)| set.list.iter().map(move |listed| (service, listed)));
    let found =
        join_all(all.map(async |(service, listed)| (service, addresses_of(listed, &dns).await))).await;
    let each = found.iter().flat_map(|(service, found)| {
        let (backends, unknown) = match found {
            Ok(backends) => (backends.as_slice(), None),
            Err(error) => (&[][..], Some(error)),
        };
        let unknown = unknown.map(|error| (*service, Err(error)));
        backends.iter().map(|backend| (*service, Ok(backend))).chain(unknown)
    });
    let dialled = join_all(each.map(async |(service, backend)| {
        let began = Instant::now();
        let backend = backend.map_err(|error| (service, error.to_string()))?;
        let answered =
            direct::check_backend(&BackendTarget::new(backend, &edges), &own_ports.of(service)).await;
        let took = format_ms(began.elapsed());
        match (answered, backend.remote()) {
            (Ok(()), None) => Ok(format!("`{service}` is the built-in echo")),
            (Ok(()), Some(RemoteServer { at, tls, ip, .. })) => {
                let at = ip.map_or_else(|| at.to_string(), |ip| format!("{at} at {ip}"));
                let with_tls = if tls.is_some() { ", its TLS included" } else { "" };
                Ok(format!("`{service}` {at} answered in {took}{with_tls}"))
            }
            (Err(failure), _) => Err((service, failure.reason)),
        }
    }))
    .await;
    let failed: Vec<_> = dialled.iter().filter_map(|dialled| dialled.as_ref().err()).collect();
    match failed.first() {
        None => StepFinding::pass(join(dialled.iter().flatten().cloned())),
        Some((service, _)) => StepFinding::fail(
            join(failed.iter().map(|(service, reason)| format!("`{service}`: {reason}"))),
            format!("start that server, or correct `{key}.services.{service}.connect`"),
        ),
    }
}

/// A snapshot that was taken after this call.
async fn next_snapshot(snapshots: &watch::Receiver<Arc<Snapshot>>) -> Option<Arc<Snapshot>> {
    let mut snapshots = snapshots.clone();
    snapshots.mark_unchanged();
    snapshots.changed().await.ok()?;
    Some(snapshots.borrow().clone())
}

/// Waits for healthy pools, and describes them and the named gateways that have none. If nobody offers a
/// service, a probe over a dialled link explains best why.
async fn wait_until_ready(
    snapshots: &watch::Receiver<Arc<Snapshot>>,
    half: Half,
    mode: Mode,
    trial: Option<&dyn TrialParts>,
) -> Result<String, StepFinding> {
    let (began, since) = (Instant::now(), log::utc_now());
    loop {
        let Some(snapshot) = next_snapshot(snapshots).await else { return Err(stopped_finding()) };
        let mut rows: Vec<_> = match trial {
            Some(trial) => trial.rows(half),
            None => snapshot.pools.iter().filter(|row| row.half == half).cloned().collect(),
        };
        rows.retain(|row| !row.standby && (mode != Mode::Forward || row.address.is_some()));
        if !rows.is_empty() && rows.iter().all(is_healthy) {
            // The gateway itself does not know the links of a trial.
            let readiness = snapshot.readiness.as_ref().filter(|_| trial.is_none());
            let missing = readiness.map_or(&[][..], |readiness| &readiness.unlinked).iter().cloned();
            return Ok(join(rows.iter().map(describe_pool).chain(missing)));
        }
        if began.elapsed() >= READY_TIMEOUT {
            return Err(not_ready_finding(&rows, refused_link(&snapshot, &since)));
        }
    }
}

/// The last link that this half has rejected since then, as in its notice.
pub fn refused_link(snapshot: &Snapshot, since: &str) -> Option<LinkFault> {
    let mut lines = snapshot.notices.iter().rev().filter(|line| line.time.as_str() >= since);
    lines.find_map(|line| Some(LinkFault::new(line.rejected_link?, line.text.as_str())))
}

fn is_healthy(row: &PoolRow) -> bool {
    row.state == PoolState::Healthy
}

/// Describes the links that could not be established, and those that were.
fn not_ready_finding(rows: &[PoolRow], refused: Option<LinkFault>) -> StepFinding {
    let missing = || rows.iter().filter(|row| !is_healthy(row));
    let mut seen = join(missing().map(describe_pool));
    if let Some(refused) = &refused {
        seen = format!("{seen}; last {}", refused.words);
    }
    let well = join(rows.iter().filter(|row| is_healthy(row)).map(describe_pool));
    if !well.is_empty() {
        seen = format!("{seen}; well: {well}");
    }
    let causes = missing().filter_map(|row| row.last_cause).chain(refused.map(|refused| refused.cause));
    let advice = match missing().any(has_too_few) {
        true => advice::LINKS_ARE_BOUNDED,
        false => advice::advise_on_link(causes.min().unwrap_or(LinkCause::Other)),
    };
    let seen = format!("not ready within {}s: {seen}", READY_TIMEOUT.as_secs());
    StepFinding::fail(seen, advice).of(StepFailure::NotReady)
}

/// Whether some links are up, so that the others meet a limit, not a fault of the set-up.
fn has_too_few(row: &PoolRow) -> bool {
    (1..row.target).contains(&row.ready)
}

/// Describes a pool row in words.
fn describe_pool(row: &PoolRow) -> String {
    let ended_by = row.peer.as_deref().unwrap_or("the other gateway");
    let address = row.address.as_ref().map(|address| format!(" at {address}")).unwrap_or_default();
    let protocol = row.protocol.as_ref().map(|protocol| format!(", {protocol}")).unwrap_or_default();
    let why = row.last_error.as_ref().filter(|_| row.state != PoolState::Healthy);
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    let of = if row.service == "*" { String::new() } else { format!(" for `{}`", row.service) };
    let (ready, target) = (row.ready, row.target.max(row.ready));
    if target == 0 && row.state == PoolState::Healthy {
        return format!("a link of its own for each session, {ended_by}{address}{protocol}");
    }
    let only = if has_too_few(row) { "only " } else { "" };
    format!("{only}{ready} of {target} links ready{of}, {ended_by}{address}{protocol}{why}")
}

pub(super) fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

fn format_ms(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{LITTLE, happens_after};

    #[tokio::test(start_paused = true)]
    async fn a_mode_that_does_not_get_ready_in_time_fails_its_step() {
        let snapshot = || Arc::new(Snapshot::new("one", Mode::Reverse));
        let (publish, snapshots) = watch::channel(snapshot());
        let publishing = async {
            loop {
                tokio::time::sleep(LITTLE / 2).await;
                publish.send_replace(snapshot());
            }
        };
        let waiting = wait_until_ready(&snapshots, Half::Dmz, Mode::Reverse, None);
        let ready = tokio::select! {
            ready = happens_after(READY_TIMEOUT, waiting) => ready,
            () = publishing => unreachable!("it publishes forever"),
        };
        let failed = ready.expect_err("there is no pool");
        assert!(failed.seen.starts_with("not ready within 10s"), "{}", failed.seen);
    }
}
