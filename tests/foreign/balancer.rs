//! HAProxy before two gateways: it takes one out that is not ready, and back in, with no client refused.

use std::process::Command;

use crate::{
    Server, ended, has, printed,
    process::{Gateway, Place, SOON, until},
    setup::free_port,
};

#[test]
fn haproxy_takes_an_unready_gateway_out_and_back_in() {
    if !has("haproxy_takes_an_unready_gateway_out_and_back_in", &["haproxy", "curl", "socat"]) {
        return;
    }
    let place = Place::with_certificates();
    let at = |name: &str| place.path(name).display().to_string();
    let (front, backends) = (free_port(), [free_port(), free_port()]);
    let names = ["alpha", "beta"];
    let stats = at("haproxy.sock");
    let mut config = format!(
        "global\n  stats socket {stats} mode 600 level admin\n\
         defaults\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n"
    );
    for (name, port) in names.iter().zip(backends) {
        config += &format!(
            "frontend {name}\n  mode http\n  bind 127.0.0.1:{port}\n  http-request return status 200 \
             content-type text/plain string {name}\n"
        );
    }
    config += &format!("listen front\n  mode tcp\n  bind 127.0.0.1:{front}\n  option httpchk GET /readyz\n");
    let gateways: Vec<Gateway<'_>> = names
        .iter()
        .zip(backends)
        .map(|(name, port)| {
            let text = format!(
                "mode: direct\nhealth: 127.0.0.1:0\ndmz:\n  services:\n    \
                 echo: {{ accept: [\"tcp://127.0.0.1:0\"], connect: \"tcp://127.0.0.1:{port}\" }}\n"
            );
            place.write(&format!("{name}.yaml"), &text);
            place.start(name)
        })
        .collect();
    for (name, gateway) in names.iter().zip(&gateways) {
        let status = gateway.status();
        let check = status["monitored_at"][0].as_str().and_then(|at| at.rsplit(':').next()).expect("a port");
        let accept = gateway.accept("echo");
        config += &format!("  server {name} {accept} check port {check} inter 100ms fall 1 rise 1\n");
    }
    place.write("haproxy.cfg", &config);
    let mut command = Command::new("/usr/sbin/haproxy");
    let _haproxy = Server::start(command.args(["-db", "-f", &at("haproxy.cfg")]), front);
    // As HAProxy sees them: `UP` or `DOWN`.
    let is_up = |name: &str| {
        let all = printed(&["sh", "-c", &format!("echo show stat | socat - UNIX-CONNECT:{stats}")]);
        let row =
            all.lines().find(|row| row.starts_with(&format!("front,{name},"))).expect("its row").to_owned();
        row.split(',').nth(17) == Some("UP")
    };
    let ask = || printed(&["curl", "-sSf", "--max-time", "10", &format!("http://127.0.0.1:{front}/")]);
    let command = |gateway: &str, word: &str| {
        let socket = at(&format!("run/{gateway}.sock"));
        let said = ended(&mut place.command(&[word, "--admin", &socket]));
        assert!(said.status.success(), "{said:?}");
    };
    until("both are in", SOON, || (is_up("alpha") && is_up("beta")).then_some(()));
    let both: std::collections::BTreeSet<_> = (0..8).map(|_| ask()).collect();
    assert_eq!(both.len(), 2, "{both:?}");
    // One service that drains is out, and so the gateway has none; what it carries goes on.
    command("alpha", "drain");
    until("it is out", SOON, || (!is_up("alpha")).then_some(()));
    for _ in 0..8 {
        assert_eq!(ask(), "beta");
    }
    command("alpha", "reload");
    until("it is back in", SOON, || is_up("alpha").then_some(()));
    let both: std::collections::BTreeSet<_> = (0..8).map(|_| ask()).collect();
    assert_eq!(both.len(), 2, "{both:?}");
}
