//! A profile as one text: with all that it extends, and where each value was written.
//!
//! Nothing in it is secret, since a profile only names the files of its secrets. Keys that it leaves at their
//! defaults are not in it.

use std::{fmt::Write, path::Path};

use super::{
    Problem, chain,
    yaml::{SourcePosition, YamlNode, YamlValue},
};
use crate::disk::PipePolicy;

const INDENT: usize = 2;

/// The text of `file` with everything it extends. Values are as they were written: relative paths start from the folder
/// of the file that the comment names.
pub fn effective_text(file: &Path, pipes: PipePolicy) -> Result<String, Vec<Problem>> {
    let (tree, problems) = chain::read(file, pipes)?;
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut text = String::new();
    push_entries(&mut text, 0, &tree);
    Ok(text)
}

/// Adds a line for each value below a map.
fn push_entries(text: &mut String, depth: usize, map: &YamlNode) {
    let YamlValue::Map(entries) = &map.value else { return };
    for entry in entries {
        let key = format!("{:1$}{2}:", "", depth * INDENT, plain_or_quoted(&entry.key));
        if let YamlValue::Map(below) = &entry.node.value
            && !below.is_empty()
        {
            push_line(text, &key, &entry.position);
            push_entries(text, depth + 1, &entry.node);
        } else {
            push_line(text, &format!("{key} {}", flow(&entry.node)), &entry.node.position);
        }
    }
}

fn push_line(text: &mut String, line: &str, from: &SourcePosition) {
    // This cannot fail: it writes to a string.
    let _ = writeln!(text, "{line}  # {}:{}", from.source.label, from.line);
}

/// A value on one line; JSON is YAML, too.
fn flow(node: &YamlNode) -> String {
    match &node.value {
        YamlValue::Null => "null".into(),
        YamlValue::Bool(value) => value.to_string(),
        YamlValue::Integer(value) => value.to_string(),
        YamlValue::Float(value) => value.to_string(),
        YamlValue::Text(value) => plain_or_quoted(value),
        YamlValue::List(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        YamlValue::Map(entries) => {
            let entries =
                entries.iter().map(|of| format!("{}: {}", plain_or_quoted(&of.key), flow(&of.node)));
            format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
        }
    }
}

/// A word that YAML reads as text stays as it is; all else is quoted.
fn plain_or_quoted(text: &str) -> String {
    let is_word = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|ch| ch.is_ascii_alphanumeric() || matches!(ch, '_' | '-'))
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
            .contains(&text.to_lowercase().as_str());
    if is_word { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_profile_and_what_it_extends_are_one_text_that_reads_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (base, over) = (folder.path().join("base.yaml"), folder.path().join("over.yaml"));
        fs::write(
            &base,
            "mode: direct\ndrain: 5s\ndmz:\n  services:\n    a: { accept: ['tcp://:1'], connect: x }\n",
        )
        .unwrap();
        fs::write(&over, "extends: base.yaml\ndrain: null\nconfine: \"on\"\ndmz: { services: { a: { connect: \"y: #\" } } }\n")
            .unwrap();
        let text = effective_text(&over, PipePolicy::Refused).unwrap();
        let name = |file: &Path| file.display().to_string();
        let expected = format!(
            "mode: direct  # {base}:1\ndmz:  # {over}:4\n  services:  # {over}:4\n    a:  # {over}:4\n      \
             accept: [\"tcp://:1\"]  # {base}:5\n      connect: \"y: #\"  # {over}:4\nconfine: \"on\"  # {over}:3\n",
            base = name(&base),
            over = name(&over),
        );
        assert_eq!(text, expected);
        let whole = folder.path().join("whole.yaml");
        fs::write(&whole, &text).unwrap();
        let again = effective_text(&whole, PipePolicy::Refused).unwrap();
        let values = |text: &str| {
            text.lines().map(|line| line.rsplit_once("  # ").unwrap().0.to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(values(&again), values(&text));
    }
}
