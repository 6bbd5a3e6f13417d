//! The process's entry point: command line, profile, runtime, front end, exit code.

use std::process::ExitCode;

use clap::Parser;
use portcullis::{
    cli::{Cli, CliAction},
    commands, exit,
    net::passed,
    output::{judge_printed, print_note},
    run::{self, PreparedGateway},
};
use tokio::runtime::{Builder, Runtime};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Unused memory goes back to the system within seconds. This does not start the allocator's own threads: a
/// part of the lock applies only to threads that are started after it.
#[expect(unsafe_code, reason = "the allocator looks for this symbol")]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static MALLOC_CONF: &[u8] = b"background_thread:false,dirty_decay_ms:2000,muzzy_decay_ms:0,narenas:4\0";

fn main() -> ExitCode {
    // Before anything is opened that could get their numbers.
    passed::take_over_all();
    let result = match Cli::try_parse() {
        Ok(cli) => run(&cli),
        Err(error) if error.use_stderr() => error.exit(),
        // Help, or the version. clap itself would exit with success on a full disk.
        Err(help) => judge_printed(help.print()).map(|()| ExitCode::SUCCESS).map_err(Into::into),
    };
    result.unwrap_or_else(|error| {
        // Each of our errors includes its cause already.
        print_note(format_args!("portcullis: {error}"));
        exit::FAILED.into()
    })
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    match &cli.command {
        // The lock under test needs a process without other threads.
        Some(CliAction::Selftest { of }) => commands::run_selftest(*of, cli.half),
        Some(action) => in_runtime(|runtime| runtime.block_on(commands::run(cli, action))),
        None => Ok(run_gateway(cli).unwrap_or_else(|error| run::report_failed_start(cli, &error))),
    }
}

fn run_gateway(cli: &Cli) -> anyhow::Result<ExitCode> {
    match run::prepare(cli)? {
        PreparedGateway::Ready(start) => in_runtime(|runtime| run::run(cli, *start, runtime)),
        PreparedGateway::Refused(code) => Ok(code),
    }
}

/// How many threads carry bytes: one less than there are cores. The last core is for the kernel's part of the network, the
/// engine and the log. On two cores that saves 10 to 20 % of the CPU, since workers wake each other for less.
fn worker_count() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1).max(1))
}

/// Starts the threads of this process, and runs in them.
fn in_runtime(run: impl FnOnce(&Runtime) -> anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    // Without its threads, the allocator gives memory back only when memory is requested.
    let _ = tikv_jemalloc_ctl::background_thread::write(true);
    let runtime = Builder::new_multi_thread().worker_threads(worker_count()).enable_all().build();
    let runtime = runtime.map_err(|error| anyhow::anyhow!("the runtime does not start: {error}"))?;
    let result = run(&runtime);
    // What still blocks a thread (a name being resolved) must not delay the exit.
    runtime.shutdown_background();
    result
}
