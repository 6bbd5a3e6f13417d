//! Routing: the service is chosen by the host of a request or the name in the ClientHello; and the client
//! is the one that a trusted proxy names.

use std::net::SocketAddr;

use portcullis::profile::Mode;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{
    http::{GET, LAST, OK, address, answer, answered, head, head_line, port, send_request},
    logins::{ALICE, OF_ALICE, folder, with},
    reuse::ServedConnections,
};
use crate::support::{
    gateway::TestFolder,
    mode_pair::{MODES, Plan},
    peers::{Backend, Reserved, dial, expect_bytes, expect_end, expect_reset, read_all, send},
};

/// What a backend receives of a request that is sent to a port.
async fn passed(at: SocketAddr, backend: &Backend, request: &str) -> Vec<String> {
    let mut client = dial(at).await;
    send(&mut client, request.as_bytes()).await;
    let mut server = backend.accept().await;
    let received = head(&mut server).await;
    send(&mut server, OK.as_bytes()).await;
    assert!(head_line(&mut client).await.ends_with(" 200 OK"), "{request}");
    received
}

#[tokio::test]
async fn a_host_is_the_same_however_it_is_written() {
    let (folder, reserved) = (TestFolder::new(), Reserved::new());
    let at = reserved.at();
    let backends = [Backend::new().await, Backend::new().await, Backend::new().await];
    let [shop, stars, six] = backends.each_ref().map(address);
    let text = format!(
        "mode: direct\ndmz:\n  services:\n    shop: {{ accept: 'http://{at}', hosts: shop.example., connect: '{shop}' }}\n    \
         stars: {{ accept: 'http://{at}', hosts: '*.stars.example', connect: '{stars}' }}\n    \
         six: {{ accept: 'http://{at}', hosts: ['0::1', localhost], connect: '{six}' }}\n"
    );
    let _gateway = folder.start("direct", &text);
    drop(reserved);
    for (target, host, index) in [
        ("/", "shop.example", 0),
        ("/", "Shop.Example.", 0),
        ("/", "shop.example.:8080", 0),
        ("/", "shop.example:", 0),
        ("http://shop.example:80/", "shop.example", 0),
        ("http://shop.example/", "SHOP.example.:80", 0),
        ("https://shop.example/", "shop.example:443", 0),
        ("/", "a.stars.example.", 1),
        ("/", "[::1]:8080", 2),
        ("/", "[0:0:0:0:0:0:0:1]", 2),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let received = passed(at, &backends[index], &request).await;
        assert_eq!(received[0], "GET / HTTP/1.1");
        assert!(received.contains(&format!("host: {host}")), "{received:?}");
    }
    for (target, host, status) in [
        ("/", "shop.example..", "404"),
        ("/", "stars.example", "404"),
        ("http://shop.example:81/", "shop.example", "400"),
        ("http://me@shop.example/", "shop.example", "400"),
        ("/", "gr\u{fc}n.example", "400"),
    ] {
        let reported =
            send_request(at, &format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
                .await;
        assert!(reported.starts_with(&format!("HTTP/1.1 {status} ")), "{target} {host}: {reported}");
    }
    // Several services have hosts, so none can mean one.
    assert!(send_request(at, "GET / HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.0 404 "));
}

#[tokio::test]
async fn no_spelling_of_a_path_gets_round_its_service() {
    let (folder, reserved) = (folder(ALICE), Reserved::new());
    let at = reserved.at();
    let backend = Backend::new().await;
    let to = address(&backend);
    let text = format!(
        "mode: direct\ndmz:\n  services:\n    open: {{ accept: 'http://{at}', connect: '{to}' }}\n    \
         admin: {{ accept: {{ address: 'http://{at}/admin', auth: {{ basic: users.htpasswd, insecure: true }} }}, connect: '{to}' }}\n    \
         app: {{ accept: 'http://{at}/app-1', connect: '{to}/own' }}\n"
    );
    let _gateway = folder.start("direct", &text);
    drop(reserved);
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    for (path, status) in [
        ("/admin", "401"),
        ("/%61dmin/x", "401"),
        ("/%61%64%6D%69%6e", "401"),
        ("/admin/%2e", "401"),
        ("//admin", "400"),
        ("/admin%2fx", "400"),
        ("/admin%2Fx", "400"),
        ("/%2fadmin", "400"),
        ("/admin%5cx", "400"),
        ("/./admin", "400"),
        ("/%2e/admin", "400"),
        ("/admin;a=b/x", "400"),
        ("http://h//admin", "400"),
    ] {
        let reported = send_request(at, &request(path)).await;
        assert!(reported.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {reported}");
    }
    for (path, expected) in [
        ("/admins", "/admins"),
        ("/a%2fb//c;d/.e?//admin", "/a%2fb//c;d/.e?//admin"),
        ("/%2561dmin", "/%2561dmin"),
        ("/app-1/%78", "/own/%78"),
        ("/%61pp%2D1/%78?%61", "/own/%78?%61"),
        ("http://h/%61pp-1", "/own"),
        ("/app-1//x%2fy;z", "/own//x%2fy;z"),
    ] {
        let received = passed(at, &backend, &request(path)).await;
        assert_eq!(received[0], format!("GET {expected} HTTP/1.1"), "{path}");
    }
    let received = passed(at, &backend, &with(&request("/%61dmin/x%79"), OF_ALICE)).await;
    assert_eq!(received[0], "GET /admin/x%79 HTTP/1.1");
    assert!(received.contains(&"x-forwarded-prefix: /admin".to_owned()), "{received:?}");
}

#[tokio::test]
async fn a_client_that_names_no_host_reaches_a_backend_that_wants_one() {
    let backend = Backend::new().await;
    let own = format!("host: {}", backend.listener.local_addr().unwrap());
    let to = address(&backend);
    for mode in MODES {
        for (accept, request, host) in [
            ("http://127.0.0.1:0", "GET / HTTP/1.0\r\n\r\n", own.as_str()),
            ("http://127.0.0.1:0", "GET / HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n", &own),
            ("http://127.0.0.1:0", "GET http://h:8/ HTTP/1.0\r\n\r\n", "host: h:8"),
            (
                "{ address: 'http://127.0.0.1:0', hosts: ['*.b.example', b.example, a.example] }",
                "GET / HTTP/1.0\r\n\r\n",
                "host: b.example",
            ),
        ] {
            let pair = Plan { accept, ..Plan::new(mode, &to) }.start().await;
            let received = passed(port(&pair).await, &backend, request).await;
            assert_eq!(received[0], "GET / HTTP/1.1");
            assert!(received.iter().any(|line| line == host), "{mode:?} {accept} {request}: {received:?}");
            assert!(!received.contains(&"x-forwarded-host:".to_owned()), "{received:?}");
        }
    }
}

#[tokio::test]
async fn who_asks_about_the_whole_port_is_answered() {
    let backend = Backend::new().await;
    let to = address(&backend);
    for accept in ["http://127.0.0.1:0", "http://127.0.0.1:0/shop", "ws://127.0.0.1:0/live"] {
        let plan = Plan { accept, dmz_service: ", carries: http", ..Plan::new(Mode::Reverse, &to) };
        let pair = plan.start().await;
        let mut client = dial(port(&pair).await).await;
        // The connection stays.
        for _ in 0..2 {
            let (head, body) = answered(&mut client, "OPTIONS * HTTP/1.1\r\nHost: any\r\n\r\n").await;
            assert_eq!((head[0].as_str(), body.as_str()), ("HTTP/1.1 200 OK", ""), "{accept}");
            assert!(head.iter().any(|line| line.starts_with("allow: GET, ")), "{head:?}");
        }
        let bad = send_request(port(&pair).await, "GET * HTTP/1.1\r\nHost: any\r\n\r\n").await;
        assert!(bad.starts_with("HTTP/1.1 400 "), "{bad}");
    }
}

#[tokio::test]
async fn an_idle_client_gives_its_permit_to_an_active_one() {
    for mode in MODES {
        let backend = Backend::new().await;
        let to = address(&backend);
        let plan =
            Plan { accept: "http://127.0.0.1:0", dmz_service: ", sessions: 3", ..Plan::new(mode, &to) };
        let pair = plan.start().await;
        let at = port(&pair).await;
        let mut served = ServedConnections::of(&backend);
        let serve = async |client: &mut TcpStream, served: &mut ServedConnections<'_>| {
            send(client, GET.as_bytes()).await;
            let mut server = served.next_request().await;
            send(&mut server, OK.as_bytes()).await;
            assert_eq!(head_line(client).await, "HTTP/1.1 200 OK");
            expect_bytes(client, b"ok").await;
            served.keep(server);
        };
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(dial(at).await);
            serve(clients.last_mut().unwrap(), &mut served).await;
        }
        // The first has rested for less time than the second then.
        serve(&mut clients[0], &mut served).await;
        let mut fourth = dial(at).await;
        send(&mut fourth, GET.as_bytes()).await;
        let mut server = served.next_request().await;
        expect_end(&mut clients.remove(1)).await;
        // The others stay as they are.
        for kept in &mut clients {
            serve(kept, &mut served).await;
        }
        // Work makes no room: three exchanges are under way, their answers begun or not.
        let mut begun = Vec::new();
        for client in &mut clients {
            send(client, GET.as_bytes()).await;
            let mut server = served.next_request().await;
            send(&mut server, &OK.as_bytes()[..OK.len() - 1]).await;
            head(client).await;
            begun.push(server);
        }
        let (refused, _) = answered(&mut dial(at).await, GET).await;
        assert_eq!(refused[0], "HTTP/1.1 503 Service Unavailable", "{mode:?}");
        send(&mut server, OK.as_bytes()).await;
        assert_eq!(head_line(&mut fourth).await, "HTTP/1.1 200 OK");
        expect_bytes(&mut fourth, b"ok").await;
        pair.dmz.until_ended("LA").await;
        pair.dmz.until("three are left", |snapshot| snapshot.totals.sessions_open == 3).await;
    }
}

/// What is inside counts sessions, idle or not; the half that knows which are idle makes room there.
#[tokio::test]
async fn a_client_at_rest_makes_room_where_the_inside_is_full() {
    for mode in [Mode::Forward, Mode::Reverse] {
        for limit in [", sessions: 2", ", per_peer: { sessions: 2 }"] {
            let backend = Backend::new().await;
            let to = format!("{{ address: '{}' }}{limit}", address(&backend));
            let plan =
                Plan { accept: "http://127.0.0.1:0", dmz_service: ", carries: http", ..Plan::new(mode, &to) };
            let pair = plan.start().await;
            let at = port(&pair).await;
            let mut served = ServedConnections::of(&backend);
            let mut clients = Vec::new();
            for _ in 0..2 {
                let mut client = dial(at).await;
                send(&mut client, GET.as_bytes()).await;
                let mut server = served.next_request().await;
                send(&mut server, OK.as_bytes()).await;
                assert_eq!(head_line(&mut client).await, "HTTP/1.1 200 OK");
                expect_bytes(&mut client, b"ok").await;
                served.keep(server);
                clients.push(client);
            }
            let mut third = dial(at).await;
            send(&mut third, GET.as_bytes()).await;
            let mut server = served.next_request().await;
            expect_end(&mut clients.remove(0)).await;
            // Work makes no room: two exchanges are under way.
            send(&mut clients[0], GET.as_bytes()).await;
            let _busy = served.next_request().await;
            let (refused, _) = answered(&mut dial(at).await, GET).await;
            assert_eq!(refused[0], "HTTP/1.1 503 Service Unavailable", "{mode:?}{limit}");
            send(&mut server, OK.as_bytes()).await;
            assert_eq!(head_line(&mut third).await, "HTTP/1.1 200 OK", "{mode:?}{limit}");
            expect_bytes(&mut third, b"ok").await;
        }
    }
}

#[tokio::test]
async fn a_session_that_rests_for_one_service_makes_room_while_its_client_asks_for_another() {
    let (folder, reserved) = (TestFolder::new(), Reserved::new());
    let at = reserved.at();
    let backends = [Backend::new().await, Backend::new().await];
    let [few, many] = backends.each_ref().map(address);
    let text = format!(
        "mode: direct\ndmz:\n  services:\n    few: {{ accept: 'http://{at}/few', connect: '{few}', sessions: 1 }}\n    \
         many: {{ accept: 'http://{at}', connect: '{many}' }}\n"
    );
    let gateway = folder.start("direct", &text);
    drop(reserved);
    let ask = |path: &str| GET.replace("GET /", &format!("GET {path}"));
    let mut client = dial(at).await;
    send(&mut client, ask("/few").as_bytes()).await;
    let mut resting = answer(&backends[0], OK).await;
    assert_eq!(head_line(&mut client).await, "HTTP/1.1 200 OK");
    expect_bytes(&mut client, b"ok").await;
    send(&mut client, ask("/many").as_bytes()).await;
    let mut server = backends[1].accept().await;
    head(&mut server).await;
    // Another one wants the place that rests; the exchange goes on.
    let mut other = dial(at).await;
    send(&mut other, ask("/few").as_bytes()).await;
    head(&mut resting).await;
    send(&mut server, OK.as_bytes()).await;
    assert_eq!(head_line(&mut client).await, "HTTP/1.1 200 OK");
    expect_bytes(&mut client, b"ok").await;
    // It asks again, and waits for nobody: the place is taken by work.
    let (refused, _) = answered(&mut client, &ask("/few")).await;
    assert_eq!(refused[0], "HTTP/1.1 503 Service Unavailable");
    send(&mut resting, OK.as_bytes()).await;
    assert_eq!(head_line(&mut other).await, "HTTP/1.1 200 OK");
    expect_bytes(&mut other, b"ok").await;
    send(&mut client, ask("/few").as_bytes()).await;
    head(&mut resting).await;
    send(&mut resting, OK.as_bytes()).await;
    assert_eq!(head_line(&mut client).await, "HTTP/1.1 200 OK");
    expect_end(&mut other).await;
    gateway.until("two sessions", |snapshot| snapshot.totals.sessions_open == 2).await;
}

/// A ClientHello of old, with these extensions: none of TLS 1.2 is among them.
fn old_hello(version: u8, extensions: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap().to_be_bytes();
    let mut body = vec![3, version];
    body.extend([7; 32]);
    body.extend(b"\0\0\x04\x00\x2f\x00\x35\x01\0");
    if !extensions.is_empty() {
        body.extend(length(extensions));
        body.extend(extensions);
    }
    let message = [&[1, 0][..], &length(&body), &body].concat();
    [&[22, 3, 1][..], &length(&message), &message].concat()
}

fn server_name_extension(name: &str) -> Vec<u8> {
    let length = u8::try_from(name.len()).unwrap();
    [&[0, 0, 0, length + 5, 0, length + 3, 0, 0, length][..], name.as_bytes()].concat()
}

#[tokio::test]
async fn a_client_of_an_old_tls_is_passed_on_by_the_name_it_asks_for() {
    let (folder, reserved) = (TestFolder::new(), Reserved::new());
    let at = reserved.at();
    let backends = [Backend::new().await, Backend::new().await];
    let [bank, any] = backends.each_ref().map(Backend::address);
    let text = format!(
        "mode: direct\ndmz:\n  services:\n    bank: {{ accept: 'tcp://{at}', sni: bank.example, connect: '{bank}' }}\n    \
         any: {{ accept: 'tcp://{at}', sni: ['*.example', other.example], connect: '{any}' }}\n"
    );
    let _gateway = folder.start("direct", &text);
    drop(reserved);
    for version in [0, 1, 2, 3] {
        for (name, index) in [("bank.example", 0), ("BANK.example.", 0), ("x.example", 1)] {
            let hello = old_hello(version, &server_name_extension(name));
            // All at once with more behind it, and in records of a few bytes.
            let pieces = hello[5..]
                .chunks(7)
                .flat_map(|piece| [&[22, 3, 1, 0, u8::try_from(piece.len()).unwrap()][..], piece].concat());
            for sent in [[&hello[..], b"more"].concat(), pieces.collect()] {
                let mut client = dial(at).await;
                send(&mut client, &sent).await;
                let mut server = backends[index].accept().await;
                expect_bytes(&mut server, &sent).await;
                send(&mut server, b"back").await;
                expect_bytes(&mut client, b"back").await;
                client.shutdown().await.unwrap();
                expect_end(&mut server).await;
            }
        }
        // No name here, and none at all.
        for none in [old_hello(version, &server_name_extension("elsewhere.test")), old_hello(version, b"")] {
            let mut client = dial(at).await;
            send(&mut client, &none).await;
            assert_eq!(read_all(&mut client).await, [21, 3, 3, 0, 2, 2, 112]);
        }
    }
}

/// What trusted proxies say of a client, the list that the backend gets, and who the client is.
const FORWARDED_CLIENTS: [(&str, &str, &str); 6] = [
    ("X-Forwarded-For: 192.0.2.7", "192.0.2.7, 127.0.0.1", "192.0.2.7:0"),
    (
        "X-Forwarded-For: 6.6.6.6, 192.0.2.7\r\nX-Forwarded-For: , 127.0.0.9",
        "6.6.6.6, 192.0.2.7, 127.0.0.9, 127.0.0.1",
        "192.0.2.7:0",
    ),
    (
        "X-Forwarded-For: [2001:db9::1]:443,2001:db8::7",
        "[2001:db9::1]:443, 2001:db8::7, 127.0.0.1",
        "[2001:db9::1]:0",
    ),
    ("X-Forwarded-For: 127.0.0.8, 127.0.0.9", "127.0.0.8, 127.0.0.9, 127.0.0.1", "127.0.0.8:0"),
    (
        "X-Forwarded-For: 192.0.2.7:5, unknown, 127.0.0.9",
        "192.0.2.7:5, unknown, 127.0.0.9, 127.0.0.1",
        "127.0.0.9:0",
    ),
    (
        "Forwarded: for=192.0.2.7;proto=https, for=\"[2001:db8::7]:4711\"",
        "192.0.2.7, [2001:db8::7]:4711, 127.0.0.1",
        "192.0.2.7:0",
    ),
];

#[tokio::test]
async fn who_a_trusted_proxy_names_is_the_client() {
    for mode in MODES {
        let backend = Backend::new().await;
        let to = address(&backend);
        let accept = "{ address: 'http://127.0.0.1:0', forwarded: { from: [127.0.0.0/8, '2001:db8::/32'] } }";
        let pair = Plan { accept, ..Plan::new(mode, &to) }.start().await;
        let at = port(&pair).await;
        let mut served = ServedConnections::of(&backend);
        for (fields, list, client) in FORWARDED_CLIENTS {
            let more =
                "X-Forwarded-Proto: https\r\nX-Forwarded-Host: public.example\r\nX-Real-IP: 6.6.6.6\r\n";
            let mut near = dial(at).await;
            send(&mut near, GET.replace("Host", &format!("{fields}\r\n{more}Host")).as_bytes()).await;
            let (mut server, received) = served.next_head().await;
            for field in [
                &format!("x-forwarded-for: {list}"),
                "x-forwarded-proto: https",
                "x-forwarded-host: public.example",
            ] {
                assert!(received.iter().any(|line| line == field), "{mode:?} {fields} {field}: {received:?}");
            }
            assert!(
                !received.iter().any(|line| line.contains("real-ip") || line.starts_with("forwarded")),
                "{received:?}"
            );
            let seen = pair.dmz.until("it is open", |snapshot| !snapshot.sessions.is_empty()).await;
            assert_eq!(seen.sessions[0].client, client, "{mode:?} {fields}");
            send(&mut server, OK.as_bytes()).await;
            head(&mut near).await;
            served.keep(server);
            drop(near);
            pair.dmz.until("it is over", |snapshot| snapshot.totals.sessions_open == 0).await;
        }
        // Two clients behind one connection share no session.
        let mut near = dial(at).await;
        for client in ["192.0.2.7", "192.0.2.8"] {
            send(&mut near, GET.replace("Host", &format!("X-Forwarded-For: {client}\r\nHost")).as_bytes())
                .await;
            let mut server = served.next_request().await;
            send(&mut server, OK.as_bytes()).await;
            served.keep(server);
            assert_eq!(head_line(&mut near).await, "HTTP/1.1 200 OK");
            expect_bytes(&mut near, b"ok").await;
        }
        send(&mut near, GET.replace("Host", "X-Forwarded-For: 192.0.2.7\r\nHost").as_bytes()).await;
        served.next_request().await;
        assert_eq!(pair.dmz.now().await.totals.sessions_open, 2);
    }
}

#[tokio::test]
async fn who_anybody_else_names_is_dropped_and_the_request_is_served() {
    let backend = Backend::new().await;
    let to = address(&backend);
    let accept = "{ address: 'http://127.0.0.1:0', forwarded: { from: [192.0.2.0/24] } }";
    let pair = Plan { accept, ..Plan::new(Mode::Direct, &to) }.start().await;
    let claimed = LAST.replace("Host", "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\nHost");
    let received = passed(port(&pair).await, &backend, &claimed).await;
    for field in ["x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http", "x-forwarded-host: h"] {
        assert!(received.iter().any(|line| line == field), "{received:?}");
    }
}

#[tokio::test]
async fn the_client_of_a_websocket_whose_frames_are_taken_off_is_whom_its_proxy_names() {
    let backend = Backend::new().await;
    let accept = "{ address: 'ws://127.0.0.1:0', forwarded: { from: [127.0.0.1] } }";
    let to = format!("{{ address: '{}', proxy: v1 }}", backend.address());
    let pair = Plan { accept, ..Plan::new(Mode::Reverse, &to) }.start().await;
    let mut near = dial(port(&pair).await).await;
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nX-Forwarded-For: 192.0.2.7\r\nHost";
    send(&mut near, GET.replace("Host", upgrade).as_bytes()).await;
    assert_eq!(head_line(&mut near).await, "HTTP/1.1 101 Switching Protocols");
    let mut server = backend.accept().await;
    expect_bytes(&mut server, b"PROXY TCP4 192.0.2.7 127.0.0.1 0 ").await;
    drop(near);
    expect_reset(&mut server).await;
}
