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
    /// Cancelled to let it go.
    pub leave: CancellationToken,
}

/// Those of one peer, oldest first.
#[derive(Debug, Default)]
pub struct SharedLinks {
    links: BTreeMap<u64, CountedLink>,
    /// How many of them serve each service: where none does, a session passes the peer without a look at its
    /// links, however many it has.
    serving: HashMap<ServiceName, usize>,
}

#[derive(Debug)]
struct CountedLink {
    link: SharedLink,
    /// The services that it counts for.
    services: Vec<ServiceName>,
}

impl SharedLinks {
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// All of them, where any serves this service.
    pub fn serving(&self, service: &ServiceName) -> impl Iterator<Item = &SharedLink> {
        let is_served = self.serving.contains_key(service);
        let links = is_served.then(|| self.links.values()).into_iter().flatten();
        links.map(|counted| {
            #[cfg(test)]
            tests::note_look();
            &counted.link
        })
    }

    /// One takes sessions from now on.
    pub fn add(&mut self, number: u64, link: SharedLink) {
        self.links.insert(number, CountedLink { link, services: Vec::new() });
        self.count_services(number);
    }

    /// What one serves may be another than before.
    pub fn count_services(&mut self, number: u64) {
        let Some(counted) = self.links.get_mut(&number) else { return };
        let before = std::mem::replace(&mut counted.services, counted.link.serves.services());
        counted.services.iter().for_each(|service| *self.serving.entry(service.clone()).or_default() += 1);
        self.uncount(&before);
    }

    /// One takes no more sessions.
    pub fn remove(&mut self, number: u64) {
        if let Some(counted) = self.links.remove(&number) {
            self.uncount(&counted.services);
        }
    }

    /// None of them does.
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

    /// Links that this thread has looked at since it asked last.
    pub fn take_looks() -> usize {
        LOOKS.with(Cell::take)
    }
}
