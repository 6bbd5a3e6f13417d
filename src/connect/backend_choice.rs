//! Which of its service's backends the requests of a session go to.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    backend_group::BackendGroup,
    backend_member::{BackendMember, BackendUse},
};
use crate::telemetry::registry::SessionCounters;

/// A session's choice of a backend; it stays there as long as that backend is well.
pub struct BackendChoice {
    pub group: Arc<BackendGroup>,
    session: Arc<SessionCounters>,
    taken: Mutex<Option<BackendUse>>,
}

impl BackendChoice {
    pub fn new(group: &Arc<BackendGroup>, session: &Arc<SessionCounters>) -> Self {
        Self { group: group.clone(), session: session.clone(), taken: Mutex::default() }
    }

    pub fn member(&self) -> Option<Arc<BackendMember>> {
        self.lock().as_ref().map(|taken| taken.member().clone())
    }

    pub fn take(&self, member: &Arc<BackendMember>) {
        let mut taken = self.lock();
        if !taken.as_ref().is_some_and(|taken| Arc::ptr_eq(taken.member(), member)) {
            *taken = Some(member.begin_use(&self.session));
        }
    }

    /// The backends that may be dialled, its own first as long as that is well.
    pub fn candidates(&self, client: Option<IpAddr>) -> Vec<Arc<BackendMember>> {
        let mut candidates = self.group.candidates(client);
        if let Some(member) = self.member().filter(|member| member.is_usable())
            && let Some(at) = candidates.iter().position(|other| Arc::ptr_eq(other, &member))
        {
            candidates[..=at].rotate_right(1);
        }
        candidates
    }

    /// Written `ws` or `wss`: only requests for a WebSocket go there.
    pub fn takes_sockets_alone(&self) -> bool {
        self.member().is_some_and(|member| member.http().is_some_and(|http| http.socket))
    }

    fn lock(&self) -> MutexGuard<'_, Option<BackendUse>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
