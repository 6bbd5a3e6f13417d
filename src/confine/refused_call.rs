//! What the lock refuses while this process runs, in words that name the system call; an error of the kernel's says
//! only that something is not permitted.

use std::{
    collections::BTreeSet,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use thiserror::Error;

#[derive(Debug, Error)]
#[error("the lock of this process refuses `{0}`; to undo the lock takes a restart")]
struct RefusedCall(&'static str);

/// What was refused so far. A filter is the whole process's, and so is this.
struct RefusedSoFar {
    /// What the lock refuses; nothing where there is none.
    by_lock: Vec<&'static str>,
    seen: BTreeSet<&'static str>,
    unreported: Vec<&'static str>,
}

static SO_FAR: Mutex<RefusedSoFar> =
    Mutex::new(RefusedSoFar { by_lock: Vec::new(), seen: BTreeSet::new(), unreported: Vec::new() });

fn so_far() -> MutexGuard<'static, RefusedSoFar> {
    SO_FAR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on these calls are refused by the lock.
pub(super) fn begin(by_lock: Vec<&'static str>) {
    so_far().by_lock = by_lock;
}

/// The error of a system call, in words where the lock has refused it. Others refuse calls too, a firewall for one:
/// their errors stay as they are.
pub fn explain(call: &'static str, error: io::Error) -> io::Error {
    if error.raw_os_error() != Some(libc::EPERM) {
        return error;
    }
    let mut so_far = so_far();
    if !so_far.by_lock.contains(&call) {
        return error;
    }
    if so_far.seen.insert(call) {
        so_far.unreported.push(call);
    }
    io::Error::other(RefusedCall(call))
}

/// What an operator has yet to be told: a line for each call, once.
pub fn take_unreported() -> Vec<String> {
    let calls = std::mem::take(&mut so_far().unreported);
    calls.into_iter().map(|call| RefusedCall(call).to_string()).collect()
}
