//! The running parts of the internal half: where its sessions come from. A switch keeps what still fits. It never
//! listens for clients; in reverse mode it listens for nobody.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;

use super::{
    EndpointIngress, LinkIngress, LinkSecurity, ResizeOutcome, SWITCH_RETRY, SharedContext, down_reason,
    handshake_context, handshake_limiter, replace_identity, succeed_identity,
};
use crate::{
    accept::{
        forward::{DialledInLinks, DialledInPeers},
        reverse::{ReverseDialler, ReverseSessions},
    },
    admission::handshakes::HandshakeLimiter,
    gateway::descriptors::DescriptorShares,
    link::{
        dialled_gateways::DialledGateways,
        keeper::{KeeperContext, KeeperTarget},
        listener::LinkReception,
        offered_services::{OfferedService, OfferedServices},
        server::LinkServer,
        shares::{GatewayShares, ShareRule},
    },
    net::{listen::BindError, resolved_names::ResolvedNames},
    profile::{Half, InternalHalf, InternalMode, InternalService, RetryPolicy, ServiceName},
    proto::multiplex::hello::OfferState,
    telemetry::snapshot::PoolRow,
    tls::{edge::EdgeTls, link::LinkIdentity},
};

/// The running internal half.
pub struct InternalSide {
    security: LinkSecurity,
    links: Arc<GatewayShares>,
    maximum: usize,
    offering: Arc<ArcSwap<OfferedServices>>,
    parts: InternalParts,
}

enum InternalParts {
    Forward {
        ingress: LinkIngress,
        handshakes: Arc<HandshakeLimiter>,
        dialled_in: Arc<DialledInPeers>,
        server: Arc<LinkServer>,
    },
    Reverse {
        gateways: Arc<DialledGateways<ReverseDialler>>,
    },
}

impl InternalSide {
    /// Binds what this half needs; nothing runs yet.
    pub fn prepare(
        half: &InternalHalf,
        (identity, outer): (Option<LinkIdentity>, &EdgeTls),
        before: Option<&Self>,
        found: &ResolvedNames,
        common: &SharedContext,
    ) -> Result<Self, BindError> {
        let links =
            GatewayShares::new(common.shares.load().internal_links, ShareRule::Divided(count_gateways(half)));
        let offering = Arc::new(ArcSwap::from_pointee(offered_services(half, links.max(), common)));
        let identity = succeed_identity(identity, before.map(|before| &before.security.identity));
        let security = LinkSecurity::new(identity, outer, half.link_listen());
        let parts = match &half.mode {
            InternalMode::Forward { listen, bind, .. } => {
                let ingress = LinkIngress::prepare(listen, *bind, found)?;
                let handshakes = handshake_limiter(&ingress, common.shares.load().internal_handshakes);
                let dialled_in = Arc::<DialledInPeers>::default();
                let server = LinkServer::new(offering.clone());
                InternalParts::Forward { ingress, handshakes, dialled_in, server }
            }
            InternalMode::Reverse { .. } => {
                InternalParts::Reverse { gateways: dialled_gateways(&security, &links, &offering, common) }
            }
        };
        Ok(Self { security, maximum: half.maximum, offering, links, parts })
    }

    /// The number of DMZ gateways that sessions can come from, by the names that they may show.
    pub fn count_names(half: &InternalHalf) -> usize {
        let names = half.link_tls().map_or(usize::MAX, |tls| tls.peers.len());
        count_gateways(half).min(names)
    }

    /// Whether this half can keep running under another profile.
    pub fn fits(&self, half: &InternalHalf) -> bool {
        // The maximum number of links is fixed when the links' parts are made, so another maximum needs other
        // parts.
        let same_mode = match (&self.parts, &half.mode) {
            (InternalParts::Forward { ingress, .. }, InternalMode::Forward { listen, .. }) => {
                ingress.fits(listen)
            }
            (InternalParts::Reverse { .. }, InternalMode::Reverse { .. }) => true,
            (InternalParts::Forward { .. } | InternalParts::Reverse { .. }, _) => false,
        };
        same_mode && self.maximum == half.maximum
    }

    pub fn start(&mut self, half: &InternalHalf, common: &SharedContext) {
        match &mut self.parts {
            InternalParts::Forward { ingress, handshakes, dialled_in, server } => {
                let context = handshake_context(&self.security, server.terms(), handshakes, common);
                let intake = DialledInLinks {
                    peers: dialled_in.clone(),
                    server: server.clone(),
                    links: self.links.clone(),
                    serve: common.serve.clone(),
                    tasks: common.tasks.clone(),
                    notices: common.notices.clone(),
                };
                let reception = LinkReception::new(context, Arc::new(intake));
                ingress.start(reception, &self.security, &common.tasks);
            }
            InternalParts::Reverse { .. } => self.keep_links(half, Some(SWITCH_RETRY)),
        }
    }

    /// Continues under another profile with the same mode and ports.
    pub fn update(&mut self, half: &InternalHalf, identity: Option<LinkIdentity>, common: &SharedContext) {
        let identity_stays = replace_identity(&self.security.identity, identity);
        self.security.follow_listener(half.link_listen());
        let before = self.offering.load_full();
        let now = OfferedServices {
            states: before.states.clone(),
            ..offered_services(half, self.links.max(), common)
        };
        let (terms_stay, services_stay) = (now.has_terms_of(&before), now.services == before.services);
        self.offering.store(Arc::new(now));
        self.keep_links(half, None);
        if !(identity_stays && terms_stay) {
            self.retire_links();
        } else if !services_stay {
            self.send_offers();
        }
    }

    /// Uses this TLS around the WebSockets of its links from now on; existing links go on.
    pub fn set_outer(&self, outer: &EdgeTls) {
        self.security.set_outer(outer);
    }

    /// Uses this identity on its links from now on; links that were opened with another one are replaced.
    pub fn set_identity(&mut self, identity: Option<LinkIdentity>) {
        if !replace_identity(&self.security.identity, identity) {
            self.retire_links();
        }
    }

    /// The certificates that its links currently show and trust.
    pub fn identity(&self) -> Arc<Option<LinkIdentity>> {
        self.security.identity.load_full()
    }

    fn retire_links(&self) {
        match &self.parts {
            InternalParts::Forward { server, .. } => server.generation().advance(),
            InternalParts::Reverse { gateways } => gateways.for_each(ReverseDialler::retire_links),
        }
    }

    fn keep_links(&mut self, half: &InternalHalf, quick_retry: Option<RetryPolicy>) {
        let InternalParts::Reverse { gateways } = &self.parts else { return };
        let InternalMode::Reverse { connect, prepared, retry, .. } = &half.mode else { return };
        gateways.dial(connect, KeeperTarget { prepared: *prepared, retry: quick_retry.unwrap_or(*retry) });
    }

    /// Keeps this many links ready for each gateway, and for each service that speaks SOCKS5.
    pub fn resize(&mut self, prepared: usize) -> ResizeOutcome {
        let InternalParts::Reverse { gateways } = &self.parts else { return ResizeOutcome::DialsNone };
        if prepared == 0 {
            return ResizeOutcome::None;
        }
        let (wanted, rows) = (self.offering.load().prepared.max(1), self.rows());
        // Targets of SRV records share the number that other gateways have each.
        let links = rows.iter().fold(0_usize, |sum, row| sum.saturating_add(row.target));
        let links = links.saturating_mul(prepared).div_ceil(wanted);
        let maximum = self.links.max();
        if links > maximum {
            return ResizeOutcome::Beyond { links, maximum };
        }
        let offering = OfferedServices { prepared, ..OfferedServices::clone(&self.offering.load()) };
        self.offering.store(Arc::new(offering));
        gateways.resize(prepared);
        // The other half learns the new number only from new links.
        gateways.for_each(ReverseDialler::retire_links);
        ResizeOutcome::Done
    }

    /// Keeps no more links for a service that drains, or for all services.
    pub fn drain(&mut self, service: Option<&ServiceName>) {
        let InternalParts::Reverse { gateways } = &self.parts else { return };
        match service {
            None => gateways.retire(),
            Some(service) => {
                let mut offering = OfferedServices::clone(&self.offering.load());
                offering.drained.push(service.clone());
                self.offering.store(Arc::new(offering));
                gateways.for_each(|gateway| gateway.keeper.notify_changed());
            }
        }
    }

    /// Sets the states of the services that are not open. If they have changed, every DMZ gateway is
    /// notified.
    pub fn set_states(&self, states: BTreeMap<ServiceName, OfferState>) {
        let before = self.offering.load();
        if before.states == states {
            return;
        }
        self.offering.store(Arc::new(OfferedServices { states, ..OfferedServices::clone(&before) }));
        self.send_offers();
    }

    /// Tells every DMZ gateway what it may use now, and dials accordingly.
    pub fn send_offers(&self) {
        match &self.parts {
            InternalParts::Forward { server, .. } => server.send_offers(),
            InternalParts::Reverse { gateways } => gateways.for_each(ReverseDialler::send_offers),
        }
    }

    /// Limits the number of links, and of those that are in their handshake.
    pub fn limit_links(&self, shares: &DescriptorShares) {
        self.links.resize(shares.internal_links);
        if let InternalParts::Forward { handshakes, .. } = &self.parts {
            handshakes.resize(shares.internal_handshakes);
        }
        let offering =
            OfferedServices { maximum: self.links.max(), ..OfferedServices::clone(&self.offering.load()) };
        self.offering.store(Arc::new(offering));
    }

    /// What is still missing before new sessions can be carried.
    pub fn missing_reason(&self) -> Option<String> {
        match &self.parts {
            InternalParts::Forward { ingress, dialled_in, .. } => (!dialled_in.has_peer())
                .then(|| format!("no DMZ gateway has dialled in at {}", ingress.describe())),
            InternalParts::Reverse { gateways } => (!gateways.all_serve()).then(|| down_reason(&self.rows())),
        }
    }

    /// Whether it can carry sessions of every service, though not all of it is ready.
    pub fn can_serve_all(&self) -> bool {
        match &self.parts {
            InternalParts::Forward { .. } => self.missing_reason().is_none(),
            InternalParts::Reverse { gateways } => {
                let services = &self.offering.load().services;
                services.iter().all(|service| gateways.any_serves(Some(&service.name)))
            }
        }
    }

    pub fn rows(&self) -> Vec<PoolRow> {
        match &self.parts {
            InternalParts::Forward { dialled_in, .. } => dialled_in.rows(),
            InternalParts::Reverse { gateways } => {
                let mut rows = gateways.rows();
                rows.sort_unstable_by(|a, b| (&a.service, &a.address).cmp(&(&b.service, &b.address)));
                rows
            }
        }
    }

    /// Forgets lost gateways with this name or address; returns how many.
    pub fn dismiss(&self, name: &str) -> usize {
        match &self.parts {
            InternalParts::Forward { dialled_in, .. } => dialled_in.dismiss(name),
            InternalParts::Reverse { .. } => 0,
        }
    }

    pub fn listening(&self) -> Vec<String> {
        match &self.parts {
            InternalParts::Forward { ingress, .. } => ingress.listening(),
            InternalParts::Reverse { .. } => Vec::new(),
        }
    }

    /// The endpoint for links on a port whose clients begin with a request.
    pub fn endpoint(&self) -> Option<&EndpointIngress> {
        match &self.parts {
            InternalParts::Forward { ingress, .. } => ingress.endpoint(),
            InternalParts::Reverse { .. } => None,
        }
    }

    /// Accepts no new links; sessions can still be opened on ready ones.
    pub fn close_port(&self) {
        match &self.parts {
            InternalParts::Forward { ingress, .. } => ingress.close(),
            InternalParts::Reverse { gateways } => gateways.stop_dialling(),
        }
    }

    /// Links that still have to be closed.
    pub fn links(&self) -> usize {
        self.links.permits_taken()
    }

    /// Closes ready links; sessions go on.
    pub fn retire(&self) {
        self.close_port();
        match &self.parts {
            InternalParts::Forward { server, .. } => server.drain(),
            InternalParts::Reverse { gateways } => gateways.retire(),
        }
    }
}

/// The DMZ gateways that this half dials, in reverse mode.
fn dialled_gateways(
    security: &LinkSecurity,
    links: &Arc<GatewayShares>,
    offering: &Arc<ArcSwap<OfferedServices>>,
    common: &SharedContext,
) -> Arc<DialledGateways<ReverseDialler>> {
    let keepers = KeeperContext {
        half: Half::Internal,
        identity: security.identity.clone(),
        outer: security.outer.clone(),
        links: links.clone(),
        tasks: common.tasks.clone(),
        notices: common.notices.clone(),
        lockdown: common.sessions.lockdown.clone(),
        dns: common.dns.clone(),
    };
    let sessions = ReverseSessions { offered: offering.clone(), serve: common.serve.clone() };
    DialledGateways::new(keepers, sessions)
}

/// The number of DMZ gateways that share the links: those that are dialled, or the names that may dial in.
fn count_gateways(half: &InternalHalf) -> usize {
    match &half.mode {
        InternalMode::Reverse { connect, .. } => connect.len(),
        InternalMode::Forward { tls, .. } => tls.as_ref().map_or(1, |tls| tls.peers.len()),
    }
}

fn offered_services(half: &InternalHalf, maximum: usize, common: &SharedContext) -> OfferedServices {
    let offered = |service: &InternalService| OfferedService {
        name: service.name.clone(),
        peers: service.peers.clone(),
        carries: service.carries,
    };
    let services = half.services.iter().map(offered).collect();
    let prepared = match &half.mode {
        InternalMode::Reverse { prepared, .. } => *prepared,
        // The dialling half decides how many are kept.
        InternalMode::Forward { .. } => 0,
    };
    OfferedServices {
        services,
        states: BTreeMap::new(),
        drained: Vec::new(),
        lockdown: common.sessions.lockdown.clone(),
        prepared,
        maximum,
        sessions_per_link: half.sessions_per_link,
        retire: half.retire,
    }
}
