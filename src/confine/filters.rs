//! The filters of system calls (seccomp). Each one is applied to all threads at once, including those already
//! running. A refused call returns an ordinary error: EPERM, or ENOSYS if the caller then does without it.
//!
//! A filter sees numbers, not what pointers lead to. So a call whose address is in memory (`sendmsg`) is
//! refused as a whole, or not at all.

use std::{collections::BTreeMap, env::consts::ARCH};

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter_all_threads, sock_filter,
};
use thiserror::Error;

use super::UnixSockets;
use crate::profile::Half;

#[derive(Debug, Error)]
pub enum FilterError {
    #[error("{0}")]
    Built(#[from] BackendError),
    #[error("{0}")]
    Refused(#[from] seccompiler::Error),
}

/// Calls that are refused whatever their arguments, by name.
type RefusedCalls = &'static [(&'static str, libc::c_long)];

/// Calls that no gateway makes: for other programs, for other processes, and to get round this filter.
const ALWAYS: RefusedCalls = &[
    ("execve", libc::SYS_execve),
    ("execveat", libc::SYS_execveat),
    ("ptrace", libc::SYS_ptrace),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("process_vm_writev", libc::SYS_process_vm_writev),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("io_uring_enter", libc::SYS_io_uring_enter),
    ("io_uring_register", libc::SYS_io_uring_register),
    ("unshare", libc::SYS_unshare),
    ("setns", libc::SYS_setns),
    ("bpf", libc::SYS_bpf),
    // A device node would lead past every rule about files.
    #[cfg(target_arch = "x86_64")]
    ("mknod", libc::SYS_mknod),
    ("mknodat", libc::SYS_mknodat),
];
/// Nobody may reach the internal half. `sendmmsg` is allowed, because the system's resolver needs it.
const OF_INTERNAL: RefusedCalls =
    &[("bind", libc::SYS_bind), ("listen", libc::SYS_listen), ("sendmsg", libc::SYS_sendmsg)];
/// The DMZ half may reach nobody.
const OF_DMZ: RefusedCalls =
    &[("connect", libc::SYS_connect), ("sendmsg", libc::SYS_sendmsg), ("sendmmsg", libc::SYS_sendmmsg)];
/// Calls of which only some arguments are refused.
const REFUSED_FOR_SOME_ARGUMENTS: [&str; 4] = ["sendto", "socket", "socketpair", "clone"];

/// `SOCK_CLOEXEC` and `SOCK_NONBLOCK` are above these bits of the type.
const TYPE_BITS: u64 = 0xf;
/// Namespaces that clone(2) can create.
const NEW_NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];
/// The first number of the x32 ABI: on kernels that support it, each call has a second number from there on.
pub const X32: u32 = 0x4000_0000;

/// The names of the calls that a locked half is refused.
pub fn refused_calls(half: Half) -> Vec<&'static str> {
    let names = |calls: RefusedCalls| calls.iter().map(|(name, _)| *name);
    names(of_half(half)).chain(REFUSED_FOR_SOME_ARGUMENTS).chain(names(ALWAYS)).collect()
}

fn of_half(half: Half) -> RefusedCalls {
    match half {
        Half::Dmz => OF_DMZ,
        Half::Internal => OF_INTERNAL,
    }
}

/// Refuses, in every mode, what no gateway ever does.
pub fn refuse_always() -> Result<(), FilterError> {
    apply_filter_all_threads(&refuse_x32())?;
    // Its flags are in memory, where a filter cannot look. The C library then uses `clone`.
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    apply_filter_all_threads(&program(clone3, libc::ENOSYS)?)?;
    let mut rules = refused(ALWAYS);
    rules.insert(libc::SYS_socket, strange_sockets(&[libc::AF_INET, libc::AF_INET6, libc::AF_UNIX])?);
    rules.insert(libc::SYS_socketpair, vec![rule(&[not(0, libc::AF_UNIX as u64)?])?]);
    let namespaces = NEW_NAMESPACES.map(|flag| {
        let flag = flag as u32 as u64;
        rule(&[condition(0, SeccompCmpOp::MaskedEq(flag), flag)?])
    });
    rules.insert(libc::SYS_clone, namespaces.into_iter().collect::<Result<_, _>>()?);
    Ok(apply_filter_all_threads(&program(rules, libc::EPERM)?)?)
}

/// Refuses what a half that runs alone in reverse mode does not do.
pub fn refuse_to(half: Half, unix: UnixSockets) -> Result<(), FilterError> {
    let mut rules = refused(of_half(half));
    let sockets = match unix {
        UnixSockets::Refused => strange_sockets(&[libc::AF_INET, libc::AF_INET6])?,
        UnixSockets::ForBackends => {
            let mut sockets = strange_sockets(&[libc::AF_INET, libc::AF_INET6, libc::AF_UNIX])?;
            // Backends use streams.
            let is_unix = condition(0, SeccompCmpOp::Eq, libc::AF_UNIX as u64)?;
            let is_datagram = condition(1, SeccompCmpOp::MaskedEq(TYPE_BITS), libc::SOCK_DGRAM as u64)?;
            sockets.push(rule(&[is_unix, is_datagram])?);
            sockets
        }
    };
    rules.insert(libc::SYS_socket, sockets);
    let is_addressed = SeccompCondition::new(4, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?;
    let fast_open = libc::MSG_FASTOPEN as u64;
    let opens_fast = condition(3, SeccompCmpOp::MaskedEq(fast_open), fast_open)?;
    rules.insert(libc::SYS_sendto, vec![rule(&[is_addressed])?, rule(&[opens_fast])?]);
    Ok(apply_filter_all_threads(&program(rules, libc::EPERM)?)?)
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn refused(calls: RefusedCalls) -> Rules {
    calls.iter().map(|(_, number)| (*number, Vec::new())).collect()
}

/// Families, types and protocols that nothing here uses.
fn strange_sockets(families: &[libc::c_int]) -> Result<Vec<SeccompRule>, BackendError> {
    let other_family = families.iter().map(|family| not(0, *family as u64)).collect::<Result<Vec<_>, _>>()?;
    let mut rules = vec![rule(&other_family)?];
    let is_used = |kind: &u64| [libc::SOCK_STREAM as u64, libc::SOCK_DGRAM as u64].contains(kind);
    for kind in (0..=TYPE_BITS).filter(|kind| !is_used(kind)) {
        rules.push(rule(&[condition(1, SeccompCmpOp::MaskedEq(TYPE_BITS), kind)?])?);
    }
    let protocols = [0, libc::IPPROTO_TCP, libc::IPPROTO_UDP];
    let other = protocols.iter().map(|used| not(2, *used as u64)).collect::<Result<Vec<_>, _>>()?;
    rules.push(rule(&other)?);
    Ok(rules)
}

/// All conditions together.
fn rule(conditions: &[SeccompCondition]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.to_vec())
}

fn not(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    condition(argument, SeccompCmpOp::Ne, value)
}

/// A condition on a 32-bit argument, as the kernel reads it.
fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

fn program(rules: Rules, errno: libc::c_int) -> Result<BpfProgram, FilterError> {
    let refuse = SeccompAction::Errno(errno as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, TargetArch::try_from(ARCH)?)?;
    Ok(filter.try_into()?)
}

/// Refuses every number of the x32 ABI at once; `seccompiler` compares only whole numbers.
fn refuse_x32() -> BpfProgram {
    let step = |code: u32, jt, k| sock_filter { code: code as u16, jt, jf: 0, k };
    vec![
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        sock_filter { jf: 1, ..step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, X32) },
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ]
}
