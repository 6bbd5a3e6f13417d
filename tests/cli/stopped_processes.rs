//! A pause is not a failure: a gateway that is stopped for a few seconds and continued loses no
//! session, whichever half it is, whoever dials and whichever protocol the link uses. A longer stop
//! is noticed on links of our own protocol.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::process::{Gateway, SOON, TestFolder, until};

/// Each stall, one after the other.
const STALLS: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_millis(3600), Duration::from_millis(4900)];
/// A gateway that stands still for longer than 12 s is noticed; the rest is for a slow machine.
const NOTICED: Duration = Duration::from_secs(14);
/// Longer than any stall.
const ANSWERED: Duration = Duration::from_secs(20);
/// How often the sessions of a pair speak; 0: all the time, with more than a few words.
const EVERY_MS: [u64; 9] = [0, 100, 500, 700, 1000, 1400, 2000, 2600, 3000];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Dmz,
    Internal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkProtocol {
    OurOwn,
    Socks,
}

/// Two halves as processes of their own, serving an echo.
struct Halves<'a> {
    dmz: Gateway<'a>,
    internal: Gateway<'a>,
    clients: SocketAddr,
}

impl<'a> Halves<'a> {
    fn start(folder: &'a TestFolder, mode: &str, protocol: LinkProtocol, backend: &str) -> Self {
        let scheme = if protocol == LinkProtocol::OurOwn { "socks+tls" } else { "socks" };
        let tls = |half: &str, peer: &str| match protocol {
            LinkProtocol::Socks => String::new(),
            LinkProtocol::OurOwn => format!(
                ", tls: {{ certificate: pki/{half}.pem, key: pki/{half}.key, ca: pki/ca.pem, peers: [{peer}] }}"
            ),
        };
        let dmz = |link: &str| {
            let text = format!(
                "mode: {mode}\ndmz:\n  link: {{ {link}, prepared: 2{} }}\n  \
                 services: {{ echo: {{ accept: ['tcp://127.0.0.1:0'] }} }}\n",
                tls("dmz", "internal")
            );
            folder.write("dmz.yaml", &text);
            folder.start("dmz")
        };
        let internal = |link: &str| {
            let text = format!(
                "mode: {mode}\ninternal:\n  link: {{ {link}, prepared: 2{} }}\n  \
                 services: {{ echo: {{ connect: '{backend}' }} }}\n",
                tls("internal", "dmz")
            );
            folder.write("internal.yaml", &text);
            folder.start("internal")
        };
        let listen = format!("listen: '{scheme}://127.0.0.1:0'");
        let connect = |to: &Gateway<'_>| format!("connect: '{scheme}://127.0.0.1:{}'", to.link_port());
        let (dmz, internal) = match mode {
            "reverse" => {
                let dmz = dmz(&listen);
                let internal = internal(&connect(&dmz));
                (dmz, internal)
            }
            _ => {
                let internal = internal(&listen);
                (dmz(&connect(&internal)), internal)
            }
        };
        dmz.wait_healthy();
        internal.wait_healthy();
        let clients = dmz.accept("echo");
        Self { dmz, internal, clients }
    }

    fn of(&self, half: Half) -> &Gateway<'a> {
        match half {
            Half::Dmz => &self.dmz,
            Half::Internal => &self.internal,
        }
    }
}

/// Runs one session: sends and checks the echo until `is_over`; returns an error if it ended
/// earlier.
fn run_session(
    at: SocketAddr,
    every: Duration,
    is_over: &AtomicBool,
    sent: &AtomicU64,
) -> Result<(), String> {
    let reported = |what: &str, error: std::io::Error| format!("every {every:?}: {what}: {error}");
    let mut stream = TcpStream::connect(at).map_err(|error| reported("it connects", error))?;
    stream.set_read_timeout(Some(ANSWERED)).map_err(|error| reported("a timeout", error))?;
    let words = vec![7; if every.is_zero() { 60_000 } else { 64 }];
    let mut received = vec![0; words.len()];
    while !is_over.load(Ordering::Relaxed) {
        stream.write_all(&words).map_err(|error| reported("it says", error))?;
        stream.read_exact(&mut received).map_err(|error| reported("it receives", error))?;
        sent.fetch_add(1, Ordering::Relaxed);
        thread::sleep(every);
    }
    Ok(())
}

/// Sessions that speak at their own pace, while `half` is stopped again and again; and then for long.
fn check(mode: &str, protocol: LinkProtocol, half: Half) {
    let case = format!("{mode}, {protocol:?}, {half:?} is stopped");
    let folder = TestFolder::with_certificates();
    let halves = Halves::start(&folder, mode, protocol, "echo://");
    let (is_over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let sessions = EVERY_MS.map(|every| {
            let (at, is_over, sent) = (halves.clients, &is_over, &sent);
            scope.spawn(move || run_session(at, Duration::from_millis(every), is_over, sent))
        });
        until("every session speaks", SOON, || {
            let open = halves.dmz.status()["totals"]["sessions_open"].as_u64();
            (open == Some(EVERY_MS.len() as u64)).then_some(())
        });
        for stall in STALLS {
            halves.of(half).signal(Signal::STOP);
            thread::sleep(stall);
            halves.of(half).signal(Signal::CONT);
            let before = sent.load(Ordering::Relaxed);
            until("they go on", ANSWERED, || (sent.load(Ordering::Relaxed) > before).then_some(()));
        }
        is_over.store(true, Ordering::Relaxed);
        for session in sessions {
            assert_eq!(session.join().expect("no panic"), Ok(()), "{case}\n{}", halves.dmz.log());
        }
    });
    let lost = |gateway: &Gateway<'_>| gateway.log().contains("does not answer any more");
    assert!(!lost(&halves.dmz) && !lost(&halves.internal), "{case}: a ready link was lost");
    if protocol == LinkProtocol::OurOwn {
        check_noticed(&halves, half, &case);
    }
}

/// Stopped for good: the other half drops its links, those that carry included.
fn check_noticed(halves: &Halves<'_>, half: Half, case: &str) {
    let other = if half == Half::Dmz { Half::Internal } else { Half::Dmz };
    let mut client = TcpStream::connect(halves.clients).expect("it connects");
    client.write_all(b"x").expect("it is sent");
    client.read_exact(&mut [0]).expect("it comes back");
    halves.of(half).signal(Signal::STOP);
    let began = Instant::now();
    halves.of(other).wait(&format!("{case}: it is noticed"), NOTICED, |status| {
        let none = |pool: &Value| pool["ready"] == 0 && pool["carrying"] == 0;
        status["pools"].as_array().is_some_and(|pools| pools.iter().all(none))
            && status["totals"]["sessions_open"] == 0
    });
    assert!(began.elapsed() > Duration::from_secs(6), "{case}: {:?}", began.elapsed());
    halves.of(half).signal(Signal::CONT);
    halves.dmz.wait_healthy();
    halves.internal.wait_healthy();
}

#[test]
fn a_gateway_that_is_stopped_for_a_while_costs_no_session() {
    thread::scope(|scope| {
        let mut cases = Vec::new();
        for mode in ["reverse", "forward"] {
            for protocol in [LinkProtocol::OurOwn, LinkProtocol::Socks] {
                for half in [Half::Dmz, Half::Internal] {
                    cases.push(scope.spawn(move || check(mode, protocol, half)));
                }
            }
        }
        for case in cases {
            case.join().expect("every case holds");
        }
    });
}

/// A client and a backend that are gateways of their own between the words and the pair: each can be stopped.
fn check_ends(mode: &str, protocol: LinkProtocol) {
    let case = format!("{mode}, {protocol:?}");
    let folder = TestFolder::with_certificates();
    let relay = |name: &'static str, to: &str| {
        let service = format!("{{ accept: ['tcp://127.0.0.1:0'], connect: '{to}' }}");
        folder.write(
            &format!("{name}.yaml"),
            &format!("mode: direct\ndmz:\n  services: {{ echo: {service} }}\n"),
        );
        folder.start(name)
    };
    let backend = relay("backend", "echo://");
    let halves = Halves::start(&folder, mode, protocol, &format!("tcp://{}", backend.accept("echo")));
    let client = relay("client", &format!("tcp://{}", halves.clients));
    let at = client.accept("echo");
    let (is_over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let sessions = EVERY_MS.map(|every| {
            let (is_over, sent) = (&is_over, &sent);
            scope.spawn(move || run_session(at, Duration::from_millis(every), is_over, sent))
        });
        until("every session speaks", SOON, || {
            let open = halves.dmz.status()["totals"]["sessions_open"].as_u64();
            (open == Some(EVERY_MS.len() as u64)).then_some(())
        });
        for stopped in [&client, &backend] {
            for stall in STALLS {
                stopped.signal(Signal::STOP);
                thread::sleep(stall);
                stopped.signal(Signal::CONT);
                let before = sent.load(Ordering::Relaxed);
                until("they go on", ANSWERED, || (sent.load(Ordering::Relaxed) > before).then_some(()));
            }
        }
        is_over.store(true, Ordering::Relaxed);
        for session in sessions {
            assert_eq!(session.join().expect("no panic"), Ok(()), "{case}\n{}", halves.dmz.log());
        }
    });
    for half in [&halves.dmz, &halves.internal] {
        let ended = half.wait("all have ended", SOON, |status| status["totals"]["sessions_open"] == 0);
        let ended = ended["ended"].as_array().expect("rows").clone();
        assert!(ended.iter().all(|row| row["end"] == "--" || row["end"] == "CR"), "{case}: {ended:#?}");
    }
}

#[test]
fn a_client_or_a_backend_that_is_stopped_for_a_while_loses_no_session() {
    thread::scope(|scope| {
        for mode in ["reverse", "forward"] {
            for protocol in [LinkProtocol::OurOwn, LinkProtocol::Socks] {
                scope.spawn(move || check_ends(mode, protocol));
            }
        }
    });
}
