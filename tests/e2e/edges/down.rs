//! A fault of one service does not fail the profile: the others are served, and that one when it is
//! repaired.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use portcullis::{
    certs,
    disk::PipePolicy,
    gateway::handle::Command,
    source::{ChosenProfile, ProfileSource},
    telemetry::snapshot::{ServicePhase, ServiceRow},
};
use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{
    gateway::{Gateway, TestFolder},
    peers::{dial, dial_refused, expect_bytes, send},
    tls::roots,
};

const PLAIN: &str = "plain: { accept: ['tcp://127.0.0.1:0'], connect: 'echo://' }";

fn service(name: &str) -> String {
    let tls = format!("{{ certificate: pki/{name}.pem, key: pki/{name}.key }}");
    format!("{name}: {{ accept: [{{ address: 'tls://127.0.0.1:0', tls: {tls} }}], connect: 'echo://' }}")
}

fn profile(services: &[&str]) -> String {
    format!("mode: direct\ndmz:\n  services: {{ {} }}\n", services.join(", "))
}

/// A pair whose certificate has expired.
fn expired(folder: &TestFolder, name: &str) {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let key = KeyPair::generate().unwrap();
    fs::write(folder.pki(&format!("{name}.pem")), params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(folder.pki(&format!("{name}.key")), key.serialize_pem()).unwrap();
    fs::set_permissions(folder.pki(&format!("{name}.key")), fs::Permissions::from_mode(0o600)).unwrap();
}

fn renew(folder: &TestFolder, name: &str) {
    for file in [format!("{name}.pem"), format!("{name}.key")] {
        fs::remove_file(folder.pki(&file)).unwrap();
    }
    certs::write(folder.pki("ca.pem").parent().unwrap(), &[certs::HalfNames { half: name, names: &[] }])
        .unwrap();
}

async fn ask(folder: &TestFolder, at: SocketAddr, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let config = ClientConfig::builder().with_root_certificates(roots(folder)).with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, dial(at).await).await
}

async fn echoes(folder: &TestFolder, gateway: &Gateway, name: &str) {
    let mut client = ask(folder, gateway.client_port(name).await, name).await.unwrap();
    send(&mut client, b"there?").await;
    expect_bytes(&mut client, b"there?").await;
}

async fn row(gateway: &Gateway, name: &str) -> ServiceRow {
    gateway.now().await.services.iter().find(|row| row.name == name).unwrap().clone()
}

async fn until_open(gateway: &Gateway, name: &str) {
    let is_open = |row: &ServiceRow| row.name == name && row.phase == ServicePhase::Open;
    let within = Duration::from_secs(30);
    gateway.until_within(within, "it is served", |snapshot| snapshot.services.iter().any(is_open)).await;
}

#[tokio::test]
async fn a_certificate_that_has_expired_takes_its_service_down_alone() {
    let folder = TestFolder::with(&["good"]);
    expired(&folder, "old");
    let text = profile(&[PLAIN, &service("good"), &service("old")]);
    let gateway = folder.start("direct", &text);
    let old = row(&gateway, "old").await;
    assert_eq!(old.phase, ServicePhase::Down);
    let why = old.reason.unwrap();
    assert!(why.contains("dmz.services.old.accept") && why.contains("expired"), "{why}");
    echoes(&folder, &gateway, "good").await;
    let mut plain = dial(gateway.client_port("plain").await).await;
    send(&mut plain, b"there?").await;
    expect_bytes(&mut plain, b"there?").await;
    let refused = ask(&folder, gateway.client_port("old").await, "old").await.unwrap_err();
    assert!(refused.to_string().contains("InternalError"), "{refused}");
    let line = gateway.done(Command::Reload).await;
    assert!(line.contains("is in force") && row(&gateway, "old").await.phase == ServicePhase::Down, "{line}");
    // `check` reports it as a problem.
    let folders = vec![folder.path("")];
    let source = ProfileSource { folders, half: None, pipes: PipePolicy::Refused };
    let problems = source.load(&ChosenProfile::File(folder.path("direct.yaml")), None).unwrap_err();
    assert!(problems.len() == 1 && problems[0].to_string() == why, "{problems:?}");
    renew(&folder, "old");
    until_open(&gateway, "old").await;
    gateway.until_notice("service `old` is served again").await;
    echoes(&folder, &gateway, "old").await;
    assert_eq!(row(&gateway, "old").await.reason, None);
    expect_only(&mut plain, b"still").await;
}

/// The session that was open all the time goes on.
async fn expect_only(client: &mut TcpStream, text: &[u8]) {
    send(client, text).await;
    expect_bytes(client, text).await;
}

#[tokio::test]
async fn the_only_service_is_down_until_its_key_can_be_read() {
    let folder = TestFolder::with(&["only"]);
    let key = folder.pki("only.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let gateway = folder.start("direct", &profile(&[&service("only")]));
    let why = row(&gateway, "only").await.reason.unwrap();
    assert!(why.contains("others may read it (mode 0644)"), "{why}");
    // It looks as it did before.
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    until_open(&gateway, "only").await;
    echoes(&folder, &gateway, "only").await;
}

#[tokio::test]
async fn a_backend_whose_ca_is_missing_costs_its_own_clients_alone() {
    let folder = TestFolder::new();
    let backend = "{ address: 'tls://127.0.0.1:9', tls: { ca: pki/none.pem, name: shop } }";
    let shop = format!("shop: {{ accept: ['tcp://127.0.0.1:0'], connect: {backend} }}");
    let gateway = folder.start("direct", &profile(&[PLAIN, &shop]));
    assert_eq!(row(&gateway, "shop").await.phase, ServicePhase::Down);
    dial_refused(gateway.client_port("shop").await).await;
    let ended = gateway.until_ended("BC").await;
    assert!(ended.reason.contains("the service is down: ") && ended.reason.contains("none.pem"), "{ended:?}");
    let mut plain = dial(gateway.client_port("plain").await).await;
    expect_only(&mut plain, b"there?").await;
}

#[tokio::test]
async fn an_unusable_certificate_at_a_reload_keeps_the_current_one() {
    let folder = TestFolder::with(&["www"]);
    let gateway = folder.start("direct", &profile(&[&service("www")]));
    echoes(&folder, &gateway, "www").await;
    fs::write(folder.pki("www.pem"), "half a certif").unwrap();
    let line = gateway.done(Command::Reload).await;
    assert!(line.contains("service `www` goes on with the certificates it had: "), "{line}");
    let row = row(&gateway, "www").await;
    assert!(row.phase == ServicePhase::Open && row.reason.is_some(), "{row:?}");
    echoes(&folder, &gateway, "www").await;
}
