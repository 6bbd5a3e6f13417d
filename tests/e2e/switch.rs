//! A running gateway moves from profile to profile; sessions notice nothing.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use portcullis::{
    gateway::handle::{Command, CommandAnswer},
    telemetry::snapshot::{Notice, PoolState, ServicePhase, Snapshot},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{interval, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::support::{
    gateway::{Gateway, PATIENCE, TestFolder, happens_after},
    mode_pair::{DMZ_TLS, INTERNAL_TLS},
    peers::{Backend, Reserved, dial, expect_bytes, expect_end, expect_reset, send},
};

/// A pair's profiles for each mode, on the same ports.
pub struct Pair {
    pub folder: TestFolder,
    pub dmz_link: Reserved,
    pub internal_link: Reserved,
    pub clients: Reserved,
}

impl Pair {
    pub fn new() -> Self {
        let (dmz_link, internal_link, clients) = (Reserved::new(), Reserved::new(), Reserved::new());
        Self { folder: TestFolder::new(), dmz_link, internal_link, clients }
    }

    fn dmz(&self, connect: &str) -> String {
        format!(
            "dmz:\n  link: {{ listen: 'socks+tls://{}', connect: 'socks+tls://{}', tls: {DMZ_TLS}, prepared: 2 }}\n  \
             services: {{ orders: {{ accept: ['tcp://{}']{connect} }} }}\n",
            self.dmz_link.at(),
            self.internal_link.at(),
            self.clients.at()
        )
    }

    fn internal(&self) -> String {
        format!(
            "internal:\n  link: {{ connect: 'socks+tls://{}', listen: 'socks+tls://{}', tls: {INTERNAL_TLS}, prepared: 2 }}\n  \
             services: {{ orders: {{ connect: 'echo://' }} }}\n",
            self.dmz_link.at(),
            self.internal_link.at()
        )
    }

    pub fn both(&self, mode: &str) -> PathBuf {
        // A short drain: it bounds a stop, never a session of a service that stays.
        let text = format!("mode: {mode}\ndrain: 100ms\n{}{}", self.dmz(""), self.internal());
        self.folder.profile(mode, &text)
    }

    pub fn half(&self, mode: &str, name: &str) -> PathBuf {
        let text = if name == "dmz" { self.dmz("") } else { self.internal() };
        self.folder.profile(&format!("{mode}-{name}"), &format!("mode: {mode}\n{text}"))
    }
}

/// Clients that come one after another, each served byte for byte, until they are asked to stop.
pub struct Load {
    clients: JoinSet<()>,
    served: Arc<AtomicUsize>,
    enough: CancellationToken,
}

impl Load {
    pub fn start(port: SocketAddr) -> Self {
        let (mut clients, served, enough) = (JoinSet::new(), Arc::default(), CancellationToken::new());
        for _ in 0..4 {
            let (served, enough) = (Arc::<AtomicUsize>::clone(&served), enough.clone());
            clients.spawn(async move {
                while !enough.is_cancelled() {
                    let mut client = dial(port).await;
                    let word = fastrand::u128(..).to_be_bytes();
                    send(&mut client, &word).await;
                    expect_bytes(&mut client, &word).await;
                    client.shutdown().await.unwrap();
                    expect_end(&mut client).await;
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self { clients, served, enough }
    }

    /// Waits until `more` clients have been served from now on.
    pub async fn serves(&self, more: usize) {
        let from = self.served.load(Ordering::Relaxed);
        let serving = async {
            let mut looks = interval(Duration::from_millis(2));
            while self.served.load(Ordering::Relaxed) < from + more {
                looks.tick().await;
            }
        };
        timeout(PATIENCE, serving).await.expect("new sessions are served");
    }

    /// Ends it; each client must have been served.
    pub async fn end(mut self) {
        self.enough.cancel();
        while let Some(client) = self.clients.join_next().await {
            client.unwrap();
        }
    }
}

/// Waits until nobody listens there any more.
pub async fn until_closed(at: SocketAddr) {
    let closing = async {
        let mut looks = interval(Duration::from_millis(2));
        loop {
            looks.tick().await;
            let refused = std::io::ErrorKind::ConnectionRefused;
            if TcpStream::connect(at).await.is_err_and(|error| error.kind() == refused) {
                return;
            }
        }
    };
    timeout(PATIENCE, closing).await.expect("the port is closed");
}

pub async fn ready(gateway: &Gateway) {
    let healthy = |snapshot: &Snapshot| snapshot.pools.iter().all(|row| row.state == PoolState::Healthy);
    gateway.until("every pool healthy", healthy).await;
}

pub async fn check_echo(session: &mut TcpStream, text: &str) {
    send(session, text.as_bytes()).await;
    expect_bytes(session, text.as_bytes()).await;
}

#[tokio::test]
async fn a_plan_names_each_service_that_is_not_the_same_and_what_that_ends() {
    let folder = TestFolder::new();
    let orders = "orders: { accept: ['tcp://127.0.0.1:0'], connect: 'echo://'";
    let profile = |name: &str, services: &str| {
        folder.profile(name, &format!("mode: direct\ndrain: 7s\ndmz:\n  services:\n{services}"))
    };
    let pages = |path: &str| {
        format!("    pages: {{ accept: ['http://127.0.0.1:0{path}'], connect: 'http://127.0.0.1:9' }}\n")
    };
    let mall = |host: &str, port: u16| {
        format!(
            "    mall: {{ accept: ['http://127.0.0.1:0'], hosts: {host}, connect: 'http://127.0.0.1:{port}' }}\n"
        )
    };
    let mail = "    mail: { accept: ['tcp://127.0.0.1:0'], connect: 'tcp://127.0.0.1:9' }\n";
    let before =
        profile("before", &format!("    {orders} }}\n{}{}{mail}", pages("/a"), mall("a.example", 9)));
    let news = "    news: { accept: ['tcp://127.0.0.1:0'], connect: 'echo://' }\n";
    profile(
        "after",
        &format!("    {orders}, sessions: 1 }}\n{}{}{news}", pages("/b"), mall("b.example", 10)),
    );
    let gateway = folder.start_file(&before);
    let port = gateway.client_port("orders").await;
    let mut open = [dial(port).await, dial(port).await];
    for client in &mut open {
        check_echo(client, "hello").await;
    }
    let CommandAnswer::Planned(plan) =
        gateway.handle.send_and_wait(Command::Plan { profile: "after".into() }).await
    else {
        panic!("no plan")
    };
    let text = plan.to_string();
    for line in [
        "removes  mail: accept tcp://127.0.0.1:0; backend tcp://127.0.0.1:9",
        "adds     news: accept tcp://127.0.0.1:0; backend echo://",
        "changes  orders: sessions 1, was 1000",
        "changes  mall: accept http://127.0.0.1:0 (hosts b.example), was http://127.0.0.1:0 (hosts a.example); \
         backend http://127.0.0.1:10, was http://127.0.0.1:9",
        "changes  pages: accept http://127.0.0.1:0/b, was http://127.0.0.1:0/a",
        "over     orders: 2 open sessions stay, and new ones are refused until fewer than 1 are",
    ] {
        assert!(text.lines().any(|reported| reported.trim() == line), "{line}\nis not in\n{text}");
    }
    let CommandAnswer::Planned(same) =
        gateway.handle.send_and_wait(Command::Plan { profile: "before".into() }).await
    else {
        panic!("no plan")
    };
    assert!(same.to_string().contains("opens    no port and no link, and closes none; no service changes"));
}

#[tokio::test]
async fn a_pair_moves_through_all_modes_under_load_with_a_session_open_throughout() {
    let pair = Pair::new();
    let gateway = pair.folder.start_file(&pair.both("forward"));
    ready(&gateway).await;
    let mut long = dial(pair.clients.at()).await;
    check_echo(&mut long, "from the start").await;
    let load = Load::start(pair.clients.at());
    for mode in ["reverse", "direct", "forward", "direct", "reverse", "forward"] {
        let line = gateway.switch(&pair.both(mode)).await;
        let (line, lasts) = line.split_once("; ").unwrap_or((&line, ""));
        assert_eq!(line, format!("profile `{mode}` is in force, mode {mode}"));
        let restart = "it lasts until this process ends: a restart begins with";
        assert_eq!(lasts.starts_with(restart), mode != "forward", "{lasts}");
        load.serves(10).await;
        check_echo(&mut long, mode).await;
        let snapshot = gateway.now().await;
        assert_eq!(snapshot.profile, mode);
        let expected = match mode {
            "direct" => vec![],
            "forward" => vec![format!("socks+tls://{}", pair.internal_link.at())],
            _ => vec![format!("socks+tls://{}", pair.dmz_link.at())],
        };
        assert_eq!(snapshot.listening, expected);
    }
    let snapshot = gateway.now().await;
    let bad: Vec<_> = snapshot.ended.iter().filter(|row| row.end != "--").collect();
    assert!(bad.is_empty(), "{bad:#?}");
    load.end().await;
    long.shutdown().await.unwrap();
    expect_end(&mut long).await;
    let snapshot = gateway.until("none open", |snapshot| snapshot.sessions.is_empty()).await;
    assert_eq!(snapshot.totals.refused, 0);
}

#[tokio::test]
async fn two_halves_are_switched_in_either_order_seconds_apart_under_load() {
    for first in ["dmz", "internal"] {
        let pair = Pair::new();
        let dmz = pair.folder.start_file(&pair.half("forward", "dmz"));
        let internal = pair.folder.start_file(&pair.half("forward", "internal"));
        ready(&dmz).await;
        let mut long = dial(pair.clients.at()).await;
        check_echo(&mut long, "from the start").await;
        let load = Load::start(pair.clients.at());
        for mode in ["reverse", "forward", "reverse"] {
            let (dmz_file, internal_file) = (pair.half(mode, "dmz"), pair.half(mode, "internal"));
            let apart = Duration::from_millis(if mode == "forward" { 3000 } else { 1000 });
            let (mut dmz_pause, mut internal_pause) = (apart, Duration::ZERO);
            if first == "dmz" {
                std::mem::swap(&mut dmz_pause, &mut internal_pause);
            }
            // The scenario itself: the other operator follows seconds later.
            let later = |pause| async move { tokio::time::sleep(pause).await };
            tokio::join!(
                async {
                    later(dmz_pause).await;
                    dmz.switch(&dmz_file).await
                },
                async {
                    later(internal_pause).await;
                    internal.switch(&internal_file).await
                },
            );
            load.serves(10).await;
            check_echo(&mut long, mode).await;
        }
        let snapshot = dmz.now().await;
        let bad: Vec<_> = snapshot.ended.iter().filter(|row| row.end != "--").collect();
        assert!(bad.is_empty() && snapshot.totals.refused == 0, "{first} first: {bad:#?}");
        load.end().await;
    }
}

#[tokio::test]
async fn a_switch_that_the_other_half_does_not_follow_goes_back() {
    let pair = Pair::new();
    let dmz = pair.folder.start_file(&pair.half("forward", "dmz"));
    let _internal = pair.folder.start_file(&pair.half("forward", "internal"));
    ready(&dmz).await;
    let load = Load::start(pair.clients.at());
    let file = pair.half("reverse", "dmz").to_str().unwrap().to_owned();
    let refused = dmz.refusal_of(Command::Switch { profile: file.clone() });
    let switching = tokio::join!(happens_after(Duration::from_secs(10), refused), async {
        let both =
            |snapshot: &Snapshot| snapshot.listening == [format!("socks+tls://{}", pair.dmz_link.at())];
        dmz.until("it listens on the new way", both).await;
        assert_eq!(dmz.refusal_of(Command::Switch { profile: file.clone() }).await, "a switch is under way");
        load.serves(10).await;
    });
    let expected = format!(
        "switch to `reverse-dmz` rolled back: not ready within 10s: no internal gateway has dialled in at \
         socks+tls://{}; nothing was changed",
        pair.dmz_link.at()
    );
    assert_eq!(switching.0, expected);
    load.serves(10).await;
    load.end().await;
    let snapshot = dmz.now().await;
    assert_eq!((snapshot.profile.as_str(), snapshot.listening.len()), ("forward-dmz", 0));
    assert_eq!(snapshot.totals.refused, 0);
    until_closed(pair.dmz_link.at()).await;
}

/// A gateway in direct mode, and the profile text of the services it should have next.
fn direct(drain: &str, services: &[(&str, SocketAddr, &str)]) -> String {
    let service = |(name, at, backend): &(&str, SocketAddr, &str)| {
        format!("    {name}: {{ accept: ['tcp://{at}'], connect: '{backend}' }}\n")
    };
    let services: String = services.iter().map(service).collect();
    format!("mode: direct\ndrain: {drain}\ndmz:\n  services:\n{services}")
}

#[tokio::test]
async fn a_service_that_the_new_profile_lacks_is_drained_and_then_cut() {
    let (folder, one, two) = (TestFolder::new(), Reserved::new(), Reserved::new());
    let both = direct("500ms", &[("one", one.at(), "echo://"), ("two", two.at(), "echo://")]);
    let gateway = folder.start("both", &both);
    let (mut ends, mut outlives, mut stays) =
        (dial(one.at()).await, dial(one.at()).await, dial(two.at()).await);
    for session in [&mut ends, &mut outlives, &mut stays] {
        check_echo(session, "open").await;
    }
    gateway.switch(&folder.profile("only", &direct("500ms", &[("two", two.at(), "echo://")]))).await;
    until_closed(one.at()).await;
    check_echo(&mut ends, "still").await;
    ends.shutdown().await.unwrap();
    expect_end(&mut ends).await;
    expect_reset(&mut outlives).await;
    assert_eq!(gateway.until_ended("OR").await.service, "one");
    gateway.until_notice("one: 1 session cut, the profile has no such service").await;
    check_echo(&mut stays, "not touched").await;
}

#[tokio::test]
async fn a_port_is_handed_from_one_service_to_another() {
    let (folder, port) = (TestFolder::new(), Reserved::new());
    let (old, new) = (Backend::new().await, Backend::new().await);
    let gateway = folder.start("old", &direct("30s", &[("old", port.at(), &old.address())]));
    let mut before = dial(port.at()).await;
    let mut old_server = old.accept().await;
    gateway.switch(&folder.profile("new", &direct("30s", &[("new", port.at(), &new.address())]))).await;
    let mut after = dial(port.at()).await;
    let mut new_server = new.accept().await;
    send(&mut before, b"old words").await;
    send(&mut after, b"new words").await;
    expect_bytes(&mut old_server, b"old words").await;
    expect_bytes(&mut new_server, b"new words").await;
    let snapshot = gateway.now().await;
    assert_eq!(snapshot.services.len(), 1);
    let row = &snapshot.services[0];
    assert_eq!((row.name.as_str(), row.phase, row.totals.sessions_open), ("new", ServicePhase::Open, 1));
    assert_eq!(row.accept, [format!("tcp://{}", port.at())]);
}

/// Everything but time: what must be as before.
fn shape(snapshot: &Snapshot) -> String {
    let services: Vec<_> = snapshot.services.iter().map(|row| (&row.name, &row.accept, row.phase)).collect();
    let rows = (services, &snapshot.profile, snapshot.mode, &snapshot.listening, snapshot.phase);
    format!("{rows:?}")
}

#[tokio::test]
async fn a_switch_that_cannot_begin_changes_nothing() {
    let (folder, port, free) = (TestFolder::new(), Reserved::new(), Reserved::new());
    let gateway = folder.start("good", &direct("30s", &[("orders", port.at(), "echo://")]));
    let mut open = dial(port.at()).await;
    check_echo(&mut open, "open").await;
    let before = shape(&*gateway.now().await);
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken_at = taken.local_addr().unwrap();
    let services =
        [("orders", port.at(), "echo://"), ("a", free.at(), "echo://"), ("b", taken_at, "echo://")];
    let collides = folder.profile("collides", &direct("30s", &services));
    let broken = folder.profile("broken", "mode: sideways\ndmz: 7\n");
    let no_certificate = folder.profile(
        "no-certificate",
        "mode: reverse\ndmz:\n  link: { listen: 'socks+tls://127.0.0.1:0', tls: { certificate: none.pem, \
         key: none.key, ca: none.pem, peers: [x] } }\n  services: { orders: { accept: ['tcp://127.0.0.1:0'] } }\n",
    );
    for (file, why) in [
        (&collides, format!("{taken_at}: the port is taken by this gateway")),
        (&broken, "broken.yaml:1:7: mode: ".into()),
        (&no_certificate, "none.pem".into()),
        (&folder.path("absent.yaml"), "there is no file".into()),
    ] {
        let refused = gateway.refusal_of(Command::Switch { profile: file.to_str().unwrap().into() }).await;
        assert!(refused.contains(&why), "`{why}` is not in: {refused}");
        assert_eq!(shape(&*gateway.now().await), before);
        check_echo(&mut open, "still").await;
    }
    // What was opened before the taken port was found is closed again.
    until_closed(free.at()).await;
    let begun = |line: &Notice| line.text.contains("begun");
    assert!(!gateway.now().await.notices.iter().any(begun));
}

#[tokio::test]
async fn a_plain_name_is_looked_up_by_the_gateway() {
    let (folder, port) = (TestFolder::new(), Reserved::new());
    let gateway = folder.start("one", &direct("30s", &[("orders", port.at(), "echo://")]));
    folder.profile("two", &direct("30s", &[("orders", port.at(), "echo://")]));
    gateway.done(Command::Switch { profile: "two".into() }).await;
    assert_eq!(gateway.now().await.profile, "two");
    let refused = gateway.refusal_of(Command::Switch { profile: "three".into() }).await;
    assert!(refused.contains("three"), "{refused}");
}

#[tokio::test]
async fn a_backend_that_moves_is_followed_by_a_reload() {
    let (folder, port) = (TestFolder::new(), Reserved::new());
    let (old, new) = (Backend::new().await, Backend::new().await);
    let gateway = folder.start("one", &direct("30s", &[("orders", port.at(), &old.address())]));
    let _before = dial(port.at()).await;
    let mut old_server = old.accept().await;
    folder.profile("one", &direct("30s", &[("orders", port.at(), &new.address())]));
    gateway.done(Command::Reload).await;
    let _after = dial(port.at()).await;
    new.accept().await;
    let still_open = timeout(Duration::from_millis(50), old_server.read_u8()).await;
    assert!(still_open.is_err(), "{still_open:?}");
}
