//! The ready links of one service on the listening side, and the clients that wait for one.
//!
//! Peers take turns; within a peer the newest link goes first, since the link seen alive last is
//! the likeliest to work. While clients wait, a new link goes to the first of them.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use thiserror::Error;
use tokio::{sync::oneshot, time::timeout};

use super::{
    Peer,
    greet::bid_farewell,
    ready::{self, Gone, Slot},
};
use crate::{
    net::stream::Stream,
    profile::{PoolLimits, Role, ServiceName},
    tasks::Tasks,
    telemetry::snapshot::{PoolRow, PoolState},
};

/// A peer without links is remembered, and shown as down, for so long.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Peers of one service in the books at once.
const LANES_MAX: usize = 256;

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
    pub stream: Stream,
    pub peer: Peer,
    pub carrying: Carrying,
}

/// Counts a link as carrying for as long as it lives.
#[derive(Debug)]
pub struct Carrying(Arc<AtomicUsize>);

impl Carrying {
    pub fn one(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Carrying {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub struct Pool {
    service: ServiceName,
    tasks: Tasks,
    books: Mutex<Books>,
}

#[derive(Debug)]
struct Books {
    limits: PoolLimits,
    lanes: Vec<Lane>,
    /// Index of the lane whose turn is next.
    turn: usize,
    waiters: VecDeque<Waiter>,
    next_waiter: u64,
    misses: u64,
    offered: bool,
    closed: bool,
}

/// The ready links of one peer, newest last.
#[derive(Debug)]
struct Lane {
    peer: Peer,
    ready: Vec<Slot>,
    carrying: Arc<AtomicUsize>,
    failures: u64,
    last_error: Option<String>,
    seen: Instant,
}

#[derive(Debug)]
struct Waiter {
    key: u64,
    give: oneshot::Sender<Taken>,
}

impl Pool {
    pub fn new(service: ServiceName, limits: PoolLimits, tasks: Tasks) -> Arc<Self> {
        let books = Books {
            limits,
            lanes: Vec::new(),
            turn: 0,
            waiters: VecDeque::new(),
            next_waiter: 0,
            misses: 0,
            offered: false,
            closed: false,
        };
        Arc::new(Self { service, tasks, books: Mutex::new(books) })
    }

    pub fn set_limits(&self, limits: PoolLimits) {
        self.lock().limits = limits;
    }

    /// Whether a link has ever been offered.
    pub fn was_offered(&self) -> bool {
        self.lock().offered
    }

    /// Takes in a link that its peer has parked; gives it back when the pool has closed.
    pub fn offer(self: &Arc<Self>, peer: Peer, mut stream: Stream) -> Result<(), Stream> {
        let mut books = self.lock();
        if books.closed {
            return Err(stream);
        }
        if let Some(why) = ready::loss(&mut stream) {
            let lane = books.lane(peer);
            books.lanes[lane].lose(&why);
            return Ok(());
        }
        books.offered = true;
        let lane = books.lane(peer.clone());
        books.lanes[lane].seen = Instant::now();
        books.lanes[lane].last_error = None;
        let carrying = Carrying::one(&books.lanes[lane].carrying);
        let mut taken = Taken { stream, peer: peer.clone(), carrying };
        while let Some(waiter) = books.waiters.pop_front() {
            match waiter.give.send(taken) {
                Ok(()) => return Ok(()),
                Err(unwanted) => taken = unwanted,
            }
        }
        let slot = Slot::new(taken.stream);
        books.lanes[lane].ready.push(slot.clone());
        drop(books);
        let pool = self.clone();
        self.tasks.spawn("ready link", async move {
            if let Gone::Lost(why) = slot.watch().await {
                pool.lost(&peer, &why);
            }
        });
        Ok(())
    }

    /// The freshest link of the peer whose turn it is, waiting for one if there is none.
    pub async fn take(&self) -> Result<Taken, TakeError> {
        let (mut place, wait) = {
            let mut books = self.lock();
            if books.closed {
                return Err(TakeError::Closed);
            }
            if let Some(taken) = books.pop() {
                return Ok(taken);
            }
            books.forget_gone_waiters();
            if books.waiters.len() >= books.limits.waiters {
                books.misses += 1;
                return Err(TakeError::Full(books.waiters.len()));
            }
            let (give, given) = oneshot::channel();
            let key = books.next_waiter;
            books.next_waiter += 1;
            books.waiters.push_back(Waiter { key, give });
            (Place { pool: self, key, given }, books.limits.wait)
        };
        match timeout(wait, &mut place.given).await {
            Ok(Ok(taken)) => Ok(taken),
            Ok(Err(_)) => Err(TakeError::Closed),
            Err(_) => {
                self.lock().misses += 1;
                Err(TakeError::Late(wait))
            }
        }
    }

    /// Lets go of the ready links of peers that may not offer the service any more.
    pub fn keep_only(&self, may_offer: impl Fn(&Peer) -> bool) {
        let mut books = self.lock();
        for lane in books.lanes.iter_mut().filter(|lane| !may_offer(&lane.peer)) {
            for stream in lane.ready.drain(..).filter_map(|slot| slot.claim()) {
                self.tasks.spawn("retired link", bid_farewell(stream));
            }
        }
    }

    /// No more links and no more takers; ready links end cleanly.
    pub fn close(&self) {
        let mut books = self.lock();
        books.closed = true;
        books.waiters.clear();
        for slot in books.lanes.iter_mut().flat_map(|lane| lane.ready.drain(..)) {
            if let Some(stream) = slot.claim() {
                self.tasks.spawn("retired link", bid_farewell(stream));
            }
        }
    }

    /// One row for each peer, or one that says that there is none.
    pub fn rows(&self) -> Vec<PoolRow> {
        let mut books = self.lock();
        books.forget_lost_peers();
        books.forget_gone_waiters();
        let (waiting, misses, target) = (books.waiters.len(), books.misses, books.limits.prepared);
        let mut rows: Vec<_> =
            books.lanes.iter().map(|lane| lane.row(&self.service, target, waiting > 0)).collect();
        if rows.is_empty() {
            rows.push(self.row_without_peer(target, waiting > 0));
        }
        rows[0].waiting = waiting;
        rows[0].misses = misses;
        rows
    }

    fn row_without_peer(&self, target: usize, starved: bool) -> PoolRow {
        PoolRow {
            role: Role::Dmz,
            service: self.service.to_string(),
            peer: None,
            address: None,
            state: if starved { PoolState::Starved } else { PoolState::Down },
            ready: 0,
            carrying: 0,
            dialling: 0,
            target,
            waiting: 0,
            misses: 0,
            failures: 0,
            last_error: Some("no internal gateway has dialled in for this service".into()),
            retry_seconds: None,
        }
    }

    fn lost(&self, peer: &Peer, why: &str) {
        tracing::debug!(service = %self.service, peer = %peer.label(), "ready link lost: {why}");
        let mut books = self.lock();
        for lane in books.lanes.iter_mut().filter(|lane| lane.peer == *peer) {
            // The lost one is the slot that holds nothing any more.
            lane.ready.retain(|slot| !slot.is_empty());
            lane.lose(why);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn lane(&mut self, peer: Peer) -> usize {
        if let Some(at) = self.lanes.iter().position(|lane| lane.peer == peer) {
            return at;
        }
        if self.lanes.len() >= LANES_MAX {
            // Only peers with certificates of ours come this far; the longest unseen gives way.
            let oldest = (0..self.lanes.len()).min_by_key(|&at| self.lanes[at].seen).unwrap_or(0);
            self.lanes.remove(oldest);
        }
        self.lanes.push(Lane {
            peer,
            ready: Vec::new(),
            carrying: Arc::default(),
            failures: 0,
            last_error: None,
            seen: Instant::now(),
        });
        self.lanes.len() - 1
    }

    fn pop(&mut self) -> Option<Taken> {
        let count = self.lanes.len();
        for step in 0..count {
            let at = (self.turn + step) % count;
            while let Some(slot) = self.lanes[at].ready.pop() {
                // A link that was lost a moment ago is skipped.
                let Some(mut stream) = slot.claim() else { continue };
                if let Some(why) = ready::loss(&mut stream) {
                    self.lanes[at].lose(&why);
                    continue;
                }
                self.turn = (at + 1) % count;
                let lane = &self.lanes[at];
                return Some(Taken {
                    stream,
                    peer: lane.peer.clone(),
                    carrying: Carrying::one(&lane.carrying),
                });
            }
        }
        None
    }

    fn forget_gone_waiters(&mut self) {
        self.waiters.retain(|waiter| !waiter.give.is_closed());
    }

    fn forget_lost_peers(&mut self) {
        self.lanes.retain(|lane| {
            let in_use = !lane.ready.is_empty() || lane.carrying.load(Ordering::Relaxed) > 0;
            in_use || lane.seen.elapsed() < REMEMBERED
        });
    }
}

impl Lane {
    fn lose(&mut self, why: &str) {
        self.failures += 1;
        self.last_error = Some(format!("ready link lost: {why}"));
        self.seen = Instant::now();
    }

    fn row(&self, service: &ServiceName, target: usize, starved: bool) -> PoolRow {
        let (ready, carrying) = (self.ready.len(), self.carrying.load(Ordering::Relaxed));
        let state = match ready {
            _ if starved => PoolState::Starved,
            _ if ready >= target => PoolState::Healthy,
            0 if carrying == 0 => PoolState::Down,
            _ => PoolState::Filling,
        };
        PoolRow {
            role: Role::Dmz,
            service: service.to_string(),
            peer: Some(self.peer.label().to_string()),
            address: Some(self.peer.address.to_string()),
            state,
            ready,
            carrying,
            dialling: 0,
            target,
            waiting: 0,
            misses: 0,
            failures: self.failures,
            last_error: self.last_error.clone(),
            retry_seconds: None,
        }
    }
}

/// A waiting client's place in the queue; a client that gives up drops it and is gone from there.
struct Place<'a> {
    pool: &'a Pool,
    key: u64,
    given: oneshot::Receiver<Taken>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.pool.lock().waiters.retain(|waiter| waiter.key != self.key);
    }
}
