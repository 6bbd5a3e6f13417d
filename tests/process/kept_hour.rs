//! The file that a gateway keeps of its last hour, as one before it would have left it.

use std::{fs, time::SystemTime};

use portcullis::telemetry::history::HistorySample;

use crate::process::TestFolder;

/// Leaves what a DMZ half of this profile would have kept of an hour in which no link took a session for three
/// minutes, and clients waited long in two.
pub fn write(folder: &TestFolder, profile: &str) {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock that is set");
    let first = since.as_secs() / 60 * 60 - 600;
    let minutes = [(8, None), (0, None), (0, None), (0, None), (8, Some(2900.0)), (8, Some(1500.0))];
    let samples: Vec<_> = (0_u64..)
        .zip(minutes)
        .map(|(minute, (links, wait_ms))| HistorySample {
            at: first + 60 * minute,
            seconds: 10,
            links,
            links_wanted: 8,
            wait_ms,
            ..HistorySample::default()
        })
        .collect();
    let kept = serde_json::json!({ "version": 1, "tiers": [[], samples, []] });
    fs::create_dir_all(folder.path("state")).expect("a state folder");
    folder.write(&format!("state/{profile}-dmz.history"), &kept.to_string());
}
