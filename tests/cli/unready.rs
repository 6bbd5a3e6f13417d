//! Client ports that are closed while no service on them is ready.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use crate::{
    connect,
    process::{SOON, TestFolder, until},
    run,
    setup::{dmz_half, free_port, internal_half},
};

fn is_refused(at: SocketAddr) -> bool {
    TcpStream::connect(at).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

fn echo(at: SocketAddr) {
    let mut client = connect(at);
    client.write_all(b"hello").expect("it is sent");
    client.read_exact(&mut [0; 5]).expect("it comes back");
}

#[test]
fn a_port_is_closed_while_no_service_on_it_is_ready_and_the_same_opens_again() {
    let folder = TestFolder::with_certificates();
    let port = free_port();
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let half = dmz_half("127.0.0.1:0", &["echo"]);
    let half = half.replace("tcp://127.0.0.1:0", &format!("tcp://127.0.0.1:{port}"));
    assert!(half.contains(&port.to_string()), "{half}");
    folder.write("dmz.yaml", &half.replace("dmz:\n", "dmz:\n  unready: refuse\n"));
    let dmz = folder.start("dmz");
    until("its port is closed", SOON, || is_refused(at).then_some(()));
    let link = format!("127.0.0.1:{}", dmz.link_port());
    folder.write("internal.yaml", &internal_half(&link, &[("echo", "echo://")]));
    for _ in 0..2 {
        let internal = folder.start("internal");
        until("its port is open", SOON, || TcpStream::connect(at).ok());
        echo(at);
        drop(internal);
        until("its port is closed again", SOON, || is_refused(at).then_some(()));
    }
    // What a reload takes back holds at once.
    folder.write("dmz.yaml", &half);
    let socket = folder.path("run/dmz.sock").display().to_string();
    assert_eq!(run(&folder, &["reload", "--admin", &socket]).code, Some(0));
    until("its port is open", SOON, || TcpStream::connect(at).ok());
    let log = dmz.log();
    assert!(
        log.contains(&format!("client port 127.0.0.1:{port}: closed while no service on it is ready")),
        "{log}"
    );
}
