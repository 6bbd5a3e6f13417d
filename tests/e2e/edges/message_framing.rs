//! Every shape of a message, through each mode and straight to the backend: what arrives at either end
//! is the same, but for a list of differences with their reasons, or it is refused. The backend and the
//! client are raw sockets with a reader of their own.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use portcullis::profile::Mode;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
    time::timeout,
};

use crate::support::{
    gateway::PATIENCE,
    mode_pair::{MODES, ModePair, Plan},
    peers::{cut, dial},
};

/// How a message says where its body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Nothing,
    Length,
    Chunks,
    Close,
}

/// One message, as its reader has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ParsedMessage {
    line: String,
    /// Sorted, with names in lower case.
    fields: Vec<String>,
    framing: Framing,
    body: Vec<u8>,
    trailers: Vec<String>,
}

type Reader = BufReader<OwnedReadHalf>;

async fn line(reader: &mut Reader) -> Option<String> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).await.ok()?;
    Some(String::from_utf8(line).unwrap().strip_suffix("\r\n")?.to_owned())
}

async fn fields(reader: &mut Reader) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    loop {
        let line = line(reader).await?;
        let Some((name, value)) = line.split_once(':') else { break };
        fields.push(format!("{}: {}", name.to_ascii_lowercase(), value.trim()));
    }
    fields.sort();
    Some(fields)
}

fn value<'a>(fields: &'a [String], name: &str) -> Option<&'a str> {
    fields.iter().find_map(|field| field.strip_prefix(name)?.strip_prefix(": "))
}

/// Reads a whole message; `None` where it is cut, or none comes. `requested` is the method that a response
/// answers.
async fn message(reader: &mut Reader, requested: Option<&str>) -> Option<ParsedMessage> {
    let first = line(reader).await?;
    let fields = fields(reader).await?;
    let is_empty = requested == Some("HEAD") || first.contains(" 204 ") || first.contains(" 304 ");
    let framing = match (value(&fields, "transfer-encoding"), value(&fields, "content-length")) {
        _ if is_empty => Framing::Nothing,
        (Some(_), _) => Framing::Chunks,
        (None, Some(_)) => Framing::Length,
        (None, None) if requested.is_some() => Framing::Close,
        (None, None) => Framing::Nothing,
    };
    let mut received = ParsedMessage { line: first, fields, framing, body: Vec::new(), trailers: Vec::new() };
    match framing {
        Framing::Nothing => {}
        Framing::Length => {
            let length = value(&received.fields, "content-length")?.split(',').next()?;
            received.body = vec![0; length.parse().ok()?];
            reader.read_exact(&mut received.body).await.ok()?;
        }
        Framing::Close => drop(reader.read_to_end(&mut received.body).await.ok()?),
        Framing::Chunks => loop {
            let size = line(reader).await?;
            let size = usize::from_str_radix(size.split(';').next()?, 16).ok()?;
            if size == 0 {
                received.trailers = self::fields(reader).await?;
                break;
            }
            let from = received.body.len();
            received.body.resize(from + size, 0);
            reader.read_exact(&mut received.body[from..]).await.ok()?;
            if !line(reader).await?.is_empty() {
                return None;
            }
        },
    }
    Some(received)
}

const LARGE: usize = 150_000;

fn large() -> String {
    (0..LARGE).map(|at| char::from(b'a' + (at % 23) as u8)).collect()
}

/// How a request's body is framed, and the rest of its bytes.
fn request_shapes() -> Vec<(&'static str, String)> {
    let large = large();
    let chunked = "Transfer-Encoding: chunked\r\n";
    vec![
        ("no body", "\r\n".into()),
        ("length 0", "Content-Length: 0\r\n\r\n".into()),
        ("length 3", "Content-Length: 3\r\n\r\nabc".into()),
        ("long", format!("Content-Length: {LARGE}\r\n\r\n{large}")),
        ("no chunk", format!("{chunked}\r\n0\r\n\r\n")),
        ("a chunk", format!("{chunked}\r\n3\r\nabc\r\n0\r\n\r\n")),
        ("long chunks", format!("{chunked}\r\n5\r\nfirst\r\n{LARGE:x};ext=1\r\n{large}\r\n0\r\n\r\n")),
        ("trailers", format!("{chunked}Trailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 9\r\n\r\n")),
    ]
}

/// What a backend answers; a closing one ends the connection behind it.
fn answers() -> Vec<(&'static str, String)> {
    let large = large();
    let ok = "HTTP/1.1 200 OK\r\nX-By: me\r\n";
    let chunked = format!("{ok}Transfer-Encoding: chunked\r\n");
    vec![
        ("empty", format!("{ok}Content-Length: 0\r\n\r\n")),
        ("short", format!("{ok}Content-Length: 5\r\n\r\nhello")),
        ("long", format!("{ok}Content-Length: {LARGE}\r\n\r\n{large}")),
        ("short and close", format!("{ok}Connection: close\r\nContent-Length: 5\r\n\r\nhello")),
        ("no chunk", format!("{chunked}\r\n0\r\n\r\n")),
        ("chunks", format!("{chunked}\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n")),
        ("long chunks", format!("{chunked}\r\n{LARGE:x}\r\n{large}\r\n0\r\n\r\n")),
        ("trailers", format!("{chunked}Trailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 8\r\n\r\n")),
        ("to its end", format!("{ok}\r\nuntil the end")),
        ("long to its end", format!("{ok}Connection: close\r\n\r\n{large}")),
        ("old, to its end", "HTTP/1.0 200 OK\r\nX-By: me\r\n\r\nuntil the end".into()),
        (
            "both lengths",
            format!(
                "{ok}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n14\r\nall of these twenty!\r\n0\r\n\r\n"
            ),
        ),
        ("a length twice", format!("{ok}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello")),
        ("a list of a length", format!("{ok}Content-Length: 5, 5\r\n\r\nhello")),
        ("nothing new", "HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n".into()),
        ("no content", "HTTP/1.1 204 No Content\r\nX-By: me\r\n\r\n".into()),
        ("an error", "HTTP/1.1 500 Oh No\r\nContent-Length: 2\r\n\r\nno".into()),
    ]
}

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];

/// What reached the backend, by the value of `x-case`.
type Seen = Arc<Mutex<HashMap<String, ParsedMessage>>>;

/// Answers each request with the one of `answers` that its target names, until it is dropped.
struct Answering {
    at: SocketAddr,
    seen: Seen,
    _serving: JoinSet<()>,
}

impl Answering {
    async fn new(answers: Vec<(&'static str, String)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (seen, answers) = (Seen::default(), Arc::new(answers));
        let mut serving = JoinSet::new();
        let all = seen.clone();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, answers.clone(), all.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { at, seen, _serving: serving }
    }
}

async fn serve(stream: TcpStream, answers: Arc<Vec<(&'static str, String)>>, seen: Seen) {
    let (reading, mut writing) = stream.into_split();
    let mut reader = BufReader::new(reading);
    while let Some(received) = message(&mut reader, None).await {
        let (method, target) = received.line.split_once(' ').unwrap();
        let number: usize = target[1..].split(' ').next().unwrap().parse().unwrap();
        let answer = &answers[number].1;
        let length = if method == "HEAD" { answer.find("\r\n\r\n").unwrap() + 4 } else { answer.len() };
        let head = &answer[..answer.find("\r\n\r\n").unwrap()];
        let is_framed = ["Content-Length", "Transfer-Encoding", " 304 ", " 204 "];
        let closes = head.contains("close") || !is_framed.iter().any(|word| head.contains(word));
        if let Some(case) = value(&received.fields, "x-case") {
            seen.lock().unwrap().insert(case.to_owned(), received.clone());
        }
        if writing.write_all(&answer.as_bytes()[..length]).await.is_err() || closes {
            break;
        }
    }
    let _ = writing.shutdown().await;
}

/// Whether a client shuts its sending side behind its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    StaysOpen,
    Ends,
}

/// What a client is answered, its request beside it; and to another request on the same connection,
/// where the first answer lets it stay.
async fn exchange(
    at: SocketAddr,
    method: &str,
    request: &str,
    sending: Sending,
) -> (Option<ParsedMessage>, Option<String>) {
    let (reading, mut writing) = dial(at).await.into_split();
    let mut reader = BufReader::new(reading);
    let reported = async {
        let send = async {
            // It may be answered before all is taken.
            let _ = writing.write_all(request.as_bytes()).await;
            if sending == Sending::Ends {
                let _ = writing.shutdown().await;
            }
        };
        let ((), received) = tokio::join!(send, message(&mut reader, Some(method)));
        let stays = received.as_ref().is_some_and(|received| {
            received.framing != Framing::Close && value(&received.fields, "connection") != Some("close")
        });
        if sending == Sending::Ends || !stays {
            return (received, None);
        }
        let next = again(&mut reader, &mut writing).await;
        (received, Some(next))
    };
    timeout(PATIENCE, reported).await.unwrap_or_else(|_| panic!("no answer to {method} {:.80}", request))
}

async fn again(reader: &mut Reader, writing: &mut OwnedWriteHalf) -> String {
    let _ = writing.write_all(b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let next = message(reader, Some("GET")).await;
    next.map(|next| format!("{} {}", next.line, String::from_utf8_lossy(&next.body))).unwrap_or_default()
}

/// What may differ from a direct connection in a response.
fn expected_response(mut direct: ParsedMessage) -> ParsedMessage {
    let is_chunked = value(&direct.fields, "transfer-encoding").is_some();
    // Fields of one hop (RFC 9110, section 7.6.1), and a date that a backend has not given.
    direct = without_hop(direct);
    // The end of a connection does not end a body where chunks can tell one.
    if direct.framing == Framing::Close {
        direct.framing = Framing::Chunks;
    }
    // With two lengths, the chunks decide (RFC 9112, section 6.3), and a length is written once.
    let length = value(&direct.fields, "content-length").and_then(|length| length.split(',').next());
    let length = length.filter(|_| !is_chunked).map(|length| format!("content-length: {length}"));
    direct.fields.retain(|field| !field.starts_with("content-length"));
    direct.fields.extend(length);
    direct.fields.sort();
    // A client that has not said that it takes trailers gets none (RFC 9110, section 6.5.1), and they are
    // not announced where no body follows.
    direct.trailers.clear();
    if direct.framing == Framing::Nothing {
        direct.fields.retain(|field| !field.starts_with("trailer:"));
    }
    // Of the gateway, whatever the backend's is.
    direct.line = direct.line.replace("HTTP/1.0", "HTTP/1.1");
    direct
}

async fn start(mode: Mode, at: SocketAddr) -> (ModePair, SocketAddr) {
    let backend = format!("http://{at}");
    let pair = Plan { accept: "http://127.0.0.1:0", ..Plan::new(mode, &backend) }.start().await;
    let accept = pair.dmz.now().await.services[0].accept[0].clone();
    let port = accept.strip_prefix("http://").unwrap().parse().unwrap();
    (pair, port)
}

/// All shapes over one way in, a few at a time; what each came to.
async fn exchange_all_shapes(
    at: SocketAddr,
    sending: Sending,
    backend: &Answering,
) -> HashMap<String, ExchangeResult> {
    let mut cases = Vec::new();
    for method in METHODS {
        for (shape, rest) in request_shapes() {
            for (number, (answer, _)) in answers().iter().enumerate() {
                let case = format!("{method}, {shape}, {answer}");
                let request = format!("{method} /{number} HTTP/1.1\r\nHost: h\r\nX-Case: {case}\r\n{rest}");
                cases.push((case, method, request));
            }
        }
    }
    let (cases, mut workers, mut came) = (Arc::new(Mutex::new(cases)), JoinSet::new(), HashMap::new());
    for _ in 0..8 {
        let cases = cases.clone();
        workers.spawn(async move {
            let mut came = Vec::new();
            loop {
                let Some((case, method, request)) = cases.lock().unwrap().pop() else { return came };
                came.push((case, exchange(at, method, &request, sending).await));
            }
        });
    }
    while let Some(worker) = workers.join_next().await {
        for (case, (answered, next)) in worker.unwrap() {
            let request = backend.seen.lock().unwrap().remove(&case);
            came.insert(case, ExchangeResult { request, answered, next });
        }
    }
    came
}

struct ExchangeResult {
    request: Option<ParsedMessage>,
    answered: Option<ParsedMessage>,
    next: Option<String>,
}

/// Without what the DMZ half says of the client.
fn without_forwarded(mut request: ParsedMessage) -> ParsedMessage {
    request.fields.retain(|field| !field.starts_with("x-forwarded-") && !field.starts_with("x-request-id: "));
    request
}

fn without_hop(mut response: ParsedMessage) -> ParsedMessage {
    response.fields.retain(|field| {
        !["connection:", "transfer-encoding:", "date:"].iter().any(|name| field.starts_with(name))
    });
    response
}

async fn is_as_direct(sending: Sending) {
    let backend = Answering::new(answers()).await;
    let direct = exchange_all_shapes(backend.at, sending, &backend).await;
    for mode in MODES {
        let (_pair, at) = start(mode, backend.at).await;
        let mut wrong = Vec::new();
        for (case, came) in exchange_all_shapes(at, sending, &backend).await {
            let straight = &direct[&case];
            let request = straight.request.clone();
            let answered = straight.answered.clone().map(expected_response);
            if came.request.map(without_forwarded) != request {
                wrong.push(format!("{case}: another request"));
            }
            let ours = came.answered.map(without_hop);
            if ours != answered {
                let short = |received: &Option<ParsedMessage>| {
                    received.as_ref().map(|received| {
                        (
                            received.line.clone(),
                            received.fields.clone(),
                            received.framing,
                            received.body.len(),
                        )
                    })
                };
                wrong.push(format!("{case}: {:?}, and directly {:?}", short(&ours), short(&answered)));
            }
            if came.next.is_some_and(|next| next != "HTTP/1.1 200 OK hello") {
                wrong.push(format!("{case}: the connection is useless for the next request"));
            }
        }
        wrong.sort();
        assert!(
            wrong.is_empty(),
            "{mode:?}: {} differ, as {:#?}",
            wrong.len(),
            &wrong[..wrong.len().min(12)]
        );
    }
}

#[tokio::test]
async fn every_shape_of_a_message_arrives_as_on_a_direct_connection() {
    is_as_direct(Sending::StaysOpen).await;
}

#[tokio::test]
async fn a_half_closed_client_is_answered() {
    is_as_direct(Sending::Ends).await;
}

/// A client of HTTP/1.0 knows no chunks.
#[tokio::test]
async fn an_old_client_gets_every_answer_whole() {
    let backend = Answering::new(answers()).await;
    for mode in MODES {
        let (_pair, at) = start(mode, backend.at).await;
        for (number, (answer, _)) in answers().iter().enumerate() {
            for (method, body) in [("GET", ""), ("HEAD", ""), ("POST", "Content-Length: 3\r\n\r\nabc")] {
                let case = format!("{mode:?}, {method}, {answer}");
                let rest = if body.is_empty() { "\r\n" } else { body };
                let requested =
                    |version: &str| format!("{method} /{number} HTTP/{version}\r\nHost: h\r\n{rest}");
                let (straight, _) = exchange(backend.at, method, &requested("1.1"), Sending::StaysOpen).await;
                let (received, _) = exchange(at, method, &requested("1.0"), Sending::StaysOpen).await;
                let (straight, received) =
                    (straight.expect("an answer"), received.unwrap_or_else(|| panic!("{case}")));
                assert!(received.framing != Framing::Chunks, "{case}: {:?}", received.fields);
                assert_eq!(received.body.len(), straight.body.len(), "{case}: {:?}", received.fields);
                assert!(received.body == straight.body, "{case}");
            }
        }
    }
}

/// What a backend does behind an answer that it gives before it has the whole request.
#[derive(Debug, Clone, Copy)]
enum EarlyAnswerEnd {
    /// It shuts its sending side and reads on.
    ReadsOn,
    Closes,
    Resets,
}

const TOO_LARGE: &str =
    "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 9\r\n\r\ntoo large";

async fn answers_early(listener: TcpListener, behind: EarlyAnswerEnd) {
    let mut connections = JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        connections.spawn(async move {
            let mut head = [0; 16 * 1024];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(TOO_LARGE.as_bytes()).await;
            match behind {
                EarlyAnswerEnd::ReadsOn => {
                    let _ = stream.shutdown().await;
                    while matches!(stream.read(&mut head).await, Ok(1..)) {}
                }
                EarlyAnswerEnd::Closes => drop(stream),
                EarlyAnswerEnd::Resets => cut(stream),
            }
        });
    }
}

/// Whether a client reads while it sends.
#[derive(Debug, Clone, Copy)]
enum Client {
    Attentive,
    /// It sends all and reads then.
    Lazy,
}

async fn answer_to_upload(at: SocketAddr, client: Client) -> Option<ParsedMessage> {
    const UPLOAD: usize = 8 << 20;
    let (reading, mut writing) = dial(at).await.into_split();
    let mut reader = BufReader::new(reading);
    let sending = async {
        let head = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {UPLOAD}\r\n\r\n");
        writing.write_all(head.as_bytes()).await?;
        let piece = vec![b'x'; 64 * 1024];
        for _ in 0..UPLOAD / piece.len() {
            writing.write_all(&piece).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    let reported = async {
        match client {
            Client::Attentive => tokio::join!(message(&mut reader, Some("POST")), sending).0,
            Client::Lazy => {
                sending.await.ok()?;
                message(&mut reader, Some("POST")).await
            }
        }
    };
    timeout(PATIENCE, reported).await.expect("an answer in time")
}

#[tokio::test]
async fn an_answer_before_the_end_of_an_upload_arrives() {
    const CLIENTS: usize = 12;
    for mode in MODES {
        for behind in [EarlyAnswerEnd::ReadsOn, EarlyAnswerEnd::Closes, EarlyAnswerEnd::Resets] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let at = listener.local_addr().unwrap();
            let mut serving = JoinSet::new();
            serving.spawn(answers_early(listener, behind));
            let (pair, at) = start(mode, at).await;
            for client in [Client::Attentive, Client::Lazy] {
                let mut clients = JoinSet::new();
                (0..CLIENTS).for_each(|_| drop(clients.spawn(answer_to_upload(at, client))));
                let received = clients.join_all().await;
                let reported = |received: &ParsedMessage| {
                    received.line.contains(" 413 ") && received.body == b"too large"
                };
                let count = received.iter().flatten().filter(|received| reported(received)).count();
                assert_eq!(count, CLIENTS, "{mode:?} {behind:?} {client:?}: {received:?}");
            }
            // They were answered, so nothing has failed.
            pair.dmz.until("all have ended", |snapshot| snapshot.totals.sessions_open == 0).await;
            let ended = pair.dmz.now().await.ended.clone();
            assert!(ended.iter().all(|row| row.end == "--"), "{mode:?} {behind:?}: {ended:?}");
        }
    }
}
