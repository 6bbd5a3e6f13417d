//! What a pool shows of itself.

use super::{super::lane, Books, Lane, OfService, Pool};
use crate::{profile::ServiceName, telemetry::snapshot::PoolRow};

impl Pool {
    /// A row for each peer's links, and one for each of `services` that no peer offers.
    pub fn rows<'a>(&self, services: impl Iterator<Item = &'a ServiceName>) -> Vec<PoolRow> {
        let mut books = self.lock();
        books.lanes.retain(Lane::is_remembered);
        let mut rows = Vec::new();
        for lane in &books.lanes {
            let of_lane = |(service, of): (_, &OfService)| of.waiting > 0 && lane.serves.serves(service);
            let starved = books.services.iter().any(of_lane);
            rows.push(lane.row(starved));
        }
        for service in services {
            if !books.lanes.iter().any(|lane| lane.serves.serves(service)) {
                let starved = books.services.get(service).is_some_and(|of| of.waiting > 0);
                rows.push(lane::row_without_peer(service, books.limits.prepared, starved));
            }
        }
        rows.sort_by(|a, b| (&a.service, &a.peer, &a.address).cmp(&(&b.service, &b.peer, &b.address)));
        self.add_clients(&books, &mut rows);
        rows
    }

    /// Clients that wait or were missed stand in their service's first row, else in the first that
    /// is for any service.
    fn add_clients(&self, books: &Books, rows: &mut [PoolRow]) {
        for (service, of) in &books.services {
            let own = rows.iter().position(|row| row.service == service.as_str());
            let any = || rows.iter().position(|row| row.service == "*");
            if let Some(at) = own.or_else(any) {
                rows[at].waiting += of.waiting;
                rows[at].misses += of.misses;
            }
        }
    }

    /// Links that have yet to be closed.
    pub fn links(&self) -> usize {
        let books = self.lock();
        books.lanes.iter().map(|lane| lane.counts.links()).sum()
    }

    /// Clients that wait, and those that were missed, of every service.
    pub fn clients(&self) -> (usize, u64) {
        let books = self.lock();
        books.services.values().fold((0, 0), |sum, of| (sum.0 + of.waiting, sum.1 + of.misses))
    }
}
