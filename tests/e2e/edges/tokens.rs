//! Clients of requests who say who they are by a signed token.

use std::{fs, os::unix::fs::PermissionsExt};

use aws_lc_rs::hmac;
use data_encoding::BASE64URL_NOPAD as BASE64URL;
use portcullis::{profile::Mode, telemetry::snapshot::EndedRow};
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, net::TcpStream, sync::mpsc, task::JoinSet, time::timeout};

use super::{
    http::{GET, answered, port},
    logins::{DescribingBackend, UPGRADE, with},
    proven_users::tls_client,
};
use crate::support::{
    gateway::{PATIENCE, TestFolder},
    mode_pair::{MODES, ModePair, Plan},
    peers::{Backend, dial, dial_from, expect_bytes, send},
    tokens::{Signer, hmac_of, now},
};

const RULES: &str =
    "keys: jwks.json, issuer: 'https://id.example', audience: orders, claims: { groups: traders }";

fn auth(more: &str) -> String {
    format!(", auth: {{ jwt: {{ {RULES}{more} }} }}")
}

fn write_keys(folder: &TestFolder, keys: &[Value], mode: u32) {
    fs::write(folder.path("new"), json!({ "keys": keys }).to_string()).unwrap();
    fs::set_permissions(folder.path("new"), fs::Permissions::from_mode(mode)).unwrap();
    fs::rename(folder.path("new"), folder.path("jwks.json")).unwrap();
}

fn claims() -> Value {
    json!({ "iss": "https://id.example", "aud": ["other", "orders"], "sub": "alice", "groups": ["staff", "traders"],
        "exp": now() + 600, "nbf": now() - 10 })
}

/// The claims with other values, and without those that are null.
fn claims_with(changed: &Value) -> Value {
    let mut claims = claims();
    for (name, value) in changed.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    claims
}

fn bearer(token: &str) -> String {
    with(GET, &format!("Bearer {token}"))
}

async fn status(client: &mut TcpStream, request: &str) -> String {
    answered(client, request).await.0[0]["HTTP/1.1 ".len()..].to_owned()
}

#[tokio::test]
async fn tokens_of_each_kind_name_their_client_and_go_no_further() {
    let signer = Signer::new();
    for mode in MODES {
        let backend = DescribingBackend::new().await;
        let (folder, auth) =
            (TestFolder::new(), auth(", from: [header, 'cookie:token', 'query:access_token']"));
        write_keys(&folder, &signer.keys("one"), 0o644);
        let accept = "http://127.0.0.1:0";
        let pair =
            Plan { accept, dmz_service: &auth, ..Plan::new(mode, &backend.address) }.start_in(folder).await;
        let mut client = dial(port(&pair).await).await;
        let token = |algorithm: &str, kid: &str| {
            signer.sign(&json!({ "alg": algorithm, "kid": kid }), &claims_with(&json!({ "sub": algorithm })))
        };
        for (algorithm, kid) in [("RS256", "one-rs"), ("ES256", "one-es"), ("EdDSA", "one-ed")] {
            let token = token(algorithm, kid);
            for request in [
                bearer(&token),
                GET.replace("Host:", &format!("Cookie: a=b; token={token}; c=d\r\nHost:")),
                GET.replace("GET / ", &format!("GET /path?a=b&access_token={token} ")),
            ] {
                let (head, requested) = answered(&mut client, &request).await;
                assert_eq!(head[0], "HTTP/1.1 200 OK", "{mode:?} {algorithm}");
                assert!(requested.contains(&format!("x-forwarded-user: {algorithm}")), "{requested}");
                assert!(!requested.contains("eyJ"), "{requested}");
                let kept = [("cookie", "cookie: a=b; c=d"), ("/path", "GET /path?a=b HTTP/1.1")];
                for (about, kept) in kept {
                    assert!(
                        !request.to_ascii_lowercase().contains(about) || requested.contains(kept),
                        "{requested}"
                    );
                }
            }
        }
        let (head, _) = answered(&mut client, GET).await;
        assert_eq!(head[0], "HTTP/1.1 401 Unauthorized");
        assert!(head.contains(&"www-authenticate: Bearer realm=\"orders\"".to_owned()), "{head:?}");
        let of_others = claims_with(&json!({ "groups": ["staff"] }));
        let token = signer.sign(&json!({ "alg": "ES256", "kid": "one-es" }), &of_others);
        assert_eq!(status(&mut client, &bearer(&token)).await, "403 Forbidden");
    }
}

/// Tokens that are wrong, each in a way of its own.
#[expect(clippy::too_many_lines, reason = "a table, which its closures keep legible")]
fn broken(signer: &Signer) -> Vec<(&'static str, String)> {
    let head = json!({ "alg": "ES256", "kid": "one-es" });
    let good = signer.sign(&head, &claims());
    let parts: Vec<&str> = good.split('.').collect();
    let claiming = |changed: Value| signer.sign(&head, &claims_with(&changed));
    let headed = |head: Value| signer.sign(&head, &claims());
    let unsigned = |head: &str| format!("{}.{}.", BASE64URL.encode(head.as_bytes()), parts[1]);
    let by_secret = |secret: &[u8]| {
        let signed = format!("{}.{}", BASE64URL.encode(br#"{"alg":"HS256"}"#), parts[1]);
        format!("{signed}.{}", BASE64URL.encode(&hmac_of(hmac::HMAC_SHA256, secret, signed.as_bytes())))
    };
    let mut flipped = BASE64URL.decode(parts[2].as_bytes()).unwrap();
    flipped[7] ^= 1;
    let signed = |claims: &str| signer.sign_text(&head.to_string(), claims);
    let text = claims().to_string();
    vec![
        ("nothing", String::new()),
        ("one part", "abc".into()),
        ("two parts", format!("{}.{}", parts[0], parts[1])),
        ("four parts", format!("{good}.x")),
        ("three empty parts", "..".into()),
        ("no head", format!(".{}.{}", parts[1], parts[2])),
        ("no claims", format!("{}..{}", parts[0], parts[2])),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("padding", format!("{}=.{}.{}", parts[0], parts[1], parts[2])),
        ("the other base64", format!("{}.{}.{}+/", parts[0], parts[1], parts[2])),
        ("a head that is not JSON", signer.sign_text("{", &text)),
        ("a head that is a list", signer.sign_text("[]", &text)),
        ("a head without alg", signer.sign_text(r#"{"kid":"one-es"}"#, &text)),
        ("none", unsigned(r#"{"alg":"none"}"#)),
        ("None", unsigned(r#"{"alg":"None"}"#)),
        ("an algorithm of nobody's", unsigned(r#"{"alg":"XS256"}"#)),
        ("a number for an algorithm", unsigned(r#"{"alg":1}"#)),
        ("a public key as a secret", by_secret(&signer.modulus())),
        ("a secret that is not one of these", by_secret(&signer.secret)),
        ("RS512 by a key of RS256", headed(json!({ "alg": "RS512", "kid": "one-rs" }))),
        ("PS256 by a key of RS256", headed(json!({ "alg": "PS256", "kid": "one-rs" }))),
        ("a key of another kind", headed(json!({ "alg": "RS256", "kid": "one-es" }))),
        ("a key that is not there", headed(json!({ "alg": "ES256", "kid": "two-es" }))),
        ("another's signature", Signer::new().sign(&head, &claims())),
        (
            "a signature with a bit changed",
            format!("{}.{}.{}", parts[0], parts[1], BASE64URL.encode(&flipped)),
        ),
        ("a signature cut short", good[..good.len() - 4].to_owned()),
        ("claims changed", {
            let other = claims_with(&json!({ "sub": "root" })).to_string();
            format!("{}.{}.{}", parts[0], BASE64URL.encode(other.as_bytes()), parts[2])
        }),
        (
            "something critical",
            headed(json!({ "alg": "ES256", "kid": "one-es", "crit": ["b64"], "b64": false })),
        ),
        ("claims that are not JSON", signed("{")),
        ("claims that are a list", signed("[]")),
        ("no exp", claiming(json!({ "exp": null }))),
        ("exp as text", claiming(json!({ "exp": (now() + 600).to_string() }))),
        ("expired beyond the slack", claiming(json!({ "exp": now() - 62 }))),
        ("not yet good", claiming(json!({ "nbf": now() + 90 }))),
        ("nbf as text", claiming(json!({ "nbf": "tomorrow" }))),
        ("exp twice", signed(&text.replacen('{', &format!("{{\"exp\":{},", now() + 900), 1))),
        ("no iss", claiming(json!({ "iss": null }))),
        ("another iss", claiming(json!({ "iss": "https://id.example.org" }))),
        ("several iss", claiming(json!({ "iss": ["https://id.example"] }))),
        ("no aud", claiming(json!({ "aud": null }))),
        ("another aud", claiming(json!({ "aud": "others" }))),
        ("no sub", claiming(json!({ "sub": null }))),
        ("sub as a number", claiming(json!({ "sub": 7 }))),
        ("an empty sub", claiming(json!({ "sub": "" }))),
        ("a line break in sub", claiming(json!({ "sub": "alice\r\nx: y" }))),
        ("a long sub", claiming(json!({ "sub": "a".repeat(256) }))),
        ("a token without end", claiming(json!({ "more": "x".repeat(9000) }))),
    ]
}

#[tokio::test]
async fn invalid_tokens_are_refused_and_never_shown() {
    let (signer, backend, folder) = (Signer::new(), DescribingBackend::new().await, TestFolder::new());
    write_keys(&folder, &signer.keys("one"), 0o644);
    let (auth, accept) = (auth(""), "http://127.0.0.1:0");
    let plan = Plan { accept, dmz_service: &auth, ..Plan::new(Mode::Direct, &backend.address) };
    let pair = plan.start_in(folder).await;
    let mut client = dial(port(&pair).await).await;
    let corpus = broken(&signer);
    assert!(corpus.len() >= 40);
    for (what, token) in &corpus {
        assert_eq!(status(&mut client, &bearer(token)).await, "401 Unauthorized", "{what}: {token}");
    }
    let shown = pair.dmz.until("all are reported", |shown| shown.totals.refused == corpus.len() as u64).await;
    let reported = format!("{:?} {:?}", shown.ended, shown.notices);
    assert!(!reported.contains("eyJ"), "{reported}");
    let within = [
        json!({}),
        json!({ "exp": now() - 50, "nbf": now() + 50 }),
        json!({ "nbf": null, "aud": "orders", "groups": "traders" }),
    ];
    for changed in within {
        let token = signer.sign(&json!({ "alg": "ES256" }), &claims_with(&changed));
        assert_eq!(status(&mut client, &bearer(&token)).await, "200 OK", "{changed}");
    }
}

/// Their signatures are computed beside what carries sessions, so a sender that goes on is made to wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_wrong_tokens_is_charged_to_its_sender_and_nobody_else() {
    const SENDERS: usize = 16;
    let (signer, backend, folder) = (Signer::new(), DescribingBackend::new().await, TestFolder::new());
    write_keys(&folder, &signer.keys("one"), 0o644);
    let (auth, accept) = (auth(""), "http://127.0.0.1:0");
    let plan = Plan { accept, dmz_service: &auth, ..Plan::new(Mode::Direct, &backend.address) };
    let pair = plan.start_in(folder).await;
    let at = port(&pair).await;
    let head = json!({ "alg": "RS256", "kid": "one-rs" });
    let (right, forged) = (signer.sign(&head, &claims()), Signer::new().sign(&head, &claims()));
    let (right, forged) = (bearer(&right), bearer(&forged));
    // Somebody else behind the senders' address, who was there before.
    let mut beside = dial_from("127.0.1.1", at).await;
    assert_eq!(status(&mut beside, &right).await, "200 OK");
    let (tell, mut answers) = mpsc::channel(1 << 10);
    let mut flood = JoinSet::new();
    for _ in 0..SENDERS {
        let (tell, forged) = (tell.clone(), forged.clone());
        flood.spawn(async move {
            let mut client = dial_from("127.0.1.1", at).await;
            while tell.send(status(&mut client, &forged).await).await.is_ok() {}
        });
    }
    let mut unknown = 0;
    loop {
        let answer = timeout(4 * PATIENCE, answers.recv()).await.expect("it is answered").unwrap();
        match answer.as_str() {
            "401 Unauthorized" => unknown += 1,
            other => break assert_eq!(other, "429 Too Many Requests"),
        }
    }
    assert!(unknown >= 48, "only {unknown} before the first one is made to wait");
    let mut elsewhere = dial(at).await;
    for _ in 0..10 {
        assert_eq!(status(&mut elsewhere, &right).await, "200 OK");
        assert_eq!(status(&mut beside, &right).await, "200 OK", "its token was right a moment ago");
    }
    flood.shutdown().await;
    let shown = pair.dmz.now().await;
    let is_refused =
        |row: &EndedRow| row.end == "LA" && row.reason == "`auth`: it has sent too many wrong tokens";
    assert!(shown.ended.iter().any(is_refused), "{:?}", shown.ended);
}

#[tokio::test]
async fn keys_rotate_as_their_file_does_and_secrets_stand_alone() {
    let (old, new, folder) = (Signer::new(), Signer::new(), TestFolder::new());
    let backend = DescribingBackend::new().await;
    write_keys(&folder, &old.keys("old"), 0o644);
    let (auth, accept) = (auth(""), "http://127.0.0.1:0");
    let plan = Plan { accept, dmz_service: &auth, ..Plan::new(Mode::Direct, &backend.address) };
    let pair = plan.start_in(folder).await;
    let mut client = dial(port(&pair).await).await;
    let of =
        |signer: &Signer, kid: &str| bearer(&signer.sign(&json!({ "alg": "EdDSA", "kid": kid }), &claims()));
    assert_eq!(status(&mut client, &of(&old, "old-ed")).await, "200 OK");
    assert_eq!(status(&mut client, &of(&new, "new-ed")).await, "401 Unauthorized");
    write_keys(&pair.folder, &new.keys("new"), 0o644);
    pair.dmz.until_notice("certificates renewed: ").await;
    assert_eq!(status(&mut client, &of(&old, "old-ed")).await, "401 Unauthorized");
    assert_eq!(status(&mut client, &of(&new, "new-ed")).await, "200 OK");
    let oct = |secret: &[u8]| json!({ "kty": "oct", "kid": "shared", "k": BASE64URL.encode(secret) });
    let mut private = old.keys("old");
    private[2]["d"] = json!("AAAA");
    for (keys, mode, reported) in [
        (private, 0o600, "key 3 (`old-ed`) holds a private key (`d`)"),
        (vec![oct(&old.secret)], 0o644, "others may read it (mode 0644)"),
    ] {
        write_keys(&pair.folder, &keys, mode);
        let line = pair.dmz.until_notice(reported).await;
        assert!(line.contains("cannot be used"), "{line}");
        let mut client = dial(port(&pair).await).await;
        assert_eq!(status(&mut client, &of(&new, "new-ed")).await, "200 OK", "{reported}");
    }
    write_keys(&pair.folder, &[oct(&old.secret)], 0o600);
    // The second time, beside the first.
    pair.dmz.until_notice("jwks.json (2x)").await;
    let mut client = dial(port(&pair).await).await;
    let token = old.sign(&json!({ "alg": "HS256" }), &claims());
    assert_eq!(status(&mut client, &bearer(&token)).await, "200 OK");
    assert_eq!(status(&mut client, &of(&new, "new-ed")).await, "401 Unauthorized");
}

#[tokio::test]
async fn a_web_socket_within_tls_ends_when_its_token_does() {
    let (signer, auth) = (Signer::new(), auth(", until_expiry: true"));
    let folder = TestFolder::with(&["dmz", "internal", "www", "partner"]);
    write_keys(&folder, &signer.keys("one"), 0o644);
    let tls = "tls: { certificate: pki/www.pem, key: pki/www.key }";
    let accept = format!("{{ address: 'wss://127.0.0.1:0/live', {tls} }}");
    let plan = Plan { accept: &accept, dmz_service: &auth, ..Plan::new(Mode::Reverse, "echo://") };
    let pair = plan.start_in(folder).await;
    let mut client = tls_client(&pair, port(&pair).await).await;
    for request in [UPGRADE.to_owned(), with(UPGRADE, "Bearer x")] {
        assert_eq!(answered(&mut client, &request).await.0[0], "HTTP/1.1 401 Unauthorized");
    }
    let token = signer.sign(&json!({ "alg": "ES256" }), &claims_with(&json!({ "exp": now() + 3 })));
    let (head, _) = answered(&mut client, &with(UPGRADE, &format!("Bearer {token}"))).await;
    assert_eq!(head[0], "HTTP/1.1 101 Switching Protocols");
    send(&mut client, &[0x82, 0x81, 0, 0, 0, 0, b'x']).await;
    expect_bytes(&mut client, &[0x82, 1, b'x', 0x88, 2, 0x03, 0xf0]).await;
    drop(client);
    assert_eq!(pair.inner().until_ended("TR").await.user.as_deref(), Some("alice"));
}

#[tokio::test]
async fn a_session_ends_when_its_token_does() {
    let (signer, auth) = (Signer::new(), auth(", until_expiry: true"));
    for mode in MODES {
        let folder = TestFolder::new();
        write_keys(&folder, &signer.keys("one"), 0o644);
        let accept = "ws://127.0.0.1:0/live";
        let pair: ModePair =
            Plan { accept, dmz_service: &auth, ..Plan::new(mode, "echo://") }.start_in(folder).await;
        let mut client = dial(port(&pair).await).await;
        let ends = now() + 3;
        let token = signer.sign(&json!({ "alg": "ES256" }), &claims_with(&json!({ "exp": ends })));
        let (head, _) = answered(&mut client, &with(UPGRADE, &format!("Bearer {token}"))).await;
        assert_eq!(head[0], "HTTP/1.1 101 Switching Protocols");
        send(&mut client, &[0x82, 0x81, 0, 0, 0, 0, b'x']).await;
        let mut received = [0; 3 + 4];
        timeout(PATIENCE, client.read_exact(&mut received)).await.expect("it is closed in time").unwrap();
        assert_eq!(
            received,
            [0x82, 1, b'x', 0x88, 2, 0x03, 0xf0],
            "{mode:?}: an echo, and a close with 1008"
        );
        assert!(now() >= ends, "not before");
        drop(client);
        for gateway in [&pair.dmz, pair.inner()] {
            let row = gateway.until_ended("TR").await;
            assert_eq!(row.user.as_deref(), Some("alice"), "{mode:?}");
        }
        assert_eq!(pair.dmz.until_ended("TR").await.reason, "its token has expired", "{mode:?}");
    }
    // A session of requests is cut then.
    let (backend, folder) = (DescribingBackend::new().await, TestFolder::new());
    write_keys(&folder, &signer.keys("one"), 0o644);
    let accept = "http://127.0.0.1:0";
    let plan = Plan { accept, dmz_service: &auth, ..Plan::new(Mode::Reverse, &backend.address) };
    let pair = plan.start_in(folder).await;
    let mut client = dial(port(&pair).await).await;
    let token = signer.sign(&json!({ "alg": "ES256" }), &claims_with(&json!({ "exp": now() + 3 })));
    assert_eq!(status(&mut client, &bearer(&token)).await, "200 OK");
    assert_eq!(pair.dmz.until_ended("TR").await.reason, "its token has expired");
    let token = signer.sign(&json!({ "alg": "ES256" }), &claims());
    assert_eq!(status(&mut client, &bearer(&token)).await, "200 OK", "a new one, on the same connection");
}

/// Its frames are not decoded on the way.
#[tokio::test]
async fn a_web_socket_that_is_passed_on_is_closed_when_its_token_expires() {
    let (signer, auth) = (Signer::new(), auth(", until_expiry: true"));
    for mode in MODES {
        let (backend, folder) = (Backend::new().await, TestFolder::new());
        write_keys(&folder, &signer.keys("one"), 0o644);
        let connect = backend.address().replace("tcp:", "http:");
        let accept = "http://127.0.0.1:0";
        let plan = Plan { accept, dmz_service: &auth, ..Plan::new(mode, &connect) };
        let pair: ModePair = plan.start_in(folder).await;
        let mut client = dial(port(&pair).await).await;
        let ends = now() + 3;
        let token = signer.sign(&json!({ "alg": "ES256" }), &claims_with(&json!({ "exp": ends })));
        let request = with(UPGRADE, &format!("Bearer {token}"));
        let granted = async {
            let mut there = backend.accept().await;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(timeout(PATIENCE, there.read_u8()).await.expect("a head in time").unwrap());
            }
            let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x82\x01x";
            send(&mut there, answer).await;
            there
        };
        let ((head, _), _there) = tokio::join!(answered(&mut client, &request), granted);
        assert_eq!(head[0], "HTTP/1.1 101 Switching Protocols");
        let mut received = [0; 3 + 4];
        timeout(PATIENCE, client.read_exact(&mut received)).await.expect("it is closed in time").unwrap();
        let expected = [0x82, 1, b'x', 0x88, 2, 0x03, 0xf0];
        assert_eq!(received, expected, "{mode:?}: the backend's frame, and a close with 1008");
        assert!(now() >= ends, "not before");
        drop(client);
        for gateway in [&pair.dmz, pair.inner()] {
            assert_eq!(gateway.until_ended("TR").await.user.as_deref(), Some("alice"), "{mode:?}");
        }
        assert_eq!(pair.dmz.until_ended("TR").await.reason, "its token has expired", "{mode:?}");
    }
}
