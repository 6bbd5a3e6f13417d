//! sslscan and openssl at every port that speaks TLS: what is offered, and what is not.

use std::{process::Command, thread};

use crate::{
    ended, has, printed,
    process::TestFolder,
    setup::{Pair, dmz_half, internal_half},
};

/// Each version and its ciphers, as sslscan names them; TLS 1.2 for an ECDSA certificate.
const OF_13: &[&str] = &["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];
const OF_12: &[&str] =
    &["ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES128-GCM-SHA256"];

/// A pair whose clients may speak TLS, and WebSockets or HTTP within; the ports: of these, and of links.
fn start(folder: &TestFolder) -> (Pair<'_>, [String; 3], String) {
    let tls = "tls: { certificate: pki/dmz.pem, key: pki/dmz.key }";
    let dmz = dmz_half("127.0.0.1:0", &[])
        + &format!("    raw: {{ accept: {{ address: 'tls://127.0.0.1:0', {tls} }} }}\n")
        + &format!("    web: {{ accept: {{ address: 'wss://127.0.0.1:0', {tls} }} }}\n")
        + &format!("    page: {{ accept: {{ address: 'https://127.0.0.1:0', {tls} }} }}\n");
    let services = [("raw", "echo://"), ("web", "echo://"), ("page", "http://127.0.0.1:9")];
    let pair = Pair::of(folder, &dmz, |link| internal_half(link, &services));
    let edges = ["raw", "web", "page"].map(|service| pair.dmz.accept(service).to_string());
    let link = format!("127.0.0.1:{}", pair.dmz.link_port());
    (pair, edges, link)
}

#[test]
fn sslscan_finds_two_versions_and_no_weakness() {
    if !has("sslscan_finds_two_versions_and_no_weakness", &["sslscan"]) {
        return;
    }
    let folder = TestFolder::with_certificates();
    let (_pair, edges, link) = start(&folder);
    // Each takes some seconds of pauses.
    let scan = |at: &str| printed(&["sslscan", "--xml=-", "--no-colour", "--sni-name=dmz", at]);
    let scans: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = edges.iter().chain([&link]).map(|at| (at, scope.spawn(|| scan(at)))).collect();
        running.into_iter().map(|(at, scan)| (at, scan.join().expect("no panic"))).collect()
    });
    for (at, reported) in scans {
        let is_link = *at == link;
        let values = |element: &str, key: &str| -> Vec<String> {
            let lines =
                reported.lines().filter(|line| line.trim_start().starts_with(&format!("<{element} ")));
            let value =
                |line: &str| line.split(&format!("{key}=\"")).nth(1)?.split('"').next().map(str::to_owned);
            lines.filter_map(value).collect()
        };
        let (versions, on) = (values("protocol", "version"), values("protocol", "enabled"));
        assert_eq!(versions, ["2", "3", "1.0", "1.1", "1.2", "1.3"], "{reported}");
        assert_eq!(on, ["0", "0", "0", "0", if is_link { "0" } else { "1" }, "1"], "{at}: {reported}");
        assert_eq!(values("renegotiation", "supported"), ["0"], "{at}");
        assert!(values("heartbleed", "vulnerable").iter().all(|found| found == "0"), "{at}: {reported}");
        // Where sslscan does not speak of compression, it has not looked.
        assert!(values("compression", "supported").iter().all(|found| found == "0"), "{at}: {reported}");
        let mut ciphers = values("cipher", "cipher");
        let mut meant: Vec<&str> = [OF_13, if is_link { &[] } else { OF_12 }].concat();
        ciphers.sort();
        meant.sort_unstable();
        assert_eq!(ciphers, meant, "{at}: {reported}");
    }
}

#[test]
fn openssl_gets_neither_old_nor_weak_nor_compressed_tls() {
    let test = "openssl_gets_neither_old_nor_weak_nor_compressed_tls";
    if !has(test, &["openssl"]) {
        return;
    }
    let folder = TestFolder::with_certificates();
    let (_pair, edges, link) = start(&folder);
    let client = |at: &str, more: &[&str]| {
        let mut command = Command::new("timeout");
        command.args(["30", "openssl", "s_client", "-connect", at, "-servername", "dmz"]).args(more);
        command
    };
    let weak = "ALL:!ECDHE:@SECLEVEL=0";
    let shown: &[&str] = &["-cert", "pki/internal.pem", "-key", "pki/internal.key"];
    for at in edges.iter().chain([&link]) {
        let shown = if *at == link { shown } else { &[] };
        for wrong in [
            &["-tls1", "-cipher", "ALL:@SECLEVEL=0"][..],
            &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
            &["-tls1_2", "-cipher", weak],
            &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-SHA384:ECDHE-ECDSA-AES128-SHA"],
        ] {
            let output = ended(client(at, shown).args(wrong).current_dir(folder.path("")));
            let reported = String::from_utf8_lossy(&output.stdout);
            assert!(
                !output.status.success() && reported.contains("Cipher is (NONE)"),
                "{at} {wrong:?}: {reported}"
            );
        }
        let versions: &[&str] = if *at == link { &["-tls1_3"] } else { &["-tls1_2", "-tls1_3"] };
        for version in versions {
            let output = ended(client(at, shown).args([version, "-comp"]).current_dir(folder.path("")));
            let reported = String::from_utf8_lossy(&output.stdout);
            let good = output.status.success() && !reported.contains("Cipher is (NONE)");
            assert!(good && reported.contains("Compression: NONE"), "{at} {version}: {reported}");
        }
    }
}
