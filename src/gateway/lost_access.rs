//! Who loses access under a new profile while connected: peers and clients whose certificates it does not trust,
//! clients that it does not let in or does not know, and services outside of their new hours. The plan of a switch
//! names them, and so does the answer of the switch or reload.
//!
//! Open sessions go on, as they do with a lost grant ([`super::lost_grants`]); only a revoked certificate cuts.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{
    Engine,
    halves::{DmzSide, InternalSide},
};
use crate::{
    admission::source_network::source_network,
    auth::AuthFiles,
    profile::{
        Accept, AcceptTls, ClientAuth, ClientScope, DmzService, Half, OpeningHours, PemSource, Profile,
        ServiceName,
    },
    source::LoadedProfile,
    telemetry::{format, registry::OpenClient},
    tls::{edge::EdgeTls, link::LinkIdentity, shown_certificates::ShownRefusal},
};

impl Engine {
    /// A line for each peer, and for the clients of each service.
    pub(super) fn lost_access(&self, loaded: &LoadedProfile) -> Vec<String> {
        let LoadedProfile { profile, dmz, internal, edges, auth, .. } = loaded;
        let mut lines = self.lost_peers(dmz.as_ref(), internal.as_ref());
        lines.extend(self.untrusted_clients(profile, edges));
        let open = self.shared.sessions.registry.open_clients();
        lines.extend(excluded_clients(profile, &open));
        lines.extend(unknown_users(&self.profile, (profile, auth), &open));
        lines.extend(self.closing_services(profile));
        lines
    }

    /// Peers with open links whose certificates these identities would not accept.
    pub(super) fn lost_peers(
        &self,
        dmz: Option<&LinkIdentity>,
        internal: Option<&LinkIdentity>,
    ) -> Vec<String> {
        let running =
            [self.dmz.as_ref().map(DmzSide::identity), self.internal.as_ref().map(InternalSide::identity)];
        let halves = [Half::Dmz, Half::Internal].into_iter().zip(running).zip([dmz, internal]);
        let mut lines = Vec::new();
        for ((half, running), next) in halves {
            let (Some(running), Some(next)) = (running, next) else { continue };
            let lost = running.as_ref().as_ref().map(|before| before.peers_lost_to(next)).unwrap_or_default();
            lines.extend(
                lost.iter().map(|(peer, (links, why))| self.describe_lost_peer(half, peer, *links, why)),
            );
        }
        lines
    }

    fn describe_lost_peer(&self, half: Half, peer: &str, links: usize, why: &ShownRefusal) -> String {
        let of_peers = self.shared.sessions.registry.open_by_peer();
        let is_its = |(of, _, name): &(Half, ServiceName, Arc<str>)| *of == half && &**name == peer;
        let sessions: usize = of_peers.iter().filter(|(key, _)| is_its(key)).map(|(_, count)| count).sum();
        let sessions = format::count(sessions as u64, "open session");
        let links = format::count(links as u64, "link");
        match why {
            ShownRefusal::Revoked => {
                format!("{peer}: its certificate is revoked: {links} and {sessions} are cut")
            }
            ShownRefusal::Untrusted(why) => format!(
                "{peer}: no new link with it is possible: {why}; {links} and {sessions} go on until the sessions have \
                 ended, and `kill --peer {peer}` ends them"
            ),
        }
    }

    /// Clients with open connections whose certificates no accept of their services would let in.
    fn untrusted_clients(&self, profile: &Profile, edges: &EdgeTls) -> Vec<String> {
        let mut by_ca: Vec<(&PemSource, BTreeSet<&ServiceName>)> = Vec::new();
        for (service, accept) in self.profile.dmz.iter().flat_map(|half| &half.services).flat_map(accepts_of)
        {
            let Some(clients) = accept.tls.as_ref().and_then(AcceptTls::client_certificates) else {
                continue;
            };
            match by_ca.iter_mut().find(|(ca, _)| **ca == clients.ca) {
                Some((_, services)) => drop(services.insert(&service.name)),
                None => by_ca.push((&clients.ca, [&service.name].into())),
            }
        }
        let lines = by_ca.into_iter().flat_map(|(ca, services)| {
            let after = profile.dmz.iter().flat_map(|half| &half.services);
            let after = after.filter(|service| services.contains(&service.name)).flat_map(accepts_of);
            let accepts: Vec<_> = after.map(|(_, accept)| accept).collect();
            let shown = self.edge_tls.shown_by_clients(ca);
            let refused: Vec<_> = shown
                .iter()
                .filter_map(|it| refusal_of_all(&accepts, |tls| edges.refusal_of_client(tls, &it.chain)))
                .collect();
            describe_untrusted(&services, &refused)
        });
        lines.collect()
    }

    /// Services that are open now, and will not be by their new hours.
    fn closing_services(&self, profile: &Profile) -> Vec<String> {
        let of_dmz = profile.dmz.iter().flat_map(|half| &half.services);
        let of_dmz = of_dmz.map(|service| (Half::Dmz, &service.name, &service.hours));
        let of_internal = profile.internal.iter().flat_map(|half| &half.services);
        let of_internal = of_internal.map(|service| (Half::Internal, &service.name, &service.hours));
        let (running, now) = (self.shared.sessions.services.load(), self.wall_clock.now());
        let closes = |(half, name, hours): (Half, &ServiceName, &Option<OpeningHours>)| {
            let service = running.get(&(half, name.clone())).filter(|service| !service.is_closed())?;
            let hours = hours.as_ref().filter(|hours| !hours.is_open_at(now))?;
            let open = format::count(service.open_sessions() as u64, "open session");
            Some(format!("{name}: it is closed now by its new `hours`, {hours}; {open} stay"))
        };
        of_dmz.chain(of_internal).filter_map(closes).collect()
    }

    /// Limits that are exceeded already, by more sessions than they allow.
    pub(super) fn limits_exceeded(&self, profile: &Profile) -> Vec<String> {
        let running = self.shared.sessions.services.load();
        let of_dmz = profile.dmz.iter().flat_map(|half| &half.services);
        let of_dmz = of_dmz.map(|service| (Half::Dmz, &service.name, service.sessions));
        let of_internal = profile.internal.iter().flat_map(|half| &half.services);
        let of_internal =
            of_internal.filter_map(|service| Some((Half::Internal, &service.name, service.sessions?)));
        let reported = |(half, name, limit): (Half, &ServiceName, usize)| {
            let open = running.get(&(half, name.clone()))?.open_sessions();
            (open > limit).then(|| {
                format!(
                    "{name}: {open} open sessions stay, and new ones are refused until fewer than {limit} are"
                )
            })
        };
        let of_services = of_dmz.chain(of_internal).filter_map(reported);
        of_services.chain(self.shares_exceeded(profile)).collect()
    }

    /// Clients and gateways with more open sessions than one may have.
    fn shares_exceeded(&self, profile: &Profile) -> Vec<String> {
        let registry = &self.shared.sessions.registry;
        let mut lines = clients_exceeding(profile, &registry.open_clients());
        let of_internal = profile.internal.iter().flat_map(|half| &half.services);
        let limits: HashMap<_, _> = of_internal
            .filter_map(|service| Some((&service.name, service.per_peer.and_then(|limits| limits.sessions)?)))
            .collect();
        for ((half, service, peer), open) in registry.open_by_peer() {
            let limit = limits.get(&service).filter(|limit| half == Half::Internal && open > **limit);
            lines.extend(limit.map(|limit| {
                format!(
                    "{service}: {open} open sessions of {peer} stay, and new ones of it are refused until fewer than \
                     {limit} are (`per_peer`)"
                )
            }));
        }
        lines
    }
}

fn accepts_of(service: &DmzService) -> impl Iterator<Item = (&DmzService, &Accept)> {
    service.accept.iter().map(move |accept| (service, accept))
}

/// Why none of these accepts would let in a client; `None` if one would.
fn refusal_of_all(
    accepts: &[&Accept],
    refusal: impl Fn(&AcceptTls) -> Option<ShownRefusal>,
) -> Option<ShownRefusal> {
    let refusals: Option<Vec<_>> = accepts.iter().map(|accept| refusal(accept.tls.as_ref()?)).collect();
    refusals?.into_iter().next()
}

/// A line for those that are cut, and one for those that go on.
fn describe_untrusted(services: &BTreeSet<&ServiceName>, refused: &[ShownRefusal]) -> Vec<String> {
    let names = services.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    let connections = |count: usize| format::count(count as u64, "client connection");
    let reasons: Vec<_> = refused
        .iter()
        .filter_map(|refusal| match refusal {
            ShownRefusal::Revoked => None,
            ShownRefusal::Untrusted(why) => Some(why),
        })
        .collect();
    let cut = Some(refused.len() - reasons.len()).filter(|count| *count > 0);
    let cut = cut.map(|count| format!("{names}: {} cut: the certificate is revoked", connections(count)));
    let open = reasons.first().map(|why| {
        let connections = connections(reasons.len());
        format!(
            "{names}: {connections} would not be let in again, and what is open goes on; the first: {why}"
        )
    });
    cut.into_iter().chain(open).collect()
}

/// Sessions of clients that `clients` does not let in.
fn excluded_clients(profile: &Profile, open: &[OpenClient]) -> Vec<String> {
    let lost = count_by_service(profile, open, |service, client| {
        let filter = service.clients.filter.as_ref();
        filter.zip(client.address).is_some_and(|(filter, address)| filter.check(address).is_err())
    });
    let line = |(service, count): (&ServiceName, u64)| {
        let sessions = describe_sessions(count);
        format!(
            "{service}: {sessions} on, though `clients` lets their clients in no more; \
             `kill --client ADDRESS` ends them"
        )
    };
    lost.into_iter().map(line).collect()
}

/// Sessions of users that no accept of their service lets in, and of clients that had no need to say who they are.
fn unknown_users(
    before: &Profile,
    (profile, auth): (&Profile, &AuthFiles),
    open: &[OpenClient],
) -> Vec<String> {
    let before: HashMap<_, _> = services_of(before).collect();
    let had_to_log_in = |service: &ServiceName| before.get(service).is_some_and(|it| logins(it).is_some());
    let lost = count_by_service(profile, open, |service, client| {
        let Some(required) = logins(service) else { return false };
        let is_known = |user: &str| {
            required.iter().any(|login| login.admits(user) && auth.may_know(&login.source, user))
        };
        match client.user.as_deref() {
            Some(user) => !is_known(user),
            None => !had_to_log_in(&service.name),
        }
    });
    let line = |(service, count): (&ServiceName, u64)| {
        let sessions = describe_sessions(count);
        format!(
            "{service}: {sessions} on, though `auth` and `users` let their users in no more; \
             `kill --service {service}` ends all of them"
        )
    };
    lost.into_iter().map(line).collect()
}

/// The logins of its accepts; `None` if one of them lets in everybody.
fn logins(service: &DmzService) -> Option<Vec<&ClientAuth>> {
    service.accept.iter().map(|accept| accept.web.as_ref()?.auth.as_deref()).collect()
}

/// Clients that have more open sessions than `per_client` allows.
fn clients_exceeding(profile: &Profile, open: &[OpenClient]) -> Vec<String> {
    let mut counts: HashMap<(Option<&ServiceName>, IpAddr), (usize, usize)> = HashMap::new();
    let services: HashMap<_, _> = services_of(profile).collect();
    for client in open {
        let limits = services.get(&client.service).and_then(|service| service.clients.per_client);
        let Some((limits, address)) = limits.zip(client.address) else { continue };
        let Some(limit) = limits.limits.sessions else { continue };
        let of = (limits.scope == ClientScope::Service).then_some(&client.service);
        let (count, most) = counts.entry((of, source_network(address))).or_default();
        (*count, *most) = (*count + 1, limit);
    }
    let mut exceeding: BTreeMap<Option<&ServiceName>, (u64, usize)> = BTreeMap::new();
    for ((of, _), (_, limit)) in counts.iter().filter(|(_, (count, limit))| count > limit) {
        exceeding.entry(*of).or_insert((0, *limit)).0 += 1;
    }
    let line = |(of, (clients, limit)): (Option<&ServiceName>, (u64, usize))| {
        let of = of.map_or("all services", |service| service.as_str());
        let clients = format::count(clients, "client");
        format!(
            "{of}: {clients} with more open sessions than `per_client` allows, {limit}; new ones are refused until \
             fewer are open"
        )
    };
    exceeding.into_iter().map(line).collect()
}

fn services_of(profile: &Profile) -> impl Iterator<Item = (&ServiceName, &DmzService)> {
    let services = profile.dmz.iter().flat_map(|half| &half.services);
    services.map(|service| (&service.name, service))
}

/// How many open sessions of each service are meant.
fn count_by_service<'a>(
    profile: &'a Profile,
    open: &'a [OpenClient],
    is_meant: impl Fn(&DmzService, &OpenClient) -> bool,
) -> BTreeMap<&'a ServiceName, u64> {
    let services: HashMap<_, _> = services_of(profile).collect();
    let mut counts = BTreeMap::new();
    for client in open {
        if services.get(&client.service).is_some_and(|service| is_meant(service, client)) {
            *counts.entry(&client.service).or_default() += 1;
        }
    }
    counts
}

/// `1 open session goes`, `2 open sessions go`.
fn describe_sessions(count: u64) -> String {
    let goes = if count == 1 { "goes" } else { "go" };
    format!("{} {goes}", format::count(count, "open session"))
}
