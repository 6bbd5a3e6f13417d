//! The running parts of the DMZ half: where its sessions go. A switch keeps what still fits. Its three modes differ
//! only in how it comes to links, or to backends.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use futures_util::{FutureExt, future::BoxFuture};

use super::{
    EndpointIngress, LinkIngress, LinkSecurity, RETRY, ResizeOutcome, SWITCH_RETRY, SharedContext,
    down_reason, handshake_context, handshake_limiter, replace_identity, succeed_identity,
};
use crate::{
    admission::handshakes::{HandshakeLimiter, HandshakePermit},
    connect::{Connector, backend_group::BackendGroup, forward::ForwardDialler},
    gateway::{descriptors::DescriptorShares, service::ServiceTable},
    link::{
        grants::{GrantRule, ServiceGrants},
        handshake::{self, EstablishedLink, HandshakeOutcome, HandshakeTerms, HelloEnd, SocksRequest},
        keeper::{KeeperContext, KeeperTarget},
        listener::{LinkIntake, LinkReception},
        pool::Pool,
        shares::{GatewayShares, ShareRule},
    },
    net::{listen::BindError, resolved_names::ResolvedNames},
    profile::{BackendSet, DmzHalf, DmzMode, DmzService, Half, LinkAddress, ServiceName},
    proto::{Refusal, multiplex::frame::FrameType, socks5},
    telemetry::{
        link_cause::LinkCause,
        notices::NoticeLog,
        snapshot::{PoolRow, ServicePhase},
    },
    tls::{edge::EdgeTls, link::LinkIdentity},
};

/// The running DMZ half.
pub struct DmzSide {
    security: LinkSecurity,
    grants: Arc<ServiceGrants>,
    parts: DmzParts,
}

enum DmzParts {
    Direct(HashMap<ServiceName, BackendSet>),
    Forward {
        connect: Vec<LinkAddress>,
        links: Arc<GatewayShares>,
        pool: Arc<Pool>,
        dialler: Option<Arc<ForwardDialler>>,
    },
    Reverse {
        ingress: LinkIngress,
        handshakes: Arc<HandshakeLimiter>,
        pool: Arc<Pool>,
    },
}

impl DmzSide {
    /// Binds what this half needs; nothing runs yet.
    pub fn prepare(
        half: &DmzHalf,
        (identity, outer): (Option<LinkIdentity>, &EdgeTls),
        before: Option<&Self>,
        found: &ResolvedNames,
        common: &SharedContext,
    ) -> Result<Self, BindError> {
        let rule = match &half.mode {
            DmzMode::Direct(_) => ShareRule::Divided(1),
            DmzMode::Forward { connect, .. } => ShareRule::Divided(connect.len()),
            DmzMode::Reverse { tls, .. } => ShareRule::among(tls.as_ref().map_or(0, |tls| tls.peers.len())),
        };
        let links = GatewayShares::new(common.shares.load().dmz_links, rule);
        let grants = ServiceGrants::new(links.clone());
        let parts = match &half.mode {
            DmzMode::Direct(_) => DmzParts::Direct(HashMap::new()),
            DmzMode::Forward { connect, pool, .. } => {
                let pool = Pool::new(*pool, links.clone(), common.tasks.clone());
                DmzParts::Forward { connect: connect.clone(), links, pool, dialler: None }
            }
            DmzMode::Reverse { listen, bind, pool, .. } => {
                let pool = Pool::new(*pool, links, common.tasks.clone());
                let ingress = LinkIngress::prepare(listen, *bind, found)?;
                let handshakes = handshake_limiter(&ingress, common.shares.load().dmz_handshakes);
                DmzParts::Reverse { ingress, handshakes, pool }
            }
        };
        let identity = succeed_identity(identity, before.map(|before| &before.security.identity));
        let security = LinkSecurity::new(identity, outer, half.link_listen());
        Ok(Self { security, grants, parts })
    }

    /// Whether this half can keep running under another profile.
    pub fn fits(&self, half: &DmzHalf) -> bool {
        match (&self.parts, &half.mode) {
            (DmzParts::Direct(_), DmzMode::Direct(_)) => true,
            (DmzParts::Forward { connect, .. }, DmzMode::Forward { connect: wanted, .. }) => {
                connect == wanted
            }
            (DmzParts::Reverse { ingress, .. }, DmzMode::Reverse { listen, .. }) => ingress.fits(listen),
            (DmzParts::Direct(_) | DmzParts::Forward { .. } | DmzParts::Reverse { .. }, _) => false,
        }
    }

    pub fn start(&mut self, half: &DmzHalf, common: &SharedContext) {
        self.update_policy(half);
        let grants = self.grants.clone();
        match (&mut self.parts, &half.mode) {
            (DmzParts::Forward { connect, links, pool, dialler }, DmzMode::Forward { pool: limits, .. }) => {
                let keepers = KeeperContext {
                    half: Half::Dmz,
                    identity: self.security.identity.clone(),
                    outer: self.security.outer.clone(),
                    links: links.clone(),
                    tasks: common.tasks.clone(),
                    notices: common.notices.clone(),
                    lockdown: Default::default(),
                    dns: common.dns.clone(),
                };
                let wanted = KeeperTarget { prepared: limits.prepared, retry: SWITCH_RETRY };
                *dialler = Some(ForwardDialler::start(connect, wanted, pool.clone(), grants, keepers));
            }
            (DmzParts::Reverse { ingress, handshakes, pool }, _) => {
                let terms = HandshakeTerms {
                    end: HelloEnd::Opens(grants.clone()),
                    generation: pool.generation().clone(),
                };
                let context = handshake_context(&self.security, terms, handshakes, common);
                let intake = PoolIntake {
                    pool: pool.clone(),
                    grants,
                    services: common.sessions.services.clone(),
                    notices: common.notices.clone(),
                };
                let reception = LinkReception::new(context, Arc::new(intake));
                ingress.start(reception, &self.security, &common.tasks);
            }
            (DmzParts::Direct(_) | DmzParts::Forward { .. }, _) => {}
        }
    }

    fn pool(&self) -> Option<&Arc<Pool>> {
        match &self.parts {
            DmzParts::Direct(_) => None,
            DmzParts::Forward { pool, .. } | DmzParts::Reverse { pool, .. } => Some(pool),
        }
    }

    /// Continues under another profile with the same mode and ports.
    pub fn update(&mut self, half: &DmzHalf, identity: Option<LinkIdentity>) {
        let identity_stays = replace_identity(&self.security.identity, identity);
        self.security.follow_listener(half.link_listen());
        let policy_stays = self.update_policy(half);
        if !(identity_stays && policy_stays) {
            self.retire_links();
        }
    }

    /// Replaces the existing links.
    fn retire_links(&self) {
        match &self.parts {
            DmzParts::Direct(_) => {}
            DmzParts::Forward { dialler, pool, .. } => {
                dialler.iter().for_each(|dialler| dialler.retire_links());
                pool.retire_links();
            }
            DmzParts::Reverse { pool, .. } => pool.retire_links(),
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

    /// Keeps this many links ready to each gateway.
    pub fn resize(&mut self, prepared: usize) -> ResizeOutcome {
        let DmzParts::Forward { dialler: Some(dialler), .. } = &self.parts else {
            return ResizeOutcome::DialsNone;
        };
        if prepared == 0 {
            return ResizeOutcome::None;
        }
        let maximum = dialler.links_max();
        if prepared > maximum {
            return ResizeOutcome::Beyond { links: prepared, maximum };
        }
        dialler.update(KeeperTarget { prepared, retry: RETRY });
        ResizeOutcome::Done
    }

    /// Applies the policy of a profile; returns whether it was the same before.
    fn update_policy(&mut self, half: &DmzHalf) -> bool {
        let rule =
            |service: &DmzService| GrantRule { peers: service.peers.clone(), carries: service.carries };
        let rules = half.services.iter().map(|service| (service.name.clone(), rule(service)));
        let is_unchanged = self.grants.set_policy(rules.collect());
        match (&mut self.parts, &half.mode) {
            (DmzParts::Direct(backends), DmzMode::Direct(wanted)) => {
                *backends = wanted.iter().map(|(name, to)| (name.clone(), to.clone())).collect();
            }
            (DmzParts::Forward { pool, dialler, .. }, DmzMode::Forward { pool: limits, .. }) => {
                self.grants.set_retire(limits.retire);
                pool.set_limits(*limits);
                if let Some(dialler) = dialler {
                    dialler.update(KeeperTarget { prepared: limits.prepared, retry: RETRY });
                }
            }
            (DmzParts::Reverse { pool, .. }, DmzMode::Reverse { pool: limits, tls, .. }) => {
                self.grants.set_retire(limits.retire);
                pool.set_limits(*limits);
                pool.share_links(ShareRule::among(tls.as_ref().map_or(0, |tls| tls.peers.len())));
                let of_link = tls.as_ref().map(|tls| tls.peers.as_slice());
                let policy = self.grants.policy();
                pool.retain_allowed(|peer, service| {
                    peer.is_among(of_link)
                        && policy.get(service).is_some_and(|of| peer.is_among(of.peers.as_deref()))
                });
            }
            (DmzParts::Direct(_) | DmzParts::Forward { .. } | DmzParts::Reverse { .. }, _) => {}
        }
        is_unchanged
    }

    /// Where sessions of a service go.
    pub fn connector(&self, service: &ServiceName, edges: &EdgeTls) -> Option<Connector> {
        match &self.parts {
            DmzParts::Direct(backends) => {
                let group = BackendGroup::new(service, backends.get(service)?, edges);
                Some(Connector::Direct(group.into()))
            }
            DmzParts::Forward { dialler, .. } => Some(Connector::Forward(dialler.clone()?)),
            DmzParts::Reverse { pool, .. } => Some(Connector::Reverse(pool.clone())),
        }
    }

    /// Limits the number of links, and of those that are in their handshake.
    pub fn limit_links(&self, shares: &DescriptorShares) {
        if let Some(pool) = self.pool() {
            pool.limit_links(shares.dmz_links);
        }
        if let DmzParts::Reverse { handshakes, .. } = &self.parts {
            handshakes.resize(shares.dmz_handshakes);
        }
    }

    /// What is still missing before new sessions can be carried.
    pub fn missing_reason(&self) -> Option<String> {
        match &self.parts {
            DmzParts::Direct(_) => None,
            DmzParts::Forward { dialler, .. } => {
                dialler.as_ref().filter(|dialler| !dialler.all_serve()).map(|_| down_reason(&self.rows()))
            }
            DmzParts::Reverse { ingress, pool, .. } => (!pool.was_offered())
                .then(|| format!("no internal gateway has dialled in at {}", ingress.describe())),
        }
    }

    /// Whether it can carry sessions of every service, though not all of it is ready.
    pub fn can_serve_all(&self) -> bool {
        match &self.parts {
            DmzParts::Forward { dialler, .. } => dialler.as_ref().is_some_and(|dialler| dialler.any_serves()),
            DmzParts::Direct(_) | DmzParts::Reverse { .. } => self.missing_reason().is_none(),
        }
    }

    /// A switch has ended: gateways that do not answer are retried at the normal pace.
    pub fn use_normal_retry(&self, half: &DmzHalf) {
        if let (DmzParts::Forward { dialler: Some(dialler), .. }, DmzMode::Forward { pool, .. }) =
            (&self.parts, &half.mode)
        {
            dialler.update(KeeperTarget { prepared: pool.prepared, retry: RETRY });
        }
    }

    pub fn rows(&self) -> Vec<PoolRow> {
        match &self.parts {
            DmzParts::Direct(_) => Vec::new(),
            DmzParts::Forward { dialler, .. } => {
                let services = self.grants.policy();
                dialler.as_ref().map(|dialler| dialler.rows(services.keys())).unwrap_or_default()
            }
            DmzParts::Reverse { pool, .. } => pool.rows(self.grants.policy().keys()),
        }
    }

    /// Forgets lost gateways with this name or address; returns how many.
    pub fn dismiss(&self, name: &str) -> usize {
        match &self.parts {
            DmzParts::Reverse { pool, .. } => pool.dismiss(name),
            DmzParts::Direct(_) | DmzParts::Forward { .. } => 0,
        }
    }

    pub fn listening(&self) -> Vec<String> {
        match &self.parts {
            DmzParts::Reverse { ingress, .. } => ingress.listening(),
            DmzParts::Direct(_) | DmzParts::Forward { .. } => Vec::new(),
        }
    }

    /// The endpoint for links on a port whose clients begin with a request.
    pub fn endpoint(&self) -> Option<&EndpointIngress> {
        match &self.parts {
            DmzParts::Reverse { ingress, .. } => ingress.endpoint(),
            DmzParts::Direct(_) | DmzParts::Forward { .. } => None,
        }
    }

    /// Accepts no new links; ready ones can still be taken.
    pub fn close_port(&self) {
        match &self.parts {
            DmzParts::Forward { dialler: Some(dialler), .. } => dialler.stop_dialling(),
            DmzParts::Reverse { ingress, .. } => ingress.close(),
            DmzParts::Direct(_) | DmzParts::Forward { .. } => {}
        }
    }

    /// Links that still have to be closed.
    pub fn links(&self) -> usize {
        self.pool().map_or(0, |pool| pool.links())
    }

    /// Closes ready links; sessions go on.
    pub fn retire(&self) {
        self.close_port();
        match &self.parts {
            DmzParts::Forward { dialler: Some(dialler), .. } => dialler.retire(),
            DmzParts::Reverse { pool, .. } => pool.close(),
            DmzParts::Direct(_) | DmzParts::Forward { .. } => {}
        }
    }
}

/// Accepts the links that internal gateways dial.
#[derive(Debug, Clone)]
struct PoolIntake {
    pool: Arc<Pool>,
    grants: Arc<ServiceGrants>,
    services: Arc<ArcSwap<ServiceTable>>,
    notices: Arc<NoticeLog>,
}

impl LinkIntake for PoolIntake {
    fn take_in(&self, handshake: HandshakeOutcome, permit: HandshakePermit) -> BoxFuture<'static, ()> {
        let intake = self.clone();
        let taken_in = async move {
            match handshake {
                HandshakeOutcome::Seen(_) => {}
                HandshakeOutcome::Linked(linked) => intake.take_in_link(linked).await,
                HandshakeOutcome::SocksRequested(requested) => intake.take_in_parked(requested).await,
            }
            drop(permit);
        };
        taken_in.boxed()
    }
}

impl PoolIntake {
    /// Adds a link to the pool.
    async fn take_in_link(self, linked: EstablishedLink) {
        let who = linked.link.peer().label();
        for mismatch in self.pool.note_mismatches(linked.link.peer(), &linked.mismatches) {
            self.notices.warn_rejected_link(LinkCause::Other, format!("link from {who}: {mismatch}"));
        }
        if !linked.grant.granted.is_empty() {
            let Err(refused) = self.pool.take_in(linked) else { return };
            let line =
                format!("link from {who} refused: it has as many links as it may, or too many addresses");
            self.notices.warn_rejected_link(LinkCause::Other, line);
            let kind = self.pool.leave_kind();
            return refused.close_gracefully(kind).await;
        }
        if linked.mismatches.is_empty() {
            let why = "it offers no service that is known here and allows it in its `peers`";
            let line = format!("link from {who} refused: {why}");
            self.notices.warn_rejected_link(LinkCause::NoKnownService, line);
        }
        linked.link.close_gracefully(FrameType::Retire).await;
    }

    /// Parks a SOCKS5 link for the service that it names.
    async fn take_in_parked(self, requested: SocksRequest) {
        let SocksRequest { mut stream, peer, service } = requested;
        let allowed = self.grants.policy().get(&service).map(|of| peer.is_among(of.peers.as_deref()));
        let known = self.services.load().get(&(Half::Dmz, service.clone())).cloned();
        let drains = known.is_some_and(|known| known.phase() == ServicePhase::Draining);
        let refusal = match allowed {
            None => Some((Refusal::UnknownService, "no such service here")),
            Some(false) => Some((Refusal::NotAllowed, "it is not among the service's `peers`")),
            Some(true) if drains => Some((Refusal::Draining, "the service is draining")),
            Some(true) => None,
        };
        let share = match refusal {
            Some(refused) => Err(refused),
            None => self.pool.share_for(&peer).ok_or((Refusal::Full, "it has as many links as it may")),
        };
        let share = match share {
            Ok(share) => share,
            Err((refusal, why)) => {
                let who = peer.label();
                let line = format!("link from {who} for `{service}` refused: {why}");
                self.notices.warn_rejected_link(LinkCause::Other, line);
                return handshake::refuse(stream, refusal).await;
            }
        };
        let granted = tokio::time::timeout(
            crate::link::HANDSHAKE_TIMEOUT,
            socks5::send_reply(&mut stream, socks5_proto::Reply::Succeeded),
        );
        if let Ok(Ok(())) = granted.await
            && let Err(unwanted) = self.pool.park((peer, share), service, stream)
        {
            handshake::close_lingering(unwanted).await;
        }
    }
}
