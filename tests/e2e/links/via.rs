//! Links through a proxy: both halves, every scheme, and proxies that do not do what they should.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use portcullis::{gateway::handle::Command, profile::Mode, tasks::Tasks, telemetry::snapshot::PoolState};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::support::{
    gateway::Place,
    peers::{Backend, Reserved, hear, say},
    socks,
    ways::{Carrier, Plan, Way},
};

/// A proxy that speaks CONNECT or SOCKS5, and what it says to each who asks.
struct Proxy {
    at: SocketAddr,
    passed: Arc<AtomicUsize>,
    _tasks: Tasks,
}

/// What a proxy does with a request.
#[derive(Clone, Copy)]
enum Behaviour {
    /// Lets through whoever logs in so.
    Passes(Option<&'static str>),
    /// Lets everybody through, and cuts what is silent for so long.
    CutsAfter(Duration),
    /// Lets everybody through, by SOCKS5.
    SpeaksSocks,
    Says(&'static [u8]),
}

impl Proxy {
    async fn new(behaviour: Behaviour) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, passed, tasks) =
            (port.local_addr().unwrap(), Arc::<AtomicUsize>::default(), Tasks::default());
        let (counted, connections) = (passed.clone(), tasks.clone());
        tasks.spawn("proxy", async move {
            while let Ok((stream, _)) = port.accept().await {
                connections.spawn("proxied", pass(stream, behaviour, counted.clone()));
            }
        });
        Self { at, passed, _tasks: tasks }
    }

    fn passed(&self) -> usize {
        self.passed.load(Ordering::Relaxed)
    }
}

async fn pass(mut stream: TcpStream, behaviour: Behaviour, passed: Arc<AtomicUsize>) {
    if matches!(behaviour, Behaviour::SpeaksSocks) {
        // Whoever has asked may be gone.
        let _ = pass_by_socks(stream, &passed).await;
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
        Behaviour::Says(words) => {
            // Whoever has asked may be gone.
            let _ = stream.write_all(words).await;
            let _ = stream.read(&mut [0; 1024]).await;
            return;
        }
        Behaviour::Passes(login) => login,
        Behaviour::CutsAfter(_) | Behaviour::SpeaksSocks => None,
    };
    if login.is_some_and(|login| !head.contains(&format!("Proxy-Authorization: Basic {login}\r\n"))) {
        let refused = "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=\"office\"\r\n\r\n";
        let _ = stream.write_all(refused.as_bytes()).await;
        return;
    }
    let to = head.split(' ').nth(1).unwrap();
    let Ok(mut other) = TcpStream::connect(to).await else {
        let _ = stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await;
        return;
    };
    passed.fetch_add(1, Ordering::Relaxed);
    stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
    match behaviour {
        Behaviour::CutsAfter(silence) => pass_while_heard(stream, other, silence).await,
        Behaviour::Passes(_) | Behaviour::SpeaksSocks | Behaviour::Says(_) => {
            let _ = copy_bidirectional(&mut stream, &mut other).await;
        }
    }
}

/// For one who asks without a login for an IPv4 address.
async fn pass_by_socks(mut stream: TcpStream, passed: &AtomicUsize) -> io::Result<()> {
    let mut greeting = [0; 3];
    stream.read_exact(&mut greeting).await?;
    assert_eq!(greeting, socks::GREETING);
    stream.write_all(&socks::GREETED).await?;
    let mut request = [0; 10];
    stream.read_exact(&mut request).await?;
    let [5, socks::CONNECT, 0, 1, a, b, c, d, high, low] = request else { panic!("{request:?}") };
    let to = SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low])));
    let mut other = TcpStream::connect(to).await?;
    passed.fetch_add(1, Ordering::Relaxed);
    stream.write_all(&socks::reply(0)).await?;
    copy_bidirectional(&mut stream, &mut other).await?;
    Ok(())
}

/// Passes bytes on until none have come from either side for so long.
async fn pass_while_heard(mut one: TcpStream, mut other: TcpStream, silence: Duration) {
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

async fn carries_a_session(way: &Way, backend: &Backend) {
    let mut client = way.client().await;
    let mut server = backend.accept().await;
    say(&mut client, b"ping").await;
    hear(&mut server, b"ping").await;
    say(&mut server, b"pong").await;
    hear(&mut client, b"pong").await;
}

/// What a link may be: plain or in TLS, bare or inside a WebSocket.
const SCHEMES: [(Carrier, bool); 5] = [
    (Carrier::Tcp, true),
    (Carrier::Tcp, false),
    (Carrier::Ws, true),
    (Carrier::Ws, false),
    (Carrier::Wss, false),
];

async fn links_go_through(mode: Mode, scheme: &str, behaviour: Behaviour) {
    for (carrier, is_plain) in SCHEMES {
        let (proxy, backend) = (Proxy::new(behaviour).await, Backend::new().await);
        let via = format!(", via: '{scheme}://{}'", proxy.at);
        let address = backend.address();
        let (dmz_link, internal_link) =
            if mode == Mode::Forward { (via.as_str(), "") } else { ("", via.as_str()) };
        let plan = Plan { dmz_link, internal_link, is_plain, carrier, ..Plan::new(mode, &address) };
        let way = plan.start().await;
        carries_a_session(&way, &backend).await;
        assert!(proxy.passed() >= 1, "{mode:?} {scheme} {carrier:?} {is_plain}");
    }
}

#[tokio::test]
async fn links_of_both_halves_go_through_a_proxy() {
    for mode in [Mode::Forward, Mode::Reverse] {
        links_go_through(mode, "http", Behaviour::Passes(None)).await;
        links_go_through(mode, "socks5", Behaviour::SpeaksSocks).await;
    }
}

#[tokio::test]
async fn idle_links_live_behind_a_proxy_that_cuts_what_is_silent() {
    let proxy = Proxy::new(Behaviour::CutsAfter(Duration::from_secs(8))).await;
    let internal_link = format!(", prepared: 1, via: 'http://{}'", proxy.at);
    let way = Plan { internal_link: &internal_link, ..Plan::new(Mode::Reverse, "echo://") }.start().await;
    let passed = proxy.passed();
    let lived = |now: &portcullis::telemetry::snapshot::Snapshot| now.uptime_seconds > 20.0;
    let seen = way.inner().until_within(Duration::from_secs(60), "20 s are over", lived).await;
    let [row] = &seen.pools[..] else { panic!("{:?}", seen.pools) };
    assert_eq!((row.state, row.failures, proxy.passed()), (PoolState::Healthy, 0, passed), "{row:?}");
}

/// An internal half that dials a port where nobody needs to listen.
fn dials(place: &Place, name: &str, via: &str) -> crate::support::gateway::Gateway {
    let reserved = Reserved::new();
    let link = format!("connect: 'socks+tls://{}', {via}, prepared: 1", reserved.at());
    place.start(name, &Plan::new(Mode::Reverse, "echo://").internal(&link))
}

#[tokio::test]
async fn a_proxy_that_gives_no_way_through_is_told_in_its_own_words() {
    let place = Place::new();
    let down = Reserved::new();
    for (at, words, says) in [
        ("down", "connection refused", None),
        ("page", "answered with a page", Some(&b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n<a/>"[..])),
        ("refuses", "it refuses to connect to", Some(b"HTTP/1.1 403 Forbidden\r\n\r\n")),
        ("garbage", "through proxy http://", Some(b"HTTP/1.1 200 OK\r\n\r\n<html>sign in here</html>")),
        ("silent", "no answer within 5s", Some(b"")),
        ("locked", "asks for a user and a password", Some(b"HTTP/1.1 407 No\r\n\r\n")),
    ] {
        let proxy = match says {
            None => None,
            Some(words) => Some(Proxy::new(Behaviour::Says(words)).await),
        };
        let port = proxy.as_ref().map_or(down.at(), |proxy| proxy.at);
        let gateway = dials(&place, at, &format!("via: 'http://{port}'"));
        let row = gateway.until_pool(words, |row| row.last_error.is_some()).await;
        let reported = row.last_error.unwrap();
        assert!(reported.contains(words) && reported.contains(&port.to_string()), "{at}: {reported}");
    }
}

#[tokio::test]
async fn a_login_stands_in_a_file_and_is_read_again_at_a_reload() {
    // `gate:s3cret`
    let (proxy, backend) =
        (Proxy::new(Behaviour::Passes(Some("Z2F0ZTpzM2NyZXQ="))).await, Backend::new().await);
    let place = Place::new();
    let write = |text: &str| {
        fs::write(place.path("login"), text).unwrap();
        fs::set_permissions(place.path("login"), fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("gate:wrong\n");
    let address = backend.address();
    let plan = Plan { ..Plan::new(Mode::Reverse, &address) };
    let dmz = place.start("dmz", &plan.dmz("listen: 'socks+tls://127.0.0.1:0'"));
    let link = format!(
        "connect: 'socks+tls://{}', prepared: 1, via: 'http://{}', via_credentials: login",
        dmz.link_port().await,
        proxy.at
    );
    let internal = place.start("internal", &plan.internal(&link));
    let refused = "does not take the user and the password";
    let seen = internal.until_pool(refused, |row| row.last_error.is_some()).await;
    assert!(seen.last_error.unwrap().contains(refused));
    write("gate:s3cret");
    internal.done(Command::Reload).await;
    let way = Way { place: place.clone(), dmz, internal: Some(internal) };
    way.ready().await;
    carries_a_session(&way, &backend).await;
    let shown = format!("{:?}", way.inner().now().await);
    assert!(!shown.contains("s3cret") && !shown.contains("Z2F0Z"), "{shown}");
}
