//! The links of one peer that take sessions, and which services they serve.

use std::{collections::BTreeMap, sync::Arc};

use foldhash::HashMap;
use tokio_util::sync::CancellationToken;

use super::super::{link_services::LinkServices, load::LinkLoad, multiplex::handle::LinkHandle};
use crate::profile::ServiceName;

/// A link that takes sessions, and may carry others.
#[derive(Debug)]
pub struct SharedLink {
    pub handle: LinkHandle,
    pub load: Arc<LinkLoad>,
    pub serves: Arc<LinkServices>,
    /// Cancelled to close it.
    pub leave: CancellationToken,
}

/// The links of one peer, oldest first.
#[derive(Debug, Default)]
pub struct SharedLinks {
    links: BTreeMap<u64, CountedLink>,
    /// How many of them serve each service. If none does, a session skips the peer without checking its links,
    /// however many it has.
    serving: HashMap<ServiceName, usize>,
}

#[derive(Debug)]
struct CountedLink {
    link: SharedLink,
    /// The services that it is counted for.
    services: Vec<ServiceName>,
}

impl SharedLinks {
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    pub fn all(&self) -> impl Iterator<Item = &SharedLink> {
        self.links.values().map(|counted| &counted.link)
    }

    /// All of them, if any serves this service.
    pub fn serving(&self, service: &ServiceName) -> impl Iterator<Item = &SharedLink> {
        let is_served = self.serving.contains_key(service);
        let links = is_served.then(|| self.links.values()).into_iter().flatten();
        links.map(|counted| {
            #[cfg(test)]
            tests::note_look();
            &counted.link
        })
    }

    /// Adds a link that takes sessions from now on.
    pub fn add(&mut self, number: u64, link: SharedLink) {
        self.links.insert(number, CountedLink { link, services: Vec::new() });
        self.count_services(number);
    }

    /// Counts the services of a link again after they may have changed.
    pub fn count_services(&mut self, number: u64) {
        let Some(counted) = self.links.get_mut(&number) else { return };
        let before = std::mem::replace(&mut counted.services, counted.link.serves.services());
        counted.services.iter().for_each(|service| *self.serving.entry(service.clone()).or_default() += 1);
        self.uncount(&before);
    }

    /// Removes a link that takes no more sessions.
    pub fn remove(&mut self, number: u64) {
        if let Some(counted) = self.links.remove(&number) {
            self.uncount(&counted.services);
        }
    }

    /// Removes all of them.
    pub fn take_all(&mut self) -> impl Iterator<Item = SharedLink> {
        std::mem::take(self).links.into_values().map(|counted| counted.link)
    }

    fn uncount(&mut self, services: &[ServiceName]) {
        for service in services {
            let Some(links) = self.serving.get_mut(service) else { continue };
            *links -= 1;
            if *links == 0 {
                self.serving.remove(service);
            }
        }
    }
}

#[cfg(test)]
pub mod tests {
    use std::cell::Cell;

    thread_local! {
        static LOOKS: Cell<usize> = const { Cell::new(0) };
    }

    pub fn note_look() {
        LOOKS.with(|checks| checks.set(checks.get() + 1));
    }

    /// How many links this thread has looked at since the last call.
    pub fn take_looks() -> usize {
        LOOKS.with(Cell::take)
    }
}
