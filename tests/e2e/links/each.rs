//! A name that is dialled at each of its addresses, whose server does not do what it should.

use std::net::{IpAddr, SocketAddr};

use portcullis::{
    gateway::handle::Command,
    profile::Mode,
    telemetry::snapshot::{PoolState, Snapshot},
};

use crate::support::{
    dns::{Dns, DnsAnswer},
    gateway::{Gateway, TestFolder},
    mode_pair::Plan,
    peers::{Backend, dial, expect_bytes, send},
};

fn ips(text: &str) -> Vec<IpAddr> {
    text.split_whitespace().map(|ip| ip.parse().unwrap()).collect()
}

fn addresses(text: &str) -> DnsAnswer {
    DnsAnswer::Addresses(ips(text), 1)
}

/// A pair whose dialling half asks this server, and where the other half listens.
struct EachPair {
    folder: TestFolder,
    profile: String,
    listens: Gateway,
    dials: Gateway,
    port: u16,
    mode: Mode,
}

impl EachPair {
    async fn start(mode: Mode, backend: &Backend, dns: &Dns, host: &str) -> Self {
        let (folder, address) = (TestFolder::new(), backend.address());
        let plan = Plan::new(mode, &address);
        let listen = "listen: 'socks+tls://127.0.0.1:0'";
        let listens = match mode {
            Mode::Forward => folder.start("internal", &plan.internal(listen)),
            _ => folder.start("dmz", &plan.dmz(listen)),
        };
        let port = listens.link_port().await.port();
        let connect = format!("connect: {{ address: 'socks+tls://{host}:{port}', each: true }}");
        let half = if mode == Mode::Forward { plan.dmz(&connect) } else { plan.internal(&connect) };
        let profile = format!("resolver: ['{}']\n{half}", dns.at);
        let dials = folder.start("dials", &profile);
        Self { folder, profile, listens, dials, port, mode }
    }

    fn address(&self, ip: &str) -> String {
        format!("socks+tls://{ip}:{}", self.port)
    }

    async fn until_linked(&self) {
        let linked = self.address("127.0.0.1");
        let is_it = |snapshot: &Snapshot| {
            let mut rows = snapshot.pools.iter();
            rows.any(|row| row.address.as_ref() == Some(&linked) && row.state == PoolState::Healthy)
        };
        self.dials.until("links to the one that listens", is_it).await;
    }

    /// The addresses that have a row, in order.
    async fn dialled(&self) -> Vec<String> {
        let mut rows: Vec<_> =
            self.dials.now().await.pools.iter().filter_map(|row| row.address.clone()).collect();
        rows.sort();
        rows
    }

    async fn carries_a_session(&self, backend: &Backend) {
        let dmz = if self.mode == Mode::Forward { &self.dials } else { &self.listens };
        let mut client = dial(dmz.client_port("orders").await).await;
        let mut server = backend.accept().await;
        send(&mut client, b"ping").await;
        expect_bytes(&mut server, b"ping").await;
    }
}

async fn survives_empty_answers(mode: Mode) {
    let (backend, dns) = (Backend::new().await, Dns::new(addresses("127.0.0.1")).await);
    let pair = EachPair::start(mode, &backend, &dns, "gate.test").await;
    pair.until_linked().await;
    let before = pair.dials.now().await.pools[0].failures;
    for (answer, reported) in [
        (DnsAnswer::NoName, "name gate.test: there is no such name; the last known addresses stay in use"),
        (DnsAnswer::Empty, "name gate.test: it has no address; the last known"),
        (addresses("0.0.0.0"), "name gate.test: it has no address that can be dialled; the last known"),
        (DnsAnswer::Failure, "answers: Server Failure; the last known"),
    ] {
        dns.set_answer(answer);
        pair.dials.until_notice(reported).await;
        assert_eq!(pair.dialled().await, [pair.address("127.0.0.1")]);
        dns.set_answer_until_asked(addresses("127.0.0.1"), 2).await;
    }
    pair.dials.until_notice("name gate.test: it resolves again, after ").await;
    assert_eq!(pair.dials.now().await.pools[0].failures, before, "no link was lost");
    pair.carries_a_session(&backend).await;
}

#[tokio::test]
async fn useless_dns_answers_change_nothing_and_are_reported() {
    tokio::join!(survives_empty_answers(Mode::Forward), survives_empty_answers(Mode::Reverse));
}

#[tokio::test]
async fn dns_garbage_and_silence_change_nothing_and_are_reported() {
    for answer in [DnsAnswer::Garbage, DnsAnswer::Cut, DnsAnswer::Silence] {
        let (backend, dns) = (Backend::new().await, Dns::new(addresses("127.0.0.1")).await);
        let pair = EachPair::start(Mode::Reverse, &backend, &dns, "gate.test").await;
        pair.until_linked().await;
        dns.set_answer(answer);
        pair.dials.until_notice(&format!("name server {}: no answer within 2s", dns.at)).await;
        assert_eq!(pair.dialled().await, [pair.address("127.0.0.1")]);
        pair.carries_a_session(&backend).await;
    }
}

#[tokio::test]
async fn unreachable_addresses_are_left_out_one_by_one() {
    let backend = Backend::new().await;
    let dns = Dns::new(addresses("0.0.0.0 224.0.0.1 127.0.0.1 :: ff02::1 ::1")).await;
    let pair = EachPair::start(Mode::Reverse, &backend, &dns, "gate.test").await;
    pair.until_linked().await;
    assert_eq!(pair.dialled().await, [pair.address("127.0.0.1"), pair.address("[::1]")]);
    let reported =
        "name gate.test: not dialled, because they are not usable addresses: 0.0.0.0, 224.0.0.1, ::, ff02::1";
    pair.dials.until_notice(reported).await;
}

/// As many as fit: a message has at most 65,535 bytes, and each address takes 25 of them as this server writes it (16 at
/// best, so that no answer has more than 4,094). One that claims to have 10,000 is cut, [`DnsAnswer::Cut`].
#[tokio::test]
async fn of_thousands_of_addresses_the_first_are_dialled() {
    let backend = Backend::new().await;
    let many: Vec<_> = (1..=2600_u32)
        .rev()
        .map(|number| IpAddr::from(std::net::Ipv4Addr::from_bits(0x7f00_0000 + number)))
        .collect();
    let dns = Dns::new(DnsAnswer::Addresses(many, 1)).await;
    let pair = EachPair::start(Mode::Reverse, &backend, &dns, "gate.test").await;
    pair.until_linked().await;
    let dialled = pair.dialled().await;
    assert_eq!(dialled.len(), 64);
    assert!(dialled.contains(&pair.address("127.0.0.64")), "{dialled:?}");
    pair.dials.until_notice("name gate.test: it has 2600 addresses; the first 64 are dialled").await;
    pair.carries_a_session(&backend).await;
}

#[tokio::test]
async fn a_name_that_is_not_known_is_a_row_of_its_own_until_it_is() {
    for mode in [Mode::Forward, Mode::Reverse] {
        let (backend, dns) = (Backend::new().await, Dns::new(DnsAnswer::NoName).await);
        let pair = EachPair::start(mode, &backend, &dns, "gate.test").await;
        let why = |snapshot: &Snapshot| snapshot.pools.first().and_then(|row| row.last_error.clone());
        let is_reported = |snapshot: &Snapshot| why(snapshot).as_deref() == Some("there is no such name");
        let snapshot = pair.dials.until("why", is_reported).await;
        assert_eq!(snapshot.pools[0].state, PoolState::Down);
        assert_eq!(snapshot.pools[0].address, Some(pair.address("gate.test")));
        dns.set_answer(addresses("127.0.0.1"));
        pair.until_linked().await;
        assert_eq!(pair.dialled().await, [pair.address("127.0.0.1")]);
        pair.carries_a_session(&backend).await;
    }
}

#[tokio::test]
async fn other_name_servers_and_other_gateways_come_with_a_reload() {
    let (backend, dns) = (Backend::new().await, Dns::new(addresses("127.0.0.1")).await);
    let pair = EachPair::start(Mode::Reverse, &backend, &dns, "gate.test").await;
    pair.until_linked().await;
    let other = Dns::new(addresses("127.0.0.1 127.0.0.9")).await;
    let swap = |from: &SocketAddr, to: &SocketAddr| pair.profile.replace(&from.to_string(), &to.to_string());
    pair.folder.profile("dials", &swap(&dns.at, &other.at));
    pair.dials.done(Command::Reload).await;
    let both = [pair.address("127.0.0.1"), pair.address("127.0.0.9")];
    pair.dials.until("the other server's answer", |snapshot| snapshot.pools.len() == 2).await;
    assert_eq!(pair.dialled().await, both);
    // Without `each` it is one gateway again, by its address.
    let one = format!("'socks+tls://127.0.0.1:{}'", pair.port);
    let each = format!("{{ address: 'socks+tls://gate.test:{}', each: true }}", pair.port);
    pair.folder.profile("dials", &pair.profile.replace(&each, &one));
    pair.dials.done(Command::Reload).await;
    pair.until_linked().await;
    assert_eq!(pair.dialled().await, [pair.address("127.0.0.1")]);
    pair.carries_a_session(&backend).await;
}

#[tokio::test]
async fn what_the_file_of_hosts_knows_is_dialled() {
    let (backend, dns) = (Backend::new().await, Dns::new(addresses("127.0.0.66")).await);
    let pair = EachPair::start(Mode::Reverse, &backend, &dns, "localhost").await;
    pair.until_linked().await;
    assert!(!pair.dialled().await.contains(&pair.address("127.0.0.66")));
}
