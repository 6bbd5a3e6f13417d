//! The port that links come in by.
//!
//! Each connection is handled in a task of its own under a deadline, so a silent one stalls nobody. The number of
//! handshakes at once is bounded by [`crate::admission::handshakes`].

use std::{future::Future, net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use tokio::net::TcpStream;

use super::{
    carrier::{IncomingLink, OuterTlsCell},
    handshake::{self, AcceptedLink, HandshakeOutcome, HandshakeTerms},
    standing::SOFTWARE,
};
use crate::{
    admission::handshakes::{EVICTED, HandshakeLimiter, HandshakePermit},
    net::listen::{ListenEvent, Listener},
    profile::LinkCarrier,
    proto::multiplex::PROTOCOL_NAME,
    tasks::Tasks,
    telemetry::{
        log::LogEvent,
        notices::{NoticeLog, ReportOnce},
        rate_limited::LogKind,
    },
    tls::link::LinkIdentity,
};

/// What a link listener needs to greet.
#[derive(Debug, Clone)]
pub struct HandshakeContext {
    pub identity: Arc<ArcSwap<Option<LinkIdentity>>>,
    pub terms: HandshakeTerms,
    /// What links come by, and the TLS around that.
    pub carrier: Arc<ArcSwap<LinkCarrier>>,
    pub outer: OuterTlsCell,
    /// At once; each holds a descriptor and a TLS state for at most the greeting's deadline.
    pub handshakes: usize,
    pub tasks: Tasks,
    pub notices: Arc<NoticeLog>,
    /// Peers of other versions that were told of already.
    pub versions: Arc<ReportOnce>,
}

impl HandshakeContext {
    /// One line for a gateway of ours that speaks none of our versions.
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

/// Accepts links until the port is closed, and hands each to `greeted` with its place among greetings,
/// which it gives up when it has another.
pub async fn run<F>(
    listener: Arc<Listener>,
    greeter: HandshakeContext,
    greeted: impl Fn(HandshakeOutcome, HandshakePermit) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = ()> + Send,
{
    let greetings = Arc::new(HandshakeLimiter::new(greeter.handshakes));
    let notices = greeter.notices.clone();
    let accepted = |stream: TcpStream, from: SocketAddr| {
        let (greeter, greeted) = (greeter.clone(), greeted.clone());
        let greeting = HandshakePermit::begin(greetings.clone(), from.ip());
        greeter.tasks.clone().spawn("link", async move {
            let evicted = greeting.evicted.clone();
            let served = async {
                let incoming = match IncomingLink::new(stream, &greeter.carrier.load(), &greeter.outer.load())
                {
                    Ok(incoming) => incoming,
                    Err(error) => return tell(&greeter.notices, from, &error.to_string()),
                };
                match handshake::accept(incoming, from, &greeter.identity, &greeter.terms).await {
                    // One that is turned away has its place until it is closed.
                    Ok(accepted) => {
                        greeter.report_versions(&accepted);
                        greeted(accepted.outcome, greeting).await;
                    }
                    Err(error) => tell(&greeter.notices, from, &error.to_string()),
                }
            };
            if evicted.run_until_cancelled(served).await.is_none() {
                tell(&greeter.notices, from, EVICTED);
            }
        });
    };
    let tell = |told: ListenEvent<'_>| match told {
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
    listener.accept(accepted, tell).await;
}

fn tell(notices: &NoticeLog, from: SocketAddr, why: &str) {
    notices.warn_limited(LogKind::LinkRejected, format!("link from {from}: {why}"));
}
