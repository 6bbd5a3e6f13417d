//! The threads of a running program, and whether the lock is on each.

use std::fs;

/// The names of a process' threads, each of which is under filters and cannot get more rights.
#[track_caller]
pub fn locked_threads(process: u32) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("it runs");
    let locked = threads.map(|thread| {
        let folder = thread.expect("a thread").path();
        // One that has ended meanwhile has no status.
        let status = fs::read_to_string(folder.join("status")).unwrap_or_default();
        for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
            assert!(status.is_empty() || status.contains(line), "{line}: {status}");
        }
        fs::read_to_string(folder.join("comm")).unwrap_or_default().trim_end().to_owned()
    });
    locked.collect()
}
