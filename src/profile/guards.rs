//! Which clients may come in, and how much one client gets: `clients`, `per_client`, `rate` and
//! `session_limit`, of a service or of the DMZ half for all of them. These rules are applied in `admission`.

use std::{collections::BTreeMap, fmt, net::IpAddr, time::Duration};

use super::{
    Network, defaults,
    fields::{MapReader, ValueReader},
    keys::{self, AnyKey, KeyMap},
    problem::{Problem, ValueProblem},
    size,
    yaml::YamlValue,
};
use crate::text;

/// The rules of a service for its clients.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClientRules {
    pub filter: Option<ClientFilter>,
    pub per_client: Option<ClientLimits>,
    pub rate: ByteRates,
    pub session_limit: Option<Duration>,
}

/// The clients that may come in.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClientFilter {
    /// By the number of bits, so that the longest prefix is looked up first.
    networks: BTreeMap<u8, BTreeMap<Network, FilterRule>>,
    /// Whether any network is allowed explicitly, so that all others are not.
    has_allowed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FilterRule {
    Allow,
    Deny,
}

/// Why a client may not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterRefusal {
    Denied(Network),
    NotAllowed,
}

impl ClientFilter {
    pub fn check(&self, address: IpAddr) -> Result<(), FilterRefusal> {
        for (&bits, networks) in self.networks.iter().rev() {
            let Some(network) = Network::of(address, bits) else { continue };
            match networks.get(&network) {
                Some(FilterRule::Allow) => return Ok(()),
                Some(FilterRule::Deny) => return Err(FilterRefusal::Denied(network)),
                None => {}
            }
        }
        if self.has_allowed { Err(FilterRefusal::NotAllowed) } else { Ok(()) }
    }
}

impl fmt::Display for FilterRefusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(network) => write!(out, "`clients` denies {network}"),
            Self::NotAllowed => out.write_str("`clients` does not allow this address"),
        }
    }
}

/// The limits of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimits {
    pub limits: SessionLimits,
    pub scope: ClientScope,
}

/// The limits of one client, or of one DMZ gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLimits {
    /// Concurrent sessions.
    pub sessions: Option<usize>,
    /// New sessions.
    pub rate: Option<NewSessionRate>,
    /// How many of these at once.
    pub burst: u32,
}

impl fmt::Display for SessionLimits {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sessions = self.sessions.map(|sessions| text::count(sessions as u64, "session"));
        let rate = self.rate.map(|rate| format!("{rate}, {} at once", self.burst));
        let words: Vec<_> = [sessions, rate].into_iter().flatten().collect();
        out.write_str(&words.join(", "))
    }
}

/// The scope over which the sessions of one client are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientScope {
    Service,
    /// All services of the half that have no limits of their own.
    Half,
}

/// A number of new sessions in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewSessionRate {
    pub count: u32,
    pub per: Duration,
}

impl NewSessionRate {
    pub fn per_second(self) -> f64 {
        f64::from(self.count) / self.per.as_secs_f64()
    }
}

impl fmt::Display for NewSessionRate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per.as_secs() {
            1 => "s",
            60 => "m",
            _ => "h",
        };
        write!(out, "{}/{unit}", self.count)
    }
}

/// Bytes a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRate(pub u64);

impl ByteRate {
    /// More than any line carries.
    pub const MAX: Self = Self(1 << 40);
}

impl fmt::Display for ByteRate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/s", size::written(self.0 as usize))
    }
}

/// Speed limits for the bytes in each direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ByteRates {
    pub session: Option<ByteRate>,
    /// For all sessions of the service together.
    pub service: Option<ByteRate>,
}

impl fmt::Display for ByteRates {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let session = self.session.map(|rate| format!("{rate} a session"));
        let service = self.service.map(|rate| format!("{rate} in all"));
        let words: Vec<_> = [session, service].into_iter().flatten().collect();
        out.write_str(if words.is_empty() { "off" } else { "" })?;
        out.write_str(&words.join(", "))
    }
}

/// The written options, at a service or at the half.
#[derive(Debug, Clone, Default)]
pub(super) struct RawClientRules {
    filter: Option<ClientFilter>,
    per_client: Option<ClientLimits>,
    rate: Option<ByteRates>,
    session_limit: Option<Duration>,
}

impl RawClientRules {
    pub fn read(fields: &MapReader<'_>, scope: ClientScope, problems: &mut Vec<Problem>) -> Self {
        Self {
            filter: fields.take(&keys::CLIENTS).and_then(|field| filter(&field, problems)),
            per_client: fields.take(&keys::PER_CLIENT).and_then(|field| {
                let limits = limits(&field, &keys::CLIENT_LIMITS, problems)?;
                Some(ClientLimits { limits, scope })
            }),
            rate: fields.take(&keys::RATE).and_then(|field| rates(&field, problems)),
            session_limit: keys::SESSION_LIMIT.read(fields, problems),
        }
    }

    /// Options written here replace those written `above`, one key at a time.
    pub fn resolve_over(&self, above: &Self) -> ClientRules {
        ClientRules {
            filter: self.filter.as_ref().or(above.filter.as_ref()).cloned(),
            per_client: self.per_client.or(above.per_client),
            rate: self.rate.or(above.rate).unwrap_or_default(),
            session_limit: self.session_limit.or(above.session_limit),
        }
    }
}

fn filter(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<ClientFilter> {
    let fields = field.map(&keys::CLIENT_NETWORKS, problems)?;
    let lists: [(&dyn AnyKey, _); 2] =
        [(&keys::ALLOWED_NETWORKS, FilterRule::Allow), (&keys::DENIED_NETWORKS, FilterRule::Deny)];
    let before = problems.len();
    let mut filter = ClientFilter::default();
    for (key, rule) in lists {
        let Some(list) = fields.take(key) else { continue };
        filter.has_allowed |= rule == FilterRule::Allow;
        for item in list.items(defaults::CLIENT_NETWORKS_MAX, problems).unwrap_or_default() {
            let Some(text) = item.text(problems) else { continue };
            let fault = match Network::parse_whole(text) {
                Err(fault) => fault,
                Ok(network) => {
                    let known = filter.networks.entry(network.bits()).or_default();
                    match known.insert(network, rule) {
                        None => continue,
                        Some(other) if other == rule => {
                            ValueProblem::new(format!("`{network}` is listed twice"), "remove one")
                        }
                        Some(_) => ValueProblem::new(
                            format!("`{network}` is in both `allow` and `deny`"),
                            "remove it from one of them",
                        ),
                    }
                }
            };
            problems.push(fault.at(item.location()));
        }
    }
    if filter.networks.is_empty() && problems.len() == before {
        let fault =
            ValueProblem::new("nobody is named here", "write `allow: [NETWORK]`, `deny: [NETWORK]`, or both");
        return field.refuse(fault, problems);
    }
    (problems.len() == before).then_some(filter)
}

/// `per_peer` of a service.
pub(super) fn peer_limits(fields: &MapReader<'_>, problems: &mut Vec<Problem>) -> Option<SessionLimits> {
    limits(&fields.take(&keys::PER_PEER)?, &keys::PEER_LIMITS, problems)
}

fn limits(
    field: &ValueReader<'_>,
    keys: &'static KeyMap,
    problems: &mut Vec<Problem>,
) -> Option<SessionLimits> {
    let fields = field.map(keys, problems)?;
    let before = problems.len();
    let sessions = keys::CLIENT_SESSIONS.read(&fields, problems);
    let rate = keys::NEW_SESSIONS.read(&fields, problems);
    let burst = keys::BURST.read(&fields, problems);
    if problems.len() > before {
        return None;
    }
    if let (None, Some(burst)) = (rate, fields.take(&keys::BURST)) {
        let fault =
            ValueProblem::new("without `rate` this means nothing", "write `rate: 20/s`, or remove it");
        return burst.refuse(fault, problems);
    }
    if (sessions, rate) == (None, None) {
        let fault =
            ValueProblem::new("nothing is bounded here", "write `sessions: 100`, `rate: 20/s`, or both");
        return field.refuse(fault, problems);
    }
    let of_one_second = |rate: NewSessionRate| rate.per_second().ceil() as u32;
    let burst = burst.and_then(|burst| u32::try_from(burst).ok()).or(rate.map(of_one_second));
    Some(SessionLimits { sessions, rate, burst: burst.unwrap_or(1).max(1) })
}

fn rates(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<ByteRates> {
    let YamlValue::Map(_) = field.node.value else {
        return Some(ByteRates { session: Some(keys::throughput(field, problems)?), service: None });
    };
    let fields = field.map(&keys::RATES, problems)?;
    let before = problems.len();
    let rates = ByteRates {
        session: keys::SESSION_RATE.read(&fields, problems),
        service: keys::SERVICE_RATE.read(&fields, problems),
    };
    if rates == ByteRates::default() && problems.len() == before {
        let fault = ValueProblem::new(
            "nothing is bounded here",
            "write `session: 1MB/s`, `service: 50MB/s`, or both",
        );
        return field.refuse(fault, problems);
    }
    (problems.len() == before).then_some(rates)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(allow: &[&str], deny: &[&str]) -> ClientFilter {
        let mut filter = ClientFilter { has_allowed: !allow.is_empty(), ..ClientFilter::default() };
        for (list, rule) in [(allow, FilterRule::Allow), (deny, FilterRule::Deny)] {
            for text in list {
                let network = Network::parse_whole(text).expect("a network");
                filter.networks.entry(network.bits()).or_default().insert(network, rule);
            }
        }
        filter
    }

    #[test]
    fn the_longest_prefix_decides_and_with_allow_all_others_are_denied() {
        let both = filter(&["203.0.113.0/24", "2001:db8::/32"], &["203.0.113.7", "2001:db8:bad::/48"]);
        let within = filter(&["10.1.0.0/16"], &["10.0.0.0/8"]);
        let denied = filter(&[], &["192.0.2.0/24"]);
        let table = [
            (&both, "203.0.113.8", true),
            (&both, "203.0.113.7", false),
            (&both, "198.51.100.1", false),
            (&both, "2001:db8::1", true),
            (&both, "2001:db8:bad::1", false),
            (&both, "2001:db9::1", false),
            (&both, "::ffff:203.0.113.8", true),
            (&within, "10.1.2.3", true),
            (&within, "10.2.2.3", false),
            (&denied, "192.0.2.1", false),
            (&denied, "192.0.3.1", true),
            (&denied, "::1", true),
        ];
        for (filter, address, gets_in) in table {
            let address: IpAddr = address.parse().expect("an address");
            assert_eq!(filter.check(address).is_ok(), gets_in, "{address} of {filter:?}");
        }
        let denied = both.check("203.0.113.7".parse().expect("an address"));
        assert_eq!(denied.map_err(|why| why.to_string()), Err("`clients` denies 203.0.113.7/32".into()));
    }
}
