//! A gateway that takes links and lets each go at once is asked again with pauses, and one that has
//! no room costs no client.

use std::time::Duration;

use portcullis::telemetry::snapshot::{NoticeLevel, PoolRow, PoolState};
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, timeout_at},
};

use super::halves::profile;
use crate::support::{
    frames::{self, DRAIN, HELLO, LinkOver, OPEN, OURS, Port, REFUSED, RETIRE, RawLink, frame},
    gateway::{Gateway, TestFolder},
    mode_pair::{DMZ_TLS, INTERNAL_TLS},
    peers::{dial, expect_bytes, expect_end, send},
};

/// How a gateway lets a new link go.
#[derive(Debug, Clone, Copy)]
enum ClosingMethod {
    Asks(u8),
    Closes,
    Cuts,
}

const CLOSINGS: [ClosingMethod; 4] =
    [ClosingMethod::Asks(RETIRE), ClosingMethod::Asks(DRAIN), ClosingMethod::Closes, ClosingMethod::Cuts];

/// Finishes the handshake and closes the link in the same write. If it asks to close, it also
/// closes, as an opener must.
async fn close_new_link(mut link: RawLink, hello: &[u8], goes: ClosingMethod) {
    let mut sent = frame(HELLO, hello);
    if let ClosingMethod::Asks(kind) = goes {
        sent.extend(frame(kind, &[]));
    }
    link.send(&sent).await;
    match goes {
        ClosingMethod::Asks(_) | ClosingMethod::Closes => {
            link.stream.shutdown().await.unwrap();
            link.over().await;
        }
        ClosingMethod::Cuts => link.cut(),
    }
}

const WATCHED: Duration = Duration::from_secs(2);
/// Pauses are half of their bound in the mean, which is 250 ms and more: some ten dials in that time.
/// Without them there are hundreds.
const DIALS_MAX: usize = 40;

/// Lets every link go that comes for a while; how many came.
async fn dials(port: &Port, serves: bool, goes: ClosingMethod) -> usize {
    let until = Instant::now() + WATCHED;
    let mut count = 0;
    while let Ok(mut link) = timeout_at(until, port.accept()).await {
        count += 1;
        if serves {
            close_new_link(link, &frames::offer(0, 4, &["orders"]), goes).await;
        } else {
            link.expect_kind(HELLO).await;
            close_new_link(link, &frames::grant(8, &["orders"]), goes).await;
        }
    }
    count
}

async fn check_pauses(serves: bool, goes: ClosingMethod) {
    let folder = TestFolder::new();
    let port = Port::new(&folder, if serves { "internal" } else { "dmz" }, &[OURS]).await;
    let text = match serves {
        false => profile(&port.address(), ", prepared: 1", "orders: { connect: 'echo://' }")
            .replace("first: 10ms, maximum: 50ms", "first: 200ms, maximum: 400ms"),
        true => format!(
            "mode: forward\ndmz:\n  link: {{ connect: '{}', tls: {DMZ_TLS}, prepared: 1 }}\n  \
             services: {{ orders: {{ accept: ['tcp://127.0.0.1:0'] }} }}\n",
            port.address()
        ),
    };
    let gateway = folder.start("half", &text);
    let count = dials(&port, serves, goes).await;
    assert!((2..=DIALS_MAX).contains(&count), "{goes:?}: {count} dials");
    let row = gateway.until_pool("a failure", |row| row.failures > 0).await;
    assert!(row.ready == 0 && row.state == PoolState::Down, "{goes:?}: {row:?}");
}

async fn check_every_closing(serves: bool) {
    let [one, two, three, four] = CLOSINGS.map(|goes| check_pauses(serves, goes));
    tokio::join!(one, two, three, four);
}

#[tokio::test]
async fn a_gateway_that_closes_new_links_is_dialled_with_backoff_by_the_server() {
    check_every_closing(false).await;
}

#[tokio::test]
async fn a_gateway_that_closes_new_links_is_dialled_with_backoff_by_the_opener() {
    check_every_closing(true).await;
}

/// A half that serves and dials, with short pauses; the test plays the gateway that it dials.
async fn dialling(prepared: usize) -> (Port, Gateway) {
    let folder = TestFolder::new();
    let port = Port::new(&folder, "dmz", &[OURS]).await;
    let more = format!(", prepared: {prepared}");
    let text = profile(&port.address(), &more, "echo: { connect: 'echo://' }")
        .replace("first: 10ms, maximum: 50ms", "first: 200ms, maximum: 400ms");
    let gateway = folder.start("internal", &text);
    (port, gateway)
}

/// Does this with each link that comes for a while; how many came.
async fn for_each_link(port: &Port, mut meets: impl AsyncFnMut(RawLink)) -> usize {
    let until = Instant::now() + 2 * WATCHED;
    let mut count = 0;
    while let Ok(mut link) = timeout_at(until, port.accept()).await {
        count += 1;
        link.expect_kind(HELLO).await;
        meets(link).await;
    }
    count
}

#[tokio::test]
async fn established_links_do_not_hide_one_that_keeps_closing() {
    let (port, gateway) = dialling(8).await;
    let mut stays = Vec::new();
    let count = for_each_link(&port, async |mut link| match stays.len() {
        // These live.
        0..=2 => {
            link.send_frame(HELLO, &frames::grant(8, &["echo"])).await;
            stays.push(link);
        }
        // These stand, every one of them, and go.
        _ => close_new_link(link, &frames::grant(8, &["echo"]), ClosingMethod::Closes).await,
    })
    .await;
    // At most eight at once and ten a second.
    assert!((4..=80).contains(&count), "{count} dials");
    let row = gateway.until_pool("some live", |row| row.ready == 3).await;
    assert!(row.failures > 0, "{row:?}");
}

#[tokio::test]
async fn a_gateway_that_breaks_the_protocol_is_dialled_with_pauses_though_it_opens_a_session() {
    let (port, gateway) = dialling(1).await;
    let count = for_each_link(&port, async |mut link| {
        link.send_frame(HELLO, &frames::grant(8, &["echo"])).await;
        link.send_frame(OPEN, &frames::open("s-1", None, "echo")).await;
        link.expect_frame(frames::OPENED, &[]).await;
        // Of a server alone.
        link.send_frame(frames::OPENED, &[]).await;
        link.over().await;
    })
    .await;
    // Though more sessions come than one, and so more links are wanted.
    assert!((2..=60).contains(&count), "{count} dials");
    gateway.until_notice("it broke the protocol").await;
}

#[tokio::test]
async fn a_gateway_that_drains_is_no_warning() {
    for level in [None, Some(NoticeLevel::Warn)] {
        let (port, gateway) = dialling(1).await;
        let mut link = port.accept().await;
        link.expect_kind(HELLO).await;
        link.send_frame(HELLO, &frames::grant(8, &["echo"])).await;
        gateway.until_pool("it is up", |row| row.ready == 1).await;
        match level {
            None => {
                link.send_frame(DRAIN, &[]).await;
                link.stream.shutdown().await.unwrap();
                gateway.until_notice("it drains, and takes no links now").await;
            }
            Some(_) => {
                link.cut();
                gateway.until_notice("ready link lost").await;
            }
        }
        let snapshot = gateway.now().await;
        let warned = snapshot.notices.iter().find(|line| line.level == NoticeLevel::Warn);
        assert_eq!(warned.map(|line| line.level), level, "{warned:?}");
    }
}

#[tokio::test]
async fn a_gateway_that_drains_while_it_carries_a_session_is_no_warning() {
    let (port, gateway) = dialling(1).await;
    let mut link = port.accept().await;
    link.expect_kind(HELLO).await;
    link.send_frame(HELLO, &frames::grant(8, &["echo"])).await;
    link.send_frame(OPEN, &frames::open("s-1", None, "echo")).await;
    link.expect_frame(frames::OPENED, &[]).await;
    // As a gateway does that stops.
    drop(port);
    link.send_frame(DRAIN, &[]).await;
    gateway.until_notice("it drains, and takes no links now").await;
    // It is still dialled: another may come in its place.
    let is_refused = |row: &PoolRow| {
        row.failures > 2 && row.last_error.as_deref() != Some("it drains, and takes no links now")
    };
    let row = gateway.until_pool("dials are refused", is_refused).await;
    assert!(row.left && row.ready == 0 && row.carrying == 1, "{row:?}");
    // There is no other gateway, so this is reported, at the time when anything else would be.
    gateway.until_notice("health: DOWN").await;
    let snapshot = gateway.now().await;
    let is_about_links = |line: &&str| line.starts_with("link to") || line.starts_with("any service");
    let warned = snapshot.notices.iter().filter(|line| line.level == NoticeLevel::Warn);
    let warned: Vec<_> = warned.map(|line| &*line.text).filter(is_about_links).collect();
    assert!(warned.is_empty(), "{warned:?}");
}

#[tokio::test]
async fn a_port_that_is_closed_beside_links_that_stay_is_a_warning_after_a_moment() {
    let (port, gateway) = dialling(2).await;
    let mut links = [port.accept().await, port.accept().await];
    for link in &mut links {
        link.expect_kind(HELLO).await;
        link.send_frame(HELLO, &frames::grant(8, &["echo"])).await;
    }
    gateway.until_pool("they stand", |row| row.ready == 2).await;
    drop(port);
    let [mut goes, _stays] = links;
    goes.send_frame(OPEN, &frames::open("s-1", None, "echo")).await;
    goes.expect_frame(frames::OPENED, &[]).await;
    goes.send_frame(RETIRE, &[]).await;
    let row = gateway.until_pool("another is dialled without success", |row| row.failures > 0).await;
    assert_eq!((row.ready, row.carrying), (1, 1), "{row:?}");
    let line = gateway.until_notice("refused").await;
    assert!(line.starts_with("link to "), "{line}");
}

/// A half that serves and listens, with room for one link.
fn with_room_for_one(folder: &TestFolder) -> Gateway {
    let text = format!(
        "mode: forward\ninternal:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', maximum: 1, \
         tls: {INTERNAL_TLS} }}\n  services: {{ orders: {{ connect: 'echo://' }} }}\n"
    );
    folder.start("internal", &text)
}

/// The only link that it takes.
async fn filling(folder: &TestFolder, gateway: &Gateway) -> RawLink {
    let mut link = RawLink::dial(folder, "dmz", gateway.link_port().await, "internal", &[OURS]).await;
    link.expect_kind(HELLO).await;
    link.send_frame(HELLO, &frames::grant(8, &["orders"])).await;
    gateway.until_pool("full", |row| row.ready == 1).await;
    link
}

#[tokio::test]
async fn a_session_that_meets_a_link_too_many_was_never_looked_at() {
    let folder = TestFolder::new();
    let gateway = with_room_for_one(&folder);
    let mut first = filling(&folder, &gateway).await;
    let mut second = RawLink::dial(&folder, "dmz", gateway.link_port().await, "internal", &[OURS]).await;
    second.expect_kind(HELLO).await;
    let grant = frame(HELLO, &frames::grant(8, &["orders"]));
    let open = frame(OPEN, &frames::open("s-1", None, "orders"));
    let sent = frame(frames::DATA, b"words");
    second.send(&[grant, open, sent].concat()).await;
    second.expect_frame(RETIRE, &[]).await;
    // It was not looked at, and may be opened on another link.
    second.expect_frame(REFUSED, &[9]).await;
    second.send_frame(RETIRE, &[]).await;
    second.stream.shutdown().await.unwrap();
    assert_eq!(second.over().await, (LinkOver::Cleanly, vec![]));
    gateway.until_notice("`maximum` links are in use").await;
    first.expect_pong(b"and you?").await;
    super::halves::GatewayEchoSession::on_service(first, "orders").await;
}

#[tokio::test]
async fn a_link_too_many_without_a_session_is_closed_when_its_opener_closes_it() {
    let folder = TestFolder::new();
    let gateway = with_room_for_one(&folder);
    let _first = filling(&folder, &gateway).await;
    let mut second = RawLink::dial(&folder, "dmz", gateway.link_port().await, "internal", &[OURS]).await;
    second.expect_kind(HELLO).await;
    second.send_frame(HELLO, &frames::grant(8, &["orders"])).await;
    second.expect_frame(RETIRE, &[]).await;
    second.stream.shutdown().await.unwrap();
    assert_eq!(second.over().await, (LinkOver::Cleanly, vec![]));
}

#[tokio::test]
async fn a_gateway_without_room_costs_no_client_while_another_has_some() {
    let folder = TestFolder::new();
    let full = with_room_for_one(&folder);
    let _first = filling(&folder, &full).await;
    let text = format!(
        "mode: forward\ninternal:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', tls: {INTERNAL_TLS} }}\n  \
         services: {{ orders: {{ connect: 'echo://' }} }}\n"
    );
    let other = folder.start("other", &text);
    let text = format!(
        "mode: forward\ndmz:\n  link: {{ connect: ['socks+tls://{}', 'socks+tls://{}'], tls: {DMZ_TLS}, \
         prepared: 1 }}\n  services: {{ orders: {{ accept: ['tcp://127.0.0.1:0'] }} }}\n",
        full.link_port().await,
        other.link_port().await
    );
    let dmz = folder.start("dmz", &text);
    // A link of the full one may come first, and there is no other to go to yet.
    let room = format!("socks+tls://{}", other.link_port().await);
    let has_room = |row: &PoolRow| row.address.as_deref() == Some(&room) && row.ready > 0;
    dmz.until("the other has room", |seen| seen.pools.iter().any(has_room)).await;
    let port = dmz.client_port("orders").await;
    for _ in 0..100 {
        let mut client = dial(port).await;
        send(&mut client, b"only once").await;
        expect_bytes(&mut client, b"only once").await;
        client.shutdown().await.unwrap();
        expect_end(&mut client).await;
    }
    full.until_notice("`maximum` links are in use").await;
    let seen = dmz.until("all ended", |seen| seen.totals.sessions_open == 0).await;
    assert!(seen.ended.iter().all(|row| row.end == "--"), "{:?}", seen.ended);
}
