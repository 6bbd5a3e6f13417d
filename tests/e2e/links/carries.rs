//! A service is had from a peer only where both halves carry the same for it; what does not agree is
//! named, its clients are refused, and a corrected profile mends it.

use portcullis::{
    gateway::handle::Command,
    profile::Mode,
    telemetry::snapshot::{PoolState, Snapshot},
};

use super::halves::OpenerHalf;
use crate::support::{
    frames::{self, BYTES, HELLO, HTTP},
    gateway::{Gateway, TestFolder},
    mode_pair::Plan,
    peers::{Backend, dial, dial_refused, expect_bytes, send},
};

/// Without TLS on its clients' side, so that a test can say what it likes.
const SHOP: &str = ", shop: { accept: ['ws://127.0.0.1:0'], carries: http }";

fn last_error<'a>(snapshot: &'a Snapshot, service: &str) -> Option<&'a str> {
    snapshot.pools.iter().find(|row| row.service == service)?.last_error.as_deref()
}

fn notices(snapshot: &Snapshot, text: &str) -> usize {
    snapshot.notices.iter().filter(|notice| notice.text.contains(text)).count()
}

#[tokio::test]
async fn a_service_that_a_peer_carries_otherwise_is_not_granted_and_named_once() {
    let why = "`shop` carries bytes there and http here: write the same `carries` on both halves";
    let outside = OpenerHalf::with(SHOP).await;
    let mut links = Vec::new();
    for ready in 1..=3 {
        let mut alpha = outside.handshaken_link("alpha").await;
        let offer = frames::offer_of(1, 8, &[("shop", BYTES), ("orders", BYTES)]);
        alpha.send_frame(HELLO, &offer).await;
        alpha.expect_granted(&["orders"]).await;
        outside.until_ready("alpha", ready).await;
        links.push(alpha);
    }
    let snapshot = outside.gateway.now().await;
    assert_eq!(notices(&snapshot, why), 1);
    assert_eq!(last_error(&snapshot, "shop"), Some(why));
    assert_eq!(last_error(&snapshot, "*"), Some(why), "the peer's own row says so, too");
    let mut beta = outside.handshaken_link("beta").await;
    beta.send_frame(HELLO, &frames::offer_of(1, 8, &[("shop", HTTP), ("orders", HTTP)])).await;
    beta.expect_granted(&["shop"]).await;
    outside.until_ready("beta", 1).await;
    let of_beta = outside.gateway.until_notice("link from beta: `orders` carries http there").await;
    assert!(of_beta.contains("and bytes here"), "{of_beta}");
    let snapshot = outside.gateway.now().await;
    assert_eq!(last_error(&snapshot, "shop"), None, "somebody serves it");
}

/// Two gateways whose profiles carry different things for `orders`, each started with its own text.
struct Pair {
    folder: TestFolder,
    dmz: Gateway,
    internal: Gateway,
    texts: [String; 2],
}

impl Pair {
    async fn start(plan: Plan<'_>) -> Self {
        let folder = TestFolder::new();
        let listen = "listen: 'socks+tls://127.0.0.1:0'";
        let connect = |at| format!("connect: 'socks+tls://{at}'");
        match plan.mode {
            Mode::Forward => {
                let inner = plan.internal(listen);
                let internal = folder.start("internal", &inner);
                let outer = plan.dmz(&connect(internal.link_port().await));
                let dmz = folder.start("dmz", &outer);
                Self { folder, dmz, internal, texts: [outer, inner] }
            }
            Mode::Reverse | Mode::Direct => {
                let outer = plan.dmz(listen);
                let dmz = folder.start("dmz", &outer);
                let inner = plan.internal(&connect(dmz.link_port().await));
                let internal = folder.start("internal", &inner);
                Self { folder, dmz, internal, texts: [outer, inner] }
            }
        }
    }

    async fn until_named(&self, why: &str) {
        let is_named = |snapshot: &Snapshot| {
            snapshot.pools.iter().all(|row| row.last_error.as_deref().is_some_and(|error| error == why))
                && notices(snapshot, why) > 0
        };
        let snapshot = self.dmz.until("the mismatch is named", is_named).await;
        assert_eq!(snapshot.pools.len(), 1);
        assert_eq!(snapshot.pools[0].state, PoolState::Down);
    }

    async fn until_repaired(&self) {
        let is_healthy = |snapshot: &Snapshot| {
            let mut rows = snapshot.pools.iter();
            rows.all(|row| row.state == PoolState::Healthy && row.last_error.is_none())
        };
        self.dmz.until("all is well", is_healthy).await;
    }
}

#[tokio::test]
async fn clients_are_refused_until_the_internal_half_is_corrected() {
    let why = "`orders` carries http there and bytes here: write the same `carries` on both halves";
    for mode in [Mode::Forward, Mode::Reverse] {
        let backend = Backend::new().await;
        let http = format!("http://{}", backend.address().trim_start_matches("tcp://"));
        let pair = Pair::start(Plan::new(mode, &http)).await;
        pair.until_named(why).await;
        let clients = pair.dmz.client_port("orders").await;
        dial_refused(clients).await;
        let snapshot = pair.dmz.until("it has ended", |snapshot| !snapshot.ended.is_empty()).await;
        let ended = &snapshot.ended[0];
        assert_eq!((ended.end.as_str(), ended.reason.as_str()), ("XW", why), "{mode:?}");
        pair.folder.profile("internal", &pair.texts[1].replace(&http, &backend.address()));
        pair.internal.done(Command::Reload).await;
        pair.until_repaired().await;
        let mut client = dial(clients).await;
        let mut served = backend.accept().await;
        send(&mut client, b"carried").await;
        expect_bytes(&mut served, b"carried").await;
    }
}

#[tokio::test]
async fn links_come_to_stand_when_the_outer_half_is_corrected() {
    let why = "`orders` carries bytes there and http here: write the same `carries` on both halves";
    for mode in [Mode::Forward, Mode::Reverse] {
        let plan = Plan {
            accept: "ws://127.0.0.1:0",
            dmz_service: ", carries: http",
            internal_link: ", retry: { first: 10ms, maximum: 50ms }",
            ..Plan::new(mode, "echo://")
        };
        let plan = if mode == Mode::Forward { Plan { internal_link: "", ..plan } } else { plan };
        let pair = Pair::start(plan).await;
        pair.until_named(why).await;
        pair.folder.profile("dmz", &pair.texts[0].replace(", carries: http", ""));
        pair.dmz.done(Command::Reload).await;
        pair.until_repaired().await;
    }
}
