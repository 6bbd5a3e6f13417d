//! The real program in a folder of its own: profiles, certificates, processes, status and log.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// A condition that should come true has come true by then, on a slow machine too.
pub const SOON: Duration = Duration::from_secs(20);

/// Waits until `condition` yields something; fails after `within`.
#[track_caller]
pub fn until<T>(what: &str, within: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(start.elapsed() < within, "not within {within:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A folder with profiles, certificates and a runtime folder.
pub struct TestFolder(TempDir);

impl TestFolder {
    /// With certificates in `pki`, as `portcullis certs` makes them.
    pub fn with_certificates() -> Self {
        let folder = Self(tempfile::tempdir().expect("a folder"));
        fs::create_dir(folder.path("run")).expect("a runtime folder");
        let made = folder.command(&["certs", "--out", "pki"]).output().expect("the program runs");
        assert!(made.status.success(), "{made:?}");
        folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("the file is written");
    }

    /// The program with these arguments, in this folder, without a terminal.
    pub fn command(&self, args: &[&str]) -> Command {
        self.wrapped(&[], args)
    }

    /// The command behind another program's command line, such as `prlimit …`. `PORTCULLIS_PROGRAM` names another build
    /// to be measured.
    pub fn wrapped(&self, wrapper: &[&str], args: &[&str]) -> Command {
        let program = std::env::var("PORTCULLIS_PROGRAM");
        let program = program.as_deref().unwrap_or(env!("CARGO_BIN_EXE_portcullis"));
        self.command_line(&[wrapper, &[program], args].concat())
    }

    /// Any command line, with the surroundings that the program has here.
    pub fn command_line(&self, line: &[&str]) -> Command {
        let mut command = Command::new(line[0]);
        command.args(&line[1..]).current_dir(self.0.path()).stdin(Stdio::null());
        command.env("XDG_RUNTIME_DIR", self.path("run")).env("HOME", self.0.path());
        command.env("STATE_DIRECTORY", self.path("state"));
        command.env_remove("XDG_CONFIG_HOME").env_remove("PORTCULLIS_LOG");
        command
    }

    /// Starts a gateway and waits until it answers; its admin socket is `run/NAME.sock`.
    pub fn start_as(&self, name: &str, wrapper: &[&str], args: &[&str]) -> Gateway<'_> {
        let log = self.path(&format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).expect("a log file");
        self.start_logging(name, self.wrapped(wrapper, args), file.into())
    }

    /// Starts a command that logs elsewhere than in `NAME.log`.
    pub fn start_logging(&self, name: &str, mut command: Command, to: Stdio) -> Gateway<'_> {
        command.stdout(Stdio::null()).stderr(to);
        self.start_command(name, command)
    }

    /// Starts a command whose streams are its caller's business.
    pub fn start_command(&self, name: &str, mut command: Command) -> Gateway<'_> {
        let socket = self.path(&format!("run/{name}.sock"));
        let log = self.path(&format!("{name}.log"));
        command.arg("--admin").arg(&socket);
        let child = command.spawn().expect("the program starts");
        let mut gateway = Gateway { folder: self, child, socket, log };
        until("the gateway answers", SOON, || {
            if let Ok(Some(status)) = gateway.child.try_wait() {
                panic!("{name} ended: {status}\n{}", gateway.log());
            }
            gateway.try_status()
        });
        gateway
    }
}

/// A running gateway; dropping it kills it.
pub struct Gateway<'a> {
    folder: &'a TestFolder,
    pub child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Gateway<'_> {
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the log is readable")
    }

    /// What `status --json` prints, if the gateway answers.
    pub fn try_status(&self) -> Option<Value> {
        let mut command = self.folder.command(&["status", "--json", "--admin"]);
        let output = command.arg(&self.socket).output().expect("the program runs");
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("status is JSON"))
    }

    pub fn status(&self) -> Value {
        self.try_status().unwrap_or_else(|| panic!("no status\n{}", self.log()))
    }

    /// Waits until the status is as wanted.
    #[track_caller]
    pub fn wait(&self, what: &str, within: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let start = Instant::now();
        while start.elapsed() < within {
            last = self.try_status().unwrap_or_default();
            if wanted(&last) {
                return last;
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("not within {within:?}: {what}\n{last:#}\n{}", self.log());
    }

    /// Waits until every pool is healthy.
    #[track_caller]
    pub fn wait_healthy(&self) -> Value {
        self.wait("pools are healthy", SOON, |status| {
            let pools = status["pools"].as_array();
            pools.is_some_and(|pools| pools.iter().all(|pool| pool["state"] == "healthy"))
        })
    }
}

impl Drop for Gateway<'_> {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
