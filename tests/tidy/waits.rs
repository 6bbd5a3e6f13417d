//! Where tests may let time pass. A test waits for what it wants to see, by a helper with a deadline, or pauses the
//! clock; each file that sleeps otherwise is listed here with what the time is for.

use super::names::rust_files;

const MAY_SLEEP: &[(&str, &[&str])] = &[
    (
        "a helper polls what has no event: a file, a page, another process",
        &[
            "tests/cli/doctor.rs",
            "tests/e2e/history.rs",
            "tests/netns.rs",
            "tests/netns/addresses.rs",
            "tests/netns/cluster.rs",
            "tests/package/container.rs",
            "tests/package/debian.rs",
            "tests/process/mod.rs",
            "tests/terminal/pty.rs",
        ],
    ),
    (
        "traffic comes at the pace of its clients",
        &[
            "tests/cli/logs.rs",
            "tests/cli/metrics.rs",
            "tests/cli/switching.rs",
            "tests/cli/upgrade.rs",
            "tests/e2e/edges/under_load.rs",
            "tests/e2e/switch.rs",
            "tests/foreign/clients.rs",
            "tests/foreign/reuse.rs",
            "tests/netns/flood.rs",
            "tests/netns/names.rs",
            "tests/pictures/shop.rs",
            "tests/pictures/walk.rs",
            "tests/soak/dialogue.rs",
            "tests/soak/trial.rs",
        ],
    ),
    (
        "a process or a peer stands still for a time that must not be too long, or must be",
        &[
            "tests/cli/service_manager.rs",
            "tests/cli/stopped_processes.rs",
            "tests/e2e/links/liveness.rs",
            "tests/netns/wire_stalls.rs",
        ],
    ),
    ("something is measured for a time", &["tests/cli/descriptors.rs", "tests/terminal.rs"]),
    ("nothing may happen until a deadline", &["tests/e2e/links/dialled.rs"]),
];

#[test]
fn a_test_waits_for_what_it_wants_to_see() {
    let mut slept = Vec::new();
    for (path, text) in rust_files("tests") {
        let path = path.display().to_string();
        if text.contains("sleep(") && !path.starts_with("tests/tidy/") {
            slept.push(path);
        }
    }
    let listed: Vec<_> = MAY_SLEEP.iter().flat_map(|(_, files)| *files).copied().collect();
    for path in &slept {
        assert!(listed.contains(&path.as_str()), "{path} sleeps: wait for an event, or pause the clock");
    }
    for path in listed {
        assert!(slept.iter().any(|slept| slept == path), "{path} is listed, and does not sleep any more");
    }
}
