//! The Autobahn cases for WebSockets, as kosoku has them, at a `ws` accept.
//!
//! They want their messages echoed. Behind bytes there are no messages: an echo comes back as binary
//! ones, cut as the bytes came, and a message is passed on before its end is there. So it is bytes
//! that are compared, and how the connection closes.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use crate::{
    ended,
    process::Place,
    setup::{Pair, dmz_half, internal_half},
};

/// Messages, pings, reserved bits, kinds of frames, pieces, UTF-8, closing, and pieces of one message.
const GROUPS: [&str; 8] = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"];
const CASES: usize = 247;
/// The report of a case shows so much of a message.
const SHOWN: usize = 64;

#[test]
fn what_autobahn_asks_of_frames_holds_where_they_are_taken_off() {
    let kosoku = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/kosoku/bin/kosoku");
    if !kosoku.is_file() {
        println!(
            "skipped: what_autobahn_asks_of_frames_holds_where_they_are_taken_off needs kosoku in target/kosoku"
        );
        return;
    }
    let place = Place::with_certificates();
    let dmz = dmz_half("127.0.0.1:0", &[]) + "    web: { accept: 'ws://127.0.0.1:0' }\n";
    let pair = Pair::of(&place, &dmz, |link| internal_half(link, &[("web", "echo://")]));
    let cases = cases(&kosoku, &place, &format!("ws://{}", pair.dmz.accept("web")));
    assert_eq!(cases.len(), CASES);
    let wrong: Vec<_> = cases.iter().filter_map(wrong_as_bytes).collect();
    assert!(wrong.is_empty(), "{} of {CASES}: {wrong:#?}", wrong.len());
}

/// Runs the groups at an address: the report of each case.
fn cases(kosoku: &Path, place: &Place, at: &str) -> Vec<Value> {
    let mut command = Command::new("timeout");
    command.arg("300").arg(kosoku).args(["-m", "fuzzingclient", at, "-p", "8", "-o"]);
    command.arg(place.path("cases")).args(GROUPS.iter().flat_map(|group| ["-i", group]));
    // It fails where a case does; what that means is decided here.
    let output = ended(&mut command);
    let files = fs::read_dir(place.path("cases"));
    let files = files.unwrap_or_else(|error| panic!("no report: {error}: {output:?}"));
    let files = files.map(|file| file.expect("a file").path());
    let cases = files.filter(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".json") && name.contains("_case_")
    });
    let read = |file| serde_json::from_slice(&fs::read(file).expect("it is there")).expect("JSON");
    cases.map(read).collect()
}

/// What is wrong with a case, if anything is.
fn wrong_as_bytes(case: &Value) -> Option<String> {
    let [behaviour, close] = ["behavior", "behaviorClose"].map(|key| case[key].as_str().unwrap_or_default());
    let is_good = |found: &str| matches!(found, "OK" | "NON-STRICT" | "INFORMATIONAL");
    // Where a case is to fail, what came before goes up; so it does before a close frame.
    let codes = case["expectedClose"]["closeCode"].as_array().cloned().unwrap_or_default();
    let has_failed = !codes.contains(&Value::from(1000)) || case["id"] == "7.1.5";
    let expected = case["expected"].as_object().cloned().unwrap_or_default();
    let came = as_bytes(&case["received"]);
    let is_echoed = expected.values().any(|expected| as_bytes(expected) == came);
    // One that got a binary message for its text drops the connection itself.
    let is_closed = is_good(close) || (is_echoed && case["failedByMe"] == true);
    let is_right = is_closed && (is_good(behaviour) || has_failed || is_echoed);
    (!is_right).then(|| format!("{}: {behaviour}, {close}: {}", case["id"], case["received"]))
}

/// The bytes of a case's messages, as far as they are shown, and all else that happened.
fn as_bytes(events: &Value) -> (Vec<u8>, Vec<Value>) {
    let is_message = |event: &&Value| event[0] == "message";
    let events: Vec<&Value> = events.as_array().into_iter().flatten().collect();
    let messages = events.iter().copied().filter(is_message);
    let mut bytes: Vec<u8> = messages
        .flat_map(|event| {
            let text = event[1].as_str().unwrap_or_default();
            // A byte for each letter; bytes of a text in a binary message are taken for letters once more.
            let once: Vec<u8> = text.chars().map(|letter| letter as u8).collect();
            let twice = String::from_utf8(once.clone()).ok().filter(|_| event[2] == true);
            twice.map_or(once, |text| text.chars().map(|letter| letter as u8).collect())
        })
        .collect();
    bytes.truncate(SHOWN);
    (bytes, events.into_iter().filter(|event| !is_message(event)).cloned().collect())
}
