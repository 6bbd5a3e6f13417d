//! Two versions side by side: the version before this one at one half, and this build at the other. They meet in SOCKS5,
//! whoever dials and in both modes, and one line says so.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr},
    path::{Path, PathBuf},
    thread,
};

use portcullis::profile::{Half, Mode};
use serde_json::Value;

use crate::{
    connect,
    ports::free_ports,
    process::{Gateway, SOON, TestFolder},
    setup::{dmz_half, internal_half},
};

/// What the version before this one speaks on its links, what this one does, and what both do.
const PREVIOUS: &str = "portcullis/1";
pub const OURS: &str = "portcullis/2";
pub const SOCKS: &str = "socks/5";
/// This build, as it names itself.
const SOFTWARE: &str = concat!("portcullis ", env!("CARGO_PKG_VERSION"));
/// At once: more than links are prepared.
const CLIENTS: usize = 16;
const CLIENT_BYTES: usize = 300_000;

/// The program of the version before this one; where it is missing, the test says so and is left out.
pub fn program(test: &str) -> Option<PathBuf> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/previous/portcullis");
    if !program.is_file() {
        println!("skipped: {test} needs target/previous/portcullis, which tests/previous/build makes");
        return None;
    }
    Some(program)
}

impl TestFolder {
    /// Runs the gateway of the profile `NAME.yaml` by another version's program.
    pub fn start_by(&self, program: &Path, name: &str, profile: &str) -> Gateway<'_> {
        let program = program.to_str().expect("UTF-8");
        let command = self.command_line(&[program, "--no-ui", "--profile", profile]);
        let log = std::fs::File::create(self.path(&format!("{name}.log"))).expect("a log file");
        self.start_logging(name, command, log.into())
    }
}

/// Whether all rows for links are healthy and speak `protocol`.
fn uses_protocol(status: &Value, protocol: &str) -> bool {
    let rows = status["pools"].as_array().map(Vec::as_slice).unwrap_or_default();
    !rows.is_empty() && rows.iter().all(|row| row["state"] == "healthy" && row["protocol"] == protocol)
}

fn name(half: Half) -> &'static str {
    match half {
        Half::Dmz => "dmz",
        Half::Internal => "internal",
    }
}

/// Writes the profiles of a pair, and returns where clients connect.
fn write_pair(folder: &TestFolder, mode: Mode) -> SocketAddr {
    let [link, accept] = free_ports().map(|port| format!("127.0.0.1:{port}"));
    let dmz = dmz_half(&link, &["echo"]).replace("tcp://127.0.0.1:0", &format!("tcp://{accept}"));
    let dmz = dmz.replace("prepared: 2", "prepared: 2, wait: 20s");
    let internal = internal_half(&link, &[("echo", "echo://")]);
    let (dmz, internal) = match mode {
        Mode::Forward => (
            dmz.replace("mode: reverse", "mode: forward").replace("listen:", "connect:"),
            internal.replace("mode: reverse", "mode: forward").replace("link: { connect:", "link: { listen:"),
        ),
        Mode::Reverse | Mode::Direct => (dmz, internal),
    };
    folder.write("dmz.yaml", &dmz);
    folder.write("internal.yaml", &internal);
    accept.parse().expect("an address")
}

/// Many clients at once, each with bytes of its own and a half-close.
fn clients_are_carried(at: SocketAddr) {
    let client = move |number: usize| {
        let sent: Vec<_> = (0..CLIENT_BYTES).map(|at| (at / 7 + number) as u8).collect();
        let mut stream = connect(at);
        let mut sending = stream.try_clone().expect("a descriptor");
        let bytes = sent.clone();
        let sender = thread::spawn(move || {
            sending.write_all(&bytes).expect("they are sent");
            sending.shutdown(Shutdown::Write).expect("it is open");
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("a clean end");
        sender.join().expect("no panic");
        assert!(received == sent, "client {number} heard {} other bytes", received.len());
    };
    let clients: Vec<_> = (0..CLIENTS).map(|number| thread::spawn(move || client(number))).collect();
    clients.into_iter().for_each(|client| client.join().expect("it is carried"));
}

/// One WARN in the log and one notice, with all of `words`.
#[track_caller]
fn expect_one_notice(gateway: &Gateway, words: &[&str]) {
    let reported = |text: &str| text.contains("SOCKS5, one session each");
    let notices = gateway.status()["notices"].as_array().cloned().expect("a list");
    let notices: Vec<_> =
        notices.into_iter().filter(|notice| reported(notice["text"].as_str().expect("text"))).collect();
    let log = gateway.log();
    let lines: Vec<_> = log.lines().filter(|line| reported(line)).collect();
    assert!(notices.len() == 1 && lines.len() == 1, "{notices:?}\n{log}");
    assert!(notices[0]["level"] == "warn" && lines[0].contains(" WARN "), "{notices:?}\n{log}");
    for word in words {
        assert!(
            lines[0].contains(word) && notices[0].to_string().contains(word),
            "no {word} in {}",
            lines[0]
        );
    }
}

fn check_pair(test: &str, mode: Mode, old_half: Half) {
    let Some(program) = program(test) else { return };
    let folder = TestFolder::with_certificates();
    let clients = write_pair(&folder, mode);
    let (listens, dials) = match mode {
        Mode::Forward => (Half::Internal, Half::Dmz),
        Mode::Reverse | Mode::Direct => (Half::Dmz, Half::Internal),
    };
    let start = |half: Half| match half == old_half {
        true => folder.start_by(&program, name(half), &format!("{}.yaml", name(half))),
        false => folder.start(name(half)),
    };
    let (listening, dialling) = (start(listens), start(dials));
    let (new, dmz) = match (old_half == listens, listens) {
        (true, Half::Dmz) => (&dialling, &listening),
        (true, Half::Internal) => (&dialling, &dialling),
        (false, Half::Dmz) => (&listening, &listening),
        (false, Half::Internal) => (&listening, &dialling),
    };
    dmz.wait_healthy();

    // While a session is open, as without one a half that listens in forward mode has no link.
    let mut session = connect(clients);
    session.write_all(b"hello").expect("it is sent");
    session.read_exact(&mut [0; 5]).expect("it comes back");
    for half in [&listening, &dialling] {
        half.wait("it speaks SOCKS5", SOON, |status| uses_protocol(status, SOCKS));
    }
    clients_are_carried(clients);
    session.write_all(b"hello").expect("it is sent");
    session.read_exact(&mut [0; 5]).expect("it comes back");

    let both = [SOFTWARE, OURS, PREVIOUS];
    expect_one_notice(new, if listens == old_half { &both[..2] } else { &both });
}

#[test]
fn a_previous_internal_half_dials_in() {
    check_pair("a_previous_internal_half_dials_in", Mode::Reverse, Half::Internal);
}

#[test]
fn a_previous_dmz_half_is_dialled() {
    check_pair("a_previous_dmz_half_is_dialled", Mode::Reverse, Half::Dmz);
}

#[test]
fn a_previous_internal_half_is_dialled() {
    check_pair("a_previous_internal_half_is_dialled", Mode::Forward, Half::Internal);
}

#[test]
fn a_previous_dmz_half_dials_in() {
    check_pair("a_previous_dmz_half_dials_in", Mode::Forward, Half::Dmz);
}

/// A half that is started again in the other version and back is met in what it speaks then.
fn check_there_and_back(test: &str, changed: Half) {
    let Some(program) = program(test) else { return };
    let folder = TestFolder::with_certificates();
    let clients = write_pair(&folder, Mode::Reverse);
    let other = match changed {
        Half::Dmz => Half::Internal,
        Half::Internal => Half::Dmz,
    };
    let stays = folder.start(name(other));
    for protocol in [OURS, SOCKS, OURS] {
        let running = match protocol {
            SOCKS => folder.start_by(&program, name(changed), &format!("{}.yaml", name(changed))),
            _ => folder.start(name(changed)),
        };
        stays.wait(protocol, SOON, |status| uses_protocol(status, protocol));
        clients_are_carried(clients);
        let socket = format!("run/{}.sock", name(changed));
        let stopped = crate::run(&folder, &["stop", "--admin", &socket]);
        assert_eq!(stopped.code, Some(0), "{}", stopped.err);
        assert_eq!(running.ended().code(), Some(0));
    }
}

#[test]
fn a_dmz_half_goes_back_to_the_previous_version() {
    check_there_and_back("a_dmz_half_goes_back_to_the_previous_version", Half::Dmz);
}

#[test]
fn an_internal_half_goes_back_to_the_previous_version() {
    check_there_and_back("an_internal_half_goes_back_to_the_previous_version", Half::Internal);
}
