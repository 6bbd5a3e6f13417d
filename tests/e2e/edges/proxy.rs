//! The PROXY protocol: who the client is, read by the DMZ half and sent by the half that reaches the
//! backend. The headers are written out here, byte by byte.

use portcullis::profile::Mode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::support::{
    gateway::{PATIENCE, TestFolder},
    mode_pair::{MODES, ModePair, Plan},
    peers::{Backend, cut, dial_refused, expect_bytes, expect_end, expect_reset, send},
    tls::roots,
};

const LISTED: &str = "{ address: 'tcp://127.0.0.1:0', proxy: { from: ['127.0.0.0/8'] } }";

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\n";
/// The header in version 2, with padding behind it.
const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10\xc0\0\x02\x07\xc6\x33\x64\x01\xc3\x50\x01\xbb\x04\0\x01\0";
/// Further fields: the name that the client asked for, and one of a number for private use.
const V2_FIELDS: &[u8] = b"\x02\0\x04shop\xe5\0\x01x";
const V6: &[u8] = b"PROXY TCP6 2001:db8::7 2001:db8::1 50000 443\r\n";

fn out(backend: &Backend, version: &str) -> String {
    format!("{{ address: '{}', proxy: {version} }}", backend.address())
}

async fn start(mode: Mode, backend: &str) -> ModePair {
    Plan { accept: LISTED, ..Plan::new(mode, backend) }.start().await
}

/// The header of version 2 that a backend gets, after its signature.
async fn proxy_header(server: &mut TcpStream) -> Vec<u8> {
    expect_bytes(server, b"\r\n\r\n\0\r\nQUIT\n").await;
    let mut head = [0; 4];
    server.read_exact(&mut head).await.unwrap();
    let mut rest = vec![0; usize::from(u16::from_be_bytes([head[2], head[3]]))];
    server.read_exact(&mut rest).await.unwrap();
    [&head[..2], &rest].concat()
}

#[tokio::test]
async fn the_backend_learns_the_client_that_a_proxy_names() {
    for mode in MODES {
        for (sent, client, expected) in [
            (V1, "192.0.2.7:50000", &[0x21, 0x11, 192, 0, 2, 7][..]),
            (V2, "192.0.2.7:50000", &[0x21, 0x11, 192, 0, 2, 7]),
            (
                V6,
                "[2001:db8::7]:50000",
                &[0x21, 0x21, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
            ),
        ] {
            let backend = Backend::new().await;
            let pair = start(mode, &out(&backend, "v2")).await;
            let mut near = pair.client().await;
            // The header and what follows come in one segment.
            send(&mut near, &[sent, b"and then"].concat()).await;
            let mut server = backend.accept().await;
            let header = proxy_header(&mut server).await;
            assert_eq!(&header[..expected.len()], expected, "{mode:?}");
            // Where the client had connected to, as it came in.
            let destination: &[u8] = match sent == V6 {
                true => &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xc3, 0x50, 0x01, 0xbb],
                false => &[198, 51, 100, 1, 0xc3, 0x50, 0x01, 0xbb],
            };
            assert_eq!(&header[expected.len()..], destination, "{mode:?}");
            expect_bytes(&mut server, b"and then").await;
            send(&mut server, b"back").await;
            expect_bytes(&mut near, b"back").await;
            let seen = pair.dmz.now().await;
            assert_eq!(seen.sessions[0].client, client);
            assert_eq!((seen.totals.bytes_up, seen.totals.bytes_down), (8, 4), "headers do not count");
            near.shutdown().await.unwrap();
            expect_end(&mut server).await;
        }
    }
}

#[tokio::test]
async fn a_direct_client_is_named_too_and_a_proxy_may_connect_for_itself() {
    for mode in MODES {
        let backend = Backend::new().await;
        let pair = Plan::new(mode, &out(&backend, "v1")).start().await;
        let near = pair.client().await;
        let own = near.local_addr().unwrap();
        let mut server = backend.accept().await;
        let to = pair.dmz.client_port("orders").await;
        let line = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", own.port(), to.port());
        expect_bytes(&mut server, line.as_bytes()).await;
        cut(near);
        expect_reset(&mut server).await;
    }
    let backend = Backend::new().await;
    let pair = start(Mode::Reverse, &out(&backend, "v1")).await;
    for local in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"] {
        let mut near = pair.client().await;
        send(&mut near, local).await;
        let line = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} ", near.local_addr().unwrap().port());
        expect_bytes(&mut backend.accept().await, line.as_bytes()).await;
    }
}

#[tokio::test]
async fn other_proxy_fields_are_checked_and_forwarded() {
    for mode in MODES {
        let backend = Backend::new().await;
        let pair = start(mode, &out(&backend, "v2")).await;
        let head = |fields: &[u8]| {
            let length = (12 + fields.len() as u16).to_be_bytes();
            let addresses = &V2[16..28];
            [&V2[..14], &length, addresses, fields].concat()
        };
        let mut near = pair.client().await;
        send(&mut near, &head(V2_FIELDS)).await;
        let header = proxy_header(&mut backend.accept().await).await;
        assert_eq!(&header[14..], V2_FIELDS, "{mode:?}");
        // An invalid checksum costs the connection.
        let mut near = pair.client().await;
        send(&mut near, &head(&[V2_FIELDS, b"\x03\0\x04\0\0\0\0"].concat())).await;
        expect_reset(&mut near).await;
    }
}

#[tokio::test]
async fn nobody_but_the_listed_proxies_comes_in() {
    let accept = "{ address: 'tcp://127.0.0.1:0', proxy: { from: ['192.0.2.0/24', '::1'] } }";
    let pair = Plan { accept, ..Plan::new(Mode::Reverse, "echo://") }.start().await;
    let at = pair.dmz.client_port("orders").await;
    for _ in 0..3 {
        dial_refused(at).await;
    }
    let snapshot = pair.dmz.now().await;
    assert_eq!((snapshot.totals.sessions, snapshot.ended.len()), (0, 0));
}

#[tokio::test]
async fn what_is_no_header_costs_its_own_connection_alone() {
    let pair = start(Mode::Reverse, "echo://").await;
    let at = pair.dmz.client_port("orders").await;
    let field = b"\x07\xff\xf0";
    let endless = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..], &[7; 12], field, &[7; 70_000]].concat();
    let line = [&b"PROXY TCP4 "[..], &[b'1'; 65_536]].concat();
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PROXY TCP9 1 2 3 4\r\n", &line] {
        let mut near = pair.client().await;
        // It may be ended before all is taken.
        let _ = near.write_all(bytes).await;
        let _ = timeout(PATIENCE, near.read_to_end(&mut Vec::new())).await.expect("it ends in time");
    }
    // The longest header there is still names a client.
    let mut near = pair.client().await;
    send(&mut near, &endless).await;
    let left = endless.len() - (16 + 65_535);
    expect_bytes(&mut near, &endless[endless.len() - left..]).await;
    // Unfinished ones end at the deadline, and stall nobody meanwhile.
    let unfinished = [&V1[..0], &V1[..20], &V2[..13], &V2[..30]].map(|bytes| async move {
        let mut near = crate::support::peers::dial(at).await;
        send(&mut near, bytes).await;
        expect_reset(&mut near).await;
    });
    let good = async {
        let mut near = pair.client().await;
        for byte in V2.iter().chain(b"good") {
            send(&mut near, std::slice::from_ref(byte)).await;
        }
        expect_bytes(&mut near, b"good").await;
    };
    tokio::join!(futures_util::future::join_all(unfinished), good);
}

#[tokio::test]
async fn tls_may_follow_a_header_in_both_directions() {
    let folder = TestFolder::with(&["dmz", "internal", "www"]);
    let accept = "{ address: 'tls://127.0.0.1:0', proxy: { from: ['127.0.0.1'] }, \
                  tls: { certificate: pki/www.pem, key: pki/www.key } }";
    let backend = Backend::new().await;
    let connect = format!(
        "{{ address: '{}', proxy: v2, tls: {{ ca: pki/ca.pem, name: www }} }}",
        backend.address().replace("tcp", "tls")
    );
    let pair = Plan { accept, ..Plan::new(Mode::Reverse, &connect) }.start_in(folder).await;
    let mut near = pair.client().await;
    send(&mut near, V1).await;
    let config =
        rustls::ClientConfig::builder().with_root_certificates(roots(&pair.folder)).with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("www").unwrap();
    let mut near = TlsConnector::from(std::sync::Arc::new(config)).connect(name, near).await.unwrap();
    let mut server = backend.accept().await;
    assert_eq!(proxy_header(&mut server).await[2..6], [192, 0, 2, 7]);
    let serving = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            crate::support::tls::chain(&pair.folder, "www.pem"),
            crate::support::tls::key(&pair.folder, "www.key"),
        )
        .unwrap();
    let mut server =
        tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(serving)).accept(server).await.unwrap();
    send(&mut near, b"within").await;
    expect_bytes(&mut server, b"within").await;
}

/// A header of version 2: its command and family, the length it says, what follows.
fn v2(kinds: [u8; 2], length: u16, body: &[u8]) -> Vec<u8> {
    [b"\r\n\r\n\0\r\nQUIT\n", &kinds[..], &length.to_be_bytes(), body].concat()
}

/// The addresses and ports of a header of version 2, of IPv4 and of IPv6.
const FOUR: &[u8] = b"\xc0\0\x02\x07\xc6\x33\x64\x01\xc3\x50\x01\xbb";
const SIX: &[u8] =
    b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xc3\x50\x01\xbb";

/// Every form of the manual: the client that it names, `None` for the proxy's own address.
fn headers_of_the_manual() -> Vec<(&'static str, Vec<u8>, Option<&'static str>)> {
    let unix = [7; 216];
    let longest = "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    let named = Some("192.0.2.7:50000");
    let named6 = Some("[2001:db8::7]:50000");
    vec![
        ("version 1", V1.to_vec(), named),
        ("of IPv6", V6.to_vec(), named6),
        ("the longest", longest.into(), Some("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535")),
        ("an IPv4 address in IPv6", b"PROXY TCP6 ::ffff:192.0.2.7 ::1 50000 443\r\n".to_vec(), named),
        ("port 0", b"PROXY TCP4 192.0.2.7 198.51.100.1 0 443\r\n".to_vec(), Some("192.0.2.7:0")),
        ("unknown", b"PROXY UNKNOWN\r\n".to_vec(), None),
        ("unknown, and more", b"PROXY UNKNOWN ffff::1 ::2 1 2\r\n".to_vec(), None),
        ("version 2", v2([0x21, 0x11], 12, FOUR), named),
        ("version 2 of IPv6", v2([0x21, 0x21], 36, SIX), named6),
        ("with extensions", V2.to_vec(), named),
        ("local", v2([0x20, 0], 0, b""), None),
        ("local with an address", v2([0x20, 0x11], 12, FOUR), None),
        ("no family", v2([0x21, 0], 0, b""), None),
        ("no family, and bytes", v2([0x21, 0], 3, b"abc"), None),
        ("UDP", v2([0x21, 0x12], 12, FOUR), None),
        ("UDP of IPv6", v2([0x21, 0x22], 36, SIX), None),
        ("a Unix socket", v2([0x21, 0x31], 216, &unix), None),
    ]
}

/// What belongs to neither.
fn headers_that_are_none() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("nothing of it", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("another case", b"proxy TCP4 192.0.2.7 198.51.100.1 1 2\r\n".to_vec()),
        ("an LF alone", b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n".to_vec()),
        ("another family", b"PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n".to_vec()),
        ("no addresses", b"PROXY TCP4\r\n".to_vec()),
        ("a name", b"PROXY TCP4 host 198.51.100.1 1 2\r\n".to_vec()),
        ("of another family", b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec()),
        ("zeros before", b"PROXY TCP4 192.000.002.007 198.51.100.1 1 2\r\n".to_vec()),
        ("two spaces", b"PROXY TCP4  192.0.2.7 198.51.100.1 1 2\r\n".to_vec()),
        ("a port too large", b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 2\r\n".to_vec()),
        ("a port with a zero before", b"PROXY TCP4 192.0.2.7 198.51.100.1 01 2\r\n".to_vec()),
        ("one field more", b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2 3\r\n".to_vec()),
        ("one byte too long", [b"PROXY UNKNOWN ", &[b'x'; 92][..], b"\r\n"].concat()),
        ("another version", v2([0x11, 0x11], 12, FOUR)),
        ("another command", v2([0x22, 0x11], 12, FOUR)),
        ("another family of version 2", v2([0x21, 0x41], 12, FOUR)),
        ("too short for its family", v2([0x21, 0x21], 12, FOUR)),
    ]
}

#[tokio::test]
async fn every_header_names_a_client_or_is_refused() {
    let (good, bad) = (headers_of_the_manual(), headers_that_are_none());
    for mode in MODES {
        let backend = Backend::new().await;
        let pair = start(mode, &out(&backend, "v1")).await;
        for (what, header, client) in &good {
            let mut near = pair.client().await;
            let own = near.local_addr().unwrap();
            send(&mut near, &[&header[..], b"after"].concat()).await;
            let mut server = backend.accept().await;
            let client: std::net::SocketAddr = client.map_or(own, |client| client.parse().unwrap());
            let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                line.push(timeout(PATIENCE, server.read_u8()).await.expect("a header in time").unwrap());
            }
            let line = String::from_utf8(line).unwrap();
            let fields: Vec<_> = line.trim_end().split(' ').collect();
            let fields_shown = [fields[1], fields[2], fields[4]];
            assert_eq!(
                fields_shown,
                [family, &client.ip().to_string(), &client.port().to_string()],
                "{mode:?} {what}"
            );
            expect_bytes(&mut server, b"after").await;
        }
        for (what, header) in &bad {
            let mut near = pair.client().await;
            // It may be ended before all is taken.
            let _ = near.write_all(&[&header[..], b"after"].concat()).await;
            let mut received = Vec::new();
            let _ = timeout(PATIENCE, near.read_to_end(&mut received)).await.expect("it ends in time");
            assert_eq!(received, b"", "{what}");
        }
        // Who is refused reaches nobody.
        pair.dmz.until("each good one", |snapshot| snapshot.totals.sessions == good.len() as u64).await;
    }
}
