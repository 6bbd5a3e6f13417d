//! `cargo bench --bench parts`: what the parts of a session cost, each alone, in one thread.
//!
//! `PORTCULLIS_COUNT=framing` with `PORTCULLIS_TIMES=1000` runs one part so many times and nothing
//! else; `instructions.sh` counts the instructions of two such runs. Machines differ in time more
//! than in instructions, so these tell a change of the code from a busy neighbour.
#![expect(clippy::unwrap_used, reason = "a bench that can not go on stops")]

use std::{env, future::poll_fn, hint::black_box, io, net::SocketAddr, sync::Arc, time::Duration};

use criterion::Criterion;
use portcullis::{
    certs,
    link::{
        HANDSHAKE, Peer,
        framed::LinkEvent,
        handshake::{DialledStream, EstablishedLink, GrantDecision, HelloRole, exchange_hello},
        pool::Pool,
        session_side::SessionSide,
        shares::{LinkShares, ShareRule},
    },
    net::{stream::NetStream, tcp},
    profile::{Carries, LinkTls, PemSource, PoolLimits, ProfilePlace, ServiceName},
    proto::link::{
        decoder::{DecoderNeed, FrameDecoder},
        frame::{self, DATA_MAX, Frame, FrameHeader, FrameKind},
        hello::{GrantHello, OfferHello},
        open::OpenFrame,
        state::{LinkRole, StateMachine},
    },
    tasks::Tasks,
    tls::link::LinkIdentity,
};
use tokio::{
    io::ReadBuf,
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// One more time the same, on what was prepared.
type Operation = Box<dyn FnMut()>;
type Prepare = fn() -> Operation;

const PARTS: [(&str, Prepare); 4] =
    [("framing", framing), ("relay", relay), ("pool", pool), ("handshake", handshake)];
const CHUNK: usize = 64 * 1024;
const MESSAGE: usize = 1024;

fn main() {
    if let Ok(name) = env::var("PORTCULLIS_COUNT") {
        let times: u64 = env::var("PORTCULLIS_TIMES").unwrap().parse().unwrap();
        let (_, prepare) = PARTS.into_iter().find(|(part, _)| *part == name).unwrap();
        let mut operation = prepare();
        return (0..times).for_each(|_| operation());
    }
    let mut criterion = Criterion::default().configure_from_args();
    for (name, prepare) in PARTS {
        let mut operation = prepare();
        criterion.bench_function(name, |bencher| bencher.iter(&mut operation));
    }
    criterion.final_summary();
}

/// A session of 1 KiB each way, from frames to bytes and back, on both ends: eight frames.
fn framing() -> Operation {
    let mut opener = Voice::new(LinkRole::Opener);
    let mut server = Voice::new(LinkRole::Server);
    server.says(&mut opener, FrameKind::Hello, &offer().body());
    opener.says(&mut server, FrameKind::Hello, &grant().body());
    let message = [b'm'; MESSAGE];
    Box::new(move || {
        opener.says(&mut server, FrameKind::Open, &open().body());
        server.says(&mut opener, FrameKind::Opened, &[]);
        opener.says(&mut server, FrameKind::Data, &message);
        server.says(&mut opener, FrameKind::Data, &message);
        opener.says(&mut server, FrameKind::Ping, b"question");
        server.says(&mut opener, FrameKind::Pong, b"question");
        opener.says(&mut server, FrameKind::End, &[]);
        server.says(&mut opener, FrameKind::End, &[]);
    })
}

struct Voice {
    machine: StateMachine,
    decoder: FrameDecoder,
    out: Vec<u8>,
}

impl Voice {
    fn new(end: LinkRole) -> Self {
        Self { machine: StateMachine::new(end), decoder: FrameDecoder::default(), out: Vec::new() }
    }

    fn says(&mut self, to: &mut Self, kind: FrameKind, body: &[u8]) {
        self.machine.send(kind).unwrap();
        self.out.clear();
        if kind == FrameKind::Data {
            // As a link does it: the body is not copied.
            self.out.extend_from_slice(&FrameHeader { kind, length: body.len() }.bytes());
        } else {
            frame::push(&mut self.out, kind, body);
        }
        let mut rest = &black_box(&self.out)[..];
        while !rest.is_empty() {
            let DecoderNeed::Bytes(wanted) = to.decoder.want() else { unreachable!("no body was written") };
            let (bytes, behind) = rest.split_at(wanted.min(rest.len()));
            let frame = to.decoder.feed(bytes, &mut to.machine).unwrap();
            if black_box(frame) == Some(Frame::Data) {
                to.decoder.note_passed(body.len());
            }
            rest = behind;
        }
    }
}

/// 64 KiB that a relay has read go into one end of a session and come out at the other.
fn relay() -> Operation {
    let runtime = runtime();
    let (mut from, mut to) = runtime.block_on(async {
        let (mut opener, mut server) = linked().await;
        opener.link.open(&open(), Vec::new()).unwrap();
        poll_fn(|cx| opener.link.poll_flush(cx)).await.unwrap();
        assert!(matches!(poll_fn(|cx| server.link.poll_event(cx)).await.unwrap(), LinkEvent::Open(_)));
        server.link.stage(FrameKind::Opened, &[]).unwrap();
        poll_fn(|cx| server.link.poll_flush(cx)).await.unwrap();
        (SessionSide::Link(server.link), SessionSide::Link(opener.link))
    });
    let chunk = vec![b'c'; CHUNK];
    let mut taken = vec![0; DATA_MAX];
    Box::new(move || {
        runtime.block_on(async {
            let writing = async {
                let mut rest = &chunk[..];
                while !rest.is_empty() {
                    rest = &rest[poll_fn(|cx| from.poll_write(cx, rest)).await.unwrap()..];
                }
                poll_fn(|cx| from.poll_flush(cx)).await.unwrap();
            };
            let reading = async {
                let mut left = CHUNK;
                while left > 0 {
                    let mut buf = ReadBuf::new(&mut taken);
                    poll_fn(|cx| to.poll_read(cx, &mut buf)).await.unwrap();
                    left -= black_box(buf.filled()).len();
                }
            };
            tokio::join!(writing, reading);
        });
    })
}

/// A ready link is taken for a client and goes home again.
fn pool() -> Operation {
    let runtime = runtime();
    let tasks = Tasks::default();
    let limits = PoolLimits { prepared: 1, wait: Duration::from_secs(5), waiters: 1 };
    let pool = runtime.block_on(async {
        let pool = Pool::new(limits, 1, LinkShares::new(1, ShareRule::Divided(1)), tasks.clone());
        let (opener, mut server) = linked().await;
        pool.take_in(opener).unwrap();
        // The other gateway answers pings.
        tasks.spawn("server", async move { while poll_fn(|cx| server.link.poll_event(cx)).await.is_ok() {} });
        pool
    });
    let service = service();
    Box::new(move || {
        runtime.block_on(async {
            let taken = pool.take(&service, &[]).await.unwrap();
            let SessionSide::Link(link) = taken.side else { unreachable!("none but a link stands there") };
            black_box(link).return_to_owner();
            // The watch of the link that was taken ends, that of the one which came back begins.
            tokio::task::yield_now().await;
        });
    })
}

/// Connect, and TLS 1.3 with both certificates checked, both ends of it.
fn handshake() -> Operation {
    let runtime = runtime();
    let folder = tempfile::tempdir().unwrap();
    certs::write(folder.path(), &["dmz", "internal"].map(|half| certs::HalfNames { half, names: &[] }))
        .unwrap();
    let identity = |name: &str, peer: &str| {
        let file = |file: String| PemSource::File {
            path: folder.path().join(file),
            place: ProfilePlace { file: "bench".into(), line: 1, column: 1, key: "tls".into() },
        };
        let (certificate, key) = (file(format!("{name}.pem")), file(format!("{name}.key")));
        let tls = LinkTls { certificate, key, ca: file("ca.pem".into()), peers: vec![peer.into()] };
        LinkIdentity::load(
            &tls,
            &[portcullis::proto::link::ALPN.to_vec()],
            portcullis::disk::PipePolicy::Refused,
        )
        .unwrap()
    };
    let (dmz, internal) = (identity("dmz", "internal"), identity("internal", "dmz"));
    let (listener, at) = runtime.block_on(listener()).unwrap();
    Box::new(move || {
        runtime.block_on(async {
            let dialling = async { internal.connect(dial(at).await, "localhost").await.unwrap() };
            let accepting = async {
                let stream = listener.accept().await.unwrap().0;
                tcp::prepare_link(&stream).unwrap();
                dmz.accept(stream).await.unwrap()
            };
            black_box(tokio::join!(dialling, accepting));
        });
    })
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

async fn listener() -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    Ok((listener, at))
}

async fn dial(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).await.unwrap();
    tcp::prepare_link(&stream).unwrap();
    stream
}

/// Both ends of a link that stands, without TLS.
async fn linked() -> (EstablishedLink, EstablishedLink) {
    let (listener, at) = listener().await.unwrap();
    let (dialled, accepted) = tokio::join!(dial(at), listener.accept());
    let peer = Peer { name: Some("peer".into()), address: "127.0.0.1".into() };
    let (opens, serves) =
        (HelloRole::Opens(Arc::new(|_, _| granted())), HelloRole::Serves(Arc::new(|_| offer())));
    let reached = |stream| DialledStream {
        stream: NetStream::Tcp(stream),
        peer: peer.clone(),
        by: Instant::now() + HANDSHAKE,
    };
    let (opener, server) = tokio::join!(
        exchange_hello(reached(accepted.unwrap().0), &opens, CancellationToken::new()),
        exchange_hello(reached(dialled), &serves, CancellationToken::new()),
    );
    (opener.unwrap(), server.unwrap())
}

fn offer() -> OfferHello {
    OfferHello { services: vec![(service(), Carries::Bytes)], target: 1, maximum: 4 }
}

fn grant() -> GrantHello {
    GrantHello { services: vec![service()], links: 4, data: DATA_MAX }
}

fn granted() -> GrantDecision {
    GrantDecision { grant: grant(), mismatches: Vec::new() }
}

fn open() -> OpenFrame {
    let client = Some("192.0.2.7:50000".parse().unwrap());
    OpenFrame { service: service(), id: "c0ffee-1".into(), client, probe: false }
}

fn service() -> ServiceName {
    ServiceName::parse("orders").unwrap()
}
