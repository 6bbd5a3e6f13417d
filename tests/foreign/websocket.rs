//! The Autobahn cases for WebSockets, as kosoku has them, at a `ws` accept, before an echo.
//!
//! Where a WebSocket is passed through, they hold as they are. Behind bytes there are no messages: an
//! echo comes back as binary ones, cut as the bytes came, and a message is passed on before its end is
//! there. So it is bytes that are compared there, and how the connection closes.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use serde_json::Value;
use tokio_tungstenite::tungstenite;

use crate::{
    ended,
    process::TestFolder,
    setup::{Pair, dmz_half, internal_half},
};

/// Messages, pings, reserved bits, kinds of frames, pieces, UTF-8, closing, and pieces of one message;
/// 9: large ones.
const AS_BYTES: &[&str] = &["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"];
const PASSED: &[&str] = &["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"];
/// The report of a case shows so much of a message.
const SHOWN: usize = 64;

#[test]
fn what_autobahn_asks_of_frames_holds_where_they_are_taken_off() {
    let Some(kosoku) = kosoku("what_autobahn_asks_of_frames_holds_where_they_are_taken_off") else { return };
    let folder = TestFolder::with_certificates();
    let dmz = dmz_half("127.0.0.1:0", &[]) + "    web: { accept: 'ws://127.0.0.1:0' }\n";
    let pair = Pair::of(&folder, &dmz, |link| internal_half(link, &[("web", "echo://")]));
    let cases = cases(&kosoku, &folder, pair.dmz.accept("web"), AS_BYTES);
    let wrong: Vec<_> = cases.iter().filter(|case| !is_right_as_bytes(case)).map(case_result).collect();
    assert!((cases.len(), wrong.len()) == (247, 0), "{} of {}: {wrong:#?}", wrong.len(), cases.len());
}

#[test]
fn what_autobahn_asks_holds_where_a_websocket_is_passed_through() {
    let Some(kosoku) = kosoku("what_autobahn_asks_holds_where_a_websocket_is_passed_through") else { return };
    let folder = TestFolder::with_certificates();
    let dmz = dmz_half("127.0.0.1:0", &[]) + "    web: { accept: 'ws://127.0.0.1:0', carries: http }\n";
    let backend = format!("ws://{}", echo());
    let pair = Pair::of(&folder, &dmz, |link| internal_half(link, &[("web", &backend)]));
    let cases = cases(&kosoku, &folder, pair.dmz.accept("web"), PASSED);
    let wrong: Vec<_> = cases.iter().filter(|case| !is_right(case)).map(case_result).collect();
    assert!((cases.len(), wrong.len()) == (301, 0), "{} of {}: {wrong:#?}", wrong.len(), cases.len());
}

fn kosoku(test: &str) -> Option<PathBuf> {
    let kosoku = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/kosoku/bin/kosoku");
    if !kosoku.is_file() {
        println!("skipped: {test} needs kosoku in target/kosoku");
    }
    kosoku.is_file().then_some(kosoku)
}

/// A server of WebSockets that answers each message with itself.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let Ok(mut socket) = tungstenite::accept(stream) else { return };
                while let Ok(message) = socket.read() {
                    let was_received = message.is_text() || message.is_binary();
                    // It may have gone; the next read says so.
                    let _ = if was_received { socket.send(message) } else { socket.flush() };
                }
            });
        }
    });
    at
}

/// Runs the groups at an address: the report of each case.
fn cases(kosoku: &Path, folder: &TestFolder, at: SocketAddr, groups: &[&str]) -> Vec<Value> {
    let (mut command, at) = (Command::new("timeout"), format!("ws://{at}"));
    command.arg("300").arg(kosoku).args(["-m", "fuzzingclient", &at, "-p", "8", "-o"]);
    command.arg(folder.path("cases")).args(groups.iter().flat_map(|group| ["-i", group]));
    // It fails where a case does; what that means is decided here.
    let output = ended(&mut command);
    let files = fs::read_dir(folder.path("cases"));
    let files = files.unwrap_or_else(|error| panic!("no report: {error}: {output:?}"));
    let files = files.map(|file| file.expect("a file").path());
    let cases = files.filter(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".json") && name.contains("_case_")
    });
    let read = |file| serde_json::from_slice(&fs::read(file).expect("it is there")).expect("JSON");
    cases.map(read).collect()
}

fn case_result(case: &Value) -> String {
    let short = |value: &Value| value.to_string().chars().take(200).collect::<String>();
    let [id, behaviour, close] = ["id", "behavior", "behaviorClose"].map(|key| &case[key]);
    format!("{id}: {behaviour}, {close}: {}; {}", case["resultClose"], short(&case["received"]))
}

fn is_good(found: &Value) -> bool {
    matches!(found.as_str(), Some("OK" | "NON-STRICT" | "INFORMATIONAL"))
}

fn is_right(case: &Value) -> bool {
    is_good(&case["behavior"]) && is_good(&case["behaviorClose"])
}

fn is_right_as_bytes(case: &Value) -> bool {
    // Where a case is to fail, what came before goes up; so it does before a close frame.
    let codes = case["expectedClose"]["closeCode"].as_array().cloned().unwrap_or_default();
    let has_failed = !codes.contains(&Value::from(1000)) || case["id"] == "7.1.5";
    let expected = case["expected"].as_object().cloned().unwrap_or_default();
    let came = as_bytes(&case["received"]);
    let is_echoed = expected.values().any(|expected| as_bytes(expected) == came);
    // One that got a binary message for its text drops the connection itself.
    let is_closed = is_good(&case["behaviorClose"]) || (is_echoed && case["failedByMe"] == true);
    is_closed && (is_good(&case["behavior"]) || has_failed || is_echoed)
}

/// The bytes of a case's messages, as far as they are shown, and all else that happened.
fn as_bytes(events: &Value) -> (Vec<u8>, Vec<Value>) {
    let events = events.as_array().cloned().unwrap_or_default();
    let (messages, others): (Vec<_>, Vec<_>) = events.into_iter().partition(|event| event[0] == "message");
    // A byte for each letter; where a text came back as binary, its letters are taken for bytes once more.
    let letters = |text: &str| text.chars().map(|letter| letter as u8).collect::<Vec<u8>>();
    let once = letters(&messages.iter().filter_map(|event| event[1].as_str()).collect::<String>());
    let is_binary = messages.iter().any(|event| event[2] == true);
    let twice = String::from_utf8(once.clone()).ok().filter(|_| is_binary);
    let mut bytes = twice.map_or(once, |text| letters(&text));
    bytes.truncate(SHOWN);
    (bytes, others)
}
