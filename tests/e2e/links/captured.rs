//! A captured DMZ half: its certificate is good, and it follows no rule. What it costs the inside stays within the bounds
//! of SECURITY.md, and another DMZ gateway is served meanwhile.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use portcullis::{
    link::multiplex::{
        credit::{LINK_BUDGET_BYTES, WINDOW_BYTES},
        turns::BATCH_BYTES_MAX,
    },
    telemetry::snapshot::Snapshot,
};
use tokio::{
    io::AsyncReadExt,
    sync::mpsc,
    task::JoinSet,
    time::{interval, timeout},
};

use super::halves::{GatewayEchoSession, ServerHalf};
use crate::support::{
    frames::{
        self, CREDIT, DATA, HELLO, OPEN, OPENED, OURS, PING, PONG, Port, REFUSED, RESET, RawLink, WINDOW,
        frame, frame_of, header,
    },
    gateway::{PATIENCE, TestFolder, happens_after},
    peers::{Backend, Reserved},
    program::Program,
};

/// Links in all, and what each of the two gateways may have of them while the other is in use.
const MAXIMUM: usize = 8;
const SHARE: usize = MAXIMUM / 2;
const SESSIONS_PER_LINK: usize = 64;
/// Sessions of `orders` that one gateway may have.
const PER_PEER: usize = 16;

/// Opens of the flood, some 50 times as many as the lines that they may make.
const FLOOD: usize = 20_000;
const BATCH: usize = 100;

/// A check of the path is over by then.
const PROBE: Duration = Duration::from_secs(10);

/// What a session costs beside the bytes that wait in it, and what the built-in backend holds of it.
const SESSION_BYTES: usize = 16 * 1024;
const ECHO_BYTES: usize = 64 * 1024;
/// Frames of a link itself that wait.
const CONTROL_BYTES: usize = 64 * 1024;
/// What the allocator and the runtime keep.
const SPARE_BYTES: usize = 16 * 1024 * 1024;

/// Lines of the log in a second: 100 of sessions that ended well, 10 of each of the 15 other kinds, and a count for each.
const LINES_PER_SECOND: usize = 100 + 15 * 10 + 16;
const LINE_BYTES: usize = 4 * 1024;
/// What a gateway says of itself, whoever its peers are.
const OWN_LINES: usize = 100;

/// An internal half between a captured DMZ gateway and an honest one, both played by the test.
struct AttackedHalf {
    folder: TestFolder,
    program: Program,
    captured: Arc<Port>,
    honest: Port,
    /// Accepts, and never reads.
    _backends: JoinSet<()>,
}

impl AttackedHalf {
    async fn start(descriptors: usize) -> Self {
        let folder = TestFolder::with(&["dmz", "dmz2", "internal"]);
        let (captured, honest) =
            (Port::new(&folder, "dmz", &[OURS]).await, Port::new(&folder, "dmz2", &[OURS]).await);
        let (backend, closed) = (Backend::new().await, Reserved::new());
        let text = format!(
            "mode: reverse\nlog: inside.log\naudit: audit.jsonl\ninternal:\n  link: {{ connect: ['{}', '{}'], prepared: 2, \
             maximum: {MAXIMUM}, sessions_per_link: {SESSIONS_PER_LINK}, retry: {{ first: 10ms, maximum: 50ms }}, tls: {{ \
             certificate: pki/internal.pem, key: pki/internal.key, ca: pki/ca.pem, peers: [dmz, dmz2] }} }}\n  services:\n    \
             orders: {{ connect: '{}', per_peer: {{ sessions: {PER_PEER} }} }}\n    echo: {{ connect: 'echo://' }}\n    \
             closed: {{ connect: 'tcp://{}' }}\n    hidden: {{ connect: 'echo://', peers: [dmz2] }}\n",
            captured.address(),
            honest.address(),
            backend.address(),
            closed.at(),
        );
        let program = Program::start(&folder, "internal", &text, descriptors).await;
        let mut backends = JoinSet::new();
        backends.spawn(async move {
            let (mut held, _closed) = (Vec::new(), closed);
            loop {
                held.push(backend.listener.accept().await.unwrap());
            }
        });
        Self { folder, program, captured: Arc::new(captured), honest, _backends: backends }
    }

    /// A link of the honest gateway that has carried a session, and one more that is up.
    async fn honest_links(&self) -> (RawLink, RawLink) {
        let (one, other) = (established_link(&self.honest).await, established_link(&self.honest).await);
        (GatewayEchoSession::on(one).await.ends().await, other)
    }
}

async fn established_link(port: &Port) -> RawLink {
    let mut link = port.accept().await;
    let offer = link.expect_kind(HELLO).await;
    link.send_frame(HELLO, &frames::grant_of(64, &offer)).await;
    link
}

/// Sessions of the honest gateway, one after the other, for as long as the attack goes on; how many.
async fn sessions_during_attack<T: Send + 'static>(
    mut honest: RawLink,
    attack: impl Future<Output = T> + Send + 'static,
) -> (T, RawLink, usize) {
    let mut attacking = JoinSet::new();
    let handle = attacking.spawn(attack);
    let mut served = 0;
    while !handle.is_finished() {
        honest = GatewayEchoSession::on(honest).await.ends().await;
        served += 1;
    }
    (attacking.join_next().await.unwrap().unwrap(), honest, served)
}

/// A different client in each session, as far as the internal half learns.
fn claimed(link: usize, at: usize) -> Option<SocketAddr> {
    Some(SocketAddr::from(([10, link as u8, (at / 256) as u8, at as u8], 40_000)))
}

/// Uses a link up: opens sessions of each service, sends all the bytes that the credit allows and reads none.
/// Then sends a frame at one byte per second.
async fn exhaust_link(mut link: RawLink, number: usize, progress: mpsc::Sender<()>) {
    link.gives_credit = false;
    for at in 0..2 * SESSIONS_PER_LINK {
        let service = ["echo", "orders", "hidden", "echo"][at % 4];
        let open = frames::open(&format!("c{number}-{at}"), claimed(number, at), service);
        link.send(&[frame(OPEN, &open), frame(DATA, &[7; WINDOW])].concat()).await;
    }
    spend_credit(&mut link).await;
    progress.send(()).await.unwrap();
    let mut seconds = interval(Duration::from_secs(1));
    let slow = link.numbered(&frame(OPEN, &frames::open("slow", None, "echo")));
    for (at, byte) in slow.into_iter().enumerate() {
        seconds.tick().await;
        link.send_raw(&[byte]).await;
        if at == 3 {
            progress.send(()).await.unwrap();
        }
    }
}

/// Says as many bytes as it has credit for, until no more comes.
async fn spend_credit(link: &mut RawLink) {
    loop {
        let mut has_credit = false;
        link.send_frame(PING, b"any more").await;
        loop {
            match link.next().await.expect("it lives") {
                (PONG, _) => break,
                (PING, token) => link.send_frame(PONG, &token).await,
                (CREDIT, more) => {
                    has_credit = true;
                    let (session, mut more) =
                        (link.last_session, u32::from_be_bytes(more.try_into().unwrap()));
                    while more > 0 {
                        let part = more.min(WINDOW as u32);
                        link.send(&frame_of(session, DATA, &vec![7; part as usize])).await;
                        more -= part;
                    }
                }
                (OPENED | REFUSED | DATA | RESET, _) => {}
                other => panic!("{other:?}"),
            }
        }
        if !has_credit {
            return;
        }
    }
}

/// Exhausts every link that it can get; the attack lasts until the returned set is dropped.
async fn exhaust_all_links(captured: Arc<Port>) -> JoinSet<()> {
    let (progress, mut reported) = mpsc::channel(2 * SHARE);
    let mut links = JoinSet::new();
    for number in 0..SHARE {
        let link = established_link(&captured).await;
        links.spawn(exhaust_link(link, number, progress.clone()));
    }
    // Each link reports two stages; one may be at its second before another is at its first.
    for _ in 0..2 * SHARE {
        let stage = timeout(6 * PATIENCE, reported.recv()).await;
        assert!(stage.expect("it comes so far").is_some(), "a link has ended");
    }
    links
}

fn links_to(seen: &Snapshot, peer: &str) -> usize {
    let rows = seen.pools.iter().filter(|row| row.peer.as_deref() == Some(peer));
    rows.map(|row| row.ready + row.carrying).sum()
}

/// Sessions of a service that are open.
fn open_in(seen: &Snapshot, service: &str) -> usize {
    let row = seen.services.iter().find(|row| row.name == service).unwrap();
    row.totals.sessions_open as usize
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_captured_dmz_half_costs_bounded_memory_descriptors_and_backends() {
    let besieged = AttackedHalf::start(4096).await;
    let (honest, _other) = besieged.honest_links().await;
    let program = &besieged.program;
    let (memory, descriptors) = (program.resident(), program.descriptors());
    let attack = exhaust_all_links(besieged.captured.clone());
    let (_links, _honest, served) = sessions_during_attack(honest, attack).await;
    let seen = program.now().await;
    let (links, sessions) = (links_to(&seen, "dmz"), seen.totals.sessions_open as usize);
    let (grown, more) =
        (program.resident().saturating_sub(memory), program.descriptors().saturating_sub(descriptors));
    println!(
        "{links} links, {sessions} sessions: {} KiB and {more} descriptors more; {served} sessions of the other gateway meanwhile",
        grown >> 10
    );
    assert!(sessions > SESSIONS_PER_LINK * SHARE / 2, "the attack has come to something: {sessions}");
    assert_eq!((links, open_in(&seen, "orders"), open_in(&seen, "hidden")), (SHARE, PER_PEER, 0));
    assert!(sessions <= links * SESSIONS_PER_LINK + 1, "{sessions}");
    // Its links, its backends, and whoever asks for the status.
    assert!(more <= links + PER_PEER + 4, "{more} descriptors");
    let of_link = LINK_BUDGET_BYTES + 2 * BATCH_BYTES_MAX + CONTROL_BYTES;
    let of_session = WINDOW_BYTES + ECHO_BYTES + SESSION_BYTES;
    let most = links * of_link + sessions * of_session + SPARE_BYTES;
    assert!(grown <= most, "{grown} bytes, {most} at most");
    assert!(served >= 20, "{served} sessions of the other gateway");
    assert_eq!(links_to(&seen, "dmz2"), 2);
}

/// Sessions that end at once, each in another way; a link that was broken for it is followed by the next.
async fn flood(captured: Arc<Port>) {
    let mut link = established_link(&captured).await;
    for batch in 0..FLOOD / BATCH {
        let mut sent = Vec::new();
        for at in 0..BATCH {
            let service = ["echo", "closed", "hidden", "orders"][at % 4];
            let open = frames::open(&format!("f{batch}-{at}"), claimed(batch, at), service);
            sent.extend([frame(OPEN, &open), frame(RESET, &frames::reset(1))].concat());
        }
        link.send(&sent).await;
        link.send_frame(PING, b"all seen").await;
        loop {
            match link.next().await.expect("it lives") {
                (PONG, _) => break,
                (PING, token) => link.send_frame(PONG, &token).await,
                _ => {}
            }
        }
        if batch % 20 == 19 {
            link.send_raw(&header(0x7f, 0)).await;
            link.over().await;
            link = established_link(&captured).await;
        }
    }
}

/// The bytes of all files in a folder, but not below it.
fn bytes_in(folder: &Path) -> usize {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
    files.filter(fs::Metadata::is_file).map(|file| file.len() as usize).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_captured_dmz_half_fills_neither_the_log_nor_the_disk() {
    let besieged = AttackedHalf::start(1024).await;
    let (honest, _other) = besieged.honest_links().await;
    let program = &besieged.program;
    let (memory, disk, began) = (program.resident(), bytes_in(&besieged.folder.path("")), Instant::now());
    let ((), honest, served) = sessions_during_attack(honest, flood(besieged.captured.clone())).await;
    let seen = program.until("all of it is over", |seen| seen.totals.sessions_open == 0).await;
    let seconds = began.elapsed().as_secs() as usize + 2;
    let lines = |text: &str| text.lines().count();
    let (reported, file) = (program.log(), fs::read_to_string(besieged.folder.path("inside.log")).unwrap());
    let written = bytes_in(&besieged.folder.path("")) - disk;
    println!(
        "{FLOOD} sessions in {seconds} s: {} and {} lines, {written} bytes; {served} sessions of the other gateway meanwhile",
        lines(&reported),
        lines(&file)
    );
    for text in [&reported, &file] {
        assert!(lines(text) <= seconds * LINES_PER_SECOND + OWN_LINES, "{} lines", lines(text));
        assert!(lines(text) < FLOOD / 2, "{} lines", lines(text));
        let longest = text.lines().map(str::len).max().unwrap();
        assert!(longest <= LINE_BYTES, "{longest} bytes in a line");
    }
    assert!(reported.contains("more sessions ended"), "the rest is counted");
    // Nothing that it does is an operator's.
    let audit = fs::read_to_string(besieged.folder.path("audit.jsonl")).unwrap();
    assert_eq!(lines(&audit), 1, "{audit}");
    assert!(written <= 2 * seconds * LINES_PER_SECOND * LINE_BYTES, "{written} bytes");
    assert!(seen.ended.len() <= 512 && seen.failures.len() <= 64 && seen.notices.len() <= 200);
    let grown = program.resident().saturating_sub(memory);
    assert!(grown <= SPARE_BYTES, "{grown} bytes of memory");
    assert!(served >= 20, "{served} sessions of the other gateway");
    GatewayEchoSession::on(honest).await;
}

/// Opens sessions on the links of a gateway until there is no room for one more, or this many are open; returns
/// how many.
async fn opens(links: &mut [RawLink], most: usize) -> usize {
    let mut open = 0;
    for link in links {
        while open < most {
            link.send_frame(OPEN, &frames::open(&format!("s-{open}"), None, "echo")).await;
            match link.next_other_than_ping().await {
                (OPENED, _) => open += 1,
                (REFUSED, why) => {
                    assert_eq!(why, [6], "it is full");
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    open
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_captured_dmz_half_leaves_others_their_share_of_backend_connections() {
    const DESCRIPTORS: usize = 128;
    const OF_HONEST: usize = 16;
    let besieged = AttackedHalf::start(DESCRIPTORS).await;
    let mut honest = [established_link(&besieged.honest).await, established_link(&besieged.honest).await];
    let mut captured =
        [established_link(&besieged.captured).await, established_link(&besieged.captured).await];
    let taken = opens(&mut captured, DESCRIPTORS).await;
    assert!(taken < DESCRIPTORS, "the descriptors are the limit here");
    assert_eq!(opens(&mut honest, OF_HONEST).await, OF_HONEST, "the other one has taken {taken}");
    let is_full = |seen: &Snapshot| {
        let mut rows = seen.ended.iter().filter(|row| row.end == "LA");
        rows.any(|row| row.reason.contains("dmz's part of the backend connections"))
    };
    besieged.program.until("it learns why", is_full).await;
}

/// A check of the path, as far as it says, reaches a backend without a byte, and is over by the time that a check has.
#[tokio::test]
async fn a_probe_that_a_captured_dmz_half_makes_up_carries_no_byte_and_ends() {
    let backend = Backend::new().await;
    let inside = ServerHalf::new(&format!("orders: {{ connect: '{}' }}", backend.address())).await;
    let mut link = inside.link().await;
    let mut open = frames::open("s-1", None, "orders");
    frames::field(&mut open, 3, b"");
    let is_cut = async {
        link.send(&[frame(OPEN, &open), frame(DATA, b"no probe says this")].concat()).await;
        let served = backend.accept().await;
        loop {
            match link.next_within(2 * PROBE).await.expect("the link lives") {
                (PING, token) => link.send_frame(PONG, &token).await,
                (RESET, cause) => return (cause, served),
                (OPENED | DATA | CREDIT, _) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let (cause, mut served) = happens_after(PROBE, is_cut).await;
    assert_eq!(cause, frames::reset(3), "its time is over");
    let mut received = Vec::new();
    // However it ends.
    let _ = timeout(PATIENCE, served.read_to_end(&mut received)).await.expect("it ends in time");
    assert_eq!(received, b"");
    link.expect_pong(b"as ever.").await;
}
