//! `certs`: what it issues, renews and revokes, and that it says what it did not do.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};

use crate::{
    process::TestFolder,
    run,
    setup::{dmz_half, internal_half},
};

fn openssl(folder: &TestFolder, line: &str) -> String {
    let done =
        Command::new("openssl").args(line.split(' ')).current_dir(folder.path("pki")).output().unwrap();
    assert!(done.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr)
}

/// A certificate and key in files of this name, which end in this many days, of the existing CA.
pub fn ending(folder: &TestFolder, name: &str, in_days: i64) {
    let read = |file: &str| fs::read_to_string(folder.path(&format!("pki/{file}"))).unwrap();
    let issuer =
        Issuer::from_ca_cert_pem(&read("ca.pem"), KeyPair::from_pem(&read("ca.key")).unwrap()).unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned(), format!("{name}.test")]).unwrap();
    params.not_before = time::OffsetDateTime::now_utc() - time::Duration::days(9);
    params.not_after = time::OffsetDateTime::now_utc() + time::Duration::days(in_days);
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    folder.write(&format!("pki/{name}.pem"), &params.signed_by(&key, &issuer).unwrap().pem());
    folder.write(&format!("pki/{name}.key"), &key.serialize_pem());
    fs::set_permissions(folder.path(&format!("pki/{name}.key")), fs::Permissions::from_mode(0o600)).unwrap();
}

/// A pipe that nobody writes to would be waited for without end.
#[test]
fn a_pipe_in_place_of_a_file_is_reported() {
    let folder = TestFolder::with_certificates();
    fs::remove_file(folder.path("pki/ca.pem")).unwrap();
    let (fifo, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600));
    rustix::fs::mknodat(rustix::fs::CWD, folder.path("pki/ca.pem"), fifo, mode, 0).unwrap();
    let made = run(&folder, &["certs", "--out", "pki", "--client", "alice"]);
    assert_eq!(made.code, Some(1), "{}", made.err);
    assert!(made.err.contains("ca.pem: it is a pipe"), "{}", made.err);
}

/// A file that grows too large fails as on a full disk.
#[test]
fn what_cannot_be_written_whole_is_not_left_there() {
    let folder = TestFolder::with_certificates();
    // In blocks of 512 bytes: a key fits, a certificate does not.
    for (blocks, begun) in [("0", "ca.key"), ("1", "ca.pem")] {
        let line = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" certs --out new");
        let mut command = Command::new("sh");
        command.args(["-c", &line, env!("CARGO_BIN_EXE_portcullis")]).current_dir(folder.path("."));
        let done = command.output().unwrap();
        let reported = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(1), "{reported}");
        assert!(reported.contains(&format!("new/{begun}: File too large")), "{reported}");
        assert_eq!(fs::read_dir(folder.path("new")).unwrap().count(), 0, "{reported}");
    }
    assert_eq!(run(&folder, &["certs", "--out", "new"]).code, Some(0), "nothing is in the way");
}

#[test]
fn a_pair_that_is_none_is_named_and_not_taken_for_complete() {
    let folder = TestFolder::with_certificates();
    let ask = |arguments: &[&str]| {
        let sent = run(&folder, &[&["certs", "--out", "pki"], arguments].concat());
        assert_eq!(sent.code, Some(1), "{}", sent.out);
        sent.err
    };
    folder.write("pki/dmz.key", "");
    assert!(ask(&[]).contains("pki/dmz.key: it holds no private key; fix or remove it"));
    folder.write("pki/dmz.pem", "no certificate");
    assert!(ask(&[]).contains("pki/dmz.pem: it holds no certificate; fix or remove it"));
    for only in [&[][..], &["--dmz", "dmz"]] {
        let reported = ask(&[&["--renew"], only].concat());
        assert!(
            reported.contains("pki/dmz.pem: it holds no certificate, so it is not renewed"),
            "{reported}"
        );
        assert!(!reported.contains("no certificate for"), "{reported}");
    }
    // Beside no key it may be anything.
    fs::remove_file(folder.path("pki/dmz.key")).unwrap();
    let other = run(&folder, &["certs", "--out", "pki", "--renew"]);
    assert_eq!((other.code, other.out.contains("nothing to renew")), (Some(0), true), "{}", other.err);
    let no_folder = run(&folder, &["certs", "--out", "pki/dmz.pem"]);
    assert!(no_folder.err.contains("pki/dmz.pem: it is not a folder"), "{}", no_folder.err);
}

#[test]
fn certs_issues_for_clients_of_any_name() {
    let folder = TestFolder::with_certificates();
    let made = run(&folder, &["certs", "--out", "pki", "--client", "alice,bob"]);
    assert_eq!(made.code, Some(0), "{}", made.err);
    for name in ["alice", "bob"] {
        assert!(made.out.contains(&format!("pki/{name}.pem")), "{}", made.out);
        let shown =
            openssl(&folder, &format!("x509 -in {name}.pem -noout -ext extendedKeyUsage,subjectAltName"));
        assert!(shown.contains("Client Authentication") && !shown.contains("Server"), "{shown}");
        assert!(shown.contains(&format!("DNS:{name}")), "{shown}");
        openssl(&folder, &format!("verify -purpose sslclient -CAfile ca.pem {name}.pem"));
    }
    let again = run(&folder, &["certs", "--out", "pki", "--client", "alice"]);
    assert_eq!((again.code, again.out.contains("nothing to make")), (Some(0), true), "{}", again.out);
    // A new CA has both halves as well; of one that is there a client is made alone.
    let all = ["ca.pem", "alice.pem", "dmz.pem", "internal.key"];
    assert_eq!(run(&folder, &["certs", "--out", "new", "--client", "alice"]).code, Some(0));
    assert!(all.iter().all(|file| folder.path(&format!("new/{file}")).exists()));
    for file in ["dmz.pem", "dmz.key"] {
        fs::remove_file(folder.path(&format!("new/{file}"))).unwrap();
    }
    assert_eq!(run(&folder, &["certs", "--out", "new", "--client", "bob"]).code, Some(0));
    assert!(folder.path("new/bob.pem").exists() && !folder.path("new/dmz.pem").exists());
    // What cannot be done is reported, and the rest is done.
    fs::copy(folder.path("pki/alice.pem"), folder.path("pki/carol.pem")).unwrap();
    fs::copy(folder.path("pki/alice.key"), folder.path("pki/carol.key")).unwrap();
    let some = run(&folder, &["certs", "--out", "pki", "--client", "carol,dave"]);
    assert_eq!(some.code, Some(1), "{}", some.out);
    assert!(some.err.contains("carol.pem: is for `alice`, not for `carol`"), "{}", some.err);
    assert!(some.out.contains("dave.pem") && folder.path("pki/dave.key").exists(), "{}", some.out);
}

#[test]
fn certs_renews_what_ends_and_keeps_what_it_was() {
    let folder = TestFolder::with_certificates();
    let nothing = run(&folder, &["certs", "--out", "pki", "--renew"]);
    assert_eq!((nothing.code, nothing.out.contains("nothing to renew")), (Some(0), true), "{}", nothing.err);
    for (name, days) in [("soon", 29), ("ended", -1), ("later", 31), ("keyless", 5)] {
        ending(&folder, name, days);
    }
    fs::remove_file(folder.path("pki/keyless.key")).unwrap();
    let read = |file: &str| fs::read(folder.path(&format!("pki/{file}"))).unwrap();
    let before = ["soon.pem", "soon.key", "later.pem", "dmz.pem"].map(read);
    let one = run(&folder, &["certs", "--out", "pki", "--renew", "--dmz", "soon"]);
    assert_eq!(one.code, Some(0), "{}", one.err);
    assert!(one.out.contains("renewed pki/soon.pem") && !one.out.contains("ended.pem"), "{}", one.out);
    assert_eq!([read("soon.pem.old"), read("soon.key.old")], before[..2]);
    assert_eq!([read("later.pem"), read("dmz.pem")], before[2..]);
    assert_ne!(read("soon.key"), before[1]);
    assert_eq!(fs::metadata(folder.path("pki/soon.key")).unwrap().permissions().mode() & 0o777, 0o600);
    openssl(&folder, "verify -CAfile ca.pem soon.pem");
    openssl(&folder, "x509 -in soon.pem -noout -checkend 31536000");
    let names = openssl(&folder, "x509 -in soon.pem -noout -ext subjectAltName");
    assert!(names.contains("DNS:soon,") && names.contains("DNS:soon.test"), "{names}");
    let typo = run(&folder, &["certs", "--out", "pki", "--renew", "--client", "snoo"]);
    assert_eq!(typo.code, Some(1), "{}", typo.out);
    assert!(typo.err.contains("no certificate for `snoo` is in pki"), "{}", typo.err);
    let all = run(&folder, &["certs", "--out", "pki", "--renew"]);
    assert_eq!(all.code, Some(1), "what is not renewed is reported: {}", all.out);
    assert!(all.out.contains("renewed pki/ended.pem"), "{}", all.out);
    assert!(all.err.contains("keyless.pem: expires on") && all.err.contains("keyless.key"), "{}", all.err);
}

#[test]
fn certs_makes_a_list_of_what_is_revoked() {
    let folder = TestFolder::with_certificates();
    run(&folder, &["certs", "--out", "pki", "--client", "alice,bob"]);
    let serial = |name: &str| {
        openssl(&folder, &format!("x509 -in {name}.pem -noout -serial")).trim()["serial=".len()..].to_owned()
    };
    let revoked = run(&folder, &["certs", "--out", "pki", "--revoke", "alice"]);
    assert_eq!(revoked.code, Some(0), "{}", revoked.err);
    for line in ["revoked `alice`: pki/crl.pem has it", "`revoked: [FILE]`", "for a new certificate, move"] {
        assert!(revoked.out.contains(line), "{line}: {}", revoked.out);
    }
    let listed = || openssl(&folder, "crl -in crl.pem -CAfile ca.pem -noout -text");
    assert!(listed().contains(&serial("alice")) && !listed().contains(&serial("bob")), "{}", listed());
    assert!(listed().contains("verify OK"), "{}", listed());
    let both = run(&folder, &["certs", "--out", "pki", "--revoke", "bob"]);
    assert_eq!(both.code, Some(0), "{}", both.err);
    assert!(listed().contains(&serial("alice")) && listed().contains(&serial("bob")), "{}", listed());
    let again = run(&folder, &["certs", "--out", "pki", "--revoke", "alice"]);
    assert_eq!((again.code, again.out.contains("was revoked already")), (Some(0), true), "{}", again.out);
    for name in ["nobody", "ca"] {
        let none = run(&folder, &["certs", "--out", "pki", "--revoke", name]);
        assert_eq!(none.code, Some(1), "{}", none.out);
        assert!(none.err.contains(&format!("no certificate for `{name}`")), "{}", none.err);
    }
    assert_eq!(run(&folder, &["certs", "--out", "nowhere", "--revoke", "alice"]).code, Some(1));
    // A gateway takes it.
    let internal = internal_half("127.0.0.1:9", &[("web", "tcp://127.0.0.1:9")]);
    let text = dmz_half("127.0.0.1:0", &["web"]) + internal.trim_start_matches("mode: reverse\n");
    let text = text.replace("peers: [internal]", "peers: [internal], revoked: [pki/crl.pem]");
    assert!(text.contains("revoked"), "{text}");
    folder.write("pair.yaml", &text);
    let check = run(&folder, &["check", "pair.yaml"]);
    assert_eq!(check.code, Some(0), "{}{}", check.out, check.err);
}
