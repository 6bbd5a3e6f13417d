//! A name each of whose addresses is a backend of its own, and a server for it that does not always answer.

use std::net::{IpAddr, SocketAddr};

use portcullis::{
    gateway::handle::Command,
    profile::Mode,
    telemetry::snapshot::{BackendRow, BackendRowState, ServicePhase, Snapshot},
};
use tokio::net::{TcpListener, TcpStream};

use super::http::{LAST, head};
use crate::support::{
    dns::{Dns, DnsAnswer},
    gateway::{Gateway, TestFolder},
    mode_pair::{MODES, Plan},
    peers::{dial, dial_refused, expect_bytes, send},
};

/// Servers at one port of several addresses.
struct Servers {
    listeners: Vec<TcpListener>,
    port: u16,
}

impl Servers {
    async fn new(count: u8) -> Self {
        loop {
            let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = first.local_addr().unwrap().port();
            let mut listeners = vec![first];
            for last in 2..=count {
                listeners.extend(TcpListener::bind((IpAddr::from([127, 0, 0, last]), port)).await.ok());
            }
            if listeners.len() == usize::from(count) {
                return Self { listeners, port };
            }
        }
    }

    /// Which of them a session has come to, counted from 1, and that.
    async fn accept(&self) -> (usize, TcpStream) {
        let accepting = self.listeners.iter().map(|listener| Box::pin(listener.accept()));
        let (accepted, at, _) = futures_util::future::select_all(accepting).await;
        (at + 1, accepted.unwrap().0)
    }

    async fn session(&self, at: SocketAddr) -> (usize, TcpStream, TcpStream) {
        let mut client = dial(at).await;
        let (number, mut server) = self.accept().await;
        send(&mut client, b"ping").await;
        expect_bytes(&mut server, b"ping").await;
        (number, client, server)
    }
}

fn addresses(text: &str) -> DnsAnswer {
    DnsAnswer::Addresses(text.split_whitespace().map(|ip| ip.parse().unwrap()).collect(), 1)
}

fn rows(snapshot: &Snapshot) -> Vec<BackendRow> {
    snapshot.services.iter().flat_map(|row| row.backends.clone()).collect()
}

fn shown(snapshot: &Snapshot) -> Vec<(String, BackendRowState)> {
    rows(snapshot).into_iter().map(|row| (row.address, row.state)).collect()
}

/// The half that reaches the backends asks this server.
struct Reached {
    folder: TestFolder,
    profile: String,
    dmz: Gateway,
    inner: Option<Gateway>,
}

impl Reached {
    async fn start(mode: Mode, backend: &str, accept: &str, dns: &Dns) -> Self {
        let (folder, plan) = (TestFolder::new(), Plan { accept, ..Plan::new(mode, backend) });
        let asking = |half: String| format!("resolver: ['{}']\n{half}", dns.at);
        let listen = "listen: 'socks+tls://127.0.0.1:0'";
        let connect = |at: SocketAddr| format!("connect: 'socks+tls://{at}'");
        let (profile, dmz, inner) = match mode {
            Mode::Direct => {
                let profile = asking(plan.direct());
                let dmz = folder.start("inner", &profile);
                (profile, dmz, None)
            }
            Mode::Forward => {
                let profile = asking(plan.internal(listen));
                let inner = folder.start("inner", &profile);
                let dmz = folder.start("dmz", &plan.dmz(&connect(inner.link_port().await)));
                (profile, dmz, Some(inner))
            }
            Mode::Reverse => {
                let dmz = folder.start("dmz", &plan.dmz(listen));
                let profile = asking(plan.internal(&connect(dmz.link_port().await)));
                let inner = folder.start("inner", &profile);
                (profile, dmz, Some(inner))
            }
        };
        Self { folder, profile, dmz, inner }
    }

    fn inner(&self) -> &Gateway {
        self.inner.as_ref().unwrap_or(&self.dmz)
    }

    async fn until_backends(&self, expected: &[(String, BackendRowState)]) {
        self.inner().until(&format!("{expected:?}"), |snapshot| shown(snapshot) == expected).await;
    }

    async fn client_port(&self) -> SocketAddr {
        self.dmz.client_port("orders").await
    }
}

use BackendRowState::{Down, Standby, Up};

#[tokio::test]
async fn every_address_of_a_name_is_a_backend_and_new_ones_get_their_turn() {
    for mode in MODES {
        let servers = Servers::new(3).await;
        let dns = Dns::new(addresses("127.0.0.2 0.0.0.0 127.0.0.1")).await;
        let backend = format!("{{ address: 'tcp://app.test:{}', each: true }}", servers.port);
        let reached = Reached::start(mode, &backend, "tcp://127.0.0.1:0", &dns).await;
        let row = |last: u8| (format!("tcp://127.0.0.{last}:{}", servers.port), Up);
        reached.until_backends(&[row(1), row(2)]).await;
        let names: Vec<_> = rows(&*reached.inner().now().await).into_iter().map(|row| row.name).collect();
        assert_eq!(names, [Some("app.test".to_owned()), Some("app.test".to_owned())]);
        let at = reached.client_port().await;
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(servers.session(at).await);
        }
        let mut numbers: Vec<_> = held.iter().map(|(number, ..)| *number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [1, 1, 2, 2], "{mode:?}");
        let reported = "name app.test: not dialled, because they are not usable addresses: 0.0.0.0";
        reached.inner().until_notice(reported).await;
        dns.set_answer(addresses("127.0.0.3 127.0.0.2 127.0.0.1"));
        reached.until_backends(&[row(1), row(2), row(3)]).await;
        for _ in 0..3 {
            held.push(servers.session(at).await);
        }
        assert_eq!(held.iter().filter(|(number, ..)| *number == 3).count(), 1, "{mode:?}");
        let open: Vec<_> =
            rows(&*reached.inner().now().await).into_iter().map(|row| row.sessions_open).collect();
        assert_eq!(open, [3, 3, 1]);
    }
}

#[tokio::test]
async fn an_unknown_name_is_reported_and_known_addresses_survive_the_server() {
    let servers = Servers::new(1).await;
    let dns = Dns::new(DnsAnswer::NoName).await;
    let backend = format!("{{ address: 'tcp://app.test:{}', each: true }}", servers.port);
    let reached = Reached::start(Mode::Direct, &backend, "tcp://127.0.0.1:0", &dns).await;
    reached.until_backends(&[(format!("tcp://app.test:{}", servers.port), Down)]).await;
    reached
        .dmz
        .until_notice("name app.test: there is no such name; the last known addresses stay in use")
        .await;
    let row = rows(&*reached.dmz.now().await).remove(0);
    assert_eq!(row.last_error.as_deref(), Some("there is no such name"));
    let at = reached.client_port().await;
    dial_refused(at).await;
    let reason = format!("no backend is up: tcp://app.test:{}: there is no such name", servers.port);
    let is_reported = |snapshot: &Snapshot| snapshot.ended.iter().any(|ended| ended.reason.contains(&reason));
    reached.dmz.until("why it was refused", is_reported).await;

    dns.set_answer(addresses("127.0.0.1"));
    let known = [(format!("tcp://127.0.0.1:{}", servers.port), Up)];
    reached.until_backends(&known).await;
    servers.session(at).await;
    // Under a profile that says something else of it, what was known stays so, whatever becomes of its server.
    dns.set_answer(DnsAnswer::Silence);
    let changed = reached.profile.replace(&backend, &format!("{backend}, rest: 7s"));
    assert_ne!(changed, reached.profile);
    reached.folder.profile("inner", &changed);
    reached.dmz.done(Command::Reload).await;
    reached.until_backends(&known).await;
    servers.session(at).await;
}

#[tokio::test]
async fn a_client_that_comes_before_the_first_answer_waits_for_it() {
    let servers = Servers::new(1).await;
    let dns = Dns::new(DnsAnswer::Silence).await;
    let backend = format!("{{ address: 'tcp://app.test:{}', each: true }}", servers.port);
    let reached = Reached::start(Mode::Direct, &backend, "tcp://127.0.0.1:0", &dns).await;
    let mut client = dial(reached.client_port().await).await;
    send(&mut client, b"ping").await;
    let connects = |snapshot: &Snapshot| !snapshot.sessions.is_empty();
    reached.dmz.until("it is a session", connects).await;
    dns.set_answer(addresses("127.0.0.1"));
    let (_, mut server) = servers.accept().await;
    expect_bytes(&mut server, b"ping").await;
}

#[tokio::test]
async fn checks_and_standby_are_those_of_each_address() {
    let servers = Servers::new(3).await;
    let dns = Dns::new(addresses("127.0.0.2 127.0.0.3")).await;
    let port = servers.port;
    let backend = format!(
        "['tcp://127.0.0.1:{port}', {{ address: 'tcp://app.test:{port}', each: true, standby: true }}], \
         check: {{ every: 100ms, timeout: 1s, falls: 2, rises: 2 }}"
    );
    let reached = Reached::start(Mode::Reverse, &backend, "tcp://127.0.0.1:0", &dns).await;
    let row = |last: u8, state| (format!("tcp://127.0.0.{last}:{port}"), state);
    reached.until_backends(&[row(1, Up), row(2, Standby), row(3, Standby)]).await;
    let Servers { mut listeners, .. } = servers;
    drop(listeners.remove(0));
    reached.until_backends(&[row(1, Down), row(2, Up), row(3, Up)]).await;
    drop(listeners.remove(0));
    reached.until_backends(&[row(1, Down), row(2, Down), row(3, Up)]).await;
    drop(listeners);
    let is_down = |snapshot: &Snapshot| snapshot.services.iter().any(|row| row.phase == ServicePhase::Down);
    reached.inner().until("the service is down", is_down).await;
    reached.dmz.until("the other half knows", is_down).await;
}

#[tokio::test]
async fn answers_that_name_the_host_are_rewritten_at_every_address() {
    let servers = Servers::new(2).await;
    let dns = Dns::new(addresses("127.0.0.2")).await;
    let backend = format!("{{ address: 'http://app.test:{}', each: true }}", servers.port);
    let reached = Reached::start(Mode::Reverse, &backend, "http://127.0.0.1:0", &dns).await;
    reached.until_backends(&[(format!("http://127.0.0.2:{}", servers.port), Up)]).await;
    let mut client = dial(reached.client_port().await).await;
    send(&mut client, LAST.as_bytes()).await;
    let (number, mut server) = servers.accept().await;
    head(&mut server).await;
    assert_eq!(number, 2);
    let moved = format!("HTTP/1.1 302 Found\r\nLocation: http://app.test:{}/next\r\n\r\n", servers.port);
    send(&mut server, moved.as_bytes()).await;
    let answer = head(&mut client).await;
    assert!(answer.contains(&"location: /next".to_owned()), "{answer:?}");
}
