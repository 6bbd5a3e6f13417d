//! Many that are turned away.

use std::io::{Read, Write};

use crate::{
    connect,
    process::{Place, SOON, until},
};

const PROFILE: &str = "mode: direct\ndmz:\n  services:\n    echo: { accept: { address: 'tcp://127.0.0.1:0', \
                       proxy: { from: [127.0.0.1] } }, connect: 'echo://' }\n";
const CLIENTS: usize = 400;

#[test]
fn a_flood_of_strangers_is_a_few_lines_in_the_log() {
    let place = Place::with_certificates();
    place.write("one.yaml", PROFILE);
    let gateway = place.start_as("one", &[], &["--no-ui", "--profile", "one.yaml"]);
    let port = gateway.accept("echo");
    for _ in 0..CLIENTS {
        let mut client = connect(port);
        // It may be reset before all is taken, and is then.
        let _ = client.write_all(b"GET / HTTP/1.1\r\n\r\n");
        let _ = client.read(&mut [0]);
    }
    until("the rest is counted", SOON, || {
        gateway.log().contains("clients turned away within a second").then_some(())
    });
    let log = gateway.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("turned away")).collect();
    assert!(lines.len() < CLIENTS / 4, "{} lines", lines.len());
    assert!(lines[0].contains("its byte 0 is 0x47; let the proxy send one"), "{}", lines[0]);
}
