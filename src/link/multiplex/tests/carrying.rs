//! Sessions over a link with both ends of ours.

use super::*;
use crate::{
    link::multiplex::{handle::OpenAnswer, row::LinkedSession, table::TableEntry},
    tests::allocations,
};

#[tokio::test]
async fn bytes_go_both_ways_and_either_end_may_finish_first() {
    let (opener, mut server) = pair().await;
    for client_first in [true, false] {
        let mut session = session(&opener, &mut server).await;
        let (first, last) = match client_first {
            true => (&mut session.client, &mut session.backend),
            false => (&mut session.backend, &mut session.client),
        };
        first.write_all(b"one").await.expect("it is taken");
        first.shutdown().await.expect("it ends");
        assert_eq!(read_all(last).await, b"one");
        last.write_all(b"other").await.expect("it is taken");
        last.shutdown().await.expect("it ends");
        let ends = async { tokio::join!(finish(&mut session.opener), finish(&mut session.server)) };
        let (received, ends) = tokio::join!(read_all(first), ends);
        assert_eq!(received, b"other");
        assert!(matches!(ends, (SessionFate::Clean, SessionFate::Clean)), "{ends:?}");
        assert_eq!(session.counters.map(|counters| counters.bytes()), [8, 8]);
    }
}

#[tokio::test]
async fn an_opener_learns_whether_its_session_was_accepted() {
    let (opener, mut server) = pair().await;
    let mut taken = session(&opener, &mut server).await;
    let answer = timeout(PATIENCE, taken.opener.answered()).await.expect("in time");
    assert!(matches!(answer, OpenAnswer::Taken), "{answer:?}");
    let ((_client, near), counters) = (connected().await, Arc::default());
    let opened = opener.handle.open(request(), side(near, &counters).into(), slot()).await;
    let mut refused = opened.expect("the link lives");
    server.incoming().await.refuse(Refusal::Full).await;
    let answer = timeout(PATIENCE, refused.answered()).await.expect("in time");
    let OpenAnswer::Over(leftover) = answer else { panic!("{answer:?}") };
    assert!(matches!(leftover.fate, SessionFate::Refused(Refusal::Full)), "{leftover:?}");
    assert!(leftover.stream.is_some(), "its client's, for another link");
}

/// A client that is cut at once: its link has reported all of it before its backend is connected.
#[tokio::test]
async fn what_came_before_a_reset_is_owed_to_a_backend_that_is_connected_later() {
    let (mut peer, mut server) = RawPeer::to(LinkEnd::Server).await;
    let (words, nothing) = (&b"words"[..], &b""[..]);
    for (number, cause, sent, owed) in [
        (1, CutCause::Client, words, words),
        (2, CutCause::Client, nothing, nothing),
        (3, CutCause::Policy, words, nothing),
    ] {
        peer.send(number, open()).await;
        let mut incoming = server.incoming().await;
        if !sent.is_empty() {
            peer.send_data(number, sent).await;
        }
        peer.send(number, LinkFrame::Reset(cause)).await;
        // The link has read all of it when it answers.
        peer.send(0, LinkFrame::Ping([7; 8])).await;
        assert_eq!(peer.receive().await.1, Some(LinkFrame::Pong([7; 8])));
        let given_up = timeout(Duration::from_millis(20), incoming.given_up()).await;
        assert_eq!(given_up.is_err(), !owed.is_empty(), "{number}: it is dropped if nothing is owed");
        if owed.is_empty() {
            continue;
        }
        let ((_backend, far), counters) = (connected().await, Arc::default());
        let mut attached = incoming.attach(side(far, &counters).into(), ()).await.handle;
        let leftover = timeout(PATIENCE, attached.outcome()).await.expect("in time");
        assert!(matches!(leftover.fate, SessionFate::Reset(CutCause::Client)), "{leftover:?}");
        assert!(leftover.stream.is_some(), "its backend's, which is owed bytes");
        assert_eq!(leftover.undelivered.bytes.pieces().collect::<Vec<_>>().concat(), owed);
    }
}

/// A gateway may hold thousands of idle ones.
#[test]
fn the_row_of_a_session_is_small() {
    let bytes = [size_of::<TableEntry<LinkedSession>>(), size_of::<LocalSide>()];
    assert!(bytes[0] <= 280 && bytes[1] <= 112, "{bytes:?}");
}

/// Carries a session to its end, with this much in each direction.
pub(super) async fn carry(at: usize, session: Session, up: Vec<u8>, down: Vec<u8>) {
    let Session { client, backend, mut opener, mut server, counters } = session;
    let (mut client_in, mut client_out) = client.into_split();
    let (mut backend_in, mut backend_out) = backend.into_split();
    let writer = async {
        client_out.write_all(&up).await.expect("it is taken");
        client_out.shutdown().await.expect("it ends");
    };
    let answers = async {
        backend_out.write_all(&down).await.expect("it is taken");
        backend_out.shutdown().await.expect("it ends");
    };
    let (mut up_received, mut down_received) = (Vec::new(), Vec::new());
    let (.., opener, server) = tokio::join!(
        writer,
        answers,
        backend_in.read_to_end(&mut up_received),
        client_in.read_to_end(&mut down_received),
        finish(&mut opener),
        finish(&mut server),
    );
    assert!(
        up_received == up && down_received == down,
        "{at}: {} {}",
        up_received.len(),
        down_received.len()
    );
    assert!(matches!((&opener, &server), (SessionFate::Clean, SessionFate::Clean)), "{opener:?} {server:?}");
    let moved = (up.len() + down.len()) as u64;
    assert_eq!(counters.map(|counters| counters.bytes()), [moved, moved], "{at}");
}

#[tokio::test]
async fn many_sessions_at_once_keep_their_bytes_apart() {
    for (opener, mut server) in [pair().await, pair_in_tls().await] {
        let mut sessions = Vec::new();
        for _ in 0..100 {
            sessions.push(session(&opener, &mut server).await);
        }
        let run = sessions.into_iter().enumerate().map(|(at, session)| {
            carry(at, session, payload(at, 40_000 + at * 777), payload(at + 1000, 90_000 - at * 500))
        });
        timeout(PATIENCE, futures_util::future::join_all(run)).await.expect("in time");
    }
}

#[tokio::test]
async fn a_session_may_be_far_larger_than_any_window() {
    for (opener, mut server) in [pair().await, pair_in_tls().await] {
        let session = session(&opener, &mut server).await;
        let (up, down) = (payload(1, 12_000_000), payload(2, 9_000_001));
        timeout(PATIENCE, carry(0, session, up, down)).await.expect("in time");
    }
}

/// Passes this many bytes from one to the other, and then resets both.
async fn pass(mut from: TcpStream, mut to: TcpStream, bytes: usize) {
    let (mut back_in, mut back_out) = (Vec::new(), 0);
    let mut left = bytes;
    while left > 0 {
        let mut there = vec![0; left.min(4096)];
        let mut back = [0; 4096];
        tokio::select! {
            read = from.read(&mut there) => match read {
                Ok(count @ 1..) => {
                    left -= count;
                    if to.write_all(&there[..count]).await.is_err() { return }
                }
                _ => return,
            },
            read = to.read(&mut back) => match read {
                Ok(count @ 1..) => {
                    back_in.extend_from_slice(&back[..count]);
                    if from.write_all(&back_in[back_out..]).await.is_err() { return }
                    back_out = back_in.len();
                }
                _ => return,
            },
        }
    }
    crate::net::tcp::await_acknowledged(&to, PATIENCE).await;
}

#[tokio::test]
async fn a_wire_that_is_cut_at_any_offset_delivers_what_came_before_and_no_clean_end() {
    let output = payload(5, 40);
    // `open`, two frames of data and `end`: cut at each of their bytes, and after them.
    for offset in 1..=87 {
        let ((ours, near), (far, theirs)) = (connected().await, connected().await);
        let (opener, mut server) =
            (serve(NetStream::Tcp(ours), LinkEnd::Opener), serve(NetStream::Tcp(theirs), LinkEnd::Server));
        let ((mut client, edge), (backend_edge, mut backend)) = (connected().await, connected().await);
        let wire = pass(near, far, offset);
        let talk = async {
            let counters = Arc::new(SessionCounters::default());
            let local = LocalSide { unsent: output[..20].to_vec(), ..side(edge, &counters) };
            let mut opened =
                opener.handle.open(request(), local.into(), slot()).await.expect("the link lives");
            client.write_all(&output[20..]).await.expect("it is taken");
            client.shutdown().await.expect("it ends");
            let arrives = async {
                let Some(incoming) = server.incoming.recv().await else { return (None, Vec::new()) };
                let mut attached =
                    incoming.attach(side(backend_edge, &Arc::default()).into(), ()).await.handle;
                let outcome = attached.outcome().await;
                if let Some(stream) = outcome.stream.as_ref().and_then(NetStream::tcp) {
                    crate::net::tcp::await_acknowledged(stream, PATIENCE).await;
                }
                drop(outcome.stream);
                // It ends with a reset, after what had come before.
                let mut received = Vec::new();
                let _ = backend.read_to_end(&mut received).await;
                outcome.undelivered.bytes.pieces().for_each(|piece| received.extend_from_slice(piece));
                (Some(outcome.fate), received)
            };
            let (ours, theirs) = tokio::join!(opened.outcome(), arrives);
            (ours.fate, theirs)
        };
        let ended = timeout(PATIENCE, async { tokio::join!(talk, wire).0 }).await;
        let (ours, (theirs, received)) = ended.unwrap_or_else(|_| panic!("cut at {offset}: it hangs"));
        assert!(output.starts_with(&received), "cut at {offset}");
        assert!(!matches!(ours, SessionFate::Clean), "cut at {offset}: {ours:?}");
        assert!(!matches!(theirs, Some(SessionFate::Clean)), "cut at {offset}: {theirs:?}");
    }
}

#[tokio::test]
async fn a_stopped_reader_buffers_only_its_window_and_delays_nobody() {
    let (opener, mut server) = pair().await;
    let mut stopped = Vec::new();
    for _ in 0..20 {
        stopped.push(session(&opener, &mut server).await);
    }
    let flood = stopped.iter_mut().map(|session| async {
        let chunk = vec![7; 64 * 1024];
        // Until nothing moves any more: the backend reads nothing.
        while timeout(Duration::from_millis(500), session.client.write_all(&chunk)).await.is_ok() {}
    });
    futures_util::future::join_all(flood).await;
    let mut other = session(&opener, &mut server).await;
    for round in 0..20_u8 {
        other.client.write_all(&[round; 64]).await.expect("it is taken");
        let mut received = [0; 64];
        timeout(PATIENCE, other.backend.read_exact(&mut received)).await.expect("in time").expect("bytes");
        assert_eq!(received, [round; 64]);
    }
    // The two kernels and one window hold what is on the way.
    let sent = stopped.iter().map(|session| session.counters[0].bytes()).max().unwrap_or(0);
    let taken = stopped.iter().map(|session| session.counters[1].bytes()).min().unwrap_or(0);
    assert!(sent - taken <= 2 * WINDOW_BYTES_MAX as u64, "{sent} sent, {taken} taken");
    // Once it is read, everything arrives.
    let mut session = stopped.swap_remove(0);
    session.client.shutdown().await.expect("it ends");
    let reading = async {
        let mut all = 0;
        let mut chunk = vec![0; 65_536];
        loop {
            match timeout(PATIENCE, session.backend.read(&mut chunk)).await.expect("in time") {
                Ok(0) => return all,
                Ok(count) => all += count as u64,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let received = reading.await;
    assert_eq!(received, session.counters[0].bytes());
}

/// Each byte shows its position.
fn pattern(from: usize, bytes: usize) -> Vec<u8> {
    (from..from + bytes).map(|at| (at % 251) as u8).collect()
}

#[tokio::test]
async fn a_reader_that_takes_nothing_for_an_hour_costs_no_session() {
    for is_upward in [true, false] {
        let (opener, mut server) = pair().await;
        let mut session = session(&opener, &mut server).await;
        let (from, to) = match is_upward {
            true => (&mut session.client, &mut session.backend),
            false => (&mut session.backend, &mut session.client),
        };
        // Until nothing moves any more.
        let mut sent = 0;
        while let Ok(taken) = timeout(Duration::from_millis(500), from.write(&pattern(sent, 65_536))).await {
            sent += taken.expect("it is taken");
        }
        // The connection is as fast as ever, and pings are sent over it.
        tokio::time::pause();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        tokio::time::resume();
        from.shutdown().await.expect("it lives");
        to.shutdown().await.expect("it lives");
        let reading = async {
            let (mut received, mut chunk) = (0, vec![0; 65_536]);
            loop {
                match timeout(PATIENCE, to.read(&mut chunk)).await.expect("in time").expect("no reset") {
                    0 => return received,
                    count => {
                        assert!(
                            chunk[..count] == pattern(received, count),
                            "upward: {is_upward}, at {received}"
                        );
                        received += count;
                    }
                }
            }
        };
        let ends = async { tokio::join!(finish(&mut session.opener), finish(&mut session.server)) };
        let (received, ends) = tokio::join!(reading, ends);
        assert_eq!(received, sent, "upward: {is_upward}");
        assert!(matches!(ends, (SessionFate::Clean, SessionFate::Clean)), "{ends:?}");
    }
}

#[tokio::test]
async fn a_client_that_is_cut_is_passed_on_behind_what_it_had_sent() {
    let (opener, mut server) = pair().await;
    let mut session = session(&opener, &mut server).await;
    let sent = payload(3, 30_000);
    session.client.write_all(&sent).await.expect("it is taken");
    crate::net::tcp::await_acknowledged(&session.client, PATIENCE).await;
    drop(session.client);
    let fate = finish(&mut session.opener).await;
    assert!(matches!(fate, SessionFate::StreamFailed(_)), "{fate:?}");
    let outcome = timeout(PATIENCE, session.server.outcome()).await.expect("in time");
    assert!(matches!(outcome.fate, SessionFate::Reset(CutCause::Client)), "{:?}", outcome.fate);
    let taken = session.counters[1].bytes() as usize + outcome.undelivered.bytes.len();
    assert_eq!(taken, sent.len(), "all of it comes first");
}

#[tokio::test]
async fn a_refused_session_gets_back_what_its_client_had_sent() {
    let (opener, mut server) = pair().await;
    let (mut client, near) = connected().await;
    let counters = Arc::new(SessionCounters::default());
    let local = LocalSide { unsent: b"first ".to_vec(), ..side(near, &counters) };
    let mut opened = opener.handle.open(request(), local.into(), slot()).await.expect("the link lives");
    client.write_all(b"and more").await.expect("it is taken");
    let incoming = server.incoming().await;
    incoming.refuse(Refusal::BackendRefused).await;
    let outcome = timeout(PATIENCE, opened.outcome()).await.expect("in time");
    assert!(matches!(outcome.fate, SessionFate::Refused(Refusal::BackendRefused)), "{:?}", outcome.fate);
    let mut again = outcome.resend;
    let mut stream = outcome.stream.expect("it is given back");
    drop(client.shutdown().await);
    stream.read_to_end(&mut again).await.expect("a clean end");
    assert_eq!(again, b"first and more");
}

#[tokio::test]
async fn an_owner_that_cuts_or_goes_resets_its_session_and_no_other() {
    let (opener, mut server) = pair().await;
    let (one, two) = (session(&opener, &mut server).await, session(&opener, &mut server).await);
    let mut three = session(&opener, &mut server).await;
    let mut ends = [one.server, two.server];
    one.opener.cut(CutCause::Operator);
    drop(two.opener);
    for (end, expected) in ends.iter_mut().zip([CutCause::Operator, CutCause::Other]) {
        let fate = finish(end).await;
        assert!(matches!(fate, SessionFate::Reset(cause) if cause == expected), "{fate:?}");
    }
    three.client.write_all(b"still here").await.expect("it is taken");
    let mut received = [0; 10];
    three.backend.read_exact(&mut received).await.expect("bytes");
    assert_eq!(&received, b"still here");
}

/// Passes chunks on and takes each before the next, or all of them with reads of a few bytes. Returns how often memory
/// was asked for.
async fn allocations_of(chunks: usize, read_bytes: usize, session: &mut Session) -> usize {
    let (sent, mut received) = (vec![7; CHUNK_BYTES], vec![0; read_bytes]);
    let (client, backend) = (&mut session.client, &mut session.backend);
    let before = allocations::so_far();
    let at_once = if read_bytes == CHUNK_BYTES { 1 } else { chunks };
    for _ in 0..chunks / at_once {
        let writing = async {
            for _ in 0..at_once {
                client.write_all(&sent).await.expect("it is taken");
            }
        };
        let reading = async {
            let mut left = at_once * CHUNK_BYTES;
            while left > 0 {
                let most = read_bytes.min(left);
                left -= backend.read(&mut received[..most]).await.expect("bytes");
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, async { tokio::join!(writing, reading) }).await.expect("in time");
    }
    allocations::so_far() - before
}

const CHUNK_BYTES: usize = 64 * 1024;

/// For a slow receiver bytes are held in pieces of 64 KiB, which grow in a few steps.
#[tokio::test]
async fn a_chunk_asks_for_no_memory_unless_its_receiver_is_slow() {
    for (read_bytes, each_may_ask) in [(CHUNK_BYTES, 0), (5_000, 8)] {
        let (opener, mut server) = pair().await;
        let mut session = session(&opener, &mut server).await;
        // The first bytes fill the buffers of this thread, and let windows grow.
        allocations_of(512, read_bytes, &mut session).await;
        let asked = allocations_of(1024, read_bytes, &mut session).await;
        let most = 128 + each_may_ask * 1024;
        assert!(asked <= most, "{asked} times for reads of {read_bytes} bytes, {most} are expected");
    }
}
