//! System calls that no crate offers safely. Apart from `confine::system_call` and one attribute of `main.rs`,
//! this is the only unsafe code of the program.
#![expect(unsafe_code, reason = "TCP_INFO, TCP_RTO_MAX_MS, a descriptor by its number: no safe wrapper")]

use std::{
    io,
    mem::{MaybeUninit, size_of},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

/// `TCP_RTO_MAX_MS` of Linux 6.15; older kernels answer ENOPROTOOPT.
const TCP_RTO_MAX_MS: libc::c_int = 44;

/// What the kernel knows about a connection (tcp(7), TCP_INFO).
pub fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `info`, which the kernel fills at most up to
    // that length; the descriptor is borrowed, so it is open for the whole call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut length,
        )
    };
    match result {
        // SAFETY: zeroed first, and every bit pattern is a value of this struct of integers.
        0 => Ok(unsafe { info.assume_init() }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Caps the pause between retransmits and between window probes of one connection.
pub fn set_rto_max(socket: BorrowedFd<'_>, milliseconds: u32) -> io::Result<()> {
    // SAFETY: the pointer and the length describe a u32 that lives for the whole call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_RTO_MAX_MS,
            (&raw const milliseconds).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes over a descriptor that this process was started with, and closes it in children. The caller does so
/// once for each number, and before anything is opened, so that the number belongs to nobody else.
pub fn take_over(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl touches no memory of ours; a number that is not open is answered with EBADF.
    match unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: it is open, and by what is said above it has no other owner.
        _ => Ok(unsafe { OwnedFd::from_raw_fd(number) }),
    }
}

/// A new descriptor for the same file as `number`, if that is open.
pub fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl touches no memory of ours; a number that is not open is answered with EBADF.
    match unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just made it for us, and nobody else knows of it.
        made => Ok(unsafe { OwnedFd::from_raw_fd(made) }),
    }
}

/// Chooses the local port of a bound socket only when it connects (ip(7), `IP_BIND_ADDRESS_NO_PORT`).
pub fn choose_port_late(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and the length describe a c_int that lives for the whole call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
