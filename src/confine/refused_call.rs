//! Explains errors caused by the lock: names the refused system call, because the kernel's EPERM does not.

use std::{
    collections::BTreeSet,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use thiserror::Error;

#[derive(Debug, Error)]
#[error("`{0}` is blocked by the lock of this process, which only a restart lifts")]
struct RefusedCall(&'static str);

/// The calls refused so far. Process-wide, because the filter is.
struct RefusedSoFar {
    /// The calls that the lock refuses; empty without a lock.
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

/// Replaces the error of a system call that the lock has refused. Calls may also be refused by something else,
/// such as a firewall; those errors are unchanged.
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

/// One line for each refused call that was not reported yet.
pub fn take_unreported() -> Vec<String> {
    let calls = std::mem::take(&mut so_far().unreported);
    calls.into_iter().map(|call| RefusedCall(call).to_string()).collect()
}
