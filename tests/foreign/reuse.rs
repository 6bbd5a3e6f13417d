//! Backends of other makers whose connections go from client to client, and one that is hostile.

use std::{fs, process::Command};

use crate::{
    Server, has, printed,
    process::TestFolder,
    setup::{Pair, dmz_half, free_port, internal_half},
};

fn pair<'a>(folder: &'a TestFolder, port: u16) -> Pair<'a> {
    let dmz = dmz_half("127.0.0.1:0", &["web"]).replace("tcp://", "http://");
    Pair::of(folder, &dmz, |link| internal_half(link, &[("web", &format!("http://127.0.0.1:{port}"))]))
}

fn python(folder: &TestFolder, script: &str) -> (Server, u16) {
    let port = free_port();
    folder.write("server.py", script);
    let mut command = Command::new("python3");
    command.arg(folder.path("server.py")).arg(port.to_string()).current_dir(folder.path(""));
    (Server::start(&mut command, port), port)
}

/// Many requests, of clients that each leave after one, and of some that stay; all are answered well.
fn all_are_answered(pair: &Pair<'_>, count: &str) {
    let url = format!("http://{}/", pair.dmz.accept("web"));
    for keeps in [&[][..], &["-k"]] {
        let line = [&["ab", "-q", "-l", "-n", count, "-c", "8"], keeps, &[&url]].concat();
        let reported = printed(&line);
        assert!(reported.contains(&format!("Complete requests:      {count}")), "{reported}");
        assert!(reported.contains("Failed requests:        0"), "{reported}");
        assert!(!reported.contains("Non-2xx responses"), "{reported}");
    }
}

#[test]
fn nginx_sees_few_connections_of_many_clients() {
    if !has("nginx_sees_few_connections_of_many_clients", &["ab", "nginx"]) {
        return;
    }
    let (folder, port) = (TestFolder::with_certificates(), free_port());
    let subfolder = folder.path("").to_str().expect("UTF-8").trim_end_matches('/').to_owned();
    // It closes each connection after a hundred requests.
    folder.write(
        "nginx.conf",
        &format!(
            "daemon off;\nmaster_process off;\nerror_log {subfolder}/nginx.log;\npid {subfolder}/nginx.pid;\nevents {{}}\nhttp {{\n\
             log_format c '$connection';\naccess_log {subfolder}/access c;\nkeepalive_requests 100;\n\
             client_body_temp_path {subfolder}/body;\nproxy_temp_path {subfolder}/p;\nfastcgi_temp_path {subfolder}/f;\n\
             uwsgi_temp_path {subfolder}/u;\nscgi_temp_path {subfolder}/s;\nserver {{\nlisten 127.0.0.1:{port};\n\
             location / {{ return 200 \"ok\\n\"; }}\n}}\n}}\n"
        ),
    );
    let mut command = Command::new("/usr/sbin/nginx");
    command.args(["-p", &subfolder, "-c", &format!("{subfolder}/nginx.conf")]);
    let _server = Server::start(&mut command, port);
    let pair = pair(&folder, port);
    all_are_answered(&pair, "1000");
    let log = fs::read_to_string(folder.path("access")).expect("a log");
    let (count, connections) =
        (log.lines().count(), log.lines().collect::<std::collections::HashSet<_>>().len());
    assert_eq!(count, 2000);
    assert!((20..=60).contains(&connections), "{connections} connections");
}

#[test]
fn a_backend_that_closes_at_random_costs_no_client_an_error() {
    if !has("a_backend_that_closes_at_random_costs_no_client_an_error", &["ab", "python3"]) {
        return;
    }
    let folder = TestFolder::with_certificates();
    // It says that it keeps the connection, and closes it: at once, a moment later, or when the next request comes.
    let (_server, port) = python(
        &folder,
        r#"
import random, socket, struct, sys, threading, time
def serve(s):
    f = s.makefile("rb")
    answered = 0
    while True:
        line = f.readline()
        if not line: break
        while f.readline().strip(): pass
        if answered and random.random() < 0.2: break
        s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")
        answered += 1
        how = random.random()
        if how < 0.2: break
        if how < 0.3:
            time.sleep(random.random() / 200)
            break
    if random.random() < 0.5:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    f.close()
    s.close()
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=128)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"#,
    );
    let pair = pair(&folder, port);
    all_are_answered(&pair, "500");
    assert_eq!(pair.dmz.status()["totals"]["refused"], 0);
}

#[test]
fn unsolicited_backend_bytes_reach_no_client() {
    if !has("unsolicited_backend_bytes_reach_no_client", &["ab", "python3"]) {
        return;
    }
    let folder = TestFolder::with_certificates();
    // An answer to nobody follows each, at once or a moment later.
    let (_server, port) = python(
        &folder,
        r#"
import random, socket, sys, threading, time
def serve(s):
    f = s.makefile("rb")
    while f.readline():
        while f.readline().strip(): pass
        evil = b"HTTP/1.1 500 Evil\r\nContent-Length: 4\r\n\r\nevil"
        good = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"
        if random.random() < 0.5:
            s.sendall(good + evil)
        else:
            s.sendall(good)
            s.sendall(evil)
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=128)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"#,
    );
    let pair = pair(&folder, port);
    let url = format!("http://{}/", pair.dmz.accept("web"));
    for _ in 0..100 {
        assert_eq!(printed(&["curl", "-sSf", &url]), "ok\n");
    }
}

#[test]
fn python_and_haproxy_are_reached_again_and_again() {
    let name = "python_and_haproxy_are_reached_again_and_again";
    if !has(name, &["ab", "haproxy", "python3"]) {
        return;
    }
    let folder = TestFolder::with_certificates();
    let python = |protocol: &str, folder: &TestFolder| {
        python(
            folder,
            &format!(
                "import sys\nfrom http.server import *\nclass Handler(BaseHTTPRequestHandler):\n    \
                 protocol_version = '{protocol}'\n    def do_GET(self):\n        self.send_response(200)\n        \
                 self.send_header('Content-Length', '3')\n        self.end_headers()\n        \
                 self.wfile.write(b'ok\\n')\n    def log_message(self, *_): pass\n\
                 ThreadingHTTPServer.request_queue_size = 64\n\
                 ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()\n"
            ),
        )
    };
    // The first closes after each answer.
    for protocol in ["HTTP/1.0", "HTTP/1.1"] {
        let folder = TestFolder::with_certificates();
        let (_server, port) = python(protocol, &folder);
        all_are_answered(&pair(&folder, port), "200");
    }
    let (_server, backend) = python("HTTP/1.1", &folder);
    let port = free_port();
    folder.write(
        "haproxy.cfg",
        &format!(
            "defaults\n  mode http\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n  \
             timeout http-keep-alive 20ms\nfrontend in\n  bind 127.0.0.1:{port}\n  default_backend out\n\
             backend out\n  server s 127.0.0.1:{backend}\n"
        ),
    );
    let mut command = Command::new("/usr/sbin/haproxy");
    command.arg("-f").arg(folder.path("haproxy.cfg"));
    let _haproxy = Server::start(&mut command, port);
    all_are_answered(&pair(&folder, port), "500");
}
