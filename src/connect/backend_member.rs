//! One backend of a group: how it is doing, and its sessions. An entry with `each` has one for each address; sessions
//! hold a member, so it outlives its address while they run.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

use super::{backend_state::BackendState, balance::Candidate, direct::BackendTarget};
use crate::{
    profile::{Backend, HttpRemote},
    telemetry::{
        registry::SessionCounters,
        snapshot::{BackendRow, BackendRowState},
    },
};

#[derive(Debug)]
pub struct BackendMember {
    pub target: Arc<BackendTarget>,
    pub(super) address: Arc<str>,
    pub(super) is_standby: bool,
    state: Mutex<BackendState>,
}

/// A session's use of a backend, until it is dropped.
#[derive(Debug)]
pub struct BackendUse(Arc<BackendMember>);

/// A session that is connecting to a backend, until it is dropped.
#[derive(Debug)]
pub(super) struct BackendDial(Arc<BackendMember>);

impl BackendMember {
    pub(super) fn new(target: Arc<BackendTarget>, is_standby: bool) -> Self {
        let address = target.backend().to_string().into();
        Self { address, target, is_standby, state: Mutex::default() }
    }

    /// Counts a session that begins here; its row shows the backend.
    pub fn begin_use(self: &Arc<Self>, session: &SessionCounters) -> BackendUse {
        session.set_backend(&self.address);
        let mut state = self.lock();
        state.open += 1;
        state.sessions += 1;
        drop(state);
        BackendUse(self.clone())
    }

    /// Counts a session that is connecting, so that sessions which arrive together are spread as well.
    pub(super) fn begin_dial(self: &Arc<Self>) -> BackendDial {
        self.lock().dialling += 1;
        BackendDial(self.clone())
    }

    /// How requests are sent to it, if it accepts requests.
    pub fn http(&self) -> Option<&HttpRemote> {
        match self.target.backend() {
            Backend::Http(http) => Some(http),
            Backend::Echo | Backend::Socket(_) => None,
        }
    }

    /// Whether sessions that are here may stay.
    pub fn is_usable(&self) -> bool {
        let state = self.lock();
        !state.is_down() && !state.is_resting(Instant::now())
    }

    /// Its address, among those of its name.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        self.target.backend().remote()?.ip
    }

    pub(super) fn as_candidate(&self, now: Instant) -> Candidate<'_> {
        let state = self.lock();
        Candidate {
            address: &self.address,
            is_standby: self.is_standby,
            is_down: state.is_down(),
            is_resting: state.is_resting(now),
            share: state.share(now),
            open: state.open + state.dialling,
        }
    }

    pub(super) fn row(&self, now: Instant, stands_by: bool) -> BackendRow {
        let name = self.ip().and(self.target.backend().host_name());
        let state = self.lock();
        BackendRow {
            address: self.address.to_string(),
            name: name.map(ToOwned::to_owned),
            state: match (state.is_down(), state.is_resting(now)) {
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

    /// Whether a session is here, or on its way.
    pub(super) fn is_in_use(&self) -> bool {
        let state = self.lock();
        state.open + state.dialling > 0
    }

    /// The row of a backend that has left its service and still has sessions.
    pub(super) fn leaving_row(&self, now: Instant) -> BackendRow {
        let why = "taken out of the profile, or of its name's addresses; its sessions go on";
        BackendRow { state: BackendRowState::Standby, last_error: Some(why.into()), ..self.row(now, true) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, BackendState> {
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
