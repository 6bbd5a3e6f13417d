//! Who sends much logs little: each line above `debug` that somebody outside can cause has a bound to its rate.

use std::{fs, path::Path};

use portcullis::telemetry::log::LogEvent::{self, *};

/// Each logging call has its limit: a number per second, or once per cause.
const LIMITED: &[LogEvent] = &[
    SessionEnded,
    ProbeEnded,
    ClientRejected,
    UnknownService,
    RequestFailed,
    BackendUnreachable,
    LinkRejected,
    LinkChanged,
    OwnNamePassed,
];
const LIMITS: [&str; 4] = [".admits(", "_limited(", ".is_first(", "fn event("];
/// As many lines above a call as its limit may stand.
const NEAR: usize = 30;

/// What else bounds lines that others can cause.
const BOUNDED: &[(LogEvent, &str)] = &[
    (SessionFailed, "the first of a kind, until none has come for a minute: `telemetry::refusals`"),
    (SessionsRefused, "once a minute for each kind: `telemetry::refusals`"),
    (LinesLeftOut, "once a second for each kind: it is the count itself"),
    (LinkProtocol, "once for each peer, and where this half dials once for each keeper"),
    (LinkShared, "when more gateways have been up side by side for 20 s than before"),
    (LinkSharerGone, "once for each gateway that was reported so"),
    (CallRefused, "once for each system call that the lock refuses"),
    (PeerRests, "once for each rest of a peer, which lasts for 10 s"),
    (BackendDown, "when a backend goes, which its next check or session shows again after a rest"),
    (BackendUp, "the same"),
    (NameChanged, "one look-up a second at most"),
    (NameUnanswered, "when it begins"),
    (NameAnswered, "when it is over"),
    (NameLeftOut, "one look-up a second at most"),
    (NameStale, "once for each name in its time"),
    (PortPaused, "when a pause begins"),
    (PortClosed, "a service that comes and goes is held for a while"),
    (PortOpened, "the same"),
    (AlertRaised, "an alert that flickers is held: `telemetry::health::alert_tracker`"),
    (AlertOver, "the same"),
    (CertificateEnds, "once for each mark of a certificate"),
    (Library, "by the level of each library"),
    (Summary, "once a minute"),
    (Notice, "no call of its own has it"),
];

/// What the operator, the host or a bug of ours causes, and what is logged at `debug` alone.
const OUR_OWN: &[LogEvent] = &[
    ProbeRejected,
    RequestResent,
    RequestsEnded,
    ExchangeCut,
    InterimLeftOut,
    UpgradeLost,
    ClientUpgradeLost,
    LinkUp,
    LinkDown,
    LinkLost,
    LinkFailedAgain,
    PortListens,
    PortWaits,
    PassedClosed,
    HealthLeftOut,
    ServiceDown,
    ServiceUp,
    Hours,
    Operator,
    ProfileInForce,
    SwitchBegun,
    SwitchRefused,
    SwitchUnready,
    CertificatesRenewed,
    CertificatesRefused,
    CertificateRevoked,
    CertificatesSilent,
    Lockdown,
    HistoryFile,
    Locked,
    DescriptorLimit,
    DescriptorLimitChanged,
    DescriptorsShort,
    ServiceManager,
    Headless,
    TerminalInput,
    DemoPorts,
    Recording,
    LevelRefused,
    LogReopened,
    AuditFile,
    LinesLost,
    StartFailed,
    Stopping,
    SessionsCut,
    TasksLeft,
    Stopped,
    SignalFailed,
    Hangs,
    Panic,
    TaskPanicked,
];

/// The sources without their tests, by lines.
fn sources() -> Vec<(String, Vec<String>)> {
    let (mut found, mut folders) = (Vec::new(), vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")]);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("log/events.rs") && !path.ends_with("tests.rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
                let code = code.split("#[cfg(test)]\n#[expect").next().unwrap();
                found.push((path.display().to_string(), code.lines().map(str::to_owned).collect()));
            }
        }
    }
    found
}

#[test]
fn every_event_has_its_cause_and_its_rate_limit() {
    let lists = |event: &LogEvent| {
        usize::from(LIMITED.contains(event))
            + BOUNDED.iter().filter(|(bounded, _)| bounded == event).count()
            + usize::from(OUR_OWN.contains(event))
    };
    for event in LogEvent::ALL {
        let reported = "can somebody outside cause it, and what bounds its rate?";
        assert_eq!(lists(event), 1, "{event:?} stands in one list: {reported}");
    }
    let mut count = 0;
    for (file, lines) in sources() {
        for (at, line) in lines.iter().enumerate() {
            let is_quiet = line.contains("debug!") || line.contains("trace!");
            let mut named = LIMITED.iter().filter(|event| {
                let name = format!("LogEvent::{event:?}");
                line.split(&name)
                    .skip(1)
                    .any(|rest| !rest.starts_with(|letter: char| letter.is_alphanumeric()))
            });
            if let Some(event) = named.next().filter(|_| !is_quiet) {
                let near = &lines[at.saturating_sub(NEAR)..=at];
                let is_limited = near.iter().any(|line| LIMITS.iter().any(|limit| line.contains(limit)));
                assert!(is_limited, "{file}, line {}: no limit stands beside {event:?}", at + 1);
                count += 1;
            }
        }
    }
    assert!(count >= LIMITED.len(), "only {count} calls were found");
}
