//! A wall clock that jumps, as after a flat battery or a wrong answer of a time server.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
};

use serde_json::Value;

use crate::{
    connect,
    process::{Gateway, SOON, TestFolder, until},
    setup::{dmz_half, internal_half},
};

/// Answers for the system's wall clock, and for that one alone.
const LIBRARIES: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
];

#[track_caller]
fn echo(client: &mut TcpStream) {
    client.write_all(b"hello").expect("it is sent");
    client.read_exact(&mut [0; 5]).expect("it comes back");
}

fn start<'a>(folder: &'a TestFolder, library: &str, name: &str) -> Gateway<'a> {
    let surroundings = [
        format!("LD_PRELOAD={library}"),
        format!("FAKETIME_TIMESTAMP_FILE={}", folder.path("clock").display()),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".into(),
        "FAKETIME_NO_CACHE=1".into(),
    ];
    let wrapper: Vec<_> = ["env"].into_iter().chain(surroundings.iter().map(String::as_str)).collect();
    folder.start_as(name, &wrapper, &["--no-ui", "--profile", &format!("{name}.yaml")])
}

fn ended_otherwise(status: &Value) -> Vec<&Value> {
    status["ended"].as_array().into_iter().flatten().filter(|row| row["end"] != "--").collect()
}

/// By 400 days, beyond the end of every certificate, and as far back.
#[test]
fn a_wall_clock_that_jumps_cuts_no_session_and_keeps_nobody_out() {
    let Some(library) = LIBRARIES.into_iter().find(|library| Path::new(library).exists()) else {
        println!("skipped: a_wall_clock_that_jumps needs libfaketime");
        return;
    };
    let folder = TestFolder::with_certificates();
    folder.write("clock", "+0\n");
    let limits =
        "session_limit: 1h, idle: 10m, per_client: { sessions: 10, rate: 50/s }, rate: { session: 1MB/s }";
    let dmz = dmz_half("127.0.0.1:0", &["echo"]);
    folder.write(
        "dmz.yaml",
        &dmz.replace("\"tcp://127.0.0.1:0\"]", &format!("\"tcp://127.0.0.1:0\"], {limits}")),
    );
    let dmz = start(&folder, library, "dmz");
    let link = format!("127.0.0.1:{}", dmz.link_port());
    folder.write("internal.yaml", &internal_half(&link, &[("echo", "echo://")]));
    let internal = start(&folder, library, "internal");
    dmz.wait_healthy();
    internal.wait_healthy();
    let mut open = connect(dmz.accept("echo"));
    echo(&mut open);
    for (jump, is_judged) in [("+400d", true), ("-400d", true), ("+0", false)] {
        let before = [dmz.log().len(), internal.log().len()];
        folder.write("clock", &format!("{jump}\n"));
        for (gateway, before) in [&dmz, &internal].into_iter().zip(before) {
            if is_judged {
                // It has noticed: a certificate has ended, or has not after all.
                until("the certificate is judged again", SOON, || {
                    gateway.log()[before..].contains("has expired").then_some(())
                });
            }
            assert_eq!(ended_otherwise(&gateway.status()), Vec::<&Value>::new(), "{jump}");
        }
        echo(&mut open);
        // Links are up, so whoever comes is served.
        echo(&mut connect(dmz.accept("echo")));
    }
    for gateway in [&dmz, &internal] {
        let status = gateway.wait_healthy();
        assert_eq!(ended_otherwise(&status), Vec::<&Value>::new());
    }
    echo(&mut open);
}
