//! Moves against a peer whose bytes are written by hand: each step left out, doubled or false.

use super::*;
use crate::{
    link::multiplex::{moving::MoveTarget, parked::PARKED_TIMEOUT},
    proto::multiplex::frame::MoveTicket,
};

const MOVE: FrameType = FrameType::Move;

#[derive(Debug)]
pub(super) struct Target(pub LinkHandle, pub Arc<LinkLoad>);

impl MoveTargets for Target {
    fn next_target(&self) -> Option<MoveTarget> {
        Some(MoveTarget { handle: self.0.clone(), slot: self.1.take()? })
    }

    fn heavy_target(&self, _from: u64) -> Option<MoveTarget> {
        Some(MoveTarget { handle: self.0.clone(), slot: self.1.take_heavy()? })
    }
}

/// A server of ours with a session, whose opener the test plays.
pub(super) struct Carried {
    pub peer: RawPeer,
    server: Served,
    pub backend: TcpStream,
    pub session: SessionHandle,
    process: LinksOfProcess,
}

impl Carried {
    pub async fn new() -> Self {
        let process = LinksOfProcess::default();
        let (mut peer, mut server) = RawPeer::to_process(LinkEnd::Server, &process).await;
        let (backend, session) = opened(&mut peer, &mut server, 1).await;
        Self { peer, server, backend, session, process }
    }

    /// The server's answer to `move`, after these bytes of the opener's.
    async fn moves(&mut self, sent: u64) -> (u64, u32, MoveTicket) {
        moves_on(&mut self.peer, sent).await
    }

    pub async fn other_link(&self) -> (RawPeer, Served) {
        RawPeer::to_process(LinkEnd::Server, &self.process).await
    }
}

async fn moves_on(peer: &mut RawPeer, sent: u64) -> (u64, u32, MoveTicket) {
    peer.send(1, moves(sent)).await;
    match peer.receive().await {
        (1, Some(LinkFrame::Move { sent, credit, ticket }), _) => (sent, credit, ticket),
        other => panic!("{other:?}"),
    }
}

pub(super) fn moves(sent: u64) -> LinkFrame {
    LinkFrame::Move { sent, credit: 0, ticket: [0; 16] }
}

pub(super) fn resume(received: u64, credit: u32, ticket: MoveTicket) -> LinkFrame {
    LinkFrame::Resume { received, credit, ticket }
}

async fn opened(peer: &mut RawPeer, server: &mut Served, number: u32) -> (TcpStream, SessionHandle) {
    peer.send(number, open()).await;
    let (far, backend) = connected().await;
    let session = server.incoming().await.attach(side(far, &Arc::default()).into(), ()).await.handle;
    assert_eq!(peer.receive().await, (number, Some(LinkFrame::Opened), vec![]));
    (backend, session)
}

pub(super) async fn reads(stream: &mut TcpStream, bytes: &[u8]) {
    let mut received = vec![0; bytes.len()];
    timeout(PATIENCE, stream.read_exact(&mut received)).await.expect("in time").expect("bytes");
    assert_eq!(received, bytes);
}

async fn breaks(server: &mut Served, expected: PeerViolation) {
    assert_eq!(server.ended().await, LinkLoss::Broken(expected));
}

#[tokio::test]
async fn a_parked_session_goes_on_over_another_link_after_its_own_is_cut() {
    let mut carried = Carried::new().await;
    carried.peer.send_data(1, b"before").await;
    carried.backend.write_all(b"answer").await.expect("it is taken");
    reads(&mut carried.backend, b"before").await;
    assert_eq!(carried.peer.receive().await, (1, None, b"answer".to_vec()));
    let (sent, credit, ticket) = carried.moves(6).await;
    assert_eq!((sent, credit), (6, WINDOW_BYTES as u32));
    carried.backend.write_all(b"meanwhile").await.expect("it is taken");
    let (mut next, server) = carried.other_link().await;
    drop(carried.peer);
    carried.server.ended().await;
    next.send(1, resume(6, 4, ticket)).await;
    next.send_data(1, b"after").await;
    reads(&mut carried.backend, b"after").await;
    assert_eq!(next.receive().await, (1, None, b"mean".to_vec()), "no more than it was given");
    next.send(1, LinkFrame::Credit(6)).await;
    assert_eq!(next.receive().await, (1, None, b"while".to_vec()));
    next.send(1, LinkFrame::End).await;
    carried.backend.shutdown().await.expect("it ends");
    assert_eq!(next.receive().await, (1, Some(LinkFrame::End), vec![]));
    assert!(matches!(finish(&mut carried.session).await, SessionFate::Clean));
    drop(server);
}

#[tokio::test]
async fn a_session_that_does_not_go_on_ends_in_time_or_by_its_owner_or_by_a_reset() {
    let mut left = Carried::new().await;
    left.moves(0).await;
    let parked = left.process.parked.clone();
    assert_eq!(parked.count(), 1);
    tokio::time::pause();
    let began = Instant::now();
    let fate = left.session.outcome().await.fate;
    tokio::time::resume();
    assert!(matches!(fate, SessionFate::LinkLost(_)), "{fate:?}");
    let took = began.elapsed();
    assert!(
        took > PARKED_TIMEOUT - Duration::from_secs(1) && took < PARKED_TIMEOUT + Duration::from_secs(1),
        "{took:?}"
    );
    assert_eq!(parked.count(), 0);

    let mut cut = Carried::new().await;
    cut.moves(0).await;
    cut.session.cut(CutCause::Operator);
    assert!(timeout(PATIENCE, cut.backend.read(&mut [0; 1])).await.expect("in time").is_err(), "a reset");
    assert_eq!(cut.process.parked.count(), 0);

    let mut reset = Carried::new().await;
    reset.moves(0).await;
    reset.peer.send(1, LinkFrame::Reset(CutCause::Client)).await;
    let fate = finish(&mut reset.session).await;
    assert!(matches!(fate, SessionFate::Reset(CutCause::Client)), "{fate:?}");
    assert_eq!(reset.process.parked.count(), 0);
}

#[tokio::test]
async fn a_session_that_has_ended_meanwhile_is_reset_where_its_opener_goes_on() {
    let mut cut = Carried::new().await;
    let (_, _, ticket) = cut.moves(0).await;
    cut.session.cut(CutCause::Operator);
    assert!(timeout(PATIENCE, cut.backend.read(&mut [0; 1])).await.expect("in time").is_err(), "a reset");
    let (mut next, mut server) = RawPeer::to_process(LinkEnd::Server, &cut.process).await;
    let (mut beside, _session) = opened(&mut next, &mut server, 7).await;
    next.send(1, resume(0, 9, ticket)).await;
    next.send_data(1, &[1; WINDOW_BYTES]).await;
    next.send(1, LinkFrame::End).await;
    assert_eq!(next.receive().await, (1, Some(LinkFrame::Reset(CutCause::Operator)), vec![]));
    next.send_data(7, b"as ever").await;
    reads(&mut beside, b"as ever").await;
    next.send(1, resume(0, 9, ticket)).await;
    breaks(&mut server, PeerViolation::NotMoving(1)).await;
}

#[tokio::test]
async fn only_who_has_the_ticket_can_go_on_with_a_session_and_only_once() {
    let mut carried = Carried::new().await;
    let (_, _, ticket) = carried.moves(0).await;
    let mut other = ticket;
    other[15] ^= 1;
    for (number, ticket) in [(1, other), (1, [0; 16]), (2, ticket)] {
        let (mut thief, mut server) = carried.other_link().await;
        thief.send(number, resume(0, 65_536, ticket)).await;
        breaks(&mut server, PeerViolation::NotMoving(number)).await;
    }
    // On the link that it came from, too.
    carried.peer.send(1, resume(0, 65_536, ticket)).await;
    carried.peer.send_data(1, b"back").await;
    reads(&mut carried.backend, b"back").await;
    let (mut again, mut server) = carried.other_link().await;
    again.send(1, resume(0, 65_536, ticket)).await;
    breaks(&mut server, PeerViolation::NotMoving(1)).await;
    carried.peer.send(1, resume(0, 65_536, ticket)).await;
    breaks(&mut carried.server, PeerViolation::NotMoving(1)).await;
}

#[tokio::test]
async fn false_counts_and_moves_at_the_wrong_time_cost_the_link() {
    let mut more = Carried::new().await;
    more.peer.send(1, moves(1)).await;
    breaks(&mut more.server, PeerViolation::MovedBytes(1)).await;

    let mut less = Carried::new().await;
    less.backend.write_all(b"four").await.expect("it is taken");
    assert_eq!(less.peer.receive().await.2, b"four");
    let (_, _, ticket) = less.moves(0).await;
    let (mut next, mut server) = less.other_link().await;
    next.send(1, resume(3, 1, ticket)).await;
    breaks(&mut server, PeerViolation::MovedBytes(1)).await;
    assert!(matches!(finish(&mut less.session).await, SessionFate::LinkLost(_)));

    let mut never = Carried::new().await;
    never.peer.send(5, moves(0)).await;
    breaks(&mut never.server, PeerViolation::NeverOpened(5)).await;

    let mut early = Carried::new().await;
    early.peer.send(2, open()).await;
    early.peer.send(2, moves(0)).await;
    breaks(&mut early.server, PeerViolation::SessionState(MOVE, 2, SessionStage::Opening)).await;

    let mut data = Carried::new().await;
    data.moves(0).await;
    data.peer.send_data(1, b"late").await;
    breaks(&mut data.server, PeerViolation::TooMany("bytes for sessions that have ended")).await;

    let mut twice = Carried::new().await;
    twice.moves(0).await;
    for _ in 0..17 {
        twice.peer.send(1, moves(0)).await;
    }
    breaks(&mut twice.server, PeerViolation::TooMany("frames for sessions that have ended")).await;
}

#[tokio::test]
async fn thousands_of_moves_change_nothing_and_leave_nothing_behind() {
    let mut carried = Carried::new().await;
    let (mut next, _server) = carried.other_link().await;
    for round in 0..3000_u32 {
        let sent = u64::from(round);
        let (_, _, ticket) = carried.moves(sent).await;
        let mut back = ticket;
        if round % 2 == 1 {
            next.send(1, resume(sent, 65_536, ticket)).await;
            back = moves_on(&mut next, sent).await.2;
        }
        carried.peer.send(1, resume(sent, 65_536, back)).await;
        carried.peer.send_data(1, &[round as u8]).await;
        carried.backend.write_all(&[!round as u8]).await.expect("it is taken");
        reads(&mut carried.backend, &[round as u8]).await;
        while carried.peer.receive().await != (1, None, vec![!round as u8]) {}
    }
    assert_eq!((carried.process.parked.count(), carried.server.load.sessions()), (0, 1));
}

#[tokio::test]
async fn a_link_takes_no_more_moved_sessions_than_twice_what_it_carries() {
    let mut carried = Carried::new().await;
    let (mut next, mut server) = carried.other_link().await;
    let slots: Vec<_> = std::iter::from_fn(|| server.load.take_for_move(SessionWeight::Light)).collect();
    assert_eq!(slots.len(), 2 * server.load.max());
    let (_, _, ticket) = carried.moves(0).await;
    next.send(1, resume(0, 1, ticket)).await;
    breaks(&mut server, PeerViolation::TooMany("sessions moved to one link")).await;
}

/// An opener of ours with an answered session, whose server the test plays.
pub(super) async fn moving_opener(process: &LinksOfProcess) -> (RawPeer, Served, TcpStream, SessionHandle) {
    let (mut peer, opener) = RawPeer::to_process(LinkEnd::Opener, process).await;
    let (client, near) = connected().await;
    let slot = opener.load.take().expect("it is empty");
    let opened = opener.handle.open(request(), side(near, &Arc::default()).into(), slot).await;
    assert!(matches!(peer.receive().await.1, Some(LinkFrame::Open(_))));
    peer.send(1, LinkFrame::Opened).await;
    let mut session = opened.expect("the link lives");
    session.answered().await;
    (peer, opener, client, session)
}

async fn asks_to_move(peer: &mut RawPeer, opener: &Served, to: &Served) {
    let target = Arc::new(Target(to.handle.clone(), to.load.clone()));
    opener.moves.send(target).await.expect("it lives");
    assert_eq!(peer.receive().await, (0, Some(LinkFrame::Retire), vec![]));
    assert_eq!(peer.receive().await, (1, Some(moves(0)), vec![]));
}

#[tokio::test]
async fn an_opener_sends_nothing_behind_its_move_and_takes_what_comes_before_the_answer() {
    let process = LinksOfProcess::default();
    let (mut peer, mut opener, mut client, mut session) = moving_opener(&process).await;
    let (mut other, next) = RawPeer::to_process(LinkEnd::Opener, &process).await;
    asks_to_move(&mut peer, &opener, &next).await;
    client.write_all(b"up").await.expect("it is taken");
    client.shutdown().await.expect("it ends");
    peer.send_data(1, b"down").await;
    reads(&mut client, b"down").await;
    peer.send(1, LinkFrame::Credit(9)).await;
    peer.send(0, LinkFrame::Ping(*b"nothing?")).await;
    assert_eq!(peer.receive().await, (0, Some(LinkFrame::Pong(*b"nothing?")), vec![]));
    peer.send(1, LinkFrame::Move { sent: 4, credit: 1, ticket: [5; 16] }).await;
    let resumed = resume(4, WINDOW_BYTES as u32, [5; 16]);
    assert_eq!(other.receive().await, (1, Some(resumed), vec![]));
    assert_eq!(other.receive().await, (1, None, b"u".to_vec()), "its credit begins again");
    other.send(1, LinkFrame::Credit(2)).await;
    assert_eq!(other.receive().await, (1, None, b"p".to_vec()));
    assert_eq!(other.receive().await, (1, Some(LinkFrame::End), vec![]));
    other.send(1, LinkFrame::End).await;
    assert!(matches!(finish(&mut session).await, SessionFate::Clean));
    drop(peer);
    assert!(matches!(opener.ended().await, LinkLoss::Closed | LinkLoss::Socket(_)));
}

#[tokio::test]
async fn an_opener_goes_on_where_the_server_keeps_the_session() {
    let process = LinksOfProcess::default();
    let (mut peer, opener, mut client, _session) = moving_opener(&process).await;
    let (_other, next) = RawPeer::to_process(LinkEnd::Opener, &process).await;
    asks_to_move(&mut peer, &opener, &next).await;
    client.write_all(b"up").await.expect("it is taken");
    peer.send(1, LinkFrame::Opened).await;
    assert_eq!(peer.receive().await, (1, None, b"up".to_vec()), "with the credit that it had");
    peer.send_data(1, b"down").await;
    reads(&mut client, b"down").await;
}

#[tokio::test]
async fn a_session_whose_other_link_is_gone_stays_on_its_own() {
    let process = LinksOfProcess::default();
    let (mut peer, opener, mut client, _session) = moving_opener(&process).await;
    let (other, mut next) = RawPeer::to_process(LinkEnd::Opener, &process).await;
    asks_to_move(&mut peer, &opener, &next).await;
    drop(other);
    next.ended().await;
    peer.send(1, LinkFrame::Move { sent: 0, credit: 100, ticket: [5; 16] }).await;
    assert!(matches!(peer.receive().await, (1, Some(LinkFrame::Resume { received: 0, .. }), _)));
    client.write_all(b"still here").await.expect("it is taken");
    assert_eq!(peer.receive().await, (1, None, b"still here".to_vec()));
}

#[tokio::test]
async fn a_session_whose_other_link_has_ended_in_good_order_stays_on_its_own() {
    let process = LinksOfProcess::default();
    let (mut peer, opener, mut client, _session) = moving_opener(&process).await;
    let (mut other, next) = RawPeer::to_process(LinkEnd::Opener, &process).await;
    asks_to_move(&mut peer, &opener, &next).await;
    // It leaves with nothing on it, so it ends; its peer has not closed its direction yet.
    next.handle.leave(FrameType::Retire).await;
    assert_eq!(other.receive().await, (0, Some(LinkFrame::Retire), vec![]));
    assert_eq!(other.stream.read(&mut [0; 1]).await.expect("a clean end"), 0);
    peer.send(1, LinkFrame::Move { sent: 0, credit: 100, ticket: [5; 16] }).await;
    assert!(matches!(peer.receive().await, (1, Some(LinkFrame::Resume { received: 0, .. }), _)));
    client.write_all(b"still here").await.expect("it is taken");
    assert_eq!(peer.receive().await, (1, None, b"still here".to_vec()));
}

#[tokio::test]
async fn an_opener_loses_a_session_with_the_link_that_it_is_on() {
    // Before the answer, and after `resume`.
    for is_answered in [false, true] {
        let process = LinksOfProcess::default();
        let (mut peer, opener, _client, mut session) = moving_opener(&process).await;
        let (mut other, next) = RawPeer::to_process(LinkEnd::Opener, &process).await;
        asks_to_move(&mut peer, &opener, &next).await;
        if is_answered {
            peer.send(1, LinkFrame::Move { sent: 0, credit: 100, ticket: [5; 16] }).await;
            assert!(matches!(other.receive().await.1, Some(LinkFrame::Resume { .. })));
            drop(other);
        } else {
            drop(peer);
        }
        assert!(matches!(finish(&mut session).await, SessionFate::LinkLost(_)));
    }
}

#[tokio::test]
async fn a_server_that_answers_falsely_loses_the_link() {
    for (frame, expected) in [
        (moves(1), PeerViolation::MovedBytes(1)),
        (resume(0, 0, [0; 16]), PeerViolation::LinkState(FrameType::Resume, LinkStage::Leaving)),
    ] {
        let process = LinksOfProcess::default();
        let (mut peer, mut opener, _client, mut session) = moving_opener(&process).await;
        let (_other, next) = RawPeer::to_process(LinkEnd::Opener, &process).await;
        asks_to_move(&mut peer, &opener, &next).await;
        peer.send(1, frame).await;
        assert!(matches!(finish(&mut session).await, SessionFate::LinkLost(_)));
        breaks(&mut opener, expected).await;
    }
    let process = LinksOfProcess::default();
    let (mut peer, mut opener, _client, _session) = moving_opener(&process).await;
    peer.send(1, moves(0)).await;
    breaks(&mut opener, PeerViolation::SessionState(MOVE, 1, SessionStage::Carrying)).await;
}

#[tokio::test]
async fn a_link_whose_peer_is_revoked_takes_no_session_any_more() {
    let mut carried = Carried::new().await;
    let (_, _, ticket) = carried.moves(0).await;
    let (ours, theirs) = connected().await;
    let peer = Peer { name: None, address: "peer".into(), instance: None };
    let (end, load, parked) = (LinkEnd::Server, LinkLoad::new(8), carried.process.parked.clone());
    let stream = NetStream::Tcp(ours);
    let parts = LinkParts { id: next_link_id(), stream, peer, end, load, numbers: Arc::default(), parked };
    let (mut link, _handle) = MultiplexedLink::new(parts);
    link.revoke();
    let decoder = FrameReader::new(LinkEnd::Server);
    let mut peer = RawPeer { stream: theirs, decoder, received: Default::default() };
    let answered = async {
        peer.send(1, resume(0, 9, ticket)).await;
        while peer.receive().await != (1, Some(LinkFrame::Reset(CutCause::Policy)), vec![]) {}
    };
    let driven = async {
        loop {
            link.next_event().await;
        }
    };
    tokio::select! {
        () = answered => {}
        () = driven => unreachable!("it never ends"),
    }
    let fate = finish(&mut carried.session).await;
    assert!(matches!(fate, SessionFate::Reset(CutCause::Policy)), "{fate:?}");
}
