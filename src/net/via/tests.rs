//! Proxies that misbehave, each with its own error.

use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};

use super::*;

const WITHIN: Duration = Duration::from_secs(10);

fn target() -> HostPort {
    HostPort { host: "gate.example".into(), port: 443 }
}

fn login() -> ProxyLogin {
    ProxyLogin { user: "gate".into(), password: "s3cret".into() }
}

/// Dials through a proxy that answers this, whatever it receives first; returns what it received.
async fn dial_through(kind: ProxyKind, login: Option<ProxyLogin>, answers: &[&[u8]]) -> (String, Vec<u8>) {
    let port = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = HostPort { host: "127.0.0.1".into(), port: port.local_addr().expect("its address").port() };
    let proxy = ViaProxy { kind, at, login, credentials: None };
    let to = target();
    let serving = async {
        let (mut theirs, _) = port.accept().await.expect("it comes");
        let (mut received, mut scratch) = (Vec::new(), [0; 1024]);
        for answer in answers {
            let count = theirs.read(&mut scratch).await.expect("it asks");
            received.extend_from_slice(&scratch[..count]);
            theirs.write_all(answer).await.expect("it is taken");
        }
        (theirs, received)
    };
    let (dialled, (_theirs, received)) = tokio::join!(dial_via(&proxy, None, &to, WITHIN), serving);
    let prefix = format!("proxy {proxy}: ");
    let reported = match dialled {
        Ok(_) => "a way through".into(),
        Err(error) => error.to_string().strip_prefix(&prefix).expect("it names the proxy").to_owned(),
    };
    (reported, received)
}

#[tokio::test]
async fn each_answer_to_connect_has_its_own_words() {
    for (answer, words) in [
        ("HTTP/1.1 200 OK\r\n\r\n", "a way through"),
        ("HTTP/1.0 200 Connection established\r\nContent-Length: 0\r\n\r\n", "a way through"),
        (
            "HTTP/1.1 407 Who are you\r\nProxy-Authenticate: Basic realm=\"office\"\r\n\r\n",
            "it requires a login (407 Who are you, Basic realm=\"office\"); write them into a file, \
             and name it in `via_credentials`",
        ),
        (
            "HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\n\r\n",
            "it asks for `Negotiate`; `via_credentials` is for `Basic` alone",
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Wait\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            "a way through",
        ),
        ("HTTP/1.1 101 Switching\r\n\r\n", "it refuses to connect to gate.example:443: 101 Switching"),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", "it refuses to connect to gate.example:443: 403 Forbidden"),
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n", "it cannot reach gate.example:443: 502 Bad Gateway"),
        (
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
            "it answered with a web page (200 OK) instead of a tunnel",
        ),
        ("\x05\x00", "it does not speak HTTP: its answer begins with `\\u{5}\\u{0}`"),
        ("<html>sign in</html>", "it does not speak HTTP: its answer begins with `<html>sign in</h`"),
    ] {
        let (sent, received) = dial_through(ProxyKind::Http, None, &[answer.as_bytes()]).await;
        assert_eq!(sent, words);
        let received = String::from_utf8(received).expect("text");
        assert!(
            received.starts_with("CONNECT gate.example:443 HTTP/1.1\r\nHost: gate.example:443\r\n"),
            "{received}"
        );
        assert!(!received.contains("Authorization"), "{received}");
    }
}

#[tokio::test]
async fn a_login_is_sent_to_the_proxy_and_shown_nowhere() {
    let refused = b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=\"office\"\r\n\r\n";
    let (sent, received) = dial_through(ProxyKind::Http, Some(login()), &[refused]).await;
    assert_eq!(sent, "it rejected the credentials in `via_credentials` (407 No, Basic realm=\"office\")");
    let received = String::from_utf8(received).expect("text");
    assert!(received.contains("\r\nProxy-Authorization: Basic Z2F0ZTpzM2NyZXQ=\r\n"), "{received}");
    assert!(!format!("{:?}", login()).contains("s3cret"));
}

#[tokio::test]
async fn each_answer_of_a_socks_proxy_has_its_own_words() {
    let granted: &[u8] = &[5, 0, 0, 3, 2, b'a', b'b', 0, 80];
    for (login, answers, words) in [
        (None, [&[5, 0][..], granted].to_vec(), "a way through"),
        (Some(login()), [&[5, 2][..], &[1, 0], granted].to_vec(), "a way through"),
        (Some(login()), [&[5, 0][..], granted].to_vec(), "a way through"),
        (
            Some(login()),
            [&[5, 2][..], &[1, 7]].to_vec(),
            "it rejected the credentials in `via_credentials` (status 7)",
        ),
        (
            None,
            [&[5, 0xff][..]].to_vec(),
            "it requires a login (no method without one); write them into a file, and name it in \
             `via_credentials`",
        ),
        (
            Some(login()),
            [&[5, 0xff][..]].to_vec(),
            "it accepts neither the name and password of `via_credentials` nor a client without a login \
             (no method fits)",
        ),
        (
            None,
            [&[5, 0][..], &[5, 5, 0, 1, 0, 0, 0, 0, 0, 0]].to_vec(),
            "it cannot reach gate.example:443: connection refused (reply 5)",
        ),
        (
            None,
            [&[5, 0][..], &[5, 2, 0, 1, 0, 0, 0, 0, 0, 0]].to_vec(),
            "it refuses to connect to gate.example:443: not allowed by its rules (reply 2)",
        ),
        (None, [&b"HT"[..]].to_vec(), "it does not speak SOCKS5: its answer begins with `HT`"),
    ] {
        assert_eq!(dial_through(ProxyKind::Socks5, login, &answers).await.0, words);
    }
}

#[tokio::test]
async fn a_head_in_pieces_is_read_to_its_end_and_not_beyond() {
    let port = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = HostPort { host: "127.0.0.1".into(), port: port.local_addr().expect("its address").port() };
    let proxy = ViaProxy { kind: ProxyKind::Http, at, login: None, credentials: None };
    let serving = async {
        let (mut theirs, _) = port.accept().await.expect("it comes");
        theirs.set_nodelay(true).expect("it is open");
        assert!(theirs.read(&mut [0; 1024]).await.expect("it asks") > 0);
        for byte in b"HTTP/1.1 200 OK\r\nVia: 1.1 office\r\n\r" {
            theirs.write_all(&[*byte]).await.expect("it is taken");
            tokio::task::yield_now().await;
        }
        theirs.write_all(b"\nthe other end").await.expect("it is taken");
    };
    let to = target();
    let (dialled, ()) = tokio::join!(dial_via(&proxy, None, &to, WITHIN), serving);
    let mut received = Vec::new();
    dialled.expect("a way through").read_to_end(&mut received).await.expect("an end");
    assert_eq!(received, b"the other end");
}

#[tokio::test]
async fn a_proxy_that_is_down_or_closes_is_reported() {
    let port = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = HostPort { host: "127.0.0.1".into(), port: port.local_addr().expect("its address").port() };
    let proxy = ViaProxy { kind: ProxyKind::Http, at, login: None, credentials: None };
    let to = target();
    let (dialled, _) = tokio::join!(dial_via(&proxy, None, &to, WITHIN), async {
        port.accept()
            .await
            .map(|(mut theirs, _)| async move { theirs.read(&mut [0; 1024]).await })
            .expect("it comes")
            .await
    });
    let reported = dialled.expect_err("it closes").to_string();
    assert!(reported.ends_with("it closed the connection before it answered"), "{reported}");
    drop(port);
    let reported = dial_via(&proxy, None, &to, WITHIN).await.expect_err("it is down").to_string();
    assert_eq!(reported, format!("proxy {proxy}: {}: connection refused", proxy.at));
}

/// Shortly before the deadline nothing happens, and shortly after it the dial is over.
#[tokio::test(start_paused = true)]
async fn a_proxy_answers_in_its_time_or_not_at_all() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = HostPort { host: "127.0.0.1".into(), port: port.local_addr().expect("its address").port() };
    let proxy = ViaProxy { kind: ProxyKind::Socks5, at, login: None, credentials: None };
    let to = target();
    let began = Instant::now();
    let mut dialling = Box::pin(dial_via(&proxy, None, &to, WITHIN));
    let early = CONNECT_RESPONSE_TIMEOUT - Duration::from_millis(100);
    tokio::select! {
        _ = &mut dialling => panic!("it is too early"),
        () = sleep(early) => {}
    }
    let timed_out = timeout(Duration::from_secs(1), dialling).await.expect("it is late");
    let reported = timed_out.expect_err("it says nothing").to_string();
    assert!(
        reported.ends_with("no answer within 5s") && began.elapsed() >= CONNECT_RESPONSE_TIMEOUT,
        "{reported}"
    );
}
