//! How a keeper dials links, and the events that it sends about them. Whoever takes the links learns of them by an event, so
//! a keeper knows neither pools nor sessions.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{
    KeeperState, KeeperTarget, LinkKeeper, LinkProtocol, RECONCILE_INTERVAL, notices::unused_reason,
};
use crate::{
    link::{
        Peer,
        dial_state::{DialFailure, LinkReuse},
        grants::CarriesMismatch,
        handshake::{self, DialledStream, EstablishedLink},
        link_guard::LinkGuard,
        shares::SharePermit,
    },
    profile::{Half, ServiceName},
    proto::multiplex::frame::FrameType,
};

/// An event that a keeper sends to its owner.
#[derive(Debug)]
pub enum KeeperEvent {
    /// Takes over a link of our own that is up and already counted.
    Linked(EstablishedLink),
    /// A link came up, but no service was granted on it.
    NothingGranted(Peer, Vec<CarriesMismatch>),
    /// A SOCKS5 link is established up to and including TLS.
    SocksDialled(SocksLink),
}

/// A SOCKS5 link that has just been dialled.
#[derive(Debug)]
pub struct SocksLink {
    pub reached: DialledStream,
    /// The service it is to be parked for.
    pub service: Option<ServiceName>,
    pub permit: SharePermit,
    /// Counts it as dialling until it is up or has failed.
    pub under_way: DialGuard,
}

impl LinkKeeper {
    /// Starts what is missing of one kind of link; how long until there is reason to look again.
    pub(super) fn dial_missing(
        self: &Arc<Self>,
        state: &mut KeeperState,
        service: Option<ServiceName>,
        events: &mpsc::Sender<KeeperEvent>,
    ) -> Duration {
        let wanted = match state.protocol {
            // One dial, to learn what the peer speaks, or to check that it is there.
            None => 1,
            Some(LinkProtocol::Socks) if service.is_none() => 1,
            Some(_) => self.target(state, service.as_ref()),
        };
        let space = state.peer_links_max.saturating_sub(state.links());
        let kept = state.wanted;
        let reuse =
            if state.protocol == Some(LinkProtocol::Socks) { LinkReuse::OneSession } else { LinkReuse::Long };
        let dial_state = self.dial_state(state, service.as_ref());
        let now = Instant::now();
        let missing = dial_state.missing_dials(wanted);
        // Also during a pause, in which links may end.
        dial_state.counts.set_at_maximum(missing > space);
        let may_dial = || missing == 0 && space > 0 && self.context.links.is_open_to(&self.name);
        dial_state.counts.set_can_spare(dial_state.counts.ready() > wanted || may_dial());
        if let Some(pause) = dial_state.pause(now) {
            return pause.min(RECONCILE_INTERVAL);
        }
        for _ in 0..missing.min(space) {
            let Some(permit) = self.context.links.take(&self.name) else {
                dial_state.counts.set_at_maximum(true);
                break;
            };
            if !dial_state.may_dial(KeeperTarget { prepared: wanted, ..kept }, reuse, now) {
                break;
            }
            dial_state.dialling += 1;
            let dial = self.clone().dial_link(service.clone(), permit, events.clone());
            self.context.tasks.spawn("dialled link", dial);
        }
        RECONCILE_INTERVAL
    }

    /// One link from its dial to where it is taken.
    async fn dial_link(
        self: Arc<Self>,
        service: Option<ServiceName>,
        mut permit: SharePermit,
        events: mpsc::Sender<KeeperEvent>,
    ) {
        let under_way = DialGuard { keeper: self.clone(), service: service.clone() };
        let holds = self.terms.generation.token();
        let Some(dialled) = self.retired.run_until_cancelled(self.dial()).await else { return };
        let reached = match dialled {
            Ok(reached) => reached,
            Err(error) => return self.note_failed(service.as_ref(), &error.into(), DialFailure::Path),
        };
        if let Some(name) = &reached.peer.name {
            permit.note_name(name);
        }
        let is_own = handshake::uses_own_protocol(&reached.stream);
        self.note_protocol(if is_own { LinkProtocol::Own } else { LinkProtocol::Socks }, &reached);
        if is_own {
            let hello = handshake::exchange_hello(reached, &self.terms.end, self.wanted().prepared, holds);
            let Some(linked) = self.retired.run_until_cancelled(hello).await else { return };
            return match linked {
                Ok(linked) => self.establish_link(linked, permit, &events).await,
                Err(error) => self.note_failed(None, &error.into(), DialFailure::Path),
            };
        }
        let service = service.or_else(|| self.parked_services().first().cloned());
        send_event(&events, KeeperEvent::SocksDialled(SocksLink { reached, service, permit, under_way }))
            .await;
    }

    async fn establish_link(
        &self,
        mut linked: EstablishedLink,
        permit: SharePermit,
        events: &mpsc::Sender<KeeperEvent>,
    ) {
        let peer = linked.link.peer().clone();
        if linked.grant.granted.is_empty() {
            self.note_failed(None, &unused_reason(&linked), DialFailure::Path);
            send_event(events, KeeperEvent::NothingGranted(peer, linked.mismatches)).await;
            return linked.link.close_gracefully(FrameType::Retire).await;
        }
        self.report_refused(&linked);
        linked.link.set_guard(LinkGuard::ready(&self.counts(None), Some(permit)));
        {
            let mut state = self.lock();
            state.serves = Some(linked.link.serves().clone());
            state.peer_links_max = match self.context.half {
                Half::Internal => linked.grant.links_max,
                Half::Dmz => linked.offer.links_max,
            }
            .max(1)
            .into();
        }
        self.note_established(None, &peer.label());
        send_event(events, KeeperEvent::Linked(linked)).await;
    }

    fn note_protocol(&self, protocol: LinkProtocol, reached: &DialledStream) {
        let mut state = self.lock();
        if state.protocol.replace(protocol) != Some(protocol) {
            drop(state);
            self.report_other_version(reached);
            self.changed.notify_one();
        }
    }
}

async fn send_event(events: &mpsc::Sender<KeeperEvent>, event: KeeperEvent) {
    // Where nobody takes links any more, it is dropped.
    let _ = events.send(event).await;
}

/// Counts a dial as under way until it is dropped.
pub struct DialGuard {
    keeper: Arc<LinkKeeper>,
    service: Option<ServiceName>,
}

impl Drop for DialGuard {
    fn drop(&mut self) {
        if let Some(state) = self.keeper.lock().dial_states.get_mut(&self.service) {
            // The dial state may have been recreated meanwhile.
            state.dialling = state.dialling.saturating_sub(1);
        }
        self.keeper.changed.notify_one();
    }
}

impl fmt::Debug for DialGuard {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("DialGuard").field(&self.service).finish()
    }
}
