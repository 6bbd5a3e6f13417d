//! A system call by its number, for what should be refused and has no safe wrapper.
#![expect(unsafe_code, reason = "calls that no crate offers safely, since nobody should make them")]

#[cfg(target_arch = "x86_64")]
use std::arch::asm;
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

/// getpid(2) as a program of 32 bits makes it: another table of calls, which a filter by number would miss.
#[cfg(target_arch = "x86_64")]
pub(super) fn call_of_32_bits() -> io::Result<()> {
    let id: u32;
    // SAFETY: this call takes no argument and reads no memory; every register that a kernel may change is named.
    unsafe {
        asm!("int 0x80", inlateout("eax") 20_u32 => id, out("r8") _, out("r9") _, out("r10") _, out("r11") _, options(nostack));
    }
    match id == std::process::id() {
        true => Ok(()),
        false => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Only this architecture has them beside those of 64 bits.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn call_of_32_bits() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
