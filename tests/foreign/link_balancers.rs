//! nginx and HAProxy as balancers that end the outer TLS of links inside WebSockets, and pass them on to the port that the
//! services of the DMZ half are on as well. What links do, they do through them: in both modes.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Output},
    thread,
};

use serde_json::Value;

use crate::{
    Server, ended, has, printed,
    process::{Gateway, SOON, TestFolder, until},
    setup::free_port,
};

const SESSIONS: usize = 40;
const PIECE_BYTES: usize = 20_000;

/// Where the balancer takes links for each half, and where that half listens.
struct Ports {
    front_dmz: u16,
    front_internal: u16,
    dmz: u16,
    internal: u16,
}

impl Ports {
    fn new() -> Self {
        let [front_dmz, front_internal, dmz, internal] = [0; 4].map(|_| free_port());
        Self { front_dmz, front_internal, dmz, internal }
    }

    fn fronts(&self) -> [(u16, u16); 2] {
        [(self.front_dmz, self.dmz), (self.front_internal, self.internal)]
    }

    fn dmz_half(&self, mode: &str) -> String {
        let Self { dmz, front_internal, .. } = self;
        format!(
            "name: outside\nconfine: off\nmode: {mode}\ndmz:\n  link:\n    listen: 'socks+ws://127.0.0.1:{dmz}/link'\n    \
             connect: 'socks+wss://127.0.0.1:{front_internal}/link'\n    outer: {{ ca: pki/ca.pem, name: dmz }}\n    \
             tls: {{ certificate: pki/dmz.pem, key: pki/dmz.key, ca: pki/ca.pem, peers: [internal] }}\n    prepared: 2\n  \
             services:\n    echo: {{ accept: 'tcp://127.0.0.1:0' }}\n    pages: {{ accept: 'http://127.0.0.1:{dmz}' }}\n"
        )
    }

    fn internal_half(&self, mode: &str, pages: u16) -> String {
        let Self { internal, front_dmz, .. } = self;
        format!(
            "name: inside\nconfine: off\nmode: {mode}\ninternal:\n  link:\n    listen: 'socks+ws://127.0.0.1:{internal}/link'\n    \
             connect: 'socks+wss://127.0.0.1:{front_dmz}/link'\n    outer: {{ ca: pki/ca.pem, name: dmz }}\n    \
             tls: {{ certificate: pki/internal.pem, key: pki/internal.key, ca: pki/ca.pem, peers: [dmz] }}\n    prepared: 2\n    \
             retry: {{ first: 100ms, maximum: 300ms }}\n  services:\n    echo: {{ connect: 'echo://' }}\n    \
             pages: {{ connect: 'http://127.0.0.1:{pages}' }}\n"
        )
    }
}

#[test]
fn links_do_through_nginx_what_they_do_without() {
    if !has("links_do_through_nginx_what_they_do_without", &["nginx", "curl"]) {
        return;
    }
    let (folder, ports) = (TestFolder::with_certificates(), Ports::new());
    let subfolder = folder.path("").to_str().expect("UTF-8").trim_end_matches('/').to_owned();
    let server = |(front, behind): (u16, u16)| {
        format!(
            "server {{\nlisten 127.0.0.1:{front} ssl;\nssl_certificate pki/front.pem;\nssl_certificate_key pki/front.key;\n\
             location = /link {{\nproxy_pass http://127.0.0.1:{behind};\nproxy_http_version 1.1;\n\
             proxy_set_header Host $host;\nproxy_set_header Upgrade $http_upgrade;\n\
             proxy_set_header Connection \"upgrade\";\nproxy_read_timeout 10s;\nproxy_buffering off;\n}}\n\
             location / {{ proxy_pass http://127.0.0.1:{behind}; }}\n}}\n"
        )
    };
    let servers: String = ports.fronts().map(server).concat();
    folder.write(
        "nginx.conf",
        &format!(
            "daemon off;\nmaster_process off;\nerror_log {subfolder}/nginx.log;\npid {subfolder}/nginx.pid;\nevents {{}}\nhttp {{\n\
             access_log off;\nclient_body_temp_path {subfolder}/body;\nproxy_temp_path {subfolder}/p;\n\
             fastcgi_temp_path {subfolder}/f;\nuwsgi_temp_path {subfolder}/u;\nscgi_temp_path {subfolder}/s;\n{servers}}}\n"
        ),
    );
    keep_outer_certificate(&folder);
    let mut command = Command::new("/usr/sbin/nginx");
    command.args(["-p", &subfolder, "-c", &format!("{subfolder}/nginx.conf")]);
    let _nginx = Server::start(&mut command, ports.front_dmz);
    check_links(&folder, &ports);
}

#[test]
fn links_do_through_haproxy_what_they_do_without() {
    if !has("links_do_through_haproxy_what_they_do_without", &["haproxy", "curl"]) {
        return;
    }
    let (folder, ports) = (TestFolder::with_certificates(), Ports::new());
    keep_outer_certificate(&folder);
    let both = ["front.pem", "front.key"].map(|file| fs::read_to_string(folder.path("pki").join(file)));
    folder.write("pki/both.pem", &both.map(|text| text.expect("it is there")).concat());
    let crt = folder.path("pki/both.pem").display().to_string();
    let front = |(front, behind): (u16, u16)| {
        format!(
            "frontend front-{front}\n  mode http\n  bind 127.0.0.1:{front} ssl crt {crt} alpn http/1.1\n  \
             default_backend back-{front}\nbackend back-{front}\n  mode http\n  timeout tunnel 10s\n  \
             server one 127.0.0.1:{behind}\n"
        )
    };
    let fronts: String = ports.fronts().map(front).concat();
    let times = "defaults\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n";
    folder.write("haproxy.cfg", &format!("{times}{fronts}"));
    let file = folder.path("haproxy.cfg").display().to_string();
    let mut command = Command::new("/usr/sbin/haproxy");
    let _haproxy = Server::start(command.args(["-db", "-f", &file]), ports.front_dmz);
    check_links(&folder, &ports);
}

/// What a balancer shows, whatever becomes of the gateways' certificates.
fn keep_outer_certificate(folder: &TestFolder) {
    for file in ["pem", "key"] {
        let [from, to] = ["dmz", "front"].map(|name| folder.path(&format!("pki/{name}.{file}")));
        fs::copy(from, to).expect("it is copied");
    }
}

/// Answers each request with `page`.
fn serve_pages() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read(&mut byte) {
                        Ok(1) => head.push(byte[0]),
                        _ => return,
                    }
                }
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\npage";
                // Whoever asked may have gone.
                let _ = stream.write_all(answer);
            });
        }
    });
    port
}

/// A client of the echo, whose session stays.
pub struct Session(TcpStream);

impl Session {
    pub fn open(at: SocketAddr) -> Self {
        let stream = TcpStream::connect(at).expect("the port is open");
        stream.set_read_timeout(Some(SOON)).expect("a timeout is set");
        let mut session = Self(stream);
        session.check(b'n');
        session
    }

    pub fn check(&mut self, byte: u8) {
        self.0.write_all(&[byte; PIECE_BYTES]).expect("it is sent");
        let mut came = vec![0; PIECE_BYTES];
        self.0.read_exact(&mut came).expect("it comes back");
        assert!(came.iter().all(|back| *back == byte));
    }
}

pub fn check_all(sessions: &mut [Session], byte: u8) {
    sessions.iter_mut().for_each(|session| session.check(byte));
}

pub fn admin_command(folder: &TestFolder, gateway: &str, words: &[&str]) -> Output {
    let socket = folder.path(&format!("run/{gateway}.sock")).display().to_string();
    ended(&mut folder.command(&[words, &["--admin", &socket]].concat()))
}

#[track_caller]
pub fn done(folder: &TestFolder, gateway: &str, words: &[&str]) {
    let sent = admin_command(folder, gateway, words);
    assert!(sent.status.success(), "{words:?}: {sent:?}");
}

/// Of those that take sessions: what is replaced stays for as long as it carries some.
pub fn oldest_link(status: &Value) -> f64 {
    let pools = status["pools"].as_array().into_iter().flatten();
    let links = pools.flat_map(|pool| pool["links"].as_array().cloned().unwrap_or_default());
    let ready = links.filter(|link| link["state"] == "ready");
    ready.filter_map(|link| link["age_seconds"].as_f64()).fold(0.0, f64::max)
}

fn check_links(folder: &TestFolder, ports: &Ports) {
    let pages = serve_pages();
    for mode in ["reverse", "forward"] {
        folder.write(&format!("outside-{mode}.yaml"), &ports.dmz_half(mode));
        folder.write(&format!("inside-{mode}.yaml"), &ports.internal_half(mode, pages));
    }
    let start = |name| folder.start_as(name, &[], &["--no-ui", "--profile", &format!("{name}-reverse.yaml")]);
    let (outside, inside) = (start("outside"), start("inside"));
    inside.wait_healthy();
    outside.wait_healthy();
    let at = outside.accept("echo");
    let mut sessions: Vec<_> = (0..SESSIONS).map(|_| Session::open(at)).collect();
    check_front(folder, ports);
    // A balancer gives up what is silent for 10 s; nothing but pings goes over these.
    inside.wait("links have been up for long", SOON, |status| oldest_link(status) > 12.0);
    check_all(&mut sessions, b's');
    check_verified(folder, &outside, &inside);
    check_renewal(folder, &outside, &inside);
    check_all(&mut sessions, b'r');
    // Links of other terms take the place of those that stand.
    let before = folder.path("inside-reverse.yaml");
    let text = fs::read_to_string(&before).expect("it is there");
    folder.write(
        "inside-reverse.yaml",
        &text.replace("prepared: 2\n", "prepared: 2\n    sessions_per_link: 100\n"),
    );
    done(folder, "inside", &["reload"]);
    inside.wait("its links were replaced", SOON, |status| oldest_link(status) < 8.0 && is_healthy(status));
    check_all(&mut sessions, b't');
    for mode in ["forward", "reverse"] {
        thread::scope(|scope| {
            let profile = format!("./inside-{mode}.yaml");
            let other = scope.spawn(move || done(folder, "inside", &["switch", &profile]));
            done(folder, "outside", &["switch", &format!("./outside-{mode}.yaml")]);
            other.join().expect("it is done");
        });
        check_all(&mut sessions, b'w');
        Session::open(at);
        check_front(folder, ports);
    }
    done(folder, "outside", &["drain", "echo"]);
    let refused = || {
        let mut client = TcpStream::connect(at).ok()?;
        client.set_read_timeout(Some(SOON)).ok()?;
        client.read(&mut [0]).is_err().then_some(())
    };
    until("nobody new comes in", SOON, refused);
    check_all(&mut sessions, b'd');
    done(folder, "outside", &["reload"]);
    Session::open(at);
    // The last bytes of all come before the gateway ends.
    thread::scope(|scope| {
        let stopping = scope.spawn(|| done(folder, "outside", &["stop"]));
        outside.wait("it drains", SOON, |status| status["phase"] == "draining" || status.is_null());
        check_all(&mut sessions, b'l');
        sessions.clear();
        stopping.join().expect("it has stopped");
    });
}

pub fn is_healthy(status: &Value) -> bool {
    status["pools"].as_array().is_some_and(|pools| pools.iter().all(|pool| pool["state"] == "healthy"))
}

/// The services beside the links, through the same balancer.
fn check_front(folder: &TestFolder, ports: &Ports) {
    let ca = folder.path("pki/ca.pem").display().to_string();
    let port = ports.front_dmz;
    let ask = |path: &str| {
        let (resolve, url) = (format!("dmz:{port}:127.0.0.1"), format!("https://dmz:{port}{path}"));
        printed(&["curl", "-sS", "-w", " %{http_code}", "--cacert", &ca, "--resolve", &resolve, &url])
    };
    assert_eq!(ask("/"), "page 200");
    assert_eq!(ask("/link/below"), "page 200");
    // What the DMZ half says in reverse mode; in forward mode no link comes in there.
    assert!(["there is no such service\n 404", "page 200"].contains(&&*ask("/link")));
}

fn check_verified(folder: &TestFolder, outside: &Gateway<'_>, inside: &Gateway<'_>) {
    for name in ["outside", "inside"] {
        let sent =
            admin_command(folder, name, &["verify", "--json", "--profile", &format!("{name}-reverse.yaml")]);
        let report: Value = serde_json::from_slice(&sent.stdout).expect("a report");
        let steps = report["steps"].as_array().expect("a list of steps");
        let result = |wanted: &str| {
            let step = steps.iter().find(|step| step["step"] == wanted);
            step.and_then(|step| step["result"].as_str()).expect("each step is reported")
        };
        // A balancer that answers for nobody is not a gateway in forward mode.
        let results = ["forward", "reverse"].map(result);
        assert!(report["passed"] == true && results == ["skip", "pass"], "{report:#}");
    }
    assert!(is_healthy(&outside.status()) && is_healthy(&inside.status()));
}

/// Both halves' own certificates are others; the balancer's is not.
fn check_renewal(folder: &TestFolder, outside: &Gateway<'_>, inside: &Gateway<'_>) {
    for file in ["dmz.pem", "dmz.key", "internal.pem", "internal.key"] {
        fs::remove_file(folder.path("pki").join(file)).expect("it was there");
    }
    let made = ended(&mut folder.command(&["certs", "--out", "pki"]));
    assert!(made.status.success(), "{made:?}");
    for gateway in [outside, inside] {
        until("it is reported", SOON, || gateway.log().contains("certificates renewed").then_some(()));
        gateway
            .wait("its links were replaced", SOON, |status| oldest_link(status) < 10.0 && is_healthy(status));
    }
}
