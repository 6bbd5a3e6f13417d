//! One entry of a service's `connect`: a backend or, with `each`, one backend at every address that a name has at the
//! moment. With `each`, its members change as the name's records do; a session that runs keeps the member that it
//! uses.

use std::{
    net::IpAddr,
    sync::{Arc, Weak},
};

use arc_swap::ArcSwap;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{backend_group::BackendGroup, backend_member::BackendMember, direct::BackendTarget};
use crate::{
    link::name_notices::report_update,
    net::dns::{DnsError, DnsResolver, HostAddresses, name_watch::NameWatch},
    profile::ListedBackend,
    telemetry::{
        notices::NoticeLog,
        snapshot::{BackendRow, BackendRowState},
    },
    tls::edge::EdgeTls,
};

#[derive(Debug)]
pub(super) struct BackendEntry {
    /// As written in the profile.
    target: Arc<BackendTarget>,
    is_standby: bool,
    is_each: bool,
    members: ArcSwap<Vec<Arc<BackendMember>>>,
    look_up: watch::Sender<NameState>,
}

/// The state of an entry's name.
#[derive(Debug, Clone)]
enum NameState {
    Pending,
    /// Why it has no address.
    Unanswered(Arc<DnsError>),
    Known,
}

impl BackendEntry {
    pub fn new(listed: &ListedBackend, edges: &EdgeTls) -> Self {
        let target = Arc::new(BackendTarget::new(&listed.backend, edges));
        let ListedBackend { is_standby, is_each, .. } = *listed;
        let (members, state) = match is_each {
            true => (Vec::new(), NameState::Pending),
            false => (vec![Arc::new(BackendMember::new(target.clone(), is_standby))], NameState::Known),
        };
        let (members, look_up) = (ArcSwap::from_pointee(members), watch::Sender::new(state));
        Self { target, is_standby, is_each, members, look_up }
    }

    pub fn members(&self) -> Arc<Vec<Arc<BackendMember>>> {
        self.members.load_full()
    }

    pub fn is_same_as(&self, other: &Self) -> bool {
        (self.is_standby, self.is_each) == (other.is_standby, other.is_each)
            && self.target.is_same_as(&other.target)
    }

    /// Takes over what an older entry knows, if it is the same entry.
    pub fn inherit(&self, older: &Self) {
        self.members.store(older.members());
        self.look_up.send_replace(older.look_up.borrow().clone());
    }

    /// Why it has no address.
    pub fn unanswered(&self) -> Option<String> {
        match &*self.look_up.borrow() {
            NameState::Unanswered(why) if self.members.load().is_empty() => {
                Some(format!("{}: {why}", self.target.backend()))
            }
            NameState::Unanswered(_) | NameState::Pending | NameState::Known => None,
        }
    }

    /// Waits for the first answer, if it is still to come.
    pub async fn wait_until_looked_up(&self, by: Instant) {
        let mut look_up = self.look_up.subscribe();
        let is_over = look_up.wait_for(|state| !matches!(state, NameState::Pending));
        // Late or not, only what is known by then can be used.
        let _ = timeout_at(by, is_over).await;
    }

    /// A name without an address has a row as well.
    pub fn row_without_member(&self) -> Option<BackendRow> {
        let why = match &*self.look_up.borrow() {
            NameState::Unanswered(why) => why.to_string(),
            NameState::Pending | NameState::Known => "its name is being looked up".into(),
        };
        self.members.load().is_empty().then(|| BackendRow {
            address: self.target.backend().to_string(),
            name: self.target.backend().host_name().map(ToOwned::to_owned),
            state: BackendRowState::Down,
            sessions_open: 0,
            sessions: 0,
            failures: 0,
            last_error: Some(why),
        })
    }

    /// The task that follows its name, if it has one; `at` is its position in the group.
    pub fn follow(
        &self,
        group: Weak<BackendGroup>,
        at: usize,
        dns: &DnsResolver,
        notices: Arc<NoticeLog>,
    ) -> Option<impl Future<Output = ()> + Send + 'static> {
        let host = Arc::<str>::from(self.target.backend().host_name().filter(|_| self.is_each)?);
        let known = self.members().iter().filter_map(|member| member.ip()).collect();
        let watch = NameWatch::of_addresses(dns, host.clone()).knowing(known);
        Some(follow_name(group, at, host, watch, notices))
    }

    /// The addresses of its name are these from now on; whoever is at one that was there stays as it is. Returns who
    /// was at the others.
    fn take_addresses(&self, addresses: impl Iterator<Item = IpAddr>) -> Vec<Arc<BackendMember>> {
        let before = self.members();
        let member = |ip: IpAddr| {
            let known = before.iter().find(|member| member.ip() == Some(ip)).cloned();
            known.unwrap_or_else(|| {
                Arc::new(BackendMember::new(self.target.at_address(ip).into(), self.is_standby))
            })
        };
        let now: Vec<_> = addresses.map(member).collect();
        let is_removed = |known: &&Arc<BackendMember>| !now.iter().any(|member| Arc::ptr_eq(member, known));
        let removed = before.iter().filter(is_removed).cloned().collect();
        self.members.store(Arc::new(now));
        removed
    }
}

async fn follow_name(
    group: Weak<BackendGroup>,
    at: usize,
    host: Arc<str>,
    mut watch: NameWatch<HostAddresses>,
    notices: Arc<NoticeLog>,
) {
    loop {
        let event = watch.next_update().await;
        let Some(group) = group.upgrade() else { return };
        let Some(entry) = group.entries().get(at) else { return };
        report_update(&notices, &host, &event);
        if !event.change.is_empty() {
            group.note_leaving(entry.take_addresses(watch.targets().copied()).into_iter());
        }
        match (&event.answer, event.unanswered()) {
            (Some(_), _) => drop(entry.look_up.send_replace(NameState::Known)),
            (None, Some(why)) => drop(entry.look_up.send_replace(NameState::Unanswered(why.clone()))),
            (None, None) => {}
        }
    }
}
