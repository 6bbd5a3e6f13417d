//! SIGTERM and SIGINT, on a thread of their own, so that they work whatever hangs: the engine, every thread of
//! the runtime, a file system.
//!
//! The first one asks the gateway to stop, the second one to cut. If the process is still there a while after
//! the second, it is ended from here.

use std::{io, process::exit, sync::Arc, thread, time::Duration};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{
    gateway::handle::{Command, GatewayHandle},
    tasks,
    telemetry::{audit::AuditActor, snapshot::Snapshot},
};

/// A little longer than a gateway needs to cut its sessions and close everything.
const CUT_TIMEOUT: Duration = Duration::from_secs(8);
/// A running engine makes several snapshots in this time.
const ENGINE_TURN_MAX: Duration = Duration::from_secs(5);
/// How long the last log line gets to be written.
const LOG_FLUSH_TIMEOUT: Duration = Duration::from_millis(100);

/// Handles both signals until the process ends; `cut` is the exit code if it has to be ended from here.
pub fn obey(handle: &GatewayHandle, cut: u8) -> io::Result<()> {
    obey_within(handle, cut, CUT_TIMEOUT)
}

fn obey_within(handle: &GatewayHandle, cut: u8, within: Duration) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let handle = handle.clone();
    start("signals", move || {
        for (count, signal) in signals.forever().enumerate() {
            let name = if signal == SIGINT { "SIGINT" } else { "SIGTERM" };
            let requested = handle.for_actor(name).acting_for(AuditActor::signal(name));
            // Each on a thread, since a hanging engine would block the next one. A third signal has no further
            // effect.
            let started = match count {
                0 => start("stop", move || stop(&requested)),
                1 => {
                    // If it has stopped already, there is nothing to cut.
                    let cutting = start("stop", move || requested.send(Command::Stop).unwrap_or_default());
                    start("end", move || end(cut, within)).and(cutting)
                }
                _ => Ok(()),
            };
            if let Err(error) = started {
                tracing::error!(
                    event = "signal_failed",
                    "a signal could not be handled: {error}; the process ends"
                );
                end(cut, LOG_FLUSH_TIMEOUT);
            }
        }
    })
}

fn start(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    tasks::spawn_thread(name, run)
}

fn stop(handle: &GatewayHandle) {
    let before = handle.latest();
    // If it has stopped already, the process ends by itself.
    if handle.send(Command::Stop).is_ok() && is_hung(handle, &before) {
        tracing::error!(event = "hangs", "the gateway hangs; a second signal ends the process");
    }
}

fn is_hung(handle: &GatewayHandle, before: &Arc<Snapshot>) -> bool {
    thread::sleep(ENGINE_TURN_MAX);
    Arc::ptr_eq(before, &handle.latest())
}

/// Ends the process, if it does not end by itself in time.
fn end(code: u8, within: Duration) {
    thread::sleep(within);
    tracing::error!(
        event = "hangs",
        "the process has not ended {}s after the second signal; it is ended now",
        within.as_secs()
    );
    thread::sleep(LOG_FLUSH_TIMEOUT);
    exit(code.into());
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::{
        env,
        io::{BufRead, BufReader, Write},
        process::{Command as Process, Stdio},
        time::Instant,
    };

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;
    use crate::{gateway::handle, profile::Mode};

    /// Used in place of [`CUT_TIMEOUT`].
    const CUT_GRACE_PERIOD: Duration = Duration::from_millis(300);
    const CHILD: &str = "PORTCULLIS_TEST_HANGS";

    /// An engine whose last snapshot comes at half of the time turns.
    #[test]
    fn an_engine_without_a_new_snapshot_hangs() {
        let empty_snapshot = || Arc::new(Snapshot::new("demo", Mode::Direct));
        let began = Instant::now();
        let [hangs, turns] = [false, true].map(|turns| {
            let (handle, feed) = handle::channel(empty_snapshot(), "test");
            thread::spawn(move || {
                let (before, requested) = (handle.latest(), handle.clone());
                let hung = thread::spawn(move || is_hung(&requested, &before));
                thread::sleep(ENGINE_TURN_MAX / 2);
                if turns {
                    feed.snapshots.send_replace(empty_snapshot());
                }
                hung.join().unwrap()
            })
        });
        assert_eq!([hangs.join().unwrap(), turns.join().unwrap()], [true, false]);
        let took = began.elapsed();
        assert!(took >= ENGINE_TURN_MAX && took < 2 * ENGINE_TURN_MAX, "{took:?}");
    }

    /// A process whose engine never takes a command, and whose runtime has no free thread.
    fn hang() -> ! {
        let (handle, _feed) = handle::channel(Arc::new(Snapshot::new("demo", Mode::Direct)), "test");
        obey_within(&handle, 3, CUT_GRACE_PERIOD).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        runtime.block_on(async {
            writeln!(io::stdout(), "\nhangs").unwrap();
            loop {
                thread::park();
            }
        })
    }

    #[test]
    fn a_second_signal_ends_a_process_in_which_all_hangs() {
        if env::var_os(CHILD).is_some() {
            hang();
        }
        let name = "signals::tests::a_second_signal_ends_a_process_in_which_all_hangs";
        let mut child = Process::new(env::current_exe().unwrap());
        child.args([name, "--exact", "--nocapture"]).env(CHILD, "1").stdout(Stdio::piped());
        let mut child = child.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == "hangs"));
        let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        thread::sleep(Duration::from_millis(500));
        assert!(child.try_wait().unwrap().is_none(), "the first one asks, and waits");
        let second = Instant::now();
        kill_process(pid, Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(3));
        assert!(
            second.elapsed() >= CUT_GRACE_PERIOD && second.elapsed() < CUT_TIMEOUT,
            "{:?}",
            second.elapsed()
        );
    }
}
