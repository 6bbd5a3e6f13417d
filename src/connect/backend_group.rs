//! The backends of a service, which stand in for each other: which of them a session gets, and how each is doing.
//!
//! A session that meets one which refuses, or is late, goes on to the next before anything was sent. What is known
//! of each comes of sessions alone, and of its checks (`super::backend_check`) where the profile has any.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep};

use super::{
    ConnectFailure,
    backend_check::{self, CheckedBackend},
    backend_state::{BackendChange, BackendState},
    balance::{BalanceInput, Candidate, order_backends},
    direct::{self, BackendTarget},
};
use crate::{
    net::stream::NetStream,
    profile::{Backend, BackendCheck, BackendSet, HttpRemote, ListedBackend, ServiceName},
    proto::{Refusal, multiplex::open::ClientOrigin},
    tasks::Tasks,
    telemetry::{
        end::EndedBy,
        log::LogEvent,
        notices::NoticeLog,
        registry::SessionCounters,
        snapshot::{BackendRow, BackendRowState},
    },
    tls::edge::EdgeTls,
};

/// A backend that has not answered for so long is late, where there is another to try.
const LATE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct BackendGroup {
    service: ServiceName,
    set: BackendSet,
    members: Vec<Arc<BackendMember>>,
    turn: AtomicUsize,
    watch: OnceLock<GroupWatch>,
}

/// What begins when the group is used.
#[derive(Debug)]
struct GroupWatch {
    notices: Arc<NoticeLog>,
    _checks: Tasks,
}

/// One backend of a group.
#[derive(Debug)]
pub struct BackendMember {
    pub target: Arc<BackendTarget>,
    address: Arc<str>,
    is_standby: bool,
    state: Mutex<BackendState>,
}

/// A session's place at a backend, until it is dropped.
#[derive(Debug)]
pub struct BackendUse(Arc<BackendMember>);

/// A session on its way to a backend, until it is dropped.
#[derive(Debug)]
struct BackendDial(Arc<BackendMember>);

impl BackendGroup {
    /// `edges` are those of the profile that names the backends.
    pub fn new(service: &ServiceName, set: &BackendSet, edges: &EdgeTls) -> Self {
        let member = |listed: &ListedBackend| {
            Arc::new(BackendMember {
                target: BackendTarget::new(&listed.backend, edges).into(),
                address: listed.backend.to_string().into(),
                is_standby: listed.is_standby,
                state: Mutex::default(),
            })
        };
        Self {
            service: service.clone(),
            members: set.list.iter().map(member).collect(),
            set: set.clone(),
            turn: AtomicUsize::new(0),
            watch: OnceLock::new(),
        }
    }

    /// Keeps what is known of the backends that an older group has as well.
    pub fn inherit(&mut self, older: &Self) {
        for member in &mut self.members {
            let same = |other: &&Arc<BackendMember>| {
                other.is_standby == member.is_standby && other.target.is_same_as(&member.target)
            };
            if let Some(known) = older.members.iter().find(same) {
                *member = known.clone();
            }
        }
    }

    /// From now on changes are told, and backends are checked.
    pub fn watch(self: &Arc<Self>, notices: &Arc<NoticeLog>) {
        self.watch.get_or_init(|| {
            let checks = Tasks::default();
            if let Some(check) = &self.set.check {
                checks.spawn("backend checks", keep_checking(Arc::downgrade(self), check.clone()));
            }
            GroupWatch { notices: notices.clone(), _checks: checks }
        });
    }

    pub fn is_same_as(&self, other: &Self) -> bool {
        self.set == other.set
            && self
                .members
                .iter()
                .zip(&other.members)
                .all(|(one, other)| one.target.is_same_as(&other.target))
    }

    /// The backends, as operators know them.
    pub fn addresses(&self) -> String {
        self.set.to_string()
    }

    /// Why no session can be served, where checks say so.
    pub fn down_reason(&self) -> Option<String> {
        self.set.check.as_ref()?;
        let reasons: Option<Vec<_>> = self
            .members
            .iter()
            .map(|member| {
                let state = member.lock();
                let error = state.last_error.as_deref().unwrap_or_default();
                state.is_down().then(|| format!("{}: {error}", member.address))
            })
            .collect();
        reasons.map(|reasons| format!("no backend is up: {}", reasons.join("; ")))
    }

    /// Those that a session may try, the best first.
    pub fn candidates(&self, client: Option<IpAddr>) -> Vec<Arc<BackendMember>> {
        if let [only] = &self.members[..] {
            return if only.lock().is_down() { Vec::new() } else { vec![only.clone()] };
        }
        let now = Instant::now();
        let candidates: Vec<_> = self.members.iter().map(|member| member.as_candidate(now)).collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let input = BalanceInput { turn, client, chance: fastrand::f64() };
        let order = order_backends(&candidates, self.set.balance, input);
        order.into_iter().map(|at| self.members[at].clone()).collect()
    }

    /// Connects the first of them that answers.
    pub async fn connect_first(
        &self,
        candidates: Vec<Arc<BackendMember>>,
        client: Option<SocketAddr>,
        origin: &ClientOrigin,
    ) -> Result<(Arc<BackendMember>, NetStream), ConnectFailure> {
        let mut left = candidates.into_iter().peekable();
        let (mut dials, mut pending) = (FuturesUnordered::new(), Vec::<(Instant, Arc<BackendMember>)>::new());
        let mut failure = self.none_up();
        loop {
            if let Some(member) = left.next() {
                pending.push((Instant::now(), member.clone()));
                let dialling = member.begin_dial();
                dials.push(async move {
                    let _dialling = dialling;
                    let reached = direct::reach_backend(&member.target, client, origin).await;
                    (member, reached)
                });
            }
            let late = sleep(LATE);
            let (member, reached) = tokio::select! {
                Some(ended) = dials.next() => ended,
                () = late, if left.peek().is_some() => continue,
                else => return Err(failure),
            };
            pending.retain(|(_, other)| !Arc::ptr_eq(other, &member));
            match reached {
                Ok(stream) => {
                    for (_, late) in pending.iter().filter(|(began, _)| began.elapsed() >= LATE) {
                        self.note_unreached(late, "it did not answer in time");
                    }
                    let change = member.lock().note_reached();
                    self.report(&member, change);
                    return Ok((member, stream));
                }
                // It is this host that can open no more.
                Err(error) if error.who != EndedBy::Backend => return Err(error),
                Err(error) => {
                    self.note_unreached(&member, &error.reason);
                    failure = error;
                }
            }
            if left.peek().is_none() && dials.is_empty() {
                return Err(failure);
            }
        }
    }

    fn none_up(&self) -> ConnectFailure {
        let reason = self.down_reason().unwrap_or_else(|| "no backend is up".into());
        ConnectFailure { who: EndedBy::Backend, refusal: Refusal::ServiceDown, reason }
    }

    fn note_unreached(&self, member: &BackendMember, error: &str) {
        let change = member.lock().note_unreached(error, self.set.rest, Instant::now());
        self.report(member, change);
    }

    /// Tells what operators would want to know; of a backend that is alone, its sessions tell it.
    fn report(&self, member: &BackendMember, change: BackendChange) {
        if self.members.len() == 1 && self.set.check.is_none() {
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

    pub fn rows(&self) -> Vec<BackendRow> {
        let now = Instant::now();
        let serves = |member: &Arc<BackendMember>| {
            let state = member.lock();
            !member.is_standby && !state.is_down() && !state.rests(now)
        };
        let stands_by = self.members.iter().any(serves);
        self.members.iter().map(|member| member.row(now, stands_by)).collect()
    }
}

impl BackendMember {
    /// For a session that begins here, whose row says so.
    pub fn begin_use(self: &Arc<Self>, session: &SessionCounters) -> BackendUse {
        session.set_backend(&self.address);
        let mut state = self.lock();
        state.open += 1;
        state.sessions += 1;
        drop(state);
        BackendUse(self.clone())
    }

    /// It counts as a session already: those that come at once are spread as well.
    fn begin_dial(self: &Arc<Self>) -> BackendDial {
        self.lock().dialling += 1;
        BackendDial(self.clone())
    }

    /// How it is asked, where it takes requests.
    pub fn http(&self) -> Option<&HttpRemote> {
        match self.target.backend() {
            Backend::Http(http) => Some(http),
            Backend::Echo | Backend::Socket(_) => None,
        }
    }

    /// Whether sessions that are here may stay.
    pub fn is_usable(&self) -> bool {
        let state = self.lock();
        !state.is_down() && !state.rests(Instant::now())
    }

    fn as_candidate(&self, now: Instant) -> Candidate<'_> {
        let state = self.lock();
        Candidate {
            address: &self.address,
            is_standby: self.is_standby,
            is_down: state.is_down(),
            rests: state.rests(now),
            share: state.share(now),
            open: state.open + state.dialling,
        }
    }

    fn row(&self, now: Instant, stands_by: bool) -> BackendRow {
        let state = self.lock();
        BackendRow {
            address: self.address.to_string(),
            state: match (state.is_down(), state.rests(now)) {
                (true, _) => BackendRowState::Down,
                (false, true) => BackendRowState::Resting,
                (false, false) if self.is_standby && stands_by => BackendRowState::Standby,
                (false, false) => BackendRowState::Up,
            },
            sessions_open: state.open,
            sessions: state.sessions,
            failures: state.failures,
            last_error: state.last_error.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BackendState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BackendUse {
    pub fn member(&self) -> &Arc<BackendMember> {
        &self.0
    }
}

impl Drop for BackendUse {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.open = state.open.saturating_sub(1);
    }
}

impl Drop for BackendDial {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.dialling = state.dialling.saturating_sub(1);
    }
}

/// Checks the backends again and again, as long as the group is used.
async fn keep_checking(group: Weak<BackendGroup>, check: BackendCheck) {
    // Those of many services are spread in time.
    sleep(check.every.mul_f64(fastrand::f64())).await;
    while let Some(group) = group.upgrade() {
        let run = (check.falls, check.rises);
        let mut checks: FuturesUnordered<_> = group
            .members
            .iter()
            .map(async |member| {
                let checked = CheckedBackend { target: &member.target, check: &check };
                (member, backend_check::check_backend(checked).await)
            })
            .collect();
        while let Some((member, outcome)) = checks.next().await {
            let change = member.lock().note_check(outcome, run, Instant::now());
            group.report(member, change);
        }
        drop(checks);
        drop(group);
        sleep(check.every.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
    }
}
