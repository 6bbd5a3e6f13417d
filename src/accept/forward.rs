//! Sessions over links that the DMZ gateway dials: links of our own that it keeps ready, or one for
//! each session from a SOCKS5 client that names a service.

use std::{
    cmp::Reverse,
    future::poll_fn,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::time::timeout;

use super::{Negotiated, Reply, Serve};
use crate::{
    link::{
        GREET, Peer,
        course::AT_MAXIMUM,
        framed::{Event, Link},
        goodbye::Goodbye,
        greet::{self, Asked, Greeted, Linked},
        lane::{LOST_MAX, REMEMBERED},
        leg::Leg,
        listener::{self, Greeter, Greeting},
        seat::{Counts, Seat},
        serving::{Loss, Server},
        shares::LinkShares,
    },
    net::{listen::Listener, tcp},
    profile::Role,
    proto::{
        Refusal,
        link::{
            WIRE, WIRE_SOCKS,
            frame::{Kind, refusal_byte},
        },
    },
    telemetry::{
        rate_limited::LogKind,
        snapshot::{PoolRow, PoolState},
    },
};

/// A DMZ gateway of ours looks in every 5 s; one that missed three is gone.
const SEEN_WITHIN: Duration = Duration::from_secs(15);
/// One that dials for each session keeps no links, and is shown for so long.
const GLIMPSED: Duration = Duration::from_secs(60);
/// Peers in the books at once.
const PEERS_MAX: usize = 256;

/// The DMZ gateways that have dialled in.
#[derive(Debug, Default)]
pub struct Visitors {
    seen: Mutex<Vec<Visitor>>,
    has_had_some: AtomicBool,
}

#[derive(Debug)]
struct Visitor {
    peer: Peer,
    at: Instant,
    counts: Arc<Counts>,
    wire: Option<&'static str>,
    last_error: Option<String>,
    goodbye: Goodbye,
}

impl Visitors {
    /// Whether any peer has ever come.
    pub fn any(&self) -> bool {
        !self.lock().is_empty()
    }

    pub fn rows(&self) -> Vec<PoolRow> {
        let mut seen = self.lock();
        let before = seen.len();
        forget(&mut seen);
        if seen.len() < before {
            self.has_had_some.store(true, Ordering::Relaxed);
        }
        if seen.is_empty() {
            let why = match self.has_had_some.load(Ordering::Relaxed) {
                false => "no DMZ gateway has dialled in",
                true => "no DMZ gateway has a link; those that had one left in good order",
            };
            let last_error = Some(why.into());
            return vec![PoolRow { last_error, ..PoolRow::new(Role::Internal, "*".into()) }];
        }
        seen.iter().map(Visitor::row).collect()
    }

    /// A peer has shown itself.
    fn note(&self, peer: &Peer, wire: Option<&'static str>) -> Arc<Counts> {
        let mut seen = self.lock();
        if let Some(visitor) = seen.iter_mut().find(|visitor| visitor.peer == *peer) {
            visitor.at = Instant::now();
            visitor.wire = wire.or(visitor.wire);
            visitor.last_error = None;
            visitor.goodbye.is_here();
            return visitor.counts.clone();
        }
        if seen.len() >= PEERS_MAX {
            // Of the gateway that has come from the most addresses.
            let of_same =
                |at: usize| seen.iter().filter(|it| it.peer.is_same_gateway(&seen[at].peer)).count();
            let first = (0..seen.len()).min_by_key(|&at| (Reverse(of_same(at)), seen[at].at));
            seen.remove(first.unwrap_or(0));
        }
        let counts = Arc::new(Counts::default());
        let visitor = Visitor {
            peer: peer.clone(),
            at: Instant::now(),
            counts: counts.clone(),
            wire,
            last_error: None,
            goodbye: Goodbye::default(),
        };
        seen.push(visitor);
        counts
    }

    /// A ready link of a peer's has ended.
    pub fn lost(&self, peer: &Peer, loss: &Loss) {
        let mut seen = self.lock();
        if let Some(visitor) = seen.iter_mut().find(|visitor| visitor.peer == *peer) {
            visitor.at = Instant::now();
            let is_last = !visitor.is_here();
            match loss {
                Loss::Retired => visitor.goodbye.retires(is_last),
                Loss::Drained => visitor.goodbye.drains(),
                Loss::Failed(_) => visitor.goodbye.fails(),
            }
            visitor.last_error = match loss {
                Loss::Retired => None,
                Loss::Drained => Some("it drains".into()),
                Loss::Failed(why) => Some(format!("ready link lost: {why}")),
            };
        }
    }

    /// Forgets lost peers of this name or address; how many.
    pub fn dismiss(&self, name: &str) -> usize {
        let mut seen = self.lock();
        let before = seen.len();
        let is_meant = |peer: &Peer| *peer.label() == *name || *peer.address == *name;
        seen.retain(|visitor| visitor.is_here() || !is_meant(&visitor.peer));
        before - seen.len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Visitor>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Visitor {
    fn is_here(&self) -> bool {
        self.counts.ready() + self.counts.carrying() > 0
    }

    /// How long it has been lost: it kept links, and said no goodbye.
    fn lost(&self) -> Option<Duration> {
        let keeps_links = self.wire == Some(WIRE) && !self.goodbye.is_said();
        self.counts.gone().filter(|_| keeps_links)
    }

    fn is_remembered(&self) -> bool {
        let has_left = self.goodbye.is_said() && self.counts.links() == 0;
        match self.lost() {
            Some(lost) => lost < REMEMBERED,
            None => self.is_here() || !has_left && self.at.elapsed() < GLIMPSED,
        }
    }

    fn row(&self) -> PoolRow {
        let is_own = self.wire == Some(WIRE);
        let looks_in = !is_own && self.at.elapsed() < SEEN_WITHIN;
        let (state, last_error) = match self.is_here() || looks_in {
            true => (PoolState::Healthy, None),
            false if is_own => (PoolState::Down, Some(self.last_error.clone().unwrap_or("no link".into()))),
            false => (PoolState::Down, Some("it has not dialled in lately".into())),
        };
        PoolRow {
            peer: Some(self.peer.label().to_string()),
            address: Some(self.peer.address.to_string()),
            state,
            ready: self.counts.ready(),
            carrying: self.counts.carrying(),
            last_error,
            wire: self.wire.map(Into::into),
            ..PoolRow::new(Role::Internal, "*".into())
        }
        .with_links(&self.counts)
    }
}

/// Those who have said goodbye, and the longest lost where there are too many of them.
fn forget(seen: &mut Vec<Visitor>) {
    seen.retain(Visitor::is_remembered);
    while seen.iter().filter(|visitor| visitor.lost().is_some()).count() > LOST_MAX {
        let longest = (0..seen.len()).max_by_key(|&at| seen[at].lost());
        longest.into_iter().for_each(|at| drop(seen.remove(at)));
    }
}

/// Accepts links until the port is closed; `links` bounds how many there are.
pub async fn run(
    listener: Arc<Listener>,
    greeter: Greeter,
    visitors: Arc<Visitors>,
    server: Arc<Server>,
    links: Arc<LinkShares>,
    serve: Serve,
) {
    let notices = greeter.notices.clone();
    let greeted = move |greeted, greeting: Greeting| {
        let (visitors, server, links) = (visitors.clone(), server.clone(), links.clone());
        let (serve, notices) = (serve.clone(), notices.clone());
        async move {
            match greeted {
                Greeted::Seen(peer) => drop(visitors.note(&peer, None)),
                Greeted::Linked(Linked { mut link, .. }) => {
                    let counts = visitors.note(link.peer(), Some(WIRE));
                    let Some(place) = links.take(&link.peer().label()) else {
                        notices.warn_limited(
                            LogKind::LinkRejected,
                            format!("link from {}: {AT_MAXIMUM}", link.peer().label()),
                        );
                        return turn_away(link).await;
                    };
                    link.sit(Seat::ready(&counts, Some(place)));
                    server.stands(link);
                }
                Greeted::Asked(asked) => {
                    let counts = visitors.note(&asked.peer, Some(WIRE_SOCKS));
                    let Some(place) = links.take(&asked.peer.label()) else {
                        notices.warn_limited(
                            LogKind::LinkRejected,
                            format!("link from {}: {AT_MAXIMUM}", asked.peer.label()),
                        );
                        return greet::refuse(asked.stream, Refusal::Full).await;
                    };
                    let seat = Seat::carrying(&counts, Some(place)).of(&asked.stream);
                    drop(greeting);
                    serve(negotiated(asked, seat)).await;
                }
            }
        }
    };
    listener::run(listener, greeter, greeted).await;
}

/// Lets a link go that is one too many; a session that is on its way already hears why.
async fn turn_away(mut link: Box<Link>) {
    let told = async {
        link.stage_leave(Kind::Retire)?;
        poll_fn(|cx| link.poll_flush(cx)).await?;
        loop {
            match poll_fn(|cx| link.poll_event(cx)).await? {
                Event::Open(_) => return link.stage(Kind::Refused, &[refusal_byte(Refusal::Full)]),
                Event::Leaving(_) => {}
                Event::Closed => return Ok(()),
            }
        }
    };
    if matches!(timeout(GREET, told).await, Ok(Ok(()))) {
        greet::part(link).await;
    }
}

fn negotiated(asked: Asked, seat: Seat) -> Negotiated {
    if let Some(stream) = asked.stream.tcp() {
        // Fails only on a socket that is already gone, as the session will find out.
        let _ = tcp::link_carries(stream);
    }
    Negotiated {
        role: Role::Internal,
        leg: Leg::Stream(asked.stream),
        service: asked.service,
        id: None,
        client: None,
        peer: Some(asked.peer),
        reply: Reply::Socks,
        said: Vec::new(),
        seat: Some(seat),
        probe: false,
        teller: None,
        rest: None,
    }
}
