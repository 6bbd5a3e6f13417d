use std::{fs, path::Path, process::Command};

use super::*;
use crate::profile::ProfileLocation;

/// CAs and their lists, made by the openssl command.
struct Authority {
    folder: tempfile::TempDir,
}

fn openssl(folder: &Path, line: &str) {
    let done = Command::new("openssl").args(line.split(' ')).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&done.stderr));
}

impl Authority {
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        fs::write(
            at.join("ca.cnf"),
            "[ca]\ndefault_ca = own\n[own]\ndatabase = index.txt\ncrlnumber = number\ndefault_md = sha256\n\
             default_crl_days = 30\ncertificate = ca.pem\nprivate_key = ca.key\n[delta]\n\
             2.5.29.27 = critical,DER:020101\n",
        )
        .unwrap();
        fs::write(at.join("index.txt"), "").unwrap();
        fs::write(at.join("number"), "01\n").unwrap();
        openssl(at, "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ca.key");
        openssl(at, &format!("req -x509 -new -key ca.key -subj /CN={name} -days 30 -out ca.pem"));
        Self { folder }
    }

    /// A certificate in files with this name, with this serial number.
    fn issue(&self, name: &str, serial: &str) -> CertificateDer<'static> {
        let at = self.folder.path();
        openssl(at, "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out leaf.key");
        openssl(at, &format!("req -new -key leaf.key -subj /CN={name} -out leaf.csr"));
        openssl(
            at,
            &format!(
                "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -set_serial {serial} -days 9 -out {name}.pem"
            ),
        );
        self.certificate(&format!("{name}.pem"))
    }

    fn revoke(&self, name: &str) {
        openssl(self.folder.path(), &format!("ca -config ca.cnf -revoke {name}.pem"));
    }

    fn list(&self, file: &str, more: &str) {
        openssl(self.folder.path(), &format!("ca -config ca.cnf -gencrl -out {file}{more}"));
    }

    fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.folder.path().join(file)).unwrap()
    }

    fn write(&self, file: &str, bytes: &[u8]) {
        fs::write(self.folder.path().join(file), bytes).unwrap();
    }

    fn certificate(&self, file: &str) -> CertificateDer<'static> {
        rustls_pemfile::certs(&mut self.read(file).as_slice()).next().unwrap().unwrap()
    }

    fn load(&self, file: &str, expired: ExpiredListPolicy) -> Result<RevocationLists, Vec<Problem>> {
        let location =
            ProfileLocation { file: "p.yaml".into(), line: 1, column: 1, key: "tls.revoked".into() };
        let files = vec![PemSource::File { path: self.folder.path().join(file), location }];
        let ca = self.certificate("ca.pem");
        RevocationLists::load(&RevokedFiles { files, expired }, &[ca], TlsParty::Gateway, PipePolicy::Refused)
    }

    /// Why a file is invalid, and what to do.
    fn problem(&self, file: &str) -> String {
        let problems = self.load(file, ExpiredListPolicy::Refuse).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].what.contains(file), "it names the file: {}", problems[0]);
        problems[0].to_string()
    }
}

#[test]
fn only_listed_certificates_are_revoked() {
    let authority = Authority::new("own");
    // Numbers that need a zero before them in DER, and one that does not.
    let serials = ["0x80", "0x01", "0xff00ff00ff00ff00ff00ff00ff00ff00ff00ff"];
    let shown: Vec<_> =
        serials.iter().enumerate().map(|(at, serial)| authority.issue(&format!("dmz{at}"), serial)).collect();
    authority.list("empty.pem", "");
    for name in ["dmz0", "dmz2"] {
        authority.revoke(name);
    }
    authority.list("crl.pem", "");
    let der = authority.read("crl.pem");
    let der = rustls_pemfile::crls(&mut der.as_slice()).next().unwrap().unwrap();
    authority.write("crl.der", &der);
    // Without a number, openssl writes version 1.
    let numbered = fs::read_to_string(authority.folder.path().join("ca.cnf")).unwrap();
    authority.write("ca.cnf", numbered.replace("crlnumber = number\n", "").as_bytes());
    authority.list("v1.pem", "");
    let two = [authority.read("empty.pem"), authority.read("crl.pem")].concat();
    authority.write("two.pem", &two);
    let check = |file: &str, leaf: &CertificateDer<'_>| {
        let lists = authority.load(file, ExpiredListPolicy::Refuse).unwrap();
        let found = lists.check(leaf, &[], UnixTime::now());
        assert_eq!(lists.revoke_any(&[CertificateId::of(leaf).unwrap()]), found.is_err());
        found
    };
    let revoked = || Err(Error::from(CertificateError::Revoked));
    for file in ["crl.pem", "crl.der", "v1.pem", "two.pem"] {
        let found: Vec<_> = shown.iter().map(|leaf| check(file, leaf)).collect();
        assert_eq!(found, [revoked(), Ok(()), revoked()], "{file}");
    }
    assert!(shown.iter().all(|leaf| check("empty.pem", leaf).is_ok()));
    // An intermediate certificate is checked too; the same number from another CA is another certificate.
    let lists = authority.load("crl.pem", ExpiredListPolicy::Refuse).unwrap();
    assert_eq!(lists.check(&shown[1], &shown[2..], UnixTime::now()), revoked());
    let stranger = Authority::new("other").issue("dmz0", "0x80");
    assert_eq!(lists.check(&stranger, &[], UnixTime::now()), Ok(()));
}

#[test]
fn an_expired_list_refuses_those_whom_it_is_about() {
    let authority = Authority::new("own");
    let (one, other) = (authority.issue("one", "1"), authority.issue("other", "2"));
    authority.revoke("one");
    authority.list("old.pem", " -crl_lastupdate 20250101000000Z -crl_nextupdate 20250201000000Z");
    let stranger = Authority::new("elsewhere").issue("dmz", "1");
    let checked = |policy, leaf: &CertificateDer<'_>| {
        let lists = authority.load("old.pem", policy).unwrap();
        lists.check(leaf, &[], UnixTime::now())
    };
    let refused = Err(Error::from(CertificateError::ApplicationVerificationFailure));
    let revoked = Err(Error::from(CertificateError::Revoked));
    assert_eq!(checked(ExpiredListPolicy::Refuse, &other), refused);
    assert_eq!(checked(ExpiredListPolicy::Accept, &other), Ok(()));
    assert_eq!(checked(ExpiredListPolicy::Refuse, &stranger), Ok(()));
    assert_eq!(checked(ExpiredListPolicy::Accept, &one), revoked);
    let lists = authority.load("old.pem", ExpiredListPolicy::Refuse).unwrap();
    let before = UnixTime::since_unix_epoch(Duration::from_secs(1_736_000_000));
    assert_eq!(lists.check(&other, &[], before), Ok(()), "it held then");
    // Open connections are cut only for what is revoked.
    let id = |leaf| CertificateId::of(leaf).unwrap();
    assert_eq!([lists.revoke_any(&[id(&one)]), lists.revoke_any(&[id(&other)])], [true, false]);
}

#[test]
fn an_expired_list_beside_a_later_one_refuses_nobody() {
    let authority = Authority::new("own");
    let (one, other) = (authority.issue("one", "1"), authority.issue("other", "2"));
    authority.list("old.pem", " -crl_lastupdate 20250101000000Z -crl_nextupdate 20250201000000Z");
    authority.revoke("one");
    authority.list("new.pem", "");
    authority.write("both.pem", &[authority.read("old.pem"), authority.read("new.pem")].concat());
    let lists = authority.load("both.pem", ExpiredListPolicy::Refuse).unwrap();
    assert_eq!(lists.check(&other, &[], UnixTime::now()), Ok(()));
    let revoked = Err(Error::from(CertificateError::Revoked));
    assert_eq!(lists.check(&one, &[], UnixTime::now()), revoked);
    // One about a part of the certificates replaces none about all of them.
    let config = authority.read("ca.cnf");
    let part = b"[part]\nissuingDistributionPoint = critical,@point\n[point]\nfullname = URI:http://crl.example\nonlyuser = TRUE\n";
    authority.write("ca.cnf", &[&config[..], part].concat());
    authority.list("part.pem", " -crlexts part");
    authority.write("both.pem", &[authority.read("old.pem"), authority.read("part.pem")].concat());
    let lists = authority.load("both.pem", ExpiredListPolicy::Refuse).unwrap();
    let refused = Err(Error::from(CertificateError::ApplicationVerificationFailure));
    assert_eq!(lists.check(&other, &[], UnixTime::now()), refused);
}

#[test]
fn a_list_of_another_ca_is_reported_with_file_and_fault() {
    let authority = Authority::new("own");
    authority.issue("dmz", "1");
    authority.revoke("dmz");
    authority.list("crl.pem", "");
    let good = authority.read("crl.pem");
    authority.write("half.pem", &good[..good.len() / 2]);
    let lines = String::from_utf8(good.clone()).unwrap();
    let short: String =
        lines.lines().filter(|line| !line.ends_with('=')).map(|line| format!("{line}\n")).collect();
    authority.write("short.pem", short.replacen('\n', "\nAAAA", 1).as_bytes());
    let der = rustls_pemfile::crls(&mut good.as_slice()).next().unwrap().unwrap();
    authority.write("half.der", &der[..der.len() / 2]);
    authority.write("empty.pem", b"");
    authority.write("large.pem", &good.repeat(40 * 1024 * 1024 / good.len() + 1));
    fs::copy(authority.folder.path().join("ca.pem"), authority.folder.path().join("certificate.pem"))
        .unwrap();
    authority.list("delta.pem", " -crlexts delta");
    for (other, file) in [(Authority::new("other"), "other.pem"), (Authority::new("own"), "same-name.pem")] {
        other.list("crl.pem", "");
        authority.write(file, &other.read("crl.pem"));
    }
    for (file, reported) in [
        ("half.pem", "list 1 is damaged: "),
        ("short.pem", "it is damaged: "),
        ("half.der", "it is damaged: "),
        ("empty.pem", "it holds no list of revoked certificates; name a file with one"),
        ("certificate.pem", "it holds no list of revoked certificates; name a file with one"),
        ("large.pem", "it is larger than 16 MiB; name a list of revoked certificates"),
        ("delta.pem", "it is a list of changes (a delta CRL), which is not supported; name a complete list"),
        (
            "other.pem",
            "it comes from another CA, `CN=other`, than those in this link's `ca`; name the list of a CA",
        ),
        (
            "same-name.pem",
            "its signature is not that of `CN=own` in this link's `ca`: it comes from another CA",
        ),
        ("missing.pem", "No such file or directory"),
    ] {
        let problem = authority.problem(file);
        assert!(problem.contains(reported), "{file}: {problem}");
    }
    // No part of a list is accepted as a list, and none stops the parser.
    for length in (0..der.len()).step_by(7) {
        authority.write("cut.der", &der[..length]);
        authority.problem("cut.der");
    }
}
