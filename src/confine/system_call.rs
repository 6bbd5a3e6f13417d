//! A system call by its number, for what should be refused and has no safe wrapper.
#![expect(unsafe_code, reason = "calls that no crate offers safely, since nobody should make them")]

use std::io;

/// Makes a call with small numbers. No argument may be an address in memory of this process.
pub(super) fn call(number: i64, arguments: [u32; 5]) -> io::Result<i64> {
    let [a, b, c, d, e] = arguments.map(|argument| libc::c_long::from(argument.cast_signed()));
    // SAFETY: nothing that the kernel is given leads to memory of ours: an address below the first page, or in
    // the kernel's half, is answered with EFAULT. The attempts choose numbers that change nothing where they are
    // not refused.
    match unsafe { libc::syscall(number, a, b, c, d, e, 0) } {
        -1 => Err(io::Error::last_os_error()),
        done => Ok(done),
    }
}
