//! Certificates that are renewed again and again under load, wrongly at times: no session notices. And one that ends
//! while its link is up.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use portcullis::{
    gateway::handle::Command,
    profile::Mode,
    telemetry::{health::AlertKind, snapshot::Snapshot},
};
use rustls::pki_types::CertificateDer;
use tokio::{
    io::AsyncWriteExt,
    task::JoinSet,
    time::{interval, timeout},
};

use crate::{
    renewal::{WWW, ask, renew, shown},
    support::{
        gateway::{PATIENCE, TestFolder},
        mode_pair::Plan,
        peers::{dial_refused, expect_bytes, expect_end, send},
        tls::chain,
    },
    tls::make_ending,
};

const ROTATIONS: usize = 100;
const LONG_SESSIONS: usize = 6;
const LONG: Duration = Duration::from_secs(30);

/// Sessions that must be carried byte for byte, from the first rotation to the last and one after another.
struct Load {
    sessions: JoinSet<()>,
    enough: Arc<AtomicBool>,
    carried: Arc<AtomicUsize>,
}

impl Load {
    fn start(folder: &TestFolder, at: SocketAddr) -> Self {
        let (mut sessions, enough) = (JoinSet::new(), Arc::<AtomicBool>::default());
        let carried = Arc::<AtomicUsize>::default();
        for _ in 0..LONG_SESSIONS {
            sessions.spawn(keep_session(folder.clone(), at, enough.clone()));
        }
        sessions.spawn(run_short_sessions(folder.clone(), at, enough.clone(), carried.clone()));
        Self { sessions, enough, carried }
    }

    async fn end(self) -> usize {
        self.enough.store(true, Ordering::Relaxed);
        self.sessions.join_all().await;
        self.carried.load(Ordering::Relaxed)
    }
}

async fn keep_session(folder: TestFolder, at: SocketAddr, enough: Arc<AtomicBool>) {
    let mut client = ask(&folder, at).await;
    let mut pace = interval(Duration::from_millis(5));
    let mut number = 0_u64;
    while !enough.load(Ordering::Relaxed) {
        pace.tick().await;
        let words = number.to_be_bytes().repeat(128);
        send(&mut client, &words).await;
        expect_bytes(&mut client, &words).await;
        number += 1;
    }
    client.shutdown().await.unwrap();
    expect_end(&mut client).await;
}

async fn run_short_sessions(
    folder: TestFolder,
    at: SocketAddr,
    enough: Arc<AtomicBool>,
    carried: Arc<AtomicUsize>,
) {
    while !enough.load(Ordering::Relaxed) {
        shown_to_the_next(&folder, at).await;
        carried.fetch_add(1, Ordering::Relaxed);
    }
}

/// A client that is served and goes; the certificate that it was shown.
async fn shown_to_the_next(folder: &TestFolder, at: SocketAddr) -> CertificateDer<'static> {
    let mut client = ask(folder, at).await;
    let certificate = shown(&client);
    send(&mut client, b"and gone").await;
    expect_bytes(&mut client, b"and gone").await;
    client.shutdown().await.unwrap();
    expect_end(&mut client).await;
    certificate
}

/// How a certificate and its key are replaced.
#[derive(Debug, Clone, Copy)]
enum Rotation {
    Whole,
    /// The key is another's.
    WrongPair,
    HalfWritten,
}

impl Rotation {
    fn happens(self, folder: &TestFolder, name: &str) {
        match self {
            Self::Whole => renew(folder, name),
            Self::WrongPair => {
                let other = if name == "www" { "dmz" } else { "www" };
                fs::copy(folder.pki(&format!("{other}.key")), folder.pki(&format!("{name}.key"))).unwrap();
            }
            Self::HalfWritten => {
                let file = folder.pki(&format!("{name}.pem"));
                let whole = fs::read(&file).unwrap();
                fs::write(file, &whole[..whole.len() / 2]).unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_rotations_right_and_wrong_cut_no_session() {
    let folder = TestFolder::with(&["dmz", "internal", "www"]);
    let pair = Plan { accept: WWW, ..Plan::new(Mode::Reverse, "echo://") }.start_in(folder.clone()).await;
    let at = pair.dmz.client_port("orders").await;
    let load = Load::start(&folder, at);
    let mut in_force = chain(&folder, "www.pem").remove(0);
    for number in 0..ROTATIONS {
        // Every other one is right, and puts right what was wrong before it.
        let name = ["www", "dmz", "internal"][number / 2 % 3];
        let rotation = match (number % 2, number / 6 % 3) {
            (0, 0) => Rotation::WrongPair,
            (0, 1) => Rotation::HalfWritten,
            _ => Rotation::Whole,
        };
        rotation.happens(&folder, name);
        // Some are left to the gateway, which looks at its files by itself.
        let is_left = name == "www" && number % 24 == 1;
        for gateway in [&pair.dmz, pair.inner()].into_iter().filter(|_| !is_left) {
            match rotation {
                Rotation::Whole => drop(gateway.done(Command::Reload).await),
                // Refused where it is of a link, done without it where it is of a service.
                Rotation::WrongPair | Rotation::HalfWritten => {
                    drop(gateway.handle.send_and_wait(Command::Reload).await)
                }
            }
        }
        if matches!(rotation, Rotation::Whole) {
            in_force = chain(&folder, "www.pem").remove(0);
        }
        let taken = async { while shown_to_the_next(&folder, at).await != in_force {} };
        match is_left {
            true => timeout(PATIENCE, taken).await.expect("it is taken by itself"),
            false => {
                assert_eq!(shown_to_the_next(&folder, at).await, in_force, "{number}: {rotation:?} of {name}")
            }
        }
    }
    let carried = load.end().await;
    for gateway in [&pair.dmz, pair.inner()] {
        let seen = gateway.until("all have ended", |seen| seen.totals.sessions_open == 0).await;
        println!(
            "{ROTATIONS} rotations under {LONG_SESSIONS} sessions and {carried} short ones: {:?}",
            seen.totals
        );
        assert!(seen.totals.sessions as usize > carried + LONG_SESSIONS);
        assert_eq!((seen.totals.refused, &seen.failures), (0, &Vec::new()));
        let cut: Vec<_> = seen.ended.iter().filter(|row| row.end != "--").collect();
        assert!(cut.is_empty(), "{cut:#?}");
    }
}

#[tokio::test]
async fn an_expired_certificate_is_reported_keeps_sessions_and_refuses_new_links() {
    let folder = TestFolder::new();
    make_ending(&folder, "dmz", time::Duration::seconds(6));
    let pair = Plan::new(Mode::Reverse, "echo://").start_in(folder.clone()).await;
    let mut client = pair.client().await;
    send(&mut client, b"before").await;
    expect_bytes(&mut client, b"before").await;
    let has_ended = |seen: &Snapshot| seen.alerts.iter().any(|alert| alert.kind == AlertKind::Expired);
    for gateway in [&pair.dmz, pair.inner()] {
        gateway.until_within(LONG, "that it has ended", has_ended).await;
    }
    // Its links would have to be established again, and cannot be.
    pair.inner().done(Command::Resize { prepared: 3 }).await;
    let is_refused = |seen: &Snapshot| {
        let rows = seen.pools.iter().filter_map(|row| row.last_error.as_deref());
        rows.into_iter().any(|error| error.contains("expired"))
    };
    pair.inner().until("new links are refused", is_refused).await;
    dial_refused(pair.dmz.client_port("orders").await).await;
    for _ in 0..20 {
        send(&mut client, b"as ever").await;
        expect_bytes(&mut client, b"as ever").await;
    }
    client.shutdown().await.unwrap();
    expect_end(&mut client).await;
    for gateway in [&pair.dmz, pair.inner()] {
        assert_eq!(gateway.until_ended("--").await.end, "--");
    }
}
