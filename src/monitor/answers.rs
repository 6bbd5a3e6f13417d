//! Answers for monitors: a status, and lines that people can read.

use hyper::{Method, StatusCode, Uri, body::Bytes};

use super::MonitoredGateway;
use crate::telemetry::{
    clock,
    health::readiness::{self, ReadinessDemand},
    metrics::{self, MetricsFormat},
    snapshot::Snapshot,
};

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct MonitorAnswer {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: Bytes,
}

const TEXT: &str = "text/plain; charset=utf-8";
const PATHS: &str = "/livez\n/readyz\n/readyz/SERVICE\n/metrics\n";

impl MonitorAnswer {
    fn new(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self { status, content_type: TEXT, body: body.into() }
    }

    /// All is well.
    fn well(lines: Vec<String>) -> Self {
        Self::lines(StatusCode::OK, lines)
    }

    fn unwell(lines: Vec<String>) -> Self {
        Self::lines(StatusCode::SERVICE_UNAVAILABLE, lines)
    }

    fn lines(status: StatusCode, lines: Vec<String>) -> Self {
        Self::new(status, lines.into_iter().map(|line| line + "\n").collect::<String>())
    }
}

pub async fn answer_request(
    method: &Method,
    uri: &Uri,
    accepted: &[u8],
    watched: &MonitoredGateway,
) -> MonitorAnswer {
    answer_at(clock::now_us(), method, uri, accepted, watched).await
}

/// The answer at a given time of the gateway's clock.
async fn answer_at(
    now_us: u64,
    method: &Method,
    uri: &Uri,
    accepted: &[u8],
    watched: &MonitoredGateway,
) -> MonitorAnswer {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return MonitorAnswer::new(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here\n");
    }
    let stalled = watched.last_turn.stalled_for(now_us);
    let stalled = stalled
        .map(|time| format!("the gateway hangs: its engine has made no progress for {}s", time.as_secs()));
    match (uri.path(), stalled) {
        ("/livez", None) => MonitorAnswer::well(vec!["alive".into()]),
        ("/livez" | "/readyz", Some(why)) => MonitorAnswer::unwell(vec![why]),
        ("/readyz", None) => answer_ready(&watched.snapshots.borrow(), requested_demand(uri)),
        ("/metrics", _) => answer_metrics(watched, accepted_format(accepted)).await,
        (path, stalled) => match path.strip_prefix("/readyz/") {
            Some(name) => answer_service(&watched.snapshots.borrow(), name, stalled),
            None => MonitorAnswer::new(StatusCode::NOT_FOUND, PATHS),
        },
    }
}

/// If the engine hangs, these are the last numbers it had; /livez reports that it hangs.
async fn answer_metrics(watched: &MonitoredGateway, format: MetricsFormat) -> MonitorAnswer {
    let content_type = match format {
        MetricsFormat::OpenMetrics => metrics::OPEN_METRICS_CONTENT_TYPE,
        MetricsFormat::Text => metrics::TEXT_CONTENT_TYPE,
    };
    match watched.metrics.newest(&watched.snapshots, format).await {
        Ok(body) => MonitorAnswer { status: StatusCode::OK, content_type, body },
        Err(error) => MonitorAnswer::new(StatusCode::INTERNAL_SERVER_ERROR, format!("no numbers: {error}\n")),
    }
}

/// OpenMetrics for those who accept it by name, the older text format for all others.
fn accepted_format(accepted: &[u8]) -> MetricsFormat {
    let accepted = String::from_utf8_lossy(accepted).to_ascii_lowercase();
    let names_it = |part: &str| {
        let mut parameters = part.split(';').map(str::trim);
        parameters.next() == Some("application/openmetrics-text")
            && !parameters.any(|parameter| matches!(parameter, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    };
    match accepted.split(',').any(names_it) {
        true => MetricsFormat::OpenMetrics,
        false => MetricsFormat::Text,
    }
}

/// `?strict`, alone or with a value that does not deny it.
fn requested_demand(uri: &Uri) -> ReadinessDemand {
    let is_strict = |part: &str| match part.split_once('=') {
        Some((key, value)) => key == "strict" && !matches!(value, "0" | "false" | "no" | "off"),
        None => part == "strict",
    };
    match uri.query().unwrap_or_default().split('&').any(is_strict) {
        true => ReadinessDemand::Strict,
        false => ReadinessDemand::Usual,
    }
}

fn answer_ready(snapshot: &Snapshot, demand: ReadinessDemand) -> MonitorAnswer {
    let Some(readiness) = &snapshot.readiness else {
        return MonitorAnswer::unwell(vec!["the gateway is starting".into()]);
    };
    let lines = |word: &str| [vec![word.to_owned()], readiness.unmet(demand)].concat();
    match readiness.meets(demand) {
        true => MonitorAnswer::well(lines("ready")),
        false => MonitorAnswer::unwell(lines("not ready")),
    }
}

fn answer_service(snapshot: &Snapshot, name: &str, stalled: Option<String>) -> MonitorAnswer {
    if !snapshot.services.iter().any(|row| row.name == name) {
        return MonitorAnswer::new(StatusCode::NOT_FOUND, "there is no such service\n");
    }
    if let Some(why) = stalled {
        return MonitorAnswer::unwell(vec![why]);
    }
    if readiness::is_service_ready(snapshot, name) {
        return MonitorAnswer::well(vec!["ready".into()]);
    }
    let rows = snapshot.services.iter().filter(|row| row.name == name);
    let mut reasons: Vec<_> = rows.filter_map(readiness::unready_reason).collect();
    if reasons.is_empty() {
        reasons.extend(snapshot.readiness.iter().flat_map(|readiness| readiness.reasons.clone()));
    }
    reasons.dedup();
    MonitorAnswer::unwell([vec!["not ready".to_owned()], reasons].concat())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::watch;

    use super::{
        super::{ENGINE_TURN_MAX, LastTurn},
        *,
    };
    use crate::{
        profile::{Half, Mode},
        telemetry::snapshot::{GatewayPhase, ServiceRow},
    };

    #[tokio::test]
    async fn a_hanging_engine_is_neither_alive_nor_ready_and_keeps_its_last_metrics() {
        let snapshot = Snapshot {
            phase: GatewayPhase::Running,
            services: vec![ServiceRow::new(Half::Dmz, "orders")],
            readiness: Some(readiness::Readiness { ready: true, ..Default::default() }),
            ..Snapshot::new("one", Mode::Direct)
        };
        // Its last turn was when the clock began.
        let watched = MonitoredGateway::new(watch::channel(Arc::new(snapshot)).1, LastTurn::default());
        let (well, hangs) =
            (ENGINE_TURN_MAX.as_micros() as u64, ENGINE_TURN_MAX.as_micros() as u64 + 1_000_000);
        for (path, while_well, while_it_hangs) in [
            ("/livez", 200, 503),
            ("/readyz", 200, 503),
            ("/readyz?strict", 200, 503),
            ("/readyz/orders", 200, 503),
            ("/readyz/nobody", 404, 404),
            ("/metrics", 200, 200),
            ("/", 404, 404),
        ] {
            let uri = Uri::from_static(path);
            let answer = async |now_us| answer_at(now_us, &Method::GET, &uri, b"", &watched).await;
            assert_eq!(answer(well).await.status.as_u16(), while_well, "{path}");
            let reported = answer(hangs).await;
            assert_eq!(reported.status.as_u16(), while_it_hangs, "{path}");
            if while_it_hangs == 503 {
                assert_eq!(
                    reported.body, "the gateway hangs: its engine has made no progress for 6s\n",
                    "{path}"
                );
            }
        }
    }

    #[test]
    fn open_metrics_go_to_those_who_accept_them() {
        let table = [
            ("", MetricsFormat::Text),
            ("*/*", MetricsFormat::Text),
            ("text/plain;version=0.0.4", MetricsFormat::Text),
            ("application/openmetrics-text;q=0, text/plain", MetricsFormat::Text),
            ("application/openmetrics-text; version=1.0.0", MetricsFormat::OpenMetrics),
            ("text/plain;q=0.5,Application/OpenMetrics-Text;version=1.0.0;q=0.3", MetricsFormat::OpenMetrics),
        ];
        for (accepted, expected) in table {
            assert_eq!(accepted_format(accepted.as_bytes()), expected, "{accepted}");
        }
    }

    #[test]
    fn strictly_is_asked_by_a_word_of_the_query() {
        let table = [
            ("/readyz", ReadinessDemand::Usual),
            ("/readyz?strict", ReadinessDemand::Strict),
            ("/readyz?a=b&strict=1", ReadinessDemand::Strict),
            ("/readyz?strict=true", ReadinessDemand::Strict),
            ("/readyz?strict=false", ReadinessDemand::Usual),
            ("/readyz?stricter", ReadinessDemand::Usual),
        ];
        for (uri, expected) in table {
            assert_eq!(requested_demand(&Uri::from_static(uri)), expected, "{uri}");
        }
    }
}
