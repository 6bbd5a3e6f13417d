//! Tests every deadline of a link that docs/link-protocol.md lists, with a paused clock: shortly before its time nothing may
//! have happened, shortly after it must have. A row without a check fails, and so does a check without a row.

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Instant, advance, sleep_until},
};

use super::relay::{self, LinkSides, RelayOutcome};
use crate::{
    link::{
        DIAL, GOODBYE, HANDSHAKE, LINGERING_CLOSE, Peer,
        framed::{BEGUN, Link, LinkEvent},
        generation::TermsGeneration,
        handshake::{self, HandshakeError, HandshakeTerms, HelloRole},
        liveness::{HEARTBEAT, LinkLiveness, LivenessVerdict, ReadState, UNANSWERED, WriteState},
        server::{IdleLinkLost, LinkServer},
        session_side::SessionSide,
    },
    net::{dial, stream::NetStream, tcp},
    profile::{HostPort, LinkAddress, ServiceName},
    proto::link::{
        frame::{self, DATA_MAX, FrameKind},
        hello::{GrantHello, OfferHello},
        open::OpenFrame,
        state::LinkRole,
    },
    tasks::Tasks,
    telemetry::registry::SessionCounters,
};

const LITTLE: Duration = Duration::from_millis(20);

struct DeadlineRow {
    name: &'static str,
    value: Duration,
    check: fn(Duration) -> BoxFuture<'static, ()>,
}

const DEADLINES: &[DeadlineRow] = &[
    DeadlineRow { name: "dial", value: DIAL, check: |value| Box::pin(check_dial(value)) },
    DeadlineRow {
        name: "handshake, accepted",
        value: HANDSHAKE,
        check: |value| Box::pin(check_accepted(value)),
    },
    DeadlineRow {
        name: "handshake, dialled",
        value: HANDSHAKE,
        check: |value| Box::pin(check_dialled(value)),
    },
    DeadlineRow {
        name: "second reply",
        value: HANDSHAKE,
        check: |value| Box::pin(check_second_reply(value)),
    },
    DeadlineRow {
        name: "answer to `open`",
        value: relay::ANSWER,
        check: |value| Box::pin(check_answer(value)),
    },
    DeadlineRow { name: "look", value: HEARTBEAT, check: |value| Box::pin(check_look(value)) },
    DeadlineRow { name: "ping", value: UNANSWERED, check: |value| Box::pin(check_ping(value)) },
    DeadlineRow { name: "begun frame", value: BEGUN, check: |value| Box::pin(check_begun(value)) },
    DeadlineRow {
        name: "acknowledgement",
        value: tcp::UNACKNOWLEDGED,
        check: |value| Box::pin(check_acknowledged(value)),
    },
    DeadlineRow {
        name: "lingering close",
        value: LINGERING_CLOSE,
        check: |value| Box::pin(check_lingering_close(value)),
    },
    DeadlineRow { name: "goodbye", value: GOODBYE, check: |value| Box::pin(check_goodbye(value)) },
    DeadlineRow {
        name: "silence after a goodbye",
        value: handshake::PARTING_SILENCE,
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

/// It happens then, and not before.
async fn happens_after<T>(value: Duration, event: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let came = event.await;
    let took = began.elapsed();
    assert!(took + LITTLE >= value && took <= value + LITTLE, "after {took:?}, not {value:?}");
    came
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
    Peer { name: None, address: "peer".into() }
}

/// Looks at a link whenever a look is due, until it has failed.
async fn fails(link: &mut Link) -> std::io::Error {
    loop {
        sleep_until(link.next_check()).await;
        let looked = poll_fn(|cx| {
            while link.poll_event(cx).is_ready() {}
            Poll::Ready(link.check_alive(ReadState::Yes, cx))
        });
        if let Err(error) = looked.await {
            return error;
        }
    }
}

/// A link of one end that is ready, and its peer's socket.
async fn ready(end: LinkRole) -> (Box<Link>, TcpStream) {
    let (ours, mut theirs) = connection().await;
    let mut link = Box::new(Link::new(NetStream::Tcp(ours), peer(), end));
    let offer = OfferHello { services: Vec::new(), target: 1, maximum: 8 }.body();
    let grant = GrantHello { services: Vec::new(), links: 8, data: DATA_MAX }.body();
    let (says, hears) = if end == LinkRole::Opener { (grant, offer) } else { (offer, grant) };
    let mut hello = Vec::new();
    frame::push(&mut hello, FrameKind::Hello, &hears);
    theirs.write_all(&hello).await.expect("it is taken");
    if end == LinkRole::Server {
        link.stage(FrameKind::Hello, &says).expect("it is due");
    }
    poll_fn(|cx| link.poll_handshake(cx)).await.expect("a hello");
    if end == LinkRole::Opener {
        link.stage(FrameKind::Hello, &says).expect("it is due");
    }
    poll_fn(|cx| link.poll_flush(cx)).await.expect("it is taken");
    theirs.read_exact(&mut vec![0; frame::HEADER + says.len()]).await.expect("a hello");
    (link, theirs)
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
    let offering = Arc::new(|_: &Peer| OfferHello { services: Vec::new(), target: 1, maximum: 8 });
    HandshakeTerms { role: HelloRole::Serves(offering), generation: Arc::new(TermsGeneration::default()) }
}

async fn check_accepted(value: Duration) {
    let (ours, _silent) = connection().await;
    let from = ours.peer_addr().expect("it is connected");
    let identity = ArcSwap::from_pointee(None);
    let greeted = happens_after(value, handshake::accept(ours, from, &identity, &terms())).await;
    assert!(matches!(greeted, Err(HandshakeError::Late)), "{greeted:?}");
}

/// All steps together: the method comes a moment before it would be late, and the first reply never.
async fn check_dialled(value: Duration) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = listener.local_addr().expect("it is bound");
    let address = LinkAddress { at: host(at), tls: false };
    let dialling = async {
        let mut dialled = handshake::dial(&address, None).await?;
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

async fn check_answer(value: Duration) {
    let (mut link, _silent) = ready(LinkRole::Opener).await;
    let open = OpenFrame { service: orders(), id: "s-1".into(), client: None, probe: false };
    link.open(&open, Vec::new()).expect("it is ready");
    let (ours, _client) = connection().await;
    let (mut downstream, mut upstream) = (SessionSide::Stream(NetStream::Tcp(ours)), SessionSide::Link(link));
    let (links, counters, mut first) =
        (LinkSides { downstream: false, upstream: true }, SessionCounters::default(), Vec::new());
    let relaying = relay::relay(&mut downstream, &mut upstream, &mut first, links, &counters, None);
    let relayed = happens_after(value, relaying).await;
    assert!(matches!(relayed, RelayOutcome::Unanswered), "{relayed:?}");
}

const LISTENS: (ReadState, WriteState) = (ReadState::Yes, WriteState::Yes);

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

async fn check_begun(value: Duration) {
    let (mut link, mut theirs) = ready(LinkRole::Server).await;
    theirs.write_all(&[8]).await.expect("it is taken");
    link.tcp().expect("it is one").readable().await.expect("it lives");
    poll_fn(|cx| {
        assert!(link.poll_event(cx).is_pending());
        Poll::Ready(())
    })
    .await;
    let error = happens_after(value, fails(&mut link)).await;
    assert!(error.to_string().contains("begun and not ended"), "{error}");
}

async fn check_acknowledged(value: Duration) {
    let mut delivery = tcp::DeliveryWatch::default();
    let (began, long) = (Instant::now(), Some(Duration::from_secs(3600)));
    assert_eq!(delivery.note(long, began), tcp::DeliveryState::NotYet);
    assert_eq!(delivery.note(long, began + value - LITTLE), tcp::DeliveryState::NotYet);
    assert_eq!(delivery.note(long, began + value), tcp::DeliveryState::Never);
}

async fn check_lingering_close(value: Duration) {
    let (ours, _silent) = connection().await;
    happens_after(value, handshake::close_lingering(NetStream::Tcp(ours))).await;
}

/// Its opener says that it leaves, answers pings, and closes nothing.
async fn check_goodbye(value: Duration) {
    let (mut link, mut theirs) = ready(LinkRole::Server).await;
    let mut said = Vec::new();
    frame::push(&mut said, FrameKind::Retire, &[]);
    theirs.write_all(&said).await.expect("it is taken");
    let left = poll_fn(|cx| link.poll_event(cx)).await;
    assert!(matches!(left, Ok(LinkEvent::Leaving(_))), "{left:?}");
    let (tell, mut told) = mpsc::channel(1);
    let lost: IdleLinkLost = Arc::new(move |_, _, _| tell.try_send(()).expect("it is told once"));
    let server = LinkServer::new(Tasks::default(), Arc::new(|_, open| panic!("nobody says {open:?}")), lost);
    let answering = async {
        let mut ping = [0; frame::HEADER + frame::TOKEN];
        while theirs.read_exact(&mut ping).await.is_ok() {
            let mut pong = Vec::new();
            frame::push(&mut pong, FrameKind::Pong, &ping[frame::HEADER..]);
            if theirs.write_all(&pong).await.is_err() {
                return;
            }
        }
    };
    let ending = async {
        server.serve_link(link);
        told.recv().await
    };
    let (ended, ()) = tokio::join!(happens_after(value, ending), answering);
    assert_eq!(ended, Some(()));
}

async fn check_parting(value: Duration) {
    let (link, _silent) = ready(LinkRole::Opener).await;
    happens_after(value, handshake::close_gracefully(link)).await;
}
