//! Peers and clients that a new profile would not let in again, while they are connected: the plan names them, and so
//! does the answer of the reload.

use std::{fs, sync::Arc};

use portcullis::{
    certs,
    gateway::handle::{Command, CommandAnswer},
    gateway::plan::SwitchPlan,
    profile::Mode,
};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    pool::{dmz, echoes, four, internal, tls, until_ready},
    support::{
        gateway::{Gateway, TestFolder},
        lists::ListMaker,
        mode_pair::{INTERNAL_TLS, Plan},
        peers::{dial, dial_from, expect_bytes, expect_reset, send},
        socks::{CONNECT, ask},
        tls::{client, link},
    },
    tls::classic_client,
};

async fn planned(gateway: &Gateway, folder: &TestFolder, name: &str, text: &str) -> Box<SwitchPlan> {
    let profile = folder.profile(name, text).to_str().unwrap().to_owned();
    let answer = gateway.handle.send_and_wait(Command::Plan { profile }).await;
    let CommandAnswer::Planned(plan) = answer else { panic!("{answer:?}") };
    plan
}

fn outer_text(tls: &str) -> String {
    format!(
        "mode: reverse\ndmz:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', tls: {tls}, prepared: 2 }}\n  \
         services: {{ orders: {{ accept: ['tcp://127.0.0.1:0'] }} }}\n"
    )
}

#[tokio::test]
async fn a_peer_that_the_new_ca_does_not_trust_is_named_and_its_sessions_go_on() {
    let folder = four();
    let other = folder.path("other");
    fs::create_dir(&other).unwrap();
    certs::write(&other, &[certs::HalfNames { half: "dmz", names: &[] }]).unwrap();
    let outer = dmz(&folder, "dmz", 0, "");
    let alpha = internal(&folder, "alpha", &[outer.link_port().await], "");
    until_ready(&outer, &[("alpha", 2)]).await;
    let mut open = [echoes(&outer).await, echoes(&outer).await];

    let same = planned(&outer, &folder, "dmz", &outer_text(&tls("dmz", "alpha, beta"))).await;
    assert!(same.loses.is_empty(), "{same}");
    let named = planned(&outer, &folder, "dmz", &outer_text(&tls("dmz", "beta"))).await;
    assert!(named.loses[0].contains("none of which is among this link's peers"), "{named}");
    let of_other = tls("dmz", "alpha, beta").replace("pki/", "other/");
    let plan = planned(&outer, &folder, "dmz", &outer_text(&of_other)).await;
    let line = &plan.loses[0];
    assert!(
        line.starts_with("alpha: no new link with it is possible: its certificate comes from another CA"),
        "{plan}"
    );
    let ends = "; 2 links and 2 open sessions go on until the sessions have ended, and `kill --peer alpha` ends them";
    assert!(line.ends_with(ends) && plan.loses.len() == 1, "{plan}");
    assert!(plan.to_string().lines().any(|shown| shown.trim() == format!("loses    {line}")), "{plan}");

    let done = outer.done(Command::Reload).await;
    assert!(done.contains(line.as_str()), "{done}");
    for client in &mut open {
        send(client, b"still here").await;
        expect_bytes(client, b"still here").await;
    }
    alpha.until("it is refused", |seen| seen.pools.iter().all(|row| row.ready == 0)).await;
}

/// No operator has asked for anything here.
#[tokio::test]
async fn a_ca_file_that_changes_names_the_peers_that_it_does_not_trust() {
    let folder = four();
    let other = folder.path("other");
    fs::create_dir(&other).unwrap();
    certs::write(&other, &[certs::HalfNames { half: "dmz", names: &[] }]).unwrap();
    let outer = dmz(&folder, "dmz", 0, "");
    let _alpha = internal(&folder, "alpha", &[outer.link_port().await], "");
    until_ready(&outer, &[("alpha", 2)]).await;
    for file in ["dmz.key", "dmz.pem", "ca.pem"] {
        fs::rename(other.join(file), folder.pki(file)).unwrap();
    }
    let line = outer.until_notice("alpha: no new link with it is possible: ").await;
    assert!(line.starts_with("certificates renewed: "), "{line}");
}

#[tokio::test]
async fn a_peer_that_a_new_list_revokes_is_named_before_it_is_cut() {
    let folder = four();
    let lists = ListMaker::new(&folder);
    lists.revoke("alpha");
    lists.issue();
    let outer = dmz(&folder, "dmz", 0, "");
    let _alpha = internal(&folder, "alpha", &[outer.link_port().await], "");
    until_ready(&outer, &[("alpha", 2)]).await;
    let mut open = echoes(&outer).await;
    let listed = tls("dmz", "alpha, beta").replace(" }", ", revoked: [pki/crl.pem] }");
    let plan = planned(&outer, &folder, "dmz", &outer_text(&listed)).await;
    assert_eq!(plan.loses, ["alpha: its certificate is revoked: 2 links and 1 open session are cut"]);
    let done = outer.done(Command::Reload).await;
    assert!(done.contains(&plan.loses[0]), "{done}");
    expect_reset(&mut open).await;
}

/// A program that is not ours, without a hybrid key exchange.
#[tokio::test]
async fn a_peer_without_a_hybrid_key_exchange_is_named_before_one_is_required() {
    let folder = TestFolder::new();
    let text = |link: &str| {
        format!(
            "mode: forward\ninternal:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', tls: {INTERNAL_TLS}{link} }}\n  \
             services: {{ orders: {{ connect: 'echo://' }} }}\n"
        )
    };
    let gateway = folder.start("internal", &text(""));
    let mut stream = link(classic_client(&folder), gateway.link_port().await, "internal").await;
    assert_eq!(ask(&mut stream, CONNECT, b"orders").await, 0);
    gateway.until("its session", |seen| !seen.sessions.is_empty()).await;
    let plan = planned(&gateway, &folder, "next", &text(", post_quantum: required")).await;
    let line = "dmz: no new link with it is possible: its links use X25519, and `post_quantum` takes X25519MLKEM768 \
                alone; 1 link and 1 open session go on until the sessions have ended, and `kill --peer dmz` ends them";
    assert_eq!(plan.loses, [line]);
    assert_eq!(plan.links, ["of the internal half: post_quantum changed"]);
}

const ACCEPT: &str = "{ address: 'tls://127.0.0.1:0', tls: { certificate: pki/www.pem, key: pki/www.key, \
                      ca: pki/ca.pem } }";

async fn tls_client(folder: &TestFolder, name: &str, gateway: &Gateway) -> TlsStream<TcpStream> {
    let stream = dial(gateway.client_port("orders").await).await;
    let shaking = TlsConnector::from(Arc::new(client(folder, name)));
    let mut stream = shaking.connect(ServerName::try_from("www").unwrap(), stream).await.unwrap();
    send(&mut stream, b"there?").await;
    expect_bytes(&mut stream, b"there?").await;
    stream
}

#[tokio::test]
async fn clients_whose_certificates_are_not_accepted_any_more_are_counted() {
    let folder = TestFolder::with(&["www", "partner", "guest"]);
    let other = folder.path("other");
    fs::create_dir(&other).unwrap();
    certs::write(&other, &[]).unwrap();
    let lists = ListMaker::new(&folder);
    lists.revoke("guest");
    lists.issue();
    let text = Plan { accept: ACCEPT, ..Plan::new(Mode::Direct, "echo://") }.direct();
    let gateway = folder.start("direct", &text);
    let _partner = tls_client(&folder, "partner", &gateway).await;
    let _guests =
        (tls_client(&folder, "guest", &gateway).await, tls_client(&folder, "guest", &gateway).await);
    let loses =
        async |from: &str, to: &str| planned(&gateway, &folder, "next", &text.replace(from, to)).await.loses;
    let ca = "ca: pki/ca.pem";
    assert!(loses(ca, ca).await.is_empty());
    let of_other_ca = loses(ca, "ca: other/ca.pem").await;
    let [line] = &of_other_ca[..] else { panic!("{of_other_ca:?}") };
    let begins = "orders: 3 client connections would not be let in again, and what is open goes on; the first: its \
                  certificate comes from another CA than this accept's `ca`";
    assert_eq!(line, begins);
    let of_names = loses(ca, "ca: pki/ca.pem, names: [partner]").await;
    let [line] = &of_names[..] else { panic!("{of_names:?}") };
    assert!(line.starts_with("orders: 2 client connections would not"), "{line}");
    let of_list = loses(ca, "ca: pki/ca.pem, revoked: pki/crl.pem").await;
    assert_eq!(of_list, ["orders: 2 client connections cut: the certificate is revoked"]);
    assert!(loses(", ca: pki/ca.pem", "").await.is_empty(), "nobody is asked for one");
}

#[tokio::test]
async fn clients_that_would_not_come_in_again_are_counted() {
    let folder = TestFolder::new();
    let with =
        |service: &'static str| Plan { dmz_service: service, ..Plan::new(Mode::Direct, "echo://") }.direct();
    let gateway = folder.start("direct", &with(""));
    let at = gateway.client_port("orders").await;
    let mut open = Vec::new();
    for from in ["127.0.0.1", "127.0.0.2", "127.0.0.2"] {
        let mut client = dial_from(from, at).await;
        send(&mut client, b"there?").await;
        expect_bytes(&mut client, b"there?").await;
        open.push(client);
    }
    let plan = async |service| planned(&gateway, &folder, "next", &with(service)).await;
    let denied = plan(", clients: { deny: [127.0.0.2] }").await;
    let line = "orders: 2 open sessions go on, though `clients` lets their clients in no more; \
                `kill --client ADDRESS` ends them";
    assert_eq!(denied.loses, [line]);
    let fewer = plan(", per_client: { sessions: 1 }").await;
    let line = "orders: 1 client with more open sessions than `per_client` allows, 1; new ones are refused until \
                fewer are open";
    assert_eq!(fewer.over, [line]);
    // Whatever the time is, one of them is over.
    let mut closed = Vec::new();
    for hours in [", hours: ['00:00-12:00'], timezone: UTC", ", hours: ['12:00-24:00'], timezone: UTC"] {
        closed.extend(plan(hours).await.loses);
    }
    let [line] = &closed[..] else { panic!("{closed:?}") };
    assert!(
        line.starts_with("orders: it is closed now by its new `hours`, ")
            && line.ends_with("; 3 open sessions stay"),
        "{line}"
    );
}
