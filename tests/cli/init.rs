//! The first minute: `init` writes a pair, its own words lead to a page from inside.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use crate::{CommandOutput, process::TestFolder, run, setup::free_port};

const PAGE: &str = "a page from inside";

/// A server that answers each request with the page, and its address.
fn web_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address").to_string();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut request = [0; 4096];
            if client.read(&mut request).is_ok_and(|count| count > 0) {
                let head =
                    format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", PAGE.len());
                let _ = client.write_all(format!("{head}{PAGE}").as_bytes());
            }
        }
    });
    address
}

/// The three commands that stand under `next:`.
fn next(sent: &CommandOutput) -> Vec<String> {
    let (_, rest) = sent.out.split_once("next:\n").expect("it says how to go on");
    rest.lines().map_while(|line| line.strip_prefix("  ")).map(str::to_owned).collect()
}

fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(inner) = folders.pop() {
        for entry in fs::read_dir(folder.join(&inner)).into_iter().flatten().flatten() {
            let path = inner.join(entry.file_name());
            match entry.path().is_dir() {
                true => folders.push(path),
                false => found.push(path.to_str().expect("UTF-8").to_owned()),
            }
        }
    }
    found.sort();
    found
}

#[test]
fn the_commands_printed_by_init_start_a_working_pair() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("skipped: needs curl");
        return;
    }
    let folder = TestFolder::with_certificates();
    let (backend, accept, link) = (web_server(), free_port(), free_port());
    let (accept, link) = (accept.to_string(), link.to_string());
    let sent = run(
        &folder,
        &[
            "init",
            "pair",
            "--out",
            "my pair",
            "--accept",
            &accept,
            "--connect",
            &backend,
            "--link-port",
            &link,
        ],
    );
    assert_eq!(sent.code, Some(0), "{}{}", sent.out, sent.err);
    let next = next(&sent);
    assert_eq!(next.len(), 3, "{next:?}");

    // As a shell runs them, from the folder where `init` ran.
    let program = Path::new(env!("CARGO_BIN_EXE_portcullis")).parent().expect("a folder");
    let path = format!("{}:{}", program.display(), std::env::var("PATH").expect("a PATH"));
    let checked = folder.wrapped(&["env", &format!("PATH={path}"), "sh", "-c", &next[0]], &[]).output();
    let checked = crate::output_of(checked.expect("it runs"));
    assert_eq!(checked.code, Some(0), "{}{}", checked.out, checked.err);
    for word in
        ["which waits for links at socks+tls://127.0.0.1:", "and opens no port", "web: clients at tcp://"]
    {
        assert!(checked.out.contains(word), "{word}: {}", checked.out);
    }
    let [dmz, internal] = ["dmz", "internal"].map(|half| {
        let line = next.iter().find(|line| line.contains(&format!("--profile 'my pair/{half}.yaml'")));
        assert!(line.is_some(), "{next:?}");
        folder.start_as(half, &[], &["--no-ui", "--profile", &format!("my pair/{half}.yaml")])
    });
    dmz.wait_healthy();
    internal.wait_healthy();
    let page = format!("http://127.0.0.1:{accept}/");
    let output = Command::new("curl").args(["-sS", "--max-time", "20", &page]).output();
    let output = output.expect("curl runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), PAGE, "{output:?}");
    assert!(sent.out.contains(&format!("tcp://127.0.0.1:{accept} reaches tcp://{backend}")), "{}", sent.out);
}

#[test]
fn each_half_gets_what_belongs_to_its_host() {
    let folder = TestFolder::with_certificates();
    let sent =
        run(&folder, &["init", "dmz", "--out", "edge", "--dmz-host", "gate.example.com", "--service", "no"]);
    assert_eq!(sent.code, Some(0), "{}", sent.err);
    assert_eq!(
        files(&folder.path("edge")),
        [
            "dmz.yaml",
            "internal-host/internal.yaml",
            "internal-host/pki/ca.key",
            "internal-host/pki/ca.pem",
            "internal-host/pki/internal.key",
            "internal-host/pki/internal.pem",
            "pki/ca.pem",
            "pki/dmz.key",
            "pki/dmz.pem",
        ]
    );
    for file in files(&folder.path("edge")).iter().filter(|file| file.ends_with(".key")) {
        let mode = folder.path("edge").join(file).metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let text = |file: &str| fs::read_to_string(folder.path(file)).expect("it is there");
    let internal = text("edge/internal-host/internal.yaml");
    assert!(internal.contains("\n    connect: \"socks+tls://gate.example.com:1443\"\n"), "{internal}");
    // Side by side they go together, and the names of their certificates do.
    let both = run(&folder, &["check", "edge/dmz.yaml", "edge/internal-host/internal.yaml"]);
    assert_eq!(both.code, Some(0), "{}", both.out);
    assert!(both.out.contains("no: clients at tcp://0.0.0.0:8000"), "{}", both.out);
    let next = next(&sent);
    assert_eq!(next[1], "scp -rp edge/internal-host OTHER-HOST:portcullis");

    let hosts = ["--internal-host", "fd00::5", "--dmz-host", "gate.example.com"];
    let sent =
        run(&folder, &[&["init", "internal", "--out", "inside", "--mode", "forward"], &hosts[..]].concat());
    assert_eq!(sent.code, Some(0), "{}", sent.err);
    let dmz = text("inside/dmz-host/dmz.yaml");
    assert!(dmz.contains("\n    connect: \"socks+tls://[fd00::5]:1443\"\n"), "{dmz}");
    assert!(files(&folder.path("inside")).contains(&"pki/ca.key".to_owned()));
    let both = run(&folder, &["check", "inside/internal.yaml", "inside/dmz-host/dmz.yaml"]);
    assert_eq!(both.code, Some(0), "{}", both.out);
    // Both ends are known: reversing is one word.
    let reversed =
        run(&folder, &["check", "inside/internal.yaml", "inside/dmz-host/dmz.yaml", "--mode", "reverse"]);
    assert_eq!(reversed.code, Some(0), "{}", reversed.out);
    assert!(reversed.out.contains("dials socks+tls://gate.example.com:1444"), "{}", reversed.out);
}

#[test]
fn init_overwrites_nothing_and_leaves_nothing_half_made() {
    let folder = TestFolder::with_certificates();
    let init = |out: &str| run(&folder, &["init", "pair", "--out", out]);
    assert_eq!(init("pair").code, Some(0));
    let made = files(&folder.path("pair"));
    for file in &made {
        // Each of them alone is enough to refuse, one that leads nowhere too.
        let out = format!("alone-{}", file.replace('/', "-"));
        let there = folder.path(&out).join(file);
        fs::create_dir_all(there.parent().expect("a folder")).expect("a folder");
        std::os::unix::fs::symlink("nowhere", &there).expect("a link");
        let sent = init(&out);
        assert_eq!(sent.code, Some(1), "{file}: {}", sent.out);
        assert!(
            sent.err.contains(&format!("{out}/{file} is there already: nothing was written")),
            "{}",
            sent.err
        );
        assert_eq!(files(&folder.path(&out)), std::slice::from_ref(file));
    }
    let before = fs::read_to_string(folder.path("pair/pki/dmz.key")).expect("a key");
    let again = init("pair");
    assert_eq!(again.code, Some(1), "{}", again.out);
    assert_eq!(fs::read_to_string(folder.path("pair/pki/dmz.key")).expect("a key"), before);

    // What is in the way is met late: what was made before it is gone again.
    fs::create_dir(folder.path("blocked")).expect("a folder");
    folder.write("blocked/pki", "a file");
    let blocked = init("blocked");
    assert_eq!(blocked.code, Some(1), "{}", blocked.out);
    assert_eq!(files(&folder.path("blocked")), ["pki"], "{}", blocked.err);
}

#[test]
fn a_bad_answer_says_what_to_do_and_writes_nothing() {
    let folder = TestFolder::with_certificates();
    for (args, words) in [
        (&["dmz"][..], "--dmz-host is needed: where the internal gateway dials"),
        (&["internal", "--mode", "forward"], "--internal-host is needed"),
        (&["pair", "--mode", "direct"], "copy profiles/direct.yaml"),
        (&["pair", "--service", "a b"], "a b"),
        (&["pair", "--service", "@ACCEPT@"], "@ACCEPT@"),
        (&["pair", "--accept", "https://0.0.0.0:443"], "tls"),
        (&["pair", "--accept", "nonsense://x"], "nonsense"),
        (&["pair", "--accept", "\"]\n"], "has no port"),
        (&["pair", "--connect", "127.0.0.1"], "has no port"),
        (&["pair", "--accept", "http://127.0.0.1:8000", "--connect", "9000"], "do not go together"),
        (&["pair", "--link-port", "8000"], "8000"),
        (&["dmz", "--dmz-host", "a host"], "a host"),
        (&["dmz", "--dmz-host", "192.0.2.1:99"], "`192.0.2.1:99` is more than a name"),
        (&["dmz", "--dmz-host", "tcp://10.0.0.5"], "give it alone; the link's port"),
    ] {
        let sent = run(&folder, &[&["init", "--out", "bad"], args].concat());
        assert_eq!(sent.code, Some(2), "{args:?}: {}{}", sent.out, sent.err);
        assert!(sent.err.contains(words), "{args:?}: {}", sent.err);
        assert!(!folder.path("bad").exists(), "{args:?}");
    }
    // What clients send as requests goes where requests are answered.
    let web = run(&folder, &["init", "pair", "--out", "web", "--accept", "http://127.0.0.1:8000"]);
    assert_eq!(web.code, Some(0), "{}", web.err);
    assert_eq!(run(&folder, &["check", "web/dmz.yaml", "web/internal.yaml"]).code, Some(0));
}

/// The first steps of a new user.
#[test]
fn the_first_errors_name_the_next_step() {
    let folder = TestFolder::with_certificates();
    for (args, words) in [
        (&["check"][..], "write a first one with `portcullis init pair`"),
        (&["profiles"], "write a first one with `portcullis init pair`"),
        (&["--profile", "edge", "--no-ui"], "write a first profile with `portcullis init`"),
        (&["--profile", "edge.yaml", "--no-ui"], "write a first profile with `portcullis init`"),
        (&["status"], "start one with `portcullis --profile NAME`"),
        (&["attach"], "start one with `portcullis --profile NAME`"),
        (&["replay", "yesterday"], "name a file that `--record` has written"),
    ] {
        let sent = run(&folder, args);
        assert!(sent.err.contains(words), "{args:?}: {}", sent.err);
    }
}

#[test]
fn check_prints_what_would_run() {
    let folder = TestFolder::with_certificates();
    folder.write("direct.yaml", crate::DIRECT);
    let sent = run(&folder, &["check", "direct.yaml"]);
    let end = "`portcullis --profile direct.yaml` would run:\n  the DMZ half, which reaches the backends itself\n  \
               echo: clients at tcp://127.0.0.1:0 → echo://\n";
    assert!(sent.out.ends_with(end), "{}", sent.out);
    let sent = run(&folder, &["check", "direct.yaml", "--mode", "direct", "--role", "dmz"]);
    assert!(
        sent.out.contains("`portcullis --profile direct.yaml --mode direct --role dmz` would run:"),
        "{}",
        sent.out
    );
    // An unreadable profile gets no plan.
    folder.write("bad.yaml", "mode: sideways\n");
    assert!(!run(&folder, &["check", "bad.yaml", "direct.yaml"]).out.contains("would run"));
}
