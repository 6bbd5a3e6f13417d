//! Describes what a switch changes for the links of each half: whom they trust, and how many there are. What is dialled
//! and where links come in is reported elsewhere in the plan.

use std::time::Duration;

use crate::profile::{DmzHalf, DmzMode, InternalHalf, InternalMode, LinkTls, PoolLimits, Profile};

/// A fact about links, by its key in the profile.
struct LinkFact {
    key: &'static str,
    value: String,
    /// As `value`, if that is short enough to be shown.
    shown: Option<String>,
}

/// A line for each half whose links change.
pub fn link_changes(before: &Profile, after: &Profile) -> Vec<String> {
    let of_dmz = before.dmz.as_ref().map(dmz_facts).zip(after.dmz.as_ref().map(dmz_facts));
    let of_internal =
        before.internal.as_ref().map(internal_facts).zip(after.internal.as_ref().map(internal_facts));
    let of_dmz = of_dmz.map(|(before, after)| differences(&before, &after));
    let of_internal = of_internal.map(|(before, after)| differences(&before, &after));
    let line = |(half, changes): (&str, Option<Vec<String>>)| {
        let changes = changes?;
        (!changes.is_empty()).then(|| format!("of the {half} half: {}", changes.join("; ")))
    };
    [("dmz", of_dmz), ("internal", of_internal)].into_iter().filter_map(line).collect()
}

/// Facts that only one of the two has belong to another mode.
fn differences(before: &[LinkFact], after: &[LinkFact]) -> Vec<String> {
    let difference = |fact: &LinkFact| {
        let was = before.iter().find(|was| was.key == fact.key && was.value != fact.value)?;
        Some(match (&fact.shown, &was.shown) {
            (Some(shown), Some(was)) => format!("{} {shown}, was {was}", fact.key),
            (_, _) => format!("{} changed", fact.key),
        })
    };
    after.iter().filter_map(difference).collect()
}

fn dmz_facts(half: &DmzHalf) -> Vec<LinkFact> {
    let (tls, pool) = match &half.mode {
        DmzMode::Direct(_) => return Vec::new(),
        DmzMode::Forward { connect: _, tls, pool } => (tls, pool),
        DmzMode::Reverse { listen: _, bind: _, tls, pool } => (tls, pool),
    };
    let PoolLimits { prepared, wait, waiters, retire, links_per_peer } = pool;
    let mut facts = tls_facts(tls.as_ref());
    facts.push(fact("prepared", prepared));
    facts.push(duration("wait", *wait));
    facts.push(fact("waiters", waiters));
    facts.push(duration("retire", *retire));
    facts.push(fact("per_peer", links_per_peer.map_or_else(|| "off".into(), |links| links.to_string())));
    facts
}

fn internal_facts(half: &InternalHalf) -> Vec<LinkFact> {
    let InternalHalf { mode, services: _, maximum, retire, sessions_per_link } = half;
    let (tls, dialled) = match mode {
        InternalMode::Forward { listen: _, bind: _, tls } => (tls, None),
        InternalMode::Reverse { connect: _, tls, prepared, retry } => (tls, Some((prepared, retry))),
    };
    let mut facts = tls_facts(tls.as_ref());
    facts.push(fact("maximum", maximum));
    facts.push(duration("retire", *retire));
    facts.push(fact("sessions_per_link", sessions_per_link));
    if let Some((prepared, retry)) = dialled {
        facts.push(fact("prepared", prepared));
        facts.push(LinkFact { key: "retry", value: format!("{retry:?}"), shown: None });
    }
    facts
}

fn tls_facts(tls: Option<&LinkTls>) -> Vec<LinkFact> {
    let Some(tls) = tls else { return vec![fact("tls", "off")] };
    let LinkTls { certificate, key, ca, peers, revoked, key_exchange } = tls;
    let hidden = |key, value: String| LinkFact { key, value, shown: None };
    vec![
        fact("tls", "on"),
        hidden("certificate", format!("{certificate:?} {key:?}")),
        hidden("ca", format!("{ca:?}")),
        fact("peers", peers.join(", ")),
        hidden("revoked", format!("{revoked:?}")),
        hidden("post_quantum", format!("{key_exchange:?}")),
    ]
}

fn fact(key: &'static str, value: impl ToString) -> LinkFact {
    let value = value.to_string();
    LinkFact { key, shown: Some(value.clone()), value }
}

fn duration(key: &'static str, value: Duration) -> LinkFact {
    fact(key, humantime::format_duration(value))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::profile::{self, ProfileOverrides};

    fn changes(before: &str, after: &str) -> Vec<String> {
        let read = |text| {
            profile::parse(text, Path::new("p.yaml"), &ProfileOverrides::default()).expect("a profile")
        };
        link_changes(&read(before), &read(after))
    }

    #[test]
    fn what_changes_for_links_is_named_by_its_key() {
        let dmz = "mode: reverse\ndmz:\n  link: { listen: 'socks+tls://127.0.0.1:0', wait: 3s, \
                   tls: { certificate: dmz.pem, key: dmz.key, ca: ca.pem, peers: [a, b] } }\n  \
                   services: { orders: { accept: 'tcp://127.0.0.1:0' } }\n";
        let none: [&str; 0] = [];
        assert_eq!(changes(dmz, dmz), none);
        let other = dmz
            .replace("ca.pem", "other.pem")
            .replace("[a, b]", "[a]")
            .replace("3s", "5s, post_quantum: required");
        let line = "of the dmz half: ca changed; peers a, was a, b; post_quantum changed; wait 5s, was 3s";
        assert_eq!(changes(dmz, &other), [line]);
        let direct = "mode: direct\ndmz:\n  services: { orders: { accept: 'tcp://127.0.0.1:0', connect: 'echo://' } }\n";
        assert_eq!(changes(dmz, direct), none, "there are no links any more");
        let inner = "mode: reverse\ninternal:\n  link: { connect: 'socks://127.0.0.1:1', maximum: 64 }\n  \
                     services: { orders: { connect: 'echo://' } }\n";
        let fewer = inner.replace("64", "32, sessions_per_link: 8");
        let line = "of the internal half: maximum 32, was 64; sessions_per_link 8, was 256";
        assert_eq!(changes(inner, &fewer), [line]);
    }
}
