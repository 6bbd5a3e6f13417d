//! The gateways that a half dials: those that its profile names, and those that a name resolves to at the
//! moment.
//!
//! An address of the profile stands for one gateway or, with `each`, for one at each address of its name. The
//! name is looked up again and again. New addresses are dialled at once; removed ones are retired, and their
//! sessions go on.

use std::{
    collections::HashSet,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use super::{
    gateway_entry::{GatewayEntry, GatewaysBehind},
    keeper::{KeeperContext, KeeperTarget, LinkKeeper},
    name_notices::report_update,
    shares::ShareRule,
    target_rules::{DialProgress, StandbyRule},
};
use crate::{
    net::dns::{
        HostAddresses,
        name_rules::LookupAnswer,
        name_watch::{NameUpdate, NameWatch},
        service_rules::ServiceRecords,
    },
    profile::{GatewaysOfName, LinkAddress, ServiceName},
    telemetry::{
        link_cause::{LinkCause, LinkFault},
        snapshot::{PoolRow, PoolState},
    },
};

/// How often to check whether a standby target has to be dialled or released.
const STANDBY_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Keeps links to one gateway.
pub trait GatewayDialler: Send + Sync + 'static {
    /// State that the dialled gateways of one half share, besides the context of their keepers.
    type Shared: Send + Sync;

    /// Starts to keep links to a gateway.
    fn start(
        gateway: LinkAddress,
        wanted: KeeperTarget,
        keepers: &KeeperContext,
        shared: &Self::Shared,
    ) -> Self;

    fn keeper(&self) -> &Arc<LinkKeeper>;

    /// Sets how many links to keep from now on.
    fn want(&self, wanted: KeeperTarget);

    /// Stops dialling; ready links close and sessions go on.
    fn retire(&self);
}

pub struct DialledGateways<D: GatewayDialler> {
    keepers: KeeperContext,
    shared: D::Shared,
    table: Mutex<GatewayTable>,
    /// The gateways that are dialled, in the order of the profile.
    dialled: ArcSwap<Vec<Arc<D>>>,
}

#[derive(Default)]
struct GatewayTable {
    wanted: Option<KeeperTarget>,
    entries: Vec<GatewayEntry>,
}

impl<D: GatewayDialler> DialledGateways<D> {
    /// Dials nobody yet.
    pub fn new(keepers: KeeperContext, shared: D::Shared) -> Arc<Self> {
        Arc::new(Self { keepers, shared, table: Mutex::default(), dialled: ArcSwap::default() })
    }

    /// Dials these gateways from now on, and retires all others.
    pub fn dial(self: &Arc<Self>, connect: &[LinkAddress], wanted: KeeperTarget) {
        let mut table = self.lock();
        let mut before = std::mem::take(&mut table.entries);
        for address in connect {
            let known = before.iter().position(|entry| entry.written == *address);
            let entry = known.map(|at| before.swap_remove(at)).unwrap_or_else(|| self.new_entry(address));
            table.entries.push(entry);
        }
        table.wanted = Some(wanted);
        self.reconcile(&mut table);
        // What their links are used for may have changed as well.
        self.for_each(|gateway| gateway.keeper().notify_changed());
    }

    fn new_entry(self: &Arc<Self>, address: &LinkAddress) -> GatewayEntry {
        let (stop, dns, name) = (CancellationToken::new(), &self.keepers.dns, Arc::from(&*address.at.host));
        let (gateways, written) = (Arc::downgrade(self), address.clone());
        let gateways_behind = match address.gateways {
            GatewaysOfName::Any | GatewaysOfName::One(_) | GatewaysOfName::Target(_) => {
                return GatewayEntry::new(address, GatewaysBehind::All(vec![written]), None);
            }
            GatewaysOfName::Each => {
                let watch = NameWatch::of_addresses(dns, name);
                let follow = follow_addresses(gateways, written, watch, stop.clone());
                self.keepers.tasks.spawn("followed name", follow);
                GatewaysBehind::All(Vec::new())
            }
            GatewaysOfName::Service => {
                let watch = NameWatch::of_services(dns, name);
                let follow = follow_services(gateways, written, watch);
                let stop = stop.clone();
                self.keepers.tasks.spawn("followed name", async move {
                    stop.run_until_cancelled(follow).await;
                });
                GatewaysBehind::Ranked { targets: Vec::new(), rule: StandbyRule::default() }
            }
        };
        GatewayEntry::new(address, gateways_behind, Some(stop.drop_guard()))
    }

    /// Starts dialling the gateways that are missing, and retires those that are no longer wanted.
    fn reconcile(&self, table: &mut GatewayTable) {
        let Some(wanted) = table.wanted else { return };
        let (before, now) = (self.dialled.load_full(), Instant::now());
        let known = |gateway: &LinkAddress| before.iter().find(|of| of.keeper().gateway() == gateway);
        let progress_of = |gateway: &LinkAddress| match known(gateway) {
            Some(of) if of.keeper().is_linked() => DialProgress::Linked,
            Some(_) => DialProgress::Dialled,
            None => DialProgress::NotDialled,
        };
        // Two names may have the same address, or a name may have one that the profile also lists itself.
        let mut seen = HashSet::new();
        let chosen =
            table.entries.iter_mut().flat_map(|entry| entry.choose(wanted.prepared, progress_of, now));
        let chosen: Vec<_> = chosen.filter(|(gateway, _)| seen.insert(gateway.to_string())).collect();
        let dialler = |(gateway, prepared): (LinkAddress, usize)| {
            let wanted = KeeperTarget { prepared, ..wanted };
            let Some(of) = known(&gateway) else {
                return Arc::new(D::start(gateway, wanted, &self.keepers, &self.shared));
            };
            if of.keeper().wanted() != wanted {
                of.want(wanted);
            }
            of.clone()
        };
        let now: Vec<_> = chosen.into_iter().map(dialler).collect();
        let is_kept = |of: &Arc<D>| now.iter().any(|kept| Arc::ptr_eq(kept, of));
        before.iter().filter(|of| !is_kept(of)).for_each(|of| of.retire());
        self.keepers.links.follow_rule(ShareRule::Divided(now.len().max(table.entries.len())));
        self.dialled.store(Arc::new(now));
    }

    /// Applies new link counts and a new retry policy to each gateway.
    pub fn update(&self, wanted: KeeperTarget) {
        let mut table = self.lock();
        table.wanted = Some(wanted);
        self.reconcile(&mut table);
    }

    pub fn resize(&self, prepared: usize) {
        let mut table = self.lock();
        table.wanted.iter_mut().for_each(|wanted| wanted.prepared = prepared);
        self.reconcile(&mut table);
    }

    /// Stops dialling; ready links stay until [`DialledGateways::retire`].
    pub fn stop_dialling(&self) {
        self.lock().entries.iter_mut().for_each(|entry| drop(entry.follows.take()));
        self.for_each(|gateway| gateway.keeper().stop_dialling());
    }

    /// Closes ready links; sessions go on.
    pub fn retire(&self) {
        let mut table = self.lock();
        table.entries.clear();
        self.reconcile(&mut table);
    }

    /// The gateways that are dialled now.
    pub fn list(&self) -> Arc<Vec<Arc<D>>> {
        self.dialled.load_full()
    }

    pub fn for_each(&self, act: impl Fn(&D)) {
        self.list().iter().for_each(|gateway| act(gateway));
    }

    /// Whether sessions can come through every gateway, and each name has been looked up.
    pub fn all_serve(&self) -> bool {
        let is_known = self.lock().entries.iter().all(|entry| !entry.is_empty());
        is_known && self.list().iter().all(|gateway| gateway.keeper().can_serve(None))
    }

    /// Whether sessions of a service, or of all services, can come through one of them.
    pub fn any_serves(&self, service: Option<&ServiceName>) -> bool {
        self.list().iter().any(|gateway| gateway.keeper().can_serve(service))
    }

    /// The rows of each gateway, of those that stand by, and of each name that has no addresses yet.
    pub fn rows(&self) -> Vec<PoolRow> {
        let dialled = self.list();
        let mut rows: Vec<_> = dialled.iter().flat_map(|gateway| gateway.keeper().rows()).collect();
        let table = self.lock();
        let target = table.wanted.map_or(0, |wanted| wanted.prepared);
        let row = |name: Option<&str>, at: &LinkAddress| PoolRow {
            address: Some(at.to_string()),
            name: name.map(ToOwned::to_owned),
            state: PoolState::Down,
            ..PoolRow::new(self.keepers.half, "*".into())
        };
        let mut seen: HashSet<_> = dialled.iter().map(|of| of.keeper().gateway().to_string()).collect();
        for entry in &table.entries {
            if entry.is_empty() {
                let why = match &entry.unanswered {
                    Some(why) => LinkFault::new(LinkCause::NameUnresolved, why.to_string()),
                    None => LinkFault::new(LinkCause::Other, "its name is being looked up"),
                };
                let row = PoolRow { target, ..row(Some(&entry.written.at.host), &entry.written) };
                rows.push(row.with_fault(Some(why)));
            }
            for spare in entry.gateways().filter(|of| seen.insert(of.to_string())) {
                let last_error = Some("it stands by for those with a lower priority number".to_owned());
                rows.push(PoolRow { standby: true, last_error, ..row(spare.followed_name(), spare) });
            }
        }
        rows
    }

    /// Applies what a look-up has found for an address of the profile.
    fn note_update<A: LookupAnswer>(
        &self,
        written: &LinkAddress,
        event: &NameUpdate<A>,
        take_in: impl FnOnce(&mut GatewayEntry),
    ) {
        let mut table = self.lock();
        // The address may have been removed from the profile meanwhile.
        let Some(entry) = table.entries.iter_mut().find(|entry| entry.written == *written) else { return };
        report_update(&self.keepers.notices, &written.at.host, event);
        match (&event.answer, event.unanswered()) {
            (Some(_), _) => entry.unanswered = None,
            (None, Some(why)) => entry.unanswered = Some(why.clone()),
            (None, None) => {}
        }
        take_in(entry);
        self.reconcile(&mut table);
    }

    /// Checks whether standby targets are needed, or no longer needed.
    fn check_standbys(&self) {
        self.reconcile(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, GatewayTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks a name up until it is no longer wanted.
async fn follow_addresses<D: GatewayDialler>(
    gateways: Weak<DialledGateways<D>>,
    written: LinkAddress,
    mut watch: NameWatch<HostAddresses>,
    stop: CancellationToken,
) {
    while let Some(event) = stop.run_until_cancelled(watch.next_update()).await {
        let Some(gateways) = gateways.upgrade() else { return };
        let addresses = watch.targets().map(|ip| written.at_address(*ip)).collect();
        gateways
            .note_update(&written, &event, |entry| entry.gateways_behind = GatewaysBehind::All(addresses));
    }
}

/// Follows its SRV records. Targets of the next priority replace those that are down.
async fn follow_services<D: GatewayDialler>(
    gateways: Weak<DialledGateways<D>>,
    written: LinkAddress,
    mut watch: NameWatch<ServiceRecords>,
) {
    let mut checks = interval(STANDBY_CHECK_INTERVAL);
    loop {
        let event = {
            // Kept across the checks: a look-up that started again each time might never end.
            let mut next = pin!(watch.next_update());
            loop {
                tokio::select! {
                    event = &mut next => break event,
                    _ = checks.tick() => {
                        let Some(gateways) = gateways.upgrade() else { return };
                        gateways.check_standbys();
                    }
                }
            }
        };
        let Some(gateways) = gateways.upgrade() else { return };
        let ranks = event.answer.as_ref().map(ServiceRecords::ranks).unwrap_or_default();
        gateways.note_update(&written, &event, |entry| entry.rank_targets(watch.targets(), &ranks));
    }
}
