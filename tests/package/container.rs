//! The container: what its recipe runs is understood by the program, and it is built and run as its comment says.
//!
//! No registry is asked: the image that it ends with is a bare Debian, and the compiler's image the same with a `cargo`
//! that hands over the program under test. Ports are not published; each gateway is in a network namespace instead.
//! Nor does systemd, which would run the health check every 5 s, so the test runs it.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use portcullis::cli::{Cli, CliAction};
use tempfile::TempDir;

use crate::{
    debian::{KEPT, PACKAGE},
    installed, output_of, root, succeed,
};

/// A container starts within seconds; on a machine that is busy it may take this long.
const SOON: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The words of `["a", "b"]`.
fn words(list: &str) -> Vec<String> {
    serde_json::from_str(list).expect("a list of words")
}

#[test]
fn the_container_runs_the_program_as_a_user_of_its_own_and_asks_it_whether_it_is_ready() {
    let text = fs::read_to_string(root().join("assets/Containerfile")).expect("the recipe");
    // In the other format the health check would be left out.
    assert!(text.contains("podman build --format docker "));
    let last = text.rsplit("\nFROM ").next().expect("a last stage");
    let value = |key: &str| last.lines().find_map(|line| line.strip_prefix(key)).expect("the key is there");
    assert_eq!((value("USER "), value("STOPSIGNAL ")), ("64923:64923", "SIGTERM"));
    let health = value("HEALTHCHECK ").split_once("CMD ").expect("a command").1;
    let requested = Cli::try_parse_from(words(health)).expect("it is understood");
    assert!(matches!(requested.command, Some(CliAction::Status { ready: true, .. })));
    let mut run = words(value("ENTRYPOINT "));
    run.extend(["--profile".into(), "dmz".into()]);
    let run = Cli::try_parse_from(run).expect("it is understood");
    assert!(run.no_ui && run.command.is_none() && run.profiles.is_some());
    // The socket that the health check asks at is where the gateway puts it, and so is what it keeps.
    let set: Vec<_> = last.lines().filter_map(|line| line.strip_prefix("ENV ")).collect();
    assert_eq!(set, ["XDG_RUNTIME_DIR=/run", "STATE_DIRECTORY=/var/lib/portcullis"]);
    assert!(last.contains("-m 0700 -o portcullis -g portcullis /run/portcullis /var/lib/portcullis"));
    assert!(text.contains(":/var/lib/portcullis:U"), "a volume keeps it");
}

#[test]
fn no_key_and_no_earlier_build_goes_into_the_container() {
    let lines = |file: &str| fs::read_to_string(root().join(file)).expect("a file");
    let left_out = lines(".dockerignore");
    for ignored in lines(".gitignore").lines().map(|line| line.trim_matches('/')) {
        assert!(left_out.lines().any(|line| line == ignored), "{ignored} is not left out");
    }
    // The version names the commit, which is read from here.
    assert!(!left_out.contains(".git"));
}

/// `#   podman run …` in the recipe, without its prefix and what publishes its port, for this container.
fn run_command(recipe: &str, profiles: &str, [name, profile]: [&str; 2]) -> Vec<String> {
    let from = recipe.find("#   podman run ").expect("the command is there");
    let text = recipe[from..].split("\n#\n").next().expect("its lines").replace("\\\n#", "");
    let words = text.split_whitespace().skip(3).map(|word| match word {
        "./profiles:/etc/portcullis/profiles:ro" => format!("{profiles}:/etc/portcullis/profiles:ro"),
        "portcullis-state:/var/lib/portcullis:U" => format!("{name}-state:/var/lib/portcullis:U"),
        _ => word.to_owned(),
    });
    let mut words: Vec<_> = words.collect();
    let at =
        |word: &str, words: &[String]| words.iter().position(|other| other == word).expect("it is there");
    let publishes = at("-p", &words);
    words.drain(publishes..publishes + 2);
    let named = at("--name", &words) + 1;
    words[named] = name.into();
    let profiled = at("--profile", &words) + 1;
    words[profiled] = profile.into();
    words
}

/// Podman with a store of its own, and a network namespace for each gateway.
struct Podman {
    folder: TempDir,
    hosts: [String; 2],
}

impl Podman {
    fn create() -> Option<Self> {
        ["podman", "runc", "ip", "python3"].into_iter().map(installed).collect::<Option<Vec<_>>>()?;
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let folder = tempfile::tempdir_in(root().join("target")).expect("a folder");
        let hosts = ["dmz", "inside"].map(|name| format!("ptc-c-{name}-{}", std::process::id()));
        let podman = Self { folder, hosts };
        for host in &podman.hosts {
            succeed(Command::new("ip").args(["netns", "add", host]));
        }
        let [dmz, inside] = &podman.hosts;
        let wire =
            ["link", "add", "wire0", "netns", dmz, "type", "veth", "peer", "name", "wire1", "netns", inside];
        succeed(Command::new("ip").args(wire));
        for (host, device, address) in [(dmz, "wire0", "192.0.2.1/24"), (inside, "wire1", "192.0.2.2/24")] {
            succeed(Command::new("ip").args(["-n", host, "addr", "add", address, "dev", device]));
            succeed(Command::new("ip").args(["-n", host, "link", "set", device, "up"]));
            succeed(Command::new("ip").args(["-n", host, "link", "set", "lo", "up"]));
        }
        Some(podman)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("podman");
        command.arg("--root").arg(self.path("store")).arg("--runroot").arg(self.path("run"));
        command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--runtime", "runc"]);
        command.args(["--log-level", "fatal"]).args(line.split_whitespace());
        command
    }

    #[track_caller]
    fn run(&self, line: &str) -> String {
        succeed(&mut self.command(line))
    }

    /// The images that the recipe begins with, under their names.
    fn make_images(&self, recipe: &str, system: &Path, program: &Path) {
        let bases: Vec<_> = recipe.lines().filter_map(|line| line.strip_prefix("FROM ")).collect();
        let [compiler, debian] = bases[..] else { panic!("two images: {bases:?}") };
        let compiler = compiler.strip_suffix(" AS build").expect("the first stage builds");
        let mut tar =
            Command::new("tar").arg("-C").arg(system).args(["-c", "."]).stdout(Stdio::piped()).spawn();
        let archive = tar.as_mut().expect("tar runs").stdout.take().expect("it is piped");
        let path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        succeed(self.command("import -q --change").args([path, "-", debian]).stdin(archive));
        assert!(tar.expect("it ran").wait().expect("it ends").success());
        let folder = self.path("compiler");
        fs::create_dir(&folder).expect("a folder");
        let cargo = "#!/bin/sh\nset -e\n[ \"$*\" = 'build --release --locked --bin portcullis' ]\ntest -f Cargo.lock -a -f \
                     src/main.rs\ninstall -D /usr/local/bin/given target/release/portcullis\n";
        fs::write(folder.join("cargo"), cargo).expect("a file");
        fs::write(folder.join("apt-get"), "#!/bin/sh\n").expect("a file");
        fs::copy(program, folder.join("given")).expect("a copy");
        for name in ["cargo", "apt-get", "given"] {
            fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755)).expect("a mode");
        }
        let lines = format!("FROM {debian}\nCOPY cargo apt-get given /usr/local/bin/\n");
        fs::write(folder.join("Containerfile"), lines).expect("a file");
        self.build(&format!("-t {compiler}"), &folder.join("Containerfile"), &folder);
    }

    fn build(&self, options: &str, recipe: &Path, context: &Path) {
        // Without a copy of all files for each line of the recipe.
        let line = format!("build --pull=never --layers=false --isolation chroot {options} -f");
        succeed(self.command(&line).arg(recipe).arg(context));
    }

    /// Starts a container as the recipe says, on a host of its own.
    fn start(&self, recipe: &str, host: &str, profiles: &Path, names: [&str; 2]) {
        let words = run_command(recipe, &profiles.display().to_string(), names);
        // What podman sets by itself may be more than whoever runs this may set.
        let limits = "--ulimit nofile=4096:4096 --ulimit nproc=1024:1024";
        self.run(&format!("run -d --pull never --network ns:/run/netns/{host} {limits} {}", words.join(" ")));
    }

    #[track_caller]
    fn wait(&self, what: &str, is_so: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            let logs = ["dmz", "inside"].map(|name| self.command(&format!("logs {name}")).output());
            let logs = logs.map(|log| log.map(|log| output_of(&log)).unwrap_or_default());
            assert!(begun.elapsed() < SOON, "{what}: {}", logs.join("\n"));
            thread::sleep(POLL_INTERVAL);
        }
    }

    fn is_healthy(&self, name: &str) -> bool {
        self.command(&format!("healthcheck run {name}")).output().expect("it runs").status.success()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // What fails here was never made.
        let _ = self.command("rm -f -a -t 0").output();
        for host in &self.hosts {
            let _ = Command::new("ip").args(["netns", "del", host]).output();
        }
    }
}

/// A client's session; each line that it is given is sent, and what comes back is printed.
struct Session(Child);

impl Session {
    fn open(host: &str) -> Self {
        let script = "import socket, sys\ns = socket.create_connection(('192.0.2.1', 8443), 60)\nfor line in sys.stdin:\n    \
                      s.sendall(line.encode()); print(s.makefile().readline(), end='', flush=True)";
        let mut command = Command::new("ip");
        command.args(["netns", "exec", host, "python3", "-c", script]);
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3"))
    }

    fn answers(&mut self) -> bool {
        let mut heard = [0; 6];
        self.0.stdin.as_mut().expect("it is piped").write_all(b"hello\n").expect("it reads");
        self.0.stdout.as_mut().expect("it is piped").read_exact(&mut heard).is_ok() && heard == *b"hello\n"
    }

    fn close(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().expect("it ends").success());
    }
}

/// The two halves' folders; their keys are root's, and for the group of the container's user.
fn make_profiles(folder: &Path, program: &Path) -> [PathBuf; 2] {
    let [dmz, inside] = ["dmz-profiles", "inside-profiles"].map(|name| folder.join(name));
    let mut command = Command::new(program);
    command.args([
        "init",
        "dmz",
        "--dmz-host",
        "192.0.2.1",
        "--accept",
        "tcp://0.0.0.0:8443",
        "--connect",
        "echo://",
    ]);
    succeed(command.arg("--out").arg(&dmz));
    fs::rename(dmz.join("internal-host"), &inside).expect("it moves to the other host");
    fs::remove_file(inside.join("pki/ca.key")).expect("no gateway reads it");
    for folder in [&dmz, &inside] {
        let folder = folder.display();
        let line = format!(
            "chown -R root:64923 {folder} && chmod -R u=rwX,g=rX,o= {folder} && chmod 0440 {folder}/pki/*.key"
        );
        succeed(Command::new("sh").args(["-ec", &line]));
    }
    [dmz, inside]
}

#[test]
fn both_halves_run_in_containers_as_the_recipe_says() {
    let Some(podman) = Podman::create() else { return };
    let (Some(package), Some(system)) = (&*PACKAGE, KEPT.as_ref()) else { return };
    let recipe = fs::read_to_string(root().join("assets/Containerfile")).expect("the recipe");
    let program = package.out.join("portcullis");
    podman.make_images(&recipe, system, &program);
    podman.build("--format docker -t portcullis", &root().join("assets/Containerfile"), root());
    let [dmz, inside] = make_profiles(podman.folder.path(), &program);
    let [dmz_host, inside_host] = &podman.hosts;
    podman.start(&recipe, dmz_host, &dmz, ["dmz", "dmz"]);
    podman.wait("it is not ready without a link", || !podman.is_healthy("dmz"));
    podman.start(&recipe, inside_host, &inside, ["inside", "internal"]);
    podman.wait("both are healthy", || podman.is_healthy("dmz") && podman.is_healthy("inside"));

    for name in ["dmz", "inside"] {
        let mut command = podman.command(&format!("exec {name} sh -c"));
        let asks = "id -u; id -g; touch /x /etc/x /usr/bin/x 2>/dev/null; ls -d /x /etc/x /usr/bin/x 2>/dev/null; \
                    grep -E 'Cap(Prm|Eff|Bnd)|NoNewPrivs' /proc/1/status";
        let none = "0000000000000000";
        let expected =
            format!("64923\n64923\nCapPrm:\t{none}\nCapEff:\t{none}\nCapBnd:\t{none}\nNoNewPrivs:\t1\n");
        assert_eq!(succeed(command.arg(asks)), expected, "{name}");
        let locked = podman.run(&format!("exec {name} portcullis status"));
        assert!(locked.contains(" by seccomp"), "{locked}");
    }

    // The lock is in the volume, and so it outlives the container's process.
    podman.run("exec inside portcullis lockdown");
    podman.run("restart inside");
    podman.wait("it is locked still", || {
        let status = podman.command("exec inside portcullis status").output().expect("it runs");
        output_of(&status).contains("everything is locked")
    });
    podman.run("exec inside portcullis unlock");
    podman.wait("both are healthy again", || podman.is_healthy("dmz") && podman.is_healthy("inside"));

    // A session goes on while its gateway stops, which is given the time for that.
    let mut session = Session::open(dmz_host);
    assert!(session.answers());
    let stopping = podman.command("stop dmz").stdout(Stdio::null()).spawn();
    podman.wait("it drains", || {
        let logs = podman.command("logs dmz").output().expect("it runs");
        output_of(&logs).contains("stopping: draining 1 session, for at most 30s")
    });
    assert!(session.answers());
    session.close();
    assert!(stopping.expect("it runs").wait().expect("it ends").success());
    assert_eq!(podman.run("inspect dmz --format {{.State.ExitCode}}/{{.Config.StopTimeout}}").trim(), "0/35");
}
