//! The inside's own switch: what is locked stays locked, whatever becomes of the process.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
};

use serde_json::Value;

use crate::{
    CommandOutput, connect, is_reset,
    process::{Gateway, SOON, TestFolder},
    run,
    setup::{Pair, dmz_half, internal_half},
};

const INSIDE: &str = "run/internal.sock";
const KEPT: &str = "state/internal-internal.lockdown";

fn ask(folder: &TestFolder, args: &[&str]) -> CommandOutput {
    run(folder, &[args, &["--admin", INSIDE]].concat())
}

#[track_caller]
fn done(folder: &TestFolder, args: &[&str]) -> String {
    let sent = ask(folder, args);
    assert_eq!(sent.code, Some(0), "{args:?}: {}{}", sent.out, sent.err);
    sent.out
}

fn echo(stream: &mut TcpStream) {
    stream.write_all(b"echo").expect("it is sent");
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).expect("it comes back");
    assert_eq!(&answer, b"echo");
}

fn open(pair: &Pair<'_>, service: &str) -> TcpStream {
    let mut client = connect(pair.dmz.accept(service));
    echo(&mut client);
    client
}

fn links(status: &Value) -> u64 {
    let count = |pool: &Value| ["ready", "carrying"].iter().filter_map(|it| pool[it].as_u64()).sum::<u64>();
    status["pools"].as_array().map_or(0, |pools| pools.iter().map(count).sum())
}

#[track_caller]
fn wait_phase(gateway: &Gateway<'_>, service: &str, phase: &str) {
    gateway.wait(phase, SOON, |status| {
        let rows = status["services"].as_array();
        rows.is_some_and(|rows| rows.iter().any(|row| row["name"] == service && row["phase"] == phase))
    });
}

#[track_caller]
fn wait_ended(gateway: &Gateway<'_>, end: &str) {
    gateway.wait(end, SOON, |status| {
        status["ended"].as_array().is_some_and(|rows| rows.iter().any(|row| row["end"] == end))
    });
}

#[track_caller]
fn wait_links(gateway: &Gateway<'_>, are_there: bool) {
    gateway.wait("its links", SOON, |status| (links(status) > 0) == are_there);
}

#[test]
fn a_locked_service_is_cut_and_offered_no_more_and_links_stay() {
    let folder = TestFolder::with_certificates();
    let pair = Pair::reverse(&folder, &[("orders", "echo://"), ("other", "echo://")]);
    let (mut cut, mut spared) = (open(&pair, "orders"), open(&pair, "other"));
    let sent = done(&folder, &["lockdown", "orders"]);
    assert!(sent.contains("`orders`") && sent.contains("1 session"), "{sent}");
    assert!(is_reset(&cut.read(&mut [0])));
    wait_ended(&pair.dmz, "OR");
    wait_ended(&pair.internal, "OR");
    wait_phase(&pair.dmz, "orders", "down");
    assert!(is_reset(&connect(pair.dmz.accept("orders")).read(&mut [0])), "a newcomer was taken");
    wait_ended(&pair.dmz, "PC");
    echo(&mut spared);
    let status = pair.internal.status();
    assert!(links(&status) > 0, "{status:#}");
    let row = &status["lockdown"][0];
    assert_eq!((&row["peer"], &row["service"]), (&Value::Null, &"orders".into()));
    assert!(row["since"].as_str().is_some_and(|since| since.ends_with('Z')), "{row}");
    let alerts = status["alerts"].as_array().expect("a list");
    assert!(
        alerts.iter().any(|alert| alert["kind"] == "lockdown" && alert["object"] == "orders"),
        "{status:#}"
    );
    // Nobody else may read or write what is kept.
    let mode =
        |name: &str| fs::metadata(folder.path(name)).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode("state"), mode(KEPT)), (0o700, 0o600));

    done(&folder, &["reload"]);
    wait_phase(&pair.internal, "orders", "locked");
    for (args, why) in [
        (&["unlock", "other"][..], "is not locked"),
        (&["lockdown", "nothing"], "no service"),
        (&["unlock", "orders", "--peer", "dmz"], "is not locked"),
    ] {
        let refused = ask(&folder, args);
        assert_eq!(refused.code, Some(1), "{args:?}");
        assert!(refused.err.contains(why), "{}", refused.err);
    }
    done(&folder, &["unlock", "orders"]);
    assert!(!folder.path(KEPT).exists());
    wait_phase(&pair.dmz, "orders", "open");
    open(&pair, "orders");
}

#[test]
fn a_lock_holds_over_a_restart_until_it_is_lifted() {
    let folder = TestFolder::with_certificates();
    let Pair { dmz, internal } = Pair::reverse(&folder, &[("orders", "echo://")]);
    done(&folder, &["lockdown", "orders"]);
    drop(internal);
    let pair = Pair { internal: folder.start("internal"), dmz };
    assert_eq!(pair.internal.status()["lockdown"][0]["service"], "orders");
    wait_phase(&pair.internal, "orders", "locked");
    wait_links(&pair.dmz, true);
    wait_phase(&pair.dmz, "orders", "down");
    done(&folder, &["unlock"]);
    wait_phase(&pair.dmz, "orders", "open");
    open(&pair, "orders");
}

#[test]
fn all_or_a_gateway_lose_their_links_too() {
    let folder = TestFolder::with_certificates();
    let pair = Pair::of(&folder, &dmz_half("127.0.0.1:0", &["orders"]), |link| {
        internal_half(link, &[("orders", "echo://")]).replace("peers: [dmz]", "peers: [dmz, Other]")
    });
    for args in [&["lockdown"][..], &["lockdown", "--peer", "dmz"]] {
        let mut cut = open(&pair, "orders");
        done(&folder, args);
        assert!(is_reset(&cut.read(&mut [0])));
        wait_links(&pair.internal, false);
        wait_links(&pair.dmz, false);
        wait_ended(&pair.dmz, "OR");
        let row = &pair.internal.status()["lockdown"][0];
        assert_eq!(row["peer"], args.get(2).map_or(Value::Null, |peer| (*peer).into()));
        assert_eq!(row["service"], Value::Null);
        let lifts = [&["unlock"], &args[1..]].concat();
        done(&folder, &lifts);
        wait_links(&pair.dmz, true);
        wait_phase(&pair.dmz, "orders", "open");
    }
    // A lock of another gateway does not apply to this one.
    let mut spared = open(&pair, "orders");
    done(&folder, &["lockdown", "--peer", "other"]);
    echo(&mut spared);
    let misspelt = ask(&folder, &["lockdown", "--peer", "dzm"]);
    assert_eq!(misspelt.code, Some(1), "{}", misspelt.out);
    assert!(misspelt.err.contains("no gateway `dzm`") && misspelt.err.contains("`dmz`"), "{}", misspelt.err);
    assert_eq!(pair.internal.status()["lockdown"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_service_is_locked_for_one_gateway_alone() {
    let folder = TestFolder::with_certificates();
    let pair = Pair::reverse(&folder, &[("orders", "echo://"), ("other", "echo://")]);
    let (mut cut, mut spared) = (open(&pair, "orders"), open(&pair, "other"));
    done(&folder, &["lockdown", "--peer", "dmz", "orders"]);
    assert!(is_reset(&cut.read(&mut [0])));
    wait_phase(&pair.dmz, "orders", "down");
    echo(&mut spared);
    wait_phase(&pair.internal, "orders", "open");
    done(&folder, &["unlock", "--peer", "dmz", "orders"]);
    wait_phase(&pair.dmz, "orders", "open");
    open(&pair, "orders");
}

#[test]
fn an_unreadable_lock_file_locks_everything_and_is_reported() {
    let folder = TestFolder::with_certificates();
    let Pair { dmz, internal } = Pair::reverse(&folder, &[("orders", "echo://")]);
    drop(internal);
    fs::create_dir_all(folder.path("state")).expect("a folder");
    fs::set_permissions(folder.path("state"), fs::Permissions::from_mode(0o700)).expect("a mode");
    folder.write(KEPT, "[{\"peer\": nu");
    let pair = Pair { internal: folder.start("internal"), dmz };
    let status = pair.internal.status();
    assert_eq!(status["lockdown"].as_array().map(Vec::len), Some(1), "{status:#}");
    assert_eq!(
        (&status["lockdown"][0]["peer"], &status["lockdown"][0]["service"]),
        (&Value::Null, &Value::Null)
    );
    assert!(pair.internal.log().contains("everything is locked until `unlock`"), "{}", pair.internal.log());
    assert_eq!(links(&status), 0);
    done(&folder, &["unlock"]);
    wait_links(&pair.dmz, true);
    wait_phase(&pair.dmz, "orders", "open");
    open(&pair, "orders");
}

#[test]
fn an_unwritable_lock_still_applies_and_is_reported_and_a_dmz_half_refuses() {
    let folder = TestFolder::with_certificates();
    let pair = Pair::reverse(&folder, &[("orders", "echo://")]);
    fs::create_dir_all(folder.path(&format!("{KEPT}/in-the-way"))).expect("a folder");
    let mut cut = open(&pair, "orders");
    let sent = ask(&folder, &["lockdown", "orders"]);
    assert_eq!(sent.code, Some(1), "{}", sent.out);
    assert!(sent.err.contains("until this process ends"), "{}", sent.err);
    assert!(is_reset(&cut.read(&mut [0])));
    wait_phase(&pair.internal, "orders", "locked");
    for args in [&["lockdown", "orders"][..], &["lockdown"], &["unlock"]] {
        let refused = run(&folder, &[args, &["--admin", "run/dmz.sock"]].concat());
        assert_eq!(refused.code, Some(1), "{args:?}: {}", refused.out);
        assert!(refused.err.contains("only an internal half can lock"), "{}", refused.err);
    }
}

#[test]
fn a_lock_holds_over_a_switch_and_a_restart_with_either_profile() {
    let folder = TestFolder::with_certificates();
    let pair = Pair::reverse(&folder, &[("orders", "echo://")]);
    let profile = fs::read_to_string(folder.path("internal.yaml")).expect("it is there");
    folder.write("night.yaml", &profile);
    let is_kept = |profile: &str| folder.path(&format!("state/{profile}-internal.lockdown")).exists();
    let is_locked = |gateway: &Gateway<'_>| gateway.status()["lockdown"][0]["service"] == "orders";

    // What is locked before a switch is locked behind it, and what is locked there is so for both.
    done(&folder, &["lockdown", "orders"]);
    done(&folder, &["switch", "night"]);
    assert!(is_locked(&pair.internal));
    pair.internal.wait("both are kept", SOON, |_| is_kept("internal") && is_kept("night"));
    done(&folder, &["unlock"]);
    assert!(!is_kept("internal") && !is_kept("night"));
    done(&folder, &["lockdown", "orders"]);
    assert!(is_kept("internal") && is_kept("night"));
    let Pair { dmz, internal } = pair;
    drop(internal);

    // It was locked under the other profile, and is so until that is in force again.
    fs::remove_file(folder.path("state/internal-internal.lockdown")).expect("it is there");
    let pair = Pair { internal: folder.start("internal"), dmz };
    let mut cut = open(&pair, "orders");
    done(&folder, &["switch", "night"]);
    assert!(is_reset(&cut.read(&mut [0])));
    assert!(is_locked(&pair.internal));
    assert!(pair.internal.log().contains("`orders` is locked since"), "{}", pair.internal.log());
    wait_phase(&pair.dmz, "orders", "down");
    done(&folder, &["unlock"]);
    wait_phase(&pair.dmz, "orders", "open");
    open(&pair, "orders");
}
