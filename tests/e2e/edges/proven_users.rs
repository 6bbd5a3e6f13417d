//! A backend learns a client's proven identity, and none of the client's own claims.

use std::sync::Arc;

use portcullis::telemetry::snapshot::SessionRow;
use proxy_header::{ParseConfig, ProxyHeader, Tlv};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{
    http::{GET, answered, port},
    logins::{ALICE, DescribingBackend, OF_ALICE, UPGRADE, folder, location_of_tls, with},
};
use crate::support::{
    gateway::TestFolder,
    mode_pair::{MODES, ModePair, Plan},
    peers::{Backend, dial, expect_bytes, send},
    tls::client,
};

const CLAIMS: &str = "X-Forwarded-User: root\r\nX_Forwarded_User: root\r\nRemote-User: root\r\n\
                      X-SSL-Client-CN: root\r\nSSL_CLIENT_S_DN: root\r\nX-Client-Cert: root\r\nHost:";
const TLS: &str = "tls: { certificate: pki/www.pem, key: pki/www.key, ca: pki/ca.pem }";

/// A client whose certificate is `partner`'s, where it is asked for one.
pub(super) async fn tls_client(
    pair: &ModePair,
    at: std::net::SocketAddr,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let connector = TlsConnector::from(Arc::new(client(&pair.folder, "partner")));
    connector.connect(ServerName::try_from("www").unwrap(), dial(at).await).await.unwrap()
}

/// The lines of a request that name somebody.
fn names(requested: &str) -> Vec<&str> {
    requested.lines().filter(|line| line.contains("user") || line.contains("root")).collect()
}

#[tokio::test]
async fn an_http_backend_gets_the_proven_user_and_no_client_claim() {
    for mode in MODES {
        let backend = DescribingBackend::new().await;
        let claiming = GET.replace("Host:", CLAIMS);
        for (auth, expected) in
            [("", vec![]), (", auth: { basic: users.htpasswd }", vec!["x-forwarded-user: alice"])]
        {
            let accept = "http://127.0.0.1:0";
            let plan = Plan { accept, dmz_service: auth, ..Plan::new(mode, &backend.address) };
            let pair = plan.start_in(folder(ALICE)).await;
            let (_, requested) =
                answered(&mut dial(port(&pair).await).await, &with(&claiming, OF_ALICE)).await;
            assert_eq!(names(&requested), expected, "{mode:?} {requested}");
        }
        let accept = format!("{{ address: 'https://127.0.0.1:0', {TLS} }}");
        let plan = Plan { accept: &accept, ..Plan::new(mode, &backend.address) };
        let pair = plan.start_in(TestFolder::with(&["dmz", "internal", "www", "partner"])).await;
        let mut client = tls_client(&pair, pair.dmz.client_port("orders").await).await;
        let last = claiming.replace("Host:", "Connection: close\r\nHost:");
        client.write_all(last.as_bytes()).await.unwrap();
        let mut received = String::new();
        client.read_to_string(&mut received).await.unwrap();
        assert_eq!(names(&received), ["x-forwarded-user: partner"], "{mode:?} {received}");
    }
}

/// The fields of the PROXY header that a backend is sent, as another reader has them: the common name in a verified
/// certificate, and what is in a field of our own.
async fn proxy_fields(server: &mut TcpStream) -> (Option<String>, Option<String>) {
    let mut header = vec![0; 16];
    server.read_exact(&mut header).await.unwrap();
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    header.resize(16 + length, 0);
    server.read_exact(&mut header[16..]).await.unwrap();
    let (header, _) = ProxyHeader::parse(&header, ParseConfig::default()).unwrap();
    let certified = header.ssl().map(|ssl| {
        assert!(ssl.client_ssl() && ssl.client_cert_conn() && ssl.verify() == 0);
        assert_eq!(ssl.version(), Some("TLSv1.3"));
        ssl.cn().unwrap().to_owned()
    });
    let own = header.tlvs().find_map(|field| match field.unwrap() {
        Tlv::Custom(0xE0, name) => Some(String::from_utf8(name.to_vec()).unwrap()),
        _ => None,
    });
    (certified, own)
}

#[tokio::test]
async fn a_byte_backend_gets_the_user_in_its_proxy_header() {
    for mode in MODES {
        let backend = Backend::new().await;
        let to = format!("{{ address: '{}', proxy: v2 }}", backend.address());
        let accept = "{ address: 'ws://127.0.0.1:0/live', auth: { basic: users.htpasswd } }";
        let pair = Plan { accept, ..Plan::new(mode, &to) }.start_in(folder(ALICE)).await;
        let mut client = dial(port(&pair).await).await;
        assert_eq!(
            answered(&mut client, &with(UPGRADE, OF_ALICE)).await.0[0],
            "HTTP/1.1 101 Switching Protocols"
        );
        let mut server = backend.accept().await;
        assert_eq!(proxy_fields(&mut server).await, (None, Some("basic:alice".into())), "{mode:?}");
        send(&mut client, &[0x82, 0x81, 0, 0, 0, 0, b'x']).await;
        expect_bytes(&mut server, b"x").await;

        let accept = format!("{{ address: 'tls://127.0.0.1:0', {TLS} }}");
        let plan = Plan { accept: &accept, ..Plan::new(mode, &to) };
        let pair = plan.start_in(TestFolder::with(&["dmz", "internal", "www", "partner"])).await;
        let _client = tls_client(&pair, pair.dmz.client_port("orders").await).await;
        assert_eq!(
            proxy_fields(&mut backend.accept().await).await,
            (Some("partner".into()), None),
            "{mode:?}"
        );
    }
}

/// On a WebSocket too; and where both are asked for, the certificate lets nobody in and names nobody.
#[tokio::test]
async fn a_certificate_names_the_client_of_a_web_socket_unless_auth_does() {
    for mode in MODES {
        for (auth, user) in [("", "partner"), (", auth: { basic: users.htpasswd }", "alice")] {
            let accept = format!("{{ address: 'wss://127.0.0.1:0/live', {TLS}{auth} }}");
            let pair =
                Plan { accept: &accept, ..Plan::new(mode, "echo://") }.start_in(location_of_tls(ALICE)).await;
            let mut client = tls_client(&pair, port(&pair).await).await;
            if !auth.is_empty() {
                let (head, _) = answered(&mut client, UPGRADE).await;
                assert_eq!(head[0], "HTTP/1.1 401 Unauthorized", "{mode:?}");
            }
            let (head, _) = answered(&mut client, &with(UPGRADE, OF_ALICE)).await;
            assert_eq!(head[0], "HTTP/1.1 101 Switching Protocols", "{mode:?} {auth}");
            send(&mut client, &[0x82, 0x81, 0, 0, 0, 0, b'x']).await;
            expect_bytes(&mut client, &[0x82, 1, b'x']).await;
            for gateway in [&pair.dmz, pair.inner()] {
                let is_named = |row: &SessionRow| row.user.as_deref() == Some(user);
                gateway.until(user, |shown| shown.sessions.iter().any(is_named)).await;
            }
        }
    }
}
