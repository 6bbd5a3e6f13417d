//! Revoked certificates: their links and sessions are cut within 5 s of a changed list, and new ones are
//! refused.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use portcullis::{
    gateway::handle::{Command, CommandAnswer},
    profile::{Half, Mode},
    telemetry::{
        health::{AlertKind, Health},
        snapshot::Snapshot,
    },
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{
    frames::{RawLink, SOCKS},
    gateway::{Gateway, PATIENCE, TestFolder},
    lists::ListMaker,
    mode_pair::{DMZ_TLS, INTERNAL_TLS, MODES, ModePair, Plan},
    peers::{Backend, dial, expect_bytes, expect_reset, send},
    socks::{BIND, CONNECT, ask},
    tls,
};

/// What is revoked is out by then; the rest is what a busy machine takes.
const OUT: Duration = Duration::from_secs(5);
/// What one link carries when it is cut.
const SESSIONS: usize = 100;
const LISTED: &str = ", revoked: [pki/crl.pem] }";

fn with_list(tls: &str) -> String {
    tls.replace(" }", LISTED)
}

/// Both halves, one of which goes by the list.
async fn start(folder: TestFolder, mode: Mode, decides: Half) -> ModePair {
    let plan = Plan::new(mode, "echo://");
    let listen = "listen: 'socks+tls://127.0.0.1:0'";
    let of_dmz = |link: &str| match decides {
        Half::Dmz => plan.dmz(link).replace(DMZ_TLS, &with_list(DMZ_TLS)),
        Half::Internal => plan.dmz(link),
    };
    let of_internal = |link: &str| match decides {
        Half::Dmz => plan.internal(link),
        Half::Internal => plan.internal(link).replace(INTERNAL_TLS, &with_list(INTERNAL_TLS)),
    };
    let connect = |at: SocketAddr| format!("connect: 'socks+tls://{at}'");
    let (dmz, internal) = match mode {
        Mode::Forward => {
            let internal = folder.start("internal", &of_internal(listen));
            (folder.start("dmz", &of_dmz(&connect(internal.link_port().await))), internal)
        }
        Mode::Reverse | Mode::Direct => {
            let dmz = folder.start("dmz", &of_dmz(listen));
            let at = connect(dmz.link_port().await);
            (dmz, folder.start("internal", &of_internal(&at)))
        }
    };
    let pair = ModePair { folder, dmz, internal: Some(internal) };
    pair.ready().await;
    pair
}

fn has_no_link(seen: &Snapshot) -> bool {
    seen.pools.iter().all(|row| row.ready + row.carrying == 0)
}

#[tokio::test]
async fn a_revoked_gateway_is_out_with_its_sessions_on_both_halves() {
    for (mode, decides) in [Mode::Forward, Mode::Reverse]
        .into_iter()
        .flat_map(|mode| [Half::Dmz, Half::Internal].map(|decides| (mode, decides)))
    {
        let folder = TestFolder::new();
        let lists = ListMaker::new(&folder);
        lists.issue();
        let pair = start(folder.clone(), mode, decides).await;
        let mut client = pair.client().await;
        send(&mut client, b"open").await;
        expect_bytes(&mut client, b"open").await;
        lists.revoke(if decides == Half::Dmz { "internal" } else { "dmz" });
        lists.issue();
        let began = Instant::now();
        expect_reset(&mut client).await;
        for gateway in [&pair.dmz, pair.inner()] {
            assert_eq!(gateway.until_ended("XR").await.end, "XR", "{mode:?} {decides:?}");
            gateway.until("no link", has_no_link).await;
        }
        assert!(began.elapsed() < OUT, "{mode:?} {decides:?}: {:?}", began.elapsed());
        let judge = if decides == Half::Dmz { &pair.dmz } else { pair.inner() };
        judge.until_notice("cut: the certificate was revoked").await;
        // Tried again by whoever dials, with the reason reported at both ends.
        for gateway in [&pair.dmz, pair.inner()] {
            let knows = |seen: &Snapshot| {
                let of_rows = seen.pools.iter().filter_map(|row| row.last_error.as_deref());
                let of_notices = seen.notices.iter().map(|notice| notice.text.as_str());
                of_rows.chain(of_notices).any(|text| text.contains(" is revoked"))
            };
            gateway.until("that it is revoked", knows).await;
        }
        assert!(has_no_link(&*pair.dmz.now().await));
    }
}

/// A renewal went wrong, and nobody has repaired it yet.
#[tokio::test]
async fn a_list_takes_effect_beside_a_certificate_that_is_broken() {
    for decides in [Half::Dmz, Half::Internal] {
        let folder = TestFolder::new();
        let lists = ListMaker::new(&folder);
        lists.issue();
        let pair = start(folder.clone(), Mode::Reverse, decides).await;
        let (judge, own, other) = match decides {
            Half::Dmz => (&pair.dmz, "dmz", "internal"),
            Half::Internal => (pair.inner(), "internal", "dmz"),
        };
        let mut clients = Vec::new();
        for _ in 0..SESSIONS {
            let mut client = pair.client().await;
            send(&mut client, b"open").await;
            expect_bytes(&mut client, b"open").await;
            clients.push(client);
        }
        // `openssl` reads the certificate that it revokes.
        lists.revoke(other);
        std::fs::write(folder.pki(&format!("{own}.pem")), "no certificate").unwrap();
        judge.until_notice("and cannot be used: ").await;
        assert!(!has_no_link(&*judge.now().await), "nothing is revoked yet");
        lists.issue();
        for client in &mut clients {
            expect_reset(client).await;
        }
        judge.until("no link", has_no_link).await;
        judge.until_notice("cut: the certificate was revoked").await;
    }
}

#[tokio::test]
async fn a_list_takes_effect_while_a_switch_is_under_way() {
    let folder = TestFolder::new();
    let lists = ListMaker::new(&folder);
    lists.issue();
    let pair = start(folder.clone(), Mode::Forward, Half::Dmz).await;
    let mut client = pair.client().await;
    send(&mut client, b"open").await;
    expect_bytes(&mut client, b"open").await;
    let next = Plan::new(Mode::Reverse, "echo://").dmz("listen: 'socks+tls://127.0.0.1:0'");
    folder.profile("next", &next.replace(DMZ_TLS, &with_list(DMZ_TLS)));
    let profile = folder.path("next.yaml").to_str().unwrap().to_owned();
    // The other half does not follow.
    let switching = pair.dmz.handle.send_and_wait(Command::Switch { profile });
    let revoking = async {
        pair.dmz.until("it waits", |seen| seen.switching.is_some()).await;
        lists.revoke("internal");
        lists.issue();
        expect_reset(&mut client).await;
        assert!(pair.dmz.now().await.switching.is_some(), "it was cut only when the switch had ended");
    };
    let (answer, ()) = tokio::join!(switching, revoking);
    assert!(matches!(answer, CommandAnswer::Refused(_)), "{answer:?}");
}

#[tokio::test]
async fn a_list_that_is_older_than_the_one_before_is_reported() {
    let folder = clients();
    let lists = ListMaker::new(&folder);
    lists.issue();
    let before = std::fs::read(folder.pki("crl.pem")).unwrap();
    let plan = Plan { accept: ACCEPT, ..Plan::new(Mode::Direct, "echo://") };
    let gateway = folder.start("direct", &plan.direct());
    lists.revoke("partner");
    lists.issue_later();
    gateway.until_notice("certificates renewed: ").await;
    is_rejected(&folder, "partner", &gateway).await;
    std::fs::write(folder.pki("crl.new"), before).unwrap();
    std::fs::rename(folder.pki("crl.new"), folder.pki("crl.pem")).unwrap();
    gateway.until_notice("this revocation list is older than the previous one").await;
}

#[tokio::test]
async fn a_list_of_others_alone_and_a_new_list_leave_links_as_they_are() {
    let folder = TestFolder::with(&["dmz", "internal", "stranger"]);
    let lists = ListMaker::new(&folder);
    lists.issue();
    let pair = start(folder.clone(), Mode::Reverse, Half::Dmz).await;
    let mut client = pair.client().await;
    send(&mut client, b"open").await;
    expect_bytes(&mut client, b"open").await;
    let before = pair.dmz.now().await.pools[0].clone();
    lists.revoke("stranger");
    lists.issue();
    pair.dmz.until_notice("certificates renewed: ").await;
    send(&mut client, b"still").await;
    expect_bytes(&mut client, b"still").await;
    let after = pair.dmz.now().await;
    assert_eq!(after.pools[0].ready, before.ready);
    assert!(after.pools[0].links.iter().all(|link| before.links.iter().any(|was| was.id == link.id)));
    assert!(!after.notices.iter().any(|notice| notice.text.contains("revoked")));
}

/// Another program that speaks SOCKS5, with a link that waits and one that carries.
#[tokio::test]
async fn a_revoked_socks_peer_is_cut_too() {
    let folder = TestFolder::new();
    let lists = ListMaker::new(&folder);
    lists.issue();
    let text = format!(
        "mode: reverse\ndmz:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', tls: {}, prepared: 1 }}\n  \
         services: {{ orders: {{ accept: 'tcp://127.0.0.1:0' }} }}\n",
        with_list(DMZ_TLS)
    );
    let gateway = folder.start("dmz", &text);
    let at = gateway.link_port().await;
    let mut links = Vec::new();
    for _ in 0..2 {
        let mut link = RawLink::dial(&folder, "internal", at, "dmz", &[SOCKS]).await;
        assert_eq!(ask(&mut link.stream, BIND, b"orders").await, 0);
        links.push(link);
    }
    gateway.until("both wait", |seen| seen.pools.iter().any(|row| row.ready == 2)).await;
    let mut client = dial(gateway.client_port("orders").await).await;
    send(&mut client, b"word").await;
    gateway.until("it is carried", |seen| !seen.sessions.is_empty() && seen.sessions[0].bytes_up == 4).await;
    lists.revoke("internal");
    lists.issue();
    expect_reset(&mut client).await;
    gateway.until_ended("XR").await;
    gateway.until("no link", has_no_link).await;

    let text = format!(
        "mode: forward\ninternal:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', tls: {} }}\n  \
         services: {{ orders: {{ connect: 'echo://' }} }}\n",
        with_list(INTERNAL_TLS)
    );
    let gateway = folder.start("internal", &text);
    let mut link = RawLink::dial(&folder, "dmz", gateway.link_port().await, "internal", &[SOCKS]).await;
    assert_eq!(ask(&mut link.stream, CONNECT, b"orders").await, 0);
    send(&mut link.stream, b"word").await;
    expect_bytes(&mut link.stream, b"word").await;
    lists.revoke("dmz");
    lists.issue();
    gateway.until_ended("XR").await;
}

const ACCEPT: &str = "{ address: 'tls://127.0.0.1:0', tls: { certificate: pki/www.pem, key: pki/www.key, \
                      ca: pki/ca.pem, revoked: pki/crl.pem } }";

/// What stays in force is not what the operator has put there, which is seen until it is over.
#[tokio::test]
async fn files_of_links_that_cannot_be_used_are_an_alert_until_they_can() {
    let folder = TestFolder::new();
    ListMaker::new(&folder).issue();
    let pair = start(folder, Mode::Reverse, Half::Dmz).await;
    for file in ["pki/crl.pem", "pki/dmz.pem", "pki/ca.pem"] {
        let path = pair.folder.path(file);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let is_shown = |seen: &Snapshot| {
            seen.alerts.iter().any(|alert| alert.kind == AlertKind::Fault && alert.text.contains(file))
        };
        let seen = pair.dmz.until(&format!("{file} is an alert"), is_shown).await;
        assert_eq!(seen.health, Some(Health::Degraded));
        let later = seen.uptime_seconds + 3.0;
        let seen = pair.dmz.until("it has looked again", |seen| seen.uptime_seconds > later).await;
        assert!(is_shown(&seen), "{file}: {:?}", seen.alerts);
        std::fs::write(&path, whole).unwrap();
        pair.dmz.until(&format!("{file} is well"), |seen| seen.health == Some(Health::Healthy)).await;
    }
}

fn clients() -> TestFolder {
    TestFolder::with(&["dmz", "internal", "www", "partner", "other"])
}

async fn tls_client(folder: &TestFolder, name: &str, at: SocketAddr) -> TlsStream<TcpStream> {
    tls_client_as(tls::client(folder, name), at).await.unwrap()
}

async fn tls_client_as(config: ClientConfig, at: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("www").unwrap();
    let shaking = TlsConnector::from(Arc::new(config)).connect(name, dial(at).await);
    timeout(PATIENCE, shaking).await.unwrap()
}

async fn is_rejected(folder: &TestFolder, name: &str, gateway: &Gateway) {
    let at = gateway.client_port("orders").await;
    // In TLS 1.3 the client is done before the server has judged it: the alert comes after.
    let refused = match tls_client_as(tls::client(folder, name), at).await {
        Ok(mut stream) => timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap_err(),
        Err(error) => error,
    };
    assert!(refused.to_string().contains("CertificateRevoked"), "{refused}");
}

#[tokio::test]
async fn a_revoked_client_is_out_and_the_others_stay() {
    for mode in MODES {
        let folder = clients();
        let lists = ListMaker::new(&folder);
        lists.issue();
        let pair = Plan { accept: ACCEPT, ..Plan::new(mode, "echo://") }.start_in(folder.clone()).await;
        let at = pair.dmz.client_port("orders").await;
        let (mut revoked, mut stays) =
            (tls_client(&folder, "partner", at).await, tls_client(&folder, "other", at).await);
        for client in [&mut revoked, &mut stays] {
            send(client, b"open").await;
            expect_bytes(client, b"open").await;
        }
        lists.revoke("partner");
        lists.issue();
        let began = Instant::now();
        expect_reset(&mut revoked).await;
        for gateway in [&pair.dmz, pair.inner()] {
            let ended = gateway.until_ended("XR").await;
            assert_eq!(ended.user.as_deref(), Some("partner"), "{mode:?}");
        }
        assert!(began.elapsed() < OUT, "{mode:?}: {:?}", began.elapsed());
        pair.dmz.until_notice("1 client connection cut: the certificate was revoked").await;
        is_rejected(&folder, "partner", &pair.dmz).await;
        send(&mut stays, b"still").await;
        expect_bytes(&mut stays, b"still").await;
        drop(tls_client(&folder, "other", at).await);
    }
}

async fn until_blank(stream: &mut (impl AsyncRead + Unpin)) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, stream.read_u8()).await.expect("a head in time").unwrap());
    }
}

/// One that waits between two requests, and one in the middle of one.
#[tokio::test]
async fn a_revoked_client_of_requests_is_out() {
    let (folder, backend) = (clients(), Backend::new().await);
    let lists = ListMaker::new(&folder);
    lists.issue();
    let accept = ACCEPT.replace("tls:/", "https:/");
    let connect = backend.address().replace("tcp:", "http:");
    let pair = Plan { accept: &accept, ..Plan::new(Mode::Reverse, &connect) }.start_in(folder.clone()).await;
    let at = pair.dmz.client_port("orders").await;
    let mut idle = tls_client(&folder, "partner", at).await;
    send(&mut idle, b"GET / HTTP/1.1\r\nHost: www\r\n\r\n").await;
    let mut served = backend.accept().await;
    until_blank(&mut served).await;
    send(&mut served, b"HTTP/1.1 204 No Content\r\n\r\n").await;
    until_blank(&mut idle).await;
    let mut busy = tls_client(&folder, "partner", at).await;
    send(&mut busy, b"GET / HTTP/1.1\r\nHost: www\r\n\r\n").await;
    pair.inner().until("both", |seen| seen.sessions.len() == 2).await;
    lists.revoke("partner");
    lists.issue();
    assert_eq!(expect_reset(&mut idle).await, b"");
    assert_eq!(expect_reset(&mut busy).await, b"");
    for gateway in [&pair.dmz, pair.inner()] {
        let both = |seen: &Snapshot| seen.ended.iter().filter(|row| row.end.starts_with('X')).count() == 2;
        gateway.until("both are out", both).await;
    }
    is_rejected(&folder, "partner", &pair.dmz).await;
}

#[tokio::test]
async fn an_expired_list_is_reported_and_refuses_unless_allowed() {
    let folder = clients();
    let lists = ListMaker::new(&folder);
    lists.issue();
    let plan = Plan { accept: ACCEPT, ..Plan::new(Mode::Direct, "echo://") };
    let gateway = folder.start("direct", &plan.direct());
    let at = gateway.client_port("orders").await;
    let mut open = tls_client(&folder, "partner", at).await;
    send(&mut open, b"open").await;
    expect_bytes(&mut open, b"open").await;
    lists.issue_expired();
    gateway.until_notice("has expired on 2025-02-01T00:00:00.000Z: new handshakes are refused").await;
    let refused = match tls_client_as(tls::client(&folder, "other"), at).await {
        Ok(mut stream) => timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap_err(),
        Err(error) => error,
    };
    assert!(refused.to_string().contains("alert"), "{refused}");
    send(&mut open, b"still").await;
    expect_bytes(&mut open, b"still").await;
    let accept = ACCEPT.replace("crl.pem }", "crl.pem, revoked_expired: accept }");
    folder.profile("direct", &Plan { accept: &accept, ..plan }.direct());
    gateway.done(Command::Reload).await;
    let mut client = tls_client(&folder, "other", gateway.client_port("orders").await).await;
    send(&mut client, b"word").await;
    expect_bytes(&mut client, b"word").await;
    gateway.until_notice("and is still accepted").await;
}

/// A list that cannot be used leaves the one before in force, and so does a certificate beside it.
#[tokio::test]
async fn a_list_that_is_half_written_changes_nothing() {
    let folder = clients();
    let lists = ListMaker::new(&folder);
    lists.revoke("partner");
    lists.issue();
    let gateway =
        folder.start("direct", &Plan { accept: ACCEPT, ..Plan::new(Mode::Direct, "echo://") }.direct());
    is_rejected(&folder, "partner", &gateway).await;
    let whole = std::fs::read(folder.pki("crl.pem")).unwrap();
    std::fs::write(folder.pki("crl.pem"), &whole[..whole.len() / 2]).unwrap();
    let reported = gateway.until_notice("and cannot be used: ").await;
    assert!(
        reported.contains("crl.pem: list 1 is damaged: ")
            && reported.ends_with("; the previous ones stay in force"),
        "{reported}"
    );
    is_rejected(&folder, "partner", &gateway).await;
    let mut other = tls_client(&folder, "other", gateway.client_port("orders").await).await;
    send(&mut other, b"word").await;
    expect_bytes(&mut other, b"word").await;
}
