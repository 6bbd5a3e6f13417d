//! The gateways that a half dials: those that its profile names, and those that a name stands for at the moment.
//!
//! An address of the profile stands for one gateway, or with `each` for one at each address of its name. That is
//! looked up again and again; what is new is dialled at once, and what is gone is retired, whose sessions go on.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use arc_swap::ArcSwap;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    keeper::{KeeperContext, KeeperTarget, LinkKeeper},
    shares::ShareRule,
};
use crate::{
    net::dns::name_watch::{NameNews, NameReport, NameWatch},
    profile::{LinkAddress, ServiceName},
    telemetry::{
        log::LogEvent,
        snapshot::{PoolRow, PoolState},
    },
};

/// What keeps links to one gateway.
pub trait GatewayDialler: Send + Sync + 'static {
    fn keeper(&self) -> &Arc<LinkKeeper>;

    /// Dials no more; ready links go, sessions stay.
    fn retire(&self);
}

type StartDialler<D> = Box<dyn Fn(LinkAddress, KeeperTarget) -> D + Send + Sync>;

pub struct DialledGateways<D> {
    shared: KeeperContext,
    start: StartDialler<D>,
    table: Mutex<GatewayTable>,
    /// Those that are dialled, in the order of the profile.
    dialled: ArcSwap<Vec<Arc<D>>>,
}

#[derive(Default)]
struct GatewayTable {
    wanted: Option<KeeperTarget>,
    entries: Vec<GatewayEntry>,
}

/// An address of the profile, and the gateways that it stands for now.
struct GatewayEntry {
    written: LinkAddress,
    gateways: Vec<LinkAddress>,
    /// Why its name is not known.
    unanswered: Option<String>,
    /// Ends the look-ups of its name.
    follows: Option<DropGuard>,
}

impl<D: GatewayDialler> DialledGateways<D> {
    /// Dials nobody yet; `start` begins to keep links to one gateway.
    pub fn new(
        shared: KeeperContext,
        start: impl Fn(LinkAddress, KeeperTarget) -> D + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (table, dialled) = (Mutex::default(), ArcSwap::default());
        Arc::new(Self { shared, start: Box::new(start), table, dialled })
    }

    /// Dials these from now on, and retires all others.
    pub fn dial(self: &Arc<Self>, connect: &[LinkAddress], wanted: KeeperTarget) {
        let mut table = self.lock();
        let mut before = std::mem::take(&mut table.entries);
        for address in connect {
            let known = before.iter().position(|entry| entry.written == *address);
            let entry = known.map(|at| before.swap_remove(at)).unwrap_or_else(|| self.new_entry(address));
            table.entries.push(entry);
        }
        table.wanted = Some(wanted);
        self.reconcile(&table);
        self.for_each(|gateway| gateway.keeper().update(wanted));
    }

    fn new_entry(self: &Arc<Self>, address: &LinkAddress) -> GatewayEntry {
        let (written, unanswered) = (address.clone(), None);
        if !address.is_followed() {
            return GatewayEntry { gateways: vec![address.clone()], written, unanswered, follows: None };
        }
        let (stop, watch) =
            (CancellationToken::new(), NameWatch::new(&self.shared.dns, address.host_name().into()));
        let follow = follow_name(Arc::downgrade(self), address.clone(), watch, stop.clone());
        self.shared.tasks.spawn("followed name", follow);
        GatewayEntry { written, gateways: Vec::new(), unanswered, follows: Some(stop.drop_guard()) }
    }

    /// Starts what is missing and retires what is not wanted any more.
    fn reconcile(&self, table: &GatewayTable) {
        let Some(wanted) = table.wanted else { return };
        let before = self.dialled.load_full();
        // Two names may have the same address, or one of them an address that is written beside it.
        let mut seen = HashSet::new();
        let gateways = table.entries.iter().flat_map(|entry| &entry.gateways);
        let gateways = gateways.filter(|gateway| seen.insert(gateway.to_string()));
        let known =
            |gateway: &LinkAddress| before.iter().find(|of| of.keeper().gateway() == gateway).cloned();
        let now: Vec<_> = gateways
            .map(|gateway| known(gateway).unwrap_or_else(|| Arc::new((self.start)(gateway.clone(), wanted))))
            .collect();
        let is_kept = |of: &Arc<D>| now.iter().any(|kept| Arc::ptr_eq(kept, of));
        before.iter().filter(|of| !is_kept(of)).for_each(|of| of.retire());
        self.shared.links.follow_rule(ShareRule::Divided(now.len().max(table.entries.len())));
        self.dialled.store(Arc::new(now));
    }

    /// Keeps so many links to each, and goes on so after failures.
    pub fn update(&self, wanted: KeeperTarget) {
        self.lock().wanted = Some(wanted);
        self.for_each(|gateway| gateway.keeper().update(wanted));
    }

    pub fn resize(&self, prepared: usize) {
        self.lock().wanted.iter_mut().for_each(|wanted| wanted.prepared = prepared);
        self.for_each(|gateway| gateway.keeper().resize(prepared));
    }

    /// Dials no more; links that are ready stay until [`DialledGateways::retire`].
    pub fn stop_dialling(&self) {
        self.lock().entries.iter_mut().for_each(|entry| drop(entry.follows.take()));
        self.for_each(|gateway| gateway.keeper().stop_dialling());
    }

    /// Ready links go; sessions stay.
    pub fn retire(&self) {
        let mut table = self.lock();
        table.entries.clear();
        self.reconcile(&table);
    }

    /// Those that are dialled now.
    pub fn list(&self) -> Arc<Vec<Arc<D>>> {
        self.dialled.load_full()
    }

    pub fn for_each(&self, act: impl Fn(&D)) {
        self.list().iter().for_each(|gateway| act(gateway));
    }

    /// Whether sessions can come by every gateway, and each name has been looked up.
    pub fn all_serve(&self) -> bool {
        let is_known = self.lock().entries.iter().all(|entry| !entry.gateways.is_empty());
        is_known && self.list().iter().all(|gateway| gateway.keeper().can_serve(None))
    }

    /// Whether sessions of a service, or of all, can come by one of them.
    pub fn any_serves(&self, service: Option<&ServiceName>) -> bool {
        self.list().iter().any(|gateway| gateway.keeper().can_serve(service))
    }

    /// The rows of each gateway, and one for each name of which no address is known.
    pub fn rows(&self) -> Vec<PoolRow> {
        let mut rows: Vec<_> = self.list().iter().flat_map(|gateway| gateway.keeper().rows()).collect();
        let table = self.lock();
        let target = table.wanted.map_or(0, |wanted| wanted.prepared);
        let unknown = table.entries.iter().filter(|entry| entry.gateways.is_empty());
        rows.extend(unknown.map(|entry| {
            let why = entry.unanswered.as_deref().unwrap_or("its name is being looked up");
            PoolRow {
                address: Some(entry.written.to_string()),
                name: Some(entry.written.host_name().to_owned()),
                state: PoolState::Down,
                target,
                last_error: Some(why.to_owned()),
                ..PoolRow::new(self.shared.half, "*".into())
            }
        }));
        rows
    }

    fn note_news(&self, written: &LinkAddress, watch: &NameWatch, news: NameNews) {
        let mut table = self.lock();
        // It may have been taken out of the profile meanwhile.
        let Some(entry) = table.entries.iter_mut().find(|entry| entry.written == *written) else { return };
        for report in &news.lines {
            self.report(written, report);
            match report {
                NameReport::Unanswered(why) => entry.unanswered = Some(why.clone()),
                NameReport::Answered { .. } => entry.unanswered = None,
                NameReport::Unusable(_) | NameReport::TooMany(_) => {}
            }
        }
        if news.change.is_empty() {
            return;
        }
        let notices = &self.shared.notices;
        notices.info(LogEvent::NameChanged.line(format!("name {}: {}", written.host_name(), news.change)));
        entry.gateways = watch.addresses().map(|ip| written.at_address(*ip)).collect();
        self.reconcile(&table);
    }

    fn report(&self, written: &LinkAddress, report: &NameReport) {
        let line = format!("name {}: {report}", written.host_name());
        let notices = &self.shared.notices;
        match report {
            NameReport::Unanswered(_) => notices.warn(LogEvent::NameUnanswered.line(line)),
            NameReport::Answered { .. } => notices.info(LogEvent::NameAnswered.line(line)),
            NameReport::Unusable(_) | NameReport::TooMany(_) => {
                notices.warn(LogEvent::NameLeftOut.line(line));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, GatewayTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks a name up until it is not wanted any more.
async fn follow_name<D: GatewayDialler>(
    gateways: Weak<DialledGateways<D>>,
    written: LinkAddress,
    mut watch: NameWatch,
    stop: CancellationToken,
) {
    while let Some(news) = stop.run_until_cancelled(watch.next_news()).await {
        let Some(gateways) = gateways.upgrade() else { return };
        gateways.note_news(&written, &watch, news);
    }
}
