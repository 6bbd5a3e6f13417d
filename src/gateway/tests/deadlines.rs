//! Tests every deadline of a link in docs/link-protocol.md with a paused clock: shortly before its time nothing
//! may have happened, and shortly after it must have. A row without a check fails, and so does a check without
//! a row.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, advance, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    gateway::session_permits::SessionPermits,
    link::{
        DIAL_TIMEOUT, DRAIN_TIMEOUT, HANDSHAKE_TIMEOUT, LINGERING_CLOSE_TIMEOUT, Peer,
        agreement::{AgreedLink, AgreedLinkEvent, Agreement},
        error::IdleLinkError,
        handshake::{self, HandshakeError, HandshakeTerms},
        liveness::{LinkLiveness, LivenessVerdict, PING_INTERVAL, PONG_TIMEOUT, WriteState},
        multiplex::{
            frame_deadline::FRAME_TIMEOUT,
            handle::{LinkLoss, LocalSide, SessionFate},
            local_party::LocalParty,
            parked::PARKED_TIMEOUT,
            timing::OPEN_TIMEOUT,
        },
        offered_services::OfferedServices,
        server::{IdleLossReason, LinkServer},
    },
    net::{dial, pipe::pipe, read_ahead::TlsTransport, stream::NetStream, tcp},
    profile::{GatewaysOfName, HostPort, LinkAddress, LinkCarrier, ServiceName},
    proto::multiplex::{
        PeerViolation,
        decoder::{DecodedPiece, FrameReader},
        frame::{FrameType, HEADER_BYTES, LinkFrame, MOVE_BYTES},
        open::OpenRequest,
        state::LinkEnd,
    },
    telemetry::registry::SessionCounters,
    tests::{LITTLE, happens_after},
    tls::edge::EdgeTls,
};

struct DeadlineRow {
    name: &'static str,
    value: Duration,
    check: fn(Duration) -> BoxFuture<'static, ()>,
}

const DEADLINES: &[DeadlineRow] = &[
    DeadlineRow { name: "dial", value: DIAL_TIMEOUT, check: |value| Box::pin(check_dial(value)) },
    DeadlineRow {
        name: "handshake, accepted",
        value: HANDSHAKE_TIMEOUT,
        check: |value| Box::pin(check_accepted(value)),
    },
    DeadlineRow {
        name: "handshake, dialled",
        value: HANDSHAKE_TIMEOUT,
        check: |value| Box::pin(check_dialled(value)),
    },
    DeadlineRow {
        name: "second reply",
        value: HANDSHAKE_TIMEOUT,
        check: |value| Box::pin(check_second_reply(value)),
    },
    DeadlineRow {
        name: "answer to `open`",
        value: OPEN_TIMEOUT,
        check: |value| Box::pin(check_answer(value)),
    },
    DeadlineRow { name: "check", value: PING_INTERVAL, check: |value| Box::pin(check_look(value)) },
    DeadlineRow { name: "ping", value: PONG_TIMEOUT, check: |value| Box::pin(check_ping(value)) },
    DeadlineRow {
        name: "begun frame",
        value: FRAME_TIMEOUT,
        check: |value| Box::pin(check_begun_frame(value)),
    },
    DeadlineRow {
        name: "acknowledgement",
        value: tcp::ACK_TIMEOUT,
        check: |value| Box::pin(check_acknowledged(value)),
    },
    DeadlineRow {
        name: "parked session",
        value: PARKED_TIMEOUT,
        check: |value| Box::pin(check_parked(value)),
    },
    DeadlineRow {
        name: "lingering close",
        value: LINGERING_CLOSE_TIMEOUT,
        check: |value| Box::pin(check_lingering_close(value)),
    },
    DeadlineRow { name: "goodbye", value: DRAIN_TIMEOUT, check: |value| Box::pin(check_goodbye(value)) },
    DeadlineRow {
        name: "silence after a goodbye",
        value: PING_INTERVAL.saturating_add(PONG_TIMEOUT),
        check: |value| Box::pin(check_parting(value)),
    },
];

/// The rows of the table: name and value.
fn rows() -> Vec<(String, Duration)> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/link-protocol.md");
    let text = std::fs::read_to_string(page).expect("the page is there");
    let table = text.split("## Deadlines\n").nth(1).expect("a section");
    let table = table.split("\n## ").next().expect("its text");
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(1);
    rows.map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let value = humantime::parse_duration(cells[1]);
        (cells[0].to_owned(), value.unwrap_or_else(|error| panic!("{line}: {error}")))
    })
    .collect()
}

#[test]
fn every_deadline_is_kept_to_its_time() {
    let rows = rows();
    for deadline in DEADLINES {
        let row = rows.iter().find(|(name, _)| name == deadline.name);
        assert_eq!(row.map(|(_, value)| *value), Some(deadline.value), "{}", deadline.name);
    }
    for (name, _) in &rows {
        assert!(DEADLINES.iter().any(|deadline| deadline.name == name), "no check of `{name}`");
    }
    for deadline in DEADLINES {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().expect("a runtime");
        let check = || runtime.block_on((deadline.check)(deadline.value));
        let kept = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
        assert!(kept.is_ok(), "`{}` is not kept to its time", deadline.name);
    }
}

async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = listener.local_addr().expect("it is bound");
    let (theirs, ours) = tokio::join!(TcpStream::connect(at), listener.accept());
    (ours.expect("it connects").0, theirs.expect("it connects"))
}

fn orders() -> ServiceName {
    ServiceName::parse("orders").expect("a name")
}

fn peer() -> Peer {
    Peer { name: None, address: "peer".into(), instance: None }
}

/// An established link of one end, and its peer's socket.
async fn agreed_link(end: LinkEnd) -> (Box<AgreedLink>, TcpStream) {
    let (ours, theirs) = connection().await;
    (agreed_link_over(NetStream::Tcp(ours), end), theirs)
}

fn agreed_link_over(stream: NetStream, end: LinkEnd) -> Box<AgreedLink> {
    let serves = [orders()].into_iter().collect();
    let agreed = Agreement {
        end,
        sessions_max: 8,
        serves,
        retire: DRAIN_TIMEOUT * 6,
        retired: CancellationToken::new(),
    };
    AgreedLink::new(stream, peer(), agreed)
}

/// Drives a link until it has ended.
async fn ends(link: &mut AgreedLink) -> IdleLossReason {
    loop {
        if let AgreedLinkEvent::Ended(reason) = link.next_event(std::future::pending()).await {
            return reason;
        }
    }
}

/// Answers pings of an end of ours until its link ends.
async fn answer_pings(theirs: &mut TcpStream, end: LinkEnd) {
    let mut decoder = FrameReader::new(end);
    let mut chunk = [0; 1024];
    while let Ok(count @ 1..) = theirs.read(&mut chunk).await {
        let mut bytes = &chunk[..count];
        while let Some(received) = decoder.decode(&mut bytes).expect("frames") {
            let DecodedPiece::Frame { frame: LinkFrame::Ping(token), .. } = received else { continue };
            let mut pong = Vec::new();
            LinkFrame::Pong(token).push(&mut pong, 0);
            if theirs.write_all(&pong).await.is_err() {
                return;
            }
        }
    }
}

/// A port whose backlog is full: requests for a connection are dropped, as by a silent host.
async fn check_dial(value: Duration) {
    let silent = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    silent.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    silent.listen(0).expect("it listens");
    let at = silent.local_addr().expect("it is bound").as_socket().expect("an address");
    let _fills = TcpStream::connect(at).await.expect("it connects");
    let at = host(at);
    assert!(happens_after(value, dial::dial(&at, value)).await.is_err());
}

fn host(at: SocketAddr) -> HostPort {
    HostPort { host: at.ip().to_string(), port: at.port() }
}

fn terms() -> HandshakeTerms {
    link_server().terms()
}

async fn check_accepted(value: Duration) {
    let (ours, _silent) = connection().await;
    let from = ours.peer_addr().expect("it is connected");
    let identity = ArcSwap::from_pointee(None);
    let handshake_done =
        happens_after(value, handshake::accept(TlsTransport::Socket(ours), from, &identity, &terms())).await;
    assert!(matches!(handshake_done, Err(HandshakeError::Late)), "{handshake_done:?}");
}

/// All steps together: the method comes just in time, and the first reply never.
async fn check_dialled(value: Duration) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = listener.local_addr().expect("it is bound");
    let (carrier, gateways) = (LinkCarrier::Tcp, GatewaysOfName::default());
    let address = LinkAddress { at: host(at), tls: false, carrier, via: None, gateways, source: None };
    let dialling = async {
        let mut dialled = handshake::dial(&address, None, None, &EdgeTls::default()).await?;
        handshake::park(&mut dialled, &orders()).await
    };
    let answering = async {
        let (mut theirs, _) = listener.accept().await.expect("it comes");
        sleep_until(Instant::now() + value - Duration::from_secs(1)).await;
        theirs.write_all(&[5, 0]).await.expect("it is taken");
        theirs
    };
    let (parked, _theirs) = tokio::join!(happens_after(value, dialling), answering);
    assert!(matches!(parked, Err(HandshakeError::Late)), "{parked:?}");
}

async fn check_second_reply(value: Duration) {
    let (ours, mut theirs) = connection().await;
    let mut stream = NetStream::Tcp(ours);
    theirs.write_all(&[5, 0, 0]).await.expect("it is taken");
    let announced = happens_after(value, handshake::read_announcement(&mut stream)).await;
    assert!(matches!(announced, Err(HandshakeError::HalfAnnounced)), "{announced:?}");
}

/// The link itself is alive: its peer answers pings, but no `open`.
async fn check_answer(value: Duration) {
    let (mut link, mut theirs) = agreed_link(LinkEnd::Opener).await;
    let (ours, _client) = connection().await;
    let local = LocalSide {
        stream: NetStream::Tcp(ours),
        unsent: Vec::new(),
        counters: Arc::new(SessionCounters::default()),
        idle: None,
        party: LocalParty::Client,
    };
    let (handle, slot) = (link.handle().clone(), link.load().take().expect("a place"));
    let opening = async {
        let opened = handle.open(OpenRequest::new(orders(), "s-1".into()), Box::new(local), slot).await;
        opened.expect("the link lives").outcome().await.fate
    };
    let fate = tokio::select! {
        fate = happens_after(value, opening) => fate,
        reason = ends(&mut link) => panic!("{reason:?}"),
        () = answer_pings(&mut theirs, LinkEnd::Opener) => panic!("it reads on"),
    };
    assert!(matches!(fate, SessionFate::Unanswered), "{fate:?}");
}

const LISTENS: WriteState = WriteState::Yes;

async fn check_look(value: Duration) {
    let began = Instant::now();
    let mut liveness = LinkLiveness::new(began);
    assert_eq!(liveness.next_check(), began + value);
    advance(value).await;
    let looked = liveness.check(Instant::now(), Duration::ZERO, LISTENS, || None);
    assert!(matches!(looked, LivenessVerdict::Ping(_)), "{looked:?}");
    assert_eq!(liveness.next_check(), Instant::now() + value);
}

async fn check_ping(value: Duration) {
    let mut liveness = LinkLiveness::new(Instant::now());
    let look = |liveness: &mut LinkLiveness| liveness.check(Instant::now(), Duration::ZERO, LISTENS, || None);
    assert!(matches!(look(&mut liveness), LivenessVerdict::Ping(_)));
    advance(value - LITTLE).await;
    assert_eq!(look(&mut liveness), LivenessVerdict::Alive);
    advance(LITTLE).await;
    assert_eq!(look(&mut liveness), LivenessVerdict::Dead);
}

async fn check_begun_frame(value: Duration) {
    let (mut link, mut theirs) = agreed_link(LinkEnd::Server).await;
    theirs.write_all(&[FrameType::Ping as u8]).await.expect("it is taken");
    // Read at the first turn, since it has arrived by then.
    link.tcp().expect("it is one").readable().await.expect("it lives");
    let reason = happens_after(value, ends(&mut link)).await;
    let IdleLossReason::Failed(IdleLinkError::Link(loss)) = reason else { panic!("{reason:?}") };
    assert_eq!(loss, LinkLoss::Broken(PeerViolation::TooSlow));
}

/// Its opener moves a session, and goes on with it nowhere. Without sockets, whose bytes take real time.
async fn check_parked(value: Duration) {
    let (ours, mut theirs) = pipe();
    let mut link = agreed_link_over(NetStream::Pipe(Box::new(ours)), LinkEnd::Server);
    let (mut opens, mut moves) = (Vec::new(), Vec::new());
    LinkFrame::Open(Box::new(OpenRequest::new(orders(), "s-1".into()))).push(&mut opens, 1);
    LinkFrame::Move { sent: 0, credit: 0, ticket: [0; 16] }.push(&mut moves, 1);
    theirs.write_all(&opens).await.expect("it is taken");
    let opened = link.next_event(std::future::pending()).await;
    let AgreedLinkEvent::Opened(_, session) = opened else { panic!("{opened:?}") };
    let local = LocalSide {
        stream: NetStream::Echo(Box::default()),
        unsent: Vec::new(),
        counters: Arc::new(SessionCounters::default()),
        idle: None,
        party: LocalParty::Backend,
    };
    let moving = async {
        let mut session = session.attach(Box::new(local), SessionPermits::of_test()).await;
        theirs.read_exact(&mut [0; HEADER_BYTES]).await.expect("it is opened");
        theirs.write_all(&moves).await.expect("it is taken");
        theirs.read_exact(&mut [0; HEADER_BYTES + MOVE_BYTES]).await.expect("it is answered");
        happens_after(value, session.outcome()).await.fate
    };
    let ending = async {
        // Meanwhile nobody answers its pings.
        ends(&mut link).await;
        std::future::pending::<()>().await;
    };
    let fate = tokio::select! {
        fate = moving => fate,
        () = ending => unreachable!("it never ends"),
    };
    assert!(matches!(fate, SessionFate::LinkLost(_)), "{fate:?}");
}

async fn check_acknowledged(value: Duration) {
    let mut delivery = tcp::SocksLinkWatch::default();
    let (began, long) = (Instant::now(), Some(Duration::from_secs(3600)));
    assert_eq!(delivery.note(long, began), tcp::Acknowledgement::NotYet);
    assert_eq!(delivery.note(long, began + value - LITTLE), tcp::Acknowledgement::NotYet);
    assert_eq!(delivery.note(long, began + value), tcp::Acknowledgement::Never);
}

async fn check_lingering_close(value: Duration) {
    let (ours, _silent) = connection().await;
    happens_after(value, handshake::close_lingering(NetStream::Tcp(ours))).await;
}

/// Its opener says that it leaves, answers pings, but does not close the link.
async fn check_goodbye(value: Duration) {
    let (link, mut theirs) = agreed_link(LinkEnd::Server).await;
    let mut sent = Vec::new();
    LinkFrame::Retire.push(&mut sent, 0);
    theirs.write_all(&sent).await.expect("it is taken");
    link.tcp().expect("it is one").readable().await.expect("it lives");
    let mut served = link_server().serve(link);
    let ending = async move { served.next_session().await.map(|_| ()) };
    let (ended, ()) = tokio::join!(happens_after(value, ending), answer_pings(&mut theirs, LinkEnd::Server));
    ended.expect_err("nobody opens a session");
}

fn link_server() -> Arc<LinkServer> {
    LinkServer::new(Arc::new(ArcSwap::from_pointee(OfferedServices::default())))
}

async fn check_parting(value: Duration) {
    let (link, mut silent) = agreed_link(LinkEnd::Opener).await;
    let socket = socket2::SockRef::from(link.tcp().expect("it is one")).try_clone().expect("a handle");
    let socket = TcpStream::from_std(socket.into()).expect("it is open");
    // The kernel's clock is not paused, so time stands still here until it has acknowledged the goodbye.
    let reading = async {
        silent.read_to_end(&mut Vec::new()).await.expect("it ends");
        while tcp::unacknowledged_for(&socket).is_some() {
            tokio::task::yield_now().await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = happens_after(value, link.close_gracefully(FrameType::Retire)) => {}
        () = reading => {}
    }
}
