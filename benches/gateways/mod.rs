//! Both halves as processes of their own, joined by links over mutual TLS on loopback, for the benches.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const READY_WITHIN: Duration = Duration::from_secs(20);

/// What pairs differ by.
#[derive(Clone, Copy)]
pub struct PairPlan {
    /// The first leads to the backend.
    pub services: usize,
    /// Where links come in.
    pub listen: &'static str,
    pub confine: &'static str,
    /// More keys of each service of the DMZ half.
    pub limits: &'static str,
}

pub const USUAL: PairPlan =
    PairPlan { services: 2, listen: "socks+tls://127.0.0.1:0", confine: "on", limits: ", sessions: 20000" };

/// Two gateways, each a process of its own.
pub struct Pair {
    /// Where clients of each service come in: the first leads to the backend, all others answer by themselves.
    pub accepts: Vec<SocketAddr>,
    halves: Vec<Child>,
    _folder: tempfile::TempDir,
}

impl Pair {
    pub fn start_with(backend: SocketAddr, PairPlan { services, listen, confine, limits }: PairPlan) -> Self {
        let of = |at: usize| match at {
            0 => format!("tcp://{backend}"),
            _ => "echo://".into(),
        };
        let accepts: String = (0..services)
            .map(|at| format!("    s{at:02}: {{ accept: [\"tcp://127.0.0.1:0\"]{limits} }}\n"))
            .collect();
        let connects: String =
            (0..services).map(|at| format!("    s{at:02}: {{ connect: \"{}\" }}\n", of(at))).collect();
        let folder = tempfile::tempdir().unwrap();
        portcullis::certs::write(
            folder.path(),
            &["dmz", "internal"].map(|half| portcullis::certs::HalfNames { half, names: &[] }),
        )
        .unwrap();
        let tls = |half: &str, peer: &str| {
            format!("tls: {{ certificate: {half}.pem, key: {half}.key, ca: ca.pem, peers: [{peer}] }}")
        };
        let dmz = format!(
            "mode: reverse\nconfine: {confine}\ndmz:\n  link:\n    listen: {listen}\n    {}\n    prepared: 64\n    wait: 10s\n  services:\n{accepts}",
            tls("dmz", "internal")
        );
        let mut halves = vec![start_half(folder.path(), "dmz", &dmz)];
        let status = wait_for(folder.path(), "dmz", |status| status["phase"] == "running");
        let link = status["listening"][0].as_str().unwrap().to_owned();
        let accept = |at: usize| -> SocketAddr {
            let text = status["services"][at]["accept"][0].as_str().unwrap();
            text.trim_start_matches("tcp://").parse().unwrap()
        };
        let internal = format!(
            "mode: reverse\nconfine: {confine}\ninternal:\n  link:\n    connect: {link}\n    {}\n    prepared: 64\n    maximum: 20000\n  services:\n{connects}",
            tls("internal", "dmz")
        );
        halves.push(start_half(folder.path(), "internal", &internal));
        wait_for(folder.path(), "internal", |status| status["pools"][0]["state"] == "healthy");
        Self { accepts: (0..services).map(accept).collect(), halves, _folder: folder }
    }

    pub fn cpu_seconds(&self) -> f64 {
        let ticks = |child: &Child| {
            let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
            let fields: Vec<u64> = stat
                .rsplit(')')
                .next()
                .unwrap()
                .split_whitespace()
                .skip(11)
                .take(2)
                .flat_map(str::parse)
                .collect();
            fields.iter().sum::<u64>()
        };
        self.halves.iter().map(ticks).sum::<u64>() as f64 / 100.0
    }

    pub fn resident_kib(&self) -> f64 {
        let resident = |child: &Child| {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
            let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap()
        };
        self.halves.iter().map(resident).sum()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for half in &mut self.halves {
            // Gone already is as good.
            let _ = half.kill();
            let _ = half.wait();
        }
    }
}

fn start_half(folder: &Path, half: &str, profile: &str) -> Child {
    let file = folder.join(format!("{half}.yaml"));
    fs::write(&file, profile).unwrap();
    let admin = folder.join(format!("{half}.sock"));
    let log = fs::File::create(folder.join(format!("{half}.log"))).unwrap();
    Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .arg("--no-ui")
        .args([Path::new("--profile"), &file, Path::new("--admin"), &admin])
        .env("STATE_DIRECTORY", folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn wait_for(folder: &Path, half: &str, ready: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
    let began = Instant::now();
    loop {
        let answered = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["status", "--json", "--admin"])
            .arg(folder.join(format!("{half}.sock")))
            .output()
            .unwrap();
        let status: serde_json::Value = serde_json::from_slice(&answered.stdout).unwrap_or_default();
        if ready(&status) {
            return status;
        }
        assert!(began.elapsed() < READY_WITHIN, "the {half} half is not ready: {status}");
        thread::sleep(Duration::from_millis(50));
    }
}
