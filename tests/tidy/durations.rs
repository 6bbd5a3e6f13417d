//! What a constant of time is for stands at the end of its name: a reader meets it without its type beside it.

use super::sources;

const SUFFIXES: &[&str] =
    &["TIMEOUT", "INTERVAL", "DELAY", "PERIOD", "BACKOFF", "WINDOW", "TTL", "RETENTION", "MAX", "MIN"];
/// Named for the key of the profile that they are the default of.
const OF_KEYS: &str = "src/profile/defaults.rs";
/// Units, and the last moment that the form of the log can show.
const UNITS: &[&str] = &["SECOND", "MINUTE", "HOUR", "MS", "YEARS_9999"];
/// Those of the protocol and of guards, whose names `docs/link-protocol.md` and their tables say as they are.
const NAMED_OTHERWISE: &[&str] = &[
    "src/admission/",
    "src/auth/",
    "src/fleet/",
    "src/gateway/service_manager.rs",
    "src/link/liveness.rs",
    "src/link/mod.rs",
    "src/link/multiplex/",
    "src/link/peer_links.rs",
    "src/link/peer_record.rs",
    "src/net/tcp.rs",
];

/// The constants of time that a text defines.
fn durations(code: &str) -> impl Iterator<Item = &str> {
    code.lines().filter_map(|line| {
        let (before, _) = line.split_once(": Duration")?;
        let (_, name) = before.split_once("const ")?;
        name.chars()
            .all(|sign| sign.is_ascii_uppercase() || sign.is_ascii_digit() || sign == '_')
            .then_some(name)
    })
}

#[test]
fn a_constant_of_time_says_what_it_is_for() {
    let (mut refused, mut count) = (Vec::new(), 0);
    for source in sources() {
        let path = source.path.display().to_string();
        if path == OF_KEYS || NAMED_OTHERWISE.iter().any(|other| path.starts_with(other)) {
            continue;
        }
        for name in durations(&source.code) {
            count += 1;
            let last = name.rsplit('_').next().unwrap_or_default();
            if !SUFFIXES.contains(&last) && !UNITS.contains(&name) {
                refused.push(format!("{path}: {name}"));
            }
        }
    }
    assert!(count > 80, "only {count} constants of time were found");
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
