//! Links through a proxy: both halves, every scheme, and proxies that do not do what they should.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use portcullis::{
    gateway::handle::Command,
    profile::Mode,
    source::{ChosenProfile, ProfileSource},
    tasks::Tasks,
    telemetry::snapshot::{PoolState, Snapshot},
    verify::steps::unanswered_alone,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::support::{
    dns::{Dns, DnsAnswer, Zone},
    gateway::{PATIENCE, TestFolder},
    mode_pair::{Carrier, ModePair, Plan},
    peers::{Backend, Reserved, expect_bytes, send},
    socks,
};

/// A proxy that speaks CONNECT or SOCKS5, and what it says to each who asks.
struct Proxy {
    at: SocketAddr,
    behaviour: Arc<Mutex<Behaviour>>,
    seen: Arc<ProxySeen>,
    _tasks: Tasks,
}

#[derive(Default)]
struct ProxySeen {
    /// Connections that were let through.
    passed: AtomicUsize,
    /// What it was asked for, in order.
    asked: Mutex<Vec<String>>,
}

/// What a proxy does with a request.
#[derive(Clone, Copy)]
enum Behaviour {
    /// Lets through whoever logs in so.
    Passes(Option<&'static str>),
    /// Lets everybody through, and cuts what is silent for this long.
    CutsAfter(Duration),
    /// Lets everybody through, by SOCKS5.
    UsesSocks,
    Answers(&'static [u8]),
    /// Reads the request, and sends nothing.
    Closes,
}

impl Proxy {
    async fn new(behaviour: Behaviour) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), behaviour).await
    }

    async fn at(at: SocketAddr, behaviour: Behaviour) -> Self {
        let port = TcpListener::bind(at).await.unwrap();
        let (at, seen, tasks) = (port.local_addr().unwrap(), Arc::<ProxySeen>::default(), Tasks::default());
        let behaviour = Arc::new(Mutex::new(behaviour));
        let (current, seen_by_task, connections) = (behaviour.clone(), seen.clone(), tasks.clone());
        tasks.spawn("proxy", async move {
            while let Ok((stream, _)) = port.accept().await {
                let behaviour = *current.lock().unwrap();
                connections.spawn("proxied", pass(stream, behaviour, seen_by_task.clone()));
            }
        });
        Self { at, behaviour, seen, _tasks: tasks }
    }

    /// Treats whoever comes from now on so.
    fn send(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    fn passed(&self) -> usize {
        self.seen.passed.load(Ordering::Relaxed)
    }

    fn asked(&self) -> Vec<String> {
        self.seen.asked.lock().unwrap().clone()
    }
}

async fn pass(mut stream: TcpStream, behaviour: Behaviour, seen: Arc<ProxySeen>) {
    if matches!(behaviour, Behaviour::UsesSocks) {
        // Whoever has asked may be gone.
        let _ = pass_by_socks(stream, &seen).await;
        return;
    }
    if matches!(behaviour, Behaviour::Closes) {
        let _ = stream.read(&mut [0; 1024]).await;
        return;
    }
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let login = match behaviour {
        Behaviour::Answers(words) => {
            // Whoever has asked may be gone.
            let _ = stream.write_all(words).await;
            let _ = stream.read(&mut [0; 1024]).await;
            return;
        }
        Behaviour::Passes(login) => login,
        Behaviour::CutsAfter(_) | Behaviour::UsesSocks | Behaviour::Closes => None,
    };
    if login.is_some_and(|login| !head.contains(&format!("Proxy-Authorization: Basic {login}\r\n"))) {
        let refused = "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=\"office\"\r\n\r\n";
        let _ = stream.write_all(refused.as_bytes()).await;
        return;
    }
    let to = head.split(' ').nth(1).unwrap();
    seen.asked.lock().unwrap().push(to.to_owned());
    let Ok(mut other) = TcpStream::connect(to).await else {
        let _ = stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await;
        return;
    };
    seen.passed.fetch_add(1, Ordering::Relaxed);
    // Whoever has asked may be gone.
    let _ = stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await;
    match behaviour {
        Behaviour::CutsAfter(silence) => pass_until_silent(stream, other, silence).await,
        Behaviour::Passes(_) | Behaviour::UsesSocks | Behaviour::Answers(_) | Behaviour::Closes => {
            let _ = copy_bidirectional(&mut stream, &mut other).await;
        }
    }
}

/// For one who asks without a login for an IPv4 address.
async fn pass_by_socks(mut stream: TcpStream, seen: &ProxySeen) -> io::Result<()> {
    let mut offer = [0; 3];
    stream.read_exact(&mut offer).await?;
    assert_eq!(offer, socks::SOCKS_OFFER);
    stream.write_all(&socks::SOCKS_METHOD).await?;
    let mut request = [0; 10];
    stream.read_exact(&mut request).await?;
    let [5, socks::CONNECT, 0, 1, a, b, c, d, high, low] = request else { panic!("{request:?}") };
    let to = SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low])));
    seen.asked.lock().unwrap().push(to.to_string());
    let mut other = TcpStream::connect(to).await?;
    seen.passed.fetch_add(1, Ordering::Relaxed);
    stream.write_all(&socks::reply(0)).await?;
    copy_bidirectional(&mut stream, &mut other).await?;
    Ok(())
}

/// Passes bytes on until none have arrived from either side for this long.
async fn pass_until_silent(mut one: TcpStream, mut other: TcpStream, silence: Duration) {
    let (mut up, mut down) = ([0; 16 * 1024], [0; 16 * 1024]);
    loop {
        let passed = timeout(silence, async {
            let (to, bytes) = tokio::select! {
                read = one.read(&mut up) => (&mut other, &up[..read?]),
                read = other.read(&mut down) => (&mut one, &down[..read?]),
            };
            if bytes.is_empty() {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            to.write_all(bytes).await
        });
        if !matches!(passed.await, Ok(Ok(()))) {
            return;
        }
    }
}

async fn carries_a_session(pair: &ModePair, backend: &Backend) {
    let mut client = pair.client().await;
    let mut server = backend.accept().await;
    send(&mut client, b"ping").await;
    expect_bytes(&mut server, b"ping").await;
    send(&mut server, b"pong").await;
    expect_bytes(&mut client, b"pong").await;
}

/// What a link may be: plain or in TLS, bare or inside a WebSocket.
const LINK_KINDS: [(Carrier, bool); 5] = [
    (Carrier::Tcp, true),
    (Carrier::Tcp, false),
    (Carrier::Ws, true),
    (Carrier::Ws, false),
    (Carrier::Wss, false),
];

async fn links_go_through(mode: Mode, scheme: &str, behaviour: Behaviour) {
    for (carrier, is_plain) in LINK_KINDS {
        let (proxy, backend) = (Proxy::new(behaviour).await, Backend::new().await);
        let via = format!(", via: '{scheme}://{}'", proxy.at);
        let address = backend.address();
        let (dmz_link, internal_link) =
            if mode == Mode::Forward { (via.as_str(), "") } else { ("", via.as_str()) };
        let plan = Plan { dmz_link, internal_link, is_plain, carrier, ..Plan::new(mode, &address) };
        let pair = plan.start().await;
        carries_a_session(&pair, &backend).await;
        assert!(proxy.passed() >= 1, "{mode:?} {scheme} {carrier:?} {is_plain}");
    }
}

#[tokio::test]
async fn links_of_both_halves_go_through_a_proxy() {
    for mode in [Mode::Forward, Mode::Reverse] {
        links_go_through(mode, "http", Behaviour::Passes(None)).await;
        links_go_through(mode, "socks5", Behaviour::UsesSocks).await;
    }
}

#[tokio::test]
async fn idle_links_live_behind_a_proxy_that_cuts_what_is_silent() {
    // The proxy cuts after more than the time between two pings of a WebSocket.
    tokio::join!(
        lives_behind_a_cutting_proxy(Mode::Reverse, (Carrier::Tcp, false), 8),
        lives_behind_a_cutting_proxy(Mode::Reverse, (Carrier::Wss, false), 8),
        lives_behind_a_cutting_proxy(Mode::Forward, (Carrier::Ws, false), 8),
        lives_behind_a_cutting_proxy(Mode::Reverse, (Carrier::Ws, true), 13),
    );
}

/// Both a ready link and one that carries a session of which nothing moves.
async fn lives_behind_a_cutting_proxy(mode: Mode, (carrier, is_plain): (Carrier, bool), seconds: u64) {
    let proxy = Proxy::new(Behaviour::CutsAfter(Duration::from_secs(seconds))).await;
    let link = format!(", prepared: 1, via: 'http://{}'", proxy.at);
    let plan = Plan { carrier, is_plain, ..Plan::new(mode, "echo://") };
    let plan = match mode {
        Mode::Forward => Plan { dmz_link: &link, ..plan },
        _ => Plan { dmz_link: ", prepared: 1", internal_link: &link, ..plan },
    };
    let pair = plan.start().await;
    let dials = if mode == Mode::Forward { &pair.dmz } else { pair.inner() };
    let mut client = pair.client().await;
    send(&mut client, b"here").await;
    expect_bytes(&mut client, b"here").await;
    // Over SOCKS5 the link of the session is replaced.
    let is_ready = |now: &Snapshot| now.pools.iter().all(|row| row.ready == 1 && row.dialling == 0);
    let began = dials.until("a ready link", is_ready).await.uptime_seconds;
    let passed = proxy.passed();
    let lived = |now: &Snapshot| now.uptime_seconds > began + 2.5 * seconds as f64;
    let seen = dials.until_within(Duration::from_secs(90), "more time than it takes", lived).await;
    let [row] = &seen.pools[..] else { panic!("{:?}", seen.pools) };
    let state = (row.state, row.failures, proxy.passed());
    assert_eq!(state, (PoolState::Healthy, 0, passed), "{mode:?} {carrier:?} {row:?}");
    send(&mut client, b"still here").await;
    expect_bytes(&mut client, b"still here").await;
}

/// A name is looked up where it is dialled, and the proxy is asked for an address; `verify` does the same.
async fn followed_names_go_through(mode: Mode, (scheme, behaviour): (&str, Behaviour), is_srv: bool) {
    let (folder, proxy, backend) = (TestFolder::new(), Proxy::new(behaviour).await, Backend::new().await);
    let address = backend.address();
    let plan = Plan::new(mode, &address);
    let listen = "listen: 'socks+tls://127.0.0.1:0'";
    let listens = match mode {
        Mode::Forward => folder.start("internal", &plan.internal(listen)),
        _ => folder.start("dmz", &plan.dmz(listen)),
    };
    let port = listens.link_port().await.port();
    let here = IpAddr::from([127, 0, 0, 1]);
    let (answer, connect) = match is_srv {
        false => {
            let connect = format!("connect: {{ address: 'socks+tls://gate.test:{port}', each: true }}");
            (DnsAnswer::Addresses(vec![here], 1), connect)
        }
        true => {
            // Nobody listens at the first that is tried.
            let hosts = vec![("gate.test", here), ("gate.test", [127, 0, 0, 9].into())];
            let services = vec![(0, 0, port, "gate.test.".to_owned())];
            let zone = Zone { services, hosts, ..Zone::default() };
            (DnsAnswer::Zone(zone), "connect: 'srv+socks+tls://_portcullis._tcp.gate.test'".to_owned())
        }
    };
    let dns = Dns::new(answer).await;
    let link = format!("{connect}, prepared: 1, via: '{scheme}://{}'", proxy.at);
    let half = if mode == Mode::Forward { plan.dmz(&link) } else { plan.internal(&link) };
    let dials = folder.start("dials", &format!("resolver: ['{}']\n{half}", dns.at));
    dials.until_pool("a link", |row| row.state == PoolState::Healthy).await;
    let tried: &[&str] = if is_srv { &["127.0.0.9", "127.0.0.1"] } else { &["127.0.0.1"] };
    let tried: Vec<_> = tried.iter().map(|ip| format!("{ip}:{port}")).collect();
    assert_eq!(proxy.asked(), tried, "{mode:?} {scheme} {is_srv}");
    if mode == Mode::Forward {
        verify_goes_through(&folder, &proxy).await;
        let pair = ModePair { folder, dmz: dials, internal: Some(listens) };
        carries_a_session(&pair, &backend).await;
    } else {
        let pair = ModePair { folder, dmz: listens, internal: Some(dials) };
        carries_a_session(&pair, &backend).await;
    }
}

/// Of a DMZ half in forward mode, by the profile of its own.
async fn verify_goes_through(folder: &TestFolder, proxy: &Proxy) {
    let source = ProfileSource {
        folders: vec![folder.path("")],
        half: None,
        pipes: portcullis::disk::PipePolicy::Refused,
    };
    let loaded = source.load_to_serve(&ChosenProfile::File(folder.path("dials.yaml")), None).unwrap();
    let passed = proxy.passed();
    assert_eq!(unanswered_alone(&loaded).await, None);
    assert!(proxy.passed() > passed, "{:?}", proxy.asked());
    let before = *proxy.behaviour.lock().unwrap();
    proxy.send(Behaviour::Closes);
    let reported = unanswered_alone(&loaded).await.unwrap();
    assert!(reported.contains(&format!("://{}: it closed the connection", proxy.at)), "{reported}");
    proxy.send(before);
}

#[tokio::test]
async fn names_that_are_followed_are_looked_up_here_and_dialled_through_the_proxy() {
    let proxies = [("http", Behaviour::Passes(None)), ("socks5", Behaviour::UsesSocks)];
    for mode in [Mode::Forward, Mode::Reverse] {
        for (scheme, behaviour) in proxies {
            followed_names_go_through(mode, (scheme, behaviour), false).await;
            followed_names_go_through(mode, (scheme, behaviour), true).await;
        }
    }
}

/// What a proxy does to the links of an internal half, until it lets them through.
struct ProxyCase {
    name: &'static str,
    words: &'static str,
    /// `None`: nobody listens.
    behaviour: Option<Behaviour>,
}

impl ProxyCase {
    async fn run(self, folder: TestFolder, dmz: SocketAddr) {
        let reserved = Reserved::new();
        let proxy = match self.behaviour {
            None => None,
            Some(behaviour) => Some(Proxy::new(behaviour).await),
        };
        let port = proxy.as_ref().map_or(reserved.at(), |proxy| proxy.at);
        let link = format!("connect: 'socks+tls://{dmz}', via: 'http://{port}', prepared: 1");
        let gateway = folder.start(self.name, &Plan::new(Mode::Reverse, "echo://").internal(&link));
        if matches!(self.behaviour, Some(Behaviour::CutsAfter(_))) {
            gateway.until_pool("a link", |row| row.state == PoolState::Healthy).await;
            // Whoever dials again waits, so that what was lost stays to be read.
            proxy.as_ref().unwrap().send(Behaviour::Answers(b""));
        }
        let row = gateway.until_pool(self.words, |row| row.last_error.is_some()).await;
        let reported = row.last_error.unwrap();
        assert!(
            reported.contains(self.words) && reported.contains(&port.to_string()),
            "{}: {reported}",
            self.name
        );
        let passed = proxy.as_ref().map_or(0, Proxy::passed);
        let proxy = match proxy {
            None => Proxy::at(port, Behaviour::Passes(None)).await,
            Some(proxy) => proxy,
        };
        proxy.send(Behaviour::Passes(None));
        let is_well =
            |now: &Snapshot| now.pools.iter().all(|row| row.state == PoolState::Healthy && row.ready > 0);
        gateway.until_within(4 * PATIENCE, "it is dialled again", is_well).await;
        assert!(proxy.passed() > passed, "{}", self.name);
    }
}

#[tokio::test]
async fn a_refusing_proxy_is_reported_in_its_own_words_and_dialled_again() {
    let folder = TestFolder::new();
    let dmz =
        folder.start("dmz", &Plan::new(Mode::Reverse, "echo://").dmz("listen: 'socks+tls://127.0.0.1:0'"));
    let at = dmz.link_port().await;
    let answers = |words: &'static [u8]| Some(Behaviour::Answers(words));
    let cases = [
        ("down", "connection refused", None),
        ("page", "answered with a web page", answers(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n<a/>")),
        ("refuses", "it refuses to connect to", answers(b"HTTP/1.1 403 Forbidden\r\n\r\n")),
        ("garbage", ": TLS: ", answers(b"HTTP/1.1 200 OK\r\n\r\n<html>sign in here</html>")),
        ("silent", "no answer within 5s", answers(b"")),
        ("locked", "requires a login", answers(b"HTTP/1.1 407 No\r\n\r\n")),
        ("closes", "it closed the connection before it answered", Some(Behaviour::Closes)),
        ("cuts", "ready link lost after ", Some(Behaviour::CutsAfter(Duration::from_secs(1)))),
    ];
    let run =
        cases.map(|(name, words, behaviour)| ProxyCase { name, words, behaviour }.run(folder.clone(), at));
    join_all(run).await;
}

#[tokio::test]
async fn a_login_stands_in_a_file_and_is_read_again_at_a_reload() {
    // `gate:s3cret`
    let (proxy, backend) =
        (Proxy::new(Behaviour::Passes(Some("Z2F0ZTpzM2NyZXQ="))).await, Backend::new().await);
    let folder = TestFolder::new();
    let write = |text: &str| {
        fs::write(folder.path("login"), text).unwrap();
        fs::set_permissions(folder.path("login"), fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("gate:wrong\n");
    let address = backend.address();
    let plan = Plan { ..Plan::new(Mode::Reverse, &address) };
    let dmz = folder.start("dmz", &plan.dmz("listen: 'socks+tls://127.0.0.1:0'"));
    let link = format!(
        "connect: 'socks+tls://{}', prepared: 1, via: 'http://{}', via_credentials: login",
        dmz.link_port().await,
        proxy.at
    );
    let internal = folder.start("internal", &plan.internal(&link));
    let refused = "rejected the credentials";
    let seen = internal.until_pool(refused, |row| row.last_error.is_some()).await;
    assert!(seen.last_error.unwrap().contains(refused));
    write("gate:s3cret");
    internal.done(Command::Reload).await;
    let pair = ModePair { folder: folder.clone(), dmz, internal: Some(internal) };
    pair.ready().await;
    carries_a_session(&pair, &backend).await;
    let shown = format!("{:?}", pair.inner().now().await);
    assert!(!shown.contains("s3cret") && !shown.contains("Z2F0Z"), "{shown}");
}
