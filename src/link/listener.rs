//! Where links come in: on a port of their own, or through a [`LinkEndpoint`](super::endpoint::LinkEndpoint).
//!
//! The handshake of each link runs in a task of its own under a deadline, so a silent one delays nobody.
//! [`crate::admission::handshakes`] limits how many run at once.

use std::{fmt, net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use tokio::net::TcpStream;

use super::{
    agreement::SOFTWARE,
    handshake::{self, AcceptedLink, HandshakeOutcome, HandshakeTerms},
};
use crate::{
    admission::handshakes::{EVICTED, HandshakeLimiter, HandshakePermit},
    net::{
        listen::{ListenEvent, Listener},
        read_ahead::TlsTransport,
    },
    proto::multiplex::PROTOCOL_NAME,
    tasks::Tasks,
    telemetry::{
        link_cause::LinkCause,
        log::LogEvent,
        notices::{NoticeLog, ReportOnce},
    },
    tls::link::LinkIdentity,
};

/// The context of the handshakes of links.
#[derive(Debug, Clone)]
pub struct HandshakeContext {
    pub identity: Arc<ArcSwap<Option<LinkIdentity>>>,
    pub terms: HandshakeTerms,
    /// Limits handshakes: each one holds a descriptor and a TLS state, until the handshake deadline at the
    /// latest.
    pub handshakes: Arc<HandshakeLimiter>,
    pub tasks: Tasks,
    pub notices: Arc<NoticeLog>,
    /// Peers of other versions that were already reported.
    pub versions: Arc<ReportOnce>,
}

impl HandshakeContext {
    /// Reports a gateway of ours that speaks none of our versions, in one line.
    fn report_versions(&self, accepted: &AcceptedLink) {
        if accepted.versions.is_empty() {
            return;
        }
        let (peer, theirs) = (accepted.outcome.peer().label(), accepted.versions.join(" and "));
        let line = format!(
            "{peer} speaks {theirs}, and {SOFTWARE} here speaks {PROTOCOL_NAME}: its links speak SOCKS5, one session \
             each; run one version on both halves"
        );
        if self.versions.is_first(&line) {
            self.notices.warn(LogEvent::LinkProtocol.line(line));
        }
    }
}

/// Where a half takes in the links that have come in to it: the DMZ half in its pool, the internal half as a server.
///
/// A plain call in the task of the handshake, since that task holds the permit, and is what an eviction ends. A queue
/// to the half would need another task for each link, and one more thing to close at a switch.
pub trait LinkIntake: fmt::Debug + Send + Sync {
    /// Takes a link in after its handshake. It gives up the permit once the link counts otherwise; a link that is
    /// rejected keeps it until it is closed, so that a peer which dials without end holds no more than that.
    fn take_in(&self, handshake: HandshakeOutcome, permit: HandshakePermit) -> BoxFuture<'static, ()>;
}

/// Runs the handshakes of a half's links, wherever they come in.
#[derive(Debug, Clone)]
pub struct LinkReception {
    context: HandshakeContext,
    intake: Arc<dyn LinkIntake>,
}

impl LinkReception {
    pub fn new(context: HandshakeContext, intake: Arc<dyn LinkIntake>) -> Self {
        Self { context, intake }
    }

    /// The handshakes that are running.
    pub fn handshakes(&self) -> &Arc<HandshakeLimiter> {
        &self.context.handshakes
    }

    /// Runs the handshake of a link in a task of its own.
    pub fn receive(&self, below: TlsTransport, from: SocketAddr) {
        let Self { context, intake } = self.clone();
        let permit = HandshakePermit::begin(context.handshakes.clone(), from.ip());
        self.context.tasks.spawn("link", async move {
            let evicted = permit.evicted.clone();
            let served = async {
                match handshake::accept(below, from, &context.identity, &context.terms).await {
                    Ok(accepted) => {
                        context.report_versions(&accepted);
                        intake.take_in(accepted.outcome, permit).await;
                    }
                    Err(error) => report(&context.notices, from, (&error).into(), &error),
                }
            };
            if evicted.run_until_cancelled(served).await.is_none() {
                report(&context.notices, from, LinkCause::Other, &EVICTED);
            }
        });
    }
}

/// Accepts links until the port is closed.
pub async fn run(listener: Arc<Listener>, reception: LinkReception) {
    let notices = reception.context.notices.clone();
    let accepted =
        |stream: TcpStream, from: SocketAddr| reception.receive(TlsTransport::Socket(stream), from);
    let on_event = |event: ListenEvent<'_>| match event {
        ListenEvent::Pauses(error) => {
            notices.error(
                LogEvent::PortPaused
                    .line(format!("link port: {error}; accepting pauses until descriptors are free")),
            );
        }
        ListenEvent::Waits { at, why } => {
            notices.warn(
                LogEvent::PortWaits.line(format!("link port {at}: {why}; it is tried again every second")),
            );
        }
        ListenEvent::Listens(at) => {
            notices.info(LogEvent::PortListens.line(format!("link port {at} listens now")))
        }
    };
    listener.accept(accepted, on_event).await;
}

fn report(notices: &NoticeLog, from: SocketAddr, cause: LinkCause, why: &dyn fmt::Display) {
    notices.warn_rejected_link(cause, format!("link from {from}: {why}"));
}
