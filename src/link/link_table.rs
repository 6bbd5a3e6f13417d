//! The table of a peer's links, for status: how old each link is, how it is secured, what it is doing. It is locked
//! when a link comes or goes, and read for a snapshot; a link updates its own atomics meanwhile.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{Peer, link_guard::LinkActivity, load::LinkLoad};
use crate::{
    net::stream::{NetStream, TlsDetails},
    proto::{
        multiplex::{self, hello::InstanceId, state::LinkEnd},
        socks5,
    },
    telemetry::{
        log::LogEvent,
        snapshot::{LinkRow, LinkState, PoolRow},
    },
};

/// The id of the newest link.
static LAST_ID: AtomicU64 = AtomicU64::new(0);

/// A number for a new link of this process, from 1.
pub fn next_link_id() -> u64 {
    LAST_ID.fetch_add(1, Ordering::Relaxed) + 1
}

/// The links of one peer.
#[derive(Debug, Default)]
pub struct LinkTable(Mutex<LinkEntries>);

#[derive(Debug, Default)]
struct LinkEntries {
    links: HashMap<u64, Arc<LinkEntry>>,
    /// The newest link that is gone, by its key, and which process was at its other end.
    last: Option<(u64, InstanceId)>,
}

/// A link in the table. The table's lock is taken when a link is added or removed, never for a session.
#[derive(Debug)]
pub struct LinkEntry {
    since: Instant,
    activity: AtomicU8,
    sessions: AtomicU64,
    details: OnceLock<LinkDetails>,
    shared: OnceLock<SharedDetails>,
}

/// Details of a link that carries many sessions.
#[derive(Debug)]
struct SharedDetails {
    id: u64,
    load: Arc<LinkLoad>,
    instance: Option<InstanceId>,
}

#[derive(Debug)]
struct LinkDetails {
    id: u64,
    half: &'static str,
    peer: Arc<str>,
    address: Option<String>,
    secured: Option<TlsDetails>,
}

impl LinkEntry {
    pub fn set_activity(&self, is: LinkActivity) {
        self.activity.store(is as u8, Ordering::Relaxed);
    }

    /// Records that the link carries many sessions. Only the first call counts.
    pub fn describe_shared(&self, id: u64, load: Arc<LinkLoad>, instance: Option<InstanceId>) {
        self.shared.get_or_init(|| SharedDetails { id, load, instance });
    }

    /// The process at its other end, if it has said which one it is.
    fn instance(&self) -> Option<InstanceId> {
        self.shared.get()?.instance
    }

    /// Sessions on it now.
    fn sessions_open(&self) -> usize {
        match self.shared.get() {
            Some(shared) => shared.load.sessions(),
            None => usize::from(self.activity() == LinkActivity::Full),
        }
    }

    fn activity(&self) -> LinkActivity {
        LinkActivity::from_byte(self.activity.load(Ordering::Relaxed))
    }

    pub fn note_session(&self) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
    }

    /// Records what the link runs over, and between whom; `end` is ours. Only the first call counts.
    pub fn describe(&self, key: u64, stream: &NetStream, peer: &Peer, end: LinkEnd) {
        let address = || stream.tcp()?.peer_addr().ok().map(|at| at.to_string());
        self.details.get_or_init(|| {
            let (id, protocol) = match self.shared.get() {
                Some(shared) => (shared.id, multiplex::PROTOCOL_NAME),
                None => (key, socks5::PROTOCOL_NAME),
            };
            let half = match end {
                LinkEnd::Opener => "dmz",
                LinkEnd::Server => "internal",
            };
            let (peer, secured) = (peer.label(), stream.tls_details());
            let about = LinkDetails { id, half, peer, address: address(), secured };
            let tls = about.secured.as_ref().map_or("none", |secured| secured.version.as_str());
            let (peer, address) = (&*about.peer, about.address.as_deref().unwrap_or("?"));
            tracing::debug!(event = %LogEvent::LinkUp, id, "role" = half, peer, address, protocol, tls, "a link is up");
            about
        });
    }

    fn row(&self, key: u64) -> LinkRow {
        let about = self.details.get();
        let secured = about.and_then(|about| about.secured.as_ref());
        let state = match self.activity() {
            LinkActivity::Ready | LinkActivity::NearlyFull => LinkState::Ready,
            LinkActivity::Full => LinkState::Full,
            LinkActivity::Bulk => LinkState::Bulk,
            LinkActivity::Leaving => LinkState::Leaving,
        };
        let segments = self.shared.get().map(|shared| shared.load.segments()).unwrap_or_default();
        LinkRow {
            id: self.shared.get().map_or(key, |shared| shared.id),
            age_seconds: self.since.elapsed().as_secs_f64(),
            state,
            sessions: self.sessions.load(Ordering::Relaxed),
            sessions_open: self.sessions_open(),
            address: about.and_then(|about| about.address.clone()),
            tls: secured.map(|secured| secured.version.clone()),
            group: secured.map(|secured| secured.group.clone()),
            segments_sent: segments.sent,
            segments_resent: segments.resent,
        }
    }
}

impl LinkTable {
    /// Adds a link.
    pub fn add(&self) -> (u64, Arc<LinkEntry>) {
        let entry = Arc::new(LinkEntry {
            since: Instant::now(),
            activity: AtomicU8::new(LinkActivity::Ready as u8),
            sessions: AtomicU64::new(0),
            details: OnceLock::new(),
            shared: OnceLock::new(),
        });
        let key = next_link_id();
        self.lock().links.insert(key, entry.clone());
        (key, entry)
    }

    /// Removes a link.
    pub fn remove(&self, key: u64) {
        let mut entries = self.lock();
        let entry = entries.links.remove(&key);
        let instance = entry.as_ref().and_then(|entry| entry.instance());
        if let Some(instance) = instance
            && entries.last.is_none_or(|(newest, _)| newest < key)
        {
            entries.last = Some((key, instance));
        }
        drop(entries);
        if let Some(about) = entry.as_ref().and_then(|entry| entry.details.get()) {
            let sessions = entry.as_ref().map_or(0, |entry| entry.sessions.load(Ordering::Relaxed));
            let LinkDetails { id, half, peer, address, .. } = about;
            let address = address.as_deref().unwrap_or("?");
            tracing::debug!(event = %LogEvent::LinkDown, id, "role" = half, peer = &**peer, address, sessions, "a link is gone");
        }
    }

    /// The gateways at the other end of links that are not leaving, each with the age of its oldest one.
    pub fn instances(&self) -> Vec<(InstanceId, Duration)> {
        let mut oldest = HashMap::new();
        for link in self.lock().links.values() {
            if let Some(instance) = link.instance().filter(|_| link.activity() != LinkActivity::Leaving) {
                let age = oldest.entry(instance).or_insert(Duration::ZERO);
                *age = link.since.elapsed().max(*age);
            }
        }
        oldest.into_iter().collect()
    }

    /// Adds the links to their row, oldest first, and how long the peer's certificate is still valid.
    pub fn fill_row(&self, row: PoolRow) -> PoolRow {
        self.fill_row_with(row, |_| true)
    }

    /// A copy of the row for each gateway at the other end of links, with its own links and their numbers.
    pub fn rows_by_gateway(&self, row: &PoolRow) -> Vec<PoolRow> {
        let mut gateways: Vec<_> = self.lock().links.values().filter_map(|link| link.instance()).collect();
        gateways.sort_unstable_by_key(|gateway| gateway.0);
        gateways.dedup();
        let row_of = |(at, gateway): (usize, &InstanceId)| {
            // One that has not said where it leads to is with the first.
            let is_of = |link: &LinkEntry| link.instance().map_or(at == 0, |instance| instance == *gateway);
            let own: Vec<_> = self.lock().links.values().filter(|link| is_of(link)).cloned().collect();
            let takes_sessions = |link: &&Arc<LinkEntry>| {
                matches!(link.activity(), LinkActivity::Ready | LinkActivity::NearlyFull)
            };
            let ready = own.iter().filter(takes_sessions).count();
            let peer = own.iter().find_map(|link| Some(link.details.get()?.peer.to_string()));
            let bulk = own.iter().filter(|link| link.activity() == LinkActivity::Bulk).count();
            let filled = self.fill_row_with(row.clone(), is_of);
            PoolRow { peer: peer.or(filled.peer), ready, carrying: own.len() - ready, bulk, ..filled }
        };
        gateways.iter().enumerate().map(row_of).collect()
    }

    fn fill_row_with(&self, row: PoolRow, is_meant: impl Fn(&LinkEntry) -> bool) -> PoolRow {
        let entries = self.lock();
        let meant = entries.links.iter().filter(|(_, entry)| is_meant(entry));
        let mut links: Vec<_> = meant.map(|(key, entry)| (*key, entry.clone())).collect();
        // A peer that is lost is still the process that it was.
        let last = entries.last.filter(|_| links.is_empty()).map(|(_, instance)| instance);
        drop(entries);
        links.sort_unstable_by_key(|(key, _)| *key);
        let expire = links.iter().filter_map(|(_, entry)| entry.details.get()?.secured.as_ref()?.expires);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        let certificate_days = expire.min().map(|at| (at - now).div_euclid(DAY_SECONDS));
        let sessions = links.iter().map(|(_, entry)| entry.sessions_open()).sum();
        // From the newest link, in case another process has started at the same address.
        let instance = links.iter().rev().find_map(|(_, entry)| entry.instance());
        let instance = instance.or(last).map(|instance| instance.to_string()).or(row.instance);
        let key_exchange = links.iter().rev().find_map(|(_, entry)| {
            Some(entry.details.get()?.secured.as_ref()?.group.clone()).filter(|group| !group.is_empty())
        });
        let key_exchange = key_exchange.or(row.key_exchange);
        let links = links.iter().take(ROWS_MAX).map(|(key, entry)| entry.row(*key)).collect();
        PoolRow { links, sessions, instance, key_exchange, certificate_days, ..row }
    }

    fn lock(&self) -> MutexGuard<'_, LinkEntries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const DAY_SECONDS: i64 = 86_400;
/// How many links of each peer are listed.
const ROWS_MAX: usize = 64;
