//! Addresses that come late, and those of one network alone.

use std::process::Command;

use crate::{
    Server, Wire, can_run, client_at, ip,
    process::{SOON, TestFolder},
    run,
};

#[test]
fn an_address_that_comes_late_is_listened_on_without_a_restart() {
    if !can_run("an_address_that_comes_late_is_listened_on_without_a_restart") {
        return;
    }
    let (wire, folder) = (Wire::new(), TestFolder::with_certificates());
    let tls = crate::TLS[0];
    let profile = |bind: &str| {
        format!(
            "mode: reverse\ndmz:\n  link: {{ listen: {{ address: \"socks+tls://192.0.2.7:1443\", bind: {bind} }}, {tls} }}\n  \
             services:\n    late: {{ accept: {{ address: \"tcp://192.0.2.7:8000\", bind: {bind} }} }}\n    \
             here: {{ accept: \"tcp://192.0.2.1:8000\" }}\n"
        )
    };
    let host = ["ip", "netns", "exec", &wire.outside];
    folder.write("now.yaml", &profile("now"));
    let refused = folder.wrapped(&host, &["--no-ui", "--admin", "none", "--profile", "now.yaml"]);
    let refused = { refused }.output().expect("it ends");
    let reported = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{reported}");
    assert!(reported.contains("192.0.2.7:") && reported.contains("add `bind: wait`"), "{reported}");

    folder.write("late.yaml", &profile("wait"));
    let gateway = folder.start_as("late", &host, &["--no-ui", "--profile", "late.yaml"]);
    let before = gateway.wait("both are waited for", SOON, |status| {
        let notices = status["notices"].to_string();
        notices.contains("client port 192.0.2.7:8000: this machine has no such address")
            && notices.contains("link port 192.0.2.7:1443: this machine has no such address")
    });
    assert_eq!(before["listening"].as_array().map(Vec::len), Some(0), "{before:#}");
    let accepts = |status: &serde_json::Value, service: &str| {
        let services = status["services"].as_array().expect("services").clone();
        services.iter().find(|row| row["name"] == service).expect("a service")["accept"].to_string()
    };
    assert_eq!(accepts(&before, "late"), "[]");
    assert_eq!(accepts(&before, "here"), "[\"tcp://192.0.2.1:8000\"]");
    // It refuses, since no internal gateway is there: it listens.
    let refused = "try:\n    print(s.recv(1))\nexcept ConnectionResetError:\n    print('reset')";
    assert_eq!(client_at(&wire, 8000, refused).trim(), "reset");

    ip(&["-n", &wire.outside, "addr", "add", "192.0.2.7/24", "dev", "wire0"]);
    let after = gateway.wait("it listens at both", SOON, |status| {
        status["listening"][0] == "socks+tls://192.0.2.7:1443"
            && accepts(status, "late") == "[\"tcp://192.0.2.7:8000\"]"
    });
    assert!(after["notices"].to_string().contains("client port 192.0.2.7:8000 listens now"), "{after:#}");
    let dial = "import socket\ns = socket.create_connection(('192.0.2.7', 8000))\ns.settimeout(60)\n";
    assert_eq!(run(&wire.outside, &["python3", "-c", &format!("{dial}{refused}")]).trim(), "reset");
}

#[test]
fn a_service_whose_port_waits_for_its_address_is_down_and_not_ready() {
    if !can_run("a_service_whose_port_waits_for_its_address_is_down_and_not_ready") {
        return;
    }
    let (wire, folder) = (Wire::new(), TestFolder::with_certificates());
    folder.write(
        "late.yaml",
        "mode: direct\ndmz:\n  services:\n    late: { accept: { address: 'tcp://192.0.2.7:8000', bind: wait }, \
         connect: 'echo://' }\n    both: { accept: [{ address: 'tcp://192.0.2.7:8001', bind: wait }, \
         'tcp://192.0.2.1:8001'], connect: 'echo://' }\n",
    );
    let host = ["ip", "netns", "exec", &wire.outside];
    let gateway = folder.start_as("late", &host, &["--no-ui", "--profile", "late.yaml"]);
    let facts = |status: &serde_json::Value, name: &str| {
        let services = status["services"].as_array().expect("services");
        let row = services.iter().find(|row| row["name"] == name).expect("a service");
        ["phase", "health", "reason"].map(|field| row[field].as_str().unwrap_or_default().to_owned())
    };
    let before = gateway.wait("health is known", SOON, |status| status["health"] == "degraded");
    let [phase, health, why] = facts(&before, "late");
    assert_eq!((&*phase, &*health), ("down", "down"), "{before:#}");
    assert!(why.contains("192.0.2.7:8000: this machine has no such address"), "{why}");
    let [phase, health, why] = facts(&before, "both");
    assert_eq!((&*phase, &*health), ("open", "degraded"), "its other port serves: {before:#}");
    assert!(why.contains("192.0.2.7:8001"), "{why}");
    assert!(before["alerts"].to_string().contains("late: its port is not open yet"), "{before:#}");
    ip(&["-n", &wire.outside, "addr", "add", "192.0.2.7/24", "dev", "wire0"]);
    let after = gateway.wait("all is well", SOON, |status| status["health"] == "healthy");
    assert_eq!(facts(&after, "late"), ["open", "healthy", ""], "{after:#}");
}

#[test]
fn an_address_of_one_network_alone_is_listened_on_and_dialled() {
    if !can_run("an_address_of_one_network_alone_is_listened_on_and_dialled") {
        return;
    }
    let (wire, folder) = (Wire::new(), TestFolder::with_certificates());
    for (host, device, address) in
        [(&wire.outside, "wire0", "fe80::1:1/64"), (&wire.inside, "wire1", "fe80::1:2/64")]
    {
        ip(&["-n", host, "-6", "addr", "add", address, "dev", device, "nodad"]);
    }
    let [dmz_tls, internal_tls] = crate::TLS;
    folder.write(
        "dmz.yaml",
        &format!(
            "mode: reverse\ndmz:\n  link: {{ listen: \"socks+tls://[fe80::1:1%wire0]:1443\", {dmz_tls} }}\n  \
             services: {{ orders: {{ accept: \"tcp://192.0.2.1:8000\" }} }}\n"
        ),
    );
    folder.write(
        "internal.yaml",
        &format!(
            "mode: reverse\ninternal:\n  link: {{ connect: \"socks+tls://[fe80::1:1%wire1]:1443\", {internal_tls} }}\n  \
             services: {{ orders: {{ connect: \"echo://\" }} }}\n"
        ),
    );
    let on = |host: &str, name: &str| {
        let profile = format!("{name}.yaml");
        folder.start_as(name, &["ip", "netns", "exec", host], &["--no-ui", "--profile", &profile])
    };
    let pair = [on(&wire.outside, "dmz"), on(&wire.inside, "internal")];
    pair.iter().for_each(|half| drop(half.wait_healthy()));
    assert_eq!(client_at(&wire, 8000, crate::HELLO).trim(), "hello.");
}

/// Answers each connection at 192.0.2.2:9000 by what it says.
const ECHO: &str = "import socketserver\nclass Echo(socketserver.BaseRequestHandler):\n    def handle(self):\n        \
                    while (said := self.request.recv(100)): self.request.sendall(said)\n\
                    socketserver.ThreadingTCPServer.allow_reuse_address = True\n\
                    socketserver.ThreadingTCPServer(('192.0.2.2', 9000), Echo).serve_forever()";

/// As where IPVS or a firewall gives this machine the address of a service that is elsewhere.
#[test]
fn where_a_dial_comes_in_decides_whether_it_leads_back() {
    if !can_run("where_a_dial_comes_in_decides_whether_it_leads_back") {
        return;
    }
    let (wire, folder) = (Wire::new(), TestFolder::with_certificates());
    ip(&["-n", &wire.outside, "addr", "add", "192.0.2.9/32", "dev", "lo"]);
    let backend = ["netns", "exec", &wire.inside, "python3", "-c", ECHO];
    let _backend = Server(Command::new("ip").args(backend).spawn().expect("a server"));
    let reached = "import socket, time\nfor _ in range(200):\n    try: socket.create_connection(('192.0.2.2', 9000)); break\n    \
                   except OSError: time.sleep(0.1)\nelse: raise SystemExit(1)";
    run(&wire.inside, &["python3", "-c", reached]);
    let profile = "mode: direct\ndmz:\n  services: { orders: { accept: 'tcp://0.0.0.0:8000', connect: 'tcp://192.0.2.9:8000' } }\n";
    folder.write("led.yaml", profile);
    let host = ["ip", "netns", "exec", &wire.outside];
    let end = |gateway: &crate::Gateway<'_>| {
        let over =
            |status: &serde_json::Value| status["ended"].as_array().is_some_and(|rows| !rows.is_empty());
        let status = gateway.wait("a session ends", SOON, over);
        assert_eq!(status["ended"].as_array().map(Vec::len), Some(1), "no session opens another: {status:#}");
        status["ended"][0].clone()
    };

    // By itself the address is this machine's, and the port is the service's own.
    let gateway = folder.start_as("back", &host, &["--no-ui", "--profile", "led.yaml"]);
    let refused = "try:\n    print(s.recv(1))\nexcept ConnectionResetError:\n    print('reset')";
    assert_eq!(client_at(&wire, 8000, refused).trim(), "reset");
    let ended = end(&gateway);
    assert_eq!(ended["end"], "BC", "{ended:#}");
    assert!(
        ended["reason"].to_string().contains("it leads back to the clients of its own service"),
        "{ended:#}"
    );
    drop(gateway);

    let nat = "table ip nat { chain out { type nat hook output priority -100; ip daddr 192.0.2.9 tcp dport 8000 \
               dnat to 192.0.2.2:9000; }; chain post { type nat hook postrouting priority 100; ip daddr 192.0.2.2 \
               masquerade; }; }";
    run(&wire.outside, &["nft", nat]);
    let gateway = folder.start_as("elsewhere", &host, &["--no-ui", "--profile", "led.yaml"]);
    assert_eq!(client_at(&wire, 8000, crate::HELLO).trim(), "hello.");
    let ended = end(&gateway);
    assert_eq!(ended["end"], "--", "{ended:#}");
}

#[test]
fn exhausted_local_ports_are_reported_as_such() {
    if !can_run("exhausted_local_ports_are_reported_as_such") {
        return;
    }
    let (wire, folder) = (Wire::new(), TestFolder::with_certificates());
    let range = "echo 40000 40003 > /proc/sys/net/ipv4/ip_local_port_range";
    run(&wire.outside, &["sh", "-c", range]);
    let backend = ["netns", "exec", &wire.inside, "python3", "-c", ECHO];
    let _backend = Server(Command::new("ip").args(backend).spawn().expect("a server"));
    let reached = "import socket, time\nfor _ in range(200):\n    try: socket.create_connection(('192.0.2.2', 9000)); break\n    \
                   except OSError: time.sleep(0.1)\nelse: raise SystemExit(1)";
    run(&wire.inside, &["python3", "-c", reached]);
    let profile = "mode: direct\ndmz:\n  services: { orders: { accept: 'tcp://192.0.2.1:8000', connect: 'tcp://192.0.2.2:9000' } }\n";
    folder.write("few.yaml", profile);
    let host = ["ip", "netns", "exec", &wire.outside];
    let gateway = folder.start_as("few", &host, &["--no-ui", "--profile", "few.yaml"]);
    // They come from the other host, whose ports are as many as ever.
    let clients = "import socket\nheld, served = [], 0\nfor _ in range(12):\n    s = socket.create_connection(('192.0.2.1', 8000)); s.settimeout(60); held.append(s)\n    \
                   try: s.sendall(b'x'); served += s.recv(1) == b'x'\n    except OSError: pass\nprint(served)";
    assert_eq!(run(&wire.inside, &["python3", "-c", clients]).trim(), "4");
    let status = gateway.wait("they have ended", SOON, |status| status["totals"]["sessions_open"] == 0);
    assert_eq!(status["totals"]["refused"], 8, "{status:#}");
    let reason = "no local port is left for it (net.ipv4.ip_local_port_range)";
    let ended = status["ended"].as_array().expect("rows");
    let refused: Vec<_> = ended.iter().filter(|row| row["end"] != "--").collect();
    let is_reported = |row: &&serde_json::Value| {
        row["end"].as_str().is_some_and(|end| end.starts_with('L'))
            && row["reason"].to_string().contains(reason)
    };
    assert!(refused.len() == 8 && refused.iter().all(is_reported), "{refused:#?}");
    let notices = status["notices"].as_array().expect("rows");
    let reported = notices.iter().filter(|notice| notice["text"].to_string().contains(reason)).count();
    assert_eq!(reported, 1, "{notices:#?}");
}
