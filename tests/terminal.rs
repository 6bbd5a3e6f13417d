//! The program in a pseudo-terminal: the dashboard opens, answers keys, gives the terminal back,
//! and leaves the gateway running when the terminal goes away.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{Read, Write},
    num::NonZeroU16,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(20);
const PROFILE: &str = "mode: direct\ndmz:\n  services:\n    orders: { accept: [\"tcp://127.0.0.1:0\"], connect: \"echo://\" }\n";

/// A gateway in a terminal of 100 by 30, and what is on it.
struct Terminal {
    folder: TempDir,
    child: Box<dyn Child + Send + Sync>,
    master: Option<Box<dyn MasterPty + Send>>,
    keys: Option<Box<dyn Write + Send>>,
    screen: Arc<Mutex<vt100::Parser>>,
    hung_up: Arc<AtomicBool>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Terminal {
    fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("shop.yaml"), PROFILE).unwrap();
        let pair =
            native_pty_system().openpty(PtySize { rows: 30, cols: 100, ..PtySize::default() }).unwrap();
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(["--profile", "shop.yaml"]);
        command.cwd(folder.path());
        for (name, value) in [("TERM", "xterm-256color"), ("LANG", "C.UTF-8"), ("LC_ALL", "C.UTF-8")] {
            command.env(name, value);
        }
        command.env("XDG_RUNTIME_DIR", folder.path());
        let child = pair.slave.spawn_command(command).unwrap();
        drop(pair.slave);
        let (rows, columns) = (NonZeroU16::new(30).unwrap(), NonZeroU16::new(100).unwrap());
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let mut reader = pair.master.try_clone_reader().unwrap();
        let (drawn, hung_up) = (screen.clone(), Arc::new(AtomicBool::new(false)));
        let hangs_up = hung_up.clone();
        let reader = thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut chunk)
                && !hangs_up.load(Ordering::Relaxed)
            {
                drawn.lock().unwrap().process(&chunk[..count]);
            }
        });
        let keys = pair.master.take_writer().unwrap();
        Self {
            folder,
            child,
            master: Some(pair.master),
            keys: Some(keys),
            screen,
            hung_up,
            reader: Some(reader),
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    #[track_caller]
    fn until(&self, what: &str, wanted: impl Fn(&vt100::Screen) -> bool) {
        let began = Instant::now();
        while !wanted(self.screen.lock().unwrap().screen()) {
            let shown = self.screen.lock().unwrap().screen().contents();
            assert!(began.elapsed() < SOON, "not in time: {what}\n{shown}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    #[track_caller]
    fn until_shown(&self, text: &str) {
        self.until(text, |screen| screen.contents().contains(text));
    }

    #[track_caller]
    fn exit_code(&mut self) -> u32 {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.exit_code();
            }
            assert!(began.elapsed() < SOON, "it does not end");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Closes the terminal for good: its last reader ends with the next frame.
    fn hang_up(&mut self) {
        self.hung_up.store(true, Ordering::Relaxed);
        self.press("?");
        self.reader.take().unwrap().join().unwrap();
        self.keys = None;
        self.master = None;
    }

    fn cpu_ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.process_id().unwrap())).unwrap();
        stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2).flat_map(str::parse::<u64>).sum()
    }

    fn command(&self, args: &[&str]) -> std::process::Output {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(args).env("XDG_RUNTIME_DIR", self.folder.path()).output().unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        let _ = self.child.kill();
    }
}

#[test]
fn the_dashboard_answers_keys_and_gives_the_terminal_back() {
    let mut terminal = Terminal::open();
    terminal
        .until("the dashboard", |screen| screen.alternate_screen() && screen.contents().contains("running"));
    terminal.until_shown("orders");
    terminal.press("?");
    terminal.until_shown("On the panels");
    terminal.press("\u{1b}");
    // Esc and a letter that come together mean Alt and the letter.
    terminal.until("no help", |screen| !screen.contents().contains("On the panels"));
    terminal.press("q");
    assert_eq!(terminal.exit_code(), 0);
    terminal.until("the shell's screen again", |screen| !screen.alternate_screen() && !screen.hide_cursor());
}

#[test]
fn a_signal_gives_the_terminal_back_too() {
    let mut terminal = Terminal::open();
    terminal.until_shown("running");
    let stopped = terminal.command(&["stop"]);
    assert!(stopped.status.success(), "{stopped:?}");
    assert_eq!(terminal.exit_code(), 0);
    terminal.until("the shell's screen again", |screen| !screen.alternate_screen() && !screen.hide_cursor());
}

#[test]
fn a_gateway_that_lost_its_terminal_goes_on_and_burns_nothing() {
    let mut terminal = Terminal::open();
    terminal.until_shown("running");
    terminal.hang_up();
    let input = format!("/proc/{}/fd/0", terminal.child.process_id().unwrap());
    let began = Instant::now();
    while !fs::read_link(&input).unwrap().to_string_lossy().starts_with("pipe:") {
        assert!(began.elapsed() < SOON, "it still reads its lost terminal");
        thread::sleep(Duration::from_millis(20));
    }
    let before = terminal.cpu_ticks();
    // Not to wait for something, but to measure: a spinning thread would take 200 ticks.
    thread::sleep(Duration::from_secs(2));
    let burnt = terminal.cpu_ticks() - before;
    assert!(burnt < 40, "{burnt} ticks in 2 s");
    assert!(terminal.command(&["status"]).status.success());
    assert!(terminal.command(&["stop"]).status.success());
    assert_eq!(terminal.exit_code(), 0);
}
