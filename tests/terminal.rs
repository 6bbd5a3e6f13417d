//! The program in a pseudo-terminal: the dashboard opens, answers keys, gives the terminal back,
//! and leaves the gateway running when the terminal goes away.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "terminal/attach.rs"]
mod attach;
#[path = "terminal/fleet.rs"]
mod fleet;
#[path = "terminal/init.rs"]
mod init;
#[path = "process/kept_hour.rs"]
mod kept_hour;
#[path = "process/ports.rs"]
mod ports;
mod process;
#[path = "terminal/pty.rs"]
mod pty;
#[path = "process/pair.rs"]
mod setup;
#[path = "terminal/signals.rs"]
mod signals;
#[path = "process/threads.rs"]
mod threads;

use std::{fs, thread, time::Duration};

use process::{SOON, TestFolder, until};
use pty::Terminal;

const PROFILE: &str = "mode: direct\ndmz:\n  services:\n    orders: { accept: [\"tcp://127.0.0.1:0\"], connect: \"echo://\" }\n";

/// A folder with a profile `shop.yaml`.
fn shop() -> TestFolder {
    let folder = TestFolder::with_certificates();
    folder.write("shop.yaml", PROFILE);
    folder
}

fn status(folder: &TestFolder) -> serde_json::Value {
    let output = folder.command(&["status", "--json"]).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

fn open(folder: &TestFolder) -> Terminal {
    Terminal::open(folder, &["--profile", "shop.yaml"])
}

#[test]
fn the_dashboard_answers_keys_and_gives_the_terminal_back() {
    let folder = shop();
    let mut terminal = open(&folder);
    terminal
        .until("the dashboard", |screen| screen.alternate_screen() && screen.contents().contains("running"));
    terminal.until_shown("orders");
    terminal.press("?");
    terminal.until_shown("On this screen");
    terminal.press("\u{1b}");
    // Esc and a letter that come together mean Alt and the letter.
    terminal.until("no help", |screen| !screen.contents().contains("On this screen"));
    terminal.quit();
    assert_eq!(terminal.exit_code(), 0);
    terminal.until_left();
}

#[test]
fn the_mouse_stays_the_terminals_until_it_is_asked_for() {
    use vt100::MouseProtocolMode::{None, PressRelease};
    let folder = shop();
    let mut terminal = open(&folder);
    terminal.until("no mouse", |screen| {
        screen.contents().contains("running") && screen.mouse_protocol_mode() == None
    });
    terminal.press("m");
    terminal.until("the mouse", |screen| screen.mouse_protocol_mode() == PressRelease);
    // A click on the fourth screen, as a terminal tells it; columns and lines count from 1.
    terminal.press("\u{1b}[<0;31;2M");
    terminal.until_shown("[4 Services]");
    terminal.quit();
    assert_eq!(terminal.exit_code(), 0);
    terminal.until("the mouse is given back", |screen| screen.mouse_protocol_mode() == None);
}

#[test]
fn a_signal_gives_the_terminal_back_too() {
    let folder = shop();
    let mut terminal = open(&folder);
    terminal.until_shown("running");
    let stopped = folder.command(&["stop"]).output().unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
    assert_eq!(terminal.exit_code(), 0);
    terminal.until_left();
}

#[test]
fn a_gateway_that_lost_its_terminal_goes_on_and_burns_nothing() {
    let folder = shop();
    let mut terminal = open(&folder);
    terminal.until_shown("running");
    terminal.hang_up();
    let input = format!("/proc/{}/fd/0", terminal.process());
    until("it drops its lost terminal", SOON, || {
        fs::read_link(&input).unwrap().to_string_lossy().starts_with("pipe:").then_some(())
    });
    let before = terminal.cpu_ticks();
    // Not to wait for something, but to measure: a spinning thread would take 200 ticks.
    thread::sleep(Duration::from_secs(2));
    let burnt = terminal.cpu_ticks() - before;
    assert!(burnt < 40, "{burnt} ticks in 2 s");
    let status = status(&folder);
    let reported = status["notices"].as_array().unwrap().iter().any(|line| {
        line["text"] == "the terminal is gone, and the log that went there; the gateway goes on headless"
    });
    assert!(reported, "{}", status["notices"]);
    assert_eq!((&status["log_lines_lost"], &status["log_trouble"]), (&0.into(), &serde_json::Value::Null));
    assert!(folder.command(&["stop"]).output().unwrap().status.success());
    assert_eq!(terminal.exit_code(), 0);
}

#[test]
fn a_log_that_went_to_a_lost_terminal_is_reported_as_just_that() {
    let folder = shop();
    let mut terminal = Terminal::open(&folder, &["--no-ui", "--profile", "shop.yaml"]);
    terminal.until_shown("up to ");
    terminal.hang_up();
    // Headless, a hang-up is a reload, whose line is the first that is lost.
    let status = until("it is reported", SOON, || {
        let status = status(&folder);
        (!status["log_trouble"].is_null()).then_some(status)
    });
    assert_eq!(status["log_trouble"], "the terminal of standard error is gone");
    assert!(folder.command(&["stop"]).output().unwrap().status.success());
    assert_eq!(terminal.exit_code(), 0);
}

#[test]
fn a_resized_terminal_is_redrawn_completely() {
    let folder = shop();
    let mut terminal = open(&folder);
    terminal.until_shown("running");
    for (columns, rows) in [(140, 40), (60, 15), (3, 2), (100, 30)] {
        terminal.resize(columns, rows);
        terminal.until("the whole of it is used, and no more", |screen| {
            let line = |at| screen.contents_between(at, 0, at, columns).trim_end().to_owned();
            // Frames end at the last column; what is drawn beyond it would wrap.
            columns < 60 || (0..rows).any(|at| line(at).chars().count() == usize::from(columns))
        });
    }
    // In the process of the gateway a suspension would stop every session: the key means nothing.
    terminal.press("\u{1a}");
    terminal.until_shown("LIVE");
    terminal.quit();
    assert_eq!(terminal.exit_code(), 0);
    terminal.until_left();
}

#[test]
fn the_terminal_is_sane_after_each_way_to_leave() {
    use rustix::process::{Signal, kill_process};
    let program = env!("CARGO_BIN_EXE_portcullis");
    // A key, or the signal that the shell's program is sent.
    let exits = [
        ("q", Ok("qy")),
        ("Ctrl-C", Ok("\u{3}y")),
        ("SIGTERM", Err(Signal::TERM)),
        ("SIGINT", Err(Signal::INT)),
    ];
    for (name, leave) in exits {
        let folder = shop();
        let script = format!("{program} --profile shop.yaml; echo ended with $?; stty -a; read go");
        let mut terminal = Terminal::run(&folder, &["bash", "--norc", "-c", &script]);
        terminal.until_shown("running");
        match leave {
            Ok(keys) => terminal.press(keys),
            Err(signal) => kill_process(terminal.child_of_shell(), signal).unwrap(),
        }
        terminal.until(&format!("a sane terminal after {name}"), |screen| {
            let shown = screen.contents();
            let is_cooked =
                ["isig icanon", " echo ", " icrnl", "\nopost"].iter().all(|mode| shown.contains(mode));
            shown.contains("ended with 0") && is_cooked && !screen.alternate_screen() && !screen.hide_cursor()
        });
    }
}

#[test]
fn pasted_text_is_no_command() {
    let folder = shop();
    let mut terminal = open(&folder);
    terminal.until_shown("running");
    terminal.press("\u{1b}[200~query the logs\u{1b}[201~");
    terminal.until_shown("pasted text is not run as a command");
    // Into a line that is typed it goes as text, on one line.
    terminal.press("/");
    terminal.press("\u{1b}[200~service:or\nders\u{1b}[201~");
    terminal.until_shown("/service:or ders");
    terminal.press("\u{1b}");
    terminal.until("no line is typed", |screen| !screen.contents().contains("/service:or"));
    // A terminal that does not bracket what is pasted sends it as keys.
    terminal.press("query the logs, quickly");
    terminal.until("what was asked is closed", |screen| !screen.contents().contains("Quit"));
    assert_eq!(status(&folder)["phase"], "running");
}

#[test]
fn a_stop_counts_down_and_ends_with_the_summary() {
    let folder = shop();
    folder.write("shop.yaml", &format!("{PROFILE}drain: 4s\n"));
    let mut terminal = open(&folder);
    terminal.until_shown("running");
    let accept = status(&folder)["services"][0]["accept"][0].as_str().unwrap().to_owned();
    let client = std::net::TcpStream::connect(accept.strip_prefix("tcp://").unwrap()).unwrap();
    until("the session is open", SOON, || (status(&folder)["totals"]["sessions_open"] == 1).then_some(()));
    terminal.quit();
    terminal.until_shown("stopping: 1 session is open, cut in ");
    terminal.until_shown("s; Ctrl-C cuts now");
    terminal.until("it counts", |screen| screen.contents().matches("Ctrl-C cuts now").count() > 1);
    assert_eq!(terminal.exit_code(), 3);
    terminal.until("the summary is last", |screen| {
        let shown = screen.contents();
        shown.trim_end().lines().last().is_some_and(|line| line.contains("bytes"))
    });
    drop(client);
}

#[test]
fn ctrl_c_cuts_what_a_stop_still_waits_for() {
    let folder = shop();
    folder.write("shop.yaml", &format!("{PROFILE}drain: 10m\n"));
    let mut terminal = open(&folder);
    terminal.until_shown("running");
    let accept = status(&folder)["services"][0]["accept"][0].as_str().unwrap().to_owned();
    let client = std::net::TcpStream::connect(accept.strip_prefix("tcp://").unwrap()).unwrap();
    until("the session is open", SOON, || (status(&folder)["totals"]["sessions_open"] == 1).then_some(()));
    terminal.quit();
    terminal.until_shown("s; Ctrl-C cuts now");
    terminal.press("\u{3}");
    assert_eq!(terminal.exit_code(), 3, "long before the ten minutes are over");
    drop(client);
}

#[test]
fn a_log_in_a_file_goes_on_beside_the_dashboard() {
    let folder = shop();
    let program = env!("CARGO_BIN_EXE_portcullis");
    let script = format!("exec {program} --profile shop.yaml 2>shop.log");
    let mut terminal = Terminal::run(&folder, &["bash", "--norc", "-c", &script]);
    terminal.until_shown("running");
    terminal.press("r");
    until("the reload is in the log", SOON, || {
        fs::read_to_string(folder.path("shop.log")).unwrap().contains("reload").then_some(())
    });
    terminal.quit();
    assert_eq!(terminal.exit_code(), 0);
}

#[test]
fn the_folder_of_a_profile_that_was_named_as_a_file_is_listed() {
    let folder = TestFolder::with_certificates();
    fs::create_dir(folder.path("elsewhere")).unwrap();
    folder.write("elsewhere/shop.yaml", PROFILE);
    folder.write("elsewhere/other.yaml", PROFILE);
    let mut terminal = Terminal::open(&folder, &["--profile", "elsewhere/shop.yaml"]);
    terminal.until_shown("running");
    terminal.press("p");
    terminal.until_shown("other");
    let switched = folder.command(&["switch", "other"]).output().unwrap();
    assert!(switched.status.success(), "{switched:?}");
    terminal.quit();
    assert_eq!(terminal.exit_code(), 0);
}

/// What gives a program a disk of its own, `small`, which is nearly full; nothing where that cannot be had.
fn full_disk(folder: &TestFolder) -> Option<[&'static str; 5]> {
    let script = "mount -t tmpfs -o size=64k none small && head -c 60000 /dev/zero >small/filler && exec \"$0\" \"$@\"";
    fs::create_dir(folder.path("small")).unwrap();
    let alone = std::process::Command::new("unshare").args(["-rm", "true"]).output();
    if !alone.is_ok_and(|output| output.status.success()) {
        println!("skipped: a full disk needs unshare -rm");
        return None;
    }
    Some(["unshare", "-rm", "bash", "-c", script])
}

#[test]
fn a_recording_on_a_full_disk_is_reported_and_resumes() {
    let folder = shop();
    let Some(wrapper) = full_disk(&folder) else { return };
    let args = ["--no-ui", "--profile", "shop.yaml", "--record", "small/kept.jsonl"];
    let gateway = folder.start_as("shop", &wrapper, &args);
    let row = |wanted: fn(&serde_json::Value) -> bool| {
        gateway.wait("the recording is as wanted", SOON, |status| wanted(&status["recording"]))["recording"]
            .clone()
    };
    let failing = row(|row| row["trouble"].is_string());
    assert!(failing["trouble"].as_str().unwrap().contains("No space left on device"), "{failing}");
    let inside = format!("/proc/{}/root{}", gateway.child.id(), folder.path("small").display());
    fs::remove_file(format!("{inside}/filler")).unwrap();
    let well = row(|row| row["trouble"].is_null());
    assert!(well["left_out"].as_u64().unwrap() >= 1, "{well}");
    for reported in ["it is tried again every second", "goes on; "] {
        assert!(gateway.log().contains(reported), "{}", gateway.log());
    }
    fs::copy(format!("{inside}/kept.jsonl"), folder.path("kept.jsonl")).unwrap();
    let kept = fs::read_to_string(folder.path("kept.jsonl")).unwrap();
    for line in kept.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}

/// It was started before the half was locked.
#[test]
fn the_lock_is_on_the_thread_of_the_screen_too() {
    let folder = TestFolder::with_certificates();
    folder.write(
        "dmz.yaml",
        "mode: reverse\ndmz:\n  link: { listen: \"socks+tls://127.0.0.1:0\", tls: { certificate: pki/dmz.pem, \
         key: pki/dmz.key, ca: pki/ca.pem, peers: [internal] } }\n  services:\n    orders: { accept: \
         [\"tcp://127.0.0.1:0\"] }\n",
    );
    let mut terminal = Terminal::open(&folder, &["--profile", "dmz.yaml"]);
    terminal.until_shown("orders");
    let is_locked = || Some(status(&folder)["confined"]["dmz"]["seccomp"] == true).filter(|locked| *locked);
    until("it is locked", SOON, is_locked);
    let threads = threads::locked_threads(terminal.process());
    assert!(threads.iter().any(|thread| thread == "screen"), "{threads:?}");
    terminal.quit();
    assert_eq!(terminal.exit_code(), 0);
}
