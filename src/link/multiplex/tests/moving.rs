//! Sessions that move between links with both ends of ours: whatever they do meanwhile, each byte comes once and in
//! order.

use super::*;
use crate::link::multiplex::{handle::OpenAnswer, moving::MoveTarget};

/// Links to move to, in this order; full ones and those that leave are passed over. Heavy sessions take the last one.
#[derive(Debug)]
pub(super) struct Targets(Vec<(LinkHandle, Arc<LinkLoad>)>);

impl Targets {
    pub(super) fn of(links: &[&Served]) -> Arc<dyn MoveTargets> {
        Arc::new(Self(links.iter().map(|link| (link.handle.clone(), link.load.clone())).collect()))
    }
}

impl MoveTargets for Targets {
    fn next_target(&self) -> Option<MoveTarget> {
        let open = self.0.iter().filter(|(handle, _)| handle.takes_sessions());
        let target = |(handle, load): &(LinkHandle, Arc<LinkLoad>)| {
            Some(MoveTarget { handle: handle.clone(), slot: load.take()? })
        };
        open.filter_map(target).next()
    }

    fn heavy_target(&self, from: u64) -> Option<MoveTarget> {
        let mut others = self.0.iter().filter(|(handle, _)| handle.takes_sessions() && handle.id() != from);
        let (handle, load) = others.next_back()?;
        Some(MoveTarget { handle: handle.clone(), slot: load.take_heavy()? })
    }
}

/// The two processes that links are between.
#[derive(Default)]
pub(super) struct Ends {
    pub opener: LinksOfProcess,
    pub server: LinksOfProcess,
}

impl Ends {
    pub(super) async fn link(&self) -> (Served, Served) {
        let (one, other) = connected().await;
        self.link_over(NetStream::Tcp(one), NetStream::Tcp(other))
    }

    fn link_over(&self, one: NetStream, other: NetStream) -> (Served, Served) {
        (self.opener.serve(one, LinkEnd::Opener), self.server.serve(other, LinkEnd::Server))
    }
}

/// A session of a link, answered.
pub(super) async fn answered(opener: &Served, server: &mut Served) -> Session {
    let mut session = session(opener, server).await;
    let answer = timeout(PATIENCE, session.opener.answered()).await.expect("in time");
    assert!(matches!(answer, OpenAnswer::Taken), "{answer:?}");
    session
}

/// All of a link's sessions move to another one, and it ends.
async fn retires((opener, server): &mut (Served, Served), target: &Served) {
    opener.moves.send(Targets::of(&[target])).await.expect("it lives");
    let (opener, server) = tokio::join!(opener.ended(), server.ended());
    assert_eq!((opener, server), (LinkLoss::Closed, LinkLoss::Closed));
}

pub(super) async fn exchange(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    from.write_all(bytes).await.expect("it is taken");
    let mut received = vec![0; bytes.len()];
    timeout(PATIENCE, to.read_exact(&mut received)).await.expect("in time").expect("bytes");
    assert!(received == bytes);
}

fn carries(at: usize, session: Session) -> impl Future<Output = ()> {
    carrying::carry(at, session, payload(at, 3_000_000 + at), payload(at + 1000, 3_000_000 - at))
}

#[tokio::test]
async fn sessions_that_move_while_they_are_busy_keep_every_byte() {
    for is_tls in [false, true] {
        let ends = Ends::default();
        let link = async || match is_tls {
            true => {
                let (one, other) = connected_in_tls().await;
                ends.link_over(one, other)
            }
            false => ends.link().await,
        };
        let mut first = link().await;
        let mut sessions = Vec::new();
        for _ in 0..12 {
            sessions.push(answered(&first.0, &mut first.1).await);
        }
        let via = sessions[0].counters.clone();
        let run = futures_util::future::join_all(
            sessions.into_iter().enumerate().map(|(at, session)| carries(at, session)),
        );
        tokio::pin!(run);
        let (mut current, mut moves) = (first, 0);
        loop {
            let next = link().await;
            tokio::select! {
                biased;
                () = retires(&mut current, &next.0) => (current, moves) = (next, moves + 1),
                done = timeout(PATIENCE, &mut run) => {
                    done.expect("in time");
                    break;
                }
            }
        }
        assert!(moves >= 3, "{moves}");
        assert!(via.iter().all(|counters| counters.via().is_some()), "they have moved");
        assert_eq!(ends.server.parked.count(), 0);
    }
}

#[tokio::test]
async fn quiet_and_half_closed_sessions_move_as_they_are() {
    let ends = Ends::default();
    let mut old = ends.link().await;
    let mut sessions = Vec::new();
    for at in 0..9_u8 {
        let mut session = answered(&old.0, &mut old.1).await;
        exchange(&mut session.client, &mut session.backend, &[at; 100]).await;
        exchange(&mut session.backend, &mut session.client, &[at; 200]).await;
        match at % 3 {
            1 => session.client.shutdown().await.expect("it ends"),
            2 => session.backend.shutdown().await.expect("it ends"),
            _ => {}
        }
        let (half, other) = match at % 3 {
            2 => (&mut session.client, &mut session.backend),
            _ => (&mut session.backend, &mut session.client),
        };
        if at % 3 > 0 {
            assert_eq!(half.read(&mut [0; 1]).await.expect("an end"), 0);
        }
        exchange(half, other, b"still here").await;
        sessions.push(session);
    }
    for _ in 0..3 {
        let next = ends.link().await;
        retires(&mut old, &next.0).await;
        let loads = [&next.0, &next.1].map(|link| link.load.sessions());
        assert_eq!(loads, [9, 9], "their places moved along");
        for session in &sessions {
            assert_eq!(session.counters[0].via(), Some(next.0.handle.id()));
            assert_eq!(session.counters[1].via(), Some(next.1.handle.id()));
        }
        old = next;
    }
    for (at, mut session) in sessions.into_iter().enumerate() {
        if at % 3 != 1 {
            exchange(&mut session.client, &mut session.backend, &payload(at, 50_000)).await;
            session.client.shutdown().await.expect("it ends");
        }
        if at % 3 != 2 {
            exchange(&mut session.backend, &mut session.client, &payload(at, 50_000)).await;
            session.backend.shutdown().await.expect("it ends");
        }
        let ends = async { tokio::join!(finish(&mut session.opener), finish(&mut session.server)) };
        let ends = timeout(PATIENCE, ends).await.expect("in time");
        assert!(matches!(ends, (SessionFate::Clean, SessionFate::Clean)), "{at}: {ends:?}");
    }
    assert_eq!([&old.0, &old.1].map(|link| link.load.sessions()), [0, 0]);
}

/// Writes until nothing moves any more, because the other end does not read; how much it was.
async fn fill(stream: &mut TcpStream) -> Vec<u8> {
    let (chunk, mut sent) = (payload(7, 65_536), Vec::new());
    while let Ok(count) = timeout(Duration::from_millis(300), stream.write(&chunk)).await {
        let count = count.expect("it is taken");
        sent.extend_from_slice(&chunk[..count]);
    }
    sent
}

#[tokio::test]
async fn a_session_whose_reader_has_stopped_moves_once_it_can_and_delays_no_other() {
    for is_upward in [true, false] {
        let ends = Ends::default();
        let (mut old, mut next) = (ends.link().await, ends.link().await);
        let mut stopped = answered(&old.0, &mut old.1).await;
        let mut other = answered(&old.0, &mut old.1).await;
        let (from, to) = match is_upward {
            true => (&mut stopped.client, &mut stopped.backend),
            false => (&mut stopped.backend, &mut stopped.client),
        };
        // Its window grows before it stops.
        exchange_much(from, to).await;
        let sent = fill(from).await;
        old.0.moves.send(Targets::of(&[&next.0])).await.expect("it lives");
        while other.counters[0].via() != Some(next.0.handle.id()) {
            exchange(&mut other.client, &mut other.backend, b"on its way").await;
        }
        exchange(&mut other.backend, &mut other.client, b"moved").await;
        let mut received = vec![0; sent.len()];
        timeout(PATIENCE, to.read_exact(&mut received)).await.expect("in time").expect("bytes");
        assert!(received == sent, "upward: {is_upward}");
        assert_eq!(old.0.ended().await, LinkLoss::Closed);
        exchange(from, to, b"and more").await;
        exchange(to, from, b"and back").await;
        assert_eq!(stopped.counters[1].via(), Some(next.1.handle.id()));
        next.1.cut.cancel();
        assert!(matches!(finish(&mut stopped.opener).await, SessionFate::LinkLost(_)));
        assert!(matches!(next.0.ended().await, LinkLoss::Cut | LinkLoss::Socket(_)));
    }
}

async fn exchange_much(from: &mut TcpStream, to: &mut TcpStream) {
    let bytes = payload(3, 4_000_000);
    let mut received = vec![0; bytes.len()];
    let moving = async { tokio::join!(from.write_all(&bytes), to.read_exact(&mut received)) };
    let (sent, taken) = timeout(PATIENCE, moving).await.expect("in time");
    assert!(sent.is_ok() && taken.is_ok() && received == bytes);
}

#[tokio::test]
async fn without_another_link_sessions_stay_until_there_is_one() {
    let ends = Ends::default();
    let (mut old, full) = (ends.link().await, ends.link().await);
    let mut session = answered(&old.0, &mut old.1).await;
    let slots: Vec<_> = std::iter::from_fn(|| full.0.load.take()).collect();
    old.0.moves.send(Targets::of(&[&full.0])).await.expect("it lives");
    for _ in 0..50 {
        exchange(&mut session.client, &mut session.backend, b"stays").await;
    }
    assert_eq!(session.counters[0].via(), None);
    drop(slots);
    // With the next check.
    assert_eq!(old.0.ended().await, LinkLoss::Closed);
    assert_eq!(session.counters[0].via(), Some(full.0.handle.id()));
    exchange(&mut session.backend, &mut session.client, b"moved").await;
}

#[tokio::test]
async fn a_session_that_is_not_answered_moves_after_its_answer() {
    let ends = Ends::default();
    let (mut old, next) = (ends.link().await, ends.link().await);
    let ((mut client, near), (far, mut backend)) = (connected().await, connected().await);
    let opened = old.0.handle.open(request(), side(near, &Arc::default()).into(), slot()).await;
    let mut opened = opened.expect("the link lives");
    let incoming = old.1.incoming().await;
    client.write_all(b"early").await.expect("it is taken");
    old.0.moves.send(Targets::of(&[&next.0])).await.expect("it lives");
    let mut beside = answered_beside(&ends, &next).await;
    exchange(&mut beside.client, &mut beside.backend, b"later").await;
    let counters = Arc::new(SessionCounters::default());
    let _attached = incoming.attach(side(far, &counters).into(), ()).await.handle;
    let mut received = [0; 5];
    timeout(PATIENCE, backend.read_exact(&mut received)).await.expect("in time").expect("bytes");
    let answer = timeout(PATIENCE, opened.answered()).await.expect("in time");
    assert!(matches!(answer, OpenAnswer::Taken), "{answer:?}");
    assert_eq!(old.0.ended().await, LinkLoss::Closed);
    exchange(&mut backend, &mut client, b"over the other").await;
    assert_eq!(counters.via(), Some(next.1.handle.id()));
}

/// A session on a link of its own, after whose exchange the others have had their turns.
async fn answered_beside(ends: &Ends, next: &(Served, Served)) -> Session {
    let mut other = ends.link().await;
    let session = answered(&other.0, &mut other.1).await;
    other.0.moves.send(Targets::of(&[&next.0])).await.expect("it lives");
    assert_eq!(other.0.ended().await, LinkLoss::Closed);
    session
}

/// At any moment of the move, each end of each link once. A session that ends cleanly has all of its bytes, and any other
/// a part of them.
#[tokio::test]
async fn a_link_that_is_killed_while_sessions_move_costs_sessions_and_no_byte_is_wrong() {
    let (mut clean, mut lost) = (0, 0);
    for round in 0..60 {
        let ends = Ends::default();
        let (mut old, next) = (ends.link().await, ends.link().await);
        let mut sessions = Vec::new();
        for _ in 0..8 {
            sessions.push(answered(&old.0, &mut old.1).await);
        }
        let play = sessions.into_iter().enumerate().map(|(at, session)| ends_somehow(session, at));
        let play = futures_util::future::join_all(play);
        let kill = async {
            old.0.moves.send(Targets::of(&[&next.0])).await.expect("it lives");
            for _ in 0..round / 2 {
                tokio::task::yield_now().await;
            }
            [&old.0, &old.1, &next.0, &next.1][round % 4].cut.cancel();
        };
        let played = timeout(PATIENCE, async { tokio::join!(play, kill).0 }).await;
        let played = played.unwrap_or_else(|_| panic!("round {round}: a session hangs"));
        clean += played.iter().filter(|is_clean| **is_clean).count();
        lost += played.iter().filter(|is_clean| !**is_clean).count();
        assert_eq!(ends.server.parked.count(), 0, "round {round}");
    }
    assert!(clean > 20 && lost > 20, "{clean} went on, {lost} were lost");
}

/// Sends up and ends; whether that came to a clean end.
async fn ends_somehow(session: Session, seed: usize) -> bool {
    let Session { mut client, mut backend, mut opener, mut server, .. } = session;
    let sent = payload(seed, 300_000);
    let writing = async {
        // The session may be cut meanwhile.
        if client.write_all(&sent).await.is_ok() {
            let _ = client.shutdown().await;
        }
    };
    let reading = async {
        let mut received = Vec::new();
        let whole = backend.read_to_end(&mut received).await;
        let _ = backend.shutdown().await;
        (whole.is_ok(), received)
    };
    let ending = async {
        let fate = finish(&mut opener).await;
        match fate {
            SessionFate::Clean => _ = finish(&mut server).await,
            // Nobody waits for the other end to notice.
            _ => drop(server),
        }
        fate
    };
    let ((), (is_whole, received), fate) = tokio::join!(writing, reading, ending);
    assert!(sent.starts_with(&received), "{fate:?}");
    let is_clean = matches!(fate, SessionFate::Clean);
    assert!(is_clean || matches!(fate, SessionFate::LinkLost(_) | SessionFate::Reset(_)), "{fate:?}");
    assert!(!is_clean || is_whole && received.len() == sent.len(), "{} of {}", received.len(), sent.len());
    is_clean
}
