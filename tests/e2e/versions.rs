//! A gateway of another version, which offers a protocol of ours that this one does not know: the two meet in SOCKS5,
//! whoever dials and in both modes.

use portcullis::telemetry::snapshot::{NoticeLevel, PoolState, Snapshot};

use crate::support::{
    frames::{Port, RawLink, SOCKS},
    gateway::{Gateway, TestFolder},
    mode_pair::{DMZ_TLS, INTERNAL_TLS},
    peers::{expect_bytes, send},
    socks::{BIND, CONNECT, SOCKS_METHOD, SOCKS_OFFER, ask, reply, request},
};

/// The one before ours and one to come, and what every version knows.
const OTHER: [&str; 3] = ["portcullis/1", "portcullis/9", SOCKS];

fn dmz(folder: &TestFolder, mode: &str, link: &str) -> Gateway {
    let text = format!(
        "mode: {mode}\ndmz:\n  link: {{ {link}, tls: {DMZ_TLS}, prepared: 1 }}\n  services: {{ orders: {{ accept: \
         ['tcp://127.0.0.1:0'] }} }}\n"
    );
    folder.start("dmz", &text)
}

fn internal(folder: &TestFolder, mode: &str, link: &str) -> Gateway {
    let text = format!(
        "mode: {mode}\ninternal:\n  link: {{ {link}, tls: {INTERNAL_TLS}, prepared: 1 }}\n  services: {{ orders: {{ \
         connect: 'echo://' }} }}\n"
    );
    folder.start("internal", &text)
}

/// One notice and one WARN of it, with all of `words`; both are one call.
async fn expect_one_notice(gateway: &Gateway, words: &[&str]) {
    gateway.until_notice("SOCKS5, one session each").await;
    let lines: Vec<_> = gateway
        .now()
        .await
        .notices
        .iter()
        .filter(|line| line.text.contains("portcullis/"))
        .cloned()
        .collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0].level, NoticeLevel::Warn);
    assert!(words.iter().all(|word| lines[0].text.contains(word)), "{lines:?}");
}

/// The software and its protocol, as this build names them.
const OURS: [&str; 2] = [concat!("portcullis ", env!("CARGO_PKG_VERSION")), "portcullis/2"];

async fn until_socks(gateway: &Gateway) {
    let is_agreed = |snapshot: &Snapshot| {
        let mut rows = snapshot.pools.iter();
        rows.any(|row| row.protocol.as_deref() == Some(SOCKS) && row.state == PoolState::Healthy)
    };
    gateway.until("a healthy row that speaks socks/5", is_agreed).await;
}

#[tokio::test]
async fn an_internal_half_of_another_version_dials_in() {
    let folder = TestFolder::new();
    let gateway = dmz(&folder, "reverse", "listen: 'socks+tls://127.0.0.1:0'");
    let at = gateway.link_port().await;
    let mut link = RawLink::dial(&folder, "internal", at, "dmz", &OTHER).await;
    assert_eq!(link.agreed(), Some(SOCKS));
    assert_eq!(ask(&mut link.stream, BIND, b"orders").await, 0);
    until_socks(&gateway).await;
    let mut again = RawLink::dial(&folder, "internal", at, "dmz", &OTHER).await;
    assert_eq!(ask(&mut again.stream, BIND, b"orders").await, 0);
    expect_one_notice(&gateway, &[OURS[0], OURS[1], "internal speaks portcullis/1 and portcullis/9"]).await;
}

#[tokio::test]
async fn a_dmz_half_of_another_version_is_dialled() {
    let folder = TestFolder::new();
    let port = Port::new(&folder, "dmz", &OTHER).await;
    let gateway = internal(&folder, "reverse", &format!("connect: '{}'", port.address()));
    let mut link = port.accept().await;
    assert_eq!(link.agreed(), Some(SOCKS));
    expect_bytes(&mut link.stream, &SOCKS_OFFER).await;
    send(&mut link.stream, &SOCKS_METHOD).await;
    expect_bytes(&mut link.stream, &request(BIND, b"orders")).await;
    send(&mut link.stream, &reply(0)).await;
    until_socks(&gateway).await;
    expect_one_notice(&gateway, &OURS).await;
}

#[tokio::test]
async fn an_internal_half_of_another_version_is_dialled() {
    let folder = TestFolder::new();
    let port = Port::new(&folder, "internal", &OTHER).await;
    let gateway = dmz(&folder, "forward", &format!("connect: '{}'", port.address()));
    let mut link = port.accept().await;
    assert_eq!(link.agreed(), Some(SOCKS));
    expect_bytes(&mut link.stream, &SOCKS_OFFER).await;
    send(&mut link.stream, &SOCKS_METHOD).await;
    until_socks(&gateway).await;
    expect_one_notice(&gateway, &OURS).await;
}

#[tokio::test]
async fn a_dmz_half_of_another_version_dials_in() {
    let folder = TestFolder::new();
    let gateway = internal(&folder, "forward", "listen: 'socks+tls://127.0.0.1:0'");
    let at = gateway.link_port().await;
    let mut link = RawLink::dial(&folder, "dmz", at, "internal", &OTHER).await;
    assert_eq!(link.agreed(), Some(SOCKS));
    assert_eq!(ask(&mut link.stream, CONNECT, b"orders").await, 0);
    send(&mut link.stream, b"words").await;
    expect_bytes(&mut link.stream, b"words").await;
    let mut again = RawLink::dial(&folder, "dmz", at, "internal", &OTHER).await;
    assert_eq!(ask(&mut again.stream, CONNECT, b"orders").await, 0);
    expect_one_notice(&gateway, &[OURS[0], OURS[1], "dmz speaks portcullis/1 and portcullis/9"]).await;
}

/// Another program that speaks SOCKS5 is what it should be.
#[tokio::test]
async fn a_program_that_never_spoke_ours_is_no_news() {
    let folder = TestFolder::new();
    let gateway = internal(&folder, "forward", "listen: 'socks+tls://127.0.0.1:0'");
    let mut link =
        RawLink::dial(&folder, "dmz", gateway.link_port().await, "internal", &[SOCKS, "portcullis/x"]).await;
    assert_eq!(ask(&mut link.stream, CONNECT, b"orders").await, 0);
    let seen = gateway.now().await;
    assert!(!seen.notices.iter().any(|line| line.text.contains("SOCKS5")), "{:?}", seen.notices);
}
