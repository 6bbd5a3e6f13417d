//! What one end makes of a peer that speaks by hand.

use super::*;

#[tokio::test]
async fn a_lost_link_ends_its_sessions_and_gives_back_what_was_not_sent() {
    let (mut peer, mut opener) = ByHand::to(LinkEnd::Opener).await;
    let mut clients = Vec::new();
    let mut sessions = Vec::new();
    for unsent in [&b"answered"[..], b"", b"not answered"] {
        let (client, near) = connected().await;
        let local = LocalSide { unsent: unsent.to_vec(), ..side(near, &Arc::default()) };
        let opened = opener.handle.open(request(), local.into()).await.expect("the link lives");
        clients.push(client);
        sessions.push(opened);
    }
    for expected in [&b"answered"[..], b"not answered"] {
        while peer.hear().await.2 != expected {}
    }
    peer.say(1, LinkFrame::Opened).await;
    peer.say_data(1, b"answer").await;
    clients[0].read_exact(&mut [0; 6]).await.expect("the answer");
    drop(peer);
    let mut ends = Vec::new();
    for session in &mut sessions {
        ends.push(timeout(PATIENCE, session.outcome()).await.expect("in time"));
    }
    assert!(matches!(ends[0].how, SessionFate::LinkLost(_)), "{:?}", ends[0].how);
    assert!(matches!(ends[1].how, SessionFate::Unsent) && ends[1].stream.is_some(), "{:?}", ends[1].how);
    assert!(matches!(ends[2].how, SessionFate::LinkLost(_)), "{:?}", ends[2].how);
    assert!(matches!(opener.ended().await, LinkLoss::Socket(_) | LinkLoss::Cut));
}

#[tokio::test]
async fn whoever_breaks_the_protocol_loses_its_link_and_is_told_how() {
    type Says = fn() -> Vec<(u32, LinkFrame)>;
    let cases: [(Says, PeerViolation); 7] = [
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
    for (says, expected) in cases {
        let (mut peer, mut server) = ByHand::to(LinkEnd::Server).await;
        let mut out = Vec::new();
        says().into_iter().for_each(|(session, frame)| frame.push(&mut out, session));
        peer.stream.write_all(&out).await.expect("it is taken");
        assert_eq!(server.ended().await, LinkLoss::Broken(expected));
    }
}

#[tokio::test]
async fn bytes_beyond_credit_cost_the_link() {
    let (mut peer, mut server) = ByHand::to(LinkEnd::Server).await;
    peer.say(1, open()).await;
    let _incoming = server.incoming().await;
    peer.say_data(1, &[0; 60_000]).await;
    peer.say_data(1, &[0; WINDOW_BYTES - 60_000]).await;
    peer.say_data(1, b"x").await;
    assert_eq!(server.ended().await, LinkLoss::Broken(PeerViolation::BeyondCredit(1, 1)));
}

#[tokio::test]
async fn credit_that_overflows_costs_the_link() {
    let (mut peer, mut server) = ByHand::to(LinkEnd::Server).await;
    peer.say(1, open()).await;
    let (far, _backend) = connected().await;
    let _session = server.incoming().await.attach(side(far, &Arc::default()).into()).await;
    assert_eq!(peer.hear().await, (1, Some(LinkFrame::Opened), vec![]));
    peer.say(1, LinkFrame::Credit(u32::MAX)).await;
    assert_eq!(server.ended().await, LinkLoss::Broken(PeerViolation::CreditOverflow(1)));
}

#[tokio::test]
async fn thousands_of_opens_and_resets_leave_nothing_and_others_go_on() {
    let (mut peer, mut server) = ByHand::to(LinkEnd::Server).await;
    peer.say(1, open()).await;
    let (far, mut backend) = connected().await;
    let _session = server.incoming().await.attach(side(far, &Arc::default()).into()).await;
    let mut out = Vec::new();
    for number in 2..20_000 {
        open().push(&mut out, number);
        LinkFrame::Reset(CutCause::Client).push(&mut out, number);
    }
    let count = async {
        let mut count = 0;
        // As their owners do: told that it is over, each goes.
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
    peer.say_data(1, b"still here").await;
    let mut heard = [0; 10];
    timeout(PATIENCE, backend.read_exact(&mut heard)).await.expect("in time").expect("bytes");
    assert_eq!(&heard, b"still here");
}

#[tokio::test]
async fn more_sessions_than_a_link_carries_are_refused() {
    let (mut peer, mut server) = ByHand::to(LinkEnd::Server).await;
    let mut held = Vec::new();
    for number in 1..=256 {
        peer.say(number, open()).await;
        held.push(server.incoming().await);
    }
    peer.say(257, open()).await;
    assert_eq!(peer.hear().await, (257, Some(LinkFrame::Refused(Refusal::Full)), vec![]));
}

#[tokio::test(start_paused = true)]
async fn an_open_without_an_answer_is_given_up() {
    let (mut peer, opener) = ByHand::to(LinkEnd::Opener).await;
    let (_client, near) = connected().await;
    let local = LocalSide { unsent: b"once".to_vec(), ..side(near, &Arc::default()) };
    let mut session = opener.handle.open(request(), local.into()).await.expect("the link lives");
    let began = Instant::now();
    let talks = async {
        loop {
            if let (_, Some(LinkFrame::Reset(cause)), _) = peer.hear().await {
                return cause;
            }
        }
    };
    let (outcome, cause) = tokio::join!(session.outcome(), talks);
    assert!(matches!(outcome.how, SessionFate::Unanswered), "{:?}", outcome.how);
    assert_eq!((outcome.again.as_slice(), cause), (&b"once"[..], CutCause::Time));
    assert!(began.elapsed() >= Duration::from_secs(5) && began.elapsed() < Duration::from_secs(8));
}

#[tokio::test(start_paused = true)]
async fn a_quiet_session_ends_at_its_idle_limit() {
    let (opener, mut server) = pair().await;
    let ((_client, near), (far, _backend)) = (connected().await, connected().await);
    let limit = Duration::from_secs(60);
    let local = LocalSide { idle: Some(limit), ..side(near, &Arc::default()) };
    let mut session = opener.handle.open(request(), local.into()).await.expect("the link lives");
    let mut attached = server.incoming().await.attach(side(far, &Arc::default()).into()).await;
    let began = Instant::now();
    let (opener, server) = tokio::join!(session.outcome(), attached.outcome());
    assert!(matches!(opener.how, SessionFate::Idle), "{:?}", opener.how);
    assert!(matches!(server.how, SessionFate::Reset(CutCause::Time)), "{:?}", server.how);
    let took = began.elapsed();
    assert!(took >= limit - Duration::from_secs(1) && took <= limit + Duration::from_secs(3), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_is_dead_and_one_that_answers_is_not() {
    let (mut peer, mut opener) = ByHand::to(LinkEnd::Opener).await;
    let began = Instant::now();
    // It answers for a minute.
    while began.elapsed() < Duration::from_secs(60) {
        peer.read().await;
        while let Some(heard) = peer.heard.pop_front() {
            let (0, Some(LinkFrame::Ping(token)), _) = heard else { panic!("{heard:?}") };
            peer.say(0, LinkFrame::Pong(token)).await;
        }
    }
    let silent = Instant::now();
    // Its kernel lives, and acknowledges at once: its delay would be of real time, and none passes here.
    let hears = async {
        let mut chunk = [0; 256];
        loop {
            let _ = socket2::SockRef::from(&peer.stream).set_tcp_quickack(true);
            let _ = peer.stream.read(&mut chunk).await;
        }
    };
    let loss = tokio::select! {
        loss = opener.ended() => loss,
        () = hears => unreachable!("it hears for ever"),
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
    let mut late = opener.handle.open(request(), side(near, &Arc::default()).into()).await.expect("it lives");
    let outcome = timeout(PATIENCE, late.outcome()).await.expect("in time");
    assert!(matches!(outcome.how, SessionFate::Unsent) && outcome.stream.is_some(), "{:?}", outcome.how);
    session.client.write_all(b"on it goes").await.expect("it is taken");
    session.client.shutdown().await.expect("it ends");
    assert_eq!(read_all(&mut session.backend).await, b"on it goes");
    session.backend.shutdown().await.expect("it ends");
    let ends = tokio::join!(finish(&mut session.opener), finish(&mut session.server));
    assert!(matches!(ends, (SessionFate::Clean, SessionFate::Clean)), "{ends:?}");
    assert_eq!((opener.ended().await, server.ended().await), (LinkLoss::Closed, LinkLoss::Closed));
}
