//! Tells the program what it was built from and for: `--version` says it. And makes a release smaller where the
//! linker and the C library know how.
//!
//! Nothing is fetched. `PORTCULLIS_COMMIT` names the commit for whoever builds outside of a checkout; a
//! checkout names it by itself. Only a release looks: a build for tests is not made anew after each commit.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=PORTCULLIS_COMMIT");
    let target = env::var("TARGET").unwrap_or_else(|_| "unknown".into());
    println!("cargo::rustc-env=PORTCULLIS_TARGET={target}");
    println!("cargo::rustc-env=PORTCULLIS_BUILT_FROM={}", commit());
    if is_release() {
        let known = SMALLER.into_iter().filter(|option| runs_when_linked_with(option).unwrap_or(false));
        known.for_each(|option| println!("cargo::rustc-link-arg-bins={option}"));
    }
}

fn is_release() -> bool {
    env::var("PROFILE").is_ok_and(|profile| profile == "release")
}

/// What makes the program smaller, where the linker knows it.
const SMALLER: [&str; 2] = [
    // 0.7 MB: pointers to relocate take bits instead of 24 bytes. glibc reads them from 2.36 on.
    "-Wl,-z,pack-relative-relocs",
    // 0.2 MB: functions of the same instructions are one. Nothing here asks for the address of one to be its own.
    "-Wl,--icf=all",
];

/// Whether a program that is linked so, by the linker that this one will be linked by, runs here; nobody knows that
/// of another machine.
fn runs_when_linked_with(option: &str) -> Option<bool> {
    if env::var_os("HOST")? != env::var_os("TARGET")? || env::var("CARGO_CFG_TARGET_OS").ok()? != "linux" {
        return None;
    }
    let folder = PathBuf::from(env::var_os("OUT_DIR")?);
    let (source, program) = (folder.join("linked.rs"), folder.join("linked"));
    fs::write(&source, "fn main() {}").ok()?;
    // What cargo hands to the compiler, which may name another linker.
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let mut link = Command::new(env::var_os("RUSTC")?);
    link.args(flags.split('\u{1f}').filter(|flag| !flag.is_empty()));
    link.arg(format!("-Clink-arg={option}")).arg("-o").arg(&program).arg(&source);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = OsString::from("-Clinker=");
        option.push(linker);
        link.arg(option);
    }
    let is_linked = link.output().ok()?.status.success();
    Some(is_linked && Command::new(&program).output().ok()?.status.success())
}

fn commit() -> String {
    if let Some(named) = env::var("PORTCULLIS_COMMIT").ok().filter(|name| is_plain(name)) {
        return named;
    }
    if !is_release() {
        return "unnamed in a build for tests".into();
    }
    from_checkout().unwrap_or_else(|| "unknown: built outside of a checkout".into())
}

/// The commit of this checkout, and whether files of it differ.
fn from_checkout() -> Option<String> {
    let top = PathBuf::from(git(&["rev-parse", "--show-toplevel"])?);
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR")?);
    // Sources that lie in somebody else's checkout are not of its commit.
    if fs::canonicalize(top).ok()? != fs::canonicalize(here).ok()? {
        return None;
    }
    for name in ["HEAD", "logs/HEAD", "index"] {
        let path = git(&["rev-parse", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    for path in ["src", "assets", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).filter(|name| is_plain(name))?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() { commit } else { format!("{commit} with changes") })
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A name on one line, that cannot be read as a line for cargo.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.+~_".contains(&byte))
}
