//! Much data: iperf3 both ways, and a large stream compared by checksum.

use std::{env, process::Command};

use crate::{
    Server, has, printed,
    process::TestFolder,
    setup::{Pair, free_port},
};

#[test]
fn iperf3_measures_both_ways() {
    if !has("iperf3_measures_both_ways", &["iperf3"]) {
        return;
    }
    let folder = TestFolder::with_certificates();
    let backend = free_port();
    let mut command = Command::new("iperf3");
    let _server = Server::start(command.args(["-s", "-B", "127.0.0.1", "-p", &backend.to_string()]), backend);
    let pair = Pair::reverse(&folder, &[("speed", &format!("tcp://127.0.0.1:{backend}"))]);
    let port = pair.dmz.accept("speed").port().to_string();
    for direction in [&[][..], &["-R"], &["--bidir"]] {
        let line = ["iperf3", "-c", "127.0.0.1", "-p", &port, "-t", "1", "-P", "4", "-J"];
        let report: serde_json::Value =
            serde_json::from_str(&printed(&[&line[..], direction].concat())).expect("a report");
        let received = report["end"]["sum_received"]["bytes"].as_u64();
        assert!(received.is_some_and(|bytes| bytes >= 1_000_000), "{direction:?}: {}", report["end"]);
    }
}

#[test]
fn a_large_stream_arrives_with_its_checksum() {
    if !has(
        "a_large_stream_arrives_with_its_checksum",
        &["openssl", "sha256sum", "socat", "bash", "nc.openbsd"],
    ) {
        return;
    }
    let size: u64 = if env::var("CI").is_ok_and(|ci| ci == "true") { 1 << 30 } else { 256 << 20 };
    let folder = TestFolder::with_certificates();
    let backend = free_port();
    // Nothing is kept on disk: a cipher's key stream of a fixed key is both ends' file.
    let stream =
        format!("head -c {size} /dev/zero | openssl enc -aes-128-ctr -nosalt -K 706f727463756c6c6973 -iv 00");
    folder.write("serve.sh", &format!("{stream} 2>/dev/null\n"));
    folder.write("take.sh", "sha256sum\n");
    let listen = format!("TCP-LISTEN:{backend},bind=127.0.0.1,fork,reuseaddr");
    let (take, serve) = (folder.path("take.sh"), free_port());
    let mut up = Command::new("socat");
    let _up =
        Server::start(up.args(["-t", "60", &listen]).arg(format!("SYSTEM:bash {}", take.display())), backend);
    let listen = format!("TCP-LISTEN:{serve},bind=127.0.0.1,fork,reuseaddr");
    let script = format!("SYSTEM:bash {}", folder.path("serve.sh").display());
    let mut down = Command::new("socat");
    let _down = Server::start(down.args(["-U", &listen, &script]), serve);
    let pair = Pair::reverse(
        &folder,
        &[("up", &format!("tcp://127.0.0.1:{backend}")), ("down", &format!("tcp://127.0.0.1:{serve}"))],
    );
    let sum = |script: String| {
        let line = format!("set -o pipefail; {script}");
        printed(&["bash", "-c", &line]).split_whitespace().next().unwrap_or_default().to_owned()
    };
    let expected = sum(format!("{stream} 2>/dev/null | sha256sum"));
    assert_eq!(expected.len(), 64);
    let (up, down) = (pair.dmz.accept("up").port(), pair.dmz.accept("down").port());
    assert_eq!(sum(format!("{stream} 2>/dev/null | nc.openbsd -N 127.0.0.1 {up}")), expected, "upwards");
    assert_eq!(sum(format!("nc.openbsd -d 127.0.0.1 {down} | sha256sum")), expected, "downwards");
    let status = pair.dmz.status();
    assert_eq!(status["totals"]["bytes_up"], size);
    assert_eq!(status["totals"]["bytes_down"].as_u64(), Some(size + 68), "and the line with the sum");
}
