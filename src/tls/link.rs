//! Mutual TLS of a link: version 1.3 only, both certificates checked, no resumption, no early data.
//!
//! [`LinkIdentity::load`] opens what a profile names and reports everything wrong with it;
//! [`LinkIdentity::accept`] and [`LinkIdentity::connect`] are the two handshakes. This is the only module that
//! uses `rustls-pemfile`.

use std::{io, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{
    authorities::{self, Authorities},
    peer_verifier::{self, PeerVerifier, TlsParty},
};
use crate::{
    disk::{self, PipePolicy, ReadError},
    net::{read_ahead::ReadAhead, stream::NetStream, tcp},
    profile::{LinkTls, PemSource, Problem, ProfilePlace},
};

/// The authorities of a whole country fit; a certificate file that is larger is none.
const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// What one side of a link shows and accepts, opened and checked.
#[derive(Debug, Clone)]
pub struct LinkIdentity {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    verifier: Arc<PeerVerifier>,
    /// Certificates, its own and the CA's: what a reload compares.
    shown: Arc<Vec<CertificateDer<'static>>>,
}

impl LinkIdentity {
    /// Opens certificate, key and CA; every problem, each at the key of the profile it belongs to.
    /// `alpn` are the names of what the links may speak, the preferred one first.
    pub fn load(tls: &LinkTls, alpn: &[Vec<u8>], pipes: PipePolicy) -> Result<Self, Vec<Problem>> {
        let (chain, key, authorities) = collect_three(
            read_chain(&tls.certificate, pipes),
            read_key(&tls.key, pipes),
            read_chain(&tls.ca, pipes),
        )?;
        let roots = read_roots(&tls.ca, &authorities).map_err(|problem| vec![problem])?;
        let provider = Arc::new(provider());
        let at = |material: &PemSource, what: String, advice: &str| vec![pem_problem(material, what, advice)];
        let pair = CertifiedKey::from_der(chain.clone(), key, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => at(
                &tls.key,
                "it is not the key of the certificate".into(),
                "name the pair that belongs together",
            ),
            other => at(
                &tls.key,
                format!("it can not be used: {other}"),
                "make a new pair with `portcullis certs`",
            ),
        })?;
        let issuing = Authorities::new(authorities.clone(), &roots, provider.clone(), TlsParty::Gateway)
            .map_err(|error| {
                at(&tls.ca, format!("it can not be used: {error}"), "name a CA's certificate")
            })?;
        let verifier = PeerVerifier::new(issuing, tls.peers.clone());
        check_own(verifier.authorities(), &chain, &tls.certificate)?;
        let shown = Arc::new([chain, authorities].concat());
        Ok(Self::assemble(pair, Arc::new(verifier), provider, shown, alpn))
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
            .with_client_cert_resolver(pair);
        client.resumption = Resumption::disabled();
        client.enable_early_data = false;
        client.alpn_protocols = alpn.to_vec();
        Self { server: Arc::new(server), client: Arc::new(client), verifier, shown }
    }

    /// Whether links made with the other would show and accept the same.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.shown == other.shown && self.verifier.peers() == other.verifier.peers()
    }

    /// Why this side of a link would refuse the other's certificate; `None` where it would not.
    pub fn refusal_reason(&self, other: &Self) -> Option<String> {
        let (leaf, rest) = other.shown.split_first()?;
        let intermediates = &rest[..rest.len().saturating_sub(1)];
        let authorities = self.verifier.authorities();
        let checked = authorities.check_server(leaf, intermediates, UnixTime::now());
        let error = checked.and_then(|()| self.verifier.name_of(leaf).map(|_| ())).err()?;
        let fault = authorities.fault(&error, leaf, intermediates);
        Some(fault.map_or_else(
            || peer_verifier::tls_reason(&error, TlsParty::Gateway),
            |fault| fault.of_other_side(),
        ))
    }

    /// What its certificates are for and how many days they have left, for an operator.
    pub fn describe(&self) -> String {
        let told = |certificate| {
            peer_verifier::describe_certificate(certificate).unwrap_or_else(|| "unreadable".into())
        };
        let (leaf, ca) = (self.shown.first(), self.shown.last());
        let [leaf, ca] = [leaf, ca].map(|certificate| certificate.map(told).unwrap_or_default());
        format!("certificate {leaf}; CA {ca}")
    }

    /// The handshake of the side that listens: the stream and the peer's name.
    pub async fn accept(&self, stream: TcpStream) -> Result<(NetStream, String), String> {
        let accepting = TlsAcceptor::from(self.server.clone()).accept(ReadAhead::new(stream));
        let stream = shake(accepting.into_fallible(), TlsParty::Gateway).await?;
        let name = self.peer_name(stream.get_ref().1.peer_certificates())?;
        Ok((NetStream::Tls(Box::new(stream.into())), name))
    }

    /// The handshake of the side that dialled `host`.
    pub async fn connect(&self, stream: TcpStream, host: &str) -> Result<(NetStream, String), String> {
        let server =
            ServerName::try_from(host.to_owned()).map_err(|_| format!("`{host}` is no host name"))?;
        let connecting = TlsConnector::from(self.client.clone()).connect(server, ReadAhead::new(stream));
        let stream = shake(connecting.into_fallible(), TlsParty::Gateway).await?;
        let name = self.peer_name(stream.get_ref().1.peer_certificates())?;
        Ok((NetStream::Tls(Box::new(stream.into())), name))
    }

    fn peer_name(&self, chain: Option<&[CertificateDer<'_>]>) -> Result<String, String> {
        let leaf = chain.and_then(<[_]>::first).ok_or("the peer showed no certificate")?;
        self.verifier.name_of(leaf).map_err(|error| error.to_string())
    }
}

/// Runs a handshake. One that fails lets its alert reach the other side, whose log then names the reason too.
pub(super) async fn shake<T>(
    shaking: impl Future<Output = Result<T, (io::Error, ReadAhead)>>,
    of: TlsParty,
) -> Result<T, String> {
    authorities::handshake(shaking, of).await.map_err(|(told, stream)| {
        tcp::let_close_cleanly(stream.socket());
        told
    })
}

/// AES-128-GCM with SHA-256 first: with hardware AES and SHA it makes the cheapest handshake.
fn provider() -> CryptoProvider {
    use aws_lc_rs::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    let cipher_suites =
        vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
    CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() }
}

/// Our own certificate has to pass the check that the other side will make.
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
        if let Some((number, why)) = peer_verifier::find_unfit(chain) {
            let what = format!("{}certificate {number} of {} {why}", name_prefix(certificate), chain.len());
            return vec![pem_problem(certificate, what, "have it issued anew, or make one with `portcullis certs`")];
        }
        if let Some(fault) = authorities.fault(&error, leaf, intermediates) {
            let what = format!("{}it can not serve as a TLS {side}: {fault}", name_prefix(certificate));
            return vec![pem_problem(certificate, what, &fault.advice())];
        }
        let what = format!("it can not serve as a TLS {side}: {}", peer_verifier::tls_reason(&error, TlsParty::Gateway));
        let advice = match error {
            rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext { .. }) => {
                "set the clock of this host right, or wait"
            }
            rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { .. }) => {
                "move the pair away and make a new one with `portcullis certs`; or set the clock of this host right"
            }
            _ => "make one from this link's `ca` with `portcullis certs`",
        };
        vec![pem_problem(certificate, what, advice)]
    })
}

pub(super) fn read_chain(
    material: &PemSource,
    pipes: PipePolicy,
) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let text = read_pem(material, FileAudience::Anyone, pipes)?;
    let mut chain = Vec::new();
    for found in rustls_pemfile::certs(&mut text.as_slice()) {
        let number = chain.len() + 1;
        let damaged = |why: String| {
            let what = format!("{}certificate {number} is damaged: {why}", name_prefix(material));
            pem_problem(material, what, "take that one out, or copy it anew from where it was issued")
        };
        let certificate = found.map_err(|error| damaged(error.to_string()))?;
        peer_verifier::check_whole(&certificate).map_err(damaged)?;
        chain.push(certificate);
    }
    match chain.is_empty() {
        true => Err(pem_problem(material, "it holds no certificate".into(), "name a PEM file with one")),
        false => Ok(chain),
    }
}

pub(super) fn read_key(material: &PemSource, pipes: PipePolicy) -> Result<PrivateKeyDer<'static>, Problem> {
    let text = read_pem(material, FileAudience::OwnerOnly, pipes)?;
    if ENCRYPTED.iter().any(|mark| text.windows(mark.len()).any(|part| part == *mark)) {
        let what = format!("{}it is encrypted, and a gateway has no password for it", name_prefix(material));
        let advice = "write it without one: openssl pkey -in KEY -out NEW, then chmod 600 NEW";
        return Err(pem_problem(material, what, advice));
    }
    match rustls_pemfile::private_key(&mut text.as_slice()) {
        Ok(Some(key)) => Ok(key),
        Ok(None) => Err(pem_problem(material, "it holds no private key".into(), "name a PEM file with one")),
        Err(error) => Err(pem_problem(material, format!("it is no PEM file: {error}"), "name a PEM file")),
    }
}

/// How a key is marked whose reader needs a password (RFC 5958, and RFC 1421 as OpenSSL writes it).
const ENCRYPTED: [&[u8]; 2] = [b"-----BEGIN ENCRYPTED PRIVATE KEY-----", b"Proc-Type: 4,ENCRYPTED"];

/// The file, at the beginning of a problem.
fn name_prefix(material: &PemSource) -> String {
    match material {
        PemSource::File { path, .. } => format!("{}: ", path.display()),
        PemSource::Memory(_) => String::new(),
    }
}

pub(super) fn read_roots(
    material: &PemSource,
    authorities: &[CertificateDer<'static>],
) -> Result<RootCertStore, Problem> {
    let mut roots = RootCertStore::empty();
    for (at, certificate) in authorities.iter().enumerate() {
        roots.add(certificate.clone()).map_err(|error| {
            let what = format!("{}certificate {} can be no CA's: {error}", name_prefix(material), at + 1);
            pem_problem(material, what, "take that one out, or name a CA's file")
        })?;
    }
    Ok(roots)
}

#[derive(PartialEq)]
enum FileAudience {
    Anyone,
    OwnerOnly,
}

fn read_pem(material: &PemSource, audience: FileAudience, pipes: PipePolicy) -> Result<Vec<u8>, Problem> {
    let path = match material {
        PemSource::Memory(text) => return Ok(text.as_bytes().to_vec()),
        PemSource::File { path, .. } => path,
    };
    let contents = disk::read(path, FILE_BYTES_MAX, pipes).map_err(|error| {
        let advice = match error {
            ReadError::Io(_) => "make it with `portcullis certs --out DIR`, or correct the path",
            ReadError::NotPlain(_) | ReadError::TooLarge { .. } | ReadError::Silent => "name a PEM file",
        };
        pem_problem(material, format!("{}: {error}", path.display()), advice)
    })?;
    if audience == FileAudience::OwnerOnly && contents.mode & 0o077 != 0 {
        let what = format!("{}: others may read it (mode {:04o})", path.display(), contents.mode);
        return Err(pem_problem(
            material,
            what,
            "run chmod 600 on it, and replace the key if others had access",
        ));
    }
    Ok(contents.bytes)
}

pub(super) fn pem_problem(material: &PemSource, what: String, advice: &str) -> Problem {
    let place = match material {
        PemSource::File { place, .. } => place.clone(),
        PemSource::Memory(_) => {
            ProfilePlace { file: "built in".into(), line: 0, column: 0, key: "tls".into() }
        }
    };
    Problem { place, what, advice: advice.into() }
}

/// All three values, or all the problems.
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::{fs, path::Path, process::Command};

    use super::*;

    fn openssl(folder: &Path, line: &str) {
        let done = Command::new("openssl").args(line.split(' ')).current_dir(folder).output().unwrap();
        assert!(done.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&done.stderr));
    }

    fn material(folder: &Path, name: &str) -> PemSource {
        let place = ProfilePlace { file: "p.yaml".into(), line: 1, column: 1, key: "tls".into() };
        PemSource::File { path: folder.join(name), place }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_by_file_number_and_fault() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        openssl(at, "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out plain.key");
        openssl(at, "pkcs8 -topk8 -in plain.key -out pkcs8.key -passout pass:secret");
        openssl(at, "ec -in plain.key -out old.key -aes256 -passout pass:secret");
        for name in ["pkcs8.key", "old.key"] {
            let problem = read_key(&material(at, name), PipePolicy::Refused).unwrap_err();
            assert!(
                problem
                    .what
                    .ends_with(&format!("{name}: it is encrypted, and a gateway has no password for it"))
            );
        }
        openssl(at, "req -x509 -new -key plain.key -subj /CN=ca -out ca.pem");
        openssl(
            at,
            "req -x509 -new -sha1 -key plain.key -subj /CN=dmz -addext basicConstraints=CA:FALSE -out sha1.pem",
        );
        openssl(at, "req -new -key plain.key -subj /CN=dmz -out dmz.csr");
        openssl(at, "x509 -req -in dmz.csr -CA ca.pem -CAkey plain.key -CAcreateserial -out v1.pem");
        let read = |name: &str| read_chain(&material(at, name), PipePolicy::Refused).unwrap();
        let unfit = |name: &str| peer_verifier::find_unfit(&read(name));
        assert_eq!(unfit("ca.pem"), Some((1, "is a CA's own (CA:TRUE), and stands for no gateway")));
        assert_eq!(unfit("sha1.pem"), Some((1, "is signed with SHA-1 or MD5")));
        assert_eq!(unfit("v1.pem"), Some((1, "is not of X.509 version 3")));
        let good = fs::read_to_string(at.join("ca.pem")).unwrap();
        let bad = "-----BEGIN CERTIFICATE-----\nMAAAAA==\n-----END CERTIFICATE-----\n";
        fs::write(at.join("bundle.pem"), [&good, &good, bad, &good].concat()).unwrap();
        let problem = read_chain(&material(at, "bundle.pem"), PipePolicy::Refused).unwrap_err();
        assert!(problem.what.contains("bundle.pem: certificate 3 is damaged: "), "{problem}");
        // A bundle of more than 1 MiB is read to its end.
        let many = 1024 * 1024 / good.len() + 2;
        fs::write(at.join("large.pem"), good.repeat(many)).unwrap();
        assert_eq!(read("large.pem").len(), many);
    }
}
