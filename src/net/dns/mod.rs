//! Queries name servers itself, where the gateway has to know how long an answer is valid, or where the record
//! is not an address. All other names are looked up by the system's resolver ([`super::resolver`]).
//!
//! Names in `/etc/hosts` are not queried. The servers are those of the profile, or else those of
//! `/etc/resolv.conf`; both files are read again for each look-up. Sockets are connected and never bound,
//! because a half that the kernel has locked may connect but not bind. That is why the queries are sent from
//! here and not by a library.
//!
//! The files here use each other: this one asks and the others read answers, in the types that are defined here.

mod answer;
pub mod name_rules;
mod name_server;
pub mod name_watch;
pub mod service_rules;
mod system_files;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use thiserror::Error;
use tokio::{sync::watch, time::timeout};

use answer::{Answer, FoundRecords, read_answer};
use service_rules::{ServiceRecord, ServiceRecords, TargetRank};
use system_files::{HOSTS_CACHE_TTL, SystemFiles, absolute_name};

/// If one server has not answered within this time, the next one is asked.
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// Deadline of a look-up as a whole.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the other family is waited for once one has been answered.
const RESOLUTION_DELAY: Duration = Duration::from_secs(1);
/// How many aliases are followed from one name to the next.
const ALIASES_MAX: usize = 16;

/// Why name servers gave no usable answer.
#[derive(Debug, Error)]
pub enum DnsError {
    #[error("there is no such name")]
    NoName,
    #[error("it has no address")]
    NoAddress,
    #[error("it has no SRV record")]
    NoService,
    /// Of addresses or targets.
    #[error("it has no {0} that can be dialled")]
    NothingUsable(&'static str),
    #[error("its CNAME chain is longer than {ALIASES_MAX}")]
    LongChain,
    #[error("it is not a valid DNS name")]
    BadName,
    #[error("no answer within {}s", LOOKUP_TIMEOUT.as_secs())]
    Late,
    #[error("name server {0}: no answer within {time}s", time = QUERY_TIMEOUT.as_secs())]
    ServerLate(SocketAddr),
    #[error("name server {0}: {1}")]
    Socket(SocketAddr, std::io::Error),
    #[error("name server {0}: malformed answer: {1}")]
    Garbled(SocketAddr, String),
    #[error("name server {0} answers: {1}")]
    Failed(SocketAddr, ResponseCode),
}

/// The servers to ask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NameServers {
    /// Those of `/etc/resolv.conf`.
    #[default]
    OfSystem,
    Named(Vec<SocketAddr>),
}

impl From<&[SocketAddr]> for NameServers {
    fn from(named: &[SocketAddr]) -> Self {
        if named.is_empty() { Self::OfSystem } else { Self::Named(named.to_vec()) }
    }
}

/// Looks names up; clones use the same servers.
#[derive(Debug, Clone)]
pub struct DnsResolver {
    servers: Arc<watch::Sender<NameServers>>,
    files: Arc<SystemFiles>,
    /// The index of the server that answered last.
    good: Arc<AtomicUsize>,
}

impl Default for DnsResolver {
    fn default() -> Self {
        Self::new(SystemFiles::default())
    }
}

/// The addresses in the answers for a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostAddresses {
    /// `None` if it is not known what there is of this family.
    pub v4: Option<Vec<Ipv4Addr>>,
    pub v6: Option<Vec<Ipv6Addr>>,
    /// How long this is valid.
    pub ttl: Duration,
}

impl HostAddresses {
    pub fn all(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.iter().flatten().copied().map(IpAddr::from);
        v4.chain(self.v6.iter().flatten().copied().map(IpAddr::from))
    }
}

impl DnsResolver {
    fn new(files: SystemFiles) -> Self {
        Self { servers: Arc::new(watch::Sender::default()), files: Arc::new(files), good: Arc::default() }
    }

    /// Uses these servers from now on.
    pub fn use_servers(&self, servers: NameServers) {
        self.servers.send_if_modified(|used| {
            let is_other = *used != servers;
            *used = servers;
            is_other
        });
    }

    /// Signals when other servers are to be asked.
    pub fn servers(&self) -> watch::Receiver<NameServers> {
        self.servers.subscribe()
    }

    /// The addresses of a name; never empty.
    pub async fn addresses(&self, host: &str) -> Result<HostAddresses, DnsError> {
        if let Ok(literal) = host.parse() {
            return Ok(split_by_family([literal].into_iter(), HOSTS_CACHE_TTL));
        }
        let looked_up = async {
            let known = self.files.hosts_of(host).await;
            if !known.is_empty() {
                return Ok(split_by_family(known.into_iter(), HOSTS_CACHE_TTL));
            }
            self.try_names(host, |name| self.addresses_of(name)).await
        };
        timeout(LOOKUP_TIMEOUT, looked_up).await.unwrap_or(Err(DnsError::Late))
    }

    /// The SRV records of a name; never empty.
    pub async fn services(&self, host: &str) -> Result<ServiceRecords, DnsError> {
        let looked_up = self.try_names(host, |name| self.services_of(name));
        timeout(LOOKUP_TIMEOUT, looked_up).await.unwrap_or(Err(DnsError::Late))
    }

    /// The first answer for any full name that a host may have.
    async fn try_names<T, F: Future<Output = Result<T, DnsError>>>(
        &self,
        host: &str,
        look_up: impl Fn(Name) -> F,
    ) -> Result<T, DnsError> {
        let mut last = DnsError::BadName;
        for name in self.names_to_try(host).await {
            match look_up(name).await {
                Err(error @ (DnsError::NoName | DnsError::NoAddress | DnsError::NoService)) => last = error,
                other => return other,
            }
        }
        Err(last)
    }

    async fn services_of(&self, name: Name) -> Result<ServiceRecords, DnsError> {
        let found = self.records(&name, RecordType::SRV, |data| match data {
            RData::SRV(srv) => Some(ServiceRecord {
                rank: TargetRank { priority: srv.priority, weight: srv.weight },
                port: srv.port,
                target: srv.target.to_ascii(),
            }),
            _ => None,
        });
        let FoundRecords { records, ttl } = found.await?;
        if records.is_empty() { Err(DnsError::NoService) } else { Ok(ServiceRecords { records, ttl }) }
    }

    /// The full names to try for a host. If the profile says who is asked, a full name is used as it is.
    async fn names_to_try(&self, host: &str) -> Vec<Name> {
        let is_named = matches!(*self.servers.borrow(), NameServers::Named(_));
        match is_named {
            true => absolute_name(host).into_iter().collect(),
            false => self.files.resolver_settings().await.names_to_try(host),
        }
    }

    async fn addresses_of(&self, name: Name) -> Result<HostAddresses, DnsError> {
        let a = self.records(&name, RecordType::A, |data| match data {
            RData::A(a) => Some(a.0),
            _ => None,
        });
        let aaaa = self.records(&name, RecordType::AAAA, |data| match data {
            RData::AAAA(aaaa) => Some(aaaa.0),
            _ => None,
        });
        tokio::pin!(a, aaaa);
        // An answer for one family does not wait long for the other.
        let (v4, v6) = tokio::select! {
            v4 = &mut a => (Some(v4), timeout(RESOLUTION_DELAY, aaaa).await.ok()),
            v6 = &mut aaaa => (timeout(RESOLUTION_DELAY, a).await.ok(), Some(v6)),
        };
        join_families(v4, v6)
    }

    /// The records of a name, following its aliases; empty if it has none of the type.
    async fn records<T>(
        &self,
        name: &Name,
        record_type: RecordType,
        pick: impl Fn(&RData) -> Option<T>,
    ) -> Result<FoundRecords<T>, DnsError> {
        let (mut name, mut ttl) = (name.clone(), Duration::MAX);
        for _ in 0..ALIASES_MAX {
            let query = Query::query(name, record_type);
            let message = self.query_server(&query).await?;
            match read_answer(&message, &query, &pick)? {
                Answer::Records(found) => {
                    return Ok(FoundRecords { ttl: found.ttl.min(ttl), ..found });
                }
                Answer::Alias(other, holds) => (name, ttl) = (other, ttl.min(holds)),
            }
        }
        Err(DnsError::LongChain)
    }

    /// Asks one server after another, twice, beginning with the one that answered last.
    async fn query_server(&self, query: &Query) -> Result<hickory_proto::op::Message, DnsError> {
        let servers = self.servers.borrow().clone();
        let servers = match servers {
            NameServers::Named(servers) => servers,
            NameServers::OfSystem => self.files.resolver_settings().await.servers,
        };
        let good = self.good.load(Ordering::Relaxed);
        let mut last = DnsError::Late;
        for step in 0..2 * servers.len() {
            let number = good.wrapping_add(step) % servers.len();
            match name_server::query_server(servers[number], query).await {
                Ok(message) => {
                    self.good.store(number, Ordering::Relaxed);
                    return Ok(message);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

type FamilyAnswer<T> = Option<Result<FoundRecords<T>, DnsError>>;

/// Combines the answers for the two families; `None` for one that did not come in time.
fn join_families(v4: FamilyAnswer<Ipv4Addr>, v6: FamilyAnswer<Ipv6Addr>) -> Result<HostAddresses, DnsError> {
    let ttl = |ttl: &mut Duration, of: Duration| *ttl = (*ttl).min(of);
    let (mut joined, mut error) = (HostAddresses { ttl: Duration::MAX, ..HostAddresses::default() }, None);
    match v4 {
        Some(Ok(found)) => {
            ttl(&mut joined.ttl, found.ttl);
            joined.v4 = Some(found.records);
        }
        Some(Err(why)) => error = Some(why),
        None => {}
    }
    match v6 {
        Some(Ok(found)) => {
            ttl(&mut joined.ttl, found.ttl);
            joined.v6 = Some(found.records);
        }
        Some(Err(why)) => error = error.or(Some(why)),
        None => {}
    }
    let has_any = joined.all().next().is_some();
    // If there are none, there may be some of the other family.
    if has_any { Ok(joined) } else { Err(error.unwrap_or(DnsError::NoAddress)) }
}

fn split_by_family(addresses: impl Iterator<Item = IpAddr>, ttl: Duration) -> HostAddresses {
    let mut known = HostAddresses { v4: Some(Vec::new()), v6: Some(Vec::new()), ttl };
    for address in addresses {
        match address {
            IpAddr::V4(v4) => known.v4.get_or_insert_default().push(v4),
            IpAddr::V6(v6) => known.v6.get_or_insert_default().push(v6),
        }
    }
    known
}

#[cfg(test)]
mod tests;
