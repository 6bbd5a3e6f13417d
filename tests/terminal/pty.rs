//! A pseudo-terminal with a program in it, and what is on its screen.

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

use rustix::{
    process::Pid,
    termios::{Action, tcflow},
};

use crate::process::{SOON, TestFolder, until};

/// A program in a terminal of 100 by 30, and what is on it.
pub struct Terminal {
    child: Box<dyn Child + Send + Sync>,
    master: Option<Box<dyn MasterPty + Send>>,
    keys: Option<Box<dyn Write + Send>>,
    screen: Arc<Mutex<vt100::Parser>>,
    hung_up: Arc<AtomicBool>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Terminal {
    /// Runs portcullis with these arguments.
    pub fn open(folder: &TestFolder, args: &[&str]) -> Self {
        Self::run(folder, &[&[env!("CARGO_BIN_EXE_portcullis")], args].concat())
    }

    /// Runs any command line.
    pub fn run(folder: &TestFolder, line: &[&str]) -> Self {
        let pair =
            native_pty_system().openpty(PtySize { rows: 30, cols: 100, ..PtySize::default() }).unwrap();
        let mut command = CommandBuilder::new(line[0]);
        command.args(&line[1..]);
        command.cwd(folder.path("."));
        for (name, value) in [("TERM", "xterm-256color"), ("LANG", "C.UTF-8"), ("LC_ALL", "C.UTF-8")] {
            command.env(name, value);
        }
        command.env("XDG_RUNTIME_DIR", folder.path("run"));
        command.env("STATE_DIRECTORY", folder.path("state"));
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
        Self { child, master: Some(pair.master), keys: Some(keys), screen, hung_up, reader: Some(reader) }
    }

    pub fn press(&mut self, keys: &str) {
        self.keys.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    /// Quits a dashboard that stops its gateway, and says yes.
    pub fn quit(&mut self) {
        self.press("q");
        self.until_shown("Quit");
        self.press("y");
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        let [height, width] = [rows, columns].map(|cells| NonZeroU16::new(cells).unwrap());
        self.screen.lock().unwrap().screen_mut().set_size(height, width);
        let size = PtySize { rows, cols: columns, ..PtySize::default() };
        self.master.as_ref().unwrap().resize(size).unwrap();
    }

    /// Holds what is written to it from now on, as Ctrl-S does, or lets it go on.
    pub fn control_output(&self, action: Action) {
        let tty = self.master.as_ref().unwrap().tty_name().unwrap();
        tcflow(fs::File::open(tty).unwrap(), action).unwrap();
    }

    /// The program that a shell in the terminal has started.
    pub fn child_of_shell(&self) -> Pid {
        let file = format!("/proc/{0}/task/{0}/children", self.process());
        let children = until("the shell has started it", SOON, || {
            fs::read_to_string(&file).ok().filter(|children| !children.is_empty())
        });
        Pid::from_raw(children.trim().parse().unwrap()).unwrap()
    }

    #[track_caller]
    pub fn until(&self, what: &str, wanted: impl Fn(&vt100::Screen) -> bool) {
        let began = Instant::now();
        while !wanted(self.screen.lock().unwrap().screen()) {
            let shown = self.screen.lock().unwrap().screen().contents();
            assert!(began.elapsed() < SOON, "not in time: {what}\n{shown}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    #[track_caller]
    pub fn until_shown(&self, text: &str) {
        self.until(text, |screen| screen.contents().contains(text));
    }

    #[track_caller]
    pub fn exit_code(&mut self) -> u32 {
        until("it ends", SOON, || self.child.try_wait().unwrap()).exit_code()
    }

    /// Waits until the shell's screen is there again, with its cursor.
    #[track_caller]
    pub fn until_left(&self) {
        self.until("the shell's screen again", |screen| !screen.alternate_screen() && !screen.hide_cursor());
    }

    /// Closes the terminal for good: its last reader ends with the next frame.
    pub fn hang_up(&mut self) {
        self.hung_up.store(true, Ordering::Relaxed);
        self.press("?");
        self.reader.take().unwrap().join().unwrap();
        self.keys = None;
        self.master = None;
    }

    pub fn cpu_ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process())).unwrap();
        stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2).flat_map(str::parse::<u64>).sum()
    }

    pub fn process(&self) -> u32 {
        self.child.process_id().unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        let _ = self.child.kill();
    }
}
