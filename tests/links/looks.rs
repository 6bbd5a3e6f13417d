//! What one end of a link makes of an end that is slow, silent or full.

use std::{
    future::poll_fn,
    io::{self, Write},
    task::{Context, Waker},
    time::Duration,
};

use portcullis::{
    link::{
        Peer,
        framed::Link,
        liveness::{HEARTBEAT, ReadState},
    },
    net::stream::NetStream,
    profile::ServiceName,
    proto::link::{
        frame::{self, DATA_MAX, FrameKind},
        hello::{GrantHello, OfferHello},
        open::OpenFrame,
        state::LinkRole,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};

use super::cuts::connection;

/// A ready link, its peer's end, and a second handle of its socket.
async fn ready(end: LinkRole) -> (Link, TcpStream, std::net::TcpStream) {
    let (ours, mut theirs) = connection().await;
    let handle = socket2::SockRef::from(&ours).try_clone().unwrap().into();
    let mut link = Link::new(NetStream::Tcp(ours), Peer { name: None, address: "peer".into() }, end);
    let grant = GrantHello { services: Vec::new(), links: 8, data: DATA_MAX };
    let offer = OfferHello { services: Vec::new(), target: 1, maximum: 8 };
    let mut said = Vec::new();
    let (ours, theirs_says) = match end {
        LinkRole::Opener => (grant.body(), offer.body()),
        LinkRole::Server => (offer.body(), grant.body()),
    };
    frame::push(&mut said, FrameKind::Hello, &theirs_says);
    theirs.write_all(&said).await.unwrap();
    if end == LinkRole::Server {
        link.stage(FrameKind::Hello, &ours).unwrap();
    }
    poll_fn(|cx| link.poll_handshake(cx)).await.unwrap();
    if end == LinkRole::Opener {
        link.stage(FrameKind::Hello, &ours).unwrap();
    }
    poll_fn(|cx| link.poll_flush(cx)).await.unwrap();
    let mut hello = vec![0; 4 + ours.len()];
    theirs.read_exact(&mut hello).await.unwrap();
    (link, theirs, handle)
}

fn look(link: &mut Link) -> io::Result<()> {
    link.check_alive(ReadState::Yes, &mut Context::from_waker(Waker::noop()))
}

/// Writes until the socket takes not one byte more; how many bytes that were.
async fn fill(mut socket: &std::net::TcpStream) -> usize {
    let (mut count, mut quiet) = (0, 0);
    // What its kernel had sent on makes room again, for a moment.
    while quiet < 5 {
        let before = count;
        for piece in [4096, 1] {
            while let Ok(more) = socket.write(&[0; 4096][..piece]) {
                count += more;
            }
        }
        quiet = if count == before { quiet + 1 } else { 0 };
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    count
}

#[tokio::test]
async fn looks_close_together_tell_no_silence() {
    for end in [LinkRole::Opener, LinkRole::Server] {
        let (mut link, _theirs, _) = ready(end).await;
        for nth in 0..20 {
            assert!(look(&mut link).is_ok(), "{end:?}: look {nth}");
        }
    }
}

#[tokio::test]
async fn a_pong_that_meets_a_full_socket_goes_when_there_is_room() {
    let (mut link, mut theirs, socket) = ready(LinkRole::Server).await;
    let filling = fill(&socket).await;
    let mut ping = Vec::new();
    frame::push(&mut ping, FrameKind::Ping, b"question");
    theirs.write_all(&ping).await.unwrap();
    let listening = async {
        let event = poll_fn(|cx| link.poll_event(cx)).await;
        panic!("it says nothing more: {event:?}");
    };
    let reading = async {
        // Heard, and not to be answered yet.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut heard = vec![0; filling + 12];
        theirs.read_exact(&mut heard).await.unwrap();
        heard.split_off(filling)
    };
    let heard = tokio::select! {
        () = listening => unreachable!(),
        heard = timeout(HEARTBEAT / 2, reading) => heard.expect("no look is needed for it"),
    };
    assert_eq!(heard, [&[9, 0, 0, 8], &b"question"[..]].concat());
}

/// An opener whose server has not answered `open` yet.
fn opened(link: &mut Link) {
    let open = OpenFrame {
        service: ServiceName::parse("orders").unwrap(),
        id: "s-1".into(),
        client: None,
        probe: false,
    };
    link.open(&open, Vec::new()).unwrap();
}

#[tokio::test]
async fn a_session_that_was_not_written_at_all_may_be_told_elsewhere() {
    let (mut link, _theirs, socket) = ready(LinkRole::Opener).await;
    opened(&mut link);
    assert!(!link.has_sent(), "its client has said nothing");
    // What was staged before does not go out, and so nothing of its client's does.
    for _ in 0..100 {
        link.stage(FrameKind::Ping, b"question").unwrap();
    }
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    let said = poll_fn(|cx| link.poll_write(cx, b"only once")).await;
    assert!(said.is_err() && !link.has_sent(), "{said:?}");
}

#[tokio::test]
async fn a_session_whose_first_write_fails_may_have_been_told() {
    let (mut link, _theirs, socket) = ready(LinkRole::Opener).await;
    opened(&mut link);
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    let said = poll_fn(|cx| link.poll_write(cx, b"only once")).await;
    assert!(said.is_err() && link.has_sent(), "{said:?}");
}

#[tokio::test]
async fn a_session_that_is_partly_written_has_been_told() {
    let (mut link, _theirs, socket) = ready(LinkRole::Opener).await;
    opened(&mut link);
    poll_fn(|cx| link.poll_flush(cx)).await.unwrap();
    fill(&socket).await;
    let mut cx = Context::from_waker(Waker::noop());
    assert!(link.poll_write(&mut cx, b"only once").is_pending());
    assert!(link.has_sent());
}

/// The two ends of one link, with a session under way.
async fn carrying() -> [Link; 2] {
    let (ours, theirs) = connection().await;
    let peer = |name: &str| Peer { name: None, address: name.into() };
    let mut opener = Link::new(NetStream::Tcp(ours), peer("server"), LinkRole::Opener);
    let mut server = Link::new(NetStream::Tcp(theirs), peer("opener"), LinkRole::Server);
    server
        .stage(FrameKind::Hello, &OfferHello { services: Vec::new(), target: 1, maximum: 8 }.body())
        .unwrap();
    poll_fn(|cx| server.poll_flush(cx)).await.unwrap();
    poll_fn(|cx| opener.poll_handshake(cx)).await.unwrap();
    let grant = GrantHello { services: Vec::new(), links: 8, data: DATA_MAX };
    opener.stage(FrameKind::Hello, &grant.body()).unwrap();
    opened(&mut opener);
    poll_fn(|cx| opener.poll_flush(cx)).await.unwrap();
    poll_fn(|cx| server.poll_handshake(cx)).await.unwrap();
    poll_fn(|cx| server.poll_event(cx)).await.unwrap();
    server.stage(FrameKind::Opened, &[]).unwrap();
    says(&mut server).await;
    hears(&mut opener).await;
    [opener, server]
}

async fn says(link: &mut Link) {
    poll_fn(|cx| link.poll_write(cx, b"words")).await.unwrap();
    poll_fn(|cx| link.poll_flush(cx)).await.unwrap();
}

async fn hears(link: &mut Link) {
    let mut bytes = [0; 64];
    let mut buf = ReadBuf::new(&mut bytes);
    poll_fn(|cx| link.poll_read(cx, &mut buf)).await.unwrap();
    assert_eq!(buf.filled(), b"words");
}

/// Reads what a link says but for bytes of its session, of which there are none.
fn reads(link: &mut Link) {
    let mut bytes = [0; 64];
    let read = link.poll_read(&mut Context::from_waker(Waker::noop()), &mut ReadBuf::new(&mut bytes));
    assert!(read.is_pending(), "{read:?}");
}

#[tokio::test(start_paused = true)]
async fn a_session_lives_however_long_its_receivers_take_nothing() {
    use ReadState::{Stopped, Yes};
    for reading in [[Stopped, Yes], [Yes, Stopped], [Stopped, Stopped]] {
        let mut ends = carrying().await;
        let over = Instant::now() + Duration::from_secs(3600);
        while Instant::now() < over {
            for (link, reading) in ends.iter_mut().zip(reading) {
                if reading == Yes {
                    reads(link);
                }
                if Instant::now() >= link.next_check() {
                    let looked = link.check_alive(reading, &mut Context::from_waker(Waker::noop()));
                    assert!(looked.is_ok(), "{reading:?}: {looked:?}");
                }
            }
            let [opener, server] = &ends;
            sleep_until(opener.next_check().min(server.next_check())).await;
        }
        let [opener, server] = &mut ends;
        says(opener).await;
        hears(server).await;
        says(server).await;
        hears(opener).await;
    }
}
