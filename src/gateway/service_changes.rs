//! Describes what a switch changes for each service: whether it is added, removed, or changed in a way that clients,
//! peers or backends will notice. The plan of a switch shows it; what actually changes them is the switch.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::profile::{
    Accept, AcceptTls, BackendSet, ClientRules, DmzMode, DmzService, Half, InternalService, OpeningHours,
    Profile, WebOptions,
};

/// A service that differs between the two profiles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceChange {
    #[serde(rename = "role")]
    pub half: Half,
    pub service: String,
    pub becomes: ServiceChangeKind,
    /// What is added, removed or different.
    pub what: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceChangeKind {
    Added,
    Removed,
    Changed,
}

impl ServiceChangeKind {
    pub fn verb(self) -> &'static str {
        match self {
            Self::Added => "adds",
            Self::Removed => "removes",
            Self::Changed => "changes",
        }
    }
}

/// Compares the services of both halves, by name.
pub fn compare_services(before: &Profile, after: &Profile) -> Vec<ServiceChange> {
    let (before, after) = (collect_facts(before), collect_facts(after));
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).cloned().collect();
    let change = |(service, half): (String, Half)| {
        let key = (service.clone(), half);
        let (becomes, what) = match (before.get(&key), after.get(&key)) {
            (None, Some(facts)) => (ServiceChangeKind::Added, facts.describe()),
            (Some(facts), None) => (ServiceChangeKind::Removed, facts.describe()),
            (Some(before), Some(after)) => (ServiceChangeKind::Changed, after.differences_from(before)),
            (None, None) => return None,
        };
        (becomes != ServiceChangeKind::Changed || !what.is_empty()).then_some(ServiceChange {
            half,
            service,
            becomes,
            what,
        })
    };
    keys.into_iter().filter_map(change).collect()
}

/// The facts that are compared for one service.
#[derive(Default)]
struct ServiceFacts {
    /// Facts with their names.
    described: Vec<(&'static str, String)>,
    options: Vec<LocationOption>,
}

/// An option without a short form: only the fact that it differs is shown.
struct LocationOption {
    /// The accept or the backends that it is of; one that changes itself is described.
    location: String,
    name: &'static str,
    value: String,
}

impl ServiceFacts {
    fn describe(&self) -> Vec<String> {
        let is_address = |name: &str| matches!(name, "accept" | "backend");
        let addresses = self.described.iter().filter(|(name, _)| is_address(name));
        addresses.map(|(name, text)| format!("{name} {text}")).collect()
    }

    fn differences_from(&self, before: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        let removed = before.described.iter().filter(|(name, _)| find(&self.described, name).is_none());
        for (name, _) in self.described.iter().chain(removed) {
            let [now, was] = [self, before].map(|facts| find(&facts.described, name).unwrap_or(absent(name)));
            if was != now {
                lines.push(format!("{name} {now}, was {was}"));
            }
        }
        for LocationOption { location, name, value } in &self.options {
            let was = before.options.iter().find(|was| (&was.location, was.name) == (location, name));
            let line = format!("{name} changed");
            if was.is_some_and(|was| was.value != *value) && !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines
    }
}

fn find<'a>(facts: &'a [(&str, String)], name: &str) -> Option<&'a str> {
    facts.iter().find(|(of, _)| *of == name).map(|(_, text)| text.as_str())
}

/// What stands for a fact that a half lacks in one of the two profiles: only one that reaches backends has hours and backends.
fn absent(name: &str) -> &'static str {
    match name {
        "hours" => "always",
        _ => "none",
    }
}

fn collect_facts(profile: &Profile) -> BTreeMap<(String, Half), ServiceFacts> {
    let of_dmz = profile.dmz.iter().flat_map(|half| half.services.iter().map(move |service| (half, service)));
    let of_dmz = of_dmz.map(|(half, service)| {
        let backends = match &half.mode {
            DmzMode::Direct(backends) => backends.get(&service.name),
            DmzMode::Forward { .. } | DmzMode::Reverse { .. } => None,
        };
        ((service.name.to_string(), Half::Dmz), ServiceFacts::of_dmz(service, backends))
    });
    let of_internal = profile.internal.iter().flat_map(|half| &half.services);
    let of_internal = of_internal
        .map(|service| ((service.name.to_string(), Half::Internal), ServiceFacts::of_internal(service)));
    of_dmz.chain(of_internal).collect()
}

impl ServiceFacts {
    /// Every key is compared: one that is added to a service must be added here.
    fn of_dmz(service: &DmzService, backends: Option<&BackendSet>) -> Self {
        let DmzService { name: _, accept, sessions, idle, peers, carries, unready, hours, clients } = service;
        let mut facts = Self::default();
        let described = accept.iter().map(describe_accept).collect::<Vec<_>>().join(" ");
        facts.described.push(("accept", described));
        facts.described.push(("sessions", sessions.to_string()));
        let idle = idle.map(|idle| humantime::format_duration(idle).to_string());
        facts.described.push(("idle", idle.unwrap_or_else(|| "off".into())));
        facts.add_client_rules(clients);
        facts.described.push(("peers", describe_peers(peers.as_deref())));
        facts.described.push(("carries", format!("{carries:?}").to_lowercase()));
        facts.described.push(("unready", format!("{unready:?}").to_lowercase()));
        facts.options.extend(accept.iter().flat_map(accept_options));
        if let Some(backends) = backends {
            facts.add_backends(backends);
            facts.add_hours(hours.as_ref());
        }
        facts
    }

    fn of_internal(service: &InternalService) -> Self {
        let InternalService { name: _, connect, peers, carries, hours, sessions, per_peer } = service;
        let off = || "off".to_owned();
        let mut facts = Self::default();
        facts.add_backends(connect);
        facts.add_hours(hours.as_ref());
        facts.described.push(("sessions", sessions.map_or_else(off, |most| most.to_string())));
        facts.described.push(("per_peer", per_peer.map_or_else(off, |limits| limits.to_string())));
        facts.described.push(("peers", describe_peers(peers.as_deref())));
        facts.described.push(("carries", format!("{carries:?}").to_lowercase()));
        facts
    }

    fn add_client_rules(&mut self, rules: &ClientRules) {
        let ClientRules { filter, per_client, rate, session_limit } = rules;
        let off = || "off".to_owned();
        self.described.push(("per_client", per_client.map_or_else(off, |of| of.limits.to_string())));
        self.described.push(("rate", rate.to_string()));
        let limit = session_limit.map(|limit| humantime::format_duration(limit).to_string());
        self.described.push(("session_limit", limit.unwrap_or_else(off)));
        let value = format!("{filter:?}");
        self.options.push(LocationOption { location: String::new(), name: "clients", value });
    }

    fn add_hours(&mut self, hours: Option<&OpeningHours>) {
        self.described.push(("hours", hours.map_or_else(|| "always".into(), ToString::to_string)));
    }

    fn add_backends(&mut self, backends: &BackendSet) {
        let location = backends.to_string();
        self.described.push(("backend", location.clone()));
        let value = format!("{backends:?}");
        self.options.push(LocationOption { location, name: "options of its backend", value });
    }
}

/// Its address, and what else identifies it on its port.
fn describe_accept(accept: &Accept) -> String {
    let mut text = accept.address.to_string();
    let hosts = accept.web.as_ref().map(|web| web.hosts.iter().map(ToString::to_string).collect::<Vec<_>>());
    for (name, names) in [("hosts", hosts.unwrap_or_default()), ("sni", accept.sni.clone())] {
        if !names.is_empty() {
            text.push_str(&format!(" ({name} {})", names.join(", ")));
        }
    }
    text
}

/// Everything else about it; what it has not is empty.
fn accept_options(accept: &Accept) -> Vec<LocationOption> {
    let Accept { address: _, bind, tls, web, sni: _, proxy } = accept;
    let mut options = vec![("bind", format!("{bind:?}")), ("proxy", format!("{proxy:?}"))];
    if let Some(AcceptTls { pair, clients, min_version, alpn }) = tls {
        options.push(("certificate", format!("{pair:?}")));
        options.push(("certificates of clients", format!("{clients:?}")));
        options.push(("min_version", format!("{min_version:?}")));
        options.push(("alpn", format!("{alpn:?}")));
    }
    if let Some(web) = web {
        options.extend(web_options(web));
    }
    let location = describe_accept(accept);
    options
        .into_iter()
        .map(|(name, value)| LocationOption { location: location.clone(), name, value })
        .collect()
}

fn web_options(web: &WebOptions) -> [(&'static str, String); 9] {
    let WebOptions {
        hosts: _,
        origins,
        message_limit,
        inactivity,
        protocols,
        frames,
        forwarded,
        body,
        keep_alive,
        auth,
    } = web;
    [
        ("origins", format!("{origins:?}")),
        ("message_limit", format!("{message_limit:?}")),
        ("inactivity", format!("{inactivity:?}")),
        ("protocols", format!("{protocols:?}")),
        ("frames", format!("{frames:?}")),
        ("forwarded", format!("{forwarded:?}")),
        ("body", format!("{body:?}")),
        ("keep_alive", format!("{keep_alive:?}")),
        ("auth", format!("{auth:?}")),
    ]
}

fn describe_peers(peers: Option<&[String]>) -> String {
    peers.map_or_else(|| "all".into(), |peers| peers.join(", "))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::profile::{self, ProfileOverrides};

    fn changes(before: &str, after: &str) -> Vec<Vec<String>> {
        let text =
            |service: &str| format!("mode: direct\ndmz: {{ services: {{ orders: {{ {service} }} }} }}\n");
        let read = |service: &str, file: &str| {
            let profile = profile::parse(&text(service), Path::new(file), &ProfileOverrides::default());
            profile.unwrap_or_else(|problems| panic!("{problems:?}"))
        };
        let changes = compare_services(&read(before, "one.yaml"), &read(after, "other.yaml"));
        changes.into_iter().map(|change| change.what).collect()
    }

    #[test]
    fn each_option_that_changes_is_named() {
        let tls = "connect: 'echo://', accept: { address: 'wss://127.0.0.1:80/a', \
                   tls: { certificate: www.pem, key: www.key, ca: ca.pem } }";
        let none: [[&str; 0]; 0] = [];
        assert_eq!(changes(tls, tls), none, "another file that says the same");
        for (from, to, expected) in [
            ("ca.pem", "other.pem", &["certificates of clients changed"][..]),
            ("ca.pem", "ca.pem, min_version: '1.3'", &["min_version changed"]),
            ("www.pem", "new.pem", &["certificate changed"]),
            (" } }", " }, origins: ['https://h'] }", &["origins changed"]),
            (
                "ca.pem } }",
                "ca.pem } }, auth: { basic: users }, rate: 1MB/s, clients: { deny: ['::/0'] }, unready: refuse",
                &[
                    "rate 1MB/s a session, was off",
                    "unready refuse, was accept",
                    "clients changed",
                    "auth changed",
                ],
            ),
            (":80/a", ":80/b", &["accept wss://127.0.0.1:80/b, was wss://127.0.0.1:80/a"]),
            (
                "connect: 'echo://'",
                "connect: 'tcp://127.0.0.1:9'",
                &["backend tcp://127.0.0.1:9, was echo://"],
            ),
        ] {
            let found = changes(tls, &tls.replace(from, to)).concat();
            assert!(
                found.len() == expected.len()
                    && found.iter().zip(expected).all(|(one, begins)| one.starts_with(begins)),
                "{to}: {found:?}"
            );
        }
    }

    #[test]
    fn a_half_that_begins_or_ends_to_reach_backends_says_so() {
        let read = |mode: &str, way: &str, connect: &str| {
            let service = format!("{{ accept: 'tcp://127.0.0.1:8000'{connect} }}");
            let text = format!("mode: {mode}\ndmz:\n{way}  services: {{ orders: {service} }}\n");
            profile::parse(&text, Path::new("p.yaml"), &ProfileOverrides::default()).expect("it loads")
        };
        let pair = read("forward", "  link: { connect: 'socks://127.0.0.1:1080' }\n", "");
        let direct = read("direct", "", ", connect: 'tcp://127.0.0.1:9000'");
        let lines = |before, after| compare_services(before, after).remove(0).what;
        assert_eq!(lines(&pair, &direct), ["backend tcp://127.0.0.1:9000, was none"]);
        assert_eq!(lines(&direct, &pair), ["backend none, was tcp://127.0.0.1:9000"]);
    }
}
