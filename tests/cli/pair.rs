//! The two halves as processes of their own: either order, either one killed.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use rustix::process::Signal;
use serde_json::json;

use crate::{
    connect, is_reset,
    process::{SOON, TestFolder},
    setup::{Pair, dmz_half, free_port, internal_half},
};

fn echo(stream: &mut TcpStream) {
    stream.write_all(b"hello").expect("it is sent");
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).expect("it comes back");
    assert_eq!(&answer, b"hello");
}

#[test]
fn halves_find_each_other_in_the_other_order_too() {
    let folder = TestFolder::with_certificates();
    let link = format!("127.0.0.1:{}", free_port());
    folder.write("internal.yaml", &internal_half(&link, &[("echo", "echo://")]));
    let internal = folder.start("internal");
    let down = internal.wait("it says why there is no link", SOON, |status| {
        status["pools"][0]["state"] == "down" && status["pools"][0]["last_error"].is_string()
    });
    assert_eq!(down["phase"], "running");
    folder.write("dmz.yaml", &dmz_half(&link, &["echo"]));
    let dmz = folder.start("dmz");
    dmz.wait_healthy();
    internal.wait_healthy();
    echo(&mut connect(dmz.accept("echo")));
}

#[test]
fn a_killed_dmz_half_resets_its_clients_and_comes_back() {
    let folder = TestFolder::with_certificates();
    let pair = Pair::reverse(&folder, &[("echo", "echo://")]);
    let link = format!("127.0.0.1:{}", pair.dmz.link_port());
    let mut client = connect(pair.dmz.accept("echo"));
    echo(&mut client);
    let killed = pair.dmz.status()["instance"].clone();
    assert_eq!(pair.internal.status()["pools"][0]["instance"], killed);
    pair.dmz.signal(Signal::KILL);
    assert!(is_reset(&client.read(&mut [0])), "a killed gateway looks like a clean end");
    assert_eq!(pair.dmz.ended().code(), None, "it was killed");
    pair.internal.wait("the inside knows", SOON, |status| status["totals"]["sessions_open"] == 0);
    assert_ne!(pair.internal.status()["ended"][0]["end"], "--");
    let lost = pair.internal.wait("no link is up", SOON, |status| {
        status["pools"][0]["ready"] == 0 && status["pools"][0]["links"] == json!([])
    });
    assert_eq!(lost["pools"][0]["instance"], killed, "which process it was is not forgotten");
    folder.write("dmz.yaml", &dmz_half(&link, &["echo"]));
    let again = folder.start("dmz");
    again.wait_healthy();
    pair.internal.wait_healthy();
    assert_eq!(pair.internal.status()["pools"][0]["instance"], again.status()["instance"]);
    echo(&mut connect(again.accept("echo")));
}

#[test]
fn a_killed_internal_half_resets_the_clients_and_comes_back() {
    let folder = TestFolder::with_certificates();
    let pair = Pair::reverse(&folder, &[("echo", "echo://")]);
    let mut client = connect(pair.dmz.accept("echo"));
    echo(&mut client);
    pair.internal.signal(Signal::KILL);
    assert!(is_reset(&client.read(&mut [0])), "a killed gateway looks like a clean end");
    pair.dmz.wait("the pool is down", SOON, |status| status["pools"][0]["ready"] == 0);
    assert_eq!(pair.dmz.status()["ended"][0]["end"], "PR");
    assert_eq!(pair.internal.ended().code(), None, "it was killed");
    let again = folder.start("internal");
    again.wait_healthy();
    pair.dmz.wait_healthy();
    echo(&mut connect(pair.dmz.accept("echo")));
}
