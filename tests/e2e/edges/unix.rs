//! Backends at Unix sockets: bytes and requests, what is said of one that is not there, and its checks.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use portcullis::{
    profile::Mode,
    telemetry::snapshot::{BackendRowState, ServicePhase},
};
use tokio::{
    io::AsyncReadExt,
    net::{UnixListener, UnixStream},
    time::timeout,
};

use super::http::{LAST, send_request};
use crate::support::{
    gateway::PATIENCE,
    mode_pair::{MODES, Plan},
    peers::{dial_refused, expect_bytes, expect_end, expect_reset, read_all, send},
};

/// A backend at a socket of a folder of its own.
struct SocketBackend {
    folder: tempfile::TempDir,
    listener: UnixListener,
}

impl SocketBackend {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("app.sock")).unwrap();
        Self { folder, listener }
    }

    fn address(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.folder.path().join("app.sock").display())
    }

    async fn accept(&self) -> UnixStream {
        timeout(PATIENCE, self.listener.accept()).await.expect("a connection in time").unwrap().0
    }
}

#[tokio::test]
async fn bytes_and_half_closes_reach_a_backend_at_a_unix_socket_in_every_mode() {
    for mode in MODES {
        let backend = SocketBackend::new();
        let pair = Plan::new(mode, &backend.address("unix")).start().await;
        let mut client = pair.client().await;
        let mut server = backend.accept().await;
        send(&mut client, b"ping").await;
        expect_bytes(&mut server, b"ping").await;
        let much = vec![7; 1 << 20];
        tokio::join!(send(&mut server, &much), expect_bytes(&mut client, &much));
        tokio::join!(send(&mut client, &much), expect_bytes(&mut server, &much));
        tokio::io::AsyncWriteExt::shutdown(&mut client).await.unwrap();
        expect_end(&mut server).await;
        send(&mut server, b"last").await;
        drop(server);
        assert_eq!(read_all(&mut client).await, b"last", "{mode:?}");
        let row = pair.inner().until_ended("--").await;
        assert_eq!((row.bytes_up, row.bytes_down), (4 + (1 << 20), 4 + (1 << 20)), "{mode:?}");
    }
}

/// A backend that dies with something unread: the kernel resets its connection, and the client's is.
#[tokio::test]
async fn a_backend_at_a_unix_socket_that_dies_is_a_cut() {
    for mode in MODES {
        let backend = SocketBackend::new();
        let pair = Plan::new(mode, &backend.address("unix")).start().await;
        let mut client = pair.client().await;
        let mut server = backend.accept().await;
        send(&mut client, b"unread").await;
        expect_bytes(&mut server, b"un").await;
        drop(server);
        expect_reset(&mut client).await;
    }
}

#[tokio::test]
async fn requests_reach_a_unix_socket_by_the_first_of_its_hosts() {
    for (hosts, host) in [("", "localhost"), (", hosts: [app.internal, other]", "app.internal")] {
        let backend = SocketBackend::new();
        let connect = format!("['{}']{hosts}", backend.address("http+unix"));
        let pair = Plan { accept: "http://127.0.0.1:0", ..Plan::new(Mode::Reverse, &connect) }.start().await;
        let at = pair.dmz.client_port("orders").await;
        let (answer, ()) = tokio::join!(send_request(at, LAST), async {
            let mut server = backend.accept().await;
            let mut received = Vec::new();
            while !received.ends_with(b"\r\n\r\n") {
                received.push(timeout(PATIENCE, server.read_u8()).await.expect("in time").unwrap());
            }
            let received = String::from_utf8(received).unwrap().to_lowercase();
            assert!(received.contains(&format!("host: {host}\r\n")), "{received}");
            let location =
                format!("HTTP/1.1 302 Found\r\nLocation: http://{host}/x\r\nContent-Length: 0\r\n\r\n");
            send(&mut server, location.as_bytes()).await;
        });
        // The name by which it knows itself means nothing outside.
        assert!(answer.contains("302") && answer.contains("location: /x\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn a_unix_socket_that_is_not_there_has_its_own_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("file"), "").unwrap();
    drop(std::os::unix::net::UnixListener::bind(path("left")).unwrap());
    let _locked = std::os::unix::net::UnixListener::bind(path("locked")).unwrap();
    fs::set_permissions(path("locked"), fs::Permissions::from_mode(0o400)).unwrap();
    let may_all = rustix::process::geteuid().is_root();
    for (name, words) in [
        ("missing", "there is no such socket"),
        ("file", "it is not a socket"),
        ("left", "nobody listens at it"),
        ("locked", "this gateway may not write to it"),
    ] {
        if name == "locked" && may_all {
            // Root may write to everything; `tests/cli/permissions.rs` tries it without that power.
            continue;
        }
        let address = format!("unix://{}", path(name).display());
        let pair = Plan::new(Mode::Direct, &address).start().await;
        dial_refused(pair.dmz.client_port("orders").await).await;
        let row = pair.dmz.until_ended("BC").await;
        let reason = row.reason;
        assert!(reason.contains(words) && reason.contains(&address), "{name}: {reason}");
    }
}

#[tokio::test]
async fn a_unix_socket_is_checked_and_stands_by_like_any_other_backend() {
    let backend = SocketBackend::new();
    let path = backend.folder.path().join("app.sock");
    let gone = backend.folder.path().join("gone.sock");
    let list = format!(
        "['unix://{}', {{ address: '{}', standby: true }}], \
         check: {{ every: 50ms, timeout: 1s, falls: 1, rises: 1 }}",
        gone.display(),
        backend.address("unix")
    );
    let pair = Plan::new(Mode::Reverse, &list).start().await;
    let states = |snapshot: &portcullis::telemetry::snapshot::Snapshot| -> Vec<_> {
        snapshot.services.iter().flat_map(|row| row.backends.iter().map(|row| row.state)).collect()
    };
    let inner = pair.inner();
    let seen = inner
        .until("the first is down", |now| states(now) == [BackendRowState::Down, BackendRowState::Up])
        .await;
    let row = seen.services[0].backends[0].clone();
    assert!(row.last_error.unwrap().contains("there is no such socket"));
    assert_eq!(row.address, format!("unix://{}", gone.display()));
    fs::remove_file(path).unwrap();
    inner
        .until_within(Duration::from_secs(20), "it is down", |now| {
            now.services[0].phase == ServicePhase::Down
        })
        .await;
    let _listener = UnixListener::bind(gone).unwrap();
    inner.until("it is up", |now| states(now) == [BackendRowState::Up, BackendRowState::Down]).await;
}

#[tokio::test]
async fn a_backend_at_a_unix_socket_learns_its_client() {
    let backend = SocketBackend::new();
    let connect = format!("{{ address: '{}', proxy: v1 }}", backend.address("unix"));
    let pair = Plan::new(Mode::Reverse, &connect).start().await;
    let client = pair.client().await;
    let (own, port) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
    let header = format!("PROXY TCP4 {} {} {} {}\r\n", own.ip(), port.ip(), own.port(), port.port());
    expect_bytes(&mut backend.accept().await, header.as_bytes()).await;
}
