//! Two gateways of one name: each is one of its own, and is missed when it goes.

use std::{
    io,
    net::{Shutdown, TcpListener, TcpStream},
    thread,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    process::{Gateway, SOON, TestFolder, until},
    setup::{dmz_half, internal_half},
};

fn rows(status: &Value) -> &[Value] {
    status["pools"].as_array().map_or(&[], Vec::as_slice)
}

/// The instances of the rows that have links, and of those that have none.
fn instances(status: &Value) -> [Vec<&str>; 2] {
    let of = |has_links: bool| {
        let rows =
            rows(status).iter().filter(|row| (row["links"].as_array().map(Vec::len) > Some(0)) == has_links);
        rows.filter_map(|row| row["instance"].as_str()).collect()
    };
    [of(true), of(false)]
}

fn is_missed(status: &Value) -> bool {
    status["alerts"].as_array().is_some_and(|alerts| alerts.iter().any(|alert| alert["kind"] == "peer-lost"))
}

fn instance(gateway: &Gateway<'_>) -> String {
    gateway.status()["instance"].as_str().expect("its instance").to_owned()
}

/// Both stand beside one another for a moment only before one of them is killed.
#[test]
fn of_two_gateways_of_one_name_either_is_missed_until_it_is_back() {
    let folder = TestFolder::with_certificates();
    folder.write("dmz.yaml", &dmz_half("127.0.0.1:0", &["echo"]));
    let dmz = folder.start("dmz");
    let link = format!("127.0.0.1:{}", dmz.link_port());
    for name in ["first", "second"] {
        folder.write(&format!("{name}.yaml"), &internal_half(&link, &[("echo", "echo://")]));
    }
    let both =
        |status: &Value| instances(status)[0].len() == 2 && rows(status).len() == 2 && !is_missed(status);
    for killed in ["first", "second"] {
        let (first, second) = (folder.start("first"), folder.start("second"));
        dmz.wait("both are there", SOON, both);
        let (goes, stays) = if killed == "first" { (&first, &second) } else { (&second, &first) };
        let [gone, left] = [goes, stays].map(instance);
        goes.signal(Signal::KILL);
        let seen = dmz.wait("it is missed", SOON, is_missed);
        assert_eq!(instances(&seen), [vec![&*left], vec![&*gone]], "{killed}: {seen:#}");
        assert_eq!(seen["health"], "degraded", "{killed}");
        // What is over before the next check is not an event.
        until("it is reported", SOON, || dmz.log().contains("internal at 127.0.0.1: lost").then_some(()));
        // After a restart it is another process, and replaces the lost one.
        let again = folder.start(killed);
        let seen = dmz.wait("it is back", SOON, both);
        assert!(!instances(&seen)[0].contains(&&*gone), "{killed}: {seen:#}");
        for gateway in [&first, &second, &again] {
            gateway.signal(Signal::TERM);
        }
        dmz.wait("both have left", SOON, |status| instances(status)[0].is_empty() && !is_missed(status));
    }
}

/// Passes on what comes in at its port to these in turn, or to the next one that is there.
fn start_balancer(to: [u16; 2]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for (number, came) in listener.incoming().map_while(Result::ok).enumerate() {
            let mut tried = to.iter().cycle().skip(number % 2).take(2);
            let Some(goes) = tried.find_map(|port| TcpStream::connect(("127.0.0.1", *port)).ok()) else {
                continue;
            };
            let ends = [(&came, &goes), (&goes, &came)].map(|(from, to)| {
                (from.try_clone().expect("a descriptor"), to.try_clone().expect("a descriptor"))
            });
            for (mut from, mut to) in ends {
                thread::spawn(move || {
                    // However it ends, both sides are over.
                    let _ = io::copy(&mut from, &mut to);
                    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                });
            }
        }
    });
    port
}

#[test]
fn of_two_gateways_behind_one_dialled_address_one_that_goes_is_reported() {
    let folder = TestFolder::with_certificates();
    let tls = |half: &str, peer: &str| {
        format!(
            "tls: {{ certificate: pki/{half}.pem, key: pki/{half}.key, ca: pki/ca.pem, peers: [{peer}] }}"
        )
    };
    let (outer_tls, inner_tls) = (tls("dmz", "internal"), tls("internal", "dmz"));
    for mode in ["forward", "reverse"] {
        let listening = match mode {
            "reverse" => dmz_half("127.0.0.1:0", &["echo"]),
            _ => format!(
                "mode: forward\ninternal:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', {inner_tls} }}\n  services: {{ \
                 echo: {{ connect: 'echo://' }} }}\n"
            ),
        };
        let [first, second] = ["first", "second"].map(|name| {
            let name = format!("{mode}-{name}");
            folder.write(&format!("{name}.yaml"), &listening);
            folder.start(&name)
        });
        let at = format!("127.0.0.1:{}", start_balancer([&first, &second].map(Gateway::link_port)));
        let dialling = match mode {
            "reverse" => internal_half(&at, &[("echo", "echo://")]).replacen("prepared: 2", "prepared: 4", 1),
            _ => format!(
                "mode: forward\ndmz:\n  link: {{ connect: 'socks+tls://{at}', prepared: 4, {outer_tls} }}\n  services: {{ \
                 echo: {{ accept: 'tcp://127.0.0.1:0' }} }}\n"
            ),
        };
        folder.write(&format!("{mode}-dials.yaml"), &dialling);
        let dials = folder.start(&format!("{mode}-dials"));
        let announced = "2 gateways answer there, each with a row of its own";
        until("both are seen", 2 * SOON, || dials.log().contains(announced).then_some(()));
        let [gone, left] = [&first, &second].map(instance);
        let shown = dials.wait("each has a row", SOON, |status| rows(status).len() == 2);
        let [mut linked, without] = instances(&shown);
        linked.sort_unstable();
        let mut both = [&*gone, &*left];
        both.sort_unstable();
        assert_eq!((linked.as_slice(), without.len()), (&both[..], 0), "{shown:#}");
        let sum = |field: &str| rows(&shown).iter().filter_map(|row| row[field].as_u64()).sum::<u64>();
        assert_eq!(sum("target"), 4, "what is wanted of the address: {shown:#}");
        first.signal(Signal::KILL);
        let reported = format!("one of the gateways there has no link any more (instance {gone}); 1 left");
        until("one is missed", SOON, || dials.log().contains(&reported).then_some(()));
        // The other one serves alone.
        let alone = |status: &Value| instances(status)[0] == [&*left] && rows(status).len() == 1;
        dials.wait("only its row is left", SOON, alone);
        dials.wait_healthy();
    }
}
