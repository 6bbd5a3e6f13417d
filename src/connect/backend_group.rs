//! The backends of a service, which stand in for each other: which one a session gets, and how each is doing.
//!
//! If a backend refuses or is late, the session goes on to the next one before anything was sent. What is known
//! about each comes only from sessions, and from its checks (`super::backend_check`) if the profile has any.

use std::{
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep};

pub use super::backend_member::{BackendMember, BackendUse};
use super::{
    ConnectFailure,
    backend_check::{self, CheckedBackend},
    backend_entry::BackendEntry,
    backend_state::BackendChange,
    balance::{BalanceInput, order_backends},
    direct,
};
use crate::{
    net::{
        dns::DnsResolver,
        own_ports::{OwnPorts, ServicePorts},
        stream::NetStream,
    },
    profile::{BackendCheck, BackendSet, ServiceName},
    proto::{Refusal, multiplex::open::ClientOrigin},
    tasks::Tasks,
    telemetry::{end::EndedBy, log::LogEvent, notices::NoticeLog, snapshot::BackendRow},
    tls::edge::EdgeTls,
};

/// A backend that has not answered within this time is late, if there is another one to try.
const FAILOVER_DELAY: Duration = Duration::from_secs(1);

/// How long a session waits for the first look-up of a name: long enough for one silent server and the next.
const FIRST_LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub struct BackendGroup {
    service: ServiceName,
    set: BackendSet,
    entries: Vec<BackendEntry>,
    turn: AtomicUsize,
    /// Not backends of the service any more; their sessions go on.
    leaving: Mutex<Vec<Arc<BackendMember>>>,
    watch: OnceLock<GroupWatch>,
}

/// The tasks that run while a group is in use.
#[derive(Debug)]
struct GroupWatch {
    notices: Arc<NoticeLog>,
    own_ports: OwnPorts,
    /// Its checks, and the look-ups of its names.
    _tasks: Tasks,
}

impl BackendGroup {
    /// `edges` are those of the profile that names the backends.
    pub fn new(service: &ServiceName, set: &BackendSet, edges: &EdgeTls) -> Self {
        Self {
            service: service.clone(),
            entries: set.list.iter().map(|listed| BackendEntry::new(listed, edges)).collect(),
            set: set.clone(),
            turn: AtomicUsize::new(0),
            leaving: Mutex::default(),
            watch: OnceLock::new(),
        }
    }

    pub(super) fn entries(&self) -> &[BackendEntry] {
        &self.entries
    }

    /// The backends at the moment, in the order of the profile.
    fn members(&self) -> Vec<Arc<BackendMember>> {
        self.entries.iter().flat_map(|entry| entry.members().iter().cloned().collect::<Vec<_>>()).collect()
    }

    /// Keeps what is known of the backends that an older group has as well, and the sessions of the others.
    pub fn inherit(&mut self, older: &Self) {
        for entry in &self.entries {
            if let Some(known) = older.entries.iter().find(|other| other.is_same_as(entry)) {
                entry.inherit(known);
            }
        }
        let kept = self.members();
        let is_kept = |member: &Arc<BackendMember>| kept.iter().any(|other| Arc::ptr_eq(other, member));
        let before = [older.members(), older.leaving().clone()].concat();
        self.note_leaving(before.into_iter().filter(|member| !is_kept(member)));
    }

    /// Notes members that are no longer backends of the service.
    pub(super) fn note_leaving(&self, members: impl Iterator<Item = Arc<BackendMember>>) {
        self.leaving().extend(members);
    }

    /// Without those that no session is at, or on its way to.
    fn leaving(&self) -> MutexGuard<'_, Vec<Arc<BackendMember>>> {
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        leaving.retain(|member| member.is_in_use());
        leaving
    }

    /// From now on changes are reported, backends are checked, and names are followed.
    pub fn watch(self: &Arc<Self>, notices: &Arc<NoticeLog>, dns: &DnsResolver, own_ports: &OwnPorts) {
        self.watch.get_or_init(|| {
            let tasks = Tasks::default();
            if let Some(check) = &self.set.check {
                tasks.spawn("backend checks", keep_checking(Arc::downgrade(self), check.clone()));
            }
            for (at, entry) in self.entries.iter().enumerate() {
                if let Some(follow) = entry.follow(Arc::downgrade(self), at, dns, notices.clone()) {
                    tasks.spawn("followed backends", follow);
                }
            }
            GroupWatch { notices: notices.clone(), own_ports: own_ports.clone(), _tasks: tasks }
        });
    }

    /// Where clients of its service come in to this process.
    fn own_ports(&self) -> ServicePorts {
        self.watch.get().map(|watch| watch.own_ports.of(&self.service)).unwrap_or_default()
    }

    pub fn is_same_as(&self, other: &Self) -> bool {
        self.set == other.set
            && self.entries.iter().zip(&other.entries).all(|(one, other)| one.is_same_as(other))
    }

    /// The backends, as operators see them.
    pub fn addresses(&self) -> String {
        self.set.to_string()
    }

    /// Why no session can be served, according to the checks.
    pub fn down_reason(&self) -> Option<String> {
        self.set.check.as_ref()?;
        let mut reasons = Vec::new();
        for entry in &self.entries {
            let members = entry.members();
            if members.is_empty() {
                reasons.push(entry.unanswered()?);
            }
            for member in members.iter() {
                let state = member.lock();
                let error = state.last_error.as_deref().unwrap_or_default();
                reasons.push(state.is_down().then(|| format!("{}: {error}", member.address))?);
            }
        }
        Some(format!("no backend is up: {}", reasons.join("; ")))
    }

    /// The backends that a session may try, the best first. If no address is known yet, it waits for the names.
    pub async fn find_candidates(&self, client: Option<IpAddr>) -> Vec<Arc<BackendMember>> {
        let by = Instant::now() + FIRST_LOOKUP_TIMEOUT;
        for entry in &self.entries {
            if self.entries.iter().any(|entry| !entry.members().is_empty()) {
                break;
            }
            entry.wait_until_looked_up(by).await;
        }
        self.candidates(client)
    }

    /// The backends that a session may try, the best first.
    pub fn candidates(&self, client: Option<IpAddr>) -> Vec<Arc<BackendMember>> {
        let members = self.members();
        if let [only] = &members[..] {
            return if only.lock().is_down() { Vec::new() } else { members };
        }
        let now = Instant::now();
        let candidates: Vec<_> = members.iter().map(|member| member.as_candidate(now)).collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let input = BalanceInput { turn, client, chance: fastrand::f64() };
        let order = order_backends(&candidates, self.set.balance, input);
        order.into_iter().map(|at| members[at].clone()).collect()
    }

    /// Connects the first of them that answers.
    pub async fn connect_first(
        &self,
        candidates: Vec<Arc<BackendMember>>,
        client: Option<SocketAddr>,
        origin: &ClientOrigin,
    ) -> Result<(Arc<BackendMember>, NetStream), ConnectFailure> {
        let own_ports = &self.own_ports();
        let mut left = candidates.into_iter().peekable();
        let (mut dials, mut pending) = (Vec::new(), Vec::<(Instant, Arc<BackendMember>)>::new());
        let mut failure = None;
        loop {
            if let Some(member) = left.next() {
                pending.push((Instant::now(), member.clone()));
                let dialling = member.begin_dial();
                dials.push(Box::pin(async move {
                    let _dialling = dialling;
                    let reached = direct::reach_backend(&member.target, client, origin, own_ports).await;
                    (member, reached)
                }));
            }
            let silent = sleep(FAILOVER_DELAY);
            let (member, reached) = tokio::select! {
                ended = first_ended(&mut dials), if !dials.is_empty() => ended,
                () = silent, if left.peek().is_some() => continue,
                else => return Err(failure.unwrap_or_else(|| self.none_up())),
            };
            pending.retain(|(_, other)| !Arc::ptr_eq(other, &member));
            match reached {
                Ok(stream) => {
                    for (_, silent) in pending.iter().filter(|(began, _)| began.elapsed() >= FAILOVER_DELAY) {
                        self.note_unreached(silent, "it did not answer in time");
                    }
                    let change = member.lock().note_reached(Instant::now());
                    self.report(&member, change);
                    return Ok((member, stream));
                }
                // This host cannot open any more connections.
                Err(error) if error.ended_by != EndedBy::Backend => return Err(error),
                Err(error) => {
                    self.note_unreached(&member, &error.reason);
                    failure = Some(error);
                }
            }
        }
    }

    fn none_up(&self) -> ConnectFailure {
        let unanswered: Vec<_> = self.entries.iter().filter_map(BackendEntry::unanswered).collect();
        let reason = match unanswered.is_empty() {
            true => self.down_reason().unwrap_or_else(|| "no backend is up".into()),
            false => format!("no backend is up: {}", unanswered.join("; ")),
        };
        ConnectFailure::here(EndedBy::Backend, Refusal::ServiceDown, reason)
    }

    fn note_unreached(&self, member: &BackendMember, error: &str) {
        let change = member.lock().note_unreached(error, self.set.rest, Instant::now());
        self.report(member, change);
    }

    /// Reports what operators would want to know. For a single backend, its sessions already show it.
    fn report(&self, member: &BackendMember, change: BackendChange) {
        if self.set.check.is_none() && self.members().len() == 1 {
            return;
        }
        let Some(GroupWatch { notices, .. }) = self.watch.get() else { return };
        let BackendMember { address, .. } = member;
        match change {
            BackendChange::None => {}
            BackendChange::Failed => {
                let error = member.lock().last_error.clone().unwrap_or_default();
                let line = format!("service `{}`: the backend {address} is down: {error}", self.service);
                notices.warn(LogEvent::BackendDown.line(line));
            }
            BackendChange::Recovered => {
                let line = format!("service `{}`: the backend {address} is up again", self.service);
                notices.info(LogEvent::BackendUp.line(line));
            }
        }
    }

    /// A row for each backend, for each name that stands for nobody, and for each that has sessions left.
    pub fn rows(&self) -> Vec<BackendRow> {
        let now = Instant::now();
        let serves = |member: &Arc<BackendMember>| {
            let state = member.lock();
            !member.is_standby && !state.is_down() && !state.is_resting(now)
        };
        let stands_by = self.members().iter().any(serves);
        let rows = |entry: &BackendEntry| {
            let members = entry.members();
            let rows: Vec<_> = members.iter().map(|member| member.row(now, stands_by)).collect();
            rows.into_iter().chain(entry.row_without_member())
        };
        let left = self.leaving().iter().map(|member| member.leaving_row(now)).collect::<Vec<_>>();
        self.entries.iter().flat_map(rows).chain(left).collect()
    }
}

/// Polls the dials and removes the first one that finishes. Not `FuturesUnordered`: it wakes its own task again
/// after polling all futures once, which makes the runtime wake another worker. For one or two dials that is
/// expensive.
async fn first_ended<D: Future + Unpin>(dials: &mut Vec<D>) -> D::Output {
    let (at, ended) = poll_fn(|cx| {
        let ended = dials.iter_mut().enumerate().find_map(|(at, dial)| match dial.poll_unpin(cx) {
            Poll::Ready(ended) => Some((at, ended)),
            Poll::Pending => None,
        });
        ended.map_or(Poll::Pending, Poll::Ready)
    })
    .await;
    drop(dials.swap_remove(at));
    ended
}

/// Checks the backends again and again while the group is in use. No check waits for that of another backend: one
/// that is still under way when the next is due goes on, and is followed by the one after that.
async fn keep_checking(group: Weak<BackendGroup>, check: BackendCheck) {
    let check = &check;
    let mut under_way = Vec::<Arc<BackendMember>>::new();
    let mut checks = FuturesUnordered::new();
    // Checks of many services are spread over time.
    let mut due = pin!(sleep(check.every.mul_f64(fastrand::f64())));
    loop {
        let ended = tokio::select! {
            () = &mut due => None,
            Some(ended) = checks.next() => Some(ended),
        };
        let Some(group) = group.upgrade() else { return };
        if let Some((member, outcome)) = ended {
            under_way.retain(|other| !Arc::ptr_eq(other, &member));
            let change = member.lock().note_check(outcome, (check.falls, check.rises), Instant::now());
            group.report(&member, change);
            continue;
        }
        due.as_mut().reset(Instant::now() + check.every.mul_f64(0.9 + 0.2 * fastrand::f64()));
        let own_ports = group.own_ports();
        for member in group.members() {
            if under_way.iter().any(|other| Arc::ptr_eq(other, &member)) {
                continue;
            }
            under_way.push(member.clone());
            let own_ports = own_ports.clone();
            checks.push(async move {
                let checked = CheckedBackend { target: &member.target, check, own_ports: &own_ports };
                let outcome = backend_check::check_backend(checked).await;
                (member, outcome)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        profile::{Backend, CheckRequest, HostPort, ListedBackend, RemoteServer, ServerAddress},
        tests::happens_after,
    };

    fn listed(host: &str, port: u16) -> ListedBackend {
        let at = ServerAddress::Network(HostPort { host: host.into(), port });
        let backend = Backend::Socket(RemoteServer { at, tls: None, proxy: None, source: None, ip: None });
        ListedBackend { backend, is_standby: false, is_each: false }
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_is_checked_every_so_often_however_long_a_check_of_another_takes() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let silent = silent.local_addr().map(|at| (at.port(), silent)).expect("its address");
        // Bound but not listening: nobody else gets it, and it refuses.
        let closed =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        closed.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
        let refusing = closed.local_addr().expect("it is bound").as_socket().expect("of IPv4").port();
        let request = CheckRequest { method: "GET", target: "/".into(), expect: vec![200] };
        let (every, timeout) = (Duration::from_secs(1), Duration::from_secs(10));
        let check = BackendCheck { every, timeout, falls: 3, rises: 1, request: Some(request) };
        let list = vec![listed("127.0.0.1", silent.0), listed("127.0.0.1", refusing)];
        let set = BackendSet { check: Some(check), list, ..Backend::Echo.into() };
        let service = ServiceName::parse("orders").expect("a name");
        let group = Arc::new(BackendGroup::new(&service, &set, &EdgeTls::default()));
        group.watch(&Arc::default(), &DnsResolver::default(), &OwnPorts::default());
        sleep(Duration::from_secs(110)).await;
        let failures = group.rows().iter().map(|row| row.failures).collect::<Vec<_>>();
        assert!((8..=10).contains(&failures[0]), "{failures:?} checks in 110 s, 10 s each");
        assert!((95..=122).contains(&failures[1]), "{failures:?} checks in 110 s, one a second");
    }

    #[tokio::test(start_paused = true)]
    async fn unknown_names_are_waited_for_up_to_the_limit() {
        let each = |host| ListedBackend { is_each: true, ..listed(host, 5432) };
        let list = vec![each("one.test"), each("other.test")];
        let set = BackendSet { list, ..Backend::Echo.into() };
        let service = ServiceName::parse("orders").expect("a name");
        // It is not in use yet, so nobody looks the names up.
        let group = BackendGroup::new(&service, &set, &EdgeTls::default());
        assert!(happens_after(FIRST_LOOKUP_TIMEOUT, group.find_candidates(None)).await.is_empty());
    }
}
