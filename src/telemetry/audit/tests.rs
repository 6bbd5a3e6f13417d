#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{file::AuditFileError, *};
use crate::telemetry::notices::NoticeLog;

const SOON: Duration = Duration::from_secs(20);

fn record(object: &str) -> AuditRecord {
    AuditRecord::new(AuditActor::own(ActorOrigin::Gateway), "kill", object, "done")
}

fn append(path: &Path, objects: &[&str]) {
    let began = Instant::now();
    let mut file = loop {
        match file::AuditFile::open(path) {
            // A program that another test has just forked holds our open files until it has started.
            Err(AuditFileError::Taken) if began.elapsed() < SOON => std::thread::yield_now(),
            opened => break opened.unwrap(),
        }
    };
    objects.iter().for_each(|object| file.append(vec![record(object)]).unwrap());
}

fn check_chain(text: &[u8]) -> ChainCheck {
    ChainCheck::of(text).unwrap()
}

fn actions(path: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<chain::AuditLine>(line).ok());
    lines.map(|line| (line.action, line.object)).collect()
}

/// Returns when the writer has done what it was asked to do.
fn settle(log: &AuditLog) {
    let (began, mut written) = (Instant::now(), log.flush());
    while written.try_recv().is_err() {
        assert!(began.elapsed() < SOON, "it is not written");
        std::thread::yield_now();
    }
}

#[test]
fn a_changed_a_missing_and_a_foreign_line_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit");
    append(&path, &["one", "two"]);
    append(&path, &["three"]);
    let text = fs::read_to_string(&path).unwrap();
    let whole = check_chain(text.as_bytes());
    assert_eq!((whole.lines, whole.fault), (3, None));
    assert_eq!(whole.last, LineHash::of(text.lines().last().unwrap().as_bytes()));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    let fault = |text: String| check_chain(text.as_bytes()).fault.map(|fault| fault.line);
    assert_eq!(fault(text.replace("two", "six")), Some(3), "the one behind it does not fit");
    assert_eq!(fault(lines[1..].concat()), Some(1));
    assert_eq!(fault([lines[0], lines[2]].concat()), Some(2));
    assert_eq!(fault([lines[0], "{}\n", lines[1]].concat()), Some(2));
    assert_eq!(fault("root:x:0:0\n".into()), Some(1));
    assert_eq!(fault("x".repeat(300_000)), Some(1));
    assert_eq!((check_chain(b"").lines, check_chain(b"").last.to_string()), (0, "0".repeat(64)));
}

#[test]
fn a_file_that_is_cut_at_any_byte_is_seen_and_goes_on_marked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit");
    append(&path, &["one", "two"]);
    let text = fs::read(&path).unwrap();
    let ends = |at: usize| at == 0 || text[at - 1] == b'\n';
    for at in 0..text.len() {
        fs::write(&path, &text[..at]).unwrap();
        let lines = text[..at].iter().filter(|byte| **byte == b'\n').count() as u64;
        let fault = check_chain(&text[..at]).fault.map(|fault| fault.line);
        assert_eq!(fault, (!ends(at)).then_some(lines + 1), "cut at {at}");
        append(&path, &["three"]);
        let repaired = fs::read(&path).unwrap();
        assert!(repaired.starts_with(&text[..at]), "what was cut stays");
        assert_eq!(check_chain(&repaired).fault, None, "cut at {at}");
        let marks = actions(&path).iter().filter(|(action, _)| action == "cut").count();
        assert_eq!(marks, usize::from(!ends(at)), "cut at {at}");
    }
}

#[test]
fn a_line_that_marks_a_cut_may_be_cut_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit");
    append(&path, &["one", "two"]);
    let text = fs::read(&path).unwrap();
    let cut = text.len() - 10;
    fs::write(&path, &text[..cut]).unwrap();
    append(&path, &["three"]);
    let text = fs::read(&path).unwrap();
    for at in cut..text.len() {
        fs::write(&path, &text[..at]).unwrap();
        append(&path, &["four"]);
        let repaired = fs::read_to_string(&path).unwrap();
        assert_eq!(check_chain(repaired.as_bytes()).fault, None, "cut at {at}");
        // The chain also covers what was cut.
        let changed = repaired.replacen("\"object\":\"two\"", "\"object\":\"six\"", 1);
        assert!(changed == repaired || check_chain(changed.as_bytes()).fault.is_some(), "cut at {at}");
    }
}

#[test]
fn what_is_no_file_of_its_own_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let refused = |name: &str| file::AuditFile::open(&at(name)).unwrap_err();
    fs::create_dir(at("folder")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    fs::write(at("key.pem"), "-----BEGIN PRIVATE KEY-----\n").unwrap();
    fs::write(at("real"), "").unwrap();
    symlink(at("real"), at("link")).unwrap();
    assert!(matches!(refused("folder"), AuditFileError::NoFile));
    assert!(matches!(refused("fifo"), AuditFileError::NoFile));
    assert!(matches!(refused("key.pem"), AuditFileError::Foreign));
    assert!(matches!(refused("link"), AuditFileError::Link));
    let _first = file::AuditFile::open(&at("real")).unwrap();
    assert!(matches!(refused("real"), AuditFileError::Taken));
}

#[test]
fn lines_lost_to_a_full_disk_are_counted_in_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let (path, notices) = (folder.path().join("inner/audit"), Arc::new(NoticeLog::default()));
    let full = AuditLog::open(Path::new("/dev/full"), notices.clone()).unwrap();
    full.write(record("one"));
    settle(&full);
    let reported =
        |notices: &NoticeLog| notices.all().iter().map(|it| it.text.clone()).collect::<Vec<_>>().join("\n");
    assert!(
        reported(&notices).contains("/dev/full cannot be written: No space left"),
        "{}",
        reported(&notices)
    );
    // The folder is created later.
    let notices = Arc::new(NoticeLog::default());
    let log = AuditLog::open(&path, notices.clone()).unwrap();
    ["one", "two"].iter().for_each(|object| log.write(record(object)));
    settle(&log);
    fs::create_dir(folder.path().join("inner")).unwrap();
    log.write(record("three"));
    settle(&log);
    let written = actions(&path);
    assert_eq!(written, [("lost".into(), "2".into()), ("kill".into(), "three".into())]);
    assert!(reported(&notices).contains("is written again; 2 lines lost"), "{}", reported(&notices));
    assert!(AuditLog::open(&path, notices).is_err(), "it has a writer");
}

#[test]
fn a_renamed_file_is_left_on_a_signal_and_the_next_names_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let (path, old) = (folder.path().join("audit"), folder.path().join("audit.1"));
    let log = AuditLog::open(&path, Arc::default()).unwrap();
    log.write(record("one"));
    settle(&log);
    fs::rename(&path, &old).unwrap();
    (0..1000).for_each(|_| assert!(reopen_all() > 0));
    log.write(record("two"));
    settle(&log);
    assert_eq!(actions(&old), [("kill".into(), "one".into())]);
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(check_chain(text.as_bytes()).fault, None);
    let first = text.lines().next().unwrap();
    assert!(
        first.contains("\"signal\"")
            && first.contains(&check_chain(&fs::read(&old).unwrap()).last.to_string()),
        "{first}"
    );
    assert_eq!(actions(&path).last(), Some(&("kill".into(), "two".into())));
}
