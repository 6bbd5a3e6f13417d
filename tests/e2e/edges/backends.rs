//! Several backends of one service: which of them a session gets, and what becomes of it where one is not there.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use portcullis::{
    gateway::handle::Command,
    profile::{Half, Mode},
    telemetry::snapshot::{BackendRow, BackendRowState, EndedRow, ServicePhase, Snapshot},
};
use tokio::{io::AsyncReadExt, net::TcpListener, time::timeout};

use super::http::{LAST, OK, head, send_request};
use crate::support::{
    gateway::{Gateway, PATIENCE, happens_after},
    mode_pair::{MODES, ModePair, Plan},
    peers::{Backend, Reserved, dial, dial_refused, expect_bytes, send},
};

/// A pair whose service has these keys on the half that reaches its backends.
async fn start(mode: Mode, accept: &str, connect: &str, more: &str) -> ModePair {
    let backend = format!("{connect}{more}");
    Plan { accept, ..Plan::new(mode, &backend) }.start().await
}

fn rows(snapshot: &Snapshot) -> Vec<BackendRow> {
    snapshot.services.iter().flat_map(|row| row.backends.clone()).collect()
}

fn states(snapshot: &Snapshot) -> Vec<BackendRowState> {
    rows(snapshot).iter().map(|row| row.state).collect()
}

async fn client_port(pair: &ModePair) -> SocketAddr {
    pair.dmz.client_port("orders").await
}

/// A session that reaches this backend.
async fn reaches(at: SocketAddr, backend: &Backend) {
    let mut client = dial(at).await;
    let mut server = backend.accept().await;
    send(&mut client, b"ping").await;
    expect_bytes(&mut server, b"ping").await;
    drop(client);
    let _ = timeout(PATIENCE, server.read_to_end(&mut Vec::new())).await.expect("an end in time");
}

async fn until_states(gateway: &Gateway, expected: &[BackendRowState]) {
    gateway.until(&format!("{expected:?}"), |snapshot| states(snapshot) == expected).await;
}

use BackendRowState::{Down, Resting, Standby, Up};

#[tokio::test]
async fn sessions_take_turns_among_backends() {
    for mode in MODES {
        let backends = [Backend::new().await, Backend::new().await, Backend::new().await];
        let list = backends.each_ref().map(|backend| format!("'{}'", backend.address())).join(", ");
        let pair = start(mode, "tcp://127.0.0.1:0", &format!("[{list}]"), "").await;
        let at = client_port(&pair).await;
        for _ in 0..2 {
            for backend in &backends {
                reaches(at, backend).await;
            }
        }
        let seen = pair
            .inner()
            .until("all are over", |now| rows(now).iter().all(|row| row.sessions_open == 0))
            .await;
        for row in rows(&seen) {
            assert_eq!((row.state, row.sessions, row.failures), (Up, 2, 0), "{mode:?} {row:?}");
        }
        for backend in &backends {
            let its = |row: &&EndedRow| row.backend.as_deref() == Some(&*backend.address());
            assert_eq!(seen.ended.iter().filter(its).count(), 2, "{mode:?} {:?}", seen.ended);
        }
        if mode != Mode::Direct {
            let outer = pair.dmz.now().await;
            let known: Vec<_> = outer.ended.iter().filter(|row| row.half == Half::Dmz).collect();
            assert!(known.iter().all(|row| row.backend.is_none()), "it never learns them: {known:?}");
        }
    }
}

#[tokio::test]
async fn one_that_refuses_costs_no_client_its_session() {
    for mode in MODES {
        let (gone, good) = (Reserved::new(), Backend::new().await);
        let list = format!("['tcp://{}', '{}']", gone.at(), good.address());
        let pair = start(mode, "tcp://127.0.0.1:0", &list, "").await;
        let at = client_port(&pair).await;
        for _ in 0..4 {
            reaches(at, &good).await;
        }
        until_states(pair.inner(), &[Resting, Up]).await;
        let now = pair.inner().now().await;
        let [gone_row, good_row] = &rows(&now)[..] else { panic!("{now:?}") };
        // It is left alone after the first.
        assert_eq!((gone_row.failures, gone_row.sessions), (1, 0), "{mode:?}");
        assert!(gone_row.last_error.as_ref().unwrap().contains("refused"), "{gone_row:?}");
        assert_eq!(good_row.sessions, 4);
        let reported = pair.inner().until_notice("is down").await;
        assert!(reported.contains("`orders`") && reported.contains(&gone.at().to_string()), "{reported}");
        assert!(!now.ended.iter().any(|row| row.end != "--" && row.end != "CR"), "{:?}", now.ended);
    }
}

/// Listens, and takes nobody: its queue is full.
struct SilentBackend {
    at: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<tokio::net::TcpStream>,
}

async fn silent() -> SilentBackend {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let at = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    // The kernel accepts one or two more than the backlog.
    for _ in 0..8 {
        match dial_once(at).await {
            Some(stream) => queued.push(stream),
            None => return SilentBackend { at, _listener: listener, _queued: queued },
        }
    }
    panic!("its queue has no end");
}

async fn dial_once(at: SocketAddr) -> Option<tokio::net::TcpStream> {
    timeout(Duration::from_millis(300), tokio::net::TcpStream::connect(at)).await.ok()?.ok()
}

#[tokio::test]
async fn one_that_is_late_costs_no_client_its_session() {
    let (silent, good) = (silent().await, Backend::new().await);
    let list = format!("['tcp://{}', '{}']", silent.at, good.address());
    let pair = start(Mode::Reverse, "tcp://127.0.0.1:0", &list, "").await;
    let at = client_port(&pair).await;
    happens_after(Duration::from_millis(900), reaches(at, &good)).await;
    until_states(pair.inner(), &[Resting, Up]).await;
    reaches(client_port(&pair).await, &good).await;
}

#[tokio::test]
async fn a_standby_serves_while_the_others_do_not() {
    for mode in MODES {
        let (reserved, standby) = (Reserved::new(), Backend::new().await);
        let list =
            format!("['tcp://{}', {{ address: '{}', standby: true }}]", reserved.at(), standby.address());
        let pair = start(mode, "tcp://127.0.0.1:0", &list, ", rest: 300ms").await;
        let at = client_port(&pair).await;
        until_states(pair.inner(), &[Up, Standby]).await;
        reaches(at, &standby).await;
        until_states(pair.inner(), &[Up, Standby]).await;
        // The first is asked again when it has rested, and is there.
        let listener = std::net::TcpListener::bind(reserved.at());
        drop(reserved);
        let listener = match listener {
            Ok(listener) => listener,
            Err(_) => continue,
        };
        listener.set_nonblocking(true).unwrap();
        let first = Backend { listener: TcpListener::from_std(listener).unwrap() };
        reaches(at, &first).await;
        until_states(pair.inner(), &[Up, Standby]).await;
        pair.inner().until_notice("is up again").await;
    }
}

#[tokio::test]
async fn a_service_without_a_backend_that_is_well_is_down() {
    for mode in MODES {
        let reserved = Reserved::new();
        let backend = reserved.at();
        let check = ", check: { every: 50ms, timeout: 500ms, falls: 2, rises: 2 }";
        let pair =
            start(mode, "tcp://127.0.0.1:0", &format!("{{ address: 'tcp://{backend}' }}"), check).await;
        let at = client_port(&pair).await;
        until_states(pair.inner(), &[Down]).await;
        let is_down = |now: &Snapshot| now.services.iter().any(|row| row.phase == ServicePhase::Down);
        let seen = pair.inner().until("it is down", is_down).await;
        let reason = seen.services.iter().find_map(|row| row.reason.clone()).unwrap();
        assert!(reason.contains("no backend is up") && reason.contains(&backend.to_string()), "{reason}");
        dial_refused(at).await;
        pair.dmz.until("it is down for clients too", is_down).await;
        dial_refused(at).await;
        let reported = |row: &EndedRow| row.end == "BC" && row.reason.contains("no backend is up");
        pair.dmz.until("it is refused as down", |now| now.ended.iter().any(reported)).await;
        // It comes back.
        drop(reserved);
        let Ok(listener) = TcpListener::bind(backend).await else { continue };
        let back = Backend { listener };
        let serving = async {
            loop {
                drop(back.accept().await);
            }
        };
        tokio::select! {
            () = until_states(pair.inner(), &[Up]) => {}
            () = serving => {}
        }
        assert!(!is_down(&*pair.inner().now().await));
        pair.dmz.until("it is up for clients too", |now| !is_down(now)).await;
    }
}

#[tokio::test]
async fn a_service_that_goes_down_inside_is_soon_refused_outside() {
    for (mode, scheme) in
        [(Mode::Forward, "tcp"), (Mode::Reverse, "tcp"), (Mode::Forward, "http"), (Mode::Reverse, "http")]
    {
        let backend = Backend::new().await;
        let connect = format!("{{ address: '{}' }}", backend.address().replace("tcp", scheme));
        let check = ", check: { every: 50ms, timeout: 500ms, falls: 1, rises: 1 }";
        let pair = start(mode, &format!("{scheme}://127.0.0.1:0"), &connect, check).await;
        let at = super::http::port(&pair).await;
        until_states(pair.inner(), &[Up]).await;
        let is_down = |now: &Snapshot| now.services.iter().any(|row| row.phase == ServicePhase::Down);
        assert!(!is_down(&*pair.dmz.now().await), "{mode:?}");
        let gone = Instant::now();
        drop(backend);
        pair.dmz.until("it is down for clients too", is_down).await;
        // Within a second; the other one is a busy machine's.
        assert!(gone.elapsed() < Duration::from_secs(2), "{mode:?} {scheme}: {:?}", gone.elapsed());
        match scheme {
            "http" => {
                let answer = send_request(at, LAST).await;
                assert!(answer.starts_with("HTTP/1.1 503 "), "{mode:?}: {answer}");
            }
            _ => dial_refused(at).await,
        }
        let reported = |row: &EndedRow| row.end == "BC" && row.reason.contains("no backend is up");
        pair.dmz.until("it is refused as down", |now| now.ended.iter().any(reported)).await;
    }
}

#[tokio::test]
async fn a_backend_is_as_well_as_its_answers() {
    let backend = Backend::new().await;
    let connect = format!("{{ address: '{}' }}", backend.address().replace("tcp", "http"));
    let check = ", check: { every: 30ms, falls: 1, rises: 1, request: 'GET /healthz?a', expect: [200, 204] }";
    let pair = start(Mode::Direct, "http://127.0.0.1:0", &connect, check).await;
    let checks = async |status: &str, expected: BackendRowState| {
        let expected = [expected];
        let serve = async {
            loop {
                let mut server = backend.accept().await;
                let asked = head(&mut server).await;
                assert_eq!(asked[0], "GET /healthz?a HTTP/1.1");
                assert!(
                    asked.contains(&"connection: close".to_owned())
                        || asked.contains(&"Connection: close".to_owned()),
                    "{asked:?}"
                );
                send(&mut server, format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await;
            }
        };
        tokio::select! {
            () = until_states(&pair.dmz, &expected) => {}
            () = serve => {}
        }
    };
    for (status, expected) in [
        ("503 No", Down),
        ("204 Yes", Up),
        ("302 Elsewhere", Down),
        ("200 OK", Up),
        ("103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 503 No", Down),
        ("100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK", Up),
    ] {
        checks(status, expected).await;
    }
    // While it is down, clients get an error at once.
    checks("500 No", Down).await;
    let reported = send_request(super::http::port(&pair).await, LAST).await;
    assert!(reported.starts_with("HTTP/1.1 503 "), "{reported}");
}

#[tokio::test]
async fn one_that_is_taken_out_has_a_row_until_its_sessions_have_ended() {
    for mode in MODES {
        let backends = [Backend::new().await, Backend::new().await];
        let both = format!("['{}', '{}']", backends[0].address(), backends[1].address());
        let pair = start(mode, "tcp://127.0.0.1:0", &both, "").await;
        let at = client_port(&pair).await;
        let mut client = dial(at).await;
        let mut server = backends[0].accept().await;
        let name = if mode == Mode::Direct { "direct" } else { "internal" };
        let file = pair.folder.path(&format!("{name}.yaml"));
        let profile = std::fs::read_to_string(&file).unwrap();
        let one = format!("'{}'", backends[1].address());
        std::fs::write(&file, profile.replace(&both, &one)).unwrap();
        pair.inner().done(Command::Reload).await;
        let shown = |seen: &Snapshot| {
            let of = |row: BackendRow| (row.address, row.state, row.sessions_open);
            rows(seen).into_iter().map(of).collect::<Vec<_>>()
        };
        let stays = (backends[1].address(), Up, 0);
        let leaves = (backends[0].address(), Standby, 1);
        assert_eq!(shown(&*pair.inner().now().await), [stays.clone(), leaves], "{mode:?}");
        reaches(at, &backends[1]).await;
        send(&mut client, b"still here").await;
        expect_bytes(&mut server, b"still here").await;
        drop((client, server));
        pair.inner().until("its row goes", |seen| shown(seen) == [stays.clone()]).await;
    }
}

#[tokio::test]
async fn the_same_client_reaches_the_same_backend() {
    let backends = [Backend::new().await, Backend::new().await, Backend::new().await];
    let list = backends.each_ref().map(|backend| format!("'{}'", backend.address())).join(", ");
    let pair = start(Mode::Reverse, "tcp://127.0.0.1:0", &format!("[{list}]"), ", balance: client").await;
    let at = client_port(&pair).await;
    let reached = async || {
        let mut client = dial(at).await;
        let [first, second, third] = &backends;
        let (which, mut server) = tokio::select! {
            server = first.accept() => (0, server),
            server = second.accept() => (1, server),
            server = third.accept() => (2, server),
        };
        send(&mut client, b"x").await;
        expect_bytes(&mut server, b"x").await;
        which
    };
    let which = reached().await;
    for _ in 0..6 {
        assert_eq!(reached().await, which);
    }
}

#[tokio::test]
async fn the_one_with_the_fewest_open_sessions_is_next() {
    let backends = [Backend::new().await, Backend::new().await];
    let list = backends.each_ref().map(|backend| format!("'{}'", backend.address())).join(", ");
    let pair = start(Mode::Direct, "tcp://127.0.0.1:0", &format!("[{list}]"), ", balance: least").await;
    let at = client_port(&pair).await;
    let [one, other] = &backends;
    let mut open = Vec::new();
    for _ in 0..4 {
        let client = dial(at).await;
        let (which, server) = tokio::select! {
            server = one.accept() => (0, server),
            server = other.accept() => (1, server),
        };
        open.push((which, client, server));
    }
    let first = open.iter().filter(|(which, ..)| *which == 0).count();
    assert_eq!(first, 2);
    // Those of one leave, and the next two go there.
    open.retain(|(which, ..)| *which == 1);
    pair.dmz.until("two are left", |now| rows(now)[0].sessions_open == 0).await;
    let mut next = Vec::new();
    for _ in 0..2 {
        next.push((dial(at).await, one.accept().await));
    }
    pair.dmz.until("both have two", |now| rows(now).iter().all(|row| row.sessions_open == 2)).await;
}

#[tokio::test]
async fn requests_go_on_at_another_backend_under_its_own_path() {
    for mode in MODES {
        let backends = [Backend::new().await, Backend::new().await];
        let [one, other] = backends.each_ref().map(|backend| backend.address().replace("tcp", "http"));
        let list = format!("['{one}/a', '{other}/b']");
        let pair = start(mode, "http://127.0.0.1:0", &list, "").await;
        let [first, second] = backends;
        let mut client = dial(super::http::port(&pair).await).await;
        send(&mut client, super::http::GET.as_bytes()).await;
        let mut server = first.accept().await;
        assert_eq!(head(&mut server).await[0], "GET /a/ HTTP/1.1");
        send(&mut server, OK.as_bytes()).await;
        head(&mut client).await;
        expect_bytes(&mut client, b"ok").await;
        // It is gone just as the next request comes, which goes to the other.
        drop(first);
        let serve = async {
            head(&mut server).await;
            drop(server);
            let mut server = second.accept().await;
            assert_eq!(head(&mut server).await[0], "GET /b/ HTTP/1.1");
            let field = format!("Location: {other}/b/next\r\nContent");
            send(&mut server, OK.replace("Content", &field).as_bytes()).await;
            server
        };
        let ask = async {
            send(&mut client, super::http::GET.as_bytes()).await;
            head(&mut client).await
        };
        let (reported, _server) = tokio::join!(ask, serve);
        assert_eq!(reported[0], "HTTP/1.1 200 OK", "{mode:?}");
        assert!(reported.contains(&"location: /next".to_owned()), "{reported:?}");
        expect_bytes(&mut client, b"ok").await;
        let seen = pair.inner().now().await;
        let open: Vec<_> = rows(&seen).iter().map(|row| row.sessions_open).collect();
        assert_eq!(open, [0, 1], "{mode:?}");
    }
}
