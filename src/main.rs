//! Process entry: command line, profile, runtime, front end, exit code.

use std::process::ExitCode;

use clap::Parser;
use portcullis::{cli::Cli, commands, exit, net::passed, output::print_note, run};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Memory that is not used goes back to the system within seconds.
#[expect(unsafe_code, reason = "the allocator looks for this symbol")]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static MALLOC_CONF: &[u8] = b"background_thread:true,dirty_decay_ms:2000,muzzy_decay_ms:0,narenas:4\0";

fn main() -> ExitCode {
    // Before anything is opened, whose number could be taken for theirs.
    passed::take_over_all();
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            print_note(format_args!("portcullis: the runtime does not start: {error}"));
            return exit::FAILED.into();
        }
    };
    let result = match &cli.command {
        Some(action) => runtime.block_on(commands::run(&cli, action)),
        None => run::run(&cli, &runtime),
    };
    // What still blocks a thread (a name being resolved) must not hold the exit up.
    runtime.shutdown_background();
    result.unwrap_or_else(|error| {
        // Each of our errors names its cause already.
        print_note(format_args!("portcullis: {error}"));
        exit::FAILED.into()
    })
}
