//! Links inside WebSockets that share a port with services, distinguished by the path.

use std::{fs, net::SocketAddr, sync::Arc};

use futures_util::{SinkExt, StreamExt};
use portcullis::{gateway::handle::Command, profile::Mode, tasks::Tasks, telemetry::snapshot::PoolState};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use crate::support::{
    gateway::{Gateway, PATIENCE, TestFolder},
    mode_pair::{DMZ_TLS, INTERNAL_TLS},
    peers::{Reserved, dial, expect_bytes, send},
    tls::{chain, roots},
};

const CERTIFICATE: &str = "{ certificate: pki/dmz.pem, key: pki/dmz.key }";

/// Answers every request with its target.
struct Pages {
    at: SocketAddr,
    _tasks: Tasks,
}

impl Pages {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let tasks = Tasks::default();
        let of_each = tasks.clone();
        tasks.spawn("pages", async move {
            while let Ok((stream, _)) = listener.accept().await {
                of_each.spawn("page", answer_requests(stream));
            }
        });
        Self { at, _tasks: tasks }
    }
}

async fn answer_requests(mut stream: TcpStream) {
    let mut head = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        head.push(byte);
        if head.ends_with(b"\r\n\r\n") {
            let text = String::from_utf8(std::mem::take(&mut head)).unwrap();
            let target = text.split(' ').nth(1).unwrap();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target}", target.len());
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// What stands around everything on the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outer {
    None,
    Tls,
}

impl Outer {
    fn link(self, at: impl std::fmt::Display) -> String {
        let scheme = if self == Self::Tls { "socks+wss" } else { "socks+ws" };
        format!("{scheme}://{at}/link")
    }

    /// The services `pages` and `live`, with more keys for the half.
    fn services(self, at: SocketAddr) -> String {
        let (secure, tls) = match self {
            Self::None => ("", String::new()),
            Self::Tls => ("s", format!(", tls: {CERTIFICATE}")),
        };
        format!(
            "    pages: {{ accept: 'http{secure}://{at}'{tls} }}\n    \
             live: {{ accept: 'ws{secure}://{at}/live'{tls} }}\n"
        )
    }

    fn dmz(self, at: SocketAddr, more: &str) -> String {
        let (link, services) = (self.link(at), self.services(at));
        format!(
            "mode: reverse\ndrain: 1s\ndmz:\n  link: {{ listen: '{link}', tls: {DMZ_TLS} }}\n{more}  services:\n{services}"
        )
    }

    fn internal(self, link: &str, pages: &Pages) -> String {
        let outer = if link.contains("wss") { ", outer: { ca: pki/ca.pem, name: dmz }" } else { "" };
        format!(
            "mode: reverse\ndrain: 1s\ninternal:\n  link: {{ connect: '{link}', prepared: 2, tls: {INTERNAL_TLS}{outer} }}\n  \
             services: {{ pages: {{ connect: 'http://{}' }}, live: {{ connect: 'echo://' }} }}\n",
            pages.at
        )
    }
}

async fn until_healthy(gateway: &Gateway) {
    let is_healthy = |row: &portcullis::telemetry::snapshot::PoolRow| row.state == PoolState::Healthy;
    gateway.until("links are up", |now| now.pools.iter().all(is_healthy)).await;
}

async fn in_tls(
    folder: &TestFolder,
    at: SocketAddr,
    name: &'static str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let config = ClientConfig::builder().with_root_certificates(roots(folder)).with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let shaken = connector.connect(ServerName::try_from(name).unwrap(), dial(at).await);
    timeout(PATIENCE, shaken).await.expect("TLS in time")
}

/// Asks, and reads the answer: its status and its body.
async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    requested: &str,
    host: &str,
) -> (u16, String) {
    send(stream, format!("{requested} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, stream.read_u8()).await.expect("a head in time").unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).unwrap().split('\r').next().unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    timeout(PATIENCE, stream.read_exact(&mut body)).await.expect("a body in time").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), String::from_utf8(body).unwrap())
}

async fn open_socket<S: AsyncRead + AsyncWrite + Unpin>(stream: S, path: &str) -> WebSocketStream<S> {
    let opened = client_async(format!("ws://any.example.com{path}"), stream);
    timeout(PATIENCE, opened).await.expect("an answer in time").unwrap().0
}

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>, words: &'static str) {
    socket.send(Message::binary(words.as_bytes())).await.unwrap();
    let came = timeout(PATIENCE, socket.next()).await.expect("an echo in time").unwrap().unwrap();
    assert_eq!(came, Message::binary(words.as_bytes()));
}

fn not_there() -> (u16, String) {
    (404, "there is no such service\n".into())
}

fn page_of(target: &str) -> (u16, String) {
    (200, target.into())
}

/// What the port has to do for clients, whatever links do on it.
async fn check_services<S: AsyncRead + AsyncWrite + Unpin>(mut page: S, live: S) {
    for host in ["dmz", "any.example.com"] {
        assert_eq!(ask(&mut page, "GET /", host).await, page_of("/"));
        for method in ["GET", "POST", "OPTIONS"] {
            assert_eq!(ask(&mut page, &format!("{method} /link"), host).await, not_there(), "{method}");
        }
        // The path is matched exactly: what is below it, or like it, is the service's.
        for target in ["/link/", "/link/below", "/LINK", "/linked"] {
            assert_eq!(ask(&mut page, &format!("GET {target}"), host).await, page_of(target));
        }
    }
    let mut live = open_socket(live, "/live").await;
    echo(&mut live, "over the link").await;
}

#[tokio::test]
async fn a_link_and_services_share_a_port() {
    let pages = Pages::new().await;
    for outer in [Outer::None, Outer::Tls] {
        println!("{outer:?}");
        let (folder, port) = (TestFolder::new(), Reserved::new());
        let at = port.at();
        let dmz = folder.start("dmz", &outer.dmz(at, ""));
        assert_eq!(dmz.now().await.listening, [outer.link(at)]);
        let internal = folder.start("internal", &outer.internal(&outer.link(at), &pages));
        until_healthy(&internal).await;
        until_healthy(&dmz).await;
        match outer {
            Outer::None => check_services(dial(at).await, dial(at).await).await,
            Outer::Tls => {
                let (one, other) =
                    (in_tls(&folder, at, "dmz").await.unwrap(), in_tls(&folder, at, "dmz").await.unwrap());
                check_services(one, other).await;
            }
        }
        internal.stop().await;
        dmz.stop().await;
    }
}

/// Whom clients are, and how many, does not concern links.
#[tokio::test]
async fn the_guards_of_clients_do_not_concern_links() {
    let (folder, port, pages) = (TestFolder::new(), Reserved::new(), Pages::new().await);
    let at = port.at();
    let guarded = "{ allow: [192.0.2.0/24] }\n  per_client: { sessions: 1, rate: 1/s, burst: 1 }\n";
    let dmz = Outer::None.dmz(at, &format!("  clients: {guarded}"));
    let dmz = dmz.replace("/live'", "/live', origins: ['https://www.example.com'], sessions: 1");
    let dmz = folder.start("dmz", &dmz);
    let internal = folder.start("internal", &Outer::None.internal(&Outer::None.link(at), &pages));
    until_healthy(&internal).await;
    until_healthy(&dmz).await;
    let mut page = dial(at).await;
    assert_eq!(ask(&mut page, "GET /", "any").await.0, 403);
    assert_eq!(ask(&mut page, "GET /link", "any").await, not_there());
}

/// The one session that its service and its address may have is open, and links still come.
#[tokio::test]
async fn links_come_while_clients_have_used_up_what_they_may_have() {
    let (folder, port, pages) = (TestFolder::new(), Reserved::new(), Pages::new().await);
    let at = port.at();
    let dmz = Outer::None.dmz(at, "  per_client: { sessions: 1 }\n").replace("/live'", "/live', sessions: 1");
    let dmz = folder.start("dmz", &dmz);
    let profile = Outer::None.internal(&Outer::None.link(at), &pages);
    let internal = folder.start("internal", &profile);
    until_healthy(&internal).await;
    let mut live = open_socket(dial(at).await, "/live").await;
    echo(&mut live, "first").await;
    let refused = client_async("ws://any.example.com/live", dial(at).await);
    assert!(timeout(PATIENCE, refused).await.expect("an answer in time").is_err(), "it is not used up");
    let second = folder.start("second", &profile);
    until_healthy(&second).await;
    echo(&mut live, "still").await;
    until_healthy(&dmz).await;
}

/// What a client that is not a peer does once the connection is a WebSocket, and the one line that is logged
/// about it.
#[tokio::test]
async fn strangers_at_the_path_cost_themselves_alone() {
    let (folder, port, pages) = (TestFolder::new(), Reserved::new(), Pages::new().await);
    let at = port.at();
    let dmz = folder.start("dmz", &Outer::None.dmz(at, ""));
    let internal = folder.start("internal", &Outer::None.internal(&Outer::None.link(at), &pages));
    until_healthy(&dmz).await;
    let mut live = open_socket(dial(at).await, "/live").await;
    let mut page = dial(at).await;
    for (wire, words) in [
        (&b"\x82\x01a"[..], "WebSocket: an unmasked frame"),
        (b"\x81\x81\0\0\0\0a", "WebSocket: a text message, where all are binary"),
        (b"GET / HTTP/1.1\r\n\r\n", "WebSocket: a frame with a reserved bit"),
        (b"\x82\x85\0\0\0\0hello", "TLS: "),
        (b"\x82\xff\0\0\0\0\0\x01\0\0\0\0\0\0\x16\x03", "its handshake was not complete within 5s"),
    ] {
        let mut stranger = open_socket(dial(at).await, "/link").await;
        stranger.get_mut().write_all(wire).await.unwrap();
        let reported = dmz.until_notice(words).await;
        assert!(reported.contains("link from 127.0.0.1"), "{reported}");
        echo(&mut live, "still").await;
        assert_eq!(ask(&mut page, "GET /", "any").await, page_of("/"));
    }
    until_healthy(&internal).await;
}

/// One address asks for links over and over, by many connections at once, until it is stopped.
async fn flood(at: SocketAddr, tasks: &Tasks) -> tokio_util::sync::DropGuard {
    let stop = tokio_util::sync::CancellationToken::new();
    for _ in 0..8 {
        let stop = stop.clone();
        tasks.spawn("flood", async move {
            let mut held = std::collections::VecDeque::new();
            while !stop.is_cancelled() {
                let Ok(stream) = TcpStream::connect(at).await else { continue };
                if let Ok((socket, _)) = client_async("ws://any/link", stream).await {
                    held.push_back(socket);
                }
                if held.len() > 32 {
                    held.pop_front();
                }
            }
        });
    }
    stop.drop_guard()
}

#[tokio::test]
async fn upgrades_without_end_leave_room_for_services_and_peers() {
    let (folder, port, pages) = (TestFolder::new(), Reserved::new(), Pages::new().await);
    let at = port.at();
    let dmz = folder.start("dmz", &Outer::None.dmz(at, ""));
    let _flooding = flood(at, &Tasks::default()).await;
    dmz.until_notice("too many handshakes at once").await;
    let internal = folder.start("internal", &Outer::None.internal(&Outer::None.link(at), &pages));
    until_healthy(&internal).await;
    let mut page = dial(at).await;
    let mut live = open_socket(dial(at).await, "/live").await;
    for _ in 0..50 {
        assert_eq!(ask(&mut page, "GET /", "any").await, page_of("/"));
        echo(&mut live, "all the while").await;
        let mut new = dial(at).await;
        assert_eq!(ask(&mut new, "GET /new", "any").await, page_of("/new"));
    }
}

/// Links may have a certificate of their own, for names that mean no service; it is renewed as others are.
#[tokio::test]
async fn links_show_a_certificate_of_their_own_beside_named_services() {
    let folder = TestFolder::with(&["dmz", "internal", "www", "gate"]);
    let (port, pages) = (Reserved::new(), Pages::new().await);
    let at = port.at();
    let dmz = format!(
        "mode: reverse\ndmz:\n  link: {{ listen: 'socks+wss://{at}/link', tls: {DMZ_TLS}, \
         outer: {{ certificate: pki/gate.pem, key: pki/gate.key }} }}\n  services:\n    \
         pages: {{ accept: {{ address: 'https://{at}', sni: www, tls: {{ certificate: pki/www.pem, key: pki/www.key }} }} }}\n    \
         live: {{ accept: {{ address: 'tls://{at}', sni: dmz, tls: {CERTIFICATE} }} }}\n"
    );
    let dmz = folder.start("dmz", &dmz);
    let internal = Outer::Tls.internal(&Outer::Tls.link(at), &pages).replace("name: dmz", "name: gate");
    let internal = folder.start("internal", &internal);
    until_healthy(&internal).await;
    let mut www = in_tls(&folder, at, "www").await.unwrap();
    assert_eq!(ask(&mut www, "GET /", "www").await, page_of("/"));
    assert_eq!(ask(&mut www, "GET /link", "www").await, not_there());
    let mut gate = in_tls(&folder, at, "gate").await.unwrap();
    // Nothing but links is there.
    for target in ["/", "/link", "/live"] {
        assert_eq!(ask(&mut gate, &format!("GET {target}"), "www").await, not_there());
    }
    let mut live = in_tls(&folder, at, "dmz").await.unwrap();
    send(&mut live, b"bytes behind a name").await;
    expect_bytes(&mut live, b"bytes behind a name").await;
    // A link goes by the name of a service as well.
    drop(open_socket(in_tls(&folder, at, "www").await.unwrap(), "/link").await);
    let shown = |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    assert_eq!(shown(&gate), chain(&folder, "gate.pem")[0]);
    let fresh = TestFolder::with(&["gate"]);
    for file in ["gate.pem", "gate.key"] {
        fs::copy(fresh.pki(file), folder.pki(file)).unwrap();
    }
    fs::copy(fresh.pki("ca.pem"), folder.pki("fresh-ca.pem")).unwrap();
    dmz.until_notice("certificates renewed: ").await;
    let error = in_tls(&folder, at, "gate").await.unwrap_err();
    assert!(error.to_string().contains("invalid peer certificate"), "{error}");
    // The link that is up is not concerned.
    until_healthy(&internal).await;
}

/// Where links come in moves from a port of their own to that of services, and back: no session notices.
#[tokio::test]
async fn a_switch_moves_links_to_the_port_of_services_and_back() {
    let (folder, pages) = (TestFolder::new(), Pages::new().await);
    let (own, port) = (Reserved::new(), Reserved::new());
    let (own, at) = (own.at(), port.at());
    let shared = Outer::Tls.dmz(at, "");
    let alone = shared.replace(&Outer::Tls.link(at), &format!("socks+tls://{own}"));
    let other = shared.replace(&Outer::Tls.link(at), &format!("socks+wss://{at}/other"));
    let links = [format!("socks+tls://{own}"), Outer::Tls.link(at), format!("socks+wss://{at}/other")];
    let outer: Vec<_> = [&alone, &shared, &other]
        .iter()
        .zip(["alone", "shared", "other"])
        .map(|(text, name)| folder.profile(name, text))
        .collect();
    let inner: Vec<_> = links
        .iter()
        .zip(["to-alone", "to-shared", "to-other"])
        .map(|(link, name)| folder.profile(name, &Outer::Tls.internal(link, &pages)))
        .collect();
    let (dmz, internal) = (folder.start_file(&outer[0]), folder.start_file(&inner[0]));
    until_healthy(&dmz).await;
    let mut live = open_socket(in_tls(&folder, at, "dmz").await.unwrap(), "/live").await;
    echo(&mut live, "before").await;
    for to in [1, 2, 0, 1] {
        let (one, two) = tokio::join!(dmz.switch(&outer[to]), internal.switch(&inner[to]));
        println!("{one}; {two}");
        assert_eq!(dmz.now().await.listening, [links[to].clone()]);
        echo(&mut live, "after").await;
        let mut page = in_tls(&folder, at, "dmz").await.unwrap();
        assert_eq!(ask(&mut page, "GET /", "any").await, page_of("/"));
        let there = ask(&mut page, "GET /link", "any").await;
        assert_eq!(there, if to == 1 { not_there() } else { page_of("/link") });
    }
}

/// A switch that the other half does not follow closes what it has opened on a port that goes on.
#[tokio::test]
async fn an_unused_link_endpoint_is_closed_again() {
    let (folder, pages, own, port) =
        (TestFolder::new(), Pages::new().await, Reserved::new(), Reserved::new());
    let (own, at) = (own.at(), port.at());
    let shared = Outer::None.dmz(at, "");
    let alone = shared.replace(&Outer::None.link(at), &format!("socks+tls://{own}"));
    let dmz = folder.start("alone", &alone);
    let internal = folder.start("internal", &Outer::None.internal(&format!("socks+tls://{own}"), &pages));
    until_healthy(&internal).await;
    let shared = folder.profile("shared", &shared).to_str().unwrap().to_owned();
    let why = dmz.refusal_of(Command::Switch { profile: shared }).await;
    assert!(why.contains(&format!("no internal gateway has dialled in at socks+ws://{at}/link")), "{why}");
    assert_eq!(dmz.now().await.listening, [format!("socks+tls://{own}")]);
    let mut page = dial(at).await;
    assert_eq!(ask(&mut page, "GET /link", "any").await, page_of("/link"));
}

/// What links show may come with a service that is new on the port: it is there before that service is, and goes again
/// with a switch that comes to nothing.
#[tokio::test]
async fn links_come_by_the_name_of_a_service_that_a_switch_brings() {
    let folder = TestFolder::with(&["dmz", "internal", "www", "gate"]);
    let (pages, own, port) = (Pages::new().await, Reserved::new(), Reserved::new());
    let (own, at) = (own.at(), port.at());
    let accept = |scheme: &str, path: &str, name: &str| {
        let tls = format!("{{ certificate: pki/{name}.pem, key: pki/{name}.key }}");
        format!("{{ accept: {{ address: '{scheme}://{at}{path}', sni: {name}, tls: {tls} }} }}")
    };
    let dmz = |link: &str, live: &str| {
        let page = accept("https", "", "www");
        format!(
            "mode: reverse\ndmz:\n  link: {{ listen: '{link}', tls: {DMZ_TLS} }}\n  services:\n    pages: {page}\n    live: {live}\n"
        )
    };
    let bare = format!("socks+tls://{own}");
    let outer = folder.profile("named", &dmz(&Outer::Tls.link(at), &accept("wss", "/live", "gate")));
    let inner = Outer::Tls.internal(&Outer::Tls.link(at), &pages).replace("name: dmz", "name: gate");
    let inner = folder.profile("to-named", &inner);
    let dmz = folder.start("dmz", &dmz(&bare, "{ accept: 'tcp://127.0.0.1:0' }"));
    let internal = folder.start("internal", &Outer::Tls.internal(&bare, &pages));
    until_healthy(&dmz).await;
    dmz.refusal_of(Command::Switch { profile: outer.to_str().unwrap().into() }).await;
    assert!(in_tls(&folder, at, "gate").await.is_err(), "nobody has that name any more");
    tokio::join!(dmz.switch(&outer), internal.switch(&inner));
    until_healthy(&dmz).await;
    let mut live = open_socket(in_tls(&folder, at, "gate").await.unwrap(), "/live").await;
    echo(&mut live, "by its name").await;
    let mut www = in_tls(&folder, at, "www").await.unwrap();
    assert_eq!(ask(&mut www, "GET /", "www").await, page_of("/"));
}

/// The port of links becomes one of services as well, and theirs alone again, by a reload; links do not hear of it.
#[tokio::test]
async fn a_reload_brings_services_to_the_port_of_links() {
    let (folder, pages, port) = (TestFolder::new(), Pages::new().await, Reserved::new());
    let at = port.at();
    let shared = Outer::Tls.dmz(at, "");
    let own = shared.replace(&format!("https://{at}"), "https://127.0.0.1:0");
    let own = own.replace(&format!("wss://{at}/live"), "wss://127.0.0.1:0/live");
    let own = own.replace("dmz:\n  link: {", &format!("dmz:\n  link: {{ outer: {CERTIFICATE},"));
    assert!(own.contains("outer"), "{own}");
    let dmz = folder.start("dmz", &own);
    let internal = folder.start("internal", &Outer::Tls.internal(&Outer::Tls.link(at), &pages));
    until_healthy(&internal).await;
    let rows = |now: &portcullis::telemetry::snapshot::Snapshot| {
        now.pools.iter().map(|row| (row.state, row.ready)).collect::<Vec<_>>()
    };
    let before = rows(&*internal.now().await);
    let mut page = in_tls(&folder, at, "dmz").await.unwrap();
    assert_eq!(ask(&mut page, "GET /", "any").await, not_there());
    folder.profile("dmz", &shared);
    dmz.done(Command::Reload).await;
    let mut page = in_tls(&folder, at, "dmz").await.unwrap();
    assert_eq!(ask(&mut page, "GET /", "any").await, page_of("/"));
    folder.profile("dmz", &own);
    dmz.done(Command::Reload).await;
    let mut page = in_tls(&folder, at, "dmz").await.unwrap();
    assert_eq!(ask(&mut page, "GET /", "any").await, not_there());
    assert_eq!(rows(&*internal.now().await), before);
    assert!(!internal.now().await.notices.iter().any(|line| line.text.contains("lost")));
}

/// In forward mode it is the internal half that listens; only in a pair of one process can it have services beside it.
#[tokio::test]
async fn a_pair_in_forward_mode_shares_a_port_too() {
    let (folder, pages, port) = (TestFolder::new(), Pages::new().await, Reserved::new());
    let at = port.at();
    let link = Outer::None.link(at);
    let services = Outer::None.services(at);
    let pair = format!(
        "mode: forward\ndmz:\n  link: {{ connect: '{link}', tls: {DMZ_TLS} }}\n  services:\n{services}internal:\n  \
         link: {{ listen: '{link}', tls: {INTERNAL_TLS} }}\n  services: {{ pages: {{ connect: 'http://{}' }}, live: {{ connect: 'echo://' }} }}\n",
        pages.at
    );
    let pair = folder.start("pair", &pair);
    until_healthy(&pair).await;
    check_services(dial(at).await, dial(at).await).await;
    assert_eq!(pair.now().await.listening, [link]);
    assert_eq!(pair.now().await.mode, Mode::Forward);
}

#[tokio::test]
async fn a_client_becomes_a_link_on_a_connection_that_has_asked_before() {
    let (folder, port, pages) = (TestFolder::new(), Reserved::new(), Pages::new().await);
    let at = port.at();
    let dmz = folder.start("dmz", &Outer::None.dmz(at, ""));
    let _internal = folder.start("internal", &Outer::None.internal(&Outer::None.link(at), &pages));
    until_healthy(&dmz).await;
    let mut client = dial(at).await;
    assert_eq!(ask(&mut client, "GET /", "any").await, page_of("/"));
    // What is said right behind the request belongs to the link.
    send(&mut client, &[UPGRADE, b"\x82\x85\0\0\0\0hello"].concat()).await;
    expect_bytes(&mut client, b"HTTP/1.1 101 Switching Protocols\r\n").await;
    dmz.until_notice("link from 127.0.0.1").await;
}

const UPGRADE: &[u8] = b"GET /link HTTP/1.1\r\nHost: any\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Behind proxies that say who their clients are, links are identified by who has dialled.
#[tokio::test]
async fn a_proxy_header_identifies_who_dials_a_link() {
    let (folder, port) = (TestFolder::new(), Reserved::new());
    let at = port.at();
    let proxied = |text: String, scheme: &str, path: &str| {
        let (from, address) =
            (format!("'{scheme}://{at}{path}'"), format!("address: '{scheme}://{at}{path}'"));
        text.replace(&from, &format!("{{ {address}, proxy: {{ from: [127.0.0.0/8] }} }}"))
    };
    let dmz = proxied(proxied(Outer::None.dmz(at, ""), "http", ""), "ws", "/live");
    let dmz = folder.start("dmz", &dmz);
    let mut client = dial(at).await;
    let header = b"PROXY TCP4 192.0.2.9 192.0.2.1 4711 443\r\n";
    send(&mut client, &[header, UPGRADE, b"\x82\x85\0\0\0\0hello"].concat()).await;
    expect_bytes(&mut client, b"HTTP/1.1 101 Switching Protocols\r\n").await;
    dmz.until_notice("link from 192.0.2.9").await;
}
