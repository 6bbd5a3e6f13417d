//! An established link of our own: what was agreed on it, and when it should leave.
//!
//! Its owner, a pool or a server, asks for its next event over and over. Whatever concerns only the link is
//! done here. It is counted, its round trips are recorded, and it is asked to leave when it is old, when its
//! terms have changed, or when there are too many.

use std::{
    future::Future,
    sync::{Arc, OnceLock, atomic::AtomicU32},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    DRAIN_TIMEOUT, LINGERING_CLOSE_TIMEOUT, Peer,
    error::IdleLinkError,
    grants::CarriesMismatch,
    keeper::STABLE_PERIOD,
    link_guard::LinkGuard,
    link_services::LinkServices,
    link_table::next_link_id,
    liveness::PING_INTERVAL,
    load::LinkLoad,
    lockdown::Lockdown,
    multiplex::{
        handle::{IncomingSession, LinkHandle, LinkLoss},
        moving::MoveTargets,
        parked::ParkedSessions,
        task::{LinkParts, MultiplexedLink, OwnerEvent},
    },
    peer_record::PeerRecord,
    server::IdleLossReason,
};
use crate::{
    net::{certificate_watch::RevocationSignal, stream::NetStream},
    profile::ServiceName,
    proto::{
        Refusal,
        multiplex::{
            PeerViolation,
            frame::FrameType,
            hello::{HelloAbout, InstanceId, ServiceOffer},
            open::OpenRequest,
            state::LinkEnd,
        },
    },
};

/// The software name that a gateway sends.
pub const SOFTWARE: &str = concat!("portcullis ", env!("CARGO_PKG_VERSION"));
/// After more sessions in a row for services that were not offered, a link is closed.
const MISTAKES_MAX: u32 = 32;
/// An `open` that comes this long after we asked its opener to leave has not crossed that on the way.
pub const CROSSING_MAX: Duration = Duration::from_secs(5);

/// Session numbers of this process. All its peers share them, so they are unique for each.
static SESSION_NUMBERS: OnceLock<Arc<AtomicU32>> = OnceLock::new();
/// Sessions of this process that have left a link. All links share them.
static PARKED_SESSIONS: OnceLock<Arc<ParkedSessions>> = OnceLock::new();
static INSTANCE: OnceLock<InstanceId> = OnceLock::new();

/// Which process this gateway is.
pub fn instance() -> InstanceId {
    *INSTANCE.get_or_init(|| InstanceId(std::array::from_fn(|_| fastrand::u8(..))))
}

/// What this process says about itself.
pub fn about() -> HelloAbout {
    HelloAbout { software: SOFTWARE.into(), instance: instance() }
}

#[derive(Debug)]
pub struct AgreedLink {
    link: MultiplexedLink,
    handle: LinkHandle,
    peer: Peer,
    load: Arc<LinkLoad>,
    serves: Arc<LinkServices>,
    retired: CancellationToken,
    guard: Option<LinkGuard>,
    record: Option<Arc<PeerRecord>>,
    expires_at: Instant,
    check_at: Instant,
    since: Instant,
    /// When we asked it to leave.
    asked_at: Option<Instant>,
    /// When either end first said that it leaves.
    leaves_since: Option<Instant>,
    /// The other end has said that it leaves, or asked us to.
    received: Option<FrameType>,
    /// A session was opened on it and looked at.
    has_carried: bool,
    /// Sessions in a row for services that were not offered on it.
    mistakes: u32,
    /// Signals that the certificate of the other end is revoked.
    revocation: RevocationSignal,
    /// At a server: gateways that are locked keep no links.
    lockdown: Lockdown,
    /// Why and by when the link is dropped, whatever its peer does.
    dropped: Option<(DropCause, Instant)>,
}

/// Why a link is dropped although its peer does not leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DropCause {
    Revoked,
    Locked,
}

/// An event that a link reports to its owner.
#[derive(Debug)]
pub enum AgreedLinkEvent {
    Opened(Box<OpenRequest>, IncomingSession),
    /// A session has ended, and the link may have been full before.
    HasRoom,
    /// The server has replaced its offer. Holds the services that carry something else here.
    Offers(Vec<CarriesMismatch>),
    /// It takes no more sessions.
    Leaves(FrameType),
    Ended(IdleLossReason),
}

/// The agreement of the two ends of a link.
#[derive(Debug)]
pub struct Agreement {
    pub end: LinkEnd,
    pub sessions_max: usize,
    /// What its server may be asked for: at an opener, what it is granted; at a server, what it has offered.
    pub serves: LinkServices,
    /// It is replaced at this age, give or take a tenth, so that not all links are replaced at once.
    pub retire: Duration,
    /// Cancelled when the agreement is no longer valid.
    pub retired: CancellationToken,
}

impl AgreedLink {
    pub fn new(stream: NetStream, peer: Peer, agreed: Agreement) -> Box<Self> {
        let Agreement { end, sessions_max, serves, retire, retired } = agreed;
        let load = LinkLoad::new(sessions_max);
        let numbers = SESSION_NUMBERS.get_or_init(Arc::default).clone();
        let id = next_link_id();
        let revocation = stream.revocation();
        let parked = PARKED_SESSIONS.get_or_init(Arc::default).clone();
        let parts = LinkParts { id, stream, peer: peer.clone(), end, load: load.clone(), numbers, parked };
        let (link, handle) = MultiplexedLink::new(parts);
        let now = Instant::now();
        Box::new(Self {
            link,
            handle,
            peer,
            load,
            serves: Arc::new(serves),
            retired,
            guard: None,
            record: None,
            expires_at: now + retire.mul_f64(0.9 + 0.2 * fastrand::f64()),
            check_at: now + PING_INTERVAL,
            since: now,
            asked_at: None,
            leaves_since: None,
            received: None,
            has_carried: false,
            mistakes: 0,
            revocation,
            lockdown: Lockdown::default(),
            dropped: None,
        })
    }

    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Its socket, if there is one.
    pub fn tcp(&self) -> Option<&tokio::net::TcpStream> {
        self.link.stream().tcp()
    }

    pub fn handle(&self) -> &LinkHandle {
        &self.handle
    }

    pub fn load(&self) -> &Arc<LinkLoad> {
        &self.load
    }

    pub fn serves(&self) -> &Arc<LinkServices> {
        &self.serves
    }

    /// Whether the terms it was opened under are no longer valid.
    pub fn has_expired(&self) -> bool {
        self.retired.is_cancelled()
    }

    /// Counts it for its peer from now on, until it is dropped.
    pub fn set_guard(&mut self, guard: LinkGuard) {
        let link = (self.handle.id(), self.link.stream());
        self.guard = Some(guard.describe_shared(link, &self.load, &self.peer, self.link.end));
    }

    /// At a server: what its links obey.
    pub fn obey_lockdown(&mut self, lockdown: Lockdown) {
        self.lockdown = lockdown;
    }

    pub fn set_peer_record(&mut self, record: Arc<PeerRecord>) {
        self.record = Some(record);
    }

    /// How long it has been up.
    pub fn lifetime(&self) -> Duration {
        self.since.elapsed()
    }

    /// At a server: tells the other end what is offered now, where that has changed.
    pub fn offer(&mut self, services: Vec<ServiceOffer>) {
        if self.serves.note_offer(&services).has_changed {
            self.link.offer(services);
        }
    }

    /// Says that no more sessions are wanted, or opened, here; the link ends after the last one has ended.
    pub fn leave(&mut self, kind: FrameType) {
        if self.asked_at.is_none() {
            let now = Instant::now();
            self.asked_at = Some(now);
            self.leaves_since.get_or_insert(now);
            self.link.ask_to_leave(kind);
            self.guard.iter_mut().for_each(LinkGuard::mark_leaving);
        }
    }

    /// At an opener: its heavy sessions go on over these other links, as far as there are any.
    pub fn move_heavy_sessions_to(&mut self, targets: Arc<dyn MoveTargets>) {
        self.link.move_heavy_sessions_to(targets);
    }

    /// At an opener: all its sessions go on over other links from now on.
    pub fn move_sessions(&mut self) {
        self.link.move_sessions();
    }

    /// The next event. `requested` resolves when its owner wants it to leave.
    pub async fn next_event(&mut self, requested: impl Future<Output = FrameType>) -> AgreedLinkEvent {
        tokio::pin!(requested);
        loop {
            let expired_at = self.expired_at();
            let kind = tokio::select! {
                biased;
                // What ends the link comes before its events, since a peer can make those without end.
                () = wait_until(self.dropped.map(|(_, by)| by)), if self.dropped.is_some() => {
                    return AgreedLinkEvent::Ended(self.reason(&LinkLoss::Closed));
                }
                () = wait_until(expired_at) => match self.overdue_reason() {
                    Some(reason) => return AgreedLinkEvent::Ended(reason),
                    None => continue,
                },
                () = self.revocation.given(), if self.dropped.is_none() => {
                    self.revoke();
                    return AgreedLinkEvent::Leaves(FrameType::Retire);
                }
                () = self.lockdown.locked(&self.peer), if self.dropped.is_none() => {
                    self.leave(FrameType::Drain);
                    self.dropped = Some((DropCause::Locked, Instant::now() + LINGERING_CLOSE_TIMEOUT));
                    return AgreedLinkEvent::Leaves(FrameType::Drain);
                }
                event = self.link.next_event() => match self.note(event) {
                    Some(event) => return event,
                    None => continue,
                },
                () = self.load.changed() => {
                    self.guard.iter_mut().for_each(|guard| guard.set_fill_level(self.load.fill_level()));
                    match self.load.has_room() {
                        true => return AgreedLinkEvent::HasRoom,
                        false => continue,
                    }
                }
                kind = &mut requested, if self.asked_at.is_none() => kind,
                () = self.retired.cancelled(), if self.asked_at.is_none() => FrameType::Retire,
                () = sleep_until(self.check_at.min(self.expires_at)), if self.asked_at.is_none() => {
                    self.check_at = Instant::now() + PING_INTERVAL;
                    let is_surplus =
                        || self.guard.as_ref().is_some_and(|guard| guard.counts().take_surplus());
                    let is_idle = self.load.sessions() == 0 && self.link.is_idle();
                    if Instant::now() < self.expires_at && !(is_idle && is_surplus()) {
                        continue;
                    }
                    FrameType::Retire
                }
            };
            self.leave(kind);
            return AgreedLinkEvent::Leaves(kind);
        }
    }

    /// Handles a revoked certificate of the other end: nothing is carried for it any more.
    fn revoke(&mut self) {
        let now = Instant::now();
        self.dropped = Some((DropCause::Revoked, now + LINGERING_CLOSE_TIMEOUT));
        self.asked_at.get_or_insert(now);
        self.leaves_since.get_or_insert(now);
        self.guard.iter_mut().for_each(LinkGuard::mark_leaving);
        self.link.revoke();
    }

    fn is_dropped_for(&self, cause: DropCause) -> bool {
        self.dropped.is_some_and(|(of, _)| of == cause)
    }

    /// When a link that is leaving has to be closed, as far as is known now.
    fn expired_at(&self) -> Option<Instant> {
        let leaves_since = self.leaves_since?;
        let still_carries = || Instant::now() + DRAIN_TIMEOUT;
        Some(
            self.link
                .quiet_since()
                .map_or_else(still_carries, |quiet| quiet.max(leaves_since) + DRAIN_TIMEOUT),
        )
    }

    /// The reason, if the other end is alive but does not close a link that carries nothing.
    fn overdue_reason(&self) -> Option<IdleLossReason> {
        self.expired_at().filter(|by| *by <= Instant::now())?;
        let is_drain = self.received == Some(FrameType::Drain);
        Some(if is_drain { IdleLossReason::Drained } else { IdleLossReason::Retired })
    }

    /// Ends the link if its peer keeps requesting what it was not offered: it ignores what is
    /// offered, so it does not run this software.
    fn judge_service(&mut self, service: &ServiceName) {
        self.mistakes = if self.serves.was_offered(service) { 0 } else { self.mistakes + 1 };
        if self.mistakes >= MISTAKES_MAX {
            self.link.break_off(PeerViolation::TooMany("sessions for services that were not offered"));
        }
    }

    fn note(&mut self, event: OwnerEvent) -> Option<AgreedLinkEvent> {
        match event {
            OwnerEvent::Opened(_, session) if self.is_dropped_for(DropCause::Revoked) => {
                self.link.refuse_incoming(session, Refusal::NotAllowed);
                None
            }
            // Its opener does not leave, although it was asked to.
            OwnerEvent::Opened(_, session)
                if self.asked_at.is_some_and(|at| at.elapsed() >= CROSSING_MAX) =>
            {
                self.link.refuse_incoming(session, Refusal::OtherLink);
                None
            }
            OwnerEvent::Opened(request, session) => {
                self.has_carried = true;
                self.judge_service(&request.service);
                self.guard.iter_mut().for_each(LinkGuard::note_session);
                Some(AgreedLinkEvent::Opened(request, session))
            }
            OwnerEvent::Answered => {
                self.has_carried = true;
                self.record.iter().for_each(|record| record.note_answered());
                if let Some(guard) = &mut self.guard {
                    guard.counts().note_carried();
                    if self.record.is_some() {
                        guard.note_session();
                    }
                }
                None
            }
            OwnerEvent::Refused => {
                self.has_carried = true;
                self.record.iter().for_each(|record| record.note_answered());
                None
            }
            OwnerEvent::Resumed => {
                self.has_carried = true;
                None
            }
            OwnerEvent::RoundTrip(took) => {
                self.guard.iter().for_each(|guard| guard.counts().note_round_trip(took));
                None
            }
            OwnerEvent::Services(offer) => {
                let change = self.serves.note_offer(&offer);
                let is_news = change.has_changed || !change.mismatches.is_empty();
                is_news.then_some(AgreedLinkEvent::Offers(change.mismatches))
            }
            OwnerEvent::Leaving(kind) => {
                self.received = Some(kind);
                self.leaves_since.get_or_insert_with(Instant::now);
                if let Some(guard) = &mut self.guard {
                    // Before the link is missed: whoever dials another one has to know why.
                    if kind == FrameType::Drain {
                        guard.counts().note_drain();
                    }
                    guard.mark_leaving();
                }
                Some(AgreedLinkEvent::Leaves(kind))
            }
            OwnerEvent::Ended(loss) => {
                let reason = self.reason(&loss);
                if let (IdleLossReason::Failed(_), Some(guard)) = (&reason, &self.guard) {
                    guard.note_failed(loss.detection_delay());
                }
                Some(AgreedLinkEvent::Ended(reason))
            }
        }
    }

    fn reason(&self, loss: &LinkLoss) -> IdleLossReason {
        match (loss, self.received) {
            _ if self.is_dropped_for(DropCause::Revoked) => IdleLossReason::Failed(IdleLinkError::Revoked),
            (LinkLoss::Broken(how), _) => {
                self.guard.iter().for_each(|guard| guard.counts().note_violation(how.clone()));
                IdleLossReason::Failed(IdleLinkError::Link(loss.clone()))
            }
            (LinkLoss::Closed, Some(FrameType::Drain)) => IdleLossReason::Drained,
            // A link that its other end closes as soon as it is up has failed, since another one would fail in
            // the same way. One that this end asked to leave is not the other's fault.
            (LinkLoss::Closed, Some(_))
                if self.asked_at.is_none() && !self.has_carried && self.lifetime() < STABLE_PERIOD =>
            {
                IdleLossReason::Failed(IdleLinkError::ClosedAtOnce)
            }
            (LinkLoss::Closed, Some(_)) => IdleLossReason::Retired,
            (LinkLoss::Closed, None) if self.asked_at.is_some() => IdleLossReason::Retired,
            (loss, _) => IdleLossReason::Failed(IdleLinkError::Link(loss.clone())),
        }
    }

    /// Ends it in good order, without an owner. A session that crosses was never looked at and gets that as
    /// its answer, so its opener takes another link.
    pub async fn close_gracefully(mut self: Box<Self>, kind: FrameType) {
        self.leave(kind);
        let ends = async {
            loop {
                match self.next_event(std::future::pending()).await {
                    AgreedLinkEvent::Opened(_, session) => {
                        self.link.refuse_incoming(session, Refusal::OtherLink);
                    }
                    AgreedLinkEvent::Leaves(_) | AgreedLinkEvent::HasRoom | AgreedLinkEvent::Offers(_) => {}
                    AgreedLinkEvent::Ended(_) => return,
                }
            }
        };
        // If that takes too long, it is still dropped.
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, ends).await;
    }
}

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
