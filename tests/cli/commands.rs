//! Commands that need no running gateway.

use std::{
    fs::{self, File},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Stdio,
};

use clap::CommandFactory;
use portcullis::cli::Cli;
use serde_json::Value;

use crate::{
    CommandOutput, DIRECT,
    process::TestFolder,
    run,
    setup::{dmz_half, internal_half},
};

/// A pair in one file, both modes ready.
fn pair() -> String {
    let dmz = dmz_half("127.0.0.1:0", &["web"]);
    let internal = internal_half("127.0.0.1:9", &[("web", "tcp://127.0.0.1:9")]);
    dmz + internal.trim_start_matches("mode: reverse\n")
}

fn mode(path: &Path) -> u32 {
    path.metadata().expect("the file is there").permissions().mode() & 0o777
}

#[test]
fn check_warns_of_a_backend_at_the_admin_socket_of_a_gateway() {
    let folder = TestFolder::with_certificates();
    let profile = |socket: &Path| {
        let socket = socket.display();
        format!(
            "mode: direct\ndmz: {{ services: {{ app: {{ accept: 'tcp://127.0.0.1:0', connect: 'unix://{socket}' }} }} }}\n"
        )
    };
    folder.write("own.yaml", &profile(&folder.path("run/portcullis/own.sock")));
    folder.write("other.yaml", &profile(&folder.path("run/other.sock")));
    let CommandOutput { code, out, .. } = run(&folder, &["check", "own.yaml"]);
    assert!(code == Some(0) && out.contains("is where admin sockets of gateways are"), "{out}");
    let CommandOutput { code, out, .. } = run(&folder, &["check", "other.yaml"]);
    assert!(code == Some(0) && !out.contains("warning"), "{out}");
}

#[test]
fn exit_codes_without_a_gateway() {
    let folder = TestFolder::with_certificates();
    folder.write("bad.yaml", "mode: sideways\n");
    for (args, code) in [
        (&["--version"][..], 0),
        (&["--help"], 0),
        (&["certs", "--out", "pki"], 0),
        (&["schema"], 0),
        (&["man"], 0),
        (&["completions", "bash"], 0),
        (&["print-config", "demo"], 0),
        (&["print-config", "bad.yaml"], 2),
        (&["status"], 1),
        (&["status", "--json", "--admin", "run/none.sock"], 1),
        (&["stop"], 1),
        (&["drain"], 1),
        (&["reload"], 1),
        (&["kill", "1"], 1),
        (&["lockdown"], 1),
        (&["unlock", "orders"], 1),
        (&["switch", "other"], 1),
        (&["--no-such-flag"], 2),
        (&["no-such-command"], 2),
        (&["kill"], 2),
        (&["--mode", "sideways"], 2),
        (&["--role", "outside"], 2),
        (&["completions", "cobol"], 2),
        (&["--profile", "bad.yaml"], 2),
        (&["--profile", "nobody"], 2),
        (&["check", "bad.yaml"], 2),
        (&["check", "nobody"], 2),
    ] {
        let sent = run(&folder, args);
        assert_eq!(sent.code, Some(code), "{args:?}: {}{}", sent.out, sent.err);
        let text = if code == 0 || args[0] == "check" { &sent.out } else { &sent.err };
        assert!(!text.trim().is_empty(), "{args:?} says nothing");
    }
    assert_eq!(run(&folder, &["schema"]).out.parse::<serde_json::Value>().map(|_| ()).ok(), Some(()));
}

#[test]
fn check_prints_every_problem_where_it_is() {
    let folder = TestFolder::with_certificates();
    fs::create_dir(folder.path("profiles")).expect("a folder");
    folder.write("profiles/good.yaml", DIRECT);
    let good = run(&folder, &["check"]);
    assert_eq!(good.code, Some(0), "{}", good.out);
    assert!(good.out.contains("profiles/good.yaml: ok, direct, dmz"), "{}", good.out);

    folder.write(
        "profiles/bad.yaml",
        "mode: direct\ndmz:\n  services:\n    echo: { accept: [\"tcp://127.0.0.1\"], connect: \"echo://\" }\n\
         drain: 30\nwrong: 1\n",
    );
    let bad = run(&folder, &["check"]);
    assert_eq!(bad.code, Some(2), "{}", bad.out);
    for start in [
        "profiles/bad.yaml:4:22: dmz.services.echo.accept",
        "profiles/bad.yaml:5:8: drain: ",
        "profiles/bad.yaml:6:1: wrong: ",
    ] {
        let line = bad.out.lines().find(|line| line.starts_with(start));
        let line = line.unwrap_or_else(|| panic!("no `{start}` in\n{}", bad.out));
        assert!(line.contains("; "), "no advice: {line}");
    }
    assert!(bad.out.contains("profiles/good.yaml: ok"), "one bad profile hides no good one");
    let list = run(&folder, &["profiles"]).out;
    assert!(list.lines().any(|line| line.starts_with("good ") && line.contains(" valid ")), "{list}");
    assert!(list.lines().any(|line| line.starts_with("bad ") && line.contains(" invalid ")), "{list}");
}

#[test]
fn missing_certificates_are_named_one_by_one() {
    let folder = TestFolder::with_certificates();
    folder.write("pair.yaml", &pair());
    assert_eq!(run(&folder, &["check", "pair.yaml"]).code, Some(0));
    fs::remove_dir_all(folder.path("pki")).expect("they are removed");
    let sent = run(&folder, &["check", "pair.yaml"]);
    assert_eq!(sent.code, Some(2));
    for file in ["ca.pem", "dmz.pem", "dmz.key", "internal.pem", "internal.key"] {
        assert!(sent.out.contains(&format!("pki/{file}")), "{file} is not named:\n{}", sent.out);
    }
    // The gateway says the same and opens nothing.
    let start = run(&folder, &["--profile", "pair.yaml", "--no-ui"]);
    assert_eq!(start.code, Some(2), "{}", start.err);
    assert!(start.err.contains("pki/dmz.key"), "{}", start.err);
    assert!(!folder.path("run/portcullis").exists(), "nothing was opened");
}

#[test]
fn a_role_leaves_the_files_of_the_other_half_alone() {
    let folder = TestFolder::with_certificates();
    folder.write("pair.yaml", &pair());
    for (half, other) in [("dmz", "internal"), ("internal", "dmz")] {
        for ending in ["pem", "key"] {
            let (file, aside) = (format!("pki/{other}.{ending}"), format!("{other}.{ending}"));
            fs::rename(folder.path(&file), folder.path(&aside)).expect("it is moved");
        }
        let sent = run(&folder, &["check", "pair.yaml", "--role", half]);
        assert_eq!(sent.code, Some(0), "{}", sent.out);
        for ending in ["pem", "key"] {
            let (file, aside) = (format!("pki/{other}.{ending}"), format!("{other}.{ending}"));
            fs::rename(folder.path(&aside), folder.path(&file)).expect("it is moved back");
        }
    }
}

#[test]
fn certs_makes_private_keys_and_never_overwrites() {
    let folder = TestFolder::with_certificates();
    let files = ["ca.pem", "ca.key", "dmz.pem", "dmz.key", "internal.pem", "internal.key"];
    let made = run(&folder, &["certs", "--out", "new/pki", "--dmz", "dmz-2", "--internal", "internal-2"]);
    assert_eq!(made.code, Some(0), "{}", made.err);
    let read = |file: &str| fs::read(folder.path(&format!("new/pki/{file}"))).expect("it was made");
    for file in files {
        assert!(made.out.contains(file), "{file} is not named: {}", made.out);
        if file.ends_with("key") {
            assert_eq!(mode(&folder.path(&format!("new/pki/{file}"))), 0o600, "{file}");
        }
    }
    let before = files.map(read);
    let again = run(&folder, &["certs", "--out", "new/pki"]);
    assert_eq!((again.code, files.map(read)), (Some(0), before.clone()), "{}", again.out);

    // What is missing comes from the CA that is there.
    for file in ["internal.pem", "internal.key"] {
        fs::remove_file(folder.path(&format!("new/pki/{file}"))).expect("it is removed");
    }
    let refilled = run(&folder, &["certs", "--out", "new/pki", "--internal", "internal-3"]);
    assert_eq!(refilled.code, Some(0), "{}", refilled.err);
    assert_eq!((read("ca.pem"), read("dmz.key")), (before[0].clone(), before[3].clone()));
    folder.write("pair.yaml", &pair().replace("pki/", "new/pki/"));
    assert_eq!(run(&folder, &["check", "pair.yaml"]).code, Some(0), "the new one is of the same CA");

    // Half a pair is not completed by guessing.
    fs::remove_file(folder.path("new/pki/dmz.key")).expect("it is removed");
    let half = run(&folder, &["certs", "--out", "new/pki"]);
    assert_eq!(half.code, Some(1), "{}", half.out);
    assert!(half.err.contains("dmz.pem") && half.err.contains("dmz.key"), "{}", half.err);
    assert_eq!(read("dmz.pem"), before[2]);
    // Nor is a file written through a link that somebody left there.
    symlink(folder.path("elsewhere"), folder.path("new/pki/dmz.key")).expect("a link");
    fs::remove_file(folder.path("new/pki/dmz.pem")).expect("it is removed");
    assert_eq!(run(&folder, &["certs", "--out", "new/pki"]).code, Some(1));
    assert!(!folder.path("elsewhere").exists(), "a key was written through a link");
}

#[test]
fn bad_keys_and_certificates_are_refused_with_their_reason() {
    let folder = TestFolder::with_certificates();
    folder.write("dmz.yaml", &dmz_half("127.0.0.1:0", &["web"]));
    let check = |wanted: &str| {
        let sent = run(&folder, &["check", "dmz.yaml"]);
        assert_eq!(sent.code, Some(2), "{wanted}: {}", sent.out);
        assert!(sent.out.contains(wanted), "`{wanted}` is not in: {}", sent.out);
        assert!(sent.out.starts_with("dmz.yaml:3:"), "the place is not reported: {}", sent.out);
        let start = run(&folder, &["--profile", "dmz.yaml", "--no-ui"]);
        assert_eq!(start.code, Some(2), "{}", start.err);
    };
    let copy = |from: &str, to: &str| {
        // Truncates and keeps the mode of what was there.
        fs::write(folder.path(to), fs::read(folder.path(from)).expect("a file")).expect("written");
    };
    copy("pki/dmz.key", "dmz.key");
    copy("pki/dmz.pem", "dmz.pem");

    for open in [0o604, 0o644, 0o660, 0o620] {
        fs::set_permissions(folder.path("pki/dmz.key"), fs::Permissions::from_mode(open)).expect("a mode");
        check("chmod 600");
    }
    fs::set_permissions(folder.path("pki/dmz.key"), fs::Permissions::from_mode(0o600)).expect("a mode");
    copy("pki/internal.key", "pki/dmz.key");
    check("it is not the key of the certificate");
    fs::write(folder.path("pki/dmz.key"), "no key\n").expect("written");
    check("it holds no private key");
    copy("dmz.key", "pki/dmz.key");
    fs::write(folder.path("pki/dmz.pem"), "no certificate\n").expect("written");
    check("it holds no certificate");

    let (certificate, key) = expired(&folder);
    fs::write(folder.path("pki/dmz.pem"), certificate).expect("written");
    fs::write(folder.path("pki/dmz.key"), key).expect("written");
    check("its certificate expired on ");

    run(&folder, &["certs", "--out", "other"]);
    copy("other/dmz.pem", "pki/dmz.pem");
    copy("other/dmz.key", "pki/dmz.key");
    check(
        "it cannot serve as a TLS server: certificate 1 of 1 (`CN=dmz`) is issued by `CN=portcullis private CA",
    );
    copy("dmz.pem", "pki/dmz.pem");
    copy("dmz.key", "pki/dmz.key");
    assert_eq!(run(&folder, &["check", "dmz.yaml"]).code, Some(0));
}

/// A certificate of the folder's CA that ended yesterday.
fn expired(folder: &TestFolder) -> (String, String) {
    issued(folder, "dmz", -10, -1)
}

/// A certificate of the folder's CA for `name`, valid between these days from now, and its key.
pub fn issued(folder: &TestFolder, name: &str, from_day: i64, to_day: i64) -> (String, String) {
    use rcgen::{CertificateParams, Issuer, KeyPair};
    let read = |file| fs::read_to_string(folder.path(file)).expect("a file");
    let authority = KeyPair::from_pem(&read("pki/ca.key")).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&read("pki/ca.pem"), authority).expect("a CA");
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now + time::Duration::days(from_day);
    params.not_after = now + time::Duration::days(to_day);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &issuer).expect("a certificate");
    (certificate.pem(), key.serialize_pem())
}

/// Every command that prints an answer without a gateway.
const ANSWERS: &[&[&str]] = &[
    &["schema"],
    &["man"],
    &["--help"],
    &["help", "attach"],
    &["--version"],
    &["-V"],
    &["check"],
    &["check", "--json"],
    &["profiles"],
    &["init", "pair", "--out", "trial"],
    &["audit", "verify", "audit.log"],
    &["verify", "--profile", "direct"],
    &["verify", "--json", "--profile", "direct"],
    &["completions", "bash"],
    &["certs", "--out", "more"],
    &["certs", "--out", "pki"],
];

fn with_a_profile() -> TestFolder {
    let folder = TestFolder::with_certificates();
    fs::create_dir(folder.path("profiles")).expect("a folder");
    folder.write("profiles/direct.yaml", DIRECT);
    folder.write("audit.log", "");
    folder
}

#[test]
fn a_reader_that_has_had_enough_is_no_error() {
    let folder = with_a_profile();
    for command in ANSWERS {
        let mut child = folder.command(command).stdout(Stdio::piped()).spawn().expect("it starts");
        drop(child.stdout.take());
        assert_eq!(child.wait().expect("it ends").code(), Some(0), "{command:?}");
    }
    let mut child =
        folder.command(&["verify", "--profile", "direct"]).stderr(Stdio::piped()).spawn().expect("it starts");
    drop(child.stderr.take());
    assert_eq!(child.wait().expect("it ends").code(), Some(0), "progress that nobody reads");
}

#[test]
fn an_answer_that_cannot_be_written_is_an_error() {
    let folder = with_a_profile();
    for command in ANSWERS {
        let full = File::options().write(true).open("/dev/full").expect("Linux has it");
        let output = folder.command(command).stdout(full).output().expect("it runs");
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{command:?}: {err}");
        assert!(err.contains("No space left on device"), "{command:?}: {err}");
    }
}

#[test]
fn a_folder_without_profiles_is_no_success() {
    let folder = TestFolder::with_certificates();
    fs::create_dir(folder.path("none")).expect("a folder");
    for (subfolder, why) in [("none", "holds none"), ("missing", "No such file or directory")] {
        let sent = run(&folder, &["check", "--profiles", subfolder]);
        assert_eq!(sent.code, Some(2), "{}", sent.out);
        assert!(sent.err.contains(subfolder) && sent.err.contains(why), "{}", sent.err);
    }
}

#[test]
fn check_looks_at_the_profile_that_is_named_and_no_other() {
    let folder = with_a_profile();
    folder.write("profiles/bad.yaml", "mode: sideways\n");
    assert_eq!(run(&folder, &["check"]).code, Some(2));
    let sent = run(&folder, &["check", "--profile", "direct"]);
    assert_eq!(sent.code, Some(0), "{}", sent.out);
    assert!(!sent.out.contains("bad.yaml"), "{}", sent.out);
    assert_eq!(run(&folder, &["check", "--profile", "bad"]).code, Some(2));
}

#[test]
fn halves_that_are_checked_together_have_to_go_together() {
    let folder = TestFolder::with_certificates();
    let check = |files: &[&str], wanted: &[&str]| {
        let sent = run(&folder, &[&["check"], files].concat());
        assert_eq!(sent.code, Some(if wanted.is_empty() { 0 } else { 2 }), "{files:?}: {}", sent.out);
        for wanted in wanted {
            assert!(sent.out.contains(wanted), "`{wanted}` is not in: {}", sent.out);
        }
    };
    folder.write("edge.yaml", &dmz_half("127.0.0.1:0", &["db"]));
    folder.write("inside.yaml", &internal_half("127.0.0.1:9", &[("db", "tcp://127.0.0.1:10")]));
    check(&["edge.yaml", "inside.yaml"], &[]);
    folder.write("other.yaml", &internal_half("127.0.0.1:9", &[("database", "tcp://127.0.0.1:10")]));
    check(&["edge.yaml"], &[]);
    check(
        &["edge.yaml", "other.yaml"],
        &[
            "edge.yaml:",
            "dmz.services.db: service `db` has no partner in the other half",
            "other.yaml:",
            "internal.services.database: service `database` has no partner",
        ],
    );
    // A second internal gateway may serve the rest.
    folder.write("both.yaml", &dmz_half("127.0.0.1:0", &["db", "database"]));
    check(&["both.yaml", "inside.yaml", "other.yaml"], &[]);
    folder.write("http.yaml", &internal_half("127.0.0.1:9", &[("db", "http://127.0.0.1:10")]));
    check(&["edge.yaml", "http.yaml"], &["`db` carries bytes on the DMZ half, and http here"]);
    let forward = fs::read_to_string(folder.path("inside.yaml"))
        .expect("a file")
        .replace("mode: reverse", "mode: forward");
    let forward =
        forward.replace("connect: \"socks+tls://127.0.0.1:9\"", "listen: \"socks+tls://127.0.0.1:9\"");
    folder.write("forward.yaml", &forward);
    check(&["edge.yaml", "forward.yaml"], &["runs in another mode, so no link joins them"]);
    // Of two pairs, each half has its partner.
    check(&["edge.yaml", "inside.yaml", "forward.yaml"], &["runs in another mode, so no link joins them"]);
    let dials = fs::read_to_string(folder.path("edge.yaml"))
        .expect("a file")
        .replace("mode: reverse", "mode: forward");
    let dials = dials.replace("listen: \"socks", "connect: \"socks").replace("127.0.0.1:0", "127.0.0.1:9");
    folder.write("dials.yaml", &dials);
    check(&["edge.yaml", "inside.yaml", "dials.yaml", "forward.yaml"], &[]);
    let stranger = fs::read_to_string(folder.path("edge.yaml"))
        .expect("a file")
        .replace("peers: [internal]", "peers: [inner]");
    folder.write("stranger.yaml", &stranger);
    check(
        &["stranger.yaml", "inside.yaml"],
        &["stranger.yaml:", "it would refuse the other half, in inside.yaml", "`peers`"],
    );
}

#[test]
fn certificates_for_several_gateways_are_called_after_them() {
    let folder = TestFolder::with_certificates();
    let made = run(&folder, &["certs", "--out", "many", "--dmz", "gate-1,gate-2", "--internal", "inside"]);
    assert_eq!(made.code, Some(0), "{}", made.err);
    for file in
        ["ca.pem", "gate-1.pem", "gate-1.key", "gate-2.pem", "gate-2.key", "internal.pem", "internal.key"]
    {
        assert!(folder.path("many").join(file).is_file(), "{file}: {}", made.out);
    }
    assert!(!folder.path("many/dmz.pem").exists());
    let again = run(&folder, &["certs", "--out", "many", "--dmz", "gate-1,gate-2", "--internal", "inside"]);
    assert_eq!(again.code, Some(0), "{}", again.err);
    assert!(again.out.contains("nothing to make"), "{}", again.out);
    // What is there is for somebody else.
    let other = run(&folder, &["certs", "--out", "many", "--internal", "elsewhere"]);
    assert_eq!(other.code, Some(1), "{}", other.out);
    assert!(other.err.contains("internal.pem: is for `inside`, not for `elsewhere`"), "{}", other.err);
    for name in ["../escape", "ca", "crl", "", "a/b", ".hidden"] {
        let bad = run(&folder, &["certs", "--out", "many", "--dmz", name]);
        assert_eq!(bad.code, Some(1), "{name}: {}", bad.out);
    }
    assert!(!folder.path("escape.pem").exists());
}

#[test]
fn problems_are_reported_to_programs_as_a_list() {
    let folder = TestFolder::with_certificates();
    folder.write("good.yaml", crate::DIRECT);
    folder.write(
        "bad.yaml",
        "mode: sideways\ndmz:\n  services:\n    a: { accept: ['tcp://127.0.0.1:0'], conect: 'echo://' }\n",
    );
    let check = |args: &[&str]| {
        let sent = run(&folder, &[&["check", "--json"], args].concat());
        let reported: Value =
            serde_json::from_str(&sent.out).unwrap_or_else(|_| panic!("no JSON: {}", sent.out));
        (sent.code, reported)
    };
    assert_eq!(check(&["good.yaml"]), (Some(0), serde_json::json!([])));
    let (code, reported) = check(&["good.yaml", "bad.yaml", "none.yaml"]);
    assert_eq!(code, Some(2));
    let reported = reported.as_array().expect("a list");
    let lines = run(&folder, &["check", "good.yaml", "bad.yaml", "none.yaml"]).out;
    let lines: Vec<_> = lines.lines().filter(|line| !line.contains(": ok, ")).collect();
    let sent = |row: &Value| {
        let text = |name: &str| row[name].as_str().expect("text").to_owned();
        let [file, key, what, advice] = ["file", "key", "text", "advice"].map(text);
        format!("{file}:{}:{}: {key}: {what}; {advice}", row["line"], row["column"])
    };
    assert_eq!(reported.iter().map(sent).collect::<Vec<_>>(), lines, "the same in both forms");
    let mode = &reported[0];
    assert_eq!((&mode["file"], &mode["line"], &mode["key"]), (&"bad.yaml".into(), &1.into(), &"mode".into()));
}

#[test]
fn the_manual_page_is_whole() {
    let folder = TestFolder::with_certificates();
    let page = run(&folder, &["man"]).out;
    let sections = ["NAME", "SYNOPSIS", "OPTIONS", "COMMANDS", "SIGNALS", "FILES", "ENVIRONMENT", "EXAMPLES"];
    for section in sections.into_iter().chain(["\"EXIT STATUS\""]) {
        assert!(page.contains(&format!(".SH {section}")), "no {section}");
    }
    assert!(!page.contains(".SH EXTRA"), "the name that the library gives it");
    let commands = Cli::command();
    let commands: Vec<_> = commands.get_subcommands().map(|command| command.get_name()).collect();
    assert!(commands.len() > 20, "{commands:?}");
    let shown = || commands.iter().copied().filter(|command| *command != "selftest");
    for shell in ["bash", "zsh", "fish"] {
        let completions = run(&folder, &["completions", shell]).out;
        let missing: Vec<_> = shown().filter(|command| !completions.contains(*command)).collect();
        assert!(missing.is_empty(), "{shell}: no {missing:?}");
    }
    for command in commands {
        let name = command.replace('-', "\\-");
        assert!(page.contains(&format!("\\fB{name}\\fR")), "no {command}");
    }
    for word in ["SIGUSR1", "NOTIFY_SOCKET", "LISTEN_FDNAMES", "CREDENTIALS_DIRECTORY", "STATE_DIRECTORY"] {
        assert!(page.contains(word), "no {word}");
    }
    assert!(!page.contains("portcullis\\-check(1)"), "it refers to pages that are not installed");
}

#[test]
fn the_runtime_folder_is_the_units_own_and_absolute() {
    let folder = TestFolder::with_certificates();
    let ask = |variables: &[(&str, &str)]| {
        let mut command = folder.command(&["status"]);
        command.env_remove("XDG_RUNTIME_DIR").envs(variables.iter().copied());
        String::from_utf8(command.output().expect("it runs").stderr).expect("UTF-8")
    };
    let (unit, user) = (folder.path("unit"), folder.path("user"));
    let (unit, user) = (unit.to_str().expect("UTF-8"), user.to_str().expect("UTF-8"));
    assert!(
        ask(&[("RUNTIME_DIRECTORY", unit), ("XDG_RUNTIME_DIR", user)]).contains(&format!("({unit} holds"))
    );
    assert!(ask(&[("RUNTIME_DIRECTORY", &format!("{unit}:{user}"))]).contains(&format!("({unit} holds")));
    assert!(ask(&[("XDG_RUNTIME_DIR", user)]).contains(&format!("({user}/portcullis holds")));
    let relative = ask(&[("XDG_RUNTIME_DIR", "relative")]);
    assert!(!relative.contains("relative"), "{relative}");
}
