//! Sessions: every byte, every limit, every way to end.

use std::time::Duration;

use portcullis::{
    gateway::handle::Command,
    profile::Mode,
    telemetry::snapshot::{SessionPhase, Snapshot, TrafficTotals},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{interval, timeout},
};

use crate::support::{
    gateway::TestFolder,
    mode_pair::{DMZ_TLS, INTERNAL_TLS, MODES, Plan},
    peers::{
        Backend, Reserved, dial, dial_refused, expect_bytes, expect_end, expect_reset, read_all, seed, send,
    },
    socks::{BIND, link, reply_at},
};

const PAYLOAD_BYTES_MAX: usize = 4 * 1024 * 1024;

#[tokio::test]
async fn more_sessions_than_the_limit_are_refused_at_once() {
    for mode in MODES {
        let plan = Plan { dmz_service: ", sessions: 2", ..Plan::new(mode, "echo://") };
        let pair = plan.start().await;
        let mut open = vec![pair.client().await, pair.client().await];
        for client in &mut open {
            send(client, b"a").await;
            expect_bytes(client, b"a").await;
        }
        dial_refused(pair.dmz.client_port("orders").await).await;
        assert_eq!(
            pair.dmz.until_ended("LA").await.reason,
            "the limit of 2 open sessions (`sessions`) is reached"
        );
        let mut first = open.remove(0);
        first.shutdown().await.unwrap();
        expect_end(&mut first).await;
        pair.dmz.until("one open", |snapshot| snapshot.totals.sessions_open == 1).await;
        let mut next = pair.client().await;
        send(&mut next, b"b").await;
        expect_bytes(&mut next, b"b").await;
        let expected = TrafficTotals {
            sessions_open: 2,
            sessions_waiting: 0,
            sessions: 3,
            refused: 1,
            bytes_up: 3,
            bytes_down: 3,
        };
        assert_eq!(pair.dmz.now().await.totals, expected, "{mode:?}");
    }
}

#[tokio::test]
async fn failed_sessions_are_grouped_by_cause_on_both_halves() {
    let nobody = Reserved::new();
    let pair = Plan::new(Mode::Reverse, &format!("tcp://{}", nobody.at())).start().await;
    for _ in 0..3 {
        dial_refused(pair.dmz.client_port("orders").await).await;
    }
    for gateway in [&pair.dmz, pair.inner()] {
        let shown =
            gateway.until("three failures", |shown| shown.failures.iter().any(|row| row.count == 3)).await;
        let [row] = &shown.failures[..] else { panic!("{:?}", shown.failures) };
        let last = shown.ended.iter().find(|ended| ended.id == row.session).unwrap();
        assert_eq!((&*row.service, &*row.end, &row.reason), ("orders", "BC", &last.reason));
        assert_eq!((&row.client, &row.peer), (&last.client, &last.peer));
        assert!(row.first < row.last && row.ago_seconds < 60.0, "{row:?}");
        assert_eq!(shown.failures_left_out, 0);
    }
}

#[tokio::test]
async fn idle_ends_a_silent_session_and_not_one_that_makes_progress() {
    let plan = Plan { dmz_service: ", idle: 400ms", ..Plan::new(Mode::Reverse, "echo://") };
    let pair = plan.start().await;
    let mut client = pair.client().await;
    let mut beats = interval(Duration::from_millis(100));
    for _ in 0..10 {
        beats.tick().await;
        send(&mut client, b"x").await;
        expect_bytes(&mut client, b"x").await;
    }
    expect_reset(&mut client).await;
    let row = pair.dmz.until_ended("TR").await;
    assert_eq!((row.bytes_up, row.bytes_down, row.reason.as_str()), (10, 10, "no byte either way for 400ms"));
    assert!((0.9..3.0).contains(&row.seconds), "{row:?}");
}

/// Writes until nothing is taken for a while; how much was.
async fn fill(stream: &mut TcpStream) -> u64 {
    let chunk = [7; 64 * 1024];
    let mut taken = 0;
    while let Ok(written) = timeout(Duration::from_millis(400), stream.write(&chunk)).await {
        taken += written.unwrap() as u64;
        assert!(taken < 256 << 20, "nothing stops the sender");
    }
    taken
}

#[tokio::test]
async fn a_stopped_reader_stops_only_its_sender() {
    for mode in MODES {
        let backend = Backend::new().await;
        let pair = Plan::new(mode, &backend.address()).start().await;
        let mut client = pair.client().await;
        let mut server = backend.accept().await;
        let sent = fill(&mut client).await;
        let stalled = pair.dmz.now().await.totals.bytes_up;
        let again = fill(&mut client).await;
        assert_eq!(again, 0, "{mode:?}");
        assert_eq!(pair.dmz.now().await.totals.bytes_up, stalled);
        let mut other = pair.client().await;
        let mut other_server = backend.accept().await;
        send(&mut other, b"quick").await;
        expect_bytes(&mut other_server, b"quick").await;
        client.shutdown().await.unwrap();
        let received = read_all(&mut server).await;
        assert_eq!((received.len() as u64, received.iter().all(|byte| *byte == 7)), (sent, true));
    }
}

/// The payload of one session's direction.
fn payload(seed: u64, direction: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed ^ (direction << 32));
    // Sizes of every order, 0 and the largest among them.
    let bits = random.u32(0..=22);
    let size = random.usize(0..=(1_usize << bits).min(PAYLOAD_BYTES_MAX)) * usize::from(random.u8(..) > 20);
    let mut bytes = vec![0; size];
    random.fill(&mut bytes);
    bytes
}

/// Sends in random pieces while it reads all; what it read.
async fn exchange(stream: TcpStream, seed: u64, sent: &[u8]) -> Vec<u8> {
    let (mut reader, mut writer) = stream.into_split();
    let mut random = fastrand::Rng::with_seed(seed);
    let writing = async {
        let mut rest = sent;
        while !rest.is_empty() {
            let (piece, left) = rest.split_at(random.usize(1..=rest.len().min(70_000)));
            send(&mut writer, piece).await;
            rest = left;
        }
        writer.shutdown().await.unwrap();
    };
    tokio::join!(writing, read_all(&mut reader)).1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_sessions_carry_random_bytes_exactly() {
    let seed = seed();
    for mode in MODES {
        let backend = Backend::new().await;
        let pair = Plan::new(mode, &backend.address()).start().await;
        let port = pair.dmz.client_port("orders").await;
        let mut sides = JoinSet::new();
        for number in 0..32 {
            let of_session = seed.wrapping_add(number);
            sides.spawn(async move {
                let mut client = dial(port).await;
                send(&mut client, &of_session.to_be_bytes()).await;
                let input = exchange(client, of_session, &payload(of_session, 1)).await;
                assert!(input == payload(of_session, 2), "down of session {number}: {} bytes", input.len());
            });
            let mut server = backend.accept().await;
            sides.spawn(async move {
                let of_session = server.read_u64().await.unwrap();
                let input = exchange(server, of_session, &payload(of_session, 2)).await;
                assert!(input == payload(of_session, 1), "up of {of_session}: {} bytes", input.len());
            });
        }
        while let Some(side) = sides.join_next().await {
            side.unwrap();
        }
        let all = |direction| (0..32).map(move |at| payload(seed.wrapping_add(at), direction).len() as u64);
        let expected = TrafficTotals {
            sessions_open: 0,
            sessions_waiting: 0,
            sessions: 32,
            refused: 0,
            bytes_up: all(1).sum::<u64>() + 32 * 8,
            bytes_down: all(2).sum(),
        };
        for gateway in [&pair.dmz, pair.inner()] {
            gateway.until("none open", |snapshot| snapshot.totals.sessions_open == 0).await;
            assert_eq!(gateway.now().await.totals, expected, "{mode:?}");
        }
    }
}

#[tokio::test]
async fn a_backend_that_closes_at_once_is_seen_as_just_that() {
    for mode in MODES {
        let backend = Backend::new().await;
        let pair = Plan::new(mode, &backend.address()).start().await;
        let mut client = pair.client().await;
        drop(backend.accept().await);
        expect_end(&mut client).await;
        client.shutdown().await.unwrap();
        let row = pair.dmz.until_ended("--").await;
        assert_eq!((row.bytes_up, row.bytes_down), (0, 0), "{mode:?}");
    }
}

#[tokio::test]
async fn a_backend_that_resets_midway_delivers_what_came_and_then_a_reset() {
    for mode in MODES {
        let backend = Backend::new().await;
        let pair = Plan::new(mode, &backend.address()).start().await;
        let mut client = pair.client().await;
        let mut server = backend.accept().await;
        send(&mut server, b"first half").await;
        expect_bytes(&mut client, b"first half").await;
        crate::support::peers::cut(server);
        assert_eq!(expect_reset(&mut client).await, b"");
        assert_eq!(pair.inner().until_ended("BR").await.bytes_down, 10, "{mode:?}");
    }
}

#[tokio::test]
async fn kill_ends_one_session_by_a_reset_at_both_ends() {
    for mode in MODES {
        let backend = Backend::new().await;
        let pair = Plan::new(mode, &backend.address()).start().await;
        let (mut client, mut stays) = (pair.client().await, None);
        let mut server = backend.accept().await;
        let snapshot = pair.dmz.until("relaying", |snapshot| {
            snapshot.sessions.first().is_some_and(|row| row.phase == SessionPhase::Relaying)
        });
        let id = snapshot.await.sessions[0].id.clone();
        let other = stays.insert(pair.client().await);
        let mut other_server = backend.accept().await;
        assert_eq!(
            pair.dmz.done(Command::Kill { session: id.clone() }).await,
            format!("session {id} is cut")
        );
        expect_reset(&mut client).await;
        expect_reset(&mut server).await;
        assert_eq!(pair.dmz.until_ended("OR").await.id, id);
        assert_eq!(
            pair.dmz.refusal_of(Command::Kill { session: id.clone() }).await,
            format!("no open session {id}")
        );
        send(other, b"on").await;
        expect_bytes(&mut other_server, b"on").await;
    }
}

#[tokio::test]
async fn drain_refuses_new_sessions_until_a_reload() {
    for mode in MODES {
        let pair = Plan::new(mode, "echo://").start().await;
        let port = pair.dmz.client_port("orders").await;
        let mut open = pair.client().await;
        send(&mut open, b"1").await;
        expect_bytes(&mut open, b"1").await;
        pair.dmz.done(Command::Drain { service: None }).await;
        dial_refused(port).await;
        assert_eq!(pair.dmz.until_ended("OA").await.reason, "the service is draining", "{mode:?}");
        send(&mut open, b"2").await;
        expect_bytes(&mut open, b"2").await;
        pair.dmz.done(Command::Reload).await;
        let mut next = dial(port).await;
        send(&mut next, b"3").await;
        expect_bytes(&mut next, b"3").await;
    }
}

#[tokio::test]
async fn a_pair_in_one_process_counts_a_session_once() {
    for mode in ["forward", "reverse"] {
        let (folder, dmz, internal) = (TestFolder::new(), Reserved::new(), Reserved::new());
        let text = format!(
            "mode: {mode}\ndmz:\n  link: {{ listen: 'socks+tls://{0}', connect: 'socks+tls://{1}', tls: {DMZ_TLS} }}\n  \
             services: {{ orders: {{ accept: ['tcp://127.0.0.1:0'], sessions: 3 }} }}\n\
             internal:\n  link: {{ connect: 'socks+tls://{0}', listen: 'socks+tls://{1}', tls: {INTERNAL_TLS} }}\n  \
             services: {{ orders: {{ connect: 'echo://' }} }}\n",
            dmz.at(),
            internal.at()
        );
        let pair = folder.start("pair", &text);
        let port = pair.client_port("orders").await;
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = dial(port).await;
            send(&mut client, b"four").await;
            expect_bytes(&mut client, b"four").await;
            clients.push(client);
        }
        dial_refused(port).await;
        let snapshot = pair.until("one refused", |snapshot| snapshot.totals.refused == 1).await;
        let expected = TrafficTotals {
            sessions_open: 3,
            sessions_waiting: 0,
            sessions: 3,
            refused: 1,
            bytes_up: 12,
            bytes_down: 12,
        };
        assert_eq!(snapshot.totals, expected);
        assert_eq!(snapshot.sessions.len(), 6, "a row for each half's part");
        for mut client in clients {
            client.shutdown().await.unwrap();
            expect_end(&mut client).await;
        }
        let closed = pair.until("all ended", |snapshot| snapshot.sessions.is_empty()).await;
        assert_eq!(closed.totals, TrafficTotals { sessions_open: 0, ..expected }, "{mode}");
    }
}

/// What holds of every picture, and of each against the one before.
fn assert_true(before: &Snapshot, seen: &Snapshot) {
    let of_clients = seen.services.iter().filter(|row| row.half == seen.halves[0]);
    let sum = of_clients.fold(TrafficTotals::default(), |sum, row| sum.with(&row.totals));
    assert_eq!(sum, seen.totals, "the services make up the whole");
    let (was, is) = (before.totals, seen.totals);
    assert!(is.sessions_open <= is.sessions, "{is:?}");
    assert!(was.sessions <= is.sessions && was.refused <= is.refused, "{was:?}, then {is:?}");
    assert!(was.bytes_up <= is.bytes_up && was.bytes_down <= is.bytes_down, "{was:?}, then {is:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn totals_hold_together_at_every_moment() {
    for mode in MODES {
        let dead = Reserved::new();
        // One service is carried, one is refused by its backend, and clients of both send at once.
        let (well, ill) = ("echo://".to_owned(), format!("tcp://{}", dead.at()));
        for (backend, is_carried) in [(well, true), (ill, false)] {
            let plan = Plan {
                dmz_link: ", prepared: 2",
                internal_link: ", prepared: 2",
                ..Plan::new(mode, &backend)
            };
            let pair = plan.start().await;
            let port = pair.dmz.client_port("orders").await;
            let mut clients = JoinSet::new();
            for _ in 0..40 {
                clients.spawn(async move {
                    // A refused one may be gone by now, and by each of these.
                    let Ok(mut client) = TcpStream::connect(port).await else { return false };
                    let _ = client.write_all(b"words").await;
                    let _ = client.shutdown().await;
                    let mut input = Vec::new();
                    client.read_to_end(&mut input).await.is_ok_and(|_| input == b"words")
                });
            }
            let mut before = pair.dmz.now().await;
            while before.totals.open_and_waiting() > 0 || !clients.is_empty() {
                let seen = pair.dmz.now().await;
                assert_true(&before, &seen);
                while let Some(carried) = clients.try_join_next() {
                    assert_eq!(carried.unwrap(), is_carried, "{mode:?}");
                }
                before = seen;
            }
            let expected = match is_carried {
                true => {
                    TrafficTotals { sessions: 40, bytes_up: 200, bytes_down: 200, ..TrafficTotals::default() }
                }
                false => TrafficTotals { refused: 40, ..TrafficTotals::default() },
            };
            // The last picture of the loop may be older than the last client's end.
            pair.dmz.until(&format!("{mode:?}: {expected:?}"), |seen| seen.totals == expected).await;
        }
    }
}

#[tokio::test]
async fn a_waiting_client_is_distinguished_from_relaying_ones() {
    let text = "mode: reverse\ndmz:\n  link: { listen: 'socks://127.0.0.1:0', wait: 60s }\n  \
                services: { orders: { accept: ['tcp://127.0.0.1:0'] } }\n";
    let gateway = TestFolder::new().start("dmz", text);
    let port = gateway.client_port("orders").await;
    let mut carried = dial(port).await;
    gateway.until("the first waits", |seen| seen.totals.sessions_waiting == 1).await;
    let _waits = dial(port).await;
    gateway.until("both wait", |seen| seen.totals.sessions_waiting == 2).await;
    let (mut parked, _) = link(gateway.link_port().await, BIND, b"orders").await;
    expect_bytes(&mut parked, &reply_at(carried.local_addr().unwrap())).await;
    send(&mut carried, b"mine").await;
    expect_bytes(&mut parked, b"mine").await;
    let both = TrafficTotals {
        sessions_open: 1,
        sessions_waiting: 1,
        sessions: 1,
        bytes_up: 4,
        ..TrafficTotals::default()
    };
    let seen = gateway.until("one of each", |seen| seen.totals == both).await;
    let waits = seen.sessions.iter().find(|row| row.phase == SessionPhase::Waiting).unwrap();
    assert_eq!(waits.last_byte_seconds, None, "no byte has moved: {waits:?}");
    let carries = seen.sessions.iter().find(|row| row.phase == SessionPhase::Relaying).unwrap();
    assert!(carries.last_byte_seconds.is_some(), "{carries:?}");
    let reported = gateway.done(Command::Drain { service: Some("orders".into()) }).await;
    let expected =
        "service `orders`: no new sessions, 1 still open, 1 still wait to be carried; `reload` undoes it";
    assert_eq!(reported, expected);
}

#[tokio::test]
async fn a_gateway_without_handles_drains_as_for_a_stop() {
    let folder = TestFolder::new();
    let gateway =
        folder.start("direct", &Plan { drain: "30s", ..Plan::new(Mode::Direct, "echo://") }.direct());
    let port = gateway.client_port("orders").await;
    let mut client = dial(port).await;
    send(&mut client, b"1").await;
    expect_bytes(&mut client, b"1").await;
    let outcome = gateway.abandon();
    // The port closes: it stops. The session goes on.
    while TcpStream::connect(port).await.is_ok() {
        tokio::task::yield_now().await;
    }
    send(&mut client, b"2").await;
    expect_bytes(&mut client, b"2").await;
    client.shutdown().await.unwrap();
    expect_end(&mut client).await;
    assert_eq!(outcome.await, portcullis::gateway::GatewayOutcome::Clean);
}
