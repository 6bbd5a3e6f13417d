//! A whole conversation of two links, cut at every byte, by a clean end and by a reset.
//!
//! Four sessions on one link: the opener ends first, the server ends first, one is refused while
//! its bytes are on the way, and one with pings. What each end says is written down here frame by
//! frame, with what the other makes of it; that both really say so is a test too.

use std::{future::poll_fn, io, sync::Arc, time::Duration};

use portcullis::{
    link::{
        HANDSHAKE, Peer,
        error::LinkError,
        framed::{Link, LinkEvent},
        handshake::{DialledStream, GrantDecision, HelloRole, exchange_hello},
    },
    net::stream::NetStream,
    profile::{Carries, ServiceName},
    proto::{
        Refusal,
        link::{
            frame::{self, DATA_MAX, FrameKind, HEADER},
            hello::{GrantHello, OfferHello},
            open::OpenFrame,
            state::LinkRole,
        },
    },
};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(10);
const SESSIONS: u32 = 4;
const SERVER_ENDS_FIRST: u32 = 2;
const REFUSED: u32 = 3;
const WITH_PINGS: u32 = 4;
const TOKEN: [u8; 8] = *b"question";

#[tokio::test]
async fn both_ends_say_what_is_cut_here() {
    let said = [(LinkRole::Opener, opener_says()), (LinkRole::Server, server_says())];
    for (hears, says) in [(&said[1], &said[0]), (&said[0], &said[1])] {
        let heard = play(hears.0, &whole(&says.1), Close::Cleanly).await;
        assert_eq!(heard.log, expected(&says.1, usize::MAX).0);
        assert_eq!(heard.ended, Ok(()));
        assert!(heard.answers == whole(&hears.1), "{:?} says {:?}", hears.0, heard.answers);
    }
}

#[tokio::test]
async fn two_links_hear_each_other_out() {
    let (one, other) = connection().await;
    let both = async { tokio::join!(run(LinkRole::Opener, one), run(LinkRole::Server, other)) };
    let (opener, server) = timeout(PATIENCE, both).await.expect("they come to an end");
    assert_eq!(opener, (expected(&server_says(), usize::MAX).0, Ok(())));
    assert_eq!(server, (expected(&opener_says(), usize::MAX).0, Ok(())));
}

#[tokio::test]
async fn an_opener_that_ends_anywhere_is_heard_to_there() {
    ended_anywhere(LinkRole::Server, &opener_says()).await;
}

#[tokio::test]
async fn a_server_that_ends_anywhere_is_heard_to_there() {
    ended_anywhere(LinkRole::Opener, &server_says()).await;
}

async fn ended_anywhere(hears: LinkRole, says: &[Said]) {
    let whole = whole(says);
    for at in 0..=whole.len() {
        let heard = play(hears, &whole[..at], Close::Cleanly).await;
        let (log, is_clean) = expected(says, at);
        assert_eq!(heard.log, log, "ended at {at}");
        assert_eq!(heard.ended.is_ok(), is_clean, "ended at {at}: {:?}", heard.ended);
    }
}

#[tokio::test]
async fn an_opener_that_resets_anywhere_has_not_ended_cleanly() {
    reset_anywhere(LinkRole::Server, &opener_says()).await;
}

#[tokio::test]
async fn a_server_that_resets_anywhere_has_not_ended_cleanly() {
    reset_anywhere(LinkRole::Opener, &server_says()).await;
}

/// A reset may overtake what was sent before it. Behind the last frame there is nothing to cut: the
/// link leaves without waiting for an end.
async fn reset_anywhere(hears: LinkRole, says: &[Said]) {
    let whole = whole(says);
    for at in 0..whole.len() {
        let heard = play(hears, &whole[..at], Close::Reset { pause: at % 16 }).await;
        let (log, _) = expected(says, at);
        assert!(is_start(&heard.log, &log), "reset at {at}: {:?}", heard.log);
        assert!(heard.ended.is_err(), "reset at {at}");
    }
}

/// What an application hears over a link.
#[derive(Debug, Clone, PartialEq)]
enum Heard {
    Hello,
    Open(String),
    Bytes(Vec<u8>),
    End,
    Refused,
    Leaving,
}

type Log = Vec<Heard>;

/// Bytes that come one after another are one entry.
fn note(log: &mut Log, heard: Heard) {
    match (log.last_mut(), heard) {
        (Some(Heard::Bytes(before)), Heard::Bytes(more)) => before.extend(more),
        (_, heard) => log.push(heard),
    }
}

fn is_start(start: &[Heard], log: &[Heard]) -> bool {
    let Some((last, before)) = start.split_last() else { return true };
    log.starts_with(before)
        && match (last, log.get(before.len())) {
            (Heard::Bytes(part), Some(Heard::Bytes(all))) => all.starts_with(part),
            (last, meant) => Some(last) == meant,
        }
}

/// A frame, and what the other end makes of it.
struct Said {
    bytes: Vec<u8>,
    heard: Makes,
    /// Whether the link may end behind it.
    is_free: bool,
}

enum Makes {
    Nothing,
    Of(Heard),
    Bytes,
}

fn opener_says() -> Vec<Said> {
    let mut says = vec![said(FrameKind::Hello, &grant().body(), Makes::Of(Heard::Hello)).free()];
    for session in 1..=SESSIONS {
        let open = open(session);
        let heard = Makes::Of(Heard::Open(open.id.clone()));
        let opens = said(FrameKind::Open, &open.body(), heard);
        if session == REFUSED {
            says.push(opens.free());
            says.push(said(FrameKind::Data, &up(session), Makes::Nothing).free());
            continue;
        }
        says.push(opens);
        if session == WITH_PINGS {
            says.push(said(FrameKind::Ping, &TOKEN, Makes::Nothing));
        }
        says.push(said(FrameKind::Data, &up(session), Makes::Bytes));
        says.push(said(FrameKind::End, b"", Makes::Of(Heard::End)).free());
    }
    says.push(said(FrameKind::Pong, &TOKEN, Makes::Nothing).free());
    says.push(said(FrameKind::Retire, b"", Makes::Of(Heard::Leaving)).free());
    says
}

/// The opener has always opened its next session; only behind the last one is the link free.
fn server_says() -> Vec<Said> {
    let mut says = vec![said(FrameKind::Hello, &offer().body(), Makes::Of(Heard::Hello))];
    for session in 1..=SESSIONS {
        if session == REFUSED {
            let why = frame::refusal_byte(Refusal::Full);
            says.push(said(FrameKind::Refused, &[why], Makes::Of(Heard::Refused)));
            continue;
        }
        says.push(said(FrameKind::Opened, b"", Makes::Nothing));
        if session == WITH_PINGS {
            says.push(said(FrameKind::Pong, &TOKEN, Makes::Nothing));
            says.push(said(FrameKind::Ping, &TOKEN, Makes::Nothing));
        }
        says.push(said(FrameKind::Data, &down(session), Makes::Bytes));
        says.push(said(FrameKind::End, b"", Makes::Of(Heard::End)));
    }
    let last = says.pop().unwrap();
    says.push(last.free());
    says.push(said(FrameKind::Retire, b"", Makes::Of(Heard::Leaving)).free());
    says
}

fn said(kind: FrameKind, body: &[u8], heard: Makes) -> Said {
    let mut bytes = Vec::new();
    frame::push(&mut bytes, kind, body);
    Said { bytes, heard, is_free: false }
}

impl Said {
    fn free(self) -> Self {
        Self { is_free: true, ..self }
    }
}

fn whole(says: &[Said]) -> Vec<u8> {
    says.iter().flat_map(|said| said.bytes.iter().copied()).collect()
}

/// What is heard of the first bytes, and whether the link may end behind them.
fn expected(says: &[Said], mut bytes: usize) -> (Log, bool) {
    let mut log = Log::new();
    let mut is_free = false;
    for Said { bytes: frame, heard, is_free: is_free_behind } in says {
        if bytes == 0 {
            break;
        }
        let came = bytes.min(frame.len());
        match heard {
            Makes::Of(heard) if came == frame.len() => note(&mut log, heard.clone()),
            Makes::Bytes if came > HEADER => note(&mut log, Heard::Bytes(frame[HEADER..came].to_vec())),
            Makes::Of(_) | Makes::Bytes | Makes::Nothing => {}
        }
        is_free = *is_free_behind && came == frame.len();
        bytes -= came;
    }
    (log, is_free)
}

#[derive(Clone, Copy)]
enum Close {
    Cleanly,
    /// After the other end has had so many turns.
    Reset {
        pause: usize,
    },
}

struct Played {
    log: Log,
    ended: Result<(), String>,
    /// All that the link has sent.
    answers: Vec<u8>,
}

/// A link hears `bytes` in one write, and then no more.
async fn play(hears: LinkRole, bytes: &[u8], close: Close) -> Played {
    let (mut raw, stream) = connection().await;
    let mut answers = Vec::new();
    let speaking = async {
        raw.write_all(bytes).await.unwrap();
        match close {
            Close::Cleanly => {
                raw.shutdown().await.unwrap();
                // A link that gives up with bytes unread resets; what it had sent came before.
                let _ = raw.read_to_end(&mut answers).await;
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
    let both = async { tokio::join!(speaking, run(hears, stream)) };
    let heard = timeout(PATIENCE, both).await;
    let ((), (log, ended)) = heard.unwrap_or_else(|_| panic!("a hang after {} bytes", bytes.len()));
    Played { log, ended, answers }
}

pub async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (dialled, accepted) = tokio::join!(TcpStream::connect(at), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

/// One end of a link, and all that it hears until the link ends.
async fn run(end: LinkRole, stream: TcpStream) -> (Log, Result<(), String>) {
    let mut log = Log::new();
    let peer = Peer { name: None, address: "peer".into() };
    let says = match end {
        LinkRole::Opener => {
            HelloRole::Opens(Arc::new(|_, _| GrantDecision { grant: grant(), mismatches: Vec::new() }))
        }
        LinkRole::Server => HelloRole::Serves(Arc::new(|_| offer())),
    };
    let reached = DialledStream { stream: NetStream::Tcp(stream), peer, by: Instant::now() + HANDSHAKE };
    let linked = match exchange_hello(reached, &says, CancellationToken::new()).await {
        Ok(linked) => linked,
        Err(error) => return (log, Err(error.to_string())),
    };
    note(&mut log, Heard::Hello);
    let mut side = Side { link: linked.link, log };
    let ended = match end {
        LinkRole::Opener => side.open_all().await,
        LinkRole::Server => side.serve_all().await,
    };
    (side.log, ended.map_err(|error| error.to_string()))
}

struct Side {
    link: Box<Link>,
    log: Log,
}

impl Side {
    async fn open_all(&mut self) -> io::Result<()> {
        for session in 1..=SESSIONS {
            self.link.open(&open(session), Vec::new())?;
            if session == WITH_PINGS {
                self.link.stage(FrameKind::Ping, &TOKEN)?;
            }
            match session {
                SERVER_ENDS_FIRST => {
                    poll_fn(|cx| self.link.poll_flush(cx)).await?;
                    self.read_all().await?;
                    self.write_all(&up(session)).await?;
                    self.end().await?;
                }
                REFUSED => {
                    self.write_all(&up(session)).await?;
                    poll_fn(|cx| self.link.poll_flush(cx)).await?;
                    let error = self.read_all().await.expect_err("a refusal, or worse");
                    match LinkError::of(&error) {
                        Some(LinkError::Refused(Refusal::Full)) => note(&mut self.log, Heard::Refused),
                        _ => return Err(error),
                    }
                    assert_eq!(self.link.take_copy(), up(session));
                }
                _ => {
                    self.write_all(&up(session)).await?;
                    self.end().await?;
                    self.read_all().await?;
                }
            }
        }
        self.leave().await?;
        while self.next().await?.is_some() {}
        Ok(())
    }

    async fn serve_all(&mut self) -> io::Result<()> {
        while let Some(open) = self.next().await? {
            let session = self.link.session();
            assert_eq!(open, self::open(session));
            if session == REFUSED {
                self.link.stage(FrameKind::Refused, &[frame::refusal_byte(Refusal::Full)])?;
                poll_fn(|cx| self.link.poll_flush(cx)).await?;
                continue;
            }
            self.link.stage(FrameKind::Opened, &[])?;
            if session != SERVER_ENDS_FIRST {
                self.read_all().await?;
            }
            if session == WITH_PINGS {
                self.link.stage(FrameKind::Ping, &TOKEN)?;
            }
            self.write_all(&down(session)).await?;
            self.end().await?;
            if session == SERVER_ENDS_FIRST {
                self.read_all().await?;
            }
            if session == SESSIONS {
                self.leave().await?;
            }
        }
        Ok(())
    }

    /// The next `open`, or none when the link has closed in good order.
    async fn next(&mut self) -> io::Result<Option<OpenFrame>> {
        loop {
            match poll_fn(|cx| self.link.poll_event(cx)).await? {
                LinkEvent::Open(open) => {
                    note(&mut self.log, Heard::Open(open.id.clone()));
                    return Ok(Some(open));
                }
                LinkEvent::Leaving(kind) => {
                    assert_eq!(kind, FrameKind::Retire);
                    note(&mut self.log, Heard::Leaving);
                    if self.link.session() == SESSIONS {
                        // Neither end has more to say.
                        return Ok(None);
                    }
                }
                LinkEvent::Closed => return Ok(None),
            }
        }
    }

    async fn read_all(&mut self) -> io::Result<()> {
        loop {
            let mut bytes = [0; 5];
            let mut buf = ReadBuf::new(&mut bytes);
            poll_fn(|cx| self.link.poll_read(cx, &mut buf)).await?;
            if buf.filled().is_empty() {
                note(&mut self.log, Heard::End);
                return Ok(());
            }
            note(&mut self.log, Heard::Bytes(buf.filled().to_vec()));
        }
    }

    async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = poll_fn(|cx| self.link.poll_write(cx, bytes)).await?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    async fn end(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.link.poll_end(cx)).await
    }

    async fn leave(&mut self) -> io::Result<()> {
        self.link.stage_leave(FrameKind::Retire)?;
        poll_fn(|cx| self.link.poll_flush(cx)).await
    }
}

fn offer() -> OfferHello {
    OfferHello { services: vec![(service(), Carries::Bytes)], target: 1, maximum: 4 }
}

fn grant() -> GrantHello {
    GrantHello { services: vec![service()], links: 4, data: DATA_MAX }
}

fn open(session: u32) -> OpenFrame {
    let client = Some("192.0.2.7:50000".parse().unwrap());
    OpenFrame { service: service(), id: format!("c0-{session}"), client, probe: false }
}

fn service() -> ServiceName {
    ServiceName::parse("orders").unwrap()
}

fn up(session: u32) -> Vec<u8> {
    format!("from the client of session {session}").into_bytes()
}

fn down(session: u32) -> Vec<u8> {
    format!("from the backend of {session}").into_bytes()
}
