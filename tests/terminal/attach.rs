//! Dashboards on a gateway of another process, and on a recording.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use rustix::{
    fs::{Mode, mknodat},
    process::{Pid, Signal, kill_process},
};

use crate::{
    kept_hour,
    process::{Gateway, SOON, TestFolder},
    pty::Terminal,
    shop,
};

/// Of the gateway that `start` starts.
pub const SOCKET: &str = "run/shop.sock";

pub fn start(folder: &TestFolder) -> Gateway<'_> {
    let gateway = folder.start_as("shop", &[], &["--no-ui", "--profile", "shop.yaml"]);
    gateway.wait_healthy();
    gateway
}

/// Reloads that were asked for; the log is written by a thread of its own.
fn reloads(gateway: &Gateway<'_>) -> usize {
    crate::process::until("the reload is written down", SOON, || {
        Some(gateway.log().matches("operator kind=\"reload\"").count()).filter(|count| *count > 0)
    })
}

fn attach(folder: &TestFolder) -> Terminal {
    Terminal::open(folder, &["attach", "--admin", SOCKET])
}

pub fn stop(folder: &TestFolder) {
    let stopped = folder.command(&["stop", "--admin", SOCKET]).output().unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
}

/// A client whose session is open.
fn client(gateway: &Gateway<'_>) -> TcpStream {
    let status = gateway.status();
    let accept = status["services"][0]["accept"][0].as_str().unwrap();
    let mut client = TcpStream::connect(accept.strip_prefix("tcp://").unwrap()).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    echo(&mut client);
    client
}

fn echo(client: &mut TcpStream) {
    client.write_all(b"hello").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
}

#[test]
fn several_look_at_one_gateway_and_leave_it_running() {
    let folder = shop();
    let gateway = start(&folder);
    let (mut one, mut two) = (attach(&folder), attach(&folder));
    let mut client = client(&gateway);
    let address = client.local_addr().unwrap().to_string();
    for terminal in [&one, &two] {
        terminal.until_shown("LIVE");
        terminal.until_shown(&address);
    }
    one.press("q");
    assert_eq!(one.exit_code(), 0, "no question: the session goes on");
    one.until_left();
    one.until_shown("The gateway keeps running.");
    let pid = Pid::from_raw(two.process() as i32).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(two.exit_code(), 0);
    two.until_left();
    echo(&mut client);
    assert_eq!(gateway.status()["phase"], "running");
}

#[test]
fn a_read_only_screen_changes_nothing() {
    let folder = shop();
    let gateway = start(&folder);
    let mut looks = Terminal::open(&folder, &["attach", "--read-only", "--admin", SOCKET]);
    looks.until_shown("LIVE");
    looks.press("r?");
    looks.until_shown("On this screen");
    looks.until("no key to reload", |screen| !screen.contents().contains("reload"));
    let mut acts = attach(&folder);
    acts.until_shown("LIVE");
    acts.press("r");
    acts.until_shown("done: ");
    assert_eq!(reloads(&gateway), 1, "{}", gateway.log());
}

#[test]
fn a_lost_gateway_is_reported_and_comes_back_by_itself() {
    let folder = shop();
    let mut gateway = start(&folder);
    let mut terminal = attach(&folder);
    terminal.until_shown("LIVE");
    gateway.child.kill().unwrap();
    terminal.until_shown("gateway lost");
    terminal.until_shown("LOST");
    terminal.until("no word of health", |screen| !screen.contents().contains("HEALTHY"));
    terminal.press("r");
    terminal.until_shown("refused: ");
    drop(gateway);
    let gateway = start(&folder);
    terminal.until("it is back", |screen| {
        let shown = screen.contents();
        shown.contains("LIVE") && shown.contains("HEALTHY") && !shown.contains("LOST")
    });
    terminal.press("r");
    terminal.until_shown("done: ");
    assert_eq!(reloads(&gateway), 1, "{}", gateway.log());
}

#[test]
fn a_gateway_that_stops_is_reported_too() {
    let folder = shop();
    let gateway = start(&folder);
    let mut terminal = attach(&folder);
    terminal.until_shown("LIVE");
    stop(&folder);
    terminal.until("stopped, then lost", |screen| {
        screen.contents().contains("STOPPED") && screen.contents().contains("LOST")
    });
    drop(gateway);
    terminal.press("q");
    assert_eq!(terminal.exit_code(), 0);
    terminal.until_shown("lost (");
}

#[test]
fn a_screen_whose_terminal_goes_away_ends() {
    let folder = shop();
    let gateway = start(&folder);
    let mut terminal = attach(&folder);
    terminal.until_shown("LIVE");
    terminal.hang_up();
    assert_eq!(terminal.exit_code(), 1);
    assert_eq!(gateway.status()["phase"], "running");
}

#[test]
fn attaching_without_a_terminal_or_a_gateway_says_so() {
    let folder = shop();
    let reported = |args: &[&str]| {
        let output = folder.command(args).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(reported(&["attach"]).contains("no gateway runs here"));
    assert!(reported(&["attach", "--admin", "run/none.sock"]).contains("no gateway answers there"));
    let _gateway = start(&folder);
    assert!(reported(&["attach", "--admin", SOCKET]).contains("standard input is not a terminal"));
    assert!(reported(&["replay", "shop.yaml"]).contains("line 1: not a recording"));
    assert!(reported(&["replay", "missing"]).contains("missing: "));
    let fifo = rustix::fs::FileType::Fifo;
    mknodat(rustix::fs::CWD, folder.path("pipe"), fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    assert!(reported(&["replay", "pipe"]).contains("pipe: it is a pipe"));
}

#[test]
fn a_recording_is_replayed() {
    let folder = shop();
    let args = ["--no-ui", "--profile", "shop.yaml", "--record", "kept.jsonl"];
    let gateway = folder.start_as("shop", &[], &args);
    let client = client(&gateway);
    let address = client.local_addr().unwrap().to_string();
    let kept = || std::fs::read_to_string(folder.path("kept.jsonl")).unwrap();
    crate::until("the session is recorded", SOON, || kept().contains(&address).then_some(()));
    drop(client);
    stop(&folder);
    drop(gateway);
    assert!(kept().lines().last().unwrap().contains(r#""phase":"stopped""#), "{}", kept());
    let mut terminal = Terminal::open(&folder, &["replay", "kept.jsonl"]);
    terminal.until_shown("orders");
    terminal.press("]]]]]");
    terminal.until_shown("END");
    terminal.until_shown("STOPPED");
    terminal.press(",");
    terminal.until_shown("PAUSED");
    terminal.press("<");
    terminal.until("the first picture", |screen| !screen.contents().contains("STOPPED"));
    // The cursor of the history moves all screens.
    terminal.press("H");
    terminal.until_shown("ends ");
    terminal.press("llll");
    terminal.until_shown("STOPPED");
    terminal.press("h3");
    terminal.until("the sessions of then", |screen| {
        screen.contents().contains("[3 Sess") && !screen.contents().contains("STOPPED")
    });
    terminal.press("q");
    assert_eq!(terminal.exit_code(), 0);
    terminal.until_left();
}

/// The screen asks for the history and reads the machine by itself.
#[test]
fn the_doctor_and_the_history_of_an_attached_gateway_are_on_the_screen() {
    let folder = shop();
    kept_hour::write(&folder, "shop");
    let _gateway = start(&folder);
    let mut terminal = attach(&folder);
    terminal.until_shown("LIVE");
    terminal.press("0");
    terminal.until("the last hour and the machine", |screen| {
        let shown = screen.contents();
        shown.contains("[links-were-away]") && !shown.contains("kernel limits not known here")
    });
    terminal.press("H");
    terminal.until("charts", |screen| {
        let shown = screen.contents();
        shown.contains("now ") && shown.contains(" open")
    });
}
