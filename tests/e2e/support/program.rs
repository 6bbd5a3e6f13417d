//! A gateway as a process of its own, whose memory, descriptors and files can be measured.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command as Process, Stdio},
    sync::Arc,
    time::Duration,
};

use portcullis::{
    admin::client::{self, ClientError},
    gateway::handle::{Command, CommandAnswer},
    telemetry::snapshot::Snapshot,
};
use tokio::time::{interval, timeout};

use super::gateway::{PATIENCE, TestFolder};

/// A process takes longer to start, and a busy machine longer to see something.
const LONG: Duration = Duration::from_secs(30);

/// A gateway's process; dropping it kills it.
pub struct Program {
    child: Child,
    folder: TestFolder,
    name: String,
}

impl Program {
    /// Runs the profile `NAME.yaml` of this text, with this many descriptors, until it answers.
    pub async fn start(folder: &TestFolder, name: &str, text: &str, descriptors: usize) -> Self {
        let profile = folder.profile(name, text);
        let log = File::create(folder.path(&format!("{name}.err"))).unwrap();
        let child = Process::new("prlimit")
            .arg(format!("--nofile={descriptors}"))
            .arg(env!("CARGO_BIN_EXE_portcullis"))
            .args(["--no-ui", "--profile"])
            .arg(profile)
            .arg("--admin")
            .arg(folder.path(&format!("{name}.sock")))
            .env("STATE_DIRECTORY", folder.path("state"))
            .env_remove("PORTCULLIS_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let program = Self { child, folder: folder.clone(), name: name.to_owned() };
        program.until("it answers", |_| true).await;
        program
    }

    /// Stops it in order.
    pub async fn stop(mut self) {
        self.answer(Command::Stop).await.expect("an answer");
        // The answer comes a moment before the end.
        assert!(self.child.wait().unwrap().success(), "{}", self.log());
    }

    pub async fn answer(&self, command: Command) -> Result<CommandAnswer, ClientError> {
        client::send_command(&self.folder.path(&format!("{}.sock", self.name)), command).await
    }

    async fn ask(&self) -> Option<Arc<Snapshot>> {
        match self.answer(Command::Status).await {
            Ok(CommandAnswer::Status(snapshot)) => Some(snapshot),
            Ok(_) | Err(_) => None,
        }
    }

    pub async fn now(&self) -> Arc<Snapshot> {
        let answer = timeout(PATIENCE, self.ask()).await.expect("an answer in time");
        answer.unwrap_or_else(|| panic!("no answer\n{}", self.log()))
    }

    /// Waits until the picture shows `seen`.
    pub async fn until(&self, what: &str, seen: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let looking = async {
            let mut looks = interval(Duration::from_millis(50));
            loop {
                looks.tick().await;
                if let Some(snapshot) = self.ask().await.filter(|snapshot| seen(snapshot)) {
                    return snapshot;
                }
            }
        };
        match timeout(LONG, looking).await {
            Ok(snapshot) => snapshot,
            Err(_) => panic!("not seen within {LONG:?}: {what}\n{:#?}\n{}", self.ask().await, self.log()),
        }
    }

    fn proc_file(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.child.id()))
    }

    /// Its memory, in bytes.
    pub fn resident(&self) -> usize {
        let status = fs::read_to_string(self.proc_file("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    }

    /// Its open descriptors.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(self.proc_file("fd")).unwrap().count()
    }

    /// What it has written on standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path(&format!("{}.err", self.name))).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
