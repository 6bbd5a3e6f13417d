//! One session, from its accept side to its end. How it is connected and handed to a link is in
//! [`opening`](super::opening).

use std::{
    pin::pin,
    sync::{Arc, atomic::AtomicBool},
};

use super::{
    attempt::{CarriedSession, EndWithRefusal},
    opening::{SessionDestination, SessionStart, open},
    service::{Service, ServiceTable},
};
use crate::{
    accept::{SessionOutcome, SessionRequest, idle_permit::IdleState},
    admission::clients::ClientGates,
    auth::ClientLogins,
    connect::SessionRefusal,
    link::{Peer, agreement, lockdown::Lockdown, shares::GatewayShares},
    net::certificate_watch::RevocationSignal,
    profile::Half,
    proto::Refusal,
    telemetry::{
        end::SessionEnd,
        notices::NoticeLog,
        rate_limited::LogKind,
        registry::{
            SessionGuard, SessionKind, SessionPeer, SessionRegistry, SessionStopper, StopReason, client_name,
        },
    },
    verify::{
        probe::{self, PendingProbe, PendingProbes},
        probe_failure::ProbeEnd,
    },
};
use arc_swap::ArcSwap;
use tokio::{sync::oneshot, time::Instant};

/// State shared by all sessions.
#[derive(Debug)]
pub struct SessionContext {
    pub services: Arc<ArcSwap<ServiceTable>>,
    /// The services of an internal half that has just been retired: sessions may still arrive for them.
    pub leaving: Arc<ArcSwap<ServiceTable>>,
    /// Whether a switch is under way: a path that fails may be about to be replaced.
    pub switching: Arc<AtomicBool>,
    pub registry: Arc<SessionRegistry>,
    pub notices: Arc<NoticeLog>,
    pub probes: PendingProbes,
    /// Which clients of each service may come in.
    pub gates: Arc<ClientGates>,
    /// Password files and keys that identify the clients of requests.
    pub logins: Arc<ClientLogins>,
    /// Connections of the internal half to backends, shared out among the DMZ gateways.
    pub backends: Arc<GatewayShares>,
    /// What the inside has locked.
    pub lockdown: Lockdown,
}

impl SessionContext {
    /// Serves one session to its end.
    ///
    /// Most sessions are idle most of the time, and should then hold no memory for what is over or not due yet. So the
    /// future that opens a session has a box of its own, and so has the one that ends it.
    pub fn serve(self: Arc<Self>, request: Box<SessionRequest>) -> impl Future<Output = ()> + Send {
        let beginning = Box::pin(self.begin(request));
        async move {
            let Some(mut session) = beginning.await else { return };
            let end = session.carried.run(&session.record).await;
            session.finish(end);
        }
    }

    /// Opens a session; returns it if a link carries it and nothing limits it.
    async fn begin(self: Arc<Self>, mut request: Box<SessionRequest>) -> Option<RunningSession> {
        let Some(service) = self.find_service(&request) else {
            self.report_unknown(&request);
            unboxed(request).downstream.refuse(Refusal::UnknownService).await;
            return None;
        };
        let listeners = self.end_listeners(&mut request);
        let record = self.open_record(&mut request, &service);
        if let Some(idle_state) = listeners.as_ref().and_then(|listeners| listeners.idle_state.as_ref()) {
            idle_state.note_session(record.counters());
        }
        let probed = listeners.as_ref().and_then(|listeners| listeners.probe.as_ref()?.connector.clone());
        let destination = SessionDestination { connector: probed, service: &service };
        let bounds = SessionBounds::of(&request, &service);
        let opening = Box::pin(open(&destination, request, &record, &self));
        let ended = match bounds {
            None => match opening.await {
                SessionStart::Carried(carried) => return Some(RunningSession { carried, record, listeners }),
                SessionStart::Over(ended) => ended,
            },
            Some(bounds) => bounds.keep(run(opening, &record), &record).await,
        };
        finish(record, listeners, ended);
        None
    }

    fn find_service(&self, request: &SessionRequest) -> Option<Arc<Service>> {
        let key = (request.half, request.service.clone());
        let service = self.services.load().get(&key).cloned();
        service.or_else(|| self.leaving.load().get(&key).cloned())
    }

    /// A name from outside must not become a key of our tables.
    fn report_unknown(&self, request: &SessionRequest) {
        let from = request.peer.as_ref().map_or_else(|| client_name(request.client).into(), Peer::label);
        let line = format!("{from} asked for an unknown service `{}`", request.service);
        self.notices.warn_limited(LogKind::UnknownService, line);
    }

    /// Who waits for the end of the session, if anybody. A probe comes in like a client; only its address identifies it.
    fn end_listeners(&self, request: &mut SessionRequest) -> Option<Box<EndListeners>> {
        let probe =
            request.client.filter(|_| request.peer.is_none()).and_then(|from| self.probes.claim(from));
        request.probe |= probe.is_some();
        let (outcome, idle_state) = (request.outcome_sender.take(), request.idle_state.clone());
        let is_awaited = probe.is_some() || outcome.is_some() || idle_state.is_some();
        is_awaited.then(|| Box::new(EndListeners { probe, outcome, idle_state }))
    }

    fn open_record(&self, request: &mut SessionRequest, service: &Service) -> SessionGuard {
        let kind = session_kind(request);
        let key = (request.half, service.name.clone());
        let stopper = SessionStopper::within(&service.cut);
        let (id, peer) = (request.id.take(), request.peer.as_ref().map(SessionPeer::from));
        let record = self.registry.open(key, id, peer, request.client, kind, stopper);
        if let Some(user) = &request.origin.user {
            record.set_user(&user.name);
        }
        if kind.is_client() {
            record.counters().time_connects(service.connect_times.clone());
        }
        drop(request.arrival.take());
        record
    }
}

fn session_kind(request: &SessionRequest) -> SessionKind {
    // The DMZ half of this process has sent its instance, or has a link without TLS.
    let is_elsewhere = |peer: &Peer| match (peer.instance, &peer.name) {
        (Some(instance), _) => instance != agreement::instance(),
        (None, name) => name.is_some(),
    };
    match request.half {
        _ if request.probe => SessionKind::Probe,
        Half::Internal if request.peer.as_ref().is_some_and(is_elsewhere) => SessionKind::ClientElsewhere,
        Half::Dmz | Half::Internal => SessionKind::Client,
    }
}

/// A session that a link carries: all that is held of it here while it is idle.
struct RunningSession {
    carried: CarriedSession,
    record: SessionGuard,
    listeners: Option<Box<EndListeners>>,
}

impl RunningSession {
    fn finish(self, end: SessionEnd) {
        // Its permits are free before anybody learns of its end.
        drop(self.carried);
        finish(self.record, self.listeners, (end, None));
    }
}

fn finish(record: SessionGuard, listeners: Option<Box<EndListeners>>, (end, refused): EndWithRefusal) {
    if let Some(listeners) = listeners {
        listeners.send_outcome(&end, refused);
    }
    record.finish(end);
}

/// Those that wait for the end of a session.
struct EndListeners {
    probe: Option<PendingProbe>,
    outcome: Option<oneshot::Sender<SessionOutcome>>,
    idle_state: Option<Arc<IdleState>>,
}

impl EndListeners {
    /// A listener that has given up needs no answer.
    fn send_outcome(self, end: &SessionEnd, refused: Option<SessionRefusal>) {
        if let Some(outcome) = self.outcome {
            let refusal = refused.map(|refused| refused.refusal);
            let _ = outcome.send(SessionOutcome { end: end.clone(), refusal });
        }
        if let Some(sent) = self.probe {
            let _ = sent.ended.send(ProbeEnd { end: end.clone(), refused });
        }
        if let Some(idle_state) = self.idle_state {
            idle_state.note_end(&end.code());
        }
    }
}

/// The bounds that end a session whatever it is doing: a time limit, or the revocation of its client's certificate.
struct SessionBounds {
    end: Option<(Instant, StopReason)>,
    revocation: RevocationSignal,
}

impl SessionBounds {
    /// The time that its service allows a session, and only while the client's certificate or token is valid; `None` if
    /// nothing limits it.
    fn of(request: &SessionRequest, service: &Service) -> Option<Self> {
        let limit = match request.probe {
            false => service.settings.load().session_limit,
            // Another gateway may claim to send a probe, and never end it.
            true => request.peer.as_ref().map(|_| probe::PROBE_TIMEOUT),
        };
        let stop_reason = if request.probe { StopReason::ProbeLate } else { StopReason::SessionLimit };
        let limit = limit.map(|limit| (Instant::now() + limit, stop_reason(limit)));
        let expiry = request.expires.map(|at| (at, StopReason::TokenExpired));
        let end = limit.into_iter().chain(expiry).min_by_key(|(at, _)| *at);
        let revocation = request.downstream.revocation();
        (end.is_some() || revocation.can_come()).then_some(Self { end, revocation })
    }

    async fn keep(
        self,
        running: impl Future<Output = EndWithRefusal>,
        record: &SessionGuard,
    ) -> EndWithRefusal {
        let stopper = record.stopper();
        let mut running = pin!(running);
        let is_over = async {
            match self.end {
                Some((at, why)) => {
                    tokio::time::sleep_until(at).await;
                    why
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.revocation.given() => {
                stopper.stop(StopReason::Revoked);
                // Its client's connection is cut at the same moment, but that is not the cause.
                let (_, refusal) = running.await;
                (stopper.end(record.counters().phase()), refusal)
            }
            ended = &mut running => ended,
            why = is_over => {
                stopper.stop(why);
                running.await
            }
        }
    }
}

/// Waits until a session is open, and for its end.
async fn run(opening: impl Future<Output = SessionStart>, record: &SessionGuard) -> EndWithRefusal {
    let mut carried = match opening.await {
        SessionStart::Carried(carried) => carried,
        SessionStart::Over(ended) => return ended,
    };
    (carried.run(record).await, None)
}

/// Takes a value out of its box, freeing the box here; `*` would keep it until the end of the function.
#[expect(clippy::boxed_local, reason = "that the box goes is the point")]
pub(super) fn unboxed<T>(value: Box<T>) -> T {
    *value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_size<A, B, F>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// Thousands of sessions may be idle at once, so the size of this future counts.
    #[test]
    fn a_session_that_waits_for_its_end_holds_little() {
        let bytes = future_size(SessionContext::serve);
        assert!(bytes <= 328, "{bytes}");
    }
}
