//! Every known way round the lock, tried from within. Each attempt changes nothing even if it is not refused.
//! They are used by a gateway that checks itself, and by `selftest confine`.

use std::{fmt, fs::File, io, net::SocketAddr, os::fd::AsRawFd};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{
    LockedHalf, UnixSockets,
    filters::X32,
    system_call::{self, call},
};
use crate::profile::Half;

/// An attempt, and its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EscapeAttempt {
    pub method: &'static str,
    pub outcome: EscapeOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EscapeOutcome {
    Refused,
    /// It was not refused: it worked, or failed for another reason.
    LetThrough(String),
    /// This kernel does not have it.
    Unknown,
}

impl fmt::Display for EscapeOutcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => out.write_str("refused"),
            Self::LetThrough(how) => write!(out, "let through: {how}"),
            Self::Unknown => out.write_str("not in this kernel"),
        }
    }
}

impl EscapeAttempt {
    pub fn is_let_through(&self) -> bool {
        matches!(self.outcome, EscapeOutcome::LetThrough(_))
    }
}

type EscapeMethod = (&'static str, fn() -> io::Result<()>);

/// System calls that no half may make.
const ALWAYS: &[EscapeMethod] = &[
    ("execve", || by_number(libc::SYS_execve, [0; 5])),
    ("execveat", || by_number(libc::SYS_execveat, [NONE, 0, 0, 0, 0])),
    ("a child that runs a program", || std::process::Command::new("/nowhere/at/all").spawn().map(drop)),
    ("ptrace", || by_number(libc::SYS_ptrace, [0x7fff, 0, 0, 0, 0])),
    ("process_vm_readv", || by_number(libc::SYS_process_vm_readv, [0; 5])),
    ("process_vm_writev", || by_number(libc::SYS_process_vm_writev, [0; 5])),
    ("pidfd_getfd", || by_number(libc::SYS_pidfd_getfd, [NONE, 0, 0, 0, 0])),
    ("io_uring_setup", || by_number(libc::SYS_io_uring_setup, [0; 5])),
    ("io_uring_enter", || by_number(libc::SYS_io_uring_enter, [NONE, 0, 0, 0, 0])),
    ("io_uring_register", || by_number(libc::SYS_io_uring_register, [NONE, 0, 0, 0, 0])),
    // This flag does not exist, so nothing happens if the call is not refused.
    ("unshare", || by_number(libc::SYS_unshare, [libc::CLONE_NEWUSER as u32 | 1, 0, 0, 0, 0])),
    ("setns", || by_number(libc::SYS_setns, [NONE, 0, 0, 0, 0])),
    // Two flags that exclude each other.
    ("clone into a new namespace", || {
        by_number(libc::SYS_clone, [(libc::CLONE_NEWUSER | libc::CLONE_FS) as u32, 0, 0, 0, 0])
    }),
    ("clone3", clone3),
    ("bpf", || by_number(libc::SYS_bpf, [NONE, 0, 0, 0, 0])),
    // Without a name, so nothing is made.
    ("a device node", || by_number(libc::SYS_mknodat, [NONE, 0, libc::S_IFCHR, 0, 0])),
    ("raw socket", || open_socket(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))),
    ("packet socket", || open_socket(Domain::PACKET, Type::RAW, None)),
    ("netlink socket", || open_socket(Domain::from(libc::AF_NETLINK), Type::RAW, None)),
    ("vsock socket", || open_socket(Domain::from(libc::AF_VSOCK), Type::STREAM, None)),
    ("SMC socket", || open_socket(Domain::from(AF_SMC), Type::STREAM, None)),
    ("MPTCP socket", || open_socket(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP))),
    ("MPTCP socket, IPv6", || open_socket(Domain::IPV6, Type::STREAM, Some(Protocol::MPTCP))),
    ("SCTP socket", || open_socket(Domain::IPV4, Type::STREAM, Some(Protocol::from(libc::IPPROTO_SCTP)))),
    ("UDP-Lite socket", || {
        open_socket(Domain::IPV4, Type::DGRAM, Some(Protocol::from(libc::IPPROTO_UDPLITE)))
    }),
    ("ICMP datagram socket", || open_socket(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4))),
    ("DCCP socket", || open_socket(Domain::IPV4, Type::from(libc::SOCK_DCCP), None)),
    ("pair of TCP sockets", || Socket::pair(Domain::IPV4, Type::STREAM, None).map(drop)),
    ("execve by its x32 number", || by_x32(X32_EXECVE)),
    ("io_uring_setup by its x32 number", || by_x32(libc::SYS_io_uring_setup)),
    ("socket by its x32 number", || by_x32(libc::SYS_socket)),
];

/// The kernel may load a module for these. They are not tried where nothing keeps them from that.
const LOADING: &[&str] = &["packet socket", "vsock socket", "SMC socket", "SCTP socket", "DCCP socket"];

/// The one that stays allowed if a backend is a Unix socket.
const UNIX_SOCKET: &str = "Unix socket";

/// Ways to become reachable.
const OF_INTERNAL: &[EscapeMethod] = &[
    ("TCP bind", || bind(Domain::IPV4, Type::STREAM, [127, 0, 0, 1].into())),
    ("TCP bind, IPv6", || bind(Domain::IPV6, Type::STREAM, LOOPBACK_V6.into())),
    ("UDP bind", || bind(Domain::IPV4, Type::DGRAM, [127, 0, 0, 1].into())),
    ("UDP bind, IPv6", || bind(Domain::IPV6, Type::DGRAM, LOOPBACK_V6.into())),
    ("listen without bind", || Socket::new(Domain::IPV4, Type::STREAM, None)?.listen(1)),
    ("listen without bind, IPv6", || Socket::new(Domain::IPV6, Type::STREAM, None)?.listen(1)),
    ("UDP to anybody", || send_to(Type::DGRAM, 0)),
    ("sendmsg", || on_socket(Type::DGRAM, libc::SYS_sendmsg)),
    (UNIX_SOCKET, || open_socket(Domain::UNIX, Type::STREAM, None)),
    ("Unix datagram socket", || open_socket(Domain::UNIX, Type::DGRAM, None)),
    ("listen by its x32 number", || by_x32(libc::SYS_listen)),
    ("bind by its x32 number", || by_x32(libc::SYS_bind)),
];

/// Ways to reach others.
const OF_DMZ: &[EscapeMethod] = &[
    ("TCP connect", || connect(Domain::IPV4, Type::STREAM)),
    ("UDP connect", || connect(Domain::IPV4, Type::DGRAM)),
    ("TCP fast open", || send_to(Type::STREAM, libc::MSG_FASTOPEN)),
    ("UDP to anybody", || send_to(Type::DGRAM, 0)),
    ("sendmsg", || on_socket(Type::DGRAM, libc::SYS_sendmsg)),
    ("sendmmsg", || on_socket(Type::DGRAM, libc::SYS_sendmmsg)),
    (UNIX_SOCKET, || open_socket(Domain::UNIX, Type::STREAM, None)),
    ("Unix datagram socket", || open_socket(Domain::UNIX, Type::DGRAM, None)),
    ("connect by its x32 number", || by_x32(libc::SYS_connect)),
];

/// Attempts that Landlock alone refuses.
const OF_FOLDERS: &[EscapeMethod] = &[
    ("Landlock alone: reading /", || std::fs::read_dir("/").map(drop)),
    // This one holds nothing.
    ("Landlock alone: writing to a device", || File::options().write(true).open("/dev/zero").map(drop)),
    ("Landlock alone: another process' memory", || {
        File::open(format!("/proc/{}/mem", std::os::unix::process::parent_id())).map(drop)
    }),
    ("Landlock alone: writing to the temporary folder", || {
        let file = std::env::temp_dir().join(format!("portcullis-selftest-{}", std::process::id()));
        File::create_new(&file).map(|_| std::fs::remove_file(&file).unwrap_or_default())
    }),
];

/// No valid descriptor.
const NONE: u32 = u32::MAX;
const AF_SMC: libc::c_int = 43;
/// A few calls have numbers of their own there.
const X32_EXECVE: libc::c_long = 520;
const LOOPBACK_V6: [u16; 8] = [0, 0, 0, 0, 0, 0, 0, 1];
/// A port of this host at which nobody answers.
const DISCARD: u16 = 9;

/// Makes every attempt in this thread. Only a locked process may call it: otherwise some of them succeed.
pub fn try_all(locked: LockedHalf) -> Vec<EscapeAttempt> {
    let attempt = |(method, attempt): &EscapeMethod| EscapeAttempt { method, outcome: classify(attempt()) };
    escape_methods(locked).map(attempt).collect()
}

/// Makes the same attempts before the lock is taken, in the same order. An attempt that already fails then
/// proves nothing about the lock. `None` means not tried.
pub fn try_unlocked(locked: LockedHalf) -> Vec<Option<EscapeOutcome>> {
    let attempt = |(method, attempt): &EscapeMethod| (!LOADING.contains(method)).then(|| classify(attempt()));
    escape_methods(locked).map(attempt).collect()
}

fn escape_methods(locked: LockedHalf) -> impl Iterator<Item = &'static EscapeMethod> {
    let of_half = match locked.half {
        Half::Dmz => OF_DMZ,
        Half::Internal => OF_INTERNAL,
    };
    let is_refused =
        move |(method, _): &&EscapeMethod| locked.unix == UnixSockets::Refused || *method != UNIX_SOCKET;
    of_half.iter().filter(is_refused).chain(ALWAYS)
}

/// Makes the attempts that Landlock refuses without any filter.
pub fn try_folders(half: Half) -> Vec<EscapeAttempt> {
    let port: EscapeMethod = match half {
        Half::Dmz => ("Landlock alone: TCP connect", || connect(Domain::IPV4, Type::STREAM)),
        Half::Internal => {
            ("Landlock alone: TCP bind", || bind(Domain::IPV4, Type::STREAM, [127, 0, 0, 1].into()))
        }
    };
    let classify = |result: io::Result<()>| match result {
        // In some containers there is no such file to try it with.
        Err(error) if error.kind() == io::ErrorKind::NotFound => EscapeOutcome::Unknown,
        result => classify(result),
    };
    let attempt = |(method, attempt): &EscapeMethod| EscapeAttempt { method, outcome: classify(attempt()) };
    [port].iter().chain(OF_FOLDERS).map(attempt).collect()
}

/// A call of the 32-bit table. A locked process does not live to see its result.
pub fn call_of_32_bits() -> io::Result<()> {
    system_call::call_of_32_bits()
}

fn classify(result: io::Result<()>) -> EscapeOutcome {
    match result {
        Ok(()) => EscapeOutcome::LetThrough("it worked".into()),
        Err(error) => match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => EscapeOutcome::Refused,
            Some(libc::ENOSYS | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT | libc::ESOCKTNOSUPPORT) => {
                EscapeOutcome::Unknown
            }
            _ => EscapeOutcome::LetThrough(error.to_string()),
        },
    }
}

fn by_number(number: libc::c_long, arguments: [u32; 5]) -> io::Result<()> {
    call(number, arguments).map(drop)
}

/// Without arguments. The lock answers as a kernel does that does not have it, so that the C library takes `clone`.
fn clone3() -> io::Result<()> {
    by_number(libc::SYS_clone3, [0; 5]).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOSYS) => io::Error::from_raw_os_error(libc::EPERM),
        _ => error,
    })
}

fn by_x32(number: libc::c_long) -> io::Result<()> {
    by_number(number | libc::c_long::from(X32), [NONE, 0, 0, 0, 0])
}

/// A call with a socket as its first argument and nothing else.
fn on_socket(kind: Type, number: libc::c_long) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, kind, None)?;
    by_number(number, [socket.as_raw_fd().cast_unsigned(), 0, 0, 0, 0])
}

fn open_socket(domain: Domain, kind: Type, protocol: Option<Protocol>) -> io::Result<()> {
    Socket::new(domain, kind, protocol).map(drop)
}

fn bind(domain: Domain, kind: Type, ip: std::net::IpAddr) -> io::Result<()> {
    Socket::new(domain, kind, None)?.bind(&SocketAddr::new(ip, 0).into())
}

fn connect(domain: Domain, kind: Type) -> io::Result<()> {
    Socket::new(domain, kind, None)?.connect(&discard())
}

fn send_to(kind: Type, flags: libc::c_int) -> io::Result<()> {
    Socket::new(Domain::IPV4, kind, None)?.send_to_with_flags(&[], &discard(), flags).map(drop)
}

fn discard() -> SockAddr {
    SocketAddr::from(([127, 0, 0, 1], DISCARD)).into()
}
