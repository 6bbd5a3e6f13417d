//! A fleet file: a YAML map of names and targets.
//!
//! A target may be a command that runs as the user who reads the file. So nobody else may be able to write to
//! the file.

use std::path::Path;

use super::target::{self, FleetTarget};
use crate::{
    disk::{self, PipePolicy},
    gateway::handle::AdminAccess,
    profile::{NamedText, Problem, ProfileLocation, is_gateway_name, read_text_map},
};

/// The gateways that a file names, in its order; or everything that is wrong with it.
pub fn read(path: &Path, access: AdminAccess) -> Result<Vec<FleetTarget>, Vec<Problem>> {
    let label = path.display().to_string();
    let whole = |what: String, advice: &str| {
        let location =
            ProfileLocation { file: label.as_str().into(), line: 0, column: 0, key: "(file)".into() };
        vec![Problem { location, what, advice: advice.into() }]
    };
    let contents = disk::read(path, FILE_BYTES_MAX, PipePolicy::Refused)
        .map_err(|error| whole(format!("it cannot be read: {error}"), "name a fleet file"))?;
    let user = rustix::process::geteuid().as_raw();
    if contents.access.owner != user && contents.access.owner != 0 {
        let what = format!("it belongs to user {}, who could have it run any command", contents.access.owner);
        return Err(whole(what, "it must belong to you or to root"));
    }
    if contents.access.mode & OTHERS_WRITE != 0 {
        let what = format!(
            "its mode {:04o} lets others write it, who could have it run any command",
            contents.access.mode
        );
        return Err(whole(what, "run chmod go-w on it"));
    }
    let text = String::from_utf8(contents.bytes)
        .map_err(|_| whole("it is not UTF-8".into(), "write it in UTF-8"))?;
    parse(&text, &label, access)
}

fn parse(text: &str, label: &str, access: AdminAccess) -> Result<Vec<FleetTarget>, Vec<Problem>> {
    let (entries, mut problems) = read_text_map(text, label)?;
    let mut targets = Vec::new();
    for NamedText { name, text, location } in entries {
        if !is_gateway_name(&name) {
            let what = format!("`{}` is not a gateway name", crate::text::clean_text(&name, NAME_CHARS));
            let advice = "write 1 to 64 of A-Z, a-z, 0-9, `.`, `_`, `-`".into();
            problems.push(Problem { location, what, advice });
            continue;
        }
        match target::parse(&text, access) {
            Ok(at) => targets.push(FleetTarget { name: name.into(), at }),
            Err(error) => {
                let reported = error.to_string();
                let (what, advice) = reported.split_once("; ").unwrap_or((&reported, "write a target"));
                problems.push(Problem { location, what: what.into(), advice: advice.into() });
            }
        }
    }
    if problems.is_empty() { Ok(targets) } else { Err(problems) }
}

const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Write permission for the group or for all others.
const OTHERS_WRITE: u32 = 0o022;
const NAME_CHARS: usize = 80;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn problems(text: &str) -> Vec<String> {
        parse(text, "f.yaml", AdminAccess::Full).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn gateways_come_in_the_order_of_the_file() {
        let read = parse("edge-2: ssh:edge-2\nedge-1: /run/a.sock\n", "f.yaml", AdminAccess::Full).unwrap();
        let read: Vec<_> = read.iter().map(|it| format!("{}={}", it.name, it.at)).collect();
        assert_eq!(read, ["edge-2=ssh:edge-2", "edge-1=/run/a.sock"]);
    }

    #[test]
    fn each_bad_entry_is_reported_with_its_line() {
        let reported = problems("edge: /run/a.sock\nedge: /run/b.sock\n");
        assert!(reported[0].starts_with("f.yaml:2:1: edge: "), "{reported:?}");
        let reported =
            problems("a: ssh:-x\nb c: /run/x\nc: { target: /run/x, colour: red }\nd:\ne: \"exec:\"\n");
        assert_eq!(reported.len(), 5, "{reported:?}");
        for (line, part) in
            [(3, "c: "), (4, "d: "), (1, "begins with `-`"), (2, "not a gateway name"), (5, "lacks")]
        {
            let begins = format!("f.yaml:{line}:");
            assert!(
                reported.iter().any(|it| it.starts_with(&begins) && it.contains(part)),
                "{line} {part}: {reported:?}"
            );
        }
        for text in ["", "# nothing\n", "- /run/a.sock\n", "just text\n", "a: [\n", "a: \u{1}\n"] {
            let reported = problems(text);
            assert!(reported.len() == 1 && !reported[0].contains("profile"), "{text:?}: {reported:?}");
        }
    }

    #[test]
    fn a_file_that_others_may_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fleet.yaml");
        fs::write(&path, "edge: /run/a.sock\n").unwrap();
        for (mode, is_fine) in [(0o600, true), (0o644, true), (0o664, false), (0o646, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let read = read(&path, AdminAccess::Full);
            assert_eq!(read.is_ok(), is_fine, "{mode:o}: {read:?}");
        }
        // Only root can give a file away.
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let reported = read(&path, AdminAccess::Full).unwrap_err();
            assert!(reported[0].to_string().contains("it belongs to user 12345"), "{reported:?}");
        }
        let removed = read(&folder.path().join("none.yaml"), AdminAccess::Full).unwrap_err();
        assert!(removed[0].to_string().contains("No such file"), "{removed:?}");
    }
}
