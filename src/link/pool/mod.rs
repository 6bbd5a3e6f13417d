//! The ready links of the half that opens sessions, and the clients that wait for one.
//!
//! Peers take turns by their names, and the processes of one name among themselves. Within a peer the newest link
//! goes first, since the link most recently seen alive is the most likely to work. While clients wait, a link that
//! becomes ready goes to the first one that it can serve. A parked SOCKS5 link is for the service that its BIND
//! named. A link of our own is for every service that its peer offers and is granted.
//!
//! The files here use each other: its contents are in a file of their own, with the errors and limits of this one.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{sync::oneshot, time::timeout};
use tokio_util::sync::CancellationToken;

mod carries_mismatch;
mod contents;
mod limits;
mod other_links;
mod parking;
mod probes;
mod rows;
mod take_error;

use contents::{PoolContents, WaitingClient};
pub use take_error::{ServiceClosed, TakeError};

use super::{
    Peer,
    agreement::{AgreedLink, AgreedLinkEvent},
    generation::TermsGeneration,
    grants::CarriesMismatch,
    handshake::{EstablishedLink, close_lingering},
    idle_link::{self, IdleLink, IdleLinkEnd},
    link_guard::{LinkCounters, LinkGuard},
    peer_links::{PeerLinks, ReadyLink, ServedServices, SharedLink},
    server::{IdleLossReason, LinkLost},
    session_side::LinkSlot,
    shares::GatewayShares,
};
use crate::{
    net::stream::NetStream,
    profile::{PoolLimits, ServiceName},
    proto::multiplex::{frame::FrameType, hello::OfferState},
    tasks::Tasks,
    telemetry::log::LogEvent,
};

/// The maximum number of links of one half, ready and carrying, whatever the descriptors allow.
pub const LINKS_MAX: usize = 16_384;

/// A link that was ready and now belongs to somebody.
#[derive(Debug)]
pub struct AcquiredLink {
    pub side: AcquiredSide,
    pub peer: Peer,
}

#[derive(Debug)]
pub enum AcquiredSide {
    /// A SOCKS5 link, which is its session's alone.
    Parked(NetStream, LinkGuard),
    /// A slot on a link of our own.
    Slot(LinkSlot),
}

pub struct Pool {
    tasks: Tasks,
    /// The shares of the links that peers dial.
    shares: Arc<GatewayShares>,
    offered: AtomicBool,
    generation: Arc<TermsGeneration>,
    contents: Mutex<PoolContents>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Pool")
    }
}

impl Pool {
    pub fn new(limits: PoolLimits, shares: Arc<GatewayShares>, tasks: Tasks) -> Arc<Self> {
        shares.bound_each(limits.links_per_peer);
        let contents = Mutex::new(PoolContents::new(limits));
        Arc::new(Self {
            tasks,
            shares,
            offered: AtomicBool::new(false),
            generation: Arc::default(),
            contents,
        })
    }

    /// Whether a link has ever been offered.
    pub fn was_offered(&self) -> bool {
        self.offered.load(Ordering::Relaxed)
    }

    /// The generation of the terms that its links were opened under.
    pub fn generation(&self) -> &Arc<TermsGeneration> {
        &self.generation
    }

    /// Notes what a peer offers. Returns the mismatches that it has not shown before.
    pub fn note_mismatches(&self, peer: &Peer, mismatches: &[CarriesMismatch]) -> Vec<CarriesMismatch> {
        self.lock().mismatches.note_mismatches(peer, mismatches)
    }

    /// Adds a link of our own that its peer has dialled. Returns it, to be closed in good order, if there is no
    /// room for another one of that peer.
    pub fn take_in(self: &Arc<Self>, linked: EstablishedLink) -> Result<(), Box<AgreedLink>> {
        let EstablishedLink { mut link, offer, .. } = linked;
        let guard = {
            let mut contents = self.lock();
            // Whoever dials wants to keep at least one, so a peer never has enough links at zero.
            let share = self.shares.take(&link.peer().label());
            let kept = usize::from(offer.links_kept);
            let group =
                share.and_then(|share| Some((share, contents.peer_links_for(&mut link, kept.max(1))?)));
            group.and_then(|(share, group)| {
                let group = &mut contents.peers[group];
                group.maximum = offer.links_max.into();
                // Links that have already ended at the peer may not be noticed here yet.
                let most = group.maximum.saturating_add(kept);
                (group.counts.links() < most).then(|| LinkGuard::ready(&group.counts, Some(share)))
            })
        };
        let Some(guard) = guard else { return Err(link) };
        link.set_guard(guard);
        if let Some(kept) = self.keep_link(link) {
            // Its row shows how it ended.
            self.tasks.spawn("shared link", async move { drop(kept.await) });
        }
        Ok(())
    }

    /// The frame that tells a link to leave.
    pub fn leave_kind(&self) -> FrameType {
        if self.lock().closed { FrameType::Drain } else { FrameType::Retire }
    }

    /// Takes in a link of our own that this half has dialled and counts itself; its life, until it is lost.
    pub fn take_in_dialled(
        self: &Arc<Self>,
        linked: EstablishedLink,
        counts: &Arc<LinkCounters>,
    ) -> Option<impl Future<Output = LinkLost> + use<>> {
        let mut link = linked.link;
        {
            let mut contents = self.lock();
            let Some(group) = contents.peer_links_for(&mut link, 0) else {
                drop(contents);
                self.tasks.spawn("retired link", link.close_gracefully(self.leave_kind()));
                return None;
            };
            contents.peers[group].counts = counts.clone();
        }
        self.keep_link(link)
    }

    fn keep_link(self: &Arc<Self>, link: Box<AgreedLink>) -> Option<impl Future<Output = LinkLost> + use<>> {
        self.offered.store(true, Ordering::Relaxed);
        let (peer, leave) = (link.peer().clone(), CancellationToken::new());
        let key = {
            let mut contents = self.lock();
            let Some(group) = contents.peer_links_of(&peer).filter(|_| !contents.closed) else {
                drop(contents);
                self.tasks.spawn("retired link", link.close_gracefully(self.leave_kind()));
                return None;
            };
            contents.next_link += 1;
            let number = contents.next_link;
            let shared = SharedLink {
                handle: link.handle().clone(),
                load: link.load().clone(),
                serves: link.serves().clone(),
                leave: leave.clone(),
            };
            contents.peers[group].note_seen();
            contents.peers[group].shared.add(number, shared);
            number
        };
        self.serve_waiters(&peer);
        Some(self.clone().drive_link(link, key, leave))
    }

    /// Drives a link that sessions share, to its end.
    async fn drive_link(
        self: Arc<Self>,
        mut link: Box<AgreedLink>,
        key: u64,
        leave: CancellationToken,
    ) -> LinkLost {
        let peer = link.peer().clone();
        link.move_heavy_sessions_to(self.other_links(&peer));
        loop {
            let requested = async {
                leave.cancelled().await;
                self.leave_kind()
            };
            match link.next_event(requested).await {
                AgreedLinkEvent::HasRoom => self.serve_waiters(&peer),
                AgreedLinkEvent::Offers(mismatch) => self.note_offer_change(&peer, key, &mismatch),
                // An opener never receives `open`.
                AgreedLinkEvent::Opened(..) => {}
                AgreedLinkEvent::Leaves(FrameType::Drain) => {
                    self.remove_link(&peer, key, PeerLinks::note_drain);
                }
                AgreedLinkEvent::Leaves(_) => {
                    self.remove_link(&peer, key, PeerLinks::note_retired);
                    link.move_sessions();
                }
                AgreedLinkEvent::Ended(why) => {
                    let lifetime = link.lifetime();
                    // Its guard is dropped before anybody looks.
                    drop(link);
                    self.remove_link(&peer, key, |group| match &why {
                        IdleLossReason::Retired => {}
                        IdleLossReason::Drained => group.note_drain(),
                        IdleLossReason::Failed(why) => group.note_lost(why),
                    });
                    return LinkLost { lifetime, why };
                }
            }
        }
    }

    fn remove_link(&self, peer: &Peer, key: u64, note: impl FnOnce(&mut PeerLinks)) {
        let mut contents = self.lock();
        if let Some(group) = contents.peer_links_of(peer) {
            contents.peers[group].shared.remove(key);
            note(&mut contents.peers[group]);
        }
    }

    /// Gives slots on a peer's links to waiting clients.
    fn serve_waiters(&self, peer: &Peer) {
        let mut contents = self.lock();
        let Some(group) = contents.peer_links_of(peer) else { return };
        while let Some((waiter, slot)) = contents.next_waiter_with_slot(group) {
            // A client that has given up returns its slot.
            let _ = waiter.give.send(Ok(AcquiredLink { side: AcquiredSide::Slot(slot), peer: peer.clone() }));
        }
    }

    /// Handles a new offer from a peer: waiting clients are served, or refused if nobody takes their sessions
    /// any more.
    fn note_offer_change(&self, peer: &Peer, link: u64, mismatch: &[CarriesMismatch]) {
        {
            let mut contents = self.lock();
            // The row of the peer shows what it carries differently.
            let _ = contents.mismatches.note_mismatches(peer, mismatch);
            if let Some(group) = contents.peer_links_of(peer) {
                contents.peers[group].shared.count_services(link);
            }
        }
        self.serve_waiters(peer);
        let refused = self.lock().take_refused_waiters();
        for (waiter, why) in refused {
            // A client that has given up need not know.
            let _ = waiter.give.send(Err(why));
        }
    }

    /// The state of a service that all peers have closed.
    pub fn service_closed(&self, service: &ServiceName) -> Option<ServiceClosed> {
        self.lock().closed_at_all(service)
    }

    /// Gives a ready link to the first client that it can serve, or keeps it.
    fn put_link(
        self: &Arc<Self>,
        mut contents: MutexGuard<'_, PoolContents>,
        group: usize,
        stream: NetStream,
        mut link_guard: LinkGuard,
    ) {
        let mut stream = match idle_link::check_alive(stream) {
            Ok(stream) => stream,
            Err(end) => return contents.peers[group].note_idle_end(&end),
        };
        let serves = contents.peers[group].serves.clone();
        self.offered.store(true, Ordering::Relaxed);
        contents.peers[group].note_seen();
        while let Some(waiter) = contents.next_waiter_for(group, &serves) {
            let peer = contents.peers[group].peer.clone();
            match waiter.give.send(Ok(AcquiredLink { side: AcquiredSide::Parked(stream, link_guard), peer }))
            {
                Err(Ok(AcquiredLink { side: AcquiredSide::Parked(unwanted, guard), .. })) => {
                    (stream, link_guard) = (unwanted, guard);
                }
                Ok(()) | Err(_) => return,
            }
        }
        let slot = IdleLink::new(stream);
        let peer = contents.peers[group].peer.clone();
        contents.next_link += 1;
        let number = contents.next_link;
        contents.peers[group].ready.insert(number, ReadyLink { link: slot.clone(), guard: link_guard });
        drop(contents);
        let pool = self.clone();
        self.tasks.spawn("ready link", async move {
            let end = slot.watch().await;
            if !matches!(end, IdleLinkEnd::Taken) {
                pool.note_lost((&peer, &serves), number, &end);
            }
        });
    }

    /// The newest link for a service, of the peer whose turn it is; waits for one if there is none. Peers in
    /// `not` have already refused the session.
    pub async fn take(&self, service: &ServiceName, not: &[Peer]) -> Result<AcquiredLink, TakeError> {
        let (mut share, wait) = {
            let mut contents = self.lock();
            if contents.closed {
                return Err(TakeError::Closed);
            }
            if let Some(taken) = self.pop(&mut contents, service, not) {
                return Ok(taken);
            }
            if let Some(why) = contents.unserved_reason(service) {
                return Err(why);
            }
            match contents.make_room_for(service) {
                Ok(None) => {}
                Ok(Some(displaced)) => {
                    let waiting = contents.count_miss(&displaced.service).waiting;
                    // One that has given up need not know.
                    let _ = displaced.give.send(Err(TakeError::Displaced(waiting)));
                }
                Err(full) => {
                    contents.count_miss(service);
                    return Err(full);
                }
            }
            let (give, given) = oneshot::channel();
            let key = contents.next_waiter;
            contents.next_waiter += 1;
            let not = not.to_vec();
            contents.add_waiter(WaitingClient { key, service: service.clone(), not, give });
            (QueueEntry { pool: self, key, given }, contents.limits.wait)
        };
        match timeout(wait, &mut share.given).await {
            Ok(Ok(taken)) => taken,
            Ok(Err(_)) => Err(TakeError::Closed),
            Err(_) => {
                let mut contents = self.lock();
                contents.count_miss(service);
                Err(contents.why_late(service, wait))
            }
        }
    }

    /// A link for a service, if one is ready now.
    pub fn take_ready(&self, service: &ServiceName, not: &[Peer]) -> Option<AcquiredLink> {
        self.pop(&mut self.lock(), service, not)
    }

    fn pop(&self, contents: &mut PoolContents, service: &ServiceName, not: &[Peer]) -> Option<AcquiredLink> {
        while let Some(at) = contents.next_ready(service, not) {
            contents.takes += 1;
            let takes = contents.takes;
            let group = &mut contents.peers[at];
            let newest = group.newest_for(service).and_then(|newest| group.ready.remove(&newest));
            let Some(ReadyLink { link: slot, guard: link_guard }) = newest else {
                let side = AcquiredSide::Slot(group.take_slot(service, OfferState::Open)?);
                group.take_turn(takes);
                return Some(AcquiredLink { side, peer: group.peer.clone() });
            };
            // A link that was lost a moment ago is skipped.
            let Some(stream) = slot.claim() else { continue };
            match idle_link::check_alive(stream) {
                Ok(stream) => {
                    group.take_turn(takes);
                    let side = AcquiredSide::Parked(stream, link_guard);
                    return Some(AcquiredLink { side, peer: group.peer.clone() });
                }
                Err(end) => group.note_idle_end(&end),
            }
        }
        None
    }

    /// Whether any peer other than these has a ready link for a service.
    pub fn has_other_peer_for(&self, service: &ServiceName, not: &[Peer]) -> bool {
        let contents = self.lock();
        contents.peers.iter().any(|group| !group.peer.is_process_among(not) && group.can_take(service))
    }

    /// Closes the ready SOCKS5 links of peers that may no longer offer their service.
    pub fn retain_allowed(&self, may_offer: impl Fn(&Peer, &ServiceName) -> bool) {
        let mut contents = self.lock();
        for group in &mut contents.peers {
            let ServedServices::One(service) = &group.serves else { continue };
            if !may_offer(&group.peer, service) {
                self.close_all(std::mem::take(&mut group.ready).into_values());
                group.note_drain();
            }
        }
    }

    /// Replaces the links that are up, because the terms they were opened under have changed.
    pub fn retire_links(&self) {
        self.generation.advance();
        let mut contents = self.lock();
        contents.mismatches.clear();
        for group in
            contents.peers.iter_mut().filter(|group| matches!(group.serves, ServedServices::Granted(_)))
        {
            group.shared.take_all().for_each(|link| link.leave.cancel());
            group.note_retired();
        }
    }

    /// Accepts no more links and no more clients; ready links end cleanly.
    pub fn close(&self) {
        let mut contents = self.lock();
        contents.closed = true;
        while contents.remove_waiter(0).is_some() {}
        let ready = |group: &mut PeerLinks| std::mem::take(&mut group.ready).into_values();
        let slots: Vec<_> = contents.peers.iter_mut().flat_map(ready).collect();
        let shared = contents.peers.iter_mut().flat_map(|group| group.shared.take_all());
        shared.for_each(|link| link.leave.cancel());
        drop(contents);
        self.close_all(slots.into_iter());
    }

    fn close_all(&self, links: impl Iterator<Item = ReadyLink>) {
        for stream in links.filter_map(|ready| ready.link.claim()) {
            self.tasks.spawn("retired link", close_lingering(stream));
        }
    }

    fn note_lost(&self, (peer, serves): (&Peer, &ServedServices), number: u64, end: &IdleLinkEnd) {
        tracing::debug!(event = %LogEvent::LinkLost, peer = %peer.label(), "ready link gone: {end:?}");
        let mut contents = self.lock();
        for group in contents
            .peers
            .iter_mut()
            .filter(|group| group.peer == *peer && group.serves.is_compatible(serves))
        {
            group.ready.remove(&number);
            group.note_idle_end(end);
        }
    }

    fn lock(&self) -> MutexGuard<'_, PoolContents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A waiting client's place in the queue; dropping it removes the client.
struct QueueEntry<'a> {
    pool: &'a Pool,
    key: u64,
    given: oneshot::Receiver<Result<AcquiredLink, TakeError>>,
}

impl Drop for QueueEntry<'_> {
    fn drop(&mut self) {
        let mut contents = self.pool.lock();
        if let Some(at) = contents.waiters.iter().position(|waiter| waiter.key == self.key) {
            contents.remove_waiter(at);
        }
    }
}

#[cfg(test)]
mod tests;
