//! Classifies every duration in the sources: a deadline is listed with the test that checks it, everything else
//! with what it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use regex::Regex;

use crate::{page, quoted};

/// Nothing waits until one of these is over: what they are, and which.
const NO_DEADLINES: &[(&str, &[&str])] = &[
    (
        "how often something is done, and how long is paused between two tries",
        &[
            "accept::forward::CHECK_IN_WINDOW",
            "admin::program::EXIT_POLL_INTERVAL",
            "admin::protocol::PACE_MAX",
            "admin::target::RECONNECT_DELAY",
            "admin::target::PROGRAM_RECONNECT_DELAY_MAX",
            "commands::verify::PROGRESS_POLL_INTERVAL",
            "commands::verify::halves::HALF_POLL_INTERVAL",
            "connect::idle_connections::SWEEP_INTERVAL",
            "fleet::members::LARGE_SNAPSHOT_INTERVAL",
            "fleet::members::FIRST_SNAPSHOTS_INTERVAL",
            "fleet::members::SNAPSHOT_INTERVAL",
            "gateway::TICK_INTERVAL",
            "gateway::BUSY_TICK_INTERVAL",
            "gateway::certificate_reload::FILE_CHECK_INTERVAL",
            "gateway::certificate_reload::FILE_RETRY_INTERVAL",
            "gateway::history::WRITE_INTERVAL",
            "gateway::idle_watch::SOCKET_CHECK_INTERVAL",
            "gateway::idle_watch::QUIET_CHECK_INTERVAL",
            "gateway::opening::CLIENT_CHECK_INTERVAL",
            "gateway::opening::SWITCH_RETRY_DELAY",
            "gateway::service_manager::TIMEOUT_EXTENSION_INTERVAL",
            "gateway::service_manager::STATUS_INTERVAL",
            "headless::SUMMARY_INTERVAL",
            "link::dialled_gateways::STANDBY_CHECK_INTERVAL",
            "link::keeper::RECONCILE_INTERVAL",
            "link::keeper::SOCKS_CHECK_INTERVAL",
            "link::multiplex::frame_deadline::LOOK_INTERVAL",
            "link::multiplex::timing::SOCKET_CHECK_INTERVAL",
            "link::server::OFFER_INTERVAL",
            "net::dial::unix::FULL_CHECK_MAX",
            "net::dns::name_rules::REFRESH_INTERVAL_MIN",
            "net::dns::name_rules::REFRESH_INTERVAL_MAX",
            "net::dns::name_rules::FAILURE_BACKOFF_MAX",
            "net::dns::system_files::HOSTS_CACHE_TTL",
            "net::framed::PING_INTERVAL",
            "net::paced::RECHECK_INTERVAL",
            "net::listen::ACCEPT_RETRY_DELAY",
            "net::tcp::ACKNOWLEDGED_CHECK_MAX",
            "profile::defaults::CHECK_EVERY",
            "profile::defaults::REST",
            "profile::defaults::RETRY_FIRST",
            "profile::defaults::RETRY_MAXIMUM",
            "record::writer::SNAPSHOT_INTERVAL",
            "telemetry::audit::writer::REOPEN_INTERVAL",
            "telemetry::log::sink::BATCH_DELAY",
            "telemetry::log::sink::REOPEN_INTERVAL",
            "telemetry::refusals::REPORT_INTERVAL",
            "tui::frame_pacing::IDLE_FRAME_INTERVAL",
            "tui::frame_pacing::KEY_REPEAT_FRAME_INTERVAL",
            "tui::run::MACHINE_FACTS_INTERVAL",
        ],
    ),
    (
        "how long something is kept, holds, or counts as the same",
        &[
            "accept::forward::SEEN_RETENTION_PERIOD",
            "accept::request_auth::EXPIRY_MAX",
            "admin::attach::FIRST_SNAPSHOT_DELAY",
            "admission::pace::BURST_WINDOW",
            "auth::remembered::CACHE_TTL",
            "auth::token::CLOCK_LEEWAY_MAX",
            "connect::backend_state::SLOW_START_PERIOD",
            "gateway::switch::OLD_PARTS_GRACE_PERIOD",
            "gateway::service_manager::TIMEOUT_EXTENSION_PERIOD",
            "link::keeper::STABLE_PERIOD",
            "link::keeper::sharers::SETTLING_PERIOD",
            "link::link_guard::PROCESS_LOSS_WINDOW",
            "link::liveness::SILENCE_MAX",
            "link::multiplex::credit::GROWTH_WINDOW",
            "link::multiplex::task::PROCESS_PAUSE_MIN",
            "link::multiplex::moving::DRAIN_WAIT_MIN",
            "link::multiplex::timing::OPENED_DELAY_MAX",
            "link::multiplex::timing::PAUSE_GRACE_PERIOD",
            "link::multiplex::turns::BATCH_WAIT_MAX",
            "link::multiplex::turns::RATE_SAMPLE_INTERVAL",
            "link::peer_links::SUSPECT_PERIOD",
            "link::peer_links::BRIEF_PEER_RETENTION_PERIOD",
            "link::peer_links::LOST_PEER_RETENTION_PERIOD",
            "link::peer_record::PEER_REST_PERIOD",
            "link::pool::carries_mismatch::RETENTION_PERIOD",
            "net::dns::name_rules::TARGET_RETENTION_PERIOD",
            "net::own_ports::ELSEWHERE_TTL",
            "net::own_ports::UNCLAIMED_DELAY",
            "net::resolver::CACHE_TTL",
            "net::resolver::SLOW_LOOKUP_DELAY",
            "profile::defaults::RETIRE",
            "record::player::GAP_MAX",
            "record::player::MINUTE",
            "telemetry::cuts::SAME_CAUSE_WINDOW",
            "telemetry::cuts::RETENTION_PERIOD",
            "telemetry::log::YEARS_9999",
            "telemetry::notices::MERGE_WINDOW",
            "telemetry::rate_limited::SECOND",
            "telemetry::refusals::QUIET_PERIOD",
            "telemetry::registry::RATE_WINDOW",
            "tui::run::SECOND",
        ],
    ),
    (
        "how long the result of work on another thread is wanted, which whoever asked for it has given up before",
        &["monitor::rendered_metrics::RENDER_TIMEOUT", "record::player::HISTORY_READ_TIMEOUT"],
    ),
    (
        "how long the end of a process or of a connection is held up at most, behind all that counts",
        &[
            "accept::upstream_session::OUTCOME_GRACE_PERIOD",
            "admin::program::EXIT_OUTPUT_TIMEOUT",
            "admin::server::CLOSE_GRACE_PERIOD",
            "attach::SCREEN_CLOSE_TIMEOUT",
            "gateway::AUDIT_FLUSH_TIMEOUT",
            "gateway::FLUSH_TIMEOUT",
            "gateway::history::HISTORY_FLUSH_TIMEOUT",
            "monitor::server::LINGER_TIMEOUT",
            "run::RECORDER_FLUSH_TIMEOUT",
            "run::SCREEN_CLOSE_TIMEOUT",
            "signals::LOG_FLUSH_TIMEOUT",
            "telemetry::log::FLUSH_TIMEOUT",
            "tui::terminal::LEAVE_TIMEOUT",
        ],
    ),
];

/// Durations that are written where they are used, and so have no name to list: module, argument, and why that
/// may be.
const WITHOUT_NAME: &[(&str, &str, &str)] = &[
    ("admin::server", "100", "a pause behind an error of the kernel's, before the next `accept`"),
    ("admin::target", "1 << failed_in_a_row.min(5)", "a pause that doubles up to a constant"),
    ("admission::clients", "1", "what a refused client reads in `Retry-After`"),
    ("demo", "fastrand::u64(50..800)", "a sample client's pause"),
    ("demo", "fastrand::u64(500..3000)", "a sample client's pause"),
    ("gateway::idle_watch", "1", "the least pause, so that nothing spins"),
    ("link::multiplex::row", "1", "the least pause, so that nothing spins"),
    ("link::multiplex::row", "2500", "how often a window is looked at; its limit is the deadline"),
    ("net::dial::unix", "1", "a pause that doubles up to a constant"),
    ("net::listen", "1", "how often the same error is reported"),
    ("net::tcp", "1", "a pause that doubles up to a constant"),
];

/// The path of each constant of this kind in the sources, without their tests, and its value as it is written.
fn durations() -> BTreeMap<String, String> {
    let constant = Regex::new(r"\bconst ([A-Z0-9_]+): (?:\[)?Duration\b[^=]*=\s*([^;]+);").unwrap();
    let mut found = BTreeMap::new();
    for (module, code) in production_code() {
        for each in constant.captures_iter(&code) {
            found.insert(format!("{module}::{}", &each[1]), each[2].to_owned());
        }
    }
    found
}

/// Each module of the sources with its text, without tests.
fn production_code() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut found, mut folders) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let below = path.strip_prefix(&root).unwrap();
            let is_test =
                below.components().any(|part| part.as_os_str().to_string_lossy().starts_with("tests"));
            // `gateway::deadlines` has tests alone.
            if is_test || below.ends_with("deadlines.rs") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let code = code.split("#[cfg(test)]\n#[expect").next().unwrap();
            found.push((module(below), code.to_owned()));
        }
    }
    found
}

/// `net/dns/mod.rs` is `net::dns`.
fn module(below: &Path) -> String {
    let path: PathBuf =
        if below.ends_with("mod.rs") { below.parent().unwrap().into() } else { below.with_extension("") };
    path.to_string_lossy().replace('/', "::")
}

#[test]
fn every_duration_in_the_sources_is_classified() {
    let (architecture, links) = (page("ARCHITECTURE.md"), page("docs/link-protocol.md"));
    let deadlines = architecture.split("\n## Deadlines\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let of_links = links.split("\n## Deadlines\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let in_tables: Vec<_> = [quoted(deadlines), quoted(of_links)].concat();
    let others: Vec<_> = NO_DEADLINES.iter().flat_map(|(_, paths)| *paths).copied().collect();
    let found = durations();
    for path in found.keys() {
        let folders = [in_tables.contains(&path.as_str()), others.contains(&path.as_str())];
        assert!(folders.contains(&true), "src: {path} is in no table of deadlines; what is it?");
        assert!(folders != [true, true], "{path} is a deadline, and said not to be one");
    }
    for path in &others {
        assert!(found.contains_key(*path), "no constant {path}");
        assert_eq!(others.iter().filter(|other| other == &path).count(), 1, "{path}");
    }
}

/// The argument of a call, which begins behind its bracket.
fn argument(rest: &str) -> &str {
    let mut depth = 0;
    let end = rest.find(|sign| {
        depth += i32::from(sign == '(') - i32::from(sign == ')');
        depth < 0
    });
    &rest[..end.unwrap_or(rest.len())]
}

/// A deadline without a name would stand in no table, and nobody would test it.
#[test]
fn a_duration_with_a_number_is_a_constant_or_has_a_reason() {
    let constant = Regex::new(r"\bconst [A-Z0-9_]+: [^=]*=[^;]*;").unwrap();
    let made = Regex::new(r"\bDuration::(?:from_\w+|new)\(").unwrap();
    let number = Regex::new(r"\b[1-9][0-9_]*\b").unwrap();
    let mut used = BTreeSet::new();
    for (module, code) in production_code() {
        let code = constant.replace_all(&code, "");
        for call in made.find_iter(&code) {
            let argument = argument(&code[call.end()..]);
            if !number.is_match(argument) {
                continue;
            }
            let row = WITHOUT_NAME.iter().position(|row| (row.0, row.1) == (module.as_str(), argument));
            assert!(row.is_some(), "src: {module} has a duration of {argument} without a name; what is it?");
            used.extend(row);
        }
    }
    assert_eq!(used.len(), WITHOUT_NAME.len(), "only these are there still: {used:?}");
}
