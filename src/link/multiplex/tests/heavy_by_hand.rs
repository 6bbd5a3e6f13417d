//! Heavy sessions against a peer whose bytes are written by hand: what each end says of them, and what it gives them.

use super::{
    moved_by_hand::{Carried, Target, moves, moving_opener, reads, resume},
    *,
};
use crate::{link::liveness::PING_INTERVAL, proto::multiplex::frame::HEAVY_SESSION};

#[tokio::test]
async fn a_link_is_for_bulk_at_the_server_while_a_session_is_there_that_its_opener_has_called_heavy() {
    for (reason, expected) in [(HEAVY_SESSION, true), ([0; 16], false), ([1; 16], false)] {
        let mut carried = Carried::new().await;
        let (mut next, server) = carried.other_link().await;
        carried.peer.send(1, LinkFrame::Move { sent: 0, credit: 0, ticket: reason }).await;
        let (1, Some(LinkFrame::Move { ticket, .. }), _) = carried.peer.receive().await else {
            panic!("it may leave")
        };
        next.send(1, resume(0, 9, ticket)).await;
        next.send_data(1, b"goes on").await;
        reads(&mut carried.backend, b"goes on").await;
        assert_eq!((server.load.is_for_bulk(), server.load.sessions()), (expected, 1), "{reason:?}");
        next.send(1, LinkFrame::Reset(CutCause::Client)).await;
        finish(&mut carried.session).await;
        assert_eq!((server.load.is_for_bulk(), server.load.sessions()), (false, 0));
    }
}

#[tokio::test]
async fn a_wide_window_is_as_wide_behind_a_move() {
    let mut carried = Carried::new().await;
    let (mut credit, mut sent, bytes) = (WINDOW_BYTES, 0, vec![7; 16_384]);
    while sent < 2_000_000 {
        match credit >= bytes.len() {
            true => {
                carried.peer.send_data(1, &bytes).await;
                reads(&mut carried.backend, &bytes).await;
                (sent, credit) = (sent + bytes.len(), credit - bytes.len());
            }
            false => match carried.peer.receive().await {
                (1, Some(LinkFrame::Credit(more)), _) => credit += more as usize,
                other => panic!("{other:?}"),
            },
        }
    }
    // Credit of before may be on its way.
    carried.peer.send(1, moves(sent as u64)).await;
    let (given, ticket) = loop {
        match carried.peer.receive().await.1 {
            Some(LinkFrame::Credit(_)) => {}
            Some(LinkFrame::Move { credit, ticket, .. }) => break (credit, ticket),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(given as usize, WINDOW_BYTES, "no more while it is parked");
    let (mut next, _server) = carried.other_link().await;
    next.send(1, resume(0, 9, ticket)).await;
    let (1, Some(LinkFrame::Credit(more)), _) = next.receive().await else { panic!("it had more") };
    let window = WINDOW_BYTES + more as usize;
    assert!((4 * WINDOW_BYTES..=WINDOW_BYTES_MAX).contains(&window), "{window}");
    for _ in 0..window / bytes.len() {
        next.send_data(1, &bytes).await;
        reads(&mut carried.backend, &bytes).await;
    }
}

#[tokio::test]
async fn a_heavy_session_that_its_server_keeps_is_not_asked_for_again_and_goes_on() {
    let process = LinksOfProcess::default();
    let (mut peer, opener, client, _session) = moving_opener(&process).await;
    let (_light, near) = connected().await;
    let slot = opener.load.take().expect("there is room");
    let _light_session = opener.handle.open(request(), side(near, &Arc::default()).into(), slot).await;
    assert!(matches!(peer.receive().await, (2, Some(LinkFrame::Open(_)), _)));
    peer.send(2, LinkFrame::Opened).await;
    let (_other, next) = RawPeer::to_process(LinkEnd::Opener, &process).await;
    opener.leaves.send(Arc::new(Target(next.handle.clone(), next.load.clone()))).await.expect("it lives");
    let (stops, mut client) = (CancellationToken::new(), client);
    let writing = async {
        while !stops.is_cancelled() {
            client.write_all(&payload(0, 50_000)).await.expect("the session stands");
        }
    };
    let serving = async {
        let (began, mut received, mut asked) = (Instant::now(), 0, 0);
        while began.elapsed() < 5 * PING_INTERVAL {
            match peer.receive().await {
                (1, None, bytes) => {
                    assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == block_byte(received + at)));
                    received += bytes.len();
                    peer.send(1, LinkFrame::Credit(bytes.len() as u32)).await;
                }
                (1, Some(LinkFrame::Move { sent, ticket, .. }), _) => {
                    assert_eq!((sent, ticket), (received as u64, HEAVY_SESSION));
                    assert!(next.load.is_for_bulk(), "its place is kept meanwhile");
                    asked += 1;
                    peer.send(1, LinkFrame::Opened).await;
                }
                other => panic!("{other:?}"),
            }
        }
        stops.cancel();
        asked
    };
    let asked = tokio::select! {
        asked = serving => asked,
        () = async { writing.await; std::future::pending().await } => unreachable!("it waits"),
    };
    assert_eq!((asked, next.load.is_for_bulk()), (1, false));
}

fn block_byte(at: usize) -> u8 {
    let at = at % 50_000;
    ((at * 31) ^ (at >> 9)) as u8
}
