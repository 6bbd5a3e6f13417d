//! Routes a client of a port to its service. This is needed if the port is behind proxies, is shared by several
//! services, or speaks TLS. The name that the client asks for decides. The path and
//! the host of a request are not read here, but in `request_routing`.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use thiserror::Error;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    admission::{
        clients::{ClientAdmission, ClientGates},
        handshakes::EVICTED,
    },
    link::{HANDSHAKE_TIMEOUT, endpoint::LinkEndpoints},
    net::{
        proxy::{self, ProxyReadError},
        stream::NetStream,
    },
    profile::{Network, ServiceName, WebOptions},
    proto::{
        self,
        multiplex::open::{ClientOrigin, ProvenUser},
    },
    tls::{
        client_hello::{self, ClientHello, HelloReadError},
        edge::{self, TlsServer},
        error::TlsError,
        probe_tls,
    },
};

/// How the clients of a port are routed.
#[derive(Debug, Clone)]
pub struct PortRoutes {
    /// Clients come through proxies in these networks, which say who the clients are.
    pub proxy: Option<Vec<Network>>,
    pub table: RouteTable,
}

#[derive(Debug, Clone)]
pub enum RouteTable {
    /// One service, whatever its clients send.
    One(ServiceName),
    /// The name in the ClientHello decides.
    Named(Vec<SniRoute>),
    /// Each request decides.
    Http(Arc<Vec<HttpRoute>>),
}

/// The route of some server names of a port.
#[derive(Debug, Clone)]
pub struct SniRoute {
    /// The names; if empty, any name that matches no other route.
    pub sni: Vec<String>,
    pub handling: TlsHandling,
}

#[derive(Debug, Clone)]
pub enum TlsHandling {
    /// TLS is passed on as it is.
    Passed(ServiceName),
    /// TLS ends here.
    Tls(ServiceName, TlsServer),
    Http(Arc<Vec<HttpRoute>>, TlsServer),
    /// TLS should end here, but cannot.
    Down(ServiceName, String),
}

impl TlsHandling {
    /// The TLS to end here for clients of a service; `None` if it does not end here, or not for that service.
    fn tls_config_for(&self, wanted: &ServiceName) -> Option<&ServerConfig> {
        match self {
            Self::Passed(_) | Self::Down(..) => None,
            Self::Tls(service, server) => (service == wanted).then_some(&server.config),
            Self::Http(routes, server) => {
                routes.iter().any(|route| route.service == *wanted).then_some(&server.config)
            }
        }
    }
}

impl PortRoutes {
    /// Whether clients of any service use this port.
    pub fn has_services(&self) -> bool {
        match &self.table {
            RouteTable::One(_) => true,
            RouteTable::Http(routes) => !routes.is_empty(),
            RouteTable::Named(routes) => routes.iter().any(|route| match &route.handling {
                TlsHandling::Http(routes, _) => !routes.is_empty(),
                TlsHandling::Passed(_) | TlsHandling::Tls(..) | TlsHandling::Down(..) => true,
            }),
        }
    }

    /// These routes before its services use this port: TLS is spoken in the same way, but no service is
    /// found.
    pub fn without_services(self) -> Self {
        let table = match self.table {
            RouteTable::Http(_) => RouteTable::Http(Arc::default()),
            RouteTable::One(_) => RouteTable::Named(Vec::new()),
            RouteTable::Named(routes) => {
                let emptied = |SniRoute { sni, handling }| match handling {
                    TlsHandling::Http(_, server) => {
                        Some(SniRoute { sni, handling: TlsHandling::Http(Arc::default(), server) })
                    }
                    TlsHandling::Passed(_) | TlsHandling::Tls(..) | TlsHandling::Down(..) => None,
                };
                RouteTable::Named(routes.into_iter().filter_map(emptied).collect())
            }
        };
        Self { table, ..self }
    }
}

/// TLS that links need on an open port before the profile that brings it is in force, for names that belong to
/// no route yet. It is removed on drop, unless the port has got other routes since.
#[derive(Debug)]
pub struct BorrowedRoutes {
    port: Arc<ArcSwap<PortRoutes>>,
    before: Arc<PortRoutes>,
    joined: Arc<PortRoutes>,
}

impl BorrowedRoutes {
    /// Returns `None` if the port has all of it already.
    pub fn join(port: &Arc<ArcSwap<PortRoutes>>, wanted: PortRoutes) -> Option<Self> {
        let before = port.load_full();
        let (RouteTable::Named(routes), RouteTable::Named(wanted)) = (&before.table, wanted.table) else {
            return None;
        };
        let is_named = |name: &String| routes.iter().any(|route| route.sni.contains(name));
        let takes_any = routes.iter().any(|route| route.sni.is_empty());
        let mut joined = routes.clone();
        for SniRoute { mut sni, handling } in wanted {
            let is_for_any = sni.is_empty();
            sni.retain(|name| !is_named(name));
            if (is_for_any && !takes_any) || !sni.is_empty() {
                joined.push(SniRoute { sni, handling });
            }
        }
        if joined.len() == routes.len() {
            return None;
        }
        let joined = Arc::new(PortRoutes { proxy: before.proxy.clone(), table: RouteTable::Named(joined) });
        port.store(joined.clone());
        Some(Self { port: port.clone(), before, joined })
    }
}

impl Drop for BorrowedRoutes {
    fn drop(&mut self) {
        self.port.compare_and_swap(&self.joined, self.before.clone());
    }
}

/// A service that requests can be for.
#[derive(Debug, Clone)]
pub struct HttpRoute {
    pub service: ServiceName,
    pub path: String,
    pub web: WebOptions,
    pub web_kind: WebKind,
}

/// The kind of requests that clients of a service send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebKind {
    /// WebSockets whose frames are decoded here.
    Frames,
    /// WebSockets that are passed on as they are.
    Sockets,
    Requests,
}

/// The destination that a client was routed to.
pub enum RoutedClient {
    Session(AdmittedClient),
    Web(WebClient),
}

/// A client whose requests will say which services they are for.
pub struct WebClient {
    pub client: SocketAddr,
    pub stream: NetStream,
    pub prefix: Vec<u8>,
    pub routes: Arc<Vec<HttpRoute>>,
    pub is_tls: bool,
    pub origin: Box<ClientOrigin>,
}

/// A client whose service is known.
pub struct AdmittedClient {
    pub client: SocketAddr,
    pub service: ServiceName,
    pub stream: NetStream,
    /// Bytes that it has already sent, for the backend.
    pub prefix: Vec<u8>,
    pub origin: Box<ClientOrigin>,
    /// Whether it may come in, if that had to be decided already.
    pub admission: ClientAdmission,
}

/// Why a client is rejected before it has a service.
#[derive(Debug, Error)]
pub enum RouteError {
    #[error("{EVICTED}")]
    Evicted,
    #[error("its handshake was not complete within {}s", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout,
    #[error("it is not among the accept's proxies")]
    NotProxy,
    #[error(transparent)]
    Proxy(#[from] ProxyReadError),
    #[error(transparent)]
    Hello(#[from] HelloReadError),
    #[error("the client asks for {}, which no service here has; list it under a service's `sni`, or correct the client", .0.as_ref().map_or_else(|| "no name".into(), |name| format!("`{name}`")))]
    UnknownName(Option<String>),
    #[error("{service} is down: {reason}")]
    Down { service: ServiceName, reason: String },
    #[error("{service}: {error}")]
    ServiceTls { service: ServiceName, error: TlsError },
    /// On a port where requests decide about the service, so none is known yet.
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("no route of its port ends TLS")]
    ProbeWithoutTls,
    #[error("the name it asks for means another service")]
    ProbeOfOther,
}

/// Finds out who a client is and which service it wants, under a deadline.
pub async fn route_client(
    stream: TcpStream,
    from: SocketAddr,
    port_routes: &PortRoutes,
    link_endpoints: &LinkEndpoints,
    gates: &ClientGates,
) -> Result<RoutedClient, RouteError> {
    match timeout(HANDSHAKE_TIMEOUT, route_stream(stream, from, port_routes, link_endpoints, gates)).await {
        Ok(entered) => entered,
        Err(_) => Err(RouteError::Timeout),
    }
}

/// Takes a probe of our own through the TLS of its service's route; it skips proxies and requests.
pub async fn route_probe(
    mut stream: TcpStream,
    client: SocketAddr,
    service: ServiceName,
    port_routes: &PortRoutes,
) -> Result<AdmittedClient, RouteError> {
    let shaken = async {
        let RouteTable::Named(routes) = &port_routes.table else {
            return Err(RouteError::ProbeWithoutTls);
        };
        let hello = ClientHello::read(&mut stream, Vec::new()).await?;
        let Some(config) =
            find_sni_route(routes, hello.name()).and_then(|route| route.handling.tls_config_for(&service))
        else {
            client_hello::refuse_name(&mut stream).await;
            return Err(RouteError::ProbeOfOther);
        };
        Ok(edge::accept(hello, stream, probe_tls::probe_server_config(config)).await?)
    };
    let stream = timeout(HANDSHAKE_TIMEOUT, shaken).await.unwrap_or_else(|_| Err(RouteError::Timeout))?;
    let admission = ClientAdmission::Unchecked;
    Ok(AdmittedClient { client, service, stream, prefix: Vec::new(), origin: Box::default(), admission })
}

async fn route_stream(
    stream: TcpStream,
    from: SocketAddr,
    port_routes: &PortRoutes,
    link_endpoints: &LinkEndpoints,
    gates: &ClientGates,
) -> Result<RoutedClient, RouteError> {
    let arrived = ArrivedClient::read(stream, from, port_routes.proxy.as_deref()).await?;
    match &port_routes.table {
        RouteTable::One(service) => Ok(RoutedClient::Session(arrived.admit_unchecked(service.clone()))),
        RouteTable::Http(routes) => {
            let ArrivedClient { client, stream, prefix, origin } = arrived;
            let (stream, routes, is_tls) = (NetStream::Tcp(stream), routes.clone(), false);
            Ok(RoutedClient::Web(WebClient { client, stream, prefix, routes, is_tls, origin }))
        }
        // Boxed, so that clients without TLS need no memory for it.
        RouteTable::Named(routes) => Box::pin(route_by_name(arrived, routes, link_endpoints, gates)).await,
    }
}

/// A client about whom nothing is known yet except who it is.
struct ArrivedClient {
    client: SocketAddr,
    stream: TcpStream,
    /// Bytes that were already read from it.
    prefix: Vec<u8>,
    origin: Box<ClientOrigin>,
}

impl ArrivedClient {
    /// Finds out who it is: whoever has connected or, if that is a proxy in these networks, whom it names.
    async fn read(
        mut stream: TcpStream,
        from: SocketAddr,
        proxies: Option<&[Network]>,
    ) -> Result<Self, RouteError> {
        let mut origin = origin_with_destination(&stream);
        let (client, prefix) = match proxies {
            None => (from, Vec::new()),
            Some(networks) if networks.iter().any(|network| network.contains(from.ip())) => {
                let (header, prefix) = proxy::read(&mut stream).await?;
                origin.destination = header.destination.or(origin.destination);
                origin.proxy_tlvs = header.tlvs;
                (header.client.unwrap_or(from), prefix)
            }
            Some(_) => return Err(RouteError::NotProxy),
        };
        Ok(Self { client, stream, prefix, origin })
    }

    /// Assigns it to this service, whatever it sends. Whether it may come in is decided later.
    fn admit_unchecked(self, service: ServiceName) -> AdmittedClient {
        let Self { client, stream, prefix, origin } = self;
        let (stream, admission) = (NetStream::Tcp(stream), ClientAdmission::Unchecked);
        AdmittedClient { client, service, stream, prefix, origin, admission }
    }
}

/// Routes a client by the name in its ClientHello.
async fn route_by_name(
    mut arrived: ArrivedClient,
    routes: &[SniRoute],
    link_endpoints: &LinkEndpoints,
    gates: &ClientGates,
) -> Result<RoutedClient, RouteError> {
    let prefix = std::mem::take(&mut arrived.prefix);
    let hello = ClientHello::read(&mut arrived.stream, prefix).await?;
    let name = hello.name();
    let Some(route) = find_sni_route(routes, name) else {
        // Links may have a certificate of their own.
        if let Some(server) = link_endpoints.outer_server() {
            let client = end_tls_for_requests(arrived, hello, &server, Arc::default()).await;
            return client.map(RoutedClient::Web);
        }
        client_hello::refuse_name(&mut arrived.stream).await;
        return Err(RouteError::UnknownName(name.map(str::to_owned)));
    };
    match &route.handling {
        TlsHandling::Passed(service) => {
            arrived.prefix = hello.into_bytes();
            Ok(RoutedClient::Session(arrived.admit_unchecked(service.clone())))
        }
        TlsHandling::Down(service, why) => {
            client_hello::refuse_service(&mut arrived.stream).await;
            Err(RouteError::Down { service: service.clone(), reason: why.clone() })
        }
        TlsHandling::Tls(service, server) => {
            end_tls_for_session(arrived, hello, service, server, gates).await.map(RoutedClient::Session)
        }
        TlsHandling::Http(routes, server) => {
            end_tls_for_requests(arrived, hello, server, routes.clone()).await.map(RoutedClient::Web)
        }
    }
}

async fn end_tls_for_session(
    arrived: ArrivedClient,
    hello: ClientHello,
    service: &ServiceName,
    server: &TlsServer,
    gates: &ClientGates,
) -> Result<AdmittedClient, RouteError> {
    let ArrivedClient { client, stream, mut origin, .. } = arrived;
    let admission = ClientAdmission::from(gates.enter(service, client.ip()));
    let accepted = match &admission {
        // Its session is refused before TLS, which would be wasted.
        ClientAdmission::Refused(_) => Ok((NetStream::Tcp(stream), None)),
        ClientAdmission::Admitted(_) | ClientAdmission::Unchecked => server.accept(hello, stream).await,
    };
    let (stream, user) =
        accepted.map_err(|error| RouteError::ServiceTls { service: service.clone(), error })?;
    note_user(&mut origin, user, &stream);
    origin.alpn = stream.alpn().unwrap_or_default().to_vec();
    let (service, prefix) = (service.clone(), Vec::new());
    Ok(AdmittedClient { client, service, stream, prefix, origin, admission })
}

async fn end_tls_for_requests(
    arrived: ArrivedClient,
    hello: ClientHello,
    server: &TlsServer,
    routes: Arc<Vec<HttpRoute>>,
) -> Result<WebClient, RouteError> {
    let ArrivedClient { client, stream, mut origin, .. } = arrived;
    let (stream, user) = server.accept(hello, stream).await?;
    note_user(&mut origin, user, &stream);
    Ok(WebClient { client, stream, prefix: Vec::new(), routes, is_tls: true, origin })
}

/// Notes the name that a client has proven by TLS, and the TLS.
fn note_user(origin: &mut ClientOrigin, user: Option<ProvenUser>, stream: &NetStream) {
    if let (Some(_), Some(version)) = (&user, stream.tls_version()) {
        let received = std::mem::take(&mut origin.proxy_tlvs);
        origin.proxy_tlvs = proto::proxy::with_tls_version(received, version);
    }
    origin.user = user;
}

/// Where a client has connected to: all that is known without reading from it.
pub fn origin_with_destination(stream: &TcpStream) -> Box<ClientOrigin> {
    let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
    let destination = stream.local_addr().ok().map(canonical);
    Box::new(ClientOrigin { destination, ..ClientOrigin::default() })
}

/// An exact name is preferred to `*.` with its parent, and that to a route for any name.
fn find_sni_route<'a>(routes: &'a [SniRoute], name: Option<&str>) -> Option<&'a SniRoute> {
    let has = |wanted: &str| routes.iter().find(|route| route.sni.iter().any(|name| name == wanted));
    let named = name.and_then(|name| {
        let parent = || name.split_once('.').map(|(_, parent)| format!("*.{parent}"));
        has(name).or_else(|| has(&parent()?))
    });
    named.or_else(|| routes.iter().find(|route| route.sni.is_empty()))
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;
    use crate::tests::happens_after;

    #[test]
    fn the_closest_name_is_meant() {
        let route = |service: &str, sni: &[&str]| SniRoute {
            sni: sni.iter().map(|name| (*name).to_owned()).collect(),
            handling: TlsHandling::Passed(ServiceName::parse(service).expect("a name")),
        };
        let named = [route("stars", &["*.example.com"]), route("www", &["www.example.com"])];
        let all = [route("stars", &["*.example.com"]), route("any", &[]), route("www", &["www.example.com"])];
        let table = [
            (Some("www.example.com"), Some("www"), "www"),
            (Some("a.example.com"), Some("stars"), "stars"),
            (Some("a.b.example.com"), None, "any"),
            (Some("example.com"), None, "any"),
            (None, None, "any"),
        ];
        for (name, of_named, of_all) in table {
            let found = |routes| match find_sni_route(routes, name).map(|route| &route.handling) {
                Some(TlsHandling::Passed(service)) => Some(service.as_str()),
                Some(other) => panic!("{other:?}"),
                None => None,
            };
            assert_eq!((found(&named), found(&all)), (of_named, Some(of_all)), "{name:?}");
        }
    }

    /// Before a PROXY header, within one, and before a ClientHello.
    #[tokio::test(start_paused = true)]
    async fn routing_a_client_has_a_deadline() {
        let named = || {
            let handling = TlsHandling::Passed(ServiceName::parse("www").expect("a name"));
            RouteTable::Named(vec![SniRoute { sni: Vec::new(), handling }])
        };
        let loopback: Network = "127.0.0.0/8".parse().expect("a network");
        for (proxy, sent) in [
            (None, &b""[..]),
            (None, b"\x16\x03\x01"),
            (Some(vec![loopback]), b""),
            (Some(vec![loopback]), b"PROXY "),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let at = listener.local_addr().expect("it is bound");
            let mut client = TcpStream::connect(at).await.expect("it connects");
            let (stream, from) = listener.accept().await.expect("it connects");
            client.write_all(sent).await.expect("it is taken");
            let port_routes = PortRoutes { proxy, table: named() };
            let (routes, gates) = (LinkEndpoints::default(), ClientGates::default());
            let routed =
                happens_after(HANDSHAKE_TIMEOUT, route_client(stream, from, &port_routes, &routes, &gates))
                    .await;
            assert!(matches!(routed, Err(RouteError::Timeout)), "{sent:?}");
        }
    }
}
