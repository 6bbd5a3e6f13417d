//! openssl and curl at TLS ports, with nginx behind them.

use std::{fs, process::Command};

use crate::{
    Server, ended, has, printed,
    process::TestFolder,
    setup::{Pair, dmz_half, free_port, internal_half},
};

/// A web server that speaks TLS, with the certificate `secret`.
fn nginx(folder: &TestFolder) -> (Server, u16) {
    let port = free_port();
    let at = |name: &str| folder.path(name).display().to_string();
    fs::create_dir(folder.path("www")).expect("a folder");
    folder.write("www/page.txt", "a page from the inside\n");
    folder.write(
        "nginx.conf",
        &format!(
            "daemon off; master_process off; pid {}; error_log /dev/null;\nevents {{}}\nhttp {{ access_log off;\n\
             server {{ listen 127.0.0.1:{port} ssl; root {}; ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.2 TLSv1.3; }} }}\n",
            at("nginx.pid"),
            at("www"),
            at("more/secret.pem"),
            at("more/secret.key"),
        ),
    );
    let mut command = Command::new("/usr/sbin/nginx");
    (Server::start(command.args(["-c", &at("nginx.conf"), "-e", "/dev/null"]), port), port)
}

#[test]
fn openssl_and_curl_meet_each_service_by_its_name() {
    let programs = ["openssl", "curl", "nginx"];
    if !has("openssl_and_curl_meet_each_service_by_its_name", &programs) {
        return;
    }
    let folder = TestFolder::with_certificates();
    // A second CA of the service's own, with names for both halves' services.
    let made = folder.command(&["certs", "--out", "more", "--dmz", "secret", "--internal", "ended"]).output();
    assert!(made.expect("the program runs").status.success());
    for (from, to) in [("dmz", "secret"), ("internal", "ended")] {
        for kind in ["pem", "key"] {
            let file = |stem: &str| folder.path(&format!("more/{stem}.{kind}"));
            fs::rename(file(from), file(to)).expect("it is there");
        }
    }
    let (_server, backend) = nginx(&folder);
    let port = free_port();
    let dmz = dmz_half("127.0.0.1:0", &["plain"])
        + &format!(
            "    passed: {{ accept: {{ address: \"tcp://127.0.0.1:{port}\", sni: secret }} }}\n    \
             ended: {{ accept: {{ address: \"tls://127.0.0.1:{port}\", sni: ended, \
             tls: {{ certificate: more/ended.pem, key: more/ended.key }} }} }}\n"
        );
    let pair = Pair::of(&folder, &dmz, |link| {
        internal_half(link, &[("plain", "echo://"), ("passed", &format!("tcp://127.0.0.1:{backend}"))])
            + &format!(
                "    ended: {{ connect: {{ address: \"tls://127.0.0.1:{backend}\", \
                 tls: {{ ca: more/ca.pem, name: secret }} }} }}\n"
            )
    });
    let ca = folder.path("more/ca.pem").display().to_string();
    for name in ["secret", "ended"] {
        let (url, resolve) = (format!("https://{name}:{port}/page.txt"), format!("{name}:{port}:127.0.0.1"));
        for version in ["1.2", "1.3"] {
            let line = ["curl", "-sSf", "--cacert", &ca, "--resolve", &resolve, "--tls-max", version, &url];
            assert_eq!(printed(&line), "a page from the inside\n", "{name} by TLS {version}");
        }
        let at = format!("127.0.0.1:{port}");
        for version in ["-tls1_2", "-tls1_3"] {
            let line = ["openssl", "s_client", "-connect", &at, "-servername", name, "-CAfile", &ca, version];
            let reported = printed(&[&line[..], &["-verify_return_error"]].concat());
            assert!(reported.contains(&format!("subject=CN = {name}")), "{reported}");
        }
    }
    // Neither an older version nor another name is answered, and both cost nobody else.
    for more in [["-servername", "stranger"], ["-servername", "ended"]] {
        let old: &[&str] = if more[1] == "ended" { &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"] } else { &[] };
        let mut command = Command::new("timeout");
        command.args(["30", "openssl", "s_client", "-connect", &format!("127.0.0.1:{port}")]);
        let output = ended(command.args(more).args(old));
        assert!(!output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("alert"), "{output:?}");
    }
    let log = pair.dmz.log();
    assert!(log.contains("the client asks for `stranger`, which no service here has"), "{log}");
}
