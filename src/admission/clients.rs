//! Which clients of each service may come in, and how many sessions each may have: `clients` and `per_client`
//! of the profile. The caller knows who a client is, even behind proxies.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use thiserror::Error;

use super::{
    source_network::source_network,
    usage_table::{LimitReached, UsagePermit, UsageTable},
};
use crate::{
    profile::{ClientRules, ClientScope, FilterRefusal, NewSessionRate, ServiceName},
    text,
};

/// A client of one service, or of all that share their limits.
type ClientKey = (Option<ServiceName>, IpAddr);

/// The rules of all services for their clients. A new profile replaces the rules, and keeps what clients have
/// used.
#[derive(Debug, Default)]
pub struct ClientGates {
    rules: ArcSwap<HashMap<ServiceName, ClientRules>>,
    table: Arc<UsageTable<ClientKey>>,
}

/// Why a client may not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ClientRefusal {
    #[error("{0}")]
    Filter(FilterRefusal),
    #[error("`per_client` allows {} at once", text::count(*.0 as u64, "session"))]
    Sessions(usize),
    #[error("`per_client` allows {rate} new sessions")]
    Rate { rate: NewSessionRate, retry_after: Duration },
    #[error("`auth`: {0}")]
    Login(LoginRefusal),
}

/// Why a client is not identified, or may not come in after it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LoginRefusal {
    #[error("it shows no credential")]
    NoCredential,
    #[error("its credential cannot be read")]
    Unreadable,
    #[error("its name or its password is wrong")]
    WrongPassword,
    #[error("its token is invalid: its signature, time, issuer, audience or subject")]
    WrongToken,
    #[error("its token lacks a claim")]
    WrongClaims,
    #[error("`users` does not list it")]
    NotListed,
    #[error("too many of its passwords are waiting to be checked")]
    TooMany,
    #[error("it has sent too many wrong tokens")]
    TooManyTokens,
    #[error("too many passwords are waiting to be checked")]
    Busy,
    #[error("there is no file that could be used")]
    Unavailable,
}

impl ClientRefusal {
    /// When it may come again, if it may at all.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Filter(_) => None,
            // As soon as one of its sessions has ended.
            Self::Sessions(_) => Some(Duration::from_secs(1)),
            Self::Rate { retry_after, .. } => Some(*retry_after),
            Self::Login(LoginRefusal::TooMany | LoginRefusal::TooManyTokens) => Some(Duration::from_secs(1)),
            Self::Login(_) => None,
        }
    }
}

/// A client that may come in; dropping this gives back what it uses of its limits.
#[derive(Debug, Default)]
pub struct ClientPermit {
    _permit: Option<Box<UsagePermit<ClientKey>>>,
}

/// The state of the check of a session's client.
#[derive(Debug, Default)]
pub enum ClientAdmission {
    /// Nobody has checked yet.
    #[default]
    Unchecked,
    Admitted(ClientPermit),
    Refused(ClientRefusal),
}

impl From<Result<ClientPermit, ClientRefusal>> for ClientAdmission {
    fn from(checked: Result<ClientPermit, ClientRefusal>) -> Self {
        checked.map_or_else(Self::Refused, Self::Admitted)
    }
}

impl ClientGates {
    /// Applies these rules from now on.
    pub fn update(&self, rules: impl Iterator<Item = (ServiceName, ClientRules)>) {
        self.rules.store(Arc::new(rules.collect()));
    }

    /// Whether its address may come in; this uses nothing of its limits.
    pub fn check(&self, service: &ServiceName, client: IpAddr) -> Result<(), ClientRefusal> {
        let rules = self.rules.load();
        let filter = rules.get(service).and_then(|rules| rules.filter.as_ref());
        filter.map_or(Ok(()), |filter| filter.check(client).map_err(ClientRefusal::Filter))
    }

    /// Whether it may have one more session.
    pub fn enter(&self, service: &ServiceName, client: IpAddr) -> Result<ClientPermit, ClientRefusal> {
        self.check(service, client)?;
        let rules = self.rules.load();
        let Some(limits) = rules.get(service).and_then(|rules| rules.per_client.as_ref()) else {
            return Ok(ClientPermit::default());
        };
        let of = (limits.scope == ClientScope::Service).then(|| service.clone());
        match self.table.take((of, source_network(client)), &limits.limits, Instant::now()) {
            Ok(permit) => Ok(ClientPermit { _permit: Some(Box::new(permit)) }),
            Err(LimitReached::Sessions(most)) => Err(ClientRefusal::Sessions(most)),
            Err(LimitReached::Rate { rate, retry_after }) => Err(ClientRefusal::Rate { rate, retry_after }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{ClientLimits, ClientScope, SessionLimits};

    fn gates(scope: ClientScope) -> ClientGates {
        let limits = SessionLimits { sessions: Some(2), rate: None, burst: 1 };
        let rules =
            ClientRules { per_client: Some(ClientLimits { limits, scope }), ..ClientRules::default() };
        let gates = ClientGates::default();
        gates.update(["orders", "chat"].map(name).map(|name| (name, rules.clone())).into_iter());
        gates
    }

    fn name(text: &str) -> ServiceName {
        ServiceName::parse(text).expect("a name")
    }

    fn enter(gates: &ClientGates, service: &str, from: &str) -> Result<ClientPermit, ClientRefusal> {
        gates.enter(&name(service), from.parse().expect("an address"))
    }

    #[test]
    fn a_client_is_an_address_of_ipv4_or_a_64_of_ipv6() {
        let gates = gates(ClientScope::Service);
        let take = |from: &str| enter(&gates, "orders", from);
        let (first, _second) = (take("192.0.2.7").expect("one"), take("::ffff:192.0.2.7").expect("two"));
        assert_eq!(take("192.0.2.7").err(), Some(ClientRefusal::Sessions(2)));
        let (_a, _b) = (take("2001:db8::1").expect("another"), take("2001:db8::ffff:2").expect("of its /64"));
        assert!(take("2001:db8::3").is_err() && take("2001:db8:0:1::3").is_ok());
        drop(first);
        assert!(take("192.0.2.7").is_ok(), "its place is free again, and given back at once");
    }

    #[test]
    fn services_count_apart_unless_they_share() {
        let apart = gates(ClientScope::Service);
        let take = |gates: &ClientGates, service| enter(gates, service, "192.0.2.7");
        let _held = ["orders", "orders", "chat", "chat"].map(|of| take(&apart, of).expect("its own"));
        assert!(take(&apart, "orders").is_err() && take(&apart, "chat").is_err());
        let shared = gates(ClientScope::Half);
        let _held = ["orders", "chat"].map(|of| take(&shared, of).expect("of both"));
        assert!(take(&shared, "orders").is_err() && take(&shared, "chat").is_err());
    }
}
