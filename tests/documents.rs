//! The documents: their links lead somewhere, and the commands that they show exist.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Parser;
use portcullis::cli::Cli;

/// What a newcomer reads first stays short.
const README_BYTES_MAX: usize = 9 * 1024;

fn documents() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [root.to_path_buf(), root.join("docs"), root.join("benches")];
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let files = files.map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.filter(|path| path.extension().is_some_and(|ending| ending == "md")).collect();
    assert!(files.len() >= 7, "the documents have moved: {files:?}");
    files.into_iter().map(|path| (path.clone(), fs::read_to_string(&path).unwrap())).collect()
}

/// `# A heading, as GitHub anchors it` becomes `a-heading-as-github-anchors-it`.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
    let headings = headings.map(|line| line.trim_start_matches('#').trim().to_lowercase());
    let kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
    headings.map(|heading| heading.chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut count = 0;
    for (file, text) in documents() {
        let targets = text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
        for target in targets.filter(|target| !target.contains("://")) {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if path.is_empty() { file.clone() } else { file.parent().unwrap().join(path) };
            assert!(path.exists(), "{}: no {target}", file.display());
            let is_there =
                anchor.is_empty() || anchors(&fs::read_to_string(&path).unwrap()).contains(&anchor.into());
            assert!(is_there, "{}: no heading for {target}", file.display());
            count += 1;
        }
    }
    assert!(count > 5, "only {count} links were found");
}

/// The command lines of ours in a document: in blocks, or between backticks in its text.
fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, part) in text.split("```").enumerate() {
        if number % 2 == 1 {
            let lines = part.lines().map(|line| line.split(" #").next().unwrap());
            found.extend(lines.flat_map(|line| line.split([';', '&', '|'])).map(str::to_owned));
        } else {
            found.extend(part.split('`').skip(1).step_by(2).map(|code| code.replace('\n', " ")));
        }
    }
    let from_program = |line: String| {
        let at =
            line.split_whitespace().position(|word| word == "portcullis" || word.ends_with("/portcullis"))?;
        let words: Vec<_> = line.split_whitespace().skip(at).collect();
        let is_shell = at == 0 || line.trim_start().starts_with(['$', '#']) || line.contains("ip netns exec");
        (is_shell && words.len() > 1).then(|| words.join(" "))
    };
    found.into_iter().filter_map(from_program).collect()
}

#[test]
fn every_command_that_is_shown_exists() {
    let mut count = 0;
    for (file, text) in documents().into_iter().filter(|(file, _)| !file.ends_with("CHANGELOG.md")) {
        for command in commands(&text) {
            // A grammar, with its alternatives and placeholders, is no command.
            if command.contains(['[', '<', '…']) {
                continue;
            }
            let parsed = Cli::try_parse_from(command.split_whitespace());
            // The version and the help are answers too.
            if let Some(error) = parsed.err().filter(clap::Error::use_stderr) {
                panic!("{}: `{command}` is not understood:\n{error}", file.display());
            }
            count += 1;
        }
    }
    assert!(count > 20, "only {count} commands were found");
}

#[test]
fn the_readme_is_short() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    assert!(text.len() <= README_BYTES_MAX, "{} bytes: the rest belongs under docs/", text.len());
    for paragraph in text.split("```").step_by(2).flat_map(|part| part.split("\n\n")) {
        let words = paragraph.split_whitespace().count();
        assert!(words <= 60 || paragraph.starts_with('|'), "{words} words:\n{paragraph}");
    }
}
