//! TLS peers with configurations of their own: nothing here is the gateway's.

use std::{net::SocketAddr, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{gateway::TestFolder, peers::dial};

pub fn chain(folder: &TestFolder, file: &str) -> Vec<CertificateDer<'static>> {
    let text = std::fs::read(folder.pki(file)).unwrap();
    rustls_pemfile::certs(&mut text.as_slice()).map(Result::unwrap).collect()
}

pub fn key(folder: &TestFolder, file: &str) -> PrivateKeyDer<'static> {
    let text = std::fs::read(folder.pki(file)).unwrap();
    rustls_pemfile::private_key(&mut text.as_slice()).unwrap().unwrap()
}

pub fn roots(folder: &TestFolder) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(chain(folder, "ca.pem").remove(0)).unwrap();
    roots
}

/// A client that shows the certificate `NAME.pem`.
pub fn client(folder: &TestFolder, name: &str) -> ClientConfig {
    ClientConfig::builder()
        .with_root_certificates(roots(folder))
        .with_client_auth_cert(chain(folder, &format!("{name}.pem")), key(folder, &format!("{name}.key")))
        .unwrap()
}

/// A link to `at`, where a gateway shows a certificate for `server`.
pub async fn link(config: ClientConfig, at: SocketAddr, server: &'static str) -> TlsStream<TcpStream> {
    let name = ServerName::try_from(server).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, dial(at).await).await.unwrap()
}
