//! netcat and socat: half-closes, by two programs that do them in their own way.

use std::process::Command;

use crate::{
    Server, has, printed,
    process::TestFolder,
    setup::{Pair, free_port},
};

/// A backend that answers only when its client has finished sending: with the count of bytes.
fn counter(port: u16) -> Server {
    let listen = format!("TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr");
    Server::start(Command::new("socat").args(["-t", "30", &listen, "SYSTEM:wc -c"]), port)
}

#[test]
fn netcat_half_closes_and_still_gets_its_answer() {
    if !has("netcat_half_closes_and_still_gets_its_answer", &["nc.openbsd", "socat", "bash"]) {
        return;
    }
    let folder = TestFolder::with_certificates();
    let backend = free_port();
    let _server = counter(backend);
    let pair = Pair::reverse(&folder, &[("count", &format!("tcp://127.0.0.1:{backend}"))]);
    let port = pair.dmz.accept("count").port();
    for bytes in [0, 1, 70_000, 5_000_000] {
        let script = format!("head -c {bytes} /dev/zero | nc.openbsd -N 127.0.0.1 {port}");
        assert_eq!(printed(&["bash", "-c", &script]).trim(), bytes.to_string());
    }
    for half in [&pair.dmz, &pair.internal] {
        let ended = half.wait("all sessions have ended", crate::SOON, |status| {
            status["ended"].as_array().is_some_and(|ended| ended.len() == 4)
        });
        for row in ended["ended"].as_array().expect("a list") {
            assert_eq!(row["end"], "--", "{row:#}");
        }
    }
}

#[test]
fn socat_half_closes_and_still_gets_its_answer() {
    if !has("socat_half_closes_and_still_gets_its_answer", &["socat", "bash"]) {
        return;
    }
    let folder = TestFolder::with_certificates();
    let backend = free_port();
    let _server = counter(backend);
    let pair = Pair::reverse(&folder, &[("count", &format!("tcp://127.0.0.1:{backend}"))]);
    let port = pair.dmz.accept("count").port();
    let script = format!("head -c 1000000 /dev/zero | socat -t 30 - TCP:127.0.0.1:{port}");
    assert_eq!(printed(&["bash", "-c", &script]).trim(), "1000000");
}
