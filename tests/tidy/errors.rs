//! Causes are types: no error is a text, and nothing is decided by the words of one.

use super::{module_of, sources};

/// The command line and the screen: what their functions answer is shown to whoever has typed something.
const MAY_ANSWER_WITH_WORDS: &[&str] = &["cli", "commands", "init", "tui"];
/// What holds the words of an error, a notice or an answer, by its name.
const WORDS: &[&str] = &[
    "error",
    "failure",
    "info",
    "message",
    "reason",
    "reported",
    "seen",
    "what",
    "why",
    "words",
    "to_string()",
];
const SEARCHES: &[&str] = &["contains", "ends_with", "starts_with"];
/// Files in which words are searched, and why.
const MAY_SEARCH_WORDS: &[(&str, &str)] =
    &[("src/profile/positions.rs", "the reader of YAML tells of its limit in no other way")];

/// The last type within each `Result<…>`, where there are two.
fn error_types(code: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, word) in code.match_indices("Result<") {
        let rest = &code[at + word.len()..];
        let (mut depth, mut error_at, mut before) = (0, None, ' ');
        for (at, sign) in rest.char_indices() {
            match sign {
                '<' | '(' | '[' => depth += 1,
                '>' if before == '-' => {}
                '>' if depth == 0 => {
                    found.extend(error_at.map(|from: usize| rest[from..at].trim_matches([' ', '\n', ','])));
                    break;
                }
                '>' | ')' | ']' => depth -= 1,
                ',' if depth == 0 && error_at.is_none() => error_at = Some(at + 1),
                ';' | '{' if depth == 0 => break,
                _ => {}
            }
            before = sign;
        }
    }
    found
}

/// Each search for written words in what holds words.
fn word_searches(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for search in SEARCHES {
        for (at, _) in code.match_indices(&format!(".{search}(\"")) {
            let before = code[..at].trim_end();
            let is_in_words = WORDS.iter().any(|word| {
                let head = before.strip_suffix(word);
                head.is_some_and(|head| !head.ends_with(|sign: char| sign.is_alphanumeric()))
            });
            // `text` alone may be any; the one of a notice or an alert is words.
            if is_in_words || before.ends_with(".text") {
                let line = code[at..].lines().next().unwrap_or_default();
                found.push(format!("{}{line}", &before[before.rfind(['\n', ' ']).map_or(0, |at| at + 1)..]));
            }
        }
    }
    found
}

#[test]
fn an_error_is_a_type_and_no_text() {
    for source in sources() {
        if MAY_ANSWER_WITH_WORDS.contains(&module_of(&source.path).as_str()) {
            continue;
        }
        for error in error_types(&source.code) {
            let is_text = ["String", "&str", "&'static str", "Cow<'static, str>"].contains(&error);
            assert!(!is_text, "{}: an error that is a `{error}`", source.path.display());
        }
    }
}

#[test]
fn nothing_is_decided_by_the_words_of_an_error() {
    for source in sources() {
        if MAY_SEARCH_WORDS.iter().any(|(file, _)| source.path.ends_with(file)) {
            continue;
        }
        let searches = word_searches(&source.code);
        assert!(searches.is_empty(), "{}: {searches:?}", source.path.display());
    }
}

#[test]
fn the_reader_of_errors_knows_their_forms() {
    let code = "fn a() -> Result<(), String>;\nfn b(c: impl Fn(u8) -> Result<Vec<(u8, u8)>, &'static str>) {\n\
                io::Result<u8> Result<\n    [u8; 2],\n    Box<Error>,\n> Result<Self>";
    assert_eq!(error_types(code), ["String", "&'static str", "Box<Error>"]);
    let code = "if error.to_string().contains(\"late\") || line.text.starts_with(\"link\") {\n\
                text.contains(\"a\") || somewhat.contains(\"b\") || why.contains(&c) || seen\n.ends_with(\"d\")";
    assert_eq!(word_searches(code).len(), 3);
}
