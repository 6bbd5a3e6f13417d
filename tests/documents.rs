//! The documents: their links lead somewhere, and the commands that they show exist.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "documents/durations.rs"]
mod durations;
#[path = "documents/map.rs"]
mod map;
#[path = "documents/outsiders.rs"]
mod outsiders;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Parser;
use portcullis::{cli::Cli, telemetry::log::LogEvent};
use regex::Regex;

/// What a newcomer reads first stays short.
const README_BYTES_MAX: usize = 9 * 1024;
/// Pages that a newcomer meets, and how long a paragraph of theirs may be.
const SHORT_PARAGRAPHS: [&str; 6] = [
    "README.md",
    "ARCHITECTURE.md",
    "SECURITY.md",
    "docs/link-protocol.md",
    "docs/operate.md",
    "docs/tutorial.md",
];
const PARAGRAPH_WORDS_MAX: usize = 60;
/// Pages whose sentences are short as well.
const SHORT_SENTENCES: [&str; 2] = ["docs/performance.md", "docs/profile.md"];
const SENTENCE_WORDS_MAX: usize = 25;
/// The share of sentences, in percent, that may be longer.
const LONG_SENTENCES_MAX: usize = 10;

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

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
            // A grammar, with its alternatives and placeholders, is not a command.
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

/// Whoever follows a walk to the letter publishes what stands in its folder: keys, where it is this one.
#[test]
fn no_web_server_of_a_walk_publishes_the_folder_that_it_is_started_in() {
    let server = Regex::new(r"http\.server(.*)").unwrap();
    let folder = Regex::new(r"(?:^| )(?:-d|--directory)[ =](\S+)").unwrap();
    let mut count = 0;
    for (file, text) in documents().into_iter().filter(|(file, _)| !file.ends_with("CHANGELOG.md")) {
        for line in server.captures_iter(&text) {
            let path = folder.captures(&line[1]).map(|found| found[1].to_owned());
            let path = path.unwrap_or_else(|| panic!("{}: which folder?{}", file.display(), &line[0]));
            let has_keys = path.contains("pki") || text.contains(&format!("--out {path}"));
            let is_own = Path::new(&path).is_absolute() && path != "/" && !has_keys;
            assert!(is_own, "{}: {path} is not a folder of its own", file.display());
            count += 1;
        }
    }
    assert!(count >= 3, "only {count} were found");
}

#[test]
fn the_readme_is_short() {
    let text = page("README.md");
    assert!(text.len() <= README_BYTES_MAX, "{} bytes: the rest belongs under docs/", text.len());
}

/// The paragraphs and the list items of a document, without its tables and code.
fn paragraphs(text: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    for line in text.split("```").step_by(2).flat_map(str::lines) {
        let starts_item = line.trim_start().split_once(' ').is_some_and(|(mark, _)| {
            mark == "-" || mark.strip_suffix('.').is_some_and(|number| number.parse::<u8>().is_ok())
        });
        if line.trim().is_empty() || starts_item || line.starts_with(['#', '|']) {
            found.push(String::new());
        }
        if !line.starts_with('|') {
            found.last_mut().unwrap().extend([line, "\n"]);
        }
    }
    found
}

#[test]
fn pages_that_are_read_first_have_short_paragraphs() {
    for name in SHORT_PARAGRAPHS {
        for paragraph in paragraphs(&page(name)) {
            let words = paragraph.split_whitespace().count();
            assert!(words <= PARAGRAPH_WORDS_MAX, "{name}: {words} words:\n{paragraph}");
        }
    }
}

/// The numbers of words of the sentences in a paragraph. What stands between backticks is one word.
fn sentence_lengths(paragraph: &str) -> Vec<usize> {
    let text: String =
        paragraph.split('`').enumerate().map(|(number, part)| [part, "_"][number % 2]).collect();
    let mut lengths = Vec::new();
    let mut length = 0;
    for word in text.split_whitespace() {
        length += 1;
        if word.trim_end_matches(['*', ')', '"']).ends_with(['.', '?', '!']) {
            lengths.push(length);
            length = 0;
        }
    }
    lengths.extend((length > 0).then_some(length));
    lengths
}

#[test]
fn nine_in_ten_sentences_are_short() {
    for name in SHORT_PARAGRAPHS.iter().chain(&SHORT_SENTENCES) {
        let text = page(name);
        let paragraphs = paragraphs(&text).into_iter().filter(|paragraph| !paragraph.starts_with('#'));
        let lengths: Vec<_> = paragraphs.flat_map(|paragraph| sentence_lengths(&paragraph)).collect();
        let long = lengths.iter().filter(|length| **length > SENTENCE_WORDS_MAX).count();
        let count = lengths.len();
        assert!(count > 20, "{name}: sentences are not seen");
        assert!(long * 100 <= count * LONG_SENTENCES_MAX, "{name}: {long} of {count} sentences are long");
    }
}

#[test]
fn the_reader_of_sentences_knows_their_ends() {
    let paragraph = "- **One.** Two `a b. c` three (four five.) Is it 1.5 s?\n";
    assert_eq!(sentence_lengths(paragraph), [2, 5, 4]);
}

/// The file or folder of a module, if there is one.
fn module(parts: &[&str]) -> Option<PathBuf> {
    let path =
        parts.iter().fold(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), |path, part| path.join(part));
    [path.with_extension("rs"), path].into_iter().find(|path| path.exists())
}

/// What stands between backticks, outside code blocks.
fn quoted(text: &str) -> Vec<&str> {
    text.split("```").step_by(2).flat_map(|part| part.split('`').skip(1).step_by(2)).collect()
}

/// The text of all sources below a folder, or of one file.
fn sources(path: &Path) -> String {
    if path.is_file() {
        return fs::read_to_string(path).unwrap();
    }
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.is_dir() || path.extension().is_some_and(|ending| ending == "rs"))
        .map(|path| sources(&path))
        .collect()
}

#[test]
fn paths_of_modules_that_documents_name_exist() {
    let mut count = 0;
    for (file, text) in documents().into_iter().filter(|(file, _)| !file.ends_with("CHANGELOG.md")) {
        let is_path = |word: &&str| {
            word.contains("::")
                && word.chars().all(|letter| letter.is_alphanumeric() || matches!(letter, ':' | '_'))
        };
        for path in quoted(&text).into_iter().filter(is_path) {
            let parts: Vec<_> = path.split("::").collect();
            let depth = (1..=parts.len()).rev().find(|depth| module(&parts[..*depth]).is_some());
            let depth = depth.unwrap_or_else(|| panic!("{}: no module of {path}", file.display()));
            let source = sources(&module(&parts[..depth]).unwrap());
            for part in &parts[depth..] {
                assert!(source.contains(part), "{}: no {part} of {path}", file.display());
            }
            count += 1;
        }
    }
    assert!(count > 60, "only {count} paths were found");
}

#[test]
fn each_promise_of_security_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let code = sources(&root.join("tests")) + &sources(&root.join("src"));
    let text = page("SECURITY.md");
    let tables = text.split("| shown by |\n").skip(1);
    let rows: Vec<_> = tables
        .flat_map(|table| table.lines().skip(1).take_while(|line| line.starts_with('|')))
        .map(|row| row.trim_end_matches('|').rsplit('|').next().unwrap())
        .collect();
    for row in &rows {
        let tests = quoted(row);
        assert!(!tests.is_empty(), "no test shows this: {row}");
        for test in tests {
            assert!(code.contains(&format!("fn {test}()")), "SECURITY.md names {test}, which is not a test");
        }
    }
    assert!(rows.len() > 20, "the tables have moved: {} rows", rows.len());
}

/// The source of the module that a constant is in, and the constant's name.
fn module_of(path: &str) -> (String, &str) {
    let (module, name) = path.rsplit_once("::").unwrap_or_else(|| panic!("{path} names no constant"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(module.replace("::", "/"));
    let files = [source.with_extension("rs"), source.join("mod.rs")];
    let text = files.iter().find_map(|file| fs::read_to_string(file).ok());
    (text.unwrap_or_else(|| panic!("no module {module}")), name)
}

/// A number of the sources, which may be written as a product.
fn number(path: &str) -> u64 {
    let (text, name) = module_of(path);
    let found = Regex::new(&format!(r"const {name}: (?:usize|u32) = ([0-9_* ]+);")).unwrap();
    let product =
        found.captures(&text).unwrap_or_else(|| panic!("no number {path}"))[1].replace([' ', '_'], "");
    product.split('*').map(|factor| factor.parse::<u64>().unwrap()).product()
}

#[test]
fn every_number_of_security_is_that_of_its_constant() {
    let text = page("SECURITY.md");
    let table = text.split("| number | value | where |\n").nth(1).unwrap();
    let rows: Vec<_> = table.lines().skip(1).take_while(|line| line.starts_with('|')).collect();
    for row in &rows {
        let [_, value, path] = row.trim_matches('|').split('|').collect::<Vec<_>>()[..] else {
            panic!("{row}")
        };
        let (digits, unit) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
        let unit = match unit {
            "" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            other => panic!("{row} is in {other}"),
        };
        let written = digits.replace(',', "").parse::<u64>().unwrap() * unit;
        assert_eq!(written, number(path.trim().trim_matches('`')), "{row}");
    }
    assert!(rows.len() >= 12, "the table has moved: {} rows", rows.len());
}

/// What a constant of the sources says: the file of its module has a line for it.
fn constant(path: &str) -> Duration {
    let (text, name) = module_of(path);
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

/// The source of a test, from the file of its module or from the test file named before it.
fn test_text(path: &str) -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (file, name) = match path.split_once("`, `") {
        Some((file, name)) => (root.join(file), name),
        None => {
            let (module, name) = path.rsplit_once("::").unwrap_or_else(|| panic!("{path} names no test"));
            (root.join("src").join(module.replace("::", "/")), name)
        }
    };
    // The tests of a long file stand in a file of their own.
    let files = [file.with_extension("rs"), file.join("mod.rs"), file.join("tests.rs")];
    let text: String = files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
    assert!(!text.is_empty(), "no file of {path}");
    let (before, of) = text.split_once(&format!("fn {name}("))?;
    let marks = before.rsplit('\n').skip(1).map(str::trim).take_while(|line| line.starts_with('#'));
    let is_test =
        marks.into_iter().any(|mark| mark.starts_with("#[test]") || mark.starts_with("#[tokio::test"));
    let indent = before.rsplit('\n').next()?.len() - before.rsplit('\n').next()?.trim_start().len();
    let end = format!("\n{}}}\n", " ".repeat(indent));
    is_test.then(|| of.split(&end).next().unwrap_or(of).to_owned())
}

/// How tests measure when something happens.
const MEASURES: [&str; 7] = [
    "happens_after",
    "fails_after(",
    ".elapsed()",
    "time_phase(",
    ".after(4_999)",
    "is not kept to its time",
    ".stalled_for(",
];

#[test]
fn every_other_deadline_of_the_architecture_is_that_of_its_constant_and_has_a_test() {
    let text = include_str!("../ARCHITECTURE.md");
    let table = text.split("| deadline | value | measured from | where | kept by |\n").nth(1).unwrap();
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    let rows: Vec<Vec<_>> =
        rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect();
    for row in &rows {
        let [_, value, _, constants, test] = row.as_slice() else { panic!("{row:?}") };
        let words: Vec<_> = value.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        let values = words.windows(2).filter(|pair| ["s", "ms"].contains(&pair[1]));
        let values: Vec<_> = values.map(|pair| humantime::parse_duration(&pair.concat()).unwrap()).collect();
        let constants: Vec<_> = constants.split('`').skip(1).step_by(2).map(constant).collect();
        assert_eq!(values, constants, "{row:?}");
        assert!(!values.is_empty(), "{row:?}");
        let text = test_text(test.trim_matches('`')).unwrap_or_else(|| panic!("{row:?} is kept by no test"));
        assert!(MEASURES.iter().any(|measure| text.contains(measure)), "{row:?}: its test measures no time");
    }
    assert!(rows.len() >= 20, "the table has moved: {} rows", rows.len());
}

#[test]
fn a_name_that_is_no_test_is_distinguished_from_one_that_is() {
    let text = test_text("disk::work_that_hangs_is_left_to_itself_after_the_deadline");
    assert!(text.is_some_and(|text| text.contains("Late") && !text.contains("fn ")));
    assert!(test_text("disk::read").is_none() && test_text("disk::work_that_hangs").is_none());
}

/// What stands between the brackets of each call of `tracing` in the sources.
fn log_calls() -> Vec<(PathBuf, String)> {
    let call = Regex::new(r"tracing::(?:error|warn|info|debug|trace)!\(").unwrap();
    let mut calls = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for found in call.find_iter(&text) {
                let mut depth = 1;
                let is_inside = |letter: &char| {
                    depth += i32::from(*letter == '(') - i32::from(*letter == ')');
                    depth > 0
                };
                calls.push((path.clone(), text[found.end()..].chars().take_while(is_inside).collect()));
            }
        }
    }
    calls
}

/// The event of a call as it is written, and the fields that come with it.
fn log_call(body: &str) -> Option<(String, Vec<String>)> {
    let event = Regex::new(r#"^\s*event = (?:%LogEvent::(\w+)|"(\w+)"),"#).unwrap();
    let found = event.captures(body)?;
    let name = found.get(1).or(found.get(2)).unwrap().as_str().to_owned();
    let rest = &body[found.get(0).unwrap().end()..];
    // Up to the text: what stands in brackets and quotes before it belongs to a value.
    let value = Regex::new(r#"\s*[%?]?"?(\w+)"?\s*(?:=\s*(?:[^,"()]|\([^()]*\)|\("[^"]*"\))*)?,"#).unwrap();
    let (mut fields, mut at) = (Vec::new(), 0);
    while let Some(field) = value.captures_at(rest, at).filter(|field| field.get(0).unwrap().start() == at) {
        fields.push(field[1].to_owned());
        at = field.get(0).unwrap().end();
    }
    Some((name, fields))
}

#[test]
fn every_line_of_the_log_is_an_event_that_is_written_down() {
    let mut count = 0;
    for (file, body) in log_calls() {
        let Some((named, fields)) = log_call(&body) else {
            // Where it comes as a value, it comes from the table.
            let is_passed_on = body.trim_start().starts_with("%event,");
            assert!(is_passed_on, "{}: begin with `event = %LogEvent::…`: {body}", file.display());
            continue;
        };
        let is_it = |event: &&LogEvent| format!("{event:?}") == named || event.name() == named;
        let event = LogEvent::ALL.iter().find(is_it).unwrap_or_else(|| panic!("no event {named}"));
        assert_eq!(fields, event.fields(), "{}: {event:?}", file.display());
        count += 1;
    }
    assert!(count > 30, "only {count} calls were found");
}

#[test]
fn the_events_of_the_log_are_those_of_the_manual() {
    let page = page("docs/operate.md");
    let table =
        page.split("| `event` | fields | tells that |\n|---|---|---|\n").nth(1).expect("the table of events");
    let rows: Vec<_> = table.lines().take_while(|line| line.starts_with('|')).collect();
    let row = |event: &LogEvent| {
        let fields: Vec<_> = event.fields().iter().map(|field| format!("`{field}`")).collect();
        format!("| `{}` | {} | {} |", event.name(), fields.join(", "), event.about())
    };
    let expected: Vec<_> = LogEvent::ALL.iter().map(row).collect();
    assert_eq!(rows, expected, "\n{}", expected.join("\n"));
}
