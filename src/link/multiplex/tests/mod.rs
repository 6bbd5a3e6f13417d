//! A link and its sessions over real sockets: both ends are ours, or a peer's bytes are written by hand.

mod carrying;
mod heavy;
mod heavy_by_hand;
mod judging;
mod moved_by_hand;
mod moving;

use std::{
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    credit::{WINDOW_BYTES, WINDOW_BYTES_MAX},
    handle::{
        COMMANDS_MAX, IncomingSession, LinkClosed, LinkHandle, LinkLoss, LocalSide, SessionFate,
        SessionHandle,
    },
    local_party::LocalParty,
    moving::MoveTargets,
    parked::ParkedSessions,
    task::{LinkParts, MultiplexedLink, OwnerEvent},
};
use crate::{
    link::{
        Peer,
        link_table::next_link_id,
        load::{LinkLoad, SessionSlot, SessionWeight},
    },
    net::{read_ahead::ReadAhead, stream::NetStream},
    profile::ServiceName,
    proto::{
        Refusal,
        multiplex::{
            PeerViolation,
            decoder::{DecodedPiece, FrameReader},
            frame::{CutCause, FrameHead, FrameType, LinkFrame},
            open::OpenRequest,
            state::{LinkEnd, LinkStage, SessionStage},
        },
    },
    tasks::Tasks,
    telemetry::registry::SessionCounters,
};

/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

async fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = listener.local_addr().expect("it is bound");
    let (outer, inner) = tokio::join!(TcpStream::connect(at), listener.accept());
    let (outer, inner) = (outer.expect("it connects"), inner.expect("it connects").0);
    for stream in [&outer, &inner] {
        stream.set_nodelay(true).expect("it is open");
        socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("it is open");
    }
    (outer, inner)
}

fn request() -> OpenRequest {
    OpenRequest::new(ServiceName::parse("orders").expect("a name"), "a-1".into())
}

/// One end of a link, served until it ends.
struct Served {
    handle: LinkHandle,
    load: Arc<LinkLoad>,
    incoming: mpsc::Receiver<IncomingSession>,
    ended: mpsc::Receiver<LinkLoss>,
    /// Retires the link, whose sessions move there.
    moves: mpsc::Sender<Arc<dyn MoveTargets>>,
    /// Sets where heavy sessions of it move.
    leaves: mpsc::Sender<Arc<dyn MoveTargets>>,
    /// Cuts it, like a process that is killed.
    cut: CancellationToken,
}

/// What all links of a process share.
#[derive(Default, Clone)]
struct LinksOfProcess {
    numbers: Arc<AtomicU32>,
    parked: Arc<ParkedSessions>,
}

fn serve(stream: NetStream, end: LinkEnd) -> Served {
    LinksOfProcess::default().serve(stream, end)
}

impl LinksOfProcess {
    fn serve(&self, stream: NetStream, end: LinkEnd) -> Served {
        let peer = Peer { name: None, address: "peer".into(), instance: None };
        let (load, numbers, parked) = (LinkLoad::new(256), self.numbers.clone(), self.parked.clone());
        let parts = LinkParts { id: next_link_id(), stream, peer, end, load: load.clone(), numbers, parked };
        let (link, handle) = MultiplexedLink::new(parts);
        let ((opened, incoming), (end, ended)) = (mpsc::channel(256), mpsc::channel(1));
        let ((moves, asked), cut) = (mpsc::channel(1), CancellationToken::new());
        let (leaves, targets) = mpsc::channel(1);
        let driving = drive(link, opened, end, (asked, targets));
        let is_cut = cut.clone();
        Tasks::default().spawn("link", async move {
            is_cut.run_until_cancelled(driving).await;
        });
        Served { handle, load, incoming, ended, moves, leaves, cut }
    }
}

type TargetReceiver = mpsc::Receiver<Arc<dyn MoveTargets>>;

async fn drive(
    mut link: MultiplexedLink,
    opened: mpsc::Sender<IncomingSession>,
    end: mpsc::Sender<LinkLoss>,
    (mut retires, mut leaves): (TargetReceiver, TargetReceiver),
) {
    loop {
        let event = tokio::select! {
            Some(targets) = retires.recv() => {
                link.ask_to_leave(FrameType::Retire);
                link.move_heavy_sessions_to(targets);
                link.move_sessions();
                continue;
            }
            Some(targets) = leaves.recv() => {
                link.move_heavy_sessions_to(targets);
                continue;
            }
            event = link.next_event() => event,
        };
        match event {
            OwnerEvent::Opened(_, session) => drop(opened.try_send(session)),
            OwnerEvent::Ended(loss) => {
                // A test may not wait for it.
                let _ = end.try_send(loss);
                return;
            }
            _ => {}
        }
    }
}

impl Served {
    async fn incoming(&mut self) -> IncomingSession {
        timeout(PATIENCE, self.incoming.recv()).await.expect("in time").expect("the link lives")
    }

    async fn ended(&mut self) -> LinkLoss {
        timeout(PATIENCE, self.ended.recv()).await.expect("in time").expect("once")
    }
}

async fn pair() -> (Served, Served) {
    let (one, other) = connected().await;
    (serve(NetStream::Tcp(one), LinkEnd::Opener), serve(NetStream::Tcp(other), LinkEnd::Server))
}

/// A pair of ends inside TLS, like real links.
async fn pair_in_tls() -> (Served, Served) {
    let (one, other) = connected_in_tls().await;
    (serve(one, LinkEnd::Opener), serve(other, LinkEnd::Server))
}

async fn connected_in_tls() -> (NetStream, NetStream) {
    let made = rcgen::generate_simple_self_signed(["inside.test".to_owned()]).expect("a certificate");
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone()).expect("a certificate");
    let client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let server = rustls::ServerConfig::builder().with_no_client_auth();
    let server = server.with_single_cert(vec![certificate], key).expect("they match");
    let (one, other) = connected().await;
    let name = ServerName::try_from("inside.test").expect("a name");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let (one, other) = tokio::join!(
        connector.connect(name, ReadAhead::of_socket(one)),
        acceptor.accept(ReadAhead::of_socket(other)),
    );
    let one = NetStream::Tls(Box::new(one.expect("a handshake").into()));
    let other = NetStream::Tls(Box::new(other.expect("a handshake").into()));
    (one, other)
}

fn side(stream: TcpStream, counters: &Arc<SessionCounters>) -> LocalSide {
    let stream = NetStream::Tcp(stream);
    LocalSide {
        stream,
        unsent: Vec::new(),
        counters: counters.clone(),
        idle: None,
        party: LocalParty::Client,
    }
}

fn slot() -> SessionSlot {
    LinkLoad::new(1).take().expect("the only one")
}

/// A session from a client to a backend, and both of its owners.
struct Session {
    client: TcpStream,
    backend: TcpStream,
    opener: SessionHandle,
    server: SessionHandle,
    counters: [Arc<SessionCounters>; 2],
}

async fn session(opener: &Served, server: &mut Served) -> Session {
    let ((client, near), (far, backend)) = (connected().await, connected().await);
    let counters = [Arc::new(SessionCounters::default()), Arc::new(SessionCounters::default())];
    let opened =
        opener.handle.open(request(), side(near, &counters[0]).into(), slot()).await.expect("the link lives");
    let incoming = server.incoming().await;
    let attached = incoming.attach(side(far, &counters[1]).into(), ()).await.handle;
    Session { client, backend, opener: opened, server: attached, counters }
}

async fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut received)).await.expect("in time").expect("a clean end");
    received
}

fn payload(seed: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| ((at * 31 + seed) ^ (at >> 9)) as u8).collect()
}

/// Gives the stream what it has yet to take, and its end, like a session's owner.
async fn finish(handle: &mut SessionHandle) -> SessionFate {
    let outcome = timeout(PATIENCE, handle.outcome()).await.expect("in time");
    if let Some(mut stream) = outcome.stream {
        let written = async {
            for piece in outcome.undelivered.bytes.pieces() {
                stream.write_all(piece).await?;
            }
            Ok::<_, std::io::Error>(())
        };
        if written.await.is_ok() && matches!(outcome.fate, SessionFate::Clean) {
            stream.let_close_cleanly();
        }
    }
    outcome.fate
}

/// A peer whose bytes to an end of ours are written by hand.
struct RawPeer {
    stream: TcpStream,
    decoder: FrameReader,
    received: std::collections::VecDeque<(u32, Option<LinkFrame>, Vec<u8>)>,
}

impl RawPeer {
    async fn to(end: LinkEnd) -> (Self, Served) {
        Self::to_process(end, &LinksOfProcess::default()).await
    }

    async fn to_process(end: LinkEnd, process: &LinksOfProcess) -> (Self, Served) {
        let (ours, theirs) = connected().await;
        let decoder = FrameReader::new(end);
        let peer = Self { stream: theirs, decoder, received: Default::default() };
        (peer, process.serve(NetStream::Tcp(ours), end))
    }

    async fn send(&mut self, session: u32, frame: LinkFrame) {
        let mut out = Vec::new();
        frame.push(&mut out, session);
        self.stream.write_all(&out).await.expect("it is taken");
    }

    async fn send_data(&mut self, session: u32, bytes: &[u8]) {
        let header = FrameHead { kind: FrameType::Data, length: bytes.len(), session };
        let out = [&header.bytes()[..], bytes].concat();
        // The link may be cut meanwhile.
        let _ = self.stream.write_all(&out).await;
    }

    /// The next frame other than a ping.
    async fn receive(&mut self) -> (u32, Option<LinkFrame>, Vec<u8>) {
        loop {
            match self.received.pop_front() {
                Some((_, Some(LinkFrame::Ping(token)), _)) => self.send(0, LinkFrame::Pong(token)).await,
                Some(received) => return received,
                None => self.read().await,
            }
        }
    }

    async fn read(&mut self) {
        let mut chunk = vec![0; 65_536];
        let count = timeout(PATIENCE, self.stream.read(&mut chunk)).await.expect("in time").expect("bytes");
        assert!(count > 0, "the link ended");
        let mut input = &chunk[..count];
        while let Some(received) = self.decoder.decode(&mut input).expect("frames") {
            self.received.push_back(match received {
                DecodedPiece::Frame { session, frame } => (session, Some(frame), Vec::new()),
                DecodedPiece::Data { session, bytes } => (session, None, bytes.to_vec()),
            });
        }
    }
}

fn open() -> LinkFrame {
    LinkFrame::Open(Box::new(request()))
}
