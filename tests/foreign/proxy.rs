//! The PROXY protocol with programs that are not ours: curl, haproxy and nginx name the client; nginx
//! and haproxy receive it.

use std::process::Command;

use crate::{
    Server, has, printed,
    process::TestFolder,
    setup::{Pair, dmz_half, free_port, internal_half},
};

#[test]
fn nginx_learns_the_client_that_curl_and_haproxy_name() {
    let programs = ["curl", "nginx", "haproxy"];
    if !has("nginx_learns_the_client_that_curl_and_haproxy_name", &programs) {
        return;
    }
    let folder = TestFolder::with_certificates();
    let at = |name: &str| folder.path(name).display().to_string();
    let (backend, before) = (free_port(), free_port());
    folder.write(
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
    let pair = Pair::of(&folder, &dmz, |link| {
        services.iter().zip(["v1", "v2"]).fold(internal_half(link, &[]), |text, (name, version)| {
            text + &format!(
                "    {name}: {{ connect: {{ address: \"tcp://127.0.0.1:{backend}\", proxy: {version} }} }}\n"
            )
        })
    });
    let behind = pair.dmz.accept("behind");
    folder.write(
        "haproxy.cfg",
        &format!(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n\
             listen l\n  bind 127.0.0.1:{before}\n  server gateway {behind} send-proxy-v2\n"
        ),
    );
    let _haproxy =
        Server::start(Command::new("/usr/sbin/haproxy").args(["-db", "-f", &at("haproxy.cfg")]), before);

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

#[test]
fn haproxy_learns_the_client_that_nginx_and_haproxy_name() {
    let programs = ["curl", "nginx", "haproxy"];
    if !has("haproxy_learns_the_client_that_nginx_and_haproxy_name", &programs) {
        return;
    }
    let folder = TestFolder::with_certificates();
    let at = |name: &str| folder.path(name).display().to_string();
    let [backend, nginx, v1, v2] = [(); 4].map(|()| free_port());
    let services = ["direct", "behind"];
    let dmz = dmz_half("127.0.0.1:0", &["direct"])
        + "    behind: { accept: { address: \"tcp://127.0.0.1:0\", proxy: { from: [127.0.0.1] } } }\n";
    let pair = Pair::of(&folder, &dmz, |link| {
        services.iter().zip(["v2", "v1"]).fold(internal_half(link, &[]), |text, (name, version)| {
            text + &format!(
                "    {name}: {{ connect: {{ address: \"tcp://127.0.0.1:{backend}\", proxy: {version} }} }}\n"
            )
        })
    });
    let [direct, behind] = services.map(|service| pair.dmz.accept(service));
    folder.write(
        "haproxy.cfg",
        &format!(
            "defaults\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n\
             frontend reported\n  mode http\n  bind 127.0.0.1:{backend} accept-proxy\n  \
             http-request return status 200 content-type text/plain lf-string %ci:%cp\\n\n\
             listen v1\n  mode tcp\n  bind 127.0.0.1:{v1}\n  server gateway {behind} send-proxy\n\
             listen v2\n  mode tcp\n  bind 127.0.0.1:{v2}\n  server gateway {behind} send-proxy-v2\n"
        ),
    );
    folder.write(
        "nginx.conf",
        &format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
             daemon off; master_process off; pid {}; error_log /dev/null;\nevents {{}}\n\
             stream {{ server {{ listen 127.0.0.1:{nginx}; proxy_pass {behind}; proxy_protocol on; }} }}\n",
            at("nginx.pid")
        ),
    );
    let mut command = Command::new("/usr/sbin/haproxy");
    let _haproxy = Server::start(command.args(["-db", "-f", &at("haproxy.cfg")]), backend);
    let mut command = Command::new("/usr/sbin/nginx");
    let _nginx = Server::start(command.args(["-c", &at("nginx.conf"), "-e", "/dev/null"]), nginx);
    let before = [nginx, v1, v2].map(|port| format!("127.0.0.1:{port}"));
    for to in before.into_iter().chain([direct.to_string()]) {
        let (seen, own) = ask(&[], &to);
        assert_eq!(seen, own, "at {to}");
    }
}

/// Whom the server at the other end knows, and who it was.
fn ask(more: &[&str], at: &str) -> (String, String) {
    let url = format!("http://{at}/");
    // The port that curl came from is what the server has to know.
    let line = [&["curl", "-sSf", "-w", "%{local_ip}:%{local_port}\n"], more, &[&url]].concat();
    let reported = printed(&line);
    let lines: Vec<String> = reported.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 2, "{reported}");
    (lines[0].clone(), lines[1].clone())
}
