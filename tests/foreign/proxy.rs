//! The PROXY protocol with programs that are not ours: curl and haproxy say who the client is,
//! nginx is told.

use std::process::Command;

use crate::{
    Server, has, printed,
    process::Place,
    setup::{Pair, dmz_half, free_port, internal_half},
};

#[test]
fn nginx_learns_the_client_that_curl_and_haproxy_name() {
    let programs = ["curl", "nginx", "haproxy"];
    if !has("nginx_learns_the_client_that_curl_and_haproxy_name", &programs) {
        return;
    }
    let place = Place::with_certificates();
    let at = |name: &str| place.path(name).display().to_string();
    let (backend, before) = (free_port(), free_port());
    place.write(
        "nginx.conf",
        &format!(
            "daemon off; master_process off; pid {}; error_log /dev/null;\nevents {{}}\nhttp {{ access_log off;\n\
             server {{ listen 127.0.0.1:{backend} proxy_protocol;\n\
             location / {{ return 200 \"$proxy_protocol_addr:$proxy_protocol_port\\n\"; }} }} }}\n",
            at("nginx.pid")
        ),
    );
    let mut command = Command::new("/usr/sbin/nginx");
    let _nginx = Server::start(command.args(["-c", &at("nginx.conf"), "-e", "/dev/null"]), backend);
    let services = ["direct", "behind"];
    let dmz = dmz_half("127.0.0.1:0", &["direct"])
        + "    behind: { accept: { address: \"tcp://127.0.0.1:0\", proxy: { from: [\"127.0.0.0/8\"] } } }\n";
    let pair = Pair::of(&place, &dmz, |link| {
        services.iter().zip(["v1", "v2"]).fold(internal_half(link, &[]), |text, (name, version)| {
            text + &format!(
                "    {name}: {{ connect: {{ address: \"tcp://127.0.0.1:{backend}\", proxy: {version} }} }}\n"
            )
        })
    });
    let behind = pair.dmz.accept("behind");
    place.write(
        "haproxy.cfg",
        &format!(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n\
             listen l\n  bind 127.0.0.1:{before}\n  server gateway {behind} send-proxy-v2\n"
        ),
    );
    let _haproxy =
        Server::start(Command::new("/usr/sbin/haproxy").args(["-db", "-f", &at("haproxy.cfg")]), before);

    let ask = |more: &[&str], at: &str| {
        let url = format!("http://{at}/");
        // The port that curl came from is what nginx has to know.
        let line = [&["curl", "-sSf", "-w", "%{local_ip}:%{local_port}\n"], more, &[&url]].concat();
        let told = printed(&line);
        let lines: Vec<String> = told.lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 2, "{told}");
        (lines[0].clone(), lines[1].clone())
    };
    let direct = pair.dmz.accept("direct").to_string();
    for (more, to) in [
        (&[][..], direct),
        (&["--haproxy-protocol"], behind.to_string()),
        (&[], format!("127.0.0.1:{before}")),
    ] {
        let (seen, own) = ask(more, &to);
        assert_eq!(seen, own, "at {to}");
    }
}
