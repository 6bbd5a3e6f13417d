//! How one end judges a peer whose bytes are written by hand.

use super::*;

#[tokio::test]
async fn a_lost_link_ends_its_sessions_and_gives_back_what_was_not_sent() {
    let (mut peer, mut opener) = RawPeer::to(LinkEnd::Opener).await;
    let mut clients = Vec::new();
    let mut sessions = Vec::new();
    for unsent in [&b"answered"[..], b"", b"not answered"] {
        let (client, near) = connected().await;
        let local = LocalSide { unsent: unsent.to_vec(), ..side(near, &Arc::default()) };
        let opened = opener.handle.open(request(), local.into(), slot()).await.expect("the link lives");
        clients.push(client);
        sessions.push(opened);
    }
    for expected in [&b"answered"[..], b"not answered"] {
        while peer.receive().await.2 != expected {}
    }
    peer.send(1, LinkFrame::Opened).await;
    peer.send_data(1, b"answer").await;
    clients[0].read_exact(&mut [0; 6]).await.expect("the answer");
    drop(peer);
    let mut ends = Vec::new();
    for session in &mut sessions {
        ends.push(timeout(PATIENCE, session.outcome()).await.expect("in time"));
    }
    assert!(matches!(ends[0].fate, SessionFate::LinkLost(_)), "{:?}", ends[0].fate);
    assert!(matches!(ends[1].fate, SessionFate::Unsent) && ends[1].stream.is_some(), "{:?}", ends[1].fate);
    assert!(matches!(ends[2].fate, SessionFate::LinkLost(_)), "{:?}", ends[2].fate);
    assert!(matches!(opener.ended().await, LinkLoss::Socket(_) | LinkLoss::Cut));
}

#[tokio::test]
async fn what_a_failing_link_was_not_given_comes_back_for_the_next() {
    let (peer, opener) = RawPeer::to(LinkEnd::Opener).await;
    // The peer reads nothing, so its link soon accepts nothing more.
    let (mut flooding, chunk) = (Vec::new(), vec![7; WINDOW_BYTES]);
    for _ in 0..64 {
        let (mut flood, near) = connected().await;
        let filling = opener.handle.open(request(), side(near, &Arc::default()).into(), slot()).await;
        timeout(PATIENCE, flood.write_all(&chunk)).await.expect("in time").expect("it is taken");
        flooding.push((flood, filling.expect("the link lives")));
    }
    let counters = Arc::new(SessionCounters::default());
    let (mut client, near) = connected().await;
    let local = LocalSide { unsent: b"only".to_vec(), ..side(near, &counters) };
    let mut session = opener.handle.open(request(), local.into(), slot()).await.expect("the link lives");
    client.write_all(b" once").await.expect("it is taken");
    client.shutdown().await.expect("it ends");
    drop(peer);
    let outcome = timeout(PATIENCE, session.outcome()).await.expect("in time");
    assert!(matches!(outcome.fate, SessionFate::Unsent), "{:?}", outcome.fate);
    assert_eq!((outcome.resend.as_slice(), counters.bytes()), (&b"only"[..], 0), "nothing has moved");
    let mut rest = Vec::new();
    outcome.stream.expect("it is given back").read_to_end(&mut rest).await.expect("a clean end");
    assert_eq!(rest, b" once");
}

/// More of them at once than a link looks at in one round, and one that comes behind the loss. The first come into a
/// batch that the kernel does not take, since it knows of the loss and this process does not.
#[tokio::test]
async fn sessions_of_which_nothing_has_left_come_back_for_the_next() {
    let (ours, theirs) = connected().await;
    check_come_back(NetStream::Tcp(ours), NetStream::Tcp(theirs)).await;
    let (ours, theirs) = connected_in_tls().await;
    check_come_back(ours, theirs).await;
}

async fn check_come_back(ours: NetStream, theirs: NetStream) {
    let peer = Peer { name: None, address: "peer".into(), instance: None };
    let (end, load, numbers) = (LinkEnd::Opener, LinkLoad::new(256), Arc::default());
    let parked = Arc::default();
    let parts = LinkParts { id: 1, stream: ours, peer, end, load, numbers, parked };
    let (mut link, handle) = MultiplexedLink::new(parts);
    let local = || LocalSide {
        stream: NetStream::Echo(Box::default()),
        unsent: b"said".to_vec(),
        counters: Arc::default(),
        idle: None,
        party: LocalParty::Client,
    };
    drop(theirs);
    let opens = futures_util::future::join_all((0..3 * COMMANDS_MAX).map(async |_| {
        match handle.open(request(), local().into(), slot()).await {
            Err(LinkClosed(local)) => local.unsent,
            Ok(mut session) => {
                let outcome = session.outcome().await;
                let is_back = matches!(outcome.fate, SessionFate::Unsent) && outcome.stream.is_some();
                assert!(is_back, "{:?}", outcome.fate);
                outcome.resend
            }
        }
    }));
    let lost = async {
        while !matches!(link.next_event().await, OwnerEvent::Ended(_)) {}
        assert!(handle.open(request(), local().into(), slot()).await.is_err(), "it takes no more");
        drop(link);
    };
    let (back, ()) = timeout(PATIENCE, async { tokio::join!(opens, lost) }).await.expect("in time");
    assert!(back.iter().all(|unsent| unsent == b"said"));
}

#[tokio::test]
async fn a_session_whose_answer_and_failure_come_at_once_was_carried() {
    use crate::telemetry::snapshot::SessionPhase::{Connecting, Relaying};
    // Whatever was sent: a session that was never answered was not carried.
    for (opened, answer, expected) in
        [(true, &b"answer"[..], Relaying), (true, b"", Relaying), (false, b"", Connecting)]
    {
        let (mut peer, opener) = RawPeer::to(LinkEnd::Opener).await;
        let counters = Arc::new(SessionCounters::default());
        counters.enter(Connecting);
        let (mut client, near) = connected().await;
        let mut session = opener
            .handle
            .open(request(), side(near, &counters).into(), slot())
            .await
            .expect("the link lives");
        assert_eq!(peer.receive().await, (1, Some(open()), vec![]));
        let mut sent = Vec::new();
        if opened {
            LinkFrame::Opened.push(&mut sent, 1);
        }
        if !answer.is_empty() {
            let head = FrameHead { kind: FrameType::Data, length: answer.len(), session: 1 };
            sent.extend_from_slice(&head.bytes());
            sent.extend_from_slice(answer);
        }
        LinkFrame::Reset(CutCause::Backend).push(&mut sent, 1);
        peer.stream.write_all(&sent).await.expect("it is taken");
        let fate = finish(&mut session).await;
        assert!(matches!(fate, SessionFate::Reset(CutCause::Backend)), "{fate:?}");
        assert_eq!((counters.phase(), counters.bytes()), (expected, answer.len() as u64), "{sent:?}");
        client.read_exact(&mut vec![0; answer.len()]).await.expect("the answer");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_of_this_process_is_not_counted_against_an_answer() {
    let (mut peer, opener) = RawPeer::to(LinkEnd::Opener).await;
    let (mut client, near) = connected().await;
    let mut session = opener
        .handle
        .open(request(), side(near, &Arc::default()).into(), slot())
        .await
        .expect("the link lives");
    let others = async {
        assert_eq!(peer.receive().await, (1, Some(open()), vec![]));
        tokio::time::sleep(Duration::from_millis(100)).await;
        // Stopped until just before the answer is due; there is still time to read what has arrived.
        tokio::time::advance(Duration::from_millis(4_850)).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        peer.send(1, LinkFrame::Opened).await;
        peer.send_data(1, b"answer").await;
        let mut received = [0; 6];
        client.read_exact(&mut received).await.expect("the answer");
        received
    };
    tokio::select! {
        outcome = session.outcome() => panic!("it has ended: {:?}", outcome.fate),
        received = others => assert_eq!(&received, b"answer"),
    }
}

/// As on a busy machine: each check comes a little late.
#[tokio::test(start_paused = true)]
async fn looks_that_are_a_little_late_put_no_answer_off() {
    let (_peer, opener) = RawPeer::to(LinkEnd::Opener).await;
    let (_client, near) = connected().await;
    let mut session = opener
        .handle
        .open(request(), side(near, &Arc::default()).into(), slot())
        .await
        .expect("the link lives");
    let passes = async {
        for _ in 0..300 {
            tokio::time::advance(Duration::from_millis(23)).await;
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        outcome = session.outcome() => assert!(matches!(outcome.fate, SessionFate::Unsent | SessionFate::Unanswered)),
        () = passes => panic!("it waits forever"),
    }
}

#[tokio::test]
async fn a_protocol_violation_closes_the_link_with_its_reason() {
    type SentFrames = fn() -> Vec<(u32, LinkFrame)>;
    let cases: [(SentFrames, PeerViolation); 7] = [
        (|| vec![(7, LinkFrame::End)], PeerViolation::NeverOpened(7)),
        (|| vec![(1, open()), (1, open())], PeerViolation::NumberUsedAgain(1)),
        (|| vec![(5, open()), (4, open())], PeerViolation::NumberUsedAgain(4)),
        (
            || vec![(1, open()), (1, LinkFrame::Opened)],
            PeerViolation::SessionState(
                FrameType::Opened,
                1,
                crate::proto::multiplex::state::SessionStage::Opening,
            ),
        ),
        (
            || vec![(0, LinkFrame::Retire), (1, open())],
            PeerViolation::LinkState(FrameType::Open, crate::proto::multiplex::state::LinkStage::Leaving),
        ),
        (
            || vec![(0, LinkFrame::Services(vec![]))],
            PeerViolation::LinkState(FrameType::Services, crate::proto::multiplex::state::LinkStage::Running),
        ),
        (|| (0..100).map(|_| (0, LinkFrame::Ping(*b"question"))).collect(), PeerViolation::TooMany("pings")),
    ];
    for (writer, expected) in cases {
        let (mut peer, mut server) = RawPeer::to(LinkEnd::Server).await;
        let mut out = Vec::new();
        writer().into_iter().for_each(|(session, frame)| frame.push(&mut out, session));
        peer.stream.write_all(&out).await.expect("it is taken");
        assert_eq!(server.ended().await, LinkLoss::Broken(expected));
    }
}

#[tokio::test]
async fn bytes_beyond_credit_cost_the_link() {
    let (mut peer, mut server) = RawPeer::to(LinkEnd::Server).await;
    peer.send(1, open()).await;
    let _incoming = server.incoming().await;
    peer.send_data(1, &[0; 60_000]).await;
    peer.send_data(1, &[0; WINDOW_BYTES - 60_000]).await;
    peer.send_data(1, b"x").await;
    assert_eq!(server.ended().await, LinkLoss::Broken(PeerViolation::BeyondCredit(1, 1)));
}

#[tokio::test]
async fn credit_that_overflows_costs_the_link() {
    let (mut peer, mut server) = RawPeer::to(LinkEnd::Server).await;
    peer.send(1, open()).await;
    let (far, _backend) = connected().await;
    let _session = server.incoming().await.attach(side(far, &Arc::default()).into(), ()).await.handle;
    assert_eq!(peer.receive().await, (1, Some(LinkFrame::Opened), vec![]));
    peer.send(1, LinkFrame::Credit(u32::MAX)).await;
    assert_eq!(server.ended().await, LinkLoss::Broken(PeerViolation::CreditOverflow(1)));
}

#[tokio::test]
async fn thousands_of_opens_and_resets_leave_nothing_and_others_go_on() {
    let (mut peer, mut server) = RawPeer::to(LinkEnd::Server).await;
    peer.send(1, open()).await;
    let (far, mut backend) = connected().await;
    let _session = server.incoming().await.attach(side(far, &Arc::default()).into(), ()).await.handle;
    let mut out = Vec::new();
    for number in 2..20_000 {
        open().push(&mut out, number);
        LinkFrame::Reset(CutCause::Client).push(&mut out, number);
    }
    let count = async {
        let mut count = 0;
        // As their owners do: each is dropped when its outcome arrives.
        while count < 10_000 {
            match timeout(Duration::from_secs(5), server.incoming.recv()).await {
                Ok(Some(session)) => drop(session),
                _ => break,
            }
            count += 1;
        }
        count
    };
    let (written, _) = tokio::join!(peer.stream.write_all(&out), count);
    written.expect("it is taken");
    peer.send_data(1, b"still here").await;
    let mut received = [0; 10];
    timeout(PATIENCE, backend.read_exact(&mut received)).await.expect("in time").expect("bytes");
    assert_eq!(&received, b"still here");
}

#[tokio::test]
async fn more_sessions_than_a_link_carries_are_refused() {
    let (mut peer, mut server) = RawPeer::to(LinkEnd::Server).await;
    let mut held = Vec::new();
    for number in 1..=256 {
        peer.send(number, open()).await;
        held.push(server.incoming().await);
    }
    peer.send(257, open()).await;
    assert_eq!(peer.receive().await, (257, Some(LinkFrame::Refused(Refusal::Full)), vec![]));
}

/// A session that was reset counts while somebody still works on it, so that resets do not make room without
/// end.
#[tokio::test]
async fn reset_sessions_count_until_their_server_has_finished() {
    let (mut peer, mut server) = RawPeer::to(LinkEnd::Server).await;
    let mut held = Vec::new();
    for number in 1..=512 {
        peer.send(number, open()).await;
        held.push(server.incoming().await);
        peer.send(number, LinkFrame::Reset(CutCause::Client)).await;
    }
    peer.send(513, open()).await;
    assert_eq!(peer.receive().await, (513, Some(LinkFrame::Refused(Refusal::Full)), vec![]));
    held.pop();
    peer.send(514, open()).await;
    server.incoming().await;
}

#[tokio::test(start_paused = true)]
async fn an_open_without_an_answer_is_given_up() {
    let (mut peer, opener) = RawPeer::to(LinkEnd::Opener).await;
    let (_client, near) = connected().await;
    let local = LocalSide { unsent: b"once".to_vec(), ..side(near, &Arc::default()) };
    let mut session = opener.handle.open(request(), local.into(), slot()).await.expect("the link lives");
    let began = Instant::now();
    let talks = async {
        loop {
            if let (_, Some(LinkFrame::Reset(cause)), _) = peer.receive().await {
                return cause;
            }
        }
    };
    let (outcome, cause) = tokio::join!(session.outcome(), talks);
    assert!(matches!(outcome.fate, SessionFate::Unanswered), "{:?}", outcome.fate);
    assert_eq!((outcome.resend.as_slice(), cause), (&b"once"[..], CutCause::Time));
    assert!(began.elapsed() >= Duration::from_secs(5) && began.elapsed() < Duration::from_secs(8));
}

#[tokio::test(start_paused = true)]
async fn a_quiet_session_ends_at_its_idle_limit() {
    let (opener, mut server) = pair().await;
    let ((_client, near), (far, _backend)) = (connected().await, connected().await);
    let limit = Duration::from_secs(60);
    let local = LocalSide { idle: Some(limit), ..side(near, &Arc::default()) };
    let mut session = opener.handle.open(request(), local.into(), slot()).await.expect("the link lives");
    let mut attached = server.incoming().await.attach(side(far, &Arc::default()).into(), ()).await.handle;
    let began = Instant::now();
    let (opener, server) = tokio::join!(session.outcome(), attached.outcome());
    assert!(matches!(opener.fate, SessionFate::Idle), "{:?}", opener.fate);
    assert!(matches!(server.fate, SessionFate::Reset(CutCause::Time)), "{:?}", server.fate);
    let took = began.elapsed();
    assert!(took >= limit - Duration::from_secs(1) && took <= limit + Duration::from_secs(3), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_dead_and_one_that_answers_is_not() {
    let (mut peer, mut opener) = RawPeer::to(LinkEnd::Opener).await;
    let began = Instant::now();
    // It answers for a minute.
    while began.elapsed() < Duration::from_secs(60) {
        peer.read().await;
        while let Some(received) = peer.received.pop_front() {
            let (0, Some(LinkFrame::Ping(token)), _) = received else { panic!("{received:?}") };
            peer.send(0, LinkFrame::Pong(token)).await;
        }
    }
    let silent = Instant::now();
    // Its kernel is alive, and acknowledges at once: its delay would be in real time, and none passes here.
    let reader = async {
        let mut chunk = [0; 256];
        loop {
            let _ = socket2::SockRef::from(&peer.stream).set_tcp_quickack(true);
            let _ = peer.stream.read(&mut chunk).await;
        }
    };
    let loss = tokio::select! {
        loss = opener.ended() => loss,
        () = reader => unreachable!("it reads forever"),
    };
    assert_eq!(loss, LinkLoss::Silent);
    let took = silent.elapsed();
    assert!(took >= Duration::from_secs(8) && took <= Duration::from_secs(11), "{took:?}");
}

#[tokio::test]
async fn a_link_that_leaves_ends_with_its_last_session() {
    let (mut opener, mut server) = pair().await;
    let mut session = session(&opener, &mut server).await;
    opener.handle.leave(FrameType::Retire).await;
    let (_client, near) = connected().await;
    let mut timed_out =
        opener.handle.open(request(), side(near, &Arc::default()).into(), slot()).await.expect("it lives");
    let outcome = timeout(PATIENCE, timed_out.outcome()).await.expect("in time");
    assert!(matches!(outcome.fate, SessionFate::Unsent) && outcome.stream.is_some(), "{:?}", outcome.fate);
    session.client.write_all(b"on it goes").await.expect("it is taken");
    session.client.shutdown().await.expect("it ends");
    assert_eq!(read_all(&mut session.backend).await, b"on it goes");
    session.backend.shutdown().await.expect("it ends");
    let ends = tokio::join!(finish(&mut session.opener), finish(&mut session.server));
    assert!(matches!(ends, (SessionFate::Clean, SessionFate::Clean)), "{ends:?}");
    assert_eq!((opener.ended().await, server.ended().await), (LinkLoss::Closed, LinkLoss::Closed));
}

/// The opener's last frame and the end of the link arrive together.
#[tokio::test]
async fn a_link_that_leaves_ends_in_good_order_whoever_of_its_last_session_ends_last() {
    for client_first in [true, false] {
        for (mut opener, mut server) in [pair().await, pair_in_tls().await] {
            let mut session = session(&opener, &mut server).await;
            opener.handle.leave(FrameType::Retire).await;
            let (first, last) = match client_first {
                true => (&mut session.client, &mut session.backend),
                false => (&mut session.backend, &mut session.client),
            };
            first.shutdown().await.expect("it ends");
            assert_eq!(read_all(last).await, b"");
            last.shutdown().await.expect("it ends");
            let ends = tokio::join!(finish(&mut session.opener), finish(&mut session.server));
            assert!(matches!(ends, (SessionFate::Clean, SessionFate::Clean)), "{client_first}: {ends:?}");
            assert_eq!((opener.ended().await, server.ended().await), (LinkLoss::Closed, LinkLoss::Closed));
        }
    }
}
