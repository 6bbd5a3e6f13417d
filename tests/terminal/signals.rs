//! Signals and Ctrl-Z, for every kind of screen: the terminal is sane afterwards, and so is a screen that goes on.

use rustix::{
    process::{Pid, Signal, kill_process},
    termios::Action,
};

use crate::{
    attach::{SOCKET, start, stop},
    process::{Gateway, SOON, TestFolder, until},
    pty::Terminal,
    shop, status,
};

/// Which program has the terminal.
#[derive(Debug, Clone, Copy, PartialEq)]
enum ScreenKind {
    OfGateway,
    Attached,
    Replay,
}

use ScreenKind::{Attached, OfGateway, Replay};

impl ScreenKind {
    const ALL: [Self; 3] = [OfGateway, Attached, Replay];

    /// Starts what it looks at.
    fn prepare(self, folder: &TestFolder) -> Option<Gateway<'_>> {
        match self {
            OfGateway => None,
            Attached => Some(start(folder)),
            Replay => {
                let args = ["--no-ui", "--profile", "shop.yaml", "--record", "kept.jsonl"];
                let gateway = folder.start_as("shop", &[], &args);
                until("there is a recording", SOON, || {
                    std::fs::read_to_string(folder.path("kept.jsonl")).ok().filter(|kept| kept.contains('\n'))
                });
                stop(folder);
                drop(gateway);
                None
            }
        }
    }

    fn args(self) -> &'static [&'static str] {
        match self {
            OfGateway => &["--profile", "shop.yaml"],
            Attached => &["attach", "--admin", SOCKET],
            Replay => &["replay", "kept.jsonl"],
        }
    }

    /// In a shell that then runs the rest of a script.
    fn in_shell(self, folder: &TestFolder, before: &str, after: &str) -> Terminal {
        let program = env!("CARGO_BIN_EXE_portcullis");
        let script =
            format!("{before}{program} {}; {after}; echo ended with $?; read go", self.args().join(" "));
        Terminal::run(folder, &["bash", "--norc", "-c", &script])
    }

    fn leave(self, terminal: &mut Terminal) {
        match self {
            OfGateway => terminal.quit(),
            Attached | Replay => terminal.press("q"),
        }
    }
}

fn until_drawn(terminal: &Terminal) {
    terminal.until("the screen", |screen| {
        screen.alternate_screen() && screen.hide_cursor() && screen.contents().contains("orders")
    });
}

/// Not in its alternate screen, with a cursor.
fn is_restored(screen: &vt100::Screen) -> bool {
    !screen.alternate_screen() && !screen.hide_cursor() && !screen.bracketed_paste()
}

#[test]
fn signals_from_outside_leave_a_sane_terminal() {
    let of_gateway = [(Signal::HUP, None), (Signal::QUIT, Some(131)), (Signal::TERM, Some(0))];
    let of_others = [(Signal::HUP, Some(1)), (Signal::QUIT, Some(131)), (Signal::TERM, Some(0))];
    for kind in ScreenKind::ALL {
        for (signal, code) in if kind == OfGateway { of_gateway } else { of_others } {
            let folder = shop();
            let _looked_at = kind.prepare(&folder);
            let terminal = kind.in_shell(&folder, "", "(exit $?)");
            until_drawn(&terminal);
            kill_process(terminal.child_of_shell(), signal).unwrap();
            terminal.until(&format!("a sane terminal after {signal:?}: {kind:?}"), is_restored);
            if code.is_none() {
                assert_eq!(status(&folder)["phase"], "running", "it goes on headless");
                assert!(folder.command(&["stop"]).output().unwrap().status.success());
            }
            terminal.until_shown(&format!("ended with {}", code.unwrap_or(0)));
        }
    }
}

#[test]
fn a_stop_gives_the_shell_a_sane_terminal_and_the_screen_comes_back() {
    for kind in ScreenKind::ALL {
        let folder = shop();
        let _looked_at = kind.prepare(&folder);
        let mut terminal = kind.in_shell(&folder, "set -m; ", "stty -a; echo stopped; read go; fg");
        until_drawn(&terminal);
        let process = terminal.child_of_shell();
        kill_process(process, Signal::USR1).unwrap();
        match kind {
            OfGateway => kill_process(process, Signal::TSTP).unwrap(),
            Attached | Replay => terminal.press("\u{1a}"),
        }
        terminal.until(&format!("the shell, sane: {kind:?}"), |screen| {
            let shown = screen.contents();
            is_restored(screen) && shown.contains(" icanon") && shown.contains("stopped")
        });
        terminal.press("\n");
        until_drawn(&terminal);
        kind.leave(&mut terminal);
        terminal.until_shown("ended with 0");
    }
}

/// The terminal's only program has no shell that could continue it.
#[test]
fn a_screen_that_no_shell_could_continue_is_not_stopped() {
    for kind in ScreenKind::ALL {
        let folder = shop();
        let _looked_at = kind.prepare(&folder);
        let mut terminal = Terminal::open(&folder, kind.args());
        until_drawn(&terminal);
        let process = Pid::from_raw(terminal.process() as i32).unwrap();
        kill_process(process, Signal::TSTP).unwrap();
        if kind != OfGateway {
            terminal.press("\u{1a}");
        }
        terminal.press("?");
        terminal.until_shown("On this screen");
        terminal.press("\u{1b}");
        terminal.until("no help", |screen| !screen.contents().contains("On this screen"));
        kind.leave(&mut terminal);
        assert_eq!(terminal.exit_code(), 0, "{kind:?}");
        terminal.until_left();
    }
}

/// Whoever stopped and continued it from outside had the terminal meanwhile, and holds its output.
#[test]
fn a_terminal_that_is_held_holds_up_no_signal() {
    for ends_held in [false, true] {
        let folder = shop();
        let profile = std::fs::read_to_string(folder.path("shop.yaml")).unwrap();
        folder.write("shop.yaml", &format!("log: gate.json\n{profile}"));
        let mut terminal = Terminal::open(&folder, OfGateway.args());
        until_drawn(&terminal);
        let process = Pid::from_raw(terminal.process() as i32).unwrap();
        terminal.control_output(Action::OOff);
        for signal in [Signal::STOP, Signal::CONT] {
            kill_process(process, signal).unwrap();
        }
        for number in 0..3 {
            std::fs::rename(folder.path("gate.json"), folder.path(&format!("gate.{number}"))).unwrap();
            kill_process(process, Signal::USR1).unwrap();
            until("there is a new log", SOON, || folder.path("gate.json").exists().then_some(()));
            kill_process(process, Signal::CONT).unwrap();
        }
        assert_eq!(status(&folder)["phase"], "running");
        match ends_held {
            false => {
                terminal.control_output(Action::OOn);
                until_drawn(&terminal);
                terminal.quit();
            }
            true => kill_process(process, Signal::TERM).unwrap(),
        }
        assert_eq!(terminal.exit_code(), 0, "held at its end: {ends_held}");
    }
}
