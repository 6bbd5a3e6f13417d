//! Which gateways behind a name get links, and which name servers are asked for them.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    HostPort, LinkAddress, defaults,
    endpoint::is_name,
    fields::{MapReader, ValueReader},
    keys,
    problem::{Problem, ValueProblem, quote_for_problem},
};

/// The gateways behind an address that are dialled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum GatewaysOfName {
    /// One: whichever of its addresses answers.
    #[default]
    Any,
    /// One at each address of the name.
    Each,
    /// One of those: the address belongs to this name.
    One(Arc<str>),
    /// One at each target of the name's SRV records, which also have the ports.
    Service,
    /// One of those: the address is a target of this name.
    Target(Arc<str>),
}

impl HostPort {
    /// A target of SRV records; `None` if it cannot be reached (RFC 2782: `.` means that there is no such
    /// service).
    pub fn of_record(target: &str, port: u16) -> Option<Self> {
        let host = target.strip_suffix('.').unwrap_or(target).to_ascii_lowercase();
        (port != 0 && is_name(&host)).then_some(Self { host, port })
    }
}

impl LinkAddress {
    /// Whether it stands for others, which are looked up.
    pub fn is_followed(&self) -> bool {
        matches!(self.gateways, GatewaysOfName::Each | GatewaysOfName::Service)
    }

    /// The gateway at one address of its name.
    pub fn at_address(&self, ip: IpAddr) -> Self {
        Self {
            at: HostPort { host: ip.to_string(), port: self.at.port },
            gateways: GatewaysOfName::One(self.at.host.as_str().into()),
            ..self.clone()
        }
    }

    /// The gateway at one target of its name's records.
    pub fn at_target(&self, target: &HostPort) -> Self {
        Self {
            at: target.clone(),
            gateways: GatewaysOfName::Target(self.at.host.as_str().into()),
            ..self.clone()
        }
    }

    /// The host as other machines know it: the name in its certificate, where that is checked.
    pub fn host_name(&self) -> &str {
        match &self.gateways {
            GatewaysOfName::One(name) => name,
            GatewaysOfName::Any
            | GatewaysOfName::Each
            | GatewaysOfName::Service
            | GatewaysOfName::Target(_) => self.at.host_without_zone(),
        }
    }

    /// The name in the profile to which this gateway belongs.
    pub fn followed_name(&self) -> Option<&str> {
        match &self.gateways {
            GatewaysOfName::One(name) | GatewaysOfName::Target(name) => Some(name),
            GatewaysOfName::Any | GatewaysOfName::Each | GatewaysOfName::Service => None,
        }
    }
}

/// Reads the options in the map of an address.
pub(super) fn read(
    options: &MapReader<'_>,
    address: &LinkAddress,
    problems: &mut Vec<Problem>,
) -> Option<GatewaysOfName> {
    let Some(field) = options.take(&keys::EACH_GATEWAY) else { return Some(address.gateways.clone()) };
    if address.gateways == GatewaysOfName::Service {
        let what = "the SRV records name each gateway already";
        return field.refuse(ValueProblem::new(what, "remove `each`"), problems);
    }
    match each_address(&field, &address.at, problems)? {
        true => Some(GatewaysOfName::Each),
        false => Some(GatewaysOfName::Any),
    }
}

/// Whether each address of a name is meant.
pub(super) fn each_address(
    field: &ValueReader<'_>,
    at: &HostPort,
    problems: &mut Vec<Problem>,
) -> Option<bool> {
    let each = field.flag(problems)?;
    if each && at.is_address() {
        let what = format!("`{}` is an address, and has no others", at.host);
        return field.refuse(ValueProblem::new(what, "write a name, or remove `each`"), problems);
    }
    Some(each)
}

/// `resolver` of a profile.
pub(super) fn name_servers(top: &MapReader<'_>, problems: &mut Vec<Problem>) -> Option<Vec<SocketAddr>> {
    let items = top.take(&keys::RESOLVER)?.one_or_many(defaults::NAME_SERVERS_MAX, problems)?;
    let mut seen = HashSet::new();
    let mut servers = Vec::new();
    for item in items {
        let Some(text) = item.text(problems) else { continue };
        let written = quote_for_problem(text);
        let fault = match text.parse::<SocketAddr>() {
            Ok(server)
                if server.port() == 0 || server.ip().is_unspecified() || server.ip().is_multicast() =>
            {
                ValueProblem::new(
                    format!("`{written}` is not an address of a name server"),
                    "write ADDRESS:PORT, `127.0.0.1:53`",
                )
            }
            Ok(server) if !seen.insert(server) => {
                ValueProblem::new(format!("`{written}` is listed twice"), "remove one")
            }
            Ok(server) => {
                servers.push(server);
                continue;
            }
            Err(_) => {
                let what = format!("`{written}` is not the address of a name server");
                ValueProblem::new(what, "write ADDRESS:PORT, `127.0.0.1:53` or `[::1]:53`, and no name")
            }
        };
        problems.push(fault.at(item.location()));
    }
    Some(servers)
}
