//! Names are the field's words, and comments are plain English: a reader who knows proxies learns no other words.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::sources;

/// Names that are refused, each with the field's word for what it stood for.
const REFUSED_NAMES: &[(&str, &str)] = &[
    ("ahead", "read_ahead, offset"),
    ("behind", "remainder"),
    ("books", "state"),
    ("came", "arrived"),
    ("course", "dial_state"),
    ("door", "route, endpoint"),
    ("doors", "routes, endpoints"),
    ("fares", "progress"),
    ("front", "port_routes, connection"),
    ("gone", "reason, away"),
    ("greeted", "handshake_done"),
    ("greeter", "handshake_context"),
    ("greeting", "handshake, permit"),
    ("guarded", "checked"),
    ("heard", "received"),
    ("hears", "reader"),
    ("lane", "group"),
    ("lasts", "ttl"),
    ("late", "timed_out, expired"),
    ("leg", "link, session_side"),
    ("lent", "borrowed"),
    ("looks", "checks"),
    ("meter", "counters"),
    ("objection", "error, response"),
    ("picture", "snapshot"),
    ("pinned", "self_issued"),
    ("place", "slot, permit, location, index"),
    ("pulse", "tracker"),
    ("rewound", "prefixed"),
    ("role", "half"),
    ("roles", "halves"),
    ("room", "space, fill_level"),
    ("said", "sent, message"),
    ("says", "writer"),
    ("seat", "guard"),
    ("spoken", "protocol"),
    ("spot", "position"),
    ("standing", "agreement, attachment"),
    ("stays", "is_unchanged"),
    ("stood", "lifetime"),
    ("teller", "outcome_sender"),
    ("told", "reported, message, reason"),
    ("trouble", "error, alerts"),
    ("turned", "last_turn"),
    ("unlike", "mismatch"),
    ("untold", "unreported"),
    ("walk", "run"),
    ("way", "mode, direction, route"),
    ("whose", "owner, network"),
];
/// Words that no name may contain, in the program, its tests, benches and fuzz targets.
const REFUSED_PARTS: &[&str] = &[
    "anew", "beset", "farewell", "glimpsed", "greet", "greeted", "greeter", "greeting", "hear", "heard",
    "hears", "knock", "lately", "mended", "said", "spoilt", "told", "trouble", "turned", "untold", "worn",
];
/// Names that contain one of them: fields that others read under these names.
const NAMES_OF_OTHERS: &[&str] = &["heard", "heard_seconds", "log_trouble", "trouble"];
/// What no comment, no string that the program shows and no document says, each with what it says instead.
const REFUSED_PHRASES: &[(&str, &str)] = &[
    ("all the same", "still, anyway"),
    ("anew", "again, new"),
    ("back-end", "backend"),
    ("back-ends", "backends"),
    ("can not", "cannot"),
    ("far end", "peer, remote end"),
    ("far side", "peer, other end"),
    ("for ever", "forever"),
    ("greeted", "accepted, answered"),
    ("greets", "accepts, answers"),
    ("hears", "receives, reads, learns"),
    ("in vain", "without success"),
    ("is of no", "is not"),
    ("lately", "recently"),
    ("let go", "closed, dropped"),
    ("lets go", "closes, drops"),
    ("link stands", "link is up"),
    ("links stand", "links are up"),
    ("mended", "repaired, rewritten"),
    ("place on a link", "slot on a link"),
    ("so many", "this many"),
    ("spoilt", "damaged, overwritten"),
    ("stands here", "is here"),
    ("told", "reported, announced, notified, asked"),
    ("turned away", "rejected"),
    ("walks the checklist", "runs the checklist"),
];
/// Fields that `status --json` shows under these names.
const FIELDS_OF_STATUS: &[&str] = &["heard", "trouble", "walk"];

/// The identifiers of a text that stand alone: no field or method of a value, and not what is within quotes.
fn names(code: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut is_quoted = false;
    let mut rest = code;
    while let Some(at) = rest.find(|sign: char| sign.is_alphanumeric() || sign == '_' || sign == '"') {
        let before = &rest[..at];
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix('"') {
            let escapes = before.len() - before.trim_end_matches('\\').len();
            let is_sign = after.starts_with('\'') && (before.ends_with('\'') || before.ends_with("'\\"));
            if !is_quoted && before.ends_with('#') {
                // Raw: nothing within is escaped.
                rest = after.split_once("\"#").map_or("", |(_, after)| after);
            } else {
                is_quoted = if is_quoted { escapes % 2 == 1 } else { !is_sign };
                rest = after;
            }
            continue;
        }
        let end = rest.find(|sign: char| !sign.is_alphanumeric() && sign != '_').unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let is_member = before.ends_with('.') && !before.ends_with("..");
        if !is_quoted && !is_member {
            found.push((name, after));
        }
        rest = after;
    }
    found
}

fn refused_names(code: &str) -> Vec<(&str, &str)> {
    let is_of_status = |name: &str, after: &str| FIELDS_OF_STATUS.contains(&name) && after.starts_with(':');
    let names = names(code).into_iter().filter(|(name, after)| !is_of_status(name, after));
    names
        .filter_map(|(name, _)| REFUSED_NAMES.iter().find(|(refused, _)| *refused == name).copied())
        .collect()
}

#[test]
fn no_identifier_is_an_everyday_word_for_a_field_term() {
    let mut refused = Vec::new();
    for source in sources() {
        for (name, instead) in refused_names(&source.code) {
            refused.push(format!("{}: `{name}`, where the field says {instead}", source.path.display()));
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn the_reader_of_names_knows_what_is_one() {
    let code = "let (told, way) = (\"a \\\"room\\\"\", b.front()); fn late(heard: bool) { c.walk = '\"'; d(r#\"a \"gone\" b\"#); \
                Row { heard: None, walk: \"gone\" }; let books = ..said; untold_told }";
    let found: Vec<_> = refused_names(code).into_iter().map(|(name, _)| name).collect();
    assert_eq!(found, ["told", "way", "late", "books", "said"]);
}

/// All Rust files below a folder of the package.
pub fn rust_files(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            if path.is_dir() {
                folders.extend((!path.ends_with("target")).then_some(path));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&path)).unwrap();
                found.push((path, text));
            }
        }
    }
    found
}

/// The length of the string or character that a text begins with; 0 if it begins with none.
fn quoted_length(text: &str) -> usize {
    let start = text.trim_start_matches('b');
    let prefix = text.len() - start.len();
    let end_of =
        |after: usize, end: &str| text[after..].find(end).map_or(text.len(), |at| after + at + end.len());
    if let Some(raw) = start.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        return match prefix < 2 && raw[hashes..].starts_with('"') {
            true => end_of(prefix + hashes + 2, &format!("\"{}", "#".repeat(hashes))),
            false => 0,
        };
    }
    let Some(quote) = start.chars().next().filter(|sign| prefix < 2 && matches!(sign, '"' | '\'')) else {
        return 0;
    };
    let mut is_escaped = false;
    for (count, (at, sign)) in start.char_indices().enumerate().skip(1) {
        if !is_escaped && sign == quote {
            return prefix + at + 1;
        }
        // A lifetime has no second quote.
        if quote == '\'' && count == 2 && !start.starts_with("'\\") {
            return 0;
        }
        is_escaped = sign == '\\' && !is_escaped;
    }
    0
}

/// What a source file consists of.
struct SourceParts {
    /// Without strings and comments.
    code: String,
    comments: String,
    /// The strings of more than one word.
    strings: String,
}

/// The words of a text as phrases are looked for in it.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

fn source_parts(text: &str) -> SourceParts {
    let (mut code, mut comments, mut strings) = (String::new(), String::new(), String::new());
    let mut code_at_comment = 0;
    let mut rest = text;
    while let Some(sign) = rest.chars().next() {
        if let Some(comment) = rest.strip_prefix("//") {
            let (line, after) = comment.split_once('\n').unwrap_or((comment, ""));
            let code_before = code.trim_end().len();
            if code_before > code_at_comment {
                // What follows is another comment.
                comments.push_str("| ");
            }
            code_at_comment = code_before;
            comments.push_str(line.trim_start_matches(['/', '!']));
            comments.push(' ');
            rest = after;
            code.push('\n');
            continue;
        }
        let is_within_name = code.ends_with(|before: char| before.is_alphanumeric() || before == '_');
        let length = if is_within_name { 0 } else { quoted_length(rest) };
        if length == 0 {
            code.push(sign);
        } else {
            code.push(' ');
            let string = rest[..length].replace("\\\n", " ");
            if string.contains(' ') {
                strings.extend([&string, " "]);
            }
        }
        rest = &rest[length.max(sign.len_utf8())..];
    }
    SourceParts { code, comments: words(&comments), strings: words(&strings) }
}

/// The words that a name is made of, in lower case.
fn parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut before = '_';
    for sign in name.chars() {
        if sign == '_' || sign.is_uppercase() && before.is_lowercase() {
            parts.push(String::new());
        }
        parts.last_mut().unwrap().extend(sign.to_lowercase().filter(|sign| *sign != '_'));
        before = sign;
    }
    parts
}

/// The names of a text that contain a refused word.
fn names_with_refused_parts(code: &str) -> BTreeSet<&str> {
    let names: BTreeSet<_> = code.split(|sign: char| !sign.is_alphanumeric() && sign != '_').collect();
    let is_refused = |name: &&str| parts(name).iter().any(|part| REFUSED_PARTS.contains(&part.as_str()));
    names.into_iter().filter(|name| !NAMES_OF_OTHERS.contains(name)).filter(is_refused).collect()
}

/// The refused phrases of a text, as whole words.
fn refused_phrases(text: &str) -> Vec<(&'static str, &'static str)> {
    let is_within_word = |sign: char| sign.is_alphanumeric() || sign == '_';
    let has = |phrase: &str| {
        text.match_indices(phrase).any(|(at, _)| {
            let after = &text[at + phrase.len()..];
            !text[..at].ends_with(is_within_word) && !after.starts_with(is_within_word)
        })
    };
    REFUSED_PHRASES.iter().copied().filter(|(phrase, _)| has(phrase)).collect()
}

#[test]
fn names_and_comments_everywhere_are_plain() {
    let mut refused = Vec::new();
    for (path, text) in ["src", "tests", "benches", "fuzz"].into_iter().flat_map(rust_files) {
        // The lists of these tests.
        if path.starts_with("tests/tidy") {
            continue;
        }
        let SourceParts { code, comments, strings } = source_parts(&text);
        let names = names_with_refused_parts(&code);
        for (phrase, instead) in refused_phrases(&strings) {
            refused.push(format!("{}: a text says `{phrase}` in place of {instead}", path.display()));
        }
        refused.extend(names.iter().map(|name| format!("{}: the name `{name}`", path.display())));
        for (phrase, instead) in refused_phrases(&comments) {
            refused.push(format!("{}: a comment says `{phrase}` in place of {instead}", path.display()));
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

/// The places where a text says that something is no X, or none: it is not an X. What does not exist may be said so.
fn says_is_no(text: &str) -> Vec<&str> {
    let words: Vec<_> = text.split(' ').collect();
    let is_no = |at: &usize| {
        let (before, next) = (at.checked_sub(1).map(|before| words[before]), words.get(at + 2).copied());
        let is_verb = matches!(words[*at], "is" | "are");
        let exists = before.is_some_and(|word| word.ends_with("there"));
        match words.get(at + 1).copied() {
            Some("no") => is_verb && !exists && !matches!(next, Some("longer" | "reason" | "doubt")),
            Some(word) => {
                is_verb && word.trim_end_matches(|sign: char| !sign.is_alphanumeric()) == "none" && !exists
            }
            None => false,
        }
    };
    (0..words.len()).filter(is_no).map(|at| words[at]).collect()
}

#[test]
fn the_reader_of_texts_knows_what_is_not_one() {
    for (text, count) in [
        ("it is no socket", 1),
        ("what is none; or", 1),
        ("there is no such name", 0),
        ("there are none", 0),
        ("it is no longer here", 0),
    ] {
        assert_eq!(says_is_no(text).len(), count, "{text}");
    }
}

#[test]
fn what_the_program_shows_is_plain() {
    let mut refused = Vec::new();
    for source in sources() {
        let strings = source_parts(&source.code).strings;
        if !says_is_no(&strings).is_empty() {
            let at = strings.split(['.', '"']).filter(|text| !says_is_no(text).is_empty());
            refused.push(format!("{}: {}", source.path.display(), at.collect::<Vec<_>>().join(" | ")));
        }
        for (phrase, instead) in refused_phrases(&source_parts(&source.code).strings) {
            refused.push(format!("{}: a text says `{phrase}` in place of {instead}", source.path.display()));
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

/// What stands between single backticks is the program's own.
fn prose(document: &str) -> String {
    let parts = document.split("```").enumerate();
    let prose = parts.map(|(number, part)| match number % 2 {
        0 => part.split('`').step_by(2).collect::<Vec<_>>().join("_"),
        _ => part.to_owned(),
    });
    words(&prose.collect::<Vec<_>>().join(" "))
}

#[test]
fn documents_are_plain() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut refused = Vec::new();
    let mut count = 0;
    for folder in [root.to_path_buf(), root.join("docs"), root.join("benches")] {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let is_read = |path: &PathBuf| {
            // Released changes stay as they were announced.
            path.extension().is_some_and(|ending| ending == "md") && !path.ends_with("CHANGELOG.md")
        };
        for path in files.filter(is_read) {
            let text = prose(&fs::read_to_string(&path).unwrap());
            count += 1;
            for (phrase, instead) in refused_phrases(&text) {
                refused.push(format!("{}: it says `{phrase}` in place of {instead}", path.display()));
            }
        }
    }
    for file in ["src/init/dmz.yaml", "src/init/internal.yaml", "assets/package/debian/control"] {
        let text = prose(&fs::read_to_string(root.join(file)).unwrap());
        for (phrase, instead) in refused_phrases(&text) {
            refused.push(format!("{file}: it says `{phrase}` in place of {instead}"));
        }
    }
    assert!(count >= 8, "only {count} documents were found");
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn strings_are_no_names_and_comments_are_read_across_lines() {
    let text = "let is_told = r#\"heard \"#; // It hears\n// so many, 'a' can\n// not\nfn HeardPiece<'a>(b: &'a str) { \
                b'\"'; \"said\\\" told\"; '\\''; said_at }";
    let SourceParts { code, comments, strings } = source_parts(text);
    assert_eq!(names_with_refused_parts(&code), BTreeSet::from(["HeardPiece", "is_told", "said_at"]));
    let found: Vec<_> = refused_phrases(&comments).into_iter().map(|(phrase, _)| phrase).collect();
    assert_eq!(found, ["can not", "hears", "so many"]);
    assert_eq!(strings, r##"r#"heard "# "said\" told""##);
}

/// How the name of a time ends, so that its use says what it is.
const SUFFIXES_OF_TIMES: &[&str] =
    &["_TIMEOUT", "_INTERVAL", "_DELAY", "_PERIOD", "_WINDOW", "_TTL", "_MAX", "_MIN"];
/// Units, and the defaults of a profile, which are called after its keys.
const OTHER_TIMES: &[&str] = &["SECOND", "MINUTE", "HOUR", "MS", "YEARS_9999"];

#[test]
fn times_are_named_for_what_they_limit() {
    let times = regex::Regex::new(r"\bconst ([A-Z0-9_]+): (?:\w+::)*Duration\b").unwrap();
    let mut refused = Vec::new();
    for source in sources().iter().filter(|source| !source.path.ends_with("profile/defaults.rs")) {
        for (_, [name]) in times.captures_iter(&source.code).map(|found| found.extract()) {
            if !SUFFIXES_OF_TIMES.iter().any(|suffix| name.ends_with(suffix)) && !OTHER_TIMES.contains(&name)
            {
                refused.push(format!("{}: {name}", source.path.display()));
            }
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

/// Types that write their own `Debug`, each with the first text in it.
fn debug_names(code: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for part in code.split("Debug for ").skip(1) {
        let name = part.split(|sign: char| !sign.is_alphanumeric()).next().unwrap_or_default();
        let body = part.split("\n}").next().unwrap_or_default();
        found.extend(body.split('"').nth(1).map(|text| (name, text)));
    }
    found
}

#[test]
fn a_type_is_shown_by_its_own_name() {
    let mut count = 0;
    for source in sources() {
        for (name, text) in debug_names(&source.code) {
            count += 1;
            let first = text.split(|sign: char| !sign.is_alphanumeric()).next().unwrap_or_default();
            assert_eq!(first, name, "{}: the name that `Debug` shows", source.path.display());
        }
    }
    assert!(count > 10, "only {count} were found");
}
