//! What a switch changes for each service, in words: added, removed, or changed in what clients, peers or
//! backends notice.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::profile::{Accept, Backend, DmzWay, Profile, Role};

/// One service that is not the same under both profiles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceChange {
    pub role: Role,
    pub service: String,
    pub becomes: Becomes,
    /// What is new, what goes, or what differs.
    pub what: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Becomes {
    Added,
    Removed,
    Changed,
}

impl Becomes {
    pub fn verb(self) -> &'static str {
        match self {
            Self::Added => "adds",
            Self::Removed => "removes",
            Self::Changed => "changes",
        }
    }
}

/// Of both halves, by name.
pub fn of(before: &Profile, after: &Profile) -> Vec<ServiceChange> {
    let (before, after) = (facts(before), facts(after));
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).cloned().collect();
    let change = |(service, role): (String, Role)| {
        let key = (service.clone(), role);
        let (becomes, what) = match (before.get(&key), after.get(&key)) {
            (None, Some(facts)) => (Becomes::Added, facts.shown()),
            (Some(facts), None) => (Becomes::Removed, facts.shown()),
            (Some(before), Some(after)) => (Becomes::Changed, after.unlike(before)),
            (None, None) => return None,
        };
        (becomes != Becomes::Changed || !what.is_empty()).then_some(ServiceChange {
            role,
            service,
            becomes,
            what,
        })
    };
    keys.into_iter().filter_map(change).collect()
}

/// What is compared of one service.
#[derive(Default)]
struct Facts {
    /// By what they are called.
    told: Vec<(&'static str, String)>,
    /// What has no short form: that it differs is all that is told.
    untold: Vec<(&'static str, String)>,
}

impl Facts {
    fn shown(&self) -> Vec<String> {
        let is_place = |name: &str| matches!(name, "accept" | "backend");
        let places = self.told.iter().filter(|(name, _)| is_place(name));
        places.map(|(name, text)| format!("{name} {text}")).collect()
    }

    fn unlike(&self, before: &Self) -> Vec<String> {
        let was = |facts: &[(&str, String)], name: &str| {
            let found = facts.iter().find(|(of, _)| *of == name);
            found.map_or_else(String::new, |(_, text)| text.clone())
        };
        let mut lines = Vec::new();
        for (name, text) in &self.told {
            let was = was(&before.told, name);
            if was != *text {
                lines.push(format!("{name} {text}, was {was}"));
            }
        }
        for (name, text) in &self.untold {
            // A place that is another is told already.
            let is_told = lines.iter().any(|line| name.ends_with(line.split(' ').next().unwrap_or_default()));
            if was(&before.untold, name) != *text && !is_told {
                lines.push(format!("{name} changed"));
            }
        }
        lines
    }
}

fn facts(profile: &Profile) -> BTreeMap<(String, Role), Facts> {
    let mut all = BTreeMap::new();
    for service in profile.dmz.iter().flat_map(|half| &half.services) {
        let mut facts = Facts::default();
        facts.told.push(("accept", service.accept.iter().map(accept).collect::<Vec<_>>().join(" ")));
        facts.told.push(("sessions", service.sessions.to_string()));
        let idle = service.idle.map(|idle| humantime::format_duration(idle).to_string());
        facts.told.push(("idle", idle.unwrap_or_else(|| "off".into())));
        facts.told.push(("peers", peers(service.peers.as_deref())));
        facts.told.push(("carries", format!("{:?}", service.carries).to_lowercase()));
        facts.untold.push(("options of its accept", format!("{:?}", service.accept)));
        let direct = profile.dmz.as_ref().and_then(|half| match &half.way {
            DmzWay::Direct(backends) => backends.get(&service.name),
            DmzWay::Forward { .. } | DmzWay::Reverse { .. } => None,
        });
        if let Some(backend) = direct {
            facts.backend(backend);
        }
        all.insert((service.name.to_string(), Role::Dmz), facts);
    }
    for service in profile.internal.iter().flat_map(|half| &half.services) {
        let mut facts = Facts::default();
        facts.backend(&service.connect);
        facts.told.push(("peers", peers(service.peers.as_deref())));
        facts.told.push(("carries", format!("{:?}", service.carries).to_lowercase()));
        all.insert((service.name.to_string(), Role::Internal), facts);
    }
    all
}

impl Facts {
    fn backend(&mut self, backend: &Backend) {
        self.told.push(("backend", backend.to_string()));
        self.untold.push(("options of its backend", format!("{backend:?}")));
    }
}

/// Its address, and what else tells it apart on its port.
fn accept(accept: &Accept) -> String {
    let mut text = accept.address.to_string();
    let hosts = accept.web.as_ref().map(|web| web.hosts.iter().map(ToString::to_string).collect::<Vec<_>>());
    for (name, names) in [("hosts", hosts.unwrap_or_default()), ("sni", accept.sni.clone())] {
        if !names.is_empty() {
            text.push_str(&format!(" ({name} {})", names.join(", ")));
        }
    }
    text
}

fn peers(peers: Option<&[String]>) -> String {
    peers.map_or_else(|| "all".into(), |peers| peers.join(", "))
}
