//! curl, wrk and h2load as clients, nginx as the backend, of a service that carries HTTP.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    process::Command,
    thread,
};

use crate::{
    Server, has, printed,
    process::TestFolder,
    setup::{Pair, dmz_half, free_port, internal_half},
};

/// nginx that serves a folder, takes uploads, and says what it was asked.
fn nginx(folder: &TestFolder) -> (Server, u16) {
    let port = free_port();
    fs::create_dir(folder.path("www")).expect("a folder");
    folder.write("www/page.txt", "a page from the inside\n");
    fs::write(
        folder.path("www/large.bin"),
        (0..3_000_000_u32).map(|n| (n ^ (n >> 9)) as u8).collect::<Vec<_>>(),
    )
    .expect("a file");
    let subfolder = folder.path("").to_str().expect("UTF-8").trim_end_matches('/').to_owned();
    folder.write(
        "nginx.conf",
        &format!(
            "daemon off;\nmaster_process off;\nerror_log {subfolder}/nginx.log;\npid {subfolder}/nginx.pid;\nevents {{}}\nhttp {{\n\
             access_log off;\nclient_body_temp_path {subfolder}/body;\nproxy_temp_path {subfolder}/p;\n\
             fastcgi_temp_path {subfolder}/f;\nuwsgi_temp_path {subfolder}/u;\nscgi_temp_path {subfolder}/s;\nserver {{\n\
             listen 127.0.0.1:{port};\nroot {subfolder}/www;\nclient_max_body_size 10m;\n\
             location = /reported {{ return 200 \"$http_x_forwarded_for $http_x_forwarded_host $http_host\\n\"; }}\n\
             location = /moved {{ return 302 http://127.0.0.1:{port}/page.txt; }}\n\
             location /up/ {{ root {subfolder}; dav_methods PUT; create_full_put_path on; }}\n}}\n}}\n"
        ),
    );
    let mut command = Command::new("/usr/sbin/nginx");
    command.args(["-p", &subfolder, "-c", &format!("{subfolder}/nginx.conf")]);
    (Server::start(&mut command, port), port)
}

fn pair<'a>(folder: &'a TestFolder, port: u16) -> Pair<'a> {
    let dmz = dmz_half("127.0.0.1:0", &["web"]).replace("tcp://", "http://");
    Pair::of(folder, &dmz, |link| internal_half(link, &[("web", &format!("http://127.0.0.1:{port}"))]))
}

#[test]
fn curl_reaches_nginx_by_requests() {
    if !has("curl_reaches_nginx_by_requests", &["curl", "nginx"]) {
        return;
    }
    let folder = TestFolder::with_certificates();
    let (_server, port) = nginx(&folder);
    let pair = pair(&folder, port);
    let at = pair.dmz.accept("web");
    let base = format!("http://{at}");
    let page = format!("{base}/page.txt");
    // Three requests of one connection are one session.
    let count = ["curl", "-sSf", "-w", "%{num_connects}\n", &page, &page, &page];
    let line = "a page from the inside\n";
    assert_eq!(printed(&count), format!("{line}1\n{line}0\n{line}0\n"));
    let reported =
        printed(&["curl", "-sSf", "-H", "X-Forwarded-For: 192.0.2.1", &format!("{base}/reported")]);
    assert_eq!(reported, format!("127.0.0.1 {at} {at}\n"));
    assert_eq!(printed(&["curl", "-sSfL", &format!("{base}/moved")]), line);
    let fetched = folder.path("fetched.bin");
    let fetched = fetched.to_str().expect("UTF-8");
    let large = folder.path("www/large.bin");
    let upload = large.to_str().expect("UTF-8");
    printed(&["curl", "-sSf", "-o", fetched, &format!("{base}/large.bin")]);
    assert!(fs::read(fetched).expect("it came") == fs::read(&large).expect("it is there"));
    // Of a known length, and in chunks; curl waits for 100 Continue with both.
    for (name, how) in [("length", &[][..]), ("chunks", &["-H", "Transfer-Encoding: chunked"])] {
        let url = format!("{base}/up/{name}");
        printed(&[&["curl", "-sSf", "-T", upload], how, &[&url]].concat());
        let stored = fs::read(folder.path("up").join(name)).expect("it was stored");
        assert!(stored == fs::read(&large).expect("it is there"), "{name}");
    }
    let wrong = printed(&["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", &format!("{base}/none")]);
    assert_eq!(wrong, "404");
    drop(pair);
}

#[test]
fn curl_sends_a_proxy_header_before_its_requests() {
    if !has("curl_sends_a_proxy_header_before_its_requests", &["curl", "nginx"]) {
        return;
    }
    let folder = TestFolder::with_certificates();
    let (_server, port) = nginx(&folder);
    let dmz = dmz_half("127.0.0.1:0", &["web"])
        .replace("tcp://127.0.0.1:0\"]", "http://127.0.0.1:0\"], proxy: { from: [127.0.0.0/8] }");
    let pair =
        Pair::of(&folder, &dmz, |link| internal_half(link, &[("web", &format!("http://127.0.0.1:{port}"))]));
    let reported = format!("http://{}/reported", pair.dmz.accept("web"));
    let answer = printed(&["curl", "-sSf", "--haproxy-protocol", &reported]);
    assert!(answer.starts_with("127.0.0.1 "), "{answer}");
    // One that does not is not a proxy.
    let without = crate::ended(Command::new("timeout").args(["30", "curl", "-sS", &reported]));
    assert!(!without.status.success(), "{without:?}");
}

#[test]
fn h2load_sees_no_error() {
    if !has("h2load_sees_no_error", &["h2load", "nginx"]) {
        return;
    }
    let folder = TestFolder::with_certificates();
    let (_server, port) = nginx(&folder);
    let pair = pair(&folder, port);
    let url = format!("http://{}/page.txt", pair.dmz.accept("web"));
    let reported = printed(&["h2load", "--h1", "-n", "500", "-c", "8", "-t", "1", &url]);
    assert!(reported.contains("500 succeeded, 0 failed, 0 errored, 0 timeout"), "{reported}");
    assert!(reported.contains("status codes: 500 2xx"), "{reported}");
    // Each client keeps its connection, and its session.
    assert_eq!(pair.dmz.status()["totals"]["sessions"], 8);
}

#[test]
fn wrk_sees_no_error() {
    if !has("wrk_sees_no_error", &["wrk", "nginx"]) {
        return;
    }
    let folder = TestFolder::with_certificates();
    let (_server, port) = nginx(&folder);
    let pair = pair(&folder, port);
    let url = format!("http://{}/page.txt", pair.dmz.accept("web"));
    let reported = printed(&["wrk", "-t1", "-c16", "-d2", &url]);
    println!("{reported}");
    assert!(
        reported.contains("Requests/sec")
            && !reported.contains("Socket errors")
            && !reported.contains("Non-2xx"),
        "{reported}"
    );
    assert_eq!(pair.dmz.status()["totals"]["refused"], 0);
}

/// A backend whose answer to each request is early hints, and then a page.
fn start_early_hints() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.expect("a connection"));
            let mut line = String::new();
            // A request without a body ends with its head.
            while stream.read_line(&mut line).is_ok_and(|count| count > 0) {
                if line == "\r\n" {
                    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n";
                    let page = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\npage\n";
                    // A client may have left.
                    let _ = write!(stream.get_mut(), "{hints}{page}");
                }
                line.clear();
            }
        }
    });
    port
}

#[test]
fn curl_receives_early_hints_and_then_the_answer() {
    if !has("curl_receives_early_hints_and_then_the_answer", &["curl"]) {
        return;
    }
    let folder = TestFolder::with_certificates();
    let pair = pair(&folder, start_early_hints());
    let url = format!("http://{}/", pair.dmz.accept("web"));
    // The second request goes over the same connections.
    let received = printed(&["curl", "-sSf", "-D", "-", "-w", "%{http_code} %{num_connects}\n", &url, &url]);
    let heads: Vec<_> = received.lines().filter(|line| line.starts_with("HTTP/")).map(str::trim).collect();
    let each = ["HTTP/1.1 103 Early Hints", "HTTP/1.1 200 OK"];
    assert_eq!(heads, [each, each].concat(), "{received}");
    assert_eq!(received.matches("link: </style.css>; rel=preload").count(), 2, "{received}");
    assert!(received.contains("page\n200 1\n") && received.contains("page\n200 0\n"), "{received}");
    // A client that speaks HTTP/1.0 gets the answer alone (RFC 9110, section 15.2).
    let old = printed(&["curl", "-sSf", "-0", "-D", "-", &url]);
    assert!(!old.contains("103") && old.contains("200 OK") && old.ends_with("page\n"), "{old}");
}
