//! Ports that are bound, waited for and closed, on addresses that this machine has and on one that it has not.

use super::*;
use crate::tests::happens_after;

fn at(host: &str, port: u16) -> HostPort {
    HostPort { host: host.into(), port }
}

fn found(addresses: &[&str], port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
    let address = |ip: &&str| SocketAddr::new(ip.parse().expect("an address"), port);
    Ok(addresses.iter().map(address).collect())
}

fn bind_now(host: &str, addresses: &[&str], port: u16) -> Result<Arc<Listener>, BindError> {
    bind(&at(host, port), found(addresses, port), BindPolicy::Now)
}

#[tokio::test]
async fn a_closed_port_refuses_before_the_accept_loop_runs_again() {
    let listener = bind_now("127.0.0.1", &["127.0.0.1"], 0).expect("a free port");
    let (at, closer) = (listener.local_addrs()[0], listener.closer());
    let dial = || std::net::TcpStream::connect(at);
    dial().expect("it listens");
    closer.close();
    assert_eq!(dial().expect_err("it is closed").kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(closer.listens_at(), []);
    let unused = |_, _| ();
    listener.accept(unused, |event| panic!("a closed port is not an error: {event:?}")).await;
}

#[tokio::test]
async fn a_name_listens_at_every_address_it_has_on_one_port() {
    let addresses = ["127.0.0.1", "::1", "127.0.0.1", "127.0.0.2"];
    let listener = bind_now("db", &addresses, 0).expect("a free port");
    let all = listener.local_addrs();
    let ips: Vec<_> = all.iter().map(|at| at.ip().to_string()).collect();
    assert_eq!(ips, ["127.0.0.1", "::1", "127.0.0.2"]);
    assert!(all.iter().all(|at| at.port() == all[0].port()), "{all:?}");
    let clients: Vec<_> =
        all.iter().map(|at| std::net::TcpStream::connect(at).expect("it listens")).collect();
    let (closer, mut arrived) = (listener.closer(), Vec::new());
    let accepted = |_, from| {
        arrived.push(from);
        if arrived.len() == clients.len() {
            closer.close();
        }
    };
    listener.accept(accepted, |event| panic!("{event:?}")).await;
    let mut dialled: Vec<_> = clients.iter().map(|client| client.local_addr().expect("its end")).collect();
    arrived.sort_unstable();
    dialled.sort_unstable();
    assert_eq!(arrived, dialled);
}

#[tokio::test]
async fn the_two_families_are_two_addresses() {
    let v4 = bind_now("0.0.0.0", &["0.0.0.0"], 0).expect("a free port");
    let port = v4.local_addrs()[0].port();
    let v6 = bind_now("::", &["::"], port).expect("the other family");
    std::net::TcpStream::connect(("::1", port)).expect("it listens");
    drop(v4);
    let refused = std::net::TcpStream::connect(("127.0.0.1", port)).expect_err("IPv6 alone");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    drop(v6);
    let _v4 = bind_now("0.0.0.0", &["0.0.0.0"], port).expect("it is free");
    bind_now("::1", &["::1"], port).expect("the other family");
}

#[tokio::test]
async fn an_address_that_this_machine_lacks_is_named() {
    let error = bind_now("192.0.2.7", &["192.0.2.7"], 443).expect_err("a documentation address");
    let event = error.to_string();
    assert!(event.starts_with("192.0.2.7:443: this machine has no such address"), "{event}");
    assert!(event.contains("`bind: wait`"), "{event}");
    // Another address of the same name is enough.
    let listener = bind_now("db", &["192.0.2.7", "127.0.0.1"], 0).expect("the one that is there");
    assert_eq!(listener.local_addrs().len(), 1);
    let taken = listener.local_addrs()[0].port();
    let error = bind_now("db", &["127.0.0.1"], taken).expect_err("it is taken");
    assert!(error.to_string().starts_with(&format!("127.0.0.1:{taken}: the port is taken")), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_yet_is_waited_for_and_then_listens() {
    // The name has an address by then, though it had none on this machine.
    let listener = bind(&at("localhost", 0), Err(ResolveError::NoAddress), BindPolicy::Wait);
    let listener = listener.expect("it waits");
    assert_eq!(listener.local_addrs(), []);
    let (closer, mut event) = (listener.closer(), Vec::new());
    let (mut listens, mut arrived) = (None, 0);
    let mut client = None;
    listener
        .accept(
            |_, _| {
                arrived += 1;
                closer.close();
            },
            |reports| {
                if let (ListenEvent::Listens(at), None) = (&reports, &client) {
                    listens = Some(*at);
                    client = Some(std::net::TcpStream::connect(at));
                }
                event.push(format!("{reports:?}"));
            },
        )
        .await;
    assert!(event[0].contains("Waits") && event[0].contains("does not resolve"), "{event:?}");
    assert!(listens.is_some_and(|at| at.ip().is_loopback()), "{event:?}");
    assert_eq!(arrived, 1);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_came_is_bound_at_the_next_try() {
    let missing = Err(ResolveError::NoAddress);
    let listener = bind(&at("127.0.0.1", 0), missing, BindPolicy::Wait).expect("it waits");
    let (closer, mut client) = (listener.closer(), None);
    let listens = |reports: ListenEvent<'_>| {
        if let ListenEvent::Listens(at) = reports {
            client = Some(std::net::TcpStream::connect(at));
        }
    };
    happens_after(BIND_RETRY_INTERVAL, listener.accept(|_, _| closer.close(), listens)).await;
}

#[tokio::test(start_paused = true)]
async fn an_address_that_never_comes_is_reported_once_and_waited_for() {
    let bound = bind(&at("db", 0), found(&["192.0.2.7", "127.0.0.1"], 0), BindPolicy::Wait);
    let listener = bound.expect("the one that is there");
    let mut event = Vec::new();
    let accepting = listener.accept(|_, _| (), |reports| event.push(format!("{reports:?}")));
    assert!(timeout(60 * BIND_RETRY_INTERVAL, accepting).await.is_err(), "it goes on");
    assert_eq!(event.len(), 1, "{event:?}");
    assert!(event[0].contains("192.0.2.7") && event[0].contains("no such address"), "{event:?}");
}
