//! Mutual TLS of a link: version 1.3 only, both certificates checked, no resumption, no early data.
//!
//! [`LinkIdentity::load`] opens what a profile names and reports everything wrong with it;
//! [`LinkIdentity::accept`] and [`LinkIdentity::connect`] are the two handshakes.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use rustls::{
    CertificateError, ClientConfig, NamedGroup, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{
    authorities::Authorities,
    chain::ChainError,
    describe::describe_certificate,
    error::{TlsError, failure_reason},
    handshake::run_handshake,
    party::TlsParty,
    peer_verifier::PeerVerifier,
    pem::{find_unfit, name_prefix, pem_problem, read_chain, read_key, read_roots, unfit, unfit_problem},
    revocation::RevocationCheck,
    shown_certificates::{ShownCertificates, ShownChain, ShownRefusal},
};
use crate::{
    disk::PipePolicy,
    net::{
        read_ahead::{ReadAhead, TlsTransport},
        stream::NetStream,
    },
    profile::{KeyExchangePolicy, LinkTls, PemSource, Problem},
};

/// The identity that one side of a link shows, and the peers it accepts, loaded and checked.
#[derive(Debug, Clone)]
pub struct LinkIdentity {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    verifier: Arc<PeerVerifier>,
    pair: Arc<SingleCertAndKey>,
    /// Its own certificates and the CA's, which a reload compares.
    shown: Arc<Vec<CertificateDer<'static>>>,
    key_exchange: KeyExchangePolicy,
    /// The certificates that peers have shown on open links.
    shown_by_peers: Arc<ShownCertificates>,
}

/// A finished handshake of the listening side.
#[derive(Debug)]
pub struct AcceptedTls {
    pub stream: NetStream,
    /// The name in the peer's certificate.
    pub peer: String,
    /// The first protocols that it offered, if their names are ASCII.
    pub offered: Vec<String>,
}

/// How many protocols of a peer are kept, and how many bytes of each.
const OFFERED_MAX: usize = 8;
const OFFERED_BYTES_MAX: usize = 32;

/// Shows our certificate and records what the peer offers: after TLS, only the chosen protocol is known.
#[derive(Debug)]
struct OfferWitness {
    pair: Arc<SingleCertAndKey>,
    offered: OnceLock<Vec<String>>,
}

impl ResolvesServerCert for OfferWitness {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let is_name = |name: &&[u8]| name.len() <= OFFERED_BYTES_MAX && name.iter().all(u8::is_ascii_graphic);
        let names = hello.alpn().into_iter().flatten().filter(is_name).take(OFFERED_MAX);
        self.offered.get_or_init(|| names.map(|name| String::from_utf8_lossy(name).into_owned()).collect());
        self.pair.resolve(hello)
    }
}

impl LinkIdentity {
    /// Loads certificate, key and CA. Returns every problem, each at its key in the profile. `alpn` names the
    /// protocols of the links, the preferred one first.
    pub fn load(tls: &LinkTls, alpn: &[Vec<u8>], pipes: PipePolicy) -> Result<Self, Vec<Problem>> {
        let (chain, key, authorities) = collect_three(
            read_chain(&tls.certificate, pipes),
            read_key(&tls.key, pipes),
            read_chain(&tls.ca, pipes),
        )?;
        let roots = read_roots(&tls.ca, &authorities).map_err(|problem| vec![problem])?;
        let provider = Arc::new(provider(tls.key_exchange));
        let at = |material: &PemSource, what: String, advice: &str| vec![pem_problem(material, what, advice)];
        let pair = CertifiedKey::from_der(chain.clone(), key, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => at(
                &tls.key,
                "it is not the key of the certificate".into(),
                "name the pair that belongs together",
            ),
            other => match unfit_problem(&other, &chain, &tls.certificate) {
                Some(problem) => vec![problem],
                None => at(
                    &tls.key,
                    format!("it cannot be used: {other}"),
                    "make a new pair with `portcullis certs`",
                ),
            },
        })?;
        let issuing = Authorities::new(authorities.clone(), &roots, provider.clone(), TlsParty::Gateway)
            .map_err(|error| at(&tls.ca, format!("it cannot be used: {error}"), "name a CA's certificate"))?;
        // An intermediate CA between this half's certificate and `ca` may have lists of its own.
        let signers = [&authorities[..], &chain[1..]].concat();
        let revoked = RevocationCheck::load(&tls.revoked, signers, TlsParty::Gateway, pipes)?;
        let verifier = PeerVerifier::new(issuing, tls.peers.clone(), Arc::new(revoked));
        check_own(verifier.authorities(), &chain, &tls.certificate)?;
        let shown = Arc::new([chain, authorities].concat());
        let identity = Self::assemble(pair, Arc::new(verifier), provider, shown, alpn);
        Ok(Self { key_exchange: tls.key_exchange, ..identity })
    }

    fn assemble(
        pair: CertifiedKey,
        verifier: Arc<PeerVerifier>,
        provider: Arc<CryptoProvider>,
        shown: Arc<Vec<CertificateDer<'static>>>,
        alpn: &[Vec<u8>],
    ) -> Self {
        let pair = Arc::new(SingleCertAndKey::from(pair));
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider's cipher suites are those of TLS 1.3")
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(pair.clone());
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.max_early_data_size = 0;
        server.ignore_client_order = true;
        server.alpn_protocols = alpn.to_vec();
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .expect("the provider's cipher suites are those of TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(pair.clone());
        client.resumption = Resumption::disabled();
        client.enable_early_data = false;
        client.alpn_protocols = alpn.to_vec();
        let (server, client) = (Arc::new(server), Arc::new(client));
        Self {
            server,
            client,
            verifier,
            pair,
            shown,
            key_exchange: KeyExchangePolicy::default(),
            shown_by_peers: Arc::default(),
        }
    }

    /// Whether links made with the other one would show and accept the same.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.shown == other.shown
            && self.verifier.peers() == other.verifier.peers()
            && self.key_exchange == other.key_exchange
    }

    /// Keeps track of the previous identity's links as well.
    pub fn succeeding(self, before: Option<&Self>) -> Self {
        let shown_by_peers = before.map_or(self.shown_by_peers, |before| before.shown_by_peers.clone());
        Self { shown_by_peers, ..self }
    }

    /// Applies its lists of revoked certificates to open links; returns how many of them are cut.
    pub fn enforce_revocations(&self) -> usize {
        self.shown_by_peers.enforce(vec![self.verifier.revoked().lists()])
    }

    /// What tells whose certificates are revoked.
    pub fn revoked(&self) -> &Arc<RevocationCheck> {
        self.verifier.revoked()
    }

    /// Why this side of a link would refuse the other's certificate; `None` if it would not.
    pub fn refusal_reason(&self, other: &Self) -> Option<String> {
        let (leaf, rest) = other.shown.split_first()?;
        let intermediates = &rest[..rest.len().saturating_sub(1)];
        let checked = self.verifier.authorities().check_server(leaf, intermediates, UnixTime::now());
        self.refusal_of_chain(checked, (leaf, intermediates), ChainError::of_other_side)
    }

    /// `checked` is whether the chain comes from the link's `ca`.
    fn refusal_of_chain(
        &self,
        checked: Result<(), rustls::Error>,
        (leaf, intermediates): (&CertificateDer<'_>, &[CertificateDer<'_>]),
        describe: fn(&ChainError) -> String,
    ) -> Option<String> {
        let named = checked.and_then(|()| self.verifier.name_of(leaf).map(|_| ()));
        let revoked = || self.verifier.revoked().lists().check(leaf, intermediates, UnixTime::now());
        let error = named.and_then(|()| revoked()).err()?;
        let fault = self.verifier.authorities().fault(&error, leaf, intermediates);
        Some(fault.map_or_else(|| failure_reason(&error, TlsParty::Gateway), |fault| describe(&fault)))
    }

    /// The peers with open links whose certificates the `next` identity would not accept, each with the number of
    /// these links.
    pub fn peers_lost_to(&self, next: &Self) -> BTreeMap<String, (usize, ShownRefusal)> {
        let mut lost = BTreeMap::new();
        for shown in self.shown_by_peers.of_open_connections() {
            let Some(refusal) = next.refusal_of_shown(&shown) else { continue };
            let Some(name) = shown.chain.first().and_then(|leaf| self.verifier.name_of(leaf).ok()) else {
                continue;
            };
            let (links, _) = lost.entry(name).or_insert((0, refusal));
            *links += 1;
        }
        lost
    }

    /// Why the certificates of an open link would not be accepted on a new one, whichever side dialled.
    fn refusal_of_shown(&self, shown: &ShownChain) -> Option<ShownRefusal> {
        let (leaf, intermediates) = shown.chain.split_first()?;
        if self.verifier.revoked().lists().revoke_chain(&shown.chain) {
            return Some(ShownRefusal::Revoked);
        }
        let (authorities, now) = (self.verifier.authorities(), UnixTime::now());
        let checked = authorities
            .check_client(leaf, intermediates, now)
            .or_else(|_| authorities.check_server(leaf, intermediates, now));
        let untrusted = self.refusal_of_chain(checked, (leaf, intermediates), ChainError::in_short);
        untrusted.or_else(|| self.refusal_of_key_exchange(&shown.key_exchange)).map(ShownRefusal::Untrusted)
    }

    /// Both ends prefer a hybrid one, so the other side knows none if another was agreed on.
    fn refusal_of_key_exchange(&self, agreed: &str) -> Option<String> {
        let hybrid = format!("{:?}", NamedGroup::X25519MLKEM768);
        let is_refused = self.key_exchange == KeyExchangePolicy::HybridRequired && agreed != hybrid;
        is_refused.then(|| format!("its links use {agreed}, and `post_quantum` takes {hybrid} alone"))
    }

    /// What its certificates are for and how many days they are still valid, for operators.
    pub fn describe(&self) -> String {
        let reported = |certificate| describe_certificate(certificate).unwrap_or_else(|| "unreadable".into());
        let (leaf, ca) = (self.shown.first(), self.shown.last());
        let [leaf, ca] = [leaf, ca].map(|certificate| certificate.map(reported).unwrap_or_default());
        format!("certificate {leaf}; CA {ca}")
    }

    /// The handshake of the side that listens.
    pub async fn accept(&self, below: TlsTransport) -> Result<AcceptedTls, TlsError> {
        let offer_recorder = Arc::new(OfferWitness { pair: self.pair.clone(), offered: OnceLock::new() });
        let mut server = (*self.server).clone();
        server.cert_resolver = offer_recorder.clone();
        let accepting = TlsAcceptor::from(Arc::new(server)).accept(ReadAhead::new(below));
        let stream = run_handshake(accepting.into_fallible(), TlsParty::Gateway).await?;
        let peer = self.peer_name(stream.get_ref().1.peer_certificates())?;
        let offered = offer_recorder.offered.get().cloned().unwrap_or_default();
        let mut stream = NetStream::Tls(Box::new(stream.into()));
        self.shown_by_peers.watch(&mut stream);
        Ok(AcceptedTls { stream, peer, offered })
    }

    /// The handshake of the side that dialled `host`.
    pub async fn connect(&self, below: TlsTransport, host: &str) -> Result<(NetStream, String), TlsError> {
        let server =
            ServerName::try_from(host.to_owned()).map_err(|_| TlsError::HostName(host.to_owned()))?;
        let connecting = TlsConnector::from(self.client.clone()).connect(server, ReadAhead::new(below));
        let stream = run_handshake(connecting.into_fallible(), TlsParty::Gateway).await?;
        let name = self.peer_name(stream.get_ref().1.peer_certificates())?;
        let mut stream = NetStream::Tls(Box::new(stream.into()));
        self.shown_by_peers.watch(&mut stream);
        Ok((stream, name))
    }

    fn peer_name(&self, chain: Option<&[CertificateDer<'_>]>) -> Result<String, TlsError> {
        let leaf = chain.and_then(<[_]>::first).ok_or(TlsError::NoCertificate)?;
        self.verifier.name_of(leaf).map_err(|error| TlsError::NotPeer(Box::new(error)))
    }
}

/// AES-128-GCM with SHA-256 first: with hardware AES and SHA it makes the cheapest handshake.
fn provider(key_exchange: KeyExchangePolicy) -> CryptoProvider {
    use aws_lc_rs::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    let cipher_suites =
        vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
    let mut provider = CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() };
    if key_exchange == KeyExchangePolicy::HybridRequired {
        provider.kx_groups.retain(|group| group.name() == NamedGroup::X25519MLKEM768);
    }
    provider
}

/// Our own certificate must pass the check that the other side will make.
fn check_own(
    authorities: &Authorities,
    chain: &[CertificateDer<'static>],
    certificate: &PemSource,
) -> Result<(), Vec<Problem>> {
    let (leaf, intermediates) = chain.split_first().expect("`chain` returns at least one certificate");
    let now = UnixTime::now();
    let as_server = authorities.check_server(leaf, intermediates, now).map_err(|error| ("server", error));
    let as_client = authorities.check_client(leaf, intermediates, now).map_err(|error| ("client", error));
    as_server.and(as_client).map_err(|(side, error)| {
        if let Some((number, why)) = find_unfit(chain) {
            return vec![unfit(certificate, chain, number, why)];
        }
        if let Some(fault) = authorities.fault(&error, leaf, intermediates) {
            let what = format!("{}it cannot serve as a TLS {side}: {fault}", name_prefix(certificate));
            return vec![pem_problem(certificate, what, &fault.advice())];
        }
        let what = format!("it cannot serve as a TLS {side}: {}", failure_reason(&error, TlsParty::Gateway));
        let advice = match error {
            rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext { .. }) => {
                "set the clock of this host right, or wait"
            }
            rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { .. }) => {
                "make a new one with `portcullis certs --out DIR --renew` where the CA's key is; or set the clock of this host right"
            }
            _ => "make one from this link's `ca` with `portcullis certs`",
        };
        vec![pem_problem(certificate, what, advice)]
    })
}

/// All three values, or all their problems.
fn collect_three<A, B, C>(
    a: Result<A, Problem>,
    b: Result<B, Problem>,
    c: Result<C, Problem>,
) -> Result<(A, B, C), Vec<Problem>> {
    match (a, b, c) {
        (Ok(a), Ok(b), Ok(c)) => Ok((a, b, c)),
        (a, b, c) => Err([a.err(), b.err(), c.err()].into_iter().flatten().collect()),
    }
}
