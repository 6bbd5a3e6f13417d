//! What a chunk of a session's bytes does not cost: no clock read, no lock, no text and no line of the log in the files
//! that move it. Lines that have one are listed with the reason: they are not reached for each chunk, or they are the
//! price that `ARCHITECTURE.md` names. What a chunk asks of the allocator is counted by tests beside the code.

use std::collections::BTreeSet;

use super::sources;

const FILES: &[&str] = &[
    "src/gateway/idle_watch.rs",
    "src/gateway/relay.rs",
    "src/link/multiplex/credit.rs",
    "src/link/multiplex/frame_deadline.rs",
    "src/link/multiplex/held.rs",
    "src/link/multiplex/ready.rs",
    "src/link/multiplex/receiving.rs",
    "src/link/multiplex/row.rs",
    "src/link/multiplex/sending.rs",
    "src/link/multiplex/serving.rs",
    "src/link/multiplex/table.rs",
    "src/link/multiplex/turns.rs",
    "src/net/framed.rs",
    "src/net/paced.rs",
    "src/net/pipe.rs",
    "src/net/prefixed.rs",
    "src/net/read_ahead.rs",
    "src/net/stream.rs",
    "src/proto/multiplex/decoder.rs",
    "src/telemetry/registry/counters.rs",
];

const COSTS: &[&str] =
    &["Instant::now", "SystemTime::now", ".elapsed()", "format!(", "tracing::", ".lock(", "Mutex", "RwLock"];

/// File, part of the lines, and why they may be there.
const ALLOWED: &[(&str, &str, &str)] = &[
    ("src/gateway/idle_watch.rs", "still_since", "only at a check of the sockets, every 2 s"),
    (
        "src/gateway/relay.rs",
        "next_check(Instant::now())",
        "once at its start, and at a check of the sockets",
    ),
    ("src/link/multiplex/ready.rs", "Mutex", "one lock without contention for each wake of a session"),
    ("src/link/multiplex/ready.rs", "lock()", "as above"),
    (
        "src/link/multiplex/receiving.rs",
        "frame_deadline",
        "read only where a quiet link gets part of a frame",
    ),
    ("src/link/multiplex/receiving.rs", "note_ping", "a few times a minute"),
    ("src/link/multiplex/receiving.rs", "note_pong", "as above"),
    ("src/link/multiplex/receiving.rs", "offers.refill", "when the other gateway's services change"),
    ("src/link/multiplex/sending.rs", "blocked_since", "only when the kernel has not taken a whole batch"),
    ("src/link/multiplex/sending.rs", "receive.take", "read only where a window may grow"),
    ("src/link/multiplex/serving.rs", "SOCKET_CHECK_INTERVAL", "when a socket is no longer read"),
    ("src/link/multiplex/serving.rs", "quiet_since", "at the end of a session"),
    ("src/net/framed.rs", "PING_INTERVAL", "once for each ping"),
    ("src/net/framed.rs", "breach", "at a breach of the protocol, which ends the link"),
    ("src/net/paced.rs", "Instant::now()", "only where the profile sets a `rate`"),
    ("src/net/pipe.rs", "Mutex", "one lock for each read and write, between two ends in one process"),
    ("src/net/pipe.rs", "lock(", "as above"),
    ("src/net/stream.rs", "connection.", "once, when TLS is established"),
    ("src/telemetry/registry/counters.rs", "Mutex", "about the backend, a few times a session"),
    ("src/telemetry/registry/counters.rs", "lock()", "as above"),
];

#[test]
fn a_chunk_costs_no_clock_read_no_lock_and_no_text() {
    let (mut found, mut used) = (0, BTreeSet::new());
    for source in sources() {
        let Some(file) = FILES.iter().find(|file| source.path.ends_with(file)) else { continue };
        found += 1;
        for line in source.code.lines().filter(|line| COSTS.iter().any(|cost| line.contains(cost))) {
            let allowed = ALLOWED.iter().position(|(of, part, _)| of == file && line.contains(part));
            assert!(allowed.is_some(), "{file}: `{}` is in the path of the bytes; why?", line.trim());
            used.extend(allowed);
        }
    }
    assert_eq!(found, FILES.len(), "some of the files have gone");
    for (index, (file, part, _)) in ALLOWED.iter().enumerate() {
        assert!(used.contains(&index), "{file}: `{part}` is allowed, and is there no longer");
    }
}
