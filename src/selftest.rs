//! `selftest confine`: locks a process as a half is locked, and tries from within what the kernel should refuse;
//! before the lock, in the thread that has taken it, and in one that is older than it.

use std::{
    process::{Command, ExitCode},
    sync::mpsc,
    thread,
};

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
        for half in ["internal", "dmz"] {
            let ended = Command::new(&program).args(["selftest", "confine", "--role", half]).status()?;
            failed |= !ended.success();
        }
        return Ok(if failed { exit::FAILED.into() } else { ExitCode::SUCCESS });
    };
    let (begin, begun) = mpsc::channel::<()>();
    let lock = LockedHalf { half, unix: UnixSockets::Refused };
    let before = attempts::try_unlocked(lock);
    let (of_folders, older) = confine::lock_as(half, |locked| {
        let of_folders = locked.map(|_| attempts::try_folders(half));
        let older = thread::spawn(move || begun.recv().map(|()| attempts::try_all(lock)));
        (of_folders, older)
    })?;
    let own = attempts::try_all(lock);
    begin.send(())?;
    let older = older.join().map_err(|_| anyhow::anyhow!("the older thread has panicked"))??;
    let word = match half {
        Half::Dmz => "dmz",
        Half::Internal => "internal",
    };
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
    let all: Vec<_> = of_folders.into_iter().flatten().chain(own).chain(older).collect();
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

/// How a way was before there was a lock.
fn unlocked_word(outcome: Option<&EscapeOutcome>) -> &'static str {
    match outcome {
        Some(EscapeOutcome::LetThrough(_)) => "open",
        Some(EscapeOutcome::Refused) => "closed",
        Some(EscapeOutcome::Unknown) => "absent",
        None => "untried",
    }
}
