//! Dial the backend, and agree on TLS with it where the profile says so.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    time::{Instant, timeout_at},
};

use super::{ConnectFailure, Connected, Order, web};
use crate::{
    link::leg::Leg,
    net::{
        dial::{self, DialError},
        echo::Echo,
        edges::{Caller, Edges},
        stream::Stream,
        tcp,
    },
    profile::{Backend, Remote},
    proto::{Refusal, proxy},
    telemetry::end::Who,
};

/// A backend answers the connection in this time or not at all. With the way over a link it stays
/// below the 5 s after which a client must have been told.
pub const BACKEND_CONNECT: Duration = Duration::from_secs(4);

/// A backend, and how TLS is spoken with it where it is.
#[derive(Debug)]
pub struct Target {
    backend: Backend,
    caller: Option<Caller>,
}

impl Target {
    /// `edges` are those of the profile that names the backend.
    pub fn new(backend: &Backend, edges: &Edges) -> Self {
        let tls = backend.remote().and_then(|remote| remote.tls.as_deref());
        Self { backend: backend.clone(), caller: tls.and_then(|tls| edges.connect(tls)) }
    }

    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    pub fn is_same_as(&self, other: &Self) -> bool {
        let same_caller = match (&self.caller, &other.caller) {
            (Some(one), Some(other)) => one.is_same_as(other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        same_caller && self.backend == other.backend
    }
}

/// The far side of a session. Where requests go to the backend, what it hears is what the other half has
/// made of a client's.
pub async fn connect(target: &Arc<Target>, order: &Order<'_>) -> Result<Connected, ConnectFailure> {
    // A probe is no client's: it is a connection of our own.
    let client = order.client.filter(|_| !order.probe);
    let stream = reach(target, client).await?;
    let stream = match &target.backend {
        // A probe goes no further than this.
        Backend::Http(http) if !order.probe => web::begin(target, http, stream, order).await?,
        Backend::Echo | Backend::Socket(_) | Backend::Http(_) => stream,
    };
    Ok(Connected { leg: Leg::Stream(stream), peer: None, seat: None, first: Vec::new() })
}

/// The backend itself.
pub async fn reach(target: &Target, client: Option<SocketAddr>) -> Result<Stream, ConnectFailure> {
    match target.backend.remote() {
        None => Ok(Stream::Echo(Echo::default())),
        Some(remote) => dial(remote, target.caller.as_ref(), client).await,
    }
}

/// Whether a backend answers, its TLS included; it hears nothing more.
pub async fn try_out(target: &Target) -> Result<(), ConnectFailure> {
    reach(target, None).await?.let_close_cleanly();
    Ok(())
}

async fn dial(
    remote: &Remote,
    caller: Option<&Caller>,
    client: Option<SocketAddr>,
) -> Result<Stream, ConnectFailure> {
    let at = &remote.at;
    let began = Instant::now();
    if remote.tls.is_some() && caller.is_none() {
        let reason = format!("backend {at}: its `tls` can not be used");
        return Err(ConnectFailure { who: Who::Backend, refusal: Refusal::BackendUnreachable, reason });
    }
    let mut stream = dial::dial(at, BACKEND_CONNECT).await.map_err(|error| failure(&error))?;
    let unreachable = |refusal, error: String| ConnectFailure {
        who: Who::Backend,
        refusal,
        reason: format!("backend {at}: {error}"),
    };
    let prepared = tcp::prepare_backend(&stream);
    prepared.map_err(|error| unreachable(Refusal::BackendUnreachable, error.to_string()))?;
    if let Some(version) = remote.proxy {
        // A new socket takes it at once, or is gone.
        let told = match stream.peer_addr() {
            Ok(backend) => stream.write_all(&proxy::header(version, client, backend)).await,
            Err(error) => Err(error),
        };
        told.map_err(|error| unreachable(Refusal::BackendUnreachable, error.to_string()))?;
    }
    let Some(caller) = caller else { return Ok(Stream::Tcp(stream)) };
    match timeout_at(began + BACKEND_CONNECT, caller.call(stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(unreachable(Refusal::BackendUnreachable, format!("TLS: {error}"))),
        Err(_) => {
            let within = format!("TLS: no answer within {}s", BACKEND_CONNECT.as_secs());
            Err(unreachable(Refusal::BackendLate, within))
        }
    }
}

fn failure(error: &DialError) -> ConnectFailure {
    let (who, refusal) = match error {
        DialError::Refused { .. } => (Who::Backend, Refusal::BackendRefused),
        DialError::Timeout { .. } => (Who::Backend, Refusal::BackendLate),
        DialError::Resolve { .. } | DialError::Unreachable { .. } => {
            (Who::Backend, Refusal::BackendUnreachable)
        }
        DialError::Local { .. } if error.exhausted().is_some() => (Who::Limit, Refusal::Unavailable),
        DialError::Local { .. } => (Who::Backend, Refusal::BackendUnreachable),
    };
    ConnectFailure { who, refusal, reason: format!("backend {error}") }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::profile::HostPort;

    #[test]
    fn a_limit_of_this_host_is_no_fault_of_the_backend_and_no_bug() {
        let failed = |number| {
            let (at, source) =
                (HostPort { host: "db".into(), port: 1 }, io::Error::from_raw_os_error(number));
            failure(&DialError::Local { at, source, tried: dial::Tried::default() })
        };
        for number in [libc::EADDRNOTAVAIL, libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            let failure = failed(number);
            assert_eq!(
                (failure.who, failure.refusal),
                (Who::Limit, Refusal::Unavailable),
                "{}",
                failure.reason
            );
        }
        let failure = failed(libc::EAFNOSUPPORT);
        assert_eq!((failure.who, failure.refusal), (Who::Backend, Refusal::BackendUnreachable));
    }
}
