//! Lists of revoked certificates, as the openssl command makes them.

use std::{fs, process::Command};

use super::gateway::TestFolder;

/// The CA of a place, with its books.
pub struct ListMaker<'a>(&'a TestFolder);

impl<'a> ListMaker<'a> {
    pub fn new(folder: &'a TestFolder) -> Self {
        fs::write(
            folder.pki("ca.cnf"),
            "[ca]\ndefault_ca = own\n[own]\ndatabase = index.txt\ndefault_md = sha256\ndefault_crl_days = 30\n\
             certificate = ca.pem\nprivate_key = ca.key\n",
        )
        .unwrap();
        fs::write(folder.pki("index.txt"), "").unwrap();
        Self(folder)
    }

    fn openssl(&self, line: &str) {
        let folder = self.0.pki("");
        let done = Command::new("openssl").args(line.split(' ')).current_dir(folder).output().unwrap();
        assert!(done.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Enters `NAME.pem` as revoked; the next list has it.
    pub fn revoke(&self, name: &str) {
        self.openssl(&format!("ca -config ca.cnf -revoke {name}.pem"));
    }

    /// Puts a list in its place, as `crl.pem`.
    pub fn issue(&self) {
        self.issue_with("");
    }

    /// One that says it was made next year.
    pub fn issue_later(&self) {
        self.issue_with(" -crl_lastupdate 20300101000000Z -crl_nextupdate 20310101000000Z");
    }

    /// One that expired long ago.
    pub fn issue_expired(&self) {
        self.issue_with(" -crl_lastupdate 20250101000000Z -crl_nextupdate 20250201000000Z");
    }

    fn issue_with(&self, more: &str) {
        self.openssl(&format!("ca -config ca.cnf -gencrl -out crl.new{more}"));
        fs::rename(self.0.pki("crl.new"), self.0.pki("crl.pem")).unwrap();
    }
}
