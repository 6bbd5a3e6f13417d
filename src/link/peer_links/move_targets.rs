//! Where a session of one of a peer's links goes on: on another link of it, which has been heard from since it was last
//! asked.
//!
//! Heavy sessions gather on links for bulk. The least busy link becomes one if the peer can have another link in its
//! place. At most a quarter of the links do, and one always takes new sessions.

use std::cmp::Ordering;

use super::{PeerLinks, SharedLink};
use crate::link::multiplex::moving::MoveTarget;

/// One in this many of a peer's links may be for bulk, and one of two or three.
const LINKS_FOR_EACH_BULK: usize = 4;

impl PeerLinks {
    /// A place for a session that leaves another link of it: on the least busy one, whatever that serves, because the
    /// session was granted before. None while the others are nearly full: new sessions need the rest, until there is
    /// another link.
    pub fn move_target(&self) -> Option<MoveTarget> {
        let links = self.shared.all().filter(|link| takes_moved(link) && !link.load.is_for_bulk());
        let link = links.min_by_key(|link| link.load.to_do())?;
        Some(MoveTarget { handle: link.handle.clone(), slot: link.load.take()? })
    }

    /// A place for a heavy session that leaves the link `from`: on the link for bulk with the fewest of them, or on one
    /// that becomes such a link.
    pub fn heavy_target(&self, from: u64, may_have_more: impl Fn() -> bool) -> Option<MoveTarget> {
        let takes_sessions = || self.shared.all().filter(|link| link.handle.takes_sessions());
        let (all, bulk) =
            (takes_sessions().count(), takes_sessions().filter(|link| link.load.is_for_bulk()).count());
        let may_begin =
            all - bulk >= 2 && bulk < (all / LINKS_FOR_EACH_BULK).max(1) && self.can_spare(may_have_more);
        let links = self.shared.all().filter(|link| link.handle.id() != from && takes_moved(link));
        let links = links.filter(|link| may_begin || link.load.is_for_bulk());
        let link = links.min_by_key(|link| (link.load.moved_heavy(), link.load.to_do()))?;
        Some(MoveTarget { handle: link.handle.clone(), slot: link.load.take_heavy()? })
    }

    /// Whether enough links are ready without one of them, or will be as soon as another one is dialled.
    fn can_spare(&self, may_have_more: impl Fn() -> bool) -> bool {
        // Where this half dials, it knows that itself.
        if self.target == 0 {
            return self.counts.can_spare();
        }
        match self.counts.ready().cmp(&self.target) {
            Ordering::Less => false,
            Ordering::Equal => self.counts.links() < self.maximum && may_have_more(),
            Ordering::Greater => true,
        }
    }
}

fn takes_moved(link: &SharedLink) -> bool {
    link.handle.takes_sessions() && link.load.has_much_room() && !link.load.is_silent()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        link::{
            Peer,
            link_guard::{LinkCounters, LinkGuard},
            load::{LinkLoad, SessionSlot},
            multiplex::task::{LinkParts, MultiplexedLink},
            peer_links::ServedServices,
        },
        net::stream::NetStream,
        proto::multiplex::state::LinkEnd,
    };

    /// The links of a peer that wants `target` of them and has room for `maximum`.
    struct Links {
        of_peer: PeerLinks,
        links: Vec<MultiplexedLink>,
        loads: Vec<Arc<LinkLoad>>,
        guards: Vec<LinkGuard>,
        slots: Vec<SessionSlot>,
    }

    impl Links {
        fn new(count: usize, target: usize, maximum: usize) -> Self {
            let peer = Peer { name: Some("alpha".into()), address: "192.0.2.1".into(), instance: None };
            let mut of_peer = PeerLinks::new(peer, ServedServices::Granted(Arc::default()), target);
            of_peer.maximum = maximum;
            let links = Vec::new();
            let mut all = Self { of_peer, links, loads: Vec::new(), guards: Vec::new(), slots: Vec::new() };
            (0..count).for_each(|_| all.add());
            all
        }

        fn add(&mut self) {
            let (load, id) = (LinkLoad::new(8), self.links.len() as u64);
            let stream = NetStream::Echo(Box::default());
            let (peer, end) = (self.of_peer.peer.clone(), LinkEnd::Opener);
            let (numbers, parked) = Default::default();
            let parts = LinkParts { id, stream, peer, end, load: load.clone(), numbers, parked };
            let (link, handle) = MultiplexedLink::new(parts);
            let (serves, leave) = Default::default();
            self.of_peer.shared.add(id, SharedLink { handle, load: load.clone(), serves, leave });
            self.guards.push(LinkGuard::ready(&self.of_peer.counts, None));
            self.links.push(link);
            self.loads.push(load);
        }

        /// Where a heavy session of a link goes to, and stays.
        fn heavy_from(&mut self, from: u64) -> Option<u64> {
            let MoveTarget { handle, slot } = self.of_peer.heavy_target(from, || true)?;
            self.slots.push(slot);
            for (guard, load) in self.guards.iter_mut().zip(&self.loads) {
                guard.set_fill_level(load.fill_level());
            }
            Some(handle.id())
        }

        fn counts(&self) -> &LinkCounters {
            &self.of_peer.counts
        }
    }

    #[tokio::test]
    async fn heavy_sessions_gather_on_a_quarter_of_the_links() {
        let mut links = Links::new(9, 7, 9);
        let first = links.heavy_from(0);
        assert!(first.is_some_and(|link| link != 0));
        let second = links.heavy_from(0);
        assert!(second.is_some() && second != first, "each has one of its own");
        assert_eq!((links.counts().ready(), links.counts().carrying()), (7, 2));
        let mut further: Vec<_> = (0..4).map(|_| links.heavy_from(0)).collect();
        further.sort();
        let mut expected = [first, second, first, second];
        expected.sort();
        assert_eq!(further, expected, "a third of them would be too many");
        let light = links.of_peer.move_target().map(|target| target.handle.id());
        assert!(light.is_some() && ![first, second].contains(&light));
        links.slots.clear();
        assert!(links.loads.iter().all(|load| !load.is_for_bulk()));
    }

    #[tokio::test]
    async fn a_link_is_left_to_heavy_sessions_only_where_another_can_stand_in() {
        // How many links there are, are wanted, and are allowed.
        for (count, target, maximum, expected) in [
            (1, 1, 8, None),
            (2, 2, 8, Some(1)),
            (2, 2, 2, None),
            (2, 1, 2, Some(1)),
            (2, 3, 8, None),
            (3, 2, 3, Some(1)),
        ] {
            let mut links = Links::new(count, target, maximum);
            assert_eq!(links.heavy_from(0), expected, "{count} of {target}, at most {maximum}");
        }
        let share_is_used = Links::new(2, 2, 8);
        assert!(share_is_used.of_peer.heavy_target(0, || false).is_none());
        let mut dialled_here = Links::new(2, 0, usize::MAX);
        assert_eq!(dialled_here.heavy_from(0), None);
        dialled_here.counts().set_can_spare(true);
        assert_eq!((dialled_here.heavy_from(0), dialled_here.heavy_from(1)), (Some(1), None));
    }

    #[tokio::test]
    async fn a_session_moves_to_no_link_that_is_silent_or_nearly_full() {
        let mut links = Links::new(3, 1, 8);
        links.loads[1].note_ping();
        let places: Vec<_> = (0..6).map_while(|_| links.loads[2].take()).collect();
        assert_eq!(links.heavy_from(0), None);
        assert_eq!(links.of_peer.move_target().map(|target| target.handle.id()), Some(0));
        links.loads[1].note_received();
        assert_eq!(links.heavy_from(0), Some(1));
        links.loads[0].note_ping();
        assert!(links.of_peer.move_target().is_none());
        drop(places);
        assert_eq!(links.of_peer.move_target().map(|target| target.handle.id()), Some(2));
    }
}
