//! Who may read what is secret, and what a gateway says of files, ports and sockets that are not its own.

use std::{
    fs,
    net::TcpStream,
    os::unix::{
        fs::{PermissionsExt, chown},
        net::UnixListener,
        process::ExitStatusExt,
    },
    path::Path,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    CommandOutput, DIRECT, output_of,
    process::{SOON, TestFolder},
    setup::{dmz_half, free_port},
};

const NOBODY: u32 = 65534;
/// Root without its power over the files of others.
const WITHOUT_POWER: [&str; 3] = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"];
/// Root in a group that is nobody's in particular, as a unit's user is.
const IN_NO_GROUP: [&str; 4] = ["setpriv", "--regid=65534", "--clear-groups", "--"];

fn is_root(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: {test} needs root");
    }
    is_root
}

fn run_behind(folder: &TestFolder, wrapper: &[&str], args: &[&str]) -> CommandOutput {
    output_of(folder.wrapped(wrapper, args).output().expect("it runs"))
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

/// A key, a file of users and the login at a proxy, each in the folder `handed`.
const ALL_SECRETS: &str = "mode: forward\ndmz:\n  link:\n    connect: 'socks+tls://127.0.0.1:9'\n    \
    via: http://127.0.0.1:9\n    via_credentials: handed/login\n    \
    tls: { certificate: pki/dmz.pem, key: handed/dmz.key, ca: pki/ca.pem, peers: [internal] }\n  services:\n    \
    web:\n      accept: [{ address: 'https://127.0.0.1:0', tls: { certificate: pki/dmz.pem, key: handed/dmz.key } }]\n      \
    auth: { basic: handed/users, realm: web }\n";
const USERS: &str = "alice:$2b$04$mPxoEKurFJxN9brGFUz.KuNr8BQiL0MNMI93eNTwce6AL7yg70siS\n";

#[test]
fn what_systemd_hands_over_is_taken_from_its_own_folder_alone() {
    if !is_root("what_systemd_hands_over_is_taken_from_its_own_folder_alone") {
        return;
    }
    let folder = TestFolder::with_certificates();
    fs::create_dir(folder.path("handed")).expect("a folder");
    fs::copy(folder.path("pki/dmz.key"), folder.path("handed/dmz.key")).expect("a copy");
    folder.write("handed/users", USERS);
    folder.write("handed/login", "gate:secret\n");
    // As systemd leaves them from version 254 on, where the unit has a user: an access control list lets that in,
    // and its mask is what the mode shows for the group.
    ["dmz.key", "users", "login"].iter().for_each(|name| set_mode(&folder.path("handed").join(name), 0o440));
    set_mode(&folder.path("handed"), 0o550);
    folder.write("dmz.yaml", ALL_SECRETS);
    let subfolder = format!("CREDENTIALS_DIRECTORY={}", folder.path("handed").display());
    let handed = [&["env", &subfolder][..], &IN_NO_GROUP].concat();
    let well = run_behind(&folder, &handed, &["check", "dmz.yaml"]);
    assert_eq!(well.code, Some(0), "{}", well.out);
    let gateway = folder.start_as("dmz", &handed, &["--no-ui", "--profile", "dmz.yaml"]);
    assert_eq!(gateway.status()["phase"], "running");
    // The same files in a folder like any other are open to a group, each of them.
    let other = format!("CREDENTIALS_DIRECTORY={}", folder.path("pki").display());
    for wrapper in [IN_NO_GROUP.to_vec(), [&["env", &other][..], &IN_NO_GROUP].concat()] {
        for file in ["login", "dmz.key", "users"] {
            let output = run_behind(&folder, &wrapper, &["check", "dmz.yaml"]);
            let open =
                output.out.lines().find(|line| line.contains(&format!("handed/{file}: others may read it")));
            assert!(output.code == Some(2) && open.is_some(), "{file}: {}", output.out);
            set_mode(&folder.path("handed").join(file), 0o600);
        }
        assert_eq!(run_behind(&folder, &wrapper, &["check", "dmz.yaml"]).code, Some(0));
        ["dmz.key", "users", "login"].iter().for_each(|it| set_mode(&folder.path("handed").join(it), 0o440));
    }
}

#[test]
fn a_key_of_root_and_a_group_is_taken_by_its_members_alone() {
    if !is_root("a_key_of_root_and_a_group_is_taken_by_its_members_alone") {
        return;
    }
    let folder = TestFolder::with_certificates();
    folder.write("dmz.yaml", &dmz_half("127.0.0.1:0", &["echo"]));
    let key = folder.path("pki/dmz.key");
    chown(&key, Some(0), Some(4242)).expect("another group");
    let member = ["setpriv", "--regid=65534", "--groups=4242", "--"];
    for mode in [0o640, 0o440] {
        set_mode(&key, mode);
        let taken = run_behind(&folder, &member, &["check", "dmz.yaml"]);
        assert_eq!(taken.code, Some(0), "{mode:o}: {}", taken.out);
        let refused = run_behind(&folder, &IN_NO_GROUP, &["check", "dmz.yaml"]);
        assert_eq!(refused.code, Some(2), "{mode:o}: {}", refused.out);
        assert!(refused.out.contains("dmz.key: others may read it"), "{}", refused.out);
    }
    let gateway = folder.start_as("dmz", &member, &["--no-ui", "--profile", "dmz.yaml"]);
    assert_eq!(gateway.status()["phase"], "running");
}

/// Nothing but the socket's own mode keeps it out: every folder on the way is open.
#[test]
fn another_user_gets_no_answer_at_an_admin_socket() {
    if !is_root("another_user_gets_no_answer_at_an_admin_socket") {
        return;
    }
    let folder = TestFolder::with_certificates();
    folder.write("edge.yaml", DIRECT);
    let gateway = folder.start("edge");
    [".", "run"].iter().for_each(|open| set_mode(&folder.path(open), 0o755));
    let other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    for command in [&["status"][..], &["stop"], &["drain"]] {
        let args = [command, &["--admin", "run/edge.sock"]].concat();
        let refused = run_behind(&folder, &other, &args);
        let says_so = refused.err.to_lowercase().contains("permission denied");
        assert!(refused.code == Some(1) && says_so, "{command:?}: {:?} {}", refused.code, refused.err);
    }
    assert_eq!(gateway.status()["phase"], "running");
}

#[test]
fn an_unreadable_file_is_reported_with_the_fix() {
    if !is_root("an_unreadable_file_is_reported_with_the_fix") {
        return;
    }
    let folder = TestFolder::with_certificates();
    fs::create_dir(folder.path("handed")).expect("a folder");
    fs::copy(folder.path("pki/dmz.key"), folder.path("handed/dmz.key")).expect("a copy");
    folder.write("handed/users", USERS);
    folder.write("handed/login", "gate:secret\n");
    folder.write("dmz.yaml", ALL_SECRETS);
    let files = ["dmz.yaml", "handed/dmz.key", "handed/users", "handed/login"];
    files.iter().for_each(|file| set_mode(&folder.path(file), 0o600));
    for file in files {
        chown(folder.path(file), Some(NOBODY), None).expect("another owner");
        let output = run_behind(&folder, &WITHOUT_POWER, &["check", "dmz.yaml"]);
        let step = "it belongs to `nobody`, and this runs as `root`: run `chown root: ";
        let reported = output.out.lines().any(|line| line.contains(step) && line.contains(file));
        assert!(output.code == Some(2) && reported, "{file}: {}", output.out);
        assert!(!output.out.contains("portcullis certs"), "{}", output.out);
        chown(folder.path(file), Some(0), None).expect("its owner again");
    }
}

/// However much its surroundings allow, and though its owner may look at it as ever.
#[test]
fn a_gateway_leaves_no_core_dump() {
    let folder = TestFolder::with_certificates();
    folder.write("one.yaml", DIRECT);
    let allowed = ["sh", "-c", "ulimit -S -c \"$(ulimit -H -c)\"; exec \"$@\"", "sh"];
    let gateway = folder.start_as("one", &allowed, &["--no-ui", "--profile", "one.yaml"]);
    let process = format!("/proc/{}", gateway.child.id());
    assert!(fs::read_dir(format!("{process}/fd")).is_ok_and(|open| open.count() > 3));
    let limits = fs::read_to_string(format!("{process}/limits")).expect("its limits");
    let limit = limits.lines().find(|line| line.starts_with("Max core file size")).expect("it has one");
    assert!(limit.split_whitespace().skip(4).take(2).all(|bytes| ["0", "1"].contains(&bytes)), "{limit}");
    gateway.signal(Signal::ABORT);
    let ended = gateway.ended();
    assert!(ended.signal().is_some() && !ended.core_dumped(), "{ended}");
}

#[test]
fn a_socket_a_port_and_a_folder_that_are_not_to_be_had_name_the_next_step() {
    let folder = TestFolder::with_certificates();
    let start = "start it with `portcullis --profile NAME`, or name another socket with --admin";
    let absent = crate::run(&folder, &["status", "--admin", "run/none.sock"]);
    assert!(absent.code == Some(1) && absent.err.contains(start), "{}", absent.err);
    let held = std::net::TcpListener::bind(("127.0.0.1", free_port())).expect("a free port");
    let port = held.local_addr().expect("its address").port();
    folder.write("one.yaml", &DIRECT.replace("127.0.0.1:0", &format!("127.0.0.1:{port}")));
    let taken = crate::run(&folder, &["--no-ui", "--profile", "one.yaml"]);
    assert!(
        taken.code == Some(1) && taken.err.contains("; stop that program or use another port"),
        "{}",
        taken.err
    );
    folder.write("file", "no folder");
    let init = crate::run(&folder, &["init", "pair", "--out", "file"]);
    assert!(init.code == Some(1) && init.err.contains("choose a folder with --out"), "{}", init.err);
    if !is_root("a socket of another user") {
        return;
    }
    folder.write("one.yaml", DIRECT);
    let _gateway = folder.start("one");
    chown(folder.path("run/one.sock"), Some(NOBODY), None).expect("another owner");
    let foreign = run_behind(&folder, &WITHOUT_POWER, &["status", "--admin", "run/one.sock"]);
    let step = "ask as the user that runs it, or with sudo";
    assert!(foreign.code == Some(1) && foreign.err.contains(step), "{}", foreign.err);
    fs::create_dir(folder.path("theirs")).expect("a folder");
    set_mode(&folder.path("theirs"), 0o755);
    chown(folder.path("theirs"), Some(NOBODY), None).expect("another owner");
    for command in [&["init", "pair", "--out", "theirs"][..], &["certs", "--out", "theirs"]] {
        let output = run_behind(&folder, &WITHOUT_POWER, command);
        assert!(
            output.code == Some(1) && output.err.contains("choose a folder with --out"),
            "{}",
            output.err
        );
    }
}

#[test]
fn a_unix_socket_of_a_backend_that_may_not_be_written_to_has_its_own_error() {
    if !is_root("a_unix_socket_of_a_backend_that_may_not_be_written_to_has_its_own_error") {
        return;
    }
    let folder = TestFolder::with_certificates();
    let path = folder.path("app.sock");
    let _backend = UnixListener::bind(&path).expect("it binds");
    chown(&path, Some(NOBODY), None).expect("another owner");
    set_mode(&path, 0o600);
    let address = format!("unix://{}", path.display());
    folder.write("one.yaml", &DIRECT.replace("echo://", &address));
    let gateway = folder.start_as("one", &WITHOUT_POWER, &["--no-ui", "--profile", "one.yaml"]);
    // It is refused, which may be before its connect call returns.
    let _client = TcpStream::connect(gateway.accept("echo"));
    let words = "this gateway may not write to it";
    gateway.wait("it is refused", SOON, |status: &Value| {
        let row = &status["ended"][0];
        let reason = row["reason"].as_str().unwrap_or_default();
        row["end"] == "BC" && reason.contains(words) && reason.contains(&address)
    });
}
