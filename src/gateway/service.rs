//! One accept → connect pairing, its limits, and how many sessions it has.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio_util::sync::CancellationToken;

use crate::{
    connect::Connector,
    profile::{Role, ServiceName},
    telemetry::{notices::Once, snapshot::ServicePhase, waits::Waits},
};

/// The services of a gateway, by half and name.
pub type Services = HashMap<(Role, ServiceName), Arc<Service>>;

/// A service for as long as profiles keep it; what a switch may change can be swapped.
#[derive(Debug)]
pub struct Service {
    pub name: ServiceName,
    pub settings: ArcSwap<Settings>,
    /// Where new sessions go.
    pub connector: ArcSwap<Connector>,
    /// Cuts the service's sessions.
    pub cut: CancellationToken,
    /// At a stop: what is under way ends, and no more follows it.
    pub leave: CancellationToken,
    /// The fields of its backend's answers that were told to name it.
    pub told: Arc<Once>,
    /// How long its clients waited for a link.
    pub waits: Waits,
    /// Why it can serve nobody, where it can not.
    down: ArcSwapOption<String>,
    draining: AtomicBool,
    open: AtomicUsize,
}

/// What a profile says of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub sessions: usize,
    pub idle: Option<Duration>,
    pub peers: Option<Vec<String>>,
}

impl Service {
    pub fn new(
        name: ServiceName,
        settings: Settings,
        connector: Connector,
        cut: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            settings: ArcSwap::from_pointee(settings),
            connector: ArcSwap::from_pointee(connector),
            cut,
            leave: CancellationToken::new(),
            told: Arc::default(),
            waits: Waits::default(),
            down: ArcSwapOption::empty(),
            draining: AtomicBool::new(false),
            open: AtomicUsize::new(0),
        })
    }

    /// A place for one more session, unless the limit is reached.
    pub fn admit(self: &Arc<Self>) -> Result<Admission, usize> {
        let limit = self.settings.load().sessions;
        let one_more = |open: usize| (open < limit).then_some(open + 1);
        match self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => Ok(Admission(self.clone())),
            Err(_) => Err(limit),
        }
    }

    pub fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
    }

    pub fn set_down(&self, why: Option<String>) {
        self.down.store(why.map(Arc::new));
    }

    pub fn why_down(&self) -> Option<Arc<String>> {
        self.down.load_full()
    }

    pub fn phase(&self) -> ServicePhase {
        match self.draining.load(Ordering::Relaxed) {
            true => ServicePhase::Draining,
            false if self.down.load().is_some() => ServicePhase::Down,
            false => ServicePhase::Open,
        }
    }

    pub fn open_sessions(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

/// One session's place within its service's limit.
#[derive(Debug)]
pub struct Admission(Arc<Service>);

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
