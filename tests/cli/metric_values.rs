//! The numbers of a pair that carries requests: each name has its labels, and each value is what was done.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    thread,
};

use crate::{
    connect,
    metrics::fed,
    monitor::fetch,
    process::{SOON, TestFolder, until},
    run,
    setup::{dmz_half, internal_half},
};

/// What a scrape holds at least.
const NAMES: [(&str, &[&str]); 22] = [
    ("portcullis_build_info", &["version"]),
    ("portcullis_ready", &[]),
    ("portcullis_sessions_open", &["role", "service"]),
    ("portcullis_sessions_total", &["end", "role", "service"]),
    ("portcullis_bytes_total", &["direction", "role", "service"]),
    ("portcullis_links", &["peer", "role", "state"]),
    ("portcullis_links_wanted", &["peer", "role"]),
    ("portcullis_link_failures_total", &["peer", "role"]),
    ("portcullis_link_rtt_seconds", &["peer", "role"]),
    ("portcullis_clients_waiting", &["service"]),
    ("portcullis_wait_seconds", &["service"]),
    ("portcullis_connect_seconds", &["service"]),
    ("portcullis_http_requests_total", &["code", "service"]),
    ("portcullis_backends", &["service", "state"]),
    ("portcullis_certificate_expiry_timestamp_seconds", &["role", "use"]),
    ("portcullis_reloads_total", &["result"]),
    ("portcullis_last_reload_successful", &[]),
    ("portcullis_confined", &["role"]),
    ("process_cpu_seconds_total", &[]),
    ("process_resident_memory_bytes", &[]),
    ("process_open_fds", &[]),
    ("process_max_fds", &[]),
];

/// The labels of each name, the bounds and parts of histograms left out.
fn labels(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let series = line.rsplit_once(' ').expect("a value").0;
        let (name, inner) = series.split_once('{').unwrap_or((series, ""));
        let part = ["_bucket", "_count", "_sum"].iter().find_map(|part| name.strip_suffix(part));
        let labels = inner.trim_end_matches('}').split("\",").filter_map(|label| label.split_once("=\""));
        let labels = labels.map(|(label, _)| label.to_owned()).filter(|label| label != "le");
        found.entry(part.unwrap_or(name).to_owned()).or_default().extend(labels);
    }
    found
}

fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?.parse().ok()
}

/// Answers requests: 404 for `/missing`, else 200.
fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = listener.local_addr().expect("its address");
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut received = vec![0; 4096];
            let length = stream.read(&mut received).unwrap_or_default();
            let status =
                if received[..length].starts_with(b"GET /missing") { "404 Not Found" } else { "200 OK" };
            let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            let _ = stream.write_all(head.as_bytes());
        }
    });
    at
}

#[test]
fn each_name_has_its_labels_and_each_value_is_what_was_done() {
    let folder = TestFolder::with_certificates();
    let web = dmz_half("127.0.0.1:0", &["web"])
        .replace("tcp://", "http://")
        .replace("prepared: 2", "prepared: 2, wait: 60s");
    folder.write("dmz.yaml", &web);
    let dmz = folder.start("dmz");
    let metrics = |half: &str| {
        let socket = folder.path(&format!("run/{half}.sock")).display().to_string();
        let sent = run(&folder, &["metrics", "--text", "--admin", &socket]);
        assert_eq!(sent.code, Some(0), "{}", sent.err);
        sent.out
    };
    let until_is = |half: &str, series: &str, is_it: &dyn Fn(f64) -> bool| {
        until(series, SOON, || value(&metrics(half), series).filter(|value| is_it(*value)))
    };
    assert_eq!(
        value(
            &metrics("dmz"),
            &format!("portcullis_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))
        ),
        Some(1.0)
    );
    assert_eq!(value(&metrics("dmz"), "portcullis_ready"), Some(0.0));

    // One that has asked waits for a link.
    let mut waiting = connect(dmz.accept("web"));
    waiting.write_all(b"GET /waits HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("it is sent");
    until_is("dmz", "portcullis_clients_waiting{service=\"web\"}", &|value| value == 1.0);
    let backends =
        format!("[\"http://{}\", {{ address: \"http://{}\", standby: true }}]", backend(), backend());
    let link = format!("127.0.0.1:{}", dmz.link_port());
    let inside = internal_half(&link, &[("web", "@BACKENDS@")]).replace("\"@BACKENDS@\"", &backends);
    folder.write("internal.yaml", &inside);
    let internal = folder.start("internal");
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).expect("it is answered");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    until_is("dmz", "portcullis_clients_waiting{service=\"web\"}", &|value| value == 0.0);

    let url = format!("http://{}", dmz.accept("web"));
    for (path, expected) in [("a", 200), ("b", 200), ("missing", 404)] {
        assert_eq!(fetch(&[], &format!("{url}/{path}")).0, expected);
    }
    until_is("dmz", "portcullis_http_requests_total{service=\"web\",code=\"2xx\"}", &|value| value == 3.0);
    until_is("dmz", "portcullis_http_requests_total{service=\"web\",code=\"4xx\"}", &|value| value == 1.0);
    let inside = metrics("internal");
    for (state, count) in [("up", 1.0), ("standby", 1.0), ("down", 0.0), ("resting", 0.0)] {
        let series = format!("portcullis_backends{{service=\"web\",state=\"{state}\"}}");
        assert_eq!(value(&inside, &series), Some(count), "{state}: {inside}");
    }
    for (half, peer) in [("dmz", "internal"), ("internal", "dmz")] {
        let series = format!("portcullis_link_rtt_seconds{{role=\"{half}\",peer=\"{peer}\"}}");
        until_is(half, &series, &|seconds| seconds > 0.0 && seconds < SOON.as_secs_f64());
    }

    // Both halves together have every name, with its labels and no other.
    let mut found = labels(&metrics("dmz"));
    for (name, labels) in labels(&metrics("internal")) {
        found.entry(name).or_default().extend(labels);
    }
    for (name, expected) in NAMES {
        let expected: BTreeSet<String> = expected.iter().map(|label| (*label).to_owned()).collect();
        assert_eq!(found.get(name), Some(&expected), "{name}");
    }

    for half in ["dmz", "internal"] {
        assert_eq!(fed(&["promtool", "check", "metrics"], &metrics(half)), "", "{half}");
    }

    // Dials that fail are counted.
    let failures = "portcullis_link_failures_total{role=\"internal\",peer=\"dmz\"}";
    let before = value(&metrics("internal"), failures).expect("it is there");
    drop(dmz);
    until_is("internal", failures, &|value| value > before);
    drop(internal);
}
