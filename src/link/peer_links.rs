//! The links of one peer in a pool: those that are ready, newest last, and what is known about them. Those that
//! sessions share are in [`shared_links`], and [`move_targets`] says which of them a session may move to.

mod move_targets;
mod shared_links;

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Peer,
    error::IdleLinkError,
    goodbye::GoodbyeState,
    idle_link::{IdleLink, IdleLinkEnd},
    link_guard::{LinkActivity, LinkCounters, LinkGuard},
    link_services::LinkServices,
    peer_record::PeerRecord,
    session_side::LinkSlot,
    succession::{Succession, SuccessionEntry},
};
use crate::{
    profile::{Half, ServiceName},
    proto::{
        multiplex::{self, hello::OfferState},
        socks5,
    },
    telemetry::{
        link_cause::LinkFault,
        snapshot::{PoolRow, PoolState},
    },
};

#[cfg(test)]
pub use shared_links::tests::take_looks;
pub use shared_links::{SharedLink, SharedLinks};

/// How long a peer that was lost without a goodbye is remembered, and shown as down.
pub const LOST_PEER_RETENTION_PERIOD: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a peer is remembered if no link of its was ever seen up, so that it is not really missed.
const BRIEF_PEER_RETENTION_PERIOD: Duration = Duration::from_secs(60);
/// After losing a link, a peer is used last for this long: its other links may be dead too, but not noticed
/// yet.
const SUSPECT_PERIOD: Duration = Duration::from_secs(1);

pub struct PeerLinks {
    pub peer: Peer,
    /// What its newest link is ready for; an older one may have been granted something else.
    pub serves: ServedServices,
    /// How many ready links the peer means to keep.
    pub target: usize,
    /// How many links in all it accepts, as far as is known.
    pub maximum: usize,
    /// Parked SOCKS5 links, all for one service, by their numbers; the newest comes last.
    pub ready: BTreeMap<u64, ReadyLink>,
    /// Links of our own that take sessions.
    pub shared: SharedLinks,
    pub counts: Arc<LinkCounters>,
    /// Shared by all entries of its process.
    pub record: Arc<PeerRecord>,
    /// The number of the last take from this entry.
    last_turn: u64,
    failures: u64,
    last_fault: Option<LinkFault>,
    goodbye: GoodbyeState,
    succession: Succession,
    seen: Instant,
}

/// A ready link.
#[derive(Debug)]
pub struct ReadyLink {
    pub link: IdleLink,
    pub guard: LinkGuard,
}

/// What links are ready for.
#[derive(Debug, Clone)]
pub enum ServedServices {
    /// SOCKS5: the service that BIND named.
    One(ServiceName),
    /// Our own protocol: everything that the peer offers and is granted.
    Granted(Arc<LinkServices>),
}

impl ServedServices {
    /// Whether links for the one may be listed with those for the other.
    pub fn is_compatible(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::One(one), Self::One(other)) => one == other,
            (Self::Granted(_), Self::Granted(_)) => true,
            (Self::One(_) | Self::Granted(_), _) => false,
        }
    }

    pub fn serves(&self, service: &ServiceName) -> bool {
        match self {
            Self::One(one) => one == service,
            Self::Granted(granted) => granted.contains(service),
        }
    }
}

impl fmt::Debug for PeerLinks {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("PeerLinks")
            .field("peer", &self.peer)
            .field("serves", &self.serves)
            .finish_non_exhaustive()
    }
}

impl PeerLinks {
    pub fn new(peer: Peer, serves: ServedServices, target: usize) -> Self {
        Self {
            peer,
            serves,
            target,
            maximum: usize::MAX,
            ready: BTreeMap::new(),
            shared: SharedLinks::default(),
            counts: Arc::default(),
            record: Arc::default(),
            last_turn: 0,
            failures: 0,
            last_fault: None,
            goodbye: GoodbyeState::default(),
            succession: Succession::default(),
            seen: Instant::now(),
        }
    }

    /// The newest ready link for a service.
    pub fn newest_for(&self, service: &ServiceName) -> Option<u64> {
        match &self.serves {
            ServedServices::One(one) if one == service => {
                self.ready.last_key_value().map(|(number, _)| *number)
            }
            ServedServices::One(_) | ServedServices::Granted(_) => None,
        }
    }

    /// A slot for a session on the least busy of the links whose service is in this state.
    pub fn take_slot(&self, service: &ServiceName, state: OfferState) -> Option<LinkSlot> {
        let is_so =
            |link: &&SharedLink| link.serves.state(service) == Some(state) && link.handle.takes_sessions();
        let serving = self.shared.serving(service).filter(is_so).filter(|link| link.load.has_room());
        let link = serving.min_by_key(|link| link.load.to_do())?;
        let (handle, slot) = (link.handle.clone(), link.load.take()?);
        Some(LinkSlot { handle, slot, record: self.record.clone() })
    }

    /// Whether a session of a service can go to it now.
    pub fn can_take(&self, service: &ServiceName) -> bool {
        let has_room = |link: &SharedLink| link.load.has_room() && link.handle.takes_sessions();
        self.newest_for(service).is_some()
            || self.shared.serving(service).any(|link| link.serves.is_open(service) && has_room(link))
    }

    /// The state of a service at this peer; `None` if none of its links serves it.
    pub fn service_state(&self, service: &ServiceName) -> Option<OfferState> {
        match &self.serves {
            // SOCKS5 has no way to tell the state.
            ServedServices::One(one) => {
                (one == service && self.counts.links() > 0).then_some(OfferState::Open)
            }
            // If one link has not heard yet, another one has.
            ServedServices::Granted(_) => {
                self.shared.serving(service).filter_map(|link| link.serves.state(service)).min()
            }
        }
    }

    /// Its rank among peers; the lowest is next. Names take turns, then the processes of a name, then their rows.
    pub fn rank(&self) -> (bool, bool, [u64; 3]) {
        let (rests, [name_turn, process_turn]) = self.record.rank();
        (self.is_doubted(), rests, [name_turn, process_turn, self.last_turn])
    }

    fn is_doubted(&self) -> bool {
        self.last_fault.is_some() && self.seen.elapsed() < SUSPECT_PERIOD
    }

    /// Notes that a session takes one of its links.
    pub fn take_turn(&mut self, number: u64) {
        self.record.take_turn(number);
        self.last_turn = number;
    }

    fn is_remembered_when(&self, away: Option<Duration>) -> bool {
        match away {
            Some(away) => !self.goodbye.was_received() && away < LOST_PEER_RETENTION_PERIOD,
            None => self.seen.elapsed() < BRIEF_PEER_RETENTION_PERIOD,
        }
    }

    /// Notes that a link was established, perhaps again.
    pub fn note_seen(&mut self) {
        self.seen = Instant::now();
        self.last_fault = None;
        self.goodbye.note_established();
    }

    /// Notes that a link is no longer ready.
    pub fn note_idle_end(&mut self, end: &IdleLinkEnd) {
        match end {
            IdleLinkEnd::Taken => {}
            IdleLinkEnd::Lost(why) => self.note_lost(why),
            IdleLinkEnd::Closed => {
                self.note_lost(&IdleLinkError::CLOSED);
                self.note_retired();
            }
        }
    }

    /// It wants no more links.
    pub fn note_drain(&mut self) {
        self.goodbye.note_drain();
    }

    /// Notes that a link is being closed in good order.
    pub fn note_retired(&mut self) {
        let takes_sessions = !self.ready.is_empty() || !self.shared.is_empty();
        if !takes_sessions && self.counts.count(LinkActivity::Full) == 0 {
            self.goodbye.note_last_retired();
        }
    }

    pub fn note_lost(&mut self, why: &IdleLinkError) {
        self.goodbye.note_failure();
        self.failures += 1;
        self.last_fault = Some(why.fault());
        self.seen = Instant::now();
    }

    /// Whether all links that may stand are in use.
    pub fn is_full(&self) -> bool {
        let is_at_maximum = self.counts.links() >= self.maximum || self.counts.is_at_maximum();
        is_at_maximum && self.counts.ready() == 0
    }

    pub fn row(&self) -> PoolRow {
        let (ready, carrying) = (self.counts.ready(), self.counts.carrying());
        let state = match ready {
            0 if carrying == 0 => PoolState::Down,
            _ if ready >= self.target => PoolState::Healthy,
            _ => PoolState::Filling,
        };
        let (service, protocol, serves) = match &self.serves {
            ServedServices::One(service) => (service.to_string(), socks5::PROTOCOL_NAME, Vec::new()),
            ServedServices::Granted(granted) => ("*".into(), multiplex::PROTOCOL_NAME, granted.names()),
        };
        let goodbye = self.goodbye.reason().filter(|_| ready == 0);
        PoolRow {
            peer: Some(self.peer.label().to_string()),
            address: Some(self.peer.address.to_string()),
            state,
            ready,
            carrying,
            target: self.target,
            at_maximum: ready < self.target && self.counts.links() >= self.maximum,
            failures: self.failures,
            left: self.goodbye.drains() && ready == 0,
            last_error: goodbye.map(Into::into),
            protocol: Some(protocol.into()),
            serves,
            instance: self.peer.instance.map(|instance| instance.to_string()),
            ..PoolRow::new(Half::Dmz, service)
        }
        .with_fault(self.last_fault.clone())
        .with_links(&self.counts)
        .with_silence(self.record.is_doubtful())
    }
}

impl SuccessionEntry for PeerLinks {
    fn peer(&self) -> &Peer {
        &self.peer
    }

    fn succession(&mut self) -> &mut Succession {
        &mut self.succession
    }

    fn counters(&self) -> &LinkCounters {
        &self.counts
    }

    fn failures(&mut self) -> &mut u64 {
        &mut self.failures
    }

    fn lost_for(&self) -> Option<Duration> {
        self.counts.empty_for()
    }

    fn is_remembered(&self) -> bool {
        self.counts.links() > 0 || self.is_remembered_when(self.counts.empty_for())
    }
}

/// The row of a service that no peer offers, or none offers in a form that this half can use.
pub fn row_without_peer(service: &ServiceName, target: usize, why: LinkFault) -> PoolRow {
    PoolRow { target, ..PoolRow::new(Half::Dmz, service.to_string()) }.with_fault(Some(why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        link::{
            liveness::SILENCE_MAX,
            multiplex::handle::LinkLoss,
            succession::{LOST_MAX, forget_lost_peers},
        },
        proto::multiplex::hello::InstanceId,
    };

    #[test]
    fn a_peer_is_remembered_while_a_link_of_its_lives_though_it_only_leaves() {
        let peer = Peer { name: Some("alpha".into()), address: "192.0.2.1".into(), instance: None };
        let mut group = PeerLinks::new(peer, ServedServices::Granted(Arc::default()), 1);
        let mut guard = LinkGuard::ready(&group.counts, None);
        guard.mark_leaving();
        assert!(group.is_remembered());
        let Some(long_ago) = Instant::now().checked_sub(BRIEF_PEER_RETENTION_PERIOD) else {
            panic!("this clock began less than {BRIEF_PEER_RETENTION_PERIOD:?} ago")
        };
        group.seen = long_ago;
        assert!(group.is_remembered(), "a link of its leaves");
        drop(guard);
        assert!(group.is_remembered(), "it said nothing, and its last link is gone");
        assert!(group.row().gone_seconds.is_some_and(|away| away < 60.0));
        group.counts = Arc::default();
        assert!(!group.is_remembered());
        assert_eq!(group.row().gone_seconds, None, "it never had one");
        group.note_seen();
        assert!(group.is_remembered(), "it was here a moment ago");
    }

    fn alpha(instance: u8) -> (PeerLinks, LinkGuard) {
        let peer = Peer {
            name: Some("alpha".into()),
            address: "192.0.2.1".into(),
            instance: Some(InstanceId([instance; 16])),
        };
        let mut group = PeerLinks::new(peer, ServedServices::Granted(Arc::default()), 1);
        let link = LinkGuard::ready(&group.counts, None);
        group.note_seen();
        (group, link)
    }

    fn reset() -> LinkLoss {
        std::io::Error::from(std::io::ErrorKind::ConnectionReset).into()
    }

    fn lose(group: &mut PeerLinks, link: LinkGuard, how: &LinkLoss) {
        link.note_failed(how.detection_delay());
        drop(link);
        group.note_lost(&how.clone().into());
    }

    /// Long enough for clocks in microseconds to distinguish before and after.
    fn moment_passes() {
        let began = Instant::now();
        while began.elapsed() < Duration::from_micros(50) {}
    }

    fn instances(groups: &[PeerLinks]) -> Vec<u8> {
        groups.iter().filter_map(|group| Some(group.peer.instance?.0[0])).collect()
    }

    #[test]
    fn of_two_gateways_of_one_name_one_that_is_lost_stays_until_it_is_back() {
        for how in [reset(), LinkLoss::Cut, LinkLoss::Silent] {
            let ((mut one, _one), (other, link)) = (alpha(1), alpha(2));
            one.succession = Succession::began_before(2 * SILENCE_MAX);
            let mut groups = vec![one, other];
            lose(&mut groups[1], link, &how);
            forget_lost_peers(&mut groups);
            assert_eq!(instances(&groups), [1, 2], "{how}: the first is no other than before");
            assert!(groups[1].row().instance.is_some_and(|instance| instance.starts_with("0202")));
            moment_passes();
            let (back, _back) = alpha(3);
            groups.push(back);
            forget_lost_peers(&mut groups);
            assert_eq!(instances(&groups), [1, 3], "{how}: it was restarted");
            assert_eq!(groups[1].row().failures, 1, "{how}: that was its own");
            assert_eq!(groups[0].row().failures, 0, "{how}: the other one never failed");
        }
    }

    #[test]
    fn a_gateway_that_came_a_moment_before_another_was_lost_is_no_other() {
        // The first one was reset, so whoever was up then was beside it.
        let ((mut first, link), (mut second, _second)) = (alpha(1), alpha(2));
        first.succession = Succession::began_before(Duration::from_secs(2));
        second.succession = Succession::began_before(Duration::from_secs(1));
        let mut groups = vec![first, second];
        lose(&mut groups[0], link, &LinkLoss::Cut);
        forget_lost_peers(&mut groups);
        assert_eq!(instances(&groups), [1, 2]);
        // The other's silence was noticed late: it may have restarted long before.
        let ((mut first, link), (second, _second)) = (alpha(1), alpha(2));
        first.succession = Succession::began_before(2 * SILENCE_MAX);
        let mut groups = vec![first, second];
        lose(&mut groups[0], link, &LinkLoss::Silent);
        forget_lost_peers(&mut groups);
        assert_eq!(instances(&groups), [2]);
        // One of its links was reset, and the reset of another was lost on the way.
        let (mut first, link) = alpha(1);
        let other = LinkGuard::ready(&first.counts, None);
        lose(&mut first, link, &LinkLoss::Cut);
        moment_passes();
        let (second, _second) = alpha(2);
        lose(&mut first, other, &reset());
        let mut groups = vec![first, second];
        forget_lost_peers(&mut groups);
        assert_eq!(instances(&groups), [2], "it came behind the first reset");
    }

    #[test]
    fn one_that_has_lost_a_link_is_used_last_until_another_stands() {
        let ((mut lost, link), (mut other, _link)) = (alpha(1), alpha(2));
        other.take_turn(7);
        assert!(lost.rank() < other.rank());
        lose(&mut lost, link, &LinkLoss::Cut);
        assert!(lost.rank() > other.rank(), "its other links may be about to go");
        lost.note_seen();
        assert!(lost.rank() < other.rank());
    }

    #[test]
    fn the_peer_lost_longest_is_forgotten_past_the_limit() {
        let mut groups: Vec<_> = (0..=LOST_MAX as u8).map(|number| alpha(number).0).collect();
        groups.iter_mut().for_each(|group| group.note_lost(&reset().into()));
        let first = groups.iter().min_by_key(|group| group.counts.empty_since_us());
        let longest = first.and_then(|group| group.peer.instance);
        forget_lost_peers(&mut groups);
        assert_eq!(groups.len(), LOST_MAX);
        assert!(groups.iter().all(|group| group.peer.instance != longest));
    }

    #[test]
    fn a_peer_that_left_with_a_goodbye_is_forgotten_with_its_last_link() {
        let group = || {
            let peer = Peer { name: Some("alpha".into()), address: "192.0.2.1".into(), instance: None };
            let group = PeerLinks::new(peer, ServedServices::Granted(Arc::default()), 1);
            drop(LinkGuard::ready(&group.counts, None));
            group
        };
        let remembered = |writer: fn(&mut PeerLinks)| {
            let mut group = group();
            writer(&mut group);
            group.is_remembered()
        };
        assert!(remembered(|group| group.note_lost(&IdleLinkError::CLOSED)), "killed");
        assert!(!remembered(|group| group.note_drain()), "it drains");
        assert!(!remembered(|group| group.note_retired()), "its last link retired");
        let cut_while_it_drains = |group: &mut PeerLinks| {
            group.note_drain();
            group.note_lost(&IdleLinkError::CLOSED);
        };
        assert!(!remembered(cut_while_it_drains));
        let back_and_killed = |group: &mut PeerLinks| {
            group.note_drain();
            group.note_seen();
            group.note_lost(&IdleLinkError::CLOSED);
        };
        assert!(remembered(back_and_killed));
        let mut drains = group();
        let carries = LinkGuard::carrying(&drains.counts, None);
        drains.note_drain();
        let row = drains.row();
        assert_eq!(
            (row.carrying, row.left, row.last_error.as_deref()),
            (1, true, Some("it drains, and takes no new sessions"))
        );
        drop(carries);
        let mut killed = group();
        killed.note_lost(&IdleLinkError::CLOSED);
        assert!(killed.is_remembered_when(Some(Duration::from_secs(3600))), "an hour later");
        assert!(!killed.is_remembered_when(Some(LOST_PEER_RETENTION_PERIOD)));
        let mut busy = group();
        let carries = LinkGuard::carrying(&busy.counts, None);
        busy.note_retired();
        drop(carries);
        assert!(busy.is_remembered(), "one link of several retired, and then the rest was cut");
    }
}
