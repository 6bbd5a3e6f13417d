//! What this host knows about names and name servers: `/etc/hosts` and `/etc/resolv.conf`. They are read again
//! for each look-up, on threads beside the runtime and with a deadline.

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV6},
    path::{Path, PathBuf},
    time::Duration,
};

use hickory_proto::rr::Name;
use resolv_conf::{Config, ScopedIp};

use crate::disk::{self, FileWork, PipePolicy};

/// `/etc/hosts` is read again after this time, because a file has no time to live.
pub(super) const HOSTS_CACHE_TTL: Duration = Duration::from_secs(5);
/// How many reads may run at once, and how long each may take.
const READINGS_MAX: usize = 4;
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// Lists of blocked names can have several MiB.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The number of servers that the C library uses of such a file.
const SERVERS_MAX: usize = 3;
const SEARCHED_MAX: usize = 6;
const PORT: u16 = 53;

#[derive(Debug)]
pub(super) struct SystemFiles {
    hosts: PathBuf,
    resolv_conf: PathBuf,
    work: FileWork,
}

impl Default for SystemFiles {
    fn default() -> Self {
        Self::new("/etc/hosts".into(), "/etc/resolv.conf".into())
    }
}

impl SystemFiles {
    pub fn new(hosts: PathBuf, resolv_conf: PathBuf) -> Self {
        Self { hosts, resolv_conf, work: FileWork::new(READINGS_MAX, READ_TIMEOUT) }
    }

    /// The addresses of a host, from all lines that name it.
    pub async fn hosts_of(&self, host: &str) -> Vec<IpAddr> {
        find_host(&self.read(&self.hosts).await, host)
    }

    pub async fn resolver_settings(&self) -> ResolverSettings {
        ResolverSettings::parse(&self.read(&self.resolv_conf).await)
    }

    /// A file that is missing or cannot be read counts as empty.
    async fn read(&self, file: &Path) -> Vec<u8> {
        let file = file.to_owned();
        let read = self.work.run(move || disk::read(&file, FILE_BYTES_MAX, PipePolicy::Refused)).await;
        read.ok().and_then(Result::ok).map(|contents| contents.bytes).unwrap_or_default()
    }
}

/// See hosts(5).
fn find_host(text: &[u8], host: &str) -> Vec<IpAddr> {
    let host = host.trim_end_matches('.');
    let line = |line: &[u8]| {
        let text = std::str::from_utf8(line).ok()?.split('#').next()?;
        let mut words = text.split_ascii_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|name| name.trim_end_matches('.').eq_ignore_ascii_case(host)).then_some(address)
    };
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// See resolv.conf(5).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ResolverSettings {
    pub servers: Vec<SocketAddr>,
    /// Domains to append to a name.
    searched: Vec<String>,
    /// A name with at least this many dots is first tried as it is.
    dots: usize,
}

impl ResolverSettings {
    fn parse(text: &[u8]) -> Self {
        // Lines that cannot be read are skipped, as in the C library.
        let (config, _) = Config::parse_with_errors(text);
        let servers = config.get_nameservers_or_local();
        let searched = config.get_last_search_or_domain().take(SEARCHED_MAX).cloned().collect();
        Self {
            servers: servers.iter().map(server_address).take(SERVERS_MAX).collect(),
            searched,
            dots: config.ndots.try_into().unwrap_or(usize::MAX),
        }
    }

    /// The full names that `host` may stand for, the most likely first.
    pub fn names_to_try(&self, host: &str) -> Vec<Name> {
        let Some(as_it_is) = absolute_name(host) else { return Vec::new() };
        if host.ends_with('.') {
            return vec![as_it_is];
        }
        let searched = self.searched.iter().filter_map(|domain| absolute_name(&format!("{host}.{domain}")));
        let is_first = host.matches('.').count() >= self.dots;
        let mut names: Vec<_> = searched.collect();
        names.insert(if is_first { 0 } else { names.len() }, as_it_is);
        names
    }
}

/// A zone counts only as a number: names of interfaces are up to whoever writes the file.
fn server_address(ip: &ScopedIp) -> SocketAddr {
    match ip {
        ScopedIp::V4(ip) => (*ip, PORT).into(),
        ScopedIp::V6(ip, zone) => {
            let zone = zone.as_deref().and_then(|zone| zone.parse().ok()).unwrap_or(0);
            SocketAddrV6::new(*ip, PORT, 0, zone).into()
        }
    }
}

/// The absolute name in DNS, from the root.
pub(super) fn absolute_name(host: &str) -> Option<Name> {
    let mut name = Name::from_ascii(host).ok()?;
    name.set_fqdn(true);
    Some(name)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::{disk::FileWorkError, tests::happens_after_beside_a_thread};

    #[test]
    fn a_host_has_the_addresses_of_every_line_that_names_it() {
        let text = b"127.0.0.1 localhost\n# 10.0.0.9 gate\n10.0.0.1 Gate.Example.com gate # the first\n\
                     \xff\xfe gate\nnonsense gate\n2001:db8::1\tgate\n10.0.0.3 gateway\n";
        let found: Vec<_> = find_host(text, "gate").iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.1", "2001:db8::1"]);
        assert_eq!(find_host(text, "GATE.example.com.").len(), 1);
        assert_eq!(find_host(text, "example.com"), Vec::<IpAddr>::new());
    }

    #[test]
    fn a_short_name_is_looked_for_where_the_system_says() {
        let text =
            "nameserver 10.0.0.2\nnonsense\nnameserver fe80::1%3\nsearch a.test b.test\noptions ndots:2\n";
        let settings = ResolverSettings::parse(text.as_bytes());
        let servers: Vec<_> = settings.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.2:53", "[fe80::1%3]:53"]);
        let tried = |host: &str| {
            settings.names_to_try(host).iter().map(|name| name.to_ascii()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(tried("gate"), "gate.a.test. gate.b.test. gate.");
        assert_eq!(tried("gate.x"), "gate.x.a.test. gate.x.b.test. gate.x.");
        assert_eq!(tried("gate.x.y"), "gate.x.y. gate.x.y.a.test. gate.x.y.b.test.");
        assert_eq!(tried("gate."), "gate.");
        let none = ResolverSettings::parse(b"");
        assert_eq!(none.servers, ["127.0.0.1:53".parse().expect("one"), "[::1]:53".parse().expect("one")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_hangs_is_given_up_at_its_deadline() {
        let (release, held) = mpsc::channel::<()>();
        let files = SystemFiles::default();
        let read = files.work.run(move || held.recv().is_ok());
        assert_eq!(
            happens_after_beside_a_thread(READ_TIMEOUT, read).await,
            Err(FileWorkError::Late(READ_TIMEOUT))
        );
        drop(release);
    }
}
