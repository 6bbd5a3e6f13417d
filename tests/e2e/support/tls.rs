//! TLS peers with configurations of their own: nothing here is the gateway's.

use std::{net::SocketAddr, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{gateway::TestFolder, peers::dial};

pub fn chain(place: &TestFolder, file: &str) -> Vec<CertificateDer<'static>> {
    let text = std::fs::read(place.pki(file)).unwrap();
    rustls_pemfile::certs(&mut text.as_slice()).map(Result::unwrap).collect()
}

pub fn key(place: &TestFolder, file: &str) -> PrivateKeyDer<'static> {
    let text = std::fs::read(place.pki(file)).unwrap();
    rustls_pemfile::private_key(&mut text.as_slice()).unwrap().unwrap()
}

pub fn roots(place: &TestFolder) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(chain(place, "ca.pem").remove(0)).unwrap();
    roots
}

/// A client that shows the certificate `NAME.pem`.
pub fn client(place: &TestFolder, name: &str) -> ClientConfig {
    ClientConfig::builder()
        .with_root_certificates(roots(place))
        .with_client_auth_cert(chain(place, &format!("{name}.pem")), key(place, &format!("{name}.key")))
        .unwrap()
}

/// A link to `at`, where a gateway shows a certificate for `server`.
pub async fn link(config: ClientConfig, at: SocketAddr, server: &'static str) -> TlsStream<TcpStream> {
    let name = ServerName::try_from(server).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, dial(at).await).await.unwrap()
}
