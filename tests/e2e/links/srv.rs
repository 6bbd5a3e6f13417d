//! The targets of a name's SRV records, each of which is a gateway: how they share links, stand in for each other, and
//! what a server may say of them.

use portcullis::{
    profile::Mode,
    telemetry::snapshot::{PoolRow, PoolState, Snapshot},
};

use crate::support::{
    dns::{Dns, DnsAnswer, Zone},
    gateway::{Gateway, TestFolder},
    mode_pair::{Carrier, Plan},
    peers::{Backend, Reserved, dial, expect_bytes, send},
};

const HERE: [u8; 4] = [127, 0, 0, 1];

/// Records as they stand in a zone: priority, weight, port and target.
fn records(all: &[(u16, u16, u16, &str)]) -> Vec<(u16, u16, u16, String)> {
    all.iter().map(|(priority, weight, port, to)| (*priority, *weight, *port, (*to).to_owned())).collect()
}

fn zone(services: &[(u16, u16, u16, &str)]) -> Zone {
    let hosts = ["one.test", "two.test", "three.test", "dmz", "internal"].map(|host| (host, HERE.into()));
    Zone { services: records(services), hosts: hosts.into(), ..Zone::default() }
}

/// What is dialled stands at ports of its own, under certificates of the same name.
struct SrvGateways<'a> {
    folder: TestFolder,
    plan: Plan<'a>,
}

impl<'a> SrvGateways<'a> {
    fn new(plan: Plan<'a>) -> Self {
        Self { folder: TestFolder::new(), plan }
    }

    fn listening(&self, name: &str, at: &str) -> Gateway {
        let listen = format!("listen: '{}'", self.plan.link(at));
        let profile = match self.plan.mode {
            Mode::Forward => self.plan.internal(&listen),
            _ => self.plan.dmz(&listen),
        };
        self.folder.start(name, &profile)
    }

    /// Asks the server for these records, and keeps ten links.
    fn dialling(&self, dns: &Dns) -> Gateway {
        let link = self.plan.link("_portcullis._tcp.gate.test");
        let connect = format!("connect: 'srv+{link}', insecure: true, prepared: 10");
        let half = match self.plan.mode {
            Mode::Forward => self.plan.dmz(&connect),
            _ => self.plan.internal(&connect),
        };
        self.folder.start("dials", &format!("resolver: ['{}']\n{half}", dns.at))
    }

    fn address(&self, at: &str, port: u16) -> String {
        self.plan.link(&format!("{at}:{port}"))
    }
}

fn row<'a>(snapshot: &'a Snapshot, address: &str) -> Option<&'a PoolRow> {
    snapshot.pools.iter().find(|row| row.address.as_deref() == Some(address))
}

async fn until_linked(gateway: &Gateway, address: &str) {
    let is_linked = |snapshot: &Snapshot| {
        row(snapshot, address).is_some_and(|row| row.ready > 0 && row.state == PoolState::Healthy)
    };
    gateway.until(&format!("links to {address}"), is_linked).await;
}

async fn until_standby(gateway: &Gateway, address: &str) {
    let stands_by = |snapshot: &Snapshot| row(snapshot, address).is_some_and(|row| row.standby);
    gateway.until(&format!("{address} stands by"), stands_by).await;
}

#[tokio::test]
async fn targets_have_their_share_of_the_links_by_weight_over_every_carrier_in_both_modes() {
    for (mode, carrier) in [
        (Mode::Reverse, Carrier::Tcp),
        (Mode::Forward, Carrier::Tcp),
        (Mode::Reverse, Carrier::Ws),
        (Mode::Forward, Carrier::Ws),
    ] {
        let backend = Backend::new().await;
        let address = backend.address();
        let gateways = SrvGateways::new(Plan { carrier, ..Plan::new(mode, &address) });
        let [one, two] = [gateways.listening("one", "127.0.0.1:0"), gateways.listening("two", "127.0.0.1:0")];
        let [at_one, at_two] = [one.link_port().await.port(), two.link_port().await.port()];
        let zone = zone(&[(5, 40, at_one, "one.test."), (5, 10, at_two, "two.test.")]);
        let dns = Dns::new(DnsAnswer::Zone(zone)).await;
        let dials = gateways.dialling(&dns);
        let [to_one, to_two] = [gateways.address("one.test", at_one), gateways.address("two.test", at_two)];
        until_linked(&dials, &to_one).await;
        until_linked(&dials, &to_two).await;
        let snapshot = dials.now().await;
        let targets = [&to_one, &to_two].map(|to| row(&snapshot, to).unwrap().target);
        assert_eq!((snapshot.pools.len(), targets), (2, [8, 2]), "{mode:?} {carrier:?}");
        let name = Some("_portcullis._tcp.gate.test");
        assert!(snapshot.pools.iter().all(|row| row.name.as_deref() == name));
        if mode == Mode::Reverse {
            // The other half knows what it is to have.
            for (gateway, links) in [(&one, 8), (&two, 2)] {
                let is_whole = |snapshot: &Snapshot| {
                    let row = &snapshot.pools[0];
                    row.state == PoolState::Healthy && (row.ready, row.target) == (links, links)
                };
                gateway.until("its share", is_whole).await;
            }
        }
        let dmz = if mode == Mode::Forward { &dials } else { &one };
        let mut client = dial(dmz.client_port("orders").await).await;
        let mut server = backend.accept().await;
        send(&mut client, b"ping").await;
        expect_bytes(&mut server, b"ping").await;
    }
}

#[tokio::test]
async fn socks_links_and_tls_around_a_web_socket_go_to_targets_too() {
    for (mode, is_plain, carrier) in [
        (Mode::Reverse, true, Carrier::Tcp),
        (Mode::Forward, true, Carrier::Tcp),
        (Mode::Reverse, false, Carrier::Wss),
        (Mode::Forward, false, Carrier::Wss),
    ] {
        let backend = Backend::new().await;
        let address = backend.address();
        let gateways = SrvGateways::new(Plan { is_plain, carrier, ..Plan::new(mode, &address) });
        let listens = gateways.listening("listens", "127.0.0.1:0");
        let port = listens.link_port().await.port();
        // The outer certificate is asked for the target's own name where the profile gives none.
        let target = if mode == Mode::Forward { "internal" } else { "dmz" };
        let dns = Dns::new(DnsAnswer::Zone(zone(&[(0, 0, port, target)]))).await;
        let link = gateways.plan.link("_portcullis._tcp.gate.test");
        let connect = format!("connect: 'srv+{link}', insecure: true");
        let half = match mode {
            Mode::Forward => gateways.plan.dmz(&connect),
            _ => gateways.plan.internal(&connect),
        };
        let half = half.replace(&format!(", name: {target} }}"), " }");
        let dials = gateways.folder.start("dials", &format!("resolver: ['{}']\n{half}", dns.at));
        let to = gateways.address(target, port);
        let is_there =
            |snapshot: &Snapshot| row(snapshot, &to).is_some_and(|row| row.state == PoolState::Healthy);
        dials.until("the target", is_there).await;
        let dmz = if mode == Mode::Forward { &dials } else { &listens };
        let mut client = dial(dmz.client_port("orders").await).await;
        let mut server = backend.accept().await;
        send(&mut client, b"ping").await;
        expect_bytes(&mut server, b"ping").await;
    }
}

#[tokio::test]
async fn a_spare_stands_in_while_no_other_has_a_link_and_keeps_its_sessions_when_dropped() {
    for mode in [Mode::Reverse, Mode::Forward] {
        let backend = Backend::new().await;
        let address = backend.address();
        let gateways = SrvGateways::new(Plan::new(mode, &address));
        let first_at = Reserved::new();
        let spare = gateways.listening("spare", "127.0.0.1:0");
        let [at_first, at_spare] = [first_at.at().port(), spare.link_port().await.port()];
        let zone = zone(&[(10, 0, at_first, "one.test."), (20, 0, at_spare, "two.test.")]);
        let dns = Dns::new(DnsAnswer::Zone(zone)).await;
        let dials = gateways.dialling(&dns);
        let [to_first, to_spare] =
            [gateways.address("one.test", at_first), gateways.address("two.test", at_spare)];
        until_standby(&dials, &to_spare).await;
        let snapshot = dials.now().await;
        let row_of = |to: &str| row(&snapshot, to).map(|row| (row.ready, row.target, row.standby)).unwrap();
        assert_eq!((row_of(&to_first), row_of(&to_spare)), ((0, 10, false), (0, 0, true)));
        // Nobody is at the first.
        until_linked(&dials, &to_spare).await;
        assert!(dials.now().await.uptime_seconds >= 5.0);
        let dmz = if mode == Mode::Forward { &dials } else { &spare };
        let mut client = dial(dmz.client_port("orders").await).await;
        let mut server = backend.accept().await;
        send(&mut client, b"ping").await;
        expect_bytes(&mut server, b"ping").await;
        let _first = gateways.listening("first", &format!("127.0.0.1:{at_first}"));
        until_linked(&dials, &to_first).await;
        until_standby(&dials, &to_spare).await;
        let has_none_ready = |snapshot: &Snapshot| snapshot.pools.iter().all(|row| row.ready == 0);
        if mode == Mode::Reverse {
            spare.until("its links are closed", has_none_ready).await;
        }
        send(&mut client, b"still here").await;
        expect_bytes(&mut server, b"still here").await;
        send(&mut server, b"and back").await;
        expect_bytes(&mut client, b"and back").await;
    }
}

#[tokio::test]
async fn addresses_added_by_an_srv_server_are_ignored() {
    let backend = Backend::new().await;
    let address = backend.address();
    let gateways = SrvGateways::new(Plan::new(Mode::Reverse, &address));
    let listens = gateways.listening("listens", "127.0.0.1:0");
    let port = listens.link_port().await.port();
    let services = [
        (0, 0, port, "."),
        (0, 0, 0, "two.test."),
        (0, 0, port, "127.0.0.1."),
        (0, 0, port, "alias.test."),
        (9, 0, port, "ALIAS.test."),
    ];
    let honest = Zone {
        aliases: vec![("alias.test", "one.test")],
        // It would lead elsewhere, if it were believed.
        beside: vec![("alias.test", [127, 0, 0, 9].into()), ("one.test", [127, 0, 0, 9].into())],
        ..zone(&services)
    };
    let dns = Dns::new(DnsAnswer::Zone(honest.clone())).await;
    let dials = gateways.dialling(&dns);
    let to_alias = gateways.address("alias.test", port);
    until_linked(&dials, &to_alias).await;
    assert_eq!(dials.now().await.pools.len(), 1);
    let name = "name _portcullis._tcp.gate.test";
    dials
        .until_notice(&format!(
            "{name}: not dialled, because they are not usable addresses: .:{port}, 127.0.0.1.:{port}, two.test.:0"
        ))
        .await;
    // Nothing of this is a reason to close established links.
    for (answer, reported) in [
        (zone(&[(0, 0, port, ".")]), "it has no target that can be dialled; the last known"),
        (zone(&[]), "it has no SRV record; the last known"),
    ] {
        dns.set_answer(DnsAnswer::Zone(answer));
        dials.until_notice(&format!("{name}: {reported}")).await;
        until_linked(&dials, &to_alias).await;
        dns.set_answer_until_asked(DnsAnswer::Zone(honest.clone()), 4).await;
        dials.until_notice(&format!("{name}: it resolves again")).await;
    }
    let names: Vec<_> = (0..200).map(|number| format!("t{number:03}.test.")).collect();
    let mut many: Vec<_> = names.iter().map(|name| (1, 1, port, name.as_str())).collect();
    many.push((0, 0, port, "alias.test."));
    dns.set_answer(DnsAnswer::Zone(Zone { services: records(&many), ..honest }));
    dials.until_notice(&format!("{name}: it has 201 targets; the first 64 are dialled")).await;
    dials.until("the rows", |snapshot| snapshot.pools.len() == 64).await;
    until_linked(&dials, &to_alias).await;
    until_standby(&dials, &gateways.address("t062.test", port)).await;
}

#[tokio::test]
async fn a_target_without_an_address_is_reported_and_the_others_stay() {
    let backend = Backend::new().await;
    let address = backend.address();
    let gateways = SrvGateways::new(Plan::new(Mode::Reverse, &address));
    let listens = gateways.listening("listens", "127.0.0.1:0");
    let port = listens.link_port().await.port();
    let zone = zone(&[(0, 1, port, "one.test."), (0, 1, port, "gone.test.")]);
    let dns = Dns::new(DnsAnswer::Zone(zone.clone())).await;
    let dials = gateways.dialling(&dns);
    until_linked(&dials, &gateways.address("one.test", port)).await;
    let to_gone = gateways.address("gone.test", port);
    let reported = format!("gone.test:{port}: the name does not resolve: it has no address");
    let is_reported = |snapshot: &Snapshot| {
        row(snapshot, &to_gone).is_some_and(|row| row.last_error.as_deref() == Some(reported.as_str()))
    };
    dials.until("why there is no link", is_reported).await;
    let mut found = zone;
    found.hosts.push(("gone.test", HERE.into()));
    dns.set_answer(DnsAnswer::Zone(found));
    until_linked(&dials, &to_gone).await;
}
