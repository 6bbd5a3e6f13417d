//! TLS with clients and backends, ended here or passed on as it is.

use std::{net::SocketAddr, sync::Arc};

use portcullis::{
    connect::direct::BACKEND_CONNECT_TIMEOUT,
    gateway::handle::Command,
    profile::Mode,
    telemetry::snapshot::{EndedRow, SessionPhase, Snapshot, TrafficTotals},
};
use rustls::{
    ClientConfig, ProtocolVersion, ServerConfig, SupportedProtocolVersion,
    pki_types::{CertificateDer, ServerName},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::{
    support::{
        gateway::{Gateway, PATIENCE, TestFolder, happens_after},
        mode_pair::{MODES, Plan},
        peers::{Backend, Reserved, cut, dial, expect_bytes, expect_end, expect_reset, read_all, send},
        tls::{chain, key, roots},
    },
    tls::self_signed,
};

const WWW: &str = "{ address: 'tls://127.0.0.1:0', tls: { certificate: pki/www.pem, key: pki/www.key } }";

fn folder() -> TestFolder {
    TestFolder::with(&["dmz", "internal", "www", "shop", "partner"])
}

fn nobody(folder: &TestFolder, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    ClientConfig::builder_with_protocol_versions(versions)
        .with_root_certificates(roots(folder))
        .with_no_client_auth()
}

fn somebody(folder: &TestFolder, name: &str) -> ClientConfig {
    crate::support::tls::client(folder, name)
}

async fn ask(
    config: ClientConfig,
    at: SocketAddr,
    name: &'static str,
) -> std::io::Result<client::TlsStream<TcpStream>> {
    let name = ServerName::try_from(name).unwrap();
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, dial(at).await);
    timeout(PATIENCE, connecting).await.expect("an answer in time")
}

/// Exchanges a word; in TLS 1.3 a client may learn here that it is refused.
async fn exchange(stream: &mut client::TlsStream<TcpStream>) -> std::io::Result<()> {
    let word = async {
        stream.write_all(b"word").await?;
        stream.flush().await?;
        let mut received = [0; 4];
        stream.read_exact(&mut received).await?;
        assert_eq!(&received, b"word");
        Ok(())
    };
    timeout(PATIENCE, word).await.expect("an answer in time")
}

fn shown(stream: &client::TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

/// Of a backend whose clients have to show a certificate.
fn demands_certificates(folder: &TestFolder) -> ServerConfig {
    let verifier = WebPkiClientVerifier::builder(roots(folder).into()).build().unwrap();
    ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain(folder, "shop.pem"), key(folder, "shop.key"))
        .unwrap()
}

#[tokio::test]
async fn both_versions_are_carried_in_every_mode_and_end_cleanly() {
    for mode in MODES {
        let pair = Plan { accept: WWW, ..Plan::new(mode, "echo://") }.start_in(folder()).await;
        let at = pair.dmz.client_port("orders").await;
        for (version, named) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
            let mut client = ask(nobody(&pair.folder, &[version]), at, "www").await.unwrap();
            assert_eq!(client.get_ref().1.protocol_version(), Some(named));
            exchange(&mut client).await.unwrap();
            client.shutdown().await.unwrap();
            expect_end(&mut client).await;
        }
        let ended = |snapshot: &portcullis::telemetry::snapshot::Snapshot| snapshot.ended.len() == 2;
        let snapshot = pair.dmz.until("both ended", ended).await;
        assert!(snapshot.ended.iter().all(|row| row.end == "--"), "{mode:?}: {:?}", snapshot.ended);
        let expected = TrafficTotals {
            sessions_open: 0,
            sessions_waiting: 0,
            sessions: 2,
            refused: 0,
            bytes_up: 8,
            bytes_down: 8,
        };
        assert_eq!(snapshot.totals, expected, "{mode:?}");
    }
}

#[tokio::test]
async fn an_end_without_close_notify_is_a_cut() {
    let backend = Backend::new().await;
    let pair = Plan { accept: WWW, ..Plan::new(Mode::Reverse, &backend.address()) }.start_in(folder()).await;
    let mut client =
        ask(nobody(&pair.folder, &[&TLS13]), pair.dmz.client_port("orders").await, "www").await.unwrap();
    send(&mut client, b"half a word").await;
    let mut server = backend.accept().await;
    expect_bytes(&mut server, b"half a word").await;
    send(&mut server, b"and").await;
    expect_bytes(&mut client, b"and").await;
    let (mut socket, _) = client.into_inner();
    socket.shutdown().await.unwrap();
    expect_reset(&mut server).await;
    let row = pair.dmz.until_ended("CR").await;
    assert_eq!(row.reason, "the client failed: its TLS ended without close_notify");
}

/// Where clients begin with a request, HTTP/1.1 is what they speak; a `tls` accept does not ask.
#[tokio::test]
async fn what_is_spoken_within_is_agreed_where_it_is_http() {
    let [wss, https] = ["wss:/", "https:/"].map(|scheme| WWW.replace("tls:/", scheme));
    let table: [(&str, &[&[u8]], _); 8] = [
        (&wss, &[], Ok(None)),
        (&wss, &[b"http/1.1"], Ok(Some(&b"http/1.1"[..]))),
        (&wss, &[b"h2", b"http/1.1"], Ok(Some(&b"http/1.1"[..]))),
        (&wss, &[b"h2"], Err(())),
        (&wss, &[b"http/1.0"], Err(())),
        (&https, &[b"h2", b"http/1.1"], Ok(Some(&b"http/1.1"[..]))),
        (&https, &[b"h2"], Err(())),
        (WWW, &[b"h2", b"other"], Ok(None)),
    ];
    for (accept, offers, expected) in table {
        let backend = if accept == https { "http://127.0.0.1:9" } else { "echo://" };
        let pair = Plan { accept, ..Plan::new(Mode::Direct, backend) }.start_in(folder()).await;
        let at = pair.dmz.client_port("orders").await;
        for version in [&TLS12, &TLS13] {
            let mut config = nobody(&pair.folder, &[version]);
            config.alpn_protocols = offers.iter().map(|offer| offer.to_vec()).collect();
            match (ask(config, at, "www").await, expected) {
                (Ok(client), Ok(agreed)) => assert_eq!(client.get_ref().1.alpn_protocol(), agreed),
                (Err(error), Err(())) => {
                    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
                }
                (seen, _) => panic!("{accept} {offers:?}: {seen:?}"),
            }
        }
    }
}

/// Two services that end TLS and one that is passed on, all on one port.
async fn shared(folder: &TestFolder, backend: &Backend) -> (Gateway, SocketAddr) {
    let port = Reserved::new();
    let (at, passed) = (port.at(), backend.address());
    let text = format!(
        "mode: direct\ndmz:\n  services:\n    www:\n      accept: 'tls://{at}'\n      sni: www\n      \
         tls: {{ certificate: pki/www.pem, key: pki/www.key }}\n      connect: 'echo://'\n    shop:\n      \
         accept:\n        - address: 'tls://{at}'\n          sni: ['shop', '*.shop.example']\n          \
         tls: {{ certificate: pki/shop.pem, key: pki/shop.key }}\n      connect: 'echo://'\n    passed:\n      \
         accept: {{ address: 'tcp://{at}', sni: Partner }}\n      connect: '{passed}'\n"
    );
    let gateway = folder.start("shared", &text);
    drop(port);
    (gateway, at)
}

#[tokio::test]
async fn the_name_that_is_asked_for_picks_the_service_and_its_certificate() {
    let (folder, backend) = (folder(), Backend::new().await);
    let (gateway, at) = shared(&folder, &backend).await;
    for (name, of) in [("www", "www.pem"), ("shop", "shop.pem")] {
        let mut client = ask(nobody(&folder, &[&TLS13]), at, name).await.unwrap();
        assert_eq!(shown(&client), chain(&folder, of)[0]);
        exchange(&mut client).await.unwrap();
        let snapshot = gateway.now().await;
        let open: Vec<_> = snapshot.sessions.iter().map(|row| row.service.as_str()).collect();
        assert_eq!(open, [name]);
        cut(client.into_inner().0);
        gateway.until("none open", |snapshot| snapshot.totals.sessions_open == 0).await;
    }
    // Below `*.shop.example` it is the certificate that does not fit, not the name.
    for (name, why) in [("a.shop.example", "not valid for name"), ("stranger", "UnrecognisedName")] {
        let error = ask(nobody(&folder, &[&TLS13]), at, name).await.unwrap_err();
        assert!(error.to_string().contains(why), "{name}: {error}");
    }
}

/// A backend that speaks TLS itself.
async fn served(backend: &Backend, config: ServerConfig) -> std::io::Result<server::TlsStream<TcpStream>> {
    TlsAcceptor::from(Arc::new(config)).accept(backend.accept().await).await
}

fn serving(folder: &TestFolder, name: &str) -> ServerConfig {
    ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain(folder, &format!("{name}.pem")), key(folder, &format!("{name}.key")))
        .unwrap()
}

#[tokio::test]
async fn what_is_passed_on_is_never_deciphered() {
    for mode in MODES {
        let (folder, backend) = (folder(), Backend::new().await);
        let passed = "{ address: 'tcp://127.0.0.1:0', sni: partner }";
        let pair = Plan { accept: passed, ..Plan::new(mode, &backend.address()) }.start_in(folder).await;
        let at = pair.dmz.client_port("orders").await;
        let asking = ask(nobody(&pair.folder, &[&TLS13]), at, "partner");
        let (client, server) = tokio::join!(asking, served(&backend, serving(&pair.folder, "partner")));
        let (mut client, mut server) = (client.unwrap(), server.unwrap());
        // The certificate is the backend's own; the gateway has none.
        assert_eq!(shown(&client), chain(&pair.folder, "partner.pem")[0]);
        send(&mut client, b"up").await;
        expect_bytes(&mut server, b"up").await;
        send(&mut server, b"down").await;
        expect_bytes(&mut client, b"down").await;
        client.shutdown().await.unwrap();
        expect_end(&mut server).await;
        server.shutdown().await.unwrap();
        expect_end(&mut client).await;
        pair.dmz.until_ended("--").await;
    }
}

#[tokio::test]
async fn two_free_ports_of_one_service_are_two_ports() {
    let accept = format!("{WWW}, 'tcp://127.0.0.1:0'");
    let plan = Plan { accept: &accept, ..Plan::new(Mode::Direct, "echo://") };
    let folder = folder();
    let gateway = folder.start("direct", &plan.direct());
    let accepts = gateway.now().await.services[0].accept.clone();
    let [plain, tls] = &accepts[..] else { panic!("{accepts:?}") };
    let mut client = dial(plain.strip_prefix("tcp://").unwrap().parse().unwrap()).await;
    send(&mut client, b"plain").await;
    expect_bytes(&mut client, b"plain").await;
    let at = tls.strip_prefix("tls://").unwrap().parse().unwrap();
    exchange(&mut ask(nobody(&folder, &[&TLS13]), at, "www").await.unwrap()).await.unwrap();
}

/// What a client says first.
fn hello(folder: &TestFolder) -> Vec<u8> {
    let config = Arc::new(nobody(folder, &[&TLS13]));
    let mut connection =
        rustls::ClientConnection::new(config, ServerName::try_from("partner").unwrap()).unwrap();
    let mut sent = Vec::new();
    connection.write_tls(&mut sent).unwrap();
    sent
}

#[tokio::test]
async fn a_hello_in_a_thousand_segments_arrives_as_it_came() {
    let (folder, backend) = (folder(), Backend::new().await);
    let (_gateway, at) = shared(&folder, &backend).await;
    let sent = hello(&folder);
    let mut client = dial(at).await;
    client.set_nodelay(true).unwrap();
    for byte in &sent {
        send(&mut client, std::slice::from_ref(byte)).await;
        tokio::task::yield_now().await;
    }
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut backend.accept().await).await, sent);
}

#[tokio::test]
async fn what_is_no_hello_costs_its_own_connection_alone() {
    let (folder, backend) = (folder(), Backend::new().await);
    let (gateway, at) = shared(&folder, &backend).await;
    let sent = hello(&folder);
    // Unfinished: nothing, half of one, and one that goes on forever in records of one byte.
    let endless: Vec<u8> =
        [&[22, 3, 1, 0, 4, 1, 0, 255, 255][..], &[22, 3, 1, 0, 1, 0].repeat(40_000)].concat();
    let unfinished = [&sent[..0], &sent[..sent.len() / 2], &endless[..]].map(|bytes| {
        let bytes = bytes.to_vec();
        async move {
            let mut client = dial(at).await;
            // It may be ended before all is taken.
            let _ = client.write_all(&bytes).await;
            let mut received = Vec::new();
            let _ = timeout(PATIENCE, client.read_to_end(&mut received)).await.expect("it ends in time");
        }
    });
    let good = async {
        let mut client = ask(nobody(&folder, &[&TLS13]), at, "www").await.unwrap();
        exchange(&mut client).await.unwrap();
        let mut client = dial(at).await;
        send(&mut client, b"GET / HTTP/1.1\r\nHost: www\r\n\r\n").await;
        let alert = read_all(&mut client).await;
        assert_eq!(alert[0], 21, "a TLS alert: {alert:?}");
    };
    tokio::join!(futures_util::future::join_all(unfinished), good);
    assert_eq!(gateway.now().await.totals.refused, 0);
    let mut client = ask(nobody(&folder, &[&TLS13]), at, "shop").await.unwrap();
    exchange(&mut client).await.unwrap();
}

#[tokio::test]
async fn client_certificates_are_required_as_the_accept_says() {
    let folder = folder();
    let other = TestFolder::new();
    for (verify, without, good, stranger) in [
        ("verify_client: required, ca: pki/ca.pem, names: [partner]", false, true, false),
        ("verify_client: optional, ca: pki/ca.pem, names: [partner]", true, true, false),
        ("ca: pki/ca.pem", false, true, true),
        ("verify_client: none", true, true, true),
    ] {
        let accept = format!(
            "{{ address: 'tls://127.0.0.1:0', tls: {{ certificate: pki/www.pem, key: pki/www.key, {verify} }} }}"
        );
        let plan = Plan { accept: &accept, ..Plan::new(Mode::Direct, "echo://") };
        let gateway = folder.start("direct", &plan.direct());
        let at = gateway.client_port("orders").await;
        let foreign = ClientConfig::builder()
            .with_root_certificates(roots(&folder))
            .with_client_auth_cert(chain(&other, "dmz.pem"), key(&other, "dmz.key"))
            .unwrap();
        let is_asked = !verify.contains("none");
        for (ended_by, config, is_good) in [
            ("nobody", nobody(&folder, &[&TLS13, &TLS12]), without),
            ("partner", somebody(&folder, "partner"), good),
            ("shop", somebody(&folder, "shop"), stranger),
            ("foreign", foreign, !is_asked),
        ] {
            let tried = async { exchange(&mut ask(config, at, "www").await?).await };
            assert_eq!(tried.await.is_ok(), is_good, "{ended_by} where {verify}");
        }
    }
}

/// A client's certificate that signs itself is pinned by the `ca` of an accept: that one is let in and no other.
#[tokio::test]
async fn clients_are_pinned_by_certificates_that_sign_themselves() {
    for is_ca in ["TRUE", "FALSE"] {
        let folder = folder();
        for name in ["pinned", "other"] {
            self_signed(&folder, name, is_ca);
        }
        let accept = "{ address: 'tls://127.0.0.1:0', tls: { certificate: pki/www.pem, key: pki/www.key, \
                      verify_client: required, ca: pki/pinned.pem, names: [pinned] } }";
        let plan = Plan { accept, ..Plan::new(Mode::Direct, "echo://") };
        let gateway = folder.start("direct", &plan.direct());
        let at = gateway.client_port("orders").await;
        for (name, is_good) in [("pinned", true), ("other", false), ("partner", false)] {
            let tried = async { exchange(&mut ask(somebody(&folder, name), at, "www").await?).await };
            assert_eq!(tried.await.is_ok(), is_good, "{name}, CA:{is_ca}");
        }
        // Another certificate of the same name is not that one.
        for file in ["pinned.pem", "pinned.key"] {
            std::fs::copy(folder.pki(file), folder.pki(&format!("first-{file}"))).unwrap();
        }
        self_signed(&folder, "pinned", is_ca);
        let tried = async { exchange(&mut ask(somebody(&folder, "pinned"), at, "www").await?).await };
        assert!(tried.await.is_err(), "another key, CA:{is_ca}");
    }
}

/// The first session that ended by its backend.
async fn until_backend_failed(gateway: &Gateway) -> EndedRow {
    let of_backend = |row: &&EndedRow| row.end.starts_with('B');
    let seen = |snapshot: &Snapshot| snapshot.ended.iter().any(|row| of_backend(&row));
    let snapshot = gateway.until("a session that ended by its backend", seen).await;
    snapshot.ended.iter().find(of_backend).unwrap().clone()
}

/// In TLS 1.3 a backend judges our certificate when the handshake is over for us: its alert comes within a session.
#[tokio::test]
async fn a_backends_tls_alert_is_named_in_the_end() {
    for mode in MODES {
        let backend = Backend::new().await;
        let at = backend.address().replace("tcp", "tls");
        let connect = format!("{{ address: '{at}', tls: {{ ca: pki/ca.pem, name: shop }} }}");
        let pair = Plan::new(mode, &connect).start_in(folder()).await;
        let config = demands_certificates(&pair.folder);
        let mut client = pair.client().await;
        assert!(served(&backend, config).await.is_err(), "nobody has shown a certificate");
        expect_reset(&mut client).await;
        // It may come before the session's phase is that of relaying.
        let row = until_backend_failed(pair.inner()).await;
        assert!(row.reason.starts_with("the backend failed: "), "{}", row.reason);
        assert!(row.reason.contains("certificate"), "{}", row.reason);
        assert_eq!(until_backend_failed(&pair.dmz).await.id, row.id, "the other half knows who it was");
    }
}

#[tokio::test]
async fn a_reload_shows_the_new_certificate_and_drops_no_session() {
    let pair = Plan { accept: WWW, ..Plan::new(Mode::Reverse, "echo://") }.start_in(folder()).await;
    let at = pair.dmz.client_port("orders").await;
    let mut before = ask(nobody(&pair.folder, &[&TLS13]), at, "www").await.unwrap();
    exchange(&mut before).await.unwrap();
    let old = shown(&before);
    for file in ["www.pem", "www.key"] {
        std::fs::remove_file(pair.folder.pki(file)).unwrap();
    }
    let www = portcullis::certs::HalfNames { half: "www", names: &[] };
    portcullis::certs::write(&pair.folder.path("pki"), &[www]).unwrap();
    pair.dmz.done(Command::Reload).await;
    let mut after = ask(nobody(&pair.folder, &[&TLS13]), at, "www").await.unwrap();
    assert_ne!(shown(&after), old);
    exchange(&mut before).await.unwrap();
    exchange(&mut after).await.unwrap();
    // One that cannot be used is reported, and its service continues with the one it has.
    std::fs::write(pair.folder.pki("www.key"), "no key").unwrap();
    let reported = pair.dmz.done(Command::Reload).await;
    assert!(reported.contains("service `orders` goes on with the certificates it had: "), "{reported}");
    assert!(reported.contains("tls.key: it holds no private key"), "{reported}");
    let mut third = ask(nobody(&pair.folder, &[&TLS13]), at, "www").await.unwrap();
    exchange(&mut third).await.unwrap();
    assert_eq!(pair.dmz.now().await.totals.sessions_open, 3);
}

#[tokio::test]
async fn backends_are_reached_over_tls_and_must_be_who_the_profile_says() {
    for mode in MODES {
        let backend = Backend::new().await;
        let at = backend.address().replace("tcp", "tls");
        let call = |tls: &str| format!("{{ address: '{at}', tls: {{ ca: pki/ca.pem, {tls} }} }}");
        let good = call("name: shop, certificate: pki/partner.pem, key: pki/partner.key");
        let pair = Plan::new(mode, &good).start_in(folder()).await;
        let config = demands_certificates(&pair.folder);
        let mut client = pair.client().await;
        send(&mut client, b"up").await;
        let mut server = served(&backend, config).await.unwrap();
        assert_eq!(server.get_ref().1.peer_certificates().unwrap()[0], chain(&pair.folder, "partner.pem")[0]);
        expect_bytes(&mut server, b"up").await;
        server.write_all(b"down").await.unwrap();
        server.shutdown().await.unwrap();
        assert_eq!(read_all(&mut client).await, b"down");
        client.shutdown().await.unwrap();
        expect_end(&mut server).await;
        pair.inner().until_ended("--").await;

        let mut client = pair.client().await;
        assert!(served(&backend, serving(&pair.folder, "www")).await.is_err(), "it is not who was meant");
        expect_reset(&mut client).await;
        let row = pair.inner().until_ended("BC").await;
        assert!(row.reason.contains("TLS: ") && row.reason.contains("shop"), "{}", row.reason);
    }
}

#[tokio::test]
async fn a_backend_that_does_not_shake_hands_is_given_up_in_time() {
    let backend = Backend::new().await;
    let at = backend.address().replace("tcp", "tls");
    let silent = format!("{{ address: '{at}', tls: {{ ca: pki/ca.pem, name: shop }} }}");
    let pair = Plan::new(Mode::Reverse, &silent).start_in(folder()).await;
    let failing = async {
        let mut client = pair.client().await;
        let _server = backend.accept().await;
        expect_reset(&mut client).await;
        pair.inner().until_ended("BC").await
    };
    let row = happens_after(BACKEND_CONNECT_TIMEOUT, failing).await;
    assert!(row.reason.contains("TLS: no answer within 4s"), "{}", row.reason);
    let relaying = |row: &portcullis::telemetry::snapshot::SessionRow| row.phase == SessionPhase::Relaying;
    assert!(!pair.dmz.now().await.sessions.iter().any(relaying));
}
