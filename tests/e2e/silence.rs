//! A peer that stops sending at any point affects no one else, and a stop still works.

use std::process::Command as Program;

use portcullis::{
    gateway::{
        GatewayOutcome,
        handle::{Command, CommandAnswer},
    },
    profile::Mode,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::support::{
    frames::{self, OURS, RawLink},
    gateway::{Gateway, PATIENCE, TestFolder},
    mode_pair::INTERNAL_TLS,
    peers::{Backend, dial, expect_bytes, send},
};

fn word(mode: Mode) -> &'static str {
    if mode == Mode::Forward { "forward" } else { "reverse" }
}

/// Everything that a client can say first has its service here, and `void` is another peer's.
fn dmz(mode: Mode, link: &str) -> String {
    let mode = word(mode);
    let pki = "certificate: pki/dmz.pem, key: pki/dmz.key";
    let peers = "ca: pki/ca.pem, peers: [internal, other]";
    format!(
        "mode: {mode}\ndrain: 500ms\ndmz:\n  link: {{ {link}, tls: {{ {pki}, {peers} }} }}\n  \
         services:\n    \
         orders: {{ accept: ['tcp://127.0.0.1:0'], peers: [internal] }}\n    \
         mute: {{ accept: ['tcp://127.0.0.1:0'], peers: [internal] }}\n    \
         vault: {{ accept: ['tcp://127.0.0.1:0'], peers: [internal] }}\n    \
         sealed: {{ accept: ['tls://127.0.0.1:0'], tls: {{ {pki} }}, peers: [internal] }}\n    \
         pages: {{ accept: ['http://127.0.0.1:0'], peers: [internal] }}\n    \
         live: {{ accept: ['ws://127.0.0.1:0'], peers: [internal] }}\n    \
         mail: {{ accept: [{{ address: 'tcp://127.0.0.1:0', proxy: {{ from: [127.0.0.0/8] }} }}], peers: [internal] }}\n    \
         void: {{ accept: ['tcp://127.0.0.1:0'], peers: [other] }}\n"
    )
}

fn internal(mode: Mode, link: &str, mute: &str) -> String {
    let mode = word(mode);
    let backend = mute.trim_start_matches("tcp://");
    format!(
        "mode: {mode}\ndrain: 500ms\ninternal:\n  link: {{ {link}, tls: {INTERNAL_TLS} }}\n  services:\n    \
         orders: {{ connect: 'echo://' }}\n    mute: {{ connect: '{mute}' }}\n    \
         vault: {{ connect: {{ address: 'tls://{backend}', tls: {{ ca: pki/ca.pem, name: www }} }} }}\n    sealed: {{ connect: 'echo://' }}\n    \
         pages: {{ connect: 'http://{backend}' }}\n    live: {{ connect: 'echo://' }}\n    mail: {{ connect: 'echo://' }}\n"
    )
}

/// A client that says this and no more, but stays.
async fn silent_client(dmz: &Gateway, service: &str, sent: &[u8]) -> TcpStream {
    let mut client = dial(dmz.client_port(service).await).await;
    send(&mut client, sent).await;
    client
}

/// A link of another peer, which offers `void` and answers nothing from then on.
async fn silent_link(folder: &TestFolder, dmz: &Gateway) -> RawLink {
    let mut link = RawLink::dial(folder, "other", dmz.link_port().await, "dmz", &[OURS]).await;
    let offer = frames::offer(4, 8, &["void"]);
    link.send_frame(frames::HELLO, &offer).await;
    link.expect_kind(frames::HELLO).await;
    link
}

async fn echoes(dmz: &Gateway) {
    let echoing = async {
        let mut client = dial(dmz.client_port("orders").await).await;
        send(&mut client, b"still here").await;
        expect_bytes(&mut client, b"still here").await;
    };
    timeout(PATIENCE, echoing).await.expect("no client waits for those that are silent");
}

async fn ask(gateway: &Gateway, command: Command) -> CommandAnswer {
    timeout(PATIENCE, gateway.handle.send_and_wait(command))
        .await
        .expect("no operator waits for those that are silent")
}

/// Silent before and within each thing that is read of clients; `void` waits for its `open`.
async fn silent_clients(outer: &Gateway) -> Vec<TcpStream> {
    let head = b"POST / HTTP/1.1\r\nHost: pages\r\nContent-Length: 10\r\n";
    let whole_head = [&head[..], b"\r\nhalf"].concat();
    let handshake = b"GET / HTTP/1.1\r\nHost: live\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    let mut clients = Vec::new();
    for (service, sent) in [
        ("mute", &b""[..]),
        ("mute", b"a question without an answer"),
        ("vault", b"to a backend that begins no TLS"),
        ("sealed", b""),
        ("sealed", &[0x16, 3, 1, 2, 0, 1, 0]),
        ("pages", b""),
        ("pages", head),
        ("pages", &whole_head),
        ("pages", b"GET /never-answered HTTP/1.1\r\nHost: pages\r\n\r\n"),
        ("live", b"GET / HTTP/1.1\r\n"),
        ("live", handshake),
        ("mail", b""),
        ("mail", b"PROXY TCP4 192.0.2.1"),
        ("void", b"to nobody"),
    ] {
        for _ in 0..3 {
            clients.push(silent_client(outer, service, sent).await);
        }
    }
    // One has said all, and gets no end.
    let mut half_closed = silent_client(outer, "mute", b"the last word").await;
    half_closed.shutdown().await.unwrap();
    clients.push(half_closed);
    clients
}

async fn others_go_on(mode: Mode, outer: &Gateway, inner: &Gateway) {
    for _ in 0..5 {
        for _ in 0..10 {
            echoes(outer).await;
        }
        assert!(matches!(ask(outer, Command::Status).await, CommandAnswer::Status(_)));
        for gateway in [outer, inner] {
            let reloaded = ask(gateway, Command::Reload).await;
            assert!(matches!(reloaded, CommandAnswer::Done(_)), "{mode:?}: {reloaded:?}");
        }
        // The pipe is refused by name, and the rest of the folder is listed.
        match ask(outer, Command::Profiles).await {
            CommandAnswer::Profiles(rows) => assert!(rows.iter().any(|row| row.name == "pipe"), "{rows:?}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_anywhere_delays_neither_others_nor_a_stop() {
    for mode in [Mode::Reverse, Mode::Forward] {
        check_silence(mode).await;
    }
}

async fn check_silence(mode: Mode) {
    let folder = TestFolder::with(&["dmz", "internal", "other"]);
    let mute = Backend::new().await;
    // A gateway that takes each link, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = "listen: 'socks+tls://127.0.0.1:0'";
    let (outer, inner) = match mode {
        Mode::Forward => {
            let inner = folder.start("internal", &internal(mode, listen, &mute.address()));
            let (at, silent) = (inner.link_port().await, silent.local_addr().unwrap());
            let connect = format!("connect: ['socks+tls://{at}', 'socks+tls://{silent}']");
            (folder.start("dmz", &dmz(mode, &connect)), inner)
        }
        Mode::Reverse | Mode::Direct => {
            let outer = folder.start("dmz", &dmz(mode, listen));
            let connect = format!("connect: 'socks+tls://{}'", outer.link_port().await);
            (outer, folder.start("internal", &internal(mode, &connect, &mute.address())))
        }
    };
    outer.until("the way is ready", |s| s.pools.iter().any(|row| row.ready >= 4)).await;

    // A profile that is a pipe, which nobody writes to.
    let pipe = Program::new("mkfifo").arg(folder.path("pipe.yaml")).status().unwrap();
    assert!(pipe.success());
    // Links: nothing at all, half a ClientHello, and a peer that never answers `open`.
    let listener = if mode == Mode::Forward { &inner } else { &outer };
    let port = listener.link_port().await;
    let mut links = vec![dial(port).await, dial(port).await];
    send(&mut links[1], &[0x16, 3, 1, 2, 0, 1, 0]).await;
    let silent_peer = match mode {
        Mode::Reverse => Some(silent_link(&folder, &outer).await),
        Mode::Forward | Mode::Direct => None,
    };
    let clients = silent_clients(&outer).await;
    let backends = async {
        let mut held = Vec::new();
        loop {
            held.push(mute.listener.accept().await.unwrap());
        }
    };
    tokio::select! {
        () = backends => {}
        () = others_go_on(mode, &outer, &inner) => {}
    }
    // What is silent is cut when the time for it is over.
    assert!(matches!(outer.stop().await, GatewayOutcome::Cut(_)));
    assert!(matches!(inner.stop().await, GatewayOutcome::Clean | GatewayOutcome::Cut(_)));
    drop((links, silent_peer, clients, silent));
}
