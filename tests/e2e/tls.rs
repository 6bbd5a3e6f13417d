//! Who is let in on a link, and who is not: mutual TLS 1.3 with a private CA.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use portcullis::{profile::Mode, telemetry::snapshot::PoolState};
use rcgen::{Certificate, CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rustls::{
    ClientConfig, HandshakeKind, NamedGroup, ServerConfig,
    client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue},
    crypto::CryptoProvider,
    pki_types::ServerName,
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::support::{
    gateway::{Gateway, PATIENCE, TestFolder},
    mode_pair::{DMZ_TLS, INTERNAL_TLS, Plan},
    peers::{dial, expect_bytes, seed, send},
    socks::{BIND, CONNECT, ask},
    tls,
};

fn internal(folder: &TestFolder) -> Gateway {
    let text = format!(
        "mode: forward\ninternal:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', tls: {INTERNAL_TLS} }}\n  \
         services: {{ orders: {{ connect: 'echo://' }} }}\n"
    );
    folder.start("internal", &text)
}

/// A good link is carried, whatever came before it.
async fn good_link_is_carried(folder: &TestFolder, at: SocketAddr) {
    let mut stream = tls::link(tls::client(folder, "dmz"), at, "internal").await;
    assert_eq!(ask(&mut stream, CONNECT, b"orders").await, 0);
    send(&mut stream, b"good").await;
    expect_bytes(&mut stream, b"good").await;
}

/// The only notice about the connection from `from` says why it was ended.
async fn expect_one_line(gateway: &Gateway, from: SocketAddr, why: &str) {
    let line = gateway.until_notice(&format!("link from {from}: ")).await;
    assert!(line.contains(why), "`{why}` is not in: {line}");
    let of_it = |notice: &&portcullis::telemetry::snapshot::Notice| notice.text.contains(&from.to_string());
    assert_eq!(gateway.now().await.notices.iter().filter(of_it).count(), 1);
}

/// Sends bytes and reads until the gateway ends the connection.
async fn ended_after(at: SocketAddr, bytes: &[u8]) -> SocketAddr {
    let mut stream = dial(at).await;
    // The gateway may end it before it has read all.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it ends in time");
    stream.local_addr().unwrap()
}

/// Shakes hands and asks, which must not succeed; where from.
async fn rejected(config: ClientConfig, at: SocketAddr) -> SocketAddr {
    let stream = dial(at).await;
    let from = stream.local_addr().unwrap();
    let name = ServerName::try_from("internal").unwrap();
    // In TLS 1.3 the client is done before the server has judged it: the alert comes after.
    let link = async {
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        stream.read_u8().await
    };
    let error = timeout(PATIENCE, link).await.expect("an answer in time").unwrap_err();
    assert!(error.to_string().contains("alert"), "the alert says why: {error}");
    from
}

/// A certificate that expires after this time, in files of this name.
pub fn make_ending(folder: &TestFolder, file: &str, after: time::Duration) {
    let mut params = CertificateParams::new(vec!["dmz".to_owned()]).unwrap();
    params.not_before = time::OffsetDateTime::now_utc() - time::Duration::days(9);
    params.not_after = time::OffsetDateTime::now_utc() + after;
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    write_pair(folder, file, &params.signed_by(&key, &issuer(folder)).unwrap(), &key);
}

fn issuer(folder: &TestFolder) -> Issuer<'static, KeyPair> {
    let authority = fs::read_to_string(folder.pki("ca.pem")).unwrap();
    let authority_key = KeyPair::from_pem(&fs::read_to_string(folder.pki("ca.key")).unwrap()).unwrap();
    Issuer::from_ca_cert_pem(&authority, authority_key).unwrap()
}

fn write_pair(folder: &TestFolder, file: &str, certificate: &Certificate, key: &KeyPair) {
    fs::write(folder.pki(&format!("{file}.pem")), certificate.pem()).unwrap();
    fs::write(folder.pki(&format!("{file}.key")), key.serialize_pem()).unwrap();
}

/// A certificate for `dmz` that is to be used from tomorrow on, one that only a server may show, and one that it has
/// issued itself.
fn make_unfit(folder: &TestFolder) {
    let (issuer, key) = (issuer(folder), KeyPair::generate().unwrap());
    let params = || CertificateParams::new(vec!["dmz".to_owned()]).unwrap();
    let (mut early, mut server) = (params(), params());
    early.not_before = time::OffsetDateTime::now_utc() + time::Duration::days(1);
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    write_pair(folder, "early", &early.signed_by(&key, &issuer).unwrap(), &key);
    write_pair(folder, "server", &server.signed_by(&key, &issuer).unwrap(), &key);
    write_pair(folder, "own", &params().self_signed(&key).unwrap(), &key);
}

#[tokio::test]
async fn a_certificate_that_is_not_a_peers_is_rejected() {
    let (folder, other) = (TestFolder::with(&["dmz", "internal", "stranger"]), TestFolder::new());
    make_ending(&folder, "expired", time::Duration::days(-1));
    make_unfit(&folder);
    let gateway = internal(&folder);
    let at = gateway.link_port().await;
    let anonymous = ClientConfig::builder().with_root_certificates(tls::roots(&folder)).with_no_client_auth();
    let foreign = ClientConfig::builder()
        .with_root_certificates(tls::roots(&folder))
        .with_client_auth_cert(tls::chain(&other, "dmz.pem"), tls::key(&other, "dmz.key"))
        .unwrap();
    for (config, why) in [
        (tls::client(&folder, "stranger"), "certificate is for stranger, none of which is among"),
        (foreign, "its certificate comes from another CA than this link's `ca`"),
        (anonymous, "peer sent no certificates"),
        (tls::client(&folder, "expired"), "expired"),
        (tls::client(&folder, "early"), "its certificate is not valid yet"),
        (tls::client(&folder, "server"), "does not allow extended key usage for client authentication"),
        (tls::client(&folder, "own"), "its certificate comes from another CA than this link's `ca`"),
    ] {
        let from = rejected(config, at).await;
        expect_one_line(&gateway, from, why).await;
        good_link_is_carried(&folder, at).await;
    }
}

/// A ClientHello of TLS 1.2 (RFC 5246, 7.4.1.2): no supported_versions, one of its cipher suites.
fn hello_of_tls_1_2() -> Vec<u8> {
    let algorithms = [0, 13, 0, 4, 0, 2, 4, 3];
    let groups = [0, 10, 0, 4, 0, 2, 0, 23];
    let extensions = [&algorithms[..], &groups].concat();
    let length = u16::try_from(extensions.len()).unwrap().to_be_bytes();
    let body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0xc0, 0x2b], &[1, 0], &length, &extensions].concat();
    let length = u8::try_from(body.len()).unwrap();
    [&[0x16, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat()
}

#[tokio::test]
async fn older_tls_is_refused_and_affects_no_other_link() {
    let folder = TestFolder::new();
    let gateway = internal(&folder);
    let at = gateway.link_port().await;
    let mut random = vec![0; 64 * 1024];
    fastrand::Rng::with_seed(seed()).fill(&mut random);
    for (bytes, why) in [
        (hello_of_tls_1_2(), "SupportedVersionsExtensionRequired"),
        (b"GET / HTTP/1.1\r\nHost: internal\r\n\r\n".to_vec(), "corrupt message"),
        ([&[5, 1, 0][..], &crate::support::socks::request(CONNECT, b"orders")].concat(), "corrupt message"),
        (random, "TLS: "),
    ] {
        let from = ended_after(at, &bytes).await;
        expect_one_line(&gateway, from, why).await;
        good_link_is_carried(&folder, at).await;
    }
}

#[tokio::test]
async fn half_a_client_hello_and_silence_end_within_the_deadline() {
    let folder = TestFolder::new();
    let gateway = internal(&folder);
    let at = gateway.link_port().await;
    let hello = hello_of_tls_1_2();
    let silent = [0, 3, hello.len() / 2].map(|length| ended_after(at, &hello[..length]));
    let (froms, ()) = tokio::join!(futures_util::future::join_all(silent), good_link_is_carried(&folder, at));
    for from in froms {
        expect_one_line(&gateway, from, "its handshake was not complete within 5s").await;
    }
}

#[derive(Debug, Default)]
struct Tickets(AtomicUsize);

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}

#[tokio::test]
async fn no_ticket_is_given_and_nothing_is_resumed() {
    let folder = TestFolder::new();
    let gateway = internal(&folder);
    let at = gateway.link_port().await;
    let tickets = Arc::new(Tickets::default());
    let mut counting = tls::client(&folder, "dmz");
    counting.resumption = Resumption::store(tickets.clone());
    let mut resuming = tls::client(&folder, "dmz");
    resuming.resumption = Resumption::in_memory_sessions(8);
    for config in [counting, resuming.clone(), resuming] {
        let mut stream = tls::link(config, at, "internal").await;
        // A ticket would come before the reply.
        assert_eq!(ask(&mut stream, CONNECT, b"orders").await, 0);
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }
    assert_eq!(tickets.0.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn the_name_in_the_certificate_is_shown_as_the_peer() {
    for mode in [Mode::Forward, Mode::Reverse] {
        let pair = Plan::new(mode, "echo://").start().await;
        let mut client = pair.client().await;
        send(&mut client, b"who").await;
        expect_bytes(&mut client, b"who").await;
        for (gateway, peer) in [(&pair.dmz, "internal"), (pair.inner(), "dmz")] {
            let snapshot = gateway.until("a session", |snapshot| !snapshot.sessions.is_empty()).await;
            assert_eq!(snapshot.sessions[0].peer.as_deref(), Some(peer), "{mode:?}");
            assert_eq!(snapshot.pools[0].peer.as_deref(), Some(peer), "{mode:?}");
        }
    }
}

/// A TLS server that is not one of our gateways.
async fn serve_as(folder: &TestFolder, name: &str, ca: &TestFolder) -> (TcpListener, TlsAcceptor) {
    let verifier = WebPkiClientVerifier::builder(Arc::new(tls::roots(ca))).build().unwrap();
    let config = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            tls::chain(folder, &format!("{name}.pem")),
            tls::key(folder, &format!("{name}.key")),
        )
        .unwrap();
    (TcpListener::bind("127.0.0.1:0").await.unwrap(), TlsAcceptor::from(Arc::new(config)))
}

#[tokio::test]
async fn the_dialling_half_checks_the_other_sides_certificate() {
    let (folder, other) = (TestFolder::with(&["dmz", "internal", "stranger"]), TestFolder::new());
    make_ending(&folder, "expired", time::Duration::days(-1));
    for (of, name, why) in [
        (&folder, "stranger", "certificate is for stranger, none of which is among"),
        (&other, "dmz", "its certificate comes from another CA than this link's `ca`"),
        (&folder, "expired", "expired"),
    ] {
        let (listener, acceptor) = serve_as(of, name, &folder).await;
        let text = format!(
            "mode: reverse\ninternal:\n  link: {{ connect: 'socks+tls://{}', tls: {INTERNAL_TLS} }}\n  \
             services: {{ orders: {{ connect: 'echo://' }} }}\n",
            listener.local_addr().unwrap()
        );
        let gateway = folder.start("internal", &text);
        let shaken: Result<_, std::io::Error> = acceptor.accept(listener.accept().await.unwrap().0).await;
        assert!(shaken.unwrap_err().to_string().contains("alert"), "{name}");
        let row = gateway.until_pool("down", |row| row.state == PoolState::Down).await;
        assert!(row.last_error.as_deref().unwrap().contains(why), "{row:?}");
        assert_eq!((row.peer, row.ready), (None, 0));
    }
}

/// In TLS 1.3 the dialling side finishes before the other side verifies it.
#[tokio::test]
async fn the_dialling_half_learns_that_its_certificate_is_refused() {
    for mode in [Mode::Forward, Mode::Reverse] {
        let folder = TestFolder::with(&["dmz", "internal", "stranger"]);
        let (word, dials, listens) = match mode {
            Mode::Reverse => ("reverse", "internal", "dmz"),
            _ => ("forward", "dmz", "internal"),
        };
        let half = |name: &str, link: &str, tls: &str, service: &str| {
            format!(
                "mode: {word}\n{name}:\n  link: {{ {link}, tls: {tls} }}\n  services: {{ orders: {{ {service} }} }}\n"
            )
        };
        let service = |name: &str| match name {
            "dmz" => "accept: ['tcp://127.0.0.1:0']",
            _ => "connect: 'echo://'",
        };
        let tls = |name: &str, of: &str| {
            format!("{{ certificate: pki/{name}.pem, key: pki/{name}.key, ca: pki/ca.pem, peers: [{of}] }}")
        };
        let link = "listen: 'socks+tls://127.0.0.1:0'";
        let listening = folder.start(listens, &half(listens, link, &tls(listens, dials), service(listens)));
        let link = format!("connect: 'socks+tls://{}'", listening.link_port().await);
        let dialling = half(dials, &link, &tls("stranger", listens), service(dials));
        let dialling = folder.start(dials, &dialling);
        let refused = "TLS: the other gateway refuses this one's certificate";
        let is_reported = |text: &Option<String>| text.as_deref().is_some_and(|text| text.contains(refused));
        let within = "it learns that its certificate is refused";
        dialling.until_pool(within, |row| is_reported(&row.last_error)).await;
    }
}

#[tokio::test]
async fn the_dialling_half_learns_the_refusal_from_a_listener_that_is_no_gateway() {
    let (folder, other) = (TestFolder::new(), TestFolder::new());
    // It believes another CA than the one that the half has its certificate from.
    let (listener, acceptor) = serve_as(&folder, "dmz", &other).await;
    let text = format!(
        "mode: reverse\ninternal:\n  link: {{ connect: 'socks+tls://{}', tls: {INTERNAL_TLS} }}\n  \
         services: {{ orders: {{ connect: 'echo://' }} }}\n",
        listener.local_addr().unwrap()
    );
    let gateway = folder.start("internal", &text);
    let refuses = async {
        loop {
            // The dialling side gets an alert, and then dials again.
            let _ = acceptor.accept(listener.accept().await.unwrap().0).await;
        }
    };
    let reported = gateway.until_pool("it is reported", |row| {
        let last = row.last_error.as_deref().unwrap_or_default();
        last.contains(
            "TLS: the other gateway says that this one's certificate comes from another CA than its `ca`",
        )
    });
    tokio::select! { _ = reported => {}, () = refuses => {} }
}

#[tokio::test]
async fn the_address_that_was_dialled_plays_no_part() {
    let folder = TestFolder::new();
    // The certificate is for `internal`; the address is an IP that it does not name.
    let (listener, acceptor) = serve_as(&folder, "internal", &folder).await;
    let text = format!(
        "mode: forward\ndmz:\n  link: {{ connect: 'socks+tls://{}', tls: {DMZ_TLS} }}\n  \
         services: {{ orders: {{ accept: ['tcp://127.0.0.1:0'] }} }}\n",
        listener.local_addr().unwrap()
    );
    let gateway = folder.start("dmz", &text);
    let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
    expect_bytes(&mut stream, &[5, 1, 0]).await;
    send(&mut stream, &[5, 0]).await;
    let row = gateway.until_pool("healthy", |row| row.state == PoolState::Healthy).await;
    assert_eq!(row.peer.as_deref(), Some("internal"));
}

#[tokio::test]
async fn a_link_that_ends_without_close_notify_is_a_cut() {
    let pair = Plan::new(Mode::Reverse, "echo://").start().await;
    let at = pair.dmz.link_port().await;
    pair.internal.as_ref().unwrap().done(portcullis::gateway::handle::Command::Drain { service: None }).await;
    pair.dmz.until("no link ready", |snapshot| snapshot.pools[0].ready == 0).await;
    let mut parked = tls::link(tls::client(&pair.folder, "internal"), at, "dmz").await;
    assert_eq!(ask(&mut parked, BIND, b"orders").await, 0);
    let mut client = pair.client().await;
    send(&mut client, b"half a me").await;
    let mut second = [0; 10];
    timeout(Duration::from_secs(5), parked.read_exact(&mut second)).await.unwrap().unwrap();
    // The end of TCP without the end of TLS: somebody in between may have cut it.
    let mut below: TcpStream = parked.into_inner().0;
    below.shutdown().await.unwrap();
    crate::support::peers::expect_reset(&mut client).await;
    pair.dmz.until_ended("PR").await;
}

/// A certificate of `name` that signs itself, made by openssl.
pub fn self_signed(folder: &TestFolder, name: &str, is_ca: &str) {
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "9",
        ])
        .args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName=DNS:{name}")])
        .args(["-addext", &format!("basicConstraints=critical,CA:{is_ca}")])
        .arg("-keyout")
        .arg(folder.pki(&format!("{name}.key")))
        .arg("-out")
        .arg(folder.pki(&format!("{name}.pem")))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[tokio::test]
async fn halves_link_with_certificates_that_sign_themselves_and_stand_in_ca() {
    for (mode, is_ca) in [(Mode::Forward, "TRUE"), (Mode::Reverse, "FALSE")] {
        let folder = TestFolder::new();
        for name in ["dmz", "internal"] {
            self_signed(&folder, name, is_ca);
        }
        let both =
            ["dmz", "internal"].map(|name| fs::read_to_string(folder.pki(&format!("{name}.pem"))).unwrap());
        fs::write(folder.pki("ca.pem"), both.concat()).unwrap();
        let pair = Plan::new(mode, "echo://").start_in(folder).await;
        let mut client = pair.client().await;
        send(&mut client, b"pinned").await;
        expect_bytes(&mut client, b"pinned").await;
        pair.dmz.until("a session", |snapshot| !snapshot.sessions.is_empty()).await;
    }
}

/// It knows no hybrid key exchange.
fn classic_provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups.retain(|group| group.name() == NamedGroup::X25519);
    Arc::new(provider)
}

pub fn classic_client(folder: &TestFolder) -> ClientConfig {
    ClientConfig::builder_with_provider(classic_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(tls::roots(folder))
        .with_client_auth_cert(tls::chain(folder, "dmz.pem"), tls::key(folder, "dmz.key"))
        .unwrap()
}

#[tokio::test]
async fn a_link_may_demand_a_hybrid_key_exchange() {
    let folder = TestFolder::new();
    for policy in ["", ", post_quantum: preferred", ", post_quantum: required"] {
        let text = format!(
            "mode: forward\ninternal:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', tls: {INTERNAL_TLS}{policy} }}\n  \
             services: {{ orders: {{ connect: 'echo://' }} }}\n"
        );
        let gateway = folder.start("internal", &text);
        let at = gateway.link_port().await;
        if policy.contains("required") {
            let from = rejected(classic_client(&folder), at).await;
            expect_one_line(&gateway, from, "takes X25519MLKEM768 alone").await;
        } else {
            let mut stream = tls::link(classic_client(&folder), at, "internal").await;
            assert_eq!(ask(&mut stream, CONNECT, b"orders").await, 0, "{policy}");
        }
        good_link_is_carried(&folder, at).await;
    }
}

/// The half that dials demands it too, and says what it is that does not go.
#[tokio::test]
async fn a_half_that_dials_may_demand_a_hybrid_key_exchange() {
    let folder = TestFolder::new();
    let config = ServerConfig::builder_with_provider(classic_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(tls::chain(&folder, "internal.pem"), tls::key(&folder, "internal.key"))
        .unwrap();
    let (listener, acceptor) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), TlsAcceptor::from(Arc::new(config)));
    let at = listener.local_addr().unwrap();
    let text = format!(
        "mode: forward\ndmz:\n  link: {{ connect: 'socks+tls://{at}', tls: {DMZ_TLS}, post_quantum: required }}\n  \
         services: {{ orders: {{ accept: ['tcp://127.0.0.1:0'] }} }}\n"
    );
    let gateway = folder.start("dmz", &text);
    let (stream, _) = timeout(PATIENCE, listener.accept()).await.expect("a dial").unwrap();
    timeout(PATIENCE, acceptor.accept(stream)).await.expect("an answer in time").unwrap_err();
    let row = gateway.until_pool("down", |row| row.state == PoolState::Down).await;
    let why = "both need X25519MLKEM768";
    assert!(row.last_error.as_deref().unwrap().contains(why), "{row:?}");
}

#[tokio::test]
async fn pools_show_the_key_exchange() {
    for mode in [Mode::Forward, Mode::Reverse] {
        let pair = Plan::new(mode, "echo://").start().await;
        for gateway in [&pair.dmz, pair.inner()] {
            let row = gateway.until_pool("a link", |row| row.key_exchange.is_some()).await;
            assert_eq!(row.key_exchange.as_deref(), Some("X25519MLKEM768"), "{mode:?}");
        }
    }
    let pair = Plan { is_plain: true, ..Plan::new(Mode::Reverse, "echo://") }.start().await;
    let row = pair.dmz.until_pool("a link", |row| row.ready > 0).await;
    assert_eq!(row.key_exchange, None);
}
