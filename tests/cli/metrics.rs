//! The numbers for monitors, read by Prometheus itself and by promtool, and compared with `status`.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use regex::Regex;
use serde_json::Value;

use crate::{
    connect,
    monitor::{fetch, port},
    process::{SOON, TestFolder, until},
    run,
    setup::{dmz_half, free_port, internal_half},
};

/// Feeds a program and returns what it said, if it was content.
#[track_caller]
pub fn fed(line: &[&str], text: &str) -> String {
    let mut command = Command::new(line[0]);
    command.args(&line[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", line[0]));
    child.stdin.take().expect("its input").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let sent = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{sent}");
    sent
}

/// The value of a series in a text.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {series} in\n{text}"))
}

fn echo(at: SocketAddr, bytes: usize) {
    let mut stream = connect(at);
    stream.write_all(&vec![7; bytes]).expect("it is sent");
    stream.shutdown(std::net::Shutdown::Write).expect("it ends");
    let mut back = Vec::new();
    stream.read_to_end(&mut back).expect("it comes back");
    assert_eq!(back.len(), bytes);
}

struct Prometheus(Child, u16);

impl Prometheus {
    fn start(folder: &TestFolder, target: SocketAddr) -> Self {
        let port = free_port();
        let config = format!(
            "global: {{ scrape_interval: 200ms, scrape_timeout: 200ms }}\nscrape_configs:\n  - job_name: portcullis\n    \
             static_configs: [{{ targets: ['{target}'] }}]\n"
        );
        folder.write("prometheus.yml", &config);
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", folder.path("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", folder.path("tsdb").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.expect("prometheus starts"), port)
    }

    /// What an expression is now, if it is anything.
    fn ask(&self, expression: &str) -> Option<f64> {
        let url = format!("http://127.0.0.1:{}/api/v1/query", self.1);
        let line =
            ["-sS", "--max-time", "10", "-G", &url, "--data-urlencode", &format!("query={expression}")];
        let output = Command::new("curl").args(line).output().expect("curl runs");
        let reported: Value = serde_json::from_slice(&output.stdout).ok()?;
        reported["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The buckets of a histogram count upwards, and the last one has all.
fn expect_sorted_buckets(scraped: &str, name: &str, all: f64) {
    let of = format!("portcullis_{name}_seconds_bucket{{");
    let buckets =
        scraped.lines().filter(|line| line.starts_with(&of)).filter_map(|line| line.rsplit_once(' '));
    let counts: Vec<f64> = buckets.map(|(_, count)| count.parse().expect("a number")).collect();
    assert!(counts.len() > 5 && counts.is_sorted() && counts.last() == Some(&all), "{name}: {counts:?}");
}

#[test]
fn prometheus_reads_what_status_shows() {
    let folder = TestFolder::with_certificates();
    folder.write("dmz.yaml", &format!("health: 127.0.0.1:0\n{}", dmz_half("127.0.0.1:0", &["echo"])));
    let dmz = folder.start("dmz");
    let prometheus = Prometheus::start(&folder, port(&dmz));
    let link = format!("127.0.0.1:{}", dmz.link_port());
    folder.write("internal.yaml", &internal_half(&link, &[("echo", "echo://")]));
    let internal = folder.start("internal");
    dmz.wait_healthy();
    let at = dmz.accept("echo");
    std::thread::scope(|scope| {
        for size in 0..4 {
            scope.spawn(move || (0..25).for_each(|number| echo(at, 1 + size * 10_000 + number)));
        }
    });
    let status = dmz.wait("all have ended", SOON, |status| {
        status["totals"]["sessions_open"] == 0 && status["totals"]["sessions"] == 100
    });
    let totals = &status["totals"];
    let wanted = |name: &str| totals[name].as_f64().expect("a number");
    until("prometheus has seen all", 2 * SOON, || {
        (prometheus.ask("sum(portcullis_sessions_total)")? == wanted("sessions") + wanted("refused"))
            .then_some(())
    });
    let is = |expression: &str, expected: f64| {
        assert_eq!(prometheus.ask(expression), Some(expected), "{expression}")
    };
    is("sum(portcullis_bytes_total{direction=\"up\"})", wanted("bytes_up"));
    is("sum(portcullis_bytes_total{direction=\"down\"})", wanted("bytes_down"));
    is("portcullis_ready", 1.0);
    is("sum(portcullis_sessions_open)", 0.0);
    // Every client has waited, if only for a moment, and each histogram adds up.
    for name in ["wait", "connect"] {
        is(&format!("portcullis_{name}_seconds_count"), 100.0);
        is(&format!("portcullis_{name}_seconds_bucket{{le=\"+Inf\"}}"), 100.0);
        let expression = format!("portcullis_{name}_seconds_sum");
        assert!(prometheus.ask(&expression).is_some_and(|sum| sum > 0.0), "{expression}");
    }
    let scraped = fetch(&[], &format!("http://{}/metrics", port(&dmz))).1;
    ["wait", "connect"].iter().for_each(|name| expect_sorted_buckets(&scraped, name, 100.0));
    // Links that were dialled for the load are closed again.
    until("the links are the same", 2 * SOON, || {
        let ready = dmz.status()["pools"][0]["ready"].as_f64()?;
        let reported = prometheus.ask("portcullis_links{role=\"dmz\",peer=\"internal\",state=\"ready\"}")?;
        (reported == ready).then_some(())
    });
    let expiry =
        prometheus.ask("portcullis_certificate_expiry_timestamp_seconds{role=\"dmz\",use=\"link\"} - time()");
    assert!(expiry.is_some_and(|seconds| seconds > 86_400.0), "{expiry:?}");
    // The half without a port tells the same through its admin socket, in both forms.
    let socket = folder.path("run/internal.sock").display().to_string();
    let text = run(&folder, &["metrics", "--text", "--admin", &socket]);
    assert_eq!(text.code, Some(0), "{}", text.err);
    fed(&["promtool", "check", "metrics"], &text.out);
    let ended = "portcullis_sessions_total{role=\"internal\",service=\"echo\",end=\"--\"}";
    internal.wait("it knows the end of all", SOON, |status| status["totals"]["sessions_open"] == 0);
    assert_eq!(value(&text.out, ended), 100.0);
    let open = run(&folder, &["metrics", "--admin", &socket]);
    assert!(open.out.ends_with("# EOF\n") && value(&open.out, ended) == 100.0, "{}", open.out);
    // One that is refused is among the ends, and in no other way a session.
    let socket = folder.path("run/dmz.sock").display().to_string();
    assert_eq!(run(&folder, &["drain", "echo", "--admin", &socket]).code, Some(0));
    let refused = connect(at).read_to_end(&mut Vec::new());
    let status = dmz.wait("it is refused", SOON, |status| status["totals"]["refused"] == 1);
    assert_eq!(status["totals"]["sessions"], 100, "{refused:?}");
    until("prometheus has seen it", 2 * SOON, || {
        (prometheus.ask("sum(portcullis_sessions_total)")? == 101.0).then_some(())
    });
    is("sum(portcullis_sessions_total{end!=\"--\"})", 1.0);
}

const DIRECT: &str = "mode: direct\nhealth: 127.0.0.1:0\ndmz:\n  services:\n    \
                      echo: { accept: [\"tcp://127.0.0.1:0\"], connect: \"echo://\" }\n";

fn series(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
}

#[test]
fn no_series_names_a_client_and_promtool_finds_no_problem() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", DIRECT);
    let gateway = folder.start("one");
    let url = format!("http://{}/metrics", port(&gateway));
    let first = fetch(&[], &url).1;
    for end in ["--", "LA", "LW", "TW"] {
        let name = format!("portcullis_sessions_total{{role=\"dmz\",service=\"echo\",end=\"{end}\"}}");
        assert_eq!(value(&first, &name), 0.0, "a first increase is seen as one");
    }
    let before = series(&first);
    (0..40).for_each(|_| echo(gateway.accept("echo"), 10));
    let text = until("all are counted", SOON, || {
        let text = fetch(&[], &url).1;
        (value(&text, "portcullis_sessions_total{role=\"dmz\",service=\"echo\",end=\"--\"}") == 40.0)
            .then_some(text)
    });
    assert_eq!(series(&text), before);
    assert_eq!(fed(&["promtool", "check", "metrics"], &text), "");
    let (_, open) = fetch(&["-H", "Accept: application/openmetrics-text; version=1.0.0"], &url);
    assert!(open.contains("# TYPE portcullis_sessions counter\n") && open.ends_with("# EOF\n"), "{open}");
    let content_type = |accepted: &str| {
        let more = ["-o", "/dev/null", "-w", "%{content_type}", "-H", &format!("Accept: {accepted}")];
        let output = Command::new("curl").args(["-sS", "--max-time", "10"]).args(more).arg(&url).output();
        String::from_utf8(output.expect("curl runs").stdout).expect("UTF-8")
    };
    let open_metrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(content_type("application/openmetrics-text"), open_metrics);
    assert_eq!(content_type("text/plain"), "text/plain; version=0.0.4; charset=utf-8");
    // What came of reloads.
    let socket = folder.path("run/one.sock").display().to_string();
    assert_eq!(value(&text, "portcullis_last_reload_successful"), 1.0);
    folder.write("one.yaml", "mode: nonsense\n");
    assert_eq!(run(&folder, &["reload", "--admin", &socket]).code, Some(1));
    let failed = until("it is counted", SOON, || {
        let text = fetch(&[], &url).1;
        (value(&text, "portcullis_reloads_total{result=\"failure\"}") == 1.0).then_some(text)
    });
    assert_eq!(value(&failed, "portcullis_last_reload_successful"), 0.0);
}

#[test]
fn a_certificate_of_an_accept_is_a_series_and_so_is_a_reload_that_was_done() {
    let folder = TestFolder::with_certificates();
    let tls = "{ address: \"tls://127.0.0.1:0\", tls: { certificate: pki/dmz.pem, key: pki/dmz.key } }";
    folder.write("one.yaml", &DIRECT.replace("\"tcp://127.0.0.1:0\"", tls));
    let gateway = folder.start("one");
    let url = format!("http://{}/metrics", port(&gateway));
    let in_a_day = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs_f64() + 86_400.0;
    let expiry = "portcullis_certificate_expiry_timestamp_seconds{role=\"dmz\",use=\"accept\"}";
    assert!(value(&fetch(&[], &url).1, expiry) > in_a_day);
    let socket = folder.path("run/one.sock").display().to_string();
    assert_eq!(run(&folder, &["reload", "--admin", &socket]).code, Some(0));
    until("it is counted", SOON, || {
        let text = fetch(&[], &url).1;
        (value(&text, "portcullis_reloads_total{result=\"success\"}") == 1.0).then_some(())
    });
}

/// The names of a text, as an expression would use them.
fn described(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| Some(line.strip_prefix("# TYPE ")?.split(' ').next()?.to_owned()))
        .collect()
}

/// The upper limits of histograms.
fn bounds(text: &str) -> BTreeSet<String> {
    let bound = Regex::new("le=\"([^\"]+)\"").expect("an expression");
    bound.captures_iter(text).map(|found| found[1].to_owned()).collect()
}

fn named_in(text: &str) -> BTreeSet<String> {
    let name = Regex::new(r"\b(?:portcullis|process)_[a-z_]+").expect("an expression");
    let base = |name: &str| {
        let base = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| name.strip_suffix(suffix));
        base.unwrap_or(name).to_owned()
    };
    name.find_iter(text).map(|found| base(found.as_str())).collect()
}

#[test]
fn alerts_and_dashboard_name_only_numbers_that_there_are() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", DIRECT);
    let gateway = folder.start("one");
    let scraped = fetch(&[], &format!("http://{}/metrics", port(&gateway))).1;
    let known = described(&scraped);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| fs::read_to_string(root.join(file)).expect("the file is there");
    let dashboard = read("assets/grafana/portcullis.json");
    let parsed: Value = serde_json::from_str(&dashboard).expect("JSON");
    let panels = parsed["panels"].as_array().expect("panels");
    let expressions: Vec<_> =
        panels.iter().flat_map(|panel| panel["targets"].as_array().expect("its expressions")).collect();
    assert!(expressions.len() > 10 && expressions.iter().all(|one| one["expr"].is_string()));
    let [rules, their_test] =
        ["rules", "test"].map(|file| read(&format!("assets/prometheus/portcullis.{file}.yml")));
    let invented: Vec<_> = bounds(&their_test).difference(&bounds(&scraped)).cloned().collect();
    assert!(invented.is_empty(), "no histogram has {invented:?}");
    for (file, text) in [("dashboard", dashboard), ("rules", rules), ("their test", their_test)] {
        let unknown: Vec<_> = named_in(&text).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
    let documented = named_in(&read("docs/operate.md"));
    let missing: Vec<_> = known.difference(&documented).collect();
    assert!(missing.is_empty(), "docs/operate.md lacks {missing:?}");
    let tests = root.join("assets/prometheus");
    for line in [&["check", "rules", "portcullis.rules.yml"][..], &["test", "rules", "portcullis.test.yml"]] {
        let output = Command::new("promtool").args(line).current_dir(&tests).output().expect("promtool runs");
        assert!(output.status.success(), "{output:?}");
    }
    let named = |file: &str, key: &str| -> BTreeSet<String> {
        let text = read(&format!("assets/prometheus/{file}"));
        text.lines()
            .filter_map(|line| line.trim().strip_prefix(key))
            .map(|name| name.trim().to_owned())
            .collect()
    };
    let (alerts, tested) =
        (named("portcullis.rules.yml", "- alert:"), named("portcullis.test.yml", "alertname:"));
    assert!(!alerts.is_empty() && alerts == tested, "each alert has a test: {alerts:?}, {tested:?}");
}

/// A thousand services on one port, and one of plain bytes.
fn thousand(port: u16) -> String {
    let service = |number: u32| {
        format!(
            "    s{number}: {{ accept: [\"http://127.0.0.1:{port}/s{number}\"], connect: \"http://127.0.0.1:9\" }}\n"
        )
    };
    DIRECT.to_owned() + &(0..1000).map(service).collect::<String>()
}

/// How many are measured: `.ci/run` prints what they take of the program that is shipped.
const SCRAPES: usize = 20;

#[test]
fn a_thousand_services_are_scraped_while_sessions_go_on_and_slow_readers_block_nobody() {
    let folder = TestFolder::with_certificates();
    folder.write("many.yaml", &thousand(free_port()));
    let gateway = folder.start("many");
    let at = port(&gateway);
    let url = format!("http://{at}/metrics");
    let mut session = connect(gateway.accept("echo"));
    session.set_nodelay(true).expect("an option");
    let is_over = Arc::new(AtomicBool::new(false));
    let ends = is_over.clone();
    let pings = std::thread::spawn(move || {
        let mut longest = Duration::ZERO;
        while !ends.load(Ordering::Relaxed) {
            let began = Instant::now();
            session.write_all(b"ping").expect("it is sent");
            session.read_exact(&mut [0; 4]).expect("it comes back");
            longest = longest.max(began.elapsed());
            std::thread::sleep(Duration::from_millis(1));
        }
        longest
    });
    // Those who ask for much and read nothing, while the session goes on.
    let asks = || {
        let mut stream = connect(at);
        // Those that gave way may have been cut already.
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
        stream
    };
    let stuck: Vec<TcpStream> = (0..300).map(|_| asks()).collect();
    let mut times: Vec<_> = (0..SCRAPES)
        .map(|_| {
            let began = Instant::now();
            let (status, text) = fetch(&[], &url);
            assert!(status == 200 && text.contains("service=\"s999\""), "{status}");
            began.elapsed()
        })
        .collect();
    is_over.store(true, Ordering::Relaxed);
    let longest = pings.join().expect("every ping came back");
    times.sort();
    println!(
        "a scrape of 1,000 services, with the start of curl: {:?} in the median, {:?} at most; the longest pause of a \
         session: {longest:?}",
        times[times.len() / 2],
        times[times.len() - 1]
    );
    drop(stuck);
}

#[test]
fn a_thousand_connections_to_the_monitors_port_cost_nobody_else_anything() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", DIRECT);
    let gateway = folder.start("one");
    let (at, accept) = (port(&gateway), gateway.accept("echo"));
    let used = |status: &Value| status["descriptors"]["used"].as_u64().expect("a number");
    let before = used(&gateway.status());
    let mut session = connect(accept);
    let sent: [&[u8]; 4] = [
        b"",
        b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nX: ",
        b"\x16\x03\x01\xff\0{}",
    ];
    let mut flood = Vec::new();
    for number in 0..1000 {
        let mut stream = connect(at);
        // Those that gave way may have been cut already.
        let _ = stream.write_all(sent[number % sent.len()]);
        flood.push(stream);
        if number % 50 == 0 {
            session.write_all(b"ping").expect("it is sent");
            session.read_exact(&mut [0; 4]).expect("it comes back");
            echo(accept, 100);
        }
    }
    gateway.wait("few descriptors are open for all of them", SOON, |status| used(status) < before + 30);
    assert_eq!(fetch(&[], &format!("http://{at}/livez")), (200, "alive\n".into()));
    let status = gateway.status();
    assert_eq!((&status["totals"]["refused"], &status["log_lines_lost"]), (&0.into(), &0.into()));
    drop(flood);
}
