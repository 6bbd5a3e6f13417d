//! The program in a pseudo-terminal: the dashboard opens, answers keys, gives the terminal back,
//! and leaves the gateway running when the terminal goes away.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "terminal/attach.rs"]
mod attach;
mod process;
#[path = "terminal/pty.rs"]
mod pty;

use std::{fs, thread, time::Duration};

use process::{Place, SOON, until};
use pty::Terminal;

const PROFILE: &str = "mode: direct\ndmz:\n  services:\n    orders: { accept: [\"tcp://127.0.0.1:0\"], connect: \"echo://\" }\n";

/// A folder with a profile `shop.yaml`.
fn shop() -> Place {
    let place = Place::with_certificates();
    place.write("shop.yaml", PROFILE);
    place
}

fn open(place: &Place) -> Terminal {
    Terminal::open(place, &["--profile", "shop.yaml"])
}

#[test]
fn the_dashboard_answers_keys_and_gives_the_terminal_back() {
    let place = shop();
    let mut terminal = open(&place);
    terminal
        .until("the dashboard", |screen| screen.alternate_screen() && screen.contents().contains("running"));
    terminal.until_shown("orders");
    terminal.press("?");
    terminal.until_shown("On this screen");
    terminal.press("\u{1b}");
    // Esc and a letter that come together mean Alt and the letter.
    terminal.until("no help", |screen| !screen.contents().contains("On this screen"));
    terminal.press("q");
    assert_eq!(terminal.exit_code(), 0);
    terminal.until_left();
}

#[test]
fn the_mouse_stays_the_terminals_until_it_is_asked_for() {
    use vt100::MouseProtocolMode::{None, PressRelease};
    let place = shop();
    let mut terminal = open(&place);
    terminal.until("no mouse", |screen| {
        screen.contents().contains("running") && screen.mouse_protocol_mode() == None
    });
    terminal.press("m");
    terminal.until("the mouse", |screen| screen.mouse_protocol_mode() == PressRelease);
    // A click on the fourth screen, as a terminal tells it; columns and lines count from 1.
    terminal.press("\u{1b}[<0;36;2M");
    terminal.until_shown("[4 Services]");
    terminal.press("q");
    assert_eq!(terminal.exit_code(), 0);
    terminal.until("the mouse is given back", |screen| screen.mouse_protocol_mode() == None);
}

#[test]
fn a_signal_gives_the_terminal_back_too() {
    let place = shop();
    let mut terminal = open(&place);
    terminal.until_shown("running");
    let stopped = place.command(&["stop"]).output().unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
    assert_eq!(terminal.exit_code(), 0);
    terminal.until_left();
}

#[test]
fn a_gateway_that_lost_its_terminal_goes_on_and_burns_nothing() {
    let place = shop();
    let mut terminal = open(&place);
    terminal.until_shown("running");
    terminal.hang_up();
    let input = format!("/proc/{}/fd/0", terminal.process());
    until("it lets go of its lost terminal", SOON, || {
        fs::read_link(&input).unwrap().to_string_lossy().starts_with("pipe:").then_some(())
    });
    let before = terminal.cpu_ticks();
    // Not to wait for something, but to measure: a spinning thread would take 200 ticks.
    thread::sleep(Duration::from_secs(2));
    let burnt = terminal.cpu_ticks() - before;
    assert!(burnt < 40, "{burnt} ticks in 2 s");
    assert!(place.command(&["status"]).output().unwrap().status.success());
    assert!(place.command(&["stop"]).output().unwrap().status.success());
    assert_eq!(terminal.exit_code(), 0);
}
