//! The audit file as an operator meets it: what is in it, who may write it, and `audit verify`.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    DIRECT,
    commands::issued,
    process::{SOON, TestFolder, until},
    run,
    setup::{Pair, dmz_half, internal_half},
};

fn lines(folder: &TestFolder, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(folder.path(name)).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn actions(folder: &TestFolder, name: &str) -> Vec<String> {
    lines(folder, name).iter().map(|line| line["action"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn commands_signals_starts_and_stops_are_chained_lines() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", &format!("audit: audit.jsonl\n{DIRECT}"));
    let gateway = folder.start("one");
    let socket = folder.path("run/one.sock").display().to_string();
    assert_eq!(run(&folder, &["log-level", "debug", "--admin", &socket]).code, Some(0));
    assert_eq!(run(&folder, &["kill", "nobody", "--admin", &socket]).code, Some(1));
    assert_eq!(run(&folder, &["reload", "--admin", &socket]).code, Some(0));
    gateway.signal(Signal::USR1);
    until("the signal", SOON, || actions(&folder, "audit.jsonl").contains(&"signal".into()).then_some(()));
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.ended().code(), Some(0));
    assert_eq!(actions(&folder, "audit.jsonl"), ["start", "log-level", "kill", "reload", "signal", "stop"]);
    let lines = lines(&folder, "audit.jsonl");
    let names: Vec<_> = lines[1].as_object().expect("an object").keys().map(String::as_str).collect();
    let all = ["n", "time", "actor", "action", "object", "result", "previous"];
    assert!(names.len() == all.len() && all.iter().all(|name| names.contains(name)), "{names:?}");
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!((&lines[1]["actor"]["from"], &lines[1]["actor"]["uid"]), (&"socket".into(), &uid.into()));
    assert!(lines[1]["actor"]["pid"].is_u64() && lines[1]["actor"]["name"].is_string(), "{}", lines[1]);
    assert_eq!(
        (&lines[2]["object"], &lines[2]["result"]),
        (&"nobody".into(), &"refused: no open session nobody".into())
    );
    assert_eq!((&lines[0]["actor"]["from"], &lines[5]["actor"]["from"]), (&"start".into(), &"signal".into()));
    assert_eq!((&lines[0]["n"], &lines[0]["previous"]), (&1.into(), &"0".repeat(64).into()));
    let file = folder.path("audit.jsonl");
    let mode = fs::metadata(&file).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // As others compute it.
    let sum = Command::new("sh")
        .args(["-c", "tail -n 1 \"$0\" | head -c -1 | sha256sum | cut -d ' ' -f 1"])
        .arg(&file)
        .output()
        .expect("the system has it");
    let hash = String::from_utf8(sum.stdout).expect("digits").trim().to_owned();
    let file = file.display().to_string();
    let sent = run(&folder, &["audit", "verify", &file]);
    assert_eq!((sent.code, sent.out), (Some(0), format!("6 lines, last {hash}\n")));
    assert_eq!(run(&folder, &["audit", "verify", &file, "--head", &hash]).code, Some(0));
    // Without its last line it is whole, but for who knows its head.
    let text = fs::read_to_string(&file).expect("it is there");
    let kept = text.trim_end().rfind('\n').expect("several lines") + 1;
    fs::write(&file, &text[..kept]).expect("it is written");
    assert_eq!(run(&folder, &["audit", "verify", &file]).code, Some(0));
    let sent = run(&folder, &["audit", "verify", &file, "--head", &hash]);
    assert!(sent.code == Some(1) && sent.err.contains("line 5: "), "{}", sent.err);
    fs::write(&file, text.replace("nobody", "somebody")).expect("it is written");
    let sent = run(&folder, &["audit", "verify", &file]);
    assert!(sent.code == Some(1) && sent.err.contains("line 4: "), "{}", sent.err);
}

#[test]
fn what_an_operator_cuts_and_renewed_certificates_have_their_lines() {
    let folder = TestFolder::with_certificates();
    fs::create_dir(folder.path("trail")).expect("it is made");
    let _pair = Pair::of(&folder, &dmz_half("127.0.0.1:0", &["orders"]), |link| {
        format!("audit: trail/audit.jsonl\n{}", internal_half(link, &[("orders", "echo://")]))
    });
    for command in [&["lockdown", "orders"][..], &["unlock", "orders"], &["kill", "--service", "orders"]] {
        let sent = run(&folder, &[command, &["--admin", "run/internal.sock"]].concat());
        assert_eq!(sent.code, Some(0), "{command:?}: {}", sent.err);
    }
    let (certificate, key) = issued(&folder, "internal", -1, 90);
    for (file, text) in [("internal.key", key), ("internal.pem", certificate)] {
        fs::write(folder.path("pki").join(file), text).expect("it is written");
    }
    let is_done = |line: &Value| line["result"].as_str().is_some_and(|result| result.starts_with("done: "));
    let row = |action: &str| {
        let found = lines(&folder, "trail/audit.jsonl").into_iter();
        found.filter(is_done).find(|line| line["action"] == action)
    };
    for (action, object, from) in [
        ("lockdown", "service orders", "socket"),
        ("unlock", "service orders", "socket"),
        ("kill", "sessions of service orders", "socket"),
        ("certificate", "internal.pem", "gateway"),
    ] {
        let line = until(action, SOON, || row(action));
        assert_eq!(line["actor"]["from"], from, "{line}");
        assert!(line["object"].as_str().is_some_and(|text| text.contains(object)), "{line}");
    }
    let file = folder.path("trail/audit.jsonl").display().to_string();
    assert_eq!(run(&folder, &["audit", "verify", &file]).code, Some(0));
}

#[test]
fn a_second_gateway_does_not_write_into_the_file_of_the_first() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", &format!("audit: audit.jsonl\n{DIRECT}"));
    folder.write("two.yaml", &format!("audit: audit.jsonl\n{DIRECT}"));
    let _one = folder.start("one");
    let sent = run(&folder, &["--profile", "two.yaml", "--no-ui"]);
    assert_eq!(sent.code, Some(1));
    assert!(sent.err.contains("audit: another gateway writes "), "{}", sent.err);
    // The same of a reload, which changes nothing.
    folder.write("two.yaml", DIRECT);
    let two = folder.start("two");
    folder.write("two.yaml", &format!("audit: audit.jsonl\n{DIRECT}"));
    let socket = folder.path("run/two.sock").display().to_string();
    let sent = run(&folder, &["reload", "--admin", &socket]);
    assert_eq!(sent.code, Some(1));
    assert!(sent.err.contains("audit: another gateway writes "), "{}", sent.err);
    assert_eq!(two.status()["phase"], "running");
}

#[test]
fn a_gateway_goes_on_with_its_own_file_however_that_is_spelled() {
    let folder = TestFolder::with_certificates();
    fs::create_dir(folder.path("logs")).expect("a folder");
    folder.write("one.yaml", &format!("audit: audit.jsonl\n{DIRECT}"));
    folder.write("two.yaml", &format!("audit: logs/../audit.jsonl\n{DIRECT}"));
    let _one = folder.start("one");
    let socket = folder.path("run/one.sock").display().to_string();
    let sent = run(&folder, &["switch", "two.yaml", "--admin", &socket]);
    assert_eq!(sent.code, Some(0), "{}", sent.err);
    until("its line", SOON, || actions(&folder, "audit.jsonl").contains(&"switch".into()).then_some(()));
}

#[test]
fn a_killed_gateway_leaves_a_cut_line_and_the_next_goes_on() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", &format!("audit: audit.jsonl\n{DIRECT}"));
    let gateway = folder.start("one");
    until("it is written", SOON, || (!lines(&folder, "audit.jsonl").is_empty()).then_some(()));
    gateway.signal(Signal::KILL);
    gateway.ended();
    let file = folder.path("audit.jsonl");
    let text = fs::read(&file).expect("it is there");
    fs::write(&file, &text[..text.len() - 20]).expect("it is written");
    let name = file.display().to_string();
    let sent = run(&folder, &["audit", "verify", &name]);
    assert!(sent.code == Some(1) && sent.err.contains("line 1: "), "{}", sent.err);
    let gateway = folder.start("one");
    until("it goes on", SOON, || (actions(&folder, "audit.jsonl") == ["cut", "start"]).then_some(()));
    drop(gateway);
    assert_eq!(run(&folder, &["audit", "verify", &name]).code, Some(0));
}

#[test]
fn a_file_that_cannot_be_written_is_reported_and_stops_nothing() {
    let folder = TestFolder::with_certificates();
    fs::create_dir(folder.path("folder")).expect("it is made");
    for (file, why) in [("folder", "it is not a file"), ("/dev/full", "No space left on device")] {
        folder.write("one.yaml", &format!("audit: {file}\n{DIRECT}"));
        let gateway = folder.start("one");
        let reported = format!("cannot be written: {why}");
        until("it is reported", SOON, || gateway.log().contains(&reported).then_some(()));
        assert_eq!(gateway.status()["phase"], "running");
    }
}

/// The lock of a half lets its audit be written.
#[test]
fn a_locked_half_writes_its_audit() {
    let folder = TestFolder::with_certificates();
    fs::create_dir(folder.path("trail")).expect("it is made");
    let half = dmz_half("127.0.0.1:0", &["echo"]);
    folder.write("dmz.yaml", &format!("audit: trail/audit.jsonl\n{half}"));
    let dmz = folder.start("dmz");
    let file = folder.path("trail/audit.jsonl");
    until("it is written", SOON, || (!lines(&folder, "trail/audit.jsonl").is_empty()).then_some(()));
    fs::rename(&file, folder.path("trail/old")).expect("it is renamed");
    dmz.signal(Signal::USR1);
    until("it is opened again", SOON, || (actions(&folder, "trail/audit.jsonl") == ["signal"]).then_some(()));
}
