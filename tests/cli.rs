//! The program as a user, a script and a service manager see it: commands, exit codes, files,
//! signals, and the two halves as processes of their own.

#[path = "cli/audit.rs"]
mod audit;
#[path = "cli/certs.rs"]
mod certs;
#[path = "cli/clock.rs"]
mod clock;
#[path = "cli/cluster.rs"]
mod cluster;
#[path = "cli/commands.rs"]
mod commands;
#[path = "cli/confine.rs"]
mod confine;
#[path = "cli/descriptors.rs"]
mod descriptors;
#[path = "cli/doctor.rs"]
mod doctor;
#[path = "cli/failed_start.rs"]
mod failed_start;
#[path = "cli/flood.rs"]
mod flood;
#[path = "cli/heavy.rs"]
mod heavy;
#[path = "cli/init.rs"]
mod init;
#[path = "process/kept_hour.rs"]
mod kept_hour;
#[path = "cli/lifetime.rs"]
mod lifetime;
#[path = "cli/lockdown.rs"]
mod lockdown;
#[path = "cli/logs.rs"]
mod logs;
#[path = "cli/metric_values.rs"]
mod metric_values;
#[path = "cli/metrics.rs"]
mod metrics;
#[path = "cli/monitor.rs"]
mod monitor;
#[path = "cli/moving.rs"]
mod moving;
#[path = "cli/operate.rs"]
mod operate;
#[path = "cli/pair.rs"]
mod pair;
#[path = "cli/passed.rs"]
mod passed;
#[path = "cli/permissions.rs"]
mod permissions;
#[path = "process/ports.rs"]
mod ports;
#[path = "cli/pressure.rs"]
mod pressure;
#[path = "cli/previous.rs"]
mod previous;
mod process;
#[path = "cli/service_manager.rs"]
mod service_manager;
#[path = "process/pair.rs"]
mod setup;
#[path = "cli/silence.rs"]
mod silence;
#[path = "cli/stopped_processes.rs"]
mod stopped_processes;
#[path = "cli/stopping.rs"]
mod stopping;
#[path = "cli/switching.rs"]
mod switching;
#[path = "cli/takeover.rs"]
mod takeover;
#[path = "process/threads.rs"]
mod threads;
#[path = "cli/twins.rs"]
mod twins;
#[path = "cli/unread_log.rs"]
mod unread_log;
#[path = "cli/unready.rs"]
mod unready;
#[path = "cli/upgrade.rs"]
mod upgrade;
#[path = "cli/verify.rs"]
mod verify;

use std::{
    io,
    net::{SocketAddr, TcpStream},
    process::{ExitStatus, Output},
};

use process::{Gateway, SOON, until};
use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Socket, Type};

/// What a command printed and how it ended.
struct CommandOutput {
    code: Option<i32>,
    out: String,
    err: String,
}

fn output_of(output: Output) -> CommandOutput {
    CommandOutput {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// Runs a command to its end.
fn run(folder: &process::TestFolder, args: &[&str]) -> CommandOutput {
    output_of(folder.command(args).output().expect("the program runs"))
}

/// One gateway, direct, with an echo service.
const DIRECT: &str =
    "mode: direct\ndmz:\n  services:\n    echo: { accept: [\"tcp://127.0.0.1:0\"], connect: \"echo://\" }\n";

/// A client whose reads fail rather than hang.
fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).expect("the port is open");
    stream.set_read_timeout(Some(SOON)).expect("a timeout is set");
    stream
}

/// A client of this address of loopback.
fn connect_from(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((from, 0)).into()).expect("an address of loopback");
    socket.connect(&to.into()).expect("the port is open");
    socket.set_read_timeout(Some(SOON)).expect("a timeout is set");
    socket.into()
}

/// Whether an I/O result is a reset: neither bytes, nor a clean end, nor silence.
fn is_reset<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::ConnectionReset)
}

impl Gateway<'_> {
    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process has an id");
        kill_process(pid, signal).expect("the signal is sent");
    }

    /// Waits until the process has ended.
    #[track_caller]
    fn ended(mut self) -> ExitStatus {
        until("the gateway ends", SOON, || self.child.try_wait().expect("the child is ours"))
    }
}
