//! The work of a reader grows as its input does, not as its square: one that is eight times as long takes about eight
//! times as long. Both are measured in one run, in turn and in time of the processor, and the least of several turns
//! counts, so that nothing else that a machine does makes a difference.

use std::{hint::black_box, time::Duration};

use portcullis::{
    admin::protocol::AdminRequest,
    http::strict_framing::RequestChecker,
    profile::{self, ProfileOverrides},
    proto::ws::{FrameSource, WebSocketDecoder},
    tls::client_hello::ClientHelloReader,
};
use rustix::time::{ClockId, clock_gettime};

use crate::inputs;

const LONGER: usize = 8;
/// A square would make it 64.
const TIMES_MAX: f64 = 16.0;
const TURNS: usize = 7;
/// What is measured takes at least as long as this.
const MEASURED: Duration = Duration::from_millis(2);

/// The time that this thread has had of a processor.
fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn cost(input: &[u8], times: u32, read: &dyn Fn(&[u8])) -> f64 {
    let began = processor_time();
    (0..times).for_each(|_| read(black_box(input)));
    (processor_time() - began).as_secs_f64()
}

/// `input` makes one of this many parts.
#[track_caller]
fn grows_evenly(what: &str, parts: usize, input: impl Fn(usize) -> Vec<u8>, read: impl Fn(&[u8])) {
    let (short, long) = (input(parts), input(parts * LONGER));
    let mut times = 1;
    while cost(&short, times, &read) < MEASURED.as_secs_f64() {
        times *= 2;
    }
    let (mut least_short, mut least_long) = (f64::MAX, f64::MAX);
    for _ in 0..TURNS {
        least_short = least_short.min(cost(&short, times, &read));
        least_long = least_long.min(cost(&long, times, &read));
    }
    let ratio = least_long / least_short;
    let (short, long) = (short.len(), long.len());
    println!("| {what} | {short} bytes | {long} bytes | {ratio:.1} times |");
    assert!(ratio < TIMES_MAX, "{what}: {long} bytes take {ratio:.1} times as long as {short}");
}

/// Byte by byte, as the slowest of clients sends it.
fn check_request(input: &[u8]) {
    let mut checker = RequestChecker::default();
    for byte in input {
        checker.check(&mut [*byte]);
    }
}

#[test]
fn requests_of_any_length_take_as_long_as_their_bytes() {
    let request =
        |fields: &str, body: &str| format!("POST /a HTTP/1.1\r\nHost: h\r\n{fields}\r\n{body}").into_bytes();
    grows_evenly("requests", 60, |count| request("", "").repeat(count), check_request);
    grows_evenly("fields of a head", 100, |count| request(&"A: b\r\n".repeat(count), ""), check_request);
    grows_evenly(
        "a field",
        2000,
        |count| request(&format!("A: {}\r\n", "b".repeat(count)), ""),
        check_request,
    );
    let chunked = "Transfer-Encoding: chunked\r\n";
    grows_evenly("chunks", 200, |count| request(chunked, &"1\r\na\r\n".repeat(count)), check_request);
    let target = |count| format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a?#\"".repeat(count)).into_bytes();
    grows_evenly("a target", 500, target, check_request);
}

#[test]
fn frames_of_any_number_take_as_long_as_their_bytes() {
    let read = |input: &[u8]| {
        let mut decoder = WebSocketDecoder::new(FrameSource::Client { message_max: 1 << 20 });
        for byte in input {
            decoder.decode(&mut [*byte], &mut Vec::new());
        }
    };
    let frames = |first: u8, body: &'static [u8]| move |count| inputs::frame(first, body).repeat(count);
    grows_evenly("messages", 200, frames(0x82, b"ab"), read);
    grows_evenly("pings", 200, frames(0x89, b"ab"), read);
    let pieces =
        |count| [inputs::frame(0x01, b"a"), inputs::frame(0x00, "é".as_bytes()).repeat(count)].concat();
    grows_evenly("pieces of a text", 200, pieces, read);
}

/// A record for each byte, each of them at a time.
#[test]
fn a_hello_in_any_number_of_records_takes_as_long_as_its_bytes() {
    let hello = |count: usize| {
        let filler = inputs::extension(21, &vec![0; count]);
        let whole = inputs::hello(&[filler, inputs::server_name("shop.example"), inputs::algorithms()]);
        whole.iter().flat_map(|byte| inputs::record(22, &[*byte])).collect::<Vec<_>>()
    };
    let read = |input: &[u8]| {
        let mut reader = ClientHelloReader::default();
        for byte in input {
            if !matches!(reader.feed(&[*byte]), Ok(None)) {
                return;
            }
        }
    };
    grows_evenly("a hello", 150, hello, read);
}

#[test]
fn a_profile_of_any_length_takes_as_long_as_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text.yaml");
    let services = |count: usize| {
        let service = |at| format!("    s{at}: {{ accept: ['tcp://127.0.0.1:0'], connect: 'echo://' }}\n");
        let all: String = (0..count).map(service).collect();
        format!("mode: direct\ndmz:\n  services:\n{all}").into_bytes()
    };
    let unknown = |count: usize| {
        let all: String = (0..count).map(|at| format!("k{at}: 1\n")).collect();
        format!("mode: direct\n{all}").into_bytes()
    };
    let read = |input: &[u8]| {
        std::fs::write(&file, input).unwrap();
        black_box(profile::load(&file, &ProfileOverrides::default()).is_ok());
    };
    grows_evenly("services of a profile", 40, services, read);
    grows_evenly("keys that are no keys", 100, unknown, read);
}

#[test]
fn a_request_of_an_operator_takes_as_long_as_its_bytes() {
    let read = |input: &[u8]| drop(black_box(AdminRequest::parse(input)));
    let named = |count| format!("{{\"kill\":{{\"session\":\"{}\"}}}}", "x\\n".repeat(count)).into_bytes();
    grows_evenly("a request", 500, named, read);
    let listed = |count| {
        let sessions = vec!["\"00a1\""; count].join(",");
        format!("{{\"killall\":{{\"listed\":{{\"sessions\":[{sessions}],\"by\":\"x\"}}}}}}").into_bytes()
    };
    grows_evenly("a list", 200, listed, read);
}
