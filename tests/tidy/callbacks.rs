//! Functions and traits of ours that are kept and called later, in the modules that know nothing of who uses them. Two
//! lead from one module up into another, each with its reason where it is defined; others stay within a module. All
//! else goes down by plain calls, and comes up as data.

use std::collections::BTreeSet;

use super::{module_of, sources};

const LOWER: &[&str] = &["accept", "admission", "connect", "http", "link", "net", "proto", "tls"];

/// Part of the lines, and why it is no plain call and no data.
const BETWEEN_MODULES: [(&str, &str); 2] = [
    ("dyn Fn(SessionRequest)", "`gateway` serves the session, and opens the ports that `accept` runs"),
    ("dyn LinkIntake", "a half takes its links in, and `link` runs their handshakes before"),
];
const WITHIN_A_MODULE: &[(&str, &str)] = &[
    ("dyn MoveTargets", "a pool of `link` says where its links' sessions may move to"),
    ("dyn Fn() -> BoxFuture<'static, Result<A, DnsError>>", "`net` follows addresses and SRV records alike"),
    ("dyn Fn(&str) -> io::Result<Vec<SocketAddr>>", "the tests of `net` resolve names without a network"),
];

/// Whether the line keeps a function, or something behind a trait of ours.
fn keeps_callback(line: &str, traits: &BTreeSet<String>) -> bool {
    let kept = line.split("dyn ").skip(1).filter(|_| !line.contains("&dyn ") && !line.contains("&mut dyn "));
    let is_ours = |rest: &str| {
        let name = rest.split(|sign: char| !sign.is_alphanumeric()).next().unwrap_or_default();
        name.starts_with("Fn") || traits.contains(name)
    };
    kept.into_iter().any(is_ours) || line.trim_start().starts_with("pub") && line.contains(": fn(")
}

#[test]
fn callbacks_are_few_and_each_has_its_reason() {
    let sources = sources();
    let lines = || sources.iter().flat_map(|source| source.code.lines().map(move |line| (source, line)));
    let traits = lines().filter_map(|(_, line)| line.trim().strip_prefix("pub trait "));
    let traits: BTreeSet<_> = traits
        .map(|rest| rest.chars().take_while(|sign| sign.is_alphanumeric()).collect::<String>())
        .collect();
    let listed: Vec<_> = BETWEEN_MODULES.iter().chain(WITHIN_A_MODULE).collect();
    let mut used = BTreeSet::new();
    for (source, line) in lines() {
        if LOWER.contains(&module_of(&source.path).as_str()) && keeps_callback(line, &traits) {
            let row = listed.iter().position(|(part, _)| line.contains(part));
            assert!(
                row.is_some(),
                "{}: a callback: `{}`; can it be data?",
                source.path.display(),
                line.trim()
            );
            used.extend(row);
        }
    }
    assert_eq!(used.len(), listed.len(), "only these are there still: {used:?}");
}

#[test]
fn the_reader_of_callbacks_knows_their_forms() {
    let traits = BTreeSet::from(["LinkIntake".to_owned()]);
    for kept in
        ["intake: Arc<dyn LinkIntake>,", "type A = Box<dyn Fn(u8)>;", "    pub cause_of: fn(&A) -> B,"]
    {
        assert!(keeps_callback(kept, &traits), "{kept}");
    }
    for other in ["x: Arc<dyn ClientCertVerifier>,", "each: &dyn Fn(u8)", "let is_meant: fn(u8) -> bool;"] {
        assert!(!keeps_callback(other, &traits), "{other}");
    }
}
