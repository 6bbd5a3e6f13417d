//! Dials a name or an address, under one deadline for the look-up and for all of its addresses.
//!
//! The addresses are tried as in RFC 8305: IPv6 and IPv4 in turn, the next one when the last has failed or a
//! quarter of a second after it began. The first that connects is used, and the others are closed. A dial never
//! binds, unless it is given a source address.

pub mod unix;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use thiserror::Error;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout_at},
};

use super::{
    exhausted::ExhaustedResource, own_ports::ServicePorts, resolve_error::ResolveError,
    resolver::NameResolver, socket_options, tcp,
};
use crate::{confine::refused_call, profile::HostPort};

/// The next address is tried this long after the previous one began (RFC 8305, section 5).
const CONNECTION_ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// How many addresses an error mentions.
const ERROR_ADDRESSES_MAX: usize = 4;

/// Why a dial failed; each variant maps to one reply on the wire.
#[derive(Debug, Error)]
pub enum DialError {
    #[error("{at}: the name does not resolve: {source}")]
    Resolve { at: HostPort, source: ResolveError },
    /// An address that was written, but that nothing here leads to.
    #[error("{at}: unreachable: {source}")]
    Unroutable { at: HostPort, source: ResolveError },
    #[error("{at}: connection refused{tried}")]
    Refused { at: HostPort, tried: TriedAddresses },
    #[error("{at}: no answer within {}s{tried}", within.as_secs_f32())]
    Timeout { at: HostPort, within: Duration, tried: TriedAddresses },
    #[error("{at}: unreachable: {source}{tried}")]
    Unreachable { at: HostPort, source: io::Error, tried: TriedAddresses },
    #[error("{at}: {}{tried}", ExhaustedResource::describe(source))]
    Local { at: HostPort, source: io::Error, tried: TriedAddresses },
    #[error("{at}: {source}{tried}")]
    Rule { at: HostPort, source: DialRuleError, tried: TriedAddresses },
}

/// A rule that a dial could not keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DialRuleError {
    #[error("it leads back to the clients of its own service")]
    OwnPort,
    #[error("this machine has no address {0}")]
    NoSource(IpAddr),
}

/// Why one address of a name was not connected to.
#[derive(Debug, Error)]
enum AttemptError {
    #[error(transparent)]
    Rule(#[from] DialRuleError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl AttemptError {
    fn is_refusal(&self) -> bool {
        let kind = self.kind();
        matches!(kind, Some(io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset))
    }

    fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Rule(_) => None,
            Self::Io(error) => Some(error.kind()),
        }
    }

    fn reason(&self) -> String {
        if self.is_refusal() { "connection refused".into() } else { self.to_string() }
    }
}

/// The addresses of a name and what each attempt returned; empty if an address was dialled.
#[derive(Debug, Default)]
pub struct TriedAddresses(Vec<(SocketAddr, String)>);

impl fmt::Display for TriedAddresses {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reported: Vec<_> = match &self.0[..] {
            [] => return Ok(()),
            [(address, _)] => vec![address.ip().to_string()],
            all => {
                all.iter().take(ERROR_ADDRESSES_MAX).map(|(at, why)| format!("{}: {why}", at.ip())).collect()
            }
        };
        write!(out, " ({}", reported.join("; "))?;
        match self.0.len().saturating_sub(ERROR_ADDRESSES_MAX) {
            0 => write!(out, ")"),
            more => write!(out, "; and {more} more)"),
        }
    }
}

impl DialError {
    /// The resource that this process or host has run out of, if that is the reason.
    pub fn exhausted(&self) -> Option<ExhaustedResource> {
        match self {
            Self::Local { source, .. } => ExhaustedResource::of(source),
            Self::Resolve { .. } | Self::Unroutable { .. } | Self::Refused { .. } => None,
            Self::Timeout { .. } | Self::Unreachable { .. } | Self::Rule { .. } => None,
        }
    }
}

/// Rules that a dial keeps to.
#[derive(Debug, Clone, Copy, Default)]
pub struct DialRules<'a> {
    /// One of this machine's addresses to dial from, which needs `bind`; only addresses of the same family are
    /// dialled then.
    pub source: Option<IpAddr>,
    /// Ports of this process at which the dial must not come in, since they would lead back to where it comes from.
    pub own_ports: Option<&'a ServicePorts>,
}

impl From<Option<IpAddr>> for DialRules<'_> {
    fn from(source: Option<IpAddr>) -> Self {
        Self { source, own_ports: None }
    }
}

/// Connects to the first address of `at` that answers, within the deadline.
pub async fn dial(at: &HostPort, within: Duration) -> Result<TcpStream, DialError> {
    dial_from(None, at, within).await
}

/// Connects as [`dial`] does, by these rules.
pub async fn dial_from<'a>(
    rules: impl Into<DialRules<'a>>,
    at: &HostPort,
    within: Duration,
) -> Result<TcpStream, DialError> {
    dial_with(NameResolver::system(), rules, at, within).await
}

/// Connects to a name whose addresses are known.
pub async fn dial_known(
    source: Option<IpAddr>,
    (at, known): (&HostPort, &[IpAddr]),
    within: Duration,
) -> Result<TcpStream, DialError> {
    let known = known.iter().map(|ip| SocketAddr::new(*ip, at.port)).collect();
    dial_addresses(source.into(), (at, Ok(known)), Instant::now() + within, within).await
}

async fn dial_with<'a>(
    names: &NameResolver,
    rules: impl Into<DialRules<'a>>,
    at: &HostPort,
    within: Duration,
) -> Result<TcpStream, DialError> {
    let deadline = Instant::now() + within;
    let found = timeout_at(deadline, names.resolve(at)).await;
    let found = found.unwrap_or(Err(ResolveError::Late(within)));
    dial_addresses(rules.into(), (at, found), deadline, within).await
}

async fn dial_addresses(
    rules: DialRules<'_>,
    (at, found): (&HostPort, Result<Vec<SocketAddr>, ResolveError>),
    deadline: Instant,
    within: Duration,
) -> Result<TcpStream, DialError> {
    let addresses = match found.and_then(|addresses| retain_family(rules.source, addresses)) {
        Ok(addresses) => interleave_families(addresses),
        Err(source) if at.is_address() => return Err(DialError::Unroutable { at: at.clone(), source }),
        Err(source) => return Err(DialError::Resolve { at: at.clone(), source }),
    };
    let mut failed = Vec::new();
    match timeout_at(deadline, race(rules, &addresses, &mut failed)).await {
        Ok(Some(stream)) => Ok(stream),
        Ok(None) => Err(all_failed(at, failed)),
        Err(_) => {
            let failure_of = |address: &SocketAddr| failed.iter().find(|(at, _)| at == address);
            let why =
                |address| failure_of(address).map_or_else(|| "no answer".into(), |(_, error)| error.reason());
            let tried = addresses.iter().map(|address| (*address, why(address)));
            Err(DialError::Timeout { at: at.clone(), within, tried: tried_addresses(at, tried) })
        }
    }
}

/// The addresses that can be dialled from there.
fn retain_family(
    source: Option<IpAddr>,
    mut addresses: Vec<SocketAddr>,
) -> Result<Vec<SocketAddr>, ResolveError> {
    let Some(source) = source else { return Ok(addresses) };
    addresses.retain(|address| address.is_ipv4() == source.is_ipv4());
    if addresses.is_empty() { Err(ResolveError::OtherFamily(source)) } else { Ok(addresses) }
}

async fn connect(rules: DialRules<'_>, to: SocketAddr) -> Result<TcpStream, AttemptError> {
    if let Some(own) = rules.own_ports.filter(|own| own.may_include(to)) {
        let elsewhere = own.dial_elsewhere(rules.source, to).await?;
        return elsewhere.ok_or_else(|| DialRuleError::OwnPort.into());
    }
    let refused = |error| refused_call::explain("connect", error);
    let socket = tcp::new_dialling_socket(to.ip())?;
    let Some(source) = rules.source else { return Ok(socket.connect(to).await.map_err(refused)?) };
    // The kernel chooses the port when the destination is known, so that one port can serve several
    // destinations.
    socket_options::choose_port_late(socket.as_fd())?;
    socket.bind((source, 0).into()).map_err(|error| match error.raw_os_error() {
        Some(libc::EADDRNOTAVAIL) => AttemptError::Rule(DialRuleError::NoSource(source)),
        _ => AttemptError::Io(refused_call::explain("bind", error)),
    })?;
    Ok(socket.connect(to).await.map_err(refused)?)
}

/// Alternates the families, beginning with that of the first address. Within a family the resolver's order
/// stays (RFC 8305, section 4).
fn interleave_families(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut all = Vec::new();
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            return all;
        }
        all.extend(pair.into_iter().flatten());
    }
}

/// The first address that connects; `None` when all have failed.
async fn race(
    rules: DialRules<'_>,
    addresses: &[SocketAddr],
    failed: &mut Vec<(SocketAddr, AttemptError)>,
) -> Option<TcpStream> {
    if let [only] = addresses {
        // There is only one, as for most backends.
        return connect(rules, *only).await.map_err(|error| failed.push((*only, error))).ok();
    }
    let mut waiting = addresses.iter();
    let mut under_way = FuturesUnordered::new();
    loop {
        match waiting.next() {
            Some(address) => under_way.push(async move { (*address, connect(rules, *address).await) }),
            None if under_way.is_empty() => return None,
            None => {}
        }
        tokio::select! {
            Some((address, result)) = under_way.next() => match result {
                Ok(stream) => return Some(stream),
                Err(error) => failed.push((address, error)),
            },
            () = sleep(CONNECTION_ATTEMPT_DELAY), if waiting.len() > 0 => {}
        }
    }
}

/// The error when all have failed: a refusal if there was one, else the last error.
fn all_failed(at: &HostPort, failed: Vec<(SocketAddr, AttemptError)>) -> DialError {
    let tried = tried_addresses(at, failed.iter().map(|(address, error)| (*address, error.reason())));
    let is_refused = failed.iter().any(|(_, error)| error.is_refusal());
    let at = at.clone();
    match failed.into_iter().next_back() {
        _ if is_refused => DialError::Refused { at, tried },
        None => DialError::Resolve { at, source: ResolveError::NoAddress },
        Some((_, AttemptError::Rule(source))) => DialError::Rule { at, source, tried },
        Some((_, AttemptError::Io(source))) => match source.kind() {
            io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::PermissionDenied => DialError::Unreachable { at, source, tried },
            _ => DialError::Local { at, source, tried },
        },
    }
}

/// The addresses that were tried, for the error. None for an address dialled as written: the error names it already.
fn tried_addresses(at: &HostPort, tried: impl Iterator<Item = (SocketAddr, String)>) -> TriedAddresses {
    match at.is_address() {
        true => TriedAddresses::default(),
        false => TriedAddresses(tried.collect()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use socket2::{Domain, Socket, Type};
    use tokio::io::AsyncReadExt;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(10);

    fn local(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, last], port))
    }

    fn names(addresses: &[SocketAddr]) -> (NameResolver, HostPort) {
        let at = HostPort { host: "db".into(), port: addresses[0].port() };
        let addresses = addresses.to_vec();
        (NameResolver::new(move |_| Ok(addresses.clone())), at)
    }

    /// A port whose queue of connections is full, so it is as silent as one behind a firewall.
    struct Silent {
        at: SocketAddr,
        _socket: Socket,
        _queued: Vec<Socket>,
    }

    fn silent() -> Silent {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&local(2, 0).into()).expect("a free port");
        socket.listen(0).expect("it listens");
        let at = socket.local_addr().ok().and_then(|at| at.as_socket()).expect("its address");
        let mut queued = Vec::new();
        // The kernel accepts one or two more than the limit.
        for _ in 0..8 {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            let connected = client.connect_timeout(&at.into(), Duration::from_millis(100));
            queued.push(client);
            if connected.is_err() {
                return Silent { at, _socket: socket, _queued: queued };
            }
        }
        panic!("its queue has no end");
    }

    #[test]
    fn what_this_host_has_run_out_of_is_no_fault_of_the_other_end() {
        let at = HostPort { host: "192.0.2.7".into(), port: 9000 };
        let out = [
            (libc::EADDRNOTAVAIL, ExhaustedResource::Ports),
            (libc::EMFILE, ExhaustedResource::Descriptors),
            (libc::ENFILE, ExhaustedResource::DescriptorsOfHost),
            (libc::ENOBUFS, ExhaustedResource::Memory),
        ];
        for (number, exhausted) in out {
            let error = all_failed(&at, vec![(local(1, 9000), io::Error::from_raw_os_error(number).into())]);
            assert_eq!(error.exhausted(), Some(exhausted));
            assert_eq!(error.to_string(), format!("192.0.2.7:9000: {exhausted}"));
        }
        let refused =
            all_failed(&at, vec![(local(1, 9000), io::Error::from(io::ErrorKind::ConnectionRefused).into())]);
        assert_eq!(refused.exhausted(), None);
    }

    #[tokio::test]
    async fn a_silent_address_gives_way_to_the_next_within_the_deadline() {
        let silent = silent();
        let listener = TcpListener::bind(local(3, silent.at.port())).expect("the same port");
        let (names, at) = names(&[silent.at, local(3, silent.at.port())]);
        let began = std::time::Instant::now();
        let stream = dial_with(&names, None, &at, WITHIN).await.expect("the second answers");
        assert!(
            began.elapsed() >= CONNECTION_ATTEMPT_DELAY && began.elapsed() < WITHIN,
            "{:?}",
            began.elapsed()
        );
        assert_eq!(stream.peer_addr().expect("its address"), listener.local_addr().expect("its address"));
    }

    #[tokio::test]
    async fn an_address_that_refuses_gives_way_at_once() {
        let listener = TcpListener::bind(local(1, 0)).expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        // With a pause before each of them, the deadline would pass.
        let refusing = (100..160).map(|last| local(last, port));
        let addresses: Vec<_> = refusing.chain([local(1, port)]).collect();
        let (names, at) = names(&addresses);
        dial_with(&names, None, &at, WITHIN).await.expect("the last one answers");
    }

    #[tokio::test]
    async fn the_error_of_each_address_is_listed_up_to_a_limit() {
        let silent = silent();
        let port = silent.at.port();
        let (of_two, at) = names(&[silent.at, local(3, port)]);
        let error =
            dial_with(&of_two, None, &at, Duration::from_millis(600)).await.expect_err("nobody answers");
        let reported =
            format!("db:{port}: no answer within 0.6s (127.0.0.2: no answer; 127.0.0.3: connection refused)");
        assert_eq!(error.to_string(), reported);
        let many: Vec<_> = (100..120).map(|last| local(last, port)).collect();
        let (of_many, at) = names(&many);
        let reported = dial_with(&of_many, None, &at, WITHIN).await.expect_err("nobody listens").to_string();
        assert!(reported.ends_with("127.0.0.103: connection refused; and 16 more)"), "{reported}");
        let (_, literal) = names(&[local(3, port)]);
        let literal = HostPort { host: "127.0.0.3".into(), ..literal };
        let reported = dial(&literal, WITHIN).await.expect_err("nobody listens").to_string();
        assert_eq!(reported, format!("127.0.0.3:{port}: connection refused"));
    }

    #[tokio::test]
    async fn a_dial_uses_the_given_source_address() {
        let listener = TcpListener::bind(local(1, 0)).expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let (names, at) = names(&[SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port)), local(1, port)]);
        let from = |last: u8| Some(local(last, 0).ip());
        for last in [7, 8] {
            let stream = dial_with(&names, from(last), &at, WITHIN).await.expect("it listens");
            assert_eq!(stream.local_addr().map(|at| at.ip()).ok(), from(last));
        }
        let of_other_family = Some("::1".parse().expect("an address"));
        let literal = HostPort { host: "127.0.0.1".into(), port };
        let reported = dial_from(of_other_family, &literal, WITHIN).await.expect_err("another family");
        assert_eq!(
            reported.to_string(),
            format!("127.0.0.1:{port}: unreachable: none of its addresses can be dialled from ::1")
        );
        let strange = Some("192.0.2.77".parse().expect("an address"));
        let error = dial_from(strange, &literal, WITHIN).await.expect_err("it is not ours");
        assert_eq!(error.to_string(), format!("127.0.0.1:{port}: this machine has no address 192.0.2.77"));
        assert_eq!(error.exhausted(), None);
    }

    /// The other end takes a dial that is given up at that moment for a session.
    #[tokio::test]
    async fn a_dial_that_is_dropped_ends_in_a_reset() {
        let listener = tokio::net::TcpListener::bind(local(1, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let at = HostPort { host: "127.0.0.1".into(), port };
        for source in [None, Some(local(1, 0).ip())] {
            drop(dial_from(source, &at, WITHIN).await.expect("it listens"));
            let (mut accepted, _) = listener.accept().await.expect("it is there");
            let read = accepted.read(&mut [0; 1]).await;
            assert_eq!(read.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset));
        }
    }

    #[tokio::test]
    async fn an_unanswered_lookup_fails_at_the_deadline() {
        let names = NameResolver::new(|_| {
            std::thread::park_timeout(Duration::from_secs(60));
            Err(io::Error::other("late"))
        });
        let at = HostPort { host: "db.late.test".into(), port: 1 };
        let error =
            dial_with(&names, None, &at, Duration::from_millis(50)).await.expect_err("nobody answers");
        let reported = "db.late.test:1: the name does not resolve: no answer within 0.05s";
        assert!(matches!(error, DialError::Resolve { .. }) && error.to_string() == reported, "{error}");
    }

    #[test]
    fn the_families_take_turns() {
        let read = |text: &str| text.split(' ').map(|at| at.parse().expect("an address")).collect::<Vec<_>>();
        for (given, expected) in [
            ("[::1]:1 [::2]:1 1.1.1.1:1 [::3]:1 2.2.2.2:1", "[::1]:1 1.1.1.1:1 [::2]:1 2.2.2.2:1 [::3]:1"),
            ("1.1.1.1:1 2.2.2.2:1 [::1]:1", "1.1.1.1:1 [::1]:1 2.2.2.2:1"),
            ("1.1.1.1:1", "1.1.1.1:1"),
        ] {
            assert_eq!(interleave_families(read(given)), read(expected));
        }
    }
}
