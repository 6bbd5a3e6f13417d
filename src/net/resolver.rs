//! Name look-ups. They may take as long as they like, since they run on threads of their own.
//!
//! A name is looked up once for everybody who asks at the same time, and its last answer stays in use while a
//! new one is missing or is an error. So a name server that is down affects only names that were never
//! resolved. There are few threads, and one zone (or all names that were slow before) may occupy only part of
//! them: a zone that does not answer takes nothing from the others. The caller decides how long to wait.

use std::{
    collections::{HashMap, VecDeque},
    fmt, io,
    net::{IpAddr, SocketAddr, SocketAddrV6, ToSocketAddrs},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::net::netdevice::name_to_index;
use socket2::{Domain, Socket, Type};
use tokio::{sync::watch, time::timeout_at};

use super::resolve_error::ResolveError;
use crate::{profile::HostPort, tasks};

/// All clients that arrive within this time share one look-up.
const CACHE_TTL: Duration = Duration::from_secs(1);
/// How long a new answer is waited for if there is an old one, from when it was requested.
const STALE_ANSWER_DELAY: Duration = Duration::from_millis(300);
/// A look-up that took longer counts among the late ones the next time.
const SLOW_LOOKUP_DELAY: Duration = Duration::from_secs(1);
/// How many look-ups run at once. A thread that waits for a name server costs about 30 KiB.
const THREADS_MAX: usize = 256;
/// How many of them may be for one zone.
const OF_ZONE_MAX: usize = 64;
/// How many of them may be for names that were late the last time.
const LATE_MAX: usize = 64;
/// The stack that the C library and its modules need, with room to spare.
const STACK: usize = 512 * 1024;
/// How many names are remembered; even the largest profile dials fewer.
const NAMES_MAX: usize = 4096;
/// How many addresses of one name are used.
const ADDRESSES_MAX: usize = 64;

/// Resolved with port 0.
type ResolvedAddresses = Arc<[SocketAddr]>;
type LookupResult = Result<ResolvedAddresses, ResolveError>;
type ResolveFn = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// Looks names up and remembers the answers.
#[derive(Clone)]
pub struct NameResolver {
    resolve: Arc<ResolveFn>,
    /// How long an answer is used before the name is looked up again.
    fresh: Duration,
    table: Arc<Mutex<NameTable>>,
}

impl fmt::Debug for NameResolver {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("NameResolver")
    }
}

#[derive(Default)]
struct NameTable {
    names: HashMap<String, NameEntry>,
    /// Names whose look-up has yet to begin.
    queue: VecDeque<String>,
    running: usize,
    slow: usize,
    of_zones: HashMap<String, usize>,
}

struct NameEntry {
    asked_at: Instant,
    last: Option<(ResolvedAddresses, Instant)>,
    /// It was already reported that the last answer is used although a new one was wanted.
    is_reported: bool,
    was_late: bool,
    under_way: Option<RunningLookup>,
}

struct RunningLookup {
    asked_at: Instant,
    answer: watch::Sender<Option<LookupResult>>,
}

/// The state of a name when it is requested.
enum LookupState {
    Known(ResolvedAddresses),
    Running { since: Instant, answer: watch::Receiver<Option<LookupResult>>, last: Option<ResolvedAddresses> },
}

impl NameResolver {
    /// The resolver of this host, as its system is set up.
    pub fn system() -> &'static Self {
        static OF_HOST: LazyLock<NameResolver> =
            LazyLock::new(|| NameResolver::new(|host| Ok((host, 0).to_socket_addrs()?.collect())));
        &OF_HOST
    }

    pub fn new(resolve: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Self {
        Self { resolve: Arc::new(resolve), fresh: CACHE_TTL, table: Arc::default() }
    }

    /// The addresses of `at`, at least one. This may take forever: who calls it sets a deadline, as `net::dial` does
    /// for a connection and `ResolvedNames::look_up` for ports.
    pub async fn resolve(&self, at: &HostPort) -> Result<Vec<SocketAddr>, ResolveError> {
        if let Some(literal) = literal_address(at) {
            return Ok(vec![literal?]);
        }
        let answer = match self.start_lookup(&at.host) {
            LookupState::Known(known) => Ok(known),
            LookupState::Running { answer, last: None, .. } => await_lookup(answer).await,
            LookupState::Running { since, answer, last: Some(last) } => {
                match timeout_at((since + STALE_ANSWER_DELAY).into(), await_lookup(answer)).await {
                    Ok(Ok(new)) => Ok(new),
                    Ok(Err(error)) => Ok(self.fall_back(&at.host, last, &error.to_string())),
                    Err(_) => Ok(self.fall_back(&at.host, last, "no answer yet")),
                }
            }
        };
        Ok(with_port(&answer?, at.port))
    }

    fn fall_back(&self, host: &str, last: ResolvedAddresses, why: &str) -> ResolvedAddresses {
        let mut table = self.lock();
        if let Some(name) = table.names.get_mut(host).filter(|name| !name.is_reported) {
            name.is_reported = true;
            let age = name.last.as_ref().map_or(0, |(_, at)| at.elapsed().as_secs());
            tracing::warn!(
                event = "name_stale",
                name = host,
                "look-up: {why}; the addresses of {age}s ago are used"
            );
        }
        last
    }

    /// Begins a look-up, unless one is under way or the last answer is fresh.
    fn start_lookup(&self, host: &str) -> LookupState {
        let mut table = self.lock();
        let now = Instant::now();
        table.make_room(host);
        let name = table.names.entry(host.to_owned()).or_insert_with(|| NameEntry {
            asked_at: now,
            last: None,
            is_reported: false,
            was_late: false,
            under_way: None,
        });
        name.asked_at = now;
        let last = name.last.as_ref().map(|(addresses, at)| (addresses.clone(), *at));
        if let Some((addresses, at)) = &last
            && at.elapsed() < self.fresh
        {
            return LookupState::Known(addresses.clone());
        }
        let last = last.map(|(addresses, _)| addresses);
        if let Some(RunningLookup { asked_at, answer }) = &name.under_way {
            return LookupState::Running { since: *asked_at, answer: answer.subscribe(), last };
        }
        let (sender, answer) = watch::channel(None);
        name.under_way = Some(RunningLookup { asked_at: now, answer: sender });
        table.queue.push_back(host.to_owned());
        self.start_queued(&mut table);
        LookupState::Running { since: now, answer, last }
    }

    /// Starts the queued look-ups that may run.
    fn start_queued(&self, table: &mut NameTable) {
        while let Some(host) = table.start_next_queued() {
            let names = self.clone();
            let look_up = {
                let host = host.clone();
                move || {
                    let began = Instant::now();
                    let found = (names.resolve)(&host);
                    let mut table = names.lock();
                    table.finish(&host, found, began.elapsed());
                    names.start_queued(&mut table);
                }
            };
            if let Err(error) = tasks::spawn_small_thread("look-up", STACK, look_up) {
                table.finish(&host, Err(error), Duration::ZERO);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, NameTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn with_port(addresses: &[SocketAddr], port: u16) -> Vec<SocketAddr> {
    let mut addresses = addresses.to_vec();
    addresses.iter_mut().for_each(|address| address.set_port(port));
    addresses
}

/// Waits for a look-up. One that never begins, because its name was dropped, is an error.
async fn await_lookup(mut answer: watch::Receiver<Option<LookupResult>>) -> LookupResult {
    let answer = answer.wait_for(Option::is_some).await.map_err(|_| ResolveError::TooMany)?;
    answer.clone().unwrap_or(Err(ResolveError::TooMany))
}

impl NameTable {
    /// Forgets the name that was requested longest ago, if there are too many.
    fn make_room(&mut self, host: &str) {
        if self.names.len() < NAMES_MAX || self.names.contains_key(host) {
            return;
        }
        let idle = self.names.iter().filter(|(_, name)| name.under_way.is_none());
        if let Some(oldest) = idle.min_by_key(|(_, name)| name.asked_at).map(|(host, _)| host.clone()) {
            self.names.remove(&oldest);
        } else if let Some(waiting) = self.queue.pop_front() {
            self.names.remove(&waiting);
        }
    }

    /// The first queued name whose look-up may begin, counted as running.
    fn start_next_queued(&mut self) -> Option<String> {
        if self.running >= THREADS_MAX {
            return None;
        }
        let Self { names, queue, of_zones, slow, .. } = self;
        // Nobody waits for them any more, so they are not worth a thread.
        queue.retain(|host| {
            let is_wanted = |under_way: &RunningLookup| under_way.answer.receiver_count() > 0;
            let name = names.get_mut(host);
            let wanted = name.as_ref().and_then(|name| name.under_way.as_ref()).is_some_and(is_wanted);
            if let (false, Some(name)) = (wanted, name) {
                name.under_way = None;
            }
            wanted
        });
        let may_begin = |host: &String| {
            let was_late = names.get(host).is_some_and(|name| name.was_late);
            let in_zone = of_zones.get(zone(host)).copied().unwrap_or(0);
            in_zone < OF_ZONE_MAX && !(was_late && *slow >= LATE_MAX)
        };
        let host = queue.iter().position(may_begin).and_then(|at| queue.remove(at))?;
        self.running += 1;
        self.slow += usize::from(names.get(&host).is_some_and(|name| name.was_late));
        *of_zones.entry(zone(&host).to_owned()).or_default() += 1;
        Some(host)
    }

    fn finish(&mut self, host: &str, found: io::Result<Vec<SocketAddr>>, took: Duration) {
        self.running -= 1;
        if let Some(count) = self.of_zones.get_mut(zone(host)) {
            *count -= 1;
            if *count == 0 {
                self.of_zones.remove(zone(host));
            }
        }
        // A name is not forgotten while its look-up runs.
        let Some(name) = self.names.get_mut(host) else { return };
        self.slow -= usize::from(name.was_late);
        name.was_late = took > SLOW_LOOKUP_DELAY;
        let answer: LookupResult = match found {
            Ok(mut addresses) if !addresses.is_empty() => {
                addresses.truncate(ADDRESSES_MAX);
                let addresses: ResolvedAddresses = addresses.into();
                name.last = Some((addresses.clone(), Instant::now()));
                name.is_reported = false;
                Ok(addresses)
            }
            Ok(_) => Err(ResolveError::NoAddress),
            Err(error) => Err(error.into()),
        };
        if let Some(under_way) = name.under_way.take() {
            under_way.answer.send_replace(Some(answer));
        }
    }
}

/// The last two labels, which stand for one name server. A name with one label, which a file answers, is a zone
/// of its own.
fn zone(host: &str) -> &str {
    let host = host.trim_end_matches('.');
    let mut dots = host.rmatch_indices('.');
    dots.next();
    dots.next().map_or(host, |(at, _)| &host[at + 1..])
}

/// The address that is written, with its zone as this machine numbers it; `None` if it is a name.
pub(super) fn literal_address(at: &HostPort) -> Option<Result<SocketAddr, ResolveError>> {
    if let Ok(ip) = at.host.parse::<IpAddr>() {
        return Some(Ok(SocketAddr::new(ip, at.port)));
    }
    let (ip, zone) = at.host.split_once('%')?;
    let ip = ip.parse().ok()?;
    Some(interface_index(zone).map(|scope| SocketAddrV6::new(ip, at.port, 0, scope).into()))
}

/// An interface's number, from its name or its number.
fn interface_index(zone: &str) -> Result<u32, ResolveError> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
    let none = |_| ResolveError::NoInterface(zone.to_owned());
    name_to_index(&socket, zone).or_else(|error| zone.parse().map_err(|_| error)).map_err(none)
}

#[cfg(test)]
mod tests;
