//! The deadlines that ARCHITECTURE.md lists, each walked with a paused clock: a little before its time
//! nothing has happened, a little after it has. A row without a check fails, and so does a check
//! without a row.

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

use super::relay::{self, Links, Relayed};
use crate::{
    link::{
        DIAL, FAREWELL, GREET, LEAVE, Peer,
        epoch::Epoch,
        framed::{BEGUN, Event, Link},
        greet::{self, LinkError, Says, Terms},
        leg::Leg,
        liveness::{HEARTBEAT, Liveness, Reading, UNANSWERED, Verdict, Writing},
        serving::{Lost, Server},
    },
    net::{dial, stream::Stream, tcp},
    profile::{HostPort, LinkAddress, ServiceName},
    proto::link::{
        frame::{self, DATA_MAX, Kind},
        hello::{Grant, Offer},
        open::Open,
        state::End,
    },
    tasks::Tasks,
    telemetry::registry::Meter,
};

const LITTLE: Duration = Duration::from_millis(20);

struct Deadline {
    name: &'static str,
    value: Duration,
    check: fn(Duration) -> BoxFuture<'static, ()>,
}

const DEADLINES: &[Deadline] = &[
    Deadline { name: "dial", value: DIAL, check: |value| Box::pin(check_dial(value)) },
    Deadline { name: "handshake, accepted", value: GREET, check: |value| Box::pin(check_accepted(value)) },
    Deadline { name: "handshake, dialled", value: GREET, check: |value| Box::pin(check_dialled(value)) },
    Deadline { name: "second reply", value: GREET, check: |value| Box::pin(check_second_reply(value)) },
    Deadline { name: "answer to `open`", value: relay::ANSWER, check: |value| Box::pin(check_answer(value)) },
    Deadline { name: "look", value: HEARTBEAT, check: |value| Box::pin(check_look(value)) },
    Deadline { name: "ping", value: UNANSWERED, check: |value| Box::pin(check_ping(value)) },
    Deadline { name: "begun frame", value: BEGUN, check: |value| Box::pin(check_begun(value)) },
    Deadline {
        name: "acknowledgement",
        value: tcp::UNACKNOWLEDGED,
        check: |value| Box::pin(check_acknowledged(value)),
    },
    Deadline { name: "farewell", value: FAREWELL, check: |value| Box::pin(check_farewell(value)) },
    Deadline { name: "goodbye", value: LEAVE, check: |value| Box::pin(check_goodbye(value)) },
    Deadline {
        name: "silence after a goodbye",
        value: greet::PARTING_SILENCE,
        check: |value| Box::pin(check_parting(value)),
    },
];

/// The rows of the table: name and value.
fn rows() -> Vec<(String, Duration)> {
    let text = include_str!("../../ARCHITECTURE.md");
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
        sleep_until(link.due()).await;
        let looked = poll_fn(|cx| {
            while link.poll_event(cx).is_ready() {}
            Poll::Ready(link.check_alive(Reading::Yes, cx))
        });
        if let Err(error) = looked.await {
            return error;
        }
    }
}

/// A link of one end that is ready, and its peer's socket.
async fn ready(end: End) -> (Box<Link>, TcpStream) {
    let (ours, mut theirs) = connection().await;
    let mut link = Box::new(Link::new(Stream::Tcp(ours), peer(), end));
    let offer = Offer { services: Vec::new(), target: 1, maximum: 8 }.body();
    let grant = Grant { services: Vec::new(), links: 8, data: DATA_MAX }.body();
    let (says, hears) = if end == End::Opener { (grant, offer) } else { (offer, grant) };
    let mut hello = Vec::new();
    frame::push(&mut hello, Kind::Hello, &hears);
    theirs.write_all(&hello).await.expect("it is taken");
    if end == End::Server {
        link.stage(Kind::Hello, &says).expect("it is due");
    }
    poll_fn(|cx| link.poll_greeting(cx)).await.expect("a hello");
    if end == End::Opener {
        link.stage(Kind::Hello, &says).expect("it is due");
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

fn terms() -> Terms {
    let offering = Arc::new(|_: &Peer| Offer { services: Vec::new(), target: 1, maximum: 8 });
    Terms { says: Says::Serves(offering), epoch: Arc::new(Epoch::default()) }
}

async fn check_accepted(value: Duration) {
    let (ours, _silent) = connection().await;
    let from = ours.peer_addr().expect("it is connected");
    let identity = ArcSwap::from_pointee(None);
    let greeted = happens_after(value, greet::accept(ours, from, &identity, &terms())).await;
    assert!(matches!(greeted, Err(LinkError::Late)), "{greeted:?}");
}

/// All steps together: the method comes a moment before it would be late, and the first reply never.
async fn check_dialled(value: Duration) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = listener.local_addr().expect("it is bound");
    let address = LinkAddress { at: host(at), tls: false };
    let dialling = async {
        let mut dialled = greet::dial(&address, None).await?;
        greet::park(&mut dialled, &orders()).await
    };
    let answering = async {
        let (mut theirs, _) = listener.accept().await.expect("it comes");
        sleep_until(Instant::now() + value - Duration::from_secs(1)).await;
        theirs.write_all(&[5, 0]).await.expect("it is taken");
        theirs
    };
    let (parked, _theirs) = tokio::join!(happens_after(value, dialling), answering);
    assert!(matches!(parked, Err(LinkError::Late)), "{parked:?}");
}

async fn check_second_reply(value: Duration) {
    let (ours, mut theirs) = connection().await;
    let mut stream = Stream::Tcp(ours);
    theirs.write_all(&[5, 0, 0]).await.expect("it is taken");
    let announced = happens_after(value, greet::announced(&mut stream)).await;
    assert!(matches!(announced, Err(LinkError::HalfAnnounced)), "{announced:?}");
}

async fn check_answer(value: Duration) {
    let (mut link, _silent) = ready(End::Opener).await;
    let open = Open { service: orders(), id: "s-1".into(), client: None, probe: false };
    link.open(&open, Vec::new()).expect("it is ready");
    let (ours, _client) = connection().await;
    let (mut near, mut far) = (Leg::Stream(Stream::Tcp(ours)), Leg::Link(link));
    let (links, meter, mut first) = (Links { near: false, far: true }, Meter::default(), Vec::new());
    let relaying = relay::relay(&mut near, &mut far, &mut first, links, &meter, None);
    let relayed = happens_after(value, relaying).await;
    assert!(matches!(relayed, Relayed::Unanswered), "{relayed:?}");
}

const LISTENS: (Reading, Writing) = (Reading::Yes, Writing::Yes);

async fn check_look(value: Duration) {
    let began = Instant::now();
    let mut liveness = Liveness::new(began);
    assert_eq!(liveness.due(), began + value);
    advance(value).await;
    let looked = liveness.look(Instant::now(), Duration::ZERO, LISTENS, || None);
    assert!(matches!(looked, Verdict::Ping(_)), "{looked:?}");
    assert_eq!(liveness.due(), Instant::now() + value);
}

async fn check_ping(value: Duration) {
    let mut liveness = Liveness::new(Instant::now());
    let look = |liveness: &mut Liveness| liveness.look(Instant::now(), Duration::ZERO, LISTENS, || None);
    assert!(matches!(look(&mut liveness), Verdict::Ping(_)));
    advance(value - LITTLE).await;
    assert_eq!(look(&mut liveness), Verdict::Alive);
    advance(LITTLE).await;
    assert_eq!(look(&mut liveness), Verdict::Dead);
}

async fn check_begun(value: Duration) {
    let (mut link, mut theirs) = ready(End::Server).await;
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
    let mut delivery = tcp::Delivery::default();
    let (began, long) = (Instant::now(), Some(Duration::from_secs(3600)));
    assert_eq!(delivery.seen(long, began), tcp::Delivered::NotYet);
    assert_eq!(delivery.seen(long, began + value - LITTLE), tcp::Delivered::NotYet);
    assert_eq!(delivery.seen(long, began + value), tcp::Delivered::Never);
}

async fn check_farewell(value: Duration) {
    let (ours, _silent) = connection().await;
    happens_after(value, greet::bid_farewell(Stream::Tcp(ours))).await;
}

/// Its opener says that it leaves, answers pings, and closes nothing.
async fn check_goodbye(value: Duration) {
    let (mut link, mut theirs) = ready(End::Server).await;
    let mut said = Vec::new();
    frame::push(&mut said, Kind::Retire, &[]);
    theirs.write_all(&said).await.expect("it is taken");
    let left = poll_fn(|cx| link.poll_event(cx)).await;
    assert!(matches!(left, Ok(Event::Leaving(_))), "{left:?}");
    let (tell, mut told) = mpsc::channel(1);
    let lost: Lost = Arc::new(move |_, _, _| tell.try_send(()).expect("it is told once"));
    let server = Server::new(Tasks::default(), Arc::new(|_, open| panic!("nobody says {open:?}")), lost);
    let answering = async {
        let mut ping = [0; frame::HEADER + frame::TOKEN];
        while theirs.read_exact(&mut ping).await.is_ok() {
            let mut pong = Vec::new();
            frame::push(&mut pong, Kind::Pong, &ping[frame::HEADER..]);
            if theirs.write_all(&pong).await.is_err() {
                return;
            }
        }
    };
    let ending = async {
        server.stands(link);
        told.recv().await
    };
    let (ended, ()) = tokio::join!(happens_after(value, ending), answering);
    assert_eq!(ended, Some(()));
}

async fn check_parting(value: Duration) {
    let (link, _silent) = ready(End::Opener).await;
    happens_after(value, greet::part(link)).await;
}
