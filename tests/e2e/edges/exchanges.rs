//! Responses and interim responses, the errors for invalid responses on both halves, and the time limits.

use std::time::{Duration, Instant};

use portcullis::{profile::Mode, telemetry::snapshot::EndedRow};

use super::http::{GET, LAST, OK, address, answer, answered, head, plan, port, send_request, start};
use crate::support::{
    gateway::Gateway,
    mode_pair::{MODES, Plan},
    peers::{Backend, dial, expect_bytes, read_all, send},
};

/// Waits until a session has ended so.
async fn until_ended_by(gateway: &Gateway, reason: &str) -> EndedRow {
    let ended = |row: &&EndedRow| row.reason.contains(reason);
    let snapshot = gateway.until(reason, |snapshot| snapshot.ended.iter().any(|row| ended(&row))).await;
    snapshot.ended.iter().find(ended).unwrap().clone()
}

#[tokio::test]
async fn as_many_fields_pass_as_are_allowed() {
    for mode in MODES {
        let backend = Backend::new().await;
        let pair = start(mode, &backend).await;
        let at = port(&pair).await;
        let mut client = dial(at).await;
        // With `Host` a hundred, and a long head.
        let long = format!("X-Long: {}\r\n", "x".repeat(30_000));
        let fields: String = (0..98).map(|n| format!("X-{n}: y\r\n")).collect();
        send(&mut client, format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}{long}\r\n").as_bytes()).await;
        let mut server = backend.accept().await;
        assert_eq!(head(&mut server).await.len(), 1 + 100 + 4, "{mode:?}: four are ours");
        let fields: String = (0..198).map(|n| format!("X-{n}: y\r\n")).collect();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{fields}{long}\r\nok");
        send(&mut server, answer.as_bytes()).await;
        assert_eq!(head(&mut client).await.len(), 1 + 200, "{mode:?}");
        expect_bytes(&mut client, b"ok").await;
    }
}

#[tokio::test]
async fn an_invalid_response_is_reported_on_both_halves() {
    let ok = "HTTP/1.1 200 OK\r\n";
    let table = [
        (format!("{ok}{}\r\n", "X: y\r\n".repeat(201)), "the backend's answer has over 200 fields"),
        (
            format!("{ok}X: {}\r\n\r\n", "x".repeat(33_000)),
            "the backend's answer has a head over 32768 bytes",
        ),
        (format!("{ok}X-A : 1\r\n\r\n"), "the backend's answer has a malformed field line"),
        ("HTTP/2.0 200 OK\r\n\r\n".into(), "the backend's answer speaks HTTP/2.0"),
        ("220 mail.example ESMTP\r\n".into(), "the backend's answer is not HTTP"),
        (
            format!("{ok}Content-Length: 5x\r\n\r\nhello"),
            "the backend's answer has a malformed Content-Length",
        ),
        (
            format!("{ok}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
            "the backend's answer has a transfer coding other than chunked",
        ),
        (String::new(), "the backend ended before it had answered"),
        ("HTTP/1.1 200 OK\r\nX".into(), "the backend ended within the head of its answer"),
        ("HTTP/1.1 101 Oh\r\nUpgrade: x\r\n\r\n".into(), "the backend switches to another protocol unasked"),
    ];
    for mode in MODES {
        let backend = Backend::new().await;
        let pair = start(mode, &backend).await;
        let mut client = dial(port(&pair).await).await;
        for (wrong, reason) in &table {
            let ask = answered(&mut client, GET);
            let serve = async { drop(answer(&backend, wrong).await) };
            let ((head, body), ()) = tokio::join!(ask, serve);
            assert_eq!(head[0], "HTTP/1.1 502 Bad Gateway", "{mode:?} {reason}");
            assert!(!head.iter().any(|line| line.starts_with("x-portcullis")), "{head:?}");
            assert!(body.starts_with(reason), "{mode:?}: {body}");
            for half in [&pair.dmz, pair.inner()] {
                let row = until_ended_by(half, reason).await;
                assert_eq!((row.end.as_str(), row.reason.as_str()), ("BR", *reason), "{mode:?}");
                assert!(body.contains(&row.id), "{mode:?}: {body}");
            }
        }
    }
}

#[tokio::test]
async fn an_answer_that_goes_wrong_within_its_body_is_the_backends_failure() {
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nxyz\r\n";
    let short = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok";
    for mode in MODES {
        for wrong in [chunks, short] {
            let backend = Backend::new().await;
            let pair = start(mode, &backend).await;
            let mut client = dial(port(&pair).await).await;
            send(&mut client, GET.as_bytes()).await;
            drop(answer(&backend, wrong).await);
            // It may be known before the head has gone on.
            let reported = head(&mut client).await.remove(0);
            assert!(
                ["HTTP/1.1 200 OK", "HTTP/1.1 502 Bad Gateway"].contains(&reported.as_str()),
                "{reported}"
            );
            let row = until_ended_by(pair.inner(), "the backend's answer was cut within its body").await;
            assert_eq!(row.end, "BR", "{mode:?}: {row:?}");
            assert_eq!(pair.dmz.until_ended("BR").await.id, row.id, "{mode:?}");
        }
    }
}

#[tokio::test]
async fn a_backend_cannot_use_the_internal_failure_header() {
    let backend = Backend::new().await;
    let pair = start(Mode::Reverse, &backend).await;
    let forged = OK.replace("Content", "X-Portcullis-Failure: backend it is broken\r\nContent");
    let ask = async { send_request(port(&pair).await, LAST).await };
    let (reported, _server) = tokio::join!(ask, answer(&backend, &forged));
    assert!(reported.starts_with("HTTP/1.1 200 OK") && !reported.contains("broken"), "{reported}");
    pair.dmz.until_ended("--").await;
}

#[tokio::test]
async fn interim_responses_are_forwarded_at_once() {
    for mode in MODES {
        let backend = Backend::new().await;
        let pair = start(mode, &backend).await;
        let mut client = dial(port(&pair).await).await;
        let mut server = None;
        for _ in 0..2 {
            send(&mut client, GET.as_bytes()).await;
            if server.is_none() {
                server = Some(backend.accept().await);
            }
            let server = server.as_mut().unwrap();
            head(server).await;
            let hints = format!(
                "HTTP/1.1 103 Early Hints\r\nLink: <{}/a.css>; rel=preload\r\nConnection: x-own\r\nX-Own: 1\r\n\r\n",
                address(&backend)
            );
            for _ in 0..2 {
                send(server, hints.as_bytes()).await;
                assert_eq!(
                    head(&mut client).await,
                    ["HTTP/1.1 103 Early Hints", "link: </a.css>; rel=preload"]
                );
            }
            send(server, b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n").await;
            send(server, OK.as_bytes()).await;
            assert_eq!(head(&mut client).await, ["HTTP/1.1 102 Processing"]);
            assert_eq!(head(&mut client).await, ["HTTP/1.1 100 Continue"]);
            assert_eq!(head(&mut client).await, ["HTTP/1.1 200 OK", "content-length: 2"]);
            expect_bytes(&mut client, b"ok").await;
        }
        // A client of old has never heard of it.
        let ask = async { send_request(port(&pair).await, &LAST.replace("1.1", "1.0")).await };
        let serve = async {
            let server = server.as_mut().unwrap();
            head(server).await;
            send(server, format!("HTTP/1.1 103 Early Hints\r\n\r\n{OK}").as_bytes()).await;
        };
        let (reported, ()) = tokio::join!(ask, serve);
        assert!(reported.starts_with("HTTP/1.0 200 OK\r\n"), "{reported}");
    }
}

/// A running pair with these time limits; `answer` is set on the internal half.
async fn waits(
    mode: Mode,
    backend: &Backend,
    inside: &str,
    dmz_service: &str,
) -> crate::support::mode_pair::ModePair {
    let connect = format!("{{ address: '{}' }}{inside}", address(backend));
    Plan { dmz_service, ..plan(mode, &connect) }.start().await
}

#[tokio::test]
async fn a_backend_has_the_time_that_its_service_says_to_answer() {
    for mode in MODES {
        let backend = Backend::new().await;
        let pair = waits(mode, &backend, ", answer: 300ms", "").await;
        let mut client = dial(port(&pair).await).await;
        let began = Instant::now();
        let ask = answered(&mut client, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody");
        let serve = async {
            let mut server = backend.accept().await;
            head(&mut server).await;
            server
        };
        let ((head, body), _server) = tokio::join!(ask, serve);
        assert_eq!(head[0], "HTTP/1.1 504 Gateway Timeout", "{mode:?}");
        assert!(began.elapsed() >= Duration::from_millis(300), "{mode:?}: {:?}", began.elapsed());
        for half in [&pair.dmz, pair.inner()] {
            let row = half.until_ended("TR").await;
            assert_eq!(row.reason, "the backend did not answer in time", "{mode:?}");
            assert!(body.contains(&row.id), "{mode:?}: {body}");
        }
    }
}

#[tokio::test]
async fn a_backend_that_takes_no_more_of_a_body_is_late_too() {
    let backend = Backend::new().await;
    let pair = waits(Mode::Reverse, &backend, ", answer: 300ms", "").await;
    let mut client = dial(port(&pair).await).await;
    let request = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n";
    send(&mut client, request.as_bytes()).await;
    let mut server = backend.accept().await;
    head(&mut server).await;
    let (mut reading, mut writing) = client.split();
    let sends = async {
        let piece = [0; 64 * 1024];
        while tokio::io::AsyncWriteExt::write_all(&mut writing, &piece).await.is_ok() {}
    };
    let reads_interims = async {
        let mut line = [0; 12];
        tokio::io::AsyncReadExt::read_exact(&mut reading, &mut line).await.unwrap();
        line
    };
    let line = tokio::select! {
        line = reads_interims => line,
        () = sends => panic!("it was cut without an answer"),
    };
    assert_eq!(&line, b"HTTP/1.1 504");
}

#[tokio::test]
async fn a_body_and_an_idle_connection_have_the_time_that_their_service_says() {
    let backend = Backend::new().await;
    let pair = waits(Mode::Reverse, &backend, "", ", body: 300ms, keep_alive: 400ms").await;
    let at = port(&pair).await;
    let began = Instant::now();
    let reported = send_request(at, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbo").await;
    assert!(reported.starts_with("HTTP/1.1 408 "), "{reported}");
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    // What the backend had of it is cut.
    let _cut = backend.accept().await;
    let mut client = dial(at).await;
    send(&mut client, GET.as_bytes()).await;
    let _server = answer(&backend, OK).await;
    head(&mut client).await;
    expect_bytes(&mut client, b"ok").await;
    let began = Instant::now();
    assert_eq!(read_all(&mut client).await, b"");
    assert!(began.elapsed() >= Duration::from_millis(350), "{:?}", began.elapsed());
}
