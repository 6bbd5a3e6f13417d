//! The systemd units, as systemd itself judges them.

use std::{fs, path::PathBuf, process::Command};

use tempfile::TempDir;

use crate::{installed, output_of, root, succeed};

/// `systemd-analyze security` in tenths; its own scale goes from 0 to 10.
const EXPOSURE_TENTHS_MAX: u8 = 15;

/// The units as instance `edge`, with the program where it was built.
fn instance() -> (TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().expect("a folder");
    let files = ["service", "socket"].map(|kind| {
        let unit = root().join(format!("assets/systemd/portcullis@.{kind}"));
        let text = fs::read_to_string(unit).expect("the unit is there");
        let text = text.replace("/usr/bin/portcullis", env!("CARGO_BIN_EXE_portcullis"));
        let path = folder.path().join(format!("portcullis@edge.{kind}"));
        fs::write(&path, text).expect("a file");
        path
    });
    (folder, files.into())
}

#[test]
fn the_units_hold_no_mistake() {
    let Some(systemd_analyze) = installed("systemd-analyze") else { return };
    let (_folder, files) = instance();
    let output = Command::new(systemd_analyze).args(["verify", "--man=no"]).args(&files).output();
    let output = output.expect("it runs");
    let output_text = output_of(&output);
    assert!(output.status.success() && output.stderr.is_empty(), "{output_text}");
}

#[test]
fn the_service_is_exposed_to_little() {
    let Some(systemd_analyze) = installed("systemd-analyze") else { return };
    let (_folder, files) = instance();
    let threshold = format!("--threshold={EXPOSURE_TENTHS_MAX}");
    let mut command = Command::new(systemd_analyze);
    command.args(["security", "--offline=true", "--no-pager", &threshold]);
    succeed(command.arg(&files[0]));
}

/// What the unit runs is understood by the program, and needs the file that the unit asks for.
#[test]
fn the_service_runs_the_profile_that_it_waits_for() {
    let text = fs::read_to_string(root().join("assets/systemd/portcullis@.service")).expect("the unit");
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).expect("the key is there");
    assert_eq!(value("AssertPathExists="), "/etc/portcullis/profiles/%i.yaml");
    let folder = tempfile::tempdir().expect("a folder");
    let line = value("ExecStart=").replace("%i", "edge");
    let folder = folder.path().to_str().expect("UTF-8");
    let line = line.replace("/etc/portcullis/profiles", folder).replace("%t", folder);
    let arguments: Vec<_> = line.split(' ').skip(1).collect();
    let mut program = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let output = program.args(arguments).output().expect("it runs");
    assert_eq!(output.status.code(), Some(2), "{}", output_of(&output));
    assert!(output_of(&output).contains("edge"), "{}", output_of(&output));
    // Whoever starts it and whoever reloads it mean the same socket.
    let reload = format!(
        "/usr/bin/portcullis reload {}",
        &value("ExecStart=")[value("ExecStart=").find("--admin").expect("it names its socket")..]
    );
    assert_eq!(value("ExecReload="), reload);
}
