//! `cargo bench --bench parts`: what the parts of a session cost, each alone, in one thread.
//!
//! `PORTCULLIS_COUNT=framing` with `PORTCULLIS_TIMES=1000` runs one part that many times and
//! nothing else; `instructions.sh` counts the instructions of two such runs. Machines differ in
//! time more than in instructions, so these tell a change of the code from a busy neighbour.
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on stops")]

use std::{env, hint::black_box, io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use criterion::Criterion;
use portcullis::{
    certs,
    link::{
        HANDSHAKE_TIMEOUT, Peer, agreement,
        grants::{GrantRule, ServiceGrants},
        handshake::{DialledStream, EstablishedLink, HelloEnd, exchange_hello},
        multiplex::{
            credit::{LINK_BUDGET_BYTES, WindowBudget},
            handle::{HeldPermits, LocalSide, PermittedSession},
            local_party::LocalParty,
            table::SessionTable,
        },
        offered_services::{OfferedService, OfferedServices},
        pool::Pool,
        server::LinkServer,
        shares::{GatewayShares, ShareRule},
    },
    net::{stream::NetStream, tcp},
    profile::{
        Carries, KeyExchangePolicy, LinkTls, PemSource, PoolLimits, ProfileLocation, RevokedFiles,
        ServiceName,
    },
    proto::multiplex::{
        PROTOCOL_NAME,
        decoder::{DecodedPiece, FrameReader},
        frame::{FrameHead, FrameType, LinkFrame},
        open::OpenRequest,
        permitted::TurnFrame,
        state::LinkEnd,
    },
    tasks::Tasks,
    telemetry::registry::SessionCounters,
    tls::link::LinkIdentity,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    sync::mpsc,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Runs the prepared operation once more.
type Operation = Box<dyn FnMut()>;
type Prepare = fn() -> Operation;

const PARTS: [(&str, Prepare); 4] =
    [("framing", framing), ("relay", relay), ("pool", pool), ("handshake", handshake)];
const CHUNK: usize = 64 * 1024;
const MESSAGE: usize = 1024;
const HOUR: Duration = Duration::from_secs(3600);

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
    let (mut opener, mut server) = (FramingEnd::new(LinkEnd::Opener), FramingEnd::new(LinkEnd::Server));
    let message = [b'm'; MESSAGE];
    let mut number = 0;
    Box::new(move || {
        number += 1;
        opener.table.open(number, ()).unwrap();
        server.table.open(number, ()).unwrap();
        opener.encode_and_decode(&mut server, number, &LinkFrame::Open(Box::new(open())));
        server.send_frame(&mut opener, number, &LinkFrame::Opened);
        opener.send_data(&mut server, number, &message);
        server.send_data(&mut opener, number, &message);
        opener.encode_and_decode(&mut server, 0, &LinkFrame::Ping(*b"question"));
        server.encode_and_decode(&mut opener, 0, &LinkFrame::Pong(*b"question"));
        opener.send_frame(&mut server, number, &LinkFrame::End);
        server.send_frame(&mut opener, number, &LinkFrame::End);
        opener.table.close(number);
        server.table.close(number);
    })
}

struct FramingEnd {
    table: SessionTable<()>,
    decoder: FrameReader,
    out: Vec<u8>,
}

impl FramingEnd {
    fn new(end: LinkEnd) -> Self {
        let table = SessionTable::new(end, WindowBudget::new(LINK_BUDGET_BYTES));
        Self { table, decoder: FrameReader::new(end.other()), out: Vec::new() }
    }

    /// A frame of a session.
    fn send_frame(&mut self, to: &mut Self, number: u32, frame: &LinkFrame) {
        let _ = self.table.send(number, frame.clone()).unwrap();
        self.encode_and_decode(to, number, frame);
        to.table.receive(number, frame.kind()).unwrap();
    }

    /// Any frame, from its meaning to bytes and back.
    fn encode_and_decode(&mut self, to: &mut Self, number: u32, frame: &LinkFrame) {
        self.out.clear();
        frame.push(&mut self.out, number);
        let mut rest = &black_box(&self.out)[..];
        while let Some(received) = to.decoder.decode(&mut rest).unwrap() {
            black_box(received);
        }
    }

    fn send_data(&mut self, to: &mut Self, number: u32, body: &[u8]) {
        let _ = self.table.send_turn(number, TurnFrame::Data(body.len())).unwrap();
        self.out.clear();
        let head = FrameHead { kind: FrameType::Data, length: body.len(), session: number };
        self.out.extend_from_slice(&head.bytes());
        self.out.extend_from_slice(body);
        let mut rest = &black_box(&self.out)[..];
        while let Some(received) = to.decoder.decode(&mut rest).unwrap() {
            if let DecodedPiece::Data { session, bytes } = black_box(received) {
                to.table.receive_data(session, bytes.len()).unwrap();
            }
        }
    }
}

/// 64 KiB of a client go over a link and come out at the backend, through the sockets of both.
fn relay() -> Operation {
    let runtime = runtime();
    let (mut client, mut backend, handles) = runtime.block_on(carried());
    let chunk = vec![b'c'; CHUNK];
    let mut taken = vec![0; CHUNK];
    Box::new(move || {
        runtime.block_on(async {
            let (written, read) = tokio::join!(client.write_all(&chunk), backend.read_exact(&mut taken));
            written.unwrap();
            read.unwrap();
        });
        black_box((&taken, &handles));
    })
}

/// The permits of a session that nothing limits.
struct Unlimited;

impl HeldPermits for Unlimited {}

/// A session on an established link: its client, its backend, and both of its owners.
async fn carried() -> (TcpStream, TcpStream, [PermittedSession<Unlimited>; 2]) {
    let tasks = Tasks::default();
    let (opener, server) = linked().await;
    let ((client, near), (far, backend)) = (connected().await, connected().await);
    let mut far = Some(far);
    let (sender, mut reported) = mpsc::channel(1);
    let mut served = LinkServer::new(offered()).serve(server.link);
    tasks.spawn("server", async move {
        while let Ok((_, session)) = served.next_session().await {
            sender.send(session.attach(side(far.take().unwrap()).into(), Unlimited).await).await.unwrap();
        }
    });
    let (handle, location) = (opener.link.handle().clone(), opener.link.load().take().unwrap());
    let mut link = opener.link;
    tasks.spawn("opener", async move {
        loop {
            if let agreement::AgreedLinkEvent::Ended(_) = link.next_event(std::future::pending()).await {
                return;
            }
        }
    });
    let outer = handle.open(open(), side(near).into(), location).await.unwrap().with_permits(Unlimited);
    let inner = reported.recv().await.unwrap();
    // The link is kept for as long as anybody may open sessions on it.
    std::mem::forget(handle);
    (client, backend, [outer, inner])
}

fn side(stream: TcpStream) -> LocalSide {
    LocalSide {
        stream: NetStream::Tcp(stream),
        unsent: Vec::new(),
        counters: Arc::new(SessionCounters::default()),
        idle: None,
        party: LocalParty::Client,
    }
}

/// A slot on a link is taken for a client and given back.
fn pool() -> Operation {
    let runtime = runtime();
    let tasks = Tasks::default();
    let limits = PoolLimits {
        prepared: 1,
        wait: Duration::from_secs(5),
        waiters: 1,
        retire: HOUR,
        links_per_peer: None,
    };
    let pool = runtime.block_on(async {
        let pool = Pool::new(limits, GatewayShares::new(1, ShareRule::Divided(1)), tasks.clone());
        let (opener, mut server) = linked().await;
        pool.take_in(opener).unwrap();
        // The other gateway answers pings.
        tasks.spawn("server", async move {
            loop {
                server.link.next_event(std::future::pending()).await;
            }
        });
        pool
    });
    let service = service();
    Box::new(move || {
        runtime.block_on(async {
            drop(black_box(pool.take(&service, &[]).await.unwrap()));
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
            location: ProfileLocation { file: "bench".into(), line: 1, column: 1, key: "tls".into() },
        };
        let (certificate, key) = (file(format!("{name}.pem")), file(format!("{name}.key")));
        let tls = LinkTls {
            certificate,
            key,
            ca: file("ca.pem".into()),
            peers: vec![peer.into()],
            revoked: RevokedFiles::default(),
            key_exchange: KeyExchangePolicy::default(),
        };
        LinkIdentity::load(&tls, &[PROTOCOL_NAME.into()], portcullis::disk::PipePolicy::Refused).unwrap()
    };
    let (dmz, internal) = (identity("dmz", "internal"), identity("internal", "dmz"));
    let (listener, at) = runtime.block_on(listener()).unwrap();
    Box::new(move || {
        runtime.block_on(async {
            let dialling = async { internal.connect(dial(at).await.into(), "localhost").await.unwrap() };
            let accepting = async {
                let stream = listener.accept().await.unwrap().0;
                tcp::prepare_link(&stream).unwrap();
                dmz.accept(stream.into()).await.unwrap()
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

async fn connected() -> (TcpStream, TcpStream) {
    let (listener, at) = listener().await.unwrap();
    let (one, other) = tokio::join!(dial(at), listener.accept());
    (one, other.unwrap().0)
}

async fn dial(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).await.unwrap();
    tcp::prepare_link(&stream).unwrap();
    stream
}

/// Both ends of an established link, without TLS.
async fn linked() -> (EstablishedLink, EstablishedLink) {
    let (listener, at) = listener().await.unwrap();
    let (dialled, accepted) = tokio::join!(dial(at), listener.accept());
    let peer = Peer { name: Some("peer".into()), address: "127.0.0.1".into(), instance: None };
    let (opens, serves) = (HelloEnd::Opens(grants()), HelloEnd::Serves(offered()));
    let reached = |stream| DialledStream {
        stream: NetStream::Tcp(stream),
        peer: peer.clone(),
        by: Instant::now() + HANDSHAKE_TIMEOUT,
    };
    let (opener, server) = tokio::join!(
        exchange_hello(reached(accepted.unwrap().0), &opens, 0, CancellationToken::new()),
        exchange_hello(reached(dialled), &serves, 1, CancellationToken::new()),
    );
    (opener.unwrap(), server.unwrap())
}

fn offered() -> Arc<ArcSwap<OfferedServices>> {
    let offered = OfferedServices {
        services: vec![OfferedService { name: service(), peers: None, carries: Carries::Bytes }],
        maximum: 4,
        sessions_per_link: 256,
        retire: HOUR,
        ..OfferedServices::default()
    };
    Arc::new(ArcSwap::from_pointee(offered))
}

fn grants() -> Arc<ServiceGrants> {
    let grants = ServiceGrants::new(GatewayShares::new(4, ShareRule::Divided(1)));
    grants.set_policy([(service(), GrantRule { peers: None, carries: Carries::Bytes })].into());
    grants.set_retire(HOUR);
    grants
}

fn open() -> OpenRequest {
    let mut request = OpenRequest::new(service(), "c0ffee-1".into());
    request.client = Some("192.0.2.7:50000".parse().unwrap());
    request
}

fn service() -> ServiceName {
    ServiceName::parse("orders").unwrap()
}
