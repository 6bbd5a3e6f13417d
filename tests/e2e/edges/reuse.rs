//! Connections to a backend go from client to client, and none of them carries anything from one to the next.

use std::pin::pin;

use futures_util::future::select_all;
use portcullis::{profile::Mode, telemetry::snapshot::Snapshot};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::http::{GET, LAST, OK, address, answered, head, plan, port, send_request, start};
use crate::support::{
    gateway::PATIENCE,
    mode_pair::{MODES, ModePair, Plan},
    peers::{Backend, cut, dial, expect_bytes, expect_end, send},
};

/// Connections of a backend that requests come over, whoever sends them.
pub(super) struct ServedConnections<'a> {
    backend: &'a Backend,
    idle: Vec<TcpStream>,
}

impl<'a> ServedConnections<'a> {
    pub fn of(backend: &'a Backend) -> Self {
        Self { backend, idle: Vec::new() }
    }

    /// The connection that the next request comes over, whose head has been read.
    pub async fn next_request(&mut self) -> TcpStream {
        self.next_head().await.0
    }

    pub async fn next_head(&mut self) -> (TcpStream, Vec<String>) {
        let used = {
            let waits: Vec<_> = self.idle.iter().map(|stream| Box::pin(stream.readable())).collect();
            let any = async {
                match waits.is_empty() {
                    true => std::future::pending().await,
                    false => select_all(waits).await.1,
                }
            };
            tokio::select! {
                new = self.backend.accept() => Err(new),
                at = any => Ok(at),
            }
        };
        let mut stream = match used {
            Ok(at) => self.idle.remove(at),
            Err(new) => new,
        };
        let head = head(&mut stream).await;
        (stream, head)
    }

    /// It was answered, and waits for the next.
    pub fn keep(&mut self, stream: TcpStream) {
        self.idle.push(stream);
    }
}

/// One request of a client that leaves then, answered on a new connection of the backend's.
async fn first_client(pair: &ModePair, backend: &Backend) -> TcpStream {
    first_client_with(pair, backend, LAST, OK).await
}

async fn first_client_with(pair: &ModePair, backend: &Backend, request: &str, answer: &str) -> TcpStream {
    let at = port(pair).await;
    let serve = async {
        let mut server = backend.accept().await;
        head(&mut server).await;
        send(&mut server, answer.as_bytes()).await;
        server
    };
    let (reported, server) = tokio::join!(send_request(at, request), serve);
    assert!(reported.starts_with("HTTP/1.1 "), "{reported}");
    server
}

/// Whether the next request comes over `used`, or over a new connection; it is answered there.
async fn is_used_again(pair: &ModePair, backend: &Backend, used: &mut TcpStream, request: &str) -> bool {
    let at = port(pair).await;
    let serve = async {
        let (mut sign, mut new) = ([0], pin!(serve_new(backend)));
        tokio::select! {
            used_again = used.read(&mut sign) => match used_again {
                Ok(1) => {
                    head(used).await;
                    send(used, OK.as_bytes()).await;
                    true
                }
                _ => {
                    new.await;
                    false
                }
            },
            () = &mut new => false,
        }
    };
    let (reported, used_again) = tokio::join!(send_request(at, request), serve);
    assert!(reported.starts_with("HTTP/1.1 200 OK\r\n") && reported.ends_with("\r\n\r\nok"), "{reported}");
    used_again
}

async fn serve_new(backend: &Backend) {
    let mut server = backend.accept().await;
    head(&mut server).await;
    send(&mut server, OK.as_bytes()).await;
}

const POST: &str = "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody";

#[tokio::test]
async fn the_next_client_uses_the_connection_of_the_last() {
    for mode in MODES {
        let backend = Backend::new().await;
        let pair = start(mode, &backend).await;
        let mut used = first_client(&pair, &backend).await;
        for _ in 0..3 {
            assert!(is_used_again(&pair, &backend, &mut used, LAST).await, "{mode:?}");
        }
        // A client that stays does not keep one that it does not use.
        let mut idle = dial(port(&pair).await).await;
        let serve = async {
            head(&mut used).await;
            send(&mut used, OK.as_bytes()).await;
        };
        tokio::join!(answered(&mut idle, GET), serve);
        assert!(is_used_again(&pair, &backend, &mut used, LAST).await, "{mode:?}");
        for gateway in [&pair.dmz, pair.inner()] {
            let is_idle = |now: &Snapshot| now.totals.sessions == 6 && now.totals.sessions_open == 1;
            gateway.until("six sessions, of which one is open", is_idle).await;
        }
    }
}

#[tokio::test]
async fn an_unsolicited_response_reaches_no_client() {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for mode in MODES {
        let backend = Backend::new().await;
        let pair = start(mode, &backend).await;
        // While it waits.
        let mut used = first_client(&pair, &backend).await;
        send(&mut used, evil.as_bytes()).await;
        assert!(!is_used_again(&pair, &backend, &mut used, LAST).await, "{mode:?}");
        // In one piece with the answer, or behind one that has no body.
        for (request, answer) in [
            (LAST.to_owned(), format!("{OK}{evil}")),
            (LAST.to_owned(), format!("{OK}H")),
            (LAST.replace("GET", "HEAD"), format!("{OK}{evil}")),
            (LAST.to_owned(), format!("HTTP/1.1 204 No Content\r\n\r\n{evil}")),
            (LAST.to_owned(), format!("HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n{evil}")),
        ] {
            let backend = Backend::new().await;
            let pair = start(mode, &backend).await;
            let mut used = first_client_with(&pair, &backend, &request, &answer).await;
            assert!(!is_used_again(&pair, &backend, &mut used, LAST).await, "{mode:?} {answer}");
        }
    }
}

#[tokio::test]
async fn one_that_the_backend_has_closed_is_not_used() {
    for mode in MODES {
        for ends in [drop::<TcpStream>, cut] {
            let backend = Backend::new().await;
            let pair = start(mode, &backend).await;
            ends(first_client(&pair, &backend).await);
            // Of a request that may not be repeated, the client would see that.
            let serve = serve_new(&backend);
            let (reported, ()) = tokio::join!(async { send_request(port(&pair).await, POST).await }, serve);
            assert!(reported.starts_with("HTTP/1.1 200 OK\r\n"), "{mode:?}: {reported}");
        }
    }
}

#[tokio::test]
async fn a_request_that_meets_a_closing_backend_is_sent_again() {
    for mode in MODES {
        for ends in [drop::<TcpStream>, cut] {
            let backend = Backend::new().await;
            let pair = start(mode, &backend).await;
            let mut used = first_client(&pair, &backend).await;
            let serve = async {
                head(&mut used).await;
                ends(used);
                let mut again = backend.accept().await;
                let repeated = head(&mut again).await;
                send(&mut again, OK.as_bytes()).await;
                (repeated, again)
            };
            let request = "PUT /a?b HTTP/1.1\r\nHost: h\r\nX-Own: 1\r\nContent-Length: 0\r\n\
                           Connection: close\r\n\r\n";
            let (reported, (repeated, again)) =
                tokio::join!(async { send_request(port(&pair).await, request).await }, serve);
            assert!(reported.starts_with("HTTP/1.1 200 OK\r\n"), "{mode:?}: {reported}");
            assert_eq!(repeated[0], "PUT /a?b HTTP/1.1");
            for field in ["content-length: 0", "host: h", "x-own: 1"] {
                assert!(repeated.iter().any(|line| line == field), "{field}: {repeated:?}");
            }
            // Once: a new connection that ends so is the backend's failure.
            drop(again);
            let serve = async {
                let mut server = backend.accept().await;
                head(&mut server).await;
                ends(server);
            };
            let (reported, ()) = tokio::join!(async { send_request(port(&pair).await, LAST).await }, serve);
            assert!(reported.starts_with("HTTP/1.1 502 "), "{mode:?}: {reported}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_has_begun_is_not_asked_for_again() {
    let backend = Backend::new().await;
    let pair = start(Mode::Reverse, &backend).await;
    for begun in ["HTTP/1.1 2", "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"] {
        let mut used = first_client(&pair, &backend).await;
        let serve = async {
            head(&mut used).await;
            send(&mut used, begun.as_bytes()).await;
            drop(used);
        };
        let (reported, ()) = tokio::join!(async { send_request(port(&pair).await, LAST).await }, serve);
        assert!(reported.contains("HTTP/1.1 502 "), "{reported}");
    }
}

#[tokio::test]
async fn a_request_that_may_not_be_repeated_goes_first_over_no_shared_connection() {
    for mode in MODES {
        let backend = Backend::new().await;
        let pair = start(mode, &backend).await;
        let mut used = first_client(&pair, &backend).await;
        for request in [POST.to_owned(), POST.replace("POST", "PUT"), LAST.replace("GET", "POST")] {
            let (backend, unused) = (&backend, &mut used);
            assert!(!is_used_again(&pair, backend, unused, &request).await, "{mode:?} {request}");
        }
        // Over the one that carried its own requests it does.
        let backend = Backend::new().await;
        let pair = start(mode, &backend).await;
        let mut client = dial(port(&pair).await).await;
        let post = POST.replace("Connection: close\r\n", "");
        let mut server = None;
        for request in [&post, GET, &post, &post] {
            let serve = async {
                let mut server = match server.take() {
                    Some(server) => server,
                    None => backend.accept().await,
                };
                head(&mut server).await;
                if request.starts_with("POST") {
                    expect_bytes(&mut server, b"body").await;
                }
                send(&mut server, OK.as_bytes()).await;
                server
            };
            let ((reported, _), served) = tokio::join!(answered(&mut client, request), serve);
            assert_eq!(reported[0], "HTTP/1.1 200 OK", "{mode:?}");
            server = Some(served);
        }
    }
}

#[tokio::test]
async fn a_connection_that_knows_its_client_is_no_others() {
    let with = |field: &str| LAST.replace("Host", &format!("{field}\r\nHost"));
    let answers = |field: &str| OK.replace("Content", &format!("{field}\r\nContent"));
    for mode in MODES {
        for (request, answer) in [
            (with("Authorization: NTLM TlRMTVNTUAAB"), OK.to_owned()),
            (with("authorization: negotiate YII"), OK.to_owned()),
            (LAST.to_owned(), answers("WWW-Authenticate: Negotiate")),
            (LAST.to_owned(), answers("WWW-Authenticate: Basic realm=\"a\", NTLM")),
            (LAST.replace("Connection: close", "Connection: upgrade\r\nUpgrade: x"), OK.to_owned()),
        ] {
            let backend = Backend::new().await;
            let pair = start(mode, &backend).await;
            let at = port(&pair).await;
            let mut client = dial(at).await;
            let stays = request.replace("Connection: close\r\n", "");
            let serve = async {
                let mut server = backend.accept().await;
                head(&mut server).await;
                send(&mut server, answer.as_bytes()).await;
                server
            };
            let ((reported, _), mut server) = tokio::join!(answered(&mut client, &stays), serve);
            assert_eq!(reported[0], "HTTP/1.1 200 OK", "{mode:?} {request}");
            assert!(!is_used_again(&pair, &backend, &mut server, LAST).await, "{mode:?} {request} {answer}");
            // Its own client stays on it.
            let serve = async {
                head(&mut server).await;
                send(&mut server, OK.as_bytes()).await;
            };
            tokio::join!(answered(&mut client, GET), serve);
            drop(client);
            expect_end(&mut server).await;
        }
        // And others share it.
        let backend = Backend::new().await;
        let pair = start(mode, &backend).await;
        let request = with("Authorization: Basic bnRsbTpudGxt");
        let answer = answers("WWW-Authenticate: Bearer");
        let mut used = first_client_with(&pair, &backend, &request, &answer).await;
        assert!(is_used_again(&pair, &backend, &mut used, LAST).await, "{mode:?}");
    }
}

#[tokio::test]
async fn a_backend_with_the_proxy_protocol_gets_one_connection_per_client() {
    for mode in MODES {
        let backend = Backend::new().await;
        let to = format!("{{ address: '{}', proxy: v1 }}", address(&backend));
        let pair = plan(mode, &to).start().await;
        for _ in 0..2 {
            let serve = async {
                let mut server = backend.accept().await;
                let reported = head(&mut server).await;
                assert!(reported[0].starts_with("PROXY TCP4 127.0.0.1 "), "{reported:?}");
                send(&mut server, OK.as_bytes()).await;
                expect_end(&mut server).await;
            };
            tokio::join!(async { send_request(port(&pair).await, LAST).await }, serve);
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_or_never_read_costs_its_connection_alone() {
    for mode in MODES {
        let backend = Backend::new().await;
        let pair = start(mode, &backend).await;
        let short = OK.replace("Length: 2", "Length: 9");
        let mut used = first_client(&pair, &backend).await;
        let serve = async {
            head(&mut used).await;
            send(&mut used, short.as_bytes()).await;
            drop(used);
        };
        let mut client = dial(port(&pair).await).await;
        send(&mut client, LAST.as_bytes()).await;
        serve.await;
        let mut reported = Vec::new();
        timeout(PATIENCE, client.read_to_end(&mut reported)).await.expect("in time").expect_err("a cut");
        // The client leaves within the answer.
        let mut server = first_client(&pair, &backend).await;
        let mut client = dial(port(&pair).await).await;
        send(&mut client, LAST.as_bytes()).await;
        head(&mut server).await;
        send(&mut server, short.as_bytes()).await;
        head(&mut client).await;
        cut(client);
        pair.inner().until("it has left", |now| now.totals.sessions_open == 0).await;
        // The rest of that answer is nobody's.
        let _ = server.write_all(b"1234567HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").await;
        assert!(!is_used_again(&pair, &backend, &mut server, LAST).await, "{mode:?}");
    }
}

#[tokio::test]
async fn names_are_rewritten_for_the_connection_of_the_answer() {
    for mode in MODES {
        let backend = Backend::new().await;
        let to = format!("{}/app", address(&backend));
        let pair = Plan { accept: "http://127.0.0.1:0/shop", ..Plan::new(mode, &to) }.start().await;
        let shop = LAST.replace("GET /", "GET /shop/");
        let mut used = first_client_with(&pair, &backend, &shop, OK).await;
        let serve = async {
            assert_eq!(head(&mut used).await[0], "GET /app/ HTTP/1.1");
            let field = format!("Location: {}/app/next\r\nContent", address(&backend));
            send(&mut used, OK.replace("Content", &field).as_bytes()).await;
        };
        let (reported, ()) = tokio::join!(async { send_request(port(&pair).await, &shop).await }, serve);
        assert!(reported.contains("\r\nlocation: /shop/next\r\n"), "{mode:?}: {reported}");
    }
}
