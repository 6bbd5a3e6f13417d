//! The readers at the edges: inputs of `fuzz/corpus` with what each comes to, and what random changes
//! of them do for `PORTCULLIS_FUZZ_SECONDS` (2), of which each reader has an eighth.
//!
//! What is random prints its `SEED=...`; the same in the environment repeats the run.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../links/changes.rs"]
mod changes;
#[path = "../links/count.rs"]
mod count;
mod growth;
mod inputs;
#[path = "../../fuzz/readers.rs"]
mod readers;

use portcullis::proto::ws::{FrameSource, WebSocketDecoder};

/// The seed of a run, printed, so that a failure can be repeated.
fn seed() -> u64 {
    let given = std::env::var("SEED").ok();
    let seed = given.map_or_else(|| fastrand::u64(..), |text| text.parse().unwrap());
    println!("SEED={seed}");
    seed
}

#[track_caller]
fn check(target: &str, rows: Vec<(&str, Vec<u8>, &str)>, read: fn(&[u8]) -> String) {
    for (name, input, comes_to) in rows {
        changes::keep(target, name, &input);
        let reported = read(&input);
        assert!(reported.ends_with(comes_to), "{name}: {reported}");
    }
    let inputs = changes::files(&format!("fuzz/corpus/{target}"));
    changes::endure(&inputs, changes::seconds() / 8.0, read);
}

#[test]
fn a_header_of_a_proxy_is_read_or_refused() {
    check("proxy", inputs::proxy(), readers::proxy);
}

#[test]
fn bytes_of_a_socks_peer_are_parsed_or_refused() {
    check("socks", inputs::socks(), readers::socks);
}

#[test]
fn a_request_passes_or_is_overwritten() {
    check("request", inputs::request(), readers::request);
}

#[test]
fn an_answer_is_read_completely_or_its_fault_is_reported() {
    check("answer", inputs::answer(), readers::answer);
}

#[test]
fn a_client_hello_is_read_or_refused() {
    check("client_hello", inputs::client_hello(), readers::client_hello);
}

#[test]
fn the_frames_of_a_client_are_read_as_another_reader_does() {
    check("web_socket", inputs::web_socket(), readers::web_socket);
}

/// The samples and the bad ones are its corpus, beside what a fuzzer has found.
#[test]
fn a_profile_loads_or_reports_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text.yaml");
    let inputs = [changes::files("profiles"), changes::files("tests/profiles/bad")].concat();
    changes::endure(&inputs, changes::seconds() / 8.0, |input| readers::profile(&file, input));
}

#[test]
fn an_admin_request_is_parsed_or_its_fault_is_reported() {
    check("admin", inputs::admin(), readers::admin);
}

/// Made by openssl once, since each key is another.
#[test]
fn a_pem_file_loads_or_reports_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text.pem");
    for (name, comes_to) in inputs::PEM {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/pem");
        let reported = readers::pem(&file, &std::fs::read(corpus.join(name)).unwrap());
        assert!(reported.contains(comes_to), "{name}: {reported}");
    }
    let inputs = changes::files("fuzz/corpus/pem");
    changes::endure(&inputs, changes::seconds() / 8.0, |input| readers::pem(&file, input));
}

#[test]
fn a_length_alone_costs_no_memory() {
    let head = [0x82, 0xff, 0, 0, 0, 0, 0x3f, 0xff, 0xff, 0xff, 1, 2, 3, 4];
    let peak = count::peak_of(|| {
        let mut decoder = WebSocketDecoder::new(FrameSource::Client { message_max: 1 << 30 });
        assert_eq!(decoder.decode(&mut head.clone(), &mut Vec::new()), 0);
        for _ in 0..1000 {
            assert_eq!(decoder.decode(&mut [0], &mut Vec::new()), 1);
        }
    });
    assert!(peak < 256, "{peak} bytes");
}
