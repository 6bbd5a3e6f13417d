//! The real program in a folder of its own: profiles, certificates, processes, status and log.

use std::{
    fs::{self, File},
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
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

/// A port of loopback that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// A client whose reads fail rather than hang.
pub fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).expect("the port is open");
    stream.set_read_timeout(Some(SOON)).expect("a timeout is set");
    stream
}

/// Whether an I/O result is a reset: neither bytes, nor a clean end, nor silence.
pub fn is_reset<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::ConnectionReset)
}

/// A folder with profiles, certificates and a runtime folder.
pub struct Place(TempDir);

impl Place {
    /// With certificates in `pki`, as `portcullis certs` makes them.
    pub fn with_certificates() -> Self {
        let place = Self(tempfile::tempdir().expect("a folder"));
        fs::create_dir(place.path("run")).expect("a runtime folder");
        let made = place.command(&["certs", "--out", "pki"]).output().expect("the program runs");
        assert!(made.status.success(), "{made:?}");
        place
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

    /// The same behind another program's command line, such as `prlimit …`.
    pub fn wrapped(&self, wrapper: &[&str], args: &[&str]) -> Command {
        let line = [wrapper, &[env!("CARGO_BIN_EXE_portcullis")], args].concat();
        let mut command = Command::new(line[0]);
        command.args(&line[1..]).current_dir(self.0.path()).stdin(Stdio::null());
        command.env("XDG_RUNTIME_DIR", self.path("run")).env("HOME", self.0.path());
        command.env_remove("XDG_CONFIG_HOME").env_remove("PORTCULLIS_LOG");
        command
    }

    /// Runs the gateway of the profile `NAME.yaml` and waits until it answers.
    pub fn start(&self, name: &str) -> Gateway<'_> {
        let profile = format!("{name}.yaml");
        self.start_as(name, &[], &["--no-ui", "--profile", &profile])
    }

    /// The same with a command line of one's own; the admin socket is `run/NAME.sock`.
    pub fn start_as(&self, name: &str, wrapper: &[&str], args: &[&str]) -> Gateway<'_> {
        let socket = self.path(&format!("run/{name}.sock"));
        let log = self.path(&format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).expect("a log file");
        let mut command = self.wrapped(wrapper, args);
        command.arg("--admin").arg(&socket).stdout(Stdio::null()).stderr(file);
        let child = command.spawn().expect("the program starts");
        let mut gateway = Gateway { place: self, child, socket, log };
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
    place: &'a Place,
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Gateway<'_> {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the log is readable")
    }

    /// What `status --json` prints, if the gateway answers.
    pub fn try_status(&self) -> Option<Value> {
        let mut command = self.place.command(&["status", "--json", "--admin"]);
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

    /// The port that clients of a service of the DMZ half connect to.
    pub fn accept(&self, service: &str) -> SocketAddr {
        let status = self.status();
        let services = status["services"].as_array().expect("a list of services");
        let row = services.iter().find(|row| row["role"] == "dmz" && row["name"] == service);
        let row = row.expect("the service is there");
        address(&row["accept"][0])
    }

    /// The port that links come in by.
    pub fn link_port(&self) -> u16 {
        address(&self.status()["listening"][0]).port()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process has an id");
        kill_process(pid, signal).expect("the signal is sent");
    }

    /// Waits until the process has ended.
    #[track_caller]
    pub fn ended(mut self) -> ExitStatus {
        until("the gateway ends", SOON, || self.child.try_wait().expect("the child is ours"))
    }
}

impl Drop for Gateway<'_> {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address(row: &Value) -> SocketAddr {
    let text = row.as_str().expect("an address");
    text.rsplit('/').next().expect("one part at least").parse().expect("host and port")
}

/// Two halves as processes of their own.
pub struct Pair<'a> {
    pub dmz: Gateway<'a>,
    pub internal: Gateway<'a>,
}

impl<'a> Pair<'a> {
    /// A reverse pair over mutual TLS, with a service for each name and back-end.
    pub fn reverse(place: &'a Place, services: &[(&str, &str)]) -> Self {
        let names: Vec<&str> = services.iter().map(|(name, _)| *name).collect();
        place.write("dmz.yaml", &dmz_half("127.0.0.1:0", &names));
        let dmz = place.start("dmz");
        let link = format!("127.0.0.1:{}", dmz.link_port());
        place.write("internal.yaml", &internal_half(&link, services));
        let internal = place.start("internal");
        dmz.wait_healthy();
        internal.wait_healthy();
        Self { dmz, internal }
    }
}

/// A DMZ half in reverse mode: `link` is where it listens.
pub fn dmz_half(link: &str, services: &[&str]) -> String {
    let tls = "{ certificate: pki/dmz.pem, key: pki/dmz.key, ca: pki/ca.pem, peers: [internal] }";
    let services: String =
        services.iter().map(|name| format!("    {name}: {{ accept: [\"tcp://127.0.0.1:0\"] }}\n")).collect();
    format!(
        "mode: reverse\ndmz:\n  link: {{ listen: \"socks+tls://{link}\", prepared: 2, tls: {tls} }}\n  \
         services:\n{services}"
    )
}

/// An internal half in reverse mode: `link` is where it dials.
pub fn internal_half(link: &str, services: &[(&str, &str)]) -> String {
    let tls = "{ certificate: pki/internal.pem, key: pki/internal.key, ca: pki/ca.pem, peers: [dmz] }";
    let services: String = services
        .iter()
        .map(|(name, backend)| format!("    {name}: {{ connect: \"{backend}\" }}\n"))
        .collect();
    format!(
        "mode: reverse\ninternal:\n  link: {{ connect: \"socks+tls://{link}\", prepared: 2, tls: {tls}, \
         retry: {{ first: 100ms, maximum: 300ms }} }}\n  services:\n{services}"
    )
}
