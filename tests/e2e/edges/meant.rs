//! Which service a client means: by the host of its requests, by the name in its ClientHello, whatever else
//! these say; and who it is, where a proxy before us tells.

use std::net::SocketAddr;

use portcullis::profile::Mode;

use super::http::{OK, address, answered, asked, head, head_line, port};
use crate::support::{
    gateway::Place,
    peers::{Backend, Reserved, dial, say},
    ways::{MODES, Plan},
};

/// What a backend hears of a request that is said to a port.
async fn passed(at: SocketAddr, backend: &Backend, request: &str) -> Vec<String> {
    let mut client = dial(at).await;
    say(&mut client, request.as_bytes()).await;
    let mut server = backend.accept().await;
    let heard = head(&mut server).await;
    say(&mut server, OK.as_bytes()).await;
    assert!(head_line(&mut client).await.ends_with(" 200 OK"), "{request}");
    heard
}

#[tokio::test]
async fn a_host_is_the_same_however_it_is_written() {
    let (place, reserved) = (Place::new(), Reserved::new());
    let at = reserved.at();
    let backends = [Backend::new().await, Backend::new().await, Backend::new().await];
    let [shop, stars, six] = backends.each_ref().map(address);
    let text = format!(
        "mode: direct\ndmz:\n  services:\n    shop: {{ accept: 'http://{at}', hosts: shop.example., connect: '{shop}' }}\n    \
         stars: {{ accept: 'http://{at}', hosts: '*.stars.example', connect: '{stars}' }}\n    \
         six: {{ accept: 'http://{at}', hosts: ['0::1', localhost], connect: '{six}' }}\n"
    );
    let _gateway = place.start("direct", &text);
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
        let heard = passed(at, &backends[index], &request).await;
        assert_eq!(heard[0], "GET / HTTP/1.1");
        assert!(heard.contains(&format!("host: {host}")), "{heard:?}");
    }
    for (target, host, status) in [
        ("/", "shop.example..", "404"),
        ("/", "stars.example", "404"),
        ("http://shop.example:81/", "shop.example", "400"),
        ("http://me@shop.example/", "shop.example", "400"),
        ("/", "gr\u{fc}n.example", "400"),
    ] {
        let told =
            asked(at, &format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
        assert!(told.starts_with(&format!("HTTP/1.1 {status} ")), "{target} {host}: {told}");
    }
    // Several services have hosts, so none can mean one.
    assert!(asked(at, "GET / HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.0 404 "));
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
            let way = Plan { accept, ..Plan::new(mode, &to) }.start().await;
            let heard = passed(port(&way).await, &backend, request).await;
            assert_eq!(heard[0], "GET / HTTP/1.1");
            assert!(heard.iter().any(|line| line == host), "{mode:?} {accept} {request}: {heard:?}");
            assert!(!heard.contains(&"x-forwarded-host:".to_owned()), "{heard:?}");
        }
    }
}

#[tokio::test]
async fn who_asks_about_the_whole_port_is_answered() {
    let backend = Backend::new().await;
    let to = address(&backend);
    for accept in ["http://127.0.0.1:0", "http://127.0.0.1:0/shop", "ws://127.0.0.1:0/live"] {
        let plan = Plan { accept, dmz_service: ", carries: http", ..Plan::new(Mode::Reverse, &to) };
        let way = plan.start().await;
        let mut client = dial(port(&way).await).await;
        // The connection stays.
        for _ in 0..2 {
            let (head, body) = answered(&mut client, "OPTIONS * HTTP/1.1\r\nHost: any\r\n\r\n").await;
            assert_eq!((head[0].as_str(), body.as_str()), ("HTTP/1.1 200 OK", ""), "{accept}");
            assert!(head.iter().any(|line| line.starts_with("allow: GET, ")), "{head:?}");
        }
        let bad = asked(port(&way).await, "GET * HTTP/1.1\r\nHost: any\r\n\r\n").await;
        assert!(bad.starts_with("HTTP/1.1 400 "), "{bad}");
    }
}
