//! Matches on enums of ours write every variant out, so that whoever adds one is led to each place that has to decide
//! about it. What follows from the text alone is checked: rustfmt puts the arms of a match at one depth.

use std::collections::BTreeMap;

use super::sources;

/// A longer enum may be matched with a rest: its tables name the few variants that have something to say.
const VARIANTS_MAX: usize = 24;

/// The enums of ours, with their numbers of variants.
fn enum_sizes(code: &str) -> BTreeMap<&str, usize> {
    let mut sizes = BTreeMap::new();
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        let words: Vec<_> = line.split_whitespace().collect();
        let Some(at) = words.iter().position(|word| *word == "enum") else { continue };
        if !line.ends_with('{') || words[..at].iter().any(|word| !word.starts_with("pub")) {
            continue;
        }
        let depth = indent(line);
        let within = lines.by_ref().take_while(|line| *line != format!("{}}}", " ".repeat(depth)));
        let variants = within
            .filter(|line| indent(line) == depth + 4 && line.trim_start().starts_with(char::is_uppercase));
        let name = words[at + 1].split(|sign: char| !sign.is_alphanumeric()).next().unwrap_or_default();
        sizes.insert(name, variants.count());
    }
    sizes
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The type that an `impl` is of.
fn implemented(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("impl")?;
    let rest = if rest.starts_with('<') { rest.split_once("> ")?.1 } else { rest.trim_start() };
    let of = rest.split_once(" for ").map_or(rest, |(_, of)| of);
    of.split(|sign: char| !sign.is_alphanumeric()).next()
}

/// Whether an arm takes whatever is left: `_ =>`, `other =>`.
fn is_rest(line: &str) -> bool {
    let Some((pattern, _)) = line.trim_start().split_once(" =>") else { return false };
    !matches!(pattern, "true" | "false") && pattern.chars().all(|sign| sign.is_lowercase() || sign == '_')
}

/// The types whose variants a pattern names.
fn named_types(pattern: &str) -> impl Iterator<Item = &str> {
    pattern.match_indices("::").filter_map(|(at, _)| {
        let before = &pattern[..at];
        let start = before.rfind(|sign: char| !sign.is_alphanumeric()).map_or(0, |at| at + 1);
        pattern[at + 2..].starts_with(char::is_uppercase).then_some(&before[start..])
    })
}

/// The matches with a rest that name a variant of a known enum: the enum, and the line of the rest.
fn matches_with_rest<'a>(code: &'a str, sizes: &BTreeMap<&str, usize>) -> Vec<(&'a str, &'a str)> {
    let lines: Vec<_> = code.lines().collect();
    let mut found = Vec::new();
    let mut of_impl = "";
    for (number, line) in lines.iter().enumerate() {
        of_impl = implemented(line).unwrap_or(of_impl);
        if !is_rest(line) {
            continue;
        }
        let depth = indent(line);
        let before = lines[..number].iter().rev().take_while(|line| indent(line) >= depth || line.is_empty());
        let arms = before.filter(|line| indent(line) == depth && !line.trim_start().starts_with(['}', ')']));
        let patterns = arms.map(|line| line.trim_start().split(" =>").next().unwrap_or_default());
        // A result is passed on, whatever it is; and what a guard compares is not matched.
        let patterns = patterns.filter(|pattern| !pattern.starts_with("Err(") && !pattern.starts_with("Ok("));
        let patterns = patterns.map(|pattern| pattern.split(" if ").next().unwrap_or_default());
        let names = patterns.flat_map(named_types).map(|name| if name == "Self" { of_impl } else { name });
        let known: Vec<_> = names.filter_map(|name| Some((name, *sizes.get(name)?))).collect();
        if let Some((name, _)) = known.first()
            && known.iter().all(|(_, size)| *size <= VARIANTS_MAX)
        {
            found.push((*name, line.trim()));
        }
    }
    found
}

#[test]
fn a_match_on_an_enum_of_ours_names_every_variant() {
    let sources = sources();
    let mut sizes = BTreeMap::new();
    for source in &sources {
        sizes.extend(enum_sizes(&source.code));
    }
    assert!(sizes.len() > 200, "only {} enums found", sizes.len());
    let mut refused = Vec::new();
    for source in &sources {
        for (name, line) in matches_with_rest(&source.code, &sizes) {
            refused.push(format!("{}: a match on `{name}` ends in `{line}`", source.path.display()));
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn the_reader_of_matches_knows_a_rest() {
    let code = "pub enum Side {\n    Up(u8),\n    Down {\n        at: u8,\n    },\n}\nimpl fmt::Display for Side {\n    \
                fn a() {\n        match b {\n            Self::Up(_) => 1,\n            _ => 2,\n        }\n    }\n}\n\
                fn c() {\n    match (d, e) {\n        (Some(Side::Up(_)), _) => {\n            f()\n        }\n        \
                other => other,\n    }\n    match g {\n        Err(Side::Up(_)) => 1,\n        other => other,\n    }\n    \
                match h {\n        Side::Up(_) => true,\n        Side::Down { .. } => false,\n    }\n    match i {\n        \
                Kind::A => 1,\n        _ => 2,\n    }\n}";
    let sizes = enum_sizes(code);
    assert_eq!(sizes, BTreeMap::from([("Side", 2)]));
    assert_eq!(matches_with_rest(code, &sizes), [("Side", "_ => 2,"), ("Side", "other => other,")]);
}
