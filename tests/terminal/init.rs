//! The questions of `init`, as somebody at a terminal is asked them.

use std::fs;

use crate::{process::TestFolder, pty::Terminal};

#[test]
fn a_half_is_written_from_answers() {
    let folder = TestFolder::with_certificates();
    let mut terminal = Terminal::open(&folder, &["init", "dmz", "--out", "first"]);
    terminal.until_shown("Name of the service [web]:");
    terminal.press("shop\r");
    terminal.until_shown("Where clients come in [tcp://0.0.0.0:8000]:");
    // An invalid answer gets its reason, and the question again.
    terminal.press("nonsense://x\r");
    terminal.until("the question again", |screen| {
        screen.contents().matches("Where clients come in").count() == 2 && screen.contents().contains("; ")
    });
    terminal.press("8100\r");
    terminal.until_shown("The backend, as the internal gateway reaches it [tcp://127.0.0.1:8080]:");
    terminal.press("\r");
    terminal.until_shown("Host of the DMZ gateway, as the internal gateway reaches it:");
    terminal.press("\r");
    terminal.until_shown("this one has no default");
    terminal.press("gate.example.com\r");
    terminal.until_shown("Port of the link [1443]:");
    assert!(!folder.path("first").exists(), "it writes before it has all answers");
    terminal.press("\r");
    terminal.until_shown("next:");
    assert_eq!(terminal.exit_code(), 0);
    let dmz = fs::read_to_string(folder.path("first/dmz.yaml")).unwrap();
    assert!(dmz.contains("    shop:\n      accept: [\"tcp://0.0.0.0:8100\"]\n"), "{dmz}");
    let internal = fs::read_to_string(folder.path("first/internal-host/internal.yaml")).unwrap();
    assert!(internal.contains("    shop:\n      connect: \"tcp://127.0.0.1:8080\"\n"), "{internal}");
}

#[test]
fn what_options_give_is_not_asked() {
    let folder = TestFolder::with_certificates();
    let mut terminal =
        Terminal::open(&folder, &["init", "pair", "--out", "all", "--service", "shop", "--accept", "8100"]);
    terminal.until_shown("The backend");
    let shown = |screen: &vt100::Screen, text: &str| screen.contents().contains(text);
    terminal
        .until("no other question", |screen| !shown(screen, "Name of") && !shown(screen, "Where clients"));
    terminal.press("\r");
    terminal.until_shown("Port of the link");
    terminal.press("\r");
    terminal.until_shown("next:");
    assert_eq!(terminal.exit_code(), 0);
    let mut terminal = Terminal::open(&folder, &["init", "pair", "--out", "none", "--defaults"]);
    terminal.until_shown("next:");
    assert_eq!(terminal.exit_code(), 0);
}

#[test]
fn an_end_of_input_writes_nothing() {
    let folder = TestFolder::with_certificates();
    let mut terminal = Terminal::open(&folder, &["init", "pair", "--out", "first"]);
    terminal.until_shown("Name of the service [web]:");
    terminal.press("\u{4}");
    terminal.until_shown("the input ended before every question was answered; nothing was written");
    assert_eq!(terminal.exit_code(), 1);
    assert!(!folder.path("first").exists());
}
