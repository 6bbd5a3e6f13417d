//! Keeps links to one gateway dialled, whichever half dials and whatever protocol the other gateway speaks.
//!
//! It works by reconciliation: on every event and on a timer, it compares the links that are ready or under way
//! with those that are wanted. Then it dials the missing ones, several at once. A failed dial needs no
//! correction, since nothing was promised. After a failure it pauses, and then dials one link at a time until
//! one is up. Dialling counts as healthy again when a link has lived for [`STABLE_PERIOD`] or has carried a session,
//! since the other gateway may accept links and close each at once.
//!
//! The first link shows which protocol the other gateway speaks. Links of our own are for any service. SOCKS5
//! links are parked for one service each or, where this half opens sessions, dialled for one session each.
//!
//! Established links are not handled here: the owner of a keeper receives each as a [`KeeperEvent`], and reports
//! its end.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    carrier::OuterTlsCell,
    dial_state::{DialFailure, DialState, FailureRun},
    error::LinkError,
    handshake::{self, DialledStream, HandshakeError, HandshakeTerms},
    link_guard::{LinkActivity, LinkCounters},
    link_services::LinkServices,
    lockdown::Lockdown,
    server::{IdleLossReason, LinkLost},
    shares::{GatewayShares, SharePermit},
    target_addresses::TargetAddresses,
};
use crate::{
    net::dns::DnsResolver,
    profile::{Half, LinkAddress, RetryPolicy, ServiceName},
    tasks::Tasks,
    telemetry::{link_cause::LinkCause, notices::NoticeLog},
    tls::link::LinkIdentity,
};

mod changes;
mod dialling;
mod notices;
mod rows;
mod sharers;

pub use dialling::{KeeperEvent, SocksLink};
use sharers::AddressSharers;

/// A keeper checks at least this often, even without an event.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(1);
/// A link that was ready for this long proves that dialling works, so losing it starts no pause.
pub const STABLE_PERIOD: Duration = Duration::from_secs(1);
/// How often to check a SOCKS5 gateway that is otherwise dialled once for each session.
const SOCKS_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Links that may wait to be taken; the dials of more wait.
const EVENTS_MAX: usize = 16;

/// How many links a keeper keeps, and how it retries after a failure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KeeperTarget {
    pub prepared: usize,
    pub retry: RetryPolicy,
}

/// State shared by the keepers of one half.
#[derive(Clone)]
pub struct KeeperContext {
    pub half: Half,
    pub identity: Arc<ArcSwap<Option<LinkIdentity>>>,
    pub outer: OuterTlsCell,
    /// All links of the half, ready or carrying, by gateway.
    pub links: Arc<GatewayShares>,
    pub tasks: Tasks,
    pub notices: Arc<NoticeLog>,
    /// Which gateways must not be dialled.
    pub lockdown: Lockdown,
    /// Looks up names whose addresses are all dialled.
    pub dns: DnsResolver,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkProtocol {
    Own,
    Socks,
}

pub struct LinkKeeper {
    gateway: LinkAddress,
    /// The addresses of a target of SRV records.
    target: Option<TargetAddresses>,
    /// Its address, which serves as its name until it has shown its certificate.
    name: Arc<str>,
    context: KeeperContext,
    terms: HandshakeTerms,
    state: Mutex<KeeperState>,
    changed: Arc<Notify>,
    retired: CancellationToken,
    stop_dialling: CancellationToken,
}

struct KeeperState {
    wanted: KeeperTarget,
    /// How many links in all the peer accepts.
    peer_links_max: usize,
    protocol: Option<LinkProtocol>,
    /// By the service that the links are ready for; `None` means any service.
    dial_states: BTreeMap<Option<ServiceName>, DialState>,
    peer: Option<Arc<str>>,
    /// What its newest link is used for.
    serves: Option<Arc<LinkServices>>,
    /// What its links are not used for, and why.
    refused: Vec<String>,
    /// The first service that carries something else at the peer.
    mismatch: Option<String>,
    sharers: AddressSharers,
}

impl LinkKeeper {
    /// Starts keeping links. Each established link is sent as an event; the channel closes when the
    /// keeper stops dialling.
    pub fn start(
        gateway: LinkAddress,
        wanted: KeeperTarget,
        context: KeeperContext,
        terms: HandshakeTerms,
    ) -> (Arc<Self>, mpsc::Receiver<KeeperEvent>) {
        let state = KeeperState {
            wanted,
            peer_links_max: usize::MAX,
            // A plain link can only speak SOCKS5.
            protocol: (!gateway.tls).then_some(LinkProtocol::Socks),
            dial_states: BTreeMap::new(),
            peer: None,
            serves: None,
            refused: Vec::new(),
            mismatch: None,
            sharers: AddressSharers::default(),
        };
        let retired = CancellationToken::new();
        let keeper = Arc::new(Self {
            name: gateway.to_string().into(),
            target: TargetAddresses::follow(&gateway, &context, retired.clone()),
            gateway,
            context,
            terms,
            state: Mutex::new(state),
            changed: Arc::default(),
            retired,
            stop_dialling: CancellationToken::new(),
        });
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        keeper.context.tasks.spawn("keeper", keeper.clone().run(events));
        (keeper, receiver)
    }

    /// How many links in all the peer accepts, as far as is known.
    pub fn links_max(&self) -> usize {
        self.lock().peer_links_max
    }

    /// Stops dialling; ready links stay until [`LinkKeeper::retire`].
    pub fn stop_dialling(&self) {
        self.stop_dialling.cancel();
    }

    /// Ends the keeper and every parked SOCKS5 link. Sessions go on.
    pub fn retire(&self) {
        self.stop_dialling.cancel();
        self.retired.cancel();
    }

    /// A token that is cancelled when the links of a service are no longer wanted.
    pub fn retired_token(&self, service: Option<&ServiceName>) -> CancellationToken {
        self.dial_state(&mut self.lock(), service).retired.clone()
    }

    /// A permit for a link that is dialled for one session.
    pub fn take_permit(&self) -> Option<SharePermit> {
        self.context.links.take(&self.name)
    }

    /// Why a half without a `maximum` has no permit for one more link: descriptors are short, unless the profile
    /// bounds the links of each peer.
    pub fn bound_cause(&self) -> LinkCause {
        match self.context.links.is_at_own_bound(&self.name) {
            true => LinkCause::AtMaximum,
            false => LinkCause::NoDescriptor,
        }
    }

    pub fn gateway(&self) -> &LinkAddress {
        &self.gateway
    }

    /// Connects to the gateway, including TLS.
    pub async fn dial(&self) -> Result<DialledStream, HandshakeError> {
        let (identity, outer) = (self.context.identity.load_full(), self.context.outer.load_full());
        handshake::dial(&self.gateway, self.target.as_ref(), identity.as_ref().as_ref(), &outer).await
    }

    /// Whether the peer speaks SOCKS5, as far as is known.
    pub fn uses_socks(&self) -> bool {
        self.lock().protocol == Some(LinkProtocol::Socks)
    }

    /// Whether new sessions of a service can come through this gateway: enough links are ready, or sessions are
    /// coming already. Under load, a pool may never be seen full.
    pub fn can_serve(&self, service: Option<&ServiceName>) -> bool {
        let mut state = self.lock();
        let prepared = state.wanted.prepared;
        let parks = self.parked_services();
        match (state.protocol, service) {
            (None, _) => false,
            (Some(LinkProtocol::Own), _) => self.dial_state(&mut state, None).has_enough(prepared),
            (Some(LinkProtocol::Socks), _) if parks.is_empty() => {
                self.dial_state(&mut state, None).is_healthy()
            }
            (Some(LinkProtocol::Socks), Some(_)) => self.dial_state(&mut state, service).has_enough(prepared),
            (Some(LinkProtocol::Socks), None) => {
                parks.iter().all(|service| self.dial_state(&mut state, Some(service)).has_enough(prepared))
            }
        }
    }

    /// The counters of the links for one service, or for any.
    pub fn counts(&self, service: Option<&ServiceName>) -> Arc<LinkCounters> {
        self.dial_state(&mut self.lock(), service).counts.clone()
    }

    /// The services that SOCKS5 links are parked for; empty if each session dials its own link.
    fn parked_services(&self) -> Vec<ServiceName> {
        self.terms.end.parked_services()
    }

    async fn run(self: Arc<Self>, events: mpsc::Sender<KeeperEvent>) {
        loop {
            let pause = self.reconcile(&events);
            tokio::select! {
                () = self.stop_dialling.cancelled() => return,
                () = self.changed.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Starts the missing dials. Returns how long to wait until the next check.
    fn reconcile(self: &Arc<Self>, events: &mpsc::Sender<KeeperEvent>) -> Duration {
        let mut state = self.lock();
        if self.is_locked(&state) {
            return RECONCILE_INTERVAL;
        }
        self.release_surplus(&mut state);
        self.check_sharers(&mut state);
        let parks = self.parked_services();
        let dialled_for: Vec<_> = match state.protocol {
            Some(LinkProtocol::Socks) if !parks.is_empty() => parks.into_iter().map(Some).collect(),
            Some(_) | None => vec![None],
        };
        let pauses = dialled_for.into_iter().map(|service| {
            self.check_links(&mut state, service.as_ref());
            self.dial_missing(&mut state, service, events)
        });
        pauses.min().unwrap_or(RECONCILE_INTERVAL)
    }

    /// Checks whether several gateways stand behind the address, and whether one of them is gone.
    fn check_sharers(&self, state: &mut KeeperState) {
        let linked = self.dial_state(state, None).counts.instances();
        self.report_sharers(&state.sharers.compare(&linked));
    }

    /// Checks what the links have shown about the gateway since the last time.
    fn check_links(&self, state: &mut KeeperState, service: Option<&ServiceName>) {
        let (retry, now) = (state.wanted.retry, Instant::now());
        let dial_state = self.dial_state(state, service);
        let proven = dial_state.check_proven(now);
        self.report_proven(service, proven.unwrap_or_default());
        if let Some(broken) = dial_state.counts.take_violation().map(LinkError::Violation) {
            let run = dial_state.note_failure(broken.fault(), DialFailure::Protocol, retry, now);
            self.report_failed(service, &broken.fault(), DialFailure::Protocol, run);
        }
        self.check_drain(dial_state, service, retry);
        if let Some(refused) = dial_state.take_held_back(RECONCILE_INTERVAL, now) {
            self.report_failed(service, &refused, DialFailure::Path, FailureRun::Begins);
        }
    }

    /// Checks whether the gateway has said that it drains. Its links may carry sessions for long; until one is
    /// up again, it is dialled with pauses.
    fn check_drain(&self, dial_state: &mut DialState, service: Option<&ServiceName>, retry: RetryPolicy) {
        if dial_state.counts.take_drain() {
            let fault = LinkError::Drains.fault();
            let run = dial_state.note_drain(fault.clone(), retry, Instant::now());
            self.report_failed(service, &fault, DialFailure::Drains, run);
        }
    }

    /// Closes links that are no longer needed.
    fn release_surplus(&self, state: &mut KeeperState) {
        if state.protocol == Some(LinkProtocol::Own) {
            let counts = self.dial_state(state, None).counts.clone();
            let target = self.target(state, None);
            // Keeps up to a quarter more than wanted, since they may be needed again soon.
            let spare = counts.count(LinkActivity::Ready);
            counts.set_surplus(spare.saturating_sub(target + target / 4));
        }
    }

    /// Notes that a link is up, for one service or for any.
    pub fn note_established(&self, service: Option<&ServiceName>, peer: &Arc<str>) {
        let mut state = self.lock();
        state.peer = Some(peer.clone());
        self.dial_state(&mut state, service).note_established(Instant::now());
        drop(state);
        self.changed.notify_one();
    }

    /// Notes that a gateway which each session dials was reached; it is checked again later.
    pub fn note_reached(&self, peer: &Arc<str>) {
        self.note_established(None, peer);
        let failures = {
            let mut state = self.lock();
            let dial_state = self.dial_state(&mut state, None);
            dial_state.next_check = Some(Instant::now() + SOCKS_CHECK_INTERVAL);
            dial_state.note_proven()
        };
        self.report_proven(None, failures);
    }

    /// Notes that an idle link has ended.
    pub fn note_lost(&self, service: Option<&ServiceName>, LinkLost { lifetime, why }: LinkLost) {
        match why {
            IdleLossReason::Retired => self.changed.notify_one(),
            IdleLossReason::Drained => {
                let mut state = self.lock();
                let retry = state.wanted.retry;
                self.check_drain(self.dial_state(&mut state, service), service, retry);
                drop(state);
                self.changed.notify_one();
            }
            IdleLossReason::Failed(why) => {
                // Breaking the protocol counts as a failure, however long the link was up.
                let is_broken = self.dial_state(&mut self.lock(), service).counts.take_violation().is_some();
                let failure = match is_broken {
                    true => DialFailure::Protocol,
                    false if lifetime >= STABLE_PERIOD => DialFailure::Link,
                    false => DialFailure::Path,
                };
                let error = match self.gateway.via.clone() {
                    None => LinkError::Lost(why),
                    Some(proxy) => LinkError::LostThrough { proxy, lived: lifetime, why },
                };
                self.note_failed(service, &error, failure);
            }
        }
    }

    /// Notes that a dial or a ready link has failed.
    pub fn note_failed(&self, service: Option<&ServiceName>, error: &LinkError, failure: DialFailure) {
        let mut state = self.lock();
        let (retry, now) = (state.wanted.retry, Instant::now());
        let dial_state = self.dial_state(&mut state, service);
        let proven = dial_state.check_proven(now);
        let fault = error.fault();
        let run = dial_state.note_failure(fault.clone(), failure, retry, now);
        let is_held_back = run == FailureRun::Begins && dial_state.hold_back(&fault, failure, now);
        drop(state);
        self.report_proven(service, proven.unwrap_or_default());
        if !is_held_back {
            self.report_failed(service, &fault, failure, run);
        }
        self.changed.notify_one();
    }

    fn dial_state<'a>(&self, state: &'a mut KeeperState, service: Option<&ServiceName>) -> &'a mut DialState {
        let new =
            || DialState::new(LinkCounters::notifying(self.changed.clone()), self.retired.child_token());
        state.dial_states.entry(service.cloned()).or_insert_with(new)
    }

    fn lock(&self) -> MutexGuard<'_, KeeperState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeeperState {
    /// All links, including those being dialled.
    fn links(&self) -> usize {
        let of = |dial_state: &DialState| dial_state.counts.links() + dial_state.dialling;
        self.dial_states.values().map(of).sum()
    }
}
