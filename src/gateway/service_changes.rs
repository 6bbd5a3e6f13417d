//! Describes what a switch changes for each service: whether it is added, removed, or changed in a way that clients,
//! peers or backends will notice. The plan of a switch shows it; what actually changes them is the switch.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::profile::{Accept, BackendSet, ClientRules, DmzMode, Half, OpeningHours, Profile};

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
    /// Facts without a short form: only the fact that they differ is shown.
    undescribed: Vec<(&'static str, String)>,
}

impl ServiceFacts {
    fn describe(&self) -> Vec<String> {
        let is_place = |name: &str| matches!(name, "accept" | "backend");
        let locations = self.described.iter().filter(|(name, _)| is_place(name));
        locations.map(|(name, text)| format!("{name} {text}")).collect()
    }

    fn differences_from(&self, before: &Self) -> Vec<String> {
        let was = |facts: &[(&str, String)], name: &str| {
            let found = facts.iter().find(|(of, _)| *of == name);
            found.map_or_else(String::new, |(_, text)| text.clone())
        };
        let mut lines = Vec::new();
        for (name, text) in &self.described {
            let was = was(&before.described, name);
            if was != *text {
                lines.push(format!("{name} {text}, was {was}"));
            }
        }
        for (name, text) in &self.undescribed {
            // A changed place has been reported already.
            let is_reported =
                lines.iter().any(|line| name.ends_with(line.split(' ').next().unwrap_or_default()));
            if was(&before.undescribed, name) != *text && !is_reported {
                lines.push(format!("{name} changed"));
            }
        }
        lines
    }
}

fn collect_facts(profile: &Profile) -> BTreeMap<(String, Half), ServiceFacts> {
    let mut all = BTreeMap::new();
    for service in profile.dmz.iter().flat_map(|half| &half.services) {
        let mut facts = ServiceFacts::default();
        facts
            .described
            .push(("accept", service.accept.iter().map(describe_accept).collect::<Vec<_>>().join(" ")));
        facts.described.push(("sessions", service.sessions.to_string()));
        let idle = service.idle.map(|idle| humantime::format_duration(idle).to_string());
        facts.described.push(("idle", idle.unwrap_or_else(|| "off".into())));
        facts.add_client_rules(&service.clients);
        facts.described.push(("peers", describe_peers(service.peers.as_deref())));
        facts.described.push(("carries", format!("{:?}", service.carries).to_lowercase()));
        facts.undescribed.push(("options of its accept", format!("{:?}", service.accept)));
        let direct = profile.dmz.as_ref().and_then(|half| match &half.mode {
            DmzMode::Direct(backends) => backends.get(&service.name),
            DmzMode::Forward { .. } | DmzMode::Reverse { .. } => None,
        });
        if let Some(backend) = direct {
            facts.add_backends(backend);
            facts.add_hours(service.hours.as_ref());
        }
        all.insert((service.name.to_string(), Half::Dmz), facts);
    }
    for service in profile.internal.iter().flat_map(|half| &half.services) {
        let mut facts = ServiceFacts::default();
        facts.add_backends(&service.connect);
        facts.add_hours(service.hours.as_ref());
        let off = || "off".to_owned();
        facts.described.push(("sessions", service.sessions.map_or_else(off, |most| most.to_string())));
        facts.described.push(("per_peer", service.per_peer.map_or_else(off, |limits| limits.to_string())));
        facts.described.push(("peers", describe_peers(service.peers.as_deref())));
        facts.described.push(("carries", format!("{:?}", service.carries).to_lowercase()));
        all.insert((service.name.to_string(), Half::Internal), facts);
    }
    all
}

impl ServiceFacts {
    fn add_client_rules(&mut self, rules: &ClientRules) {
        let off = || "off".to_owned();
        self.described.push(("per_client", rules.per_client.map_or_else(off, |of| of.limits.to_string())));
        self.described.push(("rate", rules.rate.to_string()));
        let limit = rules.session_limit.map(|limit| humantime::format_duration(limit).to_string());
        self.described.push(("session_limit", limit.unwrap_or_else(off)));
        self.undescribed.push(("clients", format!("{:?}", rules.filter)));
    }

    fn add_hours(&mut self, hours: Option<&OpeningHours>) {
        self.described.push(("hours", hours.map_or_else(|| "always".into(), ToString::to_string)));
    }

    fn add_backends(&mut self, backends: &BackendSet) {
        self.described.push(("backend", backends.to_string()));
        self.undescribed.push(("options of its backend", format!("{backends:?}")));
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

fn describe_peers(peers: Option<&[String]>) -> String {
    peers.map_or_else(|| "all".into(), |peers| peers.join(", "))
}
