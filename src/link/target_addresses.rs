//! Where a gateway can be reached: at the addresses that the system knows for its name or, for a target of SRV
//! records, at those that our own resolver has found and follows while the target is dialled. Nothing else is
//! known about it; its certificate proves who it is.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    net::TcpStream,
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{DIAL_TIMEOUT, handshake::HandshakeError, keeper::KeeperContext, name_notices::report_update};
use crate::{
    net::{
        dial::{self, DialError},
        dns::{DnsError, HostAddresses, name_watch::NameWatch},
        resolve_error::ResolveError,
        via::{self, ViaErrorKind, dial_via},
    },
    profile::{GatewaysOfName, HostPort, LinkAddress, ViaProxy},
    telemetry::notices::NoticeLog,
};

/// The addresses of a target, followed until they are no longer wanted.
#[derive(Debug)]
pub struct TargetAddresses(watch::Receiver<FoundAddresses>);

#[derive(Debug, Default)]
struct FoundAddresses {
    addresses: Vec<IpAddr>,
    /// Why there is none.
    unanswered: Option<Arc<DnsError>>,
}

impl TargetAddresses {
    /// Begins to follow its addresses, if it is a target.
    pub fn follow(gateway: &LinkAddress, shared: &KeeperContext, stop: CancellationToken) -> Option<Self> {
        let GatewaysOfName::Target(_) = gateway.gateways else { return None };
        let host: Arc<str> = gateway.at.host.as_str().into();
        let watch = NameWatch::of_addresses(&shared.dns, host.clone());
        let (found, receiver) = watch::channel(FoundAddresses::default());
        let follow = follow_target(host, watch, found, shared.notices.clone());
        shared.tasks.spawn("followed target", async move {
            stop.run_until_cancelled(follow).await;
        });
        Some(Self(receiver))
    }

    /// The known addresses, once there has been an answer; IPv6 first, as the system would order them.
    async fn known(&self) -> Result<Vec<IpAddr>, ResolveError> {
        let mut found = self.0.clone();
        let is_answered = |found: &FoundAddresses| !found.addresses.is_empty() || found.unanswered.is_some();
        let found = found.wait_for(is_answered).await;
        let found = found.map_err(|_| ResolveError::NotFollowed)?;
        match &found.unanswered {
            Some(why) if found.addresses.is_empty() => Err(ResolveError::Dns(why.clone())),
            Some(_) | None => Ok(found.addresses.iter().rev().copied().collect()),
        }
    }
}

async fn follow_target(
    host: Arc<str>,
    mut watch: NameWatch<HostAddresses>,
    found: watch::Sender<FoundAddresses>,
    notices: Arc<NoticeLog>,
) {
    while !found.is_closed() {
        let event = watch.next_update().await;
        report_update(&notices, &host, &event);
        let unanswered = event.unanswered().cloned();
        found.send_modify(|found| {
            found.addresses = watch.targets().copied().collect();
            found.unanswered = match event.answer {
                Some(_) => None,
                None => unanswered.or(found.unanswered.take()),
            };
        });
    }
}

/// Connects to a gateway, through a proxy if one is set.
pub async fn connect(
    address: &LinkAddress,
    target: Option<&TargetAddresses>,
) -> Result<TcpStream, HandshakeError> {
    let Some(target) = target else {
        return Ok(match &address.via {
            None => dial::dial_from(address.source, &address.at, DIAL_TIMEOUT).await?,
            Some(proxy) => dial_via(proxy, address.source, &address.at, DIAL_TIMEOUT).await?,
        });
    };
    let by = Instant::now() + DIAL_TIMEOUT;
    let failed = |source| DialError::Resolve { at: address.at.clone(), source };
    let known = timeout_at(by, target.known()).await;
    let known = known.unwrap_or(Err(ResolveError::Pending)).map_err(failed)?;
    connect_known(address, (&address.at, &known), by - Instant::now()).await
}

/// Connects to a target whose addresses are known, with the rest of the dial's time. `address` is the
/// profile's entry; the target's name and port may be another.
pub async fn connect_known(
    address: &LinkAddress,
    target: (&HostPort, &[IpAddr]),
    within: Duration,
) -> Result<TcpStream, HandshakeError> {
    match &address.via {
        None => Ok(dial::dial_known(address.source, target, within).await?),
        Some(proxy) => connect_via(proxy, address.source, target).await,
    }
}

/// Tries one address after the other, all within the deadline of one.
async fn connect_via(
    proxy: &ViaProxy,
    source: Option<IpAddr>,
    (target, known): (&HostPort, &[IpAddr]),
) -> Result<TcpStream, HandshakeError> {
    let by = Instant::now() + DIAL_TIMEOUT + via::CONNECT_RESPONSE_TIMEOUT;
    let mut failed = HandshakeError::Late;
    for ip in known {
        let to = HostPort { host: ip.to_string(), port: target.port };
        match timeout_at(by, dial_via(proxy, source, &to, DIAL_TIMEOUT)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => {
                // The proxy itself cannot be reached, so other addresses would not help.
                let is_lost = matches!(error.failure, ViaErrorKind::Dial(_));
                failed = error.into();
                if is_lost {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    Err(failed)
}
