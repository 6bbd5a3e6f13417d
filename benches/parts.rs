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
        GREET, Peer,
        framed::Event,
        greet::{Granted, Linked, Reached, Says, hello},
        leg::Leg,
        pool::Pool,
        shares::{LinkShares, Rule},
    },
    net::{stream::Stream, tcp, tls::Identity},
    profile::{Carries, LinkTls, Material, Place, PoolLimits, ServiceName},
    proto::link::{
        decoder::{Decoder, Want},
        frame::{self, DATA_MAX, Frame, Header, Kind},
        hello::{Grant, Offer},
        open::Open,
        state::{End, Machine},
    },
    tasks::Tasks,
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
    let mut opener = Voice::new(End::Opener);
    let mut server = Voice::new(End::Server);
    server.says(&mut opener, Kind::Hello, &offer().body());
    opener.says(&mut server, Kind::Hello, &grant().body());
    let message = [b'm'; MESSAGE];
    Box::new(move || {
        opener.says(&mut server, Kind::Open, &open().body());
        server.says(&mut opener, Kind::Opened, &[]);
        opener.says(&mut server, Kind::Data, &message);
        server.says(&mut opener, Kind::Data, &message);
        opener.says(&mut server, Kind::Ping, b"question");
        server.says(&mut opener, Kind::Pong, b"question");
        opener.says(&mut server, Kind::End, &[]);
        server.says(&mut opener, Kind::End, &[]);
    })
}

struct Voice {
    machine: Machine,
    decoder: Decoder,
    out: Vec<u8>,
}

impl Voice {
    fn new(end: End) -> Self {
        Self { machine: Machine::new(end), decoder: Decoder::default(), out: Vec::new() }
    }

    fn says(&mut self, to: &mut Self, kind: Kind, body: &[u8]) {
        self.machine.send(kind).unwrap();
        self.out.clear();
        if kind == Kind::Data {
            // As a link does it: the body is not copied.
            self.out.extend_from_slice(&Header { kind, length: body.len() }.bytes());
        } else {
            frame::push(&mut self.out, kind, body);
        }
        let mut rest = &black_box(&self.out)[..];
        while !rest.is_empty() {
            let Want::Bytes(wanted) = to.decoder.want() else { unreachable!("no body was written") };
            let (bytes, behind) = rest.split_at(wanted.min(rest.len()));
            let frame = to.decoder.feed(bytes, &mut to.machine).unwrap();
            if black_box(frame) == Some(Frame::Data) {
                to.decoder.passed(body.len());
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
        assert!(matches!(poll_fn(|cx| server.link.poll_event(cx)).await.unwrap(), Event::Open(_)));
        server.link.stage(Kind::Opened, &[]).unwrap();
        poll_fn(|cx| server.link.poll_flush(cx)).await.unwrap();
        (Leg::Link(server.link), Leg::Link(opener.link))
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
        let pool = Pool::new(limits, LinkShares::new(1, Rule::Divided(1)), tasks.clone());
        let (opener, mut server) = linked().await;
        pool.stands(opener).unwrap();
        // The other gateway answers pings.
        tasks.spawn("server", async move { while poll_fn(|cx| server.link.poll_event(cx)).await.is_ok() {} });
        pool
    });
    let service = service();
    Box::new(move || {
        runtime.block_on(async {
            let taken = pool.take(&service, &[]).await.unwrap();
            let Leg::Link(link) = taken.leg else { unreachable!("none but a link stands there") };
            black_box(link).go_home();
            // The watch of the link that was taken ends, that of the one which came back begins.
            tokio::task::yield_now().await;
        });
    })
}

/// Connect, and TLS 1.3 with both certificates checked, both ends of it.
fn handshake() -> Operation {
    let runtime = runtime();
    let folder = tempfile::tempdir().unwrap();
    certs::write(folder.path(), &["dmz", "internal"].map(|half| certs::Wanted { half, names: &[] })).unwrap();
    let identity = |name: &str, peer: &str| {
        let file = |file: String| Material::File {
            path: folder.path().join(file),
            place: Place { file: "bench".into(), line: 1, column: 1, key: "tls".into() },
        };
        let (certificate, key) = (file(format!("{name}.pem")), file(format!("{name}.key")));
        let tls = LinkTls { certificate, key, ca: file("ca.pem".into()), peers: vec![peer.into()] };
        Identity::load(&tls, &[portcullis::proto::link::ALPN.to_vec()], portcullis::disk::Pipes::Refused)
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
async fn linked() -> (Linked, Linked) {
    let (listener, at) = listener().await.unwrap();
    let (dialled, accepted) = tokio::join!(dial(at), listener.accept());
    let peer = Peer { name: Some("peer".into()), address: "127.0.0.1".into() };
    let (opens, serves) = (Says::Opens(Arc::new(|_, _| granted())), Says::Serves(Arc::new(|_| offer())));
    let reached =
        |stream| Reached { stream: Stream::Tcp(stream), peer: peer.clone(), by: Instant::now() + GREET };
    let (opener, server) = tokio::join!(
        hello(reached(accepted.unwrap().0), &opens, CancellationToken::new()),
        hello(reached(dialled), &serves, CancellationToken::new()),
    );
    (opener.unwrap(), server.unwrap())
}

fn offer() -> Offer {
    Offer { services: vec![(service(), Carries::Bytes)], target: 1, maximum: 4 }
}

fn grant() -> Grant {
    Grant { services: vec![service()], links: 4, data: DATA_MAX }
}

fn granted() -> Granted {
    Granted { grant: grant(), unlike: Vec::new() }
}

fn open() -> Open {
    let client = Some("192.0.2.7:50000".parse().unwrap());
    Open { service: service(), id: "c0ffee-1".into(), client, probe: false }
}

fn service() -> ServiceName {
    ServiceName::parse("orders").unwrap()
}
