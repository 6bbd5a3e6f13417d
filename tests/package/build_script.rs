//! What a release is built from, as its build script finds it: in a checkout, outside of one, and in
//! somebody else's.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::{root, succeed};

/// The build script as a program, and a folder for sources.
struct Script(TempDir);

impl Script {
    fn compiled() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut compiler = Command::new("rustc");
        compiler.args(["--edition", "2024", "-o"]).arg(folder.path().join("script"));
        succeed(compiler.arg(root().join("build.rs")));
        Self(folder)
    }

    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.0.path().join(name);
        fs::create_dir_all(folder.join("src")).expect("a folder");
        folder
    }

    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(self.0.path().join("script"));
        command.current_dir(folder).env("CARGO_MANIFEST_DIR", folder).env("OUT_DIR", folder);
        command.env("PROFILE", "release").env("TARGET", "some-target").env("CARGO_CFG_TARGET_OS", "linux");
        for variable in ["HOST", "PORTCULLIS_COMMIT", "RUSTC_LINKER", "CARGO_ENCODED_RUSTFLAGS"] {
            command.env_remove(variable);
        }
        command
    }

    /// The commit that a release says when it is built in `folder`.
    fn names(&self, folder: &Path, named: Option<&str>) -> String {
        let mut command = self.command(folder);
        command.envs(named.map(|name| ("PORTCULLIS_COMMIT", name)));
        let sent = succeed(&mut command);
        assert!(sent.contains("cargo::rustc-env=PORTCULLIS_TARGET=some-target\n"), "{sent}");
        let line = sent.lines().find_map(|line| line.strip_prefix("cargo::rustc-env=PORTCULLIS_BUILT_FROM="));
        line.expect("it names what it was built from").to_owned()
    }
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let ended_by = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"];
    succeed(Command::new("git").current_dir(folder).args(ended_by).args(arguments)).trim().to_owned()
}

fn checkout(folder: &Path) -> String {
    fs::write(folder.join("src/main.rs"), "fn main() {}").expect("a file");
    git(folder, &["init", "-q"]);
    git(folder, &["add", "."]);
    git(folder, &["commit", "-qm", "first"]);
    git(folder, &["rev-parse", "--short=12", "HEAD"])
}

#[test]
fn a_release_names_its_commit_wherever_it_is_built() {
    let script = Script::compiled();
    let folder = script.folder("checkout");
    let commit = checkout(&folder);
    assert_eq!(script.names(&folder, None), commit);
    fs::write(folder.join("src/main.rs"), "fn main() { loop {} }").expect("a file");
    assert_eq!(script.names(&folder, None), format!("{commit} with changes"));
    assert_eq!(script.names(&folder, Some("0.2.0-1")), "0.2.0-1");
    // Sources that lie in another project's checkout, and a name that would be more than one line.
    let within = script.folder("checkout/vendor/portcullis");
    assert_eq!(script.names(&within, None), "unknown: built outside of a checkout");
    let alone = script.folder("alone");
    assert_eq!(script.names(&alone, None), "unknown: built outside of a checkout");
    assert_eq!(script.names(&alone, Some("a\ncargo::error=b")), "unknown: built outside of a checkout");
}

/// A linker that is too old refuses, or leaves a program that does not run.
#[test]
fn a_release_is_linked_smaller_where_such_a_program_runs() {
    let script = Script::compiled();
    let folder = script.folder("sources");
    let compiler = |name: &str, lines: &str| {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\n{lines}\n")).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is made to run");
        path
    };
    let makes = |ends: &str| format!("printf '#!/bin/sh\\n{ends}' > linked && chmod +x linked");
    let options = |host: &str, profile: &str, compiler: &Path, flags: &str| -> Vec<String> {
        let mut command = script.command(&folder);
        command.env("HOST", host).env("PROFILE", profile).env("RUSTC", compiler);
        let sent = succeed(command.env("CARGO_ENCODED_RUSTFLAGS", flags));
        let options = sent.lines().filter_map(|line| line.strip_prefix("cargo::rustc-link-arg-bins="));
        options.map(str::to_owned).collect()
    };
    let (able, old) = (compiler("able", &makes("exit 0")), compiler("old", &makes("kill -SEGV $$")));
    let folds_nothing =
        compiler("folds-nothing", &format!("case $* in *icf*) exit 1;; esac; {}", makes("exit 0")));
    let (packs, folds) = ("-Wl,-z,pack-relative-relocs", "-Wl,--icf=all");
    assert_eq!(options("some-target", "release", &able, ""), [packs, folds]);
    assert_eq!(options("some-target", "release", &folds_nothing, ""), [packs]);
    let none: [&str; 0] = [];
    assert_eq!(options("some-target", "release", &old, ""), none);
    assert_eq!(options("another-host", "release", &able, ""), none, "what runs there is not known here");
    assert_eq!(options("some-target", "debug", &able, ""), none);
    // The linker that the surroundings name decides.
    let rustc = Path::new("rustc");
    assert_eq!(options("some-target", "release", rustc, "-Clink-arg=-fuse-ld=none"), none);
    assert_eq!(options("some-target", "release", rustc, "-C\u{1f}linker=/no/such/linker"), none);
}

#[test]
fn the_version_names_the_built_commit() {
    let program = || Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let long = succeed(program().arg("--version"));
    let lines: Vec<_> = long.lines().collect();
    assert_eq!(lines[0], concat!("portcullis ", env!("CARGO_PKG_VERSION")), "{long}");
    assert!(lines[1].strip_prefix("commit: ").is_some_and(|commit| !commit.is_empty()), "{long}");
    let host = succeed(Command::new("rustc").arg("-vV"));
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host");
    assert_eq!(lines[2], format!("target: {host}"), "{long}");
    assert_eq!(lines[3], "TLS: rustls with aws-lc-rs", "{long}");
    assert_eq!(succeed(program().arg("-V")), format!("{}\n", lines[0]));
}
