//! Names: all addresses of one are tried, and a zone that does not answer holds up nobody else.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    Server, Wire, can_run, client_at, ip,
    process::{Gateway, SOON, TestFolder},
    run,
};

/// The resolver's files of one host, as `ip netns exec` puts them in place; gone when dropped.
struct Resolver(PathBuf);

impl Resolver {
    /// `dead` is a name server that never answers; `hosts` are lines of /etc/hosts.
    fn dead(host: &str, hosts: &str) -> Self {
        let folder = PathBuf::from(format!("/etc/netns/{host}"));
        fs::create_dir_all(&folder).expect("a folder");
        // Nobody listens there, and the address lies behind a wire that drops what it gets.
        fs::write(folder.join("resolv.conf"), "nameserver 198.51.100.53\noptions timeout:30 attempts:5\n")
            .expect("resolv.conf");
        fs::write(folder.join("hosts"), hosts).expect("hosts");
        fs::write(folder.join("nsswitch.conf"), "hosts: files dns\n").expect("nsswitch.conf");
        Self(folder)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        // Leftovers do no harm, since the namespace is deleted.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Packets to what is not there vanish, as behind a firewall that drops.
fn into_nothing(wire: &Wire) {
    for net in ["198.51.100.0/24", "203.0.113.0/24"] {
        ip(&["-n", &wire.outside, "route", "add", net, "via", "192.0.2.2"]);
    }
    ip(&["-n", &wire.outside, "-6", "addr", "add", "2001:db8::1/64", "dev", "wire0", "nodad"]);
    ip(&["-n", &wire.inside, "-6", "addr", "add", "2001:db8::2/64", "dev", "wire1", "nodad"]);
    wire.rules("table inet gate {\nchain in { type filter hook input priority 0; ip6 daddr 2001:db8::2 tcp dport 1-65535 drop; }\n}");
}

/// A backend on the outer host that answers whoever comes with the given word.
fn word_server(wire: &Wire, at: &str, port: u16, word: &str) -> Server {
    let script = format!(
        "import socket\nfamily = socket.AF_INET6 if ':' in '{at}' else socket.AF_INET\n\
         info = socket.getaddrinfo('{at}', {port}, family, socket.SOCK_STREAM)[0]\n\
         s = socket.socket(family); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
         s.bind(info[4]); s.listen(100)\n\
         while True:\n    c, _ = s.accept(); c.sendall(b'{word}'); c.close()"
    );
    let line = ["netns", "exec", &wire.outside, "python3", "-c", &script];
    let server = Server(Command::new("ip").args(line).spawn().expect("a backend"));
    crate::process::until("the backend listens", SOON, || {
        run(&wire.outside, &["ss", "-Hltn"]).contains(&format!(":{port} ")).then_some(())
    });
    server
}

fn start<'a>(folder: &'a TestFolder, wire: &Wire, profile: &str) -> Gateway<'a> {
    folder.write("names.yaml", profile);
    folder.start_as("names", &["ip", "netns", "exec", &wire.outside], &["--no-ui", "--profile", "names.yaml"])
}

const PRINT_FIRST_WORD_AND_TIME: &str = "print(s.recv(100).decode(), time.time() - began)";

/// What a client received, and the seconds that it took.
fn first_word(reported: &str) -> (String, f64) {
    let (word, seconds) = reported.trim().split_once(' ').unwrap_or_else(|| panic!("{reported}"));
    (word.to_owned(), seconds.parse().expect("seconds"))
}

#[test]
fn a_name_whose_first_address_is_silent_is_reached_by_the_next() {
    if !can_run("a_name_whose_first_address_is_silent_is_reached_by_the_next") {
        return;
    }
    let (wire, folder) = (Wire::new(), TestFolder::with_certificates());
    into_nothing(&wire);
    let _resolver = Resolver::dead(&wire.outside, "2001:db8::2 db\n203.0.113.9 db\n192.0.2.1 db\n");
    let _backend = word_server(&wire, "192.0.2.1", 9000, "hello");
    let _gateway = start(
        &folder,
        &wire,
        "mode: direct\ndmz:\n  services:\n    db: { accept: [\"tcp://192.0.2.1:8000\"], connect: \"tcp://db:9000\" }\n",
    );
    let (word, seconds) = first_word(&client_at(&wire, 8000, PRINT_FIRST_WORD_AND_TIME));
    assert_eq!(word, "hello");
    assert!(seconds < 3.0, "{seconds}");
}

/// A proxy on the outer host: CONNECT, and then every byte both ways.
const PROXY: &str = "import socket, threading\n\
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
    s.bind(('192.0.2.1', 3128)); s.listen(100)\n\
    def copy(a, b):\n\
    \x20   while (data := a.recv(65536)): b.sendall(data)\n\
    \x20   b.shutdown(1)\n\
    def serve(c):\n\
    \x20   head = b''\n\
    \x20   while not head.endswith(b'\\r\\n\\r\\n'): head += c.recv(1)\n\
    \x20   host, port = head.split()[1].decode().split(':')\n\
    \x20   o = socket.create_connection((host, int(port)))\n\
    \x20   c.sendall(b'HTTP/1.1 200 Yes\\r\\n\\r\\n')\n\
    \x20   threading.Thread(target=copy, args=(c, o), daemon=True).start()\n\
    \x20   copy(o, c)\n\
    while True: threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()\n";

#[test]
fn a_proxy_whose_first_address_is_silent_is_reached_by_the_next() {
    if !can_run("a_proxy_whose_first_address_is_silent_is_reached_by_the_next") {
        return;
    }
    let (wire, folder) = (Wire::new(), TestFolder::with_certificates());
    // The outer host forwards nothing, so what is sent there vanishes.
    ip(&["-n", &wire.inside, "route", "add", "203.0.113.0/24", "via", "192.0.2.1"]);
    let _resolver = Resolver::dead(&wire.inside, "203.0.113.9 proxy\n192.0.2.1 proxy\n");
    let line = ["netns", "exec", &wire.outside, "python3", "-c", PROXY];
    let _proxy = Server(Command::new("ip").args(line).spawn().expect("a proxy"));
    crate::process::until("the proxy is there", SOON, || {
        run(&wire.outside, &["ss", "-Hltn"]).contains("192.0.2.1:3128 ").then_some(())
    });
    let [dmz_tls, internal_tls] = crate::TLS;
    let internal_tls = format!("{internal_tls}, via: \"http://proxy:3128\"");
    let [_dmz, internal] =
        crate::start_linked(&folder, &wire, "reverse", "echo://", ["socks+tls", dmz_tls, &internal_tls]);
    let through = run(&wire.outside, &["ss", "-Htn", "state", "established", "sport", "=", ":3128"]);
    assert!(through.contains("192.0.2.2:"), "{through}");
    assert_eq!(client_at(&wire, 8000, crate::HELLO).trim(), "hello.", "{}", internal.log());
}

#[test]
fn a_zone_that_does_not_answer_holds_up_no_other_backend() {
    if !can_run("a_zone_that_does_not_answer_holds_up_no_other_backend") {
        return;
    }
    let (wire, folder) = (Wire::new(), TestFolder::with_certificates());
    into_nothing(&wire);
    let _resolver = Resolver::dead(&wire.outside, "192.0.2.1 db\n127.0.0.1 localhost\n");
    let _backend = word_server(&wire, "192.0.2.1", 9000, "hello");
    let mut services = String::new();
    for number in 0..700 {
        services += &format!(
            "    late{number}: {{ accept: [\"tcp://192.0.2.1:{}\"], connect: \"tcp://n{number}.late.test:9000\" }}\n",
            10_000 + number
        );
    }
    let _gateway = start(
        &folder,
        &wire,
        &format!(
            "mode: direct\ndmz:\n  services:\n\
             \x20   named: {{ accept: [\"tcp://192.0.2.1:8000\"], connect: \"tcp://db:9000\" }}\n\
             \x20   literal: {{ accept: [\"tcp://192.0.2.1:8001\"], connect: \"tcp://192.0.2.1:9000\" }}\n{services}"
        ),
    );
    // Every late name is asked for, and many times the same one.
    let script = format!(
        "late = [socket.create_connection(('192.0.2.1', 10000 + n)) for n in range(700)]\n\
         same = [socket.create_connection(('192.0.2.1', 10000)) for n in range(700)]\n\
         time.sleep(1); began = time.time()\n\
         for port in (8000, 8001):\n    s = socket.create_connection(('192.0.2.1', port)); s.settimeout(60)\n    {PRINT_FIRST_WORD_AND_TIME}"
    );
    let reported = client_at(&wire, 8001, &script);
    for line in reported.lines() {
        let (word, seconds) = first_word(line);
        assert_eq!(word, "hello", "{reported}");
        assert!(seconds < 2.0, "{reported}");
    }
    assert_eq!(reported.lines().count(), 2, "{reported}");
}

#[test]
fn a_reload_whose_names_are_not_answered_leaves_the_gateway_free() {
    if !can_run("a_reload_whose_names_are_not_answered_leaves_the_gateway_free") {
        return;
    }
    let (wire, folder) = (Wire::new(), TestFolder::with_certificates());
    into_nothing(&wire);
    let _resolver = Resolver::dead(&wire.outside, "127.0.0.1 localhost\n");
    let profile = |accept: &str| {
        format!("mode: direct\ndmz:\n  services:\n    db: {{ accept: [{accept}], connect: \"echo://\" }}\n")
    };
    let mut gateway = start(&folder, &wire, &profile("\"tcp://192.0.2.1:8000\""));
    folder.write("names.yaml", &profile("\"tcp://192.0.2.1:8000\", \"tcp://gone.late.test:8001\""));
    let socket = folder.path("run/names.sock");
    let mut reload = folder.command(&["reload", "--admin"]);
    let reload = reload.arg(&socket).stderr(Stdio::null()).spawn();
    let mut reload = reload.expect("a reload");
    // It has begun when the name server is asked; then it must still answer.
    crate::process::until("the name is asked for", SOON, || {
        (!run(&wire.outside, &["ss", "-Hun", "dst", "198.51.100.53"]).is_empty()).then_some(())
    });
    let began = std::time::Instant::now();
    for _ in 0..5 {
        gateway.status();
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&gateway.child),
        rustix::process::Signal::TERM,
    )
    .expect("a signal");
    let began = std::time::Instant::now();
    assert_eq!(gateway.child.wait().expect("it ends").code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(reload.wait().expect("it is answered").code(), Some(1));
}

#[test]
fn a_name_listens_at_every_address_it_has_and_status_lists_them() {
    if !can_run("a_name_listens_at_every_address_it_has_and_status_lists_them") {
        return;
    }
    let (wire, folder) = (Wire::new(), TestFolder::with_certificates());
    into_nothing(&wire);
    let _resolver = Resolver::dead(&wire.outside, "192.0.2.1 both\n2001:db8::1 both\n192.0.2.1 both\n");
    let gateway = start(
        &folder,
        &wire,
        "mode: direct\ndmz:\n  services:\n    db: { accept: [\"tcp://both:8000\", \"tcp://both:0\"], connect: \"echo://\" }\n",
    );
    let mut accepts: Vec<_> = gateway.status()["services"][0]["accept"]
        .as_array()
        .expect("addresses")
        .iter()
        .map(|at| at.as_str().expect("text").to_owned())
        .collect();
    let fixed = ["tcp://192.0.2.1:8000", "tcp://[2001:db8::1]:8000"].map(str::to_owned);
    accepts.retain(|at| !fixed.contains(at));
    // The free port is one for both.
    let port = accepts[0].rsplit(':').next().expect("a port").to_owned();
    assert_eq!(accepts.len(), 2, "{accepts:?}");
    for at in ["192.0.2.1", "2001:db8::1"] {
        for port in ["8000", &port] {
            let script = format!(
                "import socket\ns = socket.create_connection(('{at}', {port}))\ns.settimeout(60)\n{}",
                crate::HELLO
            );
            assert_eq!(run(&wire.outside, &["python3", "-c", &script]).trim(), "hello.", "{at}");
        }
    }
}

/// A name server on the outer host that knows two addresses for every name.
const NAME_SERVER: &str = "import socket\n\
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('192.0.2.1', 53))\n\
    while True:\n\
    \x20   q, who = s.recvfrom(512)\n\
    \x20   end = q.index(b'\\0', 12) + 5\n\
    \x20   kind = q[end - 3]\n\
    \x20   data = socket.inet_pton(socket.AF_INET, '192.0.2.1') if kind == 1 else socket.inet_pton(socket.AF_INET6, '2001:db8::9')\n\
    \x20   head = q[:2] + b'\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0'\n\
    \x20   s.sendto(head + q[12:end] + b'\\xc0\\x0c\\0' + bytes([kind]) + b'\\0\\1\\0\\0\\0\\0\\0' + bytes([len(data)]) + data, who)\n";

#[test]
fn a_locked_half_asks_its_name_server_and_sorts_what_it_answers() {
    if !can_run("a_locked_half_asks_its_name_server_and_sorts_what_it_answers") {
        return;
    }
    let (wire, folder) = (Wire::new(), TestFolder::with_certificates());
    into_nothing(&wire);
    let resolver = Resolver::dead(&wire.inside, "127.0.0.1 localhost\n");
    fs::write(resolver.0.join("resolv.conf"), "nameserver 192.0.2.1\n").expect("resolv.conf");
    let line = ["netns", "exec", &wire.outside, "python3", "-c", NAME_SERVER];
    let _names = Server(Command::new("ip").args(line).spawn().expect("a name server"));
    crate::process::until("the name server is there", SOON, || {
        run(&wire.outside, &["ss", "-Hlnu"]).contains("192.0.2.1:53 ").then_some(())
    });
    let _backend = word_server(&wire, "192.0.2.1", 9000, "hello");
    let [_dmz, internal] = crate::start(&folder, &wire, "reverse", "tcp://db.example.test:9000");
    assert!(internal.status()["confined"]["internal"].is_object(), "{}", internal.log());
    let (word, _) = first_word(&client_at(&wire, 8000, PRINT_FIRST_WORD_AND_TIME));
    assert_eq!(word, "hello", "{}", internal.log());
}
