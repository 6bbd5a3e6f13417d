//! What is handed to a machine beside the program: how it says what it was built from, the systemd
//! units, and the Debian package.

#[path = "package/build_script.rs"]
mod build_script;
#[path = "package/container.rs"]
mod container;
#[path = "package/debian.rs"]
mod debian;
#[path = "package/units.rs"]
mod units;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The program of this name; where it is missing, the test says so and is left out.
fn installed(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&folders).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = folders.find_map(|folder| Some(folder.join(name)).filter(|path| path.is_file()));
    if found.is_none() {
        eprintln!("skipped: needs {name}");
    }
    found
}

/// Runs a command to its end, and shows all that it said where it failed.
#[track_caller]
fn succeed(command: &mut Command) -> String {
    let output = command.output().expect("the program runs");
    assert!(output.status.success(), "{command:?}: {}", output_of(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn output_of(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))
}
