//! The Debian package: made by its script, judged by lintian, and put into a bare system and taken out
//! of it again.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{installed, root, succeed};

/// The package of the program under test, and what lies beside it.
pub struct Package {
    _folder: TempDir,
    pub out: PathBuf,
}

pub static PACKAGE: LazyLock<Option<Package>> = LazyLock::new(|| {
    ["dpkg-deb", "objcopy", "python3"].into_iter().map(installed).collect::<Option<Vec<_>>>()?;
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let mut command = Command::new(root().join("assets/package/deb"));
    command.args(["--fast", "--binary", env!("CARGO_BIN_EXE_portcullis"), "--out"]).arg(&out);
    succeed(command.env_remove("DEBEMAIL").env_remove("DEBFULLNAME"));
    Some(Package { _folder: folder, out })
});

impl Package {
    fn file(&self) -> PathBuf {
        let entries = fs::read_dir(&self.out).expect("a folder").flatten().map(|entry| entry.path());
        let mut found = entries.filter(|path| path.extension().is_some_and(|ending| ending == "deb"));
        found.next().expect("a package was made")
    }
}

#[test]
fn lintian_has_no_objection() {
    let (Some(package), Some(lintian)) = (&*PACKAGE, installed("lintian")) else { return };
    let mut command = Command::new(lintian);
    command.args(["--allow-root", "--fail-on", "error,warning", "--no-tag-display-limit"]);
    assert_eq!(succeed(command.arg(package.file())), "");
}

#[test]
fn every_override_has_its_reason() {
    let text = fs::read_to_string(root().join("assets/package/debian/lintian-overrides")).expect("a file");
    let lines: Vec<_> = text.lines().collect();
    let has_reason = |at: usize| lines[..at].last().is_some_and(|line| line.starts_with("# "));
    let mut tags = lines.iter().enumerate().filter(|(_, line)| !line.starts_with('#'));
    // The two of one address stand together.
    assert!(
        tags.all(|(at, line)| has_reason(at) || (line.contains("bogus-mail-host") && has_reason(at - 1))),
        "{text}"
    );
}

#[test]
fn components_and_licences_are_of_what_is_linked() {
    let Some(package) = &*PACKAGE else { return };
    let bill = fs::read_to_string(package.out.join("portcullis.cdx.json")).expect("a file");
    let bill: serde_json::Value = serde_json::from_str(&bill).expect("JSON");
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    assert_eq!(bill["metadata"]["component"]["version"], env!("CARGO_PKG_VERSION"));
    let components = bill["components"].as_array().expect("a list");
    let named = |name: &str| components.iter().find(|component| component["name"] == name);
    let rustls = named("rustls").expect("rustls is linked");
    let version = rustls["version"].as_str().expect("a version");
    assert_eq!(rustls["purl"], format!("pkg:cargo/rustls@{version}"));
    assert_eq!(rustls["hashes"][0]["content"].as_str().map(str::len), Some(64), "{rustls}");
    // What tests or the compiler use alone is not part of the program.
    for absent in ["proptest", "criterion", "cc", "serde_derive"] {
        assert!(named(absent).is_none(), "{absent}");
    }
    let licences = fs::read_to_string(package.out.join("licences.txt")).expect("a file");
    for component in components {
        let (name, version) = (&component["name"], &component["version"]);
        let line = format!("{} {} (", name.as_str().expect("text"), version.as_str().expect("text"));
        assert!(licences.contains(&line), "no licence of {line}");
        assert!(component["licenses"][0]["expression"].is_string(), "{component}");
    }
    // So is what packages bring of others: C code, and Rust's own library.
    for name in ["jemalloc", "aws-lc", "rust-std"] {
        let version = named(name).expect(name)["version"].as_str().expect("a version");
        assert!(version.starts_with(|first: char| first.is_ascii_digit()), "{name} {version}");
    }
    for text in ["Jason Evans", "the fiat-crypto authors (see"] {
        assert!(licences.contains(text), "{text}");
    }
    // The graph is closed: each end of it is a component, or the program.
    let mut known: BTreeSet<_> = components.iter().map(|component| component["bom-ref"].as_str()).collect();
    known.insert(bill["metadata"]["component"]["bom-ref"].as_str());
    for dependency in bill["dependencies"].as_array().expect("a list") {
        let ends = dependency["dependsOn"].as_array().expect("a list").iter();
        let unknown: Vec<_> =
            ends.chain([&dependency["ref"]]).filter(|end| !known.contains(&end.as_str())).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}

#[test]
fn checksums_are_of_all_that_was_made() {
    let Some(package) = &*PACKAGE else { return };
    let checked = succeed(Command::new("sha256sum").args(["-c", "SHA256SUMS"]).current_dir(&package.out));
    let entries = fs::read_dir(&package.out).expect("a folder").flatten();
    let names: BTreeSet<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let mut expected: BTreeSet<_> =
        checked.lines().filter_map(|line| line.strip_suffix(": OK")).map(str::to_owned).collect();
    expected.insert("SHA256SUMS".into());
    assert_eq!(names, expected, "{checked}");
}

#[test]
fn the_example_for_logrotate_is_understood() {
    let Some(logrotate) = installed("logrotate") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    // It need not know the user of the package.
    let example = fs::read_to_string(root().join("assets/logrotate/portcullis")).expect("a file");
    fs::write(folder.path().join("portcullis"), example.replace("su portcullis portcullis", "su root root"))
        .expect("a file");
    let mut command = Command::new(logrotate);
    command
        .args(["--debug", "--state"])
        .arg(folder.path().join("state"))
        .arg(folder.path().join("portcullis"));
    let output = command.output().expect("it runs");
    let output_text = crate::output_of(&output);
    assert!(output.status.success() && !output_text.contains("error:"), "{output_text}");
}

#[test]
fn symbols_are_in_a_file_beside_the_program() {
    let Some(package) = &*PACKAGE else { return };
    let (program, symbols) = (package.out.join("portcullis"), package.out.join("portcullis.debug"));
    let sections = |file: &Path| succeed(Command::new("readelf").args(["-SW"]).arg(file));
    for name in [".symtab", ".debug_line", ".comment"] {
        assert!(!sections(&program).contains(name), "{name}");
    }
    assert!(sections(&symbols).contains(".symtab") && sections(&symbols).contains(".debug_line"));
    // It is found by its name, behind which are the bytes of a checksum.
    let link = Command::new("readelf").args(["-p", ".gnu_debuglink"]).arg(&program).output();
    let link = crate::output_of(&link.expect("it runs"));
    assert!(link.contains("portcullis.debug"), "{link}");
}

/// A fresh system, made once and kept, for others to be copied from: what is downloaded does not change.
pub static KEPT: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let debootstrap = installed("debootstrap")?;
    let facts = fs::read_to_string("/etc/os-release").expect("the system says what it is");
    let suite = facts.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let suite = suite.expect("a suite of Debian");
    let kept = root().join("target").join(format!("debootstrap-systemd-{suite}"));
    if !kept.exists() {
        let folder = tempfile::tempdir_in(root().join("target")).expect("a folder");
        let fresh = folder.path().join("fresh");
        let mut command = Command::new(debootstrap);
        command.args(["--variant=minbase", "--include=systemd,systemd-sysv,dbus", suite]);
        succeed(command.arg(&fresh));
        fs::rename(fresh, &kept).expect("it is kept");
    }
    Some(kept)
});

/// A bare system of its own, with a shell, dpkg and systemd in it.
struct BareSystem(TempDir);

impl BareSystem {
    fn create() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        installed("chroot")?;
        let kept = KEPT.as_ref()?;
        let folder = tempfile::tempdir_in(root().join("target")).expect("a folder");
        succeed(Command::new("cp").arg("-a").arg(kept).arg(folder.path().join("root")));
        Some(Self(folder))
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join("root").join(path.trim_start_matches('/'))
    }

    /// A command line of the shell inside.
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(installed("chroot").expect("it was there"));
        command.arg(self.path("/")).args(["/bin/sh", "-ec", line]);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
        command
    }

    #[track_caller]
    fn run(&self, line: &str) -> String {
        succeed(&mut self.command(line))
    }

    /// All files and folders, but for the package manager's own notes and backups.
    fn files(&self) -> BTreeSet<String> {
        let notes = "-path ./var/lib/dpkg -prune -o -path ./var/log -prune -o -path ./var/cache -prune";
        let found = self.run(&format!("cd / && find . {notes} -o -print"));
        let is_backup = |line: &&str| line.starts_with("./etc/") && line.ends_with('-');
        found.lines().filter(|line| !is_backup(line)).map(str::to_owned).collect()
    }

    fn install(&self, package: &Path) {
        fs::copy(package, self.path("/tmp/portcullis.deb")).expect("it is copied");
        self.run("dpkg -i /tmp/portcullis.deb && rm /tmp/portcullis.deb");
    }
}

#[test]
fn the_package_comes_and_goes() {
    let (Some(package), Some(system)) = (&*PACKAGE, BareSystem::create()) else { return };
    let file = package.file();
    let (before, users) = (system.files(), system.run("cat /etc/passwd /etc/group"));

    system.install(&file);
    assert!(system.run("portcullis --version").starts_with("portcullis "));
    assert!(system.run("getent passwd portcullis").contains(":/var/lib/portcullis:"));
    assert_eq!(system.run("stat -c '%U %a' /etc/portcullis/profiles"), "root 755\n");
    // Nothing starts before there is a profile.
    assert_eq!(system.run("find /etc/systemd -name 'portcullis*'"), "");
    for file in [
        "/usr/share/man/man1/portcullis.1.gz",
        "/usr/share/bash-completion/completions/portcullis",
        "/usr/share/zsh/vendor-completions/_portcullis",
        "/usr/share/fish/vendor_completions.d/portcullis.fish",
    ] {
        let length = fs::metadata(system.path(file)).expect("it is there").len();
        assert!(length > 1000, "{file}: {length} bytes");
    }
    system.run("bash -n /usr/share/bash-completion/completions/portcullis");
    // The examples are whole: they find their certificates where the command says.
    system.run(
        "cp -r /usr/share/doc/portcullis/examples /tmp/examples && cd /tmp/examples && \
         portcullis certs --out profiles/pki && portcullis check && rm -r /tmp/examples",
    );

    // What an operator made stays, and so does its owner.
    system.run("echo 'mode: direct' > /etc/portcullis/profiles/edge.yaml && dpkg --remove portcullis");
    assert!(!system.path("/usr/bin/portcullis").exists());
    system.run("dpkg --purge portcullis && getent passwd portcullis");
    assert_eq!(system.run("cat /etc/portcullis/profiles/edge.yaml"), "mode: direct\n");

    // What the gateways wrote goes, with all else.
    system.run("rm /etc/portcullis/profiles/edge.yaml");
    system.install(&file);
    system.run(
        "mkdir -p /var/lib/portcullis /etc/systemd/system/multi-user.target.wants && \
         touch /var/lib/portcullis/log && ln -s /lib/systemd/system/portcullis@.service \
         /etc/systemd/system/multi-user.target.wants/portcullis@edge.service && dpkg --purge portcullis",
    );
    let after = system.files();
    let left: Vec<_> =
        after.difference(&before).filter(|path| !path.contains("/etc/systemd/system")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!after.iter().any(|path| path.contains("portcullis")), "{after:?}");
    assert_eq!(system.run("cat /etc/passwd /etc/group"), users);
}

/// What runs inside once the system has booted; it says how each step went, and turns the system off.
const IN_SERVICE: &str = r#"#!/bin/bash
exec > /root/said 2>&1
admin=/run/portcullis/dmz.sock
# Its port is taken for more starts than systemd allows by itself.
echo '{ mode: direct, dmz: { services: { one: { accept: ["tcp://0.0.0.0:443"], connect: "echo://" } } } }' > /root/holder.yaml
portcullis --no-ui --admin none --profile /root/holder.yaml & holder=$!
until (exec 3<>/dev/tcp/127.0.0.1/443); do sleep 0.1; done
systemctl start --no-block portcullis@dmz
until [ "$(systemctl show -p NRestarts --value portcullis@dmz)" -ge 7 ]; do sleep 0.1; done
kill $holder
until systemctl -q is-active portcullis@dmz; do sleep 0.1; done
echo "its port is free: $(systemctl is-active portcullis@dmz)"
echo "started: $(systemctl start portcullis@dmz portcullis@internal && systemctl is-active portcullis@dmz portcullis@internal | xargs)"
until portcullis status --ready --strict --admin $admin > /dev/null; do sleep 0.1; done
exec 3<>/dev/tcp/127.0.0.1/443
printf hello >&3
echo "answered: $(head -c 5 <&3)"
exec 3>&-
echo "user: $(stat -c %U "/proc/$(systemctl show -p MainPID --value portcullis@dmz)")"
echo "reloaded: $(systemctl reload portcullis@dmz && systemctl is-active portcullis@dmz)"
# An upgrade lets it run on, and says what is to be done.
before=$(systemctl show -p MainPID --value portcullis@dmz)
dpkg -i /root/portcullis.deb | grep '^portcullis: portcullis@dmz'
echo "upgraded: $([ "$(systemctl show -p MainPID --value portcullis@dmz)" = "$before" ] && echo the same process)"

# The ports of clients and of links become systemd's. The first link starts the gateway again.
systemctl stop portcullis@dmz
profile=/etc/portcullis/profiles/dmz.yaml
port=$(sed -n 's|.*listen: .*:\([0-9]*\).*|\1|p' $profile)
sed -i 's|accept: .*|accept: ["tcp://fd@web"]|; s|listen: .*|listen: "socks+tls://fd@links"|; s|wait: .*|wait: 30s|' $profile
sed "s|=443|=$port|; s|=web|=links\nService=portcullis@%i.service|" /lib/systemd/system/portcullis@.socket \
  > /etc/systemd/system/portcullis-links@.socket
systemctl daemon-reload
systemctl start portcullis@dmz.socket portcullis-links@dmz.socket
until systemctl -q is-active portcullis@dmz; do sleep 0.1; done
touch /root/clients
ask() { (exec 3<>/dev/tcp/127.0.0.1/443 && printf hello >&3 && [ "$(timeout 30 head -c 5 <&3)" = hello ]); }
(while [ ! -e /root/enough ]; do ask && echo served || echo refused; done >> /root/clients) &
for restarts in 1 2 3; do
  until [ "$(wc -l < /root/clients)" -ge $((restarts * 50)) ]; do sleep 0.1; done
  systemctl restart portcullis@dmz
done
touch /root/enough
wait
echo "restarted: $(systemctl is-active portcullis@dmz), $(grep -vc served /root/clients) rejected"
echo 'mode: sideways' >> /etc/portcullis/profiles/dmz.yaml
systemctl reload portcullis@dmz || echo "refused: $(systemctl is-active portcullis@dmz)"
systemctl start portcullis@nobody || echo "nobody: $(systemctl is-active portcullis@nobody)"
# A stop lasts as long as its sessions, even beyond the limit of the unit.
mkdir /etc/systemd/system/portcullis@internal.service.d
printf '[Service]\nTimeoutStopSec=2s\n' > /etc/systemd/system/portcullis@internal.service.d/limit.conf
systemctl daemon-reload
exec 3<>/dev/tcp/127.0.0.1/443
printf hello >&3
head -c 5 <&3 > /dev/null
(sleep 5; printf still >&3; echo "held: $(head -c 5 <&3)") &
exec 3>&-
systemctl stop portcullis@internal
wait
echo "stopped: $(systemctl show -p Result --value portcullis@internal)"
dpkg --purge portcullis > /dev/null
echo "purged: $(systemctl is-active portcullis@dmz) $(ls /run/portcullis 2>/dev/null)"
journalctl --no-pager -u 'portcullis@*' > /root/journal
poweroff -f
"#;
const IN_SERVICE_UNIT: &str =
    "[Service]\nExecStart=/root/in-service\n[Install]\nWantedBy=multi-user.target\n";
/// A boot takes seconds; on a machine that is busy it may take this long.
const BOOTED: Duration = Duration::from_secs(180);

/// A system that is running; it ends with its process.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn gateways_run_under_systemd() {
    let (Some(package), Some(nspawn)) = (&*PACKAGE, installed("systemd-nspawn")) else { return };
    let Some(system) = BareSystem::create() else { return };
    system.install(&package.file());
    system.run(
        "cd /etc/portcullis/profiles && portcullis init pair --accept 443 --connect echo:// && chown portcullis: pki/*.key",
    );
    fs::copy(package.file(), system.path("/root/portcullis.deb")).expect("it is copied");
    fs::write(system.path("/root/in-service"), IN_SERVICE).expect("a file");
    fs::write(system.path("/etc/systemd/system/in-service.service"), IN_SERVICE_UNIT).expect("a file");
    system.run("chmod +x /root/in-service && systemctl enable in-service");
    let name = system.0.path().file_name().expect("a name").to_string_lossy().replace('.', "");
    let mut command = Command::new(nspawn);
    command.args([
        "--quiet",
        "--register=no",
        "--keep-unit",
        "--private-network",
        "--boot",
        "--console=pipe",
    ]);
    command.arg(format!("--machine={name}")).arg("-D").arg(system.path("/"));
    // What it says itself is of use when it does not boot.
    let log = fs::File::create(system.path("/root/log")).expect("a file");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let mut running = Running(command.spawn().expect("it starts"));
    let begun = Instant::now();
    let text = |file: &str| fs::read_to_string(system.path(file)).unwrap_or_default();
    while running.0.try_wait().expect("it is ours").is_none() {
        assert!(begun.elapsed() < BOOTED, "{}\n{}", text("/root/log"), text("/root/said"));
        thread::sleep(Duration::from_millis(50));
    }
    let sent = text("/root/said");
    for line in [
        "its port is free: active",
        "started: active active",
        "answered: hello",
        "user: portcullis",
        "reloaded: active",
        "portcullis: portcullis@dmz.service goes on with the version before, until: systemctl restart portcullis@dmz.service",
        "upgraded: the same process",
        "restarted: active, 0 rejected",
        "refused: active",
        "nobody: inactive",
        "held: still",
        "stopped: success",
        "purged: inactive ",
    ] {
        assert!(sent.lines().any(|other| other == line), "no `{line}`:\n{sent}\n{}", text("/root/journal"));
    }
    // A reload that is refused says why.
    assert!(text("/root/journal").contains("this key appears twice"), "{}", text("/root/journal"));
}
