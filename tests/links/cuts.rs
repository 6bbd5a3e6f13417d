//! A complete exchange over one link, cut at every byte, by a clean end and by a reset.
//!
//! Four sessions at once, whose frames are mixed: two that are whole, one that is reset and one that never
//! ends. What one end sends is listed here frame by frame; a real link receives a prefix of it, and each
//! session gets exactly the bytes of that prefix, and ends cleanly only if its end is within it.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use portcullis::{
    link::{
        Peer,
        load::LinkLoad,
        multiplex::{
            handle::{HeldPermits, LinkHandle, LinkLoss, LocalSide, PermittedSession, SessionFate},
            local_party::LocalParty,
            task::{LinkParts, MultiplexedLink, OwnerEvent},
        },
    },
    net::stream::NetStream,
    profile::ServiceName,
    proto::multiplex::{
        frame::{CutCause, FrameHead, FrameType, HEADER_BYTES, LinkFrame},
        open::OpenRequest,
        state::LinkEnd,
    },
    telemetry::registry::SessionCounters,
};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(10);
const SESSIONS: u32 = 4;
const RESET: u32 = 3;
const UNENDED: u32 = 4;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Close {
    Cleanly,
    /// After the other end has had this many turns.
    Reset {
        pause: usize,
    },
}

#[tokio::test]
async fn bytes_before_an_openers_end_are_received_at_every_cut() {
    cut_anywhere(LinkEnd::Server, |_| Close::Cleanly).await;
}

#[tokio::test]
async fn bytes_before_a_servers_end_are_received_at_every_cut() {
    cut_anywhere(LinkEnd::Opener, |_| Close::Cleanly).await;
}

#[tokio::test]
async fn an_opener_that_resets_anywhere_ends_no_session_cleanly_that_it_had_not_ended() {
    cut_anywhere(LinkEnd::Server, |at| Close::Reset { pause: at % 16 }).await;
}

#[tokio::test]
async fn a_server_that_resets_anywhere_ends_no_session_cleanly_that_it_had_not_ended() {
    cut_anywhere(LinkEnd::Opener, |at| Close::Reset { pause: at % 16 }).await;
}

async fn cut_anywhere(reader: LinkEnd, close: impl Fn(usize) -> Close) {
    let sent = frames_of(reader.other());
    for at in 0..=sent.len() {
        let close = close(at);
        let received = timeout(PATIENCE, play(reader, &sent[..at], close)).await;
        let (sessions, loss) = received.unwrap_or_else(|_| panic!("a hang after {at} bytes"));
        let is_begun = !sessions.is_empty();
        assert!(loss != LinkLoss::Closed || !is_begun, "one never ends: {at}");
        for (number, meant) in passed(&sent[..at]) {
            let Some((fate, bytes)) = sessions.get(&number) else {
                // A reset may overtake what was sent before it.
                assert!(reader == LinkEnd::Server && close != Close::Cleanly, "session {number}, {at}");
                continue;
            };
            match close {
                // What came before a reset of the session or of the link may not have been taken yet.
                Close::Cleanly => assert_eq!(*bytes, meant.bytes, "session {number}, {at}"),
                Close::Reset { .. } => assert!(meant.bytes.starts_with(bytes), "session {number}, {at}"),
            }
            let is_clean = matches!(fate, SessionFate::Clean);
            // Not all that have ended are clean: our own end may not have gone out.
            assert!(!is_clean || meant.has_ended, "session {number}, {at}: {fate:?}");
            if matches!(fate, SessionFate::Reset(_)) {
                assert!(meant.is_reset, "session {number}, {at}: {fate:?}");
            }
        }
    }
}

/// What one end says, the frames of all sessions in turns.
fn frames_of(end: LinkEnd) -> Vec<u8> {
    let mut sent = Vec::new();
    for number in 1..=SESSIONS {
        match end {
            LinkEnd::Opener => LinkFrame::Open(request(number).into()).push(&mut sent, number),
            LinkEnd::Server => LinkFrame::Opened.push(&mut sent, number),
        }
    }
    for part in 0..3 {
        for number in 1..=SESSIONS {
            let bytes = format!("part {part} of session {number}");
            let head = FrameHead { kind: FrameType::Data, length: bytes.len(), session: number };
            sent.extend(head.bytes());
            sent.extend(bytes.as_bytes());
        }
        LinkFrame::Ping([part; 8]).push(&mut sent, 0);
    }
    for number in 1..=SESSIONS {
        match number {
            RESET => LinkFrame::Reset(CutCause::Client).push(&mut sent, number),
            UNENDED => LinkFrame::Credit(1).push(&mut sent, number),
            _ => LinkFrame::End.push(&mut sent, number),
        }
    }
    sent
}

fn request(number: u32) -> OpenRequest {
    let service = ServiceName::parse("orders").unwrap();
    OpenRequest::new(service, format!("c0-{number}"))
}

/// What has come of a session.
#[derive(Debug, Default)]
struct Passed {
    bytes: Vec<u8>,
    has_ended: bool,
    is_reset: bool,
}

/// Of each session whose first frame is whole. Frames are read without the gateway's decoder.
fn passed(mut sent: &[u8]) -> BTreeMap<u32, Passed> {
    let mut all = BTreeMap::<u32, Passed>::new();
    while let Some((head, rest)) = sent.split_first_chunk::<HEADER_BYTES>() {
        let [kind, a, b, c, number @ ..] = *head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let number = u32::from_be_bytes(number);
        let body = &rest[..length.min(rest.len())];
        let is_whole = body.len() == length;
        sent = &rest[body.len()..];
        match kind {
            3 | 4 if is_whole => _ = all.entry(number).or_default(),
            6 => all.entry(number).or_default().bytes.extend(body),
            7 => all.entry(number).or_default().has_ended = true,
            8 if is_whole => all.entry(number).or_default().is_reset = true,
            _ => {}
        }
    }
    all
}

/// How each session ended on the link, and what its stream was given.
type Sessions = BTreeMap<u32, (SessionFate, Vec<u8>)>;

/// A link receives `bytes` in one write, and then no more.
async fn play(reader: LinkEnd, bytes: &[u8], close: Close) -> (Sessions, LinkLoss) {
    let (mut raw, stream) = connection().await;
    let peer = Peer { name: None, address: "peer".into(), instance: None };
    let parts = LinkParts {
        id: 1,
        stream: NetStream::Tcp(stream),
        peer,
        end: reader,
        load: LinkLoad::new(256),
        numbers: Arc::new(AtomicU32::new(0)),
        parked: Arc::default(),
    };
    let (link, handle) = MultiplexedLink::new(parts);
    let mut sessions = JoinSet::new();
    if reader == LinkEnd::Opener {
        opens(&handle, &mut sessions).await;
    }
    let speaking = async {
        if reader == LinkEnd::Opener {
            // Nothing may be said of a session before it is opened.
            let mut opens = Vec::new();
            (1..=SESSIONS)
                .for_each(|number| LinkFrame::Open(request(number).into()).push(&mut opens, number));
            let count = opens.len() + SESSIONS as usize * HEADER_BYTES;
            raw.read_exact(&mut vec![0; count]).await.unwrap();
        }
        raw.write_all(bytes).await.unwrap();
        match close {
            Close::Cleanly => {
                raw.shutdown().await.unwrap();
                let _ = raw.read_to_end(&mut Vec::new()).await;
            }
            Close::Reset { pause } => {
                for _ in 0..pause {
                    tokio::task::yield_now().await;
                }
                SockRef::from(&raw).set_linger(Some(Duration::ZERO)).unwrap();
            }
        }
        drop(raw);
    };
    let driving = async {
        // Dropped as soon as it has ended.
        let (mut link, mut next) = (link, 0);
        loop {
            match link.next_event().await {
                OwnerEvent::Opened(open, session) => {
                    next += 1;
                    assert_eq!(*open, request(next));
                    let (ours, theirs) = connection().await;
                    // Attaching waits for the link, which this task drives.
                    sessions.spawn(async move {
                        carried(next, session.attach(side(theirs), Unlimited).await, ours).await
                    });
                }
                OwnerEvent::Ended(loss) => return loss,
                _ => {}
            }
        }
    };
    let ((), loss) = tokio::join!(speaking, driving);
    drop(handle);
    (sessions.join_all().await.into_iter().collect(), loss)
}

async fn opens(handle: &LinkHandle, sessions: &mut JoinSet<(u32, (SessionFate, Vec<u8>))>) {
    for number in 1..=SESSIONS {
        let (ours, theirs) = connection().await;
        let folder = LinkLoad::new(1).take().unwrap();
        let handle =
            handle.open(request(number), side(theirs), folder).await.unwrap().with_permits(Unlimited);
        sessions.spawn(carried(number, handle, ours));
    }
}

/// The permits of a session that nothing limits.
struct Unlimited;

impl HeldPermits for Unlimited {}

fn side(stream: TcpStream) -> Box<LocalSide> {
    let stream = NetStream::Tcp(stream);
    let counters = Arc::new(SessionCounters::default());
    Box::new(LocalSide { stream, unsent: Vec::new(), counters, idle: None, party: LocalParty::Client })
}

/// The peer of a session's stream says nothing and ends at once; how the session ended, and what it was given.
async fn carried(
    number: u32,
    mut session: PermittedSession<Unlimited>,
    mut stream: TcpStream,
) -> (u32, (SessionFate, Vec<u8>)) {
    stream.shutdown().await.unwrap();
    let leftover = session.outcome().await;
    let mut bytes = Vec::new();
    // What the link has written is there, and the rest was given back.
    drop(leftover.stream);
    let _ = stream.read_to_end(&mut bytes).await;
    leftover.undelivered.bytes.pieces().for_each(|piece| bytes.extend_from_slice(piece));
    (number, (leftover.fate, bytes))
}

async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (dialled, accepted) = tokio::join!(TcpStream::connect(at), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}
