//! Clients of requests who say who they are by a name and a password.

use std::{fs, os::unix::fs::PermissionsExt};

use data_encoding::BASE64;
use portcullis::{
    gateway::handle::{Command, CommandAnswer},
    profile::Mode,
    telemetry::checklist::{CheckStep, StepResult},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};

use super::{
    http::{GET, answered, head, port},
    proven_users::tls_client,
};
use crate::support::{
    gateway::{PATIENCE, TestFolder},
    mode_pair::{MODES, ModePair, Plan},
    peers::{dial, dial_from, expect_bytes, send},
};

/// Of `s3cret` and of `other`, by Python's bcrypt and by argon2-cffi.
pub(super) const ALICE: &str = "alice:$2b$04$mPxoEKurFJxN9brGFUz.KuNr8BQiL0MNMI93eNTwce6AL7yg70siS\n";
const BOB: &str =
    "bob:$argon2id$v=19$m=64,t=1,p=1$M6yKp8SmKRuZtNnd2SnxCQ$h4vmPB3UjrPqi+JIABCuiKLXMonwZeDKlqVHOydPjAE\n";
/// `alice:s3cret`, `bob:s3cret`, `alice:wrong`, `nobody:s3cret`.
pub(super) const OF_ALICE: &str = "Basic YWxpY2U6czNjcmV0";
const OF_BOB: &str = "Basic Ym9iOnMzY3JldA==";
const WRONG: &str = "Basic YWxpY2U6d3Jvbmc=";
const UNKNOWN_USER: &str = "Basic bm9ib2R5OnMzY3JldA==";

pub(super) const UPGRADE: &str = "GET /live HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// A folder with a file of users.
pub(super) fn folder(users: &str) -> TestFolder {
    let folder = TestFolder::new();
    write_users(&folder, users);
    folder
}

/// A folder with users, and with the certificates of an accept and of a client.
pub(super) fn location_of_tls(users: &str) -> TestFolder {
    let folder = TestFolder::with(&["dmz", "internal", "www", "partner"]);
    write_users(&folder, users);
    folder
}

fn write_users(folder: &TestFolder, users: &str) {
    fs::write(folder.path("new"), users).unwrap();
    fs::set_permissions(folder.path("new"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(folder.path("new"), folder.path("users.htpasswd")).unwrap();
}

pub(super) fn with(request: &str, credential: &str) -> String {
    request.replace("Host:", &format!("Authorization: {credential}\r\nHost:"))
}

/// A backend that answers every request with what it was asked.
pub(super) struct DescribingBackend {
    pub(super) address: String,
    _serving: JoinSet<()>,
}

impl DescribingBackend {
    pub(super) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut served = JoinSet::new();
            while let Ok((mut server, _)) = listener.accept().await {
                served.spawn(async move {
                    loop {
                        let requested = head(&mut server).await.join("\n");
                        let length = requested.len();
                        let answer =
                            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{requested}");
                        send(&mut server, answer.as_bytes()).await;
                    }
                });
            }
        });
        Self { address, _serving: serving }
    }
}

/// Its status, what it has to show, and its body.
async fn login_response(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &str,
) -> (String, Option<String>, String) {
    let (head, body) = answered(client, request).await;
    assert!(!head.iter().any(|line| line == "connection: close"), "{head:?}");
    let challenge = head.iter().find_map(|line| line.strip_prefix("www-authenticate: "));
    (head[0]["HTTP/1.1 ".len()..].to_owned(), challenge.map(str::to_owned), body)
}

async fn status(client: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> String {
    login_response(client, request).await.0
}

const AUTH: &str = ", auth: { basic: users.htpasswd, realm: the shop }, users: [alice, carol]";

#[tokio::test]
async fn requests_of_known_users_alone_go_inside_and_without_their_password() {
    for mode in MODES {
        let backend = DescribingBackend::new().await;
        let plan =
            Plan { accept: "http://127.0.0.1:0", dmz_service: AUTH, ..Plan::new(mode, &backend.address) };
        let pair = plan.start_in(folder(&format!("# users\n{ALICE}{BOB}"))).await;
        let mut client = dial(port(&pair).await).await;
        let unknown = ("401 Unauthorized".to_owned(), Some("Basic realm=\"the shop\"".to_owned()));
        for request in
            [GET, &with(GET, WRONG), &with(GET, UNKNOWN_USER), &with(GET, "Bearer x"), &with(GET, "Basic !")]
        {
            let (status, challenge, body) = login_response(&mut client, request).await;
            assert_eq!((status, challenge), unknown, "{mode:?} {request}");
            assert!(body.starts_with("this service wants to know who you are\nsession "), "{body}");
        }
        assert_eq!(status(&mut client, &with(GET, OF_BOB)).await, "403 Forbidden", "{mode:?}");
        let shown = pair.dmz.until("all refused", |shown| shown.totals.refused == 6).await;
        assert!(shown.ended.iter().all(|row| row.end == "XA"), "{:?}", shown.ended);
        let of_bob = shown.ended.iter().find(|row| row.user.as_deref() == Some("bob")).unwrap();
        assert_eq!(of_bob.reason, "`auth`: `users` does not list it");
        if let Some(internal) = &pair.internal {
            assert_eq!(internal.now().await.totals.sessions, 0, "no byte went inside");
        }
        for _ in 0..2 {
            let (status, _, requested) = login_response(&mut client, &with(GET, OF_ALICE)).await;
            assert_eq!(status, "200 OK", "{mode:?}");
            assert!(!requested.to_ascii_lowercase().contains("authorization"), "{requested}");
        }
        is_alices(&pair).await;
    }
}

const TLS: &str = "tls: { certificate: pki/www.pem, key: pki/www.key }";

#[tokio::test]
async fn within_tls_known_users_alone_come_in_too() {
    for mode in MODES {
        let backend = DescribingBackend::new().await;
        let accept = format!("{{ address: 'https://127.0.0.1:0', {TLS} }}");
        let plan = Plan { accept: &accept, dmz_service: AUTH, ..Plan::new(mode, &backend.address) };
        let pair = plan.start_in(location_of_tls(&format!("{ALICE}{BOB}"))).await;
        let mut client = tls_client(&pair, port(&pair).await).await;
        for request in [GET, &with(GET, WRONG), &with(GET, UNKNOWN_USER)] {
            assert_eq!(status(&mut client, request).await, "401 Unauthorized", "{mode:?} {request}");
        }
        assert_eq!(status(&mut client, &with(GET, OF_BOB)).await, "403 Forbidden", "{mode:?}");
        if let Some(internal) = &pair.internal {
            assert_eq!(internal.now().await.totals.sessions, 0, "no byte went inside");
        }
        let (status, _, requested) = login_response(&mut client, &with(GET, OF_ALICE)).await;
        assert_eq!(status, "200 OK", "{mode:?}");
        assert!(!requested.to_ascii_lowercase().contains("authorization"), "{requested}");
        is_alices(&pair).await;
    }
}

#[tokio::test]
async fn a_web_socket_within_tls_begins_for_a_known_user_alone() {
    for mode in MODES {
        let accept =
            format!("{{ address: 'wss://127.0.0.1:0/live', {TLS}, auth: {{ basic: users.htpasswd }} }}");
        let pair =
            Plan { accept: &accept, ..Plan::new(mode, "echo://") }.start_in(location_of_tls(ALICE)).await;
        let mut client = tls_client(&pair, port(&pair).await).await;
        for request in [UPGRADE.to_owned(), with(UPGRADE, WRONG)] {
            assert_eq!(status(&mut client, &request).await, "401 Unauthorized", "{mode:?}");
        }
        let (head, _) = answered(&mut client, &with(UPGRADE, OF_ALICE)).await;
        assert_eq!(head[0], "HTTP/1.1 101 Switching Protocols", "{mode:?}");
        send(&mut client, &[0x82, 0x81, 0, 0, 0, 0, b'x']).await;
        expect_bytes(&mut client, &[0x82, 1, b'x']).await;
        is_alices(&pair).await;
    }
}

/// A session of hers is open on each half.
async fn is_alices(pair: &ModePair) {
    for gateway in [&pair.dmz, pair.inner()] {
        gateway
            .until("alice", |shown| shown.sessions.iter().any(|row| row.user.as_deref() == Some("alice")))
            .await;
    }
}

/// Each address has as many logins waiting as it may, and they wait for their own wrong passwords: together they are
/// more than there are places for all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_passwords_from_many_addresses_hold_up_no_other_login() {
    const ADDRESSES: usize = 34;
    const OF_EACH: usize = 8;
    /// What an address may send before it has to wait for each.
    const FREE: usize = 32;
    let backend = DescribingBackend::new().await;
    let users: String = (0..10).map(|number| BOB.replace("bob", &format!("user{number}"))).collect();
    let auth = ", auth: { basic: users.htpasswd }";
    let plan =
        Plan { accept: "http://127.0.0.1:0", dmz_service: auth, ..Plan::new(Mode::Direct, &backend.address) };
    let pair = plan.start_in(folder(&users)).await;
    let at = port(&pair).await;
    let basic = |login: String| format!("Basic {}", BASE64.encode(login.as_bytes()));
    let wrong = with(GET, &basic("user0:wrong".into()));
    let (tell, mut answers) = mpsc::channel(1 << 16);
    let mut flood = JoinSet::new();
    for number in 0..ADDRESSES * OF_EACH {
        let (tell, wrong) = (tell.clone(), wrong.clone());
        flood.spawn(async move {
            let mut client = dial_from(&format!("127.0.1.{}", number % ADDRESSES + 1), at).await;
            loop {
                tell.send(status(&mut client, &wrong).await).await.unwrap();
            }
        });
    }
    for _ in 0..ADDRESSES * FREE {
        let answer = timeout(4 * PATIENCE, answers.recv()).await.expect("it is answered");
        assert_eq!(answer.as_deref(), Some("401 Unauthorized"));
    }
    // Each of them is computed: nobody here has come before.
    let mut client = dial(at).await;
    for number in 0..10 {
        let right = with(GET, &basic(format!("user{number}:s3cret")));
        assert_eq!(status(&mut client, &right).await, "200 OK", "user{number}");
    }
    flood.shutdown().await;
}

#[tokio::test]
async fn each_user_of_one_connection_has_a_session_of_its_own() {
    let backend = DescribingBackend::new().await;
    let auth = ", auth: { basic: users.htpasswd, pass: true, preflight: pass }";
    let plan = Plan {
        accept: "http://127.0.0.1:0",
        dmz_service: auth,
        ..Plan::new(Mode::Reverse, &backend.address)
    };
    let pair = plan.start_in(folder(&format!("{ALICE}{BOB}"))).await;
    let mut client = dial(port(&pair).await).await;
    let preflight = "OPTIONS /a HTTP/1.1\r\nHost: h\r\nOrigin: https://a.example\r\nAccess-Control-Request-Method: PUT\r\n\r\n";
    for credential in [OF_ALICE, OF_BOB, OF_ALICE] {
        let (status, _, requested) = login_response(&mut client, &with(GET, credential)).await;
        assert_eq!(status, "200 OK");
        assert!(requested.contains(credential), "it is passed: {requested}");
    }
    assert_eq!(status(&mut client, preflight).await, "200 OK");
    let plain = preflight.replace("Origin: https://a.example\r\n", "");
    assert_eq!(login_response(&mut client, &plain).await.1.unwrap(), "Basic realm=\"orders\"");
    let shown = pair.dmz.until("three sessions", |shown| shown.sessions.len() == 3).await;
    let mut users: Vec<_> = shown.sessions.iter().map(|row| row.user.clone().unwrap_or_default()).collect();
    users.sort();
    assert_eq!(users, ["", "alice", "bob"]);
}

#[tokio::test]
async fn a_web_socket_begins_for_a_known_user_alone() {
    for mode in MODES {
        let accept = "{ address: 'ws://127.0.0.1:0/live', auth: { basic: users.htpasswd } }";
        let pair = Plan { accept, ..Plan::new(mode, "echo://") }.start_in(folder(ALICE)).await;
        let mut client = dial(port(&pair).await).await;
        for request in [UPGRADE.to_owned(), with(UPGRADE, WRONG)] {
            assert_eq!(status(&mut client, &request).await, "401 Unauthorized", "{mode:?}");
        }
        let (head, _) = answered(&mut client, &with(UPGRADE, OF_ALICE)).await;
        assert_eq!(head[0], "HTTP/1.1 101 Switching Protocols");
        // A masked message of one byte, and its echo.
        send(&mut client, &[0x82, 0x81, 0, 0, 0, 0, b'x']).await;
        expect_bytes(&mut client, &[0x82, 1, b'x']).await;
        is_alices(&pair).await;
    }
}

/// A WebSocket that was open before goes on without one.
#[tokio::test]
async fn users_that_a_new_profile_does_not_let_in_are_counted_in_its_plan() {
    const LIVE: &str = "{ address: 'ws://127.0.0.1:0/live', auth: { basic: users.htpasswd } }";
    let text = |accept: &str| Plan { accept, ..Plan::new(Mode::Direct, "echo://") }.direct();
    for (before, after, has_lost) in [
        (LIVE, LIVE.to_owned(), false),
        (LIVE, LIVE.replace("users.htpasswd", "users.htpasswd, realm: there"), false),
        (LIVE, LIVE.replace("auth:", "users: [bob], auth:"), true),
        (LIVE, LIVE.replace("users.htpasswd", "others.htpasswd"), true),
        (LIVE, "ws://127.0.0.1:0/live".to_owned(), false),
        ("ws://127.0.0.1:0/live", LIVE.to_owned(), true),
    ] {
        let folder = folder(BOB);
        fs::rename(folder.path("users.htpasswd"), folder.path("others.htpasswd")).unwrap();
        write_users(&folder, ALICE);
        let gateway = folder.start("direct", &text(before));
        let accept = gateway.now().await.services[0].accept[0].clone();
        let at = accept.split_once("//").unwrap().1.split('/').next().unwrap().parse().unwrap();
        let mut client = dial(at).await;
        let (head, _) = answered(&mut client, &with(UPGRADE, OF_ALICE)).await;
        assert_eq!(head[0], "HTTP/1.1 101 Switching Protocols");
        let profile = folder.profile("next", &text(&after)).to_str().unwrap().to_owned();
        let answer = gateway.handle.send_and_wait(Command::Plan { profile }).await;
        let CommandAnswer::Planned(plan) = answer else { panic!("{answer:?}") };
        let line = "orders: 1 open session goes on, though `auth` and `users` let their users in no more; \
                    `kill --service orders` ends all of them";
        assert_eq!(plan.loses, if has_lost { vec![line] } else { vec![] }, "{after}");
    }
}

#[tokio::test]
async fn a_file_of_users_that_changes_is_in_force_at_once_and_one_that_is_wrong_is_not() {
    let backend = DescribingBackend::new().await;
    let auth = ", auth: { basic: users.htpasswd }";
    let plan =
        Plan { accept: "http://127.0.0.1:0", dmz_service: auth, ..Plan::new(Mode::Direct, &backend.address) };
    let pair = plan.start_in(folder(ALICE)).await;
    let mut client = dial(port(&pair).await).await;
    assert_eq!(status(&mut client, &with(GET, OF_ALICE)).await, "200 OK");
    write_users(&pair.folder, BOB);
    pair.dmz.until_notice("certificates renewed: ").await;
    // The same connection, and a password that was remembered.
    assert_eq!(status(&mut client, &with(GET, OF_ALICE)).await, "401 Unauthorized");
    assert_eq!(status(&mut client, &with(GET, OF_BOB)).await, "200 OK");
    write_users(&pair.folder, "alice:s3cret\n");
    let line = pair.dmz.until_notice("cannot be used").await;
    assert!(
        line.contains("line 1, of `alice`: it is not a hash: a password in plain text, perhaps"),
        "{line}"
    );
    assert!(!line.contains("s3cret"), "{line}");
    assert_eq!(answered(&mut client, &with(GET, OF_BOB)).await.0[0], "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn without_a_user_file_the_service_is_down() {
    let plan = Plan {
        accept: "http://127.0.0.1:0",
        dmz_service: ", auth: { basic: users.htpasswd }",
        ..Plan::new(Mode::Direct, "http://127.0.0.1:9")
    };
    let pair: ModePair = plan.start_in(TestFolder::new()).await;
    let mut client = dial(port(&pair).await).await;
    assert_eq!(answered(&mut client, &with(GET, OF_ALICE)).await.0[0], "HTTP/1.1 503 Service Unavailable");
    assert_eq!(pair.dmz.now().await.totals.sessions, 0);
    write_users(&pair.folder, ALICE);
    pair.dmz.until_notice("is served again").await;
    let (head, _) = answered(&mut client, &with(GET, WRONG)).await;
    assert_eq!(head[0], "HTTP/1.1 401 Unauthorized");
}

#[tokio::test]
async fn probes_of_the_checklist_need_no_password() {
    let accept = "{ address: 'ws://127.0.0.1:0/live', auth: { basic: users.htpasswd } }";
    let pair = Plan { accept, ..Plan::new(Mode::Reverse, "echo://") }.start_in(folder(ALICE)).await;
    let answer = pair.dmz.handle.send_and_wait(Command::Verify { steps: vec![CheckStep::Reverse] }).await;
    let CommandAnswer::Verified(report) = answer else { panic!("{answer:?}") };
    assert!(report.steps.iter().all(|step| step.result == StepResult::Pass), "{:?}", report.steps);
}
