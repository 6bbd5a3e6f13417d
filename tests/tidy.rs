//! The shape of the source as a test: dependencies between modules, file lengths, forbidden calls.
//! The rules are the data at the top.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "tidy/byte_path.rs"]
mod byte_path;
#[path = "tidy/callbacks.rs"]
mod callbacks;
#[path = "tidy/circles.rs"]
mod circles;
#[path = "tidy/comments.rs"]
mod comments;
#[path = "tidy/errors.rs"]
mod errors;
#[path = "tidy/hashers.rs"]
mod hashers;
#[path = "tidy/matches.rs"]
mod matches;
#[path = "tidy/names.rs"]
mod names;
#[path = "tidy/threads.rs"]
mod threads;
#[path = "tidy/waits.rs"]
mod waits;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Each module, and the modules of ours that it may use. `ARCHITECTURE.md` draws the same.
const MAY_USE: &[(&str, &[&str])] = &[
    ("tasks", &[]),
    ("text", &[]),
    ("output", &[]),
    ("exit", &[]),
    ("disk", &["tasks"]),
    ("systemd", &[]),
    ("profile", &["disk", "text"]),
    ("certs", &["disk"]),
    ("confine", &["disk", "profile"]),
    ("proto", &["profile"]),
    ("telemetry", &["disk", "profile", "tasks", "text"]),
    ("admission", &["profile", "text"]),
    ("net", &["admission", "confine", "disk", "profile", "proto", "tasks", "text"]),
    ("http", &["net", "profile", "proto"]),
    ("tls", &["disk", "net", "profile", "proto", "text"]),
    ("link", &["admission", "http", "net", "profile", "proto", "tasks", "telemetry", "tls"]),
    ("auth", &["admission", "disk", "profile", "proto", "tasks"]),
    (
        "accept",
        &["admission", "auth", "http", "link", "net", "profile", "proto", "tasks", "telemetry", "tls"],
    ),
    ("connect", &["http", "link", "net", "profile", "proto", "tasks", "telemetry", "tls"]),
    ("monitor", &["admission", "http", "net", "profile", "tasks", "telemetry"]),
    ("source", &["auth", "certs", "disk", "net", "profile", "proto", "text", "tls"]),
    (
        "verify",
        &[
            "accept",
            "confine",
            "connect",
            "disk",
            "link",
            "net",
            "profile",
            "proto",
            "source",
            "telemetry",
            "text",
            "tls",
        ],
    ),
    (
        "gateway",
        &[
            "accept",
            "admission",
            "auth",
            "confine",
            "connect",
            "disk",
            "http",
            "link",
            "monitor",
            "net",
            "profile",
            "proto",
            "source",
            "systemd",
            "tasks",
            "telemetry",
            "text",
            "tls",
            "verify",
        ],
    ),
    ("admin", &["admission", "gateway", "profile", "systemd", "tasks", "telemetry", "text"]),
    ("record", &["disk", "gateway", "tasks", "telemetry"]),
    ("tui", &["disk", "doctor", "gateway", "profile", "record", "tasks", "telemetry", "text"]),
    ("headless", &["gateway"]),
    ("status", &["doctor", "telemetry", "text"]),
    ("doctor", &["net", "profile", "proto", "telemetry", "text"]),
    ("demo", &["gateway", "profile", "tasks", "telemetry"]),
    ("signals", &["gateway", "tasks", "telemetry"]),
    ("cli", &["profile", "telemetry"]),
    ("fleet", &["admin", "disk", "doctor", "gateway", "profile", "tasks", "telemetry", "text"]),
    ("attach", &["admin", "fleet", "gateway", "output", "record", "tasks", "telemetry", "tui"]),
    (
        "commands",
        &[
            "admin",
            "attach",
            "certs",
            "check",
            "cli",
            "demo",
            "disk",
            "doctor",
            "exit",
            "fleet",
            "gateway",
            "init",
            "manual",
            "net",
            "output",
            "profile",
            "selftest",
            "source",
            "status",
            "systemd",
            "tasks",
            "telemetry",
            "verify",
        ],
    ),
    ("init", &["certs", "cli", "exit", "output", "profile"]),
    ("manual", &["cli"]),
    ("selftest", &["confine", "exit", "output", "profile"]),
    ("check", &["admin", "cli", "exit", "output", "profile", "source", "text"]),
    (
        "run",
        &[
            "admin",
            "cli",
            "commands",
            "confine",
            "demo",
            "exit",
            "gateway",
            "headless",
            "net",
            "output",
            "profile",
            "record",
            "signals",
            "source",
            "systemd",
            "tasks",
            "telemetry",
            "tui",
        ],
    ),
];
/// Lines of a file without its tests, which may stand in a `tests.rs` beside it; comments count.
const FILE_LINES_MAX: usize = 500;
/// The length of half of the files, and of nine in ten.
const FILE_LINES_MEDIAN_MAX: usize = 150;
const FILE_LINES_OF_NINE_IN_TEN_MAX: usize = 350;
/// A longer file has more to say in its opening than what it is.
const LONG_FILE_LINES: usize = 150;
/// The share of type names, in percent, that may be a single word.
const ONE_WORD_NAMES_MAX: usize = 40;
const BANNED_FILE_NAMES: &[&str] = &["util", "utils", "helper", "helpers", "common", "misc"];
/// The one module that may use a crate that is no longer developed, or wait for a name server.
const ONLY_IN: &[(&str, &str)] = &[
    ("serde_yaml::", "src/profile/yaml.rs"),
    ("rustls_pemfile::", "src/tls/pem.rs"),
    ("lookup_host(", "src/net/resolver.rs"),
    ("to_socket_addrs()", "src/net/resolver.rs"),
];

/// Those that read the names of files as text; a field of a message is a list of bytes (RFC 9110, 5.5), and `to_str`
/// takes what is above 0x7F for no value.
const MAY_READ_TEXT: [&str; 2] = ["src/net/sockets.rs", "src/certs/renewal.rs"];
/// What of the engine touches files itself: beside it, at its start, or what the kernel alone answers.
const ENGINE_FILES: [&str; 4] = [
    "src/gateway/reader.rs",
    "src/gateway/state_file.rs",
    "src/gateway/audit.rs",
    "src/gateway/descriptors.rs",
];
/// Those that hand such work to the reader: profiles and certificates are opened in closures for it.
const READER_FILES: [&str; 5] = [
    "src/gateway/certificate_reload.rs",
    "src/gateway/commands.rs",
    "src/gateway/profiles.rs",
    "src/gateway/switch.rs",
    "src/gateway/verifying.rs",
];
/// All unsafe code of the program, except for an attribute in `main.rs`.
const UNSAFE_FILES: [&str; 2] = ["src/confine/system_call.rs", "src/net/socket_options.rs"];

/// Who dials and listens; a dial binds to an address only in the first, where the profile has a `source`, in the second,
/// which asks whether it dials a client port of its own, and in the last, which does.
const SOCKET_FILES: [&str; 7] = [
    "src/net/dial.rs",
    "src/net/own_ports.rs",
    "src/net/tcp.rs",
    "src/net/listen/binding.rs",
    "src/net/dns/name_server.rs",
    "src/demo.rs",
    "src/verify/probe.rs",
];
const SOCKET_CALLS: [&str; 5] =
    ["TcpStream::connect(", "TcpSocket::new", "TcpListener::bind(", "UdpSocket::bind(", "socket.bind("];

struct Source {
    path: PathBuf,
    /// Lines without tests, comments included.
    lines: usize,
    /// Without tests and comments.
    code: String,
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                if path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests") {
                    continue;
                }
                let production = without_tests(&fs::read_to_string(&path).unwrap());
                let is_code = |line: &&str| !line.trim_start().starts_with("//");
                let code = production.lines().filter(is_code).collect::<Vec<_>>().join("\n");
                found.push(Source { path, lines: production.lines().count(), code });
            }
        }
    }
    found
}

/// The text of a file without the items behind `#[cfg(test)]`, wherever they stand. A module of tests that is written
/// out ends its file, as a lint demands; any other item ends with a semicolon or a brace that stands as far in as it.
fn without_tests(text: &str) -> String {
    let mut production = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            production.push_str(line);
            production.push('\n');
            continue;
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        let Some(item) = lines.find(|line| !line.trim_start().starts_with(['#', '/'])) else { break };
        if item.contains("mod ") && item.ends_with('{') {
            break;
        }
        if !item.ends_with([';', '}']) {
            lines.find(|line| line.strip_prefix(indent).is_some_and(|rest| rest.starts_with(['}', ']'])));
        }
    }
    production
}

#[test]
fn code_between_tests_counts_as_production() {
    let code = "a\n#[cfg(test)]\nmod text;\nb\nimpl C {\n    #[cfg(test)]\n    /// Why.\n    fn d() {\n        {}\n    }\n\
                \x20   e\n}\n#[cfg(test)]\n#[expect(x)]\nmod tests {\n}\nf";
    assert_eq!(without_tests(code), "a\nb\nimpl C {\n    e\n}\n");
}

/// `src/gateway/halves.rs` and `src/gateway.rs` belong to `gateway`.
fn module_of(path: &Path) -> String {
    let part = path.components().nth(1).unwrap().as_os_str().to_str().unwrap();
    part.trim_end_matches(".rs").to_owned()
}

/// Names behind `crate::`, also within braces.
fn used_modules(code: &str) -> BTreeSet<String> {
    let known: BTreeSet<_> = MAY_USE.iter().map(|(module, _)| *module).collect();
    let mut used = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let mut depth = 0;
        let mut word = String::new();
        let mut at_start = true;
        for sign in rest.chars() {
            match sign {
                '{' => depth += 1,
                '}' => depth -= 1,
                'a'..='z' | '_' if at_start => {
                    word.push(sign);
                    continue;
                }
                _ => {}
            }
            if known.contains(word.as_str()) {
                used.insert(word.clone());
            }
            word.clear();
            at_start = depth == 1 && matches!(sign, '{' | ',' | ' ' | '\n');
            if depth <= 0 {
                break;
            }
        }
    }
    used
}

#[test]
fn modules_depend_downwards_only() {
    for source in sources() {
        let module = module_of(&source.path);
        if matches!(module.as_str(), "lib" | "main") {
            continue;
        }
        let (_, allowed) = MAY_USE.iter().find(|(name, _)| *name == module).unwrap_or_else(|| {
            panic!("{}: module `{module}` is not in the table of layers", source.path.display())
        });
        for used in used_modules(&source.code) {
            assert!(
                used == module || allowed.contains(&used.as_str()),
                "{}: `{module}` may not use `{used}`",
                source.path.display()
            );
        }
    }
}

#[test]
fn the_reader_of_imports_sees_nested_ones() {
    let code = "use crate::{\n    accept::{Serve, tcp},\n    net::listen,\n};\nlet x = crate::link::GREET;";
    let used: Vec<_> = used_modules(code).into_iter().collect();
    assert_eq!(used, ["accept", "link", "net"]);
}

#[test]
fn files_are_short_and_named_for_what_they_hold() {
    for source in sources() {
        assert!(source.lines <= FILE_LINES_MAX, "{}: {} lines", source.path.display(), source.lines);
        let stem = source.path.file_stem().unwrap().to_str().unwrap();
        assert!(!BANNED_FILE_NAMES.contains(&stem), "{}: what is it really?", source.path.display());
    }
}

#[test]
fn most_files_are_short() {
    let mut lines: Vec<_> = sources().iter().map(|source| source.lines).collect();
    lines.sort_unstable();
    let (median, of_nine_in_ten) = (lines[lines.len() / 2], lines[lines.len() * 9 / 10]);
    assert!(median <= FILE_LINES_MEDIAN_MAX, "half of the files have {median} lines or more");
    assert!(of_nine_in_ten <= FILE_LINES_OF_NINE_IN_TEN_MAX, "one in ten has {of_nine_in_ten} lines or more");
}

/// The types that a file defines, at any depth.
fn type_names(code: &str) -> impl Iterator<Item = &str> {
    code.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| word.starts_with("pub"));
        // An indented `type` is one of a trait or an `impl`, which names nothing new.
        let defines = match words.next()? {
            "struct" | "enum" | "union" | "trait" => true,
            "type" => !line.starts_with(char::is_whitespace),
            _ => false,
        };
        let name = words.next().filter(|_| defines)?;
        name.split(|sign: char| !sign.is_alphanumeric()).next()
    })
}

fn is_one_word(name: &str) -> bool {
    name.chars().filter(|letter| letter.is_uppercase()).count() == 1
}

#[test]
fn a_type_name_is_unique_and_mostly_compound() {
    let sources = sources();
    let mut defined_in: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for source in &sources {
        for name in type_names(&source.code) {
            defined_in.entry(name).or_default().push(source.path.display().to_string());
        }
    }
    assert!(defined_in.len() > 100, "only {} types found", defined_in.len());
    for (name, files) in &defined_in {
        assert!(files.len() == 1, "`{name}` is defined in {}", files.join(", "));
    }
    let one_word = defined_in.keys().filter(|name| is_one_word(name)).count();
    let share = 100 * one_word / defined_in.len();
    assert!(share < ONE_WORD_NAMES_MAX, "{share} % of the type names are a single word");
}

#[test]
fn the_reader_of_types_knows_their_forms() {
    let code = "pub(super) struct LinkTable<T>(T);\n    enum State {\ntype Serve = fn();\nimpl Link {\n\
                impl Iterator for A {\n    type Item = u8;\npub trait LinkOwner: Debug {";
    assert_eq!(type_names(code).collect::<Vec<_>>(), ["LinkTable", "State", "Serve", "LinkOwner"]);
    assert!(is_one_word("State") && is_one_word("Utf8") && !is_one_word("LinkTable"));
}

#[test]
fn no_forbidden_calls_in_production() {
    let exempt = [&MAY_READ_TEXT[..], &ENGINE_FILES, &READER_FILES, &UNSAFE_FILES].concat();
    for file in exempt.into_iter().chain(ONLY_IN.iter().map(|(_, only)| *only)) {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(file).is_file(), "{file} is exempt, and gone");
    }
    for source in sources() {
        // What prints panics where nobody reads: `output` says so instead.
        for banned in
            [".unwrap()", "todo!(", "unimplemented!(", "dbg!(", "unbounded_channel", "print!(", "println!("]
        {
            assert!(!source.code.contains(banned), "{}: {banned}", source.path.display());
        }
        for (name, only) in ONLY_IN {
            let elsewhere = source.path != Path::new(only) && source.code.contains(name);
            assert!(!elsewhere, "{}: {name} belongs to {only} alone", source.path.display());
        }
        // Everything in a snapshot is sent and read back, but for the counts that monitors get: no handle hides in it.
        let hidden = source.code.matches("serde(skip)").count();
        let of_monitors = usize::from(source.path.ends_with("telemetry/snapshot.rs"));
        let is_hidden = module_of(&source.path) == "telemetry" && hidden != of_monitors;
        assert!(!is_hidden, "{}: serde(skip) in what a snapshot is made of", source.path.display());
        let is_among = |files: &[&str]| files.iter().any(|file| source.path == Path::new(file));
        let reads_text = source.code.contains(".to_str()");
        let path = source.path.display();
        assert!(!reads_text || is_among(&MAY_READ_TEXT), "{path}: judge fields by their bytes");
        if source.path.starts_with("src/gateway") {
            let has = |words: &[&str]| words.iter().any(|word| source.code.contains(word));
            let touches = has(&["fs::", "File::open", "OpenOptions"]);
            assert!(!touches || is_among(&ENGINE_FILES), "{path}: the engine never waits for a disk");
            let reads =
                has(&["disk::read", ".canonicalize()", ".load(chosen", ".load_to_serve", "open_materials"]);
            let may_read = is_among(&ENGINE_FILES) || is_among(&READER_FILES);
            assert!(!reads || may_read, "{path}: files are read beside the engine");
            assert!(!has(&["thread::sleep"]), "{path}: the engine never waits");
        }
        let opens_sockets = SOCKET_CALLS.iter().any(|call| source.code.contains(call));
        assert!(!opens_sockets || is_among(&SOCKET_FILES), "{path}: `net` dials and listens");
        assert!(is_among(&UNSAFE_FILES) || !source.code.contains("unsafe {"), "{path}: unsafe");
    }
}

#[test]
fn the_architecture_names_all_unsafe_code() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap();
    let (_, rule) = text.split_once("\n- Unsafe code, except for ").expect("what is deliberately absent");
    let rule = rule.split("\n-").next().unwrap();
    let named: BTreeSet<_> = rule.split('`').skip(1).step_by(2).filter(|word| word.contains("::")).collect();
    let modules =
        UNSAFE_FILES.map(|file| file.trim_start_matches("src/").trim_end_matches(".rs").replace('/', "::"));
    assert_eq!(named, modules.iter().map(String::as_str).collect());
}

#[test]
fn every_file_says_what_it_is() {
    for source in sources() {
        let text = fs::read_to_string(&source.path).unwrap();
        let opening: Vec<_> = text.lines().map_while(|line| line.strip_prefix("//!")).collect();
        let sentences = opening.join(" ").split(". ").count();
        let wanted = if source.lines > LONG_FILE_LINES { 2 } else { 1 };
        let path = source.path.display();
        assert!(!opening.is_empty() && sentences >= wanted, "{path}: no opening of {wanted} sentences");
    }
}

#[test]
fn the_changelog_keeps_its_form() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("CHANGELOG.md")).unwrap();
    assert!(text.starts_with("# Changelog\n"));
    let sections: Vec<_> = text.lines().filter(|line| line.starts_with("## ")).collect();
    assert_eq!(sections.first(), Some(&"## [Unreleased]"));
    for kind in text.lines().filter_map(|line| line.strip_prefix("### ")) {
        assert!(["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"].contains(&kind), "{kind}");
    }
}

#[test]
fn every_shipped_profile_is_explained() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    for file in portcullis::profile::list(&root.join("profiles")) {
        let stem = file.file_stem().unwrap().to_str().unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(
            readme.contains(name) || readme.contains(&format!("`{stem}`")),
            "{name} is not in the README"
        );
    }
}

/// Everything that this project is built from, at one version in both lock files: the fuzzers would not be built from
/// what they test, or with `--locked` not at all.
#[test]
fn the_fuzzers_are_built_from_what_the_program_is_built_from() {
    let locked = |file: &str| -> BTreeMap<String, BTreeSet<String>> {
        let text = fs::read_to_string(file).unwrap();
        let mut versions: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for package in text.split("[[package]]").skip(1) {
            let value = |key: &str| {
                let line = package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
                line.map(|value| value.trim_matches('"').to_owned())
            };
            let (name, version) = (value("name").unwrap(), value("version").unwrap());
            versions.entry(name).or_default().insert(version);
        }
        versions
    };
    let (ours, fuzzed) = (locked("Cargo.lock"), locked("fuzz/Cargo.lock"));
    let manifest = fs::read_to_string("Cargo.toml").unwrap();
    let dependencies = manifest.split("\n[").find_map(|part| part.strip_prefix("dependencies]")).unwrap();
    let mut names = dependencies.lines().filter_map(|line| line.split_once(" = ").map(|(name, _)| name));
    assert!(dependencies.contains("tokio = "), "the list is read");
    let other = names.find(|name| ours.get(*name) != fuzzed.get(*name));
    assert_eq!(other, None, "run `cp Cargo.lock fuzz/ && cargo update --workspace` in fuzz");
}
