//! A dashboard on many gateways: over sockets, over a real ssh with a real sshd, and over any program.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::fs::{PermissionsExt, symlink},
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    full_disk, kept_hour,
    process::{Gateway, SOON, TestFolder, until},
    pty::Terminal,
    setup::{Pair, free_port},
    shop,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_portcullis");

/// A gateway whose socket is `run/NAME.sock`.
fn start<'a>(folder: &'a TestFolder, name: &str) -> Gateway<'a> {
    let gateway = folder.start_as(name, &[], &["--no-ui", "--profile", "shop.yaml"]);
    gateway.wait_healthy();
    // Where the remote end looks for the gateway of a profile.
    let subfolder = folder.path("run/portcullis");
    fs::create_dir_all(&subfolder).unwrap();
    fs::set_permissions(&subfolder, fs::Permissions::from_mode(0o700)).unwrap();
    symlink(folder.path(&format!("run/{name}.sock")), subfolder.join(format!("{name}.sock"))).unwrap();
    gateway
}

fn send(gateway: &Gateway<'_>, signal: Signal) {
    kill_process(Pid::from_raw(gateway.child.id() as i32).unwrap(), signal).unwrap();
}

/// The screen on these gateways, with this folder before all others in `PATH`.
fn attach(folder: &TestFolder, args: &[&str]) -> Terminal {
    let path = format!("PATH={}:{}", folder.path("bin").display(), std::env::var("PATH").unwrap());
    Terminal::run(folder, &[&["env", &path, PROGRAM, "attach"], args].concat())
}

#[track_caller]
fn until_row(terminal: &Terminal, words: &[&str]) {
    let is_row = |line: &str| words.iter().all(|word| line.contains(word));
    terminal.until(&words.join(" "), |screen| screen.contents().lines().any(is_row));
}

/// An sshd of its own for each connection to a port of this host, as inetd would start it: one user, one key.
struct SshServer {
    port: u16,
    ends: Arc<AtomicBool>,
    servers: Arc<Mutex<Vec<Child>>>,
}

impl SshServer {
    /// `forced` is what the key may run, whatever is asked.
    fn start(folder: &TestFolder, forced: &str) -> Self {
        let run = |command: &mut Command| {
            let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
            assert!(output.status.success(), "{command:?}: {output:?}");
        };
        for key in ["host", "user", "stranger"] {
            run(Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(folder.path(key)));
        }
        let public = fs::read_to_string(folder.path("user.pub")).unwrap();
        folder.write("authorized_keys", &format!("{forced}{public}"));
        let at = |name: &str| folder.path(name).display().to_string();
        folder.write("banner", "All that is done here is written down.\n");
        let config = format!(
            "Banner {}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\n\
             SetEnv PATH={}:/usr/bin:/bin XDG_RUNTIME_DIR={}\n",
            at("banner"),
            at("host"),
            at("authorized_keys"),
            at("bin"),
            at("run")
        );
        folder.write("sshd_config", &config);
        // Where sshd puts a process that has no rights yet; systemd makes it where that runs.
        fs::create_dir_all("/run/sshd").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (ends, servers) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (over, running, config) = (ends.clone(), servers.clone(), folder.path("sshd_config"));
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept()
                && !over.load(Ordering::Relaxed)
            {
                let input = OwnedFd::from(client.try_clone().unwrap());
                let mut server = Command::new("/usr/sbin/sshd");
                server.args(["-i", "-f"]).arg(&config).stdin(input).stdout(OwnedFd::from(client));
                running.lock().unwrap().push(server.stderr(Stdio::null()).spawn().unwrap());
            }
        });
        Self { port, ends, servers }
    }

    /// An `ssh` of the user's own that knows two hosts here: one that takes its key, and one that does not.
    fn write_client(&self, folder: &TestFolder) {
        let host = |name: &str, key: &str| {
            let (known, key) = (folder.path("known_hosts"), folder.path(key));
            format!(
                "Host {name}\n HostName 127.0.0.1\n Port {}\n User root\n IdentityFile {}\n IdentitiesOnly yes\n \
                 UserKnownHostsFile {}\n StrictHostKeyChecking accept-new\n",
                self.port,
                key.display(),
                known.display()
            )
        };
        folder.write("ssh_config", &(host("edge", "user") + &host("locked", "stranger")));
        let config = folder.path("ssh_config");
        write_script(&folder.path("bin/ssh"), &format!("exec /usr/bin/ssh -F {} \"$@\"\n", config.display()));
    }

    fn kill_connections(&self) {
        for mut server in self.servers.lock().unwrap().drain(..) {
            // One that has ended is as good.
            let _ = server.kill();
            server.wait().unwrap();
        }
    }
}

impl Drop for SshServer {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        // So that the accept returns.
        drop(std::net::TcpStream::connect(("127.0.0.1", self.port)));
        self.kill_connections();
    }
}

fn write_script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A place whose `bin` holds the program, as the `PATH` of a gateway's host would.
fn folder() -> TestFolder {
    let folder = shop();
    fs::create_dir(folder.path("bin")).unwrap();
    symlink(PROGRAM, folder.path("bin/portcullis")).unwrap();
    folder
}

#[test]
fn gateways_over_sockets_ssh_and_programs_are_one_screen_and_the_sick_cost_a_row_each() {
    let folder = folder();
    let server = SshServer::start(&folder, "");
    server.write_client(&folder);
    write_script(
        &folder.path("bin/greets"),
        "echo 'Welcome to inside.'; exec portcullis admin --stdio --admin run/shop.sock\n",
    );
    write_script(&folder.path("bin/hangs"), "echo $$ > hangs.pid; sleep 1000\n");
    let _here = start(&folder, "shop");
    let mut there = start(&folder, "far");
    let mut terminal = attach(
        &folder,
        &[
            "here=run/shop.sock",
            "there=ssh:edge:far",
            "greeting=exec:greets",
            "locked=ssh:locked",
            "absent=run/none.sock",
            "hanging=exec:hangs",
            "talks=exec:echo no gateway lives here",
            // It would ask for a password.
            "asks=exec:/usr/bin/ssh -F ssh_config -o PreferredAuthentications=password locked",
        ],
    );
    terminal.press("8");
    until_row(&terminal, &["calling", "hanging"]);
    for name in ["here", "there", "greeting"] {
        until_row(&terminal, &["HEALTHY", name]);
    }
    for name in ["locked", "absent", "talks", "asks"] {
        until_row(&terminal, &["UNREACHABLE", name]);
    }
    terminal.press(":only locked\r\r");
    terminal.until_shown("Permission denied");
    terminal.press("\u{1b}");
    terminal.until("the list again", |screen| !screen.contents().contains("Esc goes back"));
    terminal.press("o:only asks\r");
    terminal.until_shown("gateway asks cannot be reached: root@127.0.0.1: Permission denied");
    terminal.press("o");

    // A command goes over ssh as well, and the question names its gateway.
    terminal.press(":only there\rr");
    terminal.until_shown("done: there: ");
    until("the reload is written down", SOON, || {
        there.log().contains("operator kind=\"reload\"").then_some(())
    });
    // One that is refused stays on the screen, with the lines that it is about.
    let profile = fs::read_to_string(folder.path("shop.yaml")).unwrap();
    folder.write("shop.yaml", &profile.replacen("mode:", "mood:", 1));
    terminal.press("r");
    terminal.until("the reason and its lines", |screen| {
        let shown = screen.contents();
        shown.contains("refused: there: ") && shown.contains("1 | mood:")
    });
    folder.write("shop.yaml", &profile);
    terminal.press("o8");

    server.kill_connections();
    until_row(&terminal, &["UNREACHABLE", "there"]);
    until_row(&terminal, &["HEALTHY", "here"]);
    until_row(&terminal, &["HEALTHY", "there"]);
    there.child.kill().unwrap();
    until_row(&terminal, &["UNREACHABLE", "there"]);
    terminal.press("q");
    assert_eq!(terminal.exit_code(), 0);
    terminal.until_shown("The gateways keep running.");
    until_ended(&folder, "hangs.pid");
}

/// What a gateway is called by ends with the screen.
#[track_caller]
fn until_ended(folder: &TestFolder, file: &str) {
    let process = fs::read_to_string(folder.path(file)).unwrap();
    let file = format!("/proc/{}/stat", process.trim());
    until("what was started ends with the screen", SOON, || {
        let runs = fs::read_to_string(&file).is_ok_and(|stat| !stat.contains(") Z "));
        (!runs).then_some(())
    });
}

#[test]
fn a_screen_that_is_quit_by_a_signal_leaves_nothing_running() {
    for signal in [Signal::QUIT, Signal::TERM, Signal::HUP, Signal::INT] {
        let folder = folder();
        write_script(&folder.path("bin/hangs"), "echo $$ > pid.new; mv pid.new hangs.pid; sleep 1000\n");
        let mut terminal = attach(&folder, &["one=exec:hangs", "two=run/none.sock"]);
        terminal.until_shown("UNREACHABLE");
        until("it runs", SOON, || folder.path("hangs.pid").exists().then_some(()));
        let screen = Pid::from_raw(terminal.process() as i32).unwrap();
        kill_process(screen, signal).unwrap();
        let code = terminal.exit_code();
        assert!(code != 0 || signal != Signal::QUIT, "{signal:?}");
        terminal.until_left();
        until_ended(&folder, "hangs.pid");
    }
}

/// What carries the protocol is not the process that a service manager means.
#[test]
fn a_carrier_program_does_not_see_the_service_manager() {
    let folder = folder();
    write_script(&folder.path("bin/tells"), "env > reported.new; mv reported.new reported; sleep 1000\n");
    let path = format!("PATH={}:{}", folder.path("bin").display(), std::env::var("PATH").unwrap());
    let ours = [
        "NOTIFY_SOCKET=/run/notify",
        "WATCHDOG_USEC=1000000",
        "WATCHDOG_PID=1",
        "LISTEN_FDS=1",
        "LISTEN_PID=1",
        "LISTEN_FDNAMES=web",
    ];
    let attach =
        [&["env", &path][..], &ours, &[PROGRAM, "attach", "one=exec:tells", "two=run/none.sock"]].concat();
    let mut terminal = Terminal::run(&folder, &attach);
    let reported = until("it is reported", SOON, || fs::read_to_string(folder.path("reported")).ok());
    assert!(reported.lines().any(|line| line == path), "{reported}");
    for (name, _) in ours.iter().filter_map(|one| one.split_once('=')) {
        assert!(!reported.lines().any(|line| line.starts_with(name)), "{name}: {reported}");
    }
    terminal.press("q");
    assert_eq!(terminal.exit_code(), 0);
}

/// A key in `authorized_keys` that may only look: what is asked over it is refused where the gateway is.
#[test]
fn a_key_that_may_only_look_changes_nothing() {
    let folder = folder();
    let forced = format!(
        "restrict,command=\"echo Welcome to edge.; XDG_RUNTIME_DIR={} {PROGRAM} admin --stdio --read-only\" ",
        folder.path("run").display()
    );
    let server = SshServer::start(&folder, &forced);
    server.write_client(&folder);
    let gateway = start(&folder, "shop");
    let mut terminal = attach(&folder, &["ssh:edge"]);
    terminal.until_shown("LIVE");
    terminal.press("r");
    terminal.until_shown("refused: this connection to the gateway is read-only");
    assert!(!gateway.log().contains("kind=\"reload\""), "{}", gateway.log());
}

#[test]
fn a_fleet_file_names_gateways_and_what_is_wrong_with_it_is_reported_by_line() {
    let folder = folder();
    let gateway = start(&folder, "shop");
    folder.write("fleet.yaml", "one: run/shop.sock\ntwo: exec:portcullis admin --stdio --profile shop\n");
    fs::set_permissions(folder.path("fleet.yaml"), fs::Permissions::from_mode(0o600)).unwrap();
    let mut terminal = attach(&folder, &["--read-only", "--fleet", "fleet.yaml"]);
    terminal.until_shown("2 of 2 reached, 2 healthy");
    terminal.until_shown("READ-ONLY");
    // What is stopped on purpose is not an error, whatever leads to it.
    send(&gateway, Signal::TERM);
    terminal.press("8");
    for name in ["one", "two"] {
        until_row(&terminal, &["STOPPED", name]);
    }
    terminal.press("gx");
    terminal.until("one of them is hidden", |screen| {
        screen.contents().lines().filter(|line| line.contains("STOPPED  ")).count() == 1
    });
    terminal.press("q");
    assert_eq!(terminal.exit_code(), 0);

    folder.write("bad.yaml", "one: run/shop.sock\none: run/other.sock\n");
    fs::set_permissions(folder.path("bad.yaml"), fs::Permissions::from_mode(0o600)).unwrap();
    let refused = |args: &[&str]| {
        let output = folder.command(&[&["attach"], args].concat()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, reported) = refused(&["--fleet", "bad.yaml"]);
    assert_eq!(code, Some(2), "{reported}");
    assert!(reported.starts_with("bad.yaml:2:1: one: "), "{reported}");
    fs::set_permissions(folder.path("fleet.yaml"), fs::Permissions::from_mode(0o666)).unwrap();
    let (code, reported) = refused(&["--fleet", "fleet.yaml"]);
    assert!(code == Some(2) && reported.contains("chmod go-w"), "{reported}");
    fs::set_permissions(folder.path("fleet.yaml"), fs::Permissions::from_mode(0o600)).unwrap();
    let twice = &["--fleet", "fleet.yaml", "one=run/x.sock"][..];
    for bad in [&["ssh:-oProxyCommand=id"][..], &["a=run/x.sock", "a=run/y.sock"], &["exec:"], twice] {
        let (code, reported) = refused(bad);
        assert_eq!(code, Some(2), "{bad:?}: {reported}");
    }
}

#[test]
fn a_recording_of_a_fleet_is_replayed_with_all_its_gateways() {
    let folder = folder();
    let _shop = start(&folder, "shop");
    let mut terminal = attach(
        &folder,
        &["--record", "kept.jsonl", "one=run/shop.sock", "two=run/shop.sock", "gone=run/none.sock"],
    );
    terminal.press("8");
    for words in [["HEALTHY", "one"], ["HEALTHY", "two"], ["UNREACHABLE", "gone"]] {
        until_row(&terminal, &words);
    }
    terminal.until_shown("REC");
    terminal.press("q");
    assert_eq!(terminal.exit_code(), 0);
    let mut replay = Terminal::run(&folder, &[PROGRAM, "replay", "kept.jsonl"]);
    replay.press("8");
    replay.until("all its gateways", |screen| {
        ["one", "two", "gone", "UNREACHABLE"].iter().all(|word| screen.contents().contains(word))
    });
    // The charts are of all of them, and the cursor goes through the recording.
    replay.press("H");
    replay.until("charts of the recording", |screen| {
        let shown = screen.contents();
        ["sessions", "links", "refused"].iter().all(|chart| shown.contains(chart))
            && !shown.contains("no history")
    });
    replay.press("h8");
    until_row(&replay, &["one"]);
    replay.press("r");
    replay.until("nothing is asked of anybody", |screen| !screen.contents().contains("reloading"));
    replay.press("q");
    assert_eq!(replay.exit_code(), 0);
}

/// What is pasted by mistake is no command to any of them, wherever the cursor is.
#[test]
fn text_that_is_pasted_into_a_fleet_commands_nobody() {
    let folder = folder();
    let gateways = [start(&folder, "shop"), start(&folder, "far")];
    let mut terminal = attach(&folder, &["one=run/shop.sock", "two=run/far.sock"]);
    terminal.until_shown("2 of 2 reached");
    let paste = |text: &str| format!("\u{1b}[200~{text}\u{1b}[201~");
    for screen in ["8", "3", "4", "H"] {
        terminal.press(screen);
        terminal.press(&paste("r\rq\ry:reload\ry:stop\ryD\ry"));
        terminal.until_shown("pasted text is not run as a command");
    }
    // In a line it stays in the line.
    terminal.press("8:");
    terminal.press(&paste("reload\ry\rstop\ry"));
    terminal.until_shown(":reload");
    // What was typed afterwards has been read, so all before was too.
    terminal.press("\u{1b}");
    terminal.until("the line is closed", |screen| !screen.contents().contains(":reload"));
    terminal.press("?");
    terminal.until_shown("On this screen");
    for gateway in &gateways {
        assert_eq!(gateway.status()["phase"], "running");
        assert!(!gateway.log().contains("operator kind="), "{}", gateway.log());
    }
}

/// `doctor` of a fleet's screen, on a gateway that is killed and comes back.
#[test]
fn a_gateway_that_is_away_is_found_until_it_is_back() {
    let folder = folder();
    let _here = start(&folder, "shop");
    let args = ["--no-ui", "--profile", "shop.yaml"];
    let away = folder.start_as("far", &[], &args);
    let mut terminal = attach(&folder, &["here=run/shop.sock", "there=run/far.sock"]);
    terminal.until_shown("2 of 2 reached");
    terminal.press("0");
    terminal.until("nothing is away", |screen| !screen.contents().contains("gateway-away"));
    drop(away);
    until_row(&terminal, &["must", "there: cannot be reached"]);
    terminal.until_shown("[gateway-away]");
    let _back = folder.start_as("far", &[], &args);
    terminal.until("it is back", |screen| !screen.contents().contains("gateway-away"));
    terminal.press("q");
    assert_eq!(terminal.exit_code(), 0);
}

/// The remote end of `attach ssh:` finds the gateway of a profile, and says when there is none.
#[test]
fn the_far_end_carries_to_the_gateway_of_a_profile() {
    let folder = folder();
    let _gateway = start(&folder, "shop-dmz");
    let carried = |args: &[&str]| {
        folder.command(&[&["admin", "--stdio"], args].concat()).stdin(Stdio::null()).output().unwrap()
    };
    let output = carried(&["--profile", "shop"]);
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout[4..].starts_with(b"{\"portcullis\":"), "{output:?}");
    let output = carried(&["--profile", "other"]);
    let reported = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{reported}");
    assert!(reported.contains("no gateway of profile other runs here"), "{reported}");
}

/// The lines of the session list with this client: each has an age. The line below the list has none.
fn rows_of_client(screen: &vt100::Screen, client: SocketAddr) -> Vec<(u64, String)> {
    let age = |line: &str| {
        let ages = line.split_whitespace().filter_map(|word| word.split_once(':'));
        ages.filter(|(minutes, seconds)| minutes.len() == 2 && seconds.len() == 2).find_map(
            |(minutes, seconds)| Some(60 * minutes.parse::<u64>().ok()? + seconds.parse::<u64>().ok()?),
        )
    };
    let client = client.to_string();
    let shown = screen.contents();
    let lines = shown.lines().filter(|line| line.contains(&client));
    lines.filter_map(|line| Some((age(line)?, line.to_owned()))).collect()
}

/// Each half of a session is shown by the gateway that carries it, and the two know one another by their
/// links.
#[test]
fn a_session_of_a_pair_is_one_row_from_client_to_backend() {
    let folder = TestFolder::with_certificates();
    let dead = format!("tcp://127.0.0.1:{}", free_port());
    let pair = Pair::reverse(&folder, &[("echo", "echo://"), ("dead", &dead)]);
    let (dmz, internal) = (pair.dmz.status(), pair.internal.status());
    for (near, far) in [(&dmz, &internal), (&internal, &dmz)] {
        assert_eq!(near["pools"][0]["instance"], far["instance"], "{near:#}");
    }
    let mut terminal = attach(&folder, &["edge=run/dmz.sock", "inside=run/internal.sock"]);
    terminal.resize(160, 40);
    let connect = |service: &str| {
        let client = TcpStream::connect(pair.dmz.accept(service)).unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        let address = client.local_addr().unwrap();
        (client, address)
    };
    let (mut client, address) = connect("echo");
    client.write_all(&[7; 5000]).unwrap();
    client.read_exact(&mut [0; 5000]).unwrap();
    terminal.press("3");
    let is_joined =
        |screen: &vt100::Screen, client: SocketAddr, words: &[&str], age_min: u64| match rows_of_client(
            screen, client,
        )
        .as_slice()
        {
            [(age, row)] => *age >= age_min && words.iter().all(|word| row.contains(word)),
            _ => false,
        };
    let whole = [" edge ", " inside ", "echo://", "5.0k", "relaying"];
    // By then both halves have been still for so long that their bytes are compared.
    terminal.until("one row of both halves", |screen| is_joined(screen, address, &whole, 8));
    terminal.until("no difference", |screen| {
        let rows = rows_of_client(screen, address);
        assert!(rows.iter().all(|(_, row)| !row.contains('≠')), "{rows:?}");
        !rows.is_empty()
    });
    // Both ends of their links are one part of the path.
    terminal.press("9");
    terminal.until("the path", |screen| {
        let shown = screen.contents();
        shown.contains("● edge") && shown.contains("● inside") && !shown.contains("seen by links")
    });
    terminal.press("3");
    terminal.press("jx");
    terminal.until_shown("edge: Close session");
    terminal.press("y");
    for gateway in [&pair.dmz, &pair.internal] {
        gateway.wait("its half has ended", SOON, |status| status["totals"]["sessions_open"] == 0);
    }
    terminal.until("one row of what has ended", |screen| {
        is_joined(screen, address, &[" edge ", " inside "], 0) && !screen.contents().contains("relaying")
    });
    let (mut refused, address) = connect("dead");
    // It is cut, whatever the error says.
    let _ = refused.read(&mut [0]);
    terminal
        .until("one row of what has failed", |screen| is_joined(screen, address, &[" edge ", " inside "], 0));
    send(&pair.dmz, Signal::KILL);
    terminal.press("9");
    terminal.until("the killed one is one part", |screen| {
        let shown = screen.contents();
        shown.contains("UNREACHABLE") && shown.contains("● inside") && shown.contains("▲ edge")
    });
    terminal.until("its links are down", |screen| screen.contents().contains("DOWN"));
    terminal.until("it is not there twice", |screen| !screen.contents().contains("seen by links"));
}

/// What fails is recorded nowhere but on the screen.
#[test]
fn a_recording_of_a_fleet_on_a_full_disk_is_reported_on_its_screen() {
    let folder = folder();
    let Some(wrapper) = full_disk(&folder) else { return };
    let _shop = start(&folder, "shop");
    let record =
        [PROGRAM, "attach", "--record", "small/kept.jsonl", "one=run/shop.sock", "two=run/shop.sock"];
    let open = || {
        let terminal = Terminal::run(&folder, &[&wrapper[..], &record].concat());
        terminal.resize(160, 40);
        terminal.until_shown("REC FAILS");
        terminal
    };
    let mut terminal = open();
    terminal.press("5");
    terminal.until_shown("it is tried again every second");
    let inside = format!("/proc/{}/root{}", terminal.process(), folder.path("small").display());
    fs::remove_file(format!("{inside}/filler")).unwrap();
    terminal.until_shown("goes on; ");
    terminal.until("it is well again", |screen| {
        let shown = screen.contents();
        shown.contains("REC") && !shown.contains("REC FAILS")
    });
    terminal.press("q");
    assert_eq!(terminal.exit_code(), 0);
    terminal.until_shown("could not be written");

    let mut failing = open();
    failing.press("q");
    assert_eq!(failing.exit_code(), 1, "its end is missing");
    failing.until_shown("No space left on device");
}

/// The screen asks each gateway for its history by itself.
#[test]
fn the_history_of_each_gateway_is_on_the_screen() {
    let folder = folder();
    kept_hour::write(&folder, "shop");
    let _shop = start(&folder, "shop");
    let mut terminal = attach(&folder, &["one=run/shop.sock", "two=run/shop.sock"]);
    terminal.press("0");
    for name in ["one", "two"] {
        until_row(&terminal, &[name, "no link took a session in 3 minutes of the last hour"]);
    }
    terminal.press("H");
    until_row(&terminal, &["now "]);
    // Half a minute ago neither of them was there.
    terminal.press("hhhhh");
    for name in ["one", "two"] {
        until_row(&terminal, &[name, "not measur"]);
    }
}
