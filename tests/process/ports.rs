//! Ports for what must know its port before it listens, or comes back to it. They are below those that the kernel gives
//! to dials (from 32,768 on): a client of another test would take one of those before anything listens there.

use std::{
    iter,
    net::TcpListener,
    ops::Range,
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
};

/// Free ports of loopback. None is given twice by one process.
pub fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    const PORTS: Range<u16> = 10_000..32_000;
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    let next = NEXT.get_or_init(|| AtomicU16::new(fastrand::u16(..)));
    let candidate = || PORTS.start + next.fetch_add(1, Ordering::Relaxed) % PORTS.len() as u16;
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let ports = iter::repeat_with(candidate).take(PORTS.len()).filter(is_free).take(COUNT);
    ports.collect::<Vec<_>>().try_into().expect("free ports")
}
