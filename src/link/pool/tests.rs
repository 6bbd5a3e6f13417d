//! Tests of the pool.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{contents::ENTRIES_MAX, *};
use crate::{
    link::{
        agreement::{self, Agreement},
        grants::granting,
        keeper::STABLE_PERIOD,
        link_services::LinkServices,
        peer_links::take_looks,
        peer_record::PeerRecord,
        shares::ShareRule,
    },
    profile::{Carries, defaults::WAIT},
    proto::multiplex::{
        frame::{HEADER_BYTES, LinkFrame},
        hello::{InstanceId, OfferState, OpenerHello, ServerHello, ServiceOffer},
        state::LinkEnd,
    },
    telemetry::snapshot::PoolState,
    tests::happens_after,
};

const NOBODY: &[Peer] = &[];
const HOUR: Duration = Duration::from_secs(3600);

fn orders() -> ServiceName {
    ServiceName::parse("orders").expect("a name")
}

fn peer(number: usize) -> Peer {
    Peer { name: Some(format!("peer-{number}").into()), address: "192.0.2.1".into(), instance: None }
}

fn pool() -> Arc<Pool> {
    let wait = Duration::from_millis(1);
    pool_of(LINKS_MAX, wait)
}

fn pool_of(links: usize, wait: Duration) -> Arc<Pool> {
    let shares = GatewayShares::new(links, ShareRule::Divided(1));
    Pool::new(
        PoolLimits { prepared: 1, wait, waiters: 1, retire: Duration::from_secs(3600), links_per_peer: None },
        shares,
        Tasks::default(),
    )
}

/// Parks a link that never sends anything; returns false if it is rejected.
fn parks(pool: &Arc<Pool>, number: usize) -> bool {
    let of_peer = pool.share_for(&peer(number)).map(|share| (peer(number), share));
    of_peer.is_some_and(|of_peer| pool.park(of_peer, orders(), NetStream::Echo(Box::default())).is_ok())
}

/// A pool with a ready link of as many peers as possible.
fn full() -> Arc<Pool> {
    let pool = pool();
    assert!((0..ENTRIES_MAX).all(|number| parks(&pool, number)));
    pool
}

/// Takes every ready link, with its peer.
fn take_all(pool: &Pool) -> Vec<AcquiredLink> {
    std::iter::from_fn(|| pool.take_ready(&orders(), NOBODY)).collect()
}

fn names(taken: &[AcquiredLink]) -> std::collections::HashSet<Peer> {
    taken.iter().map(|taken| taken.peer.clone()).collect()
}

/// An established link of our own, with room for two sessions, and its peer's end.
async fn linked(number: usize) -> (EstablishedLink, TcpStream) {
    linked_for(number, orders()).await
}

/// A link of a peer that serves this service.
async fn linked_for(number: usize, service: ServiceName) -> (EstablishedLink, TcpStream) {
    linked_of(peer(number), service).await
}

async fn linked_of(peer: Peer, service: ServiceName) -> (EstablishedLink, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = listener.local_addr().expect("it is bound");
    let (theirs, ours) = tokio::join!(TcpStream::connect(at), listener.accept());
    let (theirs, ours) = (theirs.expect("it connects"), ours.expect("it connects").0);
    let (about, name, carries) = (agreement::about(), service.clone(), Carries::Bytes);
    let offer = ServerHello {
        about: about.clone(),
        links_kept: 1,
        links_max: 8,
        sessions_per_link: 2,
        services: vec![ServiceOffer { name, carries, state: OfferState::Open }],
    };
    let grant = OpenerHello { about, links_kept: 0, links_max: 8, granted: vec![service.clone()] };
    let retired = CancellationToken::new();
    let grants = granting([&service, &orders()]);
    let serves = LinkServices::of_opener(&offer.services, grants, peer.clone());
    let agreed = Agreement { end: LinkEnd::Opener, sessions_max: 2, serves, retire: HOUR, retired };
    let link = AgreedLink::new(NetStream::Tcp(ours), peer, agreed);
    (EstablishedLink { link, offer, grant, mismatches: Vec::new() }, theirs)
}

const RETIRE: [u8; HEADER_BYTES] = [FrameType::Retire as u8, 0, 0, 0, 0, 0, 0, 0];

async fn read_all(theirs: &mut TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    let reading = timeout(Duration::from_secs(5), theirs.read_to_end(&mut received)).await;
    assert!(matches!(reading, Ok(Ok(_))), "{reading:?}");
    received
}

#[tokio::test(start_paused = true)]
async fn clients_of_a_dead_service_leave_places_for_those_of_others() {
    let limits = PoolLimits {
        prepared: 1,
        wait: Duration::from_secs(3),
        waiters: 8,
        retire: Duration::from_secs(3600),
        links_per_peer: None,
    };
    let dead = ServiceName::parse("dead").expect("a name");
    for (of_live, expected) in [(0, [8, 0, 0]), (1, [7, 1, 1]), (20, [4, 4, 4])] {
        let shares = GatewayShares::new(LINKS_MAX, ShareRule::Divided(1));
        let pool = Pool::new(limits, shares, Tasks::default());
        let live = orders();
        let take = async |service: &ServiceName, clients: usize| {
            let takes = (0..clients).map(|_| pool.take(service, NOBODY));
            futures_util::future::join_all(takes).await
        };
        // Clients of the dead service come first.
        let (dead, live) = tokio::join!(take(&dead, 20), take(&live, of_live));
        let late = |taken: &[Result<AcquiredLink, TakeError>]| {
            taken.iter().filter(|taken| matches!(taken, Err(TakeError::Late(_)))).count()
        };
        let displaced = dead.iter().filter(|taken| matches!(taken, Err(TakeError::Displaced(_)))).count();
        assert_eq!([late(&dead), late(&live), displaced], expected, "{of_live} of the live one");
    }
}

#[tokio::test]
async fn a_pool_with_all_its_peers_refuses_another_and_keeps_their_links() {
    let pool = full();
    assert!(!parks(&pool, ENTRIES_MAX), "one too many");
    assert!(parks(&pool, 7), "a peer that is known may bring more");
    let taken = take_all(&pool);
    assert_eq!((taken.len(), names(&taken).len()), (ENTRIES_MAX + 1, ENTRIES_MAX));
}

#[tokio::test]
async fn a_peer_whose_links_carry_or_leave_keeps_its_place() {
    let pool = full();
    let mut taken = take_all(&pool);
    assert!(!parks(&pool, ENTRIES_MAX), "all of them carry");
    for taken in &mut taken {
        let AcquiredSide::Parked(_, guard) = &mut taken.side else { panic!("{taken:?}") };
        guard.mark_leaving();
    }
    assert!(!parks(&pool, ENTRIES_MAX), "all of them leave");
    let removed = taken.pop().expect("there are some").peer;
    assert!(parks(&pool, ENTRIES_MAX), "{removed:?} has no links any more");
    assert!(!parks(&pool, ENTRIES_MAX + 1));
    assert_eq!(names(&take_all(&pool)), [peer(ENTRIES_MAX)].into());
}

#[tokio::test]
async fn a_newcomer_with_a_link_of_our_own_is_asked_to_go_and_closed() {
    let pool = full();
    let (newcomer, mut theirs) = linked(ENTRIES_MAX).await;
    let refused = pool.take_in(newcomer).expect_err("there is no room");
    pool.tasks.spawn("refused", refused.close_gracefully(FrameType::Retire));
    // `retire`, and nothing else.
    assert_eq!(read_all(&mut theirs).await, RETIRE);
    assert_eq!(take_all(&pool).len(), ENTRIES_MAX);
}

#[tokio::test]
async fn a_peer_that_dials_without_end_gets_what_its_hello_says_and_no_more_than_its_share() {
    let (pool, mut theirs) = (pool(), Vec::new());
    let mut stands = |of: &Arc<Pool>, (linked, end): (EstablishedLink, TcpStream)| {
        theirs.push(end);
        of.take_in(linked).is_ok()
    };
    for at in 0..12 {
        // The peer keeps one ready, and has room for eight.
        assert_eq!(stands(&pool, linked(0).await), at < 9, "link {at}");
    }
    assert!(stands(&pool, linked(1).await), "another peer has its own");
    let few = GatewayShares::new(6, ShareRule::HalfOfTheRest);
    let limits = PoolLimits {
        prepared: 1,
        wait: Duration::ZERO,
        waiters: 1,
        retire: Duration::from_secs(3600),
        links_per_peer: None,
    };
    let pool = Pool::new(limits, few, Tasks::default());
    for at in 0..6 {
        assert_eq!(stands(&pool, linked(0).await), at < 3, "link {at}");
    }
    assert!(stands(&pool, linked(1).await));
    assert!(!parks(&pool, 0) && parks(&pool, 1), "over SOCKS5 too");
}

#[tokio::test]
async fn a_newcomer_that_was_dialled_is_asked_to_go_and_closed() {
    let pool = full();
    let (newcomer, mut theirs) = linked(ENTRIES_MAX).await;
    assert!(pool.take_in_dialled(newcomer, &Arc::default()).is_none());
    assert_eq!(read_all(&mut theirs).await, RETIRE);
}

#[tokio::test]
async fn a_link_that_ends_right_after_its_handshake_is_reported_lost() {
    for writer in [None, Some(LinkFrame::Retire), Some(LinkFrame::Drain)] {
        let pool = pool();
        let (linked, mut theirs) = linked(0).await;
        if let Some(writer) = &writer {
            let mut sent = Vec::new();
            writer.push(&mut sent, 0);
            theirs.write_all(&sent).await.expect("it is taken");
        }
        theirs.shutdown().await.expect("it ends");
        // It has arrived before anybody looks.
        linked.link.tcp().expect("it is one").readable().await.expect("it lives");
        let kept = pool.take_in_dialled(linked, &Arc::default()).expect("there is room");
        let LinkLost { lifetime, why } = timeout(Duration::from_secs(5), kept).await.expect("it ends");
        assert!(pool.take_ready(&orders(), NOBODY).is_none());
        assert!(lifetime < STABLE_PERIOD, "{lifetime:?}");
        let is_reported = matches!(
            (&writer, &why),
            (Some(LinkFrame::Drain), IdleLossReason::Drained) | (_, IdleLossReason::Failed(_))
        );
        assert!(is_reported, "{writer:?}: {why:?}");
    }
}

#[tokio::test]
async fn a_session_takes_the_link_with_the_least_to_do_and_waits_where_all_are_full() {
    let pool = pool_of(LINKS_MAX, Duration::from_secs(5));
    let ((one, _one), (other, _other)) = (linked(0).await, linked(0).await);
    let loads = [one.link.load().clone(), other.link.load().clone()];
    for newcomer in [one, other] {
        assert!(pool.take_in(newcomer).is_ok());
    }
    let mut taken = Vec::new();
    for expected in [[1, 0], [1, 1], [2, 1], [2, 2]] {
        taken.push(pool.take(&orders(), NOBODY).await.expect("there is room"));
        let mut sessions = [loads[0].sessions(), loads[1].sessions()];
        sessions.sort_unstable_by(|one, other| other.cmp(one));
        assert_eq!(sessions, expected);
    }
    assert!(pool.take_ready(&orders(), NOBODY).is_none(), "both are full");
    let service = orders();
    let waiting = pool.take(&service, NOBODY);
    let ending = async {
        tokio::task::yield_now().await;
        drop(taken.pop());
    };
    let (served, ()) = tokio::join!(waiting, ending);
    served.expect("a session has ended");
}

#[tokio::test]
async fn a_link_for_bulk_takes_a_new_session_where_no_other_does() {
    let pool = pool();
    let ((one, _one), (bulk, _bulk)) = (linked(0).await, linked(0).await);
    let (load, bulk_load) = (one.link.load().clone(), bulk.link.load().clone());
    for newcomer in [one, bulk] {
        assert!(pool.take_in(newcomer).is_ok());
    }
    let _heavy = bulk_load.take_heavy().expect("there is room");
    let mut taken = Vec::new();
    for expected in [[1, 1], [2, 1], [2, 2]] {
        taken.extend(pool.take_ready(&orders(), NOBODY));
        assert_eq!([&load, &bulk_load].map(|load| load.sessions()), expected);
    }
    assert!(pool.take_ready(&orders(), NOBODY).is_none(), "both are full");
}

#[tokio::test]
async fn a_session_moves_to_a_link_of_the_same_process_at_whatever_address() {
    let (pool, mut theirs) = (pool(), Vec::new());
    let instance = |number: u8| Some(InstanceId([number; 16]));
    let at = |address: &str, number| Peer { address: address.into(), instance: instance(number), ..peer(0) };
    let mut take_in = async |of: Peer| {
        let (linked, end) = linked_of(of, orders()).await;
        let id = linked.link.handle().id();
        assert!(pool.take_in(linked).is_ok());
        theirs.push(end);
        id
    };
    let (here, other) = (at("192.0.2.1", 1), at("192.0.2.2", 1));
    take_in(at("192.0.2.1", 2)).await;
    let targets = pool.other_links(&here);
    let next = || targets.next_target().map(|target| target.handle.id());
    assert_eq!(next(), None, "another process of its name");
    let elsewhere = take_in(other).await;
    assert_eq!(next(), Some(elsewhere));
    let own = take_in(here.clone()).await;
    assert_eq!(next(), Some(own), "those at its address come first");
}

#[tokio::test]
async fn of_two_processes_of_one_name_only_the_one_that_answers_nothing_rests() {
    let (pool, mut theirs) = (pool(), Vec::new());
    let at = |address: &str, number: u8| Peer {
        address: address.into(),
        instance: Some(InstanceId([number; 16])),
        ..peer(0)
    };
    let mut take_in = async |of: Peer| {
        let (linked, end) = linked_of(of, orders()).await;
        assert!(pool.take_in(linked).is_ok());
        theirs.push(end);
    };
    let sick = [at("192.0.2.2", 2), at("192.0.2.3", 2)];
    take_in(at("192.0.2.1", 1)).await;
    take_in(sick[0].clone()).await;
    take_in(sick[1].clone()).await;
    // A link has room for two sessions, so each of them ends at once.
    let take = |not: &[Peer]| {
        let taken = pool.take_ready(&orders(), not).expect("it is served");
        let AcquiredSide::Slot(slot) = taken.side else { panic!("it is a link of our own") };
        (taken.peer, slot.record)
    };
    let of_honest = |(peer, _): &(Peer, Arc<PeerRecord>)| peer.address.as_ref() == "192.0.2.1";
    let first: Vec<_> = (0..4).map(|_| take(NOBODY)).collect();
    assert_eq!(first.iter().filter(|taken| of_honest(taken)).count(), 2, "processes take turns");
    assert!(pool.has_other_peer_for(&orders(), &sick[..1]));
    assert!(of_honest(&take(&sick[..1])) && of_honest(&take(&sick[..1])), "another process is tried");
    let (honest, answers) = take(&sick[..1]);
    assert!(!pool.has_other_peer_for(&orders(), &[honest, sick[1].clone()]));
    // Each answer of the honest one says nothing about the other.
    let mut of_sick = first.iter().filter(|taken| !of_honest(taken)).cycle();
    let notes = (0..3).map(|_| {
        answers.note_answered();
        of_sick.next().is_some_and(|(_, record)| record.note_unanswered())
    });
    assert_eq!(notes.collect::<Vec<_>>(), [false, false, true]);
    answers.note_answered();
    assert!((0..6).all(|_| of_honest(&take(NOBODY))), "it rests, wherever it dials from");
    let shown: Vec<_> = pool.rows([].iter()).into_iter().map(|row| (row.state, row.last_error)).collect();
    assert_eq!(shown[0], (PoolState::Healthy, None));
    for (state, error) in &shown[1..] {
        assert_eq!(*state, PoolState::Filling);
        assert!(error.as_ref().is_some_and(|error| error.contains("unanswered")), "{error:?}");
    }
}

#[tokio::test]
async fn a_session_looks_at_no_link_of_a_peer_that_does_not_serve_it() {
    let (pool, mut theirs) = (pool_of(LINKS_MAX, Duration::from_secs(5)), Vec::new());
    let other = ServiceName::parse("other").expect("a name");
    let mut take_in = |(newcomer, end): (EstablishedLink, TcpStream)| {
        theirs.push(end);
        let handle = newcomer.link.serves().clone();
        assert!(pool.take_in(newcomer).is_ok());
        handle
    };
    let mut crowd = Vec::new();
    for _ in 0..9 {
        crowd.push(take_in(linked_for(0, other.clone()).await));
    }
    take_in(linked(1).await);
    take_looks();
    let taken = pool.take_ready(&orders(), NOBODY).expect("it is served");
    assert_eq!((taken.peer, take_looks()), (peer(1), 2), "one asks whether it can, one for the place");
    assert!(pool.take_ready(&orders(), &[peer(1)]).is_none() && pool.service_closed(&orders()).is_none());
    assert!(take_looks() <= 1, "and the crowd costs none");
    // What the crowd now offers is found, and what it no longer offers is not.
    for link in &crowd {
        let offer =
            |name: ServiceName| ServiceOffer { name, carries: Carries::Bytes, state: OfferState::Open };
        link.note_offer(&[offer(orders())]);
    }
    let keys: Vec<_> = (1..=9).collect();
    keys.into_iter().for_each(|link| pool.note_offer_change(&peer(0), link, &[]));
    assert_eq!(pool.take_ready(&orders(), &[peer(1)]).map(|taken| taken.peer), Some(peer(0)));
    assert!(pool.take_ready(&other, NOBODY).is_none());
    (1..=9).for_each(|link| pool.remove_link(&peer(0), link, |_| {}));
    assert!(pool.take_ready(&orders(), &[peer(1)]).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_client_waits_as_long_as_it_may_and_no_longer() {
    let pool = pool_of(LINKS_MAX, WAIT);
    let service = orders();
    let taken = happens_after(WAIT, pool.take(&service, NOBODY)).await;
    assert!(matches!(taken, Err(TakeError::Late(WAIT))), "{:?}", taken.err());
}
