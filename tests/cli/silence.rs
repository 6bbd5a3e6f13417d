//! A name server that never answers, and operators' programs that send half of a request and stay: all else goes on,
//! and the gateway stops when it is asked to.

use std::{
    io::{Read, Write},
    net::{TcpStream, UdpSocket},
    os::unix::net::UnixStream,
};

use crate::{
    connect, is_reset,
    process::{Gateway, SOON, TestFolder},
    run,
};

const STATUS: &[u8] = b"\"status\"";

/// A connection to the admin socket on which this has been sent, and no more will be.
fn half_request(folder: &TestFolder, sent: &[u8]) -> UnixStream {
    let mut admin = UnixStream::connect(folder.path("run/one.sock")).expect("the socket is there");
    admin.set_read_timeout(Some(SOON)).expect("a timeout is set");
    admin.write_all(sent).expect("it is sent");
    admin
}

fn echoes(gateway: &Gateway<'_>) {
    let mut client = connect(gateway.accept("echo"));
    client.write_all(b"still here").expect("it is sent");
    let mut received = [0; 10];
    client.read_exact(&mut received).expect("it is served");
    assert_eq!(&received, b"still here");
}

#[test]
fn a_silent_name_server_and_half_a_request_delay_neither_others_nor_a_stop() {
    let folder = TestFolder::with_certificates();
    // Whatever is asked there is never read.
    let names = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let resolver = names.local_addr().expect("its address");
    folder.write(
        "one.yaml",
        &format!(
            "mode: direct\ndrain: 300ms\nresolver: ['{resolver}']\ndmz:\n  services:\n    \
             echo: {{ accept: ['tcp://127.0.0.1:0'], connect: 'echo://' }}\n    \
             named: {{ accept: ['tcp://127.0.0.1:0'], connect: {{ address: 'tcp://never.example:9', each: true }} }}\n"
        ),
    );
    let gateway = folder.start("one");
    let length = u32::try_from(STATUS.len()).expect("it is short").to_be_bytes();
    let half = [&length[..], &STATUS[..4]].concat();
    let halves: [&[u8]; 4] = [b"", &length[..2], &length, &half];
    let mut admins: Vec<_> = halves.iter().cycle().take(12).map(|sent| half_request(&folder, sent)).collect();
    let mut waiting = Vec::<TcpStream>::new();
    for _ in 0..3 {
        waiting.push(connect(gateway.accept("named")));
        for _ in 0..10 {
            echoes(&gateway);
        }
        for command in ["status", "reload"] {
            let answered = run(&folder, &[command, "--admin", "run/one.sock"]);
            assert_eq!(answered.code, Some(0), "{command}: {}{}", answered.out, answered.err);
        }
    }
    let stopped = run(&folder, &["stop", "--admin", "run/one.sock"]);
    assert!(matches!(stopped.code, Some(0 | 3)), "{}{}", stopped.out, stopped.err);
    // A client whose name was never found may have been cut by the end of `drain`.
    assert!(matches!(gateway.ended().code(), Some(0 | 3)));
    for admin in &mut admins {
        let mut received = Vec::new();
        let end = admin.read_to_end(&mut received);
        assert!(end.is_ok() || is_reset(&end), "it is closed: {end:?}");
        assert!(!received.is_empty(), "it got the hello");
    }
    drop((names, waiting));
}
