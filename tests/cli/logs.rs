//! What a gateway writes down: the log and the requests of clients as files that others rotate, fill and take away,
//! at a level that changes while it runs.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use aws_lc_rs::hmac;
use data_encoding::BASE64URL_NOPAD;
use regex::Regex;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    DIRECT, connect,
    monitor::fetch,
    process::{Gateway, SOON, TestFolder, until},
    run,
    setup::{dmz_half, internal_half},
};

/// The JSON lines of a file so far, where there is one.
fn lines(folder: &TestFolder, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(folder.path(name)).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect()
}

#[track_caller]
fn line_of(folder: &TestFolder, name: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    until(&format!("a line in {name}"), SOON, || lines(folder, name).into_iter().find(&is_it))
}

fn event(name: &str) -> impl Fn(&Value) -> bool {
    move |line| line["event"] == name
}

/// A session of one exchange.
fn echo(at: SocketAddr) {
    let mut client = connect(at);
    client.write_all(b"hello").expect("it is sent");
    client.read_exact(&mut [0; 5]).expect("it comes back");
}

/// Answers each request with ten bytes, but for `/cut`, of which it sends three.
fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = listener.local_addr().expect("its address");
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut received = Vec::new();
                let mut byte = [0];
                while !received.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                    received.push(byte[0]);
                }
                let sent: &[u8] = if received.starts_with(b"GET /cut") { b"012" } else { b"0123456789" };
                let head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 10\r\n\r\n";
                let _ = stream.write_all(&[head, sent].concat());
            });
        }
    });
    at
}

fn web(gateway: &Gateway<'_>) -> SocketAddr {
    let status = gateway.status();
    let at = status["services"][0]["accept"][0].as_str().expect("an address");
    at.strip_prefix("http://").expect("its scheme").trim_end_matches('/').parse().expect("host and port")
}

fn time_stamp() -> Regex {
    Regex::new(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$").expect("a pattern")
}

/// The fields of a request that the manual has.
fn documented_fields() -> BTreeSet<String> {
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operate.md");
    let manual = fs::read_to_string(manual).expect("the manual");
    let rows = manual.split("| field | is |\n|---|---|\n").nth(1).expect("its table");
    let names = rows.lines().map_while(|row| row.strip_prefix("| ")?.split(" |").next());
    names.flat_map(|names| names.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

#[test]
fn the_log_is_a_file_of_json_lines_with_stable_events() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", &format!("log: gate.json\n{DIRECT}"));
    let gateway = folder.start("one");
    echo(gateway.accept("echo"));
    let ended = line_of(&folder, "gate.json", event("session_ended"));
    let names: Vec<_> = ended.as_object().expect("an object").keys().map(String::as_str).collect();
    for name in
        ["timestamp", "level", "event", "message", "id", "service", "client", "end", "seconds", "reason"]
    {
        assert!(names.contains(&name), "no {name}: {ended}");
    }
    assert!(time_stamp().is_match(ended["timestamp"].as_str().expect("text")), "{ended}");
    assert_eq!((&ended["level"], &ended["end"]), (&"INFO".into(), &"--".into()));
    assert!(
        gateway.log().contains(" INFO session ended id="),
        "standard error has it too:\n{}",
        gateway.log()
    );
    let unnamed: Vec<_> =
        lines(&folder, "gate.json").into_iter().filter(|line| line["event"] == "library").collect();
    assert_eq!(unnamed, Vec::<Value>::new(), "each of our lines is an event");
}

#[test]
fn renamed_log_files_are_reopened_and_many_signals_do_no_harm() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", &format!("log: gate.json\n{DIRECT}"));
    let wrapper = ["sh", "-c", "umask 027; exec \"$0\" \"$@\""];
    let gateway = folder.start_as("one", &wrapper, &["--no-ui", "--profile", "one.yaml"]);
    line_of(&folder, "gate.json", event("profile_in_force"));
    fs::rename(folder.path("gate.json"), folder.path("gate.json.1")).expect("it is renamed");
    gateway.signal(Signal::USR1);
    let opened = line_of(&folder, "gate.json", event("log_reopened"));
    assert_eq!(opened["files"], 1);
    // Whoever could read the old file can read the new one.
    for name in ["gate.json.1", "gate.json"] {
        let mode = fs::metadata(folder.path(name)).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o640, "{name}");
    }
    (0..2000).for_each(|_| gateway.signal(Signal::USR1));
    echo(gateway.accept("echo"));
    line_of(&folder, "gate.json", event("session_ended"));
    assert!(lines(&folder, "gate.json.1").iter().all(|line| line["event"] != "session_ended"));
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.ended().code(), Some(0));
}

/// Whether a process catches SIGUSR1, and how many threads it has (proc_pid_status(5)).
fn caught_and_threads(pid: &str) -> Option<(bool, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let caught = u64::from_str_radix(value("SigCgt:")?, 16).ok()?;
    let bit = 1 << (Signal::USR1.as_raw() - 1);
    Some((caught & bit != 0, value("Threads:")?.parse().ok()?))
}

#[test]
fn signals_during_the_start_end_nothing() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", &format!("log: gate.json\n{DIRECT}"));
    let has_started = AtomicBool::new(false);
    // The shell becomes the gateway.
    let wrapper = ["sh", "-c", "echo $$ >pid && exec \"$0\" \"$@\""];
    let sends = || {
        let pid = until("its number", SOON, || {
            fs::read_to_string(folder.path("pid")).ok()?.strip_suffix('\n').map(str::to_owned)
        });
        let raw = Pid::from_raw(pid.parse().expect("a number")).expect("a process");
        let mut sent = 0;
        while !has_started.load(Ordering::Relaxed)
            && let Some((is_caught, threads)) = caught_and_threads(&pid)
        {
            if is_caught {
                kill_process(raw, Signal::USR1).expect("it goes on");
                sent += 1;
                thread::sleep(Duration::from_millis(1));
            }
            assert!(is_caught || threads == 1, "signals are caught before anything runs");
        }
        sent
    };
    let (gateway, sent) = thread::scope(|scope| {
        let sends = scope.spawn(sends);
        let gateway = folder.start_as("one", &wrapper, &["--no-ui", "--profile", "one.yaml"]);
        has_started.store(true, Ordering::Relaxed);
        (gateway, sends.join().expect("they are sent"))
    });
    println!("{sent} signals before it had started");
    echo(gateway.accept("echo"));
}

#[test]
fn a_file_that_takes_nothing_loses_lines_that_are_counted_and_reported() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", &format!("log: /dev/full\naccess_log: none/access.json\n{DIRECT}"));
    let gateway = folder.start("one");
    let socket = folder.path("run/one.sock").display().to_string();
    echo(gateway.accept("echo"));
    let status = gateway.wait("the loss is reported", SOON, |status| {
        status["log_lines_lost"].as_u64() > Some(0) && status["log_trouble"].is_string()
    });
    assert_eq!(status["log_trouble"], "/dev/full: No space left on device (os error 28)");
    until("the alert is reported", SOON, || {
        gateway.log().contains("log lines lost: /dev/full").then_some(())
    });
    // A reload with another file ends it.
    folder.write("one.yaml", &format!("log: gate.json\n{DIRECT}"));
    assert_eq!(run(&folder, &["reload", "--admin", &socket]).code, Some(0));
    echo(gateway.accept("echo"));
    line_of(&folder, "gate.json", event("session_ended"));
}

#[test]
fn an_access_log_on_a_full_disk_costs_its_lines_and_no_request() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", &web_profile("/dev/full", ""));
    let gateway = folder.start("one");
    let url = format!("http://{}/", web(&gateway));
    (0..3).for_each(|_| assert_eq!(fetch(&[], &url), (200, "0123456789".into())));
    let status = gateway.wait("the loss is reported", SOON, |status| status["log_lines_lost"] == 3);
    assert_eq!(status["log_trouble"], "/dev/full: No space left on device (os error 28)");
}

#[test]
fn requests_that_a_stop_cuts_are_all_in_the_access_log() {
    /// Their lines are many batches, and less than what the queue of the log holds.
    const REQUESTS: usize = 400;
    let folder = TestFolder::with_certificates();
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = silent.local_addr().expect("its address");
    thread::spawn(move || silent.incoming().map_while(Result::ok).collect::<Vec<_>>());
    let service = format!("web: {{ accept: ['http://127.0.0.1:0/'], connect: 'http://{at}/' }}");
    folder.write(
        "one.yaml",
        &format!("mode: direct\naccess_log: access.json\ndmz:\n  services:\n    {service}\n"),
    );
    let gateway = folder.start("one");
    let (at, path) = (web(&gateway), "x".repeat(1000));
    let clients = (0..REQUESTS).map(|number| {
        let mut client = connect(at);
        client
            .write_all(format!("GET /{number}/{path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes())
            .expect("it is sent");
        client
    });
    let _clients: Vec<_> = clients.collect();
    gateway.wait("all are under way", SOON, |status| status["totals"]["sessions_open"] == REQUESTS);
    gateway.signal(Signal::TERM);
    gateway.wait("it drains", SOON, |status| status["phase"] == "draining");
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.ended().code(), Some(3));
    let lines = lines(&folder, "access.json");
    assert_eq!(lines.len(), REQUESTS);
    assert!(
        lines.iter().all(|line| line["end"].as_str().is_some_and(|end| end.starts_with('O'))),
        "{}",
        lines[0]
    );
}

/// Where lines of one file are lost, the loss of another is not hidden behind it.
#[test]
fn each_file_that_loses_lines_is_named_with_its_own_count() {
    let folder = TestFolder::with_certificates();
    let fifo = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, folder.path("pipe"), fifo, mode, 0).expect("a pipe");
    folder.write("one.yaml", &format!("log: /dev/full\n{}", web_profile("pipe", "")));
    let gateway = folder.start("one");
    let url = format!("http://{}/", web(&gateway));
    (0..3).for_each(|_| assert_eq!(fetch(&[], &url).0, 200));
    let of_log = |status: &Value, cause: &str| {
        let alerts = status["alerts"].as_array()?.iter().filter(|alert| alert["kind"] == "log");
        alerts
            .filter_map(|alert| alert["text"].as_str())
            .find(|text| text.ends_with(cause))
            .map(str::to_owned)
    };
    let pipe = "pipe is a pipe that nobody reads";
    let status = gateway.wait("both are alerts", SOON, |status| {
        let is_complete = of_log(status, pipe).is_some_and(|text| text.starts_with("3 log lines lost: "));
        is_complete && of_log(status, "/dev/full: No space left on device (os error 28)").is_some()
    });
    assert_eq!(status["log_losses"].as_array().map(Vec::len), Some(2), "{status}");
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.ended().code(), Some(0));
}

/// Limits the size of the files that this gateway writes.
fn limit_file_size(gateway: &Gateway<'_>, limit: &str) {
    let pid = gateway.child.id();
    let set = Command::new("prlimit").arg(format!("--pid={pid}")).arg(format!("--fsize={limit}:")).status();
    assert!(set.expect("prlimit runs").success());
}

#[test]
fn a_line_that_was_cut_by_a_full_disk_spoils_no_other() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", &format!("log: gate.json\n{DIRECT}"));
    // Longer than anything else that is written, so that the limit is one for this file alone.
    let before = "{}\n".repeat(1 << 20);
    folder.write("gate.json", &before);
    // A file that is too long is an error like a full disk: part of a line is still written.
    let ignores = ["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"];
    let gateway = folder.start_as("one", &ignores, &["--no-ui", "--profile", "one.yaml"]);
    let text = || fs::read_to_string(folder.path("gate.json")).expect("the log");
    echo(gateway.accept("echo"));
    let ended = |text: &str| text.matches("\"session_ended\"").count();
    until("the first session has its lines", SOON, || (ended(&text()) == 1).then_some(()));
    limit_file_size(&gateway, &(text().len() + 40).to_string());
    echo(gateway.accept("echo"));
    let status =
        gateway.wait("the loss is reported", SOON, |status| status["log_lines_lost"].as_u64() > Some(0));
    let reason = status["log_trouble"].as_str().expect("a reason").to_owned();
    assert!(reason.ends_with("gate.json: File too large (os error 27)"), "{reason}");
    limit_file_size(&gateway, "unlimited");
    let lines = || text()[before.len()..].lines().map(str::to_owned).collect::<Vec<_>>();
    let read = |line: &String| serde_json::from_str::<Value>(line).ok();
    let lines = until("the loss has its line", SOON, || {
        echo(gateway.accept("echo"));
        let lines = lines();
        lines.iter().filter_map(read).any(|line| line["event"] == "lines_lost").then_some(lines)
    });
    let cut: Vec<_> = (0..lines.len()).filter(|&at| read(&lines[at]).is_none()).collect();
    let [cut] = cut[..] else { panic!("not one line is cut: {cut:?} of {lines:?}") };
    assert_eq!(lines[cut].len(), 40, "{lines:?}");
    assert_eq!(read(&lines[cut + 1]).expect("JSON")["event"], "lines_lost", "{lines:?}");
    assert!(!lines.iter().any(String::is_empty), "{lines:?}");
}

#[test]
fn the_level_changes_while_it_runs_and_a_link_is_then_a_line() {
    let folder = TestFolder::with_certificates();
    folder.write("dmz.yaml", &format!("log: dmz.json\n{}", dmz_half("127.0.0.1:0", &["echo"])));
    let dmz = folder.start("dmz");
    let socket = folder.path("run/dmz.sock").display().to_string();
    let level = |level: &str| run(&folder, &["log-level", level, "--admin", &socket]);
    let refused = level("debgu");
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.err.contains("`debgu` is not a log level; write error, warn, info, debug"),
        "{}",
        refused.err
    );
    let link = format!("127.0.0.1:{}", dmz.link_port());
    folder.write(
        "internal.yaml",
        &format!("log: internal.json\n{}", internal_half(&link, &[("echo", "echo://")])),
    );
    let internal = folder.start("internal");
    dmz.wait_healthy();
    let line_count = |name: &str| lines(&folder, "dmz.json").into_iter().filter(event(name)).count();
    assert_eq!((line_count("link_up"), line_count("link_down")), (0, 0), "the level is info");
    assert_eq!(level("debug").code, Some(0));
    let links_up = || {
        let pool = &dmz.status()["pools"][0];
        ["ready", "carrying"].into_iter().map(|links| pool[links].as_u64().unwrap_or(0)).sum::<u64>() as usize
    };
    // One line for each link that goes, and for each that comes.
    let before = links_up();
    drop(internal);
    until("a line for each", SOON, || {
        (links_up() == 0 && line_count("link_down") == before + line_count("link_up")).then_some(())
    });
    let debug = ["env", "PORTCULLIS_LOG=debug"];
    let internal = folder.start_as("internal", &debug, &["--no-ui", "--profile", "internal.yaml"]);
    dmz.wait_healthy();
    until("a line for each", SOON, || {
        (line_count("link_up") + before == links_up() + line_count("link_down")).then_some(())
    });
    let up = line_of(&folder, "dmz.json", event("link_up"));
    assert!(up["level"] == "DEBUG" && up["address"].is_string(), "{up}");
    let about = ["role", "peer", "protocol", "tls"].map(|field| up[field].as_str().unwrap_or("missing"));
    assert_eq!(about, ["dmz", "internal", "portcullis/2", "TLS 1.3"], "{up}");
    let up = line_of(&folder, "internal.json", event("link_up"));
    let about = ["role", "peer", "protocol", "tls"].map(|field| up[field].as_str().unwrap_or("missing"));
    assert_eq!(about, ["internal", "dmz", "portcullis/2", "TLS 1.3"], "{up}");
    let rows = internal.status()["pools"][0]["links"].clone();
    assert!(rows.as_array().is_some_and(|rows| rows.iter().any(|row| row["id"] == up["id"])), "{up} {rows}");
    let down = line_of(&folder, "dmz.json", event("link_down"));
    assert!(down["id"].is_u64() && down["role"] == "dmz" && down["peer"] == "internal", "{down}");
    let asked = line_of(&folder, "dmz.json", |line| line["event"] == "operator" && line["outcome"] == "done");
    assert_eq!((&asked["kind"], &asked["asked"]), (&"log-level".into(), &"log level `debug`".into()));
    assert_eq!(level("error").code, Some(0));
}

#[test]
fn each_request_is_a_line_without_its_query_and_with_its_end() {
    let folder = TestFolder::with_certificates();
    let backend = backend();
    let manual = documented_fields();
    let profile = format!(
        "mode: direct\naccess_log: access.json\ndmz:\n  services:\n    web: {{ accept: ['http://127.0.0.1:0/'], \
         connect: 'http://{backend}/' }}\n"
    );
    folder.write("one.yaml", &profile);
    let gateway = folder.start("one");
    let (at, socket) = (web(&gateway), folder.path("run/one.sock").display().to_string());
    assert_eq!(fetch(&["-d", "four"], &format!("http://{at}/a?secret=1")), (200, "0123456789".into()));
    let line = line_of(&folder, "access.json", |line| line["path"] == "/a");
    let fields: BTreeSet<_> = line.as_object().expect("an object").keys().cloned().collect();
    assert_eq!((&fields, fields.len()), (&manual, 14), "the fields of the manual");
    assert!(time_stamp().is_match(line["time"].as_str().expect("text")), "{line}");
    assert_eq!(line["client"], "127.0.0.1");
    assert_eq!((&line["method"], &line["status"]), (&"POST".into(), &200.into()), "{line}");
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&4.into(), &10.into()), "{line}");
    assert_eq!((&line["service"], &line["end"], &line["user"]), (&"web".into(), &"--".into(), &Value::Null));
    assert_eq!(line["backend"], format!("http://{backend}"));
    let [first, all] = ["first_byte_seconds", "seconds"].map(|name| line[name].as_f64().expect("a number"));
    assert!(first <= all, "{line}");
    let session = line["session"].as_str().expect("an id").to_owned();
    gateway.wait("the session is the log's", SOON, |status| {
        status["ended"].as_array().is_some_and(|ended| ended.iter().any(|row| row["id"] == session.as_str()))
    });
    // One that its backend cuts, and one that nobody serves.
    let mut client = TcpStream::connect(at).expect("the port is open");
    client.write_all(b"GET /cut HTTP/1.1\r\nHost: a\r\n\r\n").expect("it is sent");
    let _ = client.read_to_end(&mut Vec::new());
    let line = line_of(&folder, "access.json", |line| line["path"] == "/cut");
    assert_eq!((&line["status"], &line["bytes_out"]), (&200.into(), &3.into()), "{line}");
    assert!(line["end"].as_str().is_some_and(|end| end.starts_with('B')), "{line}");
    let text = fs::read_to_string(folder.path("access.json")).expect("it is there");
    assert!(!text.contains("secret"), "{text}");
    // The same as web servers write it.
    let combined = profile.replace("access.json", "{ file: access.log, format: combined }");
    folder.write("one.yaml", &combined);
    assert_eq!(run(&folder, &["reload", "--admin", &socket]).code, Some(0));
    assert_eq!(
        fetch(&["-A", "an \"agent\"", "-e", "http://b/?x=secret"], &format!("http://{at}/b?secret=1")).0,
        200
    );
    let form = r#"^127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000\] "GET /b HTTP/1\.1" 200 10 "http://b/" "an \\"agent\\""\n$"#;
    let text = until("its line", SOON, || {
        fs::read_to_string(folder.path("access.log")).ok().filter(|text| text.ends_with('\n'))
    });
    assert!(Regex::new(form).expect("a pattern").is_match(&text), "{text}");
}

#[test]
fn the_backend_of_each_request_is_the_one_that_it_went_to() {
    let folder = TestFolder::with_certificates();
    let backends = [backend(), backend()].map(|at| format!("http://{at}"));
    let [one, other] = &backends;
    let profile = format!(
        "mode: direct\naccess_log: access.json\ndmz:\n  services:\n    web: {{ accept: ['http://127.0.0.1:0/'], \
         connect: ['{one}', '{other}'] }}\n"
    );
    folder.write("one.yaml", &profile);
    let gateway = folder.start("one");
    let at = web(&gateway);
    for path in ["/1", "/2"] {
        assert_eq!(fetch(&[], &format!("http://{at}{path}")).0, 200);
    }
    let mut named = ["/1", "/2"].map(|path| {
        let line = line_of(&folder, "access.json", |line| line["path"] == path);
        let session = line["session"].clone();
        let row = gateway.wait("its session has ended", SOON, |status| {
            status["ended"].as_array().is_some_and(|rows| rows.iter().any(|row| row["id"] == session))
        });
        let rows = row["ended"].as_array().expect("rows").clone();
        let ended = rows.into_iter().find(|row| row["id"] == session).expect("its row");
        assert_eq!(ended["backend"], line["backend"]);
        line["backend"].as_str().expect("an address").to_owned()
    });
    let mut all = backends.clone();
    named.sort_unstable();
    all.sort_unstable();
    assert_eq!(named, all);
}

#[test]
fn an_answer_that_the_other_half_makes_ends_in_the_access_log_as_its_session() {
    let folder = TestFolder::with_certificates();
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let dmz = dmz_half("127.0.0.1:0", &["web"]).replace("tcp://127.0.0.1:0", "http://127.0.0.1:0/");
    folder.write("dmz.yaml", &format!("access_log: access.json\n{dmz}"));
    let dmz = folder.start("dmz");
    let link = format!("127.0.0.1:{}", dmz.link_port());
    let backend = format!("http://{}\", answer: \"300ms", silent.local_addr().expect("its address"));
    folder.write("internal.yaml", &internal_half(&link, &[("web", &backend)]));
    let _internal = folder.start("internal");
    assert_eq!(fetch(&["--max-time", "20"], &format!("http://{}/late", web(&dmz))).0, 504);
    let line = line_of(&folder, "access.json", |line| line["path"] == "/late");
    let ended = dmz.wait("its session has ended", SOON, |status| {
        status["ended"].as_array().is_some_and(|rows| rows.iter().any(|row| row["id"] == line["session"]))
    });
    let rows = ended["ended"].as_array().expect("rows");
    let row = rows.iter().find(|row| row["id"] == line["session"]).expect("its row");
    assert_eq!((&line["status"], &line["end"]), (&504.into(), &row["end"]), "{line} {row}");
    assert_eq!(row["end"], "TR");
    assert_eq!(line["backend"], Value::Null, "this half never learns it");
}

#[test]
fn the_request_of_a_websocket_is_written_when_it_ends() {
    let folder = TestFolder::with_certificates();
    let profile = "mode: direct\naccess_log: access.json\ndmz:\n  services:\n    echo: { accept: ['ws://127.0.0.1:0/'], \
                   connect: 'echo://' }\n";
    folder.write("one.yaml", profile);
    let gateway = folder.start("one");
    let status = gateway.status();
    let at = status["services"][0]["accept"][0].as_str().expect("an address");
    let at: SocketAddr =
        at.strip_prefix("ws://").expect("its scheme").trim_end_matches('/').parse().expect("an address");
    let mut client = connect(at);
    let request = "GET /chat?secret=1 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(request.as_bytes()).expect("it is sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).expect("it is answered");
        head.push(byte[0]);
    }
    // A message of five bytes, masked by zeros; it comes back without a mask.
    client.write_all(b"\x82\x85\0\0\0\0hello").expect("it is sent");
    client.read_exact(&mut [0; 7]).expect("it comes back");
    assert_eq!(lines(&folder, "access.json"), Vec::<Value>::new(), "it goes on");
    drop(client);
    let line = line_of(&folder, "access.json", |line| line["path"] == "/chat");
    assert_eq!((&line["status"], &line["service"]), (&101.into(), &"echo".into()), "{line}");
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&5.into(), &5.into()), "{line}");
    assert!(line["session"].is_string() && line["end"].is_string(), "{line}");
}

/// A service of requests in direct mode, whose access log is this.
fn web_profile(access_log: &str, more: &str) -> String {
    format!(
        "mode: direct\naccess_log: {access_log}\ndmz:\n  services:\n    web: {{ accept: ['http://127.0.0.1:0/'], \
         connect: 'http://{}'{more} }}\n",
        backend()
    )
}

#[test]
fn a_client_that_is_known_is_named_in_both_forms() {
    let folder = TestFolder::with_certificates();
    folder.write("users", "alice:$2b$04$mPxoEKurFJxN9brGFUz.KuNr8BQiL0MNMI93eNTwce6AL7yg70siS\n");
    fs::set_permissions(folder.path("users"), fs::Permissions::from_mode(0o600)).expect("a mode");
    let auth = ", auth: { basic: users, realm: web }";
    folder.write("one.yaml", &web_profile("access.json", auth));
    let gateway = folder.start("one");
    let url = |path: &str| format!("http://{}/{path}", web(&gateway));
    assert_eq!(fetch(&["-u", "alice:s3cret"], &url("known")).0, 200);
    let line = line_of(&folder, "access.json", |line| line["path"] == "/known");
    assert_eq!((&line["user"], &line["status"]), (&"alice".into(), &200.into()), "{line}");
    assert!(line["first_byte_seconds"].is_f64() && line["seconds"].is_f64(), "{line}");
    // A name that was not proven is nobody's.
    assert_eq!(fetch(&["-u", "alice:wrong"], &url("unknown")).0, 401);
    let line = line_of(&folder, "access.json", |line| line["path"] == "/unknown");
    assert_eq!((&line["user"], &line["status"]), (&Value::Null, &401.into()), "{line}");
    folder.write("one.yaml", &web_profile("{ file: access.log, format: combined }", auth));
    let socket = folder.path("run/one.sock").display().to_string();
    assert_eq!(run(&folder, &["reload", "--admin", &socket]).code, Some(0));
    assert_eq!(fetch(&["-u", "alice:s3cret"], &url("known")).0, 200);
    let text = until("its line", SOON, || {
        fs::read_to_string(folder.path("access.log")).ok().filter(|text| text.ends_with('\n'))
    });
    assert!(
        text.starts_with("127.0.0.1 - alice [") && text.contains("\"GET /known HTTP/1.1\" 200"),
        "{text}"
    );
}

#[test]
fn the_access_log_can_go_to_standard_error_with_journal_priorities() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", &web_profile("stderr", ""));
    for (name, is_journal) in [("plain", false), ("journal", true)] {
        let log =
            File::create(folder.path(&format!("{name}.log"))).expect("a log").metadata().expect("its number");
        let stream = match is_journal {
            true => format!("JOURNAL_STREAM={}:{}", log.dev(), log.ino()),
            false => "JOURNAL_STREAM=1:1".into(),
        };
        let gateway = folder.start_as(name, &["env", &stream], &["--no-ui", "--profile", "one.yaml"]);
        assert_eq!(fetch(&[], &format!("http://{}/a?secret=1", web(&gateway))).0, 200);
        let line = until("its line", SOON, || {
            let log = gateway.log();
            log.lines().find(|line| line.contains("\"path\":\"/a\"")).map(str::to_owned)
        });
        let line = match is_journal {
            true => line.strip_prefix("<6>").expect("its priority"),
            false => &line,
        };
        let line: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!((&line["status"], &line["service"]), (&200.into(), &"web".into()), "{line}");
        assert!(!gateway.log().contains("secret"), "{}", gateway.log());
    }
}

#[test]
fn a_signal_also_reopens_the_access_log_and_the_audit() {
    let folder = TestFolder::with_certificates();
    let keys = "log: gate.json\naudit: audit.jsonl\n";
    folder.write("one.yaml", &format!("{keys}{}", web_profile("access.json", "")));
    let gateway = folder.start("one");
    let url = format!("http://{}", web(&gateway));
    assert_eq!(fetch(&[], &format!("{url}/before")).0, 200);
    line_of(&folder, "access.json", |line| line["path"] == "/before");
    line_of(&folder, "audit.jsonl", |line| line["action"] == "start");
    line_of(&folder, "gate.json", event("profile_in_force"));
    for file in ["gate.json", "access.json", "audit.jsonl"] {
        fs::rename(folder.path(file), folder.path(&format!("{file}.1"))).expect("it is renamed");
    }
    gateway.signal(Signal::USR1);
    assert_eq!(line_of(&folder, "gate.json", event("log_reopened"))["files"], 3);
    assert_eq!(fetch(&[], &format!("{url}/after")).0, 200);
    line_of(&folder, "access.json", |line| line["path"] == "/after");
    line_of(&folder, "audit.jsonl", |line| line["action"] == "signal");
    assert!(lines(&folder, "access.json.1").iter().all(|line| line["path"] != "/after"));
}

/// Neither what a client says to prove who it is, nor what proves who the gateway is, good or bad, at any level.
#[test]
fn no_credential_is_written_anywhere() {
    let folder = TestFolder::with_certificates();
    let secret = BASE64URL_NOPAD.encode(b"a secret of thirty-two bytes, no");
    let files = [
        ("users", "alice:$2b$04$mPxoEKurFJxN9brGFUz.KuNr8BQiL0MNMI93eNTwce6AL7yg70siS\n".to_owned()),
        ("jwks.json", format!("{{\"keys\":[{{\"kty\":\"oct\",\"kid\":\"one\",\"k\":\"{secret}\"}}]}}")),
    ];
    for (name, text) in files {
        folder.write(name, &text);
        fs::set_permissions(folder.path(name), fs::Permissions::from_mode(0o600)).expect("a mode");
    }
    let at = backend();
    let jwt = "{ keys: jwks.json, issuer: here, audience: web, from: [header, 'cookie:token', 'query:access_token'] }";
    folder.write(
        "one.yaml",
        &format!(
            "mode: direct\nlog: gate.json\naccess_log: access.json\naudit: audit.jsonl\ndmz:\n  services:\n    \
             named: {{ accept: [{{ address: 'https://127.0.0.1:0', tls: {{ certificate: pki/dmz.pem, key: pki/dmz.key \
             }} }}], connect: 'http://{at}', auth: {{ basic: users }} }}\n    \
             signed: {{ accept: ['http://127.0.0.1:0'], connect: 'http://{at}', auth: {{ jwt: {jwt} }} }}\n"
        ),
    );
    let gateway = folder.start("one");
    let socket = folder.path("run/one.sock").display().to_string();
    assert_eq!(run(&folder, &["log-level", "debug", "--admin", &socket]).code, Some(0));
    let named = format!("https://{}/named", gateway.accept("named"));
    for (login, status) in [("alice:s3cret", 200), ("alice:wr0ng-0ne", 401), ("n0b0dy:s3cret", 401)] {
        assert_eq!(fetch(&["-k", "-u", login], &named).0, status, "{login}");
    }
    let signed = format!("http://{}/signed", gateway.accept("signed"));
    let head = BASE64URL_NOPAD.encode(br#"{"alg":"HS256","kid":"one"}"#);
    let claims = |ends: &str| {
        let claims = format!("{{\"iss\":\"here\",\"aud\":\"web\",\"sub\":\"bob\",\"exp\":{ends}}}");
        BASE64URL_NOPAD.encode(claims.as_bytes())
    };
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"a secret of thirty-two bytes, no");
    let token = |ends: &str| {
        let text = format!("{head}.{}", claims(ends));
        format!("{text}.{}", BASE64URL_NOPAD.encode(hmac::sign(&key, text.as_bytes()).as_ref()))
    };
    for (ends, status) in [("4000000000", 200), ("1000000000", 401)] {
        let token = token(ends);
        assert_eq!(fetch(&["-H", &format!("Authorization: Bearer {token}")], &signed).0, status);
        assert_eq!(fetch(&["-b", &format!("token={token}")], &signed).0, status);
        assert_eq!(fetch(&[], &format!("{signed}?access_token={token}")).0, status);
    }
    assert_eq!(fetch(&["-H", "Authorization: Bearer n0-t0ken"], &signed).0, 401);
    line_of(&folder, "access.json", |line| line["path"] == "/signed" && line["user"] == "bob");
    let last = |line: &Value| line["event"] == "session_refused" || line["event"] == "session_ended";
    line_of(&folder, "gate.json", last);
    run(&folder, &["reload", "--admin", &socket]);
    let private = fs::read_to_string(folder.path("pki/dmz.key")).expect("a key");
    let private = private.lines().nth(1).expect("its first line");
    let status = gateway.status().to_string();
    run(&folder, &["stop", "--admin", &socket]);
    gateway.ended();
    let texts = ["gate.json", "access.json", "audit.jsonl", "one.log"].map(|name| {
        let text = fs::read_to_string(folder.path(name)).expect("it is there");
        assert!(text.contains("alice") || !name.starts_with("access"), "{name} tells of them: {text}");
        (name, text)
    });
    for (name, text) in texts.into_iter().chain([("status", status)]) {
        for canary in
            ["s3cret", "wr0ng-0ne", "czNjcmV0", "YWxpY2U6", "n0-t0ken", &head, &secret, "$2b$", private]
        {
            assert!(!text.contains(canary), "{canary} in {name}: {text}");
        }
    }
}
