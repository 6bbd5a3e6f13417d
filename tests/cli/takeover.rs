//! One of two internal gateways is killed while clients come one after another: the other one serves them.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    process::{Gateway, SOON, TestFolder, until},
    setup::{dmz_half, internal_half},
};

/// Clients at once, of each service.
const CLIENTS: usize = 6;
const SERVED_BEFORE: usize = 200;
const SERVED_BEHIND: usize = 400;

/// A backend that sends first, and then reads to its clients' end.
fn send_banner(backend: &TcpListener) {
    thread::scope(|scope| {
        for stream in backend.incoming() {
            let Ok(mut stream) = stream else { return };
            scope.spawn(move || {
                // The gateway that it came from may be gone.
                let _ = stream.write_all(b"hi").and_then(|()| stream.read(&mut [0]));
            });
        }
    });
}

/// One client after another, until it is over; how many of them lost their session.
fn run_clients(at: SocketAddr, sends: &[u8], served: &AtomicUsize, is_over: &AtomicBool) -> usize {
    let mut lost = 0;
    while !is_over.load(Ordering::Relaxed) {
        let result = TcpStream::connect(at).and_then(|mut client| {
            client.set_read_timeout(Some(SOON))?;
            client.write_all(sends)?;
            client.read_exact(&mut [0; 2])
        });
        match result {
            Ok(()) => _ = served.fetch_add(1, Ordering::Relaxed),
            Err(_) => lost += 1,
        }
    }
    lost
}

fn refused(dmz: &Gateway<'_>, service: &str) -> u64 {
    let status = dmz.status();
    let row = status["services"].as_array().expect("rows").iter().find(|row| row["name"] == service);
    row.expect("a row")["refused"].as_u64().expect("a count")
}

#[test]
fn a_killed_internal_gateway_costs_a_client_no_more_than_the_session_that_it_carried() {
    let folder = TestFolder::with_certificates();
    let backend = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let to = format!("tcp://{}", backend.local_addr().expect("it is bound"));
    // It serves until this process ends.
    thread::spawn(move || send_banner(&backend));
    folder.write("dmz.yaml", &dmz_half("127.0.0.1:0", &["greets", "echo"]));
    let dmz = folder.start("dmz");
    let link = format!("127.0.0.1:{}", dmz.link_port());
    let services = [("greets", &*to), ("echo", "echo://")];
    ["first", "second"].iter().for_each(|name| {
        folder.write(&format!("{name}.yaml"), &internal_half(&link, &services));
    });
    let ready = |status: &Value, count: usize| {
        let rows = status["pools"].as_array().map_or(&[][..], Vec::as_slice);
        rows.iter().filter(|row| row["ready"].as_u64() >= Some(2)).count() == count
    };
    let (greets, echo) = (dmz.accept("greets"), dmz.accept("echo"));
    for round in 0..4 {
        let gateways = ["first", "second"].map(|name| folder.start(name));
        dmz.wait("both are there", SOON, |status| ready(status, 2));
        let [goes, _stays] =
            if round % 2 == 0 { [&gateways[0], &gateways[1]] } else { [&gateways[1], &gateways[0]] };
        let (served, is_over) = (&AtomicUsize::new(0), &AtomicBool::new(false));
        let lost = thread::scope(|scope| {
            let clients: Vec<_> = (0..2 * CLIENTS)
                .map(|number| match number % 2 {
                    0 => scope.spawn(move || run_clients(greets, b"", served, is_over)),
                    _ => scope.spawn(move || run_clients(echo, b"me", served, is_over)),
                })
                .collect();
            let until_served = |count: usize| {
                until("clients are served", SOON, || (served.load(Ordering::Relaxed) >= count).then_some(()));
            };
            until_served(SERVED_BEFORE);
            goes.signal(Signal::KILL);
            let before = served.load(Ordering::Relaxed);
            until_served(before + SERVED_BEHIND);
            is_over.store(true, Ordering::Relaxed);
            clients.into_iter().map(|client| client.join().expect("it ends")).collect::<Vec<_>>()
        });
        assert!(lost.iter().all(|lost| *lost <= 1), "round {round}: {lost:?}");
        assert_eq!(refused(&dmz, "greets"), 0, "who had said nothing is served by the other");
        gateways.iter().for_each(|gateway| gateway.signal(Signal::TERM));
        dmz.wait("both have gone", SOON, |status| ready(status, 0));
    }
}
