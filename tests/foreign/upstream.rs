//! Proxies that are not ours, between an internal half and the DMZ half that it dials.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    process::Command,
    time::Duration,
};

use serde_json::Value;

use crate::{
    Server, has,
    process::{Gateway, SOON, TestFolder},
    setup::{Pair, free_port},
};

/// Which half dials, and what its links are carried by.
#[derive(Debug, Clone, Copy)]
struct Way {
    mode: &'static str,
    scheme: &'static str,
}

const WAYS: [Way; 6] = [
    Way { mode: "reverse", scheme: "socks+tls" },
    Way { mode: "reverse", scheme: "socks+ws" },
    Way { mode: "reverse", scheme: "socks+wss" },
    Way { mode: "forward", scheme: "socks+tls" },
    Way { mode: "forward", scheme: "socks+ws" },
    Way { mode: "forward", scheme: "socks+wss" },
];

impl Way {
    /// The half that listens, and the one that dials.
    fn halves(self) -> (&'static str, &'static str) {
        if self.mode == "forward" { ("internal", "dmz") } else { ("dmz", "internal") }
    }

    fn profile(self, half: &str, at: &str, more: &str, backend: &str) -> String {
        let Self { mode, scheme } = self;
        let (listener, _) = self.halves();
        let is_listener = half == listener;
        let key = if is_listener { "listen" } else { "connect" };
        let path = if scheme == "socks+tls" { "" } else { "/link" };
        let outer = match (scheme, is_listener) {
            ("socks+wss", true) => format!(", outer: {{ certificate: pki/{half}.pem, key: pki/{half}.key }}"),
            ("socks+wss", false) => format!(", outer: {{ ca: pki/ca.pem, name: {listener} }}"),
            _ => String::new(),
        };
        let (peer, service) = match half {
            "dmz" => ("internal", "accept: ['tcp://127.0.0.1:0']".to_owned()),
            _ => ("dmz", format!("connect: '{backend}'")),
        };
        format!(
            "mode: {mode}\n{half}:\n  link: {{ {key}: '{scheme}://{at}{path}', prepared: 2{outer}{more}, tls: {{ \
             certificate: pki/{half}.pem, key: pki/{half}.key, ca: pki/ca.pem, peers: [{peer}] }} }}\n  services: {{ app: \
             {{ {service} }} }}\n"
        )
    }

    /// The half that dials, with `more` in its link, and the one that it dials.
    fn start<'a>(self, folder: &'a TestFolder, more: &str, backend: &str) -> (Gateway<'a>, Gateway<'a>) {
        let (listener, dialler) = self.halves();
        folder.write(&format!("{listener}.yaml"), &self.profile(listener, "127.0.0.1:0", "", backend));
        let listens = folder.start(listener);
        let at = format!("127.0.0.1:{}", listens.link_port());
        folder.write(&format!("{dialler}.yaml"), &self.profile(dialler, &at, more, backend));
        (folder.start(dialler), listens)
    }

    fn start_pair<'a>(self, folder: &'a TestFolder, more: &str, backend: &str) -> Pair<'a> {
        let (dials, listens) = self.start(folder, more, backend);
        dials.wait_healthy();
        listens.wait_healthy();
        match self.mode {
            "forward" => Pair { dmz: dials, internal: listens },
            _ => Pair { dmz: listens, internal: dials },
        }
    }
}

/// A session over links of every kind, of both halves, that go through a proxy.
fn carries_through(folder: &TestFolder, via: &str) {
    for way in WAYS {
        println!("{way:?}");
        let backend = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = format!("tcp://{}", backend.local_addr().expect("its address"));
        let pair = way.start_pair(folder, &format!(", {via}"), &address);
        let _session = carries(&pair, &backend);
        for half in [&pair.dmz, &pair.internal] {
            let log = half.log() + &half.status().to_string();
            // As it is, and as Basic has it.
            assert!(!log.contains("s3cret") && !log.contains("Z2F0ZTpzM2NyZXQ"), "{log}");
        }
    }
}

/// A session that has carried something: its client, and its backend's end.
fn carries(pair: &Pair<'_>, backend: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(pair.dmz.accept("app")).expect("it listens");
    let (server, _) = backend.accept().expect("it is dialled");
    let mut ends = (client, server);
    says(&mut ends);
    ends
}

fn says((client, server): &mut (TcpStream, TcpStream)) {
    client.write_all(b"hello").expect("it is sent");
    let mut received = [0; 5];
    server.read_exact(&mut received).expect("it arrives");
    assert_eq!(&received, b"hello");
}

/// The proxy is the reason why the links of this half do not come up, in these words.
fn is_down_for(dials: &Gateway<'_>, words: &[&str]) {
    let fails = |status: &Value| {
        let why = status["pools"][0]["last_error"].as_str().unwrap_or_default();
        words.iter().all(|words| why.contains(words))
    };
    dials.wait(&format!("its links fail: {words:?}"), SOON, fails);
}

fn write_login(folder: &TestFolder, password: &str) {
    folder.write("login", &format!("gate:{password}\n"));
    fs::set_permissions(folder.path("login"), fs::Permissions::from_mode(0o600)).expect("the file is ours");
}

fn start_tinyproxy(folder: &TestFolder, port: u16, more: &str) -> Server {
    let common = format!("Port {port}\nListen 127.0.0.1\nMaxClients 100\n{more}\n");
    folder.write("tinyproxy.conf", &common);
    let file = folder.path("tinyproxy.conf").display().to_string();
    Server::start(Command::new("tinyproxy").args(["-d", "-c", &file]), port)
}

#[test]
fn links_go_through_tinyproxy_with_a_password() {
    if !has("links_go_through_tinyproxy_with_a_password", &["tinyproxy"]) {
        return;
    }
    let (folder, port) = (TestFolder::with_certificates(), free_port());
    write_login(&folder, "s3cret");
    let _proxy = start_tinyproxy(&folder, port, "Timeout 600\nBasicAuth gate s3cret");
    carries_through(&folder, &format!("via: 'http://127.0.0.1:{port}', via_credentials: login"));
}

#[test]
fn idle_links_live_behind_a_tinyproxy_that_cuts_what_is_silent() {
    if !has("idle_links_live_behind_a_tinyproxy_that_cuts_what_is_silent", &["tinyproxy"]) {
        return;
    }
    let (folder, port) = (TestFolder::with_certificates(), free_port());
    let _proxy = start_tinyproxy(&folder, port, "Timeout 20");
    let via = format!(", via: 'http://127.0.0.1:{port}'");
    let ways = [WAYS[0], WAYS[2], WAYS[4]].map(|way| (way, TestFolder::with_certificates()));
    let backend = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("tcp://{}", backend.local_addr().expect("its address"));
    let pairs = ways.each_ref().map(|(way, folder)| (*way, way.start_pair(folder, &via, &address)));
    // Ready links, and one that carries a session in which nothing moves.
    let sessions = pairs.each_ref().map(|(_, pair)| carries(pair, &backend));
    for ((way, pair), mut session) in pairs.into_iter().zip(sessions) {
        let dials = if way.mode == "forward" { &pair.dmz } else { &pair.internal };
        let lives = |status: &Value| status["uptime_seconds"].as_f64().is_some_and(|seconds| seconds > 45.0);
        let status = dials.wait("45 s have passed", Duration::from_secs(90), lives);
        let pool = &status["pools"][0];
        assert_eq!((&pool["state"], &pool["failures"]), (&"healthy".into(), &0.into()), "{way:?} {pool:#}");
        says(&mut session);
    }
}

#[test]
fn a_tinyproxy_that_refuses_or_is_gone_is_reported_and_dialled_again() {
    if !has("a_tinyproxy_that_refuses_or_is_gone_is_reported_and_dialled_again", &["tinyproxy"]) {
        return;
    }
    let (folder, port) = (TestFolder::with_certificates(), free_port());
    let via = format!(", via: 'http://127.0.0.1:{port}', retry: {{ first: 100ms, maximum: 300ms }}");
    // CONNECT to one port alone, which is not ours.
    let refusing = start_tinyproxy(&folder, port, "ConnectPort 1");
    let (dials, _listens) = WAYS[0].start(&folder, &via, "echo://");
    is_down_for(&dials, &["it refuses to connect to 127.0.0.1:", "403"]);
    drop(refusing);
    is_down_for(&dials, &["connection refused"]);
    let _proxy = start_tinyproxy(&folder, port, "Timeout 600");
    dials.wait_healthy();
}

/// What squid has left in memory, by the beginning of its name; removed with the test.
struct SharedMemory(String);

impl Drop for SharedMemory {
    fn drop(&mut self) {
        let found = std::fs::read_dir("/dev/shm").into_iter().flatten().flatten();
        for segment in found.filter(|segment| segment.file_name().to_string_lossy().starts_with(&self.0)) {
            // It is squid's own to be there or not.
            let _ = std::fs::remove_file(segment.path());
        }
    }
}

/// Its shared memory has the name of the service, and one that is killed leaves it behind.
fn start_squid(folder: &TestFolder, port: u16, access: &str) -> (SharedMemory, Server) {
    folder.write(
        "squid.conf",
        &format!(
            "http_port 127.0.0.1:{port}\n{access}\ncache deny all\naccess_log none\n\
             cache_log /dev/null\ncache_store_log none\npid_filename none\nshutdown_lifetime 0 seconds\n\
             visible_hostname proxy\ncache_effective_user proxy\npinger_enable off\n"
        ),
    );
    let file = folder.path("squid.conf").display().to_string();
    let service = format!("gate{port}");
    let memory = SharedMemory(format!("{service}-"));
    let arguments = ["-N", "-n", &service, "-f", &file];
    (memory, Server::start(Command::new("/usr/sbin/squid").args(arguments), port))
}

#[test]
fn links_go_through_squid() {
    if !has("links_go_through_squid", &["squid"]) {
        return;
    }
    let (folder, port) = (TestFolder::with_certificates(), free_port());
    let _proxy = start_squid(&folder, port, "http_access allow all");
    carries_through(&folder, &format!("via: 'http://127.0.0.1:{port}'"));
}

#[test]
fn squid_lets_links_through_with_the_right_password_alone() {
    const HELPER: &str = "/usr/lib/squid/basic_ncsa_auth";
    let name = "squid_lets_links_through_with_the_right_password_alone";
    if !has(name, &["squid", "htpasswd"]) {
        return;
    }
    let (folder, port) = (TestFolder::with_certificates(), free_port());
    let users = folder.path("users").display().to_string();
    let made = Command::new("htpasswd").args(["-bcm", &users, "gate", "s3cret"]).output();
    assert!(made.expect("it runs").status.success());
    // Its helper is another user's process.
    fs::set_permissions(folder.path(""), fs::Permissions::from_mode(0o755)).expect("the folder is ours");
    fs::set_permissions(&users, fs::Permissions::from_mode(0o644)).expect("the file is ours");
    let access = format!(
        "auth_param basic program {HELPER} {users}\nauth_param basic realm the gate\n\
         acl known proxy_auth REQUIRED\nhttp_access allow known\nhttp_access deny all"
    );
    let _proxy = start_squid(&folder, port, &access);
    let via = format!(", via: 'http://127.0.0.1:{port}'");
    let retry = ", retry: { first: 100ms, maximum: 300ms }";
    let (without, listens) = WAYS[0].start(&folder, &format!("{via}{retry}"), "echo://");
    is_down_for(&without, &["it requires a login (407", "Basic realm=\"the gate\""]);
    drop((without, listens));
    write_login(&folder, "wr0ng");
    let via = format!("{via}, via_credentials: login");
    let (dials, listens) = WAYS[2].start(&folder, &format!("{via}{retry}"), "echo://");
    is_down_for(&dials, &["it rejected the credentials in `via_credentials` (407"]);
    assert!(!dials.log().contains("wr0ng"), "{}", dials.log());
    write_login(&folder, "s3cret");
    let socket = folder.path("run/internal.sock").display().to_string();
    let reload = folder.command(&["reload", "--admin", &socket]).output().expect("it runs");
    assert!(reload.status.success(), "{reload:?}");
    dials.wait_healthy();
    drop((dials, listens));
    carries_through(&folder, via.trim_start_matches(", "));
}

#[test]
fn links_go_through_dante() {
    if !has("links_go_through_dante", &["danted"]) {
        return;
    }
    let (folder, port) = (TestFolder::with_certificates(), free_port());
    folder.write(
        "danted.conf",
        &format!(
            "logoutput: /dev/null\ninternal: 127.0.0.1 port = {port}\nexternal: lo\nclientmethod: none\n\
             socksmethod: none\nuser.privileged: root\nuser.unprivileged: root\n\
             client pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}\n\
             socks pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 protocol: tcp }}\n"
        ),
    );
    let file = folder.path("danted.conf").display().to_string();
    let pid = folder.path("danted.pid").display().to_string();
    let _proxy = Server::start(Command::new("/usr/sbin/danted").args(["-f", &file, "-p", &pid]), port);
    carries_through(&folder, &format!("via: 'socks5://127.0.0.1:{port}'"));
}
