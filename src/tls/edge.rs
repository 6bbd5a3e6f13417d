//! TLS with clients and backends: versions 1.2 and 1.3, with the certificates that a profile names. All of them are
//! loaded at once, and what cannot be loaded leaves in force what was there before ([`EdgeTls::falling_back_to`]).

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::SystemTime};

use rustls::{
    ClientConfig, Error, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName},
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    authorities::Authorities,
    client_hello::ClientHello,
    edge_verifiers::{BackendVerifier, ClientCertificateDemand, NamedClientVerifier},
    error::TlsError,
    handshake::run_handshake,
    party::TlsParty,
    peer_verifier::name_among,
    pem::{pem_problem, read_chain, read_key, read_roots, unfit_problem},
    probe_tls,
    revocation::{RevocationCheck, RevocationLists},
    shown_certificates::{ShownCertificates, ShownChain, ShownRefusal},
};
use crate::{
    disk::PipePolicy,
    net::{read_ahead::ReadAhead, stream::NetStream},
    profile::{
        Accept, AcceptTls, ClientCertificates, ClientCheck, ConnectTls, EdgeScheme, KeyPair, PemSource,
        Problem, TlsVersion, WEB_ALPN,
    },
    proto::{
        certificate::{expiry_seconds, subject_name},
        multiplex::open::{ProvenUser, USER_BYTES_MAX},
        proxy::CERTIFICATE_METHOD,
    },
};

/// The TLS of each edge of a profile, loaded and checked.
#[derive(Debug, Clone, Default)]
pub struct EdgeTls {
    accepts: HashMap<AcceptTls, EdgeConfig<AcceptTlsConfig>>,
    connects: HashMap<ConnectTls, EdgeConfig<ConnectConfig>>,
    /// All problems with it, each at its key in the profile.
    problems: Vec<Problem>,
}

/// The party at the other end, and the configuration.
type ConnectConfig = (TlsParty, Arc<ClientConfig>);

/// The configuration of one edge.
#[derive(Debug, Clone)]
enum EdgeConfig<T> {
    Opened(T),
    /// The current files cannot be used; the previous ones stay in force.
    Kept(T, Problem),
    Faulty(Problem),
}

impl<T: Clone> EdgeConfig<T> {
    fn opened(&self) -> Option<&T> {
        match self {
            Self::Opened(edge) | Self::Kept(edge, _) => Some(edge),
            Self::Faulty(_) => None,
        }
    }

    fn falling_back_to(self, before: Option<&T>) -> Self {
        match (self, before) {
            (Self::Faulty(problem), Some(before)) => Self::Kept(before.clone(), problem),
            (edge, _) => edge,
        }
    }

    fn fault(&self) -> Option<EdgeTlsError<'_>> {
        match self {
            Self::Opened(_) => None,
            Self::Kept(_, problem) => Some(EdgeTlsError { problem, is_kept: true }),
            Self::Faulty(problem) => Some(EdgeTlsError { problem, is_kept: false }),
        }
    }
}

/// An error in the TLS of one edge.
#[derive(Debug, Clone, Copy)]
pub struct EdgeTlsError<'a> {
    pub problem: &'a Problem,
    /// The previous configuration stays in force.
    pub is_kept: bool,
}

/// TLS with clients; one configuration for each protocol that may be spoken inside.
#[derive(Debug, Clone)]
struct AcceptTlsConfig {
    /// For bytes, whatever the clients call them.
    bytes: TlsServer,
    /// For requests: only HTTP/1.1 (RFC 7301).
    web: TlsServer,
    /// The certificate that clients are shown.
    leaf: CertificateDer<'static>,
    /// Which of their certificates are revoked.
    revoked: Arc<RevocationCheck>,
    /// Whose certificates are accepted; `None` if none are asked for.
    verifier: Option<Arc<NamedClientVerifier>>,
}

impl EdgeTls {
    /// Loads what the accepts and connects name. A fault in one does not affect the others.
    pub fn load<'a>(
        accepts: impl Iterator<Item = &'a AcceptTls>,
        connects: impl Iterator<Item = (TlsParty, &'a ConnectTls)>,
        pipes: PipePolicy,
    ) -> Self {
        let mut edges = Self::default();
        for tls in accepts {
            let edge = edges.keep_problem(load_accept(tls, pipes));
            edges.accepts.insert(tls.clone(), edge);
        }
        for (with, tls) in connects {
            let edge = edges.keep_problem(load_connect(tls, with, pipes));
            edges.connects.insert(tls.clone(), edge);
        }
        // A file that several services name is reported once for each place.
        edges.problems.dedup();
        edges
    }

    fn keep_problem<T>(&mut self, opened: Result<T, Problem>) -> EdgeConfig<T> {
        match opened {
            Ok(edge) => EdgeConfig::Opened(edge),
            Err(problem) => {
                self.problems.push(problem.clone());
                EdgeConfig::Faulty(problem)
            }
        }
    }

    /// All that is wrong, in the order of the profile.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Keeps what can be used of it: where the current files cannot, what was loaded before for the same edge stays in
    /// force, as long as it is in date.
    pub fn falling_back_to(self, before: &Self) -> Self {
        let accepts = self.accepts.into_iter().map(|(tls, edge)| {
            let was = before.accepts.get(&tls).and_then(EdgeConfig::opened).filter(|was| was.is_in_date());
            (tls, edge.falling_back_to(was))
        });
        let mut accepts: HashMap<_, _> = accepts.collect();
        share_certificate_tables(&mut accepts, before);
        let connects = self.connects.into_iter().map(|(tls, edge)| {
            let was = before.connects.get(&tls).and_then(EdgeConfig::opened);
            (tls, edge.falling_back_to(was))
        });
        Self { accepts, connects: connects.collect(), problems: self.problems }
    }

    /// Applies its lists of revoked certificates to connected clients; returns how many of them are cut.
    pub fn enforce_revocations(&self) -> usize {
        let mut enforced: HashMap<&PemSource, (Arc<ShownCertificates>, Vec<Arc<RevocationLists>>)> =
            HashMap::new();
        for (tls, edge) in &self.accepts {
            let (Some(clients), Some(edge)) = (tls.client_certificates(), edge.opened()) else { continue };
            let entry = enforced.entry(&clients.ca).or_insert_with(|| (edge.bytes.shown.clone(), Vec::new()));
            entry.1.push(edge.revoked.lists());
        }
        enforced.into_values().map(|(shown, lists)| shown.enforce(lists)).sum()
    }

    /// What clients of accepts with this `ca` have shown on open connections.
    pub fn shown_by_clients(&self, ca: &PemSource) -> Vec<ShownChain> {
        let has_ca = |tls: &AcceptTls| tls.client_certificates().is_some_and(|clients| clients.ca == *ca);
        let mut of_ca = self.accepts.iter().filter(|(tls, _)| has_ca(tls));
        let edge = of_ca.find_map(|(_, edge)| edge.opened());
        edge.map(|edge| edge.bytes.shown.of_open_connections()).unwrap_or_default()
    }

    /// Why an accept would not let in a client that shows these certificates; `None` if it would, or cannot be used
    /// at all.
    pub fn refusal_of_client(&self, tls: &AcceptTls, chain: &[CertificateDer<'_>]) -> Option<ShownRefusal> {
        let edge = self.accepts.get(tls)?.opened()?;
        if edge.revoked.lists().revoke_chain(chain) {
            return Some(ShownRefusal::Revoked);
        }
        edge.verifier.as_ref()?.refusal_reason(chain).map(ShownRefusal::Untrusted)
    }

    /// The revocation check of each accept.
    pub fn revoked(&self) -> impl Iterator<Item = &Arc<RevocationCheck>> {
        self.accepts.values().filter_map(EdgeConfig::opened).map(|edge| &edge.revoked)
    }

    /// Problems with the current files where the previous ones stay in force.
    pub fn kept_problems(&self) -> impl Iterator<Item = &Problem> {
        let accepts = self.accepts.values().filter_map(EdgeConfig::fault);
        let faults = accepts.chain(self.connects.values().filter_map(EdgeConfig::fault));
        faults.filter(|fault| fault.is_kept).map(|fault| fault.problem)
    }

    pub fn fault_of_accept(&self, tls: &AcceptTls) -> Option<EdgeTlsError<'_>> {
        self.accepts.get(tls)?.fault()
    }

    pub fn fault_of_connect(&self, tls: &ConnectTls) -> Option<EdgeTlsError<'_>> {
        self.connects.get(tls)?.fault()
    }

    pub fn accept_server(&self, tls: &AcceptTls, scheme: EdgeScheme) -> Option<TlsServer> {
        let answering = self.accepts.get(tls)?.opened()?;
        Some(if scheme.is_web() { answering.web.clone() } else { answering.bytes.clone() })
    }

    /// The TLS of a probe to an accept, at a port of this address.
    pub fn probe_client(&self, accept: &Accept, port: IpAddr) -> Option<TlsClient> {
        let answering = self.accepts.get(accept.tls.as_ref()?)?.opened()?;
        probe_tls::probe_client(answering.leaf.clone(), &accept.sni, port)
    }

    pub fn connect_client(&self, tls: &ConnectTls) -> Option<TlsClient> {
        let (with, config) = self.connects.get(tls)?.opened()?.clone();
        Some(TlsClient { config, with, name: ServerName::try_from(tls.name.clone()).ok()? })
    }
}

impl AcceptTlsConfig {
    /// Shares the book of certificates that clients have shown with another.
    fn share_shown(&mut self, shown: &Arc<ShownCertificates>) {
        for server in [&mut self.bytes, &mut self.web] {
            server.shown = shown.clone();
        }
    }

    fn is_in_date(&self) -> bool {
        expiry_seconds(&self.leaf).is_some_and(|expires| expires > now())
    }
}

/// Accepts with the same `ca` share one book of shown certificates, old accepts and new ones.
fn share_certificate_tables(accepts: &mut HashMap<AcceptTls, EdgeConfig<AcceptTlsConfig>>, before: &EdgeTls) {
    let mut by_ca: HashMap<PemSource, Arc<ShownCertificates>> = HashMap::new();
    for (tls, edge) in &before.accepts {
        if let (Some(clients), Some(edge)) = (tls.client_certificates(), edge.opened()) {
            by_ca.entry(clients.ca.clone()).or_insert_with(|| edge.bytes.shown.clone());
        }
    }
    for (tls, edge) in accepts {
        if let (Some(clients), EdgeConfig::Opened(edge) | EdgeConfig::Kept(edge, _)) =
            (tls.client_certificates(), edge)
        {
            edge.share_shown(by_ca.entry(clients.ca.clone()).or_default());
        }
    }
}

fn load_accept(tls: &AcceptTls, pipes: PipePolicy) -> Result<AcceptTlsConfig, Problem> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let pair = load_pair(&tls.pair, &provider, pipes)?;
    let leaf = pair.cert.first().expect("`chain` returns at least one certificate").clone();
    let versions: &[_] = match tls.min_version {
        TlsVersion::Tls12 => &[&TLS13, &TLS12],
        TlsVersion::Tls13 => &[&TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .expect("the provider has cipher suites of both versions");
    let revoked = match tls.client_certificates() {
        Some(clients) => load_revoked(clients, pipes)?,
        None => Arc::default(),
    };
    let verifier = |clients, demand| verifier(clients, &provider, pipes, demand, revoked.clone());
    let verifier = match &tls.clients {
        ClientCheck::Nobody => None,
        ClientCheck::Optional(clients) => Some(verifier(clients, ClientCertificateDemand::Optional)?),
        ClientCheck::Required(clients) => Some(verifier(clients, ClientCertificateDemand::Required)?),
    };
    let builder = match verifier.clone() {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    let mut bytes = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    if tls.clients != ClientCheck::Nobody {
        // A client that resumes shows no certificate, and a certificate that was valid may no longer be.
        bytes.send_tls13_tickets = 0;
        bytes.session_storage = Arc::new(NoServerSessionStorage {});
    }
    let mut web = bytes.clone();
    bytes.alpn_protocols = tls.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    web.alpn_protocols = vec![WEB_ALPN.into()];
    let clients = tls.client_certificates();
    let names: Arc<[String]> = clients.and_then(|of| of.names.as_deref()).unwrap_or_default().into();
    let server = |config| TlsServer { config: Arc::new(config), names: names.clone(), shown: Arc::default() };
    Ok(AcceptTlsConfig { bytes: server(bytes), web: server(web), leaf, revoked, verifier })
}

fn load_connect(tls: &ConnectTls, with: TlsParty, pipes: PipePolicy) -> Result<ConnectConfig, Problem> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let authorities = authorities(&tls.ca, &provider, with, pipes)?;
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider has cipher suites of both versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(BackendVerifier { authorities }));
    let mut config = match &tls.pair {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let own = load_pair(own, &provider, pipes)?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)))
        }
    };
    config.alpn_protocols = tls.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok((with, Arc::new(config)))
}

/// How the gateway speaks TLS with one backend.
#[derive(Debug, Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    with: TlsParty,
    name: ServerName<'static>,
}

impl TlsClient {
    pub(super) fn new(config: Arc<ClientConfig>, name: ServerName<'static>) -> Self {
        Self { config, with: TlsParty::Backend, name }
    }

    /// Whether both configurations come from the same loaded files, for the same name.
    pub fn is_same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config) && self.name == other.name
    }

    /// TLS to a server with another name.
    pub fn named(self, name: &str) -> Option<Self> {
        Some(Self { name: ServerName::try_from(name.to_owned()).ok()?, ..self })
    }

    /// The handshake with a backend. `agreed` is the protocol that the client's accept has agreed on by ALPN,
    /// if any. The backend is offered exactly that, unless the profile says what to offer.
    pub async fn connect(&self, stream: TcpStream, agreed: &[u8]) -> Result<NetStream, TlsError> {
        let mut config = self.config.clone();
        if config.alpn_protocols.is_empty() && !agreed.is_empty() {
            Arc::make_mut(&mut config).alpn_protocols = vec![agreed.to_vec()];
        }
        let offered = config.alpn_protocols.iter().map(|name| String::from_utf8_lossy(name).into_owned());
        let offered: Vec<_> = offered.collect();
        let connecting = TlsConnector::from(config).connect(self.name.clone(), ReadAhead::of_socket(stream));
        let stream = run_handshake(connecting.into_fallible(), self.with).await?;
        // A protocol that was not offered makes the handshake fail by itself. A balancer may not know the
        // extension.
        let must_agree = self.with == TlsParty::Backend && !offered.is_empty();
        if must_agree && stream.get_ref().1.alpn_protocol().is_none() {
            return Err(TlsError::NoProtocol(offered.join(", ")));
        }
        Ok(NetStream::Tls(Box::new(stream.into())))
    }
}

/// How the gateway speaks TLS with the clients of one accept.
#[derive(Debug, Clone)]
pub struct TlsServer {
    pub config: Arc<ServerConfig>,
    /// A client's certificate must have one of these names; if empty, any name will do.
    names: Arc<[String]>,
    /// The certificates that connected clients have shown.
    shown: Arc<ShownCertificates>,
}

impl TlsServer {
    pub fn is_same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config)
    }

    /// The handshake with a client whose hello was read; also returns the user that its certificate proves.
    pub async fn accept(
        &self,
        hello: ClientHello,
        stream: TcpStream,
    ) -> Result<(NetStream, Option<ProvenUser>), TlsError> {
        let mut stream = accept(hello, stream, self.config.clone()).await?;
        self.shown.watch(&mut stream);
        let user = stream.peer_certificate().and_then(|leaf| self.user_of(leaf));
        Ok((stream, user))
    }

    fn user_of(&self, leaf: &CertificateDer<'_>) -> Option<ProvenUser> {
        let name = match self.names.is_empty() {
            true => subject_name(leaf)?,
            false => name_among(leaf, &self.names, "this accept's `names`").ok()?,
        };
        let is_name = (1..=USER_BYTES_MAX).contains(&name.len()) && !name.contains(char::is_control);
        is_name.then(|| ProvenUser { method: CERTIFICATE_METHOD.into(), name })
    }
}

/// The handshake with a client whose hello was read.
pub async fn accept(
    hello: ClientHello,
    stream: TcpStream,
    config: Arc<ServerConfig>,
) -> Result<NetStream, TlsError> {
    let begun =
        hello.start_handshake(stream).await.map_err(|error| TlsError::of_io(error, TlsParty::Client))?;
    let stream = run_handshake(begun.into_stream(config).into_fallible(), TlsParty::Client).await?;
    Ok(NetStream::Tls(Box::new(stream.into())))
}

fn verifier(
    clients: &ClientCertificates,
    provider: &Arc<CryptoProvider>,
    pipes: PipePolicy,
    demand: ClientCertificateDemand,
    revoked: Arc<RevocationCheck>,
) -> Result<Arc<NamedClientVerifier>, Problem> {
    let authorities = authorities(&clients.ca, provider, TlsParty::Client, pipes)?;
    Ok(Arc::new(NamedClientVerifier { authorities, names: clients.names.clone(), demand, revoked }))
}

/// If several lists are wrong, the first is reported.
fn load_revoked(clients: &ClientCertificates, pipes: PipePolicy) -> Result<Arc<RevocationCheck>, Problem> {
    let issuers = read_chain(&clients.ca, pipes)?;
    let loaded = RevocationCheck::load(&clients.revoked, issuers, TlsParty::Client, pipes);
    loaded.map(Arc::new).map_err(|mut problems| problems.swap_remove(0))
}

fn authorities(
    ca: &PemSource,
    provider: &Arc<CryptoProvider>,
    of: TlsParty,
    pipes: PipePolicy,
) -> Result<Authorities, Problem> {
    let all = read_chain(ca, pipes)?;
    let roots = read_roots(ca, &all)?;
    Authorities::new(all, &roots, provider.clone(), of)
        .map_err(|error| pem_problem(ca, format!("it cannot be used: {error}"), "name a CA's certificate"))
}

/// Loads a certificate that matches its key and is in date.
fn load_pair(pair: &KeyPair, provider: &CryptoProvider, pipes: PipePolicy) -> Result<CertifiedKey, Problem> {
    let chain = read_chain(&pair.certificate, pipes)?;
    check_in_date(&pair.certificate, &chain)?;
    CertifiedKey::from_der(chain.clone(), read_key(&pair.key, pipes)?, provider).map_err(
        |error| match error {
            Error::InconsistentKeys(_) => pem_problem(
                &pair.key,
                "it is not the key of the certificate".into(),
                "name the pair that belongs together",
            ),
            other => unfit_problem(&other, &chain, &pair.certificate).unwrap_or_else(|| {
                pem_problem(&pair.key, format!("it cannot be used: {other}"), "make a new pair")
            }),
        },
    )
}

fn check_in_date(material: &PemSource, chain: &[CertificateDer<'_>]) -> Result<(), Problem> {
    let Some(leaf) = chain.first() else { return Ok(()) };
    let fault = |what: String| pem_problem(material, what, "name one that is in date");
    let (_, leaf) = X509Certificate::from_der(leaf)
        .map_err(|error| fault(format!("it is not a certificate: {error}")))?;
    let (from, until) = (leaf.validity().not_before, leaf.validity().not_after);
    match now() {
        now if now < from.timestamp() => Err(fault(format!("it is not valid before {from}"))),
        now if now > until.timestamp() => Err(fault(format!("it has expired on {until}"))),
        _ => Ok(()),
    }
}

/// The time in seconds since 1970.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(now).unwrap_or(i64::MAX)
}
