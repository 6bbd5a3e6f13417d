//! Keeps links to one gateway dialled, whichever half dials and whatever the far side speaks.
//!
//! By reconciliation: on every event and on a timer it compares what is ready and under way with
//! what is wanted, and dials what is missing, several at once. A failed dial shrinks nothing, since
//! nothing is owed. After a failure it pauses, and dials one link until one stands; the way is good
//! again when a link has lived for [`LIVED`] or carried a session, since a far side may take links
//! and let each go. What the far side speaks shows with the first link: links of our own are for any service, SOCKS5 ones are
//! parked for one service each, or, where this half opens, dialled for one session each.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    course::{Course, Failure, Lasts},
    demand::Demand,
    greet::{self, Linked, Reached, Terms},
    seat::{Counts, Seat},
    serving::Loss,
    shares::{LinkPlace, LinkShares},
};
use crate::{
    net::tls::Identity,
    profile::{LinkAddress, Retry, Role, ServiceName},
    proto::link::{WIRE, WIRE_SOCKS},
    tasks::Tasks,
    telemetry::{notices::Notices, snapshot::PoolRow},
};

mod notices;

use notices::why_unused;

/// A keeper looks again at least this often, whatever events it has seen.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A link that was ready for so long shows that the way is good: a loss starts no pause.
pub const LIVED: Duration = Duration::from_secs(1);
/// A SOCKS5 gateway that is dialled for each session is looked in on this often.
const LOOK_IN: Duration = Duration::from_secs(5);

/// How many links a keeper keeps, and how it goes on after a failure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wanted {
    pub prepared: usize,
    pub retry: Retry,
}

/// What the keepers of one half share.
#[derive(Clone)]
pub struct Shared {
    pub role: Role,
    pub identity: Arc<ArcSwap<Option<Identity>>>,
    /// Links in all, ready or carrying.
    pub links: Arc<LinkShares>,
    pub tasks: Tasks,
    pub notices: Arc<Notices>,
}

/// What becomes of the links that a keeper dials.
pub trait Uses: Send + Sync {
    fn terms(&self) -> Terms;

    /// The two ends of a link of our own have told each other all.
    fn heard(&self, linked: &Linked);

    /// A link of our own stands, and is counted already.
    fn linked(&self, keeper: &Keeper, linked: Linked);

    /// The services that SOCKS5 links are parked for; empty where each session dials its own.
    fn parks(&self) -> Vec<ServiceName>;

    /// A SOCKS5 link stands up to its TLS; from here to its end.
    fn socks(&self, keeper: Arc<Keeper>, dialled: Dialled) -> BoxFuture<'static, ()>;
}

/// A SOCKS5 link that has just been dialled.
pub struct Dialled {
    pub reached: Reached,
    /// What it is to be parked for.
    pub service: Option<ServiceName>,
    pub place: LinkPlace,
    /// Counts it as dialling until it stands or fails.
    pub under_way: Dialling,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    Own,
    Socks,
}

pub struct Keeper {
    gateway: LinkAddress,
    /// Of the gateway, by its address: it is this half that has chosen it.
    name: Arc<str>,
    shared: Shared,
    uses: Arc<dyn Uses>,
    books: Mutex<Books>,
    changed: Arc<Notify>,
    retired: CancellationToken,
    stop_dialling: CancellationToken,
}

struct Books {
    wanted: Wanted,
    /// Links in all that the far side takes.
    links_max: usize,
    wire: Option<Wire>,
    /// By the service they are ready for; `None`: for any.
    lanes: BTreeMap<Option<ServiceName>, Course>,
    demand: Demand,
    peer: Option<Arc<str>>,
    /// What its links are granted for, by name.
    granted: Vec<String>,
    /// What its links are not used for, and why.
    refused: Vec<String>,
    /// The first service that the far side carries otherwise.
    unlike: Option<String>,
}

impl Keeper {
    /// Starts to keep links dialled; `uses` is made with the keeper that it will belong to.
    pub fn start(
        gateway: LinkAddress,
        wanted: Wanted,
        shared: Shared,
        uses: impl FnOnce(Weak<Self>) -> Arc<dyn Uses>,
    ) -> Arc<Self> {
        let books = Books {
            wanted,
            links_max: usize::MAX,
            // A plain link speaks SOCKS5 only.
            wire: (!gateway.tls).then_some(Wire::Socks),
            lanes: BTreeMap::new(),
            demand: Demand::new(Instant::now()),
            peer: None,
            granted: Vec::new(),
            refused: Vec::new(),
            unlike: None,
        };
        let keeper = Arc::new_cyclic(|weak| Self {
            name: gateway.to_string().into(),
            gateway,
            shared,
            uses: uses(weak.clone()),
            books: Mutex::new(books),
            changed: Arc::default(),
            retired: CancellationToken::new(),
            stop_dialling: CancellationToken::new(),
        });
        keeper.shared.tasks.spawn("keeper", keeper.clone().run());
        keeper
    }

    /// Wants something else from now on, of the same gateway.
    pub fn update(&self, wanted: Wanted) {
        let mut books = self.lock();
        books.wanted = wanted;
        books.lanes.values_mut().for_each(|lane| lane.shorten_pause(wanted.retry));
        drop(books);
        self.look_again();
    }

    /// Wants so many ready from now on.
    pub fn resize(&self, prepared: usize) {
        self.lock().wanted.prepared = prepared;
        self.look_again();
    }

    /// Links in all that the far side takes, as far as is known.
    pub fn links_max(&self) -> usize {
        self.lock().links_max
    }

    /// Dials no more; links that are ready stay until [`Keeper::retire`].
    pub fn stop_dialling(&self) {
        self.stop_dialling.cancel();
    }

    /// Ends, and with it every parked SOCKS5 link. Sessions go on.
    pub fn retire(&self) {
        self.stop_dialling.cancel();
        self.retired.cancel();
    }

    /// Cancelled when the links of a service are not wanted any more.
    pub fn retired(&self, service: Option<&ServiceName>) -> CancellationToken {
        self.lane(&mut self.lock(), service).retired.clone()
    }

    /// What it is used for has changed.
    pub fn look_again(&self) {
        let parks = self.uses.parks();
        let is_kept = |service: &ServiceName| parks.contains(service);
        self.lock().lanes.retain(|service, lane| {
            let kept = service.as_ref().is_none_or(is_kept);
            if !kept {
                lane.retired.cancel();
            }
            kept
        });
        self.changed.notify_one();
    }

    /// A place for a link that is dialled for one session.
    pub fn place(&self) -> Option<LinkPlace> {
        self.shared.links.take(&self.name)
    }

    pub fn gateway(&self) -> &LinkAddress {
        &self.gateway
    }

    pub fn identity(&self) -> Arc<Option<Identity>> {
        self.shared.identity.load_full()
    }

    /// Whether the far side speaks SOCKS5, as far as is known.
    pub fn speaks_socks(&self) -> bool {
        self.lock().wire == Some(Wire::Socks)
    }

    /// Whether the last dial failed.
    pub fn is_down(&self) -> bool {
        self.lane(&mut self.lock(), None).last_error.is_some()
    }

    /// Whether new sessions of a service can come this way: enough links are ready, or sessions
    /// come already, and under load a pool may never be seen full.
    pub fn can_serve(&self, service: Option<&ServiceName>) -> bool {
        let mut books = self.lock();
        let prepared = books.wanted.prepared;
        let parks = self.uses.parks();
        match (books.wire, service) {
            (None, _) => false,
            (Some(Wire::Own), _) => self.lane(&mut books, None).has_enough(prepared),
            (Some(Wire::Socks), _) if parks.is_empty() => self.lane(&mut books, None).is_good(),
            (Some(Wire::Socks), Some(_)) => self.lane(&mut books, service).has_enough(prepared),
            (Some(Wire::Socks), None) => {
                parks.iter().all(|service| self.lane(&mut books, Some(service)).has_enough(prepared))
            }
        }
    }

    /// The links of one service, or of any, counted.
    pub fn counts(&self, service: Option<&ServiceName>) -> Arc<Counts> {
        self.lane(&mut self.lock(), service).counts.clone()
    }

    /// A row for each kind of link it keeps.
    pub fn rows(&self) -> Vec<PoolRow> {
        let mut books = self.lock();
        let services: Vec<_> = match books.wire {
            Some(Wire::Socks) => self.uses.parks().into_iter().map(Some).collect(),
            None | Some(Wire::Own) => Vec::new(),
        };
        if services.is_empty() {
            return vec![self.row(&mut books, None)];
        }
        services.into_iter().map(|service| self.row(&mut books, service)).collect()
    }

    fn row(&self, books: &mut Books, service: Option<ServiceName>) -> PoolRow {
        let target = self.target(books, service.as_ref());
        let wire = books.wire.map(|wire| match wire {
            Wire::Own => WIRE.into(),
            Wire::Socks => WIRE_SOCKS.into(),
        });
        let peer = books.peer.as_ref().map(ToString::to_string);
        let name = service.as_ref().map_or_else(|| "*".into(), ToString::to_string);
        let row = PoolRow {
            peer,
            address: Some(self.gateway.to_string()),
            target,
            wire,
            serves: if books.wire == Some(Wire::Own) { books.granted.clone() } else { Vec::new() },
            ..PoolRow::new(self.shared.role, name)
        };
        let unlike = books.unlike.clone();
        let row = self.lane(books, service.as_ref()).show(row);
        PoolRow { last_error: row.last_error.or(unlike), ..row }
    }

    /// Ready links wanted now.
    fn target(&self, books: &Books, service: Option<&ServiceName>) -> usize {
        let wanted = books.wanted.prepared;
        match (books.wire, service) {
            (Some(Wire::Socks), None) => 0,
            (Some(Wire::Own), None) => books.demand.ready(wanted),
            _ => wanted,
        }
    }

    async fn run(self: Arc<Self>) {
        loop {
            let pause = self.reconcile();
            tokio::select! {
                () = self.stop_dialling.cancelled() => return,
                () = self.changed.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Starts the dials that are missing; how long until there is reason to look again.
    fn reconcile(self: &Arc<Self>) -> Duration {
        let mut books = self.lock();
        self.adapt(&mut books, Instant::now());
        let parks = self.uses.parks();
        let lanes: Vec<_> = match books.wire {
            Some(Wire::Socks) if !parks.is_empty() => parks.into_iter().map(Some).collect(),
            Some(_) | None => vec![None],
        };
        let pauses = lanes.into_iter().map(|service| {
            self.judge(&mut books, service.as_ref());
            self.dial_missing(&mut books, service)
        });
        pauses.min().unwrap_or(LOOK_AGAIN)
    }

    /// What its links have shown of the way since the last look.
    fn judge(&self, books: &mut Books, service: Option<&ServiceName>) {
        let (retry, now) = (books.wanted.retry, Instant::now());
        let lane = self.lane(books, service);
        let proven = lane.prove(now);
        let broken = lane.counts.take_broken();
        let is_first = broken.as_ref().is_some_and(|error| lane.failed(error, Failure::Protocol, retry, now));
        if let Some(failures) = proven {
            self.tell_proven(service, failures);
        }
        if let Some(error) = broken {
            self.tell_failed(service, &error, Failure::Protocol, is_first);
        }
    }

    /// Follows the demand, and lets go of what is too much.
    fn adapt(&self, books: &mut Books, now: Instant) {
        if books.wire == Some(Wire::Own) {
            let counts = self.lane(books, None).counts.clone();
            books.demand.arrived(counts.opened(), now);
            let target = self.target(books, None);
            // A quarter more is no reason to close links that may be wanted again.
            counts.set_surplus(counts.ready().saturating_sub(target + target / 4));
        }
    }

    fn dial_missing(self: &Arc<Self>, books: &mut Books, service: Option<ServiceName>) -> Duration {
        let wanted = match books.wire {
            // One, to learn what the far side speaks; or to look in.
            None => 1,
            Some(Wire::Socks) if service.is_none() => 1,
            Some(_) => self.target(books, service.as_ref()),
        };
        let room = books.links_max.saturating_sub(books.links());
        let kept = books.wanted;
        let lasts = if books.wire == Some(Wire::Socks) { Lasts::OneSession } else { Lasts::Long };
        let lane = self.lane(books, service.as_ref());
        let now = Instant::now();
        if let Some(pause) = lane.pause(now) {
            return pause.min(LOOK_AGAIN);
        }
        let missing = lane.missing(wanted);
        lane.at_maximum = missing > room;
        for _ in 0..missing.min(room) {
            let Some(place) = self.shared.links.take(&self.name) else {
                lane.at_maximum = true;
                break;
            };
            if !lane.may_dial(Wanted { prepared: wanted, ..kept }, lasts, now) {
                break;
            }
            lane.dialling += 1;
            self.shared.tasks.spawn("dialled link", self.clone().link(service.clone(), place));
        }
        LOOK_AGAIN
    }

    /// One link from its dial to where it is used.
    async fn link(self: Arc<Self>, service: Option<ServiceName>, place: LinkPlace) {
        let under_way = Dialling { keeper: self.clone(), service: service.clone() };
        let began = Instant::now();
        let terms = self.uses.terms();
        let holds = terms.epoch.holds();
        let identity = self.identity();
        let dialled = greet::dial(&self.gateway, identity.as_ref().as_ref());
        let Some(dialled) = self.retired.run_until_cancelled(dialled).await else { return };
        let reached = match dialled {
            Ok(reached) => reached,
            Err(error) => return self.failed(service.as_ref(), error.to_string(), Failure::Way),
        };
        let is_own = greet::speaks_our_own(&reached.stream);
        self.learn(if is_own { Wire::Own } else { Wire::Socks });
        if is_own {
            let hello = greet::hello(reached, &terms.says, holds);
            let Some(linked) = self.retired.run_until_cancelled(hello).await else { return };
            return match linked {
                Ok(linked) => self.link_own(linked, place, began).await,
                Err(error) => self.failed(None, error.to_string(), Failure::Way),
            };
        }
        let parks = self.uses.parks();
        let service = service.or_else(|| parks.first().cloned());
        let uses = self.uses.clone();
        uses.socks(self, Dialled { reached, service, place, under_way }).await;
    }

    async fn link_own(&self, mut linked: Linked, place: LinkPlace, began: Instant) {
        self.uses.heard(&linked);
        if linked.grant.services.is_empty() {
            let why = why_unused(&linked);
            self.failed(None, why, Failure::Way);
            return greet::part(linked.link).await;
        }
        let peer = linked.link.peer().label();
        self.tell_refused(&linked);
        linked.link.sit(Seat::ready(&self.counts(None), Some(place)));
        {
            let mut books = self.lock();
            books.demand.dialled(began.elapsed());
            books.granted = linked.grant.services.iter().map(ToString::to_string).collect();
            books.granted.sort_unstable();
            books.links_max = match self.shared.role {
                Role::Internal => linked.grant.links,
                Role::Dmz => linked.offer.maximum,
            }
            .max(1);
        }
        self.stands(None, &peer);
        self.uses.linked(self, linked);
    }

    fn learn(&self, wire: Wire) {
        let mut books = self.lock();
        if books.wire != Some(wire) {
            books.wire = Some(wire);
            drop(books);
            self.changed.notify_one();
        }
    }

    /// A link stands, for a service or for any.
    pub fn stands(&self, service: Option<&ServiceName>, peer: &Arc<str>) {
        let mut books = self.lock();
        books.peer = Some(peer.clone());
        self.lane(&mut books, service).stands(Instant::now());
        drop(books);
        self.changed.notify_one();
    }

    /// Runs the session of a link that is nobody's to retire any more.
    pub fn spawn_session(&self, session: BoxFuture<'static, ()>) {
        self.shared.tasks.spawn("session", session);
    }

    /// A gateway that each session dials was reached: it is looked in on later.
    pub fn reached(&self, peer: &Arc<str>) {
        self.stands(None, peer);
        let failures = {
            let mut books = self.lock();
            let lane = self.lane(&mut books, None);
            lane.look_in = Some(Instant::now() + LOOK_IN);
            lane.proven()
        };
        self.tell_proven(None, failures);
    }

    /// An idle link has ended.
    pub fn lost(&self, service: Option<&ServiceName>, stood: Duration, loss: Loss) {
        if loss == Loss::Drained {
            self.lane(&mut self.lock(), service).goodbye.drains();
        }
        match loss {
            Loss::Retired => self.changed.notify_one(),
            Loss::Drained => {
                self.failed(service, "it drains, and takes no links now".into(), Failure::Drains)
            }
            Loss::Failed(why) => {
                // What breaks the protocol is a failure, however long it has stood.
                let is_broken = self.lane(&mut self.lock(), service).counts.take_broken().is_some();
                let failure = match is_broken {
                    true => Failure::Protocol,
                    false if stood >= LIVED => Failure::Link,
                    false => Failure::Way,
                };
                self.failed(service, format!("ready link lost: {why}"), failure);
            }
        }
    }

    /// A dial or a ready link has failed.
    pub fn failed(&self, service: Option<&ServiceName>, error: String, failure: Failure) {
        let mut books = self.lock();
        let (retry, now) = (books.wanted.retry, Instant::now());
        let lane = self.lane(&mut books, service);
        let proven = lane.prove(now);
        let is_first = lane.failed(&error, failure, retry, now);
        drop(books);
        self.tell_proven(service, proven.unwrap_or_default());
        self.tell_failed(service, &error, failure, is_first);
        self.changed.notify_one();
    }

    fn lane<'a>(&self, books: &'a mut Books, service: Option<&ServiceName>) -> &'a mut Course {
        let new = || Course::new(Counts::telling(self.changed.clone()), self.retired.child_token());
        books.lanes.entry(service.cloned()).or_insert_with(new)
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    /// Links in all, those under way included.
    fn links(&self) -> usize {
        let of = |lane: &Course| lane.counts.links() + lane.dialling;
        self.lanes.values().map(of).sum()
    }
}

/// Counts a dial as under way until it is dropped.
pub struct Dialling {
    keeper: Arc<Keeper>,
    service: Option<ServiceName>,
}

impl Drop for Dialling {
    fn drop(&mut self) {
        if let Some(lane) = self.keeper.lock().lanes.get_mut(&self.service) {
            // A lane may have been made anew meanwhile.
            lane.dialling = lane.dialling.saturating_sub(1);
        }
        self.keeper.changed.notify_one();
    }
}
