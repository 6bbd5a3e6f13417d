//! Tells the program what it was built from and for: `--version` says it.
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
}

fn commit() -> String {
    if let Some(named) = env::var("PORTCULLIS_COMMIT").ok().filter(|name| is_plain(name)) {
        return named;
    }
    if env::var("PROFILE").is_ok_and(|profile| profile != "release") {
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
