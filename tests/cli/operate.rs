//! Commands to a running gateway.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixListener,
    },
    process::Stdio,
};

use serde_json::Value;

use crate::{
    DIRECT, connect, is_reset, output_of,
    process::{SOON, TestFolder},
    run,
    setup::Pair,
};

fn echo(stream: &mut (impl Read + Write), text: &[u8]) {
    stream.write_all(text).expect("it is sent");
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).expect("it comes back");
    assert_eq!(answer, text);
}

/// Whether `row` has each field with its type: s(tring), n(umber), l(ist), o(bject), `?` or null.
#[track_caller]
fn has(row: &Value, fields: &str) {
    for field in fields.split_whitespace() {
        let (name, kind) = field.split_once(':').expect("NAME:TYPE");
        let value = row.get(name).unwrap_or_else(|| panic!("no field `{name}` in {row:#}"));
        let right = match kind.trim_end_matches('?') {
            "s" => value.is_string(),
            "n" => value.is_number(),
            "u" => value.is_u64(),
            "l" => value.is_array(),
            "o" => value.is_object(),
            other => panic!("no such type {other}"),
        };
        assert!(right || (kind.ends_with('?') && value.is_null()), "`{name}` is {value}");
    }
}

#[test]
fn an_answer_as_json_says_whether_it_was_done() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", DIRECT);
    let gateway = folder.start("one");
    let socket = folder.path("run/one.sock").display().to_string();
    let ask = |args: &[&str]| {
        let output = run(&folder, &[args, &["--json", "--admin", &socket]].concat());
        assert_eq!(output.err, "", "{args:?}");
        (output.code, serde_json::from_str::<Value>(&output.out).expect("JSON"))
    };
    for (args, is_done) in [
        (&["log-level", "debug"][..], true),
        (&["log-level", "debgu"], false),
        (&["reload"], true),
        (&["switch", "--plan", "one.yaml"], true),
        (&["switch", "missing.yaml"], false),
        (&["kill", "--service", "echo"], true),
        (&["kill", "nobody"], false),
        (&["dismiss", "nobody"], false),
        (&["lockdown", "echo"], false),
        (&["drain", "echo"], true),
        (&["stop"], true),
        // Nobody answers any more.
        (&["reload"], false),
    ] {
        let (code, answer) = ask(args);
        assert_eq!(
            (code, &answer["done"]),
            (Some(i32::from(!is_done)), &is_done.into()),
            "{args:?}: {answer}"
        );
        assert!(answer["text"].as_str().is_some_and(|text| !text.is_empty()), "{args:?}: {answer}");
    }
    assert_eq!(gateway.ended().code(), Some(0));
}

#[test]
fn status_has_every_promised_field() {
    let folder = TestFolder::with_certificates();
    let pair = Pair::reverse(&folder, &[("echo", "echo://")]);
    let (mut ended, mut open) = (connect(pair.dmz.accept("echo")), connect(pair.dmz.accept("echo")));
    echo(&mut ended, b"five!");
    echo(&mut open, b"seven!!");
    ended.shutdown(std::net::Shutdown::Write).expect("it is half closed");
    assert_eq!(ended.read(&mut [0]).expect("a clean end"), 0);
    for gateway in [&pair.dmz, &pair.internal] {
        let status = gateway.wait("one session ended, one open", SOON, |status| {
            status["totals"]["sessions_open"] == 1 && status["ended"].as_array().is_some_and(|e| e.len() == 1)
        });
        has(
            &status,
            "version:s profile:s mode:s roles:l phase:s uptime_seconds:n listening:l totals:o services:l pools:l sessions:l ended:l",
        );
        has(&status["totals"], "sessions_open:u sessions:u refused:u bytes_up:u bytes_down:u");
        has(
            &status["services"][0],
            "role:s name:s accept:l connect:s? phase:s sessions_open:u sessions:u refused:u bytes_up:u bytes_down:u",
        );
        has(
            &status["pools"][0],
            "role:s service:s peer:s address:s state:s ready:u carrying:u dialling:u target:u waiting:u misses:u failures:u last_error:s? sessions:u instance:s protocol:s",
        );
        has(
            &status["sessions"][0],
            "id:s role:s service:s client:s peer:s phase:s age_seconds:n idle_seconds:n bytes_up:u bytes_down:u",
        );
        has(&status["ended"][0], "id:s service:s client:s end:s seconds:n bytes_up:u bytes_down:u");
        assert_eq!(status["phase"], "running");
        assert_eq!(status["mode"], "reverse");
        assert_eq!(status["totals"]["sessions"], 2);
        assert_eq!(status["totals"]["bytes_up"], 12);
        assert_eq!(status["sessions"][0]["phase"], "relaying");
        assert_eq!(status["sessions"][0]["bytes_down"], 7);
        assert_eq!(status["sessions"][0]["client"], open.local_addr().expect("an address").to_string());
        assert_eq!(status["ended"][0]["end"], "--");
        let pool = &status["pools"][0];
        // Its link takes further sessions.
        assert_eq!((&pool["sessions"], &pool["carrying"]), (&1.into(), &0.into()));
        assert_eq!(pool["protocol"], "portcullis/2");
        assert_eq!(pool["instance"].as_str().map(str::len), Some(32));
        let via = &status["sessions"][0]["via"];
        let carries = |link: &&Value| link["sessions_open"] == 1;
        let link = pool["links"].as_array().and_then(|links| links.iter().find(carries));
        assert_eq!(link.map(|link| &link["id"]), Some(via));
    }
    let (dmz, internal) = (pair.dmz.status(), pair.internal.status());
    assert_eq!((&dmz["roles"][0], &internal["roles"][0]), (&"dmz".into(), &"internal".into()));
    assert_eq!((&dmz["profile"], &internal["profile"]), (&"dmz".into(), &"internal".into()));
    assert_eq!(dmz["pools"][0]["address"], "127.0.0.1");
    assert_eq!(dmz["pools"][0]["peer"], "internal");
    assert_eq!(internal["pools"][0]["peer"], "dmz");
    assert_eq!(internal["listening"], serde_json::json!([]));
    assert_eq!(internal["services"][0]["connect"], "echo://");
    assert_eq!(dmz["services"][0]["connect"], Value::Null);
    let text = run(&folder, &["status", "--admin", "run/dmz.sock"]);
    assert_eq!(text.code, Some(0), "{}", text.err);
    assert!(text.out.contains("echo") && text.out.contains("running"), "{}", text.out);
}

#[test]
fn sockets_have_their_names_and_their_owner_only() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", DIRECT);
    let subfolder = folder.path("run/portcullis");
    let start = |args: &[&str]| {
        let mut command = folder.command(args);
        command.stderr(std::process::Stdio::null());
        Killed(command.spawn().expect("it starts"))
    };
    let answers = |name: &str| {
        let path = subfolder.join(name);
        crate::until(name, SOON, || std::os::unix::net::UnixStream::connect(&path).ok());
        let facts = path.metadata().expect("it is there");
        assert!(facts.file_type().is_socket());
        assert_eq!(facts.permissions().mode() & 0o777, 0o600, "{name}");
        path
    };
    // A socket that nobody answers is replaced.
    fs::create_dir(&subfolder).expect("a folder");
    drop(UnixListener::bind(subfolder.join("one.sock")).expect("a stale socket"));
    fs::set_permissions(&subfolder, fs::Permissions::from_mode(0o700)).expect("a mode");
    let _first = start(&["--no-ui", "--profile", "one.yaml"]);
    let first = answers("one.sock");
    assert_eq!(run(&folder, &["status"]).code, Some(0), "the one gateway is found");
    // One that answers is not.
    let second = run(&folder, &["--no-ui", "--profile", "one.yaml"]);
    assert_eq!(second.code, Some(1), "{}", second.err);
    assert!(second.err.contains("one.sock") && second.err.contains("answers"), "{}", second.err);
    let _second = start(&["--no-ui", "--profile", "one.yaml", "--role", "dmz"]);
    let second = answers("one-dmz.sock");
    let several = run(&folder, &["status"]);
    assert_eq!(several.code, Some(1), "{}", several.out);
    for path in [&first, &second] {
        assert!(several.err.contains(path.to_str().expect("UTF-8")), "{}", several.err);
    }
    let _third = start(&["--no-ui", "--profile", "one.yaml", "--admin", "none"]);
    assert_eq!(fs::read_dir(&subfolder).expect("a folder").count(), 2, "`none` opens no socket");

    // Something else of that name is left alone.
    folder.write("precious.sock", "precious");
    let refused = run(&folder, &["--no-ui", "--profile", "one.yaml", "--admin", "precious.sock"]);
    assert_eq!(refused.code, Some(1), "{}", refused.err);
    assert_eq!(fs::read(folder.path("precious.sock")).expect("still there"), b"precious");
}

/// A child that ends with the test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn drain_refuses_newcomers_until_reload() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", DIRECT);
    let gateway = folder.start("one");
    let command = |args: &[&str]| run(&folder, &[args, &["--admin", "run/one.sock"]].concat());
    let mut open = connect(gateway.accept("echo"));
    echo(&mut open, b"before");

    let unknown = command(&["drain", "nothing"]);
    assert_eq!(unknown.code, Some(1), "{}", unknown.out);
    assert!(unknown.err.contains("nothing"), "{}", unknown.err);
    for args in [&["drain"][..], &["drain", "echo"]] {
        let drained = command(args);
        assert_eq!(drained.code, Some(0), "{}", drained.err);
        echo(&mut open, b"the open one goes on");
        assert!(is_reset(&connect(gateway.accept("echo")).read(&mut [0])), "a newcomer was taken");
        assert_eq!(gateway.status()["services"][0]["phase"], "draining");
        let reloaded = command(&["reload"]);
        assert_eq!(reloaded.code, Some(0), "{}", reloaded.err);
        echo(&mut connect(gateway.accept("echo")), b"taken again");
        echo(&mut open, b"and on");
        assert_eq!(gateway.status()["phase"], "running");
    }
}

#[test]
fn kill_ends_the_one_session_with_a_reset() {
    let folder = TestFolder::with_certificates();
    let pair = Pair::reverse(&folder, &[("echo", "echo://")]);
    let (mut killed, mut spared) = (connect(pair.dmz.accept("echo")), connect(pair.dmz.accept("echo")));
    echo(&mut killed, b"one");
    echo(&mut spared, b"two");
    let status = pair.dmz.status();
    let client = killed.local_addr().expect("an address").to_string();
    let rows = status["sessions"].as_array().expect("a list");
    let row = rows.iter().find(|row| row["client"] == client.as_str()).expect("its row");
    let id = row["id"].as_str().expect("an id");
    let output = run(&folder, &["kill", id, "--admin", "run/dmz.sock"]);
    assert_eq!(output.code, Some(0), "{}", output.err);
    assert!(is_reset(&killed.read(&mut [0])));
    echo(&mut spared, b"lives");
    let again = run(&folder, &["kill", id, "--admin", "run/dmz.sock"]);
    assert_eq!(again.code, Some(1), "{}", again.out);
    let ended = pair.dmz.status();
    assert_eq!((&ended["ended"][0]["id"], &ended["ended"][0]["end"]), (&id.into(), &"OR".into()));
    pair.internal.wait("the inside has notified the backend", SOON, |status| {
        status["ended"][0]["end"] == "OR"
            && status["ended"][0]["id"] == id
            && status["sessions"].as_array().is_some_and(|rows| rows.len() == 1)
    });
}

#[test]
fn kill_ends_all_that_match_and_prints_how_many() {
    let folder = TestFolder::with_certificates();
    let pair = Pair::reverse(&folder, &[("echo", "echo://"), ("other", "echo://")]);
    let open = |service: &str| {
        let mut client = connect(pair.dmz.accept(service));
        echo(&mut client, b"open");
        client
    };
    let (mut one, mut two, mut other) = (open("echo"), open("echo"), open("other"));
    let kill = |options: &[&str], count: &str| {
        let output = run(&folder, &[&["kill"], options, &["--admin", "run/dmz.sock"]].concat());
        assert_eq!((output.code, output.out.trim()), (Some(0), count), "{options:?}: {}", output.err);
    };
    kill(&["--client", "192.0.2.0/24"], "0");
    kill(&["--client", "127.0.0.1", "--service", "nothing"], "0");
    kill(&["--service", "echo"], "2");
    assert!(is_reset(&one.read(&mut [0])) && is_reset(&two.read(&mut [0])));
    echo(&mut other, b"lives");
    kill(&["--peer", "nobody"], "0");
    kill(&["--peer", "internal", "--client", "127.0.0.0/8"], "1");
    assert!(is_reset(&other.read(&mut [0])));
    pair.dmz.wait("each by the operator", SOON, |status| {
        let ended = status["ended"].as_array().expect("a list");
        ended.len() == 3 && ended.iter().all(|row| row["end"] == "OR")
    });
    for wrong in [&["kill"][..], &["kill", "--client", "host"], &["kill", "1", "--service", "echo"]] {
        assert_eq!(run(&folder, wrong).code, Some(2), "{wrong:?}");
    }
    let log = crate::until("the line is written", SOON, || {
        Some(pair.dmz.log()).filter(|log| log.contains("kill of sessions of service echo"))
    });
    assert!(log.contains("2 sessions are cut"), "{log}");
}

#[test]
fn switch_goes_by_name_and_by_file_and_cuts_nothing() {
    let folder = TestFolder::with_certificates();
    fs::create_dir(folder.path("profiles")).expect("a folder");
    fs::create_dir(folder.path("elsewhere")).expect("a folder");
    folder.write("profiles/one.yaml", DIRECT);
    folder.write("profiles/two.yaml", DIRECT);
    folder.write("elsewhere/three.yaml", &DIRECT.replace("echo: {", "third: {"));
    folder.write("profiles/bad.yaml", "mode: direct\n");
    let gateway = folder.start_as("one", &[], &["--profile", "one", "--no-ui"]);
    let mut open = connect(gateway.accept("echo"));
    echo(&mut open, b"before");
    let socket = folder.path("run/one.sock");
    let switch = |to: &str, subfolder: &str| {
        let mut command = folder.command(&["switch", to, "--admin"]);
        output_of(command.arg(&socket).current_dir(folder.path(subfolder)).output().expect("it runs"))
    };
    let moved = switch("two", "");
    assert_eq!(moved.code, Some(0), "{}", moved.err);
    assert_eq!(gateway.status()["profile"], "two");
    echo(&mut open, b"after one switch");
    // Back, the other way, since a refused switch must leave all as it is.
    for bad in ["bad", "nobody", "./nobody.yaml"] {
        let refused = switch(bad, "");
        assert_eq!(refused.code, Some(1), "{bad}: {}", refused.out);
        assert!(!refused.err.is_empty());
        assert_eq!(gateway.status()["profile"], "two");
    }
    echo(&mut connect(gateway.accept("echo")), b"still served");
    let by_file = switch("three.yaml", "elsewhere");
    assert_eq!(by_file.code, Some(0), "{}", by_file.err);
    assert_eq!(gateway.status()["profile"], "three");
    echo(&mut connect(gateway.accept("third")), b"served by the third");
    echo(&mut open, b"its service is gone, it drains");
}

/// What `switch --plan` says is what `switch` does, and each thing asked is one line and one notice.
#[test]
fn a_switch_is_planned_done_and_written_down() {
    let folder = TestFolder::with_certificates();
    let two = "mode: direct\ndrain: 7s\ndmz:\n  services:\n    other: { accept: [\"tcp://127.0.0.1:0\"], connect: \"echo://\" }\n";
    folder.write("one.yaml", DIRECT);
    folder.write("two.yaml", two);
    let gateway = folder.start("one");
    let command = |args: &[&str]| run(&folder, &[args, &["--admin", "run/one.sock"]].concat());
    let mut open = connect(gateway.accept("echo"));
    echo(&mut open, b"open");
    let before = gateway.accept("echo");
    let plan = command(&["switch", "--plan", "two.yaml"]);
    assert_eq!(plan.code, Some(0), "{}", plan.err);
    let expected = format!(
        "from `one`, mode direct, to `two`, mode direct\n  \
         removes  echo: accept tcp://127.0.0.1:0; backend echo://\n  \
         adds     other: accept tcp://127.0.0.1:0; backend echo://\n  opens    tcp://127.0.0.1:0 for clients of `other`\n  \
         closes   tcp://{before} for clients of `echo`\n  stay     0 open sessions\n  \
         end      1 of `echo`, which the profile lacks, within 7s\n"
    );
    assert_eq!(plan.out, expected);
    assert_eq!(gateway.status()["profile"], "one", "a plan changes nothing");
    let unknown = command(&["switch", "--plan", "nobody.yaml"]);
    assert_eq!((unknown.code, unknown.err.contains("nobody.yaml")), (Some(1), true), "{}", unknown.err);

    assert_eq!(command(&["switch", "two.yaml"]).code, Some(0));
    assert_eq!(command(&["switch", "nobody.yaml"]).code, Some(1));
    assert_eq!(command(&["reload"]).code, Some(0));
    assert_eq!(command(&["drain", "other"]).code, Some(0));
    assert_eq!(command(&["kill", "nobody"]).code, Some(1));
    // The log is written by a thread of its own.
    let log = crate::until("the last line is written", SOON, || {
        Some(gateway.log()).filter(|log| log.contains("kind=\"kill\""))
    });
    let notices = gateway.status()["notices"].to_string();
    assert!(!log.contains("kind=\"plan\""), "a plan alone is not audited: {log}");
    let socket = folder.path("run/one.sock").display().to_string();
    for (kind, requested, outcome) in [
        ("switch", "switch to `", "done"),
        ("switch", "switch to `", "refused"),
        ("reload", "reload", "done"),
        ("drain", "drain of `other`", "done"),
        ("kill", "kill of session `nobody`", "refused"),
    ] {
        let is_it = |line: &&str| {
            [
                format!("operator kind=\"{kind}\" by=\"admin socket {socket} (uid "),
                format!("asked=\"{requested}"),
                format!("outcome=\"{outcome}\""),
            ]
            .iter()
            .all(|part| line.contains(part.as_str()))
        };
        assert_eq!(log.lines().filter(is_it).count(), 1, "{kind} {outcome}\n{log}");
        assert!(notices.contains(requested), "{requested}: {notices}");
    }
    assert!(notices.contains("switch begun, asked by admin socket"), "{notices}");
}

#[test]
fn a_stop_that_cuts_ends_with_the_gateways_own_code() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", &DIRECT.replace("mode: direct", "mode: direct\ndrain: 100ms"));
    let gateway = folder.start("one");
    let mut open = connect(gateway.accept("echo"));
    echo(&mut open, b"open");
    let stopped = run(&folder, &["stop", "--admin", "run/one.sock"]);
    assert_eq!(
        (stopped.code, stopped.out.as_str()),
        (Some(3), "stopped; 1 session was cut\n"),
        "{}",
        stopped.err
    );
    assert_eq!(gateway.ended().code(), Some(3));
}

/// Every command that prints what a gateway has answered.
const ASKED: &[&[&str]] = &[
    &["status"],
    &["status", "--json"],
    &["status", "--ready"],
    &["status", "--ready", "--json"],
    &["metrics"],
    &["doctor"],
    &["doctor", "--json"],
    &["switch", "--plan", "two.yaml"],
    &["switch", "two.yaml"],
    &["reload"],
    &["drain", "echo"],
    &["log-level", "info"],
    &["kill", "nobody"],
];

#[test]
fn whatever_becomes_of_an_answer_is_no_panic() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", DIRECT);
    folder.write("two.yaml", DIRECT);
    let gateway = folder.start("one");
    let command = |words: &[&str]| folder.command(&[words, &["--admin", "run/one.sock"]].concat());
    for words in ASKED {
        let is_refused = words[0] == "kill";
        let mut child =
            command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        drop(child.stdout.take());
        let ended = child.wait_with_output().expect("it ends");
        let err = String::from_utf8_lossy(&ended.stderr).into_owned();
        // A finding of `doctor` is identified by its code.
        let is_it = |code: i32| code == i32::from(is_refused) || words[0] == "doctor" && code == 1;
        assert!(ended.status.code().is_some_and(is_it), "{words:?}: {:?}, {err}", ended.status);
        let full = File::options().write(true).open("/dev/full").expect("Linux has it");
        let output = command(words).stdout(full).output().expect("it runs");
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{words:?}: {err}");
        assert!(is_refused || err.contains("No space left on device"), "{words:?}: {err}");
    }
    // The last one, which it still does.
    let full = File::options().write(true).open("/dev/full").expect("Linux has it");
    let output = command(&["stop"]).stdout(full).output().expect("it runs");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("No space left on device"), "{err}");
    assert_eq!(gateway.ended().code(), Some(0));
}
