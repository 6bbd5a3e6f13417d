//! A backend that leads back to the gateway's own clients, written so that the profile does not show it.

use portcullis::{profile::Mode, telemetry::snapshot::Snapshot};

use crate::support::{
    gateway::{Gateway, TestFolder},
    mode_pair::{DMZ_TLS, INTERNAL_TLS, Plan},
    peers::{Reserved, dial_refused},
};

/// No session leads to another one: those at each half are the client's.
async fn is_refused_once(gateway: &Gateway, client: &Reserved, halves: usize) {
    dial_refused(client.at()).await;
    let all_over = |snapshot: &Snapshot| snapshot.totals.sessions_open == 0 && snapshot.ended.len() >= halves;
    let snapshot = gateway.until("the session's ends", all_over).await;
    let why = "it leads back to the clients of its own service";
    assert!(snapshot.ended.iter().all(|ended| ended.end == "BC"), "{:?}", snapshot.ended);
    assert!(snapshot.ended.iter().any(|ended| ended.reason.contains(why)), "{:?}", snapshot.ended);
    assert_eq!(snapshot.ended.len(), halves, "{:?}", snapshot.ended);
}

#[tokio::test]
async fn a_backend_that_leads_back_to_its_clients_is_not_dialled() {
    let (port, checked) = (Reserved::new(), Reserved::new());
    // By a name, which `check` takes for another host than the address.
    let [backend, checked_backend] =
        [&port, &checked].map(|reserved| format!("tcp://localhost:{}", reserved.at().port()));
    let accept = format!("tcp://{}", port.at());
    let pair = Plan { accept: &accept, ..Plan::new(Mode::Direct, &backend) }.start().await;
    is_refused_once(&pair.dmz, &port, 1).await;
    let folder = TestFolder::new();
    let text = format!(
        "mode: direct\ndmz:\n  services: {{ orders: {{ accept: ['tcp://{}'], connect: '{checked_backend}', check: {{ every: \
         1s, falls: 1 }} }} }}\n",
        checked.at()
    );
    let gateway = folder.start("checked", &text);
    let is_down = |snapshot: &Snapshot| {
        let mut rows = snapshot.services.iter().flat_map(|row| &row.backends);
        rows.any(|row| row.last_error.as_ref().is_some_and(|error| error.contains("it leads back")))
    };
    let snapshot = gateway.until("a failed check", is_down).await;
    assert_eq!((snapshot.totals.sessions, snapshot.totals.refused), (0, 0), "a check became a client");
}

#[tokio::test]
async fn both_halves_of_one_process_know_where_its_clients_come_in() {
    let (clients, links) = (Reserved::new(), Reserved::new());
    let (at, link) = (clients.at(), format!("socks+tls://{}", links.at()));
    let backend = format!("tcp://localhost:{}", at.port());
    for mode in ["reverse", "forward"] {
        let (outside, inside) = match mode {
            "reverse" => ("listen", "connect"),
            _ => ("connect", "listen"),
        };
        let text = format!(
            "mode: {mode}\ndmz:\n  link: {{ {outside}: '{link}', tls: {DMZ_TLS} }}\n  services: {{ orders: {{ \
             accept: ['tcp://{at}'] }} }}\ninternal:\n  link: {{ {inside}: '{link}', tls: {INTERNAL_TLS} }}\n  \
             services: {{ orders: {{ connect: '{backend}' }} }}\n"
        );
        let folder = TestFolder::new();
        let gateway = folder.start("both", &text);
        let linked = |snapshot: &Snapshot| snapshot.pools.iter().filter(|row| row.ready > 0).count() == 2;
        gateway.until("a link at both halves", linked).await;
        is_refused_once(&gateway, &clients, 2).await;
        gateway.stop().await;
    }
}
