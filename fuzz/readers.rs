//! Feeds arbitrary bytes to the parsers at the edges; shared by the fuzz targets and the reader
//! tests.
//!
//! Each returns what it has parsed, and panics if two readings disagree: in one piece and in many,
//! and, where there is one, by a parser that is not our code.

use std::{
    fs::OpenOptions,
    future::poll_fn,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use hyper::{
    Method, Request, Response,
    body::{Body, Incoming},
    header::HeaderValue,
};
use portcullis::{
    admin::protocol::{AdminStream, WireError},
    disk::PipePolicy,
    http::{
        HeadSource,
        body::MessageBody,
        framing,
        parse_error::ResponseParseError,
        strict_framing::{REPLACEMENT_BYTE, RequestChecker},
        upstream::{ResponseFailure, UpstreamConnection},
    },
    net::pipe::pipe,
    profile::{
        self, KeyExchangePolicy, LinkTls, PemSource, ProfileLocation, ProfileOverrides, ProxyVersion,
        RevokedFiles,
    },
    proto::{
        proxy,
        socks5::{self, SocksCommand},
        ws::{self, FrameSource, Masking, Opcode, WebSocketDecoder, WebSocketEnd, WebSocketError},
    },
    tls::{client_hello, link::LinkIdentity},
};
use proxy_header::{ParseConfig, ProxyHeader};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};
use tokio_tungstenite::tungstenite::{
    Error, Message, WebSocket,
    error::ProtocolError,
    protocol::{Role, WebSocketConfig},
};

/// A reason is one line of an operator's log, whatever was said.
fn checked(reason: String) -> String {
    let is_plain = reason.chars().all(|sign| !sign.is_control());
    assert!(is_plain && (1..400).contains(&reason.len()) && !reason.contains("://"), "{reason:?}");
    reason
}

/// A header of the PROXY protocol.
pub fn proxy(input: &[u8]) -> String {
    let whole = proxy::parse(input);
    let first = (1..=input.len()).map(|cut| proxy::parse(&input[..cut])).find(|sent| *sent != Ok(None));
    assert_eq!(whole, first.unwrap_or(Ok(None)), "at once, and byte by byte");
    let (client, length) = match whole {
        Err(fault) => return checked(fault.to_string()),
        Ok(None) => return "more".into(),
        Ok(Some(proxy::ProxyHeader { client: None, length, .. })) => {
            return format!("no client, {length} bytes");
        }
        Ok(Some(proxy::ProxyHeader { client: Some(client), length, .. })) => (client, length),
    };
    let (theirs, their_length) =
        ProxyHeader::parse(input, ParseConfig::default()).expect("who is stricter is read by others");
    assert_eq!(theirs.proxied_address().map(|address| address.source), Some(client));
    assert_eq!(their_length, length);
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let again = proxy::write_header(version, Some(client), client, b"");
        let received = proxy::parse(&again).expect("it was written here").expect("it is whole");
        assert_eq!((received.client, received.length), (Some(client), again.len()));
    }
    format!("{client}, {length} bytes")
}

/// What the other end of a SOCKS5 link says: `who (1)`, and then a method and a request, or replies.
pub fn socks(input: &[u8]) -> String {
    let Some((&who, sent)) = input.split_first() else { return "more".into() };
    let (reported, left, answered) = match who % 3 {
        2 => replies(sent),
        asks => socks_exchange(sent, if asks == 0 { SocksCommand::Connect } else { SocksCommand::Bind }),
    };
    // Nothing is read past a message: what follows is the session's.
    assert!(sent.ends_with(&left), "{} bytes left", left.len());
    assert!(answered.len() <= 12, "{answered:?}");
    reported
}

fn socks_exchange(sent: &[u8], serves: SocksCommand) -> (String, Vec<u8>, Vec<u8>) {
    let mut stream = tokio::io::join(sent, Vec::new());
    let reported = at_once(async {
        socks5::accept_method(&mut stream).await?;
        socks5::read_request(&mut stream, serves).await
    });
    let reported =
        reported.map_or_else(|error| checked(error.to_string()), |service| format!("asks for `{service}`"));
    let (left, answered) = stream.into_inner();
    (reported, left.to_vec(), answered)
}

fn replies(sent: &[u8]) -> (String, Vec<u8>, Vec<u8>) {
    let mut left = sent;
    let reported = at_once(async {
        socks5::read_reply(&mut left).await?;
        let first = socks5::await_announcement(&mut left).await?;
        socks5::read_announcement(first, &mut left).await
    });
    let reported =
        reported.map_or_else(|error| checked(error.to_string()), |address| format!("client at {address:?}"));
    (reported, left.to_vec(), Vec::new())
}

/// All bytes are available, so parsing never waits.
fn at_once<T>(reading: impl Future<Output = T>) -> T {
    match pin!(reading).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(read) => read,
        Poll::Pending => panic!("it waits for more than there is"),
    }
}

/// The checks before a request is parsed: at most one byte is overwritten to invalidate a request,
/// forbidden characters of a target are replaced, and the result does not depend on how the bytes are
/// split.
pub fn request(input: &[u8]) -> String {
    let looked = |piece: usize| {
        let (mut checker, mut bytes) = (RequestChecker::default(), input.to_vec());
        let good = bytes.chunks_mut(piece).map(|bytes| checker.check(bytes)).sum::<usize>();
        let is_cut = checker.refused_rest().is_some();
        assert!(good == input.len() || checker.is_undecided() || is_cut);
        (bytes, good, is_cut, checker.refused_request())
    };
    let whole = looked(input.len().max(1));
    assert_eq!(whole, looked(1), "at once, and byte by byte");
    let (whole, good, is_cut, refused) = whole;
    let is_target = |at: &usize| whole[*at] == REPLACEMENT_BYTE && b"#<>\"`".contains(&input[*at]);
    let changed: Vec<usize> = (0..input.len()).filter(|&at| input[at] != whole[at]).collect();
    let (targets, overwritten): (Vec<_>, Vec<_>) = changed.into_iter().partition(is_target);
    assert_eq!(refused.is_some(), !targets.is_empty());
    let waits = match is_cut {
        true => format!("nothing is read from {good} on, "),
        false if good < input.len() => format!("waits at {good}, "),
        false => String::new(),
    };
    match (overwritten.as_slice(), refused) {
        ([], None) => format!("{waits}as it was"),
        ([], Some(number)) => format!("{waits}the target of request {number} is refused"),
        ([at], _) => {
            assert_eq!((whole[*at], is_cut, good), (0, true, *at + 1));
            format!("{waits}damaged at {at}")
        }
        (more, _) => panic!("more than one byte is damaged: {more:?}"),
    }
}

/// What a backend answers to a GET, or to a HEAD where the first byte is odd, and ends behind it.
pub fn answer(input: &[u8]) -> String {
    let (&[kind], wire) = input.split_first_chunk().unwrap_or((&[0], &[]));
    let method = if kind % 2 == 1 { Method::HEAD } else { Method::GET };
    let whole = answered(&method, wire, wire.len().max(1));
    assert_eq!(whole, answered(&method, wire, 1), "at once, and byte by byte");
    checked(whole)
}

fn answered(method: &Method, wire: &[u8], piece: usize) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let (ours, mut theirs) = pipe();
        let (mut line, going) =
            UpstreamConnection::handshake(ours, HeadSource::Outside, None).await.expect("a fresh pipe");
        let asks = async {
            let mut request = Request::new(MessageBody::empty());
            *request.method_mut() = method.clone();
            request.headers_mut().insert("host", HeaderValue::from_static("h"));
            let reported = match line.send(request).await {
                Ok(answer) => read_out(method, answer).await,
                Err(ResponseFailure::Invalid(flaw)) => flaw.to_string(),
                Err(ResponseFailure::Unanswered) => ResponseParseError::Nothing.to_string(),
                Err(lost) => panic!("{lost:?}"),
            };
            drop(line);
            reported
        };
        let write_half = async {
            let mut received = Vec::new();
            while !received.ends_with(b"\r\n\r\n") {
                received.push(theirs.read_u8().await.expect("a request"));
            }
            for piece in wire.chunks(piece) {
                // An answer may be over before all is said.
                if theirs.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            let _ = theirs.shutdown().await;
            let _ = theirs.read_to_end(&mut received).await;
        };
        tokio::join!(asks, write_half, going).0
    })
}

/// The status, and how much of a body there was.
async fn read_out(method: &Method, answer: Response<Incoming>) -> String {
    let (mut head, mut body) = answer.into_parts();
    if framing::frame_response(&mut head, method, &body).is_err() {
        return "a coding".into();
    }
    let sent =
        head.headers.get("content-length").and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let mut count = 0;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        match frame {
            Ok(frame) => count += frame.data_ref().map_or(0, |data| data.len() as u64),
            Err(_) => return format!("{}, cut", head.status.as_u16()),
        }
    }
    let is_complete = sent.is_none_or(|sent| sent == count || count == 0);
    assert!(is_complete && !head.headers.contains_key("transfer-encoding"), "{sent:?} of {count} bytes");
    format!("{}, {count} bytes", head.status.as_u16())
}

/// What a ClientHello is read from.
pub fn client_hello(input: &[u8]) -> String {
    let whole = hello_in(input, input.len().max(1));
    assert_eq!(whole, hello_in(input, 1), "at once, and byte by byte");
    whole
}

fn hello_in(input: &[u8], piece: usize) -> String {
    let mut reader = client_hello::ClientHelloReader::default();
    for (at, bytes) in input.chunks(piece).enumerate() {
        match reader.feed(bytes) {
            Ok(None) => {}
            Ok(Some(hello)) => {
                let name =
                    hello.name().map_or("no name".into(), |name| format!("`{}`", checked(name.into())));
                let sent = hello.into_bytes();
                assert!(
                    input.starts_with(&sent) && sent.len() == (at * piece + bytes.len()),
                    "{}",
                    sent.len()
                );
                return name;
            }
            Err(error) => return checked(error.to_string()),
        }
    }
    "more".into()
}

/// The frames of a client. `limit (1), size of a piece (1)`, the rest is what the client sends.
pub fn web_socket(input: &[u8]) -> String {
    let (&[limit, piece], wire) = input.split_first_chunk().unwrap_or((&[15, 0], &[]));
    let limit = 1_usize << (limit & 15);
    let ours = frames_in(wire, limit, if piece == 0 { usize::MAX } else { piece.into() });
    let again = frames_in(wire, limit, 1);
    assert_eq!((&ours.answers, &ours.end), (&again.answers, &again.end), "in pieces, and byte by byte");
    // A piece of a text goes up whole or not at all.
    let is_text =
        ours.end == Some(WebSocketEnd::Broken(WebSocketError::Text)) && again.data.starts_with(&ours.data);
    assert!(is_text || ours.data == again.data, "in pieces, and byte by byte");
    let theirs = Second::parsed_by_hyper(wire, limit);
    assert!(ours.data.starts_with(&theirs.data), "other bytes were heard");
    assert!(ours.answers.starts_with(&theirs.answers), "other pings were heard");
    match (&ours.end, &theirs.end) {
        // They keep a message to its end, and a frame's head as long as its body has not come.
        (None, Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))
        | (Some(WebSocketEnd::Broken(_)), Error::Protocol(_) | Error::Utf8(_) | Error::Capacity(_)) => {}
        (Some(WebSocketEnd::Broken(WebSocketError::Code(_))), Error::ConnectionClosed) => {
            assert_eq!(theirs.code, Some(1002))
        }
        // Registered since, for gateways.
        (Some(WebSocketEnd::Closed(Some(1014))), Error::ConnectionClosed) => {}
        (Some(WebSocketEnd::Closed(code)), Error::ConnectionClosed) => {
            assert_eq!((*code, &ours.answers), (theirs.code, &theirs.answers));
        }
        (ours, theirs) => panic!("{ours:?}, and they: {theirs:?}"),
    }
    let end = match ours.end {
        None => "more".into(),
        Some(WebSocketEnd::Closed(code)) => format!("closed {code:?}"),
        Some(WebSocketEnd::Broken(breach)) => checked(breach.to_string()),
    };
    format!("{} bytes, {} of answers, {end}", ours.data.len(), ours.answers.len())
}

struct IndependentFrames {
    data: Vec<u8>,
    answers: Vec<u8>,
    end: Option<WebSocketEnd>,
}

fn frames_in(wire: &[u8], limit: usize, piece: usize) -> IndependentFrames {
    let (mut decoder, mut data, mut answers) =
        (WebSocketDecoder::new(FrameSource::Client { message_max: limit }), Vec::new(), Vec::new());
    for bytes in wire.chunks(piece) {
        let mut bytes = bytes.to_vec();
        let received = decoder.decode(&mut bytes, &mut answers);
        data.extend_from_slice(&bytes[..received]);
    }
    IndependentFrames { data, answers, end: decoder.end() }
}

/// The frames that an independent parser finds.
struct Second {
    data: Vec<u8>,
    answers: Vec<u8>,
    code: Option<u16>,
    end: Error,
}

impl Second {
    fn parsed_by_hyper(wire: &[u8], limit: usize) -> Self {
        let config =
            WebSocketConfig::default().max_message_size(Some(limit)).max_frame_size(Some(limit.max(125)));
        let mut socket = WebSocket::from_partially_read(Silent, wire.to_vec(), Role::Server, Some(config));
        let (mut data, mut answers, mut code) = (Vec::new(), Vec::new(), None);
        let end = loop {
            match socket.read() {
                Ok(Message::Ping(body)) => {
                    ws::push_frame(&mut answers, Opcode::Pong, &body, Masking::None);
                }
                Ok(Message::Pong(_) | Message::Frame(_)) => {}
                Ok(Message::Close(frame)) => code = frame.map(|frame| frame.code.into()),
                Ok(message) => data.extend_from_slice(&message.into_data()),
                Err(error) => break error,
            }
        };
        Self { data, answers, code, end }
    }
}

/// A client that has sent all, and receives nothing.
struct Silent;

impl Read for Silent {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }
}

impl Write for Silent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A profile's text, by way of `file`.
pub fn profile(file: &Path, input: &[u8]) -> String {
    std::fs::write(file, input).expect("the file is written");
    let start = Instant::now();
    let loaded = profile::load(file, &ProfileOverrides::default());
    assert!(start.elapsed() < Duration::from_secs(5), "it took {:?}", start.elapsed());
    let Err(problems) = loaded else { return "loads".into() };
    assert!(!problems.is_empty());
    // A CR alone ends a line too, and so do the last bytes of three more signs (YAML 1.1, section 4.2).
    let ends = |byte: &&u8| matches!(**byte, b'\n' | b'\r' | 0x85 | 0xa8 | 0xa9);
    let (lines, name) = (1 + input.iter().filter(ends).count(), file.display().to_string());
    for problem in &problems {
        let reported = problem.to_string();
        assert!(!reported.chars().any(char::is_control) && reported.len() < 4096, "{reported:?}");
        // What it extends may be another file.
        let location = reported.strip_prefix(&format!("{name}:")).and_then(|rest| rest.split(':').next());
        let line = location.and_then(|line| line.parse::<usize>().ok());
        assert!(line.is_none_or(|line| line <= lines + 1), "{reported:?}, of {lines} lines");
    }
    problems[0].to_string()
}

/// What a client says on the admin socket: requests, each a JSON text behind its length in four bytes.
pub fn admin(input: &[u8]) -> String {
    thread_local!(static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .expect("a runtime"));
    RUNTIME.with(|runtime| runtime.block_on(requests(input)))
}

/// What is asked, and why no more is read.
async fn requests(input: &[u8]) -> String {
    let (mut write_half, read_half) = UnixStream::pair().expect("two sockets");
    let (asks_again, read_half_again) = UnixStream::pair().expect("two sockets");
    let (mut wire, mut again) = (AdminStream::server(read_half), AdminStream::server(read_half_again));
    let mut client = AdminStream::client(asks_again);
    let hearing = async {
        let mut read_requests = Vec::new();
        loop {
            match wire.request().await {
                Ok(request) => {
                    client.send(&request).await.expect("it is short");
                    assert_eq!(again.request().await.expect("ours reads"), request);
                    read_requests.push(format!("{request:?}"));
                }
                // The gateway answers that, and reads the next.
                Err(WireError::Unclear(unclear)) => read_requests.push(one_line(unclear.to_string())),
                Err(error) => {
                    return format!("{}, {}", read_requests.join(", "), one_line(error.to_string()));
                }
            }
        }
    };
    let saying = async move {
        // Whoever closes first has not heard all of it.
        let _ = write_half.write_all(input).await;
    };
    tokio::join!(hearing, saying).0
}

/// An error that quotes its input is still a single line.
fn one_line(reported: String) -> String {
    assert!(
        !reported.chars().any(char::is_control) && (1..400).contains(&reported.chars().count()),
        "{reported:?}"
    );
    reported
}

/// One file as a link's certificate, key and `ca`.
pub fn pem(file: &Path, input: &[u8]) -> String {
    let mut options = OpenOptions::new();
    let opened = options.write(true).create(true).truncate(true).mode(0o600).open(file);
    opened.and_then(|mut file| file.write_all(input)).expect("the file is written");
    let location = ProfileLocation { file: "p.yaml".into(), line: 1, column: 1, key: "tls".into() };
    let material = || PemSource::File { path: file.into(), location: location.clone() };
    let tls = LinkTls {
        certificate: material(),
        key: material(),
        ca: material(),
        peers: vec!["dmz".into()],
        revoked: RevokedFiles::default(),
        key_exchange: KeyExchangePolicy::default(),
    };
    let start = Instant::now();
    let loaded = LinkIdentity::load(&tls, &[], PipePolicy::Refused);
    assert!(start.elapsed() < Duration::from_secs(5), "it took {:?}", start.elapsed());
    match loaded {
        Ok(identity) => {
            let reported = [Some(identity.describe()), identity.refusal_reason(&identity)];
            let reported: Vec<_> = reported.into_iter().flatten().collect();
            assert!(reported.iter().all(|reported| !reported.chars().any(char::is_control)), "{reported:?}");
            "loads".into()
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            let reported: Vec<_> = problems.iter().map(ToString::to_string).collect();
            for reported in &reported {
                assert!(!reported.chars().any(char::is_control) && reported.len() < 2048, "{reported:?}");
            }
            reported.join(", ")
        }
    }
}
