//! The numbers of one snapshot in the format of Prometheus. `docs/operate.md` lists the names, which never
//! change.
//!
//! They are made from the snapshot alone, whenever somebody asks, so they are the numbers that `status` shows.
//! No label identifies a client: the number of series depends only on services, gateways and their few states.
//!
//! The files here use each other: families are defined here, and those of the process are in a file of their own.

mod process;
mod prometheus_text;

use std::{
    collections::BTreeMap,
    fmt::{Error, Write},
    sync::Arc,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::Registry,
};

use super::{
    health::is_backend_down,
    snapshot::{BackendRowState, PoolRow, ServiceRow, Snapshot},
};
use crate::profile::Half;

pub use prometheus_text::TEXT_CONTENT_TYPE;

/// The content type of OpenMetrics.
pub const OPEN_METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The format of the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MetricsFormat {
    OpenMetrics,
    /// The older text format of Prometheus, 0.0.4.
    Text,
}

/// All numbers of a snapshot.
pub fn render(snapshot: Arc<Snapshot>, format: MetricsFormat) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(SnapshotMetrics(snapshot)));
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = encode(&mut out, &registry);
    match format {
        MetricsFormat::OpenMetrics => out,
        MetricsFormat::Text => prometheus_text::from_open_metrics(&out),
    }
}

#[derive(Debug)]
struct SnapshotMetrics(Arc<Snapshot>);

impl Collector for SnapshotMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let snapshot = &*self.0;
        of_gateway(snapshot, &mut encoder)?;
        of_services(snapshot, &mut encoder)?;
        of_sessions(snapshot, &mut encoder)?;
        of_links(snapshot, &mut encoder)?;
        of_certificates(snapshot, &mut encoder)?;
        process::encode(snapshot, &mut encoder)
    }
}

/// Writes the values of one metric.
struct MetricFamily<'a>(MetricEncoder<'a>);

impl<'a> MetricFamily<'a> {
    fn begin(
        encoder: &'a mut DescriptorEncoder<'_>,
        (name, help): (&'a str, &str),
        kind: MetricType,
    ) -> Result<Self, Error> {
        encoder.encode_descriptor(name, help, None, kind).map(Self)
    }

    fn gauge(&mut self, labels: &impl EncodeLabelSet, value: f64) -> Result<(), Error> {
        self.0.encode_family(labels)?.encode_gauge(&value)
    }

    fn counter(&mut self, labels: &impl EncodeLabelSet, value: u64) -> Result<(), Error> {
        self.0.encode_family(labels)?.encode_counter::<NoLabelSet, u64, f64>(&value, None)
    }

    fn seconds(&mut self, value: f64) -> Result<(), Error> {
        self.0.encode_family(&NONE)?.encode_counter::<NoLabelSet, f64, f64>(&value, None)
    }

    fn histogram(
        &mut self,
        labels: &impl EncodeLabelSet,
        counts: &super::duration_histogram::DurationCounts,
    ) -> Result<(), Error> {
        let buckets: Vec<_> = counts.by_bound().collect();
        let mut family = self.0.encode_family(labels)?;
        family.encode_histogram::<NoLabelSet>(counts.sum_seconds(), counts.count(), &buckets, None)
    }
}

fn of_gateway(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let build = ("portcullis_build_info", "The version that runs.");
    MetricFamily::begin(encoder, build, MetricType::Gauge)?.gauge(&[("version", &*snapshot.version)], 1.0)?;
    let ready = ("portcullis_ready", "1 when the gateway is ready for clients, as /readyz tells.");
    let is_ready = snapshot.readiness.as_ref().is_some_and(|readiness| readiness.ready);
    MetricFamily::begin(encoder, ready, MetricType::Gauge)?.gauge(&NONE, f64::from(u8::from(is_ready)))?;
    let reloads =
        ("portcullis_reloads", "Reloads and switches that operators asked for, by what came of them.");
    let mut family = MetricFamily::begin(encoder, reloads, MetricType::Counter)?;
    family.counter(&[("result", "success")], snapshot.reloads.done)?;
    family.counter(&[("result", "failure")], snapshot.reloads.refused)?;
    let last = (
        "portcullis_last_reload_successful",
        "1 unless the last reload or switch was refused or rolled back.",
    );
    let was_successful = f64::from(u8::from(!snapshot.reloads.was_last_refused));
    MetricFamily::begin(encoder, last, MetricType::Gauge)?.gauge(&NONE, was_successful)?;
    let lost = ("portcullis_log_lines_lost", "Log lines that could not be written.");
    MetricFamily::begin(encoder, lost, MetricType::Counter)?.counter(&NONE, snapshot.log_lines_lost)?;
    let confined = ("portcullis_confined", "1 when the kernel refuses the half whatever is not its part.");
    let mut family = MetricFamily::begin(encoder, confined, MetricType::Gauge)?;
    snapshot.halves.iter().try_for_each(|half| {
        let is_locked = snapshot.confined.get(half).is_some_and(Option::is_some);
        family.gauge(&[("role", half_label(*half))], f64::from(u8::from(is_locked)))
    })
}

fn of_services(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let open = ("portcullis_sessions_open", "Sessions that are carried now.");
    let mut family = MetricFamily::begin(encoder, open, MetricType::Gauge)?;
    for row in &snapshot.services {
        family.gauge(&labels(row), row.totals.sessions_open as f64)?;
    }
    let bytes = ("portcullis_bytes", "Bytes of sessions; up is from the client to the backend.");
    let mut family = MetricFamily::begin(encoder, bytes, MetricType::Counter)?;
    for row in &snapshot.services {
        let [half, service] = labels(row);
        family.counter(&[half, service, ("direction", "up")], row.totals.bytes_up)?;
        family.counter(&[half, service, ("direction", "down")], row.totals.bytes_down)?;
    }
    let waiting = ("portcullis_clients_waiting", "Clients that wait for a link.");
    let mut family = MetricFamily::begin(encoder, waiting, MetricType::Gauge)?;
    for row in snapshot.services.iter().filter(|row| row.half == Half::Dmz) {
        family.gauge(&[("service", &*row.name)], row.counts.waiting as f64)?;
    }
    let backends = (
        "portcullis_backends",
        "Backends of a service by their state; one that is alone is down where its sessions fail.",
    );
    let mut family = MetricFamily::begin(encoder, backends, MetricType::Gauge)?;
    for row in snapshot.services.iter().filter(|row| row.connect.is_some()) {
        for state in BackendRowState::ALL {
            let count = match &row.backends[..] {
                [] => usize::from(state == BackendRowState::Up),
                [alone] => usize::from(state == state_of_alone(alone.state, row)),
                backends => backends.iter().filter(|backend| backend.state == state).count(),
            };
            family.gauge(&[("service", &*row.name), ("state", state.label())], count as f64)?;
        }
    }
    Ok(())
}

/// No backend can replace it, so it is used however often it fails. Its sessions show its state, besides its
/// checks.
fn state_of_alone(state: BackendRowState, row: &ServiceRow) -> BackendRowState {
    match state {
        BackendRowState::Down => BackendRowState::Down,
        _ if is_backend_down(row) => BackendRowState::Down,
        BackendRowState::Up | BackendRowState::Resting | BackendRowState::Standby => BackendRowState::Up,
    }
}

/// Exported from the first scrape on, so that the first increase is visible: sessions that end well, and clients for
/// which a limit or the links do not suffice.
const ENDS_FROM_THE_START: [&str; 4] = ["--", "LA", "LW", "TW"];

fn of_sessions(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let ends = (
        "portcullis_sessions",
        "Sessions that have ended and clients that were refused, by the letters of the end.",
    );
    let mut family = MetricFamily::begin(encoder, ends, MetricType::Counter)?;
    for row in &snapshot.services {
        let [half, service] = labels(row);
        for end in
            ENDS_FROM_THE_START.iter().filter(|known| !row.counts.ends.iter().any(|(end, _)| end == **known))
        {
            family.counter(&[half, service, ("end", end)], 0)?;
        }
        for (end, count) in &row.counts.ends {
            family.counter(&[half, service, ("end", &**end)], *count)?;
        }
    }
    let wait = ("portcullis_wait_seconds", "How long clients waited for a link.");
    let mut family = MetricFamily::begin(encoder, wait, MetricType::Histogram)?;
    for row in snapshot.services.iter().filter(|row| row.half == Half::Dmz && row.connect.is_none()) {
        family.histogram(&[("service", &*row.name)], &row.counts.waits)?;
    }
    let connect =
        ("portcullis_connect_seconds", "How long it took to open a session's way, its backend included.");
    let mut family = MetricFamily::begin(encoder, connect, MetricType::Histogram)?;
    // In a pair, a session is counted once, where clients come in.
    let first = snapshot.halves.first().copied();
    for row in snapshot.services.iter().filter(|row| Some(row.half) == first) {
        family.histogram(&[("service", &*row.name)], &row.counts.connects)?;
    }
    let requests = ("portcullis_http_requests", "Requests that were answered, by the class of the answer.");
    let mut family = MetricFamily::begin(encoder, requests, MetricType::Counter)?;
    for row in snapshot.services.iter().filter(|row| row.half == Half::Dmz) {
        for (class, count) in row.counts.requests.by_class() {
            family.counter(&[("service", &*row.name), ("code", class)], count)?;
        }
    }
    Ok(())
}

/// The sums of one gateway's rows.
#[derive(Default)]
struct PeerSums<'a> {
    rows: Vec<&'a PoolRow>,
}

impl PeerSums<'_> {
    fn sum(&self, of: impl Fn(&PoolRow) -> usize) -> f64 {
        self.rows.iter().map(|row| of(row)).fold(0_usize, usize::saturating_add) as f64
    }

    fn round_trip_seconds(&self) -> Option<f64> {
        let mut times: Vec<_> = self.rows.iter().filter_map(|row| row.round_trip_ms).collect();
        times.sort_unstable_by(f64::total_cmp);
        times.get(times.len() / 2).map(|ms| ms / 1e3)
    }
}

fn of_links(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let mut peers: BTreeMap<(Half, &str), PeerSums<'_>> = BTreeMap::new();
    for row in &snapshot.pools {
        // A gateway that was never reached has no name other than its address.
        let peer = row.peer.as_deref().or(row.address.as_deref()).unwrap_or_default();
        peers.entry((row.half, peer)).or_default().rows.push(row);
    }
    let links = (
        "portcullis_links",
        "Links that take a new session, that carry some and take no more, and that are dialled.",
    );
    let mut family = MetricFamily::begin(encoder, links, MetricType::Gauge)?;
    for ((half, peer), of) in &peers {
        let of_state = |state| [("role", half_label(*half)), ("peer", *peer), ("state", state)];
        family.gauge(&of_state("ready"), of.sum(|row| row.ready))?;
        family.gauge(&of_state("carrying"), of.sum(|row| row.carrying))?;
        family.gauge(&of_state("dialling"), of.sum(|row| row.dialling))?;
    }
    let wanted = ("portcullis_links_wanted", "Links that should be ready.");
    let mut family = MetricFamily::begin(encoder, wanted, MetricType::Gauge)?;
    for ((half, peer), of) in &peers {
        family.gauge(&[("role", half_label(*half)), ("peer", peer)], of.sum(|row| row.target))?;
    }
    let failures = ("portcullis_link_failures", "Dials, handshakes and ready links that failed.");
    let mut family = MetricFamily::begin(encoder, failures, MetricType::Counter)?;
    for ((half, peer), of) in &peers {
        let failed = of.rows.iter().fold(0_u64, |sum, row| sum.saturating_add(row.failures));
        family.counter(&[("role", half_label(*half)), ("peer", peer)], failed)?;
    }
    let round_trip = ("portcullis_link_rtt_seconds", "The median round-trip time of the links.");
    let mut family = MetricFamily::begin(encoder, round_trip, MetricType::Gauge)?;
    for ((half, peer), of) in &peers {
        if let Some(seconds) = of.round_trip_seconds() {
            family.gauge(&[("role", half_label(*half)), ("peer", peer)], seconds)?;
        }
    }
    Ok(())
}

fn of_certificates(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let mut earliest: BTreeMap<(Half, &str), u64> = BTreeMap::new();
    for row in &snapshot.certificates {
        let ends = humantime::parse_rfc3339(&row.ends).ok();
        let ends =
            ends.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok()).map_or(0, |at| at.as_secs());
        let first = earliest.entry((row.half, &row.used)).or_insert(ends);
        *first = ends.min(*first);
    }
    let expiry = (
        "portcullis_certificate_expiry_timestamp_seconds",
        "When the first certificate of this use expires, in seconds since 1970.",
    );
    let mut family = MetricFamily::begin(encoder, expiry, MetricType::Gauge)?;
    earliest.iter().try_for_each(|((half, used), ends)| {
        family.gauge(&[("role", half_label(*half)), ("use", used)], *ends as f64)
    })
}

const NONE: [(&str, &str); 0] = [];

fn labels(row: &ServiceRow) -> [(&str, &str); 2] {
    [("role", half_label(row.half)), ("service", &row.name)]
}

fn half_label(half: Half) -> &'static str {
    match half {
        Half::Dmz => "dmz",
        Half::Internal => "internal",
    }
}

/// The names in the output of [`render`], for comparing them with other places.
pub fn names(text: &str) -> Vec<String> {
    let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let mut out = String::new();
    for name in names {
        let _ = writeln!(out, "{name}");
    }
    out.lines().map(str::to_owned).collect()
}
