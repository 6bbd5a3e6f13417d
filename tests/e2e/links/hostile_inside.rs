//! A hostile internal gateway that may serve one service and offers all. It gets no sessions of the others, at
//! most its share of its own, and costs the DMZ half no more than SECURITY.md states.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use portcullis::{
    link::multiplex::{
        credit::{LINK_BUDGET_BYTES, WINDOW_BYTES},
        turns::BATCH_BYTES_MAX,
    },
    telemetry::snapshot::Snapshot,
};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::{interval, timeout},
};

use crate::support::{
    frames::{self, DATA, END, HELLO, OPEN, OPENED, OURS, PING, PONG, RETIRE, RawLink, frame_of},
    gateway::{PATIENCE, TestFolder, client_port_in, link_port_in},
    peers::{dial, send},
    program::Program,
};

/// Links of one internal gateway.
const LINKS: usize = 8;
/// What a link has to say comes in this time: it is pinged.
const LONG: Duration = Duration::from_secs(60);
/// What the allocator, the runtime and sessions keep beside the bytes that wait.
const SPARE_BYTES: usize = 16 * 1024 * 1024;

/// A DMZ half, its hostile peer `alpha`, which may serve `orders`, and its good one `beta`, which serves both services.
struct DmzUnderAttack {
    folder: TestFolder,
    program: Program,
    links: SocketAddr,
    orders: SocketAddr,
    ledger: SocketAddr,
    peers: JoinSet<()>,
    /// The services that `alpha` was asked for.
    requested_services: Arc<Mutex<Vec<String>>>,
}

/// What `alpha` does with the sessions that it is given.
#[derive(Debug, Clone, Copy, PartialEq)]
enum AttackKind {
    AnswersNothing,
    /// It takes them, and then not a byte.
    Stalls,
}

impl DmzUnderAttack {
    async fn start() -> Self {
        let folder = TestFolder::with(&["dmz", "alpha", "beta"]);
        let text = format!(
            "mode: reverse\ndmz:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', prepared: 1, per_peer: {{ links: {LINKS} }}, \
             tls: {{ certificate: pki/dmz.pem, key: pki/dmz.key, ca: pki/ca.pem, peers: [alpha, beta] }} }}\n  services:\n    \
             orders: {{ accept: ['tcp://127.0.0.1:0'] }}\n    ledger: {{ accept: ['tcp://127.0.0.1:0'], peers: [beta] }}\n"
        );
        let program = Program::start(&folder, "dmz", &text, 4096).await;
        let seen = program.now().await;
        let (links, orders, ledger) =
            (link_port_in(&seen), client_port_in(&seen, "orders"), client_port_in(&seen, "ledger"));
        let (peers, requested_services) = (JoinSet::new(), Arc::default());
        Self { folder, program, links, orders, ledger, peers, requested_services }
    }

    /// A link that offers all, and the services that it was granted.
    async fn link(&self, name: &str) -> (RawLink, Vec<String>) {
        let mut link = RawLink::dial(&self.folder, name, self.links, "dmz", &[OURS]).await;
        let offer = frames::offer(64, 64, &["orders", "ledger", "wages"]);
        link.send_frame(HELLO, &offer).await;
        let granted = frames::fields(&link.expect_kind(HELLO).await);
        let names = granted.into_iter().filter(|(tag, _)| *tag == 8);
        let mut names: Vec<_> = names.map(|(_, name)| String::from_utf8(name).unwrap()).collect();
        names.sort();
        (link, names)
    }

    /// `beta` serves, and `alpha` has as many links as it can get.
    async fn attack(&mut self, hostility: AttackKind) {
        for _ in 0..2 {
            let (link, granted) = self.link("beta").await;
            assert_eq!(granted, ["ledger", "orders"]);
            self.peers.spawn(serves(link));
        }
        for number in 0..3 * LINKS {
            let (mut link, granted) = self.link("alpha").await;
            assert_eq!(granted, ["orders"], "what it may serve, whatever it offers");
            if number >= LINKS {
                // It is asked to take no more.
                link.expect_frame(RETIRE, &[]).await;
            }
            self.peers.spawn(hold_sessions(link, self.requested_services.clone(), hostility));
        }
        let stand = |seen: &Snapshot, name: &str| -> usize {
            let rows = seen.pools.iter().filter(|row| row.peer.as_deref() == Some(name));
            rows.map(|row| row.ready + row.carrying).sum()
        };
        let enough = |seen: &Snapshot| (stand(seen, "alpha"), stand(seen, "beta")) == (LINKS, 2);
        self.program.until("links of both", enough).await;
    }

    fn requested_services(&self) -> Vec<String> {
        self.requested_services.lock().unwrap().clone()
    }
}

/// Answers what it is asked, and sends back what it is sent.
async fn serves(mut link: RawLink) {
    while let Ok((kind, body)) = link.next_within(LONG).await {
        let session = link.last_session;
        let sent = match kind {
            PING => frames::frame(PONG, &body),
            OPEN => frame_of(session, OPENED, &[]),
            DATA => frame_of(session, DATA, &body),
            END => frame_of(session, END, &[]),
            _ => continue,
        };
        if link.try_send(&sent).await.is_err() {
            return;
        }
    }
}

/// Stays alive, and keeps what it is given.
async fn hold_sessions(
    mut link: RawLink,
    requested_services: Arc<Mutex<Vec<String>>>,
    hostility: AttackKind,
) {
    link.gives_credit = false;
    while let Ok((kind, body)) = link.next_within(LONG).await {
        let session = link.last_session;
        let sent = match kind {
            PING => frames::frame(PONG, &body),
            OPEN => {
                let service = frames::fields(&body).into_iter().find(|(tag, _)| *tag == 1).unwrap().1;
                requested_services.lock().unwrap().push(String::from_utf8(service).unwrap());
                match hostility {
                    AttackKind::AnswersNothing => continue,
                    AttackKind::Stalls => frame_of(session, OPENED, &[]),
                }
            }
            _ => continue,
        };
        if link.try_send(&sent).await.is_err() {
            return;
        }
    }
}

/// A client that speaks first; whether it is answered.
async fn is_served(at: SocketAddr) -> bool {
    let mut client = dial(at).await;
    send(&mut client, b"ping").await;
    let mut received = [0; 4];
    let read = timeout(2 * PATIENCE, client.read_exact(&mut received)).await;
    read.expect("served or cut, and never left hanging").is_ok()
}

/// This many of them at once; returns how many were served.
async fn served_of(clients: usize, at: SocketAddr) -> usize {
    let asking: JoinSet<_> = (0..clients).map(|_| is_served(at)).collect();
    asking.join_all().await.into_iter().filter(|is_served| *is_served).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_internal_peer_that_answers_nothing_gets_its_share_of_its_own_service_and_rests() {
    let mut guarded = DmzUnderAttack::start().await;
    guarded.attack(AttackKind::AnswersNothing).await;
    assert_eq!(served_of(20, guarded.ledger).await, 20, "of a service that it may not serve it gets nothing");
    assert_eq!(guarded.requested_services(), [""; 0]);
    assert_eq!(served_of(12, guarded.orders).await, 6);
    assert_eq!(guarded.requested_services(), ["orders"; 6], "its turns, however many links it has");
    let rests = "alpha has left several sessions in a row unanswered";
    let is_reported = |seen: &Snapshot| seen.notices.iter().any(|notice| notice.text.contains(rests));
    guarded.program.until("it is noticed", is_reported).await;
    assert_eq!(served_of(20, guarded.orders).await, 20, "it rests");
    assert_eq!(guarded.requested_services().len(), 6);
    // When it has rested, one client tries it, and no second one.
    let (orders, requested_services) = (guarded.orders, guarded.requested_services.clone());
    let tried = async {
        let (mut trying, mut next) = (JoinSet::new(), interval(Duration::from_millis(100)));
        while requested_services.lock().unwrap().len() == 6 {
            next.tick().await;
            trying.spawn(is_served(orders));
        }
        trying
    };
    let trying = timeout(Duration::from_secs(30), tried).await.expect("it is tried again");
    assert_eq!(served_of(20, guarded.orders).await, 20);
    assert_eq!(trying.join_all().await.into_iter().filter(|is_served| !is_served).count(), 1);
    assert_eq!(guarded.requested_services().len(), 7);
}

/// A client that sends this much, and reads all of it back.
async fn whole(at: SocketAddr, bytes: usize) {
    let client = dial(at).await;
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    let (mut reader, mut writer) = client.into_split();
    let (sent, mut received) = (vec![7; bytes], vec![0; bytes]);
    let (sent, read) = tokio::join!(writer.write_all(&sent), reader.read_exact(&mut received));
    assert!(sent.is_ok() && read.is_ok() && received.iter().all(|byte| *byte == 7));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_internal_peer_that_takes_sessions_and_stalls_costs_bounded_memory() {
    const CLIENTS: usize = 40;
    const SENT_BYTES: usize = 1024 * 1024;
    let mut guarded = DmzUnderAttack::start().await;
    guarded.attack(AttackKind::Stalls).await;
    let memory = guarded.program.resident();
    let mut clients: JoinSet<_> = (0..CLIENTS).map(|_| whole(guarded.orders, SENT_BYTES)).collect();
    // Those of the good one are served whole meanwhile.
    for _ in 0..CLIENTS / 2 {
        let served = timeout(LONG, clients.join_next()).await.expect("it is served in time");
        served.unwrap().unwrap();
    }
    let stalled = |seen: &Snapshot| {
        let of_alpha = seen.sessions.iter().filter(|row| row.peer.as_deref() == Some("alpha"));
        of_alpha.filter(|row| row.bytes_up >= WINDOW_BYTES as u64).count() == CLIENTS / 2
    };
    let seen = guarded.program.until("the rest has said what it may", stalled).await;
    assert_eq!(guarded.requested_services(), ["orders"; CLIENTS / 2], "half of them, and nothing else");
    let mut of_alpha = seen.sessions.iter().filter(|row| row.peer.as_deref() == Some("alpha"));
    assert!(of_alpha.all(|row| row.bytes_up == WINDOW_BYTES as u64), "{:?}", seen.sessions);
    let grown = guarded.program.resident().saturating_sub(memory);
    let links = LINKS + 2;
    // A copy until the answer, and what came from the link and was not taken.
    let most = CLIENTS * 2 * WINDOW_BYTES + links * (2 * BATCH_BYTES_MAX) + SPARE_BYTES;
    println!("{CLIENTS} sessions, half of them stalled: {} KiB more, {} at most", grown >> 10, most >> 10);
    assert!(grown <= most + LINK_BUDGET_BYTES, "{grown} bytes, {most} at most");
    // They still know that their clients may leave.
    clients.shutdown().await;
    guarded.program.until("they are gone", |seen| seen.totals.sessions_open == 0).await;
    assert_eq!(served_of(4, guarded.ledger).await, 4);
}
