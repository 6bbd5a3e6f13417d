//! Ends sessions that an operator has chosen: one by its id, or all of a list, a client, a peer or a service. A
//! session ends as by itself, with its record; this only stops it and counts.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{OpenSession, SessionRegistry, StopReason};
use crate::{
    profile::{Half, Network, ServiceName},
    telemetry::format,
    text,
};

/// Why no session was ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KillError {
    None,
    /// All of these have the id.
    Several(Vec<String>),
}

/// The sessions to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KillSelection {
    Listed(ListedSessions),
    Matching(SessionMatch),
}

/// Sessions by their ids, or `PEER/ID`. Those that have ended meanwhile are skipped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedSessions {
    pub sessions: Vec<String>,
    /// How they were chosen, in words, for the log.
    #[serde(default)]
    pub by: String,
}

/// Properties that all of them have: each field that is given must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionMatch {
    pub client: Option<Network>,
    /// A proven name, as in the rows.
    #[serde(default)]
    pub user: Option<String>,
    pub peer: Option<String>,
    pub service: Option<String>,
}

/// The client of an open session, as far as it is known.
#[derive(Debug, Clone)]
pub struct OpenClient {
    pub service: ServiceName,
    pub address: Option<IpAddr>,
    /// Its proven name.
    pub user: Option<Arc<str>>,
}

impl SessionRegistry {
    /// Ends a session by its id, on both halves if a pair runs in one process; or by `PEER/ID`, since two peers
    /// may use the same id, or by `PEER (PROCESS)/ID`, since two peers may have the same name.
    pub fn kill(&self, named: &str) -> Result<(), KillError> {
        let state = self.lock();
        let sessions = || state.open.values();
        let mut found: Vec<_> = sessions().filter(|session| session.is_called(named)).collect();
        if found.is_empty() {
            found = sessions().filter(|session| &*session.id == named).collect();
        }
        for half in [Half::Dmz, Half::Internal] {
            let of_half: Vec<_> = found.iter().filter(|session| session.half == half).collect();
            if of_half.len() > 1 {
                return Err(KillError::Several(distinct_names(&of_half)));
            }
        }
        found.iter().for_each(|session| session.stopper.stop(StopReason::Operator));
        if found.is_empty() { Err(KillError::None) } else { Ok(()) }
    }

    /// Ends the sessions of the internal half that `is_meant` selects by peer and service; returns how many.
    pub fn cut_inside(&self, is_meant: impl Fn(Option<&str>, &ServiceName) -> bool) -> u64 {
        let found: Vec<Arc<OpenSession>> = {
            let state = self.lock();
            let inside = state.open.values().filter(|session| session.half == Half::Internal);
            inside.filter(|it| is_meant(it.peer().as_deref(), &it.service)).cloned().collect()
        };
        // Each of them wakes a task, so it is not done under the lock.
        found.iter().for_each(|session| session.stopper.stop(StopReason::Operator));
        found.iter().filter(|session| is_client(session)).count() as u64
    }

    /// Ends all sessions of a selection, and returns how many there were. In a pair that runs in one process, a
    /// session is counted once.
    pub fn kill_all(&self, selection: &KillSelection) -> u64 {
        let listed: HashSet<&str> = match selection {
            KillSelection::Listed(listed) => listed.sessions.iter().map(String::as_str).collect(),
            KillSelection::Matching(_) => HashSet::new(),
        };
        let is_meant = |session: &OpenSession| match selection {
            KillSelection::Listed(_) => {
                listed.contains(&*session.id)
                    || listed.contains(&*session.full_name())
                    || listed.contains(&*session.process_name())
            }
            KillSelection::Matching(wanted) => wanted.holds(session),
        };
        let found: Vec<Arc<OpenSession>> = {
            let state = self.lock();
            state.open.values().filter(|session| is_client(session) && is_meant(session)).cloned().collect()
        };
        // Each of them wakes a task, so it is not done under the lock.
        found.iter().for_each(|session| session.stopper.stop(StopReason::Operator));
        count_once(found.iter()) as u64
    }

    /// Sessions that links carry, by half, service and peer.
    pub fn open_by_peer(&self) -> BTreeMap<(Half, ServiceName, Arc<str>), usize> {
        let mut counts = BTreeMap::new();
        let state = self.lock();
        for (_, session) in state.clients().filter(|(_, session)| session.counters.is_carried()) {
            if let Some(peer) = session.peer() {
                *counts.entry((session.half, session.service.clone(), peer)).or_default() += 1;
            }
        }
        counts
    }

    /// Who has open sessions that came in here, one entry for each.
    pub fn open_clients(&self) -> Vec<OpenClient> {
        let state = self.lock();
        let outer = state.clients().filter(|(_, session)| session.half == Half::Dmz);
        outer
            .map(|(_, session)| OpenClient {
                service: session.service.clone(),
                address: session.client.map(|client| client.ip()),
                user: session.user(),
            })
            .collect()
    }

    /// Open sessions of clients; in a pair that runs in one process, a session is counted once.
    pub fn clients_open(&self) -> usize {
        count_once(self.lock().clients().map(|(_, session)| session))
    }
}

/// The names by which each of several sessions of one half can be ended: the short ones, if they differ.
fn distinct_names(sessions: &[&&Arc<OpenSession>]) -> Vec<String> {
    let short: BTreeSet<_> = sessions.iter().map(|session| session.full_name()).collect();
    if short.len() == sessions.len() {
        return short.into_iter().collect();
    }
    let whole: BTreeSet<_> = sessions.iter().map(|session| session.process_name()).collect();
    whole.into_iter().collect()
}

/// The number of sessions, where both halves of one may be listed.
fn count_once<'a>(sessions: impl Iterator<Item = &'a Arc<OpenSession>> + Clone) -> usize {
    let is_outer = |session: &&'a Arc<OpenSession>| session.half == Half::Dmz;
    let outer: HashSet<&str> = sessions.clone().filter(is_outer).map(|session| &*session.id).collect();
    sessions.filter(|session| is_outer(session) || !outer.contains(&*session.id)).count()
}

/// Probes are of no concern to operators: they end by themselves.
fn is_client(session: &OpenSession) -> bool {
    session.kind.is_client()
}

impl SessionMatch {
    fn holds(&self, session: &OpenSession) -> bool {
        let is_of = |network: Network| session.client.is_some_and(|client| network.contains(client.ip()));
        self.client.is_none_or(is_of)
            && self.user.as_ref().is_none_or(|user| session.user().as_deref() == Some(user.as_str()))
            && self.peer.as_deref().is_none_or(|peer| session.peer().as_deref() == Some(peer))
            && self.service.as_deref().is_none_or(|service| session.service.as_str() == service)
    }
}

impl fmt::Display for KillSelection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listed(listed) => {
                let count = format::count(listed.sessions.len() as u64, "session");
                let by = text::clean_text(&listed.by, BY_CHARS_MAX);
                write!(out, "{count}{}{by}", if by.is_empty() { "" } else { " " })
            }
            Self::Matching(wanted) => write!(out, "sessions {wanted}"),
        }
    }
}

/// The text comes from an operator's screen and goes into a log line.
const BY_CHARS_MAX: usize = 200;

impl fmt::Display for SessionMatch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let client = self.client.map(|network| format!("of client {network}"));
        let user = self.user.as_ref().map(|user| format!("of user {user}"));
        let peer = self.peer.as_ref().map(|peer| format!("over {peer}"));
        let service = self.service.as_ref().map(|service| format!("of service {service}"));
        let words: Vec<_> = [client, user, peer, service].into_iter().flatten().collect();
        out.write_str(&words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        profile::ServiceName,
        telemetry::{
            notices::NoticeLog,
            registry::{SessionGuard, SessionKind, SessionPeer, SessionStopper},
        },
    };

    /// Open sessions: half, id, client, peer, service.
    const OPEN: [(Half, &str, &str, Option<&str>, &str); 6] = [
        (Half::Dmz, "a", "192.0.2.7:50000", Some("internal"), "orders"),
        (Half::Dmz, "b", "192.0.2.7:50001", Some("internal"), "chat"),
        (Half::Dmz, "c", "192.0.2.77:50000", Some("other"), "orders"),
        (Half::Dmz, "d", "[2001:db8::7]:50000", None, "orders"),
        // The inner parts of two of them, as in a pair.
        (Half::Internal, "a", "192.0.2.7:50000", Some("dmz"), "orders"),
        (Half::Internal, "b", "192.0.2.7:50001", Some("dmz"), "chat"),
    ];

    fn at(name: &str, instance: u8) -> SessionPeer {
        SessionPeer { name: name.into(), address: "192.0.2.1".into(), instance: Some([instance; 4]) }
    }

    fn open() -> (Arc<SessionRegistry>, Vec<SessionGuard>) {
        let registry = Arc::new(SessionRegistry::new(Arc::new(NoticeLog::default())));
        let guards = OPEN.map(|(half, id, client, peer, service)| {
            let (of, stopper) =
                ((half, ServiceName::parse(service).expect("a name")), SessionStopper::default());
            let (id, from) = (Some(id.to_owned()), peer.map(|name| at(name, 1)));
            let guard = registry.open(of, id, from, client.parse().ok(), SessionKind::Client, stopper);
            let id = guard.id();
            if id == "a" {
                guard.set_user("alice");
            }
            guard
        });
        (registry, guards.into())
    }

    #[track_caller]
    fn check(selection: KillSelection, count: u64, killed: &[usize]) {
        let (registry, guards) = open();
        assert_eq!(registry.kill_all(&selection), count, "{selection}");
        let stopped = guards.iter().enumerate().filter(|(_, guard)| guard.stopper().is_stopped());
        let cancelled: Vec<_> = stopped.map(|(at, _)| at).collect();
        assert_eq!(cancelled, killed, "{selection}");
    }

    #[test]
    fn those_that_match_end_and_are_counted_once() {
        let matching = |client: Option<&str>, peer: Option<&str>, service: Option<&str>| {
            KillSelection::Matching(SessionMatch {
                client: client.map(|client| client.parse().expect("a network")),
                user: None,
                peer: peer.map(str::to_owned),
                service: service.map(str::to_owned),
            })
        };
        check(matching(Some("192.0.2.7"), None, None), 2, &[0, 1, 4, 5]);
        check(matching(Some("192.0.2.0/24"), None, Some("orders")), 2, &[0, 2, 4]);
        check(matching(Some("2001:db8::/32"), None, None), 1, &[3]);
        check(matching(None, Some("internal"), None), 2, &[0, 1]);
        check(matching(None, Some("dmz"), Some("chat")), 1, &[5]);
        check(matching(None, None, Some("nothing")), 0, &[]);
        let of_user = |user: &str| {
            KillSelection::Matching(SessionMatch { user: Some(user.to_owned()), ..SessionMatch::default() })
        };
        check(of_user("alice"), 1, &[0, 4]);
        check(of_user("alic"), 0, &[]);
    }

    #[test]
    fn one_is_killed_by_its_id_and_never_two() {
        let (registry, mut guards) = open();
        let mut add = |id: &str, peer: SessionPeer| {
            let of = (Half::Dmz, ServiceName::parse("orders").expect("a name"));
            let (id, stopper) = (Some(id.to_owned()), SessionStopper::default());
            guards.push(registry.open(of, id, Some(peer), None, SessionKind::Client, stopper));
        };
        add("a", at("internal", 2));
        // And one that uses the id of its open session again, as often as it likes.
        add("a", at("internal", 2));
        add("a", at("internal", 2));
        let stopped = |guards: &[SessionGuard]| {
            let stopped = guards.iter().enumerate().filter(|(_, guard)| guard.stopper().is_stopped());
            stopped.map(|(at, _)| at).collect::<Vec<_>>()
        };
        let both = ["internal (01010101)/a", "internal (02020202)/a"].map(str::to_owned).to_vec();
        for named in ["a", "internal/a", "internal (192.0.2.1)/a"] {
            assert_eq!(registry.kill(named), Err(KillError::Several(both.clone())), "{named}");
        }
        assert_eq!(registry.kill("internal (03030303)/a"), Err(KillError::None));
        assert!(stopped(&guards).is_empty());
        assert_eq!(registry.kill("internal (02020202)/a"), Ok(()));
        assert_eq!(stopped(&guards), [6]);
        let ids: HashSet<_> = guards[6..].iter().map(|guard| guard.id().to_owned()).collect();
        assert_eq!(ids.len(), 3);
        assert_eq!(registry.kill(guards[8].id()), Ok(()));
        assert_eq!(stopped(&guards), [6, 8]);
        // An id is free again when its session has ended.
        guards.remove(6);
        let of = (Half::Dmz, ServiceName::parse("orders").expect("a name"));
        let (from, stopper) = (Some(at("internal", 2)), SessionStopper::default());
        let again = registry.open(of, Some("a".into()), from, None, SessionKind::Client, stopper);
        assert_eq!(again.id(), "a");
    }

    #[test]
    fn those_that_are_listed_end_and_who_is_gone_is_not_counted() {
        let listed = |names: &[&str]| {
            let sessions = names.iter().map(|&name| name.into()).collect();
            KillSelection::Listed(ListedSessions { sessions, by: String::new() })
        };
        check(listed(&["a", "c", "gone"]), 2, &[0, 2, 4]);
        check(listed(&["internal/a", "nobody/b"]), 1, &[0]);
        check(listed(&[]), 0, &[]);
    }

    #[test]
    fn a_selection_parses_what_it_prints_and_describes_itself() {
        let json = r#"{"matching":{"client":"10.0.0.0/8","user":null,"peer":null,"service":"web"}}"#;
        let selection: KillSelection = serde_json::from_str(json).expect("a selection");
        assert_eq!(serde_json::to_string(&selection).expect("it is JSON"), json);
        assert_eq!(selection.to_string(), "sessions of client 10.0.0.0/8 of service web");
        let listed = r#"{"listed":{"sessions":["a"],"by":"that passed\nx"}}"#;
        let listed: KillSelection = serde_json::from_str(listed).expect("a selection");
        assert_eq!(listed.to_string(), "1 session that passed x", "on one line");
        assert!(serde_json::from_str::<KillSelection>(r#"{"matching":{"client":"host"}}"#).is_err());
    }
}
