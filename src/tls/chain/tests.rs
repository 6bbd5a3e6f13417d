//! Chains with one thing wrong each, made by openssl: which certificate is blamed for it, at links and at edges.

use std::{fs, path::Path, process::Command, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::ServerName,
    sign::{CertifiedKey, SingleCertAndKey},
};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{
    disk::PipePolicy,
    net::read_ahead::TlsTransport,
    profile::{ConnectTls, KeyExchangePolicy, LinkTls, PemSource, ProfileLocation, RevokedFiles},
    tls::{edge::EdgeTls, link::LinkIdentity, party::TlsParty, pem},
};

fn openssl(folder: &Path, line: &str) {
    let done = Command::new("openssl").args(line.split(' ')).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&done.stderr));
}

const CA: &str = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n";

/// Certificates made by openssl: each is a pair of a key and a certificate in the folder.
struct Pki(TempDir);

impl Pki {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn key(&self, name: &str) {
        openssl(
            self.0.path(),
            &format!("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {name}.key"),
        );
    }

    fn root(&self, name: &str, more: &str) {
        self.key(name);
        let line = format!("req -x509 -new -key {name}.key -subj /CN={name} -days 9 -out {name}.pem {more}");
        openssl(self.0.path(), line.trim_end());
    }

    fn signed(&self, name: &str, by: &str, extensions: &str, more: &str) {
        self.key(name);
        let at = self.0.path();
        fs::write(at.join("extensions"), extensions).unwrap();
        openssl(at, &format!("req -new -key {name}.key -subj /CN={name} -out {name}.csr"));
        let line = format!(
            "x509 -req -in {name}.csr -CA {by}.pem -CAkey {by}.key -CAcreateserial -days 8 -extfile extensions \
             -out {name}.pem {more}"
        );
        openssl(at, line.trim_end());
    }

    /// A CA that ended in 2020, which openssl can only make with a database.
    fn expired_authority(&self, name: &str, by: &str) {
        self.key(name);
        let text = |file: String| fs::read_to_string(self.0.path().join(file)).unwrap();
        let key = |name: &str| KeyPair::from_pem(&text(format!("{name}.key"))).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&text(format!("{by}.pem")), key(by)).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, DnValue::Utf8String(name.into()));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = rcgen::date_time_ymd(2019, 2, 1);
        params.not_after = rcgen::date_time_ymd(2020, 2, 1);
        let certificate = params.signed_by(&key(name), &issuer).unwrap();
        fs::write(self.0.path().join(format!("{name}.pem")), certificate.pem()).unwrap();
    }

    fn leaf(&self, name: &str, by: &str) {
        self.signed(name, by, &named(name), "");
    }

    fn bundle(&self, file: &str, names: &[&str]) {
        let parts =
            names.iter().map(|name| fs::read_to_string(self.0.path().join(format!("{name}.pem"))).unwrap());
        fs::write(self.0.path().join(file), parts.collect::<String>()).unwrap();
    }

    fn material(&self, name: &str) -> PemSource {
        let location = ProfileLocation { file: "p.yaml".into(), line: 1, column: 1, key: "tls".into() };
        PemSource::File { path: self.0.path().join(name), location }
    }

    fn tls(&self, certificate: &str, key: &str, ca: &str, peer: &str) -> LinkTls {
        LinkTls {
            certificate: self.material(certificate),
            key: self.material(key),
            ca: self.material(ca),
            peers: vec![peer.into()],
            revoked: RevokedFiles::default(),
            key_exchange: KeyExchangePolicy::default(),
        }
    }

    fn identity(&self, certificate: &str, key: &str, ca: &str, peer: &str) -> LinkIdentity {
        LinkIdentity::load(&self.tls(certificate, key, ca, peer), &[b"a".to_vec()], PipePolicy::Refused)
            .unwrap()
    }

    /// What is wrong with it according to the half that shows it.
    fn own_fault(&self, certificate: &str, key: &str, ca: &str) -> String {
        let loaded = LinkIdentity::load(
            &self.tls(certificate, key, ca, "peer"),
            &[b"a".to_vec()],
            PipePolicy::Refused,
        );
        loaded.unwrap_err().iter().map(ToString::to_string).collect()
    }
}

fn named(name: &str) -> String {
    format!("basicConstraints=critical,CA:FALSE\nsubjectAltName=DNS:{name}\n")
}

async fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (listener.accept().await.unwrap().0, dialled)
}

/// What both ends report about a handshake: the listening one, and the dialling one.
async fn shaken(listens: &LinkIdentity, dials: &LinkIdentity) -> [Option<String>; 2] {
    let (accepted, dialled) = connected().await;
    let (accepted, dialled) = tokio::join!(
        listens.accept(TlsTransport::Socket(accepted)),
        dials.connect(TlsTransport::Socket(dialled), "127.0.0.1"),
    );
    [accepted.err(), dialled.err()].map(|error| error.map(|error| error.to_string()))
}

/// A half that shows `chain` and would trust itself; the other one, in both directions, has only `ca`.
async fn reported_problem(pki: &Pki, chain: &[&str], own_ca: &[&str], ca: &str) -> String {
    pki.bundle("chain.crt", chain);
    pki.bundle("own.crt", &[own_ca, &["root"]].concat());
    let key = format!("{}.key", chain[0]);
    let shows = pki.identity("chain.crt", &key, "own.crt", "judge");
    let judges = pki.identity("judge.pem", "judge.key", ca, chain[0]);
    let [as_client, _] = shaken(&judges, &shows).await;
    let [_, as_server] = shaken(&shows, &judges).await;
    assert_eq!(as_client, as_server);
    as_client.unwrap()
}

#[track_caller]
fn check(reported: &str, parts: &[&str]) {
    for part in parts {
        assert!(reported.contains(part), "`{part}` is not in: {reported}");
    }
}

fn with_judge() -> Pki {
    let pki = Pki::new();
    pki.root("root", "");
    pki.leaf("judge", "root");
    pki
}

#[tokio::test]
async fn a_missing_intermediate_is_reported_by_its_name() {
    let pki = with_judge();
    pki.signed("middle", "root", CA, "");
    pki.signed("lower", "middle", CA, "");
    pki.leaf("dmz", "lower");
    let words = [
        "certificate 2 of 2 (`CN=lower`) is issued by `CN=middle`, which is neither behind it in the same file nor in this link's `ca`",
    ];
    let advice = "append the certificate of `CN=middle` to the file that holds the first one";
    pki.bundle("short.crt", &["dmz", "lower"]);
    let own = pki.own_fault("short.crt", "dmz.key", "root.pem");
    check(&own, &[words[0], advice, "short.crt: "]);
    let reported = reported_problem(&pki, &["dmz", "lower"], &["middle"], "root.pem").await;
    check(&reported, &[words[0], advice, "its certificate comes from another CA than this link's `ca`"]);
    // As a whole, it is trusted.
    pki.bundle("whole.crt", &["dmz", "lower", "middle"]);
    let whole = pki.identity("whole.crt", "dmz.key", "root.pem", "judge");
    let judge = pki.identity("judge.pem", "judge.key", "root.pem", "dmz");
    assert_eq!(shaken(&judge, &whole).await, [None, None]);
}

#[tokio::test]
async fn a_name_that_a_ca_may_not_issue_is_reported_with_the_ca_and_its_limits() {
    let pki = with_judge();
    let limits = "nameConstraints=critical,permitted;DNS:lan.test\n";
    pki.signed("limited", "root", &format!("{CA}{limits}"), "");
    pki.leaf("dmz", "limited");
    pki.bundle("pair.crt", &["dmz", "limited"]);
    let words = "certificate 1 of 2 (`CN=dmz`) is for dmz, which the name constraints of certificate 2 of 2 (`CN=limited`) exclude (permitted: lan.test)";
    check(&pki.own_fault("pair.crt", "dmz.key", "root.pem"), &[words, "pair.crt: "]);
    // Its CA may be in `ca` itself.
    pki.bundle("other.crt", &["root", "limited"]);
    check(
        &pki.own_fault("dmz.pem", "dmz.key", "other.crt"),
        &["exclude", "certificate 2 of 2 in this link's `ca` (`CN=limited`)"],
    );
    // A half that trusts the same CA without limits shows it, and the other one reports it.
    openssl(pki.0.path(), "req -x509 -new -key limited.key -subj /CN=limited -days 9 -out free.pem");
    check(&reported_problem(&pki, &["dmz", "limited"], &["free"], "root.pem").await, &[words]);
}

#[tokio::test]
async fn an_algorithm_that_is_not_accepted_is_reported_with_its_certificate() {
    let pki = with_judge();
    pki.signed("middle", "root", CA, "-sha1");
    pki.leaf("dmz", "middle");
    let words =
        "certificate 2 of 2 (`CN=middle`) is signed with SHA-1 (ecdsa-with-SHA1), which is not accepted";
    let reported = reported_problem(&pki, &["dmz", "middle"], &["middle"], "root.pem").await;
    check(&reported, &[words, "have it reissued"]);
}

/// A gateway of ours does not start with one; other programs show it.
#[tokio::test]
async fn a_certificate_of_version_1_is_reported_by_either_half_that_is_shown_it() {
    let (pki, without) =
        (with_judge(), "x509 -req -in dmz.csr -CA root.pem -CAkey root.key -days 8 -out dmz.pem");
    pki.key("dmz");
    openssl(pki.0.path(), "req -new -key dmz.key -subj /CN=dmz -out dmz.csr");
    openssl(pki.0.path(), &format!("{without} -CAcreateserial"));
    let own = pki.own_fault("dmz.pem", "dmz.key", "root.pem");
    check(&own, &["dmz.pem: certificate 1 of 1 is not of X.509 version 3", "have it reissued"]);
    let chain = |name: &str| pem::read_chain(&pki.material(name), PipePolicy::Refused).unwrap();
    let key = pem::read_key(&pki.material("dmz.key"), PipePolicy::Refused).unwrap();
    let shown = CertifiedKey::new(chain("dmz.pem"), any_supported_type(&key).unwrap());
    let shown = Arc::new(SingleCertAndKey::from(shown));
    let mut roots = RootCertStore::empty();
    roots.add(chain("root.pem").remove(0)).unwrap();
    let dials = ClientConfig::builder().with_root_certificates(roots);
    let mut dials = dials.with_client_cert_resolver(shown.clone());
    dials.alpn_protocols = vec![b"a".to_vec()];
    let mut listens = ServerConfig::builder().with_no_client_auth().with_cert_resolver(shown);
    listens.alpn_protocols = vec![b"a".to_vec()];
    let judge = pki.identity("judge.pem", "judge.key", "root.pem", "dmz");
    let (near, far) = connected().await;
    let name = ServerName::try_from("judge").unwrap();
    let (accepted, _) = tokio::join!(
        judge.accept(TlsTransport::Socket(near)),
        TlsConnector::from(Arc::new(dials)).connect(name, far)
    );
    let (near, far) = connected().await;
    let (connected, _) = tokio::join!(
        judge.connect(TlsTransport::Socket(near), "127.0.0.1"),
        TlsAcceptor::from(Arc::new(listens)).accept(far)
    );
    let words = "its certificate 1 of 1 (`CN=dmz`) is not of X.509 version 3; have it reissued as version 3";
    check(&accepted.unwrap_err().to_string(), &[words]);
    check(&connected.unwrap_err().to_string(), &[words]);
}

#[tokio::test]
async fn an_intermediate_that_has_expired_is_reported_by_its_number() {
    let pki = with_judge();
    pki.expired_authority("middle", "root");
    pki.leaf("dmz", "middle");
    pki.bundle("pair.crt", &["dmz", "middle"]);
    let words = "certificate 2 of 2 (`CN=middle`) has expired on 2020-02-01";
    check(&pki.own_fault("pair.crt", "dmz.key", "root.pem"), &[words]);
}

/// The result for a backend's certificate with this `ca` of its connect.
async fn called(pki: &Pki, pair: &str, ca: &str, name: &str) -> Result<(), String> {
    let tls = ConnectTls { ca: pki.material(ca), name: name.into(), pair: None, alpn: Vec::new() };
    let edges =
        EdgeTls::load(std::iter::empty(), std::iter::once((TlsParty::Backend, &tls)), PipePolicy::Refused);
    let caller = edges.connect_client(&tls).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let accepted = listener.accept().await.unwrap().0;
    let certificate =
        crate::tls::pem::read_chain(&pki.material(&format!("{pair}.pem")), PipePolicy::Refused).unwrap();
    let key = crate::tls::pem::read_key(&pki.material(&format!("{pair}.key")), PipePolicy::Refused).unwrap();
    let config =
        rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(certificate, key).unwrap();
    let serving = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config)).accept(accepted);
    let (called, _) = tokio::join!(caller.connect(stream, b""), serving);
    called.map(|_| ()).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_self_signed_certificate_of_a_backend_is_trusted_if_it_is_in_ca() {
    let pki = Pki::new();
    pki.root("shop", "-addext subjectAltName=DNS:shop");
    pki.root("other", "-addext subjectAltName=DNS:shop");
    assert_eq!(called(&pki, "shop", "shop.pem", "shop").await, Ok(()));
    check(
        &called(&pki, "shop", "shop.pem", "else").await.unwrap_err(),
        &["its certificate is for ", "and not for "],
    );
    let reported = called(&pki, "other", "shop.pem", "shop").await.unwrap_err();
    check(
        &reported,
        &["certificate 1 of 1 (`CN=other`) signs itself, and this connect's `ca` does not hold it"],
    );
    assert!(!reported.contains("this link's"), "{reported}");
}
