//! The services that one link serves, and the state of each, as last announced by its server.
//!
//! Both ends keep one. The opener consults it for each session, and judges every later offer like the one in
//! `hello`. The server uses it to see what it has not announced yet, and what it has ever offered: an `open`
//! for something that it no longer offers may still be on its way.

use std::{collections::HashSet, sync::Arc};

use arc_swap::ArcSwap;
use foldhash::HashMap;

use super::{
    Peer,
    grants::{CarriesMismatch, ServiceGrants},
};
use crate::{
    profile::ServiceName,
    proto::multiplex::hello::{OfferState, ServiceOffer},
};

#[derive(Debug, Default)]
pub struct LinkServices {
    /// `None` if the service is no longer offered.
    states: ArcSwap<HashMap<ServiceName, Option<OfferState>>>,
    end: ServicesEnd,
}

/// The end of the link that keeps this table.
#[derive(Debug)]
enum ServicesEnd {
    /// What it grants to whom.
    Opener(Arc<ServiceGrants>, Peer),
    /// What the opener did not grant of the offer in `hello`.
    Server { declined: HashSet<ServiceName> },
}

impl Default for ServicesEnd {
    fn default() -> Self {
        Self::Server { declined: HashSet::new() }
    }
}

/// The change that an offer has made.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct OfferChange {
    pub has_changed: bool,
    /// What the opener cannot use of it.
    pub mismatches: Vec<CarriesMismatch>,
}

impl LinkServices {
    /// The services at an opener, from the offer in `hello`.
    pub fn of_opener(offer: &[ServiceOffer], grants: Arc<ServiceGrants>, server: Peer) -> Self {
        let services = Self { end: ServicesEnd::Opener(grants, server), ..Self::default() };
        services.note_offer(offer);
        services
    }

    /// The services at a server, from its offer in `hello` and what was granted of it.
    pub fn of_server(offer: &[ServiceOffer], granted: &[ServiceName]) -> Self {
        let granted: HashSet<_> = granted.iter().collect();
        let names = offer.iter().map(|of| of.name.clone());
        let declined = names.filter(|name| !granted.contains(name)).collect();
        let services = Self { end: ServicesEnd::Server { declined }, ..Self::default() };
        services.note_offer(offer);
        services
    }

    /// Whether a service is served, in whatever state.
    pub fn contains(&self, service: &ServiceName) -> bool {
        self.state(service).is_some()
    }

    /// Whether a service was served at any time since the link was established.
    pub fn was_offered(&self, service: &ServiceName) -> bool {
        self.states.load().contains_key(service)
    }

    /// The services that the link is used for now.
    pub fn names(&self) -> Vec<String> {
        let states = self.states.load();
        let served = states.iter().filter(|(name, state)| state.is_some() && !self.is_declined(name));
        let mut names: Vec<_> = served.map(|(name, _)| name.to_string()).collect();
        names.sort_unstable();
        names
    }

    /// The services that are served, in whatever state.
    pub fn services(&self) -> Vec<ServiceName> {
        let states = self.states.load();
        states.iter().filter(|(_, state)| state.is_some()).map(|(name, _)| name.clone()).collect()
    }

    /// Whether sessions of a service may be opened now.
    pub fn is_open(&self, service: &ServiceName) -> bool {
        self.state(service) == Some(OfferState::Open)
    }

    /// The state of a service that is served.
    pub fn state(&self, service: &ServiceName) -> Option<OfferState> {
        self.states.load().get(service).copied().flatten()
    }

    /// Applies an offer, which replaces the one before.
    pub fn note_offer(&self, offer: &[ServiceOffer]) -> OfferChange {
        let before = self.states.load();
        let (used, mismatches) = match &self.end {
            ServicesEnd::Opener(grants, server) => {
                let (used, mismatches) = grants.judge(server, offer);
                (Some(used.into_iter().collect::<HashSet<_>>()), mismatches)
            }
            ServicesEnd::Server { .. } => (None, Vec::new()),
        };
        let is_used = |name: &ServiceName| used.as_ref().is_none_or(|used| used.contains(name));
        let mut now: HashMap<_, _> = before.keys().map(|name| (name.clone(), None)).collect();
        now.extend(offer.iter().filter(|of| is_used(&of.name)).map(|of| (of.name.clone(), Some(of.state))));
        let has_changed = **before != now;
        if has_changed {
            self.states.store(now.into());
        }
        OfferChange { has_changed, mismatches }
    }

    fn is_declined(&self, service: &ServiceName) -> bool {
        match &self.end {
            ServicesEnd::Opener(..) => false,
            ServicesEnd::Server { declined } => declined.contains(service),
        }
    }
}

/// Services that are all open, for tests of what is built on this.
impl FromIterator<ServiceName> for LinkServices {
    fn from_iter<I: IntoIterator<Item = ServiceName>>(names: I) -> Self {
        let states: HashMap<_, _> = names.into_iter().map(|name| (name, Some(OfferState::Open))).collect();
        Self { states: ArcSwap::from_pointee(states), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{link::grants::granting, profile::Carries};

    fn name(text: &str) -> ServiceName {
        ServiceName::parse(text).expect("a name")
    }

    fn offer(text: &str, state: OfferState) -> ServiceOffer {
        ServiceOffer { name: name(text), carries: Carries::Bytes, state }
    }

    #[test]
    fn an_offer_replaces_the_one_before() {
        let [orders, chat, other] = ["orders", "chat", "other"].map(name);
        let hello = [offer("orders", OfferState::Open), offer("chat", OfferState::Down)];
        let services = LinkServices::of_server(&hello, &[name("orders")]);
        assert_eq!((services.is_open(&orders), services.is_open(&chat)), (true, false));
        assert_eq!(services.names(), ["orders"], "the other one was not granted");
        let now = [offer("orders", OfferState::Closed), offer("other", OfferState::Open)];
        assert!(services.note_offer(&now).has_changed);
        assert!(!services.note_offer(&now).has_changed, "the same again");
        assert_eq!(services.state(&orders), Some(OfferState::Closed));
        assert_eq!((services.was_offered(&chat), services.state(&chat)), (true, None));
        assert_eq!(
            (services.is_open(&other), services.names()),
            (true, vec!["orders".into(), "other".into()])
        );
        assert!(services.note_offer(&hello).has_changed);
        assert_eq!((services.state(&chat), services.contains(&other)), (Some(OfferState::Down), false));
    }

    #[test]
    fn an_opener_judges_every_offer() {
        let grants = granting([&name("orders"), &name("chat")]);
        let server = Peer { name: None, address: "server".into(), instance: None };
        let services = LinkServices::of_opener(&[offer("orders", OfferState::Open)], grants, server);
        let strange = [offer("orders", OfferState::Open), offer("strange", OfferState::Open)];
        assert!(!services.note_offer(&strange).has_changed);
        assert!(!services.was_offered(&name("strange")));
        assert!(services.note_offer(&[offer("chat", OfferState::Open)]).has_changed);
        assert_eq!(services.names(), ["chat"]);
    }
}
