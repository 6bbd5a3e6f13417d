//! A backend that fails within its answer, or behind it: what came of the answer arrives, and then the failure
//! is passed on.

use portcullis::{net::tcp, profile::Mode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::http::{LAST, head, port, start};
use crate::support::{
    gateway::PATIENCE,
    mode_pair::MODES,
    peers::{Backend, cut, dial, send},
};

const SIZES: [usize; 4] = [1, 1000, 70_000, 1 << 20];
const TIMES: usize = 5;
/// So much is in the other end's kernel when it has been written.
const AT_ONCE_MAX: usize = 16_000;

/// What a client has heard of an answer.
struct ReceivedAnswer {
    /// Without the marks of chunks.
    body: usize,
    /// As HTTP has it.
    is_whole: bool,
    is_reset: bool,
}

/// Reads an answer to the end of its connection, a byte of whose body is `b`; heads and marks of chunks have none.
async fn read_answer(client: &mut TcpStream) -> ReceivedAnswer {
    let head = head(client).await;
    assert_eq!(head[0].split(' ').nth(1), Some("200"), "{head:?}");
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: "));
    let is_chunked = head.iter().any(|line| line.contains("chunked"));
    let mut bytes = Vec::new();
    let end = timeout(PATIENCE, client.read_to_end(&mut bytes)).await.expect("an end in time");
    // No number of a chunk's size has this letter.
    let body = bytes.iter().filter(|byte| **byte == b'z').count();
    let is_whole = match length {
        Some(length) => body == length.parse::<usize>().unwrap(),
        None if is_chunked => bytes.ends_with(b"\r\n0\r\n\r\n"),
        None => end.is_ok(),
    };
    ReceivedAnswer { body, is_whole, is_reset: end.is_err() }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framed {
    Length,
    Chunks,
    UntilEnd,
}

/// An answer that lacks its last byte, or its last chunk, or its end.
fn cut_answer(framed: Framed, size: usize) -> Vec<u8> {
    let (head, before, after) = match framed {
        Framed::Length => (format!("Content-Length: {}\r\n", size + 1), String::new(), ""),
        Framed::Chunks => ("Transfer-Encoding: chunked\r\n".into(), format!("{size:x}\r\n"), "\r\n"),
        Framed::UntilEnd => (String::new(), String::new(), ""),
    };
    let head = format!("HTTP/1.1 200 OK\r\n{head}\r\n{before}");
    [head.as_bytes(), &vec![b'z'; size], after.as_bytes()].concat()
}

/// Asks, and answers with `answer` and a reset directly behind it; what the client has heard.
async fn exchanged(
    backend: &Backend,
    client: &mut TcpStream,
    request: &str,
    answer: &[u8],
) -> ReceivedAnswer {
    send(client, request.as_bytes()).await;
    let serve = async {
        let mut server = backend.accept().await;
        // The rest of the request stays unread.
        head(&mut server).await;
        server.write_all(answer).await.unwrap();
        // What its own kernel keeps back would be lost with its reset; a small answer is through at once.
        if answer.len() > AT_ONCE_MAX {
            tcp::await_acknowledged(&server, PATIENCE).await;
        }
        cut(server);
    };
    let ((), received) = tokio::join!(serve, read_answer(client));
    received
}

async fn each_cut_answer(mode: Mode) {
    let backend = Backend::new().await;
    let pair = start(mode, &backend).await;
    let at = port(&pair).await;
    for framed in [Framed::Length, Framed::Chunks, Framed::UntilEnd] {
        for (size, version) in SIZES.into_iter().flat_map(|size| [(size, "1.1"), (size, "1.0")]) {
            for number in 0..TIMES {
                let mut client = dial(at).await;
                let request = LAST.replace("1.1", version);
                let received = exchanged(&backend, &mut client, &request, &cut_answer(framed, size)).await;
                let which = format!("{number} in {mode:?}, {framed:?}, HTTP/{version}");
                assert_eq!(received.body, size, "{which}");
                assert!(!received.is_whole && received.is_reset, "{which}, {size}: a clean end");
            }
        }
    }
}

#[tokio::test]
async fn what_came_of_an_answer_arrives_before_its_backends_reset_direct() {
    each_cut_answer(Mode::Direct).await;
}

#[tokio::test]
async fn what_came_of_an_answer_arrives_before_its_backends_reset_forward() {
    each_cut_answer(Mode::Forward).await;
}

#[tokio::test]
async fn what_came_of_an_answer_arrives_before_its_backends_reset_reverse() {
    each_cut_answer(Mode::Reverse).await;
}

#[tokio::test]
async fn a_whole_answer_arrives_whose_backend_closes_with_input_unread() {
    for mode in MODES {
        let backend = Backend::new().await;
        let pair = start(mode, &backend).await;
        let at = port(&pair).await;
        let body = "x".repeat(3000);
        let request =
            format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len() + 1);
        for size in SIZES {
            for number in 0..TIMES {
                let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n");
                let answer = [head.as_bytes(), &vec![b'z'; size]].concat();
                let received = exchanged(&backend, &mut dial(at).await, &request, &answer).await;
                assert_eq!(received.body, size, "{number} in {mode:?}");
                assert!(received.is_whole, "{number} in {mode:?}, {size}");
            }
        }
    }
}
