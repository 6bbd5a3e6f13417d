//! Certificates that are renewed in their files: they are taken without a word from an operator, and
//! no session notices.

use std::{fs, net::SocketAddr, sync::Arc};

use portcullis::{
    certs,
    gateway::handle::Command,
    profile::Mode,
    telemetry::snapshot::{ServicePhase, Snapshot},
};
use rustls::{
    ClientConfig, ServerConfig,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use crate::{
    links::halves::OpenerHalf,
    support::{
        frames::{LinkOver, RETIRE},
        gateway::{Gateway, PATIENCE, TestFolder},
        mode_pair::{ModePair, Plan},
        peers::{Backend, Reserved, dial, expect_bytes, expect_end, send},
        tls::{chain, key, roots},
    },
};

pub const WWW: &str = "{ address: 'tls://127.0.0.1:0', tls: { certificate: pki/www.pem, key: pki/www.key } }";

fn folder() -> TestFolder {
    TestFolder::with(&["dmz", "internal", "www"])
}

/// A client that trusts the authority which `place` has now.
pub async fn ask(folder: &TestFolder, at: SocketAddr) -> TlsStream<TcpStream> {
    let config = ClientConfig::builder().with_root_certificates(roots(folder)).with_no_client_auth();
    let name = ServerName::try_from("www").unwrap();
    let asking = TlsConnector::from(Arc::new(config)).connect(name, dial(at).await);
    timeout(PATIENCE, asking).await.expect("an answer in time").unwrap()
}

pub fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

async fn echoes(client: &mut TlsStream<TcpStream>) {
    send(client, b"there?").await;
    expect_bytes(client, b"there?").await;
}

/// Issues new certificates by the same authority.
pub fn renew(folder: &TestFolder, name: &str) {
    for file in [format!("{name}.pem"), format!("{name}.key")] {
        fs::remove_file(folder.pki(&file)).unwrap();
    }
    certs::write(folder.pki("ca.pem").parent().unwrap(), &[certs::HalfNames { half: name, names: &[] }])
        .unwrap();
}

fn notices(snapshot: &Snapshot, text: &str) -> usize {
    snapshot.notices.iter().filter(|notice| notice.text.contains(text)).count()
}

async fn start(folder: &TestFolder) -> (Gateway, SocketAddr) {
    let gateway =
        folder.start("direct", &Plan { accept: WWW, ..Plan::new(Mode::Direct, "echo://") }.direct());
    let at = gateway.client_port("orders").await;
    (gateway, at)
}

#[tokio::test]
async fn new_clients_are_shown_what_is_new_and_open_sessions_go_on() {
    let folder = folder();
    let (gateway, at) = start(&folder).await;
    let mut open = ask(&folder, at).await;
    echoes(&mut open).await;
    let before = shown(&open);
    renew(&folder, "www");
    let reported = gateway.until_notice("certificates renewed: ").await;
    assert!(
        reported.contains("www.pem") && reported.contains("www.key") && !reported.contains("dmz.pem"),
        "{reported}"
    );
    let mut new = ask(&folder, at).await;
    assert_eq!(shown(&new), chain(&folder, "www.pem")[0]);
    assert_ne!(shown(&new), before);
    for client in [&mut new, &mut open] {
        echoes(client).await;
    }
    let snapshot = gateway.now().await;
    assert_eq!((snapshot.totals.sessions_open, snapshot.ended.len()), (2, 0));
}

#[tokio::test]
async fn a_pair_that_is_written_by_halves_is_taken_when_it_is_whole() {
    let folder = folder();
    let (gateway, at) = start(&folder).await;
    let before = chain(&folder, "www.pem").remove(0);
    let old_key = fs::read(folder.pki("www.key")).unwrap();
    renew(&folder, "www");
    let new_key = fs::read(folder.pki("www.key")).unwrap();
    fs::write(folder.pki("www.key"), old_key).unwrap();
    let reported = gateway.until_notice("and cannot be used: ").await;
    assert!(
        reported.contains("it is not the key of the certificate; name the pair that belongs"),
        "{reported}"
    );
    assert!(reported.ends_with("; the previous ones stay in force"), "{reported}");
    assert_eq!(shown(&ask(&folder, at).await), before);
    // Looked at many times more.
    let then = gateway.now().await.uptime_seconds;
    gateway.until("it has looked again", |snapshot| snapshot.uptime_seconds > then + 5.0).await;
    assert_eq!(notices(&*gateway.now().await, "and cannot be used"), 1);
    fs::write(folder.pki("www.key"), &new_key[..new_key.len() / 2]).unwrap();
    gateway.until("half of it is reported", |snapshot| notices(snapshot, "and cannot be used") == 2).await;
    fs::write(folder.pki("www.key"), new_key).unwrap();
    gateway.until_notice("certificates renewed: ").await;
    assert_eq!(shown(&ask(&folder, at).await), chain(&folder, "www.pem")[0]);
}

#[tokio::test]
async fn what_an_operator_has_asked_for_stays() {
    let folder = folder();
    let (gateway, at) = start(&folder).await;
    let mut open = ask(&folder, at).await;
    echoes(&mut open).await;
    gateway.done(Command::Drain { service: Some("orders".into()) }).await;
    renew(&folder, "www");
    gateway.until_notice("certificates renewed: ").await;
    assert_eq!(gateway.now().await.services[0].phase, ServicePhase::Draining);
    echoes(&mut open).await;
}

#[tokio::test]
async fn links_that_were_made_before_go_and_sessions_stay() {
    let (outside, mut echoing) = OpenerHalf::beside_another().await;
    let mut alpha = outside.ready("alpha", 1).await;
    renew(&outside.folder, "dmz");
    outside.gateway.until_notice("certificates renewed: ").await;
    alpha.expect_frame(RETIRE, &[]).await;
    assert_eq!(alpha.over().await, (LinkOver::Cleanly, vec![]));
    echoing.link().expect_frame(RETIRE, &[]).await;
    echoing.serves().await;
    let _next = outside.ready("alpha", 1).await;
}

/// Both halves change to another authority, a while apart.
#[tokio::test]
async fn two_gateways_find_each_other_again_under_another_authority() {
    for mode in [Mode::Forward, Mode::Reverse] {
        let backend = Backend::new().await;
        let pair: ModePair = Plan::new(mode, &backend.address()).start().await;
        let mut client = pair.client().await;
        let mut served = backend.accept().await;
        send(&mut client, b"before").await;
        expect_bytes(&mut served, b"before").await;
        let fresh = TestFolder::new();
        for file in ["ca.pem", "dmz.pem", "dmz.key", "internal.pem", "internal.key"] {
            fs::copy(fresh.pki(file), pair.folder.pki(file)).unwrap();
        }
        for gateway in [&pair.dmz, pair.inner()] {
            gateway.until_notice("certificates renewed: ").await;
        }
        pair.ready().await;
        send(&mut client, b"after").await;
        expect_bytes(&mut served, b"after").await;
        let mut new = pair.client().await;
        send(&mut new, b"anew").await;
        expect_bytes(&mut backend.accept().await, b"anew").await;
    }
}

#[tokio::test]
async fn a_backend_of_another_authority_is_known_when_that_is_there() {
    let (folder, fresh) = (folder(), folder());
    let port = Reserved::new();
    let at = port.at();
    let connect = format!("{{ address: 'tls://{at}', tls: {{ ca: pki/ca.pem, name: www }} }}");
    let gateway = folder.start("direct", &Plan::new(Mode::Direct, &connect).direct());
    drop(port);
    let listener = tokio::net::TcpListener::bind(at).await.unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain(&fresh, "www.pem"), key(&fresh, "www.key"))
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let clients = gateway.client_port("orders").await;
    let client = dial(clients).await;
    let stream = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap().0;
    assert!(timeout(PATIENCE, acceptor.accept(stream)).await.unwrap().is_err(), "it is not trusted");
    drop(client);
    fs::copy(fresh.pki("ca.pem"), folder.pki("ca.pem")).unwrap();
    gateway.until_notice("certificates renewed: ").await;
    let mut client = dial(clients).await;
    let stream = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap().0;
    let mut served = timeout(PATIENCE, acceptor.accept(stream)).await.unwrap().unwrap();
    send(&mut client, b"known").await;
    expect_bytes(&mut served, b"known").await;
}

/// Asks over a connection that stays; the head of the answer, in lower case.
async fn answer(client: &mut TlsStream<TcpStream>, served: &mut TcpStream) -> String {
    send(client, b"GET / HTTP/1.1\r\nHost: www\r\n\r\n").await;
    until_blank(served).await;
    send(served, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").await;
    send(served, b"ok").await;
    let head = until_blank(client).await;
    expect_bytes(client, b"ok").await;
    head
}

async fn until_blank(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, stream.read_u8()).await.expect("a head in time").unwrap());
    }
    String::from_utf8(head).unwrap().to_ascii_lowercase()
}

/// A request is answered first; where nothing of the clients' has changed, the connection stays.
#[tokio::test]
async fn a_client_that_asks_again_is_answered_and_then_sees_what_is_new() {
    let (folder, backend) = (folder(), Backend::new().await);
    let connect = backend.address().replace("tcp:", "http:");
    let accept = WWW.replace("tls:/", "https:/");
    let pair = Plan { accept: &accept, ..Plan::new(Mode::Reverse, &connect) }.start_in(folder.clone()).await;
    let at = pair.dmz.client_port("orders").await;
    let mut client = ask(&folder, at).await;
    send(&mut client, b"GET / HTTP/1.1\r\nHost: www\r\n\r\n").await;
    let mut served = backend.accept().await;
    until_blank(&mut served).await;
    send(&mut served, b"HTTP/1.1 204 No Content\r\n\r\n").await;
    until_blank(&mut client).await;
    renew(&folder, "dmz");
    pair.dmz.until_notice("certificates renewed: ").await;
    assert!(!answer(&mut client, &mut served).await.contains("connection: close"));
    renew(&folder, "www");
    pair.dmz.until("both are reported", |snapshot| notices(snapshot, "certificates renewed: ") == 2).await;
    assert!(answer(&mut client, &mut served).await.contains("connection: close"));
    expect_end(&mut client).await;
    assert_eq!(shown(&ask(&folder, at).await), chain(&folder, "www.pem")[0]);
}
