//! Tells the program what it was built from and for: `--version` says it. And makes a release smaller where the
//! linker and the C library know how.
//!
//! Nothing is fetched. `PORTCULLIS_COMMIT` names the commit for whoever builds outside of a checkout; a
//! checkout names it by itself. Only a release looks: a build for tests is not made anew after each commit.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=PORTCULLIS_COMMIT");
    let target = env::var("TARGET").unwrap_or_else(|_| "unknown".into());
    println!("cargo::rustc-env=PORTCULLIS_TARGET={target}");
    println!("cargo::rustc-env=PORTCULLIS_BUILT_FROM={}", commit());
    if is_release() && packs_relocations().unwrap_or(false) {
        println!("cargo::rustc-link-arg-bins={PACK_RELOCATIONS}");
    }
}

fn is_release() -> bool {
    env::var("PROFILE").is_ok_and(|profile| profile == "release")
}

/// Takes 0.7 MB off. Linkers know it from 2022 on, and glibc from 2.36.
const PACK_RELOCATIONS: &str = "-Wl,-z,pack-relative-relocs";
/// Ends well only where a pointer was relocated.
const RELOCATED: &str = "static int none; int *volatile at = &none; int main(void) { return *at; }";

/// Whether a program that is linked so runs here; nobody knows that of another machine.
fn packs_relocations() -> Option<bool> {
    if env::var_os("HOST")? != env::var_os("TARGET")? || env::var("CARGO_CFG_TARGET_OS").ok()? != "linux" {
        return None;
    }
    let folder = PathBuf::from(env::var_os("OUT_DIR")?);
    let (source, program) = (folder.join("relocated.c"), folder.join("relocated"));
    fs::write(&source, RELOCATED).ok()?;
    let linker = env::var_os("RUSTC_LINKER").unwrap_or_else(|| "cc".into());
    let mut link = Command::new(linker);
    link.args(["-fPIE", "-pie", PACK_RELOCATIONS, "-Wl,--fatal-warnings", "-o"]).arg(&program).arg(&source);
    let is_linked = link.output().ok()?.status.success();
    Some(is_linked && Command::new(&program).status().ok()?.success())
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
