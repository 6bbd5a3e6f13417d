//! Links in forward mode: dialled by the half that opens, or taken in by the half that serves.

use portcullis::{profile::Mode, telemetry::snapshot::PoolState};
use tokio::time::timeout;

use super::halves::GatewayEchoSession;
use crate::support::{
    frames::{
        self, DATA, DRAIN, END, HELLO, LinkOver, OPEN, OPENED, OURS, Port, REFUSED, RETIRE, RawLink, frame,
    },
    gateway::{Gateway, PATIENCE, TestFolder},
    mode_pair::{INTERNAL_TLS, Plan},
    peers::{Backend, dial, expect_bytes, expect_end, expect_reset, send},
    socks::{CONNECT, ask},
};

/// A half that opens and dials; the test plays `alpha` and `beta`.
struct Dialling {
    alpha: Port,
    beta: Port,
    gateway: Gateway,
}

impl Dialling {
    async fn new() -> Self {
        let folder = TestFolder::with(&["dmz", "alpha", "beta"]);
        let (alpha, beta) =
            (Port::new(&folder, "alpha", &[OURS]).await, Port::new(&folder, "beta", &[OURS]).await);
        let text = format!(
            "mode: forward\ndmz:\n  link: {{ connect: ['{}', '{}'], prepared: 1, wait: 2s, tls: {{ \
             certificate: pki/dmz.pem, key: pki/dmz.key, ca: pki/ca.pem, peers: [alpha, beta] }} }}\n  \
             services: {{ orders: {{ accept: ['tcp://127.0.0.1:0'] }} }}\n",
            alpha.address(),
            beta.address()
        );
        let gateway = folder.start("dmz", &text);
        Self { alpha, beta, gateway }
    }

    async fn two(&self) -> (RawLink, RawLink) {
        let links = (established_link(&self.alpha).await, established_link(&self.beta).await);
        self.gateway
            .until("both ready", |snapshot| {
                snapshot.pools.len() == 2 && snapshot.pools.iter().all(|row| row.state == PoolState::Healthy)
            })
            .await;
        links
    }

    async fn client(&self) -> tokio::net::TcpStream {
        dial(self.gateway.client_port("orders").await).await
    }
}

async fn established_link(port: &Port) -> RawLink {
    let mut link = port.accept().await;
    link.send_frame(HELLO, &frames::offer(0, 4, &["orders"])).await;
    link.expect_granted(&["orders"]).await;
    link
}

/// The link that receives first, whose next frame is of this type; the other link; the frame's
/// body.
async fn first_to_receive(one: RawLink, other: RawLink, kind: u8) -> (RawLink, RawLink, Vec<u8>) {
    let is_one = tokio::select! {
        _ = one.stream.get_ref().0.readable() => true,
        _ = other.stream.get_ref().0.readable() => false,
        () = tokio::time::sleep(PATIENCE) => panic!("neither receives anything"),
    };
    let (mut first, second) = if is_one { (one, other) } else { (other, one) };
    let body = first.expect_kind(kind).await;
    (first, second, body)
}

#[tokio::test]
async fn a_refused_session_goes_to_the_other_gateway_with_the_bytes_of_its_client() {
    let dialling = Dialling::new().await;
    let (alpha, beta) = dialling.two().await;
    let mut client = dialling.client().await;
    send(&mut client, b"only once").await;
    let (mut first, mut second, open) = first_to_receive(alpha, beta, OPEN).await;
    first.expect_frame(DATA, b"only once").await;
    first.send_frame(REFUSED, &[7]).await;
    second.expect_frame(OPEN, &open).await;
    second.expect_frame(DATA, b"only once").await;
    second.send(&[frame(OPENED, &[]), frame(DATA, b"fine"), frame(END, &[])].concat()).await;
    expect_bytes(&mut client, b"fine").await;
    expect_end(&mut client).await;
    drop(client);
    second.expect_frame(END, &[]).await;
    first.expect_pong(b"nothing?").await;
    dialling.gateway.until_ended("--").await;
}

#[tokio::test]
async fn a_session_that_both_gateways_refuse_is_refused() {
    let dialling = Dialling::new().await;
    let (alpha, beta) = dialling.two().await;
    let mut client = dialling.client().await;
    let (mut first, mut second, _) = first_to_receive(alpha, beta, OPEN).await;
    first.send_frame(REFUSED, &[7]).await;
    second.expect_kind(OPEN).await;
    second.send_frame(REFUSED, &[6]).await;
    expect_reset(&mut client).await;
    dialling.gateway.until_ended("PC").await;
}

#[tokio::test]
async fn a_link_asked_to_close_is_closed_and_redialled() {
    for asks in [RETIRE, DRAIN] {
        let dialling = Dialling::new().await;
        let (mut alpha, _beta) = dialling.two().await;
        alpha.send_frame(asks, &[]).await;
        assert_eq!(alpha.over().await, (LinkOver::Cleanly, vec![(RETIRE, vec![])]));
        established_link(&dialling.alpha).await;
    }
}

#[tokio::test]
async fn a_gateway_that_once_had_no_room_is_dialled_again() {
    let dialling = Dialling::new().await;
    let mut alpha = dialling.alpha.accept().await;
    alpha.send_frame(HELLO, &frames::offer(0, 0, &["orders"])).await;
    alpha.expect_kind(HELLO).await;
    alpha.cut();
    established_link(&dialling.alpha).await;
}

/// A half that serves and listens.
fn listening(folder: &TestFolder) -> Gateway {
    let text = format!(
        "mode: forward\ninternal:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', maximum: 7, tls: {INTERNAL_TLS} }}\n  \
         services: {{ echo: {{ connect: 'echo://' }} }}\n"
    );
    folder.start("internal", &text)
}

#[tokio::test]
async fn a_listening_half_offers_at_once_and_serves_session_after_session() {
    let folder = TestFolder::new();
    let gateway = listening(&folder);
    let at = gateway.link_port().await;
    let mut link = RawLink::dial(&folder, "dmz", at, "internal", &[OURS]).await;
    link.expect_offer(0, 7, &["echo"]).await;
    link.send_frame(HELLO, &frames::grant(8, &["echo"])).await;
    for _ in 0..3 {
        link = GatewayEchoSession::on(link).await.ends().await;
    }
    gateway.until_pool("ours", |row| row.protocol.as_deref() == Some(OURS) && row.ready == 1).await;
}

#[tokio::test]
async fn a_listening_half_falls_back_to_socks() {
    let folder = TestFolder::new();
    let gateway = listening(&folder);
    let at = gateway.link_port().await;
    for alpn in [&[][..], &["socks/5"]] {
        let mut link = RawLink::dial(&folder, "dmz", at, "internal", alpn).await;
        assert_eq!(ask(&mut link.stream, CONNECT, b"echo").await, 0);
        send(&mut link.stream, b"words").await;
        expect_bytes(&mut link.stream, b"words").await;
    }
}

#[tokio::test]
async fn links_and_backends_are_dialled_from_the_address_that_is_written() {
    for mode in [Mode::Forward, Mode::Reverse] {
        let (folder, backend) = (TestFolder::new(), Backend::new().await);
        let from = format!("{{ address: '{}', source: 127.0.0.9 }}", backend.address());
        let plan = Plan::new(mode, &from);
        let listen = "listen: 'socks+tls://127.0.0.1:0'";
        let connect = |at: std::net::SocketAddr| {
            format!("connect: {{ address: 'socks+tls://{at}', source: 127.0.0.8 }}")
        };
        let internal = |link: &str| format!("confine: off\n{}", plan.internal(link));
        let (listens, dials) = match mode {
            Mode::Forward => {
                let listens = folder.start("internal", &internal(listen));
                let dmz = plan.dmz(&connect(listens.link_port().await));
                (listens, folder.start("dmz", &dmz))
            }
            _ => {
                let listens = folder.start("dmz", &plan.dmz(listen));
                let internal = internal(&connect(listens.link_port().await));
                (listens, folder.start("internal", &internal))
            }
        };
        listens
            .until("links from that address", |snapshot| {
                snapshot.pools.iter().any(|row| row.ready > 0 && row.address.as_deref() == Some("127.0.0.8"))
            })
            .await;
        let dmz = if mode == Mode::Forward { &dials } else { &listens };
        let _client = dial(dmz.client_port("orders").await).await;
        let (_, from) = timeout(PATIENCE, backend.listener.accept()).await.unwrap().unwrap();
        assert_eq!(from.ip().to_string(), "127.0.0.9", "{mode:?}");
    }
}
