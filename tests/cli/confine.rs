//! The lock: what a half in reverse mode cannot do any more, and all that goes on working behind it.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixListener,
    process::Command,
};

use rustix::process::Signal;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};
use serde_json::Value;

use crate::{
    commands::issued,
    connect,
    process::{Gateway, SOON, TestFolder, until},
    run,
    setup::{Pair, dmz_half, internal_half},
    threads::locked_threads,
    verify::{DMZ_TLS, INTERNAL_TLS, Ports, results, step, verify},
};

#[track_caller]
fn echoes(at: SocketAddr) {
    let mut client = connect(at);
    client.write_all(b"hello").expect("it is sent");
    let mut received = [0; 5];
    client.read_exact(&mut received).expect("it comes back");
    assert_eq!(&received, b"hello");
}

/// Asks a running gateway, which does it.
#[track_caller]
fn done(folder: &TestFolder, gateway: &str, command: &[&str]) -> String {
    let socket = folder.path(&format!("run/{gateway}.sock")).display().to_string();
    let sent = run(folder, &[command, &["--admin", &socket]].concat());
    assert_eq!(sent.code, Some(0), "{command:?}: {}", sent.err);
    sent.out
}

/// Asks a running gateway, which refuses.
#[track_caller]
fn refused(folder: &TestFolder, gateway: &str, command: &[&str]) -> String {
    let socket = folder.path(&format!("run/{gateway}.sock")).display().to_string();
    let sent = run(folder, &[command, &["--admin", &socket]].concat());
    assert_eq!(sent.code, Some(1), "{command:?}: {}", sent.out);
    sent.err
}

/// What a plan says that its gateway refuses.
#[track_caller]
fn refused_plan(folder: &TestFolder, gateway: &str, profile: &str) -> String {
    let socket = folder.path(&format!("run/{gateway}.sock")).display().to_string();
    let sent = run(folder, &["switch", "--plan", profile, "--admin", &socket]);
    assert_eq!(sent.code, Some(1), "{}: {}", sent.out, sent.err);
    sent.out
}

fn refuses(gateway: &Gateway<'_>, half: &str) -> Vec<Value> {
    let status = gateway.status();
    let confined = &status["confined"][half];
    assert_eq!(confined["seccomp"], true, "{status:#}");
    confined["refuses"].as_array().cloned().unwrap_or_default()
}

#[test]
fn every_known_way_out_of_a_locked_half_is_refused() {
    let folder = TestFolder::with_certificates();
    let sent = run(&folder, &["selftest", "confine"]);
    assert_eq!(sent.code, Some(0), "{}\n{}", sent.out, sent.err);
    for half in ["internal:", "dmz:"] {
        assert!(sent.out.contains(half), "{}", sent.out);
    }
    let methods = [
        "listen without bind",
        "TCP connect",
        "io_uring_setup  ",
        "io_uring_setup by its x32 number",
        "execve  ",
        "execve by its x32 number",
        "connect by its x32 number",
        "socket by its x32 number",
        "MPTCP socket",
        "pair of TCP sockets",
        "process_vm_readv",
        "process_vm_writev",
        "a device node",
        "clone3",
    ];
    for method in methods {
        let row = sent
            .out
            .lines()
            .find(|line| !line.contains("Landlock") && line.contains(method))
            .unwrap_or_else(|| panic!("{method}"));
        let words = row.matches("refused").count() + 2 * row.matches("not in this kernel").count();
        assert_eq!(words, 2, "in both threads: {row}");
    }
    // What the lock alone refuses, wherever this runs: each was open before it.
    let was_open = |row: &str| row.split("  ").any(|cell| cell.trim() == "open");
    for method in ["TCP bind", "listen without bind", "UDP connect", "sendmsg", "execve"] {
        let mut rows = sent.out.lines().filter(|row| row.trim_start().starts_with(&format!("{method}  ")));
        assert!(rows.next().is_some_and(was_open), "{method}: {}", sent.out);
    }
    assert!(!sent.out.contains("let through"), "{}", sent.out);
    // The table of 32 bits is another one, which only some machines and kernels have.
    let rows: Vec<_> = sent.out.lines().filter(|line| line.contains("32-bit call")).collect();
    assert_eq!(rows.len(), 2, "{}", sent.out);
    assert!(rows.iter().all(|row| row.ends_with("refused") || row.contains("absent")), "{rows:?}");
    // Where the kernel has it, it was put on: no other thread was running.
    assert!(!sent.out.contains("other threads run"), "{}", sent.out);
}

#[test]
fn a_locked_pair_carries_sessions_and_is_operated_as_ever() {
    let folder = TestFolder::with_certificates();
    let pair = Pair::reverse(&folder, &[("echo", "echo://")]);
    assert!(refuses(&pair.internal, "internal").contains(&"listen".into()));
    assert!(refuses(&pair.dmz, "dmz").contains(&"connect".into()));
    assert!(pair.internal.status()["confined"].get("dmz").is_none());
    assert!(
        pair.dmz.log().contains("locked: the DMZ half can accept and nothing else"),
        "{}",
        pair.dmz.log()
    );
    for gateway in [&pair.dmz, &pair.internal] {
        let threads = locked_threads(gateway.child.id());
        // The allocator's own are started by nobody here.
        for name in ["jemalloc", "tokio"] {
            assert!(threads.iter().any(|thread| thread.starts_with(name)), "{name}: {threads:?}");
        }
    }
    echoes(pair.dmz.accept("echo"));
    let metrics = done(&folder, "internal", &["metrics"]);
    assert!(metrics.contains("portcullis_confined{role=\"internal\"} 1"), "{metrics}");
    assert!(done(&folder, "dmz", &["status"]).contains("locked: dmz by seccomp"));
    // A reload brings another port and another service; renewed certificates come by the same way.
    let link = format!("127.0.0.1:{}", pair.dmz.link_port());
    folder.write("internal.yaml", &internal_half(&link, &[("echo", "echo://"), ("more", "echo://")]));
    folder.write("dmz.yaml", &dmz_half("127.0.0.1:0", &["echo", "more"]));
    done(&folder, "dmz", &["reload"]);
    done(&folder, "internal", &["reload"]);
    pair.dmz.wait_healthy();
    echoes(pair.dmz.accept("more"));
    done(&folder, "internal", &["reload"]);
    done(&folder, "dmz", &["stop"]);
    assert_eq!(pair.dmz.ended().code(), Some(0));
    assert!(!folder.path("run/dmz.sock").exists(), "its socket is gone");
}

#[test]
fn a_locked_internal_half_looks_names_up() {
    let folder = TestFolder::with_certificates();
    let backend = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = backend.local_addr().expect("its address").port();
    let pair = Pair::reverse(&folder, &[("named", &format!("tcp://localhost:{port}"))]);
    let mut client = connect(pair.dmz.accept("named"));
    let (mut session, _) = backend.accept().expect("the name was found");
    session.write_all(b"hello").expect("it is sent");
    client.read_exact(&mut [0; 5]).expect("it arrives");
}

#[test]
fn a_locked_internal_half_dials_unix_sockets_where_a_backend_is_one_and_only_there() {
    let folder = TestFolder::with_certificates();
    let socket = folder.path("app.sock").display().to_string();
    let backend = UnixListener::bind(&socket).expect("it binds");
    let address = format!("unix://{socket}");
    let pair = Pair::reverse(&folder, &[("app", &address)]);
    let mut client = connect(pair.dmz.accept("app"));
    let (mut session, _) = backend.accept().expect("it is dialled");
    session.write_all(b"hello").expect("it is sent");
    client.read_exact(&mut [0; 5]).expect("it arrives");
    assert_eq!(pair.internal.status()["confined"]["internal"]["unix"], "any");
    assert!(done(&folder, "internal", &["status"]).contains("any Unix socket may be dialled"));
    assert!(pair.dmz.status()["confined"]["dmz"].get("unix").is_none());
    assert!(refuses(&pair.internal, "internal").contains(&"bind".into()));
}

#[test]
fn a_unix_socket_that_the_lock_does_not_know_is_refused_by_its_path() {
    let folder = TestFolder::with_certificates();
    let pair = Pair::reverse(&folder, &[("echo", "echo://")]);
    assert!(pair.internal.status()["confined"]["internal"].get("unix").is_none());
    let link = format!("127.0.0.1:{}", pair.dmz.link_port());
    folder.write("internal.yaml", &internal_half(&link, &[("echo", "unix:///run/app/app.sock")]));
    let why = refused(&folder, "internal", &["reload"]);
    assert!(why.contains("unix:///run/app/app.sock takes a restart"), "{why}");
    echoes(pair.dmz.accept("echo"));
}

#[test]
fn verify_tries_the_lock_from_within_and_probes_a_half_that_cannot_connect() {
    let (folder, ports) = (TestFolder::with_certificates(), Ports::new());
    folder.write("outside.yaml", &format!("mode: reverse\n{}", ports.dmz(DMZ_TLS)));
    // A call that is allowed for a backend does not count as a failure of the lock.
    let socket = folder.path("app.sock").display().to_string();
    let _backend = UnixListener::bind(&socket).expect("it binds");
    let backend = format!("unix://{socket}");
    folder.write("inside.yaml", &format!("mode: reverse\n{}", ports.internal(INTERNAL_TLS, &backend)));
    // Under their own names, so that `verify` finds them by their sockets.
    let start = |name: &str| {
        let socket = folder.path(&format!("run/portcullis/{name}.sock")).display().to_string();
        let profile = format!("{name}.yaml");
        let mut command = folder.command(&["--no-ui", "--profile", &profile, "--admin", &socket]);
        fs::create_dir_all(folder.path("run/portcullis")).expect("a folder");
        command.spawn().map(Ended).expect("the program starts")
    };
    let (_outside, _inside) = (start("outside"), start("inside"));
    let ready = |name: &str| {
        let socket = folder.path(&format!("run/portcullis/{name}.sock")).display().to_string();
        until("it is ready", SOON, || {
            (run(&folder, &["status", "--ready", "--strict", "--admin", &socket]).code == Some(0))
                .then_some(())
        });
    };
    ready("outside");
    ready("inside");
    let outside = verify(&folder, "outside.yaml");
    assert_eq!(
        results(&outside),
        "profile pass, basic skip, forward skip, reverse pass, closed skip",
        "{outside:#}"
    );
    assert!(step(&outside, "forward").0.contains("is locked"), "{outside:#}");
    let inside = verify(&folder, "inside.yaml");
    assert_eq!(
        results(&inside),
        "profile pass, basic pass, forward skip, reverse pass, closed pass",
        "{inside:#}"
    );
    let seen = step(&inside, "closed").0;
    assert!(seen.contains("tried from within and refused"), "{seen}");
}

/// A child that does not outlive its test.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_locked_half_does_not_leave_reverse_mode_and_says_so_before() {
    let (folder, ports) = (TestFolder::with_certificates(), Ports::new());
    for mode in ["forward", "reverse"] {
        folder.write(&format!("{mode}.yaml"), &format!("name: one\nmode: {mode}\n{}", ports.dmz(DMZ_TLS)));
        let inside = format!("name: one\nmode: {mode}\n{}", ports.internal(INTERNAL_TLS, "echo://"));
        folder.write(&format!("inside-{mode}.yaml"), &inside);
    }
    let inside = folder.start_as("inside", &[], &["--no-ui", "--profile", "inside-forward.yaml"]);
    let outside = folder.start_as("outside", &[], &["--no-ui", "--profile", "forward.yaml"]);
    outside.wait_healthy();
    assert!(outside.status()["confined"]["dmz"].is_null());
    let plan = done(&folder, "outside", &["switch", "--plan", "./reverse.yaml"]);
    assert!(plan.contains("lock") && plan.contains("going back takes a restart"), "{plan}");
    let required = format!("confine: required\nmode: reverse\n{}", ports.dmz(DMZ_TLS));
    folder.write("required.yaml", &required);
    let why = refused(&folder, "outside", &["switch", "./required.yaml"]);
    assert!(why.contains("needs Landlock"), "{why}");
    std::thread::scope(|scope| {
        let other = scope.spawn(|| done(&folder, "inside", &["switch", "./inside-reverse.yaml"]));
        let reported = done(&folder, "outside", &["switch", "./reverse.yaml"]);
        assert!(reported.contains("locked: the DMZ half can accept and nothing else"), "{reported}");
        assert!(other.join().expect("it is done").contains("can dial and nothing else"));
    });
    assert!(outside.status()["confined"]["dmz"]["landlock"].is_null(), "it has not started in reverse mode");
    outside.wait_healthy();
    echoes(outside.accept("web"));
    for (gateway, forward) in [("outside", "./forward.yaml"), ("inside", "./inside-forward.yaml")] {
        let plan = refused_plan(&folder, gateway, forward);
        assert!(plan.contains("refused: ") && plan.contains("takes a restart"), "{plan}");
        let why = refused(&folder, gateway, &["switch", forward]);
        assert!(why.contains("out of reverse mode takes a restart"), "{why}");
    }
    assert!(inside.status()["mode"] == "reverse" && outside.status()["mode"] == "reverse");
    echoes(outside.accept("web"));
}

/// A profile without the lock may still ask for what this process is refused.
#[test]
fn what_the_lock_refuses_later_is_reported_by_its_name_and_once() {
    let folder = TestFolder::with_certificates();
    let backend = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("tcp://{}", backend.local_addr().expect("its address"));
    let pair = Pair::reverse(&folder, &[("orders", &address)]);
    let link = format!("127.0.0.1:{}", pair.dmz.link_port());
    let half = internal_half(&link, &[("orders", &address)]);
    let dialled_from = format!("connect: {{ address: \"{address}\", source: 127.0.0.1 }}");
    let half = half.replace(&format!("connect: \"{address}\""), &dialled_from);
    folder.write("internal.yaml", &format!("confine: off\n{half}"));
    done(&folder, "internal", &["reload"]);
    pair.dmz.wait_healthy();
    let words = "`bind` is blocked by the lock of this process";
    for _ in 0..2 {
        let mut client = connect(pair.dmz.accept("orders"));
        assert!(crate::is_reset(&client.read(&mut [0])), "it was served");
    }
    let notice_count = |status: &Value| {
        let notices = status["notices"].as_array().expect("a list").iter();
        notices.filter(|line| line["text"].as_str().is_some_and(|text| text.starts_with(words))).count()
    };
    let status = pair.internal.wait("both are reported", SOON, |status| {
        status["ended"].to_string().matches(words).count() == 2 && notice_count(status) > 0
    });
    assert_eq!(notice_count(&status), 1, "{:#}", status["notices"]);
}

/// What a rollback needs must not be refused by then.
#[test]
fn a_switch_to_reverse_that_goes_back_has_taken_no_lock() {
    let (folder, ports) = (TestFolder::with_certificates(), Ports::new());
    for mode in ["forward", "reverse"] {
        folder.write(&format!("{mode}.yaml"), &format!("name: one\nmode: {mode}\n{}", ports.dmz(DMZ_TLS)));
    }
    let inside = format!("name: one\nmode: forward\n{}", ports.internal(INTERNAL_TLS, "echo://"));
    folder.write("inside.yaml", &inside);
    let _inside = folder.start_as("inside", &[], &["--no-ui", "--profile", "inside.yaml"]);
    let outside = folder.start_as("outside", &[], &["--no-ui", "--profile", "forward.yaml"]);
    outside.wait_healthy();
    std::thread::scope(|scope| {
        let switch = scope.spawn(|| refused(&folder, "outside", &["switch", "./reverse.yaml"]));
        let under_way = |status: &Value| !status["switching"].is_null();
        let status = outside.wait("the other half does not follow", SOON, under_way);
        assert!(status["confined"]["dmz"].is_null(), "{status:#}");
        echoes(outside.accept("web"));
        let why = switch.join().expect("it is refused");
        assert!(why.contains("rolled back"), "{why}");
    });
    let status = outside.status();
    assert_eq!((&status["mode"], &status["confined"]["dmz"]), (&"forward".into(), &Value::Null));
    assert!(!outside.log().contains("locked: the DMZ half can accept"), "{}", outside.log());
    // It dials as before: its links are established again.
    done(&folder, "inside", &["stop"]);
    let _again = folder.start_as("again", &[], &["--no-ui", "--profile", "inside.yaml"]);
    outside.wait_healthy();
    echoes(outside.accept("web"));
}

#[test]
fn what_was_not_known_at_the_start_is_refused_by_its_path() {
    let folder = TestFolder::with_certificates();
    fs::create_dir(folder.path("profiles")).expect("a folder");
    fs::rename(folder.path("pki"), folder.path("profiles/pki")).expect("it is moved");
    let dmz = dmz_half("127.0.0.1:0", &["echo"]);
    folder.write("profiles/dmz.yaml", &dmz);
    let gateway = folder.start_as("dmz", &[], &["--no-ui", "--profile", "profiles/dmz.yaml"]);
    if gateway.status()["confined"]["dmz"]["landlock"].is_null() {
        assert!(gateway.log().contains("Landlock"), "it is reported: {}", gateway.log());
        return;
    }
    fs::create_dir(folder.path("elsewhere")).expect("a folder");
    fs::copy(folder.path("profiles/dmz.yaml"), folder.path("elsewhere/dmz.yaml")).expect("a copy");
    for command in [&["switch", "./elsewhere/dmz.yaml"][..], &["switch", "--plan", "./elsewhere/dmz.yaml"]] {
        let why = refused(&folder, "dmz", command);
        assert!(why.contains("elsewhere/dmz.yaml") && why.contains("lock of this gateway"), "{why}");
    }
    // A file of a profile that can be read, in a folder that no profile named before.
    fs::copy(folder.path("profiles/pki/ca.pem"), folder.path("elsewhere/ca.pem")).expect("a copy");
    folder.write("profiles/dmz.yaml", &dmz.replace("pki/ca.pem", "../elsewhere/ca.pem"));
    let why = refused(&folder, "dmz", &["reload"]);
    assert!(why.contains("elsewhere/ca.pem") && why.contains("lock of this gateway"), "{why}");
    folder.write("profiles/dmz.yaml", &dmz);
    done(&folder, "dmz", &["reload"]);
}

#[test]
fn a_log_that_the_lock_does_not_cover_is_refused_by_its_path() {
    let folder = TestFolder::with_certificates();
    let dmz = dmz_half("127.0.0.1:0", &["echo"]);
    // The folder of a log that is missing at the start is made then.
    let logged = format!("log: logs/gate.json\n{dmz}");
    folder.write("dmz.yaml", &logged);
    let gateway = folder.start("dmz");
    if gateway.status()["confined"]["dmz"]["landlock"].is_null() {
        assert!(gateway.log().contains("Landlock"), "it is reported: {}", gateway.log());
        return;
    }
    let text = || fs::read_to_string(folder.path("logs/gate.json")).unwrap_or_default();
    until("it is written", SOON, || text().contains("profile_in_force").then_some(()));
    fs::create_dir(folder.path("elsewhere")).expect("a folder");
    for key in ["log", "access_log", "audit"] {
        let file = format!("elsewhere/{key}.json");
        folder.write("dmz.yaml", &format!("{key}: {file}\n{dmz}"));
        let plan = refused_plan(&folder, "dmz", "./dmz.yaml");
        let reload = refused(&folder, "dmz", &["reload"]);
        for reported in [&plan, &reload, &refused(&folder, "dmz", &["switch", "./dmz.yaml"])] {
            assert!(
                reported.contains(&file) && reported.contains("takes a restart with that profile"),
                "{reported}"
            );
        }
        assert!(plan.contains("refused: this process is locked"), "{plan}");
        assert!(!folder.path(&file).exists() && !gateway.log().contains("audit_file"), "{}", gateway.log());
    }
    // What it covers is taken, and a folder that is created again under the same name is another
    // one.
    folder.write("dmz.yaml", &format!("access_log: logs/access.json\n{logged}"));
    done(&folder, "dmz", &["reload"]);
    fs::remove_dir_all(folder.path("logs")).expect("it is removed");
    fs::create_dir(folder.path("logs")).expect("a folder");
    done(&folder, "dmz", &["reload"]);
    let status = gateway.wait("it is reported", SOON, |status| status["log_trouble"].is_string());
    let why = status["log_trouble"].as_str().expect("text");
    assert!(why.ends_with("covers no folder that was made after the start: a restart does"), "{why}");
}

/// What goes on behind the lock that opens files: renewed certificates, a recording, logs that are rotated.
#[test]
fn files_that_a_locked_half_was_started_with_are_read_and_reopened() {
    let folder = TestFolder::with_certificates();
    let keys = "log: logs/gate.json\naccess_log: logs/access.json\n";
    folder.write("dmz.yaml", &format!("{keys}{}", dmz_half("127.0.0.1:0", &["echo"])));
    fs::create_dir(folder.path("kept")).expect("a folder");
    let args = ["--no-ui", "--profile", "dmz.yaml", "--record", "kept/dmz.jsonl"];
    let dmz = folder.start_as("dmz", &[], &args);
    assert!(refuses(&dmz, "dmz").contains(&"connect".into()));
    let written = |file: &str, what: &str| {
        until(file, SOON, || fs::read_to_string(folder.path(file)).ok()?.contains(what).then_some(()));
    };
    written("kept/dmz.jsonl", "\"phase\":\"running\"");
    for name in ["gate", "access"] {
        let (file, old) = (format!("logs/{name}.json"), format!("logs/{name}.json.1"));
        until("it is there", SOON, || fs::rename(folder.path(&file), folder.path(&old)).ok());
    }
    dmz.signal(Signal::USR1);
    written("logs/gate.json", "\"files\":2");
    until("it is there again", SOON, || folder.path("logs/access.json").exists().then_some(()));
    // A certificate that is replaced is shown from then on.
    let serial = || {
        let at = format!("127.0.0.1:{}", dmz.link_port());
        let line =
            format!("openssl s_client -connect {at} 2>/dev/null </dev/null | openssl x509 -noout -serial");
        let sent = Command::new("sh").args(["-c", &line]).output().expect("openssl runs");
        String::from_utf8(sent.stdout).expect("UTF-8")
    };
    let before = serial();
    assert!(before.starts_with("serial="), "{before}");
    let (certificate, key) = issued(&folder, "dmz", -1, 90);
    for (file, text) in [("dmz.key", key), ("dmz.pem", certificate)] {
        fs::write(folder.path("pki").join(file), text).expect("it is written");
    }
    until("the new one is shown", SOON, || (serial() != before).then_some(()));
    written("logs/gate.json", "certificates_renewed");
}

#[test]
fn a_lock_is_off_where_the_profile_says_so_and_words_of_two_kinds_mean_it() {
    let folder = TestFolder::with_certificates();
    for (word, is_locked) in [("off", false), ("false", false), ("on", true), ("required", true)] {
        folder.write("dmz.yaml", &format!("confine: {word}\n{}", dmz_half("127.0.0.1:0", &["echo"])));
        let gateway = folder.start("dmz");
        assert_eq!(gateway.status()["confined"]["dmz"].is_object(), is_locked, "{word}");
    }
    folder.write(
        "pair.yaml",
        &format!("name: pair\n{}", Ports::new().pair("echo://").replace("forward", "reverse")),
    );
    let pair = folder.start("pair");
    assert_eq!(pair.status()["confined"], serde_json::json!({ "dmz": null, "internal": null }));
    assert!(pair.log().contains("the full lock needs a process for each half"), "{}", pair.log());
    folder.write("bad.yaml", &format!("confine: never\n{}", dmz_half("127.0.0.1:0", &["echo"])));
    let sent = run(&folder, &["check", "bad.yaml"]);
    assert!(sent.out.contains("confine") || sent.err.contains("confine"), "{} {}", sent.out, sent.err);
}

/// Runs `test` in a thread for which, like for the programs that it starts, the kernel does not have this call.
fn without(call: libc::c_long, errno: i32, test: impl FnOnce() + Send) {
    let refuse = SeccompAction::Errno(errno.cast_unsigned());
    let architecture = TargetArch::try_from(std::env::consts::ARCH).expect("it has filters");
    let filter = SeccompFilter::new([(call, Vec::new())].into(), SeccompAction::Allow, refuse, architecture);
    let filter: BpfProgram = filter.and_then(TryInto::try_into).expect("a filter");
    std::thread::scope(|scope| {
        let tested = scope.spawn(move || {
            apply_filter(&filter).expect("the kernel takes it");
            test();
        });
        tested.join().expect("it does what it should");
    });
}

#[test]
fn what_this_kernel_does_not_offer_is_reported_once_and_refused_where_it_is_required() {
    for (call, errno, reason) in [
        (libc::SYS_landlock_create_ruleset, libc::ENOSYS, "this kernel has no Landlock"),
        (libc::SYS_seccomp, libc::EINVAL, "the kernel rejected the seccomp filter"),
    ] {
        without(call, errno, || {
            let folder = TestFolder::with_certificates();
            let pair = Pair::reverse(&folder, &[("echo", "echo://")]);
            echoes(pair.dmz.accept("echo"));
            for (gateway, half) in [(&pair.dmz, "dmz"), (&pair.internal, "internal")] {
                for _ in 0..2 {
                    let answer = done(&folder, half, &["reload"]);
                    assert!(!answer.contains(reason) && !answer.contains("locked"), "{answer}");
                }
                let log = gateway.log();
                assert_eq!(log.matches(reason).count(), 1, "{log}");
                // It did start in reverse mode, so that is not why.
                assert!(!log.contains("where a process starts in reverse mode"), "{log}");
                let confined = &gateway.status()["confined"][half];
                match call == libc::SYS_seccomp {
                    true => assert!(
                        confined["seccomp"] == false
                            && confined["landlock"].is_u64()
                            && log.contains("locked by Landlock alone")
                            && !log.contains("locked: "),
                        "{confined:#}\n{log}"
                    ),
                    false => assert!(
                        confined["landlock"].is_null()
                            && confined["seccomp"] == true
                            && log.contains("(seccomp alone)"),
                        "{confined:#}\n{log}"
                    ),
                }
                let found = run(&folder, &["doctor", "--json", "--admin", &format!("run/{half}.sock")]);
                assert!(found.out.contains("lock-off"), "{}", found.out);
                // It is refused too where it is asked for later.
                let file = format!("{half}.yaml");
                let text = fs::read_to_string(folder.path(&file)).expect("the profile");
                folder.write(&file, &format!("confine: required\n{text}"));
                let why = refused(&folder, half, &["reload"]);
                assert!(why.contains("`confine: required`") && why.contains(reason), "{why}");
                let started = run(&folder, &["--no-ui", "--profile", &file, "--admin", "none"]);
                assert_eq!(started.code, Some(1), "{}", started.err);
                assert!(
                    started.err.contains("`confine: required`") && started.err.contains(reason),
                    "{}",
                    started.err
                );
            }
            echoes(pair.dmz.accept("echo"));
        });
    }
}

/// Whoever starts it may hand it a socket at which others reach it; the filters would not know of it.
#[test]
fn an_internal_half_does_not_start_with_a_socket_at_which_others_reach_it() {
    let folder = TestFolder::with_certificates();
    folder.write("internal.yaml", &internal_half("127.0.0.1:9", &[("echo", "echo://")]));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = listener.local_addr().expect("its address");
    let mut command = folder.command(&["--no-ui", "--profile", "internal.yaml", "--admin", "none"]);
    command.stdin(std::os::fd::OwnedFd::from(listener));
    let output = crate::output_of(command.output().expect("it ends"));
    assert_eq!(output.code, Some(1), "{}", output.err);
    assert!(output.err.contains(&format!("tcp {at} (descriptor 0)")), "{}", output.err);
}

#[test]
fn a_half_with_a_socket_that_it_did_not_open_does_not_switch_to_reverse_mode() {
    let folder = TestFolder::with_certificates();
    folder.write("reverse.yaml", &internal_half("127.0.0.1:9", &[("echo", "echo://")]));
    let forward = format!(
        "mode: forward\ninternal:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', tls: {INTERNAL_TLS} }}\n  \
         services: {{ echo: {{ connect: 'echo://' }} }}\n"
    );
    folder.write("forward.yaml", &forward);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = listener.local_addr().expect("its address");
    let log = fs::File::create(folder.path("forward.log")).expect("a log file");
    let mut command = folder.command(&["--no-ui", "--profile", "forward.yaml"]);
    command.stdin(std::os::fd::OwnedFd::from(listener));
    let _gateway = folder.start_logging("forward", command, log.into());
    let socket = format!("tcp {at} (descriptor 0)");
    assert!(refused_plan(&folder, "forward", "reverse").contains(&socket));
    let why = refused(&folder, "forward", &["switch", "reverse"]);
    assert!(why.contains(&socket) && why.contains("nothing was changed"), "{why}");
}

/// A gateway that logs to a device may write that one alone, and not what stands beside it.
#[test]
fn a_log_to_a_device_opens_no_other() {
    let folder = TestFolder::with_certificates();
    let dmz = dmz_half("127.0.0.1:0", &["echo"]);
    folder.write("dmz.yaml", &format!("log: /dev/full\n{dmz}"));
    let gateway = folder.start("dmz");
    if gateway.status()["confined"]["dmz"]["landlock"].is_null() {
        assert!(gateway.log().contains("Landlock"), "it is reported: {}", gateway.log());
        return;
    }
    let is_full = |status: &Value| status["log_trouble"].to_string().contains("No space left on device");
    gateway.wait("it may be opened", SOON, is_full);
    folder.write("dmz.yaml", &format!("log: /dev/zero\n{dmz}"));
    let why = refused(&folder, "dmz", &["reload"]);
    assert!(why.contains("/dev/zero takes a restart with that profile"), "{why}");
}
