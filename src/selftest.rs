//! `selftest confine`: locks a process as a half is locked, and tries from within what the kernel should refuse;
//! before the lock, in the thread that has taken it, and in one that is older than it.

use std::{
    io,
    os::unix::process::ExitStatusExt,
    process::{Command, ExitCode, Stdio},
    sync::mpsc,
    thread,
};

use rustix::process::{Resource, Rlimit, setrlimit};

use crate::{
    confine::{
        self, LockedHalf, UnixSockets,
        attempts::{self, EscapeAttempt, EscapeOutcome},
    },
    exit,
    output::{print_line, print_note},
    profile::Half,
};

/// Tests the lock of one half, or of each in a process of its own.
pub fn run(half: Option<Half>) -> anyhow::Result<ExitCode> {
    let Some(half) = half else {
        let program = std::env::current_exe()?;
        let mut failed = false;
        for half in [Half::Internal, Half::Dmz] {
            let arguments = ["selftest", "confine", "--role", half_word(half)];
            failed |= !Command::new(&program).args(arguments).status()?.success();
        }
        return Ok(if failed { exit::FAILED.into() } else { ExitCode::SUCCESS });
    };
    // These end with their process, so each has one of its own. Later this process can start none.
    let of_32_bits = [try_32_bits(None)?, try_32_bits(Some(half))?];
    let (begin, begun) = mpsc::channel::<()>();
    let lock = LockedHalf { half, unix: UnixSockets::Refused };
    let before = attempts::try_unlocked(lock);
    let (of_folders, older) = confine::lock_as(half, |locked| {
        let of_folders = locked.map(|_| attempts::try_folders(half));
        // It is joined below.
        let older = thread::spawn(move || begun.recv().map(|()| attempts::try_all(lock)));
        (of_folders, older)
    })?;
    let own = attempts::try_all(lock);
    begin.send(())?;
    let older = older.join().map_err(|_| anyhow::anyhow!("the older thread has panicked"))??;
    let word = half_word(half);
    print_line(format_args!(
        "{word}: what was open before the lock, and is refused by it in its own thread and in an older one"
    ))?;
    for attempt in of_folders.iter().flatten() {
        print_line(format_args!("  {:<48} {}", attempt.method, attempt.outcome))?;
    }
    if let Err(why) = &of_folders {
        print_line(format_args!("  {why}"))?;
    }
    for ((before, own), older) in before.iter().zip(&own).zip(&older) {
        let (before, outcome) = (unlocked_word(before.as_ref()), own.outcome.to_string());
        print_line(format_args!("  {:<48} {before:<10} {outcome:<18} {}", own.method, older.outcome))?;
    }
    let [unlocked, outcome] = of_32_bits;
    let of_32_bits = EscapeAttempt { method: "32-bit call (the process ends)", outcome };
    let (method, word_before) = (of_32_bits.method, unlocked_word(Some(&unlocked)));
    print_line(format_args!("  {method:<48} {word_before:<10} {}", of_32_bits.outcome))?;
    if half == Half::Internal {
        print_line("  not tried: sendmmsg, which stays open, because the system's resolver asks with it")?;
    }
    let all: Vec<_> = of_folders.into_iter().flatten().chain(own).chain(older).chain([of_32_bits]).collect();
    let refused = all.iter().filter(|attempt| attempt.outcome == EscapeOutcome::Refused).count();
    print_line(format_args!("  {refused} of {} attempts refused", all.len()))?;
    let closed = before.iter().flatten().filter(|outcome| **outcome == EscapeOutcome::Refused).count();
    if closed > 0 {
        print_line(format_args!("  {closed} ways were closed without the lock, and show nothing of it"))?;
    }
    let through: Vec<_> = all.iter().filter(|attempt| attempt.is_let_through()).collect();
    for EscapeAttempt { method, outcome } in &through {
        print_note(format_args!("portcullis: {word}: {method}: {outcome}"));
    }
    Ok(if through.is_empty() { ExitCode::SUCCESS } else { exit::FAILED.into() })
}

/// Makes one call as a program of 32 bits does, in this process.
pub fn call_as_32_bits(half: Option<Half>) -> anyhow::Result<ExitCode> {
    // The kernel ends a locked process with a core dump.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    if let Some(half) = half {
        confine::lock_as(half, |_| ())?;
    }
    Ok(if attempts::call_of_32_bits().is_ok() { ExitCode::SUCCESS } else { exit::FAILED.into() })
}

/// Makes the call of a 32-bit program in a child, locked as `half` if there is one.
fn try_32_bits(half: Option<Half>) -> io::Result<EscapeOutcome> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["selftest", "int80"]).args(half.iter().flat_map(|half| ["--role", half_word(*half)]));
    let ended = command.stderr(Stdio::null()).status()?;
    Ok(match (ended.success(), ended.signal()) {
        (true, _) => EscapeOutcome::LetThrough("it worked".into()),
        (false, Some(libc::SIGSYS)) => EscapeOutcome::Refused,
        (false, _) => EscapeOutcome::Unknown,
    })
}

fn half_word(half: Half) -> &'static str {
    match half {
        Half::Dmz => "dmz",
        Half::Internal => "internal",
    }
}

/// How a way was before there was a lock.
fn unlocked_word(outcome: Option<&EscapeOutcome>) -> &'static str {
    match outcome {
        Some(EscapeOutcome::LetThrough(_)) => "open",
        Some(EscapeOutcome::Refused) => "closed",
        Some(EscapeOutcome::Unknown) => "absent",
        None => "untried",
    }
}
