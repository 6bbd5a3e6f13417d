//! Sessions over links that the DMZ gateway dials: a SOCKS5 server that knows names of services.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use super::{LinkHold, Negotiated, Reply, Serve};
use crate::{
    link::{
        Peer, Refusal,
        greet::{self, Asked, Greeted},
        listener::{self, Greeter},
        pool::Carrying,
    },
    net::tcp,
    profile::Role,
    telemetry::snapshot::{PoolRow, PoolState},
};

/// A DMZ gateway of ours looks in every 5 s; one that missed three is gone.
const SEEN_WITHIN: Duration = Duration::from_secs(15);
/// A gone one is shown for so long.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Peers in the books at once.
const PEERS_MAX: usize = 256;

/// The DMZ gateways that have dialled in.
#[derive(Debug, Default)]
pub struct Visitors {
    seen: Mutex<Vec<Visitor>>,
}

#[derive(Debug)]
struct Visitor {
    peer: Peer,
    at: Instant,
    carrying: Arc<AtomicUsize>,
}

impl Visitors {
    /// Whether any peer has ever come.
    pub fn any(&self) -> bool {
        !self.lock().is_empty()
    }

    pub fn rows(&self) -> Vec<PoolRow> {
        let mut seen = self.lock();
        let kept = |visitor: &Visitor| {
            visitor.carrying.load(Ordering::Relaxed) > 0 || visitor.at.elapsed() < REMEMBERED
        };
        seen.retain(kept);
        if seen.is_empty() {
            return vec![row(None, PoolState::Down, 0, Some("no DMZ gateway has dialled in"))];
        }
        seen.iter().map(Visitor::row).collect()
    }

    fn note(&self, peer: &Peer) -> Arc<AtomicUsize> {
        let mut seen = self.lock();
        if let Some(visitor) = seen.iter_mut().find(|visitor| visitor.peer == *peer) {
            visitor.at = Instant::now();
            return visitor.carrying.clone();
        }
        if seen.len() >= PEERS_MAX {
            let oldest = (0..seen.len()).min_by_key(|&at| seen[at].at).unwrap_or(0);
            seen.remove(oldest);
        }
        let carrying = Arc::new(AtomicUsize::new(0));
        seen.push(Visitor { peer: peer.clone(), at: Instant::now(), carrying: carrying.clone() });
        carrying
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Visitor>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Visitor {
    fn row(&self) -> PoolRow {
        let carrying = self.carrying.load(Ordering::Relaxed);
        let (state, last_error) = match carrying > 0 || self.at.elapsed() < SEEN_WITHIN {
            true => (PoolState::Healthy, None),
            false => (PoolState::Down, Some("it has not dialled in lately")),
        };
        row(Some(&self.peer), state, carrying, last_error)
    }
}

fn row(peer: Option<&Peer>, state: PoolState, carrying: usize, last_error: Option<&str>) -> PoolRow {
    PoolRow {
        role: Role::Internal,
        service: "*".into(),
        peer: peer.map(|peer| peer.label().to_string()),
        address: peer.map(|peer| peer.address.to_string()),
        state,
        ready: 0,
        carrying,
        dialling: 0,
        target: 0,
        waiting: 0,
        misses: 0,
        failures: 0,
        last_error: last_error.map(Into::into),
        retry_seconds: None,
    }
}

/// Accepts links until `stop`; `links` bounds how many carry at once.
pub async fn run(
    listener: TcpListener,
    greeter: Greeter,
    visitors: Arc<Visitors>,
    links: Arc<Semaphore>,
    serve: Serve,
    stop: CancellationToken,
) {
    let notices = greeter.notices.clone();
    let greeted = move |greeted| {
        let (visitors, links, serve, notices) =
            (visitors.clone(), links.clone(), serve.clone(), notices.clone());
        async move {
            let asked = match greeted {
                Greeted::Seen(peer) => {
                    visitors.note(&peer);
                    return;
                }
                Greeted::Asked(asked) => asked,
            };
            let carrying = Carrying::one(&visitors.note(&asked.peer));
            let Ok(permit) = links.try_acquire_owned() else {
                notices.warn(format!("link from {}: `maximum` links are in use", asked.peer.label()));
                return greet::refuse(asked.stream, Refusal::Unavailable).await;
            };
            serve(negotiated(asked, LinkHold { carrying, permit })).await;
        }
    };
    listener::run(listener, greeter, stop, greeted).await;
}

fn negotiated(asked: Asked, link: LinkHold) -> Negotiated {
    if let Some(stream) = asked.stream.tcp() {
        // Fails only on a socket that is already gone, as the session will find out.
        let _ = tcp::link_carries(stream);
    }
    Negotiated {
        role: Role::Internal,
        stream: asked.stream,
        service: asked.service,
        client: None,
        peer: Some(asked.peer),
        reply: Reply::Socks,
        link: Some(link),
    }
}
