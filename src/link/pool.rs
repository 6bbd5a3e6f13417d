//! The ready links of the half that opens sessions, and the clients that wait for one.
//!
//! Peers take turns; within a peer the newest link goes first, since the link seen alive last is
//! the likeliest to work. While clients wait, a link that becomes ready goes to the first of them
//! that it can serve: a parked SOCKS5 link is for the service that its BIND named, a link of our
//! own for every service that its peer offers and is granted.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use thiserror::Error;
use tokio::{sync::oneshot, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Peer,
    framed::{Home, Link},
    greet::{Linked, bid_farewell, part},
    lane::{Lane, Lost, Serves},
    leg::Leg,
    ready::{self, Gone, Slot},
    seat::{Counts, Seat},
    serving::Loss,
};
use crate::{
    net::stream::Stream,
    profile::{PoolLimits, ServiceName},
    proto::link::frame::Kind,
    tasks::Tasks,
    telemetry::snapshot::PoolRow,
};

/// Peers in the books at once.
const LANES_MAX: usize = 256;
/// Links of one peer, ready and carrying, told in our `hello`.
pub const LINKS_MAX: usize = 16_384;

/// Why no link could be had.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TakeError {
    #[error("{0} clients wait for a link already")]
    Full(usize),
    #[error("no link came within {}s", .0.as_secs_f32())]
    Late(Duration),
    #[error("the pool has closed")]
    Closed,
}

/// A link that was ready and is now somebody's.
#[derive(Debug)]
pub struct Taken {
    pub leg: Leg,
    pub peer: Peer,
    /// Of a SOCKS5 link; a link of our own holds its seat itself.
    pub seat: Option<Seat>,
}

pub struct Pool {
    tasks: Tasks,
    offered: AtomicBool,
    /// Cancelled for the links that stand, and then replaced for those that will.
    retired: Mutex<CancellationToken>,
    books: Mutex<Books>,
}

struct Books {
    limits: PoolLimits,
    lanes: Vec<Lane>,
    /// Index of the lane whose turn is next.
    turn: usize,
    waiters: VecDeque<Waiter>,
    next_waiter: u64,
    services: HashMap<ServiceName, OfService>,
    /// Links that were found leaving, to be let go when the lock is free.
    leaving: Vec<(Box<Link>, Option<Lost>)>,
    closed: bool,
}

/// What is counted for each service that was asked for.
#[derive(Debug, Default)]
struct OfService {
    waiting: usize,
    misses: u64,
}

#[derive(Debug)]
struct Waiter {
    key: u64,
    service: ServiceName,
    not: Vec<Peer>,
    give: oneshot::Sender<Taken>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Pool")
    }
}

impl Pool {
    pub fn new(limits: PoolLimits, tasks: Tasks) -> Arc<Self> {
        let books = Books {
            limits,
            lanes: Vec::new(),
            turn: 0,
            waiters: VecDeque::new(),
            next_waiter: 0,
            services: HashMap::new(),
            leaving: Vec::new(),
            closed: false,
        };
        let books = Mutex::new(books);
        Arc::new(Self { tasks, offered: AtomicBool::new(false), retired: Mutex::default(), books })
    }

    pub fn set_limits(&self, limits: PoolLimits) {
        self.lock().limits = limits;
    }

    /// Whether a link has ever been offered.
    pub fn was_offered(&self) -> bool {
        self.offered.load(Ordering::Relaxed)
    }

    /// Takes in a SOCKS5 link that its peer has parked; gives it back when the pool has closed.
    pub fn park(self: &Arc<Self>, peer: Peer, service: ServiceName, stream: Stream) -> Result<(), Stream> {
        let mut books = self.lock();
        if books.closed {
            return Err(stream);
        }
        let serves = Serves::One(service);
        let target = books.limits.prepared;
        let lane = books.lane(&peer, serves, target);
        let seat = Seat::ready(&books.lanes[lane].counts, None);
        self.put(books, lane, Leg::Stream(stream), Some(seat));
        Ok(())
    }

    /// Takes in a link of our own that its peer has dialled.
    pub fn stands(self: &Arc<Self>, linked: Linked) {
        let Linked { mut link, offer, grant } = linked;
        let peer = link.peer().clone();
        let full = {
            let mut books = self.lock();
            let lane = books.lane(&peer, Serves::Granted(Arc::default()), offer.target);
            let lane = &mut books.lanes[lane];
            lane.serves = Serves::Granted(Arc::new(grant.services.into_iter().collect()));
            let full = lane.counts.links() >= LINKS_MAX;
            link.sit(Seat::ready(&lane.counts, None));
            full
        };
        if full {
            return self.let_go(link);
        }
        self.keep(link);
    }

    /// Takes in a link of our own that this half has dialled and counts itself.
    pub fn dialled(self: &Arc<Self>, linked: Linked, counts: &Arc<Counts>, lost: Lost) {
        let Linked { link, grant, .. } = linked;
        {
            let mut books = self.lock();
            let lane = books.lane(link.peer(), Serves::Granted(Arc::default()), 0);
            let lane = &mut books.lanes[lane];
            lane.serves = Serves::Granted(Arc::new(grant.services.into_iter().collect()));
            lane.counts = counts.clone();
            lane.lost = Some(lost);
        }
        self.keep(link);
    }

    fn keep(self: &Arc<Self>, mut link: Box<Link>) {
        self.offered.store(true, Ordering::Relaxed);
        let retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let home: Weak<Self> = Arc::downgrade(self);
        link.live_at(home, retired);
        self.clone().returned(link);
    }

    /// Closes a link that carries nothing, in good order.
    fn let_go(&self, mut link: Box<Link>) {
        let kind = if self.lock().closed { Kind::Drain } else { Kind::Retire };
        // It fails only where the link is closed already.
        let _ = link.stage_leave(kind);
        self.tasks.spawn("retired link", part(link));
    }

    /// A ready link that asks to be let go, or is not needed.
    fn leaves(&self, link: Box<Link>, lost: Option<Lost>, stood: Duration) {
        let loss = if link.leaving() == Some(Kind::Drain) { Loss::Drained } else { Loss::Retired };
        self.let_go(link);
        if let Some(lost) = lost {
            lost(stood, loss);
        }
    }

    /// Gives a ready link to the first client that it can serve, or keeps it.
    fn put(
        self: &Arc<Self>,
        mut books: MutexGuard<'_, Books>,
        lane: usize,
        mut leg: Leg,
        mut seat: Option<Seat>,
    ) {
        if let Some(why) = ready::loss(&mut leg) {
            return match leg {
                Leg::Link(link) if link.leaving().is_some() => {
                    let lost = books.lanes[lane].lost.clone();
                    drop(books);
                    self.leaves(link, lost, Duration::ZERO);
                }
                _ => books.lanes[lane].lose(&why),
            };
        }
        self.offered.store(true, Ordering::Relaxed);
        books.lanes[lane].seen();
        while let Some(waiter) = books.next_for(lane) {
            let peer = books.lanes[lane].peer.clone();
            match waiter.give.send(Taken { leg, peer, seat }) {
                Ok(()) => return,
                Err(unwanted) => (leg, seat) = (unwanted.leg, unwanted.seat),
            }
        }
        let slot = Slot::new(leg);
        let (peer, serves) = (books.lanes[lane].peer.clone(), books.lanes[lane].serves.clone());
        let lost = books.lanes[lane].lost.clone();
        books.lanes[lane].ready.push((slot.clone(), seat));
        drop(books);
        let pool = self.clone();
        self.tasks.spawn("ready link", async move {
            let since = Instant::now();
            let loss = match slot.watch().await {
                Gone::Taken => return,
                Gone::Lost(why) => {
                    pool.lost(&peer, &serves, Some(&why));
                    Loss::Failed(why)
                }
                Gone::Leaves(link) => {
                    pool.lost(&peer, &serves, None);
                    return pool.leaves(link, lost, since.elapsed());
                }
            };
            if let Some(lost) = lost {
                lost(since.elapsed(), loss);
            }
        });
    }

    /// The freshest link for a service, of the peer whose turn it is, waiting for one if there is
    /// none. Peers in `not` have refused it already.
    pub async fn take(&self, service: &ServiceName, not: &[Peer]) -> Result<Taken, TakeError> {
        let (mut place, wait) = {
            let mut books = self.lock();
            if books.closed {
                return Err(TakeError::Closed);
            }
            let taken = books.pop(service, not);
            self.let_go_all(&mut books);
            if let Some(taken) = taken {
                return Ok(taken);
            }
            let waiters = books.limits.waiters;
            let of_service = books.services.entry(service.clone()).or_default();
            if of_service.waiting >= waiters {
                of_service.misses += 1;
                return Err(TakeError::Full(of_service.waiting));
            }
            of_service.waiting += 1;
            let (give, given) = oneshot::channel();
            let key = books.next_waiter;
            books.next_waiter += 1;
            let not = not.to_vec();
            books.waiters.push_back(Waiter { key, service: service.clone(), not, give });
            (Place { pool: self, key, service, given }, books.limits.wait)
        };
        match timeout(wait, &mut place.given).await {
            Ok(Ok(taken)) => Ok(taken),
            Ok(Err(_)) => Err(TakeError::Closed),
            Err(_) => {
                self.lock().services.entry(service.clone()).or_default().misses += 1;
                Err(TakeError::Late(wait))
            }
        }
    }

    /// A link for a service, if one is ready now.
    pub fn take_ready(&self, service: &ServiceName, not: &[Peer]) -> Option<Taken> {
        let mut books = self.lock();
        let taken = books.pop(service, not);
        self.let_go_all(&mut books);
        taken
    }

    /// Links that were found leaving when they should have been taken.
    fn let_go_all(&self, books: &mut Books) {
        for (mut link, lost) in std::mem::take(&mut books.leaving) {
            // It fails only where the link is closed already.
            let _ = link.stage_leave(Kind::Retire);
            let loss = if link.leaving() == Some(Kind::Drain) { Loss::Drained } else { Loss::Retired };
            self.tasks.spawn("retired link", async move {
                part(link).await;
                if let Some(lost) = lost {
                    lost(Duration::ZERO, loss);
                }
            });
        }
    }

    /// Whether any peer but these has a ready link for a service.
    pub fn has_peer_for(&self, service: &ServiceName, not: &[Peer]) -> bool {
        let books = self.lock();
        books.lanes.iter().any(|lane| !lane.ready.is_empty() && lane.may_serve(service, not))
    }

    /// Lets go of the ready SOCKS5 links of peers that may not offer their service any more.
    pub fn keep_only(&self, may_offer: impl Fn(&Peer, &ServiceName) -> bool) {
        let mut books = self.lock();
        for lane in &mut books.lanes {
            let Serves::One(service) = &lane.serves else { continue };
            if !may_offer(&lane.peer, service) {
                self.close_all(lane.ready.drain(..), Kind::Retire);
            }
        }
    }

    /// Replaces the links that stand: what was agreed when they came does not hold any more.
    pub fn retire_links(&self) {
        std::mem::take(&mut *self.retired.lock().unwrap_or_else(PoisonError::into_inner)).cancel();
        let mut books = self.lock();
        for lane in books.lanes.iter_mut().filter(|lane| matches!(lane.serves, Serves::Granted(_))) {
            self.close_all(lane.ready.drain(..), Kind::Retire);
        }
    }

    /// No more links and no more takers; ready links end cleanly.
    pub fn close(&self) {
        let mut books = self.lock();
        books.closed = true;
        books.waiters.clear();
        let slots: Vec<_> = books.lanes.iter_mut().flat_map(|lane| lane.ready.drain(..)).collect();
        drop(books);
        self.close_all(slots.into_iter(), Kind::Drain);
    }

    fn close_all(&self, slots: impl Iterator<Item = (Slot, Option<Seat>)>, kind: Kind) {
        for (slot, _seat) in slots {
            match slot.claim() {
                Some(Leg::Stream(stream)) => self.tasks.spawn("retired link", bid_farewell(stream)),
                Some(Leg::Link(mut link)) => {
                    // It fails only where the link is closed already.
                    let _ = link.stage_leave(kind);
                    self.tasks.spawn("retired link", part(link));
                }
                Some(Leg::Gone) | None => {}
            }
        }
    }

    /// A row for each peer's links, and one for each of `services` that no peer offers.
    pub fn rows<'a>(&self, services: impl Iterator<Item = &'a ServiceName>) -> Vec<PoolRow> {
        let mut books = self.lock();
        books.lanes.retain(Lane::is_remembered);
        let mut rows = Vec::new();
        for lane in &books.lanes {
            let of_lane = |(service, of): (_, &OfService)| of.waiting > 0 && lane.may_serve(service, &[]);
            let starved = books.services.iter().any(of_lane);
            rows.push(lane.row(starved));
        }
        for service in services {
            if !books.lanes.iter().any(|lane| lane.may_serve(service, &[])) {
                let starved = books.services.get(service).is_some_and(|of| of.waiting > 0);
                rows.push(super::lane::row_without_peer(service, books.limits.prepared, starved));
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

    fn lost(&self, peer: &Peer, serves: &Serves, why: Option<&str>) {
        tracing::debug!(peer = %peer.label(), "ready link gone: {}", why.unwrap_or("it leaves"));
        let mut books = self.lock();
        for lane in books.lanes.iter_mut().filter(|lane| lane.peer == *peer && lane.serves.is_alike(serves)) {
            // The lost one is the slot that holds nothing any more.
            lane.ready.retain(|(slot, _)| !slot.is_empty());
            if let Some(why) = why {
                lane.lose(why);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Home for Pool {
    fn returned(self: Arc<Self>, link: Box<Link>) {
        let books = self.lock();
        if books.closed || link.is_worn() || link.leaving().is_some() {
            drop(books);
            return self.let_go(link);
        }
        match books.lane_of(link.peer()) {
            Some(lane) => self.put(books, lane, Leg::Link(link), None),
            // Its peer was forgotten meanwhile.
            None => {
                drop(books);
                self.let_go(link);
            }
        }
    }
}

impl Books {
    /// The lane of a peer's links of our own.
    fn lane_of(&self, peer: &Peer) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.peer == *peer && matches!(lane.serves, Serves::Granted(_)))
    }

    fn lane(&mut self, peer: &Peer, serves: Serves, target: usize) -> usize {
        let same = |lane: &Lane| lane.peer == *peer && lane.serves.is_alike(&serves);
        if let Some(at) = self.lanes.iter().position(same) {
            self.lanes[at].target = target;
            return at;
        }
        if self.lanes.len() >= LANES_MAX {
            // Only peers with certificates of ours come this far; the longest unseen gives way.
            let oldest = (0..self.lanes.len()).max_by_key(|&at| self.lanes[at].unseen()).unwrap_or(0);
            self.lanes.remove(oldest);
        }
        self.lanes.push(Lane::new(peer.clone(), serves, target));
        self.lanes.len() - 1
    }

    fn pop(&mut self, service: &ServiceName, not: &[Peer]) -> Option<Taken> {
        let count = self.lanes.len();
        for step in 0..count {
            let at = (self.turn + step) % count;
            if !self.lanes[at].may_serve(service, not) {
                continue;
            }
            while let Some((slot, seat)) = self.lanes[at].ready.pop() {
                // A link that was lost a moment ago is skipped.
                let Some(mut leg) = slot.claim() else { continue };
                if let Some(why) = ready::loss(&mut leg) {
                    match leg {
                        Leg::Link(link) if link.leaving().is_some() => {
                            self.leaving.push((link, self.lanes[at].lost.clone()));
                        }
                        _ => self.lanes[at].lose(&why),
                    }
                    continue;
                }
                self.turn = (at + 1) % count;
                return Some(Taken { leg, peer: self.lanes[at].peer.clone(), seat });
            }
        }
        None
    }

    /// The first client in the queue that a lane can serve.
    fn next_for(&mut self, lane: usize) -> Option<Waiter> {
        let lane = &self.lanes[lane];
        let at = self.waiters.iter().position(|waiter| lane.may_serve(&waiter.service, &waiter.not))?;
        self.waiters.remove(at)
    }
}

/// A waiting client's place in the queue; a client that gives up drops it and is gone from there.
struct Place<'a> {
    pool: &'a Pool,
    key: u64,
    service: &'a ServiceName,
    given: oneshot::Receiver<Taken>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let unwanted = {
            let mut books = self.pool.lock();
            books.waiters.retain(|waiter| waiter.key != self.key);
            if let Some(of_service) = books.services.get_mut(self.service) {
                of_service.waiting -= 1;
            }
            self.given.close();
            self.given.try_recv().ok()
        };
        // Given in the very moment in which the client gave up: it is as good as new.
        if let Some(Taken { leg: Leg::Link(link), .. }) = unwanted {
            link.go_home();
        }
    }
}
