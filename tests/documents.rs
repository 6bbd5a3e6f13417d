//! The documents: their links lead somewhere, and the commands that they show exist.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
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

/// What a constant of the sources says: the file of its module has a line for it.
fn constant(path: &str) -> Duration {
    let (module, name) = path.rsplit_once("::").unwrap_or_else(|| panic!("{path} names no constant"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(module.replace("::", "/"));
    let files = [source.with_extension("rs"), source.join("mod.rs")];
    let text = files.iter().find_map(|file| fs::read_to_string(file).ok());
    let text = text.unwrap_or_else(|| panic!("no module {module}"));
    let value = text.split(&format!("const {name}: Duration = Duration::from_")).nth(1);
    let value = value.unwrap_or_else(|| panic!("no constant {path}"));
    let (unit, number) = value.split(')').next().unwrap().split_once('(').unwrap();
    let number = number.replace('_', "").parse().unwrap();
    match unit {
        "secs" => Duration::from_secs(number),
        "millis" => Duration::from_millis(number),
        other => panic!("{path} is in {other}"),
    }
}

#[test]
fn every_other_deadline_of_the_architecture_is_that_of_its_constant() {
    let text = include_str!("../ARCHITECTURE.md");
    let rows: Vec<Vec<_>> = text
        .split("| deadline | value | measured from | where |\n")
        .skip(1)
        .flat_map(|table| table.lines().skip(1).take_while(|line| line.starts_with('|')))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    for row in &rows {
        let [_, value, _, constants] = row.as_slice() else { panic!("{row:?}") };
        let words: Vec<_> = value.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        let values = words.windows(2).filter(|pair| ["s", "ms"].contains(&pair[1]));
        let values: Vec<_> = values.map(|pair| humantime::parse_duration(&pair.concat()).unwrap()).collect();
        let constants: Vec<_> = constants.split('`').skip(1).step_by(2).map(constant).collect();
        assert_eq!(values, constants, "{row:?}");
        assert!(!values.is_empty(), "{row:?}");
    }
    assert!(rows.len() >= 18, "the tables have moved: {} rows", rows.len());
}
